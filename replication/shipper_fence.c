/* Answering a candidate (promotion.h; docs/protocol.md, "Promises"): one question, one answer, in turns.
 *
 * The driver answers: what is promised must be durable, and the stream that it ends is another connection's. A
 * candidate is no follower: it has no marks and pins no log.
 */
#include <stdio.h>

#include "replication/shipper_internal.h"

void ship_on_fence(struct shipper *s, const struct frame *f) {
  struct msg_fence m;
  int rc = s->have_hello ? dw_fail(DW_CORRUPT, "FENCE on a follower's connection") : msg_get_fence(f, &m);
  if (rc == DW_OK && s->fence != ASK_NO) rc = dw_fail(DW_CORRUPT, "FENCE before the last one was answered");
  if (rc == DW_OK && s->have_fence && m.node_id != s->fence_msg.node_id)
    rc = dw_fail(DW_CORRUPT, "another node's FENCE on the same connection");
  if (rc == DW_OK && m.node_id == s->cfg.node_id)
    rc = dw_fail(DW_INVALID, "connected to itself (node id %llu)", (unsigned long long)m.node_id);
  if (rc == DW_OK) rc = ship_check_cluster(s, &m.cluster_id, "the candidate is");
  if (rc) {
    ship_end_detail(s, rc);
    return;
  }
  s->me.version = m.version_max < MSG_VERSION_MAX ? m.version_max : MSG_VERSION_MAX;
  s->fence_msg = m;
  s->have_fence = true;
  s->fence = ASK_WANTED;
  s->phase = SHIP_FENCING;
}

void shipper_fence_answer(struct shipper *s, const struct msg_fenced *answer, uint64_t now_ns) {
  ship_clock(s, now_ns);
  s->fence = ASK_NO;
  if (s->phase == SHIP_FENCING) {
    struct msg_fenced m = *answer;
    struct buf b = {0};
    m.version = s->me.version;
    m.cluster_id = s->cfg.cluster_id;
    m.node_id = s->cfg.node_id;
    m.incarnation = s->cfg.incarnation;
    m.id = s->fence_msg.id;
    if (msg_put_fenced(&b, &s->me, &m))
      ship_end(s, DW_NO_MEMORY, 0, false, "no memory for a frame");
    else
      ship_push(s, &b);
  }
  shipper_tick(s, now_ns);
}
