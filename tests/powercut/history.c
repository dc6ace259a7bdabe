/* See history.h. */
#include "tests/powercut/history.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/dabbawal.h"
#include "replication/message.h"

struct change {
  dw_lsn lsn;
  int key;
  struct value value; /* bytes NULL: deleted */
};

struct history {
  struct wal_block **blocks;
  struct buf *raws; /* of each block, decompressed */
  size_t block_count, block_cap;
  struct wal_pos *bounds;
  size_t bound_count, bound_cap;
  struct change *changes;
  size_t change_count, change_cap;
  dw_lsn *lsn_of; /* per value number; 0: not logged */
  char *durability;
  size_t number_cap;
};

#define GROW(array, count, cap)                                                                                        \
  do {                                                                                                                 \
    if ((count) == (cap)) {                                                                                            \
      (cap) = (cap) ? 2 * (cap) : 64;                                                                                  \
      (array) = realloc((array), (cap) * sizeof *(array));                                                             \
      ck_assert_ptr_nonnull(array);                                                                                    \
    }                                                                                                                  \
  } while (0)

static void note_number(struct history *h, const struct wal_op *op, dw_lsn lsn) {
  char text[64] = "", durability;
  unsigned long long n;
  if (op->type != OP_PUT) return;
  memcpy(text, op->val, op->vlen < 63 ? op->vlen : 63);
  if (sscanf(text, VALUE_FORMAT, &n, &durability) != 2) return;
  while (n >= h->number_cap) {
    size_t cap = h->number_cap ? 2 * h->number_cap : 1024;
    h->lsn_of = realloc(h->lsn_of, cap * sizeof *h->lsn_of);
    h->durability = realloc(h->durability, cap);
    ck_assert(h->lsn_of && h->durability);
    memset(h->lsn_of + h->number_cap, 0, (cap - h->number_cap) * sizeof *h->lsn_of);
    h->number_cap = cap;
  }
  h->lsn_of[n] = lsn;
  h->durability[n] = durability;
}

static void add_block(struct history *h, struct wal_block *b) {
  const uint8_t *raw;
  size_t n, at = 0;
  struct wal_commit commit;
  dw_lsn lsn = b->h.first_lsn;
  GROW(h->blocks, h->block_count, h->block_cap);
  h->raws = realloc(h->raws, h->block_cap * sizeof *h->raws);
  ck_assert_ptr_nonnull(h->raws);
  h->blocks[h->block_count] = b;
  h->raws[h->block_count] = (struct buf){0};
  ck_assert_int_eq(wal_block_raw(b, &h->raws[h->block_count++], &raw, &n), DW_OK);
  GROW(h->bounds, h->bound_count, h->bound_cap);
  h->bounds[h->bound_count++] = (struct wal_pos){block_last_lsn(&b->h), b->h.epoch, b->h.chain};
  for (; b->h.kind == BLOCK_COMMITS && payload_next_commit(raw, n, &at, &commit) == DW_OK; lsn++) {
    size_t op_at = 0;
    struct wal_op op;
    while (body_next_op(commit.body, commit.body_bytes, &op_at, &op) == DW_OK) {
      int key = -1;
      char text[8] = "";
      memcpy(text, op.key + 1, op.klen - 1 < 7 ? op.klen - 1 : 7);
      ck_assert_msg(sscanf(text, "k%2d", &key) == 1 && key >= 0 && key < KEYS, "a key that no client wrote");
      note_number(h, &op, lsn);
      GROW(h->changes, h->change_count, h->change_cap);
      h->changes[h->change_count++] =
          (struct change){lsn, key, {op.type == OP_PUT ? op.val : NULL, op.type == OP_PUT ? op.vlen : 0}};
    }
  }
}

/* The log's appends: frames from the first byte on. Anything else that is written there begins otherwise. */
static void take_frames(struct history *h, const uint8_t *p, size_t n) {
  while (n >= WAL_BLOCK_HEADER_BYTES || (n >= WAL_MARK_BYTES && get_u32(p) == WAL_MARK_MAGIC)) {
    if (get_u32(p) == WAL_MARK_MAGIC) {
      p += WAL_MARK_BYTES;
      n -= WAL_MARK_BYTES;
      continue;
    }
    struct block_header head;
    struct wal_block *b;
    if (get_u32(p) != WAL_BLOCK_MAGIC || block_header_decode(p, &head) || block_total_bytes(&head) > n) return;
    size_t total = block_total_bytes(&head);
    struct wal_pos end = {block_last_lsn(&head), head.epoch, head.chain};
    ck_assert_int_eq(wal_block_parse(p, total, &b), DW_OK);
    if (history_has(h, &end)) /* written again, where a file was copied or repaired */
      wal_block_unref(b);
    else
      add_block(h, b);
    p += total;
    n -= total;
  }
}

