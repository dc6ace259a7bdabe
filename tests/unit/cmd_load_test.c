/* The formats of `dabbawal load`, in every fragmentation, and the reader of a server's replies. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dabbawal.h"
#include "replication/cmd/load_parse.h"
#include "replication/cmd/resp_reply.h"
#include "tests/support/check_main.h"
#include "wal/base/status.h"

/* What a parser said, as text: "line:key=value;" or "line!why;" */
static struct buf said;

static void say(const void *p, size_t n) {
  ck_assert_int_eq(buf_append(&said, p, n), DW_OK);
}
static void say_number(uint64_t v) {
  char text[24];
  say(text, (size_t)snprintf(text, sizeof text, "%llu", (unsigned long long)v));
}

static int on_record(void *arg, uint64_t line, const uint8_t *k, size_t kn, const uint8_t *v, size_t vn) {
  (void)arg;
  say_number(line);
  say(":", 1);
  say(k, kn);
  say("=", 1);
  if (vn > 1000) {
    say_number(vn);
    say(" bytes", 6);
  } else {
    say(v, vn);
  }
  say(";", 1);
  return DW_OK;
}
static int on_command(void *arg, uint64_t line, const uint8_t *p, size_t n) {
  return on_record(arg, line, (const uint8_t *)"", 0, p, n);
}
static int on_malformed(void *arg, uint64_t line, const char *why) {
  (void)arg;
  say_number(line);
  say("!", 1);
  say(why, strlen(why));
  say(";", 1);
  return DW_OK;
}
static const struct load_sink sink = {on_record, on_command, on_malformed, NULL};

static int parse(enum load_format format, const char *text, size_t n, size_t chunk) {
  struct load_parser p;
  load_parser_init(&p, format, &sink);
  said.len = 0;
  int rc = DW_OK;
  for (size_t at = 0; at < n && rc == DW_OK; at += chunk)
    rc = load_parser_feed(&p, (const uint8_t *)text + at, n - at < chunk ? n - at : chunk);
  if (rc == DW_OK) rc = load_parser_finish(&p);
  load_parser_free(&p);
  say("", 1);
  return rc;
}

static void expect_n(enum load_format format, const char *text, size_t n, const char *want) {
  for (size_t chunk = 1; chunk <= n + 1; chunk++) {
    ck_assert_int_eq(parse(format, text, n, chunk), DW_OK);
    ck_assert_msg(strcmp((char *)said.data, want) == 0, "in chunks of %zu: '%s' instead of '%s'", chunk,
                  (char *)said.data, want);
  }
}
static void expect(enum load_format format, const char *text, const char *want) {
  expect_n(format, text, strlen(text), want);
}

START_TEST(a_paragraph_is_kept_verbatim_under_its_key) {
  expect(LOAD_DEB822, "Package: a\nVersion: 1:2\nArchitecture: all\nDescription: x\n y\n .\n\n",
         "1:a/1:2/all=Package: a\nVersion: 1:2\nArchitecture: all\nDescription: x\n y\n .\n;");
}
END_TEST

START_TEST(empty_lines_part_paragraphs_and_the_last_needs_no_newline) {
  expect(
      LOAD_DEB822,
      "\n\nversion: 1\nPackage:a\t\nArchitecture: b\r\n \t\r\n\n# c\nPackage: p\nVersion: 2\nArchitecture: all",
      "3:a/1/b=version: 1\nPackage:a\t\nArchitecture: b\r\n;8:p/2/all=# c\nPackage: p\nVersion: 2\nArchitecture: all;");
  expect(LOAD_DEB822, "", "");
  expect(LOAD_DEB822, "\n\n \n", "");
}
END_TEST

START_TEST(a_bad_paragraph_is_named_once_and_skipped_alone) {
  expect(LOAD_DEB822,
         "Package: a\nVersion: 1\n\nPackage: b\nnonsense\nmore nonsense\n\nPackage: c\nPackage: d\n\n: x\n\n"
         "Package: \n\nPackage: e\nVersion: 1\nArchitecture: all\n",
         "1!the paragraph has no Architecture field;"
         "5!expected 'Name: value', a continuation line or an empty line;"
         "9!a second Package field;"
         "11!expected 'Name: value', a continuation line or an empty line;"
         "13!the Package field is empty;"
         "15:e/1/all=Package: e\nVersion: 1\nArchitecture: all\n;");
}
END_TEST

