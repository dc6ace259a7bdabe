/* Restarts of either side, wiped directories, histories that parted, foreign clusters, hostile or strange peers. */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "replication/message.h"
#include "tests/support/cluster.h"
#include "tests/support/proxy.h"
#include "wal/base/env.h"

static struct cluster c;
static struct cluster_node *p, *f1, *f2, *other;
static struct proxy *proxy;

static void setup(void) {
  cluster_init(&c);
  p = &c.node[0];
  f1 = &c.node[1];
  f2 = &c.node[2];
  other = &c.node[3];
  other->opt.role = DW_PRIMARY;
  other->opt.listen = other->listen;
  signal(SIGPIPE, SIG_IGN); /* this program's own sockets */
}
static void teardown(void) {
  proxy_stop(proxy);
  proxy = NULL;
  cluster_free(&c);
}

static void copy_dir(const struct cluster_node *from, const struct cluster_node *to) {
  char cmd[1000];
  snprintf(cmd, sizeof cmd, "cp -r '%s' '%s'", from->dir, to->dir);
  ck_assert_int_eq(system(cmd), 0);
}

static bool written_is(struct cluster_node *n, const dw_status *s, uint64_t lsn) {
  (void)n;
  return s->written_lsn == lsn;
}

/* ---- restarts -------------------------------------------------------------------------------- */

START_TEST(a_restarted_follower_continues_where_it_was) {
  node_open(p);
  node_open(f1);
  await_applied(f1, node_fill(p, 0, 200, 100));
  node_close(f1);
  node_fill(p, 100, 300, 100);
  node_open(f1);
  await_same(p, f1);
  assert_equal_data(p, f1);
}
END_TEST

START_TEST(a_restarted_primary_finds_its_followers_again) {
  node_open(p);
  node_open(f1);
  node_open(f2);
  node_fill(p, 0, 200, 100);
  for (unsigned i = 0; i < 3; i++) {
    node_reopen(p);
    node_fill(p, 100 * i, 200, 100);
  }
  await_streaming(p, 2);
  await_same(p, f1);
  await_same(p, f2);
  assert_equal_data(p, f1);
  assert_equal_data(p, f2);
  dw_status s;
  node_status(f1, &s);
  ck_assert_uint_eq(s.epoch, 4);
}
END_TEST

static _Atomic bool stop_writing;
static void *write_on(void *arg) {
  unsigned i = 0;
  (void)arg;
  while (!stop_writing) node_fill(p, (i += 10) % 2000, 10, 100);
  return NULL;
}

START_TEST(followers_restart_at_any_moment_while_the_primary_writes) {
  pthread_t t;
  node_open(p);
  node_open(f1);
  node_open(f2);
  stop_writing = false;
  ck_assert_int_eq(pthread_create(&t, NULL, write_on, NULL), 0);
  for (unsigned i = 0; i < 10; i++) node_reopen(i % 2 ? f1 : f2);
  stop_writing = true;
  pthread_join(t, NULL);
  await_same(p, f1);
  await_same(p, f2);
  assert_equal_data(p, f1);
  assert_equal_data(p, f2);
}
END_TEST

START_TEST(a_wiped_follower_starts_anew_and_does_not_speak_for_what_it_had_acked) {
  node_open(p);
  node_open(f1);
  await_applied(f1, node_fill(p, 0, 200, 100));
  node_close(f1);
  await_streaming(p, 0);
  node_wipe(f1);
  proxy = proxy_start(p->port);
  proxy_mode(proxy, PROXY_STALL_DOWN); /* it says HELLO and hears nothing yet */
  node_follow_port(f1, proxy_port(proxy));
  node_open(f1);
  dw_follower_status fs = {0};
  for (uint64_t until = now_ms() + AWAIT_MS; now_ms() < until;) {
    ck_assert(node_as_follower(p, f1, &fs));
    if (fs.durable_lsn == 0) break;
  }
  ck_assert_uint_eq(fs.durable_lsn, 0); /* its predecessor's mark was 200 */
  proxy_mode(proxy, PROXY_PASS);
  await_same(p, f1);
  assert_equal_data(p, f1);
}
END_TEST

