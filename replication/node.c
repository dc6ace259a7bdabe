/* dw_open and dw_close: where an engine meets its replication. node.h has the picture.
 *
 * Order matters at both ends. Opening: the engine recovers first (so a locked or damaged directory says so), then the
 * listener binds (so that a port in use is dw_open's own error), hooks are attached, the loop starts. Closing: hooks
 * are detached first, which under the engine's lock means that none is running or will run; then the loop says goodbye
 * to its peers and ends; then the engine closes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/address.h"
#include "replication/node.h"
#include "replication/repair_source.h"
#include "wal/base/status.h"

#define COLLECT_NS 1000000u

/* ---- the engine's hooks: any thread, locks held ---------------------------------------------- */

/* Wakes the loop unless somebody has done so since it last looked. */
void node_wake(struct node *n, unsigned bits) {
  if (!(atomic_fetch_or(&n->wake, bits | WAKE_NOW) & WAKE_NOW)) transport_wake(n->t);
}

/* Asynchronous writes come one by one, and a wake-up for each, here and at every follower, costs more than all else
 * that is done for it. So after something was shipped the loop collects: for a millisecond what nobody waits for does
 * not wake it. Here a bit is set, then the flag is read; where collecting ends (collect) the flag is cleared, then the
 * bits are read: nothing falls between. */
static void node_note(struct node *n, unsigned bits, bool awaited) {
  if (!atomic_load(&n->serving)) return;
  if (awaited || (!(atomic_fetch_or(&n->wake, bits) & WAKE_NOW) && !atomic_load(&n->collecting))) node_wake(n, bits);
}
static void hook_log_grew(void *ctx, bool awaited) {
  node_note(ctx, WAKE_GREW, awaited);
}
static void hook_commit_moved(void *ctx, bool awaited) {
  node_note(ctx, WAKE_COMMIT, awaited);
}
static void hook_applied_moved(void *ctx) {
  struct node *n = ctx;
  if (atomic_load(&n->following)) node_wake(n, WAKE_APPLIED);
}

static void hook_stopping(void *ctx) {
  struct node *n = ctx;
  strong_stop(n);
  atomic_store(&n->hurry, true);
  node_wake(n, WAKE_ROLE);
}

static const struct replication_ops node_hooks = {.log_grew = hook_log_grew,
                                                  .commit_moved = hook_commit_moved,
                                                  .applied_moved = hook_applied_moved,
                                                  .strong_point = strong_point,
                                                  .stopping = hook_stopping,
                                                  .status = report_status};

/* ---- the loop -------------------------------------------------------------------------------- */

static void begin_stop(struct node *n) {
  if (n->stopping) return;
  n->stopping = true;
  transport_stop_listening(n->t);
  serve_end_all(n, DW_CLOSED, "this node is stopping");
  if (n->follow) follow_stop(n);
  promote_stop(n);
  look_stop(n);
}

