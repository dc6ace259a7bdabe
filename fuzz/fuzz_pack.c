/* Packs (wal/pack.h): hostile ones give an error, honest ones the blocks that went in, byte for byte, pack after pack.
 * Input: 1 byte of choices. 0: a number of blocks, a pack. 1: a number of blocks, records that are packed as they are.
 * Else: blocks to make, see make_block, one by one in packs of choices % 4 + 1.
 *
 * zstd's contexts are a megabyte of fresh pages each, which took nine tenths of the time: pack.c gets used ones here,
 * reset to what a new one is. */
#include <zstd.h>

#include "fuzz/fuzz.h"

static ZSTD_CCtx *spare_c;
static ZSTD_DCtx *spare_d;
static unsigned contexts; /* given out */

static ZSTD_CCtx *take_c(void) {
  ZSTD_CCtx *z = spare_c;
  spare_c = NULL;
  contexts++;
  return z ? z : ZSTD_createCCtx();
}

static size_t give_c(ZSTD_CCtx *z) {
  if (!z) return 0;
  contexts--;
  CHECK(!ZSTD_isError(ZSTD_CCtx_reset(z, ZSTD_reset_session_and_parameters)));
  if (spare_c) return ZSTD_freeCCtx(z);
  spare_c = z;
  return 0;
}

static ZSTD_DCtx *take_d(void) {
  ZSTD_DCtx *z = spare_d;
  spare_d = NULL;
  contexts++;
  return z ? z : ZSTD_createDCtx();
}

static size_t give_d(ZSTD_DCtx *z) {
  if (!z) return 0;
  contexts--;
  CHECK(!ZSTD_isError(ZSTD_DCtx_reset(z, ZSTD_reset_session_and_parameters)));
  if (spare_d) return ZSTD_freeDCtx(z);
  spare_d = z;
  return 0;
}

#define ZSTD_createCCtx take_c
#define ZSTD_freeCCtx give_c
#define ZSTD_createDCtx take_d
#define ZSTD_freeDCtx give_d
#include "wal/pack.c"

static const struct wal_pos start = {.lsn = 9, .epoch = 2, .chain = {{4}}};

/* Nothing says where a hostile pack should lead; so it may lead anywhere but there. */
static void hostile(const uint8_t *pack, size_t bytes, uint32_t plain, size_t n) {
  struct hash128 chain = {{1}};
  struct wal_unpacker *u;
  struct wal_block *blocks[WAL_PACK_BLOCKS];
  CHECK(wal_unpacker_create(&u) == DW_OK);
  int rc = wal_unpack(u, &start, pack, bytes, plain, &chain, blocks, n);
  CHECK(rc == DW_CORRUPT || rc == DW_UNSUPPORTED);
  wal_unpacker_free(u);
}

/* Bytes of the input's own behind zstd's door. */
static void records(const uint8_t *p, size_t n, size_t blocks) {
  uint8_t out[8192];
  ZSTD_CCtx *z = ZSTD_createCCtx();
  ZSTD_inBuffer in = {p, n, 0};
  ZSTD_outBuffer o = {out, sizeof out, 0};
  CHECK(z && n < 4096);
  CHECK(!ZSTD_isError(ZSTD_CCtx_setParameter(z, ZSTD_c_windowLog, 17)));
  CHECK(ZSTD_compressStream2(z, &o, &in, ZSTD_e_flush) == 0);
  ZSTD_freeCCtx(z);
  hostile(out, o.pos, (uint32_t)n, blocks);
}

static struct wal_block *make_block(struct feed *f, struct wal_pos *pos) {
  uint8_t how = feed_u8(f), raw[600];
  size_t n = 1 + feed_u8(f) % 16u * (how & 64 ? 37u : 3u);
  struct block_header like = {.kind = how & 32 ? BLOCK_EPOCH : BLOCK_COMMITS,
                              .need = {.mode = 1 + how % 3,
                                       .ack = 1 + how / 3 % 3,
                                       .durability = 1 + how % 2,
                                       .from_default = how & 16,
                                       .acks = feed_u8(f)},
                              .wall_ns = how & 128 ? feed_u64(f) : feed_u8(f),
                              .origin_id = how & 8 ? feed_u64(f) : 7};
  for (size_t i = 0; i < n; i++) raw[i] = how & 4 ? (uint8_t)(i * n * how) : how;
  if (like.kind == BLOCK_COMMITS) like.commit_count = 1 + (uint32_t)n / 9;
  struct wal_block *b;
  CHECK(wal_block_create(&like, raw, n, how & 64 ? 1 : 0, &b) == DW_OK);
  b->h.epoch = pos->epoch + (like.kind == BLOCK_EPOCH);
  b->h.first_lsn = pos->lsn + 1;
  b->h.commit_lsn = how & 2 ? feed_u64(f) : pos->lsn;
  block_header_seal(&b->h, &pos->chain, b->bytes);
  *pos = (struct wal_pos){block_last_lsn(&b->h), b->h.epoch, b->h.chain};
  return b;
}

static void round_trip(struct feed *f, size_t n) {
  struct wal_packer *p;
  struct wal_unpacker *u;
  struct wal_pos at = start;
  CHECK(wal_packer_create(&p) == DW_OK && wal_unpacker_create(&u) == DW_OK);
  for (int round = 0; round < 20 && feed_left(f); round++) {
    struct wal_block *in[4], *out[4];
    struct wal_pos before = at;
    struct buf pack = {0};
    uint32_t plain;
    for (size_t i = 0; i < n; i++) in[i] = make_block(f, &at);
    CHECK(wal_pack(p, &before, in, n, &pack, &plain) == DW_OK && pack.len <= WAL_PACK_BOUND);
    uint8_t *copy = exact_copy(pack.data, pack.len);
    CHECK(wal_unpack(u, &before, copy, pack.len, plain, &at.chain, out, n) == DW_OK);
    for (size_t i = 0; i < n; i++) {
      CHECK(block_total_bytes(&in[i]->h) == block_total_bytes(&out[i]->h));
      CHECK(memcmp(in[i]->bytes, out[i]->bytes, block_total_bytes(&in[i]->h)) == 0);
      wal_block_unref(in[i]);
      wal_block_unref(out[i]);
    }
    free(copy);
    buf_free(&pack);
  }
  wal_packer_free(p);
  wal_unpacker_free(u);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct feed f = {data, size};
  uint8_t how = feed_u8(&f);
  if (how > 1) {
    round_trip(&f, how % 4u + 1);
    CHECK(contexts == 0);
    return 0;
  }
  size_t blocks = feed_u8(&f), n;
  const uint8_t *bytes = feed_bytes(&f, 4000, &n);
  uint8_t *copy = exact_copy(bytes, n);
  if (how)
    records(copy, n, blocks);
  else
    hostile(copy, n, 1000, blocks);
  CHECK(contexts == 0);
  free(copy);
  return 0;
}
