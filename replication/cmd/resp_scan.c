/* SCAN and DBSIZE.
 *
 * Keys are ordered, so a scan is a walk and a cursor is the key to go on at: every key that is there throughout a scan
 * is returned exactly once, whatever is written meanwhile, which is more than Redis promises. Clients expect a decimal
 * cursor, so the server keeps a bounded table from number to key; the oldest entry gives way, and a cursor that is not
 * known (any more) is an error rather than a scan with holes. A call looks at COUNT keys at most, matching or not,
 * and ends before its reply grows too large.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/resp_glob.h"
#include "replication/cmd/resp_internal.h"
#include "wal/base/status.h"

#define SCAN_COUNT_MAX 10000 /* fewer than COUNT is allowed, and the loop has others to serve */

void scan_cursors_free(struct scan_cursors *all) {
  for (size_t i = 0; i < SCAN_CURSORS; i++) buf_free(&all->at[i].key);
}

/* DW_OK and the key to go on at, DW_NOT_FOUND, DW_NO_MEMORY. */
static int find_cursor(struct scan_cursors *all, uint64_t id, struct buf *key) {
  pthread_mutex_lock(&all->mu);
  const struct scan_cursor *c = &all->at[id % SCAN_CURSORS];
  int rc = c->id == id ? buf_append(key, c->key.data, c->key.len) : DW_NOT_FOUND;
  pthread_mutex_unlock(&all->mu);
  return rc;
}

/* Remembers where to go on; 0: no memory. */
static uint64_t keep_cursor(struct scan_cursors *all, const char *key, size_t n) {
  pthread_mutex_lock(&all->mu);
  uint64_t id = ++all->next;
  struct scan_cursor *c = &all->at[id % SCAN_CURSORS];
  c->id = 0;
  c->key.len = 0;
  if (c->key.cap > 4096) buf_free(&c->key);
  if (buf_append(&c->key, key, n) == DW_OK)
    c->id = id;
  else
    id = 0;
  pthread_mutex_unlock(&all->mu);
  return id;
}

struct scan_options {
  const uint8_t *match;
  size_t match_n;
  long long count;
  bool strings; /* TYPE string or no TYPE */
  const char *error;
};

static struct scan_options parse_scan(const struct cmd *cmd) {
  struct scan_options o = {.count = 10, .strings = true};
  for (size_t i = 2; i < cmd->argc && !o.error; i += 2) {
    if (i + 1 == cmd->argc) {
      o.error = "ERR syntax error";
    } else if (cmd_is(cmd, i, "MATCH")) {
      o.match = cmd->argv[i + 1];
      o.match_n = cmd->argl[i + 1];
    } else if (cmd_is(cmd, i, "COUNT")) {
      if (!cmd_int(cmd, i + 1, &o.count))
        o.error = "ERR value is not an integer or out of range";
      else if (o.count < 1)
        o.error = "ERR syntax error";
    } else if (cmd_is(cmd, i, "TYPE")) {
      o.strings = cmd_is(cmd, i + 1, "string");
    } else {
      o.error = "ERR syntax error";
    }
  }
  if (o.count > SCAN_COUNT_MAX) o.count = SCAN_COUNT_MAX;
  return o;
}

/* The keys of one call; *resume is left at the key to go on at (0 bytes: done). */
static int collect(dw_iter *it, const struct scan_options *o, struct buf *keys, size_t *found) {
  int rc = DW_OK;
  for (long long looked = 0; rc == DW_OK && looked < o->count && keys->len < OUT_SOFT && dw_iter_valid(it);
       looked++, dw_iter_next(it)) {
    size_t n;
    const char *key = dw_iter_key(it, &n);
    if (!o->strings || (o->match && !resp_glob(o->match, o->match_n, key, n))) continue;
    rc = resp_bulk(keys, key, n);
    ++*found;
  }
  return rc ? rc : dw_iter_status(it);
}

