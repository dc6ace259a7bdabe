/* Varints and the growing buffer; see bytes.h. */
#include "wal/base/bytes.h"

#include <stdlib.h>

#include "wal/base/status.h"

size_t varint32_get(const uint8_t *p, size_t avail, uint32_t *v) {
  uint64_t value = 0;
  for (size_t i = 0; i < 5 && i < avail; i++) {
    value |= (uint64_t)(p[i] & 0x7f) << (7 * i);
    if (p[i] & 0x80) continue;
    if (value > UINT32_MAX || (i && p[i] == 0)) return 0; /* too big, or not the shortest form */
    *v = (uint32_t)value;
    return i + 1;
  }
  return 0;
}

int buf_reserve(struct buf *b, size_t extra) {
  if (extra <= b->cap - b->len) return DW_OK;
  if (extra > SIZE_MAX / 2 - b->len) return dw_fail_nomem(extra);
  size_t cap = b->cap ? b->cap : 256;
  while (cap < b->len + extra) cap += cap / 2;
  uint8_t *data = realloc(b->data, cap);
  if (!data) return dw_fail_nomem(cap);
  b->data = data;
  b->cap = cap;
  return DW_OK;
}

int buf_append(struct buf *b, const void *p, size_t n) {
  int rc = buf_reserve(b, n);
  if (rc) return rc;
  if (n) memcpy(b->data + b->len, p, n);
  b->len += n;
  return DW_OK;
}

void buf_consume(struct buf *b, size_t n) {
  if (n < b->len) memmove(b->data, b->data + n, b->len - n);
  b->len -= n < b->len ? n : b->len;
}

void buf_free(struct buf *b) {
  free(b->data);
  *b = (struct buf){0};
}
