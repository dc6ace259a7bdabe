/* `dabbawal wal verify DIR [--repair-from HOST:PORT]` and `dabbawal wal repair DIR --from HOST:PORT`.
 *
 * verify changes nothing and takes no lock: the directory may be in use. What could be repaired it finds out by
 * fetching the blocks and checking them against what survived, so its word is as good as the repair. repair works on a
 * directory that nobody has open.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/identity.h"
#include "replication/cmd/cli_wal.h"
#include "replication/cmd/config.h"
#include "replication/repair_source.h"
#include "wal/base/status.h"
#include "wal/repair.h"

#define PEER_TIMEOUT_MS 5000u

typedef unsigned long long ull;

/* ---- what is damaged ------------------------------------------------------------------------------ */

struct damages {
  struct wal_damage *d;
  size_t n;
};

static int find(const char *log, const struct node_file *node, struct damages *all) {
  struct wal_find f = {.env = env_posix(), .dir = log};
  if (node) f.cluster_id = node->cluster_id, f.node_id = node->node_id;
  free(all->d);
  return wal_list_damage(&f, &all->d, &all->n);
}

/* ---- one segment ------------------------------------------------------------------------------------ */

static void describe(const struct wal_damage *d) {
  char line[400];
  for (uint64_t i = 0; wal_damage_describe(d, i, line, sizeof line); i++) printf("damage: %s\n", line);
  if (d->holes > WAL_HOLES_SHOWN) printf("damage: %s: %llu more places\n", d->name, (ull)(d->holes - WAL_HOLES_SHOWN));
}

static int mend(const char *log, const struct wal_damage *d, const struct block_source *source, bool rehearse) {
  struct repair_run run = {.env = env_posix(),
                           .dir = log,
                           .cluster_id = d->h.cluster_id,
                           .node_id = d->h.node_id ? d->h.node_id : 1,
                           .source = source,
                           .deadline_ns = UINT64_MAX,
                           .rehearse = rehearse};
  struct repair_result r;
  int rc = repair_segment(&run, d, NULL, &r);
  if (rc)
    printf("  can't be repaired: %s\n", r.why);
  else
    printf("  %s%s%s: %llu blocks, %llu bytes\n", rehearse ? "could be repaired" : "repaired",
           r.from[0] ? " from " : "", r.from, (ull)r.blocks, (ull)r.bytes);
  fflush(stdout);
  return rc;
}

static int open_source(const char *peers, struct block_source *out) {
  char *list = parse_addresses(peers);
  if (!list) return DW_INVALID;
  int rc = repair_source_create(env_posix(), (const char *const[]){list}, 1, PEER_TIMEOUT_MS, out);
  free(list);
  return rc;
}

/* ---- verify ------------------------------------------------------------------------------------------- */

static void print_report(const char *log, const struct wal_inspect_report *r) {
  printf("%s\n  segments %llu, blocks %llu, commits %llu, %llu bytes\n", log, (unsigned long long)r->segments,
         (unsigned long long)r->blocks, (unsigned long long)r->commits, (unsigned long long)r->bytes);
  if (r->commits)
    printf("  LSN %llu to %llu, epoch %llu\n", (unsigned long long)r->first.lsn + 1, (unsigned long long)r->last.lsn,
           (unsigned long long)r->last.epoch);
  else
    printf("  no commits behind LSN %llu, epoch %llu\n", (unsigned long long)r->last.lsn,
           (unsigned long long)r->last.epoch);
  if (r->leftovers)
    printf(
        "  %llu older segments do not join the first one: left over from a trim that a crash cut short, and removed at "
        "the next open, which refuses if the store needs them\n",
        (unsigned long long)r->leftovers);
  if (r->torn_bytes)
    printf("  torn tail: %llu bytes behind the last whole block (being written just now, or cut off by a crash)\n",
           (unsigned long long)r->torn_bytes);
}

