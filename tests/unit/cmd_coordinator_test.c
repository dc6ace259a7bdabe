/* Bytes that come from a coordinator, and lines of the audit log: read, refused, chained. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dabbawal.h"
#include "replication/cmd/audit.h"
#include "replication/cmd/etcd_json.h"
#include "replication/cmd/failover_keys.h"
#include "replication/cmd/failover_status.h"
#include "tests/support/check_main.h"
#include "wal/base/env.h"
#include "wal/base/status.h"

static const uint8_t *bytes(const char *s) {
  return (const uint8_t *)s;
}

/* ---- base64 and etcd's JSON ---------------------------------------------------------------------------- */

START_TEST(base64_is_the_one_of_rfc_4648) {
  static const char *const pairs[][2] = {{"", ""},
                                         {"f", "Zg=="},
                                         {"fo", "Zm8="},
                                         {"foo", "Zm9v"},
                                         {"foob", "Zm9vYg=="},
                                         {"fooba", "Zm9vYmE="},
                                         {"foobar", "Zm9vYmFy"}};
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    struct buf b = {0};
    uint8_t out[16];
    size_t n;
    ck_assert_int_eq(base64_encode(&b, pairs[i][0], strlen(pairs[i][0])), DW_OK);
    ck_assert_uint_eq(b.len, strlen(pairs[i][1]));
    ck_assert(b.len == 0 || memcmp(b.data, pairs[i][1], b.len) == 0);
    ck_assert_int_eq(base64_decode(pairs[i][1], sizeof out, out, &n), DW_OK);
    ck_assert_uint_eq(n, strlen(pairs[i][0]));
    ck_assert(memcmp(out, pairs[i][0], n) == 0);
    buf_free(&b);
  }
  static const char *const bad[] = {
      "Z", "Zg", "Zg=", "Zh==", "Zm9=", "Zm9v=", "Z===", "====", "Zm 9", "Zm9vZm9vZm9vZm9vZm9vZm9v"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    uint8_t out[16];
    size_t n;
    ck_assert_msg(base64_decode(bad[i], sizeof out, out, &n) == DW_CORRUPT, "%s", bad[i]);
  }
}
END_TEST

static int range(const char *text, struct coord_entries *l) {
  *l = (struct coord_entries){0};
  return etcd_get_range(bytes(text), strlen(text), 3, l);
}

START_TEST(a_listing_that_is_none_of_etcd_is_refused) {
  struct coord_entries l;
  ck_assert_int_eq(
      range(
          "{\"header\":{},\"kvs\":[{\"key\":\"L3QvYQ==\",\"value\":\"MQ==\",\"mod_revision\":\"9\",\"lease\":\"77\"}],"
          "\"count\":\"1\",\"more\":false}",
          &l),
      DW_OK);
  ck_assert_uint_eq(l.count, 1);
  ck_assert_str_eq(l.e[0].key, "a");
  ck_assert_str_eq(l.e[0].value, "1");
  ck_assert_int_eq(l.e[0].revision, 9);
  ck_assert_uint_eq(l.e[0].lease, 77);
  coord_entries_free(&l);
  ck_assert_int_eq(range("{\"header\":{}}", &l), DW_OK);
  ck_assert_uint_eq(l.count, 0);
  static const char *const bad[] = {
      "",
      "[]",
      "null",
      "{",
      "{\"kvs\":[]}",
      "{\"header\":{},\"kvs\":{}}",
      "{\"header\":{},\"kvs\":[1]}",
      "{\"header\":{},\"more\":true}",
      "{\"header\":{},\"kvs\":[{\"key\":\"L3QvYQ==\"}]}", /* no revision */
      "{\"header\":{},\"kvs\":[{\"key\":\"L3QvYQ==\",\"mod_revision\":9}]}",
      "{\"header\":{},\"kvs\":[{\"key\":\"L3QvYQ==\",\"mod_revision\":\"-9\"}]}",
      "{\"header\":{},\"kvs\":[{\"key\":\"L3QvYQ==\",\"mod_revision\":\"99999999999999999999\"}]}",
      "{\"header\":{},\"kvs\":[{\"key\":\"L3Q=\",\"mod_revision\":\"9\"}]}",     /* shorter than the prefix */
      "{\"header\":{},\"kvs\":[{\"key\":\"L3QvYQA=\",\"mod_revision\":\"9\"}]}", /* a zero byte */
      "{\"header\":{},\"kvs\":[{\"key\":\"L3QvYQ==\",\"value\":7,\"mod_revision\":\"9\"}]}",
      "<html>busy</html>"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ck_assert_msg(range(bad[i], &l) == DW_CORRUPT, "%s", bad[i]);
    coord_entries_free(&l);
  }
}
END_TEST

