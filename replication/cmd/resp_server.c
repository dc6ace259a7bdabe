/* The RESP server's loop thread: connections, their buffers, and writes in flight. resp_internal.h has the rules. */
#include "replication/cmd/resp_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "replication/cmd/net.h"
#include "wal/base/env.h"
#include "wal/base/hash.h"
#include "wal/base/status.h"

uint64_t server_now_ns(void) { return env_posix()->ops->mono_ns(env_posix()); }

/* ---- connections ------------------------------------------------------------------------------ */

static void conn_unref(struct conn *c) {
  if (--c->refs) return;
  buf_free(&c->in);
  buf_free(&c->out);
  buf_free(&c->multi_bytes);
  resp_parser_free(&c->parser);
  free(c);
}

static void on_closed(uv_handle_t *h) {
  struct conn *c = h->data;
  struct resp_server *s = c->s;
  if (c->prev)
    c->prev->next = c->next;
  else
    s->conns = c->next;
  if (c->next) c->next->prev = c->prev;
  s->conn_count--;
  atomic_store(&s->m_conns, s->conn_count);
  conn_unref(c);
}

static void set_block(struct conn *c, enum block b) {
  bool was = c->block == BLOCK_KEYS || c->block == BLOCK_ROOM, is = b == BLOCK_KEYS || b == BLOCK_ROOM;
  if (was != is) c->s->waiters += is ? 1u : (unsigned)-1;
  c->block = b;
}

void conn_drop(struct conn *c) {
  if (c->closing) return;
  c->closing = true;
  set_block(c, BLOCK_NONE);
  uv_close((uv_handle_t *)&c->tcp, on_closed);
}

/* ---- output ------------------------------------------------------------------------------------ */

struct out_write {
  uv_write_t req;
  struct conn *c;
  struct buf bytes;
};

static void run_commands(struct conn *c);

static void on_written(uv_write_t *req, int status) {
  struct out_write *w = (struct out_write *)req;
  struct conn *c = w->c;
  c->out_sending -= w->bytes.len;
  buf_free(&w->bytes);
  free(w);
  if (status < 0)
    conn_drop(c);
  else if (!c->closing && c->quit && !c->out.len && !c->out_sending)
    conn_drop(c);
  else if (!c->closing)
    conn_resume(c);
  conn_unref(c);
}

/* One write per burst: tries directly, leaves the rest to the loop. */
static void flush_out(struct conn *c) {
  c->dirty = false;
  if (c->closing || !c->out.len || c->out_sending) return;
  uv_buf_t b = uv_buf_init((char *)c->out.data, (unsigned)c->out.len);
  int sent = uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
  if (sent < 0 && sent != UV_EAGAIN) {
    conn_drop(c);
    return;
  }
  if (sent > 0) buf_consume(&c->out, (size_t)sent);
  if (c->out.len) {
    struct out_write *w = calloc(1, sizeof *w);
    if (!w) {
      conn_drop(c);
      return;
    }
    w->c = c;
    w->bytes = c->out;
    c->out = (struct buf){0};
    c->out_sending = w->bytes.len;
    c->refs++;
    uv_buf_t rest = uv_buf_init((char *)w->bytes.data, (unsigned)w->bytes.len);
    if (uv_write(&w->req, (uv_stream_t *)&c->tcp, &rest, 1, on_written)) {
      c->out_sending = 0;
      buf_free(&w->bytes);
      free(w);
      conn_unref(c);
      conn_drop(c);
    }
  } else if (c->quit) {
    conn_drop(c);
  }
}

/* ---- input ------------------------------------------------------------------------------------- */

#define IN_CHUNK 65536u

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *b) {
  struct conn *c = h->data;
  (void)suggested;
  if (buf_reserve(&c->in, IN_CHUNK) != DW_OK) {
    *b = uv_buf_init(NULL, 0);
    return;
  }
  size_t room = c->in.cap - c->in.len;
  *b = uv_buf_init((char *)c->in.data + c->in.len, (unsigned)(room < (1u << 20) ? room : (1u << 20)));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b) {
  struct conn *c = stream->data;
  (void)b;
  if (n < 0) { /* end, reset or no memory for input */
    conn_drop(c);
    return;
  }
  c->in.len += (size_t)n;
  if (c->block == BLOCK_NONE) run_commands(c);
}

