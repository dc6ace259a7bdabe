/* See scrub.h. */
#include "engine/scrub.h"

#include <string.h>

uint64_t scrub_budget(const struct scrub_pace *p, uint64_t now_ns) {
  if (!p->bytes_per_s || now_ns < p->next_ns) return 0;
  uint64_t bytes = p->bytes_per_s / (1000000000u / SCRUB_STEP_NS);
  return bytes ? bytes : 1;
}

void scrub_began(struct scrub_pace *p, uint64_t now_ns) {
  p->inside = true;
  p->began_ns = now_ns;
}

void scrub_read(struct scrub_pace *p, uint64_t bytes, uint64_t now_ns) {
  /* In two steps: a segment of 4 GiB at a byte a second must not overflow. */
  uint64_t s = bytes / p->bytes_per_s, rest = bytes % p->bytes_per_s;
  p->next_ns = now_ns + s * 1000000000u + (uint64_t)((double)rest * 1e9 / (double)p->bytes_per_s);
}

void scrub_ended(struct scrub_pace *p, uint64_t now_ns) {
  p->inside = false;
  uint64_t next = p->began_ns + p->interval_ns, soonest = now_ns + SCRUB_STEP_NS;
  p->next_ns = next > soonest ? next : soonest;
}

static struct scrub_bad *find(struct scrub_list *l, uint64_t seq) {
  for (size_t i = 0; i < l->count; i++)
    if (l->bad[i].seq == seq) return &l->bad[i];
  return NULL;
}

bool scrub_note(struct scrub_list *l, uint64_t seq, uint64_t now_ns) {
  if (find(l, seq) || l->count == SCRUB_BAD_MAX) return false;
  l->bad[l->count++] = (struct scrub_bad){.seq = seq, .at_ns = now_ns};
  return true;
}

uint64_t scrub_due(const struct scrub_list *l, uint64_t now_ns) {
  for (size_t i = 0; i < l->count; i++)
    if (l->bad[i].at_ns <= now_ns) return l->bad[i].seq;
  return 0;
}

bool scrub_tell(struct scrub_list *l, uint64_t seq) {
  struct scrub_bad *b = find(l, seq);
  bool first = b && !b->told;
  if (b) b->told = true;
  return first;
}

void scrub_failed(struct scrub_list *l, uint64_t seq, uint64_t now_ns) {
  struct scrub_bad *b = find(l, seq);
  if (!b) return;
  b->wait_ns = b->wait_ns ? 2 * b->wait_ns : SCRUB_RETRY_MIN_NS;
  if (b->wait_ns > SCRUB_RETRY_MAX_NS) b->wait_ns = SCRUB_RETRY_MAX_NS;
  b->at_ns = now_ns + b->wait_ns;
}

void scrub_settled(struct scrub_list *l, uint64_t seq) {
  struct scrub_bad *b = find(l, seq);
  if (!b) return;
  size_t i = (size_t)(b - l->bad);
  memmove(b, b + 1, (l->count - i - 1) * sizeof *b);
  l->count--;
}

uint64_t scrub_next(const struct scrub_pace *p, const struct scrub_list *l) {
  uint64_t at = p->bytes_per_s ? p->next_ns : UINT64_MAX;
  for (size_t i = 0; i < l->count; i++)
    if (l->bad[i].at_ns < at) at = l->bad[i].at_ns;
  return at;
}
