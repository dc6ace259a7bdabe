/* The log leader's step: a group of queued requests becomes blocks, one append, at most one sync.
 *
 *   take group -> refuse what must not be logged -> build blocks (compress) -> append -> tell shippers -> sync
 *
 * A group may hold several blocks: one per run of requests with the same needs, because a block commits as a
 * whole. The role is kept through the sync: the next group is written only after it, so that in the log
 * every block behind a DISK block stands behind proof (a mark frame) that it was synced. Meanwhile the next
 * group collects, and the apply leader works.
 */
#include "engine/internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/bytes.h"
#include "wal/base/status.h"

static bool same_need(const struct block_need *a, const struct block_need *b) {
  return a->mode == b->mode && a->ack == b->ack && a->durability == b->durability && a->acks == b->acks &&
         a->from_default == b->from_default;
}

/* Sync mode's promise "certainly not done": checked right before logging. mu held. */
static bool refuse(dw_engine *e, struct write_request *r, struct request_list *done) {
  if (r->need.mode != DW_SYNC || e->gate.marks.connected >= r->need.acks) return false;
  int rc = dw_fail(DW_NOT_ENOUGH_FOLLOWERS, "sync mode asks for %u followers, %u connected: nothing was logged",
                   r->need.acks, e->gate.marks.connected);
  pipeline_finish(e, r, rc, done);
  return true;
}

/* A run of requests with equal needs and what becomes of it. */
struct run {
  struct write_request *first;
  uint32_t commits;
  uint64_t timeout_ns;
  struct wal_block *block;
};

/* By itself a small block shrinks little, and what is compressed already can't be packed any more with those before it
 * on its way to the followers (wal/pack.h). From here on zstd does nearly as well alone, and the log on disk is the
 * smaller. */
#define PACKED_BELOW_BYTES 8192u
static int level_for(const dw_engine *e, size_t bytes) {
  return e->opt.listen && bytes < PACKED_BELOW_BYTES ? 0 : e->opt.zstd_level;
}

static int run_block(dw_engine *e, struct run *run, uint64_t wall_ns) {
  uint8_t small[1024];
  struct buf payload = {.data = small, .cap = sizeof small};
  size_t bytes = 0;
  struct write_request *r = run->first;
  for (uint32_t i = 0; i < run->commits; i++, r = r->next) bytes += r->body_bytes + 11u;
  if (bytes > sizeof small) payload = (struct buf){0};
  int rc = buf_reserve(&payload, bytes);
  if (rc) return rc;
  r = run->first;
  for (uint32_t i = 0; i < run->commits; i++, r = r->next) {
    uint8_t *p = payload.data + payload.len;
    *p++ = 0; /* flags */
    p += varint32_put(p, r->ops);
    p += varint32_put(p, r->body_bytes);
    memcpy(p, r->body, r->body_bytes);
    payload.len = (size_t)(p - payload.data) + r->body_bytes;
  }
  struct block_header like = {.kind = BLOCK_COMMITS,
                              .need = run->first->need,
                              .commit_count = run->commits,
                              .wall_ns = wall_ns,
                              .origin_id = e->node.node_id};
  rc = wal_block_create(&like, payload.data, payload.len, level_for(e, payload.len), &run->block);
  if (payload.data != small) buf_free(&payload);
  return rc;
}

/* Takes up to a group's worth from the queue, split into runs. mu held. */
static size_t take_group(dw_engine *e, struct request_list *group, struct run *runs, size_t max_runs,
                         struct request_list *done) {
  size_t n = 0;
  while (e->queue.head && group->count < GROUP_MAX_COUNT) {
    struct write_request *r = e->queue.head;
    if (group->count && group->bytes + r->body_bytes > GROUP_MAX_BYTES) break;
    bool joins = n && same_need(&runs[n - 1].first->need, &r->need) && runs[n - 1].timeout_ns == r->timeout_ns;
    if (!joins && n == max_runs) break;
    request_list_pop(&e->queue);
    if (refuse(e, r, done)) continue;
    r->state = REQUEST_TAKEN;
    if (!joins) runs[n++] = (struct run){.first = r, .timeout_ns = r->timeout_ns};
    runs[n - 1].commits++;
    request_list_push(group, r);
  }
  return n;
}

/* The group is in the log: LSNs, gate entries, the pending list. mu held. */
static bool logged(dw_engine *e, struct request_list *group, const struct run *runs, size_t n_runs, uint64_t now) {
  bool sync = false;
  for (size_t i = 0; i < n_runs; i++) {
    const struct block_header *h = &runs[i].block->h;
    gate_push(&e->gate, &(struct gate_entry){.last_lsn = block_last_lsn(h),
                                             .commits = h->commit_count,
                                             .need = h->need,
                                             .deadline_ns = now + runs[i].timeout_ns});
    e->unapplied_bytes += block_total_bytes(h);
    pipeline_await(e, h);
    sync |= h->need.durability == DW_DURABILITY_DISK;
    for (uint32_t k = 0; k < runs[i].commits; k++) {
      struct write_request *r = request_list_pop(group);
      r->lsn = h->first_lsn + k;
      r->state = REQUEST_LOGGED;
      request_list_push(&e->pending, r);
      if (r->need.mode == DW_SEMI_SYNC) r->deadline_ns = write_deadline(r, now); /* its block's began just now */
    }
  }
  gate_local(&e->gate, block_last_lsn(&runs[n_runs - 1].block->h), 0, now);
  return sync;
}

