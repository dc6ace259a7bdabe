/* The failover machine: first its single promises, then clusters of three around a model of etcd, with trouble. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/failover_internal.h"
#include "tests/support/check_main.h"
#include "tests/support/failover_sim.h"
#include "wal/base/status.h"

static struct fsim s;

static void setup(void) {
  fsim_init(&s, 1);
}
static void teardown(void) {
  fsim_free(&s);
}
static void sound(void) {
  ck_assert_msg(!s.violation[0], "%s", s.violation);
}
static void start_all(void) {
  for (int i = 0; i < FSIM_NODES; i++) fsim_start(&s, i);
  ck_assert(fsim_run_until_acks(&s, 100, 5000));
  ck_assert_int_eq(fsim_leader(&s), 0);
}
static uint64_t ms(void) {
  return s.now_ns / FSIM_MS;
}

/* ---- by itself --------------------------------------------------------------------------------------- */

static struct failover *alone;
static struct failover_status st;
static struct failover_action act;
static struct failover_view view;
static uint64_t now;
static unsigned asked[FO_AUDIT + 1]; /* how often, by until() */

static void lone(void) {
  static struct failover_options o;
  fsim_init(&s, 1);
  o = s.n[0].opt;
  o.nodes = 1;
  alone = failover_create(&o);
  st = (struct failover_status){
      .open = true, .primary = false, .healthy = true, .has_data = true, .epoch = 1, .durable_lsn = 9};
  memset(&view, 0, sizeof view);
  memset(asked, 0, sizeof asked);
  now = 1000 * FSIM_MS;
}
static void lone_end(void) {
  failover_destroy(alone);
}

/* Does what the machine asks, at once and with success, until it wants `kind`. */
static bool until(enum failover_action_kind kind) {
  for (int i = 0; i < 1000; i++) {
    failover_step(alone, now, 0, &st);
    if (!failover_next(alone, &act)) {
      now += 10 * FSIM_MS;
      continue;
    }
    asked[act.kind]++;
    if (act.kind == kind) return true;
    struct failover_answer a = {
        .rc = DW_OK, .lease = 7, .ttl_ns = 5000 * FSIM_MS, .done = true, .view = &view, .why = ""};
    if (act.kind <= FO_PROBE) {
      failover_answer(alone, now, &a);
    } else if (act.kind == FO_PROMOTE) {
      st.primary = true;
      failover_promoted(alone, now, DW_OK, "");
    }
    if (act.kind == FO_TAKE || act.kind == FO_RECORD) {
      view.has_leader = view.has_record = true;
      view.leader = act.leader;
      view.leader.lease = 7;
      view.record = act.record;
    }
  }
  return false;
}

START_TEST(a_lease_counts_from_when_its_renewal_was_sent) {
  ck_assert(until(FO_RECORD));
  failover_answer(alone, now, &(struct failover_answer){.rc = DW_OK, .done = true, .why = ""});
  ck_assert(until(FO_RENEW));
  uint64_t sent = now;
  now += 900 * FSIM_MS; /* a slow answer */
  failover_answer(alone, now, &(struct failover_answer){.rc = DW_OK, .ttl_ns = 5000 * FSIM_MS, .why = ""});
  ck_assert(failover_may_acknowledge(alone, sent + 4000 * FSIM_MS - 1));
  ck_assert(!failover_may_acknowledge(alone, sent + 4000 * FSIM_MS));
}
END_TEST

START_TEST(a_lease_that_is_granted_for_less_than_asked_ends_earlier) {
  ck_assert(until(FO_RECORD));
  failover_answer(alone, now, &(struct failover_answer){.rc = DW_OK, .done = true, .why = ""});
  ck_assert(until(FO_RENEW));
  uint64_t sent = now;
  failover_answer(alone, now, &(struct failover_answer){.rc = DW_OK, .ttl_ns = 2000 * FSIM_MS, .why = ""});
  ck_assert(!failover_may_acknowledge(alone, sent + 1600 * FSIM_MS));
}
END_TEST

START_TEST(no_request_lasts_beyond_the_deadline) {
  ck_assert(until(FO_RECORD));
  failover_answer(alone, now, &(struct failover_answer){.rc = DW_OK, .done = true, .why = ""});
  ck_assert(until(FO_RENEW));
  uint64_t valid = alone->valid_until_ns;
  while (now + 400 * FSIM_MS < valid) {
    now += 300 * FSIM_MS;
    failover_answer(alone, now, &(struct failover_answer){.rc = DW_TIMEOUT, .why = ""});
    now += 126 * FSIM_MS;
    failover_step(alone, now, 0, &st);
    while (failover_next(alone, &act) && act.kind > FO_PROBE) {
    }
    ck_assert_uint_le(act.timeout_ns, valid - now);
  }
  now = valid;
  failover_answer(alone, now, &(struct failover_answer){.rc = DW_TIMEOUT, .why = ""});
  failover_step(alone, now, 0, &st);
  ck_assert(failover_next(alone, &act));
  ck_assert_int_eq(act.kind, FO_DEMOTE); /* before anything else */
}
END_TEST

START_TEST(the_claim_is_in_the_record_before_the_promotion_and_the_epoch_after_it) {
  ck_assert(until(FO_TAKE));
  ck_assert_uint_eq(act.record.term, 1);
  ck_assert_uint_eq(act.leader.epoch, 0);
  ck_assert_int_eq(act.expect.leader_revision, 0);
  ck_assert_int_eq(act.expect.record_revision, 0);
  failover_answer(alone, now, &(struct failover_answer){.rc = DW_OK, .done = true, .why = ""});
  ck_assert(until(FO_PROMOTE));
  ck_assert_uint_eq(act.term, 1);
  ck_assert_uint_le(act.timeout_ns, 4000 * FSIM_MS);
  ck_assert(!failover_may_acknowledge(alone, now));
  st.primary = true;
  st.epoch = 1ull << 32 | 77;
  failover_promoted(alone, now, DW_OK, "");
  ck_assert(failover_may_acknowledge(alone, now));
  ck_assert(until(FO_RECORD));
  ck_assert_uint_eq(act.record.epoch, st.epoch);
  ck_assert_uint_eq(act.leader.epoch, st.epoch);
  ck_assert_uint_eq(act.record.node_id, 1);
}
END_TEST

