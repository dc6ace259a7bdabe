/* How many local commits a second, against RocksDB's own log?
 *
 * Threads put one record after the other and wait for each. On one side RocksDB writes its own WAL, synced (DISK) or
 * only handed to the kernel (OS); on ours its WAL is off and ours is the only log. RocksDB is set up the same on both
 * sides. RocksDB has no asynchronous write, so one thread with 1,000 commits in flight is held against RocksDB's best:
 * 32 synced threads. Both sides start with empty directories.
 */
#include <stdio.h>

#include "bench/support/bench.h"
#include "bench/support/load.h"
#include "bench/support/rocks.h"

struct setting {
  int threads;
  bool disk;
};

static void report(struct measured *m, const struct load_result *r) {
  m->value = (double)r->done / r->seconds;
  histogram_merge(&m->latency, &r->latency);
}

static void theirs(const void *arg, struct measured *m) {
  const struct setting *s = arg;
  char dir[BENCH_PATH_BYTES];
  struct rocks rocks;
  struct load_result r;
  bench_fresh(dir, "rocksdb");
  rocks_open(&rocks, dir, NULL, s->disk);
  load_threads(s->threads, bench.seconds, RECORD_HALF, rocks_put, &rocks, &r);
  rocks_close(&rocks);
  bench_remove(dir);
  report(m, &r);
}

static void ours(const void *arg, struct measured *m) {
  const struct setting *s = arg;
  char dir[BENCH_PATH_BYTES];
  struct load_result r;
  dw_options o;
  engine_options_init(&o);
  bench_fresh(dir, "dabbawal");
  struct engine_put put = {engine_open_or_die(dir, &o),
                           {.durability = s->disk ? DW_DURABILITY_DISK : DW_DURABILITY_OS}};
  if (s->threads)
    load_threads(s->threads, bench.seconds, RECORD_HALF, put_engine, &put, &r);
  else
    load_async(put.engine, &put.options, 1000, bench.seconds, 0, RECORD_HALF, &r);
  dw_status st;
  dw_status_get(put.engine, &st);
  engine_close_or_die(put.engine);
  bench_remove(dir);
  report(m, &r);
  if (st.syncs) measured_extra(m, "commits_per_sync", (double)r.done / (double)st.syncs);
}

int main(int argc, char **argv) {
  bench_init(argc, argv, "bench_commit", "how many local commits a second, against RocksDB's own log?", NULL, NULL);
  static const struct {
    const char *line, *name;
    struct setting ours, theirs;
    double reach;
  } cases[] = {
      {"a", "DISK, 1 thread", {1, true}, {1, true}, 1.3},     {"a", "DISK, 8 threads", {8, true}, {8, true}, 1.9},
      {"a", "DISK, 32 threads", {32, true}, {32, true}, 2.6}, {"b", "OS, 1 thread", {1, false}, {1, false}, 1.0},
      {"b", "OS, 4 threads", {4, false}, {4, false}, 1.3},    {"c", "DISK, 1,000 in flight", {0, true}, {32, true}, 8},
      {"", "OS, 1,000 in flight", {0, false}, {4, false}, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char peer[48];
    snprintf(peer, sizeof peer, "RocksDB, %d thread%s", cases[i].theirs.threads,
             cases[i].theirs.threads > 1 ? "s" : "");
    bench_compare(&(struct bench_case){.line = cases[i].line,
                                       .name = cases[i].name,
                                       .unit = "commits/s",
                                       .ours = {"dabbawal", ours, &cases[i].ours},
                                       .theirs = {peer, theirs, &cases[i].theirs},
                                       .reach = cases[i].reach});
  }
  return bench_end();
}
