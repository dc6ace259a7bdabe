/* Parts of `dabbawal wal` and `dabbawal diverged`. All print to stdout; DW_OK, or an error with its message. */
#ifndef DW_CMD_CLI_WAL_H
#define DW_CMD_CLI_WAL_H

#include "wal/wal.h"

/* One block as `wal dump` shows it: a line for it, one for each operation of commits from `from` on. values: keys and
 * values whole. path NULL: without file and offset. */
int cli_dump_block(const char *path, uint64_t off, const struct wal_block *, dw_lsn from, bool values,
                   struct buf *scratch);
void cli_print_bytes(const uint8_t *, size_t n, bool whole); /* quoted, escaped; cut unless whole */

/* log: the log directory. ask: peers, NULL: nobody is asked. */
int cli_wal_verify(const char *log, const char *ask);
/* dir: as the user gave it; it must be a data directory, so that it can be locked. */
int cli_wal_repair(const char *dir, const char *log, const char *from);

#endif
