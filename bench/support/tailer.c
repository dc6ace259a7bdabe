#include "bench/support/tailer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define PACK_BYTES (256u << 10)
#define FRAME_BYTES 12u      /* u32 bytes of the batch, u64 last sequence */
#define LOOK_AGAIN_NS 300000 /* for what nobody waits for */

struct tail_waiter {
  struct tail_waiter *next;
  uint64_t seq;
  pthread_cond_t cond;
  bool done;
};

static int tcp_socket(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
  if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on)) bench_die("socket: %s", strerror(errno));
  return fd;
}

/* ---- sending --------------------------------------------------------------------------------- */

static void send_all(struct tailer *t, const char *p, size_t n) {
  atomic_fetch_add_explicit(&t->sent_bytes, n, memory_order_relaxed);
  while (n) {
    ssize_t w = send(t->fd, p, n, MSG_NOSIGNAL);
    if (w < 0 && errno == EINTR) continue;
    if (w <= 0) return; /* the acker sees the end of the connection */
    p += w;
    n -= (size_t)w;
  }
}

/* One batch of the WAL as a frame behind *len. */
static void pack(char **out, size_t *len, size_t *cap, rocksdb_writebatch_t *wb, uint64_t seq, uint64_t *last) {
  size_t n;
  const char *data = rocksdb_writebatch_data(wb, &n);
  uint32_t bytes = (uint32_t)n, count;
  memcpy(&count, data + 8, 4);
  *last = seq + count - 1;
  if (*len + FRAME_BYTES + n > *cap) {
    *cap = 2 * (*len + FRAME_BYTES + n);
    if (!(*out = realloc(*out, *cap))) bench_die("no memory");
  }
  memcpy(*out + *len, &bytes, 4);
  memcpy(*out + *len + 4, last, 8);
  memcpy(*out + *len + FRAME_BYTES, data, n);
  *len += FRAME_BYTES + n;
}

static void sleep_until_written(struct tailer *t, uint64_t next) {
  atomic_store(&t->asleep, true);
  if (rocksdb_get_latest_sequence_number(t->rocks.db) < next && !atomic_load(&t->stop)) {
    struct pollfd p = {t->wake_fd, POLLIN, 0};
    const struct timespec look_again = {0, LOOK_AGAIN_NS};
    ppoll(&p, 1, &look_again, NULL);
  }
  atomic_store(&t->asleep, false);
  uint64_t drop;
  while (read(t->wake_fd, &drop, sizeof drop) > 0) {
  }
}

static rocksdb_wal_iterator_t *open_iterator(struct tailer *t, uint64_t next) {
  char *err = NULL;
  if (rocksdb_get_latest_sequence_number(t->rocks.db) < next) return NULL;
  rocksdb_wal_iterator_t *it = rocksdb_get_updates_since(t->rocks.db, next, NULL, &err);
  if (err) { /* just not visible yet */
    rocksdb_free(err);
    return NULL;
  }
  return it;
}

static void *send_updates(void *arg) {
  struct tailer *t = arg;
  size_t cap = 2 * PACK_BYTES, len = 0;
  char *out = malloc(cap);
  uint64_t next = 1;
  rocksdb_wal_iterator_t *it = NULL;
  if (!out) bench_die("no memory");
  while (!atomic_load_explicit(&t->stop, memory_order_relaxed)) {
    if (!it) it = open_iterator(t, next);
    while (it && rocksdb_wal_iter_valid(it) && len < PACK_BYTES) {
      uint64_t seq, last;
      rocksdb_writebatch_t *wb = rocksdb_wal_iter_get_batch(it, &seq);
      if (seq > next)
        bench_die("the WAL iterator skipped %llu to %llu", (unsigned long long)next, (unsigned long long)seq);
      if (seq == next) {
        pack(&out, &len, &cap, wb, seq, &last);
        next = last + 1;
      }
      rocksdb_writebatch_destroy(wb);
      rocksdb_wal_iter_next(it);
    }
    if (len) {
      send_all(t, out, len);
      len = 0;
      continue;
    }
    char *err = NULL;
    if (it) rocksdb_wal_iter_status(it, &err);
    if (err) { /* "Create a new iterator": a new WAL file has begun, or it lost a race with a writer */
      atomic_fetch_add_explicit(&t->reopened, 1, memory_order_relaxed);
      rocksdb_free(err);
      rocksdb_wal_iter_destroy(it);
      it = NULL;
    }
    sleep_until_written(t, next);
    if (it) rocksdb_wal_iter_next(it); /* at the end: looks again */
  }
  if (it) rocksdb_wal_iter_destroy(it);
  free(out);
  return NULL;
}

/* ---- acks ------------------------------------------------------------------------------------ */

static void acked(struct tailer *t, uint64_t seq, bool lost) {
  pthread_mutex_lock(&t->mu);
  if (seq > t->acked) t->acked = seq;
  t->lost |= lost;
  while (t->waiters && (t->waiters->seq <= t->acked || lost)) {
    struct tail_waiter *w = t->waiters;
    t->waiters = w->next;
    w->done = true;
    pthread_cond_signal(&w->cond);
  }
  pthread_mutex_unlock(&t->mu);
}

