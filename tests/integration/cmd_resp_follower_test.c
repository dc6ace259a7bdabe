/* The RESP front ends of a primary and its follower: consistency, WAIT, modes, in-doubt writes, INFO and ROLE of both.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "replication/cmd/resp_server.h"
#include "tests/support/check_main.h"
#include "tests/support/cluster.h"
#include "tests/support/proxy.h"
#include "tests/support/resp_talk.h"

static struct cluster cluster;
static struct cluster_node *primary = &cluster.node[0], *follower = &cluster.node[1];
static struct proxy *proxy;
static struct resp_server *at_primary, *at_follower;
static int p, f; /* connections to them */

static struct resp_server *serve(struct cluster_node *n, uint64_t max_staleness_ms) {
  struct resp_options opt = {.listen = "127.0.0.1:0", .max_staleness_ms = max_staleness_ms, .threads = 3};
  struct resp_server *s;
  ck_assert_int_eq(resp_server_start(n->e, &opt, &s), DW_OK);
  return s;
}

static bool is_fresh(struct cluster_node *n, const dw_status *s, uint64_t bound_ms) {
  (void)n;
  return s->staleness_ms < bound_ms;
}

static bool has_written(struct cluster_node *n, const dw_status *s, uint64_t lsn) {
  (void)n;
  return s->written_lsn >= lsn;
}

static bool knows_primary(struct cluster_node *n, const dw_status *s, uint64_t unused) {
  (void)n, (void)unused;
  return strcmp(s->primary_client, "10.9.8.7:6379") == 0;
}

static void setup(void) {
  cluster_init(&cluster);
  primary->opt.client_address = "10.9.8.7:6379";
  node_open(primary);
  proxy = proxy_start(primary->port);
  node_follow_port(follower, proxy_port(proxy));
  node_open(follower);
  await_streaming(primary, 1);
  await_status(follower, "its staleness", is_fresh, 500);
  await_status(follower, "the primary's client address", knows_primary, 0);
  at_primary = serve(primary, 0);
  at_follower = serve(follower, 2000);
  p = talk_connect(resp_server_port(at_primary));
  f = talk_connect(resp_server_port(at_follower));
}

static void teardown(void) {
  close(p);
  close(f);
  resp_server_stop(at_follower);
  resp_server_stop(at_primary);
  node_close(follower);
  proxy_stop(proxy);
  cluster_free(&cluster);
}

START_TEST(test_writes_at_a_follower_are_refused_in_redis_words) {
  static const char readonly[] = "-READONLY You can't write against a read only replica. primary=10.9.8.7:6379\r\n";
  talk(f, "SET a 1\r\n", readonly);
  talk(f, "DEL a\r\n", readonly);
  talk(f, "MSET a 1\r\n", readonly);
  talk(f, "MULTI\r\nGET a\r\nEXEC\r\n", "+OK\r\n+QUEUED\r\n*1\r\n$-1\r\n");
  talk(f, "MULTI\r\n", "+OK\r\n");
  talk(f, "SET a 1\r\n", readonly);
  talk(f, "EXEC\r\n", "-EXECABORT Transaction discarded because of previous errors.\r\n");
  talk(f, "WAIT 0 0\r\n",
       "-ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is "
       "configured to be writable (which is not the default) writes to replicas are just local and are "
       "not propagated.\r\n");
}
END_TEST

START_TEST(test_an_applied_write_is_read_at_the_follower_at_once) {
  talk(p, "DW.MODE SYNC 1 APPLIED\r\n", "+OK\r\n");
  for (int i = 0; i < 20; i++) {
    char say[64], hear[64];
    snprintf(say, sizeof say, "SET k v%02d\r\n", i);
    snprintf(hear, sizeof hear, "$3\r\nv%02d\r\n", i);
    talk(p, say, "+OK\r\n");
    talk(f, "GET k\r\n", hear);
  }
}
END_TEST

START_TEST(test_a_session_token_reads_ones_own_writes_anywhere) {
  for (int i = 0; i < 20; i++) {
    char say[128], hear[64];
    snprintf(say, sizeof say, "MSET k v%02d other v%02d\r\n", i, i);
    snprintf(hear, sizeof hear, "+OK\r\n*2\r\n$3\r\nv%02d\r\n$3\r\nv%02d\r\n", i, i);
    talk(p, say, "+OK\r\n");
    snprintf(say, sizeof say, "DW.READ SESSION %lld WAIT 10000\r\nMGET k other\r\n", talk_int(p, "DW.LSN\r\n"));
    talk(f, say, hear);
  }
}
END_TEST

