/* See store_treap.h. Functions called *_to return a new reference through `out` and only borrow their
 * arguments; node_new takes over the references of both children, also when it fails. Recursion is as deep as
 * the treap, about 2 ln n. */
#include "engine/store_treap.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/hash.h"
#include "wal/base/status.h"

int key_cmp(const void *a, size_t an, const void *b, size_t bn) {
  size_t n = an < bn ? an : bn;
  int c = n ? memcmp(a, b, n) : 0;
  if (c) return c;
  return (an > bn) - (an < bn);
}

static int cmp(const void *key, size_t klen, const struct treap_node *n) {
  return key_cmp(key, klen, n->entry->data, n->entry->klen);
}

/* ---- references ---------------------------------------------------------------------------- */

static void entry_unref(struct treap_entry *e) {
  if (atomic_fetch_sub(&e->refs, 1) == 1) free(e);
}

struct treap_node *treap_ref(struct treap_node *n) {
  if (n) atomic_fetch_add(&n->refs, 1);
  return n;
}

void treap_unref(struct treap_node *n) {
  while (n && atomic_fetch_sub(&n->refs, 1) == 1) {
    struct treap_node *right = n->right;
    treap_unref(n->left);
    entry_unref(n->entry);
    free(n);
    n = right;
  }
}

static int node_new(struct treap_entry *e, struct treap_node *left, struct treap_node *right, struct treap_node **out) {
  struct treap_node *n = malloc(sizeof *n);
  if (!n) {
    treap_unref(left);
    treap_unref(right);
    return dw_fail_nomem(sizeof *n);
  }
  atomic_init(&n->refs, 1);
  atomic_fetch_add(&e->refs, 1);
  n->entry = e;
  n->left = left;
  n->right = right;
  n->count = 1 + treap_count(left) + treap_count(right);
  *out = n;
  return DW_OK;
}

/* ---- changes ------------------------------------------------------------------------------- */

/* Higher priority is nearer to the root; keys break ties, so the shape is unique. */
static bool above(const struct treap_entry *a, const struct treap_entry *b) {
  if (a->priority != b->priority) return a->priority > b->priority;
  return key_cmp(a->data, a->klen, b->data, b->klen) < 0;
}

/* Puts `top`, whose place is above `under`, over it: the rotation of a treap's insert. `child` is the
 * side of `under` that `top` came from. Takes over the reference to top. */
static int rotate_to(struct treap_node *top, const struct treap_node *under, bool left, struct treap_node **out) {
  struct treap_node *low;
  int rc = left ? node_new(under->entry, treap_ref(top->right), treap_ref(under->right), &low)
                : node_new(under->entry, treap_ref(under->left), treap_ref(top->left), &low);
  if (!rc) {
    rc = left ? node_new(top->entry, treap_ref(top->left), low, out)
              : node_new(top->entry, low, treap_ref(top->right), out);
  }
  treap_unref(top);
  return rc;
}

static int put_to(const struct treap_node *n, struct treap_entry *e, struct treap_node **out) {
  if (!n) return node_new(e, NULL, NULL, out);
  int c = cmp(e->data, e->klen, n);
  if (c == 0) return node_new(e, treap_ref(n->left), treap_ref(n->right), out);
  struct treap_node *child;
  int rc = put_to(c < 0 ? n->left : n->right, e, &child);
  if (rc) return rc;
  if (above(child->entry, n->entry)) return rotate_to(child, n, c < 0, out);
  return c < 0 ? node_new(n->entry, child, treap_ref(n->right), out)
               : node_new(n->entry, treap_ref(n->left), child, out);
}

/* Everything in a is before everything in b. */
static int merge_to(struct treap_node *a, struct treap_node *b, struct treap_node **out) {
  if (!a || !b) {
    *out = treap_ref(a ? a : b);
    return DW_OK;
  }
  struct treap_node *child;
  if (above(a->entry, b->entry)) {
    int rc = merge_to(a->right, b, &child);
    return rc ? rc : node_new(a->entry, treap_ref(a->left), child, out);
  }
  int rc = merge_to(a, b->left, &child);
  return rc ? rc : node_new(b->entry, child, treap_ref(b->right), out);
}

/* The key is there. */
static int delete_to(const struct treap_node *n, const void *key, size_t klen, struct treap_node **out) {
  int c = cmp(key, klen, n);
  if (c == 0) return merge_to(n->left, n->right, out);
  struct treap_node *child;
  int rc = delete_to(c < 0 ? n->left : n->right, key, klen, &child);
  if (rc) return rc;
  return c < 0 ? node_new(n->entry, child, treap_ref(n->right), out)
               : node_new(n->entry, treap_ref(n->left), child, out);
}

int treap_put(struct treap_node **root, const void *key, uint32_t klen, const void *val, uint32_t vlen) {
  size_t bytes = sizeof(struct treap_entry) + klen + vlen;
  struct treap_entry *e = malloc(bytes);
  if (!e) return dw_fail_nomem(bytes);
  atomic_init(&e->refs, 1);
  e->klen = klen;
  e->vlen = vlen;
  e->priority = hash64(key, klen);
  if (klen) memcpy(e->data, key, klen);
  if (vlen) memcpy(e->data + klen, val, vlen);
  struct treap_node *changed;
  int rc = put_to(*root, e, &changed);
  entry_unref(e);
  if (rc) return rc;
  treap_unref(*root);
  *root = changed;
  return DW_OK;
}

int treap_delete(struct treap_node **root, const void *key, uint32_t klen) {
  if (!treap_find(*root, key, klen)) return DW_OK;
  struct treap_node *changed;
  int rc = delete_to(*root, key, klen, &changed);
  if (rc) return rc;
  treap_unref(*root);
  *root = changed;
  return DW_OK;
}

/* ---- searches ------------------------------------------------------------------------------ */

const struct treap_node *treap_find(const struct treap_node *n, const void *key, size_t klen) {
  while (n) {
    int c = cmp(key, klen, n);
    if (c == 0) break;
    n = c < 0 ? n->left : n->right;
  }
  return n;
}

const struct treap_node *treap_first(const struct treap_node *n) {
  while (n && n->left) n = n->left;
  return n;
}

const struct treap_node *treap_last(const struct treap_node *n) {
  while (n && n->right) n = n->right;
  return n;
}

const struct treap_node *treap_at_or_after(const struct treap_node *n, const void *key, size_t klen) {
  const struct treap_node *best = NULL;
  while (n) {
    int c = cmp(key, klen, n);
    if (c == 0) return n;
    if (c < 0) best = n;
    n = c < 0 ? n->left : n->right;
  }
  return best;
}

const struct treap_node *treap_after(const struct treap_node *root, const struct treap_node *at) {
  const struct treap_node *best = NULL;
  for (const struct treap_node *n = root; n;) {
    bool before = cmp(at->entry->data, at->entry->klen, n) < 0;
    if (before) best = n;
    n = before ? n->left : n->right;
  }
  return best;
}

const struct treap_node *treap_before(const struct treap_node *root, const void *key, size_t klen) {
  const struct treap_node *best = NULL;
  for (const struct treap_node *n = root; n;) {
    bool after = cmp(key, klen, n) > 0;
    if (after) best = n;
    n = after ? n->right : n->left;
  }
  return best;
}
