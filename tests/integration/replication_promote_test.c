/* Promotion, fencing and following somebody else, on real sockets and disks: dw_promote and dw_follow. */
#include <arpa/inet.h>
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "engine/engine.h"
#include "replication/fencer.h"
#include "tests/support/check_main.h"
#include "tests/support/cluster.h"
#include "tests/support/proxy.h"

static struct cluster c;
static struct cluster_node *p, *f1, *f2;
static struct proxy *proxy;

/* Three nodes, sync with one follower: two promises are needed. */
static void setup(void) {
  cluster_init(&c);
  p = &c.node[0];
  f1 = &c.node[1];
  f2 = &c.node[2];
  cluster_of_three(&c);
  for (int i = 0; i < 3; i++) c.node[i].opt.ack_timeout_ms = 5000;
}

static void teardown(void) {
  proxy_stop(proxy);
  proxy = NULL;
  cluster_free(&c);
}

static void open_all(void) {
  node_open(p);
  node_open(f1);
  node_open(f2);
  await_streaming(p, 2);
}

static void promote(struct cluster_node *n) {
  int rc = dw_promote(n->e, NULL);
  ck_assert_msg(rc == DW_OK, "promoting node %d: %s: %s", n->number, dw_rc_name(rc), dw_last_error());
}

static void refused(struct cluster_node *n, const dw_promote_options *opt, int code, const char *text) {
  int rc = dw_promote(n->e, opt);
  ck_assert_msg(rc == code, "%s, not %s: %s", dw_rc_name(rc), dw_rc_name(code), dw_last_error());
  ck_assert_msg(strstr(dw_last_error(), text) != NULL, "'%s' is not in: %s", text, dw_last_error());
}

static int put(struct cluster_node *n, const char *key, const char *value, dw_lsn *lsn) {
  return dw_put(n->e, NULL, key, strlen(key), value, strlen(value), lsn);
}

static uint64_t records(struct cluster_node *n) {
  struct hash128 h;
  return node_records(n, &h);
}

static bool role_is(struct cluster_node *n, const dw_status *s, uint64_t role) {
  (void)n;
  return s->role == (dw_role)role;
}
static bool fenced(struct cluster_node *n, const dw_status *s, uint64_t yes) {
  (void)n;
  return (uint64_t)s->fenced == yes;
}

START_TEST(a_follower_takes_over_and_the_others_follow_it_without_a_bootstrap) {
  open_all();
  node_fill(p, 0, 500, 100);
  await_same(p, f1);
  await_same(p, f2);
  dw_status s;
  node_status(p, &s);
  uint64_t old_epoch = s.epoch;
  node_close(p);
  promote(f1);
  node_status(f1, &s);
  ck_assert_int_eq(s.role, DW_PRIMARY);
  ck_assert_uint_eq(s.epoch >> 32, (old_epoch >> 32) + 1);
  ck_assert_uint_eq(s.promised_epoch, s.epoch);
  ck_assert_uint_eq(s.promised_node, 2);
  await_streaming(f1, 1);
  node_fill(f1, 500, 500, 100);
  await_same(f1, f2);
  assert_equal_data(f1, f2);
  ck_assert_uint_eq(records(f1), 1000);
  node_status(f2, &s);
  ck_assert_uint_eq(s.bootstraps, 0);
  ck_assert_str_eq(s.primary, f1->listen);
  struct epoch_record history[8];
  size_t n = engine_epochs(f1->e, history, 8);
  ck_assert_uint_eq(n, 2);
  ck_assert_uint_eq(history[1].reason, EPOCH_PROMOTED);
  ck_assert_uint_eq(history[1].node_id, 2);
  ck_assert_uint_eq(history[1].start.lsn, 500);
}
END_TEST

