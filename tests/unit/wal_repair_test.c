/* Damage of every kind to real segment files: found where it is, and rebuilt from a peer's blocks, byte for byte.
 *
 * The peer is an untouched copy of the directory, read through cursors of an own handle.
 */
#include "tests/support/check_main.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/fault_env.h"
#include "wal/repair.h"
#include "wal/wal.h"

static char root[200], dir[256], peer_dir[256], good_dir[256];
static struct fault_env *faults;
static struct wal_options options;
static struct wal_recovery rec;
static struct wal *w, *peer;

static void setup(void) {
  snprintf(root, sizeof root, "%s/dw-repair-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(root));
  snprintf(dir, sizeof dir, "%s/log", root);
  snprintf(peer_dir, sizeof peer_dir, "%s/peer", root);
  snprintf(good_dir, sizeof good_dir, "%s/good", root);
  faults = fault_env_create(env_posix());
  fault_env_boot(faults, 1);
  options = (struct wal_options){.env = fault_env_env(faults),
                                 .cluster_id = {{9, 9}},
                                 .node_id = 1,
                                 .segment_bytes = 65536,
                                 .tail_cache_bytes = 4096};
  options.base = options.must_reach = wal_genesis(&options.cluster_id);
  w = peer = NULL;
}

static void teardown(void) {
  if (w) wal_close(w);
  if (peer) wal_close(peer);
  env_remove_tree(env_posix(), root);
  fault_env_destroy(faults);
}

static void run(const char *fmt, const char *a, const char *b) {
  char cmd[3000];
  snprintf(cmd, sizeof cmd, fmt, a, b);
  ck_assert_int_eq(system(cmd), 0);
}

static void open_at(const char *path, struct wal **out) {
  int rc = wal_open(path, &options, &rec, out);
  char why[500];
  dw_error_copy(why, sizeof why);
  ck_assert_msg(rc == DW_OK, "open %s: %d %s", path, rc, why);
}

static void append(size_t n, unsigned fill, uint64_t epoch, bool record) {
  static uint8_t payload[1 << 18];
  uint32_t x = fill + 1u;
  for (size_t i = 0; i < n; i++) payload[i] = (uint8_t)(x = x * 1664525u + 1013904223u, x >> 24);
  struct block_header like = {.commit_count = record ? 0 : 1,
                              .kind = record ? BLOCK_EPOCH : BLOCK_COMMITS,
                              .need = {1, 2, 2, false, 0},
                              .wall_ns = 1,
                              .origin_id = 1};
  struct wal_block *b;
  ck_assert_int_eq(wal_block_create(&like, payload, n, 1, &b), DW_OK);
  ck_assert_int_eq(wal_append(w, &b, 1, epoch, 0), DW_OK);
  wal_block_unref(b);
}

/* Segments of about 80 blocks each with marks between some of them and an epoch record now and then; closed. */
static void build(unsigned blocks) {
  open_at(dir, &w);
  for (unsigned i = 0; i < blocks; i++) {
    append(600 + 8 * (i % 7), i, 1 + i / 50, false);
    if (i % 10 == 9) ck_assert_int_eq(wal_sync(w, NULL), DW_OK);
    if (i % 50 == 49) append(WAL_EPOCH_RECORD_BYTES, i, 2 + i / 50, true);
  }
  ck_assert_int_eq(wal_close(w), DW_OK);
  w = NULL;
  run("cp -a %s %s", dir, peer_dir);
  run("cp -a %s %s", dir, good_dir);
  open_at(peer_dir, &peer);
}

/* ---- looking at files ------------------------------------------------------------------------------ */

/* Where things stand in the undamaged copy. */
struct place {
  dw_lsn lsn;   /* looked for */
  unsigned nth; /* or: the nth block of segment `seq` */
  uint64_t seq;
  char name[WAL_SEGMENT_NAME_BYTES];
  uint64_t off;
  size_t total;
  dw_lsn found;
  unsigned count;
  bool epoch;
};

static int on_block(void *arg, const char *path, uint64_t off, const struct wal_block *b) {
  struct place *p = arg;
  const char *name = strrchr(path, '/') + 1;
  dw_lsn first;
  uint64_t seq;
  ck_assert(segment_name_parse(name, &first, &seq));
  bool hit = p->seq ? seq == p->seq && p->count++ == p->nth
                    : b->h.first_lsn == p->lsn && (b->h.kind == BLOCK_EPOCH) == p->epoch;
  if (!hit) return 0;
  snprintf(p->name, sizeof p->name, "%s", name);
  p->off = off;
  p->total = block_total_bytes(&b->h);
  p->found = b->h.first_lsn;
  return 1;
}

static struct place place(struct place p) {
  struct wal_inspect how = {.on_block = on_block, .arg = &p};
  struct wal_inspect_report rep;
  wal_inspect(env_posix(), good_dir, &how, &rep);
  ck_assert_msg(p.name[0], "block not found");
  return p;
}
static struct place block_of(dw_lsn lsn) {
  return place((struct place){.lsn = lsn});
}
static struct place nth_of(uint64_t seq, unsigned nth) {
  return place((struct place){.seq = seq, .nth = nth});
}

static void poke(const char *name, uint64_t off, const void *bytes, size_t n) {
  char path[600];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  int fd = open(path, O_RDWR);
  ck_assert_int_ge(fd, 0);
  ck_assert_int_eq(pwrite(fd, bytes, n, (off_t)off), (ssize_t)n);
  close(fd);
}

static void peek(const char *in, const char *name, uint64_t off, void *bytes, size_t n) {
  char path[600];
  snprintf(path, sizeof path, "%s/%s", in, name);
  int fd = open(path, O_RDONLY);
  ck_assert_int_ge(fd, 0);
  ck_assert_int_eq(pread(fd, bytes, n, (off_t)off), (ssize_t)n);
  close(fd);
}

static void flip(const char *name, uint64_t off) {
  uint8_t byte;
  peek(dir, name, off, &byte, 1);
  byte ^= 0x40;
  poke(name, off, &byte, 1);
}

/* ---- repairing -------------------------------------------------------------------------------------- */

#define FOUND_MAX 16
static struct wal_damage found[FOUND_MAX];
static unsigned found_n;

static int on_damage(void *arg, const struct wal_damage *d) {
  (void)arg;
  ck_assert_uint_lt(found_n, FOUND_MAX);
  found[found_n++] = *d;
  return 0;
}

static void find_damage(void) {
  found_n = 0;
  struct wal_find f = {
      .env = options.env, .dir = dir, .cluster_id = options.cluster_id, .node_id = 1, .on_damage = on_damage};
  ck_assert_int_eq(wal_find_damage(&f), DW_OK);
}

/* How a peer answers a question: up to `batch` blocks. */
static size_t ask(struct wal *of, const struct wal_pos *from, dw_lsn upto, struct wal_block **out, size_t batch) {
  struct wal_cursor *c;
  size_t n = 0;
  if (wal_cursor_open(of, from, &c)) return SIZE_MAX;
  while (n < batch && wal_cursor_next(c, upto, &out[n]) == DW_OK) n++;
  wal_cursor_close(c);
  return n;
}

static int rebuild_with(struct wal *of, const struct wal_damage *d, struct wal *live, size_t batch) {
  struct wal_repair *r;
  int rc = wal_repair_start(options.env, dir, d, live, false, &r);
  if (rc) return rc;
  struct wal_pos from;
  dw_lsn upto;
  int rounds = 0;
  while ((rc = wal_repair_need(r, &from, &upto)) == DW_OK) {
    struct wal_block *blocks[64];
    ck_assert_int_lt(rounds++, 5000);
    size_t n = ask(of, &from, upto, blocks, batch);
    if (n == SIZE_MAX) {
      rc = DW_DIVERGED;
      break;
    }
    rc = wal_repair_give(r, blocks, n);
    for (size_t i = 0; i < n; i++) wal_block_unref(blocks[i]);
    if (rc) break;
  }
  if (rc == DW_NOT_FOUND) rc = wal_repair_finish(r);
  char why[400];
  dw_error_copy(why, sizeof why);
  wal_repair_free(r);
  return rc ? dw_fail(rc, "%s", why) : DW_OK;
}

static void rebuild_all(void) {
  find_damage();
  ck_assert_uint_gt(found_n, 0);
  for (unsigned i = 0; i < found_n; i++) {
    int rc = rebuild_with(peer, &found[i], NULL, 3);
    char why[500];
    dw_error_copy(why, sizeof why);
    ck_assert_msg(rc == DW_OK, "%s: %d %s", found[i].name, rc, why);
  }
  find_damage();
  ck_assert_uint_eq(found_n, 0);
}

/* All blocks stand in the log as in the untouched copy; at the same offsets, unless marks were lost among them. */
struct listing {
  struct buf b;
  bool places;
};
static int list_block(void *arg, const char *path, uint64_t off, const struct wal_block *b) {
  struct listing *l = arg;
  const char *name = strrchr(path, '/') + 1;
  ck_assert_int_eq(buf_append(&l->b, name, strlen(name)), DW_OK);
  if (l->places) ck_assert_int_eq(buf_append(&l->b, &off, sizeof off), DW_OK);
  return buf_append(&l->b, b->bytes, block_total_bytes(&b->h));
}
static void assert_blocks(bool places) {
  struct listing a = {.places = places}, b = {.places = places};
  struct wal_inspect_report ra, rb;
  struct wal_inspect ha = {.on_block = list_block, .arg = &a}, hb = {.on_block = list_block, .arg = &b};
  int rc = wal_inspect(env_posix(), dir, &ha, &ra);
  ck_assert_msg(rc == DW_OK, "%s", ra.problem);
  ck_assert_int_eq(wal_inspect(env_posix(), good_dir, &hb, &rb), DW_OK);
  ck_assert_uint_eq(ra.blocks, rb.blocks);
  ck_assert(hash128_eq(&ra.last.chain, &rb.last.chain));
  ck_assert_uint_eq(a.b.len, b.b.len);
  ck_assert_int_eq(memcmp(a.b.data, b.b.data, a.b.len), 0);
  buf_free(&a.b);
  buf_free(&b.b);
}

static void assert_whole(void) {
  assert_blocks(true);
}

static void assert_opens_whole(void) {
  open_at(dir, &w);
  ck_assert_int_eq(wal_close(w), DW_OK);
  w = NULL;
  assert_whole();
}

static bool same_file(const char *name) {
  char cmd[3000];
  snprintf(cmd, sizeof cmd, "cmp -s %s/%s %s/%s", dir, name, good_dir, name);
  return system(cmd) == 0;
}

/* ---- tests -------------------------------------------------------------------------------------------- */

START_TEST(an_undamaged_log_has_no_damage) {
  build(300);
  find_damage();
  ck_assert_uint_eq(found_n, 0);
}
END_TEST

START_TEST(a_flipped_bit_anywhere_in_a_block_is_one_hole_and_is_put_back_as_it_was) {
  build(300);
  struct place b = nth_of(2, 21);
  const uint64_t at[] = {0, 5, 24, 90, 100, 121, 128, 300, b.total - 1};
  for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
    flip(b.name, b.off + at[i]);
    find_damage();
    ck_assert_uint_eq(found_n, 1);
    ck_assert_str_eq(found[0].name, b.name);
    ck_assert_uint_eq(found[0].holes, 1);
    ck_assert(!found[0].header_bad && !found[0].newest);
    ck_assert_uint_eq(found[0].hole[0].off, b.off);
    ck_assert_uint_eq(found[0].hole[0].end, b.off + b.total);
    ck_assert_uint_eq(found[0].hole[0].from.lsn, b.found - 1);
    ck_assert_uint_eq(found[0].hole[0].last, b.found);
    rebuild_all();
    ck_assert(same_file(b.name));
  }
  assert_opens_whole();
}
END_TEST