static void set_reading(struct conn *c, bool on) {
  if (c->reading == on || c->closing) return;
  c->reading = on;
  if (on)
    uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
  else
    uv_read_stop((uv_stream_t *)&c->tcp);
}

/* Redis' protection against browsers that are made to speak to a local port. */
static bool looks_like_http(const struct cmd *cmd) {
  return cmd_is(cmd, 0, "POST") || cmd_is(cmd, 0, "Host:");
}

/* Runs the one command that the parser has; HANDLE_LATER leaves it there. */
static enum handled run_one(struct conn *c, const uint8_t *data) {
  const uint8_t *small_v[32];
  size_t small_l[32];
  struct cmd cmd = {.argc = c->parser.argc, .argv = small_v, .argl = small_l};
  if (cmd.argc == 0) return HANDLED;
  if (cmd.argc > 32) {
    cmd.argv = malloc(cmd.argc * sizeof *cmd.argv);
    cmd.argl = malloc(cmd.argc * sizeof *cmd.argl);
  }
  enum handled h = HANDLED;
  if (!cmd.argv || !cmd.argl) {
    conn_error(c, "OOM no memory for the command");
  } else {
    for (size_t i = 0; i < cmd.argc; i++) cmd.argv[i] = resp_arg_at(&c->parser, data, i, &cmd.argl[i]);
    if (looks_like_http(&cmd))
      conn_drop(c);
    else
      h = resp_dispatch(c, &cmd);
  }
  if (cmd.argv != small_v) free(cmd.argv);
  if (cmd.argl != small_l) free(cmd.argl);
  return h;
}

static void run_commands(struct conn *c) {
  while (!c->closing && !c->quit && c->block == BLOCK_NONE) {
    if (c->out.len + c->out_sending > OUT_SOFT) break; /* the peer must read first */
    const uint8_t *data = c->in.data + c->in_used;
    size_t used = 0;
    const char *error = NULL;
    enum resp_result r = resp_parse(&c->parser, data, c->in.len - c->in_used, &used, &error);
    if (r == RESP_MORE) break;
    if (r == RESP_ERROR) {
      conn_error(c, "ERR %s", error);
      c->quit = true;
      break;
    }
    if (run_one(c, data) == HANDLE_LATER) break; /* parsed again when the block is gone */
    c->in_used += used;
    atomic_fetch_add_explicit(&c->s->m_commands, 1, memory_order_relaxed);
  }
  if (c->closing) return;
  if (c->in_used == c->in.len) {
    c->in_used = c->in.len = 0;
    if (c->in.cap > (1u << 20)) buf_free(&c->in);
  } else if (c->in_used > IN_CHUNK && c->in_used > c->in.len / 2) {
    buf_consume(&c->in, c->in_used);
    c->in_used = 0;
  }
  if (c->out.len + c->out_sending > OUT_HARD) {
    conn_drop(c);
    return;
  }
  /* While commands wait here, the socket waits too: back-pressure. One command may be as large as the parser allows. */
  bool stuck = c->block != BLOCK_NONE || c->out.len + c->out_sending > OUT_SOFT;
  set_reading(c, !c->quit && !(stuck && c->in.len - c->in_used > 4 * IN_CHUNK));
  c->dirty = true;
}

void conn_resume(struct conn *c) {
  if (c->closing || c->block == BLOCK_WORK || c->block == BLOCK_WAIT) return;
  if (c->block == BLOCK_WRITES && c->inflight) return;
  set_block(c, BLOCK_NONE);
  run_commands(c);
}

/* ---- writes in flight ---------------------------------------------------------------------------- */

static uint32_t key_slot(const uint8_t *key, size_t n) { return (uint32_t)(hash64(key, n) % KEY_SLOTS); }

bool keys_busy(struct conn *c, const struct cmd *cmd, size_t first, size_t step) {
  for (size_t i = first; i < cmd->argc; i += step) {
    if (!c->s->key_inflight[key_slot(cmd->argv[i], cmd->argl[i])]) continue;
    set_block(c, BLOCK_KEYS);
    return true;
  }
  return false;
}

