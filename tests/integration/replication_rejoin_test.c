/* An old primary comes back with commits that the new one's history has not: they are kept in files before anything
 * else happens to them, and the node becomes a follower like any other. On real sockets and disks. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/diverged.h"
#include "engine/engine.h"
#include "engine/identity.h"
#include "replication/node.h"
#include "tests/support/check_main.h"
#include "tests/support/cluster.h"
#include "tests/support/fault_env.h"
#include "tests/support/proxy.h"

static struct cluster c;
static struct cluster_node *p, *f1, *f2;
static struct fault_env *faults;
static struct proxy *proxy, *proxy2;

static void setup(void) {
  cluster_init(&c);
  p = &c.node[0];
  f1 = &c.node[1];
  f2 = &c.node[2];
  cluster_of_three(&c);
  for (int i = 0; i < 3; i++) {
    c.node[i].opt.ack_timeout_ms = 3000;
    c.node[i].opt.peer_timeout_ms = 1000;
  }
}

static void teardown(void) {
  proxy_stop(proxy);
  proxy_stop(proxy2);
  proxy = proxy2 = NULL;
  cluster_free(&c);
  if (faults) fault_env_destroy(faults);
  faults = NULL;
}

/* ---- what happens ------------------------------------------------------------------------------ */

static void open_all(void) {
  node_open(p);
  node_open(f1);
  node_open(f2);
  await_streaming(p, 2);
}

static void put_async(struct cluster_node *n, const char *key, const char *value) {
  dw_write_options async = {.mode = DW_ASYNC};
  ck_assert_int_eq(dw_put(n->e, &async, key, strlen(key), value, strlen(value), NULL), DW_OK);
}

/* Everybody has `count` records; then the primary alone has "lost-00" to "lost-09", acknowledged in async mode and
 * applied; it dies, and f1 takes over with f2. */
static void part_with_applied_commits(unsigned count) {
  open_all();
  node_fill(p, 0, count, 100);
  await_same(p, f1);
  await_same(p, f2);
  node_close(f1);
  node_close(f2);
  for (int i = 0; i < 10; i++) {
    char key[20];
    snprintf(key, sizeof key, "lost-%02d", i);
    put_async(p, key, "only here");
  }
  put_async(p, "k00000001", "changed here");
  node_close(p);
  node_open(f1);
  node_open(f2);
  int rc = dw_promote(f1->e, NULL);
  ck_assert_msg(rc == DW_OK, "%s", dw_last_error());
  await_streaming(f1, 1);
  node_put(f1, "new", "1");
}

static bool is_follower_of(struct cluster_node *n, const dw_status *s, uint64_t of) {
  (void)n;
  return s->role == DW_FOLLOWER && strcmp(s->primary, c.node[of].listen) == 0 && s->primary_state == DW_PEER_STREAMING;
}

static bool refused(struct cluster_node *n, const dw_status *s, uint64_t arg) {
  (void)n, (void)arg;
  return s->primary_state == DW_PEER_REFUSED;
}

static bool is_fenced(struct cluster_node *n, const dw_status *s, uint64_t arg) {
  (void)n, (void)arg;
  return s->fenced;
}

/* The primary counts it, too: a moment later than the follower itself. */
static bool counts(struct cluster_node *primary, const dw_status *s, uint64_t number) {
  dw_follower_status f;
  (void)s;
  return node_as_follower(primary, &c.node[number], &f) && f.state == DW_PEER_STREAMING;
}

static void await_follower(struct cluster_node *n) {
  await_status(n, "a follower of node 1", is_follower_of, 1);
  await_status(f1, "followed by it", counts, (uint64_t)n->number);
}

static void await_rejoined(struct cluster_node *n) {
  await_follower(n);
  node_put(f1, "after", "2");
  await_same(f1, n);
  assert_equal_data(f1, n);
}

/* ---- what is in the files -------------------------------------------------------------------- */