/* The reply of one call, from the key to begin at (none: the first). */
static int scan_from(struct conn *c, dw_iter *it, const struct scan_options *o, const struct buf *from) {
  if (from->len)
    dw_iter_seek(it, from->data, from->len);
  else
    dw_iter_seek_first(it);
  struct buf keys = {0};
  size_t found = 0, n;
  char next[24] = "0";
  int rc = collect(it, o, &keys, &found);
  if (rc == DW_OK && dw_iter_valid(it)) {
    const char *key = dw_iter_key(it, &n);
    uint64_t next_id = keep_cursor(&c->s->cursors, key, n);
    if (!next_id) rc = DW_NO_MEMORY;
    snprintf(next, sizeof next, "%llu", (unsigned long long)next_id);
  }
  if (rc == DW_OK) rc = resp_array(&c->out, 2);
  if (rc == DW_OK) rc = resp_bulk_str(&c->out, next);
  if (rc == DW_OK) rc = resp_array(&c->out, found);
  if (rc == DW_OK) rc = buf_append(&c->out, keys.data, keys.len);
  buf_free(&keys);
  return rc;
}

enum handled cmd_scan(struct conn *c, const struct cmd *cmd) {
  long long id;
  struct buf from = {0};
  struct scan_options o = parse_scan(cmd);
  if (!cmd_int(cmd, 1, &id) || id < 0) o.error = "ERR invalid cursor";
  int rc = o.error || !id ? DW_OK : find_cursor(&c->s->cursors, (uint64_t)id, &from);
  if (rc == DW_NOT_FOUND) o.error = "ERR invalid cursor: unknown or expired, start again at 0";
  if (o.error) {
    conn_error(c, "%s", o.error);
    return HANDLED;
  }
  dw_read_options ro = read_now(c);
  dw_iter *it;
  if (rc == DW_OK) rc = dw_iter_create(c->s->e, &ro, &it);
  if (rc == DW_OK) {
    rc = scan_from(c, it, &o, &from);
    dw_iter_destroy(it);
  } else if (read_later(c, rc)) {
    buf_free(&from);
    return HANDLE_LATER;
  }
  buf_free(&from);
  if (rc) reply_rc(c, &c->out, rc, 0, dw_last_error());
  return HANDLED;
}

/* ---- DBSIZE: counted up to a limit, the store's estimate beyond ------------------------------------- */

#define DBSIZE_EXACT 100000

struct count_work {
  struct work w;
  dw_read_options ro;
  long long count;
  int rc;
  char error[200];
};

static bool count_run(struct work *w) {
  struct count_work *k = (struct count_work *)w;
  dw_iter *it;
  k->rc = dw_iter_create(w->e, &k->ro, &it);
  if (k->rc == DW_OK) {
    for (dw_iter_seek_first(it); dw_iter_valid(it) && k->count <= DBSIZE_EXACT; dw_iter_next(it)) k->count++;
    k->rc = dw_iter_status(it);
    dw_iter_destroy(it);
  }
  dw_status *s = k->rc == DW_OK && k->count > DBSIZE_EXACT ? malloc(sizeof *s) : NULL;
  if (s && dw_status_get(w->e, s) == DW_OK && (long long)s->approximate_keys > k->count)
    k->count = (long long)s->approximate_keys;
  free(s);
  if (k->rc) snprintf(k->error, sizeof k->error, "%s", dw_last_error());
  return false;
}

static void count_after(struct work *w) {
  struct count_work *k = (struct count_work *)w;
  if (k->rc)
    reply_rc(w->c, &w->c->out, k->rc, 0, k->error);
  else if (resp_int(&w->c->out, k->count))
    conn_drop(w->c);
  free(k);
}

enum handled cmd_dbsize(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  struct count_work *k = calloc(1, sizeof *k);
  if (!k) {
    conn_error(c, "OOM no memory");
    return HANDLED;
  }
  k->w.run = count_run;
  k->w.after = count_after;
  k->ro = read_now(c);
  work_start(c, &k->w);
  return HANDLED;
}
