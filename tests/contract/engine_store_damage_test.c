/* What damaged files and malformed input do to a store: an error with a name in it, or right data; never a
 * crash, never data that contradicts the marker. */
#include <check.h>
#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/store_fixture.h"
#include "wal/base/env.h"
#include "wal/base/hash.h"
#include "wal/base/status.h"

static struct store_fixture f;

/* ---- the marker ---------------------------------------------------------------------------- */

START_TEST(a_marker_survives_its_encoding_and_no_other_bytes_pass) {
  struct wal_pos pos = pos_at(123456789), back;
  uint8_t m[STORE_MARKER_BYTES];
  store_marker_encode(&pos, m);
  ck_assert_int_eq(store_marker_decode(m, sizeof m, &back), DW_OK);
  ck_assert(pos_eq(&pos, &back));
  for (size_t bit = 0; bit < sizeof m * 8; bit++) {
    m[bit / 8] ^= (uint8_t)(1 << bit % 8);
    int rc = store_marker_decode(m, sizeof m, &back);
    ck_assert_msg(rc == (bit > 0 && bit < 32 ? DW_UNSUPPORTED : DW_CORRUPT), "bit %zu: %d", bit, rc);
    m[bit / 8] ^= (uint8_t)(1 << bit % 8);
  }
  for (size_t n = 0; n < sizeof m; n++) ck_assert_int_eq(store_marker_decode(m, n, &back), DW_CORRUPT);
}
END_TEST

/* ---- malformed bodies (which the engine never lets through) -------------------------------- */

START_TEST(a_malformed_body_is_refused_and_leaves_the_files_right) {
  static const struct {
    const char *bytes;
    size_t n;
  } bad[] = {
      {"\1\2\1kx", 5},                     /* value length beyond the end */
      {"\1\3\1kk\1v\1", 8},                /* ends after a tag */
      {"\1\xff\xff\xff\xff\x0f\1", 7},     /* key of 4 GiB */
      {"\1\3\1kk\xff\xff\xff\xff\xff", 9}, /* endless varint */
      {"\x7f\3\1kk\1v", 7},                /* unknown tag */
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    fixture_init(&f, _i);
    fixture_open(&f);
    for (dw_lsn lsn = 1; lsn <= 5; lsn++) ck_assert_int_eq(history_write(&f, lsn, 0), DW_OK);
    ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK);
    ck_assert_int_eq(history_write(&f, 6, 0), DW_OK);
    struct store_body bodies[2] = {{NULL, 0, 0}, {(const uint8_t *)bad[i].bytes, bad[i].n, 1}};
    struct test_batch b = {0};
    batch_put(&b, "slot-001", 8, "half", 4);
    bodies[0] = (struct store_body){b.body.data, b.body.len, 1};
    struct wal_pos pos = pos_at(7);
    ck_assert_int_eq(f.ops->write(f.store, bodies, 2, NULL, 0, &pos), DW_CORRUPT);
    batch_free(&b);
    ck_assert_uint_eq(marker_lsn(&f, false), 6);
    fixture_reopen(&f);
    dw_lsn at = history_check(f.ops, f.store, 0);
    ck_assert(at == 5 || at == 6);
    ck_assert_int_eq(history_write(&f, at + 1, 0), DW_OK);
    fixture_free(&f);
  }
}
END_TEST

/* ---- files --------------------------------------------------------------------------------- */

static void write_file(const char *path, const void *data, size_t n) {
  FILE *fp = fopen(path, "wb");
  ck_assert_ptr_nonnull(fp);
  ck_assert_uint_eq(fwrite(data, 1, n, fp), n);
  ck_assert_int_eq(fclose(fp), 0);
}

static void copy_tree(const char *from, const char *to) {
  ck_assert_int_eq(mkdir(to, 0755), 0);
  DIR *d = opendir(from);
  ck_assert_ptr_nonnull(d);
  for (struct dirent *e; (e = readdir(d));) {
    if (e->d_name[0] == '.') continue;
    char a[PATH_MAX], b[PATH_MAX];
    join(a, sizeof a, from, e->d_name);
    join(b, sizeof b, to, e->d_name);
    uint8_t *data;
    size_t n;
    ck_assert_int_eq(env_read_file(f.opt.env, a, 1u << 30, &data, &n), DW_OK);
    write_file(b, data, n);
    free(data);
  }
  closedir(d);
}

