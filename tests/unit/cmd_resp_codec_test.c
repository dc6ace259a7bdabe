/* The RESP parser against tables: what each input means, however it is cut into pieces, and that hostile lengths cost
 * nothing. The reply writer against the bytes of the protocol's description. */
#include "replication/cmd/resp_codec.h"
#include "replication/cmd/resp_glob.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/check_main.h"
#include "wal/base/status.h"

/* One parse as text: arguments in [], separated by blanks; commands end in ';'; an error ends it all with "!text". */
static void describe(const struct resp_parser *p, const uint8_t *data, char *out, size_t cap) {
  for (size_t i = 0; i < p->argc; i++) {
    size_t n;
    const uint8_t *arg = resp_arg_at(p, data, i, &n);
    size_t at = strlen(out);
    snprintf(out + at, cap - at, "[%.*s]", (int)n, (const char *)arg);
  }
  strncat(out, ";", cap - strlen(out) - 1);
}

/* Feeds the input in pieces that end at the given cuts, as a connection's buffer would grow. Each piece is copied to
 * memory of exactly its size, so that a sanitizer sees a read beyond it. */
static void parse_cut(const char *in, size_t n, const size_t *cuts, size_t ncuts, char *out, size_t cap) {
  struct resp_parser p;
  resp_parser_init(&p);
  size_t base = 0;
  out[0] = 0;
  for (size_t k = 0; k <= ncuts; k++) {
    size_t have = k == ncuts ? n : cuts[k];
    for (;;) {
      if (have <= base) break;
      uint8_t *exact = malloc(have - base);
      memcpy(exact, in + base, have - base);
      size_t used = 0;
      const char *error = NULL;
      enum resp_result r = resp_parse(&p, exact, have - base, &used, &error);
      if (r == RESP_COMMAND) describe(&p, exact, out, cap);
      free(exact);
      if (r == RESP_ERROR) {
        size_t at = strlen(out);
        snprintf(out + at, cap - at, "!%s", error);
        resp_parser_free(&p);
        return;
      }
      if (r == RESP_MORE) break;
      ck_assert_uint_gt(used, 0);
      base += used;
    }
  }
  if (base < n) strncat(out, "...", cap - strlen(out) - 1);
  resp_parser_free(&p);
}

static const struct {
  const char *in, *want;
} table[] = {
    /* arrays of bulk strings */
    {"*1\r\n$4\r\nPING\r\n", "[PING];"},
    {"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*2\r\n$3\r\nGET\r\n$2\r\nkk\r\n", "[GET][k];[GET][kk];"},
    {"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\na\r\nb\r\n", "[SET][][a\r\nb];"},
    {"*0\r\n*1\r\n$4\r\nPING\r\n", ";[PING];"},
    {"*-1\r\nPING\r\n", ";[PING];"},
    {"*1\r\n$04\r\nPING\r\n", "[PING];"},
    {"*2\r\n$3\r\nGET\r\n$5\r\nab", "..."},
    /* inline */
    {"PING\r\n", "[PING];"},
    {"PING\n", "[PING];"},
    {"\r\n\nGET  a\tb \r\n", ";;[GET][a][b];"},
    {"SET k \"a b\\n\\x41\\\"\" 'c\\'d \\n'\r\n", "[SET][k][a b\nA\"][c'd \\n];"},
    {"SET \"\" ''\r\n", "[SET][][];"},
    {"PING\r\n*1\r\n$4\r\nECHO\r\nPING\r\n", "[PING];[ECHO];[PING];"},
    {"GET", "..."},
    /* wrong */
    {"SET \"a\r\n", "!Protocol error: unbalanced quotes in request"},
    {"SET 'a\r\n", "!Protocol error: unbalanced quotes in request"},
    {"SET \"a\"b\r\n", "!Protocol error: unbalanced quotes in request"},
    {"*1\r\n:4\r\nPING\r\n", "!Protocol error: expected '$', got ':'"},
    {"*1\r\n\r\n", "!Protocol error: expected '$', got ' '"},
    {"*x\r\n", "!Protocol error: invalid multibulk length"},
    {"*\r\n", "!Protocol error: invalid multibulk length"},
    {"*1048577\r\n", "!Protocol error: invalid multibulk length"},
    {"*99999999999999999999\r\n", "!Protocol error: invalid multibulk length"},
    {"*1 \r\n", "!Protocol error: invalid multibulk length"},
    {"*1\rx", "!Protocol error: invalid multibulk length"},
    {"*1\r\n$-1\r\n", "!Protocol error: invalid bulk length"},
    {"*1\r\n$67108865\r\n", "!Protocol error: invalid bulk length"},
    {"*1\r\n$9223372036854775807\r\n", "!Protocol error: invalid bulk length"},
    {"*1\r\n$18446744073709551617\r\n", "!Protocol error: invalid bulk length"},
    {"*1\r\n$a\r\n", "!Protocol error: invalid bulk length"},
    {"*1\r\n$2\r\nabcd\r\n", "!Protocol error: argument is not followed by a line break"},
    {"*1\r\n$4\r\nPING\r\n*1\r\n$-5\r\n", "[PING];!Protocol error: invalid bulk length"},
};

