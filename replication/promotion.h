/* A candidate's way to a new epoch: a pure state machine. docs/decisions/0007 says why it is safe.
 *
 *   ASKING ------------> PROMISING_SELF --> PROMISING ------------> BEGINNING --> BEGUN
 *     | everybody has      | our own          | nodes - acks promises   | the engine's
 *     | answered, or half  | promise is       | by nodes without more   | epoch record is
 *     | the time is over   | durable          | than we have            | durable
 *     v                    v                  v                         v
 *   (handover: DRAINING comes first: the primary that answered pauses, until we have all that it has)
 *   FAILED: somebody has more, too few answer, too stale, another candidate was faster, out of time
 *
 * Until PROMISING_SELF nothing has changed anywhere: a promotion that can't succeed disturbs nobody. From then on those
 * who promised take no stream of an older epoch.
 *
 * Drive it: promotion_next says what to do now; tell what came of it; ask again. For each peer promotion_wants says
 * which question it should be asked, until it has been answered or could not be reached. The caller owns connections
 * and time.
 */
#ifndef DW_REPLICATION_PROMOTION_H
#define DW_REPLICATION_PROMOTION_H

#include "replication/message.h"

#define PROMOTION_PEERS 64u
#define PROMOTION_PAUSE_NS 10000000ull /* between two questions to a primary that hands over */

struct promotion_config {
  uint64_t node_id;
  size_t peers; /* the others; with us they are the cluster */
  dw_mode mode; /* of this cluster's writes, and how many followers they wait for */
  uint32_t acks;
  bool handover;       /* by the primary itself, which must answer */
  bool force;          /* the operator's word: any promise will do, and who has more loses it */
  uint64_t max_lag_ms; /* 0: any */
  uint32_t min_term;   /* of the epoch; 0: the next one of what nodes know */
  uint64_t timeout_ns;
  uint32_t draw; /* random, for the epoch */
};

/* What this node has. Before PROMISING_SELF it may still follow; after that the driver has ended the stream, synced,
 * and tells it again. */
struct promotion_self {
  struct wal_pos durable;
  uint64_t staleness_ms; /* UINT64_MAX: unknown */
  uint64_t promised_epoch;
};

enum promotion_step {
  PROMOTION_WAIT,         /* for answers or time */
  PROMOTION_PROMISE_SELF, /* end the stream, promise promotion_epoch to ourselves durably, promotion_promised */
  PROMOTION_BEGIN,        /* begin promotion_epoch in the log, promotion_begun */
  PROMOTION_BEGUN,        /* tell the peers (promotion_wants: FENCE_BEGUN), then done */
  PROMOTION_FAILED        /* promotion_error */
};

struct promotion_peer {
  bool asked, answered, unreachable; /* of the present question */
  struct msg_fenced last;            /* if it ever answered */
  bool known;
  char why[120]; /* unreachable: why */
};

struct promotion {
  struct promotion_config cfg;
  struct promotion_self self;
  enum {
    PROMOTING_ASKING,
    PROMOTING_DRAINING,
    PROMOTING_SELF,
    PROMOTING_PROMISING,
    PROMOTING_BEGINNING,
    PROMOTING_BEGUN,
    PROMOTING_FAILED
  } phase;
  uint64_t start_ns, now_ns, epoch;
  size_t primary;    /* DRAINING: the peer that hands over */
  uint64_t pause_ns; /* when it is asked again */
  struct promotion_peer peer[PROMOTION_PEERS];
  int code;
  char text[400];
};

void promotion_start(struct promotion *, const struct promotion_config *, const struct promotion_self *,
                     uint64_t now_ns);

/* How many promises it takes, ours among them: an acknowledged write is on acks + 1 nodes, and so many meet all such
 * sets. */
size_t promotion_need(const struct promotion_config *);

/* The question that peer i should be asked now; false: none. promotion_asked once it is on its way. */
bool promotion_wants(const struct promotion *, size_t i, enum fence_what *what);
void promotion_asked(struct promotion *, size_t i);

/* ---- events -------------------------------------------------------------------------------- */
void promotion_answer(struct promotion *, size_t i, const struct msg_fenced *, uint64_t now_ns);
void promotion_unreachable(struct promotion *, size_t i, const char *why, uint64_t now_ns);
void promotion_tick(struct promotion *, uint64_t now_ns);
/* What this node has now; before each tick while it still follows. */
void promotion_self_now(struct promotion *, const struct promotion_self *);
/* rc: of the promise. self: now, without a stream. */
void promotion_promised(struct promotion *, int rc, const char *text, const struct promotion_self *self,
                        uint64_t now_ns);
void promotion_begun(struct promotion *, int rc, const char *text, uint64_t now_ns);
void promotion_beaten(struct promotion *, uint64_t epoch, uint64_t node_id); /* by another candidate */

/* ---- looking ------------------------------------------------------------------------------- */
enum promotion_step promotion_next(const struct promotion *);
bool promotion_settled(const struct promotion *);                          /* begun or failed */
bool promotion_has_more(const struct wal_pos *a, const struct wal_pos *b); /* a than b */
uint64_t promotion_epoch(const struct promotion *);
uint64_t promotion_next_tick(const struct promotion *);
int promotion_error(const struct promotion *, const char **text);

#endif