/* An engine thread: hands the answer to the loop, one wake-up per burst. */
static void on_commit(void *arg, int rc, dw_lsn lsn) {
  struct pending_write *p = arg;
  struct resp_server *s = p->c->s;
  p->rc = rc;
  p->lsn = lsn;
  if (rc) snprintf(p->error, sizeof p->error, "%s", dw_last_error());
  pthread_mutex_lock(&s->mu);
  p->next = NULL;
  *s->done_tail = p;
  s->done_tail = &p->next;
  bool send = !s->wake_sent;
  s->wake_sent = true;
  pthread_mutex_unlock(&s->mu);
  if (send) uv_async_send(&s->wake);
}

static void pending_free(struct pending_write *p) {
  buf_free(&p->reply);
  free(p->key_slots);
  free(p);
}

bool write_start(struct conn *c, const dw_batch *batch, struct buf *reply, const struct cmd *cmd, size_t first,
                 size_t step, size_t count) {
  struct resp_server *s = c->s;
  size_t bytes = 0;
  for (size_t i = 0; i < cmd->argc; i++) bytes += cmd->argl[i];
  if (c->inflight >= CONN_INFLIGHT_MAX || s->inflight >= SERVER_INFLIGHT_MAX ||
      (s->inflight && s->inflight_bytes + bytes > SERVER_INFLIGHT_BYTES)) {
    set_block(c, BLOCK_ROOM);
    return false;
  }
  struct pending_write *p = calloc(1, sizeof *p);
  if (p && !(p->key_slots = malloc((count ? count : 1) * sizeof *p->key_slots))) {
    free(p);
    p = NULL;
  }
  if (!p) {
    conn_error(c, "OOM no memory for the write");
    buf_free(reply);
    return true;
  }
  p->c = c;
  p->reply = *reply;
  *reply = (struct buf){0};
  p->bytes = bytes;
  for (size_t i = 0; i < count; i++) p->key_slots[p->key_count++] = key_slot(cmd->argv[first + i * step], cmd->argl[first + i * step]);
  atomic_fetch_add_explicit(&s->m_writes, 1, memory_order_relaxed);
  int rc = dw_write_async(s->e, &c->write, batch, on_commit, p);
  if (rc && !c->inflight) { /* refused at once: nothing to wait for */
    reply_rc(c, &c->out, rc, 0, dw_last_error());
    pending_free(p);
    return true;
  }
  c->refs++;
  c->inflight++;
  s->inflight++;
  s->inflight_bytes += bytes;
  for (size_t i = 0; i < p->key_count; i++) s->key_inflight[p->key_slots[i]]++;
  if (rc) on_commit(p, rc, 0); /* behind the connection's earlier writes */
  return true;
}

/* Connections that wait for keys or room look again, those that waited first, first. */
static void resume_waiters(struct resp_server *s) {
  for (struct conn *c = s->conns, *next; c && s->waiters; c = next) {
    next = c->next;
    if (c->block == BLOCK_KEYS || c->block == BLOCK_ROOM) conn_resume(c);
  }
}

static void take_done(struct resp_server *s) {
  pthread_mutex_lock(&s->mu);
  struct pending_write *p = s->done_head;
  s->done_head = NULL;
  s->done_tail = &s->done_head;
  s->wake_sent = false;
  pthread_mutex_unlock(&s->mu);
  for (struct pending_write *next; p; p = next) {
    next = p->next;
    struct conn *c = p->c;
    c->inflight--;
    s->inflight--;
    s->inflight_bytes -= p->bytes;
    for (size_t i = 0; i < p->key_count; i++) s->key_inflight[p->key_slots[i]]--;
    if (p->rc == DW_OK) {
      if (p->lsn) c->last_lsn = p->lsn;
      if (buf_append(&c->out, p->reply.data, p->reply.len) != DW_OK) conn_drop(c);
    } else {
      if (p->rc == DW_TIMEOUT && p->lsn) c->last_lsn = p->lsn;
      reply_rc(c, &c->out, p->rc, p->lsn, p->error);
    }
    c->dirty = true;
    if (!c->closing && c->block == BLOCK_WRITES && !c->inflight) conn_resume(c);
    pending_free(p);
    conn_unref(c);
  }
  if (s->waiters) resume_waiters(s);
}

