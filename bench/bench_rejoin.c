/* How long does an old primary take to come back with a few commits of its own, and how much has to travel?
 *
 * A primary has --mib of records; a follower has them too, by a checkpoint (then both stores consist of the same table
 * files) or by the log (then each has made its own). The primary writes 100 commits that never leave it and stops; the
 * follower is promoted and writes 100 others. Measured: from opening the old primary's directory until it follows with
 * everything applied.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/bench.h"
#include "bench/support/load.h"

#define VALUE_BYTES 1000
#define BATCH 100
#define DIVERGED 100
#define AWAIT_S 120

static int mib;

struct pair {
  char dir[2][BENCH_PATH_BYTES], listen[2][40];
  dw_options opt[2];
  dw_engine *e[2];
};
enum { OLD, NEW };

static void open_node(struct pair *p, int i) {
  p->e[i] = engine_open_or_die(p->dir[i], &p->opt[i]);
  dw_status s;
  dw_status_get(p->e[i], &s);
  snprintf(p->listen[i], sizeof p->listen[i], "127.0.0.1:%u", s.listen_port);
  p->opt[i].listen = p->listen[i]; /* the same port next time */
}

static void close_node(struct pair *p, int i) {
  engine_close_or_die(p->e[i]);
  p->e[i] = NULL;
}

/* Half of a value does not compress. */
static void write_records(dw_engine *e, const char *prefix, unsigned from, unsigned count, unsigned batch) {
  static uint64_t x = 88172645463325252ull;
  dw_write_options async = {.mode = DW_ASYNC, .durability = DW_DURABILITY_OS};
  dw_batch *b = dw_batch_create();
  char key[40], value[VALUE_BYTES];
  for (unsigned i = from; b && i < from + count; i++) {
    for (size_t k = 0; k < sizeof value; k++) {
      x ^= x << 13, x ^= x >> 7, x ^= x << 17;
      value[k] = (char)(k % 2 ? 'a' : x);
    }
    snprintf(key, sizeof key, "%s-%09u", prefix, i);
    if (dw_batch_put(b, key, strlen(key), value, sizeof value)) bench_die("%s", dw_last_error());
    if (dw_batch_count(b) < batch && i + 1 < from + count) continue;
    if (dw_write(e, &async, b, NULL)) bench_die("write: %s", dw_last_error());
    dw_batch_clear(b);
  }
  dw_batch_destroy(b);
}

/* Until the follower streams and has applied what the primary has. */
static void await_same(struct pair *p, int primary, int follower) {
  dw_status a, b;
  double end = bench_s() + AWAIT_S;
  for (;;) {
    dw_status_get(p->e[primary], &a);
    dw_status_get(p->e[follower], &b);
    if (b.role == DW_FOLLOWER && b.primary_state == DW_PEER_STREAMING && b.applied_lsn == a.written_lsn &&
        b.epoch == a.epoch)
      return;
    if (bench_s() > end) bench_die("the follower does not catch up: %s", b.error);
    bench_sleep(0.002);
  }
}

/* Until the log is trimmed: then a new follower gets a checkpoint. */
static void await_trimmed(struct pair *p) {
  dw_status s;
  double end = bench_s() + AWAIT_S;
  do {
    dw_status_get(p->e[OLD], &s);
    bench_sleep(0.01);
  } while (s.oldest_lsn <= 1 && bench_s() < end);
}

/* Compactions of what was loaded are over: they are not the question. */
static void await_settled(const struct pair *p) {
  uint64_t before = 0, now;
  double end = bench_s() + AWAIT_S;
  while ((now = bench_dir_bytes(p->dir[OLD], ".sst") + bench_dir_bytes(p->dir[NEW], ".sst")) != before &&
         bench_s() < end) {
    before = now;
    bench_sleep(1);
  }
}

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg, (void)level, (void)line;
}

