/* How old is this follower's data, without trusting anybody's clock?
 *
 *   follower                         primary
 *   t0  PROBE id ------------------->
 *       <-------------- PROBE_ANSWER id, commit_lsn = c     (c read after the probe arrived)
 *   ... applied reaches c:  the data holds everything committed before t0   =>   fresh_as_of = t0
 *
 *   staleness = now - fresh_as_of, both readings of the follower's own monotonic clock.
 *
 * An idle primary answers with the same c for ever, so an idle follower stays fresh; a cut link answers nothing, so
 * staleness grows from the last probe that got through. A connection's end forgets all probes under way: their answers
 * could come from somebody else. Nothing is kept over a restart: unknown (UINT64_MAX) until the first confirmed probe.
 *
 * Bounded: at most STALENESS_PROBES under way, as many answers waiting to be applied. When the answers take so long, or the
 * follower lags so far, that a table fills, it is thinned out evenly: precision falls with the lag (to about 1/32 of it),
 * correctness does not. So probes that are never answered do not use up the table; answers to forgotten ones are ignored.
 *
 * A strong read is a probe sent after the read began whose commit_lsn has been applied.
 */
#ifndef DW_REPLICATION_STALENESS_H
#define DW_REPLICATION_STALENESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wal/base/status.h"

#define STALENESS_PROBES 64u

struct staleness_probe {
  uint64_t id, sent_ns;
  dw_lsn commit_lsn; /* answered ones */
  bool awaited;      /* somebody waits for this very probe: forgotten last */
};
struct staleness {
  struct staleness_probe sent[STALENESS_PROBES], answered[STALENESS_PROBES]; /* in order of sent_ns */
  unsigned sent_count, answered_count;
  uint64_t next_id, first_id; /* first of this connection */
  dw_lsn applied;
  bool known;
  uint64_t fresh_as_of_ns; /* if known */
};

void staleness_init(struct staleness *);
/* A probe goes out at now_ns: its id, never 0. */
uint64_t staleness_sent(struct staleness *, uint64_t now_ns, bool awaited);
/* An answer came. False: no such probe under way (forgotten, repeated, an earlier connection's, an invented one). */
bool staleness_answered(struct staleness *, uint64_t id, dw_lsn commit_lsn);
/* Was a probe of that id ever sent on this connection? */
bool staleness_asked(const struct staleness *, uint64_t id);
/* The applied LSN is (now) this. */
void staleness_applied(struct staleness *, dw_lsn applied);
void staleness_disconnected(struct staleness *);
/* Age of the data; UINT64_MAX: unknown. */
uint64_t staleness_ns(const struct staleness *, uint64_t now_ns);

#endif
