/* The load of the crash test: writers at the primary, a reader at each node, all of them used to servers that die. */
#ifndef DW_CRASH_LOAD_H
#define DW_CRASH_LOAD_H

#include <stdatomic.h>

#include "tests/crash/model.h"

#define NODES 3 /* the primary, two followers */

/* How a writer asks for its writes: a DW.MODE line and what an OK then promises. */
struct write_mode {
  char words[7][16]; /* behind DW.MODE */
  int count;
  struct promise promise;
};

struct load {
  struct model *model;
  int port[NODES];
  atomic_uint opened[NODES]; /* grows before a node is killed: tells connections to its different lives apart */
  atomic_uint mode_round;    /* grows with every change of `mode` */
  pthread_mutex_t mode_mu;
  struct write_mode mode[WRITERS];
  atomic_bool stop, pause;
  atomic_int resting; /* writers that obey `pause` */
  atomic_ulong acked, in_doubt, refused, reads;
  atomic_bool wrong; /* a reader or writer has a complaint */
  pthread_mutex_t why_mu;
  char why[300];
  uint64_t seed;
  pthread_t writer[WRITERS], reader[NODES];
  uint64_t next_seq[WRITERS];
};

void load_start(struct load *, struct model *, const int port[NODES], uint64_t seed);
void load_stop(struct load *);
/* All writers stand still with no answer outstanding / go on. False: a complaint, or one did not come to rest. */
bool load_pause(struct load *);
void load_resume(struct load *);
void load_set_modes(struct load *, const struct write_mode modes[WRITERS]);
void load_complain(struct load *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Reads every unit of a node and judges it by its model. `complete`: by what must be there; else only by what may be.
 * index (may be NULL): what was seen; where nothing is, the oldest delete that explains it, without `complete` the newest.
 * False: a complaint. */
bool load_judge_node(struct load *, int node, bool complete, size_t index[WRITERS][UNITS]);

uint64_t draw(uint64_t *state); /* splitmix64 */
int draw_below(uint64_t *state, int n);

#endif
