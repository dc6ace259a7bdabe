/* Looking for the primary: the driver of lookout.h, and what follows from what it finds.
 *
 *   a follower that lost its primary     follows the new one
 *   a primary that is not the newest     promises the new epoch to its node, so that it is fenced, also after a
 * restart; with auto_rejoin it follows
 *
 * Connections last for one question.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/address.h"
#include "replication/fencer.h"
#include "replication/lookout.h"
#include "replication/node.h"
#include "wal/base/status.h"

#define OUT_IOVECS 4

typedef unsigned long long ull;

struct look_peer {
  struct look *look;
  size_t i;
  char address[ADDRESS_BYTES];
  struct tp_conn *conn; /* NULL: none */
  bool connected;
  struct fencer f;
};

struct look {
  struct node *n;
  struct lookout l;
  struct engine_identity id;
  uint64_t lost_ns; /* since when nothing confirms the data; 0: something does */
  size_t count;
  struct look_peer peer[LOOKOUT_PEERS];
};

/* ---- connections ------------------------------------------------------------------------------ */

static void drop(struct look_peer *p) {
  if (!p->conn) return;
  conn_close(p->conn);
  p->conn = NULL;
  p->connected = false;
  fencer_free(&p->f);
}

static void unreachable(struct look_peer *p) {
  drop(p);
  lookout_unreachable(&p->look->l, p->i);
  transport_pump_again(p->look->n->t);
}

static void on_connected(void *owner, const char *why) {
  struct look_peer *p = owner;
  if (why) {
    unreachable(p);
    return;
  }
  p->connected = true;
  conn_read(p->conn, true);
  transport_pump_again(p->look->n->t);
}

static void on_input(void *owner, const void *bytes, size_t count) {
  struct look_peer *p = owner;
  fencer_input(&p->f, bytes, count);
  transport_pump_again(p->look->n->t);
}

static void on_drained(void *owner, size_t count) {
  struct look_peer *p = owner;
  outq_drained(&p->f.out, count);
}

static void on_eof(void *owner, const char *why) {
  struct look_peer *p = owner;
  fencer_eof(&p->f, why);
  transport_pump_again(p->look->n->t);
}

static const struct conn_events look_events = {
    .connected = on_connected, .input = on_input, .drained = on_drained, .eof = on_eof};

static void ask(struct look_peer *p) {
  struct look *k = p->look;
  struct engine_positions pos;
  engine_identity(k->n->e, &k->id);
  engine_positions(k->n->e, &pos);
  lookout_asked(&k->l, p->i);
  p->conn = transport_connect(k->n->t, p->address, &look_events, p);
  if (!p->conn) {
    unreachable(p);
    return;
  }
  fencer_init(&p->f, &(struct msg_sender){.epoch = pos.tail.epoch, .node_id = k->id.node_id}, &k->id.cluster_id);
  struct msg_fence m = {.what = FENCE_ASK, .durable = pos.tail};
  fencer_ask(&p->f, &m);
}

static void flush(struct look_peer *p) {
  struct iovec iov[OUT_IOVECS];
  while (p->conn && p->connected && p->f.out.bytes && !conn_writing(p->conn)) {
    const char *why = NULL;
    ssize_t sent = conn_send(p->conn, iov, outq_iov(&p->f.out, iov, OUT_IOVECS), &why);
    if (sent < 0) fencer_eof(&p->f, why);
    if (sent <= 0) return;
    outq_drained(&p->f.out, (size_t)sent);
  }
}

static void peer_pump(struct look_peer *p) {
  struct look *k = p->look;
  if (lookout_wants(&k->l, p->i)) ask(p);
  flush(p);
  if (p->conn && p->f.state == FENCER_FAILED) unreachable(p);
  if (p->conn && p->f.state == FENCER_ANSWERED) {
    lookout_answer(&k->l, p->i, fencer_take(&p->f));
    drop(p);
    transport_pump_again(k->n->t);
  }
}

/* ---- life --------------------------------------------------------------------------------------- */

