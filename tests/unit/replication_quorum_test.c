/* The table of followers, the staleness tables, and both ends of a checkpoint transfer, each by itself. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "replication/checkpoint_transfer.h"
#include "tests/support/repl_sim.h"

/* ---- quorum ---------------------------------------------------------------------------------- */

static struct ack_quorum q;
static struct ack_marks marks;
static int conns[1000];
static void setup(void) {
  quorum_init(&q);
}
static void teardown(void) {
  quorum_free(&q);
}

static struct msg_hello hello(uint64_t node, uint64_t incarnation) {
  return (struct msg_hello){.node_id = node, .incarnation = sim_id(incarnation), .region = "r"};
}

static int admit(int conn, uint64_t node, uint64_t incarnation, void **old) {
  struct msg_hello h = hello(node, incarnation);
  void *ignored;
  int rc = quorum_admit(&q, &conns[conn], &h, "10.0.0.1:9", (uint64_t)conn, old ? old : &ignored);
  if (rc == DW_OK) quorum_state(&q, &conns[conn], DW_PEER_STREAMING, (uint64_t)conn);
  return rc;
}

static void ack(int conn, dw_lsn received, dw_lsn durable, dw_lsn applied) {
  struct msg_ack m = {received, durable, applied, 5};
  quorum_marks(&q, &conns[conn], &m, 0);
  quorum_boil(&q, &marks);
}

START_TEST(the_kth_mark_is_what_k_followers_have_reached) {
  for (int i = 1; i <= 3; i++) ck_assert_int_eq(admit(i, (uint64_t)i, (uint64_t)i, NULL), DW_OK);
  ack(1, 30, 10, 5);
  ack(2, 20, 20, 1);
  ack(3, 10, 5, 5);
  ck_assert_uint_eq(marks.connected, 3);
  ck_assert_uint_eq(marks.known, 3);
  ck_assert_uint_eq(marks.mark[LEVEL_RECEIVED][0], 30);
  ck_assert_uint_eq(marks.mark[LEVEL_RECEIVED][1], 20);
  ck_assert_uint_eq(marks.mark[LEVEL_RECEIVED][2], 10);
  ck_assert_uint_eq(marks.mark[LEVEL_DURABLE][0], 20);
  ck_assert_uint_eq(marks.mark[LEVEL_DURABLE][1], 10);
  ck_assert_uint_eq(marks.mark[LEVEL_APPLIED][1], 5);
  ck_assert_uint_eq(marks.mark[LEVEL_APPLIED][2], 1);
  ck_assert_uint_eq(marks.mark[LEVEL_APPLIED][3], 0);
}
END_TEST

START_TEST(a_bootstrapping_follower_does_not_count_as_connected) {
  admit(1, 1, 1, NULL);
  quorum_state(&q, &conns[1], DW_PEER_BOOTSTRAPPING, 0);
  quorum_boil(&q, &marks);
  ck_assert_uint_eq(marks.connected, 0);
  quorum_state(&q, &conns[1], DW_PEER_CATCHING_UP, 0);
  quorum_boil(&q, &marks);
  ck_assert_uint_eq(marks.connected, 1);
}
END_TEST

START_TEST(an_absent_follower_still_has_what_it_acked_but_is_not_connected) {
  admit(1, 1, 1, NULL);
  ack(1, 9, 8, 7);
  quorum_gone(&q, &conns[1], 1);
  quorum_boil(&q, &marks);
  ck_assert_uint_eq(marks.connected, 0);
  ck_assert_uint_eq(marks.mark[LEVEL_DURABLE][0], 8);
  ack(1, 99, 99, 99); /* from a dead connection */
  ck_assert_uint_eq(marks.mark[LEVEL_DURABLE][0], 8);
}
END_TEST

START_TEST(a_new_connection_of_the_same_directory_supersedes_the_old_one) {
  void *old = NULL;
  admit(1, 1, 1, NULL);
  ack(1, 9, 8, 7);
  ck_assert_int_eq(admit(2, 1, 1, &old), DW_OK);
  ck_assert_ptr_eq(old, &conns[1]);
  quorum_gone(&q, &conns[1], 5); /* the old one goes: nothing changes */
  quorum_boil(&q, &marks);
  ck_assert_uint_eq(marks.connected, 1);
  ck_assert_uint_eq(marks.mark[LEVEL_DURABLE][0], 8);
  ck_assert_uint_eq(q.count, 1);
}
END_TEST

