/* The apply leader's step: blocks up to commit_lsn become one store write, with the marker in it.
 *
 * The same code serves a primary's commits, a follower's stream and replay after a crash: it reads blocks through a
 * cursor that stands at the applied boundary (from the log's tail cache in memory when they are fresh, from segment
 * files otherwise), checks their grammar, and hands bodies and marker to the store in one atomic write. So after any
 * crash the store's marker says exactly where to go on.
 *
 * Replay at open has two threads: one reads, decompresses and checks the next batch while the other writes one.
 */
#include "engine/internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/bytes.h"
#include "wal/base/status.h"

/* One store write's worth of blocks. */
struct apply_batch {
  struct wal_block **blocks;
  struct buf *scratch; /* per block: its decompressed payload, if it was not at hand */
  size_t n, cap;
  struct store_body *bodies;
  size_t bodies_n, bodies_cap;
  struct epoch_record *epochs;
  size_t epochs_n, epochs_cap;
  size_t raw_bytes, stored_bytes;
  struct wal_pos end;
};

static int grow(void **p, size_t *cap, size_t need, size_t size) {
  if (need <= *cap) return DW_OK;
  size_t cap2 = *cap ? *cap : 16;
  while (cap2 < need) cap2 *= 2;
  void *p2 = realloc(*p, cap2 * size);
  if (!p2) return dw_fail_nomem(cap2 * size);
  *p = p2;
  *cap = cap2;
  return DW_OK;
}

/* What only the store write needed; the epochs and the counts stay. */
static void batch_drop_blocks(struct apply_batch *b) {
  for (size_t i = 0; i < b->n; i++) {
    wal_block_unref(b->blocks[i]);
    buf_free(&b->scratch[i]);
  }
  free(b->blocks);
  free(b->scratch);
  free(b->bodies);
}

static void batch_free(struct apply_batch *b) {
  batch_drop_blocks(b);
  free(b->epochs);
}

static int add_commits(struct apply_batch *b, const struct wal_block *block, const uint8_t *raw, size_t n) {
  uint64_t ops;
  int rc = payload_validate(raw, n, block->h.commit_count, &ops);
  if (rc) return rc;
  rc = grow((void **)&b->bodies, &b->bodies_cap, b->bodies_n + block->h.commit_count, sizeof *b->bodies);
  if (rc) return rc;
  size_t off = 0;
  struct wal_commit c;
  while (payload_next_commit(raw, n, &off, &c) == DW_OK)
    b->bodies[b->bodies_n++] = (struct store_body){c.body, c.body_bytes, c.op_count};
  return DW_OK;
}

static int add_epoch(struct apply_batch *b, const uint8_t *raw, size_t n) {
  int rc = grow((void **)&b->epochs, &b->epochs_cap, b->epochs_n + 1, sizeof *b->epochs);
  if (rc) return rc;
  rc = epoch_record_decode(raw, n, &b->epochs[b->epochs_n]);
  if (rc == DW_OK) b->epochs_n++;
  return rc;
}

/* Takes the reference to `block` in any case. */
static int batch_add(struct apply_batch *b, struct wal_block *block) {
  size_t cap = b->cap;
  int rc = grow((void **)&b->blocks, &cap, b->n + 1, sizeof *b->blocks);
  if (rc == DW_OK) rc = grow((void **)&b->scratch, &b->cap, b->n + 1, sizeof *b->scratch);
  if (rc) {
    wal_block_unref(block);
    return rc;
  }
  b->blocks[b->n] = block;
  b->scratch[b->n] = (struct buf){0};
  b->n++;
  const uint8_t *raw;
  size_t n;
  rc = wal_block_raw(block, &b->scratch[b->n - 1], &raw, &n);
  if (rc == DW_OK) rc = block->h.kind == BLOCK_EPOCH ? add_epoch(b, raw, n) : add_commits(b, block, raw, n);
  if (rc)
    return dw_fail_prefix(rc, "block of LSN %llu (%u commits)", (unsigned long long)block->h.first_lsn,
                          block->h.commit_count);
  b->raw_bytes += n;
  b->stored_bytes += block_total_bytes(&block->h);
  b->end = (struct wal_pos){block_last_lsn(&block->h), block->h.epoch, block->h.chain};
  return DW_OK;
}

