/* The log's formats: what is written is read back, and nothing else is accepted. */
#include "tests/support/check_main.h"

#include <string.h>

#include "wal/wal.h"

static struct wal_block *a_block(size_t n, int level) {
  static uint8_t payload[1 << 16];
  for (size_t i = 0; i < n; i++) payload[i] = (uint8_t)(i % 7);
  struct block_header like = {
      .kind = BLOCK_COMMITS, .commit_count = 3, .need = {2, 1, 2, true, 5}, .wall_ns = 123456789, .origin_id = 42};
  struct wal_block *b;
  ck_assert_int_eq(wal_block_create(&like, payload, n, level, &b), DW_OK);
  b->h.epoch = 7;
  b->h.first_lsn = 1000;
  b->h.commit_lsn = 999;
  struct hash128 prev = {{1, 2, 3}};
  block_header_seal(&b->h, &prev, b->bytes);
  return b;
}

START_TEST(a_sealed_block_parses_to_the_same_header_and_payload) {
  for (int level = 0; level < 2; level++) {
    struct wal_block *b = a_block(5000, level), *p;
    ck_assert_int_eq(wal_block_parse(b->bytes, block_total_bytes(&b->h), &p), DW_OK);
    ck_assert_uint_eq(p->h.codec, level ? BLOCK_ZSTD : BLOCK_RAW);
    ck_assert_uint_eq(p->h.first_lsn, 1000);
    ck_assert_uint_eq(p->h.epoch, 7);
    ck_assert_uint_eq(p->h.commit_count, 3);
    ck_assert_uint_eq(p->h.need.acks, 5);
    ck_assert(p->h.need.from_default && p->h.need.mode == 2 && p->h.need.ack == 1 && p->h.need.durability == 2);
    struct hash128 prev = {{1, 2, 3}}, other = {{1, 2, 4}};
    ck_assert(block_chain_ok(p->bytes, &prev));
    ck_assert(!block_chain_ok(p->bytes, &other));
    struct buf scratch = {0};
    const uint8_t *raw;
    size_t n;
    ck_assert_int_eq(wal_block_raw(p, &scratch, &raw, &n), DW_OK);
    ck_assert_uint_eq(n, 5000);
    for (size_t i = 0; i < n; i++) ck_assert_uint_eq(raw[i], i % 7);
    buf_free(&scratch);
    wal_block_unref(p);
    wal_block_unref(b);
  }
}
END_TEST

START_TEST(every_flipped_bit_of_a_block_is_noticed) {
  struct wal_block *b = a_block(300, 1), *p;
  size_t n = block_total_bytes(&b->h);
  for (size_t i = 0; i < n * 8; i++) {
    b->bytes[i / 8] ^= (uint8_t)(1u << (i % 8));
    ck_assert_msg(wal_block_parse(b->bytes, n, &p) != DW_OK, "bit %zu of byte %zu", i % 8, i / 8);
    b->bytes[i / 8] ^= (uint8_t)(1u << (i % 8));
  }
  ck_assert_int_eq(wal_block_parse(b->bytes, n, &p), DW_OK);
  wal_block_unref(p);
  ck_assert_int_eq(wal_block_parse(b->bytes, n - 8, &p), DW_CORRUPT);
  wal_block_unref(b);
}
END_TEST

START_TEST(small_or_incompressible_payloads_are_stored_raw) {
  struct wal_block *b = a_block(63, 1);
  ck_assert_uint_eq(b->h.codec, BLOCK_RAW);
  wal_block_unref(b);
  uint8_t noise[4096];
  uint64_t x = 88172645463325252ull;
  for (size_t i = 0; i < sizeof noise; i++) x ^= x << 13, x ^= x >> 7, x ^= x << 17, noise[i] = (uint8_t)x;
  struct block_header like = {.commit_count = 1, .need = {1, 2, 2, false, 0}};
  ck_assert_int_eq(wal_block_create(&like, noise, sizeof noise, 1, &b), DW_OK);
  ck_assert_uint_eq(b->h.codec, BLOCK_RAW);
  ck_assert_uint_eq(b->h.stored_bytes, sizeof noise);
  wal_block_unref(b);
}
END_TEST

START_TEST(a_newer_version_or_an_unknown_flag_is_unsupported_not_corrupt) {
  struct wal_block *b = a_block(100, 0);
  struct block_header h;
  uint8_t bytes[WAL_BLOCK_HEADER_BYTES];
  struct {
    size_t at;
    uint8_t val;
  } cases[] = {{4, 2}, {8, 1}, {12, 9}, {13, 7}};
  for (size_t i = 0; i < 4; i++) {
    memcpy(bytes, b->bytes, sizeof bytes);
    bytes[cases[i].at] = cases[i].val;
    put_u64(bytes + 120, hash64(bytes, 120));
    ck_assert_int_eq(block_header_decode(bytes, &h), DW_UNSUPPORTED);
  }
  wal_block_unref(b);
}
END_TEST