START_TEST(test_a_strong_read_at_the_follower_sees_what_was_committed_before) {
  talk(f, "DW.READ STRONG WAIT 10000\r\n", "+OK\r\n");
  for (int i = 0; i < 20; i++) {
    char say[64], hear[128];
    snprintf(say, sizeof say, "SET k v%02d\r\n", i);
    snprintf(hear, sizeof hear, "$3\r\nv%02d\r\n*2\r\n$1\r\n0\r\n*1\r\n$1\r\nk\r\n:1\r\n", i);
    talk(p, say, "+OK\r\n");
    talk(f, "GET k\r\nSCAN 0\r\nDBSIZE\r\n", hear);
  }
}
END_TEST

START_TEST(test_a_bound_that_waits_is_met_when_the_link_comes_back) {
  talk(p, "DW.MODE SYNC 1 APPLIED\r\nSET k 1\r\n", "+OK\r\n+OK\r\n");
  proxy_mode(proxy, PROXY_STALL);
  int waiting = talk_connect(resp_server_port(at_follower));
  talk(waiting, "DW.READ SESSION 2 WAIT 15000\r\n", "+OK\r\n");
  talk_send(waiting, "GET k\r\nPING\r\n");
  talk_send(p, "SET k 2\r\n");                                    /* held back: its follower does not answer */
  talk(f, "DW.READ EVENTUAL\r\nGET k\r\n", "+OK\r\n$1\r\n1\r\n"); /* nobody else waits */
  proxy_mode(proxy, PROXY_PASS);
  talk_expect(waiting, "$1\r\n2\r\n+PONG\r\n");
  talk_expect(p, "+OK\r\n");
  close(waiting);
}
END_TEST

START_TEST(test_a_cut_link_makes_reads_stale_by_the_default_bound) {
  char got[256] = "";
  talk(f, "GET k\r\n", "$-1\r\n");
  proxy_mode(proxy, PROXY_CUT);
  for (uint64_t begin = now_ms(); strncmp(got, "-STALE staleness_ms=", 20) != 0;) {
    ck_assert_uint_lt(now_ms() - begin, AWAIT_MS);
    talk_send(f, "GET k\r\n");
    talk_reply(f, got, sizeof got);
  }
  ck_assert_msg(strstr(got, " bound_ms=2000\r\n") != NULL, "%s", got);
  static const char *const reads[] = {"MGET a b\r\n", "SCAN 0\r\n", "DBSIZE\r\n", "EXISTS a b\r\n", "DW.CHECKSUM\r\n"};
  for (size_t i = 0; i < sizeof reads / sizeof *reads; i++) {
    talk_send(f, reads[i]);
    talk_reply(f, got, sizeof got);
    ck_assert_msg(strncmp(got, "-STALE staleness_ms=", 20) == 0, "%s answered %s", reads[i], got);
  }
  talk(f, "MULTI\r\nGET k\r\n", "+OK\r\n+QUEUED\r\n");
  talk_send(f, "EXEC\r\n");
  talk_reply(f, got, sizeof got);
  ck_assert_msg(strncmp(got, "-STALE ", 7) == 0, "%s", got);
  talk(f, "RESET\r\n", "+RESET\r\n"); /* back to the default bound, not to none */
  talk_send(f, "GET k\r\n");
  talk_reply(f, got, sizeof got);
  ck_assert_msg(strncmp(got, "-STALE ", 7) == 0, "%s", got);
  talk(f, "DW.READ EVENTUAL\r\nGET k\r\nPING\r\n", "+OK\r\n$-1\r\n+PONG\r\n");
  talk(f, "DW.READ STRONG WAIT 100\r\n", "+OK\r\n");
  talk_send(f, "GET k\r\n");
  talk_reply(f, got, sizeof got);
  ck_assert_msg(strncmp(got, "-STALE ", 7) == 0, "%s", got);
  struct resp_metrics m;
  resp_server_metrics(at_follower, &m);
  ck_assert_uint_ge(m.stale_total, 9);
}
END_TEST

