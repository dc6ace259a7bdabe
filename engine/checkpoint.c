/* Checkpoints on their way out: a consistent copy of the store and the boundary it stands at.
 *
 * The store flushes its memtable into the copy (our writes bypass its own log), so the copy is complete. Its
 * boundary is read from the copy itself: writes go on while it is made.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "wal/base/status.h"

static int checkpoint_path(dw_engine *e, const char *name, char *path, size_t cap) {
  if (!*name || strchr(name, '/') || *name == '.') return dw_fail(DW_INVALID, "checkpoint name '%s'", name);
  int n = snprintf(path, cap, "%s/checkpoints/%s", e->dir, name);
  return n > 0 && (size_t)n < cap ? DW_OK : dw_fail(DW_INVALID, "checkpoint path too long");
}

int engine_checkpoint_create(dw_engine *e, const char *name, struct engine_checkpoint *out) {
  int rc = checkpoint_path(e, name, out->path, sizeof out->path);
  if (rc) return rc;
  char *parent = path_join(e->dir, "checkpoints");
  if (!parent) return DW_NO_MEMORY;
  rc = e->env->ops->mkdir(e->env, parent);
  free(parent);
  if (rc) return rc;
  rc = env_remove_tree(e->env, out->path);
  if (rc) return rc;

  struct store_ref *ref = store_ref_get(e);
  rc = ref->store->ops->checkpoint(ref->store, out->path);
  store_ref_put(ref);
  if (rc == DW_OK) {
    struct store *copy;
    struct store_options so = {.env = e->env,
                               .block_cache_bytes = 1u << 20,
                               .memtable_bytes = 1u << 20,
                               .read_only = true,
                               .must_exist = true};
    rc = e->sops->open(out->path, &so, &copy);
    if (rc == DW_OK) {
      rc = e->sops->marker(copy, true, &out->pos);
      e->sops->close(copy);
    }
  }
  if (rc == DW_OK) store_marker_at_genesis(&out->pos, &e->node.cluster_id);
  if (rc) {
    char why[400];
    dw_error_copy(why, sizeof why);
    (void)env_remove_tree(e->env, out->path);
    return dw_fail(rc, "checkpoint %s: %s", name, why);
  }
  return DW_OK;
}

void engine_checkpoint_drop(dw_engine *e, const char *name) {
  char path[4096];
  if (checkpoint_path(e, name, path, sizeof path) == DW_OK) (void)env_remove_tree(e->env, path);
}
