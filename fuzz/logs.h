/* Log directories to start from, made by the production code in a mem_env. */
#ifndef DW_FUZZ_LOGS_H
#define DW_FUZZ_LOGS_H

#include "fuzz/fuzz.h"
#include "tests/support/mem_env.h"
#include "wal/wal.h"

#define LOG_SEGMENT_BYTES 8192u /* small, so that a look behind the end is short */
#define LOG_DIR "d"
#define LOG_FILES_MAX 8
#define LOG_BOUNDS_MAX 64

enum log_variant {
  LOG_CLOSED,   /* one segment, synced in between, closed */
  LOG_SEGMENTS, /* several segments, a spare, closed */
  LOG_CRASHED,  /* as if killed: an unsynced tail, no closing mark */
  LOG_EMPTY,    /* just made */
  LOG_VARIANTS
};

struct log_image {
  struct {
    char path[64];
    uint8_t *bytes;
    size_t n;
  } files[LOG_FILES_MAX];
  size_t count;
  struct wal_pos bounds[LOG_BOUNDS_MAX]; /* all boundaries, the first one before the first block */
  size_t bound_count;
};

/* Appends; an assertion if there is no memory. */
void add(struct buf *, const void *, size_t);
/* A payload of `commits` commits in the log's grammar, always the same. */
void make_payload(struct buf *, uint32_t commits);

/* Made once, kept for the life of the process. */
const struct log_image *log_image(enum log_variant);
struct hash128 log_cluster(void);
struct wal_options log_options(struct mem_env *); /* base and must_reach: genesis */
void log_restore(struct mem_env *, const struct log_image *);

#endif
