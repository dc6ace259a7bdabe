/* Opening and closing.
 *
 *   lock -> NODE -> store -> log (recovers, see wal/recovery.c) -> replay what is known committed
 *        -> the tail above it waits by its own needs -> a primary starts its epoch -> threads
 *
 * A log that is damaged (case X) is repaired from peers if there are any (repair.c) and opened again; else it is
 * refused.
 *
 * Known committed is the largest of: the store's marker, and the commit_lsn fields of the log's blocks. What stands
 * above was logged, but perhaps never confirmed: asynchronous commits are complete by standing in the log; a sync
 * commit stays pending until followers acknowledge it again. Needs that came from the engine's settings follow
 * the settings of this opening; needs that a write asked for itself stay as they were.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "wal/base/status.h"

#define REPAIR_AT_OPEN_NS 60000000000ull /* no new question to a peer after that */
#define REPAIR_ROUNDS 4

static void wal_log(void *arg, int level, const char *line) {
  engine_log(arg, level, "%s", line);
}

int engine_open_store(dw_engine *e, const char *dir, bool must_exist, struct store **out) {
  struct store_options so = {.env = e->env,
                             .block_cache_bytes = e->opt.block_cache_bytes,
                             .memtable_bytes = e->opt.memtable_bytes,
                             .must_exist = must_exist};
  return e->sops->open(dir, &so, out);
}

int engine_open_wal(dw_engine *e, const struct node_file *of, const struct wal_pos *base,
                    const struct wal_pos *must_reach, struct wal_recovery *rec, struct wal **out) {
  char *dir = path_generation(e->dir, "wal", of->generation);
  if (!dir) return DW_NO_MEMORY;
  struct wal_options wo = {.env = e->env,
                           .cluster_id = of->cluster_id,
                           .node_id = of->node_id,
                           .segment_bytes = e->opt.segment_bytes,
                           .tail_cache_bytes = 32u << 20,
                           .base = *base,
                           .must_reach = *must_reach,
                           .log = wal_log,
                           .log_arg = e};
  int rc = wal_open(dir, &wo, rec, out);
  /* Before anything in it counts; each time, since what is found there may be what a crash left before this sync. */
  if (rc == DW_OK && (rc = e->env->ops->sync_dir(e->env, e->dir))) {
    (void)wal_close(*out);
    *out = NULL;
  }
  free(dir);
  return rc;
}

static int new_node(dw_engine *e) {
  struct node_file *n = &e->node;
  *n = (struct node_file){.node_id = e->opt.node_id, .generation = 1, .created_wall_ns = e->env->ops->wall_ns(e->env)};
  int rc = e->env->ops->random(e->env, n->incarnation.b, 16);
  while (rc == DW_OK && n->node_id == 0) rc = e->env->ops->random(e->env, &n->node_id, sizeof n->node_id);
  return rc;
}

/* LOCK and NODE. */
static int open_directory(dw_engine *e) {
  bool there = false;
  int rc = e->env->ops->exists(e->env, e->dir, &there);
  if (rc == DW_OK) rc = e->env->ops->mkdir(e->env, e->dir);
  if (rc) return rc;
  char *lock = path_join(e->dir, "LOCK");
  if (!lock) return DW_NO_MEMORY;
  bool save = false;
  /* Look before touching: a foreign directory gets no LOCK file. */
  rc = node_file_load(e->env, e->dir, &e->node);
  if (rc == DW_OK || rc == DW_NOT_FOUND) {
    int lock_rc = e->env->ops->lock(e->env, lock, &e->lock);
    /* Another process may have made or changed the directory before it let go of the lock: look again. */
    rc = lock_rc ? lock_rc : node_file_load(e->env, e->dir, &e->node);
  }
  free(lock);
  if (rc == DW_NOT_FOUND) {
    save = true;
    /* Also where the directory was there: perhaps a crash came before this sync. One that somebody else made in a place
     * that we may not open is theirs to sync. */
    rc = env_sync_parent(e->env, e->dir);
    if (rc == DW_OK || there) rc = new_node(e);
    e->node.follows = !is_primary(e);
  }
  if (rc) return rc;
  if (e->opt.node_id && e->opt.node_id != e->node.node_id)
    return dw_fail(DW_INVALID, "%s belongs to node id %llu, not %llu", e->dir, (unsigned long long)e->node.node_id,
                   (unsigned long long)e->opt.node_id);
  if (is_primary(e) && hash128_zero(&e->node.cluster_id)) {
    save = true;
    rc = e->env->ops->random(e->env, e->node.cluster_id.b, 16);
  }
  if (rc == DW_OK && save) rc = node_file_save(e->env, e->dir, &e->node);
  if (rc == DW_OK) rc = node_dir_clean(e->env, e->dir, e->node.generation);
  return rc;
}

