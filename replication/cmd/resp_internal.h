/* The inside of the RESP server, shared by resp_*.c.
 *
 *   resp_server.c    start and stop, listener, loop thread, metrics
 *   resp_conn.c      connections: input, commands in turn, output
 *   resp_write.c     writes in flight, and who waits for whose keys
 *   resp_work.c      threads for what may block
 *   resp_dispatch.c  the command table, checks that all commands share
 *   resp_read.c      GET MGET EXISTS ...   resp_string.c  SET MSET DEL ...   resp_txn.c   MULTI EXEC
 *   resp_scan.c      SCAN DBSIZE           resp_dw.c      DW.*, WAIT         resp_info.c  INFO ROLE
 *   resp_role.c      who may write, and who instead
 *   resp_sentinel.c  SENTINEL              resp_pubsub.c  SUBSCRIBE ...
 *   resp_session.c   PING HELLO CLIENT COMMAND CONFIG ...
 *
 * Everything but commit callbacks (resp_write.c) and work items (resp_work.c) runs in the loop thread, so nothing else here is
 * locked.
 *
 * ORDER. A connection's replies leave in the order of its commands. Writes are sent to the engine without waiting for each
 * other; each stands in the connection's queue until it is answered, and only the head of the queue may speak: an early failure
 * never overtakes an earlier write that still waits for followers. Commands that are no writes wait until the queue is empty
 * (BLOCK_WRITES), so a pipelined GET sees the SETs before it.
 *
 * KEYS. A command that looks before it writes (DEL's count, SET NX, EXEC) runs only while no write of its keys is in flight,
 * so that look and write are one step to all clients of this server. Keys are counted by hash slot (KEY_SLOTS): a
 * collision costs a wait, never a wrong answer. Whoever waits marks its slots as wanted, and nobody that comes later starts
 * a write there, so nobody starves.
 */
#ifndef DW_RESP_INTERNAL_H
#define DW_RESP_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <strings.h>
#include <uv.h>

#include "replication/cmd/resp_codec.h"
#include "replication/cmd/resp_server.h"

#define CONN_INFLIGHT_MAX 1024u    /* writes and replies behind them, of one connection */
#define SERVER_INFLIGHT_MAX 16384u /* writes of all: below the engine's own limit, so that the loop never blocks in it */
#define SERVER_INFLIGHT_BYTES (32u << 20) /* likewise, unless it is one write alone */
#define IN_CHUNK 65536u
#define OUT_SOFT (1u << 20)        /* unsent reply bytes: no more commands are run */
#define OUT_HARD (256u << 20)      /* a reply that would let more pile up is refused */
#define KEY_SLOTS 65536u
#define CLUSTER_NAME_BYTES 64u
#define COMMANDS_MAX 64u
#define WORK_THREADS 16u

/* What a connection's next command waits for. */
enum block {
  BLOCK_NONE,
  BLOCK_WRITES, /* the connection's queue to become empty */
  BLOCK_KEYS,   /* others' writes of its keys */
  BLOCK_ROOM,   /* fewer writes in flight */
  BLOCK_WORK,   /* a work item */
  BLOCK_WAIT,   /* WAIT: followers */
  BLOCK_READ    /* the consistency that DW.READ ... WAIT asked for */
};

struct pending_write;
struct work;

struct conn {
  struct resp_server *s;
  uv_tcp_t tcp;
  struct conn *prev, *next;
  uint64_t id, since_ns;
  unsigned refs; /* its handle, each queue entry, a work item, a socket write */
  bool closing, quit, eof, reading;
  bool stalled; /* commands wait until replies have been sent */
  bool was_master; /* this node could be written to when the connection was made */
  bool leave;      /* closed when all that has come is answered: the client is to look for the primary anew */
  char peer[DW_ADDRESS_BYTES], name[64];

  /* input */
  struct buf in;
  size_t in_used; /* bytes of `in` that are dealt with */
  struct resp_parser parser;
  bool parsed;         /* the parser holds a command that has not run yet... */
  size_t parsed_bytes; /* ... and it has this many bytes */
  const char *parse_error; /* the input ends in this, once its turn comes */

