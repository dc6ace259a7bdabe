/* FENCE and FENCED: as bytes, under hostile hands, and the two ends of their connection (replication/fencer.h,
 * shipper_fence.c) against a peer that lies. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/fencer.h"
#include "tests/support/check_main.h"
#include "tests/support/repl_sim.h"

static const struct msg_sender me = {.version = 1, .epoch = 9, .node_id = 77};

static struct msg_fence question(void) {
  return (struct msg_fence){.version_min = 1,
                            .version_max = 3,
                            .what = FENCE_PROMISE,
                            .force = true,
                            .cluster_id = sim_id(4),
                            .node_id = 77,
                            .id = 6,
                            .epoch = 5ull << 32 | 65537,
                            .address = "10.0.0.7:7400",
                            .durable = {50, 4, sim_id(51)}};
}

static struct msg_fenced reply(void) {
  return (struct msg_fenced){.version = 1,
                             .verdict = FENCE_REFUSED,
                             .role = DW_PRIMARY,
                             .fenced = true,
                             .writing = true,
                             .has_data = true,
                             .priority = 100,
                             .cluster_id = sim_id(4),
                             .node_id = 77,
                             .incarnation = sim_id(2),
                             .id = 6,
                             .promised_epoch = 7ull << 32,
                             .promised_node = 8,
                             .durable = {60, 4, sim_id(61)},
                             .commit_lsn = 58,
                             .applied_lsn = 57,
                             .staleness_ms = 250,
                             .primary = "10.0.0.8:7400",
                             .text = "promised already"};
}

/* ---- bytes ------------------------------------------------------------------------------------- */

START_TEST(the_bytes_of_fence_and_fenced_are_the_documented_ones) {
  struct buf b = {0};
  struct msg_fence q = question();
  struct msg_fenced a = reply();
  ck_assert_int_eq(msg_put_fence(&b, &me, &q), DW_OK);
  ck_assert_uint_eq(b.len, MSG_HEADER_BYTES + 160);
  ck_assert_mem_eq(b.data, "DWM1\0\0\x14\0\xa0\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0M\0\0\0\0\0\0\0", 32);
  const uint8_t *p = b.data + MSG_HEADER_BYTES;
  ck_assert_mem_eq(p, "\1\0\3\0\1\1\0\0", 8);
  ck_assert_mem_eq(p + 8, q.cluster_id.b, 16);
  ck_assert_uint_eq(get_u64(p + 24), 77);
  ck_assert_uint_eq(get_u64(p + 32), 6);
  ck_assert_uint_eq(get_u64(p + 40), 5ull << 32 | 65537);
  ck_assert_str_eq((const char *)p + 48, "10.0.0.7:7400");
  ck_assert_uint_eq(get_u64(p + 112), 50);
  ck_assert_uint_eq(get_u64(p + 120), 4);
  ck_assert_mem_eq(p + 128, q.durable.chain.b, 16);
  b.len = 0;
  ck_assert_int_eq(msg_put_fenced(&b, &me, &a), DW_OK);
  ck_assert_uint_eq(b.len, MSG_HEADER_BYTES + 216 + strlen(a.text));
  ck_assert_uint_eq(b.data[6], 21);
  p = b.data + MSG_HEADER_BYTES;
  ck_assert_mem_eq(p, "\1\0\2\0\7\0\0\0", 8);
  ck_assert_uint_eq(get_u32(p + 8), 100);
  ck_assert_uint_eq(get_u32(p + 12), strlen(a.text));
  ck_assert_mem_eq(p + 16, a.cluster_id.b, 16);
  ck_assert_uint_eq(get_u64(p + 32), 77);
  ck_assert_mem_eq(p + 40, a.incarnation.b, 16);
  ck_assert_uint_eq(get_u64(p + 56), 6);
  ck_assert_uint_eq(get_u64(p + 64), 7ull << 32);
  ck_assert_uint_eq(get_u64(p + 72), 8);
  ck_assert_uint_eq(get_u64(p + 80), 60);
  ck_assert_uint_eq(get_u64(p + 88), 4);
  ck_assert_mem_eq(p + 96, a.durable.chain.b, 16);
  ck_assert_uint_eq(get_u64(p + 112), 58);
  ck_assert_uint_eq(get_u64(p + 120), 57);
  ck_assert_uint_eq(get_u64(p + 128), 250);
  ck_assert_str_eq((const char *)p + 136, "10.0.0.8:7400");
  ck_assert_mem_eq(p + 216, a.text, strlen(a.text));
  buf_free(&b);
}
END_TEST