START_TEST(what_recovery_has_to_read_is_looked_at_and_older_segments_are_not) {
  build(300);
  struct place b[] = {nth_of(1, 10), nth_of(2, 10), nth_of(3, 10)};
  struct place third = nth_of(3, 0);
  for (int i = 0; i < 3; i++) flip(b[i].name, b[i].off + 140);
  struct wal_find f = {.env = options.env, .dir = dir, .on_damage = on_damage, .above = third.found - 1};
  found_n = 0; /* the store stands at the very end of the second segment: recovery begins with that one */
  ck_assert_int_eq(wal_find_damage(&f), DW_OK);
  ck_assert_uint_eq(found_n, 2);
  ck_assert_str_eq(found[0].name, b[1].name);
  f.above++;
  found_n = 0;
  ck_assert_int_eq(wal_find_damage(&f), DW_OK);
  ck_assert_uint_eq(found_n, 1);
  flip(b[0].name, 17); /* but every header is */
  found_n = 0;
  ck_assert_int_eq(wal_find_damage(&f), DW_OK);
  ck_assert_uint_eq(found_n, 2);
  ck_assert(found[0].header_bad && found[0].holes == 1);
}
END_TEST

START_TEST(several_holes_in_several_segments_are_all_found_and_filled) {
  build(300);
  for (uint64_t seq = 1; seq <= 3; seq++)
    for (unsigned nth = 3; nth < 60; nth += 11) {
      struct place b = nth_of(seq, nth);
      flip(b.name, b.off + 130);
    }
  find_damage();
  ck_assert_uint_eq(found_n, 3);
  for (unsigned i = 0; i < 3; i++) ck_assert_uint_eq(found[i].holes, 6);
  rebuild_all();
  assert_opens_whole();
}
END_TEST

