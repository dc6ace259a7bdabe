#include "tests/support/failover_sim.h"

#include <stdio.h>
#include <string.h>

#include "wal/base/status.h"

typedef unsigned long long ull;

uint32_t fsim_random(struct fsim *s, uint32_t below) {
  s->seed = s->seed * 6364136223846793005ull + 1442695040888963407ull;
  return below ? (uint32_t)(s->seed >> 33) % below : 0;
}

static void violated(struct fsim *s, const char *what, int a, int b) {
  if (!s->violation[0])
    snprintf(s->violation, sizeof s->violation, "at %llu ms: %s (nodes %d and %d)", (ull)(s->now_ns / FSIM_MS), what,
             a + 1, b + 1);
}

static uint64_t local(const struct fsim *s, const struct fsim_node *n) {
  return n->offset_ns + (uint64_t)((double)s->now_ns * n->rate);
}

/* ---- the coordinator ------------------------------------------------------------------------------- */

static struct fsim_lease *lease_find(struct fsim *s, uint64_t id) {
  for (uint32_t i = 0; i < s->lease_count; i++)
    if (s->leases[i].id == id) return &s->leases[i];
  return NULL;
}

static void lease_drop(struct fsim *s, uint64_t id) {
  struct fsim_lease *l = lease_find(s, id);
  if (l) *l = s->leases[--s->lease_count];
  if (s->kv.has_leader && s->kv.leader.lease == id) s->kv.has_leader = false, s->revision++;
  for (uint32_t i = 0; i < s->kv.member_count;) {
    if (s->member_lease[i] != id) {
      i++;
      continue;
    }
    uint32_t last = --s->kv.member_count;
    s->kv.members[i] = s->kv.members[last];
    s->member_lease[i] = s->member_lease[last];
    s->revision++;
  }
}

static int64_t member_revision(const struct fsim *s, uint64_t id) {
  for (uint32_t i = 0; i < s->kv.member_count; i++)
    if (s->kv.members[i].node_id == id) return s->kv.members[i].revision;
  return 0;
}

static void put_leader(struct fsim *s, const struct failover_action *a, bool with_record) {
  s->revision++;
  s->kv.has_leader = true;
  s->kv.leader = a->leader;
  s->kv.leader.lease = a->lease;
  s->kv.leader.revision = s->revision;
  if (!with_record) return;
  s->kv.has_record = true;
  s->kv.record = a->record;
  s->kv.record.revision = s->revision;
  if (a->record.term < s->max_term) violated(s, "a term went back", -1, -1);
  s->max_term = a->record.term;
}

static void put_member(struct fsim *s, const struct failover_action *a) {
  uint32_t i = 0;
  while (i < s->kv.member_count && s->kv.members[i].node_id != a->member.node_id) i++;
  if (i == s->kv.member_count) s->kv.member_count++;
  s->kv.members[i] = a->member;
  s->kv.members[i].revision = ++s->revision;
  s->member_lease[i] = a->lease;
}

static bool holds(const struct fsim *s, const struct failover_expect *e) {
  return (s->kv.has_leader ? s->kv.leader.revision : 0) == e->leader_revision &&
         (s->kv.has_record ? s->kv.record.revision : 0) == e->record_revision &&
         (!e->member_id || member_revision(s, e->member_id) == e->member_revision);
}

static void lease_request(struct fsim *s, const struct failover_action *a, struct failover_answer *r) {
  struct fsim_lease *l = lease_find(s, a->lease);
  if (a->kind == FO_REVOKE) {
    lease_drop(s, a->lease);
  } else if (a->kind == FO_GRANT && s->lease_count < 1024) {
    l = &s->leases[s->lease_count++];
    l->id = ++s->next_lease;
  } else if (!l) {
    r->rc = DW_NOT_FOUND;
  }
  if (a->kind == FO_REVOKE || !l) return;
  l->expires_ns = s->now_ns + s->ttl_ns;
  r->lease = l->id;
  r->ttl_ns = s->ttl_ns;
}

static void coordinator_apply(struct fsim *s, struct fsim_request *q) {
  const struct failover_action *a = &q->action;
  struct failover_answer *r = &q->answer;
  bool mine = s->kv.has_leader && s->kv.leader.lease == a->lease;
  *r = (struct failover_answer){.rc = DW_OK, .why = ""};
  q->applied = true;
  switch (a->kind) {
  case FO_GRANT:
  case FO_RENEW:
  case FO_REVOKE: lease_request(s, a, r); return;
  case FO_LOOK:
    q->view = s->kv;
    r->view = &q->view;
    return;
  case FO_RESIGN:
    r->done = mine;
    if (mine) s->kv.has_leader = false, s->revision++;
    return;
  default: break;
  }
  bool lease = lease_find(s, a->lease) != NULL;
  if (a->kind == FO_PUBLISH)
    r->done = mine || !a->if_leading;
  else
    r->done = a->kind == FO_TAKE ? holds(s, &a->expect) : mine;
  if (r->done && !lease) {
    r->rc = DW_NOT_FOUND;
    return;
  }
  if (!r->done) return;
  if (a->kind == FO_PUBLISH)
    put_member(s, a);
  else
    put_leader(s, a, true);
}

