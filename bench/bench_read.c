/* What do reads on a follower cost above RocksDB's own, at each consistency, while the follower replays?
 *
 * One process holds both sides: a follower's engine under replay of a steady stream of updates, and a plain RocksDB
 * with the same records under a writer of the same rate (batches, no WAL: what replay does to the store). Both run all
 * the time; the readers turn to one or the other. So everything around a read is the same, but for what the engine
 * adds.
 *
 *   primary process --updates--> [ follower's engine <- dw_get / dw_iter ]  one process, readers take turns
 *                                [ plain RocksDB     <- rocksdb_get / iterator ; writer ]
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/bench.h"
#include "bench/support/child.h"
#include "bench/support/cluster.h"
#include "bench/support/load.h"
#include "bench/support/rocks.h"

#define TICK_NS 1000000u
#define SCAN_RECORDS 100
#define BOUND_MS 2000
#define WAIT_MS 10000

static int records, rate = 10000;

/* Every millisecond its share of updates of known keys, until told to stop. */
struct updater {
  pthread_t thread;
  atomic_bool stop;
  int per_tick;
  uint64_t keys;
  void (*write)(void *ctx, dw_batch *, rocksdb_writebatch_t *);
  void *ctx;
};

static void *update(void *arg) {
  struct updater *u = arg;
  struct record_source s;
  source_init(&s, RECORD_HALF, 0);
  uint64_t state = bench_ns() | 1;
  dw_batch *ours = dw_batch_create();
  rocksdb_writebatch_t *theirs = rocksdb_writebatch_create();
  for (uint64_t at = bench_ns(); !atomic_load(&u->stop); at += TICK_NS) {
    bench_sleep_until(at);
    dw_batch_clear(ours);
    rocksdb_writebatch_clear(theirs);
    for (int i = 0; i < u->per_tick; i++) {
      const struct record *r = source_at(&s, rnd_next(&state) % u->keys);
      dw_batch_put(ours, r->key, r->klen, r->val, r->vlen);
      rocksdb_writebatch_put(theirs, r->key, r->klen, r->val, r->vlen);
    }
    u->write(u->ctx, ours, theirs);
  }
  dw_batch_destroy(ours);
  rocksdb_writebatch_destroy(theirs);
  source_free(&s);
  return NULL;
}

static void updater_start(struct updater *u, void (*write)(void *, dw_batch *, rocksdb_writebatch_t *), void *ctx) {
  memset(u, 0, sizeof *u);
  u->per_tick = (int)((double)rate * TICK_NS / 1e9);
  u->keys = (uint64_t)records;
  u->write = write;
  u->ctx = ctx;
  if (pthread_create(&u->thread, NULL, update, u)) bench_die("no thread");
}

static void updater_stop(struct updater *u) {
  atomic_store(&u->stop, true);
  pthread_join(u->thread, NULL);
}

static void write_primary(void *ctx, dw_batch *b, rocksdb_writebatch_t *theirs) {
  static const dw_write_options quick = {.mode = DW_ASYNC, .durability = DW_DURABILITY_OS};
  (void)theirs;
  int rc = dw_write(ctx, &quick, b, NULL);
  if (rc) bench_die("write: %s: %s", dw_rc_name(rc), dw_last_error());
}

static void write_plain(void *ctx, dw_batch *ours, rocksdb_writebatch_t *b) {
  const struct rocks *r = ctx;
  char *err = NULL;
  (void)ours;
  rocksdb_write(r->db, r->write, b, &err);
  rocks_check("write", err);
}

/* ---- the readers' process -------------------------------------------------------------------- */

static struct {
  dw_engine *engine;
  struct rocks rocks;
} reader;

struct read_job {
  pthread_t thread;
  bool plain, scan;
  dw_read_options options;
  uint64_t seed, end_ns, done;
  struct histogram latency;
};

static void get_engine(const struct read_job *j, const struct record *r) {
  dw_value v;
  int rc = dw_get(reader.engine, &j->options, r->key, r->klen, &v);
  if (rc) bench_die("get: %s: %s", dw_rc_name(rc), dw_last_error());
  dw_value_release(&v);
}

static void get_plain(const struct record *r) {
  char *err = NULL;
  size_t n;
  char *v = rocksdb_get(reader.rocks.db, reader.rocks.read, r->key, r->klen, &n, &err);
  rocks_check("get", err);
  if (!v) bench_die("a record is missing in RocksDB");
  rocksdb_free(v);
}

