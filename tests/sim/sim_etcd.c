/* The coordinator: as much of etcd as failover needs, under one cluster's name.
 *
 *   node --request--> [delay, loss, cut, down] --> carried out --> [delay, loss, cut] --answer--> node
 *                          \--> later, though the node has given up     \--> once more (another endpoint), and only
 *                                                                            the second answer is heard
 *
 * Leases run by etcd's own clock and are revoked up to half a second late, never early. After an outage they may have
 * their whole time again (as with a new leader of etcd), or end at once.
 */
#include "tests/sim/sim_lease.h"

#include <stdlib.h>
#include <string.h>

#include "wal/base/status.h"

void etcd_init(struct world *w) {
  struct sim_etcd *e = &w->lease->etcd;
  e->rate_ppm = (int32_t)rng_between(&w->r_lease, 0, 20000) - 10000;
  e->ttl_ns = w->lease->plan.opt.ttl_ns;
  e->revision = 1;
  e->claimed_by = -1;
}

/* ---- leases ------------------------------------------------------------------------------------ */

static struct etcd_lease *find(struct sim_etcd *e, uint64_t id) {
  for (uint32_t i = 0; i < e->leases; i++)
    if (e->lease[i].id == id) return &e->lease[i];
  return NULL;
}

uint64_t etcd_leads_until(const struct world *w, int node) {
  struct sim_etcd *e = &w->lease->etcd;
  if (!e->kv.has_leader || e->kv.leader.node_id != (uint64_t)node + 1) return w->lease->run[node].led_until_ns;
  const struct etcd_lease *l = find(e, e->kv.leader.lease);
  return l ? l->expires_ns : 0;
}

/* Whoever leads does no more; its lease may have ended before. */
static void leads_no_more(struct world *w) {
  struct sim_etcd *e = &w->lease->etcd;
  if (!e->kv.has_leader) return;
  struct lease_run *r = &w->lease->run[e->kv.leader.node_id - 1];
  uint64_t until = etcd_leads_until(w, r->n->idx);
  r->led_until_ns = until < w->now ? until : w->now;
  e->kv.has_leader = false;
  e->revision++;
}

static void drop(struct world *w, uint32_t at) {
  struct sim_etcd *e = &w->lease->etcd;
  uint64_t id = e->lease[at].id;
  if (e->kv.has_leader && e->kv.leader.lease == id) leads_no_more(w);
  e->lease[at] = e->lease[--e->leases];
  for (uint32_t i = 0; i < e->kv.member_count;) {
    if (e->member_lease[i] != id) {
      i++;
      continue;
    }
    uint32_t last = --e->kv.member_count;
    e->kv.members[i] = e->kv.members[last];
    e->member_lease[i] = e->member_lease[last];
    e->revision++;
  }
}

static void expire(struct world *w) {
  struct sim_etcd *e = &w->lease->etcd;
  if (e->down_ns > w->now) return;
  for (uint32_t i = 0; i < e->leases;) {
    if (e->lease[i].drops_ns > w->now) {
      i++;
      continue;
    }
    world_trace(w, NULL, "etcd: lease %llu of n%d has expired", (unsigned long long)e->lease[i].id, e->lease[i].node);
    drop(w, i);
  }
}

static void extend(struct world *w, struct etcd_lease *l, uint64_t from) {
  const struct sim_etcd *e = &w->lease->etcd;
  l->expires_ns = from + (uint64_t)((__int128)e->ttl_ns * 1000000 / (1000000 + e->rate_ppm));
  l->drops_ns = l->expires_ns + rng_below(&w->r_lease, 500 * MS);
}

void etcd_outage(struct world *w, uint64_t ns) {
  struct sim_etcd *e = &w->lease->etcd;
  if (e->down_ns > w->now) return;
  expire(w);
  e->down_ns = w->now + ns;
  bool anew = rng_percent(&w->r_lease, 50);
  for (uint32_t i = 0; anew && i < e->leases; i++) extend(w, &e->lease[i], e->down_ns);
  world_trace(w, NULL, "etcd is down for %.3f s, and then %s", (double)ns / 1e9,
              anew ? "gives all leases their whole time" : "goes on where it was");
}

