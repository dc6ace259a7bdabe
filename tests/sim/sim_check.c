/* The invariants. Each violation names one; docs/simulation.md explains them.
 *
 * What a node says is compared with what its disk holds (ground truth) and with the tree of histories (sim_model.c);
 * what a writer was told with both; what a reader saw with the state that the tree has for the node's applied position.
 */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "wal/base/status.h"

#define LATE_NS (2 * SEC) /* an answer may come so much after its time-out: engine steps and stalls */

typedef unsigned long long ull;

static struct rec *need_rec(struct world *w, struct sim_node *n, const struct wal_pos *pos, const char *what) {
  struct rec *r = model_find(w, &pos->chain);
  if (!r || r->last_lsn != pos->lsn)
    world_violation(w, n, "same history", "its %s is LSN %llu of a history that nobody wrote", what, (ull)pos->lsn);
  return r;
}

/* ---- commits --------------------------------------------------------------------------------- */

static unsigned holders(const struct world *w, const struct rec *r, uint8_t ack, int except) {
  uint16_t mask = ack == DW_ACK_RECEIVED ? r->written : ack == DW_ACK_DURABLE ? r->durable : r->applied;
  mask = (uint16_t)(mask & ~(1u << except));
  (void)w;
  return (unsigned)__builtin_popcount(mask);
}

/* What a block waits for: after a restart the engine's settings replace those that it got from them. */
static struct block_need need_of(const struct world *w, const struct sim_node *n, const struct rec *r) {
  struct block_need need = r->need;
  if (r->life != node_life(n) && need.from_default) {
    const dw_options *o = &w->plan.opt;
    need.mode = (uint8_t)o->mode;
    need.ack = (uint8_t)o->ack;
    need.acks = (uint16_t)(o->mode == DW_ASYNC ? 0 : o->acks);
  }
  if (r->life != node_life(n)) need.durability = DW_DURABILITY_OS; /* the disk's own rules hold for it: check_opened */
  return need;
}

static void check_commit(struct world *w, struct sim_node *n, struct rec *r) {
  struct block_need need = need_of(w, n, r);
  if (need.durability == DW_DURABILITY_DISK && !(r->durable & (1u << n->idx)))
    world_violation(w, n, "commit durable", "LSN %llu is committed and asked for DISK, but is not synced here",
                    (ull)r->last_lsn);
  if (need.mode == DW_ASYNC) return;
  uint8_t level = need.ack == DW_ACK_RECEIVED ? DW_ACK_RECEIVED : DW_ACK_DURABLE;
  /* A tail that was taken over counts where this primary's own epoch is durable: docs/decisions/0007. */
  const struct begun *mine = r->epoch < n->tail->epoch ? epochs_find(w, n->tail->epoch) : NULL;
  unsigned have = mine ? holders(w, mine->rec, DW_ACK_DURABLE, n->idx) : holders(w, r, level, n->idx);
  if (have >= need.acks) return;
  if (need.mode == DW_SYNC)
    world_violation(w, n, "commit acks", "LSN %llu is committed with %u followers %s, it asked for %u",
                    (ull)r->last_lsn, have, level == DW_ACK_RECEIVED ? "having received it" : "having it durable",
                    need.acks);
  n->semi_unacked += r->commits;
}

static void note_history(struct world *w, struct rec *r, int by) {
  if (w->history_n == w->history_cap) {
    w->history_cap = w->history_cap ? 2 * w->history_cap : 256;
    w->history = realloc(w->history, w->history_cap * sizeof *w->history);
  }
  w->history[w->history_n++] = (struct committed_at){w->now, r, by};
}

/* The primary's commit_lsn has moved to `to`. */
static void commit_moved(struct world *w, struct sim_node *n, struct rec *to) {
  size_t depth = 0;
  for (const struct rec *r = to; r && !r->committed; r = r->parent) depth++;
  struct rec **stack = malloc((depth + 1) * sizeof *stack);
  depth = 0;
  for (struct rec *r = to; r && !r->committed; r = r->parent) stack[depth++] = r;
  while (depth) {
    struct rec *r = stack[--depth];
    r->committed = true;
    for (uint32_t i = 0; i < r->commits; i++)
      if (r->who[i]->state == WRITE_NOT_DONE && r->who[i]->has_put)
        world_violation(w, n, "certainly not done", "write %u was answered so, and LSN %llu committed it",
                        r->who[i]->id, (ull)r->first_lsn + i);
    if (r->commits) check_commit(w, n, r);
  }
  free(stack);
  note_history(w, to, n->idx);
  dw_status s;
  dw_status_get(n->e, &s);
  if (n->semi_unacked > s.degraded_commits)
    world_violation(w, n, "degraded is said",
                    "%llu commits went without the acks that semi-sync asks for, %llu are counted",
                    (ull)n->semi_unacked, (ull)s.degraded_commits);
}

