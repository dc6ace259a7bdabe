#include "replication/cmd/failover_run.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "replication/cmd/audit.h"
#include "replication/cmd/coordinator.h"
#include "replication/cmd/failover_keys.h"
#include "replication/cmd/net.h"
#include "replication/cmd/resp_server.h"
#include "replication/failover_node.h"
#include "wal/base/status.h"

#define MS 1000000ull
#define AUDITS_EARLY 8u
#define PROBE_MS 200
#define DEMOTE_RETRY_NS 10000000l

typedef unsigned long long ull;

enum promotion { PROMOTION_NONE, PROMOTION_RUNS, PROMOTION_DONE };

struct failover_run {
  struct failover_run_options opt;
  struct coordinator *coordinator;
  char prefix[COORD_KEY_BYTES];
  pthread_t thread, promoter;

  /* the run's thread */
  struct failover *machine;
  struct failover_status status;
  struct failover_view view;
  dw_status *engine_status;
  bool said_unreachable, said_not_demoted;
  struct failover_audit early[AUDITS_EARLY]; /* before there is a directory */
  unsigned early_count;

  pthread_mutex_t mu;
  pthread_cond_t wake;    /* the thread's */
  pthread_cond_t decided; /* whoever waits in failover_run_role */
  /* all below: mu */
  dw_engine *engine;
  struct audit *audit; /* set once */
  struct resp_server *front;
  bool stop, restricted;
  bool open_as_known;
  dw_role open_as;
  char open_follow[FAILOVER_TEXT];
  enum promotion promotion;
  uint32_t promote_timeout_ms, promote_term;
  int promote_rc;
  char promote_why[400];
  struct failover_report report;
};

