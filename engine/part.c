/* Histories parted: what only this node has is kept (diverged.h) before anything else happens to it.
 *
 * Who is told to cut its tail, or takes a checkpoint in place of what it has, was on another history for a while: the
 * unacknowledged writes of an old primary, or what it took over from one. Some of them may have been in doubt, some
 * were asynchronous and acknowledged; the reader of the file decides what becomes of them.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/diverged.h"
#include "engine/internal.h"
#include "wal/base/status.h"

typedef unsigned long long ull;

struct counts {
  dw_engine *e;
  uint64_t files, commits;
};

/* What can't be read is no reason to stop: its commits are not counted, and it says so. */
static int count_one(void *arg, const char *name, int rc, const struct diverged_header *h) {
  struct counts *c = arg;
  char why[300];
  if (rc) {
    dw_error_copy(why, sizeof why);
    engine_log(c->e, DW_LOG_ERROR, "%s/%s/%s: its commits are not counted: %s", c->e->dir, DIVERGED_DIR, name, why);
  }
  c->files++;
  c->commits += h->commits;
  return 0;
}

static int recount(dw_engine *e, struct counts *c) {
  int rc = diverged_list(e->env, e->dir, count_one, c);
  if (rc) return rc;
  pthread_mutex_lock(&e->mu);
  e->diverged_files = c->files;
  e->diverged_commits = c->commits;
  pthread_mutex_unlock(&e->mu);
  return DW_OK;
}

int part_count(dw_engine *e) {
  struct counts c = {.e = e};
  int rc = recount(e, &c);
  if (rc == DW_OK && c.files)
    engine_log(e, DW_LOG_WARN,
               "%s/%s holds %llu commits in %llu files that are not in the cluster's history: see `dabbawal diverged`",
               e->dir, DIVERGED_DIR, (ull)c.commits, (ull)c.files);
  return rc;
}

static void say(dw_engine *e, const struct engine_parting *p, const struct diverged_saved *s) {
  const struct diverged_header *h = &s->header;
  const char *peer = p->peer && *p->peer ? p->peer : "address unknown";
  engine_log(e, DW_LOG_ERROR,
             "histories parted after LSN %llu: %llu commits, LSN %llu to %llu, are not in the history of node %llu "
             "(%s); %s in "
             "%s/%s/%s",
             (ull)p->at.lsn, (ull)h->commits, (ull)h->from.lsn + 1, (ull)h->end.lsn, (ull)p->peer_id, peer,
             s->was_there ? "they were kept already" : "they are kept", e->dir, DIVERGED_DIR, s->name);
  if (!h->complete)
    engine_log(e, DW_LOG_ERROR, "%s/%s/%s is not complete: the log had been trimmed up to LSN %llu already", e->dir,
               DIVERGED_DIR, s->name, (ull)h->from.lsn);
}

int part_keep(dw_engine *e, const struct engine_parting *p, struct engine_parted *out) {
  struct diverged_saved saved;
  struct counts counts = {.e = e};
  struct diverged_header about = {.cluster_id = e->node.cluster_id,
                                  .incarnation = e->node.incarnation,
                                  .node_id = e->node.node_id,
                                  .peer_id = p->peer_id,
                                  .parted = p->at,
                                  .reason = p->rejoin ? DIVERGED_REJOIN : DIVERGED_CUT};
  int rc = diverged_save(e->env, e->dir, e->wal, &about, p->peer, &saved);
  if (rc == DW_NOT_FOUND) return rc;
  if (rc) {
    char why[400];
    dw_error_copy(why, sizeof why);
    (void)recount(e, &counts); /* the file may be there: it was its sidecar that failed */
    engine_log(e, DW_LOG_ERROR,
               "histories parted after LSN %llu, but what only this node has can't be kept, so it stays as it is: %s",
               (ull)p->at.lsn, why);
    return dw_fail(rc, "%s", why);
  }
  if (saved.name[0]) say(e, p, &saved);
  if (saved.name[0]) rc = saved.was_there ? recount(e, &counts) : part_count(e);
  const struct diverged_header *h = &saved.header;
  if (out) *out = (struct engine_parted){h->commits, h->complete, h->complete ? h->from : h->parted};
  return rc;
}

