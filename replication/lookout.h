/* Who is the primary now? For a node that has lost it, or was one: a pure state machine.
 *
 *   RESTING --(it is time)--> ASKING: every peer, FENCE_ASK --(all have answered, or the time is over)--> found, or
 * RESTING
 *
 * The answer is the peer that is a primary, is not fenced, and has the highest epoch, if that is not older than what
 * this node's log is of (a primary's own: newer) and what it has promised. Answers of hearsay ("I follow so-and-so") do
 * not count: whoever is the primary says so itself. Nobody is elected here, and asking changes nothing anywhere.
 *
 * When it is time: a primary asks now and then, for it may be an old one that nobody has told; one that is fenced asks
 * more often. A follower asks when no news of its primary's has confirmed its data for the peer time-out: its link is
 * gone, or it follows one that is fenced; and at once when it has nobody to follow, as an old primary's directory that
 * is opened again.
 */
#ifndef DW_REPLICATION_LOOKOUT_H
#define DW_REPLICATION_LOOKOUT_H

#include "replication/message.h"

#define LOOKOUT_PEERS 64u
#define LOOKOUT_FENCED_NS 1000000000ull /* between two rounds of a fenced primary */

struct lookout_self {
  dw_role role;
  bool fenced;
  bool lost; /* a follower: nothing has confirmed its data for the peer time-out, or there is nobody to follow */
  uint64_t epoch, promised_epoch;
};

struct lookout_peer {
  bool asked, done;
  bool primary; /* and not fenced */
  uint64_t epoch, node_id;
};

struct lookout {
  size_t peers;
  uint64_t timeout_ns; /* of a round; also between two rounds */
  bool asking;
  uint64_t next_ns, end_ns; /* the next round begins, this one ends */
  struct lookout_peer peer[LOOKOUT_PEERS];
};

void lookout_init(struct lookout *, size_t peers, uint64_t timeout_ns, uint64_t now_ns);
/* Begins and ends rounds. True: a round is over, and *found is the peer to follow. */
bool lookout_tick(struct lookout *, const struct lookout_self *, uint64_t now_ns, size_t *found);
bool lookout_wants(const struct lookout *, size_t i); /* ask peer i now; lookout_asked once it is on its way */
void lookout_asked(struct lookout *, size_t i);
void lookout_answer(struct lookout *, size_t i, const struct msg_fenced *);
void lookout_unreachable(struct lookout *, size_t i);
uint64_t lookout_next_tick(const struct lookout *);

#endif
