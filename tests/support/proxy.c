/* See proxy.h. One poll loop; each connection is two sockets and two small buffers. */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/proxy.h"

#define PIPES 32
#define PIPE_BYTES 65536

struct half {
  char data[PIPE_BYTES];
  size_t at, n; /* unsent: [at, n) */
  bool eof;
};
struct link_pair {
  int client, target; /* -1: free */
  struct half up, down;
};

struct proxy {
  pthread_t thread;
  pthread_mutex_t mu;
  pthread_cond_t obeyed_cond;
  int listen_fd, wake_fd;
  uint16_t port;
  uint16_t target_port; /* mu, with all below */
  enum proxy_mode mode;
  bool stop;
  unsigned orders, obeyed; /* changes of mode, and those that the thread works by */
  uint64_t cut_after, down_bytes;
  struct link_pair *pairs; /* the thread's */
};

static void wake(struct proxy *p) {
  uint64_t one = 1;
  ck_assert_int_eq((int)write(p->wake_fd, &one, sizeof one), (int)sizeof one);
}

static void close_pair(struct link_pair *l) {
  if (l->client >= 0) close(l->client);
  if (l->target >= 0) close(l->target);
  l->client = l->target = -1;
}

/* Small kernel buffers, or a stalled link swallows tens of megabytes before anybody notices. Before connect and listen.
 */
