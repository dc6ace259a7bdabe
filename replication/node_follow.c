/* Following: drives the receiver (receiver.h) of the connection to the primary.
 *
 * Appending and syncing run here, in the loop thread: after each poll everything that has arrived is appended, then
 * synced once, then acknowledged; what arrives meanwhile forms the next group. A hand-over to another thread would cost
 * a lone commit more than it brings. What takes longer (looking through DIR/incoming, hashing a received file, opening
 * a received store) runs as a job; heartbeats go on meanwhile.
 *
 * Installing replaces the log and truncating cuts it: before either, the connections of cascaded followers are ended
 * and their cursors closed. What they hold beyond the cut must not meet a commit_lsn that is about what comes in its
 * place.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/checkpoint_reuse.h"
#include "replication/node.h"
#include "replication/position.h"
#include "wal/base/status.h"

#define RELAYS_MAX 4096u
#define OUT_IOVECS 16

/* A cascaded follower's probe on its way up. Like strong reads (node_strong.c): all that wait share the next probe of
 * ours, take the answer to any later one as well, and wait again if the link breaks: somebody below may be waiting. */
struct relay {
  uint64_t id; /* of our probe; 0: waits for one */
  struct peer *peer;
  struct msg_probe probe;
};

enum follow_task { TASK_PART, TASK_BEGIN, TASK_FILE_END, TASK_INSTALL };
struct follow_job {
  struct node *n;
  enum follow_task task;
  const struct ckpt_manifest *begin; /* the receiver's, valid until its answer */
  uint64_t *offsets, reused;
  struct engine_parting parting;
  struct wal_pos asked; /* where histories part was answered to this */
  bool older;           /* parting: it is no boundary of ours, `pos` is one to ask about */
  uint32_t file;
  struct hash128 hash, cluster_id;
  struct wal_pos pos;
  int rc;
  char why[MSG_TEXT_BYTES];
};

struct follow {
  struct receiver *r;
  struct tp_conn *conn; /* NULL: none */
  bool connected, dirty, stopped;
  struct ckpt_in *in;
  struct follow_job job;
  unsigned jobs;
  bool install_waits;                 /* for cursors to be closed */
  uint64_t install_ns, moved, reused; /* bytes of the checkpoint under way: over the network, from our store */
  struct relay *relays;
  size_t relay_count, relay_cap;
  bool relays_wait;
  dw_peer_state state;
  char last_end[MSG_TEXT_BYTES]; /* why the connection ended last time: said once, not at every attempt */
};

/* ---- life ------------------------------------------------------------------------------------ */

int follow_create(struct node *n) {
  struct engine_identity id;
  struct receiver_config cfg = {
      .heartbeat_ms = n->opt->heartbeat_ms, .peer_timeout_ms = n->opt->peer_timeout_ms, .primary = n->primary};
  char incoming[4000];
  struct follow *f = calloc(1, sizeof *f);
  if (!f) return dw_fail_nomem(sizeof *f);
  n->follow = f;
  engine_identity(n->e, &id);
  cfg.node_id = id.node_id;
  cfg.incarnation = id.incarnation;
  struct engine_promise promise;
  engine_promised(n->e, &promise);
  cfg.min_epoch = promise.epoch;
  cfg.min_node = promise.node_id;
  cfg.rejoin = n->opt->auto_rejoin;
  cfg.rejoin_once = n->rejoin;
  memcpy(cfg.region, id.region, sizeof cfg.region);
  cfg.self = n->members.self;
  int rc = n->env->ops->random(n->env, &cfg.seed, sizeof cfg.seed);
  if (rc == DW_OK) rc = engine_incoming(n->e, incoming, sizeof incoming);
  if (rc == DW_OK) rc = ckpt_in_open(n->env, incoming, &f->in);
  if (rc == DW_OK) rc = receiver_create(&cfg, node_now(n), &f->r);
  f->dirty = true;
  engine_fresh_as_of(n->e, UINT64_MAX);
  atomic_store(&n->following, rc == DW_OK);
  return rc;
}

