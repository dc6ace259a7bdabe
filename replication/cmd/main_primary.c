/* dabbawal-primary: a ready-made primary around the embed API. */
#include "replication/cmd/daemon.h"

int main(int argc, char **argv) { return daemon_main(DW_PRIMARY, argc, argv); }
