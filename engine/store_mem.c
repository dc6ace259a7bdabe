/* The store in memory, for simulation and tests: the same promises as RocksDB's, on any struct env.
 *
 * The idea: the map is an immutable treap (store_treap.c), so a point in time is a pointer. A write makes a
 * new root beside the old one and publishes it under `mu`; readers and iterators take a reference to the root
 * they find. The marker is an ordinary entry, so it is atomic with the data.
 *
 *   root ------> newest applied          close() and a crash forget it
 *   image file > what the last flush saw  open() starts from it; persisted marker
 *
 * The image, DIR/store.image, is replaced as a whole:
 *
 *   "DWMEMIMG" | version u32 = 1 | reserved u32 = 0 | entries u64 | entry{entries} | XXH3-128 of all before
 *   entry := klen u32 | vlen u32 | key | value          keys strictly ascending
 *
 * As RocksDB does, the store flushes by itself once about memtable_bytes are unflushed, and a flush that fails
 * is a background error: no more writes until it is reopened.
 *
 * Locks: `flush_mu` (one flush at a time, so the persisted marker never moves back), then `mu` (everything
 * under it in struct mem). The writer computes its new root without a lock: nobody else changes root. */
#include "engine/store.h"

#include <assert.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/store_treap.h"
#include "wal/base/bytes.h"
#include "wal/base/env.h"
#include "wal/base/hash.h"
#include "wal/base/status.h"

#define IMAGE_NAME "store.image"
#define IMAGE_MAGIC "DWMEMIMG"
#define IMAGE_VERSION 1u
#define IMAGE_HEADER_BYTES 24u
#define IMAGE_HASH_BYTES 16u
#define LOCK_NAME "store.lock"

struct mem {
  struct store base;
  struct env *env;
  struct env_file *lock; /* NULL: read-only */
  bool read_only;
  uint64_t memtable_bytes;
  pthread_mutex_t flush_mu;
  pthread_mutex_t mu;       /* guards the rest */
  struct treap_node *root;  /* NULL: empty */
  struct wal_pos persisted; /* marker in the image file */
  uint64_t unflushed_bytes;
  uint64_t image_bytes;
  int failed; /* of a flush */
  char dir[PATH_MAX];
};

struct mem_iter {
  struct store_iter base;
  struct treap_node *root;      /* referenced: the point in time */
  const struct treap_node *cur; /* within root; NULL: invalid */
  uint8_t ns;
  int failed;
};

static const struct store_ops mem_ops;

static struct mem *mem_of(struct store *s) {
  return (struct mem *)s;
}
static struct mem_iter *iter_of(struct store_iter *it) {
  return (struct mem_iter *)it;
}
static const struct mem_iter *iter_of_const(const struct store_iter *it) {
  return (const struct mem_iter *)it;
}

static int fail_read_only(const struct mem *m, const char *what) {
  return dw_fail(DW_READ_ONLY, "%s: %s on a store that is open read-only", m->dir, what);
}

static struct treap_node *snapshot(struct mem *m) {
  pthread_mutex_lock(&m->mu);
  struct treap_node *root = treap_ref(m->root);
  pthread_mutex_unlock(&m->mu);
  return root;
}

static int marker_in(const struct treap_node *root, struct wal_pos *pos) {
  const struct treap_node *n = treap_find(root, STORE_MARKER_KEY, STORE_MARKER_KEY_BYTES);
  if (!n) {
    memset(pos, 0, sizeof *pos);
    return DW_OK;
  }
  return store_marker_decode(n->entry->data + n->entry->klen, n->entry->vlen, pos);
}

/* ---- image --------------------------------------------------------------------------------- */

