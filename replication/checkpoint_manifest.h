/* What a checkpoint consists of: its id, its boundary in the log, the files and their sizes.
 *
 * A store's checkpoint is a flat directory. The receiving side makes files with the names in here, so a name is
 * accepted only if it can't leave the directory: 1 to 63 of [A-Za-z0-9._-], not starting with '.', none twice.
 */
#ifndef DW_REPLICATION_CHECKPOINT_MANIFEST_H
#define DW_REPLICATION_CHECKPOINT_MANIFEST_H

#include "replication/message.h"

#define CKPT_MAX_FILES 65536u
#define CKPT_NAME_BYTES 64u /* with terminator */

struct ckpt_file {
  char name[CKPT_NAME_BYTES];
  uint64_t bytes;
  struct hash128 hash; /* XXH3-128 of the file, if the manifest has hashes */
};
struct ckpt_manifest {
  struct hash128 id;  /* random, not zero: names this copy for a resumption */
  struct wal_pos pos; /* boundary of the log that the copy stands at */
  uint64_t total_bytes;
  uint32_t count;
  bool hashes;             /* for a follower that has files of its own to compare */
  struct ckpt_file *files; /* owned */
};

void ckpt_manifest_free(struct ckpt_manifest *); /* leaves it zeroed */
/* Adds a file and its size to the total. DW_INVALID: name; DW_UNSUPPORTED: too many; DW_NO_MEMORY. */
int ckpt_manifest_add(struct ckpt_manifest *, const char *name, uint64_t bytes);
bool ckpt_name_ok(const char *name);
/* One whole CKPT_MANIFEST frame. DW_UNSUPPORTED if it is beyond MSG_MANIFEST_BYTES. */
int msg_put_ckpt_manifest(struct buf *, const struct msg_sender *, const struct ckpt_manifest *);
/* Checks everything; allocates by what is there. *out is the caller's to free on DW_OK. */
int msg_get_ckpt_manifest(const struct frame *, struct ckpt_manifest *out);
/* The same bytes without a frame, for the receiving driver to keep beside incoming files (encode appends). */
int ckpt_manifest_encode(struct buf *, const struct ckpt_manifest *);
int ckpt_manifest_decode(const void *, size_t n, struct ckpt_manifest *out);

#endif
