/* Commits and their operations. What payload_validate accepts, written again from what the readers return, has the same
 * bytes; a dw_batch made of the same operations has the same body; and a store takes it.
 * Input: the commit count that the header would say, 1 byte; the payload. */
#include "engine/batch.h"
#include "engine/store.h"
#include "fuzz/fuzz.h"

static void put_op(struct buf *out, const struct wal_op *op) {
  uint8_t head[16];
  size_t n = 0;
  head[n++] = op->type;
  n += varint32_put(head + n, op->klen);
  CHECK(buf_append(out, head, n) == DW_OK && buf_append(out, op->key, op->klen) == DW_OK);
  if (op->type != OP_PUT) return;
  n = varint32_put(head, op->vlen);
  CHECK(buf_append(out, head, n) == DW_OK && buf_append(out, op->val, op->vlen) == DW_OK);
}

static void put_commit(struct buf *out, const struct wal_commit *c, dw_batch *batch) {
  uint8_t head[16] = {0};
  size_t n = 1, at = 0;
  struct wal_op op;
  n += varint32_put(head + n, c->op_count);
  n += varint32_put(head + n, c->body_bytes);
  CHECK(buf_append(out, head, n) == DW_OK);
  dw_batch_clear(batch);
  uint32_t ops = 0;
  while (body_next_op(c->body, c->body_bytes, &at, &op) == DW_OK) {
    put_op(out, &op);
    int rc = op.type == OP_PUT ? dw_batch_put(batch, op.key + 1, op.klen - 1, op.val, op.vlen)
                               : dw_batch_delete(batch, op.key + 1, op.klen - 1);
    CHECK(rc == DW_OK);
    ops++;
  }
  CHECK(ops == c->op_count && dw_batch_count(batch) == ops);
  CHECK(batch->body.len == c->body_bytes && memcmp(batch->body.data, c->body, c->body_bytes) == 0);
}

/* The readers alone must be as safe on what is not valid: they are all that a reader of one commit has. */
static void walk_anything(const uint8_t *data, size_t size) {
  size_t off = 0, before = 0;
  struct wal_commit c;
  while (payload_next_commit(data, size, &off, &c) == DW_OK) {
    size_t at = 0, at_before = 0;
    struct wal_op op;
    CHECK(off > before && off <= size && c.body >= data && c.body + c.body_bytes <= data + size);
    while (body_next_op(c.body, c.body_bytes, &at, &op) == DW_OK) {
      CHECK(at > at_before && op.key >= c.body && op.key + op.klen <= c.body + c.body_bytes);
      CHECK(!op.val || (op.val >= c.body && op.val + op.vlen <= c.body + c.body_bytes));
      at_before = at;
    }
    before = off;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static dw_batch *batch;
  if (!batch) CHECK((batch = dw_batch_create()));
  if (size < 1) return 0;
  uint32_t commits = data[0];
  data++, size--;
  walk_anything(data, size);
  uint64_t ops = 0;
  if (payload_validate(data, size, commits, &ops) != DW_OK) return 0;
  CHECK(ops >= commits && ops <= size);
  CHECK(payload_validate(data, size, commits + 1, NULL) == DW_CORRUPT);
  struct buf out = {0};
  size_t off = 0;
  struct wal_commit c;
  while (payload_next_commit(data, size, &off, &c) == DW_OK) put_commit(&out, &c, batch);
  CHECK(out.len == size && (size == 0 || memcmp(out.data, data, size) == 0));
  buf_free(&out);
  return 0;
}
