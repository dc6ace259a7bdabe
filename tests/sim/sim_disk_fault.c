/* What happens to a simulated disk: processes come and go, the power fails, bytes rot. See sim_disk.h. */
#include "tests/sim/sim_disk_inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/status.h"

struct sim_disk *disk_create(uint64_t seed, const struct disk_watch *watch) {
  struct sim_disk *d = calloc(1, sizeof *d);
  d->watch = *watch;
  d->rng = rng_make(seed, 1);
  d->ids = rng_make(seed, 2);
  d->boot = rng_next(&d->ids);
  d->root = inode_new(d, true);
  d->root->refs = 1;
  return d;
}

static void drop_ops(struct sim_disk *d) {
  for (size_t i = 0; i < d->ops_n; i++) dir_op_release(d, &d->ops[i]);
  d->ops_n = 0;
}

static void drop_damage(struct sim_disk *d) {
  for (size_t i = 0; i < d->damage_n; i++) inode_unref(d, d->damage[i].inode);
  d->damage_n = 0;
}

void disk_destroy(struct sim_disk *d) {
  disk_release(d);
  drop_ops(d);
  drop_damage(d);
  inode_unref(d, d->root);
  free(d->ops);
  free(d->damage);
  free(d);
}

struct disk_rates *disk_rates(struct sim_disk *d) {
  return &d->rates;
}
uint32_t disk_power_cuts(const struct sim_disk *d) {
  return d->power_cuts;
}
bool disk_lost_pages(const struct sim_disk *d) {
  return d->lost_pages;
}
void disk_forget_lost(struct sim_disk *d) {
  d->lost_pages = false;
}

/* ---- processes ------------------------------------------------------------------------------- */

/* Pages that a failed fdatasync called clean are dropped from the cache sooner or later: here. */
static void evict_lost(struct sim_disk *d) {
  for (struct inode *i = d->inodes; i; i = i->next)
    for (uint64_t s = 0; s < i->cap / SECTOR; s++) {
      if (!(i->flags[s] & SECTOR_LOST)) continue;
      memcpy(i->now + s * SECTOR, i->old + s * SECTOR, SECTOR);
      i->flags[s] &= (uint8_t)~SECTOR_LOST;
    }
}

struct env *disk_boot(struct sim_disk *d) {
  disk_release(d);
  if (rng_percent(&d->rng, 70)) evict_lost(d);
  d->env = calloc(1, sizeof *d->env);
  d->env->env.ops = &sim_env_ops;
  d->env->disk = d;
  return &d->env->env;
}

bool disk_alive(const struct sim_disk *d) {
  return d->env && !d->env->dead;
}

void disk_kill(struct sim_disk *d) {
  if (d->env) d->env->dead = true;
}

void disk_kill_after(struct sim_disk *d, uint32_t calls) {
  if (d->env) d->env->calls_left = calls;
}

void disk_release(struct sim_disk *d) {
  if (!d->env) return;
  while (d->env->files) sim_env_ops.close(d->env->files);
  free(d->env);
  d->env = NULL;
}

/* ---- power ----------------------------------------------------------------------------------- */

static void cut_file(struct sim_disk *d, struct inode *i) {
  uint64_t size = i->size == i->old_size || rng_percent(&d->rng, 50) ? i->old_size : i->size;
  unsigned keep = (unsigned)rng_below(&d->rng, 101); /* some cuts lose nearly all, some nearly nothing */
  for (uint64_t s = 0; s < i->cap / SECTOR; s++) {
    uint8_t *now = i->now + s * SECTOR, *old = i->old + s * SECTOR;
    if (i->flags[s] & SECTOR_DIRTY) {
      size_t n = rng_percent(&d->rng, keep) ? SECTOR : 0;
      if (rng_ppm(&d->rng, d->rates.tear_in_sector)) n = (size_t)rng_below(&d->rng, SECTOR);
      memcpy(old, now, n);
    }
    if (i->flags[s]) memcpy(now, old, SECTOR);
    i->flags[s] = 0;
  }
  if (size < i->cap) {
    memset(i->now + size, 0, i->cap - size);
    memset(i->old + size, 0, i->cap - size);
  }
  i->size = i->old_size = size;
}

static void revert_dir(struct sim_disk *d, struct inode *i) {
  struct entries was = i->now_entries;
  i->now_entries = (struct entries){0};
  for (size_t k = 0; k < i->old_entries.n; k++)
    entries_set(d, &i->now_entries, i->old_entries.at[k].name, i->old_entries.at[k].inode);
  entries_free(d, &was);
}

void disk_power_cut(struct sim_disk *d) {
  disk_release(d);
  /* A journal keeps a prefix of what was done to directories; POSIX alone promises not even that. */
  bool journal = rng_percent(&d->rng, 60);
  size_t prefix = (size_t)rng_below(&d->rng, d->ops_n + 1);
  unsigned keep = (unsigned)rng_below(&d->rng, 101);
  for (size_t i = 0; i < d->ops_n; i++)
    if (journal ? i < prefix : rng_percent(&d->rng, keep)) dir_op_apply(d, &d->ops[i]);
  drop_ops(d);
  /* Hold every inode while directories are rewritten: the list must not change under the walk. */
  for (struct inode *i = d->inodes; i; i = i->next) i->refs++;
  for (struct inode *i = d->inodes; i; i = i->next) {
    if (i->is_dir)
      revert_dir(d, i);
    else
      cut_file(d, i);
    i->locked = false;
  }
  for (struct inode *i = d->inodes, *next; i; i = next) {
    next = i->next;
    if (next) next->refs++; /* releasing this one may take others along */
    inode_unref(d, i);
    if (next) next->refs--;
  }
  d->boot = rng_next(&d->ids);
  d->power_cuts++;
}

