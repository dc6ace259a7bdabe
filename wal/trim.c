/* Making the log shorter, at either end, and files ready for the next segment.
 *
 * Trim (old end): whole segments that nobody needs become spares or go. The directory is synced before a spare's bytes
 * may be overwritten, so that no old name can come back with new contents. Truncate (new end): a follower's tail that
 * is not in the primary's history. The kept part is copied into a new file that replaces the segment in one rename:
 * zeroing in place could, torn by a power cut, leave marks that claim as synced what was cut.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/internal.h"

size_t wal_segments(struct wal *w, struct wal_segment_info *out, size_t cap) {
  pthread_mutex_lock(&w->mu);
  size_t n = w->count;
  for (size_t i = 0; i < n && i < cap; i++) {
    const struct segment *s = w->segments[i];
    out[i] = (struct wal_segment_info){.seq = s->h.seq,
                                       .first_lsn = s->h.first_lsn,
                                       .last_lsn = s->end_pos.lsn,
                                       .bytes = s->file_bytes,
                                       .last_append_mono_ns = s->last_append_ns};
  }
  pthread_mutex_unlock(&w->mu);
  return n;
}

static char *spare_path(struct wal *w) { /* mu held */
  size_t n = strlen(w->dir) + 32;
  char *path = malloc(n);
  if (path) snprintf(path, n, "%s/spare-%08llx", w->dir, (unsigned long long)w->next_spare++);
  return path;
}

/* Takes the oldest segment out if it may go, so that no cursor enters it while its file goes. mu held. */
static struct segment *take_oldest(struct wal *w, dw_lsn lsn) {
  if (w->count < 2) return NULL;
  struct segment *s = w->segments[0];
  if (s->end_pos.lsn > lsn || s->cursors || s->file_users) return NULL;
  tail_drop_before(w, w->segments[1]->h.seq);
  memmove(w->segments, w->segments + 1, (w->count - 1) * sizeof *w->segments);
  w->count--;
  return s;
}

/* Its file is still there: the log still begins with it. Were it forgotten, the next ones would go from behind it, and
 * files would stand there that nobody knows and that do not join the log. mu held. */
static void put_back_oldest(struct wal *w, struct segment *s) {
  if (segment_push(w, s)) { /* no memory: the next open removes it */
    segment_free(w, s);
    return;
  }
  memmove(w->segments + 1, w->segments, (w->count - 1) * sizeof *w->segments);
  w->segments[0] = s;
}

/* Its file becomes the spare, or goes if that is NULL. *gone: it has, perhaps not by us. */
static int remove_file(struct wal *w, const struct segment *s, const char *spare, bool *gone) {
  int rc = spare ? w->env->ops->rename(w->env, s->path, spare) : w->env->ops->unlink(w->env, s->path);
  bool there = rc != DW_OK;
  char why[300];
  if (rc) dw_error_copy(why, sizeof why);
  if (rc && w->env->ops->exists(w->env, s->path, &there)) there = true;
  *gone = !there;
  return rc ? dw_fail(rc, "%s", why) : DW_OK;
}

int wal_trim(struct wal *w, dw_lsn lsn, dw_lsn *oldest) {
  int rc = DW_OK;
  bool changed = false;
  char *spares[SPARES_MAX];
  unsigned spare_count = 0;
  for (;;) {
    pthread_mutex_lock(&w->mu);
    struct segment *s = rc == DW_OK ? take_oldest(w, lsn) : NULL;
    bool keep = s && s->file_bytes == w->opt.segment_bytes && w->spare_count + spare_count < SPARES_MAX;
    char *spare = keep ? spare_path(w) : NULL;
    pthread_mutex_unlock(&w->mu);
    if (!s) break;
    bool gone;
    rc = remove_file(w, s, spare, &gone);
    if (spare && rc == DW_OK)
      spares[spare_count++] = spare;
    else
      free(spare);
    changed |= gone;
    if (gone) {
      segment_free(w, s);
      continue;
    }
    pthread_mutex_lock(&w->mu);
    put_back_oldest(w, s);
    pthread_mutex_unlock(&w->mu);
  }
  if (changed && rc == DW_OK) rc = w->env->ops->sync_dir(w->env, w->dir);
  pthread_mutex_lock(&w->mu);
  for (unsigned i = 0; i < spare_count; i++) {
    if (rc == DW_OK && w->spare_count < SPARES_MAX) {
      w->spare_zeroed[w->spare_count] = false;
      w->spares[w->spare_count++] = spares[i];
    } else {
      (void)w->env->ops->unlink(w->env, spares[i]);
      free(spares[i]);
    }
  }
  if (oldest) *oldest = w->segments[0]->h.first_lsn;
  pthread_mutex_unlock(&w->mu);
  return rc;
}

