/* Roles at run time (engine/role.c): what a promise costs and is worth, who may acknowledge, promotion and demotion in
 * place. Engines alone, without a network: followers are fed with the blocks of another engine, acknowledgements are
 * made up. */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/internal.h"
#include "tests/support/check_main.h"
#include "tests/support/fault_env.h"

#define TERM1 (1ull << 32)

static char root[200], dir[256], source_dir[256];
static dw_options options;
static struct engine_config config;
static struct fault_env *faults;
static dw_engine *e, *source; /* under test; whoever writes what `e` follows */

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg, (void)level, (void)line;
}

static void setup(void) {
  snprintf(root, sizeof root, "%s/dw-role-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(root));
  snprintf(dir, sizeof dir, "%s/node", root);
  snprintf(source_dir, sizeof source_dir, "%s/source", root);
  dw_options_init(&options);
  options.segment_bytes = 1u << 20;
  options.memtable_bytes = 1u << 20;
  options.ack_timeout_ms = 5000;
  options.node_id = 11;
  options.log = quiet;
  faults = fault_env_create(env_posix());
  config = (struct engine_config){.env = fault_env_env(faults), .threads = true, .store = store_mem()};
  e = source = NULL;
}

static void teardown(void) {
  if (e) engine_close(e);
  if (source) engine_close(source);
  env_remove_tree(env_posix(), root);
  fault_env_destroy(faults);
}

static void open_node(dw_role role) {
  options.role = role;
  int rc = engine_open(dir, &options, &config, &e);
  ck_assert_msg(rc == DW_OK, "open: %s: %s", dw_rc_name(rc), dw_last_error());
}

static void close_node(void) {
  ck_assert_int_eq(engine_close(e), DW_OK);
  e = NULL;
}

static void reopen(dw_role role) {
  close_node();
  open_node(role);
}

/* ---- small words ------------------------------------------------------------------------------ */

static struct engine_positions at(dw_engine *of) {
  struct engine_positions pos;
  engine_positions(of, &pos);
  return pos;
}

static struct engine_promise promised(void) {
  struct engine_promise p;
  engine_promised(e, &p);
  return p;
}

static dw_status status(void) {
  static dw_status s;
  dw_status_get(e, &s);
  return s;
}

static dw_lsn put(dw_engine *to, const dw_write_options *wo, const char *key) {
  dw_lsn lsn = 0;
  int rc = dw_put(to, wo, key, strlen(key), "v", 1, &lsn);
  ck_assert_msg(rc == DW_OK, "put %s: %s: %s", key, dw_rc_name(rc), dw_last_error());
  return lsn;
}

static bool has(const char *key) {
  dw_value v;
  int rc = dw_get(e, NULL, key, strlen(key), &v);
  ck_assert_msg(rc == DW_OK || rc == DW_NOT_FOUND, "get %s: %s", key, dw_last_error());
  if (rc == DW_OK) dw_value_release(&v);
  return rc == DW_OK;
}

static void acks_to(dw_engine *of, uint32_t connected, dw_lsn lsn) {
  struct ack_marks m = {.connected = connected, .known = connected};
  for (uint32_t i = 0; i < connected; i++)
    m.mark[LEVEL_RECEIVED][i] = m.mark[LEVEL_DURABLE][i] = m.mark[LEVEL_APPLIED][i] = lsn;
  engine_acks(of, &m);
}

static void await_lsn(dw_lsn (*what)(const dw_status *), dw_lsn lsn) {
  for (int i = 0; i < 10000; i++) {
    dw_status s = status();
    if (what(&s) >= lsn) return;
    usleep(1000);
  }
  ck_abort_msg("LSN %llu was not reached", (unsigned long long)lsn);
}
static dw_lsn written(const dw_status *s) {
  return s->written_lsn;
}
static dw_lsn applied(const dw_status *s) {
  return s->applied_lsn;
}

static struct epoch_record last_epoch(dw_engine *of) {
  struct epoch_record r[32];
  size_t n = engine_epochs(of, r, 32);
  ck_assert_uint_gt(n, 0);
  ck_assert_uint_le(n, 32);
  return r[n - 1];
}

/* A write in a thread of its own. */
struct writer {
  pthread_t thread;
  const dw_write_options *wo;
  const char *key;
  int rc;
  dw_lsn lsn;
  char error[300];
};
static void *write_once(void *arg) {
  struct writer *w = arg;
  w->rc = dw_put(e, w->wo, w->key, strlen(w->key), "v", 1, &w->lsn);
  snprintf(w->error, sizeof w->error, "%s", dw_last_error());
  return NULL;
}
static void begin_write(struct writer *w, const dw_write_options *wo, const char *key) {
  *w = (struct writer){.wo = wo, .key = key};
  pthread_create(&w->thread, NULL, write_once, w);
}
static void end_write(struct writer *w) {
  pthread_join(w->thread, NULL);
}

struct answer {
  atomic_int called;
  int rc;
  dw_lsn lsn;
};
static void on_commit(void *arg, int rc, dw_lsn lsn) {
  struct answer *a = arg;
  a->rc = rc;
  a->lsn = lsn;
  atomic_fetch_add(&a->called, 1);
}
static int put_async(const dw_write_options *wo, const char *key, struct answer *a) {
  dw_batch *b = dw_batch_create();
  dw_batch_put(b, key, strlen(key), "v", 1);
  int rc = dw_write_async(e, wo, b, on_commit, a);
  dw_batch_destroy(b);
  return rc;
}
static void await_answer(struct answer *a) {
  for (int i = 0; i < 10000 && !atomic_load(&a->called); i++) usleep(1000);
  ck_assert_int_eq(atomic_load(&a->called), 1);
}

static const dw_write_options sync1 = {.mode = DW_SYNC, .acks = 1, .timeout_ms = 60000};
static const dw_write_options async = {.mode = DW_ASYNC};

/* ---- following by hand ------------------------------------------------------------------------- */

static void open_source(void) {
  dw_options o = options;
  o.role = DW_PRIMARY;
  o.node_id = 22;
  struct engine_config c = {.env = env_posix(), .threads = true, .store = store_mem()};
  ck_assert_int_eq(engine_open(source_dir, &o, &c, &source), DW_OK);
}

/* Gives `e` what `from` has logged beyond the end of e's log. */
static int feed(dw_engine *from) {
  struct engine_positions pos = at(e);
  struct wal_pos tail = pos.tail;
  struct wal_cursor *c;
  struct engine_identity id;
  engine_identity(from, &id);
  if (!engine_wal(e)) {
    ck_assert_int_eq(engine_adopt_cluster(e, &id.cluster_id), DW_OK);
    tail = wal_genesis(&id.cluster_id);
  }
  int rc = wal_cursor_open(engine_wal(from), &tail, &c);
  if (rc) return rc;
  struct wal_block *b;
  while (rc == DW_OK && (rc = wal_cursor_next(c, UINT64_MAX, &b)) == DW_OK) {
    rc = engine_replica_append(e, &b, 1);
    wal_block_unref(b);
  }
  wal_cursor_close(c);
  if (rc != DW_NOT_FOUND) return rc;
  return engine_replica_sync(e, NULL);
}

/* A follower with three committed writes, applied. */
static void open_follower(void) {
  open_source();
  for (int i = 0; i < 3; i++) put(source, &async, (const char *[]){"a", "b", "c"}[i]);
  open_node(DW_FOLLOWER);
  ck_assert_int_eq(feed(source), DW_OK);
  engine_replica_commit(e, 3);
  await_lsn(applied, 3);
}

static uint64_t promise_self(void) {
  static uint32_t draw;
  struct engine_promise p = promised();
  uint64_t above = p.epoch > at(e).epoch ? p.epoch : at(e).epoch;
  uint64_t epoch = epoch_next_term(above, ++draw);
  ck_assert_int_eq(engine_promise(e, epoch, options.node_id, "self:1"), DW_OK);
  return epoch;
}

/* ---- promises ---------------------------------------------------------------------------------- */

START_TEST(a_promise_survives_reopening_and_a_primary_opens_fenced_then) {
  open_node(DW_PRIMARY);
  put(e, &async, "mine");
  ck_assert(!promised().fenced);
  ck_assert_int_eq(engine_promise(e, TERM1, 7, "other:7000"), DW_OK);
  ck_assert(promised().fenced);
  ck_assert_str_eq(promised().primary, "other:7000");
  reopen(DW_PRIMARY);
  struct engine_promise p = promised();
  ck_assert_uint_eq(p.epoch, TERM1);
  ck_assert_uint_eq(p.node_id, 7);
  ck_assert(p.fenced);
  dw_lsn lsn = 9;
  ck_assert_int_eq(dw_put(e, &async, "k", 1, "v", 1, &lsn), DW_FENCED);
  ck_assert_uint_eq(lsn, 0);
  ck_assert_uint_eq(at(e).epoch, 1); /* no epoch of its own was begun */
  ck_assert(has("mine"));
  dw_status s = status();
  ck_assert_uint_eq(s.promised_epoch, TERM1);
  ck_assert_uint_eq(s.promised_node, 7);
  ck_assert_int_eq(s.fenced, 1);
  reopen(DW_FOLLOWER);
  ck_assert_uint_eq(promised().epoch, TERM1);
  ck_assert(!promised().fenced); /* a follower acknowledges nothing of its own anyway */
}
END_TEST

START_TEST(a_promise_is_refused_below_beside_and_not_above_the_own_log) {
  open_node(DW_PRIMARY);
  reopen(DW_PRIMARY);
  ck_assert_uint_eq(at(e).epoch, 2);
  ck_assert_int_eq(engine_promise(e, 2, 7, ""), DW_FENCED);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "epoch 2"));
  ck_assert_int_eq(engine_promise(e, 1, 7, ""), DW_FENCED);
  ck_assert_int_eq(engine_promise(e, 0, 7, ""), DW_INVALID);
  ck_assert_int_eq(engine_promise(e, 9, 0, ""), DW_INVALID);
  ck_assert(!promised().fenced);
  put(e, &async, "still mine");
  ck_assert_int_eq(engine_promise(e, 9, 7, ""), DW_OK);
  ck_assert_int_eq(engine_promise(e, 8, 7, ""), DW_FENCED);
  ck_assert_int_eq(engine_promise(e, 9, 8, ""), DW_FENCED);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "node 7"));
  ck_assert_int_eq(engine_promise(e, 9, 7, ""), DW_OK); /* asked again by the same one */
  ck_assert_int_eq(engine_promise(e, 10, 8, ""), DW_OK);
  ck_assert_uint_eq(promised().epoch, 10);
  ck_assert_uint_eq(promised().node_id, 8);
}
END_TEST

