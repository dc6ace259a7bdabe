/* Clients of a few registers that note what they did, for history_check.h: each key is a register, each written value is
 * written once. Who kills, stops and cuts meanwhile, and where a client goes next, is its caller's business.
 */
#ifndef DW_TEST_REGISTERS_H
#define DW_TEST_REGISTERS_H

#include <stdatomic.h>
#include <stdint.h>

#include "tests/support/history_check.h"
#include "tests/support/resp_wire.h"

/* What all clients of one history share. */
struct register_set {
  int keys;
  atomic_ullong values;    /* given out so far, from 1 */
  atomic_ullong snapshots; /* likewise */
  atomic_ullong token;     /* the highest LSN that any writer was told */
};

/* One connection, one thread. */
struct register_client {
  struct register_set *set;
  bool roles_change; /* a node may say that it is not the primary: then the write is not done */
  int node;
  unsigned life; /* of that node */
  uint64_t rnd;
  struct wire wire; /* opened by the caller */
  struct event *events;
  size_t count, cap;
  unsigned long stale;   /* reads that were refused */
  bool elsewhere;        /* the last write was refused because somebody else is primary */
  char wrong[300];       /* a reply that none of the rules allows */
};

void register_set_init(struct register_set *, int keys);
uint64_t register_now_ns(void); /* the clock of all events */
int register_draw(uint64_t *state, int n);

/* Writes a new value to some key. END_IN_DOUBT also if the connection broke; it is closed then. */
enum event_end register_write(struct register_client *);
/* Reads one key, or two at one point, by some level. False: the connection is of no use any more. */
bool register_read(struct register_client *);

#endif
