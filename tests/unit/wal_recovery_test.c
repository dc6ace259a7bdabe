/* The log against adversity that wal_log_test does not play: crashes in the middle of recovery, failures between two
 * steps of making or dropping a segment, and users who store images of log blocks as values. */
#include "tests/support/check_main.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/wal_fixture.h"
#include "wal/repair.h"
#include "wal/wal.h"

static void shell(const char *fmt, const char *a, const char *b) {
  char cmd[1200];
  snprintf(cmd, sizeof cmd, fmt, a, b, a);
  ck_assert_int_eq(system(cmd), 0);
}

/* ---- the store is ahead ------------------------------------------------------------------------ */

START_TEST(a_crash_anywhere_in_a_restart_at_the_store_leaves_a_log_that_opens) {
  static const enum fault_op ops[] = {FAULT_UNLINK, FAULT_SYNC_DIR, FAULT_OPEN, FAULT_RENAME, FAULT_PWRITEV};
  for (unsigned nth = 1; nth <= 12; nth++) { /* beyond the last segment */
    for (size_t op = 0; op < sizeof ops / sizeof *ops; op++) {
      enum fault_op what = ops[op];
      fx.options.must_reach = fx.options.base;
      fault_env_boot(fx.faults, 1);
      open_wal();
      append_many(300, 700, false); /* several segments */
      struct wal_pos end = end_of_log();
      crash();
      struct find_block f = find(298);
      wipe(f.path, f.off, 2048);
      fault_env_boot(fx.faults, 2);
      fx.options.must_reach = end;
      fault_env_fail(fx.faults, what, nth, DW_IO, true); /* from here on the process is as good as dead */
      int rc = try_open();
      if (rc == DW_OK) (void)wal_close(fx.w); /* may be what meets the fault */
      fault_env_fail(fx.faults, what, 0, DW_OK, false);
      open_wal();
      ck_assert_uint_eq(fx.rec.end.lsn, 300);
      ck_assert(hash128_eq(&fx.rec.end.chain, &end.chain));
      ck_assert_int_eq(append(300, 1), DW_OK);
      wal_close(fx.w);
      fx.w = NULL;
      open_wal();
      ck_assert_uint_eq(fx.rec.end.lsn, 301);
      wal_close(fx.w);
      fx.w = NULL;
      shell("rm -rf %s/*.wal %s/spare* %s/segment.tmp", fx.dir, fx.dir);
    }
  }
}
END_TEST

static struct wal_block *epoch_block(void) {
  struct epoch_record r = {.epoch = 2, .node_id = 1, .reason = EPOCH_OPENED, .start = end_of_log()};
  uint8_t raw[WAL_EPOCH_RECORD_BYTES];
  epoch_record_encode(&r, raw);
  struct block_header like = {.kind = BLOCK_EPOCH, .need = {1, 2, 2, false, 0}};
  struct wal_block *b;
  ck_assert_int_eq(wal_block_create(&like, raw, sizeof raw, 0, &b), DW_OK);
  return b;
}

START_TEST(a_store_that_is_ahead_by_an_epoch_record_alone_is_ahead_not_diverged) {
  open_wal();
  append_many(5, 300, false);
  shell("cp -a %s %s.crash", fx.dir, fx.dir);
  ck_assert_int_eq(append_block(epoch_block(), 2), DW_OK);
  fx.options.must_reach = end_of_log(); /* a follower's store had applied and flushed the record, its log had not */
  ck_assert_uint_eq(fx.options.must_reach.lsn, 5);
  wal_close(fx.w);
  fx.w = NULL;
  shell("rm -rf %s && mv %s.crash %s", fx.dir, fx.dir);
  ck_assert_int_eq(try_open(), DW_CORRUPT); /* in the same boot a written block can't vanish */
  fault_env_boot(fx.faults, 2);
  open_wal();
  ck_assert_int_eq(fx.rec.which, WAL_REC_STORE_AHEAD);
  ck_assert(hash128_eq(&fx.rec.end.chain, &fx.options.must_reach.chain));
}
END_TEST

static int trim_at_the_first_block(void *arg, const char *path, uint64_t off, const struct wal_block *b) {
  bool *done = arg;
  (void)path, (void)off, (void)b;
  if (!*done) ck_assert_int_eq(wal_trim(fx.w, 300, NULL), DW_OK);
  *done = true;
  return 0;
}

