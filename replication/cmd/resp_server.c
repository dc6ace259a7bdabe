/* The RESP server's loop thread: start, stop, the listener, the timer. resp_internal.h has the rules.
 *
 * Ends in this order: the listener and all connections are closed; writes at the engine and work items come back (work
 * is told to hurry); the remaining handles are closed; the loop has nothing left and returns.
 */
#include "replication/cmd/resp_internal.h"

#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "replication/cmd/net.h"
#include "wal/base/env.h"
#include "wal/base/status.h"

uint64_t server_now_ns(void) {
  return env_posix()->ops->mono_ns(env_posix());
}

void server_log(const struct resp_server *s, dw_log_level level, const char *fmt, ...) {
  if (!s->opt.log) return;
  char line[400];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  s->opt.log(s->opt.log_arg, level, line);
}

/* ---- connections that the timer looks at ----------------------------------------------------------- */

#define POLL_FEW 64u /* with up to so many, every ms; with more, every 10 */

static void on_timer(uv_timer_t *t);

void poll_begin(struct conn *c, enum block b) {
  struct resp_server *s = c->s;
  set_block(c, b);
  c->poll_prev = s->polling.tail;
  c->poll_next = NULL;
  *(s->polling.tail ? &s->polling.tail->poll_next : &s->polling.head) = c;
  s->polling.tail = c;
  s->polling_count++;
  if (!uv_is_active((uv_handle_t *)&s->timer)) uv_timer_start(&s->timer, on_timer, 1, 0);
}

void poll_end(struct conn *c) {
  struct resp_server *s = c->s;
  *(c->poll_prev ? &c->poll_prev->poll_next : &s->polling.head) = c->poll_next;
  *(c->poll_next ? &c->poll_next->poll_prev : &s->polling.tail) = c->poll_prev;
  c->poll_prev = c->poll_next = NULL;
  s->polling_count--;
}

/* Each one that is there now, once: whoever waits on goes to the end. */
static void on_timer(uv_timer_t *t) {
  struct resp_server *s = t->data;
  uint64_t now = server_now_ns();
  dw_status *status = NULL;
  for (unsigned n = s->polling_count; n && s->polling.head; n--) {
    struct conn *c = s->polling.head;
    if (c->block == BLOCK_READ) {
      conn_resume(c);
      continue;
    }
    if (!status && (status = malloc(sizeof *status))) dw_status_get(s->e, status);
    if (!status || !wait_check(c, status, now)) {
      set_block(c, BLOCK_NONE);
      poll_begin(c, BLOCK_WAIT);
    } else {
      conn_resume(c);
    }
  }
  free(status);
  if (s->polling.head) uv_timer_start(&s->timer, on_timer, s->polling_count <= POLL_FEW ? 1 : 10, 0);
}

/* ---- the loop ------------------------------------------------------------------------------------ */

static void on_connection(uv_stream_t *listener, int status) {
  if (status == 0) conn_accept(listener->data, listener);
}

static void begin_stop(struct resp_server *s) {
  if (s->stopping) return;
  s->stopping = true;
  uv_close((uv_handle_t *)&s->listener, NULL);
  flush_dirty(s);
  for (struct conn *c = s->conns, *next; c; c = next) {
    next = c->next;
    conn_drop(c);
  }
}

static void close_rest(struct resp_server *s) {
  uv_close((uv_handle_t *)&s->wake, NULL);
  uv_close((uv_handle_t *)&s->timer, NULL);
  uv_close((uv_handle_t *)&s->watch, NULL);
  uv_close((uv_handle_t *)&s->prepare, NULL);
  uv_close((uv_handle_t *)&s->check, NULL);
}

static void on_wake(uv_async_t *a) {
  struct resp_server *s = a->data;
  writes_completed(s);
  work_completed(s);
  if (atomic_load(&s->stop)) begin_stop(s);
}

/* Before each poll, for what timers and libuv's late news of writes have left: a write that the kernel took whole after
 * all is reported before the loop polls, and what waited for it would else wait for the next event. */
static void on_prepare(uv_prepare_t *p) {
  flush_dirty(p->data);
}

/* After each poll: one write per connection that has something to say. */
static void on_check(uv_check_t *k) {
  struct resp_server *s = k->data;
  flush_dirty(s);
  if (!s->stopping || s->conns || s->inflight || work_busy(s) || uv_is_closing((uv_handle_t *)&s->wake)) return;
  while (atomic_load(&s->in_callback)) sched_yield(); /* about to touch `wake` for the last time */
  close_rest(s);
}

static void *loop_thread(void *arg) {
  struct resp_server *s = arg;
  uv_run(&s->loop, UV_RUN_DEFAULT);
  return NULL;
}

/* The daemon's main thread takes signals; this one would only be woken by them. */
static int start_thread(struct resp_server *s) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int err = pthread_create(&s->thread, NULL, loop_thread, s);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return err ? dw_fail_errno(err, "starting the RESP thread") : DW_OK;
}

/* ---- start and stop ------------------------------------------------------------------------------ */

