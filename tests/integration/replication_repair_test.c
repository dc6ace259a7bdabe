/* Bytes rot in the logs of real nodes: at start and while they run, followers and primaries are repaired from each
 * other, and only from those that really have the same history.
 */
#include <arpa/inet.h>
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "replication/fetcher.h"
#include "tests/support/cluster.h"
#include "wal/base/bytes.h"
#include "wal/base/env.h"
#include "wal/wal.h"

static struct cluster c;
static struct cluster_node *p, *f1, *f2;
static char repair_from[200];

/* Everybody listens, so that everybody keeps log and can be asked. Small segments, so that there are many. */
static void setup(void) {
  cluster_init(&c);
  p = &c.node[0];
  f1 = &c.node[1];
  f2 = &c.node[2];
  for (int i = 0; i < 3; i++) {
    c.node[i].opt.listen = c.node[i].listen;
    c.node[i].opt.segment_bytes = 65536;
    c.node[i].opt.scrub_bytes_per_s = 0;
    c.node[i].opt.scrub_interval_ms = 20;
    c.node[i].opt.peer_timeout_ms = 1500;
  }
}
static void teardown(void) {
  cluster_free(&c);
}

static void may_ask(struct cluster_node *n, const struct cluster_node *peer) {
  snprintf(repair_from, sizeof repair_from, "127.0.0.1:%u", peer->port);
  n->opt.repair_from = repair_from;
}

/* Where it will listen: known before it is open. */
static uint16_t listen_port(const struct cluster_node *n) {
  return (uint16_t)atoi(strrchr(n->listen, ':') + 1);
}

/* In blocks of up to twenty commits, with the followers close behind: what arrives at once shares a segment. */
static void fill(struct cluster_node *n, unsigned from, unsigned count, size_t bytes) {
  for (unsigned i = 0; i < count; i += 20) {
    dw_lsn lsn = node_fill(n, from + i, 20, bytes);
    if (i % 100 == 80 && f1->e) await_applied(f1, lsn);
    if (i % 100 == 80 && f2->e) await_applied(f2, lsn);
  }
}

static void start(void) {
  node_open(p);
  node_open(f1);
  fill(p, 0, 1500, 400);
  await_same(p, f1);
}

/* ---- files ---------------------------------------------------------------------------------------- */

static void log_dir(const struct cluster_node *n, char out[500]) {
  snprintf(out, 500, "%s/wal-000001", n->dir);
}

static int by_name(const struct dirent **a, const struct dirent **b) {
  return strcmp((*a)->d_name, (*b)->d_name);
}
static int is_segment(const struct dirent *d) {
  return strstr(d->d_name, ".wal") != NULL;
}

/* Blocks of a segment, so many at most. How big they are depends on what met in a group. */
static unsigned blocks_in(const char *path, unsigned most) {
  uint8_t head[WAL_BLOCK_HEADER_BYTES];
  struct block_header h;
  struct mark_frame m;
  unsigned blocks = 0;
  int fd = open(path, O_RDONLY);
  ck_assert_int_ge(fd, 0);
  for (uint64_t at = WAL_SEGMENT_HEADER_BYTES; blocks < most;) {
    if (pread(fd, head, sizeof head, (off_t)at) != sizeof head) break;
    bool mark = mark_decode(head, &m);
    if (!mark && block_header_decode(head, &h)) break;
    at += mark ? WAL_MARK_BYTES : block_total_bytes(&h);
    blocks += !mark;
  }
  close(fd);
  return blocks;
}

/* Path of the nth segment, -1: the newest of those with blocks: the last commit may just have filled one. */
static void segment_path(const struct cluster_node *n, int nth, char out[900]) {
  char dir[500];
  struct dirent **all;
  log_dir(n, dir);
  int count = scandir(dir, &all, is_segment, by_name);
  ck_assert_int_gt(count, 3);
  int used = count;
  snprintf(out, 900, "%s/%s", dir, all[used - 1]->d_name);
  if (!blocks_in(out, 1)) used--;
  int pick = nth < 0 ? used + nth : nth;
  ck_assert_int_lt(pick, used);
  snprintf(out, 900, "%s/%s", dir, all[pick]->d_name);
  for (int i = 0; i < count; i++) free(all[i]);
  free(all);
}

