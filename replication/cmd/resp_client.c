#include "replication/cmd/resp_client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "replication/cmd/net.h"
#include "wal/base/status.h"

#define READ_BYTES 65536u

struct resp_client {
  int fd;
  unsigned timeout_ms;
  char address[300];
  struct buf out;
  size_t sent; /* bytes of out that are gone */
  struct resp_reader reader;
  resp_reply_fn reply;
  void *arg;
  uint8_t in[READ_BYTES];
};

int resp_client_open(const char *address, unsigned timeout_ms, size_t text_max, resp_reply_fn reply, void *arg,
                     struct resp_client **out) {
  struct resp_client *c = calloc(1, sizeof *c);
  if (!c) return dw_fail_nomem(sizeof *c);
  *c = (struct resp_client){.fd = -1, .timeout_ms = timeout_ms, .reply = reply, .arg = arg};
  c->reader.text_max = text_max;
  snprintf(c->address, sizeof c->address, "%s", address);
  int rc = net_connect(address, timeout_ms, &c->fd);
  if (rc == DW_OK && fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK) < 0)
    rc = dw_fail_errno(errno, "connect to %s", address);
  if (rc) {
    resp_client_close(c);
    return rc;
  }
  *out = c;
  return DW_OK;
}

void resp_client_close(struct resp_client *c) {
  if (!c) return;
  if (c->fd >= 0) close(c->fd);
  buf_free(&c->out);
  resp_reader_free(&c->reader);
  free(c);
}

int resp_client_queue(struct resp_client *c, const void *p, size_t n) {
  if (c->sent && c->sent >= c->out.len / 2) {
    buf_consume(&c->out, c->sent);
    c->sent = 0;
  }
  return buf_append(&c->out, p, n);
}

size_t resp_client_queued(const struct resp_client *c) {
  return c->out.len - c->sent;
}

static int send_some(struct resp_client *c) {
  ssize_t n = send(c->fd, c->out.data + c->sent, resp_client_queued(c), MSG_NOSIGNAL);
  if (n < 0) return errno == EAGAIN || errno == EINTR ? DW_OK : dw_fail_errno(errno, "send to %s", c->address);
  c->sent += (size_t)n;
  if (c->sent == c->out.len) c->out.len = c->sent = 0;
  return DW_OK;
}

static int receive_some(struct resp_client *c) {
  ssize_t n = recv(c->fd, c->in, sizeof c->in, 0);
  if (n < 0) return errno == EAGAIN || errno == EINTR ? DW_OK : dw_fail_errno(errno, "receive from %s", c->address);
  if (n == 0) return dw_fail(DW_CLOSED, "%s closed the connection", c->address);
  for (size_t at = 0; at < (size_t)n;) {
    size_t used;
    bool complete;
    int rc = resp_reader_feed(&c->reader, c->in + at, (size_t)n - at, &used, &complete);
    if (rc) return dw_fail_prefix(rc, "%s", c->address);
    at += used;
    if (complete && (rc = c->reply(c->arg, &c->reader)) != DW_OK) return rc;
  }
  return DW_OK;
}

int resp_client_pump(struct resp_client *c) {
  struct pollfd p = {.fd = c->fd, .events = (short)(POLLIN | (resp_client_queued(c) ? POLLOUT : 0))};
  int n = poll(&p, 1, (int)c->timeout_ms);
  if (n < 0) return errno == EINTR ? DW_OK : dw_fail_errno(errno, "poll");
  if (n == 0) return dw_fail(DW_TIMEOUT, "%s has not answered for %u s", c->address, c->timeout_ms / 1000);
  int rc = DW_OK;
  if (p.revents & (POLLIN | POLLERR | POLLHUP)) rc = receive_some(c);
  if (rc == DW_OK && (p.revents & POLLOUT)) rc = send_some(c);
  return rc;
}

int resp_command_append(struct buf *out, size_t argc, const void *const *argv, const size_t *argl) {
  char head[32];
  size_t old = out->len;
  int rc = buf_append(out, head, (size_t)snprintf(head, sizeof head, "*%zu\r\n", argc));
  for (size_t i = 0; rc == DW_OK && i < argc; i++) {
    rc = buf_append(out, head, (size_t)snprintf(head, sizeof head, "$%zu\r\n", argl[i]));
    if (rc == DW_OK) rc = buf_append(out, argv[i], argl[i]);
    if (rc == DW_OK) rc = buf_append(out, "\r\n", 2);
  }
  if (rc) out->len = old;
  return rc;
}

struct call {
  bool done;
  char kind;
  struct buf *text;
};

static int call_reply(void *arg, const struct resp_reader *r) {
  struct call *c = arg;
  c->done = true;
  c->kind = r->kind;
  c->text->len = 0;
  int rc = buf_append(c->text, r->text.data, r->text.len);
  return rc ? rc : buf_append(c->text, "", 1); /* terminated, for people who print */
}

int resp_call(const char *address, unsigned timeout_ms, const char *words, char *kind, struct buf *text) {
  struct call call = {.text = text};
  struct resp_client *c = NULL;
  struct buf command = {0};
  const void *argv[8];
  size_t argl[8], argc = 0;
  for (const char *w = words; *w && argc < 8; w += *w == ' ') {
    argv[argc] = w;
    argl[argc] = strcspn(w, " ");
    w += argl[argc++];
  }
  int rc = resp_client_open(address, timeout_ms, 16u << 20, call_reply, &call, &c);
  if (rc == DW_OK) rc = resp_command_append(&command, argc, argv, argl);
  if (rc == DW_OK) rc = resp_client_queue(c, command.data, command.len);
  while (rc == DW_OK && !call.done) rc = resp_client_pump(c);
  if (rc == DW_OK && call.kind == '-') rc = dw_fail(DW_INVALID, "%s: %.300s", address, (const char *)text->data);
  if (rc == DW_OK) {
    text->len--;
    *kind = call.kind;
  }
  buf_free(&command);
  resp_client_close(c);
  return rc;
}
