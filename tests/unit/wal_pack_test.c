/* Packs: what goes in comes out byte for byte, small, and nothing else comes out. */
#include <stdio.h>
#include <stdlib.h>
#include <zstd.h>

#include "tests/support/check_main.h"
#include "wal/pack.h"

static const struct wal_pos start = {.lsn = 100, .epoch = 3, .chain = {{1, 2, 3}}};
static struct wal_pos at; /* boundary behind the last block made */
static struct wal_packer *packer;
static struct wal_unpacker *unpacker;

static const char *why(void) {
  static char text[400];
  dw_error_copy(text, sizeof text);
  return text;
}

static void setup(void) {
  at = start;
  ck_assert_int_eq(wal_packer_create(&packer), DW_OK);
  ck_assert_int_eq(wal_unpacker_create(&unpacker), DW_OK);
}
static void teardown(void) {
  wal_packer_free(packer);
  wal_unpacker_free(unpacker);
}

static struct block_header plain_like(void) {
  return (struct block_header){.kind = BLOCK_COMMITS,
                               .need = {.mode = 1, .ack = 2, .durability = 2},
                               .commit_count = 1,
                               .wall_ns = 1700000000000000000ull + at.lsn * 1000,
                               .commit_lsn = at.lsn - 1,
                               .origin_id = 0x1122334455667788ull};
}

static struct wal_block *make(const struct block_header *like, const void *raw, size_t n, int level) {
  struct wal_block *b;
  ck_assert_int_eq(wal_block_create(like, raw, n, level, &b), DW_OK);
  b->h.epoch = at.epoch + (like->kind == BLOCK_EPOCH);
  b->h.first_lsn = at.lsn + 1;
  b->h.commit_lsn = like->commit_lsn;
  block_header_seal(&b->h, &at.chain, b->bytes);
  at = (struct wal_pos){block_last_lsn(&b->h), b->h.epoch, b->h.chain};
  return b;
}

static struct wal_block *json(unsigned i) {
  char text[400];
  struct block_header like = plain_like();
  int n = snprintf(
      text, sizeof text,
      "{\"id\":\"%08x\",\"service\":\"orders\",\"method\":\"GET\",\"path\":\"/v1/orders/%u/items\",\"status\":200,"
      "\"customer\":{\"id\":%u,\"city\":\"Pune\",\"premium\":false},\"items\":%u,\"currency\":\"INR\"}",
      i * 2654435761u, i * 7919 % 100000, i * 104729 % 99991, i % 9);
  return make(&like, text, (size_t)n, 0);
}

/* A pack of the blocks behind `before`. */
static struct buf packed(const struct wal_pos *before, struct wal_block **blocks, size_t n, uint32_t *plain) {
  struct buf out = {0};
  ck_assert_int_eq(wal_pack(packer, before, blocks, n, &out, plain), DW_OK);
  return out;
}

static void comes_out(const struct wal_pos *before, struct wal_block **blocks, size_t n) {
  struct wal_block *out[32];
  uint32_t plain;
  struct buf pack = packed(before, blocks, n, &plain);
  ck_assert_int_eq(wal_unpack(unpacker, before, pack.data, pack.len, plain, &blocks[n - 1]->h.chain, out, n), DW_OK);
  for (size_t i = 0; i < n; i++) {
    size_t bytes = block_total_bytes(&blocks[i]->h);
    ck_assert_uint_eq(block_total_bytes(&out[i]->h), bytes);
    ck_assert_mem_eq(out[i]->bytes, blocks[i]->bytes, bytes);
    struct wal_block *parsed;
    ck_assert_int_eq(wal_block_parse(out[i]->bytes, bytes, &parsed), DW_OK);
    ck_assert_uint_eq(out[i]->h.first_lsn, blocks[i]->h.first_lsn);
    ck_assert_uint_eq(out[i]->h.epoch, blocks[i]->h.epoch);
    ck_assert_uint_eq(out[i]->h.raw_bytes, blocks[i]->h.raw_bytes);
    ck_assert(hash128_eq(&out[i]->h.chain, &blocks[i]->h.chain));
    wal_block_unref(parsed);
    wal_block_unref(out[i]);
  }
  buf_free(&pack);
}

