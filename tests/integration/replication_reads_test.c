/* Read consistency on followers: session, bounded, strong; idle primaries, cut links, cascades. */
#include <check.h>
#include <pthread.h>
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

static void open_with_proxy(void) {
  node_open(p);
  proxy = proxy_start(p->port);
  node_follow_port(f1, proxy_port(proxy));
  node_open(f1);
}

static bool is_fresh(struct cluster_node *n, const dw_status *s, uint64_t ms) {
  (void)n;
  return s->staleness_ms <= ms;
}
static bool is_stale(struct cluster_node *n, const dw_status *s, uint64_t ms) {
  (void)n;
  return s->staleness_ms > ms;
}

START_TEST(a_session_read_waits_for_its_own_write) {
  node_open(p);
  node_open(f1);
  char key[32];
  for (int i = 0; i < 100; i++) {
    snprintf(key, sizeof key, "key-%d", i);
    dw_read_options ro = {.consistency = DW_SESSION, .min_lsn = node_put(p, key, "mine"), .wait_ms = 10000};
    ck_assert_str_eq(node_get(f1, &ro, key), "mine");
  }
}
END_TEST

START_TEST(a_session_read_of_what_has_not_arrived_is_stale) {
  node_open(p);
  node_open(f1);
  dw_read_options ro = {.consistency = DW_SESSION, .min_lsn = 1000, .wait_ms = 50};
  uint64_t start = now_ms();
  ck_assert_str_eq(node_get(f1, &ro, "k"), "DW_STALE");
  ck_assert_uint_ge(now_ms() - start, 49);
  ro.wait_ms = 0;
  ck_assert_str_eq(node_get(f1, &ro, "k"), "DW_STALE");
}
END_TEST

START_TEST(a_follower_of_an_idle_primary_stays_fresh) {
  node_open(p);
  node_open(f1);
  await_applied(f1, node_put(p, "k", "v"));
  dw_read_options ro = {.consistency = DW_BOUNDED, .max_staleness_ms = 1500, .wait_ms = 5000};
  uint64_t most = 0;
  ck_assert_str_eq(node_get(f1, &ro, "k"), "v");
  for (uint64_t until = now_ms() + 700; now_ms() < until;) {
    dw_status s;
    node_status(f1, &s);
    if (s.staleness_ms > most) most = s.staleness_ms;
  }
  ck_assert_uint_lt(most, 1000); /* nothing was written all the while */
  ro.wait_ms = 0;
  ck_assert_str_eq(node_get(f1, &ro, "k"), "v");
}
END_TEST

START_TEST(an_empty_cluster_is_fresh_too) {
  node_open(p);
  node_open(f1);
  await_status(f1, "freshness known", is_fresh, 1000);
}
END_TEST

START_TEST(staleness_is_unknown_until_the_first_answer) {
  open_with_proxy();
  await_status(f1, "freshness known", is_fresh, 1000);
  proxy_mode(proxy, PROXY_STALL);
  node_reopen(f1);
  dw_status s;
  node_status(f1, &s);
  ck_assert_uint_eq(s.staleness_ms, UINT64_MAX);
  dw_read_options ro = {.consistency = DW_BOUNDED, .max_staleness_ms = 3600000};
  ck_assert_str_eq(node_get(f1, &ro, "k"), "DW_STALE");
  proxy_mode(proxy, PROXY_CUT);
  proxy_mode(proxy, PROXY_PASS);
  ro.wait_ms = AWAIT_MS;
  ck_assert_str_eq(node_get(f1, &ro, "k"), "DW_NOT_FOUND");
}
END_TEST

