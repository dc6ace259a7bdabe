/* A log in a directory of its own, as the tests of the log share it: opened, killed, opened again, and damaged.
 *
 * One log to a process (`fx`); a program's setup is `wal_fixture_start`, its teardown `wal_fixture_end`. Whatever has
 * to go well fails the test when it does not.
 */
#ifndef DW_TESTS_WAL_FIXTURE_H
#define DW_TESTS_WAL_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/support/fault_env.h"
#include "wal/wal.h"

struct wal_fixture {
  char dir[256];
  char said[2048]; /* the log's last line */
  struct fault_env *faults;
  struct wal_options options; /* small segments; changed before an opening */
  struct wal_recovery rec;    /* of the last opening */
  struct wal *w;              /* NULL: closed */
};
extern struct wal_fixture fx;

void wal_fixture_start(void); /* makes the directory, opens nothing */
void wal_fixture_end(void);

int try_open(void);
void open_wal(void);
void close_wal(void);
/* Leaves the files as a killed process would, without a closing mark: the directory is that of before the close. */
void crash(void);
struct wal_pos end_of_log(void);

/* A block of one commit with n bytes that do not compress, the same for the same fill. The caller's. */
struct wal_block *noise_block(size_t n, uint8_t fill);
int append_block(struct wal_block *, uint64_t epoch); /* takes it over */
int append(size_t n, uint8_t fill);                   /* in epoch 1 */
void append_many(int n, size_t bytes, bool sync);     /* sync: each */

/* Where in which file the first block of an LSN is. */
struct find_block {
  dw_lsn lsn;
  char path[600];
  uint64_t off;
  size_t total;
};
struct find_block find(dw_lsn lsn);

void poke(const char *path, uint64_t off, const void *bytes, size_t n);
void flip(const char *path, uint64_t off);           /* a bit */
void wipe(const char *path, uint64_t off, size_t n); /* zeroes, at most 8,192 */

#endif
