/* Helpers over the environment's table; see env.h. */
#include "wal/base/env.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/status.h"

int env_pread_exact(struct env *env, struct env_file *f, const char *path, uint64_t off, void *buf, size_t n) {
  size_t got = 0;
  int rc = env->ops->pread(f, off, buf, n, &got);
  if (rc == DW_OK && got != n)
    rc = dw_fail(DW_CORRUPT, "%s: ends at offset %llu, %zu bytes expected at %llu", path,
                 (unsigned long long)(off + got), n, (unsigned long long)off);
  return rc;
}

int env_pwrite(struct env *env, struct env_file *f, uint64_t off, const void *buf, size_t n) {
  struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = n};
  return env->ops->pwritev(f, off, &iov, 1);
}

int env_read_file(struct env *env, const char *path, size_t max, uint8_t **out, size_t *n) {
  struct env_file *f;
  uint8_t *data = NULL;
  uint64_t size = 0;
  int rc = env->ops->open(env, path, ENV_READ, &f);
  if (rc) return rc;
  rc = env->ops->size(f, &size);
  if (rc == DW_OK && size > max)
    rc = dw_fail(DW_CORRUPT, "%s: %llu bytes, at most %zu expected", path, (unsigned long long)size, max);
  if (rc == DW_OK && !(data = malloc(size ? (size_t)size : 1))) rc = dw_fail_nomem((size_t)size);
  if (rc == DW_OK) rc = env_pread_exact(env, f, path, 0, data, (size_t)size);
  env->ops->close(f);
  if (rc) {
    free(data);
    return rc;
  }
  *out = data;
  *n = (size_t)size;
  return DW_OK;
}

int env_write_file_atomic(struct env *env, const char *dir, const char *name, const void *buf, size_t n) {
  size_t len = strlen(dir) + strlen(name) + 8;
  char *path = malloc(len), *tmp = malloc(len);
  struct env_file *f = NULL;
  int rc = path && tmp ? DW_OK : dw_fail_nomem(len);
  if (rc) goto out;
  snprintf(path, len, "%s/%s", dir, name);
  snprintf(tmp, len, "%s/%s.tmp", dir, name);
  rc = env->ops->open(env, tmp, ENV_CREATE, &f);
  if (rc) goto out;
  rc = env->ops->truncate(f, 0);
  if (rc == DW_OK) rc = env_pwrite(env, f, 0, buf, n);
  if (rc == DW_OK) rc = env->ops->fdatasync(f);
  env->ops->close(f);
  if (rc == DW_OK) rc = env->ops->rename(env, tmp, path);
  if (rc == DW_OK) rc = env->ops->sync_dir(env, dir);
out:
  free(path);
  free(tmp);
  return rc;
}

int env_sync_parent(struct env *env, const char *path) {
  size_t n = strlen(path);
  while (n > 1 && path[n - 1] == '/') n--; /* "dir/" is dir */
  while (n > 0 && path[n - 1] != '/') n--;
  while (n > 1 && path[n - 1] == '/') n--;
  if (n == 0) return env->ops->sync_dir(env, ".");
  char *parent = strndup(path, n);
  if (!parent) return dw_fail_nomem(n);
  int rc = env->ops->sync_dir(env, parent);
  free(parent);
  return rc;
}

/* The first entry of a directory, so that a tree can be removed without holding a listing. */
struct first_entry {
  bool found, is_dir;
  char *name;
};

static int take_first(void *arg, const char *name, bool is_dir) {
  struct first_entry *e = arg;
  e->name = strdup(name);
  e->found = true;
  e->is_dir = is_dir;
  return 1;
}

int env_remove_tree(struct env *env, const char *path) {
  bool there = false;
  int rc = env->ops->exists(env, path, &there);
  if (rc || !there) return rc;
  for (;;) {
    struct first_entry e = {0};
    rc = env->ops->list(env, path, take_first, &e);
    if (!e.found) return rc ? rc : env->ops->rmdir(env, path);
    size_t len = strlen(path) + (e.name ? strlen(e.name) : 0) + 2;
    char *child = e.name ? malloc(len) : NULL;
    if (child) {
      snprintf(child, len, "%s/%s", path, e.name);
      rc = e.is_dir ? env_remove_tree(env, child) : env->ops->unlink(env, child);
    } else {
      rc = dw_fail_nomem(len);
    }
    free(child);
    free(e.name);
    if (rc) return rc;
  }
}
