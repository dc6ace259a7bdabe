/* A client's dealings with the connection itself: PING ECHO SELECT QUIT RESET HELLO AUTH CLIENT COMMAND CONFIG TIME, in
 * Redis' own shapes and words. */
#include <stdio.h>
#include <stdlib.h>

#include "replication/cmd/resp_glob.h"
#include "replication/cmd/resp_internal.h"
#include "wal/base/env.h"

enum handled cmd_ping(struct conn *c, const struct cmd *cmd) {
  if (cmd->argc > 2)
    conn_error(c, "ERR wrong number of arguments for 'ping' command");
  else if (c->sub_count) { /* as Redis answers those who listen */
    resp_array(&c->out, 2);
    resp_bulk_str(&c->out, "pong");
    resp_bulk(&c->out, cmd->argc == 2 ? cmd->argv[1] : (const uint8_t *)"", cmd->argc == 2 ? cmd->argl[1] : 0);
  } else if (cmd->argc == 2)
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
  txn_leave(c);
  pubsub_leave(c);
  c->write = (dw_write_options){0};
  c->read = conn_default_read(c->s);
  clients_name(c, "", 0);
  resp_simple(&c->out, "RESET");
  return HANDLED;
}

/* ---- names and passwords ------------------------------------------------------------------------- */

/* Says what is wrong with a name that is. */
static bool set_name(struct conn *c, const uint8_t *name, size_t n) {
  bool plain = true;
  for (size_t i = 0; i < n; i++) plain &= name[i] >= '!' && name[i] <= '~';
  if (!plain) {
    conn_error(c, "ERR Client names cannot contain spaces, newlines or special characters.");
  } else if (n >= sizeof c->name) {
    conn_error(c, "ERR Client names have at most %zu bytes.", sizeof c->name - 1);
    plain = false;
  } else {
    clients_name(c, name, n);
  }
  return plain;
}

/* As a Redis without passwords: its one user, default, has none and takes any. */
static bool auth(struct conn *c, const struct cmd *cmd, size_t user) {
  if (cmd->argl[user] == 7 && memcmp(cmd->argv[user], "default", 7) == 0) return true;
  conn_error(c, "WRONGPASS invalid username-password pair or user is disabled.");
  return false;
}

enum handled cmd_auth(struct conn *c, const struct cmd *cmd) {
  if (cmd->argc > 3)
    conn_error(c, "ERR syntax error");
  else if (cmd->argc == 2)
    conn_error(c, "ERR AUTH <password> called without any password configured for the default user. Are you sure your "
                  "configuration is correct?");
  else if (auth(c, cmd, 1))
    resp_simple(&c->out, "OK");
  return HANDLED;
}

static bool hello_options(struct conn *c, const struct cmd *cmd) {
  for (size_t i = 2; i < cmd->argc; i++) {
    if (cmd_is(cmd, i, "AUTH") && i + 2 < cmd->argc) {
      if (!auth(c, cmd, i + 1)) return false;
      i += 2;
    } else if (cmd_is(cmd, i, "SETNAME") && i + 1 < cmd->argc) {
      if (!set_name(c, cmd->argv[i + 1], cmd->argl[i + 1])) return false;
      i++;
    } else {
      conn_error(c, "ERR Syntax error in HELLO option '%.*s'", (int)(cmd->argl[i] < 64 ? cmd->argl[i] : 64),
                 (const char *)cmd->argv[i]);
      return false;
    }
  }
  return true;
}

enum handled cmd_hello(struct conn *c, const struct cmd *cmd) {
  long long version = 2;
  if (cmd->argc > 1 && !cmd_int(cmd, 1, &version)) {
    conn_error(c, "ERR Protocol version is not an integer or out of range");
    return HANDLED;
  }
  if (version != 2) {
    conn_error(c, "NOPROTO unsupported protocol version");
    return HANDLED;
  }
  if (!hello_options(c, cmd)) return HANDLED;
  resp_array(&c->out, 14);
  resp_bulk_str(&c->out, "server");
  resp_bulk_str(&c->out, "dabbawal");
  resp_bulk_str(&c->out, "version");
  resp_bulk_str(&c->out, dw_version());
  resp_bulk_str(&c->out, "proto");
  resp_int(&c->out, 2);
  resp_bulk_str(&c->out, "id");
  resp_int(&c->out, (long long)c->id);
  resp_bulk_str(&c->out, "mode");
  resp_bulk_str(&c->out, "standalone");
  resp_bulk_str(&c->out, "role");
  resp_bulk_str(&c->out, view_is_master(loop_view(c->l, true)) ? "master" : "replica");
  resp_bulk_str(&c->out, "modules");
  resp_array(&c->out, 0);
  return HANDLED;
}

