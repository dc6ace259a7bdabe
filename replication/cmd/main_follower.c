/* dabbawal-follower: copies a primary's log and serves reads. */
#include "replication/cmd/daemon.h"

int main(int argc, char **argv) { return daemon_main(DW_FOLLOWER, argc, argv); }
