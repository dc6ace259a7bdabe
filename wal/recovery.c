/* Recovery: what of the files is the log, and what may be cut.
 *
 * All segment headers must form a contiguous row. Frames are verified from the segment that holds must_reach (the
 * store's boundary) on; older ones are verified when they are read. The walk ends at the first place P where no valid
 * frame stands, with LSN E due. Then:
 *
 *   case  what is found                                                       what is done
 *   A     no segment at all, and the store holds nothing beyond the base      start at base
 *   B     nothing of ours behind P                                            go on at P
 *   C     a piece of block E at P, nothing valid behind it                    cut it, say how many bytes
 *   D     valid frames behind P, ANOTHER boot, E never known synced           cut from P: a power cut keeps any
 *                                                                             subset of unsynced sectors
 *   E     the store is ahead of the log's end, another boot                   start anew at the store's boundary
 *   X     no segment, but a store that holds more than the base: a log        refuse, change nothing
 *         always has a segment, so it is gone;
 *         E is known synced: a mark says so, or a later segment exists;
 *         or valid frames behind P in the SAME boot (the page cache has
 *         survived, so a completed write can't have vanished)
 *
 * Stale frames of a recycled file have lower LSNs than the segment's first (cutting zeroes, it never recycles), so
 * they are told from frames that followed E; look_behind says how images of blocks in users' values are.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/internal.h"

struct found_segment {
  dw_lsn first_lsn;
  uint64_t seq;
};

struct listing {
  struct wal *w;
  struct found_segment *found;
  size_t count, cap;
  char leftover[64]; /* a file that a crash left and that is of no use */
  int rc;
};

static int list_entry(void *arg, const char *name, bool is_dir) {
  struct listing *l = arg;
  struct found_segment f;
  uint64_t spare;
  if (is_dir) return 0;
  if (strcmp(name, "segment.tmp") == 0 || strcmp(name, WAL_REPAIR_TMP) == 0 ||
      (spare_name_parse(name, &spare) && l->w->spare_count == SPARES_MAX)) {
    snprintf(l->leftover, sizeof l->leftover, "%s", name);
    return 0;
  }
  if (spare_name_parse(name, &spare)) {
    if (spare >= l->w->next_spare) l->w->next_spare = spare + 1;
    size_t n = strlen(l->w->dir) + strlen(name) + 2;
    char *path = malloc(n);
    if (path) {
      snprintf(path, n, "%s/%s", l->w->dir, name);
      l->w->spares[l->w->spare_count++] = path;
    }
    return 0;
  }
  if (!segment_name_parse(name, &f.first_lsn, &f.seq)) return 0;
  if (l->count == l->cap) {
    size_t cap = l->cap ? 2 * l->cap : 64;
    struct found_segment *grown = realloc(l->found, cap * sizeof *grown);
    if (!grown) {
      l->rc = dw_fail_nomem(cap * sizeof *grown);
      return 1;
    }
    l->found = grown;
    l->cap = cap;
  }
  l->found[l->count++] = f;
  return 0;
}

/* Lists; removes leftovers one by one, since a directory is not changed while it is listed. */
static int list_directory(struct listing *l) {
  struct wal *w = l->w;
  for (;;) {
    l->count = 0;
    l->leftover[0] = '\0';
    while (w->spare_count) free(w->spares[--w->spare_count]);
    int rc = w->env->ops->list(w->env, w->dir, list_entry, l);
    if (rc == DW_OK) rc = l->rc;
    if (rc || !l->leftover[0]) return rc;
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/%s", w->dir, l->leftover);
    if (n < 0 || (size_t)n >= sizeof path) return dw_fail(DW_INVALID, "%s: path too long", w->dir);
    rc = w->env->ops->unlink(w->env, path);
    if (rc) return rc;
  }
}

