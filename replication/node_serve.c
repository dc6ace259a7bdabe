/* Serving followers: drives one shipper (shipper.h) per connection.
 *
 * A connection that ends leaves the list only once its jobs are back (conn == NULL until then): their results find it
 * there and are thrown away. Connections are freed in one place, the sweep at the end of serve_pump, so no walk over
 * the list can lose its footing.
 *
 * The log is pinned at the lowest of: what each connected follower has made durable (not what was sent to it: it
 * may come back from a power cut), each checkpoint that is being sent or waits to be resumed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/node.h"
#include "wal/base/status.h"

#define READ_BLOCKS 512u
#define OUT_IOVECS 256
#define PACK_FREELY 4u                /* with so many connections each may pack all it sends */
#define PACK_BYTES_PER_S (128u << 20) /* of blocks, for all connections together, when there are more */
#define PACK_STEPS 15                 /* what a read with a pack counts for among NODE_STEPS: some 2 ms a turn */
#define STRANGER_LINES 10u            /* a second */

/* ---- connections ----------------------------------------------------------------------------- */

static void on_input(void *owner, const void *bytes, size_t count) {
  struct peer *p = owner;
  shipper_input(p->ship, bytes, count, node_now(p->n));
  conn_read(p->conn, shipper_wants_input(p->ship));
  p->dirty = true;
}

static void on_drained(void *owner, size_t count) {
  struct peer *p = owner;
  shipper_drained(p->ship, count, node_now(p->n));
  p->dirty = true;
}

static void on_eof(void *owner, const char *why) {
  struct peer *p = owner;
  shipper_eof(p->ship, why, node_now(p->n));
  p->dirty = true;
}

static const struct conn_events peer_events = {.input = on_input, .drained = on_drained, .eof = on_eof};

/* Strangers can make us write a few lines a second, not more. */
static bool may_log_stranger(struct node *n) {
  uint64_t now = node_now(n);
  if (now - n->stranger_log_ns >= 1000000000ull) {
    n->stranger_log_ns = now;
    n->stranger_logs = 0;
  }
  return n->stranger_logs++ < STRANGER_LINES;
}

static int peer_create(struct node *n, const char *name, struct peer **out) {
  struct engine_identity id;
  struct engine_positions pos;
  engine_identity(n->e, &id);
  engine_positions(n->e, &pos);
  struct peer *p = calloc(1, sizeof *p);
  if (!p) return dw_fail_nomem(sizeof *p);
  p->n = n;
  p->pin = UINT64_MAX;
  snprintf(p->address, sizeof p->address, "%s", name);
  struct shipper_config cfg = {.node_id = id.node_id,
                               .cluster_id = id.cluster_id,
                               .incarnation = id.incarnation,
                               .role = (dw_role)n->role,
                               .heartbeat_ms = n->opt->heartbeat_ms,
                               .peer_timeout_ms = n->opt->peer_timeout_ms,
                               .peer = p->address};
  int rc = shipper_create(&cfg, &pos.tail, pos.commit_lsn, node_now(n), &p->ship);
  if (rc) {
    free(p);
    return rc;
  }
  *out = p;
  return DW_OK;
}

void serve_accepted(void *ctx, struct tp_conn *conn, const char *name) {
  struct node *n = ctx;
  struct peer *p = NULL;
  if (n->stopping || n->peer_count >= NODE_MAX_CONNECTIONS) {
    if (!n->stopping && may_log_stranger(n))
      engine_log(n->e, DW_LOG_WARN, "%s: refused, %u connections are open", name, n->peer_count);
    conn_close(conn);
    return;
  }
  atomic_store(&n->serving, true); /* before the positions are read: what moves later is told */
  if (peer_create(n, name, &p)) {
    engine_log(n->e, DW_LOG_WARN, "%s: refused, no memory", name);
    conn_close(conn);
    return;
  }
  p->conn = conn;
  shipper_members(p->ship, &n->members.list, node_now(n));
  conn_attach(conn, &peer_events, p);
  p->dirty = true;
  p->next = n->peers;
  n->peers = p;
  n->peer_count++;
}

