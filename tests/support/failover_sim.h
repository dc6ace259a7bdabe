/* A cluster of failover machines around a model of etcd, in one thread and in simulated time.
 *
 * What the model can do wrong: requests and answers are lost (so a transaction may be done that nobody hears of), nodes are
 * cut off from the coordinator or from each other, clocks run at different rates, processes stop past their leases
 * and go on, die and come back. The engines are modelled by what dw_promote promises: a promotion needs nodes - acks
 * promises and the longest log among them; a write is acknowledged once `acks` followers have it.
 *
 * Checked at every step: never two nodes that may acknowledge; nothing acknowledged is lost by a promotion; terms grow.
 */
#ifndef DW_TEST_FAILOVER_SIM_H
#define DW_TEST_FAILOVER_SIM_H

#include "replication/failover.h"

#define FSIM_NODES 3
#define FSIM_STEP_NS 10000000ull
#define FSIM_MS 1000000ull

struct fsim_request {
  bool out, applied;
  struct failover_action action;
  uint64_t apply_at, answer_at; /* UINT64_MAX: lost */
  uint64_t timeout_at;
  struct failover_answer answer;
  struct failover_view view;
};

struct fsim_node {
  uint64_t id;
  struct failover_options opt;
  char address[32];
  struct failover *f;
  bool up, stopped, cut_coordinator, cut_nodes, wiped;
  double rate; /* of its clock */
  uint64_t offset_ns;
  /* the engine */
  bool open, primary, restricted, healthy;
  bool fenced; /* a primary no more, and not yet a follower */
  uint64_t epoch, lsn, promised;
  char following[FAILOVER_TEXT];
  uint64_t promote_at; /* 0: none under way */
  uint64_t promote_timeout_at;
  struct fsim_request r, late; /* late: given up by the node, not by the network */
  /* seen */
  uint64_t audits, promotions, demotions;
  char events[4000];
};

struct fsim_lease {
  uint64_t id, expires_ns;
};

struct fsim {
  uint64_t now_ns, seed;
  struct fsim_node n[FSIM_NODES];
  uint32_t acks;
  /* the coordinator */
  bool coordinator_down;
  int64_t revision;
  uint64_t next_lease, ttl_ns;
  struct fsim_lease leases[1024];
  uint32_t lease_count;
  struct failover_view kv;
  uint64_t member_lease[FAILOVER_MEMBERS];
  uint32_t loss_percent; /* of requests, and of answers */
  /* results */
  uint64_t acked_lsn, acked_epoch, acks_given, last_ack_ns;
  uint64_t max_term;
  bool trace;
  char violation[300]; /* "": none */
};

/* Default options for node `i`; change s->n[i].opt before fsim_start. */
void fsim_init(struct fsim *, uint64_t seed);
void fsim_start(struct fsim *, int node);
void fsim_kill(struct fsim *, int node); /* kill -9; fsim_start brings it back */
void fsim_run(struct fsim *, uint64_t ms);
bool fsim_run_until_acks(struct fsim *, uint64_t more, uint64_t ms); /* so many more acknowledged writes within ms */
int fsim_leader(const struct fsim *); /* the one that may acknowledge; -1 */
uint32_t fsim_random(struct fsim *, uint32_t below);
void fsim_free(struct fsim *);

#endif