START_TEST(a_new_directory_starts_from_nothing_and_waits_for_the_old_one_to_go) {
  admit(1, 1, 1, NULL);
  ack(1, 9, 8, 7);
  ck_assert_int_eq(admit(2, 1, 2, NULL), DW_LOCKED);
  ck_assert_uint_eq(q.followers[0].durable, 8);
  quorum_gone(&q, &conns[1], 1);
  ck_assert_int_eq(admit(2, 1, 2, NULL), DW_OK);
  quorum_boil(&q, &marks);
  ck_assert_uint_eq(marks.mark[LEVEL_RECEIVED][0], 0);
  ck_assert_uint_eq(marks.mark[LEVEL_DURABLE][0], 0);
}
END_TEST

START_TEST(marks_fall_to_the_log_that_a_follower_comes_back_with) {
  struct position_decision d = {.kind = POSITION_STREAM, .pos = {.lsn = 6}};
  admit(1, 1, 1, NULL);
  ack(1, 9, 8, 5);
  admit(2, 1, 1, NULL);
  quorum_located(&q, &conns[2], &d);
  quorum_boil(&q, &marks);
  ck_assert_uint_eq(marks.mark[LEVEL_RECEIVED][0], 6);
  ck_assert_uint_eq(marks.mark[LEVEL_DURABLE][0], 6);
  ck_assert_uint_eq(marks.mark[LEVEL_APPLIED][0], 5);
  d = (struct position_decision){.kind = POSITION_REFUSE, .code = DW_DIVERGED};
  quorum_located(&q, &conns[2], &d);
  ck_assert_uint_eq(q.count, 0);
}
END_TEST

START_TEST(a_follower_that_needs_a_checkpoint_speaks_for_what_it_has_applied_only) {
  struct position_decision d = {.kind = POSITION_BOOTSTRAP, .pos = {.lsn = 3}}; /* its directory is an old copy */
  admit(1, 1, 1, NULL);
  ack(1, 9, 8, 5);
  admit(2, 1, 1, NULL);
  quorum_located(&q, &conns[2], &d);
  quorum_boil(&q, &marks);
  ck_assert_uint_eq(marks.mark[LEVEL_RECEIVED][0], 3);
  ck_assert_uint_eq(marks.mark[LEVEL_DURABLE][0], 3);
  ck_assert_uint_eq(marks.mark[LEVEL_APPLIED][0], 3);
}
END_TEST

START_TEST(marks_never_fall_within_a_connection) {
  admit(1, 1, 1, NULL);
  ack(1, 9, 8, 7);
  ack(1, 3, 2, 1);
  ck_assert_uint_eq(marks.mark[LEVEL_RECEIVED][0], 9);
  ck_assert_uint_eq(marks.mark[LEVEL_APPLIED][0], 7);
}
END_TEST

START_TEST(the_table_is_bounded_and_forgets_the_longest_absent) {
  for (int i = 1; i <= 200; i++) {
    ck_assert_int_eq(admit(i, (uint64_t)i, 1, NULL), DW_OK);
    ack(i, (dw_lsn)i, 0, 0);
    quorum_gone(&q, &conns[i], (uint64_t)i);
  }
  ck_assert_uint_eq(q.count, QUORUM_ABSENT);
  quorum_boil(&q, &marks);
  ck_assert_uint_eq(marks.known, 64);
  for (unsigned k = 0; k < 64; k++) ck_assert_uint_eq(marks.mark[LEVEL_RECEIVED][k], 200 - k);
  int rc = DW_OK;
  int n = 0;
  while (rc == DW_OK && n < 600) rc = admit(300 + n, (uint64_t)(1000 + n), 1, NULL), n++;
  ck_assert_int_eq(rc, DW_NO_SPACE);
  ck_assert_int_eq(n, QUORUM_MAX + 1);
  ck_assert_int_eq(admit(299, 200, 1, NULL), DW_NO_SPACE); /* a known absent one needs a place, too */
}
END_TEST

/* ---- staleness ------------------------------------------------------------------------------- */

