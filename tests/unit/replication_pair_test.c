/* Shipper and receiver together, over a network that fragments, cuts and swallows. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/repl_sim.h"

static struct sim sim;
static void setup(void) {
  sim_init(&sim, 42);
}
static void teardown(void) {
  sim_free(&sim);
}

START_TEST(a_new_follower_adopts_the_cluster_and_gets_the_whole_log) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  for (int i = 0; i < 100; i++) sim_write(p, sim_async, 100);
  sim_pass(&sim, 100);
  ck_assert(f->has_cluster);
  ck_assert(sim_equal(f, p));
  ck_assert_uint_eq(f->applied.lsn, 100);
  ck_assert_int_eq(receiver_state(f->recv), DW_PEER_STREAMING);
  ck_assert_int_eq(shipper_state(f->link.ship), DW_PEER_STREAMING);
  sim_write(p, sim_async, 100);
  sim_run(&sim);
  ck_assert(sim_equal(f, p));
}
END_TEST

START_TEST(frames_arrive_whole_from_single_bytes) {
  sim.fragment = 1;
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  for (int i = 0; i < 20; i++) sim_write(p, sim_durable, 300);
  sim_pass(&sim, 10);
  ck_assert(sim_equal(f, p));
  ck_assert_uint_eq(sim_known(p, 2)->durable, 20);
}
END_TEST

/* Bytes that a follower needed for 200 small blocks. */
static uint64_t bytes_for(uint64_t pack_rate) {
  sim.pack_rate = pack_rate;
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  for (int i = 0; i < 200; i++) {
    sim_write(p, sim_async, 50);
    if (i % 5 == 0) sim_run(&sim);
  }
  sim_pass(&sim, 50);
  ck_assert(sim_equal(f, p));
  uint64_t bytes = shipper_sent_bytes(f->link.ship);
  sim_free(&sim);
  sim_init(&sim, 42);
  return bytes;
}

START_TEST(small_blocks_travel_without_what_the_other_side_knows) {
  uint64_t packed = bytes_for(1u << 30), plain = bytes_for(0), some = bytes_for(1u << 20);
  ck_assert_msg(2 * packed < plain, "%llu bytes packed, %llu as they are", (unsigned long long)packed,
                (unsigned long long)plain);
  ck_assert_uint_le(some, plain);
}
END_TEST

START_TEST(blocks_that_wait_for_durability_are_synced_and_acked_at_once) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  sim_pass(&sim, 100);
  unsigned syncs = f->syncs;
  sim_write(p, sim_durable, 100);
  sim_run(&sim); /* the clock stands still */
  ck_assert_uint_eq(f->syncs, syncs + 1);
  ck_assert_uint_eq(sim_known(p, 2)->durable, 1);
  ck_assert_uint_eq(p->marks.mark[LEVEL_DURABLE][0], 1);
}
END_TEST

START_TEST(blocks_nobody_waits_for_are_synced_within_twenty_milliseconds) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  sim_pass(&sim, 100);
  unsigned syncs = f->syncs;
  sim_write(p, sim_async, 100);
  sim_run(&sim);
  ck_assert_uint_eq(f->log.end.lsn, 1);
  ck_assert_uint_eq(f->syncs, syncs);
  sim_pass(&sim, 25);
  ck_assert_uint_eq(f->syncs, syncs + 1);
  ck_assert_uint_eq(sim_known(p, 2)->durable, 1);
  for (int i = 0; i < 5; i++) sim_write(p, sim_async, 1048576);
  sim_run(&sim); /* 4 MiB are enough */
  ck_assert_uint_gt(f->syncs, syncs + 1);
}
END_TEST

START_TEST(a_received_ack_goes_out_before_the_sync_ends) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  sim_pass(&sim, 100);
  f->hold_sync = true;
  sim_write(p, sim_received, 100);
  sim_run(&sim);
  ck_assert(f->sync_open);
  ck_assert_uint_eq(sim_known(p, 2)->received, 1);
  ck_assert_uint_eq(sim_known(p, 2)->durable, 0);
  sim_end_sync(f);
  sim_run(&sim);
  ck_assert_uint_eq(sim_known(p, 2)->durable, 1);
}
END_TEST

