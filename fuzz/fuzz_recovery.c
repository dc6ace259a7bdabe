/* Recovery of a whole directory. A sound log is damaged by a little program that the input is, then opened.
 *
 * What recovery accepts: all of it can be read, inspect agrees about where it ends, a second opening finds nothing more
 * to do and the same end, and the log takes an append. What it refuses: nothing of it was changed, and it is refused
 * again. Input: variant 1 byte (fuzz/logs.h), then steps: 1 byte says which, arguments follow. */
#include "fuzz/logs.h"

struct damage {
  struct mem_env *m;
  const struct log_image *image;
  struct wal_options opt;
  char paths[2 * LOG_FILES_MAX][64]; /* what is there now */
  size_t count;
  bool forged; /* a header with a right checksum: what its salt was is lost, recovery and inspect may judge differently
                */
  bool spares; /* a spare was made or changed: it may hold blocks beyond the log's end, which a trim never leaves */
};

static void list_path(void *arg, const char *path, const uint8_t *bytes, size_t n) {
  struct damage *d = arg;
  (void)bytes, (void)n;
  if (d->count < 2 * LOG_FILES_MAX) snprintf(d->paths[d->count++], sizeof d->paths[0], "%s", path);
}

static const char *pick(struct damage *d, struct feed *f) {
  d->count = 0;
  mem_env_each(d->m, list_path, d);
  uint8_t i = feed_u8(f);
  const char *path = d->count ? d->paths[i % d->count] : LOG_DIR "/x";
  d->spares |= strstr(path, "/spare-") != NULL;
  return path;
}

/* ---- steps -------------------------------------------------------------------------------------- */

/* Files are small (LOG_SEGMENT_BYTES): two bytes say where. */
static uint8_t *spot(struct damage *d, struct feed *f, size_t *left) {
  size_t n;
  uint8_t *p = mem_env_bytes(d->m, pick(d, f), &n);
  size_t at = feed_u16(f);
  *left = p && at < n ? n - at : 0;
  return *left ? p + at : NULL;
}

static void overwrite(struct damage *d, struct feed *f) {
  size_t left, n;
  uint8_t *p = spot(d, f, &left);
  const uint8_t *bytes = feed_bytes(f, feed_u8(f) % 64, &n);
  if (p) memcpy(p, bytes, n < left ? n : left);
}

static void zero(struct damage *d, struct feed *f) {
  size_t left, n = 8 * (size_t)feed_u8(f);
  uint8_t *p = spot(d, f, &left);
  if (p) memset(p, 0, n < left ? n : left);
}

static void copy(struct damage *d, struct feed *f) {
  size_t left, n = 8 * (size_t)feed_u8(f);
  uint8_t piece[8 * 256];
  const uint8_t *from = spot(d, f, &left);
  if (!from) return;
  n = n < left ? n : left;
  memcpy(piece, from, n);
  uint8_t *to = spot(d, f, &left);
  if (to) memcpy(to, piece, n < left ? n : left);
}

static void resize(struct damage *d, struct feed *f) {
  const char *path = pick(d, f);
  size_t n, want = feed_u16(f) % (4 * LOG_SEGMENT_BYTES);
  uint8_t *p = mem_env_bytes(d->m, path, &n), *bytes = calloc(1, want + 1);
  CHECK(bytes);
  if (p) memcpy(bytes, p, n < want ? n : want);
  mem_env_put(d->m, path, bytes, want);
  free(bytes);
}

static void name_of(struct feed *f, char path[64]) {
  char name[WAL_SEGMENT_NAME_BYTES];
  uint8_t kind = feed_u8(f);
  segment_name(name, feed_u8(f), feed_u8(f));
  if (kind % 4 == 1) snprintf(name, sizeof name, "spare-%08x", kind);
  if (kind % 4 == 2) snprintf(name, sizeof name, "segment.tmp");
  snprintf(path, 64, "%s/%s", LOG_DIR, name);
}

