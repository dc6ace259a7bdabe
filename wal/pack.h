/* Packs: a run of blocks in few bytes, for a line between two nodes that both know the boundary before it.
 *
 * A small block is mostly header, and compresses badly by itself. But whoever holds the boundary before a block
 * (LSN, epoch, chain hash) can compute most of its header, and whoever has seen the blocks before it has the best
 * dictionary for it that there is. So a pack is
 *
 *      block -->  record: what the header does not repeat and the boundary does not tell, then the stored payload
 *      records of the run  -->  one zstd stream per connection, flushed at the end of the pack, never ended
 *
 * and the receiver makes the same bytes again, hashes included. It believes none of them: the chain hash behind the
 * last block travels beside the pack, covers every byte of every block before it, and must come out the same. So a pack
 * can't bring in a block that the log's own rules would not take, and nothing of this reaches a disk.
 *
 * Both ends go on from the same history: a pack can be read only by the unpacker that has read all packs before it.
 * After an error a packer or unpacker is of no use any more; its connection ends.
 *
 *   record := shape:u8                        bit 0: codec zstd; bit 1: the identity differs from the last record's
 *             [kind:u8 mode:u8 ack:u8 durability:u8 acks:u16 epoch:u64 origin:u64]    if bit 1; at first all zero
 *             commit_count:varint
 *             lag:varint        (first LSN - 1 - commit_lsn, zigzag)
 *             later:varint      (wall_ns - that of the last record, zigzag)
 *             stored_bytes:varint [raw_bytes:varint if codec zstd] stored payload
 */
#ifndef DW_WAL_PACK_H
#define DW_WAL_PACK_H

#include "wal/wal.h"

#define WAL_PACK_BLOCK_BYTES 16384u /* a bigger block gains little and travels as it is */
#define WAL_PACK_BYTES 262144u     /* of blocks in a pack at most; its records are shorter than its blocks */
#define WAL_PACK_BLOCKS (WAL_PACK_BYTES / (WAL_BLOCK_HEADER_BYTES + 8)) /* so many at most */
#define WAL_PACK_BOUND (WAL_PACK_BYTES + 8192u)                         /* bytes of a pack at most */

/* May it go into a pack? */
static inline bool wal_packs(const struct wal_block *b) { return block_total_bytes(&b->h) <= WAL_PACK_BLOCK_BYTES; }

struct wal_packer;
int wal_packer_create(struct wal_packer **); /* DW_NO_MEMORY */
void wal_packer_free(struct wal_packer *);   /* NULL is fine */
/* Appends a pack of n blocks, each of which wal_packs, WAL_PACK_BYTES of them at most, that follow boundary `before`.
 * *plain: the bytes of its records, which the unpacker has to be told. DW_NO_MEMORY. */
int wal_pack(struct wal_packer *, const struct wal_pos *before, struct wal_block *const *, size_t n, struct buf *out,
             uint32_t *plain);

struct wal_unpacker;
int wal_unpacker_create(struct wal_unpacker **); /* DW_NO_MEMORY */
void wal_unpacker_free(struct wal_unpacker *);   /* NULL is fine */
/* The n blocks of a pack from untrusted bytes, as wal_block_parse gives them; out has room for n. They follow `before`
 * by LSN and chain hash, and lead to `chain`. DW_CORRUPT, DW_UNSUPPORTED, DW_NO_MEMORY: none of them. */
int wal_unpack(struct wal_unpacker *, const struct wal_pos *before, const void *pack, size_t bytes, uint32_t plain,
               const struct hash128 *chain, struct wal_block **out, size_t n);

#endif
