/* Bootstrap over the wire: late followers, broken and resumed transfers, retention. */
#include <arpa/inet.h>
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "replication/node.h"
#include "tests/support/cluster.h"
#include "tests/support/proxy.h"
#include "wal/base/env.h"

static struct cluster c;
static struct cluster_node *p, *f1, *f2;
static struct proxy *proxy;

/* A primary that keeps next to no log for absent followers and flushes its store often. */
static void setup(void) {
  cluster_init(&c);
  p = &c.node[0];
  f1 = &c.node[1];
  f2 = &c.node[2];
  p->opt.segment_bytes = 65536;
  p->opt.retain_bytes = 65536;
  p->opt.memtable_bytes = 65536;
  p->opt.zstd_level = 0; /* how well groups compress depends on their size, and so how long the log gets */
}
static void teardown(void) {
  proxy_stop(proxy);
  proxy = NULL;
  cluster_free(&c);
}

static bool is_trimmed(struct cluster_node *n, const dw_status *s, uint64_t lsn) {
  (void)n;
  return s->oldest_lsn > lsn;
}

/* Writes on until the primary's log has lost LSN `lsn`: how much that takes depends on how writes were grouped, since
 * the store is asked to flush by the compressed bytes that wait in the log. Returns the next free number. */
static unsigned write_until_trimmed(unsigned from, dw_lsn lsn) {
  dw_status s;
  uint64_t until = now_ms() + AWAIT_MS;
  do {
    node_fill(p, from, 500, 600);
    from += 500;
    node_status(p, &s);
  } while (s.oldest_lsn <= lsn && now_ms() < until);
  await_status(p, "the log trimmed", is_trimmed, lsn);
  return from;
}

static unsigned fill_and_trim(unsigned from, dw_lsn lsn) {
  node_fill(p, from, 3000, 300);
  return write_until_trimmed(from + 3000, lsn);
}

static void follow_through_proxy(struct cluster_node *f) {
  proxy = proxy_start(p->port);
  node_follow_port(f, proxy_port(proxy));
}

static bool has_bootstraps(struct cluster_node *n, const dw_status *s, uint64_t want) {
  (void)n;
  return s->bootstraps >= want;
}

/* As the node reports once it has noticed at least `want`: its data may be there a moment before. */
static uint32_t bootstraps(struct cluster_node *n, uint32_t want) {
  dw_status s;
  await_status(n, "bootstraps counted", has_bootstraps, want);
  node_status(n, &s);
  return s.bootstraps;
}

START_TEST(a_late_follower_gets_a_checkpoint_and_then_the_log) {
  node_open(p);
  unsigned next = fill_and_trim(0, 1);
  node_open(f1);
  await_same(p, f1);
  assert_equal_data(p, f1);
  ck_assert_uint_eq(bootstraps(f1, 1), 1);
  ck_assert_uint_eq(bootstraps(p, 1), 1);
  node_fill(p, next, 200, 100);
  await_same(p, f1);
  assert_equal_data(p, f1);
  ck_assert(node_logged(f1, "bootstrap finished"));
}
END_TEST

START_TEST(a_follower_that_was_away_too_long_gets_a_checkpoint_over_its_old_state) {
  node_open(p);
  node_open(f1);
  dw_lsn seen = node_fill(p, 0, 100, 100);
  await_applied(f1, seen);
  node_close(f1);
  await_streaming(p, 0);
  fill_and_trim(50, seen + 1);
  node_open(f1);
  await_same(p, f1);
  assert_equal_data(p, f1);
  ck_assert_uint_eq(bootstraps(f1, 1), 1);
}
END_TEST

START_TEST(a_bootstrapped_follower_restarts_from_its_new_state) {
  node_open(p);
  unsigned next = fill_and_trim(0, 1);
  node_open(f1);
  await_same(p, f1);
  node_reopen(f1);
  node_fill(p, next, 100, 100);
  await_same(p, f1);
  assert_equal_data(p, f1);
  ck_assert_uint_eq(bootstraps(f1, 0), 0); /* since this opening */
}
END_TEST

START_TEST(a_follower_within_retention_just_continues) {
  p->opt.retain_bytes = 64u << 20;
  node_open(p);
  node_open(f1);
  await_applied(f1, node_fill(p, 0, 100, 100));
  node_close(f1);
  node_fill(p, 100, 3000, 300);
  node_open(f1);
  await_same(p, f1);
  assert_equal_data(p, f1);
  ck_assert_uint_eq(bootstraps(f1, 0), 0);
}
END_TEST

