/* The log on real files: appending, reading, recovery case by case, faults, trimming. */
#include "tests/support/check_main.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/wal_fixture.h"
#include "wal/wal.h"

/* Reads everything from the beginning; returns the last LSN. */
static dw_lsn read_all(void) {
  struct wal_cursor *c;
  struct wal_stat st;
  wal_stat(fx.w, &st);
  ck_assert_int_eq(wal_cursor_open(fx.w, &st.oldest, &c), DW_OK);
  struct wal_block *b;
  dw_lsn lsn = st.oldest.lsn;
  int rc;
  while ((rc = wal_cursor_next(c, UINT64_MAX, &b)) == DW_OK) {
    ck_assert_uint_eq(b->h.first_lsn, lsn + 1);
    lsn = block_last_lsn(&b->h);
    wal_block_unref(b);
  }
  ck_assert_int_eq(rc, DW_NOT_FOUND);
  struct wal_pos pos = wal_cursor_pos(c);
  ck_assert_uint_eq(pos.lsn, st.end.lsn);
  ck_assert(hash128_eq(&pos.chain, &st.end.chain));
  wal_cursor_close(c);
  return lsn;
}

START_TEST(what_is_appended_is_read_back_in_order_over_many_segments_and_reopens) {
  open_wal();
  ck_assert_int_eq(fx.rec.which, WAL_REC_EMPTY);
  append_many(400, 700, false);
  ck_assert_uint_eq(read_all(), 400);
  close_wal();
  open_wal();
  ck_assert_int_eq(fx.rec.which, WAL_REC_CLEAN);
  ck_assert_uint_eq(fx.rec.end.lsn, 400);
  ck_assert_uint_eq(read_all(), 400);
  append_many(10, 700, true);
  ck_assert_uint_eq(read_all(), 410);
}
END_TEST

START_TEST(a_block_larger_than_a_segment_gets_a_segment_of_its_size) {
  open_wal();
  append_many(3, 500, false);
  ck_assert_int_eq(append(500000, 1), DW_OK);
  append_many(3, 500, false);
  ck_assert_uint_eq(read_all(), 7);
  crash();
  open_wal();
  ck_assert_uint_eq(fx.rec.end.lsn, 7);
}
END_TEST

START_TEST(a_cursor_reads_the_same_bytes_from_memory_and_from_files) {
  fx.options.tail_cache_bytes = 1u << 20;
  open_wal();
  append_many(100, 700, false);
  struct wal_cursor *c, *d;
  ck_assert_int_eq(wal_cursor_open(fx.w, &fx.options.base, &c), DW_OK);
  ck_assert(wal_cursor_live(c));
  struct wal_block *kept[100];
  for (int i = 0; i < 100; i++) ck_assert_int_eq(wal_cursor_next(c, UINT64_MAX, &kept[i]), DW_OK);
  wal_cursor_close(c);
  close_wal();
  open_wal(); /* nothing cached now */
  ck_assert_int_eq(wal_cursor_open(fx.w, &fx.options.base, &d), DW_OK);
  for (int i = 0; i < 100; i++) {
    struct wal_block *b;
    ck_assert_int_eq(wal_cursor_next(d, UINT64_MAX, &b), DW_OK);
    ck_assert_uint_eq(block_total_bytes(&b->h), block_total_bytes(&kept[i]->h));
    ck_assert(memcmp(b->bytes, kept[i]->bytes, block_total_bytes(&b->h)) == 0);
    wal_block_unref(b);
    wal_block_unref(kept[i]);
  }
  wal_cursor_close(d);
}
END_TEST

START_TEST(a_cursor_stops_at_its_limit_and_goes_on_when_the_limit_rises) {
  open_wal();
  append_many(5, 100, false);
  struct wal_cursor *c;
  struct wal_block *b;
  ck_assert_int_eq(wal_cursor_open(fx.w, &fx.options.base, &c), DW_OK);
  for (int i = 0; i < 2; i++) {
    ck_assert_int_eq(wal_cursor_next(c, 2, &b), DW_OK);
    wal_block_unref(b);
  }
  ck_assert_int_eq(wal_cursor_next(c, 2, &b), DW_NOT_FOUND);
  ck_assert_int_eq(wal_cursor_next(c, 3, &b), DW_OK);
  ck_assert_uint_eq(b->h.first_lsn, 3);
  wal_block_unref(b);
  wal_cursor_close(c);
}
END_TEST

START_TEST(positions_are_found_by_lsn_and_chain_and_others_are_told_apart) {
  open_wal();
  append_many(300, 700, false);
  struct wal_cursor *c;
  struct wal_pos pos;
  ck_assert_int_eq(wal_boundary_at_most(fx.w, 1, 137, &pos), DW_OK);
  ck_assert_uint_eq(pos.lsn, 137);
  ck_assert_int_eq(wal_cursor_open(fx.w, &pos, &c), DW_OK);
  wal_cursor_close(c);
  pos.chain.b[0] ^= 1;
  ck_assert_int_eq(wal_cursor_open(fx.w, &pos, &c), DW_DIVERGED);
  pos.lsn = 301;
  ck_assert_int_eq(wal_cursor_open(fx.w, &pos, &c), DW_DIVERGED);
  ck_assert_int_eq(wal_boundary_at_most(fx.w, 0, 137, &pos), DW_OK); /* epoch 0: only the genesis boundary */
  ck_assert_uint_eq(pos.lsn, 0);
  ck_assert_int_eq(wal_boundary_at_most(fx.w, 5, 9999, &pos), DW_OK);
  ck_assert_uint_eq(pos.lsn, 300);
}
END_TEST

