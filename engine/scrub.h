/* When the background scrub reads, and when it tries again what it could not repair: decisions only (scrub_run.c acts).
 *
 *   pass begins --> budget, budget, budget ... --> pass ends --> nothing until `interval` after it began
 *
 * A budget is worth SCRUB_STEP_NS of the rate, and the next one is not due before the last one's bytes are paid for.
 * What was not used while the machine was busy is not made up for: a scrub never bursts.
 */
#ifndef DW_ENGINE_SCRUB_H
#define DW_ENGINE_SCRUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCRUB_STEP_NS 50000000ull
#define SCRUB_RETRY_MIN_NS 1000000000ull  /* after a repair in vain; doubles ... */
#define SCRUB_RETRY_MAX_NS 60000000000ull /* ... up to this */
#define SCRUB_BAD_MAX 64u                 /* damaged segments kept in mind; others are found again by the next pass */

struct scrub_pace {
  uint64_t bytes_per_s; /* 0: no passes */
  uint64_t interval_ns; /* from the beginning of a pass to that of the next */
  uint64_t next_ns;     /* nothing is due before */
  uint64_t began_ns;
  bool inside;
};
/* Bytes to read now; 0: not now. */
uint64_t scrub_budget(const struct scrub_pace *, uint64_t now_ns);
void scrub_began(struct scrub_pace *, uint64_t now_ns);
void scrub_read(struct scrub_pace *, uint64_t bytes, uint64_t now_ns);
void scrub_ended(struct scrub_pace *, uint64_t now_ns);

struct scrub_bad {
  uint64_t seq, at_ns, wait_ns;
  bool told; /* reported and counted */
};
struct scrub_list {
  struct scrub_bad bad[SCRUB_BAD_MAX];
  size_t count;
};
/* A damaged segment; due at once. False: known already (its time stays), or the list is full. */
bool scrub_note(struct scrub_list *, uint64_t seq, uint64_t now_ns);
/* One whose time has come, 0: none. */
uint64_t scrub_due(const struct scrub_list *, uint64_t now_ns);
bool scrub_tell(struct scrub_list *, uint64_t seq);                    /* true once: report it now */
void scrub_failed(struct scrub_list *, uint64_t seq, uint64_t now_ns); /* later again */
void scrub_settled(struct scrub_list *, uint64_t seq);                 /* repaired, or gone */
/* When something is due, by either. */
uint64_t scrub_next(const struct scrub_pace *, const struct scrub_list *);

#endif
