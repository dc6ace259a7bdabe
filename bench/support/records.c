#include "bench/support/records.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/bench.h"

uint64_t rnd_next(uint64_t *s) {
  *s ^= *s << 13;
  *s ^= *s >> 7;
  *s ^= *s << 17;
  return *s;
}

static uint64_t mix(uint64_t x) { /* splitmix64: a seed that is as good as any other, and never 0 twice */
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return (x ^ (x >> 31)) | 1;
}

static void fill_random(char *p, size_t n, uint64_t *state) {
  for (size_t i = 0; i < n; i += 8) {
    uint64_t x = rnd_next(state);
    memcpy(p + i, &x, n - i < 8 ? n - i : 8);
  }
}

/* ---- the package index ----------------------------------------------------------------------- */

static struct {
  char *text;
  struct paragraph {
    char key[200];
    const char *val;
    size_t vlen;
  } * list;
  size_t n;
  const char *origin;
} debian;

static char *slurp(FILE *f, size_t *n) {
  size_t cap = 1 << 20;
  char *text = malloc(cap);
  *n = 0;
  for (size_t got; text && (got = fread(text + *n, 1, cap - *n - 1, f)) > 0;) {
    *n += got;
    if (cap - *n < 65536) text = realloc(text, cap *= 2);
  }
  if (!text) bench_die("no memory for the package index");
  text[*n] = 0;
  return text;
}

/* The value of a field at the start of a line of this paragraph. */
static void field(const char *p, size_t n, const char *name, char out[64]) {
  size_t len = strlen(name);
  out[0] = 0;
  for (const char *line = p; line && line < p + n; line = memchr(line, '\n', (size_t)(p + n - line))) {
    if (*line == '\n') line++;
    if ((size_t)(p + n - line) <= len || strncmp(line, name, len)) continue;
    size_t v = strcspn(line + len, "\n");
    snprintf(out, 64, "%.*s", (int)(v < 63 ? v : 63), line + len);
    return;
  }
}

/* Where the paragraph ends: behind its last newline. (Not strstr, which sanitizers turn into a walk to the text's end.)
 */
static char *paragraph_end(char *p) {
  while (*p && *p != '\n') {
    p = strchrnul(p, '\n');
    if (*p) p++;
  }
  return p;
}

size_t debian_load(void) {
  if (debian.n) return debian.n;
  size_t n = 0;
  FILE *f = popen("apt-cache dumpavail 2>/dev/null", "r");
  debian.origin = "apt-cache dumpavail";
  if (f) {
    debian.text = slurp(f, &n);
    pclose(f);
  }
  if (n == 0 && (f = fopen("/var/lib/dpkg/status", "r"))) {
    debian.origin = "/var/lib/dpkg/status";
    free(debian.text);
    debian.text = slurp(f, &n);
    fclose(f);
  }
  size_t cap = 0;
  for (char *p = debian.text, *end; n && *p; p = *end ? end + 1 : end) {
    end = paragraph_end(p);
    size_t len = (size_t)(end - p);
    if (len < 10) continue;
    if (debian.n == cap) debian.list = realloc(debian.list, (cap = cap ? 2 * cap : 1024) * sizeof *debian.list);
    if (!debian.list) bench_die("no memory for the package index");
    char name[64], version[64], arch[64];
    field(p, len, "Package: ", name);
    field(p, len, "Version: ", version);
    field(p, len, "Architecture: ", arch);
    struct paragraph *para = &debian.list[debian.n++];
    snprintf(para->key, sizeof para->key, "%s/%s/%s", name, version, arch);
    para->val = p;
    para->vlen = len;
  }
  return debian.n;
}

const char *debian_origin(void) {
  return debian.origin;
}

/* ---- sources --------------------------------------------------------------------------------- */

#define JSON_BYTES 512

void source_init(struct record_source *s, enum record_kind kind, uint64_t seed) {
  size_t n = kind == RECORD_JSON ? JSON_BYTES : (size_t)bench.value_bytes;
  *s = (struct record_source){.kind = kind, .state = mix(seed)};
  s->val = malloc(n);
  if (!s->val) bench_die("no memory");
  memset(s->val, 'v', n);
  s->record = (struct record){s->key, RECORD_KEY_BYTES, s->val, n};
  if (kind == RECORD_DEBIAN) {
    if (!debian_load()) bench_die("no package index on this machine");
    s->n = s->state % debian.n;
  }
}

void source_free(struct record_source *s) {
  free(s->val);
}

static void json(struct record_source *s) {
  static const char *const method[] = {"GET", "PUT", "POST", "DELETE"};
  static const char *const city[] = {"Mumbai", "Pune", "Nagpur", "Thane", "Nashik", "Kalyan", "Vasai", "Solapur"};
  uint64_t a = rnd_next(&s->state), b = rnd_next(&s->state), c = rnd_next(&s->state);
  s->n += 1 + a % 5;
  s->record.klen = (size_t)snprintf(s->key, sizeof s->key, "order:%08llx%04llx", (unsigned long long)(b & 0xffffffff),
                                    (unsigned long long)(c & 0xffff));
  s->record.vlen = (size_t)snprintf(
      s->val, JSON_BYTES,
      "{\"id\":\"%016llx\",\"time\":\"2026-11-24T%02u:%02u:%02u.%03uZ\",\"level\":\"info\",\"service\":\"orders\","
      "\"method\":\"%s\",\"path\":\"/v1/orders/%u/items\",\"status\":%u,\"duration_ms\":%u.%u,"
      "\"customer\":{\"id\":%u,\"city\":\"%s\",\"premium\":%s},\"items\":%u,\"amount\":%u.%02u,\"currency\":\"INR\"}",
      (unsigned long long)c, (unsigned)(s->n / 3600000 % 24), (unsigned)(s->n / 60000 % 60),
      (unsigned)(s->n / 1000 % 60), (unsigned)(s->n % 1000), method[a >> 8 & 3], (unsigned)(b >> 40),
      a >> 16 & 15 ? 200u : 404u, (unsigned)(a >> 24 & 127), (unsigned)(a >> 32 & 7), (unsigned)(b >> 20 & 0xfffff),
      city[a >> 40 & 7], a >> 44 & 7 ? "false" : "true", (unsigned)(a >> 48 & 7) + 1, (unsigned)(c >> 50),
      (unsigned)(c >> 40 & 63));
}

static void half(struct record_source *s, uint64_t *state) {
  fill_random(s->key, RECORD_KEY_BYTES, state);
  fill_random(s->val, s->kind == RECORD_RANDOM ? s->record.vlen : s->record.vlen / 2, state);
}

const struct record *source_next(struct record_source *s) {
  if (s->kind == RECORD_JSON) {
    json(s);
  } else if (s->kind == RECORD_DEBIAN) {
    const struct paragraph *p = &debian.list[s->n++ % debian.n];
    s->record = (struct record){p->key, strlen(p->key), p->val, p->vlen};
  } else {
    half(s, &s->state);
  }
  return &s->record;
}

const struct record *source_at(struct record_source *s, uint64_t i) {
  uint64_t state = mix(i);
  half(s, &state);
  return &s->record;
}
