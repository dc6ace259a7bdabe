/* `dabbawal promote`, `switchover` and `follow`: they ask a node through its RESP port; the nodes do the rest.
 *
 * A switchover asks the node that is to take over: it makes the primary pause, catches up, collects promises, begins
 * its epoch and tells the others, the old primary among them, to follow. So this tool may die at any moment without
 * harm.
 */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/cli.h"
#include "replication/cmd/config.h"
#include "replication/cmd/resp_client.h"
#include "wal/base/status.h"

#define ANSWER_MS 60000u

/* Sends words, prints the answer. */
static int call(const char *command, const char *address, const char *words) {
  struct buf text = {0};
  char kind = 0;
  int code = EXIT_OK;
  if (resp_call(address, ANSWER_MS, words, &kind, &text) != DW_OK)
    code = cli_fail(command, EXIT_RUNTIME, "%s", dw_last_error());
  else
    printf("%.*s\n", (int)text.len, (const char *)text.data);
  buf_free(&text);
  return code;
}

static bool take_ms(const char *command, const char *option, const char *text, const char *word, char *words,
                    size_t cap) {
  if (!text) return true;
  char *end;
  unsigned long long v = strtoull(text, &end, 10);
  if (*end || end == text || v == 0 || v > 86400000)
    return cli_wrong(command, "%s: '%.50s' is not a time in ms from 1 to 86400000", option, text);
  size_t n = strlen(words);
  snprintf(words + n, cap - n, " %s %llu", word, v);
  return true;
}

int cli_promote(int argc, char **argv) {
  const char *rest[1], *lag = NULL, *timeout = NULL;
  bool force = false;
  const struct cli_option options[] = {
      {"--force", NULL, &force}, {"--max-lag", &lag, NULL}, {"--timeout", &timeout, NULL}};
  char words[200] = "DW.PROMOTE";
  size_t n;
  if (!cli_arguments("promote", argc, argv, options, 3, rest, 1, 1, &n)) return EXIT_CONFIG;
  if (force) strcat(words, " FORCE");
  if (!take_ms("promote", "--max-lag", lag, "MAXLAG", words, sizeof words) ||
      !take_ms("promote", "--timeout", timeout, "TIMEOUT", words, sizeof words))
    return EXIT_CONFIG;
  char *address = parse_address(rest[0]);
  if (!address) return cli_fail("promote", EXIT_CONFIG, "%s", dw_last_error());
  int code = call("promote", address, words);
  free(address);
  return code;
}

int cli_follow(int argc, char **argv) {
  const char *rest[2];
  char words[200];
  size_t n;
  if (!cli_arguments("follow", argc, argv, NULL, 0, rest, 2, 2, &n)) return EXIT_CONFIG;
  bool nobody = strcmp(rest[1], "nobody") == 0;
  char *address = parse_address(rest[0]), *primary = nobody ? NULL : parse_address(rest[1]);
  int code = EXIT_CONFIG;
  if (!address || (!nobody && !primary)) {
    cli_fail("follow", EXIT_CONFIG, "%s", dw_last_error());
  } else {
    snprintf(words, sizeof words, "DW.FOLLOW %.150s", nobody ? "NOBODY" : primary);
    code = call("follow", address, words);
  }
  free(address);
  free(primary);
  return code;
}

/* The role that a node says it has, into out. */
static int ask_role(const char *address, char out[20]) {
  struct buf json = {0};
  char kind = 0;
  int rc = resp_call(address, 5000, "DW.STATUS", &kind, &json);
  cJSON *o = rc == DW_OK ? cJSON_ParseWithLength((const char *)json.data, json.len) : NULL;
  const char *role = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, "role"));
  if (rc == DW_OK && !role) rc = dw_fail(DW_CORRUPT, "%s: the answer is no status of dabbawal", address);
  if (role) snprintf(out, 20, "%s", role);
  cJSON_Delete(o);
  buf_free(&json);
  return rc;
}

int cli_switchover(int argc, char **argv) {
  const char *rest[2], *timeout = NULL;
  const struct cli_option options[] = {{"--timeout", &timeout, NULL}};
  char words[200] = "DW.PROMOTE HANDOVER", role[20] = "";
  size_t n;
  if (!cli_arguments("switchover", argc, argv, options, 1, rest, 2, 2, &n)) return EXIT_CONFIG;
  if (!take_ms("switchover", "--timeout", timeout, "TIMEOUT", words, sizeof words)) return EXIT_CONFIG;
  char *from = parse_address(rest[0]), *to = parse_address(rest[1]);
  int code = EXIT_CONFIG;
  if (!from || !to) {
    cli_fail("switchover", EXIT_CONFIG, "%s", dw_last_error());
  } else if (ask_role(from, role) != DW_OK) {
    code = cli_fail("switchover", EXIT_RUNTIME, "%s", dw_last_error());
  } else if (strcmp(role, "primary") != 0) {
    code = cli_fail("switchover", EXIT_RUNTIME, "%s is no primary, but a %s", from, role);
  } else {
    code = call("switchover", to, words);
  }
  free(from);
  free(to);
  return code;
}
