/* How the RESP server behaves: order, atomicity between clients, SCAN's promise, back-pressure, limits, its end. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "replication/cmd/resp_server.h"
#include "tests/support/check_main.h"
#include "tests/support/cluster.h"
#include "tests/support/resp_talk.h"

static struct cluster cluster;
static struct resp_options options;
static struct resp_server *server;
static int fd;

static void start(void) {
  ck_assert_int_eq(resp_server_start(cluster.node[0].e, &options, &server), DW_OK);
  fd = talk_connect(resp_server_port(server));
}

static void setup(void) {
  cluster_init(&cluster);
  cluster.node[0].opt.durability = DW_DURABILITY_OS;
  node_open(&cluster.node[0]);
  options = (struct resp_options){.listen = "127.0.0.1:0"};
  start();
}

static void stop(void) {
  close(fd);
  resp_server_stop(server);
}

static void teardown(void) {
  stop();
  cluster_free(&cluster);
}

static uint16_t port(void) {
  return resp_server_port(server);
}

/* Text that grows. */
struct text {
  char *s;
  size_t n, cap;
};

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *fmt, ...) {
  char line[512];
  va_list ap;
  va_start(ap, fmt);
  size_t n = (size_t)vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  if (t->n + n + 1 > t->cap) t->s = realloc(t->s, t->cap = 2 * (t->n + n + 1));
  memcpy(t->s + t->n, line, n + 1);
  t->n += n;
}

/* ---- order ----------------------------------------------------------------------------------------- */

START_TEST(test_a_pipelined_get_sees_the_set_before_it) {
  struct text say = {0}, hear = {0};
  for (int i = 0; i < 2000; i++) {
    add(&say, "SET k%d v%d\r\nSET k v%d\r\nGET k\r\n", i, i, i);
    char v[16];
    snprintf(v, sizeof v, "v%d", i);
    add(&hear, "+OK\r\n+OK\r\n$%zu\r\n%s\r\n", strlen(v), v);
  }
  talk(fd, say.s, hear.s);
  free(say.s);
  free(hear.s);
}
END_TEST

START_TEST(test_a_reply_never_overtakes_a_write_that_still_waits) {
  /* nobody follows: the SET is held back until semi-sync gives up; what comes behind it is known at once */
  talk(fd, "DW.MODE SEMISYNC 1 TIMEOUT 300\r\n", "+OK\r\n");
  talk(fd,
       "SET a 1\r\nSET \"\" x\r\nMSET a\r\nDEL nosuch\r\nSETNX b 1\r\nMULTI\r\nPING\r\nEXEC\r\nPING\r\nFOO\r\n*x\r\n",
       "+OK\r\n-ERR empty key: keys are 1 to 65536 bytes\r\n-ERR wrong number of arguments for 'mset' "
       "command\r\n:0\r\n:1\r\n"
       "+OK\r\n+QUEUED\r\n*1\r\n+PONG\r\n+PONG\r\n-ERR unknown command 'FOO', with args beginning with: \r\n"
       "-ERR Protocol error: invalid multibulk length\r\n");
  talk_expect_end(fd);
}
END_TEST

START_TEST(test_a_protocol_error_does_not_overtake_a_write_that_still_waits) {
  talk(fd, "DW.MODE SEMISYNC 1 TIMEOUT 300\r\n", "+OK\r\n");
  talk(fd, "SET a 1\r\n*x\r\n", "+OK\r\n-ERR Protocol error: invalid multibulk length\r\n");
  talk_expect_end(fd);
}
END_TEST

START_TEST(test_one_connections_waiting_holds_up_nobody_else) {
  int other = talk_connect(port());
  talk_send(fd, "SET a 1\r\nWAIT 1 0\r\n");
  talk_expect(fd, "+OK\r\n");
  for (int i = 0; i < 20; i++) talk(other, "SET b 1\r\nGET b\r\nDBSIZE\r\n", "+OK\r\n$1\r\n1\r\n:2\r\n");
  close(other);
}
END_TEST

