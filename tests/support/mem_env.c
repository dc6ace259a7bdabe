/* See mem_env.h. Directories and names live in one array sorted by path, bytes in reference-counted inodes. Memory for
 * a test that runs out is an assertion: nothing here is under test. */
#include "tests/support/mem_env.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/status.h"

struct inode {
  unsigned refs; /* its name, open files */
  bool is_dir;
  uint8_t *data;
  size_t len, cap;
};

struct name {
  char *path;
  struct inode *inode;
};

struct mem_env {
  struct env env;
  pthread_mutex_t mu;
  struct name *names; /* sorted */
  size_t count, cap;
  uint64_t now_ns, rng;
  uint8_t boot;
  unsigned open_files;
};

struct env_file {
  struct mem_env *m;
  struct inode *inode;
  bool locks;
  char path[]; /* for messages and the lock */
};

static struct mem_env *of(struct env *env) {
  return (struct mem_env *)env;
}

static void *must(void *p) {
  assert(p);
  return p;
}

/* ---- names; mu held ----------------------------------------------------------------------------- */

/* Where the path is, or would be. */
static size_t place(const struct mem_env *m, const char *path, bool *found) {
  size_t lo = 0, hi = m->count;
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    if (strcmp(m->names[mid].path, path) < 0)
      lo = mid + 1;
    else
      hi = mid;
  }
  *found = lo < m->count && strcmp(m->names[lo].path, path) == 0;
  return lo;
}

static struct inode *look(const struct mem_env *m, const char *path) {
  bool found;
  size_t i = place(m, path, &found);
  return found ? m->names[i].inode : NULL;
}

static void inode_unref(struct inode *n) {
  if (--n->refs) return;
  free(n->data);
  free(n);
}

static void link_at(struct mem_env *m, const char *path, struct inode *n) {
  bool found;
  size_t i = place(m, path, &found);
  n->refs++;
  if (found) {
    inode_unref(m->names[i].inode);
    m->names[i].inode = n;
    return;
  }
  if (m->count == m->cap) {
    m->cap = m->cap ? 2 * m->cap : 16;
    m->names = must(realloc(m->names, m->cap * sizeof *m->names));
  }
  memmove(m->names + i + 1, m->names + i, (m->count - i) * sizeof *m->names);
  m->names[i] = (struct name){must(strdup(path)), n};
  m->count++;
}

static void unlink_at(struct mem_env *m, size_t i) {
  free(m->names[i].path);
  inode_unref(m->names[i].inode);
  m->count--;
  memmove(m->names + i, m->names + i + 1, (m->count - i) * sizeof *m->names);
}

static struct inode *make(struct mem_env *m, const char *path, bool is_dir) {
  struct inode *n = must(calloc(1, sizeof *n));
  n->is_dir = is_dir;
  link_at(m, path, n);
  return n;
}

static bool parent_there(const struct mem_env *m, const char *path) {
  const char *slash = strrchr(path, '/');
  if (!slash || slash == path) return true;
  char *parent = must(strndup(path, (size_t)(slash - path)));
  const struct inode *n = look(m, parent);
  free(parent);
  return n && n->is_dir;
}

/* The name directly below directory `dir`, NULL if path is elsewhere or deeper. */
static const char *child(const char *dir, const char *path) {
  size_t n = strlen(dir);
  if (strncmp(dir, path, n) != 0 || path[n] != '/') return NULL;
  return strchr(path + n + 1, '/') ? NULL : path + n + 1;
}

/* ---- files ---------------------------------------------------------------------------------------- */

static void grow(struct inode *n, size_t len) {
  if (len <= n->len) return;
  if (len > n->cap) {
    size_t cap = n->cap ? n->cap : 256;
    while (cap < len) cap *= 2;
    n->data = must(realloc(n->data, cap));
    n->cap = cap;
  }
  memset(n->data + n->len, 0, len - n->len);
  n->len = len;
}

