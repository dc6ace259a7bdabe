/* The life of both daemons, from argv to exit code. */
#ifndef DW_CMD_DAEMON_H
#define DW_CMD_DAEMON_H

#include "replication/cmd/config.h"

int daemon_main(enum daemon_kind, int argc, char **argv);

/* Exit code of an engine or server error. */
int daemon_exit_code(int rc);

#endif
