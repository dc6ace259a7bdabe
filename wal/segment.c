/* Segment files: how they come to be, and the spares they are made from.
 *
 * A file gets its final name only after its header is durable, so a `.wal` file with a bad header is corruption and
 * never the leftover of a crash. Writing into blocks that are zeroed or were used before costs a third less per
 * fdatasync than writing into unwritten extents, hence the spares: trimmed segments as they are, or files zeroed in the
 * background.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/internal.h"

struct segment *segment_alloc(const char *dir, const struct segment_header *h) {
  struct segment *s = calloc(1, sizeof *s);
  char name[WAL_SEGMENT_NAME_BYTES];
  segment_name(name, h->first_lsn, h->seq);
  size_t n = strlen(dir) + sizeof name + 1;
  if (s && !(s->path = malloc(n))) {
    free(s);
    s = NULL;
  }
  if (!s) {
    dw_fail_nomem(sizeof *s + n);
    return NULL;
  }
  snprintf(s->path, n, "%s/%s", dir, name);
  s->h = *h;
  s->end = s->synced = WAL_SEGMENT_HEADER_BYTES;
  s->end_pos = segment_start(h);
  s->end_known = true;
  s->marked = h->first_lsn - 1; /* its existence says that much */
  return s;
}

void segment_free(struct wal *w, struct segment *s) {
  if (!s) return;
  if (s->file) w->env->ops->close(s->file);
  free(s->index);
  free(s->path);
  free(s);
}

int segment_index_add(struct segment *s, uint64_t off, const struct wal_pos *pos) {
  uint64_t last = s->index_count ? s->index[s->index_count - 1].off : WAL_SEGMENT_HEADER_BYTES;
  if (off < last + INDEX_STEP) return DW_OK;
  if (s->index_count == s->index_cap) {
    size_t cap = s->index_cap ? 2 * s->index_cap : 64;
    struct index_entry *grown = realloc(s->index, cap * sizeof *grown);
    if (!grown) return dw_fail_nomem(cap * sizeof *grown);
    s->index = grown;
    s->index_cap = cap;
  }
  s->index[s->index_count++] = (struct index_entry){off, *pos};
  return DW_OK;
}

int segment_push(struct wal *w, struct segment *s) {
  if (w->count == w->cap) {
    size_t cap = w->cap ? 2 * w->cap : 16;
    struct segment **grown = realloc(w->segments, cap * sizeof *grown);
    if (!grown) return dw_fail_nomem(cap * sizeof *grown);
    w->segments = grown;
    w->cap = cap;
  }
  w->segments[w->count++] = s;
  return DW_OK;
}

int zero_range(struct env *env, struct env_file *f, uint64_t from, uint64_t to) {
  static const uint8_t zeros[65536];
  struct iovec iov[ZERO_CHUNK / sizeof zeros];
  while (from < to) {
    int n = 0;
    uint64_t at = from;
    for (; at < to && n < (int)(ZERO_CHUNK / sizeof zeros); n++) {
      size_t len = to - at < sizeof zeros ? (size_t)(to - at) : sizeof zeros;
      iov[n] = (struct iovec){(void *)(uintptr_t)zeros, len};
      at += len;
    }
    int rc = env->ops->pwritev(f, from, iov, n);
    if (rc) return rc;
    from = at;
  }
  return DW_OK;
}

bool spare_name_parse(const char *name, uint64_t *n) {
  unsigned long long v;
  int end = 0;
  if (sscanf(name, "spare-%16llx%n", &v, &end) != 1 || name[end]) return false;
  *n = v;
  return true;
}

static char *take_spare(struct wal *w, bool *zeroed) {
  pthread_mutex_lock(&w->mu);
  char *path = w->spare_count ? w->spares[--w->spare_count] : NULL;
  *zeroed = path && w->spare_zeroed[w->spare_count];
  pthread_mutex_unlock(&w->mu);
  return path;
}

