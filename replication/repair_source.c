/* See repair_source.h. */
#include "replication/repair_source.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "replication/address.h"
#include "replication/fetcher.h"
#include "wal/base/status.h"

#define PEERS_MAX 64u
#define SLICE_MS 50

struct repair_source {
  struct env *env;
  uint32_t timeout_ms;
  size_t count;
  char peer[PEERS_MAX][ADDRESS_BYTES];
  /* the connection under way */
  int fd; /* -1: none */
  size_t at;
  struct fetcher *f;
  uint64_t heard_ns; /* a byte went or came */
};

/* ---- peers ---------------------------------------------------------------------------------------- */

int repair_source_check(const char *list) {
  char name[ADDRESS_BYTES];
  size_t n = 0;
  int rc = DW_OK;
  while (rc == DW_OK && list && address_next(&list, name)) {
    rc = address_check_peer(name);
    if (rc == DW_OK && ++n > PEERS_MAX - 1) rc = dw_fail(DW_INVALID, "more than %u peers", PEERS_MAX - 1);
  }
  return rc;
}

static int add_list(struct repair_source *s, const char *list) {
  char name[ADDRESS_BYTES];
  while (list && address_next(&list, name)) {
    int rc = address_check_peer(name);
    if (rc) return rc;
    bool known = false;
    for (size_t i = 0; i < s->count; i++) known |= strcmp(s->peer[i], name) == 0;
    if (!known && s->count < PEERS_MAX) memcpy(s->peer[s->count++], name, sizeof name);
  }
  return DW_OK;
}

static const char *peer_name(void *ctx, size_t peer) {
  return ((struct repair_source *)ctx)->peer[peer];
}

/* ---- the connection ---------------------------------------------------------------------------------- */

static void hang_up(void *ctx) {
  struct repair_source *s = ctx;
  if (s->fd >= 0) close(s->fd);
  s->fd = -1;
  fetcher_destroy(s->f);
  s->f = NULL;
}

static uint64_t now_ns(const struct repair_source *s) {
  return s->env->ops->mono_ns(s->env);
}

/* Waits for the socket. DW_TIMEOUT after timeout_ms without anything, DW_CLOSED if told to stop. */
static int wait_for(struct repair_source *s, short events, const atomic_bool *stop, const char *what) {
  for (;;) {
    if (stop && atomic_load(stop)) return dw_fail(DW_CLOSED, "stopped");
    struct pollfd p = {.fd = s->fd, .events = events};
    int n = poll(&p, 1, SLICE_MS);
    if (n > 0) return DW_OK;
    if (n < 0 && errno != EINTR) return dw_fail_errno(errno, "poll");
    if (now_ns(s) - s->heard_ns >= s->timeout_ms * 1000000ull)
      return dw_fail(DW_TIMEOUT, "%s within %u ms", what, s->timeout_ms);
  }
}

static int connect_one(struct repair_source *s, const struct addrinfo *a, const atomic_bool *stop) {
  s->fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (s->fd < 0) return dw_fail_errno(errno, "socket");
  s->heard_ns = now_ns(s);
  if (connect(s->fd, a->ai_addr, a->ai_addrlen) == 0) return DW_OK;
  if (errno != EINPROGRESS) return dw_fail_errno(errno, "can't connect");
  int rc = wait_for(s, POLLOUT, stop, "no connection"), err = 0;
  socklen_t len = sizeof err;
  if (rc == DW_OK && getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0) err = errno;
  return rc == DW_OK && err ? dw_fail_errno(err, "can't connect") : rc;
}

