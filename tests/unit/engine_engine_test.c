/* The engine by itself: writing, reading, reopening, recovery, without any follower. On RocksDB and on the memory
 * store. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/check_main.h"
#include "tests/support/fault_env.h"
#include "engine/engine.h"
#include "engine/identity.h"

static char dir[256];
static dw_options options;
static struct engine_config config;
static dw_engine *e;

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg, (void)level, (void)line;
}

static void setup(void) {
  snprintf(dir, sizeof dir, "%s/dw-engine-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  dw_options_init(&options);
  options.segment_bytes = 1u << 20;
  options.memtable_bytes = 1u << 20;
  options.ack_timeout_ms = 200;
  options.log = quiet;
  config = (struct engine_config){.threads = true};
  e = NULL;
}

static void teardown(void) {
  if (e) engine_close(e);
  env_remove_tree(env_posix(), dir);
}

static void open_engine(void) {
  int rc = engine_open(dir, &options, &config, &e);
  ck_assert_msg(rc == DW_OK, "open: %s: %s", dw_rc_name(rc), dw_last_error());
}

static void close_engine(void) {
  ck_assert_int_eq(engine_close(e), DW_OK);
  e = NULL;
}

static dw_lsn put(const char *key, const char *val) {
  dw_lsn lsn = 0;
  int rc = dw_put(e, NULL, key, strlen(key), val, strlen(val), &lsn);
  ck_assert_msg(rc == DW_OK, "put: %s: %s", dw_rc_name(rc), dw_last_error());
  return lsn;
}

static void expect(const char *key, const char *val) {
  dw_value v;
  int rc = dw_get(e, NULL, key, strlen(key), &v);
  if (!val) {
    ck_assert_int_eq(rc, DW_NOT_FOUND);
    return;
  }
  ck_assert_msg(rc == DW_OK, "get %s: %s: %s", key, dw_rc_name(rc), dw_last_error());
  ck_assert_uint_eq(v.size, strlen(val));
  ck_assert(memcmp(v.data, val, v.size) == 0);
  dw_value_release(&v);
}

START_TEST(commits_are_numbered_from_1_and_visible_when_they_return) {
  open_engine();
  ck_assert_uint_eq(put("a", "1"), 1);
  expect("a", "1");
  ck_assert_uint_eq(put("a", "2"), 2);
  expect("a", "2");
  dw_lsn lsn;
  ck_assert_int_eq(dw_delete(e, NULL, "a", 1, &lsn), DW_OK);
  ck_assert_uint_eq(lsn, 3);
  expect("a", NULL);
}
END_TEST

START_TEST(a_batch_is_one_commit_in_its_own_order_and_an_empty_one_is_none) {
  open_engine();
  dw_batch *b = dw_batch_create();
  dw_lsn lsn = 99;
  ck_assert_int_eq(dw_write(e, NULL, b, &lsn), DW_OK);
  ck_assert_uint_eq(lsn, 0);
  dw_batch_put(b, "k", 1, "old", 3);
  dw_batch_delete(b, "k", 1);
  dw_batch_put(b, "k", 1, "new", 3);
  dw_batch_put(b, "empty", 5, NULL, 0);
  ck_assert_uint_eq(dw_batch_count(b), 4);
  ck_assert_int_eq(dw_write(e, NULL, b, &lsn), DW_OK);
  ck_assert_uint_eq(lsn, 1);
  expect("k", "new");
  expect("empty", "");
  dw_batch_destroy(b);
}
END_TEST

START_TEST(everything_is_there_after_a_clean_reopen_and_numbers_go_on) {
  open_engine();
  for (int i = 0; i < 500; i++) {
    char key[16];
    snprintf(key, sizeof key, "key%d", i);
    put(key, "value");
  }
  close_engine();
  open_engine();
  expect("key0", "value");
  expect("key499", "value");
  ck_assert_uint_eq(put("next", "x"), 501);
  dw_status s;
  dw_status_get(e, &s);
  ck_assert_uint_eq(s.epoch, 2);
}
END_TEST

/* A child writes and dies without closing anything. */
static void crash_after(int n, dw_durability durability) {
  pid_t pid = fork();
  if (pid == 0) {
    options.durability = durability;
    if (engine_open(dir, &options, &config, &e)) _exit(2);
    for (int i = 0; i < n; i++) {
      char key[16];
      snprintf(key, sizeof key, "key%d", i);
      if (dw_put(e, NULL, key, strlen(key), "value", 5, NULL)) _exit(3);
    }
    _exit(0);
  }
  int status;
  waitpid(pid, &status, 0);
  ck_assert(WIFEXITED(status));
  ck_assert_int_eq(WEXITSTATUS(status), 0);
}

START_TEST(after_a_crash_replay_brings_back_every_acknowledged_commit) {
  crash_after(300, DW_DURABILITY_DISK);
  open_engine();
  expect("key0", "value");
  expect("key299", "value");
  ck_assert_uint_eq(put("next", "x"), 301);
}
END_TEST

START_TEST(os_durable_commits_survive_a_crash_of_the_process) {
  crash_after(300, DW_DURABILITY_OS);
  open_engine();
  expect("key299", "value");
  dw_status s;
  dw_status_get(e, &s);
  ck_assert_uint_eq(s.applied_lsn, 300);
  ck_assert_uint_eq(s.durable_lsn, 300); /* recovery synced it */
}
END_TEST

struct writer {
  int id, n;
  bool async_os;
};

static void *write_many(void *arg) {
  struct writer *w = arg;
  dw_write_options wo = {.timeout_ms = 30000, .durability = w->async_os ? DW_DURABILITY_OS : DW_DURABILITY_DISK};
  for (int i = 0; i < w->n; i++) {
    char key[32];
    snprintf(key, sizeof key, "w%d-%d", w->id, i);
    dw_lsn lsn;
    if (dw_put(e, &wo, key, strlen(key), key, strlen(key), &lsn) != DW_OK) return strdup(dw_last_error());
    dw_value v;
    if (dw_get(e, NULL, key, strlen(key), &v) != DW_OK) return "not visible after OK";
    dw_value_release(&v);
  }
  return NULL;
}

START_TEST(eight_writers_of_mixed_durability_get_distinct_numbers_and_find_their_writes) {
  open_engine();
  pthread_t t[8];
  struct writer w[8];
  for (int i = 0; i < 8; i++) {
    w[i] = (struct writer){i, 200, i % 2};
    pthread_create(&t[i], NULL, write_many, &w[i]);
  }
  for (int i = 0; i < 8; i++) {
    void *why;
    pthread_join(t[i], &why);
    ck_assert_msg(!why, "%s", (char *)why);
  }
  dw_status s;
  dw_status_get(e, &s);
  ck_assert_uint_eq(s.applied_lsn, 1600);
  ck_assert_uint_eq(s.commit_lsn, 1600);
}
END_TEST

