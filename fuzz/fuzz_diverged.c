/* The container of DIR/diverged. As it is: whatever comes. Then made to fit: header fields that follow from the blocks,
 * blocks that follow from each other; a file that is read to its end then holds exactly what its header says, and the
 * header is encoded to the same bytes. Input: the file. */
#include "engine/diverged.h"
#include "fuzz/fuzz.h"
#include "tests/support/mem_env.h"

#define PATH "d/diverged/1-1.blocks"

static struct mem_env *mem;

static int listed(void *arg, const char *name, int rc, const struct diverged_header *h) {
  CHECK(strcmp(name, "1-1.blocks") == 0 && (rc == DW_OK || h->commits == 0));
  (*(int *)arg)++;
  return 0;
}

static bool read_all(const uint8_t *p, size_t n) {
  struct diverged_header h;
  struct diverged_file *f;
  struct wal_block *b;
  struct env *env = mem_env_env(mem);
  uint64_t blocks = 0, commits = 0, bytes = 0;
  int rc, count = 0;
  mem_env_clear(mem);
  mem_env_put(mem, PATH, p, n);
  CHECK(diverged_list(env, "d", listed, &count) == DW_OK && count == 1);
  if (diverged_open(env, PATH, &h, &f) != DW_OK) return false;
  uint8_t again[DIVERGED_HEADER_BYTES];
  diverged_header_encode(&h, again);
  CHECK(memcmp(again, p, sizeof again) == 0 && h.bytes == n - sizeof again);
  struct hash128 chain = h.from.chain;
  dw_lsn lsn = h.from.lsn;
  while ((rc = diverged_next(f, &b)) == DW_OK) {
    CHECK(b->h.first_lsn == lsn + 1 && block_chain_ok(b->bytes, &chain));
    lsn = block_last_lsn(&b->h);
    chain = b->h.chain;
    blocks++;
    commits += b->h.commit_count;
    bytes += block_total_bytes(&b->h);
    CHECK(bytes <= h.bytes);
    wal_block_unref(b);
  }
  diverged_close(f);
  CHECK(mem_env_open_files(mem) == 0);
  CHECK(rc == DW_NOT_FOUND || rc == DW_CORRUPT || rc == DW_UNSUPPORTED);
  CHECK(rc != DW_NOT_FOUND || (blocks == h.blocks && commits == h.commits && bytes == h.bytes && lsn == h.end.lsn));
  return rc == DW_NOT_FOUND;
}

/* Blocks one behind the other, then the header's counts; what does not look like blocks is left as it is. */
static void repair(uint8_t *p, size_t n) {
  struct wal_pos at = {.lsn = get_u64(p + 104), .epoch = get_u64(p + 112)};
  memcpy(at.chain.b, p + 120, 16);
  uint64_t blocks = 0, from = at.lsn;
  for (size_t off = DIVERGED_HEADER_BYTES; n - off >= WAL_BLOCK_HEADER_BYTES; blocks++) {
    uint8_t *b = p + off;
    size_t total = WAL_BLOCK_HEADER_BYTES + align8(get_u32(b + 56));
    put_u64(b + 24, at.lsn + 1);
    if (get_u64(b + 16) < at.epoch) put_u64(b + 16, at.epoch);
    repair_block(b, n - off, &at.chain);
    at = (struct wal_pos){get_u64(b + 24) + get_u32(b + 32) - 1, get_u64(b + 16), {{0}}};
    memcpy(at.chain.b, b + 96, 16);
    if (total > n - off) break;
    off += total;
  }
  put_u64(p + 136, at.lsn);
  put_u64(p + 144, at.epoch);
  memcpy(p + 152, at.chain.b, 16);
  put_u64(p + 168, blocks);
  put_u64(p + 176, at.lsn - from);
  put_u64(p + 184, n - DIVERGED_HEADER_BYTES);
  put_u64(p + DIVERGED_HEADER_BYTES - 8, hash64(p, DIVERGED_HEADER_BYTES - 8));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!mem) mem = mem_env_create();
  CHECK(mem);
  uint8_t *p = exact_copy(data, size);
  read_all(p, size);
  if (size >= DIVERGED_HEADER_BYTES) {
    repair(p, size);
    read_all(p, size);
  }
  free(p);
  return 0;
}
