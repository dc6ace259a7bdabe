/* What each mode and acknowledgement level promises, with real engines, sockets and files in one process. */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/cluster.h"

static struct cluster c;
static struct cluster_node *p, *f1, *f2;

static void setup(void) {
  cluster_init(&c);
  p = &c.node[0];
  f1 = &c.node[1];
  f2 = &c.node[2];
}
static void teardown(void) {
  cluster_free(&c);
}

static int put(const dw_write_options *wo, const char *key, dw_lsn *lsn) {
  return dw_put(p->e, wo, key, strlen(key), "v", 1, lsn);
}

START_TEST(an_asynchronous_write_reaches_a_follower) {
  node_open(p);
  node_open(f1);
  dw_lsn lsn = node_put(p, "name", "value");
  await_applied(f1, lsn);
  ck_assert_str_eq(node_get(f1, NULL, "name"), "value");
}
END_TEST

START_TEST(a_follower_refuses_writes) {
  node_open(p);
  node_open(f1);
  ck_assert_int_eq(dw_put(f1->e, NULL, "k", 1, "v", 1, NULL), DW_READ_ONLY);
}
END_TEST

START_TEST(a_sync_write_is_in_the_followers_log_when_it_returns) {
  p->opt.mode = DW_SYNC;
  node_open(p);
  node_open(f1);
  await_streaming(p, 1);
  for (int i = 0; i < 50; i++) {
    dw_lsn lsn = node_put(p, "k", "v");
    dw_status s;
    node_status(f1, &s);
    ck_assert_uint_ge(s.written_lsn, lsn);
    ck_assert_uint_ge(s.durable_lsn, lsn);
  }
}
END_TEST

START_TEST(a_write_acked_as_received_is_in_the_followers_log) {
  p->opt.mode = DW_SYNC;
  p->opt.ack = DW_ACK_RECEIVED;
  node_open(p);
  node_open(f1);
  await_streaming(p, 1);
  for (int i = 0; i < 50; i++) {
    dw_lsn lsn = node_put(p, "k", "v");
    dw_status s;
    node_status(f1, &s);
    ck_assert_uint_ge(s.written_lsn, lsn);
  }
}
END_TEST

START_TEST(after_ok_at_level_applied_a_plain_read_on_the_follower_sees_the_write) {
  p->opt.mode = DW_SYNC;
  p->opt.ack = DW_ACK_APPLIED;
  node_open(p);
  node_open(f1);
  await_streaming(p, 1);
  char key[32];
  for (int i = 0; i < 100; i++) {
    snprintf(key, sizeof key, "key-%d", i);
    node_put(p, key, "there");
    ck_assert_str_eq(node_get(f1, NULL, key), "there");
  }
}
END_TEST

START_TEST(sync_without_enough_followers_refuses_before_it_logs) {
  p->opt.mode = DW_SYNC;
  p->opt.acks = 2;
  node_open(p);
  node_open(f1);
  await_streaming(p, 1);
  dw_status before, after;
  dw_lsn lsn = 99;
  node_status(p, &before);
  ck_assert_int_eq(put(NULL, "k", &lsn), DW_NOT_ENOUGH_FOLLOWERS);
  ck_assert_uint_eq(lsn, 0);
  node_status(p, &after);
  ck_assert_uint_eq(before.written_lsn, after.written_lsn);
  node_open(f2);
  await_streaming(p, 2);
  ck_assert_int_eq(put(NULL, "k", &lsn), DW_OK);
}
END_TEST

START_TEST(sync_refuses_again_when_the_follower_leaves) {
  p->opt.mode = DW_SYNC;
  node_open(p);
  node_open(f1);
  await_streaming(p, 1);
  ck_assert_int_eq(put(NULL, "k", NULL), DW_OK);
  node_close(f1);
  await_streaming(p, 0);
  ck_assert_int_eq(put(NULL, "k", NULL), DW_NOT_ENOUGH_FOLLOWERS);
}
END_TEST

