/* What no writer does in its own thread.
 *
 *   log     logs groups whose first request is asynchronous
 *   apply   applies when no synchronous writer is there to do it: always on a follower; stands aside there for a thread
 *           that gives way to others while a backlog is applied (far_behind.h)
 *   tick    time-outs of asynchronous requests, semi-sync deadlines, samples for lag
 *   maint   background sync of OS-durable writes, next segments, trimming, the store's health
 *   scrub   checks old segments, repairs damaged ones (scrub_run.c)
 *
 * Without threads (engine_config.threads = false) engine_step does one piece of any of it, in the caller's thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "engine/internal.h"
#include "wal/base/status.h"

#define TICK_BUSY_NS 20000000u
#define TICK_IDLE_NS 100000000u
#define MAINT_NS 50000000u
#define STORE_POLL_NS 250000000u
#define LAG_SAMPLE_NS 100000000u
#define BACKLOG_NICE 10 /* a tenth of the processor beside a thread that does not give way, if it wants all of it */

static void wait_until(pthread_cond_t *cond, pthread_mutex_t *mu, uint64_t at_ns) {
  struct timespec ts = {(time_t)(at_ns / 1000000000u), (long)(at_ns % 1000000000u)};
  pthread_cond_clockwait(cond, mu, CLOCK_MONOTONIC, &ts);
}

/* Wakes the writers that were answered, outside mu. */
static void flush_done(dw_engine *e, struct request_list *done) {
  if (!done->head) return;
  pthread_mutex_unlock(&e->mu);
  pipeline_wake(done);
  pthread_mutex_lock(&e->mu);
}

static void *log_thread(void *arg) {
  dw_engine *e = arg;
  struct request_list done;
  request_list_init(&done);
  pthread_mutex_lock(&e->mu);
  while (!e->closing) {
    if (pipeline_can_log(e) && e->queue.head->fn) {
      log_step(e, &done);
      if (pipeline_can_apply(e) || pipeline_can_log(e)) pipeline_kick(e);
      flush_done(e, &done);
    } else {
      pthread_cond_wait(&e->log_cond, &e->mu);
    }
  }
  pthread_mutex_unlock(&e->mu);
  return NULL;
}

/* Not where a newer epoch is promised: who is promoted, or follows anew, is waited for. mu held. */
static bool gives_way(dw_engine *e) {
  if (is_primary(e) || e->node.promised_epoch > e->epoch) return false;
  uint64_t distance = e->known_commit > e->applied.lsn ? e->known_commit - e->applied.lsn : 0;
  return far_behind(&e->far_behind, e->unapplied_bytes, distance, mono_ns(e));
}

/* Of this thread alone, and for good. */
static void lower_priority(void) {
  id_t self = (id_t)gettid(); /* Linux: a thread is a "process" with a priority of its own */
  errno = 0;
  int now = getpriority(PRIO_PROCESS, self);
  if (!errno) (void)setpriority(PRIO_PROCESS, self, now + BACKLOG_NICE); /* a courtesy: without it goes as well */
}

/* Applies a backlog; see far_behind.h. */
static void *backlog_thread(void *arg) {
  dw_engine *e = arg;
  struct request_list done;
  request_list_init(&done);
  lower_priority();
  pthread_mutex_lock(&e->mu);
  while (!e->closing && pipeline_can_apply(e) && gives_way(e)) {
    apply_step(e, &done);
    flush_done(e, &done);
  }
  pthread_mutex_unlock(&e->mu);
  return NULL;
}

/* The apply thread stands aside. False: there is no thread to do it. mu held; dropped and retaken. */
static bool apply_backlog(dw_engine *e) {
  pthread_t t;
  pthread_mutex_unlock(&e->mu);
  bool made = pthread_create(&t, NULL, backlog_thread, e) == 0;
  if (made) pthread_join(t, NULL);
  pthread_mutex_lock(&e->mu);
  return made;
}

