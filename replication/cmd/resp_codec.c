/* RESP2 parsing and writing; see resp_codec.h. */
#include "replication/cmd/resp_codec.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "wal/base/status.h"

void resp_parser_init(struct resp_parser *p) {
  *p = (struct resp_parser){.expect = -1, .bulk = -1};
}

void resp_parser_free(struct resp_parser *p) {
  free(p->args);
  free(p->unquoted);
  resp_parser_init(p);
}

static bool add_arg(struct resp_parser *p, size_t off, size_t n) {
  if (p->argc == p->cap) {
    size_t cap = p->cap ? 2 * p->cap : 16;
    struct resp_arg *grown = realloc(p->args, cap * sizeof *grown);
    if (!grown) return false;
    p->args = grown;
    p->cap = cap;
  }
  p->args[p->argc++] = (struct resp_arg){off, n};
  return true;
}

const uint8_t *resp_arg_at(const struct resp_parser *p, const uint8_t *data, size_t i, size_t *n) {
  *n = p->args[i].n;
  return (p->is_inline ? p->unquoted : data) + p->args[i].off;
}

/* ---- inline commands -------------------------------------------------------------------------- */

static int hex_digit(uint8_t c) {
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                : -1;
}

/* One character after a backslash in double quotes. */
static size_t unescape(const uint8_t *s, size_t n, uint8_t *out) {
  if (n >= 3 && s[0] == 'x' && hex_digit(s[1]) >= 0 && hex_digit(s[2]) >= 0) {
    *out = (uint8_t)(hex_digit(s[1]) * 16 + hex_digit(s[2]));
    return 3;
  }
  *out = s[0] == 'n' ? '\n' : s[0] == 'r' ? '\r' : s[0] == 't' ? '\t' : s[0] == 'b' ? '\b' : s[0] == 'a' ? '\a' : s[0];
  return 1;
}

/* Splits a line as Redis does. False: unbalanced quotes or no memory. */
static bool split_line(struct resp_parser *p, const uint8_t *s, size_t n) {
  free(p->unquoted);
  p->unquoted = malloc(n ? n : 1);
  if (!p->unquoted) return false;
  size_t out = 0, i = 0;
  for (;;) {
    while (i < n && isspace(s[i])) i++;
    if (i == n) return true;
    size_t start = out;
    uint8_t quote = 0;
    for (; i < n; i++) {
      if (quote == '"' && s[i] == '\\' && i + 1 < n) {
        i += unescape(s + i + 1, n - i - 1, &p->unquoted[out++]);
      } else if (quote == '\'' && s[i] == '\\' && i + 1 < n && s[i + 1] == '\'') {
        p->unquoted[out++] = '\'';
        i++;
      } else if (quote && s[i] == quote) {
        quote = 0;
        if (i + 1 < n && !isspace(s[i + 1])) return false; /* a closing quote ends the argument */
      } else if (!quote && (s[i] == '"' || s[i] == '\'')) {
        quote = s[i];
      } else if (!quote && isspace(s[i])) {
        break;
      } else {
        p->unquoted[out++] = s[i];
      }
    }
    if (quote || !add_arg(p, start, out - start)) return false;
  }
}

static enum resp_result parse_inline(struct resp_parser *p, const uint8_t *data, size_t n, size_t *used,
                                     const char **error) {
  const uint8_t *nl = memchr(data, '\n', n);
  if (!nl) {
    *error = "Protocol error: too big inline request";
    return n > RESP_MAX_INLINE ? RESP_ERROR : RESP_MORE;
  }
  size_t len = (size_t)(nl - data);
  *used = len + 1;
  if (len && data[len - 1] == '\r') len--;
  p->argc = 0;
  p->is_inline = true;
  *error = "Protocol error: unbalanced quotes in request";
  if (len > RESP_MAX_INLINE) *error = "Protocol error: too big inline request";
  return len <= RESP_MAX_INLINE && split_line(p, data, len) ? RESP_COMMAND : RESP_ERROR;
}

/* ---- multibulk -------------------------------------------------------------------------------- */

/* A decimal number ended by \r\n at p->pos. 1: read, pos moved behind it; 0: more bytes needed; -1: not a number. */
static int read_number(struct resp_parser *p, const uint8_t *data, size_t n, int64_t *v) {
  const uint8_t *s = data + p->pos;
  size_t left = n - p->pos, i = 0;
  bool negative = left && s[0] == '-';
  int64_t value = 0;
  if (negative) i++;
  for (; i < left && s[i] >= '0' && s[i] <= '9'; i++) {
    if (i > 12) return -1;
    value = value * 10 + (s[i] - '0');
  }
  if (i == left) return left > 14 ? -1 : 0;
  if (s[i] != '\r' || i == (negative ? 1u : 0u)) return -1;
  if (i + 1 == left) return 0;
  if (s[i + 1] != '\n') return -1;
  p->pos += i + 2;
  *v = negative ? -value : value;
  return 1;
}