static void scan_engine(const struct read_job *j, const struct record *r) {
  dw_iter *it;
  size_t n;
  int rc = dw_iter_create(reader.engine, &j->options, &it);
  if (rc) bench_die("iterator: %s: %s", dw_rc_name(rc), dw_last_error());
  dw_iter_seek(it, r->key, r->klen);
  for (int i = 0; i < SCAN_RECORDS && dw_iter_valid(it); i++, dw_iter_next(it))
    if (!dw_iter_key(it, &n) || !dw_iter_value(it, &n)) bench_die("a record without a value");
  if (dw_iter_status(it)) bench_die("iterator: %s", dw_last_error());
  dw_iter_destroy(it);
}

static void scan_plain(const struct record *r) {
  size_t n;
  rocksdb_iterator_t *it = rocksdb_create_iterator(reader.rocks.db, reader.rocks.read);
  rocksdb_iter_seek(it, r->key, r->klen);
  for (int i = 0; i < SCAN_RECORDS && rocksdb_iter_valid(it); i++, rocksdb_iter_next(it))
    if (!rocksdb_iter_key(it, &n) || !rocksdb_iter_value(it, &n)) bench_die("a record without a value");
  rocksdb_iter_destroy(it);
}

static void *read_loop(void *arg) {
  struct read_job *j = arg;
  struct record_source s;
  source_init(&s, RECORD_HALF, 0);
  uint64_t state = j->seed, before = bench_ns();
  while (before < j->end_ns) {
    const struct record *r = source_at(&s, rnd_next(&state) % (uint64_t)records);
    if (j->scan)
      j->plain ? scan_plain(r) : scan_engine(j, r);
    else
      j->plain ? get_plain(r) : get_engine(j, r);
    uint64_t after = bench_ns();
    histogram_add(&j->latency, after - before);
    before = after;
    j->done++;
  }
  source_free(&s);
  return NULL;
}

#define MAX_READERS 16

/* "ours|theirs get|scan CONSISTENCY THREADS SECONDS MIN_LSN": answers with the rate, then with the histogram's bytes.
 */
static void serve(int fd, const char *line) {
  static struct read_job jobs[MAX_READERS];
  static struct histogram all;
  char side[16], kind[16];
  int consistency, threads;
  double seconds;
  unsigned long long lsn;
  if (sscanf(line, "%15s %15s %d %d %lf %llu", side, kind, &consistency, &threads, &seconds, &lsn) != 6)
    bench_die("reader: '%s'", line);
  memset(&all, 0, sizeof all);
  uint64_t start = bench_ns(), done = 0;
  for (int i = 0; i < threads; i++) {
    memset(&jobs[i], 0, sizeof jobs[i]);
    jobs[i].plain = strcmp(side, "theirs") == 0;
    jobs[i].scan = strcmp(kind, "scan") == 0;
    jobs[i].options = (dw_read_options){
        .consistency = (dw_consistency)consistency, .max_staleness_ms = BOUND_MS, .min_lsn = lsn, .wait_ms = WAIT_MS};
    jobs[i].seed = start + (uint64_t)i * 7919;
    jobs[i].end_ns = start + (uint64_t)(seconds * 1e9);
    if (pthread_create(&jobs[i].thread, NULL, read_loop, &jobs[i])) bench_die("no thread");
  }
  for (int i = 0; i < threads; i++) {
    pthread_join(jobs[i].thread, NULL);
    done += jobs[i].done;
    histogram_merge(&all, &jobs[i].latency);
  }
  line_write(fd, "%.3f", (double)done / ((double)(bench_ns() - start) / 1e9));
  bytes_write(fd, &all, sizeof all);
}

static void load_plain(void) {
  struct record_source s;
  source_init(&s, RECORD_HALF, 0);
  rocksdb_writebatch_t *b = rocksdb_writebatch_create();
  for (int i = 0; i < records;) {
    rocksdb_writebatch_clear(b);
    for (int k = 0; k < 1000 && i < records; k++, i++) {
      const struct record *r = source_at(&s, (uint64_t)i);
      rocksdb_writebatch_put(b, r->key, r->klen, r->val, r->vlen);
    }
    write_plain(&reader.rocks, NULL, b);
  }
  rocksdb_writebatch_destroy(b);
  source_free(&s);
}

/* args: DIR PORT MEMTABLE PLAIN_DIR RECORDS RATE */
static int reader_main(int fd, char **args) {
  records = atoi(args[4]);
  rate = atoi(args[5]);
  reader.engine = follower_open(args);
  rocks_open(&reader.rocks, args[3], NULL, false);
  rocksdb_writeoptions_disable_WAL(reader.rocks.write, 1);
  load_plain();
  struct updater u;
  updater_start(&u, write_plain, &reader.rocks);
  line_write(fd, "ready");
  char line[128];
  while (line_read(fd, line, sizeof line) >= 0) serve(fd, line);
  updater_stop(&u);
  rocks_close(&reader.rocks);
  engine_close_or_die(reader.engine);
  return 0;
}

