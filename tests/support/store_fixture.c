/* See store_fixture.h. */
#include "tests/support/store_fixture.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/env.h"
#include "wal/base/hash.h"
#include "wal/base/status.h"

/* ---- batches ------------------------------------------------------------------------------- */

static void key_record(struct test_batch *b, uint8_t type, const void *key, size_t klen) {
  uint8_t head[7];
  size_t n = 0;
  head[n++] = type;
  n += varint32_put(head + n, (uint32_t)klen + 1);
  head[n++] = NS_USER;
  ck_assert_int_eq(buf_append(&b->body, head, n), DW_OK);
  ck_assert_int_eq(buf_append(&b->body, key, klen), DW_OK);
  b->ops++;
}

void batch_put(struct test_batch *b, const void *key, size_t klen, const void *val, size_t vlen) {
  key_record(b, OP_PUT, key, klen);
  uint8_t len[5];
  ck_assert_int_eq(buf_append(&b->body, len, varint32_put(len, (uint32_t)vlen)), DW_OK);
  if (vlen) ck_assert_int_eq(buf_append(&b->body, val, vlen), DW_OK);
}

void batch_delete(struct test_batch *b, const void *key, size_t klen) {
  key_record(b, OP_DELETE, key, klen);
}

void batch_free(struct test_batch *b) {
  buf_free(&b->body);
  b->ops = 0;
}

/* ---- markers ------------------------------------------------------------------------------- */

struct wal_pos pos_at(dw_lsn lsn) {
  struct wal_pos p = {.lsn = lsn, .epoch = 1 + lsn / 10};
  p.chain = hash128(&lsn, sizeof lsn);
  return p;
}

bool pos_eq(const struct wal_pos *a, const struct wal_pos *b) {
  return a->lsn == b->lsn && a->epoch == b->epoch && hash128_eq(&a->chain, &b->chain);
}

dw_lsn marker_lsn(struct store_fixture *f, bool persisted) {
  struct wal_pos pos, none = {0};
  ck_assert_int_eq(f->ops->marker(f->store, persisted, &pos), DW_OK);
  struct wal_pos want = pos.lsn ? pos_at(pos.lsn) : none;
  ck_assert(pos_eq(&pos, &want));
  return pos.lsn;
}

/* ---- the store and its directory ----------------------------------------------------------- */

void join(char *out, size_t cap, const char *dir, const char *name) {
  int n = snprintf(out, cap, "%s/%s", dir, name);
  ck_assert_int_ge(n, 0);
  ck_assert_uint_lt((size_t)n, cap);
}

