/* Asking for blocks and answering: the real fetcher and the real shipper over byte buffers, then each against a peer
 * that lies, dawdles or babbles.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "replication/fetcher.h"
#include "tests/support/repl_sim.h"

static uint64_t now;
static struct memlog log_; /* epochs 3 and 4, LSN 1 to 40 with an epoch record behind 20 */
static struct shipper *ship;
static struct fetcher *f;
static struct wal_block **got;
static size_t got_n;
static char closed[600];
static bool did_close;
static unsigned questions;
static int fail_rc; /* for the next answers */
static size_t batch;

static void setup(void) {
  struct hash128 cluster = sim_id(7);
  now = 1000 * SIM_MS;
  memlog_init(&log_, &cluster, NULL);
  memlog_write(&log_, 3, 0, 80, sim_async, 1, 0);
  for (uint64_t i = 0; i < 20; i++) memlog_write(&log_, 3, 1, 100, sim_durable, 10 + i, 0);
  memlog_write(&log_, 4, 0, 80, sim_async, 1, 0);
  for (uint64_t i = 0; i < 20; i++) memlog_write(&log_, 4, 1, 100, sim_durable, 40 + i, 0);
  struct shipper_config cfg = {.node_id = 1,
                               .cluster_id = log_.cluster,
                               .incarnation = sim_id(1),
                               .role = DW_FOLLOWER,
                               .heartbeat_ms = 500,
                               .peer_timeout_ms = 5000,
                               .peer = "1.2.3.4:5"};
  ck_assert_int_eq(shipper_create(&cfg, &log_.end, 40, now, &ship), DW_OK);
  struct fetcher_config fc = {.node_id = 2, .cluster_id = log_.cluster};
  ck_assert_int_eq(fetcher_create(&fc, &f), DW_OK);
  closed[0] = 0;
  did_close = false;
  questions = 0;
  fail_rc = DW_OK;
  batch = 64;
  got = NULL;
  got_n = 0;
}
static void teardown(void) {
  shipper_destroy(ship);
  fetcher_destroy(f);
  memlog_free(&log_);
}

/* What a driver does for SHIP_FETCH. */
static void answer(const struct msg_fetch *m) {
  struct wal_block *blocks[64];
  size_t n = 0, i = 0;
  questions++;
  ck_assert_uint_le(m->max_bytes, MSG_FETCH_BYTES);
  int rc = fail_rc ? fail_rc : memlog_index(&log_, &m->from, &i);
  for (; rc == DW_OK && i < log_.n && n < batch && block_last_lsn(&log_.blocks[i]->h) <= m->upto; i++)
    blocks[n++] = wal_block_ref(log_.blocks[i]);
  shipper_fetched(ship, rc, blocks, n, "not a boundary here", now);
}

static void ship_drive(void) {
  struct ship_action a;
  while (shipper_next(ship, &a)) {
    ck_assert_int_ne(a.type, SHIP_LOCATE);
    ck_assert_int_ne(a.type, SHIP_MARKS);
    if (a.type == SHIP_FETCH) answer(a.fetch);
    if (a.type == SHIP_CLOSE) {
      did_close = true;
      snprintf(closed, sizeof closed, "%s", a.close.text);
    }
  }
}

/* Everything from the fetcher to the shipper and back, at most `piece` bytes at a time. */
static void run(size_t piece) {
  struct iovec iov;
  for (bool moved = true; moved && !did_close;) {
    moved = false;
    if (fetcher_output(f, &iov, 1) > 0) {
      size_t n = iov.iov_len < piece ? iov.iov_len : piece;
      shipper_input(ship, iov.iov_base, n, now);
      fetcher_drained(f, n);
      moved = true;
    }
    ship_drive();
    if (shipper_output(ship, &iov, 1) > 0) {
      size_t n = iov.iov_len < piece ? iov.iov_len : piece;
      fetcher_input(f, iov.iov_base, n);
      shipper_drained(ship, n, now);
      ship_drive();
      moved = true;
    }
  }
}

static void drop(void) {
  while (got_n) wal_block_unref(got[--got_n]);
  free(got);
  got = NULL;
}