static void rename_or_copy(struct damage *d, struct feed *f, bool keep) {
  char from[64], to[64];
  size_t n;
  snprintf(from, sizeof from, "%s", pick(d, f));
  name_of(f, to);
  d->spares |= strstr(to, "/spare-") != NULL;
  const uint8_t *p = mem_env_bytes(d->m, from, &n);
  if (!p || strcmp(from, to) == 0 || d->count > LOG_FILES_MAX) return;
  uint8_t *bytes = exact_copy(p, n);
  mem_env_put(d->m, to, bytes, n);
  free(bytes);
  if (!keep) (void)mem_env_env(d->m)->ops->unlink(mem_env_env(d->m), from);
}

/* A header field of a segment, with the checksum made right again. */
static void forge_header(struct damage *d, struct feed *f) {
  size_t n, k;
  uint8_t *p = mem_env_bytes(d->m, pick(d, f), &n), at = feed_u8(f) % 128;
  const uint8_t *bytes = feed_bytes(f, feed_u8(f) % 17, &k);
  if (!p || n < WAL_SEGMENT_HEADER_BYTES) return;
  memcpy(p + at, bytes, k);
  d->forged = true;
  repair_segment_header(p);
}

/* The frame at or behind a place: its checksums, and the links of the chain from the file's beginning if asked. */
static void repair_at(struct damage *d, struct feed *f, bool link) {
  size_t n;
  uint8_t *p = mem_env_bytes(d->m, pick(d, f), &n);
  size_t from = feed_u16(f);
  if (!p || n < WAL_SEGMENT_HEADER_BYTES) return;
  struct hash128 chain;
  memcpy(chain.b, p + 48, 16);
  uint64_t lsn = get_u64(p + 40) - 1;
  for (size_t at = WAL_SEGMENT_HEADER_BYTES; at + WAL_MARK_BYTES <= n;) {
    if (get_u32(p + at) == WAL_MARK_MAGIC) {
      if (link && at >= from)
        put_u64(p + at + 24, lsn), memcpy(p + at + 32, chain.b, 16), memcpy(p + at + 16, p + 96, 8);
      if (at >= from) repair_mark(p + at);
      at += WAL_MARK_BYTES;
    } else if (get_u32(p + at) == WAL_BLOCK_MAGIC && at + WAL_BLOCK_HEADER_BYTES <= n) {
      if (link && at >= from) put_u64(p + at + 24, lsn + 1);
      if (at >= from) repair_block(p + at, n - at, link ? &chain : NULL);
      memcpy(chain.b, p + at + 96, 16);
      lsn = get_u64(p + at + 24) + get_u32(p + at + 32) - 1;
      at += WAL_BLOCK_HEADER_BYTES + align8(get_u32(p + at + 56));
    } else {
      at += 8;
    }
    if (!link && at > from) return;
  }
}

static void choose_reach(struct damage *d, struct feed *f) {
  const struct log_image *i = d->image;
  d->opt.must_reach = i->bounds[feed_u8(f) % i->bound_count];
  uint8_t how = feed_u8(f);
  if (how & 1) d->opt.must_reach.lsn += feed_u8(f);
  if (how & 2) d->opt.must_reach.chain.b[3] ^= 1;
}

static void step(struct damage *d, struct feed *f) {
  switch (feed_u8(f) % 13) {
  case 0: overwrite(d, f); break;
  case 1: zero(d, f); break;
  case 2: copy(d, f); break;
  case 3: resize(d, f); break;
  case 4: rename_or_copy(d, f, false); break;
  case 5: rename_or_copy(d, f, true); break;
  case 6: (void)mem_env_env(d->m)->ops->unlink(mem_env_env(d->m), pick(d, f)); break;
  case 7: forge_header(d, f); break;
  case 8: repair_at(d, f, false); break;
  case 9: repair_at(d, f, true); break;
  case 10: choose_reach(d, f); break;
  case 11: mem_env_boot(d->m, feed_u8(f) % 3); break;
  case 12: d->opt.cluster_id.b[1] = feed_u8(f) & 1; break;
  }
}

