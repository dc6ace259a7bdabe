/* Our own commands: DW.LSN DW.READ DW.MODE DW.STATUS DW.CHECKSUM DW.WAIT; and Redis' WAIT. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/resp_internal.h"
#include "replication/cmd/status_json.h"
#include "wal/base/hash.h"
#include "wal/base/status.h"

enum handled cmd_dw_lsn(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  resp_int(&c->out, (long long)c->last_lsn);
  return HANDLED;
}

static bool number(const struct cmd *cmd, size_t i, unsigned long long max, unsigned long long *out) {
  long long v;
  if (i >= cmd->argc || !cmd_int(cmd, i, &v) || v < 0 || (unsigned long long)v > max) return false;
  *out = (unsigned long long)v;
  return true;
}

static const char read_usage[] =
    "ERR usage: DW.READ <EVENTUAL|BOUNDED ms|SESSION lsn|STRONG|DEFAULT> [WAIT ms]";

enum handled cmd_dw_read(struct conn *c, const struct cmd *cmd) {
  dw_read_options ro = {0};
  unsigned long long v = 0;
  size_t i = 2;
  bool ok = true;
  if (cmd_is(cmd, 1, "EVENTUAL")) {
    ro.consistency = DW_EVENTUAL;
  } else if (cmd_is(cmd, 1, "STRONG")) {
    ro.consistency = DW_STRONG;
  } else if (cmd_is(cmd, 1, "BOUNDED")) {
    ro.consistency = DW_BOUNDED;
    ok = number(cmd, i++, UINT64_MAX / 4000000, &v);
    ro.max_staleness_ms = v;
  } else if (cmd_is(cmd, 1, "SESSION")) {
    ro.consistency = DW_SESSION;
    ok = number(cmd, i++, INT64_MAX, &v);
    ro.min_lsn = v;
  } else if (cmd_is(cmd, 1, "DEFAULT")) {
    if (c->s->role == DW_FOLLOWER && c->s->opt.max_staleness_ms)
      ro = (dw_read_options){.consistency = DW_BOUNDED, .max_staleness_ms = c->s->opt.max_staleness_ms};
  } else {
    ok = false;
  }
  if (ok && i < cmd->argc) {
    ok = i + 2 == cmd->argc && cmd_is(cmd, i, "WAIT") && number(cmd, i + 1, 86400000, &v);
    ro.wait_ms = (uint32_t)v;
  }
  if (!ok) {
    conn_error(c, "%s", read_usage);
    return HANDLED;
  }
  c->read = ro;
  resp_simple(&c->out, "OK");
  return HANDLED;
}

static const char mode_usage[] =
    "ERR usage: DW.MODE <ASYNC|SEMISYNC n|SYNC n|DEFAULT> [RECEIVED|DURABLE|APPLIED] [OS|DISK] [TIMEOUT ms]";

enum handled cmd_dw_mode(struct conn *c, const struct cmd *cmd) {
  dw_write_options wo = {0};
  unsigned long long v = 0;
  size_t i = 2;
  bool ok = true;
  if (cmd_is(cmd, 1, "ASYNC")) {
    wo.mode = DW_ASYNC;
  } else if (cmd_is(cmd, 1, "SEMISYNC") || cmd_is(cmd, 1, "SYNC")) {
    wo.mode = cmd_is(cmd, 1, "SYNC") ? DW_SYNC : DW_SEMI_SYNC;
    ok = number(cmd, i++, DW_MAX_ACKS, &v) && v > 0;
    wo.acks = (uint32_t)v;
  } else {
    ok = cmd_is(cmd, 1, "DEFAULT");
  }
  for (; ok && i < cmd->argc; i++) {
    if (cmd_is(cmd, i, "RECEIVED"))
      wo.ack = DW_ACK_RECEIVED;
    else if (cmd_is(cmd, i, "DURABLE"))
      wo.ack = DW_ACK_DURABLE;
    else if (cmd_is(cmd, i, "APPLIED"))
      wo.ack = DW_ACK_APPLIED;
    else if (cmd_is(cmd, i, "OS"))
      wo.durability = DW_DURABILITY_OS;
    else if (cmd_is(cmd, i, "DISK"))
      wo.durability = DW_DURABILITY_DISK;
    else if (cmd_is(cmd, i, "TIMEOUT") && number(cmd, ++i, 86400000, &v) && v > 0)
      wo.timeout_ms = (uint32_t)v;
    else
      ok = false;
  }
  if (!ok) {
    conn_error(c, "%s", mode_usage);
    return HANDLED;
  }
  c->write = wo;
  resp_simple(&c->out, "OK");
  return HANDLED;
}

enum handled cmd_dw_status(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  dw_status *s = malloc(sizeof *s);
  size_t n;
  char *json = s && dw_status_get(c->s->e, s) == DW_OK ? status_json(s, &n) : NULL;
  if (json)
    resp_bulk(&c->out, json, n);
  else
    conn_error(c, "OOM no memory for the status");
  free(json);
  free(s);
  return HANDLED;
}

/* ---- DW.CHECKSUM: records, applied LSN before the walk, XXH3-128 over all records in key order ------------ */

struct checksum_work {
  struct work w;
  dw_read_options ro;
  uint64_t records;
  dw_lsn lsn;
  struct hash128 hash;
  int rc;
  char error[200];
};

