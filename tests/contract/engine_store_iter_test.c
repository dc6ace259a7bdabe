/* The part of the contract of engine/store.h about iterators, and about readers, flushes and checkpoints beside the
 * writer; held against every implementation. Also what a TSan build is for (tests/support/tsan.supp). */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/store_fixture.h"

static struct store_fixture f;
static char tmp[64];
#define GOT(key) got(&f, key, tmp, sizeof tmp)

static void put(struct test_batch *b, const char *key, const char *val) {
  batch_put(b, key, strlen(key), val, strlen(val));
}

static void assert_key(struct store_iter *it, const char *key) {
  ck_assert_msg(f.ops->iter_valid(it), "iterator is invalid, should be at %s", key);
  size_t n;
  const char *k = f.ops->iter_key(it, &n);
  ck_assert_msg(n == strlen(key) && memcmp(k, key, n) == 0, "iterator is at %.*s, not %s", (int)n, k, key);
}

static void seek(struct store_iter *it, const char *key) {
  f.ops->iter_seek(it, key, strlen(key));
}

/* ---- iterators ----------------------------------------------------------------------------- */

START_TEST(iterators_of_an_empty_store_are_invalid_and_fine) {
  fixture_init(&f, _i);
  fixture_open(&f);
  for (int ns = 0; ns < 256; ns += 51) {
    struct store_iter *it;
    ck_assert_int_eq(f.ops->iter_create(f.store, (uint8_t)ns, &it), DW_OK);
    ck_assert(!f.ops->iter_valid(it));
    f.ops->iter_next(it);
    f.ops->iter_prev(it);
    f.ops->iter_first(it);
    ck_assert(!f.ops->iter_valid(it));
    f.ops->iter_next(it);
    f.ops->iter_last(it);
    ck_assert(!f.ops->iter_valid(it));
    f.ops->iter_prev(it);
    seek(it, "x");
    ck_assert(!f.ops->iter_valid(it));
    f.ops->iter_seek(it, NULL, 0);
    ck_assert(!f.ops->iter_valid(it));
    ck_assert_int_eq(f.ops->iter_status(it), DW_OK);
    f.ops->iter_destroy(it);
  }
  f.ops->iter_destroy(NULL);
  fixture_free(&f);
}
END_TEST

START_TEST(iterators_go_both_ways_and_stay_in_their_namespace) {
  fixture_init(&f, _i);
  fixture_open(&f);
  struct test_batch b = {0};
  put(&b, "a", "1");
  put(&b, "c", "3");
  batch_put(&b, "\0", 1, "zero", 4);
  batch_put(&b, "\xff\xff\xff", 3, "top", 3);
  struct store_body body = {b.body.data, b.body.len, b.ops};
  struct wal_op system = {OP_PUT, (const uint8_t *)"\0\xff\xff", 3, (const uint8_t *)"system", 6};
  struct wal_pos pos = pos_at(1);
  ck_assert_int_eq(f.ops->write(f.store, &body, 1, &system, 1, &pos), DW_OK);
  for (int round = 0; round < 2; round++) { /* from memory, then from files */
    struct store_iter *it;
    ck_assert_int_eq(f.ops->iter_create(f.store, NS_USER, &it), DW_OK);
    f.ops->iter_first(it);
    size_t n;
    ck_assert(f.ops->iter_valid(it));
    ck_assert_int_eq(*f.ops->iter_key(it, &n), 0);
    f.ops->iter_next(it);
    assert_key(it, "a");
    f.ops->iter_next(it);
    assert_key(it, "c");
    ck_assert_int_eq(*f.ops->iter_value(it, &n), '3');
    f.ops->iter_next(it);
    assert_key(it, "\xff\xff\xff");
    f.ops->iter_prev(it);
    assert_key(it, "c");
    seek(it, "b");
    assert_key(it, "c");
    seek(it, "c");
    assert_key(it, "c");
    seek(it, "\xff\xff\xff\xff");
    ck_assert(!f.ops->iter_valid(it));
    f.ops->iter_last(it);
    assert_key(it, "\xff\xff\xff");
    f.ops->iter_next(it);
    ck_assert(!f.ops->iter_valid(it));
    f.ops->iter_first(it);
    f.ops->iter_prev(it);
    ck_assert(!f.ops->iter_valid(it));
    f.ops->iter_destroy(it);

    ck_assert_int_eq(f.ops->iter_create(f.store, NS_SYSTEM, &it), DW_OK);
    f.ops->iter_last(it);
    assert_key(it, "\xff\xff");
    f.ops->iter_prev(it);
    assert_key(it, &STORE_MARKER_KEY[1]);
    f.ops->iter_prev(it);
    ck_assert(!f.ops->iter_valid(it));
    ck_assert_int_eq(f.ops->iter_status(it), DW_OK);
    f.ops->iter_destroy(it);
    ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK);
  }
  batch_free(&b);
  fixture_free(&f);
}
END_TEST