static int m_open(struct env *env, const char *path, enum env_open_mode mode, struct env_file **out) {
  struct mem_env *m = of(env);
  pthread_mutex_lock(&m->mu);
  struct inode *n = look(m, path);
  int rc = DW_OK;
  if (n && n->is_dir)
    rc = dw_fail(DW_IO, "open %s: Is a directory", path);
  else if (n && mode == ENV_CREATE_NEW)
    rc = dw_fail(DW_IO, "open %s: File exists", path);
  else if (!n && (mode == ENV_READ || mode == ENV_WRITE || !parent_there(m, path)))
    rc = dw_fail(DW_NOT_FOUND, "open %s: No such file or directory", path);
  if (rc == DW_OK) {
    if (!n) n = make(m, path, false);
    struct env_file *f = must(calloc(1, sizeof *f + strlen(path) + 1));
    *f = (struct env_file){.m = m, .inode = n};
    strcpy(f->path, path);
    n->refs++;
    m->open_files++;
    *out = f;
  }
  pthread_mutex_unlock(&m->mu);
  return rc;
}

static void m_close(struct env_file *f) {
  if (!f) return;
  struct mem_env *m = f->m;
  pthread_mutex_lock(&m->mu);
  inode_unref(f->inode);
  m->open_files--;
  pthread_mutex_unlock(&m->mu);
  free(f);
}

static int m_pread(struct env_file *f, uint64_t off, void *buf, size_t n, size_t *got) {
  pthread_mutex_lock(&f->m->mu);
  const struct inode *i = f->inode;
  size_t left = off < i->len ? i->len - (size_t)off : 0;
  *got = n < left ? n : left;
  if (*got) memcpy(buf, i->data + off, *got);
  pthread_mutex_unlock(&f->m->mu);
  return DW_OK;
}

static int m_pwritev(struct env_file *f, uint64_t off, const struct iovec *iov, int cnt) {
  size_t total = 0;
  for (int i = 0; i < cnt; i++) total += iov[i].iov_len;
  if (off + total > ((uint64_t)1 << 32)) return dw_fail(DW_NO_SPACE, "pwritev %s: File too large", f->path);
  pthread_mutex_lock(&f->m->mu);
  grow(f->inode, (size_t)off + total);
  for (int i = 0; i < cnt; i++) {
    if (iov[i].iov_len) memcpy(f->inode->data + off, iov[i].iov_base, iov[i].iov_len);
    off += iov[i].iov_len;
  }
  pthread_mutex_unlock(&f->m->mu);
  return DW_OK;
}

static int m_fdatasync(struct env_file *f) {
  (void)f;
  return DW_OK;
}

static int m_size(struct env_file *f, uint64_t *bytes) {
  pthread_mutex_lock(&f->m->mu);
  *bytes = f->inode->len;
  pthread_mutex_unlock(&f->m->mu);
  return DW_OK;
}

static int m_truncate(struct env_file *f, uint64_t bytes) {
  if (bytes > ((uint64_t)1 << 32)) return dw_fail(DW_NO_SPACE, "truncate %s: File too large", f->path);
  pthread_mutex_lock(&f->m->mu);
  if (bytes < f->inode->len)
    f->inode->len = (size_t)bytes;
  else
    grow(f->inode, (size_t)bytes);
  pthread_mutex_unlock(&f->m->mu);
  return DW_OK;
}

static int m_allocate(struct env_file *f, uint64_t bytes) {
  return bytes > f->inode->len ? m_truncate(f, bytes) : DW_OK;
}

/* ---- directories ------------------------------------------------------------------------------------ */

/* A file takes another's name; a directory is renamed with all that is in it. */
static int m_rename(struct env *env, const char *from, const char *to) {
  struct mem_env *m = of(env);
  pthread_mutex_lock(&m->mu);
  bool found;
  size_t at = place(m, from, &found), n = strlen(from);
  int rc = found ? DW_OK : dw_fail(DW_NOT_FOUND, "rename %s: No such file or directory", from);
  struct inode *inode = rc == DW_OK ? m->names[at].inode : NULL;
  if (inode && strcmp(from, to) != 0) {
    inode->refs++;
    unlink_at(m, at);
    link_at(m, to, inode);
    inode->refs--;
  }
  for (size_t i = 0; inode && inode->is_dir && strcmp(from, to) != 0 && i < m->count;) {
    if (strncmp(m->names[i].path, from, n) != 0 || m->names[i].path[n] != '/') {
      i++;
      continue;
    }
    struct inode *moved = m->names[i].inode;
    size_t len = strlen(to) + strlen(m->names[i].path + n) + 1;
    char *path = must(malloc(len));
    snprintf(path, len, "%s%s", to, m->names[i].path + n);
    moved->refs++;
    unlink_at(m, i);
    link_at(m, path, moved);
    moved->refs--;
    free(path);
    i = 0;
  }
  pthread_mutex_unlock(&m->mu);
  return rc;
}

