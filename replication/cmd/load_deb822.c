/* Debian's control format: paragraphs of "Name: value" lines, continued by lines that begin with a blank, parted by
 * empty lines. A record is a paragraph: key Package/Version/Architecture, value its lines just as they stand.
 *
 * A paragraph is malformed if one of those three fields is missing, empty or there twice, if a line is no field, or if
 * it is larger than a value may be. It is reported once, with the line where the fault shows, and skipped to its end;
 * only as much of it is kept as a value can hold. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "dabbawal.h"
#include "replication/cmd/load_parse.h"
#include "wal/base/status.h"

static const char *const names[3] = {"Package", "Version", "Architecture"};

static bool is_blank(const uint8_t *s, size_t n) {
  while (n && (s[n - 1] == ' ' || s[n - 1] == '\t' || s[n - 1] == '\r')) n--;
  return n == 0;
}

static int malformed(struct load_parser *p, uint64_t line, const char *why) {
  p->bad = true;
  return p->sink.malformed(p->sink.arg, line, why);
}

/* "Name: value" into one of the three fields, if it is one of them. */
static int take_field(struct load_parser *p, const uint8_t *s, size_t n) {
  char why[100];
  const uint8_t *colon = memchr(s, ':', n);
  size_t name = colon ? (size_t)(colon - s) : 0;
  if (!name) return malformed(p, p->lines.number, "expected 'Name: value', a continuation line or an empty line");
  for (size_t i = 0; i < 3; i++) {
    if (name != strlen(names[i]) || strncasecmp((const char *)s, names[i], name) != 0) continue;
    const uint8_t *v = colon + 1, *end = s + n;
    while (v < end && (*v == ' ' || *v == '\t')) v++;
    while (end > v && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r')) end--;
    if (p->field[i].len || v == end) {
      snprintf(why, sizeof why, p->field[i].len ? "a second %s field" : "the %s field is empty", names[i]);
      return malformed(p, p->lines.number, why);
    }
    return buf_append(&p->field[i], v, (size_t)(end - v));
  }
  return DW_OK;
}

int load_deb822_line(struct load_parser *p, const uint8_t *s, size_t n, bool newline) {
  if (!p->lines.cut && is_blank(s, n)) return load_deb822_end(p);
  if (!p->inside) {
    p->inside = true;
    p->paragraph_line = p->lines.number;
  }
  if (p->bad) return DW_OK;
  if (p->lines.cut || p->paragraph.len + n + newline > DW_MAX_VALUE_BYTES)
    return malformed(p, p->lines.number, "the paragraph is larger than a value may be (64 MiB)");
  int rc = s[0] == ' ' || s[0] == '\t' || s[0] == '#' ? DW_OK : take_field(p, s, n);
  if (rc == DW_OK) rc = buf_append(&p->paragraph, s, n);
  if (rc == DW_OK && newline) rc = buf_append(&p->paragraph, "\n", 1);
  return rc;
}

static int emit(struct load_parser *p) {
  char why[100];
  for (size_t i = 0; i < 3; i++)
    if (!p->field[i].len) {
      snprintf(why, sizeof why, "the paragraph has no %s field", names[i]);
      return malformed(p, p->paragraph_line, why);
    }
  p->key.len = 0;
  int rc = DW_OK;
  for (size_t i = 0; i < 3 && rc == DW_OK; i++) {
    if (i) rc = buf_append(&p->key, "/", 1);
    if (rc == DW_OK) rc = buf_append(&p->key, p->field[i].data, p->field[i].len);
  }
  if (rc) return rc;
  if (p->key.len > DW_MAX_KEY_BYTES)
    return malformed(p, p->paragraph_line, "Package/Version/Architecture is longer than a key may be (64 KiB)");
  return p->sink.record(p->sink.arg, p->paragraph_line, p->key.data, p->key.len, p->paragraph.data, p->paragraph.len);
}

int load_deb822_end(struct load_parser *p) {
  int rc = p->inside && !p->bad ? emit(p) : DW_OK;
  p->inside = p->bad = false;
  p->paragraph.len = 0;
  for (size_t i = 0; i < 3; i++) p->field[i].len = 0;
  return rc;
}
