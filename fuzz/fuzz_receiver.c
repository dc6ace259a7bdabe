/* The follower's side of a conversation: the real receiver over a log in memory and a driver that obeys it; the primary
 * is the input. Frames get right headers and checksums, bodies are as good or as bad as the input makes them.
 *
 * Checked: every block handed to the engine continues the log; nothing that is applied is ever cut or replaced by an
 * older checkpoint; an ack never says more than is true; checkpoint files are written from front to back within the
 * sizes of the manifest and installed only when all are complete; storage is asked one question at a time; everything
 * it sends decodes. Input: 1 byte of choices; steps: 1 byte says which, arguments follow. */
#include "fuzz/fuzz.h"
#include "tests/support/repl_sim.h"

#define NODE 2u
#define FILES_MAX 4u

struct talk {
  struct receiver *r;
  struct memlog history; /* what an honest primary has */
  /* the follower */
  struct memlog log;
  bool has_cluster;
  dw_lsn durable, commit;
  struct wal_pos applied;
  uint64_t now;
  struct ckpt_manifest incoming;
  struct buf files[FILES_MAX];
  bool held[FILES_MAX];
  bool connected, hold, is_open;
  struct recv_action open; /* a storage question that waits for its answer */
  struct buf wire;         /* from the primary, not yet read */
  struct frame_reader reader;
  uint64_t probes[64]; /* ids that were sent, the newest ones */
  size_t probe_count;
  uint64_t sender, epoch;
  uint8_t version;
  struct wal_packer *packer; /* of this connection */
};

static struct receiver_position position(const struct talk *t) {
  return (struct receiver_position){.has_cluster = t->has_cluster,
                                    .cluster_id = t->log.cluster,
                                    .tail = t->log.end,
                                    .applied = t->applied,
                                    .durable_lsn = t->durable,
                                    .commit_lsn = t->commit,
                                    .resume = t->incoming.id};
}

/* ---- what the receiver says ------------------------------------------------------------------------ */

static void said(struct talk *t, const struct frame *f) {
  struct msg_hello hello;
  struct msg_ack ack;
  struct msg_probe probe;
  struct msg_heartbeat beat;
  struct msg_refuse refuse;
  struct msg_ckpt_want want;
  struct msg_ckpt_ack ckpt_ack;
  struct hash128 id;
  CHECK(f->h.sender == NODE);
  switch (f->h.type) {
  case MSG_HELLO:
    CHECK(msg_get_hello(f, &hello) == DW_OK && hello.tail.lsn == t->log.end.lsn && hello.applied.lsn == t->applied.lsn);
    break;
  case MSG_ACK:
    CHECK(msg_get_ack(f, &ack) == DW_OK);
    CHECK(ack.received <= t->log.end.lsn && ack.durable <= t->durable && ack.applied <= t->applied.lsn);
    break;
  case MSG_PROBE:
    CHECK(msg_get_probe(f, &probe) == DW_OK);
    t->probes[t->probe_count++ % 64] = probe.id;
    break;
  case MSG_HEARTBEAT: CHECK(msg_get_heartbeat(f, &beat) == DW_OK); break;
  case MSG_REFUSE: CHECK(msg_get_refuse(f, &refuse) == DW_OK); break;
  case MSG_CKPT_WANT: CHECK(msg_get_ckpt_want(f, &want) == DW_OK && want.count == t->incoming.count); break;
  case MSG_CKPT_ACK: CHECK(msg_get_ckpt_ack(f, &ckpt_ack) == DW_OK); break;
  case MSG_CKPT_INSTALLED: CHECK(msg_get_id(f, &id) == DW_OK); break;
  default: CHECK(false);
  }
}

static void drain(struct talk *t) {
  struct iovec iov[16];
  struct frame f;
  int n, rc;
  while (t->connected && (n = receiver_output(t->r, iov, 16)) > 0) {
    size_t taken = 0;
    for (int i = 0; i < n; i++) {
      CHECK(frame_reader_feed(&t->reader, iov[i].iov_base, iov[i].iov_len) == DW_OK);
      taken += iov[i].iov_len;
      while ((rc = frame_reader_next(&t->reader, &f)) == DW_OK) said(t, &f);
      CHECK(rc == DW_NOT_FOUND);
    }
    receiver_drained(t->r, taken, t->now);
  }
}

/* ---- storage ----------------------------------------------------------------------------------------- */