START_TEST(zeroed_sectors_over_many_blocks_marks_and_an_epoch_record_are_filled) {
  build(300);
  static const uint8_t zeros[20480];
  struct place b = block_of(45); /* the epoch record stands behind LSN 50 */
  poke(b.name, b.off / 512 * 512, zeros, sizeof zeros);
  find_damage();
  ck_assert_uint_eq(found_n, 1);
  ck_assert_uint_eq(found[0].holes, 1);
  ck_assert_uint_le(found[0].hole[0].from.lsn, 44);
  ck_assert_uint_gt(found[0].hole[0].last, 55);
  rebuild_all();
  assert_blocks(false);
}
END_TEST

START_TEST(an_epoch_record_alone_is_put_back) {
  build(300);
  struct place b = place((struct place){.lsn = 101, .epoch = true});
  flip(b.name, b.off + 30);
  find_damage();
  ck_assert_uint_eq(found_n, 1);
  ck_assert_uint_eq(found[0].hole[0].from.lsn, 100);
  ck_assert_uint_eq(found[0].hole[0].last, 100);
  rebuild_all();
  assert_opens_whole();
}
END_TEST

START_TEST(a_lost_mark_needs_no_peer) {
  build(300);
  struct place b = block_of(10);
  uint8_t magic[4];
  uint64_t off = b.off + b.total;
  peek(dir, b.name, off, magic, 4);
  ck_assert_uint_eq(get_u32(magic), WAL_MARK_MAGIC);
  flip(b.name, off + 20);
  find_damage();
  ck_assert_uint_eq(found_n, 1);
  ck_assert_uint_eq(found[0].hole[0].end, off + WAL_MARK_BYTES);
  wal_close(peer);
  peer = NULL;
  rebuild_all();
  assert_opens_whole();
}
END_TEST

START_TEST(the_end_of_an_old_segment_is_filled_up_to_where_the_next_one_starts) {
  build(300);
  struct place b = nth_of(2, 60);
  static const uint8_t zeros[65536];
  poke(b.name, b.off, zeros, 65536 - b.off);
  find_damage();
  ck_assert_uint_eq(found_n, 1);
  ck_assert_uint_eq(found[0].hole[0].end, UINT64_MAX);
  rebuild_all();
  open_at(dir, &w);
  ck_assert_uint_eq(rec.end.lsn, 300);
  struct wal_pos from = options.base;
  struct wal_block *b1[64];
  for (size_t n; (n = ask(w, &from, UINT64_MAX, b1, 64)) > 0;) {
    ck_assert_uint_ne(n, SIZE_MAX);
    from = (struct wal_pos){block_last_lsn(&b1[n - 1]->h), b1[n - 1]->h.epoch, b1[n - 1]->h.chain};
    while (n) wal_block_unref(b1[--n]);
  }
  ck_assert_uint_eq(from.lsn, 300);
}
END_TEST

START_TEST(a_file_that_was_cut_short_is_whole_again) {
  build(300);
  struct place b = nth_of(2, 30);
  char path[600];
  snprintf(path, sizeof path, "%s/%s", dir, b.name);
  ck_assert_int_eq(truncate(path, (off_t)b.off + 40), 0);
  rebuild_all();
  struct stat st;
  ck_assert_int_eq(stat(path, &st), 0);
  ck_assert_int_eq(st.st_size, 65536);
  open_at(dir, &w);
}
END_TEST

START_TEST(a_sector_that_went_astray_is_not_taken_for_what_belongs_there) {
  build(300);
  struct place later = nth_of(2, 50), here = nth_of(2, 21), earlier = nth_of(2, 5);
  uint8_t block[2048];
  peek(good_dir, later.name, later.off, block, later.total);
  poke(here.name, here.off, block, later.total); /* whole and valid, but of a later LSN */
  struct place other = nth_of(3, 20);
  peek(good_dir, earlier.name, earlier.off, block, earlier.total);
  poke(other.name, other.off, block, earlier.total); /* of an earlier one */
  rebuild_all();
  assert_opens_whole();
}
END_TEST

START_TEST(a_stray_copy_inside_a_hole_does_not_move_what_survived) {
  build(300);
  struct place from = nth_of(2, 22), copied = nth_of(2, 24), upto = nth_of(2, 27);
  static const uint8_t zeros[8192];
  uint8_t block[2048];
  peek(good_dir, copied.name, copied.off, block, copied.total);
  poke(from.name, from.off, zeros, upto.off - from.off);
  poke(from.name, copied.off + 200, block, copied.total); /* it would follow, but not there */
  rebuild_all();
  assert_opens_whole();
}
END_TEST