START_TEST(a_demotion_that_fails_is_asked_for_until_it_is_done) {
  ck_assert(until(FO_RECORD));
  failover_answer(alone, now, &(struct failover_answer){.rc = DW_OK, .done = true, .why = ""});
  st.healthy = false;
  ck_assert(until(FO_DEMOTE));
  st.primary = false; /* fenced, but it could not be noted */
  asked[FO_FOLLOW] = 0;
  for (int i = 0; i < 3; i++) {
    uint64_t failed = now;
    failover_not_demoted(alone, now);
    view.has_leader = true;
    view.leader.node_id = view.leader.epoch = 2;
    strcpy(view.leader.address, "10.0.0.2:7400");
    ck_assert(until(FO_DEMOTE)); /* nothing else is done with the engine, though somebody leads */
    ck_assert_uint_ge(now, failed + 500 * FSIM_MS);
    ck_assert_uint_lt(now, failed + 600 * FSIM_MS);
  }
  ck_assert_uint_eq(asked[FO_FOLLOW], 0);
  ck_assert(until(FO_FOLLOW));
}
END_TEST

/* Answered OK, and then the node leads. */
static void leads(void) {
  ck_assert(until(FO_RECORD));
  failover_answer(alone, now, &(struct failover_answer){.rc = DW_OK, .done = true, .why = ""});
  view.has_leader = view.has_record = true;
  view.leader = act.leader;
  view.leader.lease = act.lease;
  view.record = act.record;
}

START_TEST(a_lease_is_taken_with_once_for_its_requests_may_still_be_under_way) {
  leads();
  st.healthy = false;
  ck_assert(until(FO_RESIGN));
  st.primary = false;
  failover_answer(alone, now, &(struct failover_answer){.rc = DW_TIMEOUT, .why = ""}); /* and done in ten seconds */
  ck_assert(until(FO_RESIGN));
  failover_answer(alone, now, &(struct failover_answer){.rc = DW_OK, .done = true, .why = ""});
  view.has_leader = false;
  st.healthy = true;
  asked[FO_GRANT] = 0;
  ck_assert(until(FO_TAKE));
  ck_assert_uint_eq(asked[FO_GRANT], 1);
  failover_answer(alone, now, &(struct failover_answer){.rc = DW_OK, .done = false, .why = ""}); /* lost the race */
  ck_assert(until(FO_TAKE));
  ck_assert_uint_eq(asked[FO_GRANT], 2);
}
END_TEST

START_TEST(a_leader_key_that_lacks_its_epoch_is_written_again) {
  leads();
  view.leader.epoch = 0; /* it was taken anew, by a request that had been given up */
  ck_assert(until(FO_RECORD));
  ck_assert_uint_eq(act.leader.epoch, st.epoch);
}
END_TEST

START_TEST(an_unfinished_claim_of_its_own_makes_nobody_the_last_primary) {
  st = (struct failover_status){.healthy = true, .has_data = true}; /* it died after it had taken the lease */
  view.has_leader = view.has_record = true;
  view.leader = (struct failover_leader){.node_id = 1, .lease = 99, .revision = 8};
  view.record = (struct failover_record){.node_id = 2, .term = 3, .epoch = 2ull << 32 | 5, .revision = 8};
  ck_assert(until(FO_FOLLOW)); /* opens as a follower: only promises make it primary */
  ck_assert_uint_eq(asked[FO_PROMOTE], 0);
  st.open = true;
  st.epoch = 2ull << 32 | 5;
  ck_assert(until(FO_PROMOTE));
  st.primary = true;
  st.epoch = 4ull << 32 | 5;
  failover_promoted(alone, now, DW_OK, "");
  ck_assert(until(FO_RECORD));
  ck_assert_uint_eq(act.record.count, 1); /* a failover, for the cool-down and the cap */
}
END_TEST

START_TEST(a_last_primary_that_lost_its_directory_opens_no_empty_one_as_primary) {
  st = (struct failover_status){.healthy = true, .has_data = true}; /* it was made anew, and met nobody */
  view.has_record = true;
  view.record = (struct failover_record){.node_id = 1, .term = 3, .epoch = 3ull << 32 | 5, .revision = 8};
  ck_assert(until(FO_FOLLOW));
  ck_assert_uint_eq(asked[FO_PROMOTE], 0);
  st.open = true;
  st.has_data = false;
  ck_assert(!until(FO_PROMOTE));
}
END_TEST

START_TEST(a_leader_that_has_just_taken_its_key_again_is_not_taken_for_dead) {
  view.has_leader = view.has_record = true;
  view.record = (struct failover_record){.node_id = 2, .epoch = 1, .revision = 40};
  view.leader = (struct failover_leader){.node_id = 2, .lease = 5, .epoch = 1, .revision = 41, .address = "b:7400"};
  view.member_count = 1;
  view.members[0] = (struct failover_member){.node_id = 2, .revision = 42, .healthy = true, .has_data = true};
  strcpy(st.following, "b:7400");
  ck_assert(until(FO_TAKE)); /* its host had refused */
  failover_answer(alone, now, &(struct failover_answer){.rc = DW_OK, .done = false, .why = ""});
  view.leader.lease = 6; /* it is back; what it has is not published yet */
  view.leader.revision = 50;
  uint64_t since = now;
  asked[FO_PROBE] = 0;
  ck_assert(until(FO_TAKE));
  ck_assert_uint_ge(asked[FO_PROBE], 1);
  ck_assert_uint_ge(now, since + 1500 * FSIM_MS);
}
END_TEST