START_TEST(a_stalled_link_makes_staleness_grow_at_once_and_bounded_reads_refuse) {
  p->opt.peer_timeout_ms = f1->opt.peer_timeout_ms = 10000; /* nobody notices that the link is dead */
  open_with_proxy();
  await_applied(f1, node_put(p, "k", "old"));
  await_status(f1, "freshness", is_fresh, 400);
  proxy_mode(proxy, PROXY_STALL_DOWN);
  uint64_t cut = now_ms();
  node_put(p, "k", "new");
  await_status(f1, "staleness", is_stale, 400);
  ck_assert_uint_lt(now_ms() - cut, 1500);
  dw_read_options ro = {.consistency = DW_BOUNDED, .max_staleness_ms = 300};
  ck_assert_str_eq(node_get(f1, &ro, "k"), "DW_STALE");
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "bound_ms=300"));
  ro.consistency = DW_EVENTUAL;
  ck_assert_str_eq(node_get(f1, &ro, "k"), "old");
  proxy_mode(proxy, PROXY_PASS);
  ro = (dw_read_options){.consistency = DW_BOUNDED, .max_staleness_ms = 300, .wait_ms = AWAIT_MS};
  ck_assert_str_eq(node_get(f1, &ro, "k"), "new");
}
END_TEST

START_TEST(a_bounded_read_is_never_older_than_its_bound) {
  open_with_proxy();
  await_status(f1, "freshness", is_fresh, 400);
  for (int i = 0; i < 20; i++) {
    char value[32];
    snprintf(value, sizeof value, "value %d", i);
    node_put(p, "clock", value);
    uint64_t committed = now_ms();
    if (i % 5 == 4) proxy_mode(proxy, PROXY_STALL_DOWN);
    dw_read_options ro = {.consistency = DW_BOUNDED, .max_staleness_ms = 100, .wait_ms = 60};
    for (uint64_t until = now_ms() + 150; now_ms() < until;) {
      uint64_t before = now_ms();
      const char *got = node_get(f1, &ro, "clock");
      if (strcmp(got, "DW_STALE") == 0) continue;
      /* Whatever was committed 100 ms before the read began is in what it saw: so it saw this one, if that old. */
      if (before > committed + 101) ck_assert_str_eq(got, value);
    }
    proxy_mode(proxy, PROXY_PASS);
  }
}
END_TEST

START_TEST(a_strong_read_sees_everything_committed_before_it_began) {
  node_open(p);
  node_open(f1);
  await_streaming(p, 1);
  dw_read_options ro = {.consistency = DW_STRONG, .wait_ms = 10000};
  char value[32];
  for (int i = 0; i < 200; i++) {
    snprintf(value, sizeof value, "%d", i);
    node_put(p, "k", value);
    ck_assert_str_eq(node_get(f1, &ro, "k"), value);
  }
  ck_assert_str_eq(node_get(p, &ro, "k"), value);
}
END_TEST

START_TEST(a_strong_read_without_the_primary_is_stale_in_time) {
  open_with_proxy();
  await_applied(f1, node_put(p, "k", "v"));
  proxy_mode(proxy, PROXY_STALL_DOWN);
  dw_read_options ro = {.consistency = DW_STRONG, .wait_ms = 100};
  uint64_t start = now_ms();
  ck_assert_str_eq(node_get(f1, &ro, "k"), "DW_STALE");
  ck_assert_uint_ge(now_ms() - start, 99);
  proxy_mode(proxy, PROXY_CUT);
  ck_assert_str_eq(node_get(f1, &ro, "k"), "DW_STALE");
  proxy_mode(proxy, PROXY_PASS);
  ro.wait_ms = AWAIT_MS; /* outlasts the back-off: the read is answered over the new connection */
  ck_assert_str_eq(node_get(f1, &ro, "k"), "v");
}
END_TEST

START_TEST(a_follower_without_a_primary_serves_what_it_has) {
  node_open(p);
  node_open(f1);
  await_applied(f1, node_put(p, "k", "v"));
  node_close(f1);
  dw_options o = f1->opt;
  o.primary = NULL;
  ck_assert_int_eq(dw_open(f1->dir, &o, &f1->e), DW_OK);
  dw_read_options ro = {.consistency = DW_STRONG, .wait_ms = 50};
  ck_assert_str_eq(node_get(f1, NULL, "k"), "v");
  ck_assert_str_eq(node_get(f1, &ro, "k"), "DW_STALE");
  ro.consistency = DW_BOUNDED;
  ro.max_staleness_ms = 1000000;
  ck_assert_str_eq(node_get(f1, &ro, "k"), "DW_STALE");
}
END_TEST

