/* Where a follower continues: every case of replication/position.h. */
#include <check.h>
#include <stdlib.h>

#include "tests/support/repl_sim.h"

static struct memlog ours;
static struct epoch_record epochs[4];
static size_t epoch_count;
static bool relay;

/* Epoch 1: LSN 1-10, epoch 2: 11-20, epoch 3: 21-30; a block each. */
static void setup(void) {
  struct hash128 cluster = sim_id(7);
  memlog_init(&ours, &cluster, NULL);
  epoch_count = 0;
  relay = false;
  for (uint64_t e = 1; e <= 3; e++) {
    epochs[epoch_count++] = (struct epoch_record){.epoch = e, .start = ours.end};
    memlog_write(&ours, e, 0, 80, sim_async, e, 0);
    for (int i = 0; i < 10; i++) memlog_write(&ours, e, 1, 80, sim_async, e * 100 + (uint64_t)i, 0);
  }
}
static void teardown(void) {
  memlog_free(&ours);
}

/* The boundary after the block of that LSN, in our log. */
static struct wal_pos at_lsn(dw_lsn lsn) {
  struct wal_pos p = {0};
  for (size_t i = 0; i <= ours.n; i++) {
    struct wal_pos b = i < ours.n ? ours.bounds[i] : ours.end;
    if (b.lsn == lsn && (p.lsn != lsn || p.epoch == b.epoch)) p = b;
  }
  return p;
}

static struct msg_hello at(struct wal_pos tail, struct wal_pos applied) {
  return (struct msg_hello){
      .cluster_id = ours.cluster, .node_id = 2, .tail = tail, .applied = applied, .at = tail, .role = DW_FOLLOWER};
}

static struct position_decision decide(const struct msg_hello *h) {
  struct position_decision d = {0};
  struct position_log log = {.find = memlog_find,
                             .at_most = memlog_at_most,
                             .ctx = &ours,
                             .oldest = memlog_bound(&ours, ours.first),
                             .tail = ours.end,
                             .epochs = epochs,
                             .epoch_count = epoch_count,
                             .cluster_id = ours.cluster,
                             .relay = relay};
  ck_assert_int_eq(position_decide(&log, h, &d), DW_OK);
  return d;
}

static struct wal_pos other(dw_lsn lsn, uint64_t epoch) {
  return (struct wal_pos){lsn, epoch, sim_id(lsn * 7 + epoch)};
}

#define EXPECT(d, k, c)                                                                                                \
  do {                                                                                                                 \
    ck_assert_int_eq((d).kind, k);                                                                                     \
    ck_assert_int_eq((d).which, c);                                                                                    \
  } while (0)

START_TEST(a_new_follower_starts_at_genesis_or_from_a_checkpoint) {
  struct msg_hello h = {.node_id = 2};
  struct position_decision d = decide(&h);
  EXPECT(d, POSITION_STREAM, 'A');
  ck_assert_uint_eq(d.pos.lsn, 0);
  h = at(wal_genesis(&ours.cluster), wal_genesis(&ours.cluster));
  EXPECT(decide(&h), POSITION_STREAM, 'A');
  memlog_trim(&ours, 3);
  EXPECT(decide(&h), POSITION_BOOTSTRAP, 'A');
  h = (struct msg_hello){.node_id = 2};
  EXPECT(decide(&h), POSITION_BOOTSTRAP, 'A');
  h = at(other(0, 0), other(0, 0));
  d = decide(&h);
  EXPECT(d, POSITION_REFUSE, 'A');
  ck_assert_int_eq(d.code, DW_DIVERGED);
}
END_TEST

START_TEST(a_boundary_of_ours_streams_from_there) {
  for (dw_lsn l = 1; l <= 30; l++) {
    struct msg_hello h = at(at_lsn(l), at_lsn(1));
    struct position_decision d = decide(&h);
    EXPECT(d, POSITION_STREAM, 'D');
    ck_assert_uint_eq(d.pos.lsn, l);
  }
}
END_TEST

START_TEST(boundaries_that_share_an_lsn_are_told_apart_by_their_chain) {
  struct wal_pos before = epochs[1].start, after = ours.bounds[12]; /* around epoch 2's block, both LSN 10 */
  ck_assert_uint_eq(before.lsn, after.lsn);
  struct msg_hello h = at(before, before);
  struct position_decision d = decide(&h);
  ck_assert(hash128_eq(&d.pos.chain, &before.chain));
  h = at(after, before);
  d = decide(&h);
  ck_assert(hash128_eq(&d.pos.chain, &after.chain));
}
END_TEST

