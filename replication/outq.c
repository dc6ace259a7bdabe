/* Output queue: a ring of pieces. Moving the ring moves the descriptions, never the bytes. */
#include <stdlib.h>

#include "replication/outq.h"
#include "wal/base/status.h"

static struct out_piece *piece(const struct outq *q, size_t i) {
  return &q->pieces[(q->head + i) % q->cap];
}

static void piece_free(struct out_piece *p) {
  wal_block_unref(p->block);
  free(p->heap);
}

void outq_free(struct outq *q) {
  for (size_t i = 0; i < q->count; i++) piece_free(piece(q, i));
  free(q->pieces);
  *q = (struct outq){0};
}

int outq_reserve(struct outq *q, size_t n) {
  if (q->cap - q->count >= n) return DW_OK;
  size_t cap = q->cap ? q->cap : 16;
  while (cap - q->count < n) cap *= 2;
  struct out_piece *grown = malloc(cap * sizeof *grown);
  if (!grown) return dw_fail_nomem(cap * sizeof *grown);
  for (size_t i = 0; i < q->count; i++) grown[i] = *piece(q, i);
  free(q->pieces);
  q->pieces = grown;
  q->head = 0;
  q->cap = cap;
  return DW_OK;
}

static void push(struct outq *q, struct out_piece p) {
  q->count++;
  *piece(q, q->count - 1) = p;
  q->bytes += p.n;
  if (p.heap) q->heap_bytes += p.n;
}

int outq_push_buf(struct outq *q, struct buf *b) {
  if (b->len == 0) {
    buf_free(b);
    return DW_OK;
  }
  int rc = outq_reserve(q, 1);
  if (rc) return rc;
  push(q, (struct out_piece){.heap = b->data, .p = b->data, .n = b->len});
  *b = (struct buf){0};
  return DW_OK;
}

int outq_push_copy(struct outq *q, const void *p, size_t n) {
  struct buf b = {0};
  int rc = buf_append(&b, p, n);
  if (rc == DW_OK) rc = outq_push_buf(q, &b);
  buf_free(&b);
  return rc;
}

int outq_push_block(struct outq *q, struct wal_block *b) {
  int rc = outq_reserve(q, 1);
  if (rc) return rc;
  push(q, (struct out_piece){.block = wal_block_ref(b), .p = b->bytes, .n = block_total_bytes(&b->h)});
  return DW_OK;
}

int outq_iov(const struct outq *q, struct iovec *iov, int cap) {
  int n = 0;
  for (size_t i = 0; i < q->count && n < cap; i++) {
    const struct out_piece *p = piece(q, i);
    size_t done = i == 0 ? q->first_done : 0;
    iov[n++] = (struct iovec){(void *)(uintptr_t)(p->p + done), p->n - done};
  }
  return n;
}

void outq_drained(struct outq *q, size_t n) {
  if (n > q->bytes) n = q->bytes; /* a driver's miscount must not run over the end */
  q->bytes -= n;
  q->total += n;
  while (n) {
    struct out_piece *p = piece(q, 0);
    size_t left = p->n - q->first_done;
    if (n < left) {
      q->first_done += n;
      return;
    }
    n -= left;
    q->first_done = 0;
    if (p->heap) q->heap_bytes -= p->n;
    piece_free(p);
    q->head = (q->head + 1) % q->cap;
    q->count--;
  }
}