struct history *history_load(const struct recording *primary) {
  struct history *h = calloc(1, sizeof *h);
  ck_assert_ptr_nonnull(h);
  for (size_t i = 0; i < recording_count(primary); i++) {
    const uint8_t *data;
    const struct record *rec = recording_at(primary, i, &data);
    if (rec->type == RECORD_WRITE && strstr(recording_path(primary, i), "/wal-0")) take_frames(h, data, rec->bytes);
  }
  for (size_t i = 1; i < h->change_count; i++)
    ck_assert_msg(h->changes[i].lsn >= h->changes[i - 1].lsn, "the recorded log is not in order at LSN %llu",
                  (unsigned long long)h->changes[i].lsn);
  ck_assert_uint_gt(h->change_count, 100);
  return h;
}

void history_free(struct history *h) {
  if (!h) return;
  for (size_t i = 0; i < h->block_count; i++) {
    wal_block_unref(h->blocks[i]);
    buf_free(&h->raws[i]);
  }
  free(h->blocks);
  free(h->raws);
  free(h->bounds);
  free(h->changes);
  free(h->lsn_of);
  free(h->durability);
  free(h);
}

dw_lsn history_end(const struct history *h) {
  return h->changes[h->change_count - 1].lsn;
}

bool history_has(const struct history *h, const struct wal_pos *pos) {
  for (size_t i = 0; i < h->bound_count; i++)
    if (h->bounds[i].lsn == pos->lsn && hash128_eq(&h->bounds[i].chain, &pos->chain)) return true;
  return false;
}

bool history_waits_behind(const struct history *h, dw_lsn lsn) {
  for (size_t i = 0; i < h->block_count; i++)
    if (h->blocks[i]->h.kind == BLOCK_COMMITS && block_last_lsn(&h->blocks[i]->h) > lsn)
      return h->blocks[i]->h.need.mode == DW_SYNC;
  return false;
}

void history_state(const struct history *h, dw_lsn lsn, struct value state[KEYS]) {
  memset(state, 0, KEYS * sizeof *state);
  for (size_t i = 0; i < h->change_count && h->changes[i].lsn <= lsn; i++)
    state[h->changes[i].key] = h->changes[i].value;
}

/* ---- promises -------------------------------------------------------------------------------------- */

static void take_acks(const struct history *h, const uint8_t *p, size_t n, struct vouched *v) {
  for (size_t i = 0; i + 4 < n; i++) {
    char text[24] = "";
    unsigned long long number;
    if (memcmp(p + i, "ack", 3) != 0) continue;
    memcpy(text, p + i, n - i < 23 ? n - i : 23);
    if (sscanf(text, "ack%llu.", &number) != 1 || number >= h->number_cap || !h->lsn_of[number]) continue;
    dw_lsn lsn = h->lsn_of[number];
    if (lsn > v->any) v->any = lsn;
    if (h->durability[number] == 'D' && lsn > v->disk) v->disk = lsn;
  }
}

static void take_marks(const uint8_t *p, size_t n, struct vouched *v) {
  for (size_t i = 0; i + MSG_HEADER_BYTES + 24 <= n; i++) {
    if (memcmp(p + i, "DWM1", 4) != 0 || get_u32(p + i + 8) != 32 || (get_u32(p + i + 4) >> 16) != MSG_ACK) continue;
    dw_lsn received = get_u64(p + i + MSG_HEADER_BYTES), durable = get_u64(p + i + MSG_HEADER_BYTES + 8);
    if (received > v->any) v->any = received;
    if (durable > v->disk) v->disk = durable;
  }
}

struct vouched history_vouched(const struct history *h, const struct recording *r, bool follower, size_t cut) {
  struct vouched v = {0};
  for (size_t i = 0; i < cut; i++) {
    const uint8_t *data;
    const struct record *rec = recording_at(r, i, &data);
    if (rec->type != RECORD_SENT) continue;
    if (follower)
      take_marks(data, rec->bytes, &v);
    else
      take_acks(h, data, rec->bytes, &v);
  }
  return v;
}