void follow_destroy(struct node *n) {
  struct follow *f = n->follow;
  if (!f) return;
  atomic_store(&n->following, false);
  receiver_destroy(f->r);
  ckpt_in_close(f->in);
  free(f->job.offsets);
  free(f->relays);
  free(f);
  n->follow = NULL;
}

void follow_stop(struct node *n) {
  struct follow *f = n->follow;
  f->stopped = true;
  conn_close(f->conn);
  f->conn = NULL;
  f->connected = false;
  strong_lost(n);
  f->relay_count = 0; /* unanswered: the staleness of those below grows, which is true */
}

bool follow_idle(const struct node *n) {
  return !n->follow->conn && !n->follow->jobs;
}

void follow_fence(struct node *n, uint64_t epoch, uint64_t node_id) {
  receiver_fence(n->follow->r, epoch, node_id, node_now(n));
  n->follow->dirty = true;
}

static void fill_position(struct node *n, struct receiver_position *out) {
  struct engine_identity id;
  struct engine_positions pos;
  engine_identity(n->e, &id);
  engine_positions(n->e, &pos);
  *out = (struct receiver_position){.has_cluster = id.has_cluster,
                                    .cluster_id = id.cluster_id,
                                    .tail = pos.tail,
                                    .applied = pos.applied,
                                    .durable_lsn = pos.durable_lsn,
                                    .commit_lsn = pos.commit_lsn,
                                    .resume = ckpt_in_id(n->follow->in)};
}

/* ---- the connection -------------------------------------------------------------------------- */

static void on_connected(void *owner, const char *why) {
  struct node *n = owner;
  struct follow *f = n->follow;
  f->dirty = true;
  if (why) {
    conn_close(f->conn);
    f->conn = NULL;
    receiver_connect_failed(f->r, why, node_now(n));
    return;
  }
  struct receiver_position pos;
  fill_position(n, &pos);
  f->connected = true;
  receiver_connected(f->r, &pos, node_now(n));
}

static void on_input(void *owner, const void *bytes, size_t count) {
  struct node *n = owner;
  struct follow *f = n->follow;
  receiver_input(f->r, bytes, count, node_now(n));
  conn_read(f->conn, receiver_wants_input(f->r));
  f->dirty = true;
}

static void on_drained(void *owner, size_t count) {
  struct node *n = owner;
  receiver_drained(n->follow->r, count, node_now(n));
  n->follow->dirty = true;
}

static void on_eof(void *owner, const char *why) {
  struct node *n = owner;
  receiver_eof(n->follow->r, why, node_now(n));
  n->follow->dirty = true;
}

static const struct conn_events follow_events = {
    .connected = on_connected, .input = on_input, .drained = on_drained, .eof = on_eof};

static void on_connect(struct node *n) {
  struct follow *f = n->follow;
  f->conn = transport_connect(n->t, n->primary, &follow_events, n);
  if (!f->conn) receiver_connect_failed(f->r, "no memory", node_now(n));
}

static void on_close(struct node *n, int code, const char *why, uint64_t retry_ns) {
  struct follow *f = n->follow;
  conn_close(f->conn);
  f->conn = NULL;
  f->connected = false;
  bool refused = receiver_state(f->r) == DW_PEER_REFUSED, again = strcmp(f->last_end, why) == 0;
  snprintf(f->last_end, sizeof f->last_end, "%s", why);
  engine_log(n->e,
             again     ? DW_LOG_DEBUG
             : refused ? DW_LOG_ERROR
                       : DW_LOG_WARN,
             "primary %s: disconnected (%s): %s; next attempt in %llu ms", n->primary, dw_rc_name(code), why,
             (unsigned long long)(retry_ns / 1000000));
}

