/* Values as people write them: numbers, sizes, durations, addresses. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "replication/address.h"
#include "replication/cmd/config.h"
#include "replication/repair_source.h"
#include "wal/base/status.h"

/* Digits only: strtoull would take blanks and signs. */
static bool digits(const char *text, const char **end, uint64_t *out) {
  char *stop;
  if (*text < '0' || *text > '9') return false;
  errno = 0;
  *out = strtoull(text, &stop, 10);
  *end = stop;
  return errno == 0;
}

bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *out) {
  const char *end;
  uint64_t v;
  if (!digits(text, &end, &v) || *end || v < min || v > max) return false;
  *out = v;
  return true;
}

struct unit {
  const char *name;
  uint64_t factor;
};

static bool with_unit(const char *text, const struct unit *units, uint64_t *out) {
  const char *end;
  uint64_t v;
  if (!digits(text, &end, &v)) return false;
  for (const struct unit *u = units; u->name; u++) {
    if (strcasecmp(end, u->name) != 0) continue;
    if (v > UINT64_MAX / u->factor) return false;
    *out = v * u->factor;
    return true;
  }
  return false;
}

bool parse_size(const char *text, uint64_t *out) {
  static const struct unit units[] = {{"", 1},           {"B", 1},
                                      {"K", 1ull << 10}, {"KiB", 1ull << 10},
                                      {"M", 1ull << 20}, {"MiB", 1ull << 20},
                                      {"G", 1ull << 30}, {"GiB", 1ull << 30},
                                      {"T", 1ull << 40}, {"TiB", 1ull << 40},
                                      {NULL, 0}};
  return with_unit(text, units, out);
}

bool parse_duration_ms(const char *text, uint64_t *out) {
  static const struct unit units[] = {{"", 1},        {"ms", 1},       {"s", 1000}, {"m", 60000},
                                      {"h", 3600000}, {"d", 86400000}, {NULL, 0}};
  return with_unit(text, units, out);
}

char *parse_address(const char *text) {
  struct address a;
  const char *port = text + (*text == ':');
  char *out;
  if (*port && strspn(port, "0123456789") == strlen(port)) {
    size_t n = strlen(port) + sizeof "127.0.0.1:";
    out = malloc(n);
    if (out) snprintf(out, n, "127.0.0.1:%s", port);
  } else {
    out = strdup(text);
  }
  if (!out) {
    dw_fail_nomem(strlen(text));
  } else if (address_parse(out, &a) != DW_OK) {
    free(out);
    out = NULL;
  }
  return out;
}

char *parse_addresses(const char *text) {
  struct buf all = {0};
  int rc = DW_OK;
  for (const char *at = text; rc == DW_OK; at++) {
    size_t n = strcspn(at, ",");
    char *one = strndup(at, n), *full = one ? parse_address(one) : NULL;
    if (!full) rc = one ? DW_INVALID : dw_fail_nomem(n);
    if (rc == DW_OK && all.len) rc = buf_append(&all, ",", 1);
    if (rc == DW_OK) rc = buf_append(&all, full, strlen(full));
    free(one);
    free(full);
    at += n;
    if (!*at) break;
  }
  if (rc == DW_OK) rc = buf_append(&all, "", 1);
  if (rc == DW_OK) rc = repair_source_check((const char *)all.data);
  if (rc == DW_OK) return (char *)all.data;
  buf_free(&all);
  return NULL;
}

/* Edit distance of at most 2 (1 for short words), by a plain Levenshtein table. */
bool close_spelling(const char *text, const char *candidate) {
  enum { MAX = 24 };
  size_t n = strlen(text), m = strlen(candidate), row[MAX + 1];
  if (n > MAX || m > MAX || n > m + 2 || m > n + 2) return false;
  for (size_t j = 0; j <= m; j++) row[j] = j;
  for (size_t i = 1; i <= n; i++) {
    size_t diagonal = row[0], least = i;
    row[0] = i;
    for (size_t j = 1; j <= m; j++) {
      size_t change = diagonal + (text[i - 1] != candidate[j - 1]);
      diagonal = row[j];
      size_t best = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
      row[j] = change < best ? change : best;
      if (row[j] < least) least = row[j];
    }
    if (least > 2) return false; /* no row below gets better */
  }
  return row[m] <= (m <= 4 ? 1 : 2);
}