static int by_seq(const void *a, const void *b) {
  const struct found_segment *x = a, *y = b;
  return x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* Spares of another size (segment_bytes was changed) or that can't be opened are of no use. */
static void check_spares(struct wal *w) {
  unsigned kept = 0;
  for (unsigned i = 0; i < w->spare_count; i++) {
    struct env_file *f;
    uint64_t size = 0;
    if (w->env->ops->open(w->env, w->spares[i], ENV_READ, &f) == DW_OK) {
      if (w->env->ops->size(f, &size)) size = 0;
      w->env->ops->close(f);
    }
    if (size == w->opt.segment_bytes) {
      w->spares[kept++] = w->spares[i];
    } else {
      (void)w->env->ops->unlink(w->env, w->spares[i]);
      free(w->spares[i]);
    }
  }
  w->spare_count = kept;
}

static int load_segment(struct wal *w, const struct found_segment *f, struct segment **out) {
  struct segment_header named = {.first_lsn = f->first_lsn, .seq = f->seq};
  struct segment *s = segment_alloc(w->dir, &named);
  if (!s) return DW_NO_MEMORY;
  uint8_t *bytes = malloc(WAL_SEGMENT_HEADER_BYTES);
  struct env_file *file = NULL;
  int rc = bytes ? w->env->ops->open(w->env, s->path, ENV_READ, &file) : dw_fail_nomem(WAL_SEGMENT_HEADER_BYTES);
  if (rc == DW_OK) rc = w->env->ops->size(file, &s->file_bytes);
  if (rc == DW_OK) rc = env_pread_exact(w->env, file, s->path, 0, bytes, WAL_SEGMENT_HEADER_BYTES);
  if (rc == DW_OK && (rc = segment_header_decode(bytes, &s->h))) dw_fail_prefix(rc, "%s", s->path);
  if (rc == DW_OK && (s->h.first_lsn != f->first_lsn || s->h.seq != f->seq))
    rc = dw_fail(DW_CORRUPT, "%s: its header says LSN %llu, number %llu", s->path, (unsigned long long)s->h.first_lsn,
                 (unsigned long long)s->h.seq);
  if (rc == DW_OK && !hash128_eq(&s->h.cluster_id, &w->opt.cluster_id)) {
    char theirs[33], ours[33];
    hash128_hex(&s->h.cluster_id, theirs);
    hash128_hex(&w->opt.cluster_id, ours);
    rc = dw_fail(DW_DIVERGED, "%s: belongs to cluster %s, this directory to %s", s->path, theirs, ours);
  }
  if (file) w->env->ops->close(file);
  free(bytes);
  if (rc) {
    segment_free(w, s);
    return rc;
  }
  s->end_pos = segment_start(&s->h);
  s->marked = s->h.first_lsn - 1;
  s->last_append_ns = w->env->ops->mono_ns(w->env);
  *out = s;
  return DW_OK;
}

/* Removes segments [0, n): remains of a trim whose removals did not all reach the disk. */
static int drop_segments(struct wal *w, size_t n) {
  int rc = DW_OK;
  for (size_t i = 0; i < n; i++) {
    if (rc == DW_OK) rc = w->env->ops->unlink(w->env, w->segments[i]->path);
    segment_free(w, w->segments[i]);
  }
  memmove(w->segments, w->segments + n, (w->count - n) * sizeof *w->segments);
  w->count -= n;
  return rc || n == 0 ? rc : w->env->ops->sync_dir(w->env, w->dir);
}

/* The contiguous row that ends with the newest segment. */
static int load_segments(struct wal *w) {
  struct listing l = {.w = w};
  int rc = list_directory(&l);
  if (l.count) qsort(l.found, l.count, sizeof *l.found, by_seq);
  for (size_t i = 0; rc == DW_OK && i < l.count; i++) {
    struct segment *s = NULL;
    rc = load_segment(w, &l.found[i], &s);
    if (rc == DW_OK && (rc = segment_push(w, s))) segment_free(w, s);
  }
  free(l.found);
  if (rc) return rc;
  size_t first = w->count ? w->count - 1 : 0;
  while (first > 0 && w->segments[first - 1]->h.seq + 1 == w->segments[first]->h.seq &&
         w->segments[first - 1]->h.first_lsn <= w->segments[first]->h.first_lsn)
    first--;
  if (first == 0) return DW_OK;
  if (segment_start(&w->segments[first]->h).lsn > w->opt.must_reach.lsn)
    return dw_fail(DW_CORRUPT, "%s: a segment is missing before this one: LSN %llu to %llu are gone",
                   w->segments[first]->path, (unsigned long long)w->opt.must_reach.lsn + 1,
                   (unsigned long long)w->segments[first]->h.first_lsn - 1);
  return drop_segments(w, first);
}

/* ---- the walk -------------------------------------------------------------------------------- */

/* What was met on the way. */
struct walk {
  struct wal_recovery *rec;
  dw_lsn known_durable; /* by marks of the last segment and by its existence */
  uint8_t boot_id[16];  /* of the boot that wrote last */
  bool reached;         /* must_reach was met as a boundary */
  bool record_unproven; /* of the last segment: an epoch record stands where no mark says that it was synced */
};

static void check_reached(const struct wal *w, struct walk *walk, const struct wal_pos *pos) {
  const struct wal_pos *m = &w->opt.must_reach;
  if (pos->lsn == m->lsn && hash128_eq(&pos->chain, &m->chain)) walk->reached = true;
}

static int walk_segment(struct wal *w, struct segment *s, struct frame_scan *scan, struct walk *walk) {
  dw_lsn record = 0; /* LSN of the last epoch record */
  walk->known_durable = s->h.first_lsn - 1;
  walk->record_unproven = false;
  memcpy(walk->boot_id, s->h.boot_id, 16);
  check_reached(w, walk, &scan->pos);
  for (;;) {
    struct wal_pos before = scan->pos;
    uint64_t off = scan->off;
    enum frame_kind kind;
    int rc = frame_next(scan, &kind);
    if (rc) return rc;
    if (kind == FRAME_NONE) break;
    if (kind == FRAME_MARK) {
      if (scan->mark.durable_lsn > walk->known_durable) {
        walk->known_durable = scan->mark.durable_lsn;
        if (walk->known_durable > record) walk->record_unproven = false;
      }
      s->marked = walk->known_durable;
      memcpy(walk->boot_id, scan->mark.boot_id, 16);
      continue;
    }
    rc = segment_index_add(s, off, &before);
    if (rc) return rc;
    check_reached(w, walk, &scan->pos);
    if (scan->h.kind == BLOCK_EPOCH) {
      record = scan->pos.lsn;
      walk->record_unproven = true;
    }
    walk->rec->blocks++;
    if (scan->h.commit_lsn > walk->rec->max_commit_lsn) walk->rec->max_commit_lsn = scan->h.commit_lsn;
  }
  s->end = s->synced = scan->off;
  s->end_pos = scan->pos;
  s->end_known = true;
  walk->rec->segments++;
  walk->rec->scanned_bytes += s->end;
  return DW_OK;
}

/* ---- behind the end --------------------------------------------------------------------------- */

/* Chain hashes that block E may have had, judging by what is left of it at P. */
struct candidates {
  struct hash128 chain[3];
};

/* Is there a block here that was written after E? Skips over it if so. *proven: by its chain. */
static int look_for_block(struct frame_scan *s, const uint8_t *p, const struct candidates *c, struct behind *b,
                          bool *skip, bool *proven) {
  struct block_header h;
  int rc = DW_OK;
  *skip = false;
  if (get_u32(p) != WAL_BLOCK_MAGIC || block_header_decode(p, &h) || h.first_lsn <= s->pos.lsn ||
      h.epoch < s->pos.epoch)
    return DW_OK;
  bool chained = false;
  for (size_t i = 0; i < 3; i++) chained |= block_chain_ok(p, &c->chain[i]);
  size_t total = block_total_bytes(&h);
  p = frame_peek(s, 0, total, &rc);
  if (rc || !p || block_payload_check(&h, p)) return rc;
  b->valid_blocks++;
  s->off += total;
  b->last_valid_end = s->off;
  *skip = true;
  *proven |= chained;
  return DW_OK;
}

/* Follows the chain from P over whole headers, whatever became of their payloads: what stands inside a block's stated
 * length is a user's data, not frames. Ends at the first header that does not follow. */
static int follow_headers(struct frame_scan *s, struct behind *b, bool *proven) {
  const uint64_t start = s->off;
  for (bool first = true;; first = false) {
    enum frame_kind kind;
    int rc;
    const uint8_t *p = frame_peek(s, 0, WAL_BLOCK_HEADER_BYTES, &rc);
    struct block_header h;
    if (rc) return rc;
    if (!first) {
      rc = frame_next(s, &kind);
      if (rc) return rc;
      if (kind != FRAME_NONE) { /* this followed E: the chain, or the salt and the chain, say so */
        *proven = true;
        b->valid_blocks += kind == FRAME_BLOCK;
        b->valid_marks |= kind == FRAME_MARK;
        if (kind == FRAME_MARK && s->mark.durable_lsn > b->known_durable) b->known_durable = s->mark.durable_lsn;
        b->last_valid_end = s->off;
        continue;
      }
      p = frame_peek(s, 0, WAL_BLOCK_HEADER_BYTES, &rc);
      if (rc) return rc;
    }
    if (!p || get_u32(p) != WAL_BLOCK_MAGIC || block_header_decode(p, &h) || h.first_lsn != s->pos.lsn + 1 ||
        !block_chain_ok(p, &s->pos.chain))
      return DW_OK;
    uint64_t total = block_total_bytes(&h), left = s->limit - s->off;
    s->off += total < left ? total : left;
    s->pos = (struct wal_pos){block_last_lsn(&h), h.epoch, h.chain};
    b->torn_bytes = s->off - start; /* its payload, too, may hold what looks like frames: none of it may stay */
  }
}

static int look_on(struct frame_scan *s, const struct candidates *c, struct behind *b, bool *proven) {
  int rc;
  while (s->off + 8 <= s->limit) {
    const uint8_t *p = frame_peek(s, 0, 8, &rc);
    if (rc) return rc;
    if (!p) break;
    bool skip = false;
    struct mark_frame m;
    uint32_t magic = get_u32(p);
    if (magic == WAL_MARK_MAGIC && (p = frame_peek(s, 0, WAL_MARK_BYTES, &rc)) && mark_decode(p, &m) &&
        m.salt == s->salt && m.lsn > s->pos.lsn) {
      b->valid_marks = true;
      if (m.durable_lsn > b->known_durable) b->known_durable = m.durable_lsn;
      b->last_valid_end = s->off + WAL_MARK_BYTES;
    } else if (magic == WAL_BLOCK_MAGIC && (p = frame_peek(s, 0, WAL_BLOCK_HEADER_BYTES, &rc))) {
      rc = look_for_block(s, p, c, b, &skip, proven);
    }
    if (rc) return rc;
    if (!skip) s->off += 8;
  }
  return DW_OK;
}

/* Frames behind P are proven to have followed E by the chain or by the segment's salt. A block that is merely valid and
 * has a higher LSN proves it in a file that was zeroes before; a recycled one may hold such blocks as users' values. */
int look_behind(struct frame_scan *s, struct behind *b) {
  memset(b, 0, sizeof *b);
  const uint64_t end = s->off;
  const struct wal_pos pos = s->pos;
  bool proven = false;
  int rc = follow_headers(s, b, &proven);
  if (rc) return rc;
  const uint8_t *p = frame_peek(s, 0, WAL_BLOCK_HEADER_BYTES, &rc);
  if (rc) return rc;
  struct candidates c = {{s->pos.chain, s->pos.chain, s->pos.chain}};
  if (p) {
    memcpy(c.chain[1].b, p + 96, 16);                     /* if it rotted elsewhere */
    c.chain[2] = hash128_pair(s->pos.chain.b, 16, p, 96); /* if it rotted there */
    struct block_header h;
    if (s->off == end && get_u32(p) == WAL_BLOCK_MAGIC && block_header_decode(p, &h) && get_u64(p + 24) == pos.lsn + 1)
      b->torn_bytes = WAL_BLOCK_HEADER_BYTES;
  }
  rc = look_on(s, &c, b, &proven);
  b->follows = b->valid_marks || (b->valid_blocks && (proven || !segment_recycled(s->salt)));
  s->off = end;
  s->pos = pos;
  s->window.len = 0;
  return rc;
}

static int refuse(const struct segment *s, const struct frame_scan *scan, const char *why) {
  return dw_fail(DW_CORRUPT, "%s: offset %llu, LSN %llu: %s; nothing was changed", s->path,
                 (unsigned long long)scan->off, (unsigned long long)scan->pos.lsn + 1, why);
}

/* Has the store applied what the log does not hold? An epoch record has no LSN of its own. */
static bool store_ahead(const struct wal *w, const struct wal_pos *end) {
  const struct wal_pos *m = &w->opt.must_reach;
  return m->lsn > end->lsn || (m->lsn == end->lsn && m->epoch > end->epoch);
}

static int classify(struct wal *w, struct segment *s, const struct frame_scan *scan, const struct walk *walk,
                    const struct behind *b, struct wal_recovery *rec) {
  static const uint8_t unknown[16];
  bool same_boot = memcmp(w->boot_id, unknown, 16) != 0 && memcmp(w->boot_id, walk->boot_id, 16) == 0;
  dw_lsn durable = walk->known_durable > b->known_durable ? walk->known_durable : b->known_durable;
  /* After a power cut what merely looks as if it followed is cut too: nothing there was ever known synced. */
  bool follows = b->follows || (!same_boot && b->valid_blocks);
  if (durable > scan->pos.lsn) return refuse(s, scan, "corrupt: this block was synced, it is no torn write");
  if (follows && same_boot)
    return refuse(s, scan, "corrupt: valid blocks follow, and the machine has not restarted since they were written");
  if (same_boot && store_ahead(w, &scan->pos))
    return refuse(s, scan, "corrupt: the store has applied more, and the machine has not restarted since");
  rec->which = follows ? WAL_REC_TORN_POWER : b->torn_bytes ? WAL_REC_TORN : WAL_REC_CLEAN;
  rec->torn_blocks = follows ? b->valid_blocks : 0;
  rec->torn_bytes = b->torn_bytes;
  if (follows && b->last_valid_end > scan->off + rec->torn_bytes) rec->torn_bytes = b->last_valid_end - scan->off;
  return DW_OK;
}

/* ---- acting ---------------------------------------------------------------------------------- */

static int start_fresh(struct wal *w, const struct wal_pos *pos, uint64_t seq) {
  struct segment *s;
  int rc = segment_create(w, pos, seq, 0, &s);
  if (rc) return rc;
  rc = segment_push(w, s);
  if (rc) segment_free(w, s);
  return rc;
}

/* The boot of this log's last writer has not ended, as far as we know. */
static bool boot_goes_on(const struct wal *w, const struct walk *walk) {
  return memcmp(w->boot_id, walk->boot_id, 16) == 0;
}

/* Writes again what no mark says was synced: the process before us may have stopped because an fdatasync failed. The
 * kernel then calls the pages clean, whether the disk has them or not; they can still be read, and a second fdatasync
 * succeeds without writing anything. Only pages that are dirty again make it tell the truth. Marks tell LSNs, and an
 * epoch record has that of the commit before it: it counts as synced only if a mark tells of a later commit. */
static int write_again(struct wal *w, const struct segment *s, dw_lsn durable) {
  uint64_t at = WAL_SEGMENT_HEADER_BYTES;
  for (size_t i = 0; i < s->index_count && s->index[i].pos.lsn < durable; i++) at = s->index[i].off;
  uint8_t *chunk = malloc(ZERO_CHUNK);
  int rc = chunk ? DW_OK : dw_fail_nomem(ZERO_CHUNK);
  while (rc == DW_OK && at < s->end) {
    size_t n = s->end - at < ZERO_CHUNK ? (size_t)(s->end - at) : ZERO_CHUNK;
    rc = env_pread_exact(w->env, s->file, s->path, at, chunk, n);
    if (rc == DW_OK) rc = env_pwrite(w->env, s->file, at, chunk, n);
    at += n;
  }
  free(chunk);
  return rc;
}

/* Zeroes what is cut and makes durable what is kept, the segment's name included. */
static int settle_last(struct wal *w, struct segment *s, uint64_t cut_bytes, const struct walk *walk) {
  int rc = w->env->ops->open(w->env, s->path, ENV_WRITE, &s->file);
  if (rc == DW_OK && boot_goes_on(w, walk) && (walk->known_durable < s->end_pos.lsn || walk->record_unproven))
    rc = write_again(w, s, walk->known_durable);
  if (rc == DW_OK && cut_bytes) rc = zero_range(w->env, s->file, s->end, s->end + cut_bytes);
  if (rc == DW_OK) rc = w->env->ops->fdatasync(s->file);
  /* A process that died between a rename and its sync left a name that a power cut would take back. */
  if (rc == DW_OK) rc = w->env->ops->sync_dir(w->env, w->dir);
  return rc;
}

static void report(struct wal *w, const struct segment *s, const struct wal_recovery *rec) {
  switch (rec->which) {
  case WAL_REC_TORN:
    wal_say(w, LOG_LEVEL_WARN, "log recovery, case C: %s ends with a torn block: cut %llu bytes behind LSN %llu",
            s->path, (unsigned long long)rec->torn_bytes, (unsigned long long)rec->end.lsn);
    break;
  case WAL_REC_TORN_POWER:
    wal_say(
        w, LOG_LEVEL_WARN,
        "log recovery, case D: power cut: %s has a hole behind LSN %llu: cut %llu bytes, %llu whole blocks among them, "
        "none of them ever synced",
        s->path, (unsigned long long)rec->end.lsn, (unsigned long long)rec->torn_bytes,
        (unsigned long long)rec->torn_blocks);
    break;
  default: break;
  }
}

/* Case E: nothing of the log is of use any more: what it lacks stands between it and the store. The new segment comes
 * first, so that a crash on the way never leaves a directory without one (that would look as if the log were gone); its
 * number leaves a gap, so that what is left of the old ones does not seem to continue in it. */
static int restart_at_store(struct wal *w, struct wal_recovery *rec) {
  uint64_t seq = last_segment(w)->h.seq + 2;
  wal_say(
      w, LOG_LEVEL_WARN,
      "log recovery, case E: power cut: the store holds LSN %llu, the log ends at LSN %llu: the log starts anew there, "
      "followers that are behind need a checkpoint",
      (unsigned long long)w->opt.must_reach.lsn, (unsigned long long)rec->end.lsn);
  int rc = start_fresh(w, &w->opt.must_reach, seq);
  if (rc == DW_OK) rc = drop_segments(w, w->count - 1);
  rec->which = WAL_REC_STORE_AHEAD;
  return rc;
}

/* Walks segments [first, count) and decides about the end. */
static int walk_log(struct wal *w, size_t first, struct wal_recovery *rec, struct walk *walk) {
  int rc = DW_OK;
  for (size_t i = first; rc == DW_OK && i < w->count; i++) {
    struct segment *s = w->segments[i];
    struct frame_scan scan = {.env = w->env,
                              .path = s->path,
                              .off = WAL_SEGMENT_HEADER_BYTES,
                              .limit = s->file_bytes,
                              .pos = segment_start(&s->h),
                              .salt = s->h.salt};
    rc = w->env->ops->open(w->env, s->path, ENV_READ, &scan.file);
    if (rc == DW_OK) rc = walk_segment(w, s, &scan, walk);
    if (rc == DW_OK && i + 1 < w->count) {
      const struct segment_header *next = &w->segments[i + 1]->h;
      if (scan.pos.lsn != next->first_lsn - 1 || scan.pos.epoch != next->epoch ||
          !hash128_eq(&scan.pos.chain, &next->prev_chain))
        rc = refuse(s, &scan, "corrupt: a later segment exists, so this was synced");
    } else if (rc == DW_OK) {
      struct behind b;
      rc = look_behind(&scan, &b);
      if (rc == DW_OK) rc = classify(w, s, &scan, walk, &b, rec);
    }
    if (scan.file) w->env->ops->close(scan.file);
    frame_scan_free(&scan);
  }
  return rc;
}

static void count_bytes(struct wal *w, size_t first) {
  uint64_t base = 0;
  for (size_t i = 0; i < w->count; i++) {
    struct segment *s = w->segments[i];
    s->base_bytes = base;
    if (i < first) { /* not walked: it ends where the next begins */
      s->end_known = false;
      s->end = s->synced = s->file_bytes;
      s->end_pos = segment_start(&w->segments[i + 1]->h);
    }
    if (i + 1 < w->count) s->rolled = true;
    base += s->end - WAL_SEGMENT_HEADER_BYTES;
  }
}

static int other_history(const struct wal *w) {
  return dw_fail(DW_DIVERGED, "%s: the store stands at LSN %llu of another history than this log", w->dir,
                 (unsigned long long)w->opt.must_reach.lsn);
}

static int recover(struct wal *w, struct wal_recovery *rec) {
  int rc = load_segments(w);
  if (rc) return rc;
  check_spares(w);
  const struct wal_pos *reach = &w->opt.must_reach;
  bool nothing_yet = reach->lsn == 0 && hash128_zero(&reach->chain); /* a new store's marker */
  if (w->count == 0 && wal_pos_before(&w->opt.base, reach)) {
    rec->which = WAL_REC_CORRUPT;
    return dw_fail(DW_CORRUPT, "%s: no segment is here, but the store holds LSN %llu: the log is gone", w->dir,
                   (unsigned long long)reach->lsn);
  }
  if (w->count == 0 && !nothing_yet && reach->lsn == w->opt.base.lsn && !hash128_eq(&reach->chain, &w->opt.base.chain))
    return other_history(w);
  if (w->count == 0) {
    rec->which = WAL_REC_EMPTY;
    rc = start_fresh(w, &w->opt.base, 1);
    w->durable_lsn = w->opt.base.lsn;
    rec->end = w->opt.base;
    return rc;
  }
  size_t first = w->count - 1;
  while (first > 0 && segment_start(&w->segments[first]->h).lsn >= reach->lsn) first--;
  struct walk walk = {.rec = rec};
  rc = walk_log(w, first, rec, &walk);
  if (rc) {
    rec->which = WAL_REC_CORRUPT;
    return rc;
  }
  count_bytes(w, first);
  struct segment *last = last_segment(w);
  rec->end = last->end_pos;
  if (store_ahead(w, &rec->end)) {
    rc = restart_at_store(w, rec);
  } else if (reach->lsn >= segment_start(&w->segments[0]->h).lsn && !walk.reached) {
    return other_history(w);
  } else {
    report(w, last, rec);
    rc = settle_last(w, last, rec->torn_bytes, &walk);
  }
  if (rc) return rc;
  last = last_segment(w);
  rec->end = last->end_pos;
  w->durable_lsn = rec->end.lsn;
  dw_lsn oldest = segment_start(&w->segments[0]->h).lsn;
  rec->oldest_lsn = rec->end.lsn > oldest ? oldest + 1 : 0;
  return rc;
}

int wal_recover(struct wal *w, struct wal_recovery *rec) {
  int rc = recover(w, rec);
  if (rc == DW_OK) w->newest = last_segment(w);
  return rc;
}
