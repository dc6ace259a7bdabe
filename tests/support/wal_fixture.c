#include "tests/support/wal_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/support/check_main.h"

struct wal_fixture fx;

static void on_log(void *arg, int level, const char *line) {
  (void)arg, (void)level;
  snprintf(fx.said, sizeof fx.said, "%s", line);
}

void wal_fixture_start(void) {
  snprintf(fx.dir, sizeof fx.dir, "%s/dw-wal-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(fx.dir));
  fx.faults = fault_env_create(env_posix());
  fault_env_boot(fx.faults, 1);
  fx.options = (struct wal_options){.env = fault_env_env(fx.faults),
                                    .cluster_id = {{9, 9}},
                                    .node_id = 1,
                                    .segment_bytes = 65536,
                                    .tail_cache_bytes = 16384,
                                    .log = on_log};
  fx.options.base = fx.options.must_reach = wal_genesis(&fx.options.cluster_id);
  fx.said[0] = 0;
  fx.w = NULL;
}

void wal_fixture_end(void) {
  if (fx.w) wal_close(fx.w);
  env_remove_tree(env_posix(), fx.dir);
  fault_env_destroy(fx.faults);
}

int try_open(void) {
  int rc = wal_open(fx.dir, &fx.options, &fx.rec, &fx.w);
  if (rc) fx.w = NULL;
  return rc;
}

void open_wal(void) {
  int rc = try_open();
  char why[500];
  dw_error_copy(why, sizeof why);
  ck_assert_msg(rc == DW_OK, "open: %d %s", rc, why);
}

void close_wal(void) {
  ck_assert_int_eq(wal_close(fx.w), DW_OK);
  fx.w = NULL;
}

void crash(void) {
  char cmd[1200];
  snprintf(cmd, sizeof cmd, "cp -a %s %s.crash", fx.dir, fx.dir);
  ck_assert_int_eq(system(cmd), 0);
  wal_close(fx.w);
  fx.w = NULL;
  snprintf(cmd, sizeof cmd, "rm -rf %s && mv %s.crash %s", fx.dir, fx.dir, fx.dir);
  ck_assert_int_eq(system(cmd), 0);
}

struct wal_pos end_of_log(void) {
  struct wal_stat st;
  wal_stat(fx.w, &st);
  return st.end;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

struct wal_block *noise_block(size_t n, uint8_t fill) {
  static uint8_t payload[1 << 20];
  uint32_t x = fill + 1u;
  for (size_t i = 0; i < n; i++) payload[i] = (uint8_t)(x = x * 1664525u + 1013904223u, x >> 24);
  struct block_header like = {.commit_count = 1, .need = {1, 2, 2, false, 0}, .wall_ns = 1, .origin_id = 1};
  struct wal_block *b;
  ck_assert_int_eq(wal_block_create(&like, payload, n, 1, &b), DW_OK);
  return b;
}

int append_block(struct wal_block *b, uint64_t epoch) {
  int rc = wal_append(fx.w, &b, 1, epoch, 0);
  wal_block_unref(b);
  return rc;
}

int append(size_t n, uint8_t fill) {
  return append_block(noise_block(n, fill), 1);
}

void append_many(int n, size_t bytes, bool sync) {
  for (int i = 0; i < n; i++) {
    ck_assert_int_eq(append(bytes, (uint8_t)i), DW_OK);
    if (sync) ck_assert_int_eq(wal_sync(fx.w, NULL), DW_OK);
  }
}

/* ---- damage ------------------------------------------------------------------------------------------------- */

static int on_block(void *arg, const char *path, uint64_t off, const struct wal_block *b) {
  struct find_block *f = arg;
  if (b->h.first_lsn != f->lsn) return 0;
  snprintf(f->path, sizeof f->path, "%s", path);
  f->off = off;
  f->total = block_total_bytes(&b->h);
  return 1;
}

struct find_block find(dw_lsn lsn) {
  struct find_block f = {.lsn = lsn};
  struct wal_inspect how = {.on_block = on_block, .arg = &f};
  struct wal_inspect_report rep;
  wal_inspect(env_posix(), fx.dir, &how, &rep);
  ck_assert_msg(f.path[0], "LSN %llu not found", (unsigned long long)lsn);
  return f;
}

void poke(const char *path, uint64_t off, const void *bytes, size_t n) {
  int fd = open(path, O_RDWR);
  ck_assert_int_ge(fd, 0);
  ck_assert_int_eq(pwrite(fd, bytes, n, (off_t)off), (ssize_t)n);
  close(fd);
}

void flip(const char *path, uint64_t off) {
  int fd = open(path, O_RDONLY);
  uint8_t byte;
  ck_assert_int_eq(pread(fd, &byte, 1, (off_t)off), 1);
  close(fd);
  byte ^= 0x40;
  poke(path, off, &byte, 1);
}

void wipe(const char *path, uint64_t off, size_t n) {
  static const uint8_t zeros[8192];
  ck_assert_uint_le(n, sizeof zeros);
  poke(path, off, zeros, n);
}
