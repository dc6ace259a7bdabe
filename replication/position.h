/* Where does a follower continue? The one decision that must never be wrong: everything after it trusts it.
 *
 * A position is a boundary between two blocks: (lsn, chain). Equal pairs mean equal histories up to there; nothing
 * else does. (BLOCK_EPOCH uses no LSN, so several boundaries may share one.) The epoch, with one writer per epoch,
 * only helps to find the place where two histories part.
 *
 * The cases, first match decides; log lines and messages cite the letter:
 *
 *   A  no cluster id yet, or genesis   -> STREAM if the log still begins there, else BOOTSTRAP
 *   B  its log is of a newer epoch than ours, or ends beyond our end in our own epoch, while we are a
 *      follower ourselves (cascading)  -> REFUSE DW_STALE: we are merely behind, it should try again
 *   C  newer epoch than ours, we are the primary -> REFUSE DW_DIVERGED: we are an old primary that came back
 *   D  `at` is a boundary of our log   -> STREAM if it is its tail, else TRUNCATE there
 *                                         (TRUNCATE only if nothing applied lies beyond, else G)
 *   E  `at` is below the oldest held   -> BOOTSTRAP if what it has applied lies on our history of epochs, else G
 *   F  `at` is not on our history: P = our last boundary with epoch <= at.epoch and lsn <= at.lsn.
 *      What it has applied is on our history, at or before P -> TRUNCATE(P); P trimmed -> BOOTSTRAP
 *   G  what it has applied is not on our history -> REFUSE DW_DIVERGED, saying since which LSN; BOOTSTRAP if it asks to
 *                                         rejoin: that is, to part with it
 *
 * BOOTSTRAP names P, too, where anything of its log lies beyond our history: the follower keeps that in a file first.
 * If our log does not hold P any more, the history of epochs tells it: an epoch's end is the next one's start.
 * Where it left ours inside of an epoch P's chain hash is not known: it gets one that no log has at that LSN.
 *
 * TRUNCATE(P) and the follower: it cuts back to P if P is one of its own boundaries and says HELLO with that tail (case
 * D follows). If it is not (two writers used the same epoch number), it says HELLO with `at` = its own last boundary of
 * an epoch below P's, cutting nothing: the epoch falls every round, and the shipper bounds the rounds.
 *
 * "On our history of epochs" (for positions below the oldest held, which can't be compared by chain): our history has
 * the position's epoch, and its LSN lies between that epoch's start and the next one's; at either end the chain hash
 * is known and must match too. An LSN is never used twice within an epoch, so (epoch, LSN) names one commit.
 */
#ifndef DW_REPLICATION_POSITION_H
#define DW_REPLICATION_POSITION_H

#include "replication/message.h"
#include "wal/format.h"

/* The log, as far as the decision needs it; position_wal.c makes one from a struct wal, tests from an array. */
struct position_log {
  /* Is pos a boundary? DW_OK, DW_NOT_FOUND (below the oldest), DW_DIVERGED (is not); other codes: reading failed. */
  int (*find)(void *ctx, const struct wal_pos *);
  /* Last boundary with epoch <= `epoch` and lsn <= `lsn`; DW_NOT_FOUND: before the oldest. */
  int (*at_most)(void *ctx, uint64_t epoch, dw_lsn lsn, struct wal_pos *);
  void *ctx;
  struct wal_pos oldest, tail;
  const struct epoch_record *epochs; /* oldest first */
  size_t epoch_count;
  struct hash128 cluster_id;
  bool relay; /* this node is a follower itself */
};

enum position_kind { POSITION_STREAM, POSITION_TRUNCATE, POSITION_BOOTSTRAP, POSITION_REFUSE };
struct position_decision {
  enum position_kind kind;
  char which;         /* case letter */
  struct wal_pos pos; /* STREAM: open the cursor here; TRUNCATE: cut back to it; BOOTSTRAP: all that is
                          sure of what it holds */
  struct wal_pos parted; /* BOOTSTRAP: where its history leaves ours; chain zero: it does not */
  int code;           /* REFUSE: DW_* */
  dw_lsn lsn;         /* REFUSE: since which LSN */
  char text[MSG_TEXT_BYTES + 1]; /* REFUSE, and for the log */
};

/* DW_OK and *out, or an error from reading the log (close the connection, decide again later). Reads the log: may
 * touch the disk. */
int position_decide(const struct position_log *, const struct msg_hello *, struct position_decision *out);

/* The driver's short form: takes what it needs from a log and an epoch history that engine_epochs() gave. */
struct wal;
int position_decide_wal(struct wal *, const struct wal_pos *oldest, const struct wal_pos *tail,
                        const struct epoch_record *, size_t epochs, const struct hash128 *cluster_id, bool relay,
                        const struct msg_hello *, struct position_decision *out);
/* The follower's side of a TRUNCATE to, or a BOOTSTRAP that names, a boundary that it does not have: its own last one at
 * or below pos->epoch and pos->lsn; if that was asked about already (asked NULL: if it has the LSN and epoch of pos), of
 * an epoch below pos->epoch. DW_NOT_FOUND: none held. */
int position_older_wal(struct wal *, const struct wal_pos *pos, const struct wal_pos *asked, struct wal_pos *at);

#endif
