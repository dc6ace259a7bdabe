/* See cluster.h. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/support/ports.h"
#include "tests/support/cluster.h"
#include "wal/base/env.h"

/* ---- life ------------------------------------------------------------------------------------ */

static void on_line(void *arg, dw_log_level level, const char *line) {
  struct cluster_node *n = arg;
  size_t len = strlen(line);
  pthread_mutex_lock(&n->log_mu);
  if (n->log_n + len + 2 > sizeof n->log) {
    size_t half = n->log_n / 2;
    memmove(n->log, n->log + half, n->log_n - half);
    n->log_n -= half;
  }
  memcpy(n->log + n->log_n, line, len);
  n->log_n += len;
  n->log[n->log_n++] = '\n';
  n->log[n->log_n] = 0;
  pthread_mutex_unlock(&n->log_mu);
  if (getenv("DW_TEST_LOG"))
    fprintf(stderr, "[%llu node %d %d] %s\n", (unsigned long long)now_ms(), n->number, level, line);
}

void cluster_init(struct cluster *c) {
  const char *tmp = getenv("TMPDIR");
  memset(c, 0, sizeof *c);
  snprintf(c->root, sizeof c->root, "%s/dabbawal-cluster-XXXXXX", tmp && *tmp ? tmp : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(c->root));
  for (int i = 0; i < CLUSTER_NODES; i++) {
    struct cluster_node *n = &c->node[i];
    n->c = c;
    n->number = i;
    pthread_mutex_init(&n->log_mu, NULL);
    snprintf(n->dir, sizeof n->dir, "%s/node-%d", c->root, i);
    snprintf(n->listen, sizeof n->listen, "127.0.0.1:%d", test_pick_port());
    dw_options_init(&n->opt);
    n->opt.role = i == 0 ? DW_PRIMARY : DW_FOLLOWER;
    n->opt.node_id = (uint64_t)i + 1;
    n->opt.listen = i == 0 ? n->listen : NULL;
    n->opt.heartbeat_ms = 50;
    n->opt.peer_timeout_ms = 3000;
    n->opt.block_cache_bytes = 4u << 20;
    n->opt.memtable_bytes = 4u << 20;
    n->opt.segment_bytes = 1u << 20;
    n->opt.log = on_line;
    n->opt.log_arg = n;
  }
}

void cluster_of_three(struct cluster *c) {
  for (int i = 0; i < 3; i++) {
    struct cluster_node *n = &c->node[i];
    n->opt.listen = n->listen;
    n->opt.mode = DW_SYNC;
    n->opt.acks = 1;
    char others[sizeof n->peers]; /* not into the node at once: gcc at -O0 takes the nodes for overlapping */
    snprintf(others, sizeof others, "%s,%s", c->node[(i + 1) % 3].listen, c->node[(i + 2) % 3].listen);
    memcpy(n->peers, others, sizeof others);
    n->opt.peers = n->peers;
  }
}

void cluster_free(struct cluster *c) {
  for (int i = CLUSTER_NODES - 1; i >= 0; i--) {
    node_close(&c->node[i]);
    pthread_mutex_destroy(&c->node[i].log_mu);
  }
  ck_assert_int_eq(env_remove_tree(env_posix(), c->root), DW_OK);
}

int node_try_open(struct cluster_node *n) {
  ck_assert_ptr_null(n->e);
  if (n->opt.role == DW_FOLLOWER && !n->primary[0]) node_follow(n, &n->c->node[0]);
  if (n->opt.role == DW_FOLLOWER) n->opt.primary = n->primary;
  return dw_open(n->dir, &n->opt, &n->e);
}

void node_open(struct cluster_node *n) {
  int rc = node_try_open(n);
  if (rc) ck_abort_msg("node %d does not open: %s: %s", n->number, dw_rc_name(rc), dw_last_error());
  dw_status s;
  node_status(n, &s);
  n->port = s.listen_port;
  if (n->port) snprintf(n->listen, sizeof n->listen, "127.0.0.1:%u", n->port); /* the same one next time */
}

void node_close(struct cluster_node *n) {
  if (!n->e) return;
  int rc = dw_close(n->e);
  n->e = NULL;
  if (rc) ck_abort_msg("node %d does not close well: %s: %s", n->number, dw_rc_name(rc), dw_last_error());
}

void node_reopen(struct cluster_node *n) {
  node_close(n);
  node_open(n);
}

