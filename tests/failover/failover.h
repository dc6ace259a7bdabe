/* Automatic failover of real processes, in pieces:
 *
 *   failover.c   the program: its options, the plan of rounds, the figures
 *   cluster.c    etcd and three daemons, each in a network namespace of its own if the machine allows it
 *   load.c       eight writers that go to whoever takes writes, and how long nobody was answered
 *   registers.c  clients that write and read a few registers at every level, for the history
 *   rounds.c     one failover, one switchover, one loss of etcd, one pause
 *   partition.c  who is cut from whom, and what must happen then
 *   verdict.c    nothing lost, all alike, the history allowed, epochs rise, audit logs sound
 */
#ifndef DW_TEST_FAILOVER_H
#define DW_TEST_FAILOVER_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/support/daemons.h"

#define NODES 3
#define WAIT_MS 40000u

struct settings {
  int acks;
  bool keep;         /* --on-coordinator-loss=keep */
  unsigned lease_ms;
  bool namespaces;   /* else all on loopback, etcd behind proxies */
};
extern struct settings settings;

uint64_t now_us(void);
uint64_t wall_ms(void);
/* Ends the program as a failed one; daemons and etcd go with it. */
_Noreturn void give_up(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#define AWAIT(what, condition)                                                                                         \
  do {                                                                                                                 \
    uint64_t until_us = now_us() + WAIT_MS * 1000ull;                                                                  \
    while (!(condition)) {                                                                                             \
      if (now_us() > until_us) give_up("waited in vain: %s", what);                                                    \
      poll(NULL, 0, 10);                                                                                               \
    }                                                                                                                  \
  } while (0)

/* ---- cluster.c ------------------------------------------------------------------------------ */

extern char dir[256]; /* of everything */
extern struct daemon_proc node[NODES];

void cluster_start(void);
int cluster_stop(void);  /* by SIGTERM; not 0: a daemon's exit code was not */
void cluster_kill(void); /* however the program ends */
void cluster_signalled(void); /* likewise, from a signal handler */

bool node_ask(int i, char *reply, size_t cap, const char *words);
bool node_is(int i, const char *name, const char *value); /* a string of DW.STATUS */
bool node_state_is(int i, const char *state);             /* its coordinator's */
int leader(void);                                         /* -1: nobody */
bool all_follow(int primary);
/* Out of reach or hung: it is not asked who leads, until it is told otherwise (-1). */
void node_away(int i);
void node_kill9(int i);
unsigned node_life(int i); /* grows with each kill */
void etcd_hang(bool on);
/* `dabbawal WORDS`, with the coordinator's options if it is about the cluster; its exit code. */
int tool(const char *words, bool about_cluster);
/* What `from` sends to `to` arrives or not; a node, CLIENTS or ETCD. Without namespaces only between a node and etcd, and
 * both ways at once. */
enum { CLIENTS = -1, ETCD = -2 };
void cluster_pass(int from, int to, bool on);
void cluster_plug(int i, bool on); /* the cable; namespaces only */

/* ---- load.c --------------------------------------------------------------------------------- */

#define WRITERS 8

void load_start(void);
void load_stop(void);
unsigned long load_acks(void);
/* From now on: the first write that somebody else than `node` acknowledges, and the last one that it does itself. */
void load_watch(int node);
void load_forget_first(void);
uint64_t load_first_elsewhere_us(void); /* 0: none yet */
uint64_t load_last_there_us(void);      /* 0: none */
/* When the last one of those was asked for. A client may read an answer late, so only a question that came after another
 * node's answer tells that both acknowledge. */
uint64_t load_last_asked_there_us(void);
/* The longest time without an acknowledgement, from load_gap_begin until now. */
void load_gap_begin(void);
uint64_t load_gap_us(void);
/* How many acknowledged writes are not at this node. */
unsigned long load_lost(int at);

/* ---- registers.c ---------------------------------------------------------------------------- */

void registers_start(void);
void registers_stop(void);
/* Is the history allowed? log_dir: the primary's. Prints what was seen. */
bool registers_judge(const char *log_dir);

/* ---- rounds.c, partition.c ------------------------------------------------------------------ */

/* What a round took: a failover until the first write that somebody else acknowledged, a switchover its longest pause; 0 if
 * it is of another kind. */
uint64_t play_round(const char *kind, int number);
bool is_round(const char *kind);

bool is_partition(const char *kind);
/* Whether somebody else has to take over. */
bool partition_fails_over(const char *kind);
void partition_set(const char *kind, int primary, bool cut);
/* A round in which nobody may take over. */
void partition_without_failover(const char *kind, int number);

/* ---- verdict.c ------------------------------------------------------------------------------ */

bool verdict(void);

#endif
