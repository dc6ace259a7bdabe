/* What gets written. The standard record: 16-byte random key, value of --value-bytes (100), the first half of it random,
 * the rest constant. Other kinds for questions about compression. */
#ifndef BENCH_SUPPORT_RECORDS_H
#define BENCH_SUPPORT_RECORDS_H

#include <stddef.h>
#include <stdint.h>

#define RECORD_KEY_BYTES 16

struct record {
  const char *key;
  size_t klen;
  const char *val;
  size_t vlen;
};

enum record_kind {
  RECORD_HALF,   /* the standard one */
  RECORD_RANDOM, /* nothing to compress */
  RECORD_JSON,   /* an event as a service would log it, about 300 bytes */
  RECORD_DEBIAN  /* paragraphs of the package index, in turn; key Package/Version/Architecture */
};

/* A source of records for one thread; `record` is good until the next call. */
struct record_source {
  enum record_kind kind;
  uint64_t state, n;
  struct record record;
  char key[256];
  char *val;
};
void source_init(struct record_source *, enum record_kind, uint64_t seed);
void source_free(struct record_source *);
const struct record *source_next(struct record_source *);
/* The i-th record of a fixed set (RECORD_HALF): known keys for readers. */
const struct record *source_at(struct record_source *, uint64_t i);

uint64_t rnd_next(uint64_t *state);

/* Reads `apt-cache dumpavail`, or the dpkg status file where that is empty. How many paragraphs; 0: none. */
size_t debian_load(void);
const char *debian_origin(void);

#endif
