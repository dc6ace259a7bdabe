/* Histories of concurrent clients on a primary and two followers with bad links and sudden deaths, recorded and judged:
 * dw_histories [--seconds N] [--seed S].
 *
 *   clients --RESP--> primary <--proxy-- follower 1 <--RESP-- clients
 *                        ^-------proxy-- follower 2 <--RESP-- clients
 *
 * Writers write values of their own to a few keys, each connection by a mode drawn for it; readers read at every node
 * at every consistency. Meanwhile links stall, stall in one direction or break, processes are stopped for a while or
 * killed. Every operation is noted with its times by one monotonic clock; at the end the log says which LSN each write
 * got, and tests/support/history_check.c judges the whole.
 */
#include "tests/support/check_main.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/identity.h"
#include "tests/support/daemons.h"
#include "tests/support/proxy.h"
#include "tests/support/register_log.h"
#include "tests/support/registers.h"
#include "wal/base/status.h"

#define NODES 3
#define KEYS 10
#define WRITERS 5
#define READERS_PER_NODE 2
#define CLIENTS (WRITERS + NODES * READERS_PER_NODE)
#define ROUND_SECONDS 12.0 /* a fresh cluster each */

static double seconds_wanted = 30;
static uint64_t seed;

static struct daemon_proc node[NODES];
static struct proxy *proxies[NODES];
static atomic_uint life[NODES]; /* grows before a node is killed */
static atomic_bool stop;
static struct register_set set;
static char dir[256];

static struct total {
  unsigned long events, writes, in_doubt, refused, reads[4], stale, kills[NODES], cuts, stalls, pauses;
} total;

struct client {
  pthread_t thread;
  struct register_client r;
};
static struct client clients[CLIENTS];

static double now_s(void) {
  return (double)register_now_ns() / 1e9;
}

#define AWAIT(what, condition)                                                                                         \
  do {                                                                                                                 \
    double deadline_ = now_s() + 60;                                                                                   \
    while (!(condition)) {                                                                                             \
      ck_assert_msg(now_s() < deadline_, "waited in vain for: %s; see %s", what, dir);                                 \
      poll(NULL, 0, 5);                                                                                                \
    }                                                                                                                  \
  } while (0)

/* ---- clients --------------------------------------------------------------------------------------- */

/* A connection belongs to one life of the node: it may not have died between the look and the connect. */
static bool connected(struct register_client *c) {
  if (c->wire.fd >= 0) return true;
  c->life = atomic_load(&life[c->node]);
  return wire_open(&c->wire, node[c->node].resp_port) && atomic_load(&life[c->node]) == c->life;
}

static bool set_mode(struct register_client *c) {
  static const char *const modes[][8] = {{"DW.MODE", "ASYNC", "OS"},
                                         {"DW.MODE", "ASYNC", "DISK"},
                                         {"DW.MODE", "SEMISYNC", "1", "DURABLE", "OS", "TIMEOUT", "400"},
                                         {"DW.MODE", "SYNC", "1", "DURABLE", "OS", "TIMEOUT", "400"},
                                         {"DW.MODE", "SYNC", "1", "APPLIED", "DISK", "TIMEOUT", "400"},
                                         {"DW.MODE", "SYNC", "2", "RECEIVED", "OS", "TIMEOUT", "400"}};
  const char *const *words = modes[register_draw(&c->rnd, 6)];
  struct wire_reply r;
  size_t n = 0;
  while (n < 8 && words[n]) n++;
  wire_add_words(&c->wire, words, n);
  return wire_flush(&c->wire) && wire_read(&c->wire, &r) == WIRE_OK && r.kind == '+';
}

static void *run_writer(void *arg) {
  struct register_client *c = arg;
  while (!atomic_load(&stop)) {
    bool fresh = c->wire.fd < 0;
    if (!connected(c) || ((fresh || register_draw(&c->rnd, 100) == 0) && !set_mode(c))) {
      wire_close(&c->wire);
      poll(NULL, 0, 3);
      continue;
    }
    if (register_write(c) == END_REFUSED) poll(NULL, 0, 5);
    if (register_draw(&c->rnd, 4) == 0) poll(NULL, 0, 1);
  }
  wire_free(&c->wire);
  return NULL;
}

static void *run_reader(void *arg) {
  struct register_client *c = arg;
  while (!atomic_load(&stop)) {
    if (!connected(c) || !register_read(c)) {
      wire_close(&c->wire);
      poll(NULL, 0, 3);
    }
    if (register_draw(&c->rnd, 4) == 0) poll(NULL, 0, 1);
  }
  wire_free(&c->wire);
  return NULL;
}

