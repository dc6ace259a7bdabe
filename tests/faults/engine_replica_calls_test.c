/* A follower's life in which one call fails: adopting a cluster, appending, syncing, applying, cutting a tail,
 * installing a checkpoint, closing, recovering. Each run makes another call fail. engine_calls_test.c does the same for
 * a primary.
 *
 * Whatever fails: the follower's log is a prefix of the primary's history, what it acknowledged as durable is there
 * after reopening, a fault that is over does not keep it from going on (where its log stopped: after reopening), and in
 * the end it holds exactly the primary's data.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"
#include "tests/support/check_main.h"
#include "tests/support/fault_calls.h"
#include "wal/base/hash.h"
#include "wal/base/status.h"

static char root[200], dir[256], source_dir[256];
static dw_options options;
static struct engine_config config;
static dw_engine *e;
static struct fault_walk *walk;

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg, (void)level, (void)line;
}

/* ---- the primary's history ----------------------------------------------------------------------- */

#define BLOCKS_MAX 64
static struct wal_block *blocks[BLOCKS_MAX];
static struct wal_pos bounds[BLOCKS_MAX + 1]; /* [i]: before block i */
static unsigned block_count;
static struct hash128 cluster, content;
static struct engine_checkpoint copy;
static unsigned copy_at; /* bounds[copy_at] is the copy's */

static struct hash128 content_of(dw_engine *of) {
  struct hash_stream *h = hash_stream_create();
  dw_iter *it;
  ck_assert_int_eq(dw_iter_create(of, NULL, &it), DW_OK);
  for (dw_iter_seek_first(it); dw_iter_valid(it); dw_iter_next(it)) {
    size_t klen, vlen;
    const char *key = dw_iter_key(it, &klen), *val = dw_iter_value(it, &vlen);
    hash_stream_update(h, key, klen);
    hash_stream_update(h, val, vlen);
  }
  ck_assert_int_eq(dw_iter_status(it), DW_OK);
  dw_iter_destroy(it);
  struct hash128 d = hash_stream_digest(h);
  hash_stream_destroy(h);
  return d;
}

static void put(dw_engine *p, int i, size_t bytes) {
  char key[16];
  static char val[30000];
  uint64_t x = 88172645463325252ull + (unsigned)i;
  for (size_t k = 0; k < bytes; k++) { /* a tenth of it can be compressed away */
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    val[k] = (char)(k < bytes / 10 ? 'v' : x);
  }
  snprintf(key, sizeof key, "key-%d", i % 11);
  ck_assert_int_eq(dw_put(p, NULL, key, strlen(key), val, bytes, NULL), DW_OK);
}

static unsigned bound_of(const struct wal_pos *pos) {
  for (unsigned i = 0; i <= block_count; i++)
    if (bounds[i].lsn == pos->lsn && hash128_eq(&bounds[i].chain, &pos->chain)) return i;
  FAULT_CHECK(false, "LSN %llu of the follower is no boundary of the primary's history", (unsigned long long)pos->lsn);
  return 0;
}

/* Two epochs, compressed and raw blocks, more than one segment; a copy of the store in the middle. */
static void make_source(void) {
  dw_engine *p;
  ck_assert_int_eq(engine_open(source_dir, &options, &config, &p), DW_OK);
  for (int i = 0; i < 6; i++) put(p, i, i % 2 ? 40 : 20000);
  ck_assert_int_eq(engine_close(p), DW_OK);
  ck_assert_int_eq(engine_open(source_dir, &options, &config, &p), DW_OK);
  for (int i = 6; i < 9; i++) put(p, i, 3000);
  ck_assert_int_eq(engine_checkpoint_create(p, "copy", &copy), DW_OK);
  for (int i = 9; i < 14; i++) put(p, i, i % 2 ? 20000 : 200);
  struct engine_identity id;
  engine_identity(p, &id);
  cluster = id.cluster_id;
  bounds[0] = wal_genesis(&cluster);
  struct wal_cursor *c;
  ck_assert_int_eq(wal_cursor_open(engine_wal(p), &bounds[0], &c), DW_OK);
  while (wal_cursor_next(c, UINT64_MAX, &blocks[block_count]) == DW_OK) bounds[++block_count] = wal_cursor_pos(c);
  wal_cursor_close(c);
  copy_at = bound_of(&copy.pos);
  content = content_of(p);
  char kept[300]; /* dropped at the next opening, so it moves out of the way */
  snprintf(kept, sizeof kept, "%s/copy", root);
  ck_assert_int_eq(rename(copy.path, kept), 0);
  snprintf(copy.path, sizeof copy.path, "%s", kept);
  ck_assert_int_eq(engine_close(p), DW_OK);
}