/* ---- recovery, case by case ------------------------------------------------------------------- */

START_TEST(case_b_a_killed_process_leaves_a_clean_end) {
  open_wal();
  append_many(20, 300, false);
  crash();
  open_wal();
  ck_assert_int_eq(fx.rec.which, WAL_REC_CLEAN);
  ck_assert_uint_eq(fx.rec.end.lsn, 20);
}
END_TEST

START_TEST(case_c_a_torn_last_block_is_cut_and_its_bytes_are_reported) {
  open_wal();
  append_many(10, 300, false);
  crash();
  struct find_block f = find(10);
  uint8_t zeros[512] = {0};
  poke(f.path, f.off + 200, zeros, f.total - 200);
  open_wal();
  ck_assert_int_eq(fx.rec.which, WAL_REC_TORN);
  ck_assert_uint_eq(fx.rec.end.lsn, 9);
  ck_assert_uint_eq(fx.rec.torn_bytes, f.total);
  ck_assert_ptr_nonnull(strstr(fx.said, "case C"));
  ck_assert_uint_eq(read_all(), 9);
  append_many(1, 300, true);
  ck_assert_uint_eq(read_all(), 10);
}
END_TEST

START_TEST(case_d_after_a_power_cut_unsynced_blocks_with_a_hole_are_cut) {
  open_wal();
  append_many(5, 300, true);
  append_many(5, 300, false); /* 6 to 10: never synced */
  crash();
  struct find_block f = find(7);
  uint8_t zeros[128] = {0};
  poke(f.path, f.off, zeros, sizeof zeros);
  fault_env_boot(fx.faults, 2);
  open_wal();
  ck_assert_int_eq(fx.rec.which, WAL_REC_TORN_POWER);
  ck_assert_uint_eq(fx.rec.end.lsn, 6);
  ck_assert_uint_eq(fx.rec.torn_blocks, 3);
  append_many(1, 300, false);
  crash();
  open_wal(); /* what was cut does not come back */
  ck_assert_uint_eq(fx.rec.end.lsn, 7);
}
END_TEST

START_TEST(case_e_a_store_ahead_of_the_log_after_a_power_cut_restarts_the_log_there) {
  open_wal();
  append_many(10, 300, false);
  struct wal_stat st;
  wal_stat(fx.w, &st);
  crash();
  struct find_block f = find(4);
  uint8_t zeros[8192] = {0};
  poke(f.path, f.off, zeros, sizeof zeros);
  fault_env_boot(fx.faults, 2);
  fx.options.must_reach = st.end; /* the store had flushed LSN 10 */
  open_wal();
  ck_assert_int_eq(fx.rec.which, WAL_REC_STORE_AHEAD);
  ck_assert_uint_eq(fx.rec.end.lsn, 10);
  append_many(2, 300, true);
  close_wal();
  open_wal();
  ck_assert_uint_eq(fx.rec.end.lsn, 12);
}
END_TEST

static void expect_refusal(const char *path, dw_lsn lsn) {
  char why[500], number[32];
  ck_assert_int_eq(try_open(), DW_CORRUPT);
  dw_error_copy(why, sizeof why);
  snprintf(number, sizeof number, "LSN %llu", (unsigned long long)lsn);
  ck_assert_msg(strstr(why, path) && strstr(why, number) && strstr(why, "offset"), "%s", why);
}

START_TEST(case_x_a_rotten_block_in_the_middle_is_refused_whatever_the_boot) {
  open_wal();
  append_many(10, 300, true);
  crash();
  struct find_block f = find(4);
  flip(f.path, f.off + 150);
  expect_refusal(f.path, 4);
  fault_env_boot(fx.faults, 2);
  expect_refusal(f.path, 4);
  flip(f.path, f.off + 150); /* refusing changed nothing */
  open_wal();
  ck_assert_uint_eq(fx.rec.end.lsn, 10);
}
END_TEST

START_TEST(case_x_unsynced_blocks_behind_a_hole_in_the_same_boot_are_refused) {
  open_wal();
  append_many(10, 300, false);
  crash();
  struct find_block f = find(4);
  flip(f.path, f.off + 150);
  expect_refusal(f.path, 4);
}
END_TEST

START_TEST(case_x_the_last_block_of_a_cleanly_closed_log_is_never_taken_for_torn) {
  open_wal();
  append_many(10, 300, false);
  close_wal();
  struct find_block f = find(10);
  flip(f.path, f.off + 150);
  fault_env_boot(fx.faults, 2);
  expect_refusal(f.path, 10);
}
END_TEST

