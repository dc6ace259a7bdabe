/* See fencer.h. */
#include "replication/fencer.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "wal/base/status.h"

static void fail(struct fencer *f, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void fail(struct fencer *f, int code, const char *fmt, ...) {
  if (f->state == FENCER_FAILED) return;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(f->text, sizeof f->text, fmt, ap);
  va_end(ap);
  if (!f->text[0]) snprintf(f->text, sizeof f->text, "it gave no reason"); /* a REFUSE may be silent */
  f->code = code;
  f->state = FENCER_FAILED;
}

void fencer_init(struct fencer *f, const struct msg_sender *me, const struct hash128 *cluster_id) {
  *f = (struct fencer){.me = *me, .cluster_id = *cluster_id};
  frame_reader_init(&f->in, MSG_BIT(MSG_FENCED) | MSG_BIT(MSG_REFUSE) | MSG_BIT(MSG_HEARTBEAT));
}

void fencer_free(struct fencer *f) {
  frame_reader_free(&f->in);
  outq_free(&f->out);
}

void fencer_ask(struct fencer *f, const struct msg_fence *ask) {
  if (f->state != FENCER_IDLE) return;
  struct msg_fence m = *ask;
  struct buf b = {0};
  m.version_min = MSG_VERSION_MIN;
  m.version_max = MSG_VERSION_MAX;
  m.cluster_id = f->cluster_id;
  m.node_id = f->me.node_id;
  m.id = ++f->id;
  f->state = FENCER_ASKED;
  if (msg_put_fence(&b, &f->me, &m) || outq_push_buf(&f->out, &b)) fail(f, DW_NO_MEMORY, "no memory for a question");
  buf_free(&b);
}

static int on_fenced(struct fencer *f, const struct frame *frame) {
  struct msg_fenced m;
  int rc = msg_get_fenced(frame, &m);
  if (rc) return rc;
  if (f->state != FENCER_ASKED || m.id != f->id) return dw_fail(DW_CORRUPT, "an answer to no question");
  if (!hash128_eq(&m.cluster_id, &f->cluster_id)) return dw_fail(DW_DIVERGED, "it is of another cluster");
  f->answer = m;
  f->state = FENCER_ANSWERED;
  return DW_OK;
}

void fencer_input(struct fencer *f, const void *p, size_t n) {
  if (f->state == FENCER_FAILED) return;
  if (frame_reader_feed(&f->in, p, n)) fail(f, DW_NO_MEMORY, "no memory for what it sends");
  struct frame frame;
  while (f->state == FENCER_ASKED || f->state == FENCER_IDLE) {
    int rc = frame_reader_next(&f->in, &frame);
    if (rc == DW_NOT_FOUND) return;
    struct msg_refuse m;
    if (rc == DW_OK && frame.h.type == MSG_FENCED) rc = on_fenced(f, &frame);
    if (rc == DW_OK && frame.h.type == MSG_REFUSE && (rc = msg_get_refuse(&frame, &m)) == DW_OK)
      fail(f, m.code, "%s", m.text);
    if (!rc) continue;
    char why[MSG_TEXT_BYTES];
    dw_error_copy(why, sizeof why);
    fail(f, rc, "%s", why);
  }
}

void fencer_eof(struct fencer *f, const char *why) {
  fail(f, DW_IO, "%s", why && *why ? why : "it closed the connection without an answer");
}

const struct msg_fenced *fencer_take(struct fencer *f) {
  f->state = FENCER_IDLE;
  return &f->answer;
}
