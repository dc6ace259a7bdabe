/* The inside of struct wal, shared by the files of wal/ only.
 *
 *   scan.c      walks the frames of one segment file and verifies them: the one reader of the format
 *   segment.c   makes segment files, keeps spares
 *   wal.c       append, sync, close
 *   recovery.c  what is kept at open, and why
 *   cursor.c    readers' positions; finding boundaries
 *   trim.c      trimming, truncating, preparing
 *   inspect.c   looking at a directory from outside
 *   damage.c    finding holes in segments
 *   repair.c    rebuilding a segment from what stands and what a peer gives
 *   scrub.c     the same in a log in use
 */
#ifndef DW_WAL_INTERNALS_H
#define DW_WAL_INTERNALS_H

#include <pthread.h>

#include "wal/repair.h"
#include "wal/wal.h"

/* ---- scanning -------------------------------------------------------------------------------- */

enum frame_kind {
  FRAME_BLOCK, /* valid by all four rules of format.h */
  FRAME_MARK,
  FRAME_NONE /* nothing valid stands here: the end, or a hole */
};

/* A walk over one segment file. Set env, file, path, off, limit, pos, salt; then call frame_next. */
struct frame_scan {
  struct env *env;
  struct env_file *file;
  const char *path;
  uint64_t off;       /* of the next frame */
  uint64_t limit;     /* nothing is read at or beyond it */
  bool lenient;       /* what the disk can't read counts as zeros: for those who look for damage */
  struct wal_pos pos; /* boundary before the next frame */
  uint64_t salt;      /* marks must carry it */
  struct buf window;
  uint64_t window_off;
  /* the frame last returned */
  uint64_t frame_off;
  struct block_header h;
  const uint8_t *bytes; /* FRAME_BLOCK: the whole block, valid until the next call */
  struct mark_frame mark;
};
/* Moves over one frame. Errors are I/O, memory, and DW_UNSUPPORTED: a newer version wrote here. What is wrong with bytes at
 * FRAME_NONE is in the message. */
int frame_next(struct frame_scan *, enum frame_kind *);
/* Bytes [s->off + at, +n) in the window; NULL beyond limit (rc DW_OK) or on error. */
const uint8_t *frame_peek(struct frame_scan *, size_t at, size_t n, int *rc);
void frame_scan_free(struct frame_scan *);

/* ---- segments -------------------------------------------------------------------------------- */

/* A place to start looking from, kept about every INDEX_STEP bytes. */
#define INDEX_STEP 65536u
struct index_entry {
  uint64_t off;
  struct wal_pos pos;
};

struct segment {
  struct segment_header h;
  char *path;
  uint64_t file_bytes;
  uint64_t end;           /* offset behind the last frame; mu */
  bool end_known;         /* false: an old segment that nobody has walked yet; it ends where the next one begins */
  struct wal_pos end_pos; /* boundary there; mu */
  uint64_t synced;        /* offset up to which fdatasync has returned; mu */
  dw_lsn marked;          /* durable LSN of the last mark frame in this file; the appender's */
  uint64_t base_bytes;    /* logical bytes before it */
  uint64_t last_append_ns;
  unsigned cursors;       /* standing in it; mu */
  unsigned repairs;       /* how often it was rebuilt: frames may stand elsewhere; mu */
  struct index_entry *index;
  size_t index_count, index_cap;
  struct env_file *file; /* open for appending; the newest segment's only */
  unsigned file_users;   /* threads in fdatasync on it; mu. The last one closes a file that has been rolled away */
  bool syncing;          /* one of them is at work, the others wait for it; mu */
  bool rolled;
  struct segment *next_cut; /* list of wal.cut */
};

struct tail_entry {
  uint64_t seq, off;
  struct wal_block *block;
};

#define SPARES_MAX 2u
#define ZERO_CHUNK (1u << 20)

struct wal {
  struct wal_options opt;
  struct env *env;
  char *dir;
  pthread_mutex_t mu;
  struct segment **segments; /* oldest first; mu */
  size_t count, cap;
  struct segment *newest; /* == the last of segments; moved by the appender only, so it reads this without mu */
  struct segment *cut; /* dropped by a truncation while cursors stood in them; freed with the log; mu */
  dw_lsn durable_lsn; /* mu */
  struct tail_entry *tail; /* ring; mu */
  size_t tail_head, tail_count, tail_cap, tail_bytes;
  pthread_cond_t synced_cond; /* a segment's `syncing` fell */
  char *spares[SPARES_MAX]; /* paths of files of opt.segment_bytes; mu */
  bool spare_zeroed[SPARES_MAX]; /* nothing stale in it, as far as this process knows; mu */
  unsigned spare_count;
  uint64_t next_spare;
  uint64_t truncations; /* cursors drop what they have read ahead; mu */
  struct cut {
    uint64_t seq, off;
  } *cuts; /* where each truncation cut, so that a cursor learns of those since it last looked; mu */
  uint64_t rebuilt;     /* segments that were repaired: cursors do the same; mu */
  uint64_t met_damage;  /* number of the segment in which a cursor met damage, 0: none; mu */
  int stop_rc;          /* mu */
  char stop_why[300];
  uint8_t boot_id[16];
  uint64_t syncs, appended_blocks, appended_commits, raw_bytes, stored_bytes; /* mu */
};

