/* The counted store handle: readers and iterators keep the store that they started on while a bootstrap swaps in
 * another.
 *
 * An iterator holds a reference. A get holds none: a counter, or a lock, that all readers share goes from core to core
 * with every read. It counts itself in and out of a slot that is (nearly) its thread's own, and looks whether the store
 * is changing; who changes it raises that flag first and looks at the slots then:
 *
 *   get       slot += 1;  changing? ...      both sides write, then read what the other one writes, in one order
 *   replace   changing = true;  slot == 0?   for all (seq_cst): at least one of them sees the other
 *
 * So either the get sees the flag, steps back and waits at store_mu, or the change waits for that get.
 */
#include <sched.h>
#include <stdlib.h>

#include "engine/internal.h"
#include "wal/base/status.h"

struct store_ref *store_ref_create(struct env *env, struct store *store) {
  struct store_ref *ref = malloc(sizeof *ref);
  if (!ref) {
    dw_fail_nomem(sizeof *ref);
    return NULL;
  }
  *ref = (struct store_ref){.store = store, .env = env};
  atomic_init(&ref->refs, 1);
  return ref;
}

static unsigned slot_of_thread(void) {
  static atomic_uint threads;
  static _Thread_local unsigned mine; /* plus 1 */
  if (!mine) mine = atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed) % READER_SLOTS + 1;
  return mine - 1;
}

struct store *store_enter(dw_engine *e, unsigned *ticket) {
  *ticket = slot_of_thread();
  for (;;) {
    atomic_fetch_add(&e->readers[*ticket].inside, 1);
    if (!atomic_load(&e->store_changing)) return e->store->store;
    store_leave(e, *ticket);
    pthread_mutex_lock(&e->store_mu);
    pthread_mutex_unlock(&e->store_mu);
  }
}

void store_leave(dw_engine *e, unsigned ticket) {
  atomic_fetch_sub_explicit(&e->readers[ticket].inside, 1, memory_order_release);
}

struct store_ref *store_replace(dw_engine *e, struct store_ref *by) {
  pthread_mutex_lock(&e->store_mu);
  atomic_store(&e->store_changing, true);
  for (unsigned i = 0; i < READER_SLOTS; i++)
    while (atomic_load(&e->readers[i].inside)) sched_yield(); /* a get takes microseconds, with the disk milliseconds */
  struct store_ref *old = e->store;
  e->store = by;
  atomic_store(&e->store_changing, false);
  pthread_mutex_unlock(&e->store_mu);
  return old;
}

struct store_ref *store_ref_get(dw_engine *e) {
  unsigned ticket;
  (void)store_enter(e, &ticket);
  struct store_ref *ref = e->store;
  atomic_fetch_add_explicit(&ref->refs, 1, memory_order_relaxed);
  store_leave(e, ticket);
  return ref;
}

void store_ref_put(struct store_ref *ref) {
  if (!ref || atomic_fetch_sub_explicit(&ref->refs, 1, memory_order_acq_rel) != 1) return;
  ref->store->ops->close(ref->store);
  if (ref->doomed_dir) (void)env_remove_tree(ref->env, ref->doomed_dir); /* else removed at the next open */
  free(ref->doomed_dir);
  free(ref);
}
