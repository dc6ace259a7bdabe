/* Connections: bytes in, commands one after the other, replies out.
 *
 *   socket -> in -> parser -> resp_dispatch -> out -> socket
 *
 * Commands run until the input has no whole one left, one of them must wait (block), or the peer does not read its
 * replies (OUT_SOFT). Then the rest of the input stays where it is, and once there is more than a little of it the
 * socket is not read either: back-pressure down to the client. A peer that has closed its side still gets its answers.
 */
#include <stdlib.h>
#include <unistd.h>

#include "replication/cmd/net.h"
#include "replication/cmd/resp_internal.h"
#include "wal/base/status.h"

static void run_commands(struct conn *c);

void conn_unref(struct conn *c) {
  if (--c->refs) return;
  free(c->wants);
  buf_free(&c->in);
  buf_free(&c->out);
  buf_free(&c->multi_bytes);
  resp_parser_free(&c->parser);
  free(c);
}

static void on_closed(uv_handle_t *h) {
  struct conn *c = h->data;
  struct resp_loop *l = c->l;
  *(c->prev ? &c->prev->next : &l->conns) = c->next;
  if (c->next) c->next->prev = c->prev;
  atomic_fetch_sub(&l->load, 1);
  if (c->dirty) { /* rare: dropped between its reply and the end of the turn */
    struct conn **at = &l->dirty;
    while (*at != c) at = &(*at)->dirty_next;
    *at = c->dirty_next;
    c->dirty = false;
  }
  if (l->stopping) uv_async_send(&l->wake); /* the last one ends the loop */
  conn_unref(c);
}

void set_block(struct conn *c, enum block b) {
  if (c->block == BLOCK_WAIT || c->block == BLOCK_READ) poll_end(c);
  c->block = b;
}

void conn_drop(struct conn *c) {
  if (c->closing) return;
  c->closing = true;
  set_block(c, BLOCK_NONE);
  if (c->in_line) turnstile_forget(c);
  clients_remove(c);
  if (c->work) atomic_store(&c->work->cancel, true);
  pubsub_leave(c);
  uv_close((uv_handle_t *)&c->tcp, on_closed);
}

dw_read_options conn_default_read(const struct resp_server *s) {
  if (!s->opt.max_staleness_ms)
    return (dw_read_options){0}; /* a primary's data has no age: the bound holds there, too */
  return (dw_read_options){.consistency = DW_BOUNDED, .max_staleness_ms = s->opt.max_staleness_ms};
}

/* ---- output ------------------------------------------------------------------------------------ */

struct out_write {
  uv_write_t req;
  struct conn *c;
  struct buf bytes;
};

void conn_dirty(struct conn *c) {
  if (c->dirty || c->closing) return;
  c->dirty = true;
  c->dirty_next = c->l->dirty;
  c->l->dirty = c;
}

static void on_written(uv_write_t *req, int status) {
  struct out_write *w = (struct out_write *)req;
  struct conn *c = w->c;
  c->out_sending -= w->bytes.len;
  buf_free(&w->bytes);
  free(w);
  if (status < 0) conn_drop(c);
  conn_dirty(c); /* more to send, a command that waited for this, or the end */
  conn_unref(c);
}

/* What the socket does not take at once goes with libuv. */
static bool send_later(struct conn *c) {
  struct out_write *w = calloc(1, sizeof *w);
  if (!w) return false;
  w->c = c;
  w->bytes = c->out;
  c->out = (struct buf){0};
  c->out_sending = w->bytes.len;
  c->refs++;
  uv_buf_t rest = uv_buf_init((char *)w->bytes.data, (unsigned)w->bytes.len);
  if (uv_write(&w->req, (uv_stream_t *)&c->tcp, &rest, 1, on_written) == 0) return true;
  c->out_sending = 0;
  buf_free(&w->bytes);
  free(w);
  c->refs--;
  return false;
}

