/* The judge of histories, judged: histories made by hand, good and bad for each rule, and thousands of random small
 * ones against a search through all orders (Wing and Gong). */
#include "tests/support/check_main.h"

#include <stdio.h>
#include <string.h>

#include "tests/support/history_check.h"

static struct event events[64];
static size_t count;
static char why[600];

static void setup(void) {
  count = 0;
}

static struct event *add(enum event_kind kind, int key, uint64_t value, uint64_t invoked, uint64_t returned) {
  events[count] =
      (struct event){.kind = kind, .key = key, .value = value, .invoked = invoked, .returned = returned, .life = 1};
  return &events[count++];
}

static struct event *write_at(uint64_t value, uint64_t invoked, uint64_t returned, uint64_t lsn) {
  struct event *e = add(EVENT_WRITE, 1, value, invoked, returned);
  e->lsn = lsn;
  return e;
}

static struct event *read_at(enum event_kind kind, int node, uint64_t value, uint64_t invoked, uint64_t returned) {
  struct event *e = add(kind, 1, value, invoked, returned);
  e->node = node;
  return e;
}

#define GOOD() ck_assert_msg(judge_history(events, count, why, sizeof why), "%s", why)
#define BAD(text)                                                                                                      \
  do {                                                                                                                 \
    ck_assert(!judge_history(events, count, why, sizeof why));                                                         \
    ck_assert_msg(strstr(why, text) != NULL, "%s", why);                                                               \
  } while (0)

START_TEST(a_read_may_see_either_of_two_writes_that_overlap_it_but_not_both_ways) {
  write_at(1, 10, 20, 0);
  write_at(2, 30, 60, 0);
  read_at(EVENT_STRONG, 0, 1, 35, 40);
  read_at(EVENT_STRONG, 0, 2, 45, 50);
  GOOD();
  read_at(EVENT_STRONG, 0, 1, 55, 58); /* back again */
  BAD("");
}
END_TEST

START_TEST(a_strong_read_that_misses_a_write_that_had_returned_is_seen) {
  write_at(1, 10, 20, 0);
  write_at(2, 30, 40, 0);
  read_at(EVENT_STRONG, 1, 1, 41, 50);
  BAD("");
}
END_TEST

START_TEST(a_strong_read_of_nothing_after_a_write_is_seen) {
  read_at(EVENT_STRONG, 1, 0, 5, 15);
  write_at(1, 10, 20, 0);
  GOOD();
  read_at(EVENT_STRONG, 1, 0, 21, 25);
  BAD("");
}
END_TEST

START_TEST(a_write_in_doubt_may_take_effect_late_or_never_but_not_twice) {
  struct event *doubt = write_at(1, 10, 20, 0);
  doubt->end = END_IN_DOUBT;
  write_at(2, 30, 40, 0);
  read_at(EVENT_STRONG, 0, 2, 41, 42);
  GOOD(); /* never */
  read_at(EVENT_STRONG, 0, 1, 50, 60);
  GOOD(); /* after the second */
  read_at(EVENT_STRONG, 0, 2, 61, 70);
  BAD("");
}
END_TEST

START_TEST(what_was_refused_or_never_written_is_not_seen) {
  struct event *no = write_at(1, 10, 20, 0);
  no->end = END_REFUSED;
  GOOD();
  read_at(EVENT_EVENTUAL, 1, 1, 30, 40);
  BAD("a refused write was seen");
  count = 0;
  read_at(EVENT_EVENTUAL, 1, 7, 30, 40);
  BAD("a value that nobody wrote");
  count = 0;
  read_at(EVENT_EVENTUAL, 1, 1, 30, 40);
  write_at(1, 50, 60, 0);
  BAD("seen before it was written");
}
END_TEST

