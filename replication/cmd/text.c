#include "replication/cmd/text.h"

#include <stdio.h>
#include <string.h>

/* Length of the well-formed character at p, 0 if there is none that prints. U+0080 to U+009F are control characters
 * too: terminals take U+009B for the beginning of an escape sequence. */
static size_t utf8_char(const unsigned char *p, size_t n) {
  unsigned char c = p[0];
  if (c < 0x20 || c == 0x7f) return 0;
  if (c < 0x80) return 1;
  size_t len = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
  if (c < 0xc2 || c > 0xf4 || n < len) return 0;
  for (size_t i = 1; i < len; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  if ((c == 0xc2 && p[1] < 0xa0) || (c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f) ||
      (c == 0xf0 && p[1] < 0x90) || (c == 0xf4 && p[1] > 0x8f))
    return 0;
  return len;
}

bool text_is_utf8(const char *s, size_t n) {
  for (size_t i = 0, len; i < n; i += len)
    if (!(len = utf8_char((const unsigned char *)s + i, n - i))) return false;
  return true;
}

void text_clean(char *dst, size_t cap, const char *src) {
  size_t n = strlen(src), out = 0;
  for (size_t i = 0; i < n;) {
    size_t len = utf8_char((const unsigned char *)src + i, n - i), used = len ? len : 1;
    if (out + used >= cap) break;
    if (len)
      memcpy(dst + out, src + i, len);
    else
      dst[out] = '?';
    out += used;
    i += used;
  }
  dst[out] = 0;
}

void text_printable(char *s) {
  for (size_t n = strlen(s), len; n; s += len, n -= len)
    if (!(len = utf8_char((const unsigned char *)s, n))) *s = '?', len = 1;
}

void text_bytes(char *dst, size_t cap, double bytes) {
  static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
  size_t u = 0;
  while (bytes >= 999.5 && u < sizeof units / sizeof *units - 1) bytes /= 1000, u++;
  snprintf(dst, cap, u == 0 || bytes >= 99.95 ? "%.0f %s" : "%.1f %s", bytes, units[u]);
}