void serve_accept_failed(void *ctx, const char *why) {
  struct node *n = ctx;
  if (may_log_stranger(n)) engine_log(n->e, DW_LOG_WARN, "can't accept connections just now: %s", why);
}

static void log_end(struct peer *p, int code, const char *why) {
  struct node *n = p->n;
  const struct msg_hello *h = shipper_hello(p->ship);
  const struct msg_fetch *f = shipper_fetch(p->ship);
  if (shipper_fence(p->ship)) return; /* its questions were logged */
  if (!h && !f && !may_log_stranger(n)) return;
  int level = code == DW_OK || code == DW_CLOSED ? DW_LOG_INFO : DW_LOG_WARN;
  if (h)
    engine_log(n->e, level, "follower %s (node %llu): disconnected: %s", p->address, (unsigned long long)h->node_id,
               why);
  else if (f)
    engine_log(n->e, level, "%s (node %llu): end of a repair there: %s", p->address, (unsigned long long)f->node_id,
               why);
  else
    engine_log(n->e, level, "%s: disconnected before it said who it is: %s", p->address, why);
}

static void close_cursor(struct peer *p) {
  wal_cursor_close(p->cursor);
  p->cursor = NULL;
  if (!p->jobs) fetch_drop_cursor(p); /* or when the job is back */
}

static void peer_close(struct peer *p, int code, const char *why) {
  struct node *n = p->n;
  if (!p->conn) return;
  log_end(p, code, why);
  conn_close(p->conn);
  p->conn = NULL;
  close_cursor(p);
  p->pin = UINT64_MAX;
  p->make_waits = false;
  quorum_gone(&n->quorum, p, node_now(n));
  if (n->follow) follow_relays_gone(n, p);
  n->acks_changed = n->pins_changed = n->report_urgent = n->members_changed = true;
}

static void sweep(struct node *n) {
  for (struct peer **at = &n->peers; *at;) {
    struct peer *p = *at;
    if (p->conn || p->jobs) {
      at = &p->next;
      continue;
    }
    *at = p->next;
    n->peer_count--;
    bootstrap_gone(p);
    shipper_destroy(p->ship);
    fetch_drop_cursor(p);
    free(p->fetch.blocks);
    free(p->locate.epochs);
    free(p->job.data);
    free(p);
  }
  if (!n->peers) atomic_store(&n->serving, false);
}

void serve_end_all(struct node *n, int code, const char *why) {
  for (struct peer *p = n->peers; p; p = p->next) {
    if (!p->conn) continue;
    shipper_shut(p->ship, code, why, node_now(n));
    close_cursor(p);
    p->dirty = true;
  }
}

/* ---- where a follower continues ---------------------------------------------------------------- */

static void refuse(struct peer *p, int code, const char *why) {
  struct position_decision d = {.kind = POSITION_REFUSE, .code = code};
  snprintf(d.text, sizeof d.text, "%s", why);
  shipper_located(p->ship, DW_OK, &d, NULL, node_now(p->n));
  p->dirty = true;
}

/* Worker. */
static void locate_run(void *arg) {
  struct locate_job *j = arg;
  for (int attempt = 0; attempt < 4; attempt++) {
    j->rc = position_decide_wal(j->wal, &j->pos.oldest, &j->pos.tail, j->epochs, j->epoch_count, &j->cluster_id,
                                j->relay, &j->hello, &j->decision);
    if (j->rc == DW_OK && j->decision.kind == POSITION_STREAM)
      j->rc = wal_cursor_open(j->wal, &j->decision.pos, &j->cursor);
    if (j->rc != DW_NOT_FOUND) break;
    struct wal_stat st; /* trimmed just now: decide again */
    wal_stat(j->wal, &st);
    j->pos.oldest = st.oldest;
    j->pos.tail = st.end;
  }
  if (j->rc) dw_error_copy(j->why, sizeof j->why);
}

