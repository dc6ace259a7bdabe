/* A node's process under a coordinator, as replication/cmd/daemon.c and failover_run.c are: it asks the lease machine
 * as what to open its engine, then does what the machine says, one thing at a time; a promotion runs beside that.
 *
 *   no process --start--> waiting for a role --engine open--> obeying --stop--> steps down, gives the lease back -->
 * closes ^                       |  crash, power cut, lost disk  |
 *        +-----------------------+-------------------------------+
 *
 * The machine's thread stands still when the process does (SIGSTOP) and when its machine stalls, and finds out
 * afterwards, like the thread that it stands for.
 */
#include "tests/sim/sim_lease.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/identity.h"
#include "replication/failover_node.h"
#include "wal/base/status.h"

#define REST_NS (100 * MS)
#define RETRY_NS (10 * MS)
#define NOBODY (-1)

static void turn_event(struct world *w, struct sim_node *none, void *arg);

void lease_turn_at(struct lease_run *r, uint64_t at) {
  if (!r->f || r->turn_ns <= at) return;
  r->turn_ns = at;
  world_at(r->w, at, NULL, turn_event, r);
}

static void turn_soon(struct lease_run *r) {
  lease_turn_at(r, r->w->now + rng_skewed(&r->w->r_lease, 1000, 500000));
}

static struct lease_run *run_of(const struct world *w, const struct sim_node *n) {
  return &w->lease->run[n->idx];
}

/* ---- the process --------------------------------------------------------------------------------- */

static void process_starts(struct world *w, struct sim_node *n) {
  struct lease_run *r = run_of(w, n);
  struct node_file node = {0};
  r->has_data = node_file_load(disk_boot(n->disk), SIM_DIR, &node) != DW_NOT_FOUND;
  r->own_epoch = node.own_epoch;
  disk_release(n->disk);
  r->f = failover_create(&r->opt);
  r->life++;
  r->turn_ns = UINT64_MAX;
  world_trace(w, n, "its process waits for a role");
  turn_soon(r);
}

static void process_ends(struct lease_run *r) {
  failover_destroy(r->f);
  r->f = NULL;
  r->life++;
  etcd_request_unref(r->out);
  r->out = NULL;
  r->known = r->stopping = r->stopped = r->changing = r->demoting = r->begun = r->promoting = r->promoted = false;
  r->restricted = r->by_hand = false;
}

void lease_gone(struct world *w, struct sim_node *n) {
  if (w->lease && run_of(w, n)->f) process_ends(run_of(w, n));
}

void lease_killed(struct world *w, struct sim_node *n) {
  if (n->state != NODE_DOWN || !run_of(w, n)->f) return;
  world_trace(w, n, "its process dies while it waits for a role");
  process_ends(run_of(w, n));
  n->down_ns = w->now;
}

bool lease_may_open(struct world *w, struct sim_node *n, dw_options *o) {
  if (!w->lease) return true;
  struct lease_run *r = run_of(w, n);
  if (!r->f) process_starts(w, n);
  if (!r->known) return false;
  o->role = r->open_as;
  o->stay_follower = 1;
  n->upstream = r->open_follow;
  return true;
}

static void promotion_ended(struct lease_run *r, int rc, const char *why) {
  r->promoting = false;
  r->promoted = true;
  r->promote_rc = rc;
  snprintf(r->promote_why, sizeof r->promote_why, "%s", why);
  turn_soon(r);
}

static void start_promoter(struct lease_run *r) {
  world_trace(r->w, r->n, "lease: promote, within %u ms", r->promo.opt.timeout_ms);
  int rc = role_begin(node_driver(r->n), &r->promo);
  if (rc)
    promotion_ended(r, rc, dw_last_error());
  else
    r->promoting = true;
}

void lease_opened(struct world *w, struct sim_node *n, int rc) {
  if (!w->lease) return;
  struct lease_run *r = run_of(w, n);
  if (rc) { /* the daemon ends */
    process_ends(r);
    return;
  }
  if (r->promoting && engine_role(n->e) == DW_FOLLOWER) /* stopped in good order, it has noted that it follows */
    start_promoter(r);
  else if (r->promoting)
    promotion_ended(r, DW_OK, "");
}

/* ---- what the machine is told ---------------------------------------------------------------------- */

static void status_of(struct lease_run *r, struct failover_status *st) {
  dw_status *s = r->w->lease->status;
  failover_see_closed(r->has_data, r->own_epoch, st);
  if (r->n->state == NODE_UP && dw_status_get(r->n->e, s) == DW_OK) failover_see(s, st);
}

/* What happened outside since the last time. False: it has stopped. */
static bool hear(struct lease_run *r) {
  struct failover_status st;
  struct failover_report report;
  uint64_t now = node_mono(r->n);
  if (r->promoted) {
    r->promoted = false;
    failover_promoted(r->f, now, r->promote_rc, r->promote_why);
  }
  if (r->stopping) failover_stop(r->f);
  status_of(r, &st);
  failover_step(r->f, now, node_wall(r->n) / MS, &st);
  failover_report(r->f, now, &report);
  return report.state != FO_STOPPED;
}

