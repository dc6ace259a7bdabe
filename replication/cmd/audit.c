#include "replication/cmd/audit.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "replication/cmd/text.h"
#include "wal/base/status.h"

#define LINE_MAX_BYTES 4096u

struct audit {
  char *path;
  uint64_t node_id, seq;
  struct hash128 prev;
  int fd;
};

/* ---- reading -------------------------------------------------------------------------------------------- */

static bool hex128(const char *text, struct hash128 *out) {
  if (strlen(text) != 32 || strspn(text, "0123456789abcdef") != 32) return false;
  for (size_t i = 0; i < 16; i++) {
    char two[3] = {text[2 * i], text[2 * i + 1], 0};
    out->b[i] = (uint8_t)strtoul(two, NULL, 16);
  }
  return true;
}

static bool hash_field(const cJSON *o, const char *name, struct hash128 *out) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
  return cJSON_IsString(v) && hex128(v->valuestring, out);
}

/* Is this line whole, by its own hash? */
static bool parse_line(const char *line, size_t n, uint64_t *seq, struct hash128 *prev, struct hash128 *hash) {
  static const char tail[] = ",\"hash\":\"";
  const size_t tail_bytes = sizeof tail - 1 + 32 + 2; /* ...hex"} */
  if (n <= tail_bytes || memcmp(line + n - tail_bytes, tail, sizeof tail - 1) != 0) return false;
  cJSON *o = cJSON_ParseWithLength(line, n);
  const cJSON *s = cJSON_GetObjectItemCaseSensitive(o, "seq");
  bool good = cJSON_IsNumber(s) && s->valuedouble >= 1 && s->valuedouble < 9e15 && hash_field(o, "prev", prev) &&
              hash_field(o, "hash", hash);
  if (good) *seq = (uint64_t)s->valuedouble;
  cJSON_Delete(o);
  struct hash128 real = hash128(line, n - tail_bytes);
  return good && hash128_eq(&real, hash);
}

struct walk {
  struct audit_summary sum;
  uint64_t seq;
  bool open_end; /* the last line has no line feed */
};

static int walk_line(const char *path, struct walk *w, uint64_t number, const char *line, size_t n, bool *pending) {
  uint64_t seq = 0;
  struct hash128 prev, hash;
  if (!parse_line(line, n, &seq, &prev, &hash)) {
    if (*pending)
      return dw_fail(DW_CORRUPT, "%s: lines %llu and %llu are damaged", path, (unsigned long long)number - 1,
                     (unsigned long long)number);
    *pending = true; /* a torn one, if the next goes on from the last whole one and there is no gap */
    w->sum.torn++;
    return DW_OK;
  }
  if (!hash128_eq(&prev, &w->sum.last) || seq != w->seq + 1)
    return dw_fail(DW_CORRUPT, "%s: line %llu does not follow the one before: %s", path, (unsigned long long)number,
                   *pending ? "that one was changed" : "something was changed, removed or put in");
  *pending = false;
  w->sum.last = hash;
  w->seq = seq;
  w->sum.lines++;
  return DW_OK;
}

static int walk_file(const char *path, struct walk *w) {
  FILE *f = fopen(path, "re");
  if (!f)
    return errno == ENOENT ? dw_fail(DW_NOT_FOUND, "%s: there is none", path) : dw_fail_errno(errno, "open %s", path);
  char *line = NULL;
  size_t cap = 0;
  bool pending = false;
  int rc = DW_OK;
  ssize_t n;
  for (uint64_t number = 1; rc == DW_OK && (n = getline(&line, &cap, f)) > 0; number++) {
    w->open_end = line[n - 1] != '\n';
    size_t len = (size_t)n - !w->open_end;
    rc = walk_line(path, w, number, line, len, &pending);
  }
  if (rc == DW_OK && ferror(f)) rc = dw_fail_errno(errno, "read %s", path);
  free(line);
  fclose(f);
  /* Only a piece without an end can be the trace of a crash when nothing follows it. */
  if (rc == DW_OK && pending && !w->open_end) rc = dw_fail(DW_CORRUPT, "%s: the last line is damaged", path);
  return rc;
}

int audit_verify(const char *path, struct audit_summary *out) {
  struct walk w = {0};
  int rc = walk_file(path, &w);
  if (rc == DW_OK) *out = w.sum;
  return rc;
}

/* ---- writing -------------------------------------------------------------------------------------------- */

