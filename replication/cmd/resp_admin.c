/* The operator's commands: DW.PROMOTE, DW.FOLLOW, DW.REJOIN, DW.DIVERGED. All may take seconds, so they run in worker
 * threads; others on this connection wait behind them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "replication/cmd/resp_internal.h"
#include "wal/base/status.h"

struct role_work {
  struct work w;
  bool promote, rejoin; /* else follow */
  dw_promote_options opt;
  char primary[DW_ADDRESS_BYTES]; /* "": nobody */
  uint64_t begun_ns, took_ns;
  int rc;
  char error[400];
};

static bool role_run(struct work *w) {
  struct role_work *k = (struct role_work *)w;
  uint64_t start = server_now_ns();
  const char *primary = k->primary[0] ? k->primary : NULL;
  k->rc = k->promote ? dw_promote(w->e, &k->opt) : k->rejoin ? dw_rejoin(w->e, primary) : dw_follow(w->e, primary);
  if (k->rc) dw_error_copy(k->error, sizeof k->error);
  k->took_ns = server_now_ns() - start;
  return false;
}

static void role_after(struct work *w) {
  struct role_work *k = (struct role_work *)w;
  if (k->rc == DW_FENCED) { /* who was faster, not whom to write to */
    conn_error(w->c, "FENCED %s", k->error);
  } else if (k->rc) {
    reply_rc(w->c, &w->c->out, k->rc, 0, k->error);
  } else if (k->promote) {
    dw_status *s = malloc(sizeof *s);
    char text[100] = "OK";
    if (s && dw_status_get(w->e, s) == DW_OK)
      snprintf(text, sizeof text, "OK epoch=%llu lsn=%llu ms=%llu", (unsigned long long)s->epoch,
               (unsigned long long)s->written_lsn, (unsigned long long)(k->took_ns / 1000000));
    free(s);
    resp_simple(&w->c->out, text);
  } else {
    resp_simple(&w->c->out, "OK");
  }
  free(k);
}

static struct role_work *role_work(struct conn *c) {
  struct role_work *k = calloc(1, sizeof *k);
  if (!k) {
    conn_error(c, "OOM no memory");
    return NULL;
  }
  k->w.run = role_run;
  k->w.after = role_after;
  return k;
}

static bool milliseconds(const struct cmd *cmd, size_t i, unsigned long long *out) {
  long long v;
  if (i >= cmd->argc || !cmd_int(cmd, i, &v) || v <= 0 || v > 86400000) return false;
  *out = (unsigned long long)v;
  return true;
}

enum handled cmd_dw_promote(struct conn *c, const struct cmd *cmd) {
  dw_promote_options opt = {0};
  unsigned long long v = 0;
  bool ok = true;
  for (size_t i = 1; ok && i < cmd->argc; i++) {
    if (cmd_is(cmd, i, "FORCE"))
      opt.force = 1;
    else if (cmd_is(cmd, i, "HANDOVER"))
      opt.handover = 1;
    else if (cmd_is(cmd, i, "MAXLAG") && milliseconds(cmd, ++i, &v))
      opt.max_lag_ms = v;
    else if (cmd_is(cmd, i, "TIMEOUT") && milliseconds(cmd, ++i, &v))
      opt.timeout_ms = (uint32_t)v;
    else
      ok = false;
  }
  if (!ok) {
    conn_error(c, "ERR usage: DW.PROMOTE [FORCE] [HANDOVER] [MAXLAG ms] [TIMEOUT ms]");
    return HANDLED;
  }
  struct role_work *k = role_work(c);
  if (!k) return HANDLED;
  k->promote = true;
  k->opt = opt;
  work_start(c, &k->w);
  return HANDLED;
}

enum handled cmd_dw_follow(struct conn *c, const struct cmd *cmd) {
  if (cmd->argl[1] >= DW_ADDRESS_BYTES) {
    conn_error(c, "ERR usage: DW.FOLLOW <host:port|NOBODY>");
    return HANDLED;
  }
  struct role_work *k = role_work(c);
  if (!k) return HANDLED;
  if (!cmd_is(cmd, 1, "NOBODY")) memcpy(k->primary, cmd->argv[1], cmd->argl[1]);
  work_start(c, &k->w);
  return HANDLED;
}

enum handled cmd_dw_rejoin(struct conn *c, const struct cmd *cmd) {
  if (cmd->argc > 2 || (cmd->argc == 2 && cmd->argl[1] >= DW_ADDRESS_BYTES)) {
    conn_error(c, "ERR usage: DW.REJOIN [host:port]");
    return HANDLED;
  }
  struct role_work *k = role_work(c);
  if (!k) return HANDLED;
  k->rejoin = true;
  if (cmd->argc == 2) memcpy(k->primary, cmd->argv[1], cmd->argl[1]);
  work_start(c, &k->w);
  return HANDLED;
}

/* ---- DW.DIVERGED: one line for each file ------------------------------------------------------------------------ */

struct diverged_work {
  struct work w;
  struct buf lines; /* each with its terminator */
  uint32_t count;
  int rc;
  char error[200];
};

static int diverged_line(void *arg, const char *name, int rc, const struct diverged_header *h) {
  struct diverged_work *k = arg;
  char line[400];
  if (rc)
    snprintf(line, sizeof line, "%s damaged: %.250s", name, dw_last_error());
  else
    snprintf(line, sizeof line,
             "%s commits=%llu first_lsn=%llu last_lsn=%llu bytes=%llu complete=%d wall_ns=%llu peer=%llu", name,
             (unsigned long long)h->commits, (unsigned long long)h->from.lsn + 1, (unsigned long long)h->end.lsn,
             (unsigned long long)h->bytes, h->complete, (unsigned long long)h->wall_ns, (unsigned long long)h->peer_id);
  k->rc = buf_append(&k->lines, line, strlen(line) + 1);
  k->count++;
  return k->rc;
}

static bool diverged_run(struct work *w) {
  struct diverged_work *k = (struct diverged_work *)w;
  int rc = engine_diverged(w->e, diverged_line, k);
  if (k->rc == DW_OK) k->rc = rc;
  if (k->rc) dw_error_copy(k->error, sizeof k->error);
  return false;
}

static void diverged_after(struct work *w) {
  struct diverged_work *k = (struct diverged_work *)w;
  if (k->rc) {
    reply_rc(w->c, &w->c->out, k->rc, 0, k->error);
  } else {
    resp_array(&w->c->out, k->count);
    const char *line = (const char *)k->lines.data;
    for (uint32_t i = 0; i < k->count; i++, line += strlen(line) + 1) resp_bulk_str(&w->c->out, line);
  }
  buf_free(&k->lines);
  free(k);
}

enum handled cmd_dw_diverged(struct conn *c, const struct cmd *cmd) {
  (void)cmd;
  struct diverged_work *k = calloc(1, sizeof *k);
  if (!k) {
    conn_error(c, "OOM no memory");
    return HANDLED;
  }
  k->w.run = diverged_run;
  k->w.after = diverged_after;
  work_start(c, &k->w);
  return HANDLED;
}