START_TEST(an_epoch_that_leaves_no_numbers_to_those_after_it_is_not_promised) {
  open_node(DW_PRIMARY);
  ck_assert_int_eq(engine_promise(e, UINT64_MAX, 7, "other:1"), DW_INVALID);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "epoch 18446744073709551615"));
  ck_assert_int_eq(engine_promise(e, TERM1 * (EPOCH_TERMS_AHEAD + 1ull), 7, "other:1"), DW_INVALID);
  ck_assert(!promised().fenced);
  put(e, &async, "goes on");
  ck_assert_int_eq(engine_promise(e, TERM1 * EPOCH_TERMS_AHEAD, 7, "other:1"), DW_OK);
  ck_assert(promised().fenced);
}
END_TEST

START_TEST(nothing_is_promised_when_node_can_not_be_written) {
  static const struct {
    enum fault_op op;
    int rc;
  } faults_at[] = {{FAULT_OPEN, DW_IO}, {FAULT_PWRITEV, DW_NO_SPACE}, {FAULT_FDATASYNC, DW_IO}, {FAULT_RENAME, DW_IO}};
  open_node(DW_PRIMARY);
  for (size_t i = 0; i < sizeof faults_at / sizeof *faults_at; i++) {
    fault_env_only(faults, "/NODE");
    fault_env_fail(faults, faults_at[i].op, 1, faults_at[i].rc, false);
    int rc = engine_promise(e, TERM1, 7, "other:1");
    fault_env_fail(faults, faults_at[i].op, 0, 0, false);
    ck_assert_msg(rc == faults_at[i].rc, "fault %zu: %s", i, dw_rc_name(rc));
    ck_assert_uint_eq(promised().epoch, 0);
    ck_assert(!promised().fenced);
    put(e, &async, "goes on");
  }
  reopen(DW_PRIMARY);
  ck_assert_uint_eq(promised().epoch, 0);
  put(e, &async, "still");
  ck_assert_int_eq(engine_promise(e, TERM1, 7, "other:1"), DW_OK);
}
END_TEST

