/* The environment: every file, clock and random number that the engine touches, as one table.
 *
 * Production uses env_posix(); a simulator or a fault-injecting test supplies its own. No other code in
 * wal/, engine/ or the replication library opens a file, reads a clock or draws a random number.
 * (RocksDB does its own file I/O behind engine/store.h; sockets live in the transport driver.)
 *
 * All functions are thread-safe unless stated. They return DW_* codes and set the detail message with
 * the path in it. Reads and writes are complete or an error: no short counts, except env_pread at end
 * of file, which reports the bytes got.
 */
#ifndef DW_BASE_ENV_H
#define DW_BASE_ENV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct env;
struct env_file; /* an open file; positional I/O only */

enum env_open_mode {
  ENV_READ,      /* must exist */
  ENV_WRITE,     /* read and write, must exist */
  ENV_CREATE,    /* read and write, made if missing */
  ENV_CREATE_NEW /* read and write, must not exist */
};

struct env_ops {
  int (*open)(struct env *, const char *path, enum env_open_mode, struct env_file **);
  void (*close)(struct env_file *);
  int (*pread)(struct env_file *, uint64_t off, void *buf, size_t n, size_t *got);
  int (*pwritev)(struct env_file *, uint64_t off, const struct iovec *, int iovcnt);
  int (*fdatasync)(struct env_file *);
  int (*size)(struct env_file *, uint64_t *bytes);
  int (*truncate)(struct env_file *, uint64_t bytes);
  /* Reserves blocks for [0, bytes) and extends the size; contents unspecified beyond the old size
   * but never another file's. DW_NO_SPACE if it can't. */
  int (*allocate)(struct env_file *, uint64_t bytes);

  int (*rename)(struct env *, const char *from, const char *to);
  /* A second name for a file, as for one that never changes again. NULL: this environment has no links. DW_NOT_FOUND if
   * `from` is not there. */
  int (*link)(struct env *, const char *from, const char *to);
  int (*unlink)(struct env *, const char *path);    /* DW_NOT_FOUND if it is not there */
  int (*mkdir)(struct env *, const char *path);     /* DW_OK if it is there already */
  int (*rmdir)(struct env *, const char *path);     /* must be empty */
  int (*sync_dir)(struct env *, const char *path);
  /* Calls fn for each entry but . and .. in unspecified order; stops at fn's first non-zero return. */
  int (*list)(struct env *, const char *path, int (*fn)(void *, const char *name, bool is_dir), void *arg);
  int (*exists)(struct env *, const char *path, bool *yes);
  /* Exclusive lock on a file (made if missing), held until unlock. DW_LOCKED if somebody has it. */
  int (*lock)(struct env *, const char *path, struct env_file **);
  void (*unlock)(struct env_file *);

  uint64_t (*mono_ns)(struct env *); /* monotonic, this machine only */
  uint64_t (*wall_ns)(struct env *); /* since the Unix epoch; shown to people, never compared across nodes */
  int (*random)(struct env *, void *buf, size_t n);
  /* Identifies this boot of the machine: equal ids mean that the page cache has survived. False: unknown. */
  bool (*boot_id)(struct env *, uint8_t id[16]);
};

struct env {
  const struct env_ops *ops;
};

/* The real thing. Static, never freed. */
struct env *env_posix(void);

/* Helpers over the table. */
int env_pread_exact(struct env *, struct env_file *, const char *path, uint64_t off, void *buf, size_t n); /* DW_CORRUPT if short */
int env_pwrite(struct env *, struct env_file *, uint64_t off, const void *buf, size_t n);
int env_read_file(struct env *, const char *path, size_t max, uint8_t **buf, size_t *n); /* caller frees */
/* Replaces `path` atomically and durably: temporary file, sync, rename, sync of the directory. */
int env_write_file_atomic(struct env *, const char *dir, const char *name, const void *buf, size_t n);
int env_sync_parent(struct env *, const char *path); /* so that the name of `path` outlives a power cut */
int env_remove_tree(struct env *, const char *path); /* DW_OK if it is not there */

#endif
