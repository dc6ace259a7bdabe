/* dabbawal: an embeddable log-shipping storage engine.
 *
 * A primary appends every committed batch to a checksummed, compressed log, ships the log to followers,
 * and applies it to an ordered key-value store. A commit has a log sequence number (LSN): 1 for the
 * first, +1 for each next one. Followers hold the same bytes under the same LSNs.
 *
 * CONVENTIONS, said once and true for every function below unless its own comment says otherwise
 *
 *   Errors        Functions that can fail return an int of the DW_* codes; DW_OK is 0. After any other
 *                 code dw_last_error() gives this thread's detail message (it names the file, LSN,
 *                 offset or peer). An output parameter is written only on DW_OK, except where stated.
 *   Threads       A dw_engine may be used by any number of threads at once. A dw_batch, dw_iter or
 *                 dw_value belongs to one thread at a time.
 *   Ownership     Pointers passed in are borrowed for the call (dw_write_async copies what it needs
 *                 before it returns). Objects made by *_create, dw_open or dw_get are the caller's to
 *                 release with the matching function; release functions accept NULL.
 *   Units         Sizes are bytes. Times are milliseconds where the name ends in _ms.
 *   NULL options  Mean the defaults; a zeroed dw_write_options or dw_read_options means them too.
 *   fork          An engine must not be used in a child process.
 */
#ifndef DABBAWAL_H
#define DABBAWAL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define DW_API __attribute__((visibility("default")))
#else
#define DW_API
#endif

#define DW_VERSION_MAJOR 0
#define DW_VERSION_MINOR 1
#define DW_VERSION_PATCH 0

/* Limits. A key is 1 B to 64 KiB of any bytes, a value 0 B to 64 MiB of any bytes, a batch at most
 * 128 MiB as encoded (keys, values, a few bytes for each operation). */
#define DW_MAX_KEY_BYTES 65536u
#define DW_MAX_VALUE_BYTES 67108864u
#define DW_MAX_BATCH_BYTES 134217728u
#define DW_MAX_ACKS 64u

typedef struct dw_engine dw_engine;
typedef struct dw_batch dw_batch;
typedef struct dw_iter dw_iter;
typedef uint64_t dw_lsn; /* 0: none */

/* Result codes. The numbers are part of the ABI and never change. */
#ifndef DW_RC_DEFINED
#define DW_RC_DEFINED
enum {
  DW_OK = 0,
  DW_NOT_FOUND,            /* no such key (or position) */
  DW_INVALID,              /* an argument is wrong: nothing was done */
  DW_IO,                   /* the operating system or the store failed; the message names the file */
  DW_CORRUPT,              /* bytes on disk or from a peer fail their checks; nothing was served or cut */
  DW_NO_SPACE,             /* the disk is full: nothing was logged; try again once there is space */
  DW_LOCKED,               /* another process (or handle) has this directory open */
  DW_READ_ONLY,            /* this node is a follower: write at the primary */
  DW_STALE,                /* the asked consistency can't be met within wait_ms */
  DW_TIMEOUT,              /* IN DOUBT: logged under the LSN that was returned, not yet confirmed; LSN 0: not done */
  DW_NOT_ENOUGH_FOLLOWERS, /* sync mode, too few followers connected: certainly not done */
  DW_DIVERGED,             /* histories parted, or the cluster is foreign; nothing was mixed or deleted */
  DW_CLOSED,               /* the engine is closing, or its log stopped after an error: reopen */
  DW_NO_MEMORY,            /* an allocation failed: nothing was done, nothing has stopped */
  DW_UNSUPPORTED,          /* a newer format or protocol, or a feature that is not there */
  DW_FENCED                /* a newer epoch has begun elsewhere: this node acknowledges nothing any more; the message
                              names the epoch and, if known, the new primary. In doubt if an LSN came with it */
};
#endif

typedef enum { DW_PRIMARY, DW_FOLLOWER } dw_role;

/* Whose acknowledgement a write waits for. docs/semantics.md says what each promises. */
typedef enum {
  DW_MODE_DEFAULT, /* the engine's */
  DW_ASYNC,        /* nobody's */
  DW_SEMI_SYNC,    /* `acks` followers', but after ack_timeout_ms the engine degrades, visibly, to async */
  DW_SYNC          /* `acks` followers', always */
} dw_mode;