static uint64_t now_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_BOOTTIME, &ts);
  return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static uint64_t wall_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void say(struct failover_run *r, dw_log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void say(struct failover_run *r, dw_log_level level, const char *fmt, ...) {
  char line[1000];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  if (r->opt.log) r->opt.log(r->opt.log_arg, level, line);
}

/* ---- the node ------------------------------------------------------------------------------------------- */

static dw_engine *engine_of(struct failover_run *r) {
  pthread_mutex_lock(&r->mu);
  dw_engine *e = r->engine;
  pthread_mutex_unlock(&r->mu);
  return e;
}

static void take_status(struct failover_run *r) {
  dw_engine *e = engine_of(r);
  failover_see_closed(r->opt.has_data, r->opt.own_epoch, &r->status);
  if (e && dw_status_get(e, r->engine_status) == DW_OK) failover_see(r->engine_status, &r->status);
}

static void promotion_ended(struct failover_run *r, int rc, const char *why) { /* mu */
  r->promotion = PROMOTION_DONE;
  r->promote_rc = rc;
  snprintf(r->promote_why, sizeof r->promote_why, "%s", why);
  pthread_cond_signal(&r->wake);
}

static void open_as(struct failover_run *r, dw_role role, const char *primary) {
  pthread_mutex_lock(&r->mu);
  if (!r->open_as_known) {
    r->open_as_known = true;
    r->open_as = role;
    snprintf(r->open_follow, sizeof r->open_follow, "%s", primary);
    if (role == DW_PRIMARY) r->promotion = PROMOTION_RUNS; /* ended by failover_run_attach */
    pthread_cond_broadcast(&r->decided);
  } else if (role == DW_PRIMARY && r->promotion == PROMOTION_NONE) {
    promotion_ended(r, DW_LOCKED, "this node is being opened as a follower");
  }
  pthread_mutex_unlock(&r->mu);
}

static void *promote_main(void *arg) {
  struct failover_run *r = arg;
  dw_promote_options o = {
      .timeout_ms = r->promote_timeout_ms, .max_lag_ms = r->opt.max_lag_ms, .min_term = r->promote_term};
  int rc = dw_promote(r->engine, &o);
  char why[400];
  snprintf(why, sizeof why, "%s: %.300s", dw_rc_name(rc), rc ? dw_last_error() : "");
  pthread_mutex_lock(&r->mu);
  promotion_ended(r, rc, why);
  pthread_mutex_unlock(&r->mu);
  return NULL;
}

/* mu */
static void start_promoter(struct failover_run *r) {
  r->promotion = PROMOTION_RUNS;
  int err = pthread_create(&r->promoter, NULL, promote_main, r);
  if (err)
    promotion_ended(r, DW_NO_MEMORY, "no thread for the promotion");
  else
    pthread_detach(r->promoter); /* joined by its result: nobody frees the run before that */
}

static void promote(struct failover_run *r, uint64_t timeout_ns, uint64_t term) {
  r->promote_timeout_ms = (uint32_t)(timeout_ns / MS);
  if (r->promote_timeout_ms == 0) r->promote_timeout_ms = 1;
  r->promote_term = term > UINT32_MAX ? 0 : (uint32_t)term;
  if (!engine_of(r)) {
    open_as(r, DW_PRIMARY, "");
    return;
  }
  pthread_mutex_lock(&r->mu);
  start_promoter(r);
  pthread_mutex_unlock(&r->mu);
}

static void follow(struct failover_run *r, const char *address) {
  dw_engine *e = engine_of(r);
  if (!e) {
    open_as(r, DW_FOLLOWER, address);
    return;
  }
  int rc = dw_follow(e, address);
  if (rc) say(r, DW_LOG_WARN, "coordinator: can't follow %s: %s", address, dw_last_error());
}

/* Until it is done: a change of role that is under way ends by itself. It may be the very one: a primary that handed
 * over follows its successor by itself, and is to go on with that. If it can't be noted on disk the engine acknowledges
 * nothing all the same, but can't be promoted again before it has become a follower. */
static void demote(struct failover_run *r) {
  dw_engine *e = engine_of(r);
  int rc;
  while ((rc = e && engine_role(e) == DW_PRIMARY ? dw_follow(e, NULL) : DW_OK) == DW_LOCKED)
    nanosleep(&(struct timespec){.tv_nsec = DEMOTE_RETRY_NS}, NULL);
  if (rc && !r->said_not_demoted)
    say(r, DW_LOG_ERROR,
        "coordinator: can't note that this node steps down, it acknowledges nothing and tries again: %s: %s",
        dw_rc_name(rc), dw_last_error());
  r->said_not_demoted = rc != DW_OK;
  if (rc) failover_not_demoted(r->machine, now_ns());
}

static void restrict_writes(struct failover_run *r, bool on) {
  pthread_mutex_lock(&r->mu);
  r->restricted = on;
  if (r->front) resp_server_restrict(r->front, on ? r->opt.machine.acks : 0);
  pthread_mutex_unlock(&r->mu);
  say(r, DW_LOG_WARN,
      on ? "coordinator: only writes that wait for %u followers are taken from now on"
         : "coordinator: all writes are taken again",
      r->opt.machine.acks);
}

static struct audit *audit_of(struct failover_run *r) {
  pthread_mutex_lock(&r->mu);
  struct audit *a = r->audit;
  pthread_mutex_unlock(&r->mu);
  return a;
}

static void put_audit(struct failover_run *r, struct audit *log, const struct failover_audit *a) {
  if (audit_write(log, a) != DW_OK)
    say(r, DW_LOG_ERROR, "the audit line '%s' was not written: %s", a->event, dw_last_error());
}

static void write_audit(struct failover_run *r, const struct failover_audit *a) {
  struct audit *log = audit_of(r);
  say(r, DW_LOG_WARN, "failover: %s: %s", a->event, a->why);
  if (log)
    put_audit(r, log, a);
  else if (r->early_count < AUDITS_EARLY)
    r->early[r->early_count++] = *a;
}

static void flush_early(struct failover_run *r) {
  struct audit *log = r->early_count ? audit_of(r) : NULL;
  for (unsigned i = 0; log && i < r->early_count; i++) put_audit(r, log, &r->early[i]);
  if (log) r->early_count = 0;
}

/* ---- does its host refuse? ------------------------------------------------------------------------------ */

static bool refuses(const struct addrinfo *a) {
  int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), err = 0;
  if (fd < 0) return false;
  if (connect(fd, a->ai_addr, a->ai_addrlen) == 0) {
    close(fd);
    return false;
  }
  err = errno;
  struct pollfd p = {.fd = fd, .events = POLLOUT};
  socklen_t n = sizeof err;
  if (err == EINPROGRESS && (poll(&p, 1, PROBE_MS) != 1 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n) != 0))
    err = 0;
  close(fd);
  return err == ECONNREFUSED;
}