static void ask(size_t boundary, dw_lsn upto) {
  struct wal_pos from = memlog_bound(&log_, boundary);
  fetcher_ask(f, &from, upto);
  ck_assert_int_eq(fetcher_state(f), FETCH_ASKED);
}

static void expect(size_t first, size_t n) {
  const char *text = "";
  if (fetcher_state(f) == FETCH_FAILED) fetcher_error(f, &text);
  ck_assert_msg(fetcher_state(f) == FETCH_READY, "state %d %s", (int)fetcher_state(f), text);
  fetcher_take(f, &got, &got_n);
  ck_assert_uint_eq(got_n, n);
  for (size_t i = 0; i < n; i++) {
    const struct wal_block *want = log_.blocks[first + i];
    ck_assert_uint_eq(block_total_bytes(&got[i]->h), block_total_bytes(&want->h));
    ck_assert_mem_eq(got[i]->bytes, want->bytes, block_total_bytes(&want->h));
  }
  drop();
  ck_assert_int_eq(fetcher_state(f), FETCH_IDLE);
}

static void expect_failure(int rc, const char *text) {
  const char *said;
  ck_assert_int_eq(fetcher_state(f), FETCH_FAILED);
  ck_assert_int_eq(fetcher_error(f, &said), rc);
  ck_assert_msg(strstr(said, text) != NULL, "%s", said);
}

/* ---- together ------------------------------------------------------------------------------------- */

START_TEST(blocks_come_as_asked_for_question_after_question_in_any_fragments) {
  const size_t pieces[] = {1, 7, 48, 1000, SIZE_MAX};
  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
    ask(5, 7);
    run(pieces[i]);
    expect(5, 3); /* block i holds LSN i */
    now += 1000 * SIM_MS;
    ask(20, 21);
    run(pieces[i]);
    expect(20, 3); /* LSN 20, the epoch record, LSN 21 */
    now += 1000 * SIM_MS;
    ask(21, 20); /* only the record */
    run(pieces[i]);
    expect(21, 1);
    now += 1000 * SIM_MS;
    ask(6, 5); /* nothing ends there */
    run(pieces[i]);
    expect(6, 0);
    now += 1000 * SIM_MS;
  }
  ck_assert(!did_close);
  ck_assert_ptr_null(shipper_hello(ship));
  ck_assert_uint_eq(shipper_fetch(ship)->node_id, 2);
}
END_TEST

START_TEST(what_the_peer_does_not_have_is_a_refusal_with_its_reason) {
  fail_rc = DW_NOT_FOUND;
  ask(5, 7);
  run(SIZE_MAX);
  expect_failure(DW_NOT_FOUND, "not a boundary here");
  ck_assert(did_close);
}
END_TEST

START_TEST(another_cluster_is_refused_by_name) {
  struct fetcher_config fc = {.node_id = 2, .cluster_id = sim_id(8)};
  fetcher_destroy(f);
  ck_assert_int_eq(fetcher_create(&fc, &f), DW_OK);
  ask(5, 7);
  run(SIZE_MAX);
  expect_failure(DW_DIVERGED, "this is cluster");
  ck_assert_uint_eq(questions, 0);
}
END_TEST

START_TEST(answers_are_paced) {
  memlog_free(&log_);
  struct hash128 cluster = sim_id(7);
  memlog_init(&log_, &cluster, NULL);
  for (uint64_t i = 0; i < 8; i++) memlog_write(&log_, 3, 1, 1u << 20, sim_durable, 10 + i, 0);
  batch = 1;
  uint64_t began = now;
  for (size_t i = 0; i < 8; i++) {
    ask(i, 8);
    run(SIZE_MAX);
    while (fetcher_state(f) == FETCH_ASKED) { /* asked too soon: the answer comes when it is due */
      uint64_t at = shipper_next_tick(ship);
      ck_assert_uint_gt(at, now);
      now = at;
      shipper_tick(ship, now);
      run(SIZE_MAX);
    }
    expect(i, 1);
  }
  uint64_t took_ms = (now - began) / SIM_MS;
  ck_assert_uint_ge(took_ms, 7 * 1000 / 32 - 30);
  ck_assert_uint_le(took_ms, 7 * 1000 / 32 + 60);
}
END_TEST