START_TEST(a_log_that_is_trimmed_while_it_is_looked_at_is_not_called_corrupt) {
  bool done = false;
  struct wal_inspect how = {.on_block = trim_at_the_first_block, .arg = &done};
  struct wal_inspect_report rep;
  open_wal();
  append_many(300, 700, false); /* several segments */
  ck_assert_msg(wal_inspect(env_posix(), fx.dir, &how, &rep) == DW_OK, "%s", rep.problem);
  ck_assert(done);
  ck_assert_uint_eq(rep.last.lsn, 300);
}
END_TEST

/* ---- steps that fail halfway -------------------------------------------------------------------- */

START_TEST(a_new_segment_whose_name_may_or_may_not_be_durable_stops_the_log) {
  open_wal();
  dw_lsn acked = 0;
  int rc;
  fault_env_fail(fx.faults, FAULT_SYNC_DIR, 1, DW_NO_SPACE, false);
  while ((rc = append(700, 1)) == DW_OK) acked++;
  for (int i = 0; i < 3; i++)
    if (append(80, 2) == DW_OK) acked++; /* would still fit into the old segment */
  ck_assert_int_ne(rc, DW_NO_SPACE);
  crash();
  open_wal();
  ck_assert_uint_eq(fx.rec.end.lsn, acked);
}
END_TEST

START_TEST(a_truncation_that_fails_halfway_stops_the_log) {
  open_wal();
  append_many(300, 700, false);
  ck_assert_int_eq(wal_sync(fx.w, NULL), DW_OK);
  struct wal_pos at;
  struct wal_stat st;
  ck_assert_int_eq(wal_boundary_at_most(fx.w, 1, 50, &at), DW_OK);
  fault_env_only(fx.faults, "segment.tmp");
  fault_env_fail(fx.faults, FAULT_RENAME, 1, DW_NO_SPACE, false);
  ck_assert_int_ne(wal_truncate(fx.w, &at), DW_OK);
  wal_stat(fx.w, &st);
  ck_assert(st.stopped);
  ck_assert_uint_le(st.durable_lsn, st.end.lsn);
  struct wal_block *b = noise_block(700, 1);
  dw_lsn acked = 0;
  if (wal_append(fx.w, &b, 1, 1, 0) == DW_OK && wal_sync(fx.w, NULL) == DW_OK) acked = block_last_lsn(&b->h);
  wal_block_unref(b);
  crash();
  open_wal();
  ck_assert_uint_ge(fx.rec.end.lsn, acked);
  ck_assert_uint_ge(fx.rec.end.lsn, 50);
}
END_TEST

/* ---- a failed fdatasync and a sync beside it ----------------------------------------------------- */

static struct env_ops sync_ops;
static pthread_mutex_t sync_mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t sync_cond = PTHREAD_COND_INITIALIZER;
static bool first_waits, first_in, let_go;

/* The kernel reports an error of writing back once per open file: the first caller gets it, one beside it gets OK. */
static int sync_once_bad(struct env_file *f) {
  pthread_mutex_lock(&sync_mu);
  bool mine = first_waits;
  first_waits = false;
  if (mine) {
    first_in = true;
    pthread_cond_broadcast(&sync_cond);
    while (!let_go) pthread_cond_wait(&sync_cond, &sync_mu);
  }
  pthread_mutex_unlock(&sync_mu);
  return mine ? dw_fail(DW_IO, "fdatasync: injected") : env_posix()->ops->fdatasync(f);
}

static void *sync_thread(void *arg) {
  (void)arg;
  return (void *)(intptr_t)wal_sync(fx.w, NULL);
}

