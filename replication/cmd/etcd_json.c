/* etcd's JSON gateway writes keys and values in base64 and 64-bit numbers as strings, and leaves out whatever is zero,
 * false or empty: a missing field is a zero, a field of another type is no answer of etcd. */
#include "replication/cmd/etcd_json.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/config.h"
#include "replication/cmd/text.h"
#include "wal/base/status.h"

#define TTL_MAX_S 86400u

/* ---- base64 -------------------------------------------------------------------------------------------- */

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int base64_encode(struct buf *out, const void *bytes, size_t n) {
  const uint8_t *p = bytes;
  int rc = buf_reserve(out, (n + 2) / 3 * 4);
  for (size_t i = 0; rc == DW_OK && i < n; i += 3) {
    uint32_t v = (uint32_t)p[i] << 16;
    if (i + 1 < n) v |= (uint32_t)p[i + 1] << 8;
    if (i + 2 < n) v |= p[i + 2];
    char four[4] = {letters[v >> 18], letters[v >> 12 & 63], i + 1 < n ? letters[v >> 6 & 63] : '=',
                    i + 2 < n ? letters[v & 63] : '='};
    rc = buf_append(out, four, 4);
  }
  return rc;
}

int base64_decode(const char *text, size_t max, uint8_t *out, size_t *n) {
  size_t len = strlen(text), pad = 0, got = 0;
  while (pad < len && pad < 2 && text[len - 1 - pad] == '=') pad++;
  if (len % 4 || len / 4 * 3 - pad > max) return dw_fail(DW_CORRUPT, "bad base64");
  uint32_t v = 0;
  for (size_t i = 0; i < len - pad; i++) {
    const char *at = strchr(letters, text[i]);
    if (!at) return dw_fail(DW_CORRUPT, "bad base64");
    v = v << 6 | (uint32_t)(at - letters);
    if (i % 4 == 3) {
      out[got++] = (uint8_t)(v >> 16), out[got++] = (uint8_t)(v >> 8), out[got++] = (uint8_t)v;
      v = 0;
    }
  }
  if (pad == 1) out[got++] = (uint8_t)(v >> 10), out[got++] = (uint8_t)(v >> 2);
  if (pad == 2) out[got++] = (uint8_t)(v >> 4);
  if ((pad == 1 && (v & 3)) || (pad == 2 && (v & 15))) return dw_fail(DW_CORRUPT, "bad base64");
  *n = got;
  return DW_OK;
}

/* ---- requests ------------------------------------------------------------------------------------------- */

static bool add_bytes(cJSON *o, const char *name, const char *text) {
  struct buf b = {0};
  bool done = base64_encode(&b, text, strlen(text)) == DW_OK && buf_append(&b, "", 1) == DW_OK &&
              cJSON_AddStringToObject(o, name, (const char *)b.data);
  buf_free(&b);
  return done;
}

static bool add_number(cJSON *o, const char *name, uint64_t v) {
  char text[24];
  snprintf(text, sizeof text, "%llu", (unsigned long long)v);
  return cJSON_AddStringToObject(o, name, text) != NULL;
}

/* Frees `o`. */
static int print(struct buf *out, cJSON *o, bool whole) {
  char *text = whole ? cJSON_PrintUnformatted(o) : NULL;
  int rc = text ? buf_append(out, text, strlen(text)) : dw_fail_nomem(0);
  cJSON_free(text);
  cJSON_Delete(o);
  return rc;
}

int etcd_put_lease(struct buf *out, bool grant, uint64_t id, uint64_t ttl_s) {
  cJSON *o = cJSON_CreateObject();
  return print(out, o, o && (!grant || add_number(o, "TTL", ttl_s)) && (grant || add_number(o, "ID", id)));
}

int etcd_put_range(struct buf *out, const char *prefix) {
  char end[COORD_KEY_BYTES];
  snprintf(end, sizeof end, "%s", prefix);
  end[strlen(end) - 1]++; /* prefixes end in '/' */
  cJSON *o = cJSON_CreateObject();
  return print(out, o,
               o && add_bytes(o, "key", prefix) && add_bytes(o, "range_end", end) &&
                   add_number(o, "limit", COORD_ENTRIES));
}