void fixture_init(struct store_fixture *f, int kind) {
  memset(f, 0, sizeof *f);
  f->ops = kind == FIXTURE_MEM ? store_mem() : store_rocksdb();
  f->opt.env = env_posix();
  f->opt.force_slow_batches = kind == FIXTURE_ROCKSDB_SLOW;
  f->opt.block_cache_bytes = 1u << 20;
  const char *tmp = getenv("TMPDIR");
  join(f->root, sizeof f->root, tmp && *tmp ? tmp : "/tmp", "dw-store-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(f->root));
  join(f->dir, sizeof f->dir, f->root, "store");
}

void fixture_open(struct store_fixture *f) {
  int rc = f->ops->open(f->dir, &f->opt, &f->store);
  char msg[512];
  dw_error_copy(msg, sizeof msg);
  ck_assert_msg(rc == DW_OK, "open: %d %s", rc, msg);
}

void fixture_close(struct store_fixture *f) {
  f->ops->close(f->store);
  f->store = NULL;
}

void fixture_reopen(struct store_fixture *f) {
  fixture_close(f);
  fixture_open(f);
}

void fixture_free(struct store_fixture *f) {
  fixture_close(f);
  ck_assert_int_eq(env_remove_tree(env_posix(), f->root), DW_OK);
}

int fixture_write(struct store_fixture *f, struct test_batch *b, dw_lsn lsn) {
  struct store_body body = {b->body.data, b->body.len, b->ops};
  struct wal_pos pos = pos_at(lsn);
  int rc = f->ops->write(f->store, &body, 1, NULL, 0, &pos);
  b->body.len = 0;
  b->ops = 0;
  return rc;
}

void must_write(struct store_fixture *f, struct test_batch *b, dw_lsn lsn) {
  int rc = fixture_write(f, b, lsn);
  char msg[512];
  dw_error_copy(msg, sizeof msg);
  ck_assert_msg(rc == DW_OK, "write: %d %s", rc, msg);
}

const char *got(struct store_fixture *f, const char *key, char *out, size_t cap) {
  char full[256], *val;
  size_t n;
  int klen = snprintf(full, sizeof full, "%c%s", NS_USER, key);
  int rc = f->ops->get(f->store, full, (size_t)klen, &val, &n);
  if (rc == DW_NOT_FOUND) return "-";
  ck_assert_int_eq(rc, DW_OK);
  snprintf(out, cap, "%.*s", (int)n, val);
  f->ops->free_value(val);
  return out;
}

/* ---- the history --------------------------------------------------------------------------- */

static size_t history_value(dw_lsn i, size_t padding, char *out) {
  size_t n = (size_t)sprintf(out, "%llu:", (unsigned long long)i);
  for (size_t k = 0; k < padding; k++) out[n++] = (char)('a' + (i * 7 + k * k) % 26);
  return n;
}

int history_write(struct store_fixture *f, dw_lsn i, size_t padding) {
  struct test_batch b = {0};
  char key[16], *val = malloc(padding + 32);
  ck_assert_ptr_nonnull(val);
  size_t n = history_value(i, padding, val);
  unsigned slot = (unsigned)(i % HISTORY_SLOTS);
  snprintf(key, sizeof key, "slot-%03u", slot);
  batch_put(&b, key, strlen(key), val, n);
  batch_put(&b, "last", 4, val, n);
  snprintf(key, sizeof key, "gone-%03u", slot);
  if (i / HISTORY_SLOTS % 2) {
    batch_put(&b, key, strlen(key), val, n);
  } else {
    batch_delete(&b, key, strlen(key));
  }
  int rc = fixture_write(f, &b, i);
  batch_free(&b);
  free(val);
  return rc;
}

static void expect(const struct store_ops *ops, struct store_iter *it, const char *key, dw_lsn i, size_t padding,
                   char *tmp) {
  ck_assert_msg(ops->iter_valid(it), "%s is missing", key);
  size_t n, want = history_value(i, padding, tmp);
  const char *k = ops->iter_key(it, &n);
  ck_assert_msg(n == strlen(key) && memcmp(k, key, n) == 0, "%.*s where %s should be", (int)n, k, key);
  const char *v = ops->iter_value(it, &n);
  ck_assert_msg(n == want && memcmp(v, tmp, n) == 0, "%s does not hold %llu", key, (unsigned long long)i);
  ops->iter_next(it);
}

dw_lsn history_check(const struct store_ops *ops, struct store *store, size_t padding) {
  struct wal_pos pos;
  ck_assert_int_eq(ops->marker(store, false, &pos), DW_OK);
  dw_lsn m = pos.lsn;
  struct store_iter *it;
  ck_assert_int_eq(ops->iter_create(store, NS_USER, &it), DW_OK);
  ops->iter_first(it);
  char key[16], *tmp = malloc(padding + 32);
  ck_assert_ptr_nonnull(tmp);
  /* The last commit of each slot up to m, or 0; keys come in the order gone-, last, slot-. */
  for (int pass = 0; pass < 2; pass++) {
    for (unsigned slot = 0; slot < HISTORY_SLOTS; slot++) {
      dw_lsn i = m - (m + HISTORY_SLOTS - slot) % HISTORY_SLOTS;
      bool any = i <= m && i > 0; /* an underflow is above m */
      if (!any || (pass == 0 && i / HISTORY_SLOTS % 2 == 0)) continue;
      snprintf(key, sizeof key, pass ? "slot-%03u" : "gone-%03u", slot);
      expect(ops, it, key, i, padding, tmp);
    }
    if (pass == 0 && m) expect(ops, it, "last", m, padding, tmp);
  }
  ck_assert_msg(!ops->iter_valid(it), "more keys than the history has");
  ck_assert_int_eq(ops->iter_status(it), DW_OK);
  ops->iter_destroy(it);
  free(tmp);
  return m;
}

/* ---- dump ---------------------------------------------------------------------------------- */

static void dump_one(const struct store_ops *ops, struct store_iter *it, struct buf *out) {
  size_t n;
  uint8_t len[8];
  const char *k = ops->iter_key(it, &n);
  put_u64(len, n);
  ck_assert_int_eq(buf_append(out, len, 8), DW_OK);
  ck_assert_int_eq(buf_append(out, k, n), DW_OK);
  const char *v = ops->iter_value(it, &n);
  put_u64(len, n);
  ck_assert_int_eq(buf_append(out, len, 8), DW_OK);
  if (n) ck_assert_int_eq(buf_append(out, v, n), DW_OK);
}

int dump(const struct store_ops *ops, struct store *store, uint8_t ns, struct buf *out) {
  struct store_iter *it;
  int rc = ops->iter_create(store, ns, &it);
  if (rc) return rc;
  for (ops->iter_first(it); ops->iter_valid(it); ops->iter_next(it)) dump_one(ops, it, out);
  rc = ops->iter_status(it);
  for (ops->iter_last(it); rc == DW_OK && ops->iter_valid(it); ops->iter_prev(it)) dump_one(ops, it, out);
  if (!rc) rc = ops->iter_status(it);
  ops->iter_destroy(it);
  return rc;
}