START_TEST(blocks_come_out_byte_for_byte_pack_after_pack) {
  uint8_t raw[5000];
  memset(raw, 'x', sizeof raw);
  for (unsigned round = 0; round < 40; round++) {
    struct wal_block *b[8];
    struct wal_pos before = at;
    size_t n = 0;
    struct block_header like = plain_like();
    b[n++] = json(round);
    like.need = (struct block_need){.mode = 3, .ack = 1, .durability = 1, .from_default = true, .acks = 513};
    like.commit_lsn = at.lsn + 77; /* ahead: nobody writes so, and nothing depends on it */
    like.wall_ns = round % 2 ? 0 : UINT64_MAX;
    like.commit_count = 3;
    raw[round] = (uint8_t)round;
    b[n++] = make(&like, raw, sizeof raw, 1); /* zstd */
    ck_assert_uint_eq(b[n - 1]->h.codec, BLOCK_ZSTD);
    like = plain_like();
    like.kind = BLOCK_EPOCH;
    like.commit_count = 0;
    like.commit_lsn = 0;
    b[n++] = make(&like, raw, WAL_EPOCH_RECORD_BYTES, 0);
    like = plain_like();
    like.commit_count = (uint32_t)(1 + round);
    for (size_t bytes = 1 + round; n < 8; bytes += 3) b[n++] = make(&like, raw, bytes + round, 0);
    comes_out(&before, b, round % 8 + 1);
    for (size_t i = round % 8 + 1; i < n; i++) wal_block_unref(b[i]); /* never sent: go back before them */
    at = (struct wal_pos){block_last_lsn(&b[round % 8]->h), b[round % 8]->h.epoch, b[round % 8]->h.chain};
    for (size_t i = 0; i < round % 8 + 1; i++) wal_block_unref(b[i]);
  }
}
END_TEST

START_TEST(a_lone_small_block_takes_a_quarter_of_its_bytes) {
  size_t blocks = 0, packs = 0;
  for (unsigned i = 0; i < 100; i++) {
    struct wal_pos before = at;
    struct wal_block *b = json(i);
    uint32_t plain;
    struct buf pack = packed(&before, &b, 1, &plain);
    if (i >= 10) blocks += block_total_bytes(&b->h), packs += pack.len;
    buf_free(&pack);
    wal_block_unref(b);
  }
  ck_assert_msg(packs * 4 < blocks, "%zu bytes of blocks, %zu packed", blocks, packs);
}
END_TEST

/* The grammar in numbers: if this turns red, version 2 of the protocol has changed. */
START_TEST(a_record_has_the_documented_bytes) {
  struct wal_block *b[2];
  struct block_header like = plain_like();
  uint8_t out[200];
  uint32_t plain;
  like.wall_ns = 1;
  b[0] = make(&like, "hello", 5, 0);
  like.wall_ns = 0;
  like.commit_lsn = 100;
  like.commit_count = 2;
  b[1] = make(&like, "dear world", 10, 0);
  struct buf pack = packed(&start, b, 2, &plain);
  ZSTD_DCtx *z = ZSTD_createDCtx();
  ZSTD_inBuffer in = {pack.data, pack.len, 0};
  ZSTD_outBuffer o = {out, sizeof out, 0};
  ck_assert(!ZSTD_isError(ZSTD_decompressStream(z, &o, &in)));
  static const uint8_t want[] = {2,    0,    1,    2,    2,    0,    0,    3,   0,   0,   0,   0,   0,   0,   0,   0x88,
                                 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 1,   2,   2,   5,   'h', 'e', 'l', 'l', 'o',
                                 0,    2,    2,    1,    10,   'd',  'e',  'a', 'r', ' ', 'w', 'o', 'r', 'l', 'd'};
  ck_assert_uint_eq(o.pos, sizeof want);
  ck_assert_uint_eq(plain, sizeof want);
  ck_assert_mem_eq(out, want, sizeof want);
  ZSTD_freeDCtx(z);
  buf_free(&pack);
  for (int i = 0; i < 2; i++) wal_block_unref(b[i]);
}
END_TEST

