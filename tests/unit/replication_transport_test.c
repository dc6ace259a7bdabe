/* The transport by itself: two ends of a connection in one process, driven from the loop thread's callbacks. */
#include <arpa/inet.h>
#include <check.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "replication/address.h"
#include "replication/transport_uv.h"
#include "wal/base/env.h"
#include "wal/base/status.h"

#define WAIT_MS 10000
#define MESSAGE_BYTES (8u << 20)

/* One transport with a listener and at most one accepted and one dialled connection. */
struct fixture {
  struct transport *t;
  uint16_t port;
  pthread_mutex_t mu;
  pthread_cond_t cond;
  /* all below: mu */
  char order[64]; /* the loop's next job: see obey */
  unsigned accepted, accept_failures, pumps, jobs_done;
  bool connected, eof, stop;
  char why[200];
  size_t received, drained;
  uint64_t sum; /* over received bytes with their place */
  /* loop thread only */
  struct tp_conn *in, *out;
  uint8_t *message;
  size_t sent;
  bool sending;
  char keep_going; /* 't': every pump sets the timer, 'a': asks for the next one */
};

static struct fixture fx;

static uint64_t now_ns(void) {
  return env_posix()->ops->mono_ns(env_posix());
}

static void changed(void) {
  pthread_cond_broadcast(&fx.cond);
}

static uint64_t place_sum(const uint8_t *p, size_t n, size_t at) {
  uint64_t sum = 0;
  for (size_t i = 0; i < n; i++) sum += (p[i] + 1ull) * (at + i + 1);
  return sum;
}

/* ---- the connections' events ------------------------------------------------------------------- */

static void on_input(void *owner, const void *p, size_t n) {
  (void)owner;
  pthread_mutex_lock(&fx.mu);
  fx.sum += place_sum(p, n, fx.received);
  fx.received += n;
  changed();
  pthread_mutex_unlock(&fx.mu);
}

static void on_eof(void *owner, const char *why) {
  (void)owner;
  pthread_mutex_lock(&fx.mu);
  fx.eof = true;
  snprintf(fx.why, sizeof fx.why, "%s", why);
  changed();
  pthread_mutex_unlock(&fx.mu);
}

static void on_connected(void *owner, const char *why) {
  (void)owner;
  if (why) {
    conn_close(fx.out);
    fx.out = NULL;
  }
  pthread_mutex_lock(&fx.mu);
  fx.connected = !why;
  snprintf(fx.why, sizeof fx.why, "%s", why ? why : "connected");
  changed();
  pthread_mutex_unlock(&fx.mu);
}

static void send_on(void) {
  while (fx.out && fx.sending && fx.sent < MESSAGE_BYTES && !conn_writing(fx.out)) {
    struct iovec iov[2];
    size_t left = MESSAGE_BYTES - fx.sent, half = left / 2;
    iov[0] = (struct iovec){fx.message + fx.sent, half};
    iov[1] = (struct iovec){fx.message + fx.sent + half, left - half};
    const char *why = NULL;
    ssize_t n = conn_send(fx.out, iov, 2, &why);
    if (n <= 0) return;
    fx.sent += (size_t)n;
  }
}

static void on_drained(void *owner, size_t n) {
  (void)owner;
  fx.sent += n;
  pthread_mutex_lock(&fx.mu);
  fx.drained += n;
  pthread_mutex_unlock(&fx.mu);
  send_on();
}

static const struct conn_events events = {
    .connected = on_connected, .input = on_input, .drained = on_drained, .eof = on_eof};

static void on_accepted(void *ctx, struct tp_conn *conn, const char *peer) {
  (void)ctx;
  ck_assert_ptr_nonnull(strstr(peer, "127.0.0.1:"));
  if (fx.in) conn_close(fx.in);
  fx.in = conn;
  conn_attach(conn, &events, NULL);
  conn_read(conn, true);
  pthread_mutex_lock(&fx.mu);
  fx.accepted++;
  changed();
  pthread_mutex_unlock(&fx.mu);
}

