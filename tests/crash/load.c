/* See load.h. */
#include "tests/crash/load.h"

#include <check.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/support/resp_wire.h"

#define DEPTH_MAX 6

uint64_t draw(uint64_t *state) {
  uint64_t x = *state += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

int draw_below(uint64_t *state, int n) {
  return (int)(draw(state) % (uint64_t)n);
}

void load_complain(struct load *l, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  pthread_mutex_lock(&l->why_mu);
  if (!atomic_load(&l->wrong)) vsnprintf(l->why, sizeof l->why, fmt, ap);
  atomic_store(&l->wrong, true);
  pthread_mutex_unlock(&l->why_mu);
  va_end(ap);
}

/* ---- writers -------------------------------------------------------------------------------------- */

/* A write that was sent. */
struct sent {
  int unit;
  size_t index;
  bool batch; /* MULTI ... EXEC: its replies are several */
  int queued; /* commands within */
};

struct writer {
  struct load *l;
  int id;
  uint64_t rnd;
  struct wire wire;
  unsigned mode_round;
  struct promise promise;
};

static bool send_mode(struct writer *w) {
  struct write_mode mode;
  const char *words[8] = {"DW.MODE"};
  struct wire_reply r;
  pthread_mutex_lock(&w->l->mode_mu);
  mode = w->l->mode[w->id];
  w->mode_round = atomic_load(&w->l->mode_round);
  pthread_mutex_unlock(&w->l->mode_mu);
  for (int i = 0; i < mode.count; i++) words[i + 1] = mode.words[i];
  wire_add_words(&w->wire, words, (size_t)mode.count + 1);
  if (!wire_flush(&w->wire) || wire_read(&w->wire, &r) != WIRE_OK) return false;
  if (r.kind != '+') load_complain(w->l, "DW.MODE %s was answered %s", mode.words[0], r.text);
  w->promise = mode.promise;
  return r.kind == '+';
}

static void add_set(struct writer *w, const char *key, uint64_t seq) {
  char value[VALUE_BYTES_MAX];
  unit_value(w->l->model, key, seq, value);
  wire_add(&w->wire, "SET", key, value, (char *)NULL);
}

/* A group: by MSET, or as a transaction of single commands. */
static void add_group(struct writer *w, struct sent *s, uint64_t seq, bool deletes) {
  char keys[GROUP_KEYS][KEY_BYTES], values[GROUP_KEYS][VALUE_BYTES_MAX];
  const char *words[1 + 2 * GROUP_KEYS] = {"MSET"};
  for (int i = 0; i < GROUP_KEYS; i++) {
    unit_key(w->id, s->unit, i, keys[i]);
    unit_value(w->l->model, keys[i], seq, values[i]);
    words[1 + 2 * i] = keys[i];
    words[2 + 2 * i] = values[i];
  }
  if (!deletes && draw_below(&w->rnd, 3) == 0) {
    wire_add_words(&w->wire, words, 1 + 2 * GROUP_KEYS);
    return;
  }
  s->batch = true;
  wire_add(&w->wire, "MULTI", (char *)NULL);
  for (int i = 0; i < GROUP_KEYS; i++) {
    if (deletes)
      wire_add(&w->wire, "DEL", keys[i], (char *)NULL);
    else
      add_set(w, keys[i], seq);
  }
  s->queued = GROUP_KEYS;
  wire_add(&w->wire, "EXEC", (char *)NULL);
}

static void add_write(struct writer *w, struct sent *s) {
  uint64_t seq = w->l->next_seq[w->id]++;
  bool deletes = draw_below(&w->rnd, 12) == 0;
  char key[KEY_BYTES];
  *s = (struct sent){.unit = draw_below(&w->rnd, UNITS)};
  s->index = unit_try(w->l->model, w->id, s->unit, seq, deletes, &w->promise);
  unit_key(w->id, s->unit, 0, key);
  if (s->unit >= SINGLES)
    add_group(w, s, seq, deletes);
  else if (deletes)
    wire_add(&w->wire, "DEL", key, (char *)NULL);
  else
    add_set(w, key, seq);
}

/* The words at the beginning of an error say whether the write may have happened: docs/semantics.md. */
static enum outcome outcome_of(struct writer *w, const struct wire_reply *r) {
  static const char *const not_done[] = {"NOREPLICAS", "TIMEOUT certainly", "NOSPACE", "IOERR", "OOM"};
  if (r->kind == ':') return r->number ? ACKED : REFUSED; /* DEL of nothing writes nothing */
  if (r->kind != '-') return ACKED;
  if (strncmp(r->text, "INDOUBT", 7) == 0) return IN_DOUBT;
  for (size_t i = 0; i < sizeof not_done / sizeof *not_done; i++)
    if (strncmp(r->text, not_done[i], strlen(not_done[i])) == 0) return REFUSED;
  load_complain(w->l, "a write was answered %.200s", r->text);
  return IN_DOUBT;
}

/* The reply to one write. False: the connection is gone. */
static bool take_reply(struct writer *w, const struct sent *s, enum outcome *out) {
  struct wire_reply r;
  enum wire_result got = WIRE_OK;
  for (int i = 0; s->batch && i <= s->queued && got == WIRE_OK; i++) got = wire_read(&w->wire, &r); /* OK, QUEUED... */
  if (got == WIRE_OK) got = wire_read(&w->wire, &r);
  if (got == WIRE_SILENT) load_complain(w->l, "writer %d: no answer in %d s", w->id, WIRE_PATIENCE_S);
  if (got != WIRE_OK) return false;
  *out = outcome_of(w, &r);
  if (r.kind != '*') return true;
  long long deleted = 0, n = r.number;
  for (long long i = 0; i < n; i++) {
    if (wire_read(&w->wire, &r) != WIRE_OK) return false;
    deleted += r.kind == ':' ? r.number : 0;
    if (r.kind == ':' && i == n - 1 && deleted == 0) *out = REFUSED; /* deletes of nothing: an empty batch */
  }
  return true;
}

static void count(struct writer *w, enum outcome o) {
  atomic_ulong *counts[] = {&w->l->in_doubt, &w->l->acked, &w->l->refused, NULL};
  atomic_fetch_add(counts[o], 1);
}

/* A few writes at once. False: the connection is gone. */
static bool write_some(struct writer *w) {
  struct sent sent[DEPTH_MAX];
  int depth = draw_below(&w->rnd, 3) ? 1 : 1 + draw_below(&w->rnd, DEPTH_MAX);
  bool refused = false;
  for (int i = 0; i < depth; i++) add_write(w, &sent[i]);
  bool alive = wire_flush(&w->wire);
  for (int i = 0; i < depth; i++) {
    enum outcome o = IN_DOUBT;
    alive = alive && take_reply(w, &sent[i], &o);
    if (!alive) o = IN_DOUBT;
    unit_outcome(w->l->model, w->id, sent[i].unit, sent[i].index, o);
    count(w, o);
    refused |= o == REFUSED;
  }
  if (refused) poll(NULL, 0, 3); /* too few followers: not a busy loop */
  return alive;
}

static void *run_writer(void *arg) {
  struct writer w = {.l = ((struct load **)arg)[0], .id = (int)(size_t)((void **)arg)[1], .wire = WIRE_INIT};
  free(arg);
  w.rnd = w.l->seed ^ (uint64_t)(w.id + 1) * 0x5851f42d4c957f2du;
  while (!atomic_load(&w.l->stop)) {
    if (atomic_load(&w.l->pause)) {
      atomic_fetch_add(&w.l->resting, 1);
      while (atomic_load(&w.l->pause) && !atomic_load(&w.l->stop)) poll(NULL, 0, 1);
      atomic_fetch_sub(&w.l->resting, 1);
      continue;
    }
    bool fresh = w.wire.fd < 0;
    if (fresh && !wire_open(&w.wire, w.l->port[0])) {
      poll(NULL, 0, 2);
      continue;
    }
    bool alive = (!fresh && w.mode_round == atomic_load(&w.l->mode_round)) || send_mode(&w);
    if (!alive || !write_some(&w)) wire_close(&w.wire);
  }
  wire_free(&w.wire);
  return NULL;
}

/* ---- readers -------------------------------------------------------------------------------------- */

/* Reads all keys of a unit at one point. *s points into `store`. */
static enum wire_result read_unit(struct wire *w, int writer, int unit, struct sighting *s,
                                  char store[UNIT_KEYS_MAX][VALUE_BYTES_MAX], struct wire_reply *r) {
  char keys[UNIT_KEYS_MAX][KEY_BYTES];
  const char *words[1 + UNIT_KEYS_MAX] = {"MGET"};
  int n = unit_keys(unit);
  for (int i = 0; i < n; i++) {
    unit_key(writer, unit, i, keys[i]);
    words[1 + i] = keys[i];
  }
  *s = (struct sighting){0};
  wire_add_words(w, words, 1 + (size_t)n);
  enum wire_result got = wire_flush(w) ? wire_read(w, r) : WIRE_BROKEN;
  if (got || r->kind != '*') return got;
  for (int i = 0; i < n && got == WIRE_OK; i++) {
    struct wire_reply e;
    got = wire_read(w, &e);
    if (got || e.kind != '$') continue;
    s->len[i] = e.len < VALUE_BYTES_MAX ? e.len : VALUE_BYTES_MAX - 1;
    memcpy(store[i], e.text, s->len[i]);
    store[i][s->len[i]] = 0;
    s->value[i] = store[i];
  }
  return got;
}

struct reader {
  struct load *l;
  int node;
  uint64_t rnd;
  struct wire wire;
  unsigned life;
  size_t seen[WRITERS][UNITS]; /* in this life of the node: it may not go back */
};

static bool connect_reader(struct reader *r) {
  unsigned life = atomic_load(&r->l->opened[r->node]);
  if (!wire_open(&r->wire, r->l->port[r->node])) return false;
  if (life != r->life) memset(r->seen, 0, sizeof r->seen);
  r->life = life;
  /* Killed meanwhile: to which of its lives do we talk? */
  return atomic_load(&r->l->opened[r->node]) == life;
}

static bool read_one(struct reader *r) {
  static _Thread_local char store[UNIT_KEYS_MAX][VALUE_BYTES_MAX];
  char why[250];
  struct sighting s;
  struct wire_reply reply;
  int writer = draw_below(&r->rnd, WRITERS), unit = draw_below(&r->rnd, UNITS);
  size_t floor = r->seen[writer][unit];
  if (read_unit(&r->wire, writer, unit, &s, store, &reply) != WIRE_OK || reply.kind != '*') return false;
  long index = unit_judge(r->l->model, writer, unit, &s, floor, true, why, sizeof why);
  if (index < 0) load_complain(r->l, "a reader at node %d: %s", r->node, why);
  if (index > 0) r->seen[writer][unit] = (size_t)index;
  atomic_fetch_add(&r->l->reads, 1);
  return true;
}

static void *run_reader(void *arg) {
  struct reader r = {.l = ((struct load **)arg)[0], .node = (int)(size_t)((void **)arg)[1], .wire = WIRE_INIT};
  free(arg);
  r.rnd = r.l->seed ^ (uint64_t)(r.node + 77) * 0x5851f42d4c957f2du;
  while (!atomic_load(&r.l->stop)) {
    bool fresh = r.wire.fd < 0;
    if ((fresh && !connect_reader(&r)) || !read_one(&r)) wire_close(&r.wire);
    poll(NULL, 0, 2);
  }
  wire_free(&r.wire);
  return NULL;
}

bool load_judge_node(struct load *l, int node, bool complete, size_t index[WRITERS][UNITS]) {
  static char store[UNIT_KEYS_MAX][VALUE_BYTES_MAX];
  struct wire wire = WIRE_INIT;
  struct wire_reply reply = {.text = "no answer"};
  bool ok = wire_open(&wire, l->port[node]);
  for (int w = 0; ok && w < WRITERS; w++) {
    for (int u = 0; ok && u < UNITS; u++) {
      struct sighting s;
      char why[250];
      size_t floor = complete ? unit_floor(l->model, w, u) : 0;
      ok = read_unit(&wire, w, u, &s, store, &reply) == WIRE_OK && reply.kind == '*';
      if (!ok) break;
      long seen = unit_judge(l->model, w, u, &s, floor, true, why, sizeof why);
      if (seen < 0) load_complain(l, "node %d: %s", node, why);
      if (index) index[w][u] = seen < 0 ? 0 : (size_t)seen;
      if (index && !complete && !s.value[0]) index[w][u] = unit_index(l->model, w, u, 0, true);
    }
  }
  if (!ok) load_complain(l, "node %d can't be read: %.100s", node, reply.text);
  wire_free(&wire);
  return !atomic_load(&l->wrong);
}

/* ---- life ----------------------------------------------------------------------------------------- */

static void start_thread(pthread_t *t, void *(*fn)(void *), struct load *l, int id) {
  void **arg = malloc(2 * sizeof *arg);
  ck_assert_ptr_nonnull(arg);
  arg[0] = l;
  arg[1] = (void *)(size_t)id;
  ck_assert_int_eq(pthread_create(t, NULL, fn, arg), 0);
}

void load_start(struct load *l, struct model *m, const int port[NODES], uint64_t seed) {
  memset(l, 0, sizeof *l);
  l->model = m;
  l->seed = seed;
  memcpy(l->port, port, sizeof l->port);
  pthread_mutex_init(&l->mode_mu, NULL);
  pthread_mutex_init(&l->why_mu, NULL);
  for (int i = 0; i < WRITERS; i++) {
    l->next_seq[i] = 1;
    l->mode[i] = (struct write_mode){.words = {"DEFAULT"}, .count = 1};
  }
  for (int i = 0; i < WRITERS; i++) start_thread(&l->writer[i], run_writer, l, i);
  for (int i = 0; i < NODES; i++) start_thread(&l->reader[i], run_reader, l, i);
}

void load_stop(struct load *l) {
  atomic_store(&l->stop, true);
  for (int i = 0; i < WRITERS; i++) pthread_join(l->writer[i], NULL);
  for (int i = 0; i < NODES; i++) pthread_join(l->reader[i], NULL);
}

bool load_pause(struct load *l) {
  struct timespec begin, now;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  atomic_store(&l->pause, true);
  while (atomic_load(&l->resting) < WRITERS) {
    poll(NULL, 0, 1);
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec - begin.tv_sec > 2 * WIRE_PATIENCE_S) load_complain(l, "a writer does not come to rest");
    if (atomic_load(&l->wrong)) return false;
  }
  return !atomic_load(&l->wrong);
}

void load_resume(struct load *l) {
  atomic_store(&l->pause, false);
}

void load_set_modes(struct load *l, const struct write_mode modes[WRITERS]) {
  pthread_mutex_lock(&l->mode_mu);
  memcpy(l->mode, modes, sizeof l->mode);
  atomic_fetch_add(&l->mode_round, 1);
  pthread_mutex_unlock(&l->mode_mu);
}