static void flip(const char *path, uint64_t off) {
  uint8_t byte;
  int fd = open(path, O_RDWR);
  ck_assert_int_ge(fd, 0);
  ck_assert_int_eq(pread(fd, &byte, 1, (off_t)off), 1);
  byte ^= 0x20;
  ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)off), 1);
  close(fd);
}

/* A byte of the block that stands at `off` or behind it: a mark may stand anywhere, and needs no peer. Returns where
 * that block ends. */
static uint64_t flip_block(const char *path, uint64_t off) {
  uint8_t head[WAL_BLOCK_HEADER_BYTES];
  struct block_header h;
  struct mark_frame m;
  uint64_t at = WAL_SEGMENT_HEADER_BYTES;
  int fd = open(path, O_RDONLY);
  ck_assert_int_ge(fd, 0);
  for (;;) {
    ck_assert_int_eq(pread(fd, head, sizeof head, (off_t)at), sizeof head);
    if (mark_decode(head, &m)) {
      at += WAL_MARK_BYTES;
      continue;
    }
    ck_assert_msg(block_header_decode(head, &h) == DW_OK, "%s: no block at offset %llu", path, (unsigned long long)at);
    if (at + block_total_bytes(&h) > off) break;
    at += block_total_bytes(&h);
  }
  close(fd);
  flip(path, at + WAL_BLOCK_HEADER_BYTES + 2);
  return at + block_total_bytes(&h);
}

static void copy_dir(const char *from, const char *to) {
  char cmd[2200];
  snprintf(cmd, sizeof cmd, "cp -a '%s' '%s'", from, to);
  ck_assert_int_eq(system(cmd), 0);
}

/* The logs; opening alone changes files of the store. */
static bool same_log(const char *a, const char *b) {
  char cmd[2200];
  snprintf(cmd, sizeof cmd, "diff -r '%s/wal-000001' '%s/wal-000001' >/dev/null", a, b);
  return system(cmd) == 0;
}

/* All blocks of a log, one after the other. */
static int add_block(void *arg, const char *path, uint64_t off, const struct wal_block *b) {
  (void)path, (void)off;
  return buf_append(arg, b->bytes, block_total_bytes(&b->h));
}
static struct hash128 log_hash(const struct cluster_node *n, uint64_t *blocks) {
  char dir[500];
  struct buf b = {0};
  struct wal_inspect how = {.on_block = add_block, .arg = &b};
  struct wal_inspect_report r;
  log_dir(n, dir);
  int rc = wal_inspect(env_posix(), dir, &how, &r);
  ck_assert_msg(rc == DW_OK, "node %d: %s", n->number, r.problem);
  struct hash128 h = hash128(b.data, b.len);
  *blocks = r.blocks;
  buf_free(&b);
  return h;
}
static void assert_equal_logs(const struct cluster_node *a, const struct cluster_node *b) {
  uint64_t na, nb;
  struct hash128 ha = log_hash(a, &na), hb = log_hash(b, &nb);
  ck_assert_uint_eq(na, nb);
  ck_assert(hash128_eq(&ha, &hb));
}

static bool repaired(struct cluster_node *n, const dw_status *s, uint64_t count) {
  (void)n;
  return s->damage_repaired >= count && s->damage_now == 0;
}

/* ---- at start ---------------------------------------------------------------------------------------- */

START_TEST(a_follower_repairs_blocks_and_headers_from_its_primary_before_it_opens) {
  char path[900];
  start();
  for (unsigned i = 1500; segment_path(f1, -1, path), blocks_in(path, 2) < 2; i += 20) {
    fill(p, i, 20, 400);
    await_same(p, f1);
  }
  node_close(f1);
  flip_block(path, flip_block(path, 4096)); /* two blocks of the newest segment */
  segment_path(f1, 2, path);
  flip(path, 40); /* a header */
  node_open(f1);
  dw_status s;
  node_status(f1, &s);
  ck_assert_uint_eq(s.damage_found, 2);
  ck_assert_uint_eq(s.damage_repaired, 2);
  ck_assert_uint_ge(s.repaired_blocks, 2);
  ck_assert(node_logged(f1, "put back from 127.0.0.1:"));
  fill(p, 100, 200, 400);
  await_same(p, f1);
  assert_equal_data(p, f1);
  assert_equal_logs(p, f1);
}
END_TEST

