/* The HTTP pages: our request handler as libmicrohttpd calls it (which parses the wire), with any method, path and
 * body, on a node whose status holds whatever other nodes told it. And `dabbawal status`, which shows what any server
 * answers.
 *
 * Checked: every request gets one response, or is put off as the contract of libmicrohttpd allows; /status is JSON,
 * /metrics keeps Prometheus' grammar; no control character gets from a peer to a page or a terminal. Input: 1 byte: bit
 * 0: a JSON text for the status table; else path up to the first newline, then the status: each field as the bytes
 * come. */
#include "replication/cmd/http_server.c" /* its handler is static */

#include <ctype.h>

#include "fuzz/fuzz.h"
#include "replication/cmd/status_table.h"
#include "replication/cmd/text.h"

/* ---- libmicrohttpd, as far as the handler needs it -------------------------------------------------------- */

struct MHD_Response {
  size_t n;
  void *data;
  enum MHD_ResponseMemoryMode mode;
  unsigned refs;
};

static struct MHD_Response *queued;
static unsigned queued_status, queued_count;

struct MHD_Response *MHD_create_response_from_buffer(size_t n, void *data, enum MHD_ResponseMemoryMode mode) {
  struct MHD_Response *r = malloc(sizeof *r);
  CHECK(r);
  *r = (struct MHD_Response){n, data, mode, 1};
  return r;
}

enum MHD_Result MHD_add_response_header(struct MHD_Response *r, const char *name, const char *value) {
  CHECK(r && *name && *value && !strpbrk(name, "\r\n") && !strpbrk(value, "\r\n"));
  return MHD_YES;
}

void MHD_destroy_response(struct MHD_Response *r) {
  if (--r->refs) return;
  if (r->mode == MHD_RESPMEM_MUST_FREE) free(r->data);
  free(r);
}

enum MHD_Result MHD_queue_response(struct MHD_Connection *c, unsigned status, struct MHD_Response *r) {
  (void)c;
  r->refs++;
  queued = r;
  queued_status = status;
  queued_count++;
  return MHD_YES;
}

/* ---- a node -------------------------------------------------------------------------------------------------- */

static struct node_view node;
static int collect_rc;

static int collect(void *arg, struct node_view *v) {
  (void)arg;
  *v = node;
  return collect_rc;
}

static void text_field(struct feed *f, char *dst, size_t cap) {
  size_t n;
  const uint8_t *p = feed_bytes(f, feed_u8(f) % cap, &n);
  memset(dst, 0, cap);
  if (n) memcpy(dst, p, n);
}

static void make_status(struct feed *f) {
  dw_status *s = &node.status;
  memset(&node, 0, sizeof node);
  uint8_t how = feed_u8(f);
  s->role = how & 1 ? DW_FOLLOWER : DW_PRIMARY;
  s->mode = (dw_mode)(1 + how / 2 % 3);
  s->ack = (dw_ack)(1 + how / 8 % 3);
  s->degraded = how & 64;
  s->failed = how & 128;
  s->primary_state = (dw_peer_state)(feed_u8(f) % 8);
  text_field(f, s->region, sizeof s->region);
  text_field(f, s->primary, sizeof s->primary);
  text_field(f, s->error, sizeof s->error);
  s->node_id = feed_u64(f);
  s->epoch = feed_u16(f);
  s->staleness_ms = feed_u64(f);
  s->commit_lsn = s->written_lsn = s->applied_lsn = feed_u64(f);
  s->follower_count = feed_u8(f) % (DW_STATUS_MAX_FOLLOWERS + 1);
  for (uint32_t i = 0; i < s->follower_count && feed_left(f); i++) {
    dw_follower_status *w = &s->followers[i];
    text_field(f, w->region, sizeof w->region);
    text_field(f, w->address, sizeof w->address);
    w->node_id = feed_u64(f);
    w->state = (dw_peer_state)(feed_u8(f) % 8);
    w->lag_ms = feed_u64(f);
    w->staleness_ms = feed_u64(f);
  }
  node.has_resp = how & 32;
  node.resp.command_count = node.has_resp ? 1 : 0;
  node.resp.by_command[0].name = "get";
  collect_rc = feed_u8(f) == 7 ? DW_IO : DW_OK;
}

/* ---- what is served ------------------------------------------------------------------------------------------- */

static void check_printable(const char *p, size_t n) {
  for (size_t i = 0; i < n; i++) CHECK(p[i] == '\n' || ((unsigned char)p[i] >= 0x20 && p[i] != 0x7f));
}

