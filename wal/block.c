/* Blocks in memory: made from a payload, or taken from untrusted bytes.
 *
 * A block is immutable once it is sealed, and shared by reference: the tail cache, shippers and the applier hold the
 * very bytes that went to disk. Compression happens once, here; checksums are over the stored bytes, so every later hop
 * verifies without decompressing.
 */
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "wal/internal.h"

/* Below this, a commit by itself, zstd's time is a sixth of the whole commit and saves less than the block's own
 * header. */
#define COMPRESS_MIN_BYTES 512u

/* One compression and one decompression context per thread, freed with the thread: making one costs more than
 * compressing a small block. */
static pthread_key_t cctx_key, dctx_key;
static pthread_once_t keys_once = PTHREAD_ONCE_INIT;

static void free_cctx(void *p) {
  ZSTD_freeCCtx(p);
}
static void free_dctx(void *p) {
  ZSTD_freeDCtx(p);
}
static void make_keys(void) {
  pthread_key_create(&cctx_key, free_cctx);
  pthread_key_create(&dctx_key, free_dctx);
}

static ZSTD_CCtx *thread_cctx(void) {
  pthread_once(&keys_once, make_keys);
  ZSTD_CCtx *c = pthread_getspecific(cctx_key);
  if (!c && (c = ZSTD_createCCtx())) pthread_setspecific(cctx_key, c);
  return c;
}

static ZSTD_DCtx *thread_dctx(void) {
  pthread_once(&keys_once, make_keys);
  ZSTD_DCtx *d = pthread_getspecific(dctx_key);
  if (!d && (d = ZSTD_createDCtx())) pthread_setspecific(dctx_key, d);
  return d;
}

/* The main thread's contexts: thread-specific destructors do not run for it at exit. */
__attribute__((destructor)) static void free_main_contexts(void) {
  pthread_once(&keys_once, make_keys);
  ZSTD_freeCCtx(pthread_getspecific(cctx_key));
  ZSTD_freeDCtx(pthread_getspecific(dctx_key));
  pthread_setspecific(cctx_key, NULL);
  pthread_setspecific(dctx_key, NULL);
}

struct wal_block *wal_block_ref(struct wal_block *b) {
  atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
  return b;
}

void wal_block_unref(struct wal_block *b) {
  if (!b || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1) return;
  free(b->bytes);
  free(b->raw);
  free(b);
}

/* An empty shell with one reference; bytes holds `cap`. */
static struct wal_block *block_new(size_t cap) {
  struct wal_block *b = calloc(1, sizeof *b);
  if (b && !(b->bytes = malloc(cap))) {
    free(b);
    b = NULL;
  }
  if (b) atomic_init(&b->refs, 1);
  return b;
}

/* Compresses into bytes behind the header; 0 if it does not shrink by a sixteenth. */
static size_t compress_payload(struct wal_block *b, const void *raw, size_t n, int level) {
  if (level == 0 || n < COMPRESS_MIN_BYTES) return 0;
  ZSTD_CCtx *c = thread_cctx();
  if (!c) return 0; /* no memory: stored raw is right too */
  size_t room = n - n / 16;
  size_t got = ZSTD_compressCCtx(c, b->bytes + WAL_BLOCK_HEADER_BYTES, room, raw, n, level);
  return ZSTD_isError(got) ? 0 : got;
}

int wal_block_create(const struct block_header *like, const void *raw, size_t n, int level, struct wal_block **out) {
  if (n == 0 || n > WAL_MAX_RAW_BYTES) return dw_fail(DW_INVALID, "block payload of %zu bytes", n);
  size_t cap = WAL_BLOCK_HEADER_BYTES + align8(n);
  struct wal_block *b = block_new(cap);
  if (!b) return dw_fail_nomem(cap);
  b->h = *like;
  b->h.flags = 0;
  b->h.raw_bytes = (uint32_t)n;
  size_t stored = compress_payload(b, raw, n, level);
  if (stored) {
    b->h.codec = BLOCK_ZSTD;
    if (!(b->raw = malloc(n))) {
      wal_block_unref(b);
      return dw_fail_nomem(n);
    }
    memcpy(b->raw, raw, n);
    uint8_t *shrunk = realloc(b->bytes, WAL_BLOCK_HEADER_BYTES + align8(stored));
    if (shrunk) b->bytes = shrunk;
  } else {
    b->h.codec = BLOCK_RAW;
    stored = n;
    memcpy(b->bytes + WAL_BLOCK_HEADER_BYTES, raw, n);
  }
  b->h.stored_bytes = (uint32_t)stored;
  memset(b->bytes + WAL_BLOCK_HEADER_BYTES + stored, 0, align8(stored) - stored);
  b->h.payload_hash = hash128(b->bytes + WAL_BLOCK_HEADER_BYTES, stored);
  *out = b;
  return DW_OK;
}

