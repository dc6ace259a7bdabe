/* The log's formats, in one place: segment header, block header, mark frame, payload grammar.
 * docs/wal-format.md has the byte tables; tests/golden holds files that tie both to this code.
 *
 * A segment file is a 4096-byte header followed by frames, each aligned to 8 bytes:
 *
 *   | segment header | mark? | block | block | mark | block | ... | zeros or stale bytes of an older use |
 *
 *   block  what one group commit appended. Its bytes are the same on every node and on the wire.
 *   mark   80 bytes, local to this file, never shipped: "everything up to LSN d was synced before these
 *          bytes were written". Marks let recovery tell a block that a power cut tore (never synced)
 *          from one that rotted (was synced, and may have been acknowledged).
 *
 * A block is valid after boundary (LSN l, epoch e, chain c) if and only if
 *   1. magic, version, header_bytes, reserved fields, kind, codec and flags are as below, and the header
 *      checksum matches;
 *   2. stored_bytes and raw_bytes are within bounds, the file holds them, the padding is zero, and the
 *      payload hash matches the stored payload;
 *   3. first_lsn = l + 1 and epoch >= e;
 *   4. chain = XXH3-128(c || header bytes 0..95). Header bytes 80..95 are the payload's hash, so the chain
 *      covers everything.
 * Rule 4 makes stale blocks of a recycled segment, and blocks of another history, invalid wherever
 * they stand.
 */
#ifndef DW_WAL_FORMAT_H
#define DW_WAL_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wal/base/hash.h"
#include "wal/base/status.h"

#define WAL_FORMAT_VERSION 1u

/* ---- limits -------------------------------------------------------------------------------- */
#define WAL_MAX_KEY_BYTES (65536u + 1u) /* with the namespace byte */
#define WAL_MAX_VALUE_BYTES 67108864u
#define WAL_MAX_COMMIT_BYTES 134217728u                      /* body of one commit */
#define WAL_MAX_RAW_BYTES (WAL_MAX_COMMIT_BYTES + 4096u)     /* raw payload of one block */
#define WAL_MAX_STORED_BYTES WAL_MAX_RAW_BYTES               /* stored raw if compression does not shrink */
#define WAL_MAX_BLOCK_BYTES (WAL_BLOCK_HEADER_BYTES + WAL_MAX_STORED_BYTES + 8u)
#define WAL_MIN_SEGMENT_BYTES 65536u

/* ---- segment header ------------------------------------------------------------------------ */
#define WAL_SEGMENT_HEADER_BYTES 4096u
#define WAL_SEGMENT_MAGIC "DWWALSEG"

struct segment_header {
  struct hash128 cluster_id;
  uint64_t epoch;            /* of the log when the segment was made */
  dw_lsn first_lsn;          /* the first block's; base + 1 if the log starts empty here */
  struct hash128 prev_chain; /* chain hash at boundary first_lsn - 1 */
  uint64_t seq;              /* 1, 2, 3... in this directory; later segment, higher number */
  uint64_t segment_bytes;    /* file size planned */
  uint64_t created_wall_ns;
  uint64_t node_id;
  uint64_t salt;             /* random; binds mark frames to this use of the file. Bit 0: the file may hold stale frames */
  uint8_t boot_id[16];       /* zero: unknown */
};
void segment_header_encode(const struct segment_header *, uint8_t out[WAL_SEGMENT_HEADER_BYTES]);
int segment_header_decode(const uint8_t in[WAL_SEGMENT_HEADER_BYTES], struct segment_header *); /* DW_CORRUPT, DW_UNSUPPORTED */

/* "%020llu-%08llx.wal": sorts by first LSN, then by seq. */
#define WAL_SEGMENT_NAME_BYTES 48
void segment_name(char out[WAL_SEGMENT_NAME_BYTES], dw_lsn first_lsn, uint64_t seq);
bool segment_name_parse(const char *name, dw_lsn *first_lsn, uint64_t *seq);

/* ---- block header -------------------------------------------------------------------------- */
#define WAL_BLOCK_HEADER_BYTES 128u
#define WAL_BLOCK_MAGIC 0x4b425744u /* "DWBK" */

enum block_codec { BLOCK_RAW = 0, BLOCK_ZSTD = 1 };
enum block_kind {
  BLOCK_COMMITS = 0, /* payload: commit_count commits */
  BLOCK_EPOCH = 1    /* commit_count 0, payload: one struct epoch_record; first_lsn is the next commit's LSN */
};

/* What the commits of a block ask for: equal for all commits of a block, so a block commits as a whole.
 * Kept in the header so that a restart knows what a pending tail still waits for. Values as the public
 * dw_mode, dw_ack, dw_durability; never *_DEFAULT. */
struct block_need {
  uint8_t mode, ack, durability;
  bool from_default; /* it was the engine's setting, not the write's own: a reopened engine's settings replace it */
  uint16_t acks;
};

struct block_header {
  uint32_t flags; /* 0; bit 0 reserved: encrypted */
  uint8_t codec, kind;
  struct block_need need;
  uint64_t epoch;
  dw_lsn first_lsn;
  uint32_t commit_count;
  dw_lsn commit_lsn; /* commit_lsn known to the writer when it wrote the block */
  uint64_t wall_ns;  /* commit time, for people */
  uint32_t stored_bytes, raw_bytes;
  uint64_t origin_id; /* node that made the block */
  struct hash128 payload_hash;
  struct hash128 chain;
};