static void *apply_thread(void *arg) {
  dw_engine *e = arg;
  struct request_list done;
  request_list_init(&done);
  pthread_mutex_lock(&e->mu);
  while (!e->closing) {
    if (pipeline_can_apply(e) && gives_way(e) && apply_backlog(e)) continue;
    if (pipeline_can_apply(e)) {
      apply_step(e, &done);
      if (pipeline_can_log(e)) pipeline_kick(e);
      flush_done(e, &done);
      pipeline_deliver(e);
    } else if (e->answers.head && !e->delivering) {
      pipeline_deliver(e);
    } else {
      pthread_cond_wait(&e->apply_cond, &e->mu);
    }
  }
  pthread_mutex_unlock(&e->mu);
  return NULL;
}

void background_tick(dw_engine *e, struct request_list *done) {
  uint64_t now = mono_ns(e);
  gate_local(&e->gate, 0, 0, now);
  pipeline_advance(e);
  pipeline_complete(e, done);
  write_time_outs(e, now, done);
  if (e->stopping) pipeline_fail_all(e, DW_CLOSED, "the engine is closing", done);
  if (e->paused_until_ns <= now) e->paused_until_ns = 0;
  struct lag_sample *last = &e->lag[(e->next_lag + LAG_SAMPLES - 1) % LAG_SAMPLES];
  if (now - last->at_ns >= LAG_SAMPLE_NS && e->gate.commit != last->commit) {
    e->lag[e->next_lag] = (struct lag_sample){now, e->gate.commit};
    e->next_lag = (e->next_lag + 1) % LAG_SAMPLES;
  }
  pipeline_kick(e);
}

static void *tick_thread(void *arg) {
  dw_engine *e = arg;
  struct request_list done;
  request_list_init(&done);
  pthread_mutex_lock(&e->mu);
  while (!e->closing) {
    background_tick(e, &done);
    flush_done(e, &done);
    pipeline_deliver(e); /* where the apply thread is held up by the store */
    bool busy = e->gate.count || e->queue.head || e->pending.head || e->lingering.head || e->answers.head;
    wait_until(&e->tick_cond, &e->mu, mono_ns(e) + (busy ? TICK_BUSY_NS : TICK_IDLE_NS));
  }
  pthread_mutex_unlock(&e->mu);
  return NULL;
}

/* fdatasync of what OS-durable writes left to the kernel. */
static void sync_if_due(dw_engine *e) {
  uint64_t now = mono_ns(e);
  if (now - e->last_sync_ns < e->opt.sync_interval_ms * 1000000ull) return;
  dw_lsn durable = 0;
  int rc = wal_sync(e->wal, &durable);
  struct request_list done;
  request_list_init(&done);
  pthread_mutex_lock(&e->mu);
  e->last_sync_ns = now;
  if (rc && !e->failed_rc) {
    engine_stop(e, rc, &done);
  } else if (rc == DW_OK) {
    gate_local(&e->gate, 0, durable, now);
    pipeline_advance(e);
    pipeline_kick(e);
  }
  pthread_mutex_unlock(&e->mu);
  pipeline_wake(&done);
}

/* All segments: what is kept is counted from the newest back, so a part of the list would not do. */
static struct wal_segment_info *list_segments(dw_engine *e, size_t *n) {
  for (size_t cap = wal_segments(e->wal, NULL, 0) + 16;; cap = *n + 16) {
    struct wal_segment_info *segments = malloc(cap * sizeof *segments);
    if (!segments) return NULL; /* another time */
    *n = wal_segments(e->wal, segments, cap);
    if (*n <= cap) return segments;
    free(segments);
  }
}

/* Up to where the log is not needed for replay. An epoch record shares its LSN with the commit before it: as long as
 * the store may have persisted that commit and not the record, the segment that ends with the record must stay, or the
 * log would begin behind the store's boundary. */
static dw_lsn not_needed(dw_engine *e, const struct wal_pos *persisted) {
  pthread_mutex_lock(&e->mu);
  bool record_behind = persisted->epoch < e->epoch;
  pthread_mutex_unlock(&e->mu);
  return persisted->lsn && record_behind ? persisted->lsn - 1 : persisted->lsn;
}

