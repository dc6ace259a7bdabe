/* The receiving side: a pure state machine, one per follower, that outlives its connections.
 *
 *                     connected                WELCOME stream
 *   WAITING --> DIALLING --> HANDSHAKE -----------------------> STREAMING
 *     ^  back-off               |  ^  \ truncate: cut, HELLO again
 *     |                         |  +---+
 *     |        bootstrap        v  | INSTALLED, HELLO again
 *     +--- any error ------ BOOTSTRAPPING
 *     +--- REFUSE (diverged, foreign, unsupported, locked): as WAITING, but slowly, and shown as refused
 *
 * HOW TO DRIVE IT (as shipper.h)
 *
 *   1. Events, with the present monotonic time:
 *        receiver_connected / receiver_connect_failed   after RECV_CONNECT
 *        receiver_input, receiver_drained, receiver_eof the socket
 *        receiver_tick                                  every ~20 ms while connected or when receiver_next_tick says
 *        receiver_applied                               the engine's applied LSN rose (replication_ops.applied_moved)
 *        receiver_probe                                 a strong read, or a cascaded follower's probe
 *        and the answers to actions.
 *   2. After each of them, until both have nothing more:
 *        a. write receiver_output() to the socket FIRST: an ack of "received" must be on its way before a sync starts;
 *        b. take receiver_next() and carry it out.
 *   3. Read from the socket only while receiver_wants_input.
 *
 * "Storage" actions (ADOPT, APPEND, SYNC, TRUNCATE, CKPT_*) come one at a time: the next comes only after the answer, and
 * no frame is looked at meanwhile, except while SYNC runs: frames are read, appends wait. So they may be carried out
 * inline or by one worker thread, and engine_replica_* is never called twice at once. COMMIT is not one of them; it may
 * be passed on at any time. Pointers in an action are valid until its answer (storage) or the next call (others).
 * After RECV_CLOSE the answer to an open storage action must still be given (it is ignored, apart from positions); no
 * RECV_CONNECT comes before it.
 *
 * When it syncs: blocks that some commit waits for (need.mode other than async) once all input at hand is appended; others
 * after RECV_LAZY_SYNC_NS or RECV_LAZY_SYNC_BYTES. When it acks: at once after an append that somebody waits for at level
 * received, after every sync, when applied reaches what somebody waits for, else every RECV_LAZY_SYNC_NS at most; and
 * with every heartbeat, whether or not anything has moved, so a lost ack heals.
 */
#ifndef DW_REPLICATION_RECEIVER_H
#define DW_REPLICATION_RECEIVER_H

#include "replication/checkpoint_manifest.h"
#include "replication/message.h"
#include "replication/outq.h"
#include "replication/staleness.h"

#define RECV_LAZY_SYNC_NS 20000000ull
#define RECV_LAZY_SYNC_BYTES 4194304u
#define RECV_BACKOFF_MIN_NS 100000000ull    /* doubles ... */
#define RECV_BACKOFF_MAX_NS 2000000000ull   /* ... up to this; half of it is jitter */
#define RECV_REFUSED_NS 10000000000ull      /* between attempts after a refusal */
#define RECV_TRUNCATE_ROUNDS 16             /* HELLOs without progress on one connection */

struct receiver;

struct receiver_config {
  uint64_t node_id;
  struct hash128 incarnation;
  char region[MSG_REGION_BYTES];
  uint32_t heartbeat_ms, peer_timeout_ms;
  uint64_t probe_ns;   /* between staleness probes; 0: heartbeat_ms / 5 */
  uint64_t seed;       /* random, for the jitter */
  const char *primary; /* "host:port" for messages; copied */
  struct msg_member self; /* what others are told; node id, role and region are filled in */
  uint64_t min_epoch, min_node; /* what this node has promised, and to whom: no stream below it. 0: nothing */
  bool rejoin;                  /* what is applied here beyond the primary's history gives way, once it is kept */
  bool rejoin_once; /* likewise, until it has come to a stream; and what the log has lost already can't be kept */
};