static void on_accept_failed(void *ctx, const char *why) {
  (void)ctx, (void)why;
  pthread_mutex_lock(&fx.mu);
  fx.accept_failures++;
  changed();
  pthread_mutex_unlock(&fx.mu);
}

/* ---- orders to the loop thread ----------------------------------------------------------------- */

static void job_run(void *arg) {
  *(bool *)arg = true;
}
static bool job_ran;
static void job_done(void *arg) {
  pthread_mutex_lock(&fx.mu);
  fx.jobs_done += *(bool *)arg;
  changed();
  pthread_mutex_unlock(&fx.mu);
}

static void obey(const char *order) {
  if (strncmp(order, "dial ", 5) == 0) fx.out = transport_connect(fx.t, order + 5, &events, NULL);
  if (strcmp(order, "hang up") == 0) conn_close(fx.out), fx.out = NULL;
  if (strcmp(order, "stop reading") == 0) conn_read(fx.in, false);
  if (strcmp(order, "read") == 0) conn_read(fx.in, true);
  if (strcmp(order, "job") == 0) ck_assert_int_eq(transport_work(fx.t, job_run, job_done, &job_ran), DW_OK);
  if (strcmp(order, "timer") == 0 || strcmp(order, "again") == 0) fx.keep_going = *order;
  if (strcmp(order, "send") == 0) fx.sending = true, send_on();
}

static void on_pump(void *ctx) {
  char order[sizeof fx.order];
  (void)ctx;
  pthread_mutex_lock(&fx.mu);
  memcpy(order, fx.order, sizeof order);
  fx.order[0] = 0;
  fx.pumps++;
  bool stop = fx.stop;
  changed();
  pthread_mutex_unlock(&fx.mu);
  if (order[0]) obey(order);
  if (fx.keep_going == 't') transport_pump_at(fx.t, now_ns() + 2000000, now_ns());
  if (fx.keep_going == 'a') transport_pump_again(fx.t);
  if (!stop) return;
  conn_close(fx.in);
  conn_close(fx.out);
  fx.in = fx.out = NULL;
  transport_finish(fx.t);
}

static void tell(const char *order) {
  pthread_mutex_lock(&fx.mu);
  snprintf(fx.order, sizeof fx.order, "%s", order);
  pthread_mutex_unlock(&fx.mu);
  transport_wake(fx.t);
}