START_TEST(case_x_rot_in_an_older_segment_is_refused_because_a_later_one_exists) {
  open_wal();
  append_many(300, 700, false);
  crash();
  struct find_block f = find(20);
  flip(f.path, f.off + 3);
  fault_env_boot(fx.faults, 2);
  expect_refusal(f.path, 20);
}
END_TEST

START_TEST(a_flip_in_any_byte_of_a_synced_block_is_found) {
  open_wal();
  append_many(6, 100, true);
  close_wal();
  struct find_block f = find(3);
  for (size_t i = 0; i < f.total; i++) {
    flip(f.path, f.off + i);
    ck_assert_int_eq(try_open(), DW_CORRUPT);
    flip(f.path, f.off + i);
  }
  open_wal();
}
END_TEST

START_TEST(a_damaged_segment_header_a_missing_segment_and_a_foreign_cluster_are_refused) {
  open_wal();
  append_many(300, 700, false);
  close_wal();
  struct find_block f = find(1);
  flip(f.path, 50);
  ck_assert_int_eq(try_open(), DW_CORRUPT);
  flip(f.path, 50);
  struct find_block second = find(150);
  char aside[700];
  snprintf(aside, sizeof aside, "%s.aside", second.path);
  rename(second.path, aside);
  ck_assert_int_eq(try_open(), DW_CORRUPT);
  rename(aside, second.path);
  fx.options.cluster_id.b[3] = 1;
  ck_assert_int_eq(try_open(), DW_DIVERGED);
  fx.options.cluster_id.b[3] = 0;
  fx.options.must_reach = (struct wal_pos){.lsn = 100};
  ck_assert_int_eq(try_open(), DW_DIVERGED);
  fx.options.must_reach = fx.options.base;
  open_wal();
}
END_TEST

START_TEST(a_users_value_that_is_a_log_image_inside_a_torn_block_is_not_taken_for_blocks) {
  open_wal();
  append_many(3, 300, false);
  /* A payload that contains the bytes of a block with a high LSN, stored raw. */
  struct wal_block *inner = noise_block(200, 1);
  struct hash128 prev = {{5}};
  inner->h.epoch = 1;
  inner->h.first_lsn = 50;
  block_header_seal(&inner->h, &prev, inner->bytes);
  struct block_header like = {.commit_count = 1, .need = {1, 2, 2, false, 0}};
  struct wal_block *outer;
  size_t n = block_total_bytes(&inner->h);
  uint8_t payload[1024] = {0};
  memcpy(payload + 8, inner->bytes, n);
  ck_assert_int_eq(wal_block_create(&like, payload, sizeof payload, 0, &outer), DW_OK);
  ck_assert_int_eq(wal_append(fx.w, &outer, 1, 1, 0), DW_OK);
  wal_block_unref(outer);
  wal_block_unref(inner);
  crash();
  struct find_block f = find(4);
  uint8_t byte = 0xee;
  poke(f.path, f.off + f.total - 9, &byte, 1); /* torn at its end */
  open_wal();
  ck_assert_int_eq(fx.rec.which, WAL_REC_TORN);
  ck_assert_uint_eq(fx.rec.end.lsn, 3);
}
END_TEST

START_TEST(stale_bytes_of_a_recycled_segment_are_never_taken_for_blocks) {
  open_wal();
  append_many(500, 700, false);
  dw_lsn oldest;
  ck_assert_int_eq(wal_trim(fx.w, 400, &oldest), DW_OK);
  ck_assert_uint_gt(oldest, 1);
  append_many(110, 700, false); /* rolls into a recycled file and stops in its middle */
  ck_assert_uint_eq(read_all(), 610);
  for (uint8_t boot = 1; boot < 3; boot++) {
    fault_env_boot(fx.faults, boot);
    fx.options.must_reach = fx.options.base;
    crash();
    struct wal_inspect_report rep;
    ck_assert_int_eq(wal_inspect(env_posix(), fx.dir, &(struct wal_inspect){0}, &rep), DW_OK);
    fx.options.must_reach = rep.first;
    open_wal();
    ck_assert_int_eq(fx.rec.which, WAL_REC_CLEAN);
    ck_assert_uint_eq(fx.rec.end.lsn, 610);
  }
}
END_TEST

/* ---- faults ----------------------------------------------------------------------------------- */

START_TEST(a_failed_fdatasync_stops_the_log_for_good) {
  open_wal();
  append_many(1, 300, true);
  ck_assert_int_eq(append(300, 1), DW_OK);
  fault_env_fail(fx.faults, FAULT_FDATASYNC, 1, DW_IO, false);
  ck_assert_int_eq(wal_sync(fx.w, NULL), DW_IO);
  ck_assert_int_eq(wal_sync(fx.w, NULL), DW_CLOSED); /* a second try that succeeds would prove nothing */
  ck_assert_int_eq(append(300, 1), DW_CLOSED);
  char why[300];
  dw_error_copy(why, sizeof why);
  ck_assert_ptr_nonnull(strstr(why, "fdatasync"));
  ck_assert_uint_eq(read_all(), 2); /* reading goes on */
  struct wal_stat st;
  wal_stat(fx.w, &st);
  ck_assert(st.stopped);
  ck_assert_uint_eq(st.durable_lsn, 1);
  wal_close(fx.w);
  fx.w = NULL;
}
END_TEST