struct async_seen {
  pthread_mutex_t mu;
  pthread_cond_t cond;
  int called;
  dw_lsn last;
  bool ordered, ok;
  uint64_t at_ns; /* of the last call */
};

static void on_commit(void *arg, int rc, dw_lsn lsn) {
  struct async_seen *s = arg;
  pthread_mutex_lock(&s->mu);
  s->called++;
  s->ordered &= lsn == s->last + 1;
  s->ok &= rc == DW_OK;
  s->last = lsn;
  s->at_ns = env_posix()->ops->mono_ns(env_posix());
  pthread_cond_signal(&s->cond);
  pthread_mutex_unlock(&s->mu);
}

START_TEST(asynchronous_writes_are_answered_once_each_in_order) {
  open_engine();
  struct async_seen seen = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, true, true, 0};
  dw_batch *b = dw_batch_create();
  for (int i = 0; i < 3000; i++) {
    dw_batch_clear(b);
    dw_batch_put(b, &i, sizeof i, "v", 1);
    ck_assert_int_eq(dw_write_async(e, NULL, b, on_commit, &seen), DW_OK);
  }
  dw_batch_destroy(b);
  pthread_mutex_lock(&seen.mu);
  while (seen.called < 3000) pthread_cond_wait(&seen.cond, &seen.mu);
  pthread_mutex_unlock(&seen.mu);
  ck_assert(seen.ordered);
  ck_assert(seen.ok);
}
END_TEST

START_TEST(sync_mode_without_followers_refuses_before_logging) {
  open_engine();
  dw_write_options wo = {.mode = DW_SYNC, .acks = 1};
  dw_lsn lsn = 7;
  ck_assert_int_eq(dw_put(e, &wo, "k", 1, "v", 1, &lsn), DW_NOT_ENOUGH_FOLLOWERS);
  ck_assert_uint_eq(lsn, 0);
  expect("k", NULL);
  ck_assert_uint_eq(put("next", "x"), 1);
}
END_TEST

static void acks(uint32_t connected, dw_lsn durable, dw_lsn applied) {
  struct ack_marks m = {.connected = connected, .known = 1};
  m.mark[LEVEL_RECEIVED][0] = m.mark[LEVEL_DURABLE][0] = durable;
  m.mark[LEVEL_APPLIED][0] = applied;
  engine_acks(e, &m);
}

/* The writer in doubt is the one that applied the other's commit, and then waits for followers. */
START_TEST(an_asynchronous_answer_does_not_wait_for_another_writers_followers) {
  open_engine();
  acks(1, 0, 0);
  struct async_seen seen = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, true, true, 0};
  dw_write_options os = {.mode = DW_ASYNC, .durability = DW_DURABILITY_OS};
  dw_write_options sync = {.mode = DW_SYNC, .acks = 1, .timeout_ms = 300, .durability = DW_DURABILITY_OS};
  dw_batch *b = dw_batch_create();
  dw_batch_put(b, "k", 1, "v", 1);
  ck_assert_int_eq(dw_write_async(e, &os, b, on_commit, &seen), DW_OK);
  ck_assert_int_eq(dw_put(e, &sync, "s", 1, "v", 1, NULL), DW_TIMEOUT);
  uint64_t end_ns = env_posix()->ops->mono_ns(env_posix());
  pthread_mutex_lock(&seen.mu);
  ck_assert_int_eq(seen.called, 1);
  ck_assert_uint_gt(end_ns - seen.at_ns, sync.timeout_ms * 1000000ull / 10);
  pthread_mutex_unlock(&seen.mu);
  dw_batch_destroy(b);
}
END_TEST

START_TEST(a_sync_write_that_gets_no_ack_is_in_doubt_invisible_and_can_be_asked_for_again) {
  open_engine();
  acks(1, 0, 0);
  dw_write_options wo = {.mode = DW_SYNC, .acks = 1, .timeout_ms = 50};
  dw_lsn lsn;
  ck_assert_int_eq(dw_put(e, &wo, "k", 1, "v", 1, &lsn), DW_TIMEOUT);
  ck_assert_uint_eq(lsn, 1);
  expect("k", NULL);
  ck_assert_int_eq(dw_wait(e, lsn, &wo), DW_TIMEOUT);
  acks(1, 1, 0);
  ck_assert_int_eq(dw_wait(e, lsn, &wo), DW_OK);
  expect("k", "v");
  ck_assert_int_eq(dw_wait(e, 2, &wo), DW_NOT_FOUND);
}
END_TEST

START_TEST(a_pending_sync_tail_stays_pending_over_a_restart_until_it_is_acked) {
  options.mode = DW_SYNC;
  options.ack_timeout_ms = 30;
  open_engine();
  acks(1, 0, 0);
  dw_lsn lsn;
  ck_assert_int_eq(dw_put(e, NULL, "k", 1, "v", 1, &lsn), DW_TIMEOUT);
  close_engine();
  open_engine();
  expect("k", NULL);
  dw_status s;
  dw_status_get(e, &s);
  ck_assert_uint_eq(s.written_lsn, 1);
  ck_assert_uint_eq(s.commit_lsn, 0);
  acks(1, 1, 1);
  ck_assert_int_eq(dw_wait(e, 1, NULL), DW_OK);
  expect("k", "v");
}
END_TEST

static int get_as(dw_consistency consistency, const char *key) {
  dw_read_options ro = {.consistency = consistency, .max_staleness_ms = 60000, .wait_ms = 20};
  dw_value v = {0};
  int rc = dw_get(e, &ro, key, strlen(key), &v);
  dw_value_release(&v);
  return rc;
}

/* The tail may have been acknowledged before the restart, and read. Nobody here can tell. */
START_TEST(reads_that_must_miss_nothing_wait_until_a_recovered_tail_is_decided) {
  options.mode = DW_SYNC;
  open_engine();
  acks(1, 0, 0);
  ck_assert_int_eq(dw_put(e, &(dw_write_options){.mode = DW_ASYNC}, "old", 3, "v", 1, NULL), DW_OK);
  ck_assert_int_eq(dw_put(e, &(dw_write_options){.timeout_ms = 30}, "k", 1, "v", 1, NULL), DW_TIMEOUT);
  ck_assert_int_eq(get_as(DW_STRONG, "k"), DW_NOT_FOUND); /* in doubt: not committed */
  ck_assert_int_eq(get_as(DW_BOUNDED, "k"), DW_NOT_FOUND);
  close_engine();
  open_engine();
  struct engine_positions pos;
  engine_positions(e, &pos);
  ck_assert_uint_eq(pos.commit_lsn, 1);
  ck_assert_uint_eq(pos.strong_lsn, 2); /* what followers are told, for their reads */
  ck_assert_int_eq(get_as(DW_STRONG, "k"), DW_STALE);
  ck_assert_int_eq(get_as(DW_BOUNDED, "k"), DW_STALE);
  ck_assert_int_eq(get_as(DW_EVENTUAL, "k"), DW_NOT_FOUND);
  acks(1, 2, 2);
  ck_assert_int_eq(dw_wait(e, 2, NULL), DW_OK);
  ck_assert_int_eq(get_as(DW_STRONG, "k"), DW_OK);
  ck_assert_int_eq(get_as(DW_BOUNDED, "k"), DW_OK);
}
END_TEST

