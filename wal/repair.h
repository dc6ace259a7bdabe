/* Finding damage in a log's files, and putting back what a peer still has.
 *
 *   finder     wal_find_damage (a directory), wal_check_segment (one segment of a log in use), wal_scrub_* (all old
 *              segments of a log in use, in small steps)  -->  struct wal_damage: one segment with its holes
 *   rebuilding wal_repair_start, then { wal_repair_need -> ask a peer -> wal_repair_give }*, then wal_repair_finish
 *
 *   | header | block | block | ######## | mark | block | ...        surviving frames keep their offsets,
 *                            A          B                           the hole gets the blocks that lead from A to B
 *
 * A hole is filled if and only if every block given chains from the one before it, beginning with boundary A, and what
 * survived behind the hole chains from the last one. A frame behind a hole is a candidate until then: it may
 * be bytes of a user's value, or a sector that went astray. The new file must end at a boundary that is known without it: where
 * the next segment starts, at a surviving frame, at the store's marker. It is made beside the old one, synced,
 * walked again, and takes the old one's name in one rename: a crash leaves the old file or the new one, whole.
 */
#ifndef DW_WAL_REPAIR_H
#define DW_WAL_REPAIR_H

#include "wal/wal.h"

/* ---- one damaged segment --------------------------------------------------------------------- */

struct wal_hole {
  uint64_t off, end;   /* bytes [off, end) of the file hold nothing valid; end UINT64_MAX: whatever follows */
  struct wal_pos from; /* boundary before it */
  dw_lsn last;         /* last LSN that may be missing; from.lsn: at most marks and epoch records */
};

#define WAL_HOLES_SHOWN 16u

struct wal_damage {
  char name[WAL_SEGMENT_NAME_BYTES]; /* of the file */
  struct segment_header h;           /* as it stands, or rebuilt */
  uint64_t file_bytes;
  bool header_bad, newest;
  bool end_known;     /* the blocks must lead to `end` */
  struct wal_pos end;
  uint64_t holes;
  struct wal_hole hole[WAL_HOLES_SHOWN]; /* the first ones */
  uint64_t kept_blocks;                  /* valid ones */
  char hopeless[200]; /* "" or why no peer can help */
};

/* "00...1-1.wal: offset 4096: LSN 5 to 7 ..." for people: each hole is one call. False: there is no hole number i. */
bool wal_damage_describe(const struct wal_damage *, uint64_t i, char *out, size_t cap);

/* ---- finding --------------------------------------------------------------------------------- */

struct wal_find {
  struct env *env;
  const char *dir;
  struct hash128 cluster_id; /* zero: take it from a segment's header */
  uint64_t node_id;          /* for a header that has to be rebuilt; 0: likewise */
  /* Segments that end below this LSN are looked at only as far as their headers, as recovery does. 0: all are walked. */
  dw_lsn above;
  struct wal_pos reach; /* known durable: the newest segment must lead there; LSN 0: not known */
  /* Called for each damaged segment, oldest first. Non-zero stops. */
  int (*on_damage)(void *arg, const struct wal_damage *);
  void *arg;
};
/* A directory that nobody writes to. DW_OK, whatever it found; errors are I/O and memory only, DW_UNSUPPORTED, and
 * DW_NOT_FOUND: no segment here. What recovery would call a torn tail is no damage. */
int wal_find_damage(const struct wal_find *);
/* All of it; on_damage is not used. The caller frees *list, in any case. */
int wal_list_damage(const struct wal_find *, struct wal_damage **list, size_t *n);

/* One segment of a log in use. DW_OK: sound. DW_CORRUPT: see *d. DW_NOT_FOUND: trimmed. DW_STALE: it is the newest one. */
int wal_check_segment(struct wal *, uint64_t seq, struct wal_damage *);

/* The segment in which a cursor last met damage, 0: none since wal_open or wal_forget_damage. */
uint64_t wal_met_damage(struct wal *);
void wal_forget_damage(struct wal *, uint64_t seq);
bool wal_met_damage_is_old(struct wal *); /* and it is not the newest segment: it can be repaired in use */

/* A pass over the old segments of a log in use, oldest first; those that appear meanwhile are left to the next one. */
struct wal_scrub;
int wal_scrub_open(struct wal *, struct wal_scrub **);
uint64_t wal_scrub_total(const struct wal_scrub *); /* bytes of the pass, as of its beginning */
/* Reads about `budget` bytes more, *read how many. DW_OK: there is more. DW_NOT_FOUND: the pass is through.
 * DW_CORRUPT: segment *seq is damaged; the next call goes on with the one behind it. Errors of reading: likewise. */
int wal_scrub_next(struct wal_scrub *, uint64_t budget, uint64_t *read, uint64_t *seq);
void wal_scrub_close(struct wal_scrub *);

/* ---- rebuilding ------------------------------------------------------------------------------ */

struct wal_repair;
/* Opens the damaged file and walks to its first hole. rehearse: nothing is written, finish does nothing.
 * live: the log in use that it belongs to, NULL: nobody has it open. DW_CORRUPT: hopeless, see d->hopeless. */
int wal_repair_start(struct env *, const char *dir, const struct wal_damage *, struct wal *live, bool rehearse,
                     struct wal_repair **);
/* DW_OK: blocks behind *from whose last LSN is <= *upto are missing. DW_NOT_FOUND: nothing is, finish. */
int wal_repair_need(struct wal_repair *, struct wal_pos *from, dw_lsn *upto);
/* Blocks that a peer has behind *from, in order; references stay the caller's. n == 0: it has none up to *upto.
 * Those beyond what is missing are ignored. DW_DIVERGED: they do not continue, or do not lead to what survived;
 * after that, and after any other error, only wal_repair_free is left. */
int wal_repair_give(struct wal_repair *, struct wal_block **, size_t n);
/* The new file takes the old one's place. DW_STALE: the segment went away or changed meanwhile. */
int wal_repair_finish(struct wal_repair *);
void wal_repair_counts(const struct wal_repair *, uint64_t *blocks, uint64_t *bytes); /* given and used so far */
void wal_repair_free(struct wal_repair *); /* unfinished: removes the new file; NULL is fine */

#endif
