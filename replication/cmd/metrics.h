/* Prometheus text of a node: /metrics. */
#ifndef DW_CMD_METRICS_H
#define DW_CMD_METRICS_H

#include "replication/cmd/resp_server.h"
#include "wal/base/bytes.h"

/* Appends the exposition. resp may be NULL (no RESP listener). DW_OK or DW_NO_MEMORY. */
int metrics_text(const dw_status *, const struct resp_metrics *resp, struct buf *out);

#endif
