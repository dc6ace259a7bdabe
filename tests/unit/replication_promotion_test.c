/* The promotion machine (replication/promotion.h): case by case, then as a model in which several candidates, nodes
 * that crash and messages that get lost, overtake each other or come twice try to lose an acknowledged write. */
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"
#include "replication/promotion.h"
#include "tests/sim/sim_rand.h"
#include "tests/support/check_main.h"

#define MS 1000000ull

static struct promotion p;

static struct promotion_config config(size_t peers, uint32_t acks) {
  return (struct promotion_config){
      .node_id = 1, .peers = peers, .mode = DW_SYNC, .acks = acks, .timeout_ns = 1000 * MS, .draw = 7};
}

static struct promotion_self self_at(uint64_t epoch, dw_lsn lsn) {
  return (struct promotion_self){.durable = {.lsn = lsn, .epoch = epoch}};
}

static void start(const struct promotion_config *cfg, uint64_t epoch, dw_lsn lsn) {
  struct promotion_self self = self_at(epoch, lsn);
  promotion_start(&p, cfg, &self, 0);
}

static struct msg_fenced answer(uint64_t node, uint64_t epoch, dw_lsn lsn, enum fence_verdict verdict) {
  return (struct msg_fenced){.node_id = node,
                             .role = DW_FOLLOWER,
                             .has_data = epoch != 0,
                             .verdict = (uint8_t)verdict,
                             .durable = {.lsn = lsn, .epoch = epoch}};
}

/* Peer i is asked `what`, and says m. */
static void says(size_t i, enum fence_what what, const struct msg_fenced *m, uint64_t now_ns) {
  enum fence_what asked;
  ck_assert(promotion_wants(&p, i, &asked));
  ck_assert_int_eq(asked, what);
  promotion_asked(&p, i);
  promotion_answer(&p, i, m, now_ns);
}

static void told(size_t i, uint64_t node, uint64_t epoch, dw_lsn lsn) {
  struct msg_fenced m = answer(node, epoch, lsn, FENCE_TOLD);
  says(i, FENCE_ASK, &m, 1);
}

static void promises(size_t i, uint64_t node, uint64_t epoch, dw_lsn lsn) {
  struct msg_fenced m = answer(node, epoch, lsn, FENCE_PROMISED);
  says(i, FENCE_PROMISE, &m, 2);
}

static void promise_self(uint64_t epoch, dw_lsn lsn) {
  ck_assert_int_eq(promotion_next(&p), PROMOTION_PROMISE_SELF);
  struct promotion_self self = self_at(epoch, lsn);
  self.promised_epoch = promotion_epoch(&p);
  promotion_promised(&p, DW_OK, "", &self, 2);
}

static void failed(int code, const char *text) {
  const char *why;
  ck_assert_int_eq(promotion_next(&p), PROMOTION_FAILED);
  int rc = promotion_error(&p, &why);
  ck_assert_msg(rc == code && strstr(why, text), "%s: '%s' is not in: %s", dw_rc_name(rc), text, why);
  ck_assert(promotion_settled(&p));
}

/* ---- how many ---------------------------------------------------------------------------------- */

START_TEST(so_many_promises_are_needed_that_every_ack_quorum_is_met) {
  for (size_t nodes = 1; nodes <= 7; nodes++)
    for (uint32_t acks = 0; acks <= 8; acks++) {
      struct promotion_config cfg = config(nodes - 1, acks);
      size_t need = promotion_need(&cfg);
      ck_assert_uint_eq(need, acks < nodes ? nodes - acks : 1);
      if (acks < nodes) ck_assert_uint_gt(need + acks + 1, nodes); /* one of them has what was acknowledged */
      cfg.force = true;
      ck_assert_uint_eq(promotion_need(&cfg), 1);
      cfg.force = false;
      cfg.mode = DW_ASYNC;
      ck_assert_uint_eq(promotion_need(&cfg), 1);
      cfg.mode = DW_SEMI_SYNC;
      ck_assert_uint_eq(promotion_need(&cfg), need);
    }
}
END_TEST

