/* DATA/audit.log: every decision about who is primary, one JSON line each, chained by hash.
 *
 *   {"seq":7,"time":"...Z",...,"prev":"<32 hex>","hash":"<32 hex>"}
 *
 * `hash` is XXH3-128 over the line up to (not including) `,"hash"`, which holds `prev`, the hash of the line before ("000..." for
 * the first). So a line that was changed, removed or put in shows at the next one. XXH3 is no cryptography: this finds accidents
 * and clumsiness; to hold out against an adversary copy the last hash elsewhere.
 *
 * Lines are written whole and synced. A crash may leave a piece of the last one; the next process ends it with a line feed and
 * goes on from the last whole line, and verify counts such a piece as torn, not as damage.
 */
#ifndef DW_CMD_AUDIT_H
#define DW_CMD_AUDIT_H

#include <stdint.h>

#include "replication/failover.h"
#include "wal/base/hash.h"

struct audit;

/* DW_IO, DW_CORRUPT (the last whole line is none of ours), DW_NO_MEMORY. */
int audit_open(const char *path, uint64_t node_id, struct audit **);
/* An error is returned, and the next line is tried again. */
int audit_write(struct audit *, const struct failover_audit *);
void audit_close(struct audit *);

struct audit_summary {
  uint64_t lines, torn;
  struct hash128 last;
};
/* DW_OK; DW_CORRUPT: the message names the line; DW_IO; DW_NO_MEMORY. */
int audit_verify(const char *path, struct audit_summary *);

#endif