START_TEST(the_applied_level_answers_once_followers_have_applied) {
  open_engine();
  acks(1, 0, 0);
  dw_write_options wo = {.mode = DW_SYNC, .ack = DW_ACK_APPLIED, .acks = 1, .timeout_ms = 50};
  dw_lsn lsn;
  acks(1, 1, 0); /* durable there already: commits, but is not applied there */
  ck_assert_int_eq(dw_put(e, &wo, "k", 1, "v", 1, &lsn), DW_TIMEOUT);
  expect("k", "v");
  acks(1, 1, 1);
  ck_assert_int_eq(dw_wait(e, lsn, &wo), DW_OK);
}
END_TEST

START_TEST(semi_sync_degrades_after_its_time_out_and_says_so) {
  options.mode = DW_SEMI_SYNC;
  options.ack_timeout_ms = 60;
  open_engine();
  put("k", "v");
  dw_status s;
  dw_status_get(e, &s);
  ck_assert_int_eq(s.degraded, 1);
  ck_assert_uint_eq(s.degraded_commits, 1);
  ck_assert_uint_eq(s.degraded_count, 1);
  acks(1, 1, 1);
  dw_status_get(e, &s);
  ck_assert_int_eq(s.degraded, 0);
}
END_TEST

START_TEST(wrong_arguments_are_refused_by_name) {
  open_engine();
  static char big[DW_MAX_KEY_BYTES + 1];
  ck_assert_int_eq(dw_put(e, NULL, "", 0, "v", 1, NULL), DW_INVALID);
  dw_lsn lsn = 7;
  ck_assert_int_eq(dw_put(e, NULL, big, sizeof big, "v", 1, &lsn), DW_INVALID);
  ck_assert_uint_eq(lsn, 0);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "65537"));
  dw_write_options wo = {.mode = (dw_mode)17};
  ck_assert_int_eq(dw_put(e, &wo, "k", 1, "v", 1, NULL), DW_INVALID);
  dw_value v;
  ck_assert_int_eq(dw_get(e, NULL, big, sizeof big, &v), DW_INVALID);
  dw_engine *second;
  ck_assert_int_eq(engine_open(dir, &options, &config, &second), DW_LOCKED);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), dir));
  options.segment_bytes = 12;
  ck_assert_int_eq(engine_open("/nonexistent/x", &options, &config, &second), DW_INVALID);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "segment_bytes"));
}
END_TEST

static void option_refused(dw_options o, const char *name) {
  dw_engine *none;
  ck_assert_msg(engine_open("/nonexistent/x", &o, &config, &none) == DW_INVALID, "%s: %s", name, dw_last_error());
  ck_assert_msg(strstr(dw_last_error(), name) != NULL, "%s: %s", name, dw_last_error());
}

START_TEST(options_out_of_range_are_refused_by_name) {
  static const char a63[] = "an-address-of-63-bytes-that-is-the-longest-that-can-be-told:637",
                    a64[] = "6"
                            "an-address-of-63-bytes-that-is-the-longest-that-can-be-told:637";
  char region[DW_REGION_BYTES + 1];
  memset(region, 'r', DW_REGION_BYTES);
  region[DW_REGION_BYTES] = 0;
  for (int i = 0; i < 5; i++) {
    dw_options o = options;
    o.client_address = a63;
    if (i == 0) o.zstd_level = 20, option_refused(o, "zstd_level is 20");
    if (i == 1) o.zstd_level = -6, option_refused(o, "zstd_level is -6");
    if (i == 2) o.region = region, option_refused(o, "option region");
    if (i == 3) o.client_address = a64, option_refused(o, "option client_address");
    if (i == 4) o.primary = "127.0.0.1:1", o.role = DW_PRIMARY, option_refused(o, "option primary is set");
  }
  dw_options o = options; /* the last that are allowed get as far as the directory */
  dw_engine *none;
  o.zstd_level = 19;
  o.client_address = a63;
  o.region = region + 1;
  ck_assert_int_eq(engine_open("/nonexistent/x", &o, &config, &none), DW_IO);
}
END_TEST

START_TEST(a_foreign_directory_is_refused_and_left_alone) {
  char path[300];
  snprintf(path, sizeof path, "%s/precious", dir);
  FILE *f = fopen(path, "w");
  fclose(f);
  ck_assert_int_eq(engine_open(dir, &options, &config, &e), DW_INVALID);
  e = NULL;
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "precious"));
  snprintf(path, sizeof path, "%s/LOCK", dir);
  ck_assert_int_ne(access(path, F_OK), 0);
}
END_TEST

/* Whatever stood in the log beyond the store was acknowledged, and nobody else can tell what it was. */
START_TEST(a_directory_whose_log_is_gone_is_refused_once_the_store_holds_anything) {
  struct engine_checkpoint copy;
  char wal[300];
  open_engine();
  put("a", "1");
  ck_assert_int_eq(engine_checkpoint_create(e, "flushes", &copy), DW_OK);
  put("b", "2"); /* in the log only */
  close_engine();
  snprintf(wal, sizeof wal, "%s/wal-000001", dir);
  ck_assert_int_eq(env_remove_tree(env_posix(), wal), DW_OK);
  ck_assert_int_eq(engine_open(dir, &options, &config, &e), DW_CORRUPT);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), wal));
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "the log is gone"));
}
END_TEST

/* A block as it comes from a primary: an epoch record if `payload` is NULL. *pos moves behind it. */
static void replica_append(struct wal_pos *pos, uint64_t epoch, const char *payload, size_t n) {
  struct epoch_record r = {.epoch = epoch, .node_id = 1, .reason = EPOCH_OPENED, .start = *pos};
  struct block_header like = {.kind = payload ? BLOCK_COMMITS : BLOCK_EPOCH,
                              .need = {.mode = 1, .ack = 2, .durability = 1},
                              .commit_count = payload ? 1 : 0,
                              .epoch = epoch,
                              .first_lsn = pos->lsn + 1};
  uint8_t record[WAL_EPOCH_RECORD_BYTES];
  struct wal_block *b;
  epoch_record_encode(&r, record);
  ck_assert_int_eq(wal_block_create(&like, payload ? payload : (char *)record, payload ? n : sizeof record, 0, &b),
                   DW_OK);
  block_header_seal(&b->h, &pos->chain, b->bytes);
  *pos = (struct wal_pos){block_last_lsn(&b->h), epoch, b->h.chain};
  ck_assert_int_eq(engine_replica_append(e, &b, 1), DW_OK);
  wal_block_unref(b);
}

