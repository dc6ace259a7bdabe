/* The marker: which boundary of the log the store's data stands at.
 *
 *   0  version u32 = 1 | reserved u32 = 0 | lsn u64 | epoch u64 | chain 16 B | XXH3-64 of bytes 0..39 |  48
 *
 * It is written in the same atomic batch as the data, so data and marker can't disagree. The checksum guards
 * against what the store's own checksums can't see: a value that somebody else put under the key. */
#include "engine/store.h"

#include <string.h>

#include "wal/base/bytes.h"
#include "wal/base/hash.h"
#include "wal/base/status.h"

#define MARKER_VERSION 1u
#define CHECKSUM_AT 40

void store_marker_encode(const struct wal_pos *pos, uint8_t out[STORE_MARKER_BYTES]) {
  put_u32(out, MARKER_VERSION);
  put_u32(out + 4, 0);
  put_u64(out + 8, pos->lsn);
  put_u64(out + 16, pos->epoch);
  memcpy(out + 24, pos->chain.b, 16);
  put_u64(out + CHECKSUM_AT, hash64(out, CHECKSUM_AT));
}

int store_marker_decode(const void *in, size_t n, struct wal_pos *pos) {
  const uint8_t *p = in;
  if (n < 4) return dw_fail(DW_CORRUPT, "the store's marker has %zu bytes", n);
  uint32_t version = get_u32(p);
  /* A newer version may have another length and checksum, so it is recognised first. */
  if (version > MARKER_VERSION) return dw_fail(DW_UNSUPPORTED, "the store's marker has version %u", version);
  if (n != STORE_MARKER_BYTES) return dw_fail(DW_CORRUPT, "the store's marker has %zu bytes", n);
  if (version != MARKER_VERSION || get_u32(p + 4) != 0 || get_u64(p + CHECKSUM_AT) != hash64(p, CHECKSUM_AT)) {
    return dw_fail(DW_CORRUPT, "the store's marker fails its checksum");
  }
  pos->lsn = get_u64(p + 8);
  pos->epoch = get_u64(p + 16);
  memcpy(pos->chain.b, p + 24, 16);
  return DW_OK;
}

int store_check_system_ops(const struct wal_op *ops, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const struct wal_op *op = &ops[i];
    if (op->type != OP_PUT && op->type != OP_DELETE) {
      return dw_fail(DW_INVALID, "system operation of unknown type %u", op->type);
    }
    if (op->klen == 0 || op->key[0] != NS_SYSTEM) {
      return dw_fail(DW_INVALID, "system operation outside the system namespace");
    }
    if (op->klen == STORE_MARKER_KEY_BYTES && memcmp(op->key, STORE_MARKER_KEY, op->klen) == 0) {
      return dw_fail(DW_INVALID, "system operation on the store's own marker");
    }
  }
  return DW_OK;
}

void store_marker_at_genesis(struct wal_pos *pos, const struct hash128 *cluster_id) {
  if (pos->lsn == 0 && hash128_zero(&pos->chain)) *pos = wal_genesis(cluster_id);
}