/* Where the node stands; the driver fills it from engine_identity, engine_positions and its own incoming state. */
struct receiver_position {
  bool has_cluster;
  struct hash128 cluster_id; /* if has_cluster */
  struct wal_pos tail, applied;
  dw_lsn durable_lsn, commit_lsn;
  struct hash128 resume; /* id of the checkpoint in DIR/incoming, zero: none */
};

enum recv_action_type {
  RECV_CONNECT,  /* dial; receiver_connected or receiver_connect_failed */
  RECV_ADOPT,    /* engine_adopt_cluster(adopt); receiver_adopted */
  RECV_APPEND,   /* engine_replica_append(append.blocks, n); receiver_appended. The receiver keeps the references */
  RECV_SYNC,     /* engine_replica_sync; receiver_synced */
  RECV_TRUNCATE, /* engine_replica_truncate(truncate.pos). On DW_NOT_FOUND: position_older_wal(); receiver_truncated */
  RECV_PART, /* engine_part(&part): keep what this log has beyond it; a checkpoint will replace it; receiver_parted */
  RECV_CKPT_BEGIN,    /* prepare DIR/incoming for *begin (wipe it if it is another checkpoint); receiver_ckpt_begun */
  RECV_CKPT_WRITE,    /* write.bytes of write.data at write.offset of file write.file; receiver_ckpt_written */
  RECV_CKPT_FILE_END, /* sync the file, read it back, compare with file_end.hash; note it as held (CKPT_HELD) or delete
                         it; receiver_ckpt_file_done (DW_CORRUPT if it differs) */
  RECV_CKPT_INSTALL,  /* engine_install(install.cluster_id, install.pos), close cursors before; receiver_installed */
  RECV_COMMIT,        /* engine_replica_commit(commit_lsn) */
  RECV_FRESH,         /* staleness or the link changed: engine_fresh_as_of(receiver_fresh_as_of) */
  RECV_PROBE_DONE,    /* probe.id was answered: the primary's commit_lsn */
  RECV_PROBES_LOST,   /* all probes under way are void (link lost): strong reads and relayed probes fail or ask again */
  RECV_MEMBERS,       /* the primary says who is in the cluster */
  RECV_LOG,           /* a line for the log */
  RECV_CLOSE          /* close the socket; RECV_CONNECT follows when it is time */
};

struct recv_action {
  enum recv_action_type type;
  union {
    struct hash128 adopt;
    struct {
      struct wal_block **blocks;
      size_t n;
    } append;
    struct {
      struct wal_pos pos;
      uint64_t peer_id;
    } truncate;
    struct {
      struct wal_pos pos;
      uint64_t peer_id;
      bool rejoin; /* it lies before what is applied */
      bool incomplete_will_do;
      struct wal_pos asked; /* what the HELLO had asked about */
    } part;
    const struct ckpt_manifest *begin;
    struct {
      uint32_t file;
      const char *name;
      uint64_t offset;
      const uint8_t *data;
      uint32_t bytes;
    } write;
    struct {
      uint32_t file;
      const char *name;
      struct hash128 hash;
    } file_end;
    struct {
      struct hash128 cluster_id, id;
      struct wal_pos pos;
    } install;
    dw_lsn commit_lsn;
    const struct msg_members *members;
    struct {
      uint64_t id;
      dw_lsn commit_lsn;
    } probe;
    struct {
      int level; /* dw_log_level */
      const char *text;
    } log;
    struct {
      int code; /* DW_*: why; DW_DIVERGED, DW_UNSUPPORTED, DW_LOCKED: refused */
      const char *text;
      uint64_t retry_ns; /* from now until the next RECV_CONNECT */
    } close;
  };
};

int receiver_create(const struct receiver_config *, uint64_t now_ns, struct receiver **); /* DW_NO_MEMORY; wants to connect at once */
void receiver_destroy(struct receiver *);                                                 /* NULL is fine */

