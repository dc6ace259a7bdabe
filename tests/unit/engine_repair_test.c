/* The engine's side of repairs: when the scrub reads and tries again (decisions), how several peers are asked, and an
 * applier that meets damage in a running engine.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "engine/repair.h"
#include "engine/scrub.h"
#include "tests/support/check_main.h"

#define S 1000000000ull

/* ---- decisions --------------------------------------------------------------------------------------- */

START_TEST(a_pass_keeps_to_its_rate_and_never_bursts) {
  struct scrub_pace p = {.bytes_per_s = 1000000, .interval_ns = 3600 * S};
  uint64_t now = 5 * S, read = 0;
  ck_assert_uint_eq(scrub_budget(&p, now), 50000);
  scrub_began(&p, now);
  for (; now < 15 * S; now += 3000000) {
    uint64_t budget = scrub_budget(&p, now);
    if (!budget) continue;
    scrub_read(&p, budget, now);
    read += budget;
    ck_assert_uint_eq(scrub_budget(&p, now), 0);
  }
  ck_assert_uint_ge(read, 9000000);
  ck_assert_uint_le(read, 10100000);
  now += 100 * S; /* asleep: nothing is made up for */
  ck_assert_uint_eq(scrub_budget(&p, now), 50000);
  scrub_read(&p, 50000, now);
  ck_assert_uint_eq(scrub_budget(&p, now), 0);
  /* A piece that was bigger than the budget is paid for. */
  now += S;
  scrub_read(&p, 3000000, now);
  ck_assert_uint_eq(scrub_budget(&p, now + 3 * S - 1), 0);
  ck_assert_uint_gt(scrub_budget(&p, now + 3 * S), 0);
}
END_TEST

START_TEST(passes_begin_at_their_interval_or_right_away_when_one_took_longer) {
  struct scrub_pace p = {.bytes_per_s = 1000, .interval_ns = 60 * S};
  scrub_began(&p, 100 * S);
  scrub_ended(&p, 110 * S);
  ck_assert_uint_eq(scrub_budget(&p, 159 * S), 0);
  ck_assert_uint_gt(scrub_budget(&p, 160 * S), 0);
  scrub_began(&p, 160 * S);
  scrub_ended(&p, 500 * S);
  ck_assert_uint_eq(scrub_budget(&p, 500 * S), 0);
  ck_assert_uint_gt(scrub_budget(&p, 501 * S), 0);
}
END_TEST

START_TEST(a_rate_of_zero_means_never) {
  struct scrub_pace p = {.interval_ns = S};
  struct scrub_list l = {.count = 0};
  ck_assert_uint_eq(scrub_budget(&p, UINT64_MAX), 0);
  ck_assert_uint_eq(scrub_next(&p, &l), UINT64_MAX);
}
END_TEST

START_TEST(an_extreme_rate_does_not_overflow) {
  struct scrub_pace p = {.bytes_per_s = 1, .interval_ns = S};
  ck_assert_uint_eq(scrub_budget(&p, 0), 1);
  scrub_read(&p, 4ull << 30, 7 * S);
  ck_assert_uint_eq(p.next_ns, (7 + (4ull << 30)) * S);
  p.bytes_per_s = 1ull << 40;
  scrub_read(&p, 4ull << 30, 7 * S);
  ck_assert_uint_lt(p.next_ns, 8 * S);
}
END_TEST

START_TEST(what_could_not_be_repaired_comes_again_more_and_more_rarely) {
  struct scrub_pace p = {.bytes_per_s = 0};
  struct scrub_list l = {.count = 0};
  ck_assert(scrub_note(&l, 7, 10 * S));
  ck_assert(!scrub_note(&l, 7, 11 * S)); /* known */
  ck_assert(scrub_tell(&l, 7));
  ck_assert(!scrub_tell(&l, 7));
  ck_assert_uint_eq(scrub_due(&l, 10 * S), 7);
  uint64_t now = 10 * S, wait = 0;
  for (int i = 0; i < 12; i++) {
    scrub_failed(&l, 7, now);
    uint64_t at = scrub_next(&p, &l);
    ck_assert_uint_eq(scrub_due(&l, at - 1), 0);
    ck_assert_uint_eq(scrub_due(&l, at), 7);
    ck_assert(at - now >= wait);
    wait = at - now;
    now = at;
  }
  ck_assert_uint_eq(wait, SCRUB_RETRY_MAX_NS);
  scrub_settled(&l, 7);
  ck_assert_uint_eq(l.count, 0);
  ck_assert_uint_eq(scrub_due(&l, UINT64_MAX), 0);
  for (uint64_t i = 1; i <= SCRUB_BAD_MAX; i++) ck_assert(scrub_note(&l, i, now));
  ck_assert(!scrub_note(&l, 1000, now)); /* full */
  scrub_settled(&l, 30);
  ck_assert(scrub_note(&l, 1000, now));
}
END_TEST

