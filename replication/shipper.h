/* The sending side of one connection: a pure state machine, one per follower that connected to us.
 *
 *   A connection that begins with FETCH instead of HELLO only asks for blocks to repair a log with: FETCHING, until the
 * peer leaves.
 *
 *   One that begins with FENCE is a candidate's: FENCING, likewise.
 *
 *             HELLO                     STREAM
 *   HANDSHAKE -----> locating ----------------------------> STREAMING
 *     ^  ^              |  | TRUNCATE (HELLO again)
 *     |  +--------------|--+
 *     |                 | BOOTSTRAP
 *     |   INSTALLED     v
 *     +----------- BOOTSTRAPPING            any: error, silence, refusal --> CLOSING --> CLOSED
 *
 * HOW TO DRIVE IT (one thread at a time; nothing here blocks, allocates without bound, or reads a clock)
 *
 *   1. Tell it what happened, with the present monotonic time:
 *        shipper_input     bytes came             shipper_drained   the socket took n bytes of its output
 *        shipper_tick      every ~50 ms or when shipper_next_tick says
 *        shipper_log_grew  our log has more       shipper_commit    our commit_lsn rose
 *        shipper_eof       the peer closed, or the socket failed
 *        and the answers to actions, below.
 *   2. After each of them, until both have nothing more:
 *        a. write shipper_output() to the socket, tell shipper_drained;
 *        b. take shipper_next() and carry it out. Its answer may be given at once or later (from a worker thread's
 *           completion); everything else goes on meanwhile. At most one LOCATE, READ_LOG, checkpoint action is open.
 *   3. Read from the socket only while shipper_wants_input.
 *   4. On SHIP_CLOSE: close the socket, release cursor and checkpoint, wait for workers, shipper_destroy.
 *
 * Pointers in an action are valid until the next call on the shipper, except where stated.
 *
 * What it guarantees: unsent log never exceeds max_output_bytes by more than one block (whose bytes it shares with the
 * log's tail cache), nor do frames of its own; a peer that reads nothing makes it stop reading the log, and one that is
 * silent, or takes nothing of a non-empty output, for peer_timeout_ms is closed. Marks it reports never exceed
 * what it has sent on this connection, and never fall.
 */
#ifndef DW_REPLICATION_SHIPPER_H
#define DW_REPLICATION_SHIPPER_H

#include "replication/checkpoint_manifest.h"
#include "replication/message.h"
#include "replication/outq.h"
#include "replication/position.h"

struct shipper;

struct shipper_config {
  uint64_t node_id;
  struct hash128 cluster_id, incarnation; /* ours */
  dw_role role;                           /* DW_FOLLOWER: cascading */
  uint32_t heartbeat_ms, peer_timeout_ms;
  size_t max_output_bytes; /* 0: 1 MiB */
  const char *peer;        /* "host:port" for messages; copied */
};

enum ship_action_type {
  /* The driver: quorum_admit, drop the superseded connection, position_decide, quorum_located; for STREAM open a cursor
   * at decision.pos (if that says DW_NOT_FOUND, it was trimmed just now: decide again). A refusal of quorum_admit
   * becomes a POSITION_REFUSE with its code and text. Then shipper_located. hello stays valid until then. */
  SHIP_LOCATE,
  /* Read blocks through the cursor until read.max_bytes are reached, one block at least; shipper_blocks. Blocks beyond
   * commit_lsn are shipped too. */
  SHIP_READ_LOG,
  /* Have a checkpoint: the one with id make.resume if it is still there and the log still holds its boundary, else a
   * new one with a new random id; keep the log from its boundary on (engine_pin_log); shipper_checkpoint. */
  SHIP_MAKE_CHECKPOINT,
  /* Read exactly chunk.bytes at chunk.offset of file number chunk.file of the manifest; shipper_chunk. */
  SHIP_READ_CHUNK,
  /* It is installed: the checkpoint is not needed any more; keep its boundary in the log until the next LOCATE. If the
   * connection breaks before this, keep the checkpoint for a while (peer_timeout or more): it will be resumed. */
  SHIP_DROP_CHECKPOINT,
  /* Answer a probe: primary: shipper_probe_answer with strong_lsn as it is NOW (asked of the engine; after a restart above
   * commit_lsn, so it is never told as one). Cascading follower: send a probe of its own upstream (receiver_probe with
   * probe.hops + 1), answer when that is answered; no answer if it is not. */
  SHIP_PROBE,
  /* Somebody repairs his log: read blocks behind fetch->from as far as their last LSN is at most fetch->upto, until
   * fetch->max_bytes are reached, one at least; shipper_fetched. fetch stays valid until then. */
  SHIP_FETCH,
  /* A candidate asks: shipper_fence_answer, in which version, ids and cluster are filled in here. What it means: promotion.h. */
  SHIP_FENCE,
  /* A follower says goodbye because it has promised a newer epoch to somebody: this node is no primary any more if it was. */
  SHIP_FENCE_HEARD,
  SHIP_MARKS, /* quorum_marks, then engine_acks; from a cascaded follower only for status */
  SHIP_STATE, /* shipper_state changed: quorum_state */
  SHIP_LOG,   /* a line for the log */
  SHIP_CLOSE  /* the last action */
};

