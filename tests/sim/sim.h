/* The simulator's world: one thread, one seed, virtual time. docs/simulation.md says what it does and checks.
 *
 *   sim_main.c       command line, many seeds, sums
 *   sim_world.c      events in order of virtual time; nodes: opening, stepping, crashing, closing
 *   sim_disk*.c      a machine's disk and clocks (struct env)
 *   sim_transport.c  replication/transport_uv.h over a simulated network
 *   sim_plan.c       what a seed draws: topology, settings, rates
 *   sim_workload.c   writers and readers
 *   sim_faults.c     crashes, power cuts, wipes, partitions, and the operator who clears up
 *   sim_roles.c      promotions, handovers, nodes pointed elsewhere, and the operator's part in them
 *   sim_lease*.c     automatic failover: sim_lease.h
 *   sim_rejoin.c     what a node has that the history it joins has not: is it in the node's files?
 *   sim_model.c      what was written: every block ever made, as a tree of histories
 *   sim_epochs.c     who began which epoch, and what a promotion must not lose
 *   sim_check.c      the invariants
 *
 * Nodes are production code from the WAL up to the drivers (replication/node*.c); only libuv's transport is replaced.
 */
#ifndef DW_SIM_H
#define DW_SIM_H

#include "replication/node.h"
#include "tests/sim/sim_disk.h"
#include "tests/sim/sim_rand.h"

#define SIM_NODES 5
#define SIM_KEYS 48u
#define SIM_DIR "/d"

#define MS 1000000ull
#define SEC 1000000000ull

struct world;
struct sim_node;
struct rec;
struct wreq;

/* ---- what a seed draws ------------------------------------------------------------------------ */

struct plan {
  unsigned nodes; /* with the primary */
  int upstream[SIM_NODES];
  dw_options opt;
  uint64_t run_ns;       /* faults and load go on so long */
  uint64_t write_gap_ns; /* between writes, on average */
  uint64_t read_gap_ns;
  uint32_t value_max, batch_max, burst;
  uint32_t big_ppm;      /* values larger than a segment */
  uint32_t default_pct;  /* writes that say nothing */
  uint32_t delay_ns_max; /* network */
  uint32_t job_ns_max, step_ns_max, pause_pct;
  uint64_t fault_gap_ns; /* between events of sim_faults.c; 0: none */
  bool crashes, power, wipes, partitions, cuts, disk_errors, full, rot, stalls, wall_jumps, failover;
  bool promotions; /* sim_roles.c */
  uint64_t role_gap_ns;
  bool rejoins;         /* sim_rejoin.c */
  uint32_t auto_rejoin; /* nodes whose settings say so; bit: node */
  uint32_t rejoin_trouble_pct;
  struct disk_rates rates; /* while disk errors are on */
};
uint64_t plan_pick(struct rng *, const uint64_t *of, size_t n);
#define PICK(r, ...)                                                                                                   \
  plan_pick((r), (const uint64_t[]){__VA_ARGS__}, sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))
void plan_draw(struct world *);
void plan_print(const struct world *);

/* ---- the model -------------------------------------------------------------------------------- */

/* A block that some primary made, behind its parent. Equal chain hash: equal history. */
struct rec {
  struct rec *parent, *child, *sibling, *hash_next, *all_next;
  struct hash128 chain;
  uint64_t bytes_hash;
  dw_lsn first_lsn, last_lsn;
  uint64_t epoch;
  uint32_t depth, branch, commits, life; /* life: node_life of the primary that made it */
  struct block_need need;
  struct wreq **who;                  /* per commit */
  uint16_t written, durable, applied; /* nodes that ever had it so; bit: node */
  uint16_t kept;         /* nodes whose log has it still: neither lost with the power, nor with the disk, nor dropped */
  uint16_t saved, given; /* nodes that have it in a diverged file; that gave it up in their logs */
  uint32_t held;         /* stamp of the last look at a log that found it */
  bool committed;
  uint32_t state[SIM_KEYS]; /* value ids after it; 0: no such key */
};

enum wreq_state { WRITE_PENDING, WRITE_OK, WRITE_NOT_DONE, WRITE_DOUBT };
struct sim_op {
  uint8_t key;
  uint32_t value; /* 0: delete */
};
struct wreq {
  struct world *w;
  struct wreq *next, *hash_next, *next_pending;
  uint32_t id, life;
  int node;
  uint64_t body_hash, at_ns, at_mono;
  dw_write_options wo;
  struct sim_op op[8];
  unsigned ops;
  bool has_put;
  bool lost; /* acknowledged, then lost by a primary that had not promised more and went on */
  enum wreq_state state;
  dw_lsn lsn;
  struct rec *rec;
};