/* ---- against a shipper ------------------------------------------------------------------------------ */

static struct msg_fetch good(void) {
  return (struct msg_fetch){.version_min = 1,
                            .version_max = 1,
                            .max_bytes = UINT32_MAX, /* cut by the shipper: see answer() */
                            .cluster_id = log_.cluster,
                            .node_id = 2,
                            .id = 1,
                            .from = memlog_bound(&log_, 5),
                            .upto = 7};
}

static void say(const struct msg_fetch *m, uint64_t sender) {
  struct buf b = {0};
  struct msg_sender s = {.epoch = 3, .node_id = sender};
  ck_assert_int_eq(msg_put_fetch(&b, &s, m), DW_OK);
  shipper_input(ship, b.data, b.len, now);
  buf_free(&b);
  ship_drive();
}
static void drain(void) {
  size_t n = shipper_output_bytes(ship);
  if (n) shipper_drained(ship, n, now);
  ship_drive();
}

START_TEST(a_second_question_before_the_answer_ends_the_connection) {
  struct msg_fetch m = good();
  struct buf b = {0};
  struct msg_sender s = {.epoch = 3, .node_id = 2};
  for (int i = 0; i < 2; i++) ck_assert_int_eq(msg_put_fetch(&b, &s, &m), DW_OK);
  shipper_input(ship, b.data, b.len, now); /* both at once */
  buf_free(&b);
  ship_drive();
  drain();
  ck_assert(did_close);
  ck_assert_ptr_nonnull(strstr(closed, "before the last one was answered"));
}
END_TEST

START_TEST(a_fetch_of_another_node_ends_the_connection) {
  struct msg_fetch m = good();
  say(&m, 2);
  drain();
  now += 1000 * SIM_MS;
  m.node_id = 3;
  say(&m, 3);
  drain();
  ck_assert(did_close);
  ck_assert_ptr_nonnull(strstr(closed, "another node's FETCH"));
}
END_TEST

START_TEST(an_asker_can_not_become_a_follower) {
  struct wal_pos g = wal_genesis(&log_.cluster);
  struct msg_hello h = {.version_min = 1,
                        .version_max = 1,
                        .role = DW_FOLLOWER,
                        .heartbeat_ms = 500,
                        .cluster_id = log_.cluster,
                        .node_id = 2,
                        .incarnation = sim_id(2),
                        .tail = g,
                        .applied = g,
                        .at = g};
  struct buf b = {0};
  struct msg_sender s = {.epoch = 3, .node_id = 2};
  struct msg_fetch m = good();
  say(&m, 2);
  drain();
  ck_assert_int_eq(msg_put_hello(&b, &s, &h), DW_OK);
  shipper_input(ship, b.data, b.len, now);
  buf_free(&b);
  ship_drive();
  drain();
  ck_assert(did_close);
  ck_assert_ptr_nonnull(strstr(closed, "HELLO is out of place"));
}
END_TEST

START_TEST(an_asker_that_falls_silent_or_takes_nothing_is_closed) {
  struct msg_fetch m = good();
  say(&m, 2);
  ck_assert_uint_gt(shipper_output_bytes(ship), 0);
  for (int i = 0; i < 49; i++) { /* takes nothing */
    now += 100 * SIM_MS;
    shipper_tick(ship, now);
    ship_drive();
    ck_assert(!did_close);
  }
  now += 200 * SIM_MS;
  shipper_tick(ship, now);
  ship_drive();
  ck_assert(did_close);
}
END_TEST

START_TEST(a_stranger_is_still_given_its_time_and_no_more) {
  now += 5001 * SIM_MS;
  shipper_tick(ship, now);
  ship_drive();
  ck_assert(did_close);
  ck_assert_ptr_nonnull(strstr(closed, "no HELLO"));
}
END_TEST