/* It uses no LSN: the boundary before it has the LSN of the one behind it, which the store's marker names. */
START_TEST(a_follower_does_not_cut_an_epoch_record_that_is_applied) {
  struct hash128 cluster = {{7}};
  struct wal_pos pos = wal_genesis(&cluster), before;
  struct engine_positions p;
  options.role = DW_FOLLOWER;
  config = (struct engine_config){.store = store_mem()};
  open_engine();
  ck_assert_int_eq(engine_adopt_cluster(e, &cluster), DW_OK);
  replica_append(&pos, 1, NULL, 0);
  replica_append(&pos, 1, "\0\1\5\1\2\1k\0", 8);
  before = pos;
  replica_append(&pos, 2, NULL, 0);
  replica_append(&pos, 2, "\0\1\5\1\2\1k\0", 8);
  engine_replica_commit(e, 1);
  while (engine_step(e)) {
  }
  engine_positions(e, &p);
  ck_assert_uint_eq(p.applied.lsn, 1);
  ck_assert_uint_eq(p.applied.epoch, 2);
  ck_assert_int_eq(engine_replica_truncate(e, &(struct engine_parting){.at = before}), DW_DIVERGED);
  ck_assert_int_eq(engine_replica_truncate(e, &(struct engine_parting){.at = p.applied}), DW_OK);
}
END_TEST

/* An unapplied tail is another matter: it may go, but not before it is in a file. */
START_TEST(a_checkpoint_that_lacks_what_is_applied_is_refused_until_that_is_kept) {
  struct hash128 cluster = {{7}};
  struct wal_pos pos = wal_genesis(&cluster), behind_1;
  struct engine_parted kept = {0};
  options.role = DW_FOLLOWER;
  config = (struct engine_config){.store = store_mem()};
  open_engine();
  ck_assert_int_eq(engine_adopt_cluster(e, &cluster), DW_OK);
  replica_append(&pos, 1, NULL, 0);
  replica_append(&pos, 1, "\0\1\5\1\2\1k\0", 8);
  behind_1 = pos;
  replica_append(&pos, 1, "\0\1\5\1\2\1k\0", 8);
  engine_replica_commit(e, 2);
  while (engine_step(e)) {
  }
  ck_assert_int_eq(engine_install(e, &cluster, &behind_1), DW_DIVERGED);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "was not kept"));
  ck_assert_int_eq(engine_part(e, &(struct engine_parting){.at = behind_1, .peer_id = 9, .rejoin = true}, &kept),
                   DW_OK);
  ck_assert(kept.commits == 1 && kept.complete);
  dw_status s;
  dw_status_get(e, &s);
  ck_assert(s.diverged_files == 1 && s.diverged_commits == 1);
  int rc = engine_install(e, &cluster, &behind_1); /* there is none in DIR/incoming: that is what it says now */
  ck_assert(rc != DW_OK && rc != DW_DIVERGED);
  replica_append(&pos, 1, "\0\1\5\1\2\1k\0", 8); /* what came since was not kept */
  ck_assert_int_eq(engine_install(e, &cluster, &behind_1), DW_DIVERGED);
}
END_TEST

static void adopt_and_append(struct hash128 *cluster, struct wal_pos *pos, unsigned commits) {
  *pos = wal_genesis(cluster);
  ck_assert_int_eq(engine_adopt_cluster(e, cluster), DW_OK);
  replica_append(pos, 1, NULL, 0);
  while (commits--) replica_append(pos, 1, "\0\1\5\1\2\1k\0", 8);
}

/* A new primary's commit mark lags: its checkpoint may be older than the parting. This node may have acknowledged what
 * lies between them. */
START_TEST(an_older_checkpoint_does_not_cost_the_log_what_both_histories_have) {
  struct engine_checkpoint copy;
  struct hash128 cluster = {{7}};
  struct wal_pos pos, behind_2;
  struct engine_positions p;
  char path[300], incoming[400], store[420];
  options.role = DW_FOLLOWER;
  config = (struct engine_config){.store = store_mem()};
  snprintf(path, sizeof path, "%s/from", dir);
  ck_assert_int_eq(engine_open(path, &options, &config, &e), DW_OK);
  adopt_and_append(&cluster, &pos, 1);
  engine_replica_commit(e, 1);
  while (engine_step(e)) {
  }
  ck_assert_int_eq(engine_checkpoint_create(e, "c", &copy), DW_OK);
  dw_engine *from = e;
  snprintf(path, sizeof path, "%s/to", dir);
  ck_assert_int_eq(engine_open(path, &options, &config, &e), DW_OK);
  adopt_and_append(&cluster, &pos, 2);
  behind_2 = pos;
  replica_append(&pos, 1, "\0\1\5\1\2\1k\0", 8);
  engine_replica_commit(e, 3);
  while (engine_step(e)) {
  }
  ck_assert_int_eq(engine_part(e, &(struct engine_parting){.at = behind_2, .peer_id = 9, .rejoin = true}, NULL), DW_OK);
  ck_assert_int_eq(engine_incoming(e, incoming, sizeof incoming), DW_OK);
  snprintf(store, sizeof store, "%s/store", incoming);
  ck_assert_int_eq(env_posix()->ops->rename(env_posix(), copy.path, store), DW_OK);
  ck_assert_msg(engine_install(e, &cluster, &copy.pos) == DW_OK, "%s", dw_last_error());
  for (int again = 0; again < 2; again++) {
    engine_positions(e, &p);
    ck_assert_uint_eq(p.applied.lsn, 1);
    ck_assert_uint_eq(p.tail.lsn, 2);
    ck_assert_uint_eq(p.durable_lsn, 2);
    ck_assert_uint_eq(p.epoch, 1);
    ck_assert(hash128_eq(&p.tail.chain, &behind_2.chain));
    close_engine();
    ck_assert_int_eq(engine_open(path, &options, &config, &e), DW_OK);
  }
  pos = behind_2;
  replica_append(&pos, 2, NULL, 0); /* it goes on from there */
  replica_append(&pos, 2, "\0\1\5\1\2\1k\0", 8);
  engine_replica_commit(e, 3);
  while (engine_step(e)) {
  }
  engine_positions(e, &p);
  ck_assert_uint_eq(p.applied.lsn, 3);
  close_engine();
  ck_assert_int_eq(engine_close(from), DW_OK);
}
END_TEST

