/* `dabbawal load`: reads, parses, sends with a bounded window, counts what comes back.
 *
 *   file --chunks--> parser --records--> queued bytes --socket--> server
 *                                             <-------replies---- matched to records in order
 *
 * Memory is bounded by one chunk, one record, the window (--pipeline) and QUEUE_BYTES of unsent commands: whatever
 * would exceed them first waits for replies. Nothing is sent twice: a failed record is reported and counted.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "replication/cmd/cli.h"
#include "replication/cmd/config.h"
#include "replication/cmd/load_parse.h"
#include "replication/cmd/load_progress.h"
#include "replication/cmd/resp_client.h"
#include "replication/cmd/text.h"
#include "wal/base/status.h"

#define CHUNK_BYTES 262144u
#define QUEUE_BYTES (1u << 20)
#define FLUSH_BYTES 65536u
#define SHOWN_MAX 10 /* messages of one kind; the rest is counted */

struct load {
  const char *name; /* of the input, for messages */
  enum load_format format;
  uint64_t window, timeout_ms;
  const char *mode;
  int fd;
  uint64_t input_bytes, read_bytes; /* size of the file, 0: unknown */
  struct resp_client *client;
  bool connected;
  struct buf command;
  uint64_t *lines; /* ring: where the records in flight began */
  uint64_t sent, answered;
  uint64_t loaded, refused, in_doubt, bad; /* answers by kind; malformed records */
  struct load_progress progress;
};

static const char *unit(const struct load *l) {
  return l->format == LOAD_RESP ? "command" : "line";
}

static void complain(struct load *l, uint64_t count, uint64_t line, const char *what) {
  if (count > SHOWN_MAX) return;
  load_progress_clear(&l->progress);
  cli_fail("load", 0, "%s: %s %llu: %s", l->name, unit(l), (unsigned long long)line, what);
  if (count == SHOWN_MAX) cli_fail("load", 0, "%s: more of these are only counted", l->name);
}

/* ---- replies ----------------------------------------------------------------------------------- */

static int on_reply(void *arg, const struct resp_reader *r) {
  struct load *l = arg;
  if (l->answered == l->sent) return dw_fail(DW_CORRUPT, "a reply that nobody asked for");
  uint64_t line = l->lines[l->answered++ % l->window];
  if (r->kind != '-') {
    l->loaded++;
    return DW_OK;
  }
  char text[300];
  snprintf(text, sizeof text, "%.*s", (int)(r->text.len < 299 ? r->text.len : 299), (const char *)r->text.data);
  if (strncmp(text, "READONLY", 8) == 0) {
    l->refused++;
    return dw_fail(DW_READ_ONLY, "%s (load at the primary)", text);
  }
  if (line == 0) { /* DW.MODE's */
    l->refused++;
    return dw_fail(DW_INVALID, "--mode '%s' is refused: %s", l->mode, text);
  }
  if (strncmp(text, "INDOUBT", 7) == 0)
    complain(l, ++l->in_doubt, line, text);
  else
    complain(l, ++l->refused, line, text);
  return DW_OK;
}

static int wait_until(struct load *l, uint64_t in_flight, size_t queued) {
  int rc = DW_OK;
  while (rc == DW_OK && (l->sent - l->answered > in_flight || resp_client_queued(l->client) > queued)) {
    rc = resp_client_pump(l->client);
    load_progress_show(&l->progress, l->answered, l->read_bytes, l->input_bytes, false);
  }
  return rc;
}

/* ---- records ----------------------------------------------------------------------------------- */

static int send_command(struct load *l, uint64_t line, const void *bytes, size_t n) {
  int rc = wait_until(l, l->window - 1, QUEUE_BYTES);
  if (rc) return rc;
  l->lines[l->sent++ % l->window] = line;
  rc = resp_client_queue(l->client, bytes, n);
  if (rc == DW_OK && resp_client_queued(l->client) >= FLUSH_BYTES) rc = resp_client_pump(l->client);
  return rc;
}

