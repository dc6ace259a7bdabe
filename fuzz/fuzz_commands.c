/* Redis commands from a socket to the store: the real server and the real engine on a store and files in memory, one
 * for the life of the process. Each input is a connection of its own; keys are removed after it.
 *
 * Checked: everything that comes back is well-formed RESP; each command gets exactly one reply, up to the one that ends
 * the connection, whatever was pipelined; the connection ends when its input does; what SET stored, GET on a second
 * connection brings back.
 * Input: what the client sends. Commands that wait longer than a few ms by their own words are not sent. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/engine.h"
#include "fuzz/fuzz.h"
#include "replication/cmd/resp_codec.h"
#include "replication/cmd/resp_server.h"
#include "tests/support/mem_env.h"

#define PATIENCE_MS 20000 /* beyond this it hangs */
#define LONGEST_WAIT 5u   /* ms */

static dw_engine *engine;
static struct resp_server *server;
static struct mem_env *files;

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg, (void)level, (void)line;
}

static void stop(void) {
  resp_server_stop(server);
  (void)engine_close(engine);
  mem_env_destroy(files);
}

static void start(void) {
  files = mem_env_create();
  struct engine_config config = {.env = mem_env_env(files), .store = store_mem(), .threads = true};
  struct resp_options resp = {.listen = "127.0.0.1:0"};
  dw_options o;
  dw_options_init(&o);
  o.segment_bytes = 1u << 20;
  o.retain_bytes = 0;
  o.memtable_bytes = 1u << 20;
  o.durability = DW_DURABILITY_OS;
  o.ack_timeout_ms = LONGEST_WAIT;
  o.log = quiet;
  CHECK(engine_open("d", &o, &config, &engine) == DW_OK);
  CHECK(resp_server_start(engine, &resp, &server) == DW_OK);
  atexit(stop);
}

/* ---- what will be answered --------------------------------------------------------------------------- */

static bool is(const struct resp_parser *p, const uint8_t *data, size_t i, const char *word) {
  size_t n;
  const uint8_t *arg = resp_arg_at(p, data, i, &n);
  return n == strlen(word) && strncasecmp((const char *)arg, word, n) == 0;
}

/* Does it wait long? Numbers in commands that may wait are milliseconds, or may as well be small. */
static bool slow(const struct resp_parser *p, const uint8_t *data) {
  static const char *const words[] = {"wait", "dw.wait", "dw.read", "dw.mode"};
  bool waits = false;
  for (size_t i = 0; i < 4; i++) waits |= is(p, data, 0, words[i]);
  if (is(p, data, 0, "dw.wait") && p->argc < 3) return true; /* 10 s, unless told otherwise */
  if (is(p, data, 0, "dw.mode") && p->argc > 1 && is(p, data, 1, "semisync")) return true; /* half a second a write */
  for (size_t i = 1; waits && i < p->argc; i++) {
    size_t n, value = 0;
    const uint8_t *arg = resp_arg_at(p, data, i, &n);
    for (size_t k = 0; k < n; k++)
      if (arg[k] >= '0' && arg[k] <= '9' && value < 1000) value = 10 * value + (size_t)(arg[k] - '0');
    bool forever = value == 0 && i == 2 && (is(p, data, 0, "wait") || is(p, data, 0, "dw.wait"));
    if (value > LONGEST_WAIT || forever) return true;
  }
  return false;
}

/* Replies that the bytes must bring, and how many bytes of them count. False: not to be sent. */
static bool expect(const uint8_t *data, size_t size, size_t *replies, bool *cut) {
  struct resp_parser p;
  size_t from = 0, used = 0;
  const char *error;
  enum resp_result r = RESP_COMMAND;
  bool over = false, fine = true;
  *replies = 0;
  resp_parser_init(&p);
  while (fine && !over && (r = resp_parse(&p, data + from, size - from, &used, &error)) == RESP_COMMAND) {
    const uint8_t *at = data + from;
    from += used;
    if (p.argc == 0) continue;
    if (is(&p, at, 0, "POST") || is(&p, at, 0, "Host:")) {
      over = *cut = true; /* a browser: closed at once, what was not sent yet is lost */
      continue;
    }
    fine = !slow(&p, at);
    *cut |= is(&p, at, 0, "wait") || is(&p, at, 0, "dw.read"); /* who leaves while it waits gets no more */
    ++*replies;
    over = is(&p, at, 0, "quit");
  }
  if (!over && r == RESP_ERROR) ++*replies;
  resp_parser_free(&p);
  return fine;
}

/* ---- the client ----------------------------------------------------------------------------------------- */

static int dial(void) {
  struct sockaddr_in sa = {
      .sin_family = AF_INET, .sin_port = htons(resp_server_port(server)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct linger hard = {1, 0};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0);
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard); /* no TIME_WAIT */
  return fd;
}