/* ---- fencing a primary that lives ---------------------------------------------------------------- */

START_TEST(a_fenced_primary_acknowledges_nothing_though_acks_come_later) {
  open_node(DW_PRIMARY);
  put(e, &async, "done");
  acks_to(e, 1, 1);
  struct writer pending;
  begin_write(&pending, &sync1, "pending");
  await_lsn(written, 2);
  ck_assert_int_eq(engine_promise(e, TERM1, 7, "other:7000"), DW_OK);
  end_write(&pending);
  ck_assert_int_eq(pending.rc, DW_FENCED);
  ck_assert_uint_eq(pending.lsn, 2); /* in doubt */
  ck_assert_ptr_nonnull(strstr(pending.error, "in doubt"));
  ck_assert_ptr_nonnull(strstr(pending.error, "primary=other:7000"));
  acks_to(e, 1, 2);
  ck_assert_uint_eq(at(e).commit_lsn, 1);
  ck_assert(!has("pending"));
  ck_assert_int_eq(dw_wait(e, 2, &sync1), DW_FENCED);
  ck_assert_int_eq(dw_wait(e, 1, &async), DW_OK); /* was committed before */
  struct answer a = {0};
  ck_assert_int_eq(put_async(&async, "late", &a), DW_FENCED);
  ck_assert_int_eq(atomic_load(&a.called), 0);
  ck_assert_uint_eq(status().written_lsn, 2);
}
END_TEST

START_TEST(asynchronous_writes_in_doubt_are_called_back_once_when_a_primary_is_fenced) {
  open_node(DW_PRIMARY);
  acks_to(e, 1, 0);
  struct answer a[3] = {0};
  for (int i = 0; i < 3; i++) ck_assert_int_eq(put_async(&sync1, "k", &a[i]), DW_OK);
  await_lsn(written, 3);
  ck_assert_int_eq(engine_promise(e, TERM1, 7, ""), DW_OK);
  for (int i = 0; i < 3; i++) {
    await_answer(&a[i]);
    ck_assert_int_eq(a[i].rc, DW_FENCED);
    ck_assert_uint_eq(a[i].lsn, (dw_lsn)i + 1);
  }
}
END_TEST

/* ---- log writes that can be held: for what is queued, and for what is just being logged ----------- */

static struct env_ops held_ops;
static struct env held_env = {&held_ops};
static pthread_mutex_t hold_mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t hold_cond = PTHREAD_COND_INITIALIZER;
static bool hold;
static int inside;

static int held_pwritev(struct env_file *f, uint64_t off, const struct iovec *iov, int n) {
  pthread_mutex_lock(&hold_mu);
  inside++;
  pthread_cond_broadcast(&hold_cond);
  while (hold) pthread_cond_wait(&hold_cond, &hold_mu);
  inside--;
  pthread_mutex_unlock(&hold_mu);
  return env_posix()->ops->pwritev(f, off, iov, n);
}

static void hold_writes(bool yes) {
  pthread_mutex_lock(&hold_mu);
  hold = yes;
  pthread_cond_broadcast(&hold_cond);
  pthread_mutex_unlock(&hold_mu);
}

static void await_held(void) {
  pthread_mutex_lock(&hold_mu);
  while (!inside) pthread_cond_wait(&hold_cond, &hold_mu);
  pthread_mutex_unlock(&hold_mu);
}

static void *demote(void *arg) {
  (void)arg;
  return (void *)(intptr_t)engine_demote(e);
}

START_TEST(what_is_just_being_logged_is_in_doubt_and_what_is_queued_is_not_done) {
  held_ops = *env_posix()->ops;
  held_ops.pwritev = held_pwritev;
  config.env = &held_env;
  open_node(DW_PRIMARY);
  hold_writes(true);
  struct answer taken = {0}, queued = {0};
  ck_assert_int_eq(put_async(&async, "taken", &taken), DW_OK);
  await_held();
  ck_assert_int_eq(put_async(&async, "queued", &queued), DW_OK);
  pthread_t t;
  pthread_create(&t, NULL, demote, NULL);
  await_answer(&queued); /* at once, while the log still writes */
  ck_assert_int_eq(queued.rc, DW_FENCED);
  ck_assert_uint_eq(queued.lsn, 0);
  ck_assert_int_eq(atomic_load(&taken.called), 0);
  hold_writes(false);
  void *rc;
  pthread_join(t, &rc);
  ck_assert_int_eq((intptr_t)rc, DW_OK);
  await_answer(&taken);
  ck_assert_int_eq(taken.rc, DW_FENCED);
  ck_assert_uint_eq(taken.lsn, 1);
  ck_assert_int_eq(status().role, DW_FOLLOWER);
}
END_TEST

START_TEST(a_fenced_primary_confirms_no_bound_and_no_strong_read) {
  open_node(DW_PRIMARY);
  put(e, &async, "k");
  dw_read_options bounded = {.consistency = DW_BOUNDED, .max_staleness_ms = 1000000},
                  strong = {.consistency = DW_STRONG, .wait_ms = 5000},
                  session = {.consistency = DW_SESSION, .min_lsn = 1};
  dw_value v;
  ck_assert_int_eq(dw_get(e, &bounded, "k", 1, &v), DW_OK);
  dw_value_release(&v);
  ck_assert_int_eq(dw_get(e, &strong, "k", 1, &v), DW_OK);
  dw_value_release(&v);
  ck_assert(engine_strong_now(e));
  ck_assert_int_eq(engine_promise(e, TERM1, 7, "other:7000"), DW_OK);
  ck_assert_int_eq(dw_get(e, &bounded, "k", 1, &v), DW_STALE);
  ck_assert_int_eq(dw_get(e, &strong, "k", 1, &v), DW_STALE); /* at once, not after wait_ms: nothing will come */
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "primary=other:7000"));
  ck_assert(!engine_strong_now(e));
  ck_assert(at(e).fenced);
  ck_assert_int_eq(dw_get(e, &session, "k", 1, &v), DW_OK);
  dw_value_release(&v);
}
END_TEST

