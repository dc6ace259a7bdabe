/* The contract of engine/store.h, held against every implementation: each test runs on the memory store, on
 * RocksDB, and on RocksDB with batches built record by record. Iterators and threads are in engine_store_iter_test.c,
 * damage in engine_store_damage_test.c.
 *
 * Crashes are children that write and _exit() without closing. RocksDB's thread pool does not survive a
 * fork, so they are forked before the test's own process opens a store. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/dabbawal.h"
#include "tests/support/store_fixture.h"
#include "wal/base/env.h"
#include "wal/base/status.h"

static struct store_fixture f;
static char tmp[64];
#define GOT(key) got(&f, key, tmp, sizeof tmp)

static void put(struct test_batch *b, const char *key, const char *val) {
  batch_put(b, key, strlen(key), val, strlen(val));
}

static void assert_message_names(const char *what) {
  char msg[512];
  dw_error_copy(msg, sizeof msg);
  ck_assert_msg(strstr(msg, what) != NULL, "\"%s\" does not name %s", msg, what);
}

/* ---- writing and reading ------------------------------------------------------------------- */

START_TEST(a_batch_applies_its_operations_in_order) {
  fixture_init(&f, _i);
  fixture_open(&f);
  struct test_batch b = {0};
  put(&b, "a", "1");
  put(&b, "a", "2");
  put(&b, "b", "1");
  batch_delete(&b, "b", 1);
  batch_delete(&b, "c", 1);
  put(&b, "c", "3");
  must_write(&f, &b, 6);
  ck_assert_str_eq(GOT("a"), "2");
  ck_assert_str_eq(GOT("b"), "-");
  ck_assert_str_eq(GOT("c"), "3");
  batch_delete(&b, "a", 1);
  put(&b, "c", "4");
  must_write(&f, &b, 7);
  ck_assert_str_eq(GOT("a"), "-");
  ck_assert_str_eq(GOT("c"), "4");
  ck_assert_str_eq(GOT("never"), "-");
  batch_free(&b);
  fixture_free(&f);
}
END_TEST

START_TEST(several_bodies_and_system_operations_are_one_write) {
  fixture_init(&f, _i);
  fixture_open(&f);
  struct test_batch b[2] = {0};
  put(&b[0], "a", "1");
  put(&b[0], "b", "1");
  put(&b[1], "a", "2");
  batch_delete(&b[1], "b", 1);
  struct store_body bodies[2] = {{b[0].body.data, b[0].body.len, 2}, {b[1].body.data, b[1].body.len, 2}};
  struct wal_op system[] = {
      {OP_PUT, (const uint8_t *)"\0epoch.1", 8, (const uint8_t *)"one", 3},
      {OP_PUT, (const uint8_t *)"\0epoch.2", 8, NULL, 0},
      {OP_DELETE, (const uint8_t *)"\0epoch.1", 8, NULL, 0},
  };
  struct wal_pos pos = pos_at(2);
  ck_assert_int_eq(f.ops->write(f.store, bodies, 2, system, 3, &pos), DW_OK);
  ck_assert_str_eq(GOT("a"), "2");
  ck_assert_str_eq(GOT("b"), "-");
  ck_assert_uint_eq(marker_lsn(&f, false), 2);
  char *val;
  size_t n;
  ck_assert_int_eq(f.ops->get(f.store, "\0epoch.1", 8, &val, &n), DW_NOT_FOUND);
  ck_assert_int_eq(f.ops->get(f.store, "\0epoch.2", 8, &val, &n), DW_OK);
  ck_assert_uint_eq(n, 0);
  f.ops->free_value(val);
  /* Only a marker: what an epoch block amounts to. */
  pos = pos_at(3);
  ck_assert_int_eq(f.ops->write(f.store, NULL, 0, system, 1, &pos), DW_OK);
  pos = pos_at(4);
  ck_assert_int_eq(f.ops->write(f.store, NULL, 0, NULL, 0, &pos), DW_OK);
  ck_assert_uint_eq(marker_lsn(&f, false), 4);
  batch_free(&b[0]);
  batch_free(&b[1]);
  fixture_free(&f);
}
END_TEST

