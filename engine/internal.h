/* The inside of struct dw_engine, shared by the files of engine/ only.
 *
 * The path of a commit through these files, and who may touch what:
 *
 *   write.c      a writer encodes its batch and enqueues a request          |
 *   log_step.c   ONE log leader takes a group: blocks, append, sync         | `mu` guards the queue, the lists,
 *   commit_gate  commit_lsn moves                                           | the gate and the marks; it is never
 *   apply.c      ONE apply leader writes the store up to commit_lsn         | held over disk I/O or a store write
 *   pipeline.c   answers the requests that are done                         |
 *   background.c threads for what no writer does: async requests, time-outs, background sync, trimming
 *   scrub_run.c  a thread that reads old segments and repairs them from peers
 *   read.c       readers: no lock if nothing has to be waited for, else they wait on `mu`
 *   replica.c    a follower's log, fed by replication
 *   role.c       promises, fencing, promotion and demotion in place
 *   part.c       keeps what only this node has, before it is cut or replaced
 *
 * A role (log leader, apply leader) is a flag under `mu`. Whoever waits and finds a role free takes it: a lone writer
 * runs the whole path in its own thread, without a wake-up; under contention one leader serves a group while the
 * next group forms, and applying overlaps the next sync.
 */
#ifndef DW_ENGINE_INTERNALS_H
#define DW_ENGINE_INTERNALS_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/commit_gate.h"
#include "engine/engine.h"
#include "engine/far_behind.h"
#include "engine/group_hold.h"
#include "engine/identity.h"
#include "engine/repair.h"
#include "engine/scrub.h"

/* ---- the store, shared with readers --------------------------------------------------------- */

/* Counted: iterators keep the store they were made on when a bootstrap replaces it. */
struct store_ref {
  atomic_uint refs;
  struct store *store;
  char *doomed_dir; /* removed with the last reference; NULL: keep */
  struct env *env;
};
struct store_ref *store_ref_create(struct env *, struct store *); /* NULL: no memory; takes the store */
struct store_ref *store_ref_get(dw_engine *);                     /* the current one, referenced */
void store_ref_put(struct store_ref *);
/* The current store, which stays until store_leave(same ticket); without a lock or a counter that readers share. */
struct store *store_enter(dw_engine *, unsigned *ticket);
void store_leave(dw_engine *, unsigned ticket);
/* Puts another in its place once nobody is inside the old one, and returns that. */
struct store_ref *store_replace(dw_engine *, struct store_ref *);

#define READER_SLOTS 32u
struct reader_slot {
  atomic_uint_fast64_t inside;
  char pad[56]; /* no two in one cache line */
};

/* ---- requests ------------------------------------------------------------------------------- */

enum request_state { REQUEST_QUEUED, REQUEST_TAKEN, REQUEST_LOGGED, REQUEST_DONE };

/* One write on its way. A synchronous one lives on its writer's stack, an asynchronous one on the heap with its
 * body behind it. All fields under `mu`, except that the log leader reads body and need of those it has TAKEN, and that
 * `signal` is atomic: see request_wait.c. */
struct write_request {
  struct write_request *next;
  const uint8_t *body;
  uint32_t body_bytes, ops;
  struct block_need need;
  uint64_t timeout_ns, deadline_ns;
  enum request_state state;
  dw_lsn lsn;
  int rc;
  char error[160];
  dw_commit_fn fn; /* NULL: synchronous */
  void *arg;
  atomic_uint signal; /* synchronous only, as the next two */
  atomic_uint *bell;  /* the engine's: where this writer sleeps, with the others of its group */
  uint32_t bell_bit;
};

/* request_wait.c: how a synchronous writer sleeps and is woken. Nobody may touch a request after SIGNAL_DONE. */
enum request_signal { SIGNAL_NONE, SIGNAL_LOOK, SIGNAL_DONE, SIGNAL_ASLEEP };
struct request_list;
void request_look(struct write_request *);     /* a role may be free; mu held */
void requests_done(struct request_list *done); /* they are answered; without mu. Empties the list */
/* Without mu: returns when signalled or at the deadline. True: the request is answered, `mu` is not needed. */
bool request_wait(struct write_request *, bool soon, uint64_t deadline_ns);
bool request_done(struct write_request *);

struct request_list {
  struct write_request *head, **tail;
  size_t count, bytes;
};
void request_list_init(struct request_list *);
void request_list_push(struct request_list *, struct write_request *);
struct write_request *request_list_pop(struct request_list *);
bool request_list_remove(struct request_list *, struct write_request *);
dw_lsn request_lsn(const struct write_request *); /* answered: the LSN that goes with it, 0: certainly not done */

