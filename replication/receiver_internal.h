/* The receiver's state, shared by its four files: receiver.c (life cycle, timers, actions), receiver_input.c (what the
 * primary says), receiver_log.c (append, sync, ack), receiver_boot.c (adopt, truncate, checkpoint).
 *
 * One storage question at a time: `store` says which and how far it is. Frames wait while one is wanted or open, except
 * during a SYNC, when they gather in `batch`:
 *
 *     frames --> batch --(idle)--> APPEND --> SYNC (if somebody waits) --> ACK
 *                  ^                            |
 *                  +--- next frames, meanwhile -+         one sync for all of them: group commit
 */
#ifndef DW_REPLICATION_RECEIVER_INTERNAL_H
#define DW_REPLICATION_RECEIVER_INTERNAL_H

#include "replication/checkpoint_transfer.h"
#include "replication/receiver.h"

#define RECV_BATCH_BYTES 4194304u /* gathered for one append */
#define RECV_BUFFER_BYTES 1048576u /* whole frames waiting while storage is busy, then input stops */
#define RECV_LINES 8u
#define RECV_ACK_ROOM 4096u /* acks are cumulative: with more than this unsent the next one waits */
#define RECV_LINGER_NS 1000000000ull
#define RECV_STEADY_NS 1000000000ull /* a stream that lasted so long starts the back-off anew */

enum recv_phase { RP_WAITING, RP_DIALLING, RP_HANDSHAKE, RP_STREAMING, RP_BOOTSTRAPPING, RP_CLOSING };

enum recv_store {
  RS_IDLE,
  RS_ADOPT,
  RS_APPEND,
  RS_SYNC,
  RS_TRUNCATE,
  RS_PART,
  RS_BEGIN,
  RS_WRITE,
  RS_FILE_END,
  RS_INSTALL
};

struct recv_batch {
  struct wal_block **blocks;
  size_t n, cap, bytes;
};

/* Where histories part, if the boundary that a BOOTSTRAP named is none of ours: the next connection's HELLO asks about an
 * older one of ours. What the answers have come to is about one log of theirs and one of ours. */
struct recv_seek {
  unsigned rounds; /* 0: nothing is sought */
  struct wal_pos at;
  struct hash128 tail;     /* of our log */
  uint64_t node_id, epoch; /* theirs */
};

struct receiver {
  struct receiver_config cfg;
  char peer[DW_ADDRESS_BYTES];
  enum recv_phase phase;
  uint64_t now_ns, rng;

  /* between connections */
  uint64_t retry_ns;
  unsigned failures;
  bool refused;         /* the last end was a refusal */
  bool close_wanted;    /* RECV_CLOSE to be taken */
  bool connect_wanted;
  int end_code;
  char end_text[MSG_TEXT_BYTES + 1];
  uint64_t linger_ns;

  /* the connection */
  struct frame_reader in;
  struct outq out;
  struct msg_sender me;
  struct receiver_position pos;
  struct wal_pos at; /* as said in the last HELLO */
  struct msg_welcome welcome;
  uint64_t peer_epoch;
  unsigned rounds;
  uint64_t in_ns, out_ns, beat_ns, probe_ns, stream_ns;
  dw_lsn upstream_commit, upstream_tail;

  /* storage */
  enum recv_store store;
  bool store_open; /* taken by the driver; nothing is dialled before its answer, so no answer meets another connection */
  struct recv_batch batch, appending;
  struct wal_unpacker *unpacker; /* made with the first pack of a stream */
  struct wal_pos expect; /* end of the log with all that was gathered */
  struct wal_pos cut;    /* to be cut back to, or kept from */
  bool parted;           /* what lies beyond it was kept, on this connection */
  struct recv_seek seek;
  struct ckpt_receiver ckpt;
  struct msg_ckpt_chunk chunk; /* data: chunk_data, for input may move the frame while it is being written */
  uint8_t *chunk_data;         /* MSG_CHUNK_BYTES, made with the first one */
  struct msg_ckpt_file_end file_end;
  dw_lsn received, durable, applied;
  bool sync_now;
  uint64_t sync_epoch; /* of the log's end when the sync began; then of what is durable: goes into our frames */
  uint64_t lazy_bytes, lazy_ns; /* unsynced that nobody waits for; since when (0: none) */

  /* acks */
  bool ack_now;
  uint64_t ack_ns;      /* coalesced: due at (0: not) */
  dw_lsn want_applied;  /* somebody waits for the applied mark up to here */

  /* news */
  dw_lsn commit, told_commit;
  struct staleness stale;
  bool fresh_changed, probes_lost, members_changed;
  struct msg_members members;
  struct {
    uint64_t id;
    dw_lsn commit_lsn;
  } done[STALENESS_PROBES];
  unsigned done_head, done_count;
  char lines[RECV_LINES][256];
  int levels[RECV_LINES];
  unsigned line_head, line_count;
};

static inline void recv_clock(struct receiver *r, uint64_t now_ns) {
  if (now_ns > r->now_ns) r->now_ns = now_ns;
}
static inline bool recv_talking(const struct receiver *r) {
  return r->phase == RP_HANDSHAKE || r->phase == RP_STREAMING || r->phase == RP_BOOTSTRAPPING;
}

/* receiver.c */
void recv_log(struct receiver *, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Ends the connection; tell: a REFUSE goes out first. */
void recv_end(struct receiver *, int code, bool tell, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
void recv_end_detail(struct receiver *, int code, bool tell); /* with this thread's detail message */
bool recv_push(struct receiver *, int rc, struct buf *); /* rc of the encoder; takes the buffer */
void recv_advance(struct receiver *);                    /* everything that may have become due */
void recv_ask(struct receiver *, enum recv_store);       /* a storage question; store must be idle */
/* The driver's answer to `which`: false if it belongs to an earlier connection, or fails and ends this one. */
bool recv_answer(struct receiver *, enum recv_store which, int rc, const char *text, uint64_t now_ns);
void recv_hello(struct receiver *); /* sends it, about pos and at; waits for WELCOME */
void recv_commit(struct receiver *, dw_lsn);

/* receiver_input.c */
void recv_read_frames(struct receiver *);

/* receiver_log.c */
void recv_start_stream(struct receiver *);
int recv_on_blocks(struct receiver *, const struct frame *);
int recv_on_packed(struct receiver *, const struct frame *);
void recv_move_log(struct receiver *); /* next append or sync, acks and probes that are due */
void recv_batch_drop(struct recv_batch *);
void recv_send_ack(struct receiver *);

static inline bool recv_may_rejoin(const struct receiver *r) {
  return r->cfg.rejoin || r->cfg.rejoin_once;
}

/* receiver_boot.c */
int recv_on_welcome(struct receiver *, const struct frame *);
int recv_on_manifest(struct receiver *, const struct frame *);
int recv_on_chunk(struct receiver *, const struct frame *);
int recv_on_file_end(struct receiver *, const struct frame *);
int recv_on_done(struct receiver *, const struct frame *);

#endif