static int image_encode(const struct treap_node *root, struct buf *b) {
  uint64_t entries = 0;
  size_t total = IMAGE_HEADER_BYTES + IMAGE_HASH_BYTES;
  for (const struct treap_node *n = treap_first(root); n; n = treap_after(root, n)) {
    entries++;
    total += 8 + (size_t)n->entry->klen + n->entry->vlen;
  }
  int rc = buf_reserve(b, total);
  if (rc) return rc;
  uint8_t *p = b->data;
  memcpy(p, IMAGE_MAGIC, 8);
  put_u32(p + 8, IMAGE_VERSION);
  put_u32(p + 12, 0);
  put_u64(p + 16, entries);
  p += IMAGE_HEADER_BYTES;
  for (const struct treap_node *n = treap_first(root); n; n = treap_after(root, n)) {
    size_t bytes = (size_t)n->entry->klen + n->entry->vlen;
    put_u32(p, n->entry->klen);
    put_u32(p + 4, n->entry->vlen);
    memcpy(p + 8, n->entry->data, bytes);
    p += 8 + bytes;
  }
  struct hash128 h = hash128(b->data, total - IMAGE_HASH_BYTES);
  memcpy(p, h.b, IMAGE_HASH_BYTES);
  b->len = total;
  return DW_OK;
}

static int image_decode(const char *path, const uint8_t *p, size_t n, struct treap_node **out) {
  if (n < IMAGE_HEADER_BYTES + IMAGE_HASH_BYTES || memcmp(p, IMAGE_MAGIC, 8) != 0) {
    return dw_fail(DW_CORRUPT, "%s: not a store image", path);
  }
  size_t end = n - IMAGE_HASH_BYTES;
  struct hash128 h = hash128(p, end);
  if (memcmp(h.b, p + end, IMAGE_HASH_BYTES) != 0) return dw_fail(DW_CORRUPT, "%s: checksum mismatch", path);
  if (get_u32(p + 8) != IMAGE_VERSION) return dw_fail(DW_UNSUPPORTED, "%s: version %u", path, get_u32(p + 8));

  struct treap_node *root = NULL;
  const uint8_t *last = NULL;
  uint32_t last_len = 0;
  size_t off = IMAGE_HEADER_BYTES;
  int rc = DW_OK;
  for (uint64_t i = 0; i < get_u64(p + 16) && !rc; i++) {
    if (end - off < 8) goto corrupt;
    uint32_t klen = get_u32(p + off), vlen = get_u32(p + off + 4);
    const uint8_t *key = p + off + 8;
    if (end - off - 8 < (uint64_t)klen + vlen) goto corrupt;
    if (last && key_cmp(last, last_len, key, klen) >= 0) goto corrupt;
    rc = treap_put(&root, key, klen, key + klen, vlen);
    off += 8 + (size_t)klen + vlen;
    last = key;
    last_len = klen;
  }
  if (!rc && off != end) goto corrupt;
  if (rc) {
    treap_unref(root);
    return rc;
  }
  *out = root;
  return DW_OK;
corrupt:
  treap_unref(root);
  return dw_fail(DW_CORRUPT, "%s: bad entry at offset %zu", path, off);
}

static int image_write(struct env *env, const char *dir, const struct treap_node *root, uint64_t *bytes) {
  struct buf b = {0};
  int rc = image_encode(root, &b);
  if (!rc) rc = env_write_file_atomic(env, dir, IMAGE_NAME, b.data, b.len);
  if (!rc) *bytes = b.len;
  buf_free(&b);
  return rc;
}

/* ---- open and close ------------------------------------------------------------------------ */

static int mem_path(const struct mem *m, const char *name, char *out, size_t cap) {
  int n = snprintf(out, cap, "%s/%s", m->dir, name);
  return n < 0 || (size_t)n >= cap ? dw_fail(DW_INVALID, "%s: path too long", m->dir) : DW_OK;
}

/* A new store gets an empty image at once: a store that was opened exists. */
static int load(struct mem *m, bool may_create) {
  char path[PATH_MAX + 16];
  int rc = mem_path(m, IMAGE_NAME, path, sizeof path);
  bool there = false;
  if (!rc) rc = m->env->ops->exists(m->env, path, &there);
  if (rc) return rc;
  if (!there) {
    if (!may_create) return dw_fail(DW_NOT_FOUND, "%s: no store there", m->dir);
    return image_write(m->env, m->dir, NULL, &m->image_bytes);
  }
  /* A process that died between rename and sync left a name that a power cut would take back. */
  if (!m->read_only && (rc = m->env->ops->sync_dir(m->env, m->dir))) return rc;
  uint8_t *data = NULL;
  size_t n = 0;
  if ((rc = env_read_file(m->env, path, SIZE_MAX / 2, &data, &n))) return rc;
  rc = image_decode(path, data, n, &m->root);
  free(data);
  if (!rc && (rc = marker_in(m->root, &m->persisted))) dw_fail_prefix(rc, "%s", path);
  m->image_bytes = n;
  return rc;
}