START_TEST(blocks_that_arrive_during_a_sync_share_the_next_one) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  sim_pass(&sim, 100);
  f->hold_sync = true;
  sim_write(p, sim_durable, 100);
  sim_run(&sim);
  unsigned syncs = f->syncs, appends = f->appends;
  for (int i = 0; i < 10; i++) {
    sim_write(p, sim_durable, 100);
    sim_run(&sim);
  }
  ck_assert_uint_eq(f->appends, appends); /* storage answers one question at a time */
  sim_end_sync(f);
  sim_run(&sim);
  ck_assert_uint_eq(f->appends, appends + 1);
  ck_assert_uint_eq(f->syncs, syncs + 1);
  sim_end_sync(f);
  sim_run(&sim);
  ck_assert_uint_eq(sim_known(p, 2)->durable, 11);
}
END_TEST

START_TEST(what_an_earlier_connection_left_unsynced_is_synced_when_the_stream_starts) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  for (int i = 0; i < 3; i++) sim_write(p, sim_durable, 100);
  sim_pass(&sim, 100);
  f->durable = 1;
  sim_disconnect(f);
  sim_known(p, 2)->durable = 1;
  unsigned syncs = f->syncs;
  sim_pass(&sim, 1000);
  ck_assert_uint_eq(f->syncs, syncs + 1);
  ck_assert_uint_eq(sim_known(p, 2)->durable, 3);
}
END_TEST

START_TEST(probes_lost_with_their_connections_do_not_use_up_the_table) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  for (int i = 0; i < 100; i++) {
    sim_pass(&sim, 1200);
    f->link.hole_up = true;
    sim_pass(&sim, 300);
    f->link.hole_up = false;
    sim_disconnect(f);
  }
  sim_pass(&sim, 5000);
  ck_assert_uint_le(receiver_staleness_ns(f->recv, sim.now), 100 * SIM_MS);
}
END_TEST

START_TEST(the_applied_mark_is_acked_at_once_when_somebody_waits_for_it) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  p->sync_commit = true;
  sim_pass(&sim, 100);
  sim_write(p, sim_applied, 100);
  sim_run(&sim);
  ck_assert_uint_eq(p->commit, 1);
  ck_assert_uint_eq(f->applied.lsn, 1);
  ck_assert_uint_eq(sim_known(p, 2)->applied, 1);
}
END_TEST

START_TEST(nothing_is_applied_above_commit_lsn) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  p->sync_commit = true;
  f->hold_sync = true;
  sim_pass(&sim, 100);
  sim_end_sync(f);
  for (int i = 0; i < 5; i++) sim_write(p, sim_durable, 100);
  sim_run(&sim);
  ck_assert_uint_eq(f->log.end.lsn, 5);
  ck_assert_uint_eq(f->applied.lsn, 0);
  sim_end_sync(f);
  sim_run(&sim);
  ck_assert_uint_eq(f->applied.lsn, 5);
}
END_TEST

START_TEST(a_lost_ack_is_repeated_with_the_next_heartbeat) {
  struct sim_node *p = sim_primary(&sim, "p", 1);
  sim_follower(&sim, "f", 2, p);
  sim_pass(&sim, 100);
  sim_write(p, sim_durable, 100);
  sim_run(&sim);
  struct quorum_follower *k = sim_known(p, 2);
  k->received = k->durable = k->applied = 0; /* as if the primary had never heard it */
  sim_pass(&sim, 600);
  ck_assert_uint_eq(sim_known(p, 2)->durable, 1);
}
END_TEST

