/* A primary's life in which one call fails: opening, writing in every way, reading, checkpoints, trimming, closing,
 * recovering. Each run makes another call fail, until all that the life consists of have failed once.
 *
 * Whatever fails: every write that was answered OK is there afterwards, every write that was answered "not done" is
 * not, a batch is there wholly or not at all, errors have messages that name what failed, nothing leaks (in the ASan
 * build), the engine goes on where its documents say so, and the directory opens afterwards and serves.
 *
 * The engine runs without threads, so that the n-th call is the same one in each run.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "tests/support/check_main.h"
#include "tests/support/fault_calls.h"
#include "wal/base/status.h"

static char root[200], dir[256];
static dw_options options;
static struct engine_config config;
static dw_engine *e;
static struct fault_walk *walk;

/* ---- what was promised ------------------------------------------------------------------------- */

enum promise { NOT_THERE, THERE, IN_DOUBT };
#define KEYS_MAX 64
struct written {
  char key[16];
  size_t bytes;
  enum promise is;
  unsigned batch; /* keys of one batch share fate */
};
static struct written written[KEYS_MAX];
static unsigned written_count, batches;

static struct written *expect_key(size_t bytes, unsigned batch) {
  struct written *x = &written[written_count];
  ck_assert_uint_lt(written_count, KEYS_MAX);
  *x = (struct written){.bytes = bytes, .batch = batch};
  snprintf(x->key, sizeof x->key, "key-%02u", written_count++);
  return x;
}

static void value_of(const struct written *x, char *out) {
  uint64_t v = 88172645463325252ull + (uint64_t)(x - written);
  for (size_t i = 0; i < x->bytes; i++) {
    v ^= v << 13, v ^= v >> 7, v ^= v << 17;
    out[i] = (char)(i < x->bytes / 2 ? v : 'v');
  }
}

/* ---- judging ---------------------------------------------------------------------------------- */

static void judge(const char *call, int rc) {
  fault_judge(call, rc, root);
}

static enum promise outcome(const char *call, int rc, dw_lsn lsn) {
  if (rc == DW_TIMEOUT && lsn) return IN_DOUBT; /* the store refuses: committed writes wait */
  judge(call, rc);
  if (rc == DW_OK) return THERE;
  return lsn ? IN_DOUBT : NOT_THERE;
}

/* After a fault that is over, the engine must take writes, unless a sync failed or a write with anything but a full
 * disk. */
static bool may_have_stopped(void) {
  if (config.store == store_mem())
    return true; /* for it a failed flush is final, as one of RocksDB's in the background */
  if (walk->err == ENOMEM || walk->groups == FAULT_STORE) return false;
  return walk->err != ENOSPC || strcmp(faults_name(), "fdatasync") == 0 || strcmp(faults_name(), "fsync") == 0 ||
         strcmp(faults_name(), "open") == 0 /* of the folder, to sync it behind a rename */;
}

/* ---- the life ----------------------------------------------------------------------------------- */

static void put(size_t bytes, dw_durability durability, dw_mode mode) {
  struct written *x = expect_key(bytes, 0);
  static char val[200000];
  value_of(x, val);
  dw_write_options wo = {.durability = durability, .mode = mode};
  dw_lsn lsn = 77;
  fault_forget_message();
  int rc = dw_put(e, &wo, x->key, strlen(x->key), val, bytes, &lsn);
  x->is = outcome("dw_put", rc, lsn);
}

static void put_batch(unsigned n) {
  unsigned batch = ++batches;
  dw_batch *b = dw_batch_create();
  if (!b) return;
  char val[100];
  struct written *first = NULL;
  int rc = DW_OK;
  for (unsigned i = 0; i < n; i++) {
    struct written *x = expect_key(sizeof val, batch);
    if (!first) first = x;
    value_of(x, val);
    if (rc) continue;
    fault_forget_message();
    rc = dw_batch_put(b, x->key, strlen(x->key), val, sizeof val);
  }
  judge("dw_batch_put", rc);
  dw_lsn lsn = 77;
  fault_forget_message();
  if (rc == DW_OK) {
    rc = dw_write(e, NULL, b, &lsn);
    for (unsigned i = 0; i < n; i++) first[i].is = outcome("dw_write", rc, lsn);
  }
  dw_batch_destroy(b);
}

static unsigned answers;
static void on_commit(void *arg, int rc, dw_lsn lsn) {
  ((struct written *)arg)->is = outcome("dw_write_async", rc, lsn);
  answers++;
}

/* Three asynchronous writes in one group, of two needs. */
static void put_async(void) {
  unsigned asked = 0;
  answers = 0;
  for (unsigned i = 0; i < 3; i++) {
    struct written *x = expect_key(50, 0);
    char val[50];
    value_of(x, val);
    dw_batch *b = dw_batch_create();
    if (!b) continue;
    dw_write_options wo = {.durability = i == 1 ? DW_DURABILITY_DISK : DW_DURABILITY_OS, .timeout_ms = 1000000};
    fault_forget_message();
    int rc = dw_batch_put(b, x->key, strlen(x->key), val, sizeof val);
    if (rc == DW_OK) rc = dw_write_async(e, &wo, b, on_commit, x);
    judge("dw_write_async", rc);
    asked += rc == DW_OK;
    dw_batch_destroy(b);
  }
  for (int i = 0; i < 50 && answers < asked; i++) {
    fault_forget_message();
    engine_step(e);
    faults_advance_ms(300); /* a store that refused is asked again */
  }
  FAULT_CHECK(answers == asked || walk->span == FAULT_FROM, "%u of %u asynchronous writes were answered", answers,
              asked);
}

