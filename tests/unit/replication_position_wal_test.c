/* Positions decided against a real log on disk, as the driver does it. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "replication/position.h"
#include "tests/support/repl_sim.h"
#include "wal/wal.h"

struct disk_log {
  char dir[256];
  struct wal *wal;
  struct hash128 cluster;
  struct epoch_record epochs[8];
  size_t epoch_count;
};
static struct disk_log p, f;

static void open_log(struct disk_log *l, const char *name) {
  const char *tmp = getenv("TMPDIR");
  snprintf(l->dir, sizeof l->dir, "%s/dw-pos-%s-XXXXXX", tmp && *tmp ? tmp : "/tmp", name);
  ck_assert_ptr_nonnull(mkdtemp(l->dir));
  l->cluster = sim_id(7);
  struct wal_options o = {.env = env_posix(),
                          .cluster_id = l->cluster,
                          .node_id = 1,
                          .segment_bytes = WAL_MIN_SEGMENT_BYTES,
                          .tail_cache_bytes = 1 << 16,
                          .base = wal_genesis(&l->cluster)};
  struct wal_recovery rec;
  ck_assert_int_eq(wal_open(l->dir, &o, &rec, &l->wal), DW_OK);
}

static void write_block(struct disk_log *l, uint64_t epoch, uint32_t commits, uint64_t salt) {
  uint8_t raw[1200];
  salt *= 0xbf58476d1ce4e5b9ull;
  for (size_t i = 0; i < sizeof raw; i++) raw[i] = (uint8_t)((salt += 0x9e3779b97f4a7c15ull) >> 33);
  struct block_header like = {
      .kind = commits ? BLOCK_COMMITS : BLOCK_EPOCH, .need = sim_async, .commit_count = commits};
  struct wal_block *b;
  ck_assert_int_eq(wal_block_create(&like, raw, sizeof raw, 0, &b), DW_OK);
  ck_assert_msg(wal_append(l->wal, &b, 1, epoch, 0) == DW_OK, "%s", dw_last_error());
  wal_block_unref(b);
}

static struct wal_pos end_of(struct disk_log *l) {
  struct wal_stat st;
  wal_stat(l->wal, &st);
  return st.end;
}

static void start_epoch(struct disk_log *l, uint64_t epoch, uint64_t salt) {
  l->epochs[l->epoch_count++] = (struct epoch_record){.epoch = epoch, .start = end_of(l)};
  write_block(l, epoch, 0, salt);
}

/* Up to LSN `limit`, but of epoch 1 only if that is where it ends: the block of epoch 2 uses no LSN. */
static void copy_blocks(struct disk_log *from, struct disk_log *to, dw_lsn limit) {
  struct wal_cursor *c;
  struct wal_block *b;
  struct wal_pos at = end_of(to);
  ck_assert_int_eq(wal_cursor_open(from->wal, &at, &c), DW_OK);
  while (wal_cursor_next(c, limit, &b) == DW_OK) {
    bool beyond = b->h.kind == BLOCK_EPOCH && b->h.first_lsn == limit + 1;
    if (!beyond) ck_assert_int_eq(wal_append_sealed(to->wal, &b, 1), DW_OK);
    wal_block_unref(b);
    if (beyond) break;
  }
  wal_cursor_close(c);
}

static struct position_decision decide(const struct wal_pos *applied, const struct wal_pos *at) {
  struct wal_stat st;
  struct position_decision d;
  struct msg_hello h = {.cluster_id = p.cluster, .node_id = 2, .tail = end_of(&f), .applied = *applied};
  h.at = at ? *at : h.tail;
  wal_stat(p.wal, &st);
  ck_assert_int_eq(position_decide_wal(p.wal, &st.oldest, &st.end, p.epochs, p.epoch_count, &p.cluster, false, &h, &d),
                   DW_OK);
  return d;
}

static void setup(void) {
  p.epoch_count = f.epoch_count = 0;
  open_log(&p, "p");
  open_log(&f, "f");
  start_epoch(&p, 1, 1);
  for (uint64_t i = 1; i <= 100; i++) write_block(&p, 1, 1, i);
  start_epoch(&p, 2, 2);
  for (uint64_t i = 101; i <= 200; i++) write_block(&p, 2, 1, i);
}
static void teardown(void) {
  wal_close(p.wal);
  wal_close(f.wal);
  env_remove_tree(env_posix(), p.dir);
  env_remove_tree(env_posix(), f.dir);
}

START_TEST(every_boundary_of_a_log_on_disk_can_be_followed) {
  struct wal_pos genesis = end_of(&f);
  struct wal_pos at = genesis;
  ck_assert_int_eq(decide(&genesis, NULL).kind, POSITION_STREAM);
  for (dw_lsn l = 10; l <= 200; l += 10) {
    copy_blocks(&p, &f, l);
    at = end_of(&f);
    ck_assert_uint_eq(at.lsn, l);
    struct position_decision d = decide(&genesis, NULL);
    ck_assert_int_eq(d.kind, POSITION_STREAM);
    ck_assert_uint_eq(d.pos.lsn, l);
  }
}
END_TEST

