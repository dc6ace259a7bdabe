/* One record a line: key TAB value, in which \t, \n and \\ stand for a tab, a line feed and a backslash; every other
 * byte for itself. Empty lines are skipped. */
#include <stdio.h>
#include <string.h>

#include "dabbawal.h"
#include "replication/cmd/load_parse.h"
#include "wal/base/status.h"

/* Into `out`; *why is set if the text is wrong. */
static int unescape(struct buf *out, const uint8_t *s, size_t n, const char **why) {
  out->len = 0;
  while (n) {
    const uint8_t *slash = memchr(s, '\\', n);
    size_t plain = slash ? (size_t)(slash - s) : n;
    int rc = buf_append(out, s, plain);
    if (rc || !slash) return rc;
    if (plain + 1 == n || !memchr("tn\\", s[plain + 1], 3)) {
      *why = "a backslash that is not \\t, \\n or \\\\";
      return DW_OK;
    }
    rc = buf_append(out, s[plain + 1] == 't' ? "\t" : s[plain + 1] == 'n' ? "\n" : "\\", 1);
    if (rc) return rc;
    s += plain + 2;
    n -= plain + 2;
  }
  return DW_OK;
}

int load_tsv_line(struct load_parser *p, const uint8_t *s, size_t n) {
  if (n == 0 && !p->lines.cut) return DW_OK;
  const char *why = NULL;
  const uint8_t *tab = memchr(s, '\t', n);
  size_t key = tab ? (size_t)(tab - s) : n;
  int rc = DW_OK;
  if (p->lines.cut)
    why = "the line is longer than any record";
  else if (!tab)
    why = "no tab between key and value";
  else
    rc = unescape(&p->key, s, key, &why);
  if (rc == DW_OK && !why) rc = unescape(&p->value, tab + 1, n - key - 1, &why);
  if (rc) return rc;
  if (!why && p->key.len == 0) why = "the key is empty";
  if (!why && p->key.len > DW_MAX_KEY_BYTES) why = "the key is longer than 64 KiB";
  if (!why && p->value.len > DW_MAX_VALUE_BYTES) why = "the value is larger than 64 MiB";
  if (why) return p->sink.malformed(p->sink.arg, p->lines.number, why);
  return p->sink.record(p->sink.arg, p->lines.number, p->key.data, p->key.len, p->value.data, p->value.len);
}