int audit_open(const char *path, uint64_t node_id, struct audit **out) {
  struct walk w = {0};
  int rc = walk_file(path, &w);
  if (rc && rc != DW_NOT_FOUND) return rc;
  struct audit *a = calloc(1, sizeof *a);
  if (!a || !(a->path = strdup(path))) {
    free(a);
    return dw_fail_nomem(sizeof *a);
  }
  a->node_id = node_id;
  a->seq = w.seq;
  a->prev = w.sum.last;
  a->fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
  rc = a->fd < 0 ? dw_fail_errno(errno, "open %s", path) : DW_OK;
  if (rc == DW_OK && w.open_end && write(a->fd, "\n", 1) != 1) rc = dw_fail_errno(errno, "write %s", path);
  if (rc)
    audit_close(a);
  else
    *out = a;
  return rc;
}

void audit_close(struct audit *a) {
  if (!a) return;
  if (a->fd >= 0) close(a->fd);
  free(a->path);
  free(a);
}

static bool add_id(cJSON *o, const char *name, uint64_t v) {
  char text[24];
  snprintf(text, sizeof text, "%llu", (unsigned long long)v);
  return v ? cJSON_AddStringToObject(o, name, text) != NULL : cJSON_AddNullToObject(o, name) != NULL;
}

static bool add_u64(cJSON *o, const char *name, uint64_t v) {
  char text[24];
  snprintf(text, sizeof text, "%llu", (unsigned long long)v);
  return cJSON_AddRawToObject(o, name, text) != NULL;
}

/* Without the hash. malloc'd; NULL: no memory. */
static char *render(const struct audit *l, const struct failover_audit *a) {
  char when[40], why[FAILOVER_WHY], prev[33];
  struct timespec ts;
  struct tm tm;
  clock_gettime(CLOCK_REALTIME, &ts);
  gmtime_r(&ts.tv_sec, &tm);
  size_t n = strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
  snprintf(when + n, sizeof when - n, ".%03ldZ", ts.tv_nsec / 1000000);
  text_clean(why, sizeof why, a->why);
  hash128_hex(&l->prev, prev);
  cJSON *o = cJSON_CreateObject();
  bool whole =
      o && add_u64(o, "seq", l->seq + 1) && cJSON_AddStringToObject(o, "time", when) && add_id(o, "node", l->node_id) &&
      cJSON_AddStringToObject(o, "event", a->event) && cJSON_AddStringToObject(o, "why", why) &&
      add_id(o, "from", a->from_node) && add_id(o, "to", a->to_node) && add_id(o, "from_epoch", a->from_epoch) &&
      add_id(o, "to_epoch", a->to_epoch) && add_u64(o, "from_lsn", a->from_lsn) && add_u64(o, "to_lsn", a->to_lsn) &&
      add_u64(o, "duration_ms", a->duration_ns / 1000000) && cJSON_AddStringToObject(o, "prev", prev);
  char *text = whole ? cJSON_PrintUnformatted(o) : NULL;
  cJSON_Delete(o);
  return text;
}

/* After a short write the file ends in a piece: it is cut off again, or, if even that fails, ended by the next open. */
static int put_line(struct audit *l, const char *line, size_t n) {
  struct stat st;
  if (fstat(l->fd, &st)) return dw_fail_errno(errno, "%s", l->path);
  ssize_t put = write(l->fd, line, n);
  if (put == (ssize_t)n && fdatasync(l->fd) == 0) return DW_OK;
  int rc = dw_fail_errno(put >= 0 && put < (ssize_t)n ? ENOSPC : errno, "write %s", l->path);
  if (ftruncate(l->fd, st.st_size)) return rc;
  return rc;
}

int audit_write(struct audit *l, const struct failover_audit *a) {
  char line[LINE_MAX_BYTES], hex[33], *text = render(l, a);
  if (!text) return dw_fail_nomem(LINE_MAX_BYTES);
  size_t body = strlen(text) - 1; /* without the brace that closes it */
  struct hash128 hash = hash128(text, body);
  hash128_hex(&hash, hex);
  int n = snprintf(line, sizeof line, "%.*s,\"hash\":\"%s\"}\n", (int)body, text, hex);
  cJSON_free(text);
  int rc = n > 0 && (size_t)n < sizeof line ? put_line(l, line, (size_t)n)
                                            : dw_fail(DW_INVALID, "an audit line that is too long");
  if (rc) return rc;
  l->prev = hash;
  l->seq++;
  return DW_OK;
}