/* What a follower has done when its acknowledgement counts. */
typedef enum {
  DW_ACK_DEFAULT,
  DW_ACK_RECEIVED, /* in the follower's memory and kernel */
  DW_ACK_DURABLE,  /* synced on the follower's disk */
  DW_ACK_APPLIED   /* committed on durable acks; returns once `acks` followers have applied it too */
} dw_ack;

typedef enum {
  DW_DURABILITY_DEFAULT,
  DW_DURABILITY_OS,  /* handed to the kernel before OK: survives kill -9; synced every sync_interval_ms */
  DW_DURABILITY_DISK /* fdatasync before OK: survives a power cut */
} dw_durability;

typedef enum {
  DW_EVENTUAL, /* whatever this node has applied */
  DW_BOUNDED,  /* no older than max_staleness_ms, by this node's own monotonic clock */
  DW_SESSION,  /* at least min_lsn applied: read your own writes on any node */
  DW_STRONG    /* at least everything that was committed at the primary when the read began */
} dw_consistency;

typedef struct {
  dw_mode mode;
  dw_ack ack;
  uint32_t acks;       /* followers to wait for, 1 to DW_MAX_ACKS; 0: the engine's */
  uint32_t timeout_ms; /* how long to wait for the commit; 0: the engine's ack_timeout_ms */
  dw_durability durability;
} dw_write_options;

typedef struct {
  dw_consistency consistency;
  uint64_t max_staleness_ms; /* DW_BOUNDED */
  dw_lsn min_lsn;            /* DW_SESSION */
  uint32_t wait_ms;          /* how long to wait for the consistency; 0: not at all
                                (DW_STRONG: 0 means the engine's ack_timeout_ms) */
} dw_read_options;

/* A value read. `data` stays valid until dw_value_release; `owner` is the engine's. */
typedef struct {
  const char *data;
  size_t size;
  void *owner;
} dw_value;

typedef enum { DW_LOG_DEBUG, DW_LOG_INFO, DW_LOG_WARN, DW_LOG_ERROR } dw_log_level;

/* Receives one line without a newline. Called from any of the engine's threads, possibly at once;
 * must not call back into the engine. */
typedef void (*dw_log_fn)(void *arg, dw_log_level level, const char *line);

/* Call dw_options_init first, then set what differs. Strings are borrowed during dw_open only. */
typedef struct {
  dw_role role;              /* default DW_PRIMARY; with peers: of a new directory, an old one goes by its history */
  uint64_t node_id;          /* unique in the cluster; 0: drawn at random when DIR is made, then kept */
  const char *region;        /* at most 31 bytes, shown in status; NULL: "" */
  const char *listen;        /* "host:port" that followers connect to, port 0: any; NULL: none */
  const char *primary;       /* follower: "host:port" to follow; NULL: serve what is there */
  dw_mode mode;              /* default DW_ASYNC */
  dw_ack ack;                /* default DW_ACK_DURABLE */
  uint32_t acks;             /* default 1 */
  uint32_t ack_timeout_ms;   /* default 10000 */
  dw_durability durability;  /* default DW_DURABILITY_DISK */
  uint32_t sync_interval_ms; /* default 1000; background sync of DW_DURABILITY_OS writes */
  uint64_t segment_bytes;    /* default 64 MiB; 64 KiB to 4 GiB */
  uint64_t retain_bytes;     /* default 1 GiB of log kept for followers that are away */
  uint64_t retain_ms;        /* default 24 h, likewise; whichever is reached first */
  uint64_t block_cache_bytes; /* default 64 MiB */
  uint64_t memtable_bytes;    /* default 64 MiB */
  int zstd_level;             /* default 1; -5 to 19; 0: do not compress */
  uint32_t heartbeat_ms;      /* default 500: heartbeats and staleness probes between nodes */
  uint32_t peer_timeout_ms;   /* default 5000: a silent peer is disconnected */
  /* A damaged log is repaired with the blocks of peers that hold the same history: at dw_open, and in the background.
   * A follower asks `primary`; besides, or on a primary, those named here are asked: "host:port[,host:port...]",
   * listen addresses of any nodes of the cluster. NULL: nobody. */
  const char *repair_from;
  /* Listen addresses of all *other* nodes of the cluster, "host:port[,host:port...]": whom dw_promote asks, and how many
   * nodes there are. Every node names the same cluster. NULL: dw_promote has nobody to ask. */
  const char *peers;
  int stay_follower; /* DW_FOLLOWER is meant for an old directory too, whatever its history: a lease has decided. Needs `peers` */
  const char *client_address; /* "host:port" that this node's clients use (a daemon's RESP port), told to the other nodes, so that
                                 each can name the primary; NULL: unknown */
  /* What to do when this node has applied what its primary lacks (an old primary that comes back). 0: keep serving the
   * old data, say so, wait for dw_rejoin. 1: rejoin by itself; besides, a primary that is fenced follows the new one by
   * itself, which it finds among `peers`. docs/failover.md */
  int auto_rejoin;
  uint32_t priority;          /* default 100: among followers that have the same log the highest is promoted; 0: never */
  uint64_t scrub_bytes_per_s; /* default 4 MiB: how fast the background scrub reads the log's old segments; 0: never */
  uint64_t scrub_interval_ms; /* default 24 h, from the beginning of one pass to that of the next */
  dw_log_fn log;              /* NULL: warnings and errors go to stderr */
  void *log_arg;
} dw_options;

