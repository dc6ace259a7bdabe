/* Who may write here: promises, fencing, promotion and demotion, in place.
 *
 *               dw_open PRIMARY                      promise of a newer epoch
 *                     |                             +------------------------+
 *                     v                             |                        v
 *   FOLLOWER --engine_promote--> PRIMARY -----------+                 PRIMARY, fenced
 *      ^                            |                                       | acknowledges nothing,
 *      +-------- engine_demote -----+---------------------------------------+ commit_lsn stands still
 *
 * A promise is durable (NODE) before it is answered and before it has any effect; from then on a primary of a lower
 * epoch is fenced, also when it is opened again. Readers, iterators and the store know nothing of all this: a role is a
 * question of who may append to the log and who decides commit_lsn.
 *
 * Why a promoted node keeps everything that its log holds, and what then still waits for acknowledgements:
 * docs/decisions/0007-epochs-promises-promotion.md.
 */
#include <stdio.h>
#include <string.h>

#include "engine/internal.h"
#include "wal/base/status.h"

typedef unsigned long long ull;

/* What a block above commit_lsn waits for. */
static struct block_need tail_need(const dw_engine *e, const struct block_header *h) {
  struct block_need need = h->need;
  if (need.from_default)
    need = (struct block_need){.mode = (uint8_t)e->opt.mode,
                               .ack = (uint8_t)e->opt.ack,
                               .acks = (uint16_t)(e->opt.mode == DW_ASYNC ? 0 : e->opt.acks),
                               .from_default = true};
  need.durability = DW_DURABILITY_OS; /* recovery synced it */
  return need;
}

/* Puts the blocks above what is known committed before the gate. */
int role_queue_tail(dw_engine *e) {
  struct wal_cursor *cursor;
  int rc = wal_cursor_open(e->wal, &e->applied, &cursor);
  if (rc) return rc;
  uint64_t now = mono_ns(e), commits = 0;
  struct wal_block *block;
  while (rc == DW_OK && (rc = wal_cursor_next(cursor, UINT64_MAX, &block)) == DW_OK) {
    const struct block_header *h = &block->h;
    rc = gate_reserve(&e->gate, 1);
    if (rc == DW_OK && h->kind == BLOCK_COMMITS) {
      gate_push(&e->gate, &(struct gate_entry){.last_lsn = block_last_lsn(h),
                                               .commits = h->commit_count,
                                               .need = tail_need(e, h),
                                               .deadline_ns = now + e->opt.ack_timeout_ms * 1000000ull});
      e->unapplied_bytes += block_total_bytes(h);
      commits += h->commit_count;
    }
    if (rc == DW_OK && h->kind == BLOCK_EPOCH) {
      struct epoch_record rec;
      rc = epoch_record_decode(block->bytes + WAL_BLOCK_HEADER_BYTES, h->stored_bytes, &rec);
      if (rc == DW_OK) rc = epochs_reserve(&e->epochs, 1);
      if (rc == DW_OK) epochs_add(&e->epochs, &rec);
    }
    wal_block_unref(block);
  }
  wal_cursor_close(cursor);
  if (rc != DW_NOT_FOUND) return rc;
  gate_advance(&e->gate, now);
  if (e->gate.count)
    engine_log(e, DW_LOG_WARN, "%llu commits above commit_lsn %llu are pending until followers acknowledge them",
               (unsigned long long)commits, (unsigned long long)e->gate.commit);
  return DW_OK;
}

/* ---- fencing -------------------------------------------------------------------------------- */

int role_refuse_fenced(const dw_engine *e, const char *what) {
  return dw_fail(DW_FENCED, "%s: epoch=%llu primary=%s", what, (ull)e->node.promised_epoch,
                 e->fence_address[0] ? e->fence_address : "unknown");
}

/* From here on nothing is acknowledged. mu held. */
static void cease(dw_engine *e, const char *what, struct request_list *done) {
  char why[160];
  e->fenced = true;
  atomic_store_explicit(&e->commit_lsn, UINT64_MAX, memory_order_release);
  e->paused_until_ns = 0;
  role_refuse_fenced(e, what);
  dw_error_copy(why, sizeof why);
  pipeline_fail_all(e, DW_FENCED, why, done);
  pthread_cond_broadcast(&e->space_cond);
  pipeline_moved(e);
}

