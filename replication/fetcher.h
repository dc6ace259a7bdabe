/* Asking a peer for blocks to repair a log with: a pure state machine, one per connection (docs/protocol.md, "Repair").
 *
 *   fetcher_ask(from, upto) --> FETCH ...            ... FETCHED --> fetcher_take: blocks, or none
 *        ^                                           ... REFUSE  --> failed: the peer does not have them, and why
 *        +--------- the next question ------------------+
 *
 * Drive it: write fetcher_output to the socket, tell fetcher_drained, feed fetcher_input, until fetcher_state is no longer
 * ASKED. Time-outs are the driver's.
 *
 * What it guarantees of the blocks that it hands out: each is whole by its own checksums, they follow `from` one after the other
 * by LSN, epoch and chain hash, and none ends beyond `upto`. Memory grows only as bytes arrive, up to one frame.
 */
#ifndef DW_REPLICATION_FETCHER_H
#define DW_REPLICATION_FETCHER_H

#include "replication/message.h"
#include "replication/outq.h"

struct fetcher;

struct fetcher_config {
  uint64_t node_id; /* ours, not 0 */
  struct hash128 cluster_id;
  uint32_t max_bytes; /* of blocks in an answer; 0: MSG_FETCH_BYTES */
};

enum fetch_state {
  FETCH_IDLE,   /* ask */
  FETCH_ASKED,  /* the answer is not here yet */
  FETCH_READY,  /* take */
  FETCH_FAILED  /* for good: fetcher_error */
};

int fetcher_create(const struct fetcher_config *, struct fetcher **); /* DW_NO_MEMORY */
void fetcher_destroy(struct fetcher *);                               /* NULL is fine */

/* Only when IDLE. DW_NO_MEMORY fails it. */
void fetcher_ask(struct fetcher *, const struct wal_pos *from, dw_lsn upto);
void fetcher_input(struct fetcher *, const void *, size_t n);
void fetcher_eof(struct fetcher *, const char *why);
int fetcher_output(const struct fetcher *, struct iovec *, int cap);
void fetcher_drained(struct fetcher *, size_t n);

enum fetch_state fetcher_state(const struct fetcher *);
/* Only when READY: the blocks become the caller's (free the array); n 0: nothing follows up to `upto`. IDLE again. */
void fetcher_take(struct fetcher *, struct wal_block ***blocks, size_t *n);
/* The peer's code or ours, and a text. */
int fetcher_error(const struct fetcher *, const char **text);

#endif
