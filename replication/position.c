/* The decision of position.h, case by case, in its order. */
#include <stdio.h>

#include "replication/position.h"

typedef unsigned long long ull;

static int decide(struct position_decision *d, enum position_kind kind, char which, const struct wal_pos *pos,
                  const char *text) {
  *d = (struct position_decision){.kind = kind, .which = which};
  if (pos) d->pos = *pos;
  snprintf(d->text, sizeof d->text, "%.460s (case %c)", text, which);
  return DW_OK;
}

static int refuse(struct position_decision *d, char which, int code, dw_lsn lsn, const char *text) {
  decide(d, POSITION_REFUSE, which, NULL, text);
  d->code = code;
  d->lsn = lsn;
  return DW_OK;
}

/* log->find, but several boundaries may share the LSN of the oldest one held: those of earlier epochs lie below it. */
static int find_boundary(const struct position_log *log, const struct wal_pos *pos) {
  int rc = log->find(log->ctx, pos);
  bool below = pos->lsn == log->oldest.lsn && pos->epoch < log->oldest.epoch;
  return rc == DW_DIVERGED && below ? DW_NOT_FOUND : rc;
}

/* Is pos on our history as far as the epochs tell? For positions below the oldest block held. */
static bool on_epoch_history(const struct position_log *log, const struct wal_pos *pos) {
  if (pos->lsn == 0 && pos->epoch == 0) {
    struct wal_pos genesis = wal_genesis(&log->cluster_id);
    return hash128_eq(&pos->chain, &genesis.chain);
  }
  for (size_t i = 0; i < log->epoch_count; i++) {
    const struct epoch_record *e = &log->epochs[i];
    if (e->epoch != pos->epoch) continue;
    const struct wal_pos *end = i + 1 < log->epoch_count ? &log->epochs[i + 1].start : &log->tail;
    if (pos->lsn < e->start.lsn || pos->lsn > end->lsn) return false;
    /* An epoch's last boundary is the next one's start, whose chain hash we know. */
    if (pos->lsn == end->lsn && end->epoch == pos->epoch) return hash128_eq(&pos->chain, &end->chain);
    return true;
  }
  return false;
}

/* The last LSN that pos and our history can have in common, for messages: where our part of its epoch ends, or its own
 * end. */
static dw_lsn parted_after(const struct position_log *log, const struct wal_pos *pos) {
  struct wal_pos p;
  if (log->at_most(log->ctx, pos->epoch, pos->lsn, &p) == DW_OK) return p.lsn;
  dw_lsn lsn = 0;
  for (size_t i = 0; i < log->epoch_count && log->epochs[i].epoch <= pos->epoch; i++)
    lsn = i + 1 < log->epoch_count ? log->epochs[i + 1].start.lsn : log->tail.lsn;
  return lsn < pos->lsn ? lsn : pos->lsn;
}

/* Is what the follower has applied on our history? DW_OK, DW_DIVERGED, or another error. */
static int applied_is_ours(const struct position_log *log, const struct wal_pos *applied) {
  int rc = find_boundary(log, applied);
  if (rc != DW_NOT_FOUND) return rc;
  return on_epoch_history(log, applied) ? DW_OK : DW_DIVERGED;
}

/* P: the last boundary of ours that a log with the boundary `at` can have in common with us. Where ours is trimmed
 * the epochs tell: within one there was one writer. */
static int parting(const struct position_log *log, const struct wal_pos *at, struct wal_pos *p) {
  int rc = log->find(log->ctx, at);
  *p = *at;
  if (rc == DW_NOT_FOUND || rc == DW_DIVERGED) rc = log->at_most(log->ctx, at->epoch, at->lsn, p);
  if (rc != DW_NOT_FOUND) return rc;
  *p = wal_genesis(&log->cluster_id);
  for (size_t i = 0; i < log->epoch_count && log->epochs[i].epoch <= at->epoch; i++) {
    const struct epoch_record *e = &log->epochs[i];
    const struct wal_pos *end = i + 1 < log->epoch_count ? &log->epochs[i + 1].start : &log->tail;
    if (e->start.lsn > at->lsn) break;
    if (end->lsn <= at->lsn) {
      *p = *end;
    } else if (e->epoch == at->epoch) {
      *p = *at;
    } else { /* it left ours somewhere in this epoch: where, its own log tells, for it has no boundary of that chain
                here */
      *p = (struct wal_pos){at->lsn, e->epoch, end->chain};
      break;
    }
  }
  return DW_OK;
}

/* What of its log lies beyond our history, for a BOOTSTRAP that replaces it. */
static int part(const struct position_log *log, const struct msg_hello *h, const char *text, char which,
                const struct wal_pos *sure, struct position_decision *d) {
  struct wal_pos p;
  int rc = find_boundary(log, &h->tail);
  if (rc != DW_OK && rc != DW_NOT_FOUND && rc != DW_DIVERGED) return rc;
  bool ours = rc == DW_OK || (rc == DW_NOT_FOUND && on_epoch_history(log, &h->tail));
  rc = ours ? DW_OK : parting(log, &h->at, &p);
  if (rc) return rc;
  decide(d, POSITION_BOOTSTRAP, which, sure ? sure : &p, text);
  if (!ours) d->parted = p;
  return DW_OK;
}