START_TEST(data_is_as_fresh_as_the_sending_of_the_newest_confirmed_probe) {
  struct staleness s;
  staleness_init(&s);
  ck_assert_uint_eq(staleness_ns(&s, 1000), UINT64_MAX);
  uint64_t a = staleness_sent(&s, 100, false), b = staleness_sent(&s, 200, false);
  ck_assert(staleness_answered(&s, a, 5));
  ck_assert_uint_eq(staleness_ns(&s, 1000), UINT64_MAX); /* answered, not applied */
  staleness_applied(&s, 4);
  ck_assert_uint_eq(staleness_ns(&s, 1000), UINT64_MAX);
  staleness_applied(&s, 5);
  ck_assert_uint_eq(staleness_ns(&s, 1000), 900);
  ck_assert(staleness_answered(&s, b, 5)); /* applied already: at once */
  ck_assert_uint_eq(staleness_ns(&s, 1000), 800);
  ck_assert(!staleness_answered(&s, b, 5)); /* a second time */
  ck_assert(!staleness_answered(&s, 999, 0));
}
END_TEST

START_TEST(an_answer_that_overtook_another_is_not_undone_by_it) {
  struct staleness s;
  staleness_init(&s);
  uint64_t a = staleness_sent(&s, 100, false), b = staleness_sent(&s, 200, false);
  staleness_applied(&s, 9);
  staleness_answered(&s, b, 5);
  staleness_answered(&s, a, 5);
  ck_assert_uint_eq(staleness_ns(&s, 1000), 800);
}
END_TEST

START_TEST(answers_of_an_earlier_connection_confirm_nothing) {
  struct staleness s;
  staleness_init(&s);
  uint64_t a = staleness_sent(&s, 100, false), b = staleness_sent(&s, 200, false);
  staleness_answered(&s, a, 5);
  staleness_disconnected(&s);
  ck_assert(!staleness_answered(&s, b, 0));
  ck_assert(!staleness_asked(&s, b));
  staleness_applied(&s, 100);
  ck_assert_uint_eq(staleness_ns(&s, 1000), UINT64_MAX);
  ck_assert_uint_gt(staleness_sent(&s, 300, false), b); /* ids are not used again */
}
END_TEST

START_TEST(probes_that_nobody_answers_do_not_use_up_the_table) {
  struct staleness s;
  staleness_init(&s);
  uint64_t awaited = 0, id = 0;
  for (unsigned i = 0; i < 1000; i++) {
    id = staleness_sent(&s, 1000 + i, i == 500);
    if (i == 500) awaited = id;
  }
  ck_assert_uint_le(s.sent_count, STALENESS_PROBES);
  ck_assert(staleness_answered(&s, 1, 0)); /* the oldest is still known */
  ck_assert_uint_eq(staleness_ns(&s, 2000), 1000);
  ck_assert(staleness_answered(&s, awaited, 0)); /* so is the one that somebody waits for */
  ck_assert(staleness_answered(&s, id, 0));
  ck_assert_uint_eq(staleness_ns(&s, 2000), 1);
  ck_assert(staleness_asked(&s, 2) && !staleness_answered(&s, 2, 0)); /* forgotten */
  ck_assert(!staleness_asked(&s, id + 1));
}
END_TEST

START_TEST(answers_that_take_longer_than_the_table_spans_still_confirm) {
  struct staleness s;
  staleness_init(&s);
  for (uint64_t t = 1; t <= 5000; t++) {
    staleness_sent(&s, t * 100, false);
    if (t > 300) staleness_answered(&s, t - 300, 0); /* each takes 300 intervals */
  }
  ck_assert_uint_ge(staleness_ns(&s, 500000), 30000);
  ck_assert_uint_le(staleness_ns(&s, 500000), 60000);
}
END_TEST

/* ---- checkpoint transfer --------------------------------------------------------------------- */

static struct ckpt_manifest manifest(void) {
  struct ckpt_manifest m = {.id = sim_id(4)};
  ckpt_manifest_add(&m, "a", 600000);
  ckpt_manifest_add(&m, "empty", 0);
  ckpt_manifest_add(&m, "b", 10000000);
  return m;
}

static struct msg_ckpt_want want(uint8_t store[24], uint64_t a, uint64_t e, uint64_t b) {
  put_u64(store, a), put_u64(store + 8, e), put_u64(store + 16, b);
  return (struct msg_ckpt_want){.id = sim_id(4), .count = 3, .offsets = store};
}

