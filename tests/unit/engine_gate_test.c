/* The commit gate: what may be acknowledged, block by block. */
#include <stdlib.h>

#include "tests/support/check_main.h"
#include "engine/commit_gate.h"

#define MS 1000000ull
static struct commit_gate gate;

static void setup(void) {
  gate_init(&gate, 0, 100 * MS);
}
static void teardown(void) {
  gate_free(&gate);
}

static struct block_need need(int mode, int ack, int acks, int durability) {
  return (struct block_need){
      .mode = (uint8_t)mode, .ack = (uint8_t)ack, .acks = (uint16_t)acks, .durability = (uint8_t)durability};
}

static void push(dw_lsn last, struct block_need n, uint64_t deadline) {
  ck_assert_int_eq(gate_reserve(&gate, 1), DW_OK);
  gate_push(&gate, &(struct gate_entry){.last_lsn = last, .commits = 1, .need = n, .deadline_ns = deadline});
}

static void marks(uint32_t connected, dw_lsn received, dw_lsn durable, dw_lsn applied) {
  struct ack_marks m = {.connected = connected, .known = connected};
  for (uint32_t i = 0; i < connected; i++) {
    m.mark[LEVEL_RECEIVED][i] = received;
    m.mark[LEVEL_DURABLE][i] = durable;
    m.mark[LEVEL_APPLIED][i] = applied;
  }
  gate_marks(&gate, &m);
}

START_TEST(an_async_os_block_commits_once_written_and_a_disk_block_once_durable) {
  push(1, need(DW_ASYNC, DW_ACK_DURABLE, 0, DW_DURABILITY_OS), UINT64_MAX);
  push(2, need(DW_ASYNC, DW_ACK_DURABLE, 0, DW_DURABILITY_DISK), UINT64_MAX);
  gate_advance(&gate, 0);
  ck_assert_uint_eq(gate.commit, 0);
  gate_local(&gate, 2, 0, 0);
  gate_advance(&gate, 0);
  ck_assert_uint_eq(gate.commit, 1);
  gate_local(&gate, 2, 2, 0);
  gate_advance(&gate, 0);
  ck_assert_uint_eq(gate.commit, 2);
}
END_TEST

START_TEST(a_sync_block_waits_for_its_followers_and_holds_back_what_stands_behind_it) {
  push(1, need(DW_SYNC, DW_ACK_DURABLE, 2, DW_DURABILITY_OS), 10 * MS);
  push(2, need(DW_ASYNC, DW_ACK_DURABLE, 0, DW_DURABILITY_OS), UINT64_MAX);
  gate_local(&gate, 2, 2, 0);
  marks(1, 2, 2, 2);
  gate_advance(&gate, 1000 * MS); /* time does not help in sync mode */
  ck_assert_uint_eq(gate.commit, 0);
  marks(2, 2, 0, 0); /* received is not durable */
  gate_advance(&gate, 0);
  ck_assert_uint_eq(gate.commit, 0);
  marks(2, 2, 1, 0);
  gate_advance(&gate, 0);
  ck_assert_uint_eq(gate.commit, 2);
}
END_TEST

START_TEST(the_received_level_asks_for_less_and_the_applied_level_commits_on_durable_acks) {
  push(1, need(DW_SYNC, DW_ACK_RECEIVED, 1, DW_DURABILITY_OS), UINT64_MAX);
  push(2, need(DW_SYNC, DW_ACK_APPLIED, 1, DW_DURABILITY_OS), UINT64_MAX);
  gate_local(&gate, 2, 2, 0);
  marks(1, 2, 0, 0);
  gate_advance(&gate, 0);
  ck_assert_uint_eq(gate.commit, 1);
  marks(1, 2, 2, 0);
  gate_advance(&gate, 0);
  ck_assert_uint_eq(gate.commit, 2);
  struct block_need applied = need(DW_SYNC, DW_ACK_APPLIED, 1, DW_DURABILITY_OS);
  ck_assert(!gate_acked(&gate, &applied, 2));
  marks(1, 2, 2, 2);
  ck_assert(gate_acked(&gate, &applied, 2));
}
END_TEST

START_TEST(commit_never_moves_back_when_followers_are_lost) {
  push(1, need(DW_SYNC, DW_ACK_DURABLE, 1, DW_DURABILITY_OS), UINT64_MAX);
  gate_local(&gate, 1, 1, 0);
  marks(1, 1, 1, 1);
  gate_advance(&gate, 0);
  ck_assert_uint_eq(gate.commit, 1);
  marks(0, 0, 0, 0);
  gate_advance(&gate, 0);
  ck_assert_uint_eq(gate.commit, 1);
}
END_TEST

