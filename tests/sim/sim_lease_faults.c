/* What goes wrong under a coordinator, and what the operator still does there: he starts what is down, pauses and
 * resumes, switches over, now and then promotes by hand. When nobody leads he waits, and promotes only what the rules
 * of failover leave to him: a cap that is reached, or so few nodes with data that the promises can't come together.
 */
#include "tests/sim/sim_lease.h"

#include <stdio.h>
#include <stdlib.h>

#define PATIENCE_NS (60 * SEC)

/* ---- the plan ------------------------------------------------------------------------------------ */

void lease_draw(struct world *w) {
  struct plan *p = &w->plan;
  struct rng *r = &w->r_lease;
  if (!rng_percent(r, 33)) return;
  w->lease = calloc(1, sizeof *w->lease);
  struct lease_plan *l = &w->lease->plan;
  /* A machine whose workers are slow steps down slowly; its lease has to be as long. */
  uint64_t ttl = p->job_ns_max > 100 * MS ? 5 : PICK(r, 2, 3, 5);
  l->opt = (struct failover_options){.region = "",
                                     .preferred_region = "",
                                     .client_address = "",
                                     .priority = 100,
                                     .nodes = p->nodes,
                                     .acks = p->opt.acks,
                                     .keep = rng_percent(r, 35),
                                     .early = rng_percent(r, 70),
                                     .ttl_ns = ttl * SEC,
                                     .renew_ns = ttl * 100 * MS,
                                     .poll_ns = ttl * 50 * MS,
                                     .candidate_wait_ns = ttl * 200 * MS,
                                     .cooldown_ns = PICK(r, 0, 2, 5, 15) * SEC,
                                     .missed_renewals = 3,
                                     .max_per_hour = (uint32_t)PICK(r, 0, 0, 10, 3)};
  l->gap_ns = PICK(r, 1, 2, 5) * SEC;
  l->pauses = rng_percent(r, 30);
  l->switchovers = rng_percent(r, 40);
  l->hand = rng_percent(r, 10);
  uint64_t run_ns = rng_between(r, 8, 40) * SEC;
  p->write_gap_ns = p->write_gap_ns * (run_ns / MS) / (p->run_ns / MS);
  p->read_gap_ns = p->read_gap_ns * (run_ns / MS) / (p->run_ns / MS);
  p->run_ns = run_ns;
  p->fault_gap_ns = p->fault_gap_ns ? PICK(r, 2, 5, 15) * SEC : 0;
  p->promotions = true;
  p->failover = false;
  for (unsigned i = 0; i < p->nodes; i++) p->upstream[i] = i == 0 ? -1 : 0;
}

void lease_print(const struct world *w) {
  if (!w->lease) return;
  const struct failover_options *o = &w->lease->plan.opt;
  printf("  plan: lease of %.0f s, on loss %s%s, cool-down %.0f s, %u an hour, trouble every %.0f s%s%s%s\n",
         (double)o->ttl_ns / 1e9, o->keep ? "keep" : "stop", o->early ? ", early takeover" : "",
         (double)o->cooldown_ns / 1e9, o->max_per_hour, (double)w->lease->plan.gap_ns / 1e9,
         w->lease->plan.pauses ? " pauses" : "", w->lease->plan.switchovers ? " switchovers" : "",
         w->lease->plan.hand ? " promotions-by-hand" : "");
}

/* ---- trouble --------------------------------------------------------------------------------------- */

static uint64_t draw_span(struct world *w) {
  return rng_skewed(&w->r_lease, 50 * MS, 4 * w->lease->plan.opt.ttl_ns);
}

static struct sim_node *draw(struct world *w, bool leader) {
  return &w->node[leader ? (uint64_t)w->primary : rng_below(&w->r_lease, w->plan.nodes)];
}

/* SIGSTOP, often past the lease. */
static void freeze(struct world *w, struct sim_node *n) {
  if ((n->state != NODE_UP && !w->lease->run[n->idx].f) || n->freeze_ns > w->now) return;
  n->stall_ns = n->freeze_ns = w->now + draw_span(w);
  w->st.freezes++;
  world_trace(w, n, "is frozen for %.3f s", (double)(n->freeze_ns - w->now) / 1e9);
}

