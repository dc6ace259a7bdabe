/* How long until a write is visible on another node? The writer puts one key over and over, at fixed times; its value
 * says which put it is and when it was due. The prober, in the other process, looks at the key every 100 us. What counts
 * is the time from when a put was due to when it, or a later one, was seen: a writer that falls behind makes the
 * figure worse, not better. Both use CLOCK_MONOTONIC, which is one clock for all processes of a machine. */
#ifndef BENCH_SUPPORT_PROBE_H
#define BENCH_SUPPORT_PROBE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "bench/support/histogram.h"
#include "bench/support/records.h"

#define PROBE_VALUE_BYTES 24

/* Reads the probe's value; false: not there. */
typedef bool (*probe_get_fn)(void *ctx, const struct record *key, char value[PROBE_VALUE_BYTES]);

struct prober {
  pthread_t thread;
  atomic_bool stop;
  probe_get_fn get;
  void *ctx;
  struct histogram lag;
};
void prober_start(struct prober *, probe_get_fn, void *ctx);
void prober_stop(struct prober *);

/* The record of put i (1, 2, ...), due at start_ns + i * period_ns. Padded to the usual size. */
struct record probe_record(uint64_t i, uint64_t start_ns, uint64_t period_ns);

/* Writes `rate` records a second for `seconds`: every millisecond one probe and the rest standard records. *actual_rate:
 * what was reached. */
void paced_load(double rate, double seconds, void (*put)(void *, const struct record *), void *ctx,
                double *actual_rate);

#endif