static atomic_bool stop_writing;
static void *write_on(void *arg) {
  unsigned i = 0;
  (void)arg;
  while (!atomic_load(&stop_writing)) node_fill(p, (i += 20) % 5000, 20, 400);
  return NULL;
}

START_TEST(a_bootstrap_while_the_primary_keeps_writing_needs_one_checkpoint) {
  pthread_t t;
  atomic_store(&stop_writing, false);
  node_open(p);
  fill_and_trim(0, 1);
  ck_assert_int_eq(pthread_create(&t, NULL, write_on, NULL), 0);
  node_open(f1);
  await_primary_state(f1, DW_PEER_STREAMING);
  await_log(f1, "bootstrap finished");
  node_fill(p, 6000, 2000, 300); /* more than the log would keep for an absent one */
  atomic_store(&stop_writing, true);
  pthread_join(t, NULL);
  await_same(p, f1);
  assert_equal_data(p, f1);
  ck_assert_uint_eq(bootstraps(f1, 1), 1);
}
END_TEST

START_TEST(two_followers_bootstrap_at_once) {
  node_open(p);
  fill_and_trim(0, 1);
  node_open(f1);
  node_open(f2);
  await_same(p, f1);
  await_same(p, f2);
  assert_equal_data(p, f1);
  assert_equal_data(p, f2);
}
END_TEST

static bool is_cut(struct cluster_node *n, const dw_status *s, uint64_t unused) {
  (void)n, (void)s, (void)unused;
  return proxy_mode_now(proxy) == PROXY_CUT;
}

static bool is_persisted(struct cluster_node *n, const dw_status *s, uint64_t lsn) {
  (void)n;
  return s->persisted_lsn >= lsn;
}

/* Writes until trimming would have taken everything that stands in the log now, were it not needed. */
static void fill_more(void) {
  dw_status s;
  node_status(p, &s);
  dw_lsn end = s.written_lsn;
  node_fill(p, 0, 6000, 300);
  await_status(p, "it persisted", is_persisted, end + 1000);
  node_fill(p, 0, 1000, 300); /* lets some time pass in which trimming might happen */
  node_status(p, &s);
  ck_assert_uint_le(s.oldest_lsn, end + 1); /* kept for the bootstrap */
}

START_TEST(a_broken_bootstrap_is_resumed_not_repeated) {
  node_open(p);
  node_fill(p, 0, 6000, 600);
  write_until_trimmed(6000, 1);
  follow_through_proxy(f1);
  proxy_cut_after(proxy, 1500000);
  node_open(f1);
  await_status(f1, "the link cut in the middle", is_cut, 0);
  await_primary_state(f1, DW_PEER_DISCONNECTED);
  uint64_t first = proxy_down_bytes(proxy);
  if (_i == 1) node_close(f1); /* a restart in between changes nothing */
  if (_i == 2) fill_more();    /* nor does a burst that the log would not keep for an absent follower */
  proxy_mode(proxy, PROXY_PASS);
  if (_i == 1) node_open(f1);
  await_same(p, f1);
  assert_equal_data(p, f1);
  ck_assert(node_logged(f1, "resuming a checkpoint"));
  ck_assert(node_logged(p, "resumes the checkpoint"));
  /* What was held was not sent again. */
  uint64_t all = proxy_down_bytes(proxy), second = all - first;
  ck_assert_msg(second < all - 1000000, "%llu bytes first, %llu after the resumption", (unsigned long long)first,
                (unsigned long long)second);
  ck_assert_uint_eq(bootstraps(p, 1), 1);
}
END_TEST

START_TEST(a_bootstrap_cut_again_and_again_arrives_in_the_end) {
  node_open(p);
  node_fill(p, 0, 6000, 600);
  write_until_trimmed(6000, 1);
  follow_through_proxy(f1);
  for (unsigned i = 0; i < 5; i++) {
    proxy_cut_after(proxy, 400000);
    proxy_mode(proxy, PROXY_PASS);
    if (!f1->e) node_open(f1);
    await_status(f1, "the link cut in the middle", is_cut, 0);
  }
  proxy_mode(proxy, PROXY_PASS);
  await_same(p, f1);
  assert_equal_data(p, f1);
}
END_TEST