struct kept {
  unsigned files, complete;
  uint64_t commits;
  struct diverged_header h;
  char name[DIVERGED_NAME_BYTES];
};

static int count_kept(void *arg, const char *name, int rc, const struct diverged_header *h) {
  struct kept *k = arg;
  ck_assert_msg(rc == DW_OK, "%s", dw_last_error());
  k->files++;
  k->complete += h->complete;
  k->commits += h->commits;
  k->h = *h;
  snprintf(k->name, sizeof k->name, "%s", name);
  return 0;
}

static struct kept kept_by(const struct cluster_node *n) {
  struct kept k = {0};
  ck_assert_int_eq(diverged_list(env_posix(), n->dir, count_kept, &k), DW_OK);
  return k;
}

/* How often a put of this key, with the namespace byte before it, is in the one file. */
static unsigned puts_kept(const struct cluster_node *n, const char *key) {
  struct kept k = kept_by(n);
  ck_assert_uint_eq(k.files, 1);
  char path[600];
  snprintf(path, sizeof path, "%s/diverged/%s", n->dir, k.name);
  struct diverged_file *f;
  struct diverged_header h;
  struct wal_block *b;
  unsigned found = 0;
  int rc;
  ck_assert_int_eq(diverged_open(env_posix(), path, &h, &f), DW_OK);
  while ((rc = diverged_next(f, &b)) == DW_OK) {
    struct buf scratch = {0};
    const uint8_t *raw;
    size_t size, off = 0;
    ck_assert_int_eq(wal_block_raw(b, &scratch, &raw, &size), DW_OK);
    struct wal_commit commit;
    while (b->h.kind == BLOCK_COMMITS && payload_next_commit(raw, size, &off, &commit) == DW_OK) {
      size_t at = 0;
      struct wal_op op;
      while (body_next_op(commit.body, commit.body_bytes, &at, &op) == DW_OK)
        found += op.klen == strlen(key) + 1 && memcmp(op.key + 1, key, op.klen - 1) == 0;
    }
    buf_free(&scratch);
    wal_block_unref(b);
  }
  ck_assert_msg(rc == DW_NOT_FOUND, "%s", dw_last_error());
  diverged_close(f);
  snprintf(path + strlen(path) - strlen("blocks"), 8, "json");
  bool there = false;
  ck_assert(env_posix()->ops->exists(env_posix(), path, &there) == DW_OK && there);
  return found;
}

static void assert_all_kept(struct cluster_node *n) {
  struct kept k = kept_by(n);
  ck_assert_uint_eq(k.files, 1);
  ck_assert_uint_eq(k.complete, 1);
  ck_assert_uint_eq(k.commits, 11);
  ck_assert_uint_eq(puts_kept(n, "lost-00"), 1);
  ck_assert_uint_eq(puts_kept(n, "lost-09"), 1);
  ck_assert_uint_eq(puts_kept(n, "k00000001"), 1);
  ck_assert_uint_eq(puts_kept(n, "k00000000"), 0);
}

/* ---- rejoining --------------------------------------------------------------------------------- */

START_TEST(an_old_primary_with_commits_of_its_own_keeps_them_and_rejoins_by_itself) {
  part_with_applied_commits(200);
  p->opt.auto_rejoin = 1;
  node_forget_log(p);
  node_open(p);
  await_rejoined(p);
  assert_all_kept(p);
  struct kept k = kept_by(p);
  ck_assert_uint_eq(k.h.reason, DIVERGED_REJOIN);
  ck_assert_uint_eq(k.h.node_id, 1);
  ck_assert_uint_eq(k.h.peer_id, 2);
  ck_assert_uint_eq(k.h.parted.lsn, 200);
  ck_assert_str_eq(node_get(p, NULL, "lost-00"), "DW_NOT_FOUND");
  dw_status s;
  node_status(p, &s);
  ck_assert_uint_eq(s.diverged_files, 1);
  ck_assert_uint_eq(s.diverged_commits, 11);
  ck_assert_uint_eq(s.bootstraps, 1);
  const char *said = strstr(p->log, "11 commits, LSN 201 to 211, are not in the history of node 2");
  const char *took = strstr(p->log, "taking a checkpoint");
  ck_assert(said && took && said < took);
  node_reopen(p); /* its files stay, and it does not become a primary again */
  await_rejoined(p);
  node_status(p, &s);
  ck_assert_uint_eq(s.diverged_files, 1);
  ck_assert_uint_eq(s.bootstraps, 0);
}
END_TEST

