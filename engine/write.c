/* Writing: dw_put, dw_delete, dw_write, dw_write_async, dw_wait.
 *
 * A synchronous writer enqueues its request and then serves whatever role is free until its own request is
 * answered; it sleeps (request_wait.c) only when others hold the roles or when followers must answer. Time-outs:
 *   still queued at the deadline -> withdrawn, DW_TIMEOUT with LSN 0: certainly not done;
 *   logged                       -> DW_TIMEOUT with its LSN: in doubt, still pending, dw_wait asks again.
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/batch.h"
#include "engine/internal.h"
#include "wal/base/status.h"

/* Resolves defaults. */
static int need_from_options(const dw_engine *e, const dw_write_options *wo, struct block_need *need,
                             uint64_t *timeout_ns) {
  static const dw_write_options defaults;
  if (!wo) wo = &defaults;
  if ((unsigned)wo->mode > DW_SYNC) return dw_fail(DW_INVALID, "write option mode is %d", (int)wo->mode);
  if ((unsigned)wo->ack > DW_ACK_APPLIED) return dw_fail(DW_INVALID, "write option ack is %d", (int)wo->ack);
  if ((unsigned)wo->durability > DW_DURABILITY_DISK)
    return dw_fail(DW_INVALID, "write option durability is %d", (int)wo->durability);
  if (wo->acks > DW_MAX_ACKS) return dw_fail(DW_INVALID, "write option acks is %u, at most %u", wo->acks, DW_MAX_ACKS);
  need->mode = (uint8_t)(wo->mode ? wo->mode : e->opt.mode);
  need->ack = (uint8_t)(wo->ack ? wo->ack : e->opt.ack);
  need->acks = (uint16_t)(wo->acks ? wo->acks : e->opt.acks);
  need->durability = (uint8_t)(wo->durability ? wo->durability : e->opt.durability);
  need->from_default = wo->mode == DW_MODE_DEFAULT && wo->ack == DW_ACK_DEFAULT && wo->acks == 0;
  if (need->mode == DW_ASYNC) need->acks = 0;
  *timeout_ns = (uint64_t)(wo->timeout_ms ? wo->timeout_ms : e->opt.ack_timeout_ms) * 1000000u;
  return DW_OK;
}

/* A semi-sync write is answered by degrading at its time-out, so its own patience ends a little later; it runs out only
 * behind a sync write that waits. */
#define SEMI_SYNC_GRACE_NS 500000000ull

uint64_t write_deadline(const struct write_request *r, uint64_t now) {
  return now + r->timeout_ns + (r->need.mode == DW_SEMI_SYNC ? SEMI_SYNC_GRACE_NS : 0);
}

static int refuse_follower(const dw_engine *e) {
  return dw_fail(DW_READ_ONLY, "this node is a follower%s%s: write at the primary", e->opt.primary ? " of " : "",
                 e->opt.primary ? e->opt.primary : "");
}

/* Reasons to refuse before anything is queued. mu held. */
static int refuse_now(dw_engine *e, const struct block_need *need) {
  if (e->stopping) return dw_fail(DW_CLOSED, "the engine is closing");
  if (e->failed_rc) return dw_fail(DW_CLOSED, "the engine stopped: %s", e->failed);
  if (e->fenced) return role_refuse_fenced(e, "nothing was done, this primary is fenced");
  if (!is_primary(e)) return refuse_follower(e);
  if (e->store_error_rc)
    return dw_fail(e->store_error_rc, "nothing was logged: the store refuses writes: %s", e->failed);
  if (need->mode == DW_SYNC && e->gate.marks.connected < need->acks)
    return dw_fail(DW_NOT_ENOUGH_FOLLOWERS, "sync mode asks for %u followers, %u connected: nothing was logged",
                   need->acks, e->gate.marks.connected);
  return DW_OK;
}

static void timed_wait(pthread_cond_t *cond, pthread_mutex_t *mu, uint64_t deadline_ns) {
  if (deadline_ns == UINT64_MAX) {
    pthread_cond_wait(cond, mu);
    return;
  }
  struct timespec ts = {(time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u)};
  pthread_cond_clockwait(cond, mu, CLOCK_MONOTONIC, &ts);
}

/* The deadline of r has passed. True: it was answered DW_TIMEOUT here. mu held. */
static bool time_out(dw_engine *e, struct write_request *r, struct request_list *done) {
  int rc;
  if (r->state == REQUEST_QUEUED) {
    request_list_remove(&e->queue, r);
    pthread_cond_broadcast(&e->space_cond);
    rc = dw_fail(DW_TIMEOUT, "withdrawn from the queue, nothing was logged: the log did not get to it in time");
  } else if (r->state == REQUEST_LOGGED) {
    if (!request_list_remove(&e->pending, r)) request_list_remove(&e->lingering, r);
    rc = dw_fail(DW_TIMEOUT, "in doubt: logged under LSN %llu, commit_lsn is %llu, %u followers connected",
                 (unsigned long long)r->lsn, (unsigned long long)e->gate.commit, e->gate.marks.connected);
  } else {
    return false; /* being logged just now: its leader will say */
  }
  pipeline_finish(e, r, rc, done);
  return true;
}

