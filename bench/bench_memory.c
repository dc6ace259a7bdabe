/* How much memory does a primary take above what RocksDB takes by itself, with 16 followers, one of them stalled?
 *
 * Each side is a process of its own that writes the same number of records and reports the peak of its resident size
 * (sampled every 5 ms). The baseline is plain RocksDB with the same memtables and caches; the difference is ours:
 * queues, log buffers, tail cache, and what followers hold. The stalled follower reads nothing and never leaves (its
 * time-out is an hour), which is worse than what the default time-out of 5 s allows.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/bench.h"
#include "bench/support/load.h"
#include "bench/support/rocks.h"
#include "bench/support/sink.h"

static int records, followers = 16;

static double resident_mib(void) {
  long pages = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  if (!f || fscanf(f, "%*s %ld", &pages) != 1) bench_die("/proc/self/statm");
  fclose(f);
  return (double)pages * 4096 / (1 << 20);
}

struct watch {
  pthread_t thread;
  atomic_bool stop;
  double peak;
};

static void *watch(void *arg) {
  struct watch *w = arg;
  while (!atomic_load(&w->stop)) {
    double now = resident_mib();
    if (now > w->peak) w->peak = now;
    bench_sleep(0.005);
  }
  return NULL;
}

/* A fixed number of records through closed loops of four threads. */
static void write_all(put_fn put, void *ctx, uint64_t n) {
  struct load *l = load_start(4, RECORD_HALF, put, ctx);
  while (load_done(l) < n) bench_sleep(0.002);
  load_stop(l, NULL);
}

/* The measured process. args: DIR rocksdb|dabbawal RECORDS. Says "port N", waits for "go", says "peak MIB". */
static int writer_main(int fd, char **args) {
  bool theirs = strcmp(args[1], "rocksdb") == 0;
  uint64_t n = strtoull(args[2], NULL, 10);
  struct rocks rocks;
  struct engine_put put = {0};
  dw_status st = {0};
  char line[32];
  if (theirs) {
    rocks_open(&rocks, args[0], NULL, false);
  } else {
    dw_options o;
    engine_options_init(&o);
    o.listen = "127.0.0.1:0";
    o.peer_timeout_ms = 3600000;
    put = (struct engine_put){engine_open_or_die(args[0], &o), {.mode = DW_ASYNC, .durability = DW_DURABILITY_OS}};
    dw_status_get(put.engine, &st);
  }
  line_write(fd, "%u", st.listen_port);
  if (line_read(fd, line, sizeof line) < 0) return 1;
  struct watch w = {0};
  if (pthread_create(&w.thread, NULL, watch, &w)) bench_die("no thread");
  if (theirs)
    write_all(rocks_put, &rocks, n);
  else
    write_all(put_engine, &put, n);
  atomic_store(&w.stop, true);
  pthread_join(w.thread, NULL);
  line_write(fd, "%.3f", w.peak);
  while (line_read(fd, line, sizeof line) >= 0) {
  }
  if (theirs)
    rocks_close(&rocks);
  else
    engine_close_or_die(put.engine);
  return 0;
}

struct setting {
  const char *kind;
  bool with_followers;
};

static double peak(const struct setting *s) {
  char dir[BENCH_PATH_BYTES], n[24], line[32];
  struct child writer;
  struct sinks sinks;
  bench_fresh(dir, s->kind);
  snprintf(n, sizeof n, "%d", records);
  child_start(&writer, "writer", (const char *[]){dir, s->kind, n, NULL});
  child_answer(&writer, line, sizeof line);
  if (s->with_followers) sinks_start(&sinks, (unsigned)atoi(line), followers, 1, 0);
  child_tell(&writer, "go");
  child_answer(&writer, line, sizeof line);
  if (s->with_followers) sinks_stop(&sinks);
  child_stop(&writer);
  bench_remove(dir);
  return atof(line);
}

static void run(const void *arg, struct measured *m) {
  m->value = peak(arg);
}

static const struct setting plain = {"rocksdb", false}, alone = {"dabbawal", false}, with = {"dabbawal", true};

static void above(const void *arg, struct measured *m) {
  double base = peak(&plain), us = peak(arg);
  m->value = us > base ? us - base : 0.001; /* a figure of 0 would look like one that is missing */
  measured_extra(m, "resident", us);
  measured_extra(m, "rocksdb", base);
}

int main(int argc, char **argv) {
  static const struct bench_flag flags[] = {
      {"records", BENCH_INT, &records, "to write; 0: 250,000 for each of --seconds"},
      {"followers", BENCH_INT, &followers, "one of them stalls"},
      {0},
  };
  static const struct child_role roles[] = {{"writer", writer_main}, SINK_ROLE, {0}};
  bench_init(argc, argv, "bench_memory", "how much memory does a primary take above RocksDB's?", flags, roles);
  if (!records) records = (int)(250000 * bench.seconds);
  if (records < 1 || followers < 1 || followers > SINK_MAX) bench_die("--records, --followers 1 to 64");
  char name[64];
  snprintf(name, sizeof name, "above RocksDB, %d followers, one stalled", followers);
  bench_compare(&(struct bench_case){.line = "m",
                                     .name = name,
                                     .unit = "MiB",
                                     .ours = {"dabbawal minus RocksDB", above, &with},
                                     .reach = 128,
                                     .reach_value = true,
                                     .at_most = true});
  bench_compare(&(struct bench_case){.line = "",
                                     .name = "resident, no followers",
                                     .unit = "MiB",
                                     .ours = {"dabbawal", run, &alone},
                                     .theirs = {"RocksDB", run, &plain}});
  return bench_end();
}