static void show_table(const cJSON *json) {
  char *text = NULL;
  size_t n = 0;
  FILE *f = open_memstream(&text, &n);
  CHECK(f);
  status_table(f, json);
  fclose(f);
  check_printable(text, n);
  free(text);
}

static void check_status(const char *p, size_t n) {
  cJSON *json = cJSON_ParseWithLength(p, n);
  CHECK(json);
  show_table(json);
  cJSON_Delete(json);
}

/* name{label="value",...} number */
static void check_sample(const char *p, const char *end) {
  const char *start = p;
  while (p < end && (isalnum((unsigned char)*p) || *p == '_' || *p == ':')) p++;
  CHECK(p > start && p < end);
  for (bool first = true; *p == '{' || *p == ','; first = false) {
    CHECK((*p == '{') == first);
    for (start = ++p; p < end && (isalnum((unsigned char)*p) || *p == '_'); p++) {
    }
    CHECK(p > start && end - p > 2 && p[0] == '=' && p[1] == '"');
    for (p += 2; p < end && *p != '"'; p++)
      if (*p == '\\') CHECK(++p < end && strchr("\\\"n", *p));
    CHECK(p < end);
    p++;
    if (*p == '}') {
      p++;
      break;
    }
  }
  CHECK(p < end && *p == ' ');
  char number[64], *stop;
  CHECK((size_t)(end - p - 1) < sizeof number);
  memcpy(number, p + 1, (size_t)(end - p - 1));
  number[end - p - 1] = 0;
  (void)strtod(number, &stop);
  CHECK(stop != number && !*stop);
}

static void check_metrics(const char *p, size_t n) {
  for (const char *end, *stop = p + n; p < stop; p = end + 1) {
    end = memchr(p, '\n', (size_t)(stop - p));
    CHECK(end && text_is_utf8(p, (size_t)(end - p)));
    if (*p != '#')
      check_sample(p, end);
    else
      CHECK(strncmp(p, "# HELP ", 7) == 0 || strncmp(p, "# TYPE ", 7) == 0);
  }
}

static void check_response(const char *url) {
  CHECK(queued_count == 1 && queued && queued->n > 0);
  const char *p = queued->data;
  check_printable(p, queued->n);
  if (queued_status == MHD_HTTP_OK && strcmp(url, "/status") == 0) check_status(p, queued->n);
  if (queued_status == MHD_HTTP_OK && strcmp(url, "/metrics") == 0) check_metrics(p, queued->n);
  bool known = false;
  for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) known |= strcmp(pages[i].path, url) == 0;
  if (queued_status != MHD_HTTP_METHOD_NOT_ALLOWED) CHECK(known == (queued_status != MHD_HTTP_NOT_FOUND));
  if (known && collect_rc) CHECK(queued_status != MHD_HTTP_OK);
  MHD_destroy_response(queued);
  queued = NULL;
}

/* As libmicrohttpd does: headers, the body in pieces, the end. */
static void request(struct http_server *h, const char *method, const char *url, size_t body) {
  void *state = NULL;
  size_t n = 0;
  queued_count = 0;
  enum MHD_Result rc = on_request(h, NULL, url, method, "HTTP/1.1", NULL, &n, &state);
  while (rc == MHD_YES && !queued_count && body) {
    n = body > 10 ? 10 : body;
    size_t given = n;
    rc = on_request(h, NULL, url, method, "HTTP/1.1", "0123456789", &n, &state);
    CHECK(n <= given);
    body -= given - n;
    CHECK(rc == MHD_YES && n < given);
  }
  n = 0;
  if (rc == MHD_YES && !queued_count) rc = on_request(h, NULL, url, method, "HTTP/1.1", NULL, &n, &state);
  CHECK(rc == MHD_YES);
  check_response(url);
}

static void table_of_json(const uint8_t *p, size_t n) {
  char *text = (char *)exact_copy(p, n);
  cJSON *json = cJSON_ParseWithLength(text, n);
  if (json) show_table(json);
  cJSON_Delete(json);
  free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const methods[] = {"GET", "HEAD", "POST", "", "OPTIONS", "get"};
  struct feed f = {data, size};
  uint8_t how = feed_u8(&f);
  if (how & 1) {
    table_of_json(f.p, f.n);
    return 0;
  }
  char url[256];
  size_t n = 0;
  while (feed_left(&f) && n < sizeof url - 1 && (url[n] = (char)feed_u8(&f)) != '\n') n++;
  url[n] = 0;
  make_status(&f);
  struct http_server h = {.opt = {.collect = collect, .max_staleness_ms = how & 2 ? 100 : 0}};
  request(&h, methods[how / 4 % 6], url, how >> 5);
  CHECK(atomic_load(&h.requests) == 1);
  return 0;
}
