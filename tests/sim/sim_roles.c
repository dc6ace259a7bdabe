/* Promotions, handovers, nodes that are pointed elsewhere; and the operator's part in them.
 *
 * What goes wrong: a follower is promoted while the primary is dead, cut off (one way or both), frozen (SIGSTOP) and
 * awake again later, or alive and well; two at once; a handover under load, cut off at any moment by a crash, a power
 * cut, a partition, a failing disk, another promotion; old primaries that come back with or without knowing; followers
 * of the wrong node, of each other, of nobody.
 *
 * The operator promotes the node with the longest log when nobody can serve, lets the others follow, and lets go only
 * of what the newest primary can't take back (faults_operate). He never forces a promotion, unless too few nodes have
 * data.
 */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/status.h"

typedef unsigned long long ull;

#define NOBODY (-1)

static bool has_data(const struct sim_node *n) {
  return n->tail && n->tail->epoch;
}

/* ---- what nodes say ---------------------------------------------------------------------------- */

static void role_seen(struct world *w, struct sim_node *n, dw_role role) {
  if (n->role == role) return;
  world_trace(w, n, "is a %s now", role == DW_PRIMARY ? "primary" : "follower");
  w->st.demotions += role == DW_FOLLOWER;
  n->role = role;
  n->role_ns = w->topology_ns = w->now;
  n->commit = NULL;
  n->semi_unacked = 0;
}

static void follows(struct world *w, struct sim_node *n) {
  const struct node *d = node_driver(n);
  int up = d && n->role == DW_FOLLOWER ? d->primary[0] ? d->primary[1] - '0' : NOBODY : n->upstream;
  if (up == n->upstream) return;
  world_trace(w, n, "follows n%d", up);
  n->upstream = up;
  w->topology_ns = w->now;
}

void roles_look(struct world *w, struct sim_node *n) {
  struct engine_identity id;
  struct engine_promise promise;
  engine_identity(n->e, &id);
  engine_promised(n->e, &promise);
  if (promise.epoch < n->promised)
    world_violation(w, n, "a promise is kept", "epoch %llu was promised, now it says %llu", (ull)n->promised,
                    (ull)promise.epoch);
  n->promised = promise.epoch;
  role_seen(w, n, id.role);
  follows(w, n);
  if (promise.fenced && !n->fenced) {
    world_trace(w, n, "is fenced");
    w->st.fencings++;
  }
  n->fenced = promise.fenced;
}

struct sim_node *roles_root(struct world *w, struct sim_node *n) {
  for (unsigned hops = 0; hops <= w->plan.nodes; hops++) {
    if (n->role == DW_PRIMARY) return n;
    if (n->upstream < 0) return NULL;
    n = &w->node[n->upstream];
  }
  return NULL; /* a circle */
}

bool roles_newest(const struct world *w, const struct sim_node *p) {
  if (!node_up(p) || p->role != DW_PRIMARY || p->fenced || !p->tail) return false;
  for (unsigned i = 0; i < w->plan.nodes; i++) {
    const struct sim_node *n = &w->node[i];
    if (n->tail && n->tail->epoch > p->tail->epoch) return false;
    /* Under a coordinator nobody but the node itself, once it streams, tells the primary of a promise that came to
     * nothing. */
    if (n->promised > p->tail->epoch && !w->lease) return false;
  }
  return true;
}

/* Settings are often older than the last promotion; a directory with data goes by its history. */
dw_role roles_configured(struct world *w, const struct sim_node *n) {
  if (!w->plan.promotions || !has_data(n) || w->healing || !rng_percent(&w->r_role, 20)) return n->role;
  return n->role == DW_PRIMARY ? DW_FOLLOWER : DW_PRIMARY;
}

/* ---- asking ---------------------------------------------------------------------------------- */

static bool ask(struct world *w, struct sim_node *n, const struct role_request *what) {
  if (!node_up(n) || n->asking || n->freeze_ns > w->now) return false;
  n->ask = *what;
  if (role_begin(node_driver(n), &n->ask)) return false;
  n->asking = true;
  n->ask_ns = w->now;
  n->ask_limit_ns = (what->opt.timeout_ms ? what->opt.timeout_ms : 5000) * MS * 2 + 10 * SEC;
  w->st.promotions_asked += what->promote && !what->opt.handover;
  w->st.handovers_asked += what->promote && what->opt.handover;
  if (what->promote)
    world_trace(w, n, "is asked to be promoted%s%s, within %u ms", what->opt.handover ? ", by handover" : "",
                what->opt.force ? ", forced" : "", what->opt.timeout_ms);
  else
    world_trace(w, n, "is asked to %s %s", what->rejoin ? "rejoin" : "follow",
                what->primary[0] ? what->primary : "nobody");
  n->told_rejoin |= what->rejoin;
  return true;
}