static void read_one(const struct written *x) {
  static char val[200000];
  dw_value v;
  fault_forget_message();
  int rc = dw_get(e, NULL, x->key, strlen(x->key), &v);
  if (rc == DW_NOT_FOUND) {
    FAULT_CHECK(x->is != THERE, "%s was answered OK and is gone", x->key);
    return;
  }
  judge("dw_get", rc);
  if (rc) return;
  value_of(x, val);
  FAULT_CHECK(x->is != NOT_THERE, "%s was answered as not done and is there", x->key);
  FAULT_CHECK(v.size == x->bytes && memcmp(v.data, val, v.size) == 0, "%s holds something else", x->key);
  dw_value_release(&v);
}

static void iterate(void) {
  dw_iter *it;
  fault_forget_message();
  int rc = dw_iter_create(e, NULL, &it);
  judge("dw_iter_create", rc);
  if (rc) return;
  unsigned n = 0, sure = 0, most = 0;
  size_t len;
  for (unsigned i = 0; i < written_count; i++) sure += written[i].is == THERE, most += written[i].is != NOT_THERE;
  fault_forget_message();
  for (dw_iter_seek(it, "key", 3); dw_iter_valid(it); dw_iter_next(it))
    n += memcmp(dw_iter_key(it, &len), "key-", 4) == 0;
  rc = dw_iter_status(it);
  judge("dw_iter_status", rc);
  FAULT_CHECK(rc || (n >= sure && n <= most), "iterated over %u keys, of %u to %u", n, sure, most);
  dw_iter_destroy(it);
}

static void checkpoint(void) {
  struct engine_checkpoint c;
  fault_forget_message();
  int rc = engine_checkpoint_create(e, "copy", &c);
  judge("engine_checkpoint_create", rc);
  engine_checkpoint_drop(e, "copy");
}

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg, (void)level, (void)line;
}

/* A follower that has everything. */
static void follower_acks(void) {
  engine_acks(e, &(struct ack_marks){.connected = 1, .known = 1, .mark = {{1000}, {1000}, {1000}}});
}

static void steps(unsigned n) {
  for (unsigned i = 0; i < n; i++) {
    engine_step(e);
    faults_advance_ms(300);
  }
}

static bool open_engine(void) {
  fault_forget_message();
  int rc = engine_open(dir, &options, &config, &e);
  if (rc == DW_OK) return true;
  judge("engine_open", rc);
  e = NULL;
  if (walk->span == FAULT_FROM) return false;
  rc = engine_open(dir, &options, &config, &e); /* the fault is over */
  FAULT_CHECK(rc == DW_OK, "the directory does not open again: %s: %s", dw_rc_name(rc), dw_last_error());
  return true;
}

static void close_engine(void) {
  fault_forget_message();
  int rc = engine_close(e);
  e = NULL;
  judge("engine_close", rc);
}

static void first_opening(void) {
  if (!open_engine()) return;
  put(20, DW_DURABILITY_DISK, DW_ASYNC);
  put(3000, DW_DURABILITY_OS, DW_ASYNC);
  put_batch(3);
  put_async();
  follower_acks();
  put(100, DW_DURABILITY_DISK, DW_SYNC);
  put(70000, DW_DURABILITY_DISK, DW_ASYNC); /* larger than a segment: rolls */
  put(40000, DW_DURABILITY_OS, DW_ASYNC);
  read_one(&written[0]);
  iterate();
  steps(3);
  checkpoint(); /* everything is persisted then */
  steps(4);     /* trims, prepares the next segment */
  for (int i = 0; i < 3;
       i++) { /* each large one rolls; where that has failed the small one fits into the old segment */
    put(40000, DW_DURABILITY_DISK, DW_ASYNC);
    put(60, DW_DURABILITY_DISK, DW_ASYNC);
  }
  dw_status s;
  dw_status_get(e, &s);
  for (int i = 0; walk->span == FAULT_FROM && strcmp(faults_name(), "rocksdb_write") == 0 && i < 6; i++) {
    steps(1); /* it is tried again all the time, and no better for that */
    dw_status_get(e, &s);
    FAULT_CHECK(s.failed && strstr(s.error, dir), "the store refuses writes, the status says '%s'", s.error);
    dw_lsn lsn = 7;
    int rc = dw_put(e, NULL, "refused", 7, "", 0, &lsn);
    FAULT_CHECK(rc == DW_IO && lsn == 0, "a write was not refused before it was logged: %s", dw_rc_name(rc));
  }
  if (faults_hit() && walk->span == FAULT_ONCE && !may_have_stopped()) {
    steps(3);
    dw_status_get(e, &s);
    FAULT_CHECK(!s.failed, "still failed: %s", s.error);
    struct written *last = &written[written_count];
    put(10, DW_DURABILITY_DISK, DW_ASYNC);
    FAULT_CHECK(last->is == THERE, "does not take writes again");
  }
  close_engine();
}