static void mem_close(struct store *s) {
  if (!s) return;
  struct mem *m = mem_of(s);
  treap_unref(m->root);
  if (m->lock) m->env->ops->unlock(m->lock);
  pthread_mutex_destroy(&m->mu);
  pthread_mutex_destroy(&m->flush_mu);
  free(m);
}

static int mem_open(const char *dir, const struct store_options *opt, struct store **out) {
  assert(opt->env);
  if (strlen(dir) >= PATH_MAX) return dw_fail(DW_INVALID, "%s: path too long", dir);
  struct mem *m = calloc(1, sizeof *m);
  if (!m) return dw_fail_nomem(sizeof *m);
  m->base.ops = &mem_ops;
  m->env = opt->env;
  m->read_only = opt->read_only;
  m->memtable_bytes = opt->memtable_bytes;
  strcpy(m->dir, dir);
  pthread_mutex_init(&m->mu, NULL);
  pthread_mutex_init(&m->flush_mu, NULL);

  bool may_create = !opt->must_exist && !opt->read_only;
  bool there = false;
  int rc = m->env->ops->exists(m->env, dir, &there);
  if (!rc && !there && !may_create) rc = dw_fail(DW_NOT_FOUND, "%s: no store there", dir);
  if (!rc && !there) rc = m->env->ops->mkdir(m->env, dir);
  if (!rc && !opt->read_only) {
    char path[PATH_MAX + 16];
    rc = mem_path(m, LOCK_NAME, path, sizeof path);
    if (!rc) rc = m->env->ops->lock(m->env, path, &m->lock);
  }
  if (!rc) rc = load(m, may_create);
  if (rc) {
    mem_close(&m->base);
    return rc;
  }
  *out = &m->base;
  return DW_OK;
}

/* ---- flush and checkpoint ------------------------------------------------------------------ */

/* With `copy_dir` the same image also goes there. */
static int flush_to(struct mem *m, const char *copy_dir) {
  pthread_mutex_lock(&m->flush_mu);
  pthread_mutex_lock(&m->mu);
  struct treap_node *root = treap_ref(m->root);
  uint64_t flushing = m->unflushed_bytes;
  int rc = m->failed ? dw_fail(m->failed, "%s: an earlier flush failed: reopen the store", m->dir) : DW_OK;
  pthread_mutex_unlock(&m->mu);
  if (rc) goto out;

  struct wal_pos pos;
  uint64_t bytes = 0;
  rc = marker_in(root, &pos);
  if (!rc) rc = image_write(m->env, m->dir, root, &bytes);
  pthread_mutex_lock(&m->mu);
  if (rc) {
    m->failed = rc;
  } else {
    m->persisted = pos;
    m->image_bytes = bytes;
    m->unflushed_bytes -= flushing;
  }
  pthread_mutex_unlock(&m->mu);
  if (!rc && copy_dir) rc = image_write(m->env, copy_dir, root, &bytes);
out:
  treap_unref(root);
  pthread_mutex_unlock(&m->flush_mu);
  return rc;
}

static int mem_flush(struct store *s, bool wait) {
  (void)wait; /* quick enough to be done at once */
  struct mem *m = mem_of(s);
  if (m->read_only) return fail_read_only(m, "flush");
  return flush_to(m, NULL);
}

