/* Who may acknowledge, judged from outside: by what stands at the coordinator and by the simulator's own clock, never
 * by what the machine says of itself.
 *
 *   leader key of n, its lease certain to be there       n may acknowledge
 *   lease may be gone, n stood still since then          n wakes up and finds out: a moment is granted
 *   lease may be gone, --on-coordinator-loss keep        only what `acks` followers confirm
 *   lease may be gone otherwise                          nothing
 *   promoted by an operator                              until its first lease: the promises vouch for it
 *
 * Besides, always: a sync write that was begun after a newer epoch was promised and begun is acknowledged by nobody
 * older.
 */
#include "tests/sim/sim_lease.h"

#include "wal/base/status.h"

#define WAKE_NS (2 * SEC) /* to find out, and to step down, after it stood still */
#define VIEW_NS (3 * SEC) /* a decision may rest on a view of so long ago */

typedef unsigned long long ull;

static uint64_t asleep_until(const struct sim_node *n) {
  return n->freeze_ns > n->stall_ns ? n->freeze_ns : n->stall_ns;
}

/* It stood still when its lease could end, or since then, and has hardly had time to find out. */
static bool just_woke(const struct world *w, struct lease_run *r, uint64_t lost_ns) {
  uint64_t until = asleep_until(r->n), margin = w->lease->plan.opt.ttl_ns / 5;
  if (until && until <= w->now && until > r->woke_ns) r->woke_ns = until;
  return until > w->now || (r->woke_ns + margin >= lost_ns && w->now < r->woke_ns + WAKE_NS);
}

void lease_stood_still(struct world *w, uint64_t since_ns) {
  if (!w->lease || w->now - since_ns < 20 * MS) return;
  for (unsigned i = 0; i < w->plan.nodes; i++) w->lease->run[i].woke_ns = w->now;
}

/* ---- at the coordinator --------------------------------------------------------------------------- */

void judge_renew(struct world *w, const struct lease_request *q, const struct etcd_lease *l) {
  if (l->node != q->node)
    world_violation(w, &w->node[q->node], "a lease is its holder's", "it renews lease %llu, which was granted to n%d",
                    (ull)l->id, l->node);
}

static void never_back(struct world *w, const struct lease_request *q, const struct failover_view *before) {
  const struct failover_record *was = &before->record, *r = &q->action.record;
  if (before->has_record && (r->term < was->term || r->epoch < was->epoch))
    world_violation(w, &w->node[q->node], "epochs never go back",
                    "the coordinator has term %llu and epoch %llu, it writes term %llu and epoch %llu", (ull)was->term,
                    (ull)was->epoch, (ull)r->term, (ull)r->epoch);
  if (q->action.leader.node_id != (uint64_t)q->node + 1)
    world_violation(w, &w->node[q->node], "a lease is its holder's", "it makes node %llu the leader",
                    (ull)q->action.leader.node_id);
}

/* The rules that hold a failover back, as far as the last record tells: by the candidate's wall clock, or by how long
 * the record has stood there. */
static void limits(struct world *w, const struct lease_request *q, const struct failover_record *last) {
  const struct failover_options *o = &w->lease->plan.opt;
  const struct sim_etcd *e = &w->lease->etcd;
  const struct sim_node *n = &w->node[q->node];
  if (e->kv.paused && e->paused_ns + VIEW_NS < q->sent_ns)
    world_violation(w, n, "pause", "it takes over %.3f s after failover was paused",
                    (double)(q->sent_ns - e->paused_ns) / 1e9);
  if (!last->count) return;
  if (o->max_per_hour && last->count >= o->max_per_hour)
    world_violation(w, n, "cap per hour", "it takes over after %u failovers, %u are allowed", last->count,
                    o->max_per_hour);
  uint64_t stamp = last->stamps_ms[last->count - 1], wall = q->wall_ms > stamp ? q->wall_ms - stamp : 0;
  uint64_t here = (q->sent_ns - e->recorded_ns) / MS, want = o->cooldown_ns / MS;
  if (wall < want && here * 101 / 100 + 2 < want)
    world_violation(w, n, "cool-down", "it takes over %llu ms after the last failover (%llu ms by its clock), not %llu",
                    (ull)here, (ull)wall, (ull)want);
}

void judge_take(struct world *w, const struct lease_request *q, const struct failover_view *before) {
  const struct sim_node *n = &w->node[q->node];
  const struct failover_record *last = &before->record;
  uint64_t id = (uint64_t)q->node + 1;
  never_back(w, q, before);
  if (before->has_record && q->action.record.epoch != last->epoch)
    world_violation(w, n, "epochs in order", "it claims a term and changes the epoch of the last promotion");
  bool first = !before->has_record || (last->epoch == 0 && last->node_id == id);
  bool failover = !first && last->node_id != id && n->role != DW_PRIMARY;
  if (first && q->node != 0 && n->role != DW_PRIMARY)
    world_violation(w, n, "who is promoted", "nobody has been primary yet, and it takes the lease");
  world_trace(w, n, "etcd: has the lease now, term %llu%s", (ull)q->action.record.term, failover ? ", a failover" : "");
  w->st.leases_taken++;
  if (!failover) return;
  w->st.lease_failovers++;
  limits(w, q, last);
}

void judge_record(struct world *w, const struct lease_request *q, const struct failover_view *before) {
  const struct failover_record *r = &q->action.record;
  const struct begun *b = epochs_find(w, r->epoch);
  never_back(w, q, before);
  if (!b || b->node != q->node)
    world_violation(w, &w->node[q->node], "epochs in order", "it records epoch %llu, which it has not begun",
                    (ull)r->epoch);
  world_trace(w, &w->node[q->node], "etcd: epoch %llu is recorded, failovers %u", (ull)r->epoch, r->count);
}

