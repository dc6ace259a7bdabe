/* Frames and messages. A stream of bytes gives the same frames whole and in pieces; a decoded message is encoded to the
 * same frame; the reader's memory follows what has arrived, not what a length announces.
 * Input: 1 byte of choices (bit 0: leave checksums as they are, bit 1: version 0 is negotiated, rest: size of pieces);
 * the stream. */
#include "fuzz/fuzz.h"
#include "replication/checkpoint_manifest.h"
#include "replication/message.h"

/* The bytes of the frame that is being looked at, and the sender it came from. */
struct seen {
  const struct frame *f;
  struct msg_sender s;
  struct buf again;
};

static void same(struct seen *x) {
  const uint8_t *frame = x->f->body - MSG_HEADER_BYTES;
  CHECK(x->again.len == MSG_HEADER_BYTES + x->f->h.body_len);
  CHECK(memcmp(x->again.data, frame, x->again.len) == 0);
}

/* Text is made printable when it is decoded, so only a text that was so from the start comes back as it was. */
static bool printable(const uint8_t *p, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (p[i] && (p[i] < 0x20 || p[i] == 0x7f)) return false;
  return true;
}

static void hello(struct seen *x) {
  struct msg_hello m;
  if (msg_get_hello(x->f, &m)) return;
  const uint8_t *p = x->f->body;
  CHECK(m.region[MSG_REGION_BYTES - 1] == 0 && printable((uint8_t *)m.region, MSG_REGION_BYTES));
  CHECK(m.applied.lsn <= m.tail.lsn && m.at.lsn <= m.tail.lsn && m.node_id);
  CHECK(msg_put_hello(&x->again, &x->s, &m) == DW_OK);
  size_t n = strnlen((const char *)p + 168, MSG_REGION_BYTES);
  if (x->f->h.body_len == MSG_HELLO_BYTES && printable(p + 168, n))
    same(x); /* longer: see members(), or of a later version */
}

/* Texts are cleaned, so it is what was decoded that must survive. */
static void members(struct seen *x) {
  struct msg_members m, again;
  struct frame f = *x->f;
  if (msg_get_members(x->f, &m)) return;
  for (uint32_t i = 0; i < m.count; i++) {
    CHECK(m.member[i].node_id && strlen(m.member[i].client) < MSG_ADDRESS_BYTES &&
          !strpbrk(m.member[i].client, " \r\n"));
    CHECK(strlen(m.member[i].region) < MSG_REGION_BYTES && printable((uint8_t *)m.member[i].region, MSG_REGION_BYTES));
  }
  CHECK(msg_put_members(&x->again, &x->s, &m) == DW_OK && x->again.len == MSG_HEADER_BYTES + f.h.body_len);
  f.body = x->again.data + MSG_HEADER_BYTES;
  CHECK(msg_get_members(&f, &again) == DW_OK && memcmp(&m, &again, sizeof m) == 0);
}

static void welcome(struct seen *x) {
  struct msg_welcome m;
  if (msg_get_welcome(x->f, &m)) return;
  CHECK(m.pos.lsn <= m.tail_lsn && m.node_id && !hash128_zero(&m.cluster_id));
  CHECK(msg_put_welcome(&x->again, &x->s, &m) == DW_OK);
  same(x);
}

static void refuse(struct seen *x) {
  struct msg_refuse m;
  if (msg_get_refuse(x->f, &m)) return;
  CHECK(strlen(m.text) == x->f->h.body_len - 16 && printable((uint8_t *)m.text, strlen(m.text)));
  CHECK(msg_put_refuse(&x->again, &x->s, &m) == DW_OK);
  if (printable(x->f->body + 16, strlen(m.text))) same(x);
}

static void blocks(struct seen *x) {
  struct msg_blocks m;
  size_t off = 0, n = 0;
  const uint8_t *block;
  uint8_t head[MSG_HEADER_BYTES + MSG_BLOCKS_PREFIX_BYTES];
  if (msg_get_blocks(x->f, &m)) return;
  for (uint32_t i = 0; i < m.count; i++) {
    if (msg_blocks_next(&m, &off, &block, &n)) return;
    CHECK(block >= m.blocks && off <= m.bytes && block + n == m.blocks + off);
  }
  msg_blocks_head(&x->s, m.commit_lsn, m.count, m.bytes, head);
  CHECK(memcmp(head, x->f->body - MSG_HEADER_BYTES, sizeof head) == 0);
}

