/* The file side of a bootstrap: DIR/incoming with its STATE, and reading the copy that goes out. */
#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/checkpoint_recv.h"
#include "replication/checkpoint_reuse.h"
#include "replication/checkpoint_send.h"
#include "tests/support/fault_env.h"
#include "wal/base/env.h"

#define FILES 4u

static char root[300], dir[400];
static struct env *env;
static struct ckpt_manifest m;
static struct ckpt_in *in;
static const char *const names[FILES] = {"000010.sst", "CURRENT", "EMPTY", "MANIFEST-000005"};
static const uint64_t sizes[FILES] = {600000, 16, 0, 5000};

static uint8_t byte_at(uint32_t file, uint64_t off) {
  return (uint8_t)(file * 31 + off * 7 + off / 256);
}

static uint8_t *content(uint32_t file) {
  uint8_t *p = malloc(sizes[file] + 1);
  for (uint64_t i = 0; i < sizes[file]; i++) p[i] = byte_at(file, i);
  return p;
}

static struct hash128 hash_of(uint32_t file) {
  uint8_t *p = content(file);
  struct hash128 h = hash128(p, sizes[file]);
  free(p);
  return h;
}

static void setup(void) {
  const char *tmp = getenv("TMPDIR");
  env = env_posix();
  snprintf(root, sizeof root, "%s/dabbawal-ckpt-XXXXXX", tmp && *tmp ? tmp : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(root));
  snprintf(dir, sizeof dir, "%s/incoming", root);
  ck_assert_int_eq(env->ops->mkdir(env, dir), DW_OK);
  m = (struct ckpt_manifest){.id = {{1, 2, 3}}, .pos = {.lsn = 77, .epoch = 3, .chain = {{9}}}};
  for (uint32_t i = 0; i < FILES; i++) ck_assert_int_eq(ckpt_manifest_add(&m, names[i], sizes[i]), DW_OK);
  ck_assert_int_eq(ckpt_in_open(env, dir, &in), DW_OK);
}

static void teardown(void) {
  ckpt_in_close(in);
  in = NULL;
  ckpt_manifest_free(&m);
  ck_assert_int_eq(env_remove_tree(env, root), DW_OK);
}

static void reopen(void) {
  ckpt_in_close(in);
  ck_assert_int_eq(ckpt_in_open(env, dir, &in), DW_OK);
}

static void take(uint32_t file, uint64_t from, uint64_t to) {
  uint8_t *p = content(file);
  ck_assert_int_eq(ckpt_in_write(in, file, from, p + from, (uint32_t)(to - from)), DW_OK);
  free(p);
}

static int end(uint32_t file) {
  struct hash128 h = hash_of(file);
  return ckpt_in_file_end(in, file, &h);
}

static void begin(uint64_t offsets[FILES]) {
  ck_assert_int_eq(ckpt_in_begin(in, &m, offsets), DW_OK);
}

/* Files 0 and 1 complete, 3 in part. */
static void half_way(void) {
  uint64_t offsets[FILES];
  begin(offsets);
  take(0, 0, 300000);
  take(0, 300000, sizes[0]);
  ck_assert_int_eq(end(0), DW_OK);
  take(1, 0, sizes[1]);
  ck_assert_int_eq(end(1), DW_OK);
  take(3, 0, 1234);
}

static void write_at(const char *name, uint64_t off, const void *p, size_t n) {
  char path[500];
  struct env_file *f;
  snprintf(path, sizeof path, "%s/%s", dir, name);
  ck_assert_int_eq(env->ops->open(env, path, ENV_CREATE, &f), DW_OK);
  ck_assert_int_eq(env_pwrite(env, f, off, p, n), DW_OK);
  env->ops->close(f);
}

static bool there(const char *name) {
  char path[500];
  bool yes;
  snprintf(path, sizeof path, "%s/%s", dir, name);
  ck_assert_int_eq(env->ops->exists(env, path, &yes), DW_OK);
  return yes;
}

static char store[400];

/* A file of the present store, with the bytes of file number `file` of the checkpoint; spoilt: one of them is another.
 */
