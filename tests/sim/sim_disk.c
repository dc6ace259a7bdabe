/* See sim_disk.h. This file: files, directories, calls. sim_disk_fault.c: what goes wrong with them. */
#include "tests/sim/sim_disk_inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/status.h"

/* ---- inodes ---------------------------------------------------------------------------------- */

struct inode *inode_new(struct sim_disk *d, bool is_dir) {
  struct inode *i = calloc(1, sizeof *i);
  i->disk = d;
  i->is_dir = is_dir;
  i->number = d->next_inode++;
  i->next = d->inodes;
  if (i->next) i->next->prev = i;
  d->inodes = i;
  return i;
}

void entries_free(struct sim_disk *d, struct entries *e) {
  for (size_t i = 0; i < e->n; i++) {
    free(e->at[i].name);
    inode_unref(d, e->at[i].inode);
  }
  free(e->at);
  *e = (struct entries){0};
}

void inode_unref(struct sim_disk *d, struct inode *i) {
  if (--i->refs) return;
  if (i->slot) d->watch.gone(d->watch.ctx, i);
  if (i->next) i->next->prev = i->prev;
  if (i->prev)
    i->prev->next = i->next;
  else
    d->inodes = i->next;
  entries_free(d, &i->now_entries);
  entries_free(d, &i->old_entries);
  free(i->now);
  free(i->old);
  free(i->flags);
  free(i);
}

void **inode_slot(struct inode *i) {
  return &i->slot;
}
void inode_set_proof(struct inode *i, uint64_t proof) {
  i->proof = proof;
}

void inode_grow(struct inode *i, uint64_t bytes) {
  if (bytes <= i->cap) return;
  uint64_t cap = i->cap ? i->cap : 4096;
  while (cap < bytes) cap *= 2;
  i->now = realloc(i->now, cap);
  i->old = realloc(i->old, cap);
  i->flags = realloc(i->flags, cap / SECTOR);
  memset(i->now + i->cap, 0, cap - i->cap);
  memset(i->old + i->cap, 0, cap - i->cap);
  memset(i->flags + i->cap / SECTOR, 0, (cap - i->cap) / SECTOR);
  i->cap = cap;
}

static void inode_write(struct inode *i, uint64_t off, const void *p, size_t n) {
  if (!n) return;
  inode_grow(i, off + n);
  memcpy(i->now + off, p, n);
  for (uint64_t s = off / SECTOR; s <= (off + n - 1) / SECTOR; s++)
    i->flags[s] = (uint8_t)((i->flags[s] | SECTOR_DIRTY) & ~SECTOR_LOST);
  if (i->size < off + n) i->size = off + n;
}

/* ---- directories ----------------------------------------------------------------------------- */

struct inode *entries_find(const struct entries *e, const char *name, size_t len) {
  for (size_t i = 0; i < e->n; i++)
    if (strncmp(e->at[i].name, name, len) == 0 && e->at[i].name[len] == 0) return e->at[i].inode;
  return NULL;
}

void entries_set(struct sim_disk *d, struct entries *e, const char *name, struct inode *inode) {
  inode->refs++;
  for (size_t i = 0; i < e->n; i++) {
    if (strcmp(e->at[i].name, name)) continue;
    struct inode *old = e->at[i].inode;
    e->at[i].inode = inode;
    inode_unref(d, old);
    return;
  }
  if (e->n == e->cap) {
    e->cap = e->cap ? 2 * e->cap : 8;
    e->at = realloc(e->at, e->cap * sizeof *e->at);
  }
  e->at[e->n++] = (struct entry){strdup(name), inode};
}

bool entries_remove(struct sim_disk *d, struct entries *e, const char *name) {
  for (size_t i = 0; i < e->n; i++) {
    if (strcmp(e->at[i].name, name)) continue;
    free(e->at[i].name);
    struct inode *old = e->at[i].inode;
    e->at[i] = e->at[--e->n];
    inode_unref(d, old);
    return true;
  }
  return false;
}

/* The inode at `path` as processes see it, or, with `parent`, the directory above it and the last name. */
static struct inode *walk(struct sim_disk *d, const char *path, struct inode **parent, const char **last) {
  struct inode *at = d->root;
  if (parent) *parent = NULL;
  while (at && *path == '/') {
    while (*path == '/') path++;
    if (!*path) break;
    size_t n = strcspn(path, "/");
    if (!at->is_dir) return NULL;
    if (parent && !path[n]) {
      *parent = at;
      *last = path;
    }
    at = entries_find(&at->now_entries, path, n);
    path += n;
  }
  return at;
}

