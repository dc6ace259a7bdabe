/* The command table, and what holds for every command: arity, read-only followers, MULTI, order behind writes in flight. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/resp_internal.h"
#include "wal/base/status.h"

#define WP (CMD_WRITE | CMD_PIPELINE)
const struct cmd_spec resp_commands[] = {
    {"get", 2, 0, cmd_get, 1, 1, 1},
    {"set", -3, WP, cmd_set, 1, 1, 1},
    {"setnx", 3, WP, cmd_setnx, 1, 1, 1},
    {"mget", -2, 0, cmd_mget, 1, -1, 1},
    {"mset", -3, WP, cmd_mset, 1, -1, 2},
    {"del", -2, WP, cmd_del, 1, -1, 1},
    {"unlink", -2, WP, cmd_del, 1, -1, 1},
    {"exists", -2, 0, cmd_exists, 1, -1, 1},
    {"strlen", 2, 0, cmd_strlen, 1, 1, 1},
    {"type", 2, 0, cmd_type, 1, 1, 1},
    {"ttl", 2, 0, cmd_ttl, 1, 1, 1},
    {"pttl", 2, 0, cmd_ttl, 1, 1, 1},
    {"scan", -2, 0, cmd_scan, 0, 0, 0},
    {"dbsize", 1, 0, cmd_dbsize, 0, 0, 0},
    {"multi", 1, CMD_NO_MULTI, cmd_multi, 0, 0, 0},
    {"exec", 1, CMD_NO_MULTI, cmd_exec, 0, 0, 0},
    {"discard", 1, CMD_NO_MULTI, cmd_discard, 0, 0, 0},
    {"ping", -1, 0, cmd_ping, 0, 0, 0},
    {"echo", 2, 0, cmd_echo, 0, 0, 0},
    {"select", 2, 0, cmd_select, 0, 0, 0},
    {"quit", -1, CMD_NO_MULTI, cmd_quit, 0, 0, 0},
    {"reset", 1, CMD_NO_MULTI, cmd_reset, 0, 0, 0},
    {"hello", -1, CMD_IN_MULTI_BAD, cmd_hello, 0, 0, 0},
    {"auth", -2, CMD_IN_MULTI_BAD, cmd_auth, 0, 0, 0},
    {"client", -2, 0, cmd_client, 0, 0, 0},
    {"command", -1, 0, cmd_command, 0, 0, 0},
    {"config", -2, 0, cmd_config, 0, 0, 0},
    {"info", -1, 0, cmd_info, 0, 0, 0},
    {"role", 1, 0, cmd_role, 0, 0, 0},
    {"time", 1, 0, cmd_time, 0, 0, 0},
    {"wait", 3, CMD_IN_MULTI_BAD, cmd_wait, 0, 0, 0},
    {"dw.lsn", 1, 0, cmd_dw_lsn, 0, 0, 0},
    {"dw.read", -2, CMD_IN_MULTI_BAD, cmd_dw_read, 0, 0, 0},
    {"dw.mode", -2, CMD_IN_MULTI_BAD, cmd_dw_mode, 0, 0, 0},
    {"dw.status", 1, 0, cmd_dw_status, 0, 0, 0},
    {"dw.checksum", 1, CMD_IN_MULTI_BAD, cmd_dw_checksum, 0, 0, 0},
    {"dw.wait", -2, CMD_IN_MULTI_BAD, cmd_dw_wait, 0, 0, 0},
};
const size_t resp_command_count = sizeof resp_commands / sizeof *resp_commands;

const struct cmd_spec *resp_find(const uint8_t *name, size_t n) {
  for (size_t i = 0; i < resp_command_count; i++)
    if (strlen(resp_commands[i].name) == n && strncasecmp(resp_commands[i].name, (const char *)name, n) == 0)
      return &resp_commands[i];
  return NULL;
}

bool cmd_int(const struct cmd *c, size_t i, long long *v) {
  char text[24], *end;
  if (c->argl[i] == 0 || c->argl[i] >= sizeof text) return false;
  memcpy(text, c->argv[i], c->argl[i]);
  text[c->argl[i]] = 0;
  errno = 0;
  *v = strtoll(text, &end, 10);
  return !*end && !errno && end != text && text[0] != ' ' && text[0] != '+';
}

void conn_error(struct conn *c, const char *fmt, ...) {
  char line[700];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  atomic_fetch_add_explicit(&c->s->m_errors, 1, memory_order_relaxed);
  if (resp_error(&c->out, "%s", line) != DW_OK) conn_drop(c);
}

void reply_rc(struct conn *c, struct buf *out, int rc, dw_lsn lsn, const char *message) {
  int failed;
  atomic_fetch_add_explicit(&c->s->m_errors, 1, memory_order_relaxed);
  switch (rc) {
  case DW_READ_ONLY:
    failed = resp_error(out, "READONLY You can't write against a read only replica. (%s)", message);
    break;
  case DW_NOT_ENOUGH_FOLLOWERS: failed = resp_error(out, "NOREPLICAS Not enough good replicas to write. (%s)", message); break;
  case DW_TIMEOUT:
    atomic_fetch_add_explicit(&c->s->m_indoubt, 1, memory_order_relaxed);
    failed = lsn ? resp_error(out, "INDOUBT lsn=%llu", (unsigned long long)lsn)
                 : resp_error(out, "TIMEOUT not done: %s", message);
    break;
  case DW_STALE:
    atomic_fetch_add_explicit(&c->s->m_stale, 1, memory_order_relaxed);
    failed = resp_error(out, "STALE %s", message);
    break;
  case DW_NO_SPACE: failed = resp_error(out, "NOSPACE %s", message); break;
  case DW_NO_MEMORY: failed = resp_error(out, "OOM %s", message); break;
  case DW_INVALID: failed = resp_error(out, "ERR %s", message); break;
  case DW_CLOSED:
  case DW_IO:
    failed = lsn ? resp_error(out, "INDOUBT lsn=%llu %s", (unsigned long long)lsn, message)
                 : resp_error(out, "IOERR %s", message);
    break;
  default: failed = resp_error(out, "ERR %s: %s", dw_rc_name(rc), message); break;
  }
  if (failed) conn_drop(c);
}

static void unknown_command(struct conn *c, const struct cmd *cmd) {
  char args[160] = "";
  size_t at = 0;
  for (size_t i = 1; i < cmd->argc && at < 128; i++)
    at += (size_t)snprintf(args + at, sizeof args - at, "'%.*s' ", (int)(cmd->argl[i] < 40 ? cmd->argl[i] : 40),
                           (const char *)cmd->argv[i]);
  conn_error(c, "ERR unknown command '%.*s', with args beginning with: %s", (int)(cmd->argl[0] < 128 ? cmd->argl[0] : 128),
             (const char *)cmd->argv[0], args);
}

/* MULTI: a copy of the command for EXEC. */
static bool queue_command(struct conn *c, const struct cmd *cmd) {
  uint8_t word[4];
  put_u32(word, (uint32_t)cmd->argc);
  int rc = buf_append(&c->multi_bytes, word, 4);
  for (size_t i = 0; rc == DW_OK && i < cmd->argc; i++) {
    put_u32(word, (uint32_t)cmd->argl[i]);
    rc = buf_append(&c->multi_bytes, word, 4);
    if (rc == DW_OK) rc = buf_append(&c->multi_bytes, cmd->argv[i], cmd->argl[i]);
  }
  if (rc == DW_OK && c->multi_bytes.len > RESP_MAX_COMMAND) rc = DW_INVALID;
  c->multi_count++;
  return rc == DW_OK;
}