static void *read_once_strongly(void *arg) {
  dw_read_options ro = {.consistency = DW_STRONG, .wait_ms = AWAIT_MS / 2};
  snprintf(arg, 64, "%s", node_get(f1, &ro, "k"));
  return NULL;
}

START_TEST(a_strong_read_asks_again_when_the_link_breaks_under_it) {
  pthread_t t;
  char got[64];
  open_with_proxy();
  await_applied(f1, node_put(p, "k", "v"));
  proxy_mode(proxy, PROXY_STALL_DOWN);
  ck_assert_int_eq(pthread_create(&t, NULL, read_once_strongly, got), 0);
  await_status(f1, "staleness", is_stale, 500); /* by now its probe is under way and will never be answered */
  proxy_mode(proxy, PROXY_CUT);
  proxy_mode(proxy, PROXY_PASS);
  pthread_join(t, NULL);
  ck_assert_str_eq(got, "v");
}
END_TEST

struct reader {
  pthread_t thread;
  _Atomic bool *stop;
  _Atomic unsigned *committed;
  unsigned reads, wrong;
};

static void *read_strongly(void *arg) {
  struct reader *r = arg;
  dw_read_options ro = {.consistency = DW_STRONG, .wait_ms = 10000};
  while (!*r->stop) {
    unsigned at_least = *r->committed;
    unsigned got = (unsigned)strtoul(node_get(f1, &ro, "counter"), NULL, 10);
    r->reads++;
    r->wrong += got < at_least;
  }
  return NULL;
}

START_TEST(many_strong_readers_share_probes_and_are_all_right) {
  _Atomic bool stop = false;
  _Atomic unsigned committed = 0;
  struct reader r[8];
  node_open(p);
  node_open(f1);
  await_streaming(p, 1);
  for (int i = 0; i < 8; i++) {
    r[i] = (struct reader){.stop = &stop, .committed = &committed};
    ck_assert_int_eq(pthread_create(&r[i].thread, NULL, read_strongly, &r[i]), 0);
  }
  for (unsigned i = 1; i <= 500; i++) {
    char value[16];
    snprintf(value, sizeof value, "%u", i);
    node_put(p, "counter", value);
    committed = i;
  }
  stop = true;
  for (int i = 0; i < 8; i++) {
    pthread_join(r[i].thread, NULL);
    ck_assert_uint_gt(r[i].reads, 0);
    ck_assert_uint_eq(r[i].wrong, 0);
  }
}
END_TEST

/* ---- cascade --------------------------------------------------------------------------------- */

static void open_cascade(void) {
  f1->opt.listen = f1->listen;
  node_open(p);
  node_open(f1);
  node_follow(f2, f1);
  node_open(f2);
}

START_TEST(a_follower_of_a_follower_has_the_same_data) {
  open_cascade();
  node_fill(p, 0, 500, 200);
  await_same(p, f2);
  assert_equal_data(p, f2);
  dw_follower_status fs;
  ck_assert(node_as_follower(f1, f2, &fs));
}
END_TEST

START_TEST(strong_and_bounded_reads_work_through_a_cascade) {
  open_cascade();
  await_streaming(f1, 1);
  dw_read_options strong = {.consistency = DW_STRONG, .wait_ms = 10000};
  char value[32];
  for (int i = 0; i < 50; i++) {
    snprintf(value, sizeof value, "%d", i);
    node_put(p, "k", value);
    ck_assert_str_eq(node_get(f2, &strong, "k"), value);
  }
  dw_read_options bounded = {.consistency = DW_BOUNDED, .max_staleness_ms = 1000, .wait_ms = 10000};
  ck_assert_str_eq(node_get(f2, &bounded, "k"), value);
}
END_TEST

