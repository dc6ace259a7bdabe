/* Finding damage: walking segments that may have holes. Sectors that the disk can't read any more are holes, too.
 *
 * A walk goes from valid frame to valid frame. Where none stands, it looks behind for a survivor: something of ours
 * that was written later. What is between is a hole. The walk takes the first survivor at its word, so that it can say
 * how far the damage reaches; rebuilding (repair.c) believes none before the chain has joined it.
 *
 * A segment is whole if its blocks lead to the boundary where the next one starts. The newest has no next one: there a
 * place without a valid frame and without survivors is the end of the log, unless the store is known to be beyond it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/internal.h"

static bool same_place(const struct wal_pos *a, const struct wal_pos *b) {
  return a->lsn == b->lsn && hash128_eq(&a->chain, &b->chain);
}

/* ---- behind a hole ------------------------------------------------------------------------------ */

/* Bytes at s->off that are known to be no frames: the payload of a block whose own header is whole and in its place. */
static int own_payload(struct frame_scan *s, uint64_t *skip) {
  struct block_header h;
  int rc;
  *skip = 8;
  const uint8_t *p = frame_peek(s, 0, WAL_BLOCK_HEADER_BYTES, &rc);
  if (p && get_u32(p) == WAL_BLOCK_MAGIC && block_header_decode(p, &h) == DW_OK && h.first_lsn == s->pos.lsn + 1 &&
      block_chain_ok(p, &s->pos.chain))
    *skip = block_total_bytes(&h);
  return rc;
}

static int block_survived(struct frame_scan *s, uint64_t at, const struct wal_damage *d, struct survivor *out) {
  struct block_header h;
  int rc;
  const uint8_t *p = frame_peek(s, at - s->off, WAL_BLOCK_HEADER_BYTES, &rc);
  if (!p || block_header_decode(p, &h) || h.first_lsn <= s->pos.lsn || h.epoch < s->pos.epoch) return rc;
  if (d->end_known && !d->newest && block_last_lsn(&h) > d->end.lsn) return DW_OK;
  p = frame_peek(s, at - s->off, block_total_bytes(&h), &rc);
  if (!p || block_payload_check(&h, p)) return rc;
  *out = (struct survivor){.found = true,
                           .off = at,
                           .bytes = block_total_bytes(&h),
                           .upto = h.first_lsn - 1,
                           .pos = {block_last_lsn(&h), h.epoch, h.chain}};
  return DW_OK;
}

static int mark_survived(struct frame_scan *s, uint64_t at, const struct wal_damage *d, struct survivor *out) {
  struct mark_frame m;
  int rc;
  const uint8_t *p = frame_peek(s, at - s->off, WAL_MARK_BYTES, &rc);
  if (!p || !mark_decode(p, &m) || m.salt != s->salt || m.lsn < s->pos.lsn) return rc;
  if (d->newest && m.lsn == s->pos.lsn) return DW_OK; /* says nothing that is missing here */
  if (d->end_known && !d->newest && m.lsn > d->end.lsn) return DW_OK;
  *out = (struct survivor){.found = true,
                           .mark = true,
                           .off = at,
                           .bytes = WAL_MARK_BYTES,
                           .upto = m.lsn,
                           .pos = {m.lsn, s->pos.epoch, m.chain}};
  return DW_OK;
}

int survivor_find(struct frame_scan *s, uint64_t at, const struct wal_damage *d, struct survivor *out) {
  uint64_t skip = 0;
  int rc = DW_OK;
  *out = (struct survivor){0};
  if (at == s->off) rc = own_payload(s, &skip);
  for (at += skip; rc == DW_OK && !out->found && at + 8 <= s->limit; at += 8) {
    const uint8_t *p = frame_peek(s, at - s->off, 8, &rc);
    if (!p) break;
    uint32_t magic = get_u32(p);
    if (magic == WAL_BLOCK_MAGIC) rc = block_survived(s, at, d, out);
    if (magic == WAL_MARK_MAGIC) rc = mark_survived(s, at, d, out);
  }
  return rc;
}

int hole_survivor(struct frame_scan *s, const struct wal_damage *d, struct survivor *out) {
  struct behind b;
  *out = (struct survivor){0};
  if (d->newest) { /* recovery's judgement: a torn tail may hold what only looks like frames */
    int rc = look_behind(s, &b);
    if (rc || (!b.follows && b.known_durable <= s->pos.lsn)) return rc;
  }
  return survivor_find(s, s->off, d, out);
}