START_TEST(test_every_input_means_the_same_however_it_is_cut) {
  const char *in = table[_i].in, *want = table[_i].want;
  size_t n = strlen(in);
  char got[512];
  parse_cut(in, n, NULL, 0, got, sizeof got);
  ck_assert_str_eq(got, want);
  size_t every[256] = {0};
  for (size_t i = 0; i < n; i++) every[i] = i + 1;
  parse_cut(in, n, every, n, got, sizeof got);
  ck_assert_str_eq(got, want);
  for (size_t a = 1; a < n; a++)
    for (size_t b = a; b < n; b++) {
      size_t cuts[2] = {a, b};
      parse_cut(in, n, cuts, 2, got, sizeof got);
      ck_assert_msg(strcmp(got, want) == 0, "cut at %zu and %zu: %s instead of %s", a, b, got, want);
    }
}
END_TEST

START_TEST(test_arguments_keep_zero_bytes) {
  static const char in[] = "*2\r\n$3\r\nGET\r\n$3\r\na\0b\r\n";
  struct resp_parser p;
  resp_parser_init(&p);
  size_t used = 0, n = 0;
  const char *error;
  ck_assert_int_eq(resp_parse(&p, (const uint8_t *)in, sizeof in - 1, &used, &error), RESP_COMMAND);
  ck_assert_mem_eq(resp_arg_at(&p, (const uint8_t *)in, 1, &n), "a\0b", 3);
  ck_assert_uint_eq(n, 3);
  ck_assert_uint_eq(used, sizeof in - 1);
  resp_parser_free(&p);
}
END_TEST

START_TEST(test_announced_lengths_allocate_nothing) {
  struct resp_parser p;
  resp_parser_init(&p);
  size_t used;
  const char *error;
  static const char *in[] = {"*1048576\r\n$67108864\r\nabc", "*1048576\r\n", "*1048576\r\n$1\r\na\r\n"};
  for (size_t i = 0; i < 3; i++) {
    resp_parser_free(&p);
    ck_assert_int_eq(resp_parse(&p, (const uint8_t *)in[i], strlen(in[i]), &used, &error), RESP_MORE);
    ck_assert_uint_le(p.cap, 16);
  }
  resp_parser_free(&p);
}
END_TEST

START_TEST(test_a_line_without_end_is_refused_at_64_kib) {
  struct resp_parser p;
  resp_parser_init(&p);
  uint8_t *line = malloc(RESP_MAX_INLINE + 2);
  memset(line, 'a', RESP_MAX_INLINE + 2);
  size_t used;
  const char *error;
  ck_assert_int_eq(resp_parse(&p, line, RESP_MAX_INLINE, &used, &error), RESP_MORE);
  ck_assert_int_eq(resp_parse(&p, line, RESP_MAX_INLINE + 1, &used, &error), RESP_ERROR);
  ck_assert_str_eq(error, "Protocol error: too big inline request");
  line[RESP_MAX_INLINE + 1] = '\n';
  ck_assert_int_eq(resp_parse(&p, line, RESP_MAX_INLINE + 2, &used, &error), RESP_ERROR);
  line[RESP_MAX_INLINE] = '\n';
  ck_assert_int_eq(resp_parse(&p, line, RESP_MAX_INLINE + 1, &used, &error), RESP_COMMAND);
  free(line);
  resp_parser_free(&p);
}
END_TEST

START_TEST(test_a_length_line_without_end_is_refused_soon) {
  struct resp_parser p;
  resp_parser_init(&p);
  size_t used;
  const char *error;
  char in[64];
  memset(in, '0', sizeof in);
  in[0] = '*';
  ck_assert_int_eq(resp_parse(&p, (const uint8_t *)in, sizeof in, &used, &error), RESP_ERROR);
  resp_parser_free(&p);
}
END_TEST

START_TEST(test_a_command_of_more_than_the_limit_is_refused_as_it_grows) {
  struct resp_parser p;
  resp_parser_init(&p);
  size_t n = RESP_MAX_COMMAND + 1, used;
  uint8_t *in = calloc(1, n);
  static const char head[] = "*4\r\n$67108864\r\n";
  memcpy(in, head, sizeof head - 1);
  size_t second = sizeof head - 1 + RESP_MAX_BULK;
  memcpy(in + second, "\r\n$67108864\r\n", 13);
  memcpy(in + second + 13 + RESP_MAX_BULK, "\r\n$67108864\r\n", 13);
  const char *error;
  ck_assert_int_eq(resp_parse(&p, in, n - 1, &used, &error), RESP_MORE);
  ck_assert_int_eq(resp_parse(&p, in, n, &used, &error), RESP_ERROR);
  ck_assert_str_eq(error, "Protocol error: too big request");
  free(in);
  resp_parser_free(&p);
}
END_TEST

