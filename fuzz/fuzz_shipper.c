/* The primary's side of a conversation: the real shipper, position decision and ack table over a log in memory; the
 * follower is the input. Frames get right headers and checksums, bodies are as good or as bad as the input makes them.
 *
 * Checked: everything that is sent decodes; blocks start where WELCOME said and continue the log without a gap; marks
 * are never above what was sent on this connection and never fall; no more than the promised output piles up; a probe
 * is answered with what it asked; a checkpoint is sent exactly as wanted; after CLOSE nothing happens any more. Input:
 * 1 byte of choices; steps: 1 byte says which, arguments follow. */
#include "fuzz/fuzz.h"
#include "tests/support/repl_sim.h"

#define OUTPUT_MAX 65536u
#define NODE 1u
#define FILES 3u

struct talk {
  struct shipper *ship;
  struct memlog log;
  struct epoch_record epochs[4];
  size_t epoch_count;
  struct ack_quorum quorum;
  dw_lsn commit;
  uint64_t now;
  size_t cursor; /* next block to read */
  size_t biggest;
  bool hold, closed;       /* hold: answers wait for a step */
  struct ship_action open; /* the one that waits */
  bool is_open;
  struct ckpt_manifest manifest;
  /* what came out */
  struct buf out;
  struct frame_reader reader;
  struct wal_pos sent;
  bool streaming;
  struct wal_unpacker *unpacker;
  struct msg_probe asked[128]; /* what the driver was asked to answer, the newest ones */
  size_t asked_count;
  uint64_t fetches; /* ids of FETCH so far */
  uint64_t node_id; /* of the follower's frames */
  uint64_t epoch;
  bool takes_members; /* it said so in a HELLO */
};

/* ---- what the shipper says ------------------------------------------------------------------------ */

static void said_welcome(struct talk *t, const struct frame *f) {
  struct msg_welcome w;
  CHECK(msg_get_welcome(f, &w) == DW_OK);
  t->reader.version = w.version;
  t->streaming = w.follows == FOLLOWS_STREAM;
  t->sent = w.pos;
  if (w.follows != FOLLOWS_BOOTSTRAP) CHECK(memlog_find(&t->log, &w.pos) == DW_OK);
}

static void said_blocks(struct talk *t, const struct frame *f) {
  struct msg_blocks m;
  size_t off = 0, n;
  const uint8_t *block;
  CHECK(msg_get_blocks(f, &m) == DW_OK && t->streaming);
  CHECK(m.bytes <= MSG_BLOCKS_BATCH_BYTES || m.count == 1);
  for (uint32_t i = 0; i < m.count; i++) {
    struct wal_block *b;
    CHECK(msg_blocks_next(&m, &off, &block, &n) == DW_OK && wal_block_parse(block, n, &b) == DW_OK);
    CHECK(b->h.first_lsn == t->sent.lsn + 1 && block_chain_ok(block, &t->sent.chain));
    t->sent = (struct wal_pos){block_last_lsn(&b->h), b->h.epoch, b->h.chain};
    wal_block_unref(b);
  }
  CHECK(off == m.bytes);
}

static void said_packed(struct talk *t, const struct frame *f) {
  struct msg_packed m;
  struct wal_block *blocks[WAL_PACK_BLOCKS];
  CHECK(f->h.version >= MSG_VERSION_PACKED && msg_get_packed(f, &m) == DW_OK && t->streaming);
  if (!t->unpacker) CHECK(wal_unpacker_create(&t->unpacker) == DW_OK);
  CHECK(wal_unpack(t->unpacker, &t->sent, m.pack, m.bytes, m.plain, &m.chain, blocks, m.count) == DW_OK);
  for (uint32_t i = 0; i < m.count; i++) {
    const struct block_header *h = &blocks[i]->h;
    t->sent = (struct wal_pos){block_last_lsn(h), h->epoch, h->chain};
    CHECK(memlog_find(&t->log, &t->sent) == DW_OK);
    wal_block_unref(blocks[i]);
  }
}

