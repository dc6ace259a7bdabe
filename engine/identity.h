/* Who this directory is: the NODE file, the lock and the names inside a data directory.
 *
 *   DIR/LOCK          held (flock) while an engine has the directory open
 *   DIR/NODE          this file's struct, checksummed, replaced atomically; it names the active generation g
 *   DIR/store-%06u    the store of generation g
 *   DIR/wal-%06u      the log of generation g
 *   DIR/incoming/     a bootstrap on its way in (survives restarts, so that it can be resumed)
 *   DIR/checkpoints/  copies on their way out (removed at open)
 *
 * Replacing NODE is the one step that switches a follower from its old state to a bootstrapped one: whatever
 * other generation's folders are found at open are leftovers of a crash before or after that step, and go.
 */
#ifndef DW_IDENTITY_H
#define DW_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#include "wal/base/env.h"
#include "wal/base/hash.h"

#define NODE_FILE_BYTES 128u
#define NODE_FILE_VERSION 1u

struct node_file {
  struct hash128 cluster_id;  /* zero: a follower that has not met its primary yet */
  struct hash128 incarnation; /* random, made with the directory; a wiped directory gets another one */
  uint64_t node_id;
  uint32_t generation; /* 1, then +1 per bootstrap */
  uint64_t created_wall_ns;
  uint64_t promised_epoch; /* nothing below it is followed or acknowledged any more; 0: no promise */
  uint64_t promised_node;  /* whom it was promised to; 0 with no promise */
  uint64_t own_epoch;      /* the last one begun by this directory, also if its record has left the log since; 0: none */
  bool follows;            /* made as a follower, or told to follow, and has begun no epoch since */
};

void node_file_encode(const struct node_file *, uint8_t out[NODE_FILE_BYTES]);
/* DW_CORRUPT, or DW_UNSUPPORTED for a newer version. */
int node_file_decode(const uint8_t *in, size_t n, struct node_file *);

/* Reads DIR/NODE. DW_NOT_FOUND: DIR is empty (but for LOCK), a new directory. DW_INVALID: it holds other files, so it is
 * not ours. */
int node_file_load(struct env *, const char *dir, struct node_file *);
int node_file_save(struct env *, const char *dir, const struct node_file *);

/* Removes folders of other generations and outgoing checkpoints. */
int node_dir_clean(struct env *, const char *dir, uint32_t generation);

/* malloc'd "dir/name"; NULL: no memory (message set). */
char *path_join(const char *dir, const char *name);
/* malloc'd "dir/prefix-%06u". */
char *path_generation(const char *dir, const char *prefix, uint32_t generation);

#endif
