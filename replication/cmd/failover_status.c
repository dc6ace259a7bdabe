#include "replication/cmd/failover_status.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/text.h"

static bool add_text(cJSON *o, const char *name, const char *s) {
  char clean[512];
  text_clean(clean, sizeof clean, s);
  return cJSON_AddStringToObject(o, name, clean) != NULL;
}

static bool add_u64(cJSON *o, const char *name, uint64_t v, bool quoted) {
  char text[24];
  snprintf(text, sizeof text, "%llu", (unsigned long long)v);
  return (quoted ? cJSON_AddStringToObject(o, name, text) : cJSON_AddRawToObject(o, name, text)) != NULL;
}

static bool add_report(cJSON *o, const struct failover_report *r) {
  return add_text(o, "state", failover_state_name(r->state)) && cJSON_AddBoolToObject(o, "reachable", r->reachable) &&
         cJSON_AddBoolToObject(o, "paused", r->paused) && cJSON_AddBoolToObject(o, "restricted", r->restricted) &&
         add_u64(o, "lease_left_ms", r->lease_left_ms, false) && add_u64(o, "term", r->term, false) &&
         (r->has_leader ? add_u64(o, "leader", r->leader_node, true) : cJSON_AddNullToObject(o, "leader") != NULL) &&
         add_text(o, "leader_address", r->leader) && add_text(o, "leader_client", r->leader_client) &&
         add_u64(o, "failovers", r->failovers, false) && add_text(o, "decision", r->decision) &&
         add_text(o, "score", r->score);
}

char *failover_json_join(char *status, const struct failover_report *r, size_t *n) {
  static const char name[] = ",\"coordinator\":";
  cJSON *o = cJSON_CreateObject();
  char *text = o && add_report(o, r) ? cJSON_PrintUnformatted(o) : NULL;
  cJSON_Delete(o);
  size_t was = strlen(status), more = text ? strlen(text) : 0;
  char *all = text ? realloc(status, was + sizeof name + more + 1) : NULL;
  if (!all) free(status);
  if (all) { /* the object's last brace moves behind */
    size_t m = was - 1 + (size_t)snprintf(all + was - 1, sizeof name + more + 2, "%s%s}", name, text);
    if (n) *n = m;
  }
  cJSON_free(text);
  return all;
}
