/* Is a follower so far behind that it should give way to others while it catches up?
 *
 * A follower that was away applies a backlog as fast as a processor allows. On a machine of its own that is what is
 * wanted. Where the primary, or anything else that somebody waits for, runs beside it, the same work takes the
 * processor from them, for nobody's benefit: what is applied of a backlog is old, whether it comes a second sooner or
 * later. So a backlog is applied at a lower scheduling priority, which costs nothing where there is processor time to
 * spare.
 *
 * A thread may lower its priority and, unprivileged, never raise it again. So the apply thread keeps its own, and
 * stands aside for one that is made for the backlog and ends with it (background.c):
 *
 *   unapplied   ...... BEGIN ............. END ......
 *   applies     apply  |  a thread that gives way  |  apply
 *
 * On a busy machine giving way could mean to fall behind for good, where its fair share would have kept the follower
 * going. So it must gain: if the distance to the primary has not shrunk within GAIN_NS, the apply thread takes over,
 * and stays until the backlog is gone.
 *
 * Pure: arithmetic on sizes and times. The engine calls it with `mu` held.
 */
#ifndef DW_ENGINE_FAR_BEHIND_H
#define DW_ENGINE_FAR_BEHIND_H

#include <stdbool.h>
#include <stdint.h>

#define FAR_BEHIND_BEGIN_BYTES (8u << 20) /* a live follower at hundreds of thousands of commits a second has less */
#define FAR_BEHIND_END_BYTES (1u << 20)
#define FAR_BEHIND_GAIN_NS 3000000000ull

struct far_behind {
  bool behind, hurries;        /* in a backlog; and it did not shrink while giving way */
  uint64_t distance, since_ns; /* what was left at the last look, and when that was */
};

/* unapplied: bytes of the log here; distance: commits, to what is known committed. True: give way. */
bool far_behind(struct far_behind *, uint64_t unapplied, uint64_t distance, uint64_t now_ns);

#endif
