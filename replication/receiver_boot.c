/* Before streaming: WELCOME and where it leads. Adopting a cluster, cutting an unapplied tail, taking a checkpoint. The
 * follower checks every order that would cost data: a primary can't talk it out of what it has applied, into another
 * cluster's history, or back to an older epoch.
 */
#include <stdio.h>
#include <stdlib.h>

#include "replication/receiver_internal.h"

typedef unsigned long long ull;

/* ---- WELCOME ------------------------------------------------------------------------------- */

static int check_identity(const struct receiver *r, const struct msg_welcome *w) {
  if (w->node_id == r->cfg.node_id) {
    if (hash128_eq(&w->incarnation, &r->cfg.incarnation))
      return dw_fail(DW_INVALID, "connected to itself (node id %llu)", (ull)w->node_id);
    return dw_fail(DW_LOCKED, "the other side has the same node id %llu", (ull)w->node_id);
  }
  if (r->welcome.node_id && (w->node_id != r->welcome.node_id || !hash128_eq(&w->cluster_id, &r->welcome.cluster_id)))
    return dw_fail(DW_CORRUPT, "WELCOME of another node on the same connection");
  if (r->pos.has_cluster && !hash128_eq(&w->cluster_id, &r->pos.cluster_id)) {
    char theirs[33], ours[33];
    hash128_hex(&w->cluster_id, theirs);
    hash128_hex(&r->pos.cluster_id, ours);
    return dw_fail(DW_DIVERGED, "it is of cluster %s, this directory of cluster %s", theirs, ours);
  }
  if (w->epoch < r->pos.tail.epoch)
    return dw_fail(DW_DIVERGED, "it is at epoch %llu, this log has followed epoch %llu: it is not the newest primary",
                   (ull)w->epoch, (ull)r->pos.tail.epoch);
  if (w->epoch < r->cfg.min_epoch)
    return dw_fail(DW_FENCED, "it is at epoch %llu, this node has promised epoch %llu to node %llu", (ull)w->epoch,
                   (ull)r->cfg.min_epoch, (ull)r->cfg.min_node);
  return DW_OK;
}

static int on_stream(struct receiver *r, const struct msg_welcome *w) {
  struct wal_pos from = r->pos.has_cluster ? r->pos.tail : wal_genesis(&w->cluster_id);
  if (w->pos.lsn != from.lsn || !hash128_eq(&w->pos.chain, &from.chain))
    return dw_fail(DW_CORRUPT, "it offers blocks after LSN %llu, this log ends at LSN %llu", (ull)w->pos.lsn,
                   (ull)from.lsn);
  if (r->pos.has_cluster)
    recv_start_stream(r);
  else
    recv_ask(r, RS_ADOPT);
  return DW_OK;
}

static int on_truncate(struct receiver *r, const struct msg_welcome *w) {
  if (!r->pos.has_cluster || w->pos.lsn > r->pos.tail.lsn)
    return dw_fail(DW_CORRUPT, "told to cut back to LSN %llu, this log ends at LSN %llu", (ull)w->pos.lsn,
                   (ull)r->pos.tail.lsn);
  if (wal_pos_before(&w->pos, &r->pos.applied)) /* an epoch record uses no LSN */
    return dw_fail(DW_DIVERGED, "told to cut back to LSN %llu of epoch %llu, but LSN %llu is applied here (epoch %llu)",
                   (ull)w->pos.lsn, (ull)w->pos.epoch, (ull)r->pos.applied.lsn, (ull)r->pos.applied.epoch);
  r->cut = w->pos;
  recv_ask(r, RS_TRUNCATE);
  return DW_OK;
}

/* pos: where our history leaves its own, if it does. What lies beyond is kept before the checkpoint may come. */
static int on_bootstrap(struct receiver *r, const struct msg_welcome *w) {
  if (hash128_zero(&w->pos.chain)) {
    r->phase = RP_BOOTSTRAPPING;
    return DW_OK;
  }
  if (!r->pos.has_cluster) return dw_fail(DW_CORRUPT, "told where histories part, but there is no log here");
  if (wal_pos_before(&w->pos, &r->pos.applied) && !recv_may_rejoin(r))
    return dw_fail(DW_DIVERGED, "histories part after LSN %llu, but LSN %llu is applied here", (ull)w->pos.lsn,
                   (ull)r->pos.applied.lsn);
  r->cut = w->pos;
  recv_ask(r, RS_PART);
  return DW_OK;
}