static void put_big(struct wal_pos *pos) { /* two fill a segment */
  static uint8_t raw[40000] = {0, 1};
  size_t n = 2 + varint32_put(raw + 2, 39006);
  n += varint32_put(raw + n, 1); /* OP_PUT */
  memcpy(raw + n, "\2\1k", 3);
  n += 3;
  n += varint32_put(raw + n, 38999);
  replica_append(pos, 1, (const char *)raw, n + 38999);
}

/* Then what both have can't go along: only a command takes that. */
START_TEST(an_older_checkpoint_is_refused_without_a_command_where_the_log_was_trimmed) {
  struct engine_checkpoint copy;
  struct hash128 cluster = {{7}};
  struct wal_pos pos, common;
  dw_lsn oldest;
  char incoming[400], store[420];
  options.role = DW_FOLLOWER;
  options.segment_bytes = 65536;
  config = (struct engine_config){.store = store_mem()};
  open_engine();
  adopt_and_append(&cluster, &pos, 1);
  engine_replica_commit(e, 1);
  while (engine_step(e)) {
  }
  ck_assert_int_eq(engine_checkpoint_create(e, "c", &copy), DW_OK);
  for (int i = 0; i < 4; i++) put_big(&pos);
  common = pos;
  for (int i = 0; i < 2; i++) put_big(&pos);
  engine_replica_commit(e, 7);
  while (engine_step(e)) {
  }
  ck_assert_int_eq(wal_trim(engine_wal(e), 4, &oldest), DW_OK);
  ck_assert_uint_gt(oldest, 2);
  ck_assert_int_eq(engine_incoming(e, incoming, sizeof incoming), DW_OK);
  snprintf(store, sizeof store, "%s/store", incoming);
  struct engine_parting parting = {.at = common, .peer_id = 9, .rejoin = true};
  for (int command = 0; command < 2; command++) {
    parting.incomplete_will_do = command;
    ck_assert_int_eq(engine_part(e, &parting, NULL), DW_OK);
    ck_assert_int_eq(env_posix()->ops->rename(env_posix(), copy.path, store), DW_OK);
    ck_assert_int_eq(engine_install(e, &cluster, &copy.pos), command ? DW_OK : DW_DIVERGED);
    if (command) break;
    ck_assert_ptr_nonnull(strstr(dw_last_error(), "trimmed between them"));
    char moved[500];
    snprintf(moved, sizeof moved, "%s/store-000002", dir);
    ck_assert_int_eq(env_posix()->ops->rename(env_posix(), moved, copy.path), DW_OK);
  }
  struct engine_positions p;
  engine_positions(e, &p);
  ck_assert(p.applied.lsn == 1 && p.tail.lsn == 1);
}
END_TEST

/* What is there is counted, also if the attempt that wrote it came to nothing. */
START_TEST(a_file_whose_sidecar_could_not_be_written_is_counted) {
  struct fault_env *faults = fault_env_create(env_posix());
  struct hash128 cluster = {{7}};
  struct wal_pos pos;
  dw_status s;
  options.role = DW_FOLLOWER;
  config = (struct engine_config){.store = store_mem(), .env = fault_env_env(faults)};
  open_engine();
  adopt_and_append(&cluster, &pos, 1);
  struct engine_parting parting = {.at = pos, .peer_id = 9};
  replica_append(&pos, 1, "\0\1\5\1\2\1k\0", 8);
  fault_env_only(faults, ".json");
  fault_env_fail(faults, FAULT_OPEN, 1, DW_IO, false);
  ck_assert_int_eq(engine_part(e, &parting, NULL), DW_IO);
  dw_status_get(e, &s);
  ck_assert_uint_eq(s.diverged_files, 1);
  ck_assert_int_eq(engine_part(e, &parting, NULL), DW_OK);
  dw_status_get(e, &s);
  ck_assert_uint_eq(s.diverged_files, 1);
  ck_assert_uint_eq(s.diverged_commits, 1);
  close_engine();
  fault_env_destroy(faults);
}
END_TEST

/* The epoch that a manifest names becomes the log's; the store that came with it knows better. */
START_TEST(a_checkpoint_is_installed_only_at_the_boundary_that_its_store_names) {
  struct engine_checkpoint copy;
  struct hash128 cluster = {{7}};
  struct wal_pos pos = wal_genesis(&cluster);
  char incoming[400], store[420];
  options.role = DW_FOLLOWER;
  config = (struct engine_config){.store = store_mem()};
  open_engine();
  ck_assert_int_eq(engine_adopt_cluster(e, &cluster), DW_OK);
  replica_append(&pos, 3, NULL, 0);
  replica_append(&pos, 3, "\0\1\5\1\2\1k\0", 8);
  engine_replica_commit(e, 1);
  while (engine_step(e)) {
  }
  ck_assert_int_eq(engine_checkpoint_create(e, "c", &copy), DW_OK);
  ck_assert_uint_eq(copy.pos.epoch, 3);
  ck_assert_int_eq(engine_incoming(e, incoming, sizeof incoming), DW_OK);
  snprintf(store, sizeof store, "%s/store", incoming);
  ck_assert_int_eq(env_posix()->ops->rename(env_posix(), copy.path, store), DW_OK);
  copy.pos.epoch = 9;
  ck_assert_int_eq(engine_install(e, &cluster, &copy.pos), DW_CORRUPT);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "epoch"));
}
END_TEST

/* Two histories may have parted before the first commit, and the new primary has none yet. */
START_TEST(the_checkpoint_of_a_store_that_nothing_was_written_to_is_installed) {
  struct engine_checkpoint copy;
  struct hash128 cluster = {{7}};
  struct wal_pos pos;
  struct engine_positions p;
  char path[300], incoming[400], store[420];
  options.role = DW_FOLLOWER;
  config = (struct engine_config){.store = store_mem()};
  snprintf(path, sizeof path, "%s/from", dir);
  ck_assert_int_eq(engine_open(path, &options, &config, &e), DW_OK);
  ck_assert_int_eq(engine_adopt_cluster(e, &cluster), DW_OK);
  ck_assert_int_eq(engine_checkpoint_create(e, "c", &copy), DW_OK);
  ck_assert_uint_eq(copy.pos.lsn, 0);
  dw_engine *from = e;
  snprintf(path, sizeof path, "%s/to", dir);
  ck_assert_int_eq(engine_open(path, &options, &config, &e), DW_OK);
  adopt_and_append(&cluster, &pos, 1);
  engine_replica_commit(e, 1);
  while (engine_step(e)) {
  }
  struct wal_pos genesis = wal_genesis(&cluster);
  ck_assert_int_eq(engine_part(e, &(struct engine_parting){.at = genesis, .peer_id = 9, .rejoin = true}, NULL), DW_OK);
  ck_assert_int_eq(engine_incoming(e, incoming, sizeof incoming), DW_OK);
  snprintf(store, sizeof store, "%s/store", incoming);
  ck_assert_int_eq(env_posix()->ops->rename(env_posix(), copy.path, store), DW_OK);
  ck_assert_msg(engine_install(e, &cluster, &copy.pos) == DW_OK, "%s", dw_last_error());
  engine_positions(e, &p);
  ck_assert_uint_eq(p.applied.lsn, 0);
  ck_assert(hash128_eq(&p.tail.chain, &genesis.chain));
  ck_assert_int_eq(engine_close(from), DW_OK);
}
END_TEST

