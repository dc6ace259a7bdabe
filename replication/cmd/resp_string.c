/* Keys and values: GET SET MGET MSET DEL EXISTS STRLEN TYPE TTL.
 *
 * Reads that may have to wait (a bound with WAIT, a session token that is not here yet, STRONG on a follower) go through a
 * work item, so the loop never waits; all others read at once.
 */
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/resp_internal.h"
#include "wal/base/status.h"

bool read_may_wait(const struct conn *c) {
  if (c->read.consistency == DW_EVENTUAL) return false;
  if (c->read.consistency == DW_STRONG) return c->s->role == DW_FOLLOWER;
  return c->read.wait_ms > 0;
}

int read_key(struct conn *c, const uint8_t *key, size_t n, dw_value *v) {
  atomic_fetch_add_explicit(&c->s->m_reads, 1, memory_order_relaxed);
  return dw_get(c->s->e, &c->read, key, n, v);
}

/* ---- reads --------------------------------------------------------------------------------------- */

/* What a read command makes of its keys. */
enum read_kind { READ_GET, READ_MGET, READ_STRLEN, READ_EXISTS, READ_TYPE, READ_TTL };

/* Reads all keys and writes one reply. On an error nothing but the error is written. The first read decides about
 * consistency; the others follow at once, and what is applied only grows. */
static void reply_read(dw_engine *e, const dw_read_options *ro, enum read_kind kind, size_t n, const uint8_t *const *keys,
                       const size_t *lens, struct buf *out, int *rc_out) {
  struct buf reply = {0};
  long long count = 0;
  int rc = DW_OK;
  if (kind == READ_MGET) rc = resp_array(&reply, n);
  for (size_t i = 0; rc == DW_OK && i < n; i++) {
    dw_value v = {0};
    rc = dw_get(e, i ? NULL : ro, keys[i], lens[i], &v);
    bool found = rc == DW_OK;
    if (rc == DW_NOT_FOUND) rc = DW_OK;
    if (rc) break;
    switch (kind) {
    case READ_GET:
    case READ_MGET: rc = found ? resp_bulk(&reply, v.data, v.size) : resp_nil(&reply); break;
    case READ_STRLEN: rc = resp_int(&reply, found ? (long long)v.size : 0); break;
    case READ_EXISTS: count += found; break;
    case READ_TYPE: rc = resp_simple(&reply, found ? "string" : "none"); break;
    case READ_TTL: rc = resp_int(&reply, found ? -1 : -2); break;
    }
    dw_value_release(&v);
  }
  if (rc == DW_OK && kind == READ_EXISTS) rc = resp_int(&reply, count);
  if (rc == DW_OK && out->len == 0) { /* hand it over instead of copying */
    buf_free(out);
    *out = reply;
    reply = (struct buf){0};
  } else if (rc == DW_OK) {
    rc = buf_append(out, reply.data, reply.len);
  }
  buf_free(&reply);
  *rc_out = rc;
}

struct read_work {
  struct work w;
  dw_read_options ro;
  enum read_kind kind;
  size_t n;
  const uint8_t **keys;
  size_t *lens;
  struct buf bytes, out;
  int rc;
  char error[300];
};

static void read_work_run(struct work *w) {
  struct read_work *r = (struct read_work *)w;
  reply_read(w->e, &r->ro, r->kind, r->n, r->keys, r->lens, &r->out, &r->rc);
  if (r->rc) dw_error_copy(r->error, sizeof r->error);
}

static void read_work_free(struct read_work *r) {
  free(r->keys);
  free(r->lens);
  buf_free(&r->bytes);
  buf_free(&r->out);
  free(r);
}

static void read_work_after(struct work *w) {
  struct read_work *r = (struct read_work *)w;
  if (r->rc)
    reply_rc(w->c, &w->c->out, r->rc, 0, r->error);
  else if (buf_append(&w->c->out, r->out.data, r->out.len))
    conn_drop(w->c);
  read_work_free(r);
}