static void own_file(const char *name, uint32_t file, bool spoilt) {
  char path[500];
  struct env_file *f;
  uint8_t *p = content(file);
  if (spoilt) p[sizes[file] / 2] ^= 1;
  snprintf(store, sizeof store, "%s/store", root);
  snprintf(path, sizeof path, "%s/%s", store, name);
  ck_assert_int_eq(env->ops->mkdir(env, store), DW_OK);
  ck_assert_int_eq(env->ops->open(env, path, ENV_CREATE, &f), DW_OK);
  ck_assert_int_eq(env_pwrite(env, f, 0, p, sizes[file]), DW_OK);
  env->ops->close(f);
  free(p);
}

static void with_hashes(void) {
  m.hashes = true;
  for (uint32_t i = 0; i < FILES; i++) m.files[i].hash = hash_of(i);
}

static uint64_t reuse(uint64_t offsets[FILES]) {
  uint64_t bytes = 99;
  begin(offsets);
  ck_assert_int_eq(ckpt_in_reuse(in, &m, store, offsets, &bytes), DW_OK);
  return bytes;
}

static void assert_taken_and_finished(uint64_t offsets[FILES]) {
  ck_assert_uint_eq(offsets[0], CKPT_HELD);
  reopen();
  begin(offsets); /* recorded: also after a crash */
  ck_assert_uint_eq(offsets[0], CKPT_HELD);
  for (uint32_t i = 1; i < FILES; i++) {
    ck_assert_uint_ne(offsets[i], CKPT_HELD);
    take(i, 0, sizes[i]);
    ck_assert_int_eq(end(i), DW_OK);
  }
  ck_assert_int_eq(ckpt_in_finish(in), DW_OK);
  char path[500];
  struct hash128 got, want = hash_of(0);
  snprintf(path, sizeof path, "%s/store/%s", dir, names[0]);
  ck_assert_int_eq(ckpt_hash_file(env, path, sizes[0], &got), DW_OK);
  ck_assert(hash128_eq(&got, &want));
}

START_TEST(a_table_file_of_the_same_bytes_is_taken_whatever_its_name) {
  uint64_t offsets[FILES];
  with_hashes();
  own_file("000099.sst", 0, true); /* the same size, another byte */
  own_file("000123.sst", 0, false);
  own_file("CURRENT", 1, false); /* no table: it may change, it travels */
  ck_assert_uint_eq(reuse(offsets), sizes[0]);
  assert_taken_and_finished(offsets);
}
END_TEST

START_TEST(where_there_are_no_links_it_is_copied) {
  uint64_t offsets[FILES];
  struct fault_env *no_links = fault_env_create(env_posix());
  ck_assert_ptr_null(fault_env_env(no_links)->ops->link);
  env = fault_env_env(no_links);
  reopen();
  with_hashes();
  own_file("000123.sst", 0, false);
  ck_assert_uint_eq(reuse(offsets), sizes[0]);
  assert_taken_and_finished(offsets);
  ckpt_in_close(in);
  in = NULL;
  env = env_posix();
  fault_env_destroy(no_links);
}
END_TEST

START_TEST(a_part_from_an_earlier_transfer_gives_way_and_the_store_keeps_its_file) {
  uint64_t offsets[FILES];
  char path[500];
  struct hash128 got, want = hash_of(0);
  with_hashes();
  begin(offsets);
  take(0, 0, 1000);
  reopen();
  own_file("000123.sst", 0, false);
  ck_assert_uint_eq(reuse(offsets), sizes[0]);
  assert_taken_and_finished(offsets);
  ck_assert_int_eq(ckpt_in_discard(in), DW_OK);
  snprintf(path, sizeof path, "%s/000123.sst", store);
  ck_assert_int_eq(ckpt_hash_file(env, path, sizes[0], &got), DW_OK);
  ck_assert(hash128_eq(&got, &want));
}
END_TEST

START_TEST(without_hashes_or_without_a_match_everything_travels) {
  uint64_t offsets[FILES];
  own_file("000123.sst", 0, false);
  ck_assert_uint_eq(reuse(offsets), 0);
  with_hashes();
  own_file("000123.sst", 0, true);
  ck_assert_uint_eq(reuse(offsets), 0);
  ck_assert_uint_eq(offsets[0], 0);
  snprintf(store, sizeof store, "%s/nowhere", root);
  ck_assert_uint_eq(reuse(offsets), 0);
}
END_TEST

