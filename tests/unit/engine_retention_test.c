/* How far the log may be trimmed. Five closed segments of 100 bytes and 10 LSNs each, and the open one. */
#include <stdlib.h>

#include "tests/support/check_main.h"
#include "engine/internal.h"

static struct wal_segment_info segments[6];
static struct retention_in in;

static void setup(void) {
  for (unsigned i = 0; i < 6; i++)
    segments[i] = (struct wal_segment_info){.seq = i + 1,
                                            .first_lsn = i * 10 + 1,
                                            .last_lsn = i * 10 + 10,
                                            .bytes = 100,
                                            .last_append_mono_ns = (i + 1) * 1000};
  in = (struct retention_in){.segments = segments,
                             .n = 6,
                             .persisted = 60,
                             .pinned = UINT64_MAX,
                             .retain_bytes = 1000,
                             .retain_ns = 100000,
                             .now_ns = 7000};
}

START_TEST(without_followers_everything_persisted_but_the_open_segment_may_go) {
  ck_assert_uint_eq(retention_trim_lsn(&in), 50);
}
END_TEST

START_TEST(what_the_store_has_not_persisted_stays) {
  in.persisted = 29;
  ck_assert_uint_eq(retention_trim_lsn(&in), 20);
  in.persisted = 9;
  ck_assert_uint_eq(retention_trim_lsn(&in), 0);
}
END_TEST

START_TEST(what_a_connected_follower_or_bootstrap_still_reads_stays) {
  in.pinned = 35;
  ck_assert_uint_eq(retention_trim_lsn(&in), 30);
}
END_TEST

START_TEST(for_absent_followers_the_newest_bytes_are_kept_and_not_more) {
  in.keep_for_absent = true;
  ck_assert_uint_eq(retention_trim_lsn(&in), 0);
  in.retain_bytes = 350; /* the open segment and two more */
  ck_assert_uint_eq(retention_trim_lsn(&in), 30);
  in.retain_bytes = 0;
  ck_assert_uint_eq(retention_trim_lsn(&in), 50);
}
END_TEST

START_TEST(for_absent_followers_old_segments_go_by_age) {
  in.keep_for_absent = true;
  in.retain_ns = 4500; /* written after 2500 */
  ck_assert_uint_eq(retention_trim_lsn(&in), 20);
}
END_TEST

START_TEST(an_absent_follower_can_not_hold_what_exceeds_the_bytes_but_a_connected_one_can) {
  in.keep_for_absent = true;
  in.retain_bytes = 0;
  in.pinned = 11;
  ck_assert_uint_eq(retention_trim_lsn(&in), 10);
}
END_TEST

/* An epoch record uses no LSN: behind LSN 50 one may stand in that segment which is not persisted, or not sent, yet. */
START_TEST(the_segment_that_ends_exactly_where_something_is_needed_stays) {
  in.persisted = 50;
  ck_assert_uint_eq(retention_trim_lsn(&in), 40);
  in.persisted = 60;
  in.pinned = 30;
  ck_assert_uint_eq(retention_trim_lsn(&in), 20);
  in.pinned = 0;
  ck_assert_uint_eq(retention_trim_lsn(&in), 0);
}
END_TEST

int main(void) {
  Suite *s = suite_create("retention");
  TCase *t = tcase_create("retention");
  tcase_add_checked_fixture(t, setup, NULL);
  tcase_add_test(t, without_followers_everything_persisted_but_the_open_segment_may_go);
  tcase_add_test(t, what_the_store_has_not_persisted_stays);
  tcase_add_test(t, what_a_connected_follower_or_bootstrap_still_reads_stays);
  tcase_add_test(t, for_absent_followers_the_newest_bytes_are_kept_and_not_more);
  tcase_add_test(t, for_absent_followers_old_segments_go_by_age);
  tcase_add_test(t, an_absent_follower_can_not_hold_what_exceeds_the_bytes_but_a_connected_one_can);
  tcase_add_test(t, the_segment_that_ends_exactly_where_something_is_needed_stays);
  suite_add_tcase(s, t);
  return check_main(s);
}