/* By a promise. mu held. */
static void fence(dw_engine *e, struct request_list *done) {
  engine_log(e, DW_LOG_ERROR,
             "fenced: epoch %llu was promised to node %llu (%s), ours is %llu: nothing is acknowledged any more",
             (ull)e->node.promised_epoch, (ull)e->node.promised_node,
             e->fence_address[0] ? e->fence_address : "address unknown", (ull)e->epoch);
  cease(e, "this primary is fenced", done);
}

void engine_cease(dw_engine *e) {
  struct request_list done;
  request_list_init(&done);
  pthread_mutex_lock(&e->mu);
  if (is_primary(e) && !e->fenced) {
    engine_log(e, DW_LOG_ERROR,
               "nothing is acknowledged any more, until this node follows somebody or is opened again");
    cease(e, "this primary was told to stop", &done);
  }
  pthread_mutex_unlock(&e->mu);
  pipeline_wake(&done);
}

/* May `epoch` be promised to `node_id`? mu held. */
static int check_promise(const dw_engine *e, uint64_t epoch, uint64_t node_id) {
  const struct node_file *n = &e->node;
  if (epoch == 0 || node_id == 0) return dw_fail(DW_INVALID, "a promise needs an epoch and a node");
  if (epoch < n->promised_epoch || (epoch == n->promised_epoch && node_id != n->promised_node))
    return dw_fail(DW_FENCED, "epoch %llu was promised to node %llu already", (ull)n->promised_epoch,
                   (ull)n->promised_node);
  if (epoch <= e->epoch) return dw_fail(DW_FENCED, "this node's log is at epoch %llu already", (ull)e->epoch);
  uint64_t known = n->promised_epoch > e->epoch ? n->promised_epoch : e->epoch;
  if (!epoch_plausible(epoch, known))
    return dw_fail(DW_INVALID, "epoch %llu can't be: the highest that this node knows is %llu", (ull)epoch, (ull)known);
  return DW_OK;
}

int engine_promise(dw_engine *e, uint64_t epoch, uint64_t node_id, const char *address) {
  struct request_list done;
  request_list_init(&done);
  pthread_mutex_lock(&e->node_mu);
  pthread_mutex_lock(&e->mu);
  struct node_file node = e->node;
  int rc = check_promise(e, epoch, node_id);
  pthread_mutex_unlock(&e->mu);
  bool given = node.promised_epoch == epoch;
  node.promised_epoch = epoch;
  node.promised_node = node_id;
  if (rc == DW_OK && !given) rc = node_file_save(e->env, e->dir, &node);
  if (rc == DW_OK) {
    pthread_mutex_lock(&e->mu);
    e->node.promised_epoch = epoch;
    e->node.promised_node = node_id;
    if (!given || address[0]) snprintf(e->fence_address, sizeof e->fence_address, "%s", address);
    if (is_primary(e) && !e->fenced) fence(e, &done);
    pthread_mutex_unlock(&e->mu);
    pipeline_wake(&done);
  }
  pthread_mutex_unlock(&e->node_mu);
  return rc;
}

void engine_promised(dw_engine *e, struct engine_promise *out) {
  pthread_mutex_lock(&e->mu);
  *out =
      (struct engine_promise){.epoch = e->node.promised_epoch, .node_id = e->node.promised_node, .fenced = e->fenced};
  memcpy(out->primary, e->fence_address, sizeof out->primary);
  pthread_mutex_unlock(&e->mu);
}

void engine_pause(dw_engine *e, uint64_t until_ns, bool *writing) {
  pthread_mutex_lock(&e->mu);
  e->paused_until_ns = is_primary(e) && !e->fenced ? until_ns : 0;
  *writing = e->log_busy;
  pipeline_kick(e);
  pthread_mutex_unlock(&e->mu);
}

/* ---- opening -------------------------------------------------------------------------------- */