START_TEST(without_data_there_is_nothing_to_serve_before_the_coordinator_answers) {
  st = (struct failover_status){.healthy = true};
  for (int i = 0; i < 100; i++, now += 200 * FSIM_MS) {
    failover_step(alone, now, 0, &st);
    while (failover_next(alone, &act)) {
      ck_assert_int_ne(act.kind, FO_FOLLOW); /* and could never become the first primary then */
      if (act.kind <= FO_PROBE) failover_answer(alone, now, &(struct failover_answer){.rc = DW_TIMEOUT, .why = ""});
    }
  }
  st.has_data = true; /* a directory, but it has never begun an epoch */
  failover_step(alone, now, 0, &st);
  ck_assert(!failover_next(alone, &act) || act.kind != FO_FOLLOW);
  st.epoch = 1;
  failover_step(alone, now, 0, &st);
  ck_assert(failover_next(alone, &act));
  ck_assert_int_eq(act.kind, FO_FOLLOW);
}
END_TEST

/* Somebody was promoted meanwhile, and it is not on record: an operator's promotion, or its record was lost. */
START_TEST(a_last_primary_that_was_replaced_off_the_record_is_none) {
  st = (struct failover_status){.healthy = true, .has_data = true, .epoch = 5};
  view.has_record = true;
  view.record = (struct failover_record){.node_id = 1, .epoch = 5, .revision = 8};
  view.member_count = 1;
  view.members[0] = (struct failover_member){.node_id = 2, .epoch = 1ull << 32 | 7, .revision = 42, .has_data = true};
  ck_assert(until(FO_FOLLOW));
  ck_assert_uint_eq(asked[FO_PROMOTE], 0);
}
END_TEST

/* Half of a pair, promoted by hand without the other half: it could not know of the other's epoch. */
START_TEST(a_promotion_by_hand_below_the_recorded_epoch_is_made_anew) {
  st.primary = true;
  st.epoch = 1ull << 32 | 7;
  view.has_record = true;
  view.record = (struct failover_record){.node_id = 2, .term = 2, .epoch = 2ull << 32 | 5, .revision = 8};
  ck_assert(until(FO_DEMOTE));
  st.primary = false;
  ck_assert(until(FO_PROMOTE));
  ck_assert_uint_eq(act.term, 3);
}
END_TEST

START_TEST(a_primary_that_others_have_left_for_a_newer_epoch_gives_the_lease_back) {
  leads();
  view.member_count = 1;
  view.members[0] = (struct failover_member){.node_id = 2, .epoch = st.epoch + 1, .revision = 42, .has_data = true};
  ck_assert(until(FO_DEMOTE));
  st.primary = false;
  ck_assert(until(FO_RESIGN));
}
END_TEST

/* Opening takes as long as its log is long, and what opens as a follower can't be promoted meanwhile. */
START_TEST(who_is_being_opened_as_a_follower_does_not_stand) {
  for (int node = 1; node <= 2; node++) { /* the last primary itself, or another one */
    lone_end();
    lone();
    st.open = false;
    view.has_record = true;
    view.record = (struct failover_record){.node_id = (uint64_t)node, .epoch = 1, .revision = 40};
    for (act.kind = FO_GRANT; act.kind != FO_FOLLOW; now += 10 * FSIM_MS) { /* the coordinator is silent */
      failover_step(alone, now, 0, &st);
      if (failover_next(alone, &act) && act.kind <= FO_PROBE)
        failover_answer(alone, now, &(struct failover_answer){.rc = DW_TIMEOUT, .why = ""});
    }
    ck_assert(!until(FO_TAKE)); /* for ten seconds it is not open yet */
    st.open = true;
    ck_assert(until(FO_TAKE));
  }
}
END_TEST

START_TEST(candidates_are_compared_by_position_then_priority_region_lag) {
  struct failover_options o = {.preferred_region = "home"};
  struct failover_member a = {.node_id = 1,
                              .epoch = 5,
                              .durable_lsn = 10,
                              .priority = 100,
                              .lag_ms = 5,
                              .region = "home"},
                         b = a;
  b.node_id = 2;
  ck_assert_int_gt(failover_compare(&o, &a, &b), 0); /* all the same: the lower id */
  a.lag_ms = 9999;
  ck_assert_int_gt(failover_compare(&o, &a, &b), 0); /* nearly the same */
  a.lag_ms = 10000;
  ck_assert_int_lt(failover_compare(&o, &a, &b), 0);
  strcpy(b.region, "away");
  ck_assert_int_gt(failover_compare(&o, &a, &b), 0);
  b.priority = 101;
  ck_assert_int_lt(failover_compare(&o, &a, &b), 0);
  a.durable_lsn = 11;
  ck_assert_int_gt(failover_compare(&o, &a, &b), 0);
  b.epoch = 6;
  ck_assert_int_lt(failover_compare(&o, &a, &b), 0);
}
END_TEST

START_TEST(the_lease_of_another_is_taken_only_if_it_has_not_renewed_since) {
  view.has_leader = view.has_record = true;
  view.record = (struct failover_record){.node_id = 2, .epoch = 1, .revision = 40};
  view.leader =
      (struct failover_leader){.node_id = 2, .lease = 5, .epoch = 1, .revision = 41, .address = "10.0.0.2:7400"};
  view.member_count = 1;
  view.members[0] = (struct failover_member){.node_id = 2, .revision = 42, .healthy = true, .has_data = true};
  strcpy(st.following, "10.0.0.2:7400");
  ck_assert(until(FO_PROBE)); /* answered by until() with: refused */
  ck_assert_uint_ge(now, 1000 * FSIM_MS + 1500 * FSIM_MS);
  failover_answer(alone, now, &(struct failover_answer){.rc = DW_OK, .done = true, .why = ""});
  ck_assert(until(FO_TAKE));
  ck_assert_int_eq(act.expect.leader_revision, 41);
  ck_assert_int_eq(act.expect.record_revision, 40);
  ck_assert_uint_eq(act.expect.member_id, 2);
  ck_assert_int_eq(act.expect.member_revision, 42);
}
END_TEST

/* ---- three nodes ------------------------------------------------------------------------------------- */

START_TEST(the_first_primary_takes_the_lease_at_once_and_others_follow) {
  start_all();
  ck_assert_uint_lt(ms(), 1000 + 2500);
  fsim_run(&s, 2000);
  ck_assert_str_eq(s.n[1].following, s.n[0].address);
  ck_assert_str_eq(s.n[2].following, s.n[0].address);
  sound();
}
END_TEST

