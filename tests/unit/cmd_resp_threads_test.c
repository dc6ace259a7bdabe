/* The RESP server with three threads: what clients of different threads see of each other, and its end while all are
 * busy. What holds for any number of threads is in cmd_resp_server_test.c; the line of
 * those who wait for each other, over three threads, in cmd_resp_follower_test.c. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "replication/cmd/resp_server.h"
#include "tests/support/check_main.h"
#include "tests/support/cluster.h"
#include "tests/support/resp_talk.h"

enum { THREADS = 3, CLIENTS = 6, ROUNDS = 200 };

static struct cluster cluster;
static struct resp_server *server;
static int fds[CLIENTS]; /* two in each thread */

static void start(void) {
  struct resp_options options = {.listen = "127.0.0.1:0", .threads = THREADS};
  ck_assert_int_eq(resp_server_start(cluster.node[0].e, &options, &server), DW_OK);
  for (int i = 0; i < CLIENTS; i++) {
    fds[i] = talk_connect(resp_server_port(server));
    talk(fds[i], "PING\r\n", "+PONG\r\n"); /* the next one finds it there */
  }
}

static void setup(void) {
  cluster_init(&cluster);
  cluster.node[0].opt.durability = DW_DURABILITY_OS;
  node_open(&cluster.node[0]);
  start();
}

static void teardown(void) {
  for (int i = 0; i < CLIENTS; i++) close(fds[i]);
  resp_server_stop(server);
  cluster_free(&cluster);
}

static struct resp_metrics metrics(void) {
  struct resp_metrics m;
  resp_server_metrics(server, &m);
  return m;
}

/* ---- who gets whom --------------------------------------------------------------------------------- */

START_TEST(test_connections_are_spread_over_the_threads) {
  struct resp_metrics m = metrics();
  ck_assert_uint_eq(m.threads, THREADS);
  for (int i = 0; i < THREADS; i++) ck_assert_uint_eq(m.thread_connections[i], CLIENTS / THREADS);
}
END_TEST

START_TEST(test_a_thread_that_has_lost_its_connections_gets_the_next_ones) {
  for (int i = 1; i < CLIENTS; i += THREADS) close(fds[i]); /* they came in turn: both of the second thread */
  while (metrics().thread_connections[1]) continue;         /* the test's time-out is the limit */
  for (int i = 1; i < CLIENTS; i += THREADS) {
    fds[i] = talk_connect(resp_server_port(server));
    talk(fds[i], "PING\r\n", "+PONG\r\n");
  }
  ck_assert_uint_eq(metrics().thread_connections[1], CLIENTS / THREADS);
}
END_TEST

/* ---- each connection by itself ----------------------------------------------------------------------- */

/* SET, GET, SET, GET... of one key in one burst, after others' SETs of the same key have been answered. */
static void *burst(void *arg) {
  int i = *(int *)arg;
  char say[64 * ROUNDS] = "", hear[64 * ROUNDS] = "";
  size_t s = 0, h = 0;
  for (int k = 100; k < 100 + ROUNDS; k++) {
    s += (size_t)snprintf(say + s, sizeof say - s, "GET k%d\r\nSET k%d %d\r\nGET k%d\r\n", i, i, k, i);
    if (k == 100)
      h += (size_t)snprintf(hear + h, sizeof hear - h, "$-1\r\n+OK\r\n$3\r\n100\r\n");
    else
      h += (size_t)snprintf(hear + h, sizeof hear - h, "$3\r\n%d\r\n+OK\r\n$3\r\n%d\r\n", k - 1, k);
  }
  talk(fds[i], say, hear);
  return NULL;
}

START_TEST(test_gets_of_a_burst_see_the_sets_before_them_and_no_later_ones) {
  pthread_t thread[CLIENTS];
  int number[CLIENTS];
  for (int i = 0; i < CLIENTS; i++) {
    number[i] = i;
    pthread_create(&thread[i], NULL, burst, &number[i]);
  }
  for (int i = 0; i < CLIENTS; i++) pthread_join(thread[i], NULL);
}
END_TEST

/* ---- between clients ----------------------------------------------------------------------------------- */

START_TEST(test_what_one_thread_has_answered_the_others_see) {
  char say[64], hear[64];
  for (int k = 0; k < ROUNDS; k++) {
    snprintf(say, sizeof say, "SET k v%03d\r\n", k);
    talk(fds[k % CLIENTS], say, "+OK\r\n");
    snprintf(hear, sizeof hear, "$4\r\nv%03d\r\n", k);
    talk(fds[(k + 1) % CLIENTS], "GET k\r\n", hear);
  }
}
END_TEST