/* Who began the last epoch of this log; 0: unknown, its record was trimmed or can't be read here (then opening says
 * why). */
static int last_owner(dw_engine *e, uint64_t epoch, uint64_t *owner) {
  struct wal_cursor *c;
  struct wal_block *b;
  const struct epoch_record *last = e->epochs.count ? &e->epochs.records[e->epochs.count - 1] : NULL;
  *owner = last ? last->node_id : 0;
  if (last && last->epoch == epoch) return DW_OK; /* the store has it: the log need not be read for it */
  int rc = wal_cursor_open(e->wal, &e->applied, &c);
  if (rc) return rc == DW_NOT_FOUND ? DW_OK : rc;
  while ((rc = wal_cursor_next(c, UINT64_MAX, &b)) == DW_OK) {
    struct epoch_record rec;
    if (b->h.kind == BLOCK_EPOCH &&
        epoch_record_decode(b->bytes + WAL_BLOCK_HEADER_BYTES, b->h.stored_bytes, &rec) == DW_OK)
      *owner = rec.node_id;
    wal_block_unref(b);
  }
  wal_cursor_close(c);
  return rc == DW_NOT_FOUND ? DW_OK : rc;
}

/* Where the cluster's nodes are named a role can change while a node is down, or have changed while it ran: so the
 * configured one is for a new directory only, and whoever began the last epoch is primary. Not if it follows since: its
 * log may end in an epoch of its own that it is only catching up with, even one of a directory before it that was lost.
 * And not if it has promised itself a newer one: it was a candidate then, and has begun nothing. Without peers the
 * operator's word counts, as it always did. */
int role_decide(dw_engine *e, const struct wal_recovery *rec) {
  uint64_t owner;
  if (!e->opt.peers || rec->end.epoch == 0 || (e->opt.stay_follower && !is_primary(e))) return DW_OK;
  int rc = last_owner(e, rec->end.epoch, &owner);
  if (rc || owner == 0) return rc;
  bool candidate = e->node.promised_epoch > rec->end.epoch && e->node.promised_node == e->node.node_id;
  bool primary = owner == e->node.node_id && !candidate && !e->node.follows;
  if (primary == is_primary(e)) return DW_OK;
  engine_log(e, DW_LOG_WARN, "opens as %s, whatever the settings say: epoch %llu was begun by %s",
             primary ? "primary" : "a follower", (ull)rec->end.epoch,
             owner != e->node.node_id ? "another one"
             : candidate              ? "this node, which has asked for a newer one since and did not begin it"
             : primary                ? "this node"
                                      : "this node, which follows since then");
  atomic_store(&e->role, primary ? DW_PRIMARY : DW_FOLLOWER);
  return DW_OK;
}

int role_save_node(dw_engine *e, const struct node_file *node) {
  int rc = node_file_save(e->env, e->dir, node);
  if (rc) return rc;
  pthread_mutex_lock(&e->mu);
  e->node = *node;
  pthread_mutex_unlock(&e->mu);
  return DW_OK;
}

/* Durable before the epoch begins: its number is taken. And before a primary follows. Without mu. */
static int save_role(dw_engine *e, uint64_t own_epoch, bool follows) {
  pthread_mutex_lock(&e->node_mu);
  pthread_mutex_lock(&e->mu);
  struct node_file node = e->node;
  pthread_mutex_unlock(&e->mu);
  if (own_epoch) node.own_epoch = own_epoch;
  node.follows = follows;
  int rc = role_save_node(e, &node);
  pthread_mutex_unlock(&e->node_mu);
  return rc;
}