/* Found, then changed before it was taken: it is not believed. */
START_TEST(a_file_that_is_not_what_it_was_is_not_taken) {
  uint64_t offsets[FILES];
  char path[500];
  struct hash128 want = hash_of(0);
  with_hashes();
  own_file("000123.sst", 0, true);
  begin(offsets);
  snprintf(path, sizeof path, "%s/000123.sst", store);
  ck_assert_int_eq(ckpt_in_take(in, 0, path, &want), DW_NOT_FOUND);
  ck_assert(!there("store/000010.sst"));
  snprintf(path, sizeof path, "%s/000124.sst", store);
  ck_assert_int_eq(ckpt_in_take(in, 0, path, &want), DW_NOT_FOUND);
}
END_TEST

START_TEST(nothing_is_held_at_first) {
  struct hash128 id = ckpt_in_id(in);
  uint64_t offsets[FILES];
  ck_assert(hash128_zero(&id));
  begin(offsets);
  for (uint32_t i = 0; i < FILES; i++) ck_assert_uint_eq(offsets[i], 0);
  ck_assert_uint_eq(ckpt_in_held(in), 0);
  id = ckpt_in_id(in);
  ck_assert(hash128_eq(&id, &m.id));
}
END_TEST

START_TEST(after_a_restart_complete_files_are_held_and_partial_ones_as_far_as_they_go) {
  uint64_t offsets[FILES];
  half_way();
  if (_i) reopen();
  struct hash128 id = ckpt_in_id(in);
  ck_assert(hash128_eq(&id, &m.id));
  begin(offsets);
  ck_assert_uint_eq(offsets[0], CKPT_HELD);
  ck_assert_uint_eq(offsets[1], CKPT_HELD);
  ck_assert_uint_eq(offsets[2], 0);
  ck_assert_uint_eq(offsets[3], 1234);
  ck_assert_uint_eq(ckpt_in_held(in), sizes[0] + sizes[1] + 1234);
  ck_assert_int_eq(ckpt_in_finish(in), DW_CORRUPT);
  ck_assert_int_eq(end(2), DW_OK); /* an empty file is a file */
  take(3, 1234, sizes[3]);
  ck_assert_int_eq(end(3), DW_OK);
  ck_assert_int_eq(ckpt_in_finish(in), DW_OK);
  ck_assert(there("store/EMPTY"));
}
END_TEST

START_TEST(another_checkpoint_wipes_what_was_there) {
  uint64_t offsets[FILES];
  half_way();
  reopen();
  m.id.b[0] ^= 1;
  begin(offsets);
  for (uint32_t i = 0; i < FILES; i++) ck_assert_uint_eq(offsets[i], 0);
  ck_assert(!there("store/000010.sst"));
}
END_TEST

START_TEST(a_manifest_that_changed_under_the_same_id_is_another_checkpoint) {
  uint64_t offsets[FILES];
  half_way();
  m.files[0].bytes--;
  m.total_bytes--;
  begin(offsets);
  ck_assert_uint_eq(offsets[0], 0);
}
END_TEST

START_TEST(a_file_with_another_hash_is_deleted) {
  uint64_t offsets[FILES];
  half_way();
  write_at("store/MANIFEST-000005", 100, "X", 1);
  take(3, 1234, sizes[3]);
  ck_assert_int_eq(end(3), DW_CORRUPT);
  ck_assert(!there("store/MANIFEST-000005"));
  begin(offsets);
  ck_assert_uint_eq(offsets[3], 0);
}
END_TEST

START_TEST(a_file_that_ends_too_early_is_deleted) {
  half_way();
  ck_assert_int_eq(end(3), DW_CORRUPT);
  ck_assert(!there("store/MANIFEST-000005"));
}
END_TEST