/* ---- work off the loop --------------------------------------------------------------------------- */

static void work_run(uv_work_t *req) {
  struct work *w = (struct work *)req;
  w->run(w);
}

static void work_done(uv_work_t *req, int status) {
  struct work *w = (struct work *)req;
  struct conn *c = w->c;
  (void)status; /* never cancelled */
  set_block(c, BLOCK_NONE);
  w->after(w);
  if (!c->closing) run_commands(c);
  conn_unref(c);
}

void work_start(struct conn *c, struct work *w) {
  w->c = c;
  w->e = c->s->e;
  c->refs++;
  set_block(c, BLOCK_WORK);
  uv_queue_work(&c->s->loop, &w->req, work_run, work_done);
}

/* ---- the loop ------------------------------------------------------------------------------------ */

static void on_connection(uv_stream_t *listener, int status) {
  struct resp_server *s = listener->data;
  if (status < 0) return; /* out of files: libuv has dropped it */
  struct conn *c = calloc(1, sizeof *c);
  if (!c) return;
  c->s = s;
  c->refs = 1;
  c->id = s->next_id++;
  c->wait_deadline_ns = UINT64_MAX;
  resp_parser_init(&c->parser);
  uv_tcp_init(&s->loop, &c->tcp);
  c->tcp.data = c;
  c->next = s->conns;
  if (c->next) c->next->prev = c;
  s->conns = c;
  s->conn_count++;
  atomic_store(&s->m_conns, s->conn_count);
  if (uv_accept(listener, (uv_stream_t *)&c->tcp)) {
    conn_drop(c);
    return;
  }
  uv_tcp_nodelay(&c->tcp, 1);
  struct sockaddr_storage peer;
  int len = sizeof peer;
  if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&peer, &len) == 0)
    net_format((struct sockaddr *)&peer, c->peer, sizeof c->peer);
  if (s->role == DW_FOLLOWER && s->opt.max_staleness_ms)
    c->read = (dw_read_options){.consistency = DW_BOUNDED, .max_staleness_ms = s->opt.max_staleness_ms};
  if (s->conn_count > s->opt.max_clients) {
    atomic_fetch_add(&s->m_rejected, 1);
    conn_error(c, "ERR max number of clients reached");
    c->quit = true;
    flush_out(c);
    return;
  }
  atomic_fetch_add(&s->m_conns_total, 1);
  set_reading(c, true);
}

static void begin_stop(struct resp_server *s) {
  if (s->stopping) return;
  s->stopping = true;
  uv_close((uv_handle_t *)&s->listener, NULL);
  for (struct conn *c = s->conns, *next; c; c = next) {
    next = c->next;
    flush_out(c);
    conn_drop(c);
  }
}

static void maybe_finish(struct resp_server *s) {
  if (!s->stopping || s->conns || s->inflight || uv_is_closing((uv_handle_t *)&s->wake)) return;
  uv_close((uv_handle_t *)&s->wake, NULL);
  uv_close((uv_handle_t *)&s->timer, NULL);
  uv_close((uv_handle_t *)&s->check, NULL);
}

static void on_wake(uv_async_t *a) {
  struct resp_server *s = a->data;
  take_done(s);
  if (atomic_load(&s->stop)) begin_stop(s);
}

static void on_timer(uv_timer_t *t) {
  struct resp_server *s = t->data;
  uint64_t now = server_now_ns();
  for (struct conn *c = s->conns, *next; c; c = next) {
    next = c->next;
    if (c->block == BLOCK_WAIT && !c->closing && wait_check(c, now)) {
      set_block(c, BLOCK_NONE);
      run_commands(c);
    }
  }
}

/* After each poll: one write per connection that has something to say. */
static void on_check(uv_check_t *k) {
  struct resp_server *s = k->data;
  for (struct conn *c = s->conns, *next; c; c = next) {
    next = c->next;
    if (c->dirty) flush_out(c);
    if (!c->closing && !c->out_sending && c->block == BLOCK_NONE && c->in_used < c->in.len && !c->reading) conn_resume(c);
  }
  maybe_finish(s);
}

