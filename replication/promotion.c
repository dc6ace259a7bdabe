/* See promotion.h. */
#include "replication/promotion.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"
#include "wal/base/status.h"

#define TERMS_AHEAD (1u << 20)

typedef unsigned long long ull;

static void clock_to(struct promotion *p, uint64_t now_ns) {
  if (now_ns > p->now_ns) p->now_ns = now_ns;
}

static void fail(struct promotion *p, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void fail(struct promotion *p, int code, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(p->text, sizeof p->text, fmt, ap);
  va_end(ap);
  p->code = code;
  p->phase = PROMOTING_FAILED;
}

/* The next question goes to everybody who can be reached. */
static void ask_all(struct promotion *p) {
  for (size_t i = 0; i < p->cfg.peers; i++) p->peer[i].asked = p->peer[i].answered = false;
}

void promotion_start(struct promotion *p, const struct promotion_config *cfg, const struct promotion_self *self,
                     uint64_t now_ns) {
  memset(p, 0, sizeof *p);
  p->cfg = *cfg;
  if (p->cfg.peers > PROMOTION_PEERS) p->cfg.peers = PROMOTION_PEERS;
  p->self = *self;
  p->start_ns = p->now_ns = now_ns;
  promotion_tick(p, now_ns);
}

size_t promotion_need(const struct promotion_config *cfg) {
  size_t nodes = cfg->peers + 1;
  if (cfg->force || cfg->mode == DW_ASYNC) return 1; /* nobody's word protects what nobody waited for */
  return cfg->acks < nodes ? nodes - cfg->acks : 1;
}

/* ---- who has what ---------------------------------------------------------------------------- */

/* By the epoch of the last block, then by LSN: docs/decisions/0007. */
bool promotion_has_more(const struct wal_pos *a, const struct wal_pos *b) {
  return a->epoch > b->epoch || (a->epoch == b->epoch && a->lsn > b->lsn);
}

static bool settled(const struct promotion *p) {
  for (size_t i = 0; i < p->cfg.peers; i++)
    if (!p->peer[i].answered && !p->peer[i].unreachable) return false;
  return true;
}

/* Peers whose answers count: with data, and without more than we have. */
static size_t count(const struct promotion *p, int verdict) {
  size_t n = 0;
  for (size_t i = 0; i < p->cfg.peers; i++) {
    const struct promotion_peer *peer = &p->peer[i];
    if (!peer->answered || !peer->last.has_data || promotion_has_more(&peer->last.durable, &p->self.durable)) continue;
    bool twice = peer->last.node_id == p->cfg.node_id; /* one node under two addresses */
    for (size_t k = 0; k < i; k++) twice |= p->peer[k].answered && p->peer[k].last.node_id == peer->last.node_id;
    if (!twice) n += verdict < 0 || peer->last.verdict == verdict;
  }
  return n;
}

static void describe_missing(const struct promotion *p, char *out, size_t cap) {
  size_t at = 0;
  out[0] = '\0';
  for (size_t i = 0; i < p->cfg.peers && at < cap; i++) {
    const struct promotion_peer *peer = &p->peer[i];
    const char *why = peer->unreachable                     ? peer->why
                      : !peer->answered                     ? "no answer yet"
                      : !peer->last.has_data                ? "has no data"
                      : peer->last.verdict == FENCE_REFUSED ? peer->last.text
                                                            : NULL;
    if (!why) continue;
    int n = snprintf(out + at, cap - at, "; peer %zu: %.100s", i + 1, why);
    at += n > 0 ? (size_t)n : 0;
  }
}

/* Without the other half of a pair nobody knows its last epoch, but the coordinator may. A claim that is absurd does
 * not use up the terms. */
static uint64_t above_claim(uint64_t last, uint32_t min_term) {
  uint64_t next = epoch_term(last) + 1;
  return min_term > next && min_term - next < TERMS_AHEAD ? (uint64_t)(min_term - 1) << 32 : last;
}

/* What a peer claims that can't be is no reason to use up the numbers. */
static void choose_epoch(struct promotion *p) {
  const uint64_t own = p->self.durable.epoch > p->self.promised_epoch ? p->self.durable.epoch : p->self.promised_epoch;
  uint64_t last = own;
  for (size_t i = 0; i < p->cfg.peers; i++) {
    const struct msg_fenced *m = &p->peer[i].last;
    if (!p->peer[i].known) continue;
    if (m->durable.epoch > last && epoch_plausible(m->durable.epoch, own)) last = m->durable.epoch;
    if (m->promised_epoch > last && epoch_plausible(m->promised_epoch, own)) last = m->promised_epoch;
  }
  p->epoch = epoch_next_term(above_claim(last, p->cfg.min_term), p->cfg.draw);
}

/* ---- reasons to refuse -------------------------------------------------------------------------- */

static bool somebody_has_more(struct promotion *p) {
  for (size_t i = 0; i < p->cfg.peers; i++) {
    const struct msg_fenced *m = &p->peer[i].last;
    if (!p->peer[i].answered || !m->has_data || !promotion_has_more(&m->durable, &p->self.durable)) continue;
    fail(p, DW_STALE,
         "node %llu (a %s) has more: its log ends at LSN %llu of epoch %llu, this one at LSN %llu of epoch %llu",
         (ull)m->node_id, m->role == DW_PRIMARY ? m->fenced ? "fenced primary" : "primary" : "follower",
         (ull)m->durable.lsn, (ull)m->durable.epoch, (ull)p->self.durable.lsn, (ull)p->self.durable.epoch);
    return true;
  }
  return false;
}

static bool too_stale(struct promotion *p) {
  if (!p->cfg.max_lag_ms || p->self.staleness_ms <= p->cfg.max_lag_ms) return false;
  if (p->self.staleness_ms == UINT64_MAX)
    fail(p, DW_STALE, "this node's data is of unknown age, allowed are %llu ms", (ull)p->cfg.max_lag_ms);
  else
    fail(p, DW_STALE, "this node's data is %llu ms old, allowed are %llu ms", (ull)p->self.staleness_ms,
         (ull)p->cfg.max_lag_ms);
  return true;
}

/* ---- a primary that hands over ------------------------------------------------------------------ */

static void begin_draining(struct promotion *p) {
  size_t found = p->cfg.peers;
  for (size_t i = 0; i < p->cfg.peers; i++) {
    const struct msg_fenced *m = &p->peer[i].last;
    if (!p->peer[i].answered || m->role != DW_PRIMARY || m->fenced) continue;
    if (found == p->cfg.peers || m->durable.epoch > p->peer[found].last.durable.epoch) found = i;
  }
  if (found == p->cfg.peers) {
    char missing[300];
    describe_missing(p, missing, sizeof missing);
    fail(p, DW_NOT_FOUND, "no primary answers that could hand over%s", missing);
    return;
  }
  /* Nobody can hand over what a newer primary has written: not an old one that has come back and knows of nothing. */
  uint64_t newest = p->self.durable.epoch;
  for (size_t i = 0; i < p->cfg.peers; i++)
    if (p->peer[i].answered && p->peer[i].last.durable.epoch > newest) newest = p->peer[i].last.durable.epoch;
  if (p->peer[found].last.durable.epoch < newest) {
    fail(p, DW_NOT_FOUND, "node %llu is a primary of epoch %llu, but epoch %llu has begun since: it can't hand over",
         (ull)p->peer[found].last.node_id, (ull)p->peer[found].last.durable.epoch, (ull)newest);
    return;
  }
  p->primary = found;
  p->phase = PROMOTING_DRAINING;
  p->peer[found].asked = p->peer[found].answered = false;
}

static void drained(struct promotion *p) {
  struct promotion_peer *peer = &p->peer[p->primary];
  const struct msg_fenced *m = &peer->last;
  if (peer->unreachable) {
    fail(p, DW_IO, "the primary that was to hand over is gone: %s", peer->why);
  } else if (p->now_ns - p->start_ns >= p->cfg.timeout_ns) {
    fail(p, DW_TIMEOUT, "the primary's log ends at LSN %llu, this one at LSN %llu: not caught up in time",
         (ull)m->durable.lsn, (ull)p->self.durable.lsn);
  } else if (peer->answered && m->verdict == FENCE_REFUSED) {
    fail(p, DW_FENCED, "the primary does not hand over: %s", m->text);
  } else if (peer->answered && !m->writing && !promotion_has_more(&m->durable, &p->self.durable)) {
    choose_epoch(p);
    p->phase = PROMOTING_SELF;
  } else if (peer->answered && p->now_ns >= p->pause_ns) {
    peer->asked = peer->answered = false;
  }
}

/* ---- asking ---------------------------------------------------------------------------------- */

static void asked_around(struct promotion *p) {
  char missing[300];
  if (!settled(p) && p->now_ns - p->start_ns < p->cfg.timeout_ns / 2) return;
  size_t need = promotion_need(&p->cfg);
  if (p->cfg.handover) {
    begin_draining(p);
    return;
  }
  if (!p->cfg.force && (somebody_has_more(p) || too_stale(p))) return;
  if (count(p, -1) + 1 < need) {
    describe_missing(p, missing, sizeof missing);
    fail(p, DW_NOT_ENOUGH_FOLLOWERS, "%zu promises are needed (%zu nodes, %u acks), %zu nodes can give one%s", need,
         p->cfg.peers + 1, p->cfg.acks, count(p, -1) + 1, missing);
    return;
  }
  choose_epoch(p);
  p->phase = PROMOTING_SELF;
}

/* ---- promising ------------------------------------------------------------------------------- */

static void collected(struct promotion *p) {
  char missing[300];
  size_t need = promotion_need(&p->cfg), have = count(p, FENCE_PROMISED) + 1;
  const struct promotion_peer *from = &p->peer[p->primary];
  /* Who hands over is fenced before we begin, and has no more than we then: its pause runs out, and what it
   * acknowledged after that would be lost. */
  bool fenced = !p->cfg.handover || (from->answered && from->last.verdict == FENCE_PROMISED);
  if (p->cfg.handover && !p->cfg.force && fenced && promotion_has_more(&from->last.durable, &p->self.durable) &&
      somebody_has_more(p))
    return;
  if (have >= need && fenced) {
    p->phase = PROMOTING_BEGINNING;
    return;
  }
  bool late = p->now_ns - p->start_ns >= p->cfg.timeout_ns;
  if (!settled(p) && !late) return;
  if (!p->cfg.force && somebody_has_more(p)) return;
  describe_missing(p, missing, sizeof missing);
  bool beaten = false;
  for (size_t i = 0; i < p->cfg.peers; i++)
    beaten |=
        p->peer[i].answered && p->peer[i].last.verdict == FENCE_REFUSED && p->peer[i].last.promised_epoch >= p->epoch;
  fail(p,
       beaten ? DW_FENCED
       : late ? DW_TIMEOUT
              : DW_NOT_ENOUGH_FOLLOWERS,
       "%zu of %zu promises for epoch %llu%s%s", have, need, (ull)p->epoch,
       fenced ? "" : ", but not the primary's that was to hand over", missing);
}

static void advance(struct promotion *p) {
  if (p->phase == PROMOTING_ASKING) asked_around(p);
  if (p->phase == PROMOTING_DRAINING) drained(p);
  if (p->phase == PROMOTING_PROMISING) collected(p);
}

/* ---- events ---------------------------------------------------------------------------------- */

bool promotion_wants(const struct promotion *p, size_t i, enum fence_what *what) {
  const struct promotion_peer *peer = &p->peer[i];
  if (i >= p->cfg.peers || peer->asked || peer->unreachable) return false;
  switch (p->phase) {
  case PROMOTING_ASKING: *what = FENCE_ASK; return true;
  case PROMOTING_DRAINING: *what = FENCE_PAUSE; return i == p->primary;
  case PROMOTING_PROMISING: *what = FENCE_PROMISE; return true;
  case PROMOTING_BEGUN: *what = FENCE_BEGUN; return true;
  default: return false;
  }
}

void promotion_asked(struct promotion *p, size_t i) {
  p->pause_ns = p->now_ns + PROMOTION_PAUSE_NS;
  p->peer[i].asked = true;
}

void promotion_answer(struct promotion *p, size_t i, const struct msg_fenced *m, uint64_t now_ns) {
  clock_to(p, now_ns);
  struct promotion_peer *peer = &p->peer[i];
  if (i >= p->cfg.peers || !peer->asked) return;
  peer->answered = peer->known = true;
  peer->last = *m;
  advance(p);
}

void promotion_unreachable(struct promotion *p, size_t i, const char *why, uint64_t now_ns) {
  clock_to(p, now_ns);
  if (i >= p->cfg.peers) return;
  struct promotion_peer *peer = &p->peer[i];
  peer->unreachable = true;
  peer->answered = false;
  snprintf(peer->why, sizeof peer->why, "%s", why);
  advance(p);
}

void promotion_self_now(struct promotion *p, const struct promotion_self *self) {
  if (p->phase == PROMOTING_ASKING || p->phase == PROMOTING_DRAINING) p->self = *self;
}

void promotion_tick(struct promotion *p, uint64_t now_ns) {
  clock_to(p, now_ns);
  advance(p);
}

void promotion_promised(struct promotion *p, int rc, const char *text, const struct promotion_self *self,
                        uint64_t now_ns) {
  clock_to(p, now_ns);
  if (p->phase != PROMOTING_SELF) return;
  if (rc) {
    fail(p, rc, "%s", text);
    return;
  }
  p->self = *self;
  ask_all(p);
  p->phase = PROMOTING_PROMISING;
  advance(p);
}

void promotion_begun(struct promotion *p, int rc, const char *text, uint64_t now_ns) {
  clock_to(p, now_ns);
  if (p->phase != PROMOTING_BEGINNING) return;
  if (rc) {
    fail(p, rc, "%s", text);
    return;
  }
  for (size_t i = 0; i < p->cfg.peers; i++) p->peer[i].unreachable = false; /* once more: it is worth knowing */
  ask_all(p);
  p->phase = PROMOTING_BEGUN;
}

void promotion_beaten(struct promotion *p, uint64_t epoch, uint64_t node_id) {
  if (!promotion_settled(p))
    fail(p, DW_FENCED, "node %llu was faster: it was promised epoch %llu", (ull)node_id, (ull)epoch);
}

/* ---- looking --------------------------------------------------------------------------------- */

enum promotion_step promotion_next(const struct promotion *p) {
  switch (p->phase) {
  case PROMOTING_SELF: return PROMOTION_PROMISE_SELF;
  case PROMOTING_BEGINNING: return PROMOTION_BEGIN;
  case PROMOTING_BEGUN: return PROMOTION_BEGUN;
  case PROMOTING_FAILED: return PROMOTION_FAILED;
  default: return PROMOTION_WAIT;
  }
}

bool promotion_settled(const struct promotion *p) {
  return p->phase == PROMOTING_BEGUN || p->phase == PROMOTING_FAILED;
}

uint64_t promotion_epoch(const struct promotion *p) {
  return p->epoch;
}

uint64_t promotion_next_tick(const struct promotion *p) {
  if (p->phase == PROMOTING_ASKING) return p->start_ns + p->cfg.timeout_ns / 2;
  uint64_t end = p->start_ns + p->cfg.timeout_ns;
  if (p->phase == PROMOTING_DRAINING) return p->peer[p->primary].answered && p->pause_ns < end ? p->pause_ns : end;
  return p->phase == PROMOTING_PROMISING ? end : UINT64_MAX;
}

int promotion_error(const struct promotion *p, const char **text) {
  *text = p->text;
  return p->code;
}