START_TEST(a_recorded_file_that_is_gone_or_has_another_size_is_fetched_again) {
  uint64_t offsets[FILES];
  half_way();
  if (_i == 0) {
    char path[500];
    snprintf(path, sizeof path, "%s/store/CURRENT", dir);
    ck_assert_int_eq(env->ops->unlink(env, path), DW_OK);
  } else {
    write_at("store/CURRENT", sizes[1], "more", 4);
  }
  reopen();
  begin(offsets);
  ck_assert_uint_eq(offsets[0], CKPT_HELD);
  ck_assert_uint_eq(offsets[1], 0);
}
END_TEST

START_TEST(no_damage_to_state_makes_an_incomplete_file_complete) {
  char path[500];
  uint8_t *good;
  size_t n;
  uint64_t offsets[FILES];
  half_way();
  snprintf(path, sizeof path, "%s/STATE", dir);
  ck_assert_int_eq(env_read_file(env, path, 1 << 20, &good, &n), DW_OK);
  for (size_t i = 0; i < n; i++) {
    uint8_t bad = (uint8_t)(good[i] ^ (1u << (i % 8)));
    ckpt_in_close(in);
    in = NULL;
    write_at("STATE", i, &bad, 1);
    ck_assert_int_eq(ckpt_in_open(env, dir, &in), DW_OK);
    struct hash128 id = ckpt_in_id(in);
    ck_assert(hash128_zero(&id) || i >= n - 64); /* the head is checked as a whole */
    if (!hash128_zero(&id)) {                    /* a record that is damaged, and those behind it, do not count */
      begin(offsets);
      ck_assert(offsets[1] != CKPT_HELD);
      ck_assert(offsets[3] != CKPT_HELD);
    }
    ckpt_in_close(in);
    in = NULL;
    write_at("STATE", 0, good, n);
    ck_assert_int_eq(ckpt_in_open(env, dir, &in), DW_OK);
  }
  free(good);
}
END_TEST

START_TEST(state_cut_anywhere_is_usable_or_ignored) {
  char path[500];
  uint8_t *good;
  size_t n;
  struct env_file *f;
  uint64_t offsets[FILES];
  half_way();
  snprintf(path, sizeof path, "%s/STATE", dir);
  ck_assert_int_eq(env_read_file(env, path, 1 << 20, &good, &n), DW_OK);
  for (size_t cut = n; cut-- > 0;) {
    ckpt_in_close(in);
    in = NULL;
    ck_assert_int_eq(env->ops->open(env, path, ENV_WRITE, &f), DW_OK);
    ck_assert_int_eq(env->ops->truncate(f, cut), DW_OK);
    env->ops->close(f);
    ck_assert_int_eq(ckpt_in_open(env, dir, &in), DW_OK);
    struct hash128 id = ckpt_in_id(in);
    ck_assert(hash128_zero(&id) == (cut < n - 64));
    if (cut >= n - 64) {
      begin(offsets);
      ck_assert((offsets[0] == CKPT_HELD) == (cut >= n - 32));
      ck_assert(offsets[1] != CKPT_HELD);
    }
  }
  free(good);
}
END_TEST

START_TEST(discarding_leaves_nothing_to_resume) {
  half_way();
  ck_assert_int_eq(ckpt_in_discard(in), DW_OK);
  reopen();
  struct hash128 id = ckpt_in_id(in);
  ck_assert(hash128_zero(&id));
  ck_assert(!there("store"));
}
END_TEST

/* ---- going out ------------------------------------------------------------------------------- */

