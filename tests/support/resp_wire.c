/* See resp_wire.h. */
#include "tests/support/resp_wire.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WORDS_MAX 64

bool wire_open(struct wire *w, int port) {
  return wire_open_to(w, NULL, port, WIRE_PATIENCE_S * 1000);
}

bool wire_open_to(struct wire *w, const char *host, int port, unsigned patience_ms) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  struct timeval patience = {patience_ms / 1000, patience_ms % 1000 * 1000};
  int one = 1;
  inet_pton(AF_INET, host ? host : "127.0.0.1", &a.sin_addr);
  wire_close(w);
  w->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (w->fd < 0) return false;
  setsockopt(w->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(w->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(w->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (connect(w->fd, (struct sockaddr *)&a, sizeof a) == 0) return true;
  wire_close(w);
  return false;
}

void wire_close(struct wire *w) {
  if (w->fd >= 0) close(w->fd);
  w->fd = -1;
  w->out_len = w->at = w->end = 0;
}

void wire_free(struct wire *w) {
  wire_close(w);
  free(w->out);
  free(w->text);
  w->out = w->text = NULL;
  w->out_cap = w->text_cap = 0;
}

static void queue(struct wire *w, const char *p, size_t n) {
  if (w->out_len + n > w->out_cap) {
    w->out_cap = 2 * (w->out_len + n);
    w->out = realloc(w->out, w->out_cap);
    ck_assert_ptr_nonnull(w->out);
  }
  memcpy(w->out + w->out_len, p, n);
  w->out_len += n;
}

void wire_add_words(struct wire *w, const char *const *words, size_t n) {
  char head[32];
  queue(w, head, (size_t)snprintf(head, sizeof head, "*%zu\r\n", n));
  for (size_t i = 0; i < n; i++) {
    size_t len = strlen(words[i]);
    queue(w, head, (size_t)snprintf(head, sizeof head, "$%zu\r\n", len));
    queue(w, words[i], len);
    queue(w, "\r\n", 2);
  }
}

static void add_list(struct wire *w, va_list ap) {
  const char *words[WORDS_MAX];
  size_t n = 0;
  for (const char *word; (word = va_arg(ap, const char *)) && n < WORDS_MAX;) words[n++] = word;
  wire_add_words(w, words, n);
}

void wire_add(struct wire *w, ...) {
  va_list ap;
  va_start(ap, w);
  add_list(w, ap);
  va_end(ap);
}

bool wire_flush(struct wire *w) {
  size_t at = 0;
  while (w->fd >= 0 && at < w->out_len) {
    ssize_t n = send(w->fd, w->out + at, w->out_len - at, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    at += (size_t)n;
  }
  bool all = w->fd >= 0 && at == w->out_len;
  w->out_len = 0;
  return all;
}

static enum wire_result fill(struct wire *w) {
  ssize_t n;
  do n = recv(w->fd, w->in, sizeof w->in, 0);
  while (n < 0 && errno == EINTR);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return WIRE_SILENT;
  if (n <= 0) return WIRE_BROKEN;
  w->at = 0;
  w->end = (size_t)n;
  return WIRE_OK;
}

static void room(struct wire *w, size_t n) {
  if (n <= w->text_cap) return;
  w->text_cap = 2 * n;
  w->text = realloc(w->text, w->text_cap);
  ck_assert_ptr_nonnull(w->text);
}

/* Up to the line's end, which is taken away. */
static enum wire_result read_line(struct wire *w, size_t *len) {
  *len = 0;
  for (;;) {
    if (w->at == w->end) {
      enum wire_result r = fill(w);
      if (r) return r;
    }
    char c = w->in[w->at++];
    room(w, *len + 2);
    w->text[(*len)++] = c;
    if (c != '\n') continue;
    *len -= *len > 1 && w->text[*len - 2] == '\r' ? 2 : 1;
    w->text[*len] = 0;
    return WIRE_OK;
  }
}

static enum wire_result read_bytes(struct wire *w, size_t n) {
  room(w, n + 1);
  for (size_t got = 0; got < n;) {
    if (w->at == w->end) {
      enum wire_result r = fill(w);
      if (r) return r;
    }
    size_t take = w->end - w->at < n - got ? w->end - w->at : n - got;
    memcpy(w->text + got, w->in + w->at, take);
    w->at += take;
    got += take;
  }
  w->text[n] = 0;
  return WIRE_OK;
}

enum wire_result wire_read(struct wire *w, struct wire_reply *r) {
  size_t len;
  if (w->fd < 0) return WIRE_BROKEN;
  enum wire_result got = read_line(w, &len);
  if (got) return got;
  *r = (struct wire_reply){.kind = w->text[0], .text = w->text + 1, .len = len ? len - 1 : 0};
  if (!strchr("+-:$*", r->kind) || !len) return WIRE_BROKEN;
  if (r->kind == ':' || r->kind == '*' || r->kind == '$') r->number = strtoll(r->text, NULL, 10);
  if ((r->kind == '$' || r->kind == '*') && r->number < 0) r->kind = '_';
  if (r->kind != '$') return WIRE_OK;
  size_t n = (size_t)r->number;
  got = read_bytes(w, n + 2);
  r->text = w->text;
  r->len = n;
  w->text[n] = 0;
  return got;
}

enum wire_result wire_ask(struct wire *w, struct wire_reply *r, ...) {
  va_list ap;
  va_start(ap, r);
  add_list(w, ap);
  va_end(ap);
  return wire_flush(w) ? wire_read(w, r) : WIRE_BROKEN;
}