START_TEST(random_cuts_at_any_byte_end_in_equal_logs) {
  sim.fragment = 700;
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p),
                  *g = sim_follower(&sim, "g", 3, p);
  for (int i = 0; i < 300; i++) {
    sim_write(p, sim_draw(&sim, 2) ? sim_durable : sim_async, sim_draw(&sim, 20000));
    if (sim_draw(&sim, 10) == 0) sim_disconnect(sim_draw(&sim, 2) ? f : g);
    if (sim_draw(&sim, 30) == 0) sim_restart(sim_draw(&sim, 2) ? f : g);
    sim_pass(&sim, sim_draw(&sim, 60));
    ck_assert(f->log.n == 0 || sim_is_prefix(f, p));
    ck_assert_uint_le(f->applied.lsn, p->commit);
  }
  sim_pass(&sim, 10000);
  ck_assert(sim_equal(f, p));
  ck_assert(sim_equal(g, p));
  ck_assert_uint_eq(sim_known(p, 2)->durable, 300);
  ck_assert_uint_eq(sim_known(p, 3)->applied, 300);
}
END_TEST

START_TEST(a_half_open_connection_is_noticed_on_both_sides_and_replaced) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  sim_pass(&sim, 100);
  struct shipper *old = f->link.ship;
  ck_assert_ptr_nonnull(old);
  f->link.hole_up = f->link.hole_down = true;
  sim_pass(&sim, 4900);
  ck_assert_uint_eq(f->closes, 0);
  sim_pass(&sim, 200);
  ck_assert_uint_eq(f->closes, 1);
  ck_assert_ptr_nonnull(strstr(f->last_close, "silent"));
  sim_pass(&sim, 1000);
  f->link.hole_up = f->link.hole_down = false;
  sim_pass(&sim, 12000);
  ck_assert_int_eq(receiver_state(f->recv), DW_PEER_STREAMING);
}
END_TEST

START_TEST(a_peer_that_takes_nothing_is_closed_and_costs_bounded_memory) {
  sim.peer_timeout_ms = 60000; /* the follower is patient */
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  sim.peer_timeout_ms = 5000;
  sim_pass(&sim, 100);
  f->link.stuck_down = true;
  for (int i = 0; i < 100; i++) {
    sim_write(p, sim_async, 100000);
    sim_run(&sim);
  }
  ck_assert_uint_gt(f->link.max_unsent, 900000);
  ck_assert_uint_lt(f->link.max_unsent, 1048576 + 262144 + 65536);
  sim_pass(&sim, 5100);
  ck_assert_ptr_nonnull(strstr(p->last_ship_close, "took none"));
  f->link.stuck_down = false;
  sim_pass(&sim, 8000);
  ck_assert(sim_equal(f, p));
}
END_TEST

START_TEST(a_block_bigger_than_the_window_travels_alone) {
  sim.fragment = 65536;
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  sim_write(p, sim_durable, 100);
  sim_write(p, sim_durable, 5000000);
  sim_write(p, sim_durable, 100);
  sim_pass(&sim, 100);
  ck_assert(sim_equal(f, p));
  ck_assert_uint_eq(sim_known(p, 2)->durable, 3);
}
END_TEST

START_TEST(a_wiped_follower_does_not_speak_for_its_predecessor) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  for (int i = 0; i < 10; i++) sim_write(p, sim_durable, 100);
  sim_pass(&sim, 100);
  ck_assert_uint_eq(p->marks.mark[LEVEL_DURABLE][0], 10);
  sim_disconnect(f);
  sim_run(&sim);
  ck_assert_uint_eq(sim_known(p, 2)->durable, 10); /* its disk still holds them */
  memlog_free(&f->log);                            /* now it does not */
  f->has_cluster = false;
  f->incarnation = sim_id(77);
  f->durable = f->commit = 0;
  f->applied = (struct wal_pos){0};
  f->hold_sync = true;
  sim_restart(f);
  sim_pass(&sim, 50);
  ck_assert_uint_eq(p->quorum.count, 1);
  ck_assert_uint_eq(sim_known(p, 2)->durable, 0);
  ck_assert_uint_eq(f->log.end.lsn, 10);
  f->hold_sync = false;
  sim_end_sync(f);
  sim_pass(&sim, 50);
  ck_assert_uint_eq(sim_known(p, 2)->durable, 10); /* now it speaks for itself */
}
END_TEST