START_TEST(a_header_that_lies_about_sizes_is_refused_before_anything_is_allocated) {
  struct wal_block *b = a_block(100, 0);
  struct block_header h;
  uint8_t bytes[WAL_BLOCK_HEADER_BYTES];
  uint32_t lies[] = {0, WAL_MAX_STORED_BYTES + 1, UINT32_MAX};
  for (size_t i = 0; i < 3; i++) {
    for (size_t at = 56; at <= 60; at += 4) {
      memcpy(bytes, b->bytes, sizeof bytes);
      put_u32(bytes + at, lies[i]);
      put_u64(bytes + 120, hash64(bytes, 120));
      ck_assert_int_eq(block_header_decode(bytes, &h), DW_CORRUPT);
    }
  }
  wal_block_unref(b);
}
END_TEST

START_TEST(a_decompression_bomb_is_cut_at_what_the_header_says) {
  struct wal_block *b = a_block(50000, 1);
  b->h.raw_bytes = 1000; /* the frame holds 50,000 */
  free(b->raw);
  b->raw = NULL;
  struct buf scratch = {0};
  const uint8_t *raw;
  size_t n;
  ck_assert_int_eq(wal_block_raw(b, &scratch, &raw, &n), DW_CORRUPT);
  b->h.raw_bytes = 60000;
  ck_assert_int_eq(wal_block_raw(b, &scratch, &raw, &n), DW_CORRUPT);
  buf_free(&scratch);
  wal_block_unref(b);
}
END_TEST

/* Both say how much it will be: the header and the zstd frame. If they differ, neither gets the memory. */
START_TEST(a_header_that_lies_about_the_raw_size_costs_no_memory) {
  struct wal_block *b = a_block(50000, 1);
  struct buf scratch = {0};
  const uint8_t *raw;
  size_t n;
  free(b->raw);
  b->raw = NULL;
  b->h.raw_bytes = WAL_MAX_RAW_BYTES;
  ck_assert_int_eq(wal_block_raw(b, &scratch, &raw, &n), DW_CORRUPT);
  ck_assert_uint_eq(scratch.cap, 0);
  memset(b->bytes + WAL_BLOCK_HEADER_BYTES, 'x', 32); /* no zstd frame at all */
  ck_assert_int_eq(wal_block_raw(b, &scratch, &raw, &n), DW_CORRUPT);
  ck_assert_uint_eq(scratch.cap, 0);
  wal_block_unref(b);
}
END_TEST

START_TEST(segment_headers_marks_and_epoch_records_round_trip_and_reject_flips) {
  struct segment_header s = {.epoch = 3, .first_lsn = 77, .seq = 5, .segment_bytes = 1 << 20, .salt = 99, .node_id = 8},
                        s2;
  static uint8_t bytes[WAL_SEGMENT_HEADER_BYTES];
  segment_header_encode(&s, bytes);
  ck_assert_int_eq(segment_header_decode(bytes, &s2), DW_OK);
  ck_assert(memcmp(&s, &s2, sizeof s) == 0);
  for (size_t i = 0; i < sizeof bytes; i++) {
    bytes[i] ^= 0x10;
    ck_assert_int_ne(segment_header_decode(bytes, &s2), DW_OK);
    bytes[i] ^= 0x10;
  }
  struct mark_frame m = {.durable_lsn = 4, .salt = 5, .lsn = 6, .wall_ns = 7}, m2;
  uint8_t mark[WAL_MARK_BYTES];
  mark_encode(&m, mark);
  ck_assert(mark_decode(mark, &m2) && memcmp(&m, &m2, sizeof m) == 0);
  for (size_t i = 0; i < sizeof mark; i++) {
    mark[i] ^= 0x10;
    ck_assert(!mark_decode(mark, &m2));
    mark[i] ^= 0x10;
  }
  struct epoch_record r = {.epoch = 9, .node_id = 1, .wall_ns = 2, .reason = EPOCH_OPENED, .start = {10, 8, {{3}}}}, r2;
  uint8_t record[WAL_EPOCH_RECORD_BYTES];
  epoch_record_encode(&r, record);
  ck_assert_int_eq(epoch_record_decode(record, sizeof record, &r2), DW_OK);
  ck_assert_uint_eq(r2.start.lsn, 10);
  ck_assert_int_eq(epoch_record_decode(record, sizeof record - 1, &r2), DW_CORRUPT);
}
END_TEST

