/* The commit gate: may this LSN be acknowledged?
 *
 * A pure state machine. The engine pushes one entry for each block that it appended, in order, with what the
 * block needs; it reports the local marks (written, durable), the followers' marks and the time. The gate
 * answers with commit_lsn:
 *
 *   the highest LSN such that every block up to it is locally as durable as it asked for
 *   AND has the acknowledgements that its mode asks for.
 *
 *     log:      | block | block | block | block |
 *     durable   ---------------^
 *     mark[durable][acks-1]  ----------^
 *     commit_lsn --------------^            (never moves back, never skips an unsatisfied block)
 *
 * Level `applied` commits on durable acks: applying is what a commit allows, so it can't be its condition; the
 * writer's answer waits for the applied marks besides (gate_acked).
 *
 * Semi-sync degrades per (level, acks): when a block has waited past its deadline, that pair counts as async
 * until followers have caught up, so one write that asks for too many followers does not strip the others. Caught
 * up: the mark has reached what was written `catch_up_ns` ago, that is, an ack takes less than that.
 */
#ifndef DW_COMMIT_GATE_H
#define DW_COMMIT_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/dabbawal.h"
#include "wal/format.h"

/* What followers have, boiled down: mark[level][k] is the LSN that at least k+1 followers have reached at the
 * level; non-increasing in k; entries from `known` on are 0. */
enum ack_level { LEVEL_RECEIVED, LEVEL_DURABLE, LEVEL_APPLIED };
struct ack_marks {
  uint32_t connected; /* followers connected and streaming (they count for the sync mode's refusal rule) */
  uint32_t known;
  dw_lsn mark[3][DW_MAX_ACKS];
};

struct gate_entry {
  dw_lsn last_lsn;
  uint32_t commits;
  struct block_need need;
  uint64_t deadline_ns; /* semi-sync: degrade when it waits longer; UINT64_MAX: never */
};

#define GATE_SAMPLES 64
struct gate_sample {
  uint64_t at_ns;
  dw_lsn written;
};

struct commit_gate {
  struct gate_entry *entries; /* ring: [head, head + count) modulo cap */
  size_t head, count, cap;
  dw_lsn written, durable, commit;
  struct ack_marks marks;
  uint64_t catch_up_ns;
  bool degraded[2][DW_MAX_ACKS + 1]; /* [received|durable][acks] */
  uint32_t degraded_pairs;           /* how many are set */
  uint64_t degraded_count, degraded_commits;
  struct gate_sample samples[GATE_SAMPLES]; /* written over time, oldest overwritten */
  unsigned next_sample;
};

/* `commit`: known committed so far; `catch_up_ns` as above. */
void gate_init(struct commit_gate *, dw_lsn commit, uint64_t catch_up_ns);
void gate_free(struct commit_gate *);

/* Room for n more entries, so that gate_push after an append can't fail. DW_NO_MEMORY. */
int gate_reserve(struct commit_gate *, size_t n);
void gate_push(struct commit_gate *, const struct gate_entry *);

/* Each takes in news; call gate_advance afterwards. */
void gate_local(struct commit_gate *, dw_lsn written, dw_lsn durable, uint64_t now_ns);
void gate_marks(struct commit_gate *, const struct ack_marks *);

enum gate_event { GATE_DEGRADED = 1, GATE_RECOVERED = 2 };
/* Moves commit as far as it may go. Returns GATE_* events (or'ed) for the log. */
unsigned gate_advance(struct commit_gate *, uint64_t now_ns);

/* When gate_advance may act without other news; UINT64_MAX: never. */
uint64_t gate_next_deadline(const struct commit_gate *);

/* Do the followers' marks fulfil `need` for lsn, at the need's own level (applied too)? Async: always. A degraded
 * semi-sync need: yes. */
bool gate_acked(const struct commit_gate *, const struct block_need *, dw_lsn lsn);
bool gate_is_degraded(const struct commit_gate *, const struct block_need *);

#endif
