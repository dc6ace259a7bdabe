/* One node's part in automatic failover: who holds the lease is primary. Pure: time, answers and the node's own status go
 * in, actions come out. Whoever carries them out (replication/cmd/failover_run.c, or a simulation) does one at a time.
 *
 *                      +--------------------------------------------------------------+
 *                      v                                                              |
 *   WAITING --no leader--> STANDING --its turn--> TAKING --compare-and-swap--> PROMOTING --> LEADING <--> KEPT
 *      ^                      |                     |  lost the race              | refused     |  can't   | too few
 *      |                      |somebody leads       |                             |             |  renew   | followers
 *      +----------------------+---------------------+-----------------------------+-------------+----------+
 *
 * The coordinator (etcd; coordinator.h of replication/cmd) holds, under the cluster's name:
 *
 *   leader       who is primary: node, addresses, epoch (0 until it is promoted). Lives and dies with its holder's lease
 *   members/ID   what each node has, republished at every renewal, with its lease: this is the heartbeat that others see
 *   record       the last promotion: term, node, and when the last failovers were. Has no lease
 *   pause        while it exists nobody takes over from somebody else
 *
 * THE DEADLINE. A lease is counted from the moment when its last successful renewal was *sent*, by this node's monotonic
 * clock, and only for four fifths of its TTL; the coordinator counts the whole TTL from when it got it. So a primary
 * stops (DEMOTE) at least a fifth of the TTL before its key can vanish, as long as clocks run equally fast to 25 % and
 * the process runs. A process that was stopped past its deadline finds out when it runs again; what it answers before
 * that is held harmless by promises, not by this file: docs/decisions/0007-epochs-promises-promotion.md.
 *
 * EARLY. Waiting for a lease of 5 s costs 5 s. So the lease may be taken from a holder that (1) missed its renewals,
 * (2) whose stream to this node has ended and (3) whose host answers that nobody listens there (connection refused). The
 * compare-and-swap then demands that the holder has not renewed since. Whoever is only slow, stopped or cut off
 * refuses no connection, and is given its whole lease.
 *
 * Nothing here is trusted with data: a promotion that this file asks for needs the promises of nodes - acks, and is refused
 * if somebody has more. A wrong decision costs time.
 */
#ifndef DW_REPLICATION_FAILOVER_H
#define DW_REPLICATION_FAILOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAILOVER_MEMBERS 64u
#define FAILOVER_STAMPS 16u
#define FAILOVER_TEXT 64u
#define FAILOVER_WHY 240u

enum failover_state { FO_WAITING, FO_STANDING, FO_TAKING, FO_PROMOTING, FO_LEADING, FO_KEPT, FO_STOPPED };

/* Strings are borrowed for the machine's life. */
struct failover_options {
  uint64_t node_id;
  const char *region, *preferred_region; /* "": none */
  const char *address;                   /* that other nodes connect to */
  const char *client_address;            /* "": unknown */
  uint32_t priority;                     /* 0: never promoted */
  uint32_t nodes, acks;                  /* of the cluster, this one included */
  bool first;                            /* takes the lease of a cluster that has no record yet */
  bool keep;                             /* serves on without the coordinator, as long as enough followers confirm */
  bool early;                            /* see above */
  uint64_t ttl_ns, renew_ns, poll_ns;
  uint64_t candidate_wait_ns; /* for each better candidate, and for those that have not been seen */
  uint64_t cooldown_ns;       /* between two failovers */
  uint32_t missed_renewals, max_per_hour; /* 0 per hour: no cap */
};

/* The node as its engine reports it. */
struct failover_status {
  bool open;     /* false: it waits for PROMOTE or FOLLOW to be opened as primary or follower; then has_data: the directory exists,
                    and epoch: the last one that it has begun */
  bool primary;  /* and not fenced */
  bool fenced;   /* a primary that is: it must become a follower before it can be promoted */
  bool healthy;  /* log and store work */
  bool has_data;
  bool link_up;  /* follower: its primary talks to it */
  bool all_sync; /* every write waits for `acks` followers, unless a client asks for less */
  uint32_t sync_followers;
  uint64_t epoch, durable_lsn;
  uint64_t lag_ms; /* age of the data; UINT64_MAX: unknown */
  char following[FAILOVER_TEXT];
};

struct failover_leader {
  uint64_t node_id, lease, epoch; /* epoch 0: not promoted yet */
  int64_t revision;
  char address[FAILOVER_TEXT], client[FAILOVER_TEXT];
};
struct failover_member {
  uint64_t node_id, epoch, durable_lsn, lag_ms;
  uint32_t priority;
  bool primary, healthy, has_data;
  int64_t revision;
  char region[FAILOVER_TEXT], address[FAILOVER_TEXT];
};
struct failover_record {
  uint64_t term, epoch, node_id;
  uint32_t count; /* of stamps, oldest first */
  uint64_t stamps_ms[FAILOVER_STAMPS]; /* wall clock: failovers only, not first starts and returns */
  int64_t revision;
};
/* Everything under the cluster's name at one revision. */
struct failover_view {
  bool has_leader, has_record, paused;
  struct failover_leader leader;
  struct failover_record record;
  uint32_t member_count;
  struct failover_member members[FAILOVER_MEMBERS];
};