/* ---- logs and peers ----------------------------------------------------------------------------------- */

#define BLOCKS 580
#define VALUE_BYTES 65536u

static char root[200], good_dir[256], other_dir[256], node_dir[256];
static struct hash128 cluster = {{7, 7}};
static struct wal *good, *other;
static dw_engine *e;
static struct wal_options wal_opt;

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg;
  if (getenv("DW_TEST_LOG")) fprintf(stderr, "%d %s\n", (int)level, line);
}

/* Commit i puts key "k<i>"; never known committed by what the blocks say. */
static struct wal_block *make(unsigned i, size_t bytes) {
  static uint8_t payload[VALUE_BYTES + 64];
  uint8_t body[64], *at = payload;
  char key[16];
  size_t klen = (size_t)snprintf(key, sizeof key, "\x01k%u", i), n = 0;
  body[n++] = OP_PUT;
  n += varint32_put(body + n, (uint32_t)klen);
  memcpy(body + n, key, klen);
  n += klen;
  n += varint32_put(body + n, (uint32_t)bytes);
  *at++ = 0;
  at += varint32_put(at, 1);
  at += varint32_put(at, (uint32_t)(n + bytes));
  memcpy(at, body, n);
  at += n;
  uint32_t x = i + 1;
  for (size_t k = 0; k < bytes; k++) *at++ = (uint8_t)(x = x * 1664525u + 1013904223u, x >> 24);
  struct block_header like = {
      .commit_count = 1, .need = {DW_ASYNC, DW_ACK_DURABLE, DW_DURABILITY_OS, false, 0}, .wall_ns = 1, .origin_id = 1};
  struct wal_block *b;
  ck_assert_int_eq(wal_block_create(&like, payload, (size_t)(at - payload), 0, &b), DW_OK);
  return b;
}

static void build(struct wal **w, const char *dir, unsigned blocks, size_t bytes, unsigned salt) {
  struct wal_recovery rec;
  ck_assert_int_eq(wal_open(dir, &wal_opt, &rec, w), DW_OK);
  for (unsigned i = 0; i < blocks; i++) {
    struct wal_block *b = make(i + salt, bytes);
    ck_assert_int_eq(wal_append(*w, &b, 1, 1, 0), DW_OK);
    wal_block_unref(b);
  }
}