/* ---- the engine ------------------------------------------------------------------------------ */

/* scrub_run.c's; `done` and what follows under mu. */
struct scrub {
  struct scrub_pace pace;
  struct scrub_list list;
  struct wal_scrub *pass;
  uint64_t done, total, passes, pass_damaged;
  uint64_t found, repaired, repaired_blocks, damaged_now;
  char result[200]; /* of the last pass or repair, "" if none */
};

#define EPOCHS_MAX 4096u
struct epoch_list {
  struct epoch_record *records; /* sorted by epoch */
  size_t count, cap;
};
#define LAG_SAMPLES 512u
#define BELLS 8u

struct lag_sample {
  uint64_t at_ns;
  dw_lsn commit;
};

struct dw_engine {
  /* Constant after engine_open. */
  struct env *env;
  const struct store_ops *sops;
  bool threads;
  char *dir;
  dw_options opt; /* strings are ours; opt.role is what it was opened as */
  struct env_file *lock;

  atomic_int role; /* dw_role; changes with mu held */
  pthread_mutex_t node_mu; /* held while NODE is replaced; taken before mu */
  struct node_file node; /* mu; changes at adopt, install and promise */

  struct store_ref *store; /* changed by store_replace alone; see store_ref.c */
  struct reader_slot readers[READER_SLOTS];
  atomic_bool store_changing;
  pthread_mutex_t store_mu; /* held while it changes */

  struct wal *wal; /* see engine_wal */
  struct wal_cursor *apply_cursor; /* the apply leader's */

  pthread_mutex_t mu;
  const struct replication_ops *rops; /* mu */
  void *rctx;

  atomic_uint bells[BELLS];
  uint32_t group;              /* mu; groups taken so far */
  struct request_list queue;   /* not yet logged */
  struct request_list pending; /* logged, in LSN order, waiting for commit and apply */
  struct request_list lingering; /* applied here, waiting for applied acks */
  struct request_list answers;   /* asynchronous and answered, to be called back */
  bool delivering;               /* a thread calls back */
  bool log_busy, apply_busy;
  struct group_hold hold;        /* mu; the log role rests until the queue is fuller */
  const struct write_request *hold_timer; /* mu; the writer who sees to it that the hold ends in time; only compared */
  struct gathering gathering;    /* mu; of synchronous writers that wait for no disk */
  struct commit_gate gate;
  struct wal_pos applied;     /* boundary that the store holds */
  /* What reads without mu go by (read.c), set under mu. */
  atomic_uint_fast64_t applied_lsn; /* == applied.lsn */
  atomic_uint_fast64_t commit_lsn;  /* primary: == gate.commit; fenced, or no primary: UINT64_MAX */
  atomic_uint_fast64_t fresh_as_of; /* follower: see engine_fresh_as_of */
  uint64_t epoch;
  uint64_t unapplied_bytes;   /* stored bytes appended since open and not yet applied: bounded, then writers wait */
  dw_lsn awaited_lsn;         /* end of the last block in the log whose commit waits for followers to have it */
  dw_lsn awaited_applied_lsn; /* ... to have applied it: they have to hear of its commit */
  dw_lsn known_commit;        /* follower: commit_lsn heard, maybe beyond the log's end */
  struct far_behind far_behind; /* mu; follower: who applies */
  dw_lsn persisted_lsn;
  dw_lsn pin_lsn;
  bool fenced;                /* primary: a newer epoch was promised; commit_lsn stands still */
  uint64_t (*lease_clock)(void);        /* lease.c; set once, before lease_until_ns */
  atomic_uint_fast64_t lease_until_ns;  /* UINT64_MAX: for ever */
  char fence_address[DW_ADDRESS_BYTES]; /* of the node that was promised it, "" if unknown */
  uint64_t paused_until_ns;   /* primary: nothing is logged before; 0: not paused */
  bool stopping;              /* dw_stop: nobody waits any more */
  bool closing;
  int failed_rc;              /* log or store stopped for good */
  char failed[256];
  int store_error_rc;         /* the store refuses writes, until one succeeds */
  bool store_retry;           /* it is time to try one */
  uint64_t errors_outlived;   /* background errors of the store after which it took a write */
  struct store_health health;

  struct epoch_list epochs; /* mu; a hole in it could take a stranger's log for ours, so adding must not fail */
  struct lag_sample lag[LAG_SAMPLES];
  unsigned next_lag;

