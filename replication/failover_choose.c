/* Who should lead, judged by one node from what it has seen: pure questions over struct failover.
 *
 * Candidates are compared by what they have durable - (epoch, LSN): in one epoch there is one writer, so the greater
 * pair has all that the lesser has, or its tail was never acknowledged - then by priority, preferred region, lag, and
 * at last by node id, so that all nodes agree on one order. Each waits `candidate_wait` for every better one it sees
 * alive, and once more if not all nodes have been seen: bounded, so that a better candidate that does nothing stops
 * nobody.
 */
#include <stdio.h>
#include <string.h>

#include "replication/failover_internal.h"

#define HOUR_MS 3600000ull
#define MS 1000000ull

typedef unsigned long long ull;

static bool member_preferred(const struct failover_options *o, const struct failover_member *m) {
  return o->preferred_region[0] && strcmp(o->preferred_region, m->region) == 0;
}

static int order(uint64_t a, uint64_t b) {
  return a < b ? -1 : a > b;
}

/* Lags are published at different moments, and grow while there is no primary: finer classes would let two nodes each
 * take the other for the better one. */
static uint64_t lag_class(uint64_t lag_ms) {
  return lag_ms < 10000 ? 0 : lag_ms < 60000 ? 1 : lag_ms < UINT64_MAX ? 2 : 3;
}

int failover_compare(const struct failover_options *o, const struct failover_member *a,
                     const struct failover_member *b) {
  int by = order(a->epoch, b->epoch);
  if (!by) by = order(a->durable_lsn, b->durable_lsn);
  if (!by) by = order(a->priority, b->priority);
  if (!by) by = order(member_preferred(o, a), member_preferred(o, b));
  if (!by) by = order(lag_class(b->lag_ms), lag_class(a->lag_ms));
  return by ? by : order(b->node_id, a->node_id);
}

void failover_self(const struct failover *f, struct failover_member *m) {
  *m = (struct failover_member){.node_id = f->opt.node_id,
                                .epoch = f->st.epoch,
                                .durable_lsn = f->st.durable_lsn,
                                .lag_ms = f->st.lag_ms,
                                .priority = f->opt.priority,
                                .primary = f->st.primary,
                                .healthy = f->st.healthy,
                                .has_data = f->st.has_data};
  snprintf(m->region, sizeof m->region, "%s", f->opt.region);
  snprintf(m->address, sizeof m->address, "%s", f->opt.address);
}

static const struct member_seen *seen(const struct failover *f, uint64_t node_id) {
  for (uint32_t i = 0; i < f->member_count; i++)
    if (f->members[i].node_id == node_id) return &f->members[i];
  return NULL;
}

/* One renewal more than may be missed: its view is up to a poll old, and everybody's timer has its own phase. */
bool failover_fresh(const struct failover *f, const struct failover_member *m) {
  const struct member_seen *s = seen(f, m->node_id);
  return s && f->now < s->since_ns + f->opt.missed_renewals * f->opt.renew_ns + f->opt.poll_ns;
}

bool failover_suspect(const struct failover *f) {
  if (!f->view.has_leader) return false;
  const struct member_seen *s = seen(f, f->view.leader.node_id);
  uint64_t since = s && s->since_ns > f->leader_since_ns ? s->since_ns : f->leader_since_ns;
  return f->now >= since + f->opt.missed_renewals * f->opt.renew_ns;
}

uint32_t failover_rank(const struct failover *f, char score[FAILOVER_WHY], uint32_t *missing) {
  struct failover_member self;
  uint32_t better = 0, alive = 1;
  failover_self(f, &self);
  for (uint32_t i = 0; i < f->view.member_count; i++) {
    const struct failover_member *m = &f->view.members[i];
    if (m->node_id == self.node_id || !failover_fresh(f, m)) continue;
    alive++;
    better += m->healthy && m->has_data && m->priority && failover_compare(&f->opt, m, &self) > 0;
  }
  uint32_t expected = f->opt.nodes > 1 ? f->opt.nodes - 1 : 1; /* without the primary that is gone */
  *missing = alive < expected ? expected - alive : 0;
  char lag[24] = "unknown";
  if (self.lag_ms != UINT64_MAX) snprintf(lag, sizeof lag, "%llu", (ull)self.lag_ms);
  snprintf(score, FAILOVER_WHY, "epoch=%llu lsn=%llu priority=%u preferred_region=%s lag_ms=%s better=%u missing=%u",
           (ull)self.epoch, (ull)self.durable_lsn, self.priority, member_preferred(&f->opt, &self) ? "yes" : "no", lag,
           better, *missing);
  return better;
}

/* Age of a failover: by the wall clock it was written with, or by how long its record has been seen here, whichever is
 * more. A clock that is wrong can so delay failovers by one cool-down at most, and not for ever. */
