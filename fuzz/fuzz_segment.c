/* The frames of one segment file: the walk that recovery, cursors and inspect share. Every frame that is found valid is
 * written again to the same bytes, and inspect finds the same ones.
 * Input: 1 byte of choices (bit 0: header fields from the input, bit 1: LSNs, bit 2: marks and epochs are made to fit,
 * bit 3: no checksum is repaired); with bit 0 the first 120 bytes of a header; frames. */
#include "fuzz/logs.h"
#include "wal/internal.h"

enum { HEADER_FROM_INPUT = 1, FIT_LSN = 2, FIT_MARKS = 4, NO_REPAIR = 8 };

static void make_header(struct feed *f, bool from_input, uint8_t out[WAL_SEGMENT_HEADER_BYTES]) {
  struct hash128 cluster = log_cluster();
  struct wal_pos start = wal_genesis(&cluster);
  struct segment_header h = {
      .cluster_id = cluster, .first_lsn = 1, .prev_chain = start.chain, .seq = 1, .segment_bytes = 65536, .salt = 5};
  segment_header_encode(&h, out);
  size_t n;
  const uint8_t *p = feed_bytes(f, from_input ? 120 : 0, &n);
  if (n) memcpy(out, p, n);
  repair_segment_header(out);
}

/* Makes one frame fit behind (lsn, epoch, chain); its length. */
static size_t fit(uint8_t *p, size_t n, uint8_t how, struct wal_pos *pos, uint64_t salt) {
  if (n >= WAL_MARK_BYTES && get_u32(p) == WAL_MARK_MAGIC) {
    if (how & FIT_MARKS) put_u64(p + 16, salt), put_u64(p + 24, pos->lsn), memcpy(p + 32, pos->chain.b, 16);
    repair_mark(p);
    return WAL_MARK_BYTES;
  }
  if (n < WAL_BLOCK_HEADER_BYTES) return 0;
  if (how & FIT_LSN) put_u64(p + 24, pos->lsn + 1);
  if ((how & FIT_MARKS) && get_u64(p + 16) < pos->epoch) put_u64(p + 16, pos->epoch);
  repair_block(p, n, &pos->chain);
  *pos = (struct wal_pos){get_u64(p + 24) + get_u32(p + 32) - 1, get_u64(p + 16), {{0}}};
  memcpy(pos->chain.b, p + 96, 16);
  return WAL_BLOCK_HEADER_BYTES + align8(get_u32(p + 56));
}

static void check_again(const struct frame_scan *s, enum frame_kind kind, const struct wal_pos *before,
                        const uint8_t *p) {
  uint8_t out[WAL_BLOCK_HEADER_BYTES];
  if (kind == FRAME_MARK) {
    CHECK(s->mark.lsn == before->lsn && hash128_eq(&s->mark.chain, &before->chain) && s->mark.salt == s->salt);
    mark_encode(&s->mark, out);
    CHECK(memcmp(out, p, WAL_MARK_BYTES) == 0);
    return;
  }
  struct block_header h = s->h;
  block_header_seal(&h, &before->chain, out);
  CHECK(memcmp(out, p, sizeof out) == 0);
  CHECK(h.first_lsn == before->lsn + 1 && h.epoch >= before->epoch);
}

/* Blocks and where they end. */
static uint64_t walk(struct mem_env *m, const char *path, const uint8_t *bytes, size_t n, struct wal_pos *end) {
  struct segment_header h;
  struct env *env = mem_env_env(m);
  uint8_t again[WAL_SEGMENT_HEADER_BYTES];
  if (segment_header_decode(bytes, &h) != DW_OK) return 0;
  segment_header_encode(&h, again);
  CHECK(memcmp(again, bytes, sizeof again) == 0);
  struct frame_scan s = {
      .env = env, .path = path, .off = WAL_SEGMENT_HEADER_BYTES, .limit = n, .salt = h.salt, .pos = segment_start(&h)};
  uint64_t blocks = 0;
  CHECK(env->ops->open(env, path, ENV_READ, &s.file) == DW_OK);
  for (;;) {
    struct wal_pos before = s.pos;
    uint64_t off = s.off;
    enum frame_kind kind;
    int rc = frame_next(&s, &kind);
    CHECK(rc == DW_OK || rc == DW_UNSUPPORTED);
    if (rc || kind == FRAME_NONE) break;
    CHECK(s.off > off && s.off <= n && off % 8 == 0 && s.frame_off == off);
    check_again(&s, kind, &before, bytes + off);
    blocks += kind == FRAME_BLOCK;
  }
  CHECK(s.window.cap <= 2u << 20);
  *end = s.pos;
  env->ops->close(s.file);
  frame_scan_free(&s);
  return blocks;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct mem_env *m;
  if (!m) m = mem_env_create();
  struct feed f = {data, size};
  uint8_t how = feed_u8(&f), header[WAL_SEGMENT_HEADER_BYTES];
  make_header(&f, how & HEADER_FROM_INPUT, header);
  size_t n = sizeof header + f.n;
  uint8_t *bytes = malloc(n);
  CHECK(bytes);
  memcpy(bytes, header, sizeof header);
  if (f.n) memcpy(bytes + sizeof header, f.p, f.n);
  struct wal_pos pos = {.lsn = get_u64(header + 40) - 1, .epoch = get_u64(header + 32)}, end = {0};
  memcpy(pos.chain.b, header + 48, 16);
  for (size_t at = sizeof header, len; !(how & NO_REPAIR) && at < n; at += len)
    if (!(len = fit(bytes + at, n - at, how, &pos, get_u64(header + 96))) || len > n - at) break;
  char name[WAL_SEGMENT_NAME_BYTES], path[64];
  segment_name(name, get_u64(header + 40), get_u64(header + 64));
  snprintf(path, sizeof path, "%s/%s", LOG_DIR, name);
  mem_env_put(m, path, bytes, n);
  uint64_t blocks = walk(m, path, bytes, n, &end);
  struct wal_inspect_report rep;
  int rc = wal_inspect(mem_env_env(m), LOG_DIR, &(struct wal_inspect){0}, &rep);
  CHECK(rc == DW_OK || rc == DW_CORRUPT || rc == DW_NOT_FOUND || rc == DW_UNSUPPORTED);
  CHECK(rep.blocks == blocks);
  if (blocks) CHECK(rep.last.lsn == end.lsn && hash128_eq(&rep.last.chain, &end.chain));
  CHECK(mem_env_env(m)->ops->unlink(mem_env_env(m), path) == DW_OK && mem_env_open_files(m) == 0);
  free(bytes);
  return 0;
}
