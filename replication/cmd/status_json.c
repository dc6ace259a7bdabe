/* dw_status as JSON, with cJSON. Numbers beyond 2^53 would lose digits in a double, so LSNs and ids are written raw. */
#include "replication/cmd/status_json.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

const char *status_role(dw_role r) { return r == DW_PRIMARY ? "primary" : "follower"; }

const char *status_mode(dw_mode m) { return m == DW_SYNC ? "sync" : m == DW_SEMI_SYNC ? "semi-sync" : "async"; }

const char *status_ack(dw_ack a) { return a == DW_ACK_RECEIVED ? "received" : a == DW_ACK_APPLIED ? "applied" : "durable"; }

const char *status_peer_state(dw_peer_state s) {
  static const char *const names[] = {"disconnected", "connecting", "bootstrapping", "catching-up", "streaming", "refused"};
  return (unsigned)s < sizeof names / sizeof *names ? names[s] : "unknown";
}

static void number(cJSON *o, const char *name, uint64_t v) {
  char text[24];
  snprintf(text, sizeof text, "%llu", (unsigned long long)v);
  cJSON_AddRawToObject(o, name, text);
}

/* UINT64_MAX stands for "unknown" in dw_status. */
static void number_or_null(cJSON *o, const char *name, uint64_t v) {
  if (v == UINT64_MAX)
    cJSON_AddNullToObject(o, name);
  else
    number(o, name, v);
}

static cJSON *follower(const dw_follower_status *f) {
  cJSON *o = cJSON_CreateObject();
  number(o, "node_id", f->node_id);
  cJSON_AddStringToObject(o, "region", f->region);
  cJSON_AddStringToObject(o, "address", f->address);
  cJSON_AddStringToObject(o, "state", status_peer_state(f->state));
  number(o, "received_lsn", f->received_lsn);
  number(o, "durable_lsn", f->durable_lsn);
  number(o, "applied_lsn", f->applied_lsn);
  number(o, "lag_lsns", f->lag_lsns);
  number(o, "lag_bytes", f->lag_bytes);
  number(o, "lag_ms", f->lag_ms);
  number_or_null(o, "staleness_ms", f->staleness_ms);
  number(o, "sent_bytes", f->sent_bytes);
  return o;
}

char *status_json(const dw_status *s, size_t *n) {
  cJSON *o = cJSON_CreateObject();
  char cluster[33];
  for (int i = 0; i < 16; i++) snprintf(cluster + 2 * i, 3, "%02x", s->cluster_id[i]);
  cJSON_AddStringToObject(o, "version", dw_version());
  cJSON_AddStringToObject(o, "role", status_role(s->role));
  number(o, "node_id", s->node_id);
  cJSON_AddStringToObject(o, "cluster_id", cluster);
  cJSON_AddStringToObject(o, "region", s->region);
  number(o, "epoch", s->epoch);
  cJSON_AddStringToObject(o, "mode", status_mode(s->mode));
  cJSON_AddStringToObject(o, "ack", status_ack(s->ack));
  number(o, "acks", s->acks);
  cJSON_AddBoolToObject(o, "degraded", s->degraded);
  number(o, "degraded_commits", s->degraded_commits);
  number(o, "degraded_count", s->degraded_count);
  number(o, "written_lsn", s->written_lsn);
  number(o, "durable_lsn", s->durable_lsn);
  number(o, "commit_lsn", s->commit_lsn);
  number(o, "applied_lsn", s->applied_lsn);
  number(o, "persisted_lsn", s->persisted_lsn);
  number(o, "oldest_lsn", s->oldest_lsn);
  number(o, "log_bytes", s->log_bytes);
  number_or_null(o, "staleness_ms", s->staleness_ms);
  number(o, "commits", s->commits);
  number(o, "raw_bytes", s->raw_bytes);
  number(o, "stored_bytes", s->stored_bytes);
  number(o, "syncs", s->syncs);
  number(o, "approximate_keys", s->approximate_keys);
  cJSON_AddBoolToObject(o, "write_stalled", s->write_stalled);
  cJSON_AddBoolToObject(o, "failed", s->failed);
  cJSON_AddStringToObject(o, "error", s->error);
  cJSON_AddStringToObject(o, "primary", s->primary);
  if (s->role == DW_FOLLOWER) cJSON_AddStringToObject(o, "primary_state", status_peer_state(s->primary_state));
  number(o, "listen_port", s->listen_port);
  number(o, "bootstraps", s->bootstraps);
  cJSON *followers = cJSON_AddArrayToObject(o, "followers");
  for (uint32_t i = 0; followers && i < s->follower_count && i < DW_STATUS_MAX_FOLLOWERS; i++)
    cJSON_AddItemToArray(followers, follower(&s->followers[i]));
  char *text = followers ? cJSON_Print(o) : NULL;
  cJSON_Delete(o);
  if (text && n) *n = strlen(text);
  return text;
}