static int on_record(void *arg, uint64_t line, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen) {
  struct load *l = arg;
  l->command.len = 0;
  int rc = resp_command_append(&l->command, 3, (const void *const[]){"SET", key, val}, (const size_t[]){3, klen, vlen});
  return rc ? rc : send_command(l, line, l->command.data, l->command.len);
}

static int on_command(void *arg, uint64_t line, const uint8_t *bytes, size_t n) {
  return send_command(arg, line, bytes, n);
}

static int on_malformed(void *arg, uint64_t line, const char *why) {
  struct load *l = arg;
  complain(l, ++l->bad, line, why);
  return DW_OK;
}

/* ---- the run ----------------------------------------------------------------------------------- */

/* "sync 2 applied" -> DW.MODE SYNC 2 APPLIED, and its answer awaited before anything else is sent. */
static int send_mode(struct load *l) {
  char words[200];
  const void *argv[10] = {"DW.MODE"};
  size_t argl[10] = {7}, argc = 1;
  snprintf(words, sizeof words, "%s", l->mode);
  for (char *save = NULL, *w = strtok_r(words, " ", &save); w && argc < 10; w = strtok_r(NULL, " ", &save), argc++) {
    argv[argc] = strcasecmp(w, "semi-sync") == 0 ? "SEMISYNC" : w;
    argl[argc] = strlen(argv[argc]);
  }
  l->command.len = 0;
  int rc = resp_command_append(&l->command, argc, argv, argl);
  if (rc == DW_OK) rc = send_command(l, 0, l->command.data, l->command.len);
  if (rc == DW_OK) rc = wait_until(l, 0, 0);
  l->loaded = 0;
  return rc;
}

static int read_all(struct load *l, struct load_parser *p) {
  uint8_t *chunk = malloc(CHUNK_BYTES);
  int rc = chunk ? DW_OK : dw_fail_nomem(CHUNK_BYTES);
  while (rc == DW_OK) {
    ssize_t n = read(l->fd, chunk, CHUNK_BYTES);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) rc = dw_fail_errno(errno, "read %s", l->name);
    if (n <= 0) break;
    l->read_bytes += (uint64_t)n;
    rc = load_parser_feed(p, chunk, (size_t)n);
    load_progress_show(&l->progress, l->answered, l->read_bytes, l->input_bytes, false);
  }
  if (rc == DW_OK) rc = load_parser_finish(p);
  free(chunk);
  return rc;
}

static int run(struct load *l, const char *address) {
  struct load_sink sink = {.record = on_record, .command = on_command, .malformed = on_malformed, .arg = l};
  struct load_parser parser;
  load_parser_init(&parser, l->format, &sink);
  l->lines = calloc(l->window, sizeof *l->lines);
  int rc = l->lines ? DW_OK : dw_fail_nomem(l->window * sizeof *l->lines);
  if (rc == DW_OK) rc = resp_client_open(address, (unsigned)l->timeout_ms, 300, on_reply, l, &l->client);
  l->connected = rc == DW_OK;
  if (rc == DW_OK && l->mode) rc = send_mode(l);
  l->progress.started_ns = load_progress_now();
  if (rc == DW_OK) rc = read_all(l, &parser);
  /* What was sent before the input went wrong is still answered and counted. */
  if (l->client && (rc == DW_OK || rc == DW_CORRUPT)) {
    char why[400];
    dw_error_copy(why, sizeof why);
    int last = wait_until(l, 0, 0);
    rc = last ? last : rc ? dw_fail(rc, "%s", why) : DW_OK;
  }
  load_parser_free(&parser);
  resp_client_close(l->client);
  free(l->lines);
  buf_free(&l->command);
  return rc;
}