START_TEST(test_a_peer_that_has_closed_its_side_gets_its_answers) {
  struct text say = {0}, hear = {0};
  for (int i = 0; i < 500; i++) {
    add(&say, "SET k%d 1\r\nGET k%d\r\n", i, i);
    add(&hear, "+OK\r\n$1\r\n1\r\n");
  }
  talk_send(fd, say.s);
  talk_send(fd, "GET unfinish");
  shutdown(fd, SHUT_WR);
  talk_expect(fd, hear.s);
  talk_expect_end(fd);
  free(say.s);
  free(hear.s);
}
END_TEST

START_TEST(test_a_client_gone_in_wait_is_forgotten) {
  int other = talk_connect(port());
  talk_send(other, "WAIT 1 0\r\n");
  talk(fd, "PING\r\n", "+PONG\r\n");
  close(other);
  for (struct resp_metrics m;;) { /* awaited; the test's time-out is the limit */
    resp_server_metrics(server, &m);
    if (m.connections == 1) break;
    talk(fd, "PING\r\n", "+PONG\r\n");
  }
}
END_TEST

/* ---- between clients --------------------------------------------------------------------------------- */

#define CLIENTS 8
#define ROUNDS 200

struct client {
  pthread_t thread;
  int fd;
  const char *say;
  long long sum;
};

static void *repeat(void *arg) {
  struct client *c = arg;
  for (int i = 0; i < ROUNDS; i++) c->sum += talk_int(c->fd, c->say);
  return NULL;
}

static void run_clients(struct client *clients) {
  for (int i = 0; i < CLIENTS; i++) {
    clients[i].fd = talk_connect(port());
    pthread_create(&clients[i].thread, NULL, repeat, &clients[i]);
  }
  for (int i = 0; i < CLIENTS; i++) {
    pthread_join(clients[i].thread, NULL);
    close(clients[i].fd);
  }
}

START_TEST(test_a_lock_is_taken_and_released_by_one_client_at_a_time) {
  struct client clients[CLIENTS] = {0};
  long long taken = 0, released = 0;
  for (int i = 0; i < CLIENTS; i++) clients[i].say = i % 2 ? "DEL lock\r\n" : "SETNX lock 1\r\n";
  run_clients(clients);
  for (int i = 0; i < CLIENTS; i++) *(i % 2 ? &released : &taken) += clients[i].sum;
  taken -= talk_int(fd, "EXISTS lock\r\n");
  ck_assert_int_eq(taken, released);
}
END_TEST

/* EXEC reads and writes in one step: each transaction that finds the lock free takes it and counts. */
static void *move_coin(void *arg) {
  struct client *c = arg;
  char got[512];
  for (int i = 0; i < ROUNDS; i++) {
    talk_send(c->fd, c->say);
    for (int k = 0; k < 4; k++) talk_reply(c->fd, got, sizeof got); /* OK QUEUED QUEUED array */
    c->sum += strstr(got, ":1\r\n") != NULL;
  }
  return NULL;
}

START_TEST(test_a_transaction_is_one_step_to_other_clients) {
  struct client clients[CLIENTS] = {0};
  for (int i = 0; i < CLIENTS; i++) { /* takes the coin away from one key and puts it on the other, blindly */
    clients[i].say =
        i % 2 ? "MULTI\r\nDEL left\r\nSET right 1\r\nEXEC\r\n" : "MULTI\r\nDEL right\r\nSET left 1\r\nEXEC\r\n";
    clients[i].fd = talk_connect(port());
  }
  talk(fd, "SET left 1\r\n", "+OK\r\n");
  for (int i = 0; i < CLIENTS; i++) pthread_create(&clients[i].thread, NULL, move_coin, &clients[i]);
  for (int i = 0; i < 4 * ROUNDS; i++) ck_assert_int_eq(talk_int(fd, "EXISTS left right\r\n"), 1);
  for (int i = 0; i < CLIENTS; i++) {
    pthread_join(clients[i].thread, NULL);
    close(clients[i].fd);
  }
}
END_TEST

