/* Rebuilding a damaged segment. repair.h says when a hole counts as filled.
 *
 *   old file   | header | 1 2 3 | ####### | 7 8 | ## | 9 |          scan: where we stand in it, and the boundary
 * reached new file   | header | 1 2 3 | 4 5 6 m | 7 8 | m' | 9 |          out: written so far given           made
 *
 * Within a hole the boundary moves with the blocks given, the place in the old file does not. A survivor joins when it
 * chains from the boundary, and when the room that is left before it is exactly that of lost marks: the bytes between
 * two frames never were anything else. One that the new file has grown over, or that does not join at its LSN, was none
 * of ours.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/internal.h"

#define OUT_BYTES (1u << 20)

struct wal_repair {
  struct env *env;
  struct wal *live;
  uint64_t truncations; /* of the log in use when we began */
  struct wal_damage d;
  bool rehearse, done, hole, open_end;
  char *path, *tmp;
  struct frame_scan scan;
  struct survivor next; /* of the present hole */
  struct env_file *out;
  uint64_t out_off; /* offset behind what was put out */
  struct buf pending;
  uint8_t boot_id[16];
  uint64_t blocks, bytes;
};

/* ---- the new file --------------------------------------------------------------------------------- */

static int flush(struct wal_repair *r) {
  size_t n = r->pending.len;
  int rc = n ? env_pwrite(r->env, r->out, r->out_off - n, r->pending.data, n) : DW_OK;
  r->pending.len = 0;
  return rc;
}

static int put(struct wal_repair *r, const void *bytes, size_t n) {
  r->out_off += n;
  if (r->rehearse) return DW_OK;
  int rc = buf_append(&r->pending, bytes, n);
  if (rc == DW_OK && r->pending.len >= OUT_BYTES) rc = flush(r);
  return rc;
}

/* A mark in place of a lost one. True by the time anybody can read it: the file gets its name after its sync. */
static int put_mark(struct wal_repair *r) {
  struct mark_frame m = {.durable_lsn = r->scan.pos.lsn,
                         .salt = r->d.h.salt,
                         .lsn = r->scan.pos.lsn,
                         .chain = r->scan.pos.chain,
                         .wall_ns = r->env->ops->wall_ns(r->env)};
  uint8_t bytes[WAL_MARK_BYTES];
  memcpy(m.boot_id, r->boot_id, 16);
  mark_encode(&m, bytes);
  return put(r, bytes, sizeof bytes);
}

/* What stands behind the end of the newest segment is recovery's to judge: kept as it is. */
static int copy_rest(struct wal_repair *r) {
  int rc = DW_OK;
  r->scan.lenient = false; /* zeros in place of what can't be read would pass for the end of the log */
  r->scan.window.len = 0;
  while (rc == DW_OK && r->scan.off < r->scan.limit) {
    uint64_t left = r->scan.limit - r->scan.off;
    size_t n = left < OUT_BYTES / 2 ? (size_t)left : OUT_BYTES / 2;
    const uint8_t *p = frame_peek(&r->scan, 0, n, &rc);
    if (!p) break;
    rc = put(r, p, n);
    r->scan.off += n;
  }
  return rc;
}

/* ---- walking ---------------------------------------------------------------------------------------- */

static bool at_end(const struct wal_repair *r) {
  return r->d.end_known && r->scan.pos.lsn == r->d.end.lsn && hash128_eq(&r->scan.pos.chain, &r->d.end.chain);
}

static int misfit(const struct wal_repair *r, const char *why) {
  return dw_fail(DW_DIVERGED, "%s: behind LSN %llu: %s", r->d.name, (unsigned long long)r->scan.pos.lsn, why);
}

static int next_survivor(struct wal_repair *r, uint64_t from) {
  int rc = survivor_find(&r->scan, from, &r->d, &r->next);
  if (rc == DW_OK && !r->next.found && !r->d.end_known)
    return misfit(r, "the blocks given do not lead to what stands behind the hole");
  return rc;
}

static int joins(struct wal_repair *r, bool *yes) {
  const struct survivor *n = &r->next;
  int rc = DW_OK;
  *yes = false;
  if ((n->off - r->out_off) % WAL_MARK_BYTES) return DW_OK;
  if (n->mark) {
    *yes = n->pos.lsn == r->scan.pos.lsn && hash128_eq(&n->pos.chain, &r->scan.pos.chain);
    return DW_OK;
  }
  const uint8_t *p = frame_peek(&r->scan, n->off - r->scan.off, WAL_BLOCK_HEADER_BYTES, &rc);
  *yes = p && n->upto == r->scan.pos.lsn && block_chain_ok(p, &r->scan.pos.chain);
  return rc;
}