static void apply(struct talk *t) {
  struct wal_pos to = t->applied;
  for (size_t i = t->log.first; i <= t->log.n; i++) {
    struct wal_pos b = memlog_bound(&t->log, i);
    if (b.lsn <= t->commit && b.lsn >= to.lsn) to = b;
  }
  t->applied = to;
  receiver_applied(t->r, to.lsn, t->now);
}

static void append(struct talk *t, const struct recv_action *a, int rc) {
  for (size_t i = 0; rc == DW_OK && i < a->append.n; i++) {
    struct wal_block *b = a->append.blocks[i];
    CHECK(b->h.first_lsn == t->log.end.lsn + 1 && b->h.epoch >= t->log.end.epoch);
    CHECK(block_chain_ok(b->bytes, &t->log.end.chain));
    memlog_add(&t->log, wal_block_ref(b));
  }
  struct wal_pos end = t->log.end;
  receiver_appended(t->r, rc, &end, "fuzz", t->now);
  if (rc == DW_OK) apply(t);
}

static void truncate_log(struct talk *t, const struct wal_pos *to, int rc) {
  size_t i;
  struct wal_pos at, pos = *to;
  CHECK(pos.lsn >= t->applied.lsn && pos.lsn <= t->log.end.lsn);
  if (rc == DW_OK && memlog_index(&t->log, &pos, &i)) rc = DW_NOT_FOUND;
  if (rc == DW_OK) {
    memlog_truncate(&t->log, i);
    if (t->durable > pos.lsn) t->durable = pos.lsn;
    if (t->commit > pos.lsn) t->commit = pos.lsn;
  }
  bool older = rc == DW_NOT_FOUND && pos.epoch && memlog_at_most(&t->log, pos.epoch - 1, pos.lsn, &at) == DW_OK;
  struct receiver_position p = position(t);
  receiver_truncated(t->r, rc, &p, older ? &at : NULL, "fuzz", t->now);
}

static void ckpt_forget(struct talk *t) {
  ckpt_manifest_free(&t->incoming);
  for (unsigned i = 0; i < FILES_MAX; i++) {
    buf_free(&t->files[i]);
    t->held[i] = false;
  }
}

static void ckpt_begin(struct talk *t, const struct ckpt_manifest *m, int rc) {
  uint64_t offsets[FILES_MAX] = {0};
  if (rc == DW_OK && m->count > FILES_MAX) rc = DW_NO_SPACE;
  if (rc == DW_OK) {
    bool same = hash128_eq(&m->id, &t->incoming.id) && m->count == t->incoming.count;
    for (uint32_t i = 0; same && i < m->count; i++) same = m->files[i].bytes == t->incoming.files[i].bytes;
    if (!same) {
      ckpt_forget(t);
      t->incoming.id = m->id;
      t->incoming.pos = m->pos;
      for (uint32_t i = 0; i < m->count; i++)
        CHECK(ckpt_manifest_add(&t->incoming, m->files[i].name, m->files[i].bytes) == DW_OK);
    }
    for (uint32_t i = 0; i < m->count; i++) offsets[i] = t->held[i] ? CKPT_HELD : t->files[i].len;
  }
  receiver_ckpt_begun(t->r, rc, offsets, "fuzz", t->now);
}

static void ckpt_write(struct talk *t, const struct recv_action *a, int rc) {
  CHECK(a->write.file < t->incoming.count && !t->held[a->write.file]);
  struct buf *b = &t->files[a->write.file];
  CHECK(a->write.offset == b->len && a->write.bytes > 0);
  CHECK(b->len + a->write.bytes <= t->incoming.files[a->write.file].bytes);
  if (rc == DW_OK) CHECK(buf_append(b, a->write.data, a->write.bytes) == DW_OK);
  receiver_ckpt_written(t->r, rc, "fuzz", t->now);
}

static void ckpt_file_end(struct talk *t, const struct recv_action *a, int rc) {
  CHECK(a->file_end.file < t->incoming.count && !t->held[a->file_end.file]);
  struct buf *b = &t->files[a->file_end.file];
  CHECK(b->len == t->incoming.files[a->file_end.file].bytes);
  struct hash128 h = hash128(b->data ? (const void *)b->data : "", b->len);
  if (rc == DW_OK && !hash128_eq(&h, &a->file_end.hash)) rc = DW_CORRUPT;
  t->held[a->file_end.file] = rc == DW_OK;
  if (rc) b->len = 0;
  receiver_ckpt_file_done(t->r, rc, "fuzz", t->now);
}