/* ---- engines ------------------------------------------------------------------------------------------ */

static bool connected(const struct fsim *s, int i, int j) {
  const struct fsim_node *a = &s->n[i], *b = &s->n[j];
  return i == j || (a->up && b->up && !a->stopped && !b->stopped && !a->cut_nodes && !b->cut_nodes);
}

static bool follows(const struct fsim *s, int i, int primary) {
  return i != primary && connected(s, i, primary) && s->n[i].open && !s->n[i].primary && s->n[primary].primary &&
         strcmp(s->n[i].following, s->n[primary].address) == 0 && s->n[i].promised <= s->n[primary].epoch;
}

static uint32_t followers(const struct fsim *s, int primary) {
  uint32_t n = 0;
  for (int i = 0; i < FSIM_NODES; i++) n += follows(s, i, primary);
  return n;
}

static bool longer(const struct fsim_node *a, const struct fsim_node *b) {
  return a->epoch != b->epoch ? a->epoch > b->epoch : a->lsn > b->lsn;
}

static void fence(struct fsim_node *n) {
  n->fenced |= n->primary;
  n->primary = false;
}

/* As dw_promote: positions first, then promises of nodes - acks. */
static int promote(struct fsim *s, int me, char *why, size_t cap) {
  struct fsim_node *n = &s->n[me];
  uint64_t epoch = n->epoch;
  uint32_t promises = 0;
  if (n->fenced) {
    snprintf(why, cap, "a fenced primary: let it follow first");
    return DW_INVALID;
  }
  if (!n->open) { /* opens as primary: the first one, or the last one again; fenced, if it has promised */
    if (s->acked_lsn && !n->lsn) violated(s, "another cluster begins", me, me);
    n->open = true;
    n->epoch++;
    n->lsn++;
    n->primary = n->promised <= n->epoch;
    return DW_OK;
  }
  for (int i = 0; i < FSIM_NODES; i++) {
    const struct fsim_node *o = &s->n[i];
    if (!connected(s, me, i) || !o->open || o->lsn == 0) continue;
    promises++;
    if (longer(o, n)) {
      snprintf(why, cap, "node %d has more", i + 1);
      return DW_STALE;
    }
    if (o->epoch > epoch) epoch = o->epoch;
    if (o->promised > epoch) epoch = o->promised;
  }
  if (promises < FSIM_NODES - s->acks) {
    snprintf(why, cap, "%u promises", promises);
    return DW_NOT_ENOUGH_FOLLOWERS;
  }
  epoch = ((epoch >> 32) + 1) << 32 | 1;
  for (int i = 0; i < FSIM_NODES; i++)
    if (connected(s, me, i) && s->n[i].open && s->n[i].lsn) {
      s->n[i].promised = epoch;
      if (i != me) fence(&s->n[i]);
    }
  if (n->lsn < s->acked_lsn) violated(s, "an acknowledged write was lost", me, me);
  n->epoch = epoch;
  n->primary = true;
  return DW_OK;
}

static void replicate(struct fsim *s, int primary) {
  for (int i = 0; i < FSIM_NODES; i++)
    if (follows(s, i, primary)) {
      s->n[i].lsn = s->n[primary].lsn;
      s->n[i].epoch = s->n[primary].epoch;
    }
}

/* Whoever meets a newer epoch is fenced. */
static void hear(struct fsim *s, int i) {
  for (int j = 0; j < FSIM_NODES; j++)
    if (s->n[j].open && connected(s, i, j) && s->n[j].promised > s->n[i].epoch) fence(&s->n[i]);
}

/* A write at whoever takes one. */
static void write_somewhere(struct fsim *s) {
  int acking = -1;
  for (int i = 0; i < FSIM_NODES; i++) {
    struct fsim_node *n = &s->n[i];
    if (!n->up || n->stopped || !n->primary || !failover_may_acknowledge(n->f, local(s, n))) continue;
    if (acking >= 0 && !n->opt.keep) violated(s, "two nodes may acknowledge", acking, i);
    acking = i;
    hear(s, i);
    if (!n->primary) continue;
    n->lsn++;
    bool enough = followers(s, i) >= s->acks;
    replicate(s, i);
    if (!enough) continue;
    if (n->epoch < s->acked_epoch) violated(s, "an old epoch acknowledges", i, i);
    s->acked_epoch = n->epoch;
    if (n->lsn > s->acked_lsn) s->acked_lsn = n->lsn;
    s->acks_given++;
    s->last_ack_ns = s->now_ns;
  }
}

