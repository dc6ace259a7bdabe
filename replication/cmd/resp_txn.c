/* MULTI, EXEC, DISCARD: the queued commands become one batch, that is one commit: all or nothing, everywhere.
 *
 * EXEC runs them in order over the state at that moment, with the batch's own writes laid over it, so a GET behind a SET
 * sees the SET. Replies are collected and sent once the commit is confirmed. No key of the transaction may have a write in
 * flight when it runs (BLOCK_KEYS), so nothing of this server comes between its reads and its commit.
 */
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/resp_internal.h"
#include "wal/base/status.h"

/* One write of the transaction; the newest of a key counts. Points into the queued bytes. */
struct overlay {
  const uint8_t *key, *val;
  size_t klen, vlen;
  bool deleted;
};

struct txn {
  struct conn *c;
  dw_batch *batch;
  struct overlay *over;
  size_t n, cap;
  struct buf reply;
  int rc;
};

static void leave_multi(struct conn *c) {
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
  leave_multi(c);
  resp_simple(&c->out, "OK");
  return HANDLED;
}

/* The key's value as the transaction sees it. *v must be released. DW_OK, DW_NOT_FOUND, or an error. */
static int look(struct txn *t, const uint8_t *key, size_t klen, const uint8_t **val, size_t *vlen, dw_value *v) {
  for (size_t i = t->n; i-- > 0;) {
    const struct overlay *o = &t->over[i];
    if (o->klen != klen || memcmp(o->key, key, klen) != 0) continue;
    *val = o->val;
    *vlen = o->vlen;
    return o->deleted ? DW_NOT_FOUND : DW_OK;
  }
  int rc = dw_get(t->c->s->e, NULL, key, klen, v);
  if (rc == DW_OK) {
    *val = (const uint8_t *)v->data;
    *vlen = v->size;
  }
  return rc;
}

static int lay(struct txn *t, struct overlay o) {
  if (t->n == t->cap) {
    size_t cap = t->cap ? 2 * t->cap : 16;
    struct overlay *grown = realloc(t->over, cap * sizeof *grown);
    if (!grown) return dw_fail_nomem(cap * sizeof *grown);
    t->over = grown;
    t->cap = cap;
  }
  t->over[t->n++] = o;
  return o.deleted ? dw_batch_delete(t->batch, o.key, o.klen) : dw_batch_put(t->batch, o.key, o.klen, o.val, o.vlen);
}

static int put(struct txn *t, const struct cmd *cmd, size_t k, size_t v) {
  return lay(t, (struct overlay){cmd->argv[k], cmd->argv[v], cmd->argl[k], cmd->argl[v], false});
}

/* The commands that a transaction knows. Anything else that was queued is run on the connection and its reply copied. */
static int run_set(struct txn *t, const struct cmd *cmd) {
  bool nx = false, xx = false, get = false;
  bool setnx = cmd_is(cmd, 0, "SETNX");
  for (size_t i = 3; i < cmd->argc; i++) {
    if (cmd_is(cmd, i, "NX"))
      nx = true;
    else if (cmd_is(cmd, i, "XX"))
      xx = true;
    else if (cmd_is(cmd, i, "GET"))
      get = true;
    else if (!cmd_is(cmd, i, "KEEPTTL"))
      return resp_error(&t->reply, "ERR syntax error");
  }
  if (nx && xx) return resp_error(&t->reply, "ERR syntax error");
  nx |= setnx;
  dw_value v = {0};
  const uint8_t *val = NULL;
  size_t vlen = 0;
  int rc = nx || xx || get ? look(t, cmd->argv[1], cmd->argl[1], &val, &vlen, &v) : DW_NOT_FOUND;
  bool found = rc == DW_OK;
  if (rc == DW_NOT_FOUND) rc = DW_OK;
  bool skip = (nx && found) || (xx && !found);
  if (rc == DW_OK && get)
    rc = found ? resp_bulk(&t->reply, val, vlen) : resp_nil(&t->reply);
  else if (rc == DW_OK && setnx)
    rc = resp_int(&t->reply, !skip);
  else if (rc == DW_OK)
    rc = skip ? resp_nil(&t->reply) : resp_simple(&t->reply, "OK");
  dw_value_release(&v);
  return rc || skip ? rc : put(t, cmd, 1, 2);
}

static int run_mset(struct txn *t, const struct cmd *cmd) {
  if (cmd->argc % 2 == 0) return resp_error(&t->reply, "ERR wrong number of arguments for 'mset' command");
  int rc = DW_OK;
  for (size_t i = 1; rc == DW_OK && i < cmd->argc; i += 2) rc = put(t, cmd, i, i + 1);
  return rc ? rc : resp_simple(&t->reply, "OK");
}