int role_open(dw_engine *e, const struct wal_recovery *rec) {
  const struct epoch_list *known = &e->epochs;
  uint64_t last = epochs_last(e), epoch = (e->node.own_epoch > last ? e->node.own_epoch : last) + 1;
  uint32_t reason = EPOCH_OPENED;
  bool ours = known->count == 0 || known->records[known->count - 1].node_id == e->node.node_id;
  if (e->node.promised_epoch > last && e->node.promised_node != e->node.node_id) {
    struct request_list nobody;
    request_list_init(&nobody);
    fence(e, &nobody);
    return DW_OK;
  }
  if (rec->end.epoch == 0) {
    reason = EPOCH_CREATED;
  } else if (!ours || e->node.promised_epoch > last) { /* a follower's directory, or a promotion that a crash cut off */
    reason = EPOCH_PROMOTED;
    uint32_t draw = 0;
    int rc = e->env->ops->random(e->env, &draw, sizeof draw);
    if (rc) return rc;
    epoch = epoch_next_term(e->node.promised_epoch > last ? e->node.promised_epoch : last, draw);
  }
  int rc = save_role(e, epoch, false);
  return rc ? rc : epoch_start(e, epoch, reason, e->gate.commit);
}

/* ---- promotion and demotion ------------------------------------------------------------------ */

/* The gate of a follower whose log ends here. mu held. */
static void gate_restart(dw_engine *e) {
  struct wal_stat st;
  wal_stat(e->wal, &st);
  dw_lsn commit = e->gate.commit;
  gate_free(&e->gate);
  gate_init(&e->gate, commit, e->opt.ack_timeout_ms * 500000ull);
  gate_local(&e->gate, st.end.lsn, st.durable_lsn, mono_ns(e));
  e->known_commit = commit;
  e->recovered_lsn = 0;
}

/* Applies what is known committed and takes the apply role. mu held. */
static int catch_up(dw_engine *e, struct request_list *done) {
  while (e->applied.lsn < e->gate.commit) {
    if (e->apply_busy) {
      apply_role_take(e);
      apply_role_release(e);
    } else if (pipeline_can_apply(e)) {
      apply_step(e, done);
    } else {
      return dw_fail(e->failed_rc ? DW_CLOSED : DW_IO, "LSN %llu is committed, but can't be applied: %s",
                     (ull)e->applied.lsn + 1, e->failed[0] ? e->failed : "the log is damaged");
    }
  }
  apply_role_take(e);
  return DW_OK;
}

static int check_promotion(dw_engine *e, uint64_t epoch) {
  if (is_primary(e) && !e->fenced) return dw_fail(DW_INVALID, "this node is the primary already");
  if (is_primary(e)) return dw_fail(DW_INVALID, "this node is a fenced primary: let it follow first");
  if (!e->wal) return dw_fail(DW_INVALID, "this follower has no data yet");
  if (e->failed_rc) return dw_fail(DW_CLOSED, "the engine stopped: %s", e->failed);
  if (e->node.promised_epoch != epoch || e->node.promised_node != e->node.node_id || epoch <= e->epoch)
    return dw_fail(DW_FENCED, "epoch %llu is not this node's to begin: promised is %llu to node %llu", (ull)epoch,
                   (ull)e->node.promised_epoch, (ull)e->node.promised_node);
  return DW_OK;
}

/* The apply role held, not mu: nobody else touches the gate of a follower without a stream. */
static int begin_epoch(dw_engine *e, uint64_t epoch) {
  int rc = wal_sync(e->wal, NULL);
  if (rc == DW_OK) rc = save_role(e, epoch, false);
  if (rc) return rc;
  pthread_mutex_lock(&e->mu);
  gate_restart(e);
  e->recovered_lsn = e->gate.written;
  e->unapplied_bytes = 0;
  rc = role_queue_tail(e);
  dw_lsn commit = e->gate.commit;
  pthread_mutex_unlock(&e->mu);
  return rc ? rc : epoch_start(e, epoch, EPOCH_PROMOTED, commit);
}

/* A log that failed while an epoch was begun has stopped for good. What of the tail needed no followers was committed
 * only in the epoch that did not come about: the next primary's log may lack it. mu held. */
static void not_promoted(dw_engine *e, int rc, dw_lsn commit, struct request_list *done) {
  struct wal_stat st;
  char why[400];
  dw_error_copy(why, sizeof why);
  wal_stat(e->wal, &st);
  if (st.stopped) engine_stop(e, rc, done);
  e->gate.commit = commit;
  gate_restart(e);
  epochs_cut(&e->epochs, e->applied.epoch);
  dw_fail(rc, "%s", why);
}