START_TEST(test_an_in_doubt_write_names_its_lsn_and_can_be_asked_again) {
  char got[256];
  talk(p, "SET a 1\r\nDW.MODE SYNC 1 TIMEOUT 200\r\n", "+OK\r\n+OK\r\n");
  proxy_mode(proxy, PROXY_STALL);
  talk_send(p, "SET a 2\r\nSET b 1\r\nGET a\r\n");
  talk_reply(p, got, sizeof got);
  ck_assert_msg(strncmp(got, "-INDOUBT lsn=2 ", 15) == 0, "%s", got);
  talk_reply(p, got, sizeof got);
  ck_assert_msg(strncmp(got, "-INDOUBT lsn=3 ", 15) == 0, "%s", got);
  talk_expect(p, "$1\r\n1\r\n"); /* not committed, so not visible */
  talk_send(p, "DW.WAIT 2 100\r\n");
  talk_reply(p, got, sizeof got);
  ck_assert_msg(strncmp(got, "-INDOUBT lsn=2 ", 15) == 0, "%s", got);
  proxy_mode(proxy, PROXY_PASS);
  talk(p, "DW.WAIT 3 15000\r\nGET a\r\nGET b\r\nDW.LSN\r\n", "+OK\r\n$1\r\n2\r\n$1\r\n1\r\n:3\r\n");
}
END_TEST

START_TEST(test_a_stop_does_not_wait_for_followers_and_tells_who_is_in_doubt) {
  char got[256];
  talk(p, "SET a 1\r\nDW.MODE SYNC 1 TIMEOUT 86400000\r\n", "+OK\r\n+OK\r\n");
  proxy_mode(proxy, PROXY_STALL);
  talk_send(p, "SET a 2\r\n");
  await_status(primary, "the write in its log", has_written, 2);
  uint64_t begin = now_ms();
  dw_stop(primary->e);
  talk_reply(p, got, sizeof got);
  ck_assert_msg(strncmp(got, "-INDOUBT lsn=2 ", 15) == 0, "%s", got);
  talk_send(p, "SET a 3\r\n");
  talk_reply(p, got, sizeof got);
  ck_assert_msg(strncmp(got, "-IOERR ", 7) == 0, "%s", got);
  talk(p, "GET a\r\n", "$1\r\n1\r\n");
  resp_server_stop(at_primary);
  ck_assert_uint_lt(now_ms() - begin, 5000);
  node_reopen(primary);
  at_primary = serve(primary, 0); /* for the fixture */
}
END_TEST

START_TEST(test_a_stop_does_not_wait_for_an_answer_of_the_primary) {
  char got[256];
  proxy_mode(proxy, PROXY_STALL);
  talk(f, "DW.READ STRONG WAIT 60000\r\n", "+OK\r\n");
  talk_send(f, "GET a\r\n");
  usleep(100000); /* most likely it waits by now; else it is told the same when it comes */
  uint64_t begin = now_ms();
  dw_stop(follower->e);
  talk_reply(f, got, sizeof got);
  ck_assert_msg(strncmp(got, "-STALE ", 7) == 0, "%s", got);
  resp_server_stop(at_follower);
  ck_assert_uint_lt(now_ms() - begin, 5000);
  node_reopen(follower);
  at_follower = serve(follower, 2000); /* for the fixture */
}
END_TEST

START_TEST(test_a_refused_write_does_not_overtake_one_in_doubt) {
  char got[256];
  talk(p, "DW.MODE SYNC 1 TIMEOUT 10000\r\n", "+OK\r\n");
  proxy_mode(proxy, PROXY_STALL);
  talk_send(p, "SET a 1\r\n");
  await_status(primary, "the write in flight", has_written, 1);
  proxy_mode(proxy, PROXY_CUT);
  await_streaming(primary, 0);
  talk_send(p, "SET b 1\r\n"); /* refused at once: nobody is connected */
  int other = talk_connect(resp_server_port(at_primary));
  talk_send(other, "DW.MODE SYNC 1\r\nSET b 1\r\n"); /* its answer says that the other one has been given, too */
  talk_expect(other, "+OK\r\n-NOREPLICAS ");
  proxy_mode(proxy, PROXY_PASS); /* the follower comes back and acks */
  talk_expect(p, "+OK\r\n-NOREPLICAS ");
  talk_reply(other, got, sizeof got);
  close(other);
}
END_TEST

/* How many clients' commands stay in their input buffers. */
static int blocked_clients(int fd) {
  static char got[16384];
  int n = 0;
  talk_send(fd, "CLIENT LIST\r\n");
  talk_reply(fd, got, sizeof got);
  for (const char *at = got; (at = strstr(at, "qbuf=")); at += 5) n += at[5] != '0';
  return n;
}