START_TEST(a_primary_that_restarts_during_a_bootstrap_sends_a_new_checkpoint) {
  node_open(p);
  node_fill(p, 0, 6000, 600);
  write_until_trimmed(6000, 1);
  follow_through_proxy(f1);
  proxy_cut_after(proxy, 1500000);
  node_open(f1);
  await_status(f1, "the link cut in the middle", is_cut, 0);
  node_reopen(p);
  proxy_mode(proxy, PROXY_PASS);
  await_same(p, f1);
  assert_equal_data(p, f1);
}
END_TEST

START_TEST(damaged_bytes_in_incoming_are_noticed_and_fetched_again) {
  char path[600], store[600];
  struct env *env = env_posix();
  struct env_file *file;
  node_open(p);
  node_fill(p, 0, 6000, 600);
  write_until_trimmed(6000, 1);
  follow_through_proxy(f1);
  proxy_cut_after(proxy, 1500000);
  node_open(f1);
  await_status(f1, "the link cut in the middle", is_cut, 0);
  node_close(f1);
  /* The partial file: the only one whose bytes nothing vouches for yet. */
  snprintf(store, sizeof store, "ls -S %s/incoming/store | head -1", f1->dir);
  FILE *ls = popen(store, "r");
  char name[100];
  ck_assert_ptr_nonnull(fgets(name, sizeof name, ls));
  pclose(ls);
  name[strcspn(name, "\n")] = 0;
  snprintf(path, sizeof path, "%s/incoming/store/%s", f1->dir, name);
  snprintf(store, sizeof store, "%s/incoming/STATE", f1->dir);
  ck_assert_int_eq(env->ops->open(env, path, ENV_WRITE, &file), DW_OK);
  ck_assert_int_eq(env_pwrite(env, file, 1000, "DAMAGED!", 8), DW_OK);
  env->ops->close(file);
  /* Let STATE forget its records, so that every file counts as partial. */
  ck_assert_int_eq(env->ops->open(env, store, ENV_WRITE, &file), DW_OK);
  uint64_t bytes;
  ck_assert_int_eq(env->ops->size(file, &bytes), DW_OK);
  uint8_t n[4];
  ck_assert_int_eq(env_pread_exact(env, file, store, 12, n, 4), DW_OK);
  uint64_t head = 16u + n[0] + 256u * n[1] + 65536u * n[2] + 8u;
  ck_assert_uint_le(head, bytes);
  ck_assert_int_eq(env->ops->truncate(file, head), DW_OK);
  env->ops->close(file);
  proxy_mode(proxy, PROXY_PASS);
  node_open(f1);
  await_same(p, f1);
  assert_equal_data(p, f1);
  ck_assert(node_logged(f1, "hash"));
}
END_TEST

START_TEST(readers_go_on_with_the_old_state_until_the_switch) {
  node_open(p);
  node_open(f1);
  dw_lsn seen = node_fill(p, 0, 100, 100);
  await_applied(f1, seen);
  node_close(f1);
  await_streaming(p, 0);
  fill_and_trim(0, seen + 1);
  follow_through_proxy(f1);
  proxy_cut_after(proxy, 200000);
  node_open(f1);
  await_status(f1, "the link cut in the middle", is_cut, 0);
  struct hash128 h;
  ck_assert_uint_eq(node_records(f1, &h), 100);
  dw_iter *it;
  ck_assert_int_eq(dw_iter_create(f1->e, NULL, &it), DW_OK);
  proxy_mode(proxy, PROXY_PASS);
  await_same(p, f1);
  unsigned old = 0; /* an iterator keeps its point over the switch */
  for (dw_iter_seek_first(it); dw_iter_valid(it); dw_iter_next(it)) old++;
  ck_assert_uint_eq(old, 100);
  dw_iter_destroy(it);
  assert_equal_data(p, f1);
}
END_TEST

static bool is_log_within(struct cluster_node *n, const dw_status *s, uint64_t bytes) {
  (void)n;
  return s->log_bytes <= bytes;
}

START_TEST(a_vanished_follower_does_not_keep_the_log_for_ever) {
  node_open(p);
  node_open(f1);
  dw_lsn seen = node_fill(p, 0, 100, 100);
  await_applied(f1, seen);
  node_close(f1);
  await_streaming(p, 0);
  fill_and_trim(0, seen);
  /* While writes pour in, the log holds what the store has not flushed yet, too; once they stop, that goes as well. */
  await_status(p, "the log cut down to what retention keeps", is_log_within, 2u << 20);
}
END_TEST

