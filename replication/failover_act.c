/* What the failover machine wants done next, the most urgent first: what protects (stop acknowledging), then what it
 * owes others (the lease given back), then what keeps it alive (renewals), then what it is curious about. */
#include <stdio.h>
#include <string.h>

#include "replication/failover_internal.h"

#define MIN_TIMEOUT_NS 10000000ull

static uint64_t max64(uint64_t a, uint64_t b) {
  return a > b ? a : b;
}

/* No request may outlast the deadline: it is answered, or given up, before the primary must stop. */
static uint64_t request_timeout(const struct failover *f) {
  uint64_t t = f->opt.ttl_ns / 5;
  if (f->state == FO_LEADING && f->valid_until_ns > f->now && f->valid_until_ns - f->now < t)
    t = f->valid_until_ns - f->now;
  return max64(t, MIN_TIMEOUT_NS);
}

static bool ask(struct failover *f, enum failover_action_kind kind, struct failover_action *a) {
  a->kind = kind;
  a->lease = f->lease;
  a->timeout_ns = request_timeout(f);
  f->asking = true;
  f->asked = kind;
  f->asked_ns = f->now;
  return true;
}

/* ---- contents ------------------------------------------------------------------------------------------- */

static void self_as_leader(const struct failover *f, struct failover_leader *l) {
  *l = (struct failover_leader){.node_id = f->opt.node_id, .lease = f->lease};
  snprintf(l->address, sizeof l->address, "%s", f->opt.address);
  snprintf(l->client, sizeof l->client, "%s", f->opt.client_address);
}

static uint64_t next_term(const struct failover *f) {
  uint64_t term = f->st.epoch >> 32;
  if (f->view.has_record) term = max64(term, f->view.record.term);
  if (f->st.primary || !f->st.has_data) return term;
  for (uint32_t i = 0; i < f->view.member_count; i++) term = max64(term, f->view.members[i].epoch >> 32);
  return term + 1;
}

static bool take(struct failover *f, struct failover_action *a) {
  const struct failover_view *v = &f->view;
  if (f->spent) {
    f->lease = f->valid_until_ns = 0;
    return ask(f, FO_GRANT, a);
  }
  f->spent = true;
  self_as_leader(f, &a->leader);
  f->term = next_term(f);
  a->record = v->has_record ? v->record : (struct failover_record){.node_id = f->opt.node_id};
  a->record.term = f->term; /* the claim: the rest follows once promoted */
  a->expect.record_revision = v->has_record ? v->record.revision : 0;
  a->expect.leader_revision = v->has_leader ? v->leader.revision : 0;
  if (v->has_leader && v->leader.node_id != f->opt.node_id) {
    a->expect.member_id = v->leader.node_id;
    for (uint32_t i = 0; i < v->member_count; i++)
      if (v->members[i].node_id == v->leader.node_id) a->expect.member_revision = v->members[i].revision;
  }
  return ask(f, FO_TAKE, a);
}

static bool record(struct failover *f, struct failover_action *a) {
  self_as_leader(f, &a->leader);
  a->leader.epoch = f->st.epoch;
  a->record = f->view.has_record ? f->view.record : (struct failover_record){0};
  struct failover_record *r = &a->record;
  r->term = max64(f->term, f->st.epoch >> 32);
  bool written = r->node_id == f->opt.node_id && r->epoch == f->st.epoch; /* and only the answer was lost */
  r->epoch = f->st.epoch;
  r->node_id = f->opt.node_id;
  if (f->stamp && !written) {
    if (r->count == FAILOVER_STAMPS) memmove(r->stamps_ms, r->stamps_ms + 1, --r->count * sizeof *r->stamps_ms);
    r->stamps_ms[r->count++] = f->wall_ms;
  }
  return ask(f, FO_RECORD, a);
}

static bool publish(struct failover *f, struct failover_action *a) {
  failover_self(f, &a->member);
  a->if_leading = f->state == FO_LEADING;
  return ask(f, FO_PUBLISH, a);
}

/* ---- the order of things --------------------------------------------------------------------------------- */

static bool stop_next(struct failover *f, struct failover_action *a) {
  if (f->promoting) return false;
  if (f->lease) return ask(f, FO_REVOKE, a);
  f->state = FO_STOPPED;
  return false;
}

