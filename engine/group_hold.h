/* When the next group is closed: shall the log leader's role rest until the writers just answered are back?
 *
 * Writers that wait for a sync come in a loop: answered, they write again at once. A leader that starts the next sync
 * the moment the last one ends takes only those who were queued meanwhile, and the ones it has just answered miss it:
 * two half groups alternate, and each commit waits for two syncs. Waiting a moment for them makes one full group.
 *
 *   taken at once     sync AAAA | sync BBBB | sync AAAA       half of the writers in each sync
 *   held              sync AAAABBBB |..| sync AAAABBBB        all of them, for the price of the pause
 *
 * The writer who completes the group leads it: in the usual case nobody sleeps for the hold, and no thread is woken to
 * lead. A pause costs what the writers need to be woken, one after the other, and to come back; it is worth a few
 * syncs. So the hold learns what it takes for each, begins only where the sum promises to be less, and ends some time
 * after it in any case. Who does not come back (fewer than three quarters did) makes it rest, longer each time.
 *
 * Writers that wait for no disk come back within microseconds, and a pause must be shorter than the wake-up that ends
 * it. So nothing is held there: who comes back before the others offers them the processor, twice at most, and leads
 * then whoever is there (struct gathering). One block, one write to the log and one to the store serve all of them.
 *
 * Pure: arithmetic on counts and times. The engine calls it with `mu` held.
 */
#ifndef DW_GROUP_HOLD_H
#define DW_GROUP_HOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct group_hold {
  size_t target;     /* requests that the queue is to hold before it is taken; 0: nothing is held */
  uint64_t until_ns; /* ... but not longer than this */
  uint64_t began_ns;
  size_t had;             /* in the queue when the hold began */
  uint64_t sync_ns;       /* what a sync takes, smoothed */
  uint64_t return_ns;     /* what a hold takes for each writer that comes back, likewise */
  unsigned skip, penalty; /* groups to let pass without a hold; and how many the next time */
};

/* A sync took so long. */
void hold_synced(struct group_hold *, uint64_t took_ns);
/* A group is about to be answered: `answered` writers may come back, `queued` wait already. A pause is worth as many
 * syncs as `worth_syncs` says. */
void hold_begin(struct group_hold *, size_t queued, size_t answered, unsigned worth_syncs, uint64_t now_ns);
/* May the queue, with so many in it, be taken? Does not end the hold. */
static inline bool hold_closed(const struct group_hold *h, size_t queued) {
  return queued >= h->target;
}
/* The group is taken, or the hold's time is up. */
void hold_end(struct group_hold *, size_t queued, uint64_t now_ns);
/* Something came that is not to wait for others. */
void hold_cancel(struct group_hold *);

#define GATHER_YIELDS 2

/* How many writers without a disk to wait for write in a loop: as many as were answered together or waited then. Who
 * stays away is missed once. */
struct gathering {
  size_t together;
};
/* Of a group `answered` are answered now, and `waiting` others wait already. */
static inline void gathering_seen(struct gathering *g, size_t answered, size_t waiting) {
  g->together = answered + waiting;
}
/* So many wait: are there others to come? */
static inline bool gathering_lacks(const struct gathering *g, size_t waiting) {
  return waiting < g->together;
}

#endif