/* ---- the follower -------------------------------------------------------------------------------- */

static dw_lsn promised; /* acknowledged as durable */

static void judge(const char *call, int rc) {
  fault_judge(call, rc, root);
}

static bool over(void) {
  return faults_hit() && walk->span == FAULT_ONCE;
}

static void open_follower(void) {
  fault_forget_message();
  int rc = engine_open(dir, &options, &config, &e);
  if (rc == DW_OK) return;
  judge("engine_open", rc);
  e = NULL;
  if (!over()) return;
  rc = engine_open(dir, &options, &config, &e);
  FAULT_CHECK(rc == DW_OK, "does not open again: %s", dw_last_error());
}

static void close_follower(void) {
  if (!e) return;
  fault_forget_message();
  judge("engine_close", engine_close(e));
  e = NULL;
}

/* After a failure: a log that has stopped needs a reopening, anything else just another try. */
static void recover(void) {
  dw_status s;
  dw_status_get(e, &s);
  if (!s.failed) return;
  FAULT_CHECK(s.error[0], "failed without saying why");
  FAULT_CHECK(walk->err != ENOMEM || walk->span == FAULT_FROM, "no memory for a moment stopped it: %s", s.error);
  close_follower();
  open_follower();
}

static void adopt(void) {
  for (int i = 0; e && i < 2; i++) {
    fault_forget_message();
    int rc = engine_adopt_cluster(e, &cluster);
    judge("engine_adopt_cluster", rc);
    FAULT_CHECK(rc || engine_wal(e), "has a cluster, but no log");
    if (rc == DW_OK) return;
    FAULT_CHECK(i == 0 || !over(), "does not adopt the cluster once it can: %s", dw_last_error());
  }
}

/* Up to boundary `to`, in pieces of three blocks. */
static void append(unsigned to) {
  for (unsigned failures = 0; e && engine_wal(e);) {
    struct engine_positions pos;
    engine_positions(e, &pos);
    unsigned at = bound_of(&pos.tail);
    if (at >= to) return;
    fault_forget_message();
    int rc = engine_replica_append(e, blocks + at, to - at < 3 ? to - at : 3);
    judge("engine_replica_append", rc);
    if (rc == DW_OK) continue;
    recover();
    if (++failures == 3) {
      FAULT_CHECK(!over(), "does not append once it can: %s", dw_last_error());
      return;
    }
  }
}

static void sync_log(void) {
  if (!e || !engine_wal(e)) return;
  dw_lsn durable = 0;
  fault_forget_message();
  int rc = engine_replica_sync(e, &durable);
  judge("engine_replica_sync", rc);
  if (rc == DW_OK && durable > promised) promised = durable;
  if (rc) recover();
}

static void commit(unsigned bound) {
  if (!e || !engine_wal(e)) return;
  engine_replica_commit(e, bounds[bound].lsn);
  for (int i = 0; i < 6; i++) {
    engine_step(e);
    faults_advance_ms(300);
  }
}

static void cut_back_to(unsigned bound) {
  for (int i = 0; e && engine_wal(e) && i < 2; i++) {
    struct engine_positions pos;
    engine_positions(e, &pos);
    if (pos.tail.lsn <= bounds[bound].lsn || pos.applied.lsn > bounds[bound].lsn) return;
    if (promised > bounds[bound].lsn) promised = bounds[bound].lsn;
    fault_forget_message();
    int rc = engine_replica_truncate(e, &(struct engine_parting){.at = bounds[bound]});
    judge("engine_replica_truncate", rc);
    if (rc == DW_OK) return;
    recover();
    FAULT_CHECK(i == 0 || !over(), "does not cut its log once it can: %s", dw_last_error());
  }
}