START_TEST(a_sync_write_left_in_doubt_by_a_restart_commits_when_followers_return) {
  p->opt.mode = DW_SYNC;
  p->opt.ack_timeout_ms = 300;
  node_open(p);
  node_follow_port(f1, (proxy = proxy_start(p->port), proxy_port(proxy)));
  node_open(f1);
  await_streaming(p, 1);
  node_put(p, "sure", "1");
  proxy_mode(proxy, PROXY_STALL_DOWN);
  dw_lsn lsn = 0;
  ck_assert_int_eq(dw_put(p->e, NULL, "doubt", 5, "1", 1, &lsn), DW_TIMEOUT);
  ck_assert_uint_eq(lsn, 2);
  ck_assert_str_eq(node_get(p, NULL, "doubt"), "DW_NOT_FOUND"); /* not visible: not committed */
  node_close(p);
  proxy_mode(proxy, PROXY_CUT);
  node_open(p);
  ck_assert_str_eq(node_get(p, NULL, "doubt"), "DW_NOT_FOUND");
  dw_status s;
  node_status(p, &s);
  ck_assert_uint_eq(s.commit_lsn, 1);
  proxy_mode(proxy, PROXY_PASS);
  await_applied(p, 2);
  ck_assert_str_eq(node_get(p, NULL, "doubt"), "1");
  await_same(p, f1);
  ck_assert_str_eq(node_get(f1, NULL, "doubt"), "1");
}
END_TEST

/* ---- histories ------------------------------------------------------------------------------- */

START_TEST(a_follower_that_applied_another_history_is_refused_and_keeps_its_data) {
  node_open(p);
  node_fill(p, 0, 50, 50);
  node_close(p);
  copy_dir(p, other);
  other->opt.node_id = p->opt.node_id;
  node_open(p);
  node_open(other);
  node_open(f1); /* follows p, past the fork */
  node_put(p, "fork", "ours");
  node_put(other, "fork", "theirs");
  node_put(other, "more", "theirs");
  await_same(p, f1);
  node_close(f1);
  node_follow(f1, other);
  node_open(f1);
  await_primary_state(f1, DW_PEER_REFUSED);
  dw_status s;
  node_status(f1, &s);
  ck_assert_msg(strstr(s.error, "DW_DIVERGED") != NULL, "error is '%s'", s.error);
  ck_assert_str_eq(node_get(f1, NULL, "fork"), "ours");
  ck_assert_str_eq(node_get(f1, NULL, "more"), "DW_NOT_FOUND");
  node_close(f1);
  node_follow(f1, p); /* back at its own primary it is at home */
  node_open(f1);
  node_put(p, "more", "ours");
  await_same(p, f1);
  ck_assert_str_eq(node_get(f1, NULL, "more"), "ours");
}
END_TEST

START_TEST(a_follower_drops_an_unapplied_tail_that_the_primary_does_not_have) {
  p->opt.mode = DW_SYNC;
  p->opt.acks = 2; /* one follower does not suffice: its tail stays unapplied */
  p->opt.ack_timeout_ms = 300;
  node_open(p);
  node_open(f1);
  node_follow_port(f2, (proxy = proxy_start(p->port), proxy_port(proxy)));
  node_open(f2);
  await_streaming(p, 2);
  node_put(p, "a", "1");
  await_same(p, f1);
  await_same(p, f2);
  copy_dir(p, other); /* what a power cut might leave of the primary a moment later: its log without the newest block */
  proxy_mode(proxy, PROXY_STALL); /* f2 gets nothing, stays connected */
  ck_assert_int_eq(dw_put(p->e, NULL, "tail", 4, "lost", 4, NULL), DW_TIMEOUT);
  node_close(p);
  node_close(f2);
  other->opt.node_id = p->opt.node_id;
  node_open(other);
  node_put(other, "b", "2");
  node_close(f1);
  node_follow(f1, other);
  node_open(f1);
  await_same(other, f1);
  ck_assert_str_eq(node_get(f1, NULL, "tail"), "DW_NOT_FOUND");
  ck_assert_str_eq(node_get(f1, NULL, "b"), "2");
  ck_assert(node_logged(f1, "dropped"));
  assert_equal_data(other, f1);
}
END_TEST