static int unpacks(struct wal_unpacker *u, const struct wal_pos *before, const void *p, size_t n, uint32_t plain,
                   const struct hash128 *chain, size_t count) {
  struct wal_block *out[WAL_PACK_BLOCKS];
  int rc = wal_unpack(u, before, p, n, plain, chain, out, count);
  for (size_t i = 0; rc == DW_OK && i < count; i++) wal_block_unref(out[i]);
  return rc;
}

static int unpacks_anew(const struct wal_pos *before, const void *p, size_t n, uint32_t plain,
                        const struct hash128 *chain, size_t count) {
  struct wal_unpacker *u;
  uint8_t *copy = malloc(n ? n : 1);
  ck_assert_int_eq(wal_unpacker_create(&u), DW_OK);
  if (n) memcpy(copy, p, n);
  int rc = unpacks(u, before, copy, n, plain, chain, count);
  free(copy);
  wal_unpacker_free(u);
  return rc;
}

START_TEST(a_pack_that_is_not_what_was_sent_gives_no_blocks) {
  struct wal_block *b[3];
  for (unsigned i = 0; i < 3; i++) b[i] = json(i);
  uint32_t plain;
  struct buf pack = packed(&start, b, 3, &plain);
  ck_assert_int_eq(unpacks_anew(&start, pack.data, pack.len, plain, &at.chain, 3), DW_OK);
  unsigned refused = 0;
  for (size_t i = 0; i < pack.len; i++)
    for (unsigned bit = 1; bit < 256; bit <<= 1) {
      pack.data[i] ^= (uint8_t)bit;
      int rc = unpacks_anew(&start, pack.data, pack.len, plain, &at.chain, 3);
      /* zstd may have another word for the same thing: then the blocks are the same, their chain says so */
      ck_assert_msg(rc == DW_CORRUPT || rc == DW_UNSUPPORTED || rc == DW_OK, "byte %zu bit %u: %d", i, bit, rc);
      refused += rc != DW_OK;
      pack.data[i] ^= (uint8_t)bit;
    }
  ck_assert_uint_gt(refused, 7 * pack.len);
  for (size_t n = 0; n < pack.len; n++)
    ck_assert_int_eq(unpacks_anew(&start, pack.data, n, plain, &at.chain, 3), DW_CORRUPT);
  struct hash128 chain = at.chain;
  struct wal_pos before = start;
  ck_assert_int_eq(unpacks_anew(&start, pack.data, pack.len, plain, &b[1]->h.chain, 3), DW_CORRUPT);
  ck_assert_int_eq(unpacks_anew(&start, pack.data, pack.len, plain, &b[1]->h.chain, 2), DW_CORRUPT);
  ck_assert_int_eq(unpacks_anew(&start, pack.data, pack.len, plain, &chain, 4), DW_CORRUPT);
  ck_assert_int_eq(unpacks_anew(&start, pack.data, pack.len, plain, &chain, 0), DW_CORRUPT);
  ck_assert_int_eq(unpacks_anew(&start, pack.data, pack.len, plain - 1, &chain, 3), DW_CORRUPT);
  ck_assert_msg(strstr(why(), " give ") != NULL, "%s", why());
  ck_assert_int_eq(unpacks_anew(&start, pack.data, pack.len, plain + 1, &chain, 3), DW_CORRUPT);
  ck_assert_msg(strstr(why(), " give ") != NULL, "%s", why()); /* not: what happens to stand in memory */
  before.lsn++;
  ck_assert_int_eq(unpacks_anew(&before, pack.data, pack.len, plain, &chain, 3), DW_CORRUPT);
  before = start;
  before.chain.b[9] ^= 1;
  ck_assert_int_eq(unpacks_anew(&before, pack.data, pack.len, plain, &chain, 3), DW_CORRUPT);
  buf_free(&pack);
  for (unsigned i = 0; i < 3; i++) wal_block_unref(b[i]);
}
END_TEST

