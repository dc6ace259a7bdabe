/* What the primary says. Frames are taken one by one while no storage question is unanswered (blocks also during a
 * sync); each is judged against the phase, the epoch and the node that WELCOME named.
 */
#include <stdio.h>

#include "replication/receiver_internal.h"

typedef unsigned long long ull;

static uint32_t accepted(const struct receiver *r) {
  uint32_t always = MSG_BIT(MSG_HEARTBEAT) | MSG_BIT(MSG_REFUSE);
  switch (r->phase) {
  case RP_HANDSHAKE: return always | MSG_BIT(MSG_WELCOME);
  case RP_STREAMING:
    if (r->me.version >= MSG_VERSION_PACKED) always |= MSG_BIT(MSG_PACKED);
    return always | MSG_BIT(MSG_BLOCKS) | MSG_BIT(MSG_COMMIT) | MSG_BIT(MSG_PROBE_ANSWER) | MSG_BIT(MSG_MEMBERS);
  case RP_BOOTSTRAPPING:
    return always | MSG_BIT(MSG_CKPT_MANIFEST) | MSG_BIT(MSG_CKPT_CHUNK) | MSG_BIT(MSG_CKPT_FILE_END) |
           MSG_BIT(MSG_CKPT_DONE) | MSG_BIT(MSG_MEMBERS);
  default: return 0;
  }
}

/* May the next frame be looked at? */
static bool ready(const struct receiver *r) {
  if (!recv_talking(r)) return false;
  if (r->store == RS_IDLE) return r->batch.bytes < RECV_BATCH_BYTES;
  return r->store == RS_SYNC && r->batch.bytes < RECV_BATCH_BYTES;
}

static int on_answer(struct receiver *r, const struct frame *f) {
  struct msg_probe_answer m;
  msg_get_probe_answer(f, &m);
  uint64_t before = receiver_fresh_as_of(r);
  if (!staleness_asked(&r->stale, m.id))
    return dw_fail(DW_CORRUPT, "PROBE_ANSWER to probe %llu, which was never sent", (ull)m.id);
  if (!staleness_answered(&r->stale, m.id, m.commit_lsn)) return DW_OK; /* forgotten: the table was full */
  if (receiver_fresh_as_of(r) != before) r->fresh_changed = true;
  unsigned i = (r->done_head + r->done_count) % STALENESS_PROBES;
  r->done[i].id = m.id;
  r->done[i].commit_lsn = m.commit_lsn;
  if (r->done_count < STALENESS_PROBES)
    r->done_count++;
  else
    r->done_head = (r->done_head + 1) % STALENESS_PROBES;
  return DW_OK;
}

static void on_refuse(struct receiver *r, const struct frame *f) {
  struct msg_refuse m;
  if (msg_get_refuse(f, &m)) {
    recv_end(r, DW_CORRUPT, false, "a REFUSE that can't be read");
    return;
  }
  if (m.lsn)
    recv_end(r, m.code, false, "refused (%s, since LSN %llu): %s", dw_rc_name(m.code), (ull)m.lsn, m.text);
  else
    recv_end(r, m.code, false, "refused (%s): %s", dw_rc_name(m.code), m.text);
}

static int on_heartbeat(struct receiver *r, const struct frame *f) {
  struct msg_heartbeat m;
  msg_get_heartbeat(f, &m);
  if (m.tail_lsn > r->upstream_tail) r->upstream_tail = m.tail_lsn;
  if (r->phase == RP_STREAMING) recv_commit(r, m.commit_lsn);
  return DW_OK;
}

static int on_members(struct receiver *r, const struct frame *f) {
  struct msg_members m;
  int rc = msg_get_members(f, &m);
  if (rc) return rc;
  r->members = m;
  r->members_changed = true;
  return DW_OK;
}

static int dispatch(struct receiver *r, const struct frame *f) {
  dw_lsn lsn;
  switch (f->h.type) {
  case MSG_WELCOME: return recv_on_welcome(r, f);
  case MSG_BLOCKS: return recv_on_blocks(r, f);
  case MSG_PACKED: return recv_on_packed(r, f);
  case MSG_PROBE_ANSWER: return on_answer(r, f);
  case MSG_HEARTBEAT: return on_heartbeat(r, f);
  case MSG_CKPT_MANIFEST: return recv_on_manifest(r, f);
  case MSG_CKPT_CHUNK: return recv_on_chunk(r, f);
  case MSG_CKPT_FILE_END: return recv_on_file_end(r, f);
  case MSG_CKPT_DONE: return recv_on_done(r, f);
  case MSG_MEMBERS: return on_members(r, f);
  case MSG_COMMIT:
    msg_get_commit(f, &lsn);
    recv_commit(r, lsn);
    return DW_OK;
  case MSG_REFUSE: on_refuse(r, f); return DW_OK;
  default: return dw_fail(DW_CORRUPT, "%s can't come from a primary", msg_name(f->h.type));
  }
}

static void on_frame(struct receiver *r, const struct frame *f) {
  if (r->welcome.node_id && f->h.sender != r->welcome.node_id) {
    recv_end(r, DW_CORRUPT, true, "a frame of node %llu on the connection to node %llu", (ull)f->h.sender,
             (ull)r->welcome.node_id);
    return;
  }
  if (f->h.epoch < r->peer_epoch) {
    recv_end(r, DW_DIVERGED, true, "its epoch went back from %llu to %llu", (ull)r->peer_epoch, (ull)f->h.epoch);
    return;
  }
  int rc = dispatch(r, f);
  if (r->welcome.node_id) r->peer_epoch = f->h.epoch;
  if (rc) recv_end_detail(r, rc, true);
}

void recv_read_frames(struct receiver *r) {
  struct frame f;
  while (ready(r)) {
    frame_reader_accept(&r->in, accepted(r));
    int rc = frame_reader_next(&r->in, &f);
    if (rc == DW_NOT_FOUND) return;
    if (rc) {
      recv_end(r, rc, true, "%s", r->in.error);
      return;
    }
    on_frame(r, &f);
  }
}
