/* The RESP2 front end: any Redis client is a client. A few threads with their connections, on the public API (dabbawal.h)
 * alone. */
#ifndef DW_RESP_SERVER_H
#define DW_RESP_SERVER_H

#include "dabbawal.h"
#include "replication/failover.h"

struct resp_options {
  const char *listen;        /* "host:port", port 0: any */
  int bound;                 /* a socket bound to it already (net_bind), the server's from here on; 0: none */
  const char *cluster_name;  /* what SENTINEL calls this cluster; NULL: "dabbawal" */
  uint64_t max_staleness_ms; /* default bound of reads; 0 or UINT64_MAX: none (EVENTUAL) */
  uint32_t max_clients;      /* 0: 10000 */
  uint32_t threads;          /* that serve connections; 0: one for each processor, but at most 2 */
  uint32_t watch_ms;         /* how often subscribers have us look for another primary; 0: 100 */
  dw_log_fn log;             /* may be NULL */
  void *log_arg;
  /* What DW.STATUS says about failover; NULL: nothing. Any of the threads calls it. */
  void (*failover)(void *arg, struct failover_report *);
  void *failover_arg;
};

#define RESP_METRICS_COMMANDS 64
#define RESP_MAX_THREADS 64
struct resp_metrics {
  uint32_t threads;
  uint32_t thread_connections[RESP_MAX_THREADS]; /* open now, and those on their way there */
  uint64_t connections;       /* open now */
  uint64_t connections_total; /* accepted since start */
  uint64_t rejected_total;    /* over max_clients */
  uint64_t commands_total, errors_total;
  uint64_t reads_total, writes_total, stale_total, indoubt_total;
  struct {
    const char *name; /* static, lower case */
    uint64_t calls;
  } by_command[RESP_METRICS_COMMANDS]; /* those that were called */
  unsigned command_count;
};

struct resp_server;

/* The engine must outlive the server. `listen` is borrowed for the call.
 * DW_OK, DW_INVALID (address), DW_IO (can't bind: the message names the address), DW_NO_MEMORY. */
int resp_server_start(dw_engine *, const struct resp_options *, struct resp_server **);
uint16_t resp_server_port(const struct resp_server *);
/* Closes connections (replies that are ready are sent), waits for writes in flight, joins its threads. Before dw_close. */
void resp_server_stop(struct resp_server *);
/* From now on only writes are taken that wait, in sync mode and for more than reception, for at least `acks` followers; 0: all
 * again. Others are answered -NOREPLICAS, certainly not done. Any thread. */
void resp_server_restrict(struct resp_server *, uint32_t acks);
void resp_server_metrics(struct resp_server *, struct resp_metrics *); /* any thread */

#endif
