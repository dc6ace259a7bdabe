#include "replication/cmd/resp_reply.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/text.h"
#include "wal/base/status.h"

#define HEADER_MAX 65536u
#define ELEMENTS_MAX (1ull << 32)
#define BULK_MAX (1ull << 30)

void resp_reader_free(struct resp_reader *r) {
  buf_free(&r->text);
  buf_free(&r->line);
}

static int keep(struct resp_reader *r, const uint8_t *p, size_t n) {
  size_t room = r->text_max > r->text.len ? r->text_max - r->text.len : 0;
  if (n > room) {
    r->text_cut = true;
    n = room;
  }
  return n ? buf_append(&r->text, p, n) : DW_OK;
}

static int strange(const uint8_t *p, size_t n) {
  char shown[41];
  snprintf(shown, sizeof shown, "%.*s", (int)(n < 40 ? n : 40), (const char *)p);
  text_printable(shown);
  return dw_fail(DW_CORRUPT, "not a RESP reply: '%s'", shown);
}

static bool length(const uint8_t *p, size_t n, int64_t *v) {
  char text[24], *end;
  if (n == 0 || n >= sizeof text) return false;
  memcpy(text, p, n);
  text[n] = 0;
  errno = 0;
  *v = strtoll(text, &end, 10);
  return errno == 0 && *end == 0 && (text[0] == '-' || (text[0] >= '0' && text[0] <= '9'));
}

/* An element has ended. */
static int element_done(struct resp_reader *r) {
  r->pending--;
  return r->kind == '*' && r->inside ? keep(r, (const uint8_t *)"\n", 1) : DW_OK;
}

/* One header line without its CRLF. */
static int header(struct resp_reader *r, const uint8_t *p, size_t n) {
  int64_t v = 0;
  if (n == 0 || !memchr("+-:$*", p[0], 5)) return strange(p, n);
  char kind = (char)p[0];
  if (!r->inside) {
    r->inside = true;
    r->pending = 1;
    r->kind = kind;
    r->text.len = 0;
    r->text_cut = false;
  }
  if (kind != '$' && kind != '*') {
    int rc = keep(r, p + 1, n - 1);
    return rc ? rc : element_done(r);
  }
  if (!length(p + 1, n - 1, &v) || v < -1) return strange(p, n);
  if (v == -1) {
    if (r->kind == kind && r->pending == 1 && r->text.len == 0) r->kind = '_';
    return element_done(r);
  }
  if (kind == '$') {
    if ((uint64_t)v > BULK_MAX) return strange(p, n);
    r->body = (uint64_t)v + 2;
    return DW_OK;
  }
  if ((uint64_t)v > ELEMENTS_MAX || r->pending + (uint64_t)v > ELEMENTS_MAX) return strange(p, n);
  r->pending += (uint64_t)v - 1; /* the array itself is done once its elements are */
  return DW_OK;
}

static int take_header(struct resp_reader *r, const uint8_t *data, size_t n, size_t *used) {
  const uint8_t *nl = memchr(data, '\n', n);
  size_t part = nl ? (size_t)(nl - data) + 1 : n;
  *used = part;
  const uint8_t *line = data;
  size_t len = part;
  if (r->line.len || !nl) {
    if (r->line.len + part > HEADER_MAX) return strange(r->line.len ? r->line.data : data, HEADER_MAX);
    int rc = buf_append(&r->line, data, part);
    if (rc) return rc;
    /* What can't become a reply is not waited for. */
    if (!memchr("+-:$*", r->line.data[0], 5)) return strange(r->line.data, r->line.len);
    if (!nl) return DW_OK;
    line = r->line.data;
    len = r->line.len;
  }
  r->line.len = 0;
  len--;
  if (len && line[len - 1] == '\r') len--;
  return header(r, line, len);
}

static int take_body(struct resp_reader *r, const uint8_t *data, size_t n, size_t *used) {
  size_t part = n < r->body ? n : (size_t)r->body;
  size_t crlf = r->body - part >= 2 ? 0 : 2 - (size_t)(r->body - part); /* bytes of CRLF among them */
  if (crlf > part) crlf = part;
  *used = part;
  int rc = keep(r, data, part - crlf);
  r->body -= part;
  return rc || r->body ? rc : element_done(r);
}

int resp_reader_feed(struct resp_reader *r, const uint8_t *data, size_t n, size_t *used, bool *complete) {
  *used = 0;
  *complete = false;
  while (*used < n) {
    size_t part = 0;
    int rc = r->body ? take_body(r, data + *used, n - *used, &part) : take_header(r, data + *used, n - *used, &part);
    *used += part;
    if (rc) return rc;
    if (r->inside && r->pending == 0 && r->body == 0) {
      r->inside = false;
      *complete = true;
      return DW_OK;
    }
  }
  return DW_OK;
}
