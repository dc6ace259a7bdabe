/* See scenario.h.
 *
 *   asynchronous writes, DISK and OS mixed, while the follower joins | the follower is killed; the log goes on without
 * it until its place is gone; it comes back and is bootstrapped, under load | sync writes | both are killed and
 * restarted | more writes | a clean restart | clean ends
 *
 * Segments and the store's buffer are as small as they may be, so that rolling, recycling, flushing, compacting and
 * trimming all happen, and an image stays small.
 */
#include "tests/powercut/scenario.h"

#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/powercut/history.h"
#include "tests/support/await.h"
#include "tests/support/daemons.h"
#include "tests/support/resp_wire.h"

#define CLIENTS 4
#define VALUE_MAX 72000

static uint64_t rnd;
static unsigned long long numbers; /* values made so far */
static struct daemon_proc primary, follower;

static int below(int n) {
  rnd ^= rnd << 13, rnd ^= rnd >> 7, rnd ^= rnd << 17;
  return (int)(rnd % (uint64_t)n);
}

/* ---- clients --------------------------------------------------------------------------------------- */

static struct wire client[CLIENTS];
static char durability[CLIENTS];

static void connect_clients(const char *mode, const char *n) {
  struct wire_reply r;
  for (int i = 0; i < CLIENTS; i++) {
    durability[i] = i % 2 ? 'O' : 'D';
    ck_assert(wire_open(&client[i], primary.resp_port));
    if (n)
      wire_add(&client[i], "DW.MODE", mode, n, "DURABLE", i % 2 ? "OS" : "DISK", "TIMEOUT", "30000", (char *)NULL);
    else
      wire_add(&client[i], "DW.MODE", mode, i % 2 ? "OS" : "DISK", (char *)NULL);
    ck_assert(wire_flush(&client[i]) && wire_read(&client[i], &r) == WIRE_OK && r.kind == '+');
  }
}

/* One batch; its number is echoed once it is committed. */
static void send_batch(int i, int big) {
  static char value[VALUE_MAX];
  char key[8], echo[32];
  unsigned long long number = ++numbers;
  wire_add(&client[i], "MULTI", (char *)NULL);
  for (int n = 1 + below(3); n > 0; n--) {
    snprintf(key, sizeof key, "k%02d", below(KEYS));
    size_t len = (size_t)snprintf(value, 40, VALUE_FORMAT, number, durability[i]);
    size_t end = len + 20 + (size_t)below(below(big) == 0 ? VALUE_MAX - 100 : 600);
    while (len < end) value[len++] = (char)('a' + below(26));
    value[len] = 0;
    wire_add(&client[i], "SET", key, value, (char *)NULL);
  }
  if (below(8) == 0) {
    snprintf(key, sizeof key, "k%02d", below(KEYS));
    wire_add(&client[i], "DEL", key, (char *)NULL);
  }
  snprintf(echo, sizeof echo, ACK_FORMAT, number);
  wire_add(&client[i], "ECHO", echo, (char *)NULL);
  wire_add(&client[i], "EXEC", (char *)NULL);
}

static void take_replies(int i) {
  struct wire_reply r;
  do ck_assert_msg(wire_read(&client[i], &r) == WIRE_OK && r.kind != '-', "a batch was answered %s", r.text);
  while (r.kind != '*');
  for (long long n = r.number; n > 0; n--) ck_assert_int_eq(wire_read(&client[i], &r), WIRE_OK);
}

/* All clients at once, so that their commits share groups. */
static void write_rounds(int rounds, int big) {
  for (; rounds > 0; rounds--) {
    for (int i = 0; i < CLIENTS; i++) {
      send_batch(i, big);
      ck_assert(wire_flush(&client[i]));
    }
    for (int i = 0; i < CLIENTS; i++) take_replies(i);
  }
}

/* ---- nodes ----------------------------------------------------------------------------------------- */

static void node_init(struct daemon_proc *d, const char *exe, const char *dir, const char *name) {
  char root[600];
  memset(d, 0, sizeof *d);
  d->exe = exe;
  snprintf(root, sizeof root, "%s/%s", dir, name);
  ck_assert_int_eq(mkdir(root, 0755), 0);
  ck_assert_int_lt(snprintf(d->data, sizeof d->data, "%s/node", root), sizeof d->data);
  daemon_add_env(d, "LD_PRELOAD=%s", getenv("DW_RECORDER"));
  daemon_add_env(d, "DW_RECORD_ROOT=%s", root);
  daemon_add_env(d, "DW_RECORD=%s.record", root);
  daemon_add_flag(d, "--segment-bytes=65536");
  daemon_add_flag(d, "--memtable=65536");
  daemon_add_flag(d, "--sync-interval=60");
  daemon_add_flag(d, "--heartbeat=100");
}

static bool streaming(void) {
  char info[4096];
  resp_once(primary.resp_port, info, sizeof info, "INFO replication");
  return strstr(info, "connected_slaves:1") && status_number(follower.resp_port, "applied_lsn") > 0;
}

static bool level(void) {
  long long lsn = status_number(primary.resp_port, "written_lsn");
  return lsn > 0 && status_number(follower.resp_port, "applied_lsn") == lsn;
}

/* The log runs away from the follower; what comes back gets a checkpoint. */
static void bootstrap(void) {
  long long there = status_number(follower.resp_port, "applied_lsn");
  daemon_kill9(&follower);
  AWAIT("the log to be trimmed", (write_rounds(20, 300), status_number(primary.resp_port, "oldest_lsn") > there + 1));
  daemon_start(&follower);
  AWAIT("the bootstrap", (write_rounds(1, 300), status_number(follower.resp_port, "bootstraps") == 1));
  write_rounds(20, 300);
}

static void restart_after_kill(void) {
  daemon_kill9_all((struct daemon_proc *const[]){&primary, &follower}, 2);
  daemon_start(&primary);
  daemon_start(&follower);
  AWAIT("the follower", streaming());
}

void scenario_run(const char *dir, uint64_t seed) {
  rnd = seed * 2 + 1;
  numbers = 0;
  for (int i = 0; i < CLIENTS; i++) client[i] = WIRE_INIT;
  node_init(&primary, "dabbawal-primary", dir, "primary");
  node_init(&follower, "dabbawal-follower", dir, "follower");
  daemon_add_flag(&primary, "--retain-bytes=0");
  daemon_add_flag(&primary, "--mode=async");
  daemon_start(&primary);
  daemon_add_flag(&follower, "--primary=127.0.0.1:%d", primary.listen_port);
  connect_clients("ASYNC", NULL);
  write_rounds(20, 400);
  daemon_start(&follower);
  AWAIT("the follower", streaming());
  write_rounds(100, 200);
  bootstrap();
  connect_clients("SYNC", "1");
  write_rounds(60, 200);
  restart_after_kill();
  connect_clients("ASYNC", NULL);
  write_rounds(40, 200);
  ck_assert_int_eq(daemon_stop(&primary), 0);
  daemon_start(&primary);
  AWAIT("the follower", streaming());
  connect_clients("ASYNC", NULL);
  write_rounds(30, 200);
  AWAIT("the follower to have all", level());
  for (int i = 0; i < CLIENTS; i++) wire_free(&client[i]);
  ck_assert_int_eq(daemon_stop(&follower), 0);
  ck_assert_int_eq(daemon_stop(&primary), 0);
}