enum damage { GARBAGE, EMPTY, HALF, FLIPPED_START, FLIPPED_MIDDLE, FLIPPED_END, GONE, DAMAGES };

static void damage_file(const char *path, enum damage how) {
  uint8_t *data;
  size_t n;
  ck_assert_int_eq(env_read_file(f.opt.env, path, 1u << 30, &data, &n), DW_OK);
  unsigned seed = 7;
  switch (how) {
  case GARBAGE:
    for (size_t i = 0; i < n; i++) data[i] = (uint8_t)rand_r(&seed);
    break;
  case EMPTY: n = 0; break;
  case HALF: n /= 2; break;
  case FLIPPED_START: data[n / 100] ^= 0x40; break;
  case FLIPPED_MIDDLE: data[n / 2] ^= 0x40; break;
  case FLIPPED_END: data[n - 1 - n / 100] ^= 0x40; break;
  case GONE:
  case DAMAGES: break;
  }
  if (how == GONE) {
    ck_assert_int_eq(unlink(path), 0);
  } else {
    write_file(path, data, n);
  }
  free(data);
}

static bool is_clean_error(int rc) {
  return rc == DW_CORRUPT || rc == DW_IO || rc == DW_NOT_FOUND || rc == DW_UNSUPPORTED;
}

/* Opens and reads everything: DW_OK if what is there is right. */
static int open_and_read(const char *dir, bool read_only) {
  struct store_options opt = f.opt;
  opt.must_exist = true;
  opt.read_only = read_only;
  struct store *s;
  int rc = f.ops->open(dir, &opt, &s);
  char msg[512];
  if (rc) {
    dw_error_copy(msg, sizeof msg);
    ck_assert_msg(is_clean_error(rc), "%d %s", rc, msg);
    ck_assert_msg(strstr(msg, dir) != NULL, "\"%s\" does not name %s", msg, dir);
    return rc;
  }
  struct buf all = {0};
  rc = dump(f.ops, s, NS_USER, &all);
  if (rc) {
    dw_error_copy(msg, sizeof msg);
    ck_assert_msg(rc == DW_CORRUPT || rc == DW_IO, "%d %s", rc, msg);
    struct wal_pos pos;
    char *val;
    size_t n;
    (void)f.ops->marker(s, true, &pos);
    if (f.ops->get(s, "\1last", 5, &val, &n) == DW_OK) f.ops->free_value(val);
  } else {
    history_check(f.ops, s, 500);
  }
  buf_free(&all);
  f.ops->close(s);
  return rc;
}

START_TEST(damaged_files_are_errors_or_harmless) {
  fixture_init(&f, _i);
  fixture_open(&f);
  for (dw_lsn i = 1; i <= 200; i++) {
    ck_assert_int_eq(history_write(&f, i, 500), DW_OK);
    if (i % 60 == 0) ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK); /* several files */
  }
  fixture_close(&f);
  unsigned refused = 0, tried = 0;
  DIR *d = opendir(f.dir);
  ck_assert_ptr_nonnull(d);
  for (struct dirent *e; (e = readdir(d));) {
    if (e->d_name[0] == '.' || strncmp(e->d_name, "LOG", 3) == 0) continue;
    for (int how = 0; how < DAMAGES; how++) {
      char dir[PATH_MAX / 2 + 16], path[PATH_MAX];
      join(dir, sizeof dir, f.root, "copy");
      copy_tree(f.dir, dir);
      join(path, sizeof path, dir, e->d_name);
      struct stat st;
      ck_assert_int_eq(stat(path, &st), 0);
      if (st.st_size > 0) { /* LOCK and an unused WAL are empty */
        damage_file(path, (enum damage)how);
        bool bad = open_and_read(dir, true) != DW_OK;
        bad = open_and_read(dir, false) != DW_OK || bad;
        tried++;
        refused += bad;
        /* Nobody may take these for whole. */
        bool vital = strcmp(e->d_name, "CURRENT") == 0 || strcmp(e->d_name, "store.image") == 0 ||
                     (strstr(e->d_name, ".sst") != NULL && how != FLIPPED_END);
        ck_assert_msg(bad || !vital, "damage %d of %s passed", how, e->d_name);
      }
      ck_assert_int_eq(env_remove_tree(f.opt.env, dir), DW_OK);
    }
  }
  closedir(d);
  ck_assert_uint_ge(tried, DAMAGES);
  ck_assert_uint_gt(refused, tried / 3);
  fixture_free(&f);
}
END_TEST

