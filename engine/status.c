/* What the engine tells about itself, and the small services that replication asks of it. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "wal/base/status.h"

void engine_log(dw_engine *e, int level, const char *fmt, ...) {
  char line[1024];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  if (e->opt.log) {
    e->opt.log(e->opt.log_arg, (dw_log_level)level, line);
  } else if (level >= DW_LOG_WARN) {
    fprintf(stderr, "dabbawal: %s: %s\n", level >= DW_LOG_ERROR ? "error" : "warning", line);
  }
}

void engine_identity(dw_engine *e, struct engine_identity *out) {
  pthread_mutex_lock(&e->mu);
  *out = (struct engine_identity){.role = (dw_role)atomic_load(&e->role),
                                  .has_cluster = !hash128_zero(&e->node.cluster_id),
                                  .cluster_id = e->node.cluster_id,
                                  .incarnation = e->node.incarnation,
                                  .node_id = e->node.node_id};
  snprintf(out->region, sizeof out->region, "%s", e->opt.region);
  pthread_mutex_unlock(&e->mu);
}

dw_role engine_role(dw_engine *e) {
  return (dw_role)atomic_load(&e->role);
}

struct env *engine_env(dw_engine *e) {
  return e->env;
}
const dw_options *engine_options(dw_engine *e) {
  return &e->opt;
}

struct wal *engine_wal(dw_engine *e) {
  pthread_mutex_lock(&e->mu);
  struct wal *wal = e->wal;
  pthread_mutex_unlock(&e->mu);
  return wal;
}

static uint64_t staleness_ms(dw_engine *e) {
  uint64_t age = is_primary(e) ? 0 : follower_staleness(e, mono_ns(e));
  return age == UINT64_MAX ? age : age / 1000000u;
}

void engine_positions(dw_engine *e, struct engine_positions *out) {
  memset(out, 0, sizeof *out);
  pthread_mutex_lock(&e->mu);
  out->applied = e->applied;
  out->commit_lsn = e->gate.commit;
  out->strong_lsn = ever_committed(e);
  out->persisted_lsn = e->persisted_lsn;
  out->epoch = e->epoch;
  out->fenced = e->fenced;
  out->staleness_ms = staleness_ms(e);
  if (e->wal) {
    struct wal_stat st;
    wal_stat(e->wal, &st);
    out->tail = st.end;
    out->durable_lsn = st.durable_lsn;
    out->oldest = st.oldest;
    out->end_bytes = st.end_bytes;
  }
  pthread_mutex_unlock(&e->mu);
}

void engine_acks(dw_engine *e, const struct ack_marks *marks) {
  struct request_list done;
  request_list_init(&done);
  pthread_mutex_lock(&e->mu);
  gate_marks(&e->gate, marks);
  pipeline_advance(e);
  pipeline_complete(e, &done);
  pipeline_kick(e);
  pipeline_moved(e);
  pthread_mutex_unlock(&e->mu);
  pipeline_wake(&done);
}

void engine_pin_log(dw_engine *e, dw_lsn lsn) {
  pthread_mutex_lock(&e->mu);
  e->pin_lsn = lsn;
  pthread_mutex_unlock(&e->mu);
}

uint64_t engine_commit_age_ns(dw_engine *e, dw_lsn applied) {
  uint64_t age = 0, now = mono_ns(e);
  pthread_mutex_lock(&e->mu);
  if (e->gate.commit > applied) {
    /* The first sample that shows a commit above `applied` is at most one sample period too late. */
    for (unsigned i = 0; i < LAG_SAMPLES; i++) {
      const struct lag_sample *s = &e->lag[(e->next_lag + i) % LAG_SAMPLES];
      if (s->at_ns && s->commit > applied) {
        age = now - s->at_ns;
        break;
      }
    }
  }
  pthread_mutex_unlock(&e->mu);
  return age;
}

static void status_log(dw_engine *e, dw_status *s) {
  struct wal_stat st;
  wal_stat(e->wal, &st);
  s->written_lsn = st.end.lsn;
  s->durable_lsn = st.durable_lsn;
  s->oldest_lsn = st.end.lsn > st.oldest.lsn ? st.oldest.lsn + 1 : 0;
  s->log_bytes = st.log_bytes;
  s->raw_bytes = st.raw_bytes;
  s->stored_bytes = st.stored_bytes;
  s->syncs = st.syncs;
}

/* What is known without replication: this node. mu held. */
static void status_members(const dw_engine *e, dw_status *s) {
  dw_member *self = &s->members[0];
  s->member_count = 1;
  *self = (dw_member){.node_id = s->node_id, .role = s->role, .priority = e->opt.priority};
  snprintf(self->region, sizeof self->region, "%s", e->opt.region);
  if (e->opt.client_address) snprintf(self->client_address, sizeof self->client_address, "%s", e->opt.client_address);
  if (s->role != DW_PRIMARY) return;
  s->primary_node = s->fenced ? s->promised_node : s->node_id;
  if (!s->fenced) memcpy(s->primary_client, self->client_address, sizeof s->primary_client);
}

int dw_status_get(dw_engine *e, dw_status *s) {
  memset(s, 0, sizeof *s);
  pthread_mutex_lock(&e->mu);
  s->role = (dw_role)atomic_load(&e->role);
  s->node_id = e->node.node_id;
  memcpy(s->cluster_id, e->node.cluster_id.b, 16);
  snprintf(s->region, sizeof s->region, "%s", e->opt.region);
  s->epoch = e->epoch;
  s->promised_epoch = e->node.promised_epoch;
  s->promised_node = e->node.promised_node;
  s->fenced = e->fenced;
  s->mode = e->opt.mode;
  s->ack = e->opt.ack;
  s->acks = e->opt.acks;
  s->degraded = e->gate.degraded_pairs > 0;
  s->degraded_commits = e->gate.degraded_commits;
  s->degraded_count = e->gate.degraded_count;
  s->commit_lsn = e->gate.commit;
  s->applied_lsn = e->applied.lsn;
  s->persisted_lsn = e->persisted_lsn;
  if (e->wal) status_log(e, s);
  s->staleness_ms = staleness_ms(e);
  s->commits = e->commits;
  s->approximate_keys = e->health.approximate_keys;
  s->write_stalled = e->health.write_stopped || e->health.delayed_write_rate > 0;
  s->stopping = e->stopping;
  s->failed = e->failed_rc != 0 || e->store_error_rc != 0 || e->log_damaged;
  s->scrub_done_bytes = e->scrub.done;
  s->scrub_total_bytes = e->scrub.total;
  s->scrub_passes = e->scrub.passes;
  s->damage_found = e->scrub.found;
  s->damage_repaired = e->scrub.repaired;
  s->damage_now = e->scrub.damaged_now;
  s->repaired_blocks = e->scrub.repaired_blocks;
  snprintf(s->scrub_result, sizeof s->scrub_result, "%s", e->scrub.result);
  s->diverged_files = e->diverged_files;
  s->diverged_commits = e->diverged_commits;
  snprintf(s->error, sizeof s->error, "%s", e->failed);
  if (e->opt.primary && !e->rops) snprintf(s->primary, sizeof s->primary, "%s", e->opt.primary);
  status_members(e, s);
  if (e->rops) e->rops->status(e->rctx, s);
  pthread_mutex_unlock(&e->mu);
  return DW_OK;
}
