/* See transport_uv.h. libuv's part of it in one file; the listener is a plain socket behind uv_poll, because an accept
 * that fails for want of descriptors must pause instead of spinning, and libuv's own listener can't.
 *
 * Memory: a connection has one uv_tcp_t per dialling attempt, freed in its close callback; the struct tp_conn itself
 * goes when it is closed and nothing of libuv refers to it any more (`holds`).
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "replication/address.h"
#include "replication/transport_uv.h"
#include "wal/base/status.h"

#define READ_BYTES 262144u
#define REST_BYTES 65536u /* of one asynchronous write: its end is the sign of progress that time-outs look at */
#define ACCEPT_PAUSE_MS 200u
#define ACCEPTS_PER_POLL 16
#define SEND_IOVECS 256

struct transport {
  uv_loop_t loop;
  uv_async_t wake;
  uv_prepare_t prepare;
  uv_check_t check;
  uv_timer_t timer, accept_timer;
  uv_idle_t again;
  uv_poll_t listener;
  int listen_fd; /* -1: none */
  bool listening, started, finished;
  pthread_t thread;
  atomic_bool woken; /* a wake-up is under way */
  struct transport_events ev;
  uint64_t armed_ns; /* what the timer is set to */
  char *read_buf;    /* READ_BYTES, shared: input is handed over before the next read */
};

struct tp_conn {
  struct transport *t;
  uv_tcp_t *tcp; /* NULL: closed, or between attempts */
  const struct conn_events *ev;
  void *owner;
  bool closed, reading, writing, dead; /* dead: eof was said */
  unsigned holds;                      /* libuv requests under way */
  size_t rest;                         /* bytes of the write under way */
  uv_write_t write;
  uv_connect_t connect;
  uv_getaddrinfo_t resolve;
  struct addrinfo *found, *next;
  char why[200];
};

struct job {
  uv_work_t req;
  void (*run)(void *);
  void (*done)(void *);
  void *arg;
};

static int fail_uv(int err, const char *what) {
  return dw_fail(err == UV_ENOMEM ? DW_NO_MEMORY : DW_IO, "%s: %s", what, uv_strerror(err));
}

/* ---- the loop ------------------------------------------------------------------------------ */

static void pump(struct transport *t) {
  if (!t->finished) t->ev.pump(t->ev.ctx);
}
static void on_wake(uv_async_t *h) {
  struct transport *t = h->data;
  atomic_store(&t->woken, false); /* the pump that follows in this round sees what the waker did before */
}
static void on_prepare(uv_prepare_t *h) {
  struct transport *t = h->data;
  uv_idle_stop(&t->again);
  pump(t);
}
static void on_check(uv_check_t *h) {
  pump(h->data);
}
static void on_again(uv_idle_t *h) {
  (void)h;
}
static void on_timer(uv_timer_t *h) {
  struct transport *t = h->data;
  t->armed_ns = UINT64_MAX; /* the pump before the poll does what is due */
}
static void on_accept_timer(uv_timer_t *h);

int transport_create(const struct transport_events *ev, struct transport **out) {
  struct transport *t = calloc(1, sizeof *t);
  if (!t) return dw_fail_nomem(sizeof *t);
  t->ev = *ev;
  t->listen_fd = -1;
  t->armed_ns = UINT64_MAX;
  t->read_buf = malloc(READ_BYTES);
  int err = t->read_buf ? uv_loop_init(&t->loop) : UV_ENOMEM;
  if (err) {
    free(t->read_buf);
    free(t);
    return fail_uv(err, "starting the network loop");
  }
  err = uv_async_init(&t->loop, &t->wake, on_wake);
  if (err) {
    uv_loop_close(&t->loop);
    free(t->read_buf);
    free(t);
    return fail_uv(err, "starting the network loop");
  }
  uv_prepare_init(&t->loop, &t->prepare);
  uv_check_init(&t->loop, &t->check);
  uv_timer_init(&t->loop, &t->timer);
  uv_timer_init(&t->loop, &t->accept_timer);
  uv_idle_init(&t->loop, &t->again);
  t->wake.data = t->prepare.data = t->check.data = t->timer.data = t->accept_timer.data = t->again.data = t;
  uv_prepare_start(&t->prepare, on_prepare);
  uv_check_start(&t->check, on_check);
  *out = t;
  return DW_OK;
}

