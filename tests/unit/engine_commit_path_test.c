/* The commit path when things happen at the same time, or fail: time-outs of writes that are just being logged, full
 * queues, callbacks, errors after logging, a directory that somebody else uses between two looks. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "tests/support/check_main.h"
#include "tests/support/fault_env.h"

static char dir[256];
static dw_options options;
static struct engine_config config;
static struct fault_env *faults;
static dw_engine *e;

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg, (void)level, (void)line;
}

/* ---- an environment whose log writes can be held ---------------------------------------------- */

static struct env_ops held_ops;
static struct env held_env = {&held_ops};
static pthread_mutex_t hold_mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t hold_cond = PTHREAD_COND_INITIALIZER;
static bool hold;
static int inside, pass; /* how many may go on although writes are held */

static int held_pwritev(struct env_file *f, uint64_t off, const struct iovec *iov, int n) {
  pthread_mutex_lock(&hold_mu);
  inside++;
  pthread_cond_broadcast(&hold_cond);
  while (hold && !pass) pthread_cond_wait(&hold_cond, &hold_mu);
  if (pass) pass--;
  inside--;
  pthread_cond_broadcast(&hold_cond);
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

static void setup(void) {
  snprintf(dir, sizeof dir, "%s/dw-path-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  dw_options_init(&options);
  options.segment_bytes = 1u << 20;
  options.memtable_bytes = 1u << 20;
  options.ack_timeout_ms = 5000;
  options.log = quiet;
  held_ops = *env_posix()->ops;
  held_ops.pwritev = held_pwritev;
  hold = false;
  pass = 0;
  faults = fault_env_create(env_posix());
  config = (struct engine_config){.env = &held_env, .threads = true, .store = store_mem()};
  e = NULL;
}

static void teardown(void) {
  hold_writes(false);
  if (e) engine_close(e);
  env_remove_tree(env_posix(), dir);
  fault_env_destroy(faults);
}

static void open_engine(void) {
  int rc = engine_open(dir, &options, &config, &e);
  ck_assert_msg(rc == DW_OK, "open: %s: %s", dw_rc_name(rc), dw_last_error());
}

static void acks(uint32_t connected, dw_lsn durable, dw_lsn applied) {
  struct ack_marks m = {.connected = connected, .known = 1};
  m.mark[LEVEL_RECEIVED][0] = m.mark[LEVEL_DURABLE][0] = durable;
  m.mark[LEVEL_APPLIED][0] = applied;
  engine_acks(e, &m);
}

static struct timespec in_ms(long ms) {
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  ts.tv_sec += ms / 1000;
  ts.tv_nsec += ms % 1000 * 1000000;
  if (ts.tv_nsec >= 1000000000) ts.tv_nsec -= 1000000000, ts.tv_sec++;
  return ts;
}

static bool joined(pthread_t t, long ms, void **result) {
  struct timespec until = in_ms(ms);
  return pthread_timedjoin_np(t, result, &until) == 0;
}

struct seen {
  pthread_mutex_t mu;
  pthread_cond_t cond;
  int called;
  int rc;
  dw_lsn last;
  bool ordered;
};
#define SEEN_INIT                                                                                                      \
  { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0, true }

static void on_commit(void *arg, int rc, dw_lsn lsn) {
  struct seen *s = arg;
  pthread_mutex_lock(&s->mu);
  s->called++;
  s->rc = rc;
  if (rc == DW_OK) {
    s->ordered &= lsn > s->last;
    s->last = lsn;
  }
  pthread_cond_broadcast(&s->cond);
  pthread_mutex_unlock(&s->mu);
}

static bool await_calls(struct seen *s, int n, long ms) {
  struct timespec until = in_ms(ms);
  pthread_mutex_lock(&s->mu);
  int err = 0;
  while (s->called < n && !err) err = pthread_cond_timedwait(&s->cond, &s->mu, &until);
  bool ok = s->called >= n;
  pthread_mutex_unlock(&s->mu);
  return ok;
}

static int put_async(const dw_write_options *wo, const char *key, dw_commit_fn fn, void *arg) {
  dw_batch *b = dw_batch_create();
  dw_batch_put(b, key, strlen(key), "v", 1);
  int rc = dw_write_async(e, wo, b, fn, arg);
  dw_batch_destroy(b);
  return rc;
}

static void *put_sync(void *arg) {
  dw_lsn lsn;
  int rc = dw_put(e, arg, "k", 1, "v", 1, &lsn);
  return (void *)(intptr_t)(rc * 1000 + (int)lsn);
}

static void await_queued(uint64_t n) { /* nothing tells how many are queued: give them time to get there */
  struct timespec ts = {0, 50000000};
  for (uint64_t i = 0; i < n; i++) nanosleep(&ts, NULL);
}

/* ---- time-outs ---------------------------------------------------------------------------------- */

START_TEST(a_write_whose_deadline_passes_while_it_is_being_logged_still_times_out) {
  open_engine();
  acks(1, 0, 0);
  struct seen first = SEEN_INIT;
  hold_writes(true);
  ck_assert_int_eq(put_async(NULL, "first", on_commit, &first), DW_OK);
  await_held(); /* the log role is taken: the next ones queue up */
  dw_write_options wo = {.mode = DW_SYNC, .acks = 1, .timeout_ms = 400};
  pthread_t a, b;
  pthread_create(&a, NULL, put_sync, &wo);
  pthread_create(&b, NULL, put_sync, &wo);
  await_queued(2);
  pthread_mutex_lock(&hold_mu); /* let that one through; the next, the group of both, is held */
  pass = 1;
  pthread_cond_broadcast(&hold_cond);
  while (pass) pthread_cond_wait(&hold_cond, &hold_mu);
  pthread_mutex_unlock(&hold_mu);
  await_held();
  struct timespec past = {0, 600000000}; /* both deadlines pass while their leader is writing */
  nanosleep(&past, NULL);
  hold_writes(false);
  void *ra = NULL, *rb = NULL;
  ck_assert(joined(a, 5000, &ra));
  ck_assert(joined(b, 5000, &rb));
  ck_assert_int_eq((intptr_t)ra / 1000, DW_TIMEOUT);
  ck_assert_int_eq((intptr_t)rb / 1000, DW_TIMEOUT);
}
END_TEST

START_TEST(a_semi_sync_write_that_was_logged_late_degrades_instead_of_timing_out) {
  open_engine();
  dw_write_options wo = {.mode = DW_SEMI_SYNC, .acks = 1, .timeout_ms = 300};
  hold_writes(true);
  pthread_t t;
  pthread_create(&t, NULL, put_sync, &wo);
  await_held();
  struct timespec past = {1, 100000000}; /* beyond its time-out and what is granted on top of it */
  nanosleep(&past, NULL);
  hold_writes(false);
  void *rc = NULL;
  ck_assert(joined(t, 5000, &rc));
  ck_assert_int_eq((intptr_t)rc / 1000, DW_OK);
  dw_status s;
  dw_status_get(e, &s);
  ck_assert_uint_eq(s.degraded_commits, 1);
}
END_TEST

struct filler {
  dw_write_options wo;
  struct seen *seen;
};
static void *put_one_more(void *arg) {
  struct filler *f = arg;
  return (void *)(intptr_t)put_async(&f->wo, "more", on_commit, f->seen);
}

START_TEST(time_outs_in_a_full_queue_make_room_for_those_who_wait) {
  open_engine();
  struct seen seen = SEEN_INIT, late = SEEN_INIT;
  hold_writes(true);
  ck_assert_int_eq(put_async(NULL, "first", on_commit, &seen), DW_OK);
  await_held();
  dw_write_options wo = {.timeout_ms = 1500};
  for (int i = 0; i < 65536; i++) ck_assert_int_eq(put_async(&wo, "queued", on_commit, &seen), DW_OK);
  struct filler f = {{.timeout_ms = 60000}, &late};
  pthread_t t;
  pthread_create(&t, NULL, put_one_more, &f);
  void *rc = NULL;
  bool room = joined(t, 6000, &rc); /* the log still writes: only the time-outs can have made room */
  hold_writes(false);
  ck_assert(room);
  ck_assert_int_eq((intptr_t)rc, DW_OK);
  ck_assert(await_calls(&seen, 65537, 5000));
  ck_assert(await_calls(&late, 1, 5000));
  ck_assert_int_eq(late.rc, DW_OK);
}
END_TEST

/* ---- callbacks ---------------------------------------------------------------------------------- */

START_TEST(a_callback_does_not_wait_for_another_writers_followers) {
  open_engine();
  acks(1, 1000000, 0); /* commits at once, never applied there */
  for (int i = 0; i < 10; i++) {
    struct seen first = SEEN_INIT, second = SEEN_INIT;
    hold_writes(true);
    ck_assert_int_eq(put_async(NULL, "first", on_commit, &first), DW_OK);
    await_held();
    dw_write_options wo = {.mode = DW_SYNC, .ack = DW_ACK_APPLIED, .acks = 1, .timeout_ms = 1500};
    pthread_t t;
    pthread_create(&t, NULL, put_sync, &wo);
    await_queued(1);
    ck_assert_int_eq(put_async(NULL, "second", on_commit, &second), DW_OK);
    hold_writes(false);
    bool prompt = await_calls(&first, 1, 700) && await_calls(&second, 1, 700);
    pthread_join(t, NULL);
    ck_assert(await_calls(&second, 1, 5000));
    ck_assert(prompt);
  }
}
END_TEST

static atomic_bool stop_writers;
static void *write_on(void *arg) {
  (void)arg;
  while (!atomic_load(&stop_writers)) dw_put(e, NULL, "w", 1, "v", 1, NULL);
  return NULL;
}

START_TEST(callbacks_come_in_lsn_order_beside_synchronous_writers) {
  options.durability = DW_DURABILITY_OS;
  open_engine();
  struct seen seen = SEEN_INIT;
  atomic_store(&stop_writers, false);
  pthread_t t[4];
  for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, write_on, NULL);
  for (int i = 0; i < 30000; i++) ck_assert_int_eq(put_async(NULL, "a", on_commit, &seen), DW_OK);
  bool all = await_calls(&seen, 30000, 30000);
  atomic_store(&stop_writers, true);
  for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
  ck_assert(all);
  ck_assert(seen.ordered);
}
END_TEST

static void again(void *arg, int rc, dw_lsn lsn) {
  struct seen *s = arg;
  if (rc == DW_TIMEOUT) put_async(&(dw_write_options){.timeout_ms = 60000}, "again", on_commit, s);
  on_commit(s, rc, lsn);
}

START_TEST(a_callback_may_queue_another_write_even_when_the_queue_is_full) {
  open_engine();
  struct seen first = SEEN_INIT, rest = SEEN_INIT, chained = SEEN_INIT;
  hold_writes(true);
  ck_assert_int_eq(put_async(NULL, "first", on_commit, &first), DW_OK);
  await_held();
  ck_assert_int_eq(put_async(&(dw_write_options){.timeout_ms = 500}, "one", again, &chained), DW_OK);
  for (int i = 0; i < 65537; i++) {
    dw_write_options wo = {.timeout_ms = 60000};
    if (i < 65535) {
      ck_assert_int_eq(put_async(&wo, "queued", on_commit, &rest), DW_OK);
    } else { /* these two wait; the first fills the place of "one", the chained write finds the queue full */
      static struct filler f[2];
      f[i - 65535] = (struct filler){wo, &rest};
      pthread_t t;
      pthread_create(&t, NULL, put_one_more, &f[i - 65535]);
      pthread_detach(t);
    }
  }
  bool answered = await_calls(&chained, 1, 5000);
  hold_writes(false);
  ck_assert(answered);
  ck_assert(await_calls(&chained, 2, 10000));
  ck_assert(await_calls(&rest, 65537, 10000));
}
END_TEST

/* ---- errors after logging ------------------------------------------------------------------------ */

static void with_faults(void) {
  config.env = fault_env_env(faults);
  fault_env_only(faults, "/wal-");
}

START_TEST(a_write_that_may_have_reached_the_log_is_answered_with_its_lsn) {
  with_faults();
  open_engine();
  dw_lsn lsn = 77;
  ck_assert_int_eq(dw_put(e, NULL, "a", 1, "1", 1, &lsn), DW_OK);
  fault_env_fail(faults, FAULT_PWRITEV, 1, DW_IO, false);
  ck_assert_int_eq(dw_put(e, NULL, "b", 1, "2", 1, &lsn), DW_IO);
  ck_assert_uint_eq(lsn, 2); /* half of it is in the file: the next open decides */
  ck_assert_int_eq(dw_put(e, NULL, "c", 1, "3", 1, &lsn), DW_CLOSED);
  ck_assert_uint_eq(lsn, 0); /* certainly not done */
  dw_value v;
  ck_assert_int_eq(dw_get(e, NULL, "a", 1, &v), DW_OK); /* readable all the same */
  dw_value_release(&v);
}
END_TEST

START_TEST(a_sync_that_fails_for_space_never_says_not_done_of_what_was_logged) {
  with_faults();
  open_engine();
  dw_lsn lsn = 77;
  fault_env_fail(faults, FAULT_FDATASYNC, 1, DW_NO_SPACE, false);
  ck_assert_int_eq(dw_put(e, NULL, "a", 1, "1", 1, &lsn), DW_IO);
  ck_assert_uint_eq(lsn, 1);
  dw_status s;
  dw_status_get(e, &s);
  ck_assert_int_eq(s.failed, 1);
  ck_assert_ptr_nonnull(strstr(s.error, "fdatasync"));
}
END_TEST

START_TEST(memory_that_is_short_while_applying_is_tried_again) {
  with_faults();
  options.mode = DW_SYNC;
  options.ack_timeout_ms = 50;
  open_engine();
  acks(1, 0, 0);
  static char val[600000]; /* more than is read ahead */
  for (size_t i = 0; i < sizeof val; i++) val[i] = (char)rand();
  for (int i = 0; i < 2; i++) ck_assert_int_eq(dw_put(e, NULL, "k", 1, val, sizeof val, NULL), DW_TIMEOUT);
  ck_assert_int_eq(engine_close(e), DW_OK);
  open_engine(); /* the pending blocks are read from their file now */
  fault_env_fail(faults, FAULT_PREAD, 1, DW_NO_MEMORY, false);
  acks(1, 2, 2);
  dw_write_options wo = {.timeout_ms = 5000};
  int rc = dw_wait(e, 2, &wo);
  ck_assert_msg(rc == DW_OK, "%s: %s", dw_rc_name(rc), dw_last_error());
}
END_TEST

/* ---- the reason for a stop survives ---------------------------------------------------------------- */

static struct store_ops held_store;
static int (*store_write)(struct store *, const struct store_body *, size_t, const struct wal_op *, size_t,
                          const struct wal_pos *);
static int held_store_write(struct store *s, const struct store_body *b, size_t n, const struct wal_op *sys, size_t m,
                            const struct wal_pos *pos) {
  pthread_mutex_lock(&hold_mu);
  inside++;
  pthread_cond_broadcast(&hold_cond);
  while (hold) pthread_cond_wait(&hold_cond, &hold_mu);
  inside--;
  pthread_mutex_unlock(&hold_mu);
  return store_write(s, b, n, sys, m, pos);
}
static struct store *held_made;
static int held_open(const char *path, const struct store_options *o, struct store **out) {
  int rc = store_mem()->open(path, o, out);
  if (rc == DW_OK) (*out)->ops = &held_store, held_made = *out;
  return rc;
}

START_TEST(a_store_write_that_ends_well_does_not_hide_why_the_log_stopped) {
  with_faults();
  held_store = *store_mem();
  store_write = held_store.write;
  held_store.write = held_store_write;
  held_store.open = held_open;
  config.store = &held_store;
  open_engine();
  struct seen seen = SEEN_INIT;
  hold_writes(true);
  ck_assert_int_eq(put_async(&(dw_write_options){.durability = DW_DURABILITY_OS}, "a", on_commit, &seen), DW_OK);
  await_held();
  fault_env_fail(faults, FAULT_FDATASYNC, 1, DW_IO, true);
  ck_assert_int_eq(dw_put(e, NULL, "b", 1, "2", 1, NULL), DW_IO);
  hold_writes(false);
  dw_status s;
  do dw_status_get(e, &s);
  while (s.applied_lsn < 1);
  ck_assert_int_eq(s.failed, 1);
  ck_assert_ptr_nonnull(strstr(s.error, "fdatasync"));
}
END_TEST

/* ---- directories ---------------------------------------------------------------------------------- */

static char made[16][300];
static int made_n;
static bool entry_synced[16];

static int recording_mkdir(struct env *env, const char *path) {
  bool there = false;
  env_posix()->ops->exists(env, path, &there);
  if (!there && made_n < 16) {
    snprintf(made[made_n], sizeof made[0], "%s", path);
    entry_synced[made_n++] = false;
  }
  return env_posix()->ops->mkdir(env, path);
}
static int recording_sync_dir(struct env *env, const char *path) {
  for (int i = 0; i < made_n; i++) {
    size_t n = strlen(path);
    if (strncmp(made[i], path, n) == 0 && made[i][n] == '/' && !strchr(made[i] + n + 1, '/')) entry_synced[i] = true;
  }
  return env_posix()->ops->sync_dir(env, path);
}

START_TEST(the_name_of_every_directory_made_is_durable_when_open_returns) {
  static struct env_ops ops;
  static struct env env = {&ops};
  ops = *env_posix()->ops;
  ops.mkdir = recording_mkdir;
  ops.sync_dir = recording_sync_dir;
  config.env = &env;
  made_n = 0;
  char fresh[300];
  snprintf(fresh, sizeof fresh, "%s/data", dir);
  ck_assert_int_eq(engine_open(fresh, &options, &config, &e), DW_OK);
  ck_assert_int_ge(made_n, 2); /* the data directory, the log's */
  for (int i = 0; i < made_n; i++) ck_assert_msg(entry_synced[i], "%s", made[i]);
  ck_assert_int_eq(engine_close(e), DW_OK);
  snprintf(fresh, sizeof fresh, "%s/follower", dir);
  options.role = DW_FOLLOWER;
  made_n = 0;
  ck_assert_int_eq(engine_open(fresh, &options, &config, &e), DW_OK);
  ck_assert_int_eq(engine_adopt_cluster(e, &(struct hash128){{1}}), DW_OK);
  ck_assert_int_ge(made_n, 2);
  for (int i = 0; i < made_n; i++) ck_assert_msg(entry_synced[i], "%s", made[i]);
}
END_TEST

static bool intrude;
static int intruding_lock(struct env *env, const char *path, struct env_file **out) {
  if (intrude) { /* somebody else opens, writes and closes between our look at the directory and our lock */
    intrude = false;
    dw_engine *other;
    struct engine_config c = config;
    c.env = env_posix();
    ck_assert_int_eq(engine_open(dir, &options, &c, &other), DW_OK);
    ck_assert_int_eq(dw_put(other, NULL, "theirs", 6, "v", 1, NULL), DW_OK);
    ck_assert_int_eq(engine_close(other), DW_OK);
  }
  return env_posix()->ops->lock(env, path, out);
}

START_TEST(what_another_process_did_before_we_got_the_lock_is_seen) {
  static struct env_ops ops;
  static struct env env = {&ops};
  ops = *env_posix()->ops;
  ops.lock = intruding_lock;
  config.env = &env;
  config.store = NULL;
  intrude = true;
  open_engine();
  dw_value v;
  int rc = dw_get(e, NULL, "theirs", 6, &v);
  ck_assert_msg(rc == DW_OK, "%s", dw_last_error());
  dw_value_release(&v);
}
END_TEST

/* ---- followers --------------------------------------------------------------------------------------- */

static struct wal_block *sealed(struct wal_pos *pos, uint8_t kind, uint64_t epoch) {
  struct epoch_record r = {.epoch = epoch, .node_id = 1, .reason = EPOCH_OPENED, .start = *pos};
  uint8_t raw[WAL_EPOCH_RECORD_BYTES] = {0, 1, 5, 1, 2, 1, 'k', 0};
  size_t n = 8;
  if (kind == BLOCK_EPOCH) epoch_record_encode(&r, raw), n = sizeof raw;
  struct block_header like = {.kind = kind, .commit_count = kind == BLOCK_COMMITS, .need = {1, 2, 2, false, 0}};
  struct wal_block *b;
  ck_assert_int_eq(wal_block_create(&like, raw, n, 0, &b), DW_OK);
  b->h.epoch = epoch;
  b->h.first_lsn = pos->lsn + 1;
  block_header_seal(&b->h, &pos->chain, b->bytes);
  *pos = (struct wal_pos){block_last_lsn(&b->h), epoch, b->h.chain};
  return b;
}

START_TEST(a_truncation_below_an_applied_epoch_record_is_divergence) {
  options.role = DW_FOLLOWER;
  open_engine();
  struct hash128 cluster = {{1}};
  ck_assert_int_eq(engine_adopt_cluster(e, &cluster), DW_OK);
  struct wal_pos pos = wal_genesis(&cluster), after_1, after_epoch_2;
  struct wal_block *b[4];
  b[0] = sealed(&pos, BLOCK_EPOCH, 1);
  b[1] = sealed(&pos, BLOCK_COMMITS, 1);
  after_1 = pos;
  b[2] = sealed(&pos, BLOCK_EPOCH, 2);
  after_epoch_2 = pos;
  b[3] = sealed(&pos, BLOCK_EPOCH, 3);
  ck_assert_int_eq(engine_replica_append(e, b, 3), DW_OK);
  engine_replica_commit(e, 1);
  struct engine_positions at;
  do engine_positions(e, &at);
  while (at.applied.lsn < 1);
  ck_assert_uint_eq(at.applied.epoch, 2); /* the record behind LSN 1 went with it */
  ck_assert_int_eq(engine_replica_append(e, b + 3, 1), DW_OK);
  ck_assert_int_eq(engine_replica_truncate(e, &(struct engine_parting){.at = after_1}), DW_DIVERGED);
  ck_assert_int_eq(engine_replica_truncate(e, &(struct engine_parting){.at = after_epoch_2}),
                   DW_OK); /* the same LSN, but nothing applied goes */
  engine_positions(e, &at);
  ck_assert_uint_eq(at.tail.epoch, 2);
  for (int i = 0; i < 4; i++) wal_block_unref(b[i]);
}
END_TEST

START_TEST(adopting_a_cluster_is_tried_again_when_its_log_could_not_be_made) {
  with_faults();
  options.role = DW_FOLLOWER;
  open_engine();
  struct hash128 cluster = {{1}};
  fault_env_fail(faults, FAULT_ALLOCATE, 1, DW_NO_SPACE, false);
  ck_assert_int_eq(engine_adopt_cluster(e, &cluster), DW_NO_SPACE);
  ck_assert_int_eq(engine_adopt_cluster(e, &cluster), DW_OK);
  ck_assert_ptr_nonnull(engine_wal(e));
}
END_TEST

/* ---- retention with many segments ------------------------------------------------------------------- */

START_TEST(the_log_is_trimmed_to_retain_bytes_however_many_segments_there_are) {
  options.segment_bytes = 65536;
  options.retain_bytes = 72u << 20;
  options.listen = "127.0.0.1:0"; /* not bound by the engine alone */
  options.durability = DW_DURABILITY_OS;
  options.zstd_level = 0;
  config.env = env_posix();
  config.store = NULL; /* one that flushes */
  open_engine();
  static char val[60000];
  dw_status s;
  for (int i = 0; i < 1900; i++) {
    memset(val, i, sizeof val);
    ck_assert_int_eq(dw_put(e, NULL, "k", 1, val, sizeof val, NULL), DW_OK);
  }
  struct timespec ts = {0, 50000000};
  int tries = 0;
  do {
    nanosleep(&ts, NULL);
    dw_status_get(e, &s);
  } while (s.log_bytes > (80u << 20) && ++tries < 200);
  ck_assert_uint_le(s.log_bytes, 80u << 20);
}
END_TEST

/* The disk is well again, and nobody writes; still the store takes nothing until it is reopened. */
START_TEST(a_store_whose_flush_failed_shows_as_failed_although_nobody_writes) {
  struct engine_checkpoint copy;
  dw_status st = {0};
  config.env = fault_env_env(faults);
  open_engine();
  ck_assert_int_eq(dw_put(e, NULL, "a", 1, "1", 1, NULL), DW_OK);
  fault_env_only(faults, "store");
  fault_env_fail(faults, FAULT_PWRITEV, 1, DW_NO_SPACE, true);
  ck_assert_int_eq(engine_checkpoint_create(e, "for-a-follower", &copy), DW_NO_SPACE);
  fault_env_fail(faults, FAULT_PWRITEV, 0, DW_OK, false);
  struct timespec until = in_ms(10000), now, pause = {0, 2000000};
  do {
    nanosleep(&pause, NULL);
    clock_gettime(CLOCK_REALTIME, &now);
    ck_assert_int_eq(dw_status_get(e, &st), DW_OK);
  } while (!st.failed && now.tv_sec < until.tv_sec);
  ck_assert(st.failed);
  ck_assert_ptr_nonnull(strstr(st.error, "reopen"));
  ck_assert_int_eq(dw_put(e, NULL, "b", 1, "2", 1, NULL), DW_NO_SPACE);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "nothing was logged"));
  ck_assert_int_eq(engine_close(e), DW_OK);
  open_engine();
  ck_assert_int_eq(dw_put(e, NULL, "b", 1, "2", 1, NULL), DW_OK);
  ck_assert_int_eq(engine_checkpoint_create(e, "for-a-follower", &copy), DW_OK);
  ck_assert_int_eq(dw_status_get(e, &st), DW_OK);
  ck_assert(!st.failed);
}
END_TEST

