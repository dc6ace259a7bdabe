/* XXH3 checksums and 128-bit ids. Hashes are stored in the canonical (big-endian) form of xxHash. */
#ifndef DW_BASE_HASH_H
#define DW_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct hash128 {
  uint8_t b[16];
};

static inline bool hash128_eq(const struct hash128 *a, const struct hash128 *b) { return memcmp(a, b, 16) == 0; }
static inline bool hash128_zero(const struct hash128 *a) {
  static const struct hash128 z;
  return hash128_eq(a, &z);
}

uint64_t hash64(const void *p, size_t n);          /* XXH3 64, as a number */
struct hash128 hash128(const void *p, size_t n);   /* XXH3 128, canonical bytes */
struct hash128 hash128_pair(const void *a, size_t na, const void *b, size_t nb); /* of the concatenation */

/* Streaming form for files. */
struct hash_stream;
struct hash_stream *hash_stream_create(void); /* NULL: no memory */
void hash_stream_update(struct hash_stream *, const void *, size_t);
struct hash128 hash_stream_digest(const struct hash_stream *);
void hash_stream_destroy(struct hash_stream *);

/* 32 lower-case hex digits and a terminator. */
void hash128_hex(const struct hash128 *, char out[33]);

#endif
