/* See lookout.h. */
#include "replication/lookout.h"

void lookout_init(struct lookout *l, size_t peers, uint64_t timeout_ns, uint64_t now_ns) {
  *l = (struct lookout){
      .peers = peers < LOOKOUT_PEERS ? peers : LOOKOUT_PEERS, .timeout_ns = timeout_ns, .next_ns = now_ns};
}

static bool wanted(const struct lookout_self *self) {
  return self->role == DW_PRIMARY || self->lost;
}

static bool all_done(const struct lookout *l) {
  for (size_t i = 0; i < l->peers; i++)
    if (!l->peer[i].done) return false;
  return true;
}

static bool choose(const struct lookout *l, const struct lookout_self *self, size_t *found) {
  bool any = false;
  for (size_t i = 0; i < l->peers; i++) {
    const struct lookout_peer *p = &l->peer[i];
    if (!p->primary || p->epoch < self->epoch || p->epoch < self->promised_epoch) continue;
    if (p->epoch == self->epoch && self->role == DW_PRIMARY) continue;
    if (any && p->epoch <= l->peer[*found].epoch) continue;
    *found = i;
    any = true;
  }
  return any;
}

static void begin(struct lookout *l, uint64_t now_ns) {
  for (size_t i = 0; i < l->peers; i++) l->peer[i] = (struct lookout_peer){0};
  l->asking = true;
  l->end_ns = now_ns + l->timeout_ns;
}

bool lookout_tick(struct lookout *l, const struct lookout_self *self, uint64_t now_ns, size_t *found) {
  if (!l->asking && l->peers && wanted(self) && now_ns >= l->next_ns) begin(l, now_ns);
  if (!l->asking || (now_ns < l->end_ns && !all_done(l))) return false;
  l->asking = false;
  l->next_ns = now_ns + (self->fenced && LOOKOUT_FENCED_NS < l->timeout_ns ? LOOKOUT_FENCED_NS : l->timeout_ns);
  return wanted(self) && choose(l, self, found);
}

bool lookout_wants(const struct lookout *l, size_t i) {
  return l->asking && !l->peer[i].asked;
}

void lookout_asked(struct lookout *l, size_t i) {
  l->peer[i].asked = true;
}

void lookout_answer(struct lookout *l, size_t i, const struct msg_fenced *m) {
  l->peer[i].done = true;
  l->peer[i].primary = m->role == DW_PRIMARY && !m->fenced && m->has_data;
  l->peer[i].epoch = m->durable.epoch;
  l->peer[i].node_id = m->node_id;
}

void lookout_unreachable(struct lookout *l, size_t i) {
  l->peer[i].asked = l->peer[i].done = true;
}

uint64_t lookout_next_tick(const struct lookout *l) {
  return l->asking ? l->end_ns : UINT64_MAX; /* the next round may begin at any tick of the node's */
}
