/* The life of both daemons: read the settings, open, serve, wait for a signal, close. */
#ifndef DW_CMD_DAEMON_H
#define DW_CMD_DAEMON_H

#include "dabbawal.h"

/* main() of dabbawal-primary and dabbawal-follower. Returns an exit code of config.h. */
int daemon_main(dw_role, int argc, char **argv);

#endif
