/* The wire: frames and messages. docs/protocol.md has the byte tables; this file has the C view of them.
 *
 * A connection carries frames in both directions: a 48-byte header and a body. A frame is valid if and only if
 *   1. magic, flags (0) and the header checksum are right;
 *   2. its type is one that the reader accepts now (frame_reader_accept) and body_len is within that type's bounds;
 *   3. its version is 0 for HELLO, WELCOME, REFUSE, HEARTBEAT, FETCH, FETCHED, FENCE and FENCED, else the version that WELCOME chose;
 *   4. the body checksum matches. In the three bulk types it covers the fixed prefix only, because the bulk verifies
 *      itself: blocks by their own header checksum, payload hash and chain (checksummed once, at the primary),
 *      checkpoint chunks by the hash in their prefix;
 *   5. the body decodes: exact lengths, reserved bytes zero, enums known.
 * Anything else ends the connection with a message that names what is wrong: on a stream there is no way to find
 * the next frame again, and nobody who sends one wrong byte can be trusted with the next.
 *
 * Everything here is pure. Decoded messages own nothing: pointers in them point into the frame's body.
 */
#ifndef DW_REPLICATION_MESSAGE_H
#define DW_REPLICATION_MESSAGE_H

#include "engine/dabbawal.h"
#include "wal/base/bytes.h"
#include "wal/base/hash.h"
#include "wal/format.h"
#include "wal/pack.h"

#define MSG_MAGIC 0x314d5744u /* "DWM1" */
#define MSG_HEADER_BYTES 48u
#define MSG_VERSION_MIN 1u /* protocol versions that this code speaks */
#define MSG_VERSION_MAX 2u
#define MSG_VERSION_PACKED 2u /* from here on PACKED is understood */

#define MSG_REGION_BYTES 32u         /* NUL-padded */
#define MSG_TEXT_BYTES 480u          /* of a REFUSE */
#define MSG_BLOCKS_PREFIX_BYTES 16u  /* commit_lsn, block count, reserved */
#define MSG_PACKED_PREFIX_BYTES 32u  /* commit_lsn, block count, plain bytes, chain hash */
#define MSG_BLOCKS_BATCH_BYTES 262144u /* blocks are batched up to this; a bigger block travels alone */
#define MSG_CHUNK_PREFIX_BYTES 40u   /* file, bytes, offset, hash, reserved */
#define MSG_CHUNK_BYTES 262144u      /* at most, of one CKPT_CHUNK */
#define MSG_MANIFEST_BYTES 4194304u  /* body of a CKPT_MANIFEST at most */
#define MSG_MAX_HEARTBEAT_MS 60000u
#define MSG_FETCHED_PREFIX_BYTES 48u /* version, count, id, cluster, reserved */
#define MSG_FETCH_BYTES 1048576u     /* of blocks in one FETCHED; a bigger block travels alone */
#define MSG_ADDRESS_BYTES 64u        /* NUL-padded */
#define MSG_HELLO_BYTES 200u         /* without what later versions appended */

enum msg_type {
  MSG_HELLO = 1,          /* f->p: who I am, where my log ends */
  MSG_WELCOME = 2,        /* p->f: who I am, what follows */
  MSG_REFUSE = 3,         /* both: code and text; the sender closes after it */
  MSG_BLOCKS = 4,         /* p->f: whole blocks, byte for byte as on disk */
  MSG_COMMIT = 5,         /* p->f: commit_lsn rose */
  MSG_ACK = 6,            /* f->p: three marks, cumulative, repeated with every heartbeat */
  MSG_PROBE = 7,          /* f->p: staleness probe with the follower's own monotonic time */
  MSG_PROBE_ANSWER = 8,   /* p->f */
  MSG_HEARTBEAT = 9,      /* both */
  MSG_CKPT_MANIFEST = 10, /* p->f: what the checkpoint consists of */
  MSG_CKPT_WANT = 11,     /* f->p: how much of each file is held already */
  MSG_CKPT_CHUNK = 12,    /* p->f */
  MSG_CKPT_FILE_END = 13, /* p->f: hash of the whole file */
  MSG_CKPT_DONE = 14,     /* p->f: all files sent */
  MSG_CKPT_ACK = 15,      /* f->p: bytes taken, opens the window */
  MSG_CKPT_INSTALLED = 16, /* f->p: switched over; HELLO follows */
  MSG_FETCH = 17,          /* asker -> any node, instead of HELLO: blocks to repair a log with */
  MSG_FETCHED = 18,        /* back: whole blocks, byte for byte as on disk */
  MSG_PACKED = 19,         /* p->f, from version 2 on: small blocks in few bytes, wal/pack.h */
  MSG_FENCE = 20,          /* candidate -> any node, instead of HELLO: what do you have, promise me an epoch, it has begun */
  MSG_FENCED = 21,         /* back */
  MSG_MEMBERS = 22,        /* p->f: who is in the cluster, and where clients find whom */
  MSG_TYPES = 23
};
#define MSG_BIT(type) (1u << (type))
const char *msg_name(unsigned type); /* "HELLO"; "type 99" is the caller's to print: NULL */

