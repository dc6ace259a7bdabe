/* See members.h. Lists are compared as bytes: entries are wholly zeroed before they are filled. */
#include "replication/members.h"

#include <stdio.h>
#include <string.h>

#include "replication/address.h"

void members_fill_host(char address[MSG_ADDRESS_BYTES], const char *seen) {
  struct address a, from;
  char full[ADDRESS_HOST_BYTES + 16];
  if (!address[0] || address_parse(address, &a) || address_parse(seen, &from)) return;
  if (a.host[0] && strcmp(a.host, "0.0.0.0") != 0 && strcmp(a.host, "::") != 0) return;
  int n = snprintf(full, sizeof full, strchr(from.host, ':') ? "[%s]:%s" : "%s:%s", from.host, a.port);
  if (n < 0 || (size_t)n >= MSG_ADDRESS_BYTES || !from.host[0]) return;
  memset(address, 0, MSG_ADDRESS_BYTES);
  memcpy(address, full, (size_t)n);
}

const struct msg_member *members_find(const struct msg_members *m, uint64_t node_id) {
  for (uint32_t i = 0; i < m->count; i++)
    if (m->member[i].node_id == node_id) return &m->member[i];
  return NULL;
}

const struct msg_member *members_primary(const struct msg_members *m) {
  for (uint32_t i = 0; i < m->count; i++)
    if (m->member[i].role == DW_PRIMARY) return &m->member[i];
  return NULL;
}

static void know(struct members *m, const struct msg_member *one) {
  struct msg_members *k = &m->known;
  for (uint32_t i = 0; i < k->count; i++) {
    if (k->member[i].node_id != one->node_id) continue;
    k->member[i] = *one;
    return;
  }
  if (k->count < MSG_MEMBERS_MAX) {
    k->member[k->count++] = *one;
    return;
  }
  k->member[m->known_next] = *one;
  m->known_next = (m->known_next + 1) % MSG_MEMBERS_MAX;
}

static void push(struct members *m, struct msg_members *to, const struct msg_member *one) {
  if (to->count == MSG_MEMBERS_MAX || members_find(to, one->node_id)) return;
  if (one->role == DW_PRIMARY && members_primary(to)) return;
  to->member[to->count++] = *one;
  know(m, one);
}

void members_init(struct members *m, const struct msg_member *self) {
  memset(m, 0, sizeof *m);
  m->self = *self;
}

void members_told(struct members *m, const struct msg_members *told, const char *upstream) {
  m->told = *told;
  for (uint32_t i = 0; i < m->told.count; i++) {
    struct msg_member *one = &m->told.member[i];
    if (one->node_id == m->self.node_id) continue; /* as it saw us */
    members_fill_host(one->client, upstream);
    members_fill_host(one->listen, upstream);
  }
}

void members_begin(struct members *m, dw_role role, struct msg_members *next) {
  memset(next, 0, sizeof *next);
  m->self.role = (uint8_t)role;
  if (role == DW_FOLLOWER)
    for (uint32_t i = 0; i < m->told.count; i++)
      if (m->told.member[i].node_id != m->self.node_id || m->told.member[i].role == DW_FOLLOWER)
        push(m, next, &m->told.member[i]);
  push(m, next, &m->self);
}

void members_add(struct members *m, struct msg_members *next, const struct msg_member *one, const char *peer) {
  struct msg_member seen = *one;
  members_fill_host(seen.client, peer);
  members_fill_host(seen.listen, peer);
  seen.role = DW_FOLLOWER;
  push(m, next, &seen);
}

bool members_end(struct members *m, const struct msg_members *next) {
  if (memcmp(&m->list, next, sizeof *next) == 0) return false;
  m->list = *next;
  return true;
}
