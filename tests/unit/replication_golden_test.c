/* The golden files: bytes on disk as version 1 of each format wrote them, checked in under tests/golden/.
 *
 * Each is decoded to the values stated here and encoded back to the same bytes. If one of these tests fails, the code
 * no longer reads or writes what older directories hold: a new format version is called for, not a new golden file.
 * That is why the files are made by hand only (`replication_golden_test --make DIR`) and never over one that is there.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/identity.h"
#include "engine/store.h"
#include "replication/checkpoint_recv.h"
#include "tests/support/check_main.h"
#include "wal/base/bytes.h"
#include "wal/wal.h"

#ifndef DW_GOLDEN_DIR
#error "DW_GOLDEN_DIR is not set"
#endif

/* ---- the stated values ---------------------------------------------------------------------------- */

static const struct hash128 cluster = {
    {0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 10, 11, 12, 13, 14, 15}};
#define NODE_ID 0x0123456789abcdefull
#define SALT 0xfeedfacecafebeeeull
#define WALL 1700000000123456789ull
static const uint8_t boot[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

/* put "k" = "v", delete "x"; then put "empty" = "" */
static const char raw_payload[] = "\0\2\12\1\2\1k\1v\0\2\1x\0\1\11\1\6\1empty\0";
#define RAW_BYTES (sizeof raw_payload - 1)

/* put "zzz" = 500 times "a" */
static size_t zstd_payload(uint8_t out[600]) {
  static const uint8_t head[] = {0, 1, 0xfc, 3, 1, 4, 1, 'z', 'z', 'z', 0xf4, 3};
  memcpy(out, head, sizeof head);
  memset(out + sizeof head, 'a', 500);
  return sizeof head + 500;
}

static struct segment_header stated_segment(void) {
  struct segment_header h = {.cluster_id = cluster,
                             .epoch = 0,
                             .first_lsn = 1,
                             .prev_chain = wal_genesis(&cluster).chain,
                             .seq = 1,
                             .segment_bytes = 65536,
                             .created_wall_ns = WALL,
                             .node_id = NODE_ID,
                             .salt = SALT};
  memcpy(h.boot_id, boot, 16);
  return h;
}

static struct epoch_record stated_epoch(void) {
  return (struct epoch_record){
      .epoch = 1, .node_id = NODE_ID, .wall_ns = WALL + 1, .reason = EPOCH_CREATED, .start = wal_genesis(&cluster)};
}

static struct block_header stated_epoch_block(void) {
  return (struct block_header){.codec = BLOCK_RAW,
                               .kind = BLOCK_EPOCH,
                               .need = {.mode = 1, .ack = 2, .durability = 2},
                               .epoch = 1,
                               .first_lsn = 1,
                               .wall_ns = WALL + 1,
                               .stored_bytes = WAL_EPOCH_RECORD_BYTES,
                               .raw_bytes = WAL_EPOCH_RECORD_BYTES,
                               .origin_id = NODE_ID};
}

static struct block_header stated_raw_block(void) {
  return (struct block_header){.codec = BLOCK_RAW,
                               .kind = BLOCK_COMMITS,
                               .need = {.mode = 3, .ack = 1, .durability = 1, .from_default = true, .acks = 2},
                               .epoch = 1,
                               .first_lsn = 1,
                               .commit_count = 2,
                               .commit_lsn = 0,
                               .wall_ns = WALL + 2,
                               .stored_bytes = RAW_BYTES,
                               .raw_bytes = RAW_BYTES,
                               .origin_id = NODE_ID};
}

static struct block_header stated_zstd_block(uint32_t stored_bytes) {
  return (struct block_header){.codec = BLOCK_ZSTD,
                               .kind = BLOCK_COMMITS,
                               .need = {.mode = 2, .ack = 3, .durability = 2, .acks = 1},
                               .epoch = 1,
                               .first_lsn = 3,
                               .commit_count = 1,
                               .commit_lsn = 2,
                               .wall_ns = WALL + 3,
                               .stored_bytes = stored_bytes,
                               .raw_bytes = 512,
                               .origin_id = NODE_ID};
}

/* ---- encoding them --------------------------------------------------------------------------------- */

/* Appends a sealed block; returns its chain hash. */
static struct hash128 put_block(struct buf *b, struct block_header h, const struct hash128 *prev, const void *stored) {
  uint8_t header[WAL_BLOCK_HEADER_BYTES], padding[8] = {0};
  h.payload_hash = hash128(stored, h.stored_bytes);
  block_header_seal(&h, prev, header);
  buf_append(b, header, sizeof header);
  buf_append(b, stored, h.stored_bytes);
  buf_append(b, padding, align8(h.stored_bytes) - h.stored_bytes);
  return h.chain;
}

struct golden {
  struct buf segment, header, mark, epoch_block, raw_block, zstd_block, node, state, marker;
};

static void encode_log(struct golden *g, const void *zstd_stored, uint32_t zstd_bytes) {
  uint8_t header[WAL_SEGMENT_HEADER_BYTES], record[WAL_EPOCH_RECORD_BYTES], mark[WAL_MARK_BYTES];
  struct segment_header s = stated_segment();
  segment_header_encode(&s, header);
  buf_append(&g->header, header, sizeof header);
  struct mark_frame m = {.durable_lsn = 2, .salt = SALT, .lsn = 2, .wall_ns = WALL + 4};
  memcpy(m.boot_id, boot, 16);
  struct epoch_record r = stated_epoch();
  epoch_record_encode(&r, record);
  struct hash128 genesis = wal_genesis(&cluster).chain;
  struct hash128 chain = put_block(&g->epoch_block, stated_epoch_block(), &genesis, record);
  chain = put_block(&g->raw_block, stated_raw_block(), &chain, raw_payload);
  m.chain = chain;
  mark_encode(&m, mark);
  buf_append(&g->mark, mark, sizeof mark);
  put_block(&g->zstd_block, stated_zstd_block(zstd_bytes), &chain, zstd_stored);
  const struct buf *parts[] = {&g->header, &g->epoch_block, &g->raw_block, &g->mark, &g->zstd_block};
  for (size_t i = 0; i < 5; i++) buf_append(&g->segment, parts[i]->data, parts[i]->len);
}

/* For --make, which is no test. */
static void must(int rc) {
  if (rc == DW_OK) return;
  char why[300];
  dw_error_copy(why, sizeof why);
  fprintf(stderr, "golden: %d %s\n", rc, why);
  exit(1);
}

static void encode_rest(struct golden *g, const char *tmp) {
  uint8_t node[NODE_FILE_BYTES], marker[STORE_MARKER_BYTES];
  struct node_file n = {.cluster_id = cluster,
                        .incarnation = {{7, 7, 7, 7}},
                        .node_id = NODE_ID,
                        .generation = 3,
                        .created_wall_ns = WALL};
  node_file_encode(&n, node);
  buf_append(&g->node, node, sizeof node);
  struct wal_pos pos = {.lsn = 77, .epoch = 5, .chain = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}}};
  store_marker_encode(&pos, marker);
  buf_append(&g->marker, marker, sizeof marker);

  /* STATE is written by a transfer: two files, the first of them complete. */
  struct ckpt_manifest m = {.id = {{9, 8, 7}}, .pos = pos};
  must(ckpt_manifest_add(&m, "000010.sst", 4));
  must(ckpt_manifest_add(&m, "CURRENT", 16));
  struct ckpt_in *in;
  uint64_t offsets[2];
  struct hash128 h = hash128("data", 4);
  must(ckpt_in_open(env_posix(), tmp, &in));
  must(ckpt_in_begin(in, &m, offsets));
  must(ckpt_in_write(in, 0, 0, "data", 4));
  must(ckpt_in_file_end(in, 0, &h));
  ckpt_in_close(in);
  ckpt_manifest_free(&m);
  char path[400];
  uint8_t *bytes;
  size_t len;
  snprintf(path, sizeof path, "%s/STATE", tmp);
  must(env_read_file(env_posix(), path, 65536, &bytes, &len));
  buf_append(&g->state, bytes, len);
  free(bytes);
}

