/* See resp_talk.h. */
#include "tests/support/resp_talk.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

int talk_connect(uint16_t port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  ck_assert_int_ge(fd, 0);
  struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct timeval patience = {.tv_sec = 20};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  ck_assert_msg(connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0, "connect to port %u: %s", port, strerror(errno));
  return fd;
}

void talk_send_n(int fd, const void *data, size_t n) {
  const char *p = data;
  while (n) {
    ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    ck_assert_msg(sent > 0, "send: %s", strerror(errno));
    p += sent;
    n -= (size_t)sent;
  }
}

void talk_send(int fd, const char *text) {
  talk_send_n(fd, text, strlen(text));
}

/* Bytes received; 0 at the end. */
static size_t receive(int fd, void *to, size_t n) {
  ssize_t got;
  do got = recv(fd, to, n, 0);
  while (got < 0 && errno == EINTR);
  if (got < 0 && errno == ECONNRESET) return 0;
  ck_assert_msg(got >= 0, "recv: %s", strerror(errno));
  return (size_t)got;
}

void talk_expect(int fd, const char *text) {
  size_t n = strlen(text), have = 0;
  char *got = calloc(1, n + 1);
  while (have < n) {
    size_t more = receive(fd, got + have, n - have);
    have += more;
    ck_assert_msg(more > 0, "connection closed after:\n%s\nexpected:\n%s", got, text);
    ck_assert_msg(memcmp(got, text, have) == 0, "got:\n%s\nexpected:\n%s", got, text);
  }
  free(got);
}

void talk(int fd, const char *text, const char *answer) {
  talk_send(fd, text);
  talk_expect(fd, answer);
}

/* One line with its end, at out + at. Returns where it ends. */
static size_t line(int fd, char *out, size_t at, size_t cap) {
  for (;;) {
    ck_assert_uint_lt(at + 1, cap);
    ck_assert_msg(receive(fd, out + at, 1) == 1, "connection closed inside a reply");
    if (out[at++] == '\n') return at;
  }
}

static size_t reply(int fd, char *out, size_t at, size_t cap) {
  size_t start = at;
  at = line(fd, out, at, cap);
  long long n = strtoll(out + start + 1, NULL, 10);
  if (out[start] == '$' && n >= 0) {
    ck_assert_uint_lt(at + (size_t)n + 2, cap);
    for (size_t end = at + (size_t)n + 2; at < end;) {
      size_t more = receive(fd, out + at, end - at);
      ck_assert_msg(more > 0, "connection closed inside a reply");
      at += more;
    }
  }
  for (long long i = 0; out[start] == '*' && i < n; i++) at = reply(fd, out, at, cap);
  return at;
}

size_t talk_reply(int fd, char *out, size_t cap) {
  size_t n = reply(fd, out, 0, cap);
  out[n] = 0;
  return n;
}

long long talk_int(int fd, const char *text) {
  char got[256];
  talk_send(fd, text);
  talk_reply(fd, got, sizeof got);
  ck_assert_msg(got[0] == ':' || got[0] == '$', "%s answered %s", text, got);
  return strtoll(got[0] == ':' ? got + 1 : strchr(got, '\n') + 1, NULL, 10);
}

void talk_expect_end(int fd) {
  char byte;
  ck_assert_msg(receive(fd, &byte, 1) == 0, "got a byte (%c) instead of the end", byte);
}
