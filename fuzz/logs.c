#include "fuzz/logs.h"

#include "engine/batch.h"

void add(struct buf *b, const void *p, size_t n) {
  CHECK(buf_append(b, p, n) == DW_OK);
}

void make_payload(struct buf *out, uint32_t commits) {
  for (uint32_t i = 0; i < commits; i++) {
    struct buf body = {0};
    char key[24], value[40];
    snprintf(key, sizeof key, "key%u", i);
    snprintf(value, sizeof value, "value of key number %u", i);
    uint32_t ops = 1 + i % 3;
    CHECK(batch_add_put(&body, key, strlen(key), value, strlen(value)) == DW_OK);
    if (ops > 1) CHECK(batch_add_delete(&body, "gone", 4) == DW_OK);
    if (ops > 2) CHECK(batch_add_put(&body, "empty", 5, "", 0) == DW_OK);
    uint8_t head[16] = {0};
    size_t n = 1;
    n += varint32_put(head + n, ops);
    n += varint32_put(head + n, (uint32_t)body.len);
    add(out, head, n);
    add(out, body.data, body.len);
    buf_free(&body);
  }
}

struct hash128 log_cluster(void) {
  return (struct hash128){{0x0c}};
}

struct wal_options log_options(struct mem_env *m) {
  struct wal_options o = {.env = mem_env_env(m),
                          .cluster_id = log_cluster(),
                          .node_id = 1,
                          .segment_bytes = LOG_SEGMENT_BYTES,
                          .tail_cache_bytes = 4096};
  o.base = o.must_reach = wal_genesis(&o.cluster_id);
  return o;
}

static void append(struct wal *w, struct log_image *image, uint64_t epoch, uint32_t commits, int level) {
  struct buf raw = {0};
  struct block_header like = {.kind = commits ? BLOCK_COMMITS : BLOCK_EPOCH,
                              .need = {.mode = 1, .ack = 2, .durability = 1, .acks = 1},
                              .commit_count = commits,
                              .wall_ns = 1700000000000000000ull,
                              .origin_id = 1};
  struct wal_block *b;
  struct wal_stat st;
  uint8_t record[WAL_EPOCH_RECORD_BYTES];
  wal_stat(w, &st);
  if (commits) {
    make_payload(&raw, commits);
  } else {
    epoch_record_encode(&(struct epoch_record){.epoch = epoch, .node_id = 1, .reason = EPOCH_OPENED, .start = st.end},
                        record);
    add(&raw, record, sizeof record);
  }
  CHECK(wal_block_create(&like, raw.data, raw.len, commits ? level : 0, &b) == DW_OK);
  CHECK(wal_append(w, &b, 1, epoch, st.end.lsn / 2) == DW_OK);
  wal_block_unref(b);
  buf_free(&raw);
  wal_stat(w, &st);
  CHECK(image->bound_count < LOG_BOUNDS_MAX);
  image->bounds[image->bound_count++] = st.end;
}

static void take_file(void *arg, const char *path, const uint8_t *bytes, size_t n) {
  struct log_image *image = arg;
  CHECK(image->count < LOG_FILES_MAX);
  snprintf(image->files[image->count].path, sizeof image->files[0].path, "%s", path);
  image->files[image->count].bytes = exact_copy(bytes, n);
  image->files[image->count++].n = n;
}

static void make_image(enum log_variant v, struct log_image *image) {
  struct mem_env *m = mem_env_create();
  struct wal_options o = log_options(m);
  struct wal_recovery rec;
  struct wal *w;
  CHECK(wal_open(LOG_DIR, &o, &rec, &w) == DW_OK);
  image->bounds[image->bound_count++] = rec.end;
  unsigned blocks = v == LOG_EMPTY ? 0 : v == LOG_SEGMENTS ? 14 : 7;
  for (unsigned i = 0; i < blocks; i++) {
    append(w, image, 1 + i / 5, i % 5 ? 1 + 6 * (i % 3) : 0, i % 2 ? 3 : 0);
    if (i % 3 == 1) CHECK(wal_sync(w, NULL) == DW_OK);
  }
  if (v == LOG_SEGMENTS) CHECK(wal_prepare(w) == DW_OK);
  if (v == LOG_CRASHED) mem_env_each(m, take_file, image);
  CHECK(wal_close(w) == DW_OK);
  if (v != LOG_CRASHED) mem_env_each(m, take_file, image);
  mem_env_destroy(m);
}

const struct log_image *log_image(enum log_variant v) {
  static struct log_image images[LOG_VARIANTS];
  static bool made[LOG_VARIANTS];
  if (!made[v]) make_image(v, &images[v]);
  made[v] = true;
  return &images[v];
}

void log_restore(struct mem_env *m, const struct log_image *image) {
  mem_env_clear(m);
  for (size_t i = 0; i < image->count; i++)
    mem_env_put(m, image->files[i].path, image->files[i].bytes, image->files[i].n);
}
