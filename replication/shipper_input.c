/* What the follower says, and what follows from it. Nothing in a frame is believed further than it can be checked:
 * marks are clamped to what was sent, offers are compared with the manifest, and whatever is out of order ends the
 * connection with a REFUSE that names it.
 */
#include <stdio.h>

#include "replication/shipper_internal.h"

typedef unsigned long long ull;

/* ---- HELLO and its answer ------------------------------------------------------------------ */

static void on_hello(struct shipper *s, const struct frame *f) {
  struct msg_hello h;
  int rc = msg_get_hello(f, &h);
  if (rc) {
    ship_end_detail(s, rc);
    return;
  }
  bool again = s->have_hello;
  if (again && (h.node_id != s->hello.node_id || !hash128_eq(&h.incarnation, &s->hello.incarnation))) {
    ship_end(s, DW_CORRUPT, 0, true, "another node's HELLO on the same connection");
    return;
  }
  s->hello = h;
  s->have_hello = true;
  if (!again)
    ship_log(s, DW_LOG_INFO, "node %llu region '%s', log ends at LSN %llu (epoch %llu), applied %llu", (ull)h.node_id,
             h.region, (ull)h.tail.lsn, (ull)h.tail.epoch, (ull)h.applied.lsn);
  if (h.node_id == s->cfg.node_id) {
    bool self = hash128_eq(&h.incarnation, &s->cfg.incarnation);
    ship_end(s, self ? DW_INVALID : DW_LOCKED, 0, true,
             self ? "connected to itself (node id %llu)" : "node id %llu is taken by the node that serves here",
             (ull)h.node_id);
  } else if (h.role == DW_PRIMARY) {
    ship_end(s, DW_INVALID, 0, true, "node %llu is a primary itself and can't follow", (ull)h.node_id);
  } else if (hash128_zero(&s->cfg.cluster_id)) {
    ship_end(s, DW_STALE, 0, true, "this follower has no data of its own yet");
  } else if (!hash128_zero(&h.cluster_id) && !hash128_eq(&h.cluster_id, &s->cfg.cluster_id)) {
    char theirs[33], ours[33];
    hash128_hex(&h.cluster_id, theirs);
    hash128_hex(&s->cfg.cluster_id, ours);
    ship_end(s, DW_DIVERGED, 1, true, "node %llu is of cluster %s, this is cluster %s", (ull)h.node_id, theirs, ours);
  } else if (++s->rounds > SHIP_MAX_ROUNDS) {
    ship_end(s, DW_DIVERGED, 0, true, "no common position found in %u rounds", SHIP_MAX_ROUNDS);
  } else {
    s->me.version = h.version_max < MSG_VERSION_MAX ? h.version_max : MSG_VERSION_MAX;
    s->phase = SHIP_LOCATING;
    s->locate = ASK_WANTED;
    ship_set_state(s, DW_PEER_CONNECTING);
  }
}

static bool send_welcome(struct shipper *s, enum msg_follows follows, const struct wal_pos *pos) {
  struct msg_welcome w = {.version = s->me.version,
                          .follows = (uint8_t)follows,
                          .role = (uint8_t)s->cfg.role,
                          .heartbeat_ms = s->cfg.heartbeat_ms,
                          .cluster_id = s->cfg.cluster_id,
                          .node_id = s->cfg.node_id,
                          .incarnation = s->cfg.incarnation,
                          .epoch = s->me.epoch,
                          .commit_lsn = s->commit,
                          .tail_lsn = s->tail.lsn,
                          .pos = *pos};
  struct buf b = {0};
  if (msg_put_welcome(&b, &s->me, &w)) {
    ship_end(s, DW_NO_MEMORY, 0, false, "no memory for WELCOME");
    return false;
  }
  s->in.version = s->me.version;
  return ship_push(s, &b);
}

static void start_stream(struct shipper *s, const struct wal_pos *from) {
  if (!send_welcome(s, FOLLOWS_STREAM, from)) return;
  s->phase = SHIP_STREAMING;
  s->sent = *from;
  wal_packer_free(s->packer); /* the other side begins anew, too */
  s->packer = NULL;
  s->told_commit = s->commit;
  s->want_log = true;
  s->live = false;
  s->rounds = 0;
  s->marks = (struct msg_ack){.staleness_ms = UINT64_MAX};
  ship_set_state(s, DW_PEER_CATCHING_UP);
  ship_log(s, DW_LOG_INFO, "streaming from LSN %llu", (ull)from->lsn + 1);
}

