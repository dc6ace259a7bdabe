/* The container of diverged.h: its header, reading one, listing the directory. */
#include "engine/diverged.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/identity.h"
#include "wal/base/status.h"

#define MAGIC "DWDIVRG\n"
#define VERSION 1u
#define SUM_AT (DIVERGED_HEADER_BYTES - 8)

typedef unsigned long long ull;

/* ---- header ---------------------------------------------------------------------------------- */

static void put_pos(uint8_t *p, const struct wal_pos *pos) {
  put_u64(p, pos->lsn);
  put_u64(p + 8, pos->epoch);
  memcpy(p + 16, pos->chain.b, 16);
}

static struct wal_pos get_pos(const uint8_t *p) {
  struct wal_pos pos = {.lsn = get_u64(p), .epoch = get_u64(p + 8)};
  memcpy(pos.chain.b, p + 16, 16);
  return pos;
}

void diverged_header_encode(const struct diverged_header *h, uint8_t p[DIVERGED_HEADER_BYTES]) {
  memset(p, 0, DIVERGED_HEADER_BYTES);
  memcpy(p, MAGIC, 8);
  put_u32(p + 8, VERSION);
  put_u32(p + 12, DIVERGED_HEADER_BYTES);
  memcpy(p + 16, h->cluster_id.b, 16);
  memcpy(p + 32, h->incarnation.b, 16);
  put_u64(p + 48, h->node_id);
  put_u64(p + 56, h->peer_id);
  put_u64(p + 64, h->wall_ns);
  put_pos(p + 72, &h->parted);
  put_pos(p + 104, &h->from);
  put_pos(p + 136, &h->end);
  put_u64(p + 168, h->blocks);
  put_u64(p + 176, h->commits);
  put_u64(p + 184, h->bytes);
  p[192] = h->reason;
  p[193] = h->complete;
  put_u64(p + SUM_AT, hash64(p, SUM_AT));
}

static bool all_zero(const uint8_t *p, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (p[i]) return false;
  return true;
}

int diverged_header_decode(const uint8_t *p, size_t n, struct diverged_header *h) {
  if (n < DIVERGED_HEADER_BYTES || memcmp(p, MAGIC, 8) != 0) return dw_fail(DW_CORRUPT, "not a diverged file");
  if (get_u64(p + SUM_AT) != hash64(p, SUM_AT))
    return dw_fail(DW_CORRUPT, "diverged file: the header's checksum is wrong");
  if (get_u32(p + 8) > VERSION)
    return dw_fail(DW_UNSUPPORTED, "diverged file of version %u, %u is known here", get_u32(p + 8), VERSION);
  *h = (struct diverged_header){.node_id = get_u64(p + 48),
                                .peer_id = get_u64(p + 56),
                                .wall_ns = get_u64(p + 64),
                                .parted = get_pos(p + 72),
                                .from = get_pos(p + 104),
                                .end = get_pos(p + 136),
                                .blocks = get_u64(p + 168),
                                .commits = get_u64(p + 176),
                                .bytes = get_u64(p + 184),
                                .reason = p[192],
                                .complete = p[193] & 1};
  memcpy(h->cluster_id.b, p + 16, 16);
  memcpy(h->incarnation.b, p + 32, 16);
  if (get_u32(p + 8) != VERSION || get_u32(p + 12) != DIVERGED_HEADER_BYTES || p[193] > 1 ||
      !all_zero(p + 194, SUM_AT - 194))
    return dw_fail(DW_CORRUPT, "diverged file: reserved bytes are not as they should be");
  if (h->reason != DIVERGED_CUT && h->reason != DIVERGED_REJOIN)
    return dw_fail(DW_CORRUPT, "diverged file: unknown reason");
  if (h->end.lsn < h->from.lsn || h->commits != h->end.lsn - h->from.lsn ||
      h->blocks > h->bytes / WAL_BLOCK_HEADER_BYTES)
    return dw_fail(DW_CORRUPT, "diverged file: impossible counts");
  return DW_OK;
}

/* ---- reading --------------------------------------------------------------------------------- */

struct diverged_file {
  struct env *env;
  struct env_file *file;
  struct diverged_header h;
  struct wal_pos at; /* behind the blocks read so far */
  uint64_t off, end, blocks, commits;
  char path[4096];
};

static int read_header(struct diverged_file *f) {
  uint8_t bytes[DIVERGED_HEADER_BYTES];
  uint64_t size = 0;
  int rc = f->env->ops->open(f->env, f->path, ENV_READ, &f->file);
  if (rc == DW_OK) rc = f->env->ops->size(f->file, &size);
  if (rc) return rc;
  if (size < sizeof bytes) return dw_fail(DW_CORRUPT, "%s: not a diverged file", f->path);
  rc = env_pread_exact(f->env, f->file, f->path, 0, bytes, sizeof bytes);
  if (rc == DW_OK && (rc = diverged_header_decode(bytes, sizeof bytes, &f->h)))
    return dw_fail_prefix(rc, "%s", f->path);
  if (rc == DW_OK && size - sizeof bytes != f->h.bytes)
    rc = dw_fail(DW_CORRUPT, "%s: %llu bytes of blocks, there should be %llu", f->path, (ull)(size - sizeof bytes),
                 (ull)f->h.bytes);
  f->off = DIVERGED_HEADER_BYTES;
  f->end = size;
  f->at = f->h.from;
  return rc;
}

