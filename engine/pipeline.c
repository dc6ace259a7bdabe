/* The request lists and who gets woken: the part of the commit path between the roles.
 *
 *   queue --log_step--> pending --applied >= lsn--> answered
 *                                   \--needs applied acks--> lingering --marks--> answered
 *
 * `pending` is in LSN order because one leader at a time appends; so completing is popping from its head.
 * Writers that are answered are collected in `done` and woken once mu is released: waking many takes its time.
 * Asynchronous requests go to `answers`, from where one background thread at a time calls them back, without mu,
 * because callbacks are the embedder's code: so answers keep the order in which they were given, whoever gave them.
 */
#include "engine/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/status.h"

void request_list_init(struct request_list *l) {
  *l = (struct request_list){.tail = &l->head};
}

void request_list_push(struct request_list *l, struct write_request *r) {
  r->next = NULL;
  *l->tail = r;
  l->tail = &r->next;
  l->count++;
  l->bytes += r->body_bytes;
}

struct write_request *request_list_pop(struct request_list *l) {
  struct write_request *r = l->head;
  if (!r) return NULL;
  l->head = r->next;
  if (!l->head) l->tail = &l->head;
  l->count--;
  l->bytes -= r->body_bytes;
  return r;
}

bool request_list_remove(struct request_list *l, struct write_request *r) {
  for (struct write_request **p = &l->head; *p; p = &(*p)->next) {
    if (*p != r) continue;
    *p = r->next;
    if (!r->next) l->tail = p;
    l->count--;
    l->bytes -= r->body_bytes;
    return true;
  }
  return false;
}

/* The LSN that goes with an answer: with an error it means that the write may be in the log. */
dw_lsn request_lsn(const struct write_request *r) {
  switch (r->rc) {
  case DW_OK:
  case DW_TIMEOUT:
  case DW_IO:
  case DW_CLOSED:
  case DW_FENCED: return r->lsn;
  default: return 0;
  }
}

void pipeline_finish(dw_engine *e, struct write_request *r, int rc, struct request_list *done) {
  r->rc = rc;
  r->state = REQUEST_DONE;
  if (rc == DW_OK)
    e->commits++;
  else
    dw_error_copy(r->error, sizeof r->error);
  if (r->fn) {
    if (!e->answers.head) pthread_cond_signal(&e->apply_cond);
    request_list_push(&e->answers, r);
  } else {
    request_list_push(done, r);
  }
}

void pipeline_complete(dw_engine *e, struct request_list *done) {
  while (e->pending.head && e->pending.head->lsn <= e->applied.lsn) {
    struct write_request *r = request_list_pop(&e->pending);
    if (gate_acked(&e->gate, &r->need, r->lsn) || r->need.ack != DW_ACK_APPLIED)
      pipeline_finish(e, r, DW_OK, done);
    else
      request_list_push(&e->lingering, r);
  }
  for (struct write_request *r = e->lingering.head, *next; r; r = next) {
    next = r->next;
    if (!gate_acked(&e->gate, &r->need, r->lsn)) continue;
    request_list_remove(&e->lingering, r);
    pipeline_finish(e, r, DW_OK, done);
  }
}

void pipeline_fail_all(dw_engine *e, int rc, const char *why, struct request_list *done) {
  struct request_list *lists[] = {&e->pending, &e->lingering, &e->queue};
  struct write_request *r;
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
    while ((r = request_list_pop(lists[i]))) {
      /* The codes that mean "nothing was done" are not for what was logged, nor for what only shared its fate. */
      if (rc != DW_CLOSED && rc != DW_FENCED) rc = DW_IO;
      if (r->lsn)
        dw_fail(rc, "in doubt: logged under LSN %llu, then: %s", (unsigned long long)r->lsn, why);
      else
        dw_fail(rc, "not done: %s", why);
      pipeline_finish(e, r, rc, done);
    }
  }
}