START_TEST(system_operations_may_touch_neither_the_marker_nor_user_keys) {
  fixture_init(&f, _i);
  fixture_open(&f);
  struct wal_op marker = {OP_DELETE, (const uint8_t *)STORE_MARKER_KEY, STORE_MARKER_KEY_BYTES, NULL, 0};
  struct wal_op user = {OP_PUT, (const uint8_t *)"\1a", 2, NULL, 0};
  struct wal_op type = {7, (const uint8_t *)"\0a", 2, NULL, 0};
  struct wal_pos pos = pos_at(1);
  ck_assert_int_eq(f.ops->write(f.store, NULL, 0, &marker, 1, &pos), DW_INVALID);
  ck_assert_int_eq(f.ops->write(f.store, NULL, 0, &user, 1, &pos), DW_INVALID);
  ck_assert_int_eq(f.ops->write(f.store, NULL, 0, &type, 1, &pos), DW_INVALID);
  ck_assert_uint_eq(marker_lsn(&f, false), 0);
  ck_assert_int_eq(f.ops->write(f.store, NULL, 0, NULL, 0, &pos), DW_OK); /* and it is not poisoned */
  fixture_free(&f);
}
END_TEST

START_TEST(an_empty_value_is_not_a_missing_one) {
  fixture_init(&f, _i);
  fixture_open(&f);
  struct test_batch b = {0};
  put(&b, "empty", "");
  must_write(&f, &b, 1);
  for (int round = 0; round < 2; round++) { /* from memory, then from files */
    char *val = NULL;
    size_t n = 99;
    ck_assert_int_eq(f.ops->get(f.store, "\1empty", 6, &val, &n), DW_OK);
    ck_assert_uint_eq(n, 0);
    f.ops->free_value(val);
    ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK);
  }
  batch_free(&b);
  fixture_free(&f);
}
END_TEST

START_TEST(keys_of_64_KiB_and_values_of_64_MiB_come_back_whole) {
  fixture_init(&f, _i);
  fixture_open(&f);
  char *key = malloc(DW_MAX_KEY_BYTES + 1), *big = malloc(DW_MAX_VALUE_BYTES), *val;
  ck_assert(key && big);
  memset(key, 0xff, DW_MAX_KEY_BYTES + 1);
  key[0] = NS_USER;
  for (size_t i = 0; i < DW_MAX_VALUE_BYTES; i++) big[i] = (char)(i * 2654435761u >> 24);
  struct test_batch b = {0};
  batch_put(&b, key + 1, DW_MAX_KEY_BYTES, big, DW_MAX_VALUE_BYTES);
  must_write(&f, &b, 1);
  ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK);
  fixture_reopen(&f);
  size_t n;
  ck_assert_int_eq(f.ops->get(f.store, key, DW_MAX_KEY_BYTES + 1, &val, &n), DW_OK);
  ck_assert_uint_eq(n, DW_MAX_VALUE_BYTES);
  ck_assert(memcmp(val, big, n) == 0);
  f.ops->free_value(val);
  struct store_iter *it;
  ck_assert_int_eq(f.ops->iter_create(f.store, NS_USER, &it), DW_OK);
  f.ops->iter_seek(it, key + 1, DW_MAX_KEY_BYTES);
  ck_assert(f.ops->iter_valid(it));
  f.ops->iter_key(it, &n);
  ck_assert_uint_eq(n, DW_MAX_KEY_BYTES);
  f.ops->iter_destroy(it);
  free(key);
  free(big);
  batch_free(&b);
  fixture_free(&f);
}
END_TEST

START_TEST(all_stores_hold_the_same_after_the_same_random_batches) {
  struct buf dumps[FIXTURE_KINDS] = {0};
  for (int kind = 0; kind < FIXTURE_KINDS; kind++) {
    fixture_init(&f, kind);
    f.opt.memtable_bytes = 64 << 10; /* so that files are involved */
    fixture_open(&f);
    unsigned seed = 42;
    struct test_batch b = {0};
    for (dw_lsn lsn = 1; lsn <= 2000; lsn++) {
      for (int ops = 1 + rand_r(&seed) % 8; ops > 0; ops--) {
        char key[4], val[300];
        size_t klen = 1 + (size_t)rand_r(&seed) % 3;
        for (size_t i = 0; i < klen; i++) key[i] = (char)(rand_r(&seed) % 4 * 85); /* 0x00 55 aa ff */
        size_t vlen = (size_t)rand_r(&seed) % sizeof val;
        memset(val, (char)rand_r(&seed), vlen);
        if (rand_r(&seed) % 3) {
          batch_put(&b, key, klen, val, vlen);
        } else {
          batch_delete(&b, key, klen);
        }
      }
      must_write(&f, &b, lsn);
    }
    ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK);
    fixture_reopen(&f);
    ck_assert_int_eq(dump(f.ops, f.store, NS_USER, &dumps[kind]), DW_OK);
    ck_assert_int_eq(dump(f.ops, f.store, NS_SYSTEM, &dumps[kind]), DW_OK);
    batch_free(&b);
    fixture_free(&f);
    ck_assert_uint_gt(dumps[kind].len, 1000);
    ck_assert_uint_eq(dumps[kind].len, dumps[0].len);
    ck_assert(memcmp(dumps[kind].data, dumps[0].data, dumps[0].len) == 0);
  }
  for (int kind = 0; kind < FIXTURE_KINDS; kind++) buf_free(&dumps[kind]);
}
END_TEST