int diverged_open(struct env *env, const char *path, struct diverged_header *h, struct diverged_file **out) {
  struct diverged_file *f = calloc(1, sizeof *f);
  if (!f) return dw_fail_nomem(sizeof *f);
  f->env = env;
  int n = snprintf(f->path, sizeof f->path, "%s", path);
  int rc = n > 0 && (size_t)n < sizeof f->path ? read_header(f) : dw_fail(DW_INVALID, "path too long: %s", path);
  if (rc) {
    diverged_close(f);
    return rc;
  }
  *h = f->h;
  *out = f;
  return DW_OK;
}

void diverged_close(struct diverged_file *f) {
  if (!f) return;
  if (f->file) f->env->ops->close(f->file);
  free(f);
}

static int check_end(const struct diverged_file *f) {
  const struct wal_pos *end = &f->h.end;
  if (f->blocks == f->h.blocks && f->commits == f->h.commits && f->at.lsn == end->lsn && f->at.epoch == end->epoch &&
      hash128_eq(&f->at.chain, &end->chain))
    return dw_fail(DW_NOT_FOUND, "end of %s", f->path);
  return dw_fail(DW_CORRUPT, "%s: it does not end where its header says", f->path);
}

/* Does b continue what was read? */
static int check_order(const struct diverged_file *f, const struct wal_block *b) {
  if (b->h.first_lsn == f->at.lsn + 1 && b->h.epoch >= f->at.epoch && block_chain_ok(b->bytes, &f->at.chain))
    return DW_OK;
  return dw_fail(DW_CORRUPT, "the block of LSN %llu does not follow LSN %llu", (ull)b->h.first_lsn, (ull)f->at.lsn);
}

static int read_block(struct diverged_file *f, struct wal_block **out) {
  uint8_t head[WAL_BLOCK_HEADER_BYTES], *bytes = NULL;
  struct block_header h;
  if (f->end - f->off < sizeof head) return dw_fail(DW_CORRUPT, "a block is cut off");
  int rc = env_pread_exact(f->env, f->file, f->path, f->off, head, sizeof head);
  if (rc == DW_OK) rc = block_header_decode(head, &h);
  if (rc) return rc;
  size_t n = block_total_bytes(&h);
  if (n > f->end - f->off) return dw_fail(DW_CORRUPT, "the block of LSN %llu is cut off", (ull)h.first_lsn);
  if (!(bytes = malloc(n))) return dw_fail_nomem(n);
  rc = env_pread_exact(f->env, f->file, f->path, f->off, bytes, n);
  if (rc == DW_OK) rc = wal_block_parse(bytes, n, out);
  free(bytes);
  if (rc == DW_OK && (rc = check_order(f, *out))) wal_block_unref(*out);
  if (rc == DW_OK) f->off += n;
  return rc;
}

int diverged_next(struct diverged_file *f, struct wal_block **out) {
  struct wal_block *b = NULL;
  if (f->off == f->end) return check_end(f);
  uint64_t off = f->off;
  int rc = read_block(f, &b);
  if (rc) return dw_fail_prefix(rc, "%s, offset %llu", f->path, (ull)off);
  f->at = (struct wal_pos){block_last_lsn(&b->h), b->h.epoch, b->h.chain};
  f->blocks++;
  f->commits += b->h.commit_count;
  *out = b;
  return DW_OK;
}

/* ---- the directory --------------------------------------------------------------------------- */

struct names {
  char (*name)[DIVERGED_NAME_BYTES];
  size_t n, cap;
  int rc;
};

static int add_name(void *arg, const char *name, bool is_dir) {
  struct names *l = arg;
  size_t n = strlen(name);
  if (is_dir || n < 8 || n >= DIVERGED_NAME_BYTES || strcmp(name + n - 7, ".blocks") != 0) return 0;
  if (l->n == l->cap) {
    size_t cap = l->cap ? 2 * l->cap : 16;
    void *grown = realloc(l->name, cap * sizeof *l->name);
    if (!grown) {
      l->rc = dw_fail_nomem(cap * sizeof *l->name);
      return 1;
    }
    l->name = grown;
    l->cap = cap;
  }
  memcpy(l->name[l->n++], name, n + 1);
  return 0;
}

static int by_name(const void *a, const void *b) {
  return strcmp(a, b);
}

int diverged_list(struct env *env, const char *dir, diverged_fn fn, void *arg) {
  struct names l = {0};
  char *at = path_join(dir, DIVERGED_DIR);
  if (!at) return DW_NO_MEMORY;
  int rc = env->ops->list(env, at, add_name, &l);
  if (rc == DW_NOT_FOUND) rc = DW_OK;
  if (rc == DW_OK) rc = l.rc;
  if (rc == DW_OK && l.n) qsort(l.name, l.n, sizeof *l.name, by_name);
  for (size_t i = 0; rc == DW_OK && i < l.n; i++) {
    struct diverged_header h = {0};
    struct diverged_file *f = NULL;
    char *path = path_join(at, l.name[i]);
    int one = path ? diverged_open(env, path, &h, &f) : DW_NO_MEMORY;
    free(path);
    diverged_close(f);
    if (fn(arg, l.name[i], one, &h)) break;
  }
  free(l.name);
  free(at);
  return rc;
}