START_TEST(an_older_boundary_asked_about_is_cut_to_if_nothing_applied_lies_beyond) {
  struct msg_hello h = at(other(25, 2), at_lsn(5));
  h.at = at_lsn(8);
  struct position_decision d = decide(&h);
  EXPECT(d, POSITION_TRUNCATE, 'D');
  ck_assert_uint_eq(d.pos.lsn, 8);
  h.applied = at_lsn(9);
  d = decide(&h);
  EXPECT(d, POSITION_REFUSE, 'G');
}
END_TEST

START_TEST(a_tail_of_a_past_epoch_that_we_do_not_have_is_cut_to_where_that_epoch_ended) {
  struct msg_hello h = at(other(15, 1), at_lsn(10)); /* 11-15 of epoch 1 were lost with the old primary */
  struct position_decision d = decide(&h);
  EXPECT(d, POSITION_TRUNCATE, 'F');
  ck_assert_uint_eq(d.pos.lsn, 10);
  ck_assert_uint_eq(d.pos.epoch, 1);
  h.applied = other(12, 1);
  d = decide(&h);
  EXPECT(d, POSITION_REFUSE, 'G');
  ck_assert_int_eq(d.code, DW_DIVERGED);
  ck_assert_uint_eq(d.lsn, 11);
}
END_TEST

START_TEST(what_was_applied_must_be_at_or_before_the_cut) {
  struct msg_hello h = at(other(8, 1), at_lsn(8));
  EXPECT(decide(&h), POSITION_TRUNCATE, 'F');
  h = at(other(15, 1), at_lsn(12)); /* applied something of epoch 2, tail of epoch 1: nonsense, refused */
  EXPECT(decide(&h), POSITION_REFUSE, 'G');
}
END_TEST

START_TEST(a_follower_that_applied_beyond_our_end_is_refused_with_both_ends) {
  struct msg_hello h = at(other(40, 3), other(35, 3));
  struct position_decision d = decide(&h);
  EXPECT(d, POSITION_REFUSE, 'G');
  ck_assert_uint_eq(d.lsn, 31);
  ck_assert_ptr_nonnull(strstr(d.text, "applied up to LSN 35"));
  ck_assert_ptr_nonnull(strstr(d.text, "ends at LSN 30"));
  h.applied = at_lsn(30); /* ahead in unapplied tail only */
  d = decide(&h);
  EXPECT(d, POSITION_TRUNCATE, 'F');
  ck_assert_uint_eq(d.pos.lsn, 30);
}
END_TEST

START_TEST(a_newer_epoch_than_ours_means_we_are_the_old_primary) {
  struct msg_hello h = at(other(25, 4), at_lsn(20));
  struct position_decision d = decide(&h);
  EXPECT(d, POSITION_REFUSE, 'C');
  ck_assert_int_eq(d.code, DW_DIVERGED);
  ck_assert_ptr_nonnull(strstr(d.text, "not the newest primary"));
}
END_TEST

START_TEST(a_relay_that_is_behind_asks_for_patience) {
  relay = true;
  struct msg_hello h = at(other(25, 4), at_lsn(20));
  struct position_decision d = decide(&h);
  EXPECT(d, POSITION_REFUSE, 'B');
  ck_assert_int_eq(d.code, DW_STALE);
  h = at(other(31, 3), at_lsn(20));
  EXPECT(decide(&h), POSITION_REFUSE, 'B');
  h = at(at_lsn(30), at_lsn(20));
  EXPECT(decide(&h), POSITION_STREAM, 'D');
}
END_TEST

START_TEST(a_trimmed_position_on_the_epoch_history_gets_a_checkpoint) {
  struct wal_pos p5 = at_lsn(5), p10 = epochs[1].start, p15 = at_lsn(15);
  memlog_trim(&ours, 25); /* inside epoch 3 */
  struct msg_hello h = at(p5, p5);
  EXPECT(decide(&h), POSITION_BOOTSTRAP, 'E');
  h = at(p10, p10);
  EXPECT(decide(&h), POSITION_BOOTSTRAP, 'E');
  h = at(p15, p5);
  struct position_decision d = decide(&h);
  EXPECT(d, POSITION_BOOTSTRAP, 'E');
  ck_assert_uint_eq(d.pos.lsn, 5); /* all that is sure of what it holds */
}
END_TEST

START_TEST(the_end_of_an_epoch_is_known_where_the_log_begins_right_behind_the_next_ones_record) {
  struct wal_pos p20 = epochs[2].start;
  memlog_trim(&ours, 23); /* epoch 3's own record is gone: the log begins at LSN 20, in epoch 3 */
  ck_assert_uint_eq(memlog_bound(&ours, ours.first).lsn, p20.lsn);
  struct msg_hello h = at(p20, p20);
  EXPECT(decide(&h), POSITION_BOOTSTRAP, 'E');
  h = at(other(20, 2), other(20, 2)); /* the same LSN and epoch, but another chain than ours there */
  EXPECT(decide(&h), POSITION_REFUSE, 'G');
  h = at(other(20, 3), other(20, 3));
  EXPECT(decide(&h), POSITION_REFUSE, 'G');
}
END_TEST

