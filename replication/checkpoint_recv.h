/* A checkpoint on its way in: DIR/incoming, so written that a transfer that broke anywhere goes on where it was.
 *
 *   DIR/incoming/STATE        which checkpoint, and a record of each file that is complete
 *   DIR/incoming/store/NAME   its files
 *
 * A file that STATE records was synced and its hash was right; its size is looked at again, nothing else. A file that
 * is not recorded counts as far as it is long; whether those bytes are right, the hash of the whole file says
 * at its end, after which it is recorded or deleted. So nothing needs to be believed after a crash.
 *
 * ckpt_in_begin, _file_end and _finish block on disk: call them from a worker, one at a time.
 */
#ifndef DW_REPLICATION_CHECKPOINT_RECV_H
#define DW_REPLICATION_CHECKPOINT_RECV_H

#include "replication/checkpoint_manifest.h"
#include "wal/base/env.h"

struct ckpt_in;

/* dir: DIR/incoming. Looks for a transfer to resume; what can't be used is ignored until ckpt_in_begin wipes it. */
int ckpt_in_open(struct env *, const char *dir, struct ckpt_in **);
void ckpt_in_close(struct ckpt_in *); /* keeps the files; NULL is fine */
struct hash128 ckpt_in_id(const struct ckpt_in *); /* zero: none to resume */
/* Prepares for this checkpoint; another one's files are wiped. offsets: m->count of them, bytes held or CKPT_HELD. */
int ckpt_in_begin(struct ckpt_in *, const struct ckpt_manifest *m, uint64_t *offsets);
uint64_t ckpt_in_held(const struct ckpt_in *); /* bytes that were held at ckpt_in_begin */
int ckpt_in_write(struct ckpt_in *, uint32_t file, uint64_t off, const void *, uint32_t n);
/* DW_CORRUPT, and the file is gone, if its hash is another. */
int ckpt_in_file_end(struct ckpt_in *, uint32_t file, const struct hash128 *);
/* The whole file is at `from`, with this hash: links or copies it. DW_NOT_FOUND: it is not there (any more). */
int ckpt_in_take(struct ckpt_in *, uint32_t file, const char *from, const struct hash128 *);
struct env *ckpt_in_env(const struct ckpt_in *);
/* Everything is there: makes it durable, so that it may be installed. */
int ckpt_in_finish(struct ckpt_in *);
/* Forgets it and removes what is left. */
int ckpt_in_discard(struct ckpt_in *);

#endif
