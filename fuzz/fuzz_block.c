/* A block from disk or from the wire: parsed, decompressed, its payload walked. What is accepted, the writer
 * reproduces; what a header announces costs no memory before it is known to be true. */
#include <zstd.h>

#include "fuzz/fuzz.h"
#include "wal/wal.h"

/* The header again, from what was decoded. */
static void check_header(const struct wal_block *b, const uint8_t *data) {
  struct block_header h = b->h;
  uint8_t bytes[WAL_BLOCK_HEADER_BYTES];
  struct hash128 prev = {{0}}; /* the chain depends on what came before: it is put in by hand */
  block_header_seal(&h, &prev, bytes);
  memcpy(bytes + 96, b->h.chain.b, 16);
  put_u64(bytes + 120, hash64(bytes, 120));
  CHECK(memcmp(bytes, data, sizeof bytes) == 0);
}

static void check_payload(const struct wal_block *b, const uint8_t *raw, size_t n) {
  CHECK(n == b->h.raw_bytes);
  if (b->h.kind == BLOCK_EPOCH) {
    struct epoch_record r;
    uint8_t again[WAL_EPOCH_RECORD_BYTES];
    if (epoch_record_decode(raw, n, &r) != DW_OK) return;
    epoch_record_encode(&r, again);
    CHECK(memcmp(again, raw, n) == 0);
    return;
  }
  uint64_t ops = 0;
  if (payload_validate(raw, n, b->h.commit_count, &ops) == DW_OK) CHECK(ops >= b->h.commit_count && ops <= n);
}

/* Made anew from the payload: a raw block has the same bytes, a compressed one the same payload. */
static void check_made_again(const struct wal_block *b, const uint8_t *raw, size_t n) {
  struct wal_block *made, *parsed;
  struct buf scratch = {0};
  const uint8_t *out;
  size_t out_n;
  if (n == 0 || n > 65536) return;
  CHECK(wal_block_create(&b->h, raw, n, b->h.codec == BLOCK_RAW ? 0 : 1, &made) == DW_OK);
  struct hash128 prev = {{7}};
  block_header_seal(&made->h, &prev, made->bytes);
  if (b->h.codec == BLOCK_RAW) {
    CHECK(block_total_bytes(&made->h) == block_total_bytes(&b->h));
    CHECK(memcmp(made->bytes, b->bytes, 96) == 0);
    CHECK(memcmp(made->bytes + 128, b->bytes + 128, block_total_bytes(&b->h) - 128) == 0);
  }
  CHECK(wal_block_parse(made->bytes, block_total_bytes(&made->h), &parsed) == DW_OK);
  CHECK(wal_block_raw(parsed, &scratch, &out, &out_n) == DW_OK);
  CHECK(out_n == n && memcmp(out, raw, n) == 0);
  buf_free(&scratch);
  wal_block_unref(parsed);
  wal_block_unref(made);
}

static void check(const uint8_t *data, size_t size) {
  struct wal_block *b;
  if (wal_block_parse(data, size, &b) != DW_OK) return;
  CHECK(block_total_bytes(&b->h) == size && memcmp(b->bytes, data, size) == 0);
  check_header(b, data);
  struct buf scratch = {0};
  const uint8_t *raw;
  size_t n;
  if (wal_block_raw(b, &scratch, &raw, &n) == DW_OK) {
    check_payload(b, raw, n);
    check_made_again(b, raw, n);
  } else if (ZSTD_getFrameContentSize(data + WAL_BLOCK_HEADER_BYTES, b->h.stored_bytes) != b->h.raw_bytes) {
    CHECK(scratch.cap == 0); /* a lie about the size costs no memory */
  }
  CHECK(scratch.cap <= 2u * (size_t)WAL_MAX_RAW_BYTES);
  buf_free(&scratch);
  wal_block_unref(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  check(data, size);
  uint8_t *repaired = exact_copy(data, size);
  repair_block(repaired, size, NULL);
  check(repaired, size);
  free(repaired);
  return 0;
}
