/* The honest baseline for replication: what one builds with RocksDB alone in an afternoon, done well.
 *
 *   primary: writers -> rocksdb_put, its own WAL      follower process
 *            sender thread: get_updates_since ---TCP---> receive what is there, merge it into ONE write batch,
 *            acker thread:  acked sequence  <----------- rocksdb_write (own WAL, synced if asked), acknowledge its end
 *            writers that wait for acks are woken one by one, when theirs is there
 *
 * What is done in its favour: the WAL iterator is kept open and moved on, not reopened; the sender packs all updates that
 * are there into one send, up to 256 KiB, and never waits for acks (pipelining); the follower writes and syncs once
 * for all that has arrived; TCP_NODELAY; writers wake the sender only when they wait for an ack and it sleeps (for others
 * it looks every 300 us). What it lacks is what RocksDB
 * doesn't give: updates are seen after they are synced and in the memtable, not before; nothing is verified, nothing
 * compressed, no history is checked, no follower can fall behind the archived WAL.
 */
#ifndef BENCH_SUPPORT_TAILER_H
#define BENCH_SUPPORT_TAILER_H

#include <pthread.h>
#include <stdatomic.h>

#include "bench/support/bench.h"
#include "bench/support/child.h"
#include "bench/support/rocks.h"

struct tail_waiter;

struct tailer {
  struct rocks rocks;
  struct child follower;
  char dir[BENCH_PATH_BYTES];
  int fd, wake_fd;
  pthread_t sender, acker;
  atomic_bool stop, asleep;
  atomic_uint_fast64_t sent_bytes, reopened; /* reopened: the WAL iterator, see tailer.c */
  pthread_mutex_t mu;
  uint64_t acked;              /* mu */
  struct tail_waiter *waiters; /* mu; by sequence */
  bool lost;                   /* mu; the connection is gone */
};

void tailer_open(struct tailer *, bool sync);
void tailer_close(struct tailer *);
void tailer_put(void *tailer, const struct record *);      /* a put_fn: does not wait */
void tailer_put_acked(void *tailer, const struct record *); /* waits for the follower's ack */
void tailer_drain(struct tailer *);                        /* until the follower has everything */

void tailer_probe_start(struct tailer *); /* probe.h, in the follower */
void tailer_probe_end(struct tailer *, struct histogram *);

int tail_follower_main(int fd, char **args); /* the role */
#define TAIL_FOLLOWER_ROLE {"tail-follower", tail_follower_main}

#endif
