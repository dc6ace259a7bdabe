/* Cursors: a place in the log and the way onward.
 *
 * A cursor stands at a boundary. Its next block comes from the tail cache if it is there, else from the segment
 * file, verified by all rules. It keeps its segment from being trimmed, follows into the next segment by itself, and
 * reads nothing beyond the written end. After a truncation a cursor that stood beyond the cut says so (DW_DIVERGED).
 */
#include <assert.h>
#include <stdlib.h>

#include "wal/internal.h"

struct wal_cursor {
  struct wal *w;
  struct segment *seg; /* its `cursors` counts us */
  struct frame_scan scan;
  uint64_t truncations; /* as of the last look */
  uint64_t rebuilt;     /* likewise */
  unsigned repairs;     /* of seg, likewise */
  bool seeking;         /* seg was rebuilt under us: walks from its beginning to where it stood */
  struct wal_pos seek;  /* there */
};

/* mu held. */
static void enter(struct wal_cursor *c, struct segment *s, uint64_t off, const struct wal_pos *pos) {
  if (c->seg != s) {
    if (c->seg) c->seg->cursors--;
    s->cursors++;
    c->seg = s;
    c->repairs = s->repairs;
    if (c->scan.file) c->w->env->ops->close(c->scan.file);
    c->scan.file = NULL;
    c->scan.window.len = 0;
  }
  c->scan.path = s->path;
  c->scan.salt = s->h.salt;
  c->scan.off = off;
  c->scan.pos = *pos;
}

/* The segment behind s; NULL if s is the newest. mu held. */
static struct segment *segment_after(const struct wal *w, const struct segment *s) {
  for (size_t i = 0; i + 1 < w->count; i++)
    if (w->segments[i] == s) return w->segments[i + 1];
  return NULL;
}

struct segment *segment_by_seq(const struct wal *w, uint64_t seq) {
  uint64_t first = w->segments[0]->h.seq; /* numbers are contiguous */
  return seq >= first && seq - first < w->count ? w->segments[seq - first] : NULL;
}

/* From the tail cache. mu held. */
static int take_cached(struct wal_cursor *c, const struct tail_entry *e, dw_lsn limit, struct wal_block **out) {
  struct wal_block *b = e->block;
  if (block_last_lsn(&b->h) > limit) return dw_fail(DW_NOT_FOUND, "the next block is beyond the limit");
  struct segment *s = segment_by_seq(c->w, e->seq);
  assert(s);
  struct wal_pos pos = {block_last_lsn(&b->h), b->h.epoch, b->h.chain};
  enter(c, s, e->off + block_total_bytes(&b->h), &pos);
  *out = wal_block_ref(b);
  return DW_OK;
}

static bool same_place(const struct wal_pos *a, const struct wal_pos *b) {
  return a->lsn == b->lsn && hash128_eq(&a->chain, &b->chain);
}

/* The segment was rebuilt: frames may stand at other offsets now. mu held. */
static void seek_again(struct wal_cursor *c) {
  struct wal_pos start = segment_start(&c->seg->h);
  if (!c->seeking) c->seek = c->scan.pos;
  c->seeking = !same_place(&start, &c->seek);
  c->repairs = c->seg->repairs;
  c->scan.off = WAL_SEGMENT_HEADER_BYTES;
  c->scan.pos = start;
}

/* What a cursor may do next; decided under mu. */
enum step { STEP_CACHED, STEP_FILE, STEP_END, STEP_CUT };

static enum step next_step(struct wal_cursor *c, dw_lsn limit, struct wal_block **out, int *rc) {
  struct wal *w = c->w;
  for (;;) {
    if (c->truncations != w->truncations || c->rebuilt != w->rebuilt) {
      c->scan.window.len = 0;
      if (c->scan.file) w->env->ops->close(c->scan.file); /* there is a new file under the name */
      c->scan.file = NULL;
      for (; c->truncations < w->truncations; c->truncations++) {
        const struct cut *cut = &w->cuts[c->truncations];
        if (c->seg->h.seq > cut->seq || (c->seg->h.seq == cut->seq && c->scan.off > cut->off)) return STEP_CUT;
      }
      c->rebuilt = w->rebuilt;
      if (c->repairs != c->seg->repairs) seek_again(c);
    }
    const struct tail_entry *e = tail_find(w, c->seg->h.seq, c->scan.off, &c->scan.pos);
    if (e) {
      *rc = take_cached(c, e, c->seeking ? UINT64_MAX : limit, out);
      return STEP_CACHED;
    }
    struct segment *next = segment_after(w, c->seg);
    bool at_end = next ? c->scan.pos.lsn == next->h.first_lsn - 1 && hash128_eq(&c->scan.pos.chain, &next->h.prev_chain)
                       : c->scan.off >= c->seg->end;
    if (!at_end) {
      /* An old segment that was not walked yet ends where its successor begins. */
      c->scan.limit = c->seg->end_known ? c->seg->end : c->seg->file_bytes;
      return STEP_FILE;
    }
    if (c->seeking) return STEP_CUT; /* it stood where there is no boundary any more */
    if (!next) return STEP_END;
    struct wal_pos pos = c->scan.pos;
    enter(c, next, WAL_SEGMENT_HEADER_BYTES, &pos);
  }
}

