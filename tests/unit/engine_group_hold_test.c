/* When a group is closed: what the hold expects, when it gives up, what it learns. And in a real engine: writers whose
 * fellows stay away are not left waiting. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "engine/group_hold.h"
#include "tests/support/check_main.h"

#define US 1000u
#define SYNC (100u * US)

static struct group_hold h;

static void setup(void) {
  h = (struct group_hold){0};
  hold_synced(&h, SYNC);
}

START_TEST(a_group_is_held_until_those_just_answered_are_back) {
  hold_begin(&h, 2, 6, 3, 1000);
  ck_assert(!hold_closed(&h, 2));
  ck_assert(!hold_closed(&h, 7));
  ck_assert(hold_closed(&h, 8));
  ck_assert_uint_gt(h.until_ns, 1000 + SYNC);
  ck_assert_uint_le(h.until_ns, 1000 + 4 * SYNC); /* never a matter of more than a few syncs */
}
END_TEST

START_TEST(a_lone_writer_and_a_group_that_nobody_waits_for_are_not_held) {
  hold_begin(&h, 0, 1, 3, 0);
  ck_assert(hold_closed(&h, 0));
  hold_begin(&h, 5, 0, 3, 0);
  ck_assert(hold_closed(&h, 5));
}
END_TEST

START_TEST(who_stays_away_makes_holding_rest_for_longer_each_time) {
  uint64_t now = 0;
  unsigned rest = 0, before = 0;
  for (int times = 0; times < 4; times++) {
    h.return_ns = 0; /* what it costs is another matter */
    for (rest = 0; hold_begin(&h, 1, 7, 3, now), !h.target; rest++) ck_assert_uint_lt(rest, 100);
    ck_assert_uint_ge(rest, before);
    if (times) ck_assert_uint_gt(rest, before);
    before = rest;
    now = h.until_ns;
    hold_end(&h, 2, now); /* one of seven came */
    ck_assert(hold_closed(&h, 1));
  }
  ck_assert_uint_ge(rest, 7);
}
END_TEST

START_TEST(writers_that_come_back_slowly_are_not_waited_for_until_it_is_tried_again) {
  uint64_t now = 0;
  int held = 0, tried = 0;
  for (int i = 0; i < 20; i++) { /* each takes as long as half a sync: eight of them, four syncs */
    hold_begin(&h, 0, 8, 3, now);
    if (!h.target) break;
    held++;
    now += 4 * SYNC;
    hold_end(&h, 8, now);
  }
  ck_assert_int_gt(held, 0);
  ck_assert_int_lt(held, 20);
  for (int i = 0; i < 200; i++) {
    hold_begin(&h, 0, 8, 3, now);
    tried += h.target != 0;
    h.target = 0;
  }
  ck_assert_int_gt(tried, 0);
}
END_TEST

START_TEST(a_hold_that_nobody_looked_at_for_long_teaches_no_more_than_one_that_ran_out) {
  hold_begin(&h, 0, 4, 3, 0);
  hold_end(&h, 4, 3600000000000ull); /* the writers had a break of an hour */
  ck_assert_uint_lt(h.return_ns, SYNC);
}
END_TEST

START_TEST(writers_without_a_disk_are_waited_for_while_they_come_in_a_loop) {
  struct gathering g = {0};
  ck_assert(!gathering_lacks(&g, 1)); /* nothing is known */
  gathering_seen(&g, 1, 0);
  ck_assert(!gathering_lacks(&g, 1)); /* alone */
  gathering_seen(&g, 1, 3);
  ck_assert(gathering_lacks(&g, 1));
  ck_assert(gathering_lacks(&g, 3));
  ck_assert(!gathering_lacks(&g, 4));
  gathering_seen(&g, 2, 0); /* two stayed away: missed once */
  ck_assert(gathering_lacks(&g, 1));
  ck_assert(!gathering_lacks(&g, 2));
}
END_TEST

/* ---- in an engine ---------------------------------------------------------------------------- */

#define TOGETHER 200
#define ALONE 200

static dw_engine *e;
static dw_write_options how;

static void write_some(int n) {
  for (int i = 0; i < n; i++) {
    int rc = dw_put(e, &how, "key", 3, &i, sizeof i, NULL);
    ck_assert_msg(rc == DW_OK, "put: %s", dw_last_error());
  }
}

static void *fellow(void *arg) {
  (void)arg;
  write_some(TOGETHER);
  return NULL;
}

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg, (void)level, (void)line;
}

/* _i: 0 with DISK, 1 with OS durability. */
START_TEST(writers_are_answered_although_their_fellows_stay_away) {
  how = (dw_write_options){.durability = _i ? DW_DURABILITY_OS : DW_DURABILITY_DISK};
  char dir[256];
  snprintf(dir, sizeof dir, "%s/dw-hold-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  dw_options o;
  dw_options_init(&o);
  o.segment_bytes = 1u << 20;
  o.ack_timeout_ms = 2000;
  o.log = quiet;
  struct engine_config config = {.threads = true, .store = store_mem()};
  ck_assert_int_eq(engine_open(dir, &o, &config, &e), DW_OK);
  pthread_t t[5];
  for (int i = 0; i < 5; i++) pthread_create(&t[i], NULL, fellow, NULL);
  write_some(TOGETHER);
  for (int i = 0; i < 5; i++) pthread_join(t[i], NULL);
  write_some(ALONE); /* a hold that nobody ends would time out, or last for a tick each time */
  dw_status st;
  dw_status_get(e, &st);
  ck_assert_uint_eq(st.commits, 6 * TOGETHER + ALONE);
  ck_assert_uint_eq(st.written_lsn, 6 * TOGETHER + ALONE);
  ck_assert_uint_eq(st.applied_lsn, 6 * TOGETHER + ALONE);
  engine_close(e);
  env_remove_tree(env_posix(), dir);
}
END_TEST

int main(void) {
  Suite *s = suite_create("group hold");
  TCase *t = tcase_create("rule");
  tcase_add_checked_fixture(t, setup, NULL);
  tcase_add_test(t, a_group_is_held_until_those_just_answered_are_back);
  tcase_add_test(t, a_lone_writer_and_a_group_that_nobody_waits_for_are_not_held);
  tcase_add_test(t, who_stays_away_makes_holding_rest_for_longer_each_time);
  tcase_add_test(t, writers_that_come_back_slowly_are_not_waited_for_until_it_is_tried_again);
  tcase_add_test(t, writers_without_a_disk_are_waited_for_while_they_come_in_a_loop);
  tcase_add_test(t, a_hold_that_nobody_looked_at_for_long_teaches_no_more_than_one_that_ran_out);
  suite_add_tcase(s, t);
  t = tcase_create("engine");
  tcase_set_timeout(t, 60);
  tcase_add_loop_test(t, writers_are_answered_although_their_fellows_stay_away, 0, 2);
  suite_add_tcase(s, t);
  return check_main(s);
}