static int m_unlink(struct env *env, const char *path) {
  struct mem_env *m = of(env);
  pthread_mutex_lock(&m->mu);
  bool found;
  size_t i = place(m, path, &found);
  int rc = found ? DW_OK : dw_fail(DW_NOT_FOUND, "unlink %s: No such file or directory", path);
  if (rc == DW_OK && m->names[i].inode->is_dir) rc = dw_fail(DW_IO, "unlink %s: Is a directory", path);
  if (rc == DW_OK) unlink_at(m, i);
  pthread_mutex_unlock(&m->mu);
  return rc;
}

static int m_mkdir(struct env *env, const char *path) {
  struct mem_env *m = of(env);
  pthread_mutex_lock(&m->mu);
  const struct inode *n = look(m, path);
  int rc = DW_OK;
  if (n && !n->is_dir)
    rc = dw_fail(DW_IO, "mkdir %s: File exists", path);
  else if (!n && !parent_there(m, path))
    rc = dw_fail(DW_NOT_FOUND, "mkdir %s: No such file or directory", path);
  else if (!n)
    make(m, path, true);
  pthread_mutex_unlock(&m->mu);
  return rc;
}

static int m_rmdir(struct env *env, const char *path) {
  struct mem_env *m = of(env);
  pthread_mutex_lock(&m->mu);
  bool found;
  size_t i = place(m, path, &found);
  int rc = found ? DW_OK : dw_fail(DW_NOT_FOUND, "rmdir %s: No such file or directory", path);
  for (size_t j = 0; rc == DW_OK && j < m->count; j++)
    if (child(path, m->names[j].path)) rc = dw_fail(DW_IO, "rmdir %s: Directory not empty", path);
  if (rc == DW_OK) unlink_at(m, i);
  pthread_mutex_unlock(&m->mu);
  return rc;
}

static int m_sync_dir(struct env *env, const char *path) {
  bool there = strcmp(path, ".") == 0; /* where everything is */
  if (!there) (void)env->ops->exists(env, path, &there);
  return there ? DW_OK : dw_fail(DW_NOT_FOUND, "fsync %s: No such file or directory", path);
}

/* The callback may change files, so it gets copies, without the lock. */
static int m_list(struct env *env, const char *path, int (*fn)(void *, const char *, bool), void *arg) {
  struct mem_env *m = of(env);
  pthread_mutex_lock(&m->mu);
  const struct inode *dir = look(m, path);
  int rc = dir && dir->is_dir ? DW_OK : dw_fail(DW_NOT_FOUND, "open %s: No such file or directory", path);
  char **names = must(calloc(m->count + 1, sizeof *names));
  bool *dirs = must(calloc(m->count + 1, sizeof *dirs));
  size_t n = 0;
  for (size_t i = 0; rc == DW_OK && i < m->count; i++) {
    const char *name = child(path, m->names[i].path);
    if (!name) continue;
    dirs[n] = m->names[i].inode->is_dir;
    names[n++] = must(strdup(name));
  }
  pthread_mutex_unlock(&m->mu);
  for (size_t i = 0; rc == DW_OK && i < n; i++) rc = fn(arg, names[i], dirs[i]);
  for (size_t i = 0; i < n; i++) free(names[i]);
  free(names);
  free(dirs);
  return rc;
}

static int m_exists(struct env *env, const char *path, bool *yes) {
  struct mem_env *m = of(env);
  pthread_mutex_lock(&m->mu);
  *yes = look(m, path) != NULL;
  pthread_mutex_unlock(&m->mu);
  return DW_OK;
}

/* Only files that were locked through us count; a second lock finds the first one's mark in the inode's length. */
static int m_lock(struct env *env, const char *path, struct env_file **out) {
  int rc = m_open(env, path, ENV_CREATE, out);
  if (rc) return rc;
  struct env_file *f = *out;
  pthread_mutex_lock(&f->m->mu);
  bool taken = f->inode->len > 0;
  if (!taken) grow(f->inode, 1);
  f->locks = !taken;
  pthread_mutex_unlock(&f->m->mu);
  if (!taken) return DW_OK;
  m_close(f);
  return dw_fail(DW_LOCKED, "lock %s: somebody has it", path);
}

static void m_unlock(struct env_file *f) {
  if (f->locks) (void)m_truncate(f, 0);
  m_close(f);
}

/* ---- the rest ---------------------------------------------------------------------------------------- */