START_TEST(a_torn_tail_that_holds_the_image_of_a_log_is_no_damage) {
  open_at(dir, &w);
  for (unsigned i = 0; i < 400; i++) { /* until segments are made of recycled files */
    append(600, i, 1, false);
    if (i % 50 == 49) ck_assert_int_eq(wal_trim(w, i, NULL), DW_OK);
  }
  struct block_header like = {.commit_count = 1, .need = {1, 2, 2, false, 0}, .wall_ns = 1, .origin_id = 1};
  struct wal_block *inner, *outer;
  uint8_t payload[4096], junk[900] = {5};
  struct hash128 chain = {{1}};
  ck_assert_int_eq(wal_block_create(&like, junk, sizeof junk, 0, &inner), DW_OK);
  inner->h.epoch = 1;
  inner->h.first_lsn = 403;
  block_header_seal(&inner->h, &chain, inner->bytes);
  memset(payload, 7, sizeof payload);
  memcpy(payload + 64, inner->bytes, block_total_bytes(&inner->h));
  ck_assert_int_eq(wal_block_create(&like, payload, sizeof payload, 0, &outer), DW_OK);
  ck_assert_int_eq(wal_append(w, &outer, 1, 1, 0), DW_OK);
  wal_block_unref(inner);
  wal_block_unref(outer);
  run("cp -a %s %s", dir, good_dir); /* as a killed process leaves it: no mark behind the last block */
  ck_assert_int_eq(wal_close(w), DW_OK);
  w = NULL;
  struct place b = block_of(401);
  ck_assert_int_eq(env_remove_tree(env_posix(), dir), DW_OK);
  run("cp -a %s %s", good_dir, dir);
  flip(b.name, b.off + 50); /* of its header: nothing tells that what follows is its payload */
  find_damage();
  ck_assert_uint_eq(found_n, 0);
  open_at(dir, &w);
  ck_assert_int_eq(rec.which, WAL_REC_TORN); /* recovery says the same */
}
END_TEST

START_TEST(blocks_in_a_users_value_are_not_taken_for_frames) {
  /* A value that holds the bytes of a valid block with an LSN a little ahead; then its own block's header rots. */
  open_at(dir, &w);
  for (unsigned i = 0; i < 20; i++) append(600, i, 1, false);
  struct block_header like = {.commit_count = 1, .need = {1, 2, 2, false, 0}, .wall_ns = 1, .origin_id = 1};
  struct wal_block *inner, *outer;
  uint8_t payload[4096], junk[900];
  uint32_t x = 5;
  for (size_t i = 0; i < sizeof junk; i++) junk[i] = (uint8_t)(x = x * 1664525u + 1013904223u, x >> 24);
  ck_assert_int_eq(wal_block_create(&like, junk, sizeof junk, 0, &inner), DW_OK);
  struct hash128 chain = {{1}};
  inner->h.epoch = 1;
  inner->h.first_lsn = 23;
  block_header_seal(&inner->h, &chain, inner->bytes);
  memset(payload, 7, sizeof payload);
  memcpy(payload + 64, inner->bytes, block_total_bytes(&inner->h));
  ck_assert_int_eq(wal_block_create(&like, payload, sizeof payload, 0, &outer), DW_OK);
  ck_assert_int_eq(wal_append(w, &outer, 1, 1, 0), DW_OK);
  wal_block_unref(inner);
  wal_block_unref(outer);
  for (unsigned i = 0; i < 100; i++) append(600, i, 1, false);
  wal_close(w);
  w = NULL;
  run("cp -a %s %s", dir, peer_dir);
  run("cp -a %s %s", dir, good_dir);
  open_at(peer_dir, &peer);
  struct place b = block_of(21);
  flip(b.name, b.off + 30);
  rebuild_all();
  assert_opens_whole();
}
END_TEST

START_TEST(a_segment_header_is_rebuilt_from_the_name_and_the_segment_before) {
  build(300);
  for (uint64_t seq = 1; seq <= 3; seq++) {
    struct place b = nth_of(seq, 0);
    static const uint8_t zeros[512];
    poke(b.name, 0, zeros, sizeof zeros);
    find_damage();
    ck_assert_uint_eq(found_n, 1);
    ck_assert(found[0].header_bad);
    ck_assert_str_eq(found[0].hopeless, "");
    ck_assert_uint_eq(found[0].holes, 0);
    rebuild_all();
    assert_whole();
  }
  assert_opens_whole();
}
END_TEST

START_TEST(header_and_blocks_of_one_segment_and_of_the_newest_one) {
  build(300);
  struct place b = nth_of(2, 0), c = nth_of(2, 40);
  flip(b.name, 17);
  flip(b.name, b.off + 100);
  flip(c.name, c.off + 100);
  struct place newest = block_of(300), before = block_of(295);
  flip(newest.name, 4000); /* a reserved byte */
  flip(before.name, before.off + 10);
  find_damage();
  ck_assert_uint_eq(found_n, 2);
  ck_assert(found[1].newest && found[1].header_bad);
  rebuild_all();
  assert_opens_whole();
}
END_TEST

START_TEST(what_cannot_be_known_is_refused_and_said) {
  build(300);
  struct place a = nth_of(2, 70), b = nth_of(3, 0);
  static const uint8_t zeros[65536];
  poke(a.name, a.off, zeros, 65536 - a.off); /* the end of one segment and the header of the next */
  flip(b.name, 17);
  find_damage();
  ck_assert_uint_eq(found_n, 2);
  ck_assert_str_ne(found[0].hopeless, "");
  ck_assert_str_ne(found[1].hopeless, "");
  ck_assert_int_eq(rebuild_with(peer, &found[0], NULL, 3), DW_CORRUPT);
  ck_assert_int_eq(rebuild_with(peer, &found[1], NULL, 3), DW_CORRUPT);
}
END_TEST

START_TEST(the_first_header_of_a_trimmed_log_is_refused) {
  build(300);
  struct place a = nth_of(1, 0), b = nth_of(2, 0);
  char path[600];
  snprintf(path, sizeof path, "%s/%s", dir, a.name);
  ck_assert_int_eq(unlink(path), 0);
  flip(b.name, 17);
  find_damage();
  ck_assert_uint_eq(found_n, 1);
  ck_assert_ptr_nonnull(strstr(found[0].hopeless, "no segment before it"));
}
END_TEST

