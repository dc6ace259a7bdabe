/* The failover machine: leases, deadlines, roles. failover.h has the picture, failover_choose.c the judgement of who
 * leads, failover_act.c turns wishes into actions.
 *
 * Three things drive it. Time: the deadline of a primary, the turn of a candidate. Answers: only one request is out at
 * any time, so a view is never older than a transaction answered before it. And the node itself: a primary whose log
 * has failed, or that was fenced by a promotion that somebody made by hand, gives the lease back.
 *
 * An answer that was lost is never guessed at. Whether a transaction was done, the next view tells: a leader key
 * with this node's id is taken over (again), whatever became of the request that put it there. Always with a new lease:
 * what was asked for under an older one, and was given up, may still be carried out, and must not meet the new key.
 */
#include "replication/failover.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/failover_internal.h"
#include "wal/base/status.h"

#define MS 1000000ull

typedef unsigned long long ull;

struct failover *failover_create(const struct failover_options *o) {
  struct failover *f = calloc(1, sizeof *f);
  if (!f) return NULL;
  f->opt = *o;
  f->reachable = true;
  return f;
}

void failover_destroy(struct failover *f) {
  free(f);
}

const char *failover_state_name(enum failover_state s) {
  static const char *const names[] = {"waiting", "standing", "taking", "promoting", "leading", "kept", "stopped"};
  return (unsigned)s < sizeof names / sizeof *names ? names[s] : "unknown";
}

/* ---- saying what is done and why -------------------------------------------------------------------- */

