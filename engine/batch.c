/* Batches: operations in the log's own grammar (wal/format.h), ready to be copied into a block. */
#include <stdlib.h>
#include <string.h>

#include "engine/batch.h"
#include "wal/base/status.h"

int batch_check_key(const void *key, size_t klen) {
  if (!key || klen == 0) return dw_fail(DW_INVALID, "empty key: keys are 1 to %u bytes", DW_MAX_KEY_BYTES);
  if (klen > DW_MAX_KEY_BYTES)
    return dw_fail(DW_INVALID, "key of %zu bytes: keys are 1 to %u bytes", klen, DW_MAX_KEY_BYTES);
  return DW_OK;
}

int batch_add_put(struct buf *body, const void *key, size_t klen, const void *val, size_t vlen) {
  int rc = batch_check_key(key, klen);
  if (rc) return rc;
  if (vlen > DW_MAX_VALUE_BYTES || (vlen && !val))
    return dw_fail(DW_INVALID, "value of %zu bytes: values are 0 to %u bytes", vlen, DW_MAX_VALUE_BYTES);
  size_t need = 1 + 5 + 1 + klen + 5 + vlen;
  if (body->len + need > DW_MAX_BATCH_BYTES)
    return dw_fail(DW_INVALID, "batch would exceed %u bytes", DW_MAX_BATCH_BYTES);
  rc = buf_reserve(body, need);
  if (rc) return rc;
  uint8_t *p = body->data + body->len;
  *p++ = OP_PUT;
  p += varint32_put(p, (uint32_t)klen + 1);
  *p++ = NS_USER;
  memcpy(p, key, klen);
  p += klen;
  p += varint32_put(p, (uint32_t)vlen);
  if (vlen) memcpy(p, val, vlen);
  body->len = (size_t)(p - body->data) + vlen;
  return DW_OK;
}

int batch_add_delete(struct buf *body, const void *key, size_t klen) {
  int rc = batch_check_key(key, klen);
  if (rc) return rc;
  size_t need = 1 + 5 + 1 + klen;
  if (body->len + need > DW_MAX_BATCH_BYTES)
    return dw_fail(DW_INVALID, "batch would exceed %u bytes", DW_MAX_BATCH_BYTES);
  rc = buf_reserve(body, need);
  if (rc) return rc;
  uint8_t *p = body->data + body->len;
  *p++ = OP_DELETE;
  p += varint32_put(p, (uint32_t)klen + 1);
  *p++ = NS_USER;
  memcpy(p, key, klen);
  body->len = (size_t)(p - body->data) + klen;
  return DW_OK;
}

dw_batch *dw_batch_create(void) {
  return calloc(1, sizeof(dw_batch));
}

void dw_batch_destroy(dw_batch *b) {
  if (!b) return;
  buf_free(&b->body);
  free(b);
}

void dw_batch_clear(dw_batch *b) {
  b->body.len = 0;
  b->ops = 0;
}

uint32_t dw_batch_count(const dw_batch *b) {
  return b->ops;
}

int dw_batch_put(dw_batch *b, const void *key, size_t klen, const void *val, size_t vlen) {
  int rc = batch_add_put(&b->body, key, klen, val, vlen);
  if (rc == DW_OK) b->ops++;
  return rc;
}

int dw_batch_delete(dw_batch *b, const void *key, size_t klen) {
  int rc = batch_add_delete(&b->body, key, klen);
  if (rc == DW_OK) b->ops++;
  return rc;
}
