/* Keys that a command at hand has written, laid over what is stored: a transaction reads its own writes, and DEL a a
 * counts once. */
#ifndef DW_RESP_OVERLAY_H
#define DW_RESP_OVERLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct overlay_entry {
  const uint8_t *key, *val; /* borrowed; key NULL: an empty place */
  size_t klen, vlen;
  uint64_t hash;
  bool deleted;
};

/* Zero-initialise. An open hash table, never more than half full. */
struct overlay {
  struct overlay_entry *entries;
  size_t count, cap;
};

/* NULL: not written. Valid until the next overlay_set. */
const struct overlay_entry *overlay_find(const struct overlay *, const uint8_t *key, size_t klen);
/* val NULL: deleted. DW_OK or DW_NO_MEMORY. Key and value are borrowed until overlay_free. */
int overlay_set(struct overlay *, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen);
void overlay_free(struct overlay *);

#endif