static void setup(void) {
  snprintf(root, sizeof root, "%s/dw-engine-repair-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(root));
  snprintf(good_dir, sizeof good_dir, "%s/good", root);
  snprintf(other_dir, sizeof other_dir, "%s/other", root);
  snprintf(node_dir, sizeof node_dir, "%s/node", root);
  wal_opt = (struct wal_options){.env = env_posix(),
                                 .cluster_id = cluster,
                                 .node_id = 1,
                                 .segment_bytes = 1u << 20,
                                 .tail_cache_bytes = 65536,
                                 .base = wal_genesis(&cluster)};
  wal_opt.must_reach = wal_opt.base;
  good = other = NULL;
  e = NULL;
}

static void teardown(void) {
  if (e) engine_close(e);
  if (good) wal_close(good);
  if (other) wal_close(other);
  env_remove_tree(env_posix(), root);
}

/* Peers: what each of them answers. */
enum { PEER_GOOD, PEER_OTHER, PEER_DOWN, PEER_EMPTY };
static atomic_int peers[3];
static atomic_int asked[3];
static size_t give_at_most = 64;

static const char *name_of(void *ctx, size_t peer) {
  (void)ctx;
  static const char *const names[] = {"peer-a:1", "peer-b:1", "peer-c:1"};
  return names[peer];
}

static int fetch(void *ctx, size_t peer, const struct block_ask *ask, const atomic_bool *stop, struct wal_block ***out,
                 size_t *n) {
  (void)ctx, (void)stop;
  int kind = atomic_load(&peers[peer]);
  atomic_fetch_add(&asked[peer], 1);
  *n = 0;
  if (kind == PEER_DOWN) return dw_fail(DW_IO, "connection refused");
  *out = calloc(64, sizeof **out);
  if (kind == PEER_EMPTY) return DW_OK;
  struct wal_cursor *c;
  int rc = wal_cursor_open(kind == PEER_GOOD ? good : other, &ask->from, &c);
  if (rc) {
    free(*out);
    return rc;
  }
  while (*n < give_at_most && wal_cursor_next(c, ask->upto, &(*out)[*n]) == DW_OK) ++*n;
  wal_cursor_close(c);
  return DW_OK;
}

static void set_peers(int a, int b, int c) {
  atomic_store(&peers[0], a);
  atomic_store(&peers[1], b);
  atomic_store(&peers[2], c);
}

static struct block_source source(size_t count) {
  for (int i = 0; i < 3; i++) atomic_store(&asked[i], 0);
  return (struct block_source){.count = count, .name = name_of, .fetch = fetch};
}

static void flip(const char *dir, dw_lsn first_lsn, uint64_t seq, uint64_t off) {
  char name[WAL_SEGMENT_NAME_BYTES], path[600];
  uint8_t byte;
  segment_name(name, first_lsn, seq);
  snprintf(path, sizeof path, "%s/%s", dir, name);
  int fd = open(path, O_RDWR);
  ck_assert_msg(fd >= 0, "%s", path);
  ck_assert_int_eq(pread(fd, &byte, 1, (off_t)off), 1);
  byte ^= 4;
  ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)off), 1);
  close(fd);
}

/* ---- asking several peers ----------------------------------------------------------------------------- */

/* A copy of `good` in node_dir with three damaged blocks in its second segment. */
static struct wal_damage damaged_copy(void) {
  char cmd[900];
  struct wal_segment_info seg[64];
  struct wal_damage *list, d;
  size_t n;
  ck_assert_int_eq(wal_sync(good, NULL), DW_OK);
  ck_assert_uint_gt(wal_segments(good, seg, 64), 3);
  snprintf(cmd, sizeof cmd, "cp -a '%s' '%s'", good_dir, node_dir);
  ck_assert_int_eq(system(cmd), 0);
  for (int i = 0; i < 3; i++) flip(node_dir, seg[1].first_lsn, 2, 4096 + 100000 + 300000 * (uint64_t)i);
  struct wal_find f = {.env = env_posix(), .dir = node_dir};
  ck_assert_int_eq(wal_list_damage(&f, &list, &n), DW_OK);
  ck_assert_uint_eq(n, 1);
  d = list[0];
  free(list);
  ck_assert_uint_eq(d.holes, 3);
  return d;
}

static int repair(const struct wal_damage *d, struct block_source *s, struct repair_result *r) {
  struct repair_run run = {
      .env = env_posix(), .dir = node_dir, .cluster_id = cluster, .node_id = 5, .source = s, .deadline_ns = UINT64_MAX};
  return repair_segment(&run, d, NULL, r);
}

START_TEST(peers_are_asked_in_turns_and_the_useless_ones_once) {
  build(&good, good_dir, 100, VALUE_BYTES, 0);
  struct wal_damage d = damaged_copy();
  struct block_source s = source(3);
  struct repair_result r;
  set_peers(PEER_DOWN, PEER_EMPTY, PEER_DOWN);
  ck_assert_int_ne(repair(&d, &s, &r), DW_OK);
  ck_assert_msg(strstr(r.why, "peer-a:1: connection refused") && strstr(r.why, "peer-b:1") && strstr(r.why, "peer-c:1"),
                "%s", r.why);
  ck_assert_int_eq(asked[0], 1);
  ck_assert_int_eq(asked[2], 1);
  peers[2] = PEER_GOOD;
  s = source(3);
  ck_assert_int_eq(repair(&d, &s, &r), DW_OK);
  ck_assert_uint_eq(r.blocks, 3);
  ck_assert_str_eq(r.from, "peer-c:1");
  ck_assert_int_eq(asked[0], 1);
  struct wal_find f = {.env = env_posix(), .dir = node_dir};
  struct wal_damage *list;
  size_t n;
  ck_assert_int_eq(wal_list_damage(&f, &list, &n), DW_OK);
  ck_assert_uint_eq(n, 0);
  free(list);
}
END_TEST

