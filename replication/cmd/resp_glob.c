/* Glob matching.
 *
 * One pattern element (a literal, an escaped literal, `?` or a class) eats one byte of text; `*` remembers where it
 * stands, and a mismatch goes back to the last `*` and lets it eat one byte more. Only the last `*` is ever gone back
 * to: an earlier one that ate more could not reach anything that the last one can't. So the time is at most pattern x
 * text, where the recursive matcher that Redis had took exponential time for a hostile pattern.
 */
#include "replication/cmd/resp_glob.h"

#include <stdint.h>

/* Is c in the class that begins at p ('[')? *end is set behind it. An unclosed class ends with the pattern. */
static bool in_class(const uint8_t *p, const uint8_t *pe, uint8_t c, const uint8_t **end) {
  bool negate = ++p < pe && *p == '^', hit = false;
  if (negate) p++;
  for (; p < pe && *p != ']'; p++) {
    if (*p == '\\' && p + 1 < pe) {
      hit |= *++p == c;
    } else if (p + 2 < pe && p[1] == '-') {
      uint8_t lo = p[0] < p[2] ? p[0] : p[2], hi = p[0] < p[2] ? p[2] : p[0];
      hit |= c >= lo && c <= hi;
      p += 2;
    } else {
      hit |= *p == c;
    }
  }
  *end = p < pe ? p + 1 : pe;
  return hit != negate;
}

/* Does the element at p (not '*') eat c? *end is set behind it. */
static bool eats(const uint8_t *p, const uint8_t *pe, uint8_t c, const uint8_t **end) {
  if (*p == '[') return in_class(p, pe, c, end);
  if (*p == '\\' && p + 1 < pe) {
    *end = p + 2;
    return p[1] == c;
  }
  *end = p + 1;
  return *p == '?' || *p == c;
}

bool resp_glob(const void *pattern, size_t pn, const void *text, size_t tn) {
  const uint8_t *p = pattern, *t = text, *pe = p + pn, *te = t + tn;
  const uint8_t *star = NULL, *star_t = NULL; /* behind the last '*', and the text it has eaten up to */
  while (t < te) {
    const uint8_t *next;
    if (p < pe && *p == '*') {
      star = ++p;
      star_t = t;
    } else if (p < pe && eats(p, pe, *t, &next)) {
      p = next;
      t++;
    } else if (star) {
      p = star;
      t = ++star_t;
    } else {
      return false;
    }
  }
  while (p < pe && *p == '*') p++;
  return p == pe;
}