static inline dw_lsn block_last_lsn(const struct block_header *h) { return h->first_lsn + h->commit_count - 1; }
/* Header, payload, padding to 8. */
static inline size_t block_total_bytes(const struct block_header *h) {
  return WAL_BLOCK_HEADER_BYTES + (((size_t)h->stored_bytes + 7) & ~(size_t)7);
}

/* Encodes everything; computes the chain from `prev` and the header checksum. h->payload_hash must be set;
 * h->chain is written. */
void block_header_seal(struct block_header *h, const struct hash128 *prev, uint8_t out[WAL_BLOCK_HEADER_BYTES]);
/* Rule 1 and the bounds of rule 2. DW_CORRUPT or DW_UNSUPPORTED (newer version, unknown flag, kind or codec
 * under a valid checksum). */
int block_header_decode(const uint8_t in[WAL_BLOCK_HEADER_BYTES], struct block_header *);
/* Rule 2: `block` holds block_total_bytes(h). */
int block_payload_check(const struct block_header *h, const uint8_t *block);
/* Rule 4. */
bool block_chain_ok(const uint8_t header[WAL_BLOCK_HEADER_BYTES], const struct hash128 *prev);

/* A place between two blocks: histories with equal (lsn, chain) are equal up to there. */
struct wal_pos {
  dw_lsn lsn; /* last LSN before the boundary; 0 at the beginning */
  uint64_t epoch;
  struct hash128 chain;
};
/* Order within one history. An epoch record uses no LSN, so the boundaries around it differ by their epoch only. */
static inline bool wal_pos_before(const struct wal_pos *a, const struct wal_pos *b) {
  return a->lsn < b->lsn || (a->lsn == b->lsn && a->epoch < b->epoch);
}
/* The chain hash at LSN 0 of a cluster: XXH3-128("dabbawal genesis 1" || cluster id). */
struct wal_pos wal_genesis(const struct hash128 *cluster_id);

/* ---- mark frame ---------------------------------------------------------------------------- */
#define WAL_MARK_BYTES 80u
#define WAL_MARK_MAGIC 0x4b4d5744u /* "DWMK" */
struct mark_frame {
  dw_lsn durable_lsn;   /* synced before this frame was written */
  uint64_t salt;        /* the segment's */
  dw_lsn lsn;           /* boundary at which the frame stands */
  struct hash128 chain; /* likewise */
  uint8_t boot_id[16];  /* of the boot that wrote it; zero: unknown */
  uint64_t wall_ns;
};
void mark_encode(const struct mark_frame *, uint8_t out[WAL_MARK_BYTES]);
bool mark_decode(const uint8_t in[WAL_MARK_BYTES], struct mark_frame *); /* false: not a mark */

/* ---- payload grammar ----------------------------------------------------------------------- *
 * Ours, so that a log outlives any change of the store. All varints shortest form.
 *   payload := commit{commit_count}                         (kind COMMITS)
 *   commit  := flags:u8 (0) op_count:varint body_bytes:varint body
 *   body    := op{op_count}                                  op_count >= 1
 *   op      := 0x01 klen:varint key vlen:varint value        put
 *            | 0x00 klen:varint key                          delete
 *   key     := namespace:u8 bytes                            0x01 user (1 B to 64 KiB follow), others reserved
 */
enum { OP_DELETE = 0, OP_PUT = 1 };
enum { NS_SYSTEM = 0, NS_USER = 1 };

struct wal_op {
  uint8_t type;
  const uint8_t *key; /* with the namespace byte */
  uint32_t klen;
  const uint8_t *val;
  uint32_t vlen;
};
struct wal_commit {
  uint32_t op_count;
  const uint8_t *body;
  uint32_t body_bytes;
};

/* Readers. They point into the input, check every bound and return DW_OK, DW_NOT_FOUND at the end, or
 * DW_CORRUPT. `*off` moves on DW_OK. */
int payload_next_commit(const uint8_t *payload, size_t n, size_t *off, struct wal_commit *);
int body_next_op(const uint8_t *body, size_t n, size_t *off, struct wal_op *);
/* Walks everything: exactly commit_count commits, exactly op_count ops each, user namespace, sizes. Adds up
 * the operations. Nothing that fails this ever reaches the store. */
int payload_validate(const uint8_t *payload, size_t n, uint32_t commit_count, uint64_t *ops);

/* ---- epoch record -------------------------------------------------------------------------- */
enum epoch_reason { EPOCH_CREATED = 1, EPOCH_OPENED = 2, EPOCH_PROMOTED = 3 };
struct epoch_record {
  uint64_t epoch;
  uint64_t node_id;
  uint64_t wall_ns;
  uint32_t reason;
  struct wal_pos start; /* the boundary that the epoch starts from */
};
#define WAL_EPOCH_RECORD_BYTES 80u
void epoch_record_encode(const struct epoch_record *, uint8_t out[WAL_EPOCH_RECORD_BYTES]);
int epoch_record_decode(const uint8_t *in, size_t n, struct epoch_record *);

#endif