START_TEST(test_who_waits_for_a_key_is_not_passed_by_later_writers) {
  int first = talk_connect(resp_server_port(at_primary)), deleting = talk_connect(resp_server_port(at_primary));
  int later = talk_connect(resp_server_port(at_primary));
  talk(first, "DW.MODE SYNC 1 TIMEOUT 15000\r\n", "+OK\r\n");
  talk(later, "DW.MODE SYNC 1 TIMEOUT 15000\r\n", "+OK\r\n");
  int before = blocked_clients(p); /* the one that asks */
  proxy_mode(proxy, PROXY_STALL);
  talk_send(first, "SET hot 1\r\n");
  await_status(primary, "the write in flight", has_written, 1);
  talk_send(deleting, "DEL hot\r\n");
  while (blocked_clients(p) < before + 1) continue;
  talk_send(later, "SET hot 2\r\n");
  while (blocked_clients(p) < before + 2) continue; /* behind the DEL, though nothing else keeps it */
  proxy_mode(proxy, PROXY_PASS);
  talk_expect(first, "+OK\r\n");
  talk_expect(deleting, ":1\r\n");
  talk_expect(later, "+OK\r\n");
  talk(p, "GET hot\r\n", "$1\r\n2\r\n");
  close(first);
  close(deleting);
  close(later);
}
END_TEST

