/* The payload grammar: what payload_validate accepts, written again from what the readers return, gives the same bytes. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/bytes.h"
#include "wal/format.h"

static void put_op(struct buf *out, const struct wal_op *op) {
  uint8_t head[16];
  size_t n = 0;
  head[n++] = op->type;
  n += varint32_put(head + n, op->klen);
  buf_append(out, head, n);
  buf_append(out, op->key, op->klen);
  if (op->type != OP_PUT) return;
  n = varint32_put(head, op->vlen);
  buf_append(out, head, n);
  buf_append(out, op->val, op->vlen);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  uint32_t commits = data[0];
  data++, size--;
  if (payload_validate(data, size, commits, NULL) != DW_OK) return 0;
  struct buf out = {0};
  size_t off = 0;
  struct wal_commit c;
  while (payload_next_commit(data, size, &off, &c) == DW_OK) {
    uint8_t head[16] = {0};
    size_t n = 1;
    n += varint32_put(head + n, c.op_count);
    n += varint32_put(head + n, c.body_bytes);
    buf_append(&out, head, n);
    size_t at = 0;
    struct wal_op op;
    while (body_next_op(c.body, c.body_bytes, &at, &op) == DW_OK) put_op(&out, &op);
  }
  assert(out.len == size && (size == 0 || memcmp(out.data, data, size) == 0));
  buf_free(&out);
  return 0;
}
