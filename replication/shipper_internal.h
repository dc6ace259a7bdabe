/* The shipper's state, shared by its five files: shipper.c (events, timers, actions), shipper_input.c (what the
 * follower says), shipper_send.c (blocks and checkpoint chunks), shipper_fetch.c (blocks for a repair),
 * shipper_fence.c (a candidate's questions).
 *
 * Actions are not queued but derived: each is a condition on the state ("a read is wanted and none is open"), looked at
 * in a fixed order by shipper_next. So nothing can pile up, and an action that lost its reason is never taken. Only log
 * lines and probes are small bounded rings.
 */
#ifndef DW_REPLICATION_SHIPPER_INTERNAL_H
#define DW_REPLICATION_SHIPPER_INTERNAL_H

#include "replication/checkpoint_transfer.h"
#include "replication/shipper.h"

#define SHIP_MAX_ROUNDS 16u            /* HELLOs on one connection that lead to another HELLO */
#define SHIP_PROBES 64u                /* waiting for the driver; then input waits */
#define SHIP_LINES 8u                  /* log lines waiting; older ones are dropped */
#define SHIP_SMALL_BYTES 65536u        /* small frames are held back while more than this is unsent */
#define SHIP_LINGER_NS 1000000000ull   /* for the goodbye to get out */
#define SHIP_FETCH_BYTES_PER_S (32u << 20) /* for all that one asker gets: a repair is not a bootstrap */
#define SHIP_PACK_READ_BYTES 65536u /* read at once while packing, half a millisecond of it */
#define SHIP_PACK_BURST_NS 50000000ull /* packing may be so far ahead of its rate */
#define SHIP_BOOTSTRAP_TIMEOUTS 12u    /* a bootstrap that does not move for so many peer timeouts is over */

enum ship_phase {
  SHIP_HANDSHAKE, /* waits for HELLO */
  SHIP_LOCATING,  /* the driver decides the position */
  SHIP_STREAMING,
  SHIP_BOOTSTRAPPING,
  SHIP_FETCHING, /* answers FETCHes, nothing else */
  SHIP_FENCING,  /* answers FENCEs, nothing else */
  SHIP_CLOSING, /* the goodbye is on its way out */
  SHIP_CLOSED   /* SHIP_CLOSE was taken */
};

enum ship_ask { ASK_NO, ASK_WANTED, ASK_OPEN }; /* a question to the driver: not, to be asked, asked */

struct shipper {
  struct shipper_config cfg;
  char peer[DW_ADDRESS_BYTES];
  enum ship_phase phase;
  struct frame_reader in;
  struct outq out;
  struct msg_sender me;
  struct msg_hello hello;
  bool have_hello;
  unsigned rounds;

  struct wal_pos tail; /* of our log */
  dw_lsn commit, told_commit;
  struct wal_pos sent;
  bool want_log; /* there may be blocks beyond `sent` */
  bool live;
  struct wal_packer *packer; /* made with the first pack of a stream */
  bool packing;              /* the last frame of blocks was a pack */
  uint64_t pack_rate;        /* bytes of blocks a second, 0: none */
  uint64_t pack_due_ns;      /* the packs so far are paid for at */

  const struct msg_members *members; /* the driver's */
  bool members_due;

  enum ship_ask locate, read, make, chunk, fetch, fence;
  struct msg_fetch fetch_msg;
  bool have_fetch;
  struct msg_fence fence_msg;
  bool have_fence;
  uint64_t heard_epoch, heard_node; /* a follower has promised this one; 0: none, or told */
  uint64_t fetch_ns; /* the next answer is not due before */
  bool drop, state_changed, marks_changed;
  dw_peer_state state;
  struct msg_ack marks; /* as reported: clamped, rising */
  struct msg_probe probes[SHIP_PROBES];
  unsigned probe_head, probe_count;

  struct ckpt_sender ckpt;
  bool have_ckpt, done_sent;
  struct hash128 drop_id;
  uint64_t moved_ns; /* bootstrap: last step forward */

  uint64_t now_ns, born_ns, in_ns, out_ns, beat_ns, linger_ns;

  char lines[SHIP_LINES][256];
  int levels[SHIP_LINES];
  unsigned line_head, line_count;
  int close_code;
  char close_text[MSG_TEXT_BYTES + 1];
};

/* shipper.c */
void ship_log(struct shipper *, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Ends the connection. tell: a REFUSE with code and text goes out first. */
void ship_end(struct shipper *, int code, dw_lsn lsn, bool tell, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
void ship_end_detail(struct shipper *, int code); /* likewise, with this thread's detail message; told */
/* Of somebody who asks instead of following. who: "the candidate is". DW_STALE: we are of none yet; DW_DIVERGED. */
int ship_check_cluster(const struct shipper *, const struct hash128 *cluster_id, const char *who);
void ship_set_state(struct shipper *, dw_peer_state);
void ship_accept(struct shipper *);           /* tells the reader which frames the phase allows */
bool ship_push(struct shipper *, struct buf *); /* queues frames, takes the buffer; on no memory ends and says false */
uint64_t ship_timeout_ns(const struct shipper *);
/* Events may carry readings of the clock that were taken a little out of order: time never goes back here. */
static inline void ship_clock(struct shipper *s, uint64_t now_ns) {
  if (now_ns > s->now_ns) s->now_ns = now_ns;
}
static inline bool ship_open(const struct shipper *s) { return s->phase < SHIP_CLOSING; }

/* shipper_input.c */
void ship_read_frames(struct shipper *);

/* shipper_fetch.c */
void ship_on_fetch(struct shipper *, const struct frame *);

/* shipper_fence.c */
void ship_on_fence(struct shipper *, const struct frame *);

/* shipper_send.c */
void ship_tell_commit(struct shipper *);
void ship_tell_members(struct shipper *);
void ship_move_checkpoint(struct shipper *); /* FILE_END, DONE and the next chunk, as far as the output allows */

#endif
