/* Answers to a candidate (promotion.h), and what a node does when it hears of a newer epoch.
 *
 * The order is the whole point. The stream from the old primary ends first, so no acknowledgement leaves any more; then
 * what it brought is synced; then the promise is made durable; and only then is the log's end read for the answer. So
 * the answer covers everything that this node has ever acknowledged.
 */
#include <stdio.h>
#include <string.h>

#include "replication/address.h"
#include "replication/node.h"
#include "replication/promotion.h"
#include "wal/base/status.h"

typedef unsigned long long ull;

static void fill(struct node *n, struct msg_fenced *m) {
  struct engine_positions pos;
  struct engine_promise promise;
  engine_positions(n->e, &pos);
  engine_promised(n->e, &promise);
  m->role = (uint8_t)n->role;
  m->fenced = pos.fenced;
  m->has_data = pos.tail.epoch != 0;
  m->priority = n->opt->priority;
  m->promised_epoch = promise.epoch;
  m->promised_node = promise.node_id;
  m->durable = pos.tail; /* of a primary perhaps a little more than that: then it has more, which is the safe side */
  m->commit_lsn = pos.commit_lsn;
  m->applied_lsn = pos.applied.lsn;
  m->staleness_ms = pos.staleness_ms;
  snprintf(m->primary, sizeof m->primary, "%s", n->role == DW_PRIMARY ? "" : n->primary);
}

/* The promise that the receiver goes by is the durable one. */
static void fence_as_promised(struct node *n) {
  struct engine_promise promise;
  engine_promised(n->e, &promise);
  if (n->follow) follow_fence(n, promise.epoch, promise.node_id);
}

/* Is this the one that we pause for, or did until we were fenced? */
static bool hands_over(const struct node *n, uint64_t node_id) {
  return n->hands_over_to == node_id && node_now(n) < n->hands_over_until_ns;
}

/* We are fenced now. */
static void handed_over(struct node *n, uint64_t node_id) {
  if (hands_over(n, node_id)) n->hands_over_until_ns = UINT64_MAX;
}

/* begun: the epoch has begun already, so whether the candidate should have got it is no question any more. */
static int promise(struct node *n, const struct msg_fence *ask, bool begun, const char *address) {
  const uint64_t epoch = ask->epoch, node_id = ask->node_id;
  struct engine_promise now;
  struct engine_positions pos;
  engine_promised(n->e, &now);
  engine_positions(n->e, &pos);
  if (n->stopping) return dw_fail(DW_CLOSED, "this node is stopping");
  if (pos.tail.epoch == 0) return dw_fail(DW_STALE, "this node has no data yet");
  if (n->serve_blocked) return dw_fail(DW_STALE, "this node is installing a checkpoint");
  /* Who lacks something of ours can't win with our promise: then nothing is disturbed for it. */
  if (!begun && !ask->force && promotion_has_more(&pos.tail, &ask->durable))
    return dw_fail(
        DW_STALE,
        "this node has more: its log ends at LSN %llu of epoch %llu, the candidate's at LSN %llu of epoch %llu",
        (ull)pos.tail.lsn, (ull)pos.tail.epoch, (ull)ask->durable.lsn, (ull)ask->durable.epoch);
  uint64_t known = now.epoch > pos.tail.epoch ? now.epoch : pos.tail.epoch;
  bool would = epoch > pos.tail.epoch && (epoch > now.epoch || (epoch == now.epoch && node_id == now.node_id)) &&
               epoch_plausible(epoch, known);
  if (would && !promote_yield(n, epoch, node_id))
    return dw_fail(DW_LOCKED, "this node is just beginning an epoch of its own");
  int rc = DW_OK;
  if (would && n->follow) follow_fence(n, epoch, node_id);
  if (would && n->role == DW_FOLLOWER) rc = engine_replica_sync(n->e, NULL);
  if (rc == DW_OK) rc = engine_promise(n->e, epoch, node_id, address);
  if (rc) {
    char why[400];
    dw_error_copy(why, sizeof why);
    fence_as_promised(n);
    return dw_fail(rc, "%s", why);
  }
  handed_over(n, node_id);
  engine_log(n->e, DW_LOG_WARN, "epoch %llu is promised to node %llu (%s)", (ull)epoch, (ull)node_id, address);
  n->report_urgent = true;
  return DW_OK;
}