static void status_of(const struct fsim *s, int i, struct failover_status *st) {
  const struct fsim_node *n = &s->n[i];
  *st = (struct failover_status){.open = n->open,
                                 .primary = n->primary,
                                 .fenced = n->fenced,
                                 .healthy = n->healthy,
                                 .has_data = n->lsn > 0,
                                 .all_sync = true,
                                 .sync_followers = followers(s, i),
                                 .epoch = n->epoch,
                                 .durable_lsn = n->lsn,
                                 /* told at different moments, and growing while nobody acknowledges */
                                 .lag_ms = n->primary ? 0 : (s->now_ns - s->last_ack_ns) / FSIM_MS};
  for (int j = 0; j < FSIM_NODES; j++) st->link_up |= follows(s, i, j);
  memcpy(st->following, n->following, sizeof st->following);
}

/* ---- nodes -------------------------------------------------------------------------------------------- */

static bool refuses(const struct fsim *s, const char *address) {
  for (int i = 0; i < FSIM_NODES; i++)
    if (strcmp(s->n[i].address, address) == 0) return !s->n[i].up && !s->n[i].cut_nodes;
  return false;
}

static void send_request(struct fsim *s, struct fsim_node *n, const struct failover_action *a) {
  struct fsim_request *q = &n->r;
  *q = (struct fsim_request){.out = true, .action = *a};
  bool lost = n->cut_coordinator || s->coordinator_down;
  bool go = !lost && fsim_random(s, 100) >= s->loss_percent, back = go && fsim_random(s, 100) >= s->loss_percent;
  uint64_t way = s->loss_percent && fsim_random(s, 50) == 0 ? fsim_random(s, 6000) : fsim_random(s, 20);
  q->apply_at = go ? s->now_ns + way * FSIM_MS : UINT64_MAX;
  q->answer_at = back ? q->apply_at + fsim_random(s, 20) * FSIM_MS : UINT64_MAX;
  q->timeout_at = s->now_ns + a->timeout_ns;
}

static void carry_out(struct fsim *s, int i, const struct failover_action *a) {
  struct fsim_node *n = &s->n[i];
  size_t used = strlen(n->events);
  switch (a->kind) {
  case FO_PROMOTE:
    n->promote_at = s->now_ns + (20 + fsim_random(s, 200)) * FSIM_MS;
    n->promote_timeout_at = s->now_ns + a->timeout_ns * 9 / 10;
    break;
  case FO_FOLLOW:
    n->open = true;
    fence(n); /* a primary that is to follow is demoted first */
    n->fenced = false;
    snprintf(n->following, sizeof n->following, "%s", a->address);
    break;
  case FO_DEMOTE:
    n->demotions += n->primary;
    n->primary = n->fenced = false;
    n->following[0] = 0;
    break;
  case FO_RESTRICT: n->restricted = a->on; break;
  case FO_AUDIT:
    n->audits++;
    snprintf(n->events + used, sizeof n->events - used, "%s ", a->audit.event);
    if (s->trace) printf("%6llu ms node %d %s: %s\n", (ull)(s->now_ns / FSIM_MS), i + 1, a->audit.event, a->audit.why);
    break;
  case FO_PROBE:
    n->r = (struct fsim_request){
        .out = true, .applied = true, .action = *a, .answer_at = s->now_ns, .timeout_at = UINT64_MAX};
    n->r.answer = (struct failover_answer){.rc = DW_OK, .done = refuses(s, a->address), .why = ""};
    break;
  default: send_request(s, n, a);
  }
}

static void finish_promotion(struct fsim *s, int i) {
  struct fsim_node *n = &s->n[i];
  char why[100] = "";
  if (!n->promote_at || s->now_ns < n->promote_at) return;
  n->promote_at = 0;
  int rc = s->now_ns > n->promote_timeout_at ? DW_TIMEOUT : promote(s, i, why, sizeof why);
  n->promotions += rc == DW_OK;
  failover_promoted(n->f, local(s, n), rc, why);
}

static void node_answers(struct fsim *s, struct fsim_node *n) {
  struct fsim_request *q = &n->r;
  if (!q->out) return;
  if (q->applied && s->now_ns >= q->answer_at) {
    q->out = false;
    failover_answer(n->f, local(s, n), &q->answer);
  } else if (s->now_ns >= q->timeout_at) {
    q->out = false;
    if (!q->applied && q->apply_at != UINT64_MAX) n->late = *q; /* it is still on its way */
    failover_answer(n->f, local(s, n), &(struct failover_answer){.rc = DW_TIMEOUT, .why = "time-out"});
  }
}

