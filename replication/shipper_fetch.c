/* Answering somebody who repairs his log (docs/protocol.md, "Repair"): one question, one answer, in turns.
 *
 * The asker is no follower: it has no marks, is in no quorum, and its connection ends with the first thing we can't
 * give. What it gets is bounded twice: MSG_FETCH_BYTES (or one block) in an answer, and SHIP_FETCH_BYTES_PER_S over all
 * of them, by putting off the next answer. Blocks go out without a copy, as to a follower.
 */
#include "replication/shipper_internal.h"

void ship_on_fetch(struct shipper *s, const struct frame *f) {
  struct msg_fetch m;
  int rc = s->have_hello ? dw_fail(DW_CORRUPT, "FETCH on a follower's connection") : msg_get_fetch(f, &m);
  if (rc == DW_OK && s->fetch != ASK_NO) rc = dw_fail(DW_CORRUPT, "FETCH before the last one was answered");
  if (rc == DW_OK && s->have_fetch && m.node_id != s->fetch_msg.node_id)
    rc = dw_fail(DW_CORRUPT, "another node's FETCH on the same connection");
  if (rc == DW_OK) rc = ship_check_cluster(s, &m.cluster_id, "the blocks asked for are");
  if (rc) {
    ship_end_detail(s, rc);
    return;
  }
  if (m.max_bytes > MSG_FETCH_BYTES) m.max_bytes = MSG_FETCH_BYTES;
  s->me.version = m.version_max < MSG_VERSION_MAX ? m.version_max : MSG_VERSION_MAX;
  s->fetch_msg = m;
  s->have_fetch = true;
  s->fetch = ASK_WANTED;
  s->phase = SHIP_FETCHING;
}

static int push_answer(struct shipper *s, struct wal_block **blocks, size_t n, size_t bytes) {
  uint8_t head[MSG_HEADER_BYTES + MSG_FETCHED_PREFIX_BYTES];
  struct msg_fetched m = {
      .version = s->me.version, .count = (uint32_t)n, .id = s->fetch_msg.id, .cluster_id = s->cfg.cluster_id};
  int rc = outq_reserve(&s->out, n + 1);
  if (rc) return rc;
  msg_fetched_head(&s->me, &m, bytes, head);
  if (s->out.bytes == 0) s->out_ns = s->now_ns;
  rc = outq_push_copy(&s->out, head, sizeof head);
  for (size_t i = 0; rc == DW_OK && i < n; i++) rc = outq_push_block(&s->out, blocks[i]);
  return rc;
}

void shipper_fetched(struct shipper *s, int rc, struct wal_block **blocks, size_t n, const char *text,
                     uint64_t now_ns) {
  ship_clock(s, now_ns);
  s->fetch = ASK_NO;
  if (s->phase == SHIP_FETCHING && rc) {
    ship_end(s, rc, 0, true, "%s", text ? text : dw_rc_name(rc));
  } else if (s->phase == SHIP_FETCHING) {
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) bytes += block_total_bytes(&blocks[i]->h);
    s->fetch_ns = s->now_ns + bytes * 1000000000ull / SHIP_FETCH_BYTES_PER_S;
    if (push_answer(s, blocks, n, bytes)) ship_end(s, DW_NO_MEMORY, 0, false, "no memory for a frame");
  }
  for (size_t i = 0; i < n; i++) wal_block_unref(blocks[i]);
  shipper_tick(s, now_ns);
}
