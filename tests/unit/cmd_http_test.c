/* What a node tells: JSON, metrics, probes; and the HTTP server around them, over raw sockets. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "replication/cmd/http_server.h"
#include "replication/cmd/status_table.h"
#include "replication/cmd/net.h"
#include "replication/cmd/status_json.h"
#include "tests/support/check_main.h"
#include "wal/base/status.h"

#define BIG 9007199254740993ull /* 2^53 + 1: a double can't hold it */

static struct node_view view;

static void fill_view(void) {
  dw_status *s = &view.status;
  memset(&view, 0, sizeof view);
  s->role = DW_PRIMARY;
  s->node_id = UINT64_MAX;
  s->mode = DW_SEMI_SYNC;
  s->ack = DW_ACK_APPLIED;
  s->acks = 2;
  s->degraded = 1;
  s->degraded_commits = 5;
  s->scrub_done_bytes = 4096;
  s->damage_found = 3;
  s->damage_repaired = 2;
  s->damage_now = 1;
  snprintf(s->scrub_result, sizeof s->scrub_result, "repaired\nit");
  s->written_lsn = BIG;
  s->commit_lsn = 41;
  memset(s->cluster_id, 0xab, 16);
  snprintf(s->region, sizeof s->region, "a\"b\\c\n\xff\xe0\xa4\xae");
  snprintf(s->error, sizeof s->error, "line\nbreak \"quoted\"");
  s->follower_count = 2;
  s->followers[0] =
      (dw_follower_status){.node_id = 11, .region = "pune", .address = "127.0.0.1:1", .state = DW_PEER_STREAMING};
  s->followers[0].applied_lsn = 40;
  s->followers[0].lag_ms = 1500;
  s->followers[0].staleness_ms = 20;
  s->followers[1] = (dw_follower_status){.node_id = 12, .region = "x\"", .staleness_ms = UINT64_MAX};
  s->epoch = (3ull << 32) + 5;
  s->promised_epoch = 4ull << 32;
  s->promised_node = 12;
  s->primary_node = UINT64_MAX;
  snprintf(s->primary_client, sizeof s->primary_client, "10.0.0.1:6379");
  s->member_count = 2;
  s->members[0] = (dw_member){.node_id = UINT64_MAX, .role = DW_PRIMARY, .priority = 100};
  s->members[1] = (dw_member){.node_id = 11,
                              .role = DW_FOLLOWER,
                              .priority = 7,
                              .client_address = "10.0.0.2:6379",
                              .address = "10.0.0.2:7400",
                              .region = "pune"};
  view.epochs.total = 40;
  view.epochs.count = 2;
  view.epochs.last[0] = (struct epoch_record){.epoch = 1, .node_id = 11, .reason = EPOCH_CREATED};
  view.epochs.last[1] =
      (struct epoch_record){.epoch = s->epoch, .node_id = 12, .reason = EPOCH_PROMOTED, .start = {.lsn = 33}};
  view.has_resp = true;
  view.resp.commands_total = 77;
  view.start_time_s = 1.5;
}

static double number(const cJSON *o, const char *name) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
  ck_assert_msg(cJSON_IsNumber(v), "%s is no number", name);
  return v->valuedouble;
}
static const char *text(const cJSON *o, const char *name) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
  ck_assert_msg(cJSON_IsString(v), "%s is no string", name);
  return v->valuestring;
}