static void packed(struct seen *x) {
  struct msg_packed m;
  if (msg_get_packed(x->f, &m)) return;
  CHECK(m.count <= WAL_PACK_BLOCKS && m.plain <= WAL_PACK_BYTES && m.pack + m.bytes == x->f->body + x->f->h.body_len);
  CHECK(buf_append(&x->again, x->f->body - MSG_HEADER_BYTES, MSG_HEADER_BYTES + x->f->h.body_len) == DW_OK);
  memset(x->again.data, 0, MSG_HEADER_BYTES + MSG_PACKED_PREFIX_BYTES);
  msg_packed_head(&x->s, &m, &x->again);
  same(x);
}

static void fetched(struct seen *x) {
  struct msg_fetched m;
  uint8_t head[MSG_HEADER_BYTES + MSG_FETCHED_PREFIX_BYTES];
  if (msg_get_fetched(x->f, &m)) return;
  CHECK(m.blocks + m.bytes == x->f->body + x->f->h.body_len);
  msg_fetched_head(&x->s, &m, m.bytes, head);
  CHECK(memcmp(head, x->f->body - MSG_HEADER_BYTES, sizeof head) == 0);
}

static void fetch(struct seen *x) {
  struct msg_fetch m;
  if (msg_get_fetch(x->f, &m)) return;
  CHECK(msg_put_fetch(&x->again, &x->s, &m) == DW_OK);
  if (x->again.len == MSG_HEADER_BYTES + x->f->h.body_len) same(x); /* a longer one is of a later version */
}

static void fence(struct seen *x) {
  struct msg_fence m;
  if (msg_get_fence(x->f, &m)) return;
  CHECK(m.what <= FENCE_PAUSE && m.node_id && m.id && strlen(m.address) < MSG_ADDRESS_BYTES);
  CHECK(msg_put_fence(&x->again, &x->s, &m) == DW_OK);
  bool plain = printable(x->f->body + 48, strnlen((const char *)x->f->body + 48, MSG_ADDRESS_BYTES));
  if (plain && x->again.len == MSG_HEADER_BYTES + x->f->h.body_len) same(x); /* a longer one is of a later version */
}

static void fenced(struct seen *x) {
  struct msg_fenced m;
  if (msg_get_fenced(x->f, &m)) return;
  CHECK(m.verdict <= FENCE_REFUSED && m.node_id && strlen(m.primary) < MSG_ADDRESS_BYTES);
  CHECK(msg_put_fenced(&x->again, &x->s, &m) == DW_OK);
  const uint8_t *p = x->f->body;
  bool plain = printable(p + 136, strnlen((const char *)p + 136, MSG_ADDRESS_BYTES)) &&
               printable(p + 216, x->f->h.body_len - 216);
  if (plain && !memchr(p + 216, 0, x->f->h.body_len - 216)) same(x);
}

static void chunk(struct seen *x) {
  struct msg_ckpt_chunk m;
  uint8_t head[MSG_HEADER_BYTES + MSG_CHUNK_PREFIX_BYTES];
  if (msg_get_ckpt_chunk(x->f, &m)) return;
  CHECK(m.bytes > 0 && m.bytes <= MSG_CHUNK_BYTES && m.data + m.bytes == x->f->body + x->f->h.body_len);
  msg_chunk_head(&x->s, m.file, m.offset, m.data, m.bytes, head);
  CHECK(memcmp(head, x->f->body - MSG_HEADER_BYTES, sizeof head) == 0);
}

static void want(struct seen *x) {
  struct msg_ckpt_want m;
  if (msg_get_ckpt_want(x->f, &m)) return;
  uint64_t *offsets = calloc(m.count + 1, sizeof *offsets);
  CHECK(offsets);
  for (uint32_t i = 0; i < m.count; i++) offsets[i] = msg_want_offset(&m, i);
  CHECK(msg_put_ckpt_want(&x->again, &x->s, &m.id, offsets, m.count) == DW_OK);
  free(offsets);
  same(x);
}

static void manifest(struct seen *x) {
  struct ckpt_manifest m;
  if (msg_get_ckpt_manifest(x->f, &m)) return;
  CHECK(msg_put_ckpt_manifest(&x->again, &x->s, &m) == DW_OK);
  ckpt_manifest_free(&m);
  same(x);
}