START_TEST(a_follower_without_a_log_installs_a_checkpoint_although_there_is_nothing_to_scrub) {
  struct engine_checkpoint copy;
  struct hash128 cluster = {{7}};
  struct wal_pos pos = wal_genesis(&cluster);
  struct engine_positions p = {0};
  char path[300], incoming[400], store[420], name[20];
  options.role = DW_FOLLOWER;
  config = (struct engine_config){.store = store_mem(), .threads = true};
  for (int i = 0; i < 10; i++) {
    dw_engine *from;
    snprintf(path, sizeof path, "%s/from%d", dir, i);
    ck_assert_int_eq(engine_open(path, &options, &config, &e), DW_OK);
    ck_assert_int_eq(engine_adopt_cluster(e, &cluster), DW_OK);
    pos = wal_genesis(&cluster);
    replica_append(&pos, 3, NULL, 0);
    replica_append(&pos, 3, "\0\1\5\1\2\1k\0", 8);
    engine_replica_commit(e, 1);
    for (p.applied.lsn = 0; p.applied.lsn < 1;) engine_positions(e, &p);
    snprintf(name, sizeof name, "c%d", i);
    ck_assert_int_eq(engine_checkpoint_create(e, name, &copy), DW_OK);
    from = e;
    snprintf(path, sizeof path, "%s/to%d", dir, i);
    ck_assert_int_eq(engine_open(path, &options, &config, &e), DW_OK);
    ck_assert_int_eq(engine_incoming(e, incoming, sizeof incoming), DW_OK);
    snprintf(store, sizeof store, "%s/store", incoming);
    ck_assert_int_eq(env_posix()->ops->rename(env_posix(), copy.path, store), DW_OK);
    ck_assert_msg(engine_install(e, &cluster, &copy.pos) == DW_OK, "%s", dw_last_error());
    expect("k", "");
    close_engine();
    ck_assert_int_eq(engine_close(from), DW_OK);
  }
}
END_TEST

/* Gets hold no reference to the store that they read: an install has to wait for them. Iterators hold one. */
struct install_reader {
  pthread_t thread;
  atomic_bool stop;
  atomic_uint_fast64_t reads;
  bool wrong;
};

static void *read_beside_installs(void *arg) {
  struct install_reader *r = arg;
  dw_read_options ro = {.consistency = DW_SESSION, .min_lsn = 1};
  while (!atomic_load(&r->stop)) {
    dw_value v = {0};
    dw_iter *it = NULL;
    if (dw_get(e, &ro, "k", 1, &v) != DW_OK || v.size != 0) r->wrong = true;
    dw_value_release(&v);
    if (dw_iter_create(e, &ro, &it) != DW_OK) r->wrong = true;
    if (it) dw_iter_seek_first(it);
    if (!it || !dw_iter_valid(it)) r->wrong = true;
    dw_iter_destroy(it);
    atomic_fetch_add(&r->reads, 1);
  }
  return NULL;
}

START_TEST(reads_go_on_while_checkpoints_replace_the_store) {
  static struct install_reader readers[3];
  struct engine_checkpoint copy;
  struct hash128 cluster = {{7}};
  struct wal_pos pos = wal_genesis(&cluster);
  struct engine_positions p = {0};
  char incoming[400], store[420];
  options.role = DW_FOLLOWER;
  config = (struct engine_config){.store = store_mem(), .threads = true};
  open_engine();
  ck_assert_int_eq(engine_adopt_cluster(e, &cluster), DW_OK);
  replica_append(&pos, 3, NULL, 0);
  replica_append(&pos, 3, "\0\1\5\1\2\1k\0", 8);
  engine_replica_commit(e, 1);
  while (p.applied.lsn < 1) engine_positions(e, &p);
  for (int i = 0; i < 3; i++) {
    readers[i] = (struct install_reader){.wrong = false};
    ck_assert_int_eq(pthread_create(&readers[i].thread, NULL, read_beside_installs, &readers[i]), 0);
  }
  for (int i = 0; i < 30; i++) {
    uint_fast64_t before = atomic_load(&readers[i % 3].reads);
    ck_assert_int_eq(engine_checkpoint_create(e, "c", &copy), DW_OK);
    ck_assert_int_eq(engine_incoming(e, incoming, sizeof incoming), DW_OK);
    snprintf(store, sizeof store, "%s/store", incoming);
    ck_assert_int_eq(env_posix()->ops->rename(env_posix(), copy.path, store), DW_OK);
    ck_assert_msg(engine_install(e, &cluster, &copy.pos) == DW_OK, "%s", dw_last_error());
    while (atomic_load(&readers[i % 3].reads) == before) sched_yield(); /* it reads from the new one */
  }
  for (int i = 0; i < 3; i++) {
    atomic_store(&readers[i].stop, true);
    pthread_join(readers[i].thread, NULL);
    ck_assert(!readers[i].wrong);
  }
}
END_TEST

/* What is known of a follower's freshness ends with the link that knew it. */
START_TEST(a_bounded_read_goes_by_what_replication_said_last) {
  static const struct replication_ops nothing;
  struct hash128 cluster = {{7}};
  struct wal_pos pos = wal_genesis(&cluster);
  struct engine_positions p = {0};
  options.role = DW_FOLLOWER;
  config = (struct engine_config){.store = store_mem(), .threads = true};
  open_engine();
  ck_assert_int_eq(engine_adopt_cluster(e, &cluster), DW_OK);
  replica_append(&pos, 3, NULL, 0);
  replica_append(&pos, 3, "\0\1\5\1\2\1k\0", 8);
  engine_replica_commit(e, 1);
  while (p.applied.lsn < 1) engine_positions(e, &p);
  uint64_t now = env_posix()->ops->mono_ns(env_posix());
  engine_fresh_as_of(e, now); /* nobody is attached: a late word of a link that was cut off */
  ck_assert_int_eq(get_as(DW_BOUNDED, "k"), DW_STALE);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "staleness_ms=unknown"));
  engine_attach(e, &nothing, NULL);
  ck_assert_int_eq(get_as(DW_BOUNDED, "k"), DW_STALE);
  engine_fresh_as_of(e, now);
  ck_assert_int_eq(get_as(DW_BOUNDED, "k"), DW_OK);
  engine_fresh_as_of(e, now - 61000000000u); /* the bound is a minute */
  ck_assert_int_eq(get_as(DW_BOUNDED, "k"), DW_STALE);
  engine_fresh_as_of(e, UINT64_MAX);
  ck_assert_int_eq(get_as(DW_BOUNDED, "k"), DW_STALE);
  engine_fresh_as_of(e, now);
  engine_attach(e, NULL, NULL);
  ck_assert_int_eq(get_as(DW_BOUNDED, "k"), DW_STALE);
  ck_assert_int_eq(get_as(DW_EVENTUAL, "k"), DW_OK);
}
END_TEST

