/* A candidate's side of one connection: puts a FENCE, takes its FENCED. Pure, like fetcher.h.
 *
 *   fencer_ask --> FENCE ...     ... FENCED --> fencer_take
 *       ^                        ... REFUSE, garbage, end --> FENCER_FAILED, for good
 *       +------ the next question ----+
 */
#ifndef DW_REPLICATION_FENCER_H
#define DW_REPLICATION_FENCER_H

#include "replication/message.h"
#include "replication/outq.h"

struct fencer {
  struct msg_sender me;
  struct hash128 cluster_id;
  struct frame_reader in;
  struct outq out;
  uint64_t id;
  enum { FENCER_IDLE, FENCER_ASKED, FENCER_ANSWERED, FENCER_FAILED } state;
  struct msg_fenced answer;
  int code;
  char text[MSG_TEXT_BYTES + 32];
};

void fencer_init(struct fencer *, const struct msg_sender *, const struct hash128 *cluster_id);
void fencer_free(struct fencer *);
/* Only when IDLE. */
void fencer_ask(struct fencer *,
                const struct msg_fence *); /* what, epoch, address, durable, force; the rest is filled in */
void fencer_input(struct fencer *, const void *, size_t n);
void fencer_eof(struct fencer *, const char *why);
/* Only when ANSWERED; IDLE again. */
const struct msg_fenced *fencer_take(struct fencer *);

#endif