static void *loop_thread(void *arg) {
  struct resp_server *s = arg;
  uv_run(&s->loop, UV_RUN_DEFAULT);
  return NULL;
}

static int bind_listener(struct resp_server *s, const char *text) {
  struct addrinfo *found = NULL;
  int rc = net_resolve(text, true, &found);
  if (rc) return rc;
  int err = uv_tcp_bind(&s->listener, found->ai_addr, 0);
  if (!err) err = uv_listen((uv_stream_t *)&s->listener, 511, on_connection);
  freeaddrinfo(found);
  if (err) return dw_fail(DW_IO, "RESP: can't listen on %s: %s", text, uv_strerror(err));
  struct sockaddr_storage bound;
  int len = sizeof bound;
  uv_tcp_getsockname(&s->listener, (struct sockaddr *)&bound, &len);
  s->port = (uint16_t)net_port((struct sockaddr *)&bound);
  return DW_OK;
}

static void server_free(struct resp_server *s) {
  uv_loop_close(&s->loop);
  scan_cursors_free(s);
  pthread_mutex_destroy(&s->mu);
  free(s);
}

int resp_server_start(dw_engine *e, const struct resp_options *opt, struct resp_server **out) {
  struct resp_server *s = calloc(1, sizeof *s);
  if (!s) return dw_fail_nomem(sizeof *s);
  s->e = e;
  s->opt = *opt;
  if (!s->opt.max_clients) s->opt.max_clients = 10000;
  s->next_id = 1;
  s->started_ns = server_now_ns();
  s->done_tail = &s->done_head;
  pthread_mutex_init(&s->mu, NULL);
  dw_status st;
  dw_status_get(e, &st);
  s->role = st.role;
  uint8_t noise[20];
  int rc = env_posix()->ops->random(env_posix(), noise, sizeof noise);
  for (size_t i = 0; i < sizeof noise; i++) snprintf(s->run_id + 2 * i, 3, "%02x", noise[i]);
  memcpy(&s->next_cursor, noise, 4); /* cursors of an earlier run are not taken for ours */
  uv_loop_init(&s->loop);
  uv_tcp_init(&s->loop, &s->listener);
  uv_async_init(&s->loop, &s->wake, on_wake);
  uv_timer_init(&s->loop, &s->timer);
  uv_check_init(&s->loop, &s->check);
  s->listener.data = s->wake.data = s->timer.data = s->check.data = s;
  if (rc == DW_OK) rc = bind_listener(s, opt->listen);
  if (rc == DW_OK) {
    uv_timer_start(&s->timer, on_timer, 10, 10);
    uv_check_start(&s->check, on_check);
    int err = pthread_create(&s->thread, NULL, loop_thread, s);
    if (err) rc = dw_fail_errno(err, "starting the RESP thread");
  }
  if (rc) {
    char why[400];
    dw_error_copy(why, sizeof why);
    uv_close((uv_handle_t *)&s->listener, NULL);
    uv_close((uv_handle_t *)&s->wake, NULL);
    uv_close((uv_handle_t *)&s->timer, NULL);
    uv_close((uv_handle_t *)&s->check, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    server_free(s);
    return dw_fail(rc, "%s", why);
  }
  *out = s;
  return DW_OK;
}

uint16_t resp_server_port(const struct resp_server *s) { return s->port; }

void resp_server_stop(struct resp_server *s) {
  if (!s) return;
  atomic_store(&s->stop, true);
  uv_async_send(&s->wake);
  pthread_join(s->thread, NULL);
  server_free(s);
}

void resp_server_metrics(struct resp_server *s, struct resp_metrics *m) {
  *m = (struct resp_metrics){.connections = atomic_load(&s->m_conns),
                             .connections_total = atomic_load(&s->m_conns_total),
                             .rejected_total = atomic_load(&s->m_rejected),
                             .commands_total = atomic_load(&s->m_commands),
                             .errors_total = atomic_load(&s->m_errors),
                             .reads_total = atomic_load(&s->m_reads),
                             .writes_total = atomic_load(&s->m_writes),
                             .stale_total = atomic_load(&s->m_stale),
                             .indoubt_total = atomic_load(&s->m_indoubt)};
}