bool roles_promote(struct world *w, struct sim_node *n, bool handover) {
  static const uint32_t times[] = {200, 1000, 3000, 0};
  struct role_request r = {.promote = true};
  if (n->role != DW_FOLLOWER || !has_data(n)) return false;
  r.opt.handover = handover;
  r.opt.timeout_ms = times[rng_below(&w->r_role, 4)];
  r.opt.max_lag_ms = rng_percent(&w->r_role, 20) ? 2000 : 0;
  return ask(w, n, &r);
}

static bool ask_follow(struct world *w, struct sim_node *n, const struct sim_node *whom) {
  struct role_request r = {0};
  if (whom) snprintf(r.primary, sizeof r.primary, "%s", whom->listen);
  if (!ask(w, n, &r)) return false;
  w->st.refollows++;
  return true;
}

bool roles_rejoin(struct world *w, struct sim_node *n, const struct sim_node *whom) {
  struct role_request r = {.rejoin = true};
  snprintf(r.primary, sizeof r.primary, "%s", whom->listen);
  return ask(w, n, &r);
}

static void promoted(struct world *w, struct sim_node *n) {
  w->st.promotions += !n->ask.opt.handover;
  w->st.handovers += n->ask.opt.handover != 0;
  w->st.forced += n->ask.opt.force != 0;
  if (n->role != DW_PRIMARY || n->fenced || !n->tail) return; /* beaten since */
  w->primary = n->idx;
  w->primary_epoch = n->tail->epoch;
}

void roles_poll(struct world *w, struct sim_node *n) {
  int rc;
  lease_poll(w, n);
  if (!n->asking || !node_up(n)) return;
  if (!role_poll(node_driver(n), &n->ask, &rc)) {
    if (w->now > n->ask_ns + n->ask_limit_ns && w->now > n->freeze_ns + 10 * SEC)
      world_violation(w, n, "a change of roles ends", "what was asked %.3f s ago is not done",
                      (double)(w->now - n->ask_ns) / 1e9);
    return;
  }
  world_trace(w, n, "%s: %s%s%s", n->ask.promote ? "promotion" : "following", dw_rc_name(rc), rc ? ": " : "",
              rc ? dw_last_error() : "");
  role_end(node_driver(n), &n->ask);
  n->asking = false;
  if (rc == DW_OK) n->told_rejoin = n->ask.rejoin;
  if (rc == DW_OK && n->ask.promote) promoted(w, n);
}

/* Its process dies, and answers nobody. */
void roles_gone(struct sim_node *n) {
  n->asking = false;
  n->fenced = false;
  if (n->freeze_ns) n->stall_ns = 0;
  n->freeze_ns = 0;
}

void roles_wiped(struct world *w, struct sim_node *n) {
  lease_gone(w, n);
  if (n->promised > n->forgot) n->forgot = n->promised;
  n->promised = 0;
  for (struct rec *r = w->recs; r; r = r->all_next) r->kept = (uint16_t)(r->kept & ~(1u << n->idx));
  if (n->role == DW_PRIMARY) w->topology_ns = w->now;
  n->role = DW_FOLLOWER;
  if (w->primary != n->idx)
    n->upstream = w->primary;
  else if (n->upstream < 0)
    n->upstream = (n->idx + 1) % (int)w->plan.nodes;
}

bool roles_may_wipe(const struct world *w, const struct sim_node *n) {
  for (unsigned i = 0; i < w->plan.nodes; i++)
    if (&w->node[i] != n && has_data(&w->node[i])) return true;
  return false;
}

/* ---- what goes wrong --------------------------------------------------------------------------- */

static struct sim_node *draw_node(struct world *w) {
  return &w->node[rng_below(&w->r_role, w->plan.nodes)];
}

static struct sim_node *draw_follower(struct world *w, const struct sim_node *except) {
  for (int i = 0; i < 8; i++) {
    struct sim_node *n = draw_node(w);
    if (n != except && node_up(n) && n->role == DW_FOLLOWER) return n;
  }
  return NULL;
}

static void freeze(struct world *w, struct sim_node *n) {
  if (!node_up(n)) return;
  n->stall_ns = n->freeze_ns = w->now + rng_skewed(&w->r_role, 50 * MS, 6 * SEC);
  w->st.freezes++;
  world_trace(w, n, "is frozen for %.3f s", (double)(n->freeze_ns - w->now) / 1e9);
}

