/* A primary on a real file system that fills up, and on one that turns read-only: no injected errors, but what kernel
 * and RocksDB make of them.
 *
 * A file system of the test's own is mounted in a namespace of its process; where that is not permitted the tests say
 * that they were skipped.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/dabbawal.h"
#include "tests/support/check_main.h"
#include "wal/base/env.h"

static char root[200], disk[256], dir[300], ballast[300];
static dw_options options;
static dw_engine *e;
static bool mounted;

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg, (void)level, (void)line;
}

static bool mount_own(const char *at) {
  uid_t uid = getuid();
  if (unshare(CLONE_NEWNS) != 0) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
    FILE *map = fopen("/proc/self/uid_map", "w");
    if (!map) return false;
    fprintf(map, "0 %u 1", uid);
    if (fclose(map) != 0) return false;
  }
  return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 && mount("tmpfs", at, "tmpfs", 0, "size=24m") == 0;
}

static void setup(void) {
  snprintf(root, sizeof root, "%s/dw-disk-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(root));
  snprintf(disk, sizeof disk, "%s/disk", root);
  snprintf(dir, sizeof dir, "%s/db", disk);
  snprintf(ballast, sizeof ballast, "%s/ballast", disk);
  ck_assert_int_eq(mkdir(disk, 0755), 0);
  mounted = mount_own(disk);
  if (!mounted) fprintf(stderr, "skipped: mount is not permitted here\n");
  dw_options_init(&options);
  options.segment_bytes = 1u << 20;
  options.memtable_bytes = 1u << 20;
  options.ack_timeout_ms = 300;
  options.log = quiet;
}

static void teardown(void) {
  if (mounted) umount2(disk, MNT_DETACH);
  env_remove_tree(env_posix(), root);
}

static void open_engine(void) {
  int rc = dw_open(dir, &options, &e);
  ck_assert_msg(rc == DW_OK, "open: %s: %s", dw_rc_name(rc), dw_last_error());
}

static int put(int i, dw_lsn *lsn) {
  static char val[10000];
  for (size_t k = 0; k < sizeof val; k++) val[k] = (char)(rand() >> 8);
  memcpy(val, &i, sizeof i);
  return dw_put(e, NULL, &i, sizeof i, val, sizeof val, lsn);
}

static int get(int i) {
  dw_value v;
  int rc = dw_get(e, NULL, &i, sizeof i, &v);
  if (rc) return rc;
  ck_assert(v.size == 10000 && memcmp(v.data, &i, sizeof i) == 0);
  dw_value_release(&v);
  return DW_OK;
}

START_TEST(a_full_disk_refuses_writes_serves_reads_and_takes_writes_again_once_there_is_space) {
  if (!mounted) return;
  int fd = open(ballast, O_CREAT | O_RDWR, 0644), i = 0, full = 0;
  ck_assert_int_eq(posix_fallocate(fd, 0, 14 << 20), 0);
  open_engine();
  static char state[5000]; /* 1: answered OK, 2: in doubt, 3: not done */
  dw_lsn lsn;
  while (full < 5) {
    ck_assert_int_lt(i, 4000);
    int rc = put(i, &lsn);
    if (rc) ck_assert_msg(rc == DW_NO_SPACE || rc == DW_TIMEOUT, "put %d: %s: %s", i, dw_rc_name(rc), dw_last_error());
    if (rc == DW_NO_SPACE) ck_assert_ptr_nonnull(strstr(dw_last_error(), dir));
    full += rc == DW_NO_SPACE;
    state[i++] = rc == DW_OK ? 1 : lsn ? 2 : 3;
  }
  ck_assert_int_eq(get(0), DW_OK);
  dw_status s;
  dw_status_get(e, &s);
  if (s.failed)
    ck_assert_ptr_nonnull(strstr(s.error, "No space left")); /* the store; a log without space just refuses */
  ck_assert_int_eq(ftruncate(fd, 0), 0);
  int rc = DW_OK;
  for (int tries = 0; tries < 200; tries++) { /* RocksDB looks for space every few seconds */
    rc = put(i, &lsn);
    state[i++] = rc == DW_OK ? 1 : lsn ? 2 : 3;
    if (rc == DW_OK) break;
    nanosleep(&(struct timespec){0, 100000000}, NULL);
  }
  ck_assert_msg(rc == DW_OK, "no writes although there is space: %s: %s", dw_rc_name(rc), dw_last_error());
  ck_assert_int_eq(dw_close(e), DW_OK);
  open_engine();
  for (int k = 0; k < i; k++) {
    rc = get(k);
    ck_assert_msg(state[k] == 2 || (rc == DW_OK) == (state[k] == 1), "write %d ended in state %d, now: %s", k, state[k],
                  dw_rc_name(rc));
  }
  ck_assert_int_eq(dw_close(e), DW_OK);
  close(fd);
}
END_TEST

START_TEST(a_disk_that_is_full_from_the_start_is_said_at_open_and_leaves_nothing_in_the_way) {
  if (!mounted) return;
  int fd = open(ballast, O_CREAT | O_RDWR, 0644);
  ck_assert_int_eq(posix_fallocate(fd, 0, (24 << 20) - 16384), 0);
  int rc = dw_open(dir, &options, &e);
  ck_assert_msg(rc == DW_NO_SPACE, "open: %s: %s", dw_rc_name(rc), dw_last_error());
  ck_assert_ptr_nonnull(strstr(dw_last_error(), dir));
  ck_assert_int_eq(ftruncate(fd, 0), 0);
  open_engine();
  ck_assert_int_eq(put(1, NULL), DW_OK);
  ck_assert_int_eq(dw_close(e), DW_OK);
  close(fd);
}
END_TEST

START_TEST(a_read_only_file_system_is_named_at_open_and_everything_is_there_once_it_is_writable) {
  if (!mounted) return;
  open_engine();
  for (int i = 0; i < 50; i++) ck_assert_int_eq(put(i, NULL), DW_OK);
  ck_assert_int_eq(dw_close(e), DW_OK);
  ck_assert_int_eq(mount(NULL, disk, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
  int rc = dw_open(dir, &options, &e);
  ck_assert_msg(rc == DW_IO, "open: %s: %s", dw_rc_name(rc), dw_last_error());
  ck_assert_msg(strstr(dw_last_error(), dir) && strstr(dw_last_error(), "Read-only"), "%s", dw_last_error());
  ck_assert_int_eq(mount(NULL, disk, NULL, MS_REMOUNT, "size=24m"), 0);
  open_engine();
  for (int i = 0; i < 50; i++) ck_assert_int_eq(get(i), DW_OK);
  ck_assert_int_eq(put(50, NULL), DW_OK);
  ck_assert_int_eq(dw_close(e), DW_OK);
}
END_TEST

int main(void) {
  Suite *s = suite_create("disks that fill up or turn read-only");
  TCase *t = tcase_create("disk");
  tcase_set_timeout(t, 120);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, a_full_disk_refuses_writes_serves_reads_and_takes_writes_again_once_there_is_space);
  tcase_add_test(t, a_disk_that_is_full_from_the_start_is_said_at_open_and_leaves_nothing_in_the_way);
  tcase_add_test(t, a_read_only_file_system_is_named_at_open_and_everything_is_there_once_it_is_writable);
  suite_add_tcase(s, t);
  return check_main(s);
}