/* ---- what the machine wants ------------------------------------------------------------------------ */

static void open_as(struct lease_run *r, dw_role role, const char *primary) {
  if (r->known) return;
  r->known = true;
  r->open_as = role;
  r->open_follow = primary[0] ? primary[1] - '0' : NOBODY;
  r->promoting = role == DW_PRIMARY;
  node_start(r->w, r->n);
}

static void promote(struct lease_run *r, uint64_t timeout_ns, uint64_t term) {
  uint32_t ms = (uint32_t)(timeout_ns / MS);
  r->promo = (struct role_request){.promote = true, .opt = {.timeout_ms = ms ? ms : 1, .min_term = (uint32_t)term}};
  if (r->n->state != NODE_UP)
    open_as(r, DW_PRIMARY, "");
  else
    start_promoter(r);
}

static void follow(struct lease_run *r, const char *address) {
  if (r->n->state != NODE_UP) {
    open_as(r, DW_FOLLOWER, address);
    return;
  }
  world_trace(r->w, r->n, "lease: follow %s", address);
  r->change = (struct role_request){0};
  snprintf(r->change.primary, sizeof r->change.primary, "%s", address);
  r->changing = r->begun = role_begin(node_driver(r->n), &r->change) == DW_OK;
}

/* Again until it is done: a change of role that is under way ends by itself. */
static void demote(struct lease_run *r) {
  if (r->n->state != NODE_UP) return;
  r->change = (struct role_request){0};
  r->begun = role_begin(node_driver(r->n), &r->change) == DW_OK;
  if (!r->demoting) world_trace(r->w, r->n, "lease: acknowledge nothing");
  r->changing = r->demoting = true;
  if (!r->begun) lease_turn_at(r, r->w->now + RETRY_NS);
}

static void change_ended(struct lease_run *r, int rc) {
  r->begun = false;
  if (r->demoting && rc == DW_LOCKED) {
    lease_turn_at(r, r->w->now + RETRY_NS);
    return;
  }
  if (rc) world_trace(r->w, r->n, "lease: its engine says %s: %s", dw_rc_name(rc), dw_last_error());
  if (rc && r->demoting) failover_not_demoted(r->f, node_mono(r->n));
  r->changing = r->demoting = false;
  turn_soon(r);
}

void lease_poll(struct world *w, struct sim_node *n) {
  struct lease_run *r = w->lease ? run_of(w, n) : NULL;
  int rc;
  if (!r || !r->f || !node_up(n)) return;
  if (r->begun && role_poll(node_driver(n), &r->change, &rc)) {
    role_end(node_driver(n), &r->change);
    change_ended(r, rc);
  }
  if (r->promoting && role_poll(node_driver(n), &r->promo, &rc)) {
    char why[300];
    snprintf(why, sizeof why, "%s: %.250s", dw_rc_name(rc), rc ? dw_last_error() : "");
    role_end(node_driver(n), &r->promo);
    world_trace(w, n, "lease: promotion: %s", why);
    promotion_ended(r, rc, why);
  }
}

/* Whoever listens nowhere refuses; who is frozen does not, nor does anybody behind a network that is silent. */
static void probe(struct world *w, struct lease_run *r, const struct failover_action *a) {
  struct sim_node *to = &w->node[a->address[1] - '0'];
  int from = r->n->idx;
  bool silent = w->blocked_until[from][to->idx] > w->now || w->blocked_until[to->idx][from] > w->now;
  struct lease_request *q = etcd_request_new(w);
  q->node = from;
  q->life = r->life;
  q->action = *a;
  q->timeout_ns = UINT64_MAX;
  q->answer = (struct failover_answer){.rc = DW_OK, .why = "", .done = !silent && to->state == NODE_DOWN};
  q->refs++;
  r->out = q;
  etcd_answer_in(w, q, silent ? 200 * MS : rng_skewed(&w->r_lease, 100000, 10 * MS));
}

static void carry_out(struct world *w, struct lease_run *r, const struct failover_action *a) {
  switch (a->kind) {
  case FO_PROMOTE: promote(r, a->timeout_ns, a->term); break;
  case FO_FOLLOW: follow(r, a->address); break;
  case FO_DEMOTE: demote(r); break;
  case FO_RESTRICT:
    world_trace(w, r->n, "lease: %s", a->on ? "only writes that followers confirm" : "all writes");
    r->restricted = a->on;
    break;
  case FO_AUDIT: world_trace(w, r->n, "lease: %s: %s", a->audit.event, a->audit.why); break;
  case FO_PROBE: probe(w, r, a); break;
  default: etcd_send(w, r, a); break;
  }
}