START_TEST(status_as_json_can_be_read_back) {
  fill_view();
  size_t n = 0;
  char *json = status_json(&view.status, &view.epochs, &n);
  ck_assert_uint_eq(n, strlen(json));
  ck_assert_ptr_nonnull(strstr(json, "\"written_lsn\":9007199254740993")); /* not rounded */
  cJSON *o = cJSON_Parse(json);
  ck_assert_ptr_nonnull(o);
  ck_assert_str_eq(text(o, "role"), "primary");
  ck_assert_str_eq(text(o, "node_id"), "18446744073709551615");
  ck_assert_str_eq(text(o, "cluster_id"), "abababababababababababababababab");
  ck_assert_str_eq(text(o, "region"), "a\"b\\c??\xe0\xa4\xae"); /* what would spoil it is replaced */
  ck_assert_str_eq(text(o, "mode"), "semi-sync");
  ck_assert_str_eq(text(o, "ack"), "applied");
  ck_assert_double_eq(number(o, "acks"), 2);
  ck_assert(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "degraded")));
  ck_assert_double_eq(number(o, "degraded_commits"), 5);
  ck_assert_double_eq(number(o, "scrub_done_bytes"), 4096);
  ck_assert_double_eq(number(o, "damage_found"), 3);
  ck_assert_double_eq(number(o, "damage_repaired"), 2);
  ck_assert_double_eq(number(o, "damage_now"), 1);
  ck_assert_str_eq(text(o, "scrub_result"), "repaired?it");
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(o, "followers");
  ck_assert_int_eq(cJSON_GetArraySize(list), 2);
  const cJSON *f = cJSON_GetArrayItem(list, 0), *g = cJSON_GetArrayItem(list, 1);
  ck_assert_str_eq(text(f, "state"), "streaming");
  ck_assert_double_eq(number(f, "applied_lsn"), 40);
  ck_assert_double_eq(number(f, "staleness_ms"), 20);
  ck_assert(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(g, "staleness_ms"))); /* unknown */
  ck_assert_double_eq(number(o, "term"), 3);
  ck_assert_double_eq(number(o, "promised_epoch"), (double)(4ull << 32));
  ck_assert_str_eq(text(o, "promised_node"), "12");
  ck_assert(cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(o, "fenced")));
  ck_assert(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "writable")));
  ck_assert_str_eq(text(o, "primary_client"), "10.0.0.1:6379");
  list = cJSON_GetObjectItemCaseSensitive(o, "members");
  ck_assert_int_eq(cJSON_GetArraySize(list), 2);
  f = cJSON_GetArrayItem(list, 1);
  ck_assert_str_eq(text(f, "node_id"), "11");
  ck_assert_str_eq(text(f, "role"), "follower");
  ck_assert_str_eq(text(f, "client_address"), "10.0.0.2:6379");
  ck_assert_str_eq(text(f, "address"), "10.0.0.2:7400");
  ck_assert_str_eq(text(f, "region"), "pune");
  ck_assert_double_eq(number(f, "priority"), 7);
  list = cJSON_GetObjectItemCaseSensitive(o, "epochs");
  ck_assert_int_eq(cJSON_GetArraySize(list), 2);
  ck_assert_double_eq(number(o, "epochs_total"), 40);
  f = cJSON_GetArrayItem(list, 1);
  ck_assert_str_eq(text(f, "reason"), "promoted");
  ck_assert_str_eq(text(f, "node_id"), "12");
  ck_assert_double_eq(number(f, "term"), 3);
  ck_assert_double_eq(number(f, "start_lsn"), 33);
  cJSON_Delete(o);
  free(json);
}
END_TEST

/* ---- metrics ------------------------------------------------------------------------------------ */

static char *metrics(void) {
  struct buf out = {0};
  ck_assert_int_eq(metrics_render(&view, &out), DW_OK);
  ck_assert_int_eq(buf_append(&out, "", 1), DW_OK);
  return (char *)out.data;
}

START_TEST(metrics_say_what_the_status_says) {
  fill_view();
  char *m = metrics();
  static const char *const lines[] = {
      "\ndabbawal_written_lsn{node=\"18446744073709551615\",region=\"a\\\"b\\\\c??\xe0\xa4\xae\"} 9007199254740993\n",
      "# TYPE dabbawal_commits_total counter\n",
      "follower=\"11\",follower_region=\"pune\"} 40\n",
      "follower=\"11\",follower_region=\"pune\"} 1.500\n",
      "dabbawal_follower_staleness_seconds{node=\"18446744073709551615\",region=\"a\\\"b\\\\c??\xe0\xa4\xae\",follower="
      "\"12\","
      "follower_region=\"x\\\"\"} +Inf\n",
      "mode=\"semi-sync\",ack=\"applied\"} 1\n",
      "# TYPE dabbawal_log_damage_repaired_total counter\n",
      "dabbawal_log_damaged_segments{node=\"18446744073709551615\",region=\"a\\\"b\\\\c??\xe0\xa4\xae\"} 1\n",
      "dabbawal_resp_commands_total"};
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) ck_assert_msg(strstr(m, lines[i]) != NULL, "%s", lines[i]);
  free(m);
  view.has_resp = false;
  view.status.follower_count = 0;
  m = metrics();
  ck_assert_ptr_null(strstr(m, "dabbawal_resp_"));
  ck_assert_ptr_null(strstr(m, "dabbawal_follower_"));
  free(m);
}
END_TEST