/* An epoch record has no LSN of its own. */
static bool leads_to(const struct wal_pos *pos, const struct wal_pos *end) {
  return pos->lsn > end->lsn || (pos->lsn == end->lsn && pos->epoch >= end->epoch);
}

/* ---- one segment -------------------------------------------------------------------------------- */

static void add_hole(struct wal_damage *d, uint64_t off, uint64_t end, const struct wal_pos *from, dw_lsn last) {
  if (d->holes < WAL_HOLES_SHOWN) d->hole[d->holes] = (struct wal_hole){off, end, *from, last};
  d->holes++;
}

int damage_walk(struct frame_scan *s, struct wal_damage *d) {
  struct survivor next;
  for (;;) {
    enum frame_kind kind;
    if (!d->newest && d->end_known && same_place(&s->pos, &d->end)) return DW_OK;
    int rc = frame_next(s, &kind);
    if (rc) return rc;
    d->kept_blocks += kind == FRAME_BLOCK;
    if (kind != FRAME_NONE) continue;
    rc = hole_survivor(s, d, &next);
    if (rc) return rc;
    if (!next.found) break;
    add_hole(d, s->off, next.off, &s->pos, next.upto);
    s->off = next.off + next.bytes;
    s->pos = next.pos;
    d->kept_blocks += !next.mark;
  }
  /* Nothing more stands here. Is it the end? */
  if (d->newest) {
    if (d->end_known && !leads_to(&s->pos, &d->end)) add_hole(d, s->off, UINT64_MAX, &s->pos, d->end.lsn);
    return DW_OK;
  }
  bool whole = d->end_known ? same_place(&s->pos, &d->end) : s->pos.lsn == d->end.lsn;
  if (!whole) add_hole(d, s->off, UINT64_MAX, &s->pos, d->end.lsn);
  if (!whole && !d->end_known)
    snprintf(d->hopeless, sizeof d->hopeless,
             "the next segment's header is damaged too: where this one ends is unknown");
  if (s->pos.lsn > d->end.lsn)
    snprintf(d->hopeless, sizeof d->hopeless, "it leads beyond LSN %llu, where the next segment starts",
             (unsigned long long)d->end.lsn);
  return DW_OK;
}

bool wal_damage_describe(const struct wal_damage *d, uint64_t i, char *out, size_t cap) {
  typedef unsigned long long ull;
  if (d->header_bad) {
    if (i == 0) {
      snprintf(out, cap, "%s: offset 0: the segment's header is damaged%s%s", d->name, d->hopeless[0] ? ": " : "",
               d->hopeless);
      return true;
    }
    i--;
  }
  if (i >= d->holes || i >= WAL_HOLES_SHOWN) return false;
  const struct wal_hole *h = &d->hole[i];
  int n = snprintf(out, cap, "%s: offset %llu, ", d->name, (ull)h->off);
  if (n < 0 || (size_t)n >= cap) return true;
  out += n, cap -= (size_t)n;
  if (h->end != UINT64_MAX) {
    n = snprintf(out, cap, "%llu bytes, ", (ull)(h->end - h->off));
    out += n, cap -= (size_t)n;
  }
  if (h->last == h->from.lsn)
    snprintf(out, cap, "behind LSN %llu: no commit is missing, but a mark or an epoch record is", (ull)h->from.lsn);
  else if (h->last == h->from.lsn + 1)
    snprintf(out, cap, "LSN %llu is damaged", (ull)h->last);
  else
    snprintf(out, cap, "LSN %llu to %llu are damaged", (ull)h->from.lsn + 1, (ull)h->last);
  return true;
}

/* ---- a directory ---------------------------------------------------------------------------------- */

struct found {
  dw_lsn first_lsn;
  uint64_t seq, file_bytes;
  struct segment_header h;
  bool bad; /* header; h is then made up from what is known */
};

struct finder {
  const struct wal_find *f;
  struct found *seg;
  size_t count, cap;
  int rc;
};

static int on_name(void *arg, const char *name, bool is_dir) {
  struct finder *x = arg;
  struct found s = {0};
  if (is_dir || !segment_name_parse(name, &s.first_lsn, &s.seq)) return 0;
  if (x->count == x->cap) {
    size_t cap = x->cap ? 2 * x->cap : 64;
    struct found *grown = realloc(x->seg, cap * sizeof *grown);
    if (!grown) {
      x->rc = dw_fail_nomem(cap * sizeof *grown);
      return 1;
    }
    x->seg = grown;
    x->cap = cap;
  }
  x->seg[x->count++] = s;
  return 0;
}