static void said_answer(struct talk *t, const struct frame *f) {
  struct msg_probe_answer a;
  bool found = false;
  CHECK(msg_get_probe_answer(f, &a) == DW_OK && a.commit_lsn <= t->commit);
  for (size_t i = 0; i < t->asked_count && i < 128; i++)
    found |= t->asked[i].id == a.id && t->asked[i].mono_ns == a.mono_ns;
  CHECK(found || t->asked_count > 128);
}

/* Whole blocks of our log, one behind the other. */
static void said_fetched(const struct frame *f) {
  struct msg_fetched m;
  size_t off = 0, n;
  const uint8_t *block;
  struct hash128 chain;
  CHECK(msg_get_fetched(f, &m) == DW_OK);
  struct msg_blocks bl = {.count = m.count, .blocks = m.blocks, .bytes = m.bytes};
  for (uint32_t i = 0; i < m.count; i++) {
    struct wal_block *b;
    CHECK(msg_blocks_next(&bl, &off, &block, &n) == DW_OK && wal_block_parse(block, n, &b) == DW_OK);
    CHECK(i == 0 || block_chain_ok(block, &chain));
    chain = b->h.chain;
    wal_block_unref(b);
  }
  CHECK(off == m.bytes);
}

static void said(struct talk *t, const struct frame *f) {
  struct msg_refuse refuse;
  struct msg_heartbeat beat;
  struct msg_ckpt_chunk chunk;
  struct msg_ckpt_file_end end;
  struct ckpt_manifest m;
  struct hash128 id;
  dw_lsn lsn;
  CHECK(f->h.sender == NODE);
  switch (f->h.type) {
  case MSG_WELCOME: said_welcome(t, f); break;
  case MSG_REFUSE: CHECK(msg_get_refuse(f, &refuse) == DW_OK); break;
  case MSG_BLOCKS: said_blocks(t, f); break;
  case MSG_PACKED: said_packed(t, f); break;
  case MSG_COMMIT: CHECK(msg_get_commit(f, &lsn) == DW_OK && lsn <= t->commit); break;
  case MSG_PROBE_ANSWER: said_answer(t, f); break;
  case MSG_HEARTBEAT: CHECK(msg_get_heartbeat(f, &beat) == DW_OK && beat.commit_lsn <= t->commit); break;
  case MSG_CKPT_MANIFEST:
    CHECK(msg_get_ckpt_manifest(f, &m) == DW_OK && !t->streaming && m.count == FILES);
    ckpt_manifest_free(&m);
    break;
  case MSG_CKPT_CHUNK: CHECK(msg_get_ckpt_chunk(f, &chunk) == DW_OK && chunk.file < FILES); break;
  case MSG_CKPT_FILE_END: CHECK(msg_get_ckpt_file_end(f, &end) == DW_OK && end.file < FILES); break;
  case MSG_CKPT_DONE: CHECK(msg_get_id(f, &id) == DW_OK); break;
  case MSG_FETCHED: said_fetched(f); break;
  case MSG_MEMBERS: {
    struct msg_members told;
    CHECK(t->takes_members && msg_get_members(f, &told) == DW_OK && told.count == 1);
    break;
  }
  default: CHECK(false);
  }
}

/* The socket takes up to n bytes. */
static void drain(struct talk *t, size_t n) {
  struct iovec iov[16];
  struct frame f;
  if (!t->ship) return;
  CHECK(shipper_output_bytes(t->ship) <= OUTPUT_MAX + t->biggest + OUTPUT_MAX + 65536 + MSG_CHUNK_BYTES + 8192);
  int count = shipper_output(t->ship, iov, 16), rc;
  size_t taken = 0;
  for (int i = 0; i < count && taken < n; i++) {
    size_t k = iov[i].iov_len < n - taken ? iov[i].iov_len : n - taken;
    CHECK(frame_reader_feed(&t->reader, iov[i].iov_base, k) == DW_OK);
    taken += k;
    while ((rc = frame_reader_next(&t->reader, &f)) == DW_OK) said(t, &f);
    CHECK(rc == DW_NOT_FOUND);
  }
  if (taken) shipper_drained(t->ship, taken, t->now);
}