/* promtool lints names, types, help texts and the format itself; it is silent if all is well. */
static void check_with_promtool(void) {
  FILE *p = popen("promtool check metrics >/dev/null 2>&1", "w");
  char *m = metrics();
  ck_assert_ptr_nonnull(p);
  fputs(m, p);
  free(m);
  ck_assert_int_eq(pclose(p), 0);
}

START_TEST(metrics_pass_promtool) {
  if (system("command -v promtool >/dev/null 2>&1") != 0) return; /* not installed here */
  fill_view();
  metrics_process(&view);
  ck_assert_uint_gt(view.resident_bytes, 100000);
  ck_assert_uint_gt(view.open_fds, 2);
  check_with_promtool();
  view.status.role = DW_FOLLOWER;
  view.status.staleness_ms = UINT64_MAX;
  view.status.follower_count = DW_STATUS_MAX_FOLLOWERS;
  for (uint32_t i = 0; i < DW_STATUS_MAX_FOLLOWERS; i++) view.status.followers[i].node_id = i + 1;
  check_with_promtool();
}
END_TEST

START_TEST(a_follower_is_ready_only_within_its_bound) {
  char why[200];
  dw_status *s = &view.status;
  memset(s, 0, sizeof *s);
  ck_assert(node_ready(s, 0, why, sizeof why)); /* a primary */
  s->role = DW_FOLLOWER;
  s->staleness_ms = UINT64_MAX; /* nothing heard yet */
  ck_assert(!node_ready(s, 0, why, sizeof why));
  ck_assert_ptr_nonnull(strstr(why, "staleness_ms=unknown"));
  s->staleness_ms = 900;
  ck_assert(node_ready(s, 0, why, sizeof why));
  ck_assert(node_ready(s, 900, why, sizeof why));
  ck_assert(!node_ready(s, 899, why, sizeof why));
  ck_assert_str_eq(why, "not ready: staleness_ms=900 bound_ms=899");
  s->failed = 1;
  snprintf(s->error, sizeof s->error, "disk on fire");
  ck_assert(!node_ready(s, 0, why, sizeof why));
  ck_assert(!node_healthy(s, why, sizeof why));
  ck_assert_str_eq(why, "failed: disk on fire");
}
END_TEST

/* ---- the server --------------------------------------------------------------------------------- */

static struct http_server *server;
static char answer[65536];

static int collect(void *arg, struct node_view *v) {
  *v = view;
  return *(int *)arg;
}
static int collect_rc;

static void setup(void) {
  struct http_options o = {.listen = "127.0.0.1:0", .collect = collect, .arg = &collect_rc, .max_staleness_ms = 100};
  fill_view();
  collect_rc = DW_OK;
  ck_assert_int_eq(http_server_start(&o, &server), DW_OK);
  ck_assert_uint_ne(http_server_port(server), 0);
}
static void teardown(void) {
  http_server_stop(server);
}