static void install(struct talk *t, const struct recv_action *a, int rc) {
  struct wal_pos pos = a->install.pos;
  struct hash128 cluster = a->install.cluster_id;
  CHECK(pos.lsn >= t->applied.lsn && hash128_eq(&a->install.id, &t->incoming.id));
  CHECK(!t->has_cluster || hash128_eq(&cluster, &t->log.cluster));
  for (uint32_t i = 0; i < t->incoming.count; i++) CHECK(t->held[i]);
  if (rc == DW_OK) {
    memlog_free(&t->log);
    memlog_init(&t->log, &cluster, &pos);
    t->has_cluster = true;
    t->applied = pos;
    t->durable = t->commit = pos.lsn;
    ckpt_forget(t);
  }
  struct receiver_position p = position(t);
  receiver_installed(t->r, rc, &p, "fuzz", t->now);
}

static void adopt(struct talk *t, const struct hash128 *cluster, int rc) {
  struct hash128 id = *cluster;
  CHECK(!t->has_cluster);
  if (rc == DW_OK) {
    memlog_init(&t->log, &id, NULL);
    t->has_cluster = true;
    t->applied = t->log.end;
  }
  struct receiver_position p = position(t);
  receiver_adopted(t->r, rc, &p, "fuzz", t->now);
}

static void answer(struct talk *t, const struct recv_action *a, int rc) {
  struct wal_pos older = memlog_bound(&t->log, t->log.first);
  switch (a->type) {
  case RECV_ADOPT: adopt(t, &a->adopt, rc); break;
  case RECV_APPEND: append(t, a, rc); break;
  case RECV_SYNC:
    if (rc == DW_OK) t->durable = t->log.end.lsn;
    receiver_synced(t->r, rc, t->durable, "fuzz", t->now);
    break;
  case RECV_TRUNCATE: truncate_log(t, &a->truncate.pos, rc); break;
  case RECV_PART:
    CHECK(!hash128_zero(&a->part.pos.chain) && a->part.peer_id);
    receiver_parted(t->r, rc, t->log.n > t->log.first ? &older : NULL, "fuzz", t->now);
    break;
  case RECV_CKPT_BEGIN: ckpt_begin(t, a->begin, rc); break;
  case RECV_CKPT_WRITE: ckpt_write(t, a, rc); break;
  case RECV_CKPT_FILE_END: ckpt_file_end(t, a, rc); break;
  case RECV_CKPT_INSTALL: install(t, a, rc); break;
  default: CHECK(false);
  }
}

/* ---- the driver --------------------------------------------------------------------------------------- */

static void connect_up(struct talk *t) {
  struct receiver_position p = position(t);
  CHECK(!t->is_open && !t->connected);
  t->connected = true;
  t->wire.len = 0;
  frame_reader_free(&t->reader);
  frame_reader_init(&t->reader, UINT32_MAX);
  t->reader.version = MSG_VERSION_MAX; /* what every WELCOME here chooses */
  wal_packer_free(t->packer);
  CHECK(wal_packer_create(&t->packer) == DW_OK);
  receiver_connected(t->r, &p, t->now);
}

static void drive(struct talk *t) {
  struct recv_action a;
  for (;;) {
    drain(t);
    if (!receiver_next(t->r, &a)) return;
    switch (a.type) {
    case RECV_CONNECT: connect_up(t); break;
    case RECV_COMMIT:
      if (a.commit_lsn > t->commit) t->commit = a.commit_lsn;
      apply(t);
      break;
    case RECV_FRESH:
    case RECV_PROBES_LOST: break;
    case RECV_PROBE_DONE: {
      bool found = t->probe_count > 64;
      for (size_t i = 0; i < t->probe_count && i < 64; i++) found |= t->probes[i] == a.probe.id;
      CHECK(found);
      break;
    }
    case RECV_MEMBERS: CHECK(a.members->count && a.members->count <= MSG_MEMBERS_MAX); break;
    case RECV_LOG: CHECK(a.log.text); break;
    case RECV_CLOSE:
      CHECK(t->connected || a.close.code);
      t->connected = false;
      break;
    default:
      CHECK(!t->is_open); /* one at a time */
      if (t->hold) {
        t->open = a;
        t->is_open = true;
      } else {
        answer(t, &a, DW_OK);
      }
    }
  }
}