static void flush(struct node *n) {
  struct follow *f = n->follow;
  struct iovec iov[OUT_IOVECS];
  while (f->connected && receiver_output_bytes(f->r) && !conn_writing(f->conn)) {
    const char *why = NULL;
    ssize_t sent = conn_send(f->conn, iov, receiver_output(f->r, iov, OUT_IOVECS), &why);
    if (sent < 0) receiver_eof(f->r, why, node_now(n));
    if (sent <= 0) return;
    receiver_drained(f->r, (size_t)sent, node_now(n));
  }
}

/* ---- the log --------------------------------------------------------------------------------- */

/* The log is another one, or shorter: cascaded followers' shippers hear of it. */
static void log_replaced(struct node *n) {
  atomic_fetch_or(&n->wake, WAKE_GREW | WAKE_COMMIT | WAKE_APPLIED | WAKE_NOW);
  transport_wake(n->t);
}

static void on_adopt(struct node *n, const struct hash128 *cluster_id) {
  char why[MSG_TEXT_BYTES] = "";
  struct receiver_position pos;
  int rc = engine_adopt_cluster(n->e, cluster_id);
  if (rc) dw_error_copy(why, sizeof why);
  fill_position(n, &pos);
  log_replaced(n);
  receiver_adopted(n->follow->r, rc, &pos, why, node_now(n));
}

static void on_append(struct node *n, struct wal_block **blocks, size_t count) {
  char why[MSG_TEXT_BYTES] = "";
  int rc = engine_replica_append(n->e, blocks, count);
  if (rc) dw_error_copy(why, sizeof why);
  const struct block_header *last = &blocks[count - 1]->h;
  struct wal_pos tail = {block_last_lsn(last), last->epoch, last->chain};
  receiver_appended(n->follow->r, rc, &tail, why, node_now(n));
}

static void on_sync(struct node *n) {
  char why[MSG_TEXT_BYTES] = "";
  dw_lsn durable = 0;
  int rc = engine_replica_sync(n->e, &durable);
  if (rc) dw_error_copy(why, sizeof why);
  receiver_synced(n->follow->r, rc, durable, why, node_now(n));
}

static void on_truncate(struct node *n, const struct wal_pos *to, uint64_t peer_id) {
  char why[MSG_TEXT_BYTES] = "";
  struct receiver_position pos;
  struct wal_pos at, *older = NULL;
  n->cuts++;
  serve_end_all(n, DW_STALE, "this node drops a part of its log: come back in a moment");
  int rc = engine_replica_truncate(n->e, &(struct engine_parting){.at = *to, .peer_id = peer_id, .peer = n->primary});
  if (rc) dw_error_copy(why, sizeof why);
  if (rc == DW_NOT_FOUND && position_older_wal(engine_wal(n->e), to, NULL, &at) == DW_OK) older = &at;
  fill_position(n, &pos);
  log_replaced(n);
  receiver_truncated(n->follow->r, rc, &pos, older, why, node_now(n));
}

/* ---- bootstrap ------------------------------------------------------------------------------- */

static int install(struct node *n, const struct follow_job *j) {
  struct ckpt_in *in = n->follow->in;
  int rc = ckpt_in_finish(in);
  if (rc == DW_OK) rc = engine_install(n->e, &j->cluster_id, &j->pos);
  char why[400];
  if (rc) dw_error_copy(why, sizeof why);
  (void)ckpt_in_discard(in); /* used up, or not fit to be used */
  return rc ? dw_fail(rc, "%s", why) : DW_OK;
}

static int begin(struct ckpt_in *in, struct follow_job *j) {
  char store[4096];
  int rc = ckpt_in_begin(in, j->begin, j->offsets);
  if (rc == DW_OK) rc = engine_store_dir(j->n->e, store, sizeof store);
  return rc ? rc : ckpt_in_reuse(in, j->begin, store, j->offsets, &j->reused);
}

static int part(struct follow_job *j) {
  int rc = engine_part(j->n->e, &j->parting, NULL);
  if (rc != DW_NOT_FOUND) return rc;
  j->older = position_older_wal(engine_wal(j->n->e), &j->parting.at, &j->asked, &j->pos) == DW_OK;
  return j->older ? rc
                  : dw_fail(DW_IO, "LSN %llu is no boundary of this log, and no older one is held",
                            (unsigned long long)j->parting.at.lsn);
}