bool wal_wants_prepare(struct wal *w) {
  pthread_mutex_lock(&w->mu);
  const struct segment *s = last_segment(w);
  bool wants = !w->stop_rc && w->spare_count == 0 && s->end > s->file_bytes / 4;
  pthread_mutex_unlock(&w->mu);
  return wants;
}

int wal_prepare(struct wal *w) {
  pthread_mutex_lock(&w->mu);
  char *path = w->spare_count < SPARES_MAX ? spare_path(w) : NULL;
  pthread_mutex_unlock(&w->mu);
  if (!path) return DW_OK;
  struct env_file *f = NULL;
  int rc = w->env->ops->open(w->env, path, ENV_CREATE, &f);
  if (rc == DW_OK) rc = w->env->ops->allocate(f, w->opt.segment_bytes);
  if (rc == DW_OK) rc = zero_range(w->env, f, 0, w->opt.segment_bytes);
  if (rc == DW_OK) rc = w->env->ops->fdatasync(f);
  if (f) w->env->ops->close(f);
  if (rc) {
    char why[300];
    dw_error_copy(why, sizeof why);
    (void)w->env->ops->unlink(w->env, path);
    free(path);
    return dw_fail(rc, "%s", why);
  }
  pthread_mutex_lock(&w->mu);
  if (w->spare_count < SPARES_MAX) {
    w->spare_zeroed[w->spare_count] = true;
    w->spares[w->spare_count++] = path;
    path = NULL;
  }
  pthread_mutex_unlock(&w->mu);
  if (path) (void)w->env->ops->unlink(w->env, path);
  free(path);
  return DW_OK;
}

/* ---- truncating ------------------------------------------------------------------------------ */

/* What rotted is not written anew as if it were sound: it stays where it is, to be repaired at the next open. */
static int verify_head(struct wal *w, const struct segment *s, uint64_t end, struct env_file *file, uint8_t *header) {
  struct segment_header h;
  int rc = env_pread_exact(w->env, file, s->path, 0, header, WAL_SEGMENT_HEADER_BYTES);
  if (rc == DW_OK && (rc = segment_header_decode(header, &h))) dw_fail_prefix(rc, "%s", s->path);
  struct frame_scan scan = {.env = w->env,
                            .file = file,
                            .path = s->path,
                            .off = WAL_SEGMENT_HEADER_BYTES,
                            .limit = end,
                            .pos = segment_start(&s->h),
                            .salt = s->h.salt};
  while (rc == DW_OK && scan.off < end) {
    enum frame_kind kind;
    rc = frame_next(&scan, &kind);
    if (rc == DW_OK && kind == FRAME_NONE)
      rc = dw_fail(DW_CORRUPT, "%s: offset %llu, LSN %llu: damaged, reopen to repair it", s->path,
                   (unsigned long long)scan.off, (unsigned long long)scan.pos.lsn + 1);
  }
  frame_scan_free(&scan);
  return rc;
}

/* [0, end) of a segment as a new, durable file beside it, ready to be renamed over it. */
static int copy_head(struct wal *w, const struct segment *s, uint64_t end, const char *tmp, struct env_file **out) {
  struct env_file *from = NULL;
  uint8_t *chunk = malloc(ZERO_CHUNK);
  int rc = chunk ? w->env->ops->open(w->env, s->path, ENV_READ, &from) : dw_fail_nomem(ZERO_CHUNK);
  if (rc == DW_OK) rc = verify_head(w, s, end, from, chunk);
  if (rc == DW_OK) rc = w->env->ops->open(w->env, tmp, ENV_CREATE, out);
  if (rc == DW_OK) rc = w->env->ops->truncate(*out, 0);
  if (rc == DW_OK) rc = w->env->ops->allocate(*out, s->file_bytes);
  for (uint64_t at = 0; rc == DW_OK && at < end;) {
    size_t n = end - at < ZERO_CHUNK ? (size_t)(end - at) : ZERO_CHUNK;
    rc = env_pread_exact(w->env, from, s->path, at, chunk, n);
    if (rc == DW_OK) rc = env_pwrite(w->env, *out, at, chunk, n);
    at += n;
  }
  if (rc == DW_OK) rc = w->env->ops->fdatasync(*out);
  if (from) w->env->ops->close(from);
  free(chunk);
  return rc;
}

