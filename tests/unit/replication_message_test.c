/* Frames and messages: what goes in comes out, and nothing else does. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "replication/checkpoint_manifest.h"
#include "tests/support/repl_sim.h"

#define ALL 0xffffffffu
static const struct msg_sender me = {.version = 1, .epoch = 9, .node_id = 77};

static struct wal_pos pos(dw_lsn lsn, uint64_t epoch) {
  return (struct wal_pos){lsn, epoch, sim_id(lsn + 100)};
}

static struct msg_hello hello(void) {
  struct msg_hello h = {.version_min = 1,
                        .version_max = 3,
                        .role = DW_FOLLOWER,
                        .heartbeat_ms = 500,
                        .cluster_id = sim_id(1),
                        .node_id = 77,
                        .incarnation = sim_id(2),
                        .tail = pos(50, 4),
                        .applied = pos(40, 3),
                        .at = pos(45, 4),
                        .resume = sim_id(3),
                        .region = "eu-west"};
  return h;
}

static struct msg_welcome welcome(void) {
  struct msg_welcome w = {.version = 1,
                          .follows = FOLLOWS_STREAM,
                          .role = DW_PRIMARY,
                          .heartbeat_ms = 500,
                          .cluster_id = sim_id(1),
                          .node_id = 77,
                          .incarnation = sim_id(2),
                          .epoch = 9,
                          .commit_lsn = 48,
                          .tail_lsn = 60,
                          .pos = pos(50, 4)};
  return w;
}

static struct ckpt_manifest manifest(void) {
  struct ckpt_manifest m = {.id = sim_id(4), .pos = pos(30, 2)};
  ck_assert_int_eq(ckpt_manifest_add(&m, "CURRENT", 16), DW_OK);
  ck_assert_int_eq(ckpt_manifest_add(&m, "000012.sst", 70000000), DW_OK);
  ck_assert_int_eq(ckpt_manifest_add(&m, "MANIFEST-000004", 0), DW_OK);
  return m;
}

/* One frame of every kind, back to back. */
static void first_messages(struct buf *b) {
  struct msg_hello h = hello();
  struct msg_welcome w = welcome();
  struct ckpt_manifest m = manifest();
  struct hash128 id = sim_id(4);
  uint64_t offsets[3] = {0, CKPT_HELD, 7};
  uint8_t data[100], head[MSG_HEADER_BYTES + MSG_CHUNK_PREFIX_BYTES];
  memset(data, 'x', sizeof data);
  ck_assert_int_eq(msg_put_hello(b, &me, &h), DW_OK);
  ck_assert_int_eq(msg_put_welcome(b, &me, &w), DW_OK);
  ck_assert_int_eq(msg_put_refuse(b, &me, &(struct msg_refuse){.code = DW_DIVERGED, .lsn = 5, .text = "no"}), DW_OK);
  struct memlog log;
  memlog_init(&log, &id, NULL);
  memlog_write(&log, 1, 2, 300, sim_durable, 1, 0);
  memlog_write(&log, 1, 1, 100, sim_durable, 2, 0);
  size_t n = block_total_bytes(&log.blocks[0]->h) + block_total_bytes(&log.blocks[1]->h);
  uint8_t bhead[MSG_HEADER_BYTES + MSG_BLOCKS_PREFIX_BYTES];
  msg_blocks_head(&me, 41, 2, n, bhead);
  buf_append(b, bhead, sizeof bhead);
  for (int i = 0; i < 2; i++) buf_append(b, log.blocks[i]->bytes, block_total_bytes(&log.blocks[i]->h));
  memlog_free(&log);
  ck_assert_int_eq(msg_put_commit(b, &me, 42), DW_OK);
  ck_assert_int_eq(msg_put_ack(b, &me, &(struct msg_ack){3, 2, 1, 250}), DW_OK);
  ck_assert_int_eq(msg_put_probe(b, &me, &(struct msg_probe){11, 12, 2}), DW_OK);
  ck_assert_int_eq(msg_put_probe_answer(b, &me, &(struct msg_probe_answer){11, 12, 13}), DW_OK);
  ck_assert_int_eq(msg_put_heartbeat(b, &me, &(struct msg_heartbeat){14, 15}), DW_OK);
  ck_assert_int_eq(msg_put_ckpt_manifest(b, &me, &m), DW_OK);
  ck_assert_int_eq(msg_put_ckpt_want(b, &me, &id, offsets, 3), DW_OK);
  msg_chunk_head(&me, 1, 4096, data, sizeof data, head);
  buf_append(b, head, sizeof head);
  buf_append(b, data, sizeof data);
  ck_assert_int_eq(msg_put_ckpt_file_end(b, &me, &(struct msg_ckpt_file_end){1, sim_id(6)}), DW_OK);
  ck_assert_int_eq(msg_put_ckpt_done(b, &me, &id), DW_OK);
  ck_assert_int_eq(msg_put_ckpt_ack(b, &me, &(struct msg_ckpt_ack){99}), DW_OK);
  ck_assert_int_eq(msg_put_ckpt_installed(b, &me, &id), DW_OK);
  ckpt_manifest_free(&m);
}