static atomic_uint_fast64_t lease_now;
static uint64_t lease_clock(void) {
  return atomic_load(&lease_now);
}

static void *get_strongly(void *arg) {
  dw_read_options strong = {.consistency = DW_STRONG, .wait_ms = 20000};
  dw_value v;
  int rc = dw_get(arg, &strong, "k", 1, &v);
  if (rc == DW_OK) dw_value_release(&v);
  return (void *)(intptr_t)rc;
}

/* A process that was stopped finds its lease gone, and readers in its sockets. */
START_TEST(a_primary_past_its_lease_confirms_no_bound_and_no_strong_read) {
  open_node(DW_PRIMARY);
  put(e, &async, "k");
  dw_read_options bounded = {.consistency = DW_BOUNDED, .max_staleness_ms = 1000000},
                  strong = {.consistency = DW_STRONG, .wait_ms = 1}, eventual = {.consistency = DW_EVENTUAL};
  dw_value v;
  pthread_t t;
  void *rc;
  atomic_store(&lease_now, 99);
  engine_lease(e, lease_clock, 100);
  ck_assert(engine_strong_now(e) && engine_lease_holds(e));
  atomic_store(&lease_now, 100);
  ck_assert(!engine_strong_now(e) && !engine_lease_holds(e));
  ck_assert_int_eq(dw_get(e, &bounded, "k", 1, &v), DW_STALE);
  ck_assert_int_eq(dw_get(e, &strong, "k", 1, &v), DW_STALE);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "no lease"));
  ck_assert_int_eq(dw_get(e, &eventual, "k", 1, &v), DW_OK);
  dw_value_release(&v);
  ck_assert_int_eq(pthread_create(&t, NULL, get_strongly, e), 0);
  for (bool waits = false; !waits; poll(NULL, 0, 1)) {
    pthread_mutex_lock(&e->mu);
    waits = e->moved_waiters > 0;
    pthread_mutex_unlock(&e->mu);
  }
  engine_lease(e, lease_clock, 200); /* whoever waits goes on at once */
  pthread_join(t, &rc);
  ck_assert_int_eq((intptr_t)rc, DW_OK);
  ck_assert_int_eq(dw_get(e, &bounded, "k", 1, &v), DW_OK);
  dw_value_release(&v);
}
END_TEST

/* ---- promotion ----------------------------------------------------------------------------------- */

START_TEST(a_promoted_follower_goes_on_writing_in_the_next_term) {
  open_follower();
  uint64_t before = at(e).epoch, epoch = promise_self();
  ck_assert_uint_eq(epoch_term(epoch), epoch_term(before) + 1);
  ck_assert_int_eq(engine_promote(e, epoch), DW_OK);
  dw_status s = status();
  ck_assert_int_eq(s.role, DW_PRIMARY);
  ck_assert_int_eq(s.fenced, 0);
  ck_assert_uint_eq(s.epoch, epoch);
  struct epoch_record r = last_epoch(e);
  ck_assert_uint_eq(r.epoch, epoch);
  ck_assert_uint_eq(r.node_id, options.node_id);
  ck_assert_uint_eq(r.reason, EPOCH_PROMOTED);
  ck_assert_uint_eq(r.start.lsn, 3);
  ck_assert(has("c"));
  ck_assert_uint_eq(put(e, &async, "d"), 4);
  struct answer a = {0};
  ck_assert_int_eq(put_async(&async, "e", &a), DW_OK);
  await_answer(&a);
  ck_assert_int_eq(a.rc, DW_OK);
  ck_assert_uint_eq(a.lsn, 5);
  reopen(DW_PRIMARY);
  r = last_epoch(e);
  ck_assert_uint_eq(r.epoch, epoch + 1);
  ck_assert_uint_eq(r.reason, EPOCH_OPENED);
  ck_assert(!promised().fenced);
  ck_assert(has("d") && has("e"));
  ck_assert_uint_eq(put(e, &async, "f"), 6);
}
END_TEST

START_TEST(a_promoted_follower_waits_for_acks_of_a_sync_tail) {
  open_follower();
  acks_to(source, 1, 3);
  struct answer lost = {0};
  dw_batch *b = dw_batch_create();
  dw_batch_put(b, "tail", 4, "v", 1);
  ck_assert_int_eq(dw_write_async(source, &sync1, b, on_commit, &lost), DW_OK);
  dw_batch_destroy(b);
  for (int i = 0; i < 10000 && at(source).tail.lsn < 4; i++) usleep(1000);
  ck_assert_int_eq(feed(source), DW_OK);
  ck_assert_uint_eq(at(e).tail.lsn, 4);
  ck_assert_int_eq(engine_promote(e, promise_self()), DW_OK);
  ck_assert_uint_eq(at(e).commit_lsn, 3);
  ck_assert(!has("tail"));
  dw_value v;
  dw_read_options strong = {.consistency = DW_STRONG, .wait_ms = 1};
  ck_assert_int_eq(dw_get(e, &strong, "tail", 4, &v), DW_STALE); /* may have been acknowledged: nobody knows here */
  acks_to(e, 1, 4);
  await_lsn(applied, 4);
  ck_assert(has("tail"));
  ck_assert_int_eq(dw_get(e, &strong, "tail", 4, &v), DW_OK);
  dw_value_release(&v);
}
END_TEST

START_TEST(a_promoted_follower_commits_an_async_tail_at_once) {
  open_follower();
  put(source, &async, "tail");
  ck_assert_int_eq(feed(source), DW_OK);
  ck_assert_uint_eq(at(e).commit_lsn, 3);
  ck_assert_int_eq(engine_promote(e, promise_self()), DW_OK);
  ck_assert_uint_eq(at(e).commit_lsn, 4);
  await_lsn(applied, 4);
  ck_assert(has("tail"));
}
END_TEST

static unsigned grew, commits_moved;
static void hook_grew(void *ctx, bool awaited) {
  (void)ctx, (void)awaited, grew++;
}
static void hook_commit(void *ctx, bool awaited) {
  (void)ctx, (void)awaited, commits_moved++;
}
static void hook_nothing(void *ctx) {
  (void)ctx;
}
static int hook_strong(void *ctx, uint32_t ms, dw_lsn *lsn) {
  (void)ctx, (void)ms, (void)lsn;
  return DW_STALE;
}
static void hook_status(void *ctx, dw_status *s) {
  (void)ctx, (void)s;
}