/* Only if all its addresses do. */
static bool probe(const char *address) {
  struct addrinfo *found = NULL;
  if (net_resolve(address, false, &found) != DW_OK) return false;
  bool all = found != NULL;
  for (const struct addrinfo *a = found; a && all; a = a->ai_next) all = refuses(a);
  freeaddrinfo(found);
  return all;
}

/* ---- the coordinator ------------------------------------------------------------------------------------ */

#define TXN_MAX 3
struct txn {
  struct coord_compare compare[TXN_MAX];
  struct coord_change change[TXN_MAX];
  size_t compares, changes;
  char leader_key[COORD_KEY_BYTES + 40], record_key[COORD_KEY_BYTES + 40], member_key[COORD_KEY_BYTES + 40];
  char *leader, *record, *member;
};

static void txn_keys(const struct failover_run *r, struct txn *t, uint64_t member) {
  memset(t, 0, sizeof *t);
  snprintf(t->leader_key, sizeof t->leader_key, "%s" KEY_LEADER, r->prefix);
  snprintf(t->record_key, sizeof t->record_key, "%s" KEY_RECORD, r->prefix);
  snprintf(t->member_key, sizeof t->member_key, "%s" KEY_MEMBERS "%llu", r->prefix, (ull)member);
}

static void if_mine(struct txn *t, uint64_t lease) {
  t->compare[t->compares++] = (struct coord_compare){.key = t->leader_key, .by_lease = true, .lease = lease};
}
static void if_revision(struct txn *t, const char *key, int64_t revision) {
  t->compare[t->compares++] = (struct coord_compare){.key = key, .revision = revision};
}
static void then_put(struct txn *t, const char *key, const char *value, uint64_t lease) {
  t->change[t->changes++] = (struct coord_change){.key = key, .value = value, .lease = lease};
}

static void build_txn(const struct failover_run *r, const struct failover_action *a, struct txn *t) {
  const struct failover_expect *x = &a->expect;
  txn_keys(r, t, a->kind == FO_PUBLISH ? a->member.node_id : x->member_id);
  if (a->kind == FO_TAKE) {
    if_revision(t, t->leader_key, x->leader_revision);
    if_revision(t, t->record_key, x->record_revision);
    if (x->member_id) if_revision(t, t->member_key, x->member_revision);
  } else if (a->kind != FO_PUBLISH || a->if_leading) {
    if_mine(t, a->lease);
  }
  if (a->kind == FO_PUBLISH) {
    then_put(t, t->member_key, t->member = failover_member_json(&a->member), a->lease);
  } else if (a->kind == FO_RESIGN) {
    t->change[t->changes++] = (struct coord_change){.key = t->leader_key};
  } else {
    then_put(t, t->leader_key, t->leader = failover_leader_json(&a->leader), a->lease);
    then_put(t, t->record_key, t->record = failover_record_json(&a->record), 0);
  }
}

static int run_txn(struct failover_run *r, const struct failover_action *a, unsigned timeout_ms, bool *done) {
  struct txn t;
  build_txn(r, a, &t);
  bool whole = true;
  for (size_t i = 0; i < t.changes; i++) whole &= t.change[i].value || a->kind == FO_RESIGN;
  int rc = whole
               ? r->coordinator->ops->txn(r->coordinator, t.compare, t.compares, t.change, t.changes, timeout_ms, done)
               : dw_fail_nomem(0);
  free(t.leader);
  free(t.record);
  free(t.member);
  return rc;
}

static int look(struct failover_run *r, unsigned timeout_ms) {
  struct coord_entries list = {0};
  unsigned bad = 0;
  int rc = r->coordinator->ops->list(r->coordinator, r->prefix, timeout_ms, &list);
  if (rc == DW_OK) rc = failover_view_parse(&list, &r->view, &bad);
  coord_entries_free(&list);
  if (rc == DW_NOT_FOUND) rc = DW_IO; /* of the whole service, not of a lease */
  return rc;
}

