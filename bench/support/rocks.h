/* RocksDB by itself, set up as the engine sets up its own: zstd below level 0, 64 MiB memtables, three of them, 64 MiB
 * block cache, bloom filters, three background jobs. What differs is what is compared: its own WAL is on (unless asked),
 * and concurrent memtable writes stay on, which suit many writers. */
#ifndef BENCH_SUPPORT_ROCKS_H
#define BENCH_SUPPORT_ROCKS_H

#include <rocksdb/c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/support/records.h"

struct rocks_setup {
  uint64_t memtable_bytes, cache_bytes; /* 0: 64 MiB */
  bool keep_wal;                        /* old WAL files are archived for get_updates_since, not deleted */
  bool wal_zstd;                        /* RocksDB's own WAL compression */
};

struct rocks {
  rocksdb_t *db;
  rocksdb_writeoptions_t *write;
  rocksdb_readoptions_t *read;
};
void rocks_open(struct rocks *, const char *dir, const struct rocks_setup *, bool sync);
void rocks_close(struct rocks *);
void rocks_put(void *rocks, const struct record *); /* a put_fn */
void rocks_check(const char *what, char *err); /* dies if err */

#endif
