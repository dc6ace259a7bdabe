/* See checkpoint_reuse.h. */
#include "replication/checkpoint_reuse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/status.h"

#define HASH_BYTES 1048576u
#define TABLE_SUFFIX ".sst"

static int hash_open_file(struct env *env, struct env_file *f, const char *path, uint64_t bytes, struct hash128 *out) {
  struct hash_stream *h = hash_stream_create();
  uint8_t *buf = malloc(HASH_BYTES);
  int rc = h && buf ? DW_OK : dw_fail_nomem(HASH_BYTES);
  for (uint64_t off = 0; rc == DW_OK && off < bytes;) {
    size_t n = bytes - off < HASH_BYTES ? (size_t)(bytes - off) : HASH_BYTES;
    rc = env_pread_exact(env, f, path, off, buf, n);
    if (rc == DW_OK) hash_stream_update(h, buf, n);
    off += n;
  }
  if (rc == DW_OK) *out = hash_stream_digest(h);
  if (h) hash_stream_destroy(h);
  free(buf);
  return rc;
}

int ckpt_hash_file(struct env *env, const char *path, uint64_t bytes, struct hash128 *out) {
  struct env_file *f;
  int rc = env->ops->open(env, path, ENV_READ, &f);
  if (rc) return rc;
  rc = hash_open_file(env, f, path, bytes, out);
  env->ops->close(f);
  return rc;
}

/* ---- what the present store has ------------------------------------------------------------------ */

struct own_file {
  char name[CKPT_NAME_BYTES];
  uint64_t bytes;
  bool hashed, useless;
  struct hash128 hash;
};

struct own {
  struct env *env;
  const char *store;
  struct own_file *file;
  size_t n, cap;
  int rc;
};

static bool is_table(const char *name) {
  size_t n = strlen(name), k = strlen(TABLE_SUFFIX);
  return n > k && n < CKPT_NAME_BYTES && strcmp(name + n - k, TABLE_SUFFIX) == 0;
}

static void own_path(const struct own *o, const char *name, char path[4400]) {
  snprintf(path, 4400, "%.4000s/%s", o->store, name);
}

static int add_own(void *arg, const char *name, bool is_dir) {
  struct own *o = arg;
  char path[4400];
  struct env_file *f;
  uint64_t bytes = 0;
  if (is_dir || !is_table(name)) return 0;
  own_path(o, name, path);
  if (o->env->ops->open(o->env, path, ENV_READ, &f)) return 0; /* compacted away just now */
  int rc = o->env->ops->size(f, &bytes);
  o->env->ops->close(f);
  if (rc) return 0;
  if (o->n == o->cap) {
    size_t cap = o->cap ? 2 * o->cap : 64;
    struct own_file *grown = realloc(o->file, cap * sizeof *grown);
    if (!grown) {
      o->rc = dw_fail_nomem(cap * sizeof *grown);
      return 1;
    }
    o->file = grown;
    o->cap = cap;
  }
  o->file[o->n] = (struct own_file){.bytes = bytes};
  snprintf(o->file[o->n++].name, CKPT_NAME_BYTES, "%s", name);
  return 0;
}

/* One of ours with this size and hash; NULL: none. */
static struct own_file *find_own(struct own *o, const struct ckpt_file *want) {
  char path[4400];
  for (size_t i = 0; i < o->n; i++) {
    struct own_file *f = &o->file[i];
    if (f->useless || f->bytes != want->bytes) continue;
    if (!f->hashed) {
      own_path(o, f->name, path);
      f->useless = ckpt_hash_file(o->env, path, f->bytes, &f->hash) != DW_OK;
      f->hashed = true;
    }
    if (!f->useless && hash128_eq(&f->hash, &want->hash)) return f;
  }
  return NULL;
}

int ckpt_in_reuse(struct ckpt_in *c, const struct ckpt_manifest *m, const char *store, uint64_t *offsets,
                  uint64_t *bytes) {
  struct own o = {.env = ckpt_in_env(c), .store = store};
  char path[4400];
  *bytes = 0;
  if (!m->hashes) return DW_OK;
  int rc = o.env->ops->list(o.env, store, add_own, &o);
  rc = rc == DW_NOT_FOUND ? DW_OK : rc ? rc : o.rc;
  for (uint32_t i = 0; rc == DW_OK && i < m->count; i++) {
    if (offsets[i] == CKPT_HELD || !is_table(m->files[i].name)) continue;
    const struct own_file *f = find_own(&o, &m->files[i]);
    if (!f) continue;
    own_path(&o, f->name, path);
    rc = ckpt_in_take(c, i, path, &m->files[i].hash);
    if (rc == DW_NOT_FOUND) { /* gone since: it travels */
      offsets[i] = 0;
      rc = DW_OK;
    } else if (rc == DW_OK) {
      offsets[i] = CKPT_HELD;
      *bytes += m->files[i].bytes;
    }
  }
  free(o.file);
  return rc;
}