START_TEST(leases_and_transactions_likewise) {
  uint64_t lease, ttl;
  bool done;
#define TRY(fn, text, ...) fn(bytes(text), strlen(text), __VA_ARGS__)
  ck_assert_int_eq(TRY(etcd_get_grant, "{\"ID\":\"7\",\"TTL\":\"5\"}", &lease, &ttl), DW_OK);
  ck_assert_uint_eq(lease, 7);
  ck_assert_uint_eq(ttl, 5000);
  ck_assert_int_eq(TRY(etcd_get_grant, "{\"ID\":\"7\"}", &lease, &ttl), DW_CORRUPT);
  ck_assert_int_eq(TRY(etcd_get_grant, "{\"ID\":\"0\",\"TTL\":\"5\"}", &lease, &ttl), DW_CORRUPT);
  ck_assert_int_eq(TRY(etcd_get_grant, "{\"ID\":\"7\",\"TTL\":\"99999999\"}", &lease, &ttl), DW_CORRUPT);
  ck_assert_int_eq(TRY(etcd_get_keepalive, "{\"result\":{\"ID\":\"7\",\"TTL\":\"5\"}}", &ttl), DW_OK);
  ck_assert_int_eq(TRY(etcd_get_keepalive, "{\"result\":{\"ID\":\"7\"}}", &ttl), DW_NOT_FOUND);
  ck_assert_int_eq(TRY(etcd_get_keepalive, "{\"ID\":\"7\",\"TTL\":\"5\"}", &ttl), DW_CORRUPT);
  ck_assert_int_eq(TRY(etcd_get_txn, "{\"header\":{},\"succeeded\":true}", &done), DW_OK);
  ck_assert(done);
  ck_assert_int_eq(TRY(etcd_get_txn, "{\"header\":{}}", &done), DW_OK);
  ck_assert(!done);
  ck_assert_int_eq(TRY(etcd_get_txn, "{\"succeeded\":true}", &done), DW_CORRUPT);
  ck_assert_int_eq(TRY(etcd_get_txn, "{\"header\":{},\"succeeded\":\"yes\"}", &done), DW_CORRUPT);
  ck_assert_int_eq(TRY(etcd_get_error, "{\"error\":\"etcdserver: requested lease not found\",\"code\":5}", 404),
                   DW_NOT_FOUND);
  ck_assert_int_eq(TRY(etcd_get_error, "{\"error\":\"etcdserver: no leader\",\"code\":14}", 503), DW_IO);
  ck_assert_int_eq(TRY(etcd_get_error, "404 page not found", 404), DW_IO);
}
END_TEST