static bool is_degraded(struct cluster_node *n, const dw_status *s, uint64_t want) {
  (void)n;
  return s->degraded == (int)want;
}

START_TEST(semi_sync_degrades_visibly_and_returns_by_itself) {
  p->opt.mode = DW_SEMI_SYNC;
  p->opt.ack_timeout_ms = 200;
  node_open(p);
  dw_status s;
  ck_assert_int_eq(put(NULL, "alone", NULL), DW_OK);
  node_status(p, &s);
  ck_assert_int_eq(s.degraded, 1);
  ck_assert_uint_ge(s.degraded_commits, 1);
  ck_assert_uint_eq(s.degraded_count, 1);
  ck_assert(node_logged(p, "degraded to async"));
  node_open(f1);
  await_status(p, "semi-sync again", is_degraded, 0);
  dw_lsn lsn;
  ck_assert_int_eq(put(NULL, "acked", &lsn), DW_OK);
  node_status(f1, &s);
  ck_assert_uint_ge(s.durable_lsn, lsn);
}
END_TEST

START_TEST(a_write_may_ask_for_more_than_the_engine_does) {
  node_open(p);
  node_open(f1);
  await_streaming(p, 1);
  dw_write_options wo = {.mode = DW_SYNC, .ack = DW_ACK_APPLIED, .acks = 1};
  ck_assert_int_eq(put(&wo, "careful", NULL), DW_OK);
  ck_assert_str_eq(node_get(f1, NULL, "careful"), "v");
  wo.acks = 2;
  ck_assert_int_eq(put(&wo, "too much", NULL), DW_NOT_ENOUGH_FOLLOWERS);
  ck_assert_int_eq(put(NULL, "easy", NULL), DW_OK);
}
END_TEST

struct writer {
  pthread_t thread;
  unsigned number, count;
  int rc;
};

static void *write_many(void *arg) {
  struct writer *w = arg;
  char key[48], val[200];
  memset(val, 'x', sizeof val);
  for (unsigned i = 0; i < w->count && !w->rc; i++) {
    int k = snprintf(key, sizeof key, "writer-%u-%05u", w->number, i % 700);
    snprintf(val, 40, "%u.%u", w->number, i);
    if (i % 10 == 9)
      w->rc = dw_delete(p->e, NULL, key, (size_t)k, NULL);
    else
      w->rc = dw_put(p->e, NULL, key, (size_t)k, val, sizeof val, NULL);
  }
  return NULL;
}

static void eight_writers(unsigned count) {
  struct writer w[8];
  for (unsigned i = 0; i < 8; i++) {
    w[i] = (struct writer){.number = i, .count = count};
    ck_assert_int_eq(pthread_create(&w[i].thread, NULL, write_many, &w[i]), 0);
  }
  for (unsigned i = 0; i < 8; i++) {
    pthread_join(w[i].thread, NULL);
    ck_assert_int_eq(w[i].rc, DW_OK);
  }
}

START_TEST(eight_writers_and_two_followers_end_up_equal) {
  static const dw_mode modes[] = {DW_ASYNC, DW_SEMI_SYNC, DW_SYNC};
  p->opt.mode = modes[_i];
  p->opt.durability = _i == 0 ? DW_DURABILITY_OS : DW_DURABILITY_DISK;
  node_open(p);
  node_open(f1);
  node_open(f2);
  await_streaming(p, 2);
  eight_writers(_i == 0 ? 3000 : 400);
  await_same(p, f1);
  await_same(p, f2);
  assert_equal_data(p, f1);
  assert_equal_data(p, f2);
  dw_follower_status fs;
  ck_assert(node_as_follower(p, f1, &fs));
  ck_assert_uint_gt(fs.sent_bytes, 0);
}
END_TEST

