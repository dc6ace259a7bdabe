/* The log: segments, appending, syncing, reading, trimming. One struct wal per directory.
 *
 * Threads. One appender at a time (the caller's rule: the engine's log leader on a primary, the receiver
 * on a follower); wal_sync, cursors, wal_trim, wal_stat and wal_prepare may run beside it and beside each
 * other. A cursor belongs to one thread at a time. An internal mutex guards the bookkeeping and is never
 * held over disk I/O of the append or sync path.
 *
 * States. Any failed fdatasync, or a write that failed other than for space, stops the log for good:
 * every later append and sync returns DW_CLOSED and names the first error; reading goes on.
 */
#ifndef DW_WAL_H
#define DW_WAL_H

#include <stdatomic.h>

#include "wal/base/bytes.h"
#include "wal/base/env.h"
#include "wal/format.h"

struct wal;
struct wal_cursor;

/* ---- blocks in memory ---------------------------------------------------------------------- */

/* Immutable once appended; shared by the tail cache, shippers and the applier. */
struct wal_block {
  atomic_uint refs;
  struct block_header h;
  uint8_t *bytes; /* h as stored + payload + padding; block_total_bytes(&h) */
  uint8_t *raw;   /* decompressed payload, or NULL if bytes + header is it (codec RAW) or not at hand */
};
struct wal_block *wal_block_ref(struct wal_block *);
void wal_block_unref(struct wal_block *); /* NULL is fine */

/* Makes an unsealed block from a raw payload (borrowed, copied). Compresses with zstd at `level` when
 * raw_bytes >= 512 and it shrinks by at least 1/16, else stores raw. h: kind, need, commit_count, wall_ns,
 * origin_id are taken from `like`; epoch, first_lsn, commit_lsn and the chain are set by wal_append. Keeps
 * a copy of raw beside compressed bytes so that the applier need not decompress. Thread-safe. */
int wal_block_create(const struct block_header *like, const void *raw, size_t raw_bytes, int level, struct wal_block **);

/* Takes one block from untrusted bytes: rules 1 and 2 of format.h (n must be exactly the block). */
int wal_block_parse(const void *bytes, size_t n, struct wal_block **);

/* The raw payload: decompressed into *scratch if need be (grown, reused; cap raw_bytes checked against the
 * limit before any allocation). *out points into the block or scratch. */
int wal_block_raw(const struct wal_block *, struct buf *scratch, const uint8_t **out, size_t *n);

/* ---- opening ------------------------------------------------------------------------------- */

struct wal_options {
  struct env *env;
  struct hash128 cluster_id;
  uint64_t node_id;
  uint64_t segment_bytes;
  uint64_t tail_cache_bytes; /* blocks kept in memory for shippers and the applier */
  struct wal_pos base;       /* where the log starts if the directory holds no segment */
  struct wal_pos must_reach; /* the store's persisted boundary: anything below is known durable */
  void (*log)(void *arg, int level, const char *line); /* dw_log_level; may be NULL */
  void *log_arg;
};

/* Which case recovery met; docs/wal-format.md has the table, log lines cite the letter. */
enum wal_recovery_case {
  WAL_REC_EMPTY = 'A',       /* no segment, and must_reach is not beyond base: started at base */
  WAL_REC_CLEAN = 'B',       /* ended at a boundary, nothing behind it */
  WAL_REC_TORN = 'C',        /* incomplete block at the end, nothing valid behind it: cut */
  WAL_REC_TORN_POWER = 'D',  /* another boot: unsynced blocks with a hole; cut from the hole */
  WAL_REC_STORE_AHEAD = 'E', /* the store holds more than the log (power cut, OS durability): restarted at must_reach */
  WAL_REC_CORRUPT = 'X'      /* refused */
};

struct wal_recovery {
  enum wal_recovery_case which;
  struct wal_pos end;      /* last boundary */
  dw_lsn max_commit_lsn;   /* highest commit_lsn in any valid block header seen */
  dw_lsn oldest_lsn;       /* first LSN held, 0 if none */
  uint64_t torn_bytes;     /* cut, reported */
  uint64_t torn_blocks;    /* whole blocks behind the hole that were cut (case D) */
  uint64_t scanned_bytes, blocks, segments;
};

/* Opens or makes the log in `dir` (whose own name in its parent the caller syncs), recovers, makes what is kept durable
 * (fdatasync) before it returns.
 * Errors: DW_CORRUPT with file, offset, LSN (nothing was changed), DW_UNSUPPORTED, DW_DIVERGED (the
 * cluster id differs, or must_reach is inside the log but its chain hash differs), DW_IO, DW_NO_SPACE. */
int wal_open(const char *dir, const struct wal_options *, struct wal_recovery *, struct wal **);

/* Syncs, writes a closing mark, frees. No appender, cursor or other user may be left. The first error. */
int wal_close(struct wal *);

/* ---- appending ----------------------------------------------------------------------------- */

/* Seals and writes n blocks made by wal_block_create, in order, at the end: one pwritev (rolling to a new
 * segment first when they do not fit; the old one is synced before). Sets each block's epoch (of the log), first_lsn,
 * commit_lsn, chain. On DW_OK they are handed to the kernel and in the tail cache. On DW_NO_SPACE and DW_NO_MEMORY
 * nothing was appended, the log goes on. On DW_CLOSED and DW_INVALID nothing was written. DW_IO stops the log: what was
 * written of the blocks may be found whole by the next open. */
