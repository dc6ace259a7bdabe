/* A node: one engine with its replication. The composition root: dw_open and dw_close are in node.c.
 *
 *   struct node
 *     transport     loop thread, sockets, timer, jobs                   transport_uv.c
 *     serve         connections of followers, one shipper each          node_serve.c, node_bootstrap.c
 *                   blocks for somebody who repairs his log             node_fetch.c
 *     follow        the connection to the primary, one receiver         node_follow.c
 *     fence         answers to candidates                              node_fence.c
 *     role          becoming primary, or following somebody else       node_role.c, node_promote.c
 *     members       who is in the cluster, told and shown              node_members.c
 *     look          who is the primary, if this node has lost it       node_look.c
 *     strong        readers that wait for an answer of the primary      node_strong.c
 *     report        what dw_status_get shows                            node_report.c
 *
 * Everything runs in the loop thread, but for: the hooks that the engine calls (node.c; they set a bit and wake the
 * loop), strong_point (waits), the status hook (copies a snapshot), and jobs (locating a position, making and reading
 * checkpoints, checking and installing received ones), which touch nothing of the node but what their struct holds.
 *
 * The state machines decide; this layer only carries out. It keeps to the engine's locking rule by never holding a lock
 * of its own while it calls the engine: report_mu and strong_mu are leaves.
 */
#ifndef DW_REPLICATION_NODE_H
#define DW_REPLICATION_NODE_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/engine.h"
#include "replication/ack_quorum.h"
#include "replication/checkpoint_recv.h"
#include "replication/checkpoint_send.h"
#include "replication/members.h"
#include "replication/receiver.h"
#include "replication/shipper.h"
#include "replication/transport_uv.h"

#define NODE_MAX_FOLLOWERS 64u    /* connected at once; the next one is refused */
#define NODE_MAX_CONNECTIONS 160u /* with strangers that have not said HELLO yet; the next one is closed */
#define NODE_MAX_FETCHERS 2u      /* that repair their logs from ours at once; the next one is refused */
#define NODE_CKPT_KEEP_NS 60000000000ull /* a checkpoint waits so long for its follower to come back */
#define NODE_CKPT_KEPT 8u         /* so many wait at once; the oldest is dropped for the next one */
#define NODE_STEPS 64             /* actions of one machine before the others get their turn */

enum { WAKE_GREW = 1, WAKE_COMMIT = 2, WAKE_APPLIED = 4, WAKE_STRONG = 8, WAKE_STOP = 16, WAKE_NOW = 32, WAKE_ROLE = 64 };

struct node;
struct follow;
struct candidate;
struct look;

/* ---- serving --------------------------------------------------------------------------------- */

/* A checkpoint that is being sent, or that waits for its follower to resume. */
struct node_ckpt {
  struct node_ckpt *next;
  struct ckpt_out *out;
  struct peer *user;   /* the connection that it goes to; NULL: none */
  uint64_t expires_ns; /* without one */
};

struct peer;

struct locate_job {
  struct peer *peer;
  struct msg_hello hello;
  struct wal *wal;
  struct engine_positions pos;
  struct epoch_record *epochs;
  size_t epoch_count;
  struct hash128 cluster_id;
  bool relay;
  unsigned cuts; /* of the node, when it began */
  int rc;
  struct position_decision decision;
  struct wal_cursor *cursor;
  char why[MSG_TEXT_BYTES];
};

/* Reading blocks for somebody who repairs his log. */
#define FETCH_MAX_BLOCKS 4096u
struct fetch_job {
  struct peer *peer;
  struct wal *wal;
  struct msg_fetch ask;
  struct wal_cursor *cursor; /* kept for the next question, if that goes on where this one ended */
  struct wal_block **blocks;
  size_t count;
  int rc;
  char why[MSG_TEXT_BYTES];
};

/* Making a checkpoint, or reading a chunk of it. */
struct ckpt_job {
  struct peer *peer;
  dw_engine *engine;
  struct ckpt_out *out;
  const char *name; /* of the file; the shipper's, valid until its answer */
  uint64_t offset;
  uint32_t bytes;
  bool hashes;   /* making: hash its files, too */
  uint8_t *data; /* MSG_CHUNK_BYTES, kept for the next one */
  int rc;
  char why[MSG_TEXT_BYTES];
};

/* A follower's connection. */
struct peer {
  struct peer *next;
  struct node *n;
  struct tp_conn *conn; /* NULL: closed, waits for its jobs */
  struct shipper *ship;
  struct wal_cursor *cursor;
  struct node_ckpt *ckpt;
  dw_lsn pin; /* the log is needed from this boundary on; UINT64_MAX: not */
  bool dirty, admitted, caught_up;
  bool make_waits;        /* for the resumed checkpoint: the connection before this one still has a job on it */
  struct hash128 make_id; /* then */
  bool make_hashes;
  unsigned jobs;
  struct locate_job locate;
  struct ckpt_job job;
  struct fetch_job fetch;
  char address[DW_ADDRESS_BYTES + 16];
};

/* Where an absent follower's log ended, in bytes of ours, for its lag. */
struct sent_mark {
  uint64_t node_id, end_bytes;
};

