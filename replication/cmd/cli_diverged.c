/* `dabbawal diverged list|show|replay` and `dabbawal rejoin`: what a node kept when histories parted
 * (engine/diverged.h), and how it comes back. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/diverged.h"
#include "replication/cmd/cli.h"
#include "replication/cmd/cli_diverged.h"
#include "replication/cmd/cli_wal.h"
#include "replication/cmd/config.h"
#include "replication/cmd/daemon.h"
#include "replication/cmd/resp_client.h"
#include "wal/base/status.h"

#define ANSWER_MS 60000u
#define REJOIN_MS 600000u
#define POLL_NS 100000000

typedef unsigned long long ull;

/* ---- list -------------------------------------------------------------------------------------- */

static void print_header(const char *name, const struct diverged_header *h) {
  printf("%s commits=%llu first_lsn=%llu last_lsn=%llu bytes=%llu complete=%d wall_ns=%llu peer=%llu\n", name,
         (ull)h->commits, (ull)h->from.lsn + 1, (ull)h->end.lsn, (ull)h->bytes, h->complete, (ull)h->wall_ns,
         (ull)h->peer_id);
}

static int list_one(void *arg, const char *name, int rc, const struct diverged_header *h) {
  int *worst = arg;
  if (rc)
    printf("%s damaged: %s\n", name, dw_last_error());
  else
    print_header(name, h);
  if (rc) *worst = rc;
  return 0;
}

static int list_node(const char *text) {
  char *address = parse_address(text), kind = 0;
  struct buf lines = {0};
  if (!address) return DW_INVALID;
  int rc = resp_call(address, ANSWER_MS, "DW.DIVERGED", &kind, &lines);
  if (rc == DW_OK) printf("%.*s", (int)lines.len, (const char *)lines.data);
  buf_free(&lines);
  free(address);
  return rc;
}

/* A directory if there is one of that name, else an address. */
static int list(const char *what) {
  bool there = false;
  int worst = DW_OK, rc = env_posix()->ops->exists(env_posix(), what, &there);
  if (rc) return rc;
  if (!there) return list_node(what);
  rc = diverged_list(env_posix(), what, list_one, &worst);
  return rc ? rc : worst ? dw_fail(worst, "%s: not all files are sound", what) : DW_OK;
}

/* ---- show -------------------------------------------------------------------------------------- */

static int show(const char *path, bool values) {
  struct diverged_file *f;
  struct diverged_header h;
  struct wal_block *b;
  struct buf scratch = {0};
  int rc = diverged_open(env_posix(), path, &h, &f);
  if (rc) return rc;
  print_header(path, &h);
  printf("parted after LSN %llu of epoch %llu; %s\n", (ull)h.parted.lsn, (ull)h.parted.epoch,
         h.complete ? "complete" : "NOT complete: the log had been trimmed behind that");
  while (rc == DW_OK && (rc = diverged_next(f, &b)) == DW_OK) {
    rc = cli_dump_block(NULL, 0, b, 0, values, &scratch);
    wal_block_unref(b);
  }
  buf_free(&scratch);
  diverged_close(f);
  return rc == DW_NOT_FOUND ? DW_OK : rc;
}

int cli_diverged(int argc, char **argv) {
  static const char *const commands[] = {"list", "show", "replay"};
  const char *rest[2], *to = NULL;
  bool values = false, dry = false, missing = false;
  const struct cli_option options[] = {
      {"--values", NULL, &values}, {"--to", &to, NULL}, {"--dry-run", NULL, &dry}, {"--only-missing", NULL, &missing}};
  size_t n, which = 0;
  if (!cli_arguments("diverged", argc, argv, options, 4, rest, 2, 2, &n)) return EXIT_CONFIG;
  while (which < 3 && strcmp(rest[0], commands[which]) != 0) which++;
  if (which == 3) return cli_fail("diverged", EXIT_CONFIG, "unknown command '%.100s': list, show or replay", rest[0]);
  if ((values && which != 1) || ((to || dry || missing) && which != 2))
    return cli_fail("diverged", EXIT_CONFIG, "%s: an option of another command was given: see dabbawal --help",
                    rest[0]);
  if (which == 2 && !to) return cli_fail("diverged", EXIT_CONFIG, "replay: --to HOST:PORT is needed");
  int rc = which == 0 ? list(rest[1]) : which == 1 ? show(rest[1], values) : cli_replay(rest[1], to, dry, missing);
  fflush(stdout);
  if (rc == DW_OK) return EXIT_OK;
  char name[32];
  snprintf(name, sizeof name, "diverged %s", commands[which]);
  return cli_fail(name, daemon_exit_code(rc), "%s", dw_last_error());
}