START_TEST(a_sync_beside_one_that_fails_does_not_claim_durability) {
  sync_ops = *env_posix()->ops;
  sync_ops.fdatasync = sync_once_bad;
  static struct env env;
  env.ops = &sync_ops;
  fx.options.env = &env;
  open_wal();
  ck_assert_int_eq(append(300, 1), DW_OK);
  first_waits = true;
  pthread_t a, b;
  pthread_create(&a, NULL, sync_thread, NULL);
  pthread_mutex_lock(&sync_mu);
  while (!first_in) pthread_cond_wait(&sync_cond, &sync_mu);
  pthread_mutex_unlock(&sync_mu);
  pthread_create(&b, NULL, sync_thread, NULL);
  struct timespec soon;
  clock_gettime(CLOCK_REALTIME, &soon);
  soon.tv_nsec += 200000000;
  if (soon.tv_nsec >= 1000000000) soon.tv_nsec -= 1000000000, soon.tv_sec++;
  void *rc_b = NULL;
  bool b_done = pthread_timedjoin_np(b, &rc_b, &soon) == 0; /* must still wait for the one under way */
  pthread_mutex_lock(&sync_mu);
  let_go = true;
  pthread_cond_broadcast(&sync_cond);
  pthread_mutex_unlock(&sync_mu);
  void *rc_a;
  pthread_join(a, &rc_a);
  if (!b_done) pthread_join(b, &rc_b);
  ck_assert_int_eq((intptr_t)rc_a, DW_IO);
  ck_assert_int_eq((intptr_t)rc_b, DW_CLOSED);
  struct wal_stat st;
  wal_stat(fx.w, &st);
  ck_assert_uint_eq(st.durable_lsn, 0);
}
END_TEST

static atomic_bool stop_syncing;
static void *sync_until_told(void *arg) {
  (void)arg;
  while (!atomic_load(&stop_syncing))
    if (wal_sync(fx.w, NULL)) return "sync failed";
  return NULL;
}

START_TEST(truncating_beside_a_background_sync_leaves_the_log_alive_and_honest) {
  open_wal();
  append_many(5, 700, false);
  struct wal_pos at = end_of_log();
  atomic_store(&stop_syncing, false);
  pthread_t t;
  pthread_create(&t, NULL, sync_until_told, NULL);
  for (int i = 0; i < 200; i++) {
    append_many(i % 2 ? 3 : 120, 700, false); /* now and then into the next segment */
    ck_assert_int_eq(wal_truncate(fx.w, &at), DW_OK);
    struct wal_stat st;
    wal_stat(fx.w, &st);
    ck_assert_uint_le(st.durable_lsn, st.end.lsn);
  }
  atomic_store(&stop_syncing, true);
  void *why;
  pthread_join(t, &why);
  ck_assert_msg(!why, "%s", (char *)why);
}
END_TEST

START_TEST(a_cursor_beyond_a_cut_learns_it_even_after_the_log_has_grown_again) {
  open_wal();
  append_many(5, 700, false);
  struct wal_pos at = end_of_log();
  append_many(3, 700, false);
  struct wal_pos beyond = end_of_log();
  struct wal_cursor *low, *high;
  ck_assert_int_eq(wal_cursor_open(fx.w, &at, &low), DW_OK);
  ck_assert_int_eq(wal_cursor_open(fx.w, &beyond, &high), DW_OK);
  ck_assert_int_eq(wal_truncate(fx.w, &at), DW_OK);
  append_many(20, 900, false); /* past where the cursor stood, in other strides; too much for the tail cache */
  struct wal_block *b;
  ck_assert_int_eq(wal_cursor_next(high, UINT64_MAX, &b), DW_DIVERGED);
  ck_assert_int_eq(wal_cursor_next(low, UINT64_MAX, &b), DW_OK);
  wal_block_unref(b);
  wal_cursor_close(low);
  wal_cursor_close(high);
}
END_TEST

/* ---- values that are images of log blocks --------------------------------------------------------- */

/* A raw block whose payload is full of valid blocks with high LSNs, as a user may store them. */
static struct wal_block *images(size_t n) {
  static uint8_t payload[1 << 16];
  struct wal_block *inner = noise_block(64, 3);
  struct hash128 prev = {{5}};
  inner->h.epoch = 99;
  inner->h.first_lsn = 1000000;
  block_header_seal(&inner->h, &prev, inner->bytes);
  size_t len = block_total_bytes(&inner->h);
  for (size_t at = 0; at + len <= n; at += len) memcpy(payload + at, inner->bytes, len);
  struct block_header like = {.commit_count = 1, .need = {1, 2, 2, false, 0}};
  struct wal_block *outer;
  ck_assert_int_eq(wal_block_create(&like, payload, n, 0, &outer), DW_OK);
  wal_block_unref(inner);
  return outer;
}

