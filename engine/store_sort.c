/* A batch in key order: the same result, written faster.
 *
 * A batch is applied as a whole, so the order of operations on different keys is nobody's business. In the order of
 * arrival each insertion into RocksDB's memtable, a skip list far larger than the processor's caches, walks a path of
 * its own: seven tenths of a replay went into cache misses there. In key order one path is nearly the next one's, and
 * most of it is still in the cache.
 *
 * Equal keys keep their order (the last one must win): ties are broken by the place in the batch.
 */
#include "engine/store_sort.h"

#include <stdlib.h>
#include <string.h>

struct sort_op {
  uint64_t prefix; /* the key's first eight bytes behind the namespace, as a number that sorts like them */
  const uint8_t *record, *key;
  uint32_t record_bytes, klen;
  size_t place;
};

/* Everything is in the user namespace, so its byte tells nothing. */
static uint64_t prefix_of(const uint8_t *key, uint32_t klen) {
  uint8_t first[8] = {0};
  memcpy(first, key + 1, klen - 1 < 8 ? klen - 1 : 8);
  uint64_t v = 0;
  for (int i = 0; i < 8; i++) v = v << 8 | first[i];
  return v;
}

static int by_key(const void *a, const void *b) {
  const struct sort_op *x = a, *y = b;
  if (x->prefix != y->prefix) return x->prefix < y->prefix ? -1 : 1;
  int c = memcmp(x->key, y->key, x->klen < y->klen ? x->klen : y->klen);
  if (c) return c;
  if (x->klen != y->klen) return x->klen < y->klen ? -1 : 1;
  return x->place < y->place ? -1 : 1;
}

int store_sort(const struct store_body *bodies, size_t n, size_t ops, struct buf *scratch, struct buf *out) {
  scratch->len = 0;
  int rc = buf_reserve(scratch, ops * sizeof(struct sort_op));
  size_t bytes = 0, count = 0;
  for (size_t i = 0; i < n; i++) bytes += bodies[i].n;
  if (rc == DW_OK) rc = buf_reserve(out, bytes);
  if (rc) return rc;
  struct sort_op *sorted = (struct sort_op *)(void *)scratch->data;
  for (size_t i = 0; i < n; i++) {
    size_t off = 0, start = 0;
    struct wal_op op;
    while (count < ops && (rc = body_next_op(bodies[i].data, bodies[i].n, &off, &op)) == DW_OK) {
      sorted[count] = (struct sort_op){
          prefix_of(op.key, op.klen), bodies[i].data + start, op.key, (uint32_t)(off - start), op.klen, count};
      count++;
      start = off;
    }
    if (rc != DW_OK && rc != DW_NOT_FOUND) return rc;
  }
  qsort(sorted, count, sizeof *sorted, by_key);
  for (size_t i = 0; i < count; i++) {
    memcpy(out->data + out->len, sorted[i].record, sorted[i].record_bytes);
    out->len += sorted[i].record_bytes;
  }
  return DW_OK;
}
