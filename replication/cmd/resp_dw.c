/* Our own commands: DW.LSN DW.READ DW.MODE DW.STATUS DW.CHECKSUM DW.WAIT; and Redis' WAIT. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/resp_internal.h"
#include "replication/cmd/failover_status.h"
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
    "ERR usage: DW.READ <EVENTUAL|BOUNDED ms|SESSION lsn|STRONG|DEFAULT> [WAIT ms] (at most 60000 for STRONG)";

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
    ro = conn_default_read(c->s);
  } else {
    ok = false;
  }
  if (ok && i < cmd->argc) { /* STRONG waits in a thread, and the server's end waits for that: not for long */
    unsigned long long max = ro.consistency == DW_STRONG ? 60000 : 86400000;
    ok = i + 2 == cmd->argc && cmd_is(cmd, i, "WAIT") && number(cmd, i + 1, max, &v);
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
  struct status_epochs epochs;
  size_t n;
  bool got = s && dw_status_get(c->s->e, s) == DW_OK && status_epochs_get(c->s->e, &epochs) == DW_OK;
  char *json = got ? status_json(s, &epochs, &n) : NULL;
  if (json && c->s->opt.failover) {
    struct failover_report report;
    c->s->opt.failover(c->s->opt.failover_arg, &report);
    json = failover_json_join(json, &report, &n);
  }
  if (json)
    resp_bulk(&c->out, json, n);
  else
    conn_error(c, "OOM no memory for the status");
  free(json);
  free(s);
  return HANDLED;
}

/* ---- DW.CHECKSUM: records, applied LSN, XXH3-128 over all records in key order ------------------------------ */

struct checksum_work {
  struct work w;
  dw_read_options ro;
  uint64_t records;
  dw_lsn lsn;
  struct hash128 hash;
  int rc;
  char error[200];
};

/* An iterator, and the LSN it stands at: exact if nothing was applied while it was made, else a little too low. */
static int iter_at(dw_engine *e, const dw_read_options *ro, dw_iter **it, dw_lsn *lsn) {
  dw_status *s = malloc(sizeof *s);
  int rc = s ? DW_OK : dw_fail_nomem(sizeof *s);
  for (int i = 0; rc == DW_OK && i < 10; i++) {
    rc = dw_status_get(e, s);
    *lsn = s->applied_lsn;
    if (rc == DW_OK) rc = dw_iter_create(e, ro, it);
    if (rc || dw_status_get(e, s) || s->applied_lsn == *lsn || i == 9) break;
    dw_iter_destroy(*it);
  }
  free(s);
  return rc;
}

/* Each record counts as: key length and value length (u64, little endian), key, value. */
static void hash_record(struct hash_stream *h, const dw_iter *it) {
  size_t kn, vn;
  const char *key = dw_iter_key(it, &kn), *val = dw_iter_value(it, &vn);
  uint8_t lens[16];
  put_u64(lens, kn);
  put_u64(lens + 8, vn);
  hash_stream_update(h, lens, sizeof lens);
  hash_stream_update(h, key, kn);
  hash_stream_update(h, val, vn);
}

static bool checksum_run(struct work *w) {
  struct checksum_work *k = (struct checksum_work *)w;
  struct hash_stream *h = hash_stream_create();
  dw_iter *it = NULL;
  k->rc = h ? iter_at(w->e, &k->ro, &it, &k->lsn) : dw_fail_nomem(0);
  if (k->rc == DW_OK) {
    for (dw_iter_seek_first(it); dw_iter_valid(it) && !atomic_load(&w->cancel); dw_iter_next(it), k->records++)
      hash_record(h, it);
    k->rc = dw_iter_status(it);
    k->hash = hash_stream_digest(h);
    dw_iter_destroy(it);
  }
  if (k->rc) dw_error_copy(k->error, sizeof k->error);
  if (h) hash_stream_destroy(h);
  return false;
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
  k->ro = read_now(c);
  work_start(c, &k->w);
  return HANDLED;
}

/* ---- DW.WAIT lsn [ms]: asks again for an in-doubt commit, by the connection's write options ---------------- */

