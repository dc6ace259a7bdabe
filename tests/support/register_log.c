/* See register_log.h. */
#include "tests/support/register_log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/env.h"
#include "wal/base/status.h"
#include "wal/wal.h"

struct lsns {
  uint64_t *of;
  uint64_t count;
  char *why;
  size_t cap;
};

static bool take(struct lsns *l, const struct wal_op *op, uint64_t lsn) {
  char text[32] = "";
  const uint8_t *key = op->key + 1; /* behind the namespace */
  if (op->klen < 3 || op->key[0] != NS_USER || key[0] != 'k' || key[1] < '0' || key[1] > '9') return true;
  memcpy(text, op->val, op->vlen < 31 ? op->vlen : 31);
  uint64_t value = strtoull(text, NULL, 10);
  if (value > 0 && value <= l->count && !l->of[value]) {
    l->of[value] = lsn;
    return true;
  }
  snprintf(l->why, l->cap, "the log holds value %s twice, or nobody wrote it", text);
  return false;
}

static int note_block(void *arg, const char *path, uint64_t off, const struct wal_block *b) {
  struct lsns *l = arg;
  struct buf scratch = {0};
  const uint8_t *raw;
  size_t n, at = 0;
  struct wal_commit commit;
  uint64_t lsn = b->h.first_lsn;
  bool good = true;
  if (b->h.kind != BLOCK_COMMITS) return 0;
  if (wal_block_raw(b, &scratch, &raw, &n) != DW_OK) {
    snprintf(l->why, l->cap, "%s: the block at %llu can't be read", path, (unsigned long long)off);
    good = false;
  }
  for (; good && payload_next_commit(raw, n, &at, &commit) == DW_OK; lsn++) {
    size_t op_at = 0;
    struct wal_op op;
    while (good && body_next_op(commit.body, commit.body_bytes, &op_at, &op) == DW_OK) good = take(l, &op, lsn);
  }
  buf_free(&scratch);
  return !good;
}

static bool agree(const struct event *e, uint64_t lsn, char *why, size_t cap) {
  typedef unsigned long long ull;
  if (e->end == END_OK && lsn != e->lsn)
    snprintf(why, cap, "value %llu of key %d was answered OK with LSN %llu, the log has it at %llu", (ull)e->value,
             e->key, (ull)e->lsn, (ull)lsn);
  if (e->end == END_REFUSED && lsn)
    snprintf(why, cap, "value %llu of key %d was refused as certainly not done, the log has it at LSN %llu",
             (ull)e->value, e->key, (ull)lsn);
  return !why[0];
}

bool register_lsns(const char *log_dir, struct register_set *set, struct event *events, size_t n, char *why,
                   size_t cap) {
  struct lsns l = {.count = atomic_load(&set->values), .why = why, .cap = cap};
  struct wal_inspect how = {.on_block = note_block, .arg = &l};
  struct wal_inspect_report rep;
  why[0] = 0;
  l.of = calloc(l.count + 1, sizeof *l.of);
  if (!l.of) return snprintf(why, cap, "no memory"), false;
  if (wal_inspect(env_posix(), log_dir, &how, &rep) != DW_OK && !why[0])
    snprintf(why, cap, "%s: %.400s", log_dir, rep.problem);
  if (!why[0] && rep.first.lsn > 0)
    snprintf(why, cap, "%s begins behind LSN %llu", log_dir, (unsigned long long)rep.first.lsn);
  for (size_t i = 0; i < n && !why[0]; i++) {
    struct event *e = &events[i];
    if (e->kind == EVENT_WRITE && agree(e, l.of[e->value], why, cap)) e->lsn = l.of[e->value];
  }
  free(l.of);
  return !why[0];
}
