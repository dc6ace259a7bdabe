/* Bytes on their way to a socket: small frames on the heap and, without a copy, whole log blocks.
 *
 *   pushed --> | head | block | block | ack | chunk | --> outq_iov() --> writev --> outq_drained(n)
 *
 * Memory that outq_iov points to stays where it is until outq_drained has covered it, whatever is pushed meanwhile,
 * so an asynchronous write may hold on to it.
 */
#ifndef DW_REPLICATION_OUTQ_H
#define DW_REPLICATION_OUTQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "wal/wal.h"

struct out_piece {
  struct wal_block *block; /* a reference, or NULL */
  uint8_t *heap;           /* owned, or NULL */
  const uint8_t *p;
  size_t n;
};

struct outq {
  struct out_piece *pieces; /* ring */
  size_t head, count, cap;
  size_t first_done; /* bytes of the first piece that are gone already */
  size_t bytes;      /* not yet drained */
  size_t heap_bytes; /* of the heap pieces held: what this queue costs beside the shared blocks */
  uint64_t total;    /* ever drained */
};

void outq_free(struct outq *); /* drops what is left; leaves it zeroed */
/* Takes the buffer over on DW_OK (it is zeroed then), leaves it alone on DW_NO_MEMORY. An empty one is no piece. */
int outq_push_buf(struct outq *, struct buf *);
int outq_push_copy(struct outq *, const void *, size_t n);
int outq_push_block(struct outq *, struct wal_block *); /* takes a reference of its own */
int outq_reserve(struct outq *, size_t pieces);         /* so many pushes of blocks can't fail after it */
/* Fills up to cap iovecs with the undrained bytes from the front; returns how many. */
int outq_iov(const struct outq *, struct iovec *, int cap);
void outq_drained(struct outq *, size_t n);

#endif
