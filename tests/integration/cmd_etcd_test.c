/* The client of etcd against a real etcd: leases, transactions, listings, and an etcd that is slow, dead or none at
 * all. And a daemon that asks it as what to open. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "dabbawal.h"
#include "replication/cmd/coordinator.h"
#include "tests/support/await.h"
#include "tests/support/check_main.h"
#include "tests/support/daemons.h"
#include "tests/support/etcd_proc.h"
#include "tests/support/ports.h"
#include "wal/base/env.h"
#include "wal/base/status.h"

static char dir[256];
static struct etcd_proc etcd;
static struct daemon_proc node;
static struct coordinator *c;
static bool done;

static uint64_t now_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void connect_to(const char *fmt, int port) {
  char url[200];
  snprintf(url, sizeof url, fmt, port, etcd.client_port);
  if (c) c->ops->destroy(c);
  c = NULL;
  ck_assert_int_eq(coordinator_open(url, &c), DW_OK);
}

static void setup(void) {
  signal(SIGPIPE, SIG_IGN);
  snprintf(dir, sizeof dir, "%s/dw-etcd-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  memset(&etcd, 0, sizeof etcd);
  memset(&node, 0, sizeof node);
  etcd_start(&etcd, dir);
  connect_to("etcd://127.0.0.1:%d", etcd.client_port);
}
static void teardown(void) {
  if (c) c->ops->destroy(c);
  c = NULL;
  daemon_kill9(&node);
  etcd_pause(&etcd, 0);
  etcd_kill9(&etcd);
  env_remove_tree(env_posix(), dir);
}

static int put(const char *key, const char *value, uint64_t lease) {
  struct coord_change change = {.key = key, .value = value, .lease = lease};
  return c->ops->txn(c, NULL, 0, &change, 1, 2000, &done);
}
static struct coord_entries list(void) {
  struct coord_entries l;
  int rc = c->ops->list(c, "/t/", 2000, &l);
  ck_assert_msg(rc == DW_OK, "%s", dw_last_error());
  return l;
}
static int64_t revision_of(const char *name, uint64_t *lease) {
  struct coord_entries l = list();
  int64_t r = 0;
  for (size_t i = 0; i < l.count; i++)
    if (strcmp(l.e[i].key, name) == 0) {
      r = l.e[i].revision;
      if (lease) *lease = l.e[i].lease;
    }
  coord_entries_free(&l);
  return r;
}
static uint64_t grant(uint64_t ttl_ms) {
  uint64_t lease = 0, ttl = 0;
  int rc = c->ops->grant(c, ttl_ms, 2000, &lease, &ttl);
  ck_assert_msg(rc == DW_OK, "%s", dw_last_error());
  ck_assert_uint_ge(ttl, ttl_ms);
  return lease;
}

START_TEST(keys_come_back_with_values_revisions_and_leases) {
  uint64_t lease = grant(5000), seen = 0;
  ck_assert_int_eq(put("/t/a", "{\"x\":\"caf\xc3\xa9\"}", lease), DW_OK);
  ck_assert_int_eq(put("/t/b", "", 0), DW_OK);
  ck_assert_int_eq(put("/u/c", "other", 0), DW_OK);
  struct coord_entries l = list();
  ck_assert_uint_eq(l.count, 2);
  ck_assert_str_eq(l.e[0].key, "a");
  ck_assert_str_eq(l.e[0].value, "{\"x\":\"caf\xc3\xa9\"}");
  ck_assert_uint_eq(l.e[0].lease, lease);
  ck_assert_str_eq(l.e[1].value, "");
  ck_assert_uint_eq(l.e[1].lease, 0);
  ck_assert_int_gt(l.e[1].revision, l.e[0].revision);
  coord_entries_free(&l);
  ck_assert_int_eq(put("/t/a", NULL, 0), DW_OK);
  ck_assert_int_eq(revision_of("a", &seen), 0);
}
END_TEST

START_TEST(a_transaction_is_done_only_if_all_comparisons_hold) {
  uint64_t lease = grant(5000), other = grant(5000);
  struct coord_change put_a = {.key = "/t/a", .value = "1", .lease = lease};
  struct coord_compare none = {.key = "/t/a"};
  ck_assert_int_eq(c->ops->txn(c, &none, 1, &put_a, 1, 2000, &done), DW_OK);
  ck_assert(done);
  ck_assert_int_eq(c->ops->txn(c, &none, 1, &put_a, 1, 2000, &done), DW_OK);
  ck_assert(!done); /* it exists */
  int64_t rev = revision_of("a", NULL);
  struct coord_compare two[2] = {{.key = "/t/a", .revision = rev}, {.key = "/t/a", .by_lease = true, .lease = other}};
  ck_assert_int_eq(c->ops->txn(c, two, 2, &put_a, 1, 2000, &done), DW_OK);
  ck_assert(!done); /* the lease is another's */
  two[1].lease = lease;
  struct coord_change both[2] = {{.key = "/t/a", .value = "2", .lease = lease}, {.key = "/t/b", .value = "3"}};
  ck_assert_int_eq(c->ops->txn(c, two, 2, both, 2, 2000, &done), DW_OK);
  ck_assert(done);
  ck_assert_int_eq(revision_of("a", NULL), revision_of("b", NULL)); /* at once */
  ck_assert_int_gt(revision_of("a", NULL), rev);
  ck_assert_int_eq(c->ops->txn(c, two, 1, both, 2, 2000, &done), DW_OK);
  ck_assert(!done); /* the revision has moved */
}
END_TEST

