/* The table of all options of both daemons: name, type, bounds, where it goes, what --help says. Defaults are not here
 * but in config_init, taken from dw_options_init, and --help prints them from there. */
#include <stddef.h>

#include "replication/cmd/config.h"

#define BOTH (DAEMON_PRIMARY | DAEMON_FOLLOWER)
#define FIELD(f) offsetof(struct config, f), sizeof(((struct config *)0)->f)
#define SIZE_MAX_BYTES (1ull << 50)
#define DAY_MS 86400000ull

static const struct option_word mode_words[] = {
    {"async", DW_ASYNC}, {"semi-sync", DW_SEMI_SYNC}, {"sync", DW_SYNC}, {NULL, 0}};
static const struct option_word ack_words[] = {
    {"received", DW_ACK_RECEIVED}, {"durable", DW_ACK_DURABLE}, {"applied", DW_ACK_APPLIED}, {NULL, 0}};
static const struct option_word durability_words[] = {
    {"disk", DW_DURABILITY_DISK}, {"os", DW_DURABILITY_OS}, {NULL, 0}};
static const struct option_word level_words[] = {
    {"debug", DW_LOG_DEBUG}, {"info", DW_LOG_INFO}, {"warn", DW_LOG_WARN}, {"error", DW_LOG_ERROR}, {NULL, 0}};

static const struct option_word yes_words[] = {{"yes", 1}, {"no", 0}, {NULL, 0}};
static const struct option_word loss_words[] = {{"stop", 0}, {"keep", 1}, {NULL, 0}};