START_TEST(without_being_told_it_serves_its_old_data_and_waits) {
  part_with_applied_commits(50);
  node_open(p);
  await_status(p, "fenced", is_fenced, 0);
  ck_assert_int_eq(dw_put(p->e, NULL, "x", 1, "y", 1, NULL), DW_FENCED);
  ck_assert_int_eq(dw_follow(p->e, f1->listen), DW_OK);
  await_status(p, "refused", refused, 0);
  ck_assert_str_eq(node_get(p, NULL, "lost-00"), "only here");
  ck_assert_uint_eq(kept_by(p).files, 0);
  ck_assert_int_eq(dw_rejoin(p->e, NULL), DW_OK);
  await_rejoined(p);
  assert_all_kept(p);
  ck_assert_int_eq(dw_rejoin(f1->e, NULL), DW_INVALID); /* it follows nobody */
}
END_TEST

START_TEST(readers_keep_the_old_data_until_the_switch) {
  part_with_applied_commits(50);
  node_open(p);
  dw_iter *it;
  ck_assert_int_eq(dw_iter_create(p->e, NULL, &it), DW_OK);
  ck_assert_int_eq(dw_rejoin(p->e, f1->listen), DW_OK);
  await_rejoined(p);
  dw_iter_seek(it, "lost-05", 7);
  size_t n;
  ck_assert(dw_iter_valid(it) && strncmp(dw_iter_value(it, &n), "only here", 9) == 0);
  dw_iter_destroy(it);
}
END_TEST

/* Logged, in doubt, and never on a follower that counts: the acknowledgements do not come back. */
START_TEST(an_unapplied_tail_is_kept_before_it_is_cut) {
  node_open(p);
  proxy = proxy_start(p->port);
  proxy2 = proxy_start(p->port);
  node_follow_port(f1, proxy_port(proxy));
  node_follow_port(f2, proxy_port(proxy2));
  node_open(f1);
  node_open(f2);
  await_streaming(p, 2);
  node_fill(p, 0, 20, 100);
  await_same(p, f1);
  await_same(p, f2);
  proxy_mode(proxy, PROXY_STALL);
  proxy_mode(proxy2, PROXY_STALL);
  dw_lsn lsn = 0;
  dw_write_options quick = {.mode = DW_SYNC, .acks = 1, .timeout_ms = 100};
  ck_assert_int_eq(dw_put(p->e, &quick, "doubt", 5, "1", 1, &lsn), DW_TIMEOUT);
  ck_assert_uint_eq(lsn, 21);
  node_close(p);
  proxy_mode(proxy, PROXY_CUT);
  proxy_mode(proxy2, PROXY_CUT);
  ck_assert_int_eq(dw_promote(f1->e, NULL), DW_OK);
  await_streaming(f1, 1);
  node_put(f1, "new", "1");
  node_forget_log(p);
  node_open(p);
  ck_assert_int_eq(dw_follow(p->e, f1->listen), DW_OK);
  await_rejoined(p);
  dw_status s;
  node_status(p, &s);
  ck_assert_uint_eq(s.bootstraps, 0);
  ck_assert_uint_eq(s.diverged_commits, 1);
  ck_assert_uint_eq(puts_kept(p, "doubt"), 1);
  ck_assert_uint_eq(kept_by(p).h.reason, DIVERGED_CUT);
  const char *said = strstr(p->log, "1 commits, LSN 21 to 21"), *cut = strstr(p->log, "dropped the unapplied log tail");
  ck_assert(said && cut && said < cut);
}
END_TEST