struct sim_value {
  uint32_t bytes, salt;
};

void model_init(struct world *);
void model_free(struct world *);
struct rec *model_find(const struct world *, const struct hash128 *chain);
bool model_before(const struct world *, const struct rec *a, const struct rec *b); /* a is b or one of its ancestors */
struct rec *model_common(const struct world *, struct rec *a, struct rec *b);
uint32_t model_value_new(struct world *, uint32_t bytes);
void model_value_bytes(const struct world *, uint32_t value, uint8_t *out);
void model_request(struct world *, struct wreq *);              /* hashes and remembers it */
void model_mark(struct rec *, size_t offset_of_mask, int node); /* it and what is before it */
void model_holds(struct rec *, int node);                       /* it is written in this node's log */
void model_lets_go(struct world *, struct rec *tail, const struct rec *upto, int node); /* behind upto; NULL: all */
void model_lost_unsynced(struct sim_node *); /* the log ends where it was synced */
/* Watchers of a node's log files, see sim_disk.h; ctx: struct sim_node. */
void model_attempt(void *ctx, struct inode *, uint64_t off, const struct iovec *, int n);
void model_wrote(void *ctx, struct inode *, uint64_t off, const struct iovec *, int n);
void model_synced(void *ctx, struct inode *);
void model_gone(void *ctx, struct inode *);
void model_mark_held(struct inode *, uint32_t stamp); /* what this log file was made to hold */

/* ---- epochs ----------------------------------------------------------------------------------- */

struct begun {
  uint64_t epoch, at;
  struct rec *rec;
  uint32_t reason;
  int node;
  int from; /* handed over by this node; -1: not */
  bool forced;
};
/* A block that begins an epoch is about to be written for the first time. */
void epochs_begun(struct world *, struct sim_node *, struct rec *, uint32_t reason);
const struct begun *epochs_find(const struct world *, uint64_t epoch);
void epochs_acked(struct world *, struct sim_node *, const struct wreq *); /* answered OK just now */
/* This node's log gives up what is not before `to`. */
void epochs_dropped(struct world *, struct sim_node *, struct rec *tail, const struct rec *to);
void epochs_reopened(struct world *, struct sim_node *); /* a primary that goes on with what its disk has */

/* ---- nodes ------------------------------------------------------------------------------------ */

enum node_state { NODE_DOWN, NODE_OPENING, NODE_UP, NODE_CLOSING };

struct sim_iter {
  struct sim_iter *next;
  dw_iter *it;
  struct rec *at;
};
struct sim_strong {
  struct sim_strong *next;
  struct strong_wait wait;
  uint64_t until_ns, began_ns; /* true time */
  struct rec *goal;            /* the primary's commit when it began */
};

struct sim_node {
  struct world *w;
  int idx;
  struct sim_disk *disk;
  enum node_state state;
  dw_role role;
  int upstream; /* -1: none */
  char listen[16], primary[16], peers[64];
  dw_engine *e;
  struct transport *t;
  uint32_t life;     /* events of an earlier one are void */
  unsigned on_stack; /* its code is running below us */
  bool in_sync;      /* others run while it waits for its disk: of its own, only what does not wait for that, too */
  bool in_engine, in_job, step_due, cutting; /* cutting: the crash under way is a power cut */
  uint64_t step_at_ns;

  int32_t rate_ppm; /* of the monotonic clock */
  uint64_t boot_ns, mono_base;
  int64_t wall_off_ns;

  /* ground truth, from the disk */
  struct rec *tail, *durable;
  struct inode *tail_inode;
  struct rec *cut_to; /* it follows a primary that does not have the tail: so far it may be cut */
  bool damaged;       /* bytes have rotted since it was last made good */
  uint64_t stall_ns;  /* its threads do not run until then */
  uint64_t freeze_ns; /* the whole process does not, as after SIGSTOP */
  uint32_t wipes;

  /* as last seen */
  struct rec *applied, *commit;
  uint64_t semi_unacked; /* commits of this life without the acks that semi-sync asks for */
  uint64_t refused_ns, failed_ns, down_ns;
  unsigned open_failures;

  /* its role: as last seen, and what somebody has asked of it */
  uint64_t promised, forgot; /* epochs: promised; promised and lost with the disk */
  uint64_t role_ns;          /* since when it has its role */
  bool fenced;
  bool asking;
  struct role_request ask;
  uint64_t ask_ns, ask_limit_ns, astray_ns, astray_wait_ns;