#define WAIT_SLICE_MS 50u
#define WAIT_DEFAULT_MS 10000u

struct wait_work {
  struct work w;
  dw_write_options wo;
  dw_lsn lsn;
  uint64_t deadline_ns;
  int rc;
  char error[200];
};

/* In slices, so that the server can end and more clients than threads can wait. */
static bool wait_run(struct work *w) {
  struct wait_work *k = (struct wait_work *)w;
  uint64_t now = server_now_ns(), left_ms = k->deadline_ns > now ? (k->deadline_ns - now) / 1000000u : 0;
  k->wo.timeout_ms = left_ms >= WAIT_SLICE_MS ? WAIT_SLICE_MS : (uint32_t)left_ms + 1;
  k->rc = dw_wait(w->e, k->lsn, &k->wo);
  if (k->rc) dw_error_copy(k->error, sizeof k->error);
  return k->rc == DW_TIMEOUT && server_now_ns() < k->deadline_ns;
}

static void wait_after(struct work *w) {
  struct wait_work *k = (struct wait_work *)w;
  if (k->rc)
    reply_rc(w->c, &w->c->out, k->rc, k->rc == DW_TIMEOUT || k->rc == DW_CLOSED || k->rc == DW_FENCED ? k->lsn : 0,
             k->error);
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
  if (!ms) ms = c->write.timeout_ms ? c->write.timeout_ms : WAIT_DEFAULT_MS;
  k->w.run = wait_run;
  k->w.after = wait_after;
  k->wo = c->write;
  k->lsn = lsn;
  k->deadline_ns = server_now_ns() + ms * 1000000u;
  work_start(c, &k->w);
  return HANDLED;
}

/* ---- WAIT replicas ms: how many followers have this connection's last write ---------------------------------- */

/* At the level that the connection's writes ask for; on disk, unless told otherwise. */
static long long followers_with(const struct conn *c, const dw_status *st) {
  long long n = 0;
  for (uint32_t i = 0; i < st->follower_count; i++) {
    const dw_follower_status *f = &st->followers[i];
    dw_lsn has = c->write.ack == DW_ACK_RECEIVED  ? f->received_lsn
                 : c->write.ack == DW_ACK_APPLIED ? f->applied_lsn
                                                  : f->durable_lsn;
    bool there = f->state == DW_PEER_CATCHING_UP || f->state == DW_PEER_STREAMING;
    n += there && has >= c->last_lsn;
  }
  return n;
}

bool wait_check(struct conn *c, const dw_status *st, uint64_t now_ns) {
  long long n = followers_with(c, st);
  if (n < (long long)c->wait_replicas && now_ns < c->deadline_ns) return false;
  resp_int(&c->out, n);
  return true;
}

enum handled cmd_wait(struct conn *c, const struct cmd *cmd) {
  long long replicas, ms;
  if (server_role(c->s) == DW_FOLLOWER) {
    conn_error(c,
               "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is "
               "configured to be writable (which is not the default) writes to replicas are just local and are not "
               "propagated.");
    return HANDLED;
  }
  if (!cmd_int(cmd, 1, &replicas)) {
    conn_error(c, "ERR value is not an integer or out of range");
  } else if (!cmd_int(cmd, 2, &ms) || ms > 86400000) {
    conn_error(c, "ERR timeout is not an integer or out of range");
  } else if (ms < 0) {
    conn_error(c, "ERR timeout is negative");
  } else {
    dw_status *st = malloc(sizeof *st);
    c->wait_replicas = replicas < 0 ? 0 : replicas > DW_MAX_ACKS ? DW_MAX_ACKS + 1 : (uint32_t)replicas;
    uint64_t now = server_now_ns();
    c->deadline_ns = ms ? now + (uint64_t)ms * 1000000u : UINT64_MAX;
    if (!st || dw_status_get(c->s->e, st))
      conn_error(c, "OOM no memory for the status");
    else if (!wait_check(c, st, now))
      poll_begin(c, BLOCK_WAIT);
    free(st);
  }
  return HANDLED;
}