static void run(const char *fmt, const char *a, const char *b) {
  char command[1200];
  snprintf(command, sizeof command, fmt, a, b, a);
  ck_assert_int_eq(system(command), 0);
}

static bool has_written(struct cluster_node *n, const dw_status *s, uint64_t lsn) {
  (void)n;
  return s->written_lsn == lsn;
}

/* A power cut took the end of its log, it began an epoch of its own since, and it knows that there is, or is to be, a
 * newer primary. What its followers have beyond may be what that one acknowledged, or will find nowhere else. */
START_TEST(a_fenced_primary_that_lost_its_tail_takes_nothing_from_its_followers) {
  node_open(p);
  proxy = proxy_start(p->port);
  node_follow_port(f1, p->port);
  node_follow_port(f2, proxy_port(proxy));
  node_open(f1);
  node_open(f2);
  await_streaming(p, 2);
  node_fill(p, 0, 20, 100);
  await_same(p, f1);
  await_same(p, f2);
  run("cp -a %s %s.lost", p->dir, p->dir);
  proxy_mode(proxy, PROXY_STALL);
  dw_lsn lsn = 0;
  dw_write_options both = {.mode = DW_SYNC, .acks = 2, .timeout_ms = 100};
  ck_assert_int_eq(dw_put(p->e, &both, "doubt", 5, "1", 1, &lsn), DW_TIMEOUT); /* so f1 has it and does not show it */
  ck_assert_uint_eq(lsn, 21);
  await_status(f1, "it has LSN 21", has_written, 21);
  node_close(p);
  node_close(f1);
  run("rm -rf %s && mv %s.lost %s", p->dir, p->dir);
  node_open(p); /* its log ends in another epoch now, so that it is not merely the shorter one */
  node_close(p);
  struct node_file node;
  ck_assert_int_eq(node_file_load(env_posix(), p->dir, &node), DW_OK);
  node.promised_epoch = 1ull << 32 | 77;
  node.promised_node = 2;
  ck_assert_int_eq(node_file_save(env_posix(), p->dir, &node), DW_OK);
  node_open(p);
  await_status(p, "fenced", is_fenced, 0);
  node_forget_log(f1);
  node_open(f1);
  await_log(f1, "this primary is fenced");
  ck_assert(!node_logged(f1, "dropped the unapplied log tail"));
  dw_status s;
  node_status(f1, &s);
  ck_assert_uint_eq(s.written_lsn, 21);
  ck_assert_int_eq(dw_promote(f1->e, &(dw_promote_options){.force = 1}), DW_OK); /* p has a newer epoch */
}
END_TEST

/* ---- trouble ----------------------------------------------------------------------------------- */

static void open_with_faults(struct cluster_node *n) {
  if (!faults) faults = fault_env_create(env_posix());
  ck_assert_ptr_nonnull(faults);
  struct engine_config config = {.threads = true, .env = fault_env_env(faults)};
  ck_assert_int_eq(node_open_engine(n->dir, &n->opt, &config, &n->e), DW_OK);
}

START_TEST(on_a_full_disk_nothing_is_replaced_and_it_tries_again) {
  part_with_applied_commits(50);
  p->opt.auto_rejoin = 1;
  faults = fault_env_create(env_posix());
  fault_env_only(faults, "/diverged/");
  fault_env_fail(faults, FAULT_PWRITEV, 1, DW_NO_SPACE, true);
  node_forget_log(p);
  open_with_faults(p);
  await_log(p, "what only this node has can't be kept, so it stays as it is");
  node_forget_log(p);
  await_log(p, "what only this node has can't be kept, so it stays as it is"); /* again */
  ck_assert_str_eq(node_get(p, NULL, "lost-00"), "only here");
  ck_assert(!node_logged(p, "taking a checkpoint"));
  ck_assert_uint_eq(kept_by(p).files, 0);
  fault_env_fail(faults, FAULT_PWRITEV, 0, DW_OK, false);
  await_rejoined(p);
  assert_all_kept(p);
}
END_TEST