void roles_isolate(struct world *w, const struct sim_node *n) {
  uint64_t until = w->now + rng_skewed(&w->r_role, 50 * MS, 6 * SEC);
  unsigned how = (unsigned)rng_below(&w->r_role, 4); /* both ways, one way, the other, or it keeps one friend */
  unsigned friend = (unsigned)rng_below(&w->r_role, w->plan.nodes);
  for (unsigned i = 0; i < w->plan.nodes; i++) {
    if ((int)i == n->idx || (how == 3 && i == friend)) continue;
    if (how != 1) w->blocked_until[n->idx][i] = until;
    if (how != 2) w->blocked_until[i][n->idx] = until;
  }
  w->st.partitions++;
  world_trace(w, n, "is cut off, %s, for %.3f s",
              how == 1   ? "it sends only"
              : how == 2 ? "it hears only"
              : how == 3 ? "but from one"
                         : "both ways",
              (double)(until - w->now) / 1e9);
}

void roles_kill(struct world *w, struct sim_node *n) {
  if (!node_up(n)) return;
  switch (rng_below(&w->r_role, 3)) {
  case 0: node_kill(w, n, w->plan.power && rng_percent(&w->r_role, 50)); break;
  case 1:
    n->cutting = w->plan.power && rng_percent(&w->r_role, 50);
    disk_kill_after(n->disk, (uint32_t)rng_between(&w->r_role, 1, 40));
    break;
  default: node_stop_cleanly(w, n);
  }
}

static void promote_event(struct world *w, struct sim_node *none, void *arg) {
  struct sim_node *n = arg;
  (void)none;
  if (!w->healing) roles_promote(w, n, false);
}

void roles_promote_soon(struct world *w, uint64_t within_ns) {
  struct sim_node *n = draw_follower(w, NULL);
  if (n) world_at(w, w->now + rng_skewed(&w->r_role, 1000, within_ns), NULL, promote_event, n);
}

/* In the middle of a change of roles. arg: the node that it happens to. */
static void trouble_event(struct world *w, struct sim_node *none, void *arg) {
  struct sim_node *n = arg, *other;
  (void)none;
  if (w->healing) return;
  switch (rng_below(&w->r_role, 6)) {
  case 0:
  case 1: roles_kill(w, n); break;
  case 2: roles_isolate(w, n); break;
  case 3:
    if (w->plan.disk_errors || w->plan.full) faults_disk(w, n, !w->plan.disk_errors);
    break;
  case 4: freeze(w, n); break;
  default:
    other = draw_follower(w, n);
    if (other) roles_promote(w, other, false);
  }
}

static void trouble_soon(struct world *w, struct sim_node *n) {
  world_at(w, w->now + rng_skewed(&w->r_role, 1000, 400 * MS), NULL, trouble_event, n);
}

void roles_hand_over(struct world *w) {
  struct sim_node *n = draw_follower(w, NULL);
  if (!n || !roles_promote(w, n, true)) return;
  if (rng_percent(&w->r_role, 60)) trouble_soon(w, rng_percent(&w->r_role, 50) ? n : &w->node[w->primary]);
}

static void two_at_once(struct world *w) {
  struct sim_node *a = draw_follower(w, NULL), *b = draw_follower(w, a);
  if (!a || !b) return;
  roles_promote(w, a, false);
  if (rng_percent(&w->r_role, 50))
    roles_promote(w, b, false);
  else
    world_at(w, w->now + rng_skewed(&w->r_role, 1000, 100 * MS), NULL, promote_event, b);
  if (rng_percent(&w->r_role, 30)) trouble_soon(w, rng_percent(&w->r_role, 50) ? a : b);
}

static void point_elsewhere(struct world *w) {
  struct sim_node *n = draw_node(w), *whom = draw_node(w);
  if (n == whom || (n->role == DW_PRIMARY && rng_percent(&w->r_role, 70))) return;
  ask_follow(w, n, rng_percent(&w->r_role, 10) ? NULL : whom);
}

void roles_primary_lost(struct world *w) {
  struct sim_node *p = &w->node[w->primary];
  if (!roles_may_wipe(w, p) || p->on_stack || p->state == NODE_OPENING || p->state == NODE_CLOSING) return;
  world_trace(w, p, "the primary is lost");
  faults_wipe(w, p);
  w->st.failovers++;
  roles_promote_soon(w, 2 * SEC);
}

static void role_event(struct world *w, struct sim_node *none, void *arg) {
  struct sim_node *p = &w->node[w->primary];
  (void)none, (void)arg;
  if (w->healing) return;
  switch (rng_below(&w->r_role, 10)) {
  case 0: roles_promote_soon(w, 1000); break;
  case 1:
  case 2: two_at_once(w); break;
  case 3:
  case 4: roles_hand_over(w); break;
  case 5:
    roles_kill(w, p);
    roles_promote_soon(w, 1 * SEC);
    break;
  case 6:
    roles_isolate(w, p);
    roles_promote_soon(w, 2 * SEC);
    break;
  case 7:
    freeze(w, p);
    roles_promote_soon(w, 2 * SEC);
    break;
  case 8: point_elsewhere(w); break;
  default:
    if (w->plan.wipes && rng_percent(&w->r_role, 30))
      roles_primary_lost(w);
    else
      trouble_soon(w, draw_node(w));
  }
  world_at(w, w->now + rng_skewed(&w->r_role, 1000, 4 * w->plan.role_gap_ns), NULL, role_event, NULL);
}