START_TEST(blocks_of_a_parted_peer_are_thrown_away_and_the_next_peer_fills_the_hole) {
  /* Equal up to LSN 20, then other commits: it has what follows the boundary, but it leads elsewhere. */
  build(&good, good_dir, 100, VALUE_BYTES, 0);
  struct wal_recovery rec;
  ck_assert_int_eq(wal_open(other_dir, &wal_opt, &rec, &other), DW_OK);
  struct wal_cursor *c;
  struct wal_block *b;
  struct wal_segment_info seg[64];
  wal_segments(good, seg, 64);
  ck_assert_int_eq(wal_cursor_open(good, &wal_opt.base, &c), DW_OK);
  dw_lsn shared = seg[1].first_lsn; /* one block of the second segment */
  while (wal_cursor_next(c, shared, &b) == DW_OK) {
    ck_assert_int_eq(wal_append_sealed(other, &b, 1), DW_OK);
    wal_block_unref(b);
  }
  wal_cursor_close(c);
  for (unsigned i = 0; i < 60; i++) {
    b = make(5000 + i, VALUE_BYTES);
    ck_assert_int_eq(wal_append(other, &b, 1, 1, 0), DW_OK);
    wal_block_unref(b);
  }
  struct wal_damage d = damaged_copy();
  struct block_source s = source(2);
  struct repair_result r;
  set_peers(PEER_OTHER, PEER_GOOD, PEER_DOWN);
  ck_assert_int_eq(repair(&d, &s, &r), DW_OK);
  ck_assert_str_eq(r.from, "peer-b:1");
  peers[1] = PEER_DOWN;
  char cmd[900];
  snprintf(cmd, sizeof cmd, "rm -rf '%s'", node_dir);
  ck_assert_int_eq(system(cmd), 0);
  d = damaged_copy();
  s = source(2);
  ck_assert_int_ne(repair(&d, &s, &r), DW_OK);
  ck_assert_msg(strstr(r.why, "peer-a:1") != NULL, "%s", r.why);
}
END_TEST

START_TEST(a_repair_gives_up_when_its_time_is_over_or_when_it_is_told_to) {
  build(&good, good_dir, 100, VALUE_BYTES, 0);
  struct wal_damage d = damaged_copy();
  struct block_source s = source(1);
  struct repair_result r;
  atomic_bool stop = true;
  peers[0] = PEER_GOOD;
  struct repair_run run = {.env = env_posix(),
                           .dir = node_dir,
                           .cluster_id = cluster,
                           .node_id = 5,
                           .source = &s,
                           .stop = &stop,
                           .deadline_ns = UINT64_MAX};
  ck_assert_int_ne(repair_segment(&run, &d, NULL, &r), DW_OK);
  run.stop = NULL;
  run.deadline_ns = 1;
  ck_assert_int_ne(repair_segment(&run, &d, NULL, &r), DW_OK);
  ck_assert_int_eq(asked[0], 0);
  run.deadline_ns = UINT64_MAX;
  ck_assert_int_eq(repair_segment(&run, &d, NULL, &r), DW_OK);
}
END_TEST

/* ---- a running engine ------------------------------------------------------------------------------------ */

static struct block_source engine_source;

