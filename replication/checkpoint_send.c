/* See checkpoint_send.h. The files of a copy never change, so the manifest is encoded once and decoded for each
 * transfer: a resumed one compares file by file number and must see the same order.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/checkpoint_send.h"
#include "replication/checkpoint_reuse.h"
#include "wal/base/status.h"

struct ckpt_out {
  dw_engine *engine;
  struct env *env;
  struct hash128 id;
  struct engine_checkpoint made;
  struct buf manifest;   /* encoded */
  struct env_file *file; /* the one that is being read */
  char name[CKPT_NAME_BYTES];
};

struct listing {
  struct env *env;
  const char *dir;
  struct ckpt_manifest *m;
  int rc; /* of the callback */
};

static int file_bytes(struct env *env, const char *dir, const char *name, uint64_t *bytes) {
  char path[4096 + CKPT_NAME_BYTES + 1];
  struct env_file *f;
  snprintf(path, sizeof path, "%s/%s", dir, name);
  int rc = env->ops->open(env, path, ENV_READ, &f);
  if (rc) return rc;
  rc = env->ops->size(f, bytes);
  env->ops->close(f);
  return rc;
}

static int list_file(void *arg, const char *name, bool is_dir) {
  struct listing *l = arg;
  uint64_t bytes = 0;
  if (strcmp(name, "LOCK") == 0) return 0; /* whoever opens the copy makes its own */
  if (is_dir)
    l->rc = dw_fail(DW_UNSUPPORTED, "%s/%s: a checkpoint with a folder in it", l->dir, name);
  else
    l->rc = file_bytes(l->env, l->dir, name, &bytes);
  if (l->rc == DW_OK) l->rc = ckpt_manifest_add(l->m, name, bytes);
  return l->rc != DW_OK; /* ends the listing, which knows nothing of errors of ours */
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const struct ckpt_file *)a)->name, ((const struct ckpt_file *)b)->name);
}

static int hash_files(struct ckpt_out *c, struct ckpt_manifest *m) {
  char path[4096 + CKPT_NAME_BYTES + 1];
  int rc = DW_OK;
  for (uint32_t i = 0; rc == DW_OK && i < m->count; i++) {
    snprintf(path, sizeof path, "%s/%s", c->made.path, m->files[i].name);
    rc = ckpt_hash_file(c->env, path, m->files[i].bytes, &m->files[i].hash);
  }
  return rc;
}

static int describe(struct ckpt_out *c, bool hashes) {
  struct ckpt_manifest m = {.id = c->id, .pos = c->made.pos, .hashes = hashes};
  struct listing l = {.env = c->env, .dir = c->made.path, .m = &m};
  int rc = c->env->ops->list(c->env, c->made.path, list_file, &l);
  if (rc == DW_OK) rc = l.rc;
  if (rc == DW_OK && m.count == 0) rc = dw_fail(DW_IO, "%s: no files in it", c->made.path);
  if (rc == DW_OK && hashes) rc = hash_files(c, &m);
  if (rc == DW_OK) {
    qsort(m.files, m.count, sizeof *m.files, by_name);
    rc = ckpt_manifest_encode(&c->manifest, &m);
  }
  ckpt_manifest_free(&m);
  return rc;
}

int ckpt_out_make(dw_engine *e, bool hashes, struct ckpt_out **out) {
  struct ckpt_out *c = calloc(1, sizeof *c);
  if (!c) return dw_fail_nomem(sizeof *c);
  c->engine = e;
  c->env = engine_env(e);
  int rc = c->env->ops->random(c->env, c->id.b, sizeof c->id.b);
  if (rc) {
    free(c);
    return rc;
  }
  char name[33];
  hash128_hex(&c->id, name);
  rc = engine_checkpoint_create(e, name, &c->made);
  if (rc) {
    free(c);
    return rc;
  }
  rc = describe(c, hashes);
  if (rc) {
    char why[400];
    dw_error_copy(why, sizeof why);
    ckpt_out_drop(c);
    return dw_fail(rc, "%s", why);
  }
  *out = c;
  return DW_OK;
}

struct hash128 ckpt_out_id(const struct ckpt_out *c) {
  return c->id;
}
struct wal_pos ckpt_out_pos(const struct ckpt_out *c) {
  return c->made.pos;
}

int ckpt_out_manifest(const struct ckpt_out *c, struct ckpt_manifest *out) {
  return ckpt_manifest_decode(c->manifest.data, c->manifest.len, out);
}

int ckpt_out_read(struct ckpt_out *c, const char *name, uint64_t off, void *buf, uint32_t n) {
  char path[4096 + CKPT_NAME_BYTES + 1];
  snprintf(path, sizeof path, "%s/%s", c->made.path, name);
  if (!c->file || strcmp(c->name, name) != 0) {
    if (c->file) c->env->ops->close(c->file);
    c->file = NULL;
    int rc = c->env->ops->open(c->env, path, ENV_READ, &c->file);
    if (rc) return rc;
    snprintf(c->name, sizeof c->name, "%s", name);
  }
  return env_pread_exact(c->env, c->file, path, off, buf, n);
}

void ckpt_out_drop(struct ckpt_out *c) {
  if (!c) return;
  if (c->file) c->env->ops->close(c->file);
  char name[33];
  hash128_hex(&c->id, name);
  engine_checkpoint_drop(c->engine, name);
  buf_free(&c->manifest);
  free(c);
}