START_TEST(an_old_primary_that_lives_is_fenced_also_after_a_restart_and_can_follow) {
  open_all();
  node_fill(p, 0, 100, 100);
  await_same(p, f1);
  await_same(p, f2);
  promote(f1);
  await_status(p, "fenced", fenced, 1);
  dw_lsn lsn = 99;
  ck_assert_int_eq(put(p, "late", "x", &lsn), DW_FENCED);
  ck_assert_uint_eq(lsn, 0);
  while (!strstr(dw_last_error(), f1->listen)) put(p, "late", "x", &lsn); /* names the new primary, once it has heard */
  dw_read_options bounded = {.consistency = DW_BOUNDED, .max_staleness_ms = 1000};
  ck_assert_str_eq(node_get(p, &bounded, "k00000001"), "DW_STALE");
  ck_assert_str_ne(node_get(p, NULL, "k00000001"), "DW_STALE");
  node_reopen(p);
  ck_assert_int_eq(put(p, "late", "x", &lsn), DW_FENCED);
  await_streaming(f1, 1);
  node_put(f1, "after", "1");
  ck_assert_int_eq(dw_follow(p->e, f1->listen), DW_OK);
  await_status(p, "a follower", role_is, DW_FOLLOWER);
  await_streaming(f1, 2);
  node_put(f1, "more", "2");
  await_same(f1, p);
  await_same(f1, f2);
  assert_equal_data(f1, p);
  assert_equal_data(f1, f2);
  ck_assert_int_eq(put(p, "late", "x", &lsn), DW_READ_ONLY);
}
END_TEST