/* Sends bytes, reads until the server closes; the status code, 0 if there was no answer. */
static int exchange(const char *request, size_t n) {
  char address[32];
  int fd;
  snprintf(address, sizeof address, "127.0.0.1:%u", http_server_port(server));
  ck_assert_int_eq(net_connect(address, 5000, &fd), DW_OK);
  for (size_t at = 0; at < n;) {
    ssize_t put = send(fd, request + at, n - at, MSG_NOSIGNAL);
    if (put <= 0) break;
    at += (size_t)put;
  }
  size_t len = 0;
  for (ssize_t got; len < sizeof answer - 1 && (got = recv(fd, answer + len, sizeof answer - 1 - len, 0)) > 0;)
    len += (size_t)got;
  answer[len] = 0;
  close(fd);
  return strncmp(answer, "HTTP/1.", 7) == 0 ? atoi(answer + 9) : 0;
}
static int get(const char *method, const char *path) {
  char request[200];
  return exchange(request, (size_t)snprintf(request, sizeof request,
                                            "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method, path));
}
static const char *body(void) {
  const char *p = strstr(answer, "\r\n\r\n");
  return p ? p + 4 : "";
}

START_TEST(each_page_is_served_with_its_type) {
  ck_assert_int_eq(get("GET", "/metrics"), 200);
  ck_assert_ptr_nonnull(strstr(answer, "text/plain; version=0.0.4"));
  ck_assert_ptr_nonnull(strstr(body(), "dabbawal_http_requests_total"));
  ck_assert_int_eq(get("GET", "/status"), 200);
  ck_assert_ptr_nonnull(strstr(answer, "application/json"));
  cJSON *o = cJSON_Parse(body());
  ck_assert_str_eq(text(o, "role"), "primary");
  cJSON_Delete(o);
  ck_assert_int_eq(get("GET", "/healthz"), 200);
  ck_assert_str_eq(body(), "ok\n");
  ck_assert_int_eq(get("GET", "/readyz?verbose=1"), 200);
  ck_assert_int_eq(get("GET", "/"), 200);
  ck_assert_ptr_nonnull(strstr(body(), "/metrics"));
}
END_TEST

/* `dabbawal status` shows what a server that somebody was pointed to answers. */
START_TEST(a_status_table_carries_no_control_characters_to_the_terminal) {
  char *shown = NULL;
  size_t n = 0;
  FILE *f = open_memstream(&shown, &n);
  cJSON *o =
      cJSON_Parse("{\"role\":\"\\u001b[2Jprimary\",\"error\":\"a\\nb\",\"followers\":[{\"region\":\"\\u0007\"}]}");
  ck_assert_ptr_nonnull(o);
  status_table(f, o);
  fclose(f);
  ck_assert_ptr_nonnull(strstr(shown, "?[2Jprimary"));
  ck_assert_ptr_nonnull(strstr(shown, "a?b\n"));
  for (size_t i = 0; i < n; i++) ck_assert(shown[i] == '\n' || (unsigned char)shown[i] >= 0x20);
  cJSON_Delete(o);
  free(shown);
}
END_TEST

START_TEST(probes_turn_to_503_and_say_why) {
  view.status.role = DW_FOLLOWER;
  view.status.staleness_ms = 101;
  ck_assert_int_eq(get("GET", "/readyz"), 503);
  ck_assert_str_eq(body(), "not ready: staleness_ms=101 bound_ms=100\n");
  ck_assert_int_eq(get("GET", "/healthz"), 200);
  view.status.failed = 1;
  ck_assert_int_eq(get("GET", "/healthz"), 503);
  ck_assert_ptr_nonnull(strstr(body(), "failed: "));
  snprintf(view.status.error, sizeof view.status.error, "%s",
           "peer said \x1b[2J\xff"); /* the page says it is UTF-8 text */
  ck_assert_int_eq(get("GET", "/healthz"), 503);
  ck_assert_str_eq(body(), "failed: peer said ?[2J?\n");
  ck_assert_int_eq(get("GET", "/readyz"), 503);
  ck_assert_str_eq(body(), "failed: peer said ?[2J?\n");
  collect_rc = DW_IO;
  ck_assert_int_eq(get("GET", "/status"), 500);
}
END_TEST

/* HAProxy: `option httpchk OPTIONS /primary` is its default method, GET and HEAD are as good. */
static void ask_role(const char *path, int code, const char *line) {
  static const char *const methods[] = {"GET", "HEAD", "OPTIONS"};
  for (int i = 0; i < 3; i++) {
    int got = get(methods[i], path);
    ck_assert_msg(got == code, "%s %s: %d, not %d: %s", methods[i], path, got, code, body());
    ck_assert_str_eq(body(), i == 1 ? "" : line);
  }
}

START_TEST(primary_and_replica_say_who_takes_writes_now) {
  dw_status *s = &view.status;
  ask_role("/primary", 200, "role=primary epoch=12884901893 primary=10.0.0.1:6379\n");
  ask_role("/replica", 503, "no: role=primary epoch=12884901893 primary=10.0.0.1:6379\n");
  s->stopping = 1;
  ask_role("/primary", 503, "no: role=primary epoch=12884901893 primary=10.0.0.1:6379 stopping\n");
  s->stopping = 0;
  s->failed = 1;
  ask_role("/primary", 503, "no: role=primary epoch=12884901893 primary=10.0.0.1:6379 failed\n");
  s->failed = 0;
  s->fenced = 1;
  snprintf(s->primary_client, sizeof s->primary_client, "10.0.0.2:6379");
  ask_role("/primary", 503, "no: role=primary fenced epoch=17179869184 primary=10.0.0.2:6379\n");
  s->fenced = 0;
  s->role = DW_FOLLOWER;
  s->staleness_ms = 100;
  ask_role("/primary", 503, "no: role=follower epoch=12884901893 primary=10.0.0.2:6379\n");
  ask_role("/replica", 200, "role=follower epoch=12884901893 primary=10.0.0.2:6379\n");
  s->staleness_ms = 101;
  ask_role("/replica", 503,
           "no: role=follower epoch=12884901893 primary=10.0.0.2:6379 not ready: staleness_ms=101 bound_ms=100\n");
  s->primary_client[0] = 0;
  ask_role("/primary", 503, "no: role=follower epoch=12884901893 primary=unknown\n");
  ck_assert_int_eq(get("OPTIONS", "/status"), 405);
  ck_assert_int_eq(get("POST", "/primary"), 405);
}
END_TEST

START_TEST(other_paths_and_methods_are_refused) {
  ck_assert_int_eq(get("GET", "/nope"), 404);
  ck_assert_int_eq(get("GET", "/status/"), 404);
  ck_assert_int_eq(get("DELETE", "/status"), 405);
  ck_assert_ptr_nonnull(strstr(answer, "Allow: GET, HEAD"));
  static const char post[] = "POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
  ck_assert_int_eq(exchange(post, sizeof post - 1), 405);
  ck_assert_int_eq(get("HEAD", "/status"), 200);
  ck_assert_str_eq(body(), "");
  ck_assert_int_eq(get("HEAD", "/nope"), 404);
}
END_TEST

START_TEST(garbage_harms_neither_the_server_nor_others) {
  static char junk[300000];
  for (size_t i = 0; i < sizeof junk; i++) junk[i] = (char)(i * 7 + i / 256);
  exchange(junk, sizeof junk);
  memset(junk, 'a', sizeof junk);
  int code = exchange(junk, sizeof junk); /* an endless request line */
  ck_assert_msg(code == 0 || code >= 400, "%d", code);
  static const char redis[] = "*1\r\n$9\r\nDW.STATUS\r\n\r\n";
  code = exchange(redis, sizeof redis - 1);
  ck_assert_msg(code == 0 || code >= 400, "%d", code);
  ck_assert_int_eq(get("GET", "/healthz"), 200);
}
END_TEST

START_TEST(silent_clients_do_not_keep_others_out) {
  char address[32];
  int fds[20];
  snprintf(address, sizeof address, "127.0.0.1:%u", http_server_port(server));
  for (int i = 0; i < 20; i++) { /* half a request each */
    ck_assert_int_eq(net_connect(address, 5000, &fds[i]), DW_OK);
    ck_assert_int_eq(send(fds[i], "GET /st", 7, MSG_NOSIGNAL), 7);
  }
  ck_assert_int_eq(get("GET", "/healthz"), 200);
  for (int i = 0; i < 20; i++) close(fds[i]);
}
END_TEST

START_TEST(an_address_in_use_or_wrong_is_one_clear_error) {
  struct http_server *other = NULL;
  char address[32];
  snprintf(address, sizeof address, "127.0.0.1:%u", http_server_port(server));
  struct http_options o = {.listen = address, .collect = collect, .arg = &collect_rc};
  ck_assert_int_eq(http_server_start(&o, &other), DW_IO);
  ck_assert_ptr_nonnull(strstr(dw_last_error(), address));
  o.listen = "nonsense";
  ck_assert_int_eq(http_server_start(&o, &other), DW_INVALID);
  ck_assert_ptr_null(other);
}
END_TEST

int main(void) {
  Suite *s = suite_create("http");
  TCase *t = tcase_create("texts");
  tcase_add_test(t, status_as_json_can_be_read_back);
  tcase_add_test(t, metrics_say_what_the_status_says);
  tcase_add_test(t, metrics_pass_promtool);
  tcase_add_test(t, a_follower_is_ready_only_within_its_bound);
  suite_add_tcase(s, t);
  t = tcase_create("server");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 30);
  tcase_add_test(t, each_page_is_served_with_its_type);
  tcase_add_test(t, a_status_table_carries_no_control_characters_to_the_terminal);
  tcase_add_test(t, probes_turn_to_503_and_say_why);
  tcase_add_test(t, primary_and_replica_say_who_takes_writes_now);
  tcase_add_test(t, other_paths_and_methods_are_refused);
  tcase_add_test(t, garbage_harms_neither_the_server_nor_others);
  tcase_add_test(t, silent_clients_do_not_keep_others_out);
  tcase_add_test(t, an_address_in_use_or_wrong_is_one_clear_error);
  suite_add_tcase(s, t);
  return check_main(s);
}
