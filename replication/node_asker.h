/* A connection to a peer that is asked with FENCE (fencer.h), for who promotes (node_promote.c) and who looks for the
 * primary (node_look.c).
 *
 *   asker_dial -> ASKER_BUSY -> ASKER_IDLE -- asker_ask --> ASKER_BUSY -> ASKER_ANSWERED -- asker_take --> ASKER_IDLE
 *                                                 anything may end in ASKER_FAILED: asker_why, then asker_drop
 *
 * Loop thread only. Events of the connection only note what came and ask for a pump of the node; asker_pump writes and
 * says where it stands.
 */
#ifndef DW_REPLICATION_NODE_ASKER_H
#define DW_REPLICATION_NODE_ASKER_H

#include "replication/address.h"
#include "replication/fencer.h"
#include "replication/transport_uv.h"

struct node;

enum asker_state { ASKER_NONE, ASKER_BUSY, ASKER_IDLE, ASKER_ANSWERED, ASKER_FAILED };

struct asker {
  struct node *n;
  char address[ADDRESS_BYTES];
  struct tp_conn *conn; /* NULL: none */
  bool dialled, connected;
  struct fencer f;
};

/* One for each of the node's peers but itself (one list for all nodes is fine); how many. */
size_t asker_peers(struct node *, struct asker *, size_t cap);
void asker_dial(struct asker *);
void asker_ask(struct asker *, const struct msg_fence *); /* only when IDLE */
enum asker_state asker_pump(struct asker *);
const struct msg_fenced *asker_take(struct asker *); /* only when ANSWERED */
const char *asker_why(const struct asker *);
void asker_drop(struct asker *);

#endif