/* As from the wire: in a frame of right checksums. */
static int decode(struct buf *b, struct msg_fence *q, struct msg_fenced *a) {
  struct frame_reader r;
  struct frame f;
  frame_reader_init(&r, MSG_BIT(MSG_FENCE) | MSG_BIT(MSG_FENCED));
  ck_assert_int_eq(frame_reader_feed(&r, b->data, b->len), DW_OK);
  int rc = frame_reader_next(&r, &f);
  if (rc == DW_OK) rc = f.h.type == MSG_FENCE ? msg_get_fence(&f, q) : msg_get_fenced(&f, a);
  frame_reader_free(&r);
  return rc;
}

START_TEST(what_goes_in_comes_out_and_a_flipped_byte_is_noticed) {
  struct msg_fence q = question(), q2;
  struct msg_fenced a = reply(), a2;
  for (int which = 0; which < 2; which++) {
    struct buf b = {0};
    ck_assert_int_eq(which ? msg_put_fenced(&b, &me, &a) : msg_put_fence(&b, &me, &q), DW_OK);
    ck_assert_int_eq(decode(&b, &q2, &a2), DW_OK);
    if (which) {
      ck_assert(a2.verdict == a.verdict && a2.role == a.role && a2.fenced && a2.writing && a2.has_data);
      ck_assert(a2.promised_epoch == a.promised_epoch && a2.promised_node == 8 && a2.priority == 100 && a2.id == 6);
      ck_assert(a2.durable.lsn == 60 && a2.commit_lsn == 58 && a2.applied_lsn == 57 && a2.staleness_ms == 250);
      ck_assert_str_eq(a2.primary, a.primary);
      ck_assert_str_eq(a2.text, a.text);
    } else {
      ck_assert(q2.what == q.what && q2.force && q2.id == 6 && q2.epoch == q.epoch && q2.durable.lsn == 50);
      ck_assert_str_eq(q2.address, q.address);
    }
    for (size_t i = 0; i < b.len; i++) {
      b.data[i] ^= 0x10;
      int rc = decode(&b, &q2, &a2);
      ck_assert_msg(rc == DW_CORRUPT || rc == DW_UNSUPPORTED || rc == DW_NOT_FOUND, "flip at %zu: %d", i, rc);
      b.data[i] ^= 0x10;
    }
    buf_free(&b);
  }
}
END_TEST

static int forged(unsigned type, const uint8_t *body, size_t n) {
  struct msg_fence q;
  struct msg_fenced a;
  struct buf b = {0};
  ck_assert_int_eq(msg_put(&b, &me, type, body, n), DW_OK);
  int rc = decode(&b, &q, &a);
  buf_free(&b);
  return rc;
}

/* Puts value into a byte of a good body: what must come of it? */
struct spoil {
  size_t at;
  uint8_t value;
  int rc;
};

static void spoil_all(unsigned type, const struct buf *good, const struct spoil *s, size_t n) {
  size_t len = good->len - MSG_HEADER_BYTES;
  uint8_t body[1024];
  for (size_t i = 0; i < n; i++) {
    memcpy(body, good->data + MSG_HEADER_BYTES, len);
    body[s[i].at] = s[i].value;
    int rc = forged(type, body, len);
    ck_assert_msg(rc == s[i].rc, "type %u, byte %zu = %u: %s", type, s[i].at, s[i].value, dw_rc_name(rc));
  }
}

