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
#include "tests/support/history_check.h"
#include "tests/support/proxy.h"
#include "tests/support/resp_wire.h"
#include "wal/base/status.h"
#include "wal/wal.h"

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
static atomic_ullong next_value, token; /* token: the highest LSN that any writer was told */
static atomic_ullong next_snapshot;
static char dir[256];

static struct total {
  unsigned long events, writes, in_doubt, refused, reads[4], stale, kills[NODES], cuts, stalls, pauses;
} total;

struct client {
  pthread_t thread;
  int node, id;
  uint64_t rnd;
  struct wire wire;
  unsigned life;
  struct event *events;
  size_t count, cap;
  unsigned long stale;
  char wrong[300]; /* a reply that none of the rules allows */
};
static struct client clients[CLIENTS];

static uint64_t now_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static double now_s(void) {
  return (double)now_ns() / 1e9;
}

static int below(uint64_t *state, int n) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (int)((*state >> 33) % (uint64_t)n);
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

static struct event *note(struct client *c, enum event_kind kind, int key, uint64_t invoked) {
  if (c->count == c->cap) {
    c->cap = c->cap ? 2 * c->cap : 1024;
    c->events = realloc(c->events, c->cap * sizeof *c->events);
    ck_assert_ptr_nonnull(c->events);
  }
  struct event *e = &c->events[c->count++];
  *e = (struct event){
      .kind = kind, .key = key, .invoked = invoked, .returned = UINT64_MAX, .node = c->node, .life = c->life};
  return e;
}

/* A connection belongs to one life of the node: it may not have died between the look and the connect. */
static bool connected(struct client *c) {
  if (c->wire.fd >= 0) return true;
  c->life = atomic_load(&life[c->node]);
  return wire_open(&c->wire, node[c->node].resp_port) && atomic_load(&life[c->node]) == c->life;
}

static bool set_mode(struct client *c) {
  static const char *const modes[][8] = {{"DW.MODE", "ASYNC", "OS"},
                                         {"DW.MODE", "ASYNC", "DISK"},
                                         {"DW.MODE", "SEMISYNC", "1", "DURABLE", "OS", "TIMEOUT", "400"},
                                         {"DW.MODE", "SYNC", "1", "DURABLE", "OS", "TIMEOUT", "400"},
                                         {"DW.MODE", "SYNC", "1", "APPLIED", "DISK", "TIMEOUT", "400"},
                                         {"DW.MODE", "SYNC", "2", "RECEIVED", "OS", "TIMEOUT", "400"}};
  const char *const *words = modes[below(&c->rnd, 6)];
  struct wire_reply r;
  size_t n = 0;
  while (n < 8 && words[n]) n++;
  wire_add_words(&c->wire, words, n);
  return wire_flush(&c->wire) && wire_read(&c->wire, &r) == WIRE_OK && r.kind == '+';
}

static enum event_end end_of(struct client *c, const struct wire_reply *r) {
  static const char *const not_done[] = {"NOREPLICAS", "TIMEOUT certainly", "NOSPACE", "IOERR", "OOM"};
  if (r->kind == '+') return END_OK;
  if (r->kind == '-' && strncmp(r->text, "INDOUBT", 7) == 0) return END_IN_DOUBT;
  for (size_t i = 0; i < sizeof not_done / sizeof *not_done; i++)
    if (r->kind == '-' && strncmp(r->text, not_done[i], strlen(not_done[i])) == 0) return END_REFUSED;
  snprintf(c->wrong, sizeof c->wrong, "SET was answered %.200s", r->text);
  return END_IN_DOUBT;
}

/* SET and the LSN that it got. */
static void write_one(struct client *c) {
  char key[16], value[32];
  struct wire_reply r;
  int k = below(&c->rnd, KEYS);
  uint64_t v = atomic_fetch_add(&next_value, 1) + 1;
  snprintf(key, sizeof key, "k%d", k);
  snprintf(value, sizeof value, "%llu", (unsigned long long)v);
  wire_add(&c->wire, "SET", key, value, (char *)NULL);
  wire_add(&c->wire, "DW.LSN", (char *)NULL);
  struct event *e = note(c, EVENT_WRITE, k, now_ns());
  e->value = v;
  e->end = END_IN_DOUBT;
  if (!wire_flush(&c->wire) || wire_read(&c->wire, &r) != WIRE_OK) {
    wire_close(&c->wire);
    return;
  }
  e->returned = now_ns();
  e->end = end_of(c, &r);
  bool refused = e->end == END_REFUSED;
  if (wire_read(&c->wire, &r) != WIRE_OK) {
    wire_close(&c->wire);
    return;
  }
  if (e->end == END_OK) {
    e->lsn = (uint64_t)r.number;
    unsigned long long seen = atomic_load(&token);
    while (seen < e->lsn && !atomic_compare_exchange_weak(&token, &seen, e->lsn)) continue;
  }
  if (refused) poll(NULL, 0, 5);
}