START_TEST(keys_go_with_their_lease) {
  uint64_t lease = grant(2000), ttl = 0, began = now_ms();
  ck_assert_int_eq(put("/t/a", "1", lease), DW_OK);
  while (now_ms() - began < 4000) { /* renewed, it outlives its TTL */
    ck_assert_int_eq(c->ops->keepalive(c, lease, 2000, &ttl), DW_OK);
    ck_assert_uint_eq(ttl, 2000);
    poll(NULL, 0, 200);
  }
  ck_assert_int_ne(revision_of("a", NULL), 0);
  began = now_ms();
  while (revision_of("a", NULL) && now_ms() - began < 15000) poll(NULL, 0, 50);
  ck_assert_uint_ge(now_ms() - began, 1500);
  ck_assert_uint_lt(now_ms() - began, 15000);
  ck_assert_int_eq(c->ops->keepalive(c, lease, 2000, &ttl), DW_NOT_FOUND);
  ck_assert_int_eq(put("/t/a", "1", lease), DW_NOT_FOUND);
  ck_assert_int_eq(c->ops->revoke(c, lease, 2000), DW_NOT_FOUND);
  lease = grant(5000);
  ck_assert_int_eq(put("/t/b", "1", lease), DW_OK);
  ck_assert_int_eq(c->ops->revoke(c, lease, 2000), DW_OK);
  ck_assert_int_eq(revision_of("b", NULL), 0);
}
END_TEST

START_TEST(an_endpoint_that_is_dead_is_passed_over) {
  connect_to("etcd://127.0.0.1:%d,127.0.0.1:%d", test_pick_port());
  ck_assert_int_eq(put("/t/a", "1", 0), DW_OK);
  etcd_kill9(&etcd);
  ck_assert_int_eq(put("/t/a", "1", 0), DW_IO);
  ck_assert(strstr(dw_last_error(), "127.0.0.1") != NULL);
  etcd_start(&etcd, dir);
  ck_assert_int_eq(put("/t/a", "2", 0), DW_OK);
}
END_TEST

START_TEST(an_etcd_that_hangs_costs_no_more_than_the_time_out) {
  ck_assert_int_eq(put("/t/a", "1", 0), DW_OK);
  etcd_pause(&etcd, 1);
  uint64_t began = now_ms(), lease, ttl;
  struct coord_change change = {.key = "/t/a", .value = "2"};
  ck_assert_int_eq(c->ops->txn(c, NULL, 0, &change, 1, 300, &done), DW_TIMEOUT);
  ck_assert_uint_ge(now_ms() - began, 290);
  ck_assert_uint_lt(now_ms() - began, 2000);
  ck_assert_int_eq(c->ops->grant(c, 5000, 200, &lease, &ttl), DW_TIMEOUT);
  etcd_pause(&etcd, 0);
  ck_assert_int_eq(put("/t/a", "3", 0), DW_OK);
}
END_TEST

