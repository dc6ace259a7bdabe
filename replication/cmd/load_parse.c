/* Chunks to lines or commands; the formats of lines are in load_deb822.c and load_tsv.c. */
#include "replication/cmd/load_parse.h"

#include <string.h>

#include "dabbawal.h"
#include "wal/base/status.h"

/* The longest line that can be part of a record: a key and a value, all of it escaped. */
#define LINE_MAX_BYTES (2u * (DW_MAX_VALUE_BYTES + DW_MAX_KEY_BYTES) + 16u)

void load_parser_init(struct load_parser *p, enum load_format format, const struct load_sink *sink) {
  *p = (struct load_parser){.format = format, .sink = *sink};
  p->lines.number = 1;
  resp_parser_init(&p->resp);
}

void load_parser_free(struct load_parser *p) {
  buf_free(&p->lines.part);
  buf_free(&p->paragraph);
  for (size_t i = 0; i < 3; i++) buf_free(&p->field[i]);
  buf_free(&p->key);
  buf_free(&p->value);
  buf_free(&p->pending);
  resp_parser_free(&p->resp);
}

static int line(struct load_parser *p, const uint8_t *s, size_t n, bool newline) {
  int rc = p->format == LOAD_DEB822 ? load_deb822_line(p, s, n, newline) : load_tsv_line(p, s, n);
  p->lines.number++;
  p->lines.cut = false;
  return rc;
}

static int feed_lines(struct load_parser *p, const uint8_t *data, size_t n) {
  struct line_reader *l = &p->lines;
  int rc = DW_OK;
  while (n && rc == DW_OK) {
    const uint8_t *nl = memchr(data, '\n', n);
    size_t len = nl ? (size_t)(nl - data) : n, step = len + (nl != NULL);
    if (nl && !l->part.len && !l->cut) {
      rc = line(p, data, len, true);
    } else {
      size_t room = LINE_MAX_BYTES - l->part.len;
      if (len > room) l->cut = true;
      rc = buf_append(&l->part, data, len < room ? len : room);
      if (rc == DW_OK && nl) {
        rc = line(p, l->part.data, l->part.len, true);
        l->part.len = 0;
      }
    }
    data += step;
    n -= step;
  }
  return rc;
}

static int feed_commands(struct load_parser *p, const uint8_t *data, size_t n) {
  int rc = buf_append(&p->pending, data, n);
  size_t at = 0;
  while (rc == DW_OK && at < p->pending.len) {
    size_t used = 0;
    const char *why = NULL;
    enum resp_result r = resp_parse(&p->resp, p->pending.data + at, p->pending.len - at, &used, &why);
    if (r == RESP_MORE) break;
    if (r == RESP_ERROR)
      return dw_fail(DW_CORRUPT, "command %llu, byte %llu: not RESP: %s", (unsigned long long)p->commands + 1,
                     (unsigned long long)(p->offset + at), why);
    if (p->resp.argc) rc = p->sink.command(p->sink.arg, ++p->commands, p->pending.data + at, used);
    at += used;
  }
  buf_consume(&p->pending, at);
  p->offset += at;
  return rc;
}

int load_parser_feed(struct load_parser *p, const uint8_t *data, size_t n) {
  return p->format == LOAD_RESP ? feed_commands(p, data, n) : feed_lines(p, data, n);
}

int load_parser_finish(struct load_parser *p) {
  int rc = DW_OK;
  if (p->format == LOAD_RESP) {
    if (p->pending.len)
      rc = dw_fail(DW_CORRUPT, "command %llu, byte %llu: the input ends in the middle of it",
                   (unsigned long long)p->commands + 1, (unsigned long long)p->offset);
    return rc;
  }
  if (p->lines.part.len || p->lines.cut) rc = line(p, p->lines.part.data, p->lines.part.len, false);
  p->lines.part.len = 0;
  if (rc == DW_OK && p->format == LOAD_DEB822) rc = load_deb822_end(p);
  return rc;
}
