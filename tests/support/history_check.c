/* See history_check.h. */
#include "tests/support/history_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long ull;

/* All that is known of one value of one key. */
struct cluster {
  int key;
  uint64_t value;
  const struct event *write;        /* NULL: the beginning, nothing there */
  const struct event *first, *last; /* whose return is f, whose invocation is s */
  uint64_t f, s;
  bool used;
};

struct check {
  struct event *events;
  size_t n;
  struct cluster *clusters; /* sorted by (key, value) */
  size_t cluster_count;
  const struct event **by_lsn; /* writes with LSN, sorted by (key, lsn) */
  size_t lsn_count;
  char *why;
  size_t cap;
};

static const char *const kind_names[] = {"write", "STRONG read", "BOUNDED read", "SESSION read", "EVENTUAL read"};

static void tell(const struct event *e, char *out, size_t cap) {
  snprintf(out, cap, "%s of key %d, value %llu, [%llu, %llu] ns, node %d life %u, lsn %llu", kind_names[e->kind],
           e->key, (ull)e->value, (ull)e->invoked, (ull)e->returned, e->node, e->life,
           (ull)(e->lsn ? e->lsn : e->token));
}

static bool complain(struct check *c, const char *what, const struct event *a, const struct event *b) {
  char ta[220] = "", tb[220] = "";
  if (a) tell(a, ta, sizeof ta);
  if (b) tell(b, tb, sizeof tb);
  snprintf(c->why, c->cap, "%s: %s%s%s", what, ta, b ? " | " : "", tb);
  return false;
}

/* ---- clusters -------------------------------------------------------------------------------------- */

static int by_key_value(const void *a, const void *b) {
  const struct cluster *x = a, *y = b;
  if (x->key != y->key) return x->key < y->key ? -1 : 1;
  return x->value < y->value ? -1 : x->value > y->value;
}

static struct cluster *cluster_of(const struct check *c, int key, uint64_t value) {
  struct cluster wanted = {.key = key, .value = value};
  return bsearch(&wanted, c->clusters, c->cluster_count, sizeof wanted, by_key_value);
}

/* The earliest moment at which what a read saw may have been current. */
static uint64_t reach(const struct event *e) {
  if (e->kind == EVENT_STRONG) return e->invoked;
  if (e->kind == EVENT_BOUNDED) return e->invoked > e->bound ? e->invoked - e->bound : 0;
  return 0;
}

/* Moments are counted from 1 here: the beginning, where nothing is there, lies before all of them. */
static void add(struct cluster *k, const struct event *e, uint64_t invoked, uint64_t returned) {
  invoked++;
  if (returned < UINT64_MAX) returned++;
  if (returned < k->f) k->f = returned, k->first = e;
  if (invoked >= k->s) k->s = invoked, k->last = e;
}

static bool make_clusters(struct check *c) {
  c->clusters = calloc(2 * c->n + 1, sizeof *c->clusters);
  if (!c->clusters) return false;
  for (size_t i = 0; i < c->n; i++) {
    const struct event *e = &c->events[i];
    bool write = e->kind == EVENT_WRITE;
    if (write)
      c->clusters[c->cluster_count++] = (struct cluster){.key = e->key, .value = e->value, .write = e, .f = UINT64_MAX};
    else if (e->value == 0)
      c->clusters[c->cluster_count++] = (struct cluster){.key = e->key, .used = true};
  }
  qsort(c->clusters, c->cluster_count, sizeof *c->clusters, by_key_value);
  size_t kept = 0;
  for (size_t i = 0; i < c->cluster_count; i++) {
    if (kept && by_key_value(&c->clusters[kept - 1], &c->clusters[i]) == 0) {
      if (c->clusters[i].write)
        return complain(c, "two writes of one value", c->clusters[kept - 1].write, c->clusters[i].write);
      continue;
    }
    c->clusters[kept++] = c->clusters[i];
  }
  c->cluster_count = kept;
  return true;
}

static bool fill_clusters(struct check *c) {
  for (size_t i = 0; i < c->n; i++) {
    const struct event *e = &c->events[i];
    struct cluster *k = cluster_of(c, e->key, e->value);
    if (!k) return complain(c, "a value that nobody wrote", e, NULL);
    if (e->kind == EVENT_WRITE) {
      add(k, e, e->invoked, e->end == END_OK ? e->returned : UINT64_MAX);
      k->used |= e->end == END_OK;
      continue;
    }
    if (k->write && k->write->end == END_REFUSED) return complain(c, "a refused write was seen", k->write, e);
    if (k->write && e->returned < k->write->invoked) return complain(c, "seen before it was written", k->write, e);
    add(k, e, reach(e), e->returned);
    k->used = true;
  }
  return true;
}

