/* The scrub thread: reads old segments at a low rate, and repairs what it or a reader found damaged.
 *
 * It is the only place of a running engine where a repair happens, in a thread of its own: asking peers may take
 * seconds, and nobody waits for it but an applier that met the damage (apply.c). The list of damaged segments is this
 * thread's; what status shows of it is under mu. An install takes the log away: it waits until the thread is between
 * two steps, which is soon (stop_asking ends a conversation under way).
 *
 * Order: what a reader ran into, then what is due for another attempt, then the pass.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/internal.h"
#include "wal/base/status.h"

#define IDLE_NS 250000000u /* how late damage that a reader met may be noticed */

static void say_result(dw_engine *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say_result(dw_engine *e, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  pthread_mutex_lock(&e->mu);
  vsnprintf(e->scrub.result, sizeof e->scrub.result, fmt, ap);
  pthread_mutex_unlock(&e->mu);
  va_end(ap);
}

void scrub_count(dw_engine *e, uint64_t found, uint64_t repaired, uint64_t blocks) {
  pthread_mutex_lock(&e->mu);
  e->scrub.found += found;
  e->scrub.repaired += repaired;
  e->scrub.repaired_blocks += blocks;
  e->scrub.damaged_now = e->scrub.list.count;
  pthread_mutex_unlock(&e->mu);
}

void scrub_log_damage(dw_engine *e, const struct wal_damage *d) {
  char line[400];
  for (uint64_t i = 0; wal_damage_describe(d, i, line, sizeof line); i++)
    engine_log(e, DW_LOG_ERROR, "the log is damaged: %s", line);
  if (d->holes > WAL_HOLES_SHOWN)
    engine_log(e, DW_LOG_ERROR, "the log is damaged: %s: %llu more places", d->name,
               (unsigned long long)(d->holes - WAL_HOLES_SHOWN));
}

void scrub_log_repair(dw_engine *e, const struct wal_damage *d, const struct repair_result *r) {
  engine_log(e, DW_LOG_WARN, "repaired %s: %llu blocks (%llu bytes) put back%s%s", d->name,
             (unsigned long long)r->blocks, (unsigned long long)r->bytes, r->from[0] ? " from " : "", r->from);
  say_result(e, "repaired %s: %llu blocks%s%s", d->name, (unsigned long long)r->blocks, r->from[0] ? " from " : "",
             r->from);
}

/* The segment is whole again, or not ours any more. */
static void settle(dw_engine *e, struct wal *w, uint64_t seq) {
  struct scrub *s = &e->scrub;
  scrub_settled(&s->list, seq);
  wal_forget_damage(w, seq);
  pthread_mutex_lock(&e->mu);
  if (e->log_damaged) {
    e->log_damaged = false; /* the applier tries again */
    pipeline_kick(e);
  }
  pthread_mutex_unlock(&e->mu);
}

static void try_repair(dw_engine *e, struct wal *w, const struct node_file *node, uint64_t seq) {
  struct scrub *s = &e->scrub;
  struct wal_damage d;
  struct repair_result r;
  int rc = wal_check_segment(w, seq, &d);
  if (rc == DW_OK || rc == DW_NOT_FOUND) {
    settle(e, w, seq);
    scrub_count(e, 0, 0, 0);
    return;
  }
  if (rc != DW_CORRUPT) { /* I/O error, or the newest segment: later */
    scrub_failed(&s->list, seq, mono_ns(e));
    return;
  }
  bool fresh = scrub_tell(&s->list, seq);
  if (fresh) {
    scrub_log_damage(e, &d);
    scrub_count(e, 1, 0, 0);
    pthread_mutex_lock(&e->mu);
    s->pass_damaged++;
    pthread_mutex_unlock(&e->mu);
  }
  char *dir = path_generation(e->dir, "wal", node->generation);
  struct repair_run run = {.env = e->env,
                           .dir = dir,
                           .cluster_id = node->cluster_id,
                           .node_id = node->node_id,
                           .source = e->source,
                           .stop = &e->stop_asking,
                           .deadline_ns = UINT64_MAX};
  rc = dir ? repair_segment(&run, &d, w, &r) : DW_NO_MEMORY;
  free(dir);
  if (rc == DW_OK) {
    settle(e, w, seq);
    scrub_count(e, 0, 1, r.blocks);
    scrub_log_repair(e, &d, &r);
  } else if (!atomic_load(&e->stop_asking)) {
    char why[400];
    dw_error_copy(why, sizeof why);
    scrub_failed(&s->list, seq, mono_ns(e));
    engine_log(e, fresh ? DW_LOG_ERROR : DW_LOG_DEBUG, "%s can't be repaired, will be tried again: %s", d.name, why);
    say_result(e, "%s is damaged and can't be repaired: %s", d.name, why);
  }
}

/* ---- passes ------------------------------------------------------------------------------------- */

static void end_pass(dw_engine *e) {
  struct scrub *s = &e->scrub;
  wal_scrub_close(s->pass);
  s->pass = NULL;
  scrub_ended(&s->pace, mono_ns(e));
  pthread_mutex_lock(&e->mu);
  s->passes++;
  s->done = s->total;
  uint64_t damaged = s->pass_damaged, bytes = s->total;
  pthread_mutex_unlock(&e->mu);
  if (!damaged) say_result(e, "%llu bytes of old segments read, all sound", (unsigned long long)bytes);
}

static void step_pass(dw_engine *e, struct wal *w, const struct node_file *node, uint64_t budget) {
  struct scrub *s = &e->scrub;
  uint64_t read = 0, seq = 0;
  if (!s->pass) {
    if (wal_scrub_open(w, &s->pass) != DW_OK) return scrub_ended(&s->pace, mono_ns(e)); /* no memory: next time */
    scrub_began(&s->pace, mono_ns(e));
    pthread_mutex_lock(&e->mu);
    s->done = 0;
    s->total = wal_scrub_total(s->pass);
    s->pass_damaged = 0;
    pthread_mutex_unlock(&e->mu);
  }
  int rc = wal_scrub_next(s->pass, budget, &read, &seq);
  scrub_read(&s->pace, read ? read : 1, mono_ns(e));
  pthread_mutex_lock(&e->mu);
  s->done += read;
  if (s->done > s->total) s->done = s->total;
  pthread_mutex_unlock(&e->mu);
  if (rc == DW_NOT_FOUND) {
    end_pass(e);
  } else if (rc == DW_CORRUPT) {
    if (scrub_note(&s->list, seq, mono_ns(e))) try_repair(e, w, node, seq);
  } else if (rc) {
    char why[300];
    dw_error_copy(why, sizeof why);
    engine_log(e, DW_LOG_WARN, "the scrub can't read a segment of the log: %s", why);
    say_result(e, "can't read: %s", why);
  }
}

void scrub_step(dw_engine *e) {
  struct scrub *s = &e->scrub;
  pthread_mutex_lock(&e->mu);
  struct wal *w = e->wal; /* an install waits until this step is done */
  struct node_file node = e->node;
  uint64_t now = mono_ns(e), met = w ? wal_met_damage(w) : 0, budget;
  if (e->log_damaged && !met && !s->list.count) { /* repaired before the applier had said that it waits */
    e->log_damaged = false;
    pipeline_kick(e);
  }
  pthread_mutex_unlock(&e->mu);
  if (!w) return;
  if (met && scrub_note(&s->list, met, now)) {
    try_repair(e, w, &node, met);
  } else if ((met = scrub_due(&s->list, now)) != 0) {
    try_repair(e, w, &node, met);
  } else if ((budget = scrub_budget(&s->pace, now)) != 0) {
    step_pass(e, w, &node, budget);
  }
}

void scrub_init(dw_engine *e) {
  e->scrub.pace.bytes_per_s = e->opt.scrub_bytes_per_s;
  e->scrub.pace.interval_ns = e->opt.scrub_interval_ms * 1000000ull;
}

/* mu held, no step under way: the log is about to be replaced or closed. */
void scrub_drop(dw_engine *e) {
  struct scrub *s = &e->scrub;
  wal_scrub_close(s->pass);
  s->pass = NULL;
  s->pace.inside = false;
  s->list.count = s->damaged_now = 0;
  e->log_damaged = false;
}

void *scrub_thread(void *arg) {
  dw_engine *e = arg;
  pthread_mutex_lock(&e->mu);
  while (!e->closing) {
    if (!e->installing) {
      e->scrub_busy = true;
      pthread_mutex_unlock(&e->mu);
      scrub_step(e);
      pthread_mutex_lock(&e->mu);
      e->scrub_busy = false;
      pipeline_moved(e);
    }
    uint64_t now = mono_ns(e), at = scrub_next(&e->scrub.pace, &e->scrub.list);
    /* Without a log, or while another one moves in, nothing that is due gets done: wait, and let others have mu. */
    if (at > now + IDLE_NS || !e->wal || e->installing) at = now + IDLE_NS;
    struct timespec ts = {(time_t)(at / 1000000000u), (long)(at % 1000000000u)};
    if (!e->closing && at > now) pthread_cond_clockwait(&e->scrub_cond, &e->mu, CLOCK_MONOTONIC, &ts);
  }
  pthread_mutex_unlock(&e->mu);
  return NULL;
}
