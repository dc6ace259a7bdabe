/* Random numbers of a simulation: splitmix64, one stream per concern, all derived from the run's seed, so that a draw
 * more in one part does not change the others. */
#ifndef DW_SIM_RAND_H
#define DW_SIM_RAND_H

#include <stdbool.h>
#include <stdint.h>

struct rng {
  uint64_t s;
};

static inline uint64_t mix64(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
static inline struct rng rng_make(uint64_t seed, uint64_t stream) {
  return (struct rng){mix64(seed * 0x9e3779b97f4a7c15ull + mix64(stream + 0x632be59bd9b4e019ull))};
}
static inline uint64_t rng_next(struct rng *r) {
  return mix64(r->s += 0x9e3779b97f4a7c15ull);
}
static inline uint64_t rng_below(struct rng *r, uint64_t n) { /* n > 0 */
  return rng_next(r) % n;
}
static inline uint64_t rng_between(struct rng *r, uint64_t lo, uint64_t hi) { /* both included */
  return lo + rng_below(r, hi - lo + 1);
}
static inline bool rng_ppm(struct rng *r, uint32_t ppm) { /* true in `ppm` of a million draws */
  return ppm && rng_below(r, 1000000) < ppm;
}
static inline bool rng_percent(struct rng *r, uint32_t percent) {
  return rng_below(r, 100) < percent;
}
/* About exponential: many short ones, a few long. */
static inline uint64_t rng_skewed(struct rng *r, uint64_t lo, uint64_t hi) {
  uint64_t x = rng_below(r, 1u << 20);
  x = (x * x) >> 20;
  x = (x * x) >> 20;
  return lo + (uint64_t)(((unsigned __int128)(hi - lo) * x) >> 20);
}

#endif