/* A follower that holds everything and has applied nothing: its oldest blocks have left memory. */
static void follower_behind(size_t peers_n) {
  dw_options o;
  dw_options_init(&o);
  o.role = DW_FOLLOWER;
  o.segment_bytes = 1u << 20;
  o.scrub_bytes_per_s = 0;
  o.log = quiet;
  engine_source = source(peers_n);
  struct engine_config config = {.threads = true, .store = store_mem(), .source = &engine_source};
  build(&good, good_dir, BLOCKS, VALUE_BYTES, 0);
  ck_assert_int_eq(engine_open(node_dir, &o, &config, &e), DW_OK);
  ck_assert_int_eq(engine_adopt_cluster(e, &cluster), DW_OK);
  struct wal_cursor *c;
  struct wal_block *b;
  ck_assert_int_eq(wal_cursor_open(good, &wal_opt.base, &c), DW_OK);
  while (wal_cursor_next(c, UINT64_MAX, &b) == DW_OK) {
    ck_assert_int_eq(engine_replica_append(e, &b, 1), DW_OK);
    wal_block_unref(b);
  }
  wal_cursor_close(c);
  struct wal_segment_info seg[64];
  ck_assert_uint_gt(wal_segments(engine_wal(e), seg, 64), 36);
  char dir[300];
  snprintf(dir, sizeof dir, "%s/wal-000001", node_dir);
  flip(dir, seg[2].first_lsn, 3, 4096 + 100000);
}

static void status(dw_status *s) {
  ck_assert_int_eq(dw_status_get(e, s), DW_OK);
}

static void pause_ms(void) {
  nanosleep(&(struct timespec){0, 1000000}, NULL);
}

START_TEST(an_applier_that_meets_damage_waits_for_the_repair_and_goes_on) {
  static dw_status s;
  follower_behind(1);
  peers[0] = PEER_DOWN;
  engine_replica_commit(e, BLOCKS);
  for (int i = 0; i < 20000; i++, pause_ms()) {
    status(&s);
    if (s.damage_now == 1 && s.scrub_result[0]) break;
  }
  ck_assert_uint_eq(s.damage_now, 1);
  ck_assert_uint_gt(s.applied_lsn, 0);
  ck_assert_uint_lt(s.applied_lsn, 60);
  ck_assert_int_eq(s.failed, 1);
  ck_assert_ptr_nonnull(strstr(s.error, "LSN"));
  peers[0] = PEER_GOOD;
  for (int i = 0; i < 20000 && s.applied_lsn < BLOCKS; i++, pause_ms()) status(&s);
  ck_assert_uint_eq(s.applied_lsn, BLOCKS);
  status(&s);
  ck_assert_int_eq(s.failed, 0);
  ck_assert_str_eq(s.error, "");
  ck_assert_uint_eq(s.damage_found, 1);
  ck_assert_uint_eq(s.damage_repaired, 1);
  ck_assert_uint_eq(s.repaired_blocks, 1);
  dw_value v;
  ck_assert_int_eq(dw_get(e, NULL, "k33", 3, &v), DW_OK);
  ck_assert_uint_eq(v.size, VALUE_BYTES);
  dw_value_release(&v);
}
END_TEST

START_TEST(without_peers_an_applier_that_meets_damage_stops_the_engine_as_ever) {
  static dw_status s;
  follower_behind(0);
  engine_replica_commit(e, BLOCKS);
  for (int i = 0; i < 20000; i++, pause_ms()) {
    status(&s);
    if (s.failed) break;
  }
  ck_assert_int_eq(s.failed, 1);
  ck_assert_uint_lt(s.applied_lsn, 60);
  ck_assert_uint_eq(s.damage_repaired, 0);
}
END_TEST

int main(void) {
  Suite *s = suite_create("repair");
  TCase *t = tcase_create("repair");
  tcase_set_timeout(t, 120);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, a_pass_keeps_to_its_rate_and_never_bursts);
  tcase_add_test(t, passes_begin_at_their_interval_or_right_away_when_one_took_longer);
  tcase_add_test(t, a_rate_of_zero_means_never);
  tcase_add_test(t, an_extreme_rate_does_not_overflow);
  tcase_add_test(t, what_could_not_be_repaired_comes_again_more_and_more_rarely);
  tcase_add_test(t, peers_are_asked_in_turns_and_the_useless_ones_once);
  tcase_add_test(t, blocks_of_a_parted_peer_are_thrown_away_and_the_next_peer_fills_the_hole);
  tcase_add_test(t, a_repair_gives_up_when_its_time_is_over_or_when_it_is_told_to);
  tcase_add_test(t, an_applier_that_meets_damage_waits_for_the_repair_and_goes_on);
  tcase_add_test(t, without_peers_an_applier_that_meets_damage_stops_the_engine_as_ever);
  suite_add_tcase(s, t);
  return check_main(s);
}