static void pend(struct sim_disk *d, enum dir_op_kind kind, struct inode *dir, const char *name, struct inode *dir2,
                 const char *name2, struct inode *inode) {
  if (d->ops_n == d->ops_cap) {
    d->ops_cap = d->ops_cap ? 2 * d->ops_cap : 32;
    d->ops = realloc(d->ops, d->ops_cap * sizeof *d->ops);
  }
  struct dir_op *op = &d->ops[d->ops_n++];
  *op = (struct dir_op){.kind = kind, .dir = dir, .dir2 = dir2, .inode = inode};
  snprintf(op->name, sizeof op->name, "%s", name);
  snprintf(op->name2, sizeof op->name2, "%s", name2 ? name2 : "");
  dir->refs++;
  inode->refs++;
  if (dir2) dir2->refs++;
}

void dir_op_apply(struct sim_disk *d, const struct dir_op *op) {
  switch (op->kind) {
  case DIR_LINK: entries_set(d, &op->dir->old_entries, op->name, op->inode); break;
  case DIR_UNLINK:
    if (entries_find(&op->dir->old_entries, op->name, strlen(op->name)) == op->inode)
      entries_remove(d, &op->dir->old_entries, op->name);
    break;
  case DIR_RENAME:
    entries_set(d, &op->dir2->old_entries, op->name2, op->inode);
    if (entries_find(&op->dir->old_entries, op->name, strlen(op->name)) == op->inode)
      entries_remove(d, &op->dir->old_entries, op->name);
    break;
  }
}

void dir_op_release(struct sim_disk *d, struct dir_op *op) {
  inode_unref(d, op->dir);
  if (op->dir2) inode_unref(d, op->dir2);
  inode_unref(d, op->inode);
}

static void settle_dir(struct sim_disk *d, const struct inode *dir) {
  size_t kept = 0;
  for (size_t i = 0; i < d->ops_n; i++) {
    struct dir_op op = d->ops[i];
    if (op.dir != dir && op.dir2 != dir) {
      d->ops[kept++] = op;
      continue;
    }
    dir_op_apply(d, &op);
    dir_op_release(d, &op);
  }
  d->ops_n = kept;
}

/* ---- calls: before each ---------------------------------------------------------------------- */

static struct sim_env *env_of(struct env *e) {
  return (struct sim_env *)e;
}

static int dead(void) {
  return dw_fail(DW_IO, "simulated: this process is dead");
}

/* Counts down to a crash in the middle of things. True: the env works. */
static bool enter(struct sim_env *e) {
  if (e->dead) return false;
  if (e->calls_left && --e->calls_left == 0) e->dead = true;
  return !e->dead;
}

static int inject(struct sim_disk *d, uint32_t ppm, int rc, const char *what, const char *path) {
  if (!rng_ppm(&d->rng, ppm)) return DW_OK;
  d->watch.fault(d->watch.ctx, what, path);
  return dw_fail(rc, "%s: simulated: %s", path, what);
}

static int want_space(struct sim_disk *d, const char *path) {
  if (d->rates.full) return dw_fail(DW_NO_SPACE, "%s: simulated: no space left", path);
  return inject(d, d->rates.no_space, DW_NO_SPACE, "no space left", path);
}

/* ---- files ----------------------------------------------------------------------------------- */

static int file_open(struct sim_env *e, struct inode *i, const char *path, struct env_file **out) {
  struct env_file *f = calloc(1, sizeof *f + strlen(path) + 1);
  strcpy(f->path, path);
  f->env = e;
  f->inode = i;
  i->refs++;
  f->next = e->files;
  if (f->next) f->next->prev = f;
  e->files = f;
  *out = f;
  return DW_OK;
}

static int sim_open(struct env *env, const char *path, enum env_open_mode mode, struct env_file **out) {
  struct sim_env *e = env_of(env);
  struct sim_disk *d = e->disk;
  struct inode *parent, *i;
  const char *name = NULL;
  if (!enter(e)) return dead();
  i = walk(d, path, &parent, &name);
  if (i && i->is_dir) return dw_fail(DW_IO, "open %s: is a directory", path);
  if (i && mode == ENV_CREATE_NEW) return dw_fail(DW_IO, "open %s: exists", path);
  if (!i && (mode == ENV_READ || mode == ENV_WRITE)) return dw_fail(DW_NOT_FOUND, "%s: no such file", path);
  if (!i && !parent) return dw_fail(DW_NOT_FOUND, "%s: no such directory", path);
  int rc = inject(d, d->rates.eio_read, DW_IO, "open fails", path);
  if (rc == DW_OK && !i) {
    rc = want_space(d, path);
    if (rc) return rc;
    i = inode_new(d, false);
    i->is_log = strstr(path, "/wal-") != NULL;
    entries_set(d, &parent->now_entries, name, i);
    pend(d, DIR_LINK, parent, name, NULL, NULL, i);
    d->watch.step(d->watch.ctx, DISK_CREATED, path);
  }
  return rc ? rc : file_open(e, i, path, out);
}