static void summary(struct load *l) {
  double s = (double)(load_progress_now() - l->progress.started_ns) / 1e9;
  char bytes[32], rate[32];
  if (s < 1e-6) s = 1e-6;
  text_bytes(bytes, sizeof bytes, (double)l->read_bytes);
  text_bytes(rate, sizeof rate, (double)l->read_bytes / s);
  printf("loaded %llu %s, %s in %.2f s: %.0f records/s, %s/s", (unsigned long long)l->loaded,
         l->format == LOAD_RESP ? "commands" : "records", bytes, s, (double)l->loaded / s, rate);
  uint64_t lost = l->sent - l->answered;
  if (l->refused) printf("; %llu refused", (unsigned long long)l->refused);
  if (l->in_doubt) printf("; %llu in doubt", (unsigned long long)l->in_doubt);
  if (l->bad) printf("; %llu malformed", (unsigned long long)l->bad);
  if (lost) printf("; %llu unanswered", (unsigned long long)lost);
  printf("\n");
}

static bool pick_format(struct load *l, const char *format) {
  const char *dot = strrchr(l->name, '.');
  if (!format) format = dot && (strcmp(dot, ".tsv") == 0 || strcmp(dot, ".resp") == 0) ? dot + 1 : "deb822";
  if (strcmp(format, "deb822") == 0)
    l->format = LOAD_DEB822;
  else if (strcmp(format, "tsv") == 0)
    l->format = LOAD_TSV;
  else if (strcmp(format, "resp") == 0)
    l->format = LOAD_RESP;
  else
    return cli_wrong("load", "--format: '%.100s' is none of deb822, tsv or resp", format);
  return true;
}

static int open_input(struct load *l) {
  struct stat st;
  l->fd = strcmp(l->name, "-") == 0 ? dup(STDIN_FILENO) : open(l->name, O_RDONLY | O_CLOEXEC);
  if (l->fd < 0) return cli_fail("load", EXIT_RUNTIME, "can't open %s: %s", l->name, strerror(errno));
  if (fstat(l->fd, &st) == 0 && S_ISDIR(st.st_mode)) {
    close(l->fd);
    return cli_fail("load", EXIT_RUNTIME, "%s is a directory", l->name);
  }
  l->input_bytes = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
  return EXIT_OK;
}

int cli_load(int argc, char **argv) {
  const char *rest[2], *format = NULL, *pipeline = NULL, *timeout = NULL;
  struct load l = {.window = 256, .timeout_ms = 60000, .fd = -1};
  const struct cli_option options[] = {{"--format", &format, NULL},
                                       {"--pipeline", &pipeline, NULL},
                                       {"--mode", &l.mode, NULL},
                                       {"--timeout", &timeout, NULL}};
  size_t n;
  bool good = cli_arguments("load", argc, argv, options, 4, rest, 2, 2, &n);
  l.name = n == 2 ? rest[1] : "";
  good &= pick_format(&l, format);
  if (pipeline && !parse_number(pipeline, 1, 65536, &l.window))
    good = cli_wrong("load", "--pipeline: '%.100s' is not a number from 1 to 65536", pipeline);
  if (timeout && (!parse_duration_ms(timeout, &l.timeout_ms) || !l.timeout_ms || l.timeout_ms > 86400000))
    good = cli_wrong("load", "--timeout: '%.100s' is not a time from 1ms to 24h", timeout);
  char *address = n ? parse_address(rest[0]) : NULL;
  if (n && !address) good = cli_wrong("load", "%s", dw_last_error());
  int code = good ? open_input(&l) : EXIT_CONFIG;
  if (code == EXIT_OK) {
    load_progress_init(&l.progress);
    int rc = run(&l, address);
    load_progress_show(&l.progress, l.answered, l.read_bytes, l.input_bytes, true);
    if (rc) code = cli_fail("load", EXIT_RUNTIME, "%s", dw_last_error());
    if (l.connected) summary(&l);
    if (l.refused || l.in_doubt || l.bad) code = EXIT_RUNTIME;
    close(l.fd);
  }
  free(address);
  return code;
}
