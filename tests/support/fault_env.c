#include "tests/support/fault_env.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/status.h"

struct fault {
  unsigned calls, at;
  int rc;
  bool sticky;
};

struct fault_env {
  struct env env;
  struct env *base;
  pthread_mutex_t mu;
  struct fault faults[FAULT_OPS];
  bool own_boot;
  uint8_t boot;
  const char *only;
  const char *bad_path; /* bytes [bad_from, bad_to) of it can't be read */
  uint64_t bad_from, bad_to;
};

struct env_file {
  struct fault_env *f;
  struct env_file *base;
  char *path;
};

static struct fault_env *of(struct env *env) {
  return (struct fault_env *)env;
}

static int check(struct fault_env *f, enum fault_op op, const char *path) {
  static const char *const names[] = {"open",     "pread",  "pwritev", "fdatasync", "allocate",
                                      "truncate", "rename", "unlink",  "sync_dir"};
  pthread_mutex_lock(&f->mu);
  struct fault *t = &f->faults[op];
  int rc = DW_OK;
  if (!f->only || strstr(path, f->only)) {
    t->calls++;
    if (t->at && (t->calls == t->at || (t->sticky && t->calls > t->at))) rc = t->rc;
  }
  pthread_mutex_unlock(&f->mu);
  return rc ? dw_fail(rc, "%s %s: injected fault", names[op], path) : DW_OK;
}

static int wrap(struct fault_env *f, struct env_file *base, const char *path, struct env_file **out) {
  struct env_file *file = malloc(sizeof *file);
  *file = (struct env_file){f, base, strdup(path)};
  *out = file;
  return DW_OK;
}

static int f_open(struct env *env, const char *path, enum env_open_mode mode, struct env_file **out) {
  struct env_file *base;
  int rc = check(of(env), FAULT_OPEN, path);
  if (rc == DW_OK) rc = of(env)->base->ops->open(of(env)->base, path, mode, &base);
  return rc ? rc : wrap(of(env), base, path, out);
}
static void f_close(struct env_file *x) {
  if (!x) return;
  x->f->base->ops->close(x->base);
  free(x->path);
  free(x);
}
static int f_pread(struct env_file *x, uint64_t off, void *buf, size_t n, size_t *got) {
  int rc = check(x->f, FAULT_PREAD, x->path);
  if (rc == DW_OK && x->f->bad_path && strstr(x->path, x->f->bad_path) && off < x->f->bad_to &&
      off + n > x->f->bad_from)
    rc = dw_fail(DW_IO, "pread %s: bad sector", x->path);
  return rc ? rc : x->f->base->ops->pread(x->base, off, buf, n, got);
}
static int f_pwritev(struct env_file *x, uint64_t off, const struct iovec *iov, int n) {
  int rc = check(x->f, FAULT_PWRITEV, x->path);
  if (rc == DW_OK) return x->f->base->ops->pwritev(x->base, off, iov, n);
  size_t left = 0;
  for (int i = 0; i < n; i++) left += iov[i].iov_len;
  left /= 2;
  for (int i = 0; i < n && left > 0; i++) {
    struct iovec part = iov[i];
    if (part.iov_len > left) part.iov_len = left;
    if (x->f->base->ops->pwritev(x->base, off, &part, 1)) break;
    off += part.iov_len;
    left -= part.iov_len;
  }
  return dw_fail(rc, "pwritev %s: injected fault", x->path);
}
static int f_fdatasync(struct env_file *x) {
  int rc = check(x->f, FAULT_FDATASYNC, x->path);
  return rc ? rc : x->f->base->ops->fdatasync(x->base);
}
static int f_size(struct env_file *x, uint64_t *n) {
  return x->f->base->ops->size(x->base, n);
}
static int f_truncate(struct env_file *x, uint64_t n) {
  int rc = check(x->f, FAULT_TRUNCATE, x->path);
  return rc ? rc : x->f->base->ops->truncate(x->base, n);
}
static int f_allocate(struct env_file *x, uint64_t n) {
  int rc = check(x->f, FAULT_ALLOCATE, x->path);
  return rc ? rc : x->f->base->ops->allocate(x->base, n);
}
static int f_rename(struct env *env, const char *from, const char *to) {
  int rc = check(of(env), FAULT_RENAME, from);
  return rc ? rc : of(env)->base->ops->rename(of(env)->base, from, to);
}
static int f_unlink(struct env *env, const char *path) {
  int rc = check(of(env), FAULT_UNLINK, path);
  return rc ? rc : of(env)->base->ops->unlink(of(env)->base, path);
}
static int f_mkdir(struct env *env, const char *path) {
  return of(env)->base->ops->mkdir(of(env)->base, path);
}
static int f_rmdir(struct env *env, const char *path) {
  return of(env)->base->ops->rmdir(of(env)->base, path);
}
static int f_sync_dir(struct env *env, const char *path) {
  int rc = check(of(env), FAULT_SYNC_DIR, path);
  return rc ? rc : of(env)->base->ops->sync_dir(of(env)->base, path);
}
static int f_list(struct env *env, const char *path, int (*fn)(void *, const char *, bool), void *arg) {
  return of(env)->base->ops->list(of(env)->base, path, fn, arg);
}
static int f_exists(struct env *env, const char *path, bool *yes) {
  return of(env)->base->ops->exists(of(env)->base, path, yes);
}
static int f_lock(struct env *env, const char *path, struct env_file **out) {
  struct env_file *base;
  int rc = of(env)->base->ops->lock(of(env)->base, path, &base);
  return rc ? rc : wrap(of(env), base, path, out);
}
static void f_unlock(struct env_file *x) {
  x->f->base->ops->unlock(x->base);
  free(x->path);
  free(x);
}
static uint64_t f_mono(struct env *env) {
  return of(env)->base->ops->mono_ns(of(env)->base);
}
static uint64_t f_wall(struct env *env) {
  return of(env)->base->ops->wall_ns(of(env)->base);
}
static int f_random(struct env *env, void *buf, size_t n) {
  return of(env)->base->ops->random(of(env)->base, buf, n);
}
static bool f_boot(struct env *env, uint8_t id[16]) {
  if (!of(env)->own_boot) return of(env)->base->ops->boot_id(of(env)->base, id);
  memset(id, of(env)->boot, 16);
  return of(env)->boot != 0;
}