#define DW_REGION_BYTES 32
#define DW_ADDRESS_BYTES 64
#define DW_STATUS_MAX_FOLLOWERS 64
#define DW_STATUS_MAX_MEMBERS 65

typedef enum {
  DW_PEER_DISCONNECTED,
  DW_PEER_CONNECTING,
  DW_PEER_BOOTSTRAPPING, /* a checkpoint is on its way */
  DW_PEER_CATCHING_UP,   /* reads old log */
  DW_PEER_STREAMING,     /* at the live tail */
  DW_PEER_REFUSED        /* diverged, foreign or incompatible: see `error` */
} dw_peer_state;

/* One follower as the primary sees it. */
typedef struct {
  uint64_t node_id;
  char region[DW_REGION_BYTES];
  char address[DW_ADDRESS_BYTES];
  dw_peer_state state;
  dw_lsn received_lsn, durable_lsn, applied_lsn; /* cumulative marks of this incarnation */
  uint64_t lag_lsns;     /* written_lsn - applied_lsn */
  uint64_t lag_bytes;    /* log bytes not yet sent to it */
  uint64_t lag_ms;       /* how long the oldest commit that it has not applied has been waiting */
  uint64_t staleness_ms; /* as it last reported; UINT64_MAX: unknown */
  uint64_t sent_bytes;
} dw_follower_status;

/* A node of the cluster, as it told the others. */
typedef struct {
  uint64_t node_id;
  dw_role role;
  uint32_t priority;                     /* 0: never to be promoted */
  char client_address[DW_ADDRESS_BYTES]; /* "": unknown, or it serves no clients */
  char address[DW_ADDRESS_BYTES];        /* where nodes connect, "": it does not listen */
  char region[DW_REGION_BYTES];
} dw_member;