int engine_part(dw_engine *e, const struct engine_parting *p, struct engine_parted *out) {
  if (is_primary(e)) return dw_fail(DW_INVALID, "this node is a primary: it parts with nothing");
  if (!e->wal) return dw_fail(DW_INVALID, "this follower has no cluster yet");
  struct engine_parted kept = {0};
  int rc = part_keep(e, p, &kept);
  if (rc == DW_OK && !kept.complete && !p->incomplete_will_do)
    rc = dw_fail(
        DW_DIVERGED,
        "what only this node has can't be kept completely: its log had been trimmed behind LSN %llu, where histories "
        "parted. Rejoining by command takes that as it is",
        (ull)p->at.lsn);
  if (rc) return rc;
  struct wal_stat st;
  wal_stat(e->wal, &st);
  pthread_mutex_lock(&e->mu);
  e->parted = true;
  e->parted_end = st.end;
  e->parted_at = kept.common;
  e->parted_will_do = p->incomplete_will_do;
  pthread_mutex_unlock(&e->mu);
  if (out) *out = kept;
  return DW_OK;
}

/* May a checkpoint at pos replace what is applied? Forward always; back only what engine_part has kept. */
int part_check_install(dw_engine *e, const struct wal_pos *pos) {
  struct wal_stat st = {0};
  if (e->wal) wal_stat(e->wal, &st);
  pthread_mutex_lock(&e->mu);
  bool back = wal_pos_before(pos, &e->applied) || pos->epoch < e->applied.epoch;
  bool kept = e->parted && hash128_eq(&st.end.chain, &e->parted_end.chain);
  dw_lsn applied = e->applied.lsn;
  pthread_mutex_unlock(&e->mu);
  if (!back || kept) return DW_OK;
  return dw_fail(DW_DIVERGED, "LSN %llu is applied here, and what lies beyond LSN %llu was not kept", (ull)applied,
                 (ull)pos->lsn);
}

/* A new primary's commit mark lags a round trip, so its checkpoint may be older than the parting. What lies between
 * them this node may have acknowledged, and its promise may be asked for before it comes again: so it goes from the old
 * log into the new one, which begins at `pos`. */
int part_carry(dw_engine *e, const struct wal_pos *pos, struct wal *to, uint64_t *bytes) {
  struct wal_cursor *c;
  struct wal_block *b;
  pthread_mutex_lock(&e->mu);
  bool back = e->parted && wal_pos_before(pos, &e->applied) && wal_pos_before(pos, &e->parted_at);
  struct wal_pos end = e->parted_at, at = *pos;
  bool will_do = e->parted_will_do;
  pthread_mutex_unlock(&e->mu);
  if (!back) return DW_OK;
  int rc = wal_cursor_open(e->wal, pos, &c);
  if (rc == DW_NOT_FOUND && will_do) {
    engine_log(e, DW_LOG_WARN,
               "LSN %llu to %llu are in both histories, but not in this log any more: until they come again "
               "one node less has them",
               (ull)pos->lsn + 1, (ull)end.lsn);
    return DW_OK;
  }
  if (rc == DW_NOT_FOUND)
    return dw_fail(
        DW_DIVERGED,
        "the checkpoint is of LSN %llu, histories parted after LSN %llu, and this log has been trimmed between "
        "them: a later one will do, or rejoining by command",
        (ull)pos->lsn, (ull)end.lsn);
  if (rc) return rc;
  while (rc == DW_OK && !hash128_eq(&at.chain, &end.chain)) {
    rc = wal_cursor_next(c, end.lsn, &b);
    if (rc) break;
    rc = wal_append_sealed(to, &b, 1);
    at = (struct wal_pos){block_last_lsn(&b->h), b->h.epoch, b->h.chain};
    *bytes += block_total_bytes(&b->h);
    wal_block_unref(b);
  }
  wal_cursor_close(c);
  return rc ? rc : wal_sync(to, NULL);
}

int engine_diverged(dw_engine *e, diverged_fn fn, void *arg) {
  return diverged_list(e->env, e->dir, fn, arg);
}

int engine_store_dir(dw_engine *e, char *path, size_t cap) {
  char *dir = path_generation(e->dir, "store", e->node.generation);
  if (!dir) return DW_NO_MEMORY;
  int rc = strlen(dir) < cap ? DW_OK : dw_fail(DW_INVALID, "path too long: %s", dir);
  if (rc == DW_OK) memcpy(path, dir, strlen(dir) + 1);
  free(dir);
  return rc;
}