START_TEST(who_ships_the_log_hears_of_the_new_epoch_and_of_what_it_commits) {
  static const struct replication_ops ops = {.log_grew = hook_grew,
                                             .commit_moved = hook_commit,
                                             .applied_moved = hook_nothing,
                                             .strong_point = hook_strong,
                                             .status = hook_status};
  open_follower();
  put(source, &async, "tail");
  ck_assert_int_eq(feed(source), DW_OK);
  uint64_t epoch = promise_self();
  engine_attach(e, &ops, NULL);
  grew = commits_moved = 0;
  ck_assert_int_eq(engine_promote(e, epoch), DW_OK);
  engine_attach(e, NULL, NULL);
  ck_assert_uint_ge(grew, 1);
  ck_assert_uint_ge(commits_moved, 1);
}
END_TEST

START_TEST(promotion_is_refused_without_a_promise_to_oneself_without_data_and_on_a_primary) {
  open_node(DW_FOLLOWER);
  ck_assert_int_eq(engine_promote(e, TERM1), DW_INVALID); /* no data */
  close_node();
  env_remove_tree(env_posix(), dir);
  open_follower();
  ck_assert_int_eq(engine_promote(e, TERM1), DW_FENCED); /* no promise */
  ck_assert_int_eq(engine_promise(e, TERM1, 7, ""), DW_OK);
  ck_assert_int_eq(engine_promote(e, TERM1), DW_FENCED); /* to somebody else */
  uint64_t epoch = promise_self();
  ck_assert_int_eq(engine_promote(e, epoch - 1), DW_FENCED);
  ck_assert_int_eq(status().role, DW_FOLLOWER);
  ck_assert_int_eq(engine_promote(e, epoch), DW_OK);
  ck_assert_int_eq(engine_promote(e, epoch), DW_INVALID);
  ck_assert_int_eq(engine_promise(e, epoch + 1, 7, ""), DW_OK);
  ck_assert_int_eq(engine_promote(e, epoch + 1), DW_INVALID); /* fenced: it must follow first */
}
END_TEST

/* Looks at everything while a promotion goes on: for the race detectors. */
static atomic_bool stop_looking;
static void *look(void *arg) {
  (void)arg;
  dw_status *s = malloc(sizeof *s);
  struct epoch_record r[64];
  while (!atomic_load(&stop_looking)) {
    struct engine_positions pos;
    engine_positions(e, &pos);
    engine_epochs(e, r, 64);
    dw_status_get(e, s);
  }
  free(s);
  return NULL;
}

START_TEST(roles_can_change_while_others_look_on) {
  open_follower();
  pthread_t t;
  atomic_store(&stop_looking, false);
  pthread_create(&t, NULL, look, NULL);
  for (int i = 0; i < 20; i++) {
    uint64_t epoch = promise_self();
    ck_assert_int_eq(engine_promote(e, epoch), DW_OK);
    put(e, &async, "k");
    ck_assert_int_eq(engine_demote(e), DW_OK);
  }
  atomic_store(&stop_looking, true);
  pthread_join(t, NULL);
  struct epoch_record r[64];
  ck_assert_uint_eq(engine_epochs(e, r, 64), 21);
  for (size_t i = 1; i < 21; i++) ck_assert_uint_gt(epoch_term(r[i].epoch), epoch_term(r[i - 1].epoch));
}
END_TEST

/* ---- promotion that fails ------------------------------------------------------------------------ */

/* A follower, reopened so that its log must be read from the disk, with an async tail that is not known committed. */
static void open_follower_with_tail(void) {
  open_follower();
  put(source, &async, "tail");
  ck_assert_int_eq(feed(source), DW_OK);
  reopen(DW_FOLLOWER);
  ck_assert_uint_eq(at(e).tail.lsn, 4);
  ck_assert_uint_lt(at(e).commit_lsn, 4);
}

static void still_a_follower(dw_lsn commit) {
  ck_assert_int_eq(status().role, DW_FOLLOWER);
  ck_assert_uint_eq(at(e).commit_lsn, commit);
  ck_assert_uint_eq(at(e).epoch, 1);
  struct epoch_record r[8];
  ck_assert_uint_eq(engine_epochs(e, r, 8), 1);
  ck_assert_int_eq(dw_put(e, &async, "k", 1, "v", 1, NULL), DW_READ_ONLY);
}

START_TEST(a_promotion_without_memory_leaves_a_follower_that_follows_on) {
  open_follower_with_tail();
  dw_lsn commit = at(e).commit_lsn;
  uint64_t epoch = promise_self();
  fault_env_only(faults, "/wal-");
  unsigned failed = 0;
  for (unsigned nth = 1;; nth++) { /* each read of the tail in turn */
    fault_env_fail(faults, FAULT_PREAD, nth, DW_NO_MEMORY, false);
    int rc = engine_promote(e, epoch);
    fault_env_fail(faults, FAULT_PREAD, 0, 0, false);
    if (rc == DW_OK) break;
    failed++;
    ck_assert_int_eq(rc, DW_NO_MEMORY);
    still_a_follower(commit);
  }
  ck_assert_uint_gt(failed, 0);
  put(e, &async, "primary now");
}
END_TEST

START_TEST(a_promotion_that_can_not_write_its_epoch_has_committed_nothing) {
  open_follower_with_tail();
  dw_lsn commit = at(e).commit_lsn;
  uint64_t epoch = promise_self();
  fault_env_only(faults, "/wal-");
  fault_env_fail(faults, FAULT_PWRITEV, 1, DW_NO_SPACE, false);
  ck_assert_int_ne(engine_promote(e, epoch), DW_OK);
  fault_env_fail(faults, FAULT_PWRITEV, 0, 0, false);
  still_a_follower(commit); /* of the tail nothing: the next primary may have another one */
  ck_assert(!has("tail"));
  reopen(DW_FOLLOWER);
  engine_replica_commit(e, 4);
  await_lsn(applied, 4);
}
END_TEST