static struct msg_fetch fetch(void) {
  return (struct msg_fetch){.version_min = 1,
                            .version_max = 3,
                            .max_bytes = 65536,
                            .cluster_id = sim_id(4),
                            .node_id = 77,
                            .id = 6,
                            .from = {30, 2, sim_id(31)},
                            .upto = 33};
}

/* Came later: a follower's conversation has none of them. */
static void repair_messages(struct buf *b) {
  struct msg_fetch ask = fetch();
  struct msg_fetched m = {.version = 1, .count = 2, .id = 6, .cluster_id = sim_id(4)};
  uint8_t head[MSG_HEADER_BYTES + MSG_FETCHED_PREFIX_BYTES];
  struct memlog log;
  memlog_init(&log, &m.cluster_id, NULL);
  memlog_write(&log, 1, 2, 300, sim_durable, 1, 0);
  memlog_write(&log, 1, 1, 100, sim_durable, 2, 0);
  ck_assert_int_eq(msg_put_fetch(b, &me, &ask), DW_OK);
  msg_fetched_head(&me, &m, block_total_bytes(&log.blocks[0]->h) + block_total_bytes(&log.blocks[1]->h), head);
  buf_append(b, head, sizeof head);
  for (int i = 0; i < 2; i++) buf_append(b, log.blocks[i]->bytes, block_total_bytes(&log.blocks[i]->h));
  memlog_free(&log);
}

/* Of promises and of members; the bytes of the latter are in replication_members_test.c. */
static void later_messages(struct buf *b) {
  struct msg_fence ask = {.version_min = 1,
                          .version_max = 3,
                          .what = FENCE_PROMISE,
                          .cluster_id = sim_id(4),
                          .node_id = 77,
                          .id = 6,
                          .epoch = 10,
                          .address = "10.0.0.7:7400",
                          .durable = pos(50, 4)};
  struct msg_fenced told = {.version = 1,
                            .verdict = FENCE_PROMISED,
                            .role = DW_FOLLOWER,
                            .has_data = true,
                            .cluster_id = sim_id(4),
                            .node_id = 77,
                            .incarnation = sim_id(2),
                            .id = 6,
                            .promised_epoch = 10,
                            .promised_node = 78,
                            .durable = pos(50, 4),
                            .text = "why"};
  struct msg_members all = {.count = 2,
                            .member = {{.node_id = 77, .role = DW_PRIMARY, .client = "10.0.0.7:6379"},
                                       {.node_id = 78, .role = DW_FOLLOWER, .region = "eu"}}};
  ck_assert_int_eq(msg_put_fence(b, &me, &ask), DW_OK);
  ck_assert_int_eq(msg_put_fenced(b, &me, &told), DW_OK);
  ck_assert_int_eq(msg_put_members(b, &me, &all), DW_OK);
}

/* Numbers that no message has are left out. */
static unsigned type_after(unsigned type) {
  while (++type < MSG_TYPES && !msg_name(type)) continue;
  return type;
}
static unsigned count_types(void) {
  unsigned n = 0;
  for (unsigned type = type_after(0); type < MSG_TYPES; type = type_after(type)) n++;
  return n;
}

/* From version 2 on. */
static void packed_messages(struct buf *b) {
  struct hash128 id = sim_id(4);
  struct memlog log;
  struct wal_packer *p;
  struct buf one = {0};
  memlog_init(&log, &id, NULL);
  memlog_write(&log, 1, 2, 300, sim_durable, 1, 0);
  memlog_write(&log, 1, 1, 100, sim_durable, 2, 0);
  struct msg_packed m = {.commit_lsn = 41, .count = 2, .chain = log.end.chain};
  ck_assert_int_eq(wal_packer_create(&p), DW_OK);
  ck_assert_int_eq(buf_reserve(&one, MSG_HEADER_BYTES + MSG_PACKED_PREFIX_BYTES), DW_OK);
  one.len = MSG_HEADER_BYTES + MSG_PACKED_PREFIX_BYTES;
  ck_assert_int_eq(wal_pack(p, &log.base, log.blocks, 2, &one, &m.plain), DW_OK);
  msg_packed_head(&me, &m, &one);
  ck_assert_int_eq(buf_append(b, one.data, one.len), DW_OK);
  buf_free(&one);
  wal_packer_free(p);
  memlog_free(&log);
}

