/* A checkpoint on its way from one directory to another while one call fails: made and described, read, received,
 * resumed, finished, installed by opening it. As the connection would, every error leads to another try from what is
 * there.
 *
 * Whatever fails: what is described is complete, what was received is what was sent, nothing that a sync failed for is
 * taken for synced later, and the next try succeeds once it can.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "replication/checkpoint_recv.h"
#include "replication/checkpoint_send.h"
#include "replication/checkpoint_transfer.h"
#include "tests/support/check_main.h"
#include "tests/support/fault_calls.h"
#include "wal/base/status.h"

static char root[200], source_dir[256], incoming[256];
static dw_options options;
static dw_engine *e;
static struct fault_walk *walk;

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg, (void)level, (void)line;
}

static int judged(const char *call, int rc) {
  fault_judge(call, rc, root);
  return rc;
}

static bool over(void) {
  return faults_hit() && walk->span == FAULT_ONCE;
}

static struct ckpt_out *make(void) {
  for (int i = 0; i < 2; i++) {
    struct ckpt_out *out = NULL;
    fault_forget_message();
    if (judged("ckpt_out_make", ckpt_out_make(e, false, &out)) == DW_OK) return out;
    FAULT_CHECK(i == 0 || !over(), "no checkpoint once it can be made: %s", dw_last_error());
  }
  return NULL;
}

#define PIECE 20000u

/* One file from `offset` on. The sender's hash is over all of it. */
static int send_file(struct ckpt_out *out, struct ckpt_in *in, const struct ckpt_manifest *m, uint32_t no,
                     uint64_t offset) {
  static uint8_t piece[PIECE];
  const struct ckpt_file *f = &m->files[no];
  faults_pause();
  struct hash_stream *h = hash_stream_create();
  faults_resume();
  int rc = DW_OK;
  for (uint64_t at = 0; rc == DW_OK && at < f->bytes;) {
    uint32_t n = f->bytes - at < PIECE ? (uint32_t)(f->bytes - at) : PIECE;
    if (at < offset && at + n > offset) n = (uint32_t)(offset - at);
    fault_forget_message();
    rc = judged("ckpt_out_read", ckpt_out_read(out, f->name, at, piece, n));
    if (rc == DW_OK) hash_stream_update(h, piece, n);
    if (rc == DW_OK && at >= offset) rc = judged("ckpt_in_write", ckpt_in_write(in, no, at, piece, n));
    at += n;
  }
  struct hash128 hash = hash_stream_digest(h);
  hash_stream_destroy(h);
  return rc ? rc : judged("ckpt_in_file_end", ckpt_in_file_end(in, no, &hash));
}

static int transfer(struct ckpt_out *out, struct ckpt_in *in, const struct ckpt_manifest *m, int *unsynced) {
  uint64_t offsets[256] = {0};
  ck_assert_uint_lt(m->count, 256);
  fault_forget_message();
  int rc = judged("ckpt_in_begin", ckpt_in_begin(in, m, offsets));
  for (uint32_t i = 0; rc == DW_OK && i < m->count; i++) {
    FAULT_CHECK(*unsynced != (int)i || offsets[i] == 0, "%s counts as held although its sync failed", m->files[i].name);
    if (offsets[i] == CKPT_HELD) continue;
    bool before = faults_hit();
    fault_forget_message();
    rc = send_file(out, in, m, i, offsets[i]);
    bool its_sync = rc && !before && strcmp(faults_name(), "fdatasync") == 0 && !strstr(dw_last_error(), "STATE");
    *unsynced = its_sync ? (int)i : -1;
  }
  fault_forget_message();
  return rc ? rc : judged("ckpt_in_finish", ckpt_in_finish(in));
}

/* True: it is there. */
static bool receive(struct ckpt_out *out, const struct ckpt_manifest *m) {
  struct ckpt_in *in = NULL;
  int rc = DW_OK, unsynced = -1;
  for (int i = 0; i < 3; i++) {
    if (i == 2) ckpt_in_close(in), in = NULL; /* and once by a process that has restarted */
    fault_forget_message();
    rc = in ? DW_OK : judged("ckpt_in_open", ckpt_in_open(env_posix(), incoming, &in));
    if (rc) {
      in = NULL;
      continue;
    }
    rc = transfer(out, in, m, &unsynced);
    if (rc == DW_OK) break;
  }
  FAULT_CHECK(rc == DW_OK || !over(), "not received once it can be: %s", dw_last_error());
  ckpt_in_close(in);
  return rc == DW_OK;
}

