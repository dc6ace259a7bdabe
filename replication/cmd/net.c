#include "replication/cmd/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "replication/address.h"
#include "wal/base/status.h"

int net_resolve(const char *text, bool passive, struct addrinfo **out) {
  struct address a;
  int rc = address_parse(text, &a);
  if (rc) return rc;
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = passive ? AI_PASSIVE : 0};
  int err = getaddrinfo(a.host[0] ? a.host : NULL, a.port, &hints, out);
  return err ? dw_fail(DW_INVALID, "%s: %s", text, gai_strerror(err)) : DW_OK;
}

void net_format(const struct sockaddr *sa, char *out, size_t cap) {
  char host[INET6_ADDRSTRLEN] = "?";
  bool v6 = sa->sa_family == AF_INET6;
  const void *addr = v6 ? (const void *)&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr
                        : (const void *)&((const struct sockaddr_in *)(const void *)sa)->sin_addr;
  inet_ntop(sa->sa_family, addr, host, sizeof host);
  snprintf(out, cap, v6 ? "[%s]:%u" : "%s:%u", host, net_port(sa));
}

int net_bind(const char *text, int *out, unsigned *port) {
  struct addrinfo *found = NULL;
  struct sockaddr_storage at = {0};
  socklen_t n = sizeof at;
  int rc = net_resolve(text, true, &found), one = 1;
  if (rc) return rc;
  int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) || getsockname(fd, (struct sockaddr *)&at, &n)) {
    rc = dw_fail_errno(errno, "can't bind %s", text);
    if (fd >= 0) close(fd);
  } else {
    *out = fd;
    *port = net_port((struct sockaddr *)&at);
  }
  freeaddrinfo(found);
  return rc;
}

unsigned net_port(const struct sockaddr *sa) {
  return sa->sa_family == AF_INET6 ? ntohs(((const struct sockaddr_in6 *)(const void *)sa)->sin6_port)
                                   : ntohs(((const struct sockaddr_in *)(const void *)sa)->sin_port);
}

int net_connect(const char *text, unsigned timeout_ms, int *out) {
  struct addrinfo *found = NULL;
  int rc = net_resolve(text, false, &found), err = 0;
  if (rc) return rc;
  *out = -1;
  for (const struct addrinfo *a = found; a && *out < 0; a = a->ai_next) {
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0) {
      err = errno;
      continue;
    }
    struct timeval tv = {timeout_ms / 1000, (suseconds_t)(timeout_ms % 1000) * 1000};
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, a->ai_addr, a->ai_addrlen) == 0) {
      *out = fd;
    } else {
      err = errno;
      close(fd);
    }
  }
  freeaddrinfo(found);
  return *out >= 0 ? DW_OK : dw_fail_errno(err, "connect to %s", text);
}
