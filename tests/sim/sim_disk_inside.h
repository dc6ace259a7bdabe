/* The inside of struct sim_disk, shared by sim_disk.c (calls) and sim_disk_fault.c (crashes, damage). */
#ifndef DW_SIM_DISK_INSIDE_H
#define DW_SIM_DISK_INSIDE_H

#include "tests/sim/sim_disk.h"

enum { SECTOR_DIRTY = 1, SECTOR_LOST = 2 };

struct entry {
  char *name;
  struct inode *inode;
};
struct entries {
  struct entry *at;
  size_t n, cap;
};

/* Counted by: entries now and on disk, pending operations, open files. */
struct inode {
  struct sim_disk *disk;
  struct inode *next, *prev;
  uint64_t number;
  unsigned refs;
  bool is_dir, is_log, locked;
  struct entries now_entries, old_entries;
  uint8_t *now, *old, *flags; /* page cache, disk, per sector */
  uint64_t size, old_size, cap;
  uint64_t proof;
  void *slot;
};

enum dir_op_kind { DIR_LINK, DIR_UNLINK, DIR_RENAME };
struct dir_op {
  enum dir_op_kind kind;
  struct inode *dir, *dir2, *inode;
  char name[80], name2[80];
};

/* A damaged sector, to be put right again. */
struct damage {
  struct inode *inode; /* counted */
  uint64_t sector;
  uint8_t was[SECTOR], is[SECTOR];
};

struct env_file {
  struct sim_env *env;
  struct env_file *next, *prev;
  struct inode *inode;
  bool locked;
  char path[];
};

struct sim_env {
  struct env env;
  struct sim_disk *disk;
  struct env_file *files;
  uint32_t calls_left; /* 0: no crash planned */
  bool dead;
};

struct sim_disk {
  struct disk_watch watch;
  struct disk_rates rates;
  struct rng rng, ids;
  struct inode *root, *inodes;
  uint64_t next_inode, boot;
  struct dir_op *ops; /* not yet synced, in the order in which they were done */
  size_t ops_n, ops_cap;
  struct sim_env *env;
  struct damage *damage;
  size_t damage_n, damage_cap;
  bool lost_pages;
  uint32_t power_cuts;
};

extern const struct env_ops sim_env_ops;
struct inode *inode_new(struct sim_disk *, bool is_dir);
void inode_unref(struct sim_disk *, struct inode *);
void inode_grow(struct inode *, uint64_t bytes);
void inode_settle(struct inode *);
void entries_free(struct sim_disk *, struct entries *);
struct inode *entries_find(const struct entries *, const char *name, size_t len);
void entries_set(struct sim_disk *, struct entries *, const char *name, struct inode *);
bool entries_remove(struct sim_disk *, struct entries *, const char *name);
void dir_op_apply(struct sim_disk *, const struct dir_op *);
void dir_op_release(struct sim_disk *, struct dir_op *);

#endif
