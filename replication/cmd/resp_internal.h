/* The inside of the RESP server, shared by resp_*.c.
 *
 *   resp_server.c     start and stop, listener, who gets a new connection, metrics
 *   resp_loop.c       a loop: its thread, its timers, its end
 *   resp_clients.c    all connections: ids, --max-clients, CLIENT LIST
 *   resp_conn.c       connections: input, commands in turn, output
 *   resp_write.c      writes in flight
 *   resp_turnstile.c  writing commands one at a time, and who waits for whom
 *   resp_work.c       threads for what may block
 *   resp_dispatch.c   the command table, checks that all commands share
 *   resp_read.c       GET MGET EXISTS ...   resp_string.c  SET MSET DEL ...   resp_txn.c   MULTI EXEC
 *   resp_scan.c       SCAN DBSIZE           resp_dw.c      DW.*, WAIT         resp_info.c  INFO ROLE
 *   resp_role.c       who may write, and who instead
 *   resp_sentinel.c   SENTINEL              resp_pubsub.c  SUBSCRIBE ...
 *   resp_session.c    PING HELLO CLIENT COMMAND CONFIG ...
 *
 * THREADS. A server has a few loops (--resp-threads), each with a thread. A connection belongs to one of them for its
 * life: all that is done for it is done there, so nothing of a connection or a loop is locked. What loops share says with
 * what: turnstile.mu, clients.mu, cursors.mu, the work pool's. Who has the turnstile's may take another one, the engine's
 * included; never the other way round. Commit callbacks (resp_write.c) and work items (resp_work.c) run elsewhere and
 * hand over to the connection's loop.
 *
 * ORDER. A connection's replies leave in the order of its commands. Writes are sent to the engine without waiting for each
 * other; each stands in the connection's queue until it is answered, and only the head of the queue may speak: an early failure
 * never overtakes an earlier write that still waits for followers. Commands that are no writes wait until the queue is empty
 * (BLOCK_WRITES), so a pipelined GET sees the SETs before it.
 *
 * KEYS. Commands that write run one at a time (inside the turnstile), whichever loop they come from. One that looks
 * before it writes (DEL's count, SET NX, EXEC) runs only while no write of its keys is in flight, so that look and write
 * are one step to all clients of this server. Keys are counted by hash slot (KEY_SLOTS): a collision costs a wait, never
 * a wrong answer. Whoever waits marks its slots as wanted, and nobody that comes later starts a write there, so nobody
 * starves.
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
struct resp_loop;
struct work;

struct conn {
  struct resp_server *s;
  struct resp_loop *l;
  uv_tcp_t tcp;
  struct conn *prev, *next; /* in the loop */
  uint64_t id, since_ns;
  unsigned refs; /* its handle, each queue entry, a work item, a socket write */
  bool closing, quit, eof, reading;
  bool stalled; /* commands wait until replies have been sent */
  bool was_master; /* this node could be written to when the connection was made */
  bool leave;      /* closed when all that has come is answered: the client is to look for the primary anew */
  char peer[DW_ADDRESS_BYTES];

  /* as others see it: resp_clients.c */
  struct conn *all_prev, *all_next; /* clients.mu */
  bool listed;
  char name[64]; /* written with clients.mu; its own loop reads it without */
  struct {
    atomic_size_t input, output, multi_bytes;
    atomic_int multi; /* commands queued, -1: no MULTI */
  } shown;

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

  /* resp_turnstile.c: turnstile.mu, but its own loop reads in_line without */
  bool in_line;
  bool may_go; /* it is its turn */
  bool called; /* its loop has yet to answer that */
  struct conn *line_prev, *line_next, *called_next;
  uint32_t *wants; /* BLOCK_KEYS: slots that it marks... */
  size_t want_count;
  bool wants_alone;
  bool wants_room; /* BLOCK_ROOM: for... */
  size_t wants_bytes;

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
  uint32_t *key_slots; /* counted in turnstile.key_inflight */
  size_t key_count;
  size_t bytes;
};

#define SCAN_CURSORS 4096u
struct scan_cursor {
  uint64_t id;
  struct buf key; /* where to go on */
};
struct scan_cursors {
  pthread_mutex_t mu; /* a client may go on with a scan over another connection */
  struct scan_cursor at[SCAN_CURSORS];
  uint64_t next;
};

