/* Files of an incoming checkpoint that this node's own store has already.
 *
 * Table files never change and are named by a counter of the store that made them, so a name tells nothing on another
 * node; size and XXH3-128 of the whole file do. A store that once came from a checkpoint of the other node, or the
 * other way round, shares most of its files with it: those are linked (copied where the environment can't link) under
 * the name that the manifest gives them, and need not travel. A store that was fed by the log alone has the same
 * records in files of its own making: then none of them match, and everything travels.
 */
#ifndef DW_REPLICATION_CHECKPOINT_REUSE_H
#define DW_REPLICATION_CHECKPOINT_REUSE_H

#include "replication/checkpoint_recv.h"

/* Of the first `bytes` bytes. DW_CORRUPT if it is shorter. */
int ckpt_hash_file(struct env *, const char *path, uint64_t bytes, struct hash128 *out);

/* After ckpt_in_begin, with its offsets: looks in `store`, the folder of the present store, which may be in use, and
 * marks what it finds as CKPT_HELD. *bytes: how much that is. What can't be used is no error: it travels. Errors: of
 * DIR/incoming. */
int ckpt_in_reuse(struct ckpt_in *, const struct ckpt_manifest *, const char *store, uint64_t *offsets,
                  uint64_t *bytes);

#endif