/* ---- commands with subcommands --------------------------------------------------------------------- */

enum handled run_subcommand(struct conn *c, const struct cmd *cmd, const char *parent, const struct subcommand *subs,
                            size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (!cmd_is(cmd, 1, subs[i].name)) continue;
    int arity = subs[i].arity;
    if (arity >= 0 ? cmd->argc == (size_t)arity : cmd->argc >= (size_t)-arity) return subs[i].fn(c, cmd);
    conn_error(c, "ERR wrong number of arguments for '%s|%s' command", parent, subs[i].name);
    return HANDLED;
  }
  char shout[16];
  for (size_t i = 0; i <= strlen(parent); i++)
    shout[i] = parent[i] >= 'a' && parent[i] <= 'z' ? (char)(parent[i] - 'a' + 'A') : parent[i];
  conn_error(c, "ERR unknown subcommand '%.*s'. Try %s HELP.", (int)(cmd->argl[1] < 128 ? cmd->argl[1] : 128),
             (const char *)cmd->argv[1], shout);
  return HANDLED;
}
#define RUN_SUB(c, cmd, parent, subs) run_subcommand(c, cmd, parent, subs, sizeof(subs) / sizeof *(subs))

static enum handled reply_ok(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  resp_simple(&c->out, "OK");
  return HANDLED;
}

static enum handled client_setname(struct conn *c, const struct cmd *cmd) {
  if (set_name(c, cmd->argv[2], cmd->argl[2])) resp_simple(&c->out, "OK");
  return HANDLED;
}

static enum handled client_getname(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  if (c->name[0])
    resp_bulk_str(&c->out, c->name);
  else
    resp_nil(&c->out);
  return HANDLED;
}

static enum handled client_id(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  resp_int(&c->out, (long long)c->id);
  return HANDLED;
}

static enum handled client_info(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  char line[400];
  clients_show(c);
  resp_bulk(&c->out, line, (size_t)client_line(c, line, sizeof line));
  return HANDLED;
}

static enum handled client_list(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  struct buf all = {0};
  clients_show(c);
  (void)clients_lines(c->s, &all);
  resp_bulk(&c->out, all.data, all.len);
  buf_free(&all);
  return HANDLED;
}

/* ON is how it is; a connection that is never answered would not fit in with pipelining here. */
static enum handled client_reply(struct conn *c, const struct cmd *cmd) {
  if (cmd_is(cmd, 2, "ON"))
    resp_simple(&c->out, "OK");
  else if (cmd_is(cmd, 2, "OFF") || cmd_is(cmd, 2, "SKIP"))
    conn_error(c, "ERR CLIENT REPLY OFF and SKIP are not supported");
  else
    conn_error(c, "ERR syntax error");
  return HANDLED;
}

static enum handled client_on_off(struct conn *c, const struct cmd *cmd) {
  if (cmd_is(cmd, 2, "ON") || cmd_is(cmd, 2, "OFF"))
    resp_simple(&c->out, "OK");
  else
    conn_error(c, "ERR syntax error");
  return HANDLED;
}

enum handled cmd_client(struct conn *c, const struct cmd *cmd) {
  static const struct subcommand subs[] = {
      {"setname", 3, client_setname}, {"getname", 2, client_getname}, {"setinfo", 4, reply_ok},
      {"id", 2, client_id},           {"info", 2, client_info},       {"list", -2, client_list},
      {"reply", 3, client_reply},     {"no-evict", 3, client_on_off}, {"no-touch", 3, client_on_off}};
  return RUN_SUB(c, cmd, "client", subs);
}

/* ---- COMMAND --------------------------------------------------------------------------------------- */

/* Redis' ten fields; the last four (categories, tips, key specifications, subcommands) are empty here. */
static void describe_command(struct buf *out, const struct cmd_spec *s) {
  resp_array(out, 10);
  resp_bulk(out, s->name, s->name_n);
  resp_int(out, s->arity);
  resp_array(out, 1);
  resp_simple(out, s->flags & CMD_WRITE ? "write" : s->flags & CMD_READ && s->fn != cmd_exec ? "readonly" : "fast");
  resp_int(out, s->first_key);
  resp_int(out, s->last_key);
  resp_int(out, s->key_step);
  for (int i = 0; i < 4; i++) resp_array(out, 0);
}