START_TEST(followers_without_a_record_or_without_data_never_stand) {
  fsim_start(&s, 1);
  fsim_start(&s, 2);
  fsim_run(&s, 30000);
  ck_assert_int_eq(fsim_leader(&s), -1);
  ck_assert(!s.kv.has_record);
  s.n[1].lsn = s.n[2].lsn = 5; /* data, but no record of who was primary */
  s.n[1].epoch = s.n[2].epoch = 1;
  fsim_run(&s, 30000);
  ck_assert(!s.kv.has_record);
  s.kv.has_record = true; /* a record, but one of them is empty */
  s.kv.record = (struct failover_record){.node_id = 9, .revision = ++s.revision};
  s.n[1].lsn = 0;
  fsim_run(&s, 30000);
  ck_assert(!strstr(s.n[1].events, "lease-taken"));
  ck_assert(strstr(s.n[1].events, "held-back") != NULL);
}
END_TEST

START_TEST(what_was_received_since_the_last_publication_counts) {
  start_all();
  fsim_run(&s, 1000);
  fsim_kill(&s, 0);
  fsim_run(&s, 1450);
  s.n[2].lsn += 100;
  while (fsim_leader(&s) < 0 && ms() < 20000) fsim_run(&s, 10);
  ck_assert_int_eq(fsim_leader(&s), 2);
  ck_assert(!strstr(s.n[1].events, "lease-taken"));
  sound();
}
END_TEST

START_TEST(who_can_not_lead_is_not_waited_for) {
  s.n[1].opt.priority = 200;
  start_all();
  s.n[1].healthy = false;
  fsim_run(&s, 1000);
  fsim_kill(&s, 0);
  ck_assert(fsim_run_until_acks(&s, 1, 2000));
  ck_assert_int_eq(fsim_leader(&s), 2);
}
END_TEST

START_TEST(a_primary_whose_directory_was_emptied_begins_no_other_cluster) {
  start_all();
  fsim_run(&s, 1000);
  fsim_kill(&s, 0);
  s.n[0].lsn = s.n[0].epoch = s.n[0].promised = 0;
  fsim_start(&s, 0);
  ck_assert(fsim_run_until_acks(&s, 100, 12000));
  ck_assert_int_ne(fsim_leader(&s), 0);
  ck_assert_uint_eq(s.n[0].promotions, 1); /* its first life's */
  fsim_run(&s, 2000);
  ck_assert_uint_eq(s.n[0].lsn, s.n[fsim_leader(&s)].lsn);
  sound();
}
END_TEST

START_TEST(keep_is_not_for_a_primary_that_was_replaced) {
  for (int i = 0; i < FSIM_NODES; i++) s.n[i].opt.keep = true;
  start_all();
  s.kv.leader.node_id = 2; /* somebody took the lease */
  s.kv.leader.lease = 999;
  s.kv.leader.revision = ++s.revision;
  fsim_run(&s, 1000);
  ck_assert(strstr(s.n[0].events, "stepped-down") != NULL);
  ck_assert(!s.n[0].primary);
}
END_TEST

START_TEST(keep_ends_where_somebody_was_promoted_meanwhile) {
  for (int i = 0; i < FSIM_NODES; i++) s.n[i].opt.keep = true;
  start_all();
  s.coordinator_down = true;
  fsim_run(&s, 8000);
  ck_assert(strstr(s.n[0].events, "kept") != NULL);
  s.kv.record.node_id = 9; /* and has lost the lease again */
  s.kv.record.revision = ++s.revision;
  s.coordinator_down = false;
  fsim_run(&s, 1500);
  ck_assert(strstr(s.n[0].events, "kept stepped-down") != NULL);
}
END_TEST

START_TEST(a_killed_primary_is_replaced_within_three_seconds) {
  start_all();
  fsim_run(&s, 3000);
  fsim_kill(&s, 0);
  ck_assert(fsim_run_until_acks(&s, 1, 3000));
  ck_assert_int_eq(fsim_leader(&s), 1);
  sound();
  fsim_start(&s, 0); /* and comes back as a follower */
  fsim_run(&s, 5000);
  ck_assert_str_eq(s.n[0].following, s.n[1].address);
  ck_assert_int_eq(fsim_leader(&s), 1);
  sound();
}
END_TEST

START_TEST(without_the_early_way_the_whole_lease_is_waited_for) {
  for (int i = 0; i < FSIM_NODES; i++) s.n[i].opt.early = false;
  start_all();
  fsim_run(&s, 3000);
  fsim_kill(&s, 0);
  ck_assert(!fsim_run_until_acks(&s, 1, 4400));
  ck_assert(fsim_run_until_acks(&s, 1, 3000));
  sound();
}
END_TEST

START_TEST(a_killed_primary_that_is_back_at_once_leads_on) {
  start_all();
  fsim_run(&s, 1000);
  fsim_kill(&s, 0);
  fsim_run(&s, 300);
  fsim_start(&s, 0);
  ck_assert(fsim_run_until_acks(&s, 1, 1500));
  ck_assert_int_eq(fsim_leader(&s), 0);
  ck_assert_uint_eq(s.kv.record.count, 0); /* no failover */
  sound();
}
END_TEST

START_TEST(a_stopped_primary_keeps_its_whole_lease_and_wakes_up_without_it) {
  start_all();
  fsim_run(&s, 1000);
  s.n[0].stopped = true;
  ck_assert(!fsim_run_until_acks(&s, 1, 4400)); /* nobody takes the lease early: its host refuses nothing */
  ck_assert(fsim_run_until_acks(&s, 1, 3000));
  s.n[0].stopped = false;
  s.n[0].primary = true; /* had it not even been fenced */
  fsim_run(&s, 5000);
  ck_assert(!s.n[0].primary);
  ck_assert_str_eq(s.n[0].following, s.n[1].address);
  sound();
}
END_TEST