/* ---- what must hold ------------------------------------------------------------------------------ */

static void add_hash(void *arg, const char *path, const uint8_t *bytes, size_t n) {
  struct hash128 *sum = arg;
  if (!strstr(path, ".wal")) return;
  struct hash128 a = hash128_pair(path, strlen(path), bytes, n);
  *sum = hash128_pair(sum->b, 16, a.b, 16);
}

static struct hash128 files_hash(struct mem_env *m) {
  struct hash128 sum = {{0}};
  mem_env_each(m, add_hash, &sum);
  return sum;
}

/* Reads on from a boundary; the code that ended it. */
static int read_from(struct wal *w, const struct wal_pos *from, struct wal_pos *end) {
  struct wal_cursor *c;
  struct wal_block *b;
  int rc = wal_cursor_open(w, from, &c);
  if (rc) return rc;
  struct wal_pos at = *from;
  while ((rc = wal_cursor_next(c, UINT64_MAX, &b)) == DW_OK) {
    CHECK(b->h.first_lsn == at.lsn + 1 && b->h.epoch >= at.epoch && block_chain_ok(b->bytes, &at.chain));
    at = wal_cursor_pos(c);
    CHECK(at.lsn == block_last_lsn(&b->h));
    wal_block_unref(b);
  }
  *end = at;
  wal_cursor_close(c);
  return rc;
}

static bool same_pos(const struct wal_pos *a, const struct wal_pos *b) {
  return a->lsn == b->lsn && hash128_eq(&a->chain, &b->chain);
}

static void check_append(struct wal *w, const struct wal_pos *end) {
  static const uint8_t payload[] = "\0\1\7\1\2\1k\2vv";
  struct block_header like = {.need = {.mode = 1, .ack = 2, .durability = 1, .acks = 1}, .commit_count = 1};
  struct wal_block *b;
  struct wal_stat st;
  CHECK(wal_block_create(&like, payload, sizeof payload - 1, 0, &b) == DW_OK);
  if (end->lsn < UINT64_MAX - 2) {
    CHECK(wal_append(w, &b, 1, end->epoch ? end->epoch : 1, end->lsn) == DW_OK && wal_sync(w, NULL) == DW_OK);
    wal_stat(w, &st);
    CHECK(st.end.lsn == end->lsn + 1 && st.durable_lsn == st.end.lsn);
    CHECK(wal_truncate(w, end) == DW_OK);
    wal_stat(w, &st);
    CHECK(same_pos(&st.end, end));
  }
  wal_block_unref(b);
}

/* The last boundary at or below any place is one; trimming keeps what it should. */
static void check_boundaries(struct wal *w, const struct wal_stat *st, dw_lsn reach) {
  struct wal_pos at, end;
  struct wal_stat after;
  dw_lsn middle = st->oldest.lsn + (st->end.lsn - st->oldest.lsn) / 2, oldest;
  CHECK(wal_boundary_at_most(w, UINT64_MAX, st->end.lsn, &at) == DW_OK && same_pos(&at, &st->end));
  CHECK(wal_boundary_at_most(w, UINT64_MAX, middle, &at) == DW_OK && at.lsn <= middle);
  CHECK(read_from(w, &at, &end) == DW_NOT_FOUND && same_pos(&end, &st->end));
  if (middle >= reach)
    return; /* as the engine: nothing that the store has not persisted goes, epoch records included */
  CHECK(wal_trim(w, middle, &oldest) == DW_OK);
  wal_stat(w, &after);
  CHECK(oldest == after.oldest.lsn + 1 && after.oldest.lsn >= st->oldest.lsn && after.oldest.lsn <= middle);
}