/* Each operation on the way fails in turn and goes on failing, as if the machine had stopped there; then the node is
 * opened again. */
START_TEST(whatever_step_it_stops_at_the_next_opening_ends_it_with_one_file) {
  static const enum fault_op ops[] = {FAULT_OPEN, FAULT_PWRITEV, FAULT_FDATASYNC, FAULT_RENAME, FAULT_SYNC_DIR};
  part_with_applied_commits(50);
  p->opt.auto_rejoin = 1;
  faults = fault_env_create(env_posix());
  fault_env_only(faults, "diverged");
  unsigned stopped = 0;
  for (size_t op = 0; op < sizeof ops / sizeof *ops; op++)
    for (unsigned nth = 1; nth < 4; nth++) {
      fault_env_fail(faults, ops[op], nth, DW_IO, true);
      node_forget_log(p);
      open_with_faults(p);
      for (;;) {
        dw_status s;
        node_status(p, &s);
        if (node_logged(p, "can't be kept") || s.bootstraps) break;
      }
      bool failed = node_logged(p, "can't be kept");
      ck_assert_str_eq(node_get(p, NULL, "lost-00"), failed ? "only here" : "DW_NOT_FOUND");
      node_close(p);
      fault_env_fail(faults, ops[op], 0, DW_OK, false);
      if (!failed) goto done; /* all of this kind were met, and it has rejoined */
      stopped++;
    }
done:
  ck_assert_uint_ge(stopped, 3);
  open_with_faults(p);
  await_rejoined(p);
  assert_all_kept(p);
}
END_TEST

/* So a coordinator makes a primary stop whose lease has run out. */
START_TEST(told_to_follow_nobody_it_acknowledges_nothing_even_if_it_can_not_note_that) {
  dw_write_options async = {.mode = DW_ASYNC};
  open_with_faults(p);
  put_async(p, "before", "x");
  fault_env_only(faults, "/NODE");
  fault_env_fail(faults, FAULT_RENAME, 1, DW_NO_SPACE, true);
  for (int i = 0; i < 2; i++) {
    dw_status s;
    ck_assert_int_eq(dw_follow(p->e, NULL), DW_NO_SPACE);
    node_status(p, &s);
    ck_assert(s.role == DW_PRIMARY && s.fenced);
    ck_assert_int_eq(dw_put(p->e, &async, "after", 5, "x", 1, NULL), DW_FENCED);
  }
  fault_env_fail(faults, FAULT_RENAME, 0, DW_OK, false);
  ck_assert_int_eq(dw_follow(p->e, NULL), DW_OK);
  ck_assert_int_eq(dw_put(p->e, &async, "after", 5, "x", 1, NULL), DW_READ_ONLY);
  ck_assert_str_eq(node_get(p, NULL, "before"), "x");
}
END_TEST

START_TEST(an_old_primary_that_can_not_note_what_it_hears_acknowledges_nothing_either) {
  dw_write_options async = {.mode = DW_ASYNC};
  node_open(p); /* for its port */
  node_close(p);
  open_with_faults(p);
  node_open(f1);
  node_open(f2);
  await_streaming(p, 2);
  fault_env_only(faults, "/NODE");
  fault_env_fail(faults, FAULT_RENAME, 1, DW_NO_SPACE, true);
  int rc = dw_promote(f1->e, NULL); /* with f2's promise */
  ck_assert_msg(rc == DW_OK, "%s", dw_last_error());
  await_status(p, "fenced", is_fenced, 0);
  ck_assert_int_eq(dw_put(p->e, &async, "after", 5, "x", 1, NULL), DW_FENCED);
}
END_TEST