static void note_damage(struct wal_cursor *c) {
  pthread_mutex_lock(&c->w->mu);
  c->w->met_damage = c->seg->h.seq;
  pthread_mutex_unlock(&c->w->mu);
}

static int corrupt_here(struct wal_cursor *c) {
  note_damage(c);
  return dw_fail_prefix(DW_CORRUPT, "%s: offset %llu, LSN %llu: corrupt", c->seg->path, (unsigned long long)c->scan.off,
                        (unsigned long long)c->scan.pos.lsn + 1);
}

/* Next block from the file; *out stays NULL if only marks stood before the written end. */
static int read_file(struct wal_cursor *c, dw_lsn limit, struct wal_block **out) {
  if (!c->scan.file) {
    int rc = c->w->env->ops->open(c->w->env, c->seg->path, ENV_READ, &c->scan.file);
    if (rc) return rc == DW_NOT_FOUND ? dw_fail_prefix(DW_CORRUPT, "segment is gone") : rc;
  }
  struct frame_scan before = c->scan;
  enum frame_kind kind;
  do {
    if (c->scan.off >= c->scan.limit) return DW_OK;
    int rc = frame_next(&c->scan, &kind);
    if (rc == DW_IO) note_damage(c); /* the sector may come back from a peer */
    if (rc) return rc;
  } while (kind == FRAME_MARK);
  if (kind == FRAME_NONE) return corrupt_here(c);
  int rc = block_last_lsn(&c->scan.h) > limit ? dw_fail(DW_NOT_FOUND, "the next block is beyond the limit")
                                              : wal_block_parse(c->scan.bytes, block_total_bytes(&c->scan.h), out);
  if (rc) { /* stand before it again */
    c->scan.off = before.off;
    c->scan.pos = before.pos;
  }
  return rc;
}

static int next_once(struct wal_cursor *c, dw_lsn limit, struct wal_block **out) {
  int rc = DW_OK;
  pthread_mutex_lock(&c->w->mu);
  enum step step = next_step(c, limit, out, &rc);
  if (step == STEP_FILE) c->seg->cursors++; /* the read below needs it, whatever happens to the cursor */
  struct segment *seg = c->seg;
  pthread_mutex_unlock(&c->w->mu);
  switch (step) {
  case STEP_CACHED: return rc;
  case STEP_END: return DW_NOT_FOUND; /* no message: each commit meets it, and making one costs as much as a block */
  case STEP_CUT: return dw_fail(DW_DIVERGED, "the log was cut below LSN %llu", (unsigned long long)c->scan.pos.lsn);
  case STEP_FILE: break;
  }
  uint64_t off = c->scan.off;
  struct wal_pos pos = c->scan.pos;
  rc = read_file(c, c->seeking ? UINT64_MAX : limit, out);
  pthread_mutex_lock(&c->w->mu);
  seg->cursors--;
  if (rc == DW_OK && c->repairs == seg->repairs) (void)segment_index_add(seg, off, &pos);
  /* Behind the last frame of an unwalked segment there may be zeros: its successor's header has the last word. */
  pthread_mutex_unlock(&c->w->mu);
  return rc;
}

int wal_cursor_next(struct wal_cursor *c, dw_lsn limit, struct wal_block **out) {
  int rc;
  *out = NULL;
  do {
    rc = next_once(c, limit, out);
    if (!c->seeking || rc) continue;
    wal_block_unref(*out); /* one that it had taken before */
    *out = NULL;
    c->seeking = !same_place(&c->scan.pos, &c->seek);
  } while (rc == DW_OK && !*out);
  return rc;
}

/* Where to start looking for boundaries at `lsn`: the last known place whose boundary is below it, or the log's
 * beginning. mu held. */
static void start_below(struct wal_cursor *c, dw_lsn lsn) {
  struct wal *w = c->w;
  size_t i = w->count - 1;
  while (i > 0 && segment_start(&w->segments[i]->h).lsn >= lsn) i--;
  struct segment *s = w->segments[i];
  struct wal_pos pos = segment_start(&s->h);
  uint64_t off = WAL_SEGMENT_HEADER_BYTES;
  size_t lo = 0, hi = s->index_count;
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    if (s->index[mid].pos.lsn < lsn)
      lo = mid + 1;
    else
      hi = mid;
  }
  if (lo) {
    pos = s->index[lo - 1].pos;
    off = s->index[lo - 1].off;
  }
  enter(c, s, off, &pos);
}

static int cursor_new(struct wal *w, struct wal_cursor **out) {
  struct wal_cursor *c = calloc(1, sizeof *c);
  if (!c) return dw_fail_nomem(sizeof *c);
  c->w = w;
  c->scan.env = w->env;
  *out = c;
  return DW_OK;
}