/* Somebody beside this server, as an embedder would be: sets both keys in one commit, again and again. */
static void *set_both(void *arg) {
  struct client *c = arg;
  dw_batch *b = dw_batch_create();
  for (unsigned i = 0; !__atomic_load_n(&c->sum, __ATOMIC_SEQ_CST); i++) {
    dw_batch_clear(b);
    dw_batch_put(b, "left", 4, &i, sizeof i);
    dw_batch_put(b, "right", 5, &i, sizeof i);
    dw_write(cluster.node[0].e, NULL, b, NULL);
  }
  dw_batch_destroy(b);
  return NULL;
}

/* The next array's first and last element are the same; between them are only nils. */
static void expect_equal_ends(int from) {
  char got[8192];
  size_t n = talk_reply(from, got, sizeof got);
  char *first = strchr(got, '\n') + 1, *nils = memmem(first, n, "$-1\r\n", 5);
  ck_assert_ptr_nonnull(nils);
  size_t one = (size_t)(nils - first);
  ck_assert_msg(n > one && memcmp(first, got + n - one, one) == 0, "the ends of the array differ");
}

START_TEST(test_mget_and_exec_never_see_half_of_a_commit) {
  struct client c = {0};
  struct text mget = {0}, exec = {0}, queued = {0};
  talk(fd, "MSET left x right x\r\n", "+OK\r\n");
  add(&mget, "MGET left");
  add(&exec, "MULTI\r\nGET left\r\n");
  add(&queued, "+OK\r\n+QUEUED\r\n");
  for (int i = 0; i < 200; i++) { /* takes some time between the two */
    add(&mget, " none");
    add(&exec, "GET none\r\n");
    add(&queued, "+QUEUED\r\n");
  }
  add(&mget, " right\r\n");
  add(&exec, "GET right\r\nEXEC\r\n");
  add(&queued, "+QUEUED\r\n");
  pthread_create(&c.thread, NULL, set_both, &c);
  for (int i = 0; i < 200; i++) {
    talk_send(fd, mget.s);
    expect_equal_ends(fd);
    talk(fd, exec.s, queued.s);
    expect_equal_ends(fd);
  }
  __atomic_store_n(&c.sum, 1, __ATOMIC_SEQ_CST);
  pthread_join(c.thread, NULL);
  free(mget.s);
  free(exec.s);
  free(queued.s);
}
END_TEST

/* ---- SCAN -------------------------------------------------------------------------------------------- */

#define STAYING 3000

/* One SCAN call: marks the staying keys that it returns. Returns the next cursor. */
static unsigned long long scan_once(unsigned long long cursor, const char *options_text, unsigned *seen, size_t *keys) {
  static char got[1 << 20];
  char say[128];
  snprintf(say, sizeof say, "SCAN %llu %s\r\n", cursor, options_text);
  talk_send(fd, say);
  talk_reply(fd, got, sizeof got);
  ck_assert_msg(strncmp(got, "*2\r\n$", 5) == 0, "%s", got);
  char *p = strchr(got + 4, '\n') + 1;
  unsigned long long next = strtoull(p, &p, 10);
  for (p = strstr(p, "\r\nk"); p; p = strstr(p + 1, "\r\nk")) {
    char *end;
    unsigned long k = strtoul(p + 3, &end, 10);
    if (*end == '\r') seen[k]++; /* not those that come and go */
    ++*keys;
  }
  return next;
}