/* ---- one register per key -------------------------------------------------------------------------- */

static int by_start(const void *a, const void *b) {
  const struct cluster *x = *(const struct cluster *const *)a, *y = *(const struct cluster *const *)b;
  return x->f < y->f ? -1 : x->f > y->f;
}

/* Clusters of one key. */
static bool check_register(struct check *c, struct cluster *from, size_t n) {
  const struct cluster **forward = malloc(n * sizeof *forward);
  size_t count = 0;
  bool good = true;
  if (!forward) return false;
  for (size_t i = 0; i < n; i++)
    if (from[i].used && from[i].f < from[i].s) forward[count++] = &from[i];
  qsort(forward, count, sizeof *forward, by_start);
  for (size_t i = 1; i < count && good; i++)
    if (forward[i]->f < forward[i - 1]->s)
      good = complain(c, "an older value is still current where a newer one is already", forward[i - 1]->last,
                      forward[i]->first);
  for (size_t i = 0; i < n && good; i++) {
    const struct cluster *k = &from[i];
    if (!k->used || k->f < k->s) continue;
    size_t lo = 0, hi = count; /* the last that starts before s */
    while (lo < hi) {
      size_t mid = (lo + hi) / 2;
      if (forward[mid]->f < k->s)
        lo = mid + 1;
      else
        hi = mid;
    }
    if (lo && k->f < forward[lo - 1]->s)
      good =
          complain(c, "all of its time another value is current", k->write ? k->write : k->last, forward[lo - 1]->last);
  }
  free(forward);
  return good;
}

static bool check_registers(struct check *c) {
  for (size_t i = 0, n; i < c->cluster_count; i += n) {
    for (n = 1; i + n < c->cluster_count && c->clusters[i + n].key == c->clusters[i].key;) n++;
    if (!check_register(c, &c->clusters[i], n)) return false;
  }
  return true;
}

/* ---- prefixes of the commit order ------------------------------------------------------------------ */

static int by_key_lsn(const void *a, const void *b) {
  const struct event *x = *(const struct event *const *)a, *y = *(const struct event *const *)b;
  if (x->key != y->key) return x->key < y->key ? -1 : 1;
  return x->lsn < y->lsn ? -1 : x->lsn > y->lsn;
}

static bool index_lsns(struct check *c) {
  c->by_lsn = malloc((c->n + 1) * sizeof *c->by_lsn);
  if (!c->by_lsn) return false;
  for (size_t i = 0; i < c->n; i++)
    if (c->events[i].kind == EVENT_WRITE && c->events[i].lsn) c->by_lsn[c->lsn_count++] = &c->events[i];
  qsort(c->by_lsn, c->lsn_count, sizeof *c->by_lsn, by_key_lsn);
  return true;
}

/* The first write of the key with an LSN above; NULL: none. */
static const struct event *next_write(const struct check *c, int key, uint64_t lsn) {
  size_t lo = 0, hi = c->lsn_count;
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    const struct event *e = c->by_lsn[mid];
    if (e->key < key || (e->key == key && e->lsn <= lsn))
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo < c->lsn_count && c->by_lsn[lo]->key == key ? c->by_lsn[lo] : NULL;
}

/* A running maximum of LSNs over time. */
struct sight {
  uint64_t at, lsn;
};
struct sights {
  struct sight *list;
  size_t count;
};

static int by_time(const void *a, const void *b) {
  const struct sight *x = a, *y = b;
  return x->at < y->at ? -1 : x->at > y->at;
}

static void settle(struct sights *s) {
  qsort(s->list, s->count, sizeof *s->list, by_time);
  for (size_t i = 1; i < s->count; i++)
    if (s->list[i].lsn < s->list[i - 1].lsn) s->list[i].lsn = s->list[i - 1].lsn;
}

/* The highest LSN in sight before a moment. */
static uint64_t in_sight(const struct sights *s, uint64_t before) {
  size_t lo = 0, hi = s->count;
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    if (s->list[mid].at < before)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo ? s->list[lo - 1].lsn : 0;
}

/* LSN of the value that a read saw: 0 for nothing, UINT64_MAX if it is not known. */
static uint64_t seen_lsn(const struct check *c, const struct event *e) {
  const struct cluster *k = e->value ? cluster_of(c, e->key, e->value) : NULL;
  if (!k) return 0;
  return k->write->lsn ? k->write->lsn : UINT64_MAX;
}

