/* What DW.STATUS and /status say about failover: the object "coordinator". */
#ifndef DW_CMD_FAILOVER_STATUS_H
#define DW_CMD_FAILOVER_STATUS_H

#include <stddef.h>

#include "replication/failover.h"

/* Puts it at the end of a status_json text, which it takes over. *n (may be NULL) is the new length. NULL: no memory. */
char *failover_json_join(char *status, const struct failover_report *, size_t *n);

#endif