START_TEST(another_directory_under_a_connected_node_id_is_refused) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  sim_pass(&sim, 100);
  struct sim_node *g = sim_follower(&sim, "g", 2, p);
  g->incarnation = sim_id(99);
  sim_restart(g);
  sim_pass(&sim, 100);
  ck_assert_int_eq(receiver_state(g->recv), DW_PEER_REFUSED);
  ck_assert_int_eq(g->last_close_code, DW_LOCKED);
  ck_assert_int_eq(receiver_state(f->recv), DW_PEER_STREAMING);
}
END_TEST

START_TEST(a_foreign_cluster_is_refused_and_retried_slowly) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  struct hash128 other = sim_id(8);
  memlog_init(&f->log, &other, NULL);
  memlog_write(&f->log, 1, 3, 100, sim_async, 5, 0);
  f->has_cluster = true;
  f->applied = f->log.end;
  sim_pass(&sim, 100);
  ck_assert_int_eq(f->last_close_code, DW_DIVERGED);
  ck_assert_ptr_nonnull(strstr(f->last_close, "cluster"));
  ck_assert_int_eq(receiver_state(f->recv), DW_PEER_REFUSED);
  ck_assert_uint_ge(f->last_retry_ns, 10000 * SIM_MS - 5 * SIM_MS);
  ck_assert_uint_eq(f->log.end.lsn, 3); /* nothing deleted */
  sim_pass(&sim, 9000);
  ck_assert_uint_eq(f->connects, 1);
  sim_pass(&sim, 8000);
  ck_assert_uint_eq(f->connects, 2);
}
END_TEST

START_TEST(a_node_that_follows_itself_is_told_so) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 1, p);
  f->incarnation = p->incarnation;
  sim_restart(f);
  sim_pass(&sim, 100);
  ck_assert_ptr_nonnull(strstr(f->last_close, "connected to itself"));
  struct sim_node *g = sim_follower(&sim, "g", 1, p);
  sim_pass(&sim, 100);
  ck_assert_int_eq(g->closes, 1);
}
END_TEST

/* Gives f a log that shares `common` commits with p and has `extra` of its own in the same epoch. */
static void fork_log(struct sim_node *p, struct sim_node *f, size_t common, unsigned extra, uint64_t epoch) {
  struct wal_pos base = p->log.base;
  memlog_init(&f->log, &p->log.cluster, &base);
  for (size_t i = 0; i < common; i++) memlog_add(&f->log, wal_block_ref(p->log.blocks[i]));
  for (unsigned i = 0; i < extra; i++) memlog_write(&f->log, epoch, 1, 50, sim_durable, 900 + i, 0);
  f->has_cluster = true;
  f->applied = f->log.bounds[0];
}

START_TEST(an_unapplied_tail_of_a_dead_primary_is_dropped_and_streaming_goes_on) {
  struct sim_node *p = sim_primary(&sim, "p", 1);
  for (int i = 0; i < 10; i++) sim_write(p, sim_async, 100);
  struct sim_node *f = sim_follower(&sim, "f", 2, p);
  fork_log(p, f, 9, 6, 1); /* epoch block + 8 commits shared, then 9..14 that p lost */
  f->applied = memlog_bound(&f->log, 5);
  memlog_truncate(&p->log, 9); /* p came back without them */
  sim_new_epoch(p);
  for (int i = 0; i < 10; i++) sim_write(p, sim_async, 100);
  sim_pass(&sim, 200);
  ck_assert_uint_eq(f->truncates, 1);
  ck_assert(sim_equal(f, p));
  ck_assert_uint_eq(f->closes, 0);
}
END_TEST

START_TEST(a_truncated_follower_loses_the_marks_of_what_it_dropped) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  for (int i = 0; i < 10; i++) sim_write(p, sim_durable, 100);
  sim_pass(&sim, 100);
  f->applied = memlog_bound(&f->log, 5);
  sim_disconnect(f);
  sim_run(&sim);
  ck_assert_uint_eq(sim_known(p, 2)->durable, 10);
  memlog_truncate(&p->log, 8); /* epoch block + 7 commits */
  sim_new_epoch(p);
  f->hold_sync = true;
  sim_pass(&sim, 300);
  ck_assert_uint_eq(f->truncates, 1);
  ck_assert_uint_eq(sim_known(p, 2)->durable, 7);
}
END_TEST