START_TEST(a_hole_in_the_newest_segment_is_damage_a_torn_tail_is_not) {
  build(300);
  struct place b = block_of(290), last = block_of(300);
  ck_assert_str_eq(b.name, last.name);
  flip(b.name, b.off + 200);
  find_damage();
  ck_assert_uint_eq(found_n, 1);
  ck_assert(found[0].newest && !found[0].end_known);
  struct wal *fails = NULL;
  ck_assert_int_eq(wal_open(dir, &options, &rec, &fails), DW_CORRUPT);
  ck_assert_int_eq(rec.which, WAL_REC_CORRUPT);
  rebuild_all();
  assert_whole();
  /* Marks and last block torn off: the finder leaves it to recovery. */
  static const uint8_t zeros[65536];
  poke(last.name, last.off + 64, zeros, 65536 - last.off - 64);
  find_damage();
  ck_assert_uint_eq(found_n, 0);
  /* Unless the store is known to hold it. */
  struct wal_stat st;
  wal_stat(peer, &st);
  struct wal_find f = {.env = options.env, .dir = dir, .reach = st.end, .on_damage = on_damage};
  ck_assert_int_eq(wal_find_damage(&f), DW_OK);
  ck_assert_uint_eq(found_n, 1);
  ck_assert(found[0].end_known);
  ck_assert_int_eq(rebuild_with(peer, &found[0], NULL, 3), DW_OK);
  open_at(dir, &w);
  assert_blocks(false);
}
END_TEST

START_TEST(a_peer_with_another_history_or_without_the_blocks_puts_nothing_back) {
  build(300);
  struct place b = nth_of(2, 21), damaged[] = {b, nth_of(2, 22), nth_of(2, 23)};
  for (int i = 0; i < 3; i++) flip(damaged[i].name, damaged[i].off + 140);
  char before[300];
  snprintf(before, sizeof before, "%s.before", dir);
  run("cp -a %s %s", dir, before);
  find_damage();
  ck_assert_uint_eq(found_n, 1);
  /* Equal up to LSN b - 1, other commits from there on. */
  wal_close(peer);
  peer = NULL;
  run("rm -rf %s; mkdir %s", peer_dir, peer_dir);
  struct wal *good;
  open_at(good_dir, &good);
  open_at(peer_dir, &peer);
  struct wal_pos from = options.base;
  struct wal_block *blocks[1];
  while (from.lsn < b.found - 1 && ask(good, &from, b.found - 1, blocks, 1) == 1) {
    from = (struct wal_pos){block_last_lsn(&blocks[0]->h), blocks[0]->h.epoch, blocks[0]->h.chain};
    ck_assert_int_eq(wal_append_sealed(peer, blocks, 1), DW_OK);
    wal_block_unref(blocks[0]);
  }
  wal_close(good);
  ck_assert_int_eq(rebuild_with(peer, &found[0], NULL, 3), DW_DIVERGED); /* it ends where the hole begins */
  struct wal *keep = w;
  w = peer;
  for (unsigned i = 0; i < 200; i++) append(616, 1000 + i, 9, false);
  w = keep;
  ck_assert_int_eq(rebuild_with(peer, &found[0], NULL, 3), DW_DIVERGED);
  run("diff -r %s %s", dir, before);
}
END_TEST

START_TEST(a_block_that_does_not_continue_or_is_forged_is_refused) {
  build(300);
  struct place b = nth_of(2, 21);
  flip(b.name, b.off + 140);
  find_damage();
  struct wal_repair *r;
  struct wal_pos from;
  dw_lsn upto;
  struct wal_block *blocks[64];
  for (int kind = 0; kind < 3; kind++) {
    ck_assert_int_eq(wal_repair_start(options.env, dir, &found[0], NULL, false, &r), DW_OK);
    ck_assert_int_eq(wal_repair_need(r, &from, &upto), DW_OK);
    ck_assert_uint_eq(ask(peer, &from, UINT64_MAX, blocks, 2), 2);
    if (kind == 1) blocks[0]->bytes[WAL_BLOCK_HEADER_BYTES + 5] ^= 1; /* payload, after parsing */
    if (kind == 2) blocks[0]->bytes[40] ^= 1;                         /* commit_lsn in the header */
    int rc = wal_repair_give(r, kind == 0 ? blocks + 1 : blocks, 1);
    ck_assert(rc == DW_DIVERGED || rc == DW_CORRUPT);
    wal_block_unref(blocks[0]);
    wal_block_unref(blocks[1]);
    wal_repair_free(r);
    wal_close(peer); /* its cache holds the forged block */
    open_at(peer_dir, &peer);
  }
}
END_TEST

START_TEST(a_rehearsal_writes_nothing) {
  build(300);
  struct place b = nth_of(2, 21);
  flip(b.name, b.off + 140);
  find_damage();
  char before[300];
  snprintf(before, sizeof before, "%s.before", dir);
  run("cp -a %s %s", dir, before);
  struct wal_repair *r;
  struct wal_pos from;
  dw_lsn upto;
  struct wal_block *blocks[64];
  ck_assert_int_eq(wal_repair_start(options.env, dir, &found[0], NULL, true, &r), DW_OK);
  ck_assert_int_eq(wal_repair_need(r, &from, &upto), DW_OK);
  size_t n = ask(peer, &from, upto, blocks, 64);
  ck_assert_int_eq(wal_repair_give(r, blocks, n), DW_OK);
  while (n) wal_block_unref(blocks[--n]);
  ck_assert_int_eq(wal_repair_need(r, &from, &upto), DW_NOT_FOUND);
  ck_assert_int_eq(wal_repair_finish(r), DW_OK);
  run("diff -r %s %s", dir, before); /* not even for a while */
  wal_repair_free(r);
  run("diff -r %s %s", dir, before);
}
END_TEST

static void put_back(const char *damaged) {
  ck_assert_int_eq(env_remove_tree(env_posix(), dir), DW_OK);
  run("cp -a %s %s", damaged, dir);
}