/* ---- the driver ------------------------------------------------------------------------------------ */

static void locate(struct talk *t) {
  struct position_decision d = {0};
  const struct msg_hello *h = shipper_hello(t->ship);
  void *old = NULL;
  int rc = quorum_admit(&t->quorum, t, h, "fuzz", t->now, &old);
  if (rc) {
    d = (struct position_decision){.kind = POSITION_REFUSE, .code = rc};
    dw_error_copy(d.text, sizeof d.text);
    rc = DW_OK;
  } else {
    struct position_log log = {.find = memlog_find,
                               .at_most = memlog_at_most,
                               .ctx = &t->log,
                               .oldest = memlog_bound(&t->log, t->log.first),
                               .tail = t->log.end,
                               .epochs = t->epochs,
                               .epoch_count = t->epoch_count,
                               .cluster_id = t->log.cluster};
    rc = position_decide(&log, h, &d);
    quorum_located(&t->quorum, t, &d);
    if (rc == DW_OK && d.kind == POSITION_STREAM) CHECK(memlog_index(&t->log, &d.pos, &t->cursor) == DW_OK);
    /* The one promise behind all others: nothing that is applied is ever cut or overwritten. */
    if (rc == DW_OK && d.kind == POSITION_TRUNCATE) CHECK(d.pos.lsn >= h->applied.lsn);
  }
  shipper_located(t->ship, rc, &d, "fuzz", t->now);
}

static void read_log(struct talk *t, size_t max, int rc) {
  struct wal_block *blocks[64];
  size_t n = 0, bytes = 0;
  while (rc == DW_OK && t->cursor < t->log.n && bytes < max && n < 64) {
    bytes += block_total_bytes(&t->log.blocks[t->cursor]->h);
    blocks[n++] = wal_block_ref(t->log.blocks[t->cursor++]);
  }
  bool end = t->cursor == t->log.n;
  shipper_blocks(t->ship, rc, blocks, n, end, end, "fuzz", t->now);
}

static void make_checkpoint(struct talk *t, int rc) {
  struct ckpt_manifest m = {.id = sim_id(50), .pos = t->log.end};
  for (unsigned i = 0; i < FILES; i++) {
    char name[16];
    snprintf(name, sizeof name, "f%u", i);
    CHECK(ckpt_manifest_add(&m, name, i * 3000) == DW_OK);
  }
  if (rc) ckpt_manifest_free(&m);
  shipper_checkpoint(t->ship, rc, &m, "fuzz", t->now);
}

static void read_chunk(struct talk *t, const struct ship_action *a, int rc) {
  CHECK(a->chunk.file < FILES && a->chunk.offset + a->chunk.bytes <= a->chunk.file * 3000);
  uint8_t *data = calloc(1, a->chunk.bytes + 1);
  CHECK(data);
  shipper_chunk(t->ship, rc, data, "fuzz", t->now);
  free(data);
}

static void fetch(struct talk *t, const struct msg_fetch *m, int rc) {
  struct wal_block *blocks[64];
  size_t n = 0, i = 0, bytes = 0;
  CHECK(m->max_bytes <= MSG_FETCH_BYTES);
  if (rc == DW_OK) rc = memlog_index(&t->log, &m->from, &i);
  for (; rc == DW_OK && i < t->log.n && n < 64 && bytes < m->max_bytes; i++) {
    if (block_last_lsn(&t->log.blocks[i]->h) > m->upto) break;
    bytes += block_total_bytes(&t->log.blocks[i]->h);
    blocks[n++] = wal_block_ref(t->log.blocks[i]);
  }
  shipper_fetched(t->ship, rc, blocks, n, "fuzz", t->now);
}