void shipper_located(struct shipper *s, int rc, const struct position_decision *d, const char *text, uint64_t now_ns) {
  ship_clock(s, now_ns);
  s->locate = ASK_NO;
  if (s->phase != SHIP_LOCATING) return;
  if (rc) {
    ship_end(s, DW_CLOSED, 0, true, "can't tell where to continue: %s", text ? text : dw_rc_name(rc));
    return;
  }
  if (d->kind != POSITION_STREAM)
    ship_log(s, d->kind == POSITION_REFUSE ? DW_LOG_WARN : DW_LOG_INFO, "node %llu: %s", (ull)s->hello.node_id,
             d->text);
  switch (d->kind) {
  case POSITION_STREAM: start_stream(s, &d->pos); break;
  case POSITION_TRUNCATE:
    if (send_welcome(s, FOLLOWS_TRUNCATE, &d->pos)) s->phase = SHIP_HANDSHAKE;
    break;
  case POSITION_BOOTSTRAP:
    if (!send_welcome(s, FOLLOWS_BOOTSTRAP, &d->parted)) break;
    s->phase = SHIP_BOOTSTRAPPING;
    s->make = ASK_WANTED;
    s->moved_ns = s->now_ns;
    ship_set_state(s, DW_PEER_BOOTSTRAPPING);
    break;
  case POSITION_REFUSE: ship_end(s, d->code, d->lsn, true, "%s", d->text); break;
  }
  shipper_tick(s, now_ns);
}

/* ---- streaming ----------------------------------------------------------------------------- */

static dw_lsn clamp(dw_lsn said, dw_lsn had, dw_lsn sent) {
  dw_lsn to = said < sent ? said : sent;
  return to > had ? to : had;
}

static void on_ack(struct shipper *s, const struct frame *f) {
  struct msg_ack m;
  msg_get_ack(f, &m);
  s->marks.staleness_ms = m.staleness_ms;
  s->marks_changed = true;
  /* A follower that has not made our epoch's record durable may still lose its log's end to another candidate, so
   * what it acknowledges of earlier epochs does not count yet (docs/decisions/0007). */
  if (f->h.epoch < s->tail.epoch) return;
  s->marks.received = clamp(m.received, s->marks.received, s->sent.lsn);
  s->marks.durable = clamp(m.durable, s->marks.durable, s->sent.lsn);
  s->marks.applied = clamp(m.applied, s->marks.applied, s->sent.lsn);
}

static void on_probe(struct shipper *s, const struct frame *f) {
  struct msg_probe m;
  if (msg_get_probe(f, &m)) {
    ship_end(s, DW_CORRUPT, 0, true, "PROBE: reserved bytes are not zero");
    return;
  }
  if (m.hops >= MSG_MAX_HOPS) return; /* it runs in a circle; unanswered, it confirms nothing */
  s->probes[(s->probe_head + s->probe_count++) % SHIP_PROBES] = m;
}

void shipper_probe_answer(struct shipper *s, const struct msg_probe *p, dw_lsn strong_lsn, uint64_t now_ns) {
  ship_clock(s, now_ns);
  if (s->phase != SHIP_STREAMING) return;
  struct msg_probe_answer m = {.id = p->id, .mono_ns = p->mono_ns, .commit_lsn = strong_lsn};
  struct buf b = {0};
  if (msg_put_probe_answer(&b, &s->me, &m))
    ship_end(s, DW_NO_MEMORY, 0, false, "no memory for a frame");
  else
    ship_push(s, &b);
}

/* ---- bootstrap ----------------------------------------------------------------------------- */

static int on_want(struct shipper *s, const struct frame *f) {
  struct msg_ckpt_want w;
  int rc = msg_get_ckpt_want(f, &w);
  if (rc) return rc;
  if (!s->have_ckpt) return dw_fail(DW_CORRUPT, "CKPT_WANT before the manifest");
  return ckpt_sender_want(&s->ckpt, &w);
}