struct ship_action {
  enum ship_action_type type;
  union {
    const struct msg_hello *hello;
    const struct msg_fetch *fetch;
    const struct msg_fence *fence;
    struct {
      uint64_t epoch, node_id;
    } heard;
    struct {
      size_t max_bytes;
    } read;
    struct {
      struct hash128 resume; /* zero: none */
      bool hashes;           /* a new one: with hashes in the manifest */
    } make;
    struct {
      uint32_t file;
      uint64_t offset;
      uint32_t bytes;
      const char *name;
    } chunk;
    struct hash128 dropped;
    struct msg_probe probe;
    struct msg_ack marks;
    struct {
      int level; /* dw_log_level */
      const char *text;
    } log;
    struct {
      int code; /* DW_*: why; DW_OK: the peer left */
      const char *text;
    } close;
  };
};

/* tail, commit: our log's end and commit_lsn now. DW_NO_MEMORY. */
int shipper_create(const struct shipper_config *, const struct wal_pos *tail, dw_lsn commit, uint64_t now_ns,
                   struct shipper **);
void shipper_destroy(struct shipper *); /* NULL is fine; releases blocks and output */

/* ---- events -------------------------------------------------------------------------------- */
void shipper_input(struct shipper *, const void *, size_t n, uint64_t now_ns);
void shipper_drained(struct shipper *, size_t n, uint64_t now_ns);
void shipper_tick(struct shipper *, uint64_t now_ns);
void shipper_log_grew(struct shipper *, const struct wal_pos *tail, uint64_t now_ns);
void shipper_commit(struct shipper *, dw_lsn commit_lsn, uint64_t now_ns);
/* Who is in the cluster, now or anew: told to a peer that takes MEMBERS. Borrowed for the shipper's life; call again
 * whenever it has changed. */
void shipper_members(struct shipper *, const struct msg_members *, uint64_t now_ns);
/* From now on at most so many bytes of blocks a second go out as packs (message PACKED), which costs time on this side;
 * what is beyond that goes out as it is. 0, the state after shipper_create: no packs. */
void shipper_pack_rate(struct shipper *, uint64_t bytes_per_s);
void shipper_eof(struct shipper *, const char *why, uint64_t now_ns);
/* Say goodbye and close (this node stops, or the connection was superseded): REFUSE, then SHIP_CLOSE when it is out. */
void shipper_shut(struct shipper *, int code, const char *why, uint64_t now_ns);

/* ---- answers to actions; rc other than DW_OK: it failed, the text is dw_last_error()-like ------- */
void shipper_located(struct shipper *, int rc, const struct position_decision *, const char *text, uint64_t now_ns);
/* References are the shipper's afterwards, in every case. n == 0 with DW_OK: the end was reached (or pass at_end with
 * the last blocks). live: wal_cursor_live. DW_NOT_FOUND, DW_DIVERGED, DW_CORRUPT...: closes. */
void shipper_blocks(struct shipper *, int rc, struct wal_block **, size_t n, bool at_end, bool live, const char *text,
                    uint64_t now_ns);
void shipper_checkpoint(struct shipper *, int rc, struct ckpt_manifest *, const char *text, uint64_t now_ns); /* takes it over */
void shipper_chunk(struct shipper *, int rc, const void *data, const char *text, uint64_t now_ns);            /* copies */
/* References are the shipper's afterwards, in every case. n == 0 with DW_OK: nothing follows up to `upto`. Any other rc is
 * told to the peer with its text, and the connection ends. */
void shipper_fetched(struct shipper *, int rc, struct wal_block **, size_t n, const char *text, uint64_t now_ns);
void shipper_fence_answer(struct shipper *, const struct msg_fenced *, uint64_t now_ns);
void shipper_probe_answer(struct shipper *, const struct msg_probe *, dw_lsn strong_lsn, uint64_t now_ns);

/* ---- what to do ---------------------------------------------------------------------------- */
bool shipper_next(struct shipper *, struct ship_action *);
int shipper_output(const struct shipper *, struct iovec *, int cap); /* see outq_iov */
size_t shipper_output_bytes(const struct shipper *);
bool shipper_wants_input(const struct shipper *);
uint64_t shipper_next_tick(const struct shipper *); /* when a tick is due at the latest */

/* ---- looking ------------------------------------------------------------------------------- */
dw_peer_state shipper_state(const struct shipper *); /* CONNECTING, BOOTSTRAPPING, CATCHING_UP, STREAMING, DISCONNECTED */
const struct msg_hello *shipper_hello(const struct shipper *); /* NULL: none came yet */
const struct msg_fetch *shipper_fetch(const struct shipper *); /* the last FETCH, NULL: none came */
const struct msg_fence *shipper_fence(const struct shipper *); /* the last FENCE, NULL: none came */
struct wal_pos shipper_sent(const struct shipper *);           /* last boundary sent; for lag */
bool shipper_packing(const struct shipper *);                  /* the blocks read last went out as a pack */
uint64_t shipper_sent_bytes(const struct shipper *);           /* that the socket took */

#endif
