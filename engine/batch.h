/* The inside of a dw_batch, and the encoders that single puts and deletes share with it. */
#ifndef DW_BATCH_H
#define DW_BATCH_H

#include "engine/dabbawal.h"
#include "wal/base/bytes.h"
#include "wal/format.h"

struct dw_batch {
  struct buf body; /* op records, wal/format.h */
  uint32_t ops;
};

/* DW_INVALID (sizes) or DW_NO_MEMORY; the body is unchanged then. */
int batch_add_put(struct buf *body, const void *key, size_t klen, const void *val, size_t vlen);
int batch_add_delete(struct buf *body, const void *key, size_t klen);
int batch_check_key(const void *key, size_t klen);

#endif
