/* A follower was away while N records were written: how fast does it catch up, and what does that cost the primary?
 *
 * Catching up is held against the live rate: what a connected follower takes over when one thread keeps 1,000
 * asynchronous commits in flight, counted until it has applied everything. The clock starts with the follower's
 * process, so opening and connecting count. For the cost, writers run at full speed beside a follower that is away
 * (before) and that catches up with what was there when it came (meanwhile), in one run.
 */
#include <stdio.h>

#include "bench/support/bench.h"
#include "bench/support/cluster.h"
#include "bench/support/load.h"

static int records;
static struct cluster cluster;

static void open_cluster(void) {
  dw_options o;
  engine_options_init(&o);
  o.retain_bytes = 1ull << 40;
  cluster_open(&cluster, 1, &o);
}

static const dw_write_options quick = {.mode = DW_ASYNC, .durability = DW_DURABILITY_OS};

/* The follower is away, `records` have been written. */
static dw_lsn fall_behind(void) {
  struct load_result r;
  cluster_await(cluster.primary, 1, cluster_written(cluster.primary), true);
  cluster_stop_follower(&cluster, 0);
  load_async(cluster.primary, &quick, 1000, 0, (uint64_t)records, RECORD_HALF, &r);
  return cluster_written(cluster.primary);
}

static void catch_up(const void *arg, struct measured *m) {
  (void)arg;
  open_cluster();
  dw_lsn target = fall_behind();
  double start = bench_s();
  cluster_start_follower(&cluster, 0);
  cluster_await(cluster.primary, 1, target, false);
  double took = bench_s() - start;
  cluster_close(&cluster);
  m->value = records / took;
  measured_extra(m, "seconds", took);
}

static void live(const void *arg, struct measured *m) {
  (void)arg;
  struct load_result r;
  open_cluster();
  double start = bench_s();
  load_async(cluster.primary, &quick, 1000, bench.seconds, 0, RECORD_HALF, &r);
  cluster_await(cluster.primary, 1, cluster_written(cluster.primary), false);
  m->value = (double)r.done / (bench_s() - start);
  cluster_close(&cluster);
}

struct setting {
  int threads;
  bool disk;
};

static void cost(const void *arg, struct measured *meanwhile, struct measured *before) {
  const struct setting *s = arg;
  open_cluster();
  fall_behind();
  struct engine_put put = {cluster.primary,
                           {.mode = DW_ASYNC, .durability = s->disk ? DW_DURABILITY_DISK : DW_DURABILITY_OS}};
  struct load *l = load_start(s->threads, RECORD_HALF, put_engine, &put);
  bench_sleep(0.2); /* until it runs evenly */
  double t0 = bench_s(), n0 = (double)load_done(l);
  bench_sleep(bench.seconds);
  double t1 = bench_s(), n1 = (double)load_done(l);
  dw_lsn target = cluster_written(cluster.primary);
  cluster_start_follower(&cluster, 0);
  cluster_await(cluster.primary, 1, target, false);
  double t2 = bench_s(), n2 = (double)load_done(l);
  load_stop(l, NULL);
  cluster_close(&cluster);
  before->value = (n1 - n0) / (t1 - t0);
  meanwhile->value = (n2 - n1) / (t2 - t1);
  measured_extra(meanwhile, "caught_up_per_s", (double)target / (t2 - t1));
}

int main(int argc, char **argv) {
  static const struct bench_flag flags[] = {
      {"records", BENCH_INT, &records, "written while the follower is away; 0: 200,000 for each of --seconds"}, {0}};
  static const struct child_role roles[] = {FOLLOWER_ROLE, {0}};
  bench_init(argc, argv, "bench_catchup", "how fast does a follower catch up, and at what cost?", flags, roles);
  if (!records) records = (int)(200000 * bench.seconds);
  if (records < 1) bench_die("--records: at least 1");
  char name[64];
  snprintf(name, sizeof name, "catch-up of %d records", records);
  bench_compare(&(struct bench_case){.line = "h",
                                     .name = name,
                                     .unit = "records/s",
                                     .ours = {"catching up", catch_up, NULL},
                                     .theirs = {"live, 1,000 in flight", live, NULL},
                                     .reach = 2});
  static const struct {
    const char *name;
    struct setting s;
  } costs[] = {{"primary's rate meanwhile, DISK, 8 threads", {8, true}},
               {"primary's rate meanwhile, OS, 1 thread", {1, false}}};
  for (size_t i = 0; i < sizeof costs / sizeof *costs; i++)
    bench_compare(&(struct bench_case){.line = "h",
                                       .name = costs[i].name,
                                       .unit = "commits/s",
                                       .ours = {"meanwhile", NULL, &costs[i].s},
                                       .theirs = {"before", NULL, NULL},
                                       .both = cost,
                                       .reach = 0.75});
  return bench_end();
}