/* After a failed fdatasync the kernel calls pages clean that it did not write; a process that starts afterwards still
 * reads them, and its own fdatasync would succeed without writing anything. */
START_TEST(what_no_mark_says_was_synced_is_written_again_at_open_in_the_same_boot) {
  open_wal();
  append_many(5, 700, true);
  append_many(3, 700, false);
  fault_env_fail(fx.faults, FAULT_FDATASYNC, 1, DW_IO, true);
  ck_assert_int_eq(wal_sync(fx.w, NULL), DW_IO);
  crash();
  fault_env_fail(fx.faults, FAULT_FDATASYNC, 0, DW_OK, false);
  unsigned before = fault_env_calls(fx.faults, FAULT_PWRITEV);
  open_wal();
  ck_assert_uint_eq(read_all(), 8);
  ck_assert_uint_eq(fault_env_calls(fx.faults, FAULT_PWRITEV) - before, 2); /* the tail, and this opening's mark */
  close_wal();
  before = fault_env_calls(fx.faults, FAULT_PWRITEV);
  fault_env_boot(fx.faults, 2); /* another boot has read it from the disk */
  open_wal();
  ck_assert_uint_eq(fault_env_calls(fx.faults, FAULT_PWRITEV) - before, 1);
}
END_TEST

START_TEST(an_epoch_record_whose_sync_failed_is_written_again_although_its_lsn_is_known_durable) {
  open_wal();
  append_many(5, 700, true);
  append_many(1, 700, true); /* its mark tells of LSN 5 */
  close_wal();               /* and this one of LSN 6 */
  open_wal();
  struct wal_stat st;
  wal_stat(fx.w, &st);
  struct epoch_record e = {.epoch = 2, .node_id = 1, .reason = EPOCH_OPENED, .start = st.end};
  struct block_header like = {.kind = BLOCK_EPOCH, .need = {1, 2, 2, false, 0}, .origin_id = 1};
  uint8_t record[WAL_EPOCH_RECORD_BYTES];
  struct wal_block *b;
  epoch_record_encode(&e, record);
  ck_assert_int_eq(wal_block_create(&like, record, sizeof record, 1, &b), DW_OK);
  ck_assert_int_eq(wal_append(fx.w, &b, 1, 2, 0), DW_OK);
  wal_block_unref(b);
  fault_env_fail(fx.faults, FAULT_FDATASYNC, 1, DW_IO, true);
  ck_assert_int_eq(wal_sync(fx.w, NULL), DW_IO);
  crash();
  fault_env_fail(fx.faults, FAULT_FDATASYNC, 0, DW_OK, false);
  unsigned before = fault_env_calls(fx.faults, FAULT_PWRITEV);
  open_wal();
  ck_assert_uint_eq(fx.rec.end.epoch, 2);
  ck_assert_uint_eq(fault_env_calls(fx.faults, FAULT_PWRITEV) - before, 2); /* the record, and this opening's mark */
}
END_TEST

START_TEST(a_full_disk_fails_the_append_alone_and_leaves_nothing_to_rise_again) {
  open_wal();
  append_many(3, 300, true);
  struct wal_block *two[2] = {noise_block(300, 7), noise_block(5000, 8)};
  fault_env_fail(fx.faults, FAULT_PWRITEV, 1, DW_NO_SPACE, false);
  ck_assert_int_eq(wal_append(fx.w, two, 2, 1, 0), DW_NO_SPACE); /* half of it reached the file: block 4 is whole */
  wal_block_unref(two[0]);
  wal_block_unref(two[1]);
  crash();
  open_wal();
  ck_assert_uint_eq(fx.rec.end.lsn, 3);
  append_many(2, 300, true);
  ck_assert_uint_eq(read_all(), 5);
}
END_TEST

/* Blocks 4 and 5 reach the file; taking them back stops within the first write that does it. */
START_TEST(an_append_whose_taking_back_fails_too_leaves_a_torn_end_and_no_hole) {
  fx.options.segment_bytes = 4u << 20;
  open_wal();
  append_many(3, 300, true);
  struct wal_block *four[4];
  for (uint8_t i = 0; i < 4; i++) four[i] = noise_block(i == 1 ? 300000 : 600000, i);
  fault_env_fail(fx.faults, FAULT_PWRITEV, 1, DW_NO_SPACE, true);
  ck_assert_int_eq(wal_append(fx.w, four, 4, 1, 0), DW_IO);
  for (unsigned i = 0; i < 4; i++) wal_block_unref(four[i]);
  fault_env_fail(fx.faults, FAULT_PWRITEV, 0, DW_OK, false);
  ck_assert_int_eq(append(300, 1), DW_CLOSED);
  wal_close(fx.w); /* it has stopped: this writes nothing */
  open_wal();      /* the machine has not restarted: damage would be refused */
  ck_assert_uint_eq(fx.rec.end.lsn, 5);
  append_many(2, 300, true);
  ck_assert_uint_eq(read_all(), 7);
}
END_TEST

