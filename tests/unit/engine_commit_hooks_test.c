/* What the engine tells its replication of commits: which of them somebody waits for followers to hear of. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/engine.h"
#include "tests/support/check_main.h"

static char dir[256];
static dw_engine *e;
static unsigned moves, awaited_moves;

static void hook_grew(void *ctx, bool awaited) {
  (void)ctx, (void)awaited;
}
static void hook_commit(void *ctx, bool awaited) {
  (void)ctx, moves++, awaited_moves += awaited;
}
static void hook_nothing(void *ctx) {
  (void)ctx;
}
static int hook_strong(void *ctx, uint32_t ms, dw_lsn *lsn) {
  (void)ctx, (void)ms, (void)lsn;
  return DW_STALE;
}
static void hook_status(void *ctx, dw_status *s) {
  (void)ctx, (void)s;
}
static const struct replication_ops ops = {.log_grew = hook_grew,
                                           .commit_moved = hook_commit,
                                           .applied_moved = hook_nothing,
                                           .strong_point = hook_strong,
                                           .status = hook_status};

static void setup(void) {
  snprintf(dir, sizeof dir, "%s/dw-commit-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  dw_options o;
  dw_options_init(&o);
  o.durability = DW_DURABILITY_OS;
  ck_assert_int_eq(engine_open(dir, &o, NULL, &e), DW_OK);
  engine_attach(e, &ops, NULL);
}

static void teardown(void) {
  engine_attach(e, NULL, NULL);
  engine_close(e);
  env_remove_tree(env_posix(), dir);
}

/* A write that waits for a follower of level `ack`, which says it has everything as soon as the log has it. */
static unsigned awaited_after(dw_mode mode, dw_ack ack) {
  dw_write_options wo = {.mode = mode, .acks = mode == DW_ASYNC ? 0u : 1u, .ack = ack, .timeout_ms = 5000};
  struct ack_marks all = {.connected = 1};
  for (int level = 0; level < 3; level++) all.mark[level][0] = UINT64_MAX;
  engine_acks(e, &all);
  moves = awaited_moves = 0;
  ck_assert_int_eq(dw_put(e, &wo, "k", 1, "v", 1, NULL), DW_OK);
  ck_assert_uint_ge(moves, 1);
  return awaited_moves;
}

START_TEST(only_a_write_that_waits_for_appliers_makes_its_commit_urgent) {
  ck_assert_uint_eq(awaited_after(DW_ASYNC, DW_ACK_DEFAULT), 0);
  ck_assert_uint_eq(awaited_after(DW_SYNC, DW_ACK_RECEIVED), 0);
  ck_assert_uint_eq(awaited_after(DW_SYNC, DW_ACK_DURABLE), 0);
  ck_assert_uint_eq(awaited_after(DW_SYNC, DW_ACK_APPLIED), 1);
}
END_TEST

int main(void) {
  Suite *s = suite_create("urgent commits");
  TCase *t = tcase_create("engine");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, only_a_write_that_waits_for_appliers_makes_its_commit_urgent);
  suite_add_tcase(s, t);
  return check_main(s);
}