static void audit(struct failover *f, const char *event, uint64_t since_ns, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void audit(struct failover *f, const char *event, uint64_t since_ns, const char *fmt, ...) {
  if (f->audit_count == AUDITS_MAX) { /* nobody fetches them: keep the newest */
    memmove(f->audits, f->audits + 1, (AUDITS_MAX - 1) * sizeof *f->audits);
    f->audit_count--;
  }
  struct failover_audit *a = &f->audits[f->audit_count++];
  *a = (struct failover_audit){.event = event,
                               .from_node = f->before.node_id,
                               .from_epoch = f->before.epoch,
                               .from_lsn = f->before_lsn,
                               .to_node = f->opt.node_id,
                               .to_epoch = f->st.epoch,
                               .to_lsn = f->st.durable_lsn,
                               .duration_ns = since_ns && f->now > since_ns ? f->now - since_ns : 0};
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(a->why, sizeof a->why, fmt, ap);
  va_end(ap);
  snprintf(f->decision, sizeof f->decision, "%s: %.200s", event, a->why);
}

static void held_back(struct failover *f, const char *why) {
  if (strcmp(f->held, why) == 0) return;
  snprintf(f->held, sizeof f->held, "%s", why);
  if (why[0] && f->view.has_record)
    audit(f, "held-back", f->lost_ns, "there is no primary, and this node does not stand: %s", why);
}

/* ---- stepping down ------------------------------------------------------------------------------------ */

static void step_down(struct failover *f, bool resign, const char *why) {
  uint64_t since = f->valid_until_ns > f->opt.ttl_ns ? f->valid_until_ns - f->opt.ttl_ns / 5 * 4 : 0;
  f->before = (struct failover_leader){.node_id = f->opt.node_id, .epoch = f->st.epoch};
  f->before_lsn = f->st.durable_lsn;
  audit(f, "stepped-down", since, "%s", why);
  f->audits[f->audit_count - 1].to_node = 0;
  f->state = FO_WAITING;
  f->want_demote = true;
  f->demote_at = 0;
  f->want_resign = resign;
  f->want_record = f->want_promote = f->want_restricted = false;
  f->lost = false;
  f->look_at = f->now;
  f->not_before_ns = f->now + (resign ? f->opt.ttl_ns : 0);
}

static bool may_keep(const struct failover *f) {
  return f->opt.keep && f->opt.acks && f->st.all_sync && f->st.sync_followers >= f->opt.acks;
}

/* The lease can't be renewed, or is not ours any more. Nobody else is known to lead. */
static void lose_lease(struct failover *f, const char *why) {
  if (!may_keep(f)) {
    step_down(f, false, why);
    return;
  }
  if (f->state == FO_KEPT) return;
  audit(f, "kept", 0, "%s; %u followers confirm what is written, %u are needed", why, f->st.sync_followers,
        f->opt.acks);
  f->state = FO_KEPT;
  f->want_restricted = true;
  f->look_at = f->now;
}

static void lease_gone(struct failover *f) {
  f->lease = 0;
  f->valid_until_ns = 0;
  f->grant_at = f->now;
  if (f->state == FO_LEADING) lose_lease(f, "the coordinator says that the lease has expired or was revoked");
}

static void watch_leading(struct failover *f) {
  bool kept = f->state == FO_KEPT;
  if (!f->st.healthy)
    step_down(f, true, "the log or the store has failed");
  else if (!f->st.primary)
    step_down(f, true, "fenced: a newer epoch was promised to another node");
  else if (!kept && f->now >= f->valid_until_ns)
    lose_lease(f, "the lease could not be renewed, and may end soon");
  else if (kept && !may_keep(f))
    step_down(f, false, "the coordinator is out of reach, and too few followers confirm");
}

/* What a view says to the primary. */
static void check_leading(struct failover *f) {
  const struct failover_view *v = &f->view;
  const struct failover_member *newer = failover_superseded(f);
  char why[FAILOVER_WHY];
  if (v->has_leader && v->leader.node_id != f->opt.node_id) {
    snprintf(why, sizeof why, "node %llu has the lease", (ull)v->leader.node_id);
    step_down(f, false, why);
  } else if (newer) {
    snprintf(why, sizeof why, "node %llu has followed epoch %llu, this one is of epoch %llu", (ull)newer->node_id,
             (ull)newer->epoch, (ull)f->st.epoch);
    step_down(f, true, why);
  } else if (f->state == FO_LEADING && (!v->has_leader || v->leader.lease != f->lease)) {
    lose_lease(f, "the leader key is gone");
  } else if (f->state == FO_KEPT) {
    if (v->has_record && v->record.node_id != f->opt.node_id) {
      snprintf(why, sizeof why, "node %llu was promoted meanwhile", (ull)v->record.node_id);
      step_down(f, false, why);
    } else if (v->has_leader && v->leader.lease == f->lease && f->now < f->valid_until_ns) {
      f->state = FO_LEADING;
      f->want_restricted = false;
      audit(f, "back", 0, "the coordinator answers again, the lease was renewed in time");
    }
  }
  /* A request that had been given up, and was carried out, took the key once more. */
  if (f->state == FO_LEADING && v->has_leader && v->leader.epoch != f->st.epoch) f->want_record = true;
}

/* ---- standing ----------------------------------------------------------------------------------------- */

/* Primary by somebody's hand (dabbawal promote), without the lease. The one with the newer epoch is right; a moment is
 * granted to the other one to find out that it was fenced. */
static void primary_without_lease(struct failover *f) {
  const struct failover_leader *l = &f->view.leader;
  uint64_t grace = f->opt.missed_renewals * f->opt.renew_ns;
  if (!f->odd_since_ns) f->odd_since_ns = f->now;
  if (l->epoch < f->st.epoch && f->now < f->odd_since_ns + grace) return;
  f->odd_since_ns = 0;
  char why[FAILOVER_WHY];
  snprintf(why, sizeof why, "primary without the lease: node %llu has it", (ull)l->node_id);
  step_down(f, false, why);
}

static void notice_loss(struct failover *f, bool dead) {
  if (f->lost) return;
  f->lost = true;
  f->lost_ns = f->publish_at = f->look_at = f->now;
  f->held[0] = 0;
  if (dead)
    audit(f, "suspects", 0, "node %llu has missed %u renewals, and its host says that nobody is there",
          (ull)f->before.node_id, f->opt.missed_renewals);
}

/* Is it this node's turn? */
static bool turn(struct failover *f, bool at_once) {
  uint32_t missing, better = failover_rank(f, f->score, &missing);
  if (!f->lease || f->now >= f->valid_until_ns || f->now < f->not_before_ns) return false;
  if (at_once) return true;
  uint64_t settled = f->lost_ns + f->opt.poll_ns;
  if (f->published_ns < f->lost_ns || f->view_sent_ns < settled) return false; /* others must know, and be known */
  /* Promoted by hand, and talking to us: it is to take the lease itself. */
  bool by_hand = f->st.link_up && f->view.has_record && f->st.epoch > f->view.record.epoch;
  return f->now >= settled + (better + (missing > 0) + by_hand) * f->opt.candidate_wait_ns;
}

static void remember_leader(struct failover *f) {
  const struct failover_view *v = &f->view;
  if (!v->has_leader) return;
  f->before = v->leader;
  for (uint32_t i = 0; i < v->member_count; i++)
    if (v->members[i].node_id == v->leader.node_id) f->before_lsn = v->members[i].durable_lsn;
}

/* WAITING and STANDING. */
static void decide(struct failover *f) {
  const struct failover_view *v = &f->view;
  bool mine = v->has_leader && v->leader.node_id == f->opt.node_id, dead = false;
  char why[FAILOVER_WHY];
  if (!v->has_leader || !f->st.primary) f->odd_since_ns = 0;
  if (!f->lost) remember_leader(f);
  if (f->st.primary && v->has_record && v->record.epoch > f->st.epoch) {
    snprintf(why, sizeof why,
             "epoch %llu of node %llu is on record, this primary's is older: it has to be promoted anew",
             (ull)v->record.epoch, (ull)v->record.node_id);
    step_down(f, false, why);
    return;
  }
  if (v->has_leader && !mine) {
    if (f->st.primary) primary_without_lease(f);
    dead = f->opt.early && f->refused && failover_suspect(f) && !f->st.link_up;
    if (!dead) {
      f->lost = false;
      f->held[0] = 0;
      f->state = FO_WAITING;
      return;
    }
  }
  notice_loss(f, dead);
  bool held = failover_held(f, why);
  held_back(f, why);
  if (held) {
    f->state = FO_WAITING;
    if (mine && v->leader.lease == f->lease && f->lease) f->want_resign = true;
    return;
  }
  f->state = FO_STANDING;
  /* A key of its own may be a claim that it never made good: then it is a candidate like any other. */
  bool returns = failover_returns(f);
  if (!f->st.open && !returns) return; /* it opens as a follower first: only promises make it primary */
  if (!turn(f, mine || returns)) return;
  f->state = FO_TAKING;
  f->stamp = !returns;
}

void failover_step(struct failover *f, uint64_t now_ns, uint64_t wall_ms, const struct failover_status *st) {
  f->now = now_ns;
  f->wall_ms = wall_ms;
  bool idle = f->state == FO_WAITING || f->state == FO_STANDING;
  if (idle && st->primary && !f->st.primary) {
    /* Promoted by hand: the lease is to follow, also if it was given back just now. */
    f->look_at = f->now;
    f->not_before_ns = 0;
  }
  f->st = *st;
  if (st->open) f->opening = false;
  if (!f->began_ns) f->began_ns = now_ns;
  if (f->stopping || f->state == FO_STOPPED) return;
  if (f->state == FO_LEADING || f->state == FO_KEPT) watch_leading(f);
  if (f->say_promoted && f->state == FO_LEADING)
    audit(f, "promoted", f->lost_ns, "%s; %.150s",
          f->stamp ? "failover" : "return of the last primary, or the first one", f->score);
  f->say_promoted = false;
  if (f->state == FO_PROMOTING && !f->promoting && !f->want_promote) { /* primary already: it only lacked the lease */
    f->state = FO_LEADING;
    f->want_record = true;
  }
  /* Promoted by hand, and fenced before it had the lease: with the longest log it would be in everybody's way. */
  f->want_demote |= idle && st->fenced;
  if (f->want_demote || f->want_resign || f->asking || !f->seen || !f->reachable) return;
  if (f->state == FO_WAITING || f->state == FO_STANDING) decide(f);
}

/* ---- answers ------------------------------------------------------------------------------------------- */

static void lease_answer(struct failover *f, const struct failover_answer *a) {
  if (a->rc == DW_NOT_FOUND) {
    lease_gone(f);
    return;
  }
  if (a->rc) {
    f->renew_at = f->grant_at = f->now + f->opt.renew_ns / 4;
    return;
  }
  if (f->asked == FO_GRANT) {
    f->lease = a->lease;
    f->spent = false;
    f->publish_at = f->now;
  }
  uint64_t ttl = a->ttl_ns < f->opt.ttl_ns ? a->ttl_ns : f->opt.ttl_ns;
  f->valid_until_ns = f->asked_ns + ttl / 5 * 4;
  f->renew_at = f->asked_ns + f->opt.renew_ns;
}

static void took(struct failover *f) {
  f->took_ns = f->now;
  if (f->view.has_leader && f->view.leader.node_id != f->opt.node_id) f->refused = false;
  if (f->state == FO_KEPT) {
    f->state = FO_LEADING;
    f->want_restricted = f->stamp = false;
    f->want_record = true;
    audit(f, "back", 0, "the coordinator answers again, and nobody had taken the lease");
    return;
  }
  f->state = FO_PROMOTING;
  f->want_promote = !f->st.primary;
  audit(f, "lease-taken", f->lost_ns, "%s; %.150s",
        f->stamp ? "the primary is gone, this node is the best one"
                 : "nobody leads, and this node was the last primary",
        f->score);
}

static void take_answer(struct failover *f, const struct failover_answer *a) {
  if (a->rc == DW_OK && a->done && f->now < f->valid_until_ns) {
    took(f);
    return;
  }
  if (f->state == FO_TAKING) f->state = FO_WAITING;
  if (a->rc == DW_NOT_FOUND) lease_gone(f);
  f->seen = false; /* nothing is decided before the next view */
  f->look_at = f->now;
}

static void publish_answer(struct failover *f, const struct failover_answer *a) {
  f->publish_at = f->now + f->opt.renew_ns / 4;
  if (a->rc == DW_NOT_FOUND) {
    lease_gone(f);
  } else if (a->rc == DW_OK && a->done) {
    f->published_ns = f->asked_ns;
    f->publish_at = f->asked_ns + f->opt.renew_ns;
  } else if (a->rc == DW_OK && f->state == FO_LEADING) {
    lose_lease(f, "the leader key is not this node's any more");
  }
}

static void look_answer(struct failover *f, const struct failover_answer *a) {
  f->look_at = f->now + f->opt.poll_ns;
  if (a->rc) return;
  failover_take_view(f, a->view, f->asked_ns);
  if (f->state == FO_LEADING || f->state == FO_KEPT) check_leading(f);
  const struct failover_view *v = &f->view;
  bool by_hand = f->st.primary && (f->state == FO_WAITING || f->state == FO_STANDING);
  if (!v->has_leader || v->leader.epoch == 0 || by_hand || failover_suspect(f))
    f->look_at = f->now + f->opt.poll_ns / 5;
}

void failover_answer(struct failover *f, uint64_t now_ns, const struct failover_answer *a) {
  f->now = now_ns;
  f->asking = false;
  if (a->rc) f->retry_at = f->now + f->opt.renew_ns / 4;
  if (f->asked != FO_PROBE) f->reachable = a->rc == DW_OK || a->rc == DW_NOT_FOUND;
  switch (f->asked) {
  case FO_GRANT:
  case FO_RENEW: lease_answer(f, a); break;
  case FO_LOOK: look_answer(f, a); break;
  case FO_PUBLISH: publish_answer(f, a); break;
  case FO_TAKE: take_answer(f, a); break;
  case FO_RECORD:
    if (a->rc == DW_OK && a->done) {
      f->want_record = false;
      f->look_at = now_ns;
    } else if (a->rc == DW_OK) {
      f->want_record = false;
      if (f->state == FO_LEADING) lose_lease(f, "the leader key is not this node's any more");
    }
    break;
  case FO_RESIGN:
    if (a->rc == DW_OK || a->rc == DW_NOT_FOUND) f->want_resign = f->seen = false;
    f->look_at = now_ns;
    break;
  case FO_REVOKE: f->state = FO_STOPPED; break;
  case FO_PROBE:
    f->refused = a->rc == DW_OK && a->done;
    f->probe_at = now_ns + f->opt.poll_ns;
    break;
  default: break;
  }
}

void failover_promoted(struct failover *f, uint64_t now_ns, int rc, const char *why) {
  f->now = now_ns;
  f->promoting = false;
  if (rc == DW_OK) {
    f->st.primary = true;
    if (f->stopping) {
      f->want_demote = true;
      return;
    }
    if (f->state != FO_PROMOTING || now_ns >= f->valid_until_ns) {
      step_down(f, false, "the promotion took longer than the lease");
      return;
    }
    f->state = FO_LEADING;
    f->want_record = true;
    f->failovers += f->stamp;
    f->say_promoted = true; /* with the epoch, which the next status tells */
    return;
  }
  audit(f, "promotion-failed", f->took_ns, "%.200s", why);
  if (f->stopping) return;
  f->state = FO_WAITING;
  f->want_resign = true;
  f->lost = false;
  f->not_before_ns = now_ns + 2 * f->opt.candidate_wait_ns;
}

void failover_stop(struct failover *f) {
  if (f->stopping) return;
  f->stopping = true;
  if (f->state == FO_LEADING || f->state == FO_KEPT || f->state == FO_PROMOTING)
    step_down(f, false, "this node is stopping");
  f->want_demote |= f->st.primary;
}

/* It stands for nothing, and follows nobody, until it is done. */
void failover_not_demoted(struct failover *f, uint64_t now_ns) {
  f->now = now_ns;
  f->want_demote = true;
  f->demote_at = now_ns + f->opt.renew_ns;
}

/* ---- asking the machine --------------------------------------------------------------------------------- */

bool failover_may_acknowledge(const struct failover *f, uint64_t now_ns) {
  return f->state == FO_KEPT || (f->state == FO_LEADING && (now_ns < f->valid_until_ns || may_keep(f)));
}

uint64_t failover_serves_until(const struct failover *f) {
  if (f->state == FO_KEPT) return UINT64_MAX;
  return f->state == FO_LEADING || f->state == FO_PROMOTING ? f->valid_until_ns : 0;
}

void failover_report(const struct failover *f, uint64_t now_ns, struct failover_report *r) {
  *r = (struct failover_report){.state = f->state,
                                .reachable = f->reachable && f->seen,
                                .paused = f->seen && f->view.paused,
                                .has_leader = f->seen && f->view.has_leader,
                                .restricted = f->restricted,
                                .lease_left_ms = f->valid_until_ns > now_ns ? (f->valid_until_ns - now_ns) / MS : 0,
                                .term = f->seen && f->view.has_record ? f->view.record.term : 0,
                                .failovers = f->failovers};
  if (r->has_leader) {
    r->leader_node = f->view.leader.node_id;
    memcpy(r->leader, f->view.leader.address, sizeof r->leader);
    memcpy(r->leader_client, f->view.leader.client, sizeof r->leader_client);
  }
  memcpy(r->decision, f->decision, sizeof r->decision);
  memcpy(r->score, f->score, sizeof r->score);
}