/* Removes the segments behind `keep`, newest first, so that a crash leaves a contiguous row. mu held. */
static int drop_newer(struct wal *w, const struct segment *keep) {
  int rc = DW_OK;
  while (rc == DW_OK && last_segment(w) != keep) {
    struct segment *s = last_segment(w);
    rc = w->env->ops->unlink(w->env, s->path);
    if (rc == DW_OK) rc = w->env->ops->sync_dir(w->env, w->dir);
    if (rc) break;
    w->count--;
    if (w->durable_lsn > segment_start(&s->h).lsn)
      w->durable_lsn = segment_start(&s->h).lsn; /* also if this stops here */
    s->next_cut = w->cut;                        /* a cursor may stand in it: it learns at its next step */
    w->cut = s;
  }
  return rc;
}

int wal_truncate(struct wal *w, const struct wal_pos *pos) {
  struct wal_cursor *c = NULL;
  int rc = wal_check_running(w);
  if (rc) return rc;
  rc = wal_cursor_open(w, pos, &c);
  if (rc) return rc == DW_DIVERGED ? dw_fail_prefix(DW_NOT_FOUND, "not a boundary of this log") : rc;
  struct segment *s;
  uint64_t off, epoch = wal_cursor_pos(c).epoch;
  cursor_place(c, &s, &off);
  wal_cursor_close(c);
  /* The chain hash vouches for the place, not for what the caller says of its epoch. */
  if (epoch != pos->epoch)
    return dw_fail(DW_NOT_FOUND, "not a boundary of this log: LSN %llu is of epoch %llu here, not %llu",
                   (unsigned long long)pos->lsn, (unsigned long long)epoch, (unsigned long long)pos->epoch);
  if (s == last_segment(w) && off == s->end) return DW_OK;

  size_t n = strlen(w->dir) + 32;
  char *tmp = malloc(n);
  struct env_file *file = NULL;
  if (!tmp) return dw_fail_nomem(n);
  snprintf(tmp, n, "%s/segment.tmp", w->dir);
  pthread_mutex_lock(&w->mu);
  struct cut *cuts = realloc(w->cuts, (w->truncations + 1) * sizeof *cuts);
  if (cuts) w->cuts = cuts;
  pthread_mutex_unlock(&w->mu);
  if (!cuts) {
    free(tmp);
    return dw_fail_nomem((w->truncations + 1) * sizeof *cuts);
  }
  rc = copy_head(w, s, off, tmp, &file);
  bool touched = rc == DW_OK; /* from here on a failure leaves the log in neither state: it stops */
  pthread_mutex_lock(&w->mu);
  /* A sync under way uses the file that is replaced, and would count as durable what is cut. */
  while (s->syncing || last_segment(w)->syncing) pthread_cond_wait(&w->synced_cond, &w->mu);
  if (rc == DW_OK) rc = drop_newer(w, s);
  if (rc == DW_OK) rc = w->env->ops->rename(w->env, tmp, s->path);
  if (rc == DW_OK) rc = w->env->ops->sync_dir(w->env, w->dir);
  if (rc == DW_OK) {
    if (s->file) w->env->ops->close(s->file);
    s->file = file;
    file = NULL;
    s->rolled = false;
    w->newest = s;
    s->end = s->synced = off;
    s->end_known = true;
    s->end_pos = *pos;
    if (s->marked > pos->lsn) s->marked = pos->lsn;
    while (s->index_count && s->index[s->index_count - 1].off >= off) s->index_count--;
    tail_drop_from(w, s->h.seq, off);
    if (w->durable_lsn > pos->lsn) w->durable_lsn = pos->lsn;
    w->cuts[w->truncations++] = (struct cut){s->h.seq, off};
  }
  pthread_mutex_unlock(&w->mu);
  if (file) w->env->ops->close(file);
  if (rc) {
    char why[300];
    dw_error_copy(why, sizeof why);
    (void)w->env->ops->unlink(w->env, tmp);
    if (touched) rc = DW_IO;
    dw_fail(rc, "cutting the log behind LSN %llu: %s", (unsigned long long)pos->lsn, why);
    if (touched || (rc != DW_NO_SPACE && rc != DW_NO_MEMORY)) wal_stop(w, rc);
  }
  free(tmp);
  return rc;
}
