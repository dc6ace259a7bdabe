/* When a follower gives way while it catches up; and in a real engine: who applies a backlog has a lower priority, and
 * nobody has one afterwards, RocksDB's threads included. */
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "engine/engine.h"
#include "engine/far_behind.h"
#include "tests/support/check_main.h"

#define S 1000000000ull

/* ---- the rule -------------------------------------------------------------------------------- */

static struct far_behind f;

static void setup(void) {
  f = (struct far_behind){0};
}

START_TEST(a_live_follower_does_not_give_way) {
  ck_assert(!far_behind(&f, FAR_BEHIND_BEGIN_BYTES - 1, 100000, S));
}
END_TEST

START_TEST(a_backlog_gives_way_until_little_is_left_of_it) {
  ck_assert(far_behind(&f, FAR_BEHIND_BEGIN_BYTES, 9000, S));
  ck_assert(far_behind(&f, FAR_BEHIND_END_BYTES, 1000, S + 1));
  ck_assert(!far_behind(&f, FAR_BEHIND_END_BYTES - 1, 999, S + 2));
  ck_assert(!far_behind(&f, FAR_BEHIND_BEGIN_BYTES - 1, 8000, S + 3)); /* live again */
}
END_TEST

START_TEST(who_gains_nothing_by_giving_way_hurries_until_the_backlog_is_gone) {
  const uint64_t bytes = 10 * FAR_BEHIND_BEGIN_BYTES;
  ck_assert(far_behind(&f, bytes, 9000, S));
  ck_assert(far_behind(&f, bytes, 9500, S + FAR_BEHIND_GAIN_NS - 1)); /* the primary is faster just now */
  ck_assert(far_behind(&f, bytes, 8999, S + FAR_BEHIND_GAIN_NS));
  ck_assert(far_behind(&f, bytes, 8000, S + 2 * FAR_BEHIND_GAIN_NS - 1));
  ck_assert(!far_behind(&f, bytes, 8999, S + 2 * FAR_BEHIND_GAIN_NS));
  ck_assert(!far_behind(&f, bytes, 100, S + 9 * FAR_BEHIND_GAIN_NS));
  ck_assert(!far_behind(&f, 0, 0, S + 10 * FAR_BEHIND_GAIN_NS));
  ck_assert(far_behind(&f, bytes, 9000, S + 11 * FAR_BEHIND_GAIN_NS)); /* another backlog */
}
END_TEST

/* ---- in an engine ---------------------------------------------------------------------------- */

#define BLOCKS 12u
#define VALUE_BYTES 1000000u

static char dir[256];
static dw_engine *e;
static struct hash128 cluster = {{1}};
static struct wal_pos pos;

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static int lowest, last; /* nice values of the threads that wrote the store */

static struct store_ops watched;
static int watched_write(struct store *s, const struct store_body *b, size_t n, const struct wal_op *sys, size_t m,
                         const struct wal_pos *at) {
  pthread_mutex_lock(&mu);
  last = getpriority(PRIO_PROCESS, 0);
  if (last > lowest) lowest = last;
  pthread_mutex_unlock(&mu);
  return store_rocksdb()->write(s, b, n, sys, m, at);
}
static int watched_open(const char *path, const struct store_options *o, struct store **out) {
  int rc = store_rocksdb()->open(path, o, out);
  if (rc == DW_OK) (*out)->ops = &watched;
  return rc;
}

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg, (void)level, (void)line;
}