static int on_ckpt_ack(struct shipper *s, const struct frame *f) {
  struct msg_ckpt_ack m;
  msg_get_ckpt_ack(f, &m);
  return ckpt_sender_ack(&s->ckpt, m.bytes);
}

static int on_installed(struct shipper *s, const struct frame *f) {
  struct hash128 id;
  msg_get_id(f, &id);
  if (!s->done_sent || !hash128_eq(&id, &s->ckpt.manifest.id))
    return dw_fail(DW_CORRUPT, "CKPT_INSTALLED of what was not sent");
  ship_log(s, DW_LOG_INFO, "installed the checkpoint at LSN %llu (%llu bytes)", (ull)s->ckpt.manifest.pos.lsn,
           (ull)s->ckpt.manifest.total_bytes);
  s->drop = true;
  s->drop_id = id;
  s->done_sent = s->have_ckpt = false;
  ckpt_sender_free(&s->ckpt);
  s->phase = SHIP_HANDSHAKE;
  return DW_OK;
}

/* ---- frames -------------------------------------------------------------------------------- */

/* Is it one of this cluster? It said so in HELLO, or came into the cluster on this connection. A REFUSE may also come
 * from somebody who has said nothing yet, and that one's word must not fence a primary. */
static bool is_ours(const struct shipper *s) {
  return s->have_hello && (s->phase == SHIP_STREAMING || hash128_eq(&s->hello.cluster_id, &s->cfg.cluster_id));
}

static void on_refuse(struct shipper *s, const struct frame *f) {
  struct msg_refuse m;
  if (msg_get_refuse(f, &m)) {
    ship_end(s, DW_CORRUPT, 0, false, "a REFUSE that can't be read");
    return;
  }
  if (m.code == DW_FENCED && m.lsn && f->h.epoch > s->tail.epoch && is_ours(s)) {
    s->heard_epoch = f->h.epoch;
    s->heard_node = m.lsn;
  }
  ship_end(s, m.code, 0, false, "it refuses: %s", m.text);
}

static void on_frame(struct shipper *s, const struct frame *f) {
  int rc = DW_OK;
  if (s->have_hello && f->h.sender != s->hello.node_id) {
    ship_end(s, DW_CORRUPT, 0, true, "a frame of node %llu on the connection of node %llu", (ull)f->h.sender,
             (ull)s->hello.node_id);
    return;
  }
  if (s->phase == SHIP_STREAMING && f->h.epoch > s->tail.epoch && f->h.type != MSG_REFUSE) {
    ship_end(s, DW_DIVERGED, 0, true, "node %llu is at epoch %llu, this log at %llu", (ull)s->hello.node_id,
             (ull)f->h.epoch, (ull)s->tail.epoch);
    return;
  }
  switch (f->h.type) {
  case MSG_HELLO: on_hello(s, f); break;
  case MSG_FETCH: ship_on_fetch(s, f); break;
  case MSG_FENCE: ship_on_fence(s, f); break;
  case MSG_ACK: on_ack(s, f); break;
  case MSG_PROBE: on_probe(s, f); break;
  case MSG_REFUSE: on_refuse(s, f); break;
  case MSG_CKPT_WANT: rc = on_want(s, f); break;
  case MSG_CKPT_ACK: rc = on_ckpt_ack(s, f); break;
  case MSG_CKPT_INSTALLED: rc = on_installed(s, f); break;
  default: break; /* HEARTBEAT: its arrival is its meaning */
  }
  if (f->h.type == MSG_CKPT_WANT || f->h.type == MSG_CKPT_ACK) s->moved_ns = s->now_ns;
  if (rc) ship_end_detail(s, rc);
}

void ship_read_frames(struct shipper *s) {
  struct frame f;
  while (ship_open(s) && s->probe_count < SHIP_PROBES) {
    ship_accept(s);
    int rc = frame_reader_next(&s->in, &f);
    if (rc == DW_NOT_FOUND) return;
    if (rc) { /* a stranger gets no answer, a known follower a reason */
      ship_end(s, rc, 0, s->have_hello, "%s", s->in.error);
      return;
    }
    on_frame(s, &f);
  }
}