/* ---- frames -------------------------------------------------------------------------------- */

struct frame_header {
  uint16_t version, type;
  uint32_t body_len;
  uint64_t epoch;  /* of the sender's log */
  uint64_t sender; /* node id */
  uint64_t body_hash;
};

struct frame {
  struct frame_header h;
  const uint8_t *body; /* into the reader; valid until its next call */
};

/* Cuts a stream of bytes into verified frames. Memory grows only as bytes arrive, never because a length field says
 * so. After an error every call repeats it. */
struct frame_reader {
  struct buf in;
  size_t off; /* start of the next frame in `in` */
  uint32_t accept;
  uint16_t version;  /* negotiated; 0: not yet */
  bool have_header;  /* h is verified, its body is still coming */
  struct frame_header h;
  int failed; /* DW_* once broken */
  char error[256];
};
void frame_reader_init(struct frame_reader *, uint32_t accept); /* accept: MSG_BIT()s or'ed */
void frame_reader_free(struct frame_reader *);
void frame_reader_accept(struct frame_reader *, uint32_t accept);
/* Takes a copy. DW_NO_MEMORY. */
int frame_reader_feed(struct frame_reader *, const void *, size_t n);
/* DW_OK: *out is the next frame. DW_NOT_FOUND: more bytes are needed. DW_CORRUPT, DW_UNSUPPORTED: broken for good. */
int frame_reader_next(struct frame_reader *, struct frame *out);
size_t frame_reader_buffered(const struct frame_reader *);

/* Body bounds of a type (rule 2). False: unknown type. */
bool msg_bounds(unsigned type, uint32_t *min, uint32_t *max);
/* How much of a body the body checksum covers (rule 4). */
size_t msg_hashed_bytes(unsigned type, size_t body_len);
int frame_header_decode(const uint8_t in[MSG_HEADER_BYTES], struct frame_header *); /* rule 1 */
void frame_header_encode(const struct frame_header *, uint8_t out[MSG_HEADER_BYTES]);

/* ---- messages ------------------------------------------------------------------------------ */

/* What a node says of itself. Addresses are "host:port" of plain characters, or "": they go into replies to clients. A host
 * that is "", * or a wildcard means the host that the node was seen from. */
#define MSG_MEMBER_BYTES 176u
struct msg_member {
  uint64_t node_id;
  uint8_t role;                   /* dw_role */
  uint32_t priority;              /* 0: never to be promoted */
  char client[MSG_ADDRESS_BYTES]; /* where clients connect */
  char listen[MSG_ADDRESS_BYTES]; /* where nodes connect */
  char region[MSG_REGION_BYTES];
};

#define MSG_MEMBERS_MAX 65u /* a primary and 64 followers */
struct msg_members {
  uint32_t count; /* 1 at least in a message */
  struct msg_member member[MSG_MEMBERS_MAX]; /* node ids differ, at most one is a primary */
};