  /* output */
  struct buf out;     /* replies not yet given to the socket */
  size_t out_sending; /* bytes given to it */
  bool dirty;
  struct conn *dirty_next;

  /* queue of writes, and of replies that must not overtake them */
  struct pending_write *queue_head, **queue_tail;
  unsigned inflight; /* entries */
  size_t queue_bytes; /* of replies in it */

  enum block block;
  struct conn *wait_prev, *wait_next; /* BLOCK_KEYS, BLOCK_ROOM: in order of arrival */
  uint32_t *wants;                    /* slots that it marked */
  size_t want_count;
  struct conn *poll_prev, *poll_next; /* BLOCK_WAIT, BLOCK_READ: looked at by the timer */
  uint64_t deadline_ns;               /* of these; UINT64_MAX: none, 0: not set */
  uint32_t wait_replicas;
  struct work *work; /* BLOCK_WORK */
  bool strong_done;  /* DW.READ STRONG: the primary's commit_lsn has been reached for the command at hand... */
  int strong_rc;     /* ... or not, and why */
  char strong_error[200];

  dw_read_options read;
  dw_write_options write;
  dw_lsn last_lsn;

  struct subscription *subs; /* resp_pubsub.c */
  size_t sub_count;

  bool multi, multi_bad;
  struct buf multi_bytes; /* queued commands: argc:u32 (n:u32 bytes)* */
  uint32_t multi_count;
};

/* One entry of a connection's queue: a write in flight, or a reply that must not overtake those before it. */
struct pending_write {
  struct pending_write *next;      /* in the queue */
  struct pending_write *done_next; /* on the stack of completions */
  struct conn *c;
  bool done;
  int rc;
  dw_lsn lsn;
  char *error;         /* with rc; NULL: no memory for it */
  struct buf reply;    /* sent on DW_OK; empty: +OK */
  uint32_t one_slot;   /* key_slots points here for one key */
  uint32_t *key_slots; /* counted in server.key_inflight */
  size_t key_count;
  size_t bytes;
};

#define SCAN_CURSORS 4096u
struct scan_cursor {
  uint64_t id;
  struct buf key; /* where to go on */
};

struct conn_list {
  struct conn *head, *tail;
};

struct resp_server {
  dw_engine *e;
  struct resp_options opt;
  atomic_uint restrict_acks; /* resp_server_restrict */
  char cluster_name[CLUSTER_NAME_BYTES];
  dw_status *view; /* resp_role.c */
  uint64_t view_ns;
  unsigned subscribers; /* connections with subscriptions */
  char watched[DW_ADDRESS_BYTES]; /* the primary that they know of; "": none yet */
  uv_timer_t watch;
  uv_loop_t loop;
  uv_tcp_t listener;
  uv_async_t wake;
  uv_timer_t timer; /* runs only while somebody is in `polling` */
  uv_prepare_t prepare;
  uv_check_t check;
  pthread_t thread;
  bool stopping;
  atomic_bool stop;
  uint16_t port;
  char run_id[41];
  uint64_t started_ns;

  struct conn *conns;
  uint64_t next_id;
  uint32_t conn_count;
  struct conn *dirty;
  struct conn_list waiting, polling;
  unsigned waiting_count, room_waiters, polling_count;
  struct buf spare_in; /* an idle connection has no input buffer; this one goes round */
  dw_batch *batch;     /* for one write at a time; likewise */

  unsigned inflight; /* writes at the engine */
  size_t inflight_bytes;
  bool look_again; /* a wanted slot lost a write */
  uint32_t key_inflight[KEY_SLOTS], key_wanted[KEY_SLOTS];
  _Atomic(struct pending_write *) done; /* stack of completions, pushed by engine threads */
  atomic_uint in_callback;              /* engine threads that may still touch this server */

  struct work_pool *pool;

  struct scan_cursor cursors[SCAN_CURSORS];
  uint64_t next_cursor;

  atomic_uint_fast64_t m_conns, m_conns_total, m_rejected, m_errors, m_reads, m_writes, m_stale, m_indoubt, m_unknown;
  atomic_uint_fast64_t m_calls[COMMANDS_MAX]; /* as resp_commands */
};

