/* A real primary and a real follower, with threads, sockets and RocksDB, while one call fails in either of them:
 * opening, listening, dialling, a bootstrap, streaming, writing with and without acknowledgements, reading, closing.
 *
 * Whatever fails: nothing crashes or hangs, every write that was answered OK is there on both nodes afterwards, every
 * one that was answered "not done" is on neither, errors say what failed, and both directories open and converge.
 *
 * Threads make the order of calls vary, so the n-th call is not the same one in each run; over a walk all kinds are
 * met. CI takes samples (every so many calls); DW_FAULTS=full in the environment walks through all of them.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "tests/support/check_main.h"
#include "tests/support/fault_calls.h"
#include "tests/support/ports.h"
#include "wal/base/status.h"

struct node {
  const char *name;
  dw_engine *e;
  dw_options opt;
  char dir[256];
};
static char root[200], template_dir[256], address[64];
static struct node primary = {.name = "primary"}, follower = {.name = "follower"};
static struct fault_walk *walk;

static void quiet(void *arg, dw_log_level level, const char *line) {
  if (getenv("DW_FAULT_LINES")) fprintf(stderr, "%d %s: %s\n", (int)level, ((struct node *)arg)->name, line);
}

/* ---- waiting ----------------------------------------------------------------------------------- */

static uint64_t now_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static bool await(bool (*ready)(void), unsigned ms) {
  for (uint64_t until = now_ms() + ms; now_ms() < until; nanosleep(&(struct timespec){0, 1000000}, NULL))
    if (ready()) return true;
  return ready();
}

static bool streaming(void) {
  dw_status s;
  if (!primary.e || !follower.e) return true; /* nothing to wait for */
  dw_status_get(primary.e, &s);
  for (uint32_t i = 0; i < s.follower_count; i++)
    if (s.followers[i].state == DW_PEER_STREAMING) return true;
  return false;
}

static bool converged(void) {
  dw_status p, f;
  dw_status_get(primary.e, &p);
  dw_status_get(follower.e, &f);
  return streaming() && p.applied_lsn == p.written_lsn && f.applied_lsn == p.written_lsn;
}

/* ---- what was promised ---------------------------------------------------------------------------- */

enum promise { NOT_THERE, THERE, IN_DOUBT };
static enum promise promises[64];
static unsigned keys;

static void put(dw_mode mode) {
  char key[16];
  dw_lsn lsn = 99;
  unsigned k = keys++;
  if (!primary.e) return;
  snprintf(key, sizeof key, "new-%u", k);
  dw_write_options wo = {.mode = mode, .timeout_ms = 200};
  fault_forget_message();
  int rc = dw_put(primary.e, &wo, key, strlen(key), key, strlen(key), &lsn);
  promises[k] = rc == DW_OK ? THERE : lsn ? IN_DOUBT : NOT_THERE;
  if (rc == DW_TIMEOUT || rc == DW_NOT_ENOUGH_FOLLOWERS) return; /* the link is broken, or the store refuses for now */
  fault_judge("dw_put", rc, root);
}

static void check(struct node *n, unsigned k, bool final) {
  char key[16];
  dw_value v;
  snprintf(key, sizeof key, "new-%u", k);
  dw_read_options ro = {.consistency = DW_STRONG, .wait_ms = 200};
  fault_forget_message();
  int rc = dw_get(n->e, final ? NULL : &ro, key, strlen(key), &v);
  if (rc == DW_OK) {
    FAULT_CHECK(promises[k] != NOT_THERE, "%s was answered \"not done\" and is at the %s", key, n->name);
    FAULT_CHECK(v.size == strlen(key) && memcmp(v.data, key, v.size) == 0, "%s holds something else", key);
    dw_value_release(&v);
    if (final && promises[k] == IN_DOUBT) promises[k] = THERE; /* and so at the other node */
  } else if (rc == DW_NOT_FOUND) {
    FAULT_CHECK(promises[k] != THERE, "%s was answered OK and is not at the %s", key, n->name);
    if (final && promises[k] == IN_DOUBT) promises[k] = NOT_THERE;
  } else if (rc != DW_STALE || final) {
    fault_judge("dw_get", rc, root);
  }
}

/* ---- nodes ------------------------------------------------------------------------------------------ */