static int decode_packed(const struct frame *f) {
  struct msg_packed m;
  struct hash128 id = sim_id(4);
  struct wal_pos before = wal_genesis(&id);
  struct wal_unpacker *u;
  struct wal_block *blocks[WAL_PACK_BLOCKS];
  int rc = msg_get_packed(f, &m);
  if (rc) return rc;
  ck_assert_int_eq(wal_unpacker_create(&u), DW_OK);
  rc = wal_unpack(u, &before, m.pack, m.bytes, m.plain, &m.chain, blocks, m.count);
  for (uint32_t i = 0; rc == DW_OK && i < m.count; i++) wal_block_unref(blocks[i]);
  wal_unpacker_free(u);
  return rc;
}

static int decode_fetched(const struct frame *f) {
  struct msg_fetched m;
  int rc = msg_get_fetched(f, &m);
  struct msg_blocks all = {.count = m.count, .blocks = m.blocks, .bytes = m.bytes};
  size_t off = 0, n;
  const uint8_t *bytes;
  for (uint32_t i = 0; rc == DW_OK && i < m.count; i++) {
    struct wal_block *b = NULL;
    rc = msg_blocks_next(&all, &off, &bytes, &n);
    if (rc == DW_OK) rc = wal_block_parse(bytes, n, &b);
    wal_block_unref(b);
  }
  return rc == DW_OK && off != m.bytes ? DW_CORRUPT : rc;
}

static int decode_blocks(const struct frame *f) {
  struct msg_blocks m;
  size_t off = 0, n;
  const uint8_t *bytes;
  int rc = msg_get_blocks(f, &m);
  for (uint32_t i = 0; rc == DW_OK && i < m.count; i++) {
    struct wal_block *b = NULL;
    rc = msg_blocks_next(&m, &off, &bytes, &n);
    if (rc == DW_OK) rc = wal_block_parse(bytes, n, &b);
    wal_block_unref(b);
  }
  return rc == DW_OK && off != m.bytes ? DW_CORRUPT : rc;
}

static void every_message(struct buf *b) {
  first_messages(b);
  repair_messages(b);
  packed_messages(b);
  later_messages(b);
}

/* Decodes whatever it is. */
static int decode(const struct frame *f) {
  union {
    struct msg_hello h;
    struct msg_welcome w;
    struct msg_refuse r;
    struct msg_ack a;
    struct msg_probe p;
    struct msg_probe_answer pa;
    struct msg_heartbeat hb;
    struct msg_ckpt_want want;
    struct msg_ckpt_chunk chunk;
    struct msg_ckpt_file_end end;
    struct msg_ckpt_ack ca;
    struct msg_fetch fetch;
    struct msg_fence fence;
    struct msg_fenced fenced;
    struct msg_members members;
    struct hash128 id;
    dw_lsn lsn;
  } m;
  struct ckpt_manifest cm;
  int rc;
  switch (f->h.type) {
  case MSG_HELLO: return msg_get_hello(f, &m.h);
  case MSG_WELCOME: return msg_get_welcome(f, &m.w);
  case MSG_REFUSE: return msg_get_refuse(f, &m.r);
  case MSG_BLOCKS: return decode_blocks(f);
  case MSG_COMMIT: return msg_get_commit(f, &m.lsn);
  case MSG_ACK: return msg_get_ack(f, &m.a);
  case MSG_PROBE: return msg_get_probe(f, &m.p);
  case MSG_PROBE_ANSWER: return msg_get_probe_answer(f, &m.pa);
  case MSG_HEARTBEAT: return msg_get_heartbeat(f, &m.hb);
  case MSG_CKPT_MANIFEST:
    rc = msg_get_ckpt_manifest(f, &cm);
    if (rc == DW_OK) ckpt_manifest_free(&cm);
    return rc;
  case MSG_CKPT_WANT: return msg_get_ckpt_want(f, &m.want);
  case MSG_CKPT_CHUNK: return msg_get_ckpt_chunk(f, &m.chunk);
  case MSG_CKPT_FILE_END: return msg_get_ckpt_file_end(f, &m.end);
  case MSG_CKPT_ACK: return msg_get_ckpt_ack(f, &m.ca);
  case MSG_FETCH: return msg_get_fetch(f, &m.fetch);
  case MSG_FETCHED: return decode_fetched(f);
  case MSG_FENCE: return msg_get_fence(f, &m.fence);
  case MSG_FENCED: return msg_get_fenced(f, &m.fenced);
  case MSG_MEMBERS: return msg_get_members(f, &m.members);
  case MSG_PACKED: return decode_packed(f);
  default: return msg_get_id(f, &m.id);
  }
}