/* Where the candidate can be reached: as it says, or at that port where its question came from. */
static void reach(const struct peer *p, const char *said, char out[DW_ADDRESS_BYTES]) {
  struct address a, from;
  out[0] = '\0';
  if (!said[0] || address_parse(said, &a)) return;
  if (!a.host[0] && address_parse(p->address, &from) == 0) memcpy(a.host, from.host, sizeof a.host);
  int n = snprintf(out, DW_ADDRESS_BYTES, strchr(a.host, ':') ? "[%.50s]:%s" : "%.50s:%s", a.host, a.port);
  if (n < 0 || n >= DW_ADDRESS_BYTES) out[0] = '\0';
}

static int begun(struct peer *p, const struct msg_fence *ask, const char *address) {
  struct node *n = p->n;
  struct engine_promise now;
  struct engine_positions pos;
  engine_promised(n->e, &now);
  engine_positions(n->e, &pos);
  if (ask->epoch < now.epoch || ask->epoch < pos.tail.epoch)
    return dw_fail(DW_FENCED, "this node knows epoch %llu already",
                   (ull)(now.epoch > pos.tail.epoch ? now.epoch : pos.tail.epoch));
  int rc = ask->epoch > pos.tail.epoch ? promise(n, ask, true, address) : DW_OK;
  /* An old primary whose log may hold more waits to be told (dw_follow, dw_rejoin), unless it is to rejoin by itself;
   * one that handed over has nothing more. */
  bool follows = n->role == DW_FOLLOWER || hands_over(n, ask->node_id) || n->opt->auto_rejoin;
  if (rc == DW_OK && follows && address[0] && !role_follow_told(n, address))
    rc = dw_fail(DW_LOCKED, "another change of this node's role is under way");
  return rc;
}

void fence_answer(struct peer *p, const struct msg_fence *ask) {
  struct node *n = p->n;
  struct msg_fenced m = {.verdict = FENCE_TOLD};
  char address[DW_ADDRESS_BYTES];
  reach(p, ask->address, address);
  if (ask->what == FENCE_PAUSE) {
    n->hands_over_to = ask->node_id;
    n->hands_over_until_ns = node_now(n) + FENCE_PAUSE_MS * 1000000ull;
    engine_pause(n->e, n->hands_over_until_ns, &m.writing);
  } else if (ask->what != FENCE_ASK) {
    int rc = ask->what == FENCE_PROMISE ? promise(n, ask, false, address) : begun(p, ask, address);
    m.verdict = rc ? FENCE_REFUSED : FENCE_PROMISED;
    if (rc) dw_error_copy(m.text, MSG_TEXT_BYTES);
    if (rc)
      engine_log(n->e, DW_LOG_WARN, "node %llu (%s) asked for epoch %llu, refused: %s", (ull)ask->node_id, p->address,
                 (ull)ask->epoch, m.text);
  }
  fill(n, &m);
  shipper_fence_answer(p->ship, &m, node_now(n));
  p->dirty = true;
}

void fence_heard(struct node *n, uint64_t epoch, uint64_t node_id) {
  struct engine_positions pos;
  engine_positions(n->e, &pos);
  if (n->role != DW_PRIMARY || epoch <= pos.epoch) return; /* a relay is no primary */
  if (engine_promise(n->e, epoch, node_id, "") == DW_OK) {
    handed_over(n, node_id);
    return;
  }
  char why[300];
  dw_error_copy(why, sizeof why);
  engine_log(n->e, DW_LOG_ERROR, "a follower has promised epoch %llu to node %llu, but this primary can't note it: %s",
             (ull)epoch, (ull)node_id, why);
  engine_cease(n->e); /* what it can't note it knows all the same */
}