static int open_store(dw_engine *e) {
  char *dir = path_generation(e->dir, "store", e->node.generation);
  char *log = path_generation(e->dir, "wal", e->node.generation);
  struct store *store = NULL;
  /* The store is made before the log: where there is a log, a store that is gone is not to be made anew. */
  bool log_exists = false;
  int rc = dir && log ? e->env->ops->exists(e->env, log, &log_exists) : DW_NO_MEMORY;
  if (rc == DW_OK) rc = engine_open_store(e, dir, log_exists, &store);
  /* The store's name is durable before the log's can be: a log without a store is refused. */
  if (rc == DW_OK && !log_exists && (rc = e->env->ops->sync_dir(e->env, e->dir))) e->sops->close(store);
  if (rc == DW_NOT_FOUND) rc = dw_fail_prefix(DW_CORRUPT, "the log is there, but the store is gone");
  if (rc == DW_OK && !(e->store = store_ref_create(e->env, store))) {
    e->sops->close(store);
    rc = DW_NO_MEMORY;
  }
  if (rc == DW_OK) rc = e->sops->marker(store, true, &e->applied);
  if (rc == DW_OK) rc = epochs_load(e, store, &e->epochs);
  free(dir);
  free(log);
  return rc;
}

int engine_replay(dw_engine *e, const struct wal_recovery *rec) {
  store_marker_at_genesis(&e->applied, &e->node.cluster_id);
  int rc = role_decide(e, rec);
  if (rc) return rc;
  dw_lsn commit = rec->max_commit_lsn > e->applied.lsn ? rec->max_commit_lsn : e->applied.lsn;
  if (commit > rec->end.lsn) commit = rec->end.lsn;
  gate_init(&e->gate, commit, e->opt.ack_timeout_ms * 500000ull);
  gate_local(&e->gate, rec->end.lsn, rec->end.lsn, mono_ns(e));
  e->epoch = rec->end.epoch;
  e->persisted_lsn = e->applied.lsn;
  dw_lsn from = e->applied.lsn;
  uint64_t start = mono_ns(e);
  rc = apply_until(e, commit);
  if (rc == DW_NOT_FOUND)
    rc = dw_fail(DW_CORRUPT, "%s: the log starts at LSN %llu, but the store ends at LSN %llu: what is between is gone",
                 e->dir, (unsigned long long)rec->oldest_lsn, (unsigned long long)e->applied.lsn);
  if (is_primary(e)) e->recovered_lsn = rec->end.lsn;
  if (rc == DW_OK && is_primary(e)) rc = role_queue_tail(e);
  if (rc == DW_OK) rc = apply_until(e, e->gate.commit);
  atomic_store(&e->applied_lsn, e->applied.lsn);
  atomic_store(&e->commit_lsn, is_primary(e) ? e->gate.commit : UINT64_MAX);
  e->unapplied_bytes = e->gate.count ? e->unapplied_bytes : 0;
  if (rc == DW_OK && e->applied.lsn > from)
    engine_log(e, DW_LOG_INFO, "replayed LSN %llu to %llu in %.1f ms", (unsigned long long)from + 1,
               (unsigned long long)e->applied.lsn, (double)(mono_ns(e) - start) / 1e6);
  return rc;
}

/* ---- a log that does not open ------------------------------------------------------------------- */