START_TEST(an_iterator_keeps_its_point_in_time) {
  fixture_init(&f, _i);
  fixture_open(&f);
  struct test_batch b = {0};
  put(&b, "a", "old");
  put(&b, "b", "old");
  put(&b, "c", "old");
  must_write(&f, &b, 1);
  struct store_iter *it;
  ck_assert_int_eq(f.ops->iter_create(f.store, NS_USER, &it), DW_OK);
  put(&b, "a", "new");
  batch_delete(&b, "b", 1);
  put(&b, "bb", "new");
  must_write(&f, &b, 2);
  ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK);
  f.ops->iter_first(it);
  for (const char *key = "abc"; *key; key++) {
    char one[2] = {*key, 0};
    assert_key(it, one);
    size_t n;
    const char *v = f.ops->iter_value(it, &n);
    ck_assert(n == 3 && memcmp(v, "old", 3) == 0);
    f.ops->iter_next(it);
  }
  ck_assert(!f.ops->iter_valid(it));
  f.ops->iter_destroy(it);
  ck_assert_str_eq(GOT("a"), "new");
  ck_assert_str_eq(GOT("b"), "-");
  batch_free(&b);
  fixture_free(&f);
}
END_TEST

/* ---- threads and checkpoints --------------------------------------------------------------- */

static atomic_bool stop;
static void *write_history(void *arg) {
  dw_lsn i = 0;
  while (!atomic_load(&stop)) {
    int rc = history_write(&f, ++i, 100);
    if (rc) return "a write failed";
  }
  *(dw_lsn *)arg = i;
  return NULL;
}

static void *read_consistently(void *arg) {
  (void)arg;
  dw_lsn last = 0;
  while (!atomic_load(&stop)) {
    struct store_iter *it;
    if (f.ops->iter_create(f.store, NS_USER, &it)) return "no iterator";
    seek(it, "last");
    if (f.ops->iter_valid(it)) {
      size_t n;
      dw_lsn now = strtoull(f.ops->iter_value(it, &n), NULL, 10); /* ends at the ':' */
      char key[16];
      snprintf(key, sizeof key, "slot-%03u", (unsigned)(now % HISTORY_SLOTS));
      seek(it, key);
      if (!f.ops->iter_valid(it)) return "half a batch is visible";
      if (strtoull(f.ops->iter_value(it, &n), NULL, 10) != now) return "two points in one iterator";
      if (now < last) return "time went back";
      last = now;
    }
    f.ops->iter_destroy(it);
    struct wal_pos applied, persisted;
    if (f.ops->marker(f.store, true, &persisted) || f.ops->marker(f.store, false, &applied)) return "no marker";
    if (persisted.lsn > applied.lsn) return "persisted beyond applied";
    if (applied.lsn < last) return "marker behind the data";
    char *val;
    size_t n;
    int rc = f.ops->get(f.store, "\1last", 5, &val, &n);
    if (rc == DW_OK) f.ops->free_value(val);
    if (rc != DW_OK && rc != DW_NOT_FOUND) return "get failed";
  }
  return NULL;
}

START_TEST(readers_flushes_and_checkpoints_go_beside_the_writer) {
  fixture_init(&f, _i);
  f.opt.memtable_bytes = 256 << 10;
  fixture_open(&f);
  atomic_store(&stop, false);
  pthread_t writer, readers[2];
  dw_lsn written = 0;
  void *complaint;
  ck_assert_int_eq(pthread_create(&writer, NULL, write_history, &written), 0);
  for (int i = 0; i < 2; i++) ck_assert_int_eq(pthread_create(&readers[i], NULL, read_consistently, NULL), 0);
  for (int i = 0; i < 5; i++) {
    char copy_dir[PATH_MAX + 16];
    snprintf(copy_dir, sizeof copy_dir, "%s/copy-%d", f.root, i);
    dw_lsn before = marker_lsn(&f, false);
    ck_assert_int_eq(f.ops->checkpoint(f.store, copy_dir), DW_OK);
    ck_assert_uint_ge(marker_lsn(&f, true), before);
    struct store_options opt = f.opt;
    opt.read_only = i % 2;
    opt.must_exist = true;
    struct store *copy;
    ck_assert_int_eq(f.ops->open(copy_dir, &opt, &copy), DW_OK);
    ck_assert_uint_ge(history_check(f.ops, copy, 100), before);
    f.ops->close(copy);
    int frc = f.ops->flush(f.store, i % 2);
    char why[300];
    dw_error_copy(why, sizeof why);
    ck_assert_msg(frc == DW_OK, "flush: %d %s", frc, why);
  }
  atomic_store(&stop, true);
  ck_assert_int_eq(pthread_join(writer, &complaint), 0);
  ck_assert_msg(!complaint, "%s", (char *)complaint);
  for (int i = 0; i < 2; i++) {
    ck_assert_int_eq(pthread_join(readers[i], &complaint), 0);
    ck_assert_msg(!complaint, "%s", (char *)complaint);
  }
  ck_assert_uint_eq(history_check(f.ops, f.store, 100), written);
  fixture_free(&f);
}
END_TEST

int main(void) {
  Suite *s = suite_create("engine/store iterators and threads");
  TCase *tc = tcase_create("both stores");
  tcase_set_timeout(tc, 120);
  tcase_add_loop_test(tc, iterators_of_an_empty_store_are_invalid_and_fine, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, iterators_go_both_ways_and_stay_in_their_namespace, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, an_iterator_keeps_its_point_in_time, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, readers_flushes_and_checkpoints_go_beside_the_writer, 0, FIXTURE_KINDS);
  suite_add_tcase(s, tc);
  SRunner *sr = srunner_create(s);
  srunner_run_all(sr, CK_ENV);
  int failed = srunner_ntests_failed(sr);
  srunner_free(sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
