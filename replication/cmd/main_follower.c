/* dabbawal-follower: receives its primary's log, applies it, serves reads. All of it is in daemon.c. */
#include "replication/cmd/daemon.h"

int main(int argc, char **argv) {
  return daemon_main(DAEMON_FOLLOWER, argc, argv);
}