START_TEST(each_step_of_a_repair_may_fail_and_leaves_the_old_file_or_the_new_one) {
  build(200);
  struct place b = nth_of(1, 20);
  flip(b.name, b.off + 140);
  find_damage();
  ck_assert_uint_eq(found_n, 1);
  char damaged[300];
  snprintf(damaged, sizeof damaged, "%s.damaged", dir);
  run("cp -a %s %s", dir, damaged);
  unsigned failures[FAULT_OPS] = {0}, replaced[FAULT_OPS] = {0};
  for (int op = 0; op < FAULT_OPS; op++) {
    for (unsigned nth = 1;; nth++) {
      fault_env_only(faults, "/log");
      fault_env_fail(faults, (enum fault_op)op, nth, DW_IO, true); /* sticky: as if the process had died there */
      int rc = rebuild_with(peer, &found[0], NULL, 3);
      fault_env_fail(faults, (enum fault_op)op, 0, DW_OK, false);
      fault_env_only(faults, NULL);
      if (rc == DW_OK) break;
      failures[op]++;
      if (same_file(b.name)) {
        replaced[op]++;
      } else {
        char cmd[2600];
        snprintf(cmd, sizeof cmd, "cmp -s %s/%s %s/%s", dir, b.name, damaged, b.name);
        ck_assert_int_eq(system(cmd), 0);
      }
      put_back(damaged);
    }
    ck_assert(same_file(b.name));
    put_back(damaged);
  }
  const struct {
    enum fault_op op;
    unsigned least;
  } steps[] = {{FAULT_OPEN, 2},      {FAULT_PREAD, 1},  {FAULT_ALLOCATE, 1}, {FAULT_PWRITEV, 2},
               {FAULT_FDATASYNC, 1}, {FAULT_RENAME, 1}, {FAULT_SYNC_DIR, 1}};
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    ck_assert_uint_ge(failures[steps[i].op], steps[i].least);
    /* Only once the name is changed may the new file be there. */
    ck_assert_uint_eq(replaced[steps[i].op], steps[i].op == FAULT_SYNC_DIR ? 1 : 0);
  }
}
END_TEST

START_TEST(a_half_made_file_is_gone_after_the_next_opening) {
  build(100);
  char path[600];
  snprintf(path, sizeof path, "%s/repair.tmp", dir);
  FILE *f = fopen(path, "w");
  fputs("half", f);
  fclose(f);
  assert_opens_whole();
  ck_assert_int_ne(access(path, F_OK), 0);
}
END_TEST

START_TEST(sectors_that_cannot_be_read_are_put_back_like_rotten_ones) {
  build(300);
  struct place b = nth_of(2, 21);
  char name[600];
  snprintf(name, sizeof name, "log/%s", b.name);
  fault_env_bad_sector(faults, name, b.off / 512 * 512, b.off / 512 * 512 + 512);
  find_damage();
  ck_assert_uint_eq(found_n, 1);
  ck_assert_uint_le(found[0].hole[0].off, b.off);
  ck_assert_int_eq(rebuild_with(peer, &found[0], NULL, 3), DW_OK);
  fault_env_bad_sector(faults, NULL, 0, 0);   /* the new file has other sectors */
  assert_blocks(false);                       /* a page of it was unreadable, marks included */
  fault_env_bad_sector(faults, name, 0, 512); /* the header's */
  find_damage();
  ck_assert_uint_eq(found_n, 1);
  ck_assert(found[0].header_bad);
  ck_assert_int_eq(rebuild_with(peer, &found[0], NULL, 3), DW_OK);
  fault_env_bad_sector(faults, NULL, 0, 0);
  open_at(dir, &w);
  assert_blocks(false);
}
END_TEST

START_TEST(an_unreadable_end_of_the_log_is_never_taken_for_its_end) {
  build(300);
  struct place b = block_of(290), last = block_of(300);
  char name[600];
  snprintf(name, sizeof name, "log/%s", b.name);
  static const uint8_t zeros[65536];
  poke(last.name, last.off + last.total, zeros, 65536 - last.off - last.total); /* no mark behind the last block */
  flip(b.name, b.off + 200);
  find_damage();
  ck_assert_uint_eq(found_n, 1);
  fault_env_bad_sector(faults, name, last.off + 512, last.off + 520);
  ck_assert_int_eq(rebuild_with(peer, &found[0], NULL, 3), DW_IO);
  fault_env_bad_sector(faults, NULL, 0, 0);
  ck_assert_int_eq(rebuild_with(peer, &found[0], NULL, 3), DW_OK);
  open_at(dir, &w);
  ck_assert_uint_eq(rec.end.lsn, 300);
}
END_TEST

/* ---- in use ------------------------------------------------------------------------------------------ */

/* One whole pass; returns how many segments were damaged, *last one of them. */
static unsigned scrub(uint64_t budget, uint64_t *bytes, uint64_t *last) {
  struct wal_scrub *s;
  unsigned bad = 0;
  ck_assert_int_eq(wal_scrub_open(w, &s), DW_OK);
  *bytes = 0;
  for (int rounds = 0;; rounds++) {
    uint64_t n, seq;
    ck_assert_int_lt(rounds, 100000);
    int rc = wal_scrub_next(s, budget, &n, &seq);
    *bytes += n;
    if (rc == DW_NOT_FOUND) break;
    ck_assert(rc == DW_OK || rc == DW_CORRUPT);
    if (rc == DW_CORRUPT) bad++, *last = seq;
  }
  ck_assert_uint_le(*bytes, wal_scrub_total(s));
  wal_scrub_close(s);
  return bad;
}

