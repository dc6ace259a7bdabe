/* Inside of the failover machine: failover.c moves it, failover_choose.c judges who should lead. */
#ifndef DW_REPLICATION_FAILOVER_INTERNAL_H
#define DW_REPLICATION_FAILOVER_INTERNAL_H

#include "replication/failover.h"

#define AUDITS_MAX 8u

/* When this node first saw a member in its present revision, by its own clock. */
struct member_seen {
  uint64_t node_id;
  int64_t revision;
  uint64_t since_ns;
};

struct failover {
  struct failover_options opt;
  enum failover_state state;
  uint64_t now, wall_ms;
  struct failover_status st;

  /* the request that is out */
  bool asking;
  enum failover_action_kind asked;
  uint64_t asked_ns;

  /* the lease */
  uint64_t lease, valid_until_ns; /* 0: none */
  bool spent;                     /* the leader key was asked for with it: the next time there must be a new one */
  uint64_t demote_at, renew_at, publish_at, look_at, grant_at, follow_at, probe_at, retry_at;
  bool reachable;

  /* what was seen */
  bool seen; /* a view at all */
  struct failover_view view;
  uint64_t view_sent_ns;
  int64_t record_revision, leader_revision;
  uint64_t leader_since_ns; /* the leader key is there in its present revision */
  uint64_t record_since_ns; /* the record is at least that old */
  struct member_seen members[FAILOVER_MEMBERS];
  uint32_t member_count;
  bool refused; /* the leader's host says that nobody is there, since its last renewal */

  /* standing */
  bool lost; /* there is no leader, or a dead one */
  uint64_t lost_ns, published_ns, not_before_ns, took_ns, odd_since_ns, began_ns;
  bool stamp; /* the promotion under way is a failover */
  struct failover_leader before; /* whom it replaces */
  uint64_t before_lsn;
  uint64_t term;

  /* to be done */
  bool want_demote, want_resign, want_promote, promoting, want_record, stopping, say_promoted;
  bool restricted, want_restricted;
  bool opening; /* it was told to be opened as a follower, and is not open yet: nothing else can become of it meanwhile */
  struct failover_audit audits[AUDITS_MAX];
  unsigned audit_count;
  uint64_t failovers;
  char decision[FAILOVER_WHY], score[FAILOVER_WHY], held[FAILOVER_WHY];
};

/* What keeps this node from standing; false: nothing. */
bool failover_held(const struct failover *, char why[FAILOVER_WHY]);
bool failover_returns(const struct failover *);
const struct failover_member *failover_superseded(const struct failover *); /* by whom; NULL: not */
/* How many living candidates are better; the score's parts as text. `missing`: nodes that have not been seen alive. */
uint32_t failover_rank(const struct failover *, char score[FAILOVER_WHY], uint32_t *missing);
/* > 0: a is the better primary. */
int failover_compare(const struct failover_options *, const struct failover_member *a, const struct failover_member *b);
void failover_self(const struct failover *, struct failover_member *);
/* The leader missed its renewals, as far as this node can see. */
bool failover_suspect(const struct failover *);
bool failover_fresh(const struct failover *, const struct failover_member *);
/* Takes a view and notes what has moved since the last one. */
void failover_take_view(struct failover *, const struct failover_view *, uint64_t sent_ns);

#endif