void roles_start(struct world *w) {
  if (w->plan.promotions && w->plan.fault_gap_ns && !w->lease) world_at(w, w->now + 300 * MS, NULL, role_event, NULL);
}

/* ---- the operator ------------------------------------------------------------------------------ */

/* Who serves? The newest that says so, never an older one than he has seen. */
static void learn(struct world *w) {
  for (unsigned i = 0; i < w->plan.nodes; i++) {
    struct sim_node *n = &w->node[i];
    if (!node_up(n) || n->role != DW_PRIMARY || n->fenced || !n->tail || n->tail->epoch < w->primary_epoch) continue;
    if (w->primary != (int)i) world_trace(w, n, "is known as the primary");
    w->primary = (int)i;
    w->primary_epoch = n->tail->epoch;
  }
}

static bool serves(const struct world *w) {
  const struct sim_node *p = &w->node[w->primary];
  if (!node_up(p) || p->role != DW_PRIMARY || p->fenced || !p->tail) return false;
  for (unsigned i = 0; i < w->plan.nodes; i++)
    if (node_up(&w->node[i]) && w->node[i].promised > p->tail->epoch) return false;
  return true;
}

static bool changing(const struct world *w) {
  for (unsigned i = 0; i < w->plan.nodes; i++)
    if (w->node[i].asking) return true;
  return false;
}

static struct sim_node *longest(struct world *w, unsigned *with_data) {
  struct sim_node *best = NULL;
  *with_data = 0;
  for (unsigned i = 0; i < w->plan.nodes; i++) {
    struct sim_node *n = &w->node[i];
    if (!has_data(n)) continue;
    ++*with_data;
    if (!node_up(n)) continue;
    bool more = !best || n->tail->epoch > best->tail->epoch ||
                (n->tail->epoch == best->tail->epoch && n->tail->last_lsn > best->tail->last_lsn);
    if (more) best = n;
  }
  return best;
}

static bool all_up(const struct world *w) {
  for (unsigned i = 0; i < w->plan.nodes; i++)
    if (!node_up(&w->node[i])) return false;
  return true;
}

/* Nobody can serve: somebody has to. */
static void look_for_primary(struct world *w) {
  unsigned with_data;
  if (serves(w)) {
    w->headless_ns = 0;
    return;
  }
  if (!w->headless_ns) w->headless_ns = w->now;
  uint64_t patience = w->healing ? 1 * SEC : rng_between(&w->r_role, 1 * SEC, 6 * SEC);
  if (w->now - w->headless_ns < patience || changing(w)) return;
  struct sim_node *best = longest(w, &with_data);
  if (!best || best->on_stack) return;
  w->headless_ns = w->now;
  if (best->role == DW_PRIMARY) { /* it has to ask for promises like any other */
    ask_follow(w, best, NULL);
    return;
  }
  struct role_request r = {.promote = true};
  const dw_options *o = &w->plan.opt;
  r.opt.force = w->healing && all_up(w) && o->mode != DW_ASYNC && with_data + o->acks < w->plan.nodes;
  if (ask(w, best, &r)) w->st.by_hand += w->lease != NULL;
}

/* Follows the newest primary, or is told to; through others, too, until the end: only those who follow it directly
 * count for its acks. */
static void steer(struct world *w, struct sim_node *n) {
  struct sim_node *p = &w->node[w->primary];
  bool can = roles_newest(w, p) && node_up(n) && !n->asking && !n->on_stack && n->freeze_ns <= w->now;
  bool right = roles_root(w, n) == p && (!w->healing || n->upstream == p->idx);
  if (!can || n == p || right) {
    n->astray_ns = 0;
    return;
  }
  if (!n->astray_ns) {
    n->astray_ns = w->now;
    n->astray_wait_ns = w->healing ? 300 * MS : rng_skewed(&w->r_role, 100 * MS, 5 * SEC);
  }
  if (w->now - n->astray_ns < n->astray_wait_ns) return;
  n->astray_ns = 0;
  ask_follow(w, n, p);
}

void roles_operate(struct world *w) {
  if (!w->plan.promotions) return;
  learn(w);
  if (lease_leaves_it_to_hands(w)) look_for_primary(w);
  for (unsigned i = 0; i < w->plan.nodes && !w->lease; i++) steer(w, &w->node[i]);
}
