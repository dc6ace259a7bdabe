/* An ordered map whose versions are immutable and share what did not change: a treap with path copying.
 *
 * A version is a pointer to its root (NULL: empty) with a reference count; taking a snapshot is treap_ref. A
 * change copies the nodes on the path from the root to the place (O(log n)) and leaves the old version as it
 * was. Priorities are hashes of the keys, so equal contents have equal shapes whatever the order of writes: no
 * random numbers, and simulations repeat exactly.
 *
 * Different versions may be used, referenced and released by different threads at once.
 */
#ifndef DW_STORE_TREAP_H
#define DW_STORE_TREAP_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* A key and its value; shared by all versions that hold it. */
struct treap_entry {
  atomic_uint refs;
  uint32_t klen, vlen;
  uint64_t priority;
  uint8_t data[]; /* key, value */
};
struct treap_node {
  atomic_uint refs;
  struct treap_entry *entry;
  struct treap_node *left, *right;
  uint64_t count; /* of entries in this subtree */
};

/* Replace *root, a reference that the caller owns, by a reference to the changed version. DW_NO_MEMORY leaves it as
 * it was. Deleting what is not there is DW_OK. */
int treap_put(struct treap_node **root, const void *key, uint32_t klen, const void *val, uint32_t vlen);
int treap_delete(struct treap_node **root, const void *key, uint32_t klen);

struct treap_node *treap_ref(struct treap_node *); /* returns its argument */
void treap_unref(struct treap_node *);
static inline uint64_t treap_count(const struct treap_node *n) { return n ? n->count : 0; }

/* All return NULL if there is no such entry; the node lives as long as the version. */
const struct treap_node *treap_find(const struct treap_node *root, const void *key, size_t klen);
const struct treap_node *treap_first(const struct treap_node *root);
const struct treap_node *treap_last(const struct treap_node *root);
const struct treap_node *treap_at_or_after(const struct treap_node *root, const void *key, size_t klen);
const struct treap_node *treap_after(const struct treap_node *root, const struct treap_node *);
const struct treap_node *treap_before(const struct treap_node *root, const void *key, size_t klen);

/* Bytewise, shorter first: RocksDB's default order. */
int key_cmp(const void *a, size_t an, const void *b, size_t bn);

#endif