void node_wipe(struct cluster_node *n) {
  ck_assert_ptr_null(n->e);
  ck_assert_int_eq(env_remove_tree(env_posix(), n->dir), DW_OK);
}

void node_follow_port(struct cluster_node *n, uint16_t port) {
  ck_assert_uint_ne(port, 0);
  snprintf(n->primary, sizeof n->primary, "127.0.0.1:%u", port);
}

void node_follow(struct cluster_node *n, const struct cluster_node *of) {
  node_follow_port(n, of->port);
}

/* ---- writing and reading ----------------------------------------------------------------------- */

dw_lsn node_put(struct cluster_node *n, const char *key, const char *value) {
  dw_lsn lsn = 0;
  int rc = dw_put(n->e, NULL, key, strlen(key), value, strlen(value), &lsn);
  if (rc) ck_abort_msg("put of %s at node %d: %s: %s", key, n->number, dw_rc_name(rc), dw_last_error());
  return lsn;
}

struct fill {
  pthread_mutex_t mu;
  pthread_cond_t cond;
  unsigned open;
  int rc;
  dw_lsn last;
};

static void on_commit(void *arg, int rc, dw_lsn lsn) {
  struct fill *f = arg;
  pthread_mutex_lock(&f->mu);
  if (rc && !f->rc) f->rc = rc;
  if (lsn > f->last) f->last = lsn;
  f->open--;
  pthread_cond_signal(&f->cond);
  pthread_mutex_unlock(&f->mu);
}

/* Half of it does not compress. */
static void fill_value(char *value, size_t bytes, unsigned seed) {
  uint64_t x = seed * 2654435761u + 88172645463325252ull;
  for (size_t i = 0; i < bytes; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    value[i] = (char)(i % 2 ? 'a' : 33 + (x & 63));
  }
}