static double seconds_now(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Whoever has lost his lease just after a promotion can't wait for a peer that takes no news. */
START_TEST(a_new_primary_stands_down_at_once_though_a_peer_hears_nothing) {
  open_all();
  await_same(p, f1);
  node_close(f1);
  proxy = proxy_start(f2->port);
  proxy_mode(proxy, PROXY_STALL);
  snprintf(f1->peers, sizeof f1->peers, "%s,127.0.0.1:%u", p->listen, proxy_port(proxy));
  node_open(f1);
  await_same(p, f1);
  dw_promote_options opt = {.timeout_ms = 1000};
  ck_assert_msg(dw_promote(f1->e, &opt) == DW_OK, "%s", dw_last_error());
  double since = seconds_now();
  ck_assert_int_eq(dw_follow(f1->e, NULL), DW_OK);
  ck_assert_double_lt(seconds_now() - since, 1.0);
  await_status(f1, "a follower", role_is, DW_FOLLOWER);
}
END_TEST

START_TEST(too_few_promises_change_nothing) {
  open_all();
  node_fill(p, 0, 100, 100);
  await_same(p, f1);
  node_close(f2);
  node_close(p);
  refused(f1, NULL, DW_NOT_ENOUGH_FOLLOWERS, "2 promises are needed");
  dw_status s;
  node_status(f1, &s);
  ck_assert_int_eq(s.role, DW_FOLLOWER);
  ck_assert_uint_eq(s.promised_epoch, 0);
  node_open(p); /* and the old primary is followed as before */
  await_streaming(p, 1);
  node_put(p, "again", "1");
  await_same(p, f1);
  node_close(p);
  dw_promote_options force = {.force = 1};
  ck_assert_int_eq(dw_promote(f1->e, &force), DW_OK);
  node_open(f2);
  ck_assert_int_eq(dw_follow(f2->e, f1->listen), DW_OK);
  await_streaming(f1, 1);
  node_put(f1, "forced", "1");
  await_same(f1, f2);
  assert_equal_data(f1, f2);
}
END_TEST

START_TEST(a_candidate_that_lacks_something_is_refused_with_who_and_how_much) {
  node_open(p);
  node_open(f2);
  proxy = proxy_start(p->port);
  node_follow_port(f1, proxy_port(proxy));
  node_open(f1);
  await_streaming(p, 2);
  node_fill(p, 0, 10, 100);
  await_same(p, f1);
  proxy_mode(proxy, PROXY_CUT);
  node_fill(p, 10, 15, 100);
  await_same(p, f2);
  node_close(p);
  refused(f1, NULL, DW_STALE, "node 3 (a follower) has more: its log ends at LSN 25");
  refused(f1, &(dw_promote_options){.max_lag_ms = 1}, DW_STALE, "has more");
  promote(f2);
  await_streaming(f2, 1);
  await_same(f2, f1);
  ck_assert_uint_eq(records(f1), 25);
}
END_TEST

START_TEST(a_node_whose_data_is_too_old_is_refused) {
  open_all();
  node_fill(p, 0, 10, 100);
  await_same(p, f1);
  await_same(p, f2);
  node_close(p);
  dw_status s;
  do node_status(f1, &s);
  while (s.staleness_ms < 50);
  refused(f1, &(dw_promote_options){.max_lag_ms = 10}, DW_STALE, "ms old, allowed are 10 ms");
  promote(f1);
}
END_TEST

static void *promote_thread(void *arg) {
  struct cluster_node *n = arg;
  return (void *)(intptr_t)dw_promote(n->e, NULL);
}

START_TEST(of_two_candidates_at_once_no_two_acknowledge) {
  open_all();
  node_fill(p, 0, 10, 100);
  await_same(p, f1);
  await_same(p, f2);
  node_close(p);
  pthread_t t1, t2;
  void *r1, *r2;
  pthread_create(&t1, NULL, promote_thread, f1);
  pthread_create(&t2, NULL, promote_thread, f2);
  pthread_join(t1, &r1);
  pthread_join(t2, &r2);
  /* Either one won, or each stood in the other's way: then the operator asks once more. */
  struct cluster_node *won = (intptr_t)r1 == DW_OK ? f1 : (intptr_t)r2 == DW_OK ? f2 : NULL;
  ck_assert(!((intptr_t)r1 == DW_OK && (intptr_t)r2 == DW_OK));
  if (!won) promote(won = f1);
  struct cluster_node *other = won == f1 ? f2 : f1;
  ck_assert_int_eq(dw_follow(other->e, won->listen), DW_OK);
  await_streaming(won, 1);
  node_put(won, "x", "1");
  await_same(won, other);
  assert_equal_data(won, other);
}
END_TEST

START_TEST(a_tail_that_was_in_doubt_is_decided_by_the_new_primary) {
  open_all();
  node_fill(p, 0, 10, 100);
  await_same(p, f1);
  await_same(p, f2);
  /* Three acks can't come: logged everywhere, in doubt. */
  dw_lsn lsn = 0;
  dw_write_options two = {.mode = DW_SYNC, .acks = 2, .timeout_ms = 300};
  node_close(f2);
  ck_assert_int_eq(dw_put(p->e, &two, "doubt", 5, "1", 1, &lsn), DW_NOT_ENOUGH_FOLLOWERS);
  node_open(f2);
  await_streaming(p, 2);
  ck_assert_int_eq(dw_put(p->e, &two, "doubt", 5, "1", 1, &lsn), DW_OK);
  await_same(p, f1);
  node_close(p);
  promote(f1);
  await_streaming(f1, 1);
  dw_read_options strong = {.consistency = DW_STRONG, .wait_ms = 5000};
  ck_assert_str_eq(node_get(f1, &strong, "doubt"), "1");
  ck_assert_str_eq(node_get(f2, &strong, "doubt"), "1");
}
END_TEST

struct writer {
  struct cluster_node *n;
  int id;
  unsigned acked, refused;
};

static void *write_until_fenced(void *arg) {
  struct writer *w = arg;
  for (unsigned i = 0;; i++) {
    char key[40];
    snprintf(key, sizeof key, "w%d-%06u", w->id, w->acked);
    int rc = put(w->n, key, key, NULL);
    if (rc == DW_OK) w->acked++;
    if (rc == DW_FENCED) return NULL;
    ck_assert_msg(rc == DW_OK || rc == DW_TIMEOUT || rc == DW_NOT_ENOUGH_FOLLOWERS, "%s: %s", dw_rc_name(rc),
                  dw_last_error());
  }
}

START_TEST(a_primary_under_load_hands_over_and_nothing_is_lost) {
  open_all();
  struct writer w[4];
  pthread_t t[4];
  for (int i = 0; i < 4; i++) {
    w[i] = (struct writer){.n = p, .id = i};
    pthread_create(&t[i], NULL, write_until_fenced, &w[i]);
  }
  await_applied(f1, 200);
  int rc = dw_promote(f1->e, &(dw_promote_options){.handover = 1});
  ck_assert_msg(rc == DW_OK, "%s: %s", dw_rc_name(rc), dw_last_error());
  for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
  await_streaming(f1, 2); /* the old primary, too */
  node_put(f1, "after", "1");
  await_same(f1, f2);
  dw_read_options strong = {.consistency = DW_STRONG, .wait_ms = 5000};
  for (int i = 0; i < 4; i++) {
    ck_assert_uint_gt(w[i].acked, 0);
    for (unsigned k = 0; k < w[i].acked; k++) {
      char key[40];
      snprintf(key, sizeof key, "w%d-%06u", i, k);
      ck_assert_msg(strcmp(node_get(f1, &strong, key), key) == 0, "%s was acknowledged and is lost", key);
    }
  }
}
END_TEST

/* The pause has ended and the writes have gone on: whoever asked for it is nobody special any more. */
START_TEST(a_primary_whose_handover_failed_does_not_follow_that_candidate_later) {
  node_open(p);
  node_open(f2);
  proxy = proxy_start(p->port);
  node_follow_port(f1, proxy_port(proxy));
  node_open(f1);
  await_streaming(p, 2);
  node_fill(p, 0, 10, 100);
  await_same(p, f1);
  proxy_mode(proxy, PROXY_STALL);
  node_fill(p, 10, 15, 100);
  refused(f1, &(dw_promote_options){.handover = 1, .timeout_ms = 500}, DW_TIMEOUT, "");
  node_put(p, "more", "1"); /* once the pause has ended */
  ck_assert_int_eq(dw_promote(f1->e, &(dw_promote_options){.force = 1}), DW_OK);
  refused(f1, NULL, DW_INVALID, "this node is the primary already"); /* and everybody has been told */
  refused(p, NULL, DW_INVALID, "this node is a fenced primary");
}
END_TEST

START_TEST(with_peers_a_directory_opens_as_what_its_history_says) {
  open_all();
  node_fill(p, 0, 20, 100);
  await_same(p, f1);
  await_same(p, f2);
  ck_assert_int_eq(dw_promote(f1->e, &(dw_promote_options){.handover = 1}), DW_OK);
  await_status(p, "a follower", role_is, DW_FOLLOWER); /* it handed over, so it follows by itself */
  await_streaming(f1, 2);
  node_put(f1, "x", "1");
  await_same(f1, p);
  node_close(p);
  node_close(f1);
  node_open(p);  /* its settings say primary */
  node_open(f1); /* its settings say follower of p */
  dw_status s;
  node_status(p, &s);
  ck_assert_int_eq(s.role, DW_FOLLOWER);
  node_status(f1, &s);
  ck_assert_int_eq(s.role, DW_PRIMARY);
  ck_assert_uint_eq(s.epoch >> 32, 1); /* the same term */
  ck_assert_int_eq(dw_follow(p->e, f1->listen), DW_OK);
  await_streaming(f1, 2);
  node_put(f1, "y", "1");
  await_same(f1, p);
  await_same(f1, f2);
  assert_equal_data(p, f2);
}
END_TEST

/* Asks `n` to promise `epoch` to a node that there is not, as a candidate of this cluster would. */
static int ask_promise(struct cluster_node *n, uint64_t epoch) {
  dw_status s;
  struct fencer f;
  struct hash128 cluster;
  struct iovec iov[4];
  char bytes[4096];
  ssize_t got = 1;
  struct sockaddr_in at = {
      .sin_family = AF_INET, .sin_port = htons(n->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  node_status(n, &s);
  memcpy(cluster.b, s.cluster_id, 16);
  fencer_init(&f, &(struct msg_sender){.node_id = 999, .epoch = s.epoch}, &cluster);
  fencer_ask(&f, &(struct msg_fence){.what = FENCE_PROMISE,
                                     .epoch = epoch,
                                     .durable = {.lsn = 1u << 30, .epoch = s.epoch},
                                     .address = "127.0.0.1:9"});
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  ck_assert_int_eq(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
  ck_assert_int_gt(writev(fd, iov, outq_iov(&f.out, iov, 4)), 0);
  while (f.state == FENCER_ASKED && (got = read(fd, bytes, sizeof bytes)) > 0) fencer_input(&f, bytes, (size_t)got);
  close(fd);
  ck_assert_int_eq(f.state, FENCER_ANSWERED);
  int verdict = f.answer.verdict;
  fencer_free(&f);
  return verdict;
}

START_TEST(an_impossible_epoch_wedges_nobody) {
  open_all();
  node_put(p, "before", "1");
  node_forget_log(f1);
  ck_assert_int_eq(ask_promise(f1, UINT64_MAX), FENCE_REFUSED);
  ck_assert_int_eq(ask_promise(p, UINT64_MAX), FENCE_REFUSED);
  node_put(p, "after", "2");
  await_same(p, f1);
  ck_assert(!node_logged(f1, "disconnected")); /* its stream went on */
  promote(f1);
  await_streaming(f1, 1);
  node_put(f1, "still", "3");
}
END_TEST

static void *promote_patiently(void *arg) {
  struct cluster_node *n = arg;
  static int rc;
  rc = dw_promote(n->e, &(dw_promote_options){.timeout_ms = 3600000});
  ck_assert_msg(strstr(dw_last_error(), "closing") != NULL, "%d %s", rc, dw_last_error());
  return &rc;
}

/* Peers that take the connection and never answer. */
START_TEST(a_promotion_that_waits_for_peers_ends_when_the_engine_is_stopped) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof at;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  ck_assert_int_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
  ck_assert_int_eq(listen(fd, 16), 0);
  ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&at, &len), 0);
  snprintf(f1->peers, sizeof f1->peers, "127.0.0.1:%d", ntohs(at.sin_port));
  f1->opt.peer_timeout_ms = 3600000;
  node_open(p);
  node_open(f1);
  await_streaming(p, 1);
  node_put(p, "a", "1");
  await_same(p, f1);
  pthread_t t;
  ck_assert_int_eq(pthread_create(&t, NULL, promote_patiently, f1), 0);
  await_log(f1, "asks 1 peers to be promoted");
  uint64_t start = now_ms();
  dw_stop(f1->e);
  void *rc;
  pthread_join(t, &rc);
  ck_assert_int_eq(*(int *)rc, DW_CLOSED);
  ck_assert_int_eq(dw_promote(f1->e, NULL), DW_CLOSED); /* nor does another one begin */
  ck_assert_uint_lt(now_ms() - start, AWAIT_MS);
  close(fd);
}
END_TEST

START_TEST(what_a_change_of_role_has_done_is_in_the_status_when_it_returns) {
  dw_status s;
  open_all();
  for (int i = 0; i < 300; i++) {
    ck_assert_int_eq(dw_follow(f1->e, i % 2 ? p->listen : NULL), DW_OK);
    node_status(f1, &s);
    ck_assert_str_eq(s.primary, i % 2 ? p->listen : "");
  }
  await_streaming(p, 2);
  node_put(p, "a", "1");
  await_same(p, f1);
  promote(f1);
  node_status(f1, &s);
  ck_assert_int_eq(s.role, DW_PRIMARY);
  ck_assert_uint_eq(s.primary_node, s.node_id);
}
END_TEST

START_TEST(wrong_uses_say_what_is_wrong) {
  open_all();
  refused(p, NULL, DW_INVALID, "primary already");
  ck_assert_int_eq(dw_follow(f1->e, "nowhere"), DW_INVALID);
  ck_assert_int_eq(dw_follow(f1->e, NULL), DW_OK);
  node_put(p, "a", "1");
  dw_status s;
  node_status(f1, &s);
  ck_assert_str_eq(s.primary, "");
  ck_assert_int_eq(dw_follow(f1->e, p->listen), DW_OK);
  await_same(p, f1);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication_promote");
  TCase *t = tcase_create("promote");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 120);
  tcase_add_test(t, a_follower_takes_over_and_the_others_follow_it_without_a_bootstrap);
  tcase_add_test(t, an_old_primary_that_lives_is_fenced_also_after_a_restart_and_can_follow);
  tcase_add_test(t, a_new_primary_stands_down_at_once_though_a_peer_hears_nothing);
  tcase_add_test(t, too_few_promises_change_nothing);
  tcase_add_test(t, a_candidate_that_lacks_something_is_refused_with_who_and_how_much);
  tcase_add_test(t, a_node_whose_data_is_too_old_is_refused);
  tcase_add_test(t, of_two_candidates_at_once_no_two_acknowledge);
  tcase_add_test(t, a_tail_that_was_in_doubt_is_decided_by_the_new_primary);
  tcase_add_test(t, a_primary_under_load_hands_over_and_nothing_is_lost);
  tcase_add_test(t, a_primary_whose_handover_failed_does_not_follow_that_candidate_later);
  tcase_add_test(t, with_peers_a_directory_opens_as_what_its_history_says);
  tcase_add_test(t, an_impossible_epoch_wedges_nobody);
  tcase_add_test(t, a_promotion_that_waits_for_peers_ends_when_the_engine_is_stopped);
  tcase_add_test(t, what_a_change_of_role_has_done_is_in_the_status_when_it_returns);
  tcase_add_test(t, wrong_uses_say_what_is_wrong);
  suite_add_tcase(s, t);
  return check_main(s);
}
