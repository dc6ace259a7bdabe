/* Several reads at one consistent point. */
#ifndef DW_RESP_POINT_H
#define DW_RESP_POINT_H

#include "dabbawal.h"
#include "wal/base/bytes.h"

/* Set e, ro and one_key; zero the rest. */
struct point {
  dw_engine *e;
  dw_read_options ro;
  bool one_key; /* only one key will be asked for: no iterator needed */
  dw_iter *it;
  dw_value value;
};

/* As dw_get; *val is valid until the next call or point_end. */
int point_get(struct point *, const uint8_t *key, size_t klen, const uint8_t **val, size_t *vlen);
void point_end(struct point *);

/* What the command (lower case) answers for a key that was read with this result; other errors are passed through. */
int point_reply(struct buf *out, const char *command, int rc, const uint8_t *val, size_t vlen);

#endif
