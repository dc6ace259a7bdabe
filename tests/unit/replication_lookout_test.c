/* Looking for the primary: when it is asked for, and whose answer counts. */
#include <check.h>
#include <string.h>

#include "replication/lookout.h"
#include "tests/support/check_main.h"

#define S 1000000000ull

static struct lookout l;
static size_t found;

static void setup(void) {
  lookout_init(&l, 3, 5 * S, 100 * S);
  found = 99;
}

static bool tick(const struct lookout_self *self, uint64_t now) {
  return lookout_tick(&l, self, now, &found);
}

static void ask_all(void) {
  for (size_t i = 0; i < 3; i++) {
    ck_assert(lookout_wants(&l, i));
    lookout_asked(&l, i);
    ck_assert(!lookout_wants(&l, i));
  }
}

static void answer(size_t i, dw_role role, bool fenced, uint64_t epoch) {
  struct msg_fenced m = {
      .role = (uint8_t)role, .fenced = fenced, .has_data = true, .node_id = i + 1, .durable = {.epoch = epoch}};
  lookout_answer(&l, i, &m);
}

START_TEST(the_primary_of_the_highest_epoch_is_found_among_others) {
  struct lookout_self self = {.role = DW_FOLLOWER, .lost = true, .epoch = 5};
  ck_assert(!tick(&self, 100 * S));
  ask_all();
  answer(0, DW_PRIMARY, false, 6);
  ck_assert(!tick(&self, 101 * S)); /* others may know more */
  answer(1, DW_PRIMARY, false, 9);
  answer(2, DW_FOLLOWER, false, 12); /* hearsay */
  ck_assert(tick(&self, 101 * S));
  ck_assert_uint_eq(found, 1);
  ck_assert(!tick(&self, 105 * S)); /* the next round is not due */
  ck_assert(!lookout_wants(&l, 0));
  tick(&self, 106 * S);
  ck_assert(lookout_wants(&l, 0));
}
END_TEST

START_TEST(a_fenced_or_older_primary_is_none) {
  struct lookout_self self = {.role = DW_FOLLOWER, .lost = true, .epoch = 5, .promised_epoch = 8};
  tick(&self, 100 * S);
  ask_all();
  answer(0, DW_PRIMARY, true, 20);
  answer(1, DW_PRIMARY, false, 7); /* below what was promised */
  answer(2, DW_PRIMARY, false, 4);
  ck_assert(!tick(&self, 101 * S));
  ck_assert_uint_eq(found, 99);
}
END_TEST

START_TEST(who_does_not_answer_holds_a_round_up_for_its_time_only) {
  struct lookout_self self = {.role = DW_FOLLOWER, .lost = true, .epoch = 5};
  tick(&self, 100 * S);
  ask_all();
  answer(1, DW_PRIMARY, false, 5); /* of our own epoch: it will do for a follower */
  lookout_unreachable(&l, 0);
  ck_assert(!tick(&self, 104 * S));
  ck_assert_uint_eq(lookout_next_tick(&l), 105 * S);
  ck_assert(tick(&self, 105 * S));
  ck_assert_uint_eq(found, 1);
}
END_TEST

START_TEST(a_follower_that_has_its_primary_does_not_ask) {
  struct lookout_self self = {.role = DW_FOLLOWER, .epoch = 5};
  tick(&self, 200 * S);
  ck_assert(!lookout_wants(&l, 0));
  self.lost = true; /* and one that finds it again meanwhile needs no other */
  tick(&self, 200 * S);
  ask_all();
  for (size_t i = 0; i < 3; i++) answer(i, DW_PRIMARY, false, 9);
  self.lost = false;
  ck_assert(!tick(&self, 201 * S));
}
END_TEST

START_TEST(a_primary_asks_for_a_newer_one_and_a_fenced_one_more_often) {
  struct lookout_self self = {.role = DW_PRIMARY, .epoch = 5};
  tick(&self, 100 * S);
  ask_all();
  answer(0, DW_PRIMARY, false, 5); /* a copy of our own epoch is no newer primary */
  lookout_unreachable(&l, 1);
  lookout_unreachable(&l, 2);
  ck_assert(!tick(&self, 100 * S));
  self.fenced = true;
  tick(&self, 105 * S);
  ask_all();
  for (size_t i = 0; i < 3; i++) lookout_unreachable(&l, i);
  ck_assert(!tick(&self, 105 * S));
  tick(&self, 106 * S);
  ask_all();
  answer(0, DW_PRIMARY, false, 6);
  lookout_unreachable(&l, 1);
  lookout_unreachable(&l, 2);
  ck_assert(tick(&self, 106 * S));
  ck_assert_uint_eq(found, 0);
}
END_TEST

int main(void) {
  Suite *s = suite_create("lookout");
  TCase *t = tcase_create("lookout");
  tcase_add_checked_fixture(t, setup, NULL);
  tcase_add_test(t, the_primary_of_the_highest_epoch_is_found_among_others);
  tcase_add_test(t, a_fenced_or_older_primary_is_none);
  tcase_add_test(t, who_does_not_answer_holds_a_round_up_for_its_time_only);
  tcase_add_test(t, a_follower_that_has_its_primary_does_not_ask);
  tcase_add_test(t, a_primary_asks_for_a_newer_one_and_a_fenced_one_more_often);
  suite_add_tcase(s, t);
  return check_main(s);
}