START_TEST(an_oversized_paragraph_is_skipped_in_bounded_memory) {
  struct load_parser p;
  static char chunk[1 << 20];
  load_parser_init(&p, LOAD_DEB822, &sink);
  said.len = 0;
  memset(chunk, 'x', sizeof chunk);
  chunk[0] = ' ';
  chunk[sizeof chunk - 1] = '\n';
  static const char head[] = "Package: a\nVersion: 1\nArchitecture: all\n",
                    next[] = "\nPackage: b\nVersion: 1\nArchitecture: c\n";
  ck_assert_int_eq(load_parser_feed(&p, (const uint8_t *)head, sizeof head - 1), DW_OK);
  for (int i = 0; i < 200; i++) ck_assert_int_eq(load_parser_feed(&p, (const uint8_t *)chunk, sizeof chunk), DW_OK);
  ck_assert_uint_le(p.paragraph.cap, 2u * DW_MAX_VALUE_BYTES);
  ck_assert_int_eq(load_parser_feed(&p, (const uint8_t *)next, sizeof next - 1), DW_OK);
  ck_assert_int_eq(load_parser_finish(&p), DW_OK);
  load_parser_free(&p);
  say("", 1);
  ck_assert_str_eq((char *)said.data, "67!the paragraph is larger than a value may be (64 MiB);"
                                      "205:b/1/c=Package: b\nVersion: 1\nArchitecture: c\n;");
}
END_TEST

START_TEST(a_line_without_end_is_cut_at_the_limit) {
  struct load_parser p;
  static char chunk[1 << 20];
  load_parser_init(&p, LOAD_TSV, &sink);
  said.len = 0;
  memset(chunk, 'x', sizeof chunk);
  for (int i = 0; i < 200; i++) ck_assert_int_eq(load_parser_feed(&p, (const uint8_t *)chunk, sizeof chunk), DW_OK);
  ck_assert_uint_le(p.lines.part.len, 2u * (DW_MAX_VALUE_BYTES + DW_MAX_KEY_BYTES) + 16u);
  ck_assert_int_eq(load_parser_feed(&p, (const uint8_t *)"\na\tb\n", 5), DW_OK);
  ck_assert_int_eq(load_parser_finish(&p), DW_OK);
  load_parser_free(&p);
  say("", 1);
  ck_assert_str_eq((char *)said.data, "1!the line is longer than any record;2:a=b;");
}
END_TEST

START_TEST(tsv_takes_any_byte_but_its_three_escapes) {
  expect(LOAD_TSV, "a\tb\nc\\td\\\\\te\\n\tf\n\ng\t", "1:a=b;2:c\td\\=e\n\tf;4:g=;");
  static const char zero[] = "k\0\tv\xff\0\n";
  ck_assert_int_eq(parse(LOAD_TSV, zero, sizeof zero - 1, 3), DW_OK);
  ck_assert_int_eq(memcmp(said.data, "1:k\0=v\xff\0;", 10), 0);
}
END_TEST

START_TEST(bad_tsv_lines_are_named_and_skipped) {
  expect(LOAD_TSV, "no tab\n\tv\na\\x\tb\na\tb\\\na\\", /* the last: an escape cut off by the end */
         "1!no tab between key and value;2!the key is empty;3!a backslash that is not \\t, \\n or \\\\;"
         "4!a backslash that is not \\t, \\n or \\\\;5!no tab between key and value;");
  /* Behind the last backslash stands what an earlier, longer line has left in the buffer. */
  expect(LOAD_TSV, "k\tvvttttt\nk\tv\\", "1:k=vvttttt;2!a backslash that is not \\t, \\n or \\\\;");
  char *big = malloc(DW_MAX_KEY_BYTES + 3);
  memset(big, 'k', DW_MAX_KEY_BYTES + 1);
  memcpy(big + DW_MAX_KEY_BYTES + 1, "\tv", 2);
  ck_assert_int_eq(parse(LOAD_TSV, big, DW_MAX_KEY_BYTES + 3, 7777), DW_OK);
  ck_assert_str_eq((char *)said.data, "1!the key is longer than 64 KiB;");
  free(big);
}
END_TEST

START_TEST(a_resp_stream_is_passed_on_command_by_command) {
  expect(LOAD_RESP, "SET a b\r\n\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
         "1:=SET a b\r\n;2:=*2\r\n$3\r\nGET\r\n$1\r\na\r\n;");
}
END_TEST

