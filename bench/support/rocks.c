#include "bench/support/rocks.h"

#include "bench/support/bench.h"

void rocks_check(const char *what, char *err) {
  if (err) bench_die("RocksDB: %s: %s", what, err);
}

static rocksdb_options_t *make_options(const struct rocks_setup *s) {
  rocksdb_options_t *o = rocksdb_options_create();
  rocksdb_options_set_create_if_missing(o, 1);
  rocksdb_options_set_max_open_files(o, 400);
  rocksdb_options_set_write_buffer_size(o, s->memtable_bytes ? s->memtable_bytes : 64u << 20);
  rocksdb_options_set_max_write_buffer_number(o, 3);
  /* A WAL file is preallocated in the size of a memtable; one column family never flushes for this. */
  rocksdb_options_set_max_total_wal_size(o, 128u << 20);
  rocksdb_options_set_max_background_jobs(o, 3);
  rocksdb_options_set_bytes_per_sync(o, 1 << 20);
  rocksdb_options_set_level_compaction_dynamic_level_bytes(o, 1);
  static const int compression[] = {rocksdb_no_compression,   rocksdb_zstd_compression, rocksdb_zstd_compression,
                                    rocksdb_zstd_compression, rocksdb_zstd_compression, rocksdb_zstd_compression,
                                    rocksdb_zstd_compression};
  rocksdb_options_set_compression_per_level(o, compression, sizeof compression / sizeof *compression);
  rocksdb_options_set_compression_options(o, -14, 1, 0, 0);
  rocksdb_options_set_stats_dump_period_sec(o, 0);
  rocksdb_options_set_stats_persist_period_sec(o, 0);
  if (s->keep_wal) rocksdb_options_set_WAL_ttl_seconds(o, 86400);
  if (s->wal_zstd) rocksdb_options_set_wal_compression(o, rocksdb_zstd_compression);

  rocksdb_block_based_table_options_t *t = rocksdb_block_based_options_create();
  rocksdb_block_based_options_set_filter_policy(t, rocksdb_filterpolicy_create_bloom_full(10));
  rocksdb_cache_t *cache = rocksdb_cache_create_lru(s->cache_bytes ? s->cache_bytes : 64u << 20);
  rocksdb_block_based_options_set_block_cache(t, cache);
  rocksdb_cache_destroy(cache);
  rocksdb_options_set_block_based_table_factory(o, t);
  rocksdb_block_based_options_destroy(t);
  return o;
}

void rocks_open(struct rocks *r, const char *dir, const struct rocks_setup *setup, bool sync) {
  static const struct rocks_setup defaults;
  char *err = NULL;
  rocksdb_options_t *o = make_options(setup ? setup : &defaults);
  r->db = rocksdb_open(o, dir, &err);
  rocks_check(dir, err);
  rocksdb_options_destroy(o);
  r->write = rocksdb_writeoptions_create();
  rocksdb_writeoptions_set_sync(r->write, sync);
  r->read = rocksdb_readoptions_create();
}

void rocks_close(struct rocks *r) {
  rocksdb_close(r->db);
  rocksdb_writeoptions_destroy(r->write);
  rocksdb_readoptions_destroy(r->read);
}

void rocks_put(void *ctx, const struct record *rec) {
  const struct rocks *r = ctx;
  char *err = NULL;
  rocksdb_put(r->db, r->write, rec->key, rec->klen, rec->val, rec->vlen, &err);
  rocks_check("put", err);
}