/* A file system of 4 MiB of this process' own, where the kernel lets us; its mounts end with the process. */
static bool mount_small_disk(const char *dir) {
  uid_t uid = getuid();
  if (unshare(CLONE_NEWNS) != 0) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
    FILE *map = fopen("/proc/self/uid_map", "w");
    if (!map) return false;
    fprintf(map, "0 %u 1", uid);
    if (fclose(map) != 0) return false;
  }
  return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 && mount("tmpfs", dir, "tmpfs", 0, "size=4m") == 0;
}

static void fill_disk(const char *path) {
  static const char zeros[4096];
  FILE *fp = fopen(path, "wb");
  ck_assert_ptr_nonnull(fp);
  setvbuf(fp, NULL, _IONBF, 0);
  while (fwrite(zeros, 1, sizeof zeros, fp) == sizeof zeros) continue;
  fclose(fp);
}

START_TEST(a_full_disk_is_no_space_and_a_reopen_recovers) {
  fixture_init(&f, _i);
  char disk[PATH_MAX / 2 + 8], filler[PATH_MAX / 2 + 16];
  join(disk, sizeof disk, f.root, "disk");
  ck_assert_int_eq(mkdir(disk, 0755), 0);
  if (!mount_small_disk(disk)) {
    fprintf(stderr, "skipped: a_full_disk_is_no_space_and_a_reopen_recovers: mount is not permitted here\n");
    fixture_free(&f);
    return;
  }
  join(f.dir, sizeof f.dir, disk, "store");
  join(filler, sizeof filler, disk, "filler");
  fixture_open(&f);
  for (dw_lsn i = 1; i <= 5; i++) ck_assert_int_eq(history_write(&f, i, 5000), DW_OK);
  ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK);
  for (dw_lsn i = 6; i <= 9; i++) ck_assert_int_eq(history_write(&f, i, 5000), DW_OK);
  fill_disk(filler);
  ck_assert_int_eq(f.ops->flush(f.store, true), DW_NO_SPACE);
  char msg[512];
  dw_error_copy(msg, sizeof msg);
  ck_assert_msg(strstr(msg, f.dir) != NULL, "%s", msg);
  ck_assert_int_eq(history_write(&f, 10, 5000), DW_NO_SPACE);
  struct store_health h;
  f.ops->health(f.store, &h);
  ck_assert_uint_gt(h.background_errors, 0);
  ck_assert_uint_eq(marker_lsn(&f, true), 5);
  ck_assert_uint_eq(history_check(f.ops, f.store, 5000), 9);
  fixture_close(&f);
  ck_assert_int_eq(unlink(filler), 0);
  fixture_open(&f);
  ck_assert_uint_eq(history_check(f.ops, f.store, 5000), 5);
  ck_assert_int_eq(history_write(&f, 6, 5000), DW_OK);
  ck_assert_int_eq(f.ops->flush(f.store, true), DW_OK);
  fixture_close(&f);
  ck_assert_int_eq(umount(disk), 0);
  fixture_free(&f);
}
END_TEST

/* ---- the memory store's image -------------------------------------------------------------- */

static void put_image(uint8_t *image, size_t n) { /* with a right checksum */
  struct hash128 h = hash128(image, n - 16);
  memcpy(image + n - 16, h.b, 16);
  char path[PATH_MAX + 16];
  join(path, sizeof path, f.dir, "store.image");
  write_file(path, image, n);
}

static int open_rc(void) {
  int rc = f.ops->open(f.dir, &f.opt, &f.store);
  if (!rc) fixture_close(&f);
  return rc;
}