static void job_run(void *arg) { /* worker */
  struct follow_job *j = arg;
  struct ckpt_in *in = j->n->follow->in;
  switch (j->task) {
  case TASK_PART: j->rc = part(j); break;
  case TASK_BEGIN: j->rc = begin(in, j); break;
  case TASK_FILE_END: j->rc = ckpt_in_file_end(in, j->file, &j->hash); break;
  case TASK_INSTALL: j->rc = install(j->n, j); break;
  }
  if (j->rc) dw_error_copy(j->why, sizeof j->why);
}

static void install_done(struct node *n, const struct follow_job *j) {
  struct receiver_position pos;
  fill_position(n, &pos);
  n->serve_blocked = false;
  log_replaced(n);
  if (j->rc == DW_OK) {
    n->bootstraps++;
    n->bootstrap_bytes = n->follow->moved;
    n->bootstrap_reused = n->follow->reused;
    engine_log(n->e, DW_LOG_INFO,
               "bootstrap finished: the checkpoint at LSN %llu is installed, in %.0f ms; %llu bytes came, %llu were "
               "here already",
               (unsigned long long)j->pos.lsn, (double)(node_now(n) - n->follow->install_ns) / 1e6,
               (unsigned long long)n->bootstrap_bytes, (unsigned long long)n->bootstrap_reused);
  } else {
    engine_log(n->e, DW_LOG_ERROR, "the received checkpoint can't be installed: %s", j->why);
  }
  receiver_installed(n->follow->r, j->rc, &pos, j->why, node_now(n));
}

static void job_done(void *arg) {
  struct follow_job *j = arg;
  struct node *n = j->n;
  struct follow *f = n->follow;
  f->jobs--;
  f->dirty = true;
  n->report_urgent = true;
  if (f->stopped) return;
  switch (j->task) {
  case TASK_PART: receiver_parted(f->r, j->rc, j->older ? &j->pos : NULL, j->why, node_now(n)); break;
  case TASK_BEGIN:
    f->moved = 0;
    f->reused = j->reused;
    if (j->rc == DW_OK && j->reused)
      engine_log(n->e, DW_LOG_INFO, "%llu bytes of the checkpoint are in this node's store already",
                 (unsigned long long)j->reused);
    if (j->rc == DW_OK && ckpt_in_held(f->in))
      engine_log(n->e, DW_LOG_INFO, "resuming a checkpoint: %llu bytes of it are here already",
                 (unsigned long long)ckpt_in_held(f->in));
    receiver_ckpt_begun(f->r, j->rc, j->offsets, j->why, node_now(n));
    free(j->offsets);
    j->offsets = NULL;
    break;
  case TASK_FILE_END: receiver_ckpt_file_done(f->r, j->rc, j->why, node_now(n)); break;
  case TASK_INSTALL: install_done(n, j); break;
  }
}

static void job_start(struct node *n) {
  struct follow *f = n->follow;
  struct follow_job *j = &f->job;
  f->jobs++;
  int rc = j->rc ? j->rc : transport_work(n->t, job_run, job_done, j);
  if (rc == DW_OK) return;
  j->rc = rc;
  snprintf(j->why, sizeof j->why, "no memory");
  job_done(j);
}

static void on_part(struct node *n, const struct recv_action *a) {
  n->follow->job = (struct follow_job){.n = n,
                                       .task = TASK_PART,
                                       .asked = a->part.asked,
                                       .parting = {.at = a->part.pos,
                                                   .peer_id = a->part.peer_id,
                                                   .peer = n->primary,
                                                   .rejoin = a->part.rejoin,
                                                   .incomplete_will_do = a->part.incomplete_will_do}};
  job_start(n);
}