START_TEST(a_lost_tail_is_cut_to_the_common_boundary_and_then_followed) {
  copy_blocks(&p, &f, 90);
  struct wal_pos applied = end_of(&f);
  copy_blocks(&p, &f, 100);
  for (uint64_t i = 0; i < 5; i++) write_block(&f, 1, 1, 7777 + i); /* 101-105 of epoch 1: lost by p */
  struct position_decision d = decide(&applied, NULL);
  ck_assert_msg(d.kind == POSITION_TRUNCATE, "%s", d.text);
  ck_assert_uint_eq(d.pos.lsn, 100);
  ck_assert_int_eq(wal_truncate(f.wal, &d.pos), DW_OK);
  ck_assert_int_eq(decide(&applied, NULL).kind, POSITION_STREAM);
  copy_blocks(&p, &f, UINT64_MAX);
  struct wal_pos a = end_of(&p), b = end_of(&f);
  ck_assert(hash128_eq(&a.chain, &b.chain));
}
END_TEST

START_TEST(two_writers_of_one_epoch_meet_at_the_epoch_before) {
  copy_blocks(&p, &f, 100);
  struct wal_pos applied = end_of(&f);
  write_block(&f, 2, 0, 4444); /* another epoch 2 */
  for (uint64_t i = 0; i < 5; i++) write_block(&f, 2, 1, 8888 + i);
  struct position_decision d = decide(&applied, NULL);
  ck_assert_msg(d.kind == POSITION_TRUNCATE, "%s", d.text);
  ck_assert_int_eq(wal_truncate(f.wal, &d.pos), DW_NOT_FOUND); /* not a boundary here */
  struct wal_pos at;
  ck_assert_int_eq(position_older_wal(f.wal, &d.pos, NULL, &at), DW_OK);
  ck_assert_uint_eq(at.epoch, 1);
  ck_assert_uint_eq(at.lsn, 100);
  d = decide(&applied, &at);
  ck_assert_msg(d.kind == POSITION_TRUNCATE, "%s", d.text);
  ck_assert_int_eq(wal_truncate(f.wal, &d.pos), DW_OK);
  ck_assert_int_eq(decide(&applied, NULL).kind, POSITION_STREAM);
}
END_TEST

/* A peer that has trimmed the place names it without a chain hash that could be there. */
START_TEST(what_was_not_asked_about_yet_is_asked_about_although_it_has_the_same_lsn_and_epoch) {
  copy_blocks(&p, &f, 100);
  struct wal_pos end = end_of(&f), named = {end.lsn, end.epoch, {{5}}}, asked, at;
  write_block(&f, 7, 0, 4444);
  asked = end_of(&f); /* an epoch record */
  ck_assert_int_eq(position_older_wal(f.wal, &named, &asked, &at), DW_OK);
  ck_assert(hash128_eq(&at.chain, &end.chain));
  ck_assert_int_eq(position_older_wal(f.wal, &named, &at, &asked), DW_OK);
  ck_assert_uint_lt(asked.epoch, end.epoch);
}
END_TEST

/* An epoch record at the end of the last segment that was trimmed: the oldest boundary held has the follower's LSN, and
 * is behind it all the same. */
START_TEST(a_follower_that_lacks_a_trimmed_epoch_record_only_gets_a_checkpoint) {
  static uint8_t big[62000]; /* larger than a segment: it begins one */
  struct block_header like = {.need = sim_async, .commit_count = 1};
  struct wal_block *b;
  struct wal_stat st;
  dw_lsn oldest;
  copy_blocks(&p, &f, UINT64_MAX);
  struct wal_pos applied = end_of(&f);
  start_epoch(&p, 3, 3);
  ck_assert_int_eq(wal_block_create(&like, big, sizeof big, 0, &b), DW_OK);
  ck_assert_int_eq(wal_append(p.wal, &b, 1, 3, 0), DW_OK);
  wal_block_unref(b);
  ck_assert_int_eq(wal_trim(p.wal, applied.lsn, &oldest), DW_OK);
  wal_stat(p.wal, &st);
  ck_assert_uint_eq(st.oldest.lsn, applied.lsn);
  ck_assert_uint_eq(st.oldest.epoch, 3);
  struct position_decision d = decide(&applied, NULL);
  ck_assert_msg(d.kind == POSITION_BOOTSTRAP, "%s", d.text);
}
END_TEST

START_TEST(a_trimmed_log_offers_a_checkpoint_or_refuses_by_the_epochs) {
  copy_blocks(&p, &f, 50);
  struct wal_pos applied = end_of(&f);
  dw_lsn oldest;
  ck_assert_int_eq(wal_trim(p.wal, 150, &oldest), DW_OK);
  ck_assert_uint_gt(oldest, 51);
  ck_assert_int_eq(decide(&applied, NULL).kind, POSITION_BOOTSTRAP);
  for (uint64_t i = 0; i < 60; i++) write_block(&f, 1, 1, 7777 + i); /* up to 110; epoch 1 ended at 100 */
  applied = end_of(&f);
  struct position_decision d = decide(&applied, NULL);
  ck_assert_int_eq(d.kind, POSITION_REFUSE);
  ck_assert_int_eq(d.code, DW_DIVERGED);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication_position_wal");
  TCase *t = tcase_create("on disk");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, every_boundary_of_a_log_on_disk_can_be_followed);
  tcase_add_test(t, a_lost_tail_is_cut_to_the_common_boundary_and_then_followed);
  tcase_add_test(t, two_writers_of_one_epoch_meet_at_the_epoch_before);
  tcase_add_test(t, what_was_not_asked_about_yet_is_asked_about_although_it_has_the_same_lsn_and_epoch);
  tcase_add_test(t, a_follower_that_lacks_a_trimmed_epoch_record_only_gets_a_checkpoint);
  tcase_add_test(t, a_trimmed_log_offers_a_checkpoint_or_refuses_by_the_epochs);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