START_TEST(every_message_survives_any_fragmentation) {
  struct buf b = {0};
  every_message(&b);
  for (size_t step = 1; step < 400; step += 13) {
    struct frame_reader r;
    struct frame f;
    unsigned seen = 0, type = 0;
    frame_reader_init(&r, ALL);
    r.version = 1;
    for (size_t off = 0; off < b.len; off += step) {
      ck_assert_int_eq(frame_reader_feed(&r, b.data + off, b.len - off < step ? b.len - off : step), DW_OK);
      int rc;
      while ((rc = frame_reader_next(&r, &f)) == DW_OK) {
        seen++;
        ck_assert_uint_eq(f.h.type, type = type_after(type)); /* in the order of the enum */
        ck_assert_uint_eq(f.h.sender, 77);
        ck_assert_uint_eq(f.h.epoch, 9);
        ck_assert_int_eq(decode(&f), DW_OK);
      }
      ck_assert_int_eq(rc, DW_NOT_FOUND);
    }
    ck_assert_uint_eq(seen, count_types());
    ck_assert_uint_eq(frame_reader_buffered(&r), 0);
    frame_reader_free(&r);
  }
  buf_free(&b);
}
END_TEST

START_TEST(every_flipped_byte_is_noticed) {
  struct buf b = {0};
  every_message(&b);
  for (size_t i = 0; i < b.len; i++) {
    struct frame_reader r;
    struct frame f;
    frame_reader_init(&r, ALL);
    r.version = 1;
    b.data[i] ^= 0x10;
    ck_assert_int_eq(frame_reader_feed(&r, b.data, b.len), DW_OK);
    int rc;
    unsigned seen = 0;
    while ((rc = frame_reader_next(&r, &f)) == DW_OK && (rc = decode(&f)) == DW_OK) seen++;
    ck_assert_msg(rc == DW_CORRUPT || rc == DW_UNSUPPORTED, "flip at %zu: rc %d after %u frames", i, rc, seen);
    ck_assert_uint_lt(seen, count_types());
    b.data[i] ^= 0x10;
    frame_reader_free(&r);
  }
  buf_free(&b);
}
END_TEST

/* docs/protocol.md in numbers: if this turns red, the protocol has changed and needs a new version. */
START_TEST(the_bytes_of_every_message_are_the_documented_ones) {
  struct buf b = {0};
  struct msg_hello h = hello();
  char hex[33];
  ck_assert_int_eq(msg_put_hello(&b, &me, &h), DW_OK);
  ck_assert_uint_eq(b.len, 248);
  ck_assert_mem_eq(b.data, "DWM1\0\0\1\0\xc8\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0M\0\0\0\0\0\0\0", 32);
  const uint8_t *p = b.data + MSG_HEADER_BYTES;
  ck_assert_uint_eq(get_u16(p), 1);
  ck_assert_uint_eq(get_u16(p + 2), 3);
  ck_assert_uint_eq(p[4], 1);
  ck_assert_mem_eq(p + 8, h.cluster_id.b, 16);
  ck_assert_uint_eq(get_u64(p + 24), 77);
  ck_assert_mem_eq(p + 32, h.incarnation.b, 16);
  ck_assert_uint_eq(get_u64(p + 48), 50);
  ck_assert_uint_eq(get_u64(p + 56), 4);
  ck_assert_mem_eq(p + 64, h.tail.chain.b, 16);
  ck_assert_uint_eq(get_u64(p + 80), 40);
  ck_assert_uint_eq(get_u64(p + 112), 45);
  ck_assert_mem_eq(p + 144, h.resume.b, 16);
  ck_assert_uint_eq(get_u32(p + 160), 500);
  ck_assert_str_eq((const char *)p + 168, "eu-west");
  b.len = 0;
  first_messages(&b);
  struct hash128 all = hash128(b.data, b.len);
  hash128_hex(&all, hex);
  ck_assert_str_eq(hex, "26cc1cc0e1c9a178a896993c7590b424");
  b.len = 0;
  repair_messages(&b);
  all = hash128(b.data, b.len);
  hash128_hex(&all, hex);
  ck_assert_str_eq(hex, "5692f7084b7f98dba802ecb6536b4501");
  ck_assert_mem_eq(b.data, "DWM1\0\0\x11\0\x58\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0M\0\0\0\0\0\0\0", 32);
  p = b.data + MSG_HEADER_BYTES;
  struct msg_fetch ask = fetch();
  ck_assert_uint_eq(get_u16(p), 1);
  ck_assert_uint_eq(get_u16(p + 2), 3);
  ck_assert_uint_eq(get_u32(p + 4), 65536);
  ck_assert_mem_eq(p + 8, ask.cluster_id.b, 16);
  ck_assert_uint_eq(get_u64(p + 24), 77);
  ck_assert_uint_eq(get_u64(p + 32), 6);
  ck_assert_uint_eq(get_u64(p + 40), 30);
  ck_assert_uint_eq(get_u64(p + 48), 2);
  ck_assert_mem_eq(p + 56, ask.from.chain.b, 16);
  ck_assert_uint_eq(get_u64(p + 72), 33);
  p += 88 + MSG_HEADER_BYTES; /* FETCHED */
  ck_assert_uint_eq(get_u16(p), 1);
  ck_assert_uint_eq(get_u32(p + 4), 2);
  ck_assert_uint_eq(get_u64(p + 8), 6);
  ck_assert_mem_eq(p + 16, ask.cluster_id.b, 16);
  buf_free(&b);
}
END_TEST