int wal_block_parse(const void *bytes, size_t n, struct wal_block **out) {
  struct block_header h;
  if (n < WAL_BLOCK_HEADER_BYTES) return dw_fail(DW_CORRUPT, "block of %zu bytes", n);
  int rc = block_header_decode(bytes, &h);
  if (rc) return rc;
  if (block_total_bytes(&h) != n)
    return dw_fail(DW_CORRUPT, "block of LSN %llu: header says %zu bytes, %zu are there",
                   (unsigned long long)h.first_lsn, block_total_bytes(&h), n);
  rc = block_payload_check(&h, bytes);
  if (rc) return rc;
  struct wal_block *b = block_new(n);
  if (!b) return dw_fail_nomem(n);
  b->h = h;
  memcpy(b->bytes, bytes, n);
  *out = b;
  return DW_OK;
}

int wal_block_rebuild(const struct block_header *like, const struct hash128 *prev, const void *stored,
                      struct wal_block **out) {
  struct block_header h = *like;
  size_t n = block_total_bytes(&h);
  struct wal_block *b = block_new(n);
  if (!b) return dw_fail_nomem(n);
  memset(b->bytes + n - 8, 0, 8); /* the padding is at the end of these */
  memcpy(b->bytes + WAL_BLOCK_HEADER_BYTES, stored, h.stored_bytes);
  h.payload_hash = hash128(stored, h.stored_bytes);
  block_header_seal(&h, prev, b->bytes);
  int rc = block_header_decode(b->bytes, &b->h);
  if (rc)
    wal_block_unref(b);
  else
    *out = b;
  return rc;
}

int wal_block_raw(const struct wal_block *b, struct buf *scratch, const uint8_t **out, size_t *n) {
  *n = b->h.raw_bytes;
  if (b->raw) {
    *out = b->raw;
    return DW_OK;
  }
  const uint8_t *stored = b->bytes + WAL_BLOCK_HEADER_BYTES;
  if (b->h.codec == BLOCK_RAW) {
    *out = stored;
    return DW_OK;
  }
  assert(b->h.raw_bytes <= WAL_MAX_RAW_BYTES); /* block_header_decode saw to it */
  /* A frame made by ZSTD_compressCCtx says how much it holds. Compared first, so that a lie costs no memory. */
  unsigned long long says = ZSTD_getFrameContentSize(stored, b->h.stored_bytes);
  if (says != b->h.raw_bytes)
    return dw_fail(DW_CORRUPT, "block of LSN %llu: its zstd frame does not hold the %u bytes announced",
                   (unsigned long long)b->h.first_lsn, b->h.raw_bytes);
  scratch->len = 0;
  int rc = buf_reserve(scratch, b->h.raw_bytes);
  if (rc) return rc;
  ZSTD_DCtx *d = thread_dctx();
  if (!d) return dw_fail_nomem(b->h.raw_bytes);
  size_t got = ZSTD_decompressDCtx(d, scratch->data, b->h.raw_bytes, stored, b->h.stored_bytes);
  if (ZSTD_isError(got) && ZSTD_getErrorCode(got) == ZSTD_error_memory_allocation)
    return dw_fail_nomem(b->h.raw_bytes); /* the block is as good as ever */
  if (ZSTD_isError(got))
    return dw_fail(DW_CORRUPT, "block of LSN %llu: zstd: %s", (unsigned long long)b->h.first_lsn,
                   ZSTD_getErrorName(got));
  if (got != b->h.raw_bytes)
    return dw_fail(DW_CORRUPT, "block of LSN %llu: %zu bytes decompressed, %u announced",
                   (unsigned long long)b->h.first_lsn, got, b->h.raw_bytes);
  scratch->len = got;
  *out = scratch->data;
  return DW_OK;
}
