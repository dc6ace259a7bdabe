/* The inside of the RESP server, shared by resp_*.c.
 *
 *   resp_server.c    loop thread, listener, connections, completions of asynchronous writes
 *   resp_dispatch.c  the command table, checks that all commands share
 *   resp_string.c    GET SET MGET ...      resp_scan.c   SCAN DBSIZE KEYS
 *   resp_txn.c       MULTI EXEC            resp_info.c   INFO ROLE CONFIG CLIENT COMMAND HELLO
 *   resp_dw.c        DW.*, WAIT
 *
 * Everything but work items (uv_queue_work) and commit callbacks runs in the loop thread, so nothing here is locked but
 * the list of completions.
 *
 * Replies keep their order without slots: a connection goes on to its next command only if that can't overtake.
 * Plain writes (SET, MSET, EXEC, DEL) may be in flight together, because commits are answered in order; any other
 * command waits until the connection's writes have been answered (BLOCK_WRITES). A command that must look before it writes
 * (DEL's count, SET NX) waits while any connection of this server has a write of that key in flight (BLOCK_KEYS), so the
 * look and the write are one step towards the clients of this server.
 */
#ifndef DW_RESP_INTERNAL_H
#define DW_RESP_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#include "replication/cmd/resp_codec.h"
#include "replication/cmd/resp_server.h"

#define CONN_INFLIGHT_MAX 1024u   /* writes of one connection */
#define SERVER_INFLIGHT_MAX 16384u /* of all: below the engine's own limit, so that the loop never blocks in it */
#define SERVER_INFLIGHT_BYTES (32u << 20)
#define OUT_SOFT (1u << 20)   /* unsent reply bytes: no more commands are read */
#define OUT_HARD (256u << 20) /* a connection that lets this pile up (one huge reply) is dropped */
#define KEY_SLOTS 65536u

enum block { BLOCK_NONE, BLOCK_WRITES, BLOCK_KEYS, BLOCK_WORK, BLOCK_WAIT, BLOCK_ROOM };

struct conn {
  struct resp_server *s;
  uv_tcp_t tcp;
  struct conn *prev, *next;
  uint64_t id;
  unsigned refs; /* handle, writes in flight, work items */
  bool closing, quit, reading, dirty;
  char peer[DW_ADDRESS_BYTES], name[64];

  struct buf in;
  size_t in_used; /* bytes of `in` that are dealt with */
  struct resp_parser parser;
  struct buf out;      /* replies not yet given to the socket */
  size_t out_sending;  /* bytes given to it */
  enum block block;
  unsigned inflight;

  dw_read_options read;
  dw_write_options write;
  dw_lsn last_lsn;

  bool multi, multi_bad;
  struct buf multi_bytes; /* queued commands: argc:u32 (n:u32 bytes)* */
  uint32_t multi_count;

  /* WAIT */
  uint64_t wait_deadline_ns; /* UINT64_MAX: none */
  uint32_t wait_replicas;
};

/* One write in flight. */
struct pending_write {
  struct pending_write *next;
  struct conn *c;
  int rc;
  dw_lsn lsn;
  char error[200];
  struct buf reply;  /* sent on DW_OK */
  uint32_t *key_slots; /* counted in server.key_inflight */
  size_t key_count;
  size_t bytes;
};

#define SCAN_CURSORS 4096u
struct scan_cursor {
  uint64_t id;
  struct buf key; /* where to go on */
};

struct resp_server {
  dw_engine *e;
  struct resp_options opt;
  dw_role role;
  uv_loop_t loop;
  uv_tcp_t listener;
  uv_async_t wake;
  uv_timer_t timer;
  uv_check_t check;
  pthread_t thread;
  bool running, stopping;
  atomic_bool stop;
  uint16_t port;
  char run_id[41];
  uint64_t started_ns;

  struct conn *conns;
  uint64_t next_id;
  uint32_t conn_count;
  unsigned inflight;
  size_t inflight_bytes;
  unsigned waiters; /* connections in BLOCK_KEYS or BLOCK_ROOM */
  uint16_t key_inflight[KEY_SLOTS];

  pthread_mutex_t mu; /* guards done_* only */
  struct pending_write *done_head, **done_tail;
  bool wake_sent;

  struct scan_cursor cursors[SCAN_CURSORS];
  uint64_t next_cursor;

  atomic_uint_fast64_t m_conns, m_conns_total, m_rejected, m_commands, m_errors, m_reads, m_writes, m_stale, m_indoubt;
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
  HANDLED,     /* replied into c->out, or an asynchronous reply is on its way */
  HANDLE_LATER /* nothing was done: c->block says what it waits for; the command is run again */
};
typedef enum handled (*cmd_fn)(struct conn *, const struct cmd *);

enum cmd_flags {
  CMD_WRITE = 1,    /* -READONLY on a follower */
  CMD_PIPELINE = 2, /* may run while writes of this connection are in flight */
  CMD_NO_MULTI = 4, /* runs at once even inside MULTI */
  CMD_IN_MULTI_BAD = 8 /* not allowed inside MULTI */
};
struct cmd_spec {
  const char *name;
  int arity; /* as Redis: negative means at least */
  unsigned flags;
  cmd_fn fn;
  int first_key, last_key, key_step; /* for COMMAND */
};
extern const struct cmd_spec resp_commands[];
extern const size_t resp_command_count;
const struct cmd_spec *resp_find(const uint8_t *name, size_t n);

/* resp_dispatch.c: runs one parsed command. */
enum handled resp_dispatch(struct conn *, const struct cmd *);
/* An engine error as a reply. */
void reply_rc(struct conn *, struct buf *out, int rc, dw_lsn lsn, const char *message);
void conn_error(struct conn *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* resp_server.c */
void conn_resume(struct conn *);  /* look again: the block may be gone */
void conn_drop(struct conn *);
uint64_t server_now_ns(void);
/* Is any of the keys being written by somebody? Then c->block = BLOCK_KEYS. */
bool keys_busy(struct conn *, const struct cmd *, size_t first, size_t step);
/* Sends the batch as one commit; `reply` is taken over and sent if it succeeds. Keys: every step-th argument from first on.
 * False with c->block set: no room, run the command again. */
bool write_start(struct conn *, const dw_batch *, struct buf *reply, const struct cmd *, size_t first, size_t step,
                 size_t count);
/* Runs `work` off the loop, then `after` in it (which must end the block). */
struct work {
  uv_work_t req;
  struct conn *c;
  void (*run)(struct work *);   /* worker thread: engine and its own fields only */
  void (*after)(struct work *); /* loop; the connection may be closing: writes to c->out are harmless. Frees the work */
  dw_engine *e;
};
void work_start(struct conn *, struct work *);

/* reads */
bool read_may_wait(const struct conn *); /* then reads go through a work item */
int read_key(struct conn *, const uint8_t *key, size_t n, dw_value *);

/* handlers */
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
#undef HANDLER

void scan_cursors_free(struct resp_server *);
/* WAIT: answers if it can; true if answered. */
bool wait_check(struct conn *, uint64_t now_ns);

#endif
