/* How many local commits a second, against RocksDB's own log? Both sides in one program, alternating.
 *
 * Threads put one record after the other (16-byte random key, 100-byte value, half random); `async` is one thread with 1,000 commits in
 * flight. RocksDB is set up the same on both sides; on its own side it writes its WAL (synced or not), on ours its WAL is off and ours is
 * the only log.
 *
 *   bench_commit [--seconds S] [--rounds N] [--json]
 */
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <rocksdb/c.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/dabbawal.h"

static double seconds = 1;
static int rounds = 5, json;
static char base[256];

static double now_s(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static uint64_t rnd(uint64_t *s) {
  *s ^= *s << 13;
  *s ^= *s >> 7;
  *s ^= *s << 17;
  return *s;
}

struct record {
  char key[16], val[100];
};

static void fill(struct record *r, uint64_t *s) {
  for (int i = 0; i < 2; i++) {
    uint64_t x = rnd(s);
    memcpy(r->key + 8 * i, &x, 8);
  }
  for (int i = 0; i < 48; i += 8) {
    uint64_t x = rnd(s);
    memcpy(r->val + i, &x, 8);
  }
}

/* One side of a comparison: opens in a fresh directory, puts from many threads. */
struct side {
  dw_engine *engine;
  rocksdb_t *rocks;
  rocksdb_writeoptions_t *wo;
  bool disk;
};

struct worker {
  pthread_t thread;
  struct side *side;
  atomic_bool *stop;
  unsigned seed;
  uint64_t done;
};

static void fail(const char *what) {
  fprintf(stderr, "bench_commit: %s: %s\n", what, dw_last_error());
  exit(1);
}

static void *run_worker(void *arg) {
  struct worker *w = arg;
  uint64_t s = 88172645463325252ull + w->seed * 104729u;
  struct record r;
  memset(&r, 'v', sizeof r);
  dw_write_options wo = {.durability = w->side->disk ? DW_DURABILITY_DISK : DW_DURABILITY_OS};
  while (!atomic_load_explicit(w->stop, memory_order_relaxed)) {
    fill(&r, &s);
    if (w->side->engine) {
      if (dw_put(w->side->engine, &wo, r.key, 16, r.val, 100, NULL)) fail("put");
    } else {
      char *err = NULL;
      rocksdb_put(w->side->rocks, w->side->wo, r.key, 16, r.val, 100, &err);
      if (err) fail(err);
    }
    w->done++;
  }
  return NULL;
}

static void side_open(struct side *side, bool ours, bool disk, char *dir, size_t cap) {
  static unsigned n;
  snprintf(dir, cap, "%s/%u", base, n++);
  *side = (struct side){.disk = disk};
  if (ours) {
    dw_options o;
    dw_options_init(&o);
    if (dw_open(dir, &o, &side->engine)) fail("open");
    return;
  }
  rocksdb_options_t *o = rocksdb_options_create();
  rocksdb_options_set_create_if_missing(o, 1);
  rocksdb_options_set_write_buffer_size(o, 64u << 20);
  rocksdb_options_set_max_write_buffer_number(o, 3);
  rocksdb_options_set_compression(o, rocksdb_zstd_compression);
  char *err = NULL;
  side->rocks = rocksdb_open(o, dir, &err);
  if (err) fail(err);
  rocksdb_options_destroy(o);
  side->wo = rocksdb_writeoptions_create();
  rocksdb_writeoptions_set_sync(side->wo, disk);
}

static void side_close(struct side *side, const char *dir) {
  if (side->engine) dw_close(side->engine);
  if (side->rocks) rocksdb_close(side->rocks), rocksdb_writeoptions_destroy(side->wo);
  char cmd[300];
  snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
  if (system(cmd)) fail("cleaning up");
}

static double measure(bool ours, bool disk, int threads) {
  struct side side;
  char dir[300];
  side_open(&side, ours, disk, dir, sizeof dir);
  atomic_bool stop = false;
  struct worker w[64];
  double start = now_s();
  for (int i = 0; i < threads; i++) {
    w[i] = (struct worker){.side = &side, .stop = &stop, .seed = (unsigned)i + 1};
    pthread_create(&w[i].thread, NULL, run_worker, &w[i]);
  }
  poll(NULL, 0, (int)(seconds * 1000));
  atomic_store(&stop, true);
  uint64_t done = 0;
  for (int i = 0; i < threads; i++) {
    pthread_join(w[i].thread, NULL);
    done += w[i].done;
  }
  double rate = (double)done / (now_s() - start);
  side_close(&side, dir);
  return rate;
}

/* ---- one thread, many in flight -------------------------------------------------------------- */

struct flight {
  pthread_mutex_t mu;
  pthread_cond_t cond;
  int in_flight;
};

static void landed(void *arg, int rc, dw_lsn lsn) {
  struct flight *f = arg;
  (void)lsn;
  if (rc) fail("async write");
  pthread_mutex_lock(&f->mu);
  if (f->in_flight-- == 1000) pthread_cond_signal(&f->cond);
  pthread_mutex_unlock(&f->mu);
}

static double measure_async(void) {
  struct side side;
  char dir[300];
  side_open(&side, true, true, dir, sizeof dir);
  struct flight f = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
  uint64_t s = 42, done = 0;
  struct record r;
  memset(&r, 'v', sizeof r);
  dw_batch *b = dw_batch_create();
  double start = now_s();
  while (now_s() - start < seconds) {
    for (int i = 0; i < 100; i++, done++) {
      fill(&r, &s);
      dw_batch_clear(b);
      dw_batch_put(b, r.key, 16, r.val, 100);
      pthread_mutex_lock(&f.mu);
      while (f.in_flight >= 1000) pthread_cond_wait(&f.cond, &f.mu);
      f.in_flight++;
      pthread_mutex_unlock(&f.mu);
      if (dw_write_async(side.engine, NULL, b, landed, &f)) fail("async");
    }
  }
  pthread_mutex_lock(&f.mu);
  while (f.in_flight) {
    pthread_mutex_unlock(&f.mu);
    poll(NULL, 0, 1);
    pthread_mutex_lock(&f.mu);
  }
  pthread_mutex_unlock(&f.mu);
  double rate = (double)done / (now_s() - start);
  dw_batch_destroy(b);
  side_close(&side, dir);
  return rate;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double median(double *v, int n) {
  qsort(v, (size_t)n, sizeof *v, by_value);
  return v[n / 2];
}

static void compare(const char *name, bool disk, int threads, bool async) {
  double ours[64], theirs[64];
  for (int i = 0; i < rounds; i++) {
    if (!json) fprintf(stderr, "\r%s: round %d of %d ", name, i + 1, rounds);
    theirs[i] = measure(false, disk, threads);
    ours[i] = async ? measure_async() : measure(true, disk, threads);
  }
  double a = median(ours, rounds), b = median(theirs, rounds);
  if (json)
    printf("{\"bench\":\"commit\",\"case\":\"%s\",\"dabbawal\":%.0f,\"rocksdb\":%.0f,\"ratio\":%.2f}\n", name, a, b, a / b);
  else
    printf("\r%-34s dabbawal %8.0f/s   rocksdb %8.0f/s   ratio %.2f\n", name, a, b, a / b);
  fflush(stdout);
}

int main(int argc, char **argv) {
  static const struct option longs[] = {{"seconds", 1, 0, 's'}, {"rounds", 1, 0, 'r'}, {"json", 0, 0, 'j'}, {0, 0, 0, 0}};
  int o;
  while ((o = getopt_long(argc, argv, "", longs, NULL)) != -1) {
    if (o == 's') seconds = atof(optarg);
    else if (o == 'r') rounds = atoi(optarg);
    else if (o == 'j') json = 1;
    else return 2;
  }
  if (seconds <= 0 || rounds < 1 || rounds > 64) return 2;
  snprintf(base, sizeof base, "%s/dw-bench-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  if (!mkdtemp(base)) return 1;
  compare("DISK, 1 thread", true, 1, false);
  compare("DISK, 8 threads", true, 8, false);
  compare("DISK, 32 threads", true, 32, false);
  compare("OS, 1 thread", false, 1, false);
  compare("OS, 4 threads", false, 4, false);
  compare("DISK, 1,000 in flight / 32 threads", true, 32, true);
  return rmdir(base) != 0;
}