START_TEST(segment_names_sort_by_lsn_and_only_exact_names_parse) {
  char a[WAL_SEGMENT_NAME_BYTES], b[WAL_SEGMENT_NAME_BYTES];
  segment_name(a, 99, 1);
  segment_name(b, 100, 2);
  ck_assert_int_lt(strcmp(a, b), 0);
  dw_lsn lsn;
  uint64_t seq;
  ck_assert(segment_name_parse(a, &lsn, &seq) && lsn == 99 && seq == 1);
  segment_name(a, UINT64_MAX, UINT64_MAX);
  ck_assert(segment_name_parse(a, &lsn, &seq) && lsn == UINT64_MAX && seq == UINT64_MAX);
  ck_assert(!segment_name_parse("99-1.wal", &lsn, &seq));
  ck_assert(!segment_name_parse("00000000000000000099-00000001.wal.tmp", &lsn, &seq));
  ck_assert(!segment_name_parse("spare-00000001", &lsn, &seq));
}
END_TEST

/* ---- the grammar ------------------------------------------------------------------------------ */

static int validate(const void *bytes, size_t n, uint32_t commits) {
  uint64_t ops;
  return payload_validate(bytes, n, commits, &ops);
}

#define V(bytes, commits) validate(bytes, sizeof(bytes) - 1, commits)

START_TEST(payloads_of_the_grammar_are_accepted) {
  /* one commit: put 01"k" -> "v", delete 01"x" */
  ck_assert_int_eq(V("\0\2\11"
                     "\1\2\1k\1v"
                     "\0\2\1x",
                     1),
                   DW_CORRUPT); /* the body has 10 bytes */
  ck_assert_int_eq(V("\0\2\12"
                     "\1\2\1k\1v"
                     "\0\2\1x",
                     1),
                   DW_OK);
  ck_assert_int_eq(V("\0\1\5"
                     "\1\2\1k\0",
                     1),
                   DW_OK); /* empty value */
  ck_assert_int_eq(V("\0\1\5"
                     "\1\2\1k\0"
                     "\0\1\4"
                     "\0\2\1k",
                     2),
                   DW_OK);
}
END_TEST

START_TEST(payloads_that_break_the_grammar_are_refused) {
  ck_assert_int_ne(V("\1\1\5"
                     "\1\2\1k\0",
                     1),
                   DW_OK);                 /* unknown flags */
  ck_assert_int_ne(V("\0\0\0", 1), DW_OK); /* no operations */
  ck_assert_int_ne(V("\0\2\5"
                     "\1\2\1k\0",
                     1),
                   DW_OK); /* one operation too few */
  ck_assert_int_ne(V("\0\1\5"
                     "\1\2\1k\0",
                     2),
                   DW_OK); /* one commit too few */
  ck_assert_int_ne(V("\0\1\5"
                     "\2\2\1k\0",
                     1),
                   DW_OK); /* unknown operation */
  ck_assert_int_ne(V("\0\1\5"
                     "\1\2\0k\0",
                     1),
                   DW_OK); /* system namespace */
  ck_assert_int_ne(V("\0\1\4"
                     "\1\1\1\0",
                     1),
                   DW_OK); /* key of zero bytes */
  ck_assert_int_ne(V("\0\1\5"
                     "\1\2\1k\1",
                     1),
                   DW_OK); /* value beyond the end */
  ck_assert_int_ne(V("\0\1\6"
                     "\1\2\1k\0",
                     1),
                   DW_OK); /* body beyond the end */
  ck_assert_int_ne(V("\0\1\6"
                     "\1\202\0\1k\0",
                     1),
                   DW_OK); /* varint that is not the shortest */
  ck_assert_int_ne(V("\0\1\5"
                     "\1\2\1k\0"
                     "\0",
                     1),
                   DW_OK); /* rest */
  ck_assert_int_ne(V("\0\1\11"
                     "\1\377\377\377\377\177\1k\0",
                     1),
                   DW_OK); /* key of 32 GiB */
}
END_TEST

int main(void) {
  Suite *s = suite_create("log format");
  TCase *t = tcase_create("format");
  tcase_add_test(t, a_sealed_block_parses_to_the_same_header_and_payload);
  tcase_add_test(t, every_flipped_bit_of_a_block_is_noticed);
  tcase_add_test(t, small_or_incompressible_payloads_are_stored_raw);
  tcase_add_test(t, a_newer_version_or_an_unknown_flag_is_unsupported_not_corrupt);
  tcase_add_test(t, a_header_that_lies_about_sizes_is_refused_before_anything_is_allocated);
  tcase_add_test(t, a_decompression_bomb_is_cut_at_what_the_header_says);
  tcase_add_test(t, a_header_that_lies_about_the_raw_size_costs_no_memory);
  tcase_add_test(t, segment_headers_marks_and_epoch_records_round_trip_and_reject_flips);
  tcase_add_test(t, segment_names_sort_by_lsn_and_only_exact_names_parse);
  tcase_add_test(t, payloads_of_the_grammar_are_accepted);
  tcase_add_test(t, payloads_that_break_the_grammar_are_refused);
  suite_add_tcase(s, t);
  return check_main(s);
}
