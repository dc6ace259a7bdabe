/* `dabbawal diverged replay`: see cli_replay.c. Prints to stdout; DW_OK, or an error with its message. */
#ifndef DW_CMD_CLI_DIVERGED_H
#define DW_CMD_CLI_DIVERGED_H

#include <stdbool.h>

int cli_replay(const char *file, const char *to, bool dry_run, bool only_missing);

#endif
