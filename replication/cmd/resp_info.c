/* INFO and ROLE: what monitoring asks a Redis, in Redis' field names; what Redis has no name for begins with dw_. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/engine.h"
#include "replication/cmd/resp_internal.h"

static void add(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct buf *b, const char *fmt, ...) {
  char line[400];
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  (void)buf_append(b, line, n < (int)sizeof line ? (size_t)n : sizeof line - 1);
}

/* Where this client reaches the primary: by its client address, else by what is known of it. */
static void primary_at(struct conn *c, const dw_status *s, char host[DW_ADDRESS_BYTES], int *port) {
  char at[DW_ADDRESS_BYTES];
  conn_reach(c, s->primary_client[0] ? s->primary_client : s->primary, at);
  address_split(at, host, port);
}

/* Where this client reaches a follower; if that is not known, where it was seen. */
static void follower_at(struct conn *c, const dw_status *s, const dw_follower_status *f, char host[DW_ADDRESS_BYTES],
                        int *port) {
  char at[DW_ADDRESS_BYTES] = "";
  for (uint32_t i = 0; i < s->member_count; i++)
    if (s->members[i].node_id == f->node_id) conn_reach(c, s->members[i].client_address, at);
  address_split(at[0] ? at : f->address, host, port);
}

static const char *redis_state(dw_peer_state s) {
  return s == DW_PEER_STREAMING || s == DW_PEER_CATCHING_UP ? "online"
         : s == DW_PEER_BOOTSTRAPPING                       ? "send_bulk"
                                                            : "wait_bgsave";
}

static bool connected(const dw_follower_status *f) {
  return f->state != DW_PEER_DISCONNECTED && f->state != DW_PEER_REFUSED && f->state != DW_PEER_CONNECTING;
}

static unsigned count_connected(const dw_status *s) {
  unsigned n = 0;
  for (uint32_t i = 0; i < s->follower_count; i++) n += connected(&s->followers[i]);
  return n;
}

static unsigned priority_of(const dw_status *s) {
  for (uint32_t i = 0; i < s->member_count; i++)
    if (s->members[i].node_id == s->node_id) return s->members[i].priority;
  return 0;
}

static void info_replication(struct conn *c, struct buf *b, const dw_status *s) {
  char cluster[33], host[DW_ADDRESS_BYTES];
  int port;
  for (int i = 0; i < 16; i++) snprintf(cluster + 2 * i, 3, "%02x", s->cluster_id[i]);
  add(b, "# Replication\r\nrole:%s\r\n", view_is_master(s) ? "master" : "slave");
  if (!view_is_master(s)) { /* a fenced primary is read-only, and somebody else's to be */
    bool up = s->primary_state == DW_PEER_STREAMING || s->primary_state == DW_PEER_CATCHING_UP;
    primary_at(c, s, host, &port);
    add(b, "master_host:%s\r\nmaster_port:%d\r\nmaster_link_status:%s\r\n", host, port, up ? "up" : "down");
    add(b, "master_last_io_seconds_ago:%lld\r\nmaster_sync_in_progress:%d\r\n",
        s->staleness_ms == UINT64_MAX ? -1ll : (long long)(s->staleness_ms / 1000),
        s->primary_state == DW_PEER_BOOTSTRAPPING);
    add(b, "slave_read_repl_offset:%llu\r\nslave_repl_offset:%llu\r\nslave_priority:%u\r\nslave_read_only:1\r\n",
        (unsigned long long)s->written_lsn, (unsigned long long)s->applied_lsn, priority_of(s));
  }
  add(b, "connected_slaves:%u\r\n", count_connected(s));
  unsigned k = 0;
  for (uint32_t i = 0; i < s->follower_count; i++) {
    const dw_follower_status *f = &s->followers[i];
    if (!connected(f)) continue;
    follower_at(c, s, f, host, &port);
    add(b, "slave%u:ip=%s,port=%d,state=%s,offset=%llu,lag=%llu\r\n", k++, host, port, redis_state(f->state),
        (unsigned long long)f->applied_lsn, (unsigned long long)(f->lag_ms / 1000));
  }
  add(b, "master_replid:%s00000000\r\nmaster_repl_offset:%llu\r\nsecond_repl_offset:-1\r\n", cluster,
      (unsigned long long)s->written_lsn);
  char primary[DW_ADDRESS_BYTES];
  conn_reach(c, s->primary_client, primary);
  add(b, "dw_cluster_name:%s\r\ndw_primary:%s\r\ndw_term:%llu\r\ndw_promised_epoch:%llu\r\ndw_fenced:%d\r\n",
      c->s->cluster_name, primary, (unsigned long long)epoch_term(s->epoch), (unsigned long long)s->promised_epoch,
      s->fenced);
  add(b, "dw_epoch:%llu\r\ndw_commit_lsn:%llu\r\ndw_applied_lsn:%llu\r\ndw_durable_lsn:%llu\r\ndw_degraded:%d\r\n",
      (unsigned long long)s->epoch, (unsigned long long)s->commit_lsn, (unsigned long long)s->applied_lsn,
      (unsigned long long)s->durable_lsn, s->degraded);
  if (s->staleness_ms == UINT64_MAX)
    add(b, "dw_staleness_ms:-1\r\n");
  else
    add(b, "dw_staleness_ms:%llu\r\n", (unsigned long long)s->staleness_ms);
}

