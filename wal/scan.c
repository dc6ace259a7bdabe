/* Walking a segment's frames: the one place that decides whether bytes on disk are a valid frame.
 *
 * A block that follows by its chain, but that only a newer version can read, is no end and no hole: it is an error.
 *
 * Reads go through a window of at least 256 KiB, so a walk costs few system calls. Nothing that a header claims is
 * believed beyond `limit`, so a lying length costs no more memory than the file has bytes.
 */
#include "wal/internal.h"

#define WINDOW_BYTES (512u << 10)

/* Page by page, so that one bad sector does not hide its neighbours. */
#define LENIENT_BYTES 4096u

static int read_leniently(struct frame_scan *s, uint64_t from, size_t want, size_t *got) {
  *got = 0;
  while (*got < want) {
    size_t n = want - *got < LENIENT_BYTES ? want - *got : LENIENT_BYTES, part = 0;
    int rc = s->env->ops->pread(s->file, from + *got, s->window.data + *got, n, &part);
    if (rc && rc != DW_IO) return rc;
    if (rc) memset(s->window.data + *got, 0, part = n);
    *got += part;
    if (part < n) break;
  }
  return DW_OK;
}

const uint8_t *frame_peek(struct frame_scan *s, size_t at, size_t n, int *rc) {
  *rc = DW_OK;
  uint64_t from = s->off + at;
  if (from > s->limit || n > s->limit - from) return NULL;
  if (from < s->window_off || from + n > s->window_off + s->window.len) {
    size_t want = n > WINDOW_BYTES ? n : WINDOW_BYTES;
    if (want > s->limit - from) want = (size_t)(s->limit - from);
    s->window.len = 0;
    *rc = buf_reserve(&s->window, want);
    size_t got = 0;
    if (*rc == DW_OK) *rc = s->env->ops->pread(s->file, from, s->window.data, want, &got);
    if (*rc == DW_IO && s->lenient) *rc = read_leniently(s, from, want, &got);
    if (*rc) return NULL;
    s->window.len = got;
    s->window_off = from;
    if (got < n) return NULL; /* the file is shorter than thought */
  }
  return s->window.data + (from - s->window_off);
}

static int none(struct frame_scan *s, enum frame_kind *kind) {
  *kind = FRAME_NONE;
  s->frame_off = s->off;
  return DW_OK;
}

static int next_mark(struct frame_scan *s, enum frame_kind *kind) {
  int rc;
  const uint8_t *p = frame_peek(s, 0, WAL_MARK_BYTES, &rc);
  if (rc) return rc;
  if (!p || !mark_decode(p, &s->mark) || s->mark.salt != s->salt || s->mark.lsn != s->pos.lsn ||
      !hash128_eq(&s->mark.chain, &s->pos.chain)) {
    dw_fail(DW_CORRUPT, "mark frame does not belong here");
    return none(s, kind);
  }
  s->frame_off = s->off;
  s->off += WAL_MARK_BYTES;
  *kind = FRAME_MARK;
  return DW_OK;
}

static int next_block(struct frame_scan *s, enum frame_kind *kind) {
  int rc;
  const uint8_t *p = frame_peek(s, 0, WAL_BLOCK_HEADER_BYTES, &rc);
  if (rc) return rc;
  if (!p) {
    dw_fail(DW_CORRUPT, "block header beyond the end of the file");
    return none(s, kind);
  }
  rc = block_header_decode(p, &s->h);
  if (rc == DW_UNSUPPORTED && get_u64(p + 24) == s->pos.lsn + 1 && block_chain_ok(p, &s->pos.chain))
    return dw_fail_prefix(rc, "%s: offset %llu, LSN %llu", s->path, (unsigned long long)s->off,
                          (unsigned long long)s->pos.lsn + 1);
  if (rc) return none(s, kind);
  if (s->h.first_lsn != s->pos.lsn + 1 || s->h.epoch < s->pos.epoch) {
    dw_fail(DW_CORRUPT, "block of LSN %llu, epoch %llu where LSN %llu is due", (unsigned long long)s->h.first_lsn,
            (unsigned long long)s->h.epoch, (unsigned long long)s->pos.lsn + 1);
    return none(s, kind);
  }
  if (!block_chain_ok(p, &s->pos.chain)) {
    dw_fail(DW_CORRUPT, "block of LSN %llu: chain hash mismatch", (unsigned long long)s->h.first_lsn);
    return none(s, kind);
  }
  size_t total = block_total_bytes(&s->h);
  p = frame_peek(s, 0, total, &rc);
  if (rc) return rc;
  if (!p) {
    dw_fail(DW_CORRUPT, "block of LSN %llu: %zu bytes reach beyond the end of the file",
            (unsigned long long)s->h.first_lsn, total);
    return none(s, kind);
  }
  if (block_payload_check(&s->h, p)) return none(s, kind);
  s->bytes = p;
  s->frame_off = s->off;
  s->off += total;
  s->pos = (struct wal_pos){block_last_lsn(&s->h), s->h.epoch, s->h.chain};
  *kind = FRAME_BLOCK;
  return DW_OK;
}

int frame_next(struct frame_scan *s, enum frame_kind *kind) {
  int rc;
  const uint8_t *p = frame_peek(s, 0, 8, &rc);
  if (rc) return rc;
  if (!p) {
    dw_fail(DW_CORRUPT, "end of the file");
    return none(s, kind);
  }
  if (get_u32(p) == WAL_MARK_MAGIC) return next_mark(s, kind);
  return next_block(s, kind);
}

void frame_scan_free(struct frame_scan *s) {
  buf_free(&s->window);
}