static void open_node(struct node *n) {
  fault_forget_message();
  int rc = dw_open(n->dir, &n->opt, &n->e);
  if (rc == DW_OK) return;
  n->e = NULL;
  fault_judge("dw_open", rc, root);
  if (walk->span == FAULT_FROM) return;
  rc = dw_open(n->dir, &n->opt, &n->e);
  FAULT_CHECK(rc == DW_OK, "the %s does not open again: %s", n->name, dw_last_error());
}

static void close_node(struct node *n) {
  if (!n->e) return;
  fault_forget_message();
  fault_judge("dw_close", dw_close(n->e), root);
  n->e = NULL;
}

/* A log that stopped says so; a reopening helps. */
static void mend(struct node *n) {
  dw_status s;
  if (!n->e) return;
  dw_status_get(n->e, &s);
  if (!s.failed) return;
  FAULT_CHECK(s.error[0], "the %s failed and does not say why", n->name);
  close_node(n);
  open_node(n);
}

/* A primary whose log begins after some commits, so that a new follower needs a checkpoint. */
static void make_template(void) {
  dw_options opt = primary.opt;
  opt.listen = NULL;
  dw_engine *e;
  struct engine_checkpoint c;
  static char val[20000];
  for (size_t i = 0; i < sizeof val; i++) val[i] = (char)rand();
  ck_assert_int_eq(engine_open(template_dir, &opt, &(struct engine_config){.threads = false}, &e), DW_OK);
  for (int i = 0; i < 12; i++) {
    char key[16];
    snprintf(key, sizeof key, "old-%d", i);
    ck_assert_int_eq(dw_put(e, NULL, key, strlen(key), val, sizeof val, NULL), DW_OK);
  }
  ck_assert_int_eq(engine_checkpoint_create(e, "flush", &c), DW_OK);
  for (int i = 0; i < 4; i++) {
    engine_step(e);
    faults_advance_ms(300);
  }
  dw_status s;
  dw_status_get(e, &s);
  ck_assert_uint_gt(s.oldest_lsn, 1);
  ck_assert_int_eq(engine_close(e), DW_OK);
}

static void copy_tree(const char *from, const char *to) {
  struct env *env = env_posix();
  ck_assert_int_eq(env->ops->mkdir(env, to), DW_OK);
  DIR *d = opendir(from);
  for (struct dirent *f; (f = readdir(d));) {
    char a[1024], b[1024];
    uint8_t *bytes;
    size_t n;
    if (f->d_name[0] == '.') continue;
    snprintf(a, sizeof a, "%.600s/%.300s", from, f->d_name);
    snprintf(b, sizeof b, "%.600s/%.300s", to, f->d_name);
    if (f->d_type == DT_DIR) {
      copy_tree(a, b);
      continue;
    }
    ck_assert_int_eq(env_read_file(env, a, 1u << 30, &bytes, &n), DW_OK);
    struct env_file *out;
    ck_assert_int_eq(env->ops->open(env, b, ENV_CREATE_NEW, &out), DW_OK);
    ck_assert_int_eq(env_pwrite(env, out, 0, bytes, n), DW_OK);
    env->ops->close(out);
    free(bytes);
  }
  closedir(d);
}

/* ---- a life ------------------------------------------------------------------------------------------- */

static void life(void) {
  open_node(&primary);
  open_node(&follower);
  put(DW_ASYNC);
  await(streaming, 400);
  put(DW_SYNC);
  put(DW_ASYNC);
  if (follower.e) check(&follower, 1, false);
  mend(&primary);
  mend(&follower);
  close_node(&follower);
  put(DW_ASYNC);
  open_node(&follower);
  await(streaming, 400);
  put(DW_SYNC);
  if (primary.e) check(&primary, 0, false);
  close_node(&primary);
  close_node(&follower);
}