int wal_cursor_open(struct wal *w, const struct wal_pos *pos, struct wal_cursor **out) {
  struct wal_cursor *c = NULL;
  int rc = cursor_new(w, &c);
  if (rc) return rc;
  pthread_mutex_lock(&w->mu);
  struct wal_pos oldest = segment_start(&w->segments[0]->h), end = last_segment(w)->end_pos;
  c->truncations = w->truncations;
  c->rebuilt = w->rebuilt;
  if (same_place(&end, pos)) /* the usual case: at the end */
    enter(c, last_segment(w), last_segment(w)->end, &end);
  else
    start_below(c, pos->lsn);
  pthread_mutex_unlock(&w->mu);
  if (pos->lsn < oldest.lsn) {
    rc = dw_fail(DW_NOT_FOUND, "LSN %llu is trimmed: the log starts at LSN %llu", (unsigned long long)pos->lsn + 1,
                 (unsigned long long)oldest.lsn + 1);
  } else if (pos->lsn > end.lsn) {
    rc = dw_fail(DW_DIVERGED, "LSN %llu is beyond the log's end, LSN %llu", (unsigned long long)pos->lsn,
                 (unsigned long long)end.lsn);
  }
  while (rc == DW_OK && !same_place(&c->scan.pos, pos)) {
    struct wal_block *b;
    rc = wal_cursor_next(c, pos->lsn, &b);
    if (rc == DW_OK) wal_block_unref(b);
    if (rc == DW_NOT_FOUND)
      rc = dw_fail(DW_DIVERGED, "LSN %llu is here, but with another chain hash", (unsigned long long)pos->lsn);
  }
  /* The boundary before an epoch record has the LSN of the one behind it, where the log may begin. */
  if (rc == DW_DIVERGED && pos->lsn == oldest.lsn && pos->epoch < oldest.epoch)
    rc = dw_fail(DW_NOT_FOUND, "LSN %llu of epoch %llu is trimmed: the log starts in epoch %llu",
                 (unsigned long long)pos->lsn, (unsigned long long)pos->epoch, (unsigned long long)oldest.epoch);
  if (rc) {
    wal_cursor_close(c);
    return rc;
  }
  *out = c;
  return DW_OK;
}

struct wal_pos wal_cursor_pos(const struct wal_cursor *c) {
  return c->seeking ? c->seek : c->scan.pos;
}

uint64_t wal_cursor_lag_bytes(const struct wal_cursor *c) {
  pthread_mutex_lock(&c->w->mu);
  const struct segment *last = last_segment(c->w);
  uint64_t end = last->base_bytes + last->end, at = c->seg->base_bytes + c->scan.off;
  pthread_mutex_unlock(&c->w->mu);
  return end > at ? end - at : 0;
}

bool wal_cursor_live(const struct wal_cursor *c) {
  pthread_mutex_lock(&c->w->mu);
  const struct segment *last = last_segment(c->w);
  bool live =
      (c->seg == last && c->scan.off >= last->end) || tail_find(c->w, c->seg->h.seq, c->scan.off, &c->scan.pos) != NULL;
  pthread_mutex_unlock(&c->w->mu);
  return live;
}

void wal_cursor_close(struct wal_cursor *c) {
  if (!c) return;
  pthread_mutex_lock(&c->w->mu);
  if (c->seg) c->seg->cursors--;
  pthread_mutex_unlock(&c->w->mu);
  if (c->scan.file) c->w->env->ops->close(c->scan.file);
  frame_scan_free(&c->scan);
  free(c);
}

void cursor_place(const struct wal_cursor *c, struct segment **seg, uint64_t *off) {
  *seg = c->seg;
  *off = c->scan.off;
}

int wal_boundary_at_most(struct wal *w, uint64_t epoch, dw_lsn lsn, struct wal_pos *out) {
  struct wal_cursor *c = NULL;
  int rc = cursor_new(w, &c);
  if (rc) return rc;
  pthread_mutex_lock(&w->mu);
  c->truncations = w->truncations;
  c->rebuilt = w->rebuilt;
  size_t i = w->count - 1;
  struct wal_pos start = segment_start(&w->segments[i]->h);
  while (i > 0 && (start.lsn > lsn || start.epoch > epoch)) start = segment_start(&w->segments[--i]->h);
  enter(c, w->segments[i], WAL_SEGMENT_HEADER_BYTES, &start);
  pthread_mutex_unlock(&w->mu);
  if (start.lsn > lsn || start.epoch > epoch) {
    rc = dw_fail(DW_NOT_FOUND, "no boundary of epoch %llu or before, up to LSN %llu, is held",
                 (unsigned long long)epoch, (unsigned long long)lsn);
  } else {
    *out = start;
    struct wal_block *b;
    while ((rc = wal_cursor_next(c, lsn, &b)) == DW_OK) {
      bool fits = b->h.epoch <= epoch;
      if (fits) *out = wal_cursor_pos(c);
      wal_block_unref(b);
      if (!fits) break;
    }
    if (rc == DW_NOT_FOUND) rc = DW_OK;
  }
  wal_cursor_close(c);
  return rc;
}
