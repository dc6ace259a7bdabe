#include "fuzz/fuzz.h"

#include "replication/message.h"

void fuzz_failed(const char *file, int line, const char *what) {
  char detail[512];
  dw_error_copy(detail, sizeof detail);
  fprintf(stderr, "%s:%d: CHECK failed: %s\nlast error of the code under test: %s\n", file, line, what, detail);
  fflush(stderr);
  abort();
}

uint64_t feed_uint(struct feed *f, size_t bytes) {
  uint64_t v = 0;
  for (size_t i = 0; i < bytes && f->n; i++, f->p++, f->n--) v |= (uint64_t)*f->p << (8 * i);
  return v;
}

const uint8_t *feed_bytes(struct feed *f, size_t max, size_t *n) {
  const uint8_t *p = f->p;
  *n = f->n < max ? f->n : max;
  f->p += *n;
  f->n -= *n;
  return p;
}

uint8_t *exact_copy(const void *p, size_t n) {
  uint8_t *copy = malloc(n ? n : 1);
  CHECK(copy);
  if (n) memcpy(copy, p, n);
  return copy;
}

/* ---- repairing ---------------------------------------------------------------------------------- */

void repair_block(uint8_t *p, size_t n, const struct hash128 *prev) {
  if (n < WAL_BLOCK_HEADER_BYTES) return;
  uint32_t stored = get_u32(p + 56);
  if (stored <= n - WAL_BLOCK_HEADER_BYTES) {
    struct hash128 h = hash128(p + WAL_BLOCK_HEADER_BYTES, stored);
    memcpy(p + 80, h.b, 16);
  }
  if (prev) {
    struct hash128 h = hash128_pair(prev->b, 16, p, 96);
    memcpy(p + 96, h.b, 16);
  }
  put_u64(p + 120, hash64(p, 120));
}

void repair_blocks(uint8_t *p, size_t n, const struct hash128 *prev) {
  struct hash128 chain = prev ? *prev : (struct hash128){{0}};
  while (n >= WAL_BLOCK_HEADER_BYTES) {
    repair_block(p, n, prev ? &chain : NULL);
    memcpy(chain.b, p + 96, 16);
    size_t total = WAL_BLOCK_HEADER_BYTES + align8(get_u32(p + 56));
    if (total > n) return;
    p += total;
    n -= total;
  }
}

void repair_mark(uint8_t p[WAL_MARK_BYTES]) {
  put_u64(p + 72, hash64(p, 72));
}

void repair_segment_header(uint8_t p[WAL_SEGMENT_HEADER_BYTES]) {
  put_u64(p + WAL_SEGMENT_HEADER_BYTES - 8, hash64(p, WAL_SEGMENT_HEADER_BYTES - 8));
}

size_t repair_frame(uint8_t *p, size_t n) {
  if (n < MSG_HEADER_BYTES) return 0;
  uint8_t *body = p + MSG_HEADER_BYTES;
  uint16_t type = get_u16(p + 6);
  size_t len = get_u32(p + 8);
  put_u32(p, MSG_MAGIC);
  if (len <= n - MSG_HEADER_BYTES) {
    if (type == MSG_BLOCKS && len > MSG_BLOCKS_PREFIX_BYTES)
      repair_blocks(body + MSG_BLOCKS_PREFIX_BYTES, len - MSG_BLOCKS_PREFIX_BYTES, NULL);
    if (type == MSG_FETCHED && len > MSG_FETCHED_PREFIX_BYTES)
      repair_blocks(body + MSG_FETCHED_PREFIX_BYTES, len - MSG_FETCHED_PREFIX_BYTES, NULL);
    if (type == MSG_CKPT_CHUNK && len > MSG_CHUNK_PREFIX_BYTES) {
      struct hash128 h = hash128(body + MSG_CHUNK_PREFIX_BYTES, len - MSG_CHUNK_PREFIX_BYTES);
      memcpy(body + 16, h.b, 16);
    }
    put_u64(p + 32, hash64(body, msg_hashed_bytes(type, len)));
  }
  put_u64(p + 40, hash64(p, 40));
  return len <= n - MSG_HEADER_BYTES ? MSG_HEADER_BYTES + len : 0;
}

void repair_frames(uint8_t *p, size_t n) {
  for (size_t used; (used = repair_frame(p, n)); p += used, n -= used) {
  }
}
