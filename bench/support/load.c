#include "bench/support/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the engine ------------------------------------------------------------------------------ */

void engine_options_init(dw_options *o) {
  dw_options_init(o);
  o->segment_bytes = (uint64_t)bench.segment_mb << 20;
}

dw_engine *engine_open_or_die(const char *dir, const dw_options *o) {
  dw_engine *e;
  int rc = dw_open(dir, o, &e);
  if (rc) bench_die("open %s: %s: %s", dir, dw_rc_name(rc), dw_last_error());
  return e;
}

void engine_close_or_die(dw_engine *e) {
  int rc = dw_close(e);
  if (rc) bench_die("close: %s: %s", dw_rc_name(rc), dw_last_error());
}

void put_engine(void *ctx, const struct record *r) {
  struct engine_put *p = ctx;
  int rc = dw_put(p->engine, &p->options, r->key, r->klen, r->val, r->vlen, NULL);
  if (rc) bench_die("put: %s: %s", dw_rc_name(rc), dw_last_error());
}

void load_fixed(dw_engine *e, uint64_t from, uint64_t to) {
  static const dw_write_options quick = {.mode = DW_ASYNC, .durability = DW_DURABILITY_OS};
  struct record_source s;
  source_init(&s, RECORD_HALF, 0);
  dw_batch *b = dw_batch_create();
  for (uint64_t i = from; i < to;) {
    dw_batch_clear(b);
    for (unsigned k = 0; k < 1000 && i < to; k++, i++) {
      const struct record *r = source_at(&s, i);
      dw_batch_put(b, r->key, r->klen, r->val, r->vlen);
    }
    int rc = dw_write(e, &quick, b, NULL);
    if (rc) bench_die("loading: %s: %s", dw_rc_name(rc), dw_last_error());
  }
  dw_batch_destroy(b);
  source_free(&s);
}

/* ---- closed loops ---------------------------------------------------------------------------- */

struct load_thread {
  pthread_t thread;
  struct load *load;
  uint64_t seed;
  atomic_uint_fast64_t done;
  uint64_t logical_bytes, end_ns;
  struct histogram latency;
};

struct load {
  put_fn put;
  void *ctx;
  enum record_kind kind;
  atomic_bool stop;
  pthread_barrier_t ready;
  int threads;
  uint64_t start_ns;
  struct load_thread t[];
};

static void *write_loop(void *arg) {
  struct load_thread *t = arg;
  struct load *l = t->load;
  struct record_source s;
  source_init(&s, l->kind, t->seed);
  pthread_barrier_wait(&l->ready);
  uint64_t before = bench_ns();
  while (!atomic_load_explicit(&l->stop, memory_order_relaxed)) {
    const struct record *r = source_next(&s);
    l->put(l->ctx, r);
    uint64_t after = bench_ns(); /* one clock reading a record: making one costs next to nothing */
    histogram_add(&t->latency, after - before);
    before = after;
    t->logical_bytes += r->klen + r->vlen;
    atomic_store_explicit(&t->done, atomic_load_explicit(&t->done, memory_order_relaxed) + 1, memory_order_relaxed);
  }
  t->end_ns = before;
  source_free(&s);
  return NULL;
}

struct load *load_start(int threads, enum record_kind kind, put_fn put, void *ctx) {
  static uint64_t seed = 1; /* no two loads write the same keys */
  struct load *l = calloc(1, sizeof *l + (size_t)threads * sizeof l->t[0]);
  if (!l || threads < 1 || threads > LOAD_MAX_THREADS) bench_die("%d writers", threads);
  l->put = put, l->ctx = ctx, l->kind = kind, l->threads = threads;
  pthread_barrier_init(&l->ready, NULL, (unsigned)threads + 1);
  for (int i = 0; i < threads; i++) {
    l->t[i].load = l;
    l->t[i].seed = seed++;
    if (pthread_create(&l->t[i].thread, NULL, write_loop, &l->t[i])) bench_die("no thread");
  }
  pthread_barrier_wait(&l->ready);
  l->start_ns = bench_ns();
  return l;
}

uint64_t load_done(struct load *l) {
  uint64_t n = 0;
  for (int i = 0; i < l->threads; i++) n += atomic_load_explicit(&l->t[i].done, memory_order_relaxed);
  return n;
}

