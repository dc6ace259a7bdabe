/* What dw_status_get shows of replication: a snapshot that the loop thread renews at its ticks, at once when a
 * connection changes its state, and some milliseconds after marks moved. Asking never waits for the loop.
 */
#include <stdio.h>
#include <string.h>

#include "replication/node.h"

#define REPORT_NS 5000000ull /* between two snapshots for moving marks */

static struct peer *peer_of(const struct node *n, const void *conn) {
  for (struct peer *p = n->peers; p && conn; p = p->next)
    if (p == conn) return p;
  return NULL;
}

static struct sent_mark *sent_mark(struct node *n, uint64_t node_id, bool make) {
  for (unsigned i = 0; i < n->sent_count; i++)
    if (n->sent[i].node_id == node_id) return &n->sent[i];
  if (!make) return NULL;
  unsigned i =
      n->sent_count < DW_STATUS_MAX_FOLLOWERS ? n->sent_count++ : (unsigned)(node_id % DW_STATUS_MAX_FOLLOWERS);
  n->sent[i] = (struct sent_mark){.node_id = node_id};
  return &n->sent[i];
}

static uint64_t lag_bytes(struct node *n, const struct peer *p, uint64_t node_id, uint64_t end_bytes) {
  if (p && p->cursor) {
    uint64_t lag = wal_cursor_lag_bytes(p->cursor) + shipper_output_bytes(p->ship);
    sent_mark(n, node_id, true)->end_bytes = end_bytes > lag ? end_bytes - lag : 0;
    return lag;
  }
  const struct sent_mark *m = sent_mark(n, node_id, false);
  if (!m) return end_bytes;
  return end_bytes > m->end_bytes ? end_bytes - m->end_bytes : 0;
}

static void fill_follower(struct node *n, const struct quorum_follower *q, const struct engine_positions *pos,
                          dw_follower_status *f) {
  const struct peer *p = peer_of(n, q->conn);
  *f = (dw_follower_status){.node_id = q->node_id,
                            .state = q->state,
                            .received_lsn = q->received,
                            .durable_lsn = q->durable,
                            .applied_lsn = q->applied,
                            .staleness_ms = q->staleness_ms,
                            .sent_bytes = p ? shipper_sent_bytes(p->ship) : 0};
  snprintf(f->region, sizeof f->region, "%s", q->region);
  snprintf(f->address, sizeof f->address, "%s", q->address);
  f->lag_lsns = pos->tail.lsn > q->applied ? pos->tail.lsn - q->applied : 0;
  f->lag_bytes = lag_bytes(n, p, q->node_id, pos->end_bytes);
  f->lag_ms = engine_commit_age_ns(n->e, q->applied) / 1000000;
}

/* Connected ones first, so that a full table drops absent ones. */
static void fill_followers(struct node *n, struct report *r) {
  struct engine_positions pos;
  if (n->quorum.count == 0) return;
  engine_positions(n->e, &pos);
  for (int absent = 0; absent < 2; absent++)
    for (size_t i = 0; i < n->quorum.count && r->follower_count < DW_STATUS_MAX_FOLLOWERS; i++)
      if ((n->quorum.followers[i].conn == NULL) == (absent == 1))
        fill_follower(n, &n->quorum.followers[i], &pos, &r->followers[r->follower_count++]);
}

uint64_t report_pump(struct node *n, uint64_t now_ns, bool tick) {
  bool due = tick || n->report_urgent || (n->report_changed && now_ns - n->reported_ns >= REPORT_NS);
  if (!due) return n->report_changed ? n->reported_ns + REPORT_NS : UINT64_MAX;
  n->report_changed = n->report_urgent = false;
  n->reported_ns = now_ns;
  struct report r;
  memset(&r, 0, sizeof r);
  r.bootstraps = n->bootstraps;
  r.bootstrap_bytes = n->bootstrap_bytes;
  r.bootstrap_reused = n->bootstrap_reused;
  fill_followers(n, &r);
  if (n->follow) follow_report(n, &r);
  if (n->role == DW_FOLLOWER) memcpy(r.primary, n->primary, sizeof r.primary);
  pthread_mutex_lock(&n->report_mu);
  n->report = r;
  pthread_mutex_unlock(&n->report_mu);
  return UINT64_MAX;
}

void report_status(void *ctx, dw_status *s) {
  struct node *n = ctx;
  pthread_mutex_lock(&n->report_mu);
  s->follower_count = n->report.follower_count;
  memcpy(s->followers, n->report.followers, s->follower_count * sizeof *s->followers);
  s->primary_state = n->report.primary_state;
  memcpy(s->primary, n->report.primary, sizeof s->primary);
  s->bootstraps = n->report.bootstraps;
  members_status(&n->members_report, s);
  s->bootstrap_bytes = n->report.bootstrap_bytes;
  s->bootstrap_reused_bytes = n->report.bootstrap_reused;
  if (!s->error[0]) memcpy(s->error, n->report.error, sizeof s->error);
  pthread_mutex_unlock(&n->report_mu);
  s->listen_port = n->listen_port;
}