struct msg_hello {
  uint16_t version_min, version_max;
  uint8_t role;              /* dw_role: a primary is refused */
  uint32_t heartbeat_ms;     /* the sender's: the other side waits at least three of them */
  struct hash128 cluster_id; /* zero: none yet, new directory */
  uint64_t node_id;
  struct hash128 incarnation;
  struct wal_pos tail;    /* end of its log */
  struct wal_pos applied; /* what its reads see: never to be taken back */
  struct wal_pos at;      /* boundary that it asks about: its tail, or an older one while looking for the common one */
  struct hash128 resume;  /* checkpoint whose transfer broke; zero: none */
  char region[MSG_REGION_BYTES]; /* terminated */
  bool has_member;               /* appended later: who says it takes MEMBERS, too */
  struct msg_member member;      /* of the sender */
  bool rejoin; /* what it has applied beyond our history may be replaced: BOOTSTRAP instead of a refusal */
  bool hashes; /* it has files of its own to compare: hash those of a checkpoint for the manifest */
};

enum msg_follows { FOLLOWS_STREAM = 1, FOLLOWS_TRUNCATE = 2, FOLLOWS_BOOTSTRAP = 3 };
struct msg_welcome {
  uint16_t version; /* chosen */
  uint8_t follows;
  uint8_t role; /* dw_role of the sender: DW_FOLLOWER when cascading */
  uint32_t heartbeat_ms;
  struct hash128 cluster_id;
  uint64_t node_id;
  struct hash128 incarnation;
  uint64_t epoch;
  dw_lsn commit_lsn, tail_lsn;
  struct wal_pos pos; /* STREAM: the boundary the blocks start from; TRUNCATE: cut back to it; BOOTSTRAP: zero,
                         or where its history leaves ours: to be kept first */
};

struct msg_refuse {
  uint16_t code;  /* DW_* */
  dw_lsn lsn;     /* since which LSN, 0: does not apply. DW_FENCED: the node that the frame's epoch was promised to */
  char text[MSG_TEXT_BYTES + 1];
};

struct msg_blocks {
  dw_lsn commit_lsn;
  uint32_t count;
  const uint8_t *blocks; /* `count` whole blocks, back to back */
  size_t bytes;
};
/* The bytes of the next block: header checked (block_header_decode), length within what is left. Call `count` times;
 * *off must then equal bytes. DW_CORRUPT. */
int msg_blocks_next(const struct msg_blocks *, size_t *off, const uint8_t **block, size_t *n);

struct msg_packed {
  dw_lsn commit_lsn;
  uint32_t count, plain; /* blocks, bytes of their records */
  struct hash128 chain;  /* behind the last of them */
  const uint8_t *pack;
  size_t bytes;
};

struct msg_ack {
  dw_lsn received, durable, applied;
  uint64_t staleness_ms; /* UINT64_MAX: unknown */
};

/* A question for blocks: those behind `from`, in order, as far as their last LSN is at most `upto`. */
struct msg_fetch {
  uint16_t version_min, version_max;
  uint32_t max_bytes; /* of blocks in the answer; one block comes in any case */
  struct hash128 cluster_id;
  uint64_t node_id; /* the asker's */
  uint64_t id;      /* rising; the answer carries it */
  struct wal_pos from;
  dw_lsn upto;
};
struct msg_fetched {
  uint16_t version;
  uint32_t count; /* 0: nothing follows `from` up to `upto` */
  uint64_t id;
  struct hash128 cluster_id;
  const uint8_t *blocks; /* as in msg_blocks, to be walked as one */
  size_t bytes;
};