START_TEST(what_a_primary_says_is_true_for_as_long_as_its_lease_and_no_longer) {
  start_all();
  uint64_t local = s.now_ns + s.n[0].offset_ns, until = failover_serves_until(s.n[0].f);
  ck_assert(until > local && until < local + 4000 * FSIM_MS);
  ck_assert_uint_eq(failover_serves_until(s.n[1].f), 0);
  s.n[0].cut_coordinator = true;
  fsim_run(&s, 3000);
  ck_assert_uint_lt(failover_serves_until(s.n[0].f), until + 1000 * FSIM_MS);
  fsim_run(&s, 2000);
  ck_assert_uint_eq(failover_serves_until(s.n[0].f), 0);
}
END_TEST

START_TEST(a_primary_cut_off_from_the_coordinator_stops_before_another_can_start) {
  start_all();
  fsim_run(&s, 1000);
  s.n[0].cut_coordinator = true;
  uint64_t cut = ms();
  while (fsim_leader(&s) == 0) fsim_run(&s, 10);
  ck_assert_uint_le(ms() - cut, 4010);
  ck_assert(s.kv.has_leader); /* its key is still there: nobody else can have started */
  ck_assert_uint_eq(s.kv.leader.node_id, 1);
  ck_assert(fsim_run_until_acks(&s, 1, 4000));
  ck_assert_int_ne(fsim_leader(&s), 0);
  sound();
}
END_TEST

START_TEST(keep_serves_on_with_followers_and_takes_sync_writes_only) {
  for (int i = 0; i < FSIM_NODES; i++) s.n[i].opt.keep = true;
  start_all();
  fsim_run(&s, 1000);
  s.coordinator_down = true;
  ck_assert(fsim_run_until_acks(&s, 2500, 26000)); /* all the time */
  ck_assert_int_eq(fsim_leader(&s), 0);
  ck_assert(s.n[0].restricted);
  s.coordinator_down = false;
  fsim_run(&s, 3000);
  ck_assert_int_eq(fsim_leader(&s), 0);
  ck_assert(!s.n[0].restricted);
  ck_assert_uint_eq(s.n[0].demotions, 0);
  ck_assert(strstr(s.n[0].events, "kept back") != NULL);
  sound();
}
END_TEST

START_TEST(keep_does_not_let_a_follower_with_a_living_primary_stand) {
  for (int i = 0; i < FSIM_NODES; i++) s.n[i].opt.keep = true;
  start_all();
  s.n[0].cut_coordinator = true; /* the followers see the key go */
  fsim_run(&s, 20000);
  ck_assert_int_eq(fsim_leader(&s), 0);
  ck_assert_uint_eq(s.n[1].promotions + s.n[2].promotions, 0);
  sound();
}
END_TEST

START_TEST(keep_ends_when_too_few_followers_confirm) {
  for (int i = 0; i < FSIM_NODES; i++) s.n[i].opt.keep = true;
  start_all();
  s.coordinator_down = true;
  fsim_run(&s, 10000);
  ck_assert_int_eq(fsim_leader(&s), 0);
  s.n[0].cut_nodes = true;
  fsim_run(&s, 100);
  ck_assert_int_eq(fsim_leader(&s), -1);
  ck_assert(strstr(s.n[0].events, "kept stepped-down") != NULL);
  sound();
}
END_TEST

START_TEST(stop_stops_without_the_coordinator_and_comes_back_with_it) {
  start_all();
  s.coordinator_down = true;
  fsim_run(&s, 5000);
  ck_assert_int_eq(fsim_leader(&s), -1);
  s.coordinator_down = false;
  ck_assert(fsim_run_until_acks(&s, 10, 8000));
  sound();
}
END_TEST

START_TEST(the_node_that_has_more_is_promoted_whatever_its_priority) {
  s.n[1].opt.priority = 1000;
  start_all();
  s.n[1].cut_nodes = true; /* falls behind */
  fsim_run(&s, 2000);
  ck_assert_uint_lt(s.n[1].lsn, s.n[2].lsn);
  s.n[1].cut_nodes = false;
  snprintf(s.n[1].following, FAILOVER_TEXT, "nobody"); /* and has not caught up */
  fsim_kill(&s, 0);
  ck_assert(fsim_run_until_acks(&s, 1, 9000));
  ck_assert_int_eq(fsim_leader(&s), 2);
  ck_assert_uint_eq(s.n[1].promotions, 0);
  sound();
}
END_TEST

START_TEST(among_equals_priority_decides_and_zero_means_never) {
  s.n[1].opt.priority = 0;
  start_all();
  fsim_kill(&s, 0);
  ck_assert(fsim_run_until_acks(&s, 1, 5000));
  ck_assert_int_eq(fsim_leader(&s), 2);
  fsim_kill(&s, 2);
  fsim_run(&s, 20000);
  ck_assert_int_eq(fsim_leader(&s), -1);
  ck_assert(strstr(s.n[1].events, "held-back") != NULL);
  sound();
}
END_TEST

START_TEST(a_better_candidate_that_does_nothing_is_waited_for_a_bounded_time) {
  s.n[1].opt.priority = 200;
  start_all();
  fsim_kill(&s, 0);
  fsim_run(&s, 1400);
  s.n[1].cut_coordinator = true; /* looks alive in the view, and can't take the lease */
  uint64_t from = ms();
  while (fsim_leader(&s) < 0 && ms() < from + 6000) fsim_run(&s, 10);
  ck_assert_int_eq(fsim_leader(&s), 2);
  ck_assert_uint_gt(ms() - from, 1000);
  ck_assert_uint_lt(ms() - from, 3500);
  sound();
}
END_TEST

START_TEST(between_two_failovers_there_is_a_cool_down) {
  for (int i = 0; i < FSIM_NODES; i++) s.n[i].opt.cooldown_ns = 30000 * FSIM_MS;
  start_all();
  fsim_kill(&s, 0);
  ck_assert(fsim_run_until_acks(&s, 50, 5000));
  uint64_t first = ms();
  fsim_start(&s, 0);
  fsim_run(&s, 5000);
  fsim_kill(&s, fsim_leader(&s));
  ck_assert(!fsim_run_until_acks(&s, 1, 20000));
  ck_assert(fsim_run_until_acks(&s, 1, 8000));
  ck_assert_uint_gt(ms() - first, 28000);
  sound();
}
END_TEST