START_TEST(stale_values_that_are_block_images_do_not_keep_a_killed_node_from_opening) {
  open_wal();
  for (int i = 0; i < 30; i++) ck_assert_int_eq(append_block(images(9000), 1), DW_OK);
  dw_lsn oldest;
  ck_assert_int_eq(wal_trim(fx.w, 30, &oldest), DW_OK);
  ck_assert_uint_gt(oldest, 1);
  for (int i = 0; i < 8; i++) ck_assert_int_eq(append_block(images(9000), 1), DW_OK); /* into a recycled file */
  append_many(3, 700, false); /* ends in the middle of a stale block */
  dw_lsn last = end_of_log().lsn;
  fx.options.must_reach = (struct wal_pos){0};
  ck_assert_int_eq(wal_boundary_at_most(fx.w, 1, last, &fx.options.must_reach), DW_OK);
  crash();
  open_wal();
  ck_assert_uint_eq(fx.rec.end.lsn, last);
}
END_TEST

START_TEST(a_torn_block_over_stale_images_is_cut_not_refused) {
  open_wal();
  for (int i = 0; i < 30; i++) ck_assert_int_eq(append_block(images(9000), 1), DW_OK);
  dw_lsn oldest;
  ck_assert_int_eq(wal_trim(fx.w, 30, &oldest), DW_OK);
  for (int i = 0; i < 8; i++) ck_assert_int_eq(append_block(images(9000), 1), DW_OK);
  append_many(2, 700, false);
  dw_lsn last = end_of_log().lsn;
  ck_assert_int_eq(wal_boundary_at_most(fx.w, 1, last - 1, &fx.options.must_reach), DW_OK);
  crash();
  struct find_block f = find(last);
  wipe(f.path, f.off + 400, 400); /* the process died in the middle of writing it */
  open_wal();
  ck_assert_int_eq(fx.rec.which, WAL_REC_TORN);
  ck_assert_uint_eq(fx.rec.end.lsn, last - 1);
}
END_TEST

/* A power cut tore two blocks. What is cut of the second one, whose payload holds images, must not stay: a process that
 * is killed later would be taken for one that lost a completed write. */
START_TEST(all_of_several_torn_blocks_is_cut) {
  open_wal();
  append_many(3, 700, false);
  ck_assert_int_eq(append(700, 4), DW_OK);
  ck_assert_int_eq(append_block(images(9000), 1), DW_OK);
  crash();
  struct find_block first = find(4), second = find(5);
  wipe(first.path, first.off + 400, 300);
  wipe(second.path, second.off + 200, 16);
  fault_env_boot(fx.faults, 2);
  open_wal();
  ck_assert_uint_eq(fx.rec.end.lsn, 3);
  ck_assert_uint_ge(fx.rec.torn_bytes, second.off + second.total - first.off);
  ck_assert_int_eq(append(300, 6), DW_OK);
  crash();
  open_wal();
  ck_assert_uint_eq(fx.rec.end.lsn, 4);
}
END_TEST

/* Rot in a recycled file is still told from its end by what follows in the chain. */
START_TEST(rot_in_a_recycled_file_is_refused_in_the_same_boot) {
  open_wal();
  append_many(500, 700, false);
  dw_lsn oldest;
  ck_assert_int_eq(wal_trim(fx.w, 400, &oldest), DW_OK);
  append_many(110, 700, false);
  dw_lsn last = end_of_log().lsn;
  ck_assert_int_eq(wal_boundary_at_most(fx.w, 1, last, &fx.options.must_reach), DW_OK);
  struct wal_pos before;
  ck_assert_int_eq(wal_boundary_at_most(fx.w, 1, last - 30, &before), DW_OK);
  crash();
  fx.options.must_reach = before;
  struct find_block f = find(last - 9);
  static const struct {
    uint64_t off;
    size_t n;
  } rot[] = {{200, 100}, {0, 8}, {20, 60}, {96, 16}, {120, 8}};
  for (size_t i = 0; i < sizeof rot / sizeof *rot; i++) {
    shell("cp -a %s %s.sound", fx.dir, fx.dir);
    wipe(f.path, f.off + rot[i].off, rot[i].n);
    ck_assert_msg(try_open() == DW_CORRUPT, "rot %zu", i);
    struct wal_inspect_report rep;
    ck_assert_int_eq(wal_inspect(env_posix(), fx.dir, &(struct wal_inspect){0}, &rep), DW_CORRUPT);
    shell("rm -rf %s && mv %s.sound %s", fx.dir, fx.dir);
  }
  open_wal();
  ck_assert_uint_eq(fx.rec.end.lsn, last);
}
END_TEST

