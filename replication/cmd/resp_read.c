/* Reading keys: GET MGET EXISTS STRLEN TYPE TTL.
 *
 * All of one command's keys are read at one consistent point (struct point): a single key by a plain get, several
 * through one iterator, so that an MGET never sees half of an MSET. Reads happen in the loop; those whose consistency
 * is not met yet come back later (read_later, strong_enough).
 */
#include <stdlib.h>

#include "replication/cmd/resp_internal.h"
#include "replication/cmd/resp_point.h"
#include "wal/base/status.h"

int point_get(struct point *p, const uint8_t *key, size_t klen, const uint8_t **val, size_t *vlen) {
  if (p->one_key) {
    dw_value_release(&p->value);
    int rc = dw_get(p->e, &p->ro, key, klen, &p->value);
    *val = (const uint8_t *)p->value.data;
    *vlen = p->value.size;
    return rc;
  }
  if (!p->it) {
    int rc = dw_iter_create(p->e, &p->ro, &p->it);
    if (rc) return rc;
  }
  if (klen == 0 || klen > DW_MAX_KEY_BYTES)
    return dw_fail(DW_INVALID, "key of %zu bytes: keys are 1 to 65536 bytes", klen);
  dw_iter_seek(p->it, key, klen);
  int rc = dw_iter_status(p->it);
  if (rc) return rc;
  if (!dw_iter_valid(p->it)) return DW_NOT_FOUND;
  size_t found_n;
  const char *found = dw_iter_key(p->it, &found_n);
  if (found_n != klen || memcmp(found, key, klen) != 0) return DW_NOT_FOUND;
  *val = (const uint8_t *)dw_iter_value(p->it, vlen);
  return DW_OK;
}

void point_end(struct point *p) {
  dw_value_release(&p->value);
  dw_iter_destroy(p->it);
}

int point_reply(struct buf *out, const char *name, int rc, const uint8_t *val, size_t vlen) {
  bool found = rc == DW_OK;
  if (rc && rc != DW_NOT_FOUND) return rc;
  switch (name[0]) {
  case 's': return resp_int(out, found ? (long long)vlen : 0); /* strlen */
  case 't': return name[1] == 'y' ? resp_simple(out, found ? "string" : "none") : resp_int(out, found ? -1 : -2);
  case 'p': return resp_int(out, found ? -1 : -2); /* pttl */
  default: break;
  }
  if (!found) return resp_nil(out);
  if (out->len + vlen > OUT_HARD) return dw_fail(DW_INVALID, "the reply would exceed %u bytes", OUT_HARD);
  return resp_bulk(out, val, vlen);
}

/* On an error nothing but the error is said. */
static enum handled read_command(struct conn *c, const struct cmd *cmd, const char *name, bool array, bool counts) {
  struct point p = {.e = c->s->e, .ro = read_now(c), .one_key = cmd->argc == 2};
  size_t before = c->out.len;
  long long count = 0;
  int rc = array ? resp_array(&c->out, cmd->argc - 1) : DW_OK;
  for (size_t i = 1; rc == DW_OK && i < cmd->argc; i++) {
    const uint8_t *val = NULL;
    size_t vlen = 0;
    int got = point_get(&p, cmd->argv[i], cmd->argl[i], &val, &vlen);
    count += got == DW_OK;
    if (counts)
      rc = got == DW_NOT_FOUND ? DW_OK : got;
    else
      rc = point_reply(&c->out, name, got, val, vlen);
  }
  if (rc == DW_OK && counts) rc = resp_int(&c->out, count);
  point_end(&p);
  if (rc) c->out.len = before;
  if (read_later(c, rc)) return HANDLE_LATER;
  if (rc) reply_rc(c, &c->out, rc, 0, dw_last_error());
  count_more(&c->l->counts.reads, cmd->argc - 1);
  return HANDLED;
}

enum handled cmd_get(struct conn *c, const struct cmd *cmd) {
  return read_command(c, cmd, "get", false, false);
}
enum handled cmd_mget(struct conn *c, const struct cmd *cmd) {
  return read_command(c, cmd, "mget", true, false);
}
enum handled cmd_strlen(struct conn *c, const struct cmd *cmd) {
  return read_command(c, cmd, "strlen", false, false);
}
enum handled cmd_exists(struct conn *c, const struct cmd *cmd) {
  return read_command(c, cmd, "exists", false, true);
}
enum handled cmd_type(struct conn *c, const struct cmd *cmd) {
  return read_command(c, cmd, "type", false, false);
}
enum handled cmd_ttl(struct conn *c, const struct cmd *cmd) {
  return read_command(c, cmd, "ttl", false, false);
}
