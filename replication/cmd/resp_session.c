/* A client's dealings with the connection itself: PING ECHO SELECT QUIT RESET HELLO AUTH CLIENT COMMAND CONFIG TIME, in
 * Redis' own shapes and words. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replication/cmd/resp_internal.h"
#include "wal/base/env.h"

enum handled cmd_ping(struct conn *c, const struct cmd *cmd) {
  if (cmd->argc > 2)
    conn_error(c, "ERR wrong number of arguments for 'ping' command");
  else if (cmd->argc == 2)
    resp_bulk(&c->out, cmd->argv[1], cmd->argl[1]);
  else
    resp_simple(&c->out, "PONG");
  return HANDLED;
}

enum handled cmd_echo(struct conn *c, const struct cmd *cmd) {
  resp_bulk(&c->out, cmd->argv[1], cmd->argl[1]);
  return HANDLED;
}

enum handled cmd_select(struct conn *c, const struct cmd *cmd) {
  long long db;
  if (!cmd_int(cmd, 1, &db))
    conn_error(c, "ERR value is not an integer or out of range");
  else if (db != 0)
    conn_error(c, "ERR DB index is out of range");
  else
    resp_simple(&c->out, "OK");
  return HANDLED;
}

enum handled cmd_quit(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  resp_simple(&c->out, "OK");
  c->quit = true;
  return HANDLED;
}

enum handled cmd_reset(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  c->multi = c->multi_bad = false;
  c->multi_count = 0;
  buf_free(&c->multi_bytes);
  c->write = (dw_write_options){0};
  c->read = (dw_read_options){0};
  c->name[0] = 0;
  resp_simple(&c->out, "RESET");
  return HANDLED;
}

static bool set_name(struct conn *c, const uint8_t *name, size_t n) {
  if (n >= sizeof c->name) return false;
  for (size_t i = 0; i < n; i++)
    if (name[i] < '!' || name[i] > '~') return false;
  memcpy(c->name, name, n);
  c->name[n] = 0;
  return true;
}

static const char bad_name[] =
    "ERR Client names cannot contain spaces, newlines or special characters, and have at most 63 bytes.";

enum handled cmd_hello(struct conn *c, const struct cmd *cmd) {
  long long version = 2;
  size_t i = 1;
  if (cmd->argc > 1 && (!cmd_int(cmd, i++, &version) || version != 2)) {
    conn_error(c, cmd_int(cmd, 1, &version) ? "NOPROTO unsupported protocol version"
                                            : "ERR Protocol version is not an integer or out of range");
    return HANDLED;
  }
  for (; i < cmd->argc; i++) {
    if (cmd_is(cmd, i, "AUTH") && i + 2 < cmd->argc) {
      conn_error(c,
                 "ERR AUTH <password> called without any password configured for the default user. Are you sure your "
                 "configuration is correct?");
      return HANDLED;
    }
    if (cmd_is(cmd, i, "SETNAME") && i + 1 < cmd->argc) {
      if (set_name(c, cmd->argv[i + 1], cmd->argl[i + 1])) {
        i++;
        continue;
      }
      conn_error(c, "%s", bad_name);
      return HANDLED;
    }
    conn_error(c, "ERR Syntax error in HELLO option '%.*s'", (int)(cmd->argl[i] < 64 ? cmd->argl[i] : 64),
               (const char *)cmd->argv[i]);
    return HANDLED;
  }
  resp_array(&c->out, 14);
  const char *pairs[][2] = {{"server", "dabbawal"}, {"version", dw_version()}};
  for (int k = 0; k < 2; k++) {
    resp_bulk_str(&c->out, pairs[k][0]);
    resp_bulk_str(&c->out, pairs[k][1]);
  }
  resp_bulk_str(&c->out, "proto");
  resp_int(&c->out, 2);
  resp_bulk_str(&c->out, "id");
  resp_int(&c->out, (long long)c->id);
  resp_bulk_str(&c->out, "mode");
  resp_bulk_str(&c->out, "standalone");
  resp_bulk_str(&c->out, "role");
  resp_bulk_str(&c->out, c->s->role == DW_PRIMARY ? "master" : "replica");
  resp_bulk_str(&c->out, "modules");
  resp_array(&c->out, 0);
  return HANDLED;
}

enum handled cmd_auth(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  conn_error(c, "ERR AUTH <password> called without any password configured for the default user. Are you sure your "
                "configuration is correct?");
  return HANDLED;
}

static int describe_client(const struct conn *c, char *line, size_t cap) {
  return snprintf(line, cap, "id=%llu addr=%s name=%s db=0 multi=%d qbuf=%zu cmd=NULL user=default resp=2\n",
                  (unsigned long long)c->id, c->peer, c->name, c->multi ? (int)c->multi_count : -1,
                  c->in.len - c->in_used);
}

static void list_clients(struct conn *c) {
  struct buf all = {0};
  for (const struct conn *k = c->s->conns; k; k = k->next) {
    char line[400];
    int n = describe_client(k, line, sizeof line);
    if (buf_append(&all, line, (size_t)n)) break;
  }
  resp_bulk(&c->out, all.data, all.len);
  buf_free(&all);
}

enum handled cmd_client(struct conn *c, const struct cmd *cmd) {
  char line[400];
  if (cmd_is(cmd, 1, "SETNAME") && cmd->argc == 3) {
    if (set_name(c, cmd->argv[2], cmd->argl[2]))
      resp_simple(&c->out, "OK");
    else
      conn_error(c, "%s", bad_name);
  } else if (cmd_is(cmd, 1, "GETNAME") && cmd->argc == 2) {
    if (c->name[0])
      resp_bulk_str(&c->out, c->name);
    else
      resp_nil(&c->out);
  } else if (cmd_is(cmd, 1, "ID") && cmd->argc == 2) {
    resp_int(&c->out, (long long)c->id);
  } else if (cmd_is(cmd, 1, "INFO") && cmd->argc == 2) {
    resp_bulk(&c->out, line, (size_t)describe_client(c, line, sizeof line));
  } else if (cmd_is(cmd, 1, "LIST")) {
    list_clients(c);
  } else if ((cmd_is(cmd, 1, "SETINFO") && cmd->argc == 4) || (cmd_is(cmd, 1, "NO-EVICT") && cmd->argc == 3) ||
             (cmd_is(cmd, 1, "NO-TOUCH") && cmd->argc == 3)) {
    resp_simple(&c->out, "OK");
  } else {
    conn_error(c, "ERR unknown subcommand or wrong number of arguments for '%.*s'. Try CLIENT HELP.",
               (int)(cmd->argl[1] < 64 ? cmd->argl[1] : 64), (const char *)cmd->argv[1]);
  }
  return HANDLED;
}

static void describe_command(struct buf *out, const struct cmd_spec *s) {
  resp_array(out, 6);
  resp_bulk_str(out, s->name);
  resp_int(out, s->arity);
  resp_array(out, 1);
  resp_simple(out, s->flags & CMD_WRITE ? "write" : s->first_key ? "readonly" : "fast");
  resp_int(out, s->first_key);
  resp_int(out, s->last_key);
  resp_int(out, s->key_step);
}

enum handled cmd_command(struct conn *c, const struct cmd *cmd) {
  if (cmd->argc == 1) {
    resp_array(&c->out, resp_command_count);
    for (size_t i = 0; i < resp_command_count; i++) describe_command(&c->out, &resp_commands[i]);
  } else if (cmd_is(cmd, 1, "COUNT")) {
    resp_int(&c->out, (long long)resp_command_count);
  } else if (cmd_is(cmd, 1, "INFO")) {
    resp_array(&c->out, cmd->argc - 2);
    for (size_t i = 2; i < cmd->argc; i++) {
      const struct cmd_spec *s = resp_find(cmd->argv[i], cmd->argl[i]);
      if (s)
        describe_command(&c->out, s);
      else
        resp_nil_array(&c->out);
    }
  } else if (cmd_is(cmd, 1, "LIST")) {
    resp_array(&c->out, resp_command_count);
    for (size_t i = 0; i < resp_command_count; i++) resp_bulk_str(&c->out, resp_commands[i].name);
  } else if (cmd_is(cmd, 1, "DOCS")) {
    resp_array(&c->out, 0);
  } else {
    conn_error(c, "ERR unknown subcommand '%.*s'. Try COMMAND HELP.", (int)(cmd->argl[1] < 64 ? cmd->argl[1] : 64),
               (const char *)cmd->argv[1]);
  }
  return HANDLED;
}

enum handled cmd_config(struct conn *c, const struct cmd *cmd) {
  static const char *const settings[][2] = {
      {"save", ""},       {"appendonly", "yes"}, {"appendfsync", "always"}, {"maxmemory", "0"},
      {"databases", "1"}, {"timeout", "0"},      {"tcp-keepalive", "0"},    {"maxmemory-policy", "noeviction"}};
  if (!cmd_is(cmd, 1, "GET") || cmd->argc < 3) {
    conn_error(
        c,
        "ERR unknown subcommand or wrong number of arguments for '%.*s'. Only CONFIG GET is supported: use flags "
        "or the config file.",
        (int)(cmd->argl[1] < 64 ? cmd->argl[1] : 64), (const char *)cmd->argv[1]);
    return HANDLED;
  }
  size_t hits = 0;
  struct buf found = {0};
  for (size_t k = 0; k < sizeof settings / sizeof *settings; k++) {
    bool hit = false;
    for (size_t i = 2; i < cmd->argc; i++) hit |= cmd_is(cmd, i, "*") || cmd_is(cmd, i, settings[k][0]);
    if (!hit) continue;
    hits++;
    resp_bulk_str(&found, settings[k][0]);
    resp_bulk_str(&found, settings[k][1]);
  }
  resp_array(&c->out, 2 * hits);
  if (found.len) buf_append(&c->out, found.data, found.len);
  buf_free(&found);
  return HANDLED;
}

enum handled cmd_time(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  uint64_t us = env_posix()->ops->wall_ns(env_posix()) / 1000;
  char text[24];
  resp_array(&c->out, 2);
  snprintf(text, sizeof text, "%llu", (unsigned long long)(us / 1000000));
  resp_bulk_str(&c->out, text);
  snprintf(text, sizeof text, "%llu", (unsigned long long)(us % 1000000));
  resp_bulk_str(&c->out, text);
  return HANDLED;
}
