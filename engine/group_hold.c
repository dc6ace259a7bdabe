/* See group_hold.h. */
#include "engine/group_hold.h"

#define SYNC_MAX_NS 2000000u /* a slow disk's group fills by itself */
#define RETURN_NS 5000u      /* a guess to begin with */
#define PENALTY_MAX 1024u

void hold_synced(struct group_hold *h, uint64_t took_ns) {
  if (took_ns > SYNC_MAX_NS) took_ns = SYNC_MAX_NS;
  h->sync_ns = h->sync_ns ? h->sync_ns - h->sync_ns / 8 + took_ns / 8 : took_ns;
}

void hold_begin(struct group_hold *h, size_t queued, size_t answered, unsigned worth_syncs, uint64_t now_ns) {
  h->target = 0;
  if (answered == 0 || queued + answered < 2) return;
  if (h->skip) {
    h->skip--;
    return;
  }
  if (!h->return_ns) h->return_ns = RETURN_NS;
  if (answered * h->return_ns > h->sync_ns * worth_syncs) {
    h->return_ns -= h->return_ns / 64; /* forgotten in time, so that it is tried again */
    return;
  }
  h->target = queued + answered;
  h->had = queued;
  h->began_ns = now_ns;
  h->until_ns = now_ns + h->sync_ns * worth_syncs + h->sync_ns / 2;
}

void hold_end(struct group_hold *h, size_t queued, uint64_t now_ns) {
  if (!h->target) return;
  size_t expected = h->target - h->had, came = queued > h->had ? queued - h->had : 0;
  uint64_t took = (now_ns < h->until_ns ? now_ns : h->until_ns) - h->began_ns, each = took / (came ? came : 1);
  h->return_ns = h->return_ns - h->return_ns / 8 + each / 8;
  if (came >= expected - expected / 4) {
    h->penalty = 0;
  } else if (now_ns >= h->until_ns) {
    h->penalty = h->penalty < PENALTY_MAX / 2 ? 2 * h->penalty + 1 : PENALTY_MAX;
    h->skip = h->penalty;
  }
  h->target = 0;
}

void hold_cancel(struct group_hold *h) {
  h->target = 0;
}
