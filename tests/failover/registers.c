/* Clients of a few registers, at all nodes and levels, while primaries come and go. Writers go to whoever takes writes;
 * a reader stays at its node, also while that is cut off or stopped: what it is answered then counts.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/failover/failover.h"
#include "tests/support/register_log.h"
#include "tests/support/registers.h"

#define KEYS 8
#define REGISTER_WRITERS 3
#define READERS_PER_NODE 2
#define CLIENT_COUNT (REGISTER_WRITERS + NODES * READERS_PER_NODE)
#define PATIENCE_MS 1000
#define BREATH_MS 3

struct client {
  pthread_t thread;
  struct register_client r;
};
static struct client clients[CLIENT_COUNT];
static struct register_set set;
static atomic_bool over;

static bool connected(struct register_client *c) {
  if (c->wire.fd >= 0) return true;
  c->life = node_life(c->node);
  return wire_open_to(&c->wire, node[c->node].host, node[c->node].resp_port, PATIENCE_MS) &&
         node_life(c->node) == c->life;
}

static void *run_writer(void *arg) {
  struct register_client *c = arg;
  while (!atomic_load(&over)) {
    bool there = connected(c);
    if (there) register_write(c);
    if (!there || c->wire.fd < 0 || c->elsewhere) {
      wire_close(&c->wire);
      c->node = (c->node + 1) % NODES;
    }
    poll(NULL, 0, BREATH_MS);
  }
  wire_free(&c->wire);
  return NULL;
}

static void *run_reader(void *arg) {
  struct register_client *c = arg;
  while (!atomic_load(&over)) {
    if (!connected(c) || !register_read(c)) wire_close(&c->wire);
    poll(NULL, 0, BREATH_MS);
  }
  wire_free(&c->wire);
  return NULL;
}

void registers_start(void) {
  register_set_init(&set, KEYS);
  for (int i = 0; i < CLIENT_COUNT; i++) {
    struct register_client *c = &clients[i].r;
    c->set = &set;
    c->roles_change = true;
    c->node = i % NODES;
    c->rnd = register_now_ns() ^ (uint64_t)i << 32;
    c->wire = WIRE_INIT;
    ck_assert_int_eq(pthread_create(&clients[i].thread, NULL, i < REGISTER_WRITERS ? run_writer : run_reader, c), 0);
  }
}

void registers_stop(void) {
  atomic_store(&over, true);
  for (int i = 0; i < CLIENT_COUNT; i++) pthread_join(clients[i].thread, NULL);
}

static struct event *gather(size_t *count) {
  size_t n = 0;
  for (int i = 0; i < CLIENT_COUNT; i++) n += clients[i].r.count;
  struct event *all = malloc((n + 1) * sizeof *all);
  ck_assert_ptr_nonnull(all);
  *count = 0;
  for (int i = 0; i < CLIENT_COUNT; i++) {
    memcpy(all + *count, clients[i].r.events, clients[i].r.count * sizeof *all);
    *count += clients[i].r.count;
    free(clients[i].r.events);
  }
  return all;
}

static void show(const struct event *events, size_t n) {
  unsigned long ends[3] = {0}, reads[5] = {0}, stale = 0;
  for (size_t i = 0; i < n; i++) {
    if (events[i].kind == EVENT_WRITE)
      ends[events[i].end]++;
    else
      reads[events[i].kind]++;
  }
  for (int i = 0; i < CLIENT_COUNT; i++) stale += clients[i].r.stale;
  printf("history of %d registers: %lu writes, %lu in doubt, %lu refused; reads: %lu STRONG, %lu BOUNDED, %lu SESSION, "
         "%lu EVENTUAL, %lu answered STALE\n",
         KEYS, ends[END_OK], ends[END_IN_DOUBT], ends[END_REFUSED], reads[EVENT_STRONG], reads[EVENT_BOUNDED],
         reads[EVENT_SESSION], reads[EVENT_EVENTUAL], stale);
  ck_assert_uint_gt(ends[END_OK], 100); /* or it tested nothing */
  for (int i = EVENT_STRONG; i <= EVENT_EVENTUAL; i++) ck_assert_uint_gt(reads[i], 100);
}

bool registers_judge(const char *log_dir) {
  static char why[800];
  size_t n;
  for (int i = 0; i < CLIENT_COUNT; i++)
    if (clients[i].r.wrong[0]) {
      fprintf(stderr, "failover: a client at node %d: %s\n", clients[i].r.node + 1, clients[i].r.wrong);
      return false;
    }
  struct event *events = gather(&n);
  show(events, n);
  bool good = register_lsns(log_dir, &set, events, n, why, sizeof why) && judge_history(events, n, why, sizeof why);
  if (good)
    printf("the history is one that the promises allow\n");
  else
    fprintf(stderr, "failover: the history is not allowed: %s\n", why);
  free(events);
  return good;
}