static void golden_free(struct golden *g) {
  struct buf *all = (struct buf *)g;
  for (size_t i = 0; i < sizeof *g / sizeof *all; i++) buf_free(&all[i]);
}

/* ---- comparing ------------------------------------------------------------------------------------- */

static char dir[256];

static void make_dir(void) {
  snprintf(dir, sizeof dir, "%s/dw-golden-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  must(mkdtemp(dir) ? DW_OK : DW_IO);
}
static void remove_dir(void) {
  env_remove_tree(env_posix(), dir);
}

static struct buf load(const char *name) {
  char path[600];
  struct buf b = {0};
  snprintf(path, sizeof path, "%s/%s", DW_GOLDEN_DIR, name);
  ck_assert_msg(env_read_file(env_posix(), path, 65536, &b.data, &b.len) == DW_OK, "%s", path);
  return b;
}

static void same(const char *name, const struct buf *encoded) {
  struct buf golden = load(name);
  ck_assert_msg(golden.len == encoded->len, "%s: %zu bytes, encoded %zu", name, golden.len, encoded->len);
  for (size_t i = 0; i < golden.len; i++)
    ck_assert_msg(golden.data[i] == encoded->data[i], "%s: byte %zu is %02x, encoded %02x", name, i, golden.data[i],
                  encoded->data[i]);
  free(golden.data);
}

START_TEST(what_is_encoded_today_has_the_golden_bytes) {
  struct golden g = {0};
  struct buf zstd = load("zstd-block"); /* what a compressor makes may change; what it made must stay readable */
  encode_log(&g, zstd.data + WAL_BLOCK_HEADER_BYTES, get_u32(zstd.data + 56));
  encode_rest(&g, dir);
  same("segment-header", &g.header);
  same("mark", &g.mark);
  same("epoch-block", &g.epoch_block);
  same("raw-block", &g.raw_block);
  same("zstd-block", &g.zstd_block);
  same("segment.wal", &g.segment);
  same("NODE", &g.node);
  same("incoming-STATE", &g.state);
  same("store-marker", &g.marker);
  free(zstd.data);
  golden_free(&g);
}
END_TEST

START_TEST(golden_headers_and_marks_decode_to_the_stated_values) {
  struct buf b = load("segment-header");
  struct segment_header s, stated = stated_segment();
  ck_assert_int_eq(segment_header_decode(b.data, &s), DW_OK);
  ck_assert(memcmp(&s, &stated, sizeof s) == 0);
  free(b.data);
  b = load("mark");
  struct mark_frame m;
  ck_assert_uint_eq(b.len, WAL_MARK_BYTES);
  ck_assert(mark_decode(b.data, &m));
  ck_assert(m.durable_lsn == 2 && m.lsn == 2 && m.salt == SALT && m.wall_ns == WALL + 4);
  ck_assert(memcmp(m.boot_id, boot, 16) == 0);
  free(b.data);
}
END_TEST

static struct wal_block *parse(const char *name, struct block_header stated) {
  struct buf b = load(name);
  struct wal_block *block;
  ck_assert_int_eq(wal_block_parse(b.data, b.len, &block), DW_OK);
  const struct block_header *h = &block->h;
  ck_assert(h->codec == stated.codec && h->kind == stated.kind && h->flags == 0);
  ck_assert(memcmp(&h->need, &stated.need, sizeof h->need) == 0);
  ck_assert(h->epoch == stated.epoch && h->first_lsn == stated.first_lsn && h->commit_count == stated.commit_count);
  ck_assert(h->commit_lsn == stated.commit_lsn && h->wall_ns == stated.wall_ns && h->origin_id == stated.origin_id);
  ck_assert(h->raw_bytes == stated.raw_bytes);
  free(b.data);
  return block;
}

START_TEST(golden_blocks_decode_to_the_stated_values) {
  struct buf scratch = {0};
  const uint8_t *raw;
  size_t n;
  struct wal_block *b = parse("epoch-block", stated_epoch_block());
  ck_assert_int_eq(wal_block_raw(b, &scratch, &raw, &n), DW_OK);
  struct epoch_record r, stated = stated_epoch();
  ck_assert_int_eq(epoch_record_decode(raw, n, &r), DW_OK);
  ck_assert(r.epoch == stated.epoch && r.node_id == stated.node_id && r.wall_ns == stated.wall_ns);
  ck_assert(r.reason == EPOCH_CREATED && r.start.lsn == 0 && hash128_eq(&r.start.chain, &stated.start.chain));
  wal_block_unref(b);

  b = parse("raw-block", stated_raw_block());
  ck_assert_int_eq(wal_block_raw(b, &scratch, &raw, &n), DW_OK);
  ck_assert(n == RAW_BYTES && memcmp(raw, raw_payload, n) == 0);
  uint64_t ops;
  ck_assert_int_eq(payload_validate(raw, n, 2, &ops), DW_OK);
  ck_assert_uint_eq(ops, 3);
  wal_block_unref(b);

  uint8_t text[600];
  b = parse("zstd-block", stated_zstd_block(0));
  ck_assert_int_eq(wal_block_raw(b, &scratch, &raw, &n), DW_OK);
  ck_assert(n == zstd_payload(text) && memcmp(raw, text, n) == 0);
  ck_assert_int_eq(payload_validate(raw, n, 1, &ops), DW_OK);
  wal_block_unref(b);
  buf_free(&scratch);
}
END_TEST

START_TEST(a_golden_segment_opens_as_a_log) {
  struct buf b = load("segment.wal");
  char name[WAL_SEGMENT_NAME_BYTES];
  segment_name(name, 1, 1);
  ck_assert_str_eq(name, "00000000000000000001-00000001.wal");
  ck_assert_int_eq(env_write_file_atomic(env_posix(), dir, name, b.data, b.len), DW_OK);
  free(b.data);
  struct wal_inspect_report rep;
  ck_assert_int_eq(wal_inspect(env_posix(), dir, &(struct wal_inspect){0}, &rep), DW_OK);
  ck_assert(rep.segments == 1 && rep.blocks == 3 && rep.commits == 3 && rep.torn_bytes == 0);
  ck_assert(rep.last.lsn == 3 && rep.last.epoch == 1);
  struct wal_options o = {
      .env = env_posix(), .cluster_id = cluster, .segment_bytes = 65536, .base = wal_genesis(&cluster)};
  o.must_reach = o.base;
  struct wal_recovery rec;
  struct wal *w;
  ck_assert_int_eq(wal_open(dir, &o, &rec, &w), DW_OK);
  ck_assert(rec.which == WAL_REC_CLEAN && rec.end.lsn == 3 && rec.max_commit_lsn == 2 && rec.blocks == 3);
  ck_assert_int_eq(wal_close(w), DW_OK);
}
END_TEST

START_TEST(the_golden_node_file_marker_and_state_decode_to_the_stated_values) {
  struct buf b = load("NODE");
  struct node_file n;
  ck_assert_int_eq(node_file_decode(b.data, b.len, &n), DW_OK);
  ck_assert(hash128_eq(&n.cluster_id, &cluster) && n.incarnation.b[3] == 7 && n.incarnation.b[4] == 0);
  ck_assert(n.node_id == NODE_ID && n.generation == 3 && n.created_wall_ns == WALL);
  free(b.data);
  b = load("store-marker");
  struct wal_pos pos;
  ck_assert_int_eq(store_marker_decode(b.data, b.len, &pos), DW_OK);
  ck_assert(pos.lsn == 77 && pos.epoch == 5 && pos.chain.b[0] == 1 && pos.chain.b[15] == 16);
  free(b.data);
  b = load("incoming-STATE");
  ck_assert_int_eq(env_write_file_atomic(env_posix(), dir, "STATE", b.data, b.len), DW_OK);
  free(b.data);
  char store[300];
  snprintf(store, sizeof store, "%s/store", dir);
  ck_assert_int_eq(env_posix()->ops->mkdir(env_posix(), store), DW_OK);
  ck_assert_int_eq(env_write_file_atomic(env_posix(), store, "000010.sst", "data", 4), DW_OK);
  struct ckpt_in *in;
  ck_assert_int_eq(ckpt_in_open(env_posix(), dir, &in), DW_OK);
  struct hash128 id = ckpt_in_id(in);
  ck_assert(id.b[0] == 9 && id.b[1] == 8 && id.b[2] == 7 && id.b[3] == 0);
  struct ckpt_manifest m = {.id = id, .pos = pos};
  ck_assert_int_eq(ckpt_manifest_add(&m, "000010.sst", 4), DW_OK);
  ck_assert_int_eq(ckpt_manifest_add(&m, "CURRENT", 16), DW_OK);
  uint64_t offsets[2];
  ck_assert_int_eq(ckpt_in_begin(in, &m, offsets), DW_OK); /* the same checkpoint: it is resumed */
  ck_assert_uint_eq(offsets[0], CKPT_HELD);
  ck_assert_uint_eq(offsets[1], 0);
  ckpt_in_close(in);
  ckpt_manifest_free(&m);
}
END_TEST

START_TEST(golden_files_of_a_newer_version_are_unsupported_not_corrupt) {
  struct buf b = load("segment-header");
  struct segment_header s;
  put_u32(b.data + 8, 2);
  put_u64(b.data + 4088, hash64(b.data, 4088));
  ck_assert_int_eq(segment_header_decode(b.data, &s), DW_UNSUPPORTED);
  free(b.data);
  b = load("NODE");
  struct node_file n;
  put_u32(b.data + 8, 2);
  ck_assert_int_eq(node_file_decode(b.data, b.len, &n), DW_CORRUPT); /* a bit of the version rotted */
  put_u64(b.data + 120, hash64(b.data, 120));
  ck_assert_int_eq(node_file_decode(b.data, b.len, &n), DW_UNSUPPORTED);
  free(b.data);
  b = load("store-marker");
  struct wal_pos pos;
  put_u32(b.data, 2);
  ck_assert_int_eq(store_marker_decode(b.data, b.len, &pos), DW_UNSUPPORTED);
  free(b.data);
}
END_TEST

/* ---- making them, once ------------------------------------------------------------------------------- */

static int write_new(const char *to, const char *name, const struct buf *b) {
  char path[600];
  snprintf(path, sizeof path, "%s/%s", to, name);
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
  if (fd < 0 || write(fd, b->data, b->len) != (ssize_t)b->len) {
    fprintf(stderr, "%s: not written: golden files are made once and never over one that is there\n", path);
    return 1;
  }
  return close(fd);
}

static int make(const char *to) {
  struct golden g = {0};
  uint8_t text[600];
  size_t n = zstd_payload(text);
  struct block_header like = stated_zstd_block(0);
  struct wal_block *b;
  if (wal_block_create(&like, text, n, 1, &b)) return 1;
  make_dir();
  encode_log(&g, b->bytes + WAL_BLOCK_HEADER_BYTES, b->h.stored_bytes);
  encode_rest(&g, dir);
  int bad = write_new(to, "segment-header", &g.header) | write_new(to, "mark", &g.mark) |
            write_new(to, "epoch-block", &g.epoch_block) | write_new(to, "raw-block", &g.raw_block) |
            write_new(to, "zstd-block", &g.zstd_block) | write_new(to, "segment.wal", &g.segment) |
            write_new(to, "NODE", &g.node) | write_new(to, "incoming-STATE", &g.state) |
            write_new(to, "store-marker", &g.marker);
  remove_dir();
  wal_block_unref(b);
  golden_free(&g);
  return bad;
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "--make") == 0) return make(argv[2]);
  Suite *s = suite_create("golden files");
  TCase *t = tcase_create("golden");
  tcase_add_checked_fixture(t, make_dir, remove_dir);
  tcase_add_test(t, what_is_encoded_today_has_the_golden_bytes);
  tcase_add_test(t, golden_headers_and_marks_decode_to_the_stated_values);
  tcase_add_test(t, golden_blocks_decode_to_the_stated_values);
  tcase_add_test(t, a_golden_segment_opens_as_a_log);
  tcase_add_test(t, the_golden_node_file_marker_and_state_decode_to_the_stated_values);
  tcase_add_test(t, golden_files_of_a_newer_version_are_unsupported_not_corrupt);
  suite_add_tcase(s, t);
  return check_main(s);
}
