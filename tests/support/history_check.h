/* Judges a recorded history of concurrent clients: docs/semantics.md, "Reads", as conditions on times and values.
 *
 * Every write has a value of its own, so a read says which write it saw. Times are of one clock. A key is a register:
 *
 *   write            takes effect at one moment between its invocation and its return; one in doubt at any moment after its
 *                    invocation, or never; a refused one never
 *   STRONG read      of the value that is current at one moment between its invocation and its return
 *   BOUNDED b read   likewise, between b before its invocation and its return: it holds everything committed up to b before the node
 *                    judged its freshness, and that was not before the invocation
 *   SESSION, EVENTUAL likewise, at any moment before its return: what is seen anywhere is committed, and stays
 *
 * One order of the writes of a key must satisfy all of its reads at once. With values that are unique this needs no search (Gibbons
 * and Korach, "Testing shared memories", 1997). Value v must be current from f, the first return of its write or of a read of it, or
 * before, until s, the last invocation among them, or later:
 *
 *   f < s   v is current throughout [f, s]: no two such intervals overlap
 *   s <= f  v is current at some moment of [s, f]: that interval lies within none of the others
 *
 * Besides, every node shows a prefix of the commit order, and never an earlier one within one life of its engine: a read misses no write
 * whose LSN is at most what was in sight there before: the LSN of any value returned before it began, the token of a SESSION read,
 * for a STRONG (BOUNDED) read the LSNs of all writes that had returned (b before).
 */
#ifndef DW_TEST_HISTORY_CHECK_H
#define DW_TEST_HISTORY_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum event_kind { EVENT_WRITE, EVENT_STRONG, EVENT_BOUNDED, EVENT_SESSION, EVENT_EVENTUAL };
enum event_end { END_OK, END_IN_DOUBT, END_REFUSED };

struct event {
  enum event_kind kind;
  enum event_end end;    /* of a write; reads that were refused are no events */
  int key;
  uint64_t value;        /* of a write: unique, not 0; of a read: 0 for "nothing there" */
  uint64_t invoked, returned;
  uint64_t bound;        /* BOUNDED */
  uint64_t token;        /* SESSION: LSN */
  int node;
  unsigned life;         /* of the node's engine */
  uint64_t snapshot;     /* reads of one number saw one point; 0: its own */
  uint64_t lsn;          /* of a write; 0: not known, then it takes no part in the rules about prefixes */
};

/* False: a violation, told in `why`. The events are sorted. */
bool judge_history(struct event *, size_t n, char *why, size_t cap);

#endif