START_TEST(questions_and_answers_that_contradict_themselves_are_refused) {
  struct buf b = {0};
  struct msg_fence q = question();
  struct msg_fenced a = reply();
  ck_assert_int_eq(msg_put_fence(&b, &me, &q), DW_OK);
  static const struct spoil fence[] = {{0, 1, DW_OK},
                                       {0, 0, DW_CORRUPT},
                                       {0, 9, DW_CORRUPT},
                                       {4, 4, DW_CORRUPT},
                                       {4, FENCE_ASK, DW_CORRUPT},
                                       {4, FENCE_PAUSE, DW_CORRUPT},
                                       {4, FENCE_BEGUN, DW_OK},
                                       {5, 2, DW_CORRUPT},
                                       {6, 1, DW_CORRUPT},
                                       {24, 78, DW_CORRUPT},
                                       {32, 0, DW_CORRUPT},
                                       {48 + 63, 'x', DW_CORRUPT},
                                       {48 + 40, 'x', DW_CORRUPT},
                                       {144, 1, DW_CORRUPT},
                                       {159, 1, DW_CORRUPT}};
  spoil_all(MSG_FENCE, &b, fence, sizeof fence / sizeof *fence);
  ck_assert_int_eq(forged(MSG_FENCE, b.data + MSG_HEADER_BYTES, 159), DW_CORRUPT);
  uint8_t longer[200];
  memcpy(longer, b.data + MSG_HEADER_BYTES, 160);
  memset(longer + 160, 'x', 40);
  ck_assert_int_eq(forged(MSG_FENCE, longer, 200), DW_OK); /* a later version appends */
  b.len = 0;
  q.epoch = 0;
  ck_assert_int_eq(msg_put_fence(&b, &me, &q), DW_OK);
  static const struct spoil no_epoch[] = {
      {4, FENCE_PROMISE, DW_CORRUPT}, {4, FENCE_BEGUN, DW_CORRUPT}, {4, FENCE_ASK, DW_OK}, {4, FENCE_PAUSE, DW_OK}};
  spoil_all(MSG_FENCE, &b, no_epoch, sizeof no_epoch / sizeof *no_epoch);
  b.len = 0;
  ck_assert_int_eq(msg_put_fenced(&b, &me, &a), DW_OK);
  static const struct spoil fenced[] = {{0, 1, DW_OK},        {0, 99, DW_UNSUPPORTED},     {2, 3, DW_CORRUPT},
                                        {3, 2, DW_CORRUPT},   {4, 8, DW_CORRUPT},          {5, 1, DW_CORRUPT},
                                        {12, 15, DW_CORRUPT}, {12, 17, DW_CORRUPT},        {32, 78, DW_CORRUPT},
                                        {72, 0, DW_CORRUPT},  {136 + 63, 'x', DW_CORRUPT}, {136 + 40, 'x', DW_CORRUPT},
                                        {200, 1, DW_CORRUPT}, {215, 1, DW_CORRUPT}};
  spoil_all(MSG_FENCED, &b, fenced, sizeof fenced / sizeof *fenced);
  buf_free(&b);
}
END_TEST

/* ---- the asker --------------------------------------------------------------------------------- */

static struct fencer f;
static const struct msg_sender peer = {.version = 1, .epoch = 9, .node_id = 78};

static void fencer_setup(void) {
  struct hash128 cluster = sim_id(4);
  fencer_init(&f, &me, &cluster);
}
static void fencer_teardown(void) {
  fencer_free(&f);
}

static struct msg_fenced reply_of_peer(uint64_t id) {
  struct msg_fenced a = reply();
  a.node_id = 78;
  a.id = id;
  return a;
}

static void hear(const struct msg_fenced *a, size_t piece) {
  struct buf b = {0};
  ck_assert_int_eq(msg_put_fenced(&b, &peer, a), DW_OK);
  for (size_t i = 0; i < b.len; i += piece) fencer_input(&f, b.data + i, b.len - i < piece ? b.len - i : piece);
  buf_free(&b);
}

static void failed(int code, const char *text) {
  ck_assert_int_eq(f.state, FENCER_FAILED);
  ck_assert_msg(f.code == code && strstr(f.text, text), "%s: %s", dw_rc_name(f.code), f.text);
}