static int case_g(const struct position_log *log, const struct msg_hello *h, struct position_decision *d) {
  char text[MSG_TEXT_BYTES];
  if (h->rejoin)
    return part(log, h, "it has applied what is not on this history, and parts with it to rejoin", 'G', NULL, d);
  dw_lsn p = parted_after(log, &h->applied);
  if (h->applied.lsn > log->tail.lsn)
    snprintf(text, sizeof text,
             "node %llu has applied up to LSN %llu, this log ends at LSN %llu: it holds commits that "
             "are not here",
             (ull)h->node_id, (ull)h->applied.lsn, (ull)log->tail.lsn);
  else
    snprintf(text, sizeof text, "node %llu has applied up to LSN %llu, histories part after LSN %llu at the latest",
             (ull)h->node_id, (ull)h->applied.lsn, (ull)p);
  return refuse(d, 'G', DW_DIVERGED, p + 1, text);
}

/* a is at or before b, both on one history. */
static bool at_or_before(const struct wal_pos *a, const struct wal_pos *b) {
  return a->epoch <= b->epoch && a->lsn <= b->lsn;
}

static int case_a(const struct position_log *log, const struct msg_hello *h, struct position_decision *d) {
  struct wal_pos genesis = wal_genesis(&log->cluster_id);
  if (!hash128_zero(&h->cluster_id) && !hash128_eq(&h->tail.chain, &genesis.chain))
    return refuse(d, 'A', DW_DIVERGED, 1, "an empty log that does not begin where this cluster's begins");
  int rc = find_boundary(log, &genesis);
  if (rc == DW_NOT_FOUND)
    return decide(d, POSITION_BOOTSTRAP, 'A', &genesis, "new, and the log's beginning is trimmed");
  if (rc) return rc;
  return decide(d, POSITION_STREAM, 'A', &genesis, "from the beginning");
}

/* `at` is a boundary of ours. */
static int case_d(const struct position_log *log, const struct msg_hello *h, struct position_decision *d) {
  if (h->at.lsn == h->tail.lsn && hash128_eq(&h->at.chain, &h->tail.chain))
    return decide(d, POSITION_STREAM, 'D', &h->at, "from its end");
  int rc = applied_is_ours(log, &h->applied);
  if (rc && rc != DW_DIVERGED) return rc;
  if (rc == DW_DIVERGED || !at_or_before(&h->applied, &h->at)) return case_g(log, h, d);
  return decide(d, POSITION_TRUNCATE, 'D', &h->at, "unapplied tail to be dropped");
}

static int case_ef(const struct position_log *log, const struct msg_hello *h, bool trimmed,
                   struct position_decision *d) {
  int rc = applied_is_ours(log, &h->applied);
  if (rc == DW_DIVERGED) return case_g(log, h, d);
  if (rc) return rc;
  if (trimmed) return part(log, h, "its end is below the oldest log held", 'E', &h->applied, d);
  struct wal_pos p;
  rc = log->at_most(log->ctx, h->at.epoch, h->at.lsn, &p);
  if (rc == DW_NOT_FOUND)
    return part(log, h, "its tail is not on this history, the parting is trimmed", 'F', &h->applied, d);
  if (rc) return rc;
  if (!at_or_before(&h->applied, &p)) return case_g(log, h, d);
  return decide(d, POSITION_TRUNCATE, 'F', &p, "unapplied tail that is not on this history to be dropped");
}

int position_decide(const struct position_log *log, const struct msg_hello *h, struct position_decision *d) {
  char text[MSG_TEXT_BYTES];
  bool beyond = h->tail.epoch > log->tail.epoch || (h->tail.epoch == log->tail.epoch && h->tail.lsn > log->tail.lsn);
  if (hash128_zero(&h->cluster_id) || (h->tail.lsn == 0 && h->tail.epoch == 0)) return case_a(log, h, d);
  if (log->relay && beyond) {
    snprintf(text, sizeof text, "this follower is behind: it ends at LSN %llu (epoch %llu), node %llu at %llu (%llu)",
             (ull)log->tail.lsn, (ull)log->tail.epoch, (ull)h->node_id, (ull)h->tail.lsn, (ull)h->tail.epoch);
    return refuse(d, 'B', DW_STALE, 0, text);
  }
  if (h->tail.epoch > log->tail.epoch) {
    snprintf(text, sizeof text,
             "node %llu has followed epoch %llu, this primary is at epoch %llu: it is not the newest "
             "primary",
             (ull)h->node_id, (ull)h->tail.epoch, (ull)log->tail.epoch);
    return refuse(d, 'C', DW_DIVERGED, parted_after(log, &h->tail) + 1, text);
  }
  int rc = find_boundary(log, &h->at);
  if (rc == DW_OK) return case_d(log, h, d);
  if (rc != DW_NOT_FOUND && rc != DW_DIVERGED) return rc;
  return case_ef(log, h, rc == DW_NOT_FOUND, d);
}