int recv_on_welcome(struct receiver *r, const struct frame *f) {
  struct msg_welcome w;
  int rc = msg_get_welcome(f, &w);
  if (rc == DW_OK) rc = check_identity(r, &w);
  if (rc) return rc;
  if (r->seek.rounds && (w.node_id != r->seek.node_id || w.epoch != r->seek.epoch)) {
    r->seek.rounds = 0;
    return dw_fail(DW_STALE, "it is another one than whom this node had asked where histories part: asks anew");
  }
  r->welcome = w;
  r->in.version = r->me.version = w.version;
  r->upstream_tail = w.tail_lsn;
  r->upstream_commit = w.commit_lsn;
  switch (w.follows) {
  case FOLLOWS_STREAM: return on_stream(r, &w);
  case FOLLOWS_TRUNCATE: return on_truncate(r, &w);
  default: return on_bootstrap(r, &w);
  }
}

void receiver_adopted(struct receiver *r, int rc, const struct receiver_position *pos, const char *text,
                      uint64_t now_ns) {
  if (recv_answer(r, RS_ADOPT, rc, text, now_ns)) {
    r->pos = *pos;
    if (pos->tail.lsn != r->welcome.pos.lsn || !hash128_eq(&pos->tail.chain, &r->welcome.pos.chain))
      recv_end(r, DW_CLOSED, true, "the adopted log does not begin at the cluster's genesis");
    else
      recv_start_stream(r);
  }
  recv_advance(r);
}

/* The shipper is at its checkpoint already, so it is asked again on another connection. */
static void seek_older(struct receiver *r, const struct wal_pos *at) {
  unsigned rounds = r->seek.rounds + 1;
  r->seek = (struct recv_seek){rounds, *at, r->pos.tail.chain, r->welcome.node_id, r->welcome.epoch};
  if (rounds > RECV_TRUNCATE_ROUNDS) {
    r->seek.rounds = 0;
    recv_end(r, DW_DIVERGED, true, "no common position found in %d rounds", RECV_TRUNCATE_ROUNDS);
    return;
  }
  recv_end(r, DW_STALE, true, "histories part before LSN %llu of epoch %llu: asks about LSN %llu of epoch %llu next",
           (ull)r->cut.lsn, (ull)r->cut.epoch, (ull)at->lsn, (ull)at->epoch);
  r->retry_ns = r->now_ns + RECV_BACKOFF_MIN_NS;
}

void receiver_parted(struct receiver *r, int rc, const struct wal_pos *at, const char *text, uint64_t now_ns) {
  bool older = rc == DW_NOT_FOUND && at;
  if (recv_answer(r, RS_PART, older ? DW_OK : rc, text, now_ns)) {
    if (older) {
      seek_older(r, at);
    } else {
      r->parted = true;
      r->seek.rounds = 0;
      r->phase = RP_BOOTSTRAPPING;
    }
  }
  recv_advance(r);
}

void receiver_truncated(struct receiver *r, int rc, const struct receiver_position *pos, const struct wal_pos *at,
                        const char *text, uint64_t now_ns) {
  if (rc == DW_NOT_FOUND && !at) {
    rc = DW_DIVERGED;
    text = "the boundary to cut back to is not in this log, and no older one is held";
  }
  bool older = rc == DW_NOT_FOUND;
  if (recv_answer(r, RS_TRUNCATE, older ? DW_OK : rc, text, now_ns)) {
    if (older) {
      r->at = *at;
    } else {
      recv_log(r, DW_LOG_WARN, "dropped an unapplied tail: LSN %llu to %llu", (ull)pos->tail.lsn + 1,
               (ull)r->pos.tail.lsn);
      r->pos = *pos;
      r->at = pos->tail;
      r->me.epoch = pos->tail.epoch;
    }
    recv_hello(r);
  }
  recv_advance(r);
}

/* ---- checkpoint ---------------------------------------------------------------------------- */

