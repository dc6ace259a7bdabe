/* Counts of durations in buckets that grow with the duration: 3 % wide, from 1 ns to centuries, no allocation. */
#ifndef BENCH_SUPPORT_HISTOGRAM_H
#define BENCH_SUPPORT_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_SUB_BITS 5 /* 32 buckets per power of two */
#define HISTOGRAM_BUCKETS ((64 - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS)

struct histogram {
  uint64_t total, max;
  uint64_t count[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *, uint64_t ns);
void histogram_merge(struct histogram *, const struct histogram *);
double histogram_us(const struct histogram *, double quantile); /* upper end of the bucket, in microseconds; 0 if empty */

#endif