/* A fenced primary's log is not what others are measured by any more: what they have beyond it may be what its
 * successor acknowledged, or will find nowhere else. To stream from is all it is good for. */
static void leave_it_to_the_successor(struct node *n, struct position_decision *d) {
  struct engine_promise promise;
  if (d->kind != POSITION_TRUNCATE && d->kind != POSITION_BOOTSTRAP) return;
  engine_promised(n->e, &promise);
  if (!promise.fenced) return;
  char which = d->which;
  *d = (struct position_decision){.kind = POSITION_REFUSE, .which = which, .code = DW_STALE};
  snprintf(d->text, sizeof d->text, "this primary is fenced: its successor tells where to continue (case %c)", which);
}

static void locate_done(void *arg) {
  struct locate_job *j = arg;
  struct peer *p = j->peer;
  struct node *n = p->n;
  p->jobs--;
  n->locates--;
  p->dirty = true;
  if (!p->conn || n->serve_blocked || n->stopping || j->cuts != n->cuts) {
    wal_cursor_close(j->cursor);
    j->cursor = NULL;
    if (p->conn && j->rc == DW_OK) refuse(p, DW_STALE, "this node's log is being replaced");
    return;
  }
  close_cursor(p);
  p->cursor = j->cursor;
  j->cursor = NULL;
  if (j->rc == DW_OK) {
    leave_it_to_the_successor(n, &j->decision);
    quorum_located(&n->quorum, p, &j->decision);
    if (j->decision.kind == POSITION_STREAM || j->decision.kind == POSITION_TRUNCATE) p->pin = j->decision.pos.lsn;
  }
  shipper_located(p->ship, j->rc, &j->decision, j->why, node_now(n));
  n->acks_changed = n->pins_changed = n->report_urgent = true;
}

static int locate_start(struct peer *p, const struct msg_hello *hello) {
  struct node *n = p->n;
  struct locate_job *j = &p->locate;
  struct engine_identity id;
  free(j->epochs);
  *j = (struct locate_job){
      .peer = p, .hello = *hello, .wal = engine_wal(n->e), .relay = n->role == DW_FOLLOWER, .cuts = n->cuts};
  if (!j->wal) return dw_fail(DW_STALE, "this follower has no data of its own yet");
  engine_identity(n->e, &id);
  engine_positions(n->e, &j->pos);
  j->cluster_id = id.cluster_id;
  size_t cap = engine_epochs(n->e, NULL, 0) + 8;
  j->epochs = calloc(cap, sizeof *j->epochs);
  if (!j->epochs) return dw_fail_nomem(cap * sizeof *j->epochs);
  j->epoch_count = engine_epochs(n->e, j->epochs, cap);
  if (j->epoch_count > cap) j->epoch_count = cap;
  int rc = transport_work(n->t, locate_run, locate_done, j);
  if (rc == DW_OK) p->jobs++, n->locates++;
  return rc;
}

static unsigned admitted(const struct node *n) {
  unsigned count = 0;
  for (const struct peer *p = n->peers; p; p = p->next) count += p->conn && p->admitted;
  return count;
}

static void on_locate(struct peer *p, const struct msg_hello *hello) {
  struct node *n = p->n;
  void *old = NULL;
  char why[MSG_TEXT_BYTES];
  int rc = DW_OK;
  if (n->serve_blocked)
    rc = dw_fail(DW_STALE, "this node's log is being replaced");
  else if (!p->admitted && admitted(n) >= NODE_MAX_FOLLOWERS)
    rc = dw_fail(DW_NO_SPACE, "%u followers are connected already", NODE_MAX_FOLLOWERS);
  if (rc == DW_OK) rc = quorum_admit(&n->quorum, p, hello, p->address, node_now(n), &old);
  if (rc == DW_OK) {
    if (old) peer_close(old, DW_OK, "a newer connection of this node took its place");
    p->admitted = n->members_changed = true;
    p->pin = hello->at.lsn;
    n->pins_changed = n->report_urgent = true;
    rc = locate_start(p, hello);
  }
  if (rc == DW_OK) return;
  dw_error_copy(why, sizeof why);
  refuse(p, rc, why);
}