/* A write that failed may have reached the file all the same: each request gets the LSN that it may be found under. */
static void in_doubt(struct request_list *group, const struct run *runs, size_t n_runs) {
  struct write_request *r = group->head;
  for (size_t i = 0; i < n_runs; i++)
    for (uint32_t k = 0; k < runs[i].commits; k++, r = r->next) r->lsn = runs[i].block->h.first_lsn + k;
  dw_fail_prefix(DW_IO, "in doubt: the log failed while writing LSN %llu and up",
                 (unsigned long long)runs[0].block->h.first_lsn);
}

static void fail_group(dw_engine *e, struct request_list *group, int rc, struct request_list *done) {
  struct write_request *r;
  while ((r = request_list_pop(group))) pipeline_finish(e, r, rc, done);
}

/* How many syncs' time it is worth to have a group complete: beyond, half groups are as good (docs/performance.md). */
#define WORTH_LOCAL 3u
#define WORTH_ACKED 5u

/* Synced at `now`: shall the next group wait for the writers of this one, who are answered as soon as it is applied, or
 * as soon as followers have acknowledged it too? Not where asynchronous requests are about, whose writers do not wait.
 * mu held. */
static void hold_next(dw_engine *e, uint64_t now) {
  if (!e->threads || !e->pending.head || e->pending.head->fn || (e->queue.head && e->queue.head->fn)) return;
  bool acked = e->gate.commit >= e->gate.durable; /* else followers have the last word, and take their time */
  hold_begin(&e->hold, e->queue.count, e->pending.count, acked ? WORTH_LOCAL : WORTH_ACKED, now);
  e->hold_timer = NULL;
  if (e->hold.target && e->queue.head) request_look(e->queue.head); /* becomes the timer */
}

#define RUNS_MAX 64

void log_step(dw_engine *e, struct request_list *done) {
  struct run runs[RUNS_MAX];
  struct wal_block *blocks[RUNS_MAX];
  struct request_list group;
  request_list_init(&group);
  assert(!e->log_busy);
  e->log_busy = true;
  if (e->hold.target) hold_end(&e->hold, e->queue.count, mono_ns(e));
  e->group++;
  size_t n = take_group(e, &group, runs, RUNS_MAX, done);
  pthread_cond_broadcast(&e->space_cond);
  int rc = n ? gate_reserve(&e->gate, n) : DW_OK;
  if (rc || n == 0) {
    fail_group(e, &group, rc, done);
    e->log_busy = false;
    pipeline_moved(e);
    return;
  }
  dw_lsn commit = e->gate.commit;
  uint64_t epoch = e->epoch;
  pthread_mutex_unlock(&e->mu);

  uint64_t wall = e->env->ops->wall_ns(e->env);
  size_t built = 0;
  while (built < n && (rc = run_block(e, &runs[built], wall)) == DW_OK) blocks[built] = runs[built].block, built++;
  if (rc == DW_OK) rc = wal_append(e->wal, blocks, n, epoch, commit);

  pthread_mutex_lock(&e->mu);
  bool sync = false;
  uint64_t now = mono_ns(e);
  if (rc == DW_OK) {
    sync = logged(e, &group, runs, n, now);
    if (e->rops) e->rops->log_grew(e->rctx, e->awaited_lsn >= runs[0].block->h.first_lsn);
    pipeline_advance(e);
    if (e->failed_rc)
      pipeline_fail_all(e, DW_CLOSED, e->failed, done); /* it stopped while we wrote */
    else if (e->fenced)
      pipeline_fail_all(e, DW_FENCED, "this primary was fenced while it was logged", done);
  } else {
    struct wal_stat st;
    wal_stat(e->wal, &st);
    if (st.stopped) {
      char why[400];
      dw_error_copy(why, sizeof why);
      if (rc == DW_IO) in_doubt(&group, runs, n);
      fail_group(e, &group, rc, done);
      dw_fail(rc, "append: %s", why);
      engine_stop(e, rc, done);
    } else {
      fail_group(e, &group, rc, done); /* no space, no memory: certainly not done, the log goes on */
    }
  }
  if (sync) {
    /* What already may be applied (OS writes before us) need not wait for this sync. */
    if (pipeline_can_apply(e)) pthread_cond_signal(&e->apply_cond);
    pthread_mutex_unlock(&e->mu);
    dw_lsn durable = 0;
    rc = wal_sync(e->wal, &durable);
    pthread_mutex_lock(&e->mu);
    if (rc) {
      engine_stop(e, rc, done);
    } else {
      uint64_t then = now;
      now = mono_ns(e);
      hold_synced(&e->hold, now - then);
      gate_local(&e->gate, 0, durable, now);
      pipeline_advance(e);
      hold_next(e, now);
    }
  }
  e->log_busy = false;
  pipeline_moved(e); /* whoever waits for the role */
  for (size_t i = 0; i < built; i++) wal_block_unref(blocks[i]);
}