START_TEST(a_full_disk_at_a_new_segment_fails_the_append_alone) {
  open_wal();
  while (1) {
    struct wal_stat st;
    wal_stat(fx.w, &st);
    if (st.end_bytes > 55000) break;
    append_many(1, 700, false);
  }
  fault_env_fail(fx.faults, FAULT_ALLOCATE, 1, DW_NO_SPACE, true);
  int rc;
  while ((rc = append(3000, 1)) == DW_OK) {
  }
  ck_assert_int_eq(rc, DW_NO_SPACE);
  ck_assert_int_eq(append(3000, 1), DW_NO_SPACE);
  fault_env_fail(fx.faults, FAULT_ALLOCATE, 0, DW_OK, false);
  append_many(3, 3000, true);
  read_all();
}
END_TEST

START_TEST(any_other_write_error_stops_the_log) {
  open_wal();
  fault_env_fail(fx.faults, FAULT_PWRITEV, 1, DW_IO, false);
  ck_assert_int_eq(append(300, 1), DW_IO);
  ck_assert_int_eq(append(300, 1), DW_CLOSED);
  wal_close(fx.w);
  fx.w = NULL;
}
END_TEST

/* ---- making it shorter ------------------------------------------------------------------------ */

START_TEST(a_cut_does_not_write_rotten_blocks_anew) {
  struct wal_pos pos;
  char why[300];
  fx.options.segment_bytes = 1u << 20;
  open_wal();
  append_many(200, 1000, true);
  struct find_block f = find(3);
  ck_assert_int_eq(wal_boundary_at_most(fx.w, 1, 149, &pos), DW_OK);
  flip(f.path, f.off + 200);
  ck_assert_int_eq(wal_truncate(fx.w, &pos), DW_CORRUPT);
  dw_error_copy(why, sizeof why);
  ck_assert_ptr_nonnull(strstr(why, "LSN 3"));
  wal_close(fx.w);
  ck_assert_int_eq(try_open(), DW_CORRUPT);
  flip(f.path, f.off + 200); /* repaired: nothing had been cut */
  open_wal();
  ck_assert_uint_eq(fx.rec.end.lsn, 200);
}
END_TEST

START_TEST(trimming_drops_whole_segments_but_none_that_a_cursor_stands_in) {
  open_wal();
  append_many(400, 700, false);
  struct wal_pos at;
  struct wal_cursor *c;
  ck_assert_int_eq(wal_boundary_at_most(fx.w, 1, 100, &at), DW_OK);
  ck_assert_int_eq(wal_cursor_open(fx.w, &at, &c), DW_OK);
  dw_lsn oldest;
  ck_assert_int_eq(wal_trim(fx.w, 400, &oldest), DW_OK);
  ck_assert_uint_le(oldest, 101);
  ck_assert_uint_gt(oldest, 1);
  struct wal_block *b;
  for (dw_lsn lsn = 101; lsn <= 400; lsn++) {
    ck_assert_int_eq(wal_cursor_next(c, UINT64_MAX, &b), DW_OK);
    ck_assert_uint_eq(b->h.first_lsn, lsn);
    wal_block_unref(b);
  }
  wal_cursor_close(c);
  ck_assert_int_eq(wal_trim(fx.w, 400, &oldest), DW_OK);
  ck_assert_uint_gt(oldest, 300);
  ck_assert_int_eq(wal_cursor_open(fx.w, &at, &c), DW_NOT_FOUND);
}
END_TEST

START_TEST(a_segment_that_cannot_be_removed_stays_in_the_log_and_goes_later) {
  const enum fault_op how[] = {FAULT_RENAME, FAULT_UNLINK};
  struct wal_segment_info before[16], info[16];
  open_wal();
  append_many(400, 700, false);
  for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
    size_t n = wal_segments(fx.w, before, 16);
    ck_assert_uint_ge(n, 4);
    dw_lsn oldest = 0;
    fault_env_fail(fx.faults, how[i], 1, DW_IO, false);
    fault_env_only(fx.faults, ".wal");
    /* The first two segments become spares; with both there, others are unlinked. */
    ck_assert_int_eq(wal_trim(fx.w, before[n - 3].last_lsn, &oldest), DW_IO);
    ck_assert_uint_eq(oldest, before[0].first_lsn);
    ck_assert_uint_eq(wal_segments(fx.w, info, 16), n);
    ck_assert_uint_eq(info[0].seq, before[0].seq);
    ck_assert_uint_eq(read_all(), 400); /* it is whole, and can be read */
    ck_assert_int_eq(wal_trim(fx.w, before[1].last_lsn, &oldest), DW_OK);
    ck_assert_uint_eq(oldest, before[2].first_lsn);
    ck_assert_uint_eq(wal_segments(fx.w, info, 16), n - 2);
  }
  struct wal_inspect_report rep;
  ck_assert_int_eq(wal_inspect(env_posix(), fx.dir, &(struct wal_inspect){0}, &rep), DW_OK);
  ck_assert_uint_eq(rep.leftovers, 0);
  ck_assert_uint_eq(rep.first.lsn + 1, info[0].first_lsn);
}
END_TEST