START_TEST(at_most_a_window_of_chunks_is_unacknowledged) {
  struct ckpt_manifest m = manifest();
  struct ckpt_sender s;
  uint8_t store[24], data[MSG_CHUNK_BYTES] = {0};
  uint32_t file, n, skip;
  uint64_t off, sent = 0;
  ckpt_sender_init(&s, &m);
  ck_assert_int_eq(ckpt_sender_next(&s, &file, &off, &n), CKPT_WAIT); /* until WANT */
  struct msg_ckpt_want w = want(store, CKPT_HELD, CKPT_HELD, 0);
  ck_assert_int_eq(ckpt_sender_want(&s, &w), DW_OK);
  ck_assert_int_eq(ckpt_sender_want(&s, &w), DW_CORRUPT);
  while (ckpt_sender_next(&s, &file, &off, &n) == CKPT_READ) {
    ck_assert_uint_eq(file, 2);
    ck_assert_uint_eq(off, sent);
    ckpt_sender_read(&s, data, n, &skip);
    sent += n;
  }
  ck_assert_uint_le(sent, CKPT_WINDOW_BYTES);
  ck_assert_uint_gt(sent, CKPT_WINDOW_BYTES - 2 * MSG_CHUNK_BYTES);
  ck_assert_int_eq(ckpt_sender_ack(&s, sent + 1), DW_CORRUPT);
  ck_assert_int_eq(ckpt_sender_ack(&s, MSG_CHUNK_BYTES), DW_OK);
  ck_assert_int_eq(ckpt_sender_next(&s, &file, &off, &n), CKPT_READ);
  ckpt_sender_free(&s);
}
END_TEST

START_TEST(a_resumed_file_is_hashed_whole_and_sent_from_where_it_stopped) {
  struct ckpt_manifest m = manifest();
  struct ckpt_sender s;
  uint8_t store[24];
  uint8_t *data = malloc(600000);
  for (size_t i = 0; i < 600000; i++) data[i] = (uint8_t)(i >> 3);
  uint32_t file, n, skip;
  uint64_t off, sent = 0;
  ckpt_sender_init(&s, &m);
  struct msg_ckpt_want w = want(store, 300000, 0, CKPT_HELD);
  ck_assert_int_eq(ckpt_sender_want(&s, &w), DW_OK);
  while (ckpt_sender_next(&s, &file, &off, &n) == CKPT_READ) {
    ckpt_sender_read(&s, data + off, n, &skip);
    sent += n - skip;
  }
  ck_assert_uint_eq(sent, 300000);
  struct hash128 got, whole = hash128(data, 600000), nothing = hash128("", 0);
  ck_assert_int_eq(ckpt_sender_next(&s, &file, &off, &n), CKPT_FILE_END);
  ckpt_sender_file_end(&s, &got);
  ck_assert(hash128_eq(&got, &whole));
  ck_assert_int_eq(ckpt_sender_next(&s, &file, &off, &n), CKPT_FILE_END); /* the empty one */
  ckpt_sender_file_end(&s, &got);
  ck_assert(hash128_eq(&got, &nothing));
  ck_assert_int_eq(ckpt_sender_next(&s, &file, &off, &n), CKPT_DONE);
  free(data);
  ckpt_sender_free(&s);
}
END_TEST

START_TEST(a_want_that_does_not_fit_the_manifest_is_refused) {
  struct ckpt_manifest m = manifest();
  struct ckpt_sender s;
  uint8_t store[24];
  ckpt_sender_init(&s, &m);
  struct msg_ckpt_want w = want(store, 600001, 0, 0);
  ck_assert_int_eq(ckpt_sender_want(&s, &w), DW_CORRUPT);
  w = want(store, 0, 0, 0);
  w.count = 2;
  ck_assert_int_eq(ckpt_sender_want(&s, &w), DW_CORRUPT);
  w.count = 3;
  w.id = sim_id(5);
  ck_assert_int_eq(ckpt_sender_want(&s, &w), DW_CORRUPT);
  ckpt_sender_free(&s);
}
END_TEST