START_TEST(an_address_of_etcd_is_checked) {
  ck_assert_int_eq(coordinator_check("etcd://127.0.0.1:2379"), DW_OK);
  ck_assert_int_eq(coordinator_check("etcd://a:1,b:2,[::1]:3"), DW_OK);
  static const char *const bad[] = {"",           "etcd://",     "http://a:1", "etcd://a",
                                    "etcd://a:0", "etcd://a:1,", "etcd://*:1", "etcd://a:1/x"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    ck_assert_msg(coordinator_check(bad[i]) == DW_INVALID, "%s", bad[i]);
}
END_TEST

/* ---- keys ------------------------------------------------------------------------------------------------ */

static struct coord_entry e[8];
static struct failover_view v;
static unsigned bad_members;

static int parse(size_t n) {
  struct coord_entries l = {e, n};
  return failover_view_parse(&l, &v, &bad_members);
}

START_TEST(what_a_node_writes_others_read) {
  struct failover_leader l = {.node_id = UINT64_MAX, .epoch = 1ull << 63, .address = "h:1", .client = "h:2"};
  struct failover_member m = {.node_id = 5,
                              .epoch = 9,
                              .durable_lsn = UINT64_MAX,
                              .lag_ms = UINT64_MAX,
                              .priority = 3,
                              .healthy = true,
                              .region = "r \"q\"",
                              .address = "h:1"};
  struct failover_record r = {
      .term = 4, .epoch = 8, .node_id = 5, .count = 2, .stamps_ms = {1700000000001ull, 1700000000002ull}};
  e[0] = (struct coord_entry){"leader", failover_leader_json(&l), 10, 77};
  e[1] = (struct coord_entry){"members/5", failover_member_json(&m), 11, 78};
  e[2] = (struct coord_entry){"epoch", failover_record_json(&r), 12, 0};
  e[3] = (struct coord_entry){"pause", "", 13, 0};
  e[4] = (struct coord_entry){"something-newer", "{", 14, 0};
  ck_assert_int_eq(parse(5), DW_OK);
  ck_assert(v.has_leader && v.has_record && v.paused);
  ck_assert_uint_eq(v.leader.node_id, UINT64_MAX);
  ck_assert_uint_eq(v.leader.epoch, 1ull << 63);
  ck_assert_uint_eq(v.leader.lease, 77);
  ck_assert_int_eq(v.leader.revision, 10);
  ck_assert_str_eq(v.leader.client, "h:2");
  ck_assert_uint_eq(v.member_count, 1);
  m.revision = 11;
  ck_assert_uint_eq(v.members[0].durable_lsn, UINT64_MAX);
  ck_assert_uint_eq(v.members[0].lag_ms, UINT64_MAX);
  ck_assert_str_eq(v.members[0].region, "r \"q\"");
  ck_assert(v.members[0].healthy && !v.members[0].primary && !v.members[0].has_data);
  ck_assert_uint_eq(v.record.term, 4);
  ck_assert_uint_eq(v.record.count, 2);
  ck_assert_uint_eq(v.record.stamps_ms[1], 1700000000002ull);
  for (int i = 0; i < 3; i++) free(e[i].value);
}
END_TEST

START_TEST(a_leader_or_record_that_can_not_be_read_stops_decisions_a_member_is_left_out) {
  static char *const leaders[] = {"",
                                  "{}",
                                  "7",
                                  "{\"node\":\"0\",\"epoch\":\"1\",\"address\":\"h:1\",\"client\":\"\"}",
                                  "{\"node\":1,\"epoch\":\"1\",\"address\":\"h:1\",\"client\":\"\"}",
                                  "{\"node\":\"1\",\"epoch\":\"1\",\"address\":\"\",\"client\":\"\"}",
                                  "{\"node\":\"1\",\"epoch\":\"1\",\"address\":\"a\\nb\",\"client\":\"\"}"};
  for (size_t i = 0; i < sizeof leaders / sizeof *leaders; i++) {
    e[0] = (struct coord_entry){"leader", leaders[i], 10, 77};
    ck_assert_msg(parse(1) == DW_CORRUPT, "%s", leaders[i]);
  }
  e[0] = (struct coord_entry){"epoch", "{\"term\":\"1\",\"epoch\":\"1\",\"node\":\"1\",\"failovers_ms\":[-1]}", 10, 0};
  ck_assert_int_eq(parse(1), DW_CORRUPT);
  struct failover_member five = {.node_id = 5};
  char *json = failover_member_json(&five);
  e[0] = (struct coord_entry){"members/6", json, 10, 77}; /* under another's name */
  e[1] = (struct coord_entry){"members/x", "{", 10, 77};
  ck_assert_int_eq(parse(2), DW_OK);
  ck_assert_uint_eq(v.member_count, 0);
  ck_assert_uint_eq(bad_members, 2);
  free(json);
  char prefix[COORD_KEY_BYTES];
  ck_assert_int_eq(failover_prefix("a-b_c.9", prefix), DW_OK);
  ck_assert_str_eq(prefix, "/dabbawal/a-b_c.9/");
  ck_assert_int_eq(failover_prefix("a/b", prefix), DW_INVALID);
  ck_assert_int_eq(failover_prefix("", prefix), DW_INVALID);
}
END_TEST

/* etcd lists a key once, but it is not we who say what comes over the line; and 05 is another key than 5. */
START_TEST(what_comes_twice_counts_once_or_stops_decisions) {
  struct failover_leader l = {.node_id = 3, .epoch = 1, .address = "h:1", .client = "a-long-name:2"};
  struct failover_record r = {.term = 4, .epoch = 8, .node_id = 5, .count = 1, .stamps_ms = {1700000000001ull}};
  struct failover_member m = {.node_id = 5, .address = "h:1"};
  char *leader = failover_leader_json(&l), *record = failover_record_json(&r), *member = failover_member_json(&m);
  e[0] = e[1] = (struct coord_entry){"leader", leader, 10, 77};
  ck_assert_int_eq(parse(2), DW_CORRUPT);
  e[0] = e[1] = (struct coord_entry){"epoch", record, 10, 0};
  ck_assert_int_eq(parse(2), DW_CORRUPT);
  e[0] = (struct coord_entry){"members/5", member, 10, 77};
  e[1] = (struct coord_entry){"members/05", member, 10, 78};
  ck_assert_int_eq(parse(2), DW_OK);
  ck_assert_uint_eq(v.member_count, 1);
  ck_assert_uint_eq(bad_members, 1);
  free(leader);
  free(record);
  free(member);
}
END_TEST

START_TEST(the_status_gets_one_more_object) {
  struct failover_report r = {
      .state = FO_LEADING, .lease_left_ms = 3999, .has_leader = true, .leader_node = 7, .term = 2};
  snprintf(r.decision, sizeof r.decision, "promoted: \"x\" \x01");
  size_t n;
  char *json = failover_json_join(strdup("{\"role\":\"primary\"}"), &r, &n);
  ck_assert_ptr_nonnull(json);
  ck_assert_uint_eq(n, strlen(json));
  ck_assert(strncmp(json, "{\"role\":\"primary\",\"coordinator\":{\"state\":\"leading\"", 49) == 0);
  ck_assert(strstr(json, "\"lease_left_ms\":3999,\"term\":2,\"leader\":\"7\"") != NULL);
  ck_assert(strstr(json, "promoted: \\\"x\\\" ?") != NULL);
  ck_assert_str_eq(json + n - 2, "}}");
  free(json);
}
END_TEST

/* ---- the audit log --------------------------------------------------------------------------------------- */

static char dir[256], path[300];

static void make_dir(void) {
  snprintf(dir, sizeof dir, "%s/dw-audit-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  snprintf(path, sizeof path, "%s/audit.log", dir);
}
static void remove_dir(void) {
  env_remove_tree(env_posix(), dir);
}

static void write_lines(int n) {
  struct audit *a = NULL;
  struct failover_audit line = {
      .event = "promoted", .from_node = 1, .to_node = UINT64_MAX, .to_lsn = 77, .duration_ns = 5000000};
  ck_assert_int_eq(audit_open(path, 3, &a), DW_OK);
  for (int i = 0; i < n; i++) {
    snprintf(line.why, sizeof line.why, "because %d, \"hash\":\"x\"", i);
    ck_assert_int_eq(audit_write(a, &line), DW_OK);
  }
  audit_close(a);
}

static char text[20000];
static size_t text_n;
static void load(void) {
  FILE *f = fopen(path, "r");
  text_n = fread(text, 1, sizeof text - 1, f);
  text[text_n] = 0;
  fclose(f);
}
static void save(void) {
  FILE *f = fopen(path, "w");
  fwrite(text, 1, text_n, f);
  fclose(f);
}

START_TEST(lines_are_chained_over_restarts) {
  struct audit_summary s;
  ck_assert_int_eq(audit_verify(path, &s), DW_NOT_FOUND);
  write_lines(3);
  write_lines(2);
  ck_assert_int_eq(audit_verify(path, &s), DW_OK);
  ck_assert_uint_eq(s.lines, 5);
  ck_assert_uint_eq(s.torn, 0);
  load();
  ck_assert(strncmp(text, "{\"seq\":1,\"time\":\"20", 18) == 0);
  ck_assert(strstr(text, "\"node\":\"3\",\"event\":\"promoted\"") != NULL);
  ck_assert(strstr(text, "\"from\":\"1\",\"to\":\"18446744073709551615\"") != NULL);
  ck_assert(strstr(text, "\"to_lsn\":77,\"duration_ms\":5,") != NULL);
}
END_TEST

START_TEST(every_changed_byte_shows) {
  struct audit_summary s;
  write_lines(3);
  load();
  size_t all = text_n;
  for (size_t i = 0; i < all; i++) {
    text[i] ^= 1;
    save();
    int rc = audit_verify(path, &s);
    /* A last line without its end is what a crash leaves. */
    ck_assert_msg(i == all - 1 ? rc == DW_OK && s.torn == 1 && s.lines == 2 : rc == DW_CORRUPT, "byte %zu", i);
    text[i] ^= 1;
  }
}
END_TEST

START_TEST(a_line_that_was_taken_out_or_put_in_shows) {
  struct audit_summary s;
  write_lines(3);
  load();
  char *second = strchr(text, '\n') + 1, *third = strchr(second, '\n') + 1;
  size_t gone = (size_t)(third - second);
  char copy[2000];
  memcpy(copy, second, gone);
  memmove(second, third, text_n - (size_t)(third - text));
  text_n -= gone;
  save();
  ck_assert_int_eq(audit_verify(path, &s), DW_CORRUPT);
  ck_assert(strstr(dw_last_error(), "line 2") != NULL);
  memmove(second + 2 * gone, second, text_n - (size_t)(second - text));
  memcpy(second, copy, gone);
  memcpy(second + gone, copy, gone);
  text_n += 2 * gone;
  save();
  ck_assert_int_eq(audit_verify(path, &s), DW_CORRUPT);
  ck_assert(strstr(dw_last_error(), "line 3") != NULL);
  struct audit *a = NULL;
  ck_assert_int_eq(audit_open(path, 3, &a), DW_CORRUPT); /* nothing is added to what can't be trusted */
}
END_TEST

START_TEST(a_piece_left_by_a_crash_is_torn_not_damage) {
  struct audit_summary s;
  write_lines(2);
  load();
  size_t whole = text_n;
  for (size_t cut = 1; cut < 60; cut += 7) {
    text_n = whole - cut;
    save();
    if (cut == 1) { /* only the line feed is missing: the line is whole */
      ck_assert_int_eq(audit_verify(path, &s), DW_OK);
      ck_assert_uint_eq(s.lines, 2);
      continue;
    }
    ck_assert_int_eq(audit_verify(path, &s), DW_OK);
    ck_assert_uint_eq(s.lines, 1);
    ck_assert_uint_eq(s.torn, 1);
    write_lines(2);
    ck_assert_int_eq(audit_verify(path, &s), DW_OK);
    ck_assert_uint_eq(s.lines, 3);
    ck_assert_uint_eq(s.torn, 1);
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("coordinator");
  TCase *t = tcase_create("bytes");
  tcase_add_test(t, base64_is_the_one_of_rfc_4648);
  tcase_add_test(t, a_listing_that_is_none_of_etcd_is_refused);
  tcase_add_test(t, leases_and_transactions_likewise);
  tcase_add_test(t, an_address_of_etcd_is_checked);
  tcase_add_test(t, what_a_node_writes_others_read);
  tcase_add_test(t, a_leader_or_record_that_can_not_be_read_stops_decisions_a_member_is_left_out);
  tcase_add_test(t, what_comes_twice_counts_once_or_stops_decisions);
  tcase_add_test(t, the_status_gets_one_more_object);
  suite_add_tcase(s, t);
  t = tcase_create("audit");
  tcase_add_checked_fixture(t, make_dir, remove_dir);
  tcase_add_test(t, lines_are_chained_over_restarts);
  tcase_add_test(t, every_changed_byte_shows);
  tcase_add_test(t, a_line_that_was_taken_out_or_put_in_shows);
  tcase_add_test(t, a_piece_left_by_a_crash_is_torn_not_damage);
  suite_add_tcase(s, t);
  return check_main(s);
}
