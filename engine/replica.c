/* A follower's log, fed by replication, and the switch to a bootstrapped state.
 *
 * Appending, syncing and committing are separate events, as replication learns of them:
 *
 *   wire -> engine_replica_append -> engine_replica_sync -> (ack)
 *   commit_lsn heard -> engine_replica_commit -> apply thread -> readers
 *
 * What is heard may be ahead of what the log holds (known_commit); the gate's commit is the smaller of the two.
 * There are no needs to wait for: the primary has decided.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "wal/base/status.h"

/* mu held. */
static void follow_commit(dw_engine *e) {
  dw_lsn to = e->known_commit < e->gate.written ? e->known_commit : e->gate.written;
  if (to <= e->gate.commit) return;
  bool awaited = e->gate.commit < e->awaited_applied_lsn;
  e->gate.commit = to;
  if (e->rops) e->rops->commit_moved(e->rctx, awaited);
  if (pipeline_can_apply(e)) pthread_cond_signal(&e->apply_cond);
}

static int check_running(dw_engine *e) {
  pthread_mutex_lock(&e->mu);
  int rc = e->failed_rc ? dw_fail(DW_CLOSED, "the engine stopped: %s", e->failed) : DW_OK;
  pthread_mutex_unlock(&e->mu);
  return rc;
}

static int check_follower(dw_engine *e) {
  if (is_primary(e)) return dw_fail(DW_INVALID, "this node is a primary: it takes no log from peers");
  if (!e->wal) return dw_fail(DW_INVALID, "this follower has no cluster yet");
  return check_running(e);
}

/* A log that failed is as dead on a follower as on a primary. Keeps this thread's message. */
static int replica_failed(dw_engine *e, int rc) {
  struct wal_stat st;
  wal_stat(e->wal, &st);
  if (!st.stopped) return rc;
  struct request_list done;
  request_list_init(&done);
  char why[400];
  dw_error_copy(why, sizeof why);
  pthread_mutex_lock(&e->mu);
  engine_stop(e, rc, &done);
  pthread_mutex_unlock(&e->mu);
  pipeline_wake(&done);
  return dw_fail(rc, "%s", why);
}

int engine_replica_append(dw_engine *e, struct wal_block **blocks, size_t n) {
  int rc = check_follower(e);
  if (rc || n == 0) return rc;
  rc = wal_append_sealed(e->wal, blocks, n);
  if (rc) return replica_failed(e, rc);
  const struct block_header *last = &blocks[n - 1]->h;
  dw_lsn commit = 0;
  bool awaited = false;
  uint64_t bytes = 0;
  for (size_t i = 0; i < n; i++) {
    if (blocks[i]->h.commit_lsn > commit) commit = blocks[i]->h.commit_lsn;
    awaited |= blocks[i]->h.need.mode != DW_ASYNC;
    bytes += block_total_bytes(&blocks[i]->h);
  }
  pthread_mutex_lock(&e->mu);
  gate_local(&e->gate, block_last_lsn(last), 0, mono_ns(e));
  e->epoch = last->epoch;
  e->unapplied_bytes += bytes;
  if (commit > e->known_commit) e->known_commit = commit;
  for (size_t i = 0; i < n; i++) pipeline_await(e, &blocks[i]->h);
  follow_commit(e);
  if (e->rops) e->rops->log_grew(e->rctx, awaited);
  pthread_mutex_unlock(&e->mu);
  return DW_OK;
}

int engine_replica_sync(dw_engine *e, dw_lsn *durable) {
  int rc = check_follower(e);
  if (rc) return rc;
  dw_lsn lsn = 0;
  rc = wal_sync(e->wal, &lsn);
  if (rc) return replica_failed(e, rc);
  pthread_mutex_lock(&e->mu);
  gate_local(&e->gate, 0, lsn, mono_ns(e));
  pthread_mutex_unlock(&e->mu);
  if (durable) *durable = lsn;
  return DW_OK;
}

void engine_replica_commit(dw_engine *e, dw_lsn commit_lsn) {
  if (is_primary(e)) return;
  pthread_mutex_lock(&e->mu);
  if (commit_lsn > e->known_commit) e->known_commit = commit_lsn;
  follow_commit(e);
  pthread_mutex_unlock(&e->mu);
}

void apply_role_take(dw_engine *e) {
  while (e->apply_busy) {
    e->moved_waiters++;
    pthread_cond_wait(&e->moved_cond, &e->mu);
    e->moved_waiters--;
  }
  e->apply_busy = true;
}

void apply_role_release(dw_engine *e) {
  e->apply_busy = false;
  pipeline_kick(e);
  pipeline_moved(e);
}