/* What must have been applied where this read was answered, by its own right. */
static uint64_t own_floor(const struct check *c, const struct event *e, const struct sights *returned) {
  uint64_t seen = seen_lsn(c, e), floor = seen == UINT64_MAX ? 0 : seen, by_level = 0;
  if (e->kind == EVENT_SESSION) by_level = e->token;
  if (e->kind == EVENT_STRONG || e->kind == EVENT_BOUNDED) by_level = in_sight(returned, reach(e));
  return floor > by_level ? floor : by_level;
}

static bool writes_in_order(struct check *c, const struct sights *returned) {
  for (size_t i = 0; i < c->n; i++) {
    const struct event *e = &c->events[i];
    if (e->kind != EVENT_WRITE || !e->lsn) continue;
    if (in_sight(returned, e->invoked) >= e->lsn) return complain(c, "a later write has a lower LSN", e, NULL);
  }
  return true;
}

static int by_place(const void *a, const void *b) {
  const struct event *x = a, *y = b;
  if (x->node != y->node) return x->node < y->node ? -1 : 1;
  if (x->life != y->life) return x->life < y->life ? -1 : 1;
  if (x->snapshot != y->snapshot) return x->snapshot < y->snapshot ? -1 : 1;
  return x->invoked < y->invoked ? -1 : x->invoked > y->invoked;
}

/* The events of one life of one node. */
static bool check_life(struct check *c, const struct event *from, size_t n, const struct sights *returned,
                       struct sights *here, uint64_t *floors) {
  here->count = 0;
  for (size_t i = 0; i < n; i++) {
    bool write = from[i].kind == EVENT_WRITE;
    floors[i] = write ? from[i].lsn : own_floor(c, &from[i], returned);
    if (!write || from[i].end == END_OK) here->list[here->count++] = (struct sight){from[i].returned, floors[i]};
  }
  settle(here);
  for (size_t i = 0; i < n; i++) {
    if (from[i].kind == EVENT_WRITE) continue;
    uint64_t floor = in_sight(here, from[i].invoked), seen = seen_lsn(c, &from[i]);
    for (size_t k = i; from[i].snapshot && k > 0 && from[k - 1].snapshot == from[i].snapshot; k--)
      if (floors[k - 1] > floor) floor = floors[k - 1];
    for (size_t k = i; k < n && (k == i || (from[i].snapshot && from[k].snapshot == from[i].snapshot)); k++)
      if (floors[k] > floor) floor = floors[k];
    const struct event *missed = seen == UINT64_MAX ? NULL : next_write(c, from[i].key, seen);
    if (missed && missed->lsn <= floor)
      return complain(c, "a read misses a write that was in sight there before", &from[i], missed);
  }
  return true;
}

static bool check_prefixes(struct check *c) {
  struct sights returned = {calloc(c->n + 1, sizeof(struct sight)), 0};
  struct sights here = {calloc(c->n + 1, sizeof(struct sight)), 0};
  uint64_t *floors = calloc(c->n + 1, sizeof *floors);
  bool good = returned.list && here.list && floors;
  for (size_t i = 0; good && i < c->n; i++)
    if (c->events[i].kind == EVENT_WRITE && c->events[i].end == END_OK && c->events[i].lsn)
      returned.list[returned.count++] = (struct sight){c->events[i].returned, c->events[i].lsn};
  settle(&returned);
  good = good && writes_in_order(c, &returned);
  for (size_t i = 0, n; good && i < c->n; i += n) {
    const struct event *e = c->events;
    for (n = 1; i + n < c->n && e[i + n].node == e[i].node && e[i + n].life == e[i].life;) n++;
    good = check_life(c, &e[i], n, &returned, &here, floors);
  }
  free(returned.list);
  free(here.list);
  free(floors);
  return good;
}

bool judge_history(struct event *events, size_t n, char *why, size_t cap) {
  struct check c = {.events = events, .n = n, .why = why, .cap = cap};
  snprintf(why, cap, "no memory");
  qsort(events, n, sizeof *events, by_place); /* first: everything below points into it */
  bool good = make_clusters(&c) && fill_clusters(&c) && check_registers(&c) && index_lsns(&c) && check_prefixes(&c);
  free(c.clusters);
  free(c.by_lsn);
  if (good) why[0] = 0;
  return good;
}