START_TEST(an_image_with_a_right_checksum_and_wrong_contents_is_corrupt) {
  fixture_init(&f, FIXTURE_MEM);
  ck_assert_int_eq(mkdir(f.dir, 0755), 0);
  /* header 24, entry (8 + 2 + 1) twice, hash 16 */
  uint8_t good[24 + 2 * 11 + 16] = {0};
  memcpy(good, "DWMEMIMG", 8);
  put_u32(good + 8, 1);
  put_u64(good + 16, 2);
  for (int i = 0; i < 2; i++) {
    uint8_t *e = good + 24 + 11 * i;
    put_u32(e, 2);
    put_u32(e + 4, 1);
    e[8] = NS_USER;
    e[9] = (uint8_t)('a' + i);
    e[10] = 'v';
  }
  uint8_t bad[sizeof good];
  put_image(good, sizeof good);
  ck_assert_int_eq(open_rc(), DW_OK);
#define TRY(want, change)                                                                                              \
  do {                                                                                                                 \
    memcpy(bad, good, sizeof bad);                                                                                     \
    change;                                                                                                            \
    put_image(bad, sizeof bad);                                                                                        \
    ck_assert_int_eq(open_rc(), want);                                                                                 \
  } while (0)
  TRY(DW_CORRUPT, bad[0] = 'X');
  TRY(DW_UNSUPPORTED, put_u32(bad + 8, 2));
  TRY(DW_CORRUPT, put_u64(bad + 16, 1)); /* bytes left over */
  TRY(DW_CORRUPT, put_u64(bad + 16, 3)); /* an entry too many */
  TRY(DW_CORRUPT, put_u64(bad + 16, UINT64_MAX));
  TRY(DW_CORRUPT, put_u32(bad + 24, UINT32_MAX)); /* key beyond the end */
  TRY(DW_CORRUPT, put_u32(bad + 28, 100));        /* value likewise */
  TRY(DW_CORRUPT, bad[24 + 9] = 'b');             /* equal keys */
  TRY(DW_CORRUPT, bad[24 + 9] = 'c');             /* descending keys */
#undef TRY
  put_image(good, sizeof good);
  ck_assert_int_eq(open_rc(), DW_OK);
  fixture_free(&f);
}
END_TEST

START_TEST(a_foreign_value_under_the_marker_key_is_corrupt) {
  fixture_init(&f, FIXTURE_MEM);
  ck_assert_int_eq(mkdir(f.dir, 0755), 0);
  uint8_t image[24 + 8 + STORE_MARKER_KEY_BYTES + 5 + 16] = {0};
  memcpy(image, "DWMEMIMG", 8);
  put_u32(image + 8, 1);
  put_u64(image + 16, 1);
  put_u32(image + 24, STORE_MARKER_KEY_BYTES);
  put_u32(image + 28, 5);
  memcpy(image + 32, STORE_MARKER_KEY, STORE_MARKER_KEY_BYTES);
  put_image(image, sizeof image);
  ck_assert_int_eq(open_rc(), DW_CORRUPT);
  fixture_free(&f);
}
END_TEST

int main(void) {
  Suite *s = suite_create("engine/store damage");
  TCase *tc = tcase_create("damage");
  tcase_set_timeout(tc, 120);
  tcase_add_test(tc, a_marker_survives_its_encoding_and_no_other_bytes_pass);
  tcase_add_loop_test(tc, a_malformed_body_is_refused_and_leaves_the_files_right, 0, FIXTURE_KINDS);
  tcase_add_loop_test(tc, damaged_files_are_errors_or_harmless, 0, FIXTURE_ROCKSDB + 1);
  tcase_add_loop_test(tc, a_full_disk_is_no_space_and_a_reopen_recovers, 0, FIXTURE_KINDS);
  tcase_add_test(tc, an_image_with_a_right_checksum_and_wrong_contents_is_corrupt);
  tcase_add_test(tc, a_foreign_value_under_the_marker_key_is_corrupt);
  suite_add_tcase(s, tc);
  SRunner *sr = srunner_create(s);
  srunner_run_all(sr, CK_ENV);
  int failed = srunner_ntests_failed(sr);
  srunner_free(sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
