/* dabbawal-primary: a ready-made primary around the embed API. All of it is in daemon.c. */
#include "replication/cmd/daemon.h"

int main(int argc, char **argv) {
  return daemon_main(DAEMON_PRIMARY, argc, argv);
}
