/* See repair.h. */
#include "engine/repair.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/status.h"

struct attempt {
  const struct repair_run *run;
  const struct wal_damage *damage;
  struct wal *live;
  struct repair_result *result;
  uint64_t useless; /* peers, a bit each: not asked again */
  uint64_t gave;    /* likewise: blocks of theirs are in the file that is being rebuilt */
  size_t peer;      /* who is asked first */
};

static void append_text(char *dst, size_t cap, const char *a, const char *b) {
  size_t n = strlen(dst);
  if (n + 1 >= cap) return;
  snprintf(dst + n, cap - n, "%s%s%s%s", n ? "; " : "", a, *b ? ": " : "", b);
}

/* This peer can't help with this segment; the message says why. */
static void give_up_on(struct attempt *a, size_t peer) {
  char why[200];
  dw_error_copy(why, sizeof why);
  a->useless |= 1ull << peer;
  append_text(a->result->why, sizeof a->result->why, a->run->source->name(a->run->source->ctx, peer), why);
}

static bool time_is_up(const struct attempt *a) {
  const struct repair_run *run = a->run;
  if (run->stop && atomic_load(run->stop)) return true;
  return run->env->ops->mono_ns(run->env) >= run->deadline_ns;
}

/* One question, to whoever can answer it. DW_NOT_FOUND: nobody. */
static int ask_peers(struct attempt *a, const struct block_ask *ask, struct wal_block ***blocks, size_t *n) {
  const struct block_source *s = a->run->source;
  for (size_t i = 0; s && i < s->count; i++) {
    size_t peer = (a->peer + i) % s->count;
    if (a->useless >> peer & 1) continue;
    if (time_is_up(a)) return dw_fail(DW_TIMEOUT, "no time left");
    if (s->fetch(s->ctx, peer, ask, a->run->stop, blocks, n) == DW_OK) {
      a->peer = peer;
      return DW_OK;
    }
    give_up_on(a, peer);
  }
  return dw_fail(DW_NOT_FOUND, "%s", s && s->count ? a->result->why : "no peer is named to repair from");
}

/* DW_DIVERGED: what the peers gave does not lead to what survived. */
static int fill(struct attempt *a, struct wal_repair *r) {
  struct block_ask ask = {.cluster_id = a->run->cluster_id, .node_id = a->run->node_id};
  int rc;
  while ((rc = wal_repair_need(r, &ask.from, &ask.upto)) == DW_OK) {
    struct wal_block **blocks = NULL;
    size_t n = 0;
    rc = ask_peers(a, &ask, &blocks, &n);
    if (rc) return rc;
    rc = wal_repair_give(r, blocks, n);
    if (n) a->gave |= 1ull << a->peer;
    for (size_t i = 0; i < n; i++) wal_block_unref(blocks[i]);
    free(blocks);
    if (rc) return rc;
  }
  return rc == DW_NOT_FOUND ? wal_repair_finish(r) : rc;
}

static void name_givers(struct attempt *a) {
  const struct block_source *s = a->run->source;
  a->result->from[0] = 0;
  for (size_t i = 0; s && i < s->count; i++)
    if (a->gave >> i & 1) {
      size_t n = strlen(a->result->from);
      snprintf(a->result->from + n, sizeof a->result->from - n, "%s%s", n ? ", " : "", s->name(s->ctx, i));
    }
}

/* From the beginning of the segment. */
static int attempt_once(struct attempt *a) {
  struct wal_repair *r = NULL;
  char why[400];
  a->gave = 0;
  int rc = wal_repair_start(a->run->env, a->run->dir, a->damage, a->live, a->run->rehearse, &r);
  if (rc == DW_OK) rc = fill(a, r);
  if (rc) dw_error_copy(why, sizeof why);
  if (r) wal_repair_counts(r, &a->result->blocks, &a->result->bytes);
  wal_repair_free(r);
  name_givers(a);
  return rc ? dw_fail(rc, "%s", why) : DW_OK;
}

int repair_segment(const struct repair_run *run, const struct wal_damage *d, struct wal *live,
                   struct repair_result *r) {
  struct attempt a = {.run = run, .damage = d, .live = live, .result = r};
  memset(r, 0, sizeof *r);
  for (;;) {
    int rc = attempt_once(&a);
    if (rc == DW_DIVERGED && run->source && !(a.useless >> a.peer & 1)) {
      give_up_on(&a, a.peer); /* of another history from here on: without it, anew */
      continue;
    }
    if (rc && !r->why[0]) dw_error_copy(r->why, sizeof r->why);
    if (run->source && run->source->rest) run->source->rest(run->source->ctx);
    return rc ? dw_fail(rc, "%s", r->why) : DW_OK;
  }
}
