/* The operator's commands: DW.PROMOTE and DW.FOLLOW. Both may take seconds, so they run in worker threads; others on this
 * connection wait behind them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/resp_internal.h"
#include "wal/base/status.h"

struct role_work {
  struct work w;
  bool promote;
  dw_promote_options opt;
  char primary[DW_ADDRESS_BYTES]; /* "": nobody */
  uint64_t begun_ns, took_ns;
  int rc;
  char error[400];
};

static bool role_run(struct work *w) {
  struct role_work *k = (struct role_work *)w;
  uint64_t start = server_now_ns();
  k->rc = k->promote ? dw_promote(w->e, &k->opt) : dw_follow(w->e, k->primary[0] ? k->primary : NULL);
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
