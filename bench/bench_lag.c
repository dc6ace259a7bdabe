/* How long until a write at the primary is visible to reads on a follower, under a steady load of 50,000 records a
 * second?
 *
 * bench/support/probe.h says how it is measured: from when a write was due, whatever came in between, to when the
 * follower's process reads it. The baseline is the RocksDB tailer under the same load; RocksDB can't reach the rate
 * with synced writes from one thread, so the DISK case has none.
 */
#include "bench/support/bench.h"
#include "bench/support/cluster.h"
#include "bench/support/probe.h"
#include "bench/support/tailer.h"

static int rate = 50000;

static void report(struct measured *m, double actual) {
  if (!m->latency.total) bench_die("the follower saw nothing");
  m->value = histogram_us(&m->latency, 0.99) / 1e3;
  measured_extra(m, "records_per_s", actual);
}

static void landed(void *arg, int rc, dw_lsn lsn) {
  (void)arg;
  if (rc) bench_die("asynchronous write, LSN %llu: %s", (unsigned long long)lsn, dw_rc_name(rc));
}

struct async_put {
  dw_engine *engine;
  dw_write_options options;
  dw_batch *batch;
};

/* Not waiting for the answer: what a server with many clients does. Pushed back when the engine's queue is full. */
static void put_async(void *ctx, const struct record *r) {
  struct async_put *p = ctx;
  dw_batch_clear(p->batch);
  dw_batch_put(p->batch, r->key, r->klen, r->val, r->vlen);
  int rc = dw_write_async(p->engine, &p->options, p->batch, landed, NULL);
  if (rc) bench_die("asynchronous write: %s: %s", dw_rc_name(rc), dw_last_error());
}

static void ours(const void *arg, struct measured *m) {
  const dw_durability *durability = arg;
  static struct cluster c;
  double actual;
  cluster_open(&c, 1, NULL);
  struct async_put put = {c.primary, {.mode = DW_ASYNC, .durability = *durability}, dw_batch_create()};
  cluster_probe_start(&c, 0);
  paced_load(rate, bench.seconds, put_async, &put, &actual);
  cluster_await(c.primary, 1, cluster_written(c.primary), false);
  cluster_probe_end(&c, 0, &m->latency);
  dw_batch_destroy(put.batch);
  cluster_close(&c);
  report(m, actual);
}

static void theirs(const void *arg, struct measured *m) {
  (void)arg;
  static struct tailer t;
  double actual;
  tailer_open(&t, false);
  tailer_probe_start(&t);
  paced_load(rate, bench.seconds, tailer_put, &t, &actual);
  tailer_drain(&t);
  tailer_probe_end(&t, &m->latency);
  tailer_close(&t);
  report(m, actual);
}

int main(int argc, char **argv) {
  static const struct bench_flag flags[] = {{"rate", BENCH_INT, &rate, "records a second"}, {0}};
  static const struct child_role roles[] = {FOLLOWER_ROLE, TAIL_FOLLOWER_ROLE, {0}};
  static const dw_durability os = DW_DURABILITY_OS, disk = DW_DURABILITY_DISK;
  bench_init(argc, argv, "bench_lag", "how long until a write is visible on a follower?", flags, roles);
  if (rate < 1000) bench_die("--rate: at least 1000");
  bench_compare(&(struct bench_case){.line = "g",
                                     .name = "visibility lag, DISK",
                                     .unit = "ms (p99)",
                                     .ours = {"dabbawal", ours, &disk},
                                     .reach = 20,
                                     .reach_value = true,
                                     .at_most = true});
  bench_compare(&(struct bench_case){.line = "g",
                                     .name = "visibility lag, OS",
                                     .unit = "ms (p99)",
                                     .ours = {"dabbawal", ours, &os},
                                     .theirs = {"RocksDB tailer", theirs, NULL},
                                     .reach = 20,
                                     .reach_value = true,
                                     .at_most = true});
  return bench_end();
}
