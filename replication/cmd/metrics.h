/* Prometheus text of one node, and what probes ask of it. Pure but for metrics_process. */
#ifndef DW_CMD_METRICS_H
#define DW_CMD_METRICS_H

#include <stdbool.h>

#include "dabbawal.h"
#include "replication/cmd/resp_server.h"
#include "replication/cmd/status_json.h"
#include "wal/base/bytes.h"

struct node_view {
  dw_status status;
  bool has_failover; /* there is a coordinator */
  struct failover_report failover;
  struct status_epochs epochs;
  bool has_resp;
  struct resp_metrics resp;
  uint64_t http_requests;
  double start_time_s; /* Unix time of the process */
  uint64_t resident_bytes, open_fds;
};

/* Fills the process' own figures from /proc; 0 where that fails. */
void metrics_process(struct node_view *);
/* Appends the exposition text. DW_OK or DW_NO_MEMORY. */
int metrics_render(const struct node_view *, struct buf *out);

/* Does the node work at all? If not, `why` says so. */
bool node_healthy(const dw_status *, char *why, size_t cap);
/* May it get reads? A follower within its bound (0: none given; then as soon as it is known how old its data is). */
bool node_ready(const dw_status *, uint64_t max_staleness_ms, char *why, size_t cap);

#endif