START_TEST(a_segment_whose_file_is_gone_does_not_hold_up_trimming) {
  struct wal_segment_info info[16];
  char name[WAL_SEGMENT_NAME_BYTES], path[600];
  dw_lsn oldest;
  open_wal();
  append_many(300, 700, false);
  ck_assert_uint_ge(wal_segments(fx.w, info, 16), 4);
  segment_name(name, info[0].first_lsn, info[0].seq);
  snprintf(path, sizeof path, "%s/%s", fx.dir, name);
  ck_assert_int_eq(unlink(path), 0);
  ck_assert_int_ne(wal_trim(fx.w, info[1].last_lsn, &oldest), DW_OK); /* that is worth a word */
  ck_assert_uint_eq(oldest, info[1].first_lsn);
  ck_assert_int_eq(wal_trim(fx.w, info[1].last_lsn, &oldest), DW_OK);
  ck_assert_uint_eq(oldest, info[2].first_lsn);
}
END_TEST

/* Removals reach the disk in any order: a power cut in a trim may leave an old segment whose successor is gone. */
START_TEST(what_a_trim_left_before_a_gap_is_no_part_of_the_log) {
  struct wal_segment_info info[16];
  struct wal_inspect_report rep;
  char name[WAL_SEGMENT_NAME_BYTES], path[600];
  open_wal();
  append_many(300, 700, true);
  size_t n = wal_segments(fx.w, info, 16);
  ck_assert_uint_ge(n, 4);
  ck_assert_int_eq(wal_boundary_at_most(fx.w, 1, info[1].last_lsn, &fx.options.must_reach), DW_OK);
  close_wal();
  segment_name(name, info[1].first_lsn, info[1].seq);
  snprintf(path, sizeof path, "%s/%s", fx.dir, name);
  ck_assert_int_eq(unlink(path), 0);
  ck_assert_msg(wal_inspect(env_posix(), fx.dir, &(struct wal_inspect){0}, &rep) == DW_OK, "%s", rep.problem);
  ck_assert_uint_eq(rep.leftovers, 1);
  ck_assert_uint_eq(rep.segments, n - 2);
  ck_assert_uint_eq(rep.first.lsn + 1, info[2].first_lsn);
  ck_assert_uint_eq(rep.last.lsn, 300);
  open_wal(); /* sees it in the same way */
  ck_assert_uint_eq(read_all(), 300);
  ck_assert_int_eq(wal_inspect(env_posix(), fx.dir, &(struct wal_inspect){0}, &rep), DW_OK);
  ck_assert_uint_eq(rep.leftovers, 0);
}
END_TEST

START_TEST(a_segment_whose_header_names_another_epoch_than_its_place_is_refused) {
  uint8_t header[WAL_SEGMENT_HEADER_BYTES];
  struct wal_segment_info info[8];
  char path[600], name[WAL_SEGMENT_NAME_BYTES];
  open_wal();
  append_many(100, 900, true); /* some segments */
  ck_assert_uint_ge(wal_segments(fx.w, info, 8), 2);
  close_wal();
  segment_name(name, info[1].first_lsn, info[1].seq);
  snprintf(path, sizeof path, "%s/%s", fx.dir, name);
  FILE *f = fopen(path, "rb");
  ck_assert_ptr_nonnull(f);
  ck_assert_uint_eq(fread(header, 1, sizeof header, f), sizeof header);
  fclose(f);
  put_u64(header + 32, 0); /* blocks of epoch 1 may follow */
  put_u64(header + sizeof header - 8, hash64(header, sizeof header - 8));
  poke(path, 0, header, sizeof header);
  ck_assert_int_eq(wal_open(fx.dir, &fx.options, &fx.rec, &fx.w), DW_CORRUPT);
  fx.w = NULL;
  struct wal_inspect_report rep;
  ck_assert_int_eq(wal_inspect(env_posix(), fx.dir, &(struct wal_inspect){0}, &rep), DW_CORRUPT);
}
END_TEST

/* An epoch record uses no LSN: two boundaries have the LSN at which the log starts, and the earlier one is trimmed. */
START_TEST(a_boundary_before_a_trimmed_epoch_record_is_trimmed_and_not_another_history) {
  open_wal();
  append_many(3, 700, false);
  struct wal_stat st;
  wal_stat(fx.w, &st);
  struct wal_pos before = st.end;
  struct epoch_record e = {.epoch = 2, .node_id = 1, .reason = EPOCH_OPENED, .start = before};
  struct block_header like = {.kind = BLOCK_EPOCH, .need = {1, 2, 2, false, 0}, .origin_id = 1};
  uint8_t record[WAL_EPOCH_RECORD_BYTES];
  struct wal_block *b;
  epoch_record_encode(&e, record);
  ck_assert_int_eq(wal_block_create(&like, record, sizeof record, 0, &b), DW_OK);
  ck_assert_int_eq(wal_append(fx.w, &b, 1, 2, 0), DW_OK);
  wal_block_unref(b);
  b = noise_block(62000, 9); /* does not fit: it begins the next segment */
  ck_assert_int_eq(wal_append(fx.w, &b, 1, 2, 0), DW_OK);
  wal_block_unref(b);
  dw_lsn oldest;
  ck_assert_int_eq(wal_trim(fx.w, 3, &oldest), DW_OK);
  ck_assert_uint_eq(oldest, 4);
  struct wal_cursor *c;
  ck_assert_int_eq(wal_cursor_open(fx.w, &before, &c), DW_NOT_FOUND);
}
END_TEST

