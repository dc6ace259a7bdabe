/* A primary in this process and followers in processes of their own, over loopback TCP.
 *
 * The follower's process opens the engine as dabbawal-follower does. It knows a few words on its line: see cluster.c. */
#ifndef BENCH_SUPPORT_CLUSTER_H
#define BENCH_SUPPORT_CLUSTER_H

#include "bench/support/child.h"
#include "bench/support/load.h"

#define CLUSTER_MAX_FOLLOWERS 64

struct cluster {
  char dir[BENCH_PATH_BYTES];
  dw_engine *primary;
  uint16_t port;
  int n;
  struct child follower[CLUSTER_MAX_FOLLOWERS];
  uint64_t follower_memtable; /* 0: the default */
};

/* Primary in a fresh directory with these options (NULL: the benches' defaults), n followers; returns once all stream. */
void cluster_open(struct cluster *, int n, const dw_options *);
void cluster_close(struct cluster *);

void cluster_stop_follower(struct cluster *, int i);
void cluster_start_follower(struct cluster *, int i); /* on the directory that it had */

/* Until n followers are connected and have applied (with `streaming`: are at the live tail, too). Dies after two
 * minutes of no progress. */
void cluster_await(dw_engine *primary, int n, dw_lsn applied, bool streaming);
dw_lsn cluster_written(dw_engine *);
uint64_t cluster_sent_bytes(dw_engine *); /* to all followers */

/* Starts and ends the prober (probe.h) in follower i. */
void cluster_probe_start(struct cluster *, int i);
void cluster_probe_end(struct cluster *, int i, struct histogram *);

int follower_main(int fd, char **args); /* the role */
#define FOLLOWER_ROLE {"follower", follower_main}

/* For roles of a program's own that follow, too: "DIR PORT MEMTABLE" as child_start was given. */
dw_engine *follower_open(char **args);

#endif