START_TEST(a_primary_repairs_its_log_from_a_follower_before_it_opens) {
  char path[900], before[600];
  start();
  node_close(p);
  node_close(f1);
  segment_path(p, -1, path);
  flip_block(path, 4096 + 300);
  snprintf(before, sizeof before, "%s/before", c.root);
  copy_dir(p->dir, before);
  /* Nobody is named: refused, and nothing has changed. */
  ck_assert_int_eq(node_try_open(p), DW_CORRUPT);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "no peer is named"));
  ck_assert(same_log(p->dir, before));
  /* The follower is not there: the same, and it is said. */
  may_ask(p, f1);
  ck_assert_int_eq(node_try_open(p), DW_CORRUPT);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "Connection refused"));
  ck_assert_ptr_nonnull(strstr(dw_last_error(), "offset"));
  ck_assert(same_log(p->dir, before));
  node_open(f1);
  node_open(p);
  await_streaming(p, 1);
  fill(p, 0, 100, 400);
  await_same(p, f1);
  assert_equal_data(p, f1);
  assert_equal_logs(p, f1);
}
END_TEST

START_TEST(a_peer_that_has_trimmed_the_blocks_is_of_no_use_and_the_directory_stays_as_it_is) {
  char path[900], before[600];
  p->opt.retain_bytes = 0;
  p->opt.memtable_bytes = 1u << 20;
  start();
  node_close(f1);
  fill(p, 0, 4000, 1000);
  for (dw_status s; node_status(p, &s), s.oldest_lsn < 1501;) fill(p, 0, 100, 1000);
  segment_path(f1, -1, path);
  flip_block(path, 4096 + 300);
  snprintf(before, sizeof before, "%s/before", c.root);
  copy_dir(f1->dir, before);
  ck_assert_int_eq(node_try_open(f1), DW_CORRUPT);
  ck_assert_msg(strstr(dw_last_error(), "trimmed") != NULL, "%s", dw_last_error());
  ck_assert(same_log(f1->dir, before));
}
END_TEST

START_TEST(a_peer_of_another_history_puts_nothing_back) {
  char path[900], before[600];
  start();
  /* The follower's log as it is, and a primary that lost its end and went on differently. */
  node_close(f1);
  node_close(p);
  char mine[600];
  snprintf(mine, sizeof mine, "%s/mine", c.root);
  copy_dir(p->dir, mine);
  node_open(p);
  node_open(f1);
  fill(p, 0, 300, 400);
  await_same(p, f1);
  node_close(f1);
  node_close(p);
  node_wipe(p);
  copy_dir(mine, p->dir);
  node_open(p);
  fill(p, 5000, 300, 400);
  segment_path(f1, -1, path);
  flip_block(path, 4096 + 300);
  snprintf(before, sizeof before, "%s/before", c.root);
  copy_dir(f1->dir, before);
  ck_assert_int_eq(node_try_open(f1), DW_CORRUPT);
  ck_assert_msg(strstr(dw_last_error(), "another chain hash") || strstr(dw_last_error(), "beyond the log's end"), "%s",
                dw_last_error());
  ck_assert(same_log(f1->dir, before));
}
END_TEST

START_TEST(a_foreign_cluster_gives_nothing) {
  struct cluster_node *other = &c.node[3];
  char path[900];
  start();
  other->opt.role = DW_PRIMARY;
  other->opt.listen = other->listen;
  node_open(other);
  node_close(p);
  segment_path(p, -1, path);
  flip_block(path, 4096 + 300);
  may_ask(p, other);
  ck_assert_int_eq(node_try_open(p), DW_CORRUPT);
  ck_assert_msg(strstr(dw_last_error(), "cluster") != NULL, "%s", dw_last_error());
}
END_TEST

START_TEST(the_second_peer_is_asked_when_the_first_cannot_help) {
  char path[900];
  node_open(p);
  node_open(f1);
  node_open(f2);
  fill(p, 0, 1500, 400);
  await_same(p, f1);
  await_same(p, f2);
  node_close(p);
  node_close(f1);
  segment_path(p, -1, path);
  flip_block(path, 4096 + 300);
  snprintf(repair_from, sizeof repair_from, "127.0.0.1:%u,127.0.0.1:%u", f1->port, f2->port);
  p->opt.repair_from = repair_from;
  node_open(p);
  node_open(f1);
  await_streaming(p, 2);
  assert_equal_data(p, f2);
}
END_TEST

/* ---- who asks, as bytes on a socket ------------------------------------------------------------------------ */

struct asker {
  int fd;
  struct fetcher *f;
};

