#include "replication/cmd/failover_keys.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#include "replication/cmd/config.h"
#include "replication/cmd/text.h"
#include "wal/base/status.h"

#define CLUSTER_NAME_MAX 64u

int failover_prefix(const char *cluster, char out[COORD_KEY_BYTES]) {
  static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
  size_t n = strlen(cluster);
  if (n == 0 || n > CLUSTER_NAME_MAX || strspn(cluster, allowed) != n)
    return dw_fail(DW_INVALID, "'%.80s' is no name of a cluster: 1 to %u letters, digits, - _ .", cluster,
                   CLUSTER_NAME_MAX);
  snprintf(out, COORD_KEY_BYTES, "/dabbawal/%s/", cluster);
  return DW_OK;
}

/* ---- writing: 64-bit numbers as strings, but for times ----------------------------------------------------- */

static bool add_id(cJSON *o, const char *name, uint64_t v) {
  char text[24];
  snprintf(text, sizeof text, "%llu", (unsigned long long)v);
  return cJSON_AddStringToObject(o, name, text) != NULL;
}

static char *finish(cJSON *o, bool whole) {
  char *text = whole ? cJSON_PrintUnformatted(o) : NULL;
  cJSON_Delete(o);
  return text;
}

char *failover_leader_json(const struct failover_leader *l) {
  cJSON *o = cJSON_CreateObject();
  return finish(o, o && add_id(o, "node", l->node_id) && add_id(o, "epoch", l->epoch) &&
                       cJSON_AddStringToObject(o, "address", l->address) &&
                       cJSON_AddStringToObject(o, "client", l->client));
}

char *failover_member_json(const struct failover_member *m) {
  cJSON *o = cJSON_CreateObject();
  return finish(
      o, o && add_id(o, "node", m->node_id) && add_id(o, "epoch", m->epoch) && add_id(o, "lsn", m->durable_lsn) &&
             (m->lag_ms == UINT64_MAX ? cJSON_AddNullToObject(o, "lag_ms") != NULL : add_id(o, "lag_ms", m->lag_ms)) &&
             add_id(o, "priority", m->priority) && cJSON_AddStringToObject(o, "region", m->region) &&
             cJSON_AddStringToObject(o, "address", m->address) && cJSON_AddBoolToObject(o, "primary", m->primary) &&
             cJSON_AddBoolToObject(o, "healthy", m->healthy) && cJSON_AddBoolToObject(o, "has_data", m->has_data));
}

char *failover_record_json(const struct failover_record *r) {
  cJSON *o = cJSON_CreateObject(), *list = NULL;
  bool whole = o && add_id(o, "term", r->term) && add_id(o, "epoch", r->epoch) && add_id(o, "node", r->node_id) &&
               (list = cJSON_AddArrayToObject(o, "failovers_ms"));
  for (uint32_t i = 0; whole && i < r->count; i++) {
    cJSON *v = cJSON_CreateNumber((double)r->stamps_ms[i]);
    whole = v && cJSON_AddItemToArray(list, v);
  }
  return finish(o, whole);
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

static bool id(const cJSON *o, const char *name, uint64_t *out) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
  return cJSON_IsString(v) && parse_number(v->valuestring, 0, UINT64_MAX, out);
}

static bool text(const cJSON *o, const char *name, char out[FAILOVER_TEXT]) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
  if (!cJSON_IsString(v) || strlen(v->valuestring) >= FAILOVER_TEXT ||
      !text_is_utf8(v->valuestring, strlen(v->valuestring)))
    return false;
  snprintf(out, FAILOVER_TEXT, "%s", v->valuestring);
  return true;
}

static bool flag(const cJSON *o, const char *name, bool *out) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
  *out = cJSON_IsTrue(v);
  return cJSON_IsBool(v);
}

static bool leader(const cJSON *o, const struct coord_entry *e, struct failover_leader *l) {
  l->revision = e->revision;
  l->lease = e->lease;
  return id(o, "node", &l->node_id) && l->node_id && id(o, "epoch", &l->epoch) && text(o, "address", l->address) &&
         l->address[0] && text(o, "client", l->client);
}

static bool member(const cJSON *o, const struct coord_entry *e, struct failover_member *m) {
  uint64_t priority = 0, name = 0;
  const cJSON *lag = cJSON_GetObjectItemCaseSensitive(o, "lag_ms");
  m->revision = e->revision;
  m->lag_ms = UINT64_MAX;
  if (!parse_number(e->key + strlen(KEY_MEMBERS), 1, UINT64_MAX, &name) || !id(o, "node", &m->node_id) ||
      m->node_id != name || !id(o, "priority", &priority) || priority > UINT32_MAX)
    return false;
  m->priority = (uint32_t)priority;
  return id(o, "epoch", &m->epoch) && id(o, "lsn", &m->durable_lsn) &&
         (cJSON_IsNull(lag) || id(o, "lag_ms", &m->lag_ms)) && text(o, "region", m->region) &&
         text(o, "address", m->address) && flag(o, "primary", &m->primary) && flag(o, "healthy", &m->healthy) &&
         flag(o, "has_data", &m->has_data);
}

static bool record(const cJSON *o, const struct coord_entry *e, struct failover_record *r) {
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(o, "failovers_ms"), *v;
  r->revision = e->revision;
  if (!id(o, "term", &r->term) || !id(o, "epoch", &r->epoch) || !id(o, "node", &r->node_id) || !cJSON_IsArray(list))
    return false;
  cJSON_ArrayForEach(v, list) {
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0 && v->valuedouble < 9e15) || r->count == FAILOVER_STAMPS)
      return false;
    r->stamps_ms[r->count++] = (uint64_t)v->valuedouble;
  }
  return true;
}

static bool known(const struct failover_view *v, uint64_t node_id) {
  for (uint32_t i = 0; i < v->member_count; i++)
    if (v->members[i].node_id == node_id) return true;
  return false;
}

int failover_view_parse(const struct coord_entries *l, struct failover_view *v, unsigned *bad) {
  memset(v, 0, sizeof *v);
  *bad = 0;
  for (size_t i = 0; i < l->count; i++) {
    const struct coord_entry *e = &l->e[i];
    bool is_leader = strcmp(e->key, KEY_LEADER) == 0, is_record = strcmp(e->key, KEY_RECORD) == 0;
    bool is_member = strncmp(e->key, KEY_MEMBERS, strlen(KEY_MEMBERS)) == 0, good = true;
    if (strcmp(e->key, KEY_PAUSE) == 0) v->paused = true;
    if (!is_leader && !is_record && !is_member) continue;
    cJSON *o = cJSON_Parse(e->value);
    if (is_leader) good = v->has_leader = !v->has_leader && leader(o, e, &v->leader);
    if (is_record) good = v->has_record = !v->has_record && record(o, e, &v->record);
    if (is_member) {
      struct failover_member m = {0};
      good = v->member_count < FAILOVER_MEMBERS && member(o, e, &m) && !known(v, m.node_id);
      if (good) v->members[v->member_count++] = m;
      *bad += !good;
      good = true;
    }
    cJSON_Delete(o);
    if (!good) return dw_fail(DW_CORRUPT, "the coordinator's key '%.100s' can't be read", e->key);
  }
  return DW_OK;
}
