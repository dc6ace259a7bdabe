/* `dabbawal status HOST:PORT`: asks a node's RESP or HTTP port (whichever it is) for its status and shows a table. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "replication/cmd/cli.h"
#include "replication/cmd/config.h"
#include "replication/cmd/net.h"
#include "replication/cmd/resp_client.h"
#include "replication/cmd/status_table.h"
#include "replication/cmd/text.h"
#include "wal/base/status.h"

#define TIMEOUT_MS 5000u
#define ANSWER_MAX (16u << 20)

/* ---- asking ------------------------------------------------------------------------------------ */

/* The body of GET /status; HTTP/1.0, so that it simply ends with the connection. */
static int ask_http(const char *address, struct buf *body) {
  static const char request[] = "GET /status HTTP/1.0\r\nAccept: application/json\r\n\r\n";
  int fd = -1, rc = net_connect(address, TIMEOUT_MS, &fd);
  if (rc) return rc;
  if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) != (ssize_t)sizeof request - 1)
    rc = dw_fail_errno(errno, "send to %s", address);
  body->len = 0;
  while (rc == DW_OK) {
    uint8_t chunk[16384];
    ssize_t n = recv(fd, chunk, sizeof chunk, 0);
    if (n < 0) rc = dw_fail_errno(errno, "receive from %s", address);
    if (n <= 0) break;
    rc = body->len > ANSWER_MAX ? dw_fail(DW_CORRUPT, "%s: the answer does not end", address)
                                : buf_append(body, chunk, (size_t)n);
  }
  close(fd);
  if (rc) return rc;
  if (body->len < 12 || memcmp(body->data, "HTTP/1.", 7) != 0)
    return dw_fail(DW_CORRUPT, "%s speaks neither RESP nor HTTP: is it the --resp or --http port?", address);
  const uint8_t *split = memmem(body->data, body->len, "\r\n\r\n", 4);
  if (memcmp(body->data + 8, " 200", 4) != 0 || !split)
    return dw_fail(DW_CORRUPT, "%s: GET /status is answered with '%.*s'", address, 12, (const char *)body->data);
  buf_consume(body, (size_t)(split + 4 - body->data));
  return DW_OK;
}

/* RESP first; what does not understand it, or closes on it, is asked by HTTP. */
static int ask(const char *address, struct buf *json) {
  char kind = 0;
  json->len = 0;
  int rc = resp_call(address, TIMEOUT_MS, "DW.STATUS", &kind, json);
  if (rc == DW_CORRUPT || rc == DW_CLOSED) rc = ask_http(address, json);
  return rc;
}

/* ---- showing ----------------------------------------------------------------------------------- */

static int show(const char *address, bool raw, bool clear) {
  struct buf json = {0};
  int rc = ask(address, &json);
  if (clear) fputs("\033[H\033[2J", stdout);
  if (rc == DW_OK && raw) {
    while (json.len && json.data[json.len - 1] == '\n') json.len--;
    printf("%.*s\n", (int)json.len, (const char *)json.data);
  } else if (rc == DW_OK) {
    cJSON *o = cJSON_ParseWithLength((const char *)json.data, json.len);
    if (cJSON_IsObject(o) && cJSON_IsString(cJSON_GetObjectItemCaseSensitive(o, "role")))
      status_table(stdout, o);
    else
      rc = dw_fail(DW_CORRUPT, "%s: the answer is no status of dabbawal", address);
    cJSON_Delete(o);
  }
  fflush(stdout);
  buf_free(&json);
  return rc;
}

static int watch(const char *address, bool raw) {
  bool terminal = isatty(STDOUT_FILENO) == 1;
  for (;;) { /* until interrupted; a node that restarts is waited for */
    if (show(address, raw, terminal) != DW_OK) {
      printf("%s: %s\n", address, dw_last_error());
      fflush(stdout);
    } else if (!terminal && !raw) {
      printf("\n");
    }
    if (ferror(stdout)) return EXIT_RUNTIME;
    nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
  }
}

int cli_status(int argc, char **argv) {
  const char *rest[1];
  bool again = false, raw = false;
  const struct cli_option options[] = {{"--watch", NULL, &again}, {"--json", NULL, &raw}};
  size_t n;
  if (!cli_arguments("status", argc, argv, options, 2, rest, 1, 1, &n)) return EXIT_CONFIG;
  char *address = parse_address(rest[0]);
  if (!address) return cli_fail("status", EXIT_CONFIG, "%s", dw_last_error());
  int code = EXIT_OK;
  if (again)
    code = watch(address, raw);
  else if (show(address, raw, false) != DW_OK)
    code = cli_fail("status", EXIT_RUNTIME, "%s", dw_last_error());
  free(address);
  return code;
}

int cli_checksum(int argc, char **argv) {
  const char *rest[1];
  size_t n;
  if (!cli_arguments("checksum", argc, argv, NULL, 0, rest, 1, 1, &n)) return EXIT_CONFIG;
  char *address = parse_address(rest[0]), kind = 0;
  struct buf text = {0};
  if (!address) return cli_fail("checksum", EXIT_CONFIG, "%s", dw_last_error());
  int code = EXIT_OK;
  if (resp_call(address, 600000, "DW.CHECKSUM", &kind, &text) != DW_OK) {
    code = cli_fail("checksum", EXIT_RUNTIME, "%s", dw_last_error());
  } else { /* records, applied LSN, hash: one a line */
    for (size_t i = 0; i + 1 < text.len; i++)
      if (text.data[i] == '\n') text.data[i] = ' ';
    printf("%.*s", (int)text.len, (const char *)text.data);
  }
  free(address);
  buf_free(&text);
  return code;
}