START_TEST(promises_are_collected_and_the_epoch_begins) {
  struct promotion_config cfg = config(2, 1);
  enum fence_what what;
  start(&cfg, 5, 100);
  ck_assert_int_eq(promotion_next(&p), PROMOTION_WAIT);
  told(0, 2, 5, 90);
  told(1, 3, 5, 100);
  ck_assert_uint_eq(promotion_epoch(&p), epoch_next_term(5, 7));
  ck_assert(!promotion_wants(&p, 0, &what)); /* first our own promise, durable */
  promise_self(5, 100);
  ck_assert_int_eq(promotion_next(&p), PROMOTION_WAIT);
  promises(0, 2, 5, 95);
  ck_assert_int_eq(promotion_next(&p), PROMOTION_BEGIN); /* two of three */
  ck_assert(!promotion_wants(&p, 1, &what));
  promotion_begun(&p, DW_OK, "", 3);
  ck_assert_int_eq(promotion_next(&p), PROMOTION_BEGUN);
  for (size_t i = 0; i < 2; i++) {
    ck_assert(promotion_wants(&p, i, &what));
    ck_assert_int_eq(what, FENCE_BEGUN);
  }
}
END_TEST

START_TEST(a_peer_that_claims_an_impossible_epoch_does_not_use_up_the_numbers) {
  struct promotion_config cfg = config(2, 1);
  struct msg_fenced m = answer(2, 5, 90, FENCE_TOLD);
  m.promised_epoch = UINT64_MAX;
  m.promised_node = 9;
  start(&cfg, 5, 100);
  says(0, FENCE_ASK, &m, 1);
  told(1, 3, 5, 100);
  ck_assert_uint_eq(promotion_epoch(&p), epoch_next_term(5, 7));
}
END_TEST

START_TEST(one_promise_too_few_begins_nothing) {
  struct promotion_config cfg = config(3, 1); /* three of four */
  start(&cfg, 5, 100);
  for (size_t i = 0; i < 3; i++) told(i, i + 2, 5, 100);
  promise_self(5, 100);
  promises(0, 2, 5, 100);
  ck_assert_int_eq(promotion_next(&p), PROMOTION_WAIT);
  promotion_unreachable(&p, 1, "gone", 3);
  ck_assert_int_eq(promotion_next(&p), PROMOTION_WAIT);
  promotion_unreachable(&p, 2, "gone too", 3);
  failed(DW_NOT_ENOUGH_FOLLOWERS, "2 of 3 promises");
}
END_TEST

START_TEST(one_node_under_two_addresses_and_ourselves_count_once) {
  struct promotion_config cfg = config(3, 1);
  start(&cfg, 5, 100);
  told(0, 2, 5, 100);
  told(1, 2, 5, 100);
  told(2, 1, 5, 100);
  failed(DW_NOT_ENOUGH_FOLLOWERS, "3 promises are needed (4 nodes, 1 acks), 2 nodes can give one");
}
END_TEST

START_TEST(a_node_without_data_has_nothing_to_promise) {
  struct promotion_config cfg = config(2, 1);
  start(&cfg, 5, 100);
  told(0, 2, 0, 0);
  told(1, 3, 0, 0);
  failed(DW_NOT_ENOUGH_FOLLOWERS, "peer 2: has no data");
}
END_TEST

/* ---- who has more ------------------------------------------------------------------------------ */

START_TEST(who_has_more_stands_in_the_way) {
  struct {
    uint64_t epoch;
    dw_lsn lsn;
    bool more;
  } cases[] = {{5, 100, false}, {5, 101, true}, {6, 1, true}, {4, 200, false}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct wal_pos a = {.lsn = cases[i].lsn, .epoch = cases[i].epoch}, b = {.lsn = 100, .epoch = 5};
    ck_assert(promotion_has_more(&a, &b) == cases[i].more);
    struct promotion_config cfg = config(2, 1);
    start(&cfg, 5, 100);
    told(0, 2, 5, 100);
    told(1, 3, cases[i].epoch, cases[i].lsn);
    if (cases[i].more)
      failed(DW_STALE, "node 3 (a follower) has more: its log ends at LSN");
    else
      ck_assert_int_eq(promotion_next(&p), PROMOTION_PROMISE_SELF);
  }
}
END_TEST

START_TEST(a_promise_with_a_longer_log_does_not_count) {
  struct promotion_config cfg = config(2, 1);
  start(&cfg, 5, 100);
  told(0, 2, 5, 100);
  told(1, 3, 5, 100);
  promise_self(5, 100);
  promises(0, 2, 5, 101); /* it came while we asked */
  ck_assert_int_eq(promotion_next(&p), PROMOTION_WAIT);
  promises(1, 3, 5, 100); /* enough without it: what only node 2 has was never acknowledged by two */
  ck_assert_int_eq(promotion_next(&p), PROMOTION_BEGIN);
  cfg = config(1, 0); /* but all are needed here */
  start(&cfg, 5, 100);
  told(0, 2, 5, 100);
  promise_self(5, 100);
  promises(0, 2, 5, 101);
  failed(DW_STALE, "has more");
}
END_TEST

