/* Changing roles while everything else goes on: dw_promote and dw_follow.
 *
 *   follow somebody:  end the stream -> (a primary: demote the engine) -> follow
 *   promote:          node_promote.c asks around; then: end the stream -> promise -> the engine begins its epoch ->
 * primary
 *
 * One change at a time, in the loop thread; what blocks (the engine's part) runs as a job. The asker waits as strong
 * readers do, or polls. Whoever follows us is asked to come back whenever our role changes: what its connection was
 * told in WELCOME is not true any more.
 */
#include <stdio.h>
#include <string.h>

#include "replication/address.h"
#include "replication/node.h"
#include "wal/base/status.h"

#define ROLE_RESUME_NS 1000000000ull /* between attempts to follow that fail here, not at the other end */

/* ---- the asker's side: any thread -------------------------------------------------------------- */

int role_begin(struct node *n, struct role_request *r) {
  pthread_mutex_lock(&n->role_mu);
  bool busy = n->asked != NULL;
  if (!busy) {
    r->done = false;
    pthread_cond_init(&r->cond, NULL);
    n->asked = r;
  }
  pthread_mutex_unlock(&n->role_mu);
  if (busy) return dw_fail(DW_LOCKED, "another change of this node's role is under way");
  node_wake(n, WAKE_ROLE);
  return DW_OK;
}

bool role_poll(struct node *n, struct role_request *r, int *rc) {
  pthread_mutex_lock(&n->role_mu);
  bool done = r->done;
  *rc = r->rc;
  if (done && r->rc) dw_fail(r->rc, "%s", r->why);
  pthread_mutex_unlock(&n->role_mu);
  return done;
}

void role_end(struct node *n, struct role_request *r) {
  pthread_mutex_lock(&n->role_mu);
  if (n->asked == r) n->asked = NULL;
  pthread_mutex_unlock(&n->role_mu);
  pthread_cond_destroy(&r->cond);
}

static int role_wait(dw_engine *e, struct role_request *r) {
  struct node *n = engine_replication(e);
  if (!n) return dw_fail(DW_INVALID, "this engine has no replication: it was opened without listen, primary and peers");
  int rc = role_begin(n, r);
  if (rc) return rc;
  pthread_mutex_lock(&n->role_mu);
  while (!r->done) pthread_cond_wait(&r->cond, &n->role_mu);
  pthread_mutex_unlock(&n->role_mu);
  role_poll(n, r, &rc);
  role_end(n, r);
  return rc;
}

int dw_promote(dw_engine *e, const dw_promote_options *opt) {
  struct role_request r = {.promote = true};
  if (opt) r.opt = *opt;
  return role_wait(e, &r);
}

static int take_address(struct role_request *r, const char *primary) {
  int rc = address_check_peer(primary);
  if (rc == DW_OK && strlen(primary) >= sizeof r->primary)
    rc = dw_fail(DW_INVALID, "'%s' is longer than %d bytes", primary, DW_ADDRESS_BYTES - 1);
  if (rc == DW_OK) snprintf(r->primary, sizeof r->primary, "%s", primary);
  return rc;
}

static int follow(dw_engine *e, const char *primary, bool rejoin) {
  struct role_request r = {.rejoin = rejoin};
  int rc = primary ? take_address(&r, primary) : DW_OK;
  return rc ? rc : role_wait(e, &r);
}

int dw_follow(dw_engine *e, const char *primary) {
  return follow(e, primary, false);
}

int dw_rejoin(dw_engine *e, const char *primary) {
  return follow(e, primary, true);
}

/* ---- the loop thread ---------------------------------------------------------------------------- */

/* Who has the answer may ask for the status next: it shows what was done. */
void role_answer(struct node *n, int rc, const char *why) {
  struct role_change *c = &n->role_change;
  c->step = ROLE_IDLE;
  members_pump(n);
  report_pump(n, node_now(n), true);
  pthread_mutex_lock(&n->role_mu);
  if (c->request) {
    c->request->rc = rc;
    snprintf(c->request->why, sizeof c->request->why, "%s", why);
    c->request->done = true;
    pthread_cond_signal(&c->request->cond);
  }
  c->request = NULL;
  pthread_mutex_unlock(&n->role_mu);
}

/* Those who follow us begin anew, and what they acknowledged is theirs to say again. */
static void role_changed(struct node *n, const char *why) {
  serve_end_all(n, DW_STALE, why);
  quorum_free(&n->quorum);
  quorum_init(&n->quorum);
  n->acks_changed = n->pins_changed = n->report_urgent = true;
}

void role_resume(struct node *n) {
  if (n->follow || !n->primary[0] || n->stopping || n->role != DW_FOLLOWER) return;
  if (follow_create(n) == DW_OK) return;
  char why[300];
  dw_error_copy(why, sizeof why);
  engine_log(n->e, DW_LOG_ERROR, "can't follow %s just now: %s", n->primary, why);
  follow_destroy(n);
  n->resume_ns = node_now(n) + ROLE_RESUME_NS;
}

static void demote_run(void *arg) { /* worker */
  struct role_change *c = arg;
  c->rc = engine_demote(c->n->e);
  if (c->rc) dw_error_copy(c->why, sizeof c->why);
  /* Told to follow nobody: what counts is that it stops, noted or not. Its lease may have run out. */
  if (c->rc && c->rc != DW_LOCKED && !c->primary[0]) engine_cease(c->n->e);
}

