/* MULTI, EXEC, DISCARD: the queued commands become one batch, that is one commit: all or nothing, everywhere.
 *
 * EXEC runs them in order over the state at one point, with the batch's own writes laid over it, so a GET behind a SET
 * sees the SET. Replies are collected and sent once the commit is confirmed. No key of the transaction may have a write
 * in flight when it runs (keys_free), so nothing that comes through this server stands between its reads and its
 * commit.
 */
#include <stdlib.h>

#include "replication/cmd/resp_internal.h"
#include "replication/cmd/resp_overlay.h"
#include "replication/cmd/resp_point.h"
#include "replication/cmd/resp_set.h"
#include "wal/base/status.h"

struct txn {
  struct conn *c;
  dw_batch *batch;
  struct overlay over; /* points into the queued bytes */
  struct point point;
  struct buf reply;
};

void txn_leave(struct conn *c) {
  c->multi = c->multi_bad = false;
  c->multi_count = 0;
  buf_free(&c->multi_bytes);
}

enum handled cmd_multi(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  if (c->multi) {
    conn_error(c, "ERR MULTI calls can not be nested");
    return HANDLED;
  }
  c->multi = true;
  resp_simple(&c->out, "OK");
  return HANDLED;
}

enum handled cmd_discard(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  if (!c->multi) {
    conn_error(c, "ERR DISCARD without MULTI");
    return HANDLED;
  }
  txn_leave(c);
  resp_simple(&c->out, "OK");
  return HANDLED;
}

enum handled cmd_watch(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  conn_error(c, c->multi ? "ERR WATCH inside MULTI is not allowed"
                         : "ERR WATCH is not supported: SET with NX or XX, or MULTI with reads, is one atomic step");
  return HANDLED;
}

enum handled cmd_unwatch(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  resp_simple(&c->out, "OK"); /* nothing was watched */
  return HANDLED;
}

/* The key's value as the transaction sees it. DW_OK, DW_NOT_FOUND, or an error. */
static int look(struct txn *t, const uint8_t *key, size_t klen, const uint8_t **val, size_t *vlen) {
  const struct overlay_entry *e = overlay_find(&t->over, key, klen);
  if (!e) return point_get(&t->point, key, klen, val, vlen);
  *val = e->val;
  *vlen = e->vlen;
  return e->deleted ? DW_NOT_FOUND : DW_OK;
}

static int put(struct txn *t, const struct cmd *cmd, size_t k, size_t v) {
  int rc = dw_batch_put(t->batch, cmd->argv[k], cmd->argl[k], cmd->argv[v], cmd->argl[v]);
  return rc ? rc : overlay_set(&t->over, cmd->argv[k], cmd->argl[k], cmd->argv[v], cmd->argl[v]);
}

static int run_set(struct txn *t, const struct cmd *cmd) {
  struct set_options o = set_parse(cmd);
  if (o.error) return resp_error(&t->reply, "%s", o.error);
  const uint8_t *old = NULL;
  size_t old_n = 0;
  int rc = o.nx || o.xx || o.get ? look(t, cmd->argv[1], cmd->argl[1], &old, &old_n) : DW_NOT_FOUND;
  bool found = rc == DW_OK;
  if (rc && rc != DW_NOT_FOUND) return rc;
  rc = set_reply(&t->reply, &o, found, old, old_n);
  return rc || set_skips(&o, found) ? rc : put(t, cmd, 1, 2);
}

static int run_mset(struct txn *t, const struct cmd *cmd) {
  if (cmd->argc % 2 == 0) return resp_error(&t->reply, "ERR wrong number of arguments for 'mset' command");
  int rc = DW_OK;
  for (size_t i = 1; rc == DW_OK && i < cmd->argc; i += 2) rc = put(t, cmd, i, i + 1);
  return rc ? rc : resp_simple(&t->reply, "OK");
}

/* DEL and EXISTS count; the others answer for each key. */
static int run_keys(struct txn *t, const struct cmd *cmd, const struct cmd_spec *spec) {
  bool del = spec->fn == cmd_del, exists = spec->fn == cmd_exists;
  long long count = 0;
  int rc = spec->fn == cmd_mget ? resp_array(&t->reply, cmd->argc - 1) : DW_OK;
  for (size_t i = 1; rc == DW_OK && i < cmd->argc; i++) {
    const uint8_t *val = NULL;
    size_t vlen = 0;
    int got = look(t, cmd->argv[i], cmd->argl[i], &val, &vlen);
    count += got == DW_OK;
    if (!del && !exists) {
      rc = point_reply(&t->reply, spec->name, got, val, vlen);
    } else if (del && got == DW_OK) {
      rc = dw_batch_delete(t->batch, cmd->argv[i], cmd->argl[i]);
      if (rc == DW_OK) rc = overlay_set(&t->over, cmd->argv[i], cmd->argl[i], NULL, 0);
    } else if (got != DW_NOT_FOUND) {
      rc = got;
    }
  }
  return rc == DW_OK && (del || exists) ? resp_int(&t->reply, count) : rc;
}

/* A command without keys (PING, DW.LSN, INFO...): its handler writes to the connection; move that into the reply. */
static int run_other(struct txn *t, const struct cmd *cmd, const struct cmd_spec *spec) {
  struct buf kept = t->c->out;
  t->c->out = (struct buf){0};
  if (spec->fn == cmd_dbsize || spec->fn == cmd_scan) /* they may wait */
    resp_error(&t->c->out, "ERR '%s' is not supported inside MULTI", spec->name);
  else
    spec->fn(t->c, cmd);
  int rc = buf_append(&t->reply, t->c->out.data, t->c->out.len);
  buf_free(&t->c->out);
  t->c->out = kept;
  return rc;
}