/* A candidate's question, see promotion.h. */
enum fence_what {
  FENCE_ASK = 0,     /* only what the node has: nothing changes there */
  FENCE_PROMISE = 1, /* promise to follow and acknowledge nothing below `epoch` */
  FENCE_BEGUN = 2,   /* `epoch` has begun here: follow `address` */
  FENCE_PAUSE = 3    /* a primary: log nothing for FENCE_PAUSE_MS, so that I can catch up with you */
};
#define FENCE_PAUSE_MS 1000u /* then writes go on by themselves, unless it is asked for again or fenced */
struct msg_fence {
  uint16_t version_min, version_max;
  uint8_t what; /* enum fence_what */
  bool force;   /* FENCE_PROMISE: also if you have more than I */
  struct hash128 cluster_id;
  uint64_t node_id;
  uint64_t id;    /* rising; the answer carries it */
  uint64_t epoch; /* 0 in FENCE_ASK and FENCE_PAUSE */
  char address[MSG_ADDRESS_BYTES]; /* where the candidate listens; terminated. Host "" or a wildcard: where it comes from */
  struct wal_pos durable; /* end of the candidate's log */
};
enum fence_verdict { FENCE_TOLD = 0, FENCE_PROMISED = 1, FENCE_REFUSED = 2 };
struct msg_fenced {
  uint16_t version;
  uint8_t verdict; /* enum fence_verdict */
  uint8_t role;    /* dw_role */
  bool fenced;     /* a primary that acknowledges nothing any more */
  bool writing;    /* a primary that is just appending to its log: `durable` will move */
  bool has_data;   /* false: it has no log yet, and its word is worth nothing */
  uint32_t priority;
  struct hash128 cluster_id;
  uint64_t node_id;
  struct hash128 incarnation;
  uint64_t id;
  uint64_t promised_epoch, promised_node; /* 0: none */
  struct wal_pos durable; /* end of what it has made durable, read after the promise took effect */
  dw_lsn commit_lsn, applied_lsn;
  uint64_t staleness_ms; /* UINT64_MAX: unknown */
  char primary[MSG_ADDRESS_BYTES]; /* whom it follows, or "" */
  char text[MSG_TEXT_BYTES + 1];   /* why it refused */
};

#define MSG_MAX_HOPS 8u /* a probe relayed more often runs in a circle of followers */
struct msg_probe {
  uint64_t id, mono_ns;
  uint8_t hops;
};
struct msg_probe_answer {
  uint64_t id, mono_ns; /* echoed */
  dw_lsn commit_lsn;    /* of the primary itself, read after the probe arrived */
};

struct msg_heartbeat {
  dw_lsn commit_lsn, tail_lsn;
};

struct msg_ckpt_want {
  struct hash128 id;
  uint32_t count;
  const uint8_t *offsets; /* count u64s: msg_want_offset() */
};
#define CKPT_HELD UINT64_MAX /* the whole file, verified: send nothing of it */
static inline uint64_t msg_want_offset(const struct msg_ckpt_want *w, uint32_t file) {
  return get_u64(w->offsets + 8 * (size_t)file);
}

struct msg_ckpt_chunk {
  uint32_t file;
  uint64_t offset;
  const uint8_t *data; /* verified */
  uint32_t bytes;
};
struct msg_ckpt_file_end {
  uint32_t file;
  struct hash128 hash; /* XXH3-128 of the whole file */
};
struct msg_ckpt_ack {
  uint64_t bytes; /* chunk bytes taken since CKPT_WANT, cumulative */
};

/* message_members.c: one entry. Decoding empties an address that is none. */
void msg_member_encode(const struct msg_member *, uint8_t out[MSG_MEMBER_BYTES]);
int msg_member_decode(const uint8_t in[MSG_MEMBER_BYTES], struct msg_member *);

/* Who sends: goes into every header. */
struct msg_sender {
  uint16_t version; /* negotiated; the types that may travel before WELCOME carry 0 whatever it is */
  uint64_t epoch, node_id;
};