static void second_opening(void) {
  if (!open_engine()) return;
  follower_acks(); /* the sync write is pending again */
  steps(6);        /* enough for a second attempt at applying it */
  iterate();
  for (unsigned i = 0; i < written_count; i++) read_one(&written[i]);
  put(30, DW_DURABILITY_DISK, DW_ASYNC);
  close_engine();
}

static void verify(void) {
  faults_disarm();
  int rc = engine_open(dir, &options, &config, &e);
  FAULT_CHECK(rc == DW_OK, "the directory does not open afterwards: %s: %s", dw_rc_name(rc), dw_last_error());
  follower_acks();
  steps(3);
  for (unsigned i = 0; i < written_count; i++) {
    struct written *x = &written[i];
    dw_value v;
    rc = dw_get(e, NULL, x->key, strlen(x->key), &v);
    FAULT_CHECK(rc == DW_OK || rc == DW_NOT_FOUND, "%s: %s", x->key, dw_rc_name(rc));
    if (rc == DW_OK) dw_value_release(&v);
    read_one(x);
    if (x->is == IN_DOUBT) x->is = rc == DW_OK ? THERE : NOT_THERE;
    for (unsigned j = 0; j < i; j++)
      FAULT_CHECK(x->batch == 0 || written[j].batch != x->batch || written[j].is == x->is,
                  "half of the batch of %s is there", x->key);
  }
  ck_assert_int_eq(dw_put(e, NULL, "after", 5, "x", 1, NULL), DW_OK);
  rc = engine_close(e);
  e = NULL;
  FAULT_CHECK(rc == DW_OK, "closing afterwards: %s", dw_last_error());
}

static void one_life(struct fault_walk *w) {
  walk = w;
  written_count = batches = 0;
  ck_assert_int_eq(env_remove_tree(env_posix(), dir), DW_OK);
  faults_arm(w);
  first_opening();
  second_opening();
  verify();
}

/* ---- the walks ------------------------------------------------------------------------------------ */

static void setup(void) {
  fault_dir(root, sizeof root);
  snprintf(dir, sizeof dir, "%s/primary", root);
  dw_options_init(&options);
  options.segment_bytes = 65536;
  options.memtable_bytes = 1u << 20;
  options.sync_interval_ms = 100;
  options.ack_timeout_ms = 20;
  options.log = quiet;
}

static void teardown(void) {
  env_remove_tree(env_posix(), root);
}

static const struct {
  const char *what;
  unsigned groups;
  int err;
  enum fault_span span;
} kinds[] = {{"no memory", FAULT_MEMORY, ENOMEM, FAULT_ONCE},
             {"no memory from here on", FAULT_MEMORY, ENOMEM, FAULT_FROM},
             {"I/O error", FAULT_FILES, EIO, FAULT_ONCE},
             {"I/O errors from here on", FAULT_FILES, EIO, FAULT_FROM},
             {"no space", FAULT_FILES, ENOSPC, FAULT_ONCE},
             {"no space from here on", FAULT_FILES, ENOSPC, FAULT_FROM},
             {"RocksDB fails", FAULT_STORE, EIO, FAULT_ONCE},
             {"RocksDB fails from here on", FAULT_STORE, EIO, FAULT_FROM},
             {"RocksDB finds no space", FAULT_STORE, ENOSPC, FAULT_ONCE}};
#define KINDS ((int)(sizeof kinds / sizeof *kinds))
#define KINDS_OF_FILES 6 /* the first ones: without RocksDB */

static void walk_through(int kind, const struct store_ops *store) {
  config = (struct engine_config){.threads = false, .store = store};
  struct fault_walk w = {.title = kinds[kind].what,
                         .groups = kinds[kind].groups,
                         .err = kinds[kind].err,
                         .span = kinds[kind].span,
                         .step = fault_sample(store == store_mem() || kinds[kind].groups == FAULT_STORE ? 1 : 3, true),
                         .first = 1 + (unsigned)kind % 3};
  while (fault_walk_next(&w)) one_life(&w);
  ck_assert_uint_gt(w.points * w.step, 40);
}

START_TEST(every_call_of_an_engine_on_the_memory_store_fails_in_turn) {
  walk_through(_i, store_mem());
}
END_TEST

START_TEST(every_call_of_an_engine_on_rocksdb_fails_in_turn) {
  walk_through(_i, store_rocksdb());
}
END_TEST

int main(void) {
  Suite *s = suite_create("a primary whose calls fail one by one");
  TCase *t = tcase_create("calls");
  tcase_set_timeout(t, 300);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_loop_test(t, every_call_of_an_engine_on_the_memory_store_fails_in_turn, 0, KINDS_OF_FILES);
  tcase_add_loop_test(t, every_call_of_an_engine_on_rocksdb_fails_in_turn, 0, KINDS);
  suite_add_tcase(s, t);
  return check_main(s);
}
