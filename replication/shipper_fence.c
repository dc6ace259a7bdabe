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
  if (rc == DW_OK && hash128_zero(&s->cfg.cluster_id))
    rc = dw_fail(DW_STALE, "this follower has no data of its own yet");
  if (rc == DW_OK && !hash128_eq(&m.cluster_id, &s->cfg.cluster_id)) {
    char theirs[33], ours[33];
    hash128_hex(&m.cluster_id, theirs);
    hash128_hex(&s->cfg.cluster_id, ours);
    rc = dw_fail(DW_DIVERGED, "the candidate is of cluster %s, this is cluster %s", theirs, ours);
  }
  if (rc) {
    char text[MSG_TEXT_BYTES];
    dw_error_copy(text, sizeof text);
    ship_end(s, rc, 0, true, "%s", text);
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