struct fault_env *fault_env_create(struct env *base) {
  static const struct env_ops ops = {.open = f_open,
                                     .close = f_close,
                                     .pread = f_pread,
                                     .pwritev = f_pwritev,
                                     .fdatasync = f_fdatasync,
                                     .size = f_size,
                                     .truncate = f_truncate,
                                     .allocate = f_allocate,
                                     .rename = f_rename,
                                     .unlink = f_unlink,
                                     .mkdir = f_mkdir,
                                     .rmdir = f_rmdir,
                                     .sync_dir = f_sync_dir,
                                     .list = f_list,
                                     .exists = f_exists,
                                     .lock = f_lock,
                                     .unlock = f_unlock,
                                     .mono_ns = f_mono,
                                     .wall_ns = f_wall,
                                     .random = f_random,
                                     .boot_id = f_boot};
  struct fault_env *f = calloc(1, sizeof *f);
  f->env.ops = &ops;
  f->base = base;
  pthread_mutex_init(&f->mu, NULL);
  return f;
}

void fault_env_destroy(struct fault_env *f) {
  if (!f) return;
  pthread_mutex_destroy(&f->mu);
  free(f);
}

struct env *fault_env_env(struct fault_env *f) {
  return &f->env;
}

void fault_env_fail(struct fault_env *f, enum fault_op op, unsigned nth, int rc, bool sticky) {
  pthread_mutex_lock(&f->mu);
  struct fault *t = &f->faults[op];
  *t = (struct fault){.calls = t->calls, .at = nth ? t->calls + nth : 0, .rc = rc, .sticky = sticky};
  pthread_mutex_unlock(&f->mu);
}

unsigned fault_env_calls(struct fault_env *f, enum fault_op op) {
  pthread_mutex_lock(&f->mu);
  unsigned n = f->faults[op].calls;
  pthread_mutex_unlock(&f->mu);
  return n;
}

void fault_env_boot(struct fault_env *f, uint8_t id) {
  f->own_boot = true;
  f->boot = id;
}

void fault_env_bad_sector(struct fault_env *f, const char *path, uint64_t from, uint64_t to) {
  f->bad_path = path;
  f->bad_from = from;
  f->bad_to = to;
}

void fault_env_only(struct fault_env *f, const char *text) {
  f->only = text;
}