static void trim_log(dw_engine *e, dw_lsn persisted, const struct wal_segment_info *segments, size_t n) {
  if (n < 2) return;
  pthread_mutex_lock(&e->mu);
  dw_lsn pin = e->pin_lsn;
  pthread_mutex_unlock(&e->mu);
  dw_lsn trim = retention_trim_lsn(&(struct retention_in){.segments = segments,
                                                          .n = n,
                                                          .persisted = persisted,
                                                          .pinned = pin,
                                                          .keep_for_absent = e->opt.listen != NULL,
                                                          .retain_bytes = e->opt.retain_bytes,
                                                          .retain_ns = e->opt.retain_ms * 1000000ull,
                                                          .now_ns = mono_ns(e)});
  dw_lsn oldest;
  if (!trim || trim < segments[0].last_lsn) return;
  if (wal_trim(e->wal, trim, &oldest) == DW_OK) {
    e->trim_failed = false;
    return;
  }
  char why[300];
  dw_error_copy(why, sizeof why);
  if (!e->trim_failed) engine_log(e, DW_LOG_WARN, "trimming the log, will be tried again: %s", why);
  e->trim_failed = true;
}

/* Log that only waits for the store to persist it is bounded: past this, the store is asked to flush. */
static uint64_t unpersisted_limit(const dw_engine *e) {
  uint64_t limit = 4 * e->opt.segment_bytes;
  return limit < 2 * e->opt.memtable_bytes ? 2 * e->opt.memtable_bytes : limit;
}

static void flush_store(dw_engine *e, struct store *store) {
  if (store->ops->flush(store, false) == DW_OK) {
    e->flush_failed = false;
    return;
  }
  char why[300];
  dw_error_copy(why, sizeof why);
  if (!e->flush_failed) engine_log(e, DW_LOG_WARN, "the store can't be flushed, will be tried again: %s", why);
  e->flush_failed = true;
}

/* After a background error of the store: does it take writes? Nobody would learn that it does not before the next one,
 * and until then this node looks well and gives no follower a checkpoint. So one is tried that changes nothing: the
 * marker once more, by whoever holds the apply role, us. Where commits wait to be applied the applier finds out by
 * itself. mu held; dropped and retaken. */
static void try_store(dw_engine *e, struct store *store, const struct store_health *health) {
  if (health->background_errors <= e->errors_outlived || health->write_stopped || !e->wal || e->apply_busy ||
      e->failed_rc || e->applied.lsn < e->gate.commit)
    return;
  e->apply_busy = true;
  pthread_mutex_unlock(&e->mu);
  struct wal_pos at;
  int rc = store->ops->marker(store, false, &at);
  if (rc == DW_OK) rc = store->ops->write(store, NULL, 0, NULL, 0, &at);
  pthread_mutex_lock(&e->mu);
  e->apply_busy = false;
  if (rc == DW_OK) {
    e->errors_outlived = health->background_errors;
    apply_works(e);
  } else {
    apply_refused(e, rc);
  }
  pipeline_kick(e);
  pipeline_moved(e);
}

static void poll_store(dw_engine *e) {
  struct store_ref *ref = store_ref_get(e);
  struct store_health health = {0};
  struct wal_pos persisted = {0};
  ref->store->ops->health(ref->store, &health);
  int rc = ref->store->ops->marker(ref->store, true, &persisted);
  pthread_mutex_lock(&e->mu);
  if (health.background_errors > e->health.background_errors)
    engine_log(e, DW_LOG_ERROR, "the store reports a background error (%llu so far)",
               (unsigned long long)health.background_errors);
  if (health.write_stopped && !e->health.write_stopped)
    engine_log(e, DW_LOG_WARN, "the store has stopped writes to catch up: commits wait");
  e->health = health;
  if (rc == DW_OK) e->persisted_lsn = persisted.lsn;
  if (e->store_error_rc) { /* try again; the apply leader reports if it still fails */
    e->store_retry = true;
    pipeline_kick(e);
  }
  try_store(e, ref->store, &health);
  uint64_t unpersisted = 0;
  pthread_mutex_unlock(&e->mu);
  if (e->wal && rc == DW_OK) {
    size_t n = 0;
    struct wal_segment_info *segments = list_segments(e, &n);
    for (size_t i = 0; segments && i < n; i++)
      if (segments[i].last_lsn > persisted.lsn) unpersisted += segments[i].bytes;
    if (unpersisted > unpersisted_limit(e) && !health.flush_pending) flush_store(e, ref->store);
    if (segments) trim_log(e, not_needed(e, &persisted), segments, n);
    free(segments);
  }
  store_ref_put(ref);
}

