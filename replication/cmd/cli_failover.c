/* `dabbawal pause`, `dabbawal resume` and `dabbawal audit verify`. */
#include <stdio.h>
#include <string.h>

#include "replication/cmd/audit.h"
#include "replication/cmd/cli.h"
#include "replication/cmd/config.h"
#include "replication/cmd/failover_keys.h"
#include "wal/base/status.h"

#define TIMEOUT_MS 5000u

/* Puts or deletes the pause key. */
static int set_paused(const char *command, int argc, char **argv, bool on) {
  const char *url = NULL, *cluster = NULL, *rest[1];
  const struct cli_option options[] = {
      {"--coordinator", &url, NULL}, {"--cluster-name", &cluster, NULL}, {"--cluster", &cluster, NULL}};
  size_t n;
  char key[COORD_KEY_BYTES + 8];
  struct coordinator *c = NULL;
  if (!cli_arguments(command, argc, argv, options, 3, rest, 0, 0, &n)) return EXIT_CONFIG;
  if (!url || !cluster) return cli_fail(command, EXIT_CONFIG, "--coordinator and --cluster-name are needed");
  int rc = failover_prefix(cluster, key);
  if (rc == DW_OK) rc = coordinator_open(url, &c);
  if (rc) return cli_fail(command, EXIT_CONFIG, "%s", dw_last_error());
  strcat(key, KEY_PAUSE); /* 8 bytes are kept for it */
  bool done = false;
  struct coord_change change = {.key = key, .value = on ? "\"dabbawal pause\"" : NULL};
  rc = c->ops->txn(c, NULL, 0, &change, 1, TIMEOUT_MS, &done);
  int code = EXIT_OK;
  if (rc || !done)
    code = cli_fail(command, EXIT_RUNTIME, "%s", rc ? dw_last_error() : "the coordinator refused");
  else
    printf("failover of cluster %s is %s\n", cluster, on ? "paused" : "on");
  c->ops->destroy(c);
  return code;
}

int cli_pause(int argc, char **argv) {
  return set_paused("pause", argc, argv, true);
}
int cli_resume(int argc, char **argv) {
  return set_paused("resume", argc, argv, false);
}

int cli_audit(int argc, char **argv) {
  const char *rest[2];
  size_t n;
  struct audit_summary s;
  char hex[33];
  if (!cli_arguments("audit", argc, argv, NULL, 0, rest, 2, 2, &n)) return EXIT_CONFIG;
  if (strcmp(rest[0], "verify") != 0)
    return cli_fail("audit", EXIT_CONFIG, "unknown command '%.100s': verify", rest[0]);
  int rc = audit_verify(rest[1], &s);
  if (rc) return cli_fail("audit", rc == DW_CORRUPT ? EXIT_BAD_DATA : EXIT_RUNTIME, "%s", dw_last_error());
  hash128_hex(&s.last, hex);
  printf("sound: %llu lines, %llu torn by crashes, last hash %s\n", (unsigned long long)s.lines,
         (unsigned long long)s.torn, hex);
  return EXIT_OK;
}
