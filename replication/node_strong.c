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
 *
 * strong_point waits; strong_begin, strong_poll and strong_end are its parts for those who must not block.
 */
#include <errno.h>
#include <time.h>

#include "replication/node.h"
#include "wal/base/status.h"

static void unlink_wait(struct node *n, struct strong_wait *w) {
  for (struct strong_wait **p = &n->strong; *p; p = &(*p)->next) {
    if (*p != w) continue;
    *p = w->next;
    return;
  }
}

int strong_begin(struct node *n, struct strong_wait *w) {
  if (!atomic_load(&n->following)) return dw_fail(DW_STALE, "this follower has no primary to ask for its commit_lsn");
  *w = (struct strong_wait){.probe = 0};
  pthread_cond_init(&w->cond, NULL);
  pthread_mutex_lock(&n->strong_mu);
  w->next = n->strong;
  n->strong = w;
  pthread_mutex_unlock(&n->strong_mu);
  node_wake(n, WAKE_STRONG);
  return DW_OK;
}

bool strong_poll(struct node *n, const struct strong_wait *w, dw_lsn *lsn) {
  pthread_mutex_lock(&n->strong_mu);
  bool done = w->done;
  if (done) *lsn = w->lsn;
  pthread_mutex_unlock(&n->strong_mu);
  return done;
}

void strong_end(struct node *n, struct strong_wait *w) {
  pthread_mutex_lock(&n->strong_mu);
  unlink_wait(n, w);
  pthread_mutex_unlock(&n->strong_mu);
  pthread_cond_destroy(&w->cond);
}

int strong_point(void *ctx, uint32_t wait_ms, dw_lsn *lsn) {
  struct node *n = ctx;
  struct strong_wait w;
  uint64_t until = node_now(n) + wait_ms * 1000000ull;
  struct timespec ts = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
  int rc = strong_begin(n, &w), err = 0;
  if (rc) return rc;
  pthread_mutex_lock(&n->strong_mu);
  while (!w.done && !n->strong_stopped && err != ETIMEDOUT)
    err = pthread_cond_clockwait(&w.cond, &n->strong_mu, CLOCK_MONOTONIC, &ts);
  pthread_mutex_unlock(&n->strong_mu);
  bool done = strong_poll(n, &w, lsn);
  strong_end(n, &w);
  return done ? DW_OK : dw_fail(DW_STALE, "the primary did not tell its commit_lsn within %u ms", wait_ms);
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