static void on_ckpt_begin(struct node *n, const struct ckpt_manifest *m) {
  struct follow_job *j = &n->follow->job;
  *j = (struct follow_job){.n = n, .task = TASK_BEGIN, .begin = m};
  j->offsets = calloc(m->count + 1, sizeof *j->offsets);
  if (!j->offsets) j->rc = DW_NO_MEMORY;
  job_start(n);
}

static void on_ckpt_write(struct node *n, const struct recv_action *a) {
  char why[MSG_TEXT_BYTES] = "";
  int rc = ckpt_in_write(n->follow->in, a->write.file, a->write.offset, a->write.data, a->write.bytes);
  n->follow->moved += a->write.bytes;
  if (rc) dw_error_copy(why, sizeof why);
  receiver_ckpt_written(n->follow->r, rc, why, node_now(n));
}

static void on_ckpt_file_end(struct node *n, const struct recv_action *a) {
  n->follow->job =
      (struct follow_job){.n = n, .task = TASK_FILE_END, .file = a->file_end.file, .hash = a->file_end.hash};
  job_start(n);
}

static void on_ckpt_install(struct node *n, const struct recv_action *a) {
  struct follow *f = n->follow;
  f->job =
      (struct follow_job){.n = n, .task = TASK_INSTALL, .cluster_id = a->install.cluster_id, .pos = a->install.pos};
  f->install_ns = node_now(n);
  f->install_waits = true;
  n->serve_blocked = true;
  serve_end_all(n, DW_STALE, "this node is installing a checkpoint: come back in a moment");
}

/* ---- probes ---------------------------------------------------------------------------------- */

uint64_t follow_probe(struct node *n) {
  n->follow->dirty = true;
  return receiver_probe(n->follow->r, 0, node_now(n));
}

void follow_relay(struct node *n, struct peer *p, const struct msg_probe *probe) {
  struct follow *f = n->follow;
  if (f->relay_count == f->relay_cap) {
    size_t cap = f->relay_cap ? 2 * f->relay_cap : 16;
    struct relay *grown = cap <= RELAYS_MAX ? realloc(f->relays, cap * sizeof *grown) : NULL;
    if (!grown) return; /* somebody floods us: unanswered, his staleness grows */
    f->relays = grown;
    f->relay_cap = cap;
  }
  f->relays[f->relay_count++] = (struct relay){0, p, *probe};
  f->relays_wait = f->dirty = true;
}

static void relays_send(struct node *n) {
  struct follow *f = n->follow;
  uint8_t hops = 0;
  for (size_t i = 0; i < f->relay_count; i++)
    if (f->relays[i].id == 0 && f->relays[i].probe.hops > hops) hops = f->relays[i].probe.hops;
  uint64_t id = receiver_probe(f->r, (uint8_t)(hops + 1), node_now(n));
  if (!id) return; /* not now: at the next tick */
  f->relays_wait = false;
  for (size_t i = 0; i < f->relay_count; i++)
    if (f->relays[i].id == 0) f->relays[i].id = id;
}

void follow_relays_gone(struct node *n, struct peer *p) {
  struct follow *f = n->follow;
  size_t kept = 0;
  for (size_t i = 0; i < f->relay_count; i++)
    if (f->relays[i].peer != p) f->relays[kept++] = f->relays[i];
  f->relay_count = kept;
}

static void relays_answer(struct node *n, uint64_t id, dw_lsn commit_lsn) {
  struct follow *f = n->follow;
  size_t kept = 0;
  for (size_t i = 0; i < f->relay_count; i++) {
    struct relay *r = &f->relays[i];
    if (r->id && r->id <= id) {
      shipper_probe_answer(r->peer->ship, &r->probe, commit_lsn, node_now(n));
      r->peer->dirty = true;
    } else {
      f->relays[kept++] = *r;
    }
  }
  f->relay_count = kept;
}

static void relays_lost(struct node *n) {
  struct follow *f = n->follow;
  for (size_t i = 0; i < f->relay_count; i++) f->relays[i].id = 0;
  f->relays_wait = f->relay_count > 0;
}

