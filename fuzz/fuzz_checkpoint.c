/* A checkpoint on its way in: ckpt_in and the transfer's order (ckpt_receiver) over files in memory. The sender is the
 * input, and so is what an earlier transfer left behind (STATE, files).
 *
 * Checked: nothing outside the directory is touched; files are no longer than the manifest says; what this process saw
 * complete is complete after reopening; finish succeeds only if every file has the hash that was announced.
 * Input: 1 byte of choices; with bit 0 a STATE file (2 bytes of length, bytes; its checksum is repaired); steps. */
#include "fuzz/fuzz.h"
#include "replication/checkpoint_recv.h"
#include "replication/checkpoint_transfer.h"
#include "tests/support/mem_env.h"

#define DIR_IN "top/in"
#define FILES_MAX 4u

struct transfer {
  struct mem_env *m;
  struct ckpt_in *in;
  struct ckpt_receiver order;
  struct ckpt_manifest manifest;
  struct hash128 hash[FILES_MAX]; /* announced and accepted in this process */
  bool done[FILES_MAX];
  bool begun;
};

static void outside(void *arg, const char *path, const uint8_t *bytes, size_t n) {
  (void)arg, (void)bytes, (void)n;
  CHECK(strcmp(path, DIR_IN "/STATE") == 0 || strcmp(path, DIR_IN "/STATE.tmp") == 0 ||
        (strncmp(path, DIR_IN "/store/", 13) == 0 && ckpt_name_ok(path + 13)));
}

static void file_path(const struct transfer *t, uint32_t i, char path[128]) {
  snprintf(path, 128, "%s/store/%s", DIR_IN, t->manifest.files[i].name);
}

static void make_manifest(struct transfer *t, struct feed *f) {
  static const char *const names[] = {"CURRENT", "000001.sst", "a", "b"};
  uint8_t how = feed_u8(f);
  ckpt_manifest_free(&t->manifest);
  t->manifest.id = (struct hash128){{1, (uint8_t)(how >> 6)}};
  t->manifest.pos.lsn = 5;
  for (uint32_t i = 0; i <= how % FILES_MAX; i++)
    CHECK(ckpt_manifest_add(&t->manifest, names[i], feed_u8(f) * (how & 32 ? 300u : 1u)) == DW_OK);
  memset(t->done, 0, sizeof t->done);
}

static void begin(struct transfer *t, struct feed *f, bool other) {
  uint64_t offsets[FILES_MAX] = {0};
  struct ckpt_manifest copy = {0};
  if (other || !t->manifest.count) make_manifest(t, f);
  CHECK(ckpt_in_begin(t->in, &t->manifest, offsets) == DW_OK);
  struct hash128 id = ckpt_in_id(t->in);
  CHECK(hash128_eq(&id, &t->manifest.id));
  copy.id = t->manifest.id;
  for (uint32_t i = 0; i < t->manifest.count; i++) {
    CHECK(ckpt_manifest_add(&copy, t->manifest.files[i].name, t->manifest.files[i].bytes) == DW_OK);
    CHECK(offsets[i] == CKPT_HELD || offsets[i] <= t->manifest.files[i].bytes);
    if (t->done[i]) CHECK(offsets[i] == CKPT_HELD);
  }
  ckpt_receiver_free(&t->order);
  CHECK(ckpt_receiver_init(&t->order, &copy) == DW_OK && ckpt_receiver_want(&t->order, offsets) == DW_OK);
  t->begun = true;
}

/* The next bytes, or something near them; only what the order accepts reaches the files. */
static void chunk(struct transfer *t, struct feed *f) {
  uint8_t how = feed_u8(f), data[4096];
  struct msg_ckpt_chunk c = {.file = t->order.file, .offset = t->order.offset, .bytes = 1 + feed_u16(f) % sizeof data};
  memset(data, how, sizeof data);
  if (how & 1) c.file = feed_u8(f);
  if (how & 2) c.offset = feed_u64(f);
  if (!(how & 4) && t->order.file < t->manifest.count) {
    uint64_t left = t->manifest.files[t->order.file].bytes - t->order.offset;
    if (c.bytes > left) c.bytes = (uint32_t)left;
  }
  if (!c.bytes || ckpt_receiver_chunk(&t->order, &c) != DW_OK) return;
  CHECK(c.file < t->manifest.count && c.offset + c.bytes <= t->manifest.files[c.file].bytes);
  CHECK(ckpt_in_write(t->in, c.file, c.offset, data, c.bytes) == DW_OK);
}

