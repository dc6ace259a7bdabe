/* Who began which epoch, and what promotions must not lose.
 *
 *   P, epoch 1   ... w1 w2 w3 ...                 w2: acknowledged in sync mode, acks = 1, so on two logs
 *   F, promoted            \ epoch 2 ... w4       F has the promises of nodes - acks of them: w2 is before its record
 *
 * A promotion has met one of every acks + 1 nodes. So a sync write that was acknowledged, and that as many nodes still
 * have in their logs as it takes (`kept`), is on the path of every epoch that is begun later by a promotion; and what
 * an older primary still acknowledges after that is on it, too. Not protected, and why:
 *   - asynchronous writes, semi-sync ones (they may have been degraded), and sync writes that asked for fewer acks than
 * the settings say, because promotions count with the settings; with mode async in the settings nothing is;
 *   - what too many nodes have lost since, with their disks or, unsynced, with their power (durability OS, acks
 * `received`);
 *   - what a node acknowledges that has forgotten a promise, because its disk was lost after it gave it;
 *   - what the store of a node had, whose log was trimmed, and which rejoined by an operator's command;
 *   - what a primary has lost with its power and goes on without (durability OS): `lost`.
 * A handover loses nothing at all: everything that the old primary acknowledged and still has, in whatever mode, is on
 * the path.
 */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

typedef unsigned long long ull;

const struct begun *epochs_find(const struct world *w, uint64_t epoch) {
  for (size_t i = w->begun_n; i-- > 0;)
    if (w->begun[i].epoch == epoch) return &w->begun[i];
  return NULL;
}

static bool guarded(const struct world *w, const struct wreq *q) {
  const dw_options *o = &w->plan.opt;
  if (q->state != WRITE_OK || q->lost || !q->rec || o->mode == DW_ASYNC) return false;
  if (q->rec->need.mode != DW_SYNC || q->rec->need.acks < o->acks) return false;
  unsigned have = 0;
  for (unsigned i = 0; i < w->plan.nodes; i++) have += (q->rec->kept & (1u << i)) && w->node[i].forgot <= q->rec->epoch;
  return have >= o->acks + 1;
}

/* Handed over by its own primary, which still has it. */
static bool handed_over(const struct world *w, const struct wreq *q, const struct begun *b) {
  if (b->from < 0 || q->state != WRITE_OK || q->lost || !q->rec || q->node != b->from) return false;
  const struct sim_node *from = &w->node[b->from];
  return from->tail && model_before(w, q->rec, from->tail);
}

static void must_have(struct world *w, struct sim_node *n, const struct wreq *q, const struct begun *b) {
  if (q->rec && q->rec->epoch >= b->epoch) return;
  bool sync = b->reason == EPOCH_PROMOTED && guarded(w, q);
  if (!sync && !handed_over(w, q, b)) return;
  w->st.guarded += sync;
  if (model_before(w, q->rec, b->rec)) return;
  world_violation(w, n, sync ? "sync survives promotions" : "a handover loses nothing",
                  "write %u, LSN %llu of epoch %llu, was acknowledged by n%d, and epoch %llu of n%d began without it",
                  q->id, (ull)q->lsn, (ull)q->rec->epoch, q->node, (ull)b->epoch, b->node);
}

void epochs_begun(struct world *w, struct sim_node *n, struct rec *r, uint32_t reason) {
  for (size_t i = 0; i < w->begun_n; i++) {
    const struct begun *b = &w->begun[i];
    if (b->epoch != r->epoch || b->rec == r) continue;
    bool never_was = b->node == n->idx && b->reason != EPOCH_PROMOTED && !(b->rec->durable & (1u << n->idx));
    if (!never_was) /* else: this node died before its record was on its disk, and nobody else has met it */
      world_violation(w, n, "one primary per epoch", "epoch %llu was begun by n%d already", (ull)r->epoch, b->node);
  }
  if (r->epoch < n->promised)
    world_violation(w, n, "a promise is kept", "it begins epoch %llu, promised is %llu", (ull)r->epoch,
                    (ull)n->promised);
  if (reason == EPOCH_PROMOTED && n->state == NODE_OPENING)
    world_violation(w, n, "who is promoted", "it opens as a primary of epoch %llu, nobody has promised it",
                    (ull)r->epoch);
  if (w->begun_n == w->begun_cap) {
    w->begun_cap = w->begun_cap ? 2 * w->begun_cap : 16;
    w->begun = realloc(w->begun, w->begun_cap * sizeof *w->begun);
  }
  struct begun *b = &w->begun[w->begun_n++];
  *b = (struct begun){.epoch = r->epoch, .at = w->now, .rec = r, .reason = reason, .node = n->idx, .from = -1};
  w->st.begun += reason == EPOCH_PROMOTED;
  b->forced = n->asking && n->ask.promote && n->ask.opt.force;
  lease_begun(w, n, r, reason);
  if (reason == EPOCH_PROMOTED && n->asking && n->ask.promote && n->ask.opt.handover) {
    const struct begun *before = epochs_find(w, r->parent->epoch);
    if (before) b->from = before->node;
  }
  for (const struct wreq *q = w->reqs; q; q = q->next) must_have(w, n, q, b);
}

void epochs_acked(struct world *w, struct sim_node *n, const struct wreq *q) {
  for (size_t i = 0; i < w->begun_n; i++) must_have(w, n, q, &w->begun[i]);
}

/* Its store had it, its log not any more, and an operator has let the store go. */
static bool given_away(const struct sim_node *n, const struct rec *r) {
  return n->told_rejoin && n->sealed && r->held != n->held_stamp;
}

void epochs_dropped(struct world *w, struct sim_node *n, struct rec *tail, const struct rec *to) {
  for (struct rec *r = tail; r && !model_before(w, r, to); r = r->parent)
    for (uint32_t i = 0; i < r->commits; i++)
      if (r->who[i]->rec == r && guarded(w, r->who[i]) && !given_away(n, r))
        world_violation(w, n, "sync survives promotions", "write %u, LSN %llu, was acknowledged and is dropped",
                        r->who[i]->id, (ull)r->first_lsn + i);
  model_lets_go(w, tail, to, n->idx);
}

void epochs_reopened(struct world *w, struct sim_node *n) {
  for (struct wreq *q = w->reqs; q; q = q->next)
    q->lost |= q->state == WRITE_OK && q->rec && q->rec->epoch < n->tail->epoch && !model_before(w, q->rec, n->tail);
}
