/* dw_status as JSON. LSNs and counters are numbers (written exactly, not through a double), ids are strings (64 bits do
 * not survive JavaScript), what is unknown is null. Regions and error texts may come from other nodes: cleaned first.
 */
#include "replication/cmd/status_json.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/text.h"
#include "wal/base/status.h"
#include "wal/base/hash.h"

const char *status_role(dw_role r) {
  return r == DW_FOLLOWER ? "follower" : "primary";
}

const char *status_mode(dw_mode m) {
  return m == DW_SYNC ? "sync" : m == DW_SEMI_SYNC ? "semi-sync" : "async";
}

const char *status_ack(dw_ack a) {
  return a == DW_ACK_RECEIVED ? "received" : a == DW_ACK_APPLIED ? "applied" : "durable";
}

const char *status_peer_state(dw_peer_state s) {
  static const char *const names[] = {"disconnected", "connecting", "bootstrapping",
                                      "catching-up",  "streaming",  "refused"};
  return (unsigned)s < sizeof names / sizeof *names ? names[s] : "unknown";
}

/* The add_* functions return false without memory, so that one && chain checks everything. */
static bool add_u64(cJSON *o, const char *name, uint64_t v) {
  char text[24];
  snprintf(text, sizeof text, "%llu", (unsigned long long)v);
  return cJSON_AddRawToObject(o, name, text) != NULL;
}

static bool add_known(cJSON *o, const char *name, uint64_t v) {
  return v == UINT64_MAX ? cJSON_AddNullToObject(o, name) != NULL : add_u64(o, name, v);
}

static bool add_id(cJSON *o, const char *name, uint64_t v) {
  char text[24];
  snprintf(text, sizeof text, "%llu", (unsigned long long)v);
  return cJSON_AddStringToObject(o, name, text) != NULL;
}

static bool add_text(cJSON *o, const char *name, const char *s) {
  char clean[512];
  text_clean(clean, sizeof clean, s);
  return cJSON_AddStringToObject(o, name, clean) != NULL;
}

static bool add_bool(cJSON *o, const char *name, int v) {
  return cJSON_AddBoolToObject(o, name, v != 0) != NULL;
}

static bool add_follower(cJSON *list, const dw_follower_status *f) {
  cJSON *o = cJSON_CreateObject();
  if (!o || !cJSON_AddItemToArray(list, o)) {
    cJSON_Delete(o);
    return false;
  }
  return add_id(o, "node_id", f->node_id) && add_text(o, "region", f->region) && add_text(o, "address", f->address) &&
         add_text(o, "state", status_peer_state(f->state)) && add_u64(o, "received_lsn", f->received_lsn) &&
         add_u64(o, "durable_lsn", f->durable_lsn) && add_u64(o, "applied_lsn", f->applied_lsn) &&
         add_u64(o, "lag_lsns", f->lag_lsns) && add_u64(o, "lag_bytes", f->lag_bytes) &&
         add_u64(o, "lag_ms", f->lag_ms) && add_known(o, "staleness_ms", f->staleness_ms) &&
         add_u64(o, "sent_bytes", f->sent_bytes);
}

/* Before the node's own fields, so that a reader that greps for the last "applied_lsn" gets the node's. */
static bool add_followers(cJSON *o, const dw_status *s) {
  cJSON *list = cJSON_AddArrayToObject(o, "followers");
  if (!list) return false;
  for (uint32_t i = 0; i < s->follower_count && i < DW_STATUS_MAX_FOLLOWERS; i++)
    if (!add_follower(list, &s->followers[i])) return false;
  return true;
}

static bool add_member(cJSON *list, const dw_member *m) {
  cJSON *o = cJSON_CreateObject();
  if (!o || !cJSON_AddItemToArray(list, o)) {
    cJSON_Delete(o);
    return false;
  }
  return add_id(o, "node_id", m->node_id) && add_text(o, "role", status_role(m->role)) &&
         add_text(o, "client_address", m->client_address) && add_text(o, "address", m->address) &&
         add_text(o, "region", m->region) && add_u64(o, "priority", m->priority);
}

static bool add_members(cJSON *o, const dw_status *s) {
  cJSON *list = cJSON_AddArrayToObject(o, "members");
  for (uint32_t i = 0; list && i < s->member_count && i < DW_STATUS_MAX_MEMBERS; i++)
    if (!add_member(list, &s->members[i])) return false;
  return list != NULL;
}

static const char *reason_of(uint32_t reason) {
  static const char *const names[] = {
      [EPOCH_CREATED] = "created", [EPOCH_OPENED] = "opened", [EPOCH_PROMOTED] = "promoted"};
  return reason && reason < sizeof names / sizeof *names ? names[reason] : "unknown";
}

static bool add_epoch(cJSON *list, const struct epoch_record *r) {
  cJSON *o = cJSON_CreateObject();
  if (!o || !cJSON_AddItemToArray(list, o)) {
    cJSON_Delete(o);
    return false;
  }
  char chain[33];
  hash128_hex(&r->start.chain, chain);
  return add_u64(o, "epoch", r->epoch) && add_u64(o, "term", epoch_term(r->epoch)) &&
         add_id(o, "node_id", r->node_id) && add_text(o, "reason", reason_of(r->reason)) &&
         add_u64(o, "wall_ms", r->wall_ns / 1000000) && add_u64(o, "start_lsn", r->start.lsn) &&
         add_text(o, "start_chain", chain);
}

