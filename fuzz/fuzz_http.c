/* The HTTP pages: our request handler as libmicrohttpd calls it (which parses the wire), with any method, path and
 * body, on a node whose status holds whatever other nodes told it. And `dabbawal status`, which shows what any server
 * answers.
 *
 * Checked: every request gets one response, or is put off as the contract of libmicrohttpd allows; /status is JSON and
 * has every follower, /metrics keeps Prometheus' grammar; no control character and no broken UTF-8 gets from a peer to
 * a page or a terminal; nothing of cJSON is left. Input: 1 byte: bit 0: a JSON text for the status table; else path up
 * to the first newline, then the status: each field as the bytes come.
 *
 * A page is thousands of bytes, so most of the time went into looking at it: the checks read each byte once, without
 * libFuzzer's counters; cJSON, which is not ours to check, allocates from an arena; the process' own figures come from
 * the input instead of /proc. */
#define metrics_process fuzz_metrics_process
#include "replication/cmd/http_server.c" /* its handler is static */

#include <cjson/cJSON.h>

#include "fuzz/fuzz.h"
#include "replication/cmd/status_table.h"

/* ---- cJSON's nodes and strings ---------------------------------------------------------------------------- */

static char arena[1u << 20];
static size_t arena_used, arena_live;

/* What is as long as a text for others comes from malloc: it is freed by our code. */
static UNCOUNTED void *arena_alloc(size_t n) {
  if (n >= 200) return malloc(n);
  n = (n + 15) & ~(size_t)15;
  if (arena_used + n > sizeof arena) return NULL;
  arena_live++;
  arena_used += n;
  return arena + arena_used - n;
}

static UNCOUNTED void arena_free(void *p) {
  if ((char *)p < arena || (char *)p >= arena + sizeof arena) {
    free(p);
    return;
  }
  CHECK(arena_live > 0);
  if (!--arena_live) arena_used = 0;
}

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

void metrics_process(struct node_view *v) {
  v->open_fds = v->status.node_id;
  v->resident_bytes = v->status.epoch;
}

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

static void make_followers(struct feed *f, dw_status *s) {
  uint32_t count = feed_u8(f) % (DW_STATUS_MAX_FOLLOWERS + 1);
  for (; s->follower_count < count && feed_left(f); s->follower_count++) {
    dw_follower_status *w = &s->followers[s->follower_count];
    text_field(f, w->region, sizeof w->region);
    text_field(f, w->address, sizeof w->address);
    w->node_id = feed_u64(f);
    w->state = (dw_peer_state)(feed_u8(f) % 8);
    w->lag_ms = feed_u64(f);
    w->staleness_ms = feed_u64(f);
  }
}

static void make_members(struct feed *f, dw_status *s) {
  uint32_t count = feed_u8(f) % 8;
  for (; s->member_count < count && feed_left(f); s->member_count++) {
    dw_member *m = &s->members[s->member_count];
    text_field(f, m->client_address, sizeof m->client_address);
    text_field(f, m->address, sizeof m->address);
    text_field(f, m->region, sizeof m->region);
    m->node_id = feed_u16(f);
    m->priority = feed_u8(f);
    m->role = m->priority & 1 ? DW_FOLLOWER : DW_PRIMARY;
  }
}

static void make_failover(struct feed *f, struct failover_report *r) {
  uint8_t how = feed_u8(f);
  r->state = (enum failover_state)(how % 8);
  r->reachable = how & 8, r->paused = how & 16, r->has_leader = how & 32, r->restricted = how & 64;
  r->lease_left_ms = r->term = r->leader_node = feed_u64(f);
  text_field(f, r->leader, sizeof r->leader);
  text_field(f, r->leader_client, sizeof r->leader_client);
  text_field(f, r->decision, sizeof r->decision);
  text_field(f, r->score, sizeof r->score);
}

static void make_epochs(struct feed *f, struct status_epochs *e) {
  e->count = feed_u8(f) % 4u;
  e->total = e->count + feed_u8(f);
  for (size_t i = 0; i < e->count; i++)
    e->last[i] = (struct epoch_record){.epoch = feed_u64(f), .reason = feed_u8(f), .wall_ns = feed_u64(f)};
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
  make_followers(f, s);
  node.has_resp = how & 32;
  node.resp.command_count = node.has_resp ? 1 : 0;
  node.resp.by_command[0].name = "get";
  collect_rc = feed_u8(f) == 7 ? DW_IO : DW_OK;
  uint8_t more = feed_u8(f);
  node.has_failover = more & 1;
  s->fenced = more & 2;
  s->stopping = more & 4;
  s->scrub_total_bytes = s->damage_found = s->diverged_files = more >> 3;
  text_field(f, s->primary_client, sizeof s->primary_client);
  text_field(f, s->scrub_result, sizeof s->scrub_result);
  s->promised_epoch = s->primary_node = s->degraded_count = feed_u8(f);
  make_members(f, s);
  make_epochs(f, &node.epochs);
  if (node.has_failover) make_failover(f, &node.failover);
}

/* ---- what is served ------------------------------------------------------------------------------------------- */

