/* A checkpoint on its way out: the files of a consistent copy of the store under DIR/checkpoints/<id>, to be read in
 * chunks. Which bytes go when is checkpoint_transfer.h's business, which connection gets them the node's.
 *
 * ckpt_out_make and ckpt_out_read block on disk: call them from a worker, one at a time for one checkpoint.
 */
#ifndef DW_REPLICATION_CHECKPOINT_SEND_H
#define DW_REPLICATION_CHECKPOINT_SEND_H

#include "engine/engine.h"
#include "replication/checkpoint_manifest.h"

struct ckpt_out;

/* Makes a copy under a new random id; hashes: reads all of it, for the manifest. Errors leave nothing behind. */
int ckpt_out_make(dw_engine *, bool hashes, struct ckpt_out **);
struct hash128 ckpt_out_id(const struct ckpt_out *);
struct wal_pos ckpt_out_pos(const struct ckpt_out *); /* the log is needed from here on */
/* The manifest, the same every time: the caller's to free. DW_NO_MEMORY. */
int ckpt_out_manifest(const struct ckpt_out *, struct ckpt_manifest *);
/* Exactly n bytes of a file. DW_CORRUPT if it is shorter than it was. */
int ckpt_out_read(struct ckpt_out *, const char *name, uint64_t off, void *buf, uint32_t n);
/* Removes the copy and frees; NULL is fine. Unlinks files: brief, but not for a hot path. */
void ckpt_out_drop(struct ckpt_out *);

#endif