START_TEST(a_promotion_that_fails_forgets_the_epochs_of_a_tail_that_may_be_cut) {
  open_follower();
  acks_to(source, 1, 3);
  struct answer a = {0};
  dw_batch *b = dw_batch_create();
  dw_batch_put(b, "tail", 4, "v", 1);
  ck_assert_int_eq(dw_write_async(source, &sync1, b, on_commit, &a), DW_OK);
  dw_batch_destroy(b);
  for (int i = 0; i < 10000 && at(source).tail.lsn < 4; i++) usleep(1000);
  ck_assert_int_eq(engine_close(source), DW_OK);
  open_source(); /* its second epoch begins behind a commit that waits */
  ck_assert_int_eq(feed(source), DW_OK);
  ck_assert_uint_eq(at(e).commit_lsn, 3);
  ck_assert_uint_eq(at(e).epoch, 2);
  uint64_t epoch = promise_self();
  fault_env_only(faults, "/wal-");
  fault_env_fail(faults, FAULT_PWRITEV, 1, DW_NO_SPACE, false);
  ck_assert_int_ne(engine_promote(e, epoch), DW_OK);
  struct epoch_record r[8];
  ck_assert_uint_eq(engine_epochs(e, r, 8), 1);
}
END_TEST

START_TEST(a_promotion_whose_syncs_fail_stops_the_log_and_says_so) {
  for (unsigned nth = 1;; nth++) {
    env_remove_tree(env_posix(), root);
    env_posix()->ops->mkdir(env_posix(), root);
    if (e) close_node();
    if (source) engine_close(source);
    source = NULL;
    open_follower_with_tail();
    uint64_t epoch = promise_self();
    fault_env_only(faults, "/wal-");
    fault_env_fail(faults, FAULT_FDATASYNC, nth, DW_IO, false);
    int rc = engine_promote(e, epoch);
    fault_env_fail(faults, FAULT_FDATASYNC, 0, 0, false);
    if (rc == DW_OK) {
      ck_assert_uint_gt(nth, 1);
      break;
    }
    ck_assert_int_eq(rc, DW_IO);
    dw_status s = status();
    ck_assert_int_eq(s.role, DW_FOLLOWER);
    ck_assert_int_eq(s.failed, 1);
    ck_assert_int_eq(engine_promote(e, epoch), DW_CLOSED);
    engine_close(e);
    e = NULL;
    open_node(DW_FOLLOWER); /* what the disk has is decided now, and it can be promoted */
    ck_assert_int_eq(engine_promote(e, promise_self()), DW_OK);
    put(e, &async, "primary now");
  }
}
END_TEST

/* ---- demotion ------------------------------------------------------------------------------------ */

struct load {
  pthread_t thread;
  int ok, fenced_in_doubt, other;
  atomic_int refused; /* certainly not done */
};
static atomic_bool stop_load;
static void *load_run(void *arg) {
  struct load *l = arg;
  for (unsigned i = 0; !atomic_load(&stop_load); i++) {
    char key[32];
    snprintf(key, sizeof key, "load-%p-%u", (void *)l, i);
    dw_lsn lsn;
    int rc = dw_put(e, i % 2 ? &sync1 : &async, key, strlen(key), "v", 1, &lsn);
    if (rc == DW_OK)
      l->ok++;
    else if (rc == DW_FENCED && lsn)
      l->fenced_in_doubt++;
    else if (rc == DW_FENCED || rc == DW_READ_ONLY)
      atomic_fetch_add(&l->refused, 1);
    else
      l->other++;
  }
  return NULL;
}

static void load_begin(struct load load[4]) {
  atomic_store(&stop_load, false);
  for (int i = 0; i < 4; i++) pthread_create(&load[i].thread, NULL, load_run, &load[i]);
}

/* Everybody has been refused by the follower, so has got all answers of the primary, and none but these. */
static struct load load_end(struct load load[4]) {
  struct load sum = {0};
  for (int i = 0; i < 4; i++)
    for (int k = 0; k < 10000 && !atomic_load(&load[i].refused); k++) usleep(1000);
  atomic_store(&stop_load, true);
  for (int i = 0; i < 4; i++) {
    ck_assert_int_ge(atomic_load(&load[i].refused), 1);
    pthread_join(load[i].thread, NULL);
    sum.ok += load[i].ok;
    sum.fenced_in_doubt += load[i].fenced_in_doubt;
    sum.other += load[i].other;
  }
  ck_assert_int_eq(sum.other, 0);
  return sum;
}

static void *acknowledge(void *arg) {
  (void)arg;
  while (!atomic_load(&stop_load)) {
    acks_to(e, 1, at(e).tail.lsn);
    usleep(100);
  }
  return NULL;
}

START_TEST(demotion_under_load_answers_every_write) {
  open_node(DW_PRIMARY);
  struct load load[4] = {0};
  acks_to(e, 1, 0);
  load_begin(load);
  pthread_t t;
  pthread_create(&t, NULL, acknowledge, NULL);
  await_lsn(applied, 200);
  ck_assert_int_eq(engine_demote(e), DW_OK);
  struct load sum = load_end(load);
  pthread_join(t, NULL);
  ck_assert_int_ge(sum.ok, 100);
  ck_assert_int_eq(status().role, DW_FOLLOWER);
  ck_assert_uint_le(at(e).applied.lsn, at(e).commit_lsn);
  ck_assert_uint_ge(at(e).tail.lsn, (dw_lsn)sum.ok);
  ck_assert_int_eq(engine_demote(e), DW_OK); /* twice is once */
}
END_TEST

START_TEST(a_primary_demoted_with_writes_in_doubt_drops_them_for_another_history) {
  open_follower();
  ck_assert_int_eq(engine_promote(e, promise_self()), DW_OK);
  struct wal_pos shared = last_epoch(e).start;
  acks_to(e, 1, 0); /* connected, acknowledges nothing */
  struct answer first = {0};
  struct load load[4] = {0};
  ck_assert_int_eq(put_async(&sync1, "hangs", &first), DW_OK);
  await_lsn(written, 4);
  load_begin(load); /* all of it behind the first */
  await_lsn(written, 8);
  ck_assert_int_eq(engine_demote(e), DW_OK);
  struct load sum = load_end(load);
  ck_assert_int_eq(sum.ok, 0);
  ck_assert_int_eq(sum.fenced_in_doubt, 4);
  await_answer(&first);
  ck_assert_int_eq(first.rc, DW_FENCED);
  ck_assert_int_eq(engine_replica_truncate(e, &(struct engine_parting){.at = shared}), DW_OK);
  struct epoch_record r[8];
  ck_assert_uint_eq(engine_epochs(e, r, 8), 1); /* its own epoch is no part of this history */
  put(source, &async, "theirs");
  ck_assert_int_eq(feed(source), DW_OK);
  engine_replica_commit(e, 4);
  await_lsn(applied, 4);
  ck_assert(has("theirs") && !has("hangs"));
}
END_TEST