struct conn_list {
  struct conn *head, *tail;
};

/* All of it under mu. */
struct turnstile {
  pthread_mutex_t mu;
  unsigned inflight; /* writes at the engine */
  size_t inflight_bytes;
  uint32_t key_inflight[KEY_SLOTS], key_wanted[KEY_SLOTS];
  struct conn_list line;
  unsigned room_waiters;
  bool look_again; /* something has moved that somebody in the line waits for */
};

struct clients {
  pthread_mutex_t mu; /* guards all below */
  struct conn *head;
  uint64_t next_id;
  uint32_t count;
  uint64_t total, rejected; /* ever */
};

/* One writer, its loop; anybody reads. */
struct loop_counts {
  atomic_uint_fast64_t errors, reads, writes, stale, indoubt, unknown;
  atomic_uint_fast64_t calls[COMMANDS_MAX]; /* as resp_commands */
};

struct work_list {
  struct work *head, **tail;
  unsigned count;
};

struct resp_loop {
  struct resp_server *s;
  uv_loop_t uv;
  uv_async_t wake;
  uv_timer_t timer; /* runs only while somebody is in `polling` */
  uv_timer_t watch;
  uv_prepare_t prepare;
  uv_check_t check;
  pthread_t thread;
  bool running;  /* it has a thread; the server's */
  bool stopping; /* here and below the loop thread's, unless something else is said */

  struct conn *conns;
  struct conn *dirty;
  struct conn_list polling;
  unsigned polling_count;
  struct buf spare_in; /* an idle connection has no input buffer; this one goes round */
  dw_batch *batch;     /* for one write at a time; likewise */
  bool in_turnstile;   /* this loop has turnstile.mu */
  struct conn *called; /* turnstile.mu: those whose turn it is, newest first */
  atomic_bool any_called; /* there are */

  unsigned inflight;                    /* writes at the engine */
  _Atomic(struct pending_write *) done; /* stack of completions, pushed by engine threads */
  atomic_uint in_callback;              /* engine threads that may still touch this loop */

  struct work_list done_work; /* the pool's mu */
  unsigned work_under_way;    /* started, `after` not yet called */

  dw_status *view; /* resp_role.c */
  uint64_t view_ns;
  unsigned subscribers;           /* connections with subscriptions */
  char watched[DW_ADDRESS_BYTES]; /* the primary that they know of; "": none yet */

  atomic_uint load; /* connections that it has or is to get */
  struct {          /* sockets on their way here */
    pthread_mutex_t mu; /* guards the others */
    int *fds;
    size_t count, cap;
    bool shut; /* the loop takes no more */
  } arrivals;

  struct loop_counts counts;
};

struct resp_server {
  dw_engine *e;
  struct resp_options opt;
  atomic_uint restrict_acks; /* resp_server_restrict */
  char cluster_name[CLUSTER_NAME_BYTES];
  atomic_bool stop;
  uint16_t port;
  char run_id[41];
  uint64_t started_ns;

  struct resp_loop *loops[RESP_MAX_THREADS];
  unsigned loop_count;
  uv_tcp_t listener; /* of the first loop */

