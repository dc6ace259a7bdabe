/* What was written: every block that a primary ever tried to write, as a tree of histories.
 *
 *   genesis -- b1 -- b2 -- b3 -- b4         a path from the root is one history; its end is named by its chain hash
 *                     \
 *                      b3' -- b4'           after a loss that is allowed, LSNs are used again in another epoch
 *
 * The tree grows from the bytes that a primary hands to its disk, not from what it says. A follower may only write
 * blocks that are in the tree, byte for byte, each behind its parent: so all logs agree wherever they overlap. Each
 * block carries the state of all keys after it. What a node's disk holds, and what of it is synced, is known from the
 * disk
 * (`tail`, `durable` of struct sim_node), independently of the node's own marks.
 */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/bytes.h"
#include "wal/base/hash.h"
#include "wal/wal.h"

#define HASH_SIZE 4096u

/* ---- the tree -------------------------------------------------------------------------------- */

void model_init(struct world *w) {
  w->rec_hash = calloc(HASH_SIZE, sizeof *w->rec_hash);
  w->req_hash = calloc(HASH_SIZE, sizeof *w->req_hash);
  w->values_n = 1; /* 0: no value */
  w->values_cap = 256;
  w->values = calloc(w->values_cap, sizeof *w->values);
}

void model_free(struct world *w) {
  while (w->recs) {
    struct rec *r = w->recs;
    w->recs = r->all_next;
    free(r->who);
    free(r);
  }
  while (w->reqs) {
    struct wreq *q = w->reqs;
    w->reqs = q->next;
    free(q);
  }
  free(w->rec_hash);
  free(w->req_hash);
  free(w->values);
  free(w->history);
  free(w->branch_fork);
  free(w->begun);
}

static unsigned slot_of(const struct hash128 *h) {
  return (unsigned)(get_u64(h->b) % HASH_SIZE);
}

struct rec *model_find(const struct world *w, const struct hash128 *chain) {
  for (struct rec *r = w->rec_hash[slot_of(chain)]; r; r = r->hash_next)
    if (hash128_eq(&r->chain, chain)) return r;
  return NULL;
}

static struct rec *add(struct world *w, const struct hash128 *chain, struct rec *parent) {
  struct rec *r = calloc(1, sizeof *r);
  r->chain = *chain;
  r->parent = parent;
  r->hash_next = w->rec_hash[slot_of(chain)];
  w->rec_hash[slot_of(chain)] = r;
  r->all_next = w->recs;
  w->recs = r;
  if (parent && !parent->child) {
    r->branch = parent->branch;
  } else {
    if (w->branches == w->branch_cap) {
      w->branch_cap = w->branch_cap ? 2 * w->branch_cap : 16;
      w->branch_fork = realloc(w->branch_fork, w->branch_cap * sizeof *w->branch_fork);
    }
    w->branch_fork[w->branches] = parent;
    r->branch = w->branches++;
  }
  if (parent) {
    r->sibling = parent->child;
    parent->child = r;
    r->depth = parent->depth + 1;
    memcpy(r->state, parent->state, sizeof r->state);
  }
  return r;
}

bool model_before(const struct world *w, const struct rec *a, const struct rec *b) {
  while (b && b->branch != a->branch && b->depth > a->depth) b = w->branch_fork[b->branch];
  return b && b->branch == a->branch && b->depth >= a->depth;
}

struct rec *model_common(const struct world *w, struct rec *a, struct rec *b) {
  while (a && !model_before(w, a, b)) a = a->parent;
  return a;
}

void model_mark(struct rec *r, size_t offset_of_mask, int node) {
  for (; r; r = r->parent) {
    uint16_t *mask = (uint16_t *)((char *)r + offset_of_mask);
    if (*mask & (1u << node)) return;
    *mask = (uint16_t)(*mask | (1u << node));
  }
}

void model_holds(struct rec *r, int node) {
  model_mark(r, offsetof(struct rec, written), node);
  model_mark(r, offsetof(struct rec, kept), node);
}

void model_lets_go(struct world *w, struct rec *tail, const struct rec *upto, int node) {
  for (struct rec *r = tail; r && !(upto && model_before(w, r, upto)); r = r->parent)
    r->kept = (uint16_t)(r->kept & ~(1u << node));
}

void model_lost_unsynced(struct sim_node *n) {
  model_lets_go(n->w, n->tail, n->durable, n->idx);
  n->tail = n->durable;
  n->replaced_ns = n->w->now;
}

/* ---- requests and values --------------------------------------------------------------------- */