START_TEST(a_fenced_primary_that_becomes_a_follower_takes_another_ones_blocks) {
  open_node(DW_PRIMARY);
  put(e, &async, "first");
  /* The other one: a follower of e until now, promoted. */
  dw_engine *primary = e;
  dw_options o = options;
  o.role = DW_FOLLOWER;
  o.node_id = 22;
  struct engine_config c = {.env = env_posix(), .threads = true, .store = store_mem()};
  dw_engine *other;
  ck_assert_int_eq(engine_open(source_dir, &o, &c, &other), DW_OK);
  e = other;
  ck_assert_int_eq(feed(primary), DW_OK);
  engine_replica_commit(e, 1);
  uint64_t epoch = epoch_next_term(at(e).epoch, 5);
  ck_assert_int_eq(engine_promise(e, epoch, 22, ""), DW_OK);
  e = primary;
  acks_to(e, 1, 1);
  struct writer w;
  begin_write(&w, &sync1, "lost");
  await_lsn(written, 2);
  ck_assert_int_eq(engine_promise(e, epoch, 22, "other:1"), DW_OK);
  end_write(&w);
  ck_assert_int_eq(w.rc, DW_FENCED);
  ck_assert_int_eq(engine_promote(other, epoch), DW_OK);
  ck_assert_uint_eq(put(other, &async, "theirs"), 2);
  source = other;
  ck_assert_int_eq(engine_demote(e), DW_OK);
  ck_assert(!promised().fenced);
  struct wal_pos shared = last_epoch(other).start;
  ck_assert_int_eq(engine_replica_truncate(e, &(struct engine_parting){.at = shared}), DW_OK);
  ck_assert_int_eq(feed(other), DW_OK);
  engine_replica_commit(e, 2);
  await_lsn(applied, 2);
  ck_assert(has("theirs") && has("first") && !has("lost"));
  ck_assert_uint_eq(at(e).epoch, epoch);
}
END_TEST

START_TEST(a_node_that_catches_up_with_an_epoch_of_its_own_past_stays_a_follower) {
  options.peers = "other:1";
  open_node(DW_PRIMARY);
  put(e, &async, "first");
  dw_engine *lost = e;
  dw_options o = options;
  o.role = DW_FOLLOWER;
  o.node_id = 22;
  struct engine_config c = {.env = env_posix(), .threads = true, .store = store_mem()};
  ck_assert_int_eq(engine_open(source_dir, &o, &c, &source), DW_OK);
  e = source;
  ck_assert_int_eq(feed(lost), DW_OK);
  engine_close(lost);
  ck_assert_int_eq(env_remove_tree(env_posix(), dir), DW_OK); /* its disk is lost; node 22 knows all that it wrote */
  open_node(DW_FOLLOWER);
  ck_assert_int_eq(feed(source), DW_OK);
  uint64_t epoch = at(e).epoch;
  for (int settings = DW_PRIMARY; settings <= DW_FOLLOWER; settings++) {
    reopen((dw_role)settings);
    ck_assert_int_eq(status().role, DW_FOLLOWER); /* the record of the epoch is its namesake's */
    ck_assert_uint_eq(at(e).epoch, epoch);
  }
}
END_TEST

START_TEST(a_primary_that_was_told_to_follow_opens_as_a_follower) {
  options.peers = "other:1";
  open_node(DW_PRIMARY);
  put(e, &async, "first");
  reopen(DW_FOLLOWER);
  ck_assert_int_eq(status().role, DW_PRIMARY); /* by its history, whatever the settings say */
  ck_assert_int_eq(engine_demote(e), DW_OK);
  reopen(DW_PRIMARY);
  ck_assert_int_eq(status().role, DW_FOLLOWER);
  ck_assert_int_eq(engine_promote(e, promise_self()), DW_OK);
  reopen(DW_FOLLOWER);
  ck_assert_int_eq(status().role, DW_PRIMARY);
}
END_TEST

/* A lease has decided who is primary: the history of this directory knows nothing of that. */
START_TEST(a_last_primary_that_is_to_stay_a_follower_opens_as_one_and_can_be_promoted) {
  options.peers = "other:1";
  open_node(DW_PRIMARY);
  put(e, &async, "first");
  uint64_t epoch = at(e).epoch;
  options.stay_follower = 1;
  reopen(DW_FOLLOWER);
  ck_assert_int_eq(status().role, DW_FOLLOWER);
  ck_assert_uint_eq(at(e).epoch, epoch); /* it has begun nothing */
  dw_lsn lsn = 9;
  ck_assert_int_eq(dw_put(e, &async, "k", 1, "v", 1, &lsn), DW_READ_ONLY);
  reopen(DW_PRIMARY); /* that is for followers alone */
  ck_assert_int_eq(status().role, DW_PRIMARY);
  ck_assert_int_eq(engine_demote(e), DW_OK);
  reopen(DW_PRIMARY); /* nor does it make a primary of one that follows */
  ck_assert_int_eq(status().role, DW_FOLLOWER);
  ck_assert_int_eq(engine_promote(e, promise_self()), DW_OK);
  put(e, &async, "second");
  ck_assert(has("first"));
}
END_TEST

START_TEST(a_former_primary_that_was_a_candidate_begins_nothing_when_it_opens) {
  options.peers = "other:1";
  open_node(DW_PRIMARY);
  put(e, &async, "first");
  ck_assert_int_eq(engine_demote(e), DW_OK);
  uint64_t epoch = promise_self(); /* and no more: it dies */
  uint64_t before = at(e).epoch;
  reopen(DW_PRIMARY);
  ck_assert_int_eq(status().role, DW_FOLLOWER);
  ck_assert_uint_eq(promised().epoch, epoch);
  ck_assert_uint_eq(at(e).epoch, before);
}
END_TEST