START_TEST(a_scrub_of_a_log_in_use_finds_damage_and_a_cursor_goes_on_after_the_repair) {
  build(300);
  open_at(dir, &w);
  uint64_t bytes, seq = 0;
  ck_assert_uint_eq(scrub(4096, &bytes, &seq), 0);
  ck_assert_uint_gt(bytes, 3 * 60000);
  struct place b = nth_of(2, 21), head = nth_of(2, 0);
  struct wal_pos from = options.base;
  struct wal_cursor *c;
  ck_assert_int_eq(wal_cursor_open(w, &from, &c), DW_OK);
  struct wal_block *block;
  flip(b.name, b.off + 140);
  flip(b.name, 17); /* the header, too: it is known from memory */
  int rc;
  while ((rc = wal_cursor_next(c, UINT64_MAX, &block)) == DW_OK) wal_block_unref(block);
  ck_assert_int_eq(rc, DW_CORRUPT);
  ck_assert_uint_eq(wal_cursor_pos(c).lsn, b.found - 1);
  ck_assert_uint_eq(wal_met_damage(w), 2);
  ck_assert_uint_eq(scrub(100000, &bytes, &seq), 1);
  ck_assert_uint_eq(seq, 2);
  struct wal_damage d;
  ck_assert_int_eq(wal_check_segment(w, 2, &d), DW_CORRUPT);
  ck_assert(d.header_bad);
  ck_assert_uint_eq(d.holes, 1);
  ck_assert_int_eq(wal_check_segment(w, 1, &d), DW_OK);
  ck_assert_int_eq(wal_check_segment(w, 999, &d), DW_NOT_FOUND);
  ck_assert_int_eq(wal_check_segment(w, 2, &d), DW_CORRUPT);
  ck_assert_int_eq(rebuild_with(peer, &d, w, 3), DW_OK);
  ck_assert_uint_eq(wal_met_damage(w), 0);
  dw_lsn next = b.found;
  while ((rc = wal_cursor_next(c, UINT64_MAX, &block)) == DW_OK) {
    ck_assert_uint_eq(block->h.first_lsn, block->h.kind == BLOCK_EPOCH ? next : next++);
    wal_block_unref(block);
  }
  ck_assert_int_eq(rc, DW_NOT_FOUND);
  ck_assert_uint_eq(next, 301);
  wal_cursor_close(c);
  ck_assert_uint_eq(scrub(100000, &bytes, &seq), 0);
  ck_assert(same_file(head.name));
}
END_TEST

START_TEST(a_cursor_inside_a_rebuilt_segment_keeps_its_place_although_frames_moved) {
  build(300);
  open_at(dir, &w);
  struct place b = nth_of(2, 10);
  struct wal_pos from = options.base;
  struct wal_cursor *c;
  ck_assert_int_eq(wal_cursor_open(w, &from, &c), DW_OK);
  struct wal_block *block;
  while (wal_cursor_pos(c).lsn < b.found + 30) {
    ck_assert_int_eq(wal_cursor_next(c, UINT64_MAX, &block), DW_OK);
    wal_block_unref(block);
  }
  static const uint8_t zeros[65536];
  poke(b.name, b.off, zeros, 65536 - b.off); /* marks are lost: what comes back stands closer together */
  struct wal_damage d;
  ck_assert_int_eq(wal_check_segment(w, 2, &d), DW_CORRUPT);
  ck_assert_int_eq(rebuild_with(peer, &d, w, 3), DW_OK);
  ck_assert(!same_file(b.name));
  ck_assert_uint_eq(wal_cursor_pos(c).lsn, b.found + 30);
  ck_assert_int_eq(wal_cursor_next(c, b.found + 30, &block), DW_NOT_FOUND); /* the limit holds */
  dw_lsn next = b.found + 31;
  int rc;
  while ((rc = wal_cursor_next(c, UINT64_MAX, &block)) == DW_OK) {
    ck_assert_uint_eq(block->h.first_lsn, block->h.kind == BLOCK_EPOCH ? next : next++);
    wal_block_unref(block);
  }
  ck_assert_int_eq(rc, DW_NOT_FOUND);
  ck_assert_uint_eq(next, 301);
  wal_cursor_close(c);
}
END_TEST

START_TEST(positions_in_a_rebuilt_segment_are_found_although_frames_moved) {
  options.segment_bytes = 262144;
  build(900);
  open_at(dir, &w);
  struct wal_pos from = options.base, at = {0};
  struct wal_cursor *c;
  struct wal_block *block;
  struct place b = nth_of(2, 20);
  ck_assert_int_eq(wal_cursor_open(w, &from, &c), DW_OK); /* reads all: now places in the segments are known */
  while (wal_cursor_next(c, UINT64_MAX, &block) == DW_OK) {
    if (wal_cursor_pos(c).lsn == b.found + 250) at = wal_cursor_pos(c);
    wal_block_unref(block);
  }
  wal_cursor_close(c);
  static const uint8_t zeros[262144];
  poke(b.name, b.off, zeros, 262144 - b.off); /* with the marks */
  struct wal_damage d;
  ck_assert_int_eq(wal_check_segment(w, 2, &d), DW_CORRUPT);
  ck_assert_int_eq(rebuild_with(peer, &d, w, 64), DW_OK);
  int rc = wal_cursor_open(w, &at, &c);
  ck_assert_msg(rc == DW_OK, "%d", rc);
  ck_assert_int_eq(wal_cursor_next(c, UINT64_MAX, &block), DW_OK);
  ck_assert_uint_eq(block->h.first_lsn, at.lsn + 1);
  wal_block_unref(block);
  wal_cursor_close(c);
}
END_TEST

START_TEST(a_segment_that_is_trimmed_or_newest_is_left_alone) {
  build(300);
  open_at(dir, &w);
  struct place b = nth_of(1, 10);
  flip(b.name, b.off + 140);
  struct wal_damage d;
  struct wal_stat st;
  wal_stat(w, &st);
  ck_assert_int_eq(wal_check_segment(w, st.segments, &d), DW_STALE);
  struct place last = block_of(295);
  flip(last.name, last.off + 140);
  find_damage();
  ck_assert(found_n == 2 && found[1].newest);
  ck_assert_int_eq(rebuild_with(peer, &found[1], w, 3), DW_STALE);
  flip(last.name, last.off + 140);
  ck_assert_int_eq(wal_check_segment(w, 1, &d), DW_CORRUPT);
  struct wal_repair *r;
  struct wal_pos from;
  dw_lsn upto;
  struct wal_block *blocks[4];
  ck_assert_int_eq(wal_repair_start(options.env, dir, &d, w, false, &r), DW_OK);
  ck_assert_int_eq(wal_repair_need(r, &from, &upto), DW_OK);
  size_t n = ask(peer, &from, upto, blocks, 4);
  ck_assert_int_eq(wal_repair_give(r, blocks, n), DW_OK);
  while (n) wal_block_unref(blocks[--n]);
  dw_lsn oldest;
  ck_assert_int_eq(wal_trim(w, 150, &oldest), DW_OK);
  ck_assert_int_eq(wal_repair_finish(r), DW_STALE);
  wal_repair_free(r);
  uint64_t bytes, seq;
  ck_assert_uint_eq(scrub(4096, &bytes, &seq), 0);
}
END_TEST