/* In a hole: is it filled? */
static int try_join(struct wal_repair *r) {
  bool yes = false;
  if (r->open_end || (r->d.end_known && !r->next.found)) {
    r->open_end = true;
    r->done = at_end(r);
    r->hole = !r->done;
    return DW_OK;
  }
  while (r->next.found && r->out_off > r->next.off) { /* it stands where a block of ours belongs */
    int rc = next_survivor(r, (r->out_off + 7) & ~7ull);
    if (rc) return rc;
  }
  if (!r->next.found) return try_join(r);
  int rc = joins(r, &yes);
  if (rc || !yes) return rc;
  while (rc == DW_OK && r->out_off < r->next.off) rc = put_mark(r);
  r->scan.off = r->next.off;
  r->hole = false;
  return rc;
}

/* From valid frame to valid frame, up to the next hole or the end. */
static int advance(struct wal_repair *r) {
  int rc = DW_OK;
  while (rc == DW_OK && !r->hole && !r->done) {
    enum frame_kind kind;
    uint8_t mark[WAL_MARK_BYTES];
    if (!r->d.newest && at_end(r)) {
      r->done = true;
      break;
    }
    rc = frame_next(&r->scan, &kind);
    if (rc) return rc;
    if (kind == FRAME_BLOCK) {
      rc = put(r, r->scan.bytes, block_total_bytes(&r->scan.h));
    } else if (kind == FRAME_MARK) {
      mark_encode(&r->scan.mark, mark);
      rc = put(r, mark, sizeof mark);
    } else {
      rc = hole_survivor(&r->scan, &r->d, &r->next);
      if (rc) return rc;
      r->hole = r->next.found || (r->d.end_known && !at_end(r));
      r->done = !r->hole;
      rc = r->hole ? try_join(r) : copy_rest(r);
    }
  }
  return rc;
}

/* ---- life --------------------------------------------------------------------------------------------- */

static char *in_dir(const char *dir, const char *name) {
  size_t n = strlen(dir) + strlen(name) + 2;
  char *path = malloc(n);
  if (path) snprintf(path, n, "%s/%s", dir, name);
  return path;
}

static int create_file(struct wal_repair *r) {
  uint8_t *header = malloc(WAL_SEGMENT_HEADER_BYTES);
  int rc = header ? DW_OK : dw_fail_nomem(WAL_SEGMENT_HEADER_BYTES);
  uint64_t bytes = r->d.file_bytes > r->d.h.segment_bytes ? r->d.file_bytes : r->d.h.segment_bytes;
  if (rc == DW_OK) rc = r->env->ops->open(r->env, r->tmp, ENV_CREATE, &r->out);
  if (rc == DW_OK) rc = r->env->ops->truncate(r->out, 0);
  if (rc == DW_OK) rc = r->env->ops->allocate(r->out, bytes);
  if (rc == DW_OK) {
    segment_header_encode(&r->d.h, header);
    rc = env_pwrite(r->env, r->out, 0, header, WAL_SEGMENT_HEADER_BYTES);
  }
  free(header);
  return rc;
}

int wal_repair_start(struct env *env, const char *dir, const struct wal_damage *d, struct wal *live, bool rehearse,
                     struct wal_repair **out) {
  if (d->hopeless[0]) return dw_fail(DW_CORRUPT, "%s: %s", d->name, d->hopeless);
  struct wal_repair *r = calloc(1, sizeof *r);
  if (!r) return dw_fail_nomem(sizeof *r);
  r->env = env;
  r->live = live;
  r->d = *d;
  r->rehearse = rehearse;
  r->out_off = WAL_SEGMENT_HEADER_BYTES;
  if (!env->ops->boot_id(env, r->boot_id)) memset(r->boot_id, 0, 16);
  r->path = in_dir(dir, d->name);
  r->tmp = in_dir(dir, WAL_REPAIR_TMP);
  r->scan = (struct frame_scan){.env = env,
                                .lenient = true,
                                .path = r->path,
                                .off = WAL_SEGMENT_HEADER_BYTES,
                                .limit = d->file_bytes,
                                .pos = segment_start(&d->h),
                                .salt = d->h.salt};
  if (live) {
    pthread_mutex_lock(&live->mu);
    r->truncations = live->truncations;
    pthread_mutex_unlock(&live->mu);
  }
  int rc = r->path && r->tmp ? env->ops->open(env, r->path, ENV_READ, &r->scan.file) : dw_fail_nomem(strlen(dir));
  if (rc == DW_OK && !rehearse) rc = create_file(r);
  if (rc == DW_OK) rc = advance(r);
  if (rc) {
    char why[400];
    dw_error_copy(why, sizeof why);
    wal_repair_free(r);
    return dw_fail(rc, "%s", why);
  }
  *out = r;
  return DW_OK;
}

