/* The log in use: append, sync, close.
 *
 * One appender at a time writes behind the newest segment's end; syncs, cursors and trimming run beside it. The mutex
 * guards places and counters only: it is never held over a write or a sync.
 *
 *   append    [mark, if more is known durable than the last mark says] blocks...    one pwritev
 *             does not fit: sync the segment, start the next one: whatever has a segment behind it is durable
 *   failure   a full disk: what may have reached the file is zeroed and synced, the last frame first, so that a commit
 *             that was answered "not done" can't rise again after a crash; anything else, and taking back that fails,
 *             stops the log for good. Either way what stands there is a prefix of what was to be written, which the
 *             next open takes for a torn end: a hole with valid blocks behind it would be damage
 *   sync      a failed fdatasync stops the log for good: the kernel may have dropped the pages, so a second try
 *             that succeeds would prove nothing
 */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/internal.h"

void wal_say(struct wal *w, int level, const char *fmt, ...) {
  if (!w->opt.log) return;
  char line[600];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  w->opt.log(w->opt.log_arg, level, line);
}

int wal_stop(struct wal *w, int rc) {
  pthread_mutex_lock(&w->mu);
  if (!w->stop_rc) {
    w->stop_rc = rc;
    dw_error_copy(w->stop_why, sizeof w->stop_why);
  }
  pthread_mutex_unlock(&w->mu);
  return rc;
}

/* mu held. */
static int stopped(const struct wal *w) {
  return w->stop_rc ? dw_fail(DW_CLOSED, "the log stopped after an error: %s", w->stop_why) : DW_OK;
}

/* mu held. */
static void close_if_unused(struct wal *w, struct segment *s) {
  if (!s->rolled || s->file_users || !s->file) return;
  w->env->ops->close(s->file);
  s->file = NULL;
}

/* fdatasync of one segment up to what is written now. mu held; dropped and retaken. One at a time: the kernel reports a
 * failed write-back to one caller only, so a second one beside it would get OK for pages that are lost. */
static int sync_segment(struct wal *w, struct segment *s) {
  const uint64_t wanted = s->end;
  s->file_users++;
  while (s->syncing) pthread_cond_wait(&w->synced_cond, &w->mu);
  s->file_users--;
  int rc = stopped(w);
  if (rc || s->synced >= wanted) {
    close_if_unused(w, s);
    return rc;
  }
  uint64_t upto = s->end;
  dw_lsn lsn = s->end_pos.lsn;
  s->file_users++;
  s->syncing = true;
  struct env_file *file = s->file;
  pthread_mutex_unlock(&w->mu);
  rc = w->env->ops->fdatasync(file);
  if (rc) rc = wal_stop(w, dw_fail_prefix(DW_IO, "the log can't be synced")); /* whatever the system called it */
  pthread_mutex_lock(&w->mu);
  s->syncing = false;
  pthread_cond_broadcast(&w->synced_cond);
  s->file_users--;
  w->syncs++;
  if (rc == DW_OK && s->synced < upto) s->synced = upto;
  if (rc == DW_OK && w->durable_lsn < lsn) w->durable_lsn = lsn;
  close_if_unused(w, s);
  return rc;
}

int wal_sync(struct wal *w, dw_lsn *durable) {
  pthread_mutex_lock(&w->mu);
  int rc = stopped(w);
  /* Older segments were synced when they were rolled away. */
  if (rc == DW_OK) rc = sync_segment(w, last_segment(w));
  if (rc == DW_OK && durable) *durable = w->durable_lsn;
  pthread_mutex_unlock(&w->mu);
  return rc;
}

/* The appender's: syncs the newest segment and puts a new one behind it. */
static int roll(struct wal *w, size_t need) {
  pthread_mutex_lock(&w->mu);
  struct segment *old = w->newest;
  int rc = sync_segment(w, old);
  pthread_mutex_unlock(&w->mu);
  if (rc) return rc;
  struct segment *s;
  rc = segment_create(w, &old->end_pos, old->h.seq + 1, need, &s);
  if (rc) return rc;
  pthread_mutex_lock(&w->mu);
  s->base_bytes = old->base_bytes + old->end - WAL_SEGMENT_HEADER_BYTES;
  rc = segment_push(w, s);
  if (rc == DW_OK) {
    w->newest = s;
    old->rolled = true;
    close_if_unused(w, old);
  }
  pthread_mutex_unlock(&w->mu);
  if (rc) { /* the file is there, but can't be entered */
    segment_free(w, s);
    rc = dw_fail_prefix(DW_IO, "new segment");
  }
  return rc;
}

static void mark_bytes(const struct wal *w, const struct segment *s, dw_lsn durable, uint8_t out[WAL_MARK_BYTES]) {
  struct mark_frame m = {.durable_lsn = durable,
                         .salt = s->h.salt,
                         .lsn = s->end_pos.lsn,
                         .chain = s->end_pos.chain,
                         .wall_ns = w->env->ops->wall_ns(w->env)};
  memcpy(m.boot_id, w->boot_id, 16);
  mark_encode(&m, out);
}

