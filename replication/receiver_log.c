/* Streaming: blocks into the log, syncs, acks, probes.
 *
 * A block from the wire is judged before the engine sees it: its own checksums (wal_block_parse), then that it
 * continues exactly what came before, by LSN, epoch and chain hash. What fails ends the connection; nothing of it is
 * written.
 */
#include <stdio.h>
#include <stdlib.h>

#include "replication/receiver_internal.h"

typedef unsigned long long ull;

void recv_batch_drop(struct recv_batch *b) {
  for (size_t i = 0; i < b->n; i++) wal_block_unref(b->blocks[i]);
  b->n = b->bytes = 0;
}

static int batch_add(struct recv_batch *b, struct wal_block *block, size_t bytes) {
  if (b->n == b->cap) {
    size_t cap = b->cap ? 2 * b->cap : 64;
    struct wal_block **grown = realloc(b->blocks, cap * sizeof *grown);
    if (!grown) return dw_fail_nomem(cap * sizeof *grown);
    b->blocks = grown;
    b->cap = cap;
  }
  b->blocks[b->n++] = block;
  b->bytes += bytes;
  return DW_OK;
}

void recv_start_stream(struct receiver *r) {
  r->phase = RP_STREAMING;
  r->stream_ns = r->now_ns;
  r->refused = r->cfg.rejoin_once = false;
  r->seek.rounds = 0;
  r->end_text[0] = 0;
  r->expect = r->pos.tail;
  wal_unpacker_free(r->unpacker); /* the other side begins anew, too */
  r->unpacker = NULL;
  r->received = r->pos.tail.lsn;
  r->durable = r->pos.durable_lsn;
  if (r->applied < r->pos.applied.lsn) r->applied = r->pos.applied.lsn;
  staleness_applied(&r->stale, r->applied);
  r->commit = r->told_commit = 0; /* the engine forgot what it knew if it had to cut: tell it again */
  recv_commit(r, r->welcome.commit_lsn);
  r->upstream_commit = r->welcome.commit_lsn;
  r->upstream_tail = r->welcome.tail_lsn;
  /* What an earlier connection appended may be unsynced still, an epoch record without an LSN of its own included. */
  r->sync_now = r->pos.tail.epoch != 0;
  r->me.epoch = r->sync_epoch = 0; /* until then we vouch for no epoch */
  r->lazy_bytes = r->lazy_ns = 0;
  r->want_applied = 0;
  r->ack_now = true;
  r->ack_ns = 0;
  r->probe_ns = r->now_ns > r->cfg.probe_ns ? r->now_ns - r->cfg.probe_ns : 0; /* due */
  r->fresh_changed = true;
  recv_log(r, DW_LOG_INFO, "following node %llu, epoch %llu, from LSN %llu", (ull)r->welcome.node_id,
           (ull)r->welcome.epoch, (ull)r->pos.tail.lsn + 1);
}

/* ---- blocks -------------------------------------------------------------------------------- */

static int check_continues(const struct receiver *r, const struct wal_block *b) {
  if (b->h.epoch < r->expect.epoch)
    return dw_fail(DW_DIVERGED, "a block of epoch %llu after epoch %llu: it is not the newest primary", (ull)b->h.epoch,
                   (ull)r->expect.epoch);
  if (b->h.first_lsn != r->expect.lsn + 1)
    return dw_fail(DW_CORRUPT, "a block of LSN %llu after LSN %llu", (ull)b->h.first_lsn, (ull)r->expect.lsn);
  if (!block_chain_ok(b->bytes, &r->expect.chain))
    return dw_fail(DW_CORRUPT, "the block of LSN %llu does not continue this log (chain hash)", (ull)b->h.first_lsn);
  return DW_OK;
}

/* Judges a block and gathers it; the reference is ours in every case. */
static int take_block(struct receiver *r, struct wal_block *b) {
  int rc = check_continues(r, b);
  struct wal_pos end = {block_last_lsn(&b->h), b->h.epoch, b->h.chain};
  if (rc == DW_OK) rc = batch_add(&r->batch, b, block_total_bytes(&b->h));
  if (rc)
    wal_block_unref(b);
  else
    r->expect = end;
  return rc;
}

static void took_blocks(struct receiver *r, dw_lsn commit_lsn) {
  if (r->expect.lsn > r->upstream_tail) r->upstream_tail = r->expect.lsn;
  recv_commit(r, commit_lsn);
}

int recv_on_packed(struct receiver *r, const struct frame *f) {
  struct msg_packed m;
  struct wal_block *blocks[WAL_PACK_BLOCKS];
  int rc = msg_get_packed(f, &m);
  if (rc == DW_OK && !r->unpacker) rc = wal_unpacker_create(&r->unpacker);
  if (rc == DW_OK) rc = wal_unpack(r->unpacker, &r->expect, m.pack, m.bytes, m.plain, &m.chain, blocks, m.count);
  if (rc) return rc;
  for (uint32_t i = 0; i < m.count; i++) {
    if (rc)
      wal_block_unref(blocks[i]);
    else
      rc = take_block(r, blocks[i]);
  }
  if (rc == DW_OK) took_blocks(r, m.commit_lsn);
  return rc;
}

