/* Metrics in Prometheus' text format: base units, one HELP and TYPE per name, followers as labels. */
#include "replication/cmd/metrics.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "replication/cmd/status_json.h"
#include "wal/base/status.h"

struct exposition {
  struct buf *out;
  int rc;
};

static void put(struct exposition *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(struct exposition *x, const char *fmt, ...) {
  char line[600];
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  if (x->rc == DW_OK && n > 0) x->rc = buf_append(x->out, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

static void head(struct exposition *x, const char *name, const char *type, const char *help) {
  put(x, "# HELP dabbawal_%s %s\n# TYPE dabbawal_%s %s\n", name, help, name, type);
}

static void one(struct exposition *x, const char *name, const char *type, const char *help, uint64_t v) {
  head(x, name, type, help);
  put(x, "dabbawal_%s %" PRIu64 "\n", name, v);
}

/* A label value: quotes, backslashes and line breaks escaped. */
static const char *label(const char *s, char *out, size_t cap) {
  size_t n = 0;
  for (; *s && n + 3 < cap; s++) {
    if (*s == '"' || *s == '\\' || *s == '\n') out[n++] = '\\';
    out[n++] = *s == '\n' ? 'n' : *s;
  }
  out[n] = 0;
  return out;
}

static void seconds(struct exposition *x, uint64_t ms) {
  if (ms == UINT64_MAX)
    put(x, "NaN\n");
  else
    put(x, "%" PRIu64 ".%03u\n", ms / 1000, (unsigned)(ms % 1000));
}

static void node(struct exposition *x, const dw_status *s) {
  char region[2 * DW_REGION_BYTES];
  head(x, "node_info", "gauge", "Who this node is; always 1.");
  put(x, "dabbawal_node_info{node_id=\"%" PRIu64 "\",region=\"%s\",role=\"%s\",mode=\"%s\",version=\"%s\"} 1\n", s->node_id,
      label(s->region, region, sizeof region), status_role(s->role), status_mode(s->mode), dw_version());
  one(x, "up", "gauge", "1 while the log and the store work.", !s->failed);
  one(x, "primary", "gauge", "1 on a primary.", s->role == DW_PRIMARY);
  one(x, "epoch", "gauge", "Epoch of the log.", s->epoch);
  head(x, "lsn", "gauge", "Log sequence numbers of this node by stage.");
  const struct {
    const char *stage;
    dw_lsn lsn;
  } stages[] = {{"written", s->written_lsn}, {"durable", s->durable_lsn}, {"commit", s->commit_lsn},
                {"applied", s->applied_lsn}, {"persisted", s->persisted_lsn}, {"oldest", s->oldest_lsn}};
  for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
    put(x, "dabbawal_lsn{stage=\"%s\"} %" PRIu64 "\n", stages[i].stage, stages[i].lsn);
  head(x, "staleness_seconds", "gauge", "Age of the data that reads see here; 0 on a primary, NaN: unknown.");
  put(x, "dabbawal_staleness_seconds ");
  seconds(x, s->staleness_ms);
  one(x, "degraded", "gauge", "1 while semi-sync acts as async.", s->degraded != 0);
  one(x, "degraded_total", "counter", "How often semi-sync degraded.", s->degraded_count);
  one(x, "degraded_commits_total", "counter", "Commits without the acks that semi-sync asks for.", s->degraded_commits);
  one(x, "commits_total", "counter", "Commits answered OK.", s->commits);
  one(x, "log_raw_bytes_total", "counter", "Bytes appended to the log before compression.", s->raw_bytes);
  one(x, "log_stored_bytes_total", "counter", "Bytes appended to the log as stored.", s->stored_bytes);
  one(x, "log_syncs_total", "counter", "fdatasyncs of the log.", s->syncs);
  one(x, "log_size_bytes", "gauge", "Size of the log's segment files.", s->log_bytes);
  one(x, "store_keys", "gauge", "Keys in the store, estimated.", s->approximate_keys);
  one(x, "store_stalled", "gauge", "1 while the store holds writes back.", s->write_stalled != 0);
  one(x, "bootstraps_total", "counter", "Checkpoints sent (primary) or installed (follower).", s->bootstraps);
  if (s->role == DW_FOLLOWER) {
    head(x, "primary_link", "gauge", "State of the link to the primary; the present one is 1.");
    for (int i = DW_PEER_DISCONNECTED; i <= DW_PEER_REFUSED; i++)
      put(x, "dabbawal_primary_link{state=\"%s\"} %d\n", status_peer_state((dw_peer_state)i), s->primary_state == (dw_peer_state)i);
  }
}

static void follower_head(struct exposition *x, const char *name, const dw_follower_status *f, const char *more) {
  char region[2 * DW_REGION_BYTES];
  put(x, "dabbawal_follower_%s{follower=\"%" PRIu64 "\",region=\"%s\"%s} ", name, f->node_id,
      label(f->region, region, sizeof region), more);
}

static void followers(struct exposition *x, const dw_status *s) {
  if (!s->follower_count) return;
  const dw_follower_status *end = s->followers + s->follower_count;
  head(x, "follower_connected", "gauge", "1 while the follower is connected.");
  for (const dw_follower_status *f = s->followers; f < end; f++) {
    follower_head(x, "connected", f, "");
    put(x, "%d\n", f->state != DW_PEER_DISCONNECTED && f->state != DW_PEER_REFUSED);
  }
  head(x, "follower_lsn", "gauge", "What the follower has acknowledged, by level.");
  for (const dw_follower_status *f = s->followers; f < end; f++) {
    follower_head(x, "lsn", f, ",level=\"received\"");
    put(x, "%" PRIu64 "\n", f->received_lsn);
    follower_head(x, "lsn", f, ",level=\"durable\"");
    put(x, "%" PRIu64 "\n", f->durable_lsn);
    follower_head(x, "lsn", f, ",level=\"applied\"");
    put(x, "%" PRIu64 "\n", f->applied_lsn);
  }
  head(x, "follower_lag_lsns", "gauge", "Commits written here that the follower has not applied.");
  for (const dw_follower_status *f = s->followers; f < end; f++) {
    follower_head(x, "lag_lsns", f, "");
    put(x, "%" PRIu64 "\n", f->lag_lsns);
  }
  head(x, "follower_lag_bytes", "gauge", "Log bytes not yet sent to the follower.");
  for (const dw_follower_status *f = s->followers; f < end; f++) {
    follower_head(x, "lag_bytes", f, "");
    put(x, "%" PRIu64 "\n", f->lag_bytes);
  }
  head(x, "follower_lag_seconds", "gauge", "How long the oldest commit that it has not applied has been waiting.");
  for (const dw_follower_status *f = s->followers; f < end; f++) {
    follower_head(x, "lag_seconds", f, "");
    seconds(x, f->lag_ms);
  }
  head(x, "follower_staleness_seconds", "gauge", "Age of the follower's data as it last reported; NaN: unknown.");
  for (const dw_follower_status *f = s->followers; f < end; f++) {
    follower_head(x, "staleness_seconds", f, "");
    seconds(x, f->staleness_ms);
  }
  head(x, "follower_sent_bytes_total", "counter", "Bytes sent to the follower on its present connection and before.");
  for (const dw_follower_status *f = s->followers; f < end; f++) {
    follower_head(x, "sent_bytes_total", f, "");
    put(x, "%" PRIu64 "\n", f->sent_bytes);
  }
}

static void resp(struct exposition *x, const struct resp_metrics *m) {
  one(x, "resp_connections", "gauge", "Open Redis client connections.", m->connections);
  one(x, "resp_connections_total", "counter", "Redis client connections accepted.", m->connections_total);
  one(x, "resp_rejected_connections_total", "counter", "Redis client connections over --max-clients.", m->rejected_total);
  one(x, "resp_commands_total", "counter", "Commands processed.", m->commands_total);
  one(x, "resp_errors_total", "counter", "Error replies.", m->errors_total);
  one(x, "resp_reads_total", "counter", "Keys read.", m->reads_total);
  one(x, "resp_writes_total", "counter", "Commits asked for.", m->writes_total);
  one(x, "resp_stale_total", "counter", "Reads refused because their consistency could not be met.", m->stale_total);
  one(x, "resp_indoubt_total", "counter", "Writes answered in doubt.", m->indoubt_total);
}

static uint64_t count_fds(void) {
  DIR *d = opendir("/proc/self/fd");
  uint64_t n = 0;
  if (!d) return 0;
  while (readdir(d)) n++;
  closedir(d);
  return n > 3 ? n - 3 : 0; /* without . and .. and the one that looked */
}

static void process(struct exposition *x) {
  unsigned long long pages = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  if (f && fscanf(f, "%*s %llu", &pages) != 1) pages = 0;
  if (f) fclose(f);
  put(x, "# HELP process_resident_memory_bytes Resident memory.\n# TYPE process_resident_memory_bytes gauge\n"
         "process_resident_memory_bytes %llu\n",
      pages * (unsigned long long)sysconf(_SC_PAGESIZE));
  put(x, "# HELP process_open_fds Open file descriptors.\n# TYPE process_open_fds gauge\nprocess_open_fds %" PRIu64 "\n", count_fds());
}

int metrics_text(const dw_status *s, const struct resp_metrics *m, struct buf *out) {
  struct exposition x = {out, DW_OK};
  node(&x, s);
  followers(&x, s);
  if (m) resp(&x, m);
  process(&x);
  return x.rc;
}