void disk_wipe(struct sim_disk *d) {
  disk_release(d);
  drop_ops(d);
  drop_damage(d);
  inode_unref(d, d->root);
  d->root = inode_new(d, true);
  d->root->refs = 1;
  d->lost_pages = false;
}

/* ---- looking ---------------------------------------------------------------------------------- */

static const struct entries *entries_at(const struct sim_disk *d, const char *path, bool durable) {
  const struct inode *at = d->root;
  for (;;) {
    const struct entries *in = durable ? &at->old_entries : &at->now_entries;
    while (*path == '/') path++;
    if (!*path) return in;
    size_t n = strcspn(path, "/");
    at = entries_find(in, path, n);
    if (!at || !at->is_dir) return NULL;
    path += n;
  }
}

void disk_each(const struct sim_disk *d, const char *dir, bool durable, disk_file_fn fn, void *arg) {
  const struct entries *in = entries_at(d, dir, durable);
  for (size_t k = 0; in && k < in->n; k++) {
    struct inode *i = in->at[k].inode;
    if (!i->is_dir) fn(arg, in->at[k].name, i, durable ? i->old : i->now, durable ? i->old_size : i->size);
  }
}

void disk_each_dir(const struct sim_disk *d, const char *dir, void (*fn)(void *arg, const char *name), void *arg) {
  const struct entries *in = entries_at(d, dir, false);
  for (size_t k = 0; in && k < in->n; k++)
    if (in->at[k].inode->is_dir) fn(arg, in->at[k].name);
}

/* ---- rot ------------------------------------------------------------------------------------- */

/* Is this sector one whose loss must be noticed? Synced, in a file with a name, and, in the log, with a synced proof
 * behind it that it was synced: docs/decisions/0001 says why nobody can tell rot from a tear elsewhere. */
static bool may_rot(const struct inode *i, uint64_t s) {
  if (i->flags[s] || (s + 1) * SECTOR > i->old_size + SECTOR - 1) return false;
  return !i->is_log || (s + 1) * SECTOR <= i->proof;
}

static struct inode *pick_file(struct sim_disk *d, struct inode *dir, unsigned depth) {
  struct inode *found = NULL;
  uint64_t seen = 0;
  for (size_t k = 0; k < dir->old_entries.n; k++) {
    struct inode *i = dir->old_entries.at[k].inode;
    if (i->is_dir && depth < 4) i = pick_file(d, i, depth + 1);
    if (!i || i->is_dir || i->old_size == 0) continue;
    if (rng_below(&d->rng, ++seen) == 0) found = i;
  }
  return found;
}

bool disk_rot(struct sim_disk *d, char *what, size_t cap) {
  struct inode *i = pick_file(d, d->root, 0);
  if (!i) return false;
  uint64_t sectors = (i->old_size + SECTOR - 1) / SECTOR, s = rng_below(&d->rng, sectors);
  if (!may_rot(i, s)) return false;
  if (d->damage_n == d->damage_cap) {
    d->damage_cap = d->damage_cap ? 2 * d->damage_cap : 8;
    d->damage = realloc(d->damage, d->damage_cap * sizeof *d->damage);
  }
  struct damage *g = &d->damage[d->damage_n];
  uint8_t *now = i->now + s * SECTOR;
  g->inode = i;
  g->sector = s;
  memcpy(g->was, now, SECTOR);
  memcpy(g->is, now, SECTOR);
  unsigned kind = (unsigned)rng_below(&d->rng, 3);
  if (kind == 0) g->is[rng_below(&d->rng, SECTOR)] ^= (uint8_t)(1u << rng_below(&d->rng, 8));
  if (kind == 1) memset(g->is, 0, SECTOR);
  if (kind == 2) memcpy(g->is, i->now + rng_below(&d->rng, sectors) * SECTOR, SECTOR);
  uint64_t end = i->old_size - s * SECTOR;
  if (end < SECTOR) memcpy(g->is + end, g->was + end, SECTOR - end);
  if (memcmp(g->is, g->was, SECTOR) == 0) return false;
  memcpy(now, g->is, SECTOR);
  memcpy(i->old + s * SECTOR, g->is, SECTOR);
  i->refs++;
  d->damage_n++;
  snprintf(what, cap, "%s of file %llu, sector %llu",
           kind == 0   ? "a bit flip"
           : kind == 1 ? "zeroes"
                       : "a misdirected write",
           (unsigned long long)i->number, (unsigned long long)s);
  return true;
}

bool disk_repair(struct sim_disk *d) {
  bool undone = false;
  for (size_t k = d->damage_n; k-- > 0;) {
    struct damage *g = &d->damage[k];
    struct inode *i = g->inode;
    uint8_t *now = i->now + g->sector * SECTOR;
    if (!i->flags[g->sector] && memcmp(now, g->is, SECTOR) == 0) {
      memcpy(now, g->was, SECTOR);
      memcpy(i->old + g->sector * SECTOR, g->was, SECTOR);
      undone = true;
    }
  }
  drop_damage(d);
  return undone;
}
