/* What the parts of the seed generator share: seeds.c (parsers), seeds_log.c (segments, directories), seeds_talk.c
 * (conversations). */
#ifndef DW_FUZZ_SEEDS_H
#define DW_FUZZ_SEEDS_H

#include "fuzz/logs.h"

/* One input: DIR/TARGET/NAME. */
void seed_bytes(const char *target, const char *name, const void *p, size_t n);
static inline void seed(const char *target, const char *name, const struct buf *b) {
  seed_bytes(target, name, b->data, b->len);
}
static inline void add_u8(struct buf *b, uint8_t v) { add(b, &v, 1); }
static inline void add_text(struct buf *b, const char *s) { add(b, s, strlen(s)); }

void seeds_log(void);
void seeds_talk(void);

#endif
