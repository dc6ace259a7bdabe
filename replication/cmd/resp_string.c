/* Writing keys: SET SETNX MSET DEL. One command is one commit. */
#include <stdlib.h>

#include "replication/cmd/resp_internal.h"
#include "replication/cmd/resp_overlay.h"
#include "replication/cmd/resp_set.h"
#include "wal/base/status.h"

struct set_options set_parse(const struct cmd *cmd) {
  struct set_options o = {0};
  if (cmd_is(cmd, 0, "SETNX")) return (struct set_options){.nx = true, .as_int = true};
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

int set_reply(struct buf *out, const struct set_options *o, bool found, const uint8_t *old, size_t old_n) {
  bool skip = set_skips(o, found);
  if (o->get) return found ? resp_bulk(out, old, old_n) : resp_nil(out);
  if (o->as_int) return resp_int(out, !skip);
  return skip ? resp_nil(out) : resp_simple(out, "OK");
}

/* The end of every write command: sends the batch, or says what went wrong with it. Takes the reply over. */
static enum handled finish(struct conn *c, int rc, const dw_batch *b, struct buf *reply, const struct cmd *cmd,
                           size_t step, size_t count) {
  enum handled h = HANDLED;
  size_t bytes = 0;
  for (size_t i = 1; i < cmd->argc; i++) bytes += cmd->argl[i];
  if (rc)
    reply_rc(c, &c->out, rc, 0, dw_last_error());
  else if (!write_start(c, b, reply, cmd, 1, step, count))
    h = HANDLE_LATER;
  buf_free(reply);
  if (bytes > (1u << 20)) batch_done(c->l);
  return h;
}

static enum handled set_key(struct conn *c, const struct cmd *cmd, struct set_options o) {
  bool looks = o.nx || o.xx || o.get;
  if (!keys_free(c, cmd, 1, 1, 1, looks)) return HANDLE_LATER;
  struct buf reply = {0};
  int rc = DW_OK;
  if (looks) {
    dw_value v = {0};
    rc = dw_get(c->s->e, NULL, cmd->argv[1], cmd->argl[1], &v);
    bool found = rc == DW_OK;
    if (found || rc == DW_NOT_FOUND) rc = set_reply(&reply, &o, found, (const uint8_t *)v.data, v.size);
    dw_value_release(&v);
    if (rc == DW_OK && set_skips(&o, found)) {
      if (buf_append(&c->out, reply.data, reply.len)) conn_drop(c);
      buf_free(&reply);
      return HANDLED;
    }
  }
  dw_batch *b = batch_take(c->l);
  if (!b) rc = dw_fail_nomem(0);
  if (rc == DW_OK) rc = dw_batch_put(b, cmd->argv[1], cmd->argl[1], cmd->argv[2], cmd->argl[2]);
  return finish(c, rc, b, &reply, cmd, 1, 1);
}

enum handled cmd_set(struct conn *c, const struct cmd *cmd) {
  struct set_options o = set_parse(cmd);
  if (!o.error) return set_key(c, cmd, o);
  conn_error(c, "%s", o.error);
  return HANDLED;
}

enum handled cmd_setnx(struct conn *c, const struct cmd *cmd) {
  return set_key(c, cmd, set_parse(cmd));
}

enum handled cmd_mset(struct conn *c, const struct cmd *cmd) {
  if (cmd->argc % 2 == 0) {
    conn_error(c, "ERR wrong number of arguments for 'mset' command");
    return HANDLED;
  }
  if (!keys_free(c, cmd, 1, 2, cmd->argc / 2, false)) return HANDLE_LATER;
  struct buf reply = {0};
  dw_batch *b = batch_take(c->l);
  int rc = b ? DW_OK : dw_fail_nomem(0);
  for (size_t i = 1; rc == DW_OK && i < cmd->argc; i += 2)
    rc = dw_batch_put(b, cmd->argv[i], cmd->argl[i], cmd->argv[i + 1], cmd->argl[i + 1]);
  return finish(c, rc, b, &reply, cmd, 2, cmd->argc / 2);
}

/* DEL answers how many there were, so it looks first. One commit for all; none if there is nothing to delete. */
enum handled cmd_del(struct conn *c, const struct cmd *cmd) {
  if (!keys_free(c, cmd, 1, 1, cmd->argc - 1, true)) return HANDLE_LATER;
  struct buf reply = {0};
  struct overlay gone = {0};
  dw_batch *b = batch_take(c->l);
  int rc = b ? DW_OK : dw_fail_nomem(0);
  for (size_t i = 1; rc == DW_OK && i < cmd->argc; i++) {
    if (cmd->argc > 2 && overlay_find(&gone, cmd->argv[i], cmd->argl[i])) continue; /* named twice, counts once */
    dw_value v = {0};
    rc = dw_get(c->s->e, NULL, cmd->argv[i], cmd->argl[i], &v);
    dw_value_release(&v);
    if (rc == DW_OK) rc = dw_batch_delete(b, cmd->argv[i], cmd->argl[i]);
    if (rc == DW_OK && cmd->argc > 2) rc = overlay_set(&gone, cmd->argv[i], cmd->argl[i], NULL, 0);
    if (rc == DW_NOT_FOUND) rc = DW_OK;
  }
  overlay_free(&gone);
  if (rc == DW_OK && dw_batch_count(b) == 0) {
    if (resp_int(&c->out, 0)) conn_drop(c);
    return HANDLED;
  }
  if (rc == DW_OK) rc = resp_int(&reply, dw_batch_count(b));
  return finish(c, rc, b, &reply, cmd, 1, cmd->argc - 1);
}