START_TEST(a_clock_that_is_years_behind_delays_by_one_cool_down_at_most) {
  for (int i = 0; i < FSIM_NODES; i++) s.n[i].opt.cooldown_ns = 20000 * FSIM_MS;
  start_all();
  s.kv.record.count = 1;
  s.kv.record.stamps_ms[0] = 4000000000000ull; /* in the future */
  s.kv.record.revision = ++s.revision;
  fsim_run(&s, 1000);
  fsim_kill(&s, 0);
  ck_assert(!fsim_run_until_acks(&s, 1, 18000));
  ck_assert(fsim_run_until_acks(&s, 1, 5000));
}
END_TEST

START_TEST(there_is_a_cap_per_hour) {
  for (int i = 0; i < FSIM_NODES; i++) s.n[i].opt.max_per_hour = 2;
  start_all();
  for (int k = 0; k < 2; k++) {
    int dead = fsim_leader(&s);
    fsim_kill(&s, dead);
    ck_assert(fsim_run_until_acks(&s, 50, 5000));
    fsim_start(&s, dead);
    fsim_run(&s, 5000);
  }
  ck_assert_uint_eq(s.kv.record.count, 2);
  fsim_kill(&s, fsim_leader(&s));
  ck_assert(!fsim_run_until_acks(&s, 1, 60000));
  sound();
}
END_TEST

START_TEST(pause_holds_failovers_back_but_not_the_return_of_the_primary) {
  start_all();
  s.kv.paused = true;
  fsim_run(&s, 1000);
  fsim_kill(&s, 0);
  ck_assert(!fsim_run_until_acks(&s, 1, 20000));
  fsim_start(&s, 0);
  ck_assert(fsim_run_until_acks(&s, 1, 5000));
  ck_assert_int_eq(fsim_leader(&s), 0);
  fsim_kill(&s, 0);
  fsim_run(&s, 10000);
  s.kv.paused = false;
  ck_assert(fsim_run_until_acks(&s, 1, 3000));
  sound();
}
END_TEST

START_TEST(a_primary_whose_log_fails_gives_the_lease_back) {
  start_all();
  s.n[0].healthy = false;
  ck_assert(fsim_run_until_acks(&s, 100, 3500));
  ck_assert_int_ne(fsim_leader(&s), 0);
  sound();
}
END_TEST

START_TEST(a_node_that_stops_hands_over) {
  start_all();
  failover_stop(s.n[0].f);
  fsim_run(&s, 200);
  ck_assert(!s.kv.has_leader);
  ck_assert(!s.n[0].primary);
  ck_assert(fsim_run_until_acks(&s, 1, 2500));
  sound();
}
END_TEST

START_TEST(a_promotion_that_is_refused_lets_the_next_one_try) {
  start_all();
  fsim_kill(&s, 0);
  fsim_run(&s, 1000);
  s.n[1].cut_nodes = s.n[2].cut_nodes = true; /* no promises */
  fsim_run(&s, 8000);
  ck_assert_int_eq(fsim_leader(&s), -1);
  ck_assert(strstr(s.n[1].events, "promotion-failed") || strstr(s.n[2].events, "promotion-failed"));
  s.n[1].cut_nodes = s.n[2].cut_nodes = false;
  ck_assert(fsim_run_until_acks(&s, 1, 6000));
  sound();
}
END_TEST

START_TEST(a_promotion_by_hand_ends_with_the_lease_at_the_new_primary) {
  start_all();
  s.n[2].primary = true; /* dabbawal promote: node 3, a newer epoch; the others have promised */
  s.n[2].epoch = s.n[2].promised = s.n[1].promised = s.n[0].promised = 1ull << 32 | 9;
  s.n[0].primary = false; /* fenced */
  ck_assert(fsim_run_until_acks(&s, 1, 3000));
  ck_assert_int_eq(fsim_leader(&s), 2);
  ck_assert_uint_eq(s.kv.leader.node_id, 3);
  ck_assert_uint_eq(s.n[2].demotions, 0);
  sound();
}
END_TEST

/* dabbawal switchover from node 1 to node 3: a newer epoch, which all have promised; everybody follows it. */
static void switched_over(void) {
  s.n[2].primary = true;
  s.n[0].primary = false;
  s.n[0].fenced = true;
  uint64_t epoch = s.n[2].epoch + (1ull << 32);
  for (int i = 0; i < FSIM_NODES; i++) {
    s.n[i].epoch = s.n[i].promised = epoch;
    s.n[i].lsn = s.n[2].lsn;
    if (i != 2) snprintf(s.n[i].following, sizeof s.n[i].following, "%s", s.n[2].address);
  }
}

START_TEST(whoever_was_promoted_by_hand_and_is_slow_to_take_the_lease_is_waited_for) {
  s.n[1].opt.priority = 200;
  start_all();
  switched_over();
  s.n[2].cut_coordinator = true;
  fsim_run(&s, 600);
  s.n[2].cut_coordinator = false;
  ck_assert(fsim_run_until_acks(&s, 1, 3000));
  ck_assert_int_eq(fsim_leader(&s), 2);
  ck_assert_uint_eq(s.n[1].promotions, 0);
  sound();
}
END_TEST

/* A primary that gives the lease back does not want it for as long as a lease lasts; but this is somebody's order. */
START_TEST(a_switchover_and_back_within_a_lease_ends_where_it_began) {
  s.n[1].opt.priority = 200;
  start_all();
  switched_over();
  ck_assert(fsim_run_until_acks(&s, 10, 1000));
  ck_assert_int_eq(fsim_leader(&s), 2);
  uint64_t epoch = s.n[2].epoch + (1ull << 32);
  s.n[0].primary = true;
  s.n[2].primary = false;
  s.n[2].fenced = true;
  for (int i = 0; i < FSIM_NODES; i++) {
    s.n[i].epoch = s.n[i].promised = epoch;
    s.n[i].lsn = s.n[2].lsn;
    if (i) snprintf(s.n[i].following, sizeof s.n[i].following, "%s", s.n[0].address);
  }
  ck_assert(fsim_run_until_acks(&s, 10, 1000));
  ck_assert_int_eq(fsim_leader(&s), 0);
  ck_assert_uint_eq(s.n[1].promotions, 0);
  sound();
}
END_TEST