static void ask(struct failover_run *r, const struct failover_action *a) {
  struct coordinator *c = r->coordinator;
  struct failover_answer answer = {.why = "", .view = &r->view};
  unsigned ms = (unsigned)(a->timeout_ns / MS);
  uint64_t ttl_ms = 0;
  if (ms == 0) ms = 1;
  switch (a->kind) {
  case FO_GRANT: answer.rc = c->ops->grant(c, r->opt.machine.ttl_ns / MS, ms, &answer.lease, &ttl_ms); break;
  case FO_RENEW: answer.rc = c->ops->keepalive(c, a->lease, ms, &ttl_ms); break;
  case FO_REVOKE: answer.rc = c->ops->revoke(c, a->lease, ms); break;
  case FO_LOOK: answer.rc = look(r, ms); break;
  case FO_PROBE: answer.done = probe(a->address); break;
  default: answer.rc = run_txn(r, a, ms, &answer.done); break;
  }
  answer.ttl_ns = ttl_ms * MS;
  bool failed = answer.rc && answer.rc != DW_NOT_FOUND;
  if (answer.rc) answer.why = dw_last_error();
  if (failed && !r->said_unreachable) say(r, DW_LOG_WARN, "coordinator: %s", dw_last_error());
  if (!failed && r->said_unreachable && a->kind != FO_PROBE) say(r, DW_LOG_INFO, "coordinator: answers again");
  if (a->kind != FO_PROBE) r->said_unreachable = failed;
  failover_answer(r->machine, now_ns(), &answer);
}

/* ---- the thread ------------------------------------------------------------------------------------------- */

static void carry_out(struct failover_run *r, const struct failover_action *a) {
  switch (a->kind) {
  case FO_PROMOTE: promote(r, a->timeout_ns, a->term); break;
  case FO_FOLLOW: follow(r, a->address); break;
  case FO_DEMOTE: demote(r); break;
  case FO_RESTRICT: restrict_writes(r, a->on); break;
  case FO_AUDIT: write_audit(r, &a->audit); break;
  default: ask(r, a); break;
  }
}

/* What happened outside since the last time. False: it is over. */
static bool hear(struct failover_run *r) {
  pthread_mutex_lock(&r->mu);
  bool stop = r->stop, done = r->promotion == PROMOTION_DONE;
  int rc = r->promote_rc;
  char why[400];
  memcpy(why, r->promote_why, sizeof why);
  if (done) r->promotion = PROMOTION_NONE;
  pthread_mutex_unlock(&r->mu);
  if (done) failover_promoted(r->machine, now_ns(), rc, why);
  if (stop) failover_stop(r->machine);
  flush_early(r);
  take_status(r);
  failover_step(r->machine, now_ns(), wall_ms(), &r->status);
  if (engine_of(r)) engine_lease(engine_of(r), now_ns, failover_serves_until(r->machine));
  struct failover_report report;
  failover_report(r->machine, now_ns(), &report);
  pthread_mutex_lock(&r->mu);
  r->report = report;
  pthread_mutex_unlock(&r->mu);
  return report.state != FO_STOPPED;
}

/* Until the machine wants to be called, or something happens. */
static void rest(struct failover_run *r) {
  uint64_t now = now_ns(), at = failover_wake(r->machine), ns = at > now ? at - now : 0;
  struct timespec ts;
  if (ns > 100 * MS) ns = 100 * MS; /* a failed log, a lost stream: the engine does not call us */
  clock_gettime(CLOCK_MONOTONIC, &ts);
  ns += (uint64_t)ts.tv_nsec;
  ts.tv_sec += (time_t)(ns / 1000000000ull);
  ts.tv_nsec = (long)(ns % 1000000000ull);
  pthread_mutex_lock(&r->mu);
  if (r->promotion != PROMOTION_DONE) pthread_cond_timedwait(&r->wake, &r->mu, &ts);
  pthread_mutex_unlock(&r->mu);
}

static void *run_main(void *arg) {
  struct failover_run *r = arg;
  struct failover_action *a = malloc(sizeof *a);
  while (a && hear(r)) {
    if (failover_next(r->machine, a))
      carry_out(r, a);
    else
      rest(r);
  }
  if (!a) say(r, DW_LOG_ERROR, "coordinator: no memory, this node takes no part in failover");
  free(a);
  return NULL;
}

/* ---- life ------------------------------------------------------------------------------------------------- */

