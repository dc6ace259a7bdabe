/* Encoding and decoding of the log's fixed structures. The byte tables are in docs/wal-format.md. */
#include "wal/format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/bytes.h"

/* Decoders check the magic, then the version (so that a newer format is named as such), then the checksum and
 * every reserved byte: what a writer of this version can't have written is not valid. */

static bool all_zero(const uint8_t *p, size_t n) {
  return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0); /* each byte is as the one before it */
}

/* ---- segment header -------------------------------------------------------------------------- */

void segment_header_encode(const struct segment_header *h, uint8_t out[WAL_SEGMENT_HEADER_BYTES]) {
  memset(out, 0, WAL_SEGMENT_HEADER_BYTES);
  memcpy(out, WAL_SEGMENT_MAGIC, 8);
  put_u32(out + 8, WAL_FORMAT_VERSION);
  put_u32(out + 12, WAL_SEGMENT_HEADER_BYTES);
  memcpy(out + 16, h->cluster_id.b, 16);
  put_u64(out + 32, h->epoch);
  put_u64(out + 40, h->first_lsn);
  memcpy(out + 48, h->prev_chain.b, 16);
  put_u64(out + 64, h->seq);
  put_u64(out + 72, h->segment_bytes);
  put_u64(out + 80, h->created_wall_ns);
  put_u64(out + 88, h->node_id);
  put_u64(out + 96, h->salt);
  memcpy(out + 104, h->boot_id, 16);
  put_u64(out + WAL_SEGMENT_HEADER_BYTES - 8, hash64(out, WAL_SEGMENT_HEADER_BYTES - 8));
}

int segment_header_decode(const uint8_t in[WAL_SEGMENT_HEADER_BYTES], struct segment_header *h) {
  if (memcmp(in, WAL_SEGMENT_MAGIC, 8) != 0) return dw_fail(DW_CORRUPT, "segment header: bad magic");
  if (get_u64(in + WAL_SEGMENT_HEADER_BYTES - 8) != hash64(in, WAL_SEGMENT_HEADER_BYTES - 8))
    return dw_fail(DW_CORRUPT, "segment header: checksum mismatch");
  if (get_u32(in + 8) > WAL_FORMAT_VERSION)
    return dw_fail(DW_UNSUPPORTED, "segment header: format version %u, this program knows up to %u", get_u32(in + 8),
                   WAL_FORMAT_VERSION);
  if (get_u32(in + 8) != WAL_FORMAT_VERSION || get_u32(in + 12) != WAL_SEGMENT_HEADER_BYTES ||
      !all_zero(in + 120, WAL_SEGMENT_HEADER_BYTES - 8 - 120))
    return dw_fail(DW_CORRUPT, "segment header: reserved bytes are set");
  memcpy(h->cluster_id.b, in + 16, 16);
  h->epoch = get_u64(in + 32);
  h->first_lsn = get_u64(in + 40);
  memcpy(h->prev_chain.b, in + 48, 16);
  h->seq = get_u64(in + 64);
  h->segment_bytes = get_u64(in + 72);
  h->created_wall_ns = get_u64(in + 80);
  h->node_id = get_u64(in + 88);
  h->salt = get_u64(in + 96);
  memcpy(h->boot_id, in + 104, 16);
  if (h->first_lsn == 0 || h->seq == 0) return dw_fail(DW_CORRUPT, "segment header: first LSN or seq is 0");
  return DW_OK;
}

void segment_name(char out[WAL_SEGMENT_NAME_BYTES], dw_lsn first_lsn, uint64_t seq) {
  snprintf(out, WAL_SEGMENT_NAME_BYTES, "%020llu-%08llx.wal", (unsigned long long)first_lsn, (unsigned long long)seq);
}

bool segment_name_parse(const char *name, dw_lsn *first_lsn, uint64_t *seq) {
  unsigned long long l, s;
  int end = 0;
  if (sscanf(name, "%20llu-%16llx.wal%n", &l, &s, &end) != 2 || !end || name[end]) return false;
  char canonical[WAL_SEGMENT_NAME_BYTES];
  segment_name(canonical, l, s);
  if (strcmp(canonical, name) != 0) return false;
  *first_lsn = l;
  *seq = s;
  return true;
}

/* ---- block header ---------------------------------------------------------------------------- */

#define NEED_FROM_DEFAULT 0x80u