struct counting {
  pthread_t thread;
  int fd;
  const char *say;
  long long sum;
};

static void *repeat(void *arg) {
  struct counting *c = arg;
  for (int i = 0; i < 5 * ROUNDS; i++) c->sum += talk_int(c->fd, c->say);
  return NULL;
}

START_TEST(test_a_lock_is_taken_and_released_by_one_client_at_a_time) {
  struct counting c[CLIENTS] = {0};
  long long taken = 0, released = 0;
  for (int i = 0; i < CLIENTS; i++) {
    c[i].fd = fds[i];
    c[i].say = i % 2 ? "DEL lock\r\n" : "SETNX lock 1\r\n";
    pthread_create(&c[i].thread, NULL, repeat, &c[i]);
  }
  for (int i = 0; i < CLIENTS; i++) {
    pthread_join(c[i].thread, NULL);
    *(i % 2 ? &released : &taken) += c[i].sum;
  }
  taken -= talk_int(fds[0], "EXISTS lock\r\n");
  ck_assert_int_eq(taken, released);
}
END_TEST

START_TEST(test_a_scan_goes_on_over_any_connection) {
  char say[64], got[256];
  unsigned long long cursor = 0;
  int keys = 0;
  talk(fds[0], "MSET a 1 b 1 c 1 d 1 e 1 f 1\r\n", "+OK\r\n");
  do {
    snprintf(say, sizeof say, "SCAN %llu COUNT 1\r\n", cursor);
    talk_send(fds[keys % CLIENTS], say);
    talk_reply(fds[keys % CLIENTS], got, sizeof got);
    char *text = strchr(strchr(got, '\n') + 1, '\n') + 1, *next;
    cursor = strtoull(text, &next, 10);
    ck_assert_msg(strchr(next, 'a' + keys) != NULL, "no %c: %s", 'a' + keys, got);
    keys++;
  } while (cursor);
  ck_assert_int_eq(keys, 6);
}
END_TEST

START_TEST(test_the_list_of_clients_has_those_of_all_threads) {
  char say[64], list[8192];
  for (int i = 0; i < CLIENTS; i++) {
    snprintf(say, sizeof say, "CLIENT SETNAME c%d\r\n", i);
    talk(fds[i], say, "+OK\r\n");
  }
  talk(fds[1], "MULTI\r\nPING\r\n", "+OK\r\n+QUEUED\r\n");
  for (int i = 0; i < CLIENTS; i++) {
    if (i == 1) continue;
    talk_send(fds[i], "CLIENT LIST\r\n");
    talk_reply(fds[i], list, sizeof list);
    for (int k = 0; k < CLIENTS; k++) {
      snprintf(say, sizeof say, " name=c%d ", k);
      const char *at = strstr(list, say);
      ck_assert_msg(at != NULL, "%s is not in %s", say, list);
      long multi = strtol(strstr(at, " multi=") + 7, NULL, 10);
      ck_assert_int_eq(multi, k == 1 ? 1 : -1);
    }
  }
}
END_TEST

START_TEST(test_counters_are_of_all_threads) {
  struct resp_metrics before = metrics();
  for (int i = 0; i < CLIENTS; i++) talk(fds[i], "SET a 1\r\nGET a\r\nNOSUCH\r\n", "+OK\r\n$1\r\n1\r\n-ERR ");
  struct resp_metrics m = metrics();
  ck_assert_uint_eq(m.writes_total - before.writes_total, CLIENTS);
  ck_assert_uint_eq(m.reads_total - before.reads_total, CLIENTS);
  ck_assert_uint_eq(m.errors_total - before.errors_total, CLIENTS);
  ck_assert_uint_eq(m.commands_total - before.commands_total, 3 * CLIENTS);
  ck_assert_uint_eq(m.connections, CLIENTS);
}
END_TEST

/* ---- its end --------------------------------------------------------------------------------------------- */

struct busy {
  pthread_t thread;
  int fd;
  unsigned number;
  size_t heard;
};