static int by_seq(const void *a, const void *b) {
  const struct found *x = a, *y = b;
  return x->seq < y->seq ? -1 : x->seq > y->seq;
}

static int open_segment(const struct wal_find *f, const struct found *s, struct env_file **file, char **path) {
  char name[WAL_SEGMENT_NAME_BYTES];
  segment_name(name, s->first_lsn, s->seq);
  size_t n = strlen(f->dir) + sizeof name + 2;
  if (!(*path = malloc(n))) return dw_fail_nomem(n);
  snprintf(*path, n, "%s/%s", f->dir, name);
  return f->env->ops->open(f->env, *path, ENV_READ, file);
}

/* Sets h and bad. */
static int read_header(const struct wal_find *f, struct found *s) {
  struct env_file *file = NULL;
  char *path = NULL;
  uint8_t *bytes = malloc(WAL_SEGMENT_HEADER_BYTES);
  size_t got = 0;
  int rc = bytes ? open_segment(f, s, &file, &path) : dw_fail_nomem(WAL_SEGMENT_HEADER_BYTES);
  if (rc == DW_OK) rc = f->env->ops->size(file, &s->file_bytes);
  if (rc == DW_OK) rc = f->env->ops->pread(file, 0, bytes, WAL_SEGMENT_HEADER_BYTES, &got);
  if (rc == DW_IO && file) { /* can't be read: as bad as wrong */
    rc = DW_OK;
    got = 0;
  }
  if (rc == DW_OK) {
    rc = got == WAL_SEGMENT_HEADER_BYTES ? segment_header_decode(bytes, &s->h) : DW_CORRUPT;
    s->bad = rc == DW_CORRUPT || (rc == DW_OK && (s->h.seq != s->seq || s->h.first_lsn != s->first_lsn));
    if (s->bad) rc = DW_OK;
  }
  if (file) f->env->ops->close(file);
  free(bytes);
  free(path);
  return rc;
}

/* The salt that the marks of a headerless segment carry: the first whole mark of this use of the file tells. */
static int find_salt(struct frame_scan *s, dw_lsn first_lsn, uint64_t *salt) {
  int rc = DW_OK;
  for (uint64_t at = WAL_SEGMENT_HEADER_BYTES; at + WAL_MARK_BYTES <= s->limit; at += 8) {
    struct mark_frame m;
    const uint8_t *p = frame_peek(s, at - s->off, WAL_MARK_BYTES, &rc);
    if (!p) break;
    if (get_u32(p) != WAL_MARK_MAGIC || !mark_decode(p, &m) || m.lsn + 1 < first_lsn) continue;
    *salt = m.salt;
    return DW_OK;
  }
  return rc ? rc : s->env->ops->random(s->env, salt, sizeof *salt);
}

/* Makes up the header of segment i from its name, its neighbours and where the one before ends. */
static void make_header(const struct finder *x, size_t i, const struct wal_pos *before, struct wal_damage *d) {
  const struct found *s = &x->seg[i], *neighbour = NULL;
  struct hash128 cluster = x->f->cluster_id;
  for (size_t k = 0; k < x->count && !neighbour; k++)
    if (!x->seg[k].bad) neighbour = &x->seg[k];
  if (hash128_zero(&cluster) && neighbour) cluster = neighbour->h.cluster_id;
  struct wal_pos start = {0};
  if (before && before->lsn + 1 == s->first_lsn)
    start = *before;
  else if (!before && s->first_lsn == 1 && !hash128_zero(&cluster))
    start = wal_genesis(&cluster);
  else if (before)
    snprintf(d->hopeless, sizeof d->hopeless, "and the segment before it is damaged: where this one starts is unknown");
  else
    snprintf(d->hopeless, sizeof d->hopeless, "and no segment before it tells where it starts");
  d->h = (struct segment_header){.cluster_id = cluster,
                                 .epoch = start.epoch,
                                 .first_lsn = s->first_lsn,
                                 .prev_chain = start.chain,
                                 .seq = s->seq,
                                 .segment_bytes = s->file_bytes,
                                 .node_id = x->f->node_id ? x->f->node_id
                                            : neighbour   ? neighbour->h.node_id
                                                          : 0};
}