/* One write per burst. */
void flush_out(struct conn *c) {
  if (c->closing || c->out_sending) return;
  if (c->out.len) {
    uv_buf_t b = uv_buf_init((char *)c->out.data, (unsigned)c->out.len);
    int sent = uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
    if (sent < 0 && sent != UV_EAGAIN) {
      conn_drop(c);
      return;
    }
    if (sent > 0) buf_consume(&c->out, (size_t)sent);
    if (c->out.len && !send_later(c)) {
      conn_drop(c);
      return;
    }
    if (c->out.cap > IN_CHUNK) buf_free(&c->out); /* empty, and too large to keep */
  }
  clients_show(c);
  bool idle = c->block == BLOCK_NONE && !c->parsed && c->in.len == c->in_used;
  if ((c->quit || (c->leave && idle)) && !c->inflight && !c->out.len && !c->out_sending) conn_drop(c);
}

/* The end of a turn of the loop. A connection that is flushed may find room to go on, and be dirty again: in the next
 * turn, so that one who asks for much and reads fast does not keep the others waiting. */
void flush_dirty(struct resp_loop *l) {
  struct conn *now = l->dirty;
  l->dirty = NULL;
  for (struct conn *c; (c = now);) {
    now = c->dirty_next;
    c->dirty = false;
    flush_out(c);
    if (!c->closing && c->stalled && c->block == BLOCK_NONE && !c->out_sending) run_commands(c);
  }
  if (l->dirty) uv_async_send(&l->wake);
}

/* ---- input ------------------------------------------------------------------------------------- */

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *b) {
  struct conn *c = h->data;
  (void)suggested;
  if (!c->in.data) {
    c->in = c->l->spare_in;
    c->l->spare_in = (struct buf){0};
  }
  if (buf_reserve(&c->in, IN_CHUNK) != DW_OK) {
    *b = uv_buf_init(NULL, 0);
    return;
  }
  size_t room = c->in.cap - c->in.len;
  *b = uv_buf_init((char *)c->in.data + c->in.len, (unsigned)(room < (1u << 20) ? room : (1u << 20)));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b);

static void set_reading(struct conn *c, bool on) {
  on = on && !c->eof;
  if (c->reading == on || c->closing) return;
  c->reading = on;
  if (!on)
    uv_read_stop((uv_stream_t *)&c->tcp);
  else if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read))
    conn_drop(c);
}

static bool backlog(const struct conn *c) {
  return c->in.len - c->in_used > 4 * IN_CHUNK;
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b) {
  struct conn *c = stream->data;
  (void)b;
  if (n > 0) c->in.len += (size_t)n;
  if (n == UV_EOF) {
    set_reading(c, false);
    c->eof = true;
  }
  if ((n < 0 && n != UV_EOF) || (c->eof && (c->block == BLOCK_WAIT || c->block == BLOCK_READ)))
    conn_drop(c); /* reset, no memory for input, or gone before what it waits for */
  else if (c->block == BLOCK_NONE && !c->stalled)
    run_commands(c);
  else if (backlog(c))
    set_reading(c, false);
}

/* Redis' protection against browsers that are made to speak to a local port. */
static bool looks_like_http(const struct cmd *cmd) {
  return cmd_is(cmd, 0, "POST") || cmd_is(cmd, 0, "Host:");
}

/* Runs the command that the parser holds. */
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
    conn_drop(c);
  } else {
    for (size_t i = 0; i < cmd.argc; i++) cmd.argv[i] = resp_arg_at(&c->parser, data, i, &cmd.argl[i]);
    if (!looks_like_http(&cmd)) {
      h = resp_dispatch(c, &cmd);
    } else {
      server_log(c->s, DW_LOG_WARN, "RESP: %s speaks HTTP: closed (somebody's browser may have been made to)", c->peer);
      conn_drop(c);
    }
  }
  if (cmd.argv != small_v) free(cmd.argv);
  if (cmd.argl != small_l) free(cmd.argl);
  return h;
}