/* Answers asynchronous requests whose time has come. mu held; for the tick. */
void write_time_outs(dw_engine *e, uint64_t now, struct request_list *done) {
  struct request_list *lists[] = {&e->queue, &e->pending, &e->lingering};
  for (size_t i = 0; i < 3; i++) {
    for (struct write_request *r = lists[i]->head, *next; r; r = next) {
      next = r->next;
      if (r->fn && r->deadline_ns <= now) time_out(e, r, done);
    }
  }
}

/* A step of whatever role is free. False: there is nothing to do for this writer. mu held. */
static bool serve_step(dw_engine *e, struct write_request *r, struct request_list *done) {
  if (r->state == REQUEST_QUEUED && pipeline_can_log(e)) {
    log_step(e, done);
    if (pipeline_can_log(e)) pipeline_kick(e); /* the next group's leader starts while we apply */
  } else if (r->state == REQUEST_LOGGED && pipeline_can_apply(e)) {
    apply_step(e, done);
  } else {
    return false;
  }
  return true;
}

#define TAKEN_POLL_NS 20000000u

/* Nothing to do for this writer: times it out, or says how long it may sleep; 0: it should look again. mu held. */
static uint64_t sleep_deadline(dw_engine *e, struct write_request *r, struct request_list *done) {
  uint64_t now = mono_ns(e);
  if (r->state == REQUEST_QUEUED && e->hold.target) {
    if (now >= e->hold.until_ns) {
      hold_end(&e->hold, e->queue.count, now);
      return 0;
    }
    if ((!e->hold_timer || e->hold_timer == r) && e->hold.until_ns < r->deadline_ns) {
      e->hold_timer = r;
      return e->hold.until_ns;
    }
  }
  if (r->deadline_ns > now) return r->deadline_ns;
  if (time_out(e, r, done)) return UINT64_MAX;
  return now + TAKEN_POLL_NS; /* being logged just now: then it is in doubt, not withdrawn */
}

/* Waits for neither disk nor peer: for other writers' microseconds only. */
static bool answered_soon(const struct write_request *r) {
  return r->need.mode == DW_ASYNC && r->need.durability == DW_DURABILITY_OS;
}

/* Queued: lets those come who have been answered with this writer the last time. mu held; dropped and retaken. */
static void gather(dw_engine *e, const struct write_request *r) {
  for (int i = 0; i < GATHER_YIELDS; i++) {
    if (r->state != REQUEST_QUEUED || !gathering_lacks(&e->gathering, e->queue.count + e->pending.count)) return;
    pthread_mutex_unlock(&e->mu);
    sched_yield();
    pthread_mutex_lock(&e->mu);
  }
}

/* A writer's life between enqueueing and its answer. Called with mu held, returns without it: who is answered by
 * another thread need not take it again. Whatever was answered along the way is let go before the next sleep or step.
 */
static void serve(dw_engine *e, struct write_request *r) {
  bool soon = answered_soon(r);
  struct request_list done;
  request_list_init(&done);
  for (;;) {
    bool worked = serve_step(e, r, &done);
    if (worked && !done.head) continue;
    uint64_t deadline = UINT64_MAX;
    if (!worked && r->state != REQUEST_DONE && !(deadline = sleep_deadline(e, r, &done))) continue;
    if (r->state == REQUEST_DONE) pipeline_kick(e); /* the roles it leaves behind */
    pthread_mutex_unlock(&e->mu);
    pipeline_wake(&done);
    if (worked ? request_done(r) : request_wait(r, soon, deadline)) return;
    pthread_mutex_lock(&e->mu);
  }
}

static int write_body(dw_engine *e, const dw_write_options *wo, const struct buf *body, uint32_t ops, dw_lsn *lsn) {
  if (lsn) *lsn = 0;
  if (!is_primary(e)) return refuse_follower(e);
  struct write_request r = {.body = body->data, .body_bytes = (uint32_t)body->len, .ops = ops};
  int rc = need_from_options(e, wo, &r.need, &r.timeout_ns);
  if (rc) return rc;
  if (ops == 0) return DW_OK;
  r.deadline_ns = write_deadline(&r, mono_ns(e));

  pthread_mutex_lock(&e->mu);
  rc = refuse_now(e, &r.need);
  if (rc) {
    pthread_mutex_unlock(&e->mu);
    return rc;
  }
  r.bell = &e->bells[e->group % BELLS];
  r.bell_bit = 1u << (e->queue.count % 32);
  request_list_push(&e->queue, &r);
  if (r.need.durability != DW_DURABILITY_DISK) hold_cancel(&e->hold);
  if (answered_soon(&r)) gather(e, &r);
  serve(e, &r);
  rc = r.rc;
  if (rc && r.error[0]) dw_fail(rc, "%s", r.error);
  if (lsn) *lsn = request_lsn(&r);
  return rc;
}