static atomic_bool stop;
static atomic_uint rounds;

/* From the beginning to the end, again and again. Damage may be met before it is repaired, nothing else. */
static void *read_on(void *arg) {
  (void)arg;
  while (!atomic_load(&stop)) {
    struct wal_cursor *c;
    struct wal_block *b;
    ck_assert_int_eq(wal_cursor_open(w, &options.base, &c), DW_OK);
    dw_lsn next = 1;
    int rc;
    while ((rc = wal_cursor_next(c, UINT64_MAX, &b)) == DW_OK || (rc == DW_CORRUPT && !atomic_load(&stop))) {
      if (rc == DW_CORRUPT) continue; /* the same place again, until it is whole */
      ck_assert_uint_eq(b->h.first_lsn, b->h.kind == BLOCK_EPOCH ? next : next++);
      wal_block_unref(b);
    }
    ck_assert(rc == DW_NOT_FOUND || rc == DW_CORRUPT);
    wal_cursor_close(c);
    atomic_fetch_add(&rounds, 1);
  }
  return NULL;
}

static void *append_on(void *arg) {
  (void)arg;
  for (unsigned i = 0; !atomic_load(&stop); i++) {
    append(700, i, 20, false);
    if (i % 8 == 0) ck_assert_int_eq(wal_sync(w, NULL), DW_OK);
  }
  return NULL;
}

START_TEST(readers_and_an_appender_live_with_repairs) {
  build(300);
  open_at(dir, &w);
  pthread_t t[3];
  atomic_store(&stop, false);
  atomic_store(&rounds, 0);
  pthread_create(&t[0], NULL, append_on, NULL);
  pthread_create(&t[1], NULL, read_on, NULL);
  pthread_create(&t[2], NULL, read_on, NULL);
  for (unsigned i = 0; i < 60 || atomic_load(&rounds) < 4; i++) {
    struct place b = nth_of(1 + i % 3, 1 + i * 7 % 60);
    struct wal_damage d;
    flip(b.name, b.off + 1 + i % 100);
    ck_assert_int_eq(wal_check_segment(w, b.seq, &d), DW_CORRUPT);
    int rc = rebuild_with(peer, &d, w, 1 + i % 5);
    char why[400];
    dw_error_copy(why, sizeof why);
    ck_assert_msg(rc == DW_OK, "%d %s", rc, why);
  }
  atomic_store(&stop, true);
  for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
}
END_TEST

int main(void) {
  Suite *s = suite_create("repair");
  TCase *t = tcase_create("repair");
  tcase_set_timeout(t, 60);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, an_undamaged_log_has_no_damage);
  tcase_add_test(t, a_flipped_bit_anywhere_in_a_block_is_one_hole_and_is_put_back_as_it_was);
  tcase_add_test(t, what_recovery_has_to_read_is_looked_at_and_older_segments_are_not);
  tcase_add_test(t, several_holes_in_several_segments_are_all_found_and_filled);
  tcase_add_test(t, zeroed_sectors_over_many_blocks_marks_and_an_epoch_record_are_filled);
  tcase_add_test(t, an_epoch_record_alone_is_put_back);
  tcase_add_test(t, a_lost_mark_needs_no_peer);
  tcase_add_test(t, the_end_of_an_old_segment_is_filled_up_to_where_the_next_one_starts);
  tcase_add_test(t, a_file_that_was_cut_short_is_whole_again);
  tcase_add_test(t, a_sector_that_went_astray_is_not_taken_for_what_belongs_there);
  tcase_add_test(t, a_stray_copy_inside_a_hole_does_not_move_what_survived);
  tcase_add_test(t, a_torn_tail_that_holds_the_image_of_a_log_is_no_damage);
  tcase_add_test(t, blocks_in_a_users_value_are_not_taken_for_frames);
  tcase_add_test(t, a_segment_header_is_rebuilt_from_the_name_and_the_segment_before);
  tcase_add_test(t, header_and_blocks_of_one_segment_and_of_the_newest_one);
  tcase_add_test(t, what_cannot_be_known_is_refused_and_said);
  tcase_add_test(t, the_first_header_of_a_trimmed_log_is_refused);
  tcase_add_test(t, a_hole_in_the_newest_segment_is_damage_a_torn_tail_is_not);
  tcase_add_test(t, a_peer_with_another_history_or_without_the_blocks_puts_nothing_back);
  tcase_add_test(t, a_block_that_does_not_continue_or_is_forged_is_refused);
  tcase_add_test(t, a_rehearsal_writes_nothing);
  tcase_add_test(t, each_step_of_a_repair_may_fail_and_leaves_the_old_file_or_the_new_one);
  tcase_add_test(t, a_half_made_file_is_gone_after_the_next_opening);
  tcase_add_test(t, sectors_that_cannot_be_read_are_put_back_like_rotten_ones);
  tcase_add_test(t, an_unreadable_end_of_the_log_is_never_taken_for_its_end);
  tcase_add_test(t, a_scrub_of_a_log_in_use_finds_damage_and_a_cursor_goes_on_after_the_repair);
  tcase_add_test(t, a_cursor_inside_a_rebuilt_segment_keeps_its_place_although_frames_moved);
  tcase_add_test(t, positions_in_a_rebuilt_segment_are_found_although_frames_moved);
  tcase_add_test(t, a_segment_that_is_trimmed_or_newest_is_left_alone);
  tcase_add_test(t, readers_and_an_appender_live_with_repairs);
  suite_add_tcase(s, t);
  return check_main(s);
}
