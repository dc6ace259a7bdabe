/* What goes to the follower: blocks in frames, commit_lsn, checkpoint chunks. All of it stops while the output is full;
 * that is the whole of the flow control towards the socket.
 */
#include <stdio.h>

#include "replication/shipper_internal.h"

typedef unsigned long long ull;

/* ---- blocks -------------------------------------------------------------------------------- */

static void went_out(struct shipper *s, const struct wal_block *last) {
  s->sent = (struct wal_pos){block_last_lsn(&last->h), last->h.epoch, last->h.chain};
  if (s->commit > s->told_commit) s->told_commit = s->commit;
}

/* One frame of blocks [0, n), their bytes by reference. */
static int push_frame(struct shipper *s, struct wal_block **blocks, size_t n, size_t bytes) {
  uint8_t head[MSG_HEADER_BYTES + MSG_BLOCKS_PREFIX_BYTES];
  msg_blocks_head(&s->me, s->commit, (uint32_t)n, bytes, head);
  if (s->out.bytes == 0) s->out_ns = s->now_ns;
  int rc = outq_reserve(&s->out, n + 1);
  if (rc == DW_OK) rc = outq_push_copy(&s->out, head, sizeof head);
  for (size_t i = 0; rc == DW_OK && i < n; i++) rc = outq_push_block(&s->out, blocks[i]);
  if (rc) return rc;
  went_out(s, blocks[n - 1]);
  return DW_OK;
}

/* One frame of small blocks [0, n), packed: the better the more of them go together, and the more went before. */
static int push_pack(struct shipper *s, struct wal_block **blocks, size_t n) {
  struct msg_packed m = {.commit_lsn = s->commit, .count = (uint32_t)n, .chain = blocks[n - 1]->h.chain};
  struct buf b = {0};
  int rc = s->packer ? DW_OK : wal_packer_create(&s->packer);
  if (rc == DW_OK) rc = buf_reserve(&b, MSG_HEADER_BYTES + MSG_PACKED_PREFIX_BYTES);
  if (rc == DW_OK) b.len = MSG_HEADER_BYTES + MSG_PACKED_PREFIX_BYTES;
  if (rc == DW_OK) rc = wal_pack(s->packer, &s->sent, blocks, n, &b, &m.plain);
  if (rc == DW_OK) {
    msg_packed_head(&s->me, &m, &b);
    if (s->out.bytes == 0) s->out_ns = s->now_ns;
    rc = outq_push_buf(&s->out, &b);
  }
  buf_free(&b);
  if (rc == DW_OK) went_out(s, blocks[n - 1]);
  return rc;
}

/* Does the rate allow a pack now? It is paid for afterwards. */
static bool may_pack(const struct shipper *s) {
  return s->me.version >= MSG_VERSION_PACKED && s->pack_rate && s->pack_due_ns <= s->now_ns;
}

static void pay_pack(struct shipper *s, size_t bytes) {
  uint64_t from = s->now_ns > SHIP_PACK_BURST_NS ? s->now_ns - SHIP_PACK_BURST_NS : 0;
  if (s->pack_due_ns < from) s->pack_due_ns = from;
  s->pack_due_ns += bytes * 1000000000ull / s->pack_rate;
}

/* Runs of small blocks as packs, the others as they are: as many to a frame as fit its bounds, a bigger one alone. */
static int push_blocks(struct shipper *s, struct wal_block **blocks, size_t n) {
  for (size_t from = 0, i = 0; from < n; from = i) {
    bool pack = s->packing = may_pack(s) && wal_packs(blocks[from]);
    const size_t most = pack ? WAL_PACK_BYTES : MSG_BLOCKS_BATCH_BYTES;
    size_t bytes = 0;
    do {
      bytes += block_total_bytes(&blocks[i++]->h);
    } while (i < n && bytes + block_total_bytes(&blocks[i]->h) <= most &&
             wal_packs(blocks[i]) == wal_packs(blocks[from]));
    int rc = pack ? push_pack(s, blocks + from, i - from) : push_frame(s, blocks + from, i - from, bytes);
    if (rc) return rc;
    if (pack) pay_pack(s, bytes);
  }
  return DW_OK;
}

void shipper_blocks(struct shipper *s, int rc, struct wal_block **blocks, size_t n, bool at_end, bool live,
                    const char *text, uint64_t now_ns) {
  ship_clock(s, now_ns);
  s->read = ASK_NO;
  if (s->phase == SHIP_STREAMING) {
    if (rc) {
      ship_end(s, DW_CLOSED, 0, true, "can't read the log after LSN %llu: %s", (ull)s->sent.lsn,
               text ? text : dw_rc_name(rc));
    } else {
      if (n && push_blocks(s, blocks, n)) ship_end(s, DW_NO_MEMORY, 0, false, "no memory for blocks");
      if (n && !at_end) s->want_log = true;
      s->live = live;
      if (ship_open(s)) ship_set_state(s, live ? DW_PEER_STREAMING : DW_PEER_CATCHING_UP);
    }
  }
  for (size_t i = 0; i < n; i++) wal_block_unref(blocks[i]);
  shipper_tick(s, now_ns);
}