static void verify(void) {
  struct node *nodes[] = {&primary, &follower};
  faults_disarm();
  for (int i = 0; i < 2; i++) {
    int rc = dw_open(nodes[i]->dir, &nodes[i]->opt, &nodes[i]->e);
    FAULT_CHECK(rc == DW_OK, "the %s does not open afterwards: %s", nodes[i]->name, dw_last_error());
  }
  dw_status p, f;
  if (!await(converged, 20000)) {
    dw_status_get(primary.e, &p);
    dw_status_get(follower.e, &f);
    FAULT_CHECK(false,
                "do not converge: primary at LSN %llu, committed %llu '%s'; follower in state %d at LSN %llu, '%s'",
                (unsigned long long)p.written_lsn, (unsigned long long)p.commit_lsn, p.error, (int)f.primary_state,
                (unsigned long long)f.applied_lsn, f.error);
  }
  for (unsigned k = 0; k < keys; k++)
    for (int i = 0; i < 2; i++) check(nodes[i], k, true);
  dw_value v;
  for (int i = 0; i < 2; i++) {
    int rc = dw_get(nodes[i]->e, NULL, "old-0", 5, &v);
    FAULT_CHECK(rc == DW_OK, "what the checkpoint brought is not at the %s", nodes[i]->name);
    dw_value_release(&v);
    rc = dw_close(nodes[i]->e);
    nodes[i]->e = NULL;
    FAULT_CHECK(rc == DW_OK, "closing the %s afterwards: %s", nodes[i]->name, dw_last_error());
  }
}

static void one_life(struct fault_walk *w) {
  walk = w;
  keys = 0;
  memset(promises, 0, sizeof promises);
  ck_assert_int_eq(env_remove_tree(env_posix(), primary.dir), DW_OK);
  ck_assert_int_eq(env_remove_tree(env_posix(), follower.dir), DW_OK);
  copy_tree(template_dir, primary.dir);
  faults_arm(w);
  life();
  verify();
}

/* ---- the walks ------------------------------------------------------------------------------------------ */

static const struct {
  const char *what;
  unsigned groups;
  int err;
  enum fault_span span;
  unsigned sample; /* in CI every so many calls */
} kinds[] = {{"nodes, no memory", FAULT_MEMORY, ENOMEM, FAULT_ONCE, 53},
             {"nodes, I/O error", FAULT_FILES, EIO, FAULT_ONCE, 31},
             {"nodes, no space", FAULT_FILES, ENOSPC, FAULT_ONCE, 47},
             {"nodes, RocksDB fails", FAULT_STORE, EIO, FAULT_ONCE, 11},
             {"nodes, sockets fail", FAULT_NET, EMFILE, FAULT_ONCE, 13},
             {"nodes, no sockets from here on", FAULT_NET, EMFILE, FAULT_FROM, 29},
             {"nodes, no thread starts", FAULT_THREADS, EAGAIN, FAULT_ONCE, 3}};
#define KINDS ((int)(sizeof kinds / sizeof *kinds))

START_TEST(calls_of_a_primary_and_its_follower_fail_in_turn) {
  make_template();
  struct fault_walk w = {.title = kinds[_i].what,
                         .groups = kinds[_i].groups,
                         .err = kinds[_i].err,
                         .span = kinds[_i].span,
                         .step = fault_sample(kinds[_i].sample, false)};
  while (fault_walk_next(&w)) one_life(&w);
  ck_assert_uint_gt(w.points, 2);
}
END_TEST

static void setup(void) {
  fault_dir(root, sizeof root);
  snprintf(template_dir, sizeof template_dir, "%s/template", root);
  snprintf(address, sizeof address, "127.0.0.1:%d", test_pick_port());
  struct node *nodes[] = {&primary, &follower};
  for (int i = 0; i < 2; i++) {
    struct node *n = nodes[i];
    snprintf(n->dir, sizeof n->dir, "%s/%s", root, n->name);
    dw_options_init(&n->opt);
    n->opt.node_id = (uint64_t)i + 1;
    n->opt.segment_bytes = 65536;
    n->opt.memtable_bytes = 1u << 20;
    n->opt.heartbeat_ms = 50;
    n->opt.peer_timeout_ms = 1000;
    n->opt.sync_interval_ms = 100;
    n->opt.log = quiet;
    n->opt.log_arg = n;
  }
  primary.opt.listen = address;
  follower.opt.role = DW_FOLLOWER;
  follower.opt.primary = address;
}

static void teardown(void) {
  env_remove_tree(env_posix(), root);
}

int main(void) {
  Suite *s = suite_create("two nodes whose calls fail one by one");
  TCase *t = tcase_create("calls");
  tcase_set_timeout(t, getenv("DW_FAULTS") ? 7200 : 300);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_loop_test(t, calls_of_a_primary_and_its_follower_fail_in_turn, 0, KINDS);
  suite_add_tcase(s, t);
  return check_main(s);
}