START_TEST(a_pack_can_not_be_read_without_those_before_it) {
  struct wal_block *b[2] = {json(1), json(2)};
  struct wal_pos between = {block_last_lsn(&b[0]->h), b[0]->h.epoch, b[0]->h.chain};
  uint32_t plain;
  struct buf first = packed(&start, b, 1, &plain), second = packed(&between, b + 1, 1, &plain);
  ck_assert_int_eq(unpacks_anew(&between, second.data, second.len, plain, &at.chain, 1), DW_CORRUPT);
  buf_free(&first);
  buf_free(&second);
  for (unsigned i = 0; i < 2; i++) wal_block_unref(b[i]);
}
END_TEST

/* Records behind zstd's door. */
static int forged(const void *records, size_t n, size_t count, int window_log, ZSTD_EndDirective end) {
  uint8_t out[65536];
  ZSTD_CCtx *z = ZSTD_createCCtx();
  ZSTD_inBuffer in = {records, n, 0};
  ZSTD_outBuffer o = {out, sizeof out, 0};
  ck_assert(!ZSTD_isError(ZSTD_CCtx_setParameter(z, ZSTD_c_windowLog, window_log)));
  ck_assert_uint_eq(ZSTD_compressStream2(z, &o, &in, end), 0);
  ZSTD_freeCCtx(z);
  struct hash128 chain = {{0}};
  return unpacks_anew(&start, out, o.pos, (uint32_t)n, &chain, count);
}

#define IDENTITY "\0\1\2\2\0\0\3\0\0\0\0\0\0\0\7\0\0\0\0\0\0\0"
#define FORGED(text, because)                                                                                          \
  do {                                                                                                                 \
    ck_assert_int_eq(forged(text, sizeof text - 1, 1, 17, ZSTD_e_flush), DW_CORRUPT);                                  \
    ck_assert_msg(strstr(why(), because) != NULL, "%s", why());                                                        \
  } while (0)

START_TEST(records_that_lie_are_refused) {
  FORGED("\2" IDENTITY "\1\0\0\5hello", "do not lead to the chain hash"); /* good so far */
  FORGED("\4" IDENTITY "\1\0\0\5hello", "is not one");                    /* unknown shape */
  FORGED("\2" IDENTITY "\1\0\0\6hello", "is not one");                    /* longer than what is there */
  FORGED("\2" IDENTITY "\1\0\0\4hello", "bytes behind its blocks");
  FORGED("\2" IDENTITY "\1\0\0\0", "stored");                /* nothing in it */
  FORGED("\2" IDENTITY "\1\0\0\x81\x7fhello", "is not one"); /* 16257 bytes */
  FORGED("\2" IDENTITY "\6\0\0\5hello", "6 commits in 5 bytes");
  FORGED("\2" IDENTITY "\xff\xff\xff\xff\x1f\0\0\5hello", "is not one");                   /* a count of 33 bits */
  FORGED("\2" IDENTITY "\1\xff\xff\xff\xff\xff\xff\xff\xff\xff\2\0\5hello", "is not one"); /* 65 bits */
  FORGED("\3" IDENTITY "\1\0\0\5\xff\xff\xff\x7fhello", "is not one"); /* more than a block may hold */
  FORGED("\0\1\0\0\5hello", "LSN or epoch is 0");                      /* no identity yet */
  FORGED("\2\0\4\2\2\0\0\3\0\0\0\0\0\0\0\7\0\0\0\0\0\0\0\1\0\0\5hello", "needs are out of range");
  static const char good[] = "\2" IDENTITY "\1\0\0\5hello";
  ck_assert_int_eq(forged(good, sizeof good - 1, 1, 17, ZSTD_e_end), DW_CORRUPT);
  ck_assert_ptr_nonnull(strstr(why(), "stream ends"));
  ck_assert_int_eq(forged(good, sizeof good - 1, 1, 18, ZSTD_e_flush),
                   DW_CORRUPT); /* a window that costs more memory */
  ck_assert_msg(strstr(why(), "zstd: Frame requires too much memory") != NULL, "%s", why());
  ck_assert_int_eq(forged(good, sizeof good - 1, WAL_PACK_BLOCKS + 1, 17, ZSTD_e_flush), DW_CORRUPT);
}
END_TEST

