/* Epochs: each opening of a primary and each promotion starts one, durably, before its first commit.
 *
 * The number: high half the term (one more with each promotion), low half what tells the epochs of a term apart; see
 * docs/decisions/0007-epochs-promises-promotion.md.
 *
 * The epoch's first record is a BLOCK_EPOCH in the log (no commits, no LSN of its own). Applying it writes the record
 * into the store's system namespace, so the history of epochs outlives trimmed segments, travels with checkpoints
 * and is in memory here on every node. Within one epoch there is one writer and no LSN is used twice, so
 * (epoch, LSN) names a commit for good; that is what lets a primary place a follower whose part of the log it has
 * trimmed.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "wal/base/status.h"

static const char key_prefix[] = "epoch/"; /* in NS_SYSTEM, then 16 hex digits: sorts by epoch */

int epoch_system_op(const struct epoch_record *rec, uint8_t key[32], uint8_t val[WAL_EPOCH_RECORD_BYTES],
                    struct wal_op *op) {
  key[0] = NS_SYSTEM;
  int n = snprintf((char *)key + 1, 31, "%s%016llx", key_prefix, (unsigned long long)rec->epoch);
  epoch_record_encode(rec, val);
  *op = (struct wal_op){OP_PUT, key, (uint32_t)n + 1, val, WAL_EPOCH_RECORD_BYTES};
  return DW_OK;
}

int epochs_reserve(struct epoch_list *l, size_t more) {
  size_t cap = l->cap ? l->cap : 16, need = l->count + more;
  if (need > EPOCHS_MAX) need = EPOCHS_MAX;
  if (need <= l->cap) return DW_OK;
  while (cap < need) cap *= 2;
  struct epoch_record *grown = realloc(l->records, cap * sizeof *grown);
  if (!grown) return dw_fail_nomem(cap * sizeof *grown);
  l->records = grown;
  l->cap = cap;
  return DW_OK;
}

void epochs_add(struct epoch_list *l, const struct epoch_record *rec) {
  size_t at = l->count;
  while (at && l->records[at - 1].epoch > rec->epoch) at--;
  if (at && l->records[at - 1].epoch == rec->epoch) {
    l->records[at - 1] = *rec;
    return;
  }
  if (l->count == EPOCHS_MAX) { /* the oldest is forgotten; the store keeps it */
    if (at == 0) return;
    memmove(l->records, l->records + 1, (EPOCHS_MAX - 1) * sizeof *rec);
    l->count--;
    at--;
  }
  assert(l->count < l->cap);
  memmove(l->records + at + 1, l->records + at, (l->count - at) * sizeof *rec);
  l->records[at] = *rec;
  l->count++;
}

void epochs_cut(struct epoch_list *l, uint64_t above) {
  while (l->count && l->records[l->count - 1].epoch > above) l->count--;
}

int epochs_load(dw_engine *e, struct store *store, struct epoch_list *l) {
  struct store_iter *it;
  int rc = store->ops->iter_create(store, NS_SYSTEM, &it);
  if (rc) return rc;
  l->count = 0;
  for (store->ops->iter_seek(it, key_prefix, strlen(key_prefix)); rc == DW_OK && store->ops->iter_valid(it);
       store->ops->iter_next(it)) {
    size_t klen, vlen;
    const char *key = store->ops->iter_key(it, &klen);
    if (klen < strlen(key_prefix) || memcmp(key, key_prefix, strlen(key_prefix)) != 0) break;
    const char *val = store->ops->iter_value(it, &vlen);
    struct epoch_record rec;
    rc = epoch_record_decode((const uint8_t *)val, vlen, &rec);
    if (rc == DW_OK) rc = epochs_reserve(l, 1);
    if (rc == DW_OK) epochs_add(l, &rec);
  }
  if (rc == DW_OK) rc = store->ops->iter_status(it);
  store->ops->iter_destroy(it);
  return rc ? dw_fail_prefix(rc, "%s: epoch history", e->dir) : DW_OK;
}

uint64_t epochs_last(const dw_engine *e) {
  struct wal_stat st;
  wal_stat(e->wal, &st);
  uint64_t last = st.end.epoch;
  const struct epoch_list *known = &e->epochs;
  if (known->count && known->records[known->count - 1].epoch > last) last = known->records[known->count - 1].epoch;
  return last;
}

int epoch_start(dw_engine *e, uint64_t epoch, uint32_t reason, dw_lsn commit_lsn) {
  struct wal_stat st;
  wal_stat(e->wal, &st);
  struct epoch_record rec = {.epoch = epoch,
                             .node_id = e->node.node_id,
                             .wall_ns = e->env->ops->wall_ns(e->env),
                             .reason = reason,
                             .start = st.end};
  uint8_t raw[WAL_EPOCH_RECORD_BYTES];
  epoch_record_encode(&rec, raw);
  struct block_header like = {.kind = BLOCK_EPOCH,
                              .need = {.mode = DW_ASYNC, .ack = DW_ACK_DURABLE, .durability = DW_DURABILITY_DISK},
                              .wall_ns = rec.wall_ns,
                              .origin_id = e->node.node_id};
  struct wal_block *block = NULL;
  pthread_mutex_lock(&e->mu); /* a promotion has onlookers */
  int rc = epochs_reserve(&e->epochs, 1);
  pthread_mutex_unlock(&e->mu);
  if (rc == DW_OK) rc = wal_block_create(&like, raw, sizeof raw, 0, &block);
  if (rc == DW_OK) rc = wal_append(e->wal, &block, 1, rec.epoch, commit_lsn);
  if (rc == DW_OK) rc = wal_sync(e->wal, NULL);
  if (rc == DW_OK) {
    pthread_mutex_lock(&e->mu);
    epochs_add(&e->epochs, &rec);
    e->epoch = rec.epoch;
    pthread_mutex_unlock(&e->mu);
  }
  wal_block_unref(block);
  return rc ? dw_fail_prefix(rc, "starting epoch %llu", (unsigned long long)rec.epoch) : DW_OK;
}

size_t engine_epochs(dw_engine *e, struct epoch_record *out, size_t cap) {
  pthread_mutex_lock(&e->mu);
  size_t n = e->epochs.count;
  if (n && cap) memcpy(out, e->epochs.records, (n < cap ? n : cap) * sizeof *out);
  pthread_mutex_unlock(&e->mu);
  return n;
}