/* Puts the copy where a bootstrap has put it. SST files may be shared, all others are written to. */
static void stage(const char *incoming) {
  char to[400], path[5000];
  faults_pause();
  snprintf(to, sizeof to, "%s/store", incoming);
  ck_assert_int_eq(env_remove_tree(env_posix(), to), DW_OK);
  ck_assert_int_eq(env_posix()->ops->mkdir(env_posix(), to), DW_OK);
  DIR *d = opendir(copy.path);
  for (struct dirent *f; (f = readdir(d));) {
    uint8_t *bytes;
    size_t n;
    struct env_file *out;
    if (f->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "%s/%s", copy.path, f->d_name);
    ck_assert_int_eq(env_read_file(env_posix(), path, 1u << 30, &bytes, &n), DW_OK);
    snprintf(path, sizeof path, "%s/%s", to, f->d_name);
    ck_assert_int_eq(env_posix()->ops->open(env_posix(), path, ENV_CREATE, &out), DW_OK);
    ck_assert_int_eq(env_pwrite(env_posix(), out, 0, bytes, n), DW_OK);
    env_posix()->ops->close(out);
    free(bytes);
  }
  closedir(d);
  faults_resume();
}

/* An install has failed and the log goes on instead, further than the copy: what is acknowledged now must be in the
 * generation that the next opening finds. */
static void stay_old(void) {
  append(block_count - 2);
  sync_log();
  close_follower();
  open_follower();
  if (!e || !engine_wal(e)) return;
  struct engine_positions pos;
  engine_positions(e, &pos);
  FAULT_CHECK(pos.tail.lsn >= promised, "acknowledged up to LSN %llu, then reopened at %llu",
              (unsigned long long)promised, (unsigned long long)pos.tail.lsn);
}

static void install(bool retry) {
  for (int i = 0; e && i < 2; i++) {
    char incoming[300];
    fault_forget_message();
    int rc = engine_incoming(e, incoming, sizeof incoming);
    judge("engine_incoming", rc);
    if (rc == DW_OK) {
      stage(incoming);
      fault_forget_message();
      rc = engine_install(e, &cluster, &copy.pos);
      judge("engine_install", rc);
    }
    if (rc == DW_OK) {
      if (promised < copy.pos.lsn) promised = copy.pos.lsn;
      struct engine_positions pos;
      engine_positions(e, &pos);
      FAULT_CHECK(pos.applied.lsn == copy.pos.lsn, "stands at LSN %llu", (unsigned long long)pos.applied.lsn);
      FAULT_CHECK(engine_epochs(e, NULL, 0) == 2, "has forgotten the history of epochs");
      return;
    }
    recover();
    FAULT_CHECK(i == 0 || !over(), "does not install once it can: %s", dw_last_error());
    if (!retry) {
      stay_old();
      return;
    }
  }
}

static void look(void) {
  if (!e) return;
  dw_iter *it;
  fault_forget_message();
  int rc = dw_iter_create(e, NULL, &it);
  judge("dw_iter_create", rc);
  if (rc) return;
  fault_forget_message();
  for (dw_iter_seek_first(it); dw_iter_valid(it);) dw_iter_next(it);
  judge("dw_iter_status", dw_iter_status(it));
  dw_iter_destroy(it);
}

/* ---- a life ---------------------------------------------------------------------------------------- */

/* From an empty directory through the log alone. */
static void stream_life(void) {
  open_follower();
  adopt();
  append(5);
  sync_log();
  commit(3);
  append(block_count - 2); /* rolls */
  sync_log();
  cut_back_to(4);
  append(block_count - 1);
  sync_log();
  commit(block_count - 1);
  look();
  close_follower();
  open_follower();
  commit(block_count - 1);
  append(block_count);
  sync_log();
  close_follower();
}

/* Follows, falls behind, gets a checkpoint, goes on. */
static void bootstrap_life(bool with_retry) {
  open_follower();
  adopt();
  append(4);
  sync_log();
  commit(3);
  install(with_retry);
  append(block_count - 1);
  sync_log();
  commit(block_count - 2);
  close_follower();
  open_follower();
  append(block_count);
  sync_log();
  close_follower();
}

static void patient_life(void) {
  bootstrap_life(true);
}
static void impatient_life(void) {
  bootstrap_life(false);
}