/* ---- its thread -------------------------------------------------------------------------------------- */

/* False: it still waits. */
static bool answered(struct lease_run *r) {
  struct lease_request *q = r->out;
  bool late = r->w->now >= q->timeout_ns;
  if (!q->arrived && !late) {
    if (q->timeout_ns != UINT64_MAX) lease_turn_at(r, q->timeout_ns);
    return false;
  }
  r->out = NULL;
  if (q->arrived && !(late && rng_percent(&r->w->r_lease, 50)))
    failover_answer(r->f, node_mono(r->n), &q->answer);
  else
    failover_answer(r->f, node_mono(r->n), &(struct failover_answer){.rc = DW_TIMEOUT, .why = "time-out"});
  etcd_request_unref(q);
  return true;
}

static void stopped(struct world *w, struct lease_run *r) {
  r->stopped = true;
  world_trace(w, r->n, "lease: stopped");
  if (r->n->state == NODE_UP) {
    node_stop_cleanly(w, r->n);
    if (r->n->state == NODE_UP) lease_turn_at(r, w->now + RETRY_NS); /* its code is running below us */
    return;
  }
  process_ends(r);
  r->n->down_ns = w->now;
}

static void rest(struct world *w, struct lease_run *r) {
  uint64_t at = node_true_after(r->n, failover_wake(r->f));
  if (at > w->now + REST_NS) at = w->now + REST_NS;
  lease_turn_at(r, at > w->now ? at : w->now + 1000);
}

static void turn_event(struct world *w, struct sim_node *none, void *arg) {
  struct lease_run *r = arg;
  struct sim_node *n = r->n;
  uint64_t asleep = n->freeze_ns > n->stall_ns ? n->freeze_ns : n->stall_ns;
  (void)none;
  if (!r->f || r->turn_ns > w->now) return;
  r->turn_ns = UINT64_MAX;
  if (asleep > w->now || n->state == NODE_OPENING || n->state == NODE_CLOSING) {
    lease_turn_at(r, (asleep > w->now ? asleep : w->now) + rng_skewed(&w->r_lease, 1000, 1 * MS));
    return;
  }
  if (n->state == NODE_UP && !disk_alive(n->disk)) return; /* it is dead */
  if (r->out && !answered(r)) return;
  if (r->changing) {
    if (r->demoting && !r->begun) demote(r);
    return;
  }
  if (!hear(r)) {
    stopped(w, r);
    return;
  }
  struct failover_action a;
  if (!failover_next(r->f, &a)) {
    rest(w, r);
    return;
  }
  carry_out(w, r, &a);
  if (r->f && !r->out && !r->changing) turn_soon(r);
}

bool lease_stops_first(struct world *w, struct sim_node *n) {
  struct lease_run *r = w->lease ? run_of(w, n) : NULL;
  if (!r || !r->f || r->stopped) return false;
  if (!r->stopping) world_trace(w, n, "is told to stop");
  r->stopping = true;
  turn_soon(r);
  return true;
}

void lease_print_node(const struct sim_node *n) {
  struct failover_report report;
  const struct lease_run *r = n->w->lease ? run_of(n->w, n) : NULL;
  if (!r || !r->f) return;
  failover_report(r->f, node_mono(r->n), &report);
  printf("; its lease: %s, for %.3f s%s, %s%s%s%s%s: %s", failover_state_name(report.state),
         (double)report.lease_left_ms / 1e3, report.reachable ? "" : ", out of reach", r->out ? "asks" : "asks nothing",
         r->changing ? ", changes its role" : "", r->promoting ? ", is being promoted" : "",
         r->stopping ? ", stops" : "", report.restricted ? ", restricted" : "", report.decision);
}

/* ---- a run ---------------------------------------------------------------------------------------------- */

void lease_start(struct world *w) {
  if (!w->lease) return;
  etcd_init(w);
  w->lease->acked_by = NOBODY;
  w->lease->status = malloc(sizeof *w->lease->status);
  for (unsigned i = 0; i < w->plan.nodes; i++) {
    struct lease_run *r = &w->lease->run[i];
    r->w = w;
    r->n = &w->node[i];
    r->turn_ns = UINT64_MAX;
    snprintf(r->address, sizeof r->address, "n%u:7400", i);
    r->opt = w->lease->plan.opt;
    r->opt.node_id = i + 1;
    r->opt.address = r->address;
    r->opt.first = i == 0;
  }
}

void lease_end(struct world *w) {
  if (!w->lease) return;
  for (unsigned i = 0; i < w->plan.nodes; i++)
    if (w->lease->run[i].f) process_ends(&w->lease->run[i]);
}

void lease_free(struct world *w) {
  struct sim_lease *l = w->lease;
  if (!l) return;
  while (l->requests) {
    l->requests->refs = 1;
    etcd_request_unref(l->requests);
  }
  free(l->status);
  free(l);
  w->lease = NULL;
}
