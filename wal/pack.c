/* Packing and unpacking; pack.h has the idea and the grammar.
 *
 * Hostile packs: what a pack may hold is bounded before anything is decompressed (plain bytes), zstd's window is
 * capped, every length is compared with what is left, and a rebuilt header is judged by the same decoder as one from a
 * disk.
 */
#include <stdlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "wal/internal.h"
#include "wal/pack.h"

/* Level 1 does as well as level 3 on blocks of one to thirty records, at half the time. What was sent more than
 * 128 KiB ago no longer helps (docs/decisions/0006-*.md). */
#define PACK_LEVEL 1
#define PACK_WINDOW_LOG 17

#define SHAPE_ZSTD 1u
#define SHAPE_IDENTITY 2u
#define IDENTITY_BYTES 22u
#define RECORD_HEAD_BYTES (1 + IDENTITY_BYTES + 5 * 10) /* at most */

/* What records are relative to; kept alike at both ends. */
struct pack_state {
  uint8_t identity[IDENTITY_BYTES];
  uint64_t wall_ns;
};

struct wal_packer {
  ZSTD_CCtx *z;
  struct pack_state last;
};

struct wal_unpacker {
  ZSTD_DCtx *z;
  struct pack_state last;
  struct buf plain;
};

static void identity_put(uint8_t p[IDENTITY_BYTES], const struct block_header *h) {
  p[0] = h->kind;
  p[1] = (uint8_t)(h->need.mode | (h->need.from_default ? 0x80 : 0));
  p[2] = h->need.ack;
  p[3] = h->need.durability;
  put_u16(p + 4, h->need.acks);
  put_u64(p + 6, h->epoch);
  put_u64(p + 14, h->origin_id);
}

static void identity_get(const uint8_t p[IDENTITY_BYTES], struct block_header *h) {
  h->kind = p[0];
  h->need = (struct block_need){
      .mode = p[1] & 0x7f, .from_default = (p[1] & 0x80) != 0, .ack = p[2], .durability = p[3], .acks = get_u16(p + 4)};
  h->epoch = get_u64(p + 6);
  h->origin_id = get_u64(p + 14);
}

/* Differences, small in either direction. */
static uint64_t zigzag(uint64_t a, uint64_t b) {
  uint64_t d = a - b;
  return d << 1 ^ (d >> 63 ? UINT64_MAX : 0);
}
static uint64_t unzigzag(uint64_t b, uint64_t z) {
  return b + (z >> 1 ^ (z & 1 ? UINT64_MAX : 0));
}

static size_t varint_put(uint8_t *p, uint64_t v) {
  size_t n = 0;
  while (v >= 0x80) p[n++] = (uint8_t)(v | 0x80), v >>= 7;
  p[n++] = (uint8_t)v;
  return n;
}

/* ---- packing --------------------------------------------------------------------------------- */

int wal_packer_create(struct wal_packer **out) {
  struct wal_packer *p = calloc(1, sizeof *p);
  if (p && (p->z = ZSTD_createCCtx())) {
    if (!ZSTD_isError(ZSTD_CCtx_setParameter(p->z, ZSTD_c_compressionLevel, PACK_LEVEL)) &&
        !ZSTD_isError(ZSTD_CCtx_setParameter(p->z, ZSTD_c_windowLog, PACK_WINDOW_LOG))) {
      *out = p;
      return DW_OK;
    }
  }
  wal_packer_free(p);
  return dw_fail_nomem(sizeof *p);
}

void wal_packer_free(struct wal_packer *p) {
  if (!p) return;
  ZSTD_freeCCtx(p->z);
  free(p);
}

/* Into the stream; out grows as needed. Flushed: the other end can read everything up to here. */
static int put(struct wal_packer *p, const void *bytes, size_t n, bool flush, struct buf *out) {
  ZSTD_inBuffer in = {bytes, n, 0};
  size_t left;
  do {
    int rc = buf_reserve(out, 1024);
    if (rc) return rc;
    ZSTD_outBuffer o = {out->data, out->cap, out->len};
    left = ZSTD_compressStream2(p->z, &o, &in, flush ? ZSTD_e_flush : ZSTD_e_continue);
    if (ZSTD_isError(left)) return dw_fail(DW_NO_MEMORY, "packing blocks: zstd: %s", ZSTD_getErrorName(left));
    out->len = o.pos;
  } while (in.pos < in.size || (flush && left));
  return DW_OK;
}