int recv_on_blocks(struct receiver *r, const struct frame *f) {
  struct msg_blocks m;
  size_t off = 0;
  int rc = msg_get_blocks(f, &m);
  for (uint32_t i = 0; rc == DW_OK && i < m.count; i++) {
    const uint8_t *bytes;
    size_t n;
    struct wal_block *b = NULL;
    rc = msg_blocks_next(&m, &off, &bytes, &n);
    if (rc == DW_OK) rc = wal_block_parse(bytes, n, &b);
    if (rc == DW_OK) rc = take_block(r, b);
  }
  if (rc) return rc;
  if (off != m.bytes) return dw_fail(DW_CORRUPT, "BLOCKS: %zu bytes too many", m.bytes - off);
  took_blocks(r, m.commit_lsn);
  return DW_OK;
}

/* What the blocks being appended ask of us; noted before the driver gets them. */
static void note_needs(struct receiver *r, bool *received_waits) {
  *received_waits = false;
  for (size_t i = 0; i < r->appending.n; i++) {
    const struct block_header *h = &r->appending.blocks[i]->h;
    if (h->need.mode == DW_ASYNC) continue;
    r->sync_now = true;
    if (h->need.ack == DW_ACK_RECEIVED) *received_waits = true;
    if (h->need.ack == DW_ACK_APPLIED) r->want_applied = block_last_lsn(h);
  }
}

static void ack_soon(struct receiver *r) {
  if (!r->ack_ns) r->ack_ns = r->now_ns + RECV_LAZY_SYNC_NS;
}

void receiver_appended(struct receiver *r, int rc, const struct wal_pos *tail, const char *text, uint64_t now_ns) {
  bool received_waits = false;
  size_t bytes = r->appending.bytes;
  if (r->store == RS_APPEND && r->store_open) note_needs(r, &received_waits);
  if (recv_answer(r, RS_APPEND, rc, text, now_ns)) {
    r->pos.tail = *tail;
    r->received = tail->lsn;
    r->lazy_bytes += bytes;
    if (!r->lazy_ns) r->lazy_ns = r->now_ns ? r->now_ns : 1;
    if (received_waits) r->ack_now = true;
    ack_soon(r);
  }
  recv_advance(r);
}

void receiver_synced(struct receiver *r, int rc, dw_lsn durable, const char *text, uint64_t now_ns) {
  if (recv_answer(r, RS_SYNC, rc, text, now_ns)) {
    if (durable > r->durable) r->durable = durable;
    r->me.epoch = r->sync_epoch;
    r->ack_now = true;
  }
  recv_advance(r);
}

void receiver_applied(struct receiver *r, dw_lsn applied, uint64_t now_ns) {
  recv_clock(r, now_ns);
  if (applied > r->applied) {
    uint64_t before = receiver_fresh_as_of(r);
    if (r->applied < r->want_applied) r->ack_now = true;
    r->applied = applied;
    staleness_applied(&r->stale, applied);
    if (receiver_fresh_as_of(r) != before) r->fresh_changed = true;
    ack_soon(r);
  }
  recv_advance(r);
}

/* ---- acks and probes ----------------------------------------------------------------------- */

void recv_send_ack(struct receiver *r) {
  uint64_t age = staleness_ns(&r->stale, r->now_ns);
  struct msg_ack m = {.received = r->received,
                      .durable = r->durable,
                      .applied = r->applied,
                      .staleness_ms = age == UINT64_MAX ? age : age / 1000000};
  struct buf b = {0};
  r->ack_now = false;
  r->ack_ns = 0;
  recv_push(r, msg_put_ack(&b, &r->me, &m), &b);
}

static uint64_t send_probe(struct receiver *r, uint8_t hops, bool awaited) {
  if (r->phase != RP_STREAMING || r->out.bytes > 65536) return 0;
  struct msg_probe m = {.id = staleness_sent(&r->stale, r->now_ns, awaited), .mono_ns = r->now_ns, .hops = hops};
  struct buf b = {0};
  return recv_push(r, msg_put_probe(&b, &r->me, &m), &b) ? m.id : 0;
}

uint64_t receiver_probe(struct receiver *r, uint8_t hops, uint64_t now_ns) {
  recv_clock(r, now_ns);
  return send_probe(r, hops, true);
}

static void probe_if_due(struct receiver *r) {
  if (r->now_ns - r->probe_ns < r->cfg.probe_ns) return;
  r->probe_ns = r->now_ns;
  send_probe(r, 0, false);
}

/* ---- what comes next ----------------------------------------------------------------------- */

static void next_store(struct receiver *r) {
  if (r->store != RS_IDLE) return;
  bool lazy = r->lazy_ns && (r->now_ns - r->lazy_ns >= RECV_LAZY_SYNC_NS || r->lazy_bytes >= RECV_LAZY_SYNC_BYTES);
  if (r->sync_now || lazy) { /* before the next append: what was appended is all that was at hand */
    r->sync_now = false;
    r->lazy_ns = r->lazy_bytes = 0;
    r->sync_epoch = r->pos.tail.epoch;
    recv_ask(r, RS_SYNC);
  } else if (r->batch.n) {
    struct recv_batch empty = r->appending;
    r->appending = r->batch;
    r->batch = empty;
    recv_ask(r, RS_APPEND);
  }
}

void recv_move_log(struct receiver *r) {
  if (r->phase != RP_STREAMING) return;
  probe_if_due(r);
  next_store(r);
  /* A due ack, unless the primary is not taking what it has. */
  if (r->phase == RP_STREAMING && (r->ack_now || (r->ack_ns && r->now_ns >= r->ack_ns)) && r->out.bytes < RECV_ACK_ROOM)
    recv_send_ack(r);
}