static bool read_off_loop(struct conn *c, const struct cmd *cmd, enum read_kind kind) {
  struct read_work *r = calloc(1, sizeof *r);
  if (!r) return false;
  r->w.run = read_work_run;
  r->w.after = read_work_after;
  r->ro = c->read;
  r->kind = kind;
  r->n = cmd->argc - 1;
  r->keys = malloc(r->n * sizeof *r->keys);
  r->lens = malloc(r->n * sizeof *r->lens);
  bool ok = r->keys && r->lens;
  size_t bytes = 0;
  for (size_t i = 0; i < r->n; i++) bytes += cmd->argl[i + 1];
  ok = ok && buf_reserve(&r->bytes, bytes + 1) == DW_OK;
  for (size_t i = 0; ok && i < r->n; i++) {
    r->keys[i] = r->bytes.data + r->bytes.len;
    r->lens[i] = cmd->argl[i + 1];
    ok = buf_append(&r->bytes, cmd->argv[i + 1], cmd->argl[i + 1]) == DW_OK;
  }
  if (!ok) {
    read_work_free(r);
    return false;
  }
  work_start(c, &r->w);
  return true;
}

static enum handled read_command(struct conn *c, const struct cmd *cmd, enum read_kind kind) {
  atomic_fetch_add_explicit(&c->s->m_reads, cmd->argc - 1, memory_order_relaxed);
  if (read_may_wait(c)) {
    if (!read_off_loop(c, cmd, kind)) conn_error(c, "OOM no memory for the read");
    return HANDLED;
  }
  int rc;
  reply_read(c->s->e, &c->read, kind, cmd->argc - 1, cmd->argv + 1, cmd->argl + 1, &c->out, &rc);
  if (rc) reply_rc(c, &c->out, rc, 0, dw_last_error());
  return HANDLED;
}

enum handled cmd_get(struct conn *c, const struct cmd *cmd) { return read_command(c, cmd, READ_GET); }
enum handled cmd_mget(struct conn *c, const struct cmd *cmd) { return read_command(c, cmd, READ_MGET); }
enum handled cmd_strlen(struct conn *c, const struct cmd *cmd) { return read_command(c, cmd, READ_STRLEN); }
enum handled cmd_exists(struct conn *c, const struct cmd *cmd) { return read_command(c, cmd, READ_EXISTS); }
enum handled cmd_type(struct conn *c, const struct cmd *cmd) { return read_command(c, cmd, READ_TYPE); }
enum handled cmd_ttl(struct conn *c, const struct cmd *cmd) { return read_command(c, cmd, READ_TTL); }

/* ---- writes -------------------------------------------------------------------------------------- */

/* A wrong key or value is an error reply, in order behind the writes in flight. */
static enum handled refuse(struct conn *c, dw_batch *b, struct buf *reply, int rc) {
  dw_batch_destroy(b);
  buf_free(reply);
  if (c->inflight) {
    c->block = BLOCK_WRITES;
    return HANDLE_LATER;
  }
  reply_rc(c, &c->out, rc, 0, dw_last_error());
  return HANDLED;
}

static enum handled start(struct conn *c, dw_batch *b, struct buf *reply, const struct cmd *cmd, size_t first, size_t step,
                          size_t count) {
  bool started = write_start(c, b, reply, cmd, first, step, count);
  dw_batch_destroy(b);
  buf_free(reply);
  return started ? HANDLED : HANDLE_LATER;
}

static enum handled later(struct conn *c) {
  c->block = BLOCK_WRITES;
  return HANDLE_LATER;
}

struct set_options {
  bool nx, xx, get;
  const char *error;
};

static struct set_options parse_set(const struct cmd *cmd) {
  struct set_options o = {0};
  for (size_t i = 3; i < cmd->argc && !o.error; i++) {
    if (cmd_is(cmd, i, "NX"))
      o.nx = true;
    else if (cmd_is(cmd, i, "XX"))
      o.xx = true;
    else if (cmd_is(cmd, i, "GET"))
      o.get = true;
    else if (cmd_is(cmd, i, "EX") || cmd_is(cmd, i, "PX") || cmd_is(cmd, i, "EXAT") || cmd_is(cmd, i, "PXAT"))
      o.error = "ERR expiry is not supported";
    else if (!cmd_is(cmd, i, "KEEPTTL"))
      o.error = "ERR syntax error";
  }
  if (o.nx && o.xx) o.error = "ERR syntax error";
  return o;
}