static bool add_compare(cJSON *list, const struct coord_compare *c) {
  cJSON *o = cJSON_CreateObject();
  if (!o || !cJSON_AddItemToArray(list, o)) {
    cJSON_Delete(o);
    return false;
  }
  return add_bytes(o, "key", c->key) && cJSON_AddStringToObject(o, "result", "EQUAL") &&
         cJSON_AddStringToObject(o, "target", c->by_lease ? "LEASE" : "MOD") &&
         (c->by_lease ? add_number(o, "lease", c->lease) : add_number(o, "mod_revision", (uint64_t)c->revision));
}

static bool add_change(cJSON *list, const struct coord_change *c) {
  cJSON *o = cJSON_CreateObject();
  if (!o || !cJSON_AddItemToArray(list, o)) {
    cJSON_Delete(o);
    return false;
  }
  cJSON *op = cJSON_AddObjectToObject(o, c->value ? "request_put" : "request_delete_range");
  return op && add_bytes(op, "key", c->key) && (!c->value || add_bytes(op, "value", c->value)) &&
         (!c->value || !c->lease || add_number(op, "lease", c->lease));
}

int etcd_put_txn(struct buf *out, const struct coord_compare *c, size_t compares, const struct coord_change *d,
                 size_t changes) {
  cJSON *o = cJSON_CreateObject(), *list = o ? cJSON_AddArrayToObject(o, "compare") : NULL;
  bool whole = list != NULL;
  for (size_t i = 0; whole && i < compares; i++) whole = add_compare(list, &c[i]);
  if (whole) whole = (list = cJSON_AddArrayToObject(o, "success")) != NULL;
  for (size_t i = 0; whole && i < changes; i++) whole = add_change(list, &d[i]);
  return print(out, o, whole);
}

/* ---- answers -------------------------------------------------------------------------------------------- */

static int no_answer(void) {
  return dw_fail(DW_CORRUPT, "this is no answer of etcd's v3 JSON gateway");
}

static int parse(const uint8_t *p, size_t n, cJSON **out) {
  *out = cJSON_ParseWithLength((const char *)p, n);
  if (*out && cJSON_IsObject(*out)) return DW_OK;
  cJSON_Delete(*out);
  *out = NULL;
  return no_answer();
}

static bool number(const cJSON *o, const char *name, uint64_t max, uint64_t *out) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
  *out = 0;
  if (!v) return true;
  return cJSON_IsString(v) && parse_number(v->valuestring, 0, max, out);
}

int etcd_get_grant(const uint8_t *p, size_t n, uint64_t *lease, uint64_t *ttl_ms) {
  cJSON *o;
  uint64_t ttl = 0;
  int rc = parse(p, n, &o);
  if (rc == DW_OK && (!number(o, "ID", INT64_MAX, lease) || !number(o, "TTL", TTL_MAX_S, &ttl) || !*lease || !ttl))
    rc = no_answer();
  if (rc == DW_OK) *ttl_ms = ttl * 1000;
  cJSON_Delete(o);
  return rc;
}

int etcd_get_keepalive(const uint8_t *p, size_t n, uint64_t *ttl_ms) {
  cJSON *o;
  uint64_t ttl = 0;
  int rc = parse(p, n, &o);
  const cJSON *result = rc == DW_OK ? cJSON_GetObjectItemCaseSensitive(o, "result") : NULL;
  if (rc == DW_OK && (!cJSON_IsObject(result) || !number(result, "TTL", TTL_MAX_S, &ttl))) rc = no_answer();
  if (rc == DW_OK && ttl == 0) rc = dw_fail(DW_NOT_FOUND, "the lease has expired");
  if (rc == DW_OK) *ttl_ms = ttl * 1000;
  cJSON_Delete(o);
  return rc;
}

