/* A primary that has its role for a time only: a coordinator's lease (replication/failover.h).
 *
 * Whoever is promoted after the lease has ended may have acknowledged writes that this node knows nothing of. The
 * driver demotes it before that; but a process that was stopped, or a machine that slept, wakes up with its lease gone
 * and readers in its sockets. So what must be of now - STRONG and BOUNDED reads here, the answers to followers'
 * probes - looks at the clock itself.
 *
 * Looking once is enough, whenever it is between the question and the answer: while the lease held this node had all
 * that was committed, and it does not forget any of it.
 */
#include "engine/internal.h"

bool engine_lease_holds(dw_engine *e) {
  uint64_t until = atomic_load_explicit(&e->lease_until_ns, memory_order_acquire);
  return until == UINT64_MAX || e->lease_clock() < until;
}

void engine_lease(dw_engine *e, uint64_t (*clock)(void), uint64_t until_ns) {
  pthread_mutex_lock(&e->mu);
  bool held = engine_lease_holds(e);
  if (e->lease_clock != clock) e->lease_clock = clock; /* the first time: nobody reads it before there is an end */
  atomic_store_explicit(&e->lease_until_ns, until_ns, memory_order_release);
  if (!held) pipeline_moved(e);
  pthread_mutex_unlock(&e->mu);
}
