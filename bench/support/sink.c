#include "bench/support/sink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/support/bench.h"
#include "replication/message.h"
#include "wal/pack.h"

#define READ_BYTES (256u << 10)
#define TICK_NS 20000000u
#define ACK_NS 20000000u   /* as a real follower of asynchronous writes does */
#define BEAT_NS 500000000u /* and with every heartbeat */

struct sink {
  int fd;
  bool streaming, stalled;
  double credit; /* bytes that a slow link may still read */
  struct frame_reader reader;
  struct msg_sender me;
  struct wal_pos received; /* end of what came */
  dw_lsn acked;
  struct wal_unpacker *unpacker; /* made with the first pack */
  uint64_t acked_ns;
};

static void send_frame(struct sink *s, struct buf *b) {
  for (size_t off = 0; off < b->len;) {
    ssize_t w = send(s->fd, b->data + off, b->len - off, MSG_NOSIGNAL);
    if (w < 0 && errno == EINTR) continue;
    if (w <= 0) bench_die("sink: %s", strerror(errno));
    off += (size_t)w;
  }
  buf_free(b);
}

static void dial(struct sink *s, unsigned port, uint64_t id) {
  struct sockaddr_in to = {
      .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int on = 1, small = 64 << 10;
  s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  /* A slow link has little in the kernel's buffers, too. */
  if (s->stalled || s->credit >= 0) setsockopt(s->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  if (s->fd < 0 || connect(s->fd, (struct sockaddr *)&to, sizeof to) ||
      setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on))
    bench_die("sink: connect: %s", strerror(errno));
  frame_reader_init(&s->reader, MSG_BIT(MSG_WELCOME) | MSG_BIT(MSG_REFUSE) | MSG_BIT(MSG_HEARTBEAT));
  s->me.node_id = id;
  struct msg_hello h = {.version_min = MSG_VERSION_MIN,
                        .version_max = MSG_VERSION_MAX,
                        .role = DW_FOLLOWER,
                        .heartbeat_ms = 500,
                        .node_id = id,
                        .region = "sink"};
  memcpy(&h.incarnation, &id, sizeof id);
  struct buf b = {0};
  if (msg_put_hello(&b, &s->me, &h)) bench_die("sink: no memory");
  send_frame(s, &b);
}

static void ack(struct sink *s, uint64_t now) {
  struct buf b = {0};
  dw_lsn lsn = s->received.lsn;
  struct msg_ack m = {lsn, lsn, lsn, 0};
  if (msg_put_ack(&b, &s->me, &m)) bench_die("sink: no memory");
  send_frame(s, &b);
  s->acked = lsn;
  s->acked_ns = now;
}

static void on_blocks(struct sink *s, const struct frame *f) {
  struct msg_blocks m;
  const uint8_t *block;
  size_t off = 0, n;
  struct block_header h;
  if (msg_get_blocks(f, &m)) bench_die("sink: %s", dw_last_error());
  for (uint32_t i = 0; i < m.count; i++) {
    if (msg_blocks_next(&m, &off, &block, &n) || block_header_decode(block, &h)) bench_die("sink: %s", dw_last_error());
    s->received = (struct wal_pos){block_last_lsn(&h), h.epoch, h.chain};
  }
}

/* Unpacked as by a real follower: what it costs belongs to the picture. */
static void on_packed(struct sink *s, const struct frame *f) {
  static struct wal_block *blocks[WAL_PACK_BLOCKS];
  struct msg_packed m;
  if (msg_get_packed(f, &m)) bench_die("sink: %s", dw_last_error());
  if (!s->unpacker && wal_unpacker_create(&s->unpacker)) bench_die("sink: %s", dw_last_error());
  if (wal_unpack(s->unpacker, &s->received, m.pack, m.bytes, m.plain, &m.chain, blocks, m.count))
    bench_die("sink: %s", dw_last_error());
  const struct block_header *last = &blocks[m.count - 1]->h;
  s->received = (struct wal_pos){block_last_lsn(last), last->epoch, last->chain};
  for (uint32_t i = 0; i < m.count; i++) wal_block_unref(blocks[i]);
}

static void on_frame(struct sink *s, const struct frame *f) {
  struct msg_welcome w;
  struct msg_refuse r;
  switch (f->h.type) {
  case MSG_WELCOME:
    if (msg_get_welcome(f, &w)) bench_die("sink: %s", dw_last_error());
    if (w.follows != FOLLOWS_STREAM) bench_die("sink: the primary does not start at the beginning");
    s->me.version = s->reader.version = w.version;
    s->me.epoch = w.epoch;
    s->received = w.pos;
    s->streaming = true;
    frame_reader_accept(&s->reader, MSG_BIT(MSG_REFUSE) | MSG_BIT(MSG_BLOCKS) | MSG_BIT(MSG_PACKED) |
                                        MSG_BIT(MSG_COMMIT) | MSG_BIT(MSG_PROBE_ANSWER) | MSG_BIT(MSG_HEARTBEAT));
    break;
  case MSG_REFUSE:
    if (msg_get_refuse(f, &r)) bench_die("sink: %s", dw_last_error());
    bench_die("sink: refused: %s", r.text);
  case MSG_BLOCKS: on_blocks(s, f); break;
  case MSG_PACKED: on_packed(s, f); break;
  default: break;
  }
}

static void take(struct sink *s, char *in) {
  size_t want = s->credit >= 0 && s->credit < READ_BYTES ? (size_t)s->credit : READ_BYTES;
  if (!want) return;
  ssize_t n = recv(s->fd, in, want, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) bench_die("sink: the primary closed a connection");
  if (s->credit >= 0) s->credit -= (double)n;
  struct frame f;
  int rc = frame_reader_feed(&s->reader, in, (size_t)n);
  while (rc == DW_OK && (rc = frame_reader_next(&s->reader, &f)) == DW_OK) on_frame(s, &f);
  if (rc != DW_NOT_FOUND) bench_die("sink: %s", dw_last_error());
}

/* args: PORT N STALLED BYTES_PER_S. Says "ready" once all stream, ends with the line. */
int sink_main(int line, char **args) {
  static struct sink sinks[SINK_MAX];
  static char in[READ_BYTES];
  unsigned port = (unsigned)atoi(args[0]);
  int n = atoi(args[1]), stalled = atoi(args[2]), up = 0;
  double rate = atof(args[3]);
  for (int i = 0; i < n; i++) {
    sinks[i].stalled = i >= n - stalled;
    sinks[i].credit = rate > 0 ? rate * TICK_NS / 1e9 : -1;
    dial(&sinks[i], port, 1000 + (uint64_t)i);
  }
  struct pollfd polls[SINK_MAX + 1];
  uint64_t next_tick = bench_ns() + TICK_NS;
  for (;;) {
    for (int i = 0; i < n; i++) {
      bool read_it = sinks[i].credit != 0 && !(sinks[i].stalled && sinks[i].streaming);
      polls[i] = (struct pollfd){sinks[i].fd, read_it ? POLLIN : 0, 0};
    }
    polls[n] = (struct pollfd){line, POLLIN, 0};
    uint64_t now = bench_ns();
    int wait = now >= next_tick ? 0 : (int)((next_tick - now) / 1000000u) + 1;
    if (poll(polls, (nfds_t)n + 1, wait) < 0 && errno != EINTR) bench_die("sink: poll: %s", strerror(errno));
    if (polls[n].revents) return 0;
    now = bench_ns();
    bool tick = now >= next_tick;
    if (tick) next_tick = now + TICK_NS;
    int streaming = 0;
    for (int i = 0; i < n; i++) {
      struct sink *s = &sinks[i];
      if (polls[i].revents & (POLLIN | POLLHUP | POLLERR)) take(s, in);
      if (tick && rate > 0) s->credit = rate * TICK_NS / 1e9;
      uint64_t since = now - s->acked_ns;
      if (s->streaming && since >= (s->received.lsn > s->acked ? ACK_NS : BEAT_NS)) ack(s, now);
      streaming += s->streaming;
    }
    if (streaming == n && up < n) line_write(line, "ready");
    up = streaming;
  }
}

void sinks_start(struct sinks *s, unsigned port, int n, int stalled, double bytes_per_s) {
  char a[4][32], word[16];
  snprintf(a[0], sizeof a[0], "%u", port);
  snprintf(a[1], sizeof a[1], "%d", n);
  snprintf(a[2], sizeof a[2], "%d", stalled);
  snprintf(a[3], sizeof a[3], "%.0f", bytes_per_s);
  s->n = n;
  child_start(&s->child, "sinks", (const char *[]){a[0], a[1], a[2], a[3], NULL});
  child_answer(&s->child, word, sizeof word);
}

void sinks_stop(struct sinks *s) {
  child_stop(&s->child);
}
