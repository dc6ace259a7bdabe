/* The thread that runs a node's failover machine against its coordinator and its engine.
 *
 *   daemon.c --start--> thread: machine (failover.h) <-> coordinator (etcd.c)
 *        <--open as--     |                          <-> engine: dw_promote, dw_follow, dw_status_get
 *        --attach-------->|                          --> DATA/audit.log
 *
 * The engine is not open yet when the thread starts: whether a node opens as primary is the lease's question. Promotions run in
 * a thread of their own, so that the lease is renewed meanwhile. Times are CLOCK_BOOTTIME, which goes on while the machine
 * sleeps. Nothing of the engine ever waits for the coordinator.
 */
#ifndef DW_CMD_FAILOVER_RUN_H
#define DW_CMD_FAILOVER_RUN_H

#include "dabbawal.h"
#include "replication/failover.h"

struct resp_server;

struct failover_run_options {
  const char *url, *cluster; /* borrowed for the start only */
  const char *audit_path;
  struct failover_options machine; /* its strings are borrowed for the run's life */
  bool has_data; /* the data directory has been a primary's; asked for before anybody opens it, see below */
  uint64_t max_lag_ms;             /* as in dw_promote_options */
  dw_log_fn log;
  void *log_arg;
};

struct failover_run;

/* Has this directory begun an epoch? One that was emptied has not, though each start since has left a follower's NODE in it. It
 * must not come back as the primary that its node was: as one it would begin another cluster. */
bool failover_run_has_led(const char *dir);

int failover_run_start(const struct failover_run_options *, struct failover_run **);

/* Waits until it is known as what to open the engine, and whom to follow ("": nobody). False: `stop` said so (asked now and then). */
bool failover_run_role(struct failover_run *, bool (*stop)(void *), void *arg, dw_role *, char primary[FAILOVER_TEXT]);
/* The engine is open (rc DW_OK), or could not be opened. */
void failover_run_attach(struct failover_run *, dw_engine *, int rc, const char *why);
/* Where FO_RESTRICT goes; NULL: nowhere. */
void failover_run_front(struct failover_run *, struct resp_server *);

void failover_run_report(struct failover_run *, struct failover_report *); /* any thread */
/* Steps down, gives the lease back, as far as the coordinator answers; a few seconds at most. Before the engine closes. */
void failover_run_stop(struct failover_run *);
void failover_run_free(struct failover_run *); /* after it; NULL is fine */

#endif