/* With the longest log, which is in nobody else's, and no primary any more. */
START_TEST(a_primary_by_hand_that_is_fenced_before_it_has_the_lease_stands_in_nobodys_way) {
  start_all();
  switched_over();
  s.n[2].lsn += 5;
  s.n[2].primary = false;
  s.n[2].fenced = true;
  s.n[0].promised = s.n[1].promised = s.n[2].promised = s.n[2].epoch + (1ull << 32);
  ck_assert(fsim_run_until_acks(&s, 10, 12000));
  ck_assert_int_eq(fsim_leader(&s), 2);
  sound();
}
END_TEST

START_TEST(whoever_was_promoted_by_hand_and_can_not_take_the_lease_is_replaced) {
  start_all();
  switched_over();
  s.n[2].cut_coordinator = true;
  ck_assert(fsim_run_until_acks(&s, 1, 12000));
  ck_assert_int_ne(fsim_leader(&s), 2);
  sound();
}
END_TEST

/* Milliseconds, on average: what requests to the coordinator take is drawn. */
START_TEST(the_lease_follows_a_promotion_by_hand_at_once) {
  uint64_t sum = 0, seeds = 100;
  for (uint64_t seed = 1; seed <= seeds; seed++) {
    fsim_free(&s);
    fsim_init(&s, seed);
    start_all();
    fsim_run(&s, seed * 17);
    switched_over();
    for (uint64_t since = ms(); !(s.kv.has_leader && s.kv.leader.node_id == 3) && ms() < since + 2000; sum += 10)
      fsim_run(&s, 10);
    sound();
  }
  ck_assert_msg(sum / seeds < 110, "%llu ms", (unsigned long long)(sum / seeds));
}
END_TEST

START_TEST(a_leader_key_of_an_older_epoch_takes_no_follower_from_a_living_primary) {
  start_all();
  switched_over();
  s.n[0].stopped = true; /* the key stays its own for the rest of its lease */
  fsim_run(&s, 1500);
  ck_assert_uint_eq(s.kv.leader.node_id, 1);
  ck_assert_str_eq(s.n[1].following, s.n[2].address);
}
END_TEST

START_TEST(a_coordinator_that_was_wiped_gets_the_primary_back) {
  start_all();
  memset(&s.kv, 0, sizeof s.kv);
  s.lease_count = 0;
  s.max_term = 0;
  fsim_run(&s, 1500);
  ck_assert(fsim_run_until_acks(&s, 10, 3000));
  ck_assert(s.kv.has_record);
  ck_assert_int_eq(fsim_leader(&s), 0);
  sound();
}
END_TEST

/* ---- trouble ------------------------------------------------------------------------------------------- */

static void trouble(uint64_t *pauses) {
  int i = (int)fsim_random(&s, FSIM_NODES);
  struct fsim_node *n = &s.n[i];
  switch (fsim_random(&s, 9)) {
  case 0: n->up ? fsim_kill(&s, i) : fsim_start(&s, i); break;
  case 1:
    if (n->up) n->stopped = !n->stopped;
    *pauses += n->stopped;
    break;
  case 2: n->cut_coordinator = !n->cut_coordinator; break;
  case 3: n->cut_nodes = !n->cut_nodes; break;
  case 4: s.coordinator_down = !s.coordinator_down; break;
  case 5: s.loss_percent = fsim_random(&s, 30); break;
  case 6: { /* whoever leads */
    int l = fsim_leader(&s);
    if (l >= 0) fsim_kill(&s, l);
    break;
  }
  case 7: s.kv.paused = !s.kv.paused; break;
  default: break;
  }
}

static void calm(void) {
  s.loss_percent = 0;
  s.coordinator_down = s.kv.paused = false;
  for (int i = 0; i < FSIM_NODES; i++) {
    struct fsim_node *n = &s.n[i];
    n->stopped = n->cut_coordinator = n->cut_nodes = false;
    if (!n->up) fsim_start(&s, i);
  }
}

/* One life of a cluster. The clocks differ by up to 10 % each way. */
static void life(uint64_t seed, bool keep, uint64_t *failovers, uint64_t *pauses) {
  fsim_init(&s, seed);
  for (int i = 0; i < FSIM_NODES; i++) {
    s.n[i].rate = 0.9 + 0.01 * fsim_random(&s, 21);
    s.n[i].opt.keep = keep;
  }
  for (int i = 0; i < FSIM_NODES; i++) fsim_start(&s, i);
  ck_assert_msg(fsim_run_until_acks(&s, 10, 10000), "seed %llu: does not start", (unsigned long long)seed);
  for (int k = 0; k < 40 && !s.violation[0]; k++) {
    trouble(pauses);
    fsim_run(&s, 50 + fsim_random(&s, 3000));
  }
  calm();
  fsim_run(&s, 20000);
  ck_assert_msg(!s.violation[0], "seed %llu: %s", (unsigned long long)seed, s.violation);
  ck_assert_msg(fsim_run_until_acks(&s, 100, 5000), "seed %llu: nobody acknowledges in the end",
                (unsigned long long)seed);
  for (int i = 0; i < FSIM_NODES; i++) *failovers += s.n[i].promotions;
}

static void lives(bool keep) {
  const char *one = getenv("DW_FAILOVER_SEED");
  uint64_t failovers = 0, pauses = 0, from = one ? strtoull(one, NULL, 10) : 1, to = one ? from : 500;
  for (uint64_t seed = from; seed <= to; seed++) {
    life(seed, keep, &failovers, &pauses);
    fsim_free(&s);
  }
  memset(&s, 0, sizeof s);
  printf("%llu lives: %llu promotions, %llu stopped processes\n", (unsigned long long)(to - from + 1),
         (unsigned long long)failovers, (unsigned long long)pauses);
  if (!one) ck_assert_uint_gt(failovers, 1000);
}