static void *receive_acks(void *arg) {
  struct tailer *t = arg;
  char in[4096];
  size_t have = 0;
  for (ssize_t n; (n = recv(t->fd, in + have, sizeof in - have, 0)) > 0 || (n < 0 && errno == EINTR);) {
    if (n < 0) continue;
    have += (size_t)n;
    size_t whole = have & ~(size_t)7;
    if (!whole) continue;
    uint64_t seq;
    memcpy(&seq, in + whole - 8, 8); /* cumulative: the last one says it all */
    acked(t, seq, false);
    have -= whole;
    memmove(in, in + whole, have);
  }
  acked(t, 0, true);
  return NULL;
}

static void wait_acked(struct tailer *t, uint64_t seq) {
  struct tail_waiter w = {.seq = seq, .cond = PTHREAD_COND_INITIALIZER}, **p = &t->waiters;
  pthread_mutex_lock(&t->mu);
  if (t->acked < seq && !t->lost) {
    while (*p && (*p)->seq <= seq) p = &(*p)->next;
    w.next = *p;
    *p = &w;
    while (!w.done) pthread_cond_wait(&w.cond, &t->mu);
  }
  bool lost = t->lost;
  pthread_mutex_unlock(&t->mu);
  if (lost) bench_die("the RocksDB follower is gone");
}

/* ---- writing --------------------------------------------------------------------------------- */

/* Wakes nobody: a wake-up for each record costs the writers half their rate, and the sender looks soon anyway. */
void tailer_put(void *ctx, const struct record *r) {
  struct tailer *t = ctx;
  rocks_put(&t->rocks, r);
}

void tailer_put_acked(void *ctx, const struct record *r) {
  struct tailer *t = ctx;
  rocks_put(&t->rocks, r);
  if (atomic_load(&t->asleep) && atomic_exchange(&t->asleep, false)) {
    uint64_t one = 1;
    if (write(t->wake_fd, &one, sizeof one) < 0) bench_die("eventfd: %s", strerror(errno));
  }
  wait_acked(t, rocksdb_get_latest_sequence_number(t->rocks.db)); /* at least ours; groups end together anyway */
}

void tailer_drain(struct tailer *t) {
  uint64_t seq = rocksdb_get_latest_sequence_number(t->rocks.db);
  if (seq) wait_acked(t, seq);
}

/* ---- life ------------------------------------------------------------------------------------ */

void tailer_open(struct tailer *t, bool sync) {
  memset(t, 0, sizeof *t);
  pthread_mutex_init(&t->mu, NULL);
  bench_fresh(t->dir, "tailer");
  rocks_open(&t->rocks, t->dir, &(struct rocks_setup){.keep_wal = true}, sync);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t n = sizeof a;
  int listener = tcp_socket();
  if (bind(listener, (struct sockaddr *)&a, n) || listen(listener, 1) ||
      getsockname(listener, (struct sockaddr *)&a, &n))
    bench_die("listen: %s", strerror(errno));
  char dir[BENCH_PATH_BYTES + 8], port[16];
  snprintf(dir, sizeof dir, "%s-f", t->dir);
  snprintf(port, sizeof port, "%u", ntohs(a.sin_port));
  child_start(&t->follower, "tail-follower", (const char *[]){dir, port, sync ? "sync" : "nosync", NULL});
  int on = 1;
  struct pollfd dialled = {listener, POLLIN, 0};
  if (poll(&dialled, 1, 30000) != 1) bench_die("the RocksDB follower did not come");
  if ((t->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0 ||
      setsockopt(t->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on))
    bench_die("accept: %s", strerror(errno));
  close(listener);
  t->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (pthread_create(&t->sender, NULL, send_updates, t) || pthread_create(&t->acker, NULL, receive_acks, t))
    bench_die("no thread");
}

void tailer_close(struct tailer *t) {
  atomic_store(&t->stop, true);
  uint64_t one = 1;
  if (write(t->wake_fd, &one, sizeof one) < 0) bench_die("eventfd: %s", strerror(errno));
  pthread_join(t->sender, NULL);
  shutdown(t->fd, SHUT_RDWR);
  pthread_join(t->acker, NULL);
  close(t->fd);
  close(t->wake_fd);
  child_stop(&t->follower);
  rocks_close(&t->rocks);
  char dir[BENCH_PATH_BYTES + 8];
  snprintf(dir, sizeof dir, "%s-f", t->dir);
  bench_remove(t->dir);
  bench_remove(dir);
}

void tailer_probe_start(struct tailer *t) {
  char line[16];
  child_tell(&t->follower, "probe");
  child_answer(&t->follower, line, sizeof line);
}

void tailer_probe_end(struct tailer *t, struct histogram *lag) {
  struct histogram got;
  child_tell(&t->follower, "probed");
  child_get(&t->follower, &got, sizeof got);
  histogram_merge(lag, &got);
}
