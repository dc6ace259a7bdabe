/* Who may write, asked anew for each command: roles change while connections stay.
 *
 * The role is the engine's word of the moment. What comes with it (who is primary instead, the epoch) is looked up at
 * most every ROLE_VIEW_NS, so that a client that writes at the wrong node as fast as it can costs little.
 *
 * Connections that a change of roles has put at the wrong node are closed, as Redis' Sentinel has them closed: clients
 * look for the primary when they connect. Not at once: after the first write that is refused, once all that the client
 * had sent has its answers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "replication/address.h"
#include "replication/cmd/net.h"
#include "replication/cmd/resp_internal.h"
#include "replication/members.h"

#define ROLE_VIEW_NS 50000000ull

dw_role server_role(const struct resp_server *s) {
  return engine_role(s->e);
}

const dw_status *loop_view(struct resp_loop *l, bool fresh) {
  uint64_t now = server_now_ns();
  if (!fresh && l->view_ns && now - l->view_ns < ROLE_VIEW_NS) return l->view;
  dw_status_get(l->s->e, l->view);
  l->view_ns = now;
  return l->view;
}

bool view_is_master(const dw_status *v) {
  return v->role == DW_PRIMARY && !v->fenced;
}

/* A host that is none ("*:6379") is ours: then it is the one that this client has reached us at. */
void conn_reach(struct conn *c, const char *address, char out[DW_ADDRESS_BYTES]) {
  struct sockaddr_storage here;
  int n = sizeof here;
  char seen[DW_ADDRESS_BYTES + 16];
  memset(out, 0, DW_ADDRESS_BYTES);
  snprintf(out, DW_ADDRESS_BYTES, "%s", address);
  if (uv_tcp_getsockname(&c->tcp, (struct sockaddr *)&here, &n)) return;
  net_format((struct sockaddr *)&here, seen, sizeof seen);
  members_fill_host(out, seen);
}

bool address_split(const char *address, char host[DW_ADDRESS_BYTES], int *port) {
  struct address a;
  host[0] = 0;
  *port = 0;
  if (!address[0] || address_parse(address, &a) || strlen(a.host) >= DW_ADDRESS_BYTES) return false;
  snprintf(host, DW_ADDRESS_BYTES, "%.63s", a.host);
  *port = atoi(a.port);
  return a.host[0] && *port;
}

/* "10.0.0.7:6379" or "unknown". */
static const char *named(struct conn *c, const char *address, char out[DW_ADDRESS_BYTES]) {
  conn_reach(c, address, out);
  return out[0] ? out : "unknown";
}

int reply_read_only(struct conn *c, struct buf *out) {
  char primary[DW_ADDRESS_BYTES];
  const dw_status *v = loop_view(c->l, false);
  c->leave |= c->was_master;
  return resp_error(out, "READONLY You can't write against a read only replica. primary=%s",
                    named(c, view_is_master(v) ? "" : v->primary_client, primary));
}

int reply_fenced(struct conn *c, struct buf *out, dw_lsn lsn) {
  char primary[DW_ADDRESS_BYTES];
  const dw_status *v = loop_view(c->l, false);
  if (view_is_master(v)) v = loop_view(c->l, true); /* looked at before it was fenced */
  c->leave = true;
  named(c, v->primary_client, primary);
  return lsn ? resp_error(out, "FENCED epoch=%llu primary=%s INDOUBT lsn=%llu: logged here, not acknowledged",
                          (unsigned long long)v->promised_epoch, primary[0] ? primary : "unknown",
                          (unsigned long long)lsn)
             : resp_error(out, "FENCED epoch=%llu primary=%s nothing was done", (unsigned long long)v->promised_epoch,
                          primary[0] ? primary : "unknown");
}
