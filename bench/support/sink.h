/* Followers that keep nothing: many of them in one process, for what a primary spends on followers. They speak the protocol,
 * take blocks in order, acknowledge them as durable and applied, and forget them. A real follower for each would spend
 * the machine's two cores on replaying. A link may be slow (so many bytes a second are read), or stalled: after the
 * first bytes nothing is read, but the connection stays. */
#ifndef BENCH_SUPPORT_SINK_H
#define BENCH_SUPPORT_SINK_H

#include "bench/support/child.h"

#define SINK_MAX 64

struct sinks {
  struct child child;
  int n;
};
/* n connections to 127.0.0.1:port, the last `stalled` of them stall; bytes_per_s of each other one, 0: as fast as it goes.
 * Returns once all are connected and streaming. */
void sinks_start(struct sinks *, unsigned port, int n, int stalled, double bytes_per_s);
void sinks_stop(struct sinks *);

int sink_main(int fd, char **args); /* the role */
#define SINK_ROLE {"sinks", sink_main}

#endif