static uint64_t stamp_age_ms(const struct failover *f, uint64_t stamp_ms) {
  uint64_t wall = f->wall_ms > stamp_ms ? f->wall_ms - stamp_ms : 0, here = (f->now - f->record_since_ns) / MS;
  return wall > here ? wall : here;
}

static bool limited(const struct failover *f, char why[FAILOVER_WHY]) {
  const struct failover_record *r = &f->view.record;
  uint32_t recent = 0;
  if (!f->view.has_record || !r->count) return false;
  for (uint32_t i = 0; i < r->count; i++) recent += stamp_age_ms(f, r->stamps_ms[i]) < HOUR_MS;
  uint64_t last = stamp_age_ms(f, r->stamps_ms[r->count - 1]);
  if (last < f->opt.cooldown_ns / MS)
    snprintf(why, FAILOVER_WHY, "the last failover is not older than the cool-down of %llu ms",
             (ull)(f->opt.cooldown_ns / MS));
  else if (f->opt.max_per_hour && recent >= f->opt.max_per_hour)
    snprintf(why, FAILOVER_WHY, "%u failovers within an hour: no more than %u are allowed", recent,
             f->opt.max_per_hour);
  else
    return false;
  return true;
}

/* Nobody has ever been primary; but for a first start of this node's that was cut off. */
static bool virgin(const struct failover *f) {
  const struct failover_record *r = &f->view.record;
  return !f->view.has_record || (r->epoch == 0 && r->node_id == f->opt.node_id);
}

/* Somebody's log is of a newer epoch than this node's: whoever is primary in the older one can be followed by nobody
 * who has met the newer, whether that one is on record or not. */
const struct failover_member *failover_superseded(const struct failover *f) {
  for (uint32_t i = 0; i < f->view.member_count; i++) {
    const struct failover_member *m = &f->view.members[i];
    if (m->node_id != f->opt.node_id && m->epoch > f->st.epoch) return m;
  }
  return NULL;
}

/* The last primary comes back, or the first one comes: that is no failover. Not if its data is gone, with or without a
 * new directory in its place: what it would come back with is another cluster. */
bool failover_returns(const struct failover *f) {
  if (f->st.primary) return true;
  if (virgin(f)) return f->opt.first;
  return f->view.record.node_id == f->opt.node_id && f->st.has_data && f->st.epoch >= f->view.record.epoch &&
         !failover_superseded(f);
}

bool failover_held(const struct failover *f, char why[FAILOVER_WHY]) {
  const char *text = NULL;
  why[0] = 0;
  if (!f->st.healthy)
    text = "its log or store has failed";
  else if (f->opening)
    text = "it is being opened as a follower";
  else if (!f->st.has_data && !(f->opt.first && virgin(f) && !f->st.open))
    text = f->st.open ? "it has no data" : "it is not open yet, and was never a primary";
  else if (f->opt.priority == 0 && !failover_returns(f))
    text = "its priority is 0";
  else if (virgin(f) && !failover_returns(f))
    text = "the coordinator has no record of a primary yet: the first one is a dabbawal-primary's";
  else if (f->view.paused && !failover_returns(f))
    text = "failover is paused";
  else if (f->opt.keep && f->st.link_up && !failover_returns(f))
    text = "its primary still talks to it, and may go on without the coordinator";
  if (text) snprintf(why, FAILOVER_WHY, "%s", text);
  return text || (!failover_returns(f) && limited(f, why));
}

void failover_take_view(struct failover *f, const struct failover_view *v, uint64_t sent_ns) {
  struct member_seen now[FAILOVER_MEMBERS];
  for (uint32_t i = 0; i < v->member_count; i++) {
    const struct failover_member *m = &v->members[i];
    const struct member_seen *s = seen(f, m->node_id);
    now[i] = s && s->revision == m->revision ? *s : (struct member_seen){m->node_id, m->revision, f->now};
  }
  bool same = v->has_leader && v->leader.revision == f->leader_revision;
  const struct member_seen *was = same ? seen(f, v->leader.node_id) : NULL;
  int64_t beat = was ? was->revision : 0;
  memcpy(f->members, now, v->member_count * sizeof *now);
  f->member_count = v->member_count;
  was = v->has_leader ? seen(f, v->leader.node_id) : NULL;
  if (!same || (was ? was->revision : 0) != beat) f->refused = false;
  if (!same) f->leader_since_ns = f->now; /* a key that was put anew is a sign of life, too */
  f->leader_revision = v->has_leader ? v->leader.revision : 0;
  int64_t record = v->has_record ? v->record.revision : 0;
  if (!f->seen || record != f->record_revision) f->record_since_ns = f->now;
  f->record_revision = record;
  f->view = *v;
  f->view_sent_ns = sent_ns;
  f->seen = true;
}