/* ---- the primary's frames -------------------------------------------------------------------------------- */

static struct wal_pos some_pos(struct talk *t, struct feed *f) {
  uint8_t which = feed_u8(f);
  if (which == 255) return t->log.end;
  if (which == 254) return t->applied;
  struct wal_pos p = memlog_bound(&t->history, which % (t->history.n + 1));
  if (which & 64) p.chain.b[2] ^= 1;
  if (which & 128) p.lsn += feed_u8(f), p.epoch += feed_u8(f) % 4;
  return p;
}

static void put_welcome(struct talk *t, struct feed *f, struct buf *b, const struct msg_sender *me) {
  uint8_t how = feed_u8(f);
  struct msg_welcome w = {.version = MSG_VERSION_MAX,
                          .follows = (uint8_t)(1 + how % 3),
                          .role = how >> 7,
                          .heartbeat_ms = 500,
                          .cluster_id = sim_id(how & 64 ? 8 : 7),
                          .node_id = t->sender,
                          .incarnation = sim_id(9),
                          .epoch = me->epoch,
                          .commit_lsn = feed_u8(f) % 32,
                          .tail_lsn = t->history.end.lsn};
  if (w.follows != FOLLOWS_BOOTSTRAP) w.pos = some_pos(t, f);
  if (w.pos.lsn > w.tail_lsn) w.tail_lsn = w.pos.lsn;
  CHECK(msg_put_welcome(b, me, &w) == DW_OK);
}

/* Blocks [i, i + n) of the history; one byte of them changed, if asked, and all links and checksums made right again.
 */
static void put_blocks(struct talk *t, struct feed *f, struct buf *b, const struct msg_sender *me) {
  uint8_t how = feed_u8(f);
  size_t from = feed_u8(f) % t->history.n, n = 1 + how % 4, bytes = 0;
  if (from + n > t->history.n) n = t->history.n - from;
  struct buf blocks = {0};
  uint8_t head[MSG_HEADER_BYTES + MSG_BLOCKS_PREFIX_BYTES];
  for (size_t i = from; i < from + n; i++) {
    bytes = block_total_bytes(&t->history.blocks[i]->h);
    CHECK(buf_append(&blocks, t->history.blocks[i]->bytes, bytes) == DW_OK);
  }
  struct wal_pos before = memlog_bound(&t->history, from);
  if (how & 64) before = t->log.end; /* relinked to where the follower stands: another history that fits */
  if (how & 32) blocks.data[feed_u16(f) % blocks.len] ^= (uint8_t)(1 + feed_u8(f));
  if (how & (32 | 64)) {
    if (how & 64) put_u64(blocks.data + 24, before.lsn + 1);
    repair_blocks(blocks.data, blocks.len, &before.chain);
  }
  msg_blocks_head(me, feed_u8(f) % 32, (uint32_t)(how & 128 ? n + 1 : n), blocks.len, head);
  CHECK(buf_append(b, head, sizeof head) == DW_OK && buf_append(b, blocks.data, blocks.len) == DW_OK);
  buf_free(&blocks);
}

/* Blocks [i, i + n) of the history as a pack, which may be of another place, or have a wrong byte or number. */
static void put_packed(struct talk *t, struct feed *f, struct buf *b, const struct msg_sender *me) {
  uint8_t how = feed_u8(f);
  size_t from = feed_u8(f) % t->history.n, n = 1 + how % 4;
  if (from + n > t->history.n) n = t->history.n - from;
  struct wal_pos before = memlog_bound(&t->history, from);
  struct msg_packed m = {.commit_lsn = feed_u8(f) % 32, .count = (uint32_t)n};
  m.chain = memlog_bound(&t->history, from + n).chain;
  struct buf one = {0};
  CHECK(buf_reserve(&one, MSG_HEADER_BYTES + MSG_PACKED_PREFIX_BYTES) == DW_OK);
  one.len = MSG_HEADER_BYTES + MSG_PACKED_PREFIX_BYTES;
  CHECK(wal_pack(t->packer, &before, t->history.blocks + from, n, &one, &m.plain) == DW_OK);
  if (how & 16) m.chain.b[3] ^= 1;
  if (how & 32) one.data[80 + feed_u16(f) % (one.len - 80)] ^= (uint8_t)(1 + feed_u8(f));
  if (how & 64) m.plain += feed_u8(f) - 128u;
  if (how & 128) m.count += feed_u8(f) - 128u;
  msg_packed_head(me, &m, &one);
  CHECK(buf_append(b, one.data, one.len) == DW_OK);
  buf_free(&one);
}