enum handled resp_dispatch(struct conn *c, const struct cmd *cmd) {
  const struct cmd_spec *spec = resp_find(cmd->argv[0], cmd->argl[0]);
  /* Errors are replies too: they keep the order. */
  bool pipelines = spec && (spec->flags & CMD_PIPELINE) && !c->multi;
  if (c->inflight && !pipelines) {
    c->block = BLOCK_WRITES;
    return HANDLE_LATER;
  }
  const char *why = NULL;
  if (!spec) {
    unknown_command(c, cmd);
  } else if ((spec->arity >= 0 && cmd->argc != (size_t)spec->arity) ||
             (spec->arity < 0 && cmd->argc < (size_t)-spec->arity)) {
    why = "ERR wrong number of arguments for";
  } else if (c->multi && spec->flags & CMD_IN_MULTI_BAD) {
    why = "ERR Command not allowed inside a transaction:";
  } else if (spec->flags & CMD_WRITE && c->s->role == DW_FOLLOWER) {
    if (c->inflight) {
      c->block = BLOCK_WRITES;
      return HANDLE_LATER;
    }
    conn_error(c, "READONLY You can't write against a read only replica.");
  } else if (c->multi && !(spec->flags & CMD_NO_MULTI)) {
    if (queue_command(c, cmd)) {
      resp_simple(&c->out, "QUEUED");
      return HANDLED;
    }
    conn_error(c, "OOM the transaction is too large");
  } else {
    return spec->fn(c, cmd);
  }
  if (why && c->inflight) {
    c->block = BLOCK_WRITES;
    return HANDLE_LATER;
  }
  if (why) conn_error(c, "%s '%s' command", why, spec->name);
  if (c->multi) c->multi_bad = true;
  return HANDLED;
}