START_TEST(a_bounded_read_may_be_as_old_as_its_bound_and_not_older) {
  write_at(1, 10, 20, 0);
  write_at(2, 100, 110, 0);
  struct event *r = read_at(EVENT_BOUNDED, 1, 1, 150, 160);
  r->bound = 40; /* 150 - 40 = 110: the second may have taken effect just then */
  GOOD();
  r = &events[count - 1];
  for (size_t i = 0; i < count; i++)
    if (events[i].kind == EVENT_BOUNDED) r = &events[i];
  r->bound = 39;
  BAD("");
}
END_TEST

START_TEST(a_session_read_holds_its_token) {
  write_at(1, 10, 20, 1);
  write_at(2, 30, 40, 2);
  struct event *r = read_at(EVENT_SESSION, 1, 1, 100, 110);
  r->token = 1;
  GOOD();
  for (size_t i = 0; i < count; i++)
    if (events[i].kind == EVENT_SESSION) events[i].token = 2;
  BAD("a read misses a write");
}
END_TEST

START_TEST(a_node_never_goes_back_within_one_life_not_even_from_key_to_key) {
  write_at(1, 10, 20, 1);
  struct event *w = add(EVENT_WRITE, 2, 2, 30, 40);
  w->lsn = 2;
  read_at(EVENT_EVENTUAL, 1, 0, 50, 55);
  read_at(EVENT_EVENTUAL, 1, 1, 60, 65);
  GOOD();
  read_at(EVENT_EVENTUAL, 2, 0, 70, 75); /* another node */
  struct event *r = read_at(EVENT_EVENTUAL, 1, 0, 76, 78);
  r->life = 2; /* another life */
  GOOD();
  read_at(EVENT_EVENTUAL, 1, 0, 80, 85);
  BAD("in sight there before");
  count = 0;
  write_at(1, 10, 20, 1);
  w = add(EVENT_WRITE, 2, 2, 30, 40);
  w->lsn = 2;
  r = add(EVENT_EVENTUAL, 2, 2, 50, 55); /* LSN 2 of the other key is in sight, so LSN 1 is */
  r->node = 1;
  read_at(EVENT_EVENTUAL, 1, 0, 60, 65);
  BAD("in sight there before");
}
END_TEST

START_TEST(keys_read_at_one_point_show_one_prefix) {
  write_at(1, 10, 20, 1);
  add(EVENT_WRITE, 2, 2, 30, 40)->lsn = 2;
  struct event *a = read_at(EVENT_EVENTUAL, 1, 1, 50, 60);
  struct event *b = add(EVENT_EVENTUAL, 2, 2, 50, 60);
  b->node = 1;
  a->snapshot = b->snapshot = 9;
  GOOD();
  for (size_t i = 0; i < count; i++)
    if (events[i].kind == EVENT_EVENTUAL && events[i].key == 1) events[i].value = 0;
  BAD("in sight there before");
}
END_TEST

START_TEST(an_answered_write_is_in_sight_at_the_primary) {
  write_at(1, 10, 20, 1);
  read_at(EVENT_EVENTUAL, 0, 0, 15, 25);
  GOOD();
  read_at(EVENT_EVENTUAL, 0, 0, 21, 25);
  BAD("in sight there before");
}
END_TEST

START_TEST(numbers_follow_time) {
  write_at(1, 10, 20, 2);
  write_at(2, 15, 30, 1);
  GOOD();
  write_at(3, 25, 40, 1); /* after the first had returned */
  events[count - 1].key = 2;
  BAD("a later write has a lower LSN");
}
END_TEST

/* ---- against a search ------------------------------------------------------------------------------ */

static uint64_t lower(const struct event *e) {
  if (e->kind == EVENT_WRITE || e->kind == EVENT_STRONG) return e->invoked;
  if (e->kind == EVENT_BOUNDED) return e->invoked > e->bound ? e->invoked - e->bound : 0;
  return 0;
}

static uint64_t upper(const struct event *e) {
  return e->kind == EVENT_WRITE && e->end == END_IN_DOUBT ? UINT64_MAX : e->returned;
}