/* The record on n's log at this LSN (the last one: epoch records share LSNs). */
static struct rec *at_lsn(struct rec *tail, dw_lsn lsn) {
  struct rec *r = tail;
  while (r && r->last_lsn > lsn && !(r->first_lsn <= lsn && r->commits)) r = r->parent;
  return r;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static void log_replaced(struct world *w, struct sim_node *n, struct rec *to);

struct rec *check_applied(struct world *w, struct sim_node *n) {
  struct engine_positions p;
  engine_positions(n->e, &p);
  if (hash128_zero(&p.applied.chain)) return NULL;
  struct rec *r = need_rec(w, n, &p.applied, "applied position");
  struct rec *tail = need_rec(w, n, &p.tail, "log's end");
  if (n->applied && !model_before(w, n->applied, r) && tail != n->tail) log_replaced(w, n, tail);
  if (n->applied && !model_before(w, n->applied, r))
    world_violation(w, n, "applied goes forward", "LSN %llu was applied, now it stands at LSN %llu",
                    (ull)n->applied->last_lsn, (ull)r->last_lsn);
  if (r->commits && !r->committed)
    world_violation(w, n, "nothing above commit_lsn", "LSN %llu is visible, but was never committed", (ull)r->last_lsn);
  if (r != n->applied) model_mark(r, offsetof(struct rec, applied), n->idx);
  n->applied = r;
  return r;
}

/* Whose history n is to take: the primary's, or that of a relay which follows somebody whose history is another. */
static const struct sim_node *model_of(struct world *w, struct sim_node *n) {
  const struct sim_node *p = roles_root(w, n), *up = n->upstream >= 0 ? &w->node[n->upstream] : NULL;
  if (!p || p == n || !up || up == p || !up->tail || !p->tail) return p;
  return model_before(w, up->tail, p->tail) ? p : up;
}

/* The follower's log became another one: it may only have dropped what its primary does not have. */
static void log_replaced(struct world *w, struct sim_node *n, struct rec *to) {
  const struct sim_node *p = model_of(w, n);
  if (n->role != DW_FOLLOWER)
    world_violation(w, n, "append", "a primary's log ends at LSN %llu, written was LSN %llu", (ull)to->last_lsn,
                    (ull)n->tail->last_lsn);
  if (n->tail && !model_before(w, n->tail, to) && p && p->tail && model_before(w, n->tail, p->tail) &&
      model_common(w, to, p->tail) == to)
    world_violation(w, n, "truncation", "it dropped LSN %llu to %llu, which the primary has", (ull)to->last_lsn + 1,
                    (ull)n->tail->last_lsn);
  epochs_dropped(w, n, n->tail, to);
  rejoin_gave_up(w, n, n->tail, to, n->applied);
  if (n->applied && !model_before(w, n->applied, to)) n->applied = NULL;
  n->tail = n->durable = to;
  n->tail_inode = NULL; /* what is synced when the old log is closed is not of this one */
  n->replaced_ns = w->now;
  model_mark(to, offsetof(struct rec, durable), n->idx);
  model_holds(to, n->idx);
}

static void look_at_commit(struct world *w, struct sim_node *n, dw_lsn lsn, bool was_fenced) {
  struct rec *commit = at_lsn(n->tail, lsn);
  if (!commit || commit->last_lsn != lsn)
    world_violation(w, n, "a block commits as a whole", "commit_lsn %llu is no boundary", (ull)lsn);
  if (commit == n->commit || (n->commit && n->commit->last_lsn == lsn)) return;
  if (n->commit && was_fenced) world_violation(w, n, "fenced", "a fenced primary commits LSN %llu", (ull)lsn);
  n->commit = commit;
  commit_moved(w, n, commit);
}

static void note_parting(struct world *w, struct sim_node *n) {
  const struct sim_node *p = model_of(w, n);
  if (p && p != n && p->tail) n->cut_to = model_before(w, n->tail, p->tail) ? NULL : model_common(w, n->tail, p->tail);
}

void check_node(struct world *w, struct sim_node *n) {
  struct engine_positions p;
  if (!node_up(n)) return;
  bool was_fenced = n->fenced; /* what it committed in the same event may have come before the fence */
  roles_look(w, n);
  engine_positions(n->e, &p);
  if (hash128_zero(&p.tail.chain)) return; /* a follower that has met nobody yet */
  struct rec *tail = need_rec(w, n, &p.tail, "log's end");
  if (tail != n->tail) log_replaced(w, n, tail);
  note_parting(w, n);
  rejoin_looked(w, n);
  if (p.durable_lsn > (n->durable ? n->durable->last_lsn : 0))
    world_violation(w, n, "durable is durable", "it says durable LSN %llu, its disk has synced LSN %llu",
                    (ull)p.durable_lsn, n->durable ? (ull)n->durable->last_lsn : 0ull);
  if (n->role == DW_PRIMARY) look_at_commit(w, n, p.commit_lsn, was_fenced);
  struct rec *applied = check_applied(w, n);
  if (p.applied.lsn > p.commit_lsn)
    world_violation(w, n, "nothing above commit_lsn", "applied %llu, commit_lsn %llu", (ull)p.applied.lsn,
                    (ull)p.commit_lsn);
  if (applied && p.oldest.lsn > p.persisted_lsn && n->durable && p.oldest.lsn != p.applied.lsn)
    world_violation(w, n, "needed log", "the log starts behind LSN %llu, the store has persisted LSN %llu only",
                    (ull)p.oldest.lsn, (ull)p.persisted_lsn);
}

static struct rec *certain(struct sim_node *n) {
  return n->tail; /* node_reap: after a power cut what was durable, after a crash what was written */
}

/* It died while it dropped a tail that the primary does not have, or while a checkpoint took its place. */
static bool was_cutting(struct world *w, const struct sim_node *n, struct rec *tail) {
  return n->cut_to && model_before(w, n->cut_to, tail);
}

void check_opened(struct world *w, struct sim_node *n) {
  struct engine_positions p;
  engine_positions(n->e, &p);
  struct rec *had = certain(n), *applied = n->applied;
  n->applied = n->commit = NULL;
  n->semi_unacked = 0;
  n->fenced = false;
  roles_look(w, n);
  if (hash128_zero(&p.tail.chain)) {
    if (had)
      world_violation(w, n, "durable stays", "LSN %llu was on this disk, the directory is empty", (ull)had->last_lsn);
    return;
  }
  struct rec *tail = need_rec(w, n, &p.tail, "log's end");
  if (had && !model_before(w, had, tail) && !was_cutting(w, n, tail))
    world_violation(w, n, "durable stays",
                    "LSN %llu epoch %llu was %s, after the restart the log ends at LSN %llu epoch %llu",
                    (ull)had->last_lsn, (ull)had->epoch, had == n->durable ? "synced" : "written", (ull)tail->last_lsn,
                    (ull)tail->epoch);
  if (had) epochs_dropped(w, n, had, tail);
  if (had) rejoin_gave_up(w, n, had, tail, applied);
  rejoin_opened(w, n);
  n->tail = n->durable = tail;
  n->replaced_ns = w->now;
  n->tail_inode = NULL;
  model_holds(tail, n->idx);
  model_mark(tail, offsetof(struct rec, durable), n->idx);
  for (const struct rec *r = tail; r && !r->committed; r = r->parent)
    for (uint32_t i = 0; i < r->commits; i++)
      if (r->who[i]->state == WRITE_NOT_DONE && r->who[i]->has_put)
        world_violation(w, n, "certainly not done", "write %u was answered so, and LSN %llu holds it after a restart",
                        r->who[i]->id, (ull)r->first_lsn + i);
  if (n->role == DW_PRIMARY && !p.fenced) epochs_reopened(w, n);
  world_trace(w, n, "up: log to LSN %llu epoch %llu, commit %llu, applied %llu", (ull)p.tail.lsn, (ull)p.epoch,
              (ull)p.commit_lsn, (ull)p.applied.lsn);
  check_node(w, n);
}

/* ---- writers --------------------------------------------------------------------------------- */

static void check_ok(struct world *w, struct sim_node *n, struct wreq *q) {
  struct engine_positions p;
  engine_positions(n->e, &p);
  struct rec *r = at_lsn(n->tail, q->lsn);
  if (n->role_ns > q->at_ns) { /* answered as a primary, heard when it is none any more */
    if (!q->rec || q->lsn < q->rec->first_lsn || q->lsn > q->rec->last_lsn || !q->rec->committed)
      world_violation(w, n, "acked is committed", "write %u was answered OK under LSN %llu, which is not", q->id,
                      (ull)q->lsn);
    epochs_acked(w, n, q);
    return;
  }
  if (!r || !r->commits || q->lsn < r->first_lsn)
    world_violation(w, n, "acked is logged", "write %u was answered OK under LSN %llu, which is not in the log", q->id,
                    (ull)q->lsn);
  if (r->who[q->lsn - r->first_lsn]->body_hash != q->body_hash)
    world_violation(w, n, "acked is logged", "write %u was answered OK under LSN %llu, where another write stands",
                    q->id, (ull)q->lsn);
  if (p.applied.lsn < q->lsn)
    world_violation(w, n, "acked is visible", "write %u was answered OK under LSN %llu, applied is %llu", q->id,
                    (ull)q->lsn, (ull)p.applied.lsn);
  q->rec = r;
  check_node(w, n); /* commit_lsn covers it, so its needs are checked there */
  if (!r->committed) world_violation(w, n, "acked is committed", "LSN %llu is not", (ull)q->lsn);
  struct block_need need = need_of(w, n, r);
  if (need.mode == DW_SYNC && need.ack == DW_ACK_APPLIED && holders(w, r, DW_ACK_APPLIED, n->idx) < need.acks)
    world_violation(w, n, "applied acks", "LSN %llu is answered, %u followers have applied it, %u were asked for",
                    (ull)q->lsn, holders(w, r, DW_ACK_APPLIED, n->idx), need.acks);
  epochs_acked(w, n, q);
}

void check_answer(struct world *w, struct wreq *q, int rc, dw_lsn lsn) {
  struct sim_node *n = &w->node[q->node];
  if (q->state != WRITE_PENDING) world_violation(w, n, "answered once", "write %u is answered again", q->id);
  q->lsn = lsn;
  switch (rc) {
  case DW_OK:
    q->state = WRITE_OK;
    w->st.acked++;
    check_ok(w, n, q);
    lease_acked(w, n, q);
    break;
  case DW_TIMEOUT:
  case DW_IO:
  case DW_CLOSED:
  case DW_FENCED: q->state = lsn ? WRITE_DOUBT : WRITE_NOT_DONE; break;
  case DW_NO_SPACE:
  case DW_NOT_ENOUGH_FOLLOWERS:
  case DW_NO_MEMORY: q->state = WRITE_NOT_DONE; break;
  default: world_violation(w, n, "answers", "write %u is answered %s", q->id, dw_rc_name(rc));
  }
  if (q->state == WRITE_DOUBT) w->st.doubt++;
  if (q->state == WRITE_NOT_DONE) w->st.not_done++;
  world_trace(w, n, "write %u: %s, LSN %llu", q->id, dw_rc_name(rc), (ull)lsn);
}

void check_pending(struct world *w) {
  for (struct wreq *q = w->pending; q; q = q->next_pending) {
    struct sim_node *n = &w->node[q->node];
    if (q->state != WRITE_PENDING || !node_up(n) || n->life != q->life) continue;
    uint32_t timeout = q->wo.timeout_ms ? q->wo.timeout_ms : w->plan.opt.ack_timeout_ms;
    if (n->freeze_ns && n->freeze_ns + timeout * MS + LATE_NS > w->now) continue; /* it could not answer */
    if (node_mono(n) > q->at_mono + timeout * MS + LATE_NS)
      world_violation(w, n, "every write is answered", "write %u has waited %.3f s, its time-out is %u ms", q->id,
                      (double)(node_mono(n) - q->at_mono) / 1e9, timeout);
  }
}

/* ---- readers --------------------------------------------------------------------------------- */

static int key_number(const char *key, size_t n) {
  return n == 3 && key[0] == 'k' ? (key[1] - '0') * 10 + key[2] - '0' : -1;
}

void check_iterator(struct world *w, struct sim_node *n, dw_iter *it, const struct rec *at) {
  uint32_t seen = 0, expected = 0;
  for (unsigned k = 0; k < SIM_KEYS; k++) expected += at && at->state[k] != 0;
  for (dw_iter_seek_first(it); dw_iter_valid(it); dw_iter_next(it)) {
    size_t klen, vlen;
    const char *key = dw_iter_key(it, &klen), *val = dw_iter_value(it, &vlen);
    int k = key_number(key, klen);
    uint32_t v = k >= 0 && k < (int)SIM_KEYS && at ? at->state[k] : 0;
    if (!v)
      world_violation(w, n, "state", "an iterator shows key %.*s, which is not there at LSN %llu", (int)klen, key,
                      at ? (ull)at->last_lsn : 0ull);
    uint8_t *want = malloc(w->values[v].bytes + 1);
    model_value_bytes(w, v, want);
    if (vlen != w->values[v].bytes || memcmp(val, want, vlen))
      world_violation(w, n, "state", "an iterator shows another value of key %.*s than LSN %llu has", (int)klen, key,
                      (ull)at->last_lsn);
    free(want);
    seen++;
  }
  if (dw_iter_status(it)) world_violation(w, n, "state", "an iterator stops: %s", dw_last_error());
  if (seen != expected)
    world_violation(w, n, "state", "an iterator shows %u keys, LSN %llu has %u", seen, at ? (ull)at->last_lsn : 0ull,
                    expected);
}

/* ---- the end --------------------------------------------------------------------------------- */

bool check_converged(struct world *w) {
  struct sim_node *p = &w->node[w->primary];
  if (!node_up(p) || !p->tail || p->role != DW_PRIMARY || p->fenced) return false;
  struct engine_positions pos, mine;
  dw_status s;
  engine_positions(p->e, &pos);
  if (pos.commit_lsn != pos.tail.lsn || pos.applied.lsn != pos.tail.lsn) return false;
  for (unsigned i = 0; i < w->plan.nodes; i++) {
    struct sim_node *n = &w->node[i];
    if (!node_up(n) || n->asking) return false;
    dw_status_get(n->e, &s);
    if (s.failed) return false; /* the operator will reopen it */
    if (n == p) continue;
    if (n->role != DW_FOLLOWER) return false;
    engine_positions(n->e, &mine);
    if (mine.applied.lsn != pos.tail.lsn || s.primary_state != DW_PEER_STREAMING) return false;
    if (!hash128_eq(&mine.tail.chain, &pos.tail.chain)) return false;
  }
  return lease_converged(w);
}

struct file_check {
  struct rec *at;
  struct world *w;
  struct sim_node *n;
};

static int on_block(void *arg, const char *path, uint64_t off, const struct wal_block *b) {
  struct file_check *f = arg;
  struct rec *r = model_find(f->w, &b->h.chain);
  (void)path, (void)off;
  if (!r || (f->at && r->parent != f->at) || hash64(b->bytes, block_total_bytes(&b->h)) != r->bytes_hash)
    world_violation(f->w, f->n, "files", "block of LSN %llu on disk is not the one that was written",
                    (ull)b->h.first_lsn);
  f->at = r;
  return 0;
}

/* The files of a node that is up and quiet: every block of its log, and every key. */
void check_files(struct world *w, struct sim_node *n) {
  char dir[64] = "";
  struct env *env = engine_env(n->e);
  dw_iter *it;
  if (n->damaged || disk_lost_pages(n->disk)) return; /* rot that nobody has read yet */
  rejoin_check_files(w, n);
  for (unsigned g = 1; g < 1000 && !dir[0]; g++) {
    bool there = false;
    char path[64];
    snprintf(path, sizeof path, SIM_DIR "/wal-%06u", g);
    if (env->ops->exists(env, path, &there) == DW_OK && there) memcpy(dir, path, sizeof dir);
  }
  struct file_check f = {.w = w, .n = n};
  struct wal_inspect look = {.on_block = on_block, .arg = &f};
  struct wal_inspect_report report;
  int rc = wal_inspect(env, dir, &look, &report);
  if (rc) world_violation(w, n, "files", "%s: %s: %s", dir, dw_rc_name(rc), report.problem);
  if (report.leftovers)
    world_violation(w, n, "files", "%s: %llu segments stand there that the log in use has forgotten", dir,
                    (ull)report.leftovers);
  if (!hash128_eq(&report.last.chain, &n->tail->chain))
    world_violation(w, n, "files", "%s ends at LSN %llu, the log at LSN %llu", dir, (ull)report.last.lsn,
                    (ull)n->tail->last_lsn);
  if (dw_iter_create(n->e, NULL, &it)) world_violation(w, n, "state", "no iterator: %s", dw_last_error());
  check_iterator(w, n, it, check_applied(w, n));
  dw_iter_destroy(it);
}