START_TEST(force_is_content_with_itself_and_less) {
  struct promotion_config cfg = config(2, 1);
  cfg.force = true;
  cfg.max_lag_ms = 1;
  struct promotion_self self = self_at(5, 100);
  self.staleness_ms = UINT64_MAX;
  promotion_start(&p, &cfg, &self, 0);
  told(0, 2, 9, 500);
  ck_assert_int_eq(promotion_next(&p), PROMOTION_WAIT); /* who answers in time is heard: for the epoch's number */
  promotion_unreachable(&p, 1, "gone", 1);
  ck_assert_uint_gt(promotion_epoch(&p), 9);
  promise_self(5, 100);
  ck_assert_int_eq(promotion_next(&p), PROMOTION_BEGIN);
}
END_TEST

START_TEST(data_that_is_too_old_or_of_unknown_age_is_refused_if_asked) {
  uint64_t ages[] = {1000, 1001, UINT64_MAX};
  const char *why[] = {NULL, "1001 ms old, allowed are 1000", "unknown age"};
  for (int i = 0; i < 3; i++) {
    struct promotion_config cfg = config(1, 1);
    cfg.max_lag_ms = 1000;
    struct promotion_self self = self_at(5, 100);
    self.staleness_ms = ages[i];
    promotion_start(&p, &cfg, &self, 0);
    told(0, 2, 5, 100);
    if (why[i])
      failed(DW_STALE, why[i]);
    else
      ck_assert_int_eq(promotion_next(&p), PROMOTION_PROMISE_SELF);
  }
}
END_TEST

/* ---- time, others ------------------------------------------------------------------------------ */

START_TEST(silence_costs_half_the_time_when_asking_and_all_of_it_when_promising) {
  struct promotion_config cfg = config(2, 1);
  start(&cfg, 5, 100);
  told(0, 2, 5, 100);
  ck_assert_uint_eq(promotion_next_tick(&p), 500 * MS);
  promotion_tick(&p, 500 * MS - 1);
  ck_assert_int_eq(promotion_next(&p), PROMOTION_WAIT);
  promotion_tick(&p, 500 * MS);
  promise_self(5, 100);
  ck_assert_uint_eq(promotion_next_tick(&p), 1000 * MS);
  promotion_tick(&p, 1000 * MS - 1);
  ck_assert_int_eq(promotion_next(&p), PROMOTION_WAIT);
  promotion_tick(&p, 1000 * MS);
  failed(DW_TIMEOUT, "1 of 2 promises");
}
END_TEST

START_TEST(a_faster_candidate_is_told_apart_from_a_missing_one) {
  struct promotion_config cfg = config(1, 0);
  start(&cfg, 5, 100);
  told(0, 2, 5, 100);
  promise_self(5, 100);
  struct msg_fenced m = answer(2, 5, 100, FENCE_REFUSED);
  m.promised_epoch = promotion_epoch(&p) + 1;
  m.promised_node = 9;
  snprintf(m.text, sizeof m.text, "promised to node 9 already");
  says(0, FENCE_PROMISE, &m, 3);
  failed(DW_FENCED, "promised to node 9 already");
  start(&cfg, 5, 100);
  told(0, 2, 5, 100);
  promotion_beaten(&p, 77, 9);
  failed(DW_FENCED, "node 9 was faster");
  promotion_begun(&p, DW_OK, "", 4); /* too late: nothing comes of it */
  failed(DW_FENCED, "node 9 was faster");
}
END_TEST

START_TEST(a_promise_to_itself_that_fails_ends_it) {
  struct promotion_config cfg = config(1, 1);
  start(&cfg, 5, 100);
  told(0, 2, 5, 100);
  struct promotion_self self = self_at(5, 100);
  promotion_promised(&p, DW_IO, "the disk says no", &self, 2);
  failed(DW_IO, "the disk says no");
}
END_TEST

