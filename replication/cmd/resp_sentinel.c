/* SENTINEL: every node answers as a Redis Sentinel would that watches this cluster under one name (--cluster-name), so
 * that clients which can be pointed at Sentinels find the primary by asking any node's RESP port, and follow it.
 *
 * There are no Sentinels here, and nothing is decided by these commands: they show what the node knows of the others
 * (members of its status), which may be what it heard before it lost them. All nodes count as each other's Sentinels.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/resp_internal.h"

#define RUN_ID_BYTES 41

static void run_id(uint64_t node_id, char out[RUN_ID_BYTES]) {
  snprintf(out, RUN_ID_BYTES, "%040llx", (unsigned long long)node_id);
}

/* A map as Sentinel replies it: an array of names and texts. Built aside, since its length comes first. */
struct map {
  struct buf items;
  size_t n;
};
static void put(struct map *m, const char *name, const char *value) {
  resp_bulk_str(&m->items, name);
  resp_bulk_str(&m->items, value);
  m->n += 2;
}
static void put_number(struct map *m, const char *name, unsigned long long v) {
  char text[24];
  snprintf(text, sizeof text, "%llu", v);
  put(m, name, text);
}
static void map_end(struct map *m, struct buf *out) {
  resp_array(out, m->n);
  (void)buf_append(out, m->items.data, m->items.len);
  buf_free(&m->items);
}

/* Who is asked about. */
struct cluster {
  const dw_status *v;
  char host[DW_ADDRESS_BYTES]; /* of the primary */
  int port;
  bool known, down;
};

static void look(struct conn *c, struct cluster *k) {
  char at[DW_ADDRESS_BYTES];
  k->v = loop_view(c->l, true);
  conn_reach(c, k->v->primary_client, at);
  k->known = address_split(at, k->host, &k->port);
  bool linked = k->v->primary_state == DW_PEER_STREAMING || k->v->primary_state == DW_PEER_CATCHING_UP ||
                k->v->primary_state == DW_PEER_BOOTSTRAPPING;
  k->down = !k->known || (k->v->role == DW_FOLLOWER && !linked);
}

/* What Sentinel says of any instance. */
static void instance(struct map *m, const char *name, const char *host, int port, uint64_t node_id, const char *flags) {
  char id[RUN_ID_BYTES];
  run_id(node_id, id);
  put(m, "name", name);
  put(m, "ip", host);
  put_number(m, "port", (unsigned)port);
  put(m, "runid", id);
  put(m, "flags", flags);
  put(m, "link-pending-commands", "0");
  put(m, "link-refcount", "1");
  put(m, "last-ping-sent", "0");
  put(m, "last-ok-ping-reply", "0");
  put(m, "last-ping-reply", "0");
  put(m, "down-after-milliseconds", "5000");
}

/* The reachable ones among the others: replicas, or all. */
static bool counts(struct conn *c, const struct cluster *k, uint32_t i, bool replicas, char host[DW_ADDRESS_BYTES],
                   int *port) {
  char at[DW_ADDRESS_BYTES];
  const dw_member *m = &k->v->members[i];
  if (replicas ? m->role == DW_PRIMARY || m->node_id == k->v->primary_node : m->node_id == k->v->node_id) return false;
  conn_reach(c, m->client_address, at);
  return address_split(at, host, port);
}

static unsigned count(struct conn *c, const struct cluster *k, bool replicas) {
  char host[DW_ADDRESS_BYTES];
  int port;
  unsigned n = 0;
  for (uint32_t i = 0; i < k->v->member_count; i++) n += counts(c, k, i, replicas, host, &port);
  return n;
}

static void master(struct conn *c, const struct cluster *k) {
  struct map m = {0};
  instance(&m, c->s->cluster_name, k->host, k->port, k->v->primary_node, k->down ? "master,s_down" : "master");
  put(&m, "info-refresh", "0");
  put(&m, "role-reported", "master");
  put(&m, "role-reported-time", "0");
  put_number(&m, "config-epoch", k->v->epoch);
  put_number(&m, "num-slaves", count(c, k, true));
  put_number(&m, "num-other-sentinels", count(c, k, false));
  put(&m, "quorum", "1");
  put(&m, "failover-timeout", "180000");
  put(&m, "parallel-syncs", "1");
  map_end(&m, &c->out);
}

static dw_lsn applied_of(const dw_status *v, uint64_t node_id) {
  if (node_id == v->node_id) return v->applied_lsn;
  for (uint32_t i = 0; i < v->follower_count; i++)
    if (v->followers[i].node_id == node_id) return v->followers[i].applied_lsn;
  return 0;
}