static void file_end(struct transfer *t, struct feed *f) {
  uint8_t how = feed_u8(f);
  char path[128];
  size_t n = 0;
  struct msg_ckpt_file_end e = {.file = how & 1 ? how : t->order.file};
  if (e.file < t->manifest.count) {
    file_path(t, e.file, path);
    const uint8_t *p = mem_env_bytes(t->m, path, &n);
    e.hash = hash128(p ? (const void *)p : "", n);
  }
  if (how & 2) e.hash.b[0] ^= 1;
  if (ckpt_receiver_file_end(&t->order, &e) != DW_OK) return;
  int rc = ckpt_in_file_end(t->in, e.file, &e.hash);
  CHECK(rc == ((how & 2) ? DW_CORRUPT : DW_OK));
  t->done[e.file] = rc == DW_OK;
  t->hash[e.file] = e.hash;
  (void)mem_env_bytes(t->m, path, &n);
  CHECK(rc != DW_OK || n == t->manifest.files[e.file].bytes);
  if (rc) { /* the connection ends here; it comes again */
    ckpt_receiver_free(&t->order);
    t->begun = false;
  }
}

static void reopen(struct transfer *t) {
  struct hash128 before = ckpt_in_id(t->in), after;
  ckpt_in_close(t->in);
  CHECK(ckpt_in_open(mem_env_env(t->m), DIR_IN, &t->in) == DW_OK);
  after = ckpt_in_id(t->in);
  CHECK(hash128_eq(&before, &after));
  ckpt_receiver_free(&t->order);
  t->begun = false;
}

static void finish(struct transfer *t) {
  struct hash128 id = t->manifest.id;
  if (ckpt_receiver_done(&t->order, &id) != DW_OK) return;
  int rc = ckpt_in_finish(t->in);
  CHECK(rc == DW_OK);
  for (uint32_t i = 0; i < t->manifest.count; i++) {
    char path[128];
    size_t n = 0;
    file_path(t, i, path);
    const uint8_t *p = mem_env_bytes(t->m, path, &n);
    CHECK(p && n == t->manifest.files[i].bytes);
    struct hash128 h = hash128(n ? (const void *)p : "", n);
    if (t->done[i]) CHECK(hash128_eq(&h, &t->hash[i]));
  }
  t->begun = false; /* files may not be written any more */
}

/* A crash leaves files shorter, or with other bytes than were written; nothing that was synced changes. */
static void crash(struct transfer *t, struct feed *f) {
  uint8_t i = feed_u8(f) % FILES_MAX;
  size_t n;
  char path[128];
  if (i >= t->manifest.count || t->done[i]) return;
  file_path(t, i, path);
  const uint8_t *p = mem_env_bytes(t->m, path, &n);
  if (!p) return;
  size_t keep = n ? feed_u16(f) % (n + 1) : 0;
  uint8_t *copy = exact_copy(p, n);
  ckpt_in_close(t->in);
  mem_env_put(t->m, path, copy, keep);
  free(copy);
  CHECK(ckpt_in_open(mem_env_env(t->m), DIR_IN, &t->in) == DW_OK);
  ckpt_receiver_free(&t->order);
  t->begun = false;
}

static void step(struct transfer *t, struct feed *f) {
  uint8_t op = feed_u8(f);
  switch (op % 8) {
  case 0: begin(t, f, op & 128); break;
  case 1:
  case 2:
    if (t->begun) chunk(t, f);
    break;
  case 3:
    if (t->begun) file_end(t, f);
    break;
  case 4: reopen(t); break;
  case 5:
    if (t->begun) finish(t);
    break;
  case 6: crash(t, f); break;
  case 7:
    if (op < 200) break;
    CHECK(ckpt_in_discard(t->in) == DW_OK);
    memset(t->done, 0, sizeof t->done);
    t->begun = false;
    ckpt_receiver_free(&t->order);
    break;
  }
}

static void put_state(struct mem_env *m, struct feed *f) {
  size_t n;
  const uint8_t *p = feed_bytes(f, feed_u16(f) % 1024, &n);
  uint8_t *state = exact_copy(p, n);
  if (n >= 24 && get_u32(state + 12) <= n - 24) {
    size_t head = 16 + (size_t)get_u32(state + 12);
    put_u64(state + head, hash64(state, head));
  }
  mem_env_put(m, DIR_IN "/STATE", state, n);
  free(state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct mem_env *m;
  struct feed f = {data, size};
  if (!m) m = mem_env_create();
  struct transfer t = {.m = m};
  mem_env_clear(m);
  mem_env_put(m, DIR_IN "/STATE", "", 0);
  uint8_t how = feed_u8(&f);
  if (how & 1) put_state(m, &f);
  CHECK(ckpt_in_open(mem_env_env(m), DIR_IN, &t.in) == DW_OK);
  for (unsigned i = 0; feed_left(&f) && i < 100; i++) step(&t, &f);
  mem_env_each(m, outside, NULL);
  ckpt_in_close(t.in);
  ckpt_receiver_free(&t.order);
  ckpt_manifest_free(&t.manifest);
  CHECK(mem_env_open_files(m) == 0);
  return 0;
}