uint32_t model_value_new(struct world *w, uint32_t bytes) {
  if (w->values_n == w->values_cap) {
    w->values_cap *= 2;
    w->values = realloc(w->values, w->values_cap * sizeof *w->values);
  }
  w->values[w->values_n] = (struct sim_value){bytes, (uint32_t)rng_next(&w->r_work)};
  return w->values_n++;
}

/* A value says who it is as often as it can; half of it compresses. */
void model_value_bytes(const struct world *w, uint32_t value, uint8_t *out) {
  const struct sim_value *v = &w->values[value];
  uint64_t x = (uint64_t)v->salt << 32 | value;
  for (uint32_t i = 0; i < v->bytes; i += 8) {
    uint8_t word[8];
    put_u64(word, i % 16 ? x : mix64(x + i));
    memcpy(out + i, word, v->bytes - i < 8 ? v->bytes - i : 8);
  }
}

static void hash_bytes(uint64_t *h, const void *p, size_t n) {
  *h = mix64(*h ^ hash64(p, n));
}

/* Equal operations in equal order have equal hashes, whether they come from a request or from a block. */
static void hash_op(uint64_t *h, bool put, const void *key, size_t klen, const void *val, size_t vlen) {
  hash_bytes(h, key, klen);
  *h = mix64(*h + put);
  if (put) hash_bytes(h, val, vlen);
}

void model_request(struct world *w, struct wreq *q) {
  q->body_hash = q->ops;
  for (unsigned i = 0; i < q->ops; i++) {
    char key[8];
    int klen = snprintf(key, sizeof key, "\001k%02u", q->op[i].key);
    uint32_t n = w->values[q->op[i].value].bytes;
    uint8_t *val = malloc(n + 1);
    if (q->op[i].value) model_value_bytes(w, q->op[i].value, val);
    hash_op(&q->body_hash, q->op[i].value != 0, key, (size_t)klen, val, n);
    q->has_put |= q->op[i].value && n >= 8; /* no other request looks the same */
    free(val);
  }
  q->next = w->reqs;
  w->reqs = q;
  q->hash_next = w->req_hash[q->body_hash % HASH_SIZE];
  w->req_hash[q->body_hash % HASH_SIZE] = q;
}

