/* Writes in flight: the connection's queue of answers, the server's count of keys, and those who wait.
 *
 *   write_start -> dw_write_async -> (engine thread) on_commit -> stack of completions -> uv_async -> writes_completed
 *
 * A completion counts its keys down at once, marks its queue entry as done, and the connection says what its queue's
 * head has to say, as far as it is done.
 *
 * Waiting (BLOCK_KEYS, BLOCK_ROOM): connections stand in one line, in order of arrival, and have marked the slots of
 * their keys as wanted. When something that they wait for has moved, all marks are taken back and everybody tries again
 * in order, marking anew if in vain. So each one sees the marks of exactly those that stand before it, the first sees
 * none and needs only that writes in flight end: everybody gets there.
 */
#include <stdlib.h>

#include "engine/engine.h"
#include "replication/cmd/resp_internal.h"
#include "wal/base/hash.h"
#include "wal/base/status.h"

static uint32_t key_slot(const uint8_t *key, size_t n) {
  return (uint32_t)(hash64(key, n) % KEY_SLOTS);
}

/* ---- the line of those who wait ------------------------------------------------------------------ */

static void stand_in_line(struct conn *c, enum block b) {
  struct resp_server *s = c->s;
  set_block(c, b);
  c->wait_prev = s->waiting.tail;
  c->wait_next = NULL;
  *(s->waiting.tail ? &s->waiting.tail->wait_next : &s->waiting.head) = c;
  s->waiting.tail = c;
  s->waiting_count++;
  s->room_waiters += b == BLOCK_ROOM;
}

static void forget_wants(struct conn *c) {
  for (size_t i = 0; i < c->want_count; i++) c->s->key_wanted[c->wants[i]]--;
  c->want_count = 0;
}

void stop_waiting(struct conn *c) {
  struct resp_server *s = c->s;
  forget_wants(c);
  if (c->block != BLOCK_KEYS && c->block != BLOCK_ROOM) return;
  *(c->wait_prev ? &c->wait_prev->wait_next : &s->waiting.head) = c->wait_next;
  *(c->wait_next ? &c->wait_next->wait_prev : &s->waiting.tail) = c->wait_prev;
  c->wait_prev = c->wait_next = NULL;
  s->waiting_count--;
  s->room_waiters -= c->block == BLOCK_ROOM;
}

static void try_again(struct resp_server *s) {
  s->look_again = false;
  for (struct conn *c = s->waiting.head; c; c = c->wait_next) forget_wants(c);
  for (unsigned n = s->waiting_count; n && s->waiting.head; n--) conn_resume(s->waiting.head);
}

bool keys_free(struct conn *c, const struct cmd *cmd, size_t first, size_t step, size_t count, bool exclusive) {
  struct resp_server *s = c->s;
  bool busy = false;
  for (size_t i = 0; i < count && !busy; i++) {
    uint32_t slot = key_slot(cmd->argv[first + i * step], cmd->argl[first + i * step]);
    busy = s->key_wanted[slot] || (exclusive && s->key_inflight[slot]);
  }
  if (!busy) return true;
  free(c->wants);
  c->wants = malloc(count * sizeof *c->wants);
  for (size_t i = 0; c->wants && i < count; i++) { /* no memory: waits without a mark, with less right */
    uint32_t slot = key_slot(cmd->argv[first + i * step], cmd->argl[first + i * step]);
    c->wants[c->want_count++] = slot;
    s->key_wanted[slot]++;
  }
  stand_in_line(c, BLOCK_KEYS);
  return false;
}

/* ---- the queue ----------------------------------------------------------------------------------- */

static void pending_free(struct pending_write *p) {
  buf_free(&p->reply);
  if (p->key_slots != &p->one_slot) free(p->key_slots);
  free(p->error);
  free(p);
}

static void enqueue(struct conn *c, struct pending_write *p) {
  *c->queue_tail = p;
  c->queue_tail = &p->next;
  c->refs++;
  c->inflight++;
  c->queue_bytes += p->reply.len;
}

void queue_reply(struct conn *c, struct buf *reply) {
  struct pending_write *p = calloc(1, sizeof *p);
  if (!p) {
    buf_free(reply);
    conn_drop(c);
    return;
  }
  p->c = c;
  p->done = true;
  p->reply = *reply;
  *reply = (struct buf){0};
  enqueue(c, p);
}

static void say(struct conn *c, struct pending_write *p) {
  if (p->rc) {
    if (p->rc == DW_TIMEOUT && p->lsn) c->last_lsn = p->lsn;
    reply_rc(c, &c->out, p->rc, p->lsn, p->error ? p->error : "");
    return;
  }
  if (p->lsn) c->last_lsn = p->lsn;
  int rc = p->reply.len ? buf_append(&c->out, p->reply.data, p->reply.len) : buf_append(&c->out, "+OK\r\n", 5);
  if (rc) conn_drop(c);
}

/* The queue's head speaks, as far as it is done. */
static void drain(struct conn *c) {
  c->refs++; /* the last entry of a connection that is gone would take it along */
  for (struct pending_write *p; (p = c->queue_head) && p->done;) {
    c->queue_head = p->next;
    if (!p->next) c->queue_tail = &c->queue_head;
    c->inflight--;
    c->queue_bytes -= p->reply.len;
    if (!c->closing) say(c, p);
    pending_free(p);
    conn_unref(c);
  }
  conn_dirty(c);
  if (!c->closing && c->block == BLOCK_WRITES && !c->inflight) conn_resume(c);
  conn_unref(c);
}