static void node_moves(struct fsim *s, int i) {
  struct fsim_node *n = &s->n[i];
  struct failover_status st;
  struct failover_action a;
  if (!n->up || n->stopped) return;
  /* Time first: whoever wakes up past its deadline stops before it hears anything. */
  status_of(s, i, &st);
  failover_step(n->f, local(s, n), s->now_ns / FSIM_MS, &st);
  finish_promotion(s, i);
  node_answers(s, n);
  for (int turns = 0; turns < 20; turns++) {
    status_of(s, i, &st);
    failover_step(n->f, local(s, n), s->now_ns / FSIM_MS, &st);
    if (!failover_next(n->f, &a)) return;
    carry_out(s, i, &a);
    node_answers(s, n);
  }
  violated(s, "the machine does not come to rest", i, i);
}

/* ---- the world ------------------------------------------------------------------------------------------ */

void fsim_init(struct fsim *s, uint64_t seed) {
  memset(s, 0, sizeof *s);
  s->seed = seed;
  s->acks = 1;
  s->ttl_ns = 5000 * FSIM_MS;
  s->revision = 1;
  s->now_ns = 1000 * FSIM_MS;
  for (int i = 0; i < FSIM_NODES; i++) {
    struct fsim_node *n = &s->n[i];
    n->id = (uint64_t)i + 1;
    n->rate = 1;
    n->healthy = true;
    n->offset_ns = n->id * 1000 * FSIM_MS;
    snprintf(n->address, sizeof n->address, "10.0.0.%d:7400", i + 1);
    n->opt = (struct failover_options){.node_id = n->id,
                                       .region = "r",
                                       .preferred_region = "",
                                       .address = n->address,
                                       .client_address = "",
                                       .priority = 100,
                                       .nodes = FSIM_NODES,
                                       .acks = s->acks,
                                       .first = i == 0,
                                       .early = true,
                                       .ttl_ns = 5000 * FSIM_MS,
                                       .renew_ns = 500 * FSIM_MS,
                                       .poll_ns = 250 * FSIM_MS,
                                       .candidate_wait_ns = 1000 * FSIM_MS,
                                       .cooldown_ns = 0,
                                       .missed_renewals = 3};
  }
}

void fsim_start(struct fsim *s, int i) {
  struct fsim_node *n = &s->n[i];
  n->f = failover_create(&n->opt);
  n->up = true;
  n->open = false;
  n->primary = n->fenced = false;
  n->following[0] = 0;
}

void fsim_kill(struct fsim *s, int i) {
  struct fsim_node *n = &s->n[i];
  failover_destroy(n->f);
  n->f = NULL;
  n->up = n->primary = n->stopped = n->open = false;
  n->promote_at = 0;
  n->r.out = false;
}

void fsim_run(struct fsim *s, uint64_t ms) {
  for (uint64_t end = s->now_ns + ms * FSIM_MS; s->now_ns < end && !s->violation[0]; s->now_ns += FSIM_STEP_NS) {
    for (uint32_t i = 0; i < s->lease_count && !s->coordinator_down;) {
      if (s->leases[i].expires_ns <= s->now_ns)
        lease_drop(s, s->leases[i].id);
      else
        i++;
    }
    for (int i = 0; i < FSIM_NODES; i++) { /* also if whoever asked has given up, or is dead */
      struct fsim_request *q[2] = {&s->n[i].late, &s->n[i].r};
      for (int k = 0; k < 2; k++)
        if (!q[k]->applied && q[k]->timeout_at && q[k]->action.kind <= FO_REVOKE && s->now_ns >= q[k]->apply_at)
          coordinator_apply(s, q[k]);
    }
    for (int i = 0; i < FSIM_NODES; i++) node_moves(s, i);
    write_somewhere(s);
  }
}

bool fsim_run_until_acks(struct fsim *s, uint64_t more, uint64_t ms) {
  uint64_t want = s->acks_given + more, end = s->now_ns + ms * FSIM_MS;
  while (s->acks_given < want && s->now_ns < end && !s->violation[0]) fsim_run(s, FSIM_STEP_NS / FSIM_MS);
  return s->acks_given >= want;
}

int fsim_leader(const struct fsim *s) {
  for (int i = 0; i < FSIM_NODES; i++)
    if (s->n[i].up && s->n[i].primary && failover_may_acknowledge(s->n[i].f, local(s, &s->n[i]))) return i;
  return -1;
}

void fsim_free(struct fsim *s) {
  for (int i = 0; i < FSIM_NODES; i++) failover_destroy(s->n[i].f);
}