static size_t record_head(struct pack_state *last, const struct block_header *h, uint8_t out[RECORD_HEAD_BYTES]) {
  uint8_t identity[IDENTITY_BYTES];
  identity_put(identity, h);
  bool differs = memcmp(identity, last->identity, sizeof identity) != 0;
  size_t n = 0;
  out[n++] = (uint8_t)((h->codec == BLOCK_ZSTD ? SHAPE_ZSTD : 0) | (differs ? SHAPE_IDENTITY : 0));
  if (differs) {
    memcpy(out + n, identity, sizeof identity);
    memcpy(last->identity, identity, sizeof identity);
    n += sizeof identity;
  }
  n += varint_put(out + n, h->commit_count);
  n += varint_put(out + n, zigzag(h->first_lsn - 1, h->commit_lsn));
  n += varint_put(out + n, zigzag(h->wall_ns, last->wall_ns));
  last->wall_ns = h->wall_ns;
  n += varint_put(out + n, h->stored_bytes);
  if (h->codec == BLOCK_ZSTD) n += varint_put(out + n, h->raw_bytes);
  return n;
}

int wal_pack(struct wal_packer *p, const struct wal_pos *before, struct wal_block *const *blocks, size_t n,
             struct buf *out, uint32_t *plain) {
  dw_lsn lsn = before->lsn;
  *plain = 0;
  for (size_t i = 0; i < n; i++) {
    const struct wal_block *b = blocks[i];
    uint8_t head[RECORD_HEAD_BYTES];
    if (b->h.first_lsn != lsn + 1 || !wal_packs(b))
      return dw_fail(DW_INVALID, "the block of LSN %llu can't be packed behind LSN %llu",
                     (unsigned long long)b->h.first_lsn, (unsigned long long)lsn);
    size_t head_bytes = record_head(&p->last, &b->h, head);
    int rc = put(p, head, head_bytes, false, out);
    if (rc == DW_OK) rc = put(p, b->bytes + WAL_BLOCK_HEADER_BYTES, b->h.stored_bytes, i + 1 == n, out);
    if (rc) return rc;
    *plain += (uint32_t)(head_bytes + b->h.stored_bytes);
    lsn = block_last_lsn(&b->h);
  }
  return DW_OK;
}

/* ---- unpacking ------------------------------------------------------------------------------- */

int wal_unpacker_create(struct wal_unpacker **out) {
  struct wal_unpacker *u = calloc(1, sizeof *u);
  if (u && (u->z = ZSTD_createDCtx()) &&
      !ZSTD_isError(ZSTD_DCtx_setParameter(u->z, ZSTD_d_windowLogMax, PACK_WINDOW_LOG))) {
    *out = u;
    return DW_OK;
  }
  wal_unpacker_free(u);
  return dw_fail_nomem(sizeof *u);
}

void wal_unpacker_free(struct wal_unpacker *u) {
  if (!u) return;
  ZSTD_freeDCtx(u->z);
  buf_free(&u->plain);
  free(u);
}

/* Exactly `plain` bytes from exactly `bytes`, and the stream goes on. */
static int inflate(struct wal_unpacker *u, const void *pack, size_t bytes, uint32_t plain) {
  ZSTD_inBuffer in = {pack, bytes, 0};
  u->plain.len = 0;
  int rc = buf_reserve(&u->plain, plain + 1u); /* one more: what is left over would come out of the next pack */
  if (rc) return rc;
  ZSTD_outBuffer o = {u->plain.data, plain + 1u, 0};
  for (;;) {
    size_t before = in.pos + o.pos, left = ZSTD_decompressStream(u->z, &o, &in);
    if (ZSTD_isError(left) && ZSTD_getErrorCode(left) == ZSTD_error_memory_allocation) return dw_fail_nomem(plain);
    if (ZSTD_isError(left)) return dw_fail(DW_CORRUPT, "pack: zstd: %s", ZSTD_getErrorName(left));
    if (left == 0) return dw_fail(DW_CORRUPT, "pack: the zstd stream ends in it");
    if (in.pos + o.pos == before) break;
  }
  if (in.pos != bytes || o.pos != plain)
    return dw_fail(DW_CORRUPT, "pack: %zu of %zu bytes give %zu of %u", in.pos, bytes, o.pos, plain);
  u->plain.len = plain;
  return DW_OK;
}

struct reader {
  const uint8_t *p, *end;
};