static void sim_close(struct env_file *f) {
  struct sim_env *e = f->env;
  if (f->next) f->next->prev = f->prev;
  if (f->prev)
    f->prev->next = f->next;
  else
    e->files = f->next;
  if (f->locked) f->inode->locked = false;
  inode_unref(e->disk, f->inode);
  free(f);
}

static int sim_pread(struct env_file *f, uint64_t off, void *buf, size_t n, size_t *got) {
  struct sim_disk *d = f->env->disk;
  const struct inode *i = f->inode;
  if (!enter(f->env)) return dead();
  int rc = inject(d, d->rates.eio_read, DW_IO, "read error", f->path);
  if (rc) return rc;
  *got = off >= i->size ? 0 : i->size - off < n ? (size_t)(i->size - off) : n;
  if (*got) memcpy(buf, i->now + off, *got);
  return DW_OK;
}

static void writeback_some(struct sim_disk *d, struct inode *i) {
  for (uint64_t s = 0; s < (i->size + SECTOR - 1) / SECTOR; s++)
    if ((i->flags[s] & SECTOR_DIRTY) && rng_percent(&d->rng, 50)) {
      memcpy(i->old + s * SECTOR, i->now + s * SECTOR, SECTOR);
      i->flags[s] &= (uint8_t)~SECTOR_DIRTY;
    }
}

/* A write that fails, or in which the process dies, may have been done in part, or as a whole. */
static size_t fail_share(struct sim_disk *d, size_t total) {
  uint64_t kind = rng_below(&d->rng, 10);
  return kind < 3 ? 0 : kind < 5 ? total : (size_t)rng_below(&d->rng, total + 1);
}

static int sim_pwritev(struct env_file *f, uint64_t off, const struct iovec *iov, int n) {
  struct sim_disk *d = f->env->disk;
  struct inode *i = f->inode;
  size_t total = 0;
  if (f->env->dead) return dead();
  for (int k = 0; k < n; k++) total += iov[k].iov_len;
  if (i->is_log) d->watch.attempt(d->watch.ctx, i, off, iov, n);
  bool alive = enter(f->env);
  int rc = DW_OK;
  if (alive && d->rates.full && off + total > i->size) rc = want_space(d, f->path);
  if (alive && rc == DW_OK) rc = inject(d, d->rates.no_space, DW_NO_SPACE, "no space left for a write", f->path);
  if (alive && rc == DW_OK) rc = inject(d, d->rates.eio_write, DW_IO, "write error", f->path);
  if (rng_ppm(&d->rng, d->rates.writeback)) writeback_some(d, i);
  size_t done = alive && rc == DW_OK ? total : fail_share(d, total);
  for (int k = 0; k < n && done; k++) {
    size_t len = iov[k].iov_len < done ? iov[k].iov_len : done;
    inode_write(i, off, iov[k].iov_base, len);
    off += len;
    done -= len;
  }
  if (!alive) return dead();
  if (rc == DW_OK && i->is_log) d->watch.wrote(d->watch.ctx, i, off - total, iov, n);
  return rc;
}

void inode_settle(struct inode *i) {
  for (uint64_t s = 0; s < i->cap / SECTOR; s++) {
    if (!(i->flags[s] & SECTOR_DIRTY)) continue;
    memcpy(i->old + s * SECTOR, i->now + s * SECTOR, SECTOR);
    i->flags[s] &= (uint8_t)~SECTOR_DIRTY;
  }
  i->old_size = i->size;
}

/* The kernel reports the error once and calls the pages clean, written or not. */
static void lose_some(struct sim_disk *d, struct inode *i) {
  for (uint64_t s = 0; s < i->cap / SECTOR; s++) {
    if (!(i->flags[s] & SECTOR_DIRTY)) continue;
    i->flags[s] &= (uint8_t)~SECTOR_DIRTY;
    if (rng_percent(&d->rng, 50)) {
      i->flags[s] |= SECTOR_LOST;
      d->lost_pages = true;
    } else {
      memcpy(i->old + s * SECTOR, i->now + s * SECTOR, SECTOR);
    }
  }
  if (rng_percent(&d->rng, 50)) i->old_size = i->size;
}