int failover_run_start(const struct failover_run_options *o, struct failover_run **out) {
  struct failover_run *r = calloc(1, sizeof *r);
  if (!r) return dw_fail_nomem(sizeof *r);
  r->opt = *o;
  pthread_condattr_t attr;
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_mutex_init(&r->mu, NULL);
  pthread_cond_init(&r->wake, &attr);
  pthread_cond_init(&r->decided, &attr);
  pthread_condattr_destroy(&attr);
  int rc = failover_prefix(o->cluster, r->prefix);
  if (rc == DW_OK) rc = coordinator_open(o->url, &r->coordinator);
  r->machine = failover_create(&r->opt.machine);
  r->engine_status = malloc(sizeof *r->engine_status);
  if (rc == DW_OK && (!r->machine || !r->engine_status)) rc = dw_fail_nomem(sizeof *r->engine_status);
  int err = rc == DW_OK ? pthread_create(&r->thread, NULL, run_main, r) : 0;
  if (err) rc = dw_fail_errno(err, "can't start a thread");
  if (rc) {
    char why[400];
    dw_error_copy(why, sizeof why);
    failover_run_free(r);
    return dw_fail(rc, "%s", why);
  }
  *out = r;
  return DW_OK;
}

bool failover_run_role(struct failover_run *r, bool (*stop)(void *), void *arg, dw_role *role,
                       char primary[FAILOVER_TEXT]) {
  pthread_mutex_lock(&r->mu);
  while (!r->open_as_known && !stop(arg)) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    ts.tv_nsec += 50 * 1000000;
    if (ts.tv_nsec >= 1000000000) ts.tv_sec++, ts.tv_nsec -= 1000000000;
    pthread_cond_timedwait(&r->decided, &r->mu, &ts);
  }
  bool known = r->open_as_known;
  *role = r->open_as;
  memcpy(primary, r->open_follow, FAILOVER_TEXT);
  pthread_mutex_unlock(&r->mu);
  return known;
}

void failover_run_attach(struct failover_run *r, dw_engine *e, int rc, const char *why) {
  /* The directory is there now, and can hold the audit log. */
  struct audit *audit = NULL;
  if (rc == DW_OK && audit_open(r->opt.audit_path, r->opt.machine.node_id, &audit) != DW_OK)
    say(r, DW_LOG_ERROR, "failover decisions go to the log alone: %s", dw_last_error());
  pthread_mutex_lock(&r->mu);
  r->audit = audit;
  if (rc == DW_OK) {
    engine_lease(e, now_ns, 0); /* until the machine says */
    r->engine = e;
  }
  /* A primary that was stopped in good order has noted that it follows, and opens so: then it asks for promises. */
  if (r->promotion == PROMOTION_RUNS && rc == DW_OK && engine_role(e) == DW_FOLLOWER)
    start_promoter(r);
  else if (r->promotion == PROMOTION_RUNS)
    promotion_ended(r, rc, why);
  pthread_cond_signal(&r->wake);
  pthread_mutex_unlock(&r->mu);
}

void failover_run_front(struct failover_run *r, struct resp_server *front) {
  pthread_mutex_lock(&r->mu);
  r->front = front;
  if (front) resp_server_restrict(front, r->restricted ? r->opt.machine.acks : 0);
  pthread_mutex_unlock(&r->mu);
}

void failover_run_report(struct failover_run *r, struct failover_report *out) {
  pthread_mutex_lock(&r->mu);
  *out = r->report;
  pthread_mutex_unlock(&r->mu);
}

void failover_run_stop(struct failover_run *r) {
  pthread_mutex_lock(&r->mu);
  r->stop = true;
  /* Nobody opens an engine any more. */
  if (r->promotion == PROMOTION_RUNS && !r->engine) promotion_ended(r, DW_CLOSED, "the daemon is stopping");
  pthread_cond_signal(&r->wake);
  pthread_mutex_unlock(&r->mu);
  pthread_join(r->thread, NULL);
}

void failover_run_free(struct failover_run *r) {
  if (!r) return;
  failover_destroy(r->machine);
  if (r->coordinator) r->coordinator->ops->destroy(r->coordinator);
  audit_close(r->audit);
  free(r->engine_status);
  pthread_cond_destroy(&r->wake);
  pthread_cond_destroy(&r->decided);
  pthread_mutex_destroy(&r->mu);
  free(r);
}
