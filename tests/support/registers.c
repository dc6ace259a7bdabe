/* See registers.h. */
#include "tests/support/registers.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void register_set_init(struct register_set *s, int keys) {
  s->keys = keys;
  atomic_store(&s->values, 0);
  atomic_store(&s->snapshots, 0);
  atomic_store(&s->token, 0);
}

uint64_t register_now_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int register_draw(uint64_t *state, int n) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (int)((*state >> 33) % (uint64_t)n);
}

static struct event *note(struct register_client *c, enum event_kind kind, int key, uint64_t invoked) {
  if (c->count == c->cap) {
    c->cap = c->cap ? 2 * c->cap : 1024;
    c->events = realloc(c->events, c->cap * sizeof *c->events);
    ck_assert_ptr_nonnull(c->events);
  }
  struct event *e = &c->events[c->count++];
  *e = (struct event){
      .kind = kind, .key = key, .invoked = invoked, .returned = UINT64_MAX, .node = c->node, .life = c->life};
  return e;
}

static bool begins(const char *text, const char *with) {
  return strncmp(text, with, strlen(with)) == 0;
}

static enum event_end end_of(struct register_client *c, const struct wire_reply *r) {
  static const char *const not_done[] = {"NOREPLICAS", "TIMEOUT certainly", "NOSPACE", "IOERR", "OOM"};
  if (r->kind == '+') return END_OK;
  if (r->kind == '-' && c->roles_change && (begins(r->text, "READONLY") || begins(r->text, "FENCED"))) {
    c->elsewhere = true;
    return strstr(r->text, "INDOUBT") ? END_IN_DOUBT : END_REFUSED;
  }
  if (r->kind == '-' && begins(r->text, "INDOUBT")) return END_IN_DOUBT;
  for (size_t i = 0; i < sizeof not_done / sizeof *not_done; i++)
    if (r->kind == '-' && begins(r->text, not_done[i])) return END_REFUSED;
  snprintf(c->wrong, sizeof c->wrong, "SET was answered %.200s", r->text);
  return END_IN_DOUBT;
}

/* SET and the LSN that it got. */
enum event_end register_write(struct register_client *c) {
  char key[16], value[32];
  struct wire_reply r;
  int k = register_draw(&c->rnd, c->set->keys);
  uint64_t v = atomic_fetch_add(&c->set->values, 1) + 1;
  snprintf(key, sizeof key, "k%d", k);
  snprintf(value, sizeof value, "%llu", (unsigned long long)v);
  wire_add(&c->wire, "SET", key, value, (char *)NULL);
  wire_add(&c->wire, "DW.LSN", (char *)NULL);
  struct event *e = note(c, EVENT_WRITE, k, register_now_ns());
  e->value = v;
  e->end = END_IN_DOUBT;
  c->elsewhere = false;
  if (!wire_flush(&c->wire) || wire_read(&c->wire, &r) != WIRE_OK) {
    wire_close(&c->wire);
    return END_IN_DOUBT;
  }
  e->returned = register_now_ns();
  e->end = end_of(c, &r);
  if (wire_read(&c->wire, &r) != WIRE_OK) {
    wire_close(&c->wire);
  } else if (e->end == END_OK) {
    e->lsn = (uint64_t)r.number;
    unsigned long long seen = atomic_load(&c->set->token);
    while (seen < e->lsn && !atomic_compare_exchange_weak(&c->set->token, &seen, e->lsn)) continue;
  }
  return e->end;
}

/* What a reader asks for next. */
struct wish {
  enum event_kind kind;
  uint64_t bound_ms, token;
};

static struct wish draw_wish(struct register_client *c) {
  static const uint64_t bounds[] = {20, 60, 150, 400};
  struct wish w = {.kind = (enum event_kind)(EVENT_STRONG + register_draw(&c->rnd, 4))};
  w.bound_ms = bounds[register_draw(&c->rnd, 4)];
  w.token = atomic_load(&c->set->token);
  if (w.token && register_draw(&c->rnd, 4) == 0) w.token -= (uint64_t)register_draw(&c->rnd, 50) % w.token;
  return w;
}

static void add_wish(struct register_client *c, const struct wish *w) {
  char number[32];
  const char *wait = register_draw(&c->rnd, 3) ? "250" : "0";
  snprintf(number, sizeof number, "%llu", (unsigned long long)(w->kind == EVENT_BOUNDED ? w->bound_ms : w->token));
  switch (w->kind) {
  case EVENT_STRONG: wire_add(&c->wire, "DW.READ", "STRONG", "WAIT", "250", (char *)NULL); break;
  case EVENT_BOUNDED: wire_add(&c->wire, "DW.READ", "BOUNDED", number, "WAIT", wait, (char *)NULL); break;
  case EVENT_SESSION: wire_add(&c->wire, "DW.READ", "SESSION", number, "WAIT", wait, (char *)NULL); break;
  default: wire_add(&c->wire, "DW.READ", "EVENTUAL", (char *)NULL); break;
  }
}

static void note_read(struct register_client *c, const struct wish *w, int key, uint64_t value, uint64_t invoked,
                      uint64_t snapshot) {
  struct event *e = note(c, w->kind, key, invoked);
  e->value = value;
  e->returned = register_now_ns();
  e->bound = w->bound_ms * 1000000u;
  e->token = w->token;
  e->snapshot = snapshot;
}

bool register_read(struct register_client *c) {
  struct wish w = draw_wish(c);
  int key[2] = {register_draw(&c->rnd, c->set->keys), register_draw(&c->rnd, c->set->keys)},
      n = register_draw(&c->rnd, 4) ? 1 : 2;
  char name[2][16];
  struct wire_reply r;
  for (int i = 0; i < 2; i++) snprintf(name[i], sizeof name[i], "k%d", key[i]);
  add_wish(c, &w);
  if (n == 1)
    wire_add(&c->wire, "GET", name[0], (char *)NULL);
  else
    wire_add(&c->wire, "MGET", name[0], name[1], (char *)NULL);
  uint64_t invoked = register_now_ns(), snapshot = n == 2 ? atomic_fetch_add(&c->set->snapshots, 1) + 1 : 0;
  if (!wire_flush(&c->wire) || wire_read(&c->wire, &r) != WIRE_OK || r.kind != '+') return false;
  if (wire_read(&c->wire, &r) != WIRE_OK) return false;
  if (r.kind == '-') {
    c->stale++;
    if (!begins(r.text, "STALE")) snprintf(c->wrong, sizeof c->wrong, "GET was answered %.200s", r.text);
    return true;
  }
  for (int i = 0; i < n; i++) {
    if (n == 2 && wire_read(&c->wire, &r) != WIRE_OK) return false;
    note_read(c, &w, key[i], r.kind == '$' ? strtoull(r.text, NULL, 10) : 0, invoked, snapshot);
  }
  return true;
}
