/* SUBSCRIBE and PSUBSCRIBE, as far as clients of Redis' Sentinel need them: one channel has news, +switch-master, when
 * this node has learned of another primary. Clients can't publish.
 *
 *   each loop's timer, while somebody there listens --> who is primary now? --changed--> one message to each that
 * listens to it
 *
 * Bounds: SUBS_MAX subscriptions of a connection, SUB_BYTES_MAX each; who does not read and lets OUT_NEWS_MAX pile up
 * is disconnected, and will ask anew.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/resp_glob.h"
#include "replication/cmd/resp_internal.h"

#define SUBS_MAX 32u
#define SUB_BYTES_MAX 128u
#define OUT_NEWS_MAX 65536u

static const char channel[] = "+switch-master";

struct subscription {
  bool pattern;
  size_t n;
  uint8_t name[SUB_BYTES_MAX];
};

/* ---- news ------------------------------------------------------------------------------------------ */

static void send_news(struct conn *c, const struct subscription *sub, const char *text) {
  resp_array(&c->out, sub->pattern ? 4 : 3);
  resp_bulk_str(&c->out, sub->pattern ? "pmessage" : "message");
  if (sub->pattern) resp_bulk(&c->out, sub->name, sub->n);
  resp_bulk_str(&c->out, channel);
  if (resp_bulk_str(&c->out, text) || c->out.len + c->out_sending > OUT_NEWS_MAX)
    conn_drop(c);
  else
    conn_dirty(c);
}

static bool listens(const struct subscription *sub) {
  size_t n = sizeof channel - 1;
  return sub->pattern ? resp_glob(sub->name, sub->n, channel, n) : sub->n == n && memcmp(sub->name, channel, n) == 0;
}

/* "<name> <old ip> <old port> <new ip> <new port>" */
static void tell(struct conn *c, const char *before, const char *now) {
  char old_at[DW_ADDRESS_BYTES], new_at[DW_ADDRESS_BYTES], old_host[DW_ADDRESS_BYTES], new_host[DW_ADDRESS_BYTES];
  char text[2 * DW_ADDRESS_BYTES + CLUSTER_NAME_BYTES + 32];
  int old_port, new_port;
  conn_reach(c, before, old_at);
  conn_reach(c, now, new_at);
  if (!address_split(old_at, old_host, &old_port) || !address_split(new_at, new_host, &new_port)) return;
  snprintf(text, sizeof text, "%s %s %d %s %d", c->s->cluster_name, old_host, old_port, new_host, new_port);
  for (size_t i = 0; i < c->sub_count && !c->closing; i++)
    if (listens(&c->subs[i])) send_news(c, &c->subs[i], text);
}

static void watch(struct resp_loop *l) {
  const dw_status *v = loop_view(l, true);
  if (!v->primary_client[0] || strcmp(v->primary_client, l->watched) == 0) return;
  char before[DW_ADDRESS_BYTES];
  memcpy(before, l->watched, sizeof before);
  memcpy(l->watched, v->primary_client, sizeof l->watched);
  if (!before[0]) return;
  for (struct conn *c = l->conns; c; c = c->next)
    if (c->sub_count && !c->closing) tell(c, before, l->watched);
}

static void on_watch(uv_timer_t *t) {
  struct resp_loop *l = t->data;
  watch(l);
  if (!l->subscribers) uv_timer_stop(t);
}

static void listeners_changed(struct conn *c, size_t before) {
  struct resp_loop *l = c->l;
  if (before && !c->sub_count) l->subscribers--;
  if (before || !c->sub_count) return;
  if (l->subscribers++) return;
  memcpy(l->watched, loop_view(l, true)->primary_client, sizeof l->watched);
  uv_timer_start(&l->watch, on_watch, c->s->opt.watch_ms, c->s->opt.watch_ms);
}

/* ---- subscriptions --------------------------------------------------------------------------------- */

static struct subscription *find(const struct conn *c, bool pattern, const uint8_t *name, size_t n) {
  for (size_t i = 0; i < c->sub_count; i++) {
    struct subscription *sub = &c->subs[i];
    if (sub->pattern == pattern && sub->n == n && memcmp(sub->name, name, n) == 0) return sub;
  }
  return NULL;
}

static void confirm(struct conn *c, const char *what, bool pattern, const uint8_t *name, size_t n) {
  char word[16];
  snprintf(word, sizeof word, "%s%s", pattern ? "p" : "", what);
  resp_array(&c->out, 3);
  resp_bulk_str(&c->out, word);
  if (name)
    resp_bulk(&c->out, name, n);
  else
    resp_nil(&c->out);
  resp_int(&c->out, (long long)c->sub_count);
}

static bool add(struct conn *c, bool pattern, const uint8_t *name, size_t n) {
  if (find(c, pattern, name, n)) return true;
  if (n > SUB_BYTES_MAX || c->sub_count == SUBS_MAX) {
    conn_error(c, "ERR at most %u subscriptions of %u bytes", SUBS_MAX, SUB_BYTES_MAX);
    return false;
  }
  if (!c->subs) c->subs = calloc(SUBS_MAX, sizeof *c->subs);
  if (!c->subs) {
    conn_error(c, "OOM no memory for the subscription");
    return false;
  }
  struct subscription *sub = &c->subs[c->sub_count++];
  *sub = (struct subscription){.pattern = pattern, .n = n};
  memcpy(sub->name, name, n);
  return true;
}

static enum handled subscribe(struct conn *c, const struct cmd *cmd, bool pattern) {
  size_t before = c->sub_count;
  for (size_t i = 1; i < cmd->argc && !c->closing; i++)
    if (add(c, pattern, cmd->argv[i], cmd->argl[i])) confirm(c, "subscribe", pattern, cmd->argv[i], cmd->argl[i]);
  listeners_changed(c, before);
  return HANDLED;
}

static void drop(struct conn *c, struct subscription *sub) {
  *sub = c->subs[--c->sub_count];
}

static enum handled unsubscribe(struct conn *c, const struct cmd *cmd, bool pattern) {
  size_t before = c->sub_count, dropped = 0;
  for (size_t i = 1; i < cmd->argc; i++) {
    struct subscription *sub = find(c, pattern, cmd->argv[i], cmd->argl[i]);
    if (sub) drop(c, sub);
    confirm(c, "unsubscribe", pattern, cmd->argv[i], cmd->argl[i]);
  }
  for (size_t i = c->sub_count; cmd->argc == 1 && i-- > 0;) {
    struct subscription sub = c->subs[i];
    if (sub.pattern != pattern) continue;
    drop(c, &c->subs[i]);
    confirm(c, "unsubscribe", pattern, sub.name, sub.n);
    dropped++;
  }
  if (cmd->argc == 1 && !dropped) confirm(c, "unsubscribe", pattern, NULL, 0);
  listeners_changed(c, before);
  return HANDLED;
}

void pubsub_leave(struct conn *c) {
  size_t before = c->sub_count;
  c->sub_count = 0;
  listeners_changed(c, before);
  free(c->subs);
  c->subs = NULL;
}

enum handled cmd_subscribe(struct conn *c, const struct cmd *cmd) {
  return subscribe(c, cmd, false);
}
enum handled cmd_psubscribe(struct conn *c, const struct cmd *cmd) {
  return subscribe(c, cmd, true);
}
enum handled cmd_unsubscribe(struct conn *c, const struct cmd *cmd) {
  return unsubscribe(c, cmd, false);
}
enum handled cmd_punsubscribe(struct conn *c, const struct cmd *cmd) {
  return unsubscribe(c, cmd, true);
}
