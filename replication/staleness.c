/* See staleness.h for the idea. Both tables are kept in the order of sending; entries leave by being confirmed,
 * thinned out or forgotten with the connection. */
#include <string.h>

#include "replication/staleness.h"

void staleness_init(struct staleness *s) {
  memset(s, 0, sizeof *s);
  s->next_id = s->first_id = 1;
}

static void drop(struct staleness_probe *table, unsigned *count, unsigned i) {
  memmove(table + i, table + i + 1, (*count - i - 1) * sizeof *table);
  (*count)--;
}

/* A full table: the entry goes whose neighbours are closest to each other, so what stays is spread evenly over time. An
 * entry kept says the same as before, so nothing becomes wrong; and the oldest stays, or else, when answers (or
 * applying) take longer than the table spans, none would ever be confirmed. Only if somebody waits for all of them, the
 * oldest goes. */
static void thin_out(struct staleness_probe *table, unsigned *count) {
  unsigned best = 0;
  uint64_t least = UINT64_MAX;
  for (unsigned i = 1; i + 1 < *count; i++) {
    uint64_t gap = table[i + 1].sent_ns - table[i - 1].sent_ns;
    if (!table[i].awaited && gap < least) least = gap, best = i;
  }
  drop(table, count, best);
}

uint64_t staleness_sent(struct staleness *s, uint64_t now_ns, bool awaited) {
  if (s->sent_count == STALENESS_PROBES) thin_out(s->sent, &s->sent_count);
  s->sent[s->sent_count++] = (struct staleness_probe){.id = s->next_id++, .sent_ns = now_ns, .awaited = awaited};
  return s->sent[s->sent_count - 1].id;
}

bool staleness_asked(const struct staleness *s, uint64_t id) {
  return id >= s->first_id && id < s->next_id;
}

static void confirm(struct staleness *s, uint64_t sent_ns) {
  if (!s->known || sent_ns > s->fresh_as_of_ns) s->fresh_as_of_ns = sent_ns;
  s->known = true;
}

bool staleness_answered(struct staleness *s, uint64_t id, dw_lsn commit_lsn) {
  unsigned i = 0;
  while (i < s->sent_count && s->sent[i].id != id) i++;
  if (i == s->sent_count) return false;
  struct staleness_probe p = s->sent[i];
  p.commit_lsn = commit_lsn;
  p.awaited = false;
  drop(s->sent, &s->sent_count, i);
  if (commit_lsn <= s->applied) {
    confirm(s, p.sent_ns);
    return true;
  }
  /* An older probe that waits for as much or more says less than this one. */
  for (unsigned k = s->answered_count; k-- > 0;)
    if (s->answered[k].sent_ns <= p.sent_ns && s->answered[k].commit_lsn >= commit_lsn)
      drop(s->answered, &s->answered_count, k);
  if (s->answered_count == STALENESS_PROBES) thin_out(s->answered, &s->answered_count);
  unsigned at = s->answered_count; /* answers may overtake one another (relayed probes): keep the order of sending */
  while (at && s->answered[at - 1].sent_ns > p.sent_ns) at--;
  memmove(s->answered + at + 1, s->answered + at, (s->answered_count - at) * sizeof *s->answered);
  s->answered[at] = p;
  s->answered_count++;
  return true;
}

void staleness_applied(struct staleness *s, dw_lsn applied) {
  s->applied = applied;
  unsigned kept = 0;
  for (unsigned i = 0; i < s->answered_count; i++) {
    if (s->answered[i].commit_lsn <= applied)
      confirm(s, s->answered[i].sent_ns);
    else
      s->answered[kept++] = s->answered[i];
  }
  s->answered_count = kept;
}

void staleness_disconnected(struct staleness *s) {
  s->sent_count = s->answered_count = 0;
  s->first_id = s->next_id;
}

uint64_t staleness_ns(const struct staleness *s, uint64_t now_ns) {
  if (!s->known) return UINT64_MAX;
  return now_ns > s->fresh_as_of_ns ? now_ns - s->fresh_as_of_ns : 0;
}