static void open_follower(void) {
  snprintf(dir, sizeof dir, "%s/dw-behind-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  dw_options o;
  dw_options_init(&o);
  o.role = DW_FOLLOWER;
  o.memtable_bytes = 4u << 20; /* so that it flushes and compacts meanwhile */
  o.log = quiet;
  watched = *store_rocksdb();
  watched.write = watched_write;
  watched.open = watched_open;
  struct engine_config config = {.threads = true, .store = &watched};
  int rc = engine_open(dir, &o, &config, &e);
  ck_assert_msg(rc == DW_OK, "open: %s", dw_last_error());
  ck_assert_int_eq(engine_adopt_cluster(e, &cluster), DW_OK);
  pos = wal_genesis(&cluster);
  lowest = last = -100;
}

static void close_follower(void) {
  engine_close(e);
  env_remove_tree(env_posix(), dir);
}

static void append(uint32_t value_bytes) {
  struct buf payload = {0}, body = {0};
  uint8_t head[16];
  size_t n = 0;
  ck_assert_int_eq(buf_reserve(&body, value_bytes + 32), DW_OK);
  body.data[body.len++] = OP_PUT;
  body.len += varint32_put(body.data + body.len, 5);
  body.data[body.len++] = NS_USER;
  memcpy(body.data + body.len, &pos.lsn, 4);
  body.len += 4;
  body.len += varint32_put(body.data + body.len, value_bytes);
  for (uint32_t i = 0; i < value_bytes; i++) body.data[body.len++] = (uint8_t)rand();
  head[n++] = 0; /* flags */
  n += varint32_put(head + n, 1);
  n += varint32_put(head + n, (uint32_t)body.len);
  ck_assert_int_eq(buf_append(&payload, head, n), DW_OK);
  ck_assert_int_eq(buf_append(&payload, body.data, body.len), DW_OK);
  struct block_header like = {.kind = BLOCK_COMMITS, .commit_count = 1, .need = {1, 2, 2, false, 0}};
  struct wal_block *b;
  ck_assert_int_eq(wal_block_create(&like, payload.data, payload.len, 0, &b), DW_OK);
  b->h.epoch = 1;
  b->h.first_lsn = pos.lsn + 1;
  block_header_seal(&b->h, &pos.chain, b->bytes);
  pos = (struct wal_pos){block_last_lsn(&b->h), 1, b->h.chain};
  int rc = engine_replica_append(e, &b, 1);
  ck_assert_msg(rc == DW_OK, "append: %s", dw_last_error());
  wal_block_unref(b);
  buf_free(&payload);
  buf_free(&body);
}

static void apply_all(void) {
  engine_replica_commit(e, pos.lsn);
  int rc = dw_wait(e, pos.lsn, NULL);
  ck_assert_msg(rc == DW_OK, "wait: %s", dw_last_error());
}

static void await_store_write(void) {
  int seen;
  do {
    sched_yield();
    pthread_mutex_lock(&mu);
    seen = last;
    pthread_mutex_unlock(&mu);
  } while (seen == -100);
}

/* The threads of this process but RocksDB's, which it keeps; each with the nice value `expected`. */
static int threads_at(int expected) {
  DIR *d = opendir("/proc/self/task");
  int ours = 0;
  ck_assert_ptr_nonnull(d);
  for (struct dirent *t; (t = readdir(d));) {
    if (t->d_name[0] == '.') continue;
    char path[300], name[32] = "";
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", t->d_name);
    FILE *comm = fopen(path, "r");
    if (!comm) continue; /* it has just ended */
    (void)!fgets(name, sizeof name, comm);
    fclose(comm);
    ours += strncmp(name, "rocksdb", 7) != 0;
    ck_assert_int_eq(getpriority(PRIO_PROCESS, (id_t)atoi(t->d_name)), expected);
  }
  closedir(d);
  return ours;
}

START_TEST(a_backlog_is_applied_at_a_lower_priority_and_what_comes_then_is_not) {
  int mine = getpriority(PRIO_PROCESS, 0);
  open_follower();
  append(100);
  apply_all();
  ck_assert_int_eq(lowest, mine);
  for (unsigned i = 0; i < BLOCKS; i++) append(VALUE_BYTES);
  apply_all();
  ck_assert_int_eq(lowest, mine < 9 ? mine + 10 : 19);
  append(100);
  apply_all();
  ck_assert_int_eq(last, mine);
  ck_assert_int_gt(threads_at(mine), 5);
  close_follower();
}
END_TEST

START_TEST(who_has_promised_a_newer_epoch_hurries) {
  int mine = getpriority(PRIO_PROCESS, 0);
  open_follower();
  for (unsigned i = 0; i < BLOCKS; i++) append(VALUE_BYTES);
  ck_assert_int_eq(engine_promise(e, epoch_next_term(1, 7), 99, "127.0.0.1:1"), DW_OK);
  apply_all();
  ck_assert_int_eq(lowest, mine);
  close_follower();
}
END_TEST

START_TEST(an_engine_that_closes_within_a_backlog_leaves_no_thread_behind) {
  int mine = getpriority(PRIO_PROCESS, 0);
  open_follower(); /* what a sanitizer and RocksDB start by the way is there after this */
  append(100);
  apply_all();
  close_follower();
  int before = threads_at(mine);
  open_follower();
  for (unsigned i = 0; i < 3 * BLOCKS; i++) append(VALUE_BYTES);
  engine_replica_commit(e, pos.lsn);
  await_store_write();
  close_follower();
  while (threads_at(mine) > before)
    sched_yield(); /* a joined thread is listed a moment longer; else Check's time-out */
}
END_TEST

int main(void) {
  Suite *s = suite_create("far behind");
  TCase *t = tcase_create("rule");
  tcase_add_checked_fixture(t, setup, NULL);
  tcase_add_test(t, a_live_follower_does_not_give_way);
  tcase_add_test(t, a_backlog_gives_way_until_little_is_left_of_it);
  tcase_add_test(t, who_gains_nothing_by_giving_way_hurries_until_the_backlog_is_gone);
  suite_add_tcase(s, t);
  t = tcase_create("engine");
  tcase_add_test(t, a_backlog_is_applied_at_a_lower_priority_and_what_comes_then_is_not);
  tcase_add_test(t, who_has_promised_a_newer_epoch_hurries);
  tcase_add_test(t, an_engine_that_closes_within_a_backlog_leaves_no_thread_behind);
  suite_add_tcase(s, t);
  return check_main(s);
}