/* ---- rejoin ------------------------------------------------------------------------------------ */

/* DW_OK: it follows. DW_STALE: not yet. */
static int look(const char *address, char state[200]) {
  struct buf json = {0};
  char kind = 0;
  int rc = resp_call(address, ANSWER_MS, "DW.STATUS", &kind, &json);
  cJSON *o = rc == DW_OK ? cJSON_ParseWithLength((const char *)json.data, json.len) : NULL;
  const char *link = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, "primary_state"));
  const char *error = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, "error"));
  if (rc == DW_OK && !o) rc = dw_fail(DW_CORRUPT, "%s: the answer is no status of dabbawal", address);
  snprintf(state, 200, "%.50s%s%.140s", link ? link : "no follower", error && *error ? ": " : "", error ? error : "");
  if (rc == DW_OK && (!link || (strcmp(link, "streaming") != 0 && strcmp(link, "catching-up") != 0))) rc = DW_STALE;
  if (rc == DW_OK) {
    const cJSON *moved = cJSON_GetObjectItemCaseSensitive(o, "bootstrap_bytes");
    const cJSON *reused = cJSON_GetObjectItemCaseSensitive(o, "bootstrap_reused_bytes");
    const cJSON *commits = cJSON_GetObjectItemCaseSensitive(o, "diverged_commits");
    printf("OK %s; last checkpoint: %.0f bytes came, %.0f were there already; %.0f commits in DIR/diverged\n", state,
           cJSON_IsNumber(moved) ? moved->valuedouble : 0, cJSON_IsNumber(reused) ? reused->valuedouble : 0,
           cJSON_IsNumber(commits) ? commits->valuedouble : 0);
  }
  cJSON_Delete(o);
  buf_free(&json);
  return rc;
}

static int rejoin(const char *address, const char *primary, uint64_t ms) {
  char words[200], kind = 0, state[200] = "";
  struct buf text = {0};
  snprintf(words, sizeof words, "DW.REJOIN%s%.150s", primary ? " " : "", primary ? primary : "");
  int rc = resp_call(address, ANSWER_MS, words, &kind, &text);
  buf_free(&text);
  if (rc) return rc;
  struct env *env = env_posix();
  uint64_t end = env->ops->mono_ns(env) + ms * 1000000u;
  while ((rc = look(address, state)) == DW_STALE) {
    if (env->ops->mono_ns(env) >= end) return dw_fail(DW_TIMEOUT, "%s does not follow yet: %s", address, state);
    nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
  }
  return rc;
}

int cli_rejoin(int argc, char **argv) {
  const char *rest[1], *to = NULL, *timeout = NULL;
  const struct cli_option options[] = {{"--primary", &to, NULL}, {"--timeout", &timeout, NULL}};
  uint64_t ms = REJOIN_MS;
  size_t n;
  if (!cli_arguments("rejoin", argc, argv, options, 2, rest, 1, 1, &n)) return EXIT_CONFIG;
  if (timeout && !parse_duration_ms(timeout, &ms))
    return cli_fail("rejoin", EXIT_CONFIG, "--timeout: '%.100s' is not a time", timeout);
  char *address = parse_address(rest[0]), *primary = to ? parse_address(to) : NULL;
  int code = EXIT_OK;
  if (!address || (to && !primary))
    code = cli_fail("rejoin", EXIT_CONFIG, "%s", dw_last_error());
  else if (rejoin(address, primary, ms) != DW_OK)
    code = cli_fail("rejoin", EXIT_RUNTIME, "%s", dw_last_error());
  free(address);
  free(primary);
  return code;
}