/* DEL, EXISTS, GET, MGET, STRLEN, TYPE, TTL: a look at each key. */
static int run_keys(struct txn *t, const struct cmd *cmd) {
  bool del = cmd_is(cmd, 0, "DEL") || cmd_is(cmd, 0, "UNLINK"), exists = cmd_is(cmd, 0, "EXISTS");
  bool type = cmd_is(cmd, 0, "TYPE"), ttl = cmd_is(cmd, 0, "TTL") || cmd_is(cmd, 0, "PTTL");
  bool len = cmd_is(cmd, 0, "STRLEN");
  long long count = 0;
  int rc = cmd_is(cmd, 0, "MGET") ? resp_array(&t->reply, cmd->argc - 1) : DW_OK;
  for (size_t i = 1; rc == DW_OK && i < cmd->argc; i++) {
    dw_value v = {0};
    const uint8_t *val = NULL;
    size_t vlen = 0;
    rc = look(t, cmd->argv[i], cmd->argl[i], &val, &vlen, &v);
    bool found = rc == DW_OK;
    if (rc == DW_NOT_FOUND) rc = DW_OK;
    count += found;
    if (rc == DW_OK && del && found)
      rc = lay(t, (struct overlay){.key = cmd->argv[i], .klen = cmd->argl[i], .deleted = true});
    else if (rc == DW_OK && type)
      rc = resp_simple(&t->reply, found ? "string" : "none");
    else if (rc == DW_OK && ttl)
      rc = resp_int(&t->reply, found ? -1 : -2);
    else if (rc == DW_OK && len)
      rc = resp_int(&t->reply, (long long)vlen);
    else if (rc == DW_OK && !del && !exists)
      rc = found ? resp_bulk(&t->reply, val, vlen) : resp_nil(&t->reply);
    dw_value_release(&v);
  }
  return rc == DW_OK && (del || exists) ? resp_int(&t->reply, count) : rc;
}

/* A command without keys (PING, DW.LSN, INFO...): its handler writes to the connection; move that into the reply. */
static int run_other(struct txn *t, const struct cmd *cmd, const struct cmd_spec *spec) {
  struct buf kept = t->c->out;
  t->c->out = (struct buf){0};
  if (spec->fn == cmd_dbsize || spec->fn == cmd_scan)
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
  if (spec->first_key) return run_keys(t, cmd);
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

static enum handled run_all(struct conn *c, const struct unpacked *u, const struct cmd *keys) {
  struct txn t = {.c = c, .batch = dw_batch_create()};
  bool was_multi = c->multi;
  enum handled h = HANDLED;
  t.rc = t.batch ? resp_array(&t.reply, c->multi_count) : dw_fail_nomem(0);
  c->multi = false;
  for (uint32_t k = 0; t.rc == DW_OK && k < c->multi_count; k++) {
    size_t b = u->begin[k];
    struct cmd cmd = {.argc = u->begin[k + 1] - b, .argv = u->argv + b, .argl = u->argl + b};
    t.rc = run_queued(&t, &cmd);
  }
  c->multi = was_multi;
  if (t.rc) {
    reply_rc(c, &c->out, t.rc, 0, dw_last_error());
  } else if (dw_batch_count(t.batch) == 0) {
    if (buf_append(&c->out, t.reply.data, t.reply.len)) conn_drop(c);
  } else if (!write_start(c, t.batch, &t.reply, keys, 0, 1, keys->argc)) {
    h = HANDLE_LATER; /* no room just now: runs again from the beginning */
  }
  dw_batch_destroy(t.batch);
  buf_free(&t.reply);
  free(t.over);
  return h;
}

enum handled cmd_exec(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  if (!c->multi || c->multi_bad) {
    bool bad = c->multi_bad;
    leave_multi(c);
    conn_error(c, bad ? "EXECABORT Transaction discarded because of previous errors." : "ERR EXEC without MULTI");
    return HANDLED;
  }
  struct unpacked u = {0};
  struct cmd keys = {0};
  enum handled h = HANDLED;
  if (!unpack(c, &u) || !gather_keys(c, &u, &keys))
    conn_error(c, "OOM no memory for the transaction");
  else if (keys_busy(c, &keys, 0, 1))
    h = HANDLE_LATER;
  else
    h = run_all(c, &u, &keys);
  free(u.argv);
  free(u.argl);
  free(u.begin);
  free(keys.argv);
  free(keys.argl);
  if (h == HANDLED) leave_multi(c);
  return h;
}