/* ---- trouble --------------------------------------------------------------------------------------- */

/* At once; -1: nobody. */
static void kill_both(int a, int b) {
  struct daemon_proc *victims[2] = {&node[a], b < 0 ? NULL : &node[b]};
  atomic_fetch_add(&life[a], 1);
  if (b >= 0) atomic_fetch_add(&life[b], 1);
  daemon_kill9_all(victims, 2);
  total.kills[a]++;
  if (b >= 0) total.kills[b]++;
  daemon_start(&node[a]);
  if (b >= 0) daemon_start(&node[b]);
}

static void kill_and_restart(int i) {
  kill_both(i, -1);
}

static void disturb(uint64_t *rnd) {
  int f = 1 + register_draw(rnd, NODES - 1), ms = 20 + register_draw(rnd, 600);
  switch (register_draw(rnd, 11)) {
  case 0:
  case 1:
    proxy_mode(proxies[f], register_draw(rnd, 2) ? PROXY_STALL : PROXY_STALL_DOWN);
    total.stalls++;
    break;
  case 2:
    proxy_mode(proxies[f], PROXY_CUT);
    total.cuts++;
    break;
  case 3:
    proxy_cut_after(proxies[f], (uint64_t)register_draw(rnd, 20000));
    total.cuts++;
    break;
  case 4: kill_and_restart(f); break;
  case 5:
  case 6: kill_and_restart(0); break;
  case 7: /* all links at once, and the primary: what comes back has nobody to ask */
    for (int i = 1; i < NODES; i++) proxy_mode(proxies[i], PROXY_CUT);
    kill_and_restart(0);
    break;
  case 8:
  case 9: /* who acknowledged is away, who comes back has forgotten how far the commits went */
    proxy_mode(proxies[NODES - f], PROXY_CUT);
    kill_both(0, f);
    total.cuts++;
    break;
  default: {
    int who = register_draw(rnd, NODES);
    kill(node[who].pid, SIGSTOP);
    poll(NULL, 0, ms);
    kill(node[who].pid, SIGCONT);
    total.pauses++;
  }
  }
  poll(NULL, 0, ms);
  for (int i = 1; i < NODES; i++) {
    proxy_cut_after(proxies[i], UINT64_MAX); /* not any more */
    proxy_mode(proxies[i], PROXY_PASS);
  }
}

/* ---- a round ---------------------------------------------------------------------------------------- */

static void start_cluster(const char *path) {
  memset(node, 0, sizeof node);
  for (int i = 0; i < NODES; i++) {
    struct daemon_proc *d = &node[i];
    d->exe = i ? "dabbawal-follower" : "dabbawal-primary";
    snprintf(d->data, sizeof d->data, "%s/node%d", path, i);
    daemon_add_flag(d, "--segment-bytes=4MiB");
    daemon_add_flag(d, "--heartbeat=50");
    daemon_add_flag(d, "--peer-timeout=400");
    if (i == 0) daemon_add_flag(d, "--ack-timeout=300");
    if (i) {
      proxies[i] = proxy_start((uint16_t)node[0].listen_port);
      daemon_add_flag(d, "--primary=127.0.0.1:%d", proxy_port(proxies[i]));
    }
    daemon_start(d);
  }
}

static bool level(void) {
  long long written = status_number(node[0].resp_port, "written_lsn");
  if (written <= 0 || status_number(node[0].resp_port, "commit_lsn") != written) return false;
  for (int i = 0; i < NODES; i++)
    if (status_number(node[i].resp_port, "applied_lsn") != written) return false;
  return true;
}

/* All clients' events as one array. */
static struct event *gather(size_t *count) {
  size_t n = 0;
  for (int i = 0; i < CLIENTS; i++) n += clients[i].r.count;
  struct event *all = malloc((n + 1) * sizeof *all);
  ck_assert_ptr_nonnull(all);
  *count = 0;
  for (int i = 0; i < CLIENTS; i++) {
    ck_assert_msg(!clients[i].r.wrong[0], "a client at node %d: %s", clients[i].r.node, clients[i].r.wrong);
    memcpy(all + *count, clients[i].r.events, clients[i].r.count * sizeof *all);
    *count += clients[i].r.count;
    total.stale += clients[i].r.stale;
    free(clients[i].r.events);
  }
  return all;
}

static void count_events(const struct event *events, size_t n) {
  total.events += n;
  for (size_t i = 0; i < n; i++) {
    if (events[i].kind != EVENT_WRITE) {
      total.reads[events[i].kind - EVENT_STRONG]++;
      continue;
    }
    total.writes += events[i].end == END_OK;
    total.in_doubt += events[i].end == END_IN_DOUBT;
    total.refused += events[i].end == END_REFUSED;
  }
}

