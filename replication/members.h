/* Who is in the cluster, as this node knows it: what it tells those who follow it, shows in its status, and names to
 * clients that ask for the primary. Pure.
 *
 *   the primary says (MEMBERS)  --> told  --+
 *                                           +--> list: shown, and passed on to those who follow us
 *   they who follow us say (HELLO) ---------+
 *   whoever was ever in it --> known: a fenced primary has lost everybody, and still wants to name its successor
 *
 * The list of a primary is itself and the followers connected to it; that of a follower is what its primary told (through
 * relays, if it follows one), and besides the followers connected to it.
 */
#ifndef DW_REPLICATION_MEMBERS_H
#define DW_REPLICATION_MEMBERS_H

#include "replication/message.h"

struct members {
  struct msg_member self;
  struct msg_members told;  /* count 0: nothing yet */
  struct msg_members list;
  struct msg_members known; /* the newest of what was ever said of a node; when full the oldest ones go */
  uint32_t known_next;
};

void members_init(struct members *, const struct msg_member *self);
/* The primary's list, heard from somebody at `upstream` ("host:port"). */
void members_told(struct members *, const struct msg_members *, const char *upstream);

/* A new list: begin with our role, add who is connected ("peer": seen from there), end. True: it differs from the one
 * before. */
void members_begin(struct members *, dw_role, struct msg_members *next);
void members_add(struct members *, struct msg_members *next, const struct msg_member *, const char *peer);
bool members_end(struct members *, const struct msg_members *next);

const struct msg_member *members_find(const struct msg_members *, uint64_t node_id); /* NULL: not there */
const struct msg_member *members_primary(const struct msg_members *);                /* NULL: unknown */

/* A host that is no host ("", *, 0.0.0.0, ::) becomes the one of `seen` ("host:port"). */
void members_fill_host(char address[MSG_ADDRESS_BYTES], const char *seen);

#endif