START_TEST(never_two_nodes_may_acknowledge_and_in_the_end_one_does) {
  lives(false);
}
END_TEST

START_TEST(with_keep_nothing_acknowledged_is_lost_and_in_the_end_one_acknowledges) {
  lives(true);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("failover");
  TCase *t = tcase_create("machine");
  tcase_add_checked_fixture(t, lone, lone_end);
  tcase_add_test(t, a_lease_counts_from_when_its_renewal_was_sent);
  tcase_add_test(t, a_lease_that_is_granted_for_less_than_asked_ends_earlier);
  tcase_add_test(t, no_request_lasts_beyond_the_deadline);
  tcase_add_test(t, the_claim_is_in_the_record_before_the_promotion_and_the_epoch_after_it);
  tcase_add_test(t, a_demotion_that_fails_is_asked_for_until_it_is_done);
  tcase_add_test(t, a_lease_is_taken_with_once_for_its_requests_may_still_be_under_way);
  tcase_add_test(t, a_leader_key_that_lacks_its_epoch_is_written_again);
  tcase_add_test(t, an_unfinished_claim_of_its_own_makes_nobody_the_last_primary);
  tcase_add_test(t, a_last_primary_that_lost_its_directory_opens_no_empty_one_as_primary);
  tcase_add_test(t, a_leader_that_has_just_taken_its_key_again_is_not_taken_for_dead);
  tcase_add_test(t, a_last_primary_that_was_replaced_off_the_record_is_none);
  tcase_add_test(t, a_promotion_by_hand_below_the_recorded_epoch_is_made_anew);
  tcase_add_test(t, a_primary_that_others_have_left_for_a_newer_epoch_gives_the_lease_back);
  tcase_add_test(t, without_data_there_is_nothing_to_serve_before_the_coordinator_answers);
  tcase_add_test(t, who_is_being_opened_as_a_follower_does_not_stand);
  tcase_add_test(t, candidates_are_compared_by_position_then_priority_region_lag);
  tcase_add_test(t, the_lease_of_another_is_taken_only_if_it_has_not_renewed_since);
  suite_add_tcase(suite, t);
  t = tcase_create("cluster");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, the_first_primary_takes_the_lease_at_once_and_others_follow);
  tcase_add_test(t, followers_without_a_record_or_without_data_never_stand);
  tcase_add_test(t, a_killed_primary_is_replaced_within_three_seconds);
  tcase_add_test(t, without_the_early_way_the_whole_lease_is_waited_for);
  tcase_add_test(t, a_killed_primary_that_is_back_at_once_leads_on);
  tcase_add_test(t, a_stopped_primary_keeps_its_whole_lease_and_wakes_up_without_it);
  tcase_add_test(t, what_a_primary_says_is_true_for_as_long_as_its_lease_and_no_longer);
  tcase_add_test(t, a_primary_cut_off_from_the_coordinator_stops_before_another_can_start);
  tcase_add_test(t, keep_serves_on_with_followers_and_takes_sync_writes_only);
  tcase_add_test(t, keep_does_not_let_a_follower_with_a_living_primary_stand);
  tcase_add_test(t, keep_ends_when_too_few_followers_confirm);
  tcase_add_test(t, stop_stops_without_the_coordinator_and_comes_back_with_it);
  tcase_add_test(t, the_node_that_has_more_is_promoted_whatever_its_priority);
  tcase_add_test(t, among_equals_priority_decides_and_zero_means_never);
  tcase_add_test(t, a_better_candidate_that_does_nothing_is_waited_for_a_bounded_time);
  tcase_add_test(t, between_two_failovers_there_is_a_cool_down);
  tcase_add_test(t, a_clock_that_is_years_behind_delays_by_one_cool_down_at_most);
  tcase_add_test(t, there_is_a_cap_per_hour);
  tcase_add_test(t, pause_holds_failovers_back_but_not_the_return_of_the_primary);
  tcase_add_test(t, a_primary_whose_log_fails_gives_the_lease_back);
  tcase_add_test(t, a_node_that_stops_hands_over);
  tcase_add_test(t, a_promotion_that_is_refused_lets_the_next_one_try);
  tcase_add_test(t, a_promotion_by_hand_ends_with_the_lease_at_the_new_primary);
  tcase_add_test(t, whoever_was_promoted_by_hand_and_is_slow_to_take_the_lease_is_waited_for);
  tcase_add_test(t, whoever_was_promoted_by_hand_and_can_not_take_the_lease_is_replaced);
  tcase_add_test(t, the_lease_follows_a_promotion_by_hand_at_once);
  tcase_add_test(t, a_switchover_and_back_within_a_lease_ends_where_it_began);
  tcase_add_test(t, a_primary_by_hand_that_is_fenced_before_it_has_the_lease_stands_in_nobodys_way);
  tcase_add_test(t, a_leader_key_of_an_older_epoch_takes_no_follower_from_a_living_primary);
  tcase_add_test(t, a_coordinator_that_was_wiped_gets_the_primary_back);
  tcase_add_test(t, what_was_received_since_the_last_publication_counts);
  tcase_add_test(t, who_can_not_lead_is_not_waited_for);
  tcase_add_test(t, a_primary_whose_directory_was_emptied_begins_no_other_cluster);
  tcase_add_test(t, keep_is_not_for_a_primary_that_was_replaced);
  tcase_add_test(t, keep_ends_where_somebody_was_promoted_meanwhile);
  suite_add_tcase(suite, t);
  t = tcase_create("trouble");
  tcase_set_timeout(t, 120);
  tcase_add_test(t, never_two_nodes_may_acknowledge_and_in_the_end_one_does);
  tcase_add_test(t, with_keep_nothing_acknowledged_is_lost_and_in_the_end_one_acknowledges);
  suite_add_tcase(suite, t);
  return check_main(suite);
}