/* Repairs what the finder names. DW_OK: at least one segment was. why: what was tried. */
static int repair_log(dw_engine *e, const struct wal_pos *reach, uint64_t deadline_ns, char *why, size_t cap) {
  char *dir = path_generation(e->dir, "wal", e->node.generation);
  if (!dir) return DW_NO_MEMORY;
  struct wal_damage *all = NULL;
  size_t n = 0, repaired = 0;
  struct wal_find find = {.env = e->env,
                          .dir = dir,
                          .cluster_id = e->node.cluster_id,
                          .node_id = e->node.node_id,
                          .above = reach->lsn,
                          .reach = *reach};
  struct repair_run run = {.env = e->env,
                           .dir = dir,
                           .cluster_id = e->node.cluster_id,
                           .node_id = e->node.node_id,
                           .source = e->source,
                           .deadline_ns = deadline_ns};
  int rc = wal_list_damage(&find, &all, &n);
  for (size_t i = 0; rc == DW_OK && i < n; i++) {
    struct repair_result r;
    scrub_log_damage(e, &all[i]);
    if (repair_segment(&run, &all[i], NULL, &r) == DW_OK) {
      scrub_log_repair(e, &all[i], &r);
      scrub_count(e, 1, 1, r.blocks);
      repaired++;
    } else {
      snprintf(why, cap, "%s: %.250s", all[i].name, r.why);
    }
  }
  free(all);
  free(dir);
  return rc ? rc : repaired ? DW_OK : DW_NOT_FOUND;
}

/* Damage side by side may need a second look: a header is rebuilt from the segment before it. */
static int open_or_repair(dw_engine *e, const struct wal_pos *base, const struct wal_pos *reach,
                          struct wal_recovery *rec) {
  char first[500], why[300] = "";
  uint64_t deadline = mono_ns(e) + REPAIR_AT_OPEN_NS;
  for (int round = 0;; round++) {
    int rc = engine_open_wal(e, &e->node, base, reach, rec, &e->wal);
    if (rc != DW_CORRUPT && rc != DW_IO) return rc; /* DW_IO: perhaps a sector that can't be read any more */
    if (round == 0) dw_error_copy(first, sizeof first);
    bool peers = e->source && e->source->count;
    if (!peers) return rc == DW_IO ? rc : dw_fail(rc, "%s; no peer is named to repair it from", first);
    if (round < REPAIR_ROUNDS && repair_log(e, reach, deadline, why, sizeof why) == DW_OK) continue;
    if (rc == DW_IO && !why[0]) return dw_fail(rc, "%s", first);
    return dw_fail(rc, "%.250s; repair: %s", first, why[0] ? why : "nothing was found that a peer could give");
  }
}

static int open_log(dw_engine *e) {
  if (hash128_zero(&e->node.cluster_id)) return DW_OK; /* a follower that waits for its first primary */
  bool fresh = e->applied.lsn == 0 && hash128_zero(&e->applied.chain);
  /* A log is made at the genesis only, or by engine_install: one that is not there is not to be made anew where the
   * store ends, as if nothing had followed. */
  struct wal_pos genesis = wal_genesis(&e->node.cluster_id), reach = fresh ? genesis : e->applied;
  struct wal_recovery rec;
  int rc = open_or_repair(e, &genesis, &reach, &rec);
  if (rc) return rc;
  rc = engine_replay(e, &rec);
  return rc == DW_OK && is_primary(e) ? role_open(e, &rec) : rc;
}

static int init_sync(dw_engine *e) {
  pthread_mutex_init(&e->store_mu, NULL);
  pthread_mutex_init(&e->mu, NULL);
  pthread_mutex_init(&e->node_mu, NULL);
  atomic_init(&e->fresh_as_of, UINT64_MAX);
  atomic_init(&e->lease_until_ns, UINT64_MAX);
  pthread_cond_t *conds[] = {&e->log_cond,   &e->apply_cond, &e->tick_cond, &e->maint_cond,
                             &e->space_cond, &e->moved_cond, &e->scrub_cond};
  for (size_t i = 0; i < sizeof conds / sizeof *conds; i++) pthread_cond_init(conds[i], NULL);
  request_list_init(&e->queue);
  request_list_init(&e->pending);
  request_list_init(&e->lingering);
  request_list_init(&e->answers);
  return DW_OK;
}

