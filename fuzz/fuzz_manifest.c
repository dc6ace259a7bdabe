/* The manifest of a checkpoint: what is accepted is encoded to the same bytes, and no name in it leaves a directory. */
#include "fuzz/fuzz.h"
#include "replication/checkpoint_manifest.h"

static void check_files(const struct ckpt_manifest *m, size_t size) {
  uint64_t total = 0;
  CHECK(m->count > 0 && m->count <= CKPT_MAX_FILES && m->count <= size / 9);
  for (uint32_t i = 0; i < m->count; i++) {
    const char *name = m->files[i].name;
    CHECK(ckpt_name_ok(name) && !strchr(name, '/') && name[0] != '.' && strlen(name) < CKPT_NAME_BYTES);
    total += m->files[i].bytes;
    for (uint32_t j = 0; j < i && m->count < 64; j++) CHECK(strcmp(m->files[j].name, name) != 0);
  }
  CHECK(total == m->total_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct ckpt_manifest m = {0}, built = {0};
  struct buf again = {0};
  if (ckpt_manifest_decode(data, size, &m) != DW_OK) {
    CHECK(!m.files);
    return 0;
  }
  check_files(&m, size);
  CHECK(ckpt_manifest_encode(&again, &m) == DW_OK);
  CHECK(again.len == size && memcmp(again.data, data, size) == 0);
  /* Built file by file, as a sender does. */
  built.id = m.id;
  built.pos = m.pos;
  for (uint32_t i = 0; i < m.count; i++) CHECK(ckpt_manifest_add(&built, m.files[i].name, m.files[i].bytes) == DW_OK);
  again.len = 0;
  CHECK(ckpt_manifest_encode(&again, &built) == DW_OK);
  CHECK(again.len == size && memcmp(again.data, data, size) == 0);
  ckpt_manifest_free(&built);
  ckpt_manifest_free(&m);
  buf_free(&again);
  return 0;
}
