/* The table of ack_quorum.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/ack_quorum.h"

void quorum_init(struct ack_quorum *q) {
  *q = (struct ack_quorum){0};
}

void quorum_free(struct ack_quorum *q) {
  free(q->followers);
  *q = (struct ack_quorum){0};
}

static struct quorum_follower *by_node(struct ack_quorum *q, uint64_t node_id) {
  for (size_t i = 0; i < q->count; i++)
    if (q->followers[i].node_id == node_id) return &q->followers[i];
  return NULL;
}

static struct quorum_follower *by_conn(struct ack_quorum *q, const void *conn) {
  for (size_t i = 0; conn && i < q->count; i++)
    if (q->followers[i].conn == conn) return &q->followers[i];
  return NULL;
}

static void forget(struct ack_quorum *q, struct quorum_follower *f) {
  *f = q->followers[--q->count];
}

static void bound_absent(struct ack_quorum *q) {
  for (;;) {
    size_t absent = 0;
    struct quorum_follower *oldest = NULL;
    for (size_t i = 0; i < q->count; i++) {
      struct quorum_follower *f = &q->followers[i];
      if (f->conn) continue;
      absent++;
      if (!oldest || f->last_seen_ns < oldest->last_seen_ns) oldest = f;
    }
    if (absent <= QUORUM_ABSENT) return;
    forget(q, oldest);
  }
}

static int add(struct ack_quorum *q, struct quorum_follower **out) {
  size_t connected = 0;
  for (size_t i = 0; i < q->count; i++) connected += q->followers[i].conn != NULL;
  if (connected >= QUORUM_MAX) return dw_fail(DW_NO_SPACE, "%u followers are connected already", QUORUM_MAX);
  if (q->count == q->cap) {
    size_t cap = q->cap ? 2 * q->cap : 8;
    struct quorum_follower *grown = realloc(q->followers, cap * sizeof *grown);
    if (!grown) return dw_fail_nomem(cap * sizeof *grown);
    q->followers = grown;
    q->cap = cap;
  }
  *out = &q->followers[q->count++];
  **out = (struct quorum_follower){0};
  return DW_OK;
}

int quorum_admit(struct ack_quorum *q, void *conn, const struct msg_hello *h, const char *address, uint64_t now_ns,
                 void **superseded) {
  *superseded = NULL;
  struct quorum_follower *f = by_node(q, h->node_id);
  bool same = f && hash128_eq(&f->incarnation, &h->incarnation);
  if (f && f->conn && f->conn != conn && !same)
    return dw_fail(DW_LOCKED, "node id %llu is connected from %s with another data directory",
                   (unsigned long long)h->node_id, f->address);
  if (f && !f->conn) { /* an absent one needs a free place like a new one */
    size_t connected = 0;
    for (size_t i = 0; i < q->count; i++) connected += q->followers[i].conn != NULL;
    if (connected >= QUORUM_MAX) return dw_fail(DW_NO_SPACE, "%u followers are connected already", QUORUM_MAX);
  }
  if (!f) {
    int rc = add(q, &f);
    if (rc) return rc;
  }
  if (!same) *f = (struct quorum_follower){.node_id = h->node_id, .incarnation = h->incarnation};
  if (f->conn && f->conn != conn) *superseded = f->conn;
  f->conn = conn;
  f->state = DW_PEER_CONNECTING;
  f->staleness_ms = UINT64_MAX;
  f->last_seen_ns = now_ns;
  snprintf(f->region, sizeof f->region, "%s", h->region);
  snprintf(f->address, sizeof f->address, "%s", address);
  return DW_OK;
}

static void cut(struct quorum_follower *f, dw_lsn lsn) {
  if (f->received > lsn) f->received = lsn;
  if (f->durable > lsn) f->durable = lsn;
  if (f->applied > lsn) f->applied = lsn;
}

void quorum_located(struct ack_quorum *q, void *conn, const struct position_decision *d) {
  struct quorum_follower *f = by_conn(q, conn);
  if (!f) return;
  if (d->kind != POSITION_REFUSE) cut(f, d->pos.lsn);
  if (d->kind == POSITION_REFUSE && d->code == DW_DIVERGED) forget(q, f);
}

void quorum_state(struct ack_quorum *q, void *conn, dw_peer_state state, uint64_t now_ns) {
  struct quorum_follower *f = by_conn(q, conn);
  if (!f) return;
  f->state = state;
  f->last_seen_ns = now_ns;
}

static bool rise(dw_lsn *mark, dw_lsn to) {
  if (to <= *mark) return false;
  *mark = to;
  return true;
}

bool quorum_marks(struct ack_quorum *q, void *conn, const struct msg_ack *m, uint64_t now_ns) {
  struct quorum_follower *f = by_conn(q, conn);
  if (!f) return false;
  f->last_seen_ns = now_ns;
  f->staleness_ms = m->staleness_ms;
  bool moved = rise(&f->received, m->received);
  moved |= rise(&f->durable, m->durable);
  moved |= rise(&f->applied, m->applied);
  return moved;
}

void quorum_gone(struct ack_quorum *q, void *conn, uint64_t now_ns) {
  struct quorum_follower *f = by_conn(q, conn);
  if (!f) return;
  f->conn = NULL;
  f->state = DW_PEER_DISCONNECTED;
  f->staleness_ms = UINT64_MAX;
  f->last_seen_ns = now_ns;
  bound_absent(q);
}

/* Keeps the DW_MAX_ACKS highest in falling order. */
static void insert(dw_lsn mark[DW_MAX_ACKS], size_t have, dw_lsn lsn) {
  size_t at = have < DW_MAX_ACKS ? have : DW_MAX_ACKS;
  while (at && mark[at - 1] < lsn) {
    if (at < DW_MAX_ACKS) mark[at] = mark[at - 1];
    at--;
  }
  if (at < DW_MAX_ACKS) mark[at] = lsn;
}

void quorum_boil(const struct ack_quorum *q, struct ack_marks *out) {
  *out = (struct ack_marks){0};
  for (size_t i = 0; i < q->count; i++) {
    const struct quorum_follower *f = &q->followers[i];
    insert(out->mark[LEVEL_RECEIVED], i, f->received);
    insert(out->mark[LEVEL_DURABLE], i, f->durable);
    insert(out->mark[LEVEL_APPLIED], i, f->applied);
    if (f->state == DW_PEER_CATCHING_UP || f->state == DW_PEER_STREAMING) out->connected++;
  }
  out->known = (uint32_t)(q->count < DW_MAX_ACKS ? q->count : DW_MAX_ACKS);
}
