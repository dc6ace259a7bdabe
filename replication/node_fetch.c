/* Blocks for a node that repairs its log: reads them in a job, as far as the question goes.
 *
 * Reading is bounded by the question (at most MSG_FETCH_BYTES or one block), by the shipper's pace, and by
 * NODE_MAX_FETCHERS. It never runs in the loop thread, so neither a commit nor a follower waits for it. The cursor
 * stays for the next question, but pins no more than the segment that it stands in.
 */
#include <stdio.h>
#include <stdlib.h>

#include "replication/node.h"
#include "wal/base/status.h"

void fetch_drop_cursor(struct peer *p) {
  wal_cursor_close(p->fetch.cursor);
  p->fetch.cursor = NULL;
}

static bool stands_at(const struct wal_cursor *c, const struct wal_pos *pos) {
  struct wal_pos at = wal_cursor_pos(c);
  return at.lsn == pos->lsn && hash128_eq(&at.chain, &pos->chain);
}

static int read_blocks(struct fetch_job *j) {
  size_t bytes = 0;
  int rc = DW_OK;
  while (rc == DW_OK && j->count < FETCH_MAX_BLOCKS && bytes < j->ask.max_bytes) {
    struct wal_block *b;
    rc = wal_cursor_next(j->cursor, j->ask.upto, &b);
    if (rc) break;
    bytes += block_total_bytes(&b->h);
    if (j->count && bytes > j->ask.max_bytes) { /* not in this answer: a frame has its bounds */
      wal_block_unref(b);
      break;
    }
    j->blocks[j->count++] = b;
  }
  return rc == DW_NOT_FOUND || j->count ? DW_OK : rc;
}

/* Worker. */
static void fetch_run(void *arg) {
  struct fetch_job *j = arg;
  j->rc = DW_OK;
  j->count = 0;
  if (j->cursor && !stands_at(j->cursor, &j->ask.from)) {
    wal_cursor_close(j->cursor);
    j->cursor = NULL;
  }
  if (!j->cursor) j->rc = wal_cursor_open(j->wal, &j->ask.from, &j->cursor);
  if (j->rc == DW_OK) j->rc = read_blocks(j);
  if (j->rc) dw_error_copy(j->why, sizeof j->why);
}

static void fetch_done(void *arg) {
  struct fetch_job *j = arg;
  struct peer *p = j->peer;
  struct node *n = p->n;
  p->jobs--;
  n->locates--;
  p->dirty = true;
  if (!p->conn || n->serve_blocked || n->stopping) {
    fetch_drop_cursor(p);
    while (j->count) wal_block_unref(j->blocks[--j->count]);
    if (!p->conn) return;
    j->rc = DW_STALE;
    snprintf(j->why, sizeof j->why, "this node's log is being replaced");
  }
  shipper_fetched(p->ship, j->rc, j->blocks, j->count, j->why, node_now(n));
  j->count = 0;
}

static unsigned fetchers(const struct node *n) {
  unsigned count = 0;
  for (const struct peer *p = n->peers; p; p = p->next) count += p->conn && shipper_fetch(p->ship) != NULL;
  return count;
}

void fetch_start(struct peer *p, const struct msg_fetch *ask) {
  struct node *n = p->n;
  struct fetch_job *j = &p->fetch;
  int rc = DW_OK;
  if (!j->blocks)
    engine_log(n->e, DW_LOG_INFO, "%s (node %llu): repairs its log from here, from LSN %llu on", p->address,
               (unsigned long long)ask->node_id, (unsigned long long)ask->from.lsn + 1);
  j->peer = p;
  j->ask = *ask;
  j->wal = engine_wal(n->e);
  if (n->serve_blocked || n->stopping || !j->wal)
    rc = dw_fail(DW_STALE, "this node's log is being replaced");
  else if (fetchers(n) > NODE_MAX_FETCHERS)
    rc = dw_fail(DW_STALE, "%u nodes repair their logs from here already", NODE_MAX_FETCHERS);
  else if (!j->blocks && !(j->blocks = calloc(FETCH_MAX_BLOCKS, sizeof *j->blocks)))
    rc = dw_fail_nomem(FETCH_MAX_BLOCKS * sizeof *j->blocks);
  if (rc == DW_OK) rc = transport_work(n->t, fetch_run, fetch_done, j);
  if (rc == DW_OK) {
    p->jobs++;
    n->locates++;
    return;
  }
  dw_error_copy(j->why, sizeof j->why);
  shipper_fetched(p->ship, rc, NULL, 0, j->why, node_now(n));
}