static long long resident_bytes(void) {
  long long pages = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  if (f && fscanf(f, "%*s %lld", &pages) != 1) pages = 0;
  if (f) fclose(f);
  return pages * sysconf(_SC_PAGESIZE);
}

static void info_server(struct buf *b, const struct conn *c) {
  /* Client libraries look at redis_version to choose commands. */
  add(b, "# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\nserver_name:dabbawal\r\ndabbawal_version:%s\r\n",
      dw_version());
  add(b, "process_id:%d\r\nrun_id:%s\r\ntcp_port:%u\r\nuptime_in_seconds:%llu\r\n", (int)getpid(), c->s->run_id,
      c->s->port, (unsigned long long)((server_now_ns() - c->s->started_ns) / 1000000000u));
}

static void info_stats(struct buf *b, struct resp_server *s, const dw_status *st) {
  struct resp_metrics m;
  resp_server_metrics(s, &m);
  add(b, "# Stats\r\ntotal_connections_received:%llu\r\ntotal_commands_processed:%llu\r\nrejected_connections:%llu\r\n",
      (unsigned long long)m.connections_total, (unsigned long long)m.commands_total,
      (unsigned long long)m.rejected_total);
  add(b, "total_error_replies:%llu\r\ndw_commits:%llu\r\ndw_syncs:%llu\r\ndw_log_bytes:%llu\r\n",
      (unsigned long long)m.errors_total, (unsigned long long)st->commits, (unsigned long long)st->syncs,
      (unsigned long long)st->log_bytes);
}

static bool wants(const struct cmd *cmd, const char *section) {
  if (cmd->argc == 1) return true;
  for (size_t i = 1; i < cmd->argc; i++)
    if (cmd_is(cmd, i, section) || cmd_is(cmd, i, "all") || cmd_is(cmd, i, "everything") || cmd_is(cmd, i, "default"))
      return true;
  return false;
}

enum handled cmd_info(struct conn *c, const struct cmd *cmd) {
  dw_status *s = malloc(sizeof *s);
  if (!s || dw_status_get(c->s->e, s)) {
    free(s);
    conn_error(c, "OOM no memory for INFO");
    return HANDLED;
  }
  struct buf b = {0};
  const char *sections[] = {"server", "clients", "memory", "persistence", "stats", "replication", "keyspace"};
  for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
    if (!wants(cmd, sections[i])) continue;
    if (b.len) add(&b, "\r\n");
    switch (i) {
    case 0: info_server(&b, c); break;
    case 1:
      add(&b, "# Clients\r\nconnected_clients:%u\r\nmaxclients:%u\r\n", clients_count(c->s), c->s->opt.max_clients);
      break;
    case 2:
      add(&b, "# Memory\r\nused_memory:%lld\r\nused_memory_rss:%lld\r\nmaxmemory:0\r\n", resident_bytes(),
          resident_bytes());
      break;
    case 3:
      add(&b, "# Persistence\r\nloading:0\r\naof_enabled:1\r\naof_last_write_status:%s\r\n", s->failed ? "err" : "ok");
      break;
    case 4: info_stats(&b, c->s, s); break;
    case 5: info_replication(c, &b, s); break;
    default:
      add(&b, "# Keyspace\r\ndb0:keys=%llu,expires=0,avg_ttl=0\r\n", (unsigned long long)s->approximate_keys);
      break;
    }
  }
  resp_bulk(&c->out, b.data, b.len);
  buf_free(&b);
  free(s);
  return HANDLED;
}

static void role_master(struct conn *c, const dw_status *s) {
  resp_array(&c->out, 3);
  resp_bulk_str(&c->out, "master");
  resp_int(&c->out, (long long)s->written_lsn);
  resp_array(&c->out, count_connected(s));
  for (uint32_t i = 0; i < s->follower_count; i++) {
    const dw_follower_status *f = &s->followers[i];
    char host[DW_ADDRESS_BYTES], number[24];
    int port;
    if (!connected(f)) continue;
    follower_at(c, s, f, host, &port);
    resp_array(&c->out, 3);
    resp_bulk_str(&c->out, host);
    snprintf(number, sizeof number, "%d", port);
    resp_bulk_str(&c->out, number);
    snprintf(number, sizeof number, "%llu", (unsigned long long)f->applied_lsn);
    resp_bulk_str(&c->out, number);
  }
}

static void role_slave(struct conn *c, const dw_status *s) {
  char host[DW_ADDRESS_BYTES];
  int port;
  primary_at(c, s, host, &port);
  const char *state = s->role == DW_PRIMARY                                                              ? "connect"
                      : s->primary_state == DW_PEER_STREAMING || s->primary_state == DW_PEER_CATCHING_UP ? "connected"
                      : s->primary_state == DW_PEER_BOOTSTRAPPING                                        ? "sync"
                      : s->primary_state == DW_PEER_CONNECTING                                           ? "connecting"
                                                                                                         : "connect";
  resp_array(&c->out, 5);
  resp_bulk_str(&c->out, "slave");
  resp_bulk_str(&c->out, host);
  resp_int(&c->out, port);
  resp_bulk_str(&c->out, state);
  resp_int(&c->out, (long long)s->applied_lsn);
}

enum handled cmd_role(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  dw_status *s = malloc(sizeof *s);
  if (!s || dw_status_get(c->s->e, s))
    conn_error(c, "OOM no memory for ROLE");
  else if (view_is_master(s))
    role_master(c, s);
  else
    role_slave(c, s);
  free(s);
  return HANDLED;
}