static int mem_checkpoint(struct store *s, const char *dir) {
  struct mem *m = mem_of(s);
  if (m->read_only) return fail_read_only(m, "checkpoint");
  bool there = false;
  int rc = m->env->ops->exists(m->env, dir, &there);
  if (!rc && there) rc = dw_fail(DW_INVALID, "%s: there is something already", dir);
  if (!rc) {
    rc = m->env->ops->mkdir(m->env, dir);
    if (!rc && (rc = flush_to(m, dir))) {
      char msg[512]; /* the reason, not what cleaning up may say */
      dw_error_copy(msg, sizeof msg);
      (void)env_remove_tree(m->env, dir);
      dw_fail(rc, "%s", msg);
    }
  }
  return rc ? dw_fail_prefix(rc, "%s: checkpoint to %s", m->dir, dir) : DW_OK;
}

/* ---- write and read ------------------------------------------------------------------------ */

static int apply_op(struct treap_node **root, const struct wal_op *op) {
  if (op->type == OP_PUT) return treap_put(root, op->key, op->klen, op->val, op->vlen);
  return treap_delete(root, op->key, op->klen);
}

static int apply_body(struct treap_node **root, const struct store_body *body) {
  size_t off = 0;
  struct wal_op op;
  int rc;
  while ((rc = body_next_op(body->data, body->n, &off, &op)) == DW_OK) {
    if ((rc = apply_op(root, &op))) return rc;
  }
  return rc == DW_NOT_FOUND ? DW_OK : rc;
}

static int mem_write(struct store *s, const struct store_body *bodies, size_t n, const struct wal_op *system,
                     size_t n_system, const struct wal_pos *pos) {
  struct mem *m = mem_of(s);
  if (m->read_only) return fail_read_only(m, "write");
  int rc = store_check_system_ops(system, n_system);
  if (rc) return rc;
  pthread_mutex_lock(&m->mu);
  struct treap_node *root = treap_ref(m->root);
  int failed = m->failed;
  pthread_mutex_unlock(&m->mu);
  if (failed) rc = dw_fail(failed, "%s: a flush failed: reopen the store", m->dir);

  uint64_t bytes = STORE_MARKER_BYTES;
  for (size_t i = 0; i < n && !rc; i++) {
    rc = apply_body(&root, &bodies[i]);
    bytes += bodies[i].n;
  }
  for (size_t i = 0; i < n_system && !rc; i++) rc = apply_op(&root, &system[i]);
  uint8_t marker[STORE_MARKER_BYTES];
  store_marker_encode(pos, marker);
  if (!rc) rc = treap_put(&root, STORE_MARKER_KEY, STORE_MARKER_KEY_BYTES, marker, sizeof marker);
  if (rc) {
    treap_unref(root);
    return rc;
  }

  pthread_mutex_lock(&m->mu);
  struct treap_node *old = m->root;
  m->root = root;
  m->unflushed_bytes += bytes;
  bool full = m->memtable_bytes && m->unflushed_bytes >= m->memtable_bytes;
  pthread_mutex_unlock(&m->mu);
  treap_unref(old);
  if (full) (void)flush_to(m, NULL); /* this write is done: a failure is the next one's, as a background error */
  return DW_OK;
}

static int mem_get(struct store *s, const void *key, size_t klen, char **val, size_t *vlen) {
  struct mem *m = mem_of(s);
  struct treap_node *root = snapshot(m);
  const struct treap_node *n = treap_find(root, key, klen);
  int rc = DW_NOT_FOUND;
  if (n) {
    size_t size = n->entry->vlen;
    char *copy = malloc(size ? size : 1);
    if (copy) {
      if (size) memcpy(copy, n->entry->data + n->entry->klen, size);
      *val = copy;
      *vlen = size;
      rc = DW_OK;
    } else {
      rc = dw_fail_nomem(size);
    }
  }
  treap_unref(root);
  return rc;
}

static void mem_free_value(char *val) {
  free(val);
}

static int mem_marker(struct store *s, bool persisted, struct wal_pos *pos) {
  struct mem *m = mem_of(s);
  if (persisted) {
    pthread_mutex_lock(&m->mu);
    *pos = m->persisted;
    pthread_mutex_unlock(&m->mu);
    return DW_OK;
  }
  struct treap_node *root = snapshot(m);
  int rc = marker_in(root, pos);
  treap_unref(root);
  return rc;
}

