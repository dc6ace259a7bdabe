/* Automatic failover in the simulator: each node's process runs the production lease machine (replication/failover.h)
 * over a model of etcd, and what the machine asks for drives the same calls as replication/cmd/failover_run.c makes.
 *
 *   sim_etcd.c          the coordinator: leases by its own clock, keys, compare-and-swap; what goes wrong with it
 *   sim_lease.c         a node's process: waits for its role, opens, obeys the machine, stops
 *   sim_lease_judge.c   who may acknowledge, judged by the coordinator's truth and the simulator's time
 *   sim_lease_faults.c  what goes wrong, and what the operator still does
 */
#ifndef DW_SIM_LEASE_H
#define DW_SIM_LEASE_H

#include "replication/failover.h"
#include "tests/sim/sim.h"

#define LEASES_MAX 512u

struct etcd_lease {
  uint64_t id;
  int node;
  uint64_t expires_ns; /* true time; never revoked before it */
  uint64_t drops_ns;   /* when it is: a little later */
};

struct sim_etcd {
  int32_t rate_ppm;                                /* of its clock */
  uint64_t ttl_ns, down_ns;                        /* down until then */
  uint64_t cut_to[SIM_NODES], cut_from[SIM_NODES]; /* requests, answers: until then */
  uint32_t loss_pct;
  int64_t revision;
  uint64_t next_lease;
  struct etcd_lease lease[LEASES_MAX];
  uint32_t leases;
  struct failover_view kv;
  uint64_t member_lease[FAILOVER_MEMBERS];
  int claimed_by; /* whose FO_TAKE was the last one that was carried out */
  uint64_t recorded_ns, paused_ns;
};

struct lease_plan {
  struct failover_options opt; /* what all nodes have in common */
  uint64_t gap_ns;             /* between events of sim_lease_faults.c */
  bool pauses, switchovers, hand;
};

/* A request on its way; freed when nobody waits for it any more. */
struct lease_request {
  struct lease_request *next, **at; /* of all: what is under way when a run ends */
  unsigned refs;
  struct world *w;
  int node;
  uint32_t life;
  struct failover_action action;
  struct failover_answer answer;
  struct failover_view *view;
  uint64_t sent_ns, wall_ms, timeout_ns; /* true times; wall_ms: the sender's clock */
  bool again, lost, arrived;             /* again: it is carried out twice; lost: nobody hears the answer */
};

/* A node's process, and what is known of it from outside. */
struct lease_run {
  struct world *w;
  struct sim_node *n;
  char address[24];
  struct failover_options opt;
  struct failover *f; /* NULL: no process */
  uint32_t life;
  uint64_t turn_ns;
  bool has_data; /* when it began: its directory was not new, and had begun this epoch */
  uint64_t own_epoch;
  bool known, stopping, stopped; /* known: as what to open the engine */
  dw_role open_as;
  int open_follow;
  struct lease_request *out;      /* it waits for the coordinator */
  bool changing, demoting, begun; /* it waits for its engine; demoting: until that is done */
  struct role_request change;
  bool promoting, promoted; /* a thread beside it does */
  int promote_rc;
  char promote_why[300];
  struct role_request promo;
  bool restricted;
  /* judged from outside */
  uint64_t epoch;        /* the last one that it began */
  bool by_hand;          /* by an operator's word, and the lease has not followed yet */
  uint64_t woke_ns;      /* when it last went on after it had stood still */
  uint64_t led_until_ns; /* when its leader key went, or may have gone */
};

struct sim_lease {
  struct lease_plan plan;
  struct sim_etcd etcd;
  struct lease_run run[SIM_NODES];
  dw_status *status;
  struct lease_request *requests;
  uint64_t acked_epoch; /* of the sync writes that were acknowledged, the highest that a lease began */
  int acked_by;
};

/* sim_etcd.c */
void etcd_init(struct world *);
void etcd_send(struct world *, struct lease_run *, const struct failover_action *);
struct lease_request *etcd_request_new(struct world *);
void etcd_request_unref(struct lease_request *);
void etcd_answer_in(struct world *, struct lease_request *, uint64_t ns);
/* Until when it is certain that the leader key is, or was, this node's: true time. */
uint64_t etcd_leads_until(const struct world *, int node);
void etcd_outage(struct world *, uint64_t ns);

/* sim_lease.c */
void lease_turn_at(struct lease_run *, uint64_t at);
void lease_killed(struct world *, struct sim_node *); /* also one that has no engine yet */

/* sim_lease_judge.c: what was carried out at the coordinator. */
void judge_take(struct world *, const struct lease_request *, const struct failover_view *before);
void judge_record(struct world *, const struct lease_request *, const struct failover_view *before);
void judge_renew(struct world *, const struct lease_request *, const struct etcd_lease *);

#endif