/* malloc'd, terminated. */
static int bytes(const cJSON *o, const char *name, size_t max, char **out) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
  size_t n = 0;
  if (v && !cJSON_IsString(v)) return no_answer();
  char *text = malloc(max + 4);
  if (!text) return dw_fail_nomem(max);
  int rc = v ? base64_decode(v->valuestring, max, (uint8_t *)text, &n) : DW_OK;
  if (rc == DW_OK && memchr(text, 0, n)) rc = dw_fail(DW_CORRUPT, "a %s with a zero byte", name);
  if (rc) {
    free(text);
    return rc;
  }
  text[n] = 0;
  *out = text;
  return DW_OK;
}

static int entry(const cJSON *kv, size_t prefix_len, struct coord_entry *e) {
  uint64_t revision = 0;
  *e = (struct coord_entry){0};
  if (!cJSON_IsObject(kv) || !number(kv, "mod_revision", INT64_MAX, &revision) || !revision ||
      !number(kv, "lease", INT64_MAX, &e->lease))
    return no_answer();
  e->revision = (int64_t)revision;
  int rc = bytes(kv, "key", COORD_KEY_BYTES, &e->key);
  if (rc == DW_OK) rc = bytes(kv, "value", COORD_VALUE_BYTES, &e->value);
  size_t n = e->key ? strlen(e->key) : 0;
  if (rc == DW_OK && n < prefix_len) rc = no_answer();
  if (rc == DW_OK) memmove(e->key, e->key + prefix_len, n - prefix_len + 1);
  return rc;
}

int etcd_get_range(const uint8_t *p, size_t n, size_t prefix_len, struct coord_entries *out) {
  cJSON *o;
  int rc = parse(p, n, &o);
  if (rc) return rc;
  const cJSON *kvs = cJSON_GetObjectItemCaseSensitive(o, "kvs"), *kv;
  if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "more")) || (kvs && !cJSON_IsArray(kvs)) ||
      cJSON_GetArraySize(kvs) > (int)COORD_ENTRIES)
    rc = dw_fail(DW_CORRUPT, "more than %u keys of this cluster", COORD_ENTRIES);
  if (rc == DW_OK && !cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(o, "header"))) rc = no_answer();
  if (rc == DW_OK && kvs && cJSON_GetArraySize(kvs)) {
    out->e = calloc((size_t)cJSON_GetArraySize(kvs), sizeof *out->e);
    if (!out->e) rc = dw_fail_nomem(sizeof *out->e);
  }
  cJSON_ArrayForEach(kv, kvs) {
    if (rc) break;
    rc = entry(kv, prefix_len, &out->e[out->count++]);
  }
  cJSON_Delete(o);
  return rc;
}

int etcd_get_txn(const uint8_t *p, size_t n, bool *done) {
  cJSON *o;
  int rc = parse(p, n, &o);
  if (rc) return rc;
  const cJSON *s = cJSON_GetObjectItemCaseSensitive(o, "succeeded");
  if ((s && !cJSON_IsBool(s)) || !cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(o, "header"))) rc = no_answer();
  *done = rc == DW_OK && cJSON_IsTrue(s);
  cJSON_Delete(o);
  return rc;
}

int etcd_get_error(const uint8_t *p, size_t n, long status) {
  cJSON *o = cJSON_ParseWithLength((const char *)p, n);
  const cJSON *text = cJSON_GetObjectItemCaseSensitive(o, "error"), *code = cJSON_GetObjectItemCaseSensitive(o, "code");
  char clean[200] = "no reason given";
  if (cJSON_IsString(text)) text_clean(clean, sizeof clean, text->valuestring);
  bool lease = cJSON_IsNumber(code) && code->valuedouble == 5; /* gRPC's NOT_FOUND; of all we ask for only leases */
  cJSON_Delete(o);
  return dw_fail(lease ? DW_NOT_FOUND : DW_IO, "HTTP status %ld: %s", status, clean);
}