START_TEST(the_epoch_is_above_everything_that_anybody_knows) {
  struct promotion_config cfg = config(2, 1);
  start(&cfg, 5, 100);
  struct msg_fenced m = answer(2, 4, 80, FENCE_TOLD);
  m.promised_epoch = 9ull << 32 | 123;
  m.promised_node = 8;
  says(0, FENCE_ASK, &m, 1);
  told(1, 3, 5, 90);
  ck_assert_uint_eq(epoch_term(promotion_epoch(&p)), 10);
}
END_TEST

START_TEST(the_epoch_is_of_the_term_that_a_coordinator_was_told) {
  struct promotion_config cfg = config(1, 1);
  cfg.min_term = 6;
  start(&cfg, 2ull << 32 | 5, 100); /* the last primary, of term 5, is out of reach */
  promotion_unreachable(&p, 0, "gone", 1);
  promotion_tick(&p, 600 * MS);
  ck_assert_uint_eq(epoch_term(promotion_epoch(&p)), 6);
  cfg = config(2, 1);
  cfg.min_term = 3;
  start(&cfg, 9ull << 32 | 5, 100);
  told(0, 2, 5, 90);
  told(1, 3, 5, 90);
  ck_assert_uint_eq(epoch_term(promotion_epoch(&p)), 10); /* and above everything, still */
}
END_TEST

/* ---- handover ---------------------------------------------------------------------------------- */

static struct msg_fenced primary(uint64_t node, uint64_t epoch, dw_lsn lsn, bool writing, enum fence_verdict verdict) {
  struct msg_fenced m = answer(node, epoch, lsn, verdict);
  m.role = DW_PRIMARY;
  m.writing = writing;
  return m;
}

static void start_handover(uint64_t epoch, dw_lsn lsn) {
  struct promotion_config cfg = config(2, 1);
  cfg.handover = true;
  start(&cfg, epoch, lsn);
}

START_TEST(a_handover_waits_until_it_has_all_that_the_primary_has) {
  start_handover(5, 100);
  struct msg_fenced m = primary(2, 5, 110, true, FENCE_TOLD);
  enum fence_what what;
  says(0, FENCE_ASK, &m, 1);
  told(1, 3, 5, 100);
  says(0, FENCE_PAUSE, &m, 2);
  ck_assert(!promotion_wants(&p, 0, &what));
  ck_assert_uint_le(promotion_next_tick(&p), 2 + PROMOTION_PAUSE_NS);
  struct promotion_self self = self_at(5, 110);
  promotion_self_now(&p, &self);
  promotion_tick(&p, 2 + PROMOTION_PAUSE_NS); /* we have it, but it was still writing */
  m = primary(2, 5, 111, false, FENCE_TOLD);
  says(0, FENCE_PAUSE, &m, 3 + PROMOTION_PAUSE_NS);
  ck_assert_int_eq(promotion_next(&p), PROMOTION_WAIT);
  self = self_at(5, 111);
  promotion_self_now(&p, &self);
  promotion_tick(&p, 3 + PROMOTION_PAUSE_NS);
  promise_self(5, 111);
  promises(1, 3, 5, 100);
  ck_assert_int_eq(promotion_next(&p), PROMOTION_WAIT); /* enough, but the primary itself is not fenced */
  m = primary(2, 5, 111, false, FENCE_PROMISED);
  says(0, FENCE_PROMISE, &m, 5 + PROMOTION_PAUSE_NS);
  ck_assert_int_eq(promotion_next(&p), PROMOTION_BEGIN);
}
END_TEST

START_TEST(a_handover_without_the_primarys_promise_fails) {
  start_handover(5, 100);
  struct msg_fenced m = primary(2, 5, 100, false, FENCE_TOLD);
  says(0, FENCE_ASK, &m, 1);
  told(1, 3, 5, 100);
  says(0, FENCE_PAUSE, &m, 2);
  promise_self(5, 100);
  promises(1, 3, 5, 100);
  promotion_unreachable(&p, 0, "it has died", 3);
  failed(DW_NOT_ENOUGH_FOLLOWERS, "but not the primary's that was to hand over");
}
END_TEST