START_TEST(two_writers_of_one_epoch_number_are_told_apart_in_a_few_rounds) {
  struct sim_node *p = sim_primary(&sim, "p", 1);
  for (int i = 0; i < 4; i++) sim_write(p, sim_async, 100);
  struct sim_node *f = sim_follower(&sim, "f", 2, p);
  fork_log(p, f, 5, 0, 1);
  memlog_write(&f->log, 2, 0, 80, sim_async, 31337, 0); /* another epoch 2 */
  for (int i = 0; i < 5; i++) memlog_write(&f->log, 2, 1, 80, sim_async, (uint64_t)i, 0);
  sim_new_epoch(p);
  for (int i = 0; i < 7; i++) sim_write(p, sim_async, 100);
  sim_pass(&sim, 300);
  ck_assert(sim_equal(f, p));
  ck_assert_uint_eq(f->closes, 0);
  ck_assert_uint_eq(f->truncates, 2);
}
END_TEST

START_TEST(a_follower_that_applied_what_the_primary_lost_is_refused_with_the_lsn) {
  struct sim_node *p = sim_primary(&sim, "p", 1);
  for (int i = 0; i < 10; i++) sim_write(p, sim_async, 100);
  struct sim_node *f = sim_follower(&sim, "f", 2, p);
  fork_log(p, f, 9, 6, 1);
  f->applied = memlog_bound(&f->log, 12); /* LSN 11 */
  memlog_truncate(&p->log, 9);
  sim_new_epoch(p);
  for (int i = 0; i < 10; i++) sim_write(p, sim_async, 100);
  sim_pass(&sim, 200);
  ck_assert_int_eq(f->last_close_code, DW_DIVERGED);
  ck_assert_ptr_nonnull(strstr(f->last_close, "since LSN 9"));
  ck_assert_uint_eq(f->log.end.lsn, 14);
  ck_assert_int_eq(receiver_state(f->recv), DW_PEER_REFUSED);
  ck_assert_ptr_nonnull(strstr(receiver_refusal(f->recv), "applied up to LSN 11"));
}
END_TEST

START_TEST(an_old_primary_that_comes_back_gets_no_followers) {
  struct sim_node *p = sim_primary(&sim, "p", 1);
  for (int i = 0; i < 3; i++) sim_write(p, sim_async, 100);
  struct sim_node *f = sim_follower(&sim, "f", 2, p);
  fork_log(p, f, 4, 0, 1);
  memlog_write(&f->log, 5, 0, 80, sim_async, 1, 0); /* it has followed epoch 5 meanwhile */
  sim_pass(&sim, 100);
  ck_assert_int_eq(f->last_close_code, DW_DIVERGED);
  ck_assert_ptr_nonnull(strstr(f->last_close, "not the newest primary"));
  ck_assert_uint_eq(f->truncates, 0);
}
END_TEST

START_TEST(a_follower_beyond_the_trimmed_log_gets_a_checkpoint_and_follows) {
  struct sim_node *p = sim_primary(&sim, "p", 1);
  for (int i = 0; i < 50; i++) sim_write(p, sim_async, 100);
  memlog_trim(&p->log, 40);
  struct sim_node *f = sim_follower(&sim, "f", 2, p);
  sim_pass(&sim, 50);
  for (int i = 0; i < 5; i++) sim_write(p, sim_async, 100); /* it keeps writing */
  sim_pass(&sim, 200);
  ck_assert_uint_eq(f->installs, 1);
  ck_assert_uint_eq(p->checkpoints_dropped, 1);
  ck_assert(sim_equal(f, p));
  ck_assert_uint_eq(f->chunk_bytes_written, 3 * 700001);
  for (unsigned i = 0; i < SIM_FILES; i++) ck_assert(f->held[i]);
}
END_TEST

