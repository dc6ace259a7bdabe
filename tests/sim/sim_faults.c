/* What goes wrong, and the operator who clears up: restarts what is down or stopped, restores damaged sectors, lets a
 * follower rejoin that was refused because it had applied what the primary has not. */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <string.h>

#include "wal/base/status.h"

typedef unsigned long long ull;

static struct sim_node *any_node(struct world *w) {
  return &w->node[rng_below(&w->r_fault, w->plan.nodes)];
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static void power_cut(struct world *w, struct sim_node *n) {
  if (node_up(n)) {
    node_kill(w, n, true);
  } else if (n->state == NODE_DOWN) {
    lease_gone(w, n);
    disk_power_cut(n->disk);
    model_lost_unsynced(n);
    n->boot_ns = w->now;
    w->st.power_cuts++;
    world_trace(w, n, "power cut while it is down");
  }
}

void faults_wipe(struct world *w, struct sim_node *n) {
  if (n->on_stack || !roles_may_wipe(w, n)) return;
  if (node_up(n)) node_kill(w, n, rng_percent(&w->r_fault, 50));
  if (n->state != NODE_DOWN) return;
  world_trace(w, n, "its disk is lost, it gets a new one");
  disk_wipe(n->disk);
  roles_wiped(w, n);
  rejoin_wiped(w, n);
  n->tail = n->durable = n->applied = n->commit = NULL;
  n->tail_inode = NULL;
  n->cut_to = NULL;
  n->damaged = false;
  n->wipes++;
  w->st.wipes++;
}

static void errors_end(struct world *w, struct sim_node *n, void *arg) {
  (void)arg;
  struct disk_rates *r = disk_rates(n->disk), keep = w->plan.rates;
  *r = (struct disk_rates){.writeback = keep.writeback, .tear_in_sector = keep.tear_in_sector};
  world_trace(w, n, "its disk is well again");
}

/* An event of the node would end with its process: this one outlives it. */
static void errors_end_any(struct world *w, struct sim_node *none, void *arg) {
  (void)none;
  errors_end(w, arg, NULL);
}

void faults_disk_ends(struct world *w, struct sim_node *n) {
  world_at(w, w->now + rng_skewed(&w->r_fault, 50 * MS, 4 * SEC), NULL, errors_end_any, n);
}

void faults_disk(struct world *w, struct sim_node *n, bool full) {
  struct disk_rates *r = disk_rates(n->disk);
  if (full)
    r->full = true;
  else
    *r = w->plan.rates;
  world_trace(w, n, full ? "its disk is full" : "its disk has errors");
  faults_disk_ends(w, n);
}

void faults_rot(struct world *w, struct sim_node *n) {
  char what[100];
  if (!disk_rot(n->disk, what, sizeof what)) return;
  n->damaged = n->rotted = true;
  w->st.rots++;
  world_trace(w, n, "rot: %s", what);
}

/* ---- links ----------------------------------------------------------------------------------- */

static void partition(struct world *w) {
  unsigned a = (unsigned)rng_below(&w->r_fault, w->plan.nodes), b = (unsigned)rng_below(&w->r_fault, w->plan.nodes);
  if (a == b) return;
  uint64_t until = w->now + rng_skewed(&w->r_fault, 20 * MS, 8 * SEC);
  bool both = rng_percent(&w->r_fault, 60);
  w->blocked_until[a][b] = until;
  if (both) w->blocked_until[b][a] = until;
  w->st.partitions++;
  world_trace(w, NULL, "n%u %s n%u is silent for %.3f s", a, both ? "<->" : "->", b, (double)(until - w->now) / 1e9);
}

/* ---- the clock of faults --------------------------------------------------------------------- */

static void fault_event(struct world *w, struct sim_node *none, void *arg) {
  const struct plan *p = &w->plan;
  struct sim_node *n = any_node(w);
  (void)none, (void)arg;
  if (w->healing) return;
  switch (rng_below(&w->r_fault, 14)) {
  case 0:
  case 1:
    if (p->crashes) node_kill(w, n, false);
    break;
  case 2:
    if (p->crashes && node_up(n)) disk_kill_after(n->disk, (uint32_t)rng_between(&w->r_fault, 1, 40));
    break;
  case 3:
    if (p->power) power_cut(w, n);
    break;
  case 4:
    if (p->power && node_up(n)) {
      n->cutting = true; /* in the middle of something */
      disk_kill_after(n->disk, (uint32_t)rng_between(&w->r_fault, 1, 40));
    }
    break;
  case 5:
    if (p->crashes) node_stop_cleanly(w, n);
    break;
  case 6:
  case 7:
    if (p->cuts) net_cut_one(w);
    break;
  case 8:
    if (p->partitions) partition(w);
    break;
  case 9:
    if (p->disk_errors) faults_disk(w, n, false);
    break;
  case 10:
    if (p->full) faults_disk(w, n, true);
    break;
  case 11:
    if (p->rot) faults_rot(w, n);
    break;
  case 12:
    if (p->wall_jumps) n->wall_off_ns += (int64_t)rng_below(&w->r_fault, 200 * SEC) - (int64_t)(100 * SEC);
    if (p->stalls && n->freeze_ns <= w->now) n->stall_ns = w->now + rng_skewed(&w->r_fault, 1 * MS, 1 * SEC);
    break;
  default:
    if (p->wipes && n->role == DW_FOLLOWER && rng_percent(&w->r_fault, 30)) faults_wipe(w, n);
    if (p->failover && rng_percent(&w->r_fault, 30)) roles_primary_lost(w);
  }
  world_at(w, w->now + rng_skewed(&w->r_fault, 1000, 4 * p->fault_gap_ns), NULL, fault_event, NULL);
}

static void operator_event(struct world *w, struct sim_node *none, void *arg) {
  (void)none, (void)arg;
  if (w->healing) return;
  faults_operate(w);
  world_at(w, w->now + rng_between(&w->r_fault, 50 * MS, 800 * MS), NULL, operator_event, NULL);
}

void faults_start(struct world *w) {
  world_at(w, w->now + 100 * MS, NULL, operator_event, NULL);
  if (w->plan.fault_gap_ns) world_at(w, w->now + 200 * MS, NULL, fault_event, NULL);
}

/* ---- the operator ---------------------------------------------------------------------------- */

void faults_open_failed(struct world *w, struct sim_node *n, int rc, const char *why) {
  n->open_failures++;
  if (disk_lost_pages(n->disk))
    model_lost_unsynced(n); /* a failed fdatasync takes what was not synced, here as anywhere */
  if (rc == DW_CORRUPT || rc == DW_DIVERGED) {
    bool lost = disk_lost_pages(n->disk);
    if (!n->damaged && !lost) world_violation(w, n, "no false alarm", "nothing was damaged, but: %s", why);
    w->st.repairs++;
    if (disk_repair(n->disk)) world_trace(w, n, "the operator restores what had rotted");
    n->damaged = false;
    if (lost) { /* the page cache and the disk disagree: only a reboot makes sense of it */
      world_trace(w, n, "the operator reboots");
      disk_power_cut(n->disk);
      disk_forget_lost(n->disk);
      model_lost_unsynced(n);
    }
    return;
  }
  if (rc != DW_IO && rc != DW_NO_SPACE) world_violation(w, n, "it starts", "%s: %s", dw_rc_name(rc), why);
  if (w->healing && n->open_failures > 20) world_violation(w, n, "it starts", "%s: %s", dw_rc_name(rc), why);
}

static void look_at_refused(struct world *w, struct sim_node *n, const dw_status *s) {
  const struct sim_node *p = &w->node[w->primary];
  bool refused = s->primary_state == DW_PEER_REFUSED && n->applied && p->tail && !n->on_stack;
  if (refused && w->plan.promotions) refused = !n->asking && roles_root(w, n) == p && roles_newest(w, p);
  if (!refused) {
    n->refused_ns = 0;
    return;
  }
  if (!n->refused_ns) n->refused_ns = w->now;
  if (w->now - n->refused_ns < 1 * SEC) return;
  if (model_before(w, n->applied, p->tail)) return; /* not diverged: it must come back by itself */
  rejoin_operate(w, n, p);
}

static void operate(struct world *w, struct sim_node *n) {
  if (n->state == NODE_DOWN) {
    if (w->now - n->down_ns > (w->healing ? 0 : rng_below(&w->r_fault, 3 * SEC))) node_start(w, n);
    return;
  }
  if (!node_up(n) || n->on_stack) return;
  if (w->rot_reported && n->damaged) {
    n->damaged = false;
    w->st.repairs++;
    if (disk_repair(n->disk)) world_trace(w, n, "the operator restores what had rotted");
  }
  dw_status s;
  dw_status_get(n->e, &s);
  if (!s.failed)
    n->failed_ns = 0;
  else if (!n->failed_ns)
    n->failed_ns = w->now;
  if (s.failed && w->now - n->failed_ns > 1 * SEC) {
    world_trace(w, n, "has stopped (%s); the operator restarts it", s.error);
    n->failed_ns = 0;
    node_stop_cleanly(w, n);
    return;
  }
  if (n->role == DW_FOLLOWER) look_at_refused(w, n, &s);
}

void faults_operate(struct world *w) {
  for (unsigned i = 0; i < w->plan.nodes; i++) operate(w, &w->node[i]);
  w->rot_reported = false;
  roles_operate(w);
}

void faults_end(struct world *w) {
  net_unblocked(w);
  lease_faults_end(w);
  for (unsigned i = 0; i < w->plan.nodes; i++) {
    struct sim_node *n = &w->node[i];
    errors_end(w, n, NULL);
    disk_kill_after(n->disk, 0);
    n->cutting = false;
    if (n->freeze_ns <= w->now) n->stall_ns = n->freeze_ns = 0; /* what is frozen, all of it, thaws in its own time */
  }
}
