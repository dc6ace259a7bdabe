/* An environment in memory: files, directories, a clock that moves only when told, random numbers from a seed.
 *
 * For fuzzing and for tests that open a directory thousands of times a second. It loses nothing and fails at nothing (wrap
 * it in a fault_env for that); what was synced is not told from what was not. Paths are plain strings: "d/a" is the file a
 * in the directory d, which must have been made; there is no "." or "..". Safe to use from several threads; files that
 * were unlinked or renamed over stay readable through handles that are open, as on a disk.
 */
#ifndef DW_TEST_MEM_ENV_H
#define DW_TEST_MEM_ENV_H

#include "wal/base/env.h"

struct mem_env;
struct mem_env *mem_env_create(void);
void mem_env_destroy(struct mem_env *); /* no file may be open; NULL is fine */
struct env *mem_env_env(struct mem_env *);
void mem_env_clear(struct mem_env *);   /* removes all files and directories */
void mem_env_seed(struct mem_env *, uint64_t seed);
void mem_env_boot(struct mem_env *, uint8_t id); /* sixteen times this byte; 0: unknown */
void mem_env_advance(struct mem_env *, uint64_t ns);
unsigned mem_env_open_files(struct mem_env *);

/* Files from outside: bytes are copied in, missing directories are made. NULL: no such file; else its bytes, valid until
 * the next change. */
void mem_env_put(struct mem_env *, const char *path, const void *bytes, size_t n);
uint8_t *mem_env_bytes(struct mem_env *, const char *path, size_t *n);
/* Calls fn for each file in the order of their names. */
void mem_env_each(struct mem_env *, void (*fn)(void *, const char *path, const uint8_t *, size_t n), void *arg);

#endif