static uint64_t m_mono(struct env *env) {
  struct mem_env *m = of(env);
  pthread_mutex_lock(&m->mu);
  uint64_t now = m->now_ns += 1000;
  pthread_mutex_unlock(&m->mu);
  return now;
}
static uint64_t m_wall(struct env *env) {
  return 1700000000000000000ull + m_mono(env);
}

static int m_random(struct env *env, void *buf, size_t n) {
  struct mem_env *m = of(env);
  pthread_mutex_lock(&m->mu);
  for (size_t i = 0; i < n; i++) {
    m->rng = m->rng * 6364136223846793005ull + 1442695040888963407ull;
    ((uint8_t *)buf)[i] = (uint8_t)(m->rng >> 56);
  }
  pthread_mutex_unlock(&m->mu);
  return DW_OK;
}

static bool m_boot_id(struct env *env, uint8_t id[16]) {
  memset(id, of(env)->boot, 16);
  return of(env)->boot != 0;
}

struct mem_env *mem_env_create(void) {
  static const struct env_ops ops = {.open = m_open,
                                     .close = m_close,
                                     .pread = m_pread,
                                     .pwritev = m_pwritev,
                                     .fdatasync = m_fdatasync,
                                     .size = m_size,
                                     .truncate = m_truncate,
                                     .allocate = m_allocate,
                                     .rename = m_rename,
                                     .unlink = m_unlink,
                                     .mkdir = m_mkdir,
                                     .rmdir = m_rmdir,
                                     .sync_dir = m_sync_dir,
                                     .list = m_list,
                                     .exists = m_exists,
                                     .lock = m_lock,
                                     .unlock = m_unlock,
                                     .mono_ns = m_mono,
                                     .wall_ns = m_wall,
                                     .random = m_random,
                                     .boot_id = m_boot_id};
  struct mem_env *m = must(calloc(1, sizeof *m));
  m->env.ops = &ops;
  m->now_ns = 1000000000;
  m->boot = 1;
  m->rng = 1;
  pthread_mutex_init(&m->mu, NULL);
  return m;
}

void mem_env_clear(struct mem_env *m) {
  pthread_mutex_lock(&m->mu);
  while (m->count) unlink_at(m, m->count - 1);
  pthread_mutex_unlock(&m->mu);
}

void mem_env_destroy(struct mem_env *m) {
  if (!m) return;
  assert(m->open_files == 0);
  mem_env_clear(m);
  pthread_mutex_destroy(&m->mu);
  free(m->names);
  free(m);
}

struct env *mem_env_env(struct mem_env *m) {
  return &m->env;
}
void mem_env_seed(struct mem_env *m, uint64_t seed) {
  m->rng = seed;
}
void mem_env_boot(struct mem_env *m, uint8_t id) {
  m->boot = id;
}
void mem_env_advance(struct mem_env *m, uint64_t ns) {
  m->now_ns += ns;
}
unsigned mem_env_open_files(struct mem_env *m) {
  return m->open_files;
}

void mem_env_put(struct mem_env *m, const char *path, const void *bytes, size_t n) {
  pthread_mutex_lock(&m->mu);
  for (const char *slash = path; (slash = strchr(slash + 1, '/'));) {
    char *dir = must(strndup(path, (size_t)(slash - path)));
    if (!look(m, dir)) make(m, dir, true);
    free(dir);
  }
  struct inode *i = look(m, path);
  if (!i) i = make(m, path, false);
  i->len = 0;
  grow(i, n);
  if (n) memcpy(i->data, bytes, n);
  pthread_mutex_unlock(&m->mu);
}

uint8_t *mem_env_bytes(struct mem_env *m, const char *path, size_t *n) {
  pthread_mutex_lock(&m->mu);
  struct inode *i = look(m, path);
  uint8_t *data = NULL;
  *n = 0;
  if (i && !i->is_dir) {
    if (!i->data) i->data = must(calloc(1, i->cap = 256));
    data = i->data;
    *n = i->len;
  }
  pthread_mutex_unlock(&m->mu);
  return data;
}

void mem_env_each(struct mem_env *m, void (*fn)(void *, const char *, const uint8_t *, size_t), void *arg) {
  for (size_t i = 0; i < m->count; i++) {
    const struct inode *n = m->names[i].inode;
    if (!n->is_dir) fn(arg, m->names[i].path, n->data ? n->data : (const uint8_t *)"", n->len);
  }
}