/* Can the events that are not in `done` follow, with this value current? */
static bool search(unsigned done, uint64_t current) {
  uint64_t least = UINT64_MAX;
  bool left = false;
  for (size_t i = 0; i < count; i++) {
    if (done >> i & 1) continue;
    if (upper(&events[i]) < least) least = upper(&events[i]);
    left |= events[i].kind != EVENT_WRITE || events[i].end == END_OK;
  }
  if (!left) return true; /* only writes in doubt: never */
  for (size_t i = 0; i < count; i++) {
    if (done >> i & 1 || lower(&events[i]) > least) continue;
    bool write = events[i].kind == EVENT_WRITE;
    if (write && events[i].end == END_REFUSED) continue;
    if (!write && events[i].value != current) continue;
    if (search(done | 1u << i, write ? events[i].value : current)) return true;
  }
  return false;
}

static unsigned below(uint64_t *state, unsigned n) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (unsigned)(*state >> 33) % n;
}

START_TEST(the_judge_agrees_with_a_search_through_all_orders) {
  uint64_t rnd = 12345;
  int good = 0, all = 40000;
  for (int round = 0; round < all; round++) {
    count = 0;
    unsigned writes = 1 + below(&rnd, 4), reads = 1 + below(&rnd, 4);
    for (unsigned i = 0; i < writes; i++) {
      unsigned from = below(&rnd, 20);
      struct event *w = write_at(i + 1, from, from + 1 + below(&rnd, 8), 0);
      if (below(&rnd, 4) == 0) w->end = END_IN_DOUBT;
    }
    for (unsigned i = 0; i < reads; i++) {
      unsigned from = below(&rnd, 25), kind = below(&rnd, 3);
      struct event *r = read_at(kind == 0   ? EVENT_STRONG
                                : kind == 1 ? EVENT_BOUNDED
                                            : EVENT_EVENTUAL,
                                (int)i, below(&rnd, writes + 1), from, from + 1 + below(&rnd, 6));
      r->bound = below(&rnd, 10);
    }
    bool expected = search(0, 0), judged = judge_history(events, count, why, sizeof why);
    for (size_t i = 0; i < count && expected != judged; i++)
      printf("%d %d value %d [%d %d] bound %d\n", (int)events[i].kind, (int)events[i].end, (int)events[i].value,
             (int)events[i].invoked, (int)events[i].returned, (int)events[i].bound);
    fflush(stdout);
    ck_assert_msg(expected == judged, "round %d: the search says %d, the judge %d: %s", round, expected, judged, why);
    good += expected;
  }
  ck_assert_int_gt(good, all / 10); /* of both kinds, many */
  ck_assert_int_lt(good, all * 9 / 10);
}
END_TEST

int main(void) {
  Suite *s = suite_create("history_check");
  TCase *t = tcase_create("history_check");
  tcase_add_checked_fixture(t, setup, NULL);
  tcase_add_test(t, a_read_may_see_either_of_two_writes_that_overlap_it_but_not_both_ways);
  tcase_add_test(t, a_strong_read_that_misses_a_write_that_had_returned_is_seen);
  tcase_add_test(t, a_strong_read_of_nothing_after_a_write_is_seen);
  tcase_add_test(t, a_write_in_doubt_may_take_effect_late_or_never_but_not_twice);
  tcase_add_test(t, what_was_refused_or_never_written_is_not_seen);
  tcase_add_test(t, a_bounded_read_may_be_as_old_as_its_bound_and_not_older);
  tcase_add_test(t, a_session_read_holds_its_token);
  tcase_add_test(t, a_node_never_goes_back_within_one_life_not_even_from_key_to_key);
  tcase_add_test(t, keys_read_at_one_point_show_one_prefix);
  tcase_add_test(t, an_answered_write_is_in_sight_at_the_primary);
  tcase_add_test(t, numbers_follow_time);
  tcase_add_test(t, the_judge_agrees_with_a_search_through_all_orders);
  suite_add_tcase(s, t);
  return check_main(s);
}
