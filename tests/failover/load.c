/* Eight writers. Each writes keys of its own, one after the other, to whoever takes writes; a write that was not
 * answered OK is never asked again, so a key that was acknowledged must be there in the end.
 *
 * They take a breath between two writes: what is looked for is the moment when writes are taken again, not how
 * many a second, and another such program may run beside this one.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "tests/failover/failover.h"
#include "tests/support/resp_wire.h"

#define KEYS_MAX 200000
#define PATIENCE_MS 700
#define BREATH_MS 2
#define BATCH 500u

struct writer {
  pthread_t thread;
  int id, at; /* the node that it asks */
  unsigned tried;
  uint8_t acked[KEYS_MAX];
};
static struct writer writers[WRITERS];
static atomic_bool over;
static atomic_ulong acks;
static atomic_int watched = -1;
static atomic_uint_fast64_t last_there_us, last_asked_there_us, first_elsewhere_us, last_us, gap_us;

static void acknowledged(const struct writer *w, uint64_t asked_us) {
  uint64_t now = now_us(), none = 0, before = atomic_exchange(&last_us, now);
  uint64_t gap = now > before ? now - before : 0, longest = atomic_load(&gap_us);
  while (gap > longest && !atomic_compare_exchange_weak(&gap_us, &longest, gap)) continue;
  atomic_fetch_add(&acks, 1);
  if (w->at == atomic_load(&watched)) {
    uint64_t last = atomic_load(&last_asked_there_us);
    while (asked_us > last && !atomic_compare_exchange_weak(&last_asked_there_us, &last, asked_us)) continue;
    atomic_store(&last_there_us, now);
  } else {
    atomic_compare_exchange_strong(&first_elsewhere_us, &none, now);
  }
}

/* The node that a refusal names, or the next one. */
static int named(const struct wire_reply *r, int at) {
  const char *says = strstr(r->text, "primary=");
  char address[80];
  for (int i = 0; says && i < NODES; i++) {
    int n = snprintf(address, sizeof address, "primary=%s:%d", node[i].host ? node[i].host : "127.0.0.1",
                     node[i].resp_port);
    if (i != at && strncmp(says, address, (size_t)n) == 0) return i;
  }
  return (at + 1) % NODES;
}

static void write_next(struct writer *w, struct wire *wire) {
  char key[40], value[20];
  struct wire_reply r = {0};
  snprintf(key, sizeof key, "w%d-%u", w->id, w->tried);
  snprintf(value, sizeof value, "v%u", w->tried);
  if (wire->fd < 0 && !wire_open_to(wire, node[w->at].host, node[w->at].resp_port, PATIENCE_MS)) {
    w->at = (w->at + 1) % NODES;
    poll(NULL, 0, 5);
    return;
  }
  uint64_t asked = now_us();
  bool answered = wire_ask(wire, &r, "SET", key, value, (char *)NULL) == WIRE_OK;
  if (answered && r.kind == '+') {
    w->acked[w->tried++] = 1;
    acknowledged(w, asked);
    poll(NULL, 0, BREATH_MS);
    return;
  }
  w->at = answered && r.kind == '-' ? named(&r, w->at) : (w->at + 1) % NODES;
  if (!answered || strncmp(r.text, "READONLY", 8) != 0) w->tried++; /* perhaps done: never asked again */
  wire_close(wire);
  poll(NULL, 0, 5);
}

static void *write_main(void *arg) {
  struct writer *w = arg;
  struct wire wire = WIRE_INIT;
  while (!atomic_load(&over) && w->tried < KEYS_MAX) write_next(w, &wire);
  wire_free(&wire);
  return NULL;
}

void load_start(void) {
  for (int i = 0; i < WRITERS; i++) {
    writers[i].id = i;
    ck_assert_int_eq(pthread_create(&writers[i].thread, NULL, write_main, &writers[i]), 0);
  }
}

void load_stop(void) {
  atomic_store(&over, true);
  for (int i = 0; i < WRITERS; i++) pthread_join(writers[i].thread, NULL);
}

unsigned long load_acks(void) {
  return atomic_load(&acks);
}

void load_watch(int at) {
  atomic_store(&last_there_us, 0);
  atomic_store(&last_asked_there_us, 0);
  atomic_store(&watched, at);
  load_forget_first();
}
void load_forget_first(void) {
  atomic_store(&first_elsewhere_us, 0);
}
uint64_t load_first_elsewhere_us(void) {
  return atomic_load(&first_elsewhere_us);
}
uint64_t load_last_there_us(void) {
  return atomic_load(&last_there_us);
}
uint64_t load_last_asked_there_us(void) {
  return atomic_load(&last_asked_there_us);
}

void load_gap_begin(void) {
  atomic_store(&last_us, now_us());
  atomic_store(&gap_us, 0);
}
uint64_t load_gap_us(void) {
  uint64_t longest = atomic_load(&gap_us), last = atomic_load(&last_us), now = now_us();
  return now > last && now - last > longest ? now - last : longest;
}

/* ---- the end ------------------------------------------------------------------------------------ */

/* Of keys [from, to) of one writer. */
static unsigned long lost_of(const struct writer *w, struct wire *wire, unsigned from, unsigned to) {
  char key[40], value[20];
  struct wire_reply r;
  unsigned long lost = 0;
  for (unsigned k = from; k < to; k++) {
    snprintf(key, sizeof key, "w%d-%u", w->id, k);
    if (w->acked[k]) wire_add(wire, "GET", key, (char *)NULL);
  }
  if (!wire_flush(wire)) give_up("GET could not be asked");
  for (unsigned k = from; k < to; k++) {
    if (!w->acked[k]) continue;
    if (wire_read(wire, &r) != WIRE_OK) give_up("GET was not answered");
    snprintf(value, sizeof value, "v%u", k);
    if ((r.kind != '$' || strcmp(r.text, value) != 0) && lost++ < 5)
      fprintf(stderr, "failover: w%d-%u was acknowledged and is lost\n", w->id, k);
  }
  return lost;
}

unsigned long load_lost(int at) {
  struct wire wire = WIRE_INIT;
  unsigned long lost = 0;
  if (!wire_open_to(&wire, node[at].host, node[at].resp_port, 60000)) give_up("node %d can't be reached", at + 1);
  for (int i = 0; i < WRITERS; i++)
    for (unsigned k = 0; k < writers[i].tried; k += BATCH)
      lost += lost_of(&writers[i], &wire, k, k + BATCH < writers[i].tried ? k + BATCH : writers[i].tried);
  wire_free(&wire);
  return lost;
}