static int sim_fdatasync(struct env_file *f) {
  struct sim_disk *d = f->env->disk;
  struct inode *i = f->inode;
  if (!enter(f->env)) return dead();
  int rc = inject(d, d->rates.eio_sync, DW_IO, "fdatasync error", f->path);
  if (rc) {
    lose_some(d, i);
    return rc;
  }
  if (i->is_log) {
    i->refs++;
    d->watch.syncing(d->watch.ctx);
    inode_unref(d, i); /* f is open: it holds one */
    if (f->env->dead) return dead();
  }
  inode_settle(i);
  if (i->is_log) d->watch.synced(d->watch.ctx, i);
  return DW_OK;
}

static int sim_size(struct env_file *f, uint64_t *bytes) {
  if (!enter(f->env)) return dead();
  *bytes = f->inode->size;
  return DW_OK;
}

static int sim_truncate(struct env_file *f, uint64_t bytes) {
  struct inode *i = f->inode;
  if (!enter(f->env)) return dead();
  inode_grow(i, bytes);
  if (bytes < i->size) {
    memset(i->now + bytes, 0, i->size - bytes);
    for (uint64_t s = bytes / SECTOR; s <= (i->size - 1) / SECTOR; s++) i->flags[s] |= SECTOR_DIRTY;
  }
  i->size = bytes;
  return DW_OK;
}

static int sim_allocate(struct env_file *f, uint64_t bytes) {
  if (!enter(f->env)) return dead();
  int rc = want_space(f->env->disk, f->path);
  if (rc) return rc;
  inode_grow(f->inode, bytes);
  if (f->inode->size < bytes) f->inode->size = bytes;
  return DW_OK;
}

/* ---- names ----------------------------------------------------------------------------------- */

static int sim_rename(struct env *env, const char *from, const char *to) {
  struct sim_env *e = env_of(env);
  struct sim_disk *d = e->disk;
  struct inode *p1, *p2;
  const char *n1 = NULL, *n2 = NULL;
  if (!enter(e)) return dead();
  struct inode *i = walk(d, from, &p1, &n1), *target = walk(d, to, &p2, &n2);
  if (!i || !p2) return dw_fail(DW_NOT_FOUND, "rename %s to %s: no such file", from, to);
  if (target && (target->is_dir || i->is_dir)) return dw_fail(DW_IO, "rename %s to %s: it exists", from, to);
  int rc = inject(d, d->rates.eio_write, DW_IO, "rename error", from);
  if (rc) return rc;
  d->watch.step(d->watch.ctx, DISK_REPLACES, to);
  if (strstr(to, "/wal-")) i->is_log = true;
  pend(d, DIR_RENAME, p1, n1, p2, n2, i);
  entries_set(d, &p2->now_entries, n2, i);
  entries_remove(d, &p1->now_entries, n1);
  d->watch.step(d->watch.ctx, DISK_RENAMED, to);
  return DW_OK;
}

static int sim_unlink(struct env *env, const char *path) {
  struct sim_env *e = env_of(env);
  struct inode *parent;
  const char *name = NULL;
  if (!enter(e)) return dead();
  struct inode *i = walk(e->disk, path, &parent, &name);
  if (!i) return dw_fail(DW_NOT_FOUND, "%s: no such file", path);
  if (i->is_dir) return dw_fail(DW_IO, "unlink %s: is a directory", path);
  e->disk->watch.step(e->disk->watch.ctx, DISK_REMOVES, path);
  pend(e->disk, DIR_UNLINK, parent, name, NULL, NULL, i);
  entries_remove(e->disk, &parent->now_entries, name);
  return DW_OK;
}

static int sim_mkdir(struct env *env, const char *path) {
  struct sim_env *e = env_of(env);
  struct inode *parent;
  const char *name = NULL;
  if (!enter(e)) return dead();
  struct inode *i = walk(e->disk, path, &parent, &name);
  if (i) return i->is_dir ? DW_OK : dw_fail(DW_IO, "make directory %s: it is a file", path);
  if (!parent) return dw_fail(DW_NOT_FOUND, "make directory %s: no parent", path);
  int rc = want_space(e->disk, path);
  if (rc) return rc;
  i = inode_new(e->disk, true);
  entries_set(e->disk, &parent->now_entries, name, i);
  pend(e->disk, DIR_LINK, parent, name, NULL, NULL, i);
  return DW_OK;
}

