/* The command table, and what holds for every command: arity, read-only followers, MULTI, its turn behind writes in
 * flight, and the consistency that reads must meet. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "replication/cmd/resp_internal.h"
#include "wal/base/status.h"

#define WP (CMD_WRITE | CMD_PIPELINE | CMD_TURNSTILE)
#define NOW (CMD_NO_MULTI | CMD_PIPELINE)
#define C(name) name, sizeof(name) - 1
const struct cmd_spec resp_commands[] = {
    {C("get"), 2, CMD_READ, cmd_get, 1, 1, 1},
    {C("set"), -3, WP, cmd_set, 1, 1, 1},
    {C("setnx"), 3, WP, cmd_setnx, 1, 1, 1},
    {C("mget"), -2, CMD_READ, cmd_mget, 1, -1, 1},
    {C("mset"), -3, WP, cmd_mset, 1, -1, 2},
    {C("del"), -2, WP, cmd_del, 1, -1, 1},
    {C("unlink"), -2, WP, cmd_del, 1, -1, 1},
    {C("exists"), -2, CMD_READ, cmd_exists, 1, -1, 1},
    {C("strlen"), 2, CMD_READ, cmd_strlen, 1, 1, 1},
    {C("type"), 2, CMD_READ, cmd_type, 1, 1, 1},
    {C("ttl"), 2, CMD_READ, cmd_ttl, 1, 1, 1},
    {C("pttl"), 2, CMD_READ, cmd_ttl, 1, 1, 1},
    {C("scan"), -2, CMD_READ, cmd_scan, 0, 0, 0},
    {C("dbsize"), 1, CMD_READ, cmd_dbsize, 0, 0, 0},
    {C("multi"), 1, NOW, cmd_multi, 0, 0, 0},
    {C("exec"), 1, NOW | CMD_READ | CMD_TURNSTILE, cmd_exec, 0, 0, 0},
    {C("discard"), 1, NOW, cmd_discard, 0, 0, 0},
    {C("watch"), -2, CMD_NO_MULTI, cmd_watch, 1, -1, 1},
    {C("unwatch"), 1, 0, cmd_unwatch, 0, 0, 0},
    {C("ping"), -1, CMD_PUBSUB, cmd_ping, 0, 0, 0},
    {C("echo"), 2, 0, cmd_echo, 0, 0, 0},
    {C("select"), 2, 0, cmd_select, 0, 0, 0},
    {C("quit"), -1, CMD_NO_MULTI | CMD_PUBSUB, cmd_quit, 0, 0, 0},
    {C("reset"), 1, CMD_NO_MULTI | CMD_PUBSUB, cmd_reset, 0, 0, 0},
    {C("hello"), -1, CMD_BAD_MULTI, cmd_hello, 0, 0, 0},
    {C("auth"), -2, CMD_BAD_MULTI, cmd_auth, 0, 0, 0},
    {C("client"), -2, 0, cmd_client, 0, 0, 0},
    {C("command"), -1, 0, cmd_command, 0, 0, 0},
    {C("config"), -2, 0, cmd_config, 0, 0, 0},
    {C("info"), -1, 0, cmd_info, 0, 0, 0},
    {C("role"), 1, 0, cmd_role, 0, 0, 0},
    {C("time"), 1, 0, cmd_time, 0, 0, 0},
    {C("wait"), 3, CMD_BAD_MULTI, cmd_wait, 0, 0, 0},
    {C("dw.lsn"), 1, 0, cmd_dw_lsn, 0, 0, 0},
    {C("dw.read"), -2, CMD_BAD_MULTI, cmd_dw_read, 0, 0, 0},
    {C("dw.mode"), -2, CMD_BAD_MULTI, cmd_dw_mode, 0, 0, 0},
    {C("dw.status"), 1, 0, cmd_dw_status, 0, 0, 0},
    {C("dw.checksum"), 1, CMD_BAD_MULTI | CMD_READ, cmd_dw_checksum, 0, 0, 0},
    {C("dw.wait"), -2, CMD_BAD_MULTI, cmd_dw_wait, 0, 0, 0},
    {C("dw.promote"), -1, CMD_BAD_MULTI, cmd_dw_promote, 0, 0, 0},
    {C("dw.follow"), 2, CMD_BAD_MULTI, cmd_dw_follow, 0, 0, 0},
    {C("sentinel"), -2, 0, cmd_sentinel, 0, 0, 0},
    {C("subscribe"), -2, CMD_BAD_MULTI | CMD_PUBSUB, cmd_subscribe, 0, 0, 0},
    {C("psubscribe"), -2, CMD_BAD_MULTI | CMD_PUBSUB, cmd_psubscribe, 0, 0, 0},
    {C("unsubscribe"), -1, CMD_BAD_MULTI | CMD_PUBSUB, cmd_unsubscribe, 0, 0, 0},
    {C("punsubscribe"), -1, CMD_BAD_MULTI | CMD_PUBSUB, cmd_punsubscribe, 0, 0, 0},
    {C("dw.rejoin"), -1, CMD_BAD_MULTI, cmd_dw_rejoin, 0, 0, 0},
    {C("dw.diverged"), 1, CMD_BAD_MULTI, cmd_dw_diverged, 0, 0, 0},
};
const size_t resp_command_count = sizeof resp_commands / sizeof *resp_commands;
_Static_assert(sizeof resp_commands / sizeof *resp_commands <= COMMANDS_MAX && COMMANDS_MAX <= RESP_METRICS_COMMANDS,
               "each command has its counter");

const struct cmd_spec *resp_find(const uint8_t *name, size_t n) {
  for (size_t i = 0; i < resp_command_count; i++)
    if (resp_commands[i].name_n == n && strncasecmp(resp_commands[i].name, (const char *)name, n) == 0)
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
  count_up(&c->l->counts.errors);
  if (resp_error(&c->out, "%s", line) != DW_OK) conn_drop(c);
}

void reply_rc(struct conn *c, struct buf *out, int rc, dw_lsn lsn, const char *message) {
  struct loop_counts *counts = &c->l->counts;
  unsigned long long n = lsn;
  int failed;
  count_up(&counts->errors);
  if (rc == DW_TIMEOUT || (rc == DW_FENCED && lsn)) count_up(&counts->indoubt);
  if (rc == DW_STALE) count_up(&counts->stale);
  switch (rc) {
  case DW_READ_ONLY: failed = reply_read_only(c, out); break;
  case DW_FENCED: failed = reply_fenced(c, out, lsn); break;
  case DW_NOT_ENOUGH_FOLLOWERS:
    failed = resp_error(out, "NOREPLICAS Not enough good replicas to write. (%s)", message);
    break;
  case DW_TIMEOUT:
    failed = lsn ? resp_error(out, "INDOUBT lsn=%llu %s", n, message)
                 : resp_error(out, "TIMEOUT certainly not done: %s", message);
    break;
  case DW_STALE: failed = resp_error(out, "STALE %s", message); break;
  case DW_NO_SPACE: failed = resp_error(out, "NOSPACE %s", message); break;
  case DW_NO_MEMORY: failed = resp_error(out, "OOM %s", message); break;
  case DW_INVALID: failed = resp_error(out, "ERR %s", message); break;
  case DW_CLOSED:
  case DW_IO:
    failed = lsn ? resp_error(out, "INDOUBT lsn=%llu %s", n, message) : resp_error(out, "IOERR %s", message);
    break;
  default: failed = resp_error(out, "ERR %s: %s", dw_rc_name(rc), message); break;
  }
  if (failed) conn_drop(c);
}

/* Redis' words, and its limit of 128 bytes for the arguments it quotes. */
static void unknown_command(struct conn *c, const struct cmd *cmd) {
  char args[300] = "";
  size_t at = 0;
  for (size_t i = 1; i < cmd->argc && at < 128; i++) {
    size_t n = cmd->argl[i] < 128 - at ? cmd->argl[i] : 128 - at;
    at += (size_t)snprintf(args + at, sizeof args - at, "'%.*s' ", (int)n, (const char *)cmd->argv[i]);
  }
  conn_error(c, "ERR unknown command '%.*s', with args beginning with: %s",
             (int)(cmd->argl[0] < 128 ? cmd->argl[0] : 128), (const char *)cmd->argv[0], args);
}