static bool take(struct reader *r, size_t n, const uint8_t **out) {
  if ((size_t)(r->end - r->p) < n) return false;
  *out = r->p;
  r->p += n;
  return true;
}

static bool take_varint(struct reader *r, uint64_t max, uint64_t *v) {
  *v = 0;
  for (unsigned shift = 0; shift < 64 && r->p < r->end; shift += 7) {
    uint8_t b = *r->p++;
    if (shift == 63 && b > 1) return false;
    *v |= (uint64_t)(b & 0x7f) << shift;
    if (!(b & 0x80)) return *v <= max;
  }
  return false;
}

/* One record; false: it is not one. */
static bool take_record(struct reader *r, struct pack_state *last, dw_lsn lsn, struct block_header *h,
                        const uint8_t **payload) {
  const uint8_t *shape, *identity;
  uint64_t count, lag, later, stored, raw;
  if (!take(r, 1, &shape) || *shape > (SHAPE_ZSTD | SHAPE_IDENTITY)) return false;
  if (*shape & SHAPE_IDENTITY) {
    if (!take(r, IDENTITY_BYTES, &identity)) return false;
    memcpy(last->identity, identity, IDENTITY_BYTES);
  }
  if (!take_varint(r, UINT32_MAX, &count) || !take_varint(r, UINT64_MAX, &lag) || !take_varint(r, UINT64_MAX, &later) ||
      !take_varint(r, WAL_PACK_BLOCK_BYTES - WAL_BLOCK_HEADER_BYTES, &stored))
    return false;
  raw = stored;
  if ((*shape & SHAPE_ZSTD) && !take_varint(r, WAL_MAX_RAW_BYTES, &raw)) return false;
  if (!take(r, stored, payload)) return false;
  *h = (struct block_header){.codec = *shape & SHAPE_ZSTD ? BLOCK_ZSTD : BLOCK_RAW,
                             .first_lsn = lsn + 1,
                             .commit_count = (uint32_t)count,
                             .commit_lsn = lsn - unzigzag(0, lag),
                             .wall_ns = unzigzag(last->wall_ns, later),
                             .stored_bytes = (uint32_t)stored,
                             .raw_bytes = (uint32_t)raw};
  identity_get(last->identity, h);
  last->wall_ns = h->wall_ns;
  return true;
}

static int rebuild(struct wal_unpacker *u, const struct wal_pos *before, const struct hash128 *chain,
                   struct wal_block **out, size_t n, size_t *made) {
  struct reader r = {u->plain.data, u->plain.data + u->plain.len};
  struct wal_pos pos = *before;
  size_t total = 0;
  for (*made = 0; *made < n; ++*made) {
    struct block_header h;
    const uint8_t *payload;
    if (!take_record(&r, &u->last, pos.lsn, &h, &payload))
      return dw_fail(DW_CORRUPT, "pack: the record behind LSN %llu is not one", (unsigned long long)pos.lsn);
    total += block_total_bytes(&h);
    if (total > WAL_PACK_BYTES) return dw_fail(DW_CORRUPT, "pack of more than %u bytes of blocks", WAL_PACK_BYTES);
    int rc = wal_block_rebuild(&h, &pos.chain, payload, &out[*made]);
    if (rc) return rc;
    const struct block_header *b = &out[*made]->h;
    pos = (struct wal_pos){block_last_lsn(b), b->epoch, b->chain};
  }
  if (r.p != r.end) return dw_fail(DW_CORRUPT, "pack: %zu bytes behind its blocks", (size_t)(r.end - r.p));
  if (!hash128_eq(&pos.chain, chain))
    return dw_fail(DW_CORRUPT, "pack: its blocks up to LSN %llu do not lead to the chain hash that came with it",
                   (unsigned long long)pos.lsn);
  return DW_OK;
}

int wal_unpack(struct wal_unpacker *u, const struct wal_pos *before, const void *pack, size_t bytes, uint32_t plain,
               const struct hash128 *chain, struct wal_block **out, size_t n) {
  size_t made = 0;
  if (n == 0 || n > WAL_PACK_BLOCKS || plain > WAL_PACK_BYTES)
    return dw_fail(DW_CORRUPT, "pack of %zu blocks in %u bytes", n, plain);
  int rc = inflate(u, pack, bytes, plain);
  if (rc == DW_OK) rc = rebuild(u, before, chain, out, n, &made);
  while (rc && made) wal_block_unref(out[--made]);
  return rc;
}