static int bind_listener(struct resp_server *s, const char *text) {
  struct addrinfo *found = NULL;
  int rc = net_resolve(text, true, &found);
  if (rc) return rc;
  int err = s->opt.bound ? uv_tcp_open(&s->listener, s->opt.bound) : uv_tcp_bind(&s->listener, found->ai_addr, 0);
  s->opt.bound = 0;
  if (!err) err = uv_listen((uv_stream_t *)&s->listener, 511, on_connection);
  freeaddrinfo(found);
  if (err) return dw_fail(DW_IO, "RESP: can't listen on %s: %s", text, uv_strerror(err));
  struct sockaddr_storage bound;
  int len = sizeof bound;
  uv_tcp_getsockname(&s->listener, (struct sockaddr *)&bound, &len);
  s->port = (uint16_t)net_port((struct sockaddr *)&bound);
  return DW_OK;
}

static int init_identity(struct resp_server *s) {
  uint8_t noise[20];
  int rc = env_posix()->ops->random(env_posix(), noise, sizeof noise);
  for (size_t i = 0; i < sizeof noise; i++) snprintf(s->run_id + 2 * i, 3, "%02x", noise[i]);
  memcpy(&s->next_cursor, noise, 4); /* cursors of an earlier run are not taken for ours */
  s->view = malloc(sizeof *s->view);
  return s->view ? rc : dw_fail_nomem(sizeof *s->view);
}

static void server_free(struct resp_server *s) {
  uv_loop_close(&s->loop);
  work_pool_stop(s);
  scan_cursors_free(s);
  dw_batch_destroy(s->batch);
  buf_free(&s->spare_in);
  if (s->opt.bound) close(s->opt.bound);
  free(s->view);
  free(s);
}

int resp_server_start(dw_engine *e, const struct resp_options *opt, struct resp_server **out) {
  struct resp_server *s = calloc(1, sizeof *s);
  if (!s) return dw_fail_nomem(sizeof *s);
  s->e = e;
  s->opt = *opt;
  if (!s->opt.max_clients) s->opt.max_clients = 10000;
  if (!s->opt.watch_ms) s->opt.watch_ms = 100;
  if (s->opt.max_staleness_ms == UINT64_MAX) s->opt.max_staleness_ms = 0;
  snprintf(s->cluster_name, sizeof s->cluster_name, "%s", opt->cluster_name ? opt->cluster_name : "dabbawal");
  s->next_id = 1;
  s->started_ns = server_now_ns();
  int err = uv_loop_init(&s->loop);
  if (err) {
    if (opt->bound) close(opt->bound);
    free(s);
    return dw_fail(DW_IO, "RESP: %s", uv_strerror(err));
  }
  uv_tcp_init(&s->loop, &s->listener);
  uv_timer_init(&s->loop, &s->timer);
  uv_timer_init(&s->loop, &s->watch);
  uv_prepare_init(&s->loop, &s->prepare);
  uv_check_init(&s->loop, &s->check);
  err = uv_async_init(&s->loop, &s->wake, on_wake);
  s->listener.data = s->wake.data = s->watch.data = s->timer.data = s->prepare.data = s->check.data = s;
  int rc = err ? dw_fail(DW_IO, "RESP: %s", uv_strerror(err)) : init_identity(s);
  if (rc == DW_OK) rc = work_pool_start(s);
  if (rc == DW_OK) rc = bind_listener(s, opt->listen);
  if (rc == DW_OK) {
    uv_prepare_start(&s->prepare, on_prepare);
    uv_check_start(&s->check, on_check);
    rc = start_thread(s);
  }
  if (rc) {
    char why[400];
    dw_error_copy(why, sizeof why);
    uv_close((uv_handle_t *)&s->listener, NULL);
    uv_close((uv_handle_t *)&s->timer, NULL);
    uv_close((uv_handle_t *)&s->watch, NULL);
    uv_close((uv_handle_t *)&s->prepare, NULL);
    uv_close((uv_handle_t *)&s->check, NULL);
    if (!err) uv_close((uv_handle_t *)&s->wake, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    server_free(s);
    return dw_fail(rc, "%s", why);
  }
  *out = s;
  return DW_OK;
}

uint16_t resp_server_port(const struct resp_server *s) {
  return s->port;
}

void resp_server_stop(struct resp_server *s) {
  if (!s) return;
  atomic_store(&s->stop, true);
  uv_async_send(&s->wake);
  pthread_join(s->thread, NULL);
  server_free(s);
}

void resp_server_restrict(struct resp_server *s, uint32_t acks) {
  atomic_store(&s->restrict_acks, acks);
}

void resp_server_metrics(struct resp_server *s, struct resp_metrics *m) {
  *m = (struct resp_metrics){.connections = atomic_load(&s->m_conns),
                             .connections_total = atomic_load(&s->m_conns_total),
                             .rejected_total = atomic_load(&s->m_rejected),
                             .errors_total = atomic_load(&s->m_errors),
                             .reads_total = atomic_load(&s->m_reads),
                             .writes_total = atomic_load(&s->m_writes),
                             .stale_total = atomic_load(&s->m_stale),
                             .indoubt_total = atomic_load(&s->m_indoubt),
                             .commands_total = atomic_load(&s->m_unknown)};
  for (size_t i = 0; i < resp_command_count; i++) {
    uint64_t calls = atomic_load_explicit(&s->m_calls[i], memory_order_relaxed);
    m->commands_total += calls;
    if (calls) {
      m->by_command[m->command_count].name = resp_commands[i].name;
      m->by_command[m->command_count++].calls = calls;
    }
  }
}