/* Zeroes what a failed write of these frames may have left in [from, to), frame by frame from the last to the first. */
static int zero_frames(struct wal *w, struct segment *s, const struct iovec *frames, int n, uint64_t from,
                       uint64_t to) {
  uint64_t start = from;
  for (int i = 0; i < n; i++) start += frames[i].iov_len;
  int rc = DW_OK;
  while (rc == DW_OK && n--) {
    uint64_t end = start < to ? start : to;
    start -= frames[n].iov_len;
    rc = zero_range(w->env, s->file, start, end);
  }
  return rc;
}

/* A failed write: nothing of it may be taken for a block later. */
static int undo_write(struct wal *w, struct segment *s, const struct iovec *frames, int n, int rc) {
  char why[300];
  dw_error_copy(why, sizeof why);
  if (rc != DW_NO_SPACE) return wal_stop(w, rc);
  uint64_t size = 0;
  int undo = w->env->ops->size(s->file, &size);
  if (undo == DW_OK) undo = zero_frames(w, s, frames, n, s->end, size > s->end ? size : s->end);
  if (undo == DW_OK) undo = w->env->ops->fdatasync(s->file);
  if (undo) return wal_stop(w, dw_fail_prefix(DW_IO, "%s; and taking it back failed", why));
  return dw_fail(rc, "%s", why);
}

/* Room for `need` bytes of frames behind the end, a mark included. */
static int make_room(struct wal *w, size_t need) {
  const struct segment *s = w->newest;
  return s->end + WAL_MARK_BYTES + need <= s->file_bytes ? DW_OK : roll(w, need + WAL_MARK_BYTES);
}

/* Writes frames at the end of the newest segment, with a mark in front if it says something new. */
static int write_frames(struct wal *w, struct wal_block **blocks, size_t n, bool force_mark) {
  struct segment *s = w->newest;
  pthread_mutex_lock(&w->mu);
  dw_lsn durable = w->durable_lsn;
  pthread_mutex_unlock(&w->mu);
  uint8_t mark[WAL_MARK_BYTES];
  struct iovec small[17], *iov = small;
  if (n + 1 > sizeof small / sizeof *small && !(iov = malloc((n + 1) * sizeof *iov)))
    return dw_fail_nomem((n + 1) * sizeof *iov);
  int count = 0;
  uint64_t off = s->end;
  if (force_mark || durable > s->marked) {
    mark_bytes(w, s, durable, mark);
    iov[count++] = (struct iovec){mark, WAL_MARK_BYTES};
  }
  for (size_t i = 0; i < n; i++) iov[count++] = (struct iovec){blocks[i]->bytes, block_total_bytes(&blocks[i]->h)};
  int rc = w->env->ops->pwritev(s->file, off, iov, count);
  bool marked = iov[0].iov_base == mark;
  if (rc) rc = undo_write(w, s, iov, count, rc);
  if (iov != small) free(iov);
  if (rc) return rc;

  pthread_mutex_lock(&w->mu);
  s->marked = marked ? durable : s->marked;
  uint64_t at = off + (marked ? WAL_MARK_BYTES : 0);
  for (size_t i = 0; i < n; i++) {
    const struct block_header *h = &blocks[i]->h;
    (void)segment_index_add(s, at, &s->end_pos); /* an index with holes is a slower index */
    tail_push(w, s->h.seq, at, blocks[i]);
    s->end_pos = (struct wal_pos){block_last_lsn(h), h->epoch, h->chain};
    at += block_total_bytes(h);
    w->appended_blocks++;
    w->appended_commits += h->commit_count;
    w->raw_bytes += h->raw_bytes;
    w->stored_bytes += block_total_bytes(h);
  }
  s->end = at;
  s->last_append_ns = w->env->ops->mono_ns(w->env);
  pthread_mutex_unlock(&w->mu);
  return DW_OK;
}

int wal_write_mark(struct wal *w) {
  int rc = make_room(w, 0);
  return rc ? rc : write_frames(w, NULL, 0, true);
}

int wal_check_running(struct wal *w) {
  pthread_mutex_lock(&w->mu);
  int rc = stopped(w);
  pthread_mutex_unlock(&w->mu);
  return rc;
}

/* Everything but space stops the log; memory that ran out before anything was written does not. */
static int append_blocks(struct wal *w, struct wal_block **blocks, size_t n) {
  size_t bytes = 0;
  for (size_t i = 0; i < n; i++) bytes += block_total_bytes(&blocks[i]->h);
  int rc = make_room(w, bytes);
  if (rc == DW_OK) rc = write_frames(w, blocks, n, false);
  if (rc && rc != DW_NO_SPACE && rc != DW_NO_MEMORY) wal_stop(w, rc);
  return rc;
}