dw_lsn node_fill(struct cluster_node *n, unsigned from, unsigned count, size_t bytes) {
  struct fill f = {.mu = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
  char *value = malloc(bytes + 1), key[32];
  dw_batch *b = dw_batch_create();
  for (unsigned i = from; i < from + count; i++) {
    int k = snprintf(key, sizeof key, "k%08u", i);
    fill_value(value, bytes, i);
    dw_batch_clear(b);
    ck_assert_int_eq(dw_batch_put(b, key, (size_t)k, value, bytes), DW_OK);
    pthread_mutex_lock(&f.mu);
    f.open++;
    pthread_mutex_unlock(&f.mu);
    int rc = dw_write_async(n->e, NULL, b, on_commit, &f);
    if (rc) ck_abort_msg("fill of node %d: %s: %s", n->number, dw_rc_name(rc), dw_last_error());
  }
  pthread_mutex_lock(&f.mu);
  while (f.open) pthread_cond_wait(&f.cond, &f.mu);
  pthread_mutex_unlock(&f.mu);
  dw_batch_destroy(b);
  free(value);
  if (f.rc) ck_abort_msg("fill of node %d: %s", n->number, dw_rc_name(f.rc));
  return f.last;
}

const char *node_get(struct cluster_node *n, const dw_read_options *ro, const char *key) {
  static _Thread_local char text[256];
  dw_value v;
  int rc = dw_get(n->e, ro, key, strlen(key), &v);
  if (rc) return dw_rc_name(rc);
  snprintf(text, sizeof text, "%.*s", (int)v.size, v.data);
  dw_value_release(&v);
  return text;
}

uint64_t node_records(struct cluster_node *n, struct hash128 *hash) {
  dw_iter *it;
  uint64_t count = 0;
  struct hash_stream *h = hash_stream_create();
  ck_assert_int_eq(dw_iter_create(n->e, NULL, &it), DW_OK);
  for (dw_iter_seek_first(it); dw_iter_valid(it); dw_iter_next(it), count++) {
    size_t klen, vlen;
    const char *key = dw_iter_key(it, &klen), *val = dw_iter_value(it, &vlen);
    uint64_t sizes[2] = {klen, vlen};
    hash_stream_update(h, sizes, sizeof sizes);
    hash_stream_update(h, key, klen);
    hash_stream_update(h, val, vlen);
  }
  ck_assert_int_eq(dw_iter_status(it), DW_OK);
  dw_iter_destroy(it);
  *hash = hash_stream_digest(h);
  hash_stream_destroy(h);
  return count;
}

void assert_equal_data(struct cluster_node *a, struct cluster_node *b) {
  struct hash128 ha, hb;
  uint64_t na = node_records(a, &ha), nb = node_records(b, &hb);
  ck_assert_msg(na == nb, "node %d has %llu records, node %d has %llu", a->number, (unsigned long long)na, b->number,
                (unsigned long long)nb);
  ck_assert_msg(hash128_eq(&ha, &hb), "nodes %d and %d hold different data", a->number, b->number);
}

/* ---- waiting ----------------------------------------------------------------------------------- */

uint64_t now_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void poll_pause(void) {
  nanosleep(&(struct timespec){0, 1000000}, NULL);
}

void node_status(struct cluster_node *n, dw_status *s) {
  ck_assert_int_eq(dw_status_get(n->e, s), DW_OK);
}

bool node_as_follower(struct cluster_node *at, const struct cluster_node *of, dw_follower_status *f) {
  dw_status s;
  node_status(at, &s);
  for (uint32_t i = 0; i < s.follower_count; i++) {
    if (s.followers[i].node_id != of->opt.node_id) continue;
    *f = s.followers[i];
    return true;
  }
  return false;
}

static void give_up(struct cluster_node *n, const char *what) {
  for (int i = 0; i < CLUSTER_NODES; i++) {
    struct cluster_node *o = &n->c->node[i];
    dw_status s;
    pthread_mutex_lock(&o->log_mu);
    size_t at = o->log_n > 2000 ? o->log_n - 2000 : 0;
    if (o->log_n) fprintf(stderr, "--- node %d\n%s", i, o->log + at);
    pthread_mutex_unlock(&o->log_mu);
    if (!o->e) continue;
    node_status(o, &s);
    fprintf(stderr,
            "    written %llu durable %llu commit %llu applied %llu persisted %llu oldest %llu primary_state %d "
            "followers %u error '%s'\n",
            (unsigned long long)s.written_lsn, (unsigned long long)s.durable_lsn, (unsigned long long)s.commit_lsn,
            (unsigned long long)s.applied_lsn, (unsigned long long)s.persisted_lsn, (unsigned long long)s.oldest_lsn,
            (int)s.primary_state, s.follower_count, s.error);
  }
  ck_abort_msg("node %d: waited in vain for: %s", n->number, what);
}

void await_status(struct cluster_node *n, const char *what, status_fn fn, uint64_t arg) {
  dw_status s;
  for (uint64_t until = now_ms() + AWAIT_MS; now_ms() < until; poll_pause()) {
    node_status(n, &s);
    if (fn(n, &s, arg)) return;
  }
  give_up(n, what);
}

static bool is_streaming(struct cluster_node *n, const dw_status *s, uint64_t followers) {
  uint64_t count = 0;
  (void)n;
  for (uint32_t i = 0; i < s->follower_count; i++) count += s->followers[i].state == DW_PEER_STREAMING;
  return count == followers;
}
void await_streaming(struct cluster_node *n, unsigned followers) {
  await_status(n, "so many streaming followers", is_streaming, followers);
}

static bool has_applied(struct cluster_node *n, const dw_status *s, uint64_t lsn) {
  (void)n;
  return s->applied_lsn >= lsn;
}
void await_applied(struct cluster_node *n, dw_lsn lsn) {
  char what[64];
  snprintf(what, sizeof what, "LSN %llu applied", (unsigned long long)lsn);
  await_status(n, what, has_applied, lsn);
}

void await_same(struct cluster_node *primary, struct cluster_node *follower) {
  dw_status s;
  node_status(primary, &s);
  await_applied(follower, s.commit_lsn);
}

static bool in_state(struct cluster_node *n, const dw_status *s, uint64_t state) {
  (void)n;
  return s->primary_state == (dw_peer_state)state;
}
void await_primary_state(struct cluster_node *n, dw_peer_state state) {
  await_status(n, "state of the link to the primary", in_state, (uint64_t)state);
}

bool node_logged(struct cluster_node *n, const char *text) {
  pthread_mutex_lock(&n->log_mu);
  bool there = strstr(n->log, text) != NULL;
  pthread_mutex_unlock(&n->log_mu);
  return there;
}

void await_log(struct cluster_node *n, const char *text) {
  for (uint64_t until = now_ms() + AWAIT_MS; now_ms() < until; poll_pause())
    if (node_logged(n, text)) return;
  give_up(n, text);
}

void node_forget_log(struct cluster_node *n) {
  pthread_mutex_lock(&n->log_mu);
  n->log_n = 0;
  n->log[0] = 0;
  pthread_mutex_unlock(&n->log_mu);
}
