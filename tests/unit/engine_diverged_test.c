/* DIR/diverged: the container byte for byte, what is read of a damaged one, and when which file is written. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/dabbawal.h"
#include "engine/diverged.h"
#include "engine/identity.h"
#include "tests/support/check_main.h"
#include "tests/support/fault_env.h"
#include "wal/base/status.h"
#include "wal/wal.h"

static char dir[300], log_dir[340];
static struct env *env;
static struct wal *wal;
static struct wal_pos bounds[64]; /* bounds[i]: behind LSN i; its epoch is the one it was written in */
static struct hash128 cluster;

static void setup(void) {
  const char *tmp = getenv("TMPDIR");
  env = env_posix();
  snprintf(dir, sizeof dir, "%s/dw-diverged-XXXXXX", tmp && *tmp ? tmp : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  snprintf(log_dir, sizeof log_dir, "%s/wal", dir);
  for (int i = 0; i < 16; i++) cluster.b[i] = (uint8_t)(0x10 + i);
  struct wal_options o = {.env = env,
                          .cluster_id = cluster,
                          .node_id = 7,
                          .segment_bytes = WAL_MIN_SEGMENT_BYTES,
                          .tail_cache_bytes = 1u << 20,
                          .base = wal_genesis(&cluster),
                          .must_reach = wal_genesis(&cluster)};
  struct wal_recovery rec;
  ck_assert_int_eq(wal_open(log_dir, &o, &rec, &wal), DW_OK);
  bounds[0] = wal_genesis(&cluster);
}

static void teardown(void) {
  ck_assert_int_eq(wal_close(wal), DW_OK);
  ck_assert_int_eq(env_remove_tree(env, dir), DW_OK);
}

static void append(const struct block_header *like, const void *raw, size_t n, uint64_t epoch) {
  struct wal_block *b;
  ck_assert_int_eq(wal_block_create(like, raw, n, 0, &b), DW_OK);
  ck_assert_int_eq(wal_append(wal, &b, 1, epoch, 0), DW_OK);
  wal_block_unref(b);
}

/* One commit: a put of key "k" and a letter, value of `bytes` bytes. */
static void add(dw_lsn lsn, uint64_t epoch, size_t bytes) {
  static uint8_t raw[40000];
  size_t n = 0;
  uint8_t body[30000];
  body[n++] = OP_PUT;
  n += varint32_put(body + n, 3);
  body[n++] = NS_USER;
  body[n++] = 'k';
  body[n++] = (uint8_t)('a' + lsn % 26);
  n += varint32_put(body + n, (uint32_t)bytes);
  memset(body + n, 'v', bytes);
  n += bytes;
  size_t at = 0;
  raw[at++] = 0;
  raw[at++] = 1;
  at += varint32_put(raw + at, (uint32_t)n);
  memcpy(raw + at, body, n);
  struct block_header like = {.kind = BLOCK_COMMITS,
                              .need = {.mode = 1, .ack = 2, .durability = 2},
                              .commit_count = 1,
                              .wall_ns = 1700000000000000000ull,
                              .origin_id = 7};
  append(&like, raw, at + n, epoch);
  struct wal_stat st;
  wal_stat(wal, &st);
  bounds[lsn] = st.end;
}

static void begin_epoch(uint64_t epoch) {
  struct wal_stat st;
  uint8_t bytes[WAL_EPOCH_RECORD_BYTES];
  wal_stat(wal, &st);
  struct epoch_record r = {.epoch = epoch, .node_id = 7, .wall_ns = 1, .reason = EPOCH_OPENED, .start = st.end};
  epoch_record_encode(&r, bytes);
  struct block_header like = {.kind = BLOCK_EPOCH, .need = {.mode = 1, .ack = 2, .durability = 2}, .origin_id = 7};
  append(&like, bytes, sizeof bytes, epoch);
}

/* LSN 1 to 5 in epoch 1, 6 to 10 in epoch 3. */
static void fill(void) {
  begin_epoch(1);
  for (dw_lsn i = 1; i <= 5; i++) add(i, 1, 10);
  begin_epoch(3);
  for (dw_lsn i = 6; i <= 10; i++) add(i, 3, 10);
}

static struct diverged_header about(const struct wal_pos *parted) {
  return (struct diverged_header){.cluster_id = cluster,
                                  .incarnation = {{9}},
                                  .node_id = 7,
                                  .peer_id = 8,
                                  .parted = *parted,
                                  .reason = DIVERGED_REJOIN};
}

static int try_save(const struct wal_pos *parted, struct diverged_saved *out) {
  struct diverged_header h = about(parted);
  return diverged_save(env, dir, wal, &h, "db2:7000", out);
}

static struct diverged_saved save(const struct wal_pos *parted) {
  struct diverged_saved s;
  int rc = try_save(parted, &s);
  ck_assert_msg(rc == DW_OK, "%s", dw_last_error());
  return s;
}

static void path_of(const char *name, char path[500]) {
  snprintf(path, 500, "%s/diverged/%s", dir, name);
}

/* Reads it whole: LSNs seen, or minus the error. */
static int read_all(const char *path) {
  struct diverged_header h;
  struct diverged_file *f;
  struct wal_block *b;
  int commits = 0, rc = diverged_open(env, path, &h, &f);
  if (rc) return -rc;
  while ((rc = diverged_next(f, &b)) == DW_OK) {
    commits += (int)b->h.commit_count;
    wal_block_unref(b);
  }
  diverged_close(f);
  return rc == DW_NOT_FOUND ? commits : -rc;
}

static int count(void *arg, const char *name, int rc, const struct diverged_header *h) {
  (void)name, (void)h;
  (*(int *)arg) += rc == DW_OK ? 1 : 100;
  return 0;
}
static int files(void) {
  int n = 0;
  ck_assert_int_eq(diverged_list(env, dir, count, &n), DW_OK);
  return n;
}

/* ---- the container --------------------------------------------------------------------------- */

START_TEST(what_lies_behind_the_parting_is_kept_and_read_back) {
  char path[500];
  fill();
  ck_assert_int_eq(files(), 0); /* no directory yet */
  struct diverged_saved s = save(&bounds[5]);
  ck_assert_str_eq(s.name, "3-6.blocks");
  ck_assert(!s.was_there && s.header.complete);
  ck_assert_uint_eq(s.header.commits, 5);
  ck_assert_uint_eq(s.header.blocks, 6); /* with the epoch's record */
  path_of(s.name, path);
  ck_assert_int_eq(read_all(path), 5);
  path_of("3-6.json", path);
  uint8_t *text;
  size_t n;
  ck_assert_int_eq(env_read_file(env, path, 10000, &text, &n), DW_OK);
  static const char *const says[] = {"\"first_lsn\": 6,\n  \"last_lsn\": 10,\n  \"commits\": 5,",
                                     "\"parted_from_node\": \"8\"", "db2:7000"};
  for (size_t i = 0; i < sizeof says / sizeof *says; i++)
    ck_assert_msg(memmem(text, n, says[i], strlen(says[i])) != NULL, "%s is not in %.*s", says[i], (int)n,
                  (const char *)text);
  free(text);
}
END_TEST

START_TEST(the_header_is_what_the_golden_file_says) {
  uint8_t bytes[DIVERGED_HEADER_BYTES], *golden;
  size_t n;
  struct diverged_header h = about(&(struct wal_pos){5, 1, {{1, 2, 3}}}), got;
  h.wall_ns = 1700000000123456789ull;
  h.from = h.parted;
  h.end = (struct wal_pos){10, 3, {{4, 5, 6}}};
  h.blocks = 6;
  h.commits = 5;
  h.bytes = 1234;
  h.complete = true;
  diverged_header_encode(&h, bytes);
  if (getenv("DW_WRITE_GOLDEN"))
    ck_assert_int_eq(env_write_file_atomic(env, DW_GOLDEN_DIR, "diverged-header", bytes, sizeof bytes), DW_OK);
  ck_assert_int_eq(env_read_file(env, DW_GOLDEN_DIR "/diverged-header", 10000, &golden, &n), DW_OK);
  ck_assert_uint_eq(n, sizeof bytes);
  ck_assert_mem_eq(golden, bytes, n);
  ck_assert_int_eq(diverged_header_decode(golden, n, &got), DW_OK);
  ck_assert(got.node_id == 7 && got.peer_id == 8 && got.end.lsn == 10 && got.commits == 5 && got.complete &&
            got.bytes == 1234);
  ck_assert(got.parted.lsn == 5 && got.from.epoch == 1 && got.wall_ns == h.wall_ns && got.reason == DIVERGED_REJOIN);
  free(golden);
}
END_TEST

static void put_file(const char *path, const uint8_t *bytes, size_t n) {
  FILE *f = fopen(path, "w");
  ck_assert(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

START_TEST(every_flipped_bit_and_every_cut_is_noticed) {
  char path[500];
  uint8_t *bytes;
  size_t n;
  fill();
  path_of(save(&bounds[5]).name, path);
  ck_assert_int_eq(env_read_file(env, path, 1u << 20, &bytes, &n), DW_OK);
  snprintf(path, sizeof path, "%s/other", dir);
  for (size_t i = 0; i < n; i++) {
    bytes[i] ^= (uint8_t)(1u << (i % 8));
    put_file(path, bytes, n);
    bytes[i] ^= (uint8_t)(1u << (i % 8));
    int rc = read_all(path);
    ck_assert_msg(rc == -DW_CORRUPT || rc == -DW_UNSUPPORTED, "a flipped bit in byte %zu: %d", i, rc);
  }
  for (size_t i = 0; i < n; i += 7) {
    put_file(path, bytes, i);
    ck_assert_int_eq(read_all(path), -DW_CORRUPT);
  }
  free(bytes);
}
END_TEST

/* ---- which file ------------------------------------------------------------------------------ */

START_TEST(a_second_time_writes_nothing_and_a_longer_log_replaces_it) {
  fill();
  struct diverged_saved first = save(&bounds[5]), again = save(&bounds[5]);
  ck_assert_str_eq(again.name, first.name);
  ck_assert(again.was_there);
  ck_assert_uint_eq(again.header.commits, 5);
  ck_assert_uint_eq(again.header.wall_ns, first.header.wall_ns);
  add(11, 3, 10);
  struct diverged_saved longer = save(&bounds[5]);
  ck_assert_str_eq(longer.name, first.name);
  ck_assert(!longer.was_there);
  ck_assert_uint_eq(longer.header.commits, 6);
  ck_assert_int_eq(files(), 1);
}
END_TEST

START_TEST(a_file_of_another_content_under_that_name_stays) {
  char path[500];
  fill();
  save(&bounds[5]);
  ck_assert_int_eq(wal_truncate(wal, &bounds[5]), DW_OK);
  begin_epoch(3); /* the same numbers, other commits */
  for (dw_lsn i = 6; i <= 8; i++) add(i, 3, 20);
  struct diverged_saved s = save(&bounds[5]);
  ck_assert_str_eq(s.name, "3-6-2.blocks");
  ck_assert_int_eq(files(), 2);
  path_of("3-6.blocks", path);
  ck_assert_int_eq(read_all(path), 5);
  path_of(s.name, path);
  ck_assert_int_eq(read_all(path), 3);
}
END_TEST

START_TEST(a_damaged_file_is_not_taken_for_what_it_was) {
  char path[500];
  struct env_file *f;
  fill();
  path_of(save(&bounds[5]).name, path);
  ck_assert_int_eq(env->ops->open(env, path, ENV_WRITE, &f), DW_OK);
  ck_assert_int_eq(env_pwrite(env, f, 500, "x", 1), DW_OK);
  env->ops->close(f);
  struct diverged_saved s = save(&bounds[5]);
  ck_assert_str_eq(s.name, "3-6-2.blocks");
  path_of(s.name, path);
  ck_assert_int_eq(read_all(path), 5);
}
END_TEST

START_TEST(nothing_is_kept_where_there_is_no_commit) {
  fill();
  begin_epoch(4);
  struct diverged_saved s = save(&bounds[10]);
  ck_assert_str_eq(s.name, "");
  ck_assert_int_eq(files(), 0);
}
END_TEST

/* The peer has an epoch between two of ours: that ours ended before it says nothing of where the peer's did. */
START_TEST(of_a_parting_that_is_not_ours_nothing_is_kept_for_the_peer_to_be_asked_again) {
  struct diverged_saved s;
  fill();
  ck_assert_int_eq(try_save(&(struct wal_pos){7, 2, {{1}}}, &s), DW_NOT_FOUND);
  ck_assert_int_eq(try_save(&(struct wal_pos){8, 3, {{2}}}, &s), DW_NOT_FOUND);
  ck_assert_str_eq(s.name, "");
}
END_TEST

START_TEST(of_a_trimmed_log_the_rest_is_kept_and_called_incomplete) {
  fill();
  for (dw_lsn i = 11; i <= 20; i++) add(i, 3, 20000);
  dw_lsn oldest;
  ck_assert_int_eq(wal_trim(wal, 12, &oldest), DW_OK);
  ck_assert_uint_gt(oldest, 6);
  struct diverged_saved s = save(&bounds[5]);
  ck_assert(!s.header.complete);
  ck_assert_uint_eq(s.header.from.lsn + 1, oldest);
  ck_assert_uint_eq(s.header.commits, 20 - oldest + 1);
  ck_assert_uint_eq(s.header.parted.lsn, 5);
}
END_TEST

START_TEST(an_error_on_the_way_leaves_no_file_under_the_name) {
  static const enum fault_op ops[] = {FAULT_OPEN,   FAULT_PWRITEV,  FAULT_FDATASYNC,
                                      FAULT_RENAME, FAULT_SYNC_DIR, FAULT_TRUNCATE};
  fill();
  struct fault_env *faults = fault_env_create(env_posix());
  struct diverged_header h = about(&bounds[5]);
  struct diverged_saved s;
  unsigned failed = 0;
  fault_env_only(faults, "diverged");
  for (size_t op = 0; op < sizeof ops / sizeof *ops; op++)
    for (unsigned nth = 1; nth < 20; nth++) {
      fault_env_fail(faults, ops[op], nth, DW_NO_SPACE, true);
      char kept[400];
      snprintf(kept, sizeof kept, "%s/diverged", dir);
      ck_assert_int_eq(env_remove_tree(env, kept), DW_OK);
      int rc = diverged_save(fault_env_env(faults), dir, wal, &h, NULL, &s);
      fault_env_fail(faults, ops[op], 0, DW_OK, false);
      if (rc == DW_OK) break;
      ck_assert_int_eq(rc, DW_NO_SPACE);
      failed++;
      int n = files(); /* a whole one, or none */
      ck_assert_int_le(n, 1);
      if (ops[op] == FAULT_FDATASYNC && nth == 1) ck_assert_int_eq(n, 0); /* it has its name only once it is synced */
    }
  ck_assert_uint_gt(failed, 8);
  ck_assert_int_eq(diverged_save(fault_env_env(faults), dir, wal, &h, NULL, &s), DW_OK);
  ck_assert_int_eq(files(), 1);
  fault_env_destroy(faults);
}
END_TEST

int main(void) {
  Suite *s = suite_create("diverged");
  TCase *t = tcase_create("diverged");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, what_lies_behind_the_parting_is_kept_and_read_back);
  tcase_add_test(t, the_header_is_what_the_golden_file_says);
  tcase_add_test(t, every_flipped_bit_and_every_cut_is_noticed);
  tcase_add_test(t, a_second_time_writes_nothing_and_a_longer_log_replaces_it);
  tcase_add_test(t, a_file_of_another_content_under_that_name_stays);
  tcase_add_test(t, a_damaged_file_is_not_taken_for_what_it_was);
  tcase_add_test(t, nothing_is_kept_where_there_is_no_commit);
  tcase_add_test(t, of_a_parting_that_is_not_ours_nothing_is_kept_for_the_peer_to_be_asked_again);
  tcase_add_test(t, of_a_trimmed_log_the_rest_is_kept_and_called_incomplete);
  tcase_add_test(t, an_error_on_the_way_leaves_no_file_under_the_name);
  suite_add_tcase(s, t);
  return check_main(s);
}
