/* One node's network thread: a libuv loop of its own, a listener, connections, one timer, wake-ups, worker jobs.
 *
 *   any thread --transport_wake--+                     +--> accepted / connected / input / drained / eof
 *                                v                     |
 *        +--> timer --> [ pump ] --> poll sockets -----+--> [ pump ] --+
 *        |                                                             |
 *        +-------------------------------------------------------------+
 *
 * The owner's callbacks run on the loop thread only. Socket events should do no more than hand bytes to a state
 * machine; the work happens in `pump`, which runs before and after each poll, so that everything that arrived at once
 * is handled at once (one sync, one answer). Nothing here knows what the bytes mean.
 *
 * A connection takes output by reference: what conn_send did not write at once it goes on writing by itself, and says
 * `drained`; the owner keeps those bytes in place until then or until conn_close (the kernel never writes from memory
 * behind our back, so after conn_close they may go).
 */
#ifndef DW_REPLICATION_TRANSPORT_UV_H
#define DW_REPLICATION_TRANSPORT_UV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct transport;
struct tp_conn;

struct transport_events {
  void *ctx;
  /* A peer connected. Call conn_attach, or conn_close, before returning. `peer`: "host:port", borrowed. */
  void (*accepted)(void *ctx, struct tp_conn *, const char *peer);
  void (*accept_failed)(void *ctx, const char *why); /* accepting pauses for a while */
  void (*pump)(void *ctx);                           /* before and after each poll */
};

/* What a connection tells its owner. None of them comes after conn_close. */
struct conn_events {
  void (*connected)(void *owner, const char *why); /* of transport_connect. why NULL: connected; else failed: close it */
  void (*input)(void *owner, const void *, size_t n);
  void (*drained)(void *owner, size_t n); /* n more bytes were taken by the kernel */
  void (*eof)(void *owner, const char *why); /* the peer closed, or the socket failed: close it */
};

/* ---- any thread ---------------------------------------------------------------------------- */

int transport_create(const struct transport_events *, struct transport **); /* DW_NO_MEMORY, DW_IO */
/* Binds and listens, before transport_start. *port: the bound one. DW_INVALID, DW_IO with the address in the message. */
int transport_listen(struct transport *, const char *address, uint16_t *port);
int transport_start(struct transport *); /* the thread runs */
void transport_wake(struct transport *); /* a pump comes soon; cheap if one is due anyway */
/* Waits for the thread to end, which it does after transport_finish; frees. Also for one that was never started. */
void transport_destroy(struct transport *);

/* ---- the loop thread ----------------------------------------------------------------------- */

/* A pump comes at `at_ns` (monotonic) at the latest; UINT64_MAX: no timer. Replaces what was set. */
void transport_pump_at(struct transport *, uint64_t at_ns, uint64_t now_ns);
/* A pump comes right after other ready sockets were served. */
void transport_pump_again(struct transport *);
void transport_stop_listening(struct transport *);
/* The owner is through: no connection and no job is left. The thread ends. */
void transport_finish(struct transport *);

/* Runs `run` on a worker thread, then `done` on the loop thread. DW_NO_MEMORY: neither will be called. */
int transport_work(struct transport *, void (*run)(void *arg), void (*done)(void *arg), void *arg);

/* Resolves and dials; connected() follows, never before this returns. NULL: no memory. */
struct tp_conn *transport_connect(struct transport *, const char *address, const struct conn_events *, void *owner);
void conn_attach(struct tp_conn *, const struct conn_events *, void *owner); /* an accepted one; reading is off */
void conn_read(struct tp_conn *, bool on);
/* Writes what the kernel takes now and returns how much (maybe 0: drained() follows when there is room again);
 * -1: the socket failed, *why says how. While an earlier rest is still being written it does nothing and returns 0. */
ssize_t conn_send(struct tp_conn *, const struct iovec *, int n, const char **why);
bool conn_writing(const struct tp_conn *); /* a rest is being written */
void conn_close(struct tp_conn *);         /* frees it in time; NULL is fine */

#endif
