/* Little-endian integers, varints and a growing byte buffer: the vocabulary of every format here. */
#ifndef DW_BASE_BYTES_H
#define DW_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* On-disk and on-wire integers are little-endian, unaligned. */
static inline void put_u16(void *p, uint16_t v) {
  uint8_t *b = p;
  b[0] = (uint8_t)v, b[1] = (uint8_t)(v >> 8);
}
static inline void put_u32(void *p, uint32_t v) {
  uint8_t *b = p;
  for (int i = 0; i < 4; i++) b[i] = (uint8_t)(v >> (8 * i));
}
static inline void put_u64(void *p, uint64_t v) {
  uint8_t *b = p;
  for (int i = 0; i < 8; i++) b[i] = (uint8_t)(v >> (8 * i));
}
static inline uint16_t get_u16(const void *p) {
  const uint8_t *b = p;
  return (uint16_t)(b[0] | (b[1] << 8));
}
static inline uint32_t get_u32(const void *p) {
  const uint8_t *b = p;
  uint32_t v = 0;
  for (int i = 0; i < 4; i++) v |= (uint32_t)b[i] << (8 * i);
  return v;
}
static inline uint64_t get_u64(const void *p) {
  const uint8_t *b = p;
  uint64_t v = 0;
  for (int i = 0; i < 8; i++) v |= (uint64_t)b[i] << (8 * i);
  return v;
}

/* LEB128 of at most 5 bytes for 32 bits. Readers accept the shortest form only, so that equal values
 * have equal bytes. put returns the bytes written (dst needs 5); get returns bytes used, 0 if bad. */
static inline size_t varint32_put(uint8_t *dst, uint32_t v) {
  size_t n = 0;
  while (v >= 0x80) dst[n++] = (uint8_t)(v | 0x80), v >>= 7;
  dst[n++] = (uint8_t)v;
  return n;
}
static inline size_t varint32_len(uint32_t v) {
  size_t n = 1;
  while (v >= 0x80) n++, v >>= 7;
  return n;
}
size_t varint32_get(const uint8_t *p, size_t avail, uint32_t *v);

/* A growing buffer. Zero-initialise; functions that grow return DW_NO_MEMORY and leave it unchanged. */
struct buf {
  uint8_t *data;
  size_t len, cap;
};
int buf_reserve(struct buf *, size_t extra);
int buf_append(struct buf *, const void *, size_t);
void buf_consume(struct buf *, size_t n); /* drops the first n bytes */
void buf_free(struct buf *);              /* leaves it zeroed */

static inline size_t align8(size_t n) { return (n + 7) & ~(size_t)7; }

#endif