void engine_stop(dw_engine *e, int rc, struct request_list *done) {
  char why[200];
  dw_error_copy(why, sizeof why);
  if (!e->failed_rc) {
    e->failed_rc = rc;
    snprintf(e->failed, sizeof e->failed, "%s", why);
    engine_log(e, DW_LOG_ERROR, "engine stopped, reopen it: %s", why);
  }
  pipeline_fail_all(e, rc, why, done);
  pipeline_moved(e);
  pthread_cond_broadcast(&e->space_cond);
}

void pipeline_moved(dw_engine *e) {
  if (e->moved_waiters) pthread_cond_broadcast(&e->moved_cond);
}

void pipeline_advance(dw_engine *e) {
  if (e->fenced) return; /* what is committed is decided elsewhere now */
  dw_lsn before = e->gate.commit;
  uint64_t commits = e->gate.degraded_commits, now = mono_ns(e);
  unsigned events = gate_advance(&e->gate, now);
  if (before <= e->applied.lsn) e->behind_since_ns = now;
  if (is_primary(e)) atomic_store_explicit(&e->commit_lsn, e->gate.commit, memory_order_release);
  if (events & GATE_DEGRADED)
    engine_log(e, DW_LOG_WARN,
               "degraded to async at LSN %llu: no acks within the time-out (%u followers connected); commits go on "
               "without acks and are counted",
               (unsigned long long)e->gate.commit, e->gate.marks.connected);
  if (events & GATE_RECOVERED && !e->gate.degraded_pairs)
    engine_log(e, DW_LOG_INFO, "semi-sync again at LSN %llu: followers have caught up, %llu commits went without acks",
               (unsigned long long)e->gate.commit, (unsigned long long)commits);
  if (e->gate.commit != before && e->rops) e->rops->commit_moved(e->rctx, before < e->awaited_applied_lsn);
}

void pipeline_await(dw_engine *e, const struct block_header *h) {
  if (h->need.mode == DW_ASYNC) return;
  e->awaited_lsn = block_last_lsn(h);
  if (h->need.ack == DW_ACK_APPLIED) e->awaited_applied_lsn = block_last_lsn(h);
}

bool pipeline_can_log(const dw_engine *e) {
  /* Blocks are counted as stored, the bodies of unanswered requests as they are: compressible ones are larger. */
  if (e->log_busy || !e->queue.head || e->failed_rc || e->paused_until_ns) return false;
  if (!hold_closed(&e->hold, e->queue.count)) return false;
  return e->unapplied_bytes < UNAPPLIED_MAX_BYTES && e->pending.bytes + e->lingering.bytes < UNAPPLIED_MAX_BYTES;
}

bool pipeline_can_apply(const dw_engine *e) {
  if (e->apply_busy || e->failed_rc || e->log_damaged || !e->wal || (e->store_error_rc && !e->store_retry))
    return false;
  return e->applied.lsn < e->gate.commit;
}

void pipeline_kick(dw_engine *e) {
  if (pipeline_can_log(e)) {
    if (e->queue.head->fn)
      pthread_cond_signal(&e->log_cond);
    else
      request_look(e->queue.head);
  }
  if (pipeline_can_apply(e)) {
    if (e->pending.head && !e->pending.head->fn)
      request_look(e->pending.head);
    else
      pthread_cond_signal(&e->apply_cond);
  }
}

void pipeline_wake(struct request_list *done) {
  requests_done(done);
}

static _Thread_local bool in_callback;

bool pipeline_in_callback(void) {
  return in_callback;
}

void pipeline_deliver(dw_engine *e) {
  if (e->delivering) return;
  e->delivering = true;
  while (e->answers.head) {
    struct write_request *r = e->answers.head, *next;
    request_list_init(&e->answers);
    pthread_mutex_unlock(&e->mu);
    for (; r; r = next) {
      next = r->next;
      if (r->rc != DW_OK) dw_fail(r->rc, "%s", r->error);
      in_callback = true;
      r->fn(r->arg, r->rc, request_lsn(r));
      in_callback = false;
      free(r);
    }
    pthread_mutex_lock(&e->mu);
  }
  e->delivering = false;
}