/* A command as handlers see it. */
struct cmd {
  size_t argc;
  const uint8_t **argv;
  size_t *argl;
};
static inline bool cmd_is(const struct cmd *c, size_t i, const char *word) {
  return c->argl[i] == strlen(word) && strncasecmp((const char *)c->argv[i], word, c->argl[i]) == 0;
}
bool cmd_int(const struct cmd *, size_t i, long long *v); /* whole argument, decimal */

/* What a handler did. */
enum handled {
  HANDLED,     /* replied into c->out, or an answer is on its way */
  HANDLE_LATER /* nothing was done: c->block says what it waits for; the command runs again */
};
typedef enum handled (*cmd_fn)(struct conn *, const struct cmd *);

enum cmd_flags {
  CMD_WRITE = 1,     /* -READONLY on a follower */
  CMD_PIPELINE = 2,  /* may run while the connection's queue is not empty */
  CMD_NO_MULTI = 4,  /* runs at once even inside MULTI */
  CMD_BAD_MULTI = 8, /* not allowed inside MULTI */
  CMD_READ = 16,     /* meets the connection's consistency first */
  CMD_PUBSUB = 32    /* allowed to a connection with subscriptions */
};
struct cmd_spec {
  const char *name;
  size_t name_n;
  int arity; /* as Redis: negative means at least */
  unsigned flags;
  cmd_fn fn;
  int first_key, last_key, key_step; /* for COMMAND, EXEC */
};
extern const struct cmd_spec resp_commands[];
extern const size_t resp_command_count;
const struct cmd_spec *resp_find(const uint8_t *name, size_t n);

static inline void count_up(atomic_uint_fast64_t *m) { atomic_fetch_add_explicit(m, 1, memory_order_relaxed); }

/* ---- resp_dispatch.c --------------------------------------------------------------------------- */