static int sim_rmdir(struct env *env, const char *path) {
  struct sim_env *e = env_of(env);
  struct inode *parent;
  const char *name = NULL;
  if (!enter(e)) return dead();
  struct inode *i = walk(e->disk, path, &parent, &name);
  if (!i || !i->is_dir) return dw_fail(DW_IO, "remove directory %s: not there", path);
  if (i->now_entries.n) return dw_fail(DW_IO, "remove directory %s: not empty", path);
  pend(e->disk, DIR_UNLINK, parent, name, NULL, NULL, i);
  entries_remove(e->disk, &parent->now_entries, name);
  return DW_OK;
}

static int sim_sync_dir(struct env *env, const char *path) {
  struct sim_env *e = env_of(env);
  if (!enter(e)) return dead();
  const struct inode *i = walk(e->disk, path, NULL, NULL);
  if (!i || !i->is_dir) return dw_fail(DW_IO, "sync directory %s: not there", path);
  int rc = inject(e->disk, e->disk->rates.eio_sync, DW_IO, "sync of a directory fails", path);
  if (rc == DW_OK) settle_dir(e->disk, i);
  return rc;
}

static int sim_list(struct env *env, const char *path, int (*fn)(void *, const char *, bool), void *arg) {
  struct sim_env *e = env_of(env);
  if (!enter(e)) return dead();
  struct inode *i = walk(e->disk, path, NULL, NULL);
  if (!i || !i->is_dir) return dw_fail(DW_NOT_FOUND, "%s: no such directory", path);
  size_t n = i->now_entries.n, start = n ? (size_t)rng_below(&e->disk->rng, n) : 0;
  struct listed {
    char name[80];
    bool is_dir;
  } *all = calloc(n + 1, sizeof *all); /* a copy: fn may remove what it is told of */
  for (size_t k = 0; k < n; k++) {
    const struct entry *en = &i->now_entries.at[(start + k) % n]; /* in no order to rely on */
    snprintf(all[k].name, sizeof all[k].name, "%s", en->name);
    all[k].is_dir = en->inode->is_dir;
  }
  for (size_t k = 0; k < n; k++)
    if (fn(arg, all[k].name, all[k].is_dir)) break;
  free(all);
  return DW_OK;
}

static int sim_exists(struct env *env, const char *path, bool *yes) {
  struct sim_env *e = env_of(env);
  if (!enter(e)) return dead();
  *yes = walk(e->disk, path, NULL, NULL) != NULL;
  return DW_OK;
}

static int sim_lock(struct env *env, const char *path, struct env_file **out) {
  int rc = sim_open(env, path, ENV_CREATE, out);
  if (rc) return rc;
  if ((*out)->inode->locked) {
    sim_close(*out);
    *out = NULL;
    return dw_fail(DW_LOCKED, "%s is held", path);
  }
  (*out)->inode->locked = (*out)->locked = true;
  return DW_OK;
}

/* ---- clocks and chance ----------------------------------------------------------------------- */

static uint64_t sim_mono(struct env *env) {
  struct sim_disk *d = env_of(env)->disk;
  return d->watch.mono_ns(d->watch.ctx);
}
static uint64_t sim_wall(struct env *env) {
  struct sim_disk *d = env_of(env)->disk;
  return d->watch.wall_ns(d->watch.ctx);
}
static int sim_random(struct env *env, void *buf, size_t n) {
  struct sim_disk *d = env_of(env)->disk;
  uint8_t *p = buf;
  for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(rng_next(&d->ids) >> 32);
  return DW_OK;
}
static bool sim_boot_id(struct env *env, uint8_t id[16]) {
  const struct sim_disk *d = env_of(env)->disk;
  for (int i = 0; i < 16; i++) id[i] = (uint8_t)(mix64(d->boot * 64 + (uint64_t)i / 8 + 1) >> (8 * (i % 8)));
  return true;
}

const struct env_ops sim_env_ops = {.open = sim_open,
                                    .close = sim_close,
                                    .pread = sim_pread,
                                    .pwritev = sim_pwritev,
                                    .fdatasync = sim_fdatasync,
                                    .size = sim_size,
                                    .truncate = sim_truncate,
                                    .allocate = sim_allocate,
                                    .rename = sim_rename,
                                    .unlink = sim_unlink,
                                    .mkdir = sim_mkdir,
                                    .rmdir = sim_rmdir,
                                    .sync_dir = sim_sync_dir,
                                    .list = sim_list,
                                    .exists = sim_exists,
                                    .lock = sim_lock,
                                    .unlock = sim_close,
                                    .mono_ns = sim_mono,
                                    .wall_ns = sim_wall,
                                    .random = sim_random,
                                    .boot_id = sim_boot_id};
