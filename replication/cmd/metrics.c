/* Prometheus' text format. Base units (seconds, bytes), counters end in _total, every sample carries node and region;
 * samples about a follower carry `follower` and `follower_region` besides. `promtool check metrics` must stay silent.
 */
#include "replication/cmd/metrics.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "replication/cmd/status_json.h"
#include "replication/cmd/text.h"
#include "wal/base/hash.h"
#include "wal/base/status.h"

struct exposition {
  struct buf *out;
  const struct node_view *v;
  char base[256]; /* labels of every sample: node="..",region=".." */
  bool no_memory;
};

static void print(struct exposition *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void print(struct exposition *x, const char *fmt, ...) {
  char text[1024];
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  if (n < 0 || (size_t)n >= sizeof text || buf_append(x->out, text, (size_t)n)) x->no_memory = true;
}

/* A label's value: text, with \ and " escaped. */
static void label(char *dst, size_t cap, const char *src) {
  char clean[128];
  size_t n = 0;
  text_clean(clean, sizeof clean, src);
  for (const char *p = clean; *p && n + 3 < cap; p++) {
    if (*p == '\\' || *p == '"') dst[n++] = '\\';
    dst[n++] = *p;
  }
  dst[n] = 0;
}

static void family(struct exposition *x, const char *name, const char *type, const char *help) {
  print(x, "# HELP dabbawal_%s %s\n# TYPE dabbawal_%s %s\n", name, help, name, type);
}

static void gauge(struct exposition *x, const char *name, uint64_t value, const char *help) {
  family(x, name, "gauge", help);
  print(x, "dabbawal_%s{%s} %llu\n", name, x->base, (unsigned long long)value);
}

static void counter(struct exposition *x, const char *name, uint64_t value, const char *help) {
  family(x, name, "counter", help);
  print(x, "dabbawal_%s{%s} %llu\n", name, x->base, (unsigned long long)value);
}

static void seconds(char *dst, size_t cap, uint64_t ms) {
  if (ms == UINT64_MAX)
    snprintf(dst, cap, "+Inf");
  else
    snprintf(dst, cap, "%llu.%03u", (unsigned long long)(ms / 1000), (unsigned)(ms % 1000));
}

static void node_metrics(struct exposition *x) {
  const dw_status *s = &x->v->status;
  char hex[33], age[32];
  struct hash128 cluster;
  memcpy(cluster.b, s->cluster_id, 16);
  hash128_hex(&cluster, hex);
  family(x, "build_info", "gauge", "Always 1; the version is in the label.");
  print(x, "dabbawal_build_info{%s,version=\"%s\"} 1\n", x->base, dw_version());
  family(x, "node_info", "gauge", "Always 1; role and cluster are in the labels.");
  print(x, "dabbawal_node_info{%s,role=\"%s\",cluster=\"%s\"} 1\n", x->base, status_role(s->role), hex);
  family(x, "commit_mode_info", "gauge", "Always 1; the node's default commit mode and ack level are in the labels.");
  print(x, "dabbawal_commit_mode_info{%s,mode=\"%s\",ack=\"%s\"} 1\n", x->base, status_mode(s->mode),
        status_ack(s->ack));
  gauge(x, "required_acks", s->mode == DW_ASYNC ? 0 : s->acks, "Followers that a commit waits for by default.");
  gauge(x, "epoch", s->epoch, "Epoch of the log: one more with each opening of a primary.");
  gauge(x, "term", epoch_term(s->epoch), "Promotions so far: the epoch's high half.");
  gauge(x, "promised_epoch", s->promised_epoch, "No epoch below it is followed or acknowledged here; 0: no promise.");
  gauge(x, "fenced", s->fenced != 0, "1 on a primary that has met a newer epoch and acknowledges nothing.");
  gauge(x, "writable", status_writable(s), "1 while this node takes writes.");
  char client[2 * DW_ADDRESS_BYTES + 4];
  label(client, sizeof client, s->primary_client);
  family(x, "primary_info", "gauge", "Always 1; the primary as this node knows it is in the labels.");
  print(x, "dabbawal_primary_info{%s,primary=\"%llu\",client=\"%s\"} 1\n", x->base, (unsigned long long)s->primary_node,
        client);
  gauge(x, "members", s->member_count, "This node and those it knows to be connected.");
  gauge(x, "written_lsn", s->written_lsn, "Last LSN in this node's log.");
  gauge(x, "durable_lsn", s->durable_lsn, "Last LSN synced in this node's log.");
  gauge(x, "commit_lsn", s->commit_lsn, "Last committed LSN that this node knows of.");
  gauge(x, "applied_lsn", s->applied_lsn, "Last LSN that reads on this node see.");
  gauge(x, "persisted_lsn", s->persisted_lsn, "Last LSN in the store's files; replay after a crash starts here.");
  gauge(x, "oldest_lsn", s->oldest_lsn, "First LSN that the log still holds; 0 if it is empty.");
  family(x, "staleness_seconds", "gauge", "Upper bound of the age of the data read here; +Inf if unknown.");
  seconds(age, sizeof age, s->staleness_ms);
  print(x, "dabbawal_staleness_seconds{%s} %s\n", x->base, age);
  gauge(x, "degraded", s->degraded != 0, "1 while semi-sync acts as async.");
  counter(x, "degraded_commits_total", s->degraded_commits, "Commits without the acks that semi-sync asks for.");
  counter(x, "degradations_total", s->degraded_count, "How often semi-sync fell back to async.");
  gauge(x, "failed", s->failed != 0, "1 if the log or the store stopped after an error.");
  counter(x, "bootstraps_total", s->bootstraps, "Checkpoints sent (primary) or installed (follower).");
  gauge(x, "bootstrap_received_bytes", s->bootstrap_bytes,
        "Bytes that came over the network for the last checkpoint installed.");
  gauge(x, "bootstrap_reused_bytes", s->bootstrap_reused_bytes, "Bytes of the last checkpoint that were here already.");
  gauge(x, "diverged_files", s->diverged_files, "Files with commits that only this node had when histories parted.");
  gauge(x, "diverged_commits", s->diverged_commits, "Commits in those files.");
  if (s->role == DW_FOLLOWER)
    gauge(x, "primary_connected",
          s->primary_state == DW_PEER_BOOTSTRAPPING || s->primary_state == DW_PEER_CATCHING_UP ||
              s->primary_state == DW_PEER_STREAMING,
          "1 while the link to the primary is up.");
}

static void storage_metrics(struct exposition *x) {
  const dw_status *s = &x->v->status;
  counter(x, "commits_total", s->commits, "Commits since the start.");
  counter(x, "log_raw_bytes_total", s->raw_bytes, "Bytes of commits appended to the log, before compression.");
  counter(x, "log_stored_bytes_total", s->stored_bytes, "Bytes of commits appended to the log, as stored and shipped.");
  counter(x, "log_syncs_total", s->syncs, "Syncs of the log to disk.");
  gauge(x, "log_size_bytes", s->log_bytes, "Size of the log's files in use.");
  gauge(x, "scrub_pass_bytes", s->scrub_total_bytes,
        "Bytes of old log segments in the scrub's pass under way or last.");
  gauge(x, "scrub_pass_read_bytes", s->scrub_done_bytes, "Bytes that this pass has read.");
  counter(x, "scrub_passes_total", s->scrub_passes, "Passes that the scrub has finished.");
  counter(x, "log_damage_found_total", s->damage_found, "Damaged log segments found.");
  counter(x, "log_damage_repaired_total", s->damage_repaired, "Damaged log segments repaired from peers.");
  gauge(x, "log_damaged_segments", s->damage_now, "Log segments known to be damaged and not repaired.");
  counter(x, "log_repaired_blocks_total", s->repaired_blocks, "Log blocks put back from peers.");
  gauge(x, "store_keys", s->approximate_keys, "Estimated number of keys.");
  gauge(x, "store_write_stalled", s->write_stalled != 0, "1 while the store holds writes back.");
}

typedef uint64_t (*follower_fn)(const dw_follower_status *);
static uint64_t f_received(const dw_follower_status *f) {
  return f->received_lsn;
}
static uint64_t f_durable(const dw_follower_status *f) {
  return f->durable_lsn;
}
static uint64_t f_applied(const dw_follower_status *f) {
  return f->applied_lsn;
}
static uint64_t f_lag_lsns(const dw_follower_status *f) {
  return f->lag_lsns;
}
static uint64_t f_lag_bytes(const dw_follower_status *f) {
  return f->lag_bytes;
}
static uint64_t f_lag_ms(const dw_follower_status *f) {
  return f->lag_ms;
}
static uint64_t f_staleness(const dw_follower_status *f) {
  return f->staleness_ms;
}
static uint64_t f_sent(const dw_follower_status *f) {
  return f->sent_bytes;
}
static uint64_t f_connected(const dw_follower_status *f) {
  return f->state == DW_PEER_BOOTSTRAPPING || f->state == DW_PEER_CATCHING_UP || f->state == DW_PEER_STREAMING;
}

static void follower_metrics(struct exposition *x) {
  static const struct {
    const char *name, *type;
    follower_fn value;
    bool ms;
    const char *help;
  } families[] = {
      {"follower_received_lsn", "gauge", f_received, false, "Last LSN that the follower has received."},
      {"follower_durable_lsn", "gauge", f_durable, false, "Last LSN that the follower has synced."},
      {"follower_applied_lsn", "gauge", f_applied, false, "Last LSN that reads on the follower see."},
      {"follower_lag_lsns", "gauge", f_lag_lsns, false, "LSNs written here that the follower has not applied."},
      {"follower_lag_bytes", "gauge", f_lag_bytes, false, "Log bytes not yet sent to the follower."},
      {"follower_lag_seconds", "gauge", f_lag_ms, true, "How long the oldest commit it lacks has been waiting."},
      {"follower_staleness_seconds", "gauge", f_staleness, true, "As the follower last reported; +Inf if unknown."},
      {"follower_connected", "gauge", f_connected, false, "1 while the follower is connected."},
      {"follower_sent_bytes_total", "counter", f_sent, false, "Bytes sent to the follower on its connection."},
  };
  const dw_status *s = &x->v->status;
  for (size_t i = 0; s->follower_count && i < sizeof families / sizeof *families; i++) {
    family(x, families[i].name, families[i].type, families[i].help);
    for (uint32_t k = 0; k < s->follower_count && k < DW_STATUS_MAX_FOLLOWERS; k++) {
      const dw_follower_status *f = &s->followers[k];
      char region[2 * DW_REGION_BYTES + 4], value[32];
      label(region, sizeof region, f->region);
      uint64_t v = families[i].value(f);
      if (families[i].ms)
        seconds(value, sizeof value, v);
      else
        snprintf(value, sizeof value, "%llu", (unsigned long long)v);
      print(x, "dabbawal_%s{%s,follower=\"%llu\",follower_region=\"%s\"} %s\n", families[i].name, x->base,
            (unsigned long long)f->node_id, region, value);
    }
  }
}

static void failover_metrics(struct exposition *x) {
  const struct failover_report *r = &x->v->failover;
  char left[32];
  if (!x->v->has_failover) return;
  family(x, "failover_state_info", "gauge", "Always 1; the part that this node plays is in the label.");
  print(x, "dabbawal_failover_state_info{%s,state=\"%s\"} 1\n", x->base, failover_state_name(r->state));
  family(x, "lease_remaining_seconds", "gauge",
         "Until this node would stop acknowledging, were its lease not renewed.");
  seconds(left, sizeof left, r->lease_left_ms);
  print(x, "dabbawal_lease_remaining_seconds{%s} %s\n", x->base, left);
  gauge(x, "coordinator_reachable", r->reachable, "1 while the coordinator answers.");
  gauge(x, "failover_paused", r->paused, "1 while failover is paused.");
  gauge(x, "failover_has_leader", r->has_leader, "1 while some node has the lease.");
  gauge(x, "failover_restricted", r->restricted, "1 while only writes that followers confirm are taken.");
  gauge(x, "failover_term", r->term, "Promotions that the coordinator has recorded.");
  counter(x, "failovers_total", r->failovers, "Failovers that made this node primary.");
}

static void front_end_metrics(struct exposition *x) {
  const struct resp_metrics *r = &x->v->resp;
  if (x->v->has_resp) {
    gauge(x, "resp_connections", r->connections, "Redis clients connected.");
    gauge(x, "resp_threads", r->threads, "Threads that serve Redis clients.");
    counter(x, "resp_connections_accepted_total", r->connections_total, "Redis clients accepted.");
    counter(x, "resp_connections_rejected_total", r->rejected_total, "Redis clients turned away: too many.");
    counter(x, "resp_commands_total", r->commands_total, "Commands of Redis clients.");
    counter(x, "resp_errors_total", r->errors_total, "Commands answered with an error.");
    counter(x, "resp_reads_total", r->reads_total, "Keys read by Redis clients.");
    counter(x, "resp_writes_total", r->writes_total, "Commits of Redis clients.");
    counter(x, "resp_stale_reads_total", r->stale_total, "Reads refused because the data was too old.");
    counter(x, "resp_indoubt_writes_total", r->indoubt_total, "Writes that timed out in doubt.");
  }
  counter(x, "http_requests_total", x->v->http_requests, "HTTP requests.");
  family(x, "process_start_time_seconds", "gauge", "When the process started, Unix time.");
  print(x, "dabbawal_process_start_time_seconds{%s} %.3f\n", x->base, x->v->start_time_s);
  gauge(x, "process_resident_memory_bytes", x->v->resident_bytes, "Resident memory of the process.");
  gauge(x, "process_open_fds", x->v->open_fds, "Open file descriptors.");
}

int metrics_render(const struct node_view *v, struct buf *out) {
  struct exposition x = {.out = out, .v = v};
  char region[2 * DW_REGION_BYTES + 4];
  label(region, sizeof region, v->status.region);
  snprintf(x.base, sizeof x.base, "node=\"%llu\",region=\"%s\"", (unsigned long long)v->status.node_id, region);
  node_metrics(&x);
  storage_metrics(&x);
  follower_metrics(&x);
  failover_metrics(&x);
  front_end_metrics(&x);
  return x.no_memory ? dw_fail_nomem(out->len) : DW_OK;
}

void metrics_process(struct node_view *v) {
  unsigned long long pages = 0, resident = 0;
  FILE *f = fopen("/proc/self/statm", "re");
  if (f) {
    if (fscanf(f, "%llu %llu", &pages, &resident) != 2) resident = 0;
    fclose(f);
  }
  v->resident_bytes = resident * (uint64_t)sysconf(_SC_PAGESIZE);
  v->open_fds = 0;
  DIR *d = opendir("/proc/self/fd");
  if (!d) return;
  for (const struct dirent *e; (e = readdir(d));) v->open_fds += e->d_name[0] != '.';
  closedir(d);
  v->open_fds--; /* the directory itself */
}

/* ---- probes ------------------------------------------------------------------------------------ */

bool node_healthy(const dw_status *s, char *why, size_t cap) {
  snprintf(why, cap, "ok");
  if (!s->failed) return true;
  snprintf(why, cap, "failed: %s", s->error[0] ? s->error : "the log or the store has stopped");
  return false;
}

bool node_ready(const dw_status *s, uint64_t bound, char *why, size_t cap) {
  if (!node_healthy(s, why, cap)) return false;
  snprintf(why, cap, "ready role=%s", status_role(s->role));
  if (s->role == DW_PRIMARY) return true;
  if (s->staleness_ms == UINT64_MAX) {
    snprintf(why, cap, "not ready: staleness_ms=unknown primary=%s state=%s", s->primary,
             status_peer_state(s->primary_state));
    return false;
  }
  bool ready = !bound || s->staleness_ms <= bound;
  int n = snprintf(why, cap, "%s staleness_ms=%llu",
                   ready ? "ready role=follower" : "not ready:", (unsigned long long)s->staleness_ms);
  if (bound && n > 0 && (size_t)n < cap)
    snprintf(why + n, cap - (size_t)n, " bound_ms=%llu", (unsigned long long)bound);
  return ready;
}
