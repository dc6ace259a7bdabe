/* Sending checkpoints: carries out a shipper's checkpoint actions with jobs, and keeps what a broken transfer left.
 *
 *   MAKE --> [job: engine_checkpoint_create] --> in n->ckpts, used by the connection --> READ* --> installed: dropped
 *                                                        |
 *                                                        +-- connection ends: kept NODE_CKPT_KEEP_NS, then dropped;
 *                                                            NODE_CKPT_KEPT of them at most
 *
 * One copy per follower: it is hard links, so it costs next to nothing, and a resumed transfer must find exactly the
 * files that it began with.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/node.h"
#include "wal/base/status.h"

/* ---- the list -------------------------------------------------------------------------------- */

static void drop_run(void *arg) {
  ckpt_out_drop(arg);
}
static void drop_done(void *arg) {
  (void)arg;
}

/* Unlinking many files takes its time: by a job where the loop still runs. */
static void drop(struct node *n, struct node_ckpt *c, bool loop_runs) {
  for (struct node_ckpt **at = &n->ckpts; *at; at = &(*at)->next) {
    if (*at != c) continue;
    *at = c->next;
    break;
  }
  if (!loop_runs || transport_work(n->t, drop_run, drop_done, c->out)) ckpt_out_drop(c->out);
  free(c);
  n->pins_changed = true;
}

void bootstrap_expire(struct node *n, uint64_t now_ns) {
  for (struct node_ckpt *c = n->ckpts, *next; c; c = next) {
    next = c->next;
    if (c->user || now_ns < c->expires_ns) continue;
    if (now_ns != UINT64_MAX)
      engine_log(n->e, DW_LOG_INFO, "dropped the checkpoint at LSN %llu: its follower did not come back",
                 (unsigned long long)ckpt_out_pos(c->out).lsn);
    drop(n, c, now_ns != UINT64_MAX);
  }
}

/* A follower that crashes again and again, under a new name each time, must not fill the disk with copies. */
static void bound_kept(struct node *n) {
  unsigned kept = 0;
  struct node_ckpt *oldest = NULL;
  for (struct node_ckpt *c = n->ckpts; c; c = c->next) {
    if (c->user) continue;
    kept++;
    if (!oldest || c->expires_ns < oldest->expires_ns) oldest = c;
  }
  if (kept > NODE_CKPT_KEPT) drop(n, oldest, true);
}

void bootstrap_gone(struct peer *p) {
  if (!p->ckpt) return;
  p->ckpt->user = NULL;
  p->ckpt->expires_ns = node_now(p->n) + NODE_CKPT_KEEP_NS;
  p->ckpt = NULL;
  bound_kept(p->n);
}

void bootstrap_installed(struct peer *p) {
  if (!p->ckpt) return;
  p->pin = ckpt_out_pos(p->ckpt->out).lsn; /* until the HELLO that follows has a place in the log */
  p->n->bootstraps++;
  p->n->report_urgent = true;
  struct node_ckpt *c = p->ckpt;
  p->ckpt = NULL;
  drop(p->n, c, true);
}

/* ---- making ---------------------------------------------------------------------------------- */

static void answer(struct peer *p, int rc, const char *why) {
  struct ckpt_manifest m = {0};
  char text[MSG_TEXT_BYTES];
  snprintf(text, sizeof text, "%s", why);
  if (rc == DW_OK) {
    rc = ckpt_out_manifest(p->ckpt->out, &m);
    if (rc) dw_error_copy(text, sizeof text);
  }
  shipper_checkpoint(p->ship, rc, &m, text, node_now(p->n));
  p->dirty = true;
}

static int keep(struct peer *p, struct ckpt_out *out) {
  struct node *n = p->n;
  struct node_ckpt *c = calloc(1, sizeof *c);
  if (!c) return dw_fail_nomem(sizeof *c);
  *c = (struct node_ckpt){.next = n->ckpts, .out = out, .user = p};
  n->ckpts = c;
  p->ckpt = c;
  n->pins_changed = true;
  return DW_OK;
}