START_TEST(verify_names_a_hole_that_valid_blocks_follow) {
  open_wal();
  append_many(20, 300, false); /* never synced: no mark proves anything */
  crash();
  struct find_block f = find(7);
  wipe(f.path, f.off, 128);
  struct wal_inspect_report rep;
  ck_assert_int_eq(wal_inspect(env_posix(), fx.dir, &(struct wal_inspect){0}, &rep), DW_CORRUPT);
  ck_assert_msg(strstr(rep.problem, "LSN 7") && strstr(rep.problem, f.path), "%s", rep.problem);
}
END_TEST

/* ---- leftovers ------------------------------------------------------------------------------------ */

static int count_spares(void *arg, const char *name, bool is_dir) {
  (void)is_dir;
  if (strncmp(name, "spare-", 6) == 0 || strcmp(name, "segment.tmp") == 0) ++*(int *)arg;
  return 0;
}

START_TEST(files_that_crashes_left_do_not_pile_up) {
  open_wal();
  wal_close(fx.w);
  fx.w = NULL;
  for (int i = 1; i <= 6; i++) {
    char cmd[800];
    snprintf(cmd, sizeof cmd, "truncate -s 65536 %s/spare-0000000%d %s/segment.tmp", fx.dir, i, fx.dir);
    ck_assert_int_eq(system(cmd), 0);
  }
  open_wal();
  int n = 0;
  ck_assert_int_eq(env_posix()->ops->list(env_posix(), fx.dir, count_spares, &n), DW_OK);
  ck_assert_int_eq(n, 2);
}
END_TEST

/* What a newer version logged, and perhaps acknowledged, is no torn end for an older one to write over. */
START_TEST(a_block_of_a_newer_version_is_refused_and_not_cut) {
  for (int what = 0; what < 3; what++) {
    for (int behind = 0; behind < 2; behind++) {
      open_wal();
      append_many(5, 300, true);
      struct wal_block *b = noise_block(300, 6);
      if (what == 0) b->h.codec = 7;
      if (what == 1) b->h.flags = 1;
      if (what == 2) b->h.kind = 9;
      ck_assert_int_eq(append_block(b, 1), DW_OK);
      if (behind) append_many(2, 300, false);
      crash();
      for (uint8_t boot = 1; boot <= 2; boot++) {
        fault_env_boot(fx.faults, boot);
        ck_assert_int_eq(try_open(), DW_UNSUPPORTED);
        struct wal_find look = {.env = env_posix(), .dir = fx.dir};
        struct wal_damage *list = NULL;
        size_t n = 0;
        ck_assert_int_eq(wal_list_damage(&look, &list, &n), DW_UNSUPPORTED);
        free(list);
      }
      fault_env_boot(fx.faults, 1);
      shell("rm -rf %s/*.wal %s/spare* %s/segment.tmp", fx.dir, fx.dir);
    }
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("log recovery");
  TCase *t = tcase_create("recovery");
  tcase_set_timeout(t, 60);
  tcase_add_checked_fixture(t, wal_fixture_start, wal_fixture_end);
  tcase_add_test(t, a_crash_anywhere_in_a_restart_at_the_store_leaves_a_log_that_opens);
  tcase_add_test(t, a_store_that_is_ahead_by_an_epoch_record_alone_is_ahead_not_diverged);
  tcase_add_test(t, a_log_that_is_trimmed_while_it_is_looked_at_is_not_called_corrupt);
  tcase_add_test(t, a_new_segment_whose_name_may_or_may_not_be_durable_stops_the_log);
  tcase_add_test(t, a_truncation_that_fails_halfway_stops_the_log);
  tcase_add_test(t, a_sync_beside_one_that_fails_does_not_claim_durability);
  tcase_add_test(t, truncating_beside_a_background_sync_leaves_the_log_alive_and_honest);
  tcase_add_test(t, a_cursor_beyond_a_cut_learns_it_even_after_the_log_has_grown_again);
  tcase_add_test(t, stale_values_that_are_block_images_do_not_keep_a_killed_node_from_opening);
  tcase_add_test(t, a_torn_block_over_stale_images_is_cut_not_refused);
  tcase_add_test(t, all_of_several_torn_blocks_is_cut);
  tcase_add_test(t, rot_in_a_recycled_file_is_refused_in_the_same_boot);
  tcase_add_test(t, verify_names_a_hole_that_valid_blocks_follow);
  tcase_add_test(t, files_that_crashes_left_do_not_pile_up);
  tcase_add_test(t, a_block_of_a_newer_version_is_refused_and_not_cut);
  suite_add_tcase(s, t);
  return check_main(s);
}