int main(void) {
  Suite *s = suite_create("commit path");
  TCase *t = tcase_create("path");
  tcase_set_timeout(t, 120);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, a_store_whose_flush_failed_shows_as_failed_although_nobody_writes);
  tcase_add_test(t, a_write_whose_deadline_passes_while_it_is_being_logged_still_times_out);
  tcase_add_test(t, a_semi_sync_write_that_was_logged_late_degrades_instead_of_timing_out);
  tcase_add_test(t, time_outs_in_a_full_queue_make_room_for_those_who_wait);
  tcase_add_test(t, a_callback_does_not_wait_for_another_writers_followers);
  tcase_add_test(t, callbacks_come_in_lsn_order_beside_synchronous_writers);
  tcase_add_test(t, a_callback_may_queue_another_write_even_when_the_queue_is_full);
  tcase_add_test(t, a_write_that_may_have_reached_the_log_is_answered_with_its_lsn);
  tcase_add_test(t, a_sync_that_fails_for_space_never_says_not_done_of_what_was_logged);
  tcase_add_test(t, memory_that_is_short_while_applying_is_tried_again);
  tcase_add_test(t, a_store_write_that_ends_well_does_not_hide_why_the_log_stopped);
  tcase_add_test(t, the_name_of_every_directory_made_is_durable_when_open_returns);
  tcase_add_test(t, what_another_process_did_before_we_got_the_lock_is_seen);
  tcase_add_test(t, a_truncation_below_an_applied_epoch_record_is_divergence);
  tcase_add_test(t, adopting_a_cluster_is_tried_again_when_its_log_could_not_be_made);
  tcase_add_test(t, the_log_is_trimmed_to_retain_bytes_however_many_segments_there_are);
  suite_add_tcase(s, t);
  return check_main(s);
}