START_TEST(a_node_file_with_reserved_bytes_set_is_not_valid) {
  struct node_file n = {.incarnation = {{1}}, .node_id = 2, .generation = 1}, again;
  uint8_t bytes[NODE_FILE_BYTES];
  for (size_t at = 0; at < NODE_FILE_BYTES - 8; at++) {
    node_file_encode(&n, bytes);
    ck_assert_int_eq(node_file_decode(bytes, sizeof bytes, &again), DW_OK);
    if ((at < 60 || at >= 64) && at < 72) continue;
    if (at >= 88 && at < 96) continue; /* any epoch may have been begun; half a promise, at 72 to 87, is none */
    bytes[at] = at == 96 ? 2 : 1;
    put_u64(bytes + NODE_FILE_BYTES - 8, hash64(bytes, NODE_FILE_BYTES - 8));
    ck_assert_int_eq(node_file_decode(bytes, sizeof bytes, &again), DW_CORRUPT);
  }
}
END_TEST

START_TEST(an_iterator_sees_one_point_and_only_users_keys) {
  open_engine();
  put("b", "2");
  put("a", "1");
  dw_iter *it;
  ck_assert_int_eq(dw_iter_create(e, NULL, &it), DW_OK);
  put("c", "3");
  size_t n;
  dw_iter_seek_first(it);
  ck_assert(dw_iter_valid(it));
  ck_assert(memcmp(dw_iter_key(it, &n), "a", 1) == 0 && n == 1);
  dw_iter_next(it);
  ck_assert(memcmp(dw_iter_value(it, &n), "2", 1) == 0);
  dw_iter_next(it);
  ck_assert(!dw_iter_valid(it));
  ck_assert_int_eq(dw_iter_status(it), DW_OK);
  dw_iter_destroy(it);
}
END_TEST

START_TEST(segments_are_recycled_once_the_store_has_persisted_them) {
  options.segment_bytes = 65536;
  options.memtable_bytes = 65536;
  open_engine();
  char val[4096];
  for (size_t i = 0; i < sizeof val; i++) val[i] = (char)rand();
  dw_write_options wo = {.durability = DW_DURABILITY_OS};
  dw_status s;
  int i = 0;
  do {
    ck_assert_int_eq(dw_put(e, &wo, &i, sizeof i, val, sizeof val, NULL), DW_OK);
    dw_status_get(e, &s);
  } while (++i < 200000 && s.oldest_lsn < 100);
  ck_assert_uint_ge(s.oldest_lsn, 100);
  close_engine();
  open_engine();
  int last = i - 1;
  dw_value v;
  ck_assert_int_eq(dw_get(e, NULL, &last, sizeof last, &v), DW_OK);
  dw_value_release(&v);
}
END_TEST

START_TEST(what_can_not_be_kept_completely_is_parted_with_only_by_leave) {
  options.segment_bytes = 65536;
  options.memtable_bytes = 65536;
  open_engine();
  char val[4096];
  for (size_t i = 0; i < sizeof val; i++) val[i] = (char)rand();
  dw_write_options wo = {.durability = DW_DURABILITY_OS};
  dw_status s;
  int i = 0;
  do {
    ck_assert_int_eq(dw_put(e, &wo, &i, sizeof i, val, sizeof val, NULL), DW_OK);
    dw_status_get(e, &s);
  } while (++i < 200000 && s.oldest_lsn < 100);
  struct hash128 cluster;
  memcpy(cluster.b, s.cluster_id, 16);
  struct engine_parting at_its_beginning = {.at = wal_genesis(&cluster), .peer_id = 9, .rejoin = true};
  struct engine_parted kept = {0};
  ck_assert_int_eq(engine_part(e, &at_its_beginning, &kept), DW_INVALID); /* a primary parts with nothing */
  close_engine();
  options.role = DW_FOLLOWER;
  open_engine();
  ck_assert_int_eq(engine_part(e, &at_its_beginning, &kept), DW_DIVERGED);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "can't be kept completely"));
  ck_assert_int_eq(engine_install(e, &cluster, &at_its_beginning.at), DW_DIVERGED); /* so nothing may replace it */
  dw_status_get(e, &s);
  ck_assert_uint_eq(s.diverged_files, 1); /* what is left of it */
  ck_assert(s.diverged_commits > 0 && s.diverged_commits < s.written_lsn);
  at_its_beginning.incomplete_will_do = true;
  ck_assert_int_eq(engine_part(e, &at_its_beginning, &kept), DW_OK);
  ck_assert(!kept.complete && kept.commits == s.diverged_commits);
}
END_TEST

static uint64_t hasty_clock(struct env *env) {
  static uint64_t now = 1000000000;
  (void)env;
  return now += 300000000; /* every look at it, another housekeeping is due */
}

static void count_done(void *arg, int rc, dw_lsn lsn) {
  if (rc == DW_OK) *(dw_lsn *)arg = lsn;
}

/* In a process of its own: this one must have no thread before it forks again. */
static void put_one_and_close(void) {
  pid_t pid = fork();
  if (pid == 0) {
    if (engine_open(dir, &options, &config, &e)) _exit(2);
    if (dw_put(e, NULL, "a", 1, "1", 1, NULL)) _exit(3);
    _exit(engine_close(e) ? 4 : 0);
  }
  int status;
  waitpid(pid, &status, 0);
  ck_assert(WIFEXITED(status));
  ck_assert_int_eq(WEXITSTATUS(status), 0);
}

/* In a process that then dies: opens, writes one value that needs a segment of its own, keeps house until there is
 * nothing to do. */
static void crash_after_a_roll(void) {
  pid_t pid = fork();
  if (pid == 0) {
    struct env_ops ops = *env_posix()->ops;
    struct env env = {&ops};
    static char big[70000];
    dw_lsn lsn = 0;
    ops.mono_ns = hasty_clock;
    config.env = &env;
    config.threads = false;
    if (engine_open(dir, &options, &config, &e)) _exit(2);
    for (size_t i = 0; i < sizeof big; i++) big[i] = (char)rand();
    dw_batch *b = dw_batch_create();
    dw_batch_put(b, "big", 3, big, sizeof big);
    if (dw_write_async(e, NULL, b, count_done, &lsn)) _exit(3);
    for (int i = 0; i < 1000 && (engine_step(e) || i < 50); i++) continue;
    _exit(lsn ? 0 : 4);
  }
  int status;
  waitpid(pid, &status, 0);
  ck_assert(WIFEXITED(status));
  ck_assert_int_eq(WEXITSTATUS(status), 0);
}