START_TEST(a_broken_resp_stream_stops_and_names_the_byte) {
  static const char text[] = "PING\r\n*1\r\n$x\r\n";
  for (size_t chunk = 1; chunk < sizeof text; chunk++) {
    ck_assert_int_eq(parse(LOAD_RESP, text, sizeof text - 1, chunk), DW_CORRUPT);
    ck_assert_ptr_nonnull(strstr(dw_last_error(), "command 2, byte 6: not RESP"));
    ck_assert_str_eq((char *)said.data, "1:=PING\r\n;");
  }
  for (size_t n = 7; n < 20; n++) { /* cut off anywhere in the second */
    ck_assert_int_eq(parse(LOAD_RESP, "PING\r\n*1\r\n$4\r\nPING\r\n", n, 5), DW_CORRUPT);
    ck_assert_ptr_nonnull(strstr(dw_last_error(), "the input ends in the middle"));
  }
}
END_TEST

/* ---- replies ------------------------------------------------------------------------------------ */

/* Kinds and texts of all complete replies: "+OK;" */
static int replies(const char *text, size_t n, size_t chunk, size_t text_max) {
  struct resp_reader r = {.text_max = text_max};
  int rc = DW_OK;
  said.len = 0;
  for (size_t at = 0; at < n && rc == DW_OK; at += chunk) {
    size_t end = n - at < chunk ? n : at + chunk;
    for (size_t k = at, used; k < end && rc == DW_OK; k += used) {
      bool complete;
      rc = resp_reader_feed(&r, (const uint8_t *)text + k, end - k, &used, &complete);
      if (rc || !complete) continue;
      say(&r.kind, 1);
      say(r.text.data, r.text.len);
      say(r.text_cut ? "...;" : ";", r.text_cut ? 4 : 1);
    }
  }
  resp_reader_free(&r);
  say("", 1);
  return rc;
}

START_TEST(replies_are_told_apart_in_every_fragmentation) {
  static const char text[] = "+OK\r\n-ERR no\r\n:-7\r\n$0\r\n\r\n$5\r\nab\r\nc\r\n$-1\r\n*-1\r\n*0\r\n"
                             "*3\r\n:1\r\n*2\r\n$1\r\nx\r\n$-1\r\n+y\r\n+end\r\n";
  for (size_t chunk = 1; chunk < sizeof text; chunk++) {
    ck_assert_int_eq(replies(text, sizeof text - 1, chunk, 1000), DW_OK);
    ck_assert_str_eq((char *)said.data, "+OK;-ERR no;:-7;$;$ab\r\nc;_;_;*;*1\nx\n\ny\n;+end;");
  }
}
END_TEST

START_TEST(a_long_reply_is_counted_but_not_kept) {
  ck_assert_int_eq(replies("$10\r\n0123456789\r\n+OK\r\n", 22, 3, 4), DW_OK);
  ck_assert_str_eq((char *)said.data, "$0123...;+OK;");
}
END_TEST

START_TEST(what_is_not_resp_is_refused_at_once) {
  static const char *const bad[] = {"HTTP/1.1 400\r\n", "$x\r\n", "$-2\r\n", "*99999999999999999999\r\n",
                                    "$99999999999\r\n", "\r\n",   "$ 1\r\n", "*4294967297\r\n"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ck_assert_msg(replies(bad[i], strlen(bad[i]), 100, 100) == DW_CORRUPT, "%s", bad[i]);
    ck_assert_ptr_nonnull(strstr(dw_last_error(), "not a RESP reply"));
    ck_assert_msg(replies(bad[i], strlen(bad[i]), 1, 100) == DW_CORRUPT, "%s", bad[i]);
  }
  ck_assert_int_eq(replies("H", 1, 1, 100), DW_CORRUPT); /* not even a line is waited for */
}
END_TEST

int main(void) {
  Suite *s = suite_create("load");
  TCase *t = tcase_create("load");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, a_paragraph_is_kept_verbatim_under_its_key);
  tcase_add_test(t, empty_lines_part_paragraphs_and_the_last_needs_no_newline);
  tcase_add_test(t, a_bad_paragraph_is_named_once_and_skipped_alone);
  tcase_add_test(t, an_oversized_paragraph_is_skipped_in_bounded_memory);
  tcase_add_test(t, a_line_without_end_is_cut_at_the_limit);
  tcase_add_test(t, tsv_takes_any_byte_but_its_three_escapes);
  tcase_add_test(t, bad_tsv_lines_are_named_and_skipped);
  tcase_add_test(t, a_resp_stream_is_passed_on_command_by_command);
  tcase_add_test(t, a_broken_resp_stream_stops_and_names_the_byte);
  tcase_add_test(t, replies_are_told_apart_in_every_fragmentation);
  tcase_add_test(t, a_long_reply_is_counted_but_not_kept);
  tcase_add_test(t, what_is_not_resp_is_refused_at_once);
  suite_add_tcase(s, t);
  return check_main(s);
}
