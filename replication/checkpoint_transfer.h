/* Both ends of one checkpoint transfer, without its files: what comes next, and whether what came is right.
 *
 *   p: MANIFEST ->              f: <- WANT (bytes of each file that it holds from an earlier, broken transfer)
 *   p: for each file in order:  CHUNK* FILE_END ->          f: <- ACK (bytes taken)
 *   p: DONE ->                  f: installs, <- INSTALLED, <- HELLO
 *
 * The sender reads every file that is not CKPT_HELD from its beginning, sends what lies at or beyond the wanted
 * offset, and hashes all of it: FILE_END's hash speaks for the whole file. The receiver's driver hashes the file as
 * it stands on its disk at FILE_END. At most CKPT_WINDOW_BYTES of chunks are unacknowledged.
 */
#ifndef DW_REPLICATION_CHECKPOINT_TRANSFER_H
#define DW_REPLICATION_CHECKPOINT_TRANSFER_H

#include "replication/checkpoint_manifest.h"

#define CKPT_WINDOW_BYTES 4194304u

struct ckpt_sender {
  struct ckpt_manifest manifest; /* owned */
  uint64_t *want;                /* owned; NULL until WANT came */
  uint32_t file;                 /* being sent; == count: all sent */
  uint64_t offset;               /* next byte to read of it */
  struct hash_stream *hash;
  uint64_t sent, acked; /* chunk bytes since WANT */
};
enum ckpt_step { CKPT_WAIT, CKPT_READ, CKPT_FILE_END, CKPT_DONE };
/* Takes the manifest over (zeroed), on DW_OK. */
int ckpt_sender_init(struct ckpt_sender *, struct ckpt_manifest *);
void ckpt_sender_free(struct ckpt_sender *);
int ckpt_sender_want(struct ckpt_sender *, const struct msg_ckpt_want *); /* DW_CORRUPT: does not fit the manifest */
int ckpt_sender_ack(struct ckpt_sender *, uint64_t bytes);                /* DW_CORRUPT: more than sent */
/* What to do next; READ: [*off, *off + *n) of *file. */
enum ckpt_step ckpt_sender_next(const struct ckpt_sender *, uint32_t *file, uint64_t *off, uint32_t *n);
/* The bytes that READ asked for. *skip: how many of them the follower has already. */
void ckpt_sender_read(struct ckpt_sender *, const void *data, uint32_t n, uint32_t *skip);
/* After FILE_END: its hash; goes to the next file. */
int ckpt_sender_file_end(struct ckpt_sender *, struct hash128 *);

struct ckpt_receiver {
  struct ckpt_manifest manifest; /* owned */
  uint64_t *want;                /* owned: as sent */
  uint32_t file;
  uint64_t offset, received;
  bool active;
};
int ckpt_receiver_init(struct ckpt_receiver *, struct ckpt_manifest *); /* takes it over */
void ckpt_receiver_free(struct ckpt_receiver *);
int ckpt_receiver_want(struct ckpt_receiver *, const uint64_t *offsets); /* manifest.count of them; DW_INVALID */
int ckpt_receiver_chunk(struct ckpt_receiver *, const struct msg_ckpt_chunk *);       /* DW_CORRUPT: not the next bytes */
int ckpt_receiver_file_end(struct ckpt_receiver *, const struct msg_ckpt_file_end *); /* DW_CORRUPT: too early */
int ckpt_receiver_done(const struct ckpt_receiver *, const struct hash128 *id);       /* DW_CORRUPT: something is missing */

#endif