/* Is pos at or behind what is applied? Epoch records share LSNs, so the log has to say; one that is not in it is
 * DW_NOT_FOUND. The apply role held, not mu. */
static int check_unapplied(dw_engine *e, const struct wal_pos *pos) {
  if (pos->lsn > e->applied.lsn) return DW_OK;
  if (pos->lsn == e->applied.lsn) {
    struct wal_cursor *c;
    int rc = wal_cursor_open(e->wal, &e->applied, &c);
    if (rc) return rc;
    for (;;) {
      struct wal_pos at = wal_cursor_pos(c);
      struct wal_block *b;
      if (hash128_eq(&at.chain, &pos->chain) || (rc = wal_cursor_next(c, pos->lsn, &b))) break;
      wal_block_unref(b);
    }
    wal_cursor_close(c);
    if (rc != DW_NOT_FOUND) return rc;
    rc = wal_cursor_open(e->wal, pos, &c);
    if (rc == DW_DIVERGED)
      return dw_fail(DW_NOT_FOUND, "LSN %llu of epoch %llu is no boundary of this log", (unsigned long long)pos->lsn,
                     (unsigned long long)pos->epoch);
    if (rc) return rc;
    wal_cursor_close(c);
  }
  return dw_fail(DW_DIVERGED, "asked to drop the log beyond LSN %llu, but LSN %llu is applied already",
                 (unsigned long long)pos->lsn, (unsigned long long)e->applied.lsn);
}

/* DW_NOT_FOUND: pos is none of ours, so nothing will be cut, and nothing need be kept. */
static int check_boundary(dw_engine *e, const struct wal_pos *pos) {
  struct wal_cursor *c;
  int rc = wal_cursor_open(e->wal, pos, &c);
  if (rc == DW_OK) wal_cursor_close(c);
  return rc == DW_DIVERGED ? dw_fail(DW_NOT_FOUND, "LSN %llu of epoch %llu is not a boundary of this log",
                                     (unsigned long long)pos->lsn, (unsigned long long)pos->epoch)
                           : rc;
}

int engine_replica_truncate(dw_engine *e, const struct engine_parting *p) {
  const struct wal_pos *pos = &p->at;
  int rc = check_follower(e);
  if (rc) return rc;
  pthread_mutex_lock(&e->mu);
  apply_role_take(e);
  dw_lsn from = e->gate.written;
  pthread_mutex_unlock(&e->mu);
  rc = check_unapplied(e, pos);
  if (rc == DW_OK) rc = check_boundary(e, pos);
  if (rc == DW_OK) rc = part_keep(e, p, NULL);
  if (rc == DW_OK) {
    wal_cursor_close(e->apply_cursor);
    e->apply_cursor = NULL;
    rc = wal_truncate(e->wal, pos);
  }
  pthread_mutex_lock(&e->mu);
  if (rc == DW_OK) {
    engine_log(e, DW_LOG_WARN, "dropped the unapplied log tail, LSN %llu to %llu: the primary's history differs",
               (unsigned long long)pos->lsn + 1, (unsigned long long)from);
    e->gate.written = e->gate.durable = pos->lsn;
    if (e->gate.commit > pos->lsn) e->gate.commit = pos->lsn;
    e->known_commit = e->gate.commit; /* what was heard was about the dropped tail */
    e->epoch = pos->epoch;
    epochs_cut(&e->epochs, pos->epoch); /* of a former primary: its own, whose record nobody has */
    e->unapplied_bytes = 0;
    if (e->gate.commit == e->applied.lsn) apply_works(e); /* what it refused is gone */
  }
  apply_role_release(e);
  pthread_mutex_unlock(&e->mu);
  return rc ? replica_failed(e, rc) : DW_OK;
}

void engine_fresh_as_of(dw_engine *e, uint64_t mono_ns) {
  pthread_mutex_lock(&e->mu);
  if (e->rops) atomic_store_explicit(&e->fresh_as_of, mono_ns, memory_order_release);
  pipeline_moved(e);
  pthread_mutex_unlock(&e->mu);
}

/* The empty log of a cluster that NODE names already. */
static int adopt_log(dw_engine *e) {
  struct wal_pos genesis = wal_genesis(&e->node.cluster_id);
  struct wal_recovery rec;
  struct wal *wal = NULL;
  int rc = engine_open_wal(e, &e->node, &genesis, &genesis, &rec, &wal);
  if (rc) return rc;
  pthread_mutex_lock(&e->mu);
  e->applied = genesis;
  gate_free(&e->gate);
  gate_init(&e->gate, 0, e->opt.ack_timeout_ms * 500000ull);
  e->wal = wal;
  pthread_mutex_unlock(&e->mu);
  return DW_OK;
}