/* Its pause had run out: what it logged and answered before the promise fenced it is there alone. */
START_TEST(a_handover_by_a_primary_that_has_gone_on_meanwhile_fails) {
  for (int mode = DW_ASYNC; mode <= DW_SYNC; mode++) {
    start_handover(5, 100);
    p.cfg.mode = (dw_mode)mode;
    struct msg_fenced m = primary(2, 5, 100, false, FENCE_TOLD);
    says(0, FENCE_ASK, &m, 1);
    told(1, 3, 5, 100);
    says(0, FENCE_PAUSE, &m, 2);
    promise_self(5, 100);
    promises(1, 3, 5, 100);
    ck_assert_int_eq(promotion_next(&p), PROMOTION_WAIT);
    m = primary(2, 5, 101, false, FENCE_PROMISED);
    says(0, FENCE_PROMISE, &m, 3);
    failed(DW_STALE, "has more");
  }
}
END_TEST

START_TEST(while_the_primary_does_not_answer_there_is_nothing_to_do) {
  start_handover(5, 100);
  struct msg_fenced m = primary(2, 5, 100, false, FENCE_TOLD);
  says(0, FENCE_ASK, &m, 1);
  told(1, 3, 5, 100);
  promotion_asked(&p, 0);
  promotion_tick(&p, 100 * MS);
  ck_assert_uint_eq(promotion_next_tick(&p), 1000 * MS); /* in the past, it would keep the loop busy */
  promotion_tick(&p, 1000 * MS);
  failed(DW_TIMEOUT, "not caught up in time");
}
END_TEST

START_TEST(nobody_hands_over_what_a_newer_primary_has_written) {
  struct msg_fenced old = primary(2, 4, 300, false, FENCE_TOLD), fenced = primary(3, 6, 1, false, FENCE_TOLD);
  start_handover(5, 100); /* we know better ourselves */
  says(0, FENCE_ASK, &old, 1);
  told(1, 3, 5, 100);
  failed(DW_NOT_FOUND, "but epoch 5 has begun since");
  old.durable.epoch = 5;
  fenced.fenced = true;
  start_handover(5, 100); /* somebody else does */
  says(0, FENCE_ASK, &old, 1);
  says(1, FENCE_ASK, &fenced, 1);
  failed(DW_NOT_FOUND, "but epoch 6 has begun since");
  start_handover(5, 100);
  told(0, 2, 5, 100);
  promotion_unreachable(&p, 1, "gone", 1);
  failed(DW_NOT_FOUND, "no primary answers that could hand over; peer 2: gone");
}
END_TEST

START_TEST(a_primary_that_is_lost_or_refuses_ends_a_handover) {
  struct msg_fenced m = primary(2, 5, 100, true, FENCE_TOLD);
  start_handover(5, 100);
  says(0, FENCE_ASK, &m, 1);
  told(1, 3, 5, 100);
  promotion_unreachable(&p, 0, "reset", 2);
  failed(DW_IO, "is gone: reset");
  start_handover(5, 100);
  says(0, FENCE_ASK, &m, 1);
  told(1, 3, 5, 100);
  m.verdict = FENCE_REFUSED;
  says(0, FENCE_PAUSE, &m, 2);
  failed(DW_FENCED, "does not hand over");
}
END_TEST

START_TEST(answers_to_nothing_change_nothing) {
  struct promotion_config cfg = config(2, 1);
  struct msg_fenced m = answer(2, 5, 100, FENCE_PROMISED);
  start(&cfg, 5, 100);
  promotion_answer(&p, 0, &m, 1); /* not asked */
  promotion_answer(&p, 2, &m, 1); /* nobody */
  promotion_unreachable(&p, 2, "nobody", 1);
  ck_assert_int_eq(promotion_next(&p), PROMOTION_WAIT);
  ck_assert(!p.peer[0].answered);
}
END_TEST

/* ---- the model --------------------------------------------------------------------------------- */

/* Nodes with logs of single entries. Whoever is primary sends its log; who takes it acknowledges what it has made
 * durable, with the epoch of its end. Entry: its epoch and a number that no other entry has. */
#define NODES 5
#define ENTRIES 40
#define NET 96

struct log {
  unsigned n;
  uint64_t epoch[ENTRIES]; /* an epoch's record is an entry, too */
  uint32_t what[ENTRIES];
};
struct member {
  struct log log, durable; /* durable: what a crash leaves */
  uint64_t promised, promised_to;
  bool up, leads, asks;
  uint64_t epoch;        /* leads: this one */
  unsigned acked[NODES]; /* of others, in this epoch */
  unsigned committed;
  struct promotion p;
  uint64_t question[NODES]; /* id of the open one, per peer; 0: none */
  uint64_t since;
};
struct letter {
  enum { ASK, ANSWER, COPY, ACK } kind;
  unsigned from, to;
  uint64_t id, epoch;
  unsigned n;
  enum fence_what what;
  struct wal_pos pos;
  struct msg_fenced m;
  struct log log;
};
struct begin {
  uint64_t epoch;
  struct log log;
};
static struct model {
  struct rng r;
  unsigned nodes;
  uint32_t acks, next;
  uint64_t now, id, seed;
  struct member node[NODES];
  struct letter net[NET];
  unsigned letters;
  struct {
    uint32_t what;
    uint64_t epoch;
  } safe[4000]; /* acknowledged */
  unsigned safes;
  struct begin begins[200];
  unsigned begun, refused;
} M;