static char self[400];

static void kill_at(const char *what) {
  char path[600];
  snprintf(path, sizeof path, "%s/%s", p->dir, what);
  pid_t child = fork();
  ck_assert_int_ge(child, 0);
  if (child == 0) {
    execl(self, self, "--node", p->dir, p->listen, p->peers, (char *)NULL);
    _exit(127);
  }
  uint64_t end = now_ms() + AWAIT_MS;
  bool there = false;
  while (!there) {
    ck_assert_msg(now_ms() < end, "%s did not appear", path);
    if (strcmp(what, "diverged") == 0)
      there = kept_by(p).files > 0;
    else
      ck_assert_int_eq(env_posix()->ops->exists(env_posix(), path, &there), DW_OK);
  }
  kill(child, SIGKILL);
  int status;
  ck_assert_int_eq(waitpid(child, &status, 0), child);
  ck_assert(WIFSIGNALED(status));
}

START_TEST(killed_on_the_way_it_goes_on_with_one_file) {
  part_with_applied_commits(2000);
  kill_at("diverged");
  kill_at("incoming/STATE");
  kill_at("store-000002");
  p->opt.auto_rejoin = 1;
  node_open(p);
  await_rejoined(p);
  assert_all_kept(p);
}
END_TEST

/* ---- what travels ------------------------------------------------------------------------------ */

static bool has_bootstrapped(struct cluster_node *n, const dw_status *s, uint64_t times) {
  (void)n;
  return s->bootstraps == times;
}

START_TEST(of_table_files_that_both_have_nothing_travels) {
  p->opt.retain_bytes = p->opt.retain_ms = 0;
  node_open(p);
  dw_write_options async = {.mode = DW_ASYNC};
  for (unsigned i = 0; i < 16; i++) { /* a memtable and a bit: two table files, so few that none are compacted */
    dw_batch *b = dw_batch_create();
    for (unsigned k = 0; k < 1000; k++) {
      char key[24], value[300];
      snprintf(key, sizeof key, "key-%08u", i * 1000 + k);
      for (size_t at = 0; at < sizeof value; at++) value[at] = (char)(rand() >> 7);
      ck_assert_int_eq(dw_batch_put(b, key, strlen(key), value, sizeof value), DW_OK);
    }
    ck_assert_int_eq(dw_write(p->e, &async, b, NULL), DW_OK);
    dw_batch_destroy(b);
  }
  dw_status s;
  uint64_t end = now_ms() + AWAIT_MS;
  do node_status(p, &s);
  while (s.oldest_lsn <= 1 && now_ms() < end);
  ck_assert_uint_gt(s.oldest_lsn, 1);
  proxy = proxy_start(p->port);
  node_follow_port(f1, proxy_port(proxy));
  node_open(f1); /* by a checkpoint: its store is made of this primary's files */
  await_streaming(p, 1);
  await_status(f1, "it counts the bootstrap", has_bootstrapped, 1);
  node_status(f1, &s);
  ck_assert_uint_gt(s.bootstrap_bytes, 4u << 20);
  ck_assert_uint_eq(s.bootstrap_reused_bytes, 0);
  node_put(p, "common", "1");
  await_same(p, f1);
  proxy_mode(proxy, PROXY_CUT);
  put_async(p, "lost", "1");
  node_close(p);
  ck_assert_int_eq(dw_promote(f1->e, &(dw_promote_options){.force = 1}), DW_OK);
  put_async(f1, "new", "1");
  p->opt.auto_rejoin = 1;
  node_open(p);
  await_rejoined(p);
  node_status(p, &s);
  ck_assert_uint_eq(s.bootstraps, 1);
  fprintf(stderr, "rejoined: %llu bytes moved, %llu reused\n", (unsigned long long)s.bootstrap_bytes,
          (unsigned long long)s.bootstrap_reused_bytes);
  ck_assert_uint_gt(s.bootstrap_reused_bytes, 4u << 20);
  ck_assert_uint_lt(s.bootstrap_bytes, s.bootstrap_reused_bytes / 4);
  ck_assert_uint_eq(puts_kept(p, "lost"), 1);
}
END_TEST

