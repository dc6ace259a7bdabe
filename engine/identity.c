/* The NODE file and a data directory's names; see identity.h. Byte table: docs/data-directory.md. */
#include "engine/identity.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/bytes.h"
#include "wal/base/status.h"

static const char node_magic[8] = {'D', 'W', 'N', 'O', 'D', 'E', '\r', '\n'};

char *path_join(const char *dir, const char *name) {
  size_t n = strlen(dir) + strlen(name) + 2;
  char *path = malloc(n);
  if (!path) {
    dw_fail_nomem(n);
    return NULL;
  }
  snprintf(path, n, "%s/%s", dir, name);
  return path;
}

char *path_generation(const char *dir, const char *prefix, uint32_t generation) {
  char name[64];
  snprintf(name, sizeof name, "%s-%06u", prefix, generation);
  return path_join(dir, name);
}

void node_file_encode(const struct node_file *n, uint8_t out[NODE_FILE_BYTES]) {
  memset(out, 0, NODE_FILE_BYTES);
  memcpy(out, node_magic, 8);
  put_u32(out + 8, NODE_FILE_VERSION);
  put_u32(out + 12, NODE_FILE_BYTES);
  memcpy(out + 16, n->cluster_id.b, 16);
  memcpy(out + 32, n->incarnation.b, 16);
  put_u64(out + 48, n->node_id);
  put_u32(out + 56, n->generation);
  put_u64(out + 64, n->created_wall_ns);
  put_u64(out + 72, n->promised_epoch);
  put_u64(out + 80, n->promised_node);
  put_u64(out + 88, n->own_epoch);
  out[96] = n->follows;
  put_u64(out + 120, hash64(out, 120));
}

int node_file_decode(const uint8_t *in, size_t n, struct node_file *node) {
  if (n < NODE_FILE_BYTES || memcmp(in, node_magic, 8) != 0) return dw_fail(DW_CORRUPT, "not a NODE file");
  /* A newer version may be longer, but keeps magic, version and size in place and ends with the checksum: so it is told
   * from a version number that rotted. */
  if (get_u32(in + 12) != n || get_u64(in + n - 8) != hash64(in, n - 8))
    return dw_fail(DW_CORRUPT, "checksum mismatch");
  if (get_u32(in + 8) > NODE_FILE_VERSION)
    return dw_fail(DW_UNSUPPORTED, "format version %u, this program knows up to %u", get_u32(in + 8),
                   NODE_FILE_VERSION);
  if (n != NODE_FILE_BYTES || get_u32(in + 8) == 0) return dw_fail(DW_CORRUPT, "size or version is wrong");
  bool reserved = get_u32(in + 60) != 0 || in[96] > 1;
  for (size_t i = 97; i < 120; i++) reserved |= in[i] != 0;
  if (reserved) return dw_fail(DW_CORRUPT, "reserved bytes are set");
  memcpy(node->cluster_id.b, in + 16, 16);
  memcpy(node->incarnation.b, in + 32, 16);
  node->node_id = get_u64(in + 48);
  node->generation = get_u32(in + 56);
  node->created_wall_ns = get_u64(in + 64);
  node->promised_epoch = get_u64(in + 72);
  node->promised_node = get_u64(in + 80);
  node->own_epoch = get_u64(in + 88);
  node->follows = in[96] != 0;
  if (node->node_id == 0 || node->generation == 0) return dw_fail(DW_CORRUPT, "node id or generation is 0");
  if ((node->promised_epoch == 0) != (node->promised_node == 0))
    return dw_fail(DW_CORRUPT, "a promise without an epoch or without a node");
  return DW_OK;
}

/* Files that a crash while the directory was being made can leave: they do not make it foreign. */
static int note_foreign(void *arg, const char *name, bool is_dir) {
  (void)is_dir;
  if (strcmp(name, "LOCK") == 0 || strncmp(name, "NODE.", 5) == 0 || strcmp(name, "lost+found") == 0) return 0;
  snprintf(arg, 128, "%s", name);
  return 1;
}

int node_file_load(struct env *env, const char *dir, struct node_file *node) {
  char *path = path_join(dir, "NODE");
  if (!path) return DW_NO_MEMORY;
  bool there = false;
  uint8_t *bytes = NULL;
  size_t n = 0;
  int rc = env->ops->exists(env, path, &there);
  if (rc) goto out;
  if (!there) {
    char foreign[128] = "";
    rc = env->ops->list(env, dir, note_foreign, foreign);
    if (foreign[0])
      rc = dw_fail(DW_INVALID, "%s is not a dabbawal directory: it has no NODE file, but holds '%s'", dir, foreign);
    else if (rc == DW_OK)
      rc = dw_fail(DW_NOT_FOUND, "%s is empty", dir);
    goto out;
  }
  rc = env_read_file(env, path, 65536, &bytes, &n);
  if (rc == DW_OK) {
    rc = node_file_decode(bytes, n, node);
    if (rc) dw_fail_prefix(rc, "%s", path);
  }
out:
  free(bytes);
  free(path);
  return rc;
}

int node_file_save(struct env *env, const char *dir, const struct node_file *node) {
  uint8_t bytes[NODE_FILE_BYTES];
  node_file_encode(node, bytes);
  return env_write_file_atomic(env, dir, "NODE", bytes, sizeof bytes);
}

struct clean_scan {
  uint32_t keep;
  char found[64];
};

static int find_leftover(void *arg, const char *name, bool is_dir) {
  struct clean_scan *scan = arg;
  unsigned generation;
  char rest;
  if (!is_dir) return 0;
  bool ours =
      sscanf(name, "store-%6u%c", &generation, &rest) == 1 || sscanf(name, "wal-%6u%c", &generation, &rest) == 1;
  if (!(ours && generation != scan->keep) && strcmp(name, "checkpoints") != 0) return 0;
  snprintf(scan->found, sizeof scan->found, "%s", name);
  return 1;
}

int node_dir_clean(struct env *env, const char *dir, uint32_t generation) {
  for (;;) {
    struct clean_scan scan = {.keep = generation};
    int rc = env->ops->list(env, dir, find_leftover, &scan);
    if (!scan.found[0]) return rc;
    char *path = path_join(dir, scan.found);
    if (!path) return DW_NO_MEMORY;
    rc = env_remove_tree(env, path);
    free(path);
    if (rc) return rc;
  }
}
