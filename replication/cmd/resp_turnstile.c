/* The turnstile: commands that may write run one at a time, over all loops; keys that have a write in flight are
 * counted, and who must wait stands in line.
 *
 * Inside (CMD_TURNSTILE) a command looks, decides and hands its commit to the engine as one step. What it has to wait
 * for, outside, is one of
 *   BLOCK_KEYS: that no write of its keys is in flight (wants_alone), and that nobody before it in the line wants them;
 *   BLOCK_ROOM: fewer writes in flight.
 *
 * The line is in order of arrival, over all loops. Who waits for keys has marked their slots as wanted, and newcomers
 * keep away from those. When something has moved, whoever leaves the turnstile takes back all marks and goes down the
 * line, marking anew: so each one is judged by the marks of exactly those that stand before it. Whose turn it is gets
 * called, which is for its own loop to answer; until its command runs it stays in the line with its marks. So nobody
 * that comes later and wants one of its slots gets in between, and it need not look at marks again. The first in the
 * line sees none and needs only that writes in flight end: everybody gets there.
 */
#include <stdlib.h>

#include "replication/cmd/resp_internal.h"
#include "wal/base/hash.h"

uint32_t turnstile_slot(const uint8_t *key, size_t n) {
  return (uint32_t)(hash64(key, n) % KEY_SLOTS);
}

static bool has_room(const struct turnstile *t, size_t bytes) {
  return !t->inflight || (t->inflight < SERVER_INFLIGHT_MAX && t->inflight_bytes + bytes <= SERVER_INFLIGHT_BYTES);
}

/* ---- the line ------------------------------------------------------------------------------------ */

static void mark(struct turnstile *t, const struct conn *c) {
  for (size_t i = 0; i < c->want_count; i++) t->key_wanted[c->wants[i]]++;
}

static void unmark(struct turnstile *t, const struct conn *c) {
  for (size_t i = 0; i < c->want_count; i++) t->key_wanted[c->wants[i]]--;
}

static void stand_in_line(struct conn *c, enum block b) {
  struct turnstile *t = &c->s->turnstile;
  set_block(c, b);
  c->line_prev = t->line.tail;
  c->line_next = NULL;
  *(t->line.tail ? &t->line.tail->line_next : &t->line.head) = c;
  t->line.tail = c;
  c->in_line = true;
  c->wants_room = b == BLOCK_ROOM;
  t->room_waiters += c->wants_room;
  mark(t, c);
}

static void not_called(struct conn *c) {
  if (!c->called) return;
  struct conn **at = &c->l->called;
  while (*at != c) at = &(*at)->called_next;
  *at = c->called_next;
  c->called = false;
}

static void leave_line(struct conn *c) {
  struct turnstile *t = &c->s->turnstile;
  not_called(c);
  unmark(t, c);
  for (size_t i = 0; i < c->want_count; i++) t->look_again |= t->key_wanted[c->wants[i]] > 0;
  *(c->line_prev ? &c->line_prev->line_next : &t->line.head) = c->line_next;
  *(c->line_next ? &c->line_next->line_prev : &t->line.tail) = c->line_prev;
  t->room_waiters -= c->wants_room;
  c->want_count = 0;
  c->in_line = c->may_go = false;
}

static bool is_turn(const struct turnstile *t, const struct conn *c) {
  if (c->wants_room) return has_room(t, c->wants_bytes);
  for (size_t i = 0; i < c->want_count; i++)
    if (t->key_wanted[c->wants[i]] || (c->wants_alone && t->key_inflight[c->wants[i]])) return false;
  return true;
}

static void call(struct conn *c) {
  struct resp_loop *l = c->l;
  c->may_go = c->called = true;
  c->called_next = l->called;
  l->called = c;
  atomic_store(&l->any_called, true);
  uv_async_send(&l->wake); /* before turnstile.mu is let go: as long as c stands here the loop does not end */
}