static enum resp_result parse_args(struct resp_parser *p, const uint8_t *data, size_t n, const char **error) {
  while (p->expect > 0) {
    if (p->bulk < 0) {
      if (p->pos == n) return RESP_MORE;
      if (data[p->pos] != '$') {
        char got = (char)data[p->pos];
        snprintf(p->error, sizeof p->error, "Protocol error: expected '$', got '%c'",
                 got < ' ' || got > '~' ? ' ' : got);
        *error = p->error;
        return RESP_ERROR;
      }
      size_t before = p->pos++;
      int got = read_number(p, data, n, &p->bulk);
      if (got == 0) {
        p->pos = before;
        p->bulk = -1;
        return RESP_MORE;
      }
      if (got < 0 || p->bulk < 0 || p->bulk > RESP_MAX_BULK) {
        *error = "Protocol error: invalid bulk length";
        return RESP_ERROR;
      }
    }
    if (n - p->pos < (size_t)p->bulk + 2) {
      *error = "Protocol error: too big request";
      return n > RESP_MAX_COMMAND ? RESP_ERROR : RESP_MORE;
    }
    if (memcmp(data + p->pos + p->bulk, "\r\n", 2) != 0) {
      *error = "Protocol error: argument is not followed by a line break";
      return RESP_ERROR;
    }
    if (!add_arg(p, p->pos, (size_t)p->bulk)) {
      *error = "out of memory";
      return RESP_ERROR;
    }
    p->pos += (size_t)p->bulk + 2;
    p->bulk = -1;
    p->expect--;
  }
  return RESP_COMMAND;
}

enum resp_result resp_parse(struct resp_parser *p, const uint8_t *data, size_t n, size_t *used, const char **error) {
  if (n == 0) return RESP_MORE;
  if (data[0] != '*') return parse_inline(p, data, n, used, error);
  if (p->expect < 0) {
    p->pos = 1;
    p->argc = 0;
    p->is_inline = false;
    int got = read_number(p, data, n, &p->expect);
    if (got == 0) {
      p->expect = -1;
      return RESP_MORE;
    }
    if (got < 0 || p->expect > (int64_t)RESP_MAX_ARGS) {
      *error = "Protocol error: invalid multibulk length";
      return RESP_ERROR;
    }
    if (p->expect < 0) p->expect = 0;
  }
  enum resp_result r = parse_args(p, data, n, error);
  if (r != RESP_COMMAND) return r;
  *used = p->pos;
  p->expect = p->bulk = -1;
  return RESP_COMMAND;
}

/* ---- replies ---------------------------------------------------------------------------------- */

int resp_simple(struct buf *out, const char *text) {
  size_t n = strlen(text);
  int rc = buf_reserve(out, n + 3);
  if (rc) return rc;
  out->data[out->len++] = '+';
  memcpy(out->data + out->len, text, n);
  memcpy(out->data + out->len + n, "\r\n", 2);
  out->len += n + 2;
  return DW_OK;
}

int resp_error(struct buf *out, const char *fmt, ...) {
  char line[768];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  for (char *c = line; *c; c++)
    if (*c == '\r' || *c == '\n') *c = ' ';
  int rc = buf_append(out, "-", 1);
  if (rc == DW_OK) rc = buf_append(out, line, strlen(line));
  return rc ? rc : buf_append(out, "\r\n", 2);
}

/* By hand: it is on the path of every reply, and printf is slow. */
static int header(struct buf *out, char type, long long v) {
  char line[24], *end = line + sizeof line, *p = end;
  unsigned long long left = v < 0 ? 0 - (unsigned long long)v : (unsigned long long)v;
  *--p = '\n';
  *--p = '\r';
  do *--p = (char)('0' + left % 10);
  while (left /= 10);
  if (v < 0) *--p = '-';
  *--p = type;
  return buf_append(out, p, (size_t)(end - p));
}

int resp_int(struct buf *out, long long v) {
  return header(out, ':', v);
}
int resp_array(struct buf *out, size_t n) {
  return header(out, '*', (long long)n);
}
int resp_nil(struct buf *out) {
  return buf_append(out, "$-1\r\n", 5);
}
int resp_nil_array(struct buf *out) {
  return buf_append(out, "*-1\r\n", 5);
}

int resp_bulk(struct buf *out, const void *p, size_t n) {
  int rc = buf_reserve(out, n + 32);
  if (rc == DW_OK) rc = header(out, '$', (long long)n);
  if (rc == DW_OK) rc = buf_append(out, p, n);
  return rc ? rc : buf_append(out, "\r\n", 2);
}

int resp_bulk_str(struct buf *out, const char *s) {
  return resp_bulk(out, s, strlen(s));
}