/* Up to about `max` bytes of what follows on `from` in the log. */
static int batch_collect(dw_engine *e, struct apply_batch *b, const struct wal_pos *from, dw_lsn limit, size_t max) {
  while (b->raw_bytes < max) {
    struct wal_block *block;
    int rc = wal_cursor_next(e->apply_cursor, limit, &block);
    if (rc == DW_NOT_FOUND || (rc && b->n))
      return DW_OK; /* an error behind good blocks is met again by the next read */
    if (rc) return rc;
    /* The cursor has verified it; that nothing is ever left out is worth a second look. */
    const struct wal_pos *at = b->n ? &b->end : from;
    if (block->h.first_lsn != at->lsn + 1 || !block_chain_ok(block->bytes, &at->chain)) {
      rc = dw_fail(DW_CORRUPT, "block of LSN %llu does not continue what is applied, LSN %llu",
                   (unsigned long long)block->h.first_lsn, (unsigned long long)at->lsn);
      wal_block_unref(block);
      return rc;
    }
    rc = batch_add(b, block);
    if (rc) return rc;
  }
  return DW_OK;
}

static int batch_write(struct store *store, const struct apply_batch *b) {
  struct wal_op *ops = NULL;
  uint8_t(*keys)[32] = NULL, (*vals)[WAL_EPOCH_RECORD_BYTES] = NULL;
  int rc = DW_OK;
  if (b->epochs_n) {
    ops = calloc(b->epochs_n, sizeof *ops);
    keys = calloc(b->epochs_n, sizeof *keys);
    vals = calloc(b->epochs_n, sizeof *vals);
    if (!ops || !keys || !vals) rc = dw_fail_nomem(b->epochs_n * sizeof *ops);
    for (size_t i = 0; rc == DW_OK && i < b->epochs_n; i++)
      rc = epoch_system_op(&b->epochs[i], keys[i], vals[i], &ops[i]);
  }
  if (rc == DW_OK) rc = store->ops->write(store, b->bodies, b->bodies_n, ops, b->epochs_n, &b->end);
  free(ops);
  free(keys);
  free(vals);
  return rc;
}

/* The cursor must stand at the applied boundary again: after a failed store write its blocks were consumed. */
static int cursor_reset(dw_engine *e) {
  wal_cursor_close(e->apply_cursor);
  e->apply_cursor = NULL;
  return wal_cursor_open(e->wal, &e->applied, &e->apply_cursor);
}

/* What a step did; filled without mu by the apply leader. */
struct apply_result {
  int rc;
  bool again;      /* the store refused, or memory ran out: retried later */
  bool repairable; /* damage in an old segment, and peers to repair it from: waits for the scrub thread */
                   /* neither: the log could not be read, fatal */
  struct apply_batch batch;
};

/* Room for the batch's epochs, before the store has them. */
static int reserve_epochs(dw_engine *e, const struct apply_batch *b) {
  if (b->epochs_n == 0) return DW_OK;
  pthread_mutex_lock(&e->mu);
  int rc = epochs_reserve(&e->epochs, b->epochs_n);
  pthread_mutex_unlock(&e->mu);
  return rc;
}

static void apply_once(dw_engine *e, dw_lsn limit, struct apply_result *out) {
  *out = (struct apply_result){0};
  if (!e->apply_cursor) out->rc = cursor_reset(e);
  if (out->rc == DW_OK) out->rc = batch_collect(e, &out->batch, &e->applied, limit, APPLY_MAX_BYTES);
  if (out->rc == DW_OK) out->rc = reserve_epochs(e, &out->batch);
  if (out->rc == DW_OK && out->batch.n) {
    out->rc = batch_write(e->store->store, &out->batch);
    out->again = out->rc != DW_OK;
  }
  if (out->rc == DW_OK) return;
  if (out->rc == DW_NO_MEMORY) out->again = true;
  out->repairable = (out->rc == DW_CORRUPT || out->rc == DW_IO) && !out->again && e->source && e->source->count &&
                    e->threads && wal_met_damage_is_old(e->wal);
  /* Keep this thread's message: closing the cursor may overwrite it. */
  char why[400];
  dw_error_copy(why, sizeof why);
  wal_cursor_close(e->apply_cursor);
  e->apply_cursor = NULL;
  dw_fail(out->rc, "%s", why);
}

/* Takes the result over into the engine's state. mu held. */
static void apply_took(dw_engine *e, const struct apply_batch *b) {
  e->applied = b->end;
  atomic_store_explicit(&e->applied_lsn, b->end.lsn, memory_order_release);
  e->unapplied_bytes -= b->stored_bytes < e->unapplied_bytes ? b->stored_bytes : e->unapplied_bytes;
  for (size_t i = 0; i < b->epochs_n; i++) epochs_add(&e->epochs, &b->epochs[i]);
}