int dw_put(dw_engine *e, const dw_write_options *wo, const void *key, size_t klen, const void *val, size_t vlen,
           dw_lsn *lsn) {
  if (lsn) *lsn = 0;
  uint8_t small[1024];
  struct buf body = {.data = small, .cap = sizeof small};
  bool on_stack = klen + vlen + 16 <= sizeof small;
  if (!on_stack) body = (struct buf){0};
  int rc = batch_add_put(&body, key, klen, val, vlen);
  if (rc == DW_OK) rc = write_body(e, wo, &body, 1, lsn);
  if (!on_stack) buf_free(&body);
  return rc;
}

int dw_delete(dw_engine *e, const dw_write_options *wo, const void *key, size_t klen, dw_lsn *lsn) {
  if (lsn) *lsn = 0;
  struct buf body = {0};
  int rc = batch_add_delete(&body, key, klen);
  if (rc == DW_OK) rc = write_body(e, wo, &body, 1, lsn);
  buf_free(&body);
  return rc;
}

int dw_write(dw_engine *e, const dw_write_options *wo, const dw_batch *b, dw_lsn *lsn) {
  return write_body(e, wo, &b->body, b->ops, lsn);
}

int dw_write_async(dw_engine *e, const dw_write_options *wo, const dw_batch *b, dw_commit_fn fn, void *arg) {
  if (!fn) return dw_fail(DW_INVALID, "dw_write_async without a callback: its answer would be lost");
  if (!is_primary(e)) return refuse_follower(e);
  struct block_need need;
  uint64_t timeout_ns;
  int rc = need_from_options(e, wo, &need, &timeout_ns);
  if (rc) return rc;
  if (b->ops == 0) {
    fn(arg, DW_OK, 0);
    return DW_OK;
  }
  struct write_request *r = malloc(sizeof *r + b->body.len);
  if (!r) return dw_fail_nomem(sizeof *r + b->body.len);
  *r = (struct write_request){.body = (uint8_t *)(r + 1),
                              .body_bytes = (uint32_t)b->body.len,
                              .ops = b->ops,
                              .need = need,
                              .timeout_ns = timeout_ns,
                              .fn = fn,
                              .arg = arg};
  memcpy(r + 1, b->body.data, b->body.len);

  pthread_mutex_lock(&e->mu);
  /* A callback never waits here: it runs in the thread that makes room, and each answer leaves room for one. */
  const bool may_wait = e->threads && !pipeline_in_callback();
  while (may_wait && !(rc = refuse_now(e, &need)) &&
         (e->queue.count >= QUEUE_MAX_COUNT || e->queue.bytes >= QUEUE_MAX_BYTES))
    pthread_cond_wait(&e->space_cond, &e->mu);
  if (!may_wait) rc = refuse_now(e, &need);
  if (rc == DW_OK) {
    r->deadline_ns = write_deadline(r, mono_ns(e));
    request_list_push(&e->queue, r);
    bool held = e->hold.target != 0;
    hold_cancel(&e->hold);
    if (held)
      pipeline_kick(e);
    else if (pipeline_can_log(e) && e->queue.head == r)
      pthread_cond_signal(&e->log_cond);
  }
  pthread_mutex_unlock(&e->mu);
  if (rc) free(r);
  return rc;
}

int dw_wait(dw_engine *e, dw_lsn lsn, const dw_write_options *wo) {
  struct block_need need;
  uint64_t timeout_ns;
  int rc = need_from_options(e, wo, &need, &timeout_ns);
  if (rc) return rc;
  if (lsn == 0) return dw_fail(DW_INVALID, "LSN 0 is no commit");
  uint64_t deadline = mono_ns(e) + timeout_ns;
  pthread_mutex_lock(&e->mu);
  const bool primary = is_primary(e);
  const uint64_t epoch = e->epoch;
  if (primary && lsn > e->gate.written)
    rc = dw_fail(DW_NOT_FOUND, "LSN %llu was never logged here, the log ends at %llu", (unsigned long long)lsn,
                 (unsigned long long)e->gate.written);
  while (rc == DW_OK) {
    if (primary && (!is_primary(e) || e->epoch != epoch)) { /* under this number others may write now */
      rc = dw_fail(DW_FENCED, "LSN %llu of epoch %llu is in doubt: this node is no primary of that epoch any more",
                   (unsigned long long)lsn, (unsigned long long)epoch);
    } else if (e->applied.lsn >= lsn && (!is_primary(e) || gate_acked(&e->gate, &need, lsn))) {
      break;
    } else if (e->fenced) {
      rc = role_refuse_fenced(e, "in doubt, this primary is fenced");
    } else if (e->failed_rc || e->stopping) {
      rc = dw_fail(DW_CLOSED, "LSN %llu is in doubt: %s", (unsigned long long)lsn,
                   e->failed_rc ? e->failed : "the engine is closing");
    } else if (mono_ns(e) >= deadline) {
      rc = dw_fail(DW_TIMEOUT, "LSN %llu is still in doubt: commit_lsn is %llu, applied %llu", (unsigned long long)lsn,
                   (unsigned long long)e->gate.commit, (unsigned long long)e->applied.lsn);
    } else {
      e->moved_waiters++;
      timed_wait(&e->moved_cond, &e->mu, deadline);
      e->moved_waiters--;
    }
  }
  pthread_mutex_unlock(&e->mu);
  return rc;
}