static void free_sync(dw_engine *e) {
  pthread_cond_t *conds[] = {&e->log_cond,   &e->apply_cond, &e->tick_cond, &e->maint_cond,
                             &e->space_cond, &e->moved_cond, &e->scrub_cond};
  for (size_t i = 0; i < sizeof conds / sizeof *conds; i++) pthread_cond_destroy(conds[i]);
  pthread_mutex_destroy(&e->node_mu);
  pthread_mutex_destroy(&e->mu);
  pthread_mutex_destroy(&e->store_mu);
}

int engine_open(const char *dir, const dw_options *opt, const struct engine_config *config, dw_engine **out) {
  if (!dir || !*dir || strlen(dir) > 3000) return dw_fail(DW_INVALID, "data directory path is empty or too long");
  dw_engine *e = calloc(1, sizeof *e);
  if (!e) return dw_fail_nomem(sizeof *e);
  e->env = config && config->env ? config->env : env_posix();
  e->sops = config && config->store ? config->store : store_rocksdb();
  e->threads = config ? config->threads : true;
  if (config && config->source) {
    e->source_copy = *config->source;
    e->source = &e->source_copy;
  }
  e->pin_lsn = UINT64_MAX;
  init_sync(e);
  int rc = options_copy(&e->opt, opt);
  if (rc) {
    free_sync(e);
    free(e);
    return rc;
  }
  atomic_init(&e->role, (int)e->opt.role);
  e->dir = strdup(dir);
  scrub_init(e);
  rc = e->dir ? open_directory(e) : dw_fail_nomem(strlen(dir));
  if (rc == DW_OK) rc = part_count(e);
  if (rc == DW_OK) rc = open_store(e);
  if (rc == DW_OK) rc = open_log(e);
  if (rc == DW_OK) e->last_sync_ns = mono_ns(e);
  if (rc == DW_OK && e->threads) rc = background_start(e);
  if (rc) {
    char why[512];
    dw_error_copy(why, sizeof why);
    e->source = NULL; /* the caller's again */
    (void)engine_close(e);
    return dw_fail(rc, "%s", why);
  }
  *out = e;
  return DW_OK;
}

void dw_stop(dw_engine *e) {
  struct request_list done;
  if (!e) return;
  request_list_init(&done);
  pthread_mutex_lock(&e->mu);
  e->stopping = true; /* the tick ends the waiting of those that are just being logged */
  pipeline_fail_all(e, DW_CLOSED, "the engine is closing", &done);
  pthread_cond_broadcast(&e->space_cond);
  pipeline_moved(e);
  if (e->rops && e->rops->stopping) e->rops->stopping(e->rctx);
  pthread_mutex_unlock(&e->mu);
  pipeline_wake(&done);
}

int engine_close(dw_engine *e) {
  struct request_list done;
  request_list_init(&done);
  atomic_store(&e->stop_asking, true);
  pthread_mutex_lock(&e->mu);
  e->stopping = e->closing = true;
  pthread_mutex_unlock(&e->mu);
  background_stop(e);
  pthread_mutex_lock(&e->mu);
  pipeline_fail_all(e, DW_CLOSED, "the engine closed", &done);
  pthread_cond_broadcast(&e->space_cond);
  pipeline_moved(e);
  pipeline_deliver(e);
  pthread_mutex_unlock(&e->mu);
  pipeline_wake(&done);

  int rc = DW_OK;
  wal_cursor_close(e->apply_cursor);
  scrub_drop(e);
  if (e->source && e->source->destroy) e->source->destroy(e->source->ctx);
  if (e->wal) rc = wal_close(e->wal);
  store_ref_put(e->store);
  if (e->lock) e->env->ops->unlock(e->lock);
  gate_free(&e->gate);
  free(e->epochs.records);
  free(e->dir);
  options_free(&e->opt);
  free_sync(e);
  free(e);
  return rc;
}

void engine_attach(dw_engine *e, const struct replication_ops *ops, void *ctx) {
  pthread_mutex_lock(&e->mu);
  e->rops = ops;
  e->rctx = ctx;
  if (!ops) atomic_store_explicit(&e->fresh_as_of, UINT64_MAX, memory_order_release);
  pthread_mutex_unlock(&e->mu);
}

void *engine_replication(dw_engine *e) {
  pthread_mutex_lock(&e->mu);
  void *ctx = e->rctx;
  pthread_mutex_unlock(&e->mu);
  return ctx;
}