static void answer(struct talk *t, const struct ship_action *a, int rc) {
  switch (a->type) {
  case SHIP_LOCATE: locate(t); break;
  case SHIP_READ_LOG: read_log(t, a->read.max_bytes, rc); break;
  case SHIP_MAKE_CHECKPOINT: make_checkpoint(t, rc); break;
  case SHIP_READ_CHUNK: read_chunk(t, a, rc); break;
  case SHIP_FETCH: fetch(t, a->fetch, rc); break;
  default: CHECK(false);
  }
}

static void marks(struct talk *t, const struct msg_ack *m) {
  dw_lsn sent = shipper_sent(t->ship).lsn;
  CHECK(m->received <= sent && m->durable <= sent && m->applied <= sent && sent <= t->log.end.lsn);
  quorum_marks(&t->quorum, t, m, t->now);
  struct ack_marks boiled;
  quorum_boil(&t->quorum, &boiled);
  CHECK(boiled.mark[LEVEL_DURABLE][0] <= t->log.end.lsn);
}

static void drive(struct talk *t) {
  struct ship_action a;
  while (t->ship && shipper_next(t->ship, &a)) {
    CHECK(!t->closed);
    switch (a.type) {
    case SHIP_LOCATE:
    case SHIP_READ_LOG:
    case SHIP_MAKE_CHECKPOINT:
    case SHIP_READ_CHUNK:
    case SHIP_FETCH:
      if (t->hold && a.type != SHIP_LOCATE) {
        CHECK(!t->is_open); /* one at a time */
        t->open = a;
        t->is_open = true;
      } else {
        answer(t, &a, DW_OK);
      }
      break;
    case SHIP_FENCE: {
      struct msg_fenced told = {.verdict = FENCE_TOLD, .role = DW_PRIMARY, .has_data = true, .durable = t->log.end};
      CHECK(a.fence->node_id && (a.fence->what == FENCE_ASK || a.fence->what == FENCE_PAUSE) == (a.fence->epoch == 0));
      shipper_fence_answer(t->ship, &told, t->now);
      break;
    }
    case SHIP_FENCE_HEARD: CHECK(a.heard.epoch > t->log.end.epoch && a.heard.node_id); break;
    case SHIP_PROBE:
      t->asked[t->asked_count++ % 128] = a.probe;
      shipper_probe_answer(t->ship, &a.probe, t->commit, t->now);
      break;
    case SHIP_MARKS: marks(t, &a.marks); break;
    case SHIP_STATE: quorum_state(&t->quorum, t, shipper_state(t->ship), t->now); break;
    case SHIP_DROP_CHECKPOINT: {
      struct hash128 id = sim_id(50);
      CHECK(hash128_eq(&a.dropped, &id));
      break;
    }
    case SHIP_LOG: CHECK(a.log.text && strlen(a.log.text) < 256); break;
    case SHIP_CLOSE: t->closed = true; break;
    }
  }
}

/* ---- the follower's frames --------------------------------------------------------------------------- */

/* One of the log's boundaries, or one of nobody's. */
static struct wal_pos some_pos(struct talk *t, struct feed *f) {
  uint8_t which = feed_u8(f);
  struct wal_pos p = memlog_bound(&t->log, which % (t->log.n + 1));
  if (which & 64) p.chain.b[2] ^= 1;
  if (which & 128) p.lsn += feed_u8(f), p.epoch += feed_u8(f) % 4;
  return p;
}

