#include "bench/support/histogram.h"

static unsigned bucket_of(uint64_t ns) {
  const unsigned sub = HISTOGRAM_SUB_BITS;
  if (ns < (1u << sub)) return (unsigned)ns;
  unsigned top = 63u - (unsigned)__builtin_clzll(ns), shift = top - sub;
  return ((shift + 1) << sub) + (unsigned)((ns >> shift) & ((1u << sub) - 1));
}

static uint64_t end_of(unsigned bucket) {
  const unsigned sub = HISTOGRAM_SUB_BITS;
  if (bucket < (1u << sub)) return bucket;
  unsigned shift = (bucket >> sub) - 1;
  return ((1ull << sub) + (bucket & ((1u << sub) - 1)) + 1) << shift;
}

void histogram_add(struct histogram *h, uint64_t ns) {
  h->count[bucket_of(ns)]++;
  h->total++;
  if (ns > h->max) h->max = ns;
}

void histogram_merge(struct histogram *into, const struct histogram *from) {
  for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) into->count[i] += from->count[i];
  into->total += from->total;
  if (from->max > into->max) into->max = from->max;
}

double histogram_us(const struct histogram *h, double quantile) {
  if (!h->total) return 0;
  uint64_t want = (uint64_t)(quantile * (double)h->total), seen = 0;
  if (want >= h->total) return (double)h->max / 1e3;
  for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
    seen += h->count[i];
    if (seen <= want) continue;
    uint64_t end = end_of(i);
    return (double)(end < h->max ? end : h->max) / 1e3;
  }
  return (double)h->max / 1e3;
}
