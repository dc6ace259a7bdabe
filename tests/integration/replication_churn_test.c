/* Everything at once, for the sanitizers: three nodes whose roles change, that are stopped, closed, opened, wiped, cut
 * back and bootstrapped while threads write, wait, read at every consistency, iterate and ask for the status. What is
 * promised is checked at the end: every write that returned OK in sync mode is there, on all nodes.
 *
 *   main      promote, follow, rejoin, stop + close + open, wipe: at random, one after the other
 *   a crew    of threads for each open node; they end by dw_stop, as dabbawal.h asks
 *
 * DW_CHURN_MS and DW_CHURN_SEED for longer and other runs. */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/check_main.h"
#include "tests/support/cluster.h"

#define NODES 3
#define WRITERS 2
#define CREW (WRITERS + 4)
#define DEFAULT_MS 4000

static struct cluster c;
static uint64_t seed;

/* Numbers under a key of its own, going up; what was answered OK must not be lost. */
struct writer {
  char key[16];
  uint64_t next, acked;
};
static struct writer writers[NODES][WRITERS];

struct crew {
  struct cluster_node *n;
  pthread_t thread[CREW];
  atomic_bool stop;
};
static struct crew crews[NODES];
struct hand {
  struct crew *crew;
  struct writer *w;
};
static struct hand hands[NODES][CREW];

static uint64_t draw(uint64_t below) {
  seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
  return seed % below;
}

/* ---- what goes on at each node ------------------------------------------------------------------ */

static bool goes_on(const struct crew *k) {
  return !atomic_load(&k->stop);
}

static void *write_on(void *arg) {
  struct hand *h = arg;
  struct writer *w = h->w;
  char value[24];
  while (goes_on(h->crew)) {
    dw_lsn lsn;
    dw_write_options wo = {.timeout_ms = 300};
    int n = snprintf(value, sizeof value, "%llu", (unsigned long long)++w->next);
    int rc = dw_put(h->crew->n->e, &wo, w->key, strlen(w->key), value, (size_t)n, &lsn);
    if (rc == DW_OK)
      w->acked = w->next;
    else
      usleep(500);
    if (rc == DW_TIMEOUT && lsn && dw_wait(h->crew->n->e, lsn, &wo) == DW_OK) w->acked = w->next;
    ck_assert_msg(rc != DW_CORRUPT && rc != DW_IO && rc != DW_INVALID, "write: %s", dw_last_error());
  }
  return NULL;
}

static void count_down(void *arg, int rc, dw_lsn lsn) {
  (void)rc, (void)lsn;
  atomic_fetch_sub((atomic_int *)arg, 1);
}

static void *write_async_on(void *arg) {
  struct hand *h = arg;
  static atomic_int open;
  dw_batch *b = dw_batch_create();
  char filler[400];
  memset(filler, 'x', sizeof filler);
  for (unsigned i = 0; goes_on(h->crew); i++) {
    char key[24];
    int n = snprintf(key, sizeof key, "filler-%u", i % 500);
    dw_batch_clear(b);
    dw_batch_put(b, key, (size_t)n, filler, sizeof filler);
    atomic_fetch_add(&open, 1);
    if (dw_write_async(h->crew->n->e, &(dw_write_options){.mode = DW_ASYNC, .durability = DW_DURABILITY_OS}, b,
                       count_down, &open)) {
      atomic_fetch_sub(&open, 1);
      usleep(1000);
    }
    if (i % 8 == 0) usleep(1000);
  }
  dw_batch_destroy(b);
  return NULL;
}

static void *read_on(void *arg) {
  struct hand *h = arg;
  for (unsigned i = 0; goes_on(h->crew); i++) {
    dw_value v;
    dw_read_options ro = {.consistency = (dw_consistency)(i % 4), .max_staleness_ms = 100, .min_lsn = i, .wait_ms = 20};
    const char *key = writers[i % NODES][0].key;
    int rc = dw_get(h->crew->n->e, &ro, key, strlen(key), &v);
    if (rc == DW_OK) dw_value_release(&v);
    ck_assert_msg(rc == DW_OK || rc == DW_NOT_FOUND || rc == DW_STALE, "read: %s: %s", dw_rc_name(rc), dw_last_error());
  }
  return NULL;
}

static void *iterate_on(void *arg) {
  struct hand *h = arg;
  while (goes_on(h->crew)) {
    dw_iter *it;
    if (dw_iter_create(h->crew->n->e, NULL, &it)) continue;
    unsigned n = 0;
    for (dw_iter_seek_first(it); dw_iter_valid(it) && goes_on(h->crew); dw_iter_next(it))
      if (n++ % 64 == 0) usleep(1000); /* it outlives a bootstrap */
    ck_assert_int_eq(dw_iter_status(it), DW_OK);
    dw_iter_destroy(it);
  }
  return NULL;
}

static void *ask_on(void *arg) {
  struct hand *h = arg;
  dw_status *s = malloc(sizeof *s);
  while (goes_on(h->crew)) {
    dw_status_get(h->crew->n->e, s);
    ck_assert_uint_le(s->applied_lsn, s->commit_lsn);
    ck_assert_uint_le(s->commit_lsn, s->written_lsn);
    usleep(200);
  }
  free(s);
  return NULL;
}

static void man(int node) {
  static void *(*const jobs[CREW])(void *) = {write_on, write_on, write_async_on, read_on, iterate_on, ask_on};
  struct crew *k = &crews[node];
  k->n = &c.node[node];
  atomic_store(&k->stop, false);
  for (int i = 0; i < CREW; i++) {
    hands[node][i] = (struct hand){k, &writers[node][i % WRITERS]};
    ck_assert_int_eq(pthread_create(&k->thread[i], NULL, jobs[i], &hands[node][i]), 0);
  }
}

