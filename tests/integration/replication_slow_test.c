/* A slow or silent follower is its own problem: not the primary's, not another follower's, not of memory. */
#include <check.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/cluster.h"
#include "tests/support/proxy.h"

static struct cluster c;
static struct cluster_node *p, *f1, *f2;
static struct proxy *proxy;

static void setup(void) {
  cluster_init(&c);
  p = &c.node[0];
  f1 = &c.node[1];
  f2 = &c.node[2];
}
static void teardown(void) {
  proxy_stop(proxy);
  proxy = NULL;
  cluster_free(&c);
}

/* Bytes allocated and not freed, all of this process. (Resident memory says more about the allocator's habits.) */
static size_t allocated(void) {
  struct mallinfo2 m = mallinfo2();
  return m.uordblks + m.hblkhd;
}

/* Values of 100 kB, half of it after compression: at full size far more than a node may buffer for a follower. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#define MANY 600u
#else
#define SANITIZED 0
#define MANY 3000u
#endif
#define BIG 100000u

static void open_all(void) {
  p->opt.segment_bytes = 8u << 20;
  p->opt.durability = DW_DURABILITY_OS;
  node_open(p);
  proxy = proxy_start(p->port);
  node_follow_port(f1, proxy_port(proxy));
  node_open(f1);
  node_open(f2);
  await_streaming(p, 2);
}

START_TEST(a_stalled_follower_holds_up_neither_the_primary_nor_the_other_and_costs_no_memory) {
  p->opt.peer_timeout_ms = f1->opt.peer_timeout_ms = 60000; /* it stays connected all the time */
  open_all();
  uint64_t start = now_ms();
  node_fill(p, 0, MANY, BIG);
  await_same(p, f2);
  uint64_t with_both = now_ms() - start;
  await_same(p, f1);
  size_t before = allocated();
  proxy_mode(proxy, PROXY_STALL);
  start = now_ms();
  node_fill(p, 0, MANY, BIG);
  await_same(p, f2);
  uint64_t with_one = now_ms() - start;
  size_t after = allocated();
  ck_assert_msg(with_one < 3 * with_both + 1000, "%llu ms with both, %llu ms with one stalled",
                (unsigned long long)with_both, (unsigned long long)with_one);
  /* Three nodes' tail caches may have filled up meanwhile; the backlog is another 150 MB. */
  ck_assert_msg(SANITIZED || after < before + (96u << 20), "memory grew from %zu to %zu", before, after);
  dw_follower_status fs;
  ck_assert(node_as_follower(p, f1, &fs));
  ck_assert_uint_gt(fs.lag_lsns, MANY * 3 / 4);
  ck_assert_uint_gt(fs.lag_bytes, (uint64_t)MANY * BIG / 4);
  proxy_mode(proxy, PROXY_PASS);
  await_same(p, f1);
  assert_equal_data(p, f1);
}
END_TEST

START_TEST(a_follower_far_behind_that_takes_nothing_costs_no_memory_either) {
  p->opt.peer_timeout_ms = f1->opt.peer_timeout_ms = 60000;
  open_all();
  node_close(f1);
  await_streaming(p, 1);
  node_fill(p, 0, MANY, BIG);
  await_same(p, f2);
  size_t before = allocated();
  proxy_mode(proxy, PROXY_STALL_DOWN); /* it asks for everything and reads nothing */
  node_open(f1);
  dw_follower_status fs = {0};
  for (uint64_t until = now_ms() + AWAIT_MS; now_ms() < until && fs.sent_bytes == 0;)
    ck_assert(node_as_follower(p, f1, &fs));
  ck_assert_uint_gt(fs.sent_bytes, 0);
  size_t after = allocated();
  ck_assert_msg(SANITIZED || after < before + (32u << 20), "memory grew from %zu to %zu", before, after);
  ck_assert_uint_gt(fs.lag_bytes, (uint64_t)MANY * BIG / 4);
  proxy_mode(proxy, PROXY_PASS);
  await_same(p, f1);
  assert_equal_data(p, f1);
}
END_TEST

START_TEST(a_stalled_follower_is_disconnected_in_time_and_catches_up_later) {
  p->opt.peer_timeout_ms = f1->opt.peer_timeout_ms = 400;
  open_all();
  node_fill(p, 0, 100, 100);
  proxy_mode(proxy, PROXY_STALL);
  await_streaming(p, 1);
  await_primary_state(f1, DW_PEER_DISCONNECTED);
  node_fill(p, 0, 5000, 500);
  proxy_mode(proxy, PROXY_CUT);
  proxy_mode(proxy, PROXY_PASS);
  await_same(p, f1);
  await_streaming(p, 2);
  assert_equal_data(p, f1);
}
END_TEST

START_TEST(a_lost_ack_on_a_quiet_system_heals) {
  p->opt.mode = DW_SYNC;
  p->opt.acks = 2;
  p->opt.peer_timeout_ms = f1->opt.peer_timeout_ms = 10000;
  open_all();
  for (int i = 0; i < 5; i++) {
    proxy_mode(proxy, PROXY_STALL); /* the block, or its ack, hangs */
    dw_lsn lsn = 0;
    dw_write_options wo = {.timeout_ms = 150};
    ck_assert_int_eq(dw_put(p->e, &wo, "k", 1, "v", 1, &lsn), DW_TIMEOUT);
    ck_assert_uint_gt(lsn, 0);
    proxy_mode(proxy, PROXY_PASS);
    wo.timeout_ms = AWAIT_MS; /* no later write carries the ack */
    ck_assert_int_eq(dw_wait(p->e, lsn, &wo), DW_OK);
  }
}
END_TEST

START_TEST(big_values_go_through) {
  node_open(p);
  node_open(f1);
  size_t n = 20u << 20;
  char *value = malloc(n);
  uint64_t x = 42;
  for (size_t i = 0; i < n; i++) x = x * 6364136223846793005ull + 1442695040888963407ull, value[i] = (char)(x >> 56);
  dw_lsn lsn = 0;
  for (int i = 0; i < 3; i++) ck_assert_int_eq(dw_put(p->e, NULL, "big", 3, value, n, &lsn), DW_OK);
  await_applied(f1, lsn);
  dw_value v;
  ck_assert_int_eq(dw_get(f1->e, NULL, "big", 3, &v), DW_OK);
  ck_assert_uint_eq(v.size, n);
  ck_assert_int_eq(memcmp(v.data, value, n), 0);
  dw_value_release(&v);
  free(value);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication: slow followers");
  TCase *t = tcase_create("slow");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 180);
  tcase_add_test(t, a_stalled_follower_holds_up_neither_the_primary_nor_the_other_and_costs_no_memory);
  tcase_add_test(t, a_follower_far_behind_that_takes_nothing_costs_no_memory_either);
  tcase_add_test(t, a_stalled_follower_is_disconnected_in_time_and_catches_up_later);
  tcase_add_test(t, a_lost_ack_on_a_quiet_system_heals);
  tcase_add_test(t, big_values_go_through);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