static void lease_request(struct world *w, struct lease_request *q) {
  struct sim_etcd *e = &w->lease->etcd;
  struct failover_answer *a = &q->answer;
  struct etcd_lease *l = find(e, q->action.lease);
  if (q->action.kind == FO_REVOKE) {
    if (l) drop(w, (uint32_t)(l - e->lease));
    return;
  }
  if (q->action.kind == FO_GRANT && e->leases < LEASES_MAX) {
    l = &e->lease[e->leases++];
    *l = (struct etcd_lease){.id = ++e->next_lease, .node = q->node};
  } else if (!l) {
    a->rc = DW_NOT_FOUND;
    a->why = "no such lease";
    return;
  }
  judge_renew(w, q, l);
  extend(w, l, w->now);
  a->lease = l->id;
  a->ttl_ns = e->ttl_ns;
}

/* ---- keys -------------------------------------------------------------------------------------- */

static int64_t member_revision(const struct sim_etcd *e, uint64_t id) {
  for (uint32_t i = 0; i < e->kv.member_count; i++)
    if (e->kv.members[i].node_id == id) return e->kv.members[i].revision;
  return 0;
}

static void put_member(struct sim_etcd *e, const struct failover_action *a) {
  uint32_t i = 0;
  while (i < e->kv.member_count && e->kv.members[i].node_id != a->member.node_id) i++;
  if (i == e->kv.member_count) e->kv.member_count++;
  e->kv.members[i] = a->member;
  e->kv.members[i].revision = ++e->revision;
  e->member_lease[i] = a->lease;
}

static void put_leader(struct world *w, const struct failover_action *a) {
  struct sim_etcd *e = &w->lease->etcd;
  if (e->kv.leader.node_id != a->leader.node_id) leads_no_more(w);
  e->revision++;
  e->kv.has_leader = e->kv.has_record = true;
  e->kv.leader = a->leader;
  e->kv.leader.lease = a->lease;
  e->kv.record = a->record;
  e->kv.leader.revision = e->kv.record.revision = e->revision;
  e->recorded_ns = w->now;
}

static bool holds(const struct sim_etcd *e, const struct failover_expect *x) {
  return (e->kv.has_leader ? e->kv.leader.revision : 0) == x->leader_revision &&
         (e->kv.has_record ? e->kv.record.revision : 0) == x->record_revision &&
         (!x->member_id || member_revision(e, x->member_id) == x->member_revision);
}

static void transaction(struct world *w, struct lease_request *q) {
  struct sim_etcd *e = &w->lease->etcd;
  const struct failover_action *a = &q->action;
  bool mine = e->kv.has_leader && e->kv.leader.lease == a->lease;
  bool done = a->kind == FO_TAKE ? holds(e, &a->expect) : a->kind == FO_PUBLISH ? mine || !a->if_leading : mine;
  q->answer.done = done;
  if (!done) return;
  if (a->kind == FO_RESIGN) {
    leads_no_more(w);
    return;
  }
  if (!find(e, a->lease)) {
    q->answer.rc = DW_NOT_FOUND;
    q->answer.why = "no such lease";
    return;
  }
  if (a->kind == FO_PUBLISH) {
    put_member(e, a);
    return;
  }
  (a->kind == FO_TAKE ? judge_take : judge_record)(w, q, &e->kv);
  if (a->kind == FO_TAKE) e->claimed_by = q->node;
  put_leader(w, a);
}

static void carry_out(struct world *w, struct lease_request *q) {
  expire(w);
  q->answer = (struct failover_answer){.rc = DW_OK, .why = ""};
  switch (q->action.kind) {
  case FO_GRANT:
  case FO_RENEW:
  case FO_REVOKE: lease_request(w, q); break;
  case FO_LOOK:
    if (!q->view) q->view = malloc(sizeof *q->view);
    *q->view = w->lease->etcd.kv;
    q->answer.view = q->view;
    break;
  default: transaction(w, q); break;
  }
}