static void verify(const struct wal_pos *pos) {
  char path[300];
  struct store *s;
  struct wal_pos marker;
  snprintf(path, sizeof path, "%s/store", incoming);
  const struct store_ops *ops = store_rocksdb();
  int rc = ops->open(path, &(struct store_options){.read_only = true, .must_exist = true}, &s);
  FAULT_CHECK(rc == DW_OK, "what was received does not open: %s", dw_last_error());
  rc = ops->marker(s, true, &marker);
  FAULT_CHECK(rc == DW_OK && marker.lsn == pos->lsn, "what was received stands at LSN %llu",
              (unsigned long long)marker.lsn);
  char *val;
  size_t n;
  for (int i = 0; i < 20; i++) {
    char key[16] = {NS_USER};
    snprintf(key + 1, sizeof key - 1, "key-%d", i);
    rc = ops->get(s, key, 1 + strlen(key + 1), &val, &n);
    FAULT_CHECK(rc == DW_OK && n == 5000, "%s is not in it", key + 1);
    ops->free_value(val);
  }
  ops->close(s);
}

static void one_life(struct fault_walk *w) {
  walk = w;
  ck_assert_int_eq(env_remove_tree(env_posix(), incoming), DW_OK);
  ck_assert_int_eq(env_posix()->ops->mkdir(env_posix(), incoming), DW_OK);
  faults_arm(w);
  struct ckpt_out *out = make();
  if (out) {
    struct ckpt_manifest m = {0};
    fault_forget_message();
    int rc = judged("ckpt_out_manifest", ckpt_out_manifest(out, &m));
    if (rc && over()) rc = ckpt_out_manifest(out, &m);
    bool all = rc == DW_OK && receive(out, &m);
    struct wal_pos pos = ckpt_out_pos(out);
    bool hit = faults_hit();
    faults_disarm();
    if (!all && rc == DW_OK) all = hit && receive(out, &m); /* what was left behind does not stand in the way */
    FAULT_CHECK(rc || all, "not received afterwards");
    if (all) verify(&pos);
    ckpt_manifest_free(&m);
  }
  ckpt_out_drop(out);
  faults_disarm();
}

static const struct {
  const char *what;
  unsigned groups;
  int err;
  enum fault_span span;
} kinds[] = {{"checkpoint, no memory", FAULT_MEMORY, ENOMEM, FAULT_ONCE},
             {"checkpoint, no memory from here on", FAULT_MEMORY, ENOMEM, FAULT_FROM},
             {"checkpoint, I/O error", FAULT_FILES | FAULT_STORE, EIO, FAULT_ONCE},
             {"checkpoint, I/O errors from here on", FAULT_FILES | FAULT_STORE, EIO, FAULT_FROM},
             {"checkpoint, no space", FAULT_FILES | FAULT_STORE, ENOSPC, FAULT_ONCE}};
#define KINDS ((int)(sizeof kinds / sizeof *kinds))

START_TEST(every_call_of_a_checkpoint_on_its_way_fails_in_turn) {
  struct fault_walk w = {
      .title = kinds[_i].what, .groups = kinds[_i].groups, .err = kinds[_i].err, .span = kinds[_i].span, .step = 1};
  while (fault_walk_next(&w)) one_life(&w);
  ck_assert_uint_gt(w.points * w.step, 40);
}
END_TEST

static void setup(void) {
  fault_dir(root, sizeof root);
  snprintf(source_dir, sizeof source_dir, "%s/source", root);
  snprintf(incoming, sizeof incoming, "%s/incoming", root);
  dw_options_init(&options);
  options.segment_bytes = 65536;
  options.memtable_bytes = 1u << 20;
  options.log = quiet;
  ck_assert_int_eq(engine_open(source_dir, &options, &(struct engine_config){.threads = false}, &e), DW_OK);
  for (int i = 0; i < 20; i++) {
    char key[16], val[5000];
    snprintf(key, sizeof key, "key-%d", i);
    for (size_t k = 0; k < sizeof val; k++) val[k] = (char)rand();
    ck_assert_int_eq(dw_put(e, NULL, key, strlen(key), val, sizeof val, NULL), DW_OK);
  }
}

static void teardown(void) {
  ck_assert_int_eq(engine_close(e), DW_OK);
  env_remove_tree(env_posix(), root);
}

int main(void) {
  Suite *s = suite_create("a checkpoint whose calls fail one by one");
  TCase *t = tcase_create("calls");
  tcase_set_timeout(t, 300);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_loop_test(t, every_call_of_a_checkpoint_on_its_way_fails_in_turn, 0, KINDS);
  suite_add_tcase(s, t);
  return check_main(s);
}