START_TEST(an_answer_that_comes_after_the_end_is_dropped) {
  struct msg_fetch m = good();
  struct buf b = {0};
  struct msg_sender s = {.epoch = 3, .node_id = 2};
  struct ship_action a;
  ck_assert_int_eq(msg_put_fetch(&b, &s, &m), DW_OK);
  shipper_input(ship, b.data, b.len, now);
  buf_free(&b);
  while (shipper_next(ship, &a) && a.type != SHIP_FETCH) {
  }
  ck_assert_int_eq(a.type, SHIP_FETCH);
  shipper_eof(ship, NULL, now);
  while (shipper_next(ship, &a)) did_close |= a.type == SHIP_CLOSE;
  ck_assert(did_close);
  struct wal_block *blocks[1] = {wal_block_ref(log_.blocks[5])};
  shipper_fetched(ship, DW_OK, blocks, 1, NULL, now);
  ck_assert_uint_eq(shipper_output_bytes(ship), 0);
}
END_TEST

/* ---- against a fetcher -------------------------------------------------------------------------------- */

static struct msg_fetched reply_head;

/* A FETCHED with log blocks [first, first + n), sent as `bytes` says. */
static void reply(size_t first, size_t n, void (*spoil)(struct buf *)) {
  struct buf b = {0}, body = {0};
  struct msg_sender s = {.epoch = 3, .node_id = 1};
  uint8_t head[MSG_HEADER_BYTES + MSG_FETCHED_PREFIX_BYTES];
  for (size_t i = first; i < first + n; i++)
    buf_append(&body, log_.blocks[i]->bytes, block_total_bytes(&log_.blocks[i]->h));
  if (spoil) spoil(&body);
  msg_fetched_head(&s, &reply_head, body.len, head);
  buf_append(&b, head, sizeof head);
  if (body.len) buf_append(&b, body.data, body.len);
  fetcher_input(f, b.data, b.len);
  buf_free(&b);
  buf_free(&body);
}

static void begin(size_t boundary, dw_lsn upto, uint32_t count) {
  struct fetcher_config fc = {.node_id = 2, .cluster_id = log_.cluster};
  fetcher_destroy(f);
  ck_assert_int_eq(fetcher_create(&fc, &f), DW_OK);
  reply_head = (struct msg_fetched){.version = 1, .count = count, .id = 1, .cluster_id = log_.cluster};
  ask(boundary, upto);
}

static void flip_payload(struct buf *b) {
  b->data[WAL_BLOCK_HEADER_BYTES + 3] ^= 1;
}
static void flip_header(struct buf *b) {
  b->data[40] ^= 1;
}
static void cut(struct buf *b) {
  b->len -= 8;
}
static void lengthen(struct buf *b) {
  buf_append(b, "12345678", 8);
}

START_TEST(a_fetcher_takes_nothing_that_does_not_check) {
  begin(5, 7, 3);
  reply(5, 3, NULL);
  expect(5, 3);

  begin(5, 7, 2);
  reply(6, 2, NULL); /* leaves out the first */
  expect_failure(DW_DIVERGED, "does not follow LSN 4");
  begin(5, 7, 4);
  reply(5, 4, NULL); /* more than asked for */
  expect_failure(DW_CORRUPT, "asked for was up to LSN 7");
  begin(5, 7, 2);
  reply(5, 1, NULL); /* less than announced */
  expect_failure(DW_CORRUPT, "");
  begin(5, 7, 1);
  reply(5, 2, NULL); /* more than announced */
  expect_failure(DW_CORRUPT, "behind the last block");
  begin(5, 7, 3);
  reply(5, 3, flip_payload);
  expect_failure(DW_CORRUPT, "");
  begin(5, 7, 3);
  reply(5, 3, flip_header);
  expect_failure(DW_CORRUPT, "");
  begin(5, 7, 3);
  reply(5, 3, cut);
  expect_failure(DW_CORRUPT, "cut off");
  begin(5, 7, 3);
  reply(5, 3, lengthen);
  expect_failure(DW_CORRUPT, "behind the last block");
}
END_TEST