/* clang-format off */
const struct option option_table[] = {
  {"data", NULL, OPTION_PATH, BOTH, BOTH, "DIR", "the data directory; made if missing", "Node", FIELD(data), 0, 0, NULL},
  {"primary", NULL, OPTION_ADDRESS, DAEMON_FOLLOWER, DAEMON_FOLLOWER, "HOST:PORT", "the node to follow", NULL, FIELD(primary), 1, 0, NULL},
  {"listen", NULL, OPTION_ADDRESS, BOTH, DAEMON_PRIMARY, "HOST:PORT", "where followers connect", NULL, FIELD(listen), 0, 0, NULL},
  {"node-id", NULL, OPTION_NUMBER, BOTH, 0, "N", "unique in the cluster; drawn at random and kept if not given", NULL, FIELD(engine.node_id), 1, UINT64_MAX, NULL},
  {"region", NULL, OPTION_TEXT, BOTH, 0, "NAME", "shown in status and metrics", NULL, FIELD(region), 0, DW_REGION_BYTES - 1, NULL},
  {"priority", NULL, OPTION_NUMBER, BOTH, 0, "N", "among followers with the same log the highest is promoted; 0: never", NULL, FIELD(engine.priority), 0, 1000000, NULL},

  {"resp", NULL, OPTION_ADDRESS, BOTH, 0, "HOST:PORT", "serve Redis clients here", "Front ends", FIELD(resp), 0, 0, NULL},
  {"http", NULL, OPTION_ADDRESS, BOTH, 0, "HOST:PORT", "serve /metrics /healthz /readyz /status /primary /replica here", NULL, FIELD(http), 0, 0, NULL},
  {"client-address", NULL, OPTION_ADDRESS, BOTH, 0, "HOST:PORT", "where clients reach --resp, told to the other nodes; --resp itself if not given", NULL, FIELD(client_address), 1, 0, NULL},
  {"cluster-name", "cluster", OPTION_TEXT, BOTH, 0, "NAME", "of this cluster, at the coordinator and for SENTINEL [dabbawal]", NULL, FIELD(cluster_name), 0, 63, NULL},
  {"max-staleness", NULL, OPTION_TIME, BOTH, 0, "MS", "default bound of reads here, and of /readyz; 0: none", NULL, FIELD(max_staleness_ms), 0, 365 * DAY_MS, NULL},
  {"max-clients", NULL, OPTION_NUMBER, BOTH, 0, "N", "Redis clients at once", NULL, FIELD(max_clients), 1, 1000000, NULL},
  {"resp-threads", NULL, OPTION_NUMBER, BOTH, 0, "N", "threads that serve Redis clients, 1 to 64; 0: one for each processor, but at most 2", NULL, FIELD(resp_threads), 0, 64, NULL},

  {"mode", NULL, OPTION_WORD, BOTH, 0, "MODE", "whom a write waits for", "Commits", FIELD(engine.mode), 0, 0, mode_words},
  {"acks", NULL, OPTION_NUMBER, BOTH, 0, "N", "how many followers, in semi-sync and sync mode", NULL, FIELD(engine.acks), 1, DW_MAX_ACKS, NULL},
  {"ack", NULL, OPTION_WORD, BOTH, 0, "LEVEL", "what they must have done", NULL, FIELD(engine.ack), 0, 0, ack_words},
  {"ack-timeout", NULL, OPTION_TIME, BOTH, 0, "MS", "how long a write (follower: a STRONG read) waits", NULL, FIELD(engine.ack_timeout_ms), 1, DAY_MS, NULL},
  {"durability", NULL, OPTION_WORD, BOTH, 0, "WHAT", "synced to disk before OK, or handed to the kernel", NULL, FIELD(engine.durability), 0, 0, durability_words},

  {"sync-interval", NULL, OPTION_TIME, BOTH, 0, "MS", "background sync of --durability os", "Log and store", FIELD(engine.sync_interval_ms), 1, 3600000, NULL},
  {"segment-bytes", NULL, OPTION_SIZE, BOTH, 0, "SIZE", "one file of the log", NULL, FIELD(engine.segment_bytes), 65536, 4ull << 30, NULL},
  {"retain-bytes", NULL, OPTION_SIZE, BOTH, 0, "SIZE", "log kept for followers that are away", NULL, FIELD(engine.retain_bytes), 0, SIZE_MAX_BYTES, NULL},
  {"retain", "retain-ms", OPTION_TIME, BOTH, 0, "TIME", "likewise; whichever is reached first", NULL, FIELD(engine.retain_ms), 0, 3650 * DAY_MS, NULL},
  {"block-cache", NULL, OPTION_SIZE, BOTH, 0, "SIZE", "the store's cache for reads", NULL, FIELD(engine.block_cache_bytes), 0, SIZE_MAX_BYTES, NULL},
  {"memtable", NULL, OPTION_SIZE, BOTH, 0, "SIZE", "the store's buffer for writes", NULL, FIELD(engine.memtable_bytes), 65536, 16ull << 30, NULL},
  {"repair-from", NULL, OPTION_ADDRESSES, BOTH, 0, "HOST:PORT,...", "peers whose blocks a damaged log is repaired with", NULL, FIELD(repair_from), 0, 0, NULL},
  {"scrub-rate", NULL, OPTION_SIZE, BOTH, 0, "SIZE", "log read per second in search of damage; 0: none", NULL, FIELD(engine.scrub_bytes_per_s), 0, 1ull << 40, NULL},
  {"scrub-interval", NULL, OPTION_TIME, BOTH, 0, "TIME", "from the beginning of one pass to the next", NULL, FIELD(engine.scrub_interval_ms), 1, 3650 * DAY_MS, NULL},
  {"zstd-level", NULL, OPTION_NUMBER, BOTH, 0, "N", "compression of the log, -5 to 19; 0: none", NULL, FIELD(engine.zstd_level), -5, 19, NULL},

  {"heartbeat", NULL, OPTION_TIME, BOTH, 0, "MS", "heartbeats and staleness probes between nodes", "Links between nodes", FIELD(engine.heartbeat_ms), 10, 60000, NULL},
  {"peer-timeout", NULL, OPTION_TIME, BOTH, 0, "MS", "a silent peer is disconnected", NULL, FIELD(engine.peer_timeout_ms), 20, 3600000, NULL},

  {"peers", NULL, OPTION_ADDRESSES, BOTH, 0, "HOST:PORT,...", "all other nodes of the cluster, by their --listen: who is asked at a promotion", "Failover", FIELD(peers), 0, 0, NULL},
  {"advertise", NULL, OPTION_ADDRESS, BOTH, 0, "HOST:PORT", "where other nodes reach --listen; --listen itself if not given", NULL, FIELD(advertise), 1, 0, NULL},
  {"coordinator", NULL, OPTION_COORDINATOR, BOTH, 0, "etcd://HOST:PORT,...", "who holds the lease there is primary", NULL, FIELD(coordinator), 0, 0, NULL},
  {"lease-ttl", "lease-ttl-ms", OPTION_TIME, BOTH, 0, "TIME", "of the lease; a primary stops a fifth earlier", NULL, FIELD(failover.lease_ttl_ms), 2000, 600000, NULL},
  {"renew-interval", NULL, OPTION_TIME, BOTH, 0, "TIME", "between two renewals, of the lease and of what the node says of itself", NULL, FIELD(failover.renew_ms), 50, 60000, NULL},
  {"poll-interval", NULL, OPTION_TIME, BOTH, 0, "TIME", "between two looks at the coordinator; a fifth of it while there is no primary", NULL, FIELD(failover.poll_ms), 20, 60000, NULL},
  {"missed-renewals", NULL, OPTION_NUMBER, BOTH, 0, "N", "after which a primary is suspected", NULL, FIELD(failover.missed_renewals), 1, 100, NULL},
  {"early-takeover", NULL, OPTION_WORD, BOTH, 0, "YES|NO", "take the lease of a suspected primary whose host refuses connections", NULL, FIELD(failover.early), 0, 0, yes_words},
  {"candidate-wait", NULL, OPTION_TIME, BOTH, 0, "TIME", "a candidate waits so long for each better one", NULL, FIELD(failover.candidate_wait_ms), 10, 600000, NULL},
  {"prefer-region", NULL, OPTION_TEXT, BOTH, 0, "NAME", "among equals of the same priority its nodes go first", NULL, FIELD(preferred_region), 0, DW_REGION_BYTES - 1, NULL},
  {"failover-max-lag", NULL, OPTION_TIME, BOTH, 0, "TIME", "a node whose data is older is not promoted; 0: any age will do", NULL, FIELD(failover.max_lag_ms), 0, 365 * DAY_MS, NULL},
  {"failover-cooldown", NULL, OPTION_TIME, BOTH, 0, "TIME", "between two failovers", NULL, FIELD(failover.cooldown_ms), 0, DAY_MS, NULL},
  {"max-failovers-per-hour", NULL, OPTION_NUMBER, BOTH, 0, "N", "0: no cap", NULL, FIELD(failover.max_per_hour), 0, 16, NULL},
  {"on-coordinator-loss", NULL, OPTION_WORD, BOTH, 0, "WHAT", "a primary stops, or goes on as long as enough followers confirm", NULL, FIELD(failover.keep), 0, 0, loss_words},
  {"auto-rejoin", NULL, OPTION_FLAG, BOTH, 0, NULL, "an old primary follows the new one by itself; what only it has goes to DIR/diverged", NULL, FIELD(auto_rejoin), 0, 1, NULL},

  {"config", NULL, OPTION_PATH, BOTH, 0, "FILE", "lines of `name = value`, names as here; flags win", "Process", FIELD(file), 0, 0, NULL},
  {"log-level", NULL, OPTION_WORD, BOTH, 0, "LEVEL", "the least that is logged", NULL, FIELD(log_level), 0, 0, level_words},
  {"log-file", NULL, OPTION_PATH, BOTH, 0, "FILE", "instead of stderr; SIGHUP reopens it", NULL, FIELD(log_file), 0, 0, NULL},
  {"pid-file", NULL, OPTION_PATH, BOTH, 0, "FILE", "written when ready, removed at the end", NULL, FIELD(pid_file), 0, 0, NULL},
  {"help", "h", OPTION_FLAG, BOTH, 0, NULL, "this text", NULL, FIELD(help), 0, 0, NULL},
  {"version", NULL, OPTION_FLAG, BOTH, 0, NULL, "the version", NULL, FIELD(version), 0, 0, NULL},
};
const size_t option_count = sizeof option_table / sizeof *option_table;
/* clang-format on */
