/* Peers to repair a log from, over blocking sockets: the driver of fetcher.h and the engine's block_source.
 *
 * Used while there is no loop (dw_open, the command line) and by the engine's scrub thread, so that the loop has nothing to
 * do with it. One connection at a time, kept from question to question. Everything is bounded in time: connecting, and silence
 * of the peer. Looks at *stop every 50 ms.
 */
#ifndef DW_REPLICATION_REPAIR_SOURCE_H
#define DW_REPLICATION_REPAIR_SOURCE_H

#include "engine/repair.h"

/* lists: "host:port[,host:port...]" each, NULL or "": none. A peer named twice is asked once. DW_INVALID with a message that
 * quotes what is wrong; with no peer at all: DW_OK, count 0. timeout_ms: for connecting, and of silence.
 * block_source_free (or its destroy) releases it. */
int repair_source_create(struct env *, const char *const *lists, size_t n, uint32_t timeout_ms, struct block_source *);
void repair_source_free(struct block_source *);
/* Only checks a list. */
int repair_source_check(const char *list);

#endif