/* The transaction will not run: EXEC says so. What was queued is of no use any more. */
static void spoil_multi(struct conn *c) {
  c->multi_bad = true;
  buf_free(&c->multi_bytes);
}

/* MULTI: a copy of the command for EXEC. Of a spoiled transaction nothing is kept. */
static bool queue_command(struct conn *c, const struct cmd *cmd) {
  uint8_t word[4];
  size_t bytes = 4;
  for (size_t i = 0; i < cmd->argc; i++) bytes += 4 + cmd->argl[i];
  if (c->multi_bad) return true;
  if (c->multi_bytes.len + bytes > RESP_MAX_COMMAND) return false;
  put_u32(word, (uint32_t)cmd->argc);
  int rc = buf_append(&c->multi_bytes, word, 4);
  for (size_t i = 0; rc == DW_OK && i < cmd->argc; i++) {
    put_u32(word, (uint32_t)cmd->argl[i]);
    rc = buf_append(&c->multi_bytes, word, 4);
    if (rc == DW_OK) rc = buf_append(&c->multi_bytes, cmd->argv[i], cmd->argl[i]);
  }
  c->multi_count++;
  return rc == DW_OK;
}

/* ---- the consistency of reads -------------------------------------------------------------------- */

dw_read_options read_now(const struct conn *c) {
  dw_read_options ro = c->read;
  ro.wait_ms = 0;
  if (ro.consistency == DW_STRONG) ro = (dw_read_options){0}; /* strong_enough() has seen to it */
  return ro;
}

/* The timer runs the command again until it gets through or its time is up: no thread per waiting client. */
bool read_later(struct conn *c, int rc) {
  if (rc != DW_STALE || !c->read.wait_ms) return false;
  uint64_t now = server_now_ns();
  if (!c->deadline_ns) c->deadline_ns = now + (uint64_t)c->read.wait_ms * 1000000u;
  if (now >= c->deadline_ns) return false;
  poll_begin(c, BLOCK_READ);
  return true;
}