/* Readers look without mu: what they need of a primary is there before the role is. mu held. */
static void become_primary(dw_engine *e) {
  atomic_store_explicit(&e->commit_lsn, e->gate.commit, memory_order_release);
  atomic_store(&e->role, DW_PRIMARY);
}

int engine_promote(dw_engine *e, uint64_t epoch) {
  struct request_list done;
  request_list_init(&done);
  pthread_mutex_lock(&e->mu);
  int rc = check_promotion(e, epoch);
  if (rc == DW_OK && (rc = catch_up(e, &done)) == DW_OK) {
    dw_lsn commit = e->gate.commit;
    pthread_mutex_unlock(&e->mu);
    rc = begin_epoch(e, epoch);
    pthread_mutex_lock(&e->mu);
    if (rc == DW_OK)
      become_primary(e);
    else
      not_promoted(e, rc, commit, &done);
    apply_role_release(e);
  }
  if (rc == DW_OK && e->node.promised_epoch > epoch) { /* somebody was faster while our record was written */
    fence(e, &done);
    rc = role_refuse_fenced(e, "promoted, and fenced at once");
  } else if (rc == DW_OK) {
    if (e->rops) { /* the epoch's record, and what of the tail is committed by it */
      e->rops->log_grew(e->rctx, true);
      e->rops->commit_moved(e->rctx, true);
    }
    pipeline_advance(e);
    pipeline_kick(e);
    engine_log(e, DW_LOG_WARN, "primary now: epoch %llu (term %llu) begins behind LSN %llu, commit_lsn %llu",
               (ull)epoch, (ull)epoch_term(epoch), (ull)e->gate.written, (ull)e->gate.commit);
  }
  pthread_mutex_unlock(&e->mu);
  pipeline_wake(&done);
  return rc;
}

int engine_demote(dw_engine *e) {
  struct request_list done;
  request_list_init(&done);
  pthread_mutex_lock(&e->mu);
  if (!is_primary(e)) {
    pthread_mutex_unlock(&e->mu);
    return DW_OK;
  }
  if (!e->threads && (e->log_busy || e->apply_busy)) { /* the caller is inside of it */
    pthread_mutex_unlock(&e->mu);
    return dw_fail(DW_LOCKED, "a step of the engine is under way: try again");
  }
  const dw_lsn shown = atomic_load(&e->commit_lsn);
  const bool before = e->fenced;
  e->fenced = true; /* whoever is logging just now answers its group so */
  atomic_store_explicit(&e->commit_lsn, UINT64_MAX, memory_order_release);
  pipeline_fail_all(e, DW_FENCED, "this node becomes a follower", &done);
  pthread_cond_broadcast(&e->space_cond);
  while (e->log_busy) {
    e->moved_waiters++;
    pthread_cond_wait(&e->moved_cond, &e->mu);
    e->moved_waiters--;
  }
  apply_role_take(e);
  pthread_mutex_unlock(&e->mu);
  int rc = save_role(e, 0, true); /* nothing is queued and nothing logged meanwhile: it is fenced */
  pthread_mutex_lock(&e->mu);
  if (rc) { /* then it goes on as what it was */
    e->fenced = before || e->node.promised_epoch > e->epoch;
    if (!e->fenced) atomic_store_explicit(&e->commit_lsn, shown, memory_order_release);
    apply_role_release(e);
    pthread_mutex_unlock(&e->mu);
    pipeline_wake(&done);
    return rc;
  }
  gate_restart(e);
  atomic_store_explicit(&e->fresh_as_of, UINT64_MAX, memory_order_release);
  atomic_store(&e->role, DW_FOLLOWER);
  e->fenced = false;
  e->paused_until_ns = 0;
  apply_role_release(e);
  engine_log(e, DW_LOG_WARN, "follower now: the log ends at LSN %llu, applied is LSN %llu", (ull)e->gate.written,
             (ull)e->applied.lsn);
  pthread_mutex_unlock(&e->mu);
  pipeline_wake(&done);
  return DW_OK;
}