/* mu held; the appender uses `newest`. */
static inline struct segment *last_segment(const struct wal *w) { return w->segments[w->count - 1]; }

/* Boundary before a segment's first block. */
static inline struct wal_pos segment_start(const struct segment_header *h) {
  return (struct wal_pos){h->first_lsn - 1, h->epoch, h->prev_chain};
}

/* Levels of the log callback, as the public dw_log_level. */
enum { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };
void wal_say(struct wal *, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Remembers the first error; returns rc. Takes mu. */
int wal_stop(struct wal *, int rc);
int wal_check_running(struct wal *); /* DW_CLOSED with the first error, once it has stopped. Takes mu */

struct segment *segment_alloc(const char *dir, const struct segment_header *); /* NULL: no memory */
void segment_free(struct wal *, struct segment *);
int segment_index_add(struct segment *, uint64_t off, const struct wal_pos *);
/* Makes the file of the next segment, at boundary pos, with room for `need` bytes of frames; open for appending.
 * On error nothing is left behind. */
int segment_create(struct wal *, const struct wal_pos *pos, uint64_t seq, size_t need, struct segment **);
int segment_push(struct wal *, struct segment *); /* mu held or alone */
int zero_range(struct env *, struct env_file *, uint64_t from, uint64_t to);
/* A segment's salt says in its lowest bit whether the file may hold stale frames behind the end. */
static inline bool segment_recycled(uint64_t salt) { return salt & 1; }

/* What stands behind the place P where a walk of the newest segment ended, with block E due. */
struct behind {
  uint64_t torn_bytes;     /* of block E's remains at P */
  uint64_t valid_blocks;   /* that seem to have followed E */
  bool valid_marks;        /* written after E */
  dw_lsn known_durable;    /* by those marks */
  uint64_t last_valid_end; /* offset behind the last of all these */
  bool follows;            /* frames that were written after E are there */
};
int look_behind(struct frame_scan *, struct behind *); /* leaves the scan where it was */

/* Names of files in the directory that are not segments but ours. */
bool spare_name_parse(const char *name, uint64_t *n);

/* tail cache, mu held */
void tail_push(struct wal *, uint64_t seq, uint64_t off, struct wal_block *);
/* The block that follows boundary pos, if it is here at or behind (seq, off); borrowed until mu is released. */
const struct tail_entry *tail_find(struct wal *, uint64_t seq, uint64_t off, const struct wal_pos *pos);
void tail_drop_from(struct wal *, uint64_t seq, uint64_t off);
void tail_drop_before(struct wal *, uint64_t seq);
void tail_free(struct wal *);

/* block.c: the block that `like` describes (but for its hashes), sealed behind chain hash `prev`: of untrusted fields, so its
 * header is judged as one from a disk. stored: like->stored_bytes, at most a pack's. */
int wal_block_rebuild(const struct block_header *like, const struct hash128 *prev, const void *stored, struct wal_block **out);

/* cursor.c: where a cursor stands. mu held, or no appender and no trimming about. */
void cursor_place(const struct wal_cursor *, struct segment **, uint64_t *off);

struct segment *segment_by_seq(const struct wal *, uint64_t seq); /* NULL: not here; mu held */

/* damage.c */
struct survivor { /* something of ours behind a hole, written after it */
  bool found, mark;
  uint64_t off, bytes;
  dw_lsn upto;        /* what is missing before it ends here */
  struct wal_pos pos; /* boundary behind it (block) or at it (mark); the mark does not know the epoch */
};
/* Looks from `at` >= s->off on; s stands at the hole and does not move. */
int survivor_find(struct frame_scan *s, uint64_t at, const struct wal_damage *, struct survivor *);
/* The first one behind the place where s stands without a valid frame; in the newest segment only if recovery, too, would
 * say that something follows. */
int hole_survivor(struct frame_scan *s, const struct wal_damage *, struct survivor *);
/* From s on to the end; adds holes to d. s->pos ends up at the last boundary met. */
int damage_walk(struct frame_scan *s, struct wal_damage *d);

/* repair.c: the file that a segment is rebuilt in. */
#define WAL_REPAIR_TMP "repair.tmp"

/* scrub.c: puts the rebuilt file `tmp` in place of the segment. end: offset behind its last frame. */
int segment_replace(struct wal *, const struct wal_damage *, uint64_t truncations, const char *tmp, uint64_t end);

/* recovery.c */
int wal_recover(struct wal *, struct wal_recovery *);

/* Writes a mark frame at the end and counts it in. The appender's. */
int wal_write_mark(struct wal *);

#endif