/* ---- the log --------------------------------------------------------------------------------- */

static void on_read_log(struct peer *p, size_t max) {
  struct wal_block *blocks[READ_BLOCKS];
  size_t count = 0, bytes = 0;
  char why[MSG_TEXT_BYTES] = "";
  int rc = p->cursor ? DW_OK : dw_fail(DW_CLOSED, "no place in the log");
  while (rc == DW_OK && count < READ_BLOCKS && (count == 0 || bytes < max)) {
    rc = wal_cursor_next(p->cursor, UINT64_MAX, &blocks[count]);
    if (rc == DW_OK) bytes += block_total_bytes(&blocks[count++]->h);
  }
  bool at_end = rc == DW_NOT_FOUND;
  if (at_end || count) rc = DW_OK; /* an error behind good blocks is met again by the next read */
  if (rc) dw_error_copy(why, sizeof why);
  bool live = p->cursor && wal_cursor_live(p->cursor);
  shipper_blocks(p->ship, rc, blocks, count, at_end, live, why, node_now(p->n));
}

static void on_probe(struct peer *p, const struct msg_probe *probe) {
  struct node *n = p->n;
  if (n->follow) {
    follow_relay(n, p, probe);
  } else if (n->role == DW_PRIMARY) {
    struct engine_positions pos;
    if (!engine_lease_holds(n->e)) return;
    engine_positions(n->e, &pos);
    if (pos.fenced) return; /* it confirms nothing */
    shipper_probe_answer(p->ship, probe, pos.strong_lsn, node_now(n));
    shipper_commit(p->ship, pos.commit_lsn, node_now(n)); /* who asked waits for it; else it is told when convenient */
  } /* a follower without a primary knows nobody's commit_lsn: unanswered, staleness grows */
}

static void on_marks(struct peer *p, const struct msg_ack *marks) {
  struct node *n = p->n;
  if (quorum_marks(&n->quorum, p, marks, node_now(n))) n->acks_changed = true;
  n->report_changed = true;
  if (p->pin != UINT64_MAX && marks->durable > p->pin)
    p->pin = marks->durable; /* told to the engine at the next tick */
}

static void on_state(struct peer *p) {
  struct node *n = p->n;
  dw_peer_state state = shipper_state(p->ship);
  quorum_state(&n->quorum, p, state, node_now(n));
  n->acks_changed = n->report_urgent = true;
  if (state != DW_PEER_STREAMING || p->caught_up) return;
  p->caught_up = true; /* said once: a busy log makes it fall behind and come back all the time */
  engine_log(n->e, DW_LOG_INFO, "follower %s: has caught up, at the live tail", p->address);
}

/* ---- driving --------------------------------------------------------------------------------- */

static void peer_flush(struct peer *p) {
  struct iovec iov[OUT_IOVECS];
  while (p->conn && shipper_output_bytes(p->ship) && !conn_writing(p->conn)) {
    const char *why = NULL;
    ssize_t sent = conn_send(p->conn, iov, shipper_output(p->ship, iov, OUT_IOVECS), &why);
    if (sent < 0) shipper_eof(p->ship, why, node_now(p->n));
    if (sent <= 0) return;
    shipper_drained(p->ship, (size_t)sent, node_now(p->n));
  }
}