static void dismiss(int node) {
  struct crew *k = &crews[node];
  atomic_store(&k->stop, true);
  dw_stop(k->n->e);
  for (int i = 0; i < CREW; i++) pthread_join(k->thread[i], NULL);
}

/* ---- what happens to them ------------------------------------------------------------------------- */

static void reopen(int node, bool wipe) {
  struct cluster_node *n = &c.node[node];
  dismiss(node);
  node_close(n);
  if (wipe) node_wipe(n);
  if (wipe) n->opt.role = DW_FOLLOWER;
  node_follow(n, &c.node[(node + 1) % NODES]);
  node_open(n);
  man(node);
}

static bool follows_well(int node) {
  dw_status s;
  node_status(&c.node[node], &s);
  return s.role == DW_FOLLOWER && s.primary_state == DW_PEER_STREAMING;
}

static void happen(void) {
  int node = (int)draw(NODES), other = (int)((unsigned)node + 1 + draw(NODES - 1)) % NODES;
  struct cluster_node *n = &c.node[node], *o = &c.node[other];
  switch (draw(8)) {
  case 0:
  case 1:
  case 2: dw_promote(n->e, &(dw_promote_options){.timeout_ms = 700}); break;
  case 3: dw_promote(n->e, &(dw_promote_options){.timeout_ms = 700, .handover = 1}); break;
  case 4: dw_follow(n->e, o->listen); break;
  case 5: dw_rejoin(n->e, o->listen); break;
  case 6: reopen(node, false); break;
  default: /* one at a time, and only while the others have everything that was acknowledged */
    if (follows_well(node) && follows_well(3 - node - other)) reopen(node, true);
  }
  usleep((useconds_t)draw(120000));
}

/* ---- the end --------------------------------------------------------------------------------------- */

static bool streams(struct cluster_node *n, const dw_status *s, uint64_t arg) {
  (void)n, (void)arg;
  return s->role == DW_FOLLOWER && s->primary_state == DW_PEER_STREAMING;
}

static int settle(void) {
  dw_status s;
  for (int i = 0;; i++) {
    int node = i % NODES;
    node_status(&c.node[node], &s);
    if (s.role == DW_PRIMARY && s.fenced) dw_follow(c.node[node].e, NULL);
    if (dw_promote(c.node[node].e, &(dw_promote_options){.timeout_ms = 2000}) == DW_OK) {
      for (int k = 0; k < NODES; k++)
        if (k != node) dw_rejoin(c.node[k].e, c.node[node].listen);
      return node;
    }
    ck_assert_msg(i < 60, "nobody can be promoted: %s", dw_last_error());
    usleep(200000);
  }
}

static void check_acked(int node) {
  for (int i = 0; i < NODES * WRITERS; i++) {
    const struct writer *w = &writers[i / WRITERS][i % WRITERS];
    uint64_t has = strtoull(node_get(&c.node[node], NULL, w->key), NULL, 10);
    ck_assert_msg(has >= w->acked, "node %d has %llu of %s, %llu was acknowledged", node, (unsigned long long)has,
                  w->key, (unsigned long long)w->acked);
  }
}

START_TEST(roles_that_change_under_everything_lose_nothing) {
  const char *ms = getenv("DW_CHURN_MS"), *given = getenv("DW_CHURN_SEED");
  seed = given ? strtoull(given, NULL, 10) | 1 : (now_ms() << 8 | 1);
  fprintf(stderr, "DW_CHURN_SEED=%llu\n", (unsigned long long)seed);
  uint64_t end = now_ms() + (ms ? strtoull(ms, NULL, 10) : DEFAULT_MS);
  for (int i = 0; i < NODES; i++) node_open(&c.node[i]);
  await_streaming(&c.node[0], NODES - 1);
  for (int i = 0; i < NODES; i++) man(i);
  while (now_ms() < end) happen();
  for (int i = 0; i < NODES; i++) { /* writers end, the engines go on */
    dismiss(i);
    node_reopen(&c.node[i]);
  }
  int primary = settle();
  for (int i = 0; i < NODES; i++)
    if (i != primary) await_status(&c.node[i], "streaming", streams, 0);
  node_put(&c.node[primary], "last", "1");
  for (int i = 0; i < NODES; i++) {
    if (i != primary) await_same(&c.node[primary], &c.node[i]);
    check_acked(i);
    assert_equal_data(&c.node[primary], &c.node[i]);
  }
}
END_TEST

static void setup(void) {
  cluster_init(&c);
  cluster_of_three(&c);
  for (int i = 0; i < NODES; i++) {
    struct cluster_node *n = &c.node[i];
    n->opt.auto_rejoin = 1;
    n->opt.ack_timeout_ms = 1000;
    n->opt.segment_bytes = 65536;
    n->opt.retain_bytes = 65536;
    n->opt.memtable_bytes = 65536;
    n->opt.peer_timeout_ms = 2000;
    for (int k = 0; k < WRITERS; k++) snprintf(writers[i][k].key, sizeof writers[i][k].key, "w%d-%d", i, k);
  }
}

static void teardown(void) {
  cluster_free(&c);
}

int main(void) {
  Suite *s = suite_create("replication_churn");
  TCase *t = tcase_create("churn");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 600);
  tcase_add_test(t, roles_that_change_under_everything_lose_nothing);
  suite_add_tcase(s, t);
  return check_main(s);
}