START_TEST(test_scan_returns_every_key_that_stays_exactly_once_while_others_come_and_go) {
  static unsigned seen[STAYING];
  for (unsigned i = 0; i < STAYING; i++) {
    char key[16];
    snprintf(key, sizeof key, "k%u", i);
    node_put(&cluster.node[0], key, "x");
  }
  unsigned long long cursor = 0;
  size_t calls = 0, keys = 0;
  do {
    cursor = scan_once(cursor, calls % 2 ? "COUNT 37" : "COUNT 100 MATCH *", seen, &keys);
    char come[64], go[64]; /* around the place where it stands, the key to go on at included */
    snprintf(come, sizeof come, "MSET a%zu 1 k%zux 1 z%zu 1\r\n", calls, calls * 40, calls);
    snprintf(go, sizeof go, "DEL a%zu k%zux z%zu\r\n", calls / 2, calls / 2 * 40, calls / 2);
    talk(fd, come, "+OK\r\n");
    talk_int(fd, go);
    calls++;
  } while (cursor);
  for (unsigned i = 0; i < STAYING; i++) ck_assert_msg(seen[i] == 1, "k%u was returned %u times", i, seen[i]);
  ck_assert_uint_ge(calls, STAYING / 100);
}
END_TEST

START_TEST(test_scan_goes_on_where_its_key_was_deleted) {
  static unsigned seen[16];
  size_t keys = 0;
  talk(fd, "MSET k0 1 k1 1 k2 1 k3 1\r\n", "+OK\r\n");
  unsigned long long cursor = scan_once(0, "COUNT 2", seen, &keys);
  talk(fd, "DEL k2\r\n", ":1\r\n");
  ck_assert_uint_eq(scan_once(cursor, "COUNT 2", seen, &keys), 0);
  ck_assert(seen[0] == 1 && seen[1] == 1 && seen[2] == 0 && seen[3] == 1);
}
END_TEST

START_TEST(test_a_scan_call_looks_at_count_keys_even_if_none_matches) {
  static unsigned seen[16];
  size_t keys = 0;
  for (unsigned i = 0; i < 50; i++) {
    char key[16];
    snprintf(key, sizeof key, "k%u", i);
    node_put(&cluster.node[0], key, "x");
  }
  unsigned long long cursor = 0;
  int calls = 0;
  do {
    cursor = scan_once(cursor, "MATCH nothing* COUNT 10", seen, &keys);
    calls++;
  } while (cursor);
  ck_assert_int_eq(calls, 5);
  ck_assert_uint_eq(keys, 0);
}
END_TEST

START_TEST(test_many_scans_at_once_and_a_cursor_given_up_is_an_error) {
  static unsigned seen[16];
  size_t keys = 0;
  talk(fd, "MSET k0 1 k1 1 k2 1\r\n", "+OK\r\n");
  unsigned long long first = scan_once(0, "COUNT 1", seen, &keys), newest = 0;
  ck_assert_uint_ne(scan_once(first, "COUNT 1", seen, &keys), 0);
  ck_assert_uint_ne(scan_once(first, "COUNT 1", seen, &keys), 0); /* a repeated call is fine */
  for (int i = 0; i < 4096; i++) newest = scan_once(0, "COUNT 1", seen, &keys);
  ck_assert_uint_ne(scan_once(newest, "COUNT 1", seen, &keys), 0);
  char say[64];
  snprintf(say, sizeof say, "SCAN %llu\r\n", first);
  talk(fd, say, "-ERR invalid cursor: unknown or expired, start again at 0\r\n");
}
END_TEST

/* ---- limits ------------------------------------------------------------------------------------------ */

START_TEST(test_the_largest_value_passes_and_the_next_byte_does_not) {
  size_t n = DW_MAX_VALUE_BYTES, have = 0;
  char *value = malloc(n);
  memset(value, 'v', n);
  talk_send(fd, "*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$67108864\r\n");
  talk_send_n(fd, value, n);
  talk(fd, "\r\n", "+OK\r\n");
  talk(fd, "STRLEN big\r\nGET big\r\n", ":67108864\r\n$67108864\r\n");
  while (have < n) {
    ssize_t got = recv(fd, value + have, n - have, 0);
    ck_assert_int_gt(got, 0);
    have += (size_t)got;
  }
  ck_assert(value[0] == 'v' && value[n - 1] == 'v');
  talk_expect(fd, "\r\n");
  talk(fd, "SET small 1\r\n", "+OK\r\n");
  free(value);
}
END_TEST

