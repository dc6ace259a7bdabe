/* The true history of a recorded cluster: every commit, taken from what the primary wrote to its log; who was promised what, and when,
 * taken from what the nodes sent. */
#ifndef DW_POWERCUT_HISTORY_H
#define DW_POWERCUT_HISTORY_H

#include "tests/powercut/image.h"
#include "wal/wal.h"

#define KEYS 48

struct history;

struct history *history_load(const struct recording *primary);
void history_free(struct history *);
dw_lsn history_end(const struct history *);
/* Is this a boundary of the history? */
bool history_has(const struct history *, const struct wal_pos *);
/* Does the first block behind an LSN wait for followers, whatever happens? */
bool history_waits_behind(const struct history *, dw_lsn lsn);
/* The values of all keys at an LSN; NULL: not there. */
struct value {
  const uint8_t *bytes;
  size_t n;
};
void history_state(const struct history *, dw_lsn lsn, struct value state[KEYS]);

/* What a node has vouched for before the cut: DISK writes answered OK, all writes answered OK (primary); durable and received
 * LSN acknowledged (follower). */
struct vouched {
  dw_lsn disk, any;
};
struct vouched history_vouched(const struct history *, const struct recording *, bool follower, size_t cut);

/* What the clients write: key i is "k%02d"; a value begins with its number and how durable it was asked to be. */
#define VALUE_FORMAT "val%llu:%c:" /* 'D' or 'O' */
#define ACK_FORMAT "ack%llu."      /* echoed behind the commit: the promise of value number n */

#endif