typedef struct {
  dw_role role;
  uint64_t node_id;
  uint8_t cluster_id[16];
  char region[DW_REGION_BYTES];
  uint64_t epoch;          /* of the log; the high half is the term, one more with each promotion */
  uint64_t promised_epoch; /* nothing below it is followed or acknowledged here; 0: no promise */
  uint64_t promised_node;  /* whom it was promised to */
  int fenced;              /* a primary that has met a newer epoch: read-only, acknowledges nothing */
  dw_mode mode;
  dw_ack ack;
  uint32_t acks;
  int degraded;               /* semi-sync: 1 while it acts as async */
  uint64_t degraded_commits;  /* committed without the acks that semi-sync asks for, since open */
  uint64_t degraded_count;    /* how often it degraded, since open */
  dw_lsn written_lsn;   /* in this node's log */
  dw_lsn durable_lsn;   /* synced in this node's log */
  dw_lsn commit_lsn;    /* committed, as far as this node knows */
  dw_lsn applied_lsn;   /* visible to reads here */
  dw_lsn persisted_lsn; /* in the store's files: replay after a crash starts here */
  dw_lsn oldest_lsn;    /* first LSN that the log still holds (0: empty log) */
  uint64_t log_bytes;         /* of segment files in use */
  uint64_t staleness_ms;      /* age of the data; 0 on a primary; UINT64_MAX: unknown */
  uint64_t commits;           /* since open */
  uint64_t raw_bytes, stored_bytes; /* appended since open: before and after compression */
  uint64_t syncs;             /* fdatasyncs of the log since open */
  uint64_t approximate_keys;
  int write_stalled;          /* the store holds writes back */
  int failed;                 /* the log or the store stopped after an error: see error */
  int stopping;               /* dw_stop was called: no write is taken any more */
  dw_peer_state primary_state; /* follower: the link to the primary */
  char primary[DW_ADDRESS_BYTES];
  uint64_t primary_node;                 /* who writes, as far as this node knows (itself, if it does); 0: unknown */
  char primary_client[DW_ADDRESS_BYTES]; /* its client address; "": unknown. Of a follower: as last heard */
  uint32_t member_count; /* this node, and those it knows to be connected */
  dw_member members[DW_STATUS_MAX_MEMBERS];
  char error[256];            /* last serious error, "" if none */
  uint64_t scrub_done_bytes, scrub_total_bytes; /* of old segments: the pass under way, or the last one */
  uint64_t scrub_passes;      /* finished since open */
  uint64_t damage_found, damage_repaired; /* damaged segments since open, at open included */
  uint64_t damage_now;        /* known and not repaired */
  uint64_t repaired_blocks;   /* put back from peers since open */
  char scrub_result[200];     /* of the last pass or repair, "" if none */
  uint16_t listen_port;       /* bound port, 0: none */
  uint32_t bootstraps;        /* checkpoints sent (primary) or installed (follower), since open */
  uint64_t bootstrap_bytes;   /* of the last one installed here: bytes that came over the network */
  uint64_t bootstrap_reused_bytes;           /* ... and bytes of it that this node's store had already */
  uint64_t diverged_files, diverged_commits; /* in DIR/diverged: what only this node had when histories parted. They
                                 stay until somebody removes the files; looked at anew at dw_open */
  uint32_t follower_count;    /* entries in followers[]; connected ones and known absent ones */
  dw_follower_status followers[DW_STATUS_MAX_FOLLOWERS];
} dw_status;

/* ---- life cycle ---------------------------------------------------------------------------- */

/* Fills in the defaults named above. */
DW_API void dw_options_init(dw_options *);

/* Opens DIR (made if missing, parent must exist), recovers, starts threads and listeners. A damaged log is
 * repaired from `primary` or `repair_from` first, if they have its blocks; that may take a minute.
 * Errors: DW_LOCKED, DW_CORRUPT (names file, offset, LSN, and what was tried), DW_UNSUPPORTED (newer format),
 * DW_INVALID (an option, or DIR is not a dabbawal directory and not empty), DW_IO (a port in use...),
 * DW_DIVERGED (the log is of another cluster or history than the store), DW_NO_SPACE, DW_NO_MEMORY. */
DW_API int dw_open(const char *dir, const dw_options *, dw_engine **);

/* Before dw_close, where other threads may be waiting: writes, dw_wait, a dw_promote that waits for peers and reads that
 * wait are answered at once (DW_CLOSED, in doubt if logged; DW_STALE), later writes and changes of role are refused with
 * DW_CLOSED. Reads that need not wait go on.
 * Then join those threads and call dw_close. */
DW_API void dw_stop(dw_engine *);

/* Syncs the log, stops threads, frees. Pending writes answer DW_CLOSED (in doubt if logged). No call
 * may be running or follow; iterators must be destroyed before. Returns the first error met; the
 * handle is gone in any case. */
DW_API int dw_close(dw_engine *);

/* ---- roles --------------------------------------------------------------------------------- */

typedef struct {
  int force;            /* be content with the promises that come, and with a log that may lack acknowledged writes */
  int handover;         /* the primary lives: it pauses its writes until this node has everything, then is fenced. Writes that
                           wait meanwhile are not done, or go on if this fails. DW_NOT_FOUND: no primary answers */
  uint64_t max_lag_ms;  /* refuse if this node's data is staler than that, or of unknown age; 0: any age will do */
  uint32_t timeout_ms;  /* for all of it; 0: 5000 */
  uint32_t min_term;    /* the new epoch's term is at least this: a coordinator was told so, and may know of terms that no node in
                           reach knows; 0: the next one of what the nodes know */
} dw_promote_options;

