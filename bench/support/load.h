/* Writers. Closed loops: each thread writes one record, waits for its answer, writes the next. Asynchronous: one thread
 * keeps a number of commits in flight. Paced: records at a fixed rate, whatever the answers do. */
#ifndef BENCH_SUPPORT_LOAD_H
#define BENCH_SUPPORT_LOAD_H

#include <pthread.h>
#include <stdatomic.h>

#include "bench/support/bench.h"
#include "bench/support/records.h"
#include "engine/dabbawal.h"

#define LOAD_MAX_THREADS 128

typedef void (*put_fn)(void *ctx, const struct record *); /* dies on failure */

struct load_result {
  uint64_t done;
  double seconds; /* from the start to the last answer */
  uint64_t logical_bytes;
  struct histogram latency;
};

/* Closed loop for `seconds`. */
void load_threads(int threads, double seconds, enum record_kind, put_fn, void *ctx, struct load_result *);

/* The same in the background, to be running beside something else. */
struct load;
struct load *load_start(int threads, enum record_kind, put_fn, void *ctx);
uint64_t load_done(struct load *); /* answered so far */
void load_stop(struct load *, struct load_result *); /* result may be NULL */

/* dw_write_async with at most `in_flight` unanswered; until `seconds` have passed, or `records` are written if that is
 * not 0. Waits for all answers. */
void load_async(dw_engine *, const dw_write_options *, int in_flight, double seconds, uint64_t records,
                enum record_kind, struct load_result *);

/* Many records quickly, in batches of 1,000: the i-th record of the fixed set for i in [from, to). */
void load_fixed(dw_engine *, uint64_t from, uint64_t to);

/* A put_fn for the engine: */
struct engine_put {
  dw_engine *engine;
  dw_write_options options;
};
void put_engine(void *engine_put, const struct record *);

/* dw_options_init plus what the flags of all benches say. */
void engine_options_init(dw_options *);
dw_engine *engine_open_or_die(const char *dir, const dw_options *);
void engine_close_or_die(dw_engine *);

#endif