/* ---- finding the primary ----------------------------------------------------------------------- */

START_TEST(a_follower_that_was_down_finds_the_new_primary) {
  open_all();
  node_fill(p, 0, 100, 100);
  await_same(p, f1);
  await_same(p, f2);
  node_close(p);
  dw_promote_options force = {.force = 1};
  node_close(f2);
  ck_assert_int_eq(dw_promote(f1->e, &force), DW_OK);
  node_open(f2); /* its settings name the old primary, which is gone */
  await_follower(f2);
  node_put(f1, "after", "1");
  await_same(f1, f2);
  dw_status s;
  node_status(f2, &s);
  ck_assert_uint_eq(s.bootstraps, 0);
  node_reopen(f2); /* again, now that its log is of the new epoch */
  await_status(f2, "a follower of node 1", is_follower_of, 1);
}
END_TEST

START_TEST(an_old_primary_that_nobody_told_is_fenced_and_names_the_new_one) {
  part_with_applied_commits(20);
  node_open(p);
  await_status(p, "fenced", is_fenced, 0);
  ck_assert_int_eq(dw_put(p->e, NULL, "x", 1, "y", 1, NULL), DW_FENCED);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), f1->listen));
  dw_status s;
  node_status(p, &s);
  ck_assert_uint_eq(s.promised_node, 2);
}
END_TEST

/* The process that is killed: a node that rejoins by itself. */
static int run_node(char **argv) {
  dw_options o;
  dw_engine *e;
  dw_options_init(&o);
  o.node_id = 1;
  o.listen = argv[3];
  o.peers = argv[4];
  o.heartbeat_ms = 50;
  o.peer_timeout_ms = 1000;
  o.auto_rejoin = 1;
  o.segment_bytes = 1u << 20;
  if (dw_open(argv[2], &o, &e)) return 1;
  for (;;) pause();
}

int main(int argc, char **argv) {
  if (argc == 5 && strcmp(argv[1], "--node") == 0) return run_node(argv);
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n < 0) return 1;
  Suite *s = suite_create("replication_rejoin");
  TCase *t = tcase_create("rejoin");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 120);
  tcase_add_test(t, an_old_primary_with_commits_of_its_own_keeps_them_and_rejoins_by_itself);
  tcase_add_test(t, without_being_told_it_serves_its_old_data_and_waits);
  tcase_add_test(t, readers_keep_the_old_data_until_the_switch);
  tcase_add_test(t, an_unapplied_tail_is_kept_before_it_is_cut);
  tcase_add_test(t, a_fenced_primary_that_lost_its_tail_takes_nothing_from_its_followers);
  tcase_add_test(t, on_a_full_disk_nothing_is_replaced_and_it_tries_again);
  tcase_add_test(t, told_to_follow_nobody_it_acknowledges_nothing_even_if_it_can_not_note_that);
  tcase_add_test(t, an_old_primary_that_can_not_note_what_it_hears_acknowledges_nothing_either);
  tcase_add_test(t, whatever_step_it_stops_at_the_next_opening_ends_it_with_one_file);
  tcase_add_test(t, killed_on_the_way_it_goes_on_with_one_file);
  tcase_add_test(t, of_table_files_that_both_have_nothing_travels);
  tcase_add_test(t, a_follower_that_was_down_finds_the_new_primary);
  tcase_add_test(t, an_old_primary_that_nobody_told_is_fenced_and_names_the_new_one);
  suite_add_tcase(s, t);
  return check_main(s);
}