/* ---- cases ----------------------------------------------------------------------------------- */

static struct child readers;
static dw_lsn session_lsn;

struct setting {
  const char *kind;
  dw_consistency consistency;
  int threads;
};

static void ask(const struct setting *s, const char *side, struct measured *m) {
  char line[128];
  struct histogram got;
  snprintf(line, sizeof line, "%s %s %d %d %.3f %llu", side, s->kind, (int)s->consistency, s->threads, bench.seconds,
           (unsigned long long)session_lsn);
  child_tell(&readers, line);
  child_answer(&readers, line, sizeof line);
  child_get(&readers, &got, sizeof got);
  m->value = atof(line);
  histogram_merge(&m->latency, &got);
}

static void ours(const void *arg, struct measured *m) {
  ask(arg, "ours", m);
}
static void theirs(const void *arg, struct measured *m) {
  ask(arg, "theirs", m);
}

/* Both sides once, untimed: the first reads fill caches and resolve symbols. */
static void warm_up(void) {
  static const struct setting get = {"get", DW_EVENTUAL, 1}, scan = {"scan", DW_EVENTUAL, 1};
  static struct measured drop;
  const struct setting *const kinds[] = {&get, &scan};
  for (int i = 0; i < 2; i++) ours(kinds[i], &drop), theirs(kinds[i], &drop);
}

static void all_cases(void) {
  static const struct {
    const char *line, *name;
    struct setting s;
    double reach;
  } cases[] = {
      {"", "get EVENTUAL, 1 thread", {"get", DW_EVENTUAL, 1}, 0},
      {"i", "get BOUNDED, 1 thread", {"get", DW_BOUNDED, 1}, 0.95},
      {"i", "get SESSION, 1 thread", {"get", DW_SESSION, 1}, 0.95},
      {"", "get STRONG, 1 thread", {"get", DW_STRONG, 1}, 0},
      {"i", "get BOUNDED, 4 threads", {"get", DW_BOUNDED, 4}, 0.95},
      {"i", "get SESSION, 4 threads", {"get", DW_SESSION, 4}, 0.95},
      {"", "iterate 100 records, BOUNDED, 1 thread", {"scan", DW_BOUNDED, 1}, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    bench_compare(&(struct bench_case){.line = cases[i].line,
                                       .name = cases[i].name,
                                       .unit = strcmp(cases[i].s.kind, "scan") == 0 ? "scans/s" : "gets/s",
                                       .ours = {"follower", ours, &cases[i].s},
                                       .theirs = {"RocksDB", theirs, &cases[i].s},
                                       .reach = cases[i].reach});
}

int main(int argc, char **argv) {
  static const struct bench_flag flags[] = {
      {"records", BENCH_INT, &records, "in the store; 0: 250,000 for each of --seconds"},
      {"rate", BENCH_INT, &rate, "updates a second meanwhile"},
      {0},
  };
  static const struct child_role roles[] = {{"reader", reader_main}, {0}};
  bench_init(argc, argv, "bench_read", "what do reads on a follower cost above RocksDB's own?", flags, roles);
  if (!records) records = (int)(250000 * bench.seconds);
  if (records < 1 || rate < 1000) bench_die("--records at least 1, --rate at least 1000");
  static struct cluster c;
  cluster_open(&c, 0, NULL);
  bench_progress("loading %d records", records);
  load_fixed(c.primary, 0, (uint64_t)records);
  session_lsn = cluster_written(c.primary);
  char dir[2][BENCH_PATH_BYTES], port[16], n[16], r[16], line[16];
  bench_fresh(dir[0], "follower");
  bench_fresh(dir[1], "plain");
  snprintf(port, sizeof port, "%u", c.port);
  snprintf(n, sizeof n, "%d", records);
  snprintf(r, sizeof r, "%d", rate);
  child_start(&readers, "reader", (const char *[]){dir[0], port, "0", dir[1], n, r, NULL});
  child_answer(&readers, line, sizeof line);
  cluster_await(c.primary, 1, session_lsn, true);
  struct updater u;
  updater_start(&u, write_primary, c.primary);
  warm_up();
  all_cases();
  updater_stop(&u);
  child_stop(&readers);
  cluster_close(&c);
  return bench_end();
}