START_TEST(test_one_that_leaves_the_line_lets_those_behind_it_go) {
  int first = talk_connect(resp_server_port(at_primary)), deleting = talk_connect(resp_server_port(at_primary));
  int later = talk_connect(resp_server_port(at_primary));
  talk(first, "DW.MODE SYNC 1 TIMEOUT 15000\r\n", "+OK\r\n");
  int before = blocked_clients(p);
  proxy_mode(proxy, PROXY_STALL);
  talk_send(first, "SET hot 1\r\n");
  await_status(primary, "the write in flight", has_written, 1);
  talk_send(deleting, "DEL hot\r\n");
  while (blocked_clients(p) < before + 1) continue;
  talk_send(later, "SET hot 2\r\n");
  while (blocked_clients(p) < before + 2) continue;
  struct linger reset = {.l_onoff = 1};
  setsockopt(deleting, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  close(deleting);
  await_status(primary, "the write behind it", has_written, 2);
  char byte;
  ck_assert_int_lt(recv(first, &byte, 1, MSG_DONTWAIT), 0); /* which still waits for the follower */
  proxy_mode(proxy, PROXY_PASS);
  talk_expect(first, "+OK\r\n");
  talk_expect(later, "+OK\r\n");
  close(first);
  close(later);
}
END_TEST

START_TEST(test_who_finds_no_room_is_called_when_there_is_some) {
  enum { N = 3, BYTES = 20 << 20 }; /* of two there is one too many in flight */
  char *value = malloc(BYTES), head[64];
  int fds[N];
  memset(value, 'v', BYTES);
  for (int i = 0; i < N; i++) fds[i] = talk_connect(resp_server_port(at_primary)); /* one in each thread */
  int before = blocked_clients(p);
  talk(fds[0], "DW.MODE SYNC 1 TIMEOUT 60000\r\n", "+OK\r\n");
  proxy_mode(proxy, PROXY_STALL);
  for (int i = 0; i < N; i++) {
    snprintf(head, sizeof head, "*3\r\n$3\r\nSET\r\n$2\r\nk%d\r\n$%d\r\n", i, BYTES);
    talk_send(fds[i], head);
    talk_send_n(fds[i], value, BYTES);
    talk_send(fds[i], "\r\n");
    if (i == 0)
      await_status(primary, "the write in flight", has_written, 1);
    else
      while (blocked_clients(p) < before + i) continue;
  }
  proxy_mode(proxy, PROXY_PASS);
  for (int i = 0; i < N; i++) talk_expect(fds[i], "+OK\r\n");
  ck_assert_int_eq(talk_int(p, "EXISTS k0 k1 k2\r\n"), N);
  for (int i = 0; i < N; i++) close(fds[i]);
  free(value);
}
END_TEST

START_TEST(test_wait_counts_followers_that_have_the_write) {
  talk(p, "SET a 1\r\nWAIT 1 15000\r\nWAIT 1 0\r\n", "+OK\r\n:1\r\n:1\r\n");
  talk(p, "WAIT 2 50\r\n", ":1\r\n");
  proxy_mode(proxy, PROXY_STALL);
  talk(p, "SET a 2\r\nWAIT 1 50\r\n", "+OK\r\n:0\r\n");
  talk_send(p, "WAIT 1 0\r\n");
  proxy_mode(proxy, PROXY_PASS);
  talk_expect(p, ":1\r\n");
}
END_TEST

static void expect_part(int fd, const char *say, const char *part) {
  static char got[16384];
  talk_send(fd, say);
  talk_reply(fd, got, sizeof got);
  ck_assert_msg(strstr(got, part) != NULL, "%s is not in:\n%s", part, got);
}

START_TEST(test_info_and_role_of_both_in_redis_field_names) {
  talk(p, "DW.MODE SYNC 1 APPLIED\r\nSET a 1\r\nWAIT 1 10000\r\n", "+OK\r\n+OK\r\n:1\r\n");
  expect_part(p, "INFO replication\r\n", "role:master\r\nconnected_slaves:1\r\nslave0:ip=127.0.0.1,port=");
  expect_part(p, "INFO replication\r\n", ",state=online,offset=1,lag=0\r\n");
  expect_part(p, "INFO replication\r\n", "\r\nmaster_repl_offset:1\r\n");
  expect_part(p, "ROLE\r\n", "*3\r\n$6\r\nmaster\r\n:1\r\n*1\r\n*3\r\n$9\r\n127.0.0.1\r\n$");
  expect_part(f, "INFO replication\r\n",
              "role:slave\r\nmaster_host:10.9.8.7\r\nmaster_port:6379\r\nmaster_link_status:up\r\n");
  expect_part(f, "INFO replication\r\n", "\r\nslave_repl_offset:1\r\nslave_priority:100\r\nslave_read_only:1\r\n");
  expect_part(f, "ROLE\r\n", "*5\r\n$5\r\nslave\r\n$8\r\n10.9.8.7\r\n:6379\r\n");
  expect_part(f, "ROLE\r\n", "\r\n$9\r\nconnected\r\n:1\r\n");
  expect_part(f, "HELLO\r\n", "$7\r\nreplica\r\n");
}
END_TEST

START_TEST(test_checksums_of_both_are_equal_at_the_same_lsn) {
  char one[200], two[200];
  talk(p, "DW.MODE SYNC 1 APPLIED\r\nMSET a 1 b 2 c 3\r\nDEL b\r\n", "+OK\r\n+OK\r\n:1\r\n");
  talk_send(p, "DW.CHECKSUM\r\n");
  talk_send(f, "DW.CHECKSUM\r\n");
  talk_reply(p, one, sizeof one);
  talk_reply(f, two, sizeof two);
  ck_assert_str_eq(one, two);
  ck_assert_msg(strncmp(one, "*3\r\n:2\r\n:2\r\n", 12) == 0, "%s", one);
}
END_TEST

int main(void) {
  Suite *s = suite_create("cmd_resp_follower");
  TCase *t = tcase_create("reads and writes");
  tcase_set_timeout(t, 60);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, test_writes_at_a_follower_are_refused_in_redis_words);
  tcase_add_test(t, test_an_applied_write_is_read_at_the_follower_at_once);
  tcase_add_test(t, test_a_session_token_reads_ones_own_writes_anywhere);
  tcase_add_test(t, test_a_strong_read_at_the_follower_sees_what_was_committed_before);
  tcase_add_test(t, test_a_bound_that_waits_is_met_when_the_link_comes_back);
  tcase_add_test(t, test_a_cut_link_makes_reads_stale_by_the_default_bound);
  tcase_add_test(t, test_an_in_doubt_write_names_its_lsn_and_can_be_asked_again);
  tcase_add_test(t, test_a_stop_does_not_wait_for_followers_and_tells_who_is_in_doubt);
  tcase_add_test(t, test_a_stop_does_not_wait_for_an_answer_of_the_primary);
  tcase_add_test(t, test_a_refused_write_does_not_overtake_one_in_doubt);
  tcase_add_test(t, test_who_waits_for_a_key_is_not_passed_by_later_writers);
  tcase_add_test(t, test_one_that_leaves_the_line_lets_those_behind_it_go);
  tcase_add_test(t, test_who_finds_no_room_is_called_when_there_is_some);
  tcase_add_test(t, test_wait_counts_followers_that_have_the_write);
  tcase_add_test(t, test_info_and_role_of_both_in_redis_field_names);
  tcase_add_test(t, test_checksums_of_both_are_equal_at_the_same_lsn);
  suite_add_tcase(s, t);
  return check_main(s);
}