/* ---- at the nodes ----------------------------------------------------------------------------------- */

/* Since when its lease may be gone; 0: it leads. */
static uint64_t lost_since(struct world *w, struct lease_run *r) {
  uint64_t until = etcd_leads_until(w, r->n->idx);
  if (until > w->now) r->by_hand = false;
  return until > w->now ? 0 : until ? until : 1;
}

/* A block that begins an epoch is about to be written. */
void lease_begun(struct world *w, struct sim_node *n, const struct rec *rec, uint32_t reason) {
  if (!w->lease) return;
  struct lease_run *r = &w->lease->run[n->idx];
  const struct sim_etcd *e = &w->lease->etcd;
  r->epoch = rec->epoch;
  r->by_hand = n->asking && n->ask.promote;
  if (r->by_hand) return;
  uint64_t lost = lost_since(w, r);
  if (lost && !just_woke(w, r, lost))
    world_violation(w, n, "the claim comes first", "it begins epoch %llu, and the lease is not its own",
                    (ull)rec->epoch);
  bool claimed = e->claimed_by == n->idx && (reason != EPOCH_PROMOTED || e->kv.record.term > rec->parent->epoch >> 32);
  if (!claimed && !lost)
    world_violation(w, n, "the claim comes first", "it begins epoch %llu, the term at the coordinator is %llu of n%d",
                    (ull)rec->epoch, (ull)e->kv.record.term, e->claimed_by);
}

static bool forgotten(const struct world *w, uint64_t epoch) {
  for (unsigned i = 0; i < w->plan.nodes; i++)
    if (w->node[i].forgot > epoch) return true;
  return false;
}

/* Nobody could confirm it any more when it was begun. */
static void not_after_a_newer_one(struct world *w, struct lease_run *r, const struct wreq *q) {
  for (size_t i = 0; i < w->begun_n; i++) {
    const struct begun *b = &w->begun[i];
    if (b->reason != EPOCH_PROMOTED || b->forced || b->epoch <= r->epoch || b->at >= q->at_ns) continue;
    if (forgotten(w, r->epoch)) continue;
    world_violation(w, r->n, "one acknowledging primary",
                    "write %u was begun after epoch %llu of n%d, and is acknowledged in epoch %llu", q->id,
                    (ull)b->epoch, b->node, (ull)r->epoch);
  }
}

/* Answered OK just now. */
void lease_acked(struct world *w, struct sim_node *n, const struct wreq *q) {
  const dw_options *o = &w->plan.opt;
  if (!w->lease || !q->rec) return;
  struct sim_lease *l = w->lease;
  struct lease_run *r = &l->run[n->idx];
  const struct block_need *need = &q->rec->need;
  bool sync = o->mode != DW_ASYNC && need->mode == DW_SYNC && need->acks >= o->acks;
  if (sync) not_after_a_newer_one(w, r, q);
  uint64_t lost = lost_since(w, r);
  bool excused = lost && (r->by_hand || just_woke(w, r, lost));
  bool keep = l->plan.opt.keep;
  if (lost && !excused && !(keep && (sync || q->at_ns < lost)))
    world_violation(w, n, "no lease, no acknowledgement",
                    "write %u is acknowledged %.3f s after the lease of n%d may have ended", q->id,
                    (double)(w->now - lost) / 1e9, n->idx);
  if (sync && !keep && !excused && l->acked_epoch > r->epoch && !r->by_hand)
    world_violation(w, n, "one acknowledging primary",
                    "write %u is acknowledged in epoch %llu, n%d has acknowledged in epoch %llu", q->id, (ull)r->epoch,
                    l->acked_by, (ull)l->acked_epoch);
  if (sync && !r->by_hand && r->epoch > l->acked_epoch) {
    l->acked_epoch = r->epoch;
    l->acked_by = n->idx;
  }
}

/* As the daemons' front does it while the machine says so. */
bool lease_refuses(const struct world *w, const struct sim_node *n, const dw_write_options *wo) {
  const dw_options *o = &w->plan.opt;
  if (!w->lease || !w->lease->run[n->idx].restricted) return false;
  dw_mode mode = wo->mode ? wo->mode : o->mode;
  dw_ack ack = wo->ack ? wo->ack : o->ack;
  return mode != DW_SYNC || ack == DW_ACK_RECEIVED || (wo->acks ? wo->acks : o->acks) < o->acks;
}

/* One primary, with the lease, its epoch recorded, and nobody does anything any more. */
bool lease_converged(struct world *w) {
  if (!w->lease) return true;
  const struct failover_view *v = &w->lease->etcd.kv;
  const struct sim_node *p = &w->node[w->primary];
  if (!v->has_leader || v->leader.node_id != (uint64_t)p->idx + 1 || etcd_leads_until(w, p->idx) <= w->now)
    return false;
  if (v->leader.epoch != p->tail->epoch || v->record.epoch != p->tail->epoch) return false;
  for (unsigned i = 0; i < w->plan.nodes; i++) {
    const struct lease_run *r = &w->lease->run[i];
    struct failover_report report;
    if (!r->f || r->stopping || r->changing || r->promoting || r->restricted) return false;
    failover_report(r->f, node_mono(r->n), &report);
    if (report.state != (r->n == p ? FO_LEADING : FO_WAITING)) return false;
  }
  return true;
}