/* Sends all, then says that this was all; reads to the end. */
static void talk(const uint8_t *data, size_t size, struct buf *in) {
  int fd = dial();
  size_t sent = 0;
  bool reset = false;
  while (sent < size && !reset) {
    ssize_t n = send(fd, data + sent, size - sent, MSG_NOSIGNAL);
    if (n > 0) sent += (size_t)n;
    reset = n <= 0 && errno != EINTR; /* it may have ended the connection already */
  }
  shutdown(fd, SHUT_WR);
  for (;;) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int ready;
    do ready = poll(&p, 1, PATIENCE_MS);
    while (ready < 0 && errno == EINTR); /* libFuzzer's alarm */
    CHECK(ready == 1);
    CHECK(buf_reserve(in, 65536) == DW_OK);
    ssize_t n = recv(fd, in->data + in->len, 65536, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    in->len += (size_t)n;
  }
  close(fd);
}

/* The length of the reply at p, 0 if it is not well-formed and whole. */
static size_t reply_bytes(const uint8_t *p, size_t n, unsigned depth) {
  const uint8_t *end = n ? memchr(p, '\n', n) : NULL;
  if (!end || end - p < 2 || end[-1] != '\r' || depth > 8) return 0;
  size_t line = (size_t)(end - p) + 1;
  for (const uint8_t *c = p + 1; c < end - 1; c++)
    if (*c == '\r') return 0;
  if (*p == '+' || *p == '-') return line;
  char number[32] = "", *stop;
  if (line - 3 >= sizeof number || line < 4) return 0;
  memcpy(number, p + 1, line - 3);
  long long v = strtoll(number, &stop, 10);
  if (*stop || stop == number || v < (*p == ':' ? INT64_MIN : -1)) return 0;
  if (*p == ':') return line;
  if (*p == '$') {
    if (v < 0) return line;
    return (size_t)v + 2 <= n - line && memcmp(p + line + v, "\r\n", 2) == 0 ? line + (size_t)v + 2 : 0;
  }
  if (*p != '*') return 0;
  for (long long i = 0; i < v; i++) {
    size_t k = reply_bytes(p + line, n - line, depth + 1);
    if (!k) return 0;
    line += k;
  }
  return line;
}

static void show(const struct buf *in, size_t at) {
  fprintf(stderr, "replies, from byte %zu on:\n%.*s\n", at, (int)(in->len - at), (char *)in->data + at);
}

/* ---- the store ---------------------------------------------------------------------------------------------- */

/* A sample of what is there comes back over the wire (which costs another connection); then it goes. */
static void check_and_clear(bool check) {
  dw_iter *it;
  dw_batch *gone = dw_batch_create();
  struct buf ask = {0}, want = {0}, got = {0};
  size_t n = 0, klen, vlen;
  CHECK(gone && dw_iter_create(engine, NULL, &it) == DW_OK);
  for (dw_iter_seek_first(it); dw_iter_valid(it); dw_iter_next(it)) {
    const char *key = dw_iter_key(it, &klen), *value = dw_iter_value(it, &vlen);
    CHECK(dw_batch_delete(gone, key, klen) == DW_OK);
    if (n++ >= 2 || !check) continue;
    CHECK(resp_array(&ask, 2) == DW_OK && resp_bulk(&ask, "GET", 3) == DW_OK && resp_bulk(&ask, key, klen) == DW_OK);
    CHECK(resp_bulk(&want, value, vlen) == DW_OK);
  }
  CHECK(dw_iter_status(it) == DW_OK);
  dw_iter_destroy(it);
  if (n) {
    if (check) talk(ask.data, ask.len, &got);
    CHECK(got.len == want.len && (got.len == 0 || memcmp(got.data, want.data, want.len) == 0));
    CHECK(dw_write(engine, NULL, gone, NULL) == DW_OK);
  }
  dw_batch_destroy(gone);
  buf_free(&ask);
  buf_free(&want);
  buf_free(&got);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!server) start();
  size_t want, got = 0;
  bool cut = false;
  if (size == 0 || !expect(data, size, &want, &cut)) return 0;
  struct buf in = {0};
  talk(data, size, &in);
  for (size_t at = 0, n; at < in.len; at += n, got++) {
    n = reply_bytes(in.data + at, in.len - at, 0);
    if (!n) show(&in, at);
    CHECK(n);
  }
  if (cut && got < want) want = got;
  if (got != want) {
    fprintf(stderr, "%zu replies, %zu expected\n", got, want);
    show(&in, 0);
  }
  CHECK(got == want);
  buf_free(&in);
  if (cut)
    (void)dw_delete(engine, NULL, "-", 1, NULL); /* writes of a connection that ended may be under way: let them pass */
  check_and_clear(size % 4 == 0);
  return 0;
}
