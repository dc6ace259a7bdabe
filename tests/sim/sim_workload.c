/* Writers and readers. Writers send to the primary, as often as the plan says, with needs of every kind; readers ask
 * any node at all four consistencies, keep iterators for a while, and check what they get at once. */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/status.h"

typedef unsigned long long ull;

/* ---- writers --------------------------------------------------------------------------------- */

static void answered(void *arg, int rc, dw_lsn lsn) {
  struct wreq *q = arg;
  const struct sim_node *n = &q->w->node[q->node];
  if (!node_up(n) || n->life != q->life) return; /* said by a process that is dead: nobody heard it */
  check_answer(q->w, q, rc, lsn);
}

static void draw_needs(struct world *w, dw_write_options *wo) {
  struct rng *r = &w->r_work;
  *wo = (dw_write_options){0};
  if (rng_percent(r, w->plan.default_pct)) return;
  wo->mode = (dw_mode)rng_below(r, 4);
  wo->ack = (dw_ack)rng_below(r, 4);
  wo->acks = rng_percent(r, 70) ? 0 : (uint32_t)rng_between(r, 1, 2);
  wo->durability = (dw_durability)rng_below(r, 3);
  wo->timeout_ms = rng_percent(r, 70) ? 0 : (uint32_t)rng_between(r, 5, 2000);
}

static void draw_ops(struct world *w, struct wreq *q) {
  struct rng *r = &w->r_work;
  q->ops = (unsigned)rng_between(r, 1, w->plan.batch_max);
  for (unsigned i = 0; i < q->ops; i++) {
    q->op[i].key = (uint8_t)rng_below(r, SIM_KEYS);
    uint32_t bytes = (uint32_t)rng_below(r, w->plan.value_max + 1);
    if (rng_ppm(r, w->plan.big_ppm)) bytes = (uint32_t)rng_between(r, 60000, 200000);
    q->op[i].value = rng_percent(r, 15) ? 0 : model_value_new(w, bytes);
  }
}

static dw_batch *batch_of(const struct world *w, const struct wreq *q) {
  dw_batch *b = dw_batch_create();
  for (unsigned i = 0; i < q->ops; i++) {
    char key[8];
    int klen = snprintf(key, sizeof key, "k%02u", q->op[i].key);
    uint32_t n = w->values[q->op[i].value].bytes;
    uint8_t *val = malloc(n + 1);
    if (q->op[i].value) model_value_bytes(w, q->op[i].value, val);
    int rc = q->op[i].value ? dw_batch_put(b, key, (size_t)klen, val, n) : dw_batch_delete(b, key, (size_t)klen);
    free(val);
    if (rc) break;
  }
  return b;
}

static void write_one(struct world *w, struct sim_node *n) {
  struct wreq *q = calloc(1, sizeof *q);
  *q = (struct wreq){
      .w = w, .id = ++w->next_req, .node = n->idx, .life = n->life, .at_ns = w->now, .at_mono = node_mono(n)};
  draw_needs(w, &q->wo);
  draw_ops(w, q);
  model_request(w, q);
  q->next_pending = w->pending;
  w->pending = q;
  w->st.writes++;
  world_trace(w, n, "write %u: %u operations, mode %d ack %d acks %u durability %d timeout %u ms", q->id, q->ops,
              (int)q->wo.mode, (int)q->wo.ack, q->wo.acks, (int)q->wo.durability, q->wo.timeout_ms);
  dw_batch *b = batch_of(w, q);
  int rc = lease_refuses(w, n, &q->wo) ? DW_NOT_ENOUGH_FOLLOWERS : dw_write_async(n->e, &q->wo, b, answered, q);
  dw_batch_destroy(b);
  if (rc == DW_OK) return;
  q->state = WRITE_NOT_DONE;
  w->st.not_done++;
  world_trace(w, n, "write %u is refused: %s", q->id, dw_rc_name(rc));
}

static void prune(struct world *w) {
  for (struct wreq **at = &w->pending; *at;)
    if ((*at)->state != WRITE_PENDING)
      *at = (*at)->next_pending;
    else
      at = &(*at)->next_pending;
}

/* Mostly the newest primary; some clients have not heard, and talk to whoever says that he is one. */
static struct sim_node *write_target(struct world *w) {
  if (w->plan.promotions && rng_percent(&w->r_work, 25)) {
    struct sim_node *n = &w->node[rng_below(&w->r_work, w->plan.nodes)];
    if (node_up(n) && n->role == DW_PRIMARY) return n;
  }
  return &w->node[w->primary];
}