/* Waits until the expression (over fields under mu) holds. */
#define AWAIT(cond_expr)                                                                                               \
  do {                                                                                                                 \
    uint64_t until_ = now_ns() + WAIT_MS * 1000000ull;                                                                 \
    struct timespec ts_ = {(time_t)(until_ / 1000000000u), (long)(until_ % 1000000000u)};                              \
    int err_ = 0;                                                                                                      \
    pthread_mutex_lock(&fx.mu);                                                                                        \
    while (!(cond_expr) && !err_) err_ = pthread_cond_clockwait(&fx.cond, &fx.mu, CLOCK_MONOTONIC, &ts_);              \
    bool ok_ = (cond_expr);                                                                                            \
    pthread_mutex_unlock(&fx.mu);                                                                                      \
    ck_assert_msg(ok_, "waited in vain for %s", #cond_expr);                                                           \
  } while (0)

static void setup(void) {
  memset(&fx, 0, sizeof fx);
  job_ran = false;
  pthread_mutex_init(&fx.mu, NULL);
  pthread_cond_init(&fx.cond, NULL);
  fx.message = malloc(MESSAGE_BYTES);
  for (size_t i = 0; i < MESSAGE_BYTES; i++) fx.message[i] = (uint8_t)(i * 7 + i / 251);
  struct transport_events ev = {.accepted = on_accepted, .accept_failed = on_accept_failed, .pump = on_pump};
  ck_assert_int_eq(transport_create(&ev, &fx.t), DW_OK);
  ck_assert_int_eq(transport_listen(fx.t, "127.0.0.1:0", &fx.port), DW_OK);
  ck_assert_uint_ne(fx.port, 0);
}

static void start(void) {
  ck_assert_int_eq(transport_start(fx.t), DW_OK);
}

static void dial_myself(void) {
  char order[64];
  snprintf(order, sizeof order, "dial 127.0.0.1:%u", fx.port);
  tell(order);
  AWAIT(fx.connected && fx.accepted == 1);
}

static void teardown(void) {
  pthread_mutex_lock(&fx.mu);
  fx.stop = true;
  pthread_mutex_unlock(&fx.mu);
  transport_wake(fx.t);
  transport_destroy(fx.t);
  free(fx.message);
  pthread_cond_destroy(&fx.cond);
  pthread_mutex_destroy(&fx.mu);
}

/* ---- tests ------------------------------------------------------------------------------------- */

START_TEST(a_transport_that_never_ran_is_freed) {
  (void)0;
}
END_TEST

static unsigned pumps(void) {
  pthread_mutex_lock(&fx.mu);
  unsigned n = fx.pumps;
  pthread_mutex_unlock(&fx.mu);
  return n;
}

static size_t received(void) {
  pthread_mutex_lock(&fx.mu);
  size_t n = fx.received;
  pthread_mutex_unlock(&fx.mu);
  return n;
}

START_TEST(a_wake_up_brings_a_pump) {
  start();
  for (int i = 0; i < 100; i++) {
    unsigned before = pumps();
    transport_wake(fx.t);
    AWAIT(fx.pumps > before);
  }
}
END_TEST

START_TEST(the_timer_brings_pumps_and_so_does_pump_again) {
  start();
  tell(_i ? "timer" : "again");
  AWAIT(fx.order[0] == 0);
  unsigned before = pumps();
  AWAIT(fx.pumps > before + 20); /* nobody wakes it */
}
END_TEST

START_TEST(many_bytes_arrive_whole_and_in_order) {
  start();
  dial_myself();
  tell("send");
  AWAIT(fx.received == MESSAGE_BYTES);
  ck_assert_uint_eq(fx.sum, place_sum(fx.message, MESSAGE_BYTES, 0));
}
END_TEST

START_TEST(a_reader_that_stops_stops_the_writer_and_loses_nothing) {
  start();
  dial_myself();
  tell("stop reading");
  AWAIT(fx.order[0] == 0);
  tell("send");
  AWAIT(fx.order[0] == 0);
  size_t held = received();
  for (int i = 0; i < 50; i++) {
    transport_wake(fx.t);
    ck_assert_uint_eq(received(), held);
  }
  tell("read");
  AWAIT(fx.received == MESSAGE_BYTES);
  ck_assert_uint_eq(fx.sum, place_sum(fx.message, MESSAGE_BYTES, 0));
  ck_assert_uint_gt(fx.drained, 0); /* the asynchronous way was taken */
}
END_TEST

START_TEST(hanging_up_is_seen_at_the_other_end) {
  start();
  dial_myself();
  tell("hang up");
  AWAIT(fx.eof);
}
END_TEST

START_TEST(hanging_up_in_the_middle_of_a_write_is_safe) {
  start();
  dial_myself();
  tell("stop reading");
  AWAIT(fx.order[0] == 0);
  tell("send");
  AWAIT(fx.order[0] == 0);
  tell("hang up");
  AWAIT(fx.order[0] == 0);
}
END_TEST

START_TEST(a_refused_connection_says_so) {
  struct sockaddr_in sa = {.sin_family = AF_INET};
  socklen_t n = sizeof sa;
  sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0); /* bound, but nobody listens */
  ck_assert_int_eq(bind(fd, (struct sockaddr *)&sa, n), 0);
  ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&sa, &n), 0);
  char order[64];
  snprintf(order, sizeof order, "dial 127.0.0.1:%u", ntohs(sa.sin_port));
  start();
  tell(order);
  AWAIT(fx.why[0] != 0);
  ck_assert_str_eq(fx.why, "connection refused");
  close(fd);
}
END_TEST