/* Asks for more as soon as something comes, until the server hangs up. */
static void *keep_busy(void *arg) {
  static const char *const say[] = {"SET k 1\r\nGET k\r\nSET k 2\r\nGET k\r\n", "SETNX k 1\r\nDEL k\r\nGET k\r\n",
                                    "MULTI\r\nSET k 3\r\nGET k\r\nEXEC\r\nMGET k l\r\n",
                                    "SCAN 0\r\nCLIENT LIST\r\nDBSIZE\r\nGET k\r\n"};
  struct busy *b = arg;
  char got[65536];
  for (unsigned i = b->number;; i++) {
    const char *text = say[i % 4];
    if (send(b->fd, text, strlen(text), MSG_NOSIGNAL) < 0) break;
    ssize_t n = recv(b->fd, got, sizeof got, 0);
    if (n <= 0) break;
    __atomic_fetch_add(&b->heard, (size_t)n, __ATOMIC_RELAXED);
  }
  return NULL;
}

START_TEST(test_the_server_ends_while_all_threads_are_busy) {
  struct busy b[CLIENTS] = {0};
  for (unsigned i = 0; i < CLIENTS; i++) {
    b[i].fd = fds[i];
    b[i].number = i;
    pthread_create(&b[i].thread, NULL, keep_busy, &b[i]);
  }
  for (unsigned i = 0; i < CLIENTS; i++)
    while (__atomic_load_n(&b[i].heard, __ATOMIC_RELAXED) < 2000) usleep(100);
  uint64_t begin = now_ms();
  resp_server_stop(server);
  ck_assert_uint_lt(now_ms() - begin, 10000);
  for (unsigned i = 0; i < CLIENTS; i++) {
    pthread_join(b[i].thread, NULL);
    close(b[i].fd);
  }
  start(); /* for the fixture; and another one begins where this one ended */
  talk(fds[0], "SET k 9\r\n", "+OK\r\n");
  talk(fds[1], "GET k\r\n", "$1\r\n9\r\n");
}
END_TEST

/* Sockets that have been accepted for a thread which is at its end are closed, not lost. */
static void *connect_on(void *arg) {
  struct busy *b = arg;
  uint16_t port = (uint16_t)b->number;
  for (;;) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    bool in = connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0;
    char byte;
    if (in && __atomic_fetch_add(&b->heard, 1, __ATOMIC_RELAXED) % 2) {
      (void)!send(fd, "PING\r\n", 6, MSG_NOSIGNAL);
      (void)!recv(fd, &byte, 1, 0);
    }
    close(fd);
    if (!in) return NULL;
  }
}

START_TEST(test_the_server_ends_while_clients_come_and_go) {
  struct busy b[3] = {0};
  for (int i = 0; i < 3; i++) {
    b[i].number = resp_server_port(server);
    pthread_create(&b[i].thread, NULL, connect_on, &b[i]);
  }
  for (int i = 0; i < 3; i++)
    while (__atomic_load_n(&b[i].heard, __ATOMIC_RELAXED) < 100) usleep(100);
  resp_server_stop(server);
  for (int i = 0; i < 3; i++) pthread_join(b[i].thread, NULL); /* refused at last, and nobody is left hanging */
  for (int i = 0; i < CLIENTS; i++) {
    talk_expect_end(fds[i]);
    close(fds[i]);
  }
  start();
}
END_TEST

int main(void) {
  Suite *s = suite_create("cmd_resp_threads");
  TCase *t = tcase_create("who gets whom");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, test_connections_are_spread_over_the_threads);
  tcase_add_test(t, test_a_thread_that_has_lost_its_connections_gets_the_next_ones);
  suite_add_tcase(s, t);
  t = tcase_create("clients");
  tcase_set_timeout(t, 60);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, test_gets_of_a_burst_see_the_sets_before_them_and_no_later_ones);
  tcase_add_test(t, test_what_one_thread_has_answered_the_others_see);
  tcase_add_test(t, test_a_lock_is_taken_and_released_by_one_client_at_a_time);
  tcase_add_test(t, test_a_scan_goes_on_over_any_connection);
  tcase_add_test(t, test_the_list_of_clients_has_those_of_all_threads);
  tcase_add_test(t, test_counters_are_of_all_threads);
  suite_add_tcase(s, t);
  t = tcase_create("end");
  tcase_set_timeout(t, 60);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, test_the_server_ends_while_all_threads_are_busy);
  tcase_add_test(t, test_the_server_ends_while_clients_come_and_go);
  suite_add_tcase(s, t);
  return check_main(s);
}