static enum handled command_all(struct conn *c) {
  resp_array(&c->out, resp_command_count);
  for (size_t i = 0; i < resp_command_count; i++) describe_command(&c->out, &resp_commands[i]);
  return HANDLED;
}

static enum handled command_info(struct conn *c, const struct cmd *cmd) {
  if (cmd->argc == 2) return command_all(c);
  resp_array(&c->out, cmd->argc - 2);
  for (size_t i = 2; i < cmd->argc; i++) {
    const struct cmd_spec *s = resp_find(cmd->argv[i], cmd->argl[i]);
    if (s)
      describe_command(&c->out, s);
    else
      resp_nil(&c->out);
  }
  return HANDLED;
}

static enum handled command_count(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  resp_int(&c->out, (long long)resp_command_count);
  return HANDLED;
}

static enum handled command_list(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  resp_array(&c->out, resp_command_count);
  for (size_t i = 0; i < resp_command_count; i++) resp_bulk_str(&c->out, resp_commands[i].name);
  return HANDLED;
}

static enum handled command_docs(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  resp_array(&c->out, 0);
  return HANDLED;
}

static enum handled command_getkeys(struct conn *c, const struct cmd *cmd) {
  const struct cmd_spec *s = resp_find(cmd->argv[2], cmd->argl[2]);
  size_t argc = cmd->argc - 2;
  if (!s) {
    conn_error(c, "ERR Invalid command specified");
  } else if (s->arity >= 0 ? argc != (size_t)s->arity : argc < (size_t)-s->arity) {
    conn_error(c, "ERR Invalid number of arguments specified for command");
  } else if (!s->first_key) {
    conn_error(c, "ERR The command has no key arguments");
  } else {
    size_t first = (size_t)s->first_key, last = s->last_key < 0 ? argc - 1 : (size_t)s->last_key,
           step = (size_t)s->key_step;
    resp_array(&c->out, (last - first) / step + 1);
    for (size_t i = first; i <= last; i += step) resp_bulk(&c->out, cmd->argv[2 + i], cmd->argl[2 + i]);
  }
  return HANDLED;
}

enum handled cmd_command(struct conn *c, const struct cmd *cmd) {
  static const struct subcommand subs[] = {{"count", 2, command_count},
                                           {"info", -2, command_info},
                                           {"list", -2, command_list},
                                           {"docs", -2, command_docs},
                                           {"getkeys", -3, command_getkeys}};
  return cmd->argc == 1 ? command_all(c) : RUN_SUB(c, cmd, "command", subs);
}

/* ---- CONFIG GET: what tools ask for before they begin ------------------------------------------------ */

static enum handled config_get(struct conn *c, const struct cmd *cmd) {
  static const char *const settings[][2] = {
      {"save", ""},       {"appendonly", "yes"}, {"appendfsync", "always"}, {"maxmemory", "0"},
      {"databases", "1"}, {"timeout", "0"},      {"tcp-keepalive", "300"},  {"maxmemory-policy", "noeviction"}};
  size_t hits = 0;
  struct buf found = {0};
  for (size_t k = 0; k < sizeof settings / sizeof *settings; k++) {
    bool hit = false;
    for (size_t i = 2; i < cmd->argc; i++)
      hit |= cmd_is(cmd, i, settings[k][0]) ||
             resp_glob(cmd->argv[i], cmd->argl[i], settings[k][0], strlen(settings[k][0]));
    if (!hit) continue;
    hits++;
    resp_bulk_str(&found, settings[k][0]);
    resp_bulk_str(&found, settings[k][1]);
  }
  resp_array(&c->out, 2 * hits);
  (void)buf_append(&c->out, found.data, found.len);
  buf_free(&found);
  return HANDLED;
}

static enum handled config_set(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  conn_error(c, "ERR CONFIG SET is not supported: use the daemon's flags or its config file");
  return HANDLED;
}

enum handled cmd_config(struct conn *c, const struct cmd *cmd) {
  static const struct subcommand subs[] = {{"get", -3, config_get}, {"set", -4, config_set}};
  return RUN_SUB(c, cmd, "config", subs);
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