START_TEST(a_follower_may_be_closed_in_the_middle_of_a_bootstrap) {
  node_open(p);
  node_fill(p, 0, 6000, 600);
  write_until_trimmed(6000, 1);
  for (unsigned i = 0; i < 6; i++) {
    node_open(f1);
    if (i % 2) await_primary_state(f1, DW_PEER_BOOTSTRAPPING);
    node_close(f1);
  }
  node_open(f1);
  await_same(p, f1);
  assert_equal_data(p, f1);
}
END_TEST

/* A new follower that begins a bootstrap and is gone, as one that crashes again and again under new names. */
static void come_and_go(unsigned number) {
  struct msg_hello h = {.version_min = 1,
                        .version_max = 1,
                        .role = DW_FOLLOWER,
                        .heartbeat_ms = 500,
                        .node_id = 1000 + number,
                        .incarnation.b = {1, (uint8_t)number}};
  struct sockaddr_in at = {
      .sin_family = AF_INET, .sin_port = htons(p->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct buf out = {0};
  struct frame_reader in;
  struct frame f = {0};
  char bytes[4096];
  ck_assert_int_eq(msg_put_hello(&out, &(struct msg_sender){.node_id = h.node_id}, &h), DW_OK);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  ck_assert_int_eq(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
  ck_assert_int_eq(write(fd, out.data, out.len), (ssize_t)out.len);
  buf_free(&out);
  frame_reader_init(&in, UINT32_MAX);
  while (f.h.type != MSG_CKPT_MANIFEST) {
    ssize_t n = read(fd, bytes, sizeof bytes);
    ck_assert_int_gt(n, 0);
    ck_assert_int_eq(frame_reader_feed(&in, bytes, (size_t)n), DW_OK);
    while (f.h.type != MSG_CKPT_MANIFEST && frame_reader_next(&in, &f) == DW_OK)
      if (f.h.type == MSG_WELCOME) in.version = 1;
  }
  frame_reader_free(&in);
  close(fd);
}

static int count_one(void *arg, const char *name, bool is_dir) {
  (void)name, (void)is_dir;
  ++*(unsigned *)arg;
  return 0;
}

static unsigned checkpoints(void) {
  char path[500];
  unsigned n = 0;
  snprintf(path, sizeof path, "%s/checkpoints", p->dir);
  ck_assert_int_eq(env_posix()->ops->list(env_posix(), path, count_one, &n), DW_OK);
  return n;
}

START_TEST(followers_that_come_and_go_leave_a_bounded_number_of_checkpoints) {
  node_open(p);
  fill_and_trim(0, 1);
  for (unsigned i = 0; i < 3 * NODE_CKPT_KEPT; i++) come_and_go(i);
  await_streaming(p, 0);
  for (int i = 0; i < AWAIT_MS / 10 && checkpoints() > NODE_CKPT_KEPT; i++) usleep(10000);
  ck_assert_uint_le(checkpoints(), NODE_CKPT_KEPT);
  node_open(f1); /* who stays gets his */
  await_same(p, f1);
  assert_equal_data(p, f1);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication: bootstrap");
  TCase *t = tcase_create("bootstrap");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 120);
  tcase_add_test(t, a_late_follower_gets_a_checkpoint_and_then_the_log);
  tcase_add_test(t, a_follower_that_was_away_too_long_gets_a_checkpoint_over_its_old_state);
  tcase_add_test(t, a_bootstrapped_follower_restarts_from_its_new_state);
  tcase_add_test(t, a_follower_within_retention_just_continues);
  tcase_add_test(t, a_bootstrap_while_the_primary_keeps_writing_needs_one_checkpoint);
  tcase_add_test(t, two_followers_bootstrap_at_once);
  tcase_add_loop_test(t, a_broken_bootstrap_is_resumed_not_repeated, 0, 3);
  tcase_add_test(t, a_bootstrap_cut_again_and_again_arrives_in_the_end);
  tcase_add_test(t, a_primary_that_restarts_during_a_bootstrap_sends_a_new_checkpoint);
  tcase_add_test(t, damaged_bytes_in_incoming_are_noticed_and_fetched_again);
  tcase_add_test(t, readers_go_on_with_the_old_state_until_the_switch);
  tcase_add_test(t, a_vanished_follower_does_not_keep_the_log_for_ever);
  tcase_add_test(t, a_follower_may_be_closed_in_the_middle_of_a_bootstrap);
  tcase_add_test(t, followers_that_come_and_go_leave_a_bounded_number_of_checkpoints);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
