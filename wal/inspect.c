/* Looking at a log directory from outside, for `wal verify` and `wal dump`.
 *
 * Read-only and without the lock, so the directory may be in use. Then two things move under our eyes: the newest
 * segment grows (its last block may be half written: reported as torn bytes, not as a fault), and old segments are
 * trimmed or recycled (the listing is taken anew from where we stand; what is gone is said).
 *
 * The log is the row of segments that ends with the newest one, as recovery sees it: removals of a trim reach the disk
 * in any order, so a power cut may leave segments whose successor is gone.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/internal.h"

struct next_segment {
  uint64_t after; /* seq */
  bool found;
  dw_lsn first_lsn;
  uint64_t seq;
};

static int pick_next(void *arg, const char *name, bool is_dir) {
  struct next_segment *n = arg;
  dw_lsn lsn;
  uint64_t seq;
  if (is_dir || !segment_name_parse(name, &lsn, &seq) || seq <= n->after) return 0;
  if (!n->found || seq < n->seq) *n = (struct next_segment){n->after, true, lsn, seq};
  return 0;
}

static int find_next(struct env *env, const char *dir, struct next_segment *n) {
  n->found = false;
  return env->ops->list(env, dir, pick_next, n);
}

struct row {
  struct next_segment *seg; /* `after` is not used */
  size_t count, cap;
  int rc;
};

static int add_to_row(void *arg, const char *name, bool is_dir) {
  struct row *r = arg;
  struct next_segment s = {.found = true};
  if (is_dir || !segment_name_parse(name, &s.first_lsn, &s.seq)) return 0;
  if (r->count == r->cap) {
    size_t cap = r->cap ? 2 * r->cap : 64;
    struct next_segment *grown = realloc(r->seg, cap * sizeof *grown);
    if (!grown) {
      r->rc = dw_fail_nomem(cap * sizeof *grown);
      return 1;
    }
    r->seg = grown;
    r->cap = cap;
  }
  r->seg[r->count++] = s;
  return 0;
}