/* Follower -> primary, without closing: iterators and readers stay. Asks `peers` for what they have, then for the promise to
 * follow and acknowledge no older epoch, and begins a new epoch once nodes - acks of them (this one included) have
 * promised and nobody among them has a longer log. An old primary that promises, or hears of it later, answers DW_FENCED.
 * NULL options: the defaults. Blocks; any thread, one at a time. DW_OK also means that the epoch's record is durable here.
 * Errors: DW_INVALID (a primary already, no data yet, no peers and not forced), DW_STALE (max_lag_ms, or somebody has more:
 * the message says who and by how much), DW_NOT_ENOUGH_FOLLOWERS (too few promises), DW_FENCED (somebody else was faster),
 * DW_TIMEOUT, DW_LOCKED (another one is under way), DW_IO, DW_CLOSED. After an error the node follows again as before. */
DW_API int dw_promote(dw_engine *, const dw_promote_options *);

/* Follows `primary` ("host:port", copied) from now on; NULL: nobody, acknowledge nothing, serve what is there. A primary becomes a
 * follower: writes that are not answered yet end with DW_FENCED, in doubt if they were logged. What such a log holds
 * beyond the new primary's history is dealt with when they meet. Any thread. DW_INVALID (not an address), DW_CLOSED; DW_IO,
 * DW_NO_SPACE: a primary could not note that it follows, and goes on; after NULL it stays fenced: ask again. */
DW_API int dw_follow(dw_engine *, const char *primary);

/* dw_follow for a node that has applied what `primary` lacks (it was refused with DW_DIVERGED): its data gives way.
 * First what only this node has is written to DIR/diverged, durably; then it takes a checkpoint of the primary, reusing
 * those of its own files that are the same; its old data is served until the switch. NULL: the primary that it follows
 * already. A node that turns out to have nothing of the kind follows as with dw_follow. Returns once following has
 * begun; the rest is seen in dw_status_get. A crash on the way leaves the node as it was: ask again (auto_rejoin does).
 * Any thread. Errors: as dw_follow; DW_INVALID also if NULL was given and nobody is followed. */
DW_API int dw_rejoin(dw_engine *, const char *primary);

/* ---- writing (primary) --------------------------------------------------------------------- */

/* On DW_OK the write is logged, as durable and acknowledged as asked, and visible to reads here.
 * `lsn` (may be NULL) is always written: the LSN if the write was logged or may have been, else 0.
 * Errors: DW_READ_ONLY, DW_INVALID, DW_NO_SPACE, DW_NO_MEMORY, DW_NOT_ENOUGH_FOLLOWERS (all: certainly not done);
 * DW_TIMEOUT, DW_CLOSED, DW_IO: in doubt if an LSN came with it, certainly not done if it is 0. After DW_TIMEOUT ask
 * again with dw_wait; after the others the next dw_open finds the write or does not. While the store has an error of
 * its own writes are refused with it (DW_NO_SPACE, DW_IO, DW_CORRUPT, LSN 0) until it takes them again. */
DW_API int dw_put(dw_engine *, const dw_write_options *, const void *key, size_t klen, const void *val, size_t vlen,
                  dw_lsn *lsn);
DW_API int dw_delete(dw_engine *, const dw_write_options *, const void *key, size_t klen, dw_lsn *lsn);

/* A batch is applied wholly or not at all, in the order of its operations. It copies keys and values, may be written
 * any number of times and belongs to no engine. NULL: no memory. */
DW_API dw_batch *dw_batch_create(void);
DW_API void dw_batch_destroy(dw_batch *);
DW_API void dw_batch_clear(dw_batch *);           /* empty again; keeps its memory */
DW_API uint32_t dw_batch_count(const dw_batch *); /* operations in it */
/* DW_INVALID (a size is out of the limits above), DW_NO_MEMORY: the batch is as it was. Deleting a key that is not
 * there is no error. A value of 0 bytes may be NULL. */