static void put_manifest(struct talk *t, struct feed *f, struct buf *b, const struct msg_sender *me) {
  uint8_t how = feed_u8(f);
  struct ckpt_manifest m = {.id = sim_id(50 + (how >> 6)), .pos = some_pos(t, f)};
  for (unsigned i = 0; i <= how % (FILES_MAX + 1); i++) {
    char name[8];
    snprintf(name, sizeof name, "f%u", i);
    CHECK(ckpt_manifest_add(&m, name, feed_u8(f)) == DW_OK);
  }
  CHECK(msg_put_ckpt_manifest(b, me, &m) == DW_OK);
  ckpt_manifest_free(&m);
}

/* What comes next in the transfer, or something near it. */
static void put_chunk(struct talk *t, struct feed *f, struct buf *b, const struct msg_sender *me) {
  uint8_t how = feed_u8(f), head[MSG_HEADER_BYTES + MSG_CHUNK_PREFIX_BYTES], data[256] = {how};
  uint32_t file = 0;
  while (file < t->incoming.count && (t->held[file] || t->files[file].len == t->incoming.files[file].bytes)) file++;
  uint64_t off = file < t->incoming.count ? t->files[file].len : 0;
  uint32_t n = 1 + feed_u8(f);
  if (!(how & 1) && file < t->incoming.count && n > t->incoming.files[file].bytes - off)
    n = (uint32_t)(t->incoming.files[file].bytes - off);
  if (n > sizeof data || n == 0) n = 1;
  if (how & 2) file = feed_u8(f);
  if (how & 4) off = feed_u64(f);
  msg_chunk_head(me, file, off, data, n, head);
  CHECK(buf_append(b, head, sizeof head) == DW_OK && buf_append(b, data, n) == DW_OK);
}

static void put_file_end(struct talk *t, struct feed *f, struct buf *b, const struct msg_sender *me) {
  uint8_t how = feed_u8(f);
  uint32_t file = 0;
  while (file < t->incoming.count && t->held[file]) file++;
  struct msg_ckpt_file_end m = {.file = how & 1 ? how : file};
  if (file < t->incoming.count && !(how & 2))
    m.hash = hash128(t->files[file].data ? (const void *)t->files[file].data : "", t->files[file].len);
  CHECK(msg_put_ckpt_file_end(b, me, &m) == DW_OK);
}

static void say(struct talk *t, struct feed *f, struct buf *b) {
  struct msg_sender me = {.version = t->version, .epoch = t->epoch, .node_id = t->sender};
  uint8_t how = feed_u8(f);
  size_t n;
  uint64_t x;
  const uint8_t *body;
  struct hash128 id = sim_id(50 + (how >> 6));
  switch (how % 13) {
  case 0: put_welcome(t, f, b, &me); break;
  case 1:
  case 2: put_blocks(t, f, b, &me); break;
  case 3: CHECK(msg_put_commit(b, &me, feed_u8(f)) == DW_OK); break;
  case 4:
    x = feed_u8(f);
    x = x & 128 || !t->probe_count ? x : t->probes[(t->probe_count - 1 - x % t->probe_count) % 64];
    CHECK(msg_put_probe_answer(b, &me, &(struct msg_probe_answer){x, feed_u8(f), feed_u8(f)}) == DW_OK);
    break;
  case 5: CHECK(msg_put_heartbeat(b, &me, &(struct msg_heartbeat){feed_u8(f), feed_u8(f)}) == DW_OK); break;
  case 6: put_manifest(t, f, b, &me); break;
  case 7: put_chunk(t, f, b, &me); break;
  case 8: put_file_end(t, f, b, &me); break;
  case 9: CHECK(msg_put_ckpt_done(b, &me, &id) == DW_OK); break;
  case 10:
    CHECK(msg_put_refuse(b, &me, &(struct msg_refuse){.code = (uint16_t)(1 + feed_u8(f) % 14), .text = "no"}) == DW_OK);
    break;
  case 11: put_packed(t, f, b, &me); break;
  default: body = feed_bytes(f, feed_u16(f) % 300, &n); CHECK(msg_put(b, &me, how / 12, body, n) == DW_OK);
  }
}