int recv_on_manifest(struct receiver *r, const struct frame *f) {
  struct ckpt_manifest m = {0};
  if (r->ckpt.active) return dw_fail(DW_CORRUPT, "CKPT_MANIFEST: a second one");
  int rc = msg_get_ckpt_manifest(f, &m);
  if (rc) return rc;
  if (!r->parted && (m.pos.lsn < r->pos.applied.lsn || m.pos.epoch < r->pos.applied.epoch)) {
    rc = dw_fail(DW_DIVERGED, "its checkpoint is of LSN %llu, but LSN %llu is applied here", (ull)m.pos.lsn,
                 (ull)r->pos.applied.lsn);
    ckpt_manifest_free(&m);
    return rc;
  }
  recv_log(r, DW_LOG_INFO, "taking a checkpoint at LSN %llu: %u files, %llu bytes", (ull)m.pos.lsn, m.count,
           (ull)m.total_bytes);
  ckpt_receiver_init(&r->ckpt, &m);
  recv_ask(r, RS_BEGIN);
  return DW_OK;
}

void receiver_ckpt_begun(struct receiver *r, int rc, const uint64_t *offsets, const char *text, uint64_t now_ns) {
  char why[256] = "";
  if (rc == DW_OK && r->store == RS_BEGIN && r->store_open && recv_talking(r)) {
    rc = ckpt_receiver_want(&r->ckpt, offsets);
    if (rc) {
      dw_error_copy(why, sizeof why);
      text = why;
    }
  }
  if (recv_answer(r, RS_BEGIN, rc, text, now_ns)) {
    struct buf b = {0};
    const struct ckpt_manifest *m = &r->ckpt.manifest;
    r->pos.resume = m->id;
    recv_push(r, msg_put_ckpt_want(&b, &r->me, &m->id, offsets, m->count), &b);
  }
  recv_advance(r);
}

int recv_on_chunk(struct receiver *r, const struct frame *f) {
  int rc = msg_get_ckpt_chunk(f, &r->chunk);
  if (rc == DW_OK) rc = ckpt_receiver_chunk(&r->ckpt, &r->chunk);
  if (rc) return rc;
  if (!r->chunk_data) r->chunk_data = malloc(MSG_CHUNK_BYTES);
  if (!r->chunk_data) return dw_fail_nomem(MSG_CHUNK_BYTES);
  memcpy(r->chunk_data, r->chunk.data, r->chunk.bytes);
  r->chunk.data = r->chunk_data;
  recv_ask(r, RS_WRITE);
  return DW_OK;
}

void receiver_ckpt_written(struct receiver *r, int rc, const char *text, uint64_t now_ns) {
  if (recv_answer(r, RS_WRITE, rc, text, now_ns)) {
    struct buf b = {0};
    recv_push(r, msg_put_ckpt_ack(&b, &r->me, &(struct msg_ckpt_ack){r->ckpt.received}), &b);
  }
  recv_advance(r);
}

int recv_on_file_end(struct receiver *r, const struct frame *f) {
  int rc = msg_get_ckpt_file_end(f, &r->file_end);
  if (rc == DW_OK) rc = ckpt_receiver_file_end(&r->ckpt, &r->file_end);
  if (rc == DW_OK) recv_ask(r, RS_FILE_END);
  return rc;
}

void receiver_ckpt_file_done(struct receiver *r, int rc, const char *text, uint64_t now_ns) {
  recv_answer(r, RS_FILE_END, rc, text, now_ns);
  recv_advance(r);
}

int recv_on_done(struct receiver *r, const struct frame *f) {
  struct hash128 id;
  msg_get_id(f, &id);
  int rc = ckpt_receiver_done(&r->ckpt, &id);
  if (rc == DW_OK) recv_ask(r, RS_INSTALL);
  return rc;
}

void receiver_installed(struct receiver *r, int rc, const struct receiver_position *pos, const char *text,
                        uint64_t now_ns) {
  if (recv_answer(r, RS_INSTALL, rc, text, now_ns)) {
    struct buf b = {0};
    bool sent = recv_push(r, msg_put_ckpt_installed(&b, &r->me, &r->ckpt.manifest.id), &b);
    ckpt_receiver_free(&r->ckpt);
    r->pos = *pos;
    r->at = pos->tail;
    r->applied = pos->applied.lsn;
    if (r->parted) { /* how fresh the data was is no word about what took its place */
      r->stale.known = false;
      r->fresh_changed = true;
    }
    r->parted = r->cfg.rejoin_once = false;
    r->me.epoch = pos->tail.epoch;
    if (sent) recv_hello(r);
  }
  recv_advance(r);
}