START_TEST(a_broken_bootstrap_goes_on_where_it_stopped) {
  sim.fragment = 30000;
  struct sim_node *p = sim_primary(&sim, "p", 1);
  for (int i = 0; i < 50; i++) sim_write(p, sim_async, 100);
  p->file_bytes[1] = 9000000;
  p->file_bytes[2] = 3000000;
  memlog_trim(&p->log, 40);
  struct sim_node *f = sim_follower(&sim, "f", 2, p);
  unsigned cuts = 0;
  for (int i = 0; i < 2000 && !f->installs; i++) {
    uint64_t before = f->chunk_bytes_written;
    struct sim_link *l = &f->link;
    l->stuck_down = false;
    /* a little at a time: let at most one output of the shipper through, then cut */
    sim_pass(&sim, 5);
    if (f->chunk_bytes_written > before && cuts < 6 && !f->installs) {
      sim_disconnect(f);
      cuts++;
    }
  }
  sim_pass(&sim, 3000);
  ck_assert_uint_eq(f->installs, 1);
  ck_assert_uint_eq(p->checkpoints_made, 1);
  ck_assert_uint_eq(f->chunk_bytes_written, 12000000); /* not a byte twice */
  ck_assert(sim_equal(f, p));
}
END_TEST

START_TEST(staleness_stays_small_on_an_idle_primary_and_grows_from_the_moment_of_a_cut) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  ck_assert_uint_eq(receiver_staleness_ns(f->recv, sim.now), UINT64_MAX);
  sim_write(p, sim_async, 100);
  sim_pass(&sim, 20000);
  ck_assert_uint_le(receiver_staleness_ns(f->recv, sim.now), 100 * SIM_MS);
  uint64_t cut = sim.now;
  f->link.hole_up = true;
  sim_pass(&sim, 3000);
  uint64_t age = receiver_staleness_ns(f->recv, sim.now);
  ck_assert_uint_ge(age, sim.now - cut);
  ck_assert_uint_le(age, sim.now - cut + 100 * SIM_MS);
}
END_TEST

START_TEST(staleness_counts_what_is_applied_not_what_arrived) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  sim_pass(&sim, 500);
  f->hold_apply = true;
  sim_write(p, sim_async, 100);
  uint64_t wrote = sim.now;
  sim_pass(&sim, 2000);
  ck_assert_uint_ge(receiver_staleness_ns(f->recv, sim.now), sim.now - wrote);
  f->hold_apply = false;
  sim_write(p, sim_async, 100);
  sim_pass(&sim, 200);
  ck_assert_uint_le(receiver_staleness_ns(f->recv, sim.now), 100 * SIM_MS);
}
END_TEST

START_TEST(a_lagging_follower_still_learns_how_old_its_data_is) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  sim_pass(&sim, 500);
  f->hold_apply = true;
  for (int i = 0; i < 60; i++) { /* a minute: far more probes than the table holds */
    sim_write(p, sim_async, 100);
    sim_pass(&sim, 1000);
  }
  dw_lsn back = p->log.end.lsn - 30;
  receiver_applied(f->recv, back, sim.now); /* half a minute behind */
  uint64_t age = receiver_staleness_ns(f->recv, sim.now);
  ck_assert_uint_ge(age, 29000 * SIM_MS);
  ck_assert_uint_le(age, 36000 * SIM_MS);
}
END_TEST

START_TEST(a_strong_read_learns_a_commit_lsn_read_after_it_began) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  sim_pass(&sim, 100);
  for (int i = 0; i < 3; i++) sim_write(p, sim_async, 100);
  uint64_t id = receiver_probe(f->recv, 0, sim.now);
  ck_assert_uint_ne(id, 0);
  p->commit = 3; /* the shipper has not been told */
  sim_run(&sim);
  ck_assert_uint_eq(f->last_done_id, id);
  ck_assert_uint_eq(f->last_done_lsn, 3);
  f->link.hole_up = true;
  id = receiver_probe(f->recv, 0, sim.now);
  ck_assert_uint_ne(id, 0);
  unsigned lost = f->probes_lost;
  sim_disconnect(f);
  sim_run(&sim);
  ck_assert_uint_eq(f->probes_lost, lost + 1);
  ck_assert_uint_eq(receiver_probe(f->recv, 0, sim.now), 0);
}
END_TEST