static struct wreq *who_wrote(const struct world *w, const struct wal_commit *c) {
  uint64_t h = c->op_count;
  size_t off = 0;
  struct wal_op op;
  while (body_next_op(c->body, c->body_bytes, &off, &op) == DW_OK)
    hash_op(&h, op.type == OP_PUT, op.key, op.klen, op.val, op.vlen);
  for (struct wreq *q = w->req_hash[h % HASH_SIZE]; q; q = q->hash_next)
    if (q->body_hash == h) return q;
  return NULL;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static void decode(struct sim_node *n, struct rec *r, struct wal_block *b) {
  struct world *w = n->w;
  struct buf scratch = {0};
  const uint8_t *raw;
  size_t bytes, off = 0;
  if (wal_block_raw(b, &scratch, &raw, &bytes))
    world_violation(w, n, "block", "a block that can't be unpacked is written");
  r->who = calloc(r->commits, sizeof *r->who);
  for (uint32_t i = 0; i < r->commits; i++) {
    struct wal_commit c;
    if (payload_next_commit(raw, bytes, &off, &c))
      world_violation(w, n, "block", "it holds fewer commits than it says");
    struct wreq *q = who_wrote(w, &c);
    if (!q)
      world_violation(w, n, "atomicity", "the commit of LSN %llu is nothing that a writer asked for",
                      (unsigned long long)r->first_lsn + i);
    r->who[i] = q;
    q->rec = r;
    for (unsigned k = 0; k < q->ops; k++) r->state[q->op[k].key] = q->op[k].value;
  }
  if (off != bytes) world_violation(w, n, "block", "it holds more than its commits");
  buf_free(&scratch);
}

/* The node is about to write this block behind `parent`. */
static struct rec *meet(struct sim_node *n, const uint8_t *bytes, size_t room, struct rec *parent) {
  struct world *w = n->w;
  struct block_header h;
  if (room < WAL_BLOCK_HEADER_BYTES || block_header_decode(bytes, &h) || block_total_bytes(&h) > room)
    world_violation(w, n, "block", "a block that is not valid is written");
  struct rec *r = model_find(w, &h.chain);
  uint64_t hash = hash64(bytes, block_total_bytes(&h));
  if (r) {
    if (r->bytes_hash != hash || r->parent != parent)
      world_violation(w, n, "same history", "block of LSN %llu: %s", (unsigned long long)h.first_lsn,
                      r->parent != parent ? "it stands behind another one than where it was made"
                                          : "other bytes under the same chain hash");
    return r;
  }
  if (!parent) world_violation(w, n, "same history", "LSN %llu stands behind nothing", (unsigned long long)h.first_lsn);
  const struct begun *begun = h.kind == BLOCK_EPOCH ? NULL : epochs_find(w, h.epoch);
  if (h.kind == BLOCK_COMMITS && (!begun || begun->node != n->idx))
    world_violation(w, n, "same history", "it writes LSN %llu of epoch %llu, which is not its own and nobody ever made",
                    (unsigned long long)h.first_lsn, (unsigned long long)h.epoch);
  if (!block_chain_ok(bytes, &parent->chain) || h.first_lsn != parent->last_lsn + 1)
    world_violation(w, n, "same history", "block of LSN %llu does not follow LSN %llu", (unsigned long long)h.first_lsn,
                    (unsigned long long)parent->last_lsn);
  r = add(w, &h.chain, parent);
  r->bytes_hash = hash;
  r->first_lsn = h.first_lsn;
  r->last_lsn = block_last_lsn(&h);
  r->epoch = h.epoch;
  r->commits = h.commit_count;
  r->need = h.need;
  r->life = node_life(n);
  if (h.epoch < parent->epoch)
    world_violation(w, n, "epoch", "it goes back at LSN %llu", (unsigned long long)h.first_lsn);
  for (const struct rec *s = r->sibling; s; s = s->sibling)
    if (s->commits && r->commits && s->epoch == r->epoch && s->written)
      world_violation(w, n, "an LSN is used once", "LSN %llu of epoch %llu is written again, with another block",
                      (unsigned long long)r->first_lsn, (unsigned long long)r->epoch);
  w->st.blocks++;
  if (h.kind == BLOCK_EPOCH) {
    struct epoch_record e;
    if (epoch_record_decode(bytes + WAL_BLOCK_HEADER_BYTES, h.stored_bytes, &e) || e.epoch != h.epoch ||
        e.node_id != (uint64_t)n->idx + 1)
      world_violation(w, n, "block", "an epoch record that is not valid is written");
    epochs_begun(w, n, r, e.reason);
  }
  if (h.kind == BLOCK_COMMITS) {
    struct wal_block *b;
    if (wal_block_parse(bytes, block_total_bytes(&h), &b))
      world_violation(w, n, "block", "a block that is not valid is written");
    decode(n, r, b);
    wal_block_unref(b);
  }
  return r;
}

/* ---- files ----------------------------------------------------------------------------------- */

struct frame_at {
  uint64_t off;
  struct rec *rec;
};

/* What a log file was made to hold. After a crash the end may be a fiction; the next frame that is written puts it
 * right. */
struct log_file {
  struct rec *base;
  struct frame_at *frames; /* the first `written` were, the others may be there */
  size_t n, written, cap;
  uint64_t end, commits_end, synced_end,
      marked; /* commits_end: of the last block with an LSN of its own; synced_end: of
                 the last such that is synced; marked: of the last that a mark tells */
};

static struct log_file *file_of(struct inode *i) {
  void **slot = inode_slot(i);
  if (!*slot) *slot = calloc(1, sizeof(struct log_file));
  return *slot;
}

void model_gone(void *ctx, struct inode *i) {
  struct log_file *f = *inode_slot(i);
  (void)ctx;
  free(f->frames);
  free(f);
}

void model_mark_held(struct inode *i, uint32_t stamp) {
  const struct log_file *f = *inode_slot(i);
  for (size_t k = 0; f && k < f->n; k++) f->frames[k].rec->held = stamp;
}

static struct rec *file_tail(const struct log_file *f) {
  return f->written ? f->frames[f->written - 1].rec : f->base;
}

static void cut_frames(struct log_file *f, uint64_t off) {
  while (f->n && f->frames[f->n - 1].off >= off) f->n--;
  if (f->written > f->n) f->written = f->n;
  if (f->commits_end <= off) return;
  size_t last = f->n;
  while (last && !f->frames[last - 1].rec->commits) last--;
  f->commits_end = last ? f->frames[last - 1].off : 0; /* at least: where it ends is not noted */
  if (f->synced_end > f->commits_end) f->synced_end = f->commits_end;
  if (f->marked > f->commits_end) f->marked = f->commits_end;
}

static void push_frame(struct log_file *f, uint64_t off, struct rec *r) {
  if (f->n == f->cap) {
    f->cap = f->cap ? 2 * f->cap : 16;
    f->frames = realloc(f->frames, f->cap * sizeof *f->frames);
  }
  f->frames[f->n++] = (struct frame_at){off, r};
}

static void begin_file(struct sim_node *n, struct log_file *f, const uint8_t *bytes) {
  struct world *w = n->w;
  struct segment_header h;
  if (segment_header_decode(bytes, &h)) world_violation(w, n, "segment", "a header that is not valid is written");
  struct rec *base = model_find(w, &h.prev_chain);
  if (!base && !w->genesis && h.first_lsn == 1) base = w->genesis = add(w, &h.prev_chain, NULL);
  if (!base)
    world_violation(w, n, "same history", "a segment starts at LSN %llu of an unknown history",
                    (unsigned long long)h.first_lsn);
  cut_frames(f, 0);
  f->base = base;
  f->end = WAL_SEGMENT_HEADER_BYTES;
  f->commits_end = f->synced_end = f->marked = 0;
}

/* Walks what is written, frame by frame. `commit`: it has been written; otherwise blocks only become known. */
static void walk_write(struct sim_node *n, struct inode *i, uint64_t off, const struct iovec *iov, int count,
                       bool commit) {
  struct log_file *f = file_of(i);
  struct rec *at = NULL;
  bool append = off > 0, blocks = false;
  for (int k = 0; k < count; k++) {
    const uint8_t *p = iov[k].iov_base;
    size_t len = iov[k].iov_len, pos = 0;
    if (k == 0 && off == 0 && len >= WAL_SEGMENT_HEADER_BYTES && memcmp(p, WAL_SEGMENT_MAGIC, 8) == 0) {
      if (!commit) return; /* a new segment: taken in when it is written */
      begin_file(n, f, p);
      inode_set_proof(i, 0);
      pos = WAL_SEGMENT_HEADER_BYTES;
    }
    while (pos + 8 <= len) {
      uint32_t magic = get_u32(p + pos);
      if (magic != WAL_BLOCK_MAGIC && magic != WAL_MARK_MAGIC) break; /* zeroes */
      if (!at) {
        cut_frames(f, off + pos);
        at = f->n ? f->frames[f->n - 1].rec : f->base;
      }
      if (magic == WAL_MARK_MAGIC) {
        if (commit) f->marked = f->synced_end;
        pos += WAL_MARK_BYTES;
        continue;
      }
      at = meet(n, p + pos, len - pos, at);
      push_frame(f, off + pos, at);
      blocks = true;
      struct block_header h;
      (void)block_header_decode(p + pos, &h);
      pos += block_total_bytes(&h);
      if (commit && h.kind == BLOCK_COMMITS) f->commits_end = off + pos;
    }
    off += len;
  }
  if (!commit || !at) return;
  f->written = f->n;
  f->end = off;
  if (!append || !blocks || n->state != NODE_UP) return;
  struct rec *tail = file_tail(f);
  if (n->tail && tail != n->tail && model_before(n->w, tail, n->tail)) return; /* what it has already, written again */
  if (tail != n->tail && n->tail && !model_before(n->w, n->tail, tail))
    world_violation(n->w, n, "append", "LSN %llu is written behind LSN %llu, the log ended at LSN %llu",
                    (unsigned long long)tail->last_lsn, (unsigned long long)f->base->last_lsn,
                    (unsigned long long)n->tail->last_lsn);
  n->tail = tail;
  n->tail_inode = i;
  model_holds(tail, n->idx);
}

void model_attempt(void *ctx, struct inode *i, uint64_t off, const struct iovec *iov, int n) {
  walk_write(ctx, i, off, iov, n, false);
}
void model_wrote(void *ctx, struct inode *i, uint64_t off, const struct iovec *iov, int n) {
  walk_write(ctx, i, off, iov, n, true);
}

void model_synced(void *ctx, struct inode *i) {
  struct sim_node *n = ctx;
  struct log_file *f = *inode_slot(i);
  if (!f || !f->base) return;
  inode_set_proof(i, f->marked);
  f->synced_end = f->commits_end;
  struct rec *tail = file_tail(f);
  if (n->state != NODE_UP || i != n->tail_inode) return;
  if (n->durable && !model_before(n->w, n->durable, tail)) return; /* a tail that is about to be cut */
  n->durable = tail;
  model_mark(tail, offsetof(struct rec, durable), n->idx);
}