START_TEST(only_the_next_bytes_are_taken) {
  struct ckpt_manifest m = manifest();
  struct ckpt_receiver r;
  uint64_t have[3] = {CKPT_HELD, 0, 1000}, bad[3] = {0, 1, 0};
  uint8_t data[10] = {0};
  struct msg_ckpt_chunk c = {.file = 2, .offset = 1000, .data = data, .bytes = 10};
  struct hash128 id = sim_id(4), other = sim_id(5);
  ckpt_receiver_init(&r, &m);
  ck_assert_int_eq(ckpt_receiver_chunk(&r, &c), DW_CORRUPT); /* before WANT */
  ck_assert_int_eq(ckpt_receiver_want(&r, bad), DW_INVALID);
  ck_assert_int_eq(ckpt_receiver_want(&r, have), DW_OK);
  ck_assert_int_eq(ckpt_receiver_chunk(&r, &c), DW_CORRUPT); /* the empty file's end comes first */
  ck_assert_int_eq(ckpt_receiver_file_end(&r, &(struct msg_ckpt_file_end){.file = 2}), DW_CORRUPT);
  ck_assert_int_eq(ckpt_receiver_file_end(&r, &(struct msg_ckpt_file_end){.file = 1}), DW_OK);
  ck_assert_int_eq(ckpt_receiver_chunk(&r, &c), DW_OK);
  ck_assert_int_eq(ckpt_receiver_chunk(&r, &c), DW_CORRUPT); /* again */
  c.offset = 1010, c.file = 3;
  ck_assert_int_eq(ckpt_receiver_chunk(&r, &c), DW_CORRUPT);
  c.file = 2, c.bytes = 20000000;
  ck_assert_int_eq(ckpt_receiver_chunk(&r, &c), DW_CORRUPT); /* beyond the file's size */
  ck_assert_int_eq(ckpt_receiver_file_end(&r, &(struct msg_ckpt_file_end){.file = 2}), DW_CORRUPT);
  ck_assert_int_eq(ckpt_receiver_done(&r, &id), DW_CORRUPT);
  c.bytes = 10000000 - 1010;
  ck_assert_int_eq(ckpt_receiver_chunk(&r, &c), DW_OK);
  ck_assert_int_eq(ckpt_receiver_file_end(&r, &(struct msg_ckpt_file_end){.file = 2}), DW_OK);
  ck_assert_int_eq(ckpt_receiver_done(&r, &other), DW_CORRUPT);
  ck_assert_int_eq(ckpt_receiver_done(&r, &id), DW_OK);
  ckpt_receiver_free(&r);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication_quorum");
  TCase *t = tcase_create("quorum");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, the_kth_mark_is_what_k_followers_have_reached);
  tcase_add_test(t, a_bootstrapping_follower_does_not_count_as_connected);
  tcase_add_test(t, an_absent_follower_still_has_what_it_acked_but_is_not_connected);
  tcase_add_test(t, a_new_connection_of_the_same_directory_supersedes_the_old_one);
  tcase_add_test(t, a_new_directory_starts_from_nothing_and_waits_for_the_old_one_to_go);
  tcase_add_test(t, marks_fall_to_the_log_that_a_follower_comes_back_with);
  tcase_add_test(t, a_follower_that_needs_a_checkpoint_speaks_for_what_it_has_applied_only);
  tcase_add_test(t, marks_never_fall_within_a_connection);
  tcase_add_test(t, the_table_is_bounded_and_forgets_the_longest_absent);
  suite_add_tcase(s, t);
  t = tcase_create("staleness");
  tcase_add_test(t, data_is_as_fresh_as_the_sending_of_the_newest_confirmed_probe);
  tcase_add_test(t, an_answer_that_overtook_another_is_not_undone_by_it);
  tcase_add_test(t, answers_of_an_earlier_connection_confirm_nothing);
  tcase_add_test(t, probes_that_nobody_answers_do_not_use_up_the_table);
  tcase_add_test(t, answers_that_take_longer_than_the_table_spans_still_confirm);
  suite_add_tcase(s, t);
  t = tcase_create("transfer");
  tcase_add_test(t, at_most_a_window_of_chunks_is_unacknowledged);
  tcase_add_test(t, a_resumed_file_is_hashed_whole_and_sent_from_where_it_stopped);
  tcase_add_test(t, a_want_that_does_not_fit_the_manifest_is_refused);
  tcase_add_test(t, only_the_next_bytes_are_taken);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