START_TEST(a_reader_that_failed_stays_failed) {
  struct frame_reader r;
  struct frame f;
  struct buf b = {0};
  frame_reader_init(&r, ALL);
  ck_assert_int_eq(frame_reader_feed(&r, "GET / HTTP/1.1\r\nHost: somewhere.example.org\r\n\r\n", 48), DW_OK);
  ck_assert_int_eq(frame_reader_next(&r, &f), DW_CORRUPT);
  ck_assert_ptr_nonnull(strstr(r.error, "not a dabbawal peer"));
  ck_assert_int_eq(msg_put_heartbeat(&b, &me, &(struct msg_heartbeat){0}), DW_OK);
  ck_assert_int_eq(frame_reader_feed(&r, b.data, b.len), DW_CORRUPT);
  ck_assert_int_eq(frame_reader_next(&r, &f), DW_CORRUPT);
  buf_free(&b);
  frame_reader_free(&r);
}
END_TEST

static int next_after(unsigned accept, uint16_t version, const struct frame_header *h, char *text, size_t cap) {
  struct frame_reader r;
  struct frame f;
  uint8_t head[MSG_HEADER_BYTES];
  frame_header_encode(h, head);
  frame_reader_init(&r, accept);
  r.version = version;
  frame_reader_feed(&r, head, sizeof head);
  int rc = frame_reader_next(&r, &f);
  snprintf(text, cap, "%s", r.error);
  ck_assert_uint_le(r.in.cap, 65536); /* a header alone makes no room */
  frame_reader_free(&r);
  return rc;
}

START_TEST(a_header_that_lies_is_refused_before_its_body_comes) {
  char text[256];
  struct frame_header h = {.version = 1, .type = MSG_ACK, .body_len = 33};
  ck_assert_int_eq(next_after(ALL, 1, &h, text, sizeof text), DW_CORRUPT);
  ck_assert_ptr_nonnull(strstr(text, "ACK of 33 bytes"));
  for (unsigned type = type_after(0); type < MSG_TYPES; type = type_after(type)) {
    uint32_t min, max;
    ck_assert(msg_bounds(type, &min, &max));
    uint16_t v = type <= MSG_REFUSE || type == MSG_HEARTBEAT || (type >= MSG_FETCH && type <= MSG_FENCED && type != MSG_PACKED) ? 0 : 1;
    h = (struct frame_header){.version = v, .type = (uint16_t)type, .body_len = max + 1};
    ck_assert_int_eq(next_after(ALL, 1, &h, text, sizeof text), DW_CORRUPT);
    h.body_len = min - 1;
    ck_assert_int_eq(next_after(ALL, 1, &h, text, sizeof text), DW_CORRUPT);
    h.body_len = max;
    ck_assert_int_eq(next_after(ALL, 1, &h, text, sizeof text), DW_NOT_FOUND); /* fine so far */
    ck_assert_int_eq(next_after(ALL & ~MSG_BIT(type), 1, &h, text, sizeof text), DW_CORRUPT);
    ck_assert_ptr_nonnull(strstr(text, "out of place"));
    h.version = (uint16_t)(v + 1);
    ck_assert_int_eq(next_after(ALL, 1, &h, text, sizeof text), DW_UNSUPPORTED);
  }
  h = (struct frame_header){.version = 1, .type = MSG_TYPES, .body_len = 8};
  ck_assert_int_eq(next_after(ALL, 1, &h, text, sizeof text), DW_UNSUPPORTED);
  ck_assert_ptr_nonnull(strstr(text, "unknown message type 23"));
}
END_TEST