static void frames(struct talk *t, struct feed *f) {
  struct buf b = {0};
  uint8_t how = feed_u8(f);
  for (unsigned i = 0; i <= (how & 3u); i++) say(t, f, &b);
  if (how & 64) { /* a byte is wrong; with 128 the checksums hide it */
    b.data[feed_u16(f) % b.len] ^= (uint8_t)(1u << (how & 7u));
    if (how & 128) repair_frames(b.data, b.len);
  }
  CHECK(buf_append(&t->wire, b.data, b.len) == DW_OK);
  buf_free(&b);
}

/* As much as the receiver wants, in pieces. */
static void carry(struct talk *t, size_t piece) {
  while (t->connected && t->wire.len && receiver_wants_input(t->r)) {
    size_t n = t->wire.len < piece ? t->wire.len : piece;
    uint8_t *copy = exact_copy(t->wire.data, n);
    buf_consume(&t->wire, n);
    receiver_input(t->r, copy, n, t->now);
    free(copy);
    drive(t);
  }
}

/* ---- one conversation ---------------------------------------------------------------------------------- */

static void step(struct talk *t, struct feed *f) {
  uint8_t op = feed_u8(f);
  switch (op % 10) {
  case 0:
  case 1:
  case 2:
    if (!t->connected) break;
    frames(t, f);
    carry(t, op % 10 == 2 ? (size_t)1 + feed_u8(f) : SIZE_MAX);
    break;
  case 3:
    t->now += (uint64_t)feed_u16(f) * SIM_MS;
    receiver_tick(t->r, t->now);
    break;
  case 4: t->hold = !t->hold; break;
  case 5:
  case 6:
    if (!t->is_open) break;
    t->is_open = false;
    answer(t, &t->open, op % 10 == 6 ? 1 + feed_u8(f) % 14 : DW_OK);
    break;
  case 7:
    if (t->connected && feed_u8(f) == 1) receiver_eof(t->r, "fuzz", t->now);
    break;
  case 8: (void)receiver_probe(t->r, feed_u8(f) % 10, t->now); break;
  case 9:
    t->sender = 1 + feed_u8(f) % 3;
    t->epoch = feed_u8(f) % 6;
    if (op & 128) t->version ^= 1;
    break;
  }
  drive(t);
  carry(t, SIZE_MAX);
  CHECK(receiver_next_tick(t->r) > 0);
}

static void fill(struct memlog *l, size_t blocks, bool diverge) {
  for (size_t i = 0; i < blocks; i++) {
    uint64_t epoch = 1 + i / 4;
    struct block_need need = i % 2 ? sim_received : i % 3 ? sim_applied : sim_async;
    memlog_write(l, epoch, i % 4 ? 1 + (uint32_t)i % 3 : 0, i % 4 ? 20 + 60 * i : 64, need,
                 i + (diverge && i > 4 ? 99 : 0), l->end.lsn / 2);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct feed f = {data, size};
  struct talk t = {.now = 1000 * SIM_MS, .sender = 1, .epoch = 3, .version = MSG_VERSION_MAX};
  struct hash128 cluster = sim_id(7);
  uint8_t how = feed_u8(&f);
  memlog_init(&t.history, &cluster, NULL);
  fill(&t.history, 12, false);
  if (how % 3) { /* it has a log: a prefix of the history, or one that left it */
    memlog_init(&t.log, &cluster, NULL);
    fill(&t.log, 7, how % 3 == 2);
    t.has_cluster = true;
    t.applied = memlog_bound(&t.log, 3);
    t.commit = t.durable = t.applied.lsn;
  }
  t.hold = how & 128;
  frame_reader_init(&t.reader, UINT32_MAX);
  struct receiver_config cfg = {.node_id = NODE,
                                .incarnation = sim_id(2),
                                .region = "eu",
                                .heartbeat_ms = 500,
                                .peer_timeout_ms = 5000,
                                .seed = 1,
                                .primary = "fuzz"};
  CHECK(receiver_create(&cfg, t.now, &t.r) == DW_OK);
  receiver_tick(t.r, t.now);
  drive(&t);
  CHECK(t.connected);
  for (unsigned i = 0; feed_left(&f) && i < 200; i++) step(&t, &f);
  receiver_destroy(t.r);
  memlog_free(&t.log);
  memlog_free(&t.history);
  ckpt_forget(&t);
  buf_free(&t.wire);
  frame_reader_free(&t.reader);
  wal_packer_free(t.packer);
  return 0;
}
