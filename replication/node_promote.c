/* A promotion's driver: connections to all peers (node_asker.h), and the machine of promotion.h between them.
 *
 * The stream from the old primary goes on while others are asked what they have, and ends before this node promises the
 * new epoch to itself. If the promotion fails after that, the stream is taken up again; the promises stand, here and
 * elsewhere, so an old primary of a lower epoch is not followed any more: the next promotion, or a newer primary, ends
 * that.
 *
 * Once the epoch has begun the asker has his answer; the news goes to the peers for a moment longer, or until somebody
 * wants another change of roles: a primary that has to stand down can't wait for peers that do not listen.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/address.h"
#include "replication/node.h"
#include "replication/node_asker.h"
#include "replication/promotion.h"
#include "wal/base/status.h"

#define PROMOTE_TIMEOUT_MS 5000u
#define PROMOTE_NEWS_NS 2000000000ull /* for telling the peers that the epoch has begun */

struct candidate {
  struct promotion p;
  struct engine_identity id;
  char own[MSG_ADDRESS_BYTES];
  bool beginning, answered;
  uint64_t news_ns; /* until then peers are told */
  size_t count;
  struct asker peer[PROMOTION_PEERS];
};

void promote_own_address(const struct node *n, char out[MSG_ADDRESS_BYTES]) {
  struct address a;
  out[0] = '\0';
  if (!n->opt->listen || address_parse(n->opt->listen, &a)) return;
  bool any = !a.host[0] || strcmp(a.host, "0.0.0.0") == 0 || strcmp(a.host, "::") == 0;
  const char *host = any ? "" : a.host;
  int len = snprintf(out, MSG_ADDRESS_BYTES, strchr(host, ':') ? "[%.50s]:%u" : "%.50s:%u", host, n->listen_port);
  if (len < 0 || (size_t)len >= MSG_ADDRESS_BYTES) out[0] = '\0';
}

/* ---- peers ------------------------------------------------------------------------------------ */

static void unreachable(struct candidate *c, size_t i) {
  struct asker *a = &c->peer[i];
  char text[200];
  snprintf(text, sizeof text, "%.60s: %.120s", a->address, asker_why(a));
  asker_drop(a);
  promotion_unreachable(&c->p, i, text, node_now(a->n));
  transport_pump_again(a->n->t);
}

static void peer_pump(struct node *n, struct candidate *c, size_t i) {
  struct asker *a = &c->peer[i];
  enum fence_what what;
  enum asker_state state = asker_pump(a);
  if (state == ASKER_FAILED) {
    unreachable(c, i);
    return;
  }
  if (state == ASKER_ANSWERED) {
    promotion_answer(&c->p, i, asker_take(a), node_now(n));
    state = ASKER_IDLE;
  }
  if (!promotion_wants(&c->p, i, &what)) return;
  if (state == ASKER_NONE) asker_dial(a);
  if (state != ASKER_IDLE) return;
  promotion_asked(&c->p, i);
  struct msg_fence ask = {.what = (uint8_t)what, .force = c->p.cfg.force, .durable = c->p.self.durable};
  if (what == FENCE_PROMISE || what == FENCE_BEGUN) ask.epoch = promotion_epoch(&c->p);
  memcpy(ask.address, c->own, sizeof ask.address);
  asker_ask(a, &ask);
}

/* ---- life ------------------------------------------------------------------------------------- */

static void fill_self(struct node *n, struct promotion_self *self) {
  struct engine_positions pos;
  struct engine_promise promise;
  engine_positions(n->e, &pos);
  engine_promised(n->e, &promise);
  *self =
      (struct promotion_self){.durable = pos.tail, .staleness_ms = pos.staleness_ms, .promised_epoch = promise.epoch};
}

static int check_start(struct node *n, const dw_promote_options *opt) {
  struct engine_positions pos;
  engine_positions(n->e, &pos);
  if (n->role == DW_PRIMARY)
    return dw_fail(DW_INVALID, pos.fenced ? "this node is a fenced primary: let it follow first"
                                          : "this node is the primary already");
  if (pos.tail.epoch == 0) return dw_fail(DW_INVALID, "this follower has no data yet");
  if (!n->opt->peers && !opt->force)
    return dw_fail(
        DW_INVALID,
        "no peers are named (option peers), so nobody can be asked for a promise: name the other nodes, or force it");
  return DW_OK;
}

static void finish(struct node *n) {
  struct candidate *c = n->candidate;
  for (size_t i = 0; i < c->count; i++) asker_drop(&c->peer[i]);
  n->candidate = NULL;
  free(c);
  role_resume(n);
}

static void failed(struct node *n, int code, const char *why) {
  engine_log(n->e, DW_LOG_WARN, "not promoted (%s): %s", dw_rc_name(code), why);
  role_answer(n, code, why);
  finish(n);
}