/* A file to make a segment of: a spare, or a new one with its blocks reserved. *tmp is its present path; *zeroed:
 * nothing of an older use can be in it. */
static int open_raw_file(struct wal *w, uint64_t bytes, bool first, char **tmp, bool *zeroed, struct env_file **file) {
  if (bytes == w->opt.segment_bytes && (*tmp = take_spare(w, zeroed)))
    return w->env->ops->open(w->env, *tmp, ENV_WRITE, file);
  *zeroed = true;
  size_t n = strlen(w->dir) + 32;
  if (!(*tmp = malloc(n))) return dw_fail_nomem(n);
  snprintf(*tmp, n, "%s/segment.tmp", w->dir);
  int rc = w->env->ops->open(w->env, *tmp, ENV_CREATE, file);
  if (rc) return rc;
  rc = w->env->ops->truncate(*file, 0);
  if (rc == DW_OK) rc = w->env->ops->allocate(*file, bytes);
  /* The very first segment: opening must stay fast, so only its beginning is zeroed. */
  if (rc == DW_OK && first) rc = zero_range(w->env, *file, 0, bytes < ZERO_CHUNK ? bytes : ZERO_CHUNK);
  return rc;
}

int segment_create(struct wal *w, const struct wal_pos *pos, uint64_t seq, size_t need, struct segment **out) {
  uint64_t bytes = w->opt.segment_bytes;
  if (bytes < WAL_SEGMENT_HEADER_BYTES + need) bytes = (WAL_SEGMENT_HEADER_BYTES + need + 4095) & ~4095ull;
  struct segment_header h = {.cluster_id = w->opt.cluster_id,
                             .epoch = pos->epoch,
                             .first_lsn = pos->lsn + 1,
                             .prev_chain = pos->chain,
                             .seq = seq,
                             .segment_bytes = bytes,
                             .created_wall_ns = w->env->ops->wall_ns(w->env),
                             .node_id = w->opt.node_id};
  memcpy(h.boot_id, w->boot_id, 16);
  uint8_t *header = malloc(WAL_SEGMENT_HEADER_BYTES);
  struct segment *s = NULL;
  char *tmp = NULL;
  bool zeroed = false, named = false;
  int rc = header ? w->env->ops->random(w->env, &h.salt, sizeof h.salt) : dw_fail_nomem(WAL_SEGMENT_HEADER_BYTES);
  if (rc == DW_OK && !(s = segment_alloc(w->dir, &h))) rc = DW_NO_MEMORY;
  if (rc == DW_OK) rc = open_raw_file(w, bytes, seq == 1, &tmp, &zeroed, &s->file);
  if (rc == DW_OK) {
    s->h.salt = h.salt = zeroed ? h.salt & ~1ull : h.salt | 1;
    segment_header_encode(&h, header);
    rc = env_pwrite(w->env, s->file, 0, header, WAL_SEGMENT_HEADER_BYTES);
  }
  if (rc == DW_OK) rc = w->env->ops->fdatasync(s->file);
  if (rc == DW_OK) rc = w->env->ops->rename(w->env, tmp, s->path);
  named = rc == DW_OK;
  if (rc == DW_OK) rc = w->env->ops->sync_dir(w->env, w->dir);
  if (rc) {
    char why[400];
    dw_error_copy(why, sizeof why);
    segment_free(w, s);
    if (tmp && !named) (void)w->env->ops->unlink(w->env, tmp); /* else it is reused or removed at the next open */
    /* The name may be durable or not. Were the log to go on in the old segment, a crash could show a later one that
     * starts in the old one's middle: so this is never an error that the log survives. */
    if (named) rc = DW_IO;
    dw_fail(rc, "new segment at LSN %llu: %s", (unsigned long long)pos->lsn + 1, why);
  } else {
    s->file_bytes = bytes;
    s->last_append_ns = w->env->ops->mono_ns(w->env);
    *out = s;
  }
  free(tmp);
  free(header);
  return rc;
}
