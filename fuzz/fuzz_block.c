/* A block from disk or wire: parse, decompress, walk its payload. What is accepted must be reproduced by the writer. */
#include <assert.h>
#include <string.h>

#include "wal/wal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct wal_block *b;
  if (wal_block_parse(data, size, &b) != DW_OK) return 0;
  /* Sealing the decoded header again gives the same bytes but for the chain, which depends on what came before. */
  struct block_header again = b->h;
  uint8_t bytes[WAL_BLOCK_HEADER_BYTES];
  struct hash128 prev = {{0}};
  block_header_seal(&again, &prev, bytes);
  assert(memcmp(bytes, data, 96) == 0);
  struct buf scratch = {0};
  const uint8_t *raw;
  size_t n;
  if (wal_block_raw(b, &scratch, &raw, &n) == DW_OK) (void)payload_validate(raw, n, b->h.commit_count, NULL);
  buf_free(&scratch);
  wal_block_unref(b);
  return 0;
}
