/* The small files and names of a data directory: NODE, the store's marker, names of segments. What is accepted is
 * encoded to the same bytes.
 * Input: 1 byte: which (modulo 3); the bytes. As they are, then with the checksum repaired. */
#include "engine/identity.h"
#include "engine/store.h"
#include "fuzz/fuzz.h"

static void node(const uint8_t *p, size_t n) {
  struct node_file f;
  uint8_t again[NODE_FILE_BYTES];
  if (node_file_decode(p, n, &f) != DW_OK) return;
  CHECK(n == NODE_FILE_BYTES && f.node_id && f.generation);
  node_file_encode(&f, again);
  CHECK(memcmp(again, p, n) == 0);
}

static void marker(const uint8_t *p, size_t n) {
  struct wal_pos pos;
  uint8_t again[STORE_MARKER_BYTES];
  if (store_marker_decode(p, n, &pos) != DW_OK) return;
  CHECK(n == STORE_MARKER_BYTES);
  store_marker_encode(&pos, again);
  CHECK(memcmp(again, p, n) == 0);
}

static void name(const uint8_t *p, size_t n) {
  char text[256] = "", again[WAL_SEGMENT_NAME_BYTES];
  dw_lsn lsn;
  uint64_t seq;
  memcpy(text, p, n < sizeof text ? n : sizeof text - 1);
  if (!segment_name_parse(text, &lsn, &seq)) return;
  segment_name(again, lsn, seq);
  CHECK(strcmp(again, text) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  uint8_t which = data[0] % 3;
  uint8_t *p = exact_copy(data + 1, --size);
  for (unsigned round = 0; round < 2; round++) {
    if (which == 0) node(p, size);
    if (which == 1) marker(p, size);
    if (which == 2) name(p, size);
    size_t sum = which == 0 ? NODE_FILE_BYTES - 8 : STORE_MARKER_BYTES - 8;
    if (which < 2 && size >= sum + 8) put_u64(p + sum, hash64(p, sum));
  }
  free(p);
  return 0;
}