static void judge(void) {
  static char why[800];
  size_t n;
  struct event *events = gather(&n);
  char *log = path_generation(node[0].data, "wal", 1);
  ck_assert_msg(register_lsns(log, &set, events, n, why, sizeof why), "%s; see %s", why, dir);
  free(log);
  count_events(events, n);
  bool good = judge_history(events, n, why, sizeof why);
  free(events);
  ck_assert_msg(good, "%s; see %s", why, dir);
}

static void start_clients(uint64_t *rnd) {
  memset(clients, 0, sizeof clients);
  atomic_store(&stop, false);
  for (int i = 0; i < CLIENTS; i++) {
    struct register_client *c = &clients[i].r;
    c->set = &set;
    c->node = i < WRITERS ? 0 : (i - WRITERS) % NODES;
    register_draw(rnd, 2);
    c->rnd = *rnd ^ (uint64_t)i << 32;
    c->wire = WIRE_INIT;
    ck_assert_int_eq(pthread_create(&clients[i].thread, NULL, i < WRITERS ? run_writer : run_reader, c), 0);
  }
}

static void run_round(uint64_t *rnd, int round, double seconds) {
  char path[300];
  snprintf(path, sizeof path, "%s/round%d", dir, round);
  ck_assert_int_eq(env_posix()->ops->mkdir(env_posix(), path), DW_OK);
  register_set_init(&set, KEYS);
  start_cluster(path);
  start_clients(rnd);
  double end = now_s() + seconds;
  while (now_s() < end) {
    poll(NULL, 0, 50 + register_draw(rnd, 300));
    disturb(rnd);
  }
  poll(NULL, 0, 200);
  atomic_store(&stop, true);
  for (int i = 0; i < CLIENTS; i++) pthread_join(clients[i].thread, NULL);
  AWAIT("all nodes to have everything", level());
  judge();
  for (int i = 0; i < NODES; i++) daemon_kill9(&node[i]);
  for (int i = 1; i < NODES; i++) proxy_stop(proxies[i]);
  env_remove_tree(env_posix(), path);
}

START_TEST(every_history_is_one_that_the_promises_allow) {
  uint64_t rnd = seed;
  signal(SIGPIPE, SIG_IGN);
  snprintf(dir, sizeof dir, "%s/dw-histories-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  for (int round = 0; seconds_wanted > 0.5; round++, seconds_wanted -= ROUND_SECONDS)
    run_round(&rnd, round, seconds_wanted < ROUND_SECONDS ? seconds_wanted : ROUND_SECONDS);
  printf("%lu operations, seed %llu: %lu writes, %lu in doubt, %lu refused; reads: %lu STRONG, %lu BOUNDED, %lu "
         "SESSION, %lu EVENTUAL, "
         "%lu answered STALE; %lu kills of the primary, %lu of followers, %lu links cut, %lu stalled, %lu processes "
         "stopped for a "
         "while; every history is allowed\n",
         total.events, (unsigned long long)seed, total.writes, total.in_doubt, total.refused, total.reads[0],
         total.reads[1], total.reads[2], total.reads[3], total.stale, total.kills[0], total.kills[1] + total.kills[2],
         total.cuts, total.stalls, total.pauses);
  for (int i = 0; i < 4; i++) ck_assert_uint_gt(total.reads[i], 100);
  ck_assert_uint_gt(total.writes, 500);
  env_remove_tree(env_posix(), dir);
}
END_TEST

int main(int argc, char **argv) {
  seed = (uint64_t)time(NULL) * 1000003u ^ (uint64_t)getpid();
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--seconds") == 0)
      seconds_wanted = atof(argv[i + 1]);
    else if (strcmp(argv[i], "--seed") == 0)
      seed = strtoull(argv[i + 1], NULL, 10);
    else
      seconds_wanted = 0;
  }
  if (argc % 2 == 0 || seconds_wanted <= 0) {
    fprintf(stderr, "usage: %s [--seconds N] [--seed S]\n", argv[0]);
    return 2;
  }
  printf("histories: %.0f seconds, --seed %llu\n", seconds_wanted, (unsigned long long)seed);
  fflush(stdout);
  Suite *s = suite_create("histories");
  TCase *t = tcase_create("histories");
  tcase_set_timeout(t, 200.0 + 10.0 * seconds_wanted);
  tcase_add_test(t, every_history_is_one_that_the_promises_allow);
  suite_add_tcase(s, t);
  return check_main(s);
}