START_TEST(an_epoch_record_that_the_store_has_not_persisted_is_not_trimmed) {
  options.segment_bytes = 65536;
  put_one_and_close(); /* the store has persisted LSN 1 of epoch 1; epoch 2's record will stand at LSN 1, too */
  crash_after_a_roll();
  open_engine();
  expect("a", "1");
  ck_assert_uint_eq(put("b", "2"), 3);
}
END_TEST

/* What was done to directories, in order: "mkdir PATH" and "sync PATH". */
static char events[64][400];
static int event_count;

static int noting_mkdir(struct env *env, const char *path) {
  snprintf(events[event_count++ % 64], 400, "mkdir %s", path);
  return env_posix()->ops->mkdir(env, path);
}

static int noting_sync_dir(struct env *env, const char *path) {
  snprintf(events[event_count++ % 64], 400, "sync %s", path);
  return env_posix()->ops->sync_dir(env, path);
}

static int last_event(const char *what, const char *path) {
  char text[400];
  int at = -1;
  snprintf(text, sizeof text, "%s %s", what, path);
  for (int i = 0; i < event_count && i < 64; i++)
    if (strcmp(events[i], text) == 0) at = i;
  return at;
}

START_TEST(the_entries_of_a_new_directory_and_of_its_log_are_durable_before_anything_is_acknowledged) {
  struct env_ops ops = *env_posix()->ops;
  struct env env = {&ops};
  char path[300], log[320];
  ops.mkdir = noting_mkdir;
  ops.sync_dir = noting_sync_dir;
  config.env = &env;
  snprintf(path, sizeof path, "%s/new", dir);
  snprintf(log, sizeof log, "%s/wal-000001", path);
  event_count = 0;
  ck_assert_int_eq(engine_open(path, &options, &config, &e), DW_OK);
  ck_assert_int_ge(last_event("mkdir", path), 0);
  ck_assert_int_gt(last_event("sync", dir), last_event("mkdir", path));
  ck_assert_int_ge(last_event("mkdir", log), 0);
  ck_assert_int_gt(last_event("sync", path), last_event("mkdir", log));
  close_engine();
  options.role = DW_FOLLOWER; /* its log is made when it meets its primary */
  snprintf(path, sizeof path, "%s/newer", dir);
  snprintf(log, sizeof log, "%s/wal-000001", path);
  ck_assert_int_eq(engine_open(path, &options, &config, &e), DW_OK);
  struct hash128 cluster = {{1}};
  event_count = 0;
  ck_assert_int_eq(engine_adopt_cluster(e, &cluster), DW_OK);
  ck_assert_int_gt(last_event("sync", path), last_event("mkdir", log));
  close_engine(); /* the environment is this function's */
}
END_TEST

int main(void) {
  Suite *s = suite_create("engine");
  TCase *t = tcase_create("engine");
  tcase_set_timeout(t, 60);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, commits_are_numbered_from_1_and_visible_when_they_return);
  tcase_add_test(t, a_batch_is_one_commit_in_its_own_order_and_an_empty_one_is_none);
  tcase_add_test(t, everything_is_there_after_a_clean_reopen_and_numbers_go_on);
  tcase_add_test(t, after_a_crash_replay_brings_back_every_acknowledged_commit);
  tcase_add_test(t, os_durable_commits_survive_a_crash_of_the_process);
  tcase_add_test(t, eight_writers_of_mixed_durability_get_distinct_numbers_and_find_their_writes);
  tcase_add_test(t, asynchronous_writes_are_answered_once_each_in_order);
  tcase_add_test(t, sync_mode_without_followers_refuses_before_logging);
  tcase_add_loop_test(t, an_asynchronous_answer_does_not_wait_for_another_writers_followers, 0, 5);
  tcase_add_test(t, a_sync_write_that_gets_no_ack_is_in_doubt_invisible_and_can_be_asked_for_again);
  tcase_add_test(t, a_pending_sync_tail_stays_pending_over_a_restart_until_it_is_acked);
  tcase_add_test(t, reads_that_must_miss_nothing_wait_until_a_recovered_tail_is_decided);
  tcase_add_test(t, the_applied_level_answers_once_followers_have_applied);
  tcase_add_test(t, semi_sync_degrades_after_its_time_out_and_says_so);
  tcase_add_test(t, wrong_arguments_are_refused_by_name);
  tcase_add_test(t, options_out_of_range_are_refused_by_name);
  tcase_add_test(t, a_foreign_directory_is_refused_and_left_alone);
  tcase_add_test(t, a_directory_whose_log_is_gone_is_refused_once_the_store_holds_anything);
  tcase_add_test(t, a_follower_does_not_cut_an_epoch_record_that_is_applied);
  tcase_add_test(t, a_checkpoint_that_lacks_what_is_applied_is_refused_until_that_is_kept);
  tcase_add_test(t, an_older_checkpoint_does_not_cost_the_log_what_both_histories_have);
  tcase_add_test(t, an_older_checkpoint_is_refused_without_a_command_where_the_log_was_trimmed);
  tcase_add_test(t, a_file_whose_sidecar_could_not_be_written_is_counted);
  tcase_add_test(t, a_checkpoint_is_installed_only_at_the_boundary_that_its_store_names);
  tcase_add_test(t, the_checkpoint_of_a_store_that_nothing_was_written_to_is_installed);
  tcase_add_test(t, a_follower_without_a_log_installs_a_checkpoint_although_there_is_nothing_to_scrub);
  tcase_add_test(t, reads_go_on_while_checkpoints_replace_the_store);
  tcase_add_test(t, a_bounded_read_goes_by_what_replication_said_last);
  tcase_add_test(t, a_node_file_with_reserved_bytes_set_is_not_valid);
  tcase_add_test(t, an_iterator_sees_one_point_and_only_users_keys);
  tcase_add_test(t, segments_are_recycled_once_the_store_has_persisted_them);
  tcase_add_test(t, what_can_not_be_kept_completely_is_parted_with_only_by_leave);
  tcase_add_test(t, an_epoch_record_that_the_store_has_not_persisted_is_not_trimmed);
  tcase_add_test(t, the_entries_of_a_new_directory_and_of_its_log_are_durable_before_anything_is_acknowledged);
  suite_add_tcase(s, t);
  return check_main(s);
}