static int run_queued(struct txn *t, const struct cmd *cmd) {
  const struct cmd_spec *spec = resp_find(cmd->argv[0], cmd->argl[0]);
  if (spec->fn == cmd_set || spec->fn == cmd_setnx) return run_set(t, cmd);
  if (spec->fn == cmd_mset) return run_mset(t, cmd);
  if (spec->first_key) return run_keys(t, cmd, spec);
  return run_other(t, cmd, spec);
}

/* The queued commands as one array of arguments, and where each command begins. */
struct unpacked {
  const uint8_t **argv;
  size_t *argl, *begin;
  size_t args;
};

static bool unpack(const struct conn *c, struct unpacked *u) {
  size_t at = 0, cap = c->multi_bytes.len / 4 + 1;
  u->argv = malloc(cap * sizeof *u->argv);
  u->argl = malloc(cap * sizeof *u->argl);
  u->begin = malloc((c->multi_count + 1) * sizeof *u->begin);
  u->args = 0;
  if (!u->argv || !u->argl || !u->begin) return false;
  for (uint32_t k = 0; k < c->multi_count; k++) {
    u->begin[k] = u->args;
    uint32_t argc = get_u32(c->multi_bytes.data + at);
    at += 4;
    for (uint32_t i = 0; i < argc; i++) {
      u->argl[u->args] = get_u32(c->multi_bytes.data + at);
      u->argv[u->args++] = c->multi_bytes.data + at + 4;
      at += 4 + u->argl[u->args - 1];
    }
  }
  u->begin[c->multi_count] = u->args;
  return true;
}

/* Only keys that are read or written: a flat command whose every argument is a key of the transaction. */
static bool gather_keys(const struct conn *c, const struct unpacked *u, struct cmd *keys) {
  keys->argv = malloc((u->args + 1) * sizeof *keys->argv);
  keys->argl = malloc((u->args + 1) * sizeof *keys->argl);
  keys->argc = 0;
  if (!keys->argv || !keys->argl) return false;
  for (uint32_t k = 0; k < c->multi_count; k++) {
    size_t b = u->begin[k], argc = u->begin[k + 1] - b;
    const struct cmd_spec *spec = resp_find(u->argv[b], u->argl[b]);
    if (!spec->first_key) continue;
    size_t last = spec->last_key < 0 ? argc - 1 : (size_t)spec->last_key;
    for (size_t i = (size_t)spec->first_key; i <= last && i < argc; i += (size_t)spec->key_step) {
      keys->argv[keys->argc] = u->argv[b + i];
      keys->argl[keys->argc++] = u->argl[b + i];
    }
  }
  return true;
}

/* What a transaction has come to: an error for all of it, only replies, or a commit. */
static enum handled conclude(struct txn *t, int rc, const struct cmd *keys) {
  struct conn *c = t->c;
  if (read_later(c, rc)) return HANDLE_LATER;
  if (rc)
    reply_rc(c, &c->out, rc, 0, dw_last_error());
  else if (dw_batch_count(t->batch) == 0)
    rc = buf_append(&c->out, t->reply.data, t->reply.len);
  else if (!write_start(c, t->batch, &t->reply, keys, 0, 1, keys->argc))
    return HANDLE_LATER; /* no room just now: runs again from the beginning */
  return HANDLED;
}

static enum handled run_all(struct conn *c, const struct unpacked *u, const struct cmd *keys) {
  struct txn t = {.c = c, .batch = dw_batch_create(), .point = {.e = c->s->e, .ro = read_now(c)}};
  int rc = t.batch ? resp_array(&t.reply, c->multi_count) : dw_fail_nomem(0);
  for (uint32_t k = 0; rc == DW_OK && k < c->multi_count; k++) {
    size_t b = u->begin[k];
    struct cmd cmd = {.argc = u->begin[k + 1] - b, .argv = u->argv + b, .argl = u->argl + b};
    rc = run_queued(&t, &cmd);
    if (rc == DW_OK && t.reply.len > OUT_HARD) rc = dw_fail(DW_INVALID, "the reply would exceed %u bytes", OUT_HARD);
  }
  enum handled h = conclude(&t, rc, keys);
  point_end(&t.point);
  dw_batch_destroy(t.batch);
  buf_free(&t.reply);
  overlay_free(&t.over);
  return h;
}

enum handled cmd_exec(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  if (!c->multi || c->multi_bad) {
    bool bad = c->multi_bad;
    txn_leave(c);
    conn_error(c, bad ? "EXECABORT Transaction discarded because of previous errors." : "ERR EXEC without MULTI");
    return HANDLED;
  }
  struct unpacked u = {0};
  struct cmd keys = {0};
  enum handled h = HANDLED;
  if (!unpack(c, &u) || !gather_keys(c, &u, &keys))
    conn_error(c, "OOM no memory for the transaction");
  else if (!keys_free(c, &keys, 0, 1, keys.argc, server_role(c->s) == DW_PRIMARY))
    h = HANDLE_LATER;
  else
    h = run_all(c, &u, &keys);
  free(u.argv);
  free(u.argl);
  free(u.begin);
  free(keys.argv);
  free(keys.argl);
  if (h == HANDLED) txn_leave(c);
  return h;
}