/* A frame whose checksums are right but whose content is not. */
static int forged(unsigned type, void *body, size_t n) {
  struct buf b = {0};
  struct frame f = {.h = {.type = (uint16_t)type, .body_len = (uint32_t)n, .sender = 77, .epoch = 9}, .body = body};
  int rc = decode(&f);
  buf_free(&b);
  return rc;
}

START_TEST(a_hello_that_contradicts_itself_is_refused) {
  struct msg_hello good = hello(), h;
  struct buf b = {0};
  ck_assert_int_eq(msg_put_hello(&b, &me, &good), DW_OK);
  uint8_t *body = b.data + MSG_HEADER_BYTES;
  size_t n = b.len - MSG_HEADER_BYTES;
  ck_assert_int_eq(forged(MSG_HELLO, body, n), DW_OK);
#define BREAK(stmt, want)                                                                                              \
  do {                                                                                                                 \
    h = good;                                                                                                          \
    stmt;                                                                                                              \
    b.len = 0;                                                                                                         \
    ck_assert_int_eq(msg_put_hello(&b, &me, &h), DW_OK);                                                               \
    ck_assert_int_eq(forged(MSG_HELLO, b.data + MSG_HEADER_BYTES, n), want);                                           \
  } while (0)
  BREAK(h.version_min = 0, DW_CORRUPT);
  BREAK((h.version_min = 5, h.version_max = 4), DW_CORRUPT);
  BREAK((h.version_min = 9, h.version_max = 12), DW_UNSUPPORTED);
  BREAK(h.role = 7, DW_CORRUPT);
  BREAK(h.node_id = 0, DW_CORRUPT);
  BREAK(h.node_id = 78, DW_CORRUPT);
  BREAK(h.incarnation = (struct hash128){{0}}, DW_CORRUPT);
  BREAK(h.heartbeat_ms = 0, DW_CORRUPT);
  BREAK(h.heartbeat_ms = MSG_MAX_HEARTBEAT_MS + 1, DW_CORRUPT);
  BREAK(h.applied.lsn = 51, DW_CORRUPT);
  BREAK(h.at.lsn = 51, DW_CORRUPT);
  BREAK(h.applied.epoch = 5, DW_CORRUPT);
  BREAK(h.cluster_id = (struct hash128){{0}}, DW_CORRUPT);
  body = b.data + MSG_HEADER_BYTES;
  BREAK((void)0, DW_OK);
  body[168 + 31] = 'x';
  ck_assert_int_eq(forged(MSG_HELLO, body, n), DW_CORRUPT);
  BREAK((void)0, DW_OK);
  body[168 + 20] = 'x'; /* behind the region's end */
  ck_assert_int_eq(forged(MSG_HELLO, body, n), DW_CORRUPT);
  BREAK((void)0, DW_OK);
  body[5] = 1;
  ck_assert_int_eq(forged(MSG_HELLO, body, n), DW_CORRUPT);
  buf_free(&b);
}
END_TEST