/* An embedder's signals are for the embedder's threads; and libuv writes to sockets without MSG_NOSIGNAL, so SIGPIPE,
 * which goes to the writing thread, must not find it willing (nor may a library change what the process does with it).
 * Worker threads inherit this mask from here. */
static void block_signals(void) {
  sigset_t set;
  const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
  sigfillset(&set);
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&set, faults[i]);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void *loop_main(void *arg) {
  struct transport *t = arg;
  block_signals();
  uv_run(&t->loop, UV_RUN_DEFAULT);
  return NULL;
}

int transport_start(struct transport *t) {
  int err = pthread_create(&t->thread, NULL, loop_main, t);
  if (err) return dw_fail_errno(err, "starting the network thread");
  t->started = true;
  return DW_OK;
}

void transport_wake(struct transport *t) {
  if (!atomic_exchange(&t->woken, true)) uv_async_send(&t->wake);
}

void transport_pump_at(struct transport *t, uint64_t at_ns, uint64_t now_ns) {
  if (at_ns == t->armed_ns || t->finished) return;
  t->armed_ns = at_ns;
  if (at_ns == UINT64_MAX) {
    uv_timer_stop(&t->timer);
    return;
  }
  uv_update_time(&t->loop); /* now_ns is younger than the loop's own reading */
  uv_timer_start(&t->timer, on_timer, at_ns > now_ns ? (at_ns - now_ns + 999999) / 1000000 : 0, 0);
}

void transport_pump_again(struct transport *t) {
  if (!t->finished) uv_idle_start(&t->again, on_again);
}

void transport_finish(struct transport *t) {
  if (t->finished) return;
  t->finished = true;
  transport_stop_listening(t);
  uv_handle_t *handles[] = {(uv_handle_t *)&t->wake,  (uv_handle_t *)&t->prepare,      (uv_handle_t *)&t->check,
                            (uv_handle_t *)&t->timer, (uv_handle_t *)&t->accept_timer, (uv_handle_t *)&t->again};
  for (size_t i = 0; i < sizeof handles / sizeof *handles; i++) uv_close(handles[i], NULL);
}

void transport_destroy(struct transport *t) {
  if (!t) return;
  if (t->started) {
    pthread_join(t->thread, NULL);
  } else { /* never ran: close the handles here */
    transport_finish(t);
    uv_run(&t->loop, UV_RUN_DEFAULT);
  }
  if (t->listen_fd >= 0) close(t->listen_fd);
  uv_loop_close(&t->loop);
  free(t->read_buf);
  free(t);
}

/* ---- jobs ---------------------------------------------------------------------------------- */

static void job_run(uv_work_t *req) {
  struct job *j = req->data;
  j->run(j->arg);
}

static void job_done(uv_work_t *req, int status) {
  struct job *j = req->data;
  (void)status; /* never cancelled */
  j->done(j->arg);
  free(j);
}

int transport_work(struct transport *t, void (*run)(void *), void (*done)(void *), void *arg) {
  struct job *j = malloc(sizeof *j);
  if (!j) return dw_fail_nomem(sizeof *j);
  *j = (struct job){.run = run, .done = done, .arg = arg};
  j->req.data = j;
  int err = uv_queue_work(&t->loop, &j->req, job_run, job_done);
  if (err) {
    free(j);
    return fail_uv(err, "queueing work");
  }
  return DW_OK;
}

/* ---- listening ----------------------------------------------------------------------------- */

static int bind_one(const struct addrinfo *ai, int *out) {
  int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);
  if (fd < 0) return errno;
  int one = 1, off = 0;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (ai->ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, 128) == 0) {
    *out = fd;
    return 0;
  }
  int err = errno;
  close(fd);
  return err;
}