static void verify(void) {
  faults_disarm();
  ck_assert_ptr_null(e);
  int rc = engine_open(dir, &options, &config, &e);
  FAULT_CHECK(rc == DW_OK, "the directory does not open afterwards: %s", dw_last_error());
  rc = engine_adopt_cluster(e, &cluster);
  FAULT_CHECK(rc == DW_OK, "adopting afterwards: %s", dw_last_error());
  struct engine_positions pos;
  engine_positions(e, &pos);
  unsigned at = bound_of(&pos.tail);
  FAULT_CHECK(pos.tail.lsn >= promised, "acknowledged up to LSN %llu, the log ends at %llu",
              (unsigned long long)promised, (unsigned long long)pos.tail.lsn);
  rc = at == block_count ? DW_OK : engine_replica_append(e, blocks + at, block_count - at);
  FAULT_CHECK(rc == DW_OK, "appending afterwards: %s", dw_last_error());
  engine_replica_commit(e, bounds[block_count].lsn);
  while (engine_step(e)) {
  }
  struct hash128 now = content_of(e);
  FAULT_CHECK(hash128_eq(&now, &content), "holds other data than the primary");
  rc = engine_close(e);
  e = NULL;
  FAULT_CHECK(rc == DW_OK, "closing afterwards: %s", dw_last_error());
}

/* ---- the walks --------------------------------------------------------------------------------------- */

static const struct {
  const char *what;
  unsigned groups;
  int err;
  enum fault_span span;
} kinds[] = {{"no memory", FAULT_MEMORY, ENOMEM, FAULT_ONCE},
             {"no memory from here on", FAULT_MEMORY, ENOMEM, FAULT_FROM},
             {"I/O error", FAULT_FILES | FAULT_STORE, EIO, FAULT_ONCE},
             {"I/O errors from here on", FAULT_FILES | FAULT_STORE, EIO, FAULT_FROM},
             {"no space", FAULT_FILES | FAULT_STORE, ENOSPC, FAULT_ONCE},
             {"no space from here on", FAULT_FILES | FAULT_STORE, ENOSPC, FAULT_FROM}};
#define KINDS ((int)(sizeof kinds / sizeof *kinds))

static void walk_through(int kind, const struct store_ops *store, void (*life)(void), const char *title) {
  char text[100];
  snprintf(text, sizeof text, "%s, %s, %s", title, store->name, kinds[kind].what);
  config = (struct engine_config){.threads = false, .store = store};
  options.role = DW_PRIMARY;
  make_source();
  options.role = DW_FOLLOWER;
  struct fault_walk w = {.title = text,
                         .groups = kinds[kind].groups,
                         .err = kinds[kind].err,
                         .span = kinds[kind].span,
                         .step = fault_sample(store == store_mem() ? 1 : 3, true),
                         .first = 1 + (unsigned)kind % 3};
  while (fault_walk_next(&w)) {
    walk = &w;
    promised = 0;
    ck_assert_int_eq(env_remove_tree(env_posix(), dir), DW_OK);
    faults_arm(&w);
    life();
    verify();
  }
  ck_assert_uint_gt(w.points * w.step, 80);
}

static void setup(void) {
  fault_dir(root, sizeof root);
  snprintf(dir, sizeof dir, "%s/follower", root);
  snprintf(source_dir, sizeof source_dir, "%s/primary", root);
  dw_options_init(&options);
  options.segment_bytes = 65536;
  options.memtable_bytes = 1u << 20;
  options.ack_timeout_ms = 20;
  options.log = quiet;
  block_count = 0;
}

static void teardown(void) {
  for (unsigned i = 0; i < block_count; i++) wal_block_unref(blocks[i]);
  env_remove_tree(env_posix(), root);
}

START_TEST(every_call_of_a_streaming_follower_fails_in_turn) {
  walk_through(_i % KINDS, _i < KINDS ? store_mem() : store_rocksdb(), stream_life, "streaming");
}
END_TEST

START_TEST(every_call_of_a_follower_that_installs_a_checkpoint_fails_in_turn) {
  walk_through(_i % KINDS, _i < KINDS ? store_mem() : store_rocksdb(), patient_life, "bootstrap");
}
END_TEST

START_TEST(a_follower_whose_install_failed_keeps_what_it_acknowledges_then) {
  walk_through(_i, store_mem(), impatient_life, "failed bootstrap");
}
END_TEST

int main(void) {
  Suite *s = suite_create("a follower whose calls fail one by one");
  TCase *t = tcase_create("calls");
  tcase_set_timeout(t, 300);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_loop_test(t, every_call_of_a_streaming_follower_fails_in_turn, 0, 2 * KINDS);
  tcase_add_loop_test(t, every_call_of_a_follower_that_installs_a_checkpoint_fails_in_turn, 0, 2 * KINDS);
  tcase_add_loop_test(t, a_follower_whose_install_failed_keeps_what_it_acknowledges_then, 0, KINDS);
  suite_add_tcase(s, t);
  return check_main(s);
}
