/* What must be true in the end, whatever was done to the cluster. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dabbawal.h"
#include "engine/identity.h"
#include "replication/cmd/audit.h"
#include "tests/failover/failover.h"
#include "wal/base/status.h"
#include "wal/wal.h"

#define EPOCHS 4000

typedef unsigned long long ull;

static bool same_data(void) {
  char all[NODES][300];
  for (int i = 0; i < NODES; i++) node_ask(i, all[i], sizeof all[i], "DW.CHECKSUM");
  return all[0][0] && strcmp(all[0], all[1]) == 0 && strcmp(all[0], all[2]) == 0;
}

static bool audits_are_sound(void) {
  bool good = true;
  for (int i = 0; i < NODES; i++) {
    struct audit_summary s;
    char path[600];
    snprintf(path, sizeof path, "%s/audit.log", node[i].data);
    if (audit_verify(path, &s) == 0) {
      printf("node %d's audit log: %llu lines, sound\n", i + 1, (ull)s.lines);
    } else {
      fprintf(stderr, "failover: %s\n", dw_last_error());
      good = false;
    }
  }
  return good;
}

/* The log's directory of a node's present generation. */
static void log_dir(int i, char *out, size_t cap) {
  struct node_file n;
  ck_assert_int_eq(node_file_load(env_posix(), node[i].data, &n), DW_OK);
  char *path = path_generation(node[i].data, "wal", n.generation);
  ck_assert_ptr_nonnull(path);
  snprintf(out, cap, "%s", path);
  free(path);
}

/* ---- epochs --------------------------------------------------------------------------------------- */

struct history {
  struct epoch_record record[EPOCHS];
  size_t count;
};

static int note_epoch(void *arg, const char *path, uint64_t off, const struct wal_block *b) {
  struct history *h = arg;
  (void)path, (void)off;
  if (b->h.kind != BLOCK_EPOCH || h->count == EPOCHS) return 0;
  return epoch_record_decode(b->bytes + WAL_BLOCK_HEADER_BYTES, b->h.stored_bytes, &h->record[h->count++]) != DW_OK;
}

static bool rises(const struct history *h, int i) {
  for (size_t k = 1; k < h->count; k++) {
    const struct epoch_record *a = &h->record[k - 1], *b = &h->record[k];
    if (b->epoch > a->epoch && b->start.lsn >= a->start.lsn) continue;
    fprintf(stderr, "failover: node %d's log: epoch %llu from LSN %llu behind epoch %llu from LSN %llu\n", i + 1,
            (ull)b->epoch, (ull)b->start.lsn, (ull)a->epoch, (ull)a->start.lsn);
    return false;
  }
  return true;
}

/* Each node's log is sound, goes back to the beginning (nobody had to be bootstrapped anew), and tells the same epochs.
 */
static bool epochs_rise(void) {
  static struct history h[NODES];
  bool good = true;
  for (int i = 0; i < NODES; i++) {
    struct wal_inspect how = {.on_block = note_epoch, .arg = &h[i]};
    struct wal_inspect_report rep;
    char path[600];
    log_dir(i, path, sizeof path);
    bool sound = wal_inspect(env_posix(), path, &how, &rep) == DW_OK && rep.first.lsn == 0;
    if (!sound)
      fprintf(stderr, "failover: node %d's log, from LSN %llu on: %s\n", i + 1, (ull)rep.first.lsn, rep.problem);
    good &= sound && rises(&h[i], i);
    if (h[i].count != h[0].count || memcmp(h[i].record, h[0].record, h[0].count * sizeof *h[0].record) != 0) {
      fprintf(stderr, "failover: node %d tells other epochs (%zu) than node 1 (%zu)\n", i + 1, h[i].count, h[0].count);
      good = false;
    }
  }
  if (good) printf("%zu epochs, the same and rising in all logs\n", h[0].count);
  return good;
}

bool verdict(void) {
  char path[600];
  AWAIT("a primary in the end", leader() >= 0);
  unsigned long lost = load_lost(leader());
  AWAIT("all nodes to have the same data", same_data());
  printf("%lu writes acknowledged, %lu lost; all nodes have the same data\n", load_acks(), lost);
  log_dir(leader(), path, sizeof path);
  bool good = audits_are_sound();
  good &= epochs_rise();
  good &= registers_judge(path);
  return good && lost == 0;
}