/* ---- marker, flush, crash ------------------------------------------------------------------ */

START_TEST(the_persisted_marker_lags_until_a_flush) {
  fixture_init(&f, _i);
  fixture_open(&f);
  ck_assert_uint_eq(marker_lsn(&f, false), 0);
  ck_assert_uint_eq(marker_lsn(&f, true), 0);
  for (dw_lsn i = 1; i <= 5; i++) ck_assert_int_eq(history_write(&f, i, 0), DW_OK);
  ck_assert_uint_eq(marker_lsn(&f, false), 5);
  ck_assert_uint_eq(marker_lsn(&f, true), 0);
  ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK);
  ck_assert_uint_eq(marker_lsn(&f, true), 5);
  ck_assert_int_eq(history_write(&f, 6, 0), DW_OK);
  ck_assert_uint_eq(marker_lsn(&f, true), 5);
  ck_assert_uint_eq(marker_lsn(&f, false), 6);
  ck_assert_uint_eq(history_check(f.ops, f.store, 0), 6);
  fixture_reopen(&f); /* a clean close may keep 6 or forget it, but data and marker agree */
  ck_assert_uint_ge(history_check(f.ops, f.store, 0), 5);
  ck_assert_uint_eq(marker_lsn(&f, true), marker_lsn(&f, false));
  fixture_free(&f);
}
END_TEST

/* Runs in a child that ends as a crash does; the status says that it came to its end. */
static void crash_after(void (*fn)(void)) {
  fflush(NULL);
  pid_t pid = fork();
  ck_assert_int_ge(pid, 0);
  if (pid == 0) {
    fn();
    _exit(33);
  }
  int status;
  ck_assert_int_eq(waitpid(pid, &status, 0), pid);
  ck_assert(WIFEXITED(status));
  ck_assert_int_eq(WEXITSTATUS(status), 33);
}

static void write_7_flush_write_9(void) {
  if (f.ops->open(f.dir, &f.opt, &f.store)) return;
  for (dw_lsn i = 1; i <= 7; i++) (void)history_write(&f, i, 0);
  (void)f.ops->flush(f.store, true);
  for (dw_lsn i = 8; i <= 9; i++) (void)history_write(&f, i, 0);
}

START_TEST(after_a_crash_the_store_stands_at_what_was_flushed) {
  fixture_init(&f, _i);
  crash_after(write_7_flush_write_9);
  fixture_open(&f);
  ck_assert_uint_eq(marker_lsn(&f, false), 7);
  ck_assert_uint_eq(marker_lsn(&f, true), 7);
  ck_assert_uint_eq(history_check(f.ops, f.store, 0), 7);
  for (dw_lsn i = 8; i <= 20; i++) ck_assert_int_eq(history_write(&f, i, 0), DW_OK); /* the replay */
  ck_assert_uint_eq(history_check(f.ops, f.store, 0), 20);
  fixture_free(&f);
}
END_TEST

#define CROWD_PADDING 2000
static int crowd_pipe[2];
static void write_3000_with_a_small_memtable(void) {
  if (f.ops->open(f.dir, &f.opt, &f.store)) return;
  dw_lsn persisted = 0;
  for (dw_lsn i = 1; i <= 3000; i++) {
    if (history_write(&f, i, CROWD_PADDING)) return;
    struct wal_pos pos;
    if (i % 100 == 0 && f.ops->marker(f.store, true, &pos) == DW_OK) persisted = pos.lsn;
  }
  if (write(crowd_pipe[1], &persisted, sizeof persisted) < 0) return;
}

START_TEST(whatever_survives_a_crash_is_the_state_at_its_marker) {
  fixture_init(&f, _i);
  f.opt.memtable_bytes = 128 << 10; /* flushes by itself, wherever that happens to fall */
  ck_assert_int_eq(pipe(crowd_pipe), 0);
  crash_after(write_3000_with_a_small_memtable);
  dw_lsn persisted;
  ck_assert_int_eq(read(crowd_pipe[0], &persisted, sizeof persisted), sizeof persisted);
  ck_assert_uint_gt(persisted, 0);
  fixture_open(&f);
  dw_lsn at = history_check(f.ops, f.store, CROWD_PADDING);
  ck_assert_uint_ge(at, persisted);
  ck_assert_uint_le(at, 3000);
  close(crowd_pipe[0]);
  close(crowd_pipe[1]);
  fixture_free(&f);
}
END_TEST