START_TEST(one_question_one_answer_in_pieces_of_any_size) {
  for (size_t piece = 1; piece < 300; piece += 37) {
    fencer_ask(&f, &(struct msg_fence){.what = FENCE_ASK});
    ck_assert_int_eq(f.state, FENCER_ASKED);
    struct msg_fenced a = reply_of_peer(f.id);
    hear(&a, piece);
    ck_assert_int_eq(f.state, FENCER_ANSWERED);
    ck_assert_uint_eq(fencer_take(&f)->promised_node, 8);
    ck_assert_int_eq(f.state, FENCER_IDLE);
  }
}
END_TEST

START_TEST(an_answer_to_no_question_ends_it) {
  struct msg_fenced a = reply_of_peer(1);
  hear(&a, 1000);
  failed(DW_CORRUPT, "an answer to no question");
}
END_TEST

START_TEST(an_answer_to_an_older_question_ends_it) {
  fencer_ask(&f, &(struct msg_fence){.what = FENCE_ASK});
  struct msg_fenced a = reply_of_peer(f.id);
  hear(&a, 1000);
  fencer_take(&f);
  fencer_ask(&f, &(struct msg_fence){.what = FENCE_PROMISE, .epoch = 7});
  hear(&a, 1000); /* a promise that was given for something else would be one too many */
  failed(DW_CORRUPT, "an answer to no question");
}
END_TEST

START_TEST(a_refusal_without_a_reason_is_still_told_in_words) {
  struct buf b = {0};
  fencer_ask(&f, &(struct msg_fence){.what = FENCE_ASK});
  ck_assert_int_eq(msg_put_refuse(&b, &peer, &(struct msg_refuse){.code = DW_STALE}), DW_OK);
  fencer_input(&f, b.data, b.len);
  buf_free(&b);
  failed(DW_STALE, "no reason");
}
END_TEST