static void small_buffers(int fd) {
  int bytes = PIPE_BYTES;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

static void accept_one(struct proxy *p, enum proxy_mode mode, uint16_t target_port) {
  int fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  struct link_pair *l = NULL;
  for (int i = 0; i < PIPES && !l; i++)
    if (p->pairs[i].client < 0) l = &p->pairs[i];
  struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(target_port)};
  sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int target = mode == PROXY_CUT || !l ? -1 : socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (target >= 0) small_buffers(target);
  if (target < 0 || connect(target, (struct sockaddr *)&sa, sizeof sa)) {
    if (target >= 0) close(target);
    close(fd);
    return;
  }
  fcntl(target, F_SETFL, O_NONBLOCK);
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(target, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  l->client = fd;
  l->target = target;
  l->up.at = l->up.n = l->down.at = l->down.n = 0;
  l->up.eof = l->down.eof = false;
}

/* Moves what it can; false: the connection is over. */
static bool move(int from, int to, struct half *h, size_t room, size_t *moved) {
  *moved = 0;
  if (h->at == h->n && !h->eof && room) {
    ssize_t r = read(from, h->data, room < PIPE_BYTES ? room : PIPE_BYTES);
    if (r == 0 || (r < 0 && errno != EAGAIN)) h->eof = true;
    h->at = 0;
    h->n = r > 0 ? (size_t)r : 0;
  }
  if (h->at < h->n) {
    ssize_t w = send(to, h->data + h->at, h->n - h->at, MSG_NOSIGNAL);
    if (w < 0 && errno != EAGAIN) return false;
    if (w > 0) h->at += (size_t)w, *moved = (size_t)w;
  }
  return !(h->eof && h->at == h->n);
}

static void serve(struct proxy *p, struct link_pair *l, enum proxy_mode mode) {
  size_t moved, up;
  bool alive = move(l->client, l->target, &l->up, PIPE_BYTES, &up);
  if (alive && mode == PROXY_PASS) {
    pthread_mutex_lock(&p->mu);
    uint64_t room = p->cut_after;
    pthread_mutex_unlock(&p->mu);
    alive = move(l->target, l->client, &l->down, room < PIPE_BYTES ? (size_t)room : PIPE_BYTES, &moved);
    pthread_mutex_lock(&p->mu);
    p->down_bytes += moved;
    if (p->cut_after != UINT64_MAX) p->cut_after -= moved < p->cut_after ? moved : p->cut_after;
    if (p->cut_after == 0) p->mode = PROXY_CUT, p->cut_after = UINT64_MAX;
    pthread_mutex_unlock(&p->mu);
  }
  if (!alive) close_pair(l);
}

static nfds_t fill(struct proxy *p, enum proxy_mode mode, struct pollfd *fds) {
  nfds_t n = 0;
  fds[n++] = (struct pollfd){.fd = p->wake_fd, .events = POLLIN};
  fds[n++] = (struct pollfd){.fd = p->listen_fd, .events = POLLIN};
  for (int i = 0; i < PIPES; i++) {
    struct link_pair *l = &p->pairs[i];
    if (l->client < 0 || mode == PROXY_STALL) continue;
    short c = l->up.at == l->up.n ? POLLIN : 0, t = l->up.at < l->up.n ? POLLOUT : 0;
    if (mode == PROXY_PASS) {
      t |= l->down.at == l->down.n ? POLLIN : 0;
      c |= l->down.at < l->down.n ? POLLOUT : 0;
    }
    fds[n++] = (struct pollfd){.fd = l->client, .events = c};
    fds[n++] = (struct pollfd){.fd = l->target, .events = t};
  }
  return n;
}

static void *run(void *arg) {
  struct proxy *p = arg;
  struct pollfd fds[2 + 2 * PIPES];
  for (;;) {
    pthread_mutex_lock(&p->mu);
    enum proxy_mode mode = p->mode;
    uint16_t target = p->target_port;
    bool stop = p->stop;
    unsigned orders = p->orders;
    pthread_mutex_unlock(&p->mu);
    for (int i = 0; i < PIPES && (stop || mode == PROXY_CUT); i++) close_pair(&p->pairs[i]);
    pthread_mutex_lock(&p->mu);
    p->obeyed = orders;
    pthread_cond_broadcast(&p->obeyed_cond);
    pthread_mutex_unlock(&p->mu);
    if (stop) return NULL;
    poll(fds, fill(p, mode, fds), -1);
    uint64_t ignored;
    if (fds[0].revents && read(p->wake_fd, &ignored, sizeof ignored) < 0) return NULL;
    if (fds[1].revents) accept_one(p, mode, target);
    for (int i = 0; i < PIPES; i++)
      if (p->pairs[i].client >= 0 && mode != PROXY_STALL) serve(p, &p->pairs[i], mode);
  }
}

struct proxy *proxy_start(uint16_t target_port) {
  struct proxy *p = calloc(1, sizeof *p);
  ck_assert_ptr_nonnull(p);
  p->pairs = calloc(PIPES, sizeof *p->pairs);
  ck_assert_ptr_nonnull(p->pairs);
  for (int i = 0; i < PIPES; i++) p->pairs[i].client = p->pairs[i].target = -1;
  pthread_mutex_init(&p->mu, NULL);
  pthread_cond_init(&p->obeyed_cond, NULL);
  p->target_port = target_port;
  p->cut_after = UINT64_MAX;
  p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  p->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  small_buffers(p->listen_fd);
  struct sockaddr_in sa = {.sin_family = AF_INET};
  sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t n = sizeof sa;
  ck_assert_int_eq(bind(p->listen_fd, (struct sockaddr *)&sa, n), 0);
  ck_assert_int_eq(listen(p->listen_fd, 16), 0);
  ck_assert_int_eq(getsockname(p->listen_fd, (struct sockaddr *)&sa, &n), 0);
  p->port = ntohs(sa.sin_port);
  ck_assert_int_eq(pthread_create(&p->thread, NULL, run, p), 0);
  return p;
}

void proxy_stop(struct proxy *p) {
  if (!p) return;
  pthread_mutex_lock(&p->mu);
  p->stop = true;
  pthread_mutex_unlock(&p->mu);
  wake(p);
  pthread_join(p->thread, NULL);
  close(p->listen_fd);
  close(p->wake_fd);
  pthread_cond_destroy(&p->obeyed_cond);
  pthread_mutex_destroy(&p->mu);
  free(p->pairs);
  free(p);
}

uint16_t proxy_port(const struct proxy *p) {
  return p->port;
}

void proxy_mode(struct proxy *p, enum proxy_mode mode) {
  pthread_mutex_lock(&p->mu);
  p->mode = mode;
  unsigned order = ++p->orders;
  wake(p);
  while ((int)(p->obeyed - order) < 0) pthread_cond_wait(&p->obeyed_cond, &p->mu);
  pthread_mutex_unlock(&p->mu);
}

void proxy_target(struct proxy *p, uint16_t port) {
  pthread_mutex_lock(&p->mu);
  p->target_port = port;
  pthread_mutex_unlock(&p->mu);
}

void proxy_cut_after(struct proxy *p, uint64_t bytes) {
  pthread_mutex_lock(&p->mu);
  p->cut_after = bytes;
  pthread_mutex_unlock(&p->mu);
  wake(p);
}

enum proxy_mode proxy_mode_now(struct proxy *p) {
  pthread_mutex_lock(&p->mu);
  enum proxy_mode mode = p->mode;
  pthread_mutex_unlock(&p->mu);
  return mode;
}

uint64_t proxy_down_bytes(struct proxy *p) {
  pthread_mutex_lock(&p->mu);
  uint64_t bytes = p->down_bytes;
  pthread_mutex_unlock(&p->mu);
  return bytes;
}