static void mem_health(struct store *s, struct store_health *h) {
  struct mem *m = mem_of(s);
  memset(h, 0, sizeof *h);
  pthread_mutex_lock(&m->mu);
  h->background_errors = m->failed != DW_OK;
  h->memtable_bytes = m->unflushed_bytes;
  h->sst_bytes = m->image_bytes;
  h->approximate_keys = treap_count(m->root);
  pthread_mutex_unlock(&m->mu);
}

/* ---- iterators ----------------------------------------------------------------------------- */

static int mem_iter_create(struct store *s, uint8_t ns, struct store_iter **out) {
  struct mem_iter *it = calloc(1, sizeof *it);
  if (!it) return dw_fail_nomem(sizeof *it);
  it->base.ops = &mem_ops;
  it->root = snapshot(mem_of(s));
  it->ns = ns;
  *out = &it->base;
  return DW_OK;
}

static void mem_iter_destroy(struct store_iter *base) {
  if (!base) return;
  treap_unref(iter_of(base)->root);
  free(base);
}

/* Keeps the position only within the namespace. */
static void settle(struct mem_iter *it, const struct treap_node *n) {
  it->cur = n && n->entry->klen && n->entry->data[0] == it->ns ? n : NULL;
}

static void mem_iter_seek(struct store_iter *base, const void *key, size_t klen) {
  struct mem_iter *it = iter_of(base);
  it->cur = NULL;
  it->failed = DW_OK;
  uint8_t *full = malloc(klen + 1);
  if (!full) {
    it->failed = DW_NO_MEMORY;
    return;
  }
  full[0] = it->ns;
  if (klen) memcpy(full + 1, key, klen);
  settle(it, treap_at_or_after(it->root, full, klen + 1));
  free(full);
}

static void mem_iter_first(struct store_iter *base) {
  mem_iter_seek(base, NULL, 0);
}

static void mem_iter_last(struct store_iter *base) {
  struct mem_iter *it = iter_of(base);
  it->failed = DW_OK;
  uint8_t end = (uint8_t)(it->ns + 1);
  settle(it, it->ns < UINT8_MAX ? treap_before(it->root, &end, 1) : treap_last(it->root));
}

static void mem_iter_next(struct store_iter *base) {
  struct mem_iter *it = iter_of(base);
  if (it->cur) settle(it, treap_after(it->root, it->cur));
}

static void mem_iter_prev(struct store_iter *base) {
  struct mem_iter *it = iter_of(base);
  if (it->cur) settle(it, treap_before(it->root, it->cur->entry->data, it->cur->entry->klen));
}

static bool mem_iter_valid(const struct store_iter *base) {
  return iter_of_const(base)->cur != NULL;
}

static const char *mem_iter_key(const struct store_iter *base, size_t *n) {
  const struct treap_entry *e = iter_of_const(base)->cur->entry;
  *n = e->klen - 1;
  return (const char *)e->data + 1;
}

static const char *mem_iter_value(const struct store_iter *base, size_t *n) {
  const struct treap_entry *e = iter_of_const(base)->cur->entry;
  *n = e->vlen;
  return (const char *)e->data + e->klen;
}

static int mem_iter_status(const struct store_iter *base) {
  int failed = iter_of_const(base)->failed;
  return failed ? dw_fail(failed, "the iterator stopped: out of memory for a seek") : DW_OK;
}

static const struct store_ops mem_ops = {
    .name = "mem",
    .open = mem_open,
    .close = mem_close,
    .write = mem_write,
    .get = mem_get,
    .free_value = mem_free_value,
    .marker = mem_marker,
    .flush = mem_flush,
    .checkpoint = mem_checkpoint,
    .health = mem_health,
    .iter_create = mem_iter_create,
    .iter_destroy = mem_iter_destroy,
    .iter_seek = mem_iter_seek,
    .iter_first = mem_iter_first,
    .iter_last = mem_iter_last,
    .iter_next = mem_iter_next,
    .iter_prev = mem_iter_prev,
    .iter_valid = mem_iter_valid,
    .iter_key = mem_iter_key,
    .iter_value = mem_iter_value,
    .iter_status = mem_iter_status,
};

const struct store_ops *store_mem(void) {
  return &mem_ops;
}