/* A few bytes of the wire can't become more memory than the blocks of one pack. */
START_TEST(a_pack_of_many_blocks_is_bounded) {
  size_t n = 0;
  uint8_t *records = malloc(WAL_PACK_BYTES);
  static const char first[] = "\2" IDENTITY "\1\0\0\1x";
  memcpy(records, first, sizeof first - 1);
  n += sizeof first - 1;
  for (size_t i = 1; i < WAL_PACK_BLOCKS; i++) {
    memcpy(records + n, "\0\1\0\0\1x", 6);
    n += 6;
  }
  ck_assert_int_eq(forged(records, n, WAL_PACK_BLOCKS, 17, ZSTD_e_flush), DW_CORRUPT);
  ck_assert_ptr_nonnull(strstr(why(), "chain hash")); /* so many are fine */
  n = sizeof first - 1;
  for (size_t i = 1; i < 33; i++) {
    memcpy(records + n, "\0\1\0\0\x80\x3f", 6);
    memset(records + n + 6, 'x', 8064);
    n += 6 + 8064;
  }
  ck_assert_int_eq(forged(records, n, 33, 17, ZSTD_e_flush), DW_CORRUPT);
  ck_assert_ptr_nonnull(strstr(why(), "more than 262144 bytes of blocks"));
  free(records);
}
END_TEST

START_TEST(what_does_not_belong_into_a_pack_is_not_packed) {
  struct wal_block *b[2] = {json(1), json(2)};
  struct buf out = {0};
  uint32_t plain;
  ck_assert_int_eq(wal_pack(packer, &start, b + 1, 1, &out, &plain), DW_INVALID);
  uint8_t raw[WAL_PACK_BLOCK_BYTES] = {1};
  struct block_header like = plain_like();
  struct wal_pos before = at;
  struct wal_block *big = make(&like, raw, sizeof raw - WAL_BLOCK_HEADER_BYTES + 1, 0);
  ck_assert(!wal_packs(big));
  ck_assert_int_eq(wal_pack(packer, &before, &big, 1, &out, &plain), DW_INVALID);
  wal_block_unref(big);
  at = before;
  big = make(&like, raw, sizeof raw - WAL_BLOCK_HEADER_BYTES, 0);
  ck_assert(wal_packs(big));
  wal_block_unref(big);
  buf_free(&out);
  for (unsigned i = 0; i < 2; i++) wal_block_unref(b[i]);
}
END_TEST

int main(void) {
  Suite *s = suite_create("wal packs");
  TCase *t = tcase_create("pack");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, blocks_come_out_byte_for_byte_pack_after_pack);
  tcase_add_test(t, a_lone_small_block_takes_a_quarter_of_its_bytes);
  tcase_add_test(t, a_record_has_the_documented_bytes);
  tcase_add_test(t, a_pack_that_is_not_what_was_sent_gives_no_blocks);
  tcase_add_test(t, a_pack_can_not_be_read_without_those_before_it);
  tcase_add_test(t, records_that_lie_are_refused);
  tcase_add_test(t, a_pack_of_many_blocks_is_bounded);
  tcase_add_test(t, what_does_not_belong_into_a_pack_is_not_packed);
  suite_add_tcase(s, t);
  return check_main(s);
}
