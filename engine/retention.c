/* How far may the log be trimmed? Pure.
 *
 * A segment may go when RocksDB has persisted all of it (it is not needed for replay), no connected follower and
 * no running bootstrap still reads it (pinned), and it is not kept for followers that are away: for those
 * the newest retain_bytes of log that are younger than retain_ns stay, and not more, so that a follower that never
 * comes back can't fill the disk.
 *
 *   oldest                                                   newest
 *   | s1 | s2 | s3 | s4 | s5 | s6 | s7 (being written) |
 *              ^kept for absent ones  ^pinned  ^persisted
 */
#include "engine/internal.h"

dw_lsn retention_trim_lsn(const struct retention_in *in) {
  dw_lsn needed = in->persisted < in->pinned ? in->persisted : in->pinned;
  uint64_t kept_bytes = 0;
  for (size_t i = in->n; i-- > 0;) {
    const struct wal_segment_info *s = &in->segments[i];
    /* Equal: an epoch record, which uses no LSN, may stand at its end and be needed still. */
    if (s->last_lsn >= needed || i + 1 == in->n) {
      kept_bytes += s->bytes;
      continue;
    }
    bool young = in->now_ns - s->last_append_mono_ns < in->retain_ns || s->last_append_mono_ns > in->now_ns;
    bool keep = in->keep_for_absent && kept_bytes + s->bytes <= in->retain_bytes && young;
    if (!keep) return s->last_lsn; /* it and everything older */
    kept_bytes += s->bytes;
  }
  return 0;
}