static void block_header_encode(const struct block_header *h, uint8_t out[WAL_BLOCK_HEADER_BYTES]) {
  memset(out, 0, WAL_BLOCK_HEADER_BYTES);
  put_u32(out, WAL_BLOCK_MAGIC);
  put_u16(out + 4, WAL_FORMAT_VERSION);
  put_u16(out + 6, WAL_BLOCK_HEADER_BYTES);
  put_u32(out + 8, h->flags);
  out[12] = h->codec;
  out[13] = h->kind;
  out[14] = h->need.durability;
  put_u64(out + 16, h->epoch);
  put_u64(out + 24, h->first_lsn);
  put_u32(out + 32, h->commit_count);
  out[36] = (uint8_t)(h->need.mode | (h->need.from_default ? NEED_FROM_DEFAULT : 0));
  out[37] = h->need.ack;
  put_u16(out + 38, h->need.acks);
  put_u64(out + 40, h->commit_lsn);
  put_u64(out + 48, h->wall_ns);
  put_u32(out + 56, h->stored_bytes);
  put_u32(out + 60, h->raw_bytes);
  put_u64(out + 64, h->origin_id);
  memcpy(out + 80, h->payload_hash.b, 16);
}

static struct hash128 chain_hash(const struct hash128 *prev, const uint8_t *header) {
  return hash128_pair(prev->b, 16, header, 96);
}

void block_header_seal(struct block_header *h, const struct hash128 *prev, uint8_t out[WAL_BLOCK_HEADER_BYTES]) {
  block_header_encode(h, out);
  h->chain = chain_hash(prev, out);
  memcpy(out + 96, h->chain.b, 16);
  put_u64(out + 120, hash64(out, 120));
}

bool block_chain_ok(const uint8_t header[WAL_BLOCK_HEADER_BYTES], const struct hash128 *prev) {
  struct hash128 chain = chain_hash(prev, header);
  return memcmp(chain.b, header + 96, 16) == 0;
}

static int block_header_bounds(const struct block_header *h) {
  if (h->raw_bytes > WAL_MAX_RAW_BYTES || h->stored_bytes > WAL_MAX_STORED_BYTES || h->stored_bytes == 0)
    return dw_fail(DW_CORRUPT, "block header: %u stored and %u raw bytes", h->stored_bytes, h->raw_bytes);
  if (h->codec == BLOCK_RAW && h->stored_bytes != h->raw_bytes)
    return dw_fail(DW_CORRUPT, "block header: a raw block of %u bytes says %u", h->stored_bytes, h->raw_bytes);
  if (h->first_lsn == 0 || h->epoch == 0) return dw_fail(DW_CORRUPT, "block header: LSN or epoch is 0");
  if ((h->kind == BLOCK_EPOCH) != (h->commit_count == 0))
    return dw_fail(DW_CORRUPT, "block header: kind %u with %u commits", h->kind, h->commit_count);
  if (h->commit_count > h->raw_bytes || h->first_lsn + h->commit_count < h->first_lsn)
    return dw_fail(DW_CORRUPT, "block header: %u commits in %u bytes", h->commit_count, h->raw_bytes);
  const struct block_need *n = &h->need;
  if (n->mode < 1 || n->mode > 3 || n->ack < 1 || n->ack > 3 || n->durability < 1 || n->durability > 2)
    return dw_fail(DW_CORRUPT, "block header: needs are out of range");
  return DW_OK;
}

int block_header_decode(const uint8_t in[WAL_BLOCK_HEADER_BYTES], struct block_header *h) {
  if (get_u32(in) != WAL_BLOCK_MAGIC) return dw_fail(DW_CORRUPT, "block header: bad magic");
  if (get_u64(in + 120) != hash64(in, 120)) return dw_fail(DW_CORRUPT, "block header: checksum mismatch");
  if (get_u16(in + 4) > WAL_FORMAT_VERSION)
    return dw_fail(DW_UNSUPPORTED, "block header: format version %u, this program knows up to %u", get_u16(in + 4),
                   WAL_FORMAT_VERSION);
  if (get_u16(in + 4) != WAL_FORMAT_VERSION || get_u16(in + 6) != WAL_BLOCK_HEADER_BYTES || in[15] ||
      !all_zero(in + 72, 8) || !all_zero(in + 112, 8))
    return dw_fail(DW_CORRUPT, "block header: reserved bytes are set");
  h->flags = get_u32(in + 8);
  h->codec = in[12];
  h->kind = in[13];
  if (h->flags || h->codec > BLOCK_ZSTD || h->kind > BLOCK_EPOCH)
    return dw_fail(DW_UNSUPPORTED, "block header: flags %x, codec %u, kind %u: made by a newer version", h->flags,
                   h->codec, h->kind);
  h->need = (struct block_need){.mode = (uint8_t)(in[36] & ~NEED_FROM_DEFAULT),
                                .ack = in[37],
                                .durability = in[14],
                                .from_default = (in[36] & NEED_FROM_DEFAULT) != 0,
                                .acks = get_u16(in + 38)};
  h->epoch = get_u64(in + 16);
  h->first_lsn = get_u64(in + 24);
  h->commit_count = get_u32(in + 32);
  h->commit_lsn = get_u64(in + 40);
  h->wall_ns = get_u64(in + 48);
  h->stored_bytes = get_u32(in + 56);
  h->raw_bytes = get_u32(in + 60);
  h->origin_id = get_u64(in + 64);
  memcpy(h->payload_hash.b, in + 80, 16);
  memcpy(h->chain.b, in + 96, 16);
  return block_header_bounds(h);
}

