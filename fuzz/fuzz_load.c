/* The formats of `dabbawal load`. Whole or in pieces: the same records, the same complaints, the same end; a TSV record
 * written again is the same record; keys and values within the engine's limits.
 * Input: 1 byte: format (modulo 3), the rest the size of pieces; the text. */
#include "engine/dabbawal.h"
#include "fuzz/fuzz.h"
#include "replication/cmd/load_parse.h"

struct heard {
  struct buf all; /* what was found, in order */
  struct buf tsv; /* records, written as TSV */
};

static void note(struct buf *b, char kind, uint64_t line, const void *p, size_t n) {
  uint8_t head[17] = {(uint8_t)kind};
  put_u64(head + 1, line);
  put_u64(head + 9, n);
  CHECK(buf_append(b, head, sizeof head) == DW_OK && buf_append(b, p, n) == DW_OK);
}

static void escape(struct buf *b, const uint8_t *p, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const char *e = p[i] == '\t' ? "\\t" : p[i] == '\n' ? "\\n" : p[i] == '\\' ? "\\\\" : NULL;
    CHECK(buf_append(b, e ? e : (const char *)p + i, e ? 2 : 1) == DW_OK);
  }
}

static int on_record(void *arg, uint64_t line, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen) {
  struct heard *h = arg;
  CHECK(klen > 0 && klen <= DW_MAX_KEY_BYTES && vlen <= DW_MAX_VALUE_BYTES);
  note(&h->all, 'k', line, key, klen);
  note(&h->all, 'v', line, val ? val : (const uint8_t *)"", vlen);
  escape(&h->tsv, key, klen);
  CHECK(buf_append(&h->tsv, "\t", 1) == DW_OK);
  escape(&h->tsv, val, vlen);
  return buf_append(&h->tsv, "\n", 1);
}

static int on_command(void *arg, uint64_t line, const uint8_t *p, size_t n) {
  note(&((struct heard *)arg)->all, 'c', line, p, n);
  return DW_OK;
}

static int on_malformed(void *arg, uint64_t line, const char *why) {
  CHECK(*why);
  note(&((struct heard *)arg)->all, '!', line, why, strlen(why));
  return DW_OK;
}

static int parse(enum load_format format, const uint8_t *p, size_t n, size_t piece, struct heard *h) {
  struct load_sink sink = {on_record, on_command, on_malformed, h};
  struct load_parser lp;
  int rc = DW_OK;
  load_parser_init(&lp, format, &sink);
  for (size_t at = 0; rc == DW_OK && at < n; at += piece)
    rc = load_parser_feed(&lp, p + at, n - at < piece ? n - at : piece);
  if (rc == DW_OK) rc = load_parser_finish(&lp);
  load_parser_free(&lp);
  return rc;
}

static bool same(const struct buf *a, const struct buf *b) {
  return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

static void heard_free(struct heard *h) {
  buf_free(&h->all);
  buf_free(&h->tsv);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  enum load_format format = (enum load_format)(data[0] % 3);
  size_t piece = 1 + data[0] / 3;
  uint8_t *text = exact_copy(data + 1, --size);
  struct heard whole = {0}, pieces = {0}, again = {0};
  int rc = parse(format, text, size, size ? size : 1, &whole);
  CHECK(rc == DW_OK || (rc == DW_CORRUPT && format == LOAD_RESP));
  CHECK(parse(format, text, size, piece + size / 64, &pieces) == rc);
  CHECK(same(&whole.all, &pieces.all));
  CHECK(parse(LOAD_TSV, whole.tsv.data, whole.tsv.len, 1 + whole.tsv.len, &again) == DW_OK);
  CHECK(same(&whole.tsv, &again.tsv));
  heard_free(&whole);
  heard_free(&pieces);
  heard_free(&again);
  free(text);
  return 0;
}
