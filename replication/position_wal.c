/* The log that a position is decided against: a struct wal. */
#include "replication/position.h"
#include "wal/wal.h"

static int find(void *ctx, const struct wal_pos *pos) {
  struct wal_cursor *c;
  int rc = wal_cursor_open(ctx, pos, &c);
  if (rc == DW_OK) wal_cursor_close(c);
  return rc;
}

static int at_most(void *ctx, uint64_t epoch, dw_lsn lsn, struct wal_pos *out) {
  return wal_boundary_at_most(ctx, epoch, lsn, out);
}

int position_decide_wal(struct wal *wal, const struct wal_pos *oldest, const struct wal_pos *tail,
                        const struct epoch_record *epochs, size_t count, const struct hash128 *cluster_id, bool relay,
                        const struct msg_hello *hello, struct position_decision *out) {
  struct position_log log = {.find = find,
                             .at_most = at_most,
                             .ctx = wal,
                             .oldest = *oldest,
                             .tail = *tail,
                             .epochs = epochs,
                             .epoch_count = count,
                             .cluster_id = *cluster_id,
                             .relay = relay};
  return position_decide(&log, hello, out);
}

int position_older_wal(struct wal *wal, const struct wal_pos *pos, const struct wal_pos *asked, struct wal_pos *at) {
  /* Of the same epoch this log may hold a shorter part than the other: histories part inside of it. */
  int rc = wal_boundary_at_most(wal, pos->epoch, pos->lsn, at);
  bool known = asked ? hash128_eq(&at->chain, &asked->chain) : at->lsn == pos->lsn && at->epoch == pos->epoch;
  if (rc || !known) return rc;
  if (pos->epoch == 0) return dw_fail(DW_NOT_FOUND, "no epoch before the first");
  return wal_boundary_at_most(wal, pos->epoch - 1, pos->lsn, at);
}