/* ---- driving --------------------------------------------------------------------------------- */

static void follow_do(struct node *n, const struct recv_action *a) {
  switch (a->type) {
  case RECV_CONNECT: on_connect(n); break;
  case RECV_ADOPT: on_adopt(n, &a->adopt); break;
  case RECV_APPEND: on_append(n, a->append.blocks, a->append.n); break;
  case RECV_SYNC: on_sync(n); break;
  case RECV_TRUNCATE: on_truncate(n, &a->truncate.pos, a->truncate.peer_id); break;
  case RECV_PART: on_part(n, a); break;
  case RECV_CKPT_BEGIN: on_ckpt_begin(n, a->begin); break;
  case RECV_CKPT_WRITE: on_ckpt_write(n, a); break;
  case RECV_CKPT_FILE_END: on_ckpt_file_end(n, a); break;
  case RECV_CKPT_INSTALL: on_ckpt_install(n, a); break;
  case RECV_COMMIT: engine_replica_commit(n->e, a->commit_lsn); break;
  case RECV_FRESH: engine_fresh_as_of(n->e, receiver_fresh_as_of(n->follow->r)); break;
  case RECV_PROBE_DONE:
    strong_answered(n, a->probe.id, a->probe.commit_lsn);
    relays_answer(n, a->probe.id, a->probe.commit_lsn);
    break;
  case RECV_PROBES_LOST:
    strong_lost(n);
    relays_lost(n);
    break;
  case RECV_MEMBERS: members_heard(n, a->members); break;
  case RECV_LOG: engine_log(n->e, a->log.level, "%s", a->log.text); break;
  case RECV_CLOSE: on_close(n, a->close.code, a->close.text, a->close.retry_ns); break;
  }
}

static void note_state(struct node *n) {
  struct follow *f = n->follow;
  dw_peer_state state = receiver_state(f->r);
  if (state == f->state) return;
  if (state == DW_PEER_STREAMING || state == DW_PEER_CATCHING_UP) {
    f->last_end[0] = 0;
    n->rejoin = false; /* it was asked for this */
  }
  f->state = state;
  n->report_urgent = true;
}

uint64_t follow_pump(struct node *n, unsigned wake, bool tick, uint64_t now_ns) {
  struct follow *f = n->follow;
  struct recv_action a;
  if (f->stopped) return UINT64_MAX;
  if (wake & WAKE_APPLIED) {
    struct engine_positions pos;
    engine_positions(n->e, &pos);
    receiver_applied(f->r, pos.applied.lsn, now_ns);
    f->dirty = true;
  }
  if (f->install_waits && n->locates == 0) {
    f->install_waits = false;
    job_start(n);
  }
  if (f->dirty || tick || receiver_next_tick(f->r) <= now_ns) {
    f->dirty = false;
    if (f->relays_wait) relays_send(n);
    receiver_tick(f->r, now_ns);
    for (int step = 0;; step++) {
      flush(n);
      if (step == NODE_STEPS) { /* cascaded followers first */
        f->dirty = true;
        transport_pump_again(n->t);
        break;
      }
      if (!receiver_next(f->r, &a)) break;
      follow_do(n, &a);
    }
    if (f->connected) conn_read(f->conn, receiver_wants_input(f->r));
    note_state(n);
  }
  return receiver_next_tick(f->r);
}

uint64_t follow_fresh_as_of(const struct node *n) {
  return receiver_fresh_as_of(n->follow->r);
}

bool follow_bootstrapping(const struct node *n) {
  return receiver_state(n->follow->r) == DW_PEER_BOOTSTRAPPING || n->follow->jobs;
}

void follow_report(struct node *n, struct report *r) {
  const char *why = receiver_refusal(n->follow->r);
  r->primary_state = receiver_state(n->follow->r);
  if (r->primary_state == DW_PEER_REFUSED) snprintf(r->error, sizeof r->error, "%s", why);
}
