/* What a node has that its cluster's history has not: kept in DIR/diverged before the log is cut or replaced.
 *
 *   DIR/diverged/EPOCH-LSN.blocks    the blocks behind the parting point, byte for byte, in a checksummed container
 *   DIR/diverged/EPOCH-LSN.json      the same in short, for people and scripts
 *
 * EPOCH and LSN (decimal) are those of the first commit that is only here; "-2", "-3"... follow where such a file of
 * another content is there already. One file for each parting. A file appears under its name only when it is complete
 * and synced, and nothing of ours ever changes or removes one, but that a file whose blocks are the beginning of a
 * longer one is replaced by that. So an attempt that a crash cut short is simply made again.
 *
 * The container is valid if and only if
 *   1. the header's magic, version, size, zeros and checksum are right;
 *   2. behind it stand exactly `blocks` whole blocks, `bytes` long together, `commits` commits in them;
 *   3. each is valid after the one before it (wal/format.h: checksums, LSN, epoch, chain), the first one after `from`;
 *   4. the last one ends at `end`.
 * docs/data-directory.md has the byte table; tests/golden/diverged.blocks ties both to this code.
 */
#ifndef DW_ENGINE_DIVERGED_H
#define DW_ENGINE_DIVERGED_H

#include "wal/base/env.h"
#include "wal/wal.h"

#define DIVERGED_HEADER_BYTES 256u
#define DIVERGED_DIR "diverged"
#define DIVERGED_NAME_BYTES 80u /* with terminator */

enum diverged_reason { DIVERGED_CUT = 1, DIVERGED_REJOIN = 2 };

struct diverged_header {
  struct hash128 cluster_id, incarnation; /* this node's */
  uint64_t node_id, peer_id;              /* this node; from whom it parted, 0: unknown */
  uint64_t wall_ns;
  struct wal_pos parted; /* last boundary that both histories have, as the peer named it */
  struct wal_pos from;   /* boundary before the first block here */
  struct wal_pos end;    /* boundary behind the last one */
  uint64_t blocks, commits, bytes;
  uint8_t reason; /* enum diverged_reason */
  bool complete;  /* false: the log began behind the parting point already, so something is missing at the front */
};

void diverged_header_encode(const struct diverged_header *, uint8_t out[DIVERGED_HEADER_BYTES]);
int diverged_header_decode(const uint8_t *, size_t n, struct diverged_header *); /* DW_CORRUPT, DW_UNSUPPORTED */

/* ---- reading --------------------------------------------------------------------------------- */

struct diverged_file;
int diverged_open(struct env *, const char *path, struct diverged_header *, struct diverged_file **);
/* The next block, verified; DW_NOT_FOUND: that was all, and everything is as rule 2 to 4 say. DW_CORRUPT. */
int diverged_next(struct diverged_file *, struct wal_block **);
void diverged_close(struct diverged_file *); /* NULL is fine */

/* ---- the directory --------------------------------------------------------------------------- */

/* Calls fn for each container in DIR/diverged, in order of names. rc: of its header; other than DW_OK: the header is
 * zeroed, this thread's message says why. DW_OK also if there is no such directory. */
typedef int (*diverged_fn)(void *arg, const char *name, int rc, const struct diverged_header *);
int diverged_list(struct env *, const char *dir, diverged_fn, void *arg);

struct diverged_saved {
  char name[DIVERGED_NAME_BYTES]; /* of the container; "" if there was no commit to keep */
  struct diverged_header header;
  bool was_there;
};
/* Keeps what `log` has behind about->parted, if there are commits in it. Of `about` ids, parted and reason are taken.
 * peer: its address, for the sidecar. Durable when it returns DW_OK, with its name. DW_NOT_FOUND: parted is no boundary
 * of this log, which goes back further: the peer has to be asked about an older one. DW_NO_SPACE and other errors:
 * nothing new is there. Reads and writes as much as there is: blocks. */
int diverged_save(struct env *, const char *dir, struct wal *log, const struct diverged_header *about, const char *peer,
                  struct diverged_saved *out);

#endif
