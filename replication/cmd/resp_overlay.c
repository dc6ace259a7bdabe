/* See resp_overlay.h. */
#include "replication/cmd/resp_overlay.h"

#include <stdlib.h>
#include <string.h>

#include "wal/base/hash.h"
#include "wal/base/status.h"

/* The key's place, or the empty one where it would go. */
static struct overlay_entry *place(const struct overlay *o, uint64_t hash, const uint8_t *key, size_t klen) {
  for (size_t i = hash & (o->cap - 1);; i = (i + 1) & (o->cap - 1)) {
    struct overlay_entry *e = &o->entries[i];
    if (!e->key || (e->hash == hash && e->klen == klen && memcmp(e->key, key, klen) == 0)) return e;
  }
}

static int grow(struct overlay *o) {
  struct overlay wider = {.cap = o->cap ? 2 * o->cap : 16, .count = o->count};
  wider.entries = calloc(wider.cap, sizeof *wider.entries);
  if (!wider.entries) return dw_fail_nomem(wider.cap * sizeof *wider.entries);
  for (size_t i = 0; i < o->cap; i++) {
    const struct overlay_entry *e = &o->entries[i];
    if (e->key) *place(&wider, e->hash, e->key, e->klen) = *e;
  }
  free(o->entries);
  *o = wider;
  return DW_OK;
}

const struct overlay_entry *overlay_find(const struct overlay *o, const uint8_t *key, size_t klen) {
  if (!o->count) return NULL;
  const struct overlay_entry *e = place(o, hash64(key, klen), key, klen);
  return e->key ? e : NULL;
}

int overlay_set(struct overlay *o, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen) {
  if (2 * (o->count + 1) > o->cap) {
    int rc = grow(o);
    if (rc) return rc;
  }
  uint64_t hash = hash64(key, klen);
  struct overlay_entry *e = place(o, hash, key, klen);
  o->count += !e->key;
  *e = (struct overlay_entry){.key = key, .klen = klen, .hash = hash, .val = val, .vlen = vlen, .deleted = !val};
  return DW_OK;
}

void overlay_free(struct overlay *o) {
  free(o->entries);
  *o = (struct overlay){0};
}