static uint16_t bound_port(int fd) {
  struct sockaddr_storage ss;
  socklen_t n = sizeof ss;
  if (getsockname(fd, (struct sockaddr *)&ss, &n)) return 0;
  if (ss.ss_family == AF_INET6) return ntohs(((struct sockaddr_in6 *)&ss)->sin6_port);
  return ntohs(((struct sockaddr_in *)&ss)->sin_port);
}

static void on_listener(uv_poll_t *h, int status, int events);

int transport_listen(struct transport *t, const char *address, uint16_t *port) {
  struct address a;
  int rc = address_parse(address, &a);
  if (rc) return rc;
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
  int err = getaddrinfo(a.host[0] ? a.host : NULL, a.port, &hints, &found);
  if (err) return dw_fail(DW_IO, "can't listen on %s: %s", address, gai_strerror(err));
  int fd = -1, last = EADDRNOTAVAIL;
  /* The wildcard: IPv6 first, its socket takes IPv4 too. */
  for (int pass = a.host[0] ? 1 : 0; fd < 0 && pass < 2; pass++)
    for (struct addrinfo *ai = found; fd < 0 && ai; ai = ai->ai_next)
      if (pass == 1 || ai->ai_family == AF_INET6) last = bind_one(ai, &fd);
  freeaddrinfo(found);
  if (fd < 0) return dw_fail(DW_IO, "can't listen on %s: %s", address, strerror(last));
  err = uv_poll_init(&t->loop, &t->listener, fd);
  if (err) {
    close(fd);
    return fail_uv(err, address);
  }
  t->listen_fd = fd;
  t->listening = true;
  t->listener.data = t;
  uv_poll_start(&t->listener, UV_READABLE, on_listener);
  *port = bound_port(fd);
  return DW_OK;
}