START_TEST(a_cascaded_follower_is_as_fresh_as_the_primary_says_not_as_its_upstream) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p),
                  *g = sim_follower(&sim, "g", 3, f);
  for (int i = 0; i < 10; i++) sim_write(p, sim_async, 100);
  sim_pass(&sim, 3000);
  ck_assert(sim_equal(g, p));
  ck_assert_uint_eq(g->applied.lsn, 10);
  ck_assert_uint_le(receiver_staleness_ns(g->recv, sim.now), 100 * SIM_MS);
  ck_assert_uint_eq(p->quorum.count, 1);      /* g's acks do not count at the primary */
  f->link.hole_up = f->link.hole_down = true; /* f lives, but knows nothing new */
  sim_pass(&sim, 2000);
  ck_assert_uint_ge(receiver_staleness_ns(g->recv, sim.now), 1900 * SIM_MS);
}
END_TEST

START_TEST(an_upstream_follower_that_is_behind_neither_refuses_for_good_nor_cuts) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p),
                  *g = sim_follower(&sim, "g", 3, p);
  for (int i = 0; i < 5; i++) sim_write(p, sim_async, 100);
  sim_pass(&sim, 100);
  f->upstream_down = true;
  sim_disconnect(f);
  for (int i = 0; i < 5; i++) sim_write(p, sim_async, 100);
  sim_pass(&sim, 100);
  g->upstream = f; /* moved under f, which is five behind */
  sim_disconnect(g);
  sim_pass(&sim, 3000);
  ck_assert_int_eq(g->last_close_code, DW_STALE);
  ck_assert_uint_eq(g->log.end.lsn, 10);
  f->upstream_down = false;
  sim_pass(&sim, 6000);
  ck_assert(sim_equal(g, p));
  ck_assert_int_eq(receiver_state(g->recv), DW_PEER_STREAMING);
}
END_TEST

START_TEST(two_followers_that_follow_each_other_do_not_feed_on_their_own_probes) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p),
                  *g = sim_follower(&sim, "g", 3, p);
  sim_write(p, sim_async, 100);
  sim_pass(&sim, 200);
  f->upstream = g, g->upstream = f;
  sim_disconnect(f);
  sim_disconnect(g);
  uint64_t cut = sim.now;
  sim_pass(&sim, 4000);
  ck_assert_uint_ge(receiver_staleness_ns(f->recv, sim.now), sim.now - cut);
  ck_assert_uint_ge(receiver_staleness_ns(g->recv, sim.now), sim.now - cut);
}
END_TEST

START_TEST(reconnects_back_off_with_jitter_and_start_anew_after_a_steady_stream) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  f->upstream_down = true;
  sim_pass(&sim, 20000);
  ck_assert_uint_ge(f->connects, 11); /* 2 s at most between attempts */
  ck_assert_uint_le(f->connects, 25);
  f->upstream_down = false;
  sim_pass(&sim, 5000);
  ck_assert_int_eq(receiver_state(f->recv), DW_PEER_STREAMING);
  sim_disconnect(f);
  sim_run(&sim);
  ck_assert_uint_le(f->last_retry_ns, 100 * SIM_MS);
  ck_assert_uint_ge(f->last_retry_ns, 50 * SIM_MS);
}
END_TEST

START_TEST(a_failed_append_ends_the_connection_and_is_tried_again) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  sim_pass(&sim, 2000);
  f->fail_append = DW_NO_SPACE;
  sim_write(p, sim_durable, 100);
  sim_run(&sim);
  ck_assert_uint_eq(f->closes, 1);
  ck_assert_ptr_nonnull(strstr(f->last_close, "appending failed"));
  sim_pass(&sim, 300);
  ck_assert(sim_equal(f, p));
}
END_TEST