START_TEST(a_fetcher_believes_no_block_of_another_history) {
  struct memlog other;
  memlog_init(&other, &log_.cluster, NULL);
  memlog_write(&other, 3, 0, 80, sim_async, 1, 0);
  for (uint64_t i = 0; i < 20; i++) memlog_write(&other, 3, 1, 100, sim_durable, 900 + i, 0);
  begin(5, 7, 1);
  struct wal_block *mine = log_.blocks[5];
  log_.blocks[5] = other.blocks[5];
  reply(5, 1, NULL);
  log_.blocks[5] = mine;
  expect_failure(DW_DIVERGED, "does not follow");
  memlog_free(&other);
}
END_TEST

START_TEST(a_fetcher_ends_with_wrong_answers_garbage_and_silence) {
  begin(5, 7, 3);
  reply_head.id = 9;
  reply(5, 3, NULL);
  expect_failure(DW_CORRUPT, "no question");
  begin(5, 7, 3);
  reply_head.cluster_id = sim_id(8);
  reply(5, 3, NULL);
  expect_failure(DW_DIVERGED, "another cluster");
  begin(5, 7, 3);
  reply_head.version = 9;
  reply(5, 3, NULL);
  expect_failure(DW_UNSUPPORTED, "version 9");
  begin(5, 7, 3);
  fetcher_input(f, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", 48);
  expect_failure(DW_CORRUPT, "not a dabbawal peer");
  begin(5, 7, 3);
  fetcher_eof(f, NULL);
  expect_failure(DW_IO, "without an answer");
  /* A frame that belongs to followers. */
  struct buf b = {0};
  struct msg_sender s = {.version = 1, .epoch = 3, .node_id = 1};
  ck_assert_int_eq(msg_put_commit(&b, &s, 5), DW_OK);
  begin(5, 7, 3);
  fetcher_input(f, b.data, b.len);
  expect_failure(DW_CORRUPT, "out of place");
  fetcher_input(f, b.data, b.len); /* and stays so */
  expect_failure(DW_CORRUPT, "out of place");
  buf_free(&b);
  /* An answer before the question. */
  begin(5, 7, 3);
  reply(5, 3, NULL);
  expect(5, 3);
  reply(5, 3, NULL);
  expect_failure(DW_CORRUPT, "no question");
}
END_TEST

START_TEST(a_heartbeat_is_no_answer) {
  struct buf b = {0};
  struct msg_sender s = {.epoch = 3, .node_id = 1};
  ck_assert_int_eq(msg_put_heartbeat(&b, &s, &(struct msg_heartbeat){0}), DW_OK);
  begin(5, 7, 3);
  fetcher_input(f, b.data, b.len);
  ck_assert_int_eq(fetcher_state(f), FETCH_ASKED);
  reply(5, 3, NULL);
  expect(5, 3);
  buf_free(&b);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication_fetch");
  TCase *t = tcase_create("fetch");
  tcase_set_timeout(t, 60);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, blocks_come_as_asked_for_question_after_question_in_any_fragments);
  tcase_add_test(t, what_the_peer_does_not_have_is_a_refusal_with_its_reason);
  tcase_add_test(t, another_cluster_is_refused_by_name);
  tcase_add_test(t, answers_are_paced);
  tcase_add_test(t, a_second_question_before_the_answer_ends_the_connection);
  tcase_add_test(t, a_fetch_of_another_node_ends_the_connection);
  tcase_add_test(t, an_asker_can_not_become_a_follower);
  tcase_add_test(t, an_asker_that_falls_silent_or_takes_nothing_is_closed);
  tcase_add_test(t, a_stranger_is_still_given_its_time_and_no_more);
  tcase_add_test(t, an_answer_that_comes_after_the_end_is_dropped);
  tcase_add_test(t, a_fetcher_takes_nothing_that_does_not_check);
  tcase_add_test(t, a_fetcher_believes_no_block_of_another_history);
  tcase_add_test(t, a_fetcher_ends_with_wrong_answers_garbage_and_silence);
  tcase_add_test(t, a_heartbeat_is_no_answer);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