static void checksum_run(struct work *w) {
  struct checksum_work *k = (struct checksum_work *)w;
  struct hash_stream *h = hash_stream_create();
  dw_status *s = malloc(sizeof *s);
  dw_iter *it = NULL;
  k->rc = h && s ? dw_iter_create(w->e, &k->ro, &it) : dw_fail_nomem(0);
  if (k->rc == DW_OK) {
    dw_status_get(w->e, s);
    k->lsn = s->applied_lsn;
    for (dw_iter_seek_first(it); dw_iter_valid(it); dw_iter_next(it), k->records++) {
      size_t kn, vn;
      const char *key = dw_iter_key(it, &kn), *val = dw_iter_value(it, &vn);
      uint8_t lens[16];
      put_u64(lens, kn);
      put_u64(lens + 8, vn);
      hash_stream_update(h, lens, sizeof lens);
      hash_stream_update(h, key, kn);
      hash_stream_update(h, val, vn);
    }
    k->rc = dw_iter_status(it);
    k->hash = hash_stream_digest(h);
    dw_iter_destroy(it);
  }
  if (k->rc) dw_error_copy(k->error, sizeof k->error);
  if (h) hash_stream_destroy(h);
  free(s);
}

static void checksum_after(struct work *w) {
  struct checksum_work *k = (struct checksum_work *)w;
  if (k->rc) {
    reply_rc(w->c, &w->c->out, k->rc, 0, k->error);
  } else {
    char hex[33];
    hash128_hex(&k->hash, hex);
    resp_array(&w->c->out, 3);
    resp_int(&w->c->out, (long long)k->records);
    resp_int(&w->c->out, (long long)k->lsn);
    resp_bulk_str(&w->c->out, hex);
  }
  free(k);
}

enum handled cmd_dw_checksum(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  struct checksum_work *k = calloc(1, sizeof *k);
  if (!k) {
    conn_error(c, "OOM no memory");
    return HANDLED;
  }
  k->w.run = checksum_run;
  k->w.after = checksum_after;
  k->ro = c->read;
  work_start(c, &k->w);
  return HANDLED;
}

/* ---- DW.WAIT lsn [ms]: asks again for an in-doubt commit, by the connection's write options ---------------- */

struct wait_work {
  struct work w;
  dw_write_options wo;
  dw_lsn lsn;
  int rc;
  char error[200];
};

static void wait_run(struct work *w) {
  struct wait_work *k = (struct wait_work *)w;
  k->rc = dw_wait(w->e, k->lsn, &k->wo);
  if (k->rc) dw_error_copy(k->error, sizeof k->error);
}

static void wait_after(struct work *w) {
  struct wait_work *k = (struct wait_work *)w;
  if (k->rc)
    reply_rc(w->c, &w->c->out, k->rc, k->lsn, k->error);
  else
    resp_simple(&w->c->out, "OK");
  free(k);
}

enum handled cmd_dw_wait(struct conn *c, const struct cmd *cmd) {
  unsigned long long lsn, ms = 0;
  if (cmd->argc > 3 || !number(cmd, 1, INT64_MAX, &lsn) || (cmd->argc == 3 && !number(cmd, 2, 86400000, &ms))) {
    conn_error(c, "ERR usage: DW.WAIT lsn [ms]");
    return HANDLED;
  }
  struct wait_work *k = calloc(1, sizeof *k);
  if (!k) {
    conn_error(c, "OOM no memory");
    return HANDLED;
  }
  k->w.run = wait_run;
  k->w.after = wait_after;
  k->wo = c->write;
  if (ms) k->wo.timeout_ms = (uint32_t)ms;
  k->lsn = lsn;
  work_start(c, &k->w);
  return HANDLED;
}

/* ---- WAIT replicas ms: how many followers have this connection's last write on disk ------------------------- */

static long long followers_with(struct resp_server *s, dw_lsn lsn) {
  dw_status *st = malloc(sizeof *st);
  long long n = 0;
  if (st && dw_status_get(s->e, st) == DW_OK)
    for (uint32_t i = 0; i < st->follower_count; i++)
      n += st->followers[i].state != DW_PEER_DISCONNECTED && st->followers[i].state != DW_PEER_REFUSED &&
           st->followers[i].durable_lsn >= lsn;
  free(st);
  return n;
}

bool wait_check(struct conn *c, uint64_t now_ns) {
  long long n = followers_with(c->s, c->last_lsn);
  if (n < (long long)c->wait_replicas && now_ns < c->wait_deadline_ns) return false;
  c->wait_deadline_ns = UINT64_MAX;
  resp_int(&c->out, n);
  return true;
}

enum handled cmd_wait(struct conn *c, const struct cmd *cmd) {
  long long replicas, ms;
  if (!cmd_int(cmd, 1, &replicas) || !cmd_int(cmd, 2, &ms)) {
    conn_error(c, "ERR value is not an integer or out of range");
  } else if (c->s->role == DW_FOLLOWER) {
    conn_error(c, "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is "
                  "configured to be writable (which is not the default) writes to replicas are just local and are not "
                  "propagated.");
  } else if (ms < 0) {
    conn_error(c, "ERR timeout is negative");
  } else {
    c->wait_replicas = replicas < 0 ? 0 : replicas > DW_MAX_ACKS ? DW_MAX_ACKS + 1 : (uint32_t)replicas;
    uint64_t now = server_now_ns();
    c->wait_deadline_ns = ms ? now + (uint64_t)ms * 1000000u : UINT64_MAX;
    if (!wait_check(c, now)) c->block = BLOCK_WAIT;
  }
  return HANDLED;
}