/* No file may grow beyond a few KiB for a while: what a disk does that fails under the store. */
START_TEST(a_failed_flush_stops_writes_until_the_store_is_reopened) {
  fixture_init(&f, _i);
  f.opt.memtable_bytes = 1 << 20;
  fixture_open(&f);
  for (dw_lsn i = 1; i <= 20; i++) ck_assert_int_eq(history_write(&f, i, 2000), DW_OK);
  ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK);
  for (dw_lsn i = 21; i <= 60; i++) ck_assert_int_eq(history_write(&f, i, 2000), DW_OK);
  signal(SIGXFSZ, SIG_IGN);
  struct rlimit old, small;
  ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
  small = old;
  small.rlim_cur = 8192;
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
  ck_assert_int_eq(f.ops->flush(f.store, true), DW_IO);
  assert_message_names(f.dir);
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);

  struct store_health h;
  f.ops->health(f.store, &h);
  ck_assert_uint_gt(h.background_errors, 0);
  ck_assert_int_eq(history_write(&f, 61, 2000), DW_IO);
  ck_assert_uint_eq(marker_lsn(&f, true), 20);
  ck_assert_uint_eq(history_check(f.ops, f.store, 2000), 60); /* reading goes on */
  fixture_reopen(&f);
  ck_assert_uint_ge(history_check(f.ops, f.store, 2000), 20);
  dw_lsn at = marker_lsn(&f, false);
  ck_assert_int_eq(history_write(&f, at + 1, 2000), DW_OK);
  ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK);
  ck_assert_uint_eq(marker_lsn(&f, true), at + 1);
  fixture_free(&f);
}
END_TEST

START_TEST(health_shows_what_the_store_holds) {
  fixture_init(&f, _i);
  fixture_open(&f);
  for (dw_lsn i = 1; i <= 50; i++) ck_assert_int_eq(history_write(&f, i, 1000), DW_OK);
  struct store_health h;
  f.ops->health(f.store, &h);
  ck_assert_uint_eq(h.background_errors, 0);
  ck_assert(!h.write_stopped);
  ck_assert_uint_gt(h.memtable_bytes, 50000);
  ck_assert_uint_gt(h.approximate_keys, 40);
  ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK);
  f.ops->health(f.store, &h);
  ck_assert_uint_gt(h.sst_bytes, 1000);
  ck_assert_uint_lt(h.memtable_bytes, 50000);
  fixture_free(&f);
}
END_TEST

/* ---- checkpoints ------------------------------------------------------------------------- */

START_TEST(a_checkpoint_is_a_store_of_its_own) {
  fixture_init(&f, _i);
  fixture_open(&f);
  for (dw_lsn i = 1; i <= 70; i++) ck_assert_int_eq(history_write(&f, i, 0), DW_OK);
  char copy_dir[PATH_MAX + 16];
  join(copy_dir, sizeof copy_dir, f.root, "copy");
  ck_assert_int_eq(f.ops->checkpoint(f.store, copy_dir), DW_OK);
  ck_assert_int_eq(f.ops->checkpoint(f.store, copy_dir), DW_INVALID);
  assert_message_names(copy_dir);
  for (dw_lsn i = 71; i <= 80; i++) ck_assert_int_eq(history_write(&f, i, 0), DW_OK);

  struct store_fixture copy = f;
  join(copy.dir, sizeof copy.dir, f.root, "copy");
  copy.opt.must_exist = true;
  fixture_open(&copy);
  ck_assert_uint_eq(history_check(copy.ops, copy.store, 0), 70);
  ck_assert_uint_eq(marker_lsn(&copy, true), 70);
  for (dw_lsn i = 71; i <= 75; i++) ck_assert_int_eq(history_write(&copy, i, 0), DW_OK);
  ck_assert_uint_eq(history_check(copy.ops, copy.store, 0), 75);
  fixture_close(&copy);
  ck_assert_uint_eq(history_check(f.ops, f.store, 0), 80);
  fixture_free(&f);
}
END_TEST

/* ---- opening ------------------------------------------------------------------------------- */

