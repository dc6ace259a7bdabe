/* How many commits a second with followers, by mode, ack level and number of clients?
 *
 * The followers are real processes on loopback. The baseline is RocksDB with a get_updates_since tailer
 * (bench/support/tailer.h), as good as it gets.
 *
 *   sync    each client waits until the follower has it on its disk: commits a second
 *   async   no client waits for the follower; the time counts until the follower has applied everything
 *   latency of one client, against the same engine without a follower
 */
#include <stdio.h>

#include "bench/support/bench.h"
#include "bench/support/cluster.h"
#include "bench/support/load.h"
#include "bench/support/tailer.h"

static int followers = 1;

struct setting {
  int threads; /* 0: one thread, 1,000 in flight */
  dw_mode mode;
  dw_ack ack;
  dw_durability durability;
  bool until_applied; /* the time ends when the followers have applied everything */
  bool alone;         /* no follower */
};

static void run(const struct setting *s, dw_engine *e, struct load_result *r) {
  struct engine_put put = {e,
                           {.mode = s->mode, .ack = s->ack, .acks = (uint32_t)followers, .durability = s->durability}};
  if (s->threads)
    load_threads(s->threads, bench.seconds, RECORD_HALF, put_engine, &put, r);
  else
    load_async(e, &put.options, 1000, bench.seconds, 0, RECORD_HALF, r);
}

static void ours(const void *arg, struct measured *m) {
  const struct setting *s = arg;
  static struct cluster c;
  struct load_result r;
  cluster_open(&c, s->alone ? 0 : followers, NULL);
  double start = bench_s();
  run(s, c.primary, &r);
  double at_primary = r.seconds;
  if (s->until_applied) {
    cluster_await(c.primary, c.n, cluster_written(c.primary), false);
    r.seconds = bench_s() - start;
  }
  dw_status st;
  dw_status_get(c.primary, &st);
  cluster_close(&c);
  m->value = (double)r.done / r.seconds;
  histogram_merge(&m->latency, &r.latency);
  if (s->until_applied) measured_extra(m, "at_primary", (double)r.done / at_primary);
  if (st.syncs) measured_extra(m, "commits_per_sync", (double)r.done / (double)st.syncs);
}

static void theirs(const void *arg, struct measured *m) {
  const struct setting *s = arg;
  static struct tailer t;
  struct load_result r;
  tailer_open(&t, s->durability == DW_DURABILITY_DISK);
  double start = bench_s();
  load_threads(s->threads, bench.seconds, RECORD_HALF, s->until_applied ? tailer_put : tailer_put_acked, &t, &r);
  double at_primary = r.seconds;
  if (s->until_applied) {
    tailer_drain(&t);
    r.seconds = bench_s() - start;
  }
  measured_extra(m, "wal_iterator_reopened", (double)atomic_load(&t.reopened));
  tailer_close(&t);
  m->value = (double)r.done / r.seconds;
  histogram_merge(&m->latency, &r.latency);
  if (s->until_applied) measured_extra(m, "at_primary", (double)r.done / at_primary);
}

/* One client's latency: the value is the median, in us. */
static void latency(const void *arg, struct measured *m) {
  ours(arg, m);
  m->value = histogram_us(&m->latency, 0.5);
}

#define SYNC(n)                                                                                                        \
  { n, DW_SYNC, DW_ACK_DURABLE, DW_DURABILITY_DISK, false, false }
#define ASYNC(n)                                                                                                       \
  { n, DW_ASYNC, DW_ACK_DEFAULT, DW_DURABILITY_OS, true, false }

