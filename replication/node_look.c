/* Looking for the primary: the driver of lookout.h, and what follows from what it finds.
 *
 *   a follower that lost its primary     follows the new one
 *   a primary that is not the newest     promises the new epoch to its node, so that it is fenced, also after a
 * restart; with auto_rejoin it follows
 *
 * Connections last for one question.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/lookout.h"
#include "replication/node.h"
#include "replication/node_asker.h"
#include "wal/base/status.h"

typedef unsigned long long ull;

struct look {
  struct node *n;
  struct lookout l;
  uint64_t lost_ns; /* since when nothing confirms the data; 0: something does */
  size_t count;
  struct asker peer[LOOKOUT_PEERS];
};

/* ---- peers -------------------------------------------------------------------------------------- */

static void peer_pump(struct look *k, size_t i) {
  struct asker *a = &k->peer[i];
  if (lookout_wants(&k->l, i)) {
    lookout_asked(&k->l, i);
    asker_dial(a);
  }
  switch (asker_pump(a)) {
  case ASKER_IDLE: {
    struct engine_positions pos;
    engine_positions(k->n->e, &pos);
    asker_ask(a, &(struct msg_fence){.what = FENCE_ASK, .durable = pos.tail});
    return;
  }
  case ASKER_ANSWERED: lookout_answer(&k->l, i, asker_take(a)); break;
  case ASKER_FAILED: lookout_unreachable(&k->l, i); break;
  default: return;
  }
  asker_drop(a);
  transport_pump_again(k->n->t);
}

/* ---- life --------------------------------------------------------------------------------------- */

int look_create(struct node *n) {
  if (!n->opt->peers) return DW_OK;
  struct look *k = calloc(1, sizeof *k);
  if (!k) return dw_fail_nomem(sizeof *k);
  k->n = n;
  n->look = k;
  k->count = asker_peers(n, k->peer, LOOKOUT_PEERS);
  lookout_init(&k->l, k->count, n->opt->peer_timeout_ms * 1000000ull, node_now(n));
  return DW_OK;
}

void look_stop(struct node *n) {
  if (!n->look) return;
  for (size_t i = 0; i < n->look->count; i++) asker_drop(&n->look->peer[i]);
}

void look_destroy(struct node *n) {
  if (!n->look) return;
  free(n->look);
  n->look = NULL;
}

/* ---- driving ------------------------------------------------------------------------------------ */

/* Nothing confirms what a follower has. While a checkpoint is on its way nothing can. */
static bool lost(struct look *k, uint64_t now_ns) {
  struct node *n = k->n;
  uint64_t fresh = n->follow ? follow_fresh_as_of(n) : UINT64_MAX, limit = n->opt->peer_timeout_ms * 1000000ull;
  if (n->role == DW_FOLLOWER && !n->follow && !n->primary[0]) return !n->alone;
  bool doubt = n->role == DW_FOLLOWER && n->follow && !follow_bootstrapping(n) &&
               (fresh == UINT64_MAX || now_ns > fresh + limit);
  if (!doubt)
    k->lost_ns = 0;
  else if (!k->lost_ns)
    k->lost_ns = now_ns;
  /* A confirmation that old has waited long enough; one that there never was is given as much time. */
  return doubt && (fresh != UINT64_MAX || now_ns - k->lost_ns >= limit);
}

static void found(struct look *k, size_t i) {
  const struct asker *p = &k->peer[i];
  struct node *n = k->n;
  const struct lookout_peer *seen = &k->l.peer[i];
  struct engine_promise promise;
  engine_promised(n->e, &promise);
  if (n->role == DW_PRIMARY && (promise.epoch < seen->epoch || !promise.primary[0])) {
    int rc = engine_promise(n->e, seen->epoch, seen->node_id, p->address);
    if (rc) {
      char why[300];
      dw_error_copy(why, sizeof why);
      engine_log(n->e, DW_LOG_ERROR, "%s (node %llu) is the primary of epoch %llu, but this one can't note it: %s",
                 p->address, (ull)seen->node_id, (ull)seen->epoch, why);
      engine_cease(n->e);
      return;
    }
    n->report_urgent = true;
  }
  if (n->role == DW_PRIMARY && !n->opt->auto_rejoin) return;
  if (n->follow && strcmp(n->primary, p->address) == 0) return;
  engine_log(n->e, DW_LOG_WARN, "the primary of epoch %llu is node %llu (%s)", (ull)seen->epoch, (ull)seen->node_id,
             p->address);
  (void)role_follow_told(n, p->address); /* if another change is under way: in the next round */
}

uint64_t look_pump(struct node *n, uint64_t now_ns) {
  struct look *k = n->look;
  struct engine_positions pos;
  struct engine_promise promise;
  size_t which;
  if (!k || n->stopping) return UINT64_MAX;
  engine_positions(n->e, &pos);
  if (pos.tail.epoch == 0) return UINT64_MAX; /* of no cluster yet */
  engine_promised(n->e, &promise);
  struct lookout_self self = {.role = (dw_role)n->role,
                              .fenced = pos.fenced,
                              .lost = lost(k, now_ns),
                              .epoch = pos.tail.epoch,
                              .promised_epoch = promise.epoch};
  if (lookout_tick(&k->l, &self, now_ns, &which)) found(k, which);
  for (size_t i = 0; i < k->count; i++) {
    if (!k->l.asking)
      asker_drop(&k->peer[i]);
    else
      peer_pump(k, i);
  }
  return lookout_next_tick(&k->l);
}