static uint64_t sooner(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

static void flush_acks(struct node *n) {
  if (!n->acks_changed) return;
  n->acks_changed = false;
  if (n->role != DW_PRIMARY) return;
  struct ack_marks marks;
  quorum_boil(&n->quorum, &marks);
  engine_acks(n->e, &marks);
}

/* Which of the bits are for now. See node_note. */
static unsigned collect(struct node *n, unsigned wake, uint64_t now_ns) {
  const unsigned log = WAKE_GREW | WAKE_COMMIT;
  bool collecting = atomic_load(&n->collecting);
  if (collecting && now_ns < n->collect_until_ns && !(wake & WAKE_NOW)) {
    atomic_fetch_or(&n->wake, wake & log);
    return wake & ~log;
  }
  if (wake & log) {
    n->collect_until_ns = now_ns + COLLECT_NS;
    atomic_store(&n->collecting, true);
  } else if (collecting && now_ns >= n->collect_until_ns) {
    atomic_store(&n->collecting, false);
    wake |= atomic_exchange(&n->wake, 0);
  }
  return wake;
}

static void node_pump(void *ctx) {
  struct node *n = ctx;
  uint64_t now = node_now(n), next = UINT64_MAX;
  unsigned wake = collect(n, atomic_exchange(&n->wake, 0), now);
  bool tick = now >= n->next_tick_ns;
  if (wake & WAKE_STOP) begin_stop(n);
  if (tick) n->next_tick_ns = now + n->tick_ns;
  if (n->follow) {
    if ((wake & WAKE_STRONG) || tick) strong_pump(n);
    next = follow_pump(n, wake, tick, now);
  }
  next = sooner(next, serve_pump(n, wake, now));
  role_pump(n, now);
  next = sooner(next, promote_pump(n, now));
  if (tick || n->look) next = sooner(next, look_pump(n, now));
  flush_acks(n);
  if (tick || n->pins_changed) {
    bootstrap_expire(n, now);
    serve_pin_log(n);
  }
  members_pump(n);
  next = sooner(next, report_pump(n, now, tick));
  if (n->stopping && !n->peers && (!n->follow || follow_idle(n)) && role_idle(n)) {
    transport_finish(n->t);
    return;
  }
  if (atomic_load(&n->collecting)) next = sooner(next, n->collect_until_ns);
  transport_pump_at(n->t, sooner(next, n->next_tick_ns), node_now(n));
}

/* ---- life ------------------------------------------------------------------------------------ */

static void node_free(struct node *n) {
  transport_destroy(n->t); /* joins the thread */
  bootstrap_expire(n, UINT64_MAX);
  follow_destroy(n);
  look_destroy(n);
  quorum_free(&n->quorum);
  pthread_mutex_destroy(&n->strong_mu);
  pthread_mutex_destroy(&n->report_mu);
  pthread_mutex_destroy(&n->role_mu);
  free(n);
}

static int node_build(dw_engine *e, struct node **out) {
  struct node *n = calloc(1, sizeof *n);
  if (!n) return dw_fail_nomem(sizeof *n);
  n->e = e;
  n->env = engine_env(e);
  n->opt = engine_options(e);
  struct engine_identity id;
  engine_identity(e, &id);
  atomic_init(&n->role, (int)id.role);
  if (n->opt->primary) snprintf(n->primary, sizeof n->primary, "%s", n->opt->primary);
  n->tick_ns = n->opt->heartbeat_ms * 1000000ull / 5;
  if (n->tick_ns > 100000000ull) n->tick_ns = 100000000ull;
  pthread_mutex_init(&n->strong_mu, NULL);
  pthread_mutex_init(&n->report_mu, NULL);
  pthread_mutex_init(&n->role_mu, NULL);
  quorum_init(&n->quorum);
  struct transport_events events = {
      .ctx = n, .accepted = serve_accepted, .accept_failed = serve_accept_failed, .pump = node_pump};
  int rc = transport_create(&events, &n->t);
  if (rc == DW_OK && n->opt->listen) rc = transport_listen(n->t, n->opt->listen, &n->listen_port);
  if (rc == DW_OK) members_setup(n);
  if (rc == DW_OK && n->primary[0] && n->role == DW_FOLLOWER) rc = follow_create(n);
  if (rc == DW_OK) rc = look_create(n);
  if (rc) {
    char why[400];
    dw_error_copy(why, sizeof why);
    node_free(n);
    return dw_fail(rc, "%s", why);
  }
  *out = n;
  return DW_OK;
}

static int node_start(dw_engine *e) {
  struct node *n = NULL;
  int rc = node_build(e, &n);
  if (rc) return rc;
  engine_attach(e, &node_hooks, n);
  rc = transport_start(n->t);
  if (rc) {
    engine_attach(e, NULL, NULL);
    node_free(n);
    return rc;
  }
  if (n->listen_port)
    engine_log(e, DW_LOG_INFO, "followers may connect to %s (port %u)", n->opt->listen, n->listen_port);
  return DW_OK;
}

static int check_address(const char *option, const char *text) {
  struct address a;
  if (!text) return DW_OK;
  int rc = address_parse(text, &a);
  if (rc) return dw_fail_prefix(rc, "option %s", option);
  if (strcmp(option, "listen") != 0 && strtoul(a.port, NULL, 10) == 0)
    return dw_fail(DW_INVALID, "option %s: '%s': port 0", option, text);
  if (strlen(text) >= DW_ADDRESS_BYTES)
    return dw_fail(DW_INVALID, "option %s: '%s' is longer than %d bytes", option, text, DW_ADDRESS_BYTES - 1);
  return DW_OK;
}

/* Whom a damaged log is repaired from. It goes to the engine, which lives longer than the node. */
static int make_source(const dw_options *opt, struct block_source *out) {
  const char *lists[] = {opt ? opt->primary : NULL, opt ? opt->repair_from : NULL};
  return repair_source_create(env_posix(), lists, 2, opt ? opt->peer_timeout_ms : 0, out);
}

static int check_addresses(const dw_options *opt) {
  if (!opt) return DW_OK;
  int rc = check_address("listen", opt->listen);
  if (rc == DW_OK) rc = check_address("client_address", opt->client_address);
  if (rc == DW_OK) rc = check_address("primary", opt->primary);
  if (rc == DW_OK && (rc = repair_source_check(opt->repair_from))) dw_fail_prefix(rc, "option repair_from");
  if (rc == DW_OK && (rc = repair_source_check(opt->peers))) dw_fail_prefix(rc, "option peers");
  return rc;
}

/* The engine is open: its replication. Closes it if that fails. */
static int finish_open(dw_engine *e, const dw_options *opt, dw_engine **out) {
  int rc = opt && (opt->listen || opt->primary || opt->peers) ? node_start(e) : DW_OK;
  if (rc) {
    char why[400];
    dw_error_copy(why, sizeof why);
    (void)engine_close(e);
    return dw_fail(rc, "%s", why);
  }
  *out = e;
  return DW_OK;
}

int node_open_engine(const char *dir, const dw_options *opt, const struct engine_config *config, dw_engine **out) {
  dw_engine *e = NULL;
  int rc = check_addresses(opt);
  if (rc == DW_OK) rc = engine_open(dir, opt, config, &e);
  return rc ? rc : finish_open(e, opt, out);
}

int dw_open(const char *dir, const dw_options *opt, dw_engine **out) {
  if (!out) return dw_fail(DW_INVALID, "dw_open: nowhere to put the engine");
  dw_engine *e = NULL;
  struct block_source source = {0};
  int rc = check_addresses(opt);
  if (rc == DW_OK) rc = make_source(opt, &source);
  if (rc == DW_OK) rc = engine_open(dir, opt, &(struct engine_config){.threads = true, .source = &source}, &e);
  if (rc) {
    char why[512];
    dw_error_copy(why, sizeof why);
    repair_source_free(&source);
    return dw_fail(rc, "%s", why);
  }
  return finish_open(e, opt, out);
}

int dw_close(dw_engine *e) {
  if (!e) return DW_OK;
  struct node *n = engine_replication(e);
  if (n) {
    engine_attach(e, NULL, NULL);
    node_wake(n, WAKE_STOP);
    node_free(n);
  }
  return engine_close(e);
}