/* The newest ones, oldest first. */
static bool add_epochs(cJSON *o, const struct status_epochs *e) {
  if (!e) return true;
  cJSON *list = cJSON_AddArrayToObject(o, "epochs");
  for (size_t i = 0; list && i < e->count; i++)
    if (!add_epoch(list, &e->last[i])) return false;
  return list && add_u64(o, "epochs_total", e->total);
}

int status_epochs_get(dw_engine *e, struct status_epochs *out) {
  size_t cap = engine_epochs(e, NULL, 0) + 4;
  struct epoch_record *all = calloc(cap, sizeof *all);
  if (!all) return dw_fail_nomem(cap * sizeof *all);
  out->total = engine_epochs(e, all, cap);
  size_t there = out->total < cap ? out->total : cap;
  out->count = there < STATUS_EPOCHS ? there : STATUS_EPOCHS;
  memcpy(out->last, all + there - out->count, out->count * sizeof *all);
  free(all);
  return DW_OK;
}

static bool add_identity(cJSON *o, const dw_status *s) {
  struct hash128 cluster;
  char hex[33];
  memcpy(cluster.b, s->cluster_id, 16);
  hash128_hex(&cluster, hex);
  return add_text(o, "role", status_role(s->role)) && add_id(o, "node_id", s->node_id) &&
         add_text(o, "cluster_id", hash128_zero(&cluster) ? "" : hex) && add_text(o, "region", s->region) &&
         add_text(o, "version", dw_version());
}

static bool add_state(cJSON *o, const dw_status *s) {
  bool done =
      add_u64(o, "epoch", s->epoch) && add_u64(o, "term", epoch_term(s->epoch)) &&
      add_u64(o, "promised_epoch", s->promised_epoch) && add_id(o, "promised_node", s->promised_node) &&
      add_bool(o, "fenced", s->fenced) && add_bool(o, "writable", status_writable(s)) &&
      add_id(o, "primary_node", s->primary_node) && add_text(o, "primary_client", s->primary_client) &&
      add_text(o, "mode", status_mode(s->mode)) && add_text(o, "ack", status_ack(s->ack)) &&
      add_u64(o, "acks", s->acks) && add_bool(o, "degraded", s->degraded) &&
      add_u64(o, "degraded_commits", s->degraded_commits) && add_u64(o, "degraded_count", s->degraded_count) &&
      add_u64(o, "written_lsn", s->written_lsn) && add_u64(o, "durable_lsn", s->durable_lsn) &&
      add_u64(o, "commit_lsn", s->commit_lsn) && add_u64(o, "applied_lsn", s->applied_lsn) &&
      add_u64(o, "persisted_lsn", s->persisted_lsn) && add_u64(o, "oldest_lsn", s->oldest_lsn) &&
      add_known(o, "staleness_ms", s->staleness_ms) && add_u64(o, "commits", s->commits) &&
      add_u64(o, "raw_bytes", s->raw_bytes) && add_u64(o, "stored_bytes", s->stored_bytes) &&
      add_u64(o, "syncs", s->syncs) && add_u64(o, "log_bytes", s->log_bytes) &&
      add_u64(o, "approximate_keys", s->approximate_keys) && add_bool(o, "write_stalled", s->write_stalled) &&
      add_bool(o, "failed", s->failed) && add_text(o, "error", s->error) && add_u64(o, "listen_port", s->listen_port) &&
      add_u64(o, "bootstraps", s->bootstraps) && add_u64(o, "scrub_done_bytes", s->scrub_done_bytes) &&
      add_u64(o, "scrub_total_bytes", s->scrub_total_bytes) && add_u64(o, "scrub_passes", s->scrub_passes) &&
      add_text(o, "scrub_result", s->scrub_result) && add_u64(o, "damage_found", s->damage_found) &&
      add_u64(o, "damage_repaired", s->damage_repaired) && add_u64(o, "damage_now", s->damage_now) &&
      add_u64(o, "repaired_blocks", s->repaired_blocks) && add_u64(o, "diverged_files", s->diverged_files) &&
      add_u64(o, "diverged_commits", s->diverged_commits) && add_u64(o, "bootstrap_bytes", s->bootstrap_bytes) &&
      add_u64(o, "bootstrap_reused_bytes", s->bootstrap_reused_bytes);
  if (done && s->role == DW_FOLLOWER)
    done = add_text(o, "primary", s->primary) && add_text(o, "primary_state", status_peer_state(s->primary_state));
  return done;
}

bool status_writable(const dw_status *s) {
  return s->role == DW_PRIMARY && !s->fenced && !s->failed && !s->stopping;
}

char *status_json(const dw_status *s, const struct status_epochs *e, size_t *n) {
  cJSON *o = cJSON_CreateObject();
  char *text =
      o && add_identity(o, s) && add_followers(o, s) && add_members(o, s) && add_epochs(o, e) && add_state(o, s)
          ? cJSON_PrintUnformatted(o)
          : NULL;
  cJSON_Delete(o);
  if (text && n) *n = strlen(text);
  return text;
}