/* STRONG: on a follower a question to the primary, in another thread; on a primary that has not applied all that is
 * committed a moment's patience, likewise. Once it has been answered and reached, what the command reads is strong
 * enough, since what is applied only grows. */
struct strong_work {
  struct work w;
  dw_read_options ro;
  int rc;
  char error[200];
};

static bool strong_run(struct work *w) {
  struct strong_work *k = (struct strong_work *)w;
  dw_value v = {0};
  k->rc = dw_get(w->e, &k->ro, "-", 1, &v); /* any key will do */
  dw_value_release(&v);
  if (k->rc == DW_NOT_FOUND) k->rc = DW_OK;
  if (k->rc) snprintf(k->error, sizeof k->error, "%s", dw_last_error());
  return false;
}

static void strong_after(struct work *w) {
  struct strong_work *k = (struct strong_work *)w;
  w->c->strong_done = true;
  w->c->strong_rc = k->rc;
  memcpy(w->c->strong_error, k->error, sizeof k->error);
  free(k);
}

/* True: the command may read. False with *h set: it waits, or has been refused. */
static bool strong_enough(struct conn *c, enum handled *h) {
  if (c->read.consistency != DW_STRONG) return true;
  if (c->strong_done && c->strong_rc == DW_OK) return true;
  if (!c->strong_done && server_role(c->s) == DW_PRIMARY && engine_strong_now(c->s->e)) return true;
  *h = HANDLED;
  if (c->strong_done) {
    reply_rc(c, &c->out, c->strong_rc, 0, c->strong_error);
    return false;
  }
  struct strong_work *k = calloc(1, sizeof *k);
  if (!k) {
    conn_error(c, "OOM no memory for the read");
    return false;
  }
  k->w.run = strong_run;
  k->w.after = strong_after;
  k->ro = c->read;
  work_start(c, &k->w);
  *h = HANDLE_LATER;
  return false;
}

/* ---- dispatch ------------------------------------------------------------------------------------ */

static enum handled run_handler(struct conn *c, const struct cmd *cmd, const struct cmd_spec *spec) {
  enum handled h;
  if (spec->flags & CMD_READ && !strong_enough(c, &h)) return h;
  if (!(spec->flags & CMD_TURNSTILE)) return spec->fn(c, cmd);
  turnstile_enter(c->l);
  h = spec->fn(c, cmd);
  turnstile_leave(c->l);
  return h;
}

static enum handled run(struct conn *c, const struct cmd *cmd, const struct cmd_spec *spec) {
  bool queueing = c->multi && !(spec && spec->flags & CMD_NO_MULTI);
  if (!spec) {
    unknown_command(c, cmd);
  } else if (spec->arity >= 0 ? cmd->argc != (size_t)spec->arity : cmd->argc < (size_t)-spec->arity) {
    conn_error(c, "ERR wrong number of arguments for '%s' command", spec->name);
  } else if (c->multi && spec->flags & CMD_BAD_MULTI) {
    conn_error(c, "ERR Command not allowed inside a transaction");
  } else if (c->sub_count && !(spec->flags & CMD_PUBSUB)) {
    conn_error(
        c,
        "ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this "
        "context",
        spec->name);
  } else if (spec->flags & CMD_WRITE && server_role(c->s) == DW_FOLLOWER) {
    reply_rc(c, &c->out, DW_READ_ONLY, 0, "");
  } else if (queueing && !queue_command(c, cmd)) {
    conn_error(c, "OOM the transaction is too large");
  } else if (queueing) {
    return resp_simple(&c->out, "QUEUED") ? (conn_drop(c), HANDLED) : HANDLED;
  } else {
    return run_handler(c, cmd, spec);
  }
  if (c->multi) spoil_multi(c);
  return HANDLED;
}

enum handled resp_dispatch(struct conn *c, const struct cmd *cmd) {
  const struct cmd_spec *spec = resp_find(cmd->argv[0], cmd->argl[0]);
  enum handled h;
  if (!c->inflight) {
    h = run(c, cmd, spec);
  } else if (c->inflight >= CONN_INFLIGHT_MAX || !spec ||
             !(spec->flags & CMD_PIPELINE || (c->multi && !(spec->flags & CMD_NO_MULTI)))) {
    set_block(c, BLOCK_WRITES);
    return HANDLE_LATER;
  } else { /* what it says at once must not overtake the writes before it */
    struct buf sent = c->out;
    c->out = (struct buf){0};
    h = run(c, cmd, spec);
    struct buf said = c->out;
    c->out = sent;
    if (said.len)
      queue_reply(c, &said);
    else
      buf_free(&said);
  }
  if (h != HANDLED) return h;
  if (c->in_line) turnstile_forget(c); /* called, and refused before it got there */
  count_up(spec ? &c->l->counts.calls[spec - resp_commands] : &c->l->counts.unknown);
  return h;
}