int engine_adopt_cluster(dw_engine *e, const struct hash128 *cluster_id) {
  if (is_primary(e)) return dw_fail(DW_INVALID, "a primary does not adopt a cluster");
  if (!hash128_zero(&e->node.cluster_id)) {
    bool ours_too = hash128_eq(&e->node.cluster_id, cluster_id);
    if (ours_too) return e->wal ? DW_OK : adopt_log(e); /* its log could not be made the last time */
    char ours[33], theirs[33];
    hash128_hex(&e->node.cluster_id, ours);
    hash128_hex(cluster_id, theirs);
    return dw_fail(DW_DIVERGED, "foreign cluster: %s belongs to cluster %s, the primary to %s", e->dir, ours, theirs);
  }
  pthread_mutex_lock(&e->node_mu);
  struct node_file node = e->node;
  node.cluster_id = *cluster_id;
  int rc = role_save_node(e, &node);
  pthread_mutex_unlock(&e->node_mu);
  if (rc) return rc;
  rc = adopt_log(e);
  if (rc == DW_OK) return DW_OK;
  /* No space, maybe. Without a log it would introduce itself with a position that is none, and be refused as diverged.
   */
  pthread_mutex_lock(&e->mu);
  memset(&e->node.cluster_id, 0, sizeof e->node.cluster_id);
  pthread_mutex_unlock(&e->mu);
  return rc;
}

/* ---- bootstrap ------------------------------------------------------------------------------- */

int engine_incoming(dw_engine *e, char *path, size_t cap) {
  char *incoming = path_join(e->dir, "incoming");
  if (!incoming) return DW_NO_MEMORY;
  int rc = DW_OK;
  if (strlen(incoming) >= cap)
    rc = dw_fail(DW_INVALID, "path too long: %s", incoming);
  else
    rc = e->env->ops->mkdir(e->env, incoming);
  if (rc == DW_OK) rc = e->env->ops->sync_dir(e->env, e->dir);
  if (rc == DW_OK) memcpy(path, incoming, strlen(incoming) + 1);
  free(incoming);
  return rc;
}

/* The new generation while it is being built. */
struct install {
  struct node_file node;
  char *staged, *store_dir, *wal_dir, *old_store_dir, *old_wal_dir;
  struct store_ref *store;
  struct wal *wal;
  uint64_t carried; /* bytes that the log holds beyond the store's boundary */
  struct epoch_list epochs;
};

static void install_free(struct install *in) {
  store_ref_put(in->store);
  if (in->wal) (void)wal_close(in->wal);
  free(in->epochs.records);
  free(in->staged);
  free(in->store_dir);
  free(in->wal_dir);
  free(in->old_store_dir);
  free(in->old_wal_dir);
}

static int install_names(dw_engine *e, struct install *in, const struct hash128 *cluster_id) {
  in->node = e->node;
  in->node.cluster_id = *cluster_id;
  in->node.generation = e->node.generation + 1;
  in->staged = path_join(e->dir, "incoming/store");
  in->store_dir = path_generation(e->dir, "store", in->node.generation);
  in->wal_dir = path_generation(e->dir, "wal", in->node.generation);
  in->old_store_dir = path_generation(e->dir, "store", e->node.generation);
  in->old_wal_dir = path_generation(e->dir, "wal", e->node.generation);
  bool ok = in->staged && in->store_dir && in->wal_dir && in->old_store_dir && in->old_wal_dir;
  return ok ? DW_OK : DW_NO_MEMORY;
}

/* Store and log of the next generation, complete and durable, under their final names; NODE still names the old one. */
static int install_build(dw_engine *e, struct install *in, const struct wal_pos *pos) {
  int rc = env_remove_tree(e->env, in->store_dir);
  if (rc == DW_OK) rc = env_remove_tree(e->env, in->wal_dir);
  if (rc == DW_OK) rc = e->env->ops->rename(e->env, in->staged, in->store_dir);
  if (rc == DW_OK) rc = e->env->ops->sync_dir(e->env, e->dir);
  if (rc) return rc;
  struct store *store = NULL;
  rc = engine_open_store(e, in->store_dir, true, &store);
  if (rc) return rc;
  in->store = store_ref_create(e->env, store);
  if (!in->store) {
    e->sops->close(store);
    return DW_NO_MEMORY;
  }
  struct wal_pos marker;
  rc = e->sops->marker(store, true, &marker);
  if (rc) return rc;
  store_marker_at_genesis(&marker, &in->node.cluster_id);
  if (marker.lsn != pos->lsn || marker.epoch != pos->epoch || !hash128_eq(&marker.chain, &pos->chain))
    return dw_fail(DW_CORRUPT,
                   "the received checkpoint stands at LSN %llu, epoch %llu, announced was LSN %llu, epoch %llu",
                   (unsigned long long)marker.lsn, (unsigned long long)marker.epoch, (unsigned long long)pos->lsn,
                   (unsigned long long)pos->epoch);
  rc = epochs_load(e, store, &in->epochs);
  if (rc) return rc;
  struct wal_recovery rec;
  rc = engine_open_wal(e, &in->node, pos, pos, &rec, &in->wal);
  return rc ? rc : part_carry(e, pos, in->wal, &in->carried);
}