START_TEST(a_new_follower_gets_a_checkpoint_where_only_the_first_epochs_record_is_trimmed) {
  struct msg_hello h = {.node_id = 2};
  memlog_trim(&ours, 1);
  EXPECT(decide(&h), POSITION_BOOTSTRAP, 'A');
}
END_TEST

START_TEST(a_trimmed_position_off_the_epoch_history_is_refused_and_nothing_is_deleted) {
  memlog_trim(&ours, 25);
  struct msg_hello h = at(other(12, 1), other(12, 1)); /* epoch 1 ended at 10 */
  struct position_decision d = decide(&h);
  EXPECT(d, POSITION_REFUSE, 'G');
  ck_assert_int_eq(d.code, DW_DIVERGED);
  ck_assert_uint_eq(d.lsn, 11);
  h = at(other(5, 2), other(5, 2)); /* before epoch 2 began */
  EXPECT(decide(&h), POSITION_REFUSE, 'G');
  h = at(other(10, 1), other(10, 1)); /* the last of epoch 1, but another chain than ours there */
  EXPECT(decide(&h), POSITION_REFUSE, 'G');
  epoch_count = 2; /* a history that has forgotten epoch 1 can't vouch for it */
  epochs[0] = epochs[1], epochs[1] = epochs[2];
  h = at(other(5, 1), other(5, 1));
  EXPECT(decide(&h), POSITION_REFUSE, 'G');
}
END_TEST

START_TEST(an_unapplied_tail_off_our_history_does_not_bar_a_checkpoint) {
  struct wal_pos p5 = at_lsn(5);
  memlog_trim(&ours, 25);
  struct msg_hello h = at(other(12, 1), p5);
  EXPECT(decide(&h), POSITION_BOOTSTRAP, 'E');
  h = at(other(28, 2), p5); /* beyond the oldest held, but parted before it */
  EXPECT(decide(&h), POSITION_BOOTSTRAP, 'F');
}
END_TEST

#define PARTED(d, at)                                                                                                  \
  do {                                                                                                                 \
    const struct wal_pos at_ = (at);                                                                                   \
    ck_assert_uint_eq((d).parted.lsn, at_.lsn);                                                                        \
    ck_assert(hash128_eq(&(d).parted.chain, &at_.chain));                                                              \
  } while (0)

START_TEST(who_asks_to_rejoin_gets_a_checkpoint_and_is_told_where_histories_part) {
  struct msg_hello h = at(other(15, 1), other(12, 1));
  h.rejoin = true;
  struct position_decision d = decide(&h);
  EXPECT(d, POSITION_BOOTSTRAP, 'G');
  PARTED(d, at_lsn(10));
  ck_assert_uint_eq(d.parted.epoch, 1);
  h = at(other(40, 3), other(35, 3)); /* beyond our end, in our own epoch */
  h.rejoin = true;
  d = decide(&h);
  EXPECT(d, POSITION_BOOTSTRAP, 'G');
  PARTED(d, ours.end);
  h = at(other(25, 2), at_lsn(9)); /* it asked about an older boundary */
  h.at = at_lsn(8);
  h.rejoin = true;
  d = decide(&h);
  EXPECT(d, POSITION_BOOTSTRAP, 'G');
  PARTED(d, at_lsn(8));
}
END_TEST

START_TEST(where_the_parting_is_trimmed_the_epochs_tell_it) {
  struct wal_pos end_1 = epochs[1].start, end_2 = epochs[2].start, genesis = wal_genesis(&ours.cluster);
  memlog_trim(&ours, 25);
  struct msg_hello h = at(other(12, 1), other(12, 1));
  h.rejoin = true;
  struct position_decision d = decide(&h);
  EXPECT(d, POSITION_BOOTSTRAP, 'G');
  PARTED(d, end_1);
  h = at(other(28, 2), other(27, 2));
  h.rejoin = true;
  d = decide(&h);
  EXPECT(d, POSITION_BOOTSTRAP, 'G');
  PARTED(d, end_2);
  epoch_count = 1; /* nothing is known of older ones */
  epochs[0] = epochs[2];
  h = at(other(5, 1), other(5, 1));
  h.rejoin = true;
  d = decide(&h);
  EXPECT(d, POSITION_BOOTSTRAP, 'G');
  PARTED(d, genesis);
}
END_TEST

/* An old primary lost the end of epoch 1 with its power and went on in an epoch of its own; ours went on to LSN 20 in
 * epoch
 * 1. Its end lies below that, so it looks like a place in our part of epoch 1, and is none. */