START_TEST(too_many_keys_are_refused_not_cut) {
  char key[40];
  for (int i = 0; i < (int)COORD_ENTRIES; i++) {
    snprintf(key, sizeof key, "/t/%04d", i);
    ck_assert_int_eq(put(key, "x", 0), DW_OK);
  }
  struct coord_entries l = list();
  ck_assert_uint_eq(l.count, COORD_ENTRIES);
  coord_entries_free(&l);
  ck_assert_int_eq(put("/t/more", "x", 0), DW_OK);
  ck_assert_int_eq(c->ops->list(c, "/t/", 2000, &l), DW_CORRUPT);
  coord_entries_free(&l);
}
END_TEST

static bool opened_as(const char *role) {
  char reply[20000], quoted[40];
  resp_once(node.resp_port, reply, sizeof reply, "DW.STATUS");
  snprintf(quoted, sizeof quoted, "\"role\":\"%s\"", role);
  return strstr(reply, quoted) != NULL;
}

static void only_node(unsigned lease_ms) {
  node.exe = "dabbawal-primary";
  snprintf(node.data, sizeof node.data, "%s/n1", dir);
  daemon_add_flag(&node, "--node-id=1");
  daemon_add_flag(&node, "--peers=127.0.0.1:%d", test_pick_port()); /* nobody is there */
  daemon_add_flag(&node, "--coordinator=etcd://127.0.0.1:%d", etcd.client_port);
  daemon_add_flag(&node, "--cluster-name=shop");
  daemon_add_flag(&node, "--lease-ttl-ms=%u", lease_ms);
}

/* Stopping it steps down, which it notes, so it opens as a follower. */
START_TEST(a_primary_that_was_stopped_and_started_leads_again_well_within_a_lease) {
  char line[1000];
  only_node(300000);
  daemon_start(&node);
  AWAIT("it leads", opened_as("primary"));
  ck_assert_int_eq(daemon_stop(&node), 0);
  daemon_start(&node);
  AWAIT("it leads again", opened_as("primary"));
  snprintf(line, sizeof line, "%s/audit.log", node.data);
  FILE *f = fopen(line, "r");
  ck_assert_ptr_nonnull(f);
  while (fgets(line, sizeof line, f)) ck_assert_msg(!strstr(line, "fenced"), "%s", line); /* nobody was */
  fclose(f);
}
END_TEST

/* The record still names it. What a restart finds is no more than what the restart before made: an empty follower. */
START_TEST(a_primary_whose_directory_was_emptied_begins_no_second_cluster_however_often_it_starts) {
  char reply[200];
  only_node(5000);
  daemon_start(&node);
  AWAIT("it leads", opened_as("primary"));
  resp_once(node.resp_port, reply, sizeof reply, "SET k v");
  ck_assert_str_eq(reply, "+OK");
  daemon_kill9(&node);
  daemon_start(&node);
  AWAIT("with its data it comes back", opened_as("primary"));
  daemon_kill9(&node);
  ck_assert_int_eq(env_remove_tree(env_posix(), node.data), DW_OK);
  for (int i = 0; i < 3; i++) {
    daemon_start(&node);
    ck_assert_msg(opened_as("follower"), "start %d", i);
    daemon_kill9(&node);
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("etcd");
  TCase *t = tcase_create("etcd");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, keys_come_back_with_values_revisions_and_leases);
  tcase_add_test(t, a_transaction_is_done_only_if_all_comparisons_hold);
  tcase_add_test(t, keys_go_with_their_lease);
  tcase_add_test(t, an_endpoint_that_is_dead_is_passed_over);
  tcase_add_test(t, an_etcd_that_hangs_costs_no_more_than_the_time_out);
  tcase_add_test(t, too_many_keys_are_refused_not_cut);
  tcase_add_test(t, a_primary_that_was_stopped_and_started_leads_again_well_within_a_lease);
  tcase_add_test(t, a_primary_whose_directory_was_emptied_begins_no_second_cluster_however_often_it_starts);
  suite_add_tcase(s, t);
  return check_main(s);
}
