/* See commit_gate.h for the rule. Everything here is arithmetic on what the engine reported. */
#include "engine/commit_gate.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/status.h"

void gate_init(struct commit_gate *g, dw_lsn commit, uint64_t catch_up_ns) {
  memset(g, 0, sizeof *g);
  g->commit = g->written = g->durable = commit;
  g->catch_up_ns = catch_up_ns;
}

void gate_free(struct commit_gate *g) {
  free(g->entries);
  g->entries = NULL;
  g->cap = g->count = 0;
}

int gate_reserve(struct commit_gate *g, size_t n) {
  if (g->cap - g->count >= n) return DW_OK;
  size_t cap = g->cap ? g->cap : 64;
  while (cap - g->count < n) cap *= 2;
  struct gate_entry *entries = malloc(cap * sizeof *entries);
  if (!entries) return dw_fail_nomem(cap * sizeof *entries);
  for (size_t i = 0; i < g->count; i++) entries[i] = g->entries[(g->head + i) % g->cap];
  free(g->entries);
  g->entries = entries;
  g->cap = cap;
  g->head = 0;
  return DW_OK;
}

void gate_push(struct commit_gate *g, const struct gate_entry *e) {
  assert(g->count < g->cap); /* gate_reserve came before */
  g->entries[(g->head + g->count) % g->cap] = *e;
  g->count++;
}

void gate_local(struct commit_gate *g, dw_lsn written, dw_lsn durable, uint64_t now_ns) {
  if (written > g->written) g->written = written;
  if (durable > g->durable) g->durable = durable;
  /* Samples a 32nd of the window apart: enough to find "what was written a window ago" within 3%. */
  const struct gate_sample *last = &g->samples[(g->next_sample + GATE_SAMPLES - 1) % GATE_SAMPLES];
  if (g->degraded_pairs && now_ns - last->at_ns >= g->catch_up_ns / 32) {
    g->samples[g->next_sample] = (struct gate_sample){now_ns, g->written};
    g->next_sample = (g->next_sample + 1) % GATE_SAMPLES;
  }
}

void gate_marks(struct commit_gate *g, const struct ack_marks *m) {
  g->marks = *m;
}

/* The level whose marks decide the commit. */
static int commit_level(const struct block_need *need) {
  return need->ack == DW_ACK_RECEIVED ? LEVEL_RECEIVED : LEVEL_DURABLE;
}

static dw_lsn mark_of(const struct commit_gate *g, int level, uint32_t acks) {
  if (acks == 0) return UINT64_MAX;
  return acks <= DW_MAX_ACKS ? g->marks.mark[level][acks - 1] : 0;
}

static bool *degraded_slot(struct commit_gate *g, const struct block_need *need) {
  uint32_t acks = need->acks <= DW_MAX_ACKS ? need->acks : DW_MAX_ACKS;
  return &g->degraded[commit_level(need)][acks];
}

bool gate_is_degraded(const struct commit_gate *g, const struct block_need *need) {
  return need->mode == DW_SEMI_SYNC && *degraded_slot((struct commit_gate *)g, need);
}

bool gate_acked(const struct commit_gate *g, const struct block_need *need, dw_lsn lsn) {
  if (need->mode == DW_ASYNC || gate_is_degraded(g, need)) return true;
  int level = need->ack == DW_ACK_APPLIED ? LEVEL_APPLIED : commit_level(need);
  return mark_of(g, level, need->acks) >= lsn;
}

static bool entry_acked(const struct commit_gate *g, const struct gate_entry *e) {
  return e->need.mode == DW_ASYNC || mark_of(g, commit_level(&e->need), e->need.acks) >= e->last_lsn;
}

/* What was written a window ago; 0 if no sample is that old. */
static dw_lsn written_a_window_ago(const struct commit_gate *g, uint64_t now_ns) {
  dw_lsn best = 0;
  uint64_t best_at = 0;
  for (unsigned i = 0; i < GATE_SAMPLES; i++) {
    const struct gate_sample *s = &g->samples[i];
    if (s->at_ns && s->at_ns + g->catch_up_ns <= now_ns && s->at_ns > best_at) best = s->written, best_at = s->at_ns;
  }
  return best;
}

static unsigned recover_caught_up(struct commit_gate *g, uint64_t now_ns) {
  unsigned events = 0;
  dw_lsn target = written_a_window_ago(g, now_ns);
  if (target == 0) target = g->written;
  for (int level = 0; level < 2; level++) {
    for (uint32_t acks = 1; acks <= DW_MAX_ACKS; acks++) {
      if (!g->degraded[level][acks] || g->marks.connected < acks) continue;
      if (mark_of(g, level, acks) < target) continue;
      g->degraded[level][acks] = false;
      g->degraded_pairs--;
      events |= GATE_RECOVERED;
    }
  }
  if (!g->degraded_pairs) memset(g->samples, 0, sizeof g->samples);
  return events;
}

static void degrade(struct commit_gate *g, const struct block_need *need, uint64_t now_ns) {
  *degraded_slot(g, need) = true;
  g->degraded_pairs++;
  g->degraded_count++;
  g->samples[g->next_sample] = (struct gate_sample){now_ns, g->written};
  g->next_sample = (g->next_sample + 1) % GATE_SAMPLES;
}

unsigned gate_advance(struct commit_gate *g, uint64_t now_ns) {
  unsigned events = g->degraded_pairs ? recover_caught_up(g, now_ns) : 0;
  while (g->count) {
    const struct gate_entry *e = &g->entries[g->head];
    dw_lsn local = e->need.durability == DW_DURABILITY_DISK ? g->durable : g->written;
    if (local < e->last_lsn) break;
    if (!entry_acked(g, e)) {
      if (e->need.mode != DW_SEMI_SYNC) break;
      if (!gate_is_degraded(g, &e->need)) {
        if (now_ns < e->deadline_ns) break;
        degrade(g, &e->need, now_ns);
        events |= GATE_DEGRADED;
      }
      g->degraded_commits += e->commits;
    }
    if (e->last_lsn > g->commit) g->commit = e->last_lsn;
    g->head = (g->head + 1) % g->cap;
    g->count--;
  }
  return events;
}

uint64_t gate_next_deadline(const struct commit_gate *g) {
  if (!g->count) return UINT64_MAX;
  const struct gate_entry *e = &g->entries[g->head];
  return e->need.mode == DW_SEMI_SYNC ? e->deadline_ns : UINT64_MAX;
}
