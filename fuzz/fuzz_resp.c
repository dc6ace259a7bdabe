/* RESP commands: whole or in pieces (short ones byte by byte) the parser sees the same; what it sees, written as a
 * multibulk command, is seen again; a length that is announced costs nothing. */
#include "fuzz/fuzz.h"
#include "replication/cmd/resp_codec.h"

/* What was seen: argc and arguments of each command, then how it ended. */
static void note(struct buf *seen, const struct resp_parser *p, const uint8_t *data) {
  uint8_t word[8];
  put_u64(word, p->argc);
  CHECK(buf_append(seen, word, 8) == DW_OK);
  for (size_t i = 0; i < p->argc; i++) {
    size_t n;
    const uint8_t *arg = resp_arg_at(p, data, i, &n);
    put_u64(word, n);
    CHECK(buf_append(seen, word, 8) == DW_OK && buf_append(seen, arg, n) == DW_OK);
  }
}

/* The command written again must be the same command. */
static void check_again(const struct resp_parser *p, const uint8_t *data, const struct buf *seen) {
  struct buf out = {0}, second = {0};
  struct resp_parser q;
  const char *error = NULL;
  size_t used = 0;
  CHECK(resp_array(&out, p->argc) == DW_OK);
  for (size_t i = 0; i < p->argc; i++) {
    size_t n;
    const uint8_t *arg = resp_arg_at(p, data, i, &n);
    CHECK(resp_bulk(&out, arg, n) == DW_OK);
  }
  resp_parser_init(&q);
  CHECK(resp_parse(&q, out.data, out.len, &used, &error) == RESP_COMMAND && used == out.len && q.argc == p->argc);
  note(&second, &q, out.data);
  CHECK(second.len <= seen->len && memcmp(second.data, seen->data + seen->len - second.len, second.len) == 0);
  resp_parser_free(&q);
  buf_free(&out);
  buf_free(&second);
}

/* As a connection does it: `step` more bytes at a time, the same bytes again until a command is whole. */
static void parse_all(const uint8_t *data, size_t size, size_t step, bool again, struct buf *seen) {
  struct resp_parser p;
  size_t from = 0, have = 0;
  enum resp_result r = RESP_MORE;
  const char *error = NULL;
  resp_parser_init(&p);
  while (r != RESP_ERROR) {
    size_t used = 0;
    r = resp_parse(&p, data + from, have - from, &used, &error);
    CHECK(p.cap <= 2 * size + 16);
    if (r == RESP_COMMAND) {
      CHECK(used > 0 && used <= have - from);
      note(seen, &p, data + from);
      if (again) check_again(&p, data + from, seen);
      from += used;
    } else if (r == RESP_MORE) {
      if (have == size) break;
      have = size - have < step ? size : have + step;
    }
  }
  if (r == RESP_ERROR) {
    CHECK(error && *error);
    CHECK(buf_append(seen, error, strlen(error)) == DW_OK);
  }
  resp_parser_free(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct buf whole = {0}, pieces = {0};
  uint8_t *copy = exact_copy(data, size);
  parse_all(copy, size, size ? size : 1, true, &whole);
  parse_all(copy, size, 1 + size / 64, false, &pieces);
  CHECK(whole.len == pieces.len && (whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0));
  buf_free(&whole);
  buf_free(&pieces);
  free(copy);
  return 0;
}