/* On a full disk this fails for as long as it is full: said once, tried every second. */
static void prepare_if_wanted(dw_engine *e) {
  if (!wal_wants_prepare(e->wal) || mono_ns(e) < e->next_prepare_ns) return;
  bool failed = wal_prepare(e->wal) != DW_OK;
  if (failed) {
    char why[200];
    dw_error_copy(why, sizeof why);
    if (!e->prepare_failed) engine_log(e, DW_LOG_WARN, "preparing the next log segment, will be tried again: %s", why);
    e->next_prepare_ns = mono_ns(e) + 1000000000u;
  }
  e->prepare_failed = failed;
}

void background_maintain(dw_engine *e) {
  if (e->wal) {
    sync_if_due(e);
    prepare_if_wanted(e);
  }
  uint64_t now = mono_ns(e);
  if (now - e->last_poll_ns >= STORE_POLL_NS) {
    e->last_poll_ns = now;
    poll_store(e);
  }
}

static void *maint_thread(void *arg) {
  dw_engine *e = arg;
  pthread_mutex_lock(&e->mu);
  while (!e->closing) {
    if (!e->installing) {
      e->maint_busy = true;
      pthread_mutex_unlock(&e->mu);
      background_maintain(e);
      pthread_mutex_lock(&e->mu);
      e->maint_busy = false;
      pipeline_moved(e);
    }
    uint64_t next = mono_ns(e) + MAINT_NS, sync = e->last_sync_ns + e->opt.sync_interval_ms * 1000000ull;
    bool syncs = e->wal && !e->installing && !e->failed_rc;
    wait_until(&e->maint_cond, &e->mu, syncs && sync < next ? sync : next);
  }
  pthread_mutex_unlock(&e->mu);
  return NULL;
}

int background_start(dw_engine *e) {
  void *(*const run[])(void *) = {log_thread, apply_thread, tick_thread, maint_thread, scrub_thread};
  for (size_t i = 0; i < sizeof run / sizeof *run; i++) {
    int err = pthread_create(&e->thread[i], NULL, run[i], e);
    if (err) return dw_fail_errno(err, "starting a thread");
    e->thread_count++;
  }
  return DW_OK;
}

void background_stop(dw_engine *e) {
  pthread_mutex_lock(&e->mu);
  pthread_cond_broadcast(&e->log_cond);
  pthread_cond_broadcast(&e->apply_cond);
  pthread_cond_broadcast(&e->tick_cond);
  pthread_cond_broadcast(&e->maint_cond);
  pthread_cond_broadcast(&e->scrub_cond);
  pthread_mutex_unlock(&e->mu);
  while (e->thread_count) pthread_join(e->thread[--e->thread_count], NULL);
}

bool engine_step(dw_engine *e) {
  struct request_list done;
  request_list_init(&done);
  bool did = true;
  pthread_mutex_lock(&e->mu);
  if (pipeline_can_log(e)) {
    log_step(e, &done);
  } else if (pipeline_can_apply(e)) {
    apply_step(e, &done);
  } else {
    background_tick(e, &done);
    pthread_mutex_unlock(&e->mu);
    background_maintain(e);
    scrub_step(e);
    pthread_mutex_lock(&e->mu);
    did = pipeline_can_log(e) || pipeline_can_apply(e);
  }
  pipeline_deliver(e);
  pthread_mutex_unlock(&e->mu);
  pipeline_wake(&done);
  return did;
}