START_TEST(a_fetch_that_contradicts_itself_is_refused) {
  struct msg_fetch good = fetch(), h;
  struct buf b = {0};
  size_t n = 88;
#define BREAK_FETCH(stmt, want)                                                                                        \
  do {                                                                                                                 \
    h = good;                                                                                                          \
    stmt;                                                                                                              \
    b.len = 0;                                                                                                         \
    ck_assert_int_eq(msg_put_fetch(&b, &me, &h), DW_OK);                                                               \
    ck_assert_int_eq(forged(MSG_FETCH, b.data + MSG_HEADER_BYTES, n), want);                                           \
  } while (0)
  BREAK_FETCH((void)0, DW_OK);
  BREAK_FETCH(h.version_min = 0, DW_CORRUPT);
  BREAK_FETCH((h.version_min = 9, h.version_max = 12), DW_UNSUPPORTED);
  BREAK_FETCH(h.node_id = 0, DW_CORRUPT);
  BREAK_FETCH(h.node_id = 78, DW_CORRUPT);
  BREAK_FETCH(h.id = 0, DW_CORRUPT);
  BREAK_FETCH(h.upto = 29, DW_CORRUPT);
  BREAK_FETCH(h.cluster_id = (struct hash128){{0}}, DW_CORRUPT);
  BREAK_FETCH((void)0, DW_OK);
  b.data[MSG_HEADER_BYTES + 80] = 1;
  ck_assert_int_eq(forged(MSG_FETCH, b.data + MSG_HEADER_BYTES, n), DW_CORRUPT);
  buf_free(&b);
  uint8_t body[MSG_FETCHED_PREFIX_BYTES] = {1};
  ck_assert_int_eq(forged(MSG_FETCHED, body, sizeof body), DW_OK); /* no blocks */
  body[4] = 1;
  ck_assert_int_eq(forged(MSG_FETCHED, body, sizeof body), DW_CORRUPT); /* one block in no bytes */
  body[4] = 0, body[0] = 9;
  ck_assert_int_eq(forged(MSG_FETCHED, body, sizeof body), DW_UNSUPPORTED);
  body[0] = 1, body[40] = 1;
  ck_assert_int_eq(forged(MSG_FETCHED, body, sizeof body), DW_CORRUPT);
}
END_TEST

START_TEST(a_later_versions_longer_hello_is_read_by_its_beginning) {
  struct msg_hello h = hello(), got;
  struct buf b = {0};
  ck_assert_int_eq(msg_put_hello(&b, &me, &h), DW_OK);
  buf_append(&b, "and more", 8);
  struct frame f = {.h = {.type = MSG_HELLO, .body_len = 208, .sender = 77}, .body = b.data + MSG_HEADER_BYTES};
  ck_assert_int_eq(msg_get_hello(&f, &got), DW_OK);
  ck_assert_uint_eq(got.tail.lsn, 50);
  ck_assert_str_eq(got.region, "eu-west");
  buf_free(&b);
}
END_TEST

START_TEST(what_a_hello_asks_for_besides_is_read_and_unknown_wishes_are_not_minded) {
  for (unsigned i = 0; i < 4; i++) {
    struct msg_hello h = hello(), got;
    struct buf b = {0};
    h.rejoin = i & 1;
    h.hashes = i & 2;
    ck_assert_int_eq(msg_put_hello(&b, &me, &h), DW_OK);
    struct frame f = {.h = {.type = MSG_HELLO, .body_len = (uint32_t)b.len - MSG_HEADER_BYTES, .sender = 77},
                      .body = b.data + MSG_HEADER_BYTES};
    ck_assert_int_eq(msg_get_hello(&f, &got), DW_OK);
    ck_assert(got.rejoin == h.rejoin && got.hashes == h.hashes && !got.has_member);
    if (i) b.data[b.len - 7] = 0x80; /* of the flags: a later version's */
    ck_assert_int_eq(msg_get_hello(&f, &got), DW_OK);
    ck_assert(got.rejoin == h.rejoin && got.hashes == h.hashes);
    buf_free(&b);
  }
}
END_TEST

START_TEST(a_manifest_with_hashes_survives_and_is_checked_like_one_without) {
  struct ckpt_manifest m = manifest(), got = {0};
  struct buf b = {0};
  m.hashes = true;
  for (uint32_t i = 0; i < m.count; i++) m.files[i].hash.b[0] = (uint8_t)(i + 1);
  ck_assert_int_eq(ckpt_manifest_encode(&b, &m), DW_OK);
  ck_assert_int_eq(ckpt_manifest_decode(b.data, b.len, &got), DW_OK);
  ck_assert(got.hashes && got.count == 3 && got.total_bytes == 70000016);
  for (uint32_t i = 0; i < 3; i++) {
    ck_assert_uint_eq(got.files[i].hash.b[0], i + 1);
    ck_assert_str_eq(got.files[i].name, m.files[i].name);
  }
  ckpt_manifest_free(&got);
  for (size_t n = 0; n < b.len; n++) ck_assert_int_eq(ckpt_manifest_decode(b.data, n, &got), DW_CORRUPT);
  put_u32(b.data + 60, 2);
  ck_assert_int_eq(ckpt_manifest_decode(b.data, b.len, &got), DW_CORRUPT);
  buf_free(&b);
  ckpt_manifest_free(&m);
}
END_TEST