START_TEST(what_is_read_from_an_outgoing_copy_installs_as_the_same_data) {
  dw_engine *e;
  dw_options o;
  char data[400], key[20];
  struct ckpt_out *out;
  struct ckpt_manifest got = {0}, again = {0};
  dw_options_init(&o);
  snprintf(data, sizeof data, "%s/data", root);
  ck_assert_int_eq(dw_open(data, &o, &e), DW_OK);
  for (int i = 0; i < 500; i++) {
    int k = snprintf(key, sizeof key, "key-%d", i);
    ck_assert_int_eq(dw_put(e, NULL, key, (size_t)k, "value", 5, NULL), DW_OK);
  }
  ck_assert_int_eq(ckpt_out_make(e, false, &out), DW_OK);
  ck_assert_uint_eq(ckpt_out_pos(out).lsn, 500);
  ck_assert_int_eq(ckpt_out_manifest(out, &got), DW_OK);
  ck_assert_int_eq(ckpt_out_manifest(out, &again), DW_OK);
  ck_assert_uint_eq(got.count, again.count);
  uint64_t *offsets = calloc(got.count, sizeof *offsets);
  ck_assert_int_eq(ckpt_in_begin(in, &got, offsets), DW_OK);
  uint8_t *buf = malloc(MSG_CHUNK_BYTES);
  for (uint32_t i = 0; i < got.count; i++) {
    struct hash_stream *h = hash_stream_create();
    ck_assert_str_eq(got.files[i].name, again.files[i].name);
    for (uint64_t off = 0; off < got.files[i].bytes;) {
      uint64_t left = got.files[i].bytes - off;
      uint32_t n = left < 1000 ? (uint32_t)left : 1000;
      ck_assert_int_eq(ckpt_out_read(out, got.files[i].name, off, buf, n), DW_OK);
      hash_stream_update(h, buf, n);
      ck_assert_int_eq(ckpt_in_write(in, i, off, buf, n), DW_OK);
      off += n;
    }
    struct hash128 hash = hash_stream_digest(h);
    hash_stream_destroy(h);
    ck_assert_int_eq(ckpt_in_file_end(in, i, &hash), DW_OK);
  }
  ck_assert_int_eq(ckpt_in_finish(in), DW_OK);
  ck_assert_int_eq(ckpt_out_read(out, got.files[0].name, got.files[0].bytes, buf, 1), DW_CORRUPT);
  free(buf);
  free(offsets);

  struct store *s;
  struct wal_pos pos;
  char path[500];
  snprintf(path, sizeof path, "%s/store", dir);
  struct store_options so = {.env = env, .read_only = true, .must_exist = true};
  ck_assert_int_eq(store_rocksdb()->open(path, &so, &s), DW_OK);
  ck_assert_int_eq(s->ops->marker(s, true, &pos), DW_OK);
  ck_assert_uint_eq(pos.lsn, 500);
  s->ops->close(s);

  struct hash128 id = ckpt_out_id(out);
  char name[33], copy[600];
  bool yes;
  hash128_hex(&id, name);
  snprintf(copy, sizeof copy, "%s/checkpoints/%s", data, name);
  ck_assert_int_eq(env->ops->exists(env, copy, &yes), DW_OK);
  ck_assert(yes);
  ckpt_out_drop(out);
  ck_assert_int_eq(env->ops->exists(env, copy, &yes), DW_OK);
  ck_assert(!yes);
  ckpt_manifest_free(&got);
  ckpt_manifest_free(&again);
  ck_assert_int_eq(dw_close(e), DW_OK);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication: checkpoint files");
  TCase *t = tcase_create("files");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, a_table_file_of_the_same_bytes_is_taken_whatever_its_name);
  tcase_add_test(t, where_there_are_no_links_it_is_copied);
  tcase_add_test(t, a_part_from_an_earlier_transfer_gives_way_and_the_store_keeps_its_file);
  tcase_add_test(t, without_hashes_or_without_a_match_everything_travels);
  tcase_add_test(t, a_file_that_is_not_what_it_was_is_not_taken);
  tcase_add_test(t, nothing_is_held_at_first);
  tcase_add_loop_test(t, after_a_restart_complete_files_are_held_and_partial_ones_as_far_as_they_go, 0, 2);
  tcase_add_test(t, another_checkpoint_wipes_what_was_there);
  tcase_add_test(t, a_manifest_that_changed_under_the_same_id_is_another_checkpoint);
  tcase_add_test(t, a_file_with_another_hash_is_deleted);
  tcase_add_test(t, a_file_that_ends_too_early_is_deleted);
  tcase_add_loop_test(t, a_recorded_file_that_is_gone_or_has_another_size_is_fetched_again, 0, 2);
  tcase_add_test(t, no_damage_to_state_makes_an_incomplete_file_complete);
  tcase_add_test(t, state_cut_anywhere_is_usable_or_ignored);
  tcase_add_test(t, discarding_leaves_nothing_to_resume);
  tcase_add_test(t, what_is_read_from_an_outgoing_copy_installs_as_the_same_data);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
