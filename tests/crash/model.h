/* What the writers know of each key, and what a node may therefore show: the judge of the crash test.
 *
 * A unit is what one write writes whole: a single key, or a group of keys that only batches touch. One writer owns it, so its writes
 * are a row in commit order: attempt 1, 2, 3... each acknowledged, refused ("certainly not done") or in doubt. A node may show attempt
 * i of a unit if and only if
 *
 *   - all keys of the unit show the same attempt, each with exactly the bytes that were sent
 *   - attempt i was not refused, and was not found lost before
 *   - it is not older than the newest attempt that must be there: acknowledged, or already shown to some reader of any node
 *     (where the node may lag, a floor of its own takes the place of the last rule)
 *
 * Thread-safe: the owner adds attempts while readers judge what they see.
 */
#ifndef DW_CRASH_MODEL_H
#define DW_CRASH_MODEL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WRITERS 8
#define SINGLES 16
#define GROUPS 6
#define GROUP_KEYS 4
#define UNITS (SINGLES + GROUPS)
#define UNIT_KEYS_MAX GROUP_KEYS
#define KEY_BYTES 32
#define VALUE_BYTES_MAX 4200

/* What a write was promised when it was answered OK. */
struct promise {
  int followers; /* how many hold it; 0: none need */
  bool applied;  /* they show it to plain reads */
  bool semi;     /* only while not degraded */
};

enum outcome { IN_DOUBT, ACKED, REFUSED, LOST };

struct attempt {
  uint64_t seq; /* unique for the writer; 0: the beginning, nothing there */
  enum outcome outcome;
  bool deletes;
  struct promise promise;
};

struct unit {
  pthread_mutex_t mu;
  struct attempt *tries; /* tries[0] is the beginning */
  size_t count, cap;
  size_t must; /* no node that has everything shows an older one */
};

struct model {
  struct unit units[WRITERS][UNITS];
  size_t value_bytes; /* the largest */
};

void model_init(struct model *, size_t value_bytes);
void model_free(struct model *);

int unit_keys(int unit);
void unit_key(int writer, int unit, int member, char key[KEY_BYTES]);
/* Which unit a key belongs to; false: none of ours. */
bool unit_of_key(const char *key, size_t n, int *writer, int *unit);
/* The value of a key in attempt seq: the number, then bytes that depend on both. Returns its length. */
size_t unit_value(const struct model *, const char *key, uint64_t seq, char out[VALUE_BYTES_MAX]);
uint64_t value_seq(const char *value, size_t n); /* UINT64_MAX: not one of ours */

/* Notes an attempt before it is sent; returns its index. */
size_t unit_try(struct model *, int writer, int unit, uint64_t seq, bool deletes, const struct promise *);
void unit_outcome(struct model *, int writer, int unit, size_t index, enum outcome);

/* What a read of all keys of a unit returned: values, NULL where nothing was. */
struct sighting {
  const char *value[UNIT_KEYS_MAX];
  size_t len[UNIT_KEYS_MAX];
};
/* Judges a sighting. `floor`: the oldest index allowed. Returns the (oldest possible) index seen, or -1 with the complaint in `why`.
 * `remember`: what was seen must be seen from now on. */
long unit_judge(struct model *, int writer, int unit, const struct sighting *, size_t floor, bool remember, char *why, size_t cap);
size_t unit_floor(struct model *, int writer, int unit);

/* Nothing is under way and every node has been judged: what a unit does not show now can never appear. `shown`: its index. */
void unit_settle(struct model *, int writer, int unit, size_t shown);
/* The newest acknowledged attempt from `from` on that `followers` followers or more were promised to hold (applied: to show); 0: none. */
size_t unit_promised(struct model *, int writer, int unit, size_t from, int followers, bool applied, bool semi_too);
/* Where a log holds attempt seq (or, deletes: some delete behind `after`), its index; 0: none. */
size_t unit_index(struct model *, int writer, int unit, uint64_t seq, bool deletes);
size_t unit_count(struct model *, int writer, int unit);

#endif
