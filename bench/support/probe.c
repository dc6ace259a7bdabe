#include "bench/support/probe.h"

#include <string.h>

#include "bench/support/bench.h"

#define LOOK_EVERY_NS 100000u
#define TICK_NS 1000000u

static const char probe_key[RECORD_KEY_BYTES + 1] = "probe-----------";

static uint64_t number(const char *value, int i) {
  uint64_t x;
  memcpy(&x, value + 8 * i, 8);
  return x;
}

struct record probe_record(uint64_t i, uint64_t start_ns, uint64_t period_ns) {
  static char value[1 << 20];
  memset(value, 'p', (size_t)bench.value_bytes);
  const uint64_t n[] = {i, start_ns, period_ns};
  memcpy(value, n, sizeof n);
  return (struct record){probe_key, RECORD_KEY_BYTES, value, (size_t)bench.value_bytes};
}

static void *look(void *arg) {
  struct prober *p = arg;
  const struct record key = {.key = probe_key, .klen = RECORD_KEY_BYTES};
  uint64_t seen = 0, run = 0;
  char value[PROBE_VALUE_BYTES];
  for (bool last = false; !last;) {
    uint64_t at = bench_ns();
    last = atomic_load(&p->stop); /* looks once more: late puts must not be forgotten */
    if (p->get(p->ctx, &key, value)) {
      uint64_t now = bench_ns(), i = number(value, 0), start = number(value, 1), period = number(value, 2);
      if (start != run) {
        run = start; /* another load: what was before it does not count */
        seen = 0;
      }
      for (; seen < i; seen++) {
        uint64_t due = start + (seen + 1) * period;
        histogram_add(&p->lag, now > due ? now - due : 0);
      }
    }
    if (!last) bench_sleep_until(at + LOOK_EVERY_NS);
  }
  return NULL;
}

void prober_start(struct prober *p, probe_get_fn get, void *ctx) {
  memset(p, 0, sizeof *p);
  p->get = get;
  p->ctx = ctx;
  if (pthread_create(&p->thread, NULL, look, p)) bench_die("no thread");
}

void prober_stop(struct prober *p) {
  atomic_store(&p->stop, true);
  pthread_join(p->thread, NULL);
}

void paced_load(double rate, double seconds, void (*put)(void *, const struct record *), void *ctx,
                double *actual_rate) {
  struct record_source s;
  source_init(&s, RECORD_HALF, bench_ns());
  uint64_t start = bench_ns(), ticks = (uint64_t)(seconds * 1e9) / TICK_NS, done = 0;
  for (uint64_t i = 1; i <= ticks; i++) {
    bench_sleep_until(start + i * TICK_NS);
    struct record probe = probe_record(i, start, TICK_NS);
    put(ctx, &probe);
    done++;
    for (uint64_t due = (uint64_t)(rate * (double)i * TICK_NS / 1e9); done < due; done++) put(ctx, source_next(&s));
  }
  *actual_rate = (double)done / ((double)(bench_ns() - start) / 1e9);
  source_free(&s);
}