  /* rejoining, sim_rejoin.c */
  int dial_to;                   /* whom it asked last to be let in, and when */
  uint64_t dial_ns, replaced_ns; /* replaced: when its log became another one, or lost its end */
  uint32_t held_stamp;           /* of the look at what its log held before any of it went */
  uint64_t told_ns;
  bool told_rejoin, keeping, switching, sealed, rotted, miscounted;

  struct sim_iter *iters;
  struct sim_strong *strongs;
};

/* ---- the world -------------------------------------------------------------------------------- */

struct event {
  uint64_t at, seq;
  void (*fn)(struct world *, struct sim_node *, void *arg);
  struct sim_node *node; /* NULL: the world's */
  uint32_t life;
  void *arg;
};

struct sim_stats {
  uint64_t seeds, virtual_ns, events, crashes, power_cuts, wipes, failovers, restarts, faults, rots, writes, acked,
      doubt, not_done, reads, stale, iterators, bytes_sent, cuts, partitions, bootstraps, refusals, repairs, blocks;
  uint64_t promotions_asked, promotions, handovers_asked, handovers, begun, fencings, demotions, forced, freezes,
      refollows, leases_taken, lease_failovers, etcd_cuts, by_hand, partings, partial, rejoined, kept_commits,
      rejoin_trouble,
      guarded; /* acknowledged sync writes that a promotion had to have, each counted with each promotion */
};

struct committed_at {
  uint64_t at;
  struct rec *rec;
  int by; /* node */
};

struct link;
struct sim_lease;

struct world {
  uint64_t seed, now, step;
  struct plan plan;
  struct rng r_plan, r_net, r_sched, r_work, r_fault, r_role, r_lease, r_rejoin;
  struct event *heap;
  size_t heap_n, heap_cap;
  uint64_t seq;
  struct sim_node node[SIM_NODES];
  int primary;                         /* the newest that the operator knows of */
  uint64_t primary_epoch, headless_ns; /* headless: since when nobody could serve */
  uint64_t topology_ns;                /* when a node last changed its role, or whom it follows */
  bool healing;                        /* no faults any more */
  bool rot_reported;                   /* a node that is up has said that it met damage */
  uint64_t heal_ns;
  unsigned pause_depth;
  uint32_t stamp; /* sim_rejoin.c */

  /* network: byte streams */
  struct link *links;
  uint64_t blocked_until[SIM_NODES][SIM_NODES];
  uint32_t next_port;

  /* model */
  struct rec **rec_hash, *recs, *genesis;
  struct rec **branch_fork; /* per branch: where it leaves its parent branch */
  uint32_t branches, branch_cap;
  struct wreq **req_hash, *reqs, *pending;
  uint32_t next_req;
  struct sim_value *values;
  uint32_t values_n, values_cap;
  struct committed_at *history;
  size_t history_n, history_cap;
  struct begun *begun;
  size_t begun_n, begun_cap;

  struct sim_lease *lease; /* NULL: nodes have no coordinator */

  bool trace, quiet;
  uint64_t trace_hash;
  struct sim_stats st;
};

extern const char *sim_label; /* printed before a violation: mutants */

void world_run(struct world *, uint64_t seed, bool trace, struct sim_stats *sum);
void world_at(struct world *, uint64_t at, struct sim_node *, void (*fn)(struct world *, struct sim_node *, void *),
              void *arg);
