/* Several nodes of one cluster in one process, on loopback and temporary directories: what the integration tests of
 * replication share.
 *
 * A test makes a cluster, sets options of its nodes, opens and closes them at will, awaits conditions of their status,
 * and ends with cluster_free. Every wait has a deadline and fails the test with what was awaited and the nodes' last
 * log lines.
 */
#ifndef DW_TESTS_CLUSTER_H
#define DW_TESTS_CLUSTER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/dabbawal.h"
#include "wal/base/hash.h"

#define CLUSTER_NODES 5
#define CLUSTER_LOG_BYTES 65536
#define AWAIT_MS 20000

struct cluster_node {
  struct cluster *c;
  int number;
  dw_engine *e; /* NULL: closed */
  dw_options opt;
  char dir[400];
  char listen[64], primary[64];
  char peers[200];
  uint16_t port; /* bound; kept over a reopening */
  pthread_mutex_t log_mu;
  char log[CLUSTER_LOG_BYTES]; /* lines, the oldest fall out */
  size_t log_n;
};

struct cluster {
  char root[300];
  struct cluster_node node[CLUSTER_NODES];
};

/* Quick heartbeats, small caches. Node 0 is the primary and listens; the others are followers of it (whoever is
 * followed must be open first, for its port). */
void cluster_init(struct cluster *);
/* Besides, of an initialized one: the first three all listen, know each other, and write in mode sync with one ack, so
 * that two promises make a promotion. */
void cluster_of_three(struct cluster *);
void cluster_free(struct cluster *); /* closes what is open, removes the directories */

int node_try_open(struct cluster_node *);
void node_open(struct cluster_node *); /* must succeed */
void node_close(struct cluster_node *);
void node_reopen(struct cluster_node *);
void node_wipe(struct cluster_node *); /* closed: removes its directory */
/* Where a follower connects to from its next opening on; a primary's or a proxy's port. */
void node_follow_port(struct cluster_node *, uint16_t port);
void node_follow(struct cluster_node *, const struct cluster_node *);

/* ---- writing and reading ------------------------------------------------------------------- */

dw_lsn node_put(struct cluster_node *, const char *key, const char *value); /* must succeed */
/* "k%08u" from `from` on: `count` commits of values with `bytes` bytes; asynchronous in the engine's mode, then waited
 * for. */
dw_lsn node_fill(struct cluster_node *, unsigned from, unsigned count, size_t bytes);
/* Value as a string, or what went wrong ("DW_NOT_FOUND"). Not to be kept. */
const char *node_get(struct cluster_node *, const dw_read_options *, const char *key);
/* Number of records, and a hash over all of them in order. */
uint64_t node_records(struct cluster_node *, struct hash128 *);
void assert_equal_data(struct cluster_node *, struct cluster_node *);

/* ---- waiting --------------------------------------------------------------------------------- */

uint64_t now_ms(void);
void node_status(struct cluster_node *, dw_status *);
/* The follower with this node's id in `at`'s status; false: not there. */
bool node_as_follower(struct cluster_node *at, const struct cluster_node *of, dw_follower_status *);

typedef bool (*status_fn)(struct cluster_node *, const dw_status *, uint64_t arg);
void await_status(struct cluster_node *, const char *what, status_fn, uint64_t arg);
void await_streaming(struct cluster_node *primary, unsigned followers); /* so many, at the live tail */
void await_applied(struct cluster_node *, dw_lsn);
void await_same(struct cluster_node *primary,
                struct cluster_node *follower); /* applied what the primary has committed */
void await_primary_state(struct cluster_node *, dw_peer_state);
void await_log(struct cluster_node *, const char *text); /* a line that contains it */
bool node_logged(struct cluster_node *, const char *text);
void node_forget_log(struct cluster_node *);

#endif