  pthread_cond_t log_cond, apply_cond, tick_cond, maint_cond; /* the background threads' */
  pthread_cond_t space_cond;                                  /* async writers: the queue has room again */
  pthread_cond_t moved_cond;                                  /* readers and dw_wait: applied, marks or freshness moved */
  unsigned moved_waiters;
  pthread_t thread[5];
  unsigned thread_count;
  uint64_t last_sync_ns, last_poll_ns; /* the maint thread's */
  bool flush_failed, prepare_failed, trim_failed; /* said so already; the maint thread's */
  uint64_t next_prepare_ns;            /* the maint thread's: not sooner after a failure */
  atomic_uint_fast64_t recovered_lsn;    /* primary: the log's end as it was found at open or promotion; 0 on a follower */
  uint64_t behind_since_ns; /* while applied < commit: what is not applied was committed after this */
  bool maint_busy, installing;         /* mu; an install keeps maint away from the log that it replaces */
  struct block_source source_copy;
  const struct block_source *source; /* constant; NULL: nobody to repair from */
  struct scrub scrub;
  bool scrub_busy;            /* mu; as maint_busy */
  bool log_damaged;           /* mu; the applier met damage in an old segment and waits for its repair */
  atomic_bool stop_asking;    /* peers: the engine closes, or its log is about to be replaced */
  pthread_cond_t scrub_cond;
  uint64_t commits;           /* answered DW_OK or applied, since open */
  uint64_t diverged_files, diverged_commits; /* mu; in DIR/diverged */
  bool parted;                               /* mu; what lies behind a parting, as far as parted_end, was kept */
  struct wal_pos parted_end, parted_at;      /* parted_at: the last boundary that both histories have */
  bool parted_will_do;                       /* the log may have been trimmed behind it, or before */
};

#define QUEUE_MAX_BYTES (64u << 20)
#define QUEUE_MAX_COUNT 65536u
#define GROUP_MAX_BYTES (4u << 20)
#define GROUP_MAX_COUNT 4096u
#define UNAPPLIED_MAX_BYTES (256u << 20)
/* Of one store write. The larger, the nearer are the keys of a sorted one to each other, and the cheaper to insert; but its
 * writers are answered together, and its memory is taken about three times. */
#define APPLY_MAX_BYTES (16u << 20)
#define REPLAY_MAX_BYTES (32u << 20) /* at open, when nobody waits */

static inline bool is_primary(const dw_engine *e) { return atomic_load_explicit(&e->role, memory_order_acquire) == DW_PRIMARY; }

static inline uint64_t mono_ns(dw_engine *e) { return e->env->ops->mono_ns(e->env); }

/* Age of a follower's data in ns; UINT64_MAX: unknown. */
static inline uint64_t follower_staleness(dw_engine *e, uint64_t now_ns) {
  uint64_t fresh = atomic_load_explicit(&e->fresh_as_of, memory_order_acquire);
  if (fresh == UINT64_MAX) return UINT64_MAX;
  return now_ns > fresh ? now_ns - fresh : 0;
}

/* Nothing above it has ever been committed: what strong reads must see and probes are told. mu held. */
static inline dw_lsn ever_committed(const dw_engine *e) {
  return e->gate.commit > e->recovered_lsn ? e->gate.commit : e->recovered_lsn;
}

/* pipeline.c: all with mu held unless said */
/* `done` collects the writers that are answered: they are woken when mu is released. */
void pipeline_finish(dw_engine *, struct write_request *, int rc, struct request_list *done); /* answers one */
void pipeline_complete(dw_engine *, struct request_list *done); /* answers all that are applied and acked */
void pipeline_fail_all(dw_engine *, int rc, const char *why, struct request_list *done);
void pipeline_advance(dw_engine *);             /* gate_advance with log lines and hooks */
void pipeline_await(dw_engine *, const struct block_header *); /* it is in the log: who waits for it. mu held */
bool pipeline_can_log(const dw_engine *);
bool pipeline_can_apply(const dw_engine *);
void pipeline_kick(dw_engine *);                /* wakes somebody for each free role that has work */
void pipeline_moved(dw_engine *);               /* wakes readers and dw_wait */
void pipeline_wake(struct request_list *done);  /* WITHOUT mu: wakes the writers that were answered */
void pipeline_deliver(dw_engine *e);            /* drops and retakes mu: calls back what is answered; background threads */
bool pipeline_in_callback(void);                /* does this thread call back just now? */
void engine_stop(dw_engine *, int rc, struct request_list *done); /* the log or the store failed: message of this thread */