/* ---- changing roles --------------------------------------------------------------------------- */

/* What somebody asked for; all but the first four fields under role_mu. The asker's, in place until it is done. */
struct role_request {
  bool promote; /* else follow */
  bool rejoin;  /* follow: what is applied gives way */
  dw_promote_options opt;
  char primary[DW_ADDRESS_BYTES]; /* follow: "": nobody */
  bool done;
  int rc;
  char why[400];
  pthread_cond_t cond;
};

/* One at a time. Loop thread. */
struct role_change {
  struct role_request *request; /* NULL: nobody waits for it (a new primary told us to follow it) */
  enum { ROLE_IDLE, ROLE_ENDING_STREAM, ROLE_DEMOTING, ROLE_PROMOTING } step;
  char primary[DW_ADDRESS_BYTES]; /* to follow then */
  bool rejoin;
  bool job;                       /* demotion or promotion runs in a worker */
  struct node *n;
  uint64_t epoch;
  int rc;
  char why[400];
};

/* ---- the node -------------------------------------------------------------------------------- */

/* A strong read on its way. All fields under strong_mu. */
struct strong_wait {
  struct strong_wait *next;
  uint64_t probe; /* 0: none yet */
  bool done;
  dw_lsn lsn;
  pthread_cond_t cond;
};

struct report {
  uint32_t follower_count;
  dw_follower_status followers[DW_STATUS_MAX_FOLLOWERS];
  dw_peer_state primary_state;
  char primary[DW_ADDRESS_BYTES];
  uint32_t bootstraps;
  uint64_t bootstrap_bytes, bootstrap_reused;
  char error[256];
};

struct node {
  dw_engine *e;
  struct env *env;
  const dw_options *opt;
  atomic_int role; /* dw_role; changes in the loop thread */
  struct transport *t;
  uint16_t listen_port;

  atomic_uint wake;       /* WAKE_* */
  atomic_bool collecting; /* the loop looks by itself soon: what nobody waits for need not wake it (node.c) */
  atomic_bool serving; /* somebody is connected: a primary without followers wakes nobody */
  atomic_bool following; /* somebody: n->follow is there */
  atomic_bool hurry;     /* dw_stop: a promotion that waits for others is to end, and none begins any more */

  /* loop thread */
  bool stopping;
  uint64_t tick_ns, next_tick_ns;
  uint64_t collect_until_ns; /* while collecting */
  struct peer *peers;
  unsigned peer_count, locates; /* locates: jobs under way that use the log */
  bool serve_blocked;           /* the log is about to be replaced */
  unsigned cuts;                /* how often the log was cut: positions found before a cut are void */
  struct ack_quorum quorum;
  bool acks_changed, pins_changed, report_changed, report_urgent;
  uint64_t reported_ns, stranger_log_ns;
  unsigned stranger_logs; /* lines about strangers in this second */
  struct node_ckpt *ckpts;
  struct sent_mark sent[DW_STATUS_MAX_FOLLOWERS];
  unsigned sent_count;
  uint32_t bootstraps;
  struct members members;
  bool members_changed;  /* somebody came, went or said something */
  uint64_t bootstrap_bytes, bootstrap_reused; /* of the last one installed here */
  bool rejoin;                                /* asked for, until it is done: what is applied here gives way */
  struct follow *follow; /* NULL: no primary */
  char primary[DW_ADDRESS_BYTES]; /* whom it follows, or followed before it became primary; "": nobody */
  struct role_change role_change; /* node_role.c's */
  uint64_t resume_ns;             /* not before that is it tried again to follow `primary` */
  uint64_t hands_over_to;         /* node id; its epoch's beginning makes us follow it */
  uint64_t hands_over_until_ns;   /* so long; UINT64_MAX: we were fenced during the pause, so nothing was logged since */
  bool alone;                     /* it was told to follow nobody */
  struct look *look;              /* node_look.c's; NULL: no peers are named */
  struct candidate *candidate;    /* node_promote.c's; NULL: no promotion is under way */

  pthread_mutex_t strong_mu;
  struct strong_wait *strong; /* strong_mu */
  bool strong_stopped;        /* strong_mu; nobody waits any more */

  pthread_mutex_t role_mu;
  struct role_request *asked; /* role_mu; not taken yet or under way */

  pthread_mutex_t report_mu;
  struct report report;          /* report_mu */
  struct members members_report; /* report_mu; a copy of members */
};

static inline uint64_t node_now(const struct node *n) {
  return n->env->ops->mono_ns(n->env);
}

void node_wake(struct node *, unsigned bits); /* node.c; any thread */

/* node_serve.c */
void serve_accepted(void *node, struct tp_conn *, const char *peer);
void serve_accept_failed(void *node, const char *why);
/* Tells shippers what moved, carries out what they want. Returns when the next one wants a tick. */
uint64_t serve_pump(struct node *, unsigned wake, uint64_t now_ns);
void serve_pin_log(struct node *);
/* Ends all followers' connections with this reason; no cursor is left when it returns (jobs may still open one: wait
 * for n->locates to become 0). */
void serve_end_all(struct node *, int code, const char *why);

