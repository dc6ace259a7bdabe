/* Writes in flight: a connection's queue of answers, and the way of a commit to the engine and back.
 *
 *   write_start -> dw_write_async -> (engine thread) on_commit -> stack of completions -> uv_async -> writes_completed
 *
 * A completion counts its keys down at once, marks its queue entry as done, and the connection says what its queue's
 * head has to say, as far as it is done.
 */
#include <stdlib.h>

#include "engine/engine.h"
#include "replication/cmd/resp_internal.h"
#include "wal/base/status.h"

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
  struct resp_loop *l = p->c->l;
  atomic_fetch_add(&l->in_callback, 1);
  p->rc = rc;
  p->lsn = lsn;
  if (rc) p->error = strdup(dw_last_error());
  struct pending_write *top = atomic_load_explicit(&l->done, memory_order_relaxed);
  do {
    p->done_next = top;
  } while (!atomic_compare_exchange_weak_explicit(&l->done, &top, p, memory_order_release, memory_order_relaxed));
  if (!top) uv_async_send(&l->wake); /* whoever finds it empty wakes the loop for all that follow */
  atomic_fetch_sub(&l->in_callback, 1);
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
    p->key_slots[p->key_count++] = turnstile_slot(cmd->argv[first + i * step], cmd->argl[first + i * step]);
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
  if (!turnstile_room(c, bytes)) return false;
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
  count_up(&c->l->counts.writes);
  enqueue(c, p);
  c->l->inflight++;
  turnstile_begins(&s->turnstile, p);
  return true;
}

static struct pending_write *take_done(struct resp_loop *l) {
  struct pending_write *stack = atomic_exchange_explicit(&l->done, NULL, memory_order_acquire), *in_order = NULL;
  while (stack) {
    struct pending_write *next = stack->done_next;
    stack->done_next = in_order;
    in_order = stack;
    stack = next;
  }
  return in_order;
}

void writes_completed(struct resp_loop *l) {
  struct pending_write *first = take_done(l);
  if (!first) return;
  turnstile_enter(l);
  for (const struct pending_write *p = first; p; p = p->done_next) turnstile_ends(&l->s->turnstile, p);
  turnstile_leave(l);
  for (struct pending_write *p = first, *next; p; p = next) {
    next = p->done_next; /* drain() frees it */
    l->inflight--;
    p->done = true;
    if (p->c->queue_head == p) drain(p->c);
  }
}

/* ---- the batch ----------------------------------------------------------------------------------- */

dw_batch *batch_take(struct resp_loop *l) {
  if (!l->batch)
    l->batch = dw_batch_create();
  else
    dw_batch_clear(l->batch);
  return l->batch;
}

/* A large one is given back: its memory would stay for good. */
void batch_done(struct resp_loop *l) {
  dw_batch_destroy(l->batch);
  l->batch = NULL;
}
