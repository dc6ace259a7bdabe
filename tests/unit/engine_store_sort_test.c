/* A batch in key order gives what the same batch in its own order gives. */
#include <stdlib.h>
#include <string.h>

#include "engine/batch.h"
#include "engine/store_sort.h"
#include "tests/support/check_main.h"

/* One body per call of add, as commits are. */
struct bodies {
  struct buf data[300];
  struct store_body list[300];
  size_t n, ops;
};

static void add_put(struct bodies *b, const void *key, size_t klen, const void *val, size_t vlen) {
  ck_assert_int_eq(batch_add_put(&b->data[b->n], key, klen, val, vlen), DW_OK);
  b->list[b->n] = (struct store_body){b->data[b->n].data, b->data[b->n].len, 1};
  b->n++, b->ops++;
}

static void add_delete(struct bodies *b, const char *key) {
  ck_assert_int_eq(batch_add_delete(&b->data[b->n], key, strlen(key)), DW_OK);
  b->list[b->n] = (struct store_body){b->data[b->n].data, b->data[b->n].len, 1};
  b->n++, b->ops++;
}

static void free_bodies(struct bodies *b) {
  for (size_t i = 0; i < b->n; i++) buf_free(&b->data[i]);
}

static void sort(const struct bodies *b, struct buf *out) {
  struct buf scratch = {0};
  ck_assert_int_eq(store_sort(b->list, b->n, b->ops, &scratch, out), DW_OK);
  buf_free(&scratch);
}

START_TEST(keys_come_in_byte_order_whatever_their_length) {
  /* A key before every longer one that it begins, also across the eight bytes that are compared at once. */
  static const struct {
    const char *key;
    size_t n;
  } sorted[] = {{"\0", 1},       {"\0\0", 2},     {"a", 1},          {"a\0", 2},       {"a\0\0\0\0\0\0\0\0", 9},
                {"ab", 2},       {"abcdefgh", 8}, {"abcdefgh\0", 9}, {"abcdefghA", 9}, {"abcdefghAA", 10},
                {"abcdefgi", 8}, {"\xff", 1}};
  enum { N = sizeof sorted / sizeof *sorted };
  for (size_t shift = 0; shift < N; shift++) {
    struct bodies b = {.n = 0};
    for (size_t i = 0; i < N; i++) {
      size_t at = (i * 5 + shift) % N;
      add_put(&b, sorted[at].key, sorted[at].n, "v", 1);
    }
    struct buf out = {0};
    sort(&b, &out);
    size_t off = 0, i = 0;
    struct wal_op op;
    for (; body_next_op(out.data, out.len, &off, &op) == DW_OK; i++) {
      ck_assert_uint_eq(op.klen - 1, sorted[i].n);
      ck_assert_mem_eq(op.key + 1, sorted[i].key, sorted[i].n);
    }
    ck_assert_uint_eq(i, N);
    ck_assert_uint_eq(off, out.len);
    buf_free(&out);
    free_bodies(&b);
  }
}
END_TEST

START_TEST(operations_on_one_key_keep_their_order) {
  struct bodies b = {.n = 0};
  for (unsigned char i = 0; i < 100; i++) {
    add_put(&b, "same", 4, &i, 1);
    if (i % 3 == 0) add_delete(&b, "same");
    add_put(&b, &i, 1, "x", 1);
  }
  struct buf out = {0};
  sort(&b, &out);
  size_t off = 0;
  struct wal_op op;
  int next = 0;
  while (body_next_op(out.data, out.len, &off, &op) == DW_OK) {
    if (op.klen != 5) continue;
    bool deleted = op.type == OP_DELETE;
    ck_assert_int_eq(deleted, next % 4 == 1); /* put, delete, put, put, put, delete... */
    if (!deleted) ck_assert_int_eq(op.val[0], next / 4 * 3 + (next % 4 > 1 ? next % 4 - 1 : 0));
    next++;
  }
  ck_assert_int_eq(next, 134);
  buf_free(&out);
  free_bodies(&b);
}
END_TEST

int main(void) {
  Suite *s = suite_create("store_sort");
  TCase *t = tcase_create("store_sort");
  tcase_add_test(t, keys_come_in_byte_order_whatever_their_length);
  tcase_add_test(t, operations_on_one_key_keep_their_order);
  suite_add_tcase(s, t);
  return check_main(s);
}