static struct wal_pos end_of(const struct log *l) {
  return (struct wal_pos){.lsn = l->n, .epoch = l->n ? l->epoch[l->n - 1] : 0};
}
static bool holds(const struct log *l, uint32_t what) {
  for (unsigned i = 0; i < l->n; i++)
    if (l->what[i] == what) return true;
  return false;
}
static void post(const struct letter *l) {
  if (M.letters < NET) M.net[M.letters++] = *l; /* else lost */
}
static unsigned peer_of(unsigned i, unsigned k) { /* the k-th peer of node i */
  return k < i ? k : k + 1;
}

static void must_hold(uint32_t what, const struct begin *b) {
  ck_assert_msg(holds(&b->log, what), "seed %llu: entry %u was acknowledged, epoch %llu begins without it",
                (unsigned long long)M.seed, what, (unsigned long long)b->epoch);
}

static void append(struct member *n, uint64_t epoch) {
  n->log.epoch[n->log.n] = epoch;
  n->log.what[n->log.n++] = ++M.next;
}

static void begin(struct member *n) {
  n->leads = true;
  n->epoch = promotion_epoch(&n->p);
  n->committed = 0;
  memset(n->acked, 0, sizeof n->acked);
  struct begin *b = &M.begins[M.begun++];
  *b = (struct begin){n->epoch, n->log};
  for (unsigned i = 0; i < M.safes; i++)
    if (M.safe[i].epoch < b->epoch) must_hold(M.safe[i].what, b);
  append(n, n->epoch);
  n->durable = n->log;
  promotion_begun(&n->p, DW_OK, "", M.now);
}

/* What the driver does between turns: carries out what the machine wants. */
static void drive(unsigned i) {
  struct member *n = &M.node[i];
  enum fence_what what;
  if (!n->asks) return;
  promotion_tick(&n->p, M.now);
  if (promotion_next(&n->p) == PROMOTION_PROMISE_SELF) {
    uint64_t e = promotion_epoch(&n->p);
    bool fine = e > n->promised && e > end_of(&n->log).epoch;
    n->durable = n->log;
    if (fine) n->promised = e, n->promised_to = i + 1;
    struct promotion_self self = {.durable = end_of(&n->log), .promised_epoch = n->promised};
    promotion_promised(&n->p, fine ? DW_OK : DW_FENCED, "promised", &self, M.now);
  }
  for (unsigned k = 0; k + 1 < M.nodes; k++) {
    if (!promotion_wants(&n->p, k, &what)) continue;
    promotion_asked(&n->p, k);
    n->question[k] = ++M.id;
    post(&(struct letter){.kind = ASK,
                          .from = i,
                          .to = peer_of(i, k),
                          .id = M.id,
                          .what = what,
                          .pos = end_of(&n->log),
                          .epoch = what == FENCE_PROMISE || what == FENCE_BEGUN ? promotion_epoch(&n->p) : 0});
  }
  if (promotion_next(&n->p) == PROMOTION_BEGIN) {
    if (n->promised == promotion_epoch(&n->p) && M.begun < 200 && n->log.n < ENTRIES)
      begin(n);
    else
      promotion_begun(&n->p, DW_FENCED, "promised elsewhere", M.now);
  }
  if (promotion_settled(&n->p) && (n->leads || promotion_next(&n->p) == PROMOTION_FAILED)) n->asks = false;
}