/* ---- on the way ---------------------------------------------------------------------------------- */

struct lease_request *etcd_request_new(struct world *w) {
  struct lease_request *q = calloc(1, sizeof *q);
  *q = (struct lease_request){.next = w->lease->requests, .at = &w->lease->requests, .refs = 1, .w = w};
  if (q->next) q->next->at = &q->next;
  w->lease->requests = q;
  return q;
}

void etcd_request_unref(struct lease_request *q) {
  if (!q || --q->refs) return;
  *q->at = q->next;
  if (q->next) q->next->at = q->at;
  free(q->view);
  free(q);
}

static void answer_event(struct world *w, struct sim_node *none, void *arg) {
  struct lease_request *q = arg;
  struct lease_run *r = &w->lease->run[q->node];
  (void)none;
  q->arrived = true;
  if (r->out == q) lease_turn_at(r, w->now);
  etcd_request_unref(q);
}

void etcd_answer_in(struct world *w, struct lease_request *q, uint64_t ns) {
  world_at(w, w->now + ns, NULL, answer_event, q);
}

static bool loses(struct world *w) {
  return rng_percent(&w->r_lease, w->lease->etcd.loss_pct);
}

static void arrive_event(struct world *w, struct sim_node *none, void *arg) {
  struct lease_request *q = arg;
  struct sim_etcd *e = &w->lease->etcd;
  (void)none;
  if (q->arrived || e->down_ns > w->now) { /* refused at once, or never answered */
    if (!q->arrived && q->life == w->lease->run[q->node].life && rng_percent(&w->r_lease, 50)) {
      q->answer = (struct failover_answer){.rc = DW_IO, .why = "connection refused"};
      etcd_answer_in(w, q, 1 * MS);
    } else {
      etcd_request_unref(q);
    }
    return;
  }
  carry_out(w, q);
  if (q->again) {
    q->again = false;
    world_at(w, w->now + rng_skewed(&w->r_lease, 1 * MS, 300 * MS), NULL, arrive_event, q);
  } else if (q->lost || e->cut_from[q->node] > w->now || loses(w)) {
    etcd_request_unref(q);
  } else {
    bool slow = rng_percent(&w->r_lease, e->loss_pct ? 8 : 0);
    etcd_answer_in(w, q, slow ? rng_below(&w->r_lease, 2 * SEC) : rng_skewed(&w->r_lease, 200000, 20 * MS));
  }
}

/* Takes effect at the coordinator or not, and is heard of or not: in any combination. */
void etcd_send(struct world *w, struct lease_run *r, const struct failover_action *a) {
  struct sim_etcd *e = &w->lease->etcd;
  struct lease_request *q = etcd_request_new(w);
  q->node = r->n->idx;
  q->life = r->life;
  q->action = *a;
  q->sent_ns = w->now;
  q->wall_ms = node_wall(r->n) / MS;
  q->timeout_ns = node_true_after(r->n, node_mono(r->n) + (a->timeout_ns < MS ? MS : a->timeout_ns));
  r->out = q;
  lease_turn_at(r, q->timeout_ns);
  bool cut = e->cut_to[q->node] > w->now;
  uint64_t way = rng_skewed(&w->r_lease, 200000, 20 * MS);
  if (rng_percent(&w->r_lease, e->loss_pct ? 5 : 0)) way = rng_below(&w->r_lease, 6 * SEC);
  if (cut) { /* TCP sends again when the way is free; mostly nobody cares by then */
    way += e->cut_to[q->node] - w->now;
    q->lost = true;
  }
  if ((cut && rng_percent(&w->r_lease, 70)) || loses(w)) return;
  q->again = rng_percent(&w->r_lease, e->loss_pct ? 5 : 0);
  q->refs++;
  world_at(w, w->now + way, NULL, arrive_event, q);
}