static void *run_writer(void *arg) {
  struct client *c = arg;
  while (!atomic_load(&stop)) {
    bool fresh = c->wire.fd < 0;
    if (!connected(c) || ((fresh || below(&c->rnd, 100) == 0) && !set_mode(c))) {
      wire_close(&c->wire);
      poll(NULL, 0, 3);
      continue;
    }
    write_one(c);
    if (below(&c->rnd, 4) == 0) poll(NULL, 0, 1);
  }
  wire_free(&c->wire);
  return NULL;
}

/* What a reader asks for next. */
struct wish {
  enum event_kind kind;
  uint64_t bound_ms, token;
};

static struct wish draw_wish(struct client *c) {
  static const uint64_t bounds[] = {20, 60, 150, 400};
  struct wish w = {.kind = (enum event_kind)(EVENT_STRONG + below(&c->rnd, 4))};
  w.bound_ms = bounds[below(&c->rnd, 4)];
  w.token = atomic_load(&token);
  if (w.token && below(&c->rnd, 4) == 0) w.token -= (uint64_t)below(&c->rnd, 50) % w.token;
  return w;
}

static void add_wish(struct client *c, const struct wish *w) {
  char number[32];
  const char *wait = below(&c->rnd, 3) ? "250" : "0";
  snprintf(number, sizeof number, "%llu", (unsigned long long)(w->kind == EVENT_BOUNDED ? w->bound_ms : w->token));
  switch (w->kind) {
  case EVENT_STRONG: wire_add(&c->wire, "DW.READ", "STRONG", "WAIT", "250", (char *)NULL); break;
  case EVENT_BOUNDED: wire_add(&c->wire, "DW.READ", "BOUNDED", number, "WAIT", wait, (char *)NULL); break;
  case EVENT_SESSION: wire_add(&c->wire, "DW.READ", "SESSION", number, "WAIT", wait, (char *)NULL); break;
  default: wire_add(&c->wire, "DW.READ", "EVENTUAL", (char *)NULL); break;
  }
}

static void note_read(struct client *c, const struct wish *w, int key, uint64_t value, uint64_t invoked,
                      uint64_t snapshot) {
  struct event *e = note(c, w->kind, key, invoked);
  e->value = value;
  e->returned = now_ns();
  e->bound = w->bound_ms * 1000000u;
  e->token = w->token;
  e->snapshot = snapshot;
}

/* One key, or two at one point. False: the connection is gone. */
static bool read_some(struct client *c) {
  struct wish w = draw_wish(c);
  int key[2] = {below(&c->rnd, KEYS), below(&c->rnd, KEYS)}, n = below(&c->rnd, 4) ? 1 : 2;
  char name[2][16];
  struct wire_reply r;
  for (int i = 0; i < 2; i++) snprintf(name[i], sizeof name[i], "k%d", key[i]);
  add_wish(c, &w);
  if (n == 1)
    wire_add(&c->wire, "GET", name[0], (char *)NULL);
  else
    wire_add(&c->wire, "MGET", name[0], name[1], (char *)NULL);
  uint64_t invoked = now_ns(), snapshot = n == 2 ? atomic_fetch_add(&next_snapshot, 1) + 1 : 0;
  if (!wire_flush(&c->wire) || wire_read(&c->wire, &r) != WIRE_OK || r.kind != '+') return false;
  if (wire_read(&c->wire, &r) != WIRE_OK) return false;
  if (r.kind == '-') {
    c->stale++;
    if (strncmp(r.text, "STALE", 5) != 0) snprintf(c->wrong, sizeof c->wrong, "GET was answered %.200s", r.text);
    return true;
  }
  for (int i = 0; i < n; i++) {
    if (n == 2 && wire_read(&c->wire, &r) != WIRE_OK) return false;
    note_read(c, &w, key[i], r.kind == '$' ? strtoull(r.text, NULL, 10) : 0, invoked, snapshot);
  }
  return true;
}