static void write_event(struct world *w, struct sim_node *none, void *arg) {
  struct sim_node *n = write_target(w);
  (void)none, (void)arg;
  if (w->healing) return;
  prune(w);
  check_pending(w);
  if (node_up(n)) {
    unsigned count = (unsigned)rng_between(&w->r_work, 1, w->plan.burst);
    for (unsigned i = 0; i < count; i++) write_one(w, n);
    node_kick(w, n);
  }
  world_at(w, w->now + rng_skewed(&w->r_work, 1000, 4 * w->plan.write_gap_ns), NULL, write_event, NULL);
}

/* ---- readers --------------------------------------------------------------------------------- */

static void compare(struct world *w, struct sim_node *n, const struct rec *at, unsigned k, int rc,
                    const dw_value *got) {
  uint32_t v = at ? at->state[k] : 0;
  if (rc == DW_NOT_FOUND) {
    if (v) world_violation(w, n, "state", "key k%02u is not found, it is there at LSN %llu", k, (ull)at->last_lsn);
    return;
  }
  if (!v)
    world_violation(w, n, "state", "key k%02u is found, it is not there at LSN %llu", k, at ? (ull)at->last_lsn : 0ull);
  uint8_t *want = malloc(w->values[v].bytes + 1);
  model_value_bytes(w, v, want);
  if (got->size != w->values[v].bytes || memcmp(got->data, want, got->size))
    world_violation(w, n, "state", "key k%02u has another value than at LSN %llu", k, (ull)at->last_lsn);
  free(want);
}

/* What had been committed at true time `at`, as far as n can know: by the primary that it follows, or before that one
 * began its epoch. Of what a newer primary commits, one that has not heard of it can know nothing. */
static struct rec *committed_at(struct world *w, struct sim_node *n, uint64_t at) {
  const struct sim_node *p = roles_root(w, n);
  const struct begun *b = p && p->tail ? epochs_find(w, p->tail->epoch) : NULL;
  if (!b) return NULL;
  for (size_t i = w->history_n; i-- > 0;) {
    const struct committed_at *c = &w->history[i];
    if (c->at <= at && (c->by == p->idx || c->at < b->at) && model_before(w, c->rec, p->tail)) return c->rec;
  }
  return NULL;
}

/* `must` is to be visible at n, unless the primary itself has lost it (which other invariants judge). */
static void must_see(struct world *w, struct sim_node *n, struct rec *must, const struct rec *at, const char *what) {
  const struct sim_node *p = roles_root(w, n);
  if (!p) return;
  while (must && !must->commits) must = must->parent; /* an epoch record is nothing to see */
  if (!must || (at && model_before(w, must, at))) return;
  if (p->tail && !model_before(w, must, p->tail)) return;
  world_violation(w, n, what, "LSN %llu has to be visible, applied is LSN %llu", (ull)must->last_lsn,
                  at ? (ull)at->last_lsn : 0ull);
}

static void read_key(struct world *w, struct sim_node *n, const dw_read_options *ro, struct rec *must,
                     const char *what) {
  char key[8];
  dw_value got = {0};
  unsigned k = (unsigned)rng_below(&w->r_work, SIM_KEYS);
  int klen = snprintf(key, sizeof key, "k%02u", k);
  int rc = dw_get(n->e, ro, key, (size_t)klen, &got);
  w->st.reads++;
  if (n->fenced && ro && (ro->consistency == DW_BOUNDED || ro->consistency == DW_STRONG) && rc != DW_STALE)
    world_violation(w, n, "fenced", "a fenced primary answers a %s read: %s",
                    ro->consistency == DW_BOUNDED ? "bounded" : "strong", dw_rc_name(rc));
  if (rc == DW_STALE) {
    w->st.stale++;
    return;
  }
  if (rc != DW_OK && rc != DW_NOT_FOUND) world_violation(w, n, "reads", "%s: %s", dw_rc_name(rc), dw_last_error());
  struct rec *at = check_applied(w, n);
  compare(w, n, at, k, rc, &got);
  if (rc == DW_OK) dw_value_release(&got);
  must_see(w, n, must, at, what);
}

static void read_bounded(struct world *w, struct sim_node *n) {
  dw_read_options ro = {.consistency = DW_BOUNDED, .max_staleness_ms = rng_skewed(&w->r_work, 1, 3000)};
  uint64_t bound = (uint64_t)((__int128)ro.max_staleness_ms * MS * 1000000 / (1000000 + n->rate_ppm)) + 1000;
  uint64_t at = w->now - bound;
  struct rec *must = w->topology_ns && w->topology_ns >= at ? NULL : committed_at(w, n, at);
  read_key(w, n, &ro, must, "bounded staleness");
}

