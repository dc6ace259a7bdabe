/* A batch's operations in key order; see store_sort.c. */
#ifndef DW_STORE_SORT_H
#define DW_STORE_SORT_H

#include "engine/store.h"
#include "wal/base/bytes.h"

/* Fewer operations are not worth it. */
#define STORE_SORT_MIN 64u

/* Appends the records of valid bodies, `ops` in all, to `out` in the order of their keys, those of equal keys in the
 * order that they had. `scratch` is the caller's, kept for the next time. DW_NO_MEMORY, DW_CORRUPT: `out` is spoiled.
 */
int store_sort(const struct store_body *bodies, size_t n, size_t ops, struct buf *scratch, struct buf *out);

#endif
