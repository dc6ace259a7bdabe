/* Checking and repairing the old segments of a log in use.
 *
 * The scrub holds nothing while it reads, so it never keeps a segment from being trimmed: it copies name, header and
 * end from the bookkeeping and reads the file through a handle of its own. When it meets something that looks like
 * damage it asks the bookkeeping again: a segment that was trimmed (and whose file may be in use for something else) or
 * replaced meanwhile was no damage. Boundaries come from memory, so a header that rots on disk loses nothing here.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/internal.h"

/* What is known of an old segment; false: it is gone, or it is the newest. mu held. */
static bool describe(const struct wal *w, const struct segment *s, struct wal_damage *d) {
  if (!s || s == last_segment(w)) return false;
  const struct segment *next = segment_by_seq(w, s->h.seq + 1);
  *d = (struct wal_damage){.h = s->h, .file_bytes = s->file_bytes, .end = segment_start(&next->h), .end_known = true};
  segment_name(d->name, s->h.first_lsn, s->h.seq);
  return true;
}

static int open_file(struct wal *w, const struct wal_damage *d, struct env_file **file, char **path) {
  size_t n = strlen(w->dir) + sizeof d->name + 2;
  if (!(*path = malloc(n))) return dw_fail_nomem(n);
  snprintf(*path, n, "%s/%s", w->dir, d->name);
  return w->env->ops->open(w->env, *path, ENV_READ, file);
}

/* Does the header on disk say what we know? */
static int check_header(struct wal *w, struct env_file *file, const struct wal_damage *d, bool *good) {
  uint8_t *bytes = malloc(2 * WAL_SEGMENT_HEADER_BYTES);
  size_t got = 0;
  if (!bytes) return dw_fail_nomem(2 * WAL_SEGMENT_HEADER_BYTES);
  int rc = w->env->ops->pread(file, 0, bytes, WAL_SEGMENT_HEADER_BYTES, &got);
  if (rc == DW_IO) rc = DW_OK, got = 0; /* can't be read: as bad as wrong */
  segment_header_encode(&d->h, bytes + WAL_SEGMENT_HEADER_BYTES);
  *good =
      got == WAL_SEGMENT_HEADER_BYTES && memcmp(bytes, bytes + WAL_SEGMENT_HEADER_BYTES, WAL_SEGMENT_HEADER_BYTES) == 0;
  free(bytes);
  return rc;
}

static bool still_there(struct wal *w, const struct wal_damage *d, uint64_t truncations) {
  pthread_mutex_lock(&w->mu);
  const struct segment *s = segment_by_seq(w, d->h.seq);
  bool there = s && s->h.salt == d->h.salt && w->truncations == truncations;
  pthread_mutex_unlock(&w->mu);
  return there;
}

int wal_check_segment(struct wal *w, uint64_t seq, struct wal_damage *d) {
  pthread_mutex_lock(&w->mu);
  const struct segment *s = segment_by_seq(w, seq);
  bool newest = s && s == last_segment(w), there = describe(w, s, d);
  uint64_t truncations = w->truncations;
  pthread_mutex_unlock(&w->mu);
  if (newest) return dw_fail(DW_STALE, "segment %llu is being written", (unsigned long long)seq);
  if (!there) return dw_fail(DW_NOT_FOUND, "segment %llu is trimmed", (unsigned long long)seq);
  struct frame_scan scan = {
      .lenient = true, .env = w->env, .off = WAL_SEGMENT_HEADER_BYTES, .pos = segment_start(&d->h), .salt = d->h.salt};
  char *path = NULL;
  bool good = true;
  int rc = open_file(w, d, &scan.file, &path);
  scan.path = path;
  if (rc == DW_OK) rc = w->env->ops->size(scan.file, &scan.limit);
  if (rc == DW_OK) rc = check_header(w, scan.file, d, &good);
  if (rc == DW_OK) rc = damage_walk(&scan, d);
  if (rc == DW_OK) d->file_bytes = scan.limit;
  if (scan.file) w->env->ops->close(scan.file);
  frame_scan_free(&scan);
  free(path);
  d->header_bad = !good;
  if (!still_there(w, d, truncations)) return dw_fail(DW_NOT_FOUND, "segment %llu is trimmed", (unsigned long long)seq);
  if (rc || (good && !d->holes)) return rc;
  char text[300];
  wal_damage_describe(d, 0, text, sizeof text);
  return dw_fail(DW_CORRUPT, "%s", text);
}

uint64_t wal_met_damage(struct wal *w) {
  pthread_mutex_lock(&w->mu);
  uint64_t seq = w->met_damage;
  pthread_mutex_unlock(&w->mu);
  return seq;
}

bool wal_met_damage_is_old(struct wal *w) {
  pthread_mutex_lock(&w->mu);
  bool old = w->met_damage && w->met_damage != last_segment(w)->h.seq;
  pthread_mutex_unlock(&w->mu);
  return old;
}

void wal_forget_damage(struct wal *w, uint64_t seq) {
  pthread_mutex_lock(&w->mu);
  if (w->met_damage == seq) w->met_damage = 0;
  pthread_mutex_unlock(&w->mu);
}

/* ---- a pass --------------------------------------------------------------------------------------- */