START_TEST(text_from_a_peer_can_not_forge_log_lines) {
  struct msg_refuse m = {.code = DW_DIVERGED, .text = "bad\n2026 ERROR forged\x1b[2J"}, got;
  struct buf b = {0};
  ck_assert_int_eq(msg_put_refuse(&b, &me, &m), DW_OK);
  struct frame f = {.h = {.type = MSG_REFUSE, .body_len = (uint32_t)(b.len - MSG_HEADER_BYTES)},
                    .body = b.data + MSG_HEADER_BYTES};
  ck_assert_int_eq(msg_get_refuse(&f, &got), DW_OK);
  ck_assert_str_eq(got.text, "bad?2026 ERROR forged?[2J");
  buf_free(&b);
}
END_TEST

START_TEST(a_manifest_can_not_name_files_outside_its_directory) {
  const char *bad[] = {
      "",        ".",   "..",   "../x",        "a/b",
      ".hidden", "a b", "x\ny", "caf\xc3\xa9", "0123456789012345678901234567890123456789012345678901234567890123"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct ckpt_manifest m = {.id = sim_id(4)};
    ck_assert_int_eq(ckpt_manifest_add(&m, bad[i], 1), DW_INVALID);
    ck_assert_int_eq(ckpt_manifest_add(&m, "fine", 1), DW_OK);
    size_t n = strlen(bad[i]);
    struct buf b = {0};
    ck_assert_int_eq(ckpt_manifest_encode(&b, &m), DW_OK);
    b.data[64 + 8] = (uint8_t)n;
    b.len = 64 + 9;
    buf_append(&b, bad[i], n);
    struct ckpt_manifest got = {0};
    ck_assert_int_eq(ckpt_manifest_decode(b.data, b.len, &got), DW_CORRUPT);
    ck_assert_ptr_null(got.files);
    buf_free(&b);
    ckpt_manifest_free(&m);
  }
}
END_TEST

START_TEST(a_manifest_that_does_not_add_up_is_refused) {
  struct ckpt_manifest m = manifest(), got = {0};
  struct buf b = {0};
  ck_assert_int_eq(ckpt_manifest_encode(&b, &m), DW_OK);
  ck_assert_int_eq(ckpt_manifest_decode(b.data, b.len, &got), DW_OK);
  ck_assert_uint_eq(got.count, 3);
  ck_assert_str_eq(got.files[1].name, "000012.sst");
  ck_assert_uint_eq(got.total_bytes, 70000016);
  ckpt_manifest_free(&got);
  for (size_t n = 0; n < b.len; n++) ck_assert_int_eq(ckpt_manifest_decode(b.data, n, &got), DW_CORRUPT);
  put_u64(b.data + 48, 70000017);
  ck_assert_int_eq(ckpt_manifest_decode(b.data, b.len, &got), DW_CORRUPT);
  put_u64(b.data + 48, 70000016);
  put_u32(b.data + 56, 0xffffffff);
  ck_assert_int_eq(ckpt_manifest_decode(b.data, b.len, &got), DW_CORRUPT);
  put_u32(b.data + 56, 3);
  memset(b.data, 0, 16);
  ck_assert_int_eq(ckpt_manifest_decode(b.data, b.len, &got), DW_CORRUPT);
  b.len = 0;
  ck_assert_int_eq(ckpt_manifest_add(&m, "CURRENT", 1), DW_OK); /* twice */
  ck_assert_int_eq(ckpt_manifest_encode(&b, &m), DW_OK);
  ck_assert_int_eq(ckpt_manifest_decode(b.data, b.len, &got), DW_CORRUPT);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "twice"));
  buf_free(&b);
  ckpt_manifest_free(&m);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication_message");
  TCase *t = tcase_create("message");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, every_message_survives_any_fragmentation);
  tcase_add_test(t, every_flipped_byte_is_noticed);
  tcase_add_test(t, the_bytes_of_every_message_are_the_documented_ones);
  tcase_add_test(t, a_reader_that_failed_stays_failed);
  tcase_add_test(t, a_header_that_lies_is_refused_before_its_body_comes);
  tcase_add_test(t, a_hello_that_contradicts_itself_is_refused);
  tcase_add_test(t, a_fetch_that_contradicts_itself_is_refused);
  tcase_add_test(t, a_later_versions_longer_hello_is_read_by_its_beginning);
  tcase_add_test(t, what_a_hello_asks_for_besides_is_read_and_unknown_wishes_are_not_minded);
  tcase_add_test(t, a_manifest_with_hashes_survives_and_is_checked_like_one_without);
  tcase_add_test(t, text_from_a_peer_can_not_forge_log_lines);
  tcase_add_test(t, a_manifest_can_not_name_files_outside_its_directory);
  tcase_add_test(t, a_manifest_that_does_not_add_up_is_refused);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
