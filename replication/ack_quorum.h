/* What all followers together have acknowledged: the table behind engine_acks().
 *
 * One entry per follower known since this primary was opened, by node id. An entry speaks for one incarnation (one
 * data directory) of the node:
 *   - a connection of the same incarnation takes the entry over, marks included: its disk still holds what it
 *     acknowledged; but never more than the log that it comes back with (quorum_located cuts marks to it);
 *   - another incarnation starts from nothing: a wiped disk does not speak for what its predecessor had;
 *   - a disconnected follower keeps its marks (they count: the data is there) but not its connection.
 * New marks come from ACKs only, clamped by the shipper to what was sent on that very connection.
 *
 * Bounds: QUORUM_MAX connected followers; of the absent ones the QUORUM_ABSENT seen last.
 * `conn` is the driver's handle of a connection (its struct's address); never dereferenced here. Pure.
 */
#ifndef DW_REPLICATION_ACK_QUORUM_H
#define DW_REPLICATION_ACK_QUORUM_H

#include "engine/commit_gate.h"
#include "replication/message.h"
#include "replication/position.h"

#define QUORUM_MAX 256u
#define QUORUM_ABSENT 64u

struct quorum_follower {
  uint64_t node_id;
  struct hash128 incarnation;
  char region[MSG_REGION_BYTES];
  char address[DW_ADDRESS_BYTES];
  void *conn;          /* NULL: absent */
  dw_peer_state state; /* DW_PEER_DISCONNECTED when absent */
  dw_lsn received, durable, applied;
  uint64_t staleness_ms; /* as last reported; UINT64_MAX: unknown */
  uint64_t last_seen_ns;
};

struct ack_quorum {
  struct quorum_follower *followers;
  size_t count, cap;
};

void quorum_init(struct ack_quorum *);
void quorum_free(struct ack_quorum *);

/* A HELLO came on `conn` (call again for each HELLO of the same connection). DW_OK; *superseded gets an older
 * connection of the same incarnation that the driver must drop (half-open, most likely; quorum_gone for it then
 * changes nothing), or NULL. DW_LOCKED with a message for a REFUSE: another incarnation of that node id is connected
 * and alive. DW_NO_SPACE: QUORUM_MAX are connected. DW_NO_MEMORY. */
int quorum_admit(struct ack_quorum *, void *conn, const struct msg_hello *, const char *address, uint64_t now_ns,
                 void **superseded);
/* The position was decided: marks are cut to what the follower will hold. REFUSE DW_DIVERGED: what it holds is not ours,
 * its entry goes. */
void quorum_located(struct ack_quorum *, void *conn, const struct position_decision *);
void quorum_state(struct ack_quorum *, void *conn, dw_peer_state, uint64_t now_ns);
/* From SHIP_MARKS. True: something changed. */
bool quorum_marks(struct ack_quorum *, void *conn, const struct msg_ack *, uint64_t now_ns);
/* The connection ended. */
void quorum_gone(struct ack_quorum *, void *conn, uint64_t now_ns);

/* The table boiled down, for engine_acks(). Connected counts followers that are catching up or streaming. */
void quorum_boil(const struct ack_quorum *, struct ack_marks *);

#endif
