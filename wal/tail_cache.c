/* The tail cache: the newest blocks, in memory, by place (segment seq, offset).
 *
 * Appending pushes, cursors look their next block up by binary search, and what exceeds the byte limit leaves at the
 * old end: a reader that falls behind goes on from the segment files, so no slow reader can make memory grow.
 * All functions need wal.mu.
 */
#include <stdlib.h>

#include "wal/internal.h"

static struct tail_entry *entry_at(struct wal *w, size_t i) {
  return &w->tail[(w->tail_head + i) % w->tail_cap];
}

static size_t entry_bytes(const struct wal_block *b) {
  return sizeof *b + block_total_bytes(&b->h) + (b->raw ? b->h.raw_bytes : 0);
}

static void drop_oldest(struct wal *w) {
  struct tail_entry *e = entry_at(w, 0);
  w->tail_bytes -= entry_bytes(e->block);
  wal_block_unref(e->block);
  w->tail_head = (w->tail_head + 1) % w->tail_cap;
  w->tail_count--;
}

void tail_push(struct wal *w, uint64_t seq, uint64_t off, struct wal_block *b) {
  if (w->tail_count == w->tail_cap) {
    size_t cap = w->tail_cap ? 2 * w->tail_cap : 256;
    struct tail_entry *grown = malloc(cap * sizeof *grown);
    if (!grown) { /* a cache may be smaller than wished */
      if (!w->tail_count) return;
      drop_oldest(w);
    } else {
      for (size_t i = 0; i < w->tail_count; i++) grown[i] = *entry_at(w, i);
      free(w->tail);
      w->tail = grown;
      w->tail_cap = cap;
      w->tail_head = 0;
    }
  }
  *entry_at(w, w->tail_count) = (struct tail_entry){seq, off, wal_block_ref(b)};
  w->tail_count++;
  w->tail_bytes += entry_bytes(b);
  while (w->tail_bytes > w->opt.tail_cache_bytes && w->tail_count > 1) drop_oldest(w);
}

static bool is_before(const struct tail_entry *e, uint64_t seq, uint64_t off) {
  return e->seq < seq || (e->seq == seq && e->off < off);
}

/* Index of the first entry at or behind (seq, off). */
static size_t lower_bound(struct wal *w, uint64_t seq, uint64_t off) {
  size_t lo = 0, hi = w->tail_count;
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    const struct tail_entry *e = entry_at(w, mid);
    if (is_before(e, seq, off))
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

const struct tail_entry *tail_find(struct wal *w, uint64_t seq, uint64_t off, const struct wal_pos *pos) {
  /* Mostly the newest block is wanted, or none: a look at the end saves the search. */
  size_t n = w->tail_count, i = n;
  if (n && !is_before(entry_at(w, n - 1), seq, off))
    i = n > 1 && is_before(entry_at(w, n - 2), seq, off) ? n - 1 : lower_bound(w, seq, off);
  if (i == w->tail_count) return NULL;
  /* Marks or a segment's end may stand between the place and the block: the chain tells whether it is the next. */
  const struct tail_entry *e = entry_at(w, i);
  bool next = e->block->h.first_lsn == pos->lsn + 1 && block_chain_ok(e->block->bytes, &pos->chain);
  return next ? e : NULL;
}

void tail_drop_from(struct wal *w, uint64_t seq, uint64_t off) {
  size_t keep = lower_bound(w, seq, off);
  while (w->tail_count > keep) {
    struct tail_entry *e = entry_at(w, w->tail_count - 1);
    w->tail_bytes -= entry_bytes(e->block);
    wal_block_unref(e->block);
    w->tail_count--;
  }
}

void tail_drop_before(struct wal *w, uint64_t seq) {
  while (w->tail_count && entry_at(w, 0)->seq < seq) drop_oldest(w);
}

void tail_free(struct wal *w) {
  tail_drop_from(w, 0, 0);
  free(w->tail);
}