/* Makes NODE name the new generation. If that fails nobody can tell which one it names now (a rename may have come
 * about whose sync failed), and what would be acknowledged from here on could be in the wrong one: so the old one
 * is named again, or else the engine stops. node_mu held. */
static int install_name(dw_engine *e, struct install *in) {
  in->node.promised_epoch = e->node.promised_epoch; /* perhaps given since the copy was made */
  in->node.promised_node = e->node.promised_node;
  int rc = node_file_save(e->env, e->dir, &in->node);
  if (rc == DW_OK) return DW_OK;
  char why[400];
  dw_error_copy(why, sizeof why);
  if (node_file_save(e->env, e->dir, &e->node) != DW_OK) {
    struct request_list done;
    request_list_init(&done);
    dw_fail_prefix(DW_IO, "%s; and naming the old generation again failed", why);
    pthread_mutex_lock(&e->mu);
    engine_stop(e, DW_IO, &done);
    pthread_mutex_unlock(&e->mu);
    pipeline_wake(&done);
  }
  return dw_fail(rc, "%s", why);
}

/* Swaps the running engine over. mu and the apply role held, maint kept away. */
static void install_switch(dw_engine *e, struct install *in, const struct wal_pos *pos) {
  wal_cursor_close(e->apply_cursor);
  e->apply_cursor = NULL;
  struct store_ref *old_store = store_replace(e, in->store);
  struct wal *old_wal = e->wal;
  e->wal = in->wal;
  in->wal = old_wal;
  in->store = old_store;
  old_store->doomed_dir = in->old_store_dir;
  in->old_store_dir = NULL;
  struct epoch_list old_epochs = e->epochs;
  e->epochs = in->epochs;
  in->epochs = old_epochs;
  e->node = in->node;
  e->applied = *pos;
  atomic_store_explicit(&e->applied_lsn, pos->lsn, memory_order_release);
  e->persisted_lsn = e->known_commit = pos->lsn;
  e->errors_outlived = 0; /* of the old store */
  e->unapplied_bytes = in->carried;
  e->parted = false;
  apply_works(e);
  gate_free(&e->gate);
  gate_init(&e->gate, pos->lsn, e->opt.ack_timeout_ms * 500000ull);
  struct wal_stat st;
  wal_stat(e->wal, &st);
  gate_local(&e->gate, st.end.lsn, st.durable_lsn, mono_ns(e));
  e->epoch = st.end.epoch;
}

int engine_install(dw_engine *e, const struct hash128 *cluster_id, const struct wal_pos *pos) {
  if (is_primary(e)) return dw_fail(DW_INVALID, "a primary does not install checkpoints");
  struct install in = {0};
  int rc = check_running(e);
  if (rc == DW_OK) rc = part_check_install(e, pos);
  if (rc == DW_OK) rc = install_names(e, &in, cluster_id);
  if (rc == DW_OK) rc = install_build(e, &in, pos);
  pthread_mutex_lock(&e->node_mu); /* until the running engine has what NODE says */
  if (rc == DW_OK) rc = install_name(e, &in);
  if (rc) {
    pthread_mutex_unlock(&e->node_mu);
    install_free(&in);
    return dw_fail_prefix(rc, "installing the checkpoint of LSN %llu", (unsigned long long)pos->lsn);
  }

  pthread_mutex_lock(&e->mu);
  e->installing = true;
  atomic_store(&e->stop_asking, true); /* a repair of the log that goes away is of no use */
  while (e->maint_busy || e->scrub_busy) {
    e->moved_waiters++;
    pthread_cond_wait(&e->moved_cond, &e->mu);
    e->moved_waiters--;
  }
  atomic_store(&e->stop_asking, e->closing);
  apply_role_take(e);
  scrub_drop(e);
  install_switch(e, &in, pos);
  e->installing = false;
  apply_role_release(e);
  if (e->rops) e->rops->applied_moved(e->rctx);
  pthread_mutex_unlock(&e->mu);
  pthread_mutex_unlock(&e->node_mu);
  char *old_wal_dir = in.old_wal_dir;
  in.old_wal_dir = NULL;
  install_free(&in);                          /* closes the old log; the old store when its last iterator goes */
  (void)env_remove_tree(e->env, old_wal_dir); /* or at the next open */
  free(old_wal_dir);
  return DW_OK;
}