START_TEST(a_foreign_cluster_a_refusal_garbage_and_the_end_are_told_apart) {
  fencer_ask(&f, &(struct msg_fence){.what = FENCE_ASK});
  struct msg_fenced a = reply_of_peer(f.id);
  a.cluster_id = sim_id(5);
  hear(&a, 1000);
  failed(DW_DIVERGED, "of another cluster");
  fencer_teardown();
  fencer_setup();
  struct buf b = {0};
  fencer_ask(&f, &(struct msg_fence){.what = FENCE_ASK});
  ck_assert_int_eq(msg_put_refuse(&b, &peer, &(struct msg_refuse){.code = DW_STALE, .text = "no data yet"}), DW_OK);
  fencer_input(&f, b.data, b.len);
  failed(DW_STALE, "no data yet");
  fencer_input(&f, b.data, b.len); /* it stays so */
  fencer_eof(&f, "later");
  failed(DW_STALE, "no data yet");
  buf_free(&b);
  fencer_teardown();
  fencer_setup();
  fencer_ask(&f, &(struct msg_fence){.what = FENCE_ASK});
  fencer_input(&f, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", 47);
  fencer_input(&f, "and on and on and on and on and on and on and on", 47);
  failed(DW_CORRUPT, "not a dabbawal peer");
  fencer_teardown();
  fencer_setup();
  fencer_ask(&f, &(struct msg_fence){.what = FENCE_ASK});
  fencer_eof(&f, "");
  failed(DW_IO, "without an answer");
}
END_TEST

/* ---- the asked --------------------------------------------------------------------------------- */

static struct shipper *ship;
static unsigned asked;
static char closed[600];

static void ship_setup(void) {
  struct shipper_config cfg = {.node_id = 1,
                               .cluster_id = sim_id(4),
                               .incarnation = sim_id(1),
                               .role = DW_FOLLOWER,
                               .heartbeat_ms = 500,
                               .peer_timeout_ms = 5000,
                               .peer = "1.2.3.4:5"};
  struct wal_pos end = {50, 4, sim_id(51)};
  ck_assert_int_eq(shipper_create(&cfg, &end, 40, SIM_MS, &ship), DW_OK);
  asked = 0;
  closed[0] = 0;
}
static void ship_teardown(void) {
  shipper_destroy(ship);
}

static void ship_hear(const struct msg_fence *q, bool answers) {
  struct msg_sender s = {.version = 1, .epoch = 9, .node_id = q->node_id};
  struct buf b = {0};
  struct ship_action a;
  ck_assert_int_eq(msg_put_fence(&b, &s, q), DW_OK);
  shipper_input(ship, b.data, b.len, SIM_MS);
  buf_free(&b);
  while (shipper_next(ship, &a)) {
    if (a.type == SHIP_CLOSE) snprintf(closed, sizeof closed, "%s", a.close.text);
    if (a.type != SHIP_FENCE) continue;
    asked++;
    struct msg_fenced told = {.verdict = FENCE_TOLD, .role = DW_FOLLOWER};
    if (answers) shipper_fence_answer(ship, &told, SIM_MS);
  }
}

static void ends_with(const char *text) {
  struct ship_action a;
  shipper_eof(ship, "gone", 2 * SIM_MS);
  while (shipper_next(ship, &a))
    if (a.type == SHIP_CLOSE) snprintf(closed, sizeof closed, "%s", a.close.text);
  ck_assert_msg(strstr(closed, text) != NULL, "'%s' is not in: %s", text, closed);
}

START_TEST(questions_come_one_after_the_other) {
  struct msg_fence q = question();
  for (q.id = 1; q.id <= 3; q.id++) ship_hear(&q, true);
  ck_assert_uint_eq(asked, 3);
  ck_assert_ptr_nonnull(shipper_fence(ship));
  struct iovec iov[8];
  ck_assert_int_gt(shipper_output(ship, iov, 8), 0);
  ship_hear(&q, false);
  q.id++;
  ship_hear(&q, false);
  ck_assert_uint_eq(asked, 4);
  ends_with("FENCE before the last one was answered");
}
END_TEST

START_TEST(who_asks_stays_the_same_and_is_of_this_cluster_and_somebody_else) {
  struct msg_fence q = question();
  ship_hear(&q, true);
  q.node_id = 79;
  ship_hear(&q, true);
  ck_assert_uint_eq(asked, 1);
  ends_with("another node's FENCE");
  ship_teardown();
  ship_setup();
  q = question();
  q.cluster_id = sim_id(5);
  ship_hear(&q, true);
  ck_assert_uint_eq(asked, 0);
  ends_with("the candidate is of cluster");
  ship_teardown();
  ship_setup();
  q = question();
  q.node_id = 1;
  ship_hear(&q, true);
  ck_assert_uint_eq(asked, 0);
  ends_with("connected to itself");
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication_fence");
  TCase *t = tcase_create("bytes");
  tcase_add_test(t, the_bytes_of_fence_and_fenced_are_the_documented_ones);
  tcase_add_test(t, what_goes_in_comes_out_and_a_flipped_byte_is_noticed);
  tcase_add_test(t, questions_and_answers_that_contradict_themselves_are_refused);
  suite_add_tcase(s, t);
  t = tcase_create("fencer");
  tcase_add_checked_fixture(t, fencer_setup, fencer_teardown);
  tcase_add_test(t, one_question_one_answer_in_pieces_of_any_size);
  tcase_add_test(t, an_answer_to_no_question_ends_it);
  tcase_add_test(t, an_answer_to_an_older_question_ends_it);
  tcase_add_test(t, a_refusal_without_a_reason_is_still_told_in_words);
  tcase_add_test(t, a_foreign_cluster_a_refusal_garbage_and_the_end_are_told_apart);
  suite_add_tcase(s, t);
  t = tcase_create("shipper");
  tcase_add_checked_fixture(t, ship_setup, ship_teardown);
  tcase_add_test(t, questions_come_one_after_the_other);
  tcase_add_test(t, who_asks_stays_the_same_and_is_of_this_cluster_and_somebody_else);
  suite_add_tcase(s, t);
  return check_main(s);
}