static int dial(struct repair_source *s, size_t peer, const struct block_ask *ask, const atomic_bool *stop) {
  struct address a;
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC}, *found = NULL;
  int rc = address_parse(s->peer[peer], &a);
  if (rc) return rc;
  int err = getaddrinfo(a.host, a.port, &hints, &found);
  if (err) return dw_fail(DW_IO, "%s", gai_strerror(err));
  rc = dw_fail(DW_IO, "no address");
  for (const struct addrinfo *i = found; rc && rc != DW_CLOSED && i; i = i->ai_next) {
    hang_up(s);
    rc = connect_one(s, i, stop);
  }
  freeaddrinfo(found);
  s->at = peer;
  struct fetcher_config cfg = {.node_id = ask->node_id, .cluster_id = ask->cluster_id};
  return rc ? rc : fetcher_create(&cfg, &s->f);
}

/* Writes what there is to write, reads what has come. */
static int talk(struct repair_source *s) {
  struct iovec iov[8];
  uint8_t in[65536];
  int n;
  while ((n = fetcher_output(s->f, iov, 8)) > 0) {
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n};
    ssize_t sent = sendmsg(s->fd, &m, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (sent < 0) return dw_fail_errno(errno, "the connection broke");
    fetcher_drained(s->f, (size_t)sent);
    s->heard_ns = now_ns(s);
  }
  ssize_t got = recv(s->fd, in, sizeof in, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return DW_OK;
  if (got < 0) return dw_fail_errno(errno, "the connection broke");
  s->heard_ns = now_ns(s);
  if (got == 0)
    fetcher_eof(s->f, NULL);
  else
    fetcher_input(s->f, in, (size_t)got);
  return DW_OK;
}

static int converse(struct repair_source *s, const atomic_bool *stop) {
  struct iovec iov;
  s->heard_ns = now_ns(s);
  while (fetcher_state(s->f) == FETCH_ASKED) {
    int rc = talk(s);
    if (rc) return rc;
    if (fetcher_state(s->f) != FETCH_ASKED) break;
    short events = fetcher_output(s->f, &iov, 1) > 0 ? POLLIN | POLLOUT : POLLIN;
    rc = wait_for(s, events, stop, "no answer");
    if (rc) return rc;
  }
  const char *text;
  int rc = fetcher_state(s->f) == FETCH_FAILED ? fetcher_error(s->f, &text) : DW_OK;
  return rc ? dw_fail(rc, "%s", text) : DW_OK;
}

static int fetch(void *ctx, size_t peer, const struct block_ask *ask, const atomic_bool *stop,
                 struct wal_block ***blocks, size_t *n) {
  struct repair_source *s = ctx;
  int rc = DW_OK;
  if (s->fd >= 0 && s->at != peer) hang_up(s);
  if (s->fd < 0) rc = dial(s, peer, ask, stop);
  if (rc == DW_OK) {
    fetcher_ask(s->f, &ask->from, ask->upto);
    rc = converse(s, stop);
  }
  if (rc == DW_OK) {
    fetcher_take(s->f, blocks, n);
    return DW_OK;
  }
  char why[400];
  dw_error_copy(why, sizeof why);
  hang_up(s);
  return dw_fail(rc, "%s", why);
}

/* ---- life ------------------------------------------------------------------------------------------- */

static void destroy(void *ctx) {
  hang_up(ctx);
  free(ctx);
}

int repair_source_create(struct env *env, const char *const *lists, size_t n, uint32_t timeout_ms,
                         struct block_source *out) {
  struct repair_source *s = calloc(1, sizeof *s);
  if (!s) return dw_fail_nomem(sizeof *s);
  s->env = env;
  s->timeout_ms = timeout_ms;
  s->fd = -1;
  int rc = DW_OK;
  for (size_t i = 0; rc == DW_OK && i < n; i++) rc = add_list(s, lists[i]);
  if (rc) {
    free(s);
    return rc;
  }
  *out = (struct block_source){
      .ctx = s, .count = s->count, .name = peer_name, .fetch = fetch, .rest = hang_up, .destroy = destroy};
  return DW_OK;
}

void repair_source_free(struct block_source *s) {
  if (s->ctx) destroy(s->ctx);
  *s = (struct block_source){0};
}