static bool request_next(struct failover *f, struct failover_action *a) {
  if (f->stopping) return stop_next(f, a);
  bool valid = f->lease && f->now < f->valid_until_ns;
  if (f->want_resign && f->now >= f->retry_at) {
    if (f->lease) return ask(f, FO_RESIGN, a);
    f->want_resign = false; /* it went with the lease */
  }
  if (f->state == FO_TAKING || (f->state == FO_KEPT && f->seen && valid && f->reachable)) {
    if (valid) return take(f, a);
    f->state = FO_WAITING;
  }
  if (f->want_record && valid && f->state == FO_LEADING && f->now >= f->retry_at) return record(f, a);
  if (!f->lease && f->now >= f->grant_at) return ask(f, FO_GRANT, a);
  if (f->lease && f->now >= f->renew_at) return ask(f, FO_RENEW, a);
  if (f->lease && f->now >= f->publish_at) return publish(f, a);
  if (f->now >= f->look_at) return ask(f, FO_LOOK, a);
  if (f->seen && f->opt.early && f->now >= f->probe_at && !f->refused && !f->st.link_up && failover_suspect(f) &&
      f->view.leader.node_id != f->opt.node_id && f->state == FO_WAITING) {
    memcpy(a->address, f->view.leader.address, sizeof a->address);
    return ask(f, FO_PROBE, a);
  }
  return false;
}

/* What a node that is not open yet should open as, if not as primary: a follower, of nobody if nobody leads. So does
 * one that gets no answer for as long as a lease lasts: it can serve reads at least. Not without data: it has nothing
 * to serve, and as an empty follower it could not begin a new cluster any more. */
static bool open_as_follower(const struct failover *f, bool leads) {
  bool serves = f->st.has_data && (!f->opt.first || f->st.epoch);
  if (!f->seen) return serves && f->now >= f->began_ns + f->opt.ttl_ns;
  return leads || !failover_returns(f);
}

static bool follow_next(struct failover *f, struct failover_action *a) {
  const struct failover_view *v = &f->view;
  if (f->promoting || f->stopping || f->st.primary || f->want_demote || f->now < f->follow_at) return false;
  if (f->state != FO_WAITING && f->state != FO_STANDING) return false;
  bool other = f->seen && v->has_leader && v->leader.node_id != f->opt.node_id, leads = other && v->leader.epoch;
  if (f->st.open ? !leads || strcmp(v->leader.address, f->st.following) == 0 : !open_as_follower(f, other))
    return false;
  /* Promoted by hand, and talking to us: the key tells of its predecessor for a moment longer. */
  if (leads && f->st.open && f->st.link_up && v->leader.epoch < f->st.epoch) return false;
  if (leads) memcpy(a->address, v->leader.address, sizeof a->address);
  a->kind = FO_FOLLOW;
  f->opening |= !f->st.open;
  f->follow_at = f->now + f->opt.renew_ns;
  return true;
}

static bool local_next(struct failover *f, struct failover_action *a) {
  if (f->want_demote && f->now >= f->demote_at) {
    f->want_demote = false;
    f->st.primary = false;
    a->kind = FO_DEMOTE;
    return true;
  }
  if (f->want_restricted != f->restricted) {
    f->restricted = a->on = f->want_restricted;
    a->kind = FO_RESTRICT;
    return true;
  }
  if (f->audit_count) {
    a->kind = FO_AUDIT;
    a->audit = f->audits[0];
    memmove(f->audits, f->audits + 1, --f->audit_count * sizeof *f->audits);
    return true;
  }
  if (f->want_promote && f->now < f->valid_until_ns) {
    f->want_promote = false;
    f->promoting = true;
    a->kind = FO_PROMOTE;
    a->timeout_ns = f->valid_until_ns - f->now;
    a->term = f->term;
    return true;
  }
  if (f->want_promote) { /* too late: the view decides anew */
    f->want_promote = false;
    f->state = FO_WAITING;
  }
  return follow_next(f, a);
}

bool failover_next(struct failover *f, struct failover_action *a) {
  memset(a, 0, sizeof *a);
  if (local_next(f, a)) return true;
  if (f->state == FO_STOPPED || f->asking) return false;
  return request_next(f, a);
}

uint64_t failover_wake(const struct failover *f) {
  uint64_t at = f->look_at;
  if (f->lease ? f->renew_at < at : f->grant_at < at) at = f->lease ? f->renew_at : f->grant_at;
  if (f->lease && f->publish_at < at) at = f->publish_at;
  if (f->want_demote && f->demote_at < at) at = f->demote_at;
  if (f->state == FO_LEADING && f->valid_until_ns < at) at = f->valid_until_ns;
  return at;
}