/* before: where the segment before ends, NULL: there is none; its lsn is wrong if that one is damaged. after: where
 * this one ends. */
static int look(struct finder *x, size_t i, const struct wal_pos *before, struct wal_damage *d, struct wal_pos *after) {
  const struct wal_find *f = x->f;
  const struct found *s = &x->seg[i], *next = i + 1 < x->count ? &x->seg[i + 1] : NULL;
  *d = (struct wal_damage){.h = s->h, .file_bytes = s->file_bytes, .header_bad = s->bad, .newest = !next};
  segment_name(d->name, s->first_lsn, s->seq);
  if (next) {
    d->end = next->bad ? (struct wal_pos){.lsn = next->first_lsn - 1} : segment_start(&next->h);
    d->end_known = !next->bad;
  } else if (f->reach.lsn) {
    d->end = f->reach;
    d->end_known = true;
  }
  if (s->bad) make_header(x, i, before, d);
  struct frame_scan scan = {.env = f->env, .off = WAL_SEGMENT_HEADER_BYTES, .limit = s->file_bytes, .lenient = true};
  char *path = NULL;
  int rc = open_segment(f, s, &scan.file, &path);
  scan.path = path;
  if (rc == DW_OK && s->bad) rc = find_salt(&scan, s->first_lsn, &d->h.salt);
  scan.salt = d->h.salt;
  scan.pos = segment_start(&d->h);
  if (rc == DW_OK && !d->hopeless[0]) rc = damage_walk(&scan, d);
  *after = scan.pos;
  if (d->newest && d->end_known && leads_to(&scan.pos, &d->end)) d->end_known = false; /* the log leads further */
  if (scan.file) f->env->ops->close(scan.file);
  frame_scan_free(&scan);
  free(path);
  return rc;
}

/* The row that ends with the newest segment, as recovery takes it. */
static void keep_row(struct finder *x) {
  size_t first = x->count - 1;
  while (first > 0 && x->seg[first - 1].seq + 1 == x->seg[first].seq &&
         x->seg[first - 1].first_lsn <= x->seg[first].first_lsn)
    first--;
  memmove(x->seg, x->seg + first, (x->count - first) * sizeof *x->seg);
  x->count -= first;
}

int wal_find_damage(const struct wal_find *f) {
  struct finder x = {.f = f};
  int rc = f->env->ops->list(f->env, f->dir, on_name, &x);
  if (rc == DW_OK) rc = x.rc;
  if (rc == DW_OK && !x.count) rc = dw_fail(DW_NOT_FOUND, "%s: no log segments here", f->dir);
  if (rc == DW_OK) {
    qsort(x.seg, x.count, sizeof *x.seg, by_seq);
    keep_row(&x);
  }
  for (size_t i = 0; rc == DW_OK && i < x.count; i++) rc = read_header(f, &x.seg[i]);
  struct wal_pos end = {0};
  bool walked = false; /* the segment before was: `end` is where it ends */
  for (size_t i = 0; rc == DW_OK && i < x.count; i++) {
    bool last = i + 1 == x.count;
    bool walk = x.seg[i].bad || last || x.seg[i + 1].bad || x.seg[i + 1].first_lsn - 1 >= f->above;
    struct wal_damage d;
    if (walk) rc = look(&x, i, walked ? &end : NULL, &d, &end);
    walked = walk;
    if (rc == DW_OK && walk && (d.header_bad || d.holes) && f->on_damage(f->arg, &d)) break;
  }
  free(x.seg);
  return rc;
}

struct list {
  struct wal_damage *d;
  size_t n, cap;
  int rc;
};

static int add_damage(void *arg, const struct wal_damage *d) {
  struct list *l = arg;
  if (l->n == l->cap) {
    size_t cap = l->cap ? 2 * l->cap : 4;
    struct wal_damage *grown = realloc(l->d, cap * sizeof *grown);
    if (!grown) {
      l->rc = dw_fail_nomem(cap * sizeof *grown);
      return 1;
    }
    l->d = grown;
    l->cap = cap;
  }
  l->d[l->n++] = *d;
  return 0;
}

int wal_list_damage(const struct wal_find *how, struct wal_damage **out, size_t *n) {
  struct list l = {0};
  struct wal_find f = *how;
  f.on_damage = add_damage;
  f.arg = &l;
  int rc = wal_find_damage(&f);
  *out = l.d;
  *n = l.n;
  return rc ? rc : l.rc;
}