/* Bytes of the well-formed UTF-8 character at p that a page or a terminal may get, 0 if there is none. */
static UNCOUNTED size_t character(const unsigned char *p, size_t n) {
  if (p[0] < 0x80) return p[0] >= 0x20 && p[0] != 0x7f;
  size_t len = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
  if (p[0] < 0xc2 || p[0] > 0xf4 || n < len) return 0;
  uint32_t code = p[0] & (0x7fu >> len);
  for (size_t i = 1; i < len; i++) {
    if ((p[i] & 0xc0) != 0x80) return 0;
    code = code << 6 | (p[i] & 0x3fu);
  }
  bool longest = len == 4 ? code >= 0x10000 : len == 3 ? code >= 0x800 : code >= 0xa0; /* C1 controls are below */
  return longest && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff) ? len : 0;
}

/* Of eight bytes: none is below 0x20 or above 0x7e. */
static UNCOUNTED bool plain_word(const unsigned char *p) {
  uint64_t w, ones = 0x0101010101010101u, tops = ones << 7;
  memcpy(&w, p, 8);
  uint64_t low = (w - ones * 0x20) & ~w, del = w ^ ones * 0x7f;
  return !((w | low | ((del - ones) & ~del)) & tops);
}

static UNCOUNTED void check_text(const char *text, size_t n) {
  const unsigned char *p = (const unsigned char *)text;
  for (size_t i = 0, len; i < n; i += len) {
    if (n - i >= 8 && plain_word(p + i))
      len = 8;
    else
      CHECK(p[i] == '\n' ? (len = 1) : (len = character(p + i, n - i)));
  }
}

static void show_table(const cJSON *json) {
  char *text = NULL;
  size_t n = 0;
  FILE *f = open_memstream(&text, &n);
  CHECK(f);
  status_table(f, json);
  fclose(f);
  check_text(text, n);
  free(text);
}

static void check_status(const char *p, size_t n) {
  cJSON *json = cJSON_ParseWithLength(p, n);
  CHECK(json);
  CHECK(cJSON_GetArraySize(cJSON_GetObjectItem(json, "followers")) == (int)node.status.follower_count);
  CHECK(cJSON_GetArraySize(cJSON_GetObjectItem(json, "members")) == (int)node.status.member_count);
  CHECK(cJSON_HasObjectItem(json, "coordinator") == node.has_failover);
  if (node.status.commit_lsn % 4 == 0) show_table(json); /* looked at for any JSON besides */
  cJSON_Delete(json);
}

static UNCOUNTED bool name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* As Prometheus reads it: digits, point, digits, or +Inf. */
static UNCOUNTED void check_number(const char *p, const char *end) {
  if (end - p == 4 && memcmp(p, "+Inf", 4) == 0) return;
  const char *start = p;
  while (p < end && *p >= '0' && *p <= '9') p++;
  CHECK(p > start);
  if (p < end && *p == '.')
    for (start = ++p; p < end && *p >= '0' && *p <= '9';) p++;
  CHECK(p > start && p == end);
}

/* name{label="value",...} number */
static UNCOUNTED void check_sample(const char *p, const char *end) {
  const char *start = p;
  while (p < end && (name_char(*p) || *p == ':')) p++;
  CHECK(p > start && p < end);
  for (bool first = true; *p == '{' || *p == ','; first = false) {
    CHECK((*p == '{') == first);
    for (start = ++p; p < end && name_char(*p);) p++;
    CHECK(p > start && end - p > 2 && p[0] == '=' && p[1] == '"');
    for (p += 2; p < end && *p != '"'; p++)
      if (*p == '\\') {
        p++;
        CHECK(p < end && (*p == '\\' || *p == '"' || *p == 'n'));
      }
    CHECK(p < end);
    p++;
    if (*p == '}') {
      p++;
      break;
    }
  }
  CHECK(p < end && *p == ' ');
  check_number(p + 1, end);
}

static UNCOUNTED void check_metrics(const char *p, size_t n) {
  unsigned followers = 0;
  for (const char *end, *stop = p + n; p < stop; p = end + 1) {
    end = memchr(p, '\n', (size_t)(stop - p));
    CHECK(end);
    if (*p == '#') {
      CHECK(end - p > 7 && (memcmp(p, "# HELP ", 7) == 0 || memcmp(p, "# TYPE ", 7) == 0));
      continue;
    }
    check_sample(p, end);
    followers += end - p > 29 && memcmp(p, "dabbawal_follower_sent_bytes_", 29) == 0;
  }
  CHECK(followers == node.status.follower_count);
}

static void check_response(const char *url) {
  CHECK(queued_count == 1 && queued && queued->n > 0);
  const char *p = queued->data;
  check_text(p, queued->n);
  if (queued_status == MHD_HTTP_OK && strcmp(url, "/status") == 0) check_status(p, queued->n);
  if (queued_status == MHD_HTTP_OK && strcmp(url, "/metrics") == 0) check_metrics(p, queued->n);
  bool known = false;
  for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) known |= strcmp(pages[i].path, url) == 0;
  if (queued_status != MHD_HTTP_METHOD_NOT_ALLOWED) CHECK(known == (queued_status != MHD_HTTP_NOT_FOUND));
  if (known && collect_rc) CHECK(queued_status != MHD_HTTP_OK);
  MHD_destroy_response(queued);
  queued = NULL;
  CHECK(arena_live == 0);
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
  CHECK(arena_live == 0);
  free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const methods[] = {"GET", "HEAD", "POST", "", "OPTIONS", "get"};
  struct feed f = {data, size};
  uint8_t how = feed_u8(&f);
  cJSON_InitHooks(&(cJSON_Hooks){arena_alloc, arena_free});
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
