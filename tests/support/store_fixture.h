/* What the store tests share: a directory, a store in it, batches, and a history whose state at every LSN is
 * known, so that whatever a store holds can be checked against the marker that it claims.
 *
 * The history: commit i puts  "slot-%03u" (i modulo HISTORY_SLOTS) = text of i  and  "last" = text of i, and deletes
 * "gone-%03u" of the slot on even rounds, puts it on odd ones. The marker of commit i is pos_at(i).
 */
#ifndef DW_TESTS_STORE_FIXTURE_H
#define DW_TESTS_STORE_FIXTURE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/store.h"
#include "wal/base/bytes.h"

#define HISTORY_SLOTS 50u

struct test_batch {
  struct buf body;
  uint32_t ops;
};
void batch_put(struct test_batch *, const void *key, size_t klen, const void *val, size_t vlen); /* user namespace */
void batch_delete(struct test_batch *, const void *key, size_t klen);
void batch_free(struct test_batch *);

struct wal_pos pos_at(dw_lsn lsn);
bool pos_eq(const struct wal_pos *, const struct wal_pos *);

struct store_fixture {
  const struct store_ops *ops;
  struct store_options opt;
  struct store *store;
  char root[PATH_MAX / 2]; /* of the test; removed at the end */
  char dir[PATH_MAX];      /* of the store: root/store */
};

/* Which store a loop test runs on. */
enum { FIXTURE_MEM, FIXTURE_ROCKSDB, FIXTURE_ROCKSDB_SLOW, FIXTURE_KINDS };
void fixture_init(struct store_fixture *, int kind); /* makes the directory, opens nothing */
void fixture_open(struct store_fixture *);
void fixture_reopen(struct store_fixture *);
void fixture_close(struct store_fixture *); /* the store only */
void fixture_free(struct store_fixture *);  /* everything */

/* Writes one batch (emptied afterwards) with the marker of lsn. */
int fixture_write(struct store_fixture *, struct test_batch *, dw_lsn lsn);
void must_write(struct store_fixture *, struct test_batch *, dw_lsn lsn);
dw_lsn marker_lsn(struct store_fixture *, bool persisted); /* checks epoch and chain */

int history_write(struct store_fixture *, dw_lsn i, size_t padding); /* padding: bytes more in each value */
/* The store holds exactly the history's state at its own marker, which it returns. `padding` as written. */
dw_lsn history_check(const struct store_ops *, struct store *, size_t padding);

/* out = dir/name; fails the test if it doesn't fit. */
void join(char *out, size_t cap, const char *dir, const char *name);

/* What get says, as a string for ck_assert_str_eq: "-" if there is no such key. Cut at cap. */
const char *got(struct store_fixture *, const char *key, char *out, size_t cap);
/* All keys and values of a namespace, in order, forward and backward: DW_OK or the iterator's error. */
int dump(const struct store_ops *, struct store *, uint8_t ns, struct buf *out);

#endif
