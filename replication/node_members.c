/* The cluster's members (members.h) in a node: renewed when somebody comes, goes or says something, told to those who
 * follow us, and kept for the status. */
#include <stdio.h>
#include <string.h>

#include "replication/node.h"

void members_setup(struct node *n) {
  struct engine_identity id;
  struct msg_member self;
  engine_identity(n->e, &id);
  memset(&self, 0, sizeof self);
  self.node_id = id.node_id;
  self.role = (uint8_t)id.role;
  self.priority = n->opt->priority;
  snprintf(self.region, sizeof self.region, "%s", id.region);
  if (n->opt->client_address) snprintf(self.client, sizeof self.client, "%s", n->opt->client_address);
  promote_own_address(n, self.listen);
  members_init(&n->members, &self);
  n->members_changed = true;
}

void members_heard(struct node *n, const struct msg_members *m) {
  members_told(&n->members, m, n->primary);
  n->members_changed = true;
}

static bool connected(const struct peer *p) {
  return p->conn && p->admitted && shipper_hello(p->ship) && shipper_hello(p->ship)->has_member;
}

void members_pump(struct node *n) {
  struct msg_members next;
  dw_role role = (dw_role)n->role;
  if (!n->members_changed && n->members.self.role == role) return;
  n->members_changed = false;
  members_begin(&n->members, role, &next);
  for (const struct peer *p = n->peers; p; p = p->next)
    if (connected(p)) members_add(&n->members, &next, &shipper_hello(p->ship)->member, p->address);
  bool changed = members_end(&n->members, &next);
  pthread_mutex_lock(&n->report_mu);
  n->members_report = n->members;
  pthread_mutex_unlock(&n->report_mu);
  if (!changed) return;
  for (struct peer *p = n->peers; p; p = p->next) {
    if (!p->conn) continue;
    shipper_members(p->ship, &n->members.list, node_now(n));
    p->dirty = true;
  }
  transport_pump_again(n->t);
}

/* Any thread, with the report's lock: the status' own part is filled in already. */
void members_status(const struct members *m, dw_status *s) {
  const struct msg_members *list = &m->list;
  s->member_count = 0;
  for (uint32_t i = 0; i < list->count && i < DW_STATUS_MAX_MEMBERS; i++) {
    const struct msg_member *one = &list->member[i];
    dw_member *to = &s->members[s->member_count++];
    *to = (dw_member){.node_id = one->node_id, .role = (dw_role)one->role, .priority = one->priority};
    memcpy(to->client_address, one->client, sizeof to->client_address);
    memcpy(to->address, one->listen, sizeof to->address);
    memcpy(to->region, one->region, sizeof to->region);
  }
  const struct msg_member *primary = members_primary(list);
  if (s->role == DW_PRIMARY && s->fenced) primary = members_find(&m->known, s->promised_node);
  s->primary_node = primary ? primary->node_id : s->fenced ? s->promised_node : 0;
  snprintf(s->primary_client, sizeof s->primary_client, "%s", primary ? primary->client : "");
}