START_TEST(an_epoch_that_is_not_ours_parts_within_the_one_before_it_and_not_at_its_own_end) {
  teardown();
  struct hash128 cluster = sim_id(7);
  memlog_init(&ours, &cluster, NULL);
  epoch_count = 0;
  for (uint64_t e = 1; e <= 5; e += 4) {
    epochs[epoch_count++] = (struct epoch_record){.epoch = e, .start = ours.end};
    memlog_write(&ours, e, 0, 80, sim_async, e, 0);
    for (int i = 0; i < 20; i++) memlog_write(&ours, e, 1, 80, sim_async, e * 100 + (uint64_t)i, 0);
  }
  for (int trimmed = 0; trimmed < 2; trimmed++) {
    struct msg_hello h = at(other(15, 2), other(15, 2)); /* LSN 12 to 15 are of its epoch 2 */
    h.rejoin = true;
    struct position_decision d = decide(&h);
    EXPECT(d, POSITION_BOOTSTRAP, 'G');
    ck_assert_uint_eq(d.parted.lsn, 15);
    ck_assert_uint_eq(d.parted.epoch, 1); /* so it looks for the end of its own part of epoch 1 */
    ck_assert(!hash128_zero(&d.parted.chain));
    ck_assert(!hash128_eq(&d.parted.chain, &h.tail.chain)); /* it would keep nothing of what is only there */
    memlog_trim(&ours, 30);
  }
}
END_TEST

START_TEST(a_tail_that_a_checkpoint_replaces_is_told_also_without_a_rejoin) {
  struct wal_pos p5 = at_lsn(5), end_1 = epochs[1].start;
  memlog_trim(&ours, 25);
  struct msg_hello h = at(other(12, 1), p5);
  struct position_decision d = decide(&h);
  EXPECT(d, POSITION_BOOTSTRAP, 'E');
  PARTED(d, end_1);
  ck_assert_uint_eq(d.pos.lsn, 5);
  h = at(p5, p5); /* all of it is ours: nothing parts */
  d = decide(&h);
  EXPECT(d, POSITION_BOOTSTRAP, 'E');
  ck_assert(hash128_zero(&d.parted.chain));
}
END_TEST

START_TEST(asking_to_rejoin_changes_nothing_where_there_is_nothing_to_part_with) {
  struct msg_hello h = at(at_lsn(30), at_lsn(20));
  h.rejoin = true;
  EXPECT(decide(&h), POSITION_STREAM, 'D');
  h = at(other(15, 1), at_lsn(10));
  h.rejoin = true;
  EXPECT(decide(&h), POSITION_TRUNCATE, 'F');
  h = at(other(25, 4), at_lsn(20)); /* and an old primary replaces nobody of a newer epoch */
  h.rejoin = true;
  EXPECT(decide(&h), POSITION_REFUSE, 'C');
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication_position");
  TCase *t = tcase_create("position");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, a_new_follower_starts_at_genesis_or_from_a_checkpoint);
  tcase_add_test(t, who_asks_to_rejoin_gets_a_checkpoint_and_is_told_where_histories_part);
  tcase_add_test(t, where_the_parting_is_trimmed_the_epochs_tell_it);
  tcase_add_test(t, an_epoch_that_is_not_ours_parts_within_the_one_before_it_and_not_at_its_own_end);
  tcase_add_test(t, a_tail_that_a_checkpoint_replaces_is_told_also_without_a_rejoin);
  tcase_add_test(t, asking_to_rejoin_changes_nothing_where_there_is_nothing_to_part_with);
  tcase_add_test(t, a_boundary_of_ours_streams_from_there);
  tcase_add_test(t, boundaries_that_share_an_lsn_are_told_apart_by_their_chain);
  tcase_add_test(t, an_older_boundary_asked_about_is_cut_to_if_nothing_applied_lies_beyond);
  tcase_add_test(t, a_tail_of_a_past_epoch_that_we_do_not_have_is_cut_to_where_that_epoch_ended);
  tcase_add_test(t, what_was_applied_must_be_at_or_before_the_cut);
  tcase_add_test(t, a_follower_that_applied_beyond_our_end_is_refused_with_both_ends);
  tcase_add_test(t, a_newer_epoch_than_ours_means_we_are_the_old_primary);
  tcase_add_test(t, a_relay_that_is_behind_asks_for_patience);
  tcase_add_test(t, a_trimmed_position_on_the_epoch_history_gets_a_checkpoint);
  tcase_add_test(t, the_end_of_an_epoch_is_known_where_the_log_begins_right_behind_the_next_ones_record);
  tcase_add_test(t, a_new_follower_gets_a_checkpoint_where_only_the_first_epochs_record_is_trimmed);
  tcase_add_test(t, a_trimmed_position_off_the_epoch_history_is_refused_and_nothing_is_deleted);
  tcase_add_test(t, an_unapplied_tail_off_our_history_does_not_bar_a_checkpoint);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
