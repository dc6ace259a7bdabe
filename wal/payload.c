/* The payload grammar (wal/format.h): readers that believe nothing. */
#include "wal/base/bytes.h"
#include "wal/format.h"

static int bad(const char *what, size_t off) {
  return dw_fail(DW_CORRUPT, "payload: %s at byte %zu", what, off);
}

int payload_next_commit(const uint8_t *payload, size_t n, size_t *off, struct wal_commit *c) {
  size_t at = *off;
  if (at == n) return DW_NOT_FOUND;
  if (payload[at++] != 0) return bad("unknown commit flags", *off);
  size_t used = varint32_get(payload + at, n - at, &c->op_count);
  if (!used || c->op_count == 0) return bad("bad operation count", at);
  at += used;
  used = varint32_get(payload + at, n - at, &c->body_bytes);
  if (!used || c->body_bytes > WAL_MAX_COMMIT_BYTES) return bad("bad body size", at);
  at += used;
  if (c->body_bytes > n - at) return bad("body beyond the end", at);
  c->body = payload + at;
  *off = at + c->body_bytes;
  return DW_OK;
}

int body_next_op(const uint8_t *body, size_t n, size_t *off, struct wal_op *op) {
  size_t at = *off;
  if (at == n) return DW_NOT_FOUND;
  op->type = body[at++];
  if (op->type != OP_PUT && op->type != OP_DELETE) return bad("unknown operation", *off);
  size_t used = varint32_get(body + at, n - at, &op->klen);
  if (!used || op->klen < 2 || op->klen > WAL_MAX_KEY_BYTES) return bad("bad key size", at);
  at += used;
  if (op->klen > n - at) return bad("key beyond the end", at);
  op->key = body + at;
  at += op->klen;
  op->val = NULL;
  op->vlen = 0;
  if (op->type == OP_PUT) {
    used = varint32_get(body + at, n - at, &op->vlen);
    if (!used || op->vlen > WAL_MAX_VALUE_BYTES) return bad("bad value size", at);
    at += used;
    if (op->vlen > n - at) return bad("value beyond the end", at);
    op->val = body + at;
    at += op->vlen;
  }
  *off = at;
  return DW_OK;
}

static int body_validate(const struct wal_commit *c) {
  size_t off = 0;
  uint32_t ops = 0;
  struct wal_op op;
  int rc;
  while ((rc = body_next_op(c->body, c->body_bytes, &off, &op)) == DW_OK) {
    if (op.key[0] != NS_USER) return bad("key outside the user namespace", off);
    ops++;
  }
  if (rc != DW_NOT_FOUND) return rc;
  return ops == c->op_count ? DW_OK : bad("operation count does not match", off);
}

int payload_validate(const uint8_t *payload, size_t n, uint32_t commit_count, uint64_t *ops) {
  size_t off = 0;
  uint32_t commits = 0;
  uint64_t total = 0;
  struct wal_commit c;
  int rc;
  while ((rc = payload_next_commit(payload, n, &off, &c)) == DW_OK) {
    rc = body_validate(&c);
    if (rc) return rc;
    commits++;
    total += c.op_count;
  }
  if (rc != DW_NOT_FOUND) return rc;
  if (commits != commit_count) return bad("commit count does not match the header", off);
  if (ops) *ops = total;
  return DW_OK;
}