START_TEST(closing_while_a_name_is_being_resolved_is_safe) {
  start();
  tell("dial no-such-host.invalid:1");
  AWAIT(fx.order[0] == 0);
}
END_TEST

START_TEST(a_job_runs_elsewhere_and_reports_to_the_loop) {
  start();
  tell("job");
  AWAIT(fx.jobs_done == 1);
}
END_TEST

START_TEST(accepting_pauses_when_descriptors_run_out_and_goes_on_later) {
  struct rlimit old, low;
  start();
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
  low = old;
  low.rlim_cur = (rlim_t)fd + 1; /* not one more */
  ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
  struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(fx.port)};
  sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ck_assert_int_eq(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0); /* by the kernel's backlog */
  AWAIT(fx.accept_failures >= 2);
  ck_assert_uint_lt(pumps(), 200); /* it paused instead of spinning */
  ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
  AWAIT(fx.accepted == 1);
  close(fd);
}
END_TEST

START_TEST(a_port_in_use_is_named) {
  struct transport *t;
  struct transport_events ev = {.pump = on_pump};
  char address[40];
  uint16_t port;
  snprintf(address, sizeof address, "127.0.0.1:%u", fx.port);
  ck_assert_int_eq(transport_create(&ev, &t), DW_OK);
  ck_assert_int_eq(transport_listen(t, address, &port), DW_IO);
  char why[300];
  dw_error_copy(why, sizeof why);
  ck_assert_ptr_nonnull(strstr(why, address));
  transport_destroy(t);
}
END_TEST

START_TEST(addresses_are_taken_apart) {
  static const struct {
    const char *text, *host, *port;
  } good[] = {{"127.0.0.1:7000", "127.0.0.1", "7000"},
              {"[::1]:1", "::1", "1"},
              {"db1.example:65535", "db1.example", "65535"},
              {":0", "", "0"},
              {"*:9", "", "9"},
              {"[fe80::1%eth0]:5", "fe80::1%eth0", "5"}};
  static const char *const bad[] = {"",     ":",   "a",     "a:",    "a:b",    "a:65536", "a:-1",
                                    "a: 1", "::1", "::1:7", "[::1]", "[::1]:", "[::1:7"};
  struct address a;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    ck_assert_int_eq(address_parse(good[i].text, &a), DW_OK);
    ck_assert_str_eq(a.host, good[i].host);
    ck_assert_str_eq(a.port, good[i].port);
  }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    ck_assert_msg(address_parse(bad[i], &a) == DW_INVALID, "'%s' was taken", bad[i]);
  char longest[600];
  memset(longest, 'h', sizeof longest);
  memcpy(longest + 590, ":7000", 6);
  ck_assert_int_eq(address_parse(longest, &a), DW_INVALID);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication: transport");
  TCase *t = tcase_create("transport");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, a_transport_that_never_ran_is_freed);
  tcase_add_test(t, a_wake_up_brings_a_pump);
  tcase_add_loop_test(t, the_timer_brings_pumps_and_so_does_pump_again, 0, 2);
  tcase_add_test(t, many_bytes_arrive_whole_and_in_order);
  tcase_add_test(t, a_reader_that_stops_stops_the_writer_and_loses_nothing);
  tcase_add_test(t, hanging_up_is_seen_at_the_other_end);
  tcase_add_test(t, hanging_up_in_the_middle_of_a_write_is_safe);
  tcase_add_test(t, a_refused_connection_says_so);
  tcase_add_test(t, closing_while_a_name_is_being_resolved_is_safe);
  tcase_add_test(t, a_job_runs_elsewhere_and_reports_to_the_loop);
  tcase_add_test(t, accepting_pauses_when_descriptors_run_out_and_goes_on_later);
  tcase_add_test(t, a_port_in_use_is_named);
  tcase_add_test(t, addresses_are_taken_apart);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