void promote_start(struct node *n, const dw_promote_options *opt, uint64_t now_ns) {
  char why[300];
  struct promotion_config cfg = {.mode = n->opt->mode,
                                 .acks = n->opt->acks,
                                 .handover = opt->handover,
                                 .force = opt->force,
                                 .max_lag_ms = opt->max_lag_ms,
                                 .min_term = opt->min_term,
                                 .timeout_ns = (opt->timeout_ms ? opt->timeout_ms : PROMOTE_TIMEOUT_MS) * 1000000ull};
  struct candidate *c = NULL;
  int rc = check_start(n, opt);
  if (rc == DW_OK) rc = n->env->ops->random(n->env, &cfg.draw, sizeof cfg.draw);
  if (rc == DW_OK && !(c = calloc(1, sizeof *c))) rc = dw_fail_nomem(sizeof *c);
  if (rc) {
    dw_error_copy(why, sizeof why);
    role_answer(n, rc, why);
    return;
  }
  struct promotion_self self;
  n->candidate = c;
  engine_identity(n->e, &c->id);
  promote_own_address(n, c->own);
  c->count = asker_peers(n, c->peer, PROMOTION_PEERS);
  fill_self(n, &self);
  cfg.node_id = c->id.node_id;
  cfg.peers = c->count;
  promotion_start(&c->p, &cfg, &self, now_ns);
  engine_log(n->e, DW_LOG_WARN, "asks %zu peers to be promoted%s: %zu promises are needed", c->count,
             opt->force ? ", forced" : "", promotion_need(&cfg));
  transport_pump_again(n->t);
}

bool promote_yield(struct node *n, uint64_t epoch, uint64_t node_id) {
  struct candidate *c = n->candidate;
  if (!c || promotion_settled(&c->p)) return true;
  if (promotion_next(&c->p) == PROMOTION_BEGIN) return false;
  promotion_beaten(&c->p, epoch, node_id);
  transport_pump_again(n->t);
  return true;
}

void promote_stop(struct node *n) {
  if (!n->candidate || n->role_change.job) return;
  if (n->candidate->answered)
    finish(n); /* the news is all that is left of it */
  else
    failed(n, DW_CLOSED, "the engine is closing");
}

void promote_begun(struct node *n, int rc, const char *why) {
  if (!n->candidate) return;
  promotion_begun(&n->candidate->p, rc, why, node_now(n));
  if (n->stopping && rc == DW_OK) {
    role_answer(n, DW_OK, "");
    finish(n);
  } else if (n->stopping) {
    failed(n, rc, why);
  }
  transport_pump_again(n->t);
}

/* ---- driving ---------------------------------------------------------------------------------- */

/* Promises the epoch to ourselves: durable before anybody else is asked for it. */
static void promise_self(struct node *n) {
  struct candidate *c = n->candidate;
  struct promotion_self self;
  char why[300] = "";
  int rc = engine_replica_sync(n->e, NULL);
  if (rc == DW_OK) rc = engine_promise(n->e, promotion_epoch(&c->p), c->id.node_id, c->own);
  if (rc) dw_error_copy(why, sizeof why);
  fill_self(n, &self);
  promotion_promised(&c->p, rc, why, &self, node_now(n));
}

static bool all_told(const struct candidate *c) {
  for (size_t i = 0; i < c->count; i++)
    if (!c->p.peer[i].answered && !c->p.peer[i].unreachable) return false;
  return true;
}

void promote_end_news(struct node *n) {
  if (n->candidate && n->candidate->answered && !n->role_change.job) finish(n);
}

static void begun(struct node *n, uint64_t now_ns) {
  struct candidate *c = n->candidate;
  if (!c->answered) {
    c->answered = true;
    c->news_ns = now_ns + PROMOTE_NEWS_NS;
    role_answer(n, DW_OK, "");
    transport_pump_again(n->t);
  } else if (all_told(c) || now_ns >= c->news_ns) {
    finish(n);
  }
}

static uint64_t sooner(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

uint64_t promote_pump(struct node *n, uint64_t now_ns) {
  struct candidate *c = n->candidate;
  const char *why;
  if (!c) return UINT64_MAX;
  if (n->follow) {
    struct promotion_self self;
    fill_self(n, &self);
    promotion_self_now(&c->p, &self);
  }
  promotion_tick(&c->p, now_ns);
  for (size_t i = 0; i < c->count; i++) peer_pump(n, c, i);
  switch (promotion_next(&c->p)) {
  case PROMOTION_WAIT: break;
  case PROMOTION_PROMISE_SELF:
    if (role_stream_ended(n)) {
      promise_self(n);
      transport_pump_again(n->t);
    }
    break;
  case PROMOTION_BEGIN:
    if (!c->beginning) {
      c->beginning = true;
      role_begin_epoch(n, promotion_epoch(&c->p));
    }
    break;
  case PROMOTION_BEGUN: begun(n, now_ns); break;
  case PROMOTION_FAILED: {
    int code = promotion_error(&c->p, &why);
    char text[400];
    snprintf(text, sizeof text, "%s", why);
    failed(n, code, text);
    break;
  }
  }
  if (!n->candidate) return UINT64_MAX;
  return sooner(promotion_next_tick(&c->p), c->answered ? c->news_ns : UINT64_MAX);
}