static void go_down_the_line(struct turnstile *t) {
  t->look_again = false;
  for (struct conn *c = t->line.head; c; c = c->line_next) unmark(t, c);
  for (struct conn *c = t->line.head; c; c = c->line_next) {
    bool call_it = !c->may_go && is_turn(t, c);
    mark(t, c);
    if (call_it) call(c);
  }
}

/* ---- in and out ---------------------------------------------------------------------------------- */

/* Adaptive: what is done inside takes a microsecond or so. */
void turnstile_init(struct turnstile *t) {
  pthread_mutexattr_t kind;
  pthread_mutexattr_init(&kind);
  pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ADAPTIVE_NP);
  pthread_mutex_init(&t->mu, &kind);
  pthread_mutexattr_destroy(&kind);
}

void turnstile_enter(struct resp_loop *l) {
  pthread_mutex_lock(&l->s->turnstile.mu);
  l->in_turnstile = true;
}

void turnstile_leave(struct resp_loop *l) {
  struct turnstile *t = &l->s->turnstile;
  if (t->look_again) go_down_the_line(t);
  l->in_turnstile = false;
  pthread_mutex_unlock(&t->mu);
}

void turnstile_forget(struct conn *c) {
  bool inside = c->l->in_turnstile;
  if (!inside) turnstile_enter(c->l);
  leave_line(c);
  if (!inside) turnstile_leave(c->l);
}

void turnstile_answer(struct resp_loop *l) {
  if (!atomic_exchange(&l->any_called, false)) return;
  struct conn *in_order = NULL;
  turnstile_enter(l);
  for (struct conn *c; (c = l->called);) {
    l->called = c->called_next;
    c->called = false;
    c->called_next = in_order;
    in_order = c;
    if (c->wants_room) leave_line(c); /* no promise: it tries again */
  }
  turnstile_leave(l);
  for (struct conn *c = in_order, *next; c; c = next) {
    next = c->called_next;
    conn_resume(c);
  }
}

/* ---- inside -------------------------------------------------------------------------------------- */

bool keys_free(struct conn *c, const struct cmd *cmd, size_t first, size_t step, size_t count, bool alone) {
  struct turnstile *t = &c->s->turnstile;
  bool busy = false;
  for (size_t i = 0; i < count && !busy; i++) {
    uint32_t slot = turnstile_slot(cmd->argv[first + i * step], cmd->argl[first + i * step]);
    busy = (!c->may_go && t->key_wanted[slot]) || (alone && t->key_inflight[slot]);
  }
  if (!busy) {
    if (c->in_line) leave_line(c);
    return true;
  }
  c->wants_alone = alone;
  c->may_go = false;
  if (c->in_line) { /* as where it stands now */
    set_block(c, BLOCK_KEYS);
    return false;
  }
  free(c->wants);
  c->wants = malloc(count * sizeof *c->wants);
  for (size_t i = 0; c->wants && i < count; i++) /* no memory: waits without a mark, with less right */
    c->wants[c->want_count++] = turnstile_slot(cmd->argv[first + i * step], cmd->argl[first + i * step]);
  stand_in_line(c, BLOCK_KEYS);
  return false;
}

bool turnstile_room(struct conn *c, size_t bytes) {
  if (has_room(&c->s->turnstile, bytes)) return true;
  c->wants_bytes = bytes;
  stand_in_line(c, BLOCK_ROOM);
  return false;
}

void turnstile_begins(struct turnstile *t, const struct pending_write *p) {
  t->inflight++;
  t->inflight_bytes += p->bytes;
  for (size_t i = 0; i < p->key_count; i++) t->key_inflight[p->key_slots[i]]++;
}

void turnstile_ends(struct turnstile *t, const struct pending_write *p) {
  t->inflight--;
  t->inflight_bytes -= p->bytes;
  t->look_again |= t->room_waiters > 0;
  for (size_t i = 0; i < p->key_count; i++) {
    t->key_inflight[p->key_slots[i]]--;
    t->look_again |= t->key_wanted[p->key_slots[i]] > 0;
  }
}