enum failover_action_kind {
  /* requests to the coordinator: answered by failover_answer before the next one is given out */
  FO_GRANT,   /* a lease of ttl */
  FO_RENEW,   /* `lease` */
  FO_LOOK,    /* the whole view */
  FO_PUBLISH, /* put `member` with `lease`; if if_leading: only while the leader key has this lease */
  FO_TAKE,    /* put `leader` with `lease` and `record`, if all `expect` */
  FO_RECORD,  /* likewise, if the leader key has this lease */
  FO_RESIGN,  /* delete the leader key if it has this lease */
  FO_REVOKE,  /* `lease`: leader and member go with it */
  FO_PROBE,   /* does `address` refuse connections? */
  /* to the node */
  FO_PROMOTE,  /* become primary within timeout_ns (open as it, if not open); answered by failover_promoted, other actions may come before */
  FO_FOLLOW,   /* follow `address`; "": nobody, only for one that is not open */
  FO_DEMOTE,   /* acknowledge nothing, follow nobody */
  FO_RESTRICT, /* `on`: take no writes but those that wait for `acks` followers */
  FO_AUDIT
};

struct failover_expect {
  int64_t leader_revision; /* 0: there is none */
  int64_t record_revision; /* 0: there is none */
  uint64_t member_id;      /* 0: do not ask; else this member's revision is as follows */
  int64_t member_revision;
};

struct failover_audit {
  const char *event; /* static */
  char why[FAILOVER_WHY];
  uint64_t from_node, to_node, from_epoch, to_epoch, from_lsn, to_lsn;
  uint64_t duration_ns;
};

struct failover_action {
  enum failover_action_kind kind;
  uint64_t timeout_ns; /* of a request: it has failed if it takes longer */
  uint64_t lease;
  uint64_t term; /* FO_PROMOTE: the one that was claimed; the epoch is of it or of a later one */
  bool if_leading, on;
  struct failover_expect expect;
  struct failover_leader leader;
  struct failover_member member;
  struct failover_record record;
  struct failover_audit audit;
  char address[FAILOVER_TEXT];
};

struct failover_answer {
  int rc; /* DW_OK; DW_NOT_FOUND: the lease is gone; anything else: no answer, it may have been done or not */
  uint64_t lease, ttl_ns; /* FO_GRANT, FO_RENEW */
  bool done;              /* transactions: the conditions held; FO_PROBE: refused */
  const struct failover_view *view; /* FO_LOOK */
  const char *why;        /* of a failure */
};

struct failover;

struct failover *failover_create(const struct failover_options *); /* NULL: no memory */
void failover_destroy(struct failover *);

/* Tells time and status; call it before failover_next, and whenever failover_wake says so. wall_ms is compared with what
 * other nodes have written, for the cool-down alone. */
void failover_step(struct failover *, uint64_t now_ns, uint64_t wall_ms, const struct failover_status *);
/* What to do now; false: nothing. */
bool failover_next(struct failover *, struct failover_action *);
uint64_t failover_wake(const struct failover *);
void failover_answer(struct failover *, uint64_t now_ns, const struct failover_answer *);
void failover_promoted(struct failover *, uint64_t now_ns, int rc, const char *why);
/* DEMOTE was not carried out: it is asked for again. Whoever carries it out lets the node acknowledge nothing all the same. */
void failover_not_demoted(struct failover *, uint64_t now_ns);
/* Steps down, gives the lease back; then the state is FO_STOPPED. */
void failover_stop(struct failover *);

/* May this node acknowledge writes at this moment, as far as its lease is concerned? */
bool failover_may_acknowledge(const struct failover *, uint64_t now_ns);

/* Until when what this node says as primary is true, by the same clock: UINT64_MAX without an end (KEPT), 0: it has no lease. */
uint64_t failover_serves_until(const struct failover *);

struct failover_report {
  enum failover_state state;
  bool reachable, paused, has_leader, restricted;
  uint64_t lease_left_ms; /* until this node's deadline */
  uint64_t term, leader_node, failovers;
  char leader[FAILOVER_TEXT], leader_client[FAILOVER_TEXT];
  char decision[FAILOVER_WHY], score[FAILOVER_WHY];
};
void failover_report(const struct failover *, uint64_t now_ns, struct failover_report *);
const char *failover_state_name(enum failover_state);

#endif