START_TEST(the_number_of_an_epoch_is_not_used_again_when_its_record_is_cut_off) {
  open_node(DW_PRIMARY);
  put(e, &async, "first");
  reopen(DW_PRIMARY);
  uint64_t used = at(e).epoch;
  acks_to(e, 1, 0);
  struct answer hangs = {0};
  ck_assert_int_eq(put_async(&sync1, "hangs", &hangs), DW_OK);
  await_lsn(written, 2);
  struct wal_pos shared = last_epoch(e).start;
  ck_assert_int_eq(engine_demote(e), DW_OK);
  await_answer(&hangs);
  ck_assert_int_eq(engine_replica_truncate(e, &(struct engine_parting){.at = shared}), DW_OK);
  ck_assert_uint_lt(at(e).epoch, used);
  reopen(DW_PRIMARY); /* the operator's word */
  ck_assert_uint_gt(at(e).epoch, used);
}
END_TEST

START_TEST(a_primary_that_can_not_note_that_it_follows_goes_on) {
  open_node(DW_PRIMARY);
  put(e, &async, "first");
  fault_env_only(faults, "/NODE");
  fault_env_fail(faults, FAULT_RENAME, 1, DW_IO, false);
  ck_assert_int_eq(engine_demote(e), DW_IO);
  ck_assert_int_eq(status().role, DW_PRIMARY);
  put(e, &async, "second");
  ck_assert(has("second"));
  ck_assert_int_eq(engine_demote(e), DW_OK);
}
END_TEST

static void await_waiter(void) {
  for (unsigned waiters = 0; !waiters; usleep(1000)) {
    pthread_mutex_lock(&e->mu);
    waiters = e->moved_waiters;
    pthread_mutex_unlock(&e->mu);
  }
}

static void *wait_for_lsn(void *arg) {
  return (void *)(intptr_t)dw_wait(e, *(dw_lsn *)arg, &sync1);
}

START_TEST(whoever_waits_for_an_lsn_of_a_demoted_primary_never_gets_anothers_ok) {
  open_follower();
  ck_assert_int_eq(engine_promote(e, promise_self()), DW_OK);
  struct wal_pos shared = last_epoch(e).start;
  acks_to(e, 1, 3);
  struct answer a = {0};
  ck_assert_int_eq(put_async(&sync1, "lost", &a), DW_OK);
  await_lsn(written, 4);
  pthread_t t;
  dw_lsn lsn = 4;
  pthread_create(&t, NULL, wait_for_lsn, &lsn);
  await_waiter(); /* who comes later asks a follower, about the follower's LSN 4 */
  ck_assert_int_eq(engine_demote(e), DW_OK);
  ck_assert_int_eq(engine_replica_truncate(e, &(struct engine_parting){.at = shared}), DW_OK);
  put(source, &async, "theirs");
  ck_assert_int_eq(feed(source), DW_OK);
  engine_replica_commit(e, 4);
  await_lsn(applied, 4);
  void *rc;
  pthread_join(t, &rc);
  ck_assert_int_eq((intptr_t)rc, DW_FENCED);
  await_answer(&a);
  ck_assert_int_eq(a.rc, DW_FENCED);
}
END_TEST

int main(void) {
  Suite *s = suite_create("engine.role");
  TCase *t = tcase_create("role");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, a_promise_survives_reopening_and_a_primary_opens_fenced_then);
  tcase_add_test(t, a_promise_is_refused_below_beside_and_not_above_the_own_log);
  tcase_add_test(t, an_epoch_that_leaves_no_numbers_to_those_after_it_is_not_promised);
  tcase_add_test(t, nothing_is_promised_when_node_can_not_be_written);
  tcase_add_test(t, a_fenced_primary_acknowledges_nothing_though_acks_come_later);
  tcase_add_test(t, asynchronous_writes_in_doubt_are_called_back_once_when_a_primary_is_fenced);
  tcase_add_test(t, what_is_just_being_logged_is_in_doubt_and_what_is_queued_is_not_done);
  tcase_add_test(t, a_fenced_primary_confirms_no_bound_and_no_strong_read);
  tcase_add_test(t, a_primary_past_its_lease_confirms_no_bound_and_no_strong_read);
  tcase_add_test(t, a_promoted_follower_goes_on_writing_in_the_next_term);
  tcase_add_test(t, a_promoted_follower_waits_for_acks_of_a_sync_tail);
  tcase_add_test(t, a_promoted_follower_commits_an_async_tail_at_once);
  tcase_add_test(t, who_ships_the_log_hears_of_the_new_epoch_and_of_what_it_commits);
  tcase_add_test(t, promotion_is_refused_without_a_promise_to_oneself_without_data_and_on_a_primary);
  tcase_add_test(t, roles_can_change_while_others_look_on);
  tcase_add_test(t, a_promotion_without_memory_leaves_a_follower_that_follows_on);
  tcase_add_test(t, a_promotion_that_can_not_write_its_epoch_has_committed_nothing);
  tcase_add_test(t, a_promotion_that_fails_forgets_the_epochs_of_a_tail_that_may_be_cut);
  tcase_add_test(t, a_promotion_whose_syncs_fail_stops_the_log_and_says_so);
  tcase_add_test(t, demotion_under_load_answers_every_write);
  tcase_add_test(t, a_primary_demoted_with_writes_in_doubt_drops_them_for_another_history);
  tcase_add_test(t, a_fenced_primary_that_becomes_a_follower_takes_another_ones_blocks);
  tcase_add_test(t, whoever_waits_for_an_lsn_of_a_demoted_primary_never_gets_anothers_ok);
  tcase_add_test(t, a_node_that_catches_up_with_an_epoch_of_its_own_past_stays_a_follower);
  tcase_add_test(t, a_primary_that_was_told_to_follow_opens_as_a_follower);
  tcase_add_test(t, a_last_primary_that_is_to_stay_a_follower_opens_as_one_and_can_be_promoted);
  tcase_add_test(t, a_former_primary_that_was_a_candidate_begins_nothing_when_it_opens);
  tcase_add_test(t, the_number_of_an_epoch_is_not_used_again_when_its_record_is_cut_off);
  tcase_add_test(t, a_primary_that_can_not_note_that_it_follows_goes_on);
  suite_add_tcase(s, t);
  return check_main(s);
}
