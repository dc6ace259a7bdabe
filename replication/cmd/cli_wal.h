/* Parts of `dabbawal wal`. Both print to stdout; DW_OK, or an error with its message. */
#ifndef DW_CMD_CLI_WAL_H
#define DW_CMD_CLI_WAL_H

/* log: the log directory. ask: peers, NULL: nobody is asked. */
int cli_wal_verify(const char *log, const char *ask);
/* dir: as the user gave it; it must be a data directory, so that it can be locked. */
int cli_wal_repair(const char *dir, const char *log, const char *from);

#endif
