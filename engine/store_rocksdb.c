/* The store on RocksDB, through its C API. The only file that includes rocksdb/c.h.
 *
 * The idea: one column family, RocksDB's own WAL off (ours is the log), and the marker put in the same
 * WriteBatch as the data. A WriteBatch reaches the memtable as a whole, a memtable reaches its SST file as a
 * whole, memtables reach the manifest in order: so whatever survives a crash is a prefix of the batches, and
 * its marker tells which. kPersistedTier reads skip the memtable, so the same marker key read through them
 * says what would survive a crash now.
 *
 *   write()   memtable: data + marker ---- flush ----> SST: data + marker
 *             marker(persisted = false)                marker(persisted = true)
 *
 * Fast batches. Our body grammar (wal/format.h) has deliberately the bytes of RocksDB's own WriteBatch records, so
 * a group of commits becomes one batch by copying:
 *
 *   | 0 x 8 (sequence) | count u32 | body | body | ... | system ops | put marker |
 *
 * A later RocksDB may change its bytes. open() therefore has RocksDB build a small batch and compares it with
 * what our grammar says; if they differ, every record goes through rocksdb_writebatch_put/_delete instead: the
 * same result, slower.
 *
 * RocksDB gets only validated bodies: one malformed batch makes it refuse all later writes of the handle. A background
 * error does the same; C has no resume, so the engine reopens (health() shows it).
 *
 * Threads: one writer at a time owns `batch`; the option objects are read-only after open; RocksDB does the
 * rest. */
#include "engine/store.h"
#include "engine/store_sort.h"

#include <assert.h>
#include <limits.h>
#include <rocksdb/c.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/bytes.h"
#include "wal/base/status.h"

#define DEFAULT_MEMTABLE_BYTES (64u << 20)
#define BATCH_HEADER_BYTES 12u
#define BATCH_KEEP_BYTES (8u << 20) /* a buffer that grew larger is given back after the write */
#define PERSISTED_TIER 2            /* rocksdb::kPersistedTier; the C API has no name for it */
#define INFO_LOG_FATAL 4            /* rocksdb::InfoLogLevel::FATAL_LEVEL, likewise */
/* Two nodes in one process, each with sockets and log segments, fit under the usual limit of 1024. */
#define MAX_OPEN_FILES 400

struct rocks {
  struct store base;
  rocksdb_t *db;
  rocksdb_readoptions_t *read, *read_persisted;
  rocksdb_writeoptions_t *write;
  struct buf batch, sort; /* writer's; kept between writes */
  bool read_only, slow_batches;
  char dir[PATH_MAX];
};

struct rocks_iter {
  struct store_iter base;
  struct rocks *db;
  rocksdb_iterator_t *it;
  rocksdb_readoptions_t *read;
  int failed;        /* of a seek that found no memory; cleared by the next seek */
  char lower, upper; /* the bounds; RocksDB keeps pointers to them */
  struct buf seek;   /* namespace byte + key */
};

static const struct store_ops rocks_ops;

static struct rocks *rocks_of(struct store *s) {
  return (struct rocks *)s;
}
static struct rocks_iter *iter_of(struct store_iter *it) {
  return (struct rocks_iter *)it;
}
static const struct rocks_iter *iter_of_const(const struct store_iter *it) {
  return (const struct rocks_iter *)it;
}

/* ---- errors -------------------------------------------------------------------------------- */