static void against_tailer(void) {
  static const struct {
    const char *line, *name, *peer;
    struct setting ours, theirs;
    double reach;
  } cases[] = {
      {"d", "sync, DISK, 1 client", "RocksDB tailer", SYNC(1), SYNC(1), 0},
      {"d", "sync, DISK, 8 clients", "RocksDB tailer", SYNC(8), SYNC(8), 0},
      {"d", "sync, DISK, 32 clients", "RocksDB tailer", SYNC(32), SYNC(32), 8},
      {"f", "async, OS, 1 client, until applied", "RocksDB tailer", ASYNC(1), ASYNC(1), 0},
      {"f", "async, OS, 4 clients, until applied", "RocksDB tailer", ASYNC(4), ASYNC(4), 4},
      {"f", "async, OS, 1,000 in flight, until applied", "RocksDB tailer, 4 clients", ASYNC(0), ASYNC(4), 4},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    bench_compare(&(struct bench_case){.line = cases[i].line,
                                       .name = cases[i].name,
                                       .unit = "commits/s",
                                       .ours = {"dabbawal", ours, &cases[i].ours},
                                       .theirs = {cases[i].peer, theirs, &cases[i].theirs},
                                       .reach = cases[i].reach});
}

static void against_alone(void) {
  static const struct setting with = SYNC(1), alone = {1, DW_ASYNC, DW_ACK_DEFAULT, DW_DURABILITY_DISK, false, true};
  bench_compare(&(struct bench_case){.line = "e",
                                     .name = "latency of 1 client, sync, DISK",
                                     .unit = "us (median)",
                                     .ours = {"with a follower", latency, &with},
                                     .theirs = {"without", latency, &alone},
                                     .reach = 1.6,
                                     .at_most = true});
}

/* What the modes and levels cost beside each other: no baseline. */
static void modes(void) {
  static const struct {
    const char *name;
    struct setting s;
  } cases[] = {
      {"sync, DISK, 32 clients, acks received", {32, DW_SYNC, DW_ACK_RECEIVED, DW_DURABILITY_DISK, false, false}},
      {"sync, DISK, 32 clients, acks applied", {32, DW_SYNC, DW_ACK_APPLIED, DW_DURABILITY_DISK, false, false}},
      {"semi-sync, DISK, 32 clients", {32, DW_SEMI_SYNC, DW_ACK_DURABLE, DW_DURABILITY_DISK, false, false}},
      {"sync, DISK, 1,000 in flight", {0, DW_SYNC, DW_ACK_DURABLE, DW_DURABILITY_DISK, false, false}},
      {"async, DISK, 32 clients, until applied", {32, DW_ASYNC, DW_ACK_DEFAULT, DW_DURABILITY_DISK, true, false}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    bench_compare(&(struct bench_case){
        .line = "", .name = cases[i].name, .unit = "commits/s", .ours = {"dabbawal", ours, &cases[i].s}});
}

/* Our side alone, for comparisons with servers that are not libraries (bench/compare.sh). */
static void in_figures(void) {
  static const struct {
    const char *name;
    struct setting s;
    double reach;
  } cases[] = {{"sync, DISK, 1 client, in figures", SYNC(1), 0},
               {"sync, DISK, 8 clients, in figures", SYNC(8), 0},
               {"sync, DISK, 32 clients, in figures", SYNC(32), 55000}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    bench_compare(&(struct bench_case){.line = "d",
                                       .name = cases[i].name,
                                       .unit = "commits/s",
                                       .ours = {"dabbawal", ours, &cases[i].s},
                                       .reach = cases[i].reach,
                                       .reach_value = true});
}

int main(int argc, char **argv) {
  static const struct bench_flag flags[] = {{"followers", BENCH_INT, &followers, "how many, each has to acknowledge"},
                                            {0}};
  static const struct child_role roles[] = {FOLLOWER_ROLE, TAIL_FOLLOWER_ROLE, {0}};
  bench_init(argc, argv, "bench_replicate", "how many commits a second with followers?", flags, roles);
  if (followers < 1 || followers > 16) bench_die("--followers: 1 to 16");
  against_tailer();
  against_alone();
  modes();
  in_figures();
  return bench_end();
}