static void cut_from_etcd(struct world *w, struct sim_node *n) {
  struct sim_etcd *e = &w->lease->etcd;
  uint64_t until = w->now + draw_span(w), how = rng_below(&w->r_lease, 4);
  if (how != 1) e->cut_to[n->idx] = until;
  if (how != 2) e->cut_from[n->idx] = until;
  w->st.etcd_cuts++;
  world_trace(w, n, "is cut off from etcd%s for %.3f s",
              how == 1   ? " (answers)"
              : how == 2 ? " (requests)"
                         : "",
              (double)(until - w->now) / 1e9);
  if (rng_percent(&w->r_lease, 40)) roles_isolate(w, n);
  /* Whoever has to step down may find that he can't write it down. */
  if ((w->plan.disk_errors || w->plan.full) && rng_percent(&w->r_lease, 30)) faults_disk(w, n, !w->plan.disk_errors);
}

static void kill_it(struct world *w, struct sim_node *n) {
  if (n->state == NODE_DOWN)
    lease_killed(w, n);
  else
    roles_kill(w, n);
}

static void trouble(struct world *w) {
  struct sim_lease *l = w->lease;
  struct rng *r = &w->r_lease;
  struct sim_node *n = draw(w, rng_percent(r, 60));
  switch (rng_below(r, 12)) {
  case 0:
  case 1: kill_it(w, n); break;
  case 2:
  case 3: freeze(w, n); break;
  case 4:
  case 5: cut_from_etcd(w, n); break;
  case 6: etcd_outage(w, draw_span(w)); break;
  case 7: roles_isolate(w, n); break;
  case 8: l->etcd.loss_pct = rng_percent(r, 50) ? 0 : (uint32_t)rng_between(r, 1, 30); break;
  case 9:
    if (!l->plan.pauses) break;
    l->etcd.kv.paused = !l->etcd.kv.paused;
    l->etcd.paused_ns = w->now;
    world_trace(w, NULL, "the operator %s failover", l->etcd.kv.paused ? "pauses" : "resumes");
    break;
  case 10:
    if (l->plan.switchovers) roles_promote(w, draw(w, false), true);
    break;
  default:
    if (l->plan.hand && rng_percent(r, 50)) roles_promote(w, draw(w, false), false);
  }
}

static void trouble_event(struct world *w, struct sim_node *none, void *arg) {
  (void)none, (void)arg;
  if (w->healing) return;
  trouble(w);
  world_at(w, w->now + rng_skewed(&w->r_lease, 1000, 4 * w->lease->plan.gap_ns), NULL, trouble_event, NULL);
}

void lease_faults_start(struct world *w) {
  if (w->lease && w->plan.fault_gap_ns)
    world_at(w, w->now + rng_below(&w->r_lease, 4 * SEC), NULL, trouble_event, NULL);
}

void lease_faults_end(struct world *w) {
  if (!w->lease) return;
  struct sim_etcd *e = &w->lease->etcd;
  e->loss_pct = 0;
  e->kv.paused = false;
  if (e->down_ns > w->now) e->down_ns = w->now;
  for (unsigned i = 0; i < w->plan.nodes; i++) {
    e->cut_to[i] = e->cut_from[i] = 0;
    w->lease->run[i].woke_ns = w->now;
    lease_turn_at(&w->lease->run[i], w->now);
  }
}

/* ---- the operator ------------------------------------------------------------------------------------ */

bool lease_leaves_it_to_hands(const struct world *w) {
  if (!w->lease) return true;
  if (!w->healing || w->now - w->heal_ns < PATIENCE_NS) return false;
  const struct failover_record *last = &w->lease->etcd.kv.record;
  const struct failover_options *o = &w->lease->plan.opt;
  unsigned with_data = 0;
  for (unsigned i = 0; i < w->plan.nodes; i++) with_data += w->node[i].tail && w->node[i].tail->epoch;
  bool capped = o->max_per_hour && last->count >= o->max_per_hour;
  return capped || (w->plan.opt.mode != DW_ASYNC && with_data + o->acks < w->plan.nodes);
}