  struct turnstile turnstile;
  struct clients clients;
  struct scan_cursors cursors;
  struct work_pool *pool;
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
  CMD_PUBSUB = 32,   /* allowed to a connection with subscriptions */
  CMD_TURNSTILE = 64 /* runs inside the turnstile: it may write */
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

/* A counter of the loop's own. */
static inline void count_more(atomic_uint_fast64_t *m, uint64_t n) {
  atomic_store_explicit(m, atomic_load_explicit(m, memory_order_relaxed) + n, memory_order_relaxed);
}
static inline void count_up(atomic_uint_fast64_t *m) { count_more(m, 1); }

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
/* The node's status, a little old unless `fresh`; valid until the loop's next call. */
const dw_status *loop_view(struct resp_loop *, bool fresh);
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

/* ---- resp_clients.c ---------------------------------------------------------------------------- */

/* Gives it its id. False: there are too many, it is to be turned away. */
bool clients_add(struct conn *);
void clients_remove(struct conn *);
uint32_t clients_count(struct resp_server *);
void clients_name(struct conn *, const void *name, size_t n);
void clients_show(struct conn *); /* its own loop: what others see of it is brought up to date */
int client_line(const struct conn *, char *line, size_t cap);
int clients_lines(struct resp_server *, struct buf *); /* CLIENT LIST */

/* ---- resp_conn.c ------------------------------------------------------------------------------- */

void conn_accept(struct resp_loop *, uv_stream_t *listener); /* of this loop */
void conn_adopt(struct resp_loop *, int fd);                 /* takes the socket over */
void conn_drop(struct conn *);
void conn_unref(struct conn *);
void conn_dirty(struct conn *);
void conn_resume(struct conn *); /* the block is gone: go on */
dw_read_options conn_default_read(const struct resp_server *); /* of a new connection */
void flush_dirty(struct resp_loop *);
void flush_out(struct conn *);
void set_block(struct conn *, enum block);

/* ---- resp_turnstile.c -------------------------------------------------------------------------- */

void turnstile_init(struct turnstile *);
void turnstile_enter(struct resp_loop *);
void turnstile_leave(struct resp_loop *);  /* calls those whose turn it is now */
void turnstile_forget(struct conn *);      /* it stands in no line any more; inside or outside */
void turnstile_answer(struct resp_loop *); /* after a wake-up: those called go on */
uint32_t turnstile_slot(const uint8_t *key, size_t n);

/* Inside: may the command touch these keys (every step-th argument from first on, count of them)? alone: no write of
 * them may be in flight. False: c->block is BLOCK_KEYS. */
bool keys_free(struct conn *, const struct cmd *, size_t first, size_t step, size_t count, bool alone);
/* Inside: is there room for a write of so many bytes? False: c->block is BLOCK_ROOM. */
bool turnstile_room(struct conn *, size_t bytes);
void turnstile_begins(struct turnstile *, const struct pending_write *); /* inside */
void turnstile_ends(struct turnstile *, const struct pending_write *);   /* inside */

/* ---- resp_write.c ------------------------------------------------------------------------------ */

/* Inside the turnstile: sends the batch as one commit; `reply` (NULL or empty: +OK) is taken over and sent if it succeeds. Keys
 * as above. False with c->block set: no room, run the command again. */
bool write_start(struct conn *, const dw_batch *, struct buf *reply, const struct cmd *, size_t first, size_t step,
                 size_t count);
/* The loop's one batch, empty. NULL: no memory. */
dw_batch *batch_take(struct resp_loop *);
void batch_done(struct resp_loop *);
/* A reply that waits for its turn behind the queue; taken over. */
void queue_reply(struct conn *, struct buf *reply);
void writes_completed(struct resp_loop *); /* after a wake-up */

/* ---- resp_work.c ------------------------------------------------------------------------------- */

/* Runs `run` in another thread, then `after` in the loop. */
struct work {
  struct work *next;
  struct conn *c;
  struct resp_loop *l;
  dw_engine *e;
  atomic_bool cancel; /* nobody wants the result: run should end soon */
  /* Worker thread; touches the engine and its own fields only. True: not finished, run me again after others. */
  bool (*run)(struct work *);
  void (*after)(struct work *); /* loop; the connection may be closing, then replies go nowhere. Frees the work */
};
int work_pool_start(struct resp_server *);
void work_pool_stop(struct resp_server *); /* nothing may be under way */
void work_start(struct conn *, struct work *);
void work_completed(struct resp_loop *); /* after a wake-up */

/* ---- resp_loop.c ------------------------------------------------------------------------------- */

int loop_create(struct resp_server *, struct resp_loop **);
int loop_start(struct resp_loop *); /* its thread */
/* The server's stop is set and the loop woken: waits for it to end, or, if it has no thread, brings it to its end here. */
void loop_end(struct resp_loop *);
void loop_free(struct resp_loop *);               /* it has ended */
void loop_hand_over(struct resp_loop *, int fd);  /* any thread: a new connection's socket, the loop's from here on */
void poll_begin(struct conn *, enum block);       /* the timer looks at it from now on */
void poll_end(struct conn *);

/* ---- resp_server.c ----------------------------------------------------------------------------- */

uint64_t server_now_ns(void);
void server_log(const struct resp_server *, dw_log_level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

void scan_cursors_free(struct scan_cursors *);
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