int wal_append(struct wal *w, struct wal_block **blocks, size_t n, uint64_t epoch, dw_lsn commit_lsn) {
  int rc = wal_check_running(w);
  if (rc || n == 0) return rc;
  struct wal_pos pos = w->newest->end_pos; /* only the appender, us, moves it */
  if (epoch < pos.epoch)
    return dw_fail(DW_INVALID, "append in epoch %llu, the log is in epoch %llu", (unsigned long long)epoch,
                   (unsigned long long)pos.epoch);
  for (size_t i = 0; i < n; i++) {
    struct block_header *h = &blocks[i]->h;
    h->epoch = epoch;
    h->first_lsn = pos.lsn + 1;
    h->commit_lsn = commit_lsn;
    block_header_seal(h, &pos.chain, blocks[i]->bytes);
    pos = (struct wal_pos){block_last_lsn(h), epoch, h->chain};
  }
  return append_blocks(w, blocks, n);
}

int wal_append_sealed(struct wal *w, struct wal_block **blocks, size_t n) {
  int rc = wal_check_running(w);
  if (rc || n == 0) return rc;
  struct wal_pos pos = w->newest->end_pos;
  for (size_t i = 0; i < n; i++) {
    const struct block_header *h = &blocks[i]->h;
    if (h->first_lsn != pos.lsn + 1 || h->epoch < pos.epoch)
      return dw_fail(DW_DIVERGED, "block of LSN %llu, epoch %llu does not continue the log at LSN %llu, epoch %llu",
                     (unsigned long long)h->first_lsn, (unsigned long long)h->epoch, (unsigned long long)pos.lsn,
                     (unsigned long long)pos.epoch);
    if (!block_chain_ok(blocks[i]->bytes, &pos.chain))
      return dw_fail(DW_DIVERGED, "block of LSN %llu: its chain hash does not continue the log at LSN %llu",
                     (unsigned long long)h->first_lsn, (unsigned long long)pos.lsn);
    pos = (struct wal_pos){block_last_lsn(h), h->epoch, h->chain};
  }
  return append_blocks(w, blocks, n);
}

/* ---- opening and closing --------------------------------------------------------------------- */

static void wal_free(struct wal *w) {
  tail_free(w);
  for (size_t i = 0; i < w->count; i++) segment_free(w, w->segments[i]);
  free(w->segments);
  free(w->cuts);
  while (w->cut) {
    struct segment *s = w->cut;
    w->cut = s->next_cut;
    segment_free(w, s);
  }
  while (w->spare_count) free(w->spares[--w->spare_count]);
  pthread_cond_destroy(&w->synced_cond);
  pthread_mutex_destroy(&w->mu);
  free(w->dir);
  free(w);
}

int wal_open(const char *dir, const struct wal_options *opt, struct wal_recovery *rec, struct wal **out) {
  struct wal *w = calloc(1, sizeof *w);
  if (!w) return dw_fail_nomem(sizeof *w);
  pthread_mutex_init(&w->mu, NULL);
  pthread_cond_init(&w->synced_cond, NULL);
  w->opt = *opt;
  w->env = opt->env;
  w->next_spare = 1;
  w->dir = strdup(dir);
  if (!w->env->ops->boot_id(w->env, w->boot_id)) memset(w->boot_id, 0, 16);
  int rc = w->dir ? w->env->ops->mkdir(w->env, dir) : dw_fail_nomem(strlen(dir));
  memset(rec, 0, sizeof *rec);
  if (rc == DW_OK) rc = wal_recover(w, rec);
  if (rc == DW_OK) {
    /* This boot's mark: a later open can tell whether the page cache has survived since. */
    rc = wal_write_mark(w);
    if (rc == DW_OK) rc = wal_sync(w, NULL);
  }
  if (rc) {
    char why[500];
    dw_error_copy(why, sizeof why);
    wal_free(w);
    return dw_fail(rc, "%s", why);
  }
  *out = w;
  return DW_OK;
}

int wal_close(struct wal *w) {
  if (!w) return DW_OK;
  int rc = wal_sync(w, NULL);
  if (rc == DW_OK) rc = wal_write_mark(w); /* a log that was closed has no ambiguous end */
  if (rc == DW_OK) rc = wal_sync(w, NULL);
  wal_free(w);
  return rc;
}

void wal_stat(struct wal *w, struct wal_stat *st) {
  pthread_mutex_lock(&w->mu);
  const struct segment *last = last_segment(w);
  *st = (struct wal_stat){.end = last->end_pos,
                          .durable_lsn = w->durable_lsn,
                          .oldest = segment_start(&w->segments[0]->h),
                          .end_bytes = last->base_bytes + last->end - WAL_SEGMENT_HEADER_BYTES,
                          .segments = w->count,
                          .syncs = w->syncs,
                          .appended_blocks = w->appended_blocks,
                          .appended_commits = w->appended_commits,
                          .raw_bytes = w->raw_bytes,
                          .stored_bytes = w->stored_bytes,
                          .stopped = w->stop_rc != 0};
  for (size_t i = 0; i < w->count; i++) st->log_bytes += w->segments[i]->file_bytes;
  pthread_mutex_unlock(&w->mu);
}