static void peer_name(const struct sockaddr_storage *ss, socklen_t n, char *out, size_t cap) {
  char host[64], port[8];
  if (getnameinfo((const struct sockaddr *)ss, n, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV)) {
    snprintf(out, cap, "?");
    return;
  }
  const char *v4 = strncmp(host, "::ffff:", 7) == 0 ? host + 7 : NULL;
  if (v4)
    snprintf(out, cap, "%s:%s", v4, port);
  else
    snprintf(out, cap, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

static int conn_open(struct transport *t, struct tp_conn **out) {
  struct tp_conn *c = calloc(1, sizeof *c);
  if (!c) return UV_ENOMEM;
  c->t = t;
  c->write.data = c->connect.data = c->resolve.data = c;
  *out = c;
  return 0;
}

static int conn_socket(struct tp_conn *c) {
  uv_tcp_t *tcp = malloc(sizeof *tcp);
  if (!tcp) return UV_ENOMEM;
  int err = uv_tcp_init(&c->t->loop, tcp);
  if (err) {
    free(tcp);
    return err;
  }
  tcp->data = c;
  c->tcp = tcp;
  return 0;
}

static void conn_tune(struct tp_conn *c) {
  uv_tcp_nodelay(c->tcp, 1);
  uv_tcp_keepalive(c->tcp, 1, 30);
}

static void pause_accepting(struct transport *t, const char *why) {
  uv_poll_stop(&t->listener);
  uv_timer_start(&t->accept_timer, on_accept_timer, ACCEPT_PAUSE_MS, 0);
  t->ev.accept_failed(t->ev.ctx, why);
}

static void on_accept_timer(uv_timer_t *h) {
  struct transport *t = h->data;
  if (t->listening) uv_poll_start(&t->listener, UV_READABLE, on_listener);
}

static int take_over(struct transport *t, int fd, struct tp_conn **out) {
  struct tp_conn *c;
  int err = conn_open(t, &c);
  if (err) return err;
  err = conn_socket(c);
  if (err) {
    free(c);
    return err;
  }
  err = uv_tcp_open(c->tcp, fd);
  if (err) {
    conn_close(c);
    return err;
  }
  conn_tune(c);
  *out = c;
  return 0;
}

static void on_listener(uv_poll_t *h, int status, int events) {
  struct transport *t = h->data;
  (void)status, (void)events;
  for (int i = 0; i < ACCEPTS_PER_POLL && t->listening; i++) {
    struct sockaddr_storage ss;
    socklen_t n = sizeof ss;
    int fd = accept4(t->listen_fd, (struct sockaddr *)&ss, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) return;
      if (errno == EINTR || errno == ECONNABORTED) continue;
      pause_accepting(t, strerror(errno));
      return;
    }
    struct tp_conn *c;
    int err = take_over(t, fd, &c);
    if (err) {
      close(fd);
      pause_accepting(t, uv_strerror(err));
      return;
    }
    char name[80];
    peer_name(&ss, n, name, sizeof name);
    t->ev.accepted(t->ev.ctx, c, name);
  }
}

static void on_listener_closed(uv_handle_t *h) {
  struct transport *t = h->data;
  close(t->listen_fd);
  t->listen_fd = -1;
}

void transport_stop_listening(struct transport *t) {
  if (!t->listening) return;
  t->listening = false;
  uv_timer_stop(&t->accept_timer);
  uv_poll_stop(&t->listener);
  uv_close((uv_handle_t *)&t->listener, on_listener_closed);
}

/* ---- connections --------------------------------------------------------------------------- */

static void conn_release(struct tp_conn *c) {
  if (!c->closed || c->holds) return;
  if (c->found) uv_freeaddrinfo(c->found);
  free(c);
}

static void on_tcp_closed(uv_handle_t *h) {
  struct tp_conn *c = h->data;
  free(h);
  c->holds--;
  conn_release(c);
}

static void drop_socket(struct tp_conn *c) {
  if (!c->tcp) return;
  c->holds++;
  uv_close((uv_handle_t *)c->tcp, on_tcp_closed);
  c->tcp = NULL;
}

void conn_close(struct tp_conn *c) {
  if (!c || c->closed) return;
  c->closed = true;
  drop_socket(c);
  uv_cancel((uv_req_t *)&c->resolve); /* fails if it is not under way */
  conn_release(c);
}

static void say_eof(struct tp_conn *c, const char *why) {
  if (c->closed || c->dead) return;
  c->dead = true;
  conn_read(c, false);
  c->ev->eof(c->owner, why);
}

void conn_attach(struct tp_conn *c, const struct conn_events *ev, void *owner) {
  c->ev = ev;
  c->owner = owner;
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *buf) {
  struct tp_conn *c = h->data;
  (void)hint;
  *buf = uv_buf_init(c->t->read_buf, READ_BYTES);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf) {
  struct tp_conn *c = s->data;
  if (c->closed || n == 0) return;
  if (n < 0)
    say_eof(c, n == UV_EOF ? "closed the connection" : uv_strerror((int)n));
  else
    c->ev->input(c->owner, buf->base, (size_t)n);
}

void conn_read(struct tp_conn *c, bool on) {
  if (!c->tcp || on == c->reading) return;
  if (on && (c->dead || c->closed)) return;
  c->reading = on;
  if (on)
    uv_read_start((uv_stream_t *)c->tcp, on_alloc, on_read);
  else
    uv_read_stop((uv_stream_t *)c->tcp);
}

static void on_written(uv_write_t *req, int status) {
  struct tp_conn *c = req->data;
  c->writing = false;
  c->holds--;
  if (c->closed) {
    conn_release(c);
  } else if (status) {
    say_eof(c, uv_strerror(status));
  } else {
    c->ev->drained(c->owner, c->rest);
  }
}

/* The bytes behind the first `done` of iov, at most REST_BYTES. */
static int start_rest(struct tp_conn *c, const struct iovec *iov, int n, size_t done) {
  uv_buf_t bufs[SEND_IOVECS];
  unsigned count = 0;
  c->rest = 0;
  for (int i = 0; i < n && c->rest < REST_BYTES && count < SEND_IOVECS; i++) {
    if (done >= iov[i].iov_len) {
      done -= iov[i].iov_len;
      continue;
    }
    size_t len = iov[i].iov_len - done;
    if (len > REST_BYTES - c->rest) len = REST_BYTES - c->rest;
    bufs[count++] = uv_buf_init((char *)iov[i].iov_base + done, (unsigned)len);
    c->rest += len;
    done = 0;
  }
  int err = count ? uv_write(&c->write, (uv_stream_t *)c->tcp, bufs, count, on_written) : 0;
  if (err || !count) return err;
  c->writing = true;
  c->holds++;
  return 0;
}

ssize_t conn_send(struct tp_conn *c, const struct iovec *iov, int n, const char **why) {
  if (c->writing || !c->tcp || c->dead || n <= 0) return 0;
  if (n > SEND_IOVECS) n = SEND_IOVECS;
  uv_buf_t bufs[SEND_IOVECS];
  size_t total = 0, budget = 64u << 20; /* an iovec's length is an unsigned int to libuv: whole blocks fit */
  for (int i = 0; i < n; i++) {
    size_t len = iov[i].iov_len < budget ? iov[i].iov_len : budget;
    bufs[i] = uv_buf_init(iov[i].iov_base, (unsigned)len);
    total += iov[i].iov_len;
    budget -= len;
    if (len < iov[i].iov_len) {
      n = i + 1;
      break;
    }
  }
  int did = uv_try_write((uv_stream_t *)c->tcp, bufs, (unsigned)n);
  if (did < 0 && did != UV_EAGAIN) {
    *why = uv_strerror(did);
    return -1;
  }
  size_t done = did < 0 ? 0 : (size_t)did;
  if (done == total) return did;
  int err = start_rest(c, iov, n, done);
  if (err) {
    *why = uv_strerror(err);
    return -1;
  }
  return (ssize_t)done;
}

bool conn_writing(const struct tp_conn *c) {
  return c->writing;
}

/* ---- dialling ------------------------------------------------------------------------------ */

static void dial_next(struct tp_conn *c);

static void dial_failed(struct tp_conn *c, int err) {
  snprintf(c->why, sizeof c->why, "%s", uv_strerror(err));
  drop_socket(c);
  dial_next(c);
}

static void on_connect(uv_connect_t *req, int status) {
  struct tp_conn *c = req->data;
  c->holds--;
  if (c->closed) {
    conn_release(c);
  } else if (status) {
    dial_failed(c, status);
  } else {
    conn_tune(c);
    c->ev->connected(c->owner, NULL);
  }
}

static void dial_next(struct tp_conn *c) {
  struct addrinfo *ai = c->next;
  if (!ai) {
    c->dead = true;
    c->holds++; /* the owner closes it while it reads why */
    c->ev->connected(c->owner, c->why);
    c->holds--;
    conn_release(c);
    return;
  }
  c->next = ai->ai_next;
  int err = conn_socket(c);
  if (!err) err = uv_tcp_connect(&c->connect, c->tcp, ai->ai_addr, on_connect);
  if (err)
    dial_failed(c, err);
  else
    c->holds++;
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *found) {
  struct tp_conn *c = req->data;
  c->holds--;
  c->found = c->next = status ? NULL : found;
  if (c->closed) {
    conn_release(c);
    return;
  }
  snprintf(c->why, sizeof c->why, "%s", status ? uv_strerror(status) : "no address");
  dial_next(c);
}

struct tp_conn *transport_connect(struct transport *t, const char *address, const struct conn_events *ev, void *owner) {
  struct address a;
  struct tp_conn *c;
  if (address_parse(address, &a) || conn_open(t, &c)) return NULL;
  conn_attach(c, ev, owner);
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  if (uv_getaddrinfo(&t->loop, &c->resolve, on_resolved, a.host[0] ? a.host : "localhost", a.port, &hints)) {
    free(c);
    return NULL;
  }
  c->holds++;
  return c;
}