struct wal_scrub {
  struct wal *w;
  uint64_t next_seq, last_seq; /* the pass ends behind last_seq */
  uint64_t total;
  uint64_t truncations;
  bool inside;
  struct wal_damage d; /* of the segment we are in: name, header, end */
  char *path;
  struct frame_scan scan;
};

int wal_scrub_open(struct wal *w, struct wal_scrub **out) {
  struct wal_scrub *c = calloc(1, sizeof *c);
  if (!c) return dw_fail_nomem(sizeof *c);
  c->w = w;
  pthread_mutex_lock(&w->mu);
  c->next_seq = w->segments[0]->h.seq;
  c->last_seq = last_segment(w)->h.seq - 1;
  for (size_t i = 0; i + 1 < w->count; i++) c->total += w->segments[i]->file_bytes;
  pthread_mutex_unlock(&w->mu);
  *out = c;
  return DW_OK;
}

uint64_t wal_scrub_total(const struct wal_scrub *c) {
  return c->total;
}

static void leave(struct wal_scrub *c) {
  if (c->scan.file) c->w->env->ops->close(c->scan.file);
  frame_scan_free(&c->scan);
  free(c->path);
  c->path = NULL;
  c->scan = (struct frame_scan){0};
  c->inside = false;
}

void wal_scrub_close(struct wal_scrub *c) {
  if (!c) return;
  leave(c);
  free(c);
}

/* Goes into the next old segment. DW_NOT_FOUND: the pass is through. */
static int enter(struct wal_scrub *c, bool *header_good) {
  struct wal *w = c->w;
  pthread_mutex_lock(&w->mu);
  uint64_t oldest = w->segments[0]->h.seq;
  if (c->next_seq < oldest) c->next_seq = oldest; /* trimmed meanwhile */
  bool there = c->next_seq <= c->last_seq && describe(w, segment_by_seq(w, c->next_seq), &c->d);
  c->truncations = w->truncations;
  pthread_mutex_unlock(&w->mu);
  if (!there) return dw_fail(DW_NOT_FOUND, "the pass is through");
  c->next_seq++;
  c->inside = true;
  c->scan = (struct frame_scan){
      .env = w->env, .off = WAL_SEGMENT_HEADER_BYTES, .pos = segment_start(&c->d.h), .salt = c->d.h.salt};
  int rc = open_file(w, &c->d, &c->scan.file, &c->path);
  c->scan.path = c->path;
  if (rc == DW_OK) rc = w->env->ops->size(c->scan.file, &c->scan.limit);
  return rc ? rc : check_header(w, c->scan.file, &c->d, header_good);
}

static bool whole(const struct wal_scrub *c) {
  return c->scan.pos.lsn == c->d.end.lsn && hash128_eq(&c->scan.pos.chain, &c->d.end.chain);
}

int wal_scrub_next(struct wal_scrub *c, uint64_t budget, uint64_t *read, uint64_t *seq) {
  int rc = DW_OK;
  bool good = true;
  *read = *seq = 0;
  if (!c->inside) rc = enter(c, &good);
  if (!c->inside) return rc;
  enum frame_kind kind = FRAME_MARK;
  uint64_t from = c->scan.off;
  while (rc == DW_OK && good && kind != FRAME_NONE && c->scan.off - from < budget && !whole(c))
    rc = frame_next(&c->scan, &kind);
  *read = c->scan.off - from;
  if (rc == DW_OK && good && kind != FRAME_NONE && !whole(c)) return DW_OK;
  *seq = c->d.h.seq;
  if (whole(c) && rc == DW_OK && good)
    *read += c->d.file_bytes > c->scan.off ? c->d.file_bytes - c->scan.off : 0; /* the rest is nobody's */
  else if (rc == DW_OK)
    rc = DW_CORRUPT;
  if (rc == DW_IO) rc = DW_CORRUPT; /* a sector that can't be read any more */
  char why[300];
  dw_error_copy(why, sizeof why);
  bool gone = rc && !still_there(c->w, &c->d, c->truncations);
  leave(c);
  return rc && !gone ? dw_fail(rc, "%s", why) : DW_OK;
}

/* ---- putting it back --------------------------------------------------------------------------------- */

int segment_replace(struct wal *w, const struct wal_damage *d, uint64_t truncations, const char *tmp, uint64_t end) {
  pthread_mutex_lock(&w->mu);
  struct segment *s = segment_by_seq(w, d->h.seq);
  int rc = DW_OK;
  if (!s || s == last_segment(w) || s->h.salt != d->h.salt || w->truncations != truncations)
    rc = dw_fail(DW_STALE, "%s was trimmed or replaced while it was rebuilt", d->name);
  if (rc == DW_OK) rc = w->env->ops->rename(w->env, tmp, s->path);
  if (rc == DW_OK) {
    s->end = s->synced = end;
    s->end_pos = d->end;
    s->end_known = true;
    s->index_count = 0;
    s->repairs++;
    w->rebuilt++;
    if (w->met_damage == d->h.seq) w->met_damage = 0;
  }
  pthread_mutex_unlock(&w->mu);
  return rc ? rc : w->env->ops->sync_dir(w->env, w->dir);
}
