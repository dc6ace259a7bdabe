/* Replies, as the command line tools read them from any server. Whole or in pieces: the same replies and the same end;
 * never more text is kept than was asked for.
 * Input: 1 byte: size of pieces; what the server sends. */
#include "fuzz/fuzz.h"
#include "replication/cmd/resp_reply.h"

#define TEXT_MAX 64u

static int read_all(const uint8_t *p, size_t n, size_t piece, struct buf *heard) {
  struct resp_reader r = {.text_max = TEXT_MAX};
  int rc = DW_OK;
  for (size_t at = 0; rc == DW_OK && at < n;) {
    size_t end = at + piece < n ? at + piece : n;
    while (rc == DW_OK && at < end) {
      size_t used = 0;
      bool complete = false;
      rc = resp_reader_feed(&r, p + at, end - at, &used, &complete);
      if (rc) break;
      CHECK(used > 0 && used <= end - at);
      at += used;
      CHECK(r.text.len <= TEXT_MAX && r.text.cap <= 4096);
      if (!complete) continue;
      CHECK(buf_append(heard, &r.kind, 1) == DW_OK);
      if (r.text.len) CHECK(buf_append(heard, r.text.data, r.text.len) == DW_OK);
      CHECK(buf_append(heard, "\n", 1) == DW_OK);
    }
  }
  resp_reader_free(&r);
  return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  size_t piece = 1 + data[0] % 16;
  uint8_t *p = exact_copy(data + 1, --size);
  struct buf whole = {0}, pieces = {0};
  int rc = read_all(p, size, size ? size : 1, &whole);
  CHECK(rc == DW_OK || rc == DW_CORRUPT);
  CHECK(read_all(p, size, piece, &pieces) == rc);
  CHECK(whole.len == pieces.len && (whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0));
  buf_free(&whole);
  buf_free(&pieces);
  free(p);
  return 0;
}
