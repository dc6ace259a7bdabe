/* The engine as replication sees it: what the layer above may ask, tell and hook into.
 *
 * The engine owns the log, the store, the commit gate and the appliers of one directory. It knows nothing of
 * sockets or peers: replication reports follower marks (engine_acks), feeds a follower's log
 * (engine_replica_*), and answers, through struct replication_ops, the few questions that only it can.
 *
 * All functions are thread-safe unless stated. Hooks are called from engine threads and from writers, possibly
 * at once and with an engine lock held: they must return at once, must not block and must not call back into
 * the engine, except strong_point, which is called without locks and blocks.
 */
#ifndef DW_ENGINE_INTERNAL_H
#define DW_ENGINE_INTERNAL_H

#include <stdbool.h>

#include "engine/commit_gate.h"
#include "engine/dabbawal.h"
#include "engine/diverged.h"
#include "engine/repair.h"
#include "engine/store.h"
#include "wal/base/env.h"
#include "wal/wal.h"

struct replication_ops {
  /* Blocks were appended (already readable through a cursor). awaited: somebody waits for followers to have them. */
  void (*log_grew)(void *ctx, bool awaited);
  /* commit_lsn rose. awaited: over a block that somebody waits for followers to have applied. */
  void (*commit_moved)(void *ctx, bool awaited);
  void (*applied_moved)(void *ctx); /* applied LSN rose */
  /* Follower: asks the primary for its commit_lsn, waits for the answer. DW_OK or DW_STALE. */
  int (*strong_point)(void *ctx, uint32_t wait_ms, dw_lsn *lsn);
  void (*stopping)(void *ctx); /* dw_stop: strong_point is to end its waiting. NULL: nothing waits there */
  /* Fills followers[], members[] and their counts, primary_node, primary_client, primary_state, primary, listen_port,
   * bootstraps. */
  void (*status)(void *ctx, dw_status *);
};

struct engine_config {
  struct env *env;               /* NULL: env_posix() */
  const struct store_ops *store; /* NULL: store_rocksdb() */
  const struct block_source *source; /* whom a damaged log is repaired from; copied. NULL: nobody. On any error of
                                        engine_open it stays the caller's, else engine_close calls its destroy */
  bool threads; /* false: no thread is started; the simulator calls engine_step() and uses dw_write_async */
};

/* Opens the directory and recovers. The engine of a follower whose directory is new has no cluster yet: it
 * waits for engine_adopt_cluster or engine_install. Errors as dw_open. */
int engine_open(const char *dir, const dw_options *, const struct engine_config *, dw_engine **);
/* Installs the hooks; once, before the first write. NULL detaches (before engine_close). */
void engine_attach(dw_engine *, const struct replication_ops *, void *ctx);
void *engine_replication(dw_engine *); /* the ctx */
int engine_close(dw_engine *);
/* Without threads: does the next piece of background work (log, sync, apply, housekeeping). False: idle. */
bool engine_step(dw_engine *);