static void *run_reader(void *arg) {
  struct client *c = arg;
  while (!atomic_load(&stop)) {
    if (!connected(c) || !read_some(c)) {
      wire_close(&c->wire);
      poll(NULL, 0, 3);
    }
    if (below(&c->rnd, 4) == 0) poll(NULL, 0, 1);
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
  int f = 1 + below(rnd, NODES - 1), ms = 20 + below(rnd, 600);
  switch (below(rnd, 11)) {
  case 0:
  case 1:
    proxy_mode(proxies[f], below(rnd, 2) ? PROXY_STALL : PROXY_STALL_DOWN);
    total.stalls++;
    break;
  case 2:
    proxy_mode(proxies[f], PROXY_CUT);
    total.cuts++;
    break;
  case 3:
    proxy_cut_after(proxies[f], (uint64_t)below(rnd, 20000));
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
    int who = below(rnd, NODES);
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

/* Which LSN each value got, from the primary's log: also those that nobody was told. */
struct lsns {
  uint64_t *of;
  uint64_t count;
};

static int note_block(void *arg, const char *path, uint64_t off, const struct wal_block *b) {
  struct lsns *l = arg;
  struct buf scratch = {0};
  const uint8_t *raw;
  size_t n, at = 0;
  struct wal_commit commit;
  uint64_t lsn = b->h.first_lsn;
  (void)path, (void)off;
  ck_assert_int_eq(wal_block_raw(b, &scratch, &raw, &n), DW_OK);
  for (; b->h.kind == BLOCK_COMMITS && payload_next_commit(raw, n, &at, &commit) == DW_OK; lsn++) {
    size_t op_at = 0;
    struct wal_op op;
    ck_assert_int_eq(body_next_op(commit.body, commit.body_bytes, &op_at, &op), DW_OK);
    char text[32] = "";
    memcpy(text, op.val, op.vlen < 31 ? op.vlen : 31);
    uint64_t value = strtoull(text, NULL, 10);
    ck_assert_msg(value > 0 && value <= l->count && !l->of[value], "the log holds value %s twice, or nobody wrote it",
                  text);
    l->of[value] = lsn;
  }
  buf_free(&scratch);
  return 0;
}

static void look_up_lsns(struct event *events, size_t n) {
  struct lsns l = {calloc(atomic_load(&next_value) + 1, sizeof(uint64_t)), atomic_load(&next_value)};
  struct wal_inspect how = {.on_block = note_block, .arg = &l};
  struct wal_inspect_report rep;
  ck_assert_ptr_nonnull(l.of);
  char *path = path_generation(node[0].data, "wal", 1);
  int rc = wal_inspect(env_posix(), path, &how, &rep);
  ck_assert_msg(rc == DW_OK, "%s: %s", path, rep.problem);
  free(path);
  for (size_t i = 0; i < n; i++) {
    struct event *e = &events[i];
    if (e->kind != EVENT_WRITE) continue;
    uint64_t lsn = l.of[e->value];
    ck_assert_msg(e->end != END_OK || lsn == e->lsn, "value %llu was answered OK with LSN %llu, the log has it at %llu",
                  (unsigned long long)e->value, (unsigned long long)e->lsn, (unsigned long long)lsn);
    ck_assert_msg(e->end != END_REFUSED || !lsn,
                  "value %llu was refused as certainly not done, the log has it at LSN %llu",
                  (unsigned long long)e->value, (unsigned long long)lsn);
    e->lsn = lsn;
  }
  free(l.of);
}

/* All clients' events as one array. */
static struct event *gather(size_t *count) {
  size_t n = 0;
  for (int i = 0; i < CLIENTS; i++) n += clients[i].count;
  struct event *all = malloc((n + 1) * sizeof *all);
  ck_assert_ptr_nonnull(all);
  *count = 0;
  for (int i = 0; i < CLIENTS; i++) {
    ck_assert_msg(!clients[i].wrong[0], "a client at node %d: %s", clients[i].node, clients[i].wrong);
    memcpy(all + *count, clients[i].events, clients[i].count * sizeof *all);
    *count += clients[i].count;
    total.stale += clients[i].stale;
    free(clients[i].events);
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
  look_up_lsns(events, n);
  count_events(events, n);
  bool good = judge_history(events, n, why, sizeof why);
  free(events);
  ck_assert_msg(good, "%s; see %s", why, dir);
}

static void start_clients(uint64_t *rnd) {
  memset(clients, 0, sizeof clients);
  atomic_store(&stop, false);
  for (int i = 0; i < CLIENTS; i++) {
    struct client *c = &clients[i];
    c->id = i;
    c->node = i < WRITERS ? 0 : (i - WRITERS) % NODES;
    below(rnd, 2);
    c->rnd = *rnd ^ (uint64_t)i << 32;
    c->wire = WIRE_INIT;
    ck_assert_int_eq(pthread_create(&c->thread, NULL, i < WRITERS ? run_writer : run_reader, c), 0);
  }
}

static void run_round(uint64_t *rnd, int round, double seconds) {
  char path[300];
  snprintf(path, sizeof path, "%s/round%d", dir, round);
  ck_assert_int_eq(env_posix()->ops->mkdir(env_posix(), path), DW_OK);
  atomic_store(&next_value, 0);
  atomic_store(&next_snapshot, 0);
  atomic_store(&token, 0);
  start_cluster(path);
  start_clients(rnd);
  double end = now_s() + seconds;
  while (now_s() < end) {
    poll(NULL, 0, 50 + below(rnd, 300));
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