START_TEST(test_a_key_beyond_64_kib_is_an_error_and_the_connection_lives) {
  struct text say = {0};
  char *key = malloc(65537);
  memset(key, 'k', 65537);
  talk_send(fd, "*3\r\n$3\r\nSET\r\n$65537\r\n");
  talk_send_n(fd, key, 65537);
  talk(fd, "\r\n$1\r\nv\r\n", "-ERR key of 65537 bytes: keys are 1 to 65536 bytes\r\n");
  talk_send(fd, "*3\r\n$3\r\nSET\r\n$65536\r\n");
  talk_send_n(fd, key, 65536);
  talk(fd, "\r\n$1\r\nv\r\n", "+OK\r\n");
  talk_send(fd, "*2\r\n$3\r\nDEL\r\n$65536\r\n");
  talk_send_n(fd, key, 65536);
  talk(fd, "\r\n", ":1\r\n");
  free(key);
  free(say.s);
}
END_TEST

START_TEST(test_a_batch_beyond_its_limit_is_an_error_and_nothing_is_written) {
  size_t n = 50u << 20;
  char *value = calloc(1, n);
  talk(fd, "MULTI\r\n", "+OK\r\n");
  for (int i = 0; i < 3; i++) {
    char head[64];
    snprintf(head, sizeof head, "*3\r\n$3\r\nSET\r\n$1\r\n%d\r\n$%zu\r\n", i, n);
    talk_send(fd, head);
    talk_send_n(fd, value, n);
    talk(fd, "\r\n", "+QUEUED\r\n");
  }
  talk(fd, "EXEC\r\nEXISTS 0 1 2\r\n", "-ERR batch would exceed 134217728 bytes\r\n:0\r\n");
  free(value);
}
END_TEST

static bool client_list_has(int other, const char *text) {
  char list[4000];
  talk_send(other, "CLIENT LIST\r\n");
  talk_reply(other, list, sizeof list);
  return strstr(list, text) != NULL;
}

START_TEST(test_a_spoiled_transaction_keeps_nothing_of_what_is_sent_to_it) {
  size_t n = 1u << 20;
  char *value = calloc(1, n);
  int other = talk_connect(port());
  talk(fd, "MULTI\r\nSET a 1\r\n", "+OK\r\n+QUEUED\r\n");
  ck_assert(client_list_has(other, "multi-mem=21"));
  talk(fd, "SET\r\n", "-ERR wrong number of arguments for 'set' command\r\n");
  talk_send(fd, "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1048576\r\n");
  talk_send_n(fd, value, n);
  talk(fd, "\r\n", "+QUEUED\r\n");
  ck_assert(!client_list_has(other, "multi-mem=21"));
  ck_assert(!client_list_has(other, "multi-mem=1"));
  talk(fd, "EXEC\r\nEXISTS a\r\n", "-EXECABORT Transaction discarded because of previous errors.\r\n:0\r\n");
  close(other);
  free(value);
}
END_TEST

START_TEST(test_a_client_too_many_is_told_and_closed) {
  stop();
  options.max_clients = 2;
  start();
  int second = talk_connect(port());
  talk(second, "PING\r\n", "+PONG\r\n");
  int third = talk_connect(port());
  talk_expect(third, "-ERR max number of clients reached\r\n");
  talk_expect_end(third);
  close(third);
  close(second);
  talk(fd, "PING\r\n", "+PONG\r\n");
}
END_TEST