START_TEST(semi_sync_degrades_at_its_deadline_counts_and_returns_once_followers_caught_up) {
  struct block_need semi = need(DW_SEMI_SYNC, DW_ACK_DURABLE, 1, DW_DURABILITY_OS);
  push(1, semi, 50 * MS);
  gate_local(&gate, 1, 1, 0);
  ck_assert_uint_eq(gate_advance(&gate, 49 * MS), 0);
  ck_assert_uint_eq(gate.commit, 0);
  ck_assert_uint_eq(gate_next_deadline(&gate), 50 * MS);
  ck_assert_uint_eq(gate_advance(&gate, 50 * MS), GATE_DEGRADED);
  ck_assert_uint_eq(gate.commit, 1);
  ck_assert(gate_is_degraded(&gate, &semi));
  push(2, semi, 500 * MS); /* no waiting while degraded */
  gate_local(&gate, 2, 2, 60 * MS);
  gate_advance(&gate, 60 * MS);
  ck_assert_uint_eq(gate.commit, 2);
  ck_assert_uint_eq(gate.degraded_commits, 2);
  ck_assert_uint_eq(gate.degraded_count, 1);
  marks(1, 1, 1, 1); /* back, but behind */
  ck_assert_uint_eq(gate_advance(&gate, 70 * MS), 0);
  ck_assert(gate_is_degraded(&gate, &semi));
  marks(1, 2, 2, 2);
  ck_assert_uint_eq(gate_advance(&gate, 80 * MS), GATE_RECOVERED);
  ck_assert(!gate_is_degraded(&gate, &semi));
  ck_assert_uint_eq(gate.degraded_pairs, 0);
}
END_TEST

START_TEST(under_steady_writes_caught_up_means_acks_within_the_window) {
  struct block_need semi = need(DW_SEMI_SYNC, DW_ACK_DURABLE, 1, DW_DURABILITY_OS);
  push(1, semi, 0);
  gate_local(&gate, 1, 1, 1 * MS);
  gate_advance(&gate, 1 * MS);
  ck_assert(gate_is_degraded(&gate, &semi));
  uint64_t now = 1 * MS;
  dw_lsn lsn = 1;
  /* The follower is always 150 ms behind: longer than the 100 ms window. One commit a millisecond. */
  for (; lsn < 400; lsn++, now += MS) {
    gate_local(&gate, lsn, lsn, now);
    dw_lsn behind = lsn > 150 ? lsn - 150 : 0;
    marks(1, behind, behind, behind);
    gate_advance(&gate, now);
    ck_assert(gate_is_degraded(&gate, &semi));
  }
  /* Now 20 ms behind, never equal to the end: that is semi-sync's normal life. */
  for (int i = 0; i < 10; i++, lsn++, now += MS) {
    gate_local(&gate, lsn, lsn, now);
    marks(1, lsn - 20, lsn - 20, lsn - 20);
    gate_advance(&gate, now);
  }
  ck_assert(!gate_is_degraded(&gate, &semi));
}
END_TEST

START_TEST(a_write_that_asks_for_too_many_followers_does_not_degrade_the_others) {
  struct block_need two = need(DW_SEMI_SYNC, DW_ACK_DURABLE, 2, DW_DURABILITY_OS);
  struct block_need one = need(DW_SEMI_SYNC, DW_ACK_DURABLE, 1, DW_DURABILITY_OS);
  push(1, two, 10 * MS);
  gate_local(&gate, 1, 1, 0);
  marks(1, 1, 1, 1);
  gate_advance(&gate, 10 * MS);
  ck_assert(gate_is_degraded(&gate, &two));
  ck_assert(!gate_is_degraded(&gate, &one));
}
END_TEST

START_TEST(the_ring_of_entries_grows_and_wraps_without_losing_order) {
  dw_lsn pushed = 0;
  for (int round = 0; round < 50; round++) {
    for (int i = 0; i < 37; i++) push(++pushed, need(DW_ASYNC, DW_ACK_DURABLE, 0, DW_DURABILITY_OS), UINT64_MAX);
    dw_lsn upto = pushed - (dw_lsn)(round % 11);
    gate_local(&gate, upto, 0, 0);
    gate_advance(&gate, 0);
    ck_assert_uint_eq(gate.commit, upto);
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("commit gate");
  TCase *t = tcase_create("gate");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, an_async_os_block_commits_once_written_and_a_disk_block_once_durable);
  tcase_add_test(t, a_sync_block_waits_for_its_followers_and_holds_back_what_stands_behind_it);
  tcase_add_test(t, the_received_level_asks_for_less_and_the_applied_level_commits_on_durable_acks);
  tcase_add_test(t, commit_never_moves_back_when_followers_are_lost);
  tcase_add_test(t, semi_sync_degrades_at_its_deadline_counts_and_returns_once_followers_caught_up);
  tcase_add_test(t, under_steady_writes_caught_up_means_acks_within_the_window);
  tcase_add_test(t, a_write_that_asks_for_too_many_followers_does_not_degrade_the_others);
  tcase_add_test(t, the_ring_of_entries_grows_and_wraps_without_losing_order);
  suite_add_tcase(s, t);
  return check_main(s);
}
