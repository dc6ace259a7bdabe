/* The other end of tailer.c: receives, merges what is there, writes once, acknowledges. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/support/probe.h"
#include "bench/support/tailer.h"

#define RECEIVE_BYTES (1u << 20)
#define FRAME_BYTES 12u
#define BATCH_HEADER_BYTES 12u

struct apply {
  struct rocks rocks;
  int fd;
  char *in, *merged;
  size_t have, cap, merged_len;
};

/* Takes all whole frames that are there into `merged`. The last one's sequence, 0: there is none. */
static uint64_t merge(struct apply *a, size_t *used) {
  uint64_t last = 0;
  uint32_t count = 0;
  a->merged_len = BATCH_HEADER_BYTES;
  *used = 0;
  for (;;) {
    uint32_t n, c;
    if (a->have - *used < FRAME_BYTES) break;
    memcpy(&n, a->in + *used, 4);
    if (n < BATCH_HEADER_BYTES) bench_die("the tailer sent a batch of %u bytes", n);
    if (a->have - *used < FRAME_BYTES + n) {
      if (FRAME_BYTES + n > a->cap / 2) { /* a big one: make room for it whole */
        a->cap = 4 * (FRAME_BYTES + (size_t)n);
        a->in = realloc(a->in, a->cap);
        a->merged = realloc(a->merged, a->cap);
        if (!a->in || !a->merged) bench_die("no memory");
      }
      break;
    }
    memcpy(&last, a->in + *used + 4, 8);
    const char *batch = a->in + *used + FRAME_BYTES;
    memcpy(&c, batch + 8, 4);
    count += c;
    memcpy(a->merged + a->merged_len, batch + BATCH_HEADER_BYTES, n - BATCH_HEADER_BYTES);
    a->merged_len += n - BATCH_HEADER_BYTES;
    *used += FRAME_BYTES + n;
  }
  memset(a->merged, 0, 8);
  memcpy(a->merged + 8, &count, 4);
  return last;
}

static void *follow(void *arg) {
  struct apply *a = arg;
  for (;;) {
    ssize_t n = recv(a->fd, a->in + a->have, a->cap - a->have, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return NULL;
    a->have += (size_t)n;
    size_t used;
    uint64_t last = merge(a, &used);
    if (!used) continue;
    rocksdb_writebatch_t *wb = rocksdb_writebatch_create_from(a->merged, a->merged_len);
    char *err = NULL;
    rocksdb_write(a->rocks.db, a->rocks.write, wb, &err);
    rocks_check("follower's write", err);
    rocksdb_writebatch_destroy(wb);
    bytes_write(a->fd, &last, sizeof last);
    a->have -= used;
    memmove(a->in, a->in + used, a->have);
  }
}

static bool get_probe(void *ctx, const struct record *key, char value[PROBE_VALUE_BYTES]) {
  struct rocks *r = ctx;
  char *err = NULL;
  size_t n;
  char *v = rocksdb_get(r->db, r->read, key->key, key->klen, &n, &err);
  rocks_check("get", err);
  if (!v) return false;
  memcpy(value, v, PROBE_VALUE_BYTES);
  rocksdb_free(v);
  return true;
}

/* args: DIR PORT sync|nosync. Words on the line: as in cluster.c. */
int tail_follower_main(int fd, char **args) {
  static struct apply a;
  rocks_open(&a.rocks, args[0], NULL, strcmp(args[2], "sync") == 0);
  a.cap = RECEIVE_BYTES;
  a.in = malloc(a.cap);
  a.merged = malloc(a.cap);
  struct sockaddr_in to = {
      .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(args[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int on = 1;
  a.fd = socket(AF_INET, SOCK_STREAM, 0);
  if (!a.in || !a.merged || a.fd < 0 || connect(a.fd, (struct sockaddr *)&to, sizeof to) ||
      setsockopt(a.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on))
    bench_die("connect: %s", strerror(errno));
  pthread_t thread;
  if (pthread_create(&thread, NULL, follow, &a)) bench_die("no thread");
  static struct prober prober;
  char line[64];
  while (line_read(fd, line, sizeof line) >= 0) {
    if (strcmp(line, "probe") == 0) {
      prober_start(&prober, get_probe, &a.rocks);
      line_write(fd, "ok");
    } else if (strcmp(line, "probed") == 0) {
      prober_stop(&prober);
      bytes_write(fd, &prober.lag, sizeof prober.lag);
    }
  }
  shutdown(a.fd, SHUT_RDWR);
  pthread_join(thread, NULL);
  close(a.fd);
  rocks_close(&a.rocks);
  free(a.in);
  free(a.merged);
  return 0;
}
