/* An environment that fails on command: wraps another one (usually env_posix).
 *
 * Each operation is counted; one of them, the n-th from now of a kind, can be made to fail with a code, once or from
 * then on. The boot id can be replaced, so that a test can play "after a power cut". Faults are the environment's: the code
 * under test has no hooks.
 */
#ifndef DW_TEST_FAULT_ENV_H
#define DW_TEST_FAULT_ENV_H

#include "wal/base/env.h"

enum fault_op {
  FAULT_OPEN,
  FAULT_PREAD,
  FAULT_PWRITEV,
  FAULT_FDATASYNC,
  FAULT_ALLOCATE,
  FAULT_TRUNCATE,
  FAULT_RENAME,
  FAULT_UNLINK,
  FAULT_SYNC_DIR,
  FAULT_OPS
};

struct fault_env;
struct fault_env *fault_env_create(struct env *base);
void fault_env_destroy(struct fault_env *);
struct env *fault_env_env(struct fault_env *);

/* The nth call of op from now (1: the next) fails with rc; `sticky`: so do all later ones. nth 0: no fault. A failing
 * pwritev writes the first half of its bytes, as a disk that fills would. */
void fault_env_fail(struct fault_env *, enum fault_op, unsigned nth, int rc, bool sticky);
unsigned fault_env_calls(struct fault_env *, enum fault_op); /* so far */
void fault_env_boot(struct fault_env *, uint8_t id);         /* sixteen times this byte; 0: unknown */
/* From now on reads of any byte of [from, to) of files whose path contains `path` fail with DW_IO, as a bad sector does; path
 * NULL: none do. Borrowed. */
void fault_env_bad_sector(struct fault_env *, const char *path, uint64_t from, uint64_t to);
/* Restrict faults to paths that contain this text; NULL: any. Borrowed. */
void fault_env_only(struct fault_env *, const char *text);

#endif