static void check_opened(struct damage *d, struct wal *w, const struct wal_recovery *rec, int seen,
                         const struct wal_inspect_report *before) {
  struct wal_stat st;
  struct wal_pos end;
  struct wal_inspect_report after;
  struct wal_recovery again;
  const struct wal_pos *reach = &d->opt.must_reach;
  wal_stat(w, &st);
  CHECK(same_pos(&st.end, &rec->end) && st.durable_lsn == rec->end.lsn && rec->end.lsn >= reach->lsn);
  if (rec->which == WAL_REC_STORE_AHEAD) CHECK(same_pos(&rec->end, reach));
  /* Whatever was verified can be read; older segments are verified as they are read. */
  if (reach->lsn >= st.oldest.lsn) {
    CHECK(read_from(w, reach, &end) == DW_NOT_FOUND && same_pos(&end, &rec->end));
  }
  int rc = read_from(w, &st.oldest, &end);
  CHECK((rc == DW_NOT_FOUND && same_pos(&end, &rec->end)) || rc == DW_CORRUPT || rc == DW_UNSUPPORTED);
  bool sound = rc == DW_NOT_FOUND;
  /* inspect saw the same log, unless recovery began anew or dropped what a trim had left. */
  if (seen == DW_OK && rec->which != WAL_REC_STORE_AHEAD) CHECK(same_pos(&before->last, &rec->end));
  /* What inspect calls corrupt, recovery accepts as a power cut's hole only, or below what the store holds. */
  if (seen == DW_CORRUPT && !d->forged && rec->which != WAL_REC_TORN_POWER) CHECK(reach->lsn > 0);
  if (sound) check_boundaries(w, &st, reach->lsn);
  check_append(w, &rec->end);
  CHECK(wal_close(w) == DW_OK);
  if (sound) {
    rc = wal_inspect(d->opt.env, LOG_DIR, &(struct wal_inspect){0}, &after);
    CHECK(rc == DW_OK && same_pos(&after.last, &rec->end) && after.torn_bytes == 0);
  }
  CHECK(wal_open(LOG_DIR, &d->opt, &again, &w) == DW_OK);
  if (again.which == WAL_REC_TORN_POWER && d->spares) { /* the append went into such a spare: cut, once and for all */
    CHECK(same_pos(&again.end, &rec->end) && wal_close(w) == DW_OK);
    CHECK(wal_open(LOG_DIR, &d->opt, &again, &w) == DW_OK);
  }
  CHECK(again.which == WAL_REC_CLEAN && same_pos(&again.end, &rec->end) && again.torn_bytes == 0);
  CHECK(wal_close(w) == DW_OK);
}

static void check(struct damage *d) {
  struct wal_recovery rec, again;
  struct wal_inspect_report before;
  struct wal *w;
  int seen = wal_inspect(d->opt.env, LOG_DIR, &(struct wal_inspect){0}, &before);
  struct hash128 sum = files_hash(d->m), sum2;
  int rc = wal_open(LOG_DIR, &d->opt, &rec, &w);
  if (rc == DW_OK) {
    check_opened(d, w, &rec, seen, &before);
  } else {
    sum2 = files_hash(d->m);
    CHECK(hash128_eq(&sum, &sum2));
    CHECK(rc == DW_CORRUPT || rc == DW_UNSUPPORTED || rc == DW_DIVERGED);
    CHECK(wal_open(LOG_DIR, &d->opt, &again, &w) == rc);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct mem_env *m;
  struct feed f = {data, size};
  if (!m) m = mem_env_create();
  struct damage d = {.m = m, .image = log_image(feed_u8(&f) % LOG_VARIANTS), .opt = log_options(m)};
  log_restore(m, d.image);
  mem_env_seed(m, 7);
  mem_env_boot(m, 2); /* the images were made under boot 1 */
  for (unsigned i = 0; feed_left(&f) && i < 64; i++) step(&d, &f);
  check(&d);
  CHECK(mem_env_open_files(m) == 0);
  return 0;
}
