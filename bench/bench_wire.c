/* How many bytes go over the wire and to the disk for one logical byte (keys and values)?
 *
 * On live traffic: small groups from one client that waits, from 8 and 32, and big ones from a thread with 1,000
 * commits in flight, because what goes together compresses as a whole; from clients that wait for the follower's disk,
 * so that hardly anything goes together; and what a follower gets that was away. Wire bytes are all that the primary
 * sent to one follower: frames, commit positions, heartbeats. Disk bytes are those of the log. The baselines are the
 * RocksDB tailer's bytes, and RocksDB's WAL with its own zstd compression on.
 */
#include <stdio.h>

#include "bench/support/bench.h"
#include "bench/support/cluster.h"
#include "bench/support/tailer.h"

struct setting {
  enum record_kind kind;
  int threads; /* 0: 1,000 in flight */
  bool sync;   /* the clients wait for the follower's disk */
  bool away;   /* the follower comes when everything is written */
};

static void run(const struct setting *s, dw_engine *e, struct load_result *r) {
  struct engine_put put = {e, {.mode = DW_ASYNC, .durability = DW_DURABILITY_OS}};
  if (s->sync) put.options = (dw_write_options){.mode = DW_SYNC, .acks = 1, .durability = DW_DURABILITY_DISK};
  if (s->threads)
    load_threads(s->threads, bench.seconds, s->kind, put_engine, &put, r);
  else
    load_async(e, &put.options, 1000, bench.seconds, 0, s->kind, r);
}

static void wire_ours(const void *arg, struct measured *m) {
  const struct setting *s = arg;
  static struct cluster c;
  struct load_result r;
  dw_status st;
  cluster_open(&c, 1, NULL);
  uint64_t before = cluster_sent_bytes(c.primary);
  if (s->away) cluster_stop_follower(&c, 0);
  run(s, c.primary, &r);
  if (s->away) {
    cluster_start_follower(&c, 0);
    before = 0; /* counted anew with the connection */
  }
  cluster_await(c.primary, 1, cluster_written(c.primary), true);
  uint64_t sent = cluster_sent_bytes(c.primary) - before;
  dw_status_get(c.primary, &st);
  cluster_close(&c);
  m->value = (double)sent / (double)r.logical_bytes;
  measured_extra(m, "disk", (double)st.stored_bytes / (double)r.logical_bytes);
  measured_extra(m, "commits_per_s", (double)r.done / r.seconds);
}

static void wire_theirs(const void *arg, struct measured *m) {
  const struct setting *s = arg;
  static struct tailer t;
  struct load_result r;
  tailer_open(&t, false);
  load_threads(s->threads ? s->threads : 4, bench.seconds, s->kind, tailer_put, &t, &r);
  tailer_drain(&t);
  m->value = (double)atomic_load(&t.sent_bytes) / (double)r.logical_bytes;
  measured_extra(m, "disk", (double)bench_dir_bytes(t.dir, ".log") / (double)r.logical_bytes);
  tailer_close(&t);
}

static void disk_ours(const void *arg, struct measured *m) {
  char dir[BENCH_PATH_BYTES];
  struct load_result r;
  dw_options o;
  dw_status st;
  engine_options_init(&o);
  bench_fresh(dir, "dabbawal");
  dw_engine *e = engine_open_or_die(dir, &o);
  run(arg, e, &r);
  dw_status_get(e, &st);
  engine_close_or_die(e);
  bench_remove(dir);
  m->value = (double)st.stored_bytes / (double)r.logical_bytes;
}

static void disk_theirs(const void *arg, struct measured *m) {
  const struct setting *s = arg;
  char dir[BENCH_PATH_BYTES];
  struct load_result r;
  struct rocks rocks;
  bench_fresh(dir, "rocksdb");
  rocks_open(&rocks, dir, &(struct rocks_setup){.keep_wal = true, .wal_zstd = true}, false);
  load_threads(s->threads, bench.seconds, s->kind, rocks_put, &rocks, &r);
  m->value = (double)bench_dir_bytes(dir, ".log") / (double)r.logical_bytes;
  rocks_close(&rocks);
  bench_remove(dir);
}

int main(int argc, char **argv) {
  static const struct child_role roles[] = {FOLLOWER_ROLE, TAIL_FOLLOWER_ROLE, {0}};
  bench_init(argc, argv, "bench_wire", "how many bytes on the wire and on disk for a logical byte?", NULL, roles);
  static const struct {
    const char *name;
    enum record_kind kind;
    double reach;
  } kinds[] = {{"Debian index", RECORD_DEBIAN, 0.35},
               {"JSON-like", RECORD_JSON, 0.30},
               {"half random", RECORD_HALF, 0},
               {"random", RECORD_RANDOM, 0}};
  static const struct {
    const char *name;
    int threads;
  } loads[] = {{"1 client", 1}, {"8 clients", 8}, {"32 clients", 32}, {"1,000 in flight", 0}};
  static const struct {
    const char *name;
    struct setting s;
  } more[] = {{"1 client, sync", {.threads = 1, .sync = true}},
              {"8 clients, sync", {.threads = 8, .sync = true}},
              {"32 clients, sync", {.threads = 32, .sync = true}},
              {"8 clients, caught up later", {.threads = 8, .away = true}}};
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
    if (kinds[k].kind == RECORD_DEBIAN && !debian_load()) {
      fprintf(stderr, "bench_wire: no package index on this machine (apt-get update): left out\n");
      continue;
    }
    char name[64];
    for (size_t l = 0; l < sizeof loads / sizeof *loads; l++) {
      const struct setting s = {.kind = kinds[k].kind, .threads = loads[l].threads};
      snprintf(name, sizeof name, "wire, %s, %s", kinds[k].name, loads[l].name);
      bench_compare(&(struct bench_case){.line = kinds[k].reach > 0 ? "k" : "",
                                         .name = name,
                                         .unit = "bytes per logical byte",
                                         .ours = {"dabbawal", wire_ours, &s},
                                         .theirs = {"RocksDB tailer", wire_theirs, &s},
                                         .reach = kinds[k].reach,
                                         .reach_value = true,
                                         .at_most = true});
    }
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
      struct setting s = more[i].s;
      s.kind = kinds[k].kind;
      snprintf(name, sizeof name, "wire, %s, %s", kinds[k].name, more[i].name);
      bench_compare(&(struct bench_case){.line = kinds[k].reach > 0 ? "k" : "",
                                         .name = name,
                                         .unit = "bytes per logical byte",
                                         .ours = {"dabbawal", wire_ours, &s},
                                         .reach = kinds[k].reach,
                                         .reach_value = true,
                                         .at_most = true});
    }
    const struct setting s = {.kind = kinds[k].kind, .threads = 8};
    snprintf(name, sizeof name, "disk, %s, 8 clients", kinds[k].name);
    bench_compare(&(struct bench_case){.line = "",
                                       .name = name,
                                       .unit = "bytes per logical byte",
                                       .ours = {"dabbawal", disk_ours, &s},
                                       .theirs = {"RocksDB WAL, zstd", disk_theirs, &s},
                                       .at_most = true});
  }
  return bench_end();
}