/* node_fetch.c */
void fetch_start(struct peer *, const struct msg_fetch *);
void fetch_drop_cursor(struct peer *); /* no job of it is running */

/* node_bootstrap.c: the checkpoint actions of a shipper */
void bootstrap_make(struct peer *, const struct hash128 *resume, bool hashes); /* call again while p->make_waits */
void bootstrap_read(struct peer *, const struct ship_action *);
void bootstrap_installed(struct peer *);
void bootstrap_gone(struct peer *);                    /* the connection ended */
void bootstrap_expire(struct node *, uint64_t now_ns); /* UINT64_MAX: all */

/* node_follow.c */
int follow_create(struct node *);
void follow_destroy(struct node *);
uint64_t follow_pump(struct node *, unsigned wake, bool tick, uint64_t now_ns);
void follow_stop(struct node *);
bool follow_idle(const struct node *); /* no connection and no job is left */
/* No stream below `epoch` from here on; what it held is in the log when this returns. */
void follow_fence(struct node *, uint64_t epoch, uint64_t node_id);
bool follow_bootstrapping(const struct node *);
uint64_t follow_fresh_as_of(const struct node *); /* UINT64_MAX: unknown */
void follow_report(struct node *, struct report *);
/* A probe on its way up for a cascaded follower; the answer goes to its shipper. */
void follow_relay(struct node *, struct peer *, const struct msg_probe *);
void follow_relays_gone(struct node *, struct peer *);
uint64_t follow_probe(struct node *); /* a fresh probe of our own, 0: not now */

/* node.c: dw_open with an environment, a store and threads of the caller's choosing. With config.threads = false the
 * engine moves by engine_step; the transport that is linked decides about the rest. dw_close ends it. */
int node_open_engine(const char *dir, const dw_options *, const struct engine_config *, dw_engine **);

/* node_role.c: any thread. begin: DW_LOCKED while another change is under way; poll until true, end in any case; `r` stays in
 * place from begin to end. */
int role_begin(struct node *, struct role_request *);
bool role_poll(struct node *, struct role_request *, int *rc); /* rc with this thread's message */
void role_end(struct node *, struct role_request *);
/* Loop thread. */
void role_pump(struct node *, uint64_t now_ns);
bool role_idle(const struct node *);                       /* no job is left */
bool role_follow_told(struct node *, const char *primary); /* by a new primary; false: another change is under way */
bool role_stream_ended(struct node *);                      /* ends it; false: its jobs are not back yet, ask again */
void role_begin_epoch(struct node *, uint64_t epoch);      /* promote_begun follows */
void role_resume(struct node *);                           /* follows n->primary again, if anybody */
void role_answer(struct node *, int rc, const char *why);  /* the request is done */

/* node_promote.c: loop thread */
void promote_start(struct node *, const dw_promote_options *, uint64_t now_ns);
uint64_t promote_pump(struct node *, uint64_t now_ns);      /* when the next one is due */
bool promote_idle(const struct node *);                     /* no connection is left */
void promote_begun(struct node *, int rc, const char *why); /* the engine's answer */
/* Another candidate is about to be promised `epoch`: ours gives up. False: it is too late, its epoch is being begun. */
bool promote_yield(struct node *, uint64_t epoch, uint64_t node_id);
void promote_stop(struct node *);
void promote_end_news(struct node *); /* of an epoch that has begun; else nothing happens */
void promote_own_address(const struct node *, char out[MSG_ADDRESS_BYTES]);

/* node_look.c: loop thread */
int look_create(struct node *);
void look_destroy(struct node *);
void look_stop(struct node *);
uint64_t look_pump(struct node *, uint64_t now_ns); /* when the next one is due, besides ticks */

/* node_fence.c: loop thread */
void fence_answer(struct peer *, const struct msg_fence *);
void fence_heard(struct node *, uint64_t epoch, uint64_t node_id);

/* node_members.c: loop thread, but for members_status */
void members_setup(struct node *);
void members_heard(struct node *, const struct msg_members *); /* from upstream */
void members_pump(struct node *);                              /* renews the list and tells it, if it has changed */
void members_status(const struct members *, dw_status *);

/* node_strong.c */
/* Asks the primary for its commit_lsn without blocking: begin (DW_STALE: nobody to ask), poll until true (*lsn is set
 * then), end in any case. `w` is the caller's and stays in place from begin to end. */
int strong_begin(struct node *, struct strong_wait *w);
bool strong_poll(struct node *, const struct strong_wait *w, dw_lsn *lsn);
void strong_end(struct node *, struct strong_wait *w);
int strong_point(void *node, uint32_t wait_ms, dw_lsn *lsn); /* the engine's hook: any thread */
void strong_stop(void *node);                                /* any thread */
void strong_pump(struct node *);                             /* gives waiting readers a probe */
void strong_answered(struct node *, uint64_t probe, dw_lsn commit_lsn);
void strong_lost(struct node *); /* probes under way are void: readers get a new one */

/* node_report.c */
uint64_t report_pump(struct node *, uint64_t now_ns, bool tick); /* when it is due */
void report_status(void *node, dw_status *); /* the engine's hook: any thread */

#endif