static void read_session(struct world *w, struct sim_node *n) {
  struct wreq *q = w->reqs; /* the newest first */
  for (uint64_t skip = rng_below(&w->r_work, 8); q && (q->state != WRITE_OK || skip); q = q->next) skip -= skip > 0;
  if (!q) return;
  /* A follower that has applied what the primary lost knows LSNs of another history: docs/simulation.md. */
  const struct sim_node *p = roles_root(w, n);
  if (q->lost || !p || !p->tail || (n->applied && !model_before(w, n->applied, p->tail))) return;
  dw_read_options ro = {.consistency = DW_SESSION, .min_lsn = q->lsn};
  read_key(w, n, &ro, q->rec, "session token");
}

static void read_strong(struct world *w, struct sim_node *n) {
  if (n->role == DW_PRIMARY) {
    read_key(w, n, &(dw_read_options){.consistency = DW_STRONG}, committed_at(w, n, w->now), "strong read");
    return;
  }
  if (!node_driver(n)) return;
  struct sim_strong *s = calloc(1, sizeof *s);
  if (strong_begin(node_driver(n), &s->wait)) {
    free(s);
    return;
  }
  s->goal = committed_at(w, n, w->now);
  s->began_ns = w->now;
  s->until_ns = w->now + rng_between(&w->r_work, 20 * MS, 2 * SEC);
  s->next = n->strongs;
  n->strongs = s;
}

void workload_poll(struct world *w, struct sim_node *n) {
  for (struct sim_strong **at = &n->strongs; *at;) {
    struct sim_strong *s = *at;
    dw_lsn lsn = 0;
    bool done = strong_poll(node_driver(n), &s->wait, &lsn);
    struct rec *seen = check_applied(w, n);
    bool reached = done && (seen ? seen->last_lsn : 0) >= lsn;
    if (!reached && w->now < s->until_ns) {
      at = &s->next;
      continue;
    }
    struct rec *goal = w->topology_ns && w->topology_ns >= s->began_ns ? NULL : s->goal;
    if (reached) read_key(w, n, &(dw_read_options){.consistency = DW_SESSION, .min_lsn = lsn}, goal, "strong read");
    strong_end(node_driver(n), &s->wait);
    *at = s->next;
    free(s);
  }
}

static void iter_event(struct world *w, struct sim_node *n, void *arg) {
  struct sim_iter *it = arg;
  if (!node_up(n)) return;
  check_iterator(w, n, it->it, it->at);
  dw_iter_destroy(it->it);
  for (struct sim_iter **at = &n->iters; *at; at = &(*at)->next)
    if (*at == it) {
      *at = it->next;
      break;
    }
  free(it);
}

static void iterate(struct world *w, struct sim_node *n) {
  struct sim_iter *it = calloc(1, sizeof *it);
  if (dw_iter_create(n->e, NULL, &it->it)) world_violation(w, n, "reads", "no iterator: %s", dw_last_error());
  it->at = check_applied(w, n);
  it->next = n->iters;
  n->iters = it;
  w->st.iterators++;
  world_at(w, w->now + rng_skewed(&w->r_work, 1, 3 * SEC), n, iter_event, it);
}

static void read_event(struct world *w, struct sim_node *none, void *arg) {
  struct sim_node *n = &w->node[rng_below(&w->r_work, w->plan.nodes)];
  (void)none, (void)arg;
  if (node_up(n) && n->freeze_ns <= w->now) {
    switch (rng_below(&w->r_work, 6)) {
    case 0: read_key(w, n, NULL, NULL, "eventual"); break;
    case 1:
    case 2: read_bounded(w, n); break;
    case 3: read_session(w, n); break;
    case 4: read_strong(w, n); break;
    default: iterate(w, n);
    }
  }
  if (!w->healing) world_at(w, w->now + rng_skewed(&w->r_work, 1000, 4 * w->plan.read_gap_ns), NULL, read_event, NULL);
}

/* ---- both ------------------------------------------------------------------------------------ */

void workload_start(struct world *w) {
  world_at(w, w->now + 50 * MS, NULL, write_event, NULL);
  world_at(w, w->now + 60 * MS, NULL, read_event, NULL);
}

void workload_node_gone(struct world *w, struct sim_node *n) {
  for (struct wreq *q = w->pending; q; q = q->next_pending)
    if (q->state == WRITE_PENDING && q->node == n->idx) {
      q->state = WRITE_DOUBT;
      w->st.doubt++;
    }
  while (n->iters) {
    struct sim_iter *it = n->iters;
    n->iters = it->next;
    dw_iter_destroy(it->it);
    free(it);
  }
  while (n->strongs) {
    struct sim_strong *s = n->strongs;
    n->strongs = s->next;
    strong_end(node_driver(n), &s->wait);
    free(s);
  }
}

bool workload_idle(const struct world *w) {
  for (const struct wreq *q = w->pending; q; q = q->next_pending)
    if (q->state == WRITE_PENDING) return false;
  return true;
}
