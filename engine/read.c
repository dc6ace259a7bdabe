/* Reading: consistency first, then one get or one iterator on the store.
 *
 * A consistency level is a condition on what this node has applied; once it holds, what is read afterwards is at
 * least that fresh, because applying only goes forward:
 *   EVENTUAL  none
 *   BOUNDED   staleness (replication's probes; on a primary how long a commit has been unapplied) <= max_staleness_ms
 *   SESSION   applied >= min_lsn
 *   STRONG    applied >= the primary's commit_lsn, asked for after the read began
 *
 * Whether it holds already is seen without `mu`: what moves is published in atomics, each after what makes it true.
 * Only who has to wait takes the lock.
 *
 * A primary that was restarted does not know what of the tail that waits for followers had been committed before,
 * answered OK and read. Until that is decided, a read that must miss nothing waits for all of it, here and, through the
 * answers to probes, on followers.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/batch.h"
#include "engine/internal.h"
#include "wal/base/status.h"

struct dw_iter {
  struct store_ref *ref;
  struct store_iter *it;
};

/* What a read waits for. */
struct read_goal {
  dw_lsn lsn;            /* applied at least this */
  uint64_t staleness_ns; /* UINT64_MAX: any */
};

/* mu held. */
static uint64_t staleness_now(dw_engine *e, uint64_t now) {
  if (is_primary(e) && !engine_lease_holds(e)) return UINT64_MAX;
  if (is_primary(e)) {
    if (e->fenced || e->applied.lsn < e->recovered_lsn) return UINT64_MAX;
    return e->applied.lsn >= e->gate.commit ? 0 : now - e->behind_since_ns;
  }
  return follower_staleness(e, now);
}

static int stale(dw_engine *e, const struct read_goal *goal, uint64_t staleness) {
  if (e->fenced) {
    role_refuse_fenced(e, "this primary is fenced, fresher data is elsewhere");
    return dw_fail_prefix(DW_STALE, "stale");
  }
  if (goal->staleness_ns != UINT64_MAX) {
    if (staleness == UINT64_MAX)
      return dw_fail(DW_STALE, "staleness_ms=unknown bound_ms=%llu",
                     (unsigned long long)(goal->staleness_ns / 1000000u));
    return dw_fail(DW_STALE, "staleness_ms=%llu bound_ms=%llu", (unsigned long long)(staleness / 1000000u),
                   (unsigned long long)(goal->staleness_ns / 1000000u));
  }
  if (goal->lsn == UINT64_MAX) return dw_fail(DW_STALE, "this node has no lease as primary just now");
  return dw_fail(DW_STALE, "applied_lsn=%llu wanted_lsn=%llu", (unsigned long long)e->applied.lsn,
                 (unsigned long long)goal->lsn);
}

/* Waits until the goal holds or the deadline has passed. */
static dw_lsn strong_lsn(dw_engine *e);
static int wait_for(dw_engine *e, struct read_goal *goal, uint64_t deadline) {
  int rc = DW_OK;
  pthread_mutex_lock(&e->mu);
  for (;;) {
    uint64_t now = mono_ns(e);
    uint64_t staleness = goal->staleness_ns == UINT64_MAX ? 0 : staleness_now(e, now);
    if (goal->lsn == UINT64_MAX && is_primary(e)) goal->lsn = strong_lsn(e); /* the lease has come meanwhile */
    if (e->applied.lsn >= goal->lsn && staleness <= goal->staleness_ns) break;
    if (now >= deadline || e->stopping || e->fenced || !e->threads) { /* without threads nothing moves while we wait */
      rc = stale(e, goal, staleness);
      break;
    }
    struct timespec ts = {(time_t)(deadline / 1000000000u), (long)(deadline % 1000000000u)};
    e->moved_waiters++;
    pthread_cond_clockwait(&e->moved_cond, &e->mu, CLOCK_MONOTONIC, &ts);
    e->moved_waiters--;
  }
  pthread_mutex_unlock(&e->mu);
  return rc;
}

static bool applied_reaches(dw_engine *e, dw_lsn lsn) {
  return atomic_load_explicit(&e->applied_lsn, memory_order_acquire) >= lsn;
}

/* Primary: ever_committed without mu; UINT64_MAX where others commit now (fenced, no lease, or no primary any more,
 * which a reader that has seen us as primary finds here). Loaded before what is applied: so what comes of the
 * comparison was true when the first of the two was loaded. */
static dw_lsn strong_lsn(dw_engine *e) {
  dw_lsn commit = atomic_load_explicit(&e->commit_lsn, memory_order_acquire);
  dw_lsn recovered = atomic_load_explicit(&e->recovered_lsn, memory_order_acquire);
  if (!engine_lease_holds(e)) return UINT64_MAX;
  return commit > recovered ? commit : recovered;
}

bool engine_strong_now(dw_engine *e) {
  return applied_reaches(e, strong_lsn(e));
}