START_TEST(a_sync_answered_after_its_connection_died_belongs_to_nobody) {
  struct sim_node *p = sim_primary(&sim, "p", 1), *f = sim_follower(&sim, "f", 2, p);
  sim_pass(&sim, 100);
  f->hold_sync = true;
  sim_write(p, sim_durable, 100);
  sim_run(&sim);
  ck_assert(f->sync_open);
  unsigned connects = f->connects;
  sim_disconnect(f);
  sim_pass(&sim, 3000);
  ck_assert_uint_eq(f->connects, connects); /* storage is still at work: no new connection */
  f->hold_sync = false;
  sim_end_sync(f);
  sim_pass(&sim, 300);
  ck_assert_uint_eq(f->connects, connects + 1);
  ck_assert_uint_eq(sim_known(p, 2)->durable, 1);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication_pair");
  TCase *t = tcase_create("pair");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, a_new_follower_adopts_the_cluster_and_gets_the_whole_log);
  tcase_add_test(t, frames_arrive_whole_from_single_bytes);
  tcase_add_test(t, small_blocks_travel_without_what_the_other_side_knows);
  tcase_add_test(t, blocks_that_wait_for_durability_are_synced_and_acked_at_once);
  tcase_add_test(t, blocks_nobody_waits_for_are_synced_within_twenty_milliseconds);
  tcase_add_test(t, a_received_ack_goes_out_before_the_sync_ends);
  tcase_add_test(t, blocks_that_arrive_during_a_sync_share_the_next_one);
  tcase_add_test(t, what_an_earlier_connection_left_unsynced_is_synced_when_the_stream_starts);
  tcase_add_test(t, probes_lost_with_their_connections_do_not_use_up_the_table);
  tcase_add_test(t, the_applied_mark_is_acked_at_once_when_somebody_waits_for_it);
  tcase_add_test(t, nothing_is_applied_above_commit_lsn);
  tcase_add_test(t, a_lost_ack_is_repeated_with_the_next_heartbeat);
  tcase_add_test(t, random_cuts_at_any_byte_end_in_equal_logs);
  tcase_add_test(t, a_half_open_connection_is_noticed_on_both_sides_and_replaced);
  tcase_add_test(t, a_peer_that_takes_nothing_is_closed_and_costs_bounded_memory);
  tcase_add_test(t, a_block_bigger_than_the_window_travels_alone);
  tcase_add_test(t, a_wiped_follower_does_not_speak_for_its_predecessor);
  tcase_add_test(t, another_directory_under_a_connected_node_id_is_refused);
  tcase_add_test(t, a_foreign_cluster_is_refused_and_retried_slowly);
  tcase_add_test(t, a_node_that_follows_itself_is_told_so);
  tcase_add_test(t, an_unapplied_tail_of_a_dead_primary_is_dropped_and_streaming_goes_on);
  tcase_add_test(t, a_truncated_follower_loses_the_marks_of_what_it_dropped);
  tcase_add_test(t, two_writers_of_one_epoch_number_are_told_apart_in_a_few_rounds);
  tcase_add_test(t, a_follower_that_applied_what_the_primary_lost_is_refused_with_the_lsn);
  tcase_add_test(t, an_old_primary_that_comes_back_gets_no_followers);
  tcase_add_test(t, a_follower_beyond_the_trimmed_log_gets_a_checkpoint_and_follows);
  tcase_add_test(t, a_broken_bootstrap_goes_on_where_it_stopped);
  tcase_add_test(t, staleness_stays_small_on_an_idle_primary_and_grows_from_the_moment_of_a_cut);
  tcase_add_test(t, staleness_counts_what_is_applied_not_what_arrived);
  tcase_add_test(t, a_lagging_follower_still_learns_how_old_its_data_is);
  tcase_add_test(t, a_strong_read_learns_a_commit_lsn_read_after_it_began);
  tcase_add_test(t, a_cascaded_follower_is_as_fresh_as_the_primary_says_not_as_its_upstream);
  tcase_add_test(t, an_upstream_follower_that_is_behind_neither_refuses_for_good_nor_cuts);
  tcase_add_test(t, two_followers_that_follow_each_other_do_not_feed_on_their_own_probes);
  tcase_add_test(t, reconnects_back_off_with_jitter_and_start_anew_after_a_steady_stream);
  tcase_add_test(t, a_failed_append_ends_the_connection_and_is_tried_again);
  tcase_add_test(t, a_sync_answered_after_its_connection_died_belongs_to_nobody);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