int wal_append(struct wal *, struct wal_block **, size_t n, uint64_t epoch, dw_lsn commit_lsn);

/* A follower's append: blocks as parsed from the wire, written byte for byte. Checks rules 3 and 4 against
 * the end first: DW_DIVERGED, nothing written, if they do not hold. */
int wal_append_sealed(struct wal *, struct wal_block **, size_t n);

/* fdatasync up to what was written when it was called (one at a time; who comes meanwhile waits and looks again).
 * DW_IO whatever the system's error was: the log has stopped; DW_CLOSED: it had before. *durable (may be NULL) gets the durable LSN. Several
 * threads may call it; cheap when nothing is unsynced. Counts one sync when it did one. */
int wal_sync(struct wal *, dw_lsn *durable);

/* Prepares the next segment's file (zeroed) ahead of need; called by a helper thread when wal_wants_prepare.
 * DW_NO_SPACE is reported, not fatal. */
bool wal_wants_prepare(struct wal *);
int wal_prepare(struct wal *);

/* Cuts the log back to boundary `pos` (a follower's unapplied tail). The cut bytes are zeroed, whole
 * segments deleted (never recycled), synced. DW_NOT_FOUND if pos, epoch included, is not a boundary here. Cursors beyond are
 * invalid: their next read returns DW_DIVERGED. A failure before anything was cut leaves the log as it was; a later one
 * (DW_IO) stops it: the next open finds the old log, or a part of it that is not shorter than pos. */
int wal_truncate(struct wal *, const struct wal_pos *);

/* ---- positions and reading ----------------------------------------------------------------- */

struct wal_stat {
  struct wal_pos end;        /* written */
  dw_lsn durable_lsn;
  struct wal_pos oldest;     /* boundary before the first block held */
  uint64_t end_bytes;        /* logical position: bytes of blocks appended since the log's beginning in this directory */
  uint64_t log_bytes;        /* size of segment files in use */
  uint64_t segments;
  uint64_t syncs, appended_blocks, appended_commits, raw_bytes, stored_bytes; /* since open */
  bool stopped;
};
void wal_stat(struct wal *, struct wal_stat *);

/* Opens a cursor at a boundary. DW_OK; DW_NOT_FOUND: pos is before the oldest boundary held ("trimmed"); DW_DIVERGED:
 * within or beyond the log, but (lsn, chain) is not a boundary of it. pos.epoch is not compared, but where an LSN alone
 * can't tell whether it is trimmed. */
int wal_cursor_open(struct wal *, const struct wal_pos *, struct wal_cursor **);
/* Next block whose last LSN is <= limit (UINT64_MAX: no limit), verified (all rules), with a reference for the
 * caller. DW_NOT_FOUND: at the end, or the next one is beyond limit. DW_CORRUPT: file, offset, LSN. From the tail
 * cache when it is there, else from the file. */
int wal_cursor_next(struct wal_cursor *, dw_lsn limit, struct wal_block **);
struct wal_pos wal_cursor_pos(const struct wal_cursor *); /* boundary before the next block */
uint64_t wal_cursor_lag_bytes(const struct wal_cursor *); /* bytes between the cursor and the end */
bool wal_cursor_live(const struct wal_cursor *);          /* the next block is, or will be, in the tail cache */
void wal_cursor_close(struct wal_cursor *);

/* The last boundary with epoch <= `epoch` and lsn <= `lsn`. DW_NOT_FOUND if that is before the oldest. */
int wal_boundary_at_most(struct wal *, uint64_t epoch, dw_lsn lsn, struct wal_pos *);

/* ---- trimming ------------------------------------------------------------------------------ */

struct wal_segment_info {
  uint64_t seq;
  dw_lsn first_lsn, last_lsn; /* last_lsn < first_lsn: empty so far */
  uint64_t bytes;             /* file size */
  uint64_t last_append_mono_ns; /* when it was last written (since open; older ones: time of open) */
};
/* Segments in order; returns how many there are (may exceed cap). */
size_t wal_segments(struct wal *, struct wal_segment_info *, size_t cap);

/* Drops every segment, from the oldest on, whose last LSN is <= lsn, never the newest and never one that a cursor
 * stands in; keeps up to two as spares for recycling, unlinks the rest. *oldest gets the new first LSN. On error the log
 * begins with what could not be removed, and the next call tries again. */
int wal_trim(struct wal *, dw_lsn lsn, dw_lsn *oldest);

/* ---- looking at a directory from outside (wal verify, wal dump) ------------------------------ */

struct wal_inspect {
  /* Called for each valid block in order; return non-zero to stop. Any of them may be NULL. */
  int (*on_segment)(void *arg, const char *path, const struct segment_header *);
  int (*on_block)(void *arg, const char *path, uint64_t off, const struct wal_block *);
  void *arg;
  dw_lsn from; /* skip blocks that end before */
};
struct wal_inspect_report {
  uint64_t segments, blocks, commits, bytes;
  struct wal_pos first, last;
  uint64_t torn_bytes;  /* behind the last valid block, possibly being written just now */
  uint64_t leftovers;   /* segments that the first one does not join: of a trim, not looked at; the next open removes them */
  char problem[512];    /* "" if sound */
};
/* Read-only, takes no lock, safe on a directory in use (a segment trimmed under its eyes is skipped). DW_OK: sound up to last; DW_CORRUPT: problem says what and where; DW_NOT_FOUND: no log here. */
int wal_inspect(struct env *, const char *dir, const struct wal_inspect *, struct wal_inspect_report *);

#endif