/* Each appends one whole frame. DW_NO_MEMORY leaves the buffer unchanged. (CKPT_MANIFEST: checkpoint_manifest.h.) */
int msg_put_hello(struct buf *, const struct msg_sender *, const struct msg_hello *);
int msg_put_welcome(struct buf *, const struct msg_sender *, const struct msg_welcome *);
int msg_put_refuse(struct buf *, const struct msg_sender *, const struct msg_refuse *); /* text cut to MSG_TEXT_BYTES */
int msg_put_commit(struct buf *, const struct msg_sender *, dw_lsn commit_lsn);
int msg_put_ack(struct buf *, const struct msg_sender *, const struct msg_ack *);
int msg_put_probe(struct buf *, const struct msg_sender *, const struct msg_probe *);
int msg_put_probe_answer(struct buf *, const struct msg_sender *, const struct msg_probe_answer *);
int msg_put_heartbeat(struct buf *, const struct msg_sender *, const struct msg_heartbeat *);
int msg_put_ckpt_want(struct buf *, const struct msg_sender *, const struct hash128 *id, const uint64_t *offsets, uint32_t count);
int msg_put_ckpt_file_end(struct buf *, const struct msg_sender *, const struct msg_ckpt_file_end *);
int msg_put_ckpt_done(struct buf *, const struct msg_sender *, const struct hash128 *id);
int msg_put_ckpt_ack(struct buf *, const struct msg_sender *, const struct msg_ckpt_ack *);
int msg_put_ckpt_installed(struct buf *, const struct msg_sender *, const struct hash128 *id);
int msg_put_fetch(struct buf *, const struct msg_sender *, const struct msg_fetch *);
int msg_put_members(struct buf *, const struct msg_sender *, const struct msg_members *);
int msg_put_fence(struct buf *, const struct msg_sender *, const struct msg_fence *);
int msg_put_fenced(struct buf *, const struct msg_sender *, const struct msg_fenced *); /* text cut to MSG_TEXT_BYTES */
/* A frame with the given body; for the manifest and for tests. */
int msg_put(struct buf *, const struct msg_sender *, unsigned type, const void *body, size_t n);
/* Header and prefix only; the caller sends the bulk behind them. */
void msg_blocks_head(const struct msg_sender *, dw_lsn commit_lsn, uint32_t count, size_t block_bytes,
                     uint8_t out[MSG_HEADER_BYTES + MSG_BLOCKS_PREFIX_BYTES]);
/* Behind a gap of MSG_PACKED_PREFIX_BYTES + MSG_HEADER_BYTES at its beginning the buffer holds the pack: fills the gap. */
void msg_packed_head(const struct msg_sender *, const struct msg_packed *, struct buf *);
void msg_fetched_head(const struct msg_sender *, const struct msg_fetched *, size_t block_bytes,
                      uint8_t out[MSG_HEADER_BYTES + MSG_FETCHED_PREFIX_BYTES]);
void msg_chunk_head(const struct msg_sender *, uint32_t file, uint64_t offset, const void *data, uint32_t bytes,
                    uint8_t out[MSG_HEADER_BYTES + MSG_CHUNK_PREFIX_BYTES]);

/* Decoders check rule 5. DW_CORRUPT (DW_UNSUPPORTED where a newer peer is the likelier cause) with a message. */
int msg_get_hello(const struct frame *, struct msg_hello *);
int msg_get_welcome(const struct frame *, struct msg_welcome *);
int msg_get_refuse(const struct frame *, struct msg_refuse *);
int msg_get_blocks(const struct frame *, struct msg_blocks *);
int msg_get_packed(const struct frame *, struct msg_packed *);
int msg_get_fetch(const struct frame *, struct msg_fetch *);
int msg_get_fetched(const struct frame *, struct msg_fetched *);
int msg_get_members(const struct frame *, struct msg_members *);
int msg_get_fence(const struct frame *, struct msg_fence *);
int msg_get_fenced(const struct frame *, struct msg_fenced *);
int msg_get_commit(const struct frame *, dw_lsn *commit_lsn);
int msg_get_ack(const struct frame *, struct msg_ack *);
int msg_get_probe(const struct frame *, struct msg_probe *);
int msg_get_probe_answer(const struct frame *, struct msg_probe_answer *);
int msg_get_heartbeat(const struct frame *, struct msg_heartbeat *);
int msg_get_ckpt_want(const struct frame *, struct msg_ckpt_want *);
int msg_get_ckpt_chunk(const struct frame *, struct msg_ckpt_chunk *);
int msg_get_ckpt_file_end(const struct frame *, struct msg_ckpt_file_end *);
int msg_get_ckpt_ack(const struct frame *, struct msg_ckpt_ack *);
int msg_get_id(const struct frame *, struct hash128 *id); /* CKPT_DONE, CKPT_INSTALLED */

#endif
