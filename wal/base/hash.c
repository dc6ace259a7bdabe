/* XXH3 behind our own names; see hash.h. */
#include "wal/base/hash.h"

#include <stdio.h>
#define XXH_STATIC_LINKING_ONLY /* for a state on the stack */
#include <xxhash.h>

uint64_t hash64(const void *p, size_t n) {
  return XXH3_64bits(p, n);
}

static struct hash128 canonical(XXH128_hash_t h) {
  XXH128_canonical_t c;
  struct hash128 out;
  XXH128_canonicalFromHash(&c, h);
  memcpy(out.b, c.digest, 16);
  return out;
}

struct hash128 hash128(const void *p, size_t n) {
  return canonical(XXH3_128bits(p, n));
}

struct hash128 hash128_pair(const void *a, size_t na, const void *b, size_t nb) {
  if (na + nb <= 256) { /* the chain hash's case: no streaming state for a few bytes */
    uint8_t joined[256];
    memcpy(joined, a, na);
    memcpy(joined + na, b, nb);
    return hash128(joined, na + nb);
  }
  XXH3_state_t state; /* its alignment is in its type */
  XXH3_128bits_reset(&state);
  XXH3_128bits_update(&state, a, na);
  XXH3_128bits_update(&state, b, nb);
  return canonical(XXH3_128bits_digest(&state));
}

struct hash_stream *hash_stream_create(void) {
  XXH3_state_t *state = XXH3_createState();
  if (state) XXH3_128bits_reset(state);
  return (struct hash_stream *)state;
}

void hash_stream_update(struct hash_stream *s, const void *p, size_t n) {
  XXH3_128bits_update((XXH3_state_t *)s, p, n);
}

struct hash128 hash_stream_digest(const struct hash_stream *s) {
  return canonical(XXH3_128bits_digest((const XXH3_state_t *)s));
}

void hash_stream_destroy(struct hash_stream *s) {
  XXH3_freeState((XXH3_state_t *)s);
}

void hash128_hex(const struct hash128 *h, char out[33]) {
  for (int i = 0; i < 16; i++) snprintf(out + 2 * i, 3, "%02x", h->b[i]);
}