START_TEST(test_a_reader_that_does_not_read_stops_being_read_and_loses_nothing) {
  enum { GETS = 400, VALUE = 100000 };
  char *value = malloc(VALUE + 1);
  memset(value, 'v', VALUE);
  value[VALUE] = 0;
  node_put(&cluster.node[0], "v", value);
  struct text say = {0};
  for (int i = 0; i < GETS; i++) add(&say, "GET v\r\n");
  talk_send(fd, say.s); /* asks for 40 MB and reads none of it */
  int other = talk_connect(port());
  static char got[65536];
  for (int i = 0; i < 50; i++) {
    talk_send(other, "CLIENT LIST\r\n");
    talk_reply(other, got, sizeof got);
    for (const char *p = got; (p = strstr(p, "obl=")); p++)
      ck_assert_msg(strtoul(p + 4, NULL, 10) < 4u << 20, "replies pile up: %s", got);
  }
  for (int i = 0; i < GETS; i++) {
    talk_expect(fd, "$100000\r\n");
    talk_expect(fd, value);
    talk_expect(fd, "\r\n");
  }
  close(other);
  free(value);
  free(say.s);
}
END_TEST

/* The kernel often takes the rest of a reply at once after all, because the peer has just read: libuv says so before it
 * polls, and what waited for that must not wait for the next event. */
START_TEST(test_commands_behind_large_replies_go_on_when_the_peer_reads_meanwhile) {
  enum { REPEATS = 10, GETS = 400, VALUE = 100000 };
  char *value = malloc(VALUE + 1);
  memset(value, 'v', VALUE);
  value[VALUE] = 0;
  node_put(&cluster.node[0], "v", value);
  struct text say = {0};
  for (int i = 0; i < GETS; i++) add(&say, "GET v\r\n");
  for (int i = 0; i < REPEATS; i++) {
    talk_send(fd, say.s);
    for (int k = 0; k < GETS; k++) {
      talk_expect(fd, "$100000\r\n");
      talk_expect(fd, value);
      talk_expect(fd, "\r\n");
    }
  }
  free(value);
  free(say.s);
}
END_TEST

START_TEST(test_a_blocked_connections_input_does_not_pile_up) {
  talk(fd, "SET a 1\r\n", "+OK\r\n");
  talk_send(fd, "WAIT 1 0\r\n");
  struct timeval soon = {.tv_usec = 300000};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon);
  static char junk[1 << 20];
  memset(junk, '\n', sizeof junk);
  size_t sent = 0;
  for (ssize_t n; sent < (256u << 20) && (n = send(fd, junk, sizeof junk, MSG_NOSIGNAL)) > 0;) sent += (size_t)n;
  ck_assert_uint_lt(sent, 64u << 20); /* what fits into the kernel's buffers and a little here */
}
END_TEST

START_TEST(test_a_reply_beyond_all_bounds_is_an_error) {
  enum { KEYS = 40 };
  size_t n = 10u << 20;
  char *value = malloc(n + 1);
  memset(value, 'v', n);
  value[n] = 0;
  node_put(&cluster.node[0], "v", value);
  struct text say = {0};
  add(&say, "MGET");
  for (int i = 0; i < KEYS; i++) add(&say, " v");
  add(&say, "\r\n");
  talk(fd, say.s, "-ERR the reply would exceed 268435456 bytes\r\n");
  talk(fd, "PING\r\n", "+PONG\r\n");
  free(value);
  free(say.s);
}
END_TEST

/* ---- begin and end ------------------------------------------------------------------------------------- */

START_TEST(test_a_port_in_use_is_named) {
  char listen[64];
  snprintf(listen, sizeof listen, "127.0.0.1:%u", port());
  struct resp_options opt = {.listen = listen};
  struct resp_server *second = NULL;
  ck_assert_int_eq(resp_server_start(cluster.node[0].e, &opt, &second), DW_IO);
  ck_assert_msg(strstr(dw_last_error(), listen) != NULL, "%s", dw_last_error());
  opt.listen = "127.0.0.1:99999";
  ck_assert_int_eq(resp_server_start(cluster.node[0].e, &opt, &second), DW_INVALID);
}
END_TEST