struct engine_identity {
  dw_role role; /* now: see engine_promote */
  bool has_cluster;
  struct hash128 cluster_id;
  struct hash128 incarnation; /* random, made with the directory */
  uint64_t node_id;
  char region[DW_REGION_BYTES];
};
void engine_identity(dw_engine *, struct engine_identity *);
dw_role engine_role(dw_engine *); /* now; takes no lock */
struct env *engine_env(dw_engine *);
const dw_options *engine_options(dw_engine *); /* strings in it are the engine's copies */
/* printf to the embedder's log function. level: dw_log_level. */
void engine_log(dw_engine *, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

struct engine_positions {
  struct wal_pos tail;    /* end of the log */
  struct wal_pos applied; /* what reads see */
  dw_lsn durable_lsn, commit_lsn, persisted_lsn;
  dw_lsn strong_lsn;      /* primary: nothing above it has ever been committed. commit_lsn, but after a restart at least
                             the end of the log that was found: what a strong read must wait for */
  struct wal_pos oldest;  /* boundary before the first block held */
  uint64_t epoch;
  uint64_t staleness_ms;  /* age of the data; 0 on a primary, UINT64_MAX: unknown */
  bool fenced;            /* a primary that has stopped acknowledging: it confirms nothing any more */
  uint64_t end_bytes;     /* logical size of the log, for lag in bytes */
};
void engine_positions(dw_engine *, struct engine_positions *);

/* The log, for cursors. NULL for a follower without a cluster. Replaced only by engine_install and
 * engine_adopt_cluster (both called by the follower's driver, so it knows when); close cursors before. */
struct wal *engine_wal(dw_engine *);

/* ---- primary ------------------------------------------------------------------------------- */

/* struct ack_marks: see commit_gate.h. Copied. Call on every change of a mark or a connection: raises commit_lsn,
 * wakes writers. */
void engine_acks(dw_engine *, const struct ack_marks *);

/* Lowest LSN boundary that a connected follower or a running bootstrap still needs (it will read lsn + 1 next);
 * UINT64_MAX: none. Segments above it are not recycled. */
void engine_pin_log(dw_engine *, dw_lsn lsn);

/* ---- roles and epochs (role.c, epochs.c) ---------------------------------------------------- */

/* The high half of an epoch: promotions so far. docs/decisions/0007. */
static inline uint64_t epoch_term(uint64_t epoch) {
  return epoch >> 32;
}
/* An epoch of the next term; draw: random, so that no two candidates begin the same one. Room for openings above it. */
static inline uint64_t epoch_next_term(uint64_t above, uint32_t draw) {
  return (epoch_term(above) + 1) << 32 | 0x10000u | (draw & 0x7fffffffu);
}

/* Whoever asks for a term that far above what is known here is broken: promised, it would leave no numbers to those who
 * come after. One promotion a second for half a year gets there. */
#define EPOCH_TERMS_AHEAD (1u << 24)
static inline bool epoch_plausible(uint64_t epoch, uint64_t known) {
  return epoch_term(epoch) <= epoch_term(known) + EPOCH_TERMS_AHEAD;
}

struct engine_promise {
  uint64_t epoch, node_id; /* 0: none */
  bool fenced;             /* a primary whose own epoch is lower: it has stopped acknowledging */
  char primary[DW_ADDRESS_BYTES]; /* whom to ask instead, "" if unknown */
};
void engine_promised(dw_engine *, struct engine_promise *);

/* Promises candidate `node_id`, durably, to follow and acknowledge nothing below `epoch`. `address`: of the candidate,
 * for messages, may be "". When it returns DW_OK a primary of a lower epoch is fenced: what was queued is not done, what
 * was logged is in doubt, commit_lsn stands still. A follower's stream is the caller's to end, before it reads the
 * log's end for an answer. DW_FENCED: our log's epoch or another candidate's promise is as high already; the message says
 * which. DW_INVALID: an epoch that can't be (epoch_plausible). DW_IO, DW_NO_SPACE: nothing is promised. Blocks on disk. */
int engine_promise(dw_engine *, uint64_t epoch, uint64_t node_id, const char *address);

/* A primary logs nothing until `until_ns` (monotonic; 0: goes on now): writes wait in the queue. *writing: a group is being
 * logged just now. */
void engine_pause(dw_engine *, uint64_t until_ns, bool *writing);

/* Follower -> primary, in place: readers and iterators stay. The caller has ended the stream (no engine_replica_* call
 * runs or follows) and the engine has promised `epoch` to itself. Everything in the log is kept; what is not known
 * committed waits by its own needs, as after a restart. On an error the node is a follower as before. Blocks. */
int engine_promote(dw_engine *, uint64_t epoch);

/* Primary -> follower, in place. Unanswered writes end in doubt (logged) or not done, with DW_FENCED. Blocks until log
 * leader and appliers stand still. DW_LOCKED, only without threads: a step is under way, try again. */
int engine_demote(dw_engine *);

/* A primary that could not be demoted or fenced, because NODE can't be written, acknowledges nothing all the same: as fenced,
 * until it is demoted or opened again. */
void engine_cease(dw_engine *);

/* Epochs of this history, oldest first: copies up to cap, returns how many there are. */
size_t engine_epochs(dw_engine *, struct epoch_record *, size_t cap);

/* Primary: does a read now miss nothing that was committed? For those that must not block. */
bool engine_strong_now(dw_engine *);

/* A primary confirms nothing (STRONG and BOUNDED reads, probes) once `clock` says until_ns or more; UINT64_MAX: for ever, as
 * it does if this is never called. Always the same clock: one that goes on while the machine sleeps. */
void engine_lease(dw_engine *, uint64_t (*clock)(void), uint64_t until_ns);
bool engine_lease_holds(dw_engine *);

/* How long commit `lsn` has been waiting, in ns: the age of the oldest commit above `applied` (0: none).
 * Coarse (about a heartbeat). */
uint64_t engine_commit_age_ns(dw_engine *, dw_lsn applied);

/* A consistent copy of the store under DIR/checkpoints/NAME, with its boundary. Blocks (flushes): not from a
 * loop thread. Leftovers are removed at open. */
struct engine_checkpoint {
  char path[4096];
  struct wal_pos pos;
};
int engine_checkpoint_create(dw_engine *, const char *name, struct engine_checkpoint *);
void engine_checkpoint_drop(dw_engine *, const char *name);

/* ---- follower ------------------------------------------------------------------------------ */

/* A new follower learns its cluster and starts an empty log at the genesis boundary. DW_DIVERGED if it has
 * another cluster already; DW_OK if it is this one. */
int engine_adopt_cluster(dw_engine *, const struct hash128 *cluster_id);

/* Blocks from the wire in order (wal_block_parse'd). Written to the log when it returns; counted as received.
 * DW_DIVERGED if they do not continue the log. One thread at a time, with the two below. */
int engine_replica_append(dw_engine *, struct wal_block **, size_t n);
/* fdatasync; *durable gets the durable LSN. */
int engine_replica_sync(dw_engine *, dw_lsn *durable);
/* Raises commit_lsn (never lowers it; what the log does not hold yet is remembered): the applier follows. */
void engine_replica_commit(dw_engine *, dw_lsn commit_lsn);

/* Where this node's history and that of the node it wants to follow part. */
struct engine_parting {
  struct wal_pos at;       /* last boundary that both have */
  uint64_t peer_id;        /* 0: unknown */
  const char *peer;        /* its address, NULL: unknown */
  bool rejoin;             /* what is applied goes, too */
  bool incomplete_will_do; /* go on although the log was trimmed behind `at` already */
};
struct engine_parted {
  uint64_t commits; /* kept; 0: there was none */
  bool complete;
  struct wal_pos common; /* the last boundary that both histories have, as far as this node can tell */
};

/* Drops the log's tail beyond p->at, after the commits in it were kept in DIR/diverged. DW_DIVERGED if that reaches
 * below what is applied, DW_NOT_FOUND if p->at is not a boundary of this log. When they can't be kept (DW_NO_SPACE,
 * DW_IO) nothing is cut. */
int engine_replica_truncate(dw_engine *, const struct engine_parting *p);
/* Keeps what lies behind p->at in DIR/diverged, durably: then a checkpoint may be installed that lacks it. Changes
 * nothing else, so it may be repeated. DW_NOT_FOUND: p->at is no boundary of this log, so histories part before it;
 * DW_DIVERGED: not all of it can be kept (see incomplete_will_do); DW_NO_SPACE, DW_IO. Blocks on disk. Not beside engine_replica_append. */
int engine_part(dw_engine *, const struct engine_parting *p, struct engine_parted *out);
/* What DIR/diverged holds, see diverged_list(). Reads the disk. */
int engine_diverged(dw_engine *, diverged_fn, void *arg);
/* What reads see now, or later, holds everything that the primary had committed at this monotonic time (UINT64_MAX:
 * unknown): waiting bounded reads look again. Call it after what makes it true is applied; again when the link changed.
 * Detaching the hooks makes it unknown. */
void engine_fresh_as_of(dw_engine *, uint64_t mono_ns);

/* Bootstrap: files are put into DIR/incoming (engine_incoming gives the path; made if missing; survives
 * restarts for resumption), then engine_install checks that the store in DIR/incoming/store opens and that its marker
 * equals pos, and switches over atomically: after a crash at any moment the directory opens in the old state or the new
 * one. Readers go on with the old data until the switch; existing iterators keep their point. Not while
 * another engine_replica_* call runs. DW_DIVERGED: it lacks what is applied here, and engine_part has not kept that. */
int engine_incoming(dw_engine *, char *path, size_t cap);
int engine_store_dir(dw_engine *, char *path, size_t cap); /* of the present generation; not beside engine_install */
int engine_install(dw_engine *, const struct hash128 *cluster_id, const struct wal_pos *pos);

#endif