void apply_works(dw_engine *e) {
  e->store_error_rc = DW_OK;
  if (!e->failed_rc) e->failed[0] = '\0';
}

void apply_refused(dw_engine *e, int rc) {
  bool first = !e->store_error_rc;
  e->store_error_rc = rc;
  if (!e->failed_rc) dw_error_copy(e->failed, sizeof e->failed);
  if (first)
    engine_log(e, DW_LOG_ERROR, "applying stopped before LSN %llu, will be tried again: %s",
               (unsigned long long)e->applied.lsn + 1, e->failed);
}

void apply_step(dw_engine *e, struct request_list *done) {
  assert(!e->apply_busy);
  e->apply_busy = true;
  e->store_retry = false;
  dw_lsn limit = e->gate.commit;
  uint64_t start = mono_ns(e);
  pthread_mutex_unlock(&e->mu);

  struct apply_result result;
  apply_once(e, limit, &result);
  batch_drop_blocks(&result.batch);

  pthread_mutex_lock(&e->mu);
  e->apply_busy = false;
  if (result.rc == DW_OK && result.batch.n) {
    apply_took(e, &result.batch);
    if (e->applied.lsn >= limit) e->behind_since_ns = start;
    apply_works(e);
    size_t before = done->count;
    pipeline_complete(e, done);
    gathering_seen(&e->gathering, done->count - before, e->queue.count + e->pending.count);
    if (e->rops) e->rops->applied_moved(e->rctx);
  } else if (result.rc && result.again) {
    /* A full disk, no memory or a background error of the store: committed writes wait, new ones are refused before
     * they are logged, the health tick tries again. */
    apply_refused(e, result.rc);
  } else if (result.repairable) {
    dw_error_copy(e->failed, sizeof e->failed);
    engine_log(e, DW_LOG_ERROR, "the log is damaged at LSN %llu, applying waits for its repair: %s",
               (unsigned long long)e->applied.lsn + 1, e->failed);
    e->log_damaged = true;
    pthread_cond_signal(&e->scrub_cond);
  } else if (result.rc) {
    engine_stop(e, result.rc, done);
  }
  pipeline_moved(e); /* readers, and whoever waits for the role */
  free(result.batch.epochs);
}

/* ---- replay at open -------------------------------------------------------------------------- */

/* The next batch, read by a thread of its own. */
struct replay_read {
  dw_engine *e;
  dw_lsn limit;
  struct wal_pos from;
  struct apply_batch batch;
  int rc;
  char why[400];
  pthread_t thread;
  bool started;
};

static void *replay_read(void *arg) {
  struct replay_read *r = arg;
  r->rc = batch_collect(r->e, &r->batch, &r->from, r->limit, REPLAY_MAX_BYTES);
  if (r->rc) dw_error_copy(r->why, sizeof r->why); /* messages are a thread's own */
  return NULL;
}

static void replay_read_start(struct replay_read *r, const struct wal_pos *from) {
  r->from = *from;
  r->batch = (struct apply_batch){0};
  r->started = r->e->threads && pthread_create(&r->thread, NULL, replay_read, r) == 0;
}

/* wanted: false if what it reads is of no use any more. */
static void replay_read_end(struct replay_read *r, bool wanted) {
  if (r->started)
    pthread_join(r->thread, NULL);
  else if (wanted)
    replay_read(r);
}

static int replay_write(dw_engine *e, const struct apply_batch *b) {
  int rc = reserve_epochs(e, b);
  if (rc == DW_OK) rc = batch_write(e->store->store, b);
  if (rc == DW_OK) apply_took(e, b);
  return rc;
}

int apply_until(dw_engine *e, dw_lsn limit) {
  struct replay_read r = {.e = e, .limit = limit};
  int rc = e->apply_cursor ? DW_OK : cursor_reset(e);
  if (rc) return rc;
  replay_read_start(&r, &e->applied);
  replay_read_end(&r, true);
  while (rc == DW_OK && r.rc == DW_OK && r.batch.n) {
    struct apply_batch batch = r.batch;
    replay_read_start(&r, &batch.end);
    rc = replay_write(e, &batch);
    batch_free(&batch);
    replay_read_end(&r, rc == DW_OK);
  }
  batch_free(&r.batch);
  if (rc == DW_OK && r.rc == DW_OK) return DW_OK;
  /* The cursor stands behind what was not written. Closing it may overwrite this thread's message. */
  if (rc) dw_error_copy(r.why, sizeof r.why);
  wal_cursor_close(e->apply_cursor);
  e->apply_cursor = NULL;
  return dw_fail(rc ? rc : r.rc, "%s", r.why);
}
