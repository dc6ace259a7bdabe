/* The three daemons of the crash test, and what is asked of them between two crashes. */
#ifndef DW_CRASH_CLUSTER_H
#define DW_CRASH_CLUSTER_H

#include "tests/crash/load.h"
#include "tests/support/daemons.h"

struct cluster_plan {
  const char *mode, *ack, *durability;
  int acks;
  bool small; /* small segments, a small store buffer, no log kept for absent followers: they need bootstraps */
};

struct crash_cluster {
  struct daemon_proc node[NODES];
  struct load load;
  char dir[300];
};

void cluster_open(struct crash_cluster *, const char *dir, const struct cluster_plan *);
void cluster_kill(struct crash_cluster *, unsigned set); /* bits: nodes; at once */
void cluster_start(struct crash_cluster *, unsigned set); /* those that are down */
/* Everything written is committed and applied on all nodes, and their checksums are equal. Nobody may write. */
void cluster_converge(struct crash_cluster *);
/* For each unit, the newest attempt that a follower has: in its log, or shown to readers. The node must be up. */
void cluster_follower_holds(struct crash_cluster *, int node, size_t logged[WRITERS][UNITS], size_t shown[WRITERS][UNITS]);
bool cluster_log_says(const struct crash_cluster *, int node, long from, const char *text);
long cluster_log_size(const struct crash_cluster *, int node);
unsigned long cluster_bootstraps(struct crash_cluster *, unsigned set); /* installed since these were started */

double now_s(void);
/* Polls a condition until it holds; fails the test after a minute, or at once when the load has a complaint. */
#define AWAIT(cluster, what, condition)                                                                        \
  do {                                                                                                         \
    double deadline_ = now_s() + 60;                                                                           \
    while (!(condition)) {                                                                                     \
      cluster_check(cluster);                                                                                  \
      ck_assert_msg(now_s() < deadline_, "waited in vain for: %s; see %s", what, (cluster)->dir);              \
      poll(NULL, 0, 5);                                                                                        \
    }                                                                                                          \
  } while (0)
void cluster_check(struct crash_cluster *); /* fails the test if the load has a complaint */

#endif