static int by_seq(const void *a, const void *b) {
  const struct next_segment *x = a, *y = b;
  return x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* Where the row that ends with the newest segment begins; *before: segments that are not of it. */
static int find_first(struct env *env, const char *dir, struct next_segment *first, uint64_t *before) {
  struct row r = {0};
  int rc = env->ops->list(env, dir, add_to_row, &r);
  if (rc == DW_OK) rc = r.rc;
  if (rc == DW_OK && r.count) {
    qsort(r.seg, r.count, sizeof *r.seg, by_seq);
    size_t i = r.count - 1;
    while (i > 0 && r.seg[i - 1].seq + 1 == r.seg[i].seq && r.seg[i - 1].first_lsn <= r.seg[i].first_lsn) i--;
    *first = r.seg[i];
    *before = i;
  }
  free(r.seg);
  return rc;
}

struct inspection {
  struct env *env;
  const char *dir;
  const struct wal_inspect *how;
  struct wal_inspect_report *rep;
  bool stop;
  bool trimmed; /* the segment before was, while we read it: this one need not follow */
};

static void problem(struct inspection *in, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void problem(struct inspection *in, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(in->rep->problem, sizeof in->rep->problem, fmt, ap);
  va_end(ap);
}

static int show_block(struct inspection *in, const struct frame_scan *s) {
  in->rep->blocks++;
  in->rep->commits += s->h.commit_count;
  in->rep->last = s->pos;
  if (!in->how->on_block || block_last_lsn(&s->h) < in->how->from) return DW_OK;
  struct wal_block *b;
  int rc = wal_block_parse(s->bytes, block_total_bytes(&s->h), &b);
  if (rc) return rc;
  in->stop = in->how->on_block(in->how->arg, s->path, s->frame_off, b) != 0;
  wal_block_unref(b);
  return DW_OK;
}

/* Anything but zeros and stale frames behind the end of the newest segment? */
static int look_at_end(struct inspection *in, struct frame_scan *s) {
  int rc;
  struct block_header h;
  const uint8_t *p = frame_peek(s, 0, WAL_BLOCK_HEADER_BYTES, &rc);
  if (rc || !p || get_u32(p) != WAL_BLOCK_MAGIC) return rc;
  if (block_header_decode(p, &h) == DW_OK) {
    if (h.first_lsn != s->pos.lsn + 1) return DW_OK; /* stale */
    uint64_t total = block_total_bytes(&h);
    in->rep->torn_bytes = total < s->limit - s->off ? total : s->limit - s->off;
  } else if (get_u64(p + 24) == s->pos.lsn + 1) {
    in->rep->torn_bytes = WAL_BLOCK_HEADER_BYTES;
  }
  return DW_OK;
}

/* Is there something behind the place where the walk of the newest segment ended that was written after it? */
static int look_for_rest(struct inspection *in, struct frame_scan *s, const char *why, bool *read_on) {
  struct behind b;
  int rc = look_at_end(in, s);
  if (rc == DW_OK) rc = look_behind(s, &b);
  *read_on = false;
  if (rc || !b.follows) return rc;
  /* Somebody may be writing: what was read as a hole before what follows it was seen may be whole by now. */
  enum frame_kind kind;
  struct frame_scan again = *s;
  again.window = (struct buf){0};
  rc = frame_next(&again, &kind);
  frame_scan_free(&again);
  *read_on = rc == DW_OK && kind != FRAME_NONE;
  if (rc || *read_on) return rc;
  if (b.known_durable > s->pos.lsn)
    problem(in, "%s: offset %llu, LSN %llu: corrupt: synced up to LSN %llu according to a later mark", s->path,
            (unsigned long long)s->off, (unsigned long long)s->pos.lsn + 1, (unsigned long long)b.known_durable);
  else
    problem(in,
            "%s: offset %llu, LSN %llu: %s; %llu valid blocks follow: corrupt, or a power cut's hole in what was "
            "not synced, which the next open cuts",
            s->path, (unsigned long long)s->off, (unsigned long long)s->pos.lsn + 1, why,
            (unsigned long long)b.valid_blocks);
  return DW_OK;
}

static int walk_frames(struct inspection *in, struct frame_scan *s, const struct next_segment *here) {
  enum frame_kind kind = FRAME_MARK;
  int rc = DW_OK;
  while (rc == DW_OK && !in->stop && (rc = frame_next(s, &kind)) == DW_OK && kind != FRAME_NONE)
    if (kind == FRAME_BLOCK) rc = show_block(in, s);
  if (rc || in->stop) return rc;
  char why[300];
  dw_error_copy(why, sizeof why);
  in->rep->bytes += s->off;
  struct next_segment after = {.after = here->seq};
  rc = find_next(in->env, in->dir, &after);
  if (rc) return rc;
  if (!after.found) {
    bool read_on;
    rc = look_for_rest(in, s, why, &read_on);
    if (rc || !read_on) return rc;
    in->rep->bytes -= s->off;
    in->rep->torn_bytes = 0;
    s->window.len = 0;
    return walk_frames(in, s, here);
  }
  /* While we walked, the newest segment may have been filled and rolled: read on if it has grown. */
  uint64_t end = s->off;
  s->window.len = 0;
  rc = frame_next(s, &kind);
  if (rc == DW_OK && kind != FRAME_NONE) {
    if (kind == FRAME_BLOCK) rc = show_block(in, s);
    return rc ? rc : walk_frames(in, s, here);
  }
  if (rc || after.first_lsn == s->pos.lsn + 1) return rc;
  bool still_there = true; /* else trimmed meanwhile, with what followed, and perhaps in use anew */
  rc = in->env->ops->exists(in->env, s->path, &still_there);
  in->trimmed = rc == DW_OK && !still_there;
  if (rc == DW_OK && still_there)
    problem(in, "%s: offset %llu, LSN %llu: corrupt: %s; the next segment starts at LSN %llu", s->path,
            (unsigned long long)end, (unsigned long long)s->pos.lsn + 1, why, (unsigned long long)after.first_lsn);
  return rc;
}

static int inspect_segment(struct inspection *in, const struct next_segment *here, bool first) {
  char name[WAL_SEGMENT_NAME_BYTES];
  segment_name(name, here->first_lsn, here->seq);
  size_t n = strlen(in->dir) + sizeof name + 1;
  char *path = malloc(n);
  uint8_t *bytes = malloc(WAL_SEGMENT_HEADER_BYTES);
  struct frame_scan s = {.env = in->env, .path = path, .off = WAL_SEGMENT_HEADER_BYTES};
  struct segment_header h;
  int rc = path && bytes ? DW_OK : dw_fail_nomem(n);
  if (rc) goto out;
  snprintf(path, n, "%s/%s", in->dir, name);
  rc = in->env->ops->open(in->env, path, ENV_READ, &s.file);
  if (rc == DW_NOT_FOUND) { /* trimmed since it was listed */
    rc = DW_OK;
    goto out;
  }
  if (rc == DW_OK) rc = in->env->ops->size(s.file, &s.limit);
  if (rc == DW_OK) rc = env_pread_exact(in->env, s.file, path, 0, bytes, WAL_SEGMENT_HEADER_BYTES);
  if (rc == DW_OK) rc = segment_header_decode(bytes, &h);
  if (rc == DW_CORRUPT || rc == DW_UNSUPPORTED) {
    char why[300];
    dw_error_copy(why, sizeof why);
    problem(in, "%s: %s", path, why);
    rc = DW_OK;
    goto out;
  }
  if (rc) goto out;
  s.pos = segment_start(&h);
  s.salt = h.salt;
  if (first) in->rep->first = s.pos;
  if (first || in->trimmed)
    in->rep->last = s.pos;
  else if (s.pos.lsn != in->rep->last.lsn || s.pos.epoch != in->rep->last.epoch ||
           !hash128_eq(&s.pos.chain, &in->rep->last.chain))
    problem(in, "%s: starts behind LSN %llu, epoch %llu, the segment before ends at LSN %llu, epoch %llu", path,
            (unsigned long long)s.pos.lsn, (unsigned long long)s.pos.epoch, (unsigned long long)in->rep->last.lsn,
            (unsigned long long)in->rep->last.epoch);
  in->trimmed = false;
  in->rep->segments++;
  if (in->how->on_segment) in->stop = in->how->on_segment(in->how->arg, path, &h) != 0;
  if (!in->stop && !in->rep->problem[0]) rc = walk_frames(in, &s, here);
out:
  if (s.file) in->env->ops->close(s.file);
  frame_scan_free(&s);
  free(bytes);
  free(path);
  return rc;
}

int wal_inspect(struct env *env, const char *dir, const struct wal_inspect *how, struct wal_inspect_report *rep) {
  memset(rep, 0, sizeof *rep);
  struct inspection in = {.env = env, .dir = dir, .how = how, .rep = rep};
  struct next_segment here = {0};
  int rc = find_first(env, dir, &here, &rep->leftovers);
  if (rc == DW_OK && !here.found) return dw_fail(DW_NOT_FOUND, "%s: no log segments here", dir);
  bool first = true;
  while (rc == DW_OK && here.found && !in.stop && !rep->problem[0]) {
    uint64_t segments = rep->segments;
    rc = inspect_segment(&in, &here, first);
    if (rep->segments > segments) first = false;
    here.after = here.seq;
    if (rc == DW_OK) rc = find_next(env, dir, &here);
  }
  if (rc == DW_OK && rep->problem[0]) rc = dw_fail(DW_CORRUPT, "%s", rep->problem);
  return rc;
}