/* write.c: how long a request waits for its answer if it is queued, or logged, now. */
uint64_t write_deadline(const struct write_request *, uint64_t now_ns);
/* Answers asynchronous requests whose deadline has passed. mu held. */
void write_time_outs(dw_engine *, uint64_t now_ns, struct request_list *done);

/* log_step.c, apply.c: called with mu held and the role free; drop and retake it. */
void log_step(dw_engine *, struct request_list *done);
void apply_step(dw_engine *, struct request_list *done);
void apply_works(dw_engine *); /* mu held: nothing is known against the store any more */
void apply_refused(dw_engine *, int rc); /* mu held: the store has refused a write, with this thread's message */
/* Without mu, the apply role held or nobody else about: applies everything up to `limit`. */
int apply_until(dw_engine *, dw_lsn limit); /* replay at open: the next batch is read while one is written */

/* background.c */
int background_start(dw_engine *);
void background_stop(dw_engine *);
void background_tick(dw_engine *, struct request_list *done); /* mu held: time-outs, degrade, samples, health */
void background_maintain(dw_engine *);                        /* without mu: sync, prepare, trim, flush */

/* scrub_run.c */
void scrub_init(dw_engine *);
void *scrub_thread(void *);
void scrub_step(dw_engine *); /* without mu: one small step of checking or repairing */
void scrub_drop(dw_engine *); /* mu held or alone, no step under way: forgets the log */
void scrub_count(dw_engine *, uint64_t found, uint64_t repaired, uint64_t blocks);
void scrub_log_damage(dw_engine *, const struct wal_damage *);
void scrub_log_repair(dw_engine *, const struct wal_damage *, const struct repair_result *);

/* epochs.c */
int epochs_load(dw_engine *, struct store *, struct epoch_list *); /* replaces what the list holds */
int epochs_reserve(struct epoch_list *, size_t more);              /* DW_NO_MEMORY; so that adding can't fail */
void epochs_add(struct epoch_list *, const struct epoch_record *);
void epochs_cut(struct epoch_list *, uint64_t above); /* their blocks have left the log, or were never applied */
/* Without mu: appends and syncs its first block. */
int epoch_start(dw_engine *, uint64_t epoch, uint32_t reason, dw_lsn commit_lsn);
uint64_t epochs_last(const dw_engine *); /* highest that the log or the history knows */
int epoch_system_op(const struct epoch_record *, uint8_t key[32], uint8_t val[WAL_EPOCH_RECORD_BYTES], struct wal_op *);

/* role.c */
int role_decide(dw_engine *, const struct wal_recovery *); /* with peers: who this is, by its history */
int role_open(dw_engine *, const struct wal_recovery *); /* a primary that opens starts its epoch, or is fenced */
int role_queue_tail(dw_engine *);                        /* what is above commit_lsn waits by its own needs */
int role_save_node(dw_engine *, const struct node_file *); /* NODE, then the engine's copy; node_mu held, not mu */
int role_refuse_fenced(const dw_engine *, const char *what); /* DW_FENCED; mu held */

/* part.c */
int part_count(dw_engine *);                                                          /* what DIR/diverged holds */
int part_carry(dw_engine *, const struct wal_pos *pos, struct wal *to, uint64_t *bytes);
int part_keep(dw_engine *, const struct engine_parting *, struct engine_parted *out); /* out may be NULL */
int part_check_install(dw_engine *, const struct wal_pos *); /* DW_DIVERGED: it would lose what was not kept */

/* replica.c: waits for the apply role and keeps it: nobody applies until it is released. mu held. */
void apply_role_take(dw_engine *);
void apply_role_release(dw_engine *);

/* open.c */
int engine_open_store(dw_engine *, const char *dir, bool must_exist, struct store **);
int engine_open_wal(dw_engine *, const struct node_file *of, const struct wal_pos *base, const struct wal_pos *must_reach,
                    struct wal_recovery *, struct wal **);
/* Applies what is known committed, queues the rest; sets applied, gate, epoch. */
int engine_replay(dw_engine *, const struct wal_recovery *);
int options_copy(dw_options *dst, const dw_options *src); /* checks, fills 0s in, copies strings */
void options_free(dw_options *);

/* retention.c */
struct retention_in {
  const struct wal_segment_info *segments;
  size_t n;
  dw_lsn persisted, pinned; /* boundaries; pinned UINT64_MAX: nobody */
  bool keep_for_absent;     /* followers may come back: retain_* apply */
  uint64_t retain_bytes, retain_ns, now_ns;
};
dw_lsn retention_trim_lsn(const struct retention_in *); /* segments that end at or below it may go */

#endif
