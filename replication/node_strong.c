/* Strong reads on a follower: "what had the primary committed when I began?"
 *
 *   reader            loop                     primary
 *   strong_point -->  (waits here)
 *                     strong_pump: PROBE id --->
 *                     <--- PROBE_ANSWER id, commit_lsn
 *   <-- commit_lsn    strong_answered
 *
 * A reader may use only a probe that was sent after it arrived. So readers queue without one; strong_pump gives all
 * that wait without one the same fresh probe: any number of readers cost one probe per round trip. When the link breaks
 * the probes under way are void and their readers queue again; only time ends the waiting.
 */
#include <errno.h>
#include <time.h>

#include "replication/node.h"
#include "wal/base/status.h"

/* On the reader's stack. All fields under strong_mu. */
struct strong_wait {
  struct strong_wait *next;
  uint64_t probe; /* 0: none yet */
  bool done;
  dw_lsn lsn;
  pthread_cond_t cond;
};

static void unlink_wait(struct node *n, struct strong_wait *w) {
  for (struct strong_wait **p = &n->strong; *p; p = &(*p)->next) {
    if (*p != w) continue;
    *p = w->next;
    return;
  }
}

int strong_point(void *ctx, uint32_t wait_ms, dw_lsn *lsn) {
  struct node *n = ctx;
  if (!n->follow) return dw_fail(DW_STALE, "this follower has no primary to ask for its commit_lsn");
  struct strong_wait w = {.probe = 0};
  uint64_t until = node_now(n) + wait_ms * 1000000ull;
  struct timespec ts = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
  pthread_cond_init(&w.cond, NULL);
  pthread_mutex_lock(&n->strong_mu);
  w.next = n->strong;
  n->strong = &w;
  pthread_mutex_unlock(&n->strong_mu);
  if (atomic_fetch_or(&n->wake, WAKE_STRONG) == 0) transport_wake(n->t);

  pthread_mutex_lock(&n->strong_mu);
  int err = 0;
  while (!w.done && !n->strong_stopped && err != ETIMEDOUT)
    err = pthread_cond_clockwait(&w.cond, &n->strong_mu, CLOCK_MONOTONIC, &ts);
  unlink_wait(n, &w);
  pthread_mutex_unlock(&n->strong_mu);
  pthread_cond_destroy(&w.cond);
  if (!w.done) return dw_fail(DW_STALE, "the primary did not tell its commit_lsn within %u ms", wait_ms);
  *lsn = w.lsn;
  return DW_OK;
}

void strong_stop(void *ctx) {
  struct node *n = ctx;
  pthread_mutex_lock(&n->strong_mu);
  n->strong_stopped = true;
  for (struct strong_wait *w = n->strong; w; w = w->next) pthread_cond_signal(&w->cond);
  pthread_mutex_unlock(&n->strong_mu);
}

void strong_pump(struct node *n) {
  pthread_mutex_lock(&n->strong_mu);
  bool wanted = false;
  for (struct strong_wait *w = n->strong; w && !wanted; w = w->next) wanted = w->probe == 0 && !w->done;
  uint64_t probe = wanted ? follow_probe(n) : 0; /* 0: the next tick tries again */
  for (struct strong_wait *w = n->strong; probe && w; w = w->next)
    if (w->probe == 0) w->probe = probe;
  pthread_mutex_unlock(&n->strong_mu);
}

void strong_answered(struct node *n, uint64_t probe, dw_lsn commit_lsn) {
  pthread_mutex_lock(&n->strong_mu);
  for (struct strong_wait *w = n->strong; w; w = w->next) {
    if (w->probe == 0 || w->probe > probe || w->done) continue; /* a later probe's answer serves an earlier one too */
    w->lsn = commit_lsn;
    w->done = true;
    pthread_cond_signal(&w->cond);
  }
  pthread_mutex_unlock(&n->strong_mu);
}

void strong_lost(struct node *n) {
  pthread_mutex_lock(&n->strong_mu);
  for (struct strong_wait *w = n->strong; w; w = w->next)
    if (!w->done) w->probe = 0;
  pthread_mutex_unlock(&n->strong_mu);
}