static void say(struct talk *t, struct feed *f, struct buf *b) {
  uint16_t version = t->reader.version ? t->reader.version : 1;
  struct msg_sender me = {.version = version, .epoch = t->epoch, .node_id = t->node_id};
  uint8_t how = feed_u8(f);
  struct hash128 id = sim_id(50);
  uint64_t offsets[FILES];
  uint64_t x = feed_u16(f);
  switch (how % 10) {
  case 0: {
    struct msg_hello h = {.version_min = 1,
                          .version_max = how & 32 ? MSG_VERSION_MAX : 1,
                          .role = how & 128 ? DW_PRIMARY : DW_FOLLOWER,
                          .heartbeat_ms = 500,
                          .node_id = t->node_id,
                          .incarnation = sim_id(9),
                          .region = "eu"};
    if (!(how & 64)) h.cluster_id = sim_id(7);
    h.tail = some_pos(t, f);
    h.applied = some_pos(t, f);
    h.at = some_pos(t, f);
    if (x & 1) h.resume = id;
    h.has_member = x & 2;
    h.member = (struct msg_member){.node_id = t->node_id, .role = DW_FOLLOWER, .client = "127.0.0.1:6379"};
    t->takes_members |= h.has_member;
    CHECK(msg_put_hello(b, &me, &h) == DW_OK);
    break;
  }
  case 1: CHECK(msg_put_ack(b, &me, &(struct msg_ack){x % 64, feed_u8(f), feed_u8(f), x}) == DW_OK); break;
  case 2: CHECK(msg_put_probe(b, &me, &(struct msg_probe){.id = x, .mono_ns = ~x, .hops = how >> 4}) == DW_OK); break;
  case 3: CHECK(msg_put_heartbeat(b, &me, &(struct msg_heartbeat){0}) == DW_OK); break;
  case 4:
    for (unsigned i = 0; i < FILES; i++) offsets[i] = x & (1u << i) ? CKPT_HELD : x / 8 * i % (3000 * i + 1);
    CHECK(msg_put_ckpt_want(b, &me, &id, offsets, how & 128 ? FILES - 1 : FILES) == DW_OK);
    break;
  case 5: CHECK(msg_put_ckpt_ack(b, &me, &(struct msg_ckpt_ack){x}) == DW_OK); break;
  case 6: CHECK(msg_put_ckpt_installed(b, &me, &id) == DW_OK); break;
  case 7:
    CHECK(msg_put_refuse(b, &me, &(struct msg_refuse){.code = (uint16_t)(1 + x % 14), .text = "no"}) == DW_OK);
    break;
  case 8:
    if (how & 64) {
      struct msg_fetch m = {.version_min = MSG_VERSION_MIN,
                            .version_max = MSG_VERSION_MAX,
                            .max_bytes = (uint32_t)x * 16,
                            .cluster_id = sim_id(7),
                            .node_id = t->node_id,
                            .id = ++t->fetches,
                            .from = some_pos(t, f)};
      m.upto = m.from.lsn + feed_u8(f);
      CHECK(msg_put_fetch(b, &me, &m) == DW_OK);
      break;
    }
    /* fall through */
  default: { /* a body of the input's own */
    size_t n;
    const uint8_t *body = feed_bytes(f, x % 300, &n);
    if (how & 128) me.version = 0;
    CHECK(msg_put(b, &me, (how >> 4) % 8u + (how % 10 == 9 ? 8u : 0u), body, n) == DW_OK);
  }
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
  size_t piece = how & 32 ? (size_t)1 + feed_u8(f) : b.len;
  for (size_t at = 0; at < b.len; at += piece) {
    uint8_t *copy = exact_copy(b.data + at, b.len - at < piece ? b.len - at : piece);
    shipper_input(t->ship, copy, b.len - at < piece ? b.len - at : piece, t->now);
    free(copy);
    drive(t);
  }
  buf_free(&b);
}

/* ---- one conversation --------------------------------------------------------------------------------- */

static void step(struct talk *t, struct feed *f) {
  uint8_t op = feed_u8(f);
  switch (op % 12) {
  case 0:
  case 1:
  case 2: frames(t, f); break;
  case 3: drain(t, 1 + (size_t)feed_u16(f)); break;
  case 4:
    t->now += (uint64_t)feed_u16(f) * SIM_MS;
    shipper_tick(t->ship, t->now);
    break;
  case 5: /* the log grows */
    if (t->log.n > 60) break;
    memlog_write(&t->log, 3, 1 + feed_u8(f) % 4, feed_u16(f), sim_durable, op, t->commit);
    if (block_total_bytes(&t->log.blocks[t->log.n - 1]->h) > t->biggest)
      t->biggest = block_total_bytes(&t->log.blocks[t->log.n - 1]->h);
    shipper_log_grew(t->ship, &t->log.end, t->now);
    break;
  case 6:
    if (t->commit < t->log.end.lsn) t->commit++;
    shipper_commit(t->ship, t->commit, t->now);
    break;
  case 7: t->hold = !t->hold; break;
  case 8:
  case 9:
    if (!t->is_open) break;
    t->is_open = false;
    answer(t, &t->open, op % 12 == 9 ? DW_IO : DW_OK);
    break;
  case 10:
    if (feed_u8(f) == 1) shipper_eof(t->ship, "fuzz", t->now);
    if (op & 128) shipper_shut(t->ship, DW_CLOSED, "fuzz", t->now);
    break;
  case 11:
    t->node_id = 2 + feed_u8(f) % 2;
    t->epoch = feed_u8(f) % 5;
    break;
  }
  drive(t);
  CHECK(shipper_next_tick(t->ship) > 0);
}

static void make_log(struct talk *t) {
  struct hash128 cluster = sim_id(7);
  memlog_init(&t->log, &cluster, NULL);
  for (uint64_t epoch = 1; epoch <= 3; epoch++) {
    t->epochs[t->epoch_count++] =
        (struct epoch_record){.epoch = epoch, .node_id = NODE, .reason = EPOCH_OPENED, .start = t->log.end};
    memlog_write(&t->log, epoch, 0, 64, sim_async, epoch, 0);
    for (unsigned i = 0; i < 3; i++) memlog_write(&t->log, epoch, 2, 50 + 400 * i, sim_durable, epoch * 10 + i, 0);
  }
  for (size_t i = 0; i < t->log.n; i++)
    if (block_total_bytes(&t->log.blocks[i]->h) > t->biggest) t->biggest = block_total_bytes(&t->log.blocks[i]->h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct feed f = {data, size};
  struct talk t = {.now = 1000 * SIM_MS, .node_id = 2, .epoch = 1, .commit = 5};
  uint8_t how = feed_u8(&f);
  make_log(&t);
  if (how & 1) memlog_trim(&t.log, 5);
  t.hold = how & 2;
  quorum_init(&t.quorum);
  frame_reader_init(&t.reader, UINT32_MAX);
  struct shipper_config cfg = {.node_id = NODE,
                               .cluster_id = sim_id(7),
                               .incarnation = sim_id(8),
                               .role = DW_PRIMARY,
                               .heartbeat_ms = 500,
                               .peer_timeout_ms = 5000,
                               .max_output_bytes = OUTPUT_MAX,
                               .peer = "fuzz"};
  CHECK(shipper_create(&cfg, &t.log.end, t.commit, t.now, &t.ship) == DW_OK);
  static const struct msg_members all = {.count = 1, .member = {{.node_id = NODE, .client = "127.0.0.1:6379"}}};
  shipper_members(t.ship, &all, t.now);
  shipper_pack_rate(t.ship, how & 4 ? 0 : how & 8 ? 20000 : 1u << 30);
  for (unsigned i = 0; feed_left(&f) && !t.closed && i < 200; i++) step(&t, &f);
  drain(&t, SIZE_MAX);
  quorum_gone(&t.quorum, &t, t.now);
  shipper_destroy(t.ship);
  quorum_free(&t.quorum);
  memlog_free(&t.log);
  frame_reader_free(&t.reader);
  wal_unpacker_free(t.unpacker);
  return 0;
}