/* Makes the parser hold the next command. False: there is none, or none that may run. */
static bool next_command(struct conn *c) {
  if (c->parsed) return true;
  enum resp_result r = c->parse_error ? RESP_ERROR : RESP_MORE;
  if (r == RESP_MORE && c->in.len > c->in_used) /* an idle connection has no buffer to point into */
    r = resp_parse(&c->parser, c->in.data + c->in_used, c->in.len - c->in_used, &c->parsed_bytes, &c->parse_error);
  if (r == RESP_COMMAND) {
    c->parsed = true;
    c->deadline_ns = 0;
    c->strong_done = false;
  }
  c->parse_error = r == RESP_ERROR ? c->parse_error : NULL;
  if (r == RESP_MORE && c->eof) c->quit = true;
  if (r == RESP_ERROR && c->inflight) {
    set_block(c, BLOCK_WRITES); /* in its turn */
  } else if (r == RESP_ERROR) {
    conn_error(c, "ERR %s", c->parse_error);
    server_log(c->s, DW_LOG_DEBUG, "RESP: %s: %s", c->peer, c->parse_error);
    c->quit = true;
  }
  return r == RESP_COMMAND;
}

/* An input buffer without input goes to the next connection that needs one. */
static void tidy_input(struct conn *c) {
  if (c->in_used == c->in.len) {
    c->in_used = c->in.len = 0;
    if (!c->l->spare_in.data && c->in.cap <= (1u << 20)) {
      c->l->spare_in = c->in;
      c->in = (struct buf){0};
    } else {
      buf_free(&c->in);
    }
  } else if (c->in_used > IN_CHUNK && c->in_used > c->in.len / 2) {
    buf_consume(&c->in, c->in_used);
    c->in_used = 0;
  }
}

static void run_commands(struct conn *c) {
  c->stalled = false;
  while (!c->closing && !c->quit && c->block == BLOCK_NONE) {
    c->stalled = c->out.len + c->out_sending + c->queue_bytes > OUT_SOFT; /* the peer must read first */
    if (c->stalled || !next_command(c)) break;
    if (run_one(c, c->in.data + c->in_used) == HANDLE_LATER) break;
    c->in_used += c->parsed_bytes;
    c->parsed = false;
  }
  if (c->closing) return;
  tidy_input(c);
  bool stuck = c->block != BLOCK_NONE || c->stalled;
  set_reading(c, !c->quit && !(stuck && backlog(c)));
  clients_show(c);
  conn_dirty(c);
}

void conn_resume(struct conn *c) {
  if (c->closing) return;
  set_block(c, BLOCK_NONE);
  run_commands(c);
}

/* ---- arrival ------------------------------------------------------------------------------------- */

static struct conn *conn_create(struct resp_loop *l) {
  struct conn *c = calloc(1, sizeof *c);
  if (!c) return NULL;
  c->s = l->s;
  c->l = l;
  c->refs = 1;
  c->since_ns = server_now_ns();
  c->queue_tail = &c->queue_head;
  resp_parser_init(&c->parser);
  uv_tcp_init(&l->uv, &c->tcp);
  c->tcp.data = c;
  c->next = l->conns;
  if (c->next) c->next->prev = c;
  l->conns = c;
  return c;
}

static void welcome(struct conn *c) {
  uv_tcp_nodelay(&c->tcp, 1);
  uv_tcp_keepalive(&c->tcp, 1, 300);
  struct sockaddr_storage peer;
  int len = sizeof peer;
  if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&peer, &len) == 0)
    net_format((struct sockaddr *)&peer, c->peer, sizeof c->peer);
  c->read = conn_default_read(c->s);
  c->was_master = server_role(c->s) == DW_PRIMARY;
  clients_show(c);
  if (clients_add(c)) {
    set_reading(c, true);
  } else {
    conn_error(c, "ERR max number of clients reached");
    c->quit = true;
    flush_out(c);
  }
}

void conn_accept(struct resp_loop *l, uv_stream_t *listener) {
  struct conn *c = conn_create(l);
  if (!c) { /* libuv keeps the connection waiting */
    atomic_fetch_sub(&l->load, 1);
  } else if (uv_accept(listener, (uv_stream_t *)&c->tcp)) {
    conn_drop(c);
  } else {
    welcome(c);
  }
}

void conn_adopt(struct resp_loop *l, int fd) {
  struct conn *c = conn_create(l);
  if (!c) {
    close(fd);
    atomic_fetch_sub(&l->load, 1);
  } else if (uv_tcp_open(&c->tcp, fd)) {
    close(fd);
    conn_drop(c);
  } else {
    welcome(c);
  }
}
