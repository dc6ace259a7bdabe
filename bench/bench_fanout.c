/* What do many followers cost the primary's commits? Asynchronous commits with 64 followers connected, against one.
 *
 * The followers keep nothing (bench/support/sink.h): the question is what shipping costs the primary, and 64 real ones
 * would replay everything 64 times on the same cores. With slow links each reads 1 MB/s (a loaded network would be no
 * different for the primary); without, each reads as fast as it can, which on loopback means that the machine copies
 * every byte 64 times.
 */
#include <stdio.h>

#include "bench/support/bench.h"
#include "bench/support/load.h"
#include "bench/support/sink.h"

static int many = 64, threads = 4;
static double slow_mb = 1;

struct setting {
  bool one, slow, disk;
};

static void run(const void *arg, struct measured *m) {
  const struct setting *s = arg;
  char dir[BENCH_PATH_BYTES];
  dw_options o;
  dw_status st;
  struct sinks sinks;
  struct load_result r;
  engine_options_init(&o);
  o.listen = "127.0.0.1:0";
  o.peer_timeout_ms = 60000; /* 64 of them on a busy machine may be late */
  bench_fresh(dir, "fanout");
  struct engine_put put = {engine_open_or_die(dir, &o),
                           {.mode = DW_ASYNC, .durability = s->disk ? DW_DURABILITY_DISK : DW_DURABILITY_OS}};
  dw_status_get(put.engine, &st);
  sinks_start(&sinks, st.listen_port, s->one ? 1 : many, 0, s->slow ? slow_mb * 1e6 : 0);
  load_threads(s->disk ? 32 : threads, bench.seconds, RECORD_HALF, put_engine, &put, &r);
  dw_status_get(put.engine, &st);
  sinks_stop(&sinks);
  engine_close_or_die(put.engine);
  bench_remove(dir);
  m->value = (double)r.done / r.seconds;
  histogram_merge(&m->latency, &r.latency);
  uint64_t sent = 0;
  dw_lsn slowest = st.written_lsn;
  for (uint32_t i = 0; i < st.follower_count; i++) {
    sent += st.followers[i].sent_bytes;
    if (st.followers[i].received_lsn < slowest) slowest = st.followers[i].received_lsn;
  }
  measured_extra(m, "sent_mb_per_s", (double)sent / 1e6 / r.seconds);
  measured_extra(m, "slowest_has_percent", 100.0 * (double)slowest / (double)st.written_lsn);
}

int main(int argc, char **argv) {
  static const struct bench_flag flags[] = {
      {"followers", BENCH_INT, &many, "how many, at most 64"},
      {"threads", BENCH_INT, &threads, "writers of the OS cases; DISK has 32"},
      {"slow-mb", BENCH_DOUBLE, &slow_mb, "MB/s of a slow link"},
      {0},
  };
  static const struct child_role roles[] = {SINK_ROLE, {0}};
  bench_init(argc, argv, "bench_fanout", "what do many followers cost the primary's commits?", flags, roles);
  if (many < 1 || many > SINK_MAX || threads < 1 || threads > 64 || slow_mb <= 0)
    bench_die("--followers 1 to 64, --threads 1 to 64, --slow-mb above 0");
  static const struct {
    const char *line, *name;
    struct setting many, one;
    double reach;
  } cases[] = {
      {"n", "OS, slow links", {false, true, false}, {true, true, false}, 0.5},
      {"n", "DISK, slow links", {false, true, true}, {true, true, true}, 0.5},
      {"", "OS, fast links", {false, false, false}, {true, false, false}, 0},
  };
  char ours[32];
  snprintf(ours, sizeof ours, "%d followers", many);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    bench_compare(&(struct bench_case){.line = cases[i].line,
                                       .name = cases[i].name,
                                       .unit = "commits/s",
                                       .ours = {ours, run, &cases[i].many},
                                       .theirs = {"1 follower", run, &cases[i].one},
                                       .reach = cases[i].reach});
  return bench_end();
}
