/* Asking a peer for blocks to repair a log with: the real fetcher, the peer is the input.
 *
 * Checked: what is handed out follows the place asked about by LSN, epoch and chain, whole by its own checksums, and
 * ends where it was asked to; its questions decode; once failed it stays so; nothing is asked while it is asked. Input:
 * 1 byte of choices; steps. */
#include "fuzz/fuzz.h"
#include "replication/fetcher.h"
#include "tests/support/repl_sim.h"

struct talk {
  struct fetcher *f;
  struct memlog log;
  struct wal_pos from;
  dw_lsn upto;
  struct msg_fetch asked;
  struct frame_reader reader;
};

static void drain(struct talk *t) {
  struct iovec iov[8];
  struct frame f;
  int n, rc;
  while ((n = fetcher_output(t->f, iov, 8)) > 0) {
    size_t taken = 0;
    for (int i = 0; i < n; i++) {
      CHECK(frame_reader_feed(&t->reader, iov[i].iov_base, iov[i].iov_len) == DW_OK);
      taken += iov[i].iov_len;
      while ((rc = frame_reader_next(&t->reader, &f)) == DW_OK)
        if (f.h.type == MSG_FETCH) CHECK(msg_get_fetch(&f, &t->asked) == DW_OK && t->asked.upto == t->upto);
      CHECK(rc == DW_NOT_FOUND);
    }
    fetcher_drained(t->f, taken);
  }
}

static void ask(struct talk *t, struct feed *in) {
  if (fetcher_state(t->f) != FETCH_IDLE) return;
  t->from = memlog_bound(&t->log, feed_u8(in) % (t->log.n + 1));
  t->upto = t->from.lsn + feed_u8(in) % 16;
  fetcher_ask(t->f, &t->from, t->upto);
}

static void take(struct talk *t) {
  struct wal_block **blocks;
  size_t n;
  if (fetcher_state(t->f) != FETCH_READY) return;
  fetcher_take(t->f, &blocks, &n);
  struct wal_pos at = t->from;
  for (size_t i = 0; i < n; i++) {
    const struct block_header *h = &blocks[i]->h;
    CHECK(h->first_lsn == at.lsn + 1 && h->epoch >= at.epoch && block_chain_ok(blocks[i]->bytes, &at.chain));
    CHECK(block_payload_check(h, blocks[i]->bytes) == DW_OK && block_last_lsn(h) <= t->upto);
    at = (struct wal_pos){block_last_lsn(h), h->epoch, h->chain};
    wal_block_unref(blocks[i]);
  }
  free(blocks);
  CHECK(fetcher_state(t->f) == FETCH_IDLE);
}

/* An answer made of the log's blocks, near what was asked for; or any frame. */
static void answer(struct talk *t, struct feed *in) {
  struct msg_sender me = {.version = 1, .epoch = 3, .node_id = 1};
  struct buf b = {0}, blocks = {0};
  uint8_t how = feed_u8(in), head[MSG_HEADER_BYTES + MSG_FETCHED_PREFIX_BYTES];
  size_t at = 0, n = feed_u8(in) % 4;
  if (how % 4 == 3) {
    size_t len;
    const uint8_t *body = feed_bytes(in, feed_u16(in) % 200, &len);
    me.version = 0;
    CHECK(msg_put(&b, &me, how / 4 % MSG_TYPES, body, len) == DW_OK);
  } else {
    struct msg_fetched m = {.version = 1, .id = t->asked.id, .cluster_id = sim_id(7)};
    if (memlog_index(&t->log, &t->from, &at)) at = 0;
    if (how & 16) at = feed_u8(in) % t->log.n;
    for (; m.count < n && at < t->log.n; at++, m.count++)
      CHECK(buf_append(&blocks, t->log.blocks[at]->bytes, block_total_bytes(&t->log.blocks[at]->h)) == DW_OK);
    if ((how & 32) && blocks.len) {
      blocks.data[feed_u16(in) % blocks.len] ^= (uint8_t)(1 + feed_u8(in));
      repair_blocks(blocks.data, blocks.len, &t->from.chain);
    }
    if (how & 64) m.id += feed_u8(in);
    if (how & 128) m.count++;
    msg_fetched_head(&me, &m, blocks.len, head);
    CHECK(buf_append(&b, head, sizeof head) == DW_OK);
    if (blocks.len) CHECK(buf_append(&b, blocks.data, blocks.len) == DW_OK);
  }
  size_t piece = how & 4 ? (size_t)1 + feed_u8(in) : b.len;
  for (size_t i = 0; i < b.len; i += piece) {
    size_t k = b.len - i < piece ? b.len - i : piece;
    uint8_t *copy = exact_copy(b.data + i, k);
    fetcher_input(t->f, copy, k);
    free(copy);
    drain(t);
  }
  buf_free(&b);
  buf_free(&blocks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct feed in = {data, size};
  struct talk t = {0};
  struct hash128 cluster = sim_id(7);
  const char *text;
  struct fetcher_config cfg = {.node_id = 2, .cluster_id = cluster, .max_bytes = feed_u8(&in) & 1 ? 0 : 4096};
  memlog_init(&t.log, &cluster, NULL);
  for (unsigned i = 0; i < 9; i++)
    memlog_write(&t.log, 1 + i / 4, i % 4 ? 1 + i % 3 : 0, i % 4 ? 20 + 60 * i : 64, sim_async, i, 0);
  frame_reader_init(&t.reader, UINT32_MAX);
  CHECK(fetcher_create(&cfg, &t.f) == DW_OK);
  for (unsigned i = 0; feed_left(&in) && i < 100; i++) {
    enum fetch_state before = fetcher_state(t.f);
    uint8_t op = feed_u8(&in);
    switch (op % 5) {
    case 0: ask(&t, &in); break;
    case 1:
    case 2: answer(&t, &in); break;
    case 3: take(&t); break;
    case 4:
      if (op > 200) fetcher_eof(t.f, "fuzz");
      break;
    }
    drain(&t);
    if (before == FETCH_FAILED) CHECK(fetcher_state(t.f) == FETCH_FAILED);
    if (fetcher_state(t.f) == FETCH_FAILED) CHECK(fetcher_error(t.f, &text) != DW_OK && text);
  }
  fetcher_destroy(t.f);
  memlog_free(&t.log);
  frame_reader_free(&t.reader);
  return 0;
}