/* The relay is not restarted: its cascaded follower's connection must not outlive the cut. */
START_TEST(a_relay_that_drops_a_tail_sends_its_own_followers_away_first) {
  struct cluster_node *stalled = &c.node[4];
  p->opt.mode = DW_SYNC;
  p->opt.acks = 2;
  p->opt.ack_timeout_ms = 300;
  f1->opt.listen = f1->listen;
  node_open(p);
  node_open(f1);
  node_follow(f2, f1);
  node_open(f2);
  node_follow_port(stalled, (proxy = proxy_start(p->port), proxy_port(proxy)));
  node_open(stalled);
  await_streaming(p, 2);
  node_put(p, "a", "1");
  await_same(p, f1);
  await_same(p, f2);
  copy_dir(p, other);
  proxy_mode(proxy, PROXY_STALL);
  ck_assert_int_eq(dw_put(p->e, NULL, "tail", 4, "lost", 4, NULL), DW_TIMEOUT);
  await_status(f2, "the tail at the end of the cascade", written_is, 2);
  node_close(p);
  node_close(stalled);
  snprintf(other->listen, sizeof other->listen, "127.0.0.1:%u", p->port);
  other->opt.node_id = p->opt.node_id;
  node_open(other);
  node_put(other, "b", "2");
  await_same(other, f1);
  await_same(other, f2);
  ck_assert_str_eq(node_get(f2, NULL, "tail"), "DW_NOT_FOUND");
  assert_equal_data(other, f2);
  ck_assert(node_logged(f2, "drops a part of its log"));
}
END_TEST

START_TEST(a_follower_of_another_cluster_is_refused_with_both_names) {
  node_open(p);
  node_open(other);
  node_put(p, "k", "1");
  node_put(other, "k", "2");
  node_open(f1);
  await_same(p, f1);
  node_close(f1);
  node_follow(f1, other);
  node_open(f1);
  await_primary_state(f1, DW_PEER_REFUSED);
  dw_status s;
  node_status(f1, &s);
  ck_assert_msg(strstr(s.error, "cluster") != NULL, "error is '%s'", s.error);
  ck_assert_str_eq(node_get(f1, NULL, "k"), "1");
}
END_TEST

START_TEST(a_second_node_under_a_taken_node_id_is_refused) {
  node_open(p);
  node_open(f1);
  await_streaming(p, 1);
  f2->opt.node_id = f1->opt.node_id;
  node_open(f2);
  await_primary_state(f2, DW_PEER_REFUSED);
  dw_lsn lsn = node_put(p, "k", "v");
  await_applied(f1, lsn); /* the first one is not disturbed */
}
END_TEST

/* ---- strange peers --------------------------------------------------------------------------- */