DW_API int dw_batch_put(dw_batch *, const void *key, size_t klen, const void *val, size_t vlen);
DW_API int dw_batch_delete(dw_batch *, const void *key, size_t klen);

/* One commit, one LSN. An empty batch is DW_OK with LSN 0 and nothing logged. */
DW_API int dw_write(dw_engine *, const dw_write_options *, const dw_batch *, dw_lsn *lsn);

/* Called once per accepted dw_write_async, from an engine thread, one at a time: be brief (applying may wait for you) and
 * do not call blocking dw_ functions; dw_write_async may be called, it does not block there. Those that succeed come in
 * LSN order, except that a write at level DW_ACK_APPLIED may come after later ones that wait for less. rc and lsn as
 * dw_write would return them; dw_last_error() gives the detail. */
typedef void (*dw_commit_fn)(void *arg, int rc, dw_lsn lsn);

/* Queues a copy of the batch and returns. DW_OK: `fn` will be called exactly once. Any other code: it
 * will not. Blocks while the queue is full (push-back), never drops. An empty batch is answered in this thread, before
 * it returns. Errors: DW_INVALID, DW_READ_ONLY, DW_NOT_ENOUGH_FOLLOWERS, DW_NO_MEMORY, DW_CLOSED, and the store's, as
 * above. */
DW_API int dw_write_async(dw_engine *, const dw_write_options *, const dw_batch *, dw_commit_fn fn, void *arg);

/* Waits until `lsn` of this engine's present epoch is committed and has the acks that the options ask
 * for (timeout_ms included), and applied here. On a follower: until it is applied. DW_OK, DW_TIMEOUT (still in doubt),
 * DW_NOT_FOUND (never logged here), DW_FENCED (in doubt: this primary is fenced, or has become a follower while it
 * was waited for), DW_INVALID, DW_CLOSED. */
DW_API int dw_wait(dw_engine *, dw_lsn lsn, const dw_write_options *);

/* ---- reading (any node) -------------------------------------------------------------------- */

/* DW_OK, DW_NOT_FOUND, DW_STALE (the message says staleness and bound), DW_INVALID, DW_IO, DW_CORRUPT, DW_NO_MEMORY.
 * Works on after the log or the store has stopped taking writes. */
DW_API int dw_get(dw_engine *, const dw_read_options *, const void *key, size_t klen, dw_value *);
DW_API void dw_value_release(dw_value *); /* any thread, once; may come after dw_close */

/* An iterator sees one consistent point: the applied state when it was made. Keys are in byte order.
 * _key and _value are valid until the iterator moves; call them only while _valid. A new iterator is not valid until
 * one of the seeks; a step of one that is not valid does nothing. When it is not valid any more, ask _status: DW_OK
 * means the end. Errors of _create: as dw_get's, without DW_NOT_FOUND. */
DW_API int dw_iter_create(dw_engine *, const dw_read_options *, dw_iter **);
DW_API void dw_iter_destroy(dw_iter *);
DW_API void dw_iter_seek(dw_iter *, const void *key, size_t klen); /* first key >= */
DW_API void dw_iter_seek_first(dw_iter *);
DW_API void dw_iter_seek_last(dw_iter *);
DW_API void dw_iter_next(dw_iter *);
DW_API void dw_iter_prev(dw_iter *);
DW_API int dw_iter_valid(const dw_iter *);
DW_API const char *dw_iter_key(const dw_iter *, size_t *klen);
DW_API const char *dw_iter_value(const dw_iter *, size_t *vlen);
DW_API int dw_iter_status(const dw_iter *); /* DW_OK, or why the iteration stopped */

/* ---- asking -------------------------------------------------------------------------------- */

/* A snapshot of the node's state; never blocks on disk or network. Always DW_OK. */
DW_API int dw_status_get(dw_engine *, dw_status *);

/* "DW_TIMEOUT" etc.; "DW_UNKNOWN" for a number that is none of them. Static. */
DW_API const char *dw_rc_name(int rc);

/* This thread's detail of the last call that failed, "" if none. Valid until the next failing call. */
DW_API const char *dw_last_error(void);

/* "0.1.0" of the library at run time. Static. */
DW_API const char *dw_version(void);

#ifdef __cplusplus
}
#endif
#endif