/* When no BLOCKS frame is about to carry it. */
void ship_tell_commit(struct shipper *s) {
  if (s->phase != SHIP_STREAMING || s->commit <= s->told_commit || s->want_log || s->read != ASK_NO) return;
  if (s->out.bytes > SHIP_SMALL_BYTES) return;
  struct buf b = {0};
  if (msg_put_commit(&b, &s->me, s->commit))
    ship_end(s, DW_NO_MEMORY, 0, false, "no memory for a frame");
  else if (ship_push(s, &b))
    s->told_commit = s->commit;
}

/* Once for all changes while the output is full. */
void ship_tell_members(struct shipper *s) {
  if (!s->members_due || (s->phase != SHIP_STREAMING && s->phase != SHIP_BOOTSTRAPPING)) return;
  if (!s->hello.has_member || s->members->count == 0 || s->out.bytes > SHIP_SMALL_BYTES) return;
  struct buf b = {0};
  s->members_due = false;
  if (msg_put_members(&b, &s->me, s->members))
    ship_end(s, DW_NO_MEMORY, 0, false, "no memory for a frame");
  else
    ship_push(s, &b);
}

/* ---- checkpoint ---------------------------------------------------------------------------- */

void shipper_checkpoint(struct shipper *s, int rc, struct ckpt_manifest *m, const char *text, uint64_t now_ns) {
  ship_clock(s, now_ns);
  s->make = ASK_NO;
  if (s->phase != SHIP_BOOTSTRAPPING) {
    if (rc == DW_OK) ckpt_manifest_free(m);
    return;
  }
  if (rc) {
    ship_end(s, DW_CLOSED, 0, true, "no checkpoint to start from: %s", text ? text : dw_rc_name(rc));
    shipper_tick(s, now_ns);
    return;
  }
  struct buf b = {0};
  rc = msg_put_ckpt_manifest(&b, &s->me, m);
  if (rc == DW_OK) {
    ship_log(s, DW_LOG_INFO, "sending a checkpoint at LSN %llu: %u files, %llu bytes", (ull)m->pos.lsn, m->count,
             (ull)m->total_bytes);
    rc = ckpt_sender_init(&s->ckpt, m);
    s->have_ckpt = rc == DW_OK;
    s->moved_ns = s->now_ns;
  }
  if (rc) {
    char why[MSG_TEXT_BYTES];
    dw_error_copy(why, sizeof why);
    ckpt_manifest_free(m);
    ship_end(s, rc, 0, true, "%s", why);
  } else {
    ship_push(s, &b);
  }
  buf_free(&b);
  shipper_tick(s, now_ns);
}

void shipper_chunk(struct shipper *s, int rc, const void *data, const char *text, uint64_t now_ns) {
  ship_clock(s, now_ns);
  s->chunk = ASK_NO;
  if (s->phase != SHIP_BOOTSTRAPPING || !s->have_ckpt) return;
  if (rc) {
    ship_end(s, DW_CLOSED, 0, true, "the checkpoint can't be read: %s", text ? text : dw_rc_name(rc));
    shipper_tick(s, now_ns);
    return;
  }
  uint32_t file = 0, n = 0, skip = 0;
  uint64_t off = 0;
  if (ckpt_sender_next(&s->ckpt, &file, &off, &n) != CKPT_READ) return;
  ckpt_sender_read(&s->ckpt, data, n, &skip);
  s->moved_ns = s->now_ns;
  if (skip < n) {
    const uint8_t *p = (const uint8_t *)data + skip;
    struct buf b = {0};
    if (buf_reserve(&b, MSG_HEADER_BYTES + MSG_CHUNK_PREFIX_BYTES + n - skip)) {
      ship_end(s, DW_NO_MEMORY, 0, false, "no memory for a chunk");
    } else {
      msg_chunk_head(&s->me, file, off + skip, p, n - skip, b.data);
      memcpy(b.data + MSG_HEADER_BYTES + MSG_CHUNK_PREFIX_BYTES, p, n - skip);
      b.len = MSG_HEADER_BYTES + MSG_CHUNK_PREFIX_BYTES + n - skip;
      ship_push(s, &b);
    }
  }
  shipper_tick(s, now_ns);
}

static int push_file_end(struct shipper *s) {
  struct msg_ckpt_file_end m = {.file = s->ckpt.file};
  struct buf b = {0};
  int rc = ckpt_sender_file_end(&s->ckpt, &m.hash);
  if (rc == DW_OK) rc = msg_put_ckpt_file_end(&b, &s->me, &m);
  if (rc == DW_OK) ship_push(s, &b);
  return rc;
}

static int push_done(struct shipper *s) {
  struct buf b = {0};
  int rc = msg_put_ckpt_done(&b, &s->me, &s->ckpt.manifest.id);
  if (rc == DW_OK) ship_push(s, &b);
  s->done_sent = true;
  return rc;
}

void ship_move_checkpoint(struct shipper *s) {
  while (s->phase == SHIP_BOOTSTRAPPING && s->have_ckpt && s->chunk == ASK_NO && !s->done_sent &&
         s->out.bytes < s->cfg.max_output_bytes) {
    uint32_t file, n;
    uint64_t off;
    int rc = DW_OK;
    switch (ckpt_sender_next(&s->ckpt, &file, &off, &n)) {
    case CKPT_WAIT: return;
    case CKPT_READ: s->chunk = ASK_WANTED; return;
    case CKPT_FILE_END: rc = push_file_end(s); break;
    case CKPT_DONE: rc = push_done(s); break;
    }
    if (rc) ship_end(s, DW_NO_MEMORY, 0, false, "no memory for the checkpoint");
  }
}