void world_trace(struct world *, const struct sim_node *, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* An invariant does not hold: says everything and ends the process. */
_Noreturn void world_violation(struct world *, const struct sim_node *, const char *invariant, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

uint64_t node_mono(void *node);
uint64_t node_wall(void *node);
uint64_t node_true_after(const struct sim_node *, uint64_t mono_ns); /* true time at which its clock shows this */
void node_start(struct world *, struct sim_node *);
void node_stop_cleanly(struct world *, struct sim_node *);
void node_kill(struct world *, struct sim_node *, bool power); /* torn down once nothing of it is on the stack */
void node_reap(struct world *, struct sim_node *);
void node_kick(struct world *, struct sim_node *); /* an engine step soon */
bool node_up(const struct sim_node *);
uint32_t node_life(const struct sim_node *); /* unique over all nodes */
struct node *node_driver(const struct sim_node *);

/* sim_transport.c */
void net_init(struct world *);
void net_free(struct world *);
void net_node_died(struct sim_node *, bool silently); /* before its transport is destroyed */
void net_unblocked(struct world *);
bool net_cut_one(struct world *); /* some connection breaks at any byte */

/* sim_workload.c */
void workload_start(struct world *);
void workload_node_gone(struct world *,
                        struct sim_node *); /* iterators and strong reads end, pending writes are in doubt */
void workload_poll(struct world *, struct sim_node *);
bool workload_idle(const struct world *);

/* sim_faults.c */
void faults_start(struct world *);
void faults_open_failed(struct world *, struct sim_node *, int rc, const char *why);
void faults_operate(struct world *); /* the operator looks at all nodes */
void faults_end(struct world *);
void faults_wipe(struct world *, struct sim_node *);
void faults_disk(struct world *, struct sim_node *, bool full); /* errors for a while */
void faults_disk_ends(struct world *, struct sim_node *);       /* some time later its disk is well again */
void faults_rot(struct world *, struct sim_node *);

/* sim_roles.c */
void roles_start(struct world *);
void roles_operate(struct world *);
void roles_look(struct world *, struct sim_node *); /* takes in its role, its promise and whom it follows */
void roles_poll(struct world *, struct sim_node *); /* is what was asked of it done? */
void roles_gone(struct sim_node *);
void roles_primary_lost(struct world *);
bool roles_promote(struct world *, struct sim_node *, bool handover);
void roles_kill(struct world *, struct sim_node *);
void roles_isolate(struct world *, const struct sim_node *);
dw_role roles_configured(struct world *, const struct sim_node *); /* what its settings say when it starts */
void roles_wiped(struct world *, struct sim_node *);
bool roles_may_wipe(const struct world *, const struct sim_node *);
/* Is this the newest primary, so that who has something else may be wiped? */
bool roles_newest(const struct world *, const struct sim_node *);
struct sim_node *roles_root(struct world *, struct sim_node *); /* the primary above it (or itself); NULL: none */

bool roles_rejoin(struct world *, struct sim_node *, const struct sim_node *whom); /* `dabbawal rejoin` */
void roles_promote_soon(struct world *, uint64_t within_ns);
void roles_hand_over(struct world *);

/* sim_rejoin.c */
void rejoin_plan(struct world *);
void rejoin_start(struct world *);
void rejoin_step(void *node, enum disk_step, const char *path); /* a watcher of the disk */
void rejoin_dialled(struct sim_node *, int whom);
/* Its log was up to `had` and is now up to `to`; applied: what was, before. */
void rejoin_gave_up(struct world *, struct sim_node *, struct rec *had, struct rec *to, const struct rec *applied);
void rejoin_looked(struct world *, struct sim_node *); /* after each of its events */
void rejoin_opened(struct world *, struct sim_node *);
void rejoin_wiped(struct world *, struct sim_node *);
void rejoin_operate(struct world *, struct sim_node *, const struct sim_node *primary); /* it was refused for a while */
void rejoin_check_files(struct world *, struct sim_node *);                             /* at the end */

/* sim_lease*.c: nothing happens in these without a coordinator */
void lease_draw(struct world *);
void lease_print(const struct world *);
void lease_print_node(const struct sim_node *);
void lease_start(struct world *);
void lease_faults_start(struct world *);
void lease_faults_end(struct world *);
void lease_end(struct world *); /* all processes, but for their engines */
void lease_free(struct world *);
bool lease_may_open(struct world *, struct sim_node *, dw_options *); /* false: it waits for its role */
void lease_opened(struct world *, struct sim_node *, int rc);
bool lease_stops_first(struct world *, struct sim_node *); /* the lease is given back before the engine closes */
void lease_gone(struct world *, struct sim_node *);        /* its process is */
void lease_poll(struct world *, struct sim_node *);
void lease_stood_still(struct world *, uint64_t since_ns); /* everybody has, while some node was closed */
void lease_begun(struct world *, struct sim_node *, const struct rec *, uint32_t reason);
void lease_acked(struct world *, struct sim_node *, const struct wreq *);
bool lease_refuses(const struct world *, const struct sim_node *, const dw_write_options *);
bool lease_converged(struct world *);
bool lease_leaves_it_to_hands(const struct world *); /* may the operator promote somebody? */

/* sim_check.c */
void check_opened(struct world *, struct sim_node *);
void check_node(struct world *, struct sim_node *); /* after anything it did */
void check_answer(struct world *, struct wreq *, int rc, dw_lsn lsn);
void check_pending(struct world *);
struct rec *check_applied(struct world *, struct sim_node *); /* the record that reads see */
void check_iterator(struct world *, struct sim_node *, dw_iter *, const struct rec *at);
bool check_converged(struct world *);
void check_files(struct world *, struct sim_node *);

#endif
