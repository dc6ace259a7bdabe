/* See fetcher.h. */
#include "replication/fetcher.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

typedef unsigned long long ull;

struct fetcher {
  struct fetcher_config cfg;
  enum fetch_state state;
  struct frame_reader in;
  struct outq out;
  uint64_t id;
  struct wal_pos from; /* of the question; then behind the last block checked */
  dw_lsn upto;
  struct wal_block **blocks;
  size_t count;
  int code;
  char text[MSG_TEXT_BYTES + 32];
};

static void drop_blocks(struct fetcher *f) {
  while (f->count) wal_block_unref(f->blocks[--f->count]);
  free(f->blocks);
  f->blocks = NULL;
}

static void fail(struct fetcher *f, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void fail(struct fetcher *f, int code, const char *fmt, ...) {
  if (f->state == FETCH_FAILED) return;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(f->text, sizeof f->text, fmt, ap);
  va_end(ap);
  if (!f->text[0]) snprintf(f->text, sizeof f->text, "it gave no reason"); /* a REFUSE may be silent */
  f->code = code;
  f->state = FETCH_FAILED;
  drop_blocks(f);
}

int fetcher_create(const struct fetcher_config *cfg, struct fetcher **out) {
  struct fetcher *f = calloc(1, sizeof *f);
  if (!f) return dw_fail_nomem(sizeof *f);
  f->cfg = *cfg;
  if (!f->cfg.max_bytes || f->cfg.max_bytes > MSG_FETCH_BYTES) f->cfg.max_bytes = MSG_FETCH_BYTES;
  frame_reader_init(&f->in, MSG_BIT(MSG_FETCHED) | MSG_BIT(MSG_REFUSE) | MSG_BIT(MSG_HEARTBEAT));
  *out = f;
  return DW_OK;
}

void fetcher_destroy(struct fetcher *f) {
  if (!f) return;
  drop_blocks(f);
  frame_reader_free(&f->in);
  outq_free(&f->out);
  free(f);
}

void fetcher_ask(struct fetcher *f, const struct wal_pos *from, dw_lsn upto) {
  if (f->state != FETCH_IDLE) return;
  struct msg_sender me = {.epoch = from->epoch, .node_id = f->cfg.node_id};
  struct msg_fetch m = {.version_min = MSG_VERSION_MIN,
                        .version_max = MSG_VERSION_MAX,
                        .max_bytes = f->cfg.max_bytes,
                        .cluster_id = f->cfg.cluster_id,
                        .node_id = f->cfg.node_id,
                        .id = ++f->id,
                        .from = *from,
                        .upto = upto};
  struct buf b = {0};
  f->from = *from;
  f->upto = upto;
  f->state = FETCH_ASKED;
  if (msg_put_fetch(&b, &me, &m) || outq_push_buf(&f->out, &b)) fail(f, DW_NO_MEMORY, "no memory for a question");
  buf_free(&b);
}

/* ---- the answer -------------------------------------------------------------------------------- */

static int take_block(struct fetcher *f, const uint8_t *bytes, size_t n) {
  struct wal_block *b;
  int rc = wal_block_parse(bytes, n, &b);
  if (rc) return rc;
  const struct block_header *h = &b->h;
  if (h->first_lsn != f->from.lsn + 1 || h->epoch < f->from.epoch || !block_chain_ok(b->bytes, &f->from.chain))
    rc = dw_fail(DW_DIVERGED, "it sent a block of LSN %llu that does not follow LSN %llu", (ull)h->first_lsn,
                 (ull)f->from.lsn);
  else if (block_last_lsn(h) > f->upto)
    rc = dw_fail(DW_CORRUPT, "it sent LSN %llu, asked for was up to LSN %llu", (ull)block_last_lsn(h), (ull)f->upto);
  if (rc) {
    wal_block_unref(b);
    return rc;
  }
  f->from = (struct wal_pos){block_last_lsn(h), h->epoch, h->chain};
  f->blocks[f->count++] = b;
  return DW_OK;
}

static int on_fetched(struct fetcher *f, const struct frame *frame) {
  struct msg_fetched m;
  int rc = msg_get_fetched(frame, &m);
  if (rc) return rc;
  if (f->state != FETCH_ASKED || m.id != f->id) return dw_fail(DW_CORRUPT, "an answer to no question");
  if (!hash128_eq(&m.cluster_id, &f->cfg.cluster_id)) return dw_fail(DW_DIVERGED, "it is of another cluster");
  struct msg_blocks all = {.count = m.count, .blocks = m.blocks, .bytes = m.bytes};
  size_t off = 0;
  if (m.count && !(f->blocks = calloc(m.count, sizeof(struct wal_block *))))
    return dw_fail_nomem(m.count * sizeof(struct wal_block *));
  for (uint32_t i = 0; rc == DW_OK && i < m.count; i++) {
    const uint8_t *bytes;
    size_t n;
    rc = msg_blocks_next(&all, &off, &bytes, &n);
    if (rc == DW_OK) rc = take_block(f, bytes, n);
  }
  if (rc == DW_OK && off != m.bytes) rc = dw_fail(DW_CORRUPT, "FETCHED: bytes behind the last block");
  if (rc == DW_OK) f->state = FETCH_READY;
  return rc;
}

void fetcher_input(struct fetcher *f, const void *p, size_t n) {
  if (f->state == FETCH_FAILED) return;
  if (frame_reader_feed(&f->in, p, n)) fail(f, DW_NO_MEMORY, "no memory for what it sends");
  struct frame frame;
  while (f->state == FETCH_ASKED || f->state == FETCH_IDLE) {
    int rc = frame_reader_next(&f->in, &frame);
    if (rc == DW_NOT_FOUND) return;
    char why[MSG_TEXT_BYTES];
    if (rc == DW_OK && frame.h.type == MSG_REFUSE) {
      struct msg_refuse m;
      rc = msg_get_refuse(&frame, &m);
      if (rc == DW_OK) fail(f, m.code, "%s", m.text);
    } else if (rc == DW_OK && frame.h.type == MSG_FETCHED) {
      rc = on_fetched(f, &frame);
    }
    if (!rc) continue;
    dw_error_copy(why, sizeof why);
    fail(f, rc, "%s", why);
  }
}

void fetcher_eof(struct fetcher *f, const char *why) {
  fail(f, DW_IO, "%s", why && *why ? why : "it closed the connection without an answer: does it know how to repair?");
}

/* ---- for the driver ---------------------------------------------------------------------------- */

int fetcher_output(const struct fetcher *f, struct iovec *iov, int cap) {
  return outq_iov(&f->out, iov, cap);
}
void fetcher_drained(struct fetcher *f, size_t n) {
  outq_drained(&f->out, n);
}
enum fetch_state fetcher_state(const struct fetcher *f) {
  return f->state;
}

void fetcher_take(struct fetcher *f, struct wal_block ***blocks, size_t *n) {
  *blocks = f->blocks;
  *n = f->count;
  f->blocks = NULL;
  f->count = 0;
  f->state = FETCH_IDLE;
}

int fetcher_error(const struct fetcher *f, const char **text) {
  *text = f->text;
  return f->code;
}
