/* A real etcd for tests: one member, started by fork and exec on free ports, ended by its pid. */
#ifndef DW_TEST_ETCD_PROC_H
#define DW_TEST_ETCD_PROC_H

#include <sys/types.h>

struct etcd_proc {
  char dir[512], log[540];
  int client_port, peer_port;
  const char *host; /* that it listens on; NULL: 127.0.0.1 */
  int netns;        /* descriptor of the network namespace that it lives in; 0: this process's own. Then it ends with the thread that
                     * started it, too */
  pid_t pid;
};

/* In dir/etcd; waits until it is healthy. Later starts find the same data and ports. Fails the test if it doesn't come up. */
void etcd_start(struct etcd_proc *, const char *dir);
void etcd_kill9(struct etcd_proc *);
void etcd_pause(struct etcd_proc *, int on); /* SIGSTOP, SIGCONT */

#endif