static void make_run(void *arg) { /* worker */
  struct ckpt_job *j = arg;
  j->rc = ckpt_out_make(j->engine, j->hashes, &j->out);
  if (j->rc) dw_error_copy(j->why, sizeof j->why);
}

static void make_done(void *arg) {
  struct ckpt_job *j = arg;
  struct peer *p = j->peer;
  p->jobs--;
  p->dirty = true;
  struct ckpt_out *out = j->rc == DW_OK ? j->out : NULL;
  j->out = NULL;
  if (!p->conn) { /* it was never announced, so nobody can resume it */
    if (out && transport_work(p->n->t, drop_run, drop_done, out)) ckpt_out_drop(out);
    return;
  }
  if (out && keep(p, out) != DW_OK) {
    j->rc = DW_NO_MEMORY;
    snprintf(j->why, sizeof j->why, "no memory");
    ckpt_out_drop(out);
  }
  answer(p, j->rc, j->why);
}

static void make_new(struct peer *p, bool hashes) {
  struct node *n = p->n;
  struct engine_positions pos;
  uint8_t *data = p->job.data;
  engine_positions(n->e, &pos);
  p->pin = pos.applied.lsn; /* the copy's boundary will be here or later */
  n->pins_changed = true;
  serve_pin_log(n);
  p->job = (struct ckpt_job){.peer = p, .engine = n->e, .hashes = hashes, .data = data};
  int rc = transport_work(n->t, make_run, make_done, &p->job);
  if (rc == DW_OK)
    p->jobs++;
  else
    answer(p, rc, "no memory");
}

void bootstrap_make(struct peer *p, const struct hash128 *resume, bool hashes) {
  struct node *n = p->n;
  struct engine_positions pos;
  p->make_waits = false;
  engine_positions(n->e, &pos);
  for (struct node_ckpt *c = n->ckpts; c; c = c->next) {
    struct hash128 id = ckpt_out_id(c->out);
    if (!hash128_eq(&id, resume) || ckpt_out_pos(c->out).lsn < pos.oldest.lsn) continue;
    if (c->user && c->user->conn) break; /* somebody else's: make a new one */
    if (c->user) {                       /* the connection that broke still reads a chunk of it: in a moment */
      p->make_waits = true;
      p->make_id = *resume;
      p->make_hashes = hashes;
      return;
    }
    c->user = p;
    p->ckpt = c;
    p->pin = ckpt_out_pos(c->out).lsn;
    engine_log(n->e, DW_LOG_INFO, "follower %s: resumes the checkpoint at LSN %llu", p->address,
               (unsigned long long)p->pin);
    answer(p, DW_OK, "");
    return;
  }
  make_new(p, hashes);
}

/* ---- reading --------------------------------------------------------------------------------- */

static void read_run(void *arg) { /* worker */
  struct ckpt_job *j = arg;
  j->rc = ckpt_out_read(j->out, j->name, j->offset, j->data, j->bytes);
  if (j->rc) dw_error_copy(j->why, sizeof j->why);
}

static void read_done(void *arg) {
  struct ckpt_job *j = arg;
  struct peer *p = j->peer;
  p->jobs--;
  p->dirty = true;
  j->out = NULL;
  if (p->conn) shipper_chunk(p->ship, j->rc, j->data, j->why, node_now(p->n));
}

void bootstrap_read(struct peer *p, const struct ship_action *a) {
  struct node *n = p->n;
  struct ckpt_job *j = &p->job;
  if (!j->data) j->data = malloc(MSG_CHUNK_BYTES);
  int rc = !p->ckpt ? DW_CLOSED : j->data ? DW_OK : DW_NO_MEMORY;
  if (rc == DW_OK) {
    *j = (struct ckpt_job){.peer = p,
                           .out = p->ckpt->out,
                           .name = a->chunk.name,
                           .offset = a->chunk.offset,
                           .bytes = a->chunk.bytes,
                           .data = j->data};
    rc = transport_work(n->t, read_run, read_done, j);
  }
  if (rc == DW_OK)
    p->jobs++;
  else
    shipper_chunk(p->ship, rc, NULL, dw_rc_name(rc), node_now(n));
}