void load_stop(struct load *l, struct load_result *r) {
  atomic_store(&l->stop, true);
  uint64_t end = l->start_ns + 1;
  if (r) memset(r, 0, sizeof *r);
  for (int i = 0; i < l->threads; i++) {
    struct load_thread *t = &l->t[i];
    pthread_join(t->thread, NULL);
    if (t->end_ns > end) end = t->end_ns;
    if (!r) continue;
    r->done += t->done;
    r->logical_bytes += t->logical_bytes;
    histogram_merge(&r->latency, &t->latency);
  }
  if (r) r->seconds = (double)(end - l->start_ns) / 1e9;
  pthread_barrier_destroy(&l->ready);
  free(l);
}

void load_threads(int threads, double seconds, enum record_kind kind, put_fn put, void *ctx, struct load_result *r) {
  struct load *l = load_start(threads, kind, put, ctx);
  bench_sleep(seconds);
  load_stop(l, r);
}

/* ---- many in flight -------------------------------------------------------------------------- */

struct flight;
struct slot {
  struct flight *f;
  uint64_t start_ns;
  struct slot *next_free;
};

struct flight {
  pthread_mutex_t mu;
  pthread_cond_t room;
  int in_flight, max;
  bool waiting;
  struct slot *free;
  struct histogram *latency;
};

static void landed(void *arg, int rc, dw_lsn lsn) {
  struct slot *s = arg;
  struct flight *f = s->f;
  if (rc) bench_die("asynchronous write, LSN %llu: %s", (unsigned long long)lsn, dw_rc_name(rc));
  uint64_t now = bench_ns();
  pthread_mutex_lock(&f->mu);
  histogram_add(f->latency, now - s->start_ns);
  s->next_free = f->free;
  f->free = s;
  f->in_flight--;
  /* Not at the first free slot: a wake-up for each record would measure the scheduler. */
  if (f->waiting && f->in_flight <= f->max / 2) {
    f->waiting = false;
    pthread_cond_signal(&f->room);
  }
  pthread_mutex_unlock(&f->mu);
}

static struct slot *take_slot(struct flight *f, int below) {
  pthread_mutex_lock(&f->mu);
  while (f->in_flight >= below) {
    f->waiting = true;
    pthread_cond_wait(&f->room, &f->mu);
  }
  struct slot *s = f->free;
  f->free = s->next_free;
  f->in_flight++;
  pthread_mutex_unlock(&f->mu);
  return s;
}

void load_async(dw_engine *e, const dw_write_options *wo, int in_flight, double seconds, uint64_t records,
                enum record_kind kind, struct load_result *r) {
  memset(r, 0, sizeof *r);
  struct flight f = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, .max = in_flight, .latency = &r->latency};
  struct slot *slots = calloc((size_t)in_flight, sizeof *slots);
  dw_batch *b = dw_batch_create();
  if (!slots || !b) bench_die("no memory");
  for (int i = 0; i < in_flight; i++) {
    slots[i] = (struct slot){.f = &f, .next_free = f.free};
    f.free = &slots[i];
  }
  static uint64_t seed = 1ull << 32;
  struct record_source s;
  source_init(&s, kind, seed++);
  uint64_t start = bench_ns(), now = start;
  while (records ? r->done < records : (double)(now - start) < seconds * 1e9) {
    const struct record *rec = source_next(&s);
    dw_batch_clear(b);
    dw_batch_put(b, rec->key, rec->klen, rec->val, rec->vlen);
    struct slot *slot = take_slot(&f, in_flight);
    slot->start_ns = now = bench_ns();
    int rc = dw_write_async(e, wo, b, landed, slot);
    if (rc) bench_die("asynchronous write: %s: %s", dw_rc_name(rc), dw_last_error());
    r->done++;
    r->logical_bytes += rec->klen + rec->vlen;
  }
  pthread_mutex_lock(&f.mu);
  f.max = 0; /* the last answer wakes us */
  while (f.in_flight) {
    f.waiting = true;
    pthread_cond_wait(&f.room, &f.mu);
  }
  pthread_mutex_unlock(&f.mu);
  r->seconds = (double)(bench_ns() - start) / 1e9;
  dw_batch_destroy(b);
  source_free(&s);
  free(slots);
}