START_TEST(a_read_only_store_reads_and_refuses_writes) {
  fixture_init(&f, _i);
  fixture_open(&f);
  for (dw_lsn i = 1; i <= 5; i++) ck_assert_int_eq(history_write(&f, i, 0), DW_OK);
  ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK);
  fixture_close(&f);
  f.opt.read_only = true;
  fixture_open(&f);
  ck_assert_uint_eq(history_check(f.ops, f.store, 0), 5);
  ck_assert_uint_eq(marker_lsn(&f, true), 5);
  ck_assert_int_eq(history_write(&f, 6, 0), DW_READ_ONLY);
  assert_message_names(f.dir);
  ck_assert_int_eq(f.ops->flush(f.store, true), DW_READ_ONLY);
  char copy_dir[PATH_MAX + 16];
  join(copy_dir, sizeof copy_dir, f.root, "copy");
  ck_assert_int_eq(f.ops->checkpoint(f.store, copy_dir), DW_READ_ONLY);
  struct store_health h;
  f.ops->health(f.store, &h);
  ck_assert_uint_gt(h.approximate_keys, 0);
  ck_assert_uint_eq(history_check(f.ops, f.store, 0), 5);
  fixture_free(&f);
}
END_TEST

START_TEST(a_store_that_must_exist_and_does_not_is_not_found) {
  fixture_init(&f, _i);
  for (int i = 0; i < 2; i++) {
    f.opt.must_exist = i == 0;
    f.opt.read_only = i == 1;
    ck_assert_int_eq(f.ops->open(f.dir, &f.opt, &f.store), DW_NOT_FOUND);
    assert_message_names(f.dir);
  }
  f.opt.must_exist = f.opt.read_only = false;
  fixture_open(&f);
  f.opt.must_exist = true; /* it was opened, so it exists, though nothing was written */
  fixture_reopen(&f);
  ck_assert_uint_eq(marker_lsn(&f, false), 0);
  fixture_free(&f);
}
END_TEST

START_TEST(a_directory_opens_once_but_read_only_beside) {
  fixture_init(&f, _i);
  fixture_open(&f);
  for (dw_lsn i = 1; i <= 5; i++) ck_assert_int_eq(history_write(&f, i, 0), DW_OK);
  ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK);
  struct store *second;
  ck_assert_int_eq(f.ops->open(f.dir, &f.opt, &second), DW_LOCKED);
  assert_message_names(f.dir);
  struct store_options opt = f.opt;
  opt.read_only = true;
  ck_assert_int_eq(f.ops->open(f.dir, &opt, &second), DW_OK);
  ck_assert_uint_eq(history_check(f.ops, second, 0), 5);
  f.ops->close(second);
  fixture_reopen(&f);
  ck_assert_uint_eq(history_check(f.ops, f.store, 0), 5);
  fixture_free(&f);
}
END_TEST

START_TEST(a_directory_that_cannot_be_made_is_an_error_that_names_it) {
  fixture_init(&f, _i);
  join(f.dir, sizeof f.dir, f.root, "file/lock/store");
  ck_assert_int_eq(env_write_file_atomic(f.opt.env, f.root, "file", "x", 1), DW_OK);
  ck_assert_int_eq(f.ops->open(f.dir, &f.opt, &f.store), DW_IO);
  assert_message_names("file/lock");
  fixture_free(&f);
}
END_TEST

int main(void) {
  Suite *s = suite_create("engine/store contract");
  TCase *tc = tcase_create("both stores");
  tcase_set_timeout(tc, 120);
  tcase_add_loop_test(tc, a_batch_applies_its_operations_in_order, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, several_bodies_and_system_operations_are_one_write, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, system_operations_may_touch_neither_the_marker_nor_user_keys, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, an_empty_value_is_not_a_missing_one, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, keys_of_64_KiB_and_values_of_64_MiB_come_back_whole, 0, FIXTURE_KINDS);
  tcase_add_test(tc, all_stores_hold_the_same_after_the_same_random_batches);
  tcase_add_loop_test(tc, the_persisted_marker_lags_until_a_flush, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, after_a_crash_the_store_stands_at_what_was_flushed, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, whatever_survives_a_crash_is_the_state_at_its_marker, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, a_failed_flush_stops_writes_until_the_store_is_reopened, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, health_shows_what_the_store_holds, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, a_checkpoint_is_a_store_of_its_own, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, a_read_only_store_reads_and_refuses_writes, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, a_store_that_must_exist_and_does_not_is_not_found, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, a_directory_opens_once_but_read_only_beside, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, a_directory_that_cannot_be_made_is_an_error_that_names_it, 0, FIXTURE_KINDS);
  suite_add_tcase(s, tc);
  SRunner *sr = srunner_create(s);
  srunner_run_all(sr, CK_ENV);
  int failed = srunner_ntests_failed(sr);
  srunner_free(sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