START_TEST(a_cascaded_follower_is_stale_while_its_upstream_is_cut_off_and_fresh_again_after) {
  node_open(p);
  proxy = proxy_start(p->port);
  node_follow_port(f1, proxy_port(proxy));
  f1->opt.listen = f1->listen;
  node_open(f1);
  node_follow(f2, f1);
  node_open(f2);
  await_status(f2, "freshness", is_fresh, 500);
  proxy_mode(proxy, PROXY_CUT);
  /* Long enough for more probes than a table of probes under way holds. */
  await_status(f2, "staleness", is_stale, 1500);
  proxy_mode(proxy, PROXY_PASS);
  await_status(f2, "freshness again", is_fresh, 500);
}
END_TEST

START_TEST(a_cascaded_follower_survives_the_bootstrap_of_its_upstream) {
  p->opt.segment_bytes = p->opt.retain_bytes = p->opt.memtable_bytes = 65536;
  open_cascade();
  await_applied(f2, node_fill(p, 0, 100, 100));
  node_close(f1);
  await_streaming(p, 0);
  node_fill(p, 0, 3000, 300);
  dw_status s;
  uint64_t until = now_ms() + AWAIT_MS;
  do { /* until f1's place is gone from the log */
    node_fill(p, 0, 500, 600);
    node_status(p, &s);
  } while (s.oldest_lsn < 200 && now_ms() < until);
  ck_assert_uint_ge(s.oldest_lsn, 200);
  node_open(f1);
  await_same(p, f1);
  await_same(p, f2);
  assert_equal_data(p, f1);
  assert_equal_data(p, f2);
}
END_TEST

START_TEST(two_followers_that_follow_each_other_do_not_run_hot) {
  node_open(p);
  node_open(f1);
  node_open(f2);
  await_applied(f1, node_put(p, "k", "v"));
  await_applied(f2, 1);
  node_close(f1);
  node_close(f2);
  f1->opt.listen = f1->listen;
  f2->opt.listen = f2->listen;
  f1->opt.primary = f2->opt.primary = NULL;
  node_follow(f2, p); /* any port: to learn its own first */
  node_open(f2);
  node_follow(f1, f2);
  node_open(f1);
  node_close(f2);
  node_follow(f2, f1);
  node_open(f2);
  await_primary_state(f1, DW_PEER_STREAMING);
  await_primary_state(f2, DW_PEER_STREAMING);
  dw_read_options ro = {.consistency = DW_STRONG, .wait_ms = 300};
  ck_assert_str_eq(node_get(f1, &ro, "k"), "DW_STALE"); /* nobody here knows a commit_lsn */
  dw_status s;
  node_status(f1, &s);
  ck_assert_uint_eq(s.staleness_ms, UINT64_MAX);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication: reads");
  TCase *t = tcase_create("reads");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 120);
  tcase_add_test(t, a_session_read_waits_for_its_own_write);
  tcase_add_test(t, a_session_read_of_what_has_not_arrived_is_stale);
  tcase_add_test(t, a_follower_of_an_idle_primary_stays_fresh);
  tcase_add_test(t, an_empty_cluster_is_fresh_too);
  tcase_add_test(t, staleness_is_unknown_until_the_first_answer);
  tcase_add_test(t, a_stalled_link_makes_staleness_grow_at_once_and_bounded_reads_refuse);
  tcase_add_test(t, a_bounded_read_is_never_older_than_its_bound);
  tcase_add_test(t, a_strong_read_sees_everything_committed_before_it_began);
  tcase_add_test(t, a_strong_read_without_the_primary_is_stale_in_time);
  tcase_add_test(t, a_strong_read_asks_again_when_the_link_breaks_under_it);
  tcase_add_test(t, a_follower_without_a_primary_serves_what_it_has);
  tcase_add_test(t, many_strong_readers_share_probes_and_are_all_right);
  tcase_add_test(t, a_follower_of_a_follower_has_the_same_data);
  tcase_add_test(t, strong_and_bounded_reads_work_through_a_cascade);
  tcase_add_test(t, a_cascaded_follower_is_stale_while_its_upstream_is_cut_off_and_fresh_again_after);
  tcase_add_test(t, a_cascaded_follower_survives_the_bootstrap_of_its_upstream);
  tcase_add_test(t, two_followers_that_follow_each_other_do_not_run_hot);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