/* replication/node_fence.c in short. */
static void asked(struct member *n, const struct letter *l) {
  struct msg_fenced m = {.node_id = l->to + 1, .has_data = n->log.n != 0, .role = n->leads ? DW_PRIMARY : DW_FOLLOWER};
  struct wal_pos end = end_of(&n->log);
  if (l->what == FENCE_PROMISE) {
    bool fine = n->log.n && !promotion_has_more(&end, &l->pos) && l->epoch > end.epoch &&
                (l->epoch > n->promised || (l->epoch == n->promised && l->from + 1 == n->promised_to));
    m.verdict = fine ? FENCE_PROMISED : FENCE_REFUSED;
    M.refused += !fine;
    if (fine) {
      n->promised = l->epoch;
      n->promised_to = l->from + 1;
      n->durable = n->log;
      n->leads = false;
      if (n->asks) promotion_beaten(&n->p, l->epoch, l->from + 1);
      n->asks = false;
    }
  }
  m.durable = end_of(&n->log);
  m.promised_epoch = n->promised;
  m.promised_node = n->promised_to;
  post(&(struct letter){.kind = ANSWER, .from = l->to, .to = l->from, .id = l->id, .m = m});
}

static void answered(struct member *n, const struct letter *l) {
  unsigned k = l->from < l->to ? l->from : l->from - 1;
  if (!n->asks || n->question[k] != l->id) return; /* fencer.c: an answer to no question */
  n->question[k] = 0;
  promotion_answer(&n->p, k, &l->m, M.now);
}

/* A stream in one letter: the primary's whole log. */
static void copied(struct member *n, const struct letter *l) {
  struct wal_pos end = end_of(&n->log), theirs = end_of(&l->log);
  if (n->leads || n->asks || l->epoch < n->promised || l->epoch < end.epoch) return;
  if (promotion_has_more(&end, &theirs) || (end.epoch == theirs.epoch && end.lsn > theirs.lsn)) return;
  n->log = l->log;
  if (rng_percent(&M.r, 70)) n->durable = n->log; /* else later, or never */
  post(&(struct letter){
      .kind = ACK, .from = l->to, .to = l->from, .n = n->durable.n, .epoch = end_of(&n->durable).epoch});
}

static void acked(struct member *n, const struct letter *l) {
  if (!n->leads || l->epoch < n->epoch) return; /* shipper_input.c: of an earlier epoch nothing counts */
  if (l->n > n->acked[l->from]) n->acked[l->from] = l->n;
  for (; n->committed < n->log.n; n->committed++) {
    unsigned have = 0;
    for (unsigned i = 0; i < M.nodes; i++) have += n->acked[i] > n->committed;
    if (have < M.acks || n->durable.n <= n->committed) return;
    uint32_t what = n->log.what[n->committed];
    for (unsigned b = 0; b < M.begun; b++)
      if (M.begins[b].epoch > n->epoch) must_hold(what, &M.begins[b]);
    if (M.safes < 4000) M.safe[M.safes].epoch = n->epoch, M.safe[M.safes++].what = what;
  }
}

static void deliver(void) {
  if (!M.letters) return;
  unsigned at = (unsigned)rng_below(&M.r, M.letters);
  struct letter l = M.net[at];
  if (!rng_percent(&M.r, 10)) M.net[at] = M.net[--M.letters]; /* else once more */
  struct member *n = &M.node[l.to];
  if (!n->up || rng_percent(&M.r, 10)) return;
  switch (l.kind) {
  case ASK: asked(n, &l); break;
  case ANSWER: answered(n, &l); break;
  case COPY: copied(n, &l); break;
  case ACK: acked(n, &l); break;
  }
  if (n->leads && n->log.n > ENTRIES - 2) M.letters = 0; /* full: nothing more happens in this run */
}

static void candidate(unsigned i) {
  struct member *n = &M.node[i];
  if (!n->up || n->leads || n->asks || !n->log.n) return;
  struct promotion_config cfg = {.node_id = i + 1,
                                 .peers = M.nodes - 1,
                                 .mode = DW_SYNC,
                                 .acks = M.acks,
                                 .timeout_ns = 100,
                                 .draw = (uint32_t)rng_next(&M.r)};
  struct promotion_self self = {.durable = end_of(&n->log), .promised_epoch = n->promised};
  memset(n->question, 0, sizeof n->question);
  n->asks = true;
  promotion_start(&n->p, &cfg, &self, M.now);
}

static void crash(struct member *n) {
  n->up = !n->up;
  n->log = n->durable;
  n->leads = n->asks = false; /* it comes back as a follower; an old primary has to be promoted again */
}

