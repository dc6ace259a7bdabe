/* A machine's disk and clocks in memory: one struct sim_disk per node, which survives the node's processes; each
 * process sees it through a struct env of its own.
 *
 *   names ---> inode (page cache: `now` bytes;  disk: `old` bytes;  dirty: sectors in which they differ)
 *   |
 *   +-- a directory: entries now, entries on disk; the operations between them stand in one ordered list
 *
 *   process crash   the env goes dead (every call fails, nothing is changed any more); all `now` states stay
 *   power cut       each dirty sector keeps `now` or `old`, or is torn; a file's size is the old or the new one; of the
 *                   unsynced directory operations a prefix stays, or, crueler, any subset; the boot id changes
 *   fdatasync       `old` = `now` for the file's data and size. One that fails leaves some sectors unwritten and clean:
 *                   readable until the page cache forgets them, gone at the next process start or power cut
 *   write-back      now and then dirty sectors reach the disk by themselves, so a sector that is rewritten before a
 *                   sync may come back in a version between
 *
 * Stale bytes in recycled segments come by themselves: the log reuses files. Faults are drawn by the disk from rates
 * that the world sets; bytes rot only by disk_rot.
 */
#ifndef DW_SIM_DISK_H
#define DW_SIM_DISK_H

#include "tests/sim/sim_rand.h"
#include "wal/base/env.h"

#define SECTOR 512u

struct inode;
struct sim_disk;

/* What is done to names; of the calls that are watched so, REPLACES and REMOVES come before it is done. */
enum disk_step { DISK_CREATED, DISK_REPLACES, DISK_RENAMED, DISK_REMOVES };

/* What the world wants to know and decides. */
struct disk_watch {
  void *ctx;
  uint64_t (*mono_ns)(void *ctx);
  uint64_t (*wall_ns)(void *ctx);
  /* A log file (anything in a wal-* folder): bytes are about to be written (they may reach the file although the write
   * fails), were written, were synced. */
  void (*attempt)(void *ctx, struct inode *, uint64_t off, const struct iovec *, int n);
  void (*wrote)(void *ctx, struct inode *, uint64_t off, const struct iovec *, int n);
  void (*synced)(void *ctx, struct inode *);
  void (*gone)(void *ctx, struct inode *); /* freed */
  /* In the middle of an fdatasync of a log file: time may pass, others may run. */
  void (*syncing)(void *ctx);
  void (*fault)(void *ctx, const char *what, const char *path); /* one was injected */
  void (*step)(void *ctx, enum disk_step, const char *path);    /* path: for a rename, where to */
};

/* Rates in ppm of calls; may be changed at any time. */
struct disk_rates {
  uint32_t eio_read, eio_write, eio_sync, no_space, writeback;
  bool full;               /* every call that needs space fails */
  uint32_t tear_in_sector; /* ppm of a power cut's dirty sectors */
};

struct sim_disk *disk_create(uint64_t seed, const struct disk_watch *);
void disk_destroy(struct sim_disk *);
struct disk_rates *disk_rates(struct sim_disk *);

/* The environment of a new process. The one before must be dead (or released). */
struct env *disk_boot(struct sim_disk *);
bool disk_alive(const struct sim_disk *); /* the present env works */
/* The process dies now: nothing that its env is asked from here on has any effect. `calls`: after so many more calls
 * instead, in the middle of whatever it does. */
void disk_kill(struct sim_disk *);
void disk_kill_after(struct sim_disk *, uint32_t calls);
/* The process's objects are gone: its env and open files can be freed. */
void disk_release(struct sim_disk *);
void disk_power_cut(struct sim_disk *); /* with no process about */
void disk_wipe(struct sim_disk *);      /* a new, empty disk in the same machine */
uint32_t disk_power_cuts(const struct sim_disk *);

/* Each file in `dir` as processes see it or, durable, as a power cut just now would leave it if it took whatever is not
 * synced. */
typedef void (*disk_file_fn)(void *arg, const char *name, struct inode *, const uint8_t *bytes, uint64_t size);
void disk_each(const struct sim_disk *, const char *dir, bool durable, disk_file_fn, void *arg);
/* Each directory in `dir` as processes see it. */
void disk_each_dir(const struct sim_disk *, const char *dir, void (*fn)(void *arg, const char *name), void *arg);

/* Damages one synced sector that `eligible` allows; false: none was found. disk_repair undoes all damage that was not
 * written over; true if something was undone. */
bool disk_rot(struct sim_disk *, char *what, size_t cap);
bool disk_repair(struct sim_disk *);
/* Sectors that a failed fdatasync lost are still missing on disk, or were until the last power cut. */
bool disk_lost_pages(const struct sim_disk *);
void disk_forget_lost(struct sim_disk *);

/* Room for the watcher's own state of a file; NULL at first; told by `gone`. */
void **inode_slot(struct inode *);
/* Says of a log file which of its bytes could be rebuilt from nothing but themselves, so must not rot unnoticed: see
 * docs/simulation.md. [0, proof) is followed by a synced proof that it was synced. */
void inode_set_proof(struct inode *, uint64_t proof);

#endif