/* ---- from the engine and back -------------------------------------------------------------------- */

/* An engine thread: hands the answer to the loop, one wake-up per burst. */
static void on_commit(void *arg, int rc, dw_lsn lsn) {
  struct pending_write *p = arg;
  struct resp_server *s = p->c->s;
  atomic_fetch_add(&s->in_callback, 1);
  p->rc = rc;
  p->lsn = lsn;
  if (rc) p->error = strdup(dw_last_error());
  struct pending_write *top = atomic_load_explicit(&s->done, memory_order_relaxed);
  do {
    p->done_next = top;
  } while (!atomic_compare_exchange_weak_explicit(&s->done, &top, p, memory_order_release, memory_order_relaxed));
  if (!top) uv_async_send(&s->wake); /* whoever finds it empty wakes the loop for all that follow */
  atomic_fetch_sub(&s->in_callback, 1);
}

/* What one needs to know of the write; NULL: no memory. */
static struct pending_write *pending_create(struct buf *reply, const struct cmd *cmd, size_t first, size_t step,
                                            size_t count) {
  struct pending_write *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  p->key_slots = count <= 1 ? &p->one_slot : malloc(count * sizeof *p->key_slots);
  if (!p->key_slots) {
    free(p);
    return NULL;
  }
  for (size_t i = 0; i < count; i++)
    p->key_slots[p->key_count++] = key_slot(cmd->argv[first + i * step], cmd->argl[first + i * step]);
  if (reply) {
    p->reply = *reply;
    *reply = (struct buf){0};
  }
  return p;
}

/* May a write with these options go through while only those are taken that followers confirm? */
static bool confirmed(const struct conn *c, uint32_t acks) {
  const dw_options *o = engine_options(c->s->e);
  const dw_write_options *w = &c->write;
  dw_mode mode = w->mode == DW_MODE_DEFAULT ? o->mode : w->mode;
  dw_ack ack = w->ack == DW_ACK_DEFAULT ? o->ack : w->ack;
  return mode == DW_SYNC && ack != DW_ACK_RECEIVED && (w->acks ? w->acks : o->acks) >= acks;
}

bool write_start(struct conn *c, const dw_batch *batch, struct buf *reply, const struct cmd *cmd, size_t first,
                 size_t step, size_t count) {
  struct resp_server *s = c->s;
  size_t bytes = c->multi ? c->multi_bytes.len : 0;
  for (size_t i = 0; i < cmd->argc; i++) bytes += cmd->argl[i];
  if (s->inflight >= SERVER_INFLIGHT_MAX || (s->inflight && s->inflight_bytes + bytes > SERVER_INFLIGHT_BYTES)) {
    stand_in_line(c, BLOCK_ROOM);
    return false;
  }
  uint32_t acks = atomic_load(&s->restrict_acks);
  if (acks && !confirmed(c, acks)) {
    conn_error(
        c, "NOREPLICAS the coordinator is out of reach: only sync writes with %u acks are taken; certainly not done",
        acks);
    return true;
  }
  struct pending_write *p = pending_create(reply, cmd, first, step, count);
  if (!p) {
    conn_error(c, "OOM no memory for the write");
    return true;
  }
  p->c = c;
  p->bytes = bytes;
  int rc = dw_write_async(s->e, &c->write, batch, on_commit, p);
  if (rc) { /* refused at once: certainly not done. The dispatcher queues this behind what is in flight */
    reply_rc(c, &c->out, rc, 0, dw_last_error());
    pending_free(p);
    return true;
  }
  count_up(&s->m_writes);
  enqueue(c, p);
  s->inflight++;
  s->inflight_bytes += bytes;
  for (size_t i = 0; i < p->key_count; i++) s->key_inflight[p->key_slots[i]]++;
  return true;
}

static void complete(struct resp_server *s, struct pending_write *p) {
  p->done = true;
  s->inflight--;
  s->inflight_bytes -= p->bytes;
  for (size_t i = 0; i < p->key_count; i++) {
    s->key_inflight[p->key_slots[i]]--;
    s->look_again |= s->key_wanted[p->key_slots[i]] > 0;
  }
  if (p->c->queue_head == p) drain(p->c);
}

void writes_completed(struct resp_server *s) {
  struct pending_write *stack = atomic_exchange_explicit(&s->done, NULL, memory_order_acquire), *in_order = NULL;
  while (stack) {
    struct pending_write *next = stack->done_next;
    stack->done_next = in_order;
    in_order = stack;
    stack = next;
  }
  bool any = in_order != NULL;
  while (in_order) {
    struct pending_write *next = in_order->done_next; /* complete() frees it */
    complete(s, in_order);
    in_order = next;
  }
  if (s->look_again || (any && s->room_waiters)) try_again(s);
}

void queue_free(struct conn *c) {
  free(c->wants);
}

/* ---- the batch ----------------------------------------------------------------------------------- */

dw_batch *batch_take(struct resp_server *s) {
  if (!s->batch)
    s->batch = dw_batch_create();
  else
    dw_batch_clear(s->batch);
  return s->batch;
}

/* A large one is given back: its memory would stay for good. */
void batch_done(struct resp_server *s) {
  dw_batch_destroy(s->batch);
  s->batch = NULL;
}