static bool starts_with(const char *s, const char *prefix) {
  return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* RocksDB's status texts are "Kind: [subkind: ]message", the message with a path in it: anchor where possible,
 * so that a directory called "lock" means nothing. */
static int code_of(const char *msg) {
  if (starts_with(msg, "Corruption")) return DW_CORRUPT;
  if (starts_with(msg, "IO error: No space left")) return DW_NO_SPACE;
  if (starts_with(msg, "IO error: lock ") || starts_with(msg, "IO error: While lock file")) return DW_LOCKED;
  if (starts_with(msg, "Invalid argument") && strstr(msg, "create_if_missing is false")) return DW_NOT_FOUND;
  if (starts_with(msg, "Invalid argument: Directory exists")) return DW_INVALID;
  if (starts_with(msg, "Not implemented")) return DW_UNSUPPORTED;
  return DW_IO;
}

/* Takes RocksDB's error text (and frees it); NULL is success. */
static int fail(const char *dir, char *err) {
  if (!err) return DW_OK;
  int rc = dw_fail(code_of(err), "%s: RocksDB: %s", dir, err);
  rocksdb_free(err);
  return rc;
}

static int fail_read_only(const struct rocks *r, const char *what) {
  return dw_fail(DW_READ_ONLY, "%s: %s on a store that is open read-only", r->dir, what);
}

/* ---- batches ------------------------------------------------------------------------------- */

static int append_record(struct buf *b, uint8_t type, const void *key, uint32_t klen, const void *val, uint32_t vlen) {
  int rc = buf_reserve(b, 11 + (size_t)klen + vlen);
  if (rc) return rc;
  uint8_t *p = b->data + b->len;
  *p++ = type;
  p += varint32_put(p, klen);
  if (klen) memcpy(p, key, klen);
  p += klen;
  if (type == OP_PUT) {
    p += varint32_put(p, vlen);
    if (vlen) memcpy(p, val, vlen);
    p += vlen;
  }
  b->len = (size_t)(p - b->data);
  return DW_OK;
}

static int begin_batch(struct buf *b) {
  static const uint8_t zero[BATCH_HEADER_BYTES];
  b->len = 0;
  return buf_append(b, zero, sizeof zero);
}

/* Does RocksDB's batch have the bytes that our grammar says? Keys and values long enough for varints of
 * two bytes. */
static int same_bytes(bool *same) {
  char key[200], val[300];
  memset(key, 'k', sizeof key);
  memset(val, 'v', sizeof val);
  struct buf ours = {0};
  int rc = begin_batch(&ours);
  if (!rc) rc = append_record(&ours, OP_PUT, key, sizeof key, val, sizeof val);
  if (!rc) rc = append_record(&ours, OP_DELETE, key, sizeof key, NULL, 0);
  if (!rc) rc = append_record(&ours, OP_PUT, key, 1, NULL, 0);
  if (!rc) {
    put_u32(ours.data + 8, 3);
    rocksdb_writebatch_t *theirs = rocksdb_writebatch_create();
    rocksdb_writebatch_put(theirs, key, sizeof key, val, sizeof val);
    rocksdb_writebatch_delete(theirs, key, sizeof key);
    rocksdb_writebatch_put(theirs, key, 1, val, 0);
    size_t n;
    const char *data = rocksdb_writebatch_data(theirs, &n);
    *same = n == ours.len && memcmp(data, ours.data, n) == 0;
    rocksdb_writebatch_destroy(theirs);
  }
  buf_free(&ours);
  return rc;
}

static int fast_batch(struct rocks *r, const struct store_body *bodies, size_t n, const struct wal_op *system,
                      size_t n_system, const uint8_t *marker, rocksdb_writebatch_t **out) {
  struct buf *b = &r->batch;
  size_t total = BATCH_HEADER_BYTES + 128; /* and the marker */
  uint64_t ops = 0;
  for (size_t i = 0; i < n; i++) total += bodies[i].n, ops += bodies[i].op_count;
  b->len = 0;
  int rc = buf_reserve(b, total);
  if (!rc) rc = begin_batch(b);
  if (rc) return rc;
  uint64_t count = ops + n_system + 1;
  if (ops >= STORE_SORT_MIN) {
    if ((rc = store_sort(bodies, n, ops, &r->sort, b))) return rc;
  } else {
    for (size_t i = 0; i < n; i++)
      if ((rc = buf_append(b, bodies[i].data, bodies[i].n))) return rc;
  }
  for (size_t i = 0; i < n_system; i++) {
    if ((rc = append_record(b, system[i].type, system[i].key, system[i].klen, system[i].val, system[i].vlen))) {
      return rc;
    }
  }
  if ((rc = append_record(b, OP_PUT, STORE_MARKER_KEY, STORE_MARKER_KEY_BYTES, marker, STORE_MARKER_BYTES))) return rc;
  if (count > UINT32_MAX) return dw_fail(DW_INVALID, "a store write of %llu records", (unsigned long long)count);
  put_u32(b->data + 8, (uint32_t)count);
  *out = rocksdb_writebatch_create_from((const char *)b->data, b->len);
  return DW_OK;
}

static void batch_op(rocksdb_writebatch_t *wb, const struct wal_op *op) {
  if (op->type == OP_PUT) {
    rocksdb_writebatch_put(wb, (const char *)op->key, op->klen, (const char *)op->val, op->vlen);
  } else {
    rocksdb_writebatch_delete(wb, (const char *)op->key, op->klen);
  }
}

static int slow_batch(const struct store_body *bodies, size_t n, const struct wal_op *system, size_t n_system,
                      const uint8_t *marker, rocksdb_writebatch_t **out) {
  rocksdb_writebatch_t *wb = rocksdb_writebatch_create();
  for (size_t i = 0; i < n; i++) {
    size_t off = 0;
    struct wal_op op;
    int rc;
    while ((rc = body_next_op(bodies[i].data, bodies[i].n, &off, &op)) == DW_OK) batch_op(wb, &op);
    if (rc != DW_NOT_FOUND) {
      rocksdb_writebatch_destroy(wb);
      return rc;
    }
  }
  for (size_t i = 0; i < n_system; i++) batch_op(wb, &system[i]);
  rocksdb_writebatch_put(wb, STORE_MARKER_KEY, STORE_MARKER_KEY_BYTES, (const char *)marker, STORE_MARKER_BYTES);
  *out = wb;
  return DW_OK;
}

static int rocks_write(struct store *s, const struct store_body *bodies, size_t n, const struct wal_op *system,
                       size_t n_system, const struct wal_pos *pos) {
  struct rocks *r = rocks_of(s);
  if (r->read_only) return fail_read_only(r, "write");
  int rc = store_check_system_ops(system, n_system);
  if (rc) return rc;
  uint8_t marker[STORE_MARKER_BYTES];
  store_marker_encode(pos, marker);
  rocksdb_writebatch_t *wb = NULL;
  rc = r->slow_batches ? slow_batch(bodies, n, system, n_system, marker, &wb)
                       : fast_batch(r, bodies, n, system, n_system, marker, &wb);
  if (r->batch.cap > BATCH_KEEP_BYTES) buf_free(&r->batch);
  if (r->sort.cap > BATCH_KEEP_BYTES) buf_free(&r->sort);
  if (rc) return rc;
  char *err = NULL;
  rocksdb_write(r->db, r->write, wb, &err);
  rocksdb_writebatch_destroy(wb);
  return fail(r->dir, err);
}

/* ---- open and close ------------------------------------------------------------------------ */

static void set_tables(rocksdb_options_t *o, uint64_t cache_bytes) {
  rocksdb_block_based_table_options_t *t = rocksdb_block_based_options_create();
  rocksdb_block_based_options_set_filter_policy(t, rocksdb_filterpolicy_create_bloom_full(10)); /* takes it over */
  if (cache_bytes) {
    rocksdb_cache_t *cache = rocksdb_cache_create_lru(cache_bytes);
    rocksdb_block_based_options_set_block_cache(t, cache);
    rocksdb_cache_destroy(cache); /* our reference only */
  } else {
    rocksdb_block_based_options_set_no_block_cache(t, 1);
  }
  rocksdb_options_set_block_based_table_factory(o, t);
  rocksdb_block_based_options_destroy(t);
}

/* A memtable is a skip list. An insertion goes by where the last one went only with this option, which the C API knows
 * as text alone: then a key near the last one, as in a sorted batch, needs two or three comparisons in place of twenty,
 * and the marker, which is written with each batch, always lands beside its predecessor. One hint for each prefix, and
 * the prefix is the namespace. A RocksDB that does not know the option does without. Takes the options over. */
static rocksdb_options_t *hint_inserts(rocksdb_options_t *o) {
  char *err = NULL;
  rocksdb_options_t *hinted = rocksdb_options_create();
  rocksdb_get_options_from_string(o, "memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.1", hinted, &err);
  rocksdb_options_destroy(err ? hinted : o);
  if (!err) return hinted;
  rocksdb_free(err);
  return o;
}

static rocksdb_options_t *make_options(const struct store_options *opt) {
  rocksdb_options_t *o = rocksdb_options_create();
  rocksdb_options_set_create_if_missing(o, !opt->must_exist && !opt->read_only);
  rocksdb_options_set_paranoid_checks(o, 1);
  rocksdb_options_set_max_open_files(o, MAX_OPEN_FILES);
  rocksdb_options_set_write_buffer_size(o, opt->memtable_bytes ? opt->memtable_bytes : DEFAULT_MEMTABLE_BYTES);
  rocksdb_options_set_max_write_buffer_number(o, 3);
  rocksdb_options_set_allow_concurrent_memtable_write(o, 0); /* one writer: the plain insert is cheaper */
  /* Not increase_parallelism(): it resizes the thread pools that all handles of the process share. */
  rocksdb_options_set_max_background_jobs(o, 3);
  rocksdb_options_set_bytes_per_sync(o, 1 << 20); /* no burst of dirty pages at a flush's end beside log syncs */
  rocksdb_options_set_level_compaction_dynamic_level_bytes(o, 1);
  /* Level 0 is rewritten soon, everything below pays for compressing. */
  static const int compression[] = {rocksdb_no_compression,   rocksdb_zstd_compression, rocksdb_zstd_compression,
                                    rocksdb_zstd_compression, rocksdb_zstd_compression, rocksdb_zstd_compression,
                                    rocksdb_zstd_compression};
  rocksdb_options_set_compression_per_level(o, compression, sizeof compression / sizeof *compression);
  rocksdb_options_set_compression_options(o, -14, 1, 0, 0); /* zstd level 1; the others are RocksDB's defaults */
  /* RocksDB's own LOG stays empty. Built with assertions, as Debian builds it, RocksDB aborts the process at the
   * second line that it can't write there: on a full disk. Errors reach us as statuses and through health(). */
  rocksdb_options_set_info_log_level(o, INFO_LOG_FATAL);
  rocksdb_options_set_keep_log_file_num(o, 1);
  rocksdb_options_set_stats_dump_period_sec(o, 0);
  rocksdb_options_set_stats_persist_period_sec(o, 0);
  set_tables(o, opt->block_cache_bytes);
  return hint_inserts(o);
}

static void rocks_free(struct rocks *r) {
  if (r->read) rocksdb_readoptions_destroy(r->read);
  if (r->read_persisted) rocksdb_readoptions_destroy(r->read_persisted);
  if (r->write) rocksdb_writeoptions_destroy(r->write);
  buf_free(&r->batch);
  buf_free(&r->sort);
  free(r);
}

static int rocks_marker(struct store *s, bool persisted, struct wal_pos *pos);

static int rocks_open(const char *dir, const struct store_options *opt, struct store **out) {
  if (strlen(dir) >= PATH_MAX) return dw_fail(DW_INVALID, "%s: path too long", dir);
  struct rocks *r = calloc(1, sizeof *r);
  if (!r) return dw_fail_nomem(sizeof *r);
  r->base.ops = &rocks_ops;
  strcpy(r->dir, dir);
  r->read_only = opt->read_only;
  bool same = false;
  int rc = same_bytes(&same);
  if (rc) {
    free(r);
    return rc;
  }
  r->slow_batches = opt->force_slow_batches || !same;
  r->read = rocksdb_readoptions_create();
  r->read_persisted = rocksdb_readoptions_create();
  rocksdb_readoptions_set_read_tier(r->read_persisted, PERSISTED_TIER);
  r->write = rocksdb_writeoptions_create();
  rocksdb_writeoptions_disable_WAL(r->write, 1);

  char *err = NULL;
  rocksdb_options_t *o = make_options(opt);
  r->db = opt->read_only ? rocksdb_open_for_read_only(o, dir, 0, &err) : rocksdb_open(o, dir, &err);
  rocksdb_options_destroy(o);
  if (err) {
    /* A read-only open has no create_if_missing to complain about: it just misses CURRENT. */
    bool missing = opt->read_only && strstr(err, "No such file or directory") && strstr(err, "/CURRENT");
    rc = fail(dir, err);
    if (missing) rc = dw_fail(DW_NOT_FOUND, "%s: no RocksDB store there", dir);
    rocks_free(r);
    return rc;
  }
  struct wal_pos pos; /* a store whose marker can't be read is of no use */
  if ((rc = rocks_marker(&r->base, false, &pos))) {
    rocksdb_close(r->db);
    rocks_free(r);
    return rc;
  }
  *out = &r->base;
  return DW_OK;
}

static int rocks_flush(struct store *s, bool wait) {
  struct rocks *r = rocks_of(s);
  if (r->read_only) return fail_read_only(r, "flush");
  char *err = NULL;
  rocksdb_flushoptions_t *o = rocksdb_flushoptions_create();
  rocksdb_flushoptions_set_wait(o, wait);
  rocksdb_flush(r->db, o, &err);
  rocksdb_flushoptions_destroy(o);
  if (err && !wait &&
      starts_with(err, "Operation failed. Try again")) { /* it has stopped writes and is flushing already */
    rocksdb_free(err);
    return DW_OK;
  }
  return fail(r->dir, err);
}

/* The flush only saves the next open a replay: its failure loses nothing. */
static void rocks_close(struct store *s) {
  if (!s) return;
  struct rocks *r = rocks_of(s);
  if (!r->read_only) (void)rocks_flush(s, true);
  rocksdb_cancel_all_background_work(r->db, 1);
  rocksdb_close(r->db);
  rocks_free(r);
}

/* ---- reading ------------------------------------------------------------------------------- */

/* rocksdb_get answers "not there" with NULL; an empty value is a malloc(0), which is not NULL in any libc that
 * RocksDB is built for. */
static int rocks_get(struct store *s, const void *key, size_t klen, char **val, size_t *vlen) {
  struct rocks *r = rocks_of(s);
  char *err = NULL;
  size_t n = 0;
  char *v = rocksdb_get(r->db, r->read, key, klen, &n, &err);
  if (err) return fail(r->dir, err);
  if (!v) return DW_NOT_FOUND;
  *val = v;
  *vlen = n;
  return DW_OK;
}

static void rocks_free_value(char *val) {
  if (val) rocksdb_free(val);
}

static int rocks_marker(struct store *s, bool persisted, struct wal_pos *pos) {
  struct rocks *r = rocks_of(s);
  char *err = NULL;
  size_t n = 0;
  char *v =
      rocksdb_get(r->db, persisted ? r->read_persisted : r->read, STORE_MARKER_KEY, STORE_MARKER_KEY_BYTES, &n, &err);
  if (err) return fail(r->dir, err);
  if (!v) {
    memset(pos, 0, sizeof *pos);
    return DW_OK;
  }
  int rc = store_marker_decode(v, n, pos);
  rocksdb_free(v);
  return rc ? dw_fail_prefix(rc, "%s", r->dir) : DW_OK;
}

/* A log_size_for_flush of 0 flushes the memtable first, whose data is in no WAL. */
static int rocks_checkpoint(struct store *s, const char *dir) {
  struct rocks *r = rocks_of(s);
  if (r->read_only) return fail_read_only(r, "checkpoint");
  char *err = NULL;
  rocksdb_checkpoint_t *cp = rocksdb_checkpoint_object_create(r->db, &err);
  if (err) return fail(r->dir, err);
  rocksdb_checkpoint_create(cp, dir, 0, &err);
  rocksdb_checkpoint_object_destroy(cp);
  int rc = fail(r->dir, err);
  return rc ? dw_fail_prefix(rc, "checkpoint to %s", dir) : DW_OK;
}

static uint64_t property(const struct rocks *r, const char *name) {
  uint64_t v = 0;
  return rocksdb_property_int(r->db, name, &v) == 0 ? v : 0;
}

static void rocks_health(struct store *s, struct store_health *h) {
  const struct rocks *r = rocks_of(s);
  h->background_errors = property(r, "rocksdb.background-errors");
  h->write_stopped = property(r, "rocksdb.is-write-stopped") != 0;
  h->delayed_write_rate = property(r, "rocksdb.actual-delayed-write-rate");
  h->memtable_bytes = property(r, "rocksdb.cur-size-all-mem-tables");
  h->sst_bytes = property(r, "rocksdb.total-sst-files-size");
  h->approximate_keys = property(r, "rocksdb.estimate-num-keys");
  h->flush_pending = property(r, "rocksdb.mem-table-flush-pending") != 0;
}

/* ---- iterators ----------------------------------------------------------------------------- */

static int rocks_iter_create(struct store *s, uint8_t ns, struct store_iter **out) {
  struct rocks_iter *it = calloc(1, sizeof *it);
  if (!it) return dw_fail_nomem(sizeof *it);
  it->base.ops = &rocks_ops;
  it->db = rocks_of(s);
  it->lower = (char)ns;
  it->upper = (char)(ns + 1);
  it->read = rocksdb_readoptions_create();
  rocksdb_readoptions_set_iterate_lower_bound(it->read, &it->lower, 1);
  if (ns < UINT8_MAX) rocksdb_readoptions_set_iterate_upper_bound(it->read, &it->upper, 1);
  it->it = rocksdb_create_iterator(it->db->db, it->read); /* never NULL: an error shows in its status */
  *out = &it->base;
  return DW_OK;
}

static void rocks_iter_destroy(struct store_iter *base) {
  if (!base) return;
  struct rocks_iter *it = iter_of(base);
  rocksdb_iter_destroy(it->it);
  rocksdb_readoptions_destroy(it->read);
  buf_free(&it->seek);
  free(it);
}

static void rocks_iter_seek(struct store_iter *base, const void *key, size_t klen) {
  struct rocks_iter *it = iter_of(base);
  it->seek.len = 0;
  it->failed = buf_append(&it->seek, &it->lower, 1);
  if (!it->failed && klen) it->failed = buf_append(&it->seek, key, klen);
  if (!it->failed) rocksdb_iter_seek(it->it, (const char *)it->seek.data, it->seek.len);
}

static void rocks_iter_first(struct store_iter *base) {
  iter_of(base)->failed = DW_OK;
  rocksdb_iter_seek_to_first(iter_of(base)->it);
}

static void rocks_iter_last(struct store_iter *base) {
  iter_of(base)->failed = DW_OK;
  rocksdb_iter_seek_to_last(iter_of(base)->it);
}

static bool rocks_iter_valid(const struct store_iter *base) {
  const struct rocks_iter *it = iter_of_const(base);
  return !it->failed && rocksdb_iter_valid(it->it);
}

static void rocks_iter_next(struct store_iter *base) {
  if (rocks_iter_valid(base)) rocksdb_iter_next(iter_of(base)->it);
}

static void rocks_iter_prev(struct store_iter *base) {
  if (rocks_iter_valid(base)) rocksdb_iter_prev(iter_of(base)->it);
}

static const char *rocks_iter_key(const struct store_iter *base, size_t *n) {
  assert(rocks_iter_valid(base));
  size_t klen;
  const char *key = rocksdb_iter_key(iter_of_const(base)->it, &klen);
  assert(klen >= 1); /* the lower bound sees to it */
  *n = klen - 1;
  return key + 1;
}

static const char *rocks_iter_value(const struct store_iter *base, size_t *n) {
  assert(rocks_iter_valid(base));
  return rocksdb_iter_value(iter_of_const(base)->it, n);
}

static int rocks_iter_status(const struct store_iter *base) {
  const struct rocks_iter *it = iter_of_const(base);
  if (it->failed) return dw_fail(it->failed, "%s: out of memory for a seek", it->db->dir);
  char *err = NULL;
  rocksdb_iter_get_error(it->it, &err);
  return fail(it->db->dir, err);
}

static const struct store_ops rocks_ops = {
    .name = "rocksdb",
    .open = rocks_open,
    .close = rocks_close,
    .write = rocks_write,
    .get = rocks_get,
    .free_value = rocks_free_value,
    .marker = rocks_marker,
    .flush = rocks_flush,
    .checkpoint = rocks_checkpoint,
    .health = rocks_health,
    .iter_create = rocks_iter_create,
    .iter_destroy = rocks_iter_destroy,
    .iter_seek = rocks_iter_seek,
    .iter_first = rocks_iter_first,
    .iter_last = rocks_iter_last,
    .iter_next = rocks_iter_next,
    .iter_prev = rocks_iter_prev,
    .iter_valid = rocks_iter_valid,
    .iter_key = rocks_iter_key,
    .iter_value = rocks_iter_value,
    .iter_status = rocks_iter_status,
};

const struct store_ops *store_rocksdb(void) {
  return &rocks_ops;
}
