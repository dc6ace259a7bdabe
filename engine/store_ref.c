/* The counted store handle: readers and iterators keep the store that they started on while a bootstrap swaps in
 * another. */
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

struct store_ref *store_ref_get(dw_engine *e) {
  pthread_rwlock_rdlock(&e->store_lock);
  struct store_ref *ref = e->store;
  atomic_fetch_add_explicit(&ref->refs, 1, memory_order_relaxed);
  pthread_rwlock_unlock(&e->store_lock);
  return ref;
}

void store_ref_put(struct store_ref *ref) {
  if (!ref || atomic_fetch_sub_explicit(&ref->refs, 1, memory_order_acq_rel) != 1) return;
  ref->store->ops->close(ref->store);
  if (ref->doomed_dir) (void)env_remove_tree(ref->env, ref->doomed_dir); /* else removed at the next open */
  free(ref->doomed_dir);
  free(ref);
}