static bool lag_is_gone(struct cluster_node *n, const dw_status *s, uint64_t unused) {
  (void)n, (void)unused;
  return s->follower_count == 1 && s->followers[0].applied_lsn == s->commit_lsn && s->followers[0].lag_bytes == 0 &&
         s->followers[0].lag_lsns == 0 && s->followers[0].lag_ms == 0;
}

START_TEST(the_primarys_status_shows_its_followers) {
  f1->opt.region = "pune";
  node_open(p);
  node_open(f1);
  node_fill(p, 0, 100, 50);
  await_status(p, "no lag", lag_is_gone, 0);
  dw_follower_status fs;
  ck_assert(node_as_follower(p, f1, &fs));
  ck_assert_str_eq(fs.region, "pune");
  ck_assert_ptr_nonnull(strstr(fs.address, "127.0.0.1:"));
  ck_assert_int_eq(fs.state, DW_PEER_STREAMING);
  ck_assert_uint_eq(fs.applied_lsn, 100);
  node_close(f1);
  await_streaming(p, 0);
  node_fill(p, 100, 10, 50);
  for (uint64_t until = now_ms() + AWAIT_MS; now_ms() < until;) {
    ck_assert(node_as_follower(p, f1, &fs)); /* known, though absent */
    if (fs.lag_lsns == 10) break;
  }
  ck_assert_int_eq(fs.state, DW_PEER_DISCONNECTED);
  ck_assert_uint_eq(fs.lag_lsns, 10);
  ck_assert_uint_gt(fs.lag_bytes, 0);
}
END_TEST

static bool durable_there(struct cluster_node *at, const dw_status *s, uint64_t lsn) {
  (void)at;
  return s->follower_count && s->followers[0].durable_lsn >= lsn;
}

static int by_time(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

/* Whoever waits for what the status shows (Redis' WAIT does) would else wait for the loop's next tick: 100 ms. */
START_TEST(the_status_shows_an_ack_soon_also_when_nothing_follows_it) {
  uint64_t took[21], median = UINT64_MAX;
  p->opt.heartbeat_ms = f1->opt.heartbeat_ms = 5000; /* no probe wakes the loop meanwhile */
  p->opt.peer_timeout_ms = f1->opt.peer_timeout_ms = 60000;
  node_open(p);
  node_open(f1);
  await_streaming(p, 1);
  for (int round = 0; round < 5 && median > 50; round++) { /* a busy machine may be slow once */
    for (int i = 0; i < 21; i++) {
      dw_lsn lsn = node_put(p, "k", "v");
      uint64_t start = now_ms();
      await_status(p, "its mark", durable_there, lsn);
      took[i] = now_ms() - start;
    }
    qsort(took, 21, sizeof *took, by_time);
    median = took[10];
  }
  ck_assert_msg(median <= 50, "it takes %llu ms", (unsigned long long)median);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication: commit");
  TCase *t = tcase_create("commit");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 120);
  tcase_add_test(t, an_asynchronous_write_reaches_a_follower);
  tcase_add_test(t, a_follower_refuses_writes);
  tcase_add_test(t, a_sync_write_is_in_the_followers_log_when_it_returns);
  tcase_add_test(t, a_write_acked_as_received_is_in_the_followers_log);
  tcase_add_test(t, after_ok_at_level_applied_a_plain_read_on_the_follower_sees_the_write);
  tcase_add_test(t, sync_without_enough_followers_refuses_before_it_logs);
  tcase_add_test(t, sync_refuses_again_when_the_follower_leaves);
  tcase_add_test(t, semi_sync_degrades_visibly_and_returns_by_itself);
  tcase_add_test(t, a_write_may_ask_for_more_than_the_engine_does);
  tcase_add_loop_test(t, eight_writers_and_two_followers_end_up_equal, 0, 3);
  tcase_add_test(t, the_primarys_status_shows_its_followers);
  tcase_add_test(t, the_status_shows_an_ack_soon_also_when_nothing_follows_it);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