int look_create(struct node *n) {
  const char *list = n->opt->peers;
  char name[ADDRESS_BYTES];
  if (!list) return DW_OK;
  struct look *k = calloc(1, sizeof *k);
  if (!k) return dw_fail_nomem(sizeof *k);
  k->n = n;
  n->look = k;
  while (k->count < LOOKOUT_PEERS && address_next(&list, name)) {
    if (n->opt->listen && strcmp(name, n->opt->listen) == 0) continue; /* one list for all nodes is fine */
    struct look_peer *p = &k->peer[k->count];
    *p = (struct look_peer){.look = k, .i = k->count++};
    memcpy(p->address, name, sizeof name);
  }
  lookout_init(&k->l, k->count, n->opt->peer_timeout_ms * 1000000ull, node_now(n));
  return DW_OK;
}

void look_stop(struct node *n) {
  if (!n->look) return;
  for (size_t i = 0; i < n->look->count; i++) drop(&n->look->peer[i]);
}

void look_destroy(struct node *n) {
  if (!n->look) return;
  free(n->look);
  n->look = NULL;
}

/* ---- driving ------------------------------------------------------------------------------------ */

/* Nothing confirms what a follower has. While a checkpoint is on its way nothing can. */
static bool lost(struct look *k, uint64_t now_ns) {
  struct node *n = k->n;
  uint64_t fresh = n->follow ? follow_fresh_as_of(n) : UINT64_MAX, limit = n->opt->peer_timeout_ms * 1000000ull;
  if (n->role == DW_FOLLOWER && !n->follow && !n->primary[0]) return !n->alone;
  bool doubt = n->role == DW_FOLLOWER && n->follow && !follow_bootstrapping(n) &&
               (fresh == UINT64_MAX || now_ns > fresh + limit);
  if (!doubt)
    k->lost_ns = 0;
  else if (!k->lost_ns)
    k->lost_ns = now_ns;
  /* A confirmation that old has waited long enough; one that there never was is given as much time. */
  return doubt && (fresh != UINT64_MAX || now_ns - k->lost_ns >= limit);
}

static void found(struct look *k, const struct look_peer *p) {
  struct node *n = k->n;
  const struct lookout_peer *seen = &k->l.peer[p->i];
  struct engine_promise promise;
  engine_promised(n->e, &promise);
  if (n->role == DW_PRIMARY && (promise.epoch < seen->epoch || !promise.primary[0])) {
    int rc = engine_promise(n->e, seen->epoch, seen->node_id, p->address);
    if (rc) {
      char why[300];
      dw_error_copy(why, sizeof why);
      engine_log(n->e, DW_LOG_ERROR, "%s (node %llu) is the primary of epoch %llu, but this one can't note it: %s",
                 p->address, (ull)seen->node_id, (ull)seen->epoch, why);
      return;
    }
    n->report_urgent = true;
  }
  if (n->role == DW_PRIMARY && !n->opt->auto_rejoin) return;
  if (n->follow && strcmp(n->primary, p->address) == 0) return;
  engine_log(n->e, DW_LOG_WARN, "the primary of epoch %llu is node %llu (%s)", (ull)seen->epoch, (ull)seen->node_id,
             p->address);
  (void)role_follow_told(n, p->address); /* if another change is under way: in the next round */
}

uint64_t look_pump(struct node *n, uint64_t now_ns) {
  struct look *k = n->look;
  struct engine_positions pos;
  struct engine_promise promise;
  size_t which;
  if (!k || n->stopping) return UINT64_MAX;
  engine_positions(n->e, &pos);
  if (pos.tail.epoch == 0) return UINT64_MAX; /* of no cluster yet */
  engine_promised(n->e, &promise);
  struct lookout_self self = {.role = (dw_role)n->role,
                              .fenced = pos.fenced,
                              .lost = lost(k, now_ns),
                              .epoch = pos.tail.epoch,
                              .promised_epoch = promise.epoch};
  if (lookout_tick(&k->l, &self, now_ns, &which)) found(k, &k->peer[which]);
  for (size_t i = 0; i < k->count; i++) {
    if (!k->l.asking)
      drop(&k->peer[i]);
    else
      peer_pump(&k->peer[i]);
  }
  return lookout_next_tick(&k->l);
}