START_TEST(truncating_cuts_the_tail_for_good_and_cursors_beyond_learn_it) {
  open_wal();
  append_many(300, 700, true);
  struct wal_pos at;
  ck_assert_int_eq(wal_boundary_at_most(fx.w, 1, 50, &at), DW_OK);
  struct wal_cursor *c;
  struct wal_stat st;
  wal_stat(fx.w, &st);
  ck_assert_int_eq(wal_cursor_open(fx.w, &st.end, &c), DW_OK);
  at.epoch++; /* from the wire: the log must not take it for its own */
  ck_assert_int_eq(wal_truncate(fx.w, &at), DW_NOT_FOUND);
  at.epoch--;
  ck_assert_int_eq(wal_truncate(fx.w, &at), DW_OK);
  struct wal_block *b;
  ck_assert_int_eq(wal_cursor_next(c, UINT64_MAX, &b), DW_DIVERGED);
  wal_cursor_close(c);
  ck_assert_uint_eq(read_all(), 50);
  append_many(3, 900, false);
  ck_assert_uint_eq(read_all(), 53);
  crash();
  open_wal();
  ck_assert_uint_eq(fx.rec.end.lsn, 53);
  struct wal_pos nowhere = {.lsn = 20};
  ck_assert_int_eq(wal_truncate(fx.w, &nowhere), DW_NOT_FOUND);
}
END_TEST

START_TEST(sealed_blocks_are_taken_only_where_they_continue_the_log) {
  open_wal();
  append_many(2, 300, false);
  struct wal_cursor *c;
  struct wal_block *b[2];
  ck_assert_int_eq(wal_cursor_open(fx.w, &fx.options.base, &c), DW_OK);
  for (int i = 0; i < 2; i++) ck_assert_int_eq(wal_cursor_next(c, UINT64_MAX, &b[i]), DW_OK);
  wal_cursor_close(c);
  ck_assert_int_eq(wal_append_sealed(fx.w, b, 2), DW_DIVERGED);
  close_wal();
  env_remove_tree(env_posix(), fx.dir);
  open_wal();
  ck_assert_int_eq(wal_append_sealed(fx.w, b + 1, 1), DW_DIVERGED); /* a gap */
  ck_assert_int_eq(wal_append_sealed(fx.w, b, 2), DW_OK);
  ck_assert_uint_eq(read_all(), 2);
  for (int i = 0; i < 2; i++) wal_block_unref(b[i]);
}
END_TEST

/* ---- together --------------------------------------------------------------------------------- */

static atomic_bool stop;

static void *sync_loop(void *arg) {
  (void)arg;
  while (!atomic_load(&stop)) {
    ck_assert_int_eq(wal_sync(fx.w, NULL), DW_OK);
    if (wal_wants_prepare(fx.w)) ck_assert_int_eq(wal_prepare(fx.w), DW_OK);
  }
  return NULL;
}

static void *read_loop(void *arg) {
  dw_lsn target = (dw_lsn)(uintptr_t)arg;
  struct wal_cursor *c;
  ck_assert_int_eq(wal_cursor_open(fx.w, &fx.options.base, &c), DW_OK);
  dw_lsn lsn = 0;
  while (lsn < target) {
    struct wal_block *b;
    int rc = wal_cursor_next(c, UINT64_MAX, &b);
    if (rc == DW_NOT_FOUND) continue;
    ck_assert_int_eq(rc, DW_OK);
    ck_assert_uint_eq(b->h.first_lsn, lsn + 1);
    lsn = block_last_lsn(&b->h);
    wal_block_unref(b);
    dw_lsn oldest;
    if (lsn % 100 == 0) ck_assert_int_eq(wal_trim(fx.w, lsn / 2, &oldest), DW_OK);
  }
  wal_cursor_close(c);
  return NULL;
}

START_TEST(one_appender_readers_syncs_and_trims_live_together) {
  open_wal();
  atomic_store(&stop, false);
  pthread_t syncer, readers[2];
  const dw_lsn n = 3000;
  for (int i = 0; i < 2; i++) pthread_create(&readers[i], NULL, read_loop, (void *)(uintptr_t)n);
  pthread_create(&syncer, NULL, sync_loop, NULL);
  append_many((int)n, 400, false);
  for (int i = 0; i < 2; i++) pthread_join(readers[i], NULL);
  atomic_store(&stop, true);
  pthread_join(syncer, NULL);
}
END_TEST