/* In the newest segment of a log in use a block may be half written while we look: only what stays is damage. */
static int settle_newest(const char *log, struct damages *all) {
  int rc = DW_OK;
  for (int again = 0; rc == DW_OK && again < 2 && all->n && all->d[all->n - 1].newest; again++) {
    uint64_t off = all->d[all->n - 1].hole[0].off;
    rc = find(log, NULL, all);
    if (rc == DW_OK && all->n && all->d[all->n - 1].newest && all->d[all->n - 1].hole[0].off != off) all->n--;
  }
  return rc;
}

int cli_wal_verify(const char *log, const char *ask) {
  struct wal_inspect how = {0};
  struct wal_inspect_report r = {0};
  struct damages all = {0};
  struct block_source source = {0};
  char problem[512] = "";
  int rc = ask ? open_source(ask, &source) : DW_OK;
  if (rc) return rc;
  rc = wal_inspect(env_posix(), log, &how, &r);
  bool corrupt = rc == DW_CORRUPT;
  if (corrupt) dw_error_copy(problem, sizeof problem);
  if (rc == DW_OK || corrupt) {
    print_report(log, &r);
    rc = find(log, NULL, &all);
    if (rc == DW_OK) rc = settle_newest(log, &all);
  }
  size_t mendable = 0;
  for (size_t i = 0; rc == DW_OK && i < all.n; i++) {
    describe(&all.d[i]);
    if (ask && mend(log, &all.d[i], &source, true) == DW_OK) mendable++;
  }
  if (rc == DW_OK && (corrupt || all.n)) {
    if (!ask && all.n) printf("  --repair-from HOST:PORT asks a node whether it could be repaired from there\n");
    if (ask) printf("%zu of %zu damaged segments could be repaired\n", mendable, all.n);
    if (!problem[0]) wal_damage_describe(&all.d[0], 0, problem, sizeof problem);
    rc = dw_fail(DW_CORRUPT, "%s", problem);
  } else if (rc == DW_OK) {
    char chain[33];
    hash128_hex(&r.last.chain, chain);
    printf("sound: up to LSN %llu, chain %s\n", (ull)r.last.lsn, chain);
  }
  free(all.d);
  repair_source_free(&source);
  return rc;
}

/* ---- repair --------------------------------------------------------------------------------------------- */

static int repair_locked(const char *log, const struct node_file *node, const struct block_source *source) {
  struct damages all = {0};
  size_t left = 0, mended = 0;
  int rc = DW_OK;
  /* Damage side by side may need a second look: a header is rebuilt from the segment before it. */
  for (size_t before = SIZE_MAX; rc == DW_OK;) {
    rc = find(log, node, &all);
    if (rc || !all.n || all.n >= before) break;
    before = all.n;
    left = 0;
    for (size_t i = 0; i < all.n; i++) {
      describe(&all.d[i]);
      if (mend(log, &all.d[i], source, false) == DW_OK)
        mended++;
      else
        left++;
    }
    if (left == all.n) break;
  }
  left = all.n;
  free(all.d);
  if (rc) return rc;
  printf("%zu damaged segments repaired, %zu left\n", mended, left);
  return left ? dw_fail(DW_CORRUPT, "%s: %zu damaged segments are left", log, left) : DW_OK;
}

int cli_wal_repair(const char *dir, const char *log, const char *from) {
  struct env *env = env_posix();
  struct node_file node;
  struct env_file *lock = NULL;
  struct block_source source = {0};
  int rc = node_file_load(env, dir, &node);
  if (rc == DW_NOT_FOUND)
    return dw_fail(DW_INVALID, "%s: not a data directory (no NODE file), so it can't be locked", dir);
  char *path = rc == DW_OK ? path_join(dir, "LOCK") : NULL;
  if (rc == DW_OK) rc = path ? env->ops->lock(env, path, &lock) : DW_NO_MEMORY;
  free(path);
  if (rc == DW_OK) rc = open_source(from, &source);
  if (rc == DW_OK) rc = repair_locked(log, &node, &source);
  repair_source_free(&source);
  if (lock) env->ops->unlock(lock);
  return rc;
}