/* Runs one parsed command. */
enum handled resp_dispatch(struct conn *, const struct cmd *);
/* An engine error as a reply. */
void reply_rc(struct conn *, struct buf *out, int rc, dw_lsn lsn, const char *message);
void conn_error(struct conn *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The options of a read that happens now: no waiting in the loop; STRONG has been met by then. */
dw_read_options read_now(const struct conn *);
/* DW_STALE, and time is left to wait for it: true, and the handler returns HANDLE_LATER. */
bool read_later(struct conn *, int rc);

/* ---- resp_role.c ------------------------------------------------------------------------------- */

struct subscription;
dw_role server_role(const struct resp_server *);
/* The node's status, a little old unless `fresh`; valid until the next call. */
const dw_status *server_view(struct resp_server *, bool fresh);
bool view_is_master(const dw_status *); /* as Redis has it: may be written to */
/* The address as this client reaches it: a host that is none is ours. "" stays. */
void conn_reach(struct conn *, const char *address, char out[DW_ADDRESS_BYTES]);
bool address_split(const char *address, char host[DW_ADDRESS_BYTES], int *port); /* false: no address */
int reply_read_only(struct conn *, struct buf *out);
int reply_fenced(struct conn *, struct buf *out, dw_lsn lsn);

/* ---- resp_pubsub.c ----------------------------------------------------------------------------- */

void pubsub_leave(struct conn *); /* RESET, or the connection is gone */

/* ---- resp_session.c ---------------------------------------------------------------------------- */

struct subcommand {
  const char *name;
  int arity; /* both words included; negative: at least */
  cmd_fn fn;
};
enum handled run_subcommand(struct conn *, const struct cmd *, const char *parent, const struct subcommand *, size_t n);

/* ---- resp_conn.c ------------------------------------------------------------------------------- */

void conn_accept(struct resp_server *, uv_stream_t *listener);
void conn_drop(struct conn *);
void conn_unref(struct conn *);
void conn_dirty(struct conn *);
void conn_resume(struct conn *); /* the block is gone: go on */
dw_read_options conn_default_read(const struct resp_server *); /* of a new connection */
void flush_dirty(struct resp_server *);
void flush_out(struct conn *);
void set_block(struct conn *, enum block);

/* ---- resp_write.c ------------------------------------------------------------------------------ */

/* May the command touch these keys (every step-th argument from first on, count of them)? exclusive: no write of them may be
 * in flight. False: c->block is BLOCK_KEYS. */
bool keys_free(struct conn *, const struct cmd *, size_t first, size_t step, size_t count, bool exclusive);
/* Sends the batch as one commit; `reply` (NULL or empty: +OK) is taken over and sent if it succeeds. Keys as above.
 * False with c->block set: no room, run the command again. */
bool write_start(struct conn *, const dw_batch *, struct buf *reply, const struct cmd *, size_t first, size_t step,
                 size_t count);
/* The server's one batch, empty. NULL: no memory. */
dw_batch *batch_take(struct resp_server *);
void batch_done(struct resp_server *);
/* A reply that waits for its turn behind the queue; taken over. */
void queue_reply(struct conn *, struct buf *reply);
void writes_completed(struct resp_server *); /* after a wake-up */
void stop_waiting(struct conn *);            /* its block is gone, or it is */
void queue_free(struct conn *);

/* ---- resp_work.c ------------------------------------------------------------------------------- */

/* Runs `run` in another thread, then `after` in the loop. */
struct work {
  struct work *next;
  struct conn *c;
  dw_engine *e;
  atomic_bool cancel; /* nobody wants the result: run should end soon */
  /* Worker thread; touches the engine and its own fields only. True: not finished, run me again after others. */
  bool (*run)(struct work *);
  void (*after)(struct work *); /* loop; the connection may be closing, then replies go nowhere. Frees the work */
};
int work_pool_start(struct resp_server *);
void work_pool_stop(struct resp_server *); /* nothing may be under way */
void work_start(struct conn *, struct work *);
void work_completed(struct resp_server *); /* after a wake-up */
bool work_busy(struct resp_server *);

/* ---- resp_server.c ----------------------------------------------------------------------------- */

uint64_t server_now_ns(void);
void server_log(const struct resp_server *, dw_log_level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void poll_begin(struct conn *, enum block); /* the timer looks at it from now on */
void poll_end(struct conn *);

void scan_cursors_free(struct resp_server *);
/* WAIT: answers if it can; true if answered. */
bool wait_check(struct conn *, const dw_status *, uint64_t now_ns);
void txn_leave(struct conn *); /* MULTI is over */

/* ---- handlers ---------------------------------------------------------------------------------- */
#define HANDLER(name) enum handled name(struct conn *, const struct cmd *)
HANDLER(cmd_get);
HANDLER(cmd_mget);
HANDLER(cmd_strlen);
HANDLER(cmd_exists);
HANDLER(cmd_type);
HANDLER(cmd_ttl);
HANDLER(cmd_set);
HANDLER(cmd_setnx);
HANDLER(cmd_mset);
HANDLER(cmd_del);
HANDLER(cmd_scan);
HANDLER(cmd_dbsize);
HANDLER(cmd_multi);
HANDLER(cmd_exec);
HANDLER(cmd_discard);
HANDLER(cmd_watch);
HANDLER(cmd_unwatch);
HANDLER(cmd_ping);
HANDLER(cmd_echo);
HANDLER(cmd_select);
HANDLER(cmd_quit);
HANDLER(cmd_reset);
HANDLER(cmd_hello);
HANDLER(cmd_auth);
HANDLER(cmd_client);
HANDLER(cmd_command);
HANDLER(cmd_config);
HANDLER(cmd_info);
HANDLER(cmd_role);
HANDLER(cmd_wait);
HANDLER(cmd_time);
HANDLER(cmd_dw_lsn);
HANDLER(cmd_dw_read);
HANDLER(cmd_dw_mode);
HANDLER(cmd_dw_status);
HANDLER(cmd_dw_checksum);
HANDLER(cmd_dw_wait);
HANDLER(cmd_dw_promote);
HANDLER(cmd_dw_follow);
HANDLER(cmd_sentinel);
HANDLER(cmd_subscribe);
HANDLER(cmd_psubscribe);
HANDLER(cmd_unsubscribe);
HANDLER(cmd_punsubscribe);
HANDLER(cmd_dw_rejoin);
HANDLER(cmd_dw_diverged);
#undef HANDLER

#endif