int block_payload_check(const struct block_header *h, const uint8_t *block) {
  const uint8_t *payload = block + WAL_BLOCK_HEADER_BYTES;
  if (!all_zero(payload + h->stored_bytes, block_total_bytes(h) - WAL_BLOCK_HEADER_BYTES - h->stored_bytes))
    return dw_fail(DW_CORRUPT, "block of LSN %llu: padding is not zero", (unsigned long long)h->first_lsn);
  struct hash128 hash = hash128(payload, h->stored_bytes);
  if (!hash128_eq(&hash, &h->payload_hash))
    return dw_fail(DW_CORRUPT, "block of LSN %llu: payload hash mismatch", (unsigned long long)h->first_lsn);
  return DW_OK;
}

struct wal_pos wal_genesis(const struct hash128 *cluster_id) {
  static const char tag[] = "dabbawal genesis 1";
  return (struct wal_pos){.chain = hash128_pair(tag, sizeof tag - 1, cluster_id->b, 16)};
}

/* ---- mark frame ------------------------------------------------------------------------------ */

void mark_encode(const struct mark_frame *m, uint8_t out[WAL_MARK_BYTES]) {
  memset(out, 0, WAL_MARK_BYTES);
  put_u32(out, WAL_MARK_MAGIC);
  put_u16(out + 4, WAL_FORMAT_VERSION);
  put_u16(out + 6, WAL_MARK_BYTES);
  put_u64(out + 8, m->durable_lsn);
  put_u64(out + 16, m->salt);
  put_u64(out + 24, m->lsn);
  memcpy(out + 32, m->chain.b, 16);
  memcpy(out + 48, m->boot_id, 16);
  put_u64(out + 64, m->wall_ns);
  put_u64(out + 72, hash64(out, 72));
}

bool mark_decode(const uint8_t in[WAL_MARK_BYTES], struct mark_frame *m) {
  if (get_u32(in) != WAL_MARK_MAGIC || get_u16(in + 4) != WAL_FORMAT_VERSION || get_u16(in + 6) != WAL_MARK_BYTES ||
      get_u64(in + 72) != hash64(in, 72))
    return false;
  m->durable_lsn = get_u64(in + 8);
  m->salt = get_u64(in + 16);
  m->lsn = get_u64(in + 24);
  memcpy(m->chain.b, in + 32, 16);
  memcpy(m->boot_id, in + 48, 16);
  m->wall_ns = get_u64(in + 64);
  return true;
}

/* ---- epoch record ---------------------------------------------------------------------------- */

void epoch_record_encode(const struct epoch_record *r, uint8_t out[WAL_EPOCH_RECORD_BYTES]) {
  memset(out, 0, WAL_EPOCH_RECORD_BYTES);
  put_u32(out, WAL_FORMAT_VERSION);
  put_u32(out + 4, r->reason);
  put_u64(out + 8, r->epoch);
  put_u64(out + 16, r->node_id);
  put_u64(out + 24, r->wall_ns);
  put_u64(out + 32, r->start.lsn);
  put_u64(out + 40, r->start.epoch);
  memcpy(out + 48, r->start.chain.b, 16);
}

int epoch_record_decode(const uint8_t *in, size_t n, struct epoch_record *r) {
  if (n != WAL_EPOCH_RECORD_BYTES || get_u32(in) == 0) return dw_fail(DW_CORRUPT, "epoch record of %zu bytes", n);
  if (get_u32(in) > WAL_FORMAT_VERSION) return dw_fail(DW_UNSUPPORTED, "epoch record: format version %u", get_u32(in));
  r->reason = get_u32(in + 4);
  r->epoch = get_u64(in + 8);
  r->node_id = get_u64(in + 16);
  r->wall_ns = get_u64(in + 24);
  r->start.lsn = get_u64(in + 32);
  r->start.epoch = get_u64(in + 40);
  memcpy(r->start.chain.b, in + 48, 16);
  if (r->epoch == 0 || r->epoch <= r->start.epoch || !all_zero(in + 64, 16))
    return dw_fail(DW_CORRUPT, "epoch record: epoch %llu after %llu", (unsigned long long)r->epoch,
                   (unsigned long long)r->start.epoch);
  return DW_OK;
}