START_TEST(test_the_server_ends_under_clients_in_every_state) {
  enum { N = 7 };
  static const char *const say[N] = {"WAIT 1 0\r\n",
                                     "DW.MODE SYNC 1\r\nDW.WAIT 1 86400000\r\n",
                                     "DW.READ SESSION 1000 WAIT 86400000\r\nGET a\r\n",
                                     "MULTI\r\nSET a 1\r\n",
                                     "*2\r\n$3\r\nGET\r\n$1000\r\nabc",
                                     "DW.CHECKSUM\r\nDBSIZE\r\nDW.CHECKSUM\r\n",
                                     ""};
  int fds[N];
  talk(fd, "DW.MODE SEMISYNC 1 TIMEOUT 1000\r\n", "+OK\r\n");
  talk_send(fd, "SET a 1\r\nGET a\r\n"); /* in flight */
  for (int i = 0; i < N; i++) {
    fds[i] = talk_connect(port());
    talk(fds[i], "PING\r\n", "+PONG\r\n");
    talk_send(fds[i], say[i]);
  }
  uint64_t begin = now_ms();
  resp_server_stop(server);
  ck_assert_uint_lt(now_ms() - begin, 10000);
  for (int i = 0; i < N; i++) close(fds[i]);
  close(fd);
  start(); /* for the fixture; and another one begins where this one ended */
  talk(fd, "GET a\r\n", "$1\r\n1\r\n");
}
END_TEST

int main(void) {
  Suite *s = suite_create("cmd_resp_server");
  TCase *t = tcase_create("order");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, test_a_pipelined_get_sees_the_set_before_it);
  tcase_add_test(t, test_a_reply_never_overtakes_a_write_that_still_waits);
  tcase_add_test(t, test_a_protocol_error_does_not_overtake_a_write_that_still_waits);
  tcase_add_test(t, test_one_connections_waiting_holds_up_nobody_else);
  tcase_add_test(t, test_a_peer_that_has_closed_its_side_gets_its_answers);
  tcase_add_test(t, test_a_client_gone_in_wait_is_forgotten);
  suite_add_tcase(s, t);
  t = tcase_create("between clients");
  tcase_set_timeout(t, 30);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, test_a_lock_is_taken_and_released_by_one_client_at_a_time);
  tcase_add_test(t, test_a_transaction_is_one_step_to_other_clients);
  tcase_add_test(t, test_mget_and_exec_never_see_half_of_a_commit);
  suite_add_tcase(s, t);
  t = tcase_create("scan");
  tcase_set_timeout(t, 30);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, test_scan_returns_every_key_that_stays_exactly_once_while_others_come_and_go);
  tcase_add_test(t, test_scan_goes_on_where_its_key_was_deleted);
  tcase_add_test(t, test_a_scan_call_looks_at_count_keys_even_if_none_matches);
  tcase_add_test(t, test_many_scans_at_once_and_a_cursor_given_up_is_an_error);
  suite_add_tcase(s, t);
  t = tcase_create("limits");
  tcase_set_timeout(t, 60);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, test_the_largest_value_passes_and_the_next_byte_does_not);
  tcase_add_test(t, test_a_key_beyond_64_kib_is_an_error_and_the_connection_lives);
  tcase_add_test(t, test_a_batch_beyond_its_limit_is_an_error_and_nothing_is_written);
  tcase_add_test(t, test_a_spoiled_transaction_keeps_nothing_of_what_is_sent_to_it);
  tcase_add_test(t, test_a_client_too_many_is_told_and_closed);
  tcase_add_test(t, test_a_reader_that_does_not_read_stops_being_read_and_loses_nothing);
  tcase_add_test(t, test_commands_behind_large_replies_go_on_when_the_peer_reads_meanwhile);
  tcase_add_test(t, test_a_blocked_connections_input_does_not_pile_up);
  tcase_add_test(t, test_a_reply_beyond_all_bounds_is_an_error);
  suite_add_tcase(s, t);
  t = tcase_create("begin and end");
  tcase_set_timeout(t, 30);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, test_a_port_in_use_is_named);
  tcase_add_test(t, test_the_server_ends_under_clients_in_every_state);
  suite_add_tcase(s, t);
  return check_main(s);
}