static void small(struct seen *x) {
  dw_lsn lsn;
  struct msg_ack ack;
  struct msg_probe probe;
  struct msg_probe_answer answer;
  struct msg_heartbeat beat;
  struct msg_ckpt_file_end end;
  struct msg_ckpt_ack ckpt_ack;
  struct hash128 id;
  int rc = DW_CORRUPT;
  const struct frame *f = x->f;
  switch (f->h.type) {
  case MSG_COMMIT:
    if (!msg_get_commit(f, &lsn)) rc = msg_put_commit(&x->again, &x->s, lsn);
    break;
  case MSG_ACK:
    if (!msg_get_ack(f, &ack)) rc = msg_put_ack(&x->again, &x->s, &ack);
    break;
  case MSG_PROBE:
    if (!msg_get_probe(f, &probe)) rc = msg_put_probe(&x->again, &x->s, &probe);
    break;
  case MSG_PROBE_ANSWER:
    if (!msg_get_probe_answer(f, &answer)) rc = msg_put_probe_answer(&x->again, &x->s, &answer);
    break;
  case MSG_HEARTBEAT:
    if (!msg_get_heartbeat(f, &beat)) rc = msg_put_heartbeat(&x->again, &x->s, &beat);
    break;
  case MSG_CKPT_FILE_END:
    if (!msg_get_ckpt_file_end(f, &end)) rc = msg_put_ckpt_file_end(&x->again, &x->s, &end);
    break;
  case MSG_CKPT_ACK:
    if (!msg_get_ckpt_ack(f, &ckpt_ack)) rc = msg_put_ckpt_ack(&x->again, &x->s, &ckpt_ack);
    break;
  case MSG_CKPT_DONE:
    if (!msg_get_id(f, &id)) rc = msg_put_ckpt_done(&x->again, &x->s, &id);
    break;
  case MSG_CKPT_INSTALLED:
    if (!msg_get_id(f, &id)) rc = msg_put_ckpt_installed(&x->again, &x->s, &id);
    break;
  default: CHECK(false); /* of unknown type: the reader must not have let it through */
  }
  if (rc == DW_OK) same(x);
}

static void look(const struct frame *f) {
  struct seen x = {.f = f, .s = {.version = f->h.version, .epoch = f->h.epoch, .node_id = f->h.sender}};
  uint32_t min, max;
  CHECK(msg_bounds(f->h.type, &min, &max) && f->h.body_len >= min && f->h.body_len <= max);
  switch (f->h.type) {
  case MSG_HELLO: hello(&x); break;
  case MSG_WELCOME: welcome(&x); break;
  case MSG_REFUSE: refuse(&x); break;
  case MSG_BLOCKS: blocks(&x); break;
  case MSG_CKPT_MANIFEST: manifest(&x); break;
  case MSG_CKPT_WANT: want(&x); break;
  case MSG_CKPT_CHUNK: chunk(&x); break;
  case MSG_FETCH: fetch(&x); break;
  case MSG_FETCHED: fetched(&x); break;
  case MSG_FENCE: fence(&x); break;
  case MSG_FENCED: fenced(&x); break;
  case MSG_MEMBERS: members(&x); break;
  case MSG_PACKED: packed(&x); break;
  default: small(&x);
  }
  buf_free(&x.again);
}

/* Reads all frames; returns a hash of them and of how it ended. */
static uint64_t read_all(const uint8_t *data, size_t size, size_t piece, uint16_t version, bool check) {
  struct frame_reader r;
  uint64_t sum = 0;
  int rc = DW_NOT_FOUND;
  frame_reader_init(&r, UINT32_MAX);
  r.version = version;
  for (size_t at = 0; at < size && rc == DW_NOT_FOUND; at += piece) {
    size_t n = size - at < piece ? size - at : piece;
    CHECK(frame_reader_feed(&r, data + at, n) == DW_OK);
    CHECK(r.in.cap <= 2 * (at + n) + 4096);
    struct frame f;
    while ((rc = frame_reader_next(&r, &f)) == DW_OK) {
      sum = sum * 31 + hash64(f.body - MSG_HEADER_BYTES, MSG_HEADER_BYTES + f.h.body_len);
      if (check) look(&f);
    }
  }
  if (rc != DW_NOT_FOUND) { /* broken for good, and it goes on saying so */
    struct frame f;
    CHECK(frame_reader_next(&r, &f) == rc && frame_reader_feed(&r, "x", 1) == rc);
  } else {
    sum += frame_reader_buffered(&r);
  }
  frame_reader_free(&r);
  return sum * 31 + (uint64_t)rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  uint8_t how = data[0];
  uint8_t *stream = exact_copy(data + 1, --size);
  if (!(how & 1)) repair_frames(stream, size);
  size_t piece = 1 + (how >> 2) + size / 64;
  uint16_t version = (uint16_t)(how & 2 ? 0 : MSG_VERSION_MAX);
  uint64_t whole = read_all(stream, size, size ? size : 1, version, true);
  CHECK(read_all(stream, size, piece, version, false) == whole);
  free(stream);
  return 0;
}