/* ---- events -------------------------------------------------------------------------------- */
void receiver_connected(struct receiver *, const struct receiver_position *, uint64_t now_ns);
void receiver_connect_failed(struct receiver *, const char *why, uint64_t now_ns);
void receiver_input(struct receiver *, const void *, size_t n, uint64_t now_ns);
void receiver_drained(struct receiver *, size_t n, uint64_t now_ns);
void receiver_eof(struct receiver *, const char *why, uint64_t now_ns);
void receiver_tick(struct receiver *, uint64_t now_ns);
void receiver_applied(struct receiver *, dw_lsn applied, uint64_t now_ns);
/* This node is about to promise `epoch` to `node_id`: a stream below it ends at once, no ack for it leaves after this. */
void receiver_fence(struct receiver *, uint64_t epoch, uint64_t node_id, uint64_t now_ns);
/* A fresh probe, sent now: its id, or 0: not streaming, or the output is full. RECV_PROBE_DONE or RECV_PROBES_LOST follows,
 * unless nobody answers it (a circle of followers) or STALENESS_PROBES newer ones were asked for meanwhile: keep a
 * deadline. hops: 0 for our own. Several strong reads that begin before it is called may share one. */
uint64_t receiver_probe(struct receiver *, uint8_t hops, uint64_t now_ns);

/* ---- answers to storage actions; text: why it failed ---------------------------------------- */
void receiver_adopted(struct receiver *, int rc, const struct receiver_position *, const char *text, uint64_t now_ns);
/* tail: the log's end after it. */
void receiver_appended(struct receiver *, int rc, const struct wal_pos *tail, const char *text, uint64_t now_ns);
void receiver_synced(struct receiver *, int rc, dw_lsn durable, const char *text, uint64_t now_ns);
/* DW_OK: position after the cut, at is ignored. DW_NOT_FOUND: nothing was cut; at: own last boundary of an older epoch
 * (position_older_wal), NULL if there is none held. */
void receiver_truncated(struct receiver *, int rc, const struct receiver_position *, const struct wal_pos *at,
                        const char *text, uint64_t now_ns);
/* DW_NOT_FOUND: nothing was kept, the boundary is none of this log; at: as for receiver_truncated. */
void receiver_parted(struct receiver *, int rc, const struct wal_pos *at, const char *text, uint64_t now_ns);
/* offsets: manifest.count of them, bytes held of each file or CKPT_HELD. */
void receiver_ckpt_begun(struct receiver *, int rc, const uint64_t *offsets, const char *text, uint64_t now_ns);
void receiver_ckpt_written(struct receiver *, int rc, const char *text, uint64_t now_ns);
void receiver_ckpt_file_done(struct receiver *, int rc, const char *text, uint64_t now_ns);
void receiver_installed(struct receiver *, int rc, const struct receiver_position *, const char *text, uint64_t now_ns);

/* ---- what to do ---------------------------------------------------------------------------- */
bool receiver_next(struct receiver *, struct recv_action *);
int receiver_output(const struct receiver *, struct iovec *, int cap);
size_t receiver_output_bytes(const struct receiver *);
bool receiver_wants_input(const struct receiver *);
uint64_t receiver_next_tick(const struct receiver *);

/* ---- looking ------------------------------------------------------------------------------- */
dw_peer_state receiver_state(const struct receiver *);
const char *receiver_refusal(const struct receiver *); /* text of the last refusal or error, "" once streaming */
uint64_t receiver_staleness_ns(const struct receiver *, uint64_t now_ns);
/* For readers on other threads: UINT64_MAX: unknown, else monotonic time; staleness = now - that. */
uint64_t receiver_fresh_as_of(const struct receiver *);
struct receiver_upstream {
  uint64_t node_id, epoch;
  dw_lsn commit_lsn, tail_lsn; /* as last heard */
  dw_role role;
};
void receiver_upstream(const struct receiver *, struct receiver_upstream *);

#endif