static int meet_consistency(dw_engine *e, const dw_read_options *ro) {
  if (!ro || ro->consistency == DW_EVENTUAL) return DW_OK;
  if (ro->consistency == DW_SESSION && applied_reaches(e, ro->min_lsn)) return DW_OK;
  uint64_t start = mono_ns(e), wait_ns = (uint64_t)ro->wait_ms * 1000000u;
  struct read_goal goal = {0, UINT64_MAX};
  switch (ro->consistency) {
  case DW_SESSION: goal.lsn = ro->min_lsn; break;
  case DW_BOUNDED:
    goal.staleness_ns = ro->max_staleness_ms > UINT64_MAX / 2000000u ? UINT64_MAX / 2 : ro->max_staleness_ms * 1000000u;
    if (is_primary(e) ? engine_strong_now(e) : follower_staleness(e, start) <= goal.staleness_ns) return DW_OK;
    break;
  case DW_STRONG:
    if (!ro->wait_ms) wait_ns = (uint64_t)e->opt.ack_timeout_ms * 1000000u;
    if (is_primary(e)) {
      goal.lsn = strong_lsn(e);
      if (applied_reaches(e, goal.lsn)) return DW_OK;
      break;
    }
    pthread_mutex_lock(&e->mu);
    const struct replication_ops *rops = e->rops;
    void *rctx = e->rctx;
    pthread_mutex_unlock(&e->mu);
    if (!rops) return dw_fail(DW_STALE, "no link to the primary to ask for its commit_lsn");
    int rc = rops->strong_point(rctx, (uint32_t)(wait_ns / 1000000u), &goal.lsn);
    if (rc) return rc;
    break;
  default: return dw_fail(DW_INVALID, "read option consistency is %d", (int)ro->consistency);
  }
  return wait_for(e, &goal, start + wait_ns);
}

int dw_get(dw_engine *e, const dw_read_options *ro, const void *key, size_t klen, dw_value *out) {
  uint8_t small[512], *internal = small;
  int rc = batch_check_key(key, klen);
  if (rc == DW_OK) rc = meet_consistency(e, ro);
  if (rc) return rc;
  if (klen + 1 > sizeof small && !(internal = malloc(klen + 1))) return dw_fail_nomem(klen + 1);
  internal[0] = NS_USER;
  memcpy(internal + 1, key, klen);

  char *val = NULL;
  size_t vlen = 0;
  unsigned ticket;
  struct store *store = store_enter(e, &ticket);
  rc = store->ops->get(store, internal, klen + 1, &val, &vlen);
  store_leave(e, ticket);
  if (internal != small) free(internal);
  if (rc) return rc;
  *out = (dw_value){.data = val, .size = vlen};
  void (*release)(char *) = e->sops->free_value;
  memcpy(&out->owner, &release, sizeof release); /* who frees it; the value outlives even the engine */
  return DW_OK;
}

void dw_value_release(dw_value *v) {
  if (!v || !v->owner) return;
  void (*release)(char *);
  memcpy(&release, &v->owner, sizeof release);
  release((char *)(uintptr_t)v->data);
  *v = (dw_value){0};
}

int dw_iter_create(dw_engine *e, const dw_read_options *ro, dw_iter **out) {
  int rc = meet_consistency(e, ro);
  if (rc) return rc;
  dw_iter *iter = malloc(sizeof *iter);
  if (!iter) return dw_fail_nomem(sizeof *iter);
  iter->ref = store_ref_get(e);
  rc = iter->ref->store->ops->iter_create(iter->ref->store, NS_USER, &iter->it);
  if (rc) {
    store_ref_put(iter->ref);
    free(iter);
    return rc;
  }
  *out = iter;
  return DW_OK;
}

void dw_iter_destroy(dw_iter *i) {
  if (!i) return;
  i->it->ops->iter_destroy(i->it);
  store_ref_put(i->ref);
  free(i);
}

void dw_iter_seek(dw_iter *i, const void *key, size_t klen) {
  i->it->ops->iter_seek(i->it, key, klen);
}
void dw_iter_seek_first(dw_iter *i) {
  i->it->ops->iter_first(i->it);
}
void dw_iter_seek_last(dw_iter *i) {
  i->it->ops->iter_last(i->it);
}
void dw_iter_next(dw_iter *i) {
  i->it->ops->iter_next(i->it);
}
void dw_iter_prev(dw_iter *i) {
  i->it->ops->iter_prev(i->it);
}
int dw_iter_valid(const dw_iter *i) {
  return i->it->ops->iter_valid(i->it);
}
const char *dw_iter_key(const dw_iter *i, size_t *n) {
  return i->it->ops->iter_key(i->it, n);
}
const char *dw_iter_value(const dw_iter *i, size_t *n) {
  return i->it->ops->iter_value(i->it, n);
}
int dw_iter_status(const dw_iter *i) {
  return i->it->ops->iter_status(i->it);
}
