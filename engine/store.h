/* The store: an ordered map that applies batches of the log atomically together with a marker that says
 * which boundary of the log it has applied. Two implementations: RocksDB (store_rocksdb.c, the only file that
 * includes rocksdb/c.h) and memory (store_mem.c, for simulation and tests; forgets on close what was not
 * flushed). tests/contract holds both to the same behaviour.
 *
 * Keys are the log's keys: a namespace byte, then bytes. The marker lives in namespace 0 under a key of the
 * store's own, so it can't collide with a user key; iterators made by store_iter_create are confined to one
 * namespace. Writers: one thread at a time (the apply leader). Readers: any number, beside it.
 */
#ifndef DW_STORE_H
#define DW_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wal/format.h"

struct store;
struct store_iter;

struct store_options {
  struct env *env;            /* store_mem keeps its flushed image through it; RocksDB ignores it */
  uint64_t block_cache_bytes; /* 0: no cache */
  uint64_t memtable_bytes;    /* flushes by itself when about so much is unflushed; 0: RocksDB 64 MiB, memory never */
  bool read_only;             /* implies must_exist; takes no lock, writes none of the store's data */
  bool must_exist;            /* else DW_NOT_FOUND; set it whenever data ought to be there */
  bool force_slow_batches;    /* for tests: RocksDB batches are built record by record, see store_rocksdb.c */
};

/* Piece of a batch: the body of one commit, already validated (payload_validate). */
struct store_body {
  const uint8_t *data;
  size_t n;
  uint32_t op_count;
};

struct store_health {
  uint64_t background_errors;  /* > 0: the store takes no more writes until it is reopened */
  bool write_stopped;          /* writes would block */
  uint64_t delayed_write_rate; /* bytes/s, 0: not delayed */
  uint64_t memtable_bytes, sst_bytes, approximate_keys;
  bool flush_pending;
};

struct store_ops {
  const char *name;
  int (*open)(const char *dir, const struct store_options *, struct store **);
  void (*close)(struct store *); /* no reader or iterator may be left */
  /* One atomic write: all bodies in order, extra system ops (epoch records; may be 0), and the marker. After a
   * failure other than DW_READ_ONLY, DW_INVALID and DW_NO_MEMORY reopen the store. A memory store refuses a body
   * that is not valid and goes on; RocksDB takes no more writes then. */
  int (*write)(struct store *, const struct store_body *, size_t n, const struct wal_op *system, size_t n_system,
               const struct wal_pos *marker);
  /* DW_NOT_FOUND, or a malloc'd copy that the caller frees through store_free_value. */
  int (*get)(struct store *, const void *key, size_t klen, char **val, size_t *vlen);
  void (*free_value)(char *val);
  /* The marker as applied (persisted = false) or as it stands in files that survive a crash. A new store: lsn 0,
   * epoch 0, zero chain. */
  int (*marker)(struct store *, bool persisted, struct wal_pos *);
  int (*flush)(struct store *, bool wait);
  /* A complete, consistent copy in `dir` (hard links where it can), flushed; DW_INVALID if `dir` exists. Beside
   * writes: the copy has a boundary at or after the one applied when the call began; read it from the copy. A
   * crash may leave `dir` or `dir`.tmp half made. */
  int (*checkpoint)(struct store *, const char *dir);
  void (*health)(struct store *, struct store_health *);
  /* One point in time, within one namespace; keys are returned without the namespace byte. Key and value are
   * valid until the iterator moves. A step of an invalid iterator does nothing; an iterator that stops
   * because of an error is invalid and says so in iter_status. */
  int (*iter_create)(struct store *, uint8_t ns, struct store_iter **);
  void (*iter_destroy)(struct store_iter *);
  void (*iter_seek)(struct store_iter *, const void *key, size_t klen); /* key without namespace byte */
  void (*iter_first)(struct store_iter *);
  void (*iter_last)(struct store_iter *);
  void (*iter_next)(struct store_iter *);
  void (*iter_prev)(struct store_iter *);
  bool (*iter_valid)(const struct store_iter *);
  const char *(*iter_key)(const struct store_iter *, size_t *);
  const char *(*iter_value)(const struct store_iter *, size_t *);
  int (*iter_status)(const struct store_iter *);
};

/* The marker's key and value, common to both. System ops must not touch that key: DW_INVALID. */
#define STORE_MARKER_KEY "\0store.marker"
#define STORE_MARKER_KEY_BYTES (sizeof STORE_MARKER_KEY - 1)
#define STORE_MARKER_BYTES 48u
void store_marker_encode(const struct wal_pos *, uint8_t out[STORE_MARKER_BYTES]);
int store_marker_decode(const void *in, size_t n, struct wal_pos *); /* DW_CORRUPT, DW_UNSUPPORTED (newer) */
/* A store that was never written to has no marker: it stands where its cluster's history begins. */
void store_marker_at_genesis(struct wal_pos *, const struct hash128 *cluster_id);
int store_check_system_ops(const struct wal_op *, size_t n); /* DW_INVALID */

const struct store_ops *store_rocksdb(void);
const struct store_ops *store_mem(void);

/* Implementations embed this first. */
struct store {
  const struct store_ops *ops;
};
struct store_iter {
  const struct store_ops *ops;
};

#endif