static void other(struct conn *c, const struct cluster *k, const dw_member *o, const char *host, int port,
                  bool replica) {
  char name[DW_ADDRESS_BYTES + 16];
  struct map m = {0};
  snprintf(name, sizeof name, strchr(host, ':') ? "[%s]:%d" : "%s:%d", host, port);
  instance(&m, name, host, port, o->node_id, replica ? "slave" : "sentinel");
  if (replica) {
    put(&m, "role-reported", "slave");
    put(&m, "master-link-down-time", "0");
    put(&m, "master-link-status", k->down ? "err" : "ok");
    put(&m, "master-host", k->known ? k->host : "?");
    put_number(&m, "master-port", (unsigned)k->port);
    put_number(&m, "slave-priority", o->priority);
    put_number(&m, "slave-repl-offset", applied_of(k->v, o->node_id));
    put(&m, "replica-announced", "1");
  }
  map_end(&m, &c->out);
}

static void others(struct conn *c, const struct cluster *k, bool replicas) {
  char host[DW_ADDRESS_BYTES];
  int port;
  resp_array(&c->out, count(c, k, replicas));
  for (uint32_t i = 0; i < k->v->member_count; i++)
    if (counts(c, k, i, replicas, host, &port)) other(c, k, &k->v->members[i], host, port, replicas);
}

/* ---- the commands ------------------------------------------------------------------------------------ */

static bool ours(struct conn *c, const struct cmd *cmd) {
  const char *name = c->s->cluster_name;
  return cmd->argl[2] == strlen(name) && memcmp(cmd->argv[2], name, cmd->argl[2]) == 0;
}

static bool known_name(struct conn *c, const struct cmd *cmd) {
  if (ours(c, cmd)) return true;
  conn_error(c, "ERR No such master with that name");
  return false;
}

static enum handled get_master_addr(struct conn *c, const struct cmd *cmd) {
  struct cluster k;
  char port[16];
  look(c, &k);
  if (!ours(c, cmd) || !k.known) {
    resp_nil_array(&c->out);
    return HANDLED;
  }
  snprintf(port, sizeof port, "%d", k.port);
  resp_array(&c->out, 2);
  resp_bulk_str(&c->out, k.host);
  resp_bulk_str(&c->out, port);
  return HANDLED;
}

static enum handled masters(struct conn *c, const struct cmd *cmd) {
  struct cluster k;
  (void)cmd;
  look(c, &k);
  resp_array(&c->out, 1);
  master(c, &k);
  return HANDLED;
}

static enum handled one_master(struct conn *c, const struct cmd *cmd) {
  struct cluster k;
  look(c, &k);
  if (known_name(c, cmd)) master(c, &k);
  return HANDLED;
}

static enum handled replicas(struct conn *c, const struct cmd *cmd) {
  struct cluster k;
  look(c, &k);
  if (known_name(c, cmd)) others(c, &k, true);
  return HANDLED;
}

static enum handled sentinels(struct conn *c, const struct cmd *cmd) {
  struct cluster k;
  look(c, &k);
  if (known_name(c, cmd)) others(c, &k, false);
  return HANDLED;
}

static enum handled ckquorum(struct conn *c, const struct cmd *cmd) {
  struct cluster k;
  char text[100];
  look(c, &k);
  if (!known_name(c, cmd)) return HANDLED;
  if (k.down) {
    conn_error(c, "NOQUORUM this node is not in touch with the primary");
    return HANDLED;
  }
  snprintf(text, sizeof text, "OK %u usable Sentinels: every node that is connected is one", count(c, &k, false) + 1);
  resp_simple(&c->out, text);
  return HANDLED;
}

static enum handled my_id(struct conn *c, const struct cmd *cmd) {
  char id[RUN_ID_BYTES];
  (void)cmd;
  run_id(loop_view(c->l, false)->node_id, id);
  resp_bulk_str(&c->out, id);
  return HANDLED;
}

enum handled cmd_sentinel(struct conn *c, const struct cmd *cmd) {
  static const struct subcommand subs[] = {{"get-master-addr-by-name", 3, get_master_addr},
                                           {"masters", 2, masters},
                                           {"master", 3, one_master},
                                           {"replicas", 3, replicas},
                                           {"slaves", 3, replicas},
                                           {"sentinels", 3, sentinels},
                                           {"ckquorum", 3, ckquorum},
                                           {"myid", 2, my_id}};
  return run_subcommand(c, cmd, "sentinel", subs, sizeof subs / sizeof *subs);
}