static int dial(uint16_t port) {
  struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
  sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  ck_assert_int_eq(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
  struct timeval tv = {.tv_sec = AWAIT_MS / 1000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
  return fd;
}

/* The other side closes (or resets) in time: true. */
static bool hung_up(int fd) {
  char buf[4096];
  for (uint64_t until = now_ms() + AWAIT_MS; now_ms() < until;) {
    ssize_t r = recv(fd, buf, sizeof buf, 0);
    if (r == 0) return true;
    if (r < 0) return errno == ECONNRESET || errno == EPIPE;
  }
  return false; /* it still talks */
}

START_TEST(garbage_on_the_port_is_hung_up_on_and_disturbs_nobody) {
  node_open(p);
  node_open(f1);
  await_streaming(p, 1);
  const char *const garbage[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n and enough bytes for a header of a frame", NULL};
  char noise[5000];
  memset(noise, 0xa5, sizeof noise);
  int fd = dial(p->port);
  ck_assert_int_gt((int)send(fd, garbage[0], strlen(garbage[0]), MSG_NOSIGNAL), 0);
  ck_assert(hung_up(fd));
  close(fd);
  fd = dial(p->port);
  send(fd, noise, sizeof noise, MSG_NOSIGNAL);
  ck_assert(hung_up(fd));
  close(fd);
  await_applied(f1, node_fill(p, 0, 100, 100));
  await_streaming(p, 1);
}
END_TEST

START_TEST(a_stranger_that_says_nothing_is_hung_up_on_in_time) {
  p->opt.peer_timeout_ms = 300;
  node_open(p);
  int fd = dial(p->port), half = dial(p->port);
  ck_assert_int_eq((int)send(half, "DWM1", 4, MSG_NOSIGNAL), 4);
  uint64_t start = now_ms();
  ck_assert(hung_up(fd));
  ck_assert(hung_up(half));
  ck_assert_uint_ge(now_ms() - start, 250);
  close(fd);
  close(half);
}
END_TEST

START_TEST(more_strangers_than_places_are_turned_away_and_followers_still_come_in_afterwards) {
  enum { STRANGERS = 300 };
  int fd[STRANGERS];
  p->opt.peer_timeout_ms = 1000;
  node_open(p);
  for (int i = 0; i < STRANGERS; i++) fd[i] = dial(p->port);
  for (int i = 0; i < STRANGERS; i++) {
    ck_assert(hung_up(fd[i]));
    close(fd[i]);
  }
  node_open(f1);
  await_applied(f1, node_put(p, "k", "v"));
}
END_TEST

/* A HELLO of a new follower with this node id. */
static void say_hello(int fd, uint64_t node_id) {
  struct msg_hello h = {.version_min = MSG_VERSION_MIN,
                        .version_max = MSG_VERSION_MAX,
                        .role = DW_FOLLOWER,
                        .heartbeat_ms = 1000,
                        .node_id = node_id,
                        .incarnation = {{(uint8_t)node_id, (uint8_t)(node_id >> 8), 1}}};
  struct buf b = {0};
  ck_assert_int_eq(msg_put_hello(&b, &(struct msg_sender){.node_id = node_id}, &h), DW_OK);
  ck_assert_int_eq((int)send(fd, b.data, b.len, MSG_NOSIGNAL), (int)b.len);
  buf_free(&b);
}

/* The first frame that comes back, but for heartbeats of a primary that takes its time: its type. */
static unsigned first_frame(int fd, struct msg_refuse *refuse) {
  struct frame_reader r;
  struct frame f;
  uint8_t bytes[4096];
  frame_reader_init(&r, MSG_BIT(MSG_WELCOME) | MSG_BIT(MSG_REFUSE) | MSG_BIT(MSG_HEARTBEAT));
  for (;;) {
    int rc = frame_reader_next(&r, &f);
    if (rc == DW_OK && f.h.type == MSG_HEARTBEAT) continue;
    if (rc != DW_NOT_FOUND) break;
    ssize_t n = recv(fd, bytes, sizeof bytes, 0);
    ck_assert_int_gt((int)n, 0);
    ck_assert_int_eq(frame_reader_feed(&r, bytes, (size_t)n), DW_OK);
  }
  ck_assert_int_eq(r.failed, DW_OK);
  unsigned type = f.h.type;
  if (type == MSG_REFUSE) ck_assert_int_eq(msg_get_refuse(&f, refuse), DW_OK);
  frame_reader_free(&r);
  return type;
}

START_TEST(the_65th_follower_is_refused_with_a_message_and_welcome_when_one_has_left) {
  enum { PLACES = 64 };
  int fd[PLACES + 1];
  struct msg_refuse m;
  p->opt.peer_timeout_ms = 60000;
  node_open(p);
  for (uint64_t i = 0; i < PLACES; i++) {
    fd[i] = dial(p->port);
    say_hello(fd[i], 1000 + i);
    ck_assert_uint_eq(first_frame(fd[i], &m), MSG_WELCOME);
  }
  fd[PLACES] = dial(p->port);
  say_hello(fd[PLACES], 5000);
  ck_assert_uint_eq(first_frame(fd[PLACES], &m), MSG_REFUSE);
  ck_assert_uint_eq(m.code, DW_NO_SPACE);
  ck_assert_ptr_nonnull(strstr(m.text, "64 followers"));
  ck_assert(hung_up(fd[PLACES]));
  close(fd[PLACES]);
  close(fd[7]);
  node_open(f1);
  await_applied(f1, node_put(p, "k", "v"));
  for (int i = 0; i < PLACES; i++)
    if (i != 7) close(fd[i]);
}
END_TEST

START_TEST(a_follower_that_sends_garbage_after_its_hello_ends_its_own_connection_only) {
  struct msg_refuse m;
  node_open(p);
  node_open(f1);
  await_streaming(p, 1);
  for (uint64_t i = 0; i < 20; i++) {
    char noise[400];
    int fd = dial(p->port);
    say_hello(fd, 1000 + i);
    ck_assert_uint_eq(first_frame(fd, &m), MSG_WELCOME);
    memset(noise, (int)(i * 13), sizeof noise);
    ck_assert_int_eq((int)send(fd, noise, sizeof noise, MSG_NOSIGNAL), (int)sizeof noise);
    ck_assert(hung_up(fd));
    close(fd);
  }
  await_applied(f1, node_put(p, "k", "v"));
  await_streaming(p, 1);
}
END_TEST

START_TEST(a_new_connection_of_the_same_node_takes_the_place_of_the_old_one) {
  struct msg_refuse m;
  p->opt.peer_timeout_ms = 60000; /* the old one would stay for a minute */
  node_open(p);
  int old = dial(p->port), new = dial(p->port);
  say_hello(old, 77);
  ck_assert_uint_eq(first_frame(old, &m), MSG_WELCOME);
  say_hello(new, 77);
  ck_assert_uint_eq(first_frame(new, &m), MSG_WELCOME);
  ck_assert(hung_up(old));
  dw_status s;
  node_status(p, &s);
  ck_assert_uint_eq(s.follower_count, 1);
  close(old);
  close(new);
}
END_TEST

START_TEST(closing_does_not_wait_for_strangers_or_stalled_followers) {
  node_open(p);
  node_follow_port(f1, (proxy = proxy_start(p->port), proxy_port(proxy)));
  node_open(f1);
  await_streaming(p, 1);
  int fd = dial(p->port);
  proxy_mode(proxy, PROXY_STALL);
  node_fill(p, 0, 3000, 2000); /* more than sockets hold */
  uint64_t start = now_ms();
  node_close(p);
  node_close(f1);
  ck_assert_uint_lt(now_ms() - start, 4000);
  close(fd);
}
END_TEST

/* ---- opening --------------------------------------------------------------------------------- */

START_TEST(a_port_in_use_is_an_error_of_opening_that_names_the_address) {
  node_open(p);
  snprintf(other->listen, sizeof other->listen, "127.0.0.1:%u", p->port);
  ck_assert_int_eq(node_try_open(other), DW_IO);
  ck_assert_msg(strstr(dw_last_error(), other->listen) != NULL, "message is '%s'", dw_last_error());
  snprintf(other->listen, sizeof other->listen, "127.0.0.1:0");
  node_open(other);
}
END_TEST

START_TEST(wrong_addresses_are_refused_with_the_options_name) {
  static const struct {
    const char *listen, *primary, *says;
  } wrong[] = {{"nonsense", NULL, "listen"},         {"127.0.0.1:99999", NULL, "listen"},
               {"127.0.0.1:", NULL, "listen"},       {"::1:7000", NULL, "listen"},
               {"[::1]7000", NULL, "listen"},        {NULL, "host", "primary"},
               {NULL, "127.0.0.1:seven", "primary"}, {NULL, "127.0.0.1:0", "primary"}};
  dw_options o = p->opt;
  o.listen = wrong[_i].listen;
  o.primary = wrong[_i].primary;
  o.role = o.primary ? DW_FOLLOWER : DW_PRIMARY;
  ck_assert_int_eq(dw_open(p->dir, &o, &p->e), DW_INVALID);
  ck_assert_msg(strstr(dw_last_error(), wrong[_i].says) != NULL, "message is '%s'", dw_last_error());
}
END_TEST

START_TEST(it_listens_on_ipv6_names_and_wildcards) {
  static const char *const addresses[] = {"[::1]:0", "localhost:0", ":0", "*:0", "0.0.0.0:0"};
  snprintf(p->listen, sizeof p->listen, "%s", addresses[_i]);
  p->opt.listen = p->listen;
  node_open(p);
  char dial_to[64];
  snprintf(dial_to, sizeof dial_to, _i == 0 ? "[::1]:%u" : "localhost:%u", p->port);
  snprintf(f1->primary, sizeof f1->primary, "%s", dial_to);
  node_open(f1);
  await_applied(f1, node_put(p, "k", "v"));
}
END_TEST

START_TEST(a_follower_waits_for_a_primary_that_is_not_there_yet) {
  node_open(p);
  uint16_t port = p->port;
  node_close(p);
  node_follow_port(f1, port);
  node_open(f1);
  await_log(f1, "can't connect");
  dw_status s;
  node_status(f1, &s);
  ck_assert_uint_eq(s.staleness_ms, UINT64_MAX);
  node_open(p);
  await_applied(f1, node_put(p, "k", "v"));
}
END_TEST

START_TEST(a_name_that_does_not_resolve_is_tried_again_and_closing_does_not_hang) {
  snprintf(f1->primary, sizeof f1->primary, "no-such-host.invalid:7000");
  node_open(f1);
  await_log(f1, "no-such-host.invalid");
  node_close(f1);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication: restart, identity, strangers");
  TCase *t = tcase_create("restart");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 120);
  tcase_add_test(t, a_restarted_follower_continues_where_it_was);
  tcase_add_test(t, a_restarted_primary_finds_its_followers_again);
  tcase_add_test(t, followers_restart_at_any_moment_while_the_primary_writes);
  tcase_add_test(t, a_wiped_follower_starts_anew_and_does_not_speak_for_what_it_had_acked);
  tcase_add_test(t, a_sync_write_left_in_doubt_by_a_restart_commits_when_followers_return);
  tcase_add_test(t, a_follower_that_applied_another_history_is_refused_and_keeps_its_data);
  tcase_add_test(t, a_follower_drops_an_unapplied_tail_that_the_primary_does_not_have);
  tcase_add_test(t, a_relay_that_drops_a_tail_sends_its_own_followers_away_first);
  tcase_add_test(t, a_follower_of_another_cluster_is_refused_with_both_names);
  tcase_add_test(t, a_second_node_under_a_taken_node_id_is_refused);
  tcase_add_test(t, garbage_on_the_port_is_hung_up_on_and_disturbs_nobody);
  tcase_add_test(t, a_stranger_that_says_nothing_is_hung_up_on_in_time);
  tcase_add_test(t, more_strangers_than_places_are_turned_away_and_followers_still_come_in_afterwards);
  tcase_add_test(t, the_65th_follower_is_refused_with_a_message_and_welcome_when_one_has_left);
  tcase_add_test(t, a_follower_that_sends_garbage_after_its_hello_ends_its_own_connection_only);
  tcase_add_test(t, a_new_connection_of_the_same_node_takes_the_place_of_the_old_one);
  tcase_add_test(t, closing_does_not_wait_for_strangers_or_stalled_followers);
  tcase_add_test(t, a_port_in_use_is_an_error_of_opening_that_names_the_address);
  tcase_add_loop_test(t, wrong_addresses_are_refused_with_the_options_name, 0, 8);
  tcase_add_loop_test(t, it_listens_on_ipv6_names_and_wildcards, 0, 5);
  tcase_add_test(t, a_follower_waits_for_a_primary_that_is_not_there_yet);
  tcase_add_test(t, a_name_that_does_not_resolve_is_tried_again_and_closing_does_not_hang);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