void wal_repair_free(struct wal_repair *r) {
  if (!r) return;
  if (r->out) {
    r->env->ops->close(r->out);
    (void)r->env->ops->unlink(r->env, r->tmp);
  }
  if (r->scan.file) r->env->ops->close(r->scan.file);
  frame_scan_free(&r->scan);
  buf_free(&r->pending);
  free(r->path);
  free(r->tmp);
  free(r);
}

void wal_repair_counts(const struct wal_repair *r, uint64_t *blocks, uint64_t *bytes) {
  *blocks = r->blocks;
  *bytes = r->bytes;
}

/* ---- filling ------------------------------------------------------------------------------------------- */

int wal_repair_need(struct wal_repair *r, struct wal_pos *from, dw_lsn *upto) {
  if (r->done) return dw_fail(DW_NOT_FOUND, "%s: nothing is missing", r->d.name);
  *from = r->scan.pos;
  *upto = r->open_end ? r->d.end.lsn : r->next.upto;
  return DW_OK;
}

static int give_one(struct wal_repair *r, const struct wal_block *b) {
  const struct block_header *h = &b->h;
  if (h->first_lsn != r->scan.pos.lsn + 1 || h->epoch < r->scan.pos.epoch ||
      !block_chain_ok(b->bytes, &r->scan.pos.chain))
    return misfit(r, "the block given does not continue the log");
  int rc = block_payload_check(h, b->bytes);
  if (rc == DW_OK && r->d.end_known && block_last_lsn(h) > r->d.end.lsn)
    rc = misfit(r, "the block given reaches beyond what is missing");
  if (rc == DW_OK) rc = put(r, b->bytes, block_total_bytes(h));
  if (rc) return rc;
  r->scan.pos = (struct wal_pos){block_last_lsn(h), h->epoch, h->chain};
  r->blocks++;
  r->bytes += block_total_bytes(h);
  return try_join(r);
}

int wal_repair_give(struct wal_repair *r, struct wal_block **blocks, size_t n) {
  int rc = DW_OK;
  if (n == 0 && r->hole) {
    if (r->open_end) return misfit(r, "the peer has nothing that leads on");
    rc = next_survivor(r, r->next.off + 8); /* this one was none of ours */
    return rc ? rc : try_join(r);
  }
  for (size_t i = 0; rc == DW_OK && r->hole && i < n; i++) rc = give_one(r, blocks[i]);
  return rc ? rc : advance(r);
}

/* The new file once more, from the disk's point of view: it must have no hole. */
static int check_result(struct wal_repair *r) {
  struct frame_scan s = {.env = r->env,
                         .path = r->tmp,
                         .file = r->out,
                         .off = WAL_SEGMENT_HEADER_BYTES,
                         .pos = segment_start(&r->d.h),
                         .salt = r->d.h.salt};
  struct wal_damage d = r->d;
  d.holes = d.kept_blocks = 0;
  int rc = r->env->ops->size(r->out, &s.limit);
  if (rc == DW_OK) rc = damage_walk(&s, &d);
  if (rc == DW_OK && (d.holes || d.hopeless[0])) rc = misfit(r, "the rebuilt file is not whole");
  frame_scan_free(&s);
  return rc;
}

int wal_repair_finish(struct wal_repair *r) {
  if (!r->done) return dw_fail(DW_INVALID, "%s: blocks are still missing", r->d.name);
  if (r->rehearse) return DW_OK;
  int rc = flush(r);
  if (rc == DW_OK) rc = r->env->ops->fdatasync(r->out);
  if (rc == DW_OK) rc = check_result(r);
  if (rc) return rc;
  uint64_t end = r->out_off;
  if (r->live) return segment_replace(r->live, &r->d, r->truncations, r->tmp, end);
  char *dir = strdup(r->path);
  if (!dir) return dw_fail_nomem(strlen(r->path));
  *strrchr(dir, '/') = 0;
  rc = r->env->ops->rename(r->env, r->tmp, r->path);
  if (rc == DW_OK) {
    r->env->ops->close(r->out); /* its name is the segment's from here on */
    r->out = NULL;
    rc = r->env->ops->sync_dir(r->env, dir);
  }
  free(dir);
  return rc;
}
