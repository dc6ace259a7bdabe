/* Repairing a log from peers: the loop between a damaged segment (wal/repair.h) and those who may hold its blocks.
 *
 * Peers are asked one after the other, whoever answered last first. One that can't help, or whose blocks lead elsewhere
 * than to what survived, is not asked again for this segment; what others gave stays. Nothing is believed: the rebuilding
 * checks every block.
 */
#ifndef DW_ENGINE_REPAIR_H
#define DW_ENGINE_REPAIR_H

#include <stdatomic.h>
#include <stdbool.h>

#include "wal/repair.h"

struct block_ask {
  struct hash128 cluster_id;
  uint64_t node_id; /* the asker's */
  struct wal_pos from;
  dw_lsn upto;
};

/* Where blocks come from. Filled in by the layer above; used by one thread at a time. */
struct block_source {
  void *ctx;
  size_t count; /* peers, at most 64 */
  const char *(*name)(void *ctx, size_t peer);
  /* Blocks behind ask->from, in order, up to LSN ask->upto; some of them. DW_OK with *n == 0: the peer has none there. Any
   * other code: the peer can't help, the message says why. Blocks, but not for long: time-outs are its own, and it
   * gives up soon after *stop (may be NULL) turns true. The caller releases the blocks and frees the array. */
  int (*fetch)(void *ctx, size_t peer, const struct block_ask *, const atomic_bool *stop, struct wal_block ***, size_t *n);
  void (*rest)(void *ctx);    /* nothing more for a while: connections may go */
  void (*destroy)(void *ctx); /* NULL: nothing to do */
};

struct repair_run {
  struct env *env;
  const char *dir; /* of the log */
  struct hash128 cluster_id;
  uint64_t node_id;
  const struct block_source *source;
  const atomic_bool *stop; /* NULL: never */
  uint64_t deadline_ns;    /* no new question after it; UINT64_MAX: none */
  bool rehearse;           /* fetch and check everything, change nothing */
};

struct repair_result {
  uint64_t blocks, bytes; /* fetched and used */
  char from[200];         /* who gave them; "" if nothing had to be fetched */
  char why[400];          /* what was tried in vain */
};

/* DW_OK: rebuilt and durable (rehearse: could be). Else the damage is as it was; r->why says what each peer answered. */
int repair_segment(const struct repair_run *, const struct wal_damage *, struct wal *live, struct repair_result *r);

#endif