static void ask_connect(struct asker *a, const dw_status *s, uint32_t max_bytes) {
  struct fetcher_config cfg = {.node_id = 90, .max_bytes = max_bytes};
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(p->port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  memcpy(cfg.cluster_id.b, s->cluster_id, 16);
  ck_assert_int_eq(fetcher_create(&cfg, &a->f), DW_OK);
  a->fd = socket(AF_INET, SOCK_STREAM, 0);
  ck_assert_int_eq(connect(a->fd, (struct sockaddr *)&at, sizeof at), 0);
}

static void ask_end(struct asker *a) {
  close(a->fd);
  fetcher_destroy(a->f);
}

/* One question from the log's beginning, its answer. */
static enum fetch_state ask(struct asker *a, const struct wal_pos *from, dw_lsn upto) {
  struct iovec iov[8];
  uint8_t in[4096];
  fetcher_ask(a->f, from, upto);
  for (int n; (n = fetcher_output(a->f, iov, 8)) > 0;) {
    ssize_t put = writev(a->fd, iov, n);
    ck_assert_int_gt(put, 0);
    fetcher_drained(a->f, (size_t)put);
  }
  while (fetcher_state(a->f) == FETCH_ASKED) {
    ssize_t got = recv(a->fd, in, sizeof in, 0);
    if (got > 0)
      fetcher_input(a->f, in, (size_t)got);
    else
      fetcher_eof(a->f, "closed");
  }
  return fetcher_state(a->f);
}

/* Blocks and bytes of the answer; their end becomes *pos. */
static size_t take(struct asker *a, struct wal_pos *pos, size_t *bytes) {
  struct wal_block **blocks;
  size_t n;
  fetcher_take(a->f, &blocks, &n);
  *bytes = 0;
  for (size_t i = 0; i < n; i++) {
    *bytes += block_total_bytes(&blocks[i]->h);
    *pos = (struct wal_pos){block_last_lsn(&blocks[i]->h), blocks[i]->h.epoch, blocks[i]->h.chain};
    wal_block_unref(blocks[i]);
  }
  free(blocks);
  return n;
}

START_TEST(an_answer_keeps_to_its_bound_and_a_third_asker_at_once_is_refused) {
  struct asker a, b, more;
  struct hash128 cluster;
  dw_status s;
  size_t bytes, most = 0, largest = 0;
  const char *why;
  node_open(p);
  for (unsigned i = 0; i < 60; i++) node_fill(p, i, 1, 50);
  node_status(p, &s);
  memcpy(cluster.b, s.cluster_id, 16);
  struct wal_pos pos = wal_genesis(&cluster);
  ask_connect(&a, &s, 1);
  ask_connect(&b, &s, 1001);
  ck_assert_int_eq(ask(&a, &pos, s.written_lsn), FETCH_READY); /* one block in any case */
  ck_assert_uint_eq(take(&a, &pos, &bytes), 1);
  while (pos.lsn < s.written_lsn) {
    ck_assert_int_eq(ask(&b, &pos, s.written_lsn), FETCH_READY);
    size_t n = take(&b, &pos, &bytes);
    ck_assert_uint_ge(n, 1);
    ck_assert_msg(bytes <= 1001 || n == 1, "%zu blocks of %zu bytes", n, bytes);
    if (n > most) most = n;
    if (bytes > largest) largest = bytes;
  }
  ck_assert_uint_gt(most, 1);
  ck_assert_uint_le(largest, 1001);

  ask_connect(&more, &s, 0);
  pos = wal_genesis(&cluster);
  ck_assert_int_eq(ask(&more, &pos, s.written_lsn), FETCH_FAILED);
  ck_assert_int_eq(fetcher_error(more.f, &why), DW_STALE);
  ck_assert_msg(strstr(why, "2 nodes repair their logs from here already") != NULL, "%s", why);
  ask_end(&more);
  ask_end(&a); /* makes room, as soon as its end is seen */
  bool ready = false;
  for (int i = 0; !ready && i < 3000; i++) {
    ask_connect(&more, &s, 0);
    pos = wal_genesis(&cluster);
    ready = ask(&more, &pos, s.written_lsn) == FETCH_READY;
    if (ready) ck_assert_uint_gt(take(&more, &pos, &bytes), 1);
    ask_end(&more);
  }
  ck_assert(ready);
  ask_end(&b);
}
END_TEST

/* ---- running ------------------------------------------------------------------------------------------ */

START_TEST(a_running_follower_finds_and_repairs_rot_in_old_segments) {
  char path[900];
  f1->opt.scrub_bytes_per_s = 1u << 30;
  start();
  for (int i = 1; i <= 3; i++) {
    segment_path(f1, i, path);
    flip_block(path, 4096 + (uint64_t)i * 3000);
  }
  segment_path(f1, 4, path);
  flip(path, 8); /* a header */
  await_status(f1, "four repaired segments", repaired, 4);
  dw_status s;
  node_status(f1, &s);
  ck_assert_uint_eq(s.damage_found, 4);
  ck_assert_uint_eq(s.repaired_blocks, 3);
  ck_assert_uint_ge(s.scrub_total_bytes, 5 * 65536);
  ck_assert_int_eq(s.failed, 0);
  assert_equal_logs(p, f1);
  fill(p, 0, 100, 400);
  await_same(p, f1);
  node_reopen(f1);
  await_same(p, f1);
  assert_equal_data(p, f1);
}
END_TEST

START_TEST(a_running_primary_is_repaired_from_a_follower_while_it_writes) {
  char path[900];
  f1->port = listen_port(f1);
  may_ask(p, f1);
  p->opt.scrub_bytes_per_s = 1u << 30;
  start();
  segment_path(p, 3, path);
  flip_block(path, 4096 + 300);
  flip_block(path, 4096 + 30000);
  fill(p, 0, 500, 400);
  await_status(p, "a repaired segment", repaired, 1);
  fill(p, 0, 100, 400);
  await_same(p, f1);
  assert_equal_logs(p, f1);
}
END_TEST

START_TEST(a_follower_that_needs_a_damaged_segment_gets_it_after_the_repair) {
  char path[900];
  f1->port = listen_port(f1);
  may_ask(p, f1);
  start();
  node_reopen(p); /* so that nothing is left in memory */
  segment_path(p, 0, path);
  flip_block(path, 4096 + 20000);
  node_open(f2); /* reads the primary's log from the beginning; nothing scrubs it */
  await_same(p, f2);
  dw_status s;
  node_status(p, &s);
  ck_assert_uint_eq(s.damage_repaired, 1);
  ck_assert_uint_eq(s.bootstraps, 0);
  assert_equal_data(p, f2);
  assert_equal_logs(p, f2);
}
END_TEST

START_TEST(what_cannot_be_repaired_now_is_tried_again_until_a_peer_is_back) {
  char path[900];
  f1->opt.scrub_bytes_per_s = 1u << 30;
  start();
  node_close(p);
  segment_path(f1, 1, path);
  flip_block(path, 4096 + 300);
  await_log(f1, "can't be repaired, will be tried again");
  dw_status s;
  node_status(f1, &s);
  ck_assert_uint_eq(s.damage_now, 1);
  ck_assert_uint_eq(s.damage_repaired, 0);
  ck_assert_ptr_nonnull(strstr(s.scrub_result, "can't be repaired"));
  node_open(p);
  await_status(f1, "a repaired segment", repaired, 1);
  await_same(p, f1);
  assert_equal_data(p, f1);
}
END_TEST

int main(void) {
  Suite *s = suite_create("repair");
  TCase *t = tcase_create("repair");
  tcase_set_timeout(t, 120);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, a_follower_repairs_blocks_and_headers_from_its_primary_before_it_opens);
  tcase_add_test(t, a_primary_repairs_its_log_from_a_follower_before_it_opens);
  tcase_add_test(t, a_peer_that_has_trimmed_the_blocks_is_of_no_use_and_the_directory_stays_as_it_is);
  tcase_add_test(t, a_peer_of_another_history_puts_nothing_back);
  tcase_add_test(t, a_foreign_cluster_gives_nothing);
  tcase_add_test(t, the_second_peer_is_asked_when_the_first_cannot_help);
  tcase_add_test(t, an_answer_keeps_to_its_bound_and_a_third_asker_at_once_is_refused);
  tcase_add_test(t, a_running_follower_finds_and_repairs_rot_in_old_segments);
  tcase_add_test(t, a_running_primary_is_repaired_from_a_follower_while_it_writes);
  tcase_add_test(t, a_follower_that_needs_a_damaged_segment_gets_it_after_the_repair);
  tcase_add_test(t, what_cannot_be_repaired_now_is_tried_again_until_a_peer_is_back);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? 1 : 0;
}
