/* Nodes in memory around the real shipper, receiver, quorum and position code: a log that is an array of real sealed
 * blocks, a network that is a pair of byte buffers which can be fragmented, cut and black-holed, a clock that moves when
 * told. No threads, files or sockets; the same seed gives the same run.
 */
#ifndef DW_TEST_REPL_SIM_H
#define DW_TEST_REPL_SIM_H

#include "replication/ack_quorum.h"
#include "replication/position.h"
#include "replication/receiver.h"
#include "replication/shipper.h"

#define SIM_MS 1000000ull

/* ---- a log in memory ------------------------------------------------------------------------- */
struct memlog {
  struct wal_block **blocks;
  size_t n, cap, first; /* [first, n) are held, those before are trimmed */
  struct wal_pos base, end, *bounds; /* bounds[i]: before block i */
  struct hash128 cluster;
};
void memlog_init(struct memlog *, const struct hash128 *cluster, const struct wal_pos *base);
void memlog_free(struct memlog *);
void memlog_add(struct memlog *, struct wal_block *); /* sealed; takes the reference */
/* Seals and appends: kind COMMITS with `commits` commits (0: BLOCK_EPOCH), payload of about `bytes` derived from `salt`. */
void memlog_write(struct memlog *, uint64_t epoch, uint32_t commits, size_t bytes, struct block_need, uint64_t salt,
                  dw_lsn commit_lsn);
struct wal_pos memlog_bound(const struct memlog *, size_t i);
int memlog_find(void *, const struct wal_pos *);
int memlog_at_most(void *, uint64_t epoch, dw_lsn, struct wal_pos *);
int memlog_index(const struct memlog *, const struct wal_pos *, size_t *i);
void memlog_truncate(struct memlog *, size_t i);
void memlog_trim(struct memlog *, size_t first);

/* ---- nodes ----------------------------------------------------------------------------------- */
struct sim;
struct sim_node;

struct sim_link { /* a follower's connection, both ends */
  struct sim_node *f, *s;
  struct shipper *ship;
  struct buf up, down; /* on the wire */
  bool open, hole_up, hole_down; /* holes: bytes vanish, nobody is told */
  bool stuck_down;               /* the follower's kernel takes nothing */
  bool closed_by_ship;
  size_t cursor;
  size_t max_unsent;
  bool superseded;
};

#define SIM_FILES 3
struct sim_node {
  struct sim *sim;
  const char *name;
  uint64_t id;
  struct hash128 incarnation;
  dw_role role;
  bool has_cluster;
  struct memlog log;
  uint64_t epoch;
  struct epoch_record epochs[32];
  size_t epoch_count;
  dw_lsn durable, commit;
  struct wal_pos applied;
  struct ack_quorum quorum;
  struct ack_marks marks;
  struct msg_members members; /* a server's: what it tells; a follower's: what it was told */
  bool sync_commit; /* commit follows the first durable ack instead of the log's end */

  /* as a follower */
  struct receiver *recv;
  struct sim_node *upstream;
  struct sim_link link;
  bool upstream_down;   /* connecting fails */
  bool hold_sync, sync_open, hold_apply;
  unsigned syncs, appends, truncates, installs, connects, closes, probes_lost;
  unsigned parts;      /* told to keep what lies beyond a parting */
  struct wal_pos part; /* the last one */
  int last_close_code;
  uint64_t last_retry_ns;
  char last_close[600], refusal_seen[600];
  int fail_append; /* rc for the next append */
  /* incoming checkpoint */
  struct ckpt_manifest incoming;
  struct buf files[SIM_FILES];
  bool held[SIM_FILES];
  uint64_t chunk_bytes_written;
  uint64_t last_done_id;
  dw_lsn last_done_lsn;
  struct {
    uint64_t id;
    struct sim_link *link;
    struct msg_probe probe;
  } relayed[64];
  unsigned relayed_count;
  /* as a server */
  unsigned checkpoints_made, checkpoints_dropped;
  struct hash128 ckpt_id;
  struct wal_pos ckpt_pos;
  bool ckpt_alive;
  char last_ship_close[600];
  uint64_t file_bytes[SIM_FILES];
};

struct sim {
  uint64_t now, rng;
  struct sim_node *nodes[8];
  size_t count;
  size_t fragment; /* > 0: at most so many bytes arrive at once */
  uint32_t heartbeat_ms, peer_timeout_ms;
  uint64_t pack_rate; /* of every server's shippers */
};

void sim_init(struct sim *, uint64_t seed);
void sim_free(struct sim *);
uint64_t sim_draw(struct sim *, uint64_t below);
struct hash128 sim_id(uint64_t);
/* A primary starts epoch 1 of cluster 7; a follower is empty and dials at once. */
struct sim_node *sim_primary(struct sim *, const char *name, uint64_t id);
struct sim_node *sim_follower(struct sim *, const char *name, uint64_t id, struct sim_node *upstream);
void sim_new_epoch(struct sim_node *);
void sim_write(struct sim_node *, struct block_need, size_t bytes); /* one commit; not yet pumped */
extern const struct block_need sim_async, sim_durable, sim_received, sim_applied;
void sim_run(struct sim *);               /* until nothing moves; the clock stands */
void sim_pass(struct sim *, uint64_t ms); /* in steps of 5 ms */
void sim_disconnect(struct sim_node *follower);
void sim_restart(struct sim_node *follower); /* new receiver, applied kept */
void sim_end_sync(struct sim_node *);        /* answers a held sync */
/* The follower's log is block by block a prefix of the primary's. */
bool sim_is_prefix(const struct sim_node *follower, const struct sim_node *primary);
bool sim_equal(const struct sim_node *, const struct sim_node *);
struct quorum_follower *sim_known(struct sim_node *primary, uint64_t id);

#endif
