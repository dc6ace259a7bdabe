/* What the failover machine needs to know of its node, from what the engine reports of itself. Pure. */
#ifndef DW_REPLICATION_FAILOVER_NODE_H
#define DW_REPLICATION_FAILOVER_NODE_H

#include "engine/dabbawal.h"
#include "replication/failover.h"

/* The engine is not open yet. has_data: its directory is not new; epoch: the last one that it has begun, 0: none. */
void failover_see_closed(bool has_data, uint64_t epoch, struct failover_status *);
void failover_see(const dw_status *, struct failover_status *);

#endif