START_TEST(inspection_reports_what_is_there_and_names_what_is_rotten) {
  open_wal();
  append_many(200, 700, true);
  struct wal_inspect_report rep;
  ck_assert_int_eq(wal_inspect(env_posix(), fx.dir, &(struct wal_inspect){0}, &rep), DW_OK); /* live */
  ck_assert_uint_eq(rep.commits, 200);
  ck_assert_uint_eq(rep.last.lsn, 200);
  close_wal();
  struct find_block f = find(120);
  flip(f.path, f.off + 140);
  ck_assert_int_eq(wal_inspect(env_posix(), fx.dir, &(struct wal_inspect){0}, &rep), DW_CORRUPT);
  ck_assert_msg(strstr(rep.problem, "LSN 120") && strstr(rep.problem, f.path), "%s", rep.problem);
  flip(f.path, f.off + 140);
  f = find(200); /* in the newest segment: only its closing mark proves it */
  flip(f.path, f.off + 140);
  ck_assert_int_eq(wal_inspect(env_posix(), fx.dir, &(struct wal_inspect){0}, &rep), DW_CORRUPT);
  ck_assert_int_eq(wal_inspect(env_posix(), "/nonexistent", &(struct wal_inspect){0}, &rep), DW_NOT_FOUND);
}
END_TEST

int main(void) {
  Suite *s = suite_create("log");
  TCase *t = tcase_create("log");
  tcase_set_timeout(t, 60);
  tcase_add_checked_fixture(t, wal_fixture_start, wal_fixture_end);
  tcase_add_test(t, what_is_appended_is_read_back_in_order_over_many_segments_and_reopens);
  tcase_add_test(t, a_block_larger_than_a_segment_gets_a_segment_of_its_size);
  tcase_add_test(t, a_cursor_reads_the_same_bytes_from_memory_and_from_files);
  tcase_add_test(t, a_cursor_stops_at_its_limit_and_goes_on_when_the_limit_rises);
  tcase_add_test(t, positions_are_found_by_lsn_and_chain_and_others_are_told_apart);
  tcase_add_test(t, case_b_a_killed_process_leaves_a_clean_end);
  tcase_add_test(t, case_c_a_torn_last_block_is_cut_and_its_bytes_are_reported);
  tcase_add_test(t, case_d_after_a_power_cut_unsynced_blocks_with_a_hole_are_cut);
  tcase_add_test(t, case_e_a_store_ahead_of_the_log_after_a_power_cut_restarts_the_log_there);
  tcase_add_test(t, case_x_a_rotten_block_in_the_middle_is_refused_whatever_the_boot);
  tcase_add_test(t, case_x_unsynced_blocks_behind_a_hole_in_the_same_boot_are_refused);
  tcase_add_test(t, case_x_the_last_block_of_a_cleanly_closed_log_is_never_taken_for_torn);
  tcase_add_test(t, case_x_rot_in_an_older_segment_is_refused_because_a_later_one_exists);
  tcase_add_test(t, a_flip_in_any_byte_of_a_synced_block_is_found);
  tcase_add_test(t, a_damaged_segment_header_a_missing_segment_and_a_foreign_cluster_are_refused);
  tcase_add_test(t, a_users_value_that_is_a_log_image_inside_a_torn_block_is_not_taken_for_blocks);
  tcase_add_test(t, stale_bytes_of_a_recycled_segment_are_never_taken_for_blocks);
  tcase_add_test(t, a_failed_fdatasync_stops_the_log_for_good);
  tcase_add_test(t, what_no_mark_says_was_synced_is_written_again_at_open_in_the_same_boot);
  tcase_add_test(t, an_epoch_record_whose_sync_failed_is_written_again_although_its_lsn_is_known_durable);
  tcase_add_test(t, a_full_disk_fails_the_append_alone_and_leaves_nothing_to_rise_again);
  tcase_add_test(t, an_append_whose_taking_back_fails_too_leaves_a_torn_end_and_no_hole);
  tcase_add_test(t, a_full_disk_at_a_new_segment_fails_the_append_alone);
  tcase_add_test(t, any_other_write_error_stops_the_log);
  tcase_add_test(t, a_cut_does_not_write_rotten_blocks_anew);
  tcase_add_test(t, trimming_drops_whole_segments_but_none_that_a_cursor_stands_in);
  tcase_add_test(t, a_segment_that_cannot_be_removed_stays_in_the_log_and_goes_later);
  tcase_add_test(t, a_segment_whose_file_is_gone_does_not_hold_up_trimming);
  tcase_add_test(t, what_a_trim_left_before_a_gap_is_no_part_of_the_log);
  tcase_add_test(t, a_segment_whose_header_names_another_epoch_than_its_place_is_refused);
  tcase_add_test(t, a_boundary_before_a_trimmed_epoch_record_is_trimmed_and_not_another_history);
  tcase_add_test(t, truncating_cuts_the_tail_for_good_and_cursors_beyond_learn_it);
  tcase_add_test(t, sealed_blocks_are_taken_only_where_they_continue_the_log);
  tcase_add_test(t, one_appender_readers_syncs_and_trims_live_together);
  tcase_add_test(t, inspection_reports_what_is_there_and_names_what_is_rotten);
  suite_add_tcase(s, t);
  return check_main(s);
}