static void follow_now(struct node *n) {
  struct role_change *c = &n->role_change;
  n->hands_over_to = 0;
  if (n->role == DW_PRIMARY) {
    n->role = DW_FOLLOWER;
    role_changed(n, "this node is a follower now: come back in a moment");
  }
  snprintf(n->primary, sizeof n->primary, "%s", c->primary);
  n->rejoin = c->rejoin;
  n->alone = !n->primary[0];
  engine_log(n->e, DW_LOG_INFO, "follows %s from now on", n->primary[0] ? n->primary : "nobody");
  role_resume(n); /* or again later: it is no more to the asker than a primary that can't be reached */
  role_answer(n, DW_OK, "");
}

static void demote_done(void *arg) {
  struct role_change *c = arg;
  struct node *n = c->n;
  c->job = false;
  if (n->stopping)
    role_answer(n, DW_CLOSED, "the engine is closing");
  else if (c->rc == DW_OK)
    follow_now(n);
  else if (c->rc != DW_LOCKED) /* else once more with the next pump */
    role_answer(n, c->rc, c->why);
}

static void promote_run(void *arg) { /* worker */
  struct role_change *c = arg;
  c->rc = engine_promote(c->n->e, c->epoch);
  if (c->rc) dw_error_copy(c->why, sizeof c->why);
}

static void promote_done(void *arg) {
  struct role_change *c = arg;
  struct node *n = c->n;
  c->job = false;
  struct engine_identity id;
  engine_identity(n->e, &id);
  if (id.role == DW_PRIMARY) { /* also if it was fenced in the same moment */
    n->role = DW_PRIMARY;
    role_changed(n, "this node is the primary now: come back in a moment");
  }
  promote_begun(n, c->rc, c->why);
}

static void start_job(struct node *n, void (*run)(void *), void (*done)(void *)) {
  struct role_change *c = &n->role_change;
  c->n = n;
  c->job = true;
  int rc = transport_work(n->t, run, done, c);
  if (rc == DW_OK) return;
  c->rc = rc;
  snprintf(c->why, sizeof c->why, "no memory");
  done(c);
}

void role_begin_epoch(struct node *n, uint64_t epoch) {
  n->role_change.epoch = epoch;
  start_job(n, promote_run, promote_done);
}

bool role_idle(const struct node *n) {
  return !n->role_change.job;
}

static bool busy(const struct node *n) {
  return n->role_change.step != ROLE_IDLE || n->candidate;
}

bool role_follow_told(struct node *n, const char *primary) {
  struct role_change *c = &n->role_change;
  if (busy(n) || n->stopping) return false;
  if (n->follow && strcmp(n->primary, primary) == 0) return true;
  *c = (struct role_change){.step = ROLE_ENDING_STREAM};
  snprintf(c->primary, sizeof c->primary, "%s", primary);
  transport_pump_again(n->t);
  return true;
}

static void take_request(struct node *n, uint64_t now_ns) {
  struct role_change *c = &n->role_change;
  pthread_mutex_lock(&n->role_mu);
  struct role_request *r = n->asked && !n->asked->done ? n->asked : NULL;
  pthread_mutex_unlock(&n->role_mu);
  if (!r) return;
  promote_end_news(n);
  if (busy(n)) return;
  *c = (struct role_change){.request = r};
  if (n->stopping || atomic_load(&n->hurry)) {
    role_answer(n, DW_CLOSED, "the engine is closing");
  } else if (r->promote) {
    c->step = ROLE_PROMOTING;
    promote_start(n, &r->opt, now_ns);
  } else {
    c->step = ROLE_ENDING_STREAM;
    c->rejoin = r->rejoin;
    bool as_before = r->rejoin && !r->primary[0] && n->role == DW_FOLLOWER;
    snprintf(c->primary, sizeof c->primary, "%s", as_before ? n->primary : r->primary);
    if (r->rejoin && !c->primary[0]) role_answer(n, DW_INVALID, "no primary is named, and none is followed");
  }
}

bool role_stream_ended(struct node *n) {
  if (!n->follow) return true;
  follow_stop(n);
  if (!follow_idle(n)) return false;
  follow_destroy(n);
  n->serve_blocked = false;
  return true;
}

void role_pump(struct node *n, uint64_t now_ns) {
  struct role_change *c = &n->role_change;
  if (atomic_load(&n->hurry)) promote_stop(n);
  take_request(n, now_ns);
  if (!busy(n) && now_ns >= n->resume_ns) role_resume(n); /* what was in the way, a full disk, may be gone */
  if (c->job) return;
  if (n->stopping && (c->step == ROLE_ENDING_STREAM || c->step == ROLE_DEMOTING)) {
    role_answer(n, DW_CLOSED, "the engine is closing");
    return;
  }
  if (c->step == ROLE_ENDING_STREAM && role_stream_ended(n)) {
    if (n->role == DW_FOLLOWER)
      follow_now(n);
    else
      c->step = ROLE_DEMOTING;
  }
  if (c->step == ROLE_DEMOTING) start_job(n, demote_run, demote_done);
}
