/* How long does it take to open after kill -9, with a lot of log that is not in the store yet?
 *
 * A process writes records with memtables so big that nothing is flushed, is killed with signal 9, and the directory is
 * opened with the usual settings: everything is read from the log. RocksDB does the same with its own WAL and as many
 * records (neither synced: a kill does not need it, and the page cache is warm for both).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/bench.h"
#include "bench/support/child.h"
#include "bench/support/load.h"
#include "bench/support/rocks.h"

#define HUGE_MEMTABLE (16ull << 30)

static int records;

/* args: DIR dabbawal|rocksdb RECORDS. Writes; says how many are not persisted, and the log's bytes; waits to be killed.
 */
static int victim_main(int fd, char **args) {
  uint64_t n = strtoull(args[2], NULL, 10);
  char line[16];
  if (strcmp(args[1], "rocksdb") == 0) {
    struct rocks rocks;
    struct record_source s;
    rocks_open(&rocks, args[0], &(struct rocks_setup){.memtable_bytes = HUGE_MEMTABLE}, false);
    source_init(&s, RECORD_HALF, 1);
    for (uint64_t i = 0; i < n; i++) rocks_put(&rocks, source_next(&s));
    line_write(fd, "%llu %llu", (unsigned long long)n, (unsigned long long)bench_dir_bytes(args[0], ".log"));
  } else {
    dw_options o;
    engine_options_init(&o);
    o.memtable_bytes = HUGE_MEMTABLE;
    o.durability = DW_DURABILITY_OS;
    dw_engine *e = engine_open_or_die(args[0], &o);
    struct load_result r;
    load_async(e, NULL, 1000, 0, n, RECORD_HALF, &r);
    dw_status st;
    dw_status_get(e, &st);
    line_write(fd, "%llu %llu", (unsigned long long)(st.written_lsn - st.persisted_lsn),
               (unsigned long long)st.stored_bytes);
  }
  while (line_read(fd, line, sizeof line) >= 0) {
  }
  return 0;
}

struct victim {
  unsigned long long records, log_bytes;
};

static struct victim make_victim(const char *dir, const char *kind) {
  char n[16], line[64];
  struct victim v;
  struct child c;
  snprintf(n, sizeof n, "%d", records);
  child_start(&c, "victim", (const char *[]){dir, kind, n, NULL});
  child_answer(&c, line, sizeof line);
  child_kill(&c);
  if (sscanf(line, "%llu %llu", &v.records, &v.log_bytes) != 2) bench_die("the victim said '%s'", line);
  return v;
}

/* An opening takes minutes to prepare and answers two questions: what a side's rounds have measured is kept for the
 * second one. */
static struct {
  double rate[BENCH_MAX_ROUNDS];
  int measured, used;
} known[2];
enum { OURS, THEIRS };

static void report(struct measured *m, int side, const struct victim *v, double took) {
  double rate = (double)v->records / took;
  if (known[side].measured < BENCH_MAX_ROUNDS) known[side].rate[known[side].measured++] = rate;
  m->value = took;
  measured_extra(m, "records_per_s", rate);
  measured_extra(m, "log_mib", (double)v->log_bytes / (1 << 20));
}

static void ours(const void *arg, struct measured *m) {
  (void)arg;
  char dir[BENCH_PATH_BYTES];
  bench_fresh(dir, "dabbawal");
  struct victim v = make_victim(dir, "dabbawal");
  dw_options o;
  engine_options_init(&o);
  double start = bench_s();
  dw_engine *e = engine_open_or_die(dir, &o);
  double took = bench_s() - start;
  dw_status st;
  dw_status_get(e, &st);
  if (st.applied_lsn < (uint64_t)records) bench_die("only %llu records are there", (unsigned long long)st.applied_lsn);
  engine_close_or_die(e);
  report(m, OURS, &v, took);
  bench_remove(dir);
}

static void theirs(const void *arg, struct measured *m) {
  (void)arg;
  char dir[BENCH_PATH_BYTES];
  bench_fresh(dir, "rocksdb");
  struct victim v = make_victim(dir, "rocksdb");
  struct rocks rocks;
  double start = bench_s();
  rocks_open(&rocks, dir, NULL, false);
  double took = bench_s() - start;
  rocks_close(&rocks);
  report(m, THEIRS, &v, took);
  bench_remove(dir);
}

/* The same openings, as a rate. */
static void rate(const void *arg, struct measured *m) {
  int side = *(const int *)arg;
  if (known[side].used == known[side].measured) {
    struct measured *open = calloc(1, sizeof *open);
    if (!open) bench_die("no memory");
    if (side == OURS)
      ours(NULL, open);
    else
      theirs(NULL, open);
    free(open);
  }
  m->value = known[side].rate[known[side].used++];
}

int main(int argc, char **argv) {
  static const struct bench_flag flags[] = {
      {"records", BENCH_INT, &records, "in the log; 0: 250,000 for each of --seconds; 14,000,000 are about 1 GiB"},
      {0}};
  static const struct child_role roles[] = {{"victim", victim_main}, {0}};
  static const int us = OURS, them = THEIRS;
  bench_init(argc, argv, "bench_recover", "how long does it take to open after kill -9?", flags, roles);
  if (!records) records = (int)(250000 * bench.seconds);
  if (records < 1) bench_die("--records: at least 1");
  bench_compare(&(struct bench_case){.line = "j",
                                     .name = "time to open after kill -9",
                                     .unit = "s",
                                     .ours = {"dabbawal", ours, NULL},
                                     .theirs = {"RocksDB, its own WAL", theirs, NULL},
                                     .reach = 10,
                                     .reach_value = true,
                                     .at_most = true});
  bench_compare(&(struct bench_case){.line = "j",
                                     .name = "records replayed",
                                     .unit = "records/s",
                                     .ours = {"dabbawal", rate, &us},
                                     .theirs = {"RocksDB, its own WAL", rate, &them},
                                     .reach = 1e6,
                                     .reach_value = true});
  return bench_end();
}