static void setup(struct pair *p, bool by_checkpoint) {
  *p = (struct pair){0};
  bench_fresh(p->dir[OLD], "old");
  bench_fresh(p->dir[NEW], "new");
  for (int i = 0; i < 2; i++) {
    engine_options_init(&p->opt[i]);
    p->opt[i].log = quiet;
    /* Small ones for small data: so that there are several files, and a log that can be trimmed. */
    uint64_t part = mib < 16 ? 1 : mib > 1024 ? 64 : (uint64_t)mib / 16;
    p->opt[i].memtable_bytes = p->opt[i].segment_bytes = part << 20;
    p->opt[i].listen = "127.0.0.1:0";
    p->opt[i].node_id = (uint64_t)i + 1;
    p->opt[i].peer_timeout_ms = 2000;
  }
  p->opt[NEW].role = DW_FOLLOWER;
  if (by_checkpoint) p->opt[OLD].retain_bytes = p->opt[OLD].retain_ms = 0;
  open_node(p, OLD);
  p->opt[NEW].primary = p->opt[NEW].peers = p->listen[OLD];
  if (!by_checkpoint) open_node(p, NEW);
  write_records(p->e[OLD], "key", 0, (unsigned)((uint64_t)mib * 1048576 / VALUE_BYTES), BATCH);
  if (by_checkpoint) {
    await_trimmed(p);
    await_settled(p);
    open_node(p, NEW);
  }
  await_same(p, OLD, NEW);
  await_settled(p);
}

static void rejoin(const void *arg, struct measured *m) {
  struct pair p;
  setup(&p, *(const bool *)arg);
  p.opt[OLD].peers = p.listen[NEW];
  close_node(&p, NEW);
  write_records(p.e[OLD], "lost", 0, DIVERGED, 1);
  close_node(&p, OLD);
  open_node(&p, NEW);
  if (dw_promote(p.e[NEW], &(dw_promote_options){.force = 1})) bench_die("promote: %s", dw_last_error());
  write_records(p.e[NEW], "new", 0, DIVERGED, 1);
  p.opt[OLD].auto_rejoin = 1;
  double start = bench_s();
  open_node(&p, OLD);
  double opened = bench_s() - start;
  await_same(&p, NEW, OLD);
  m->value = bench_s() - start;
  dw_status s;
  dw_status_get(p.e[OLD], &s);
  if (s.bootstraps != 1 || s.diverged_commits != DIVERGED)
    bench_die("%u checkpoints, %llu commits kept", s.bootstraps, (unsigned long long)s.diverged_commits);
  measured_extra(m, "open_s", opened);
  measured_extra(m, "moved_mib", (double)s.bootstrap_bytes / (1 << 20));
  measured_extra(m, "reused_mib", (double)s.bootstrap_reused_bytes / (1 << 20));
  close_node(&p, OLD);
  close_node(&p, NEW);
  bench_remove(p.dir[OLD]);
  bench_remove(p.dir[NEW]);
}

int main(int argc, char **argv) {
  static const struct bench_flag flags[] = {{"mib", BENCH_INT, &mib, "of records; 0: 40 for each of --seconds"}, {0}};
  static const bool yes = true, no = false;
  bench_init(argc, argv, "bench_rejoin", "how long does an old primary take to come back?", flags, NULL);
  if (!mib) mib = (int)(40 * bench.seconds);
  if (mib < 1) bench_die("--mib: at least 1");
  bench_compare(&(struct bench_case){.line = "",
                                     .name = "rejoin, stores of the same files",
                                     .unit = "s",
                                     .ours = {"dabbawal", rejoin, &yes},
                                     .reach = 10,
                                     .reach_value = true,
                                     .at_most = true});
  bench_compare(&(struct bench_case){.line = "",
                                     .name = "rejoin, stores fed by the log",
                                     .unit = "s",
                                     .ours = {"dabbawal", rejoin, &no},
                                     .reach = 10,
                                     .reach_value = true,
                                     .at_most = true});
  return bench_end();
}