static void model_step(void) {
  unsigned i = (unsigned)rng_below(&M.r, M.nodes);
  struct member *n = &M.node[i];
  M.now++;
  switch (rng_below(&M.r, 40)) {
  case 0: candidate(i); break;
  case 1:
    if (!n->up || rng_percent(&M.r, 20)) crash(n);
    break;
  case 2:
    if (n->asks) promotion_unreachable(&n->p, rng_below(&M.r, M.nodes - 1), "cut", M.now);
    break;
  case 3:
  case 4:
  case 5:
    if (n->leads && n->log.n < ENTRIES) {
      append(n, n->epoch);
      if (rng_percent(&M.r, 90)) n->durable = n->log;
    }
    break;
  case 6:
  case 7:
  case 8:
  case 9:
    if (n->leads && n->durable.n == n->log.n)
      post(&(struct letter){.kind = COPY,
                            .from = i,
                            .to = peer_of(i, (unsigned)rng_below(&M.r, M.nodes - 1)),
                            .epoch = n->epoch,
                            .log = n->log});
    break;
  default: deliver();
  }
  for (unsigned k = 0; k < M.nodes; k++) drive(k);
}

START_TEST(no_two_candidates_ever_part_what_was_acknowledged) {
  unsigned begun = 0, safes = 0, refused = 0, contested = 0;
  for (uint64_t seed = 1; seed <= 3000; seed++) {
    memset(&M, 0, sizeof M);
    M.seed = seed;
    M.r = rng_make(seed, 1);
    M.nodes = 2 + (unsigned)rng_below(&M.r, NODES - 1);
    M.acks = 1 + (uint32_t)rng_below(&M.r, M.nodes - 1);
    for (unsigned i = 0; i < M.nodes; i++) {
      struct member *n = &M.node[i];
      n->up = true;
      n->log.epoch[0] = 1;
      n->log.what[0] = M.next = 1;
      n->log.n = 1;
      n->durable = n->log;
    }
    for (int step = 0; step < 1500; step++) model_step();
    begun += M.begun, safes += M.safes, refused += M.refused;
    for (unsigned i = 0, two = 0; i < M.nodes; i++) contested += M.node[i].leads && two++;
  }
  /* The model is worth something only if all of it happens. */
  ck_assert_msg(begun > 5000 && safes > 20000 && refused > 1000 && contested > 10,
                "%u epochs, %u writes, %u refusals, %u rivals", begun, safes, refused, contested);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication_promotion");
  TCase *t = tcase_create("machine");
  tcase_set_timeout(t, 120);
  tcase_add_test(t, so_many_promises_are_needed_that_every_ack_quorum_is_met);
  tcase_add_test(t, promises_are_collected_and_the_epoch_begins);
  tcase_add_test(t, a_peer_that_claims_an_impossible_epoch_does_not_use_up_the_numbers);
  tcase_add_test(t, one_promise_too_few_begins_nothing);
  tcase_add_test(t, one_node_under_two_addresses_and_ourselves_count_once);
  tcase_add_test(t, a_node_without_data_has_nothing_to_promise);
  tcase_add_test(t, who_has_more_stands_in_the_way);
  tcase_add_test(t, a_promise_with_a_longer_log_does_not_count);
  tcase_add_test(t, force_is_content_with_itself_and_less);
  tcase_add_test(t, data_that_is_too_old_or_of_unknown_age_is_refused_if_asked);
  tcase_add_test(t, silence_costs_half_the_time_when_asking_and_all_of_it_when_promising);
  tcase_add_test(t, a_faster_candidate_is_told_apart_from_a_missing_one);
  tcase_add_test(t, a_promise_to_itself_that_fails_ends_it);
  tcase_add_test(t, the_epoch_is_above_everything_that_anybody_knows);
  tcase_add_test(t, the_epoch_is_of_the_term_that_a_coordinator_was_told);
  tcase_add_test(t, a_handover_waits_until_it_has_all_that_the_primary_has);
  tcase_add_test(t, a_handover_without_the_primarys_promise_fails);
  tcase_add_test(t, a_handover_by_a_primary_that_has_gone_on_meanwhile_fails);
  tcase_add_test(t, while_the_primary_does_not_answer_there_is_nothing_to_do);
  tcase_add_test(t, nobody_hands_over_what_a_newer_primary_has_written);
  tcase_add_test(t, a_primary_that_is_lost_or_refuses_ends_a_handover);
  tcase_add_test(t, answers_to_nothing_change_nothing);
  tcase_add_test(t, no_two_candidates_ever_part_what_was_acknowledged);
  suite_add_tcase(s, t);
  return check_main(s);
}
