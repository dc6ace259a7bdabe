/* Asking a node for a promise: the real fencer, the peer is the input.
 *
 * Checked: its questions decode; an answer is handed out only to the question that is open, and of our cluster; once
 * failed it stays so; nothing is asked while it is asked. Input: steps of 1 byte and what they need. */
#include "fuzz/fuzz.h"
#include "replication/fencer.h"
#include "tests/support/repl_sim.h"

struct talk {
  struct fencer f;
  struct hash128 cluster;
  struct frame_reader reader;
  struct msg_fence asked;
};

static void drain(struct talk *t) {
  struct iovec iov[8];
  struct frame f;
  int n, rc;
  while ((n = outq_iov(&t->f.out, iov, 8)) > 0) {
    size_t taken = 0;
    for (int i = 0; i < n; i++) {
      CHECK(frame_reader_feed(&t->reader, iov[i].iov_base, iov[i].iov_len) == DW_OK);
      taken += iov[i].iov_len;
      while ((rc = frame_reader_next(&t->reader, &f)) == DW_OK) CHECK(msg_get_fence(&f, &t->asked) == DW_OK);
      CHECK(rc == DW_NOT_FOUND);
    }
    outq_drained(&t->f.out, taken);
  }
}

static void ask(struct talk *t, struct feed *in) {
  struct msg_fence m = {.what = feed_u8(in) % 4, .durable = {.lsn = feed_u8(in), .epoch = 3}};
  if (m.what == FENCE_PROMISE || m.what == FENCE_BEGUN) m.epoch = 1ull + feed_u32(in);
  uint64_t before = t->f.id;
  bool idle = t->f.state == FENCER_IDLE;
  fencer_ask(&t->f, &m);
  CHECK(t->f.id == before + idle);
}

/* A right answer with something changed, or any frame. */
static void answer(struct talk *t, struct feed *in) {
  struct msg_sender me = {.epoch = 3, .node_id = 1};
  struct buf b = {0};
  uint8_t how = feed_u8(in);
  size_t len;
  if (how % 4 == 3) {
    const uint8_t *body = feed_bytes(in, feed_u16(in) % 700, &len);
    CHECK(msg_put(&b, &me, how & 4 ? MSG_FENCED : how / 8 % MSG_TYPES, body, len) == DW_OK);
  } else {
    struct msg_fenced m = {.version = 1, .node_id = 1, .id = t->f.id, .cluster_id = t->cluster, .verdict = how / 4 % 3};
    if (how & 64) m.id += feed_u8(in);
    if (how & 128) m.cluster_id = sim_id(feed_u8(in));
    CHECK(msg_put_fenced(&b, &me, &m) == DW_OK);
    if (how & 32) {
      b.data[MSG_HEADER_BYTES + feed_u8(in) % 216] ^= (uint8_t)(1 + feed_u8(in));
      repair_frames(b.data, b.len);
    }
  }
  size_t piece = how & 16 ? (size_t)1 + feed_u8(in) : b.len;
  for (size_t i = 0; i < b.len; i += piece) {
    size_t k = b.len - i < piece ? b.len - i : piece;
    uint8_t *copy = exact_copy(b.data + i, k);
    fencer_input(&t->f, copy, k);
    free(copy);
  }
  buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct feed in = {data, size};
  struct talk t = {.cluster = sim_id(7)};
  fencer_init(&t.f, &(struct msg_sender){.epoch = 2, .node_id = 9}, &t.cluster);
  frame_reader_init(&t.reader, UINT32_MAX);
  for (unsigned i = 0; feed_left(&in) && i < 100; i++) {
    bool failed = t.f.state == FENCER_FAILED;
    uint8_t op = feed_u8(&in);
    switch (op % 4) {
    case 0: ask(&t, &in); break;
    case 1:
    case 2: answer(&t, &in); break;
    default:
      if (op > 200) fencer_eof(&t.f, "fuzz");
    }
    drain(&t);
    if (failed) CHECK(t.f.state == FENCER_FAILED);
    if (t.f.state == FENCER_FAILED) CHECK(t.f.code != DW_OK && t.f.text[0]);
    if (t.f.state != FENCER_ANSWERED) continue;
    const struct msg_fenced *m = fencer_take(&t.f);
    CHECK(m->id == t.f.id && m->id == t.asked.id && hash128_eq(&m->cluster_id, &t.cluster));
  }
  fencer_free(&t.f);
  frame_reader_free(&t.reader);
  return 0;
}