/* Random bytes from the protocol's alphabet: no crash, no endless loop, and cutting changes nothing. */
START_TEST(test_noise_is_harmless_and_cutting_it_changes_nothing) {
  static const char *words[] = {"*",  "1", "2",  "$", "3", "\r\n", "\n", "-", "GET",
                                "\"", "'", "\\", " ", "a", "\\x4", "\r", "0"};
  unsigned seed = (unsigned)_i;
  char in[200] = "", whole[2048], cut[2048];
  for (int i = 0; i < 30; i++) {
    seed = seed * 1103515245u + 12345u;
    strcat(in, words[(seed >> 16) % (sizeof words / sizeof *words)]);
  }
  size_t n = strlen(in), cuts[1] = {1 + (seed >> 8) % n};
  parse_cut(in, n, NULL, 0, whole, sizeof whole);
  parse_cut(in, n, cuts, 1, cut, sizeof cut);
  ck_assert_str_eq(whole, cut);
}
END_TEST

START_TEST(test_replies_are_the_protocols_bytes) {
  struct buf out = {0};
  ck_assert_int_eq(resp_simple(&out, "OK"), DW_OK);
  ck_assert_int_eq(resp_error(&out, "ERR a%sb %d", "\r\n", 7), DW_OK);
  ck_assert_int_eq(resp_int(&out, -9223372036854775807LL - 1), DW_OK);
  ck_assert_int_eq(resp_bulk(&out, "a\0b", 3), DW_OK);
  ck_assert_int_eq(resp_bulk_str(&out, ""), DW_OK);
  ck_assert_int_eq(resp_nil(&out), DW_OK);
  ck_assert_int_eq(resp_nil_array(&out), DW_OK);
  ck_assert_int_eq(resp_array(&out, 2), DW_OK);
  static const char want[] =
      "+OK\r\n-ERR a  b 7\r\n:-9223372036854775808\r\n$3\r\na\0b\r\n$0\r\n\r\n$-1\r\n*-1\r\n*2\r\n";
  ck_assert_uint_eq(out.len, sizeof want - 1);
  ck_assert_mem_eq(out.data, want, sizeof want - 1);
  buf_free(&out);
}
END_TEST

START_TEST(test_a_glob_matches_as_in_redis) {
  static const struct {
    const char *pattern, *text;
    bool match;
  } rows[] = {{"*", "", true},          {"*", "abc", true},      {"a*c", "abbbc", true},       {"a*c", "abbbd", false},
              {"a?c", "abc", true},     {"a?c", "ac", false},    {"[a-c]x", "bx", true},       {"[c-a]x", "bx", true},
              {"[^a-c]x", "bx", false}, {"[^a-c]x", "dx", true}, {"[ab", "a", true},           {"\\*x", "*x", true},
              {"\\*x", "ax", false},    {"[\\]]", "]", true},    {"abc", "ab", false},         {"ab", "abc", false},
              {"", "", true},           {"ab**", "ab", true},    {"a*b*c*d", "a1b2c3d", true}, {"h[", "h", false},
              {"x\\", "x\\", true}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    ck_assert_msg(resp_glob(rows[i].pattern, strlen(rows[i].pattern), rows[i].text, strlen(rows[i].text)) ==
                      rows[i].match,
                  "%s against %s", rows[i].pattern, rows[i].text);
}
END_TEST

START_TEST(test_a_hostile_glob_takes_bounded_time) {
  char pattern[2001], text[5000];
  for (size_t i = 0; i < 2000; i += 2) memcpy(pattern + i, "*a", 2);
  pattern[2000] = 'b';
  memset(text, 'a', sizeof text);
  ck_assert(
      !resp_glob(pattern, sizeof pattern, text, sizeof text)); /* exponential time would hit the test's time-out */
}
END_TEST

int main(void) {
  Suite *s = suite_create("cmd_resp_codec");
  TCase *t = tcase_create("parser");
  tcase_add_loop_test(t, test_every_input_means_the_same_however_it_is_cut, 0, sizeof table / sizeof *table);
  tcase_add_test(t, test_arguments_keep_zero_bytes);
  tcase_add_test(t, test_announced_lengths_allocate_nothing);
  tcase_add_test(t, test_a_line_without_end_is_refused_at_64_kib);
  tcase_add_test(t, test_a_length_line_without_end_is_refused_soon);
  tcase_add_test(t, test_a_command_of_more_than_the_limit_is_refused_as_it_grows);
  tcase_add_loop_test(t, test_noise_is_harmless_and_cutting_it_changes_nothing, 1, 300);
  suite_add_tcase(s, t);
  t = tcase_create("replies");
  tcase_add_test(t, test_replies_are_the_protocols_bytes);
  suite_add_tcase(s, t);
  t = tcase_create("glob");
  tcase_add_test(t, test_a_glob_matches_as_in_redis);
  tcase_add_test(t, test_a_hostile_glob_takes_bounded_time);
  suite_add_tcase(s, t);
  return check_main(s);
}