/* SET key value with the answers of NX, XX and GET; `ok` and `no` are the replies. */
static enum handled set_key(struct conn *c, const struct cmd *cmd, struct set_options o, bool as_int) {
  struct buf reply = {0};
  if (o.nx || o.xx || o.get) { /* looks first: behind this connection's writes, and with the key at rest */
    if (c->inflight) return later(c);
    if (keys_busy(c, cmd, 1, cmd->argc)) return HANDLE_LATER;
    dw_value v = {0};
    int rc = dw_get(c->s->e, NULL, cmd->argv[1], cmd->argl[1], &v);
    bool found = rc == DW_OK;
    if (rc && rc != DW_NOT_FOUND) return refuse(c, NULL, &reply, rc);
    rc = !o.get ? DW_OK : found ? resp_bulk(&reply, v.data, v.size) : resp_nil(&reply);
    dw_value_release(&v);
    if (rc) return refuse(c, NULL, &reply, rc);
    if ((o.nx && found) || (o.xx && !found)) {
      if (o.get)
        buf_append(&c->out, reply.data, reply.len);
      else if (as_int)
        resp_int(&c->out, 0);
      else
        resp_nil(&c->out);
      buf_free(&reply);
      return HANDLED;
    }
  }
  dw_batch *b = dw_batch_create();
  int rc = b ? dw_batch_put(b, cmd->argv[1], cmd->argl[1], cmd->argv[2], cmd->argl[2]) : dw_fail_nomem(0);
  if (rc == DW_OK && !o.get) rc = as_int ? resp_int(&reply, 1) : resp_simple(&reply, "OK");
  if (rc) return refuse(c, b, &reply, rc);
  return start(c, b, &reply, cmd, 1, 1, 1);
}

enum handled cmd_set(struct conn *c, const struct cmd *cmd) {
  struct set_options o = parse_set(cmd);
  if (!o.error) return set_key(c, cmd, o, false);
  if (c->inflight) return later(c);
  conn_error(c, "%s", o.error);
  return HANDLED;
}

enum handled cmd_setnx(struct conn *c, const struct cmd *cmd) {
  return set_key(c, cmd, (struct set_options){.nx = true}, true);
}

enum handled cmd_mset(struct conn *c, const struct cmd *cmd) {
  if (cmd->argc % 2 == 0) {
    if (c->inflight) return later(c);
    conn_error(c, "ERR wrong number of arguments for 'mset' command");
    return HANDLED;
  }
  struct buf reply = {0};
  dw_batch *b = dw_batch_create();
  int rc = b ? resp_simple(&reply, "OK") : dw_fail_nomem(0);
  for (size_t i = 1; rc == DW_OK && i < cmd->argc; i += 2)
    rc = dw_batch_put(b, cmd->argv[i], cmd->argl[i], cmd->argv[i + 1], cmd->argl[i + 1]);
  if (rc) return refuse(c, b, &reply, rc);
  return start(c, b, &reply, cmd, 1, 2, (cmd->argc - 1) / 2);
}

static bool named_before(const struct cmd *cmd, size_t i) {
  for (size_t k = 1; k < i; k++)
    if (cmd->argl[k] == cmd->argl[i] && memcmp(cmd->argv[k], cmd->argv[i], cmd->argl[i]) == 0) return true;
  return false;
}

/* DEL answers how many there were, so it looks first. One commit for all; none if there is nothing to delete. */
enum handled cmd_del(struct conn *c, const struct cmd *cmd) {
  if (c->inflight) return later(c);
  if (keys_busy(c, cmd, 1, 1)) return HANDLE_LATER;
  struct buf reply = {0};
  dw_batch *b = dw_batch_create();
  int rc = b ? DW_OK : dw_fail_nomem(0);
  for (size_t i = 1; rc == DW_OK && i < cmd->argc; i++) {
    dw_value v = {0};
    rc = dw_get(c->s->e, NULL, cmd->argv[i], cmd->argl[i], &v);
    dw_value_release(&v);
    if (rc == DW_OK && !(cmd->argc < 1000 && named_before(cmd, i)))
      rc = dw_batch_delete(b, cmd->argv[i], cmd->argl[i]);
    else if (rc == DW_NOT_FOUND)
      rc = DW_OK;
  }
  if (rc) return refuse(c, b, &reply, rc);
  if (dw_batch_count(b) == 0) {
    dw_batch_destroy(b);
    resp_int(&c->out, 0);
    return HANDLED;
  }
  rc = resp_int(&reply, dw_batch_count(b));
  if (rc) return refuse(c, b, &reply, rc);
  return start(c, b, &reply, cmd, 1, 1, cmd->argc - 1);
}