static void peer_do(struct peer *p, const struct ship_action *a) {
  struct node *n = p->n;
  switch (a->type) {
  case SHIP_LOCATE: on_locate(p, a->hello); break;
  case SHIP_FETCH: fetch_start(p, a->fetch); break;
  case SHIP_FENCE: fence_answer(p, a->fence); break;
  case SHIP_FENCE_HEARD: fence_heard(n, a->heard.epoch, a->heard.node_id); break;
  case SHIP_READ_LOG: on_read_log(p, a->read.max_bytes); break;
  case SHIP_MAKE_CHECKPOINT: bootstrap_make(p, &a->make.resume, a->make.hashes); break;
  case SHIP_READ_CHUNK: bootstrap_read(p, a); break;
  case SHIP_DROP_CHECKPOINT: bootstrap_installed(p); break;
  case SHIP_PROBE: on_probe(p, &a->probe); break;
  case SHIP_MARKS: on_marks(p, &a->marks); break;
  case SHIP_STATE: on_state(p); break;
  case SHIP_LOG: engine_log(n->e, a->log.level, "%s", a->log.text); break;
  case SHIP_CLOSE: peer_close(p, a->close.code, a->close.text); break;
  }
}

/* Packing for a few followers is cheap, for many it would take a core of its own: they share what there is. */
static uint64_t pack_rate(const struct node *n) {
  if (!n->opt->zstd_level) return 0;
  return n->peer_count <= PACK_FREELY ? UINT64_MAX : PACK_BYTES_PER_S / n->peer_count;
}

static void peer_pump(struct peer *p) {
  struct ship_action a;
  p->dirty = false;
  shipper_pack_rate(p->ship, pack_rate(p->n));
  shipper_tick(p->ship, node_now(p->n));
  for (int step = 0; p->conn; step++) {
    peer_flush(p);
    if (step >= NODE_STEPS) { /* others first */
      p->dirty = true;
      transport_pump_again(p->n->t);
      break;
    }
    if (!shipper_next(p->ship, &a)) break;
    peer_do(p, &a);
    if (a.type == SHIP_READ_LOG && p->conn && shipper_packing(p->ship)) step += PACK_STEPS;
  }
  if (p->conn) conn_read(p->conn, shipper_wants_input(p->ship));
}

uint64_t serve_pump(struct node *n, unsigned wake, uint64_t now_ns) {
  uint64_t next = UINT64_MAX;
  if (n->peers && (wake & (WAKE_GREW | WAKE_COMMIT))) {
    struct engine_positions pos;
    engine_positions(n->e, &pos);
    for (struct peer *p = n->peers; p; p = p->next) {
      if (!p->conn) continue;
      if (wake & WAKE_GREW) shipper_log_grew(p->ship, &pos.tail, now_ns);
      if (wake & WAKE_COMMIT) shipper_commit(p->ship, pos.commit_lsn, now_ns);
      p->dirty = true;
    }
  }
  for (struct peer *p = n->peers; p; p = p->next) {
    if (p->conn && p->make_waits) bootstrap_make(p, &p->make_id, p->make_hashes);
    if (p->conn && (p->dirty || shipper_next_tick(p->ship) <= now_ns)) peer_pump(p);
  }
  sweep(n);
  for (struct peer *p = n->peers; p; p = p->next) {
    if (!p->conn) continue;
    uint64_t at = shipper_next_tick(p->ship);
    if (at < next) next = at;
    if (p->dirty) transport_pump_again(n->t); /* somebody else's turn gave it something to do */
  }
  return next;
}

void serve_pin_log(struct node *n) {
  dw_lsn pin = UINT64_MAX;
  n->pins_changed = false;
  for (const struct peer *p = n->peers; p; p = p->next)
    if (p->conn && p->pin < pin) pin = p->pin;
  for (const struct node_ckpt *c = n->ckpts; c; c = c->next)
    if (ckpt_out_pos(c->out).lsn < pin) pin = ckpt_out_pos(c->out).lsn;
  engine_pin_log(n->e, pin);
}
