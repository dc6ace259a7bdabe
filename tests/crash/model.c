/* See model.h. */
#include "tests/crash/model.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void model_init(struct model *m, size_t value_bytes) {
  memset(m, 0, sizeof *m);
  m->value_bytes = value_bytes;
  for (int w = 0; w < WRITERS; w++) {
    for (int u = 0; u < UNITS; u++) {
      struct promise none = {0};
      pthread_mutex_init(&m->units[w][u].mu, NULL);
      unit_outcome(m, w, u, unit_try(m, w, u, 0, true, &none), ACKED);
    }
  }
}

void model_free(struct model *m) {
  for (int w = 0; w < WRITERS; w++) {
    for (int u = 0; u < UNITS; u++) {
      free(m->units[w][u].tries);
      pthread_mutex_destroy(&m->units[w][u].mu);
    }
  }
}

/* ---- keys and values ------------------------------------------------------------------------------ */

int unit_keys(int unit) {
  return unit < SINGLES ? 1 : GROUP_KEYS;
}

/* The members of a group lie far apart in key order: in other files, other blocks. */
void unit_key(int writer, int unit, int member, char key[KEY_BYTES]) {
  snprintf(key, KEY_BYTES, "%c/w%d/u%d", 'a' + 5 * member, writer, unit);
}

bool unit_of_key(const char *key, size_t n, int *writer, int *unit) {
  char text[KEY_BYTES], member;
  int end = 0;
  if (n >= sizeof text) return false;
  memcpy(text, key, n);
  text[n] = 0;
  return sscanf(text, "%c/w%d/u%d%n", &member, writer, unit, &end) == 3 && text[end] == 0 && *writer >= 0 &&
         *writer < WRITERS && *unit >= 0 && *unit < UNITS;
}

static uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

size_t unit_value(const struct model *m, const char *key, uint64_t seq, char out[VALUE_BYTES_MAX]) {
  uint64_t h = seq;
  for (const char *p = key; *p; p++) h = mix(h ^ (uint64_t)(unsigned char)*p);
  size_t n = (size_t)snprintf(out, 32, "%llu:", (unsigned long long)seq), end = n + 8 + h % m->value_bytes;
  for (uint64_t i = 0; n < end; i++) {
    uint64_t bits = mix(h + i / 4); /* half random, half the same again: compresses a little */
    out[n++] = (char)('a' + (bits >> (8 * (i % 4))) % 26);
  }
  out[n] = 0;
  return n;
}

uint64_t value_seq(const char *value, size_t n) {
  uint64_t seq = 0;
  size_t i = 0;
  for (; i < n && i < 20 && value[i] >= '0' && value[i] <= '9'; i++) seq = 10 * seq + (uint64_t)(value[i] - '0');
  return i > 0 && i < n && value[i] == ':' ? seq : UINT64_MAX;
}

/* ---- attempts ------------------------------------------------------------------------------------- */

size_t unit_try(struct model *m, int writer, int unit, uint64_t seq, bool deletes, const struct promise *p) {
  struct unit *u = &m->units[writer][unit];
  pthread_mutex_lock(&u->mu);
  if (u->count == u->cap) {
    u->cap = u->cap ? 2 * u->cap : 16;
    u->tries = realloc(u->tries, u->cap * sizeof *u->tries);
    ck_assert_ptr_nonnull(u->tries);
  }
  u->tries[u->count] = (struct attempt){.seq = seq, .deletes = deletes, .promise = *p};
  size_t index = u->count++;
  pthread_mutex_unlock(&u->mu);
  return index;
}

void unit_outcome(struct model *m, int writer, int unit, size_t index, enum outcome outcome) {
  struct unit *u = &m->units[writer][unit];
  pthread_mutex_lock(&u->mu);
  u->tries[index].outcome = outcome;
  if (outcome == ACKED && index > u->must) u->must = index;
  pthread_mutex_unlock(&u->mu);
}

size_t unit_floor(struct model *m, int writer, int unit) {
  struct unit *u = &m->units[writer][unit];
  pthread_mutex_lock(&u->mu);
  size_t must = u->must;
  pthread_mutex_unlock(&u->mu);
  return must;
}

size_t unit_count(struct model *m, int writer, int unit) {
  struct unit *u = &m->units[writer][unit];
  pthread_mutex_lock(&u->mu);
  size_t n = u->count;
  pthread_mutex_unlock(&u->mu);
  return n;
}

/* mu held. Attempts are in the order of their numbers. */
static size_t find_seq(const struct unit *u, uint64_t seq) {
  size_t lo = 0, hi = u->count;
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    if (u->tries[mid].seq < seq)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo < u->count && u->tries[lo].seq == seq ? lo : 0;
}

size_t unit_index(struct model *m, int writer, int unit, uint64_t seq, bool deletes) {
  struct unit *u = &m->units[writer][unit];
  size_t index = 0;
  pthread_mutex_lock(&u->mu);
  if (!deletes) index = find_seq(u, seq);
  for (size_t i = u->count; deletes && i-- > 1;) {
    if (!u->tries[i].deletes || u->tries[i].outcome == REFUSED) continue;
    index = i;
    break;
  }
  pthread_mutex_unlock(&u->mu);
  return index;
}

/* ---- judging -------------------------------------------------------------------------------------- */

static const char *const outcome_names[] = {"in doubt", "acknowledged", "refused as certainly not done",
                                            "found lost before"};

/* All keys the same attempt, with the right bytes? Its number, 0: nothing there; UINT64_MAX: broken. */
static uint64_t same_everywhere(const struct model *m, int writer, int unit, const struct sighting *s, char *why,
                                size_t cap) {
  char key[KEY_BYTES], want[VALUE_BYTES_MAX];
  uint64_t first = s->value[0] ? value_seq(s->value[0], s->len[0]) : 0;
  for (int i = 0; i < unit_keys(unit); i++) {
    uint64_t seq = s->value[i] ? value_seq(s->value[i], s->len[i]) : 0;
    unit_key(writer, unit, i, key);
    if (seq != first) {
      snprintf(why, cap, "half a batch: key %s shows attempt %llu, the group's first key attempt %llu", key,
               (unsigned long long)seq, (unsigned long long)first);
      return UINT64_MAX;
    }
    if (!s->value[i]) continue;
    size_t n = seq == UINT64_MAX ? 0 : unit_value(m, key, seq, want);
    if (seq == UINT64_MAX || n != s->len[i] || memcmp(want, s->value[i], n) != 0) {
      snprintf(why, cap, "key %s: %zu bytes that nobody wrote: %.40s", key, s->len[i], s->value[i]);
      return UINT64_MAX;
    }
  }
  return first;
}

/* mu held. The oldest attempt at or above floor that explains "nothing there"; 0 without floor is the beginning. */
static long explain_nothing(const struct unit *u, size_t floor) {
  for (size_t i = floor; i < u->count; i++) {
    const struct attempt *t = &u->tries[i];
    if (t->deletes && t->outcome != REFUSED && t->outcome != LOST) return (long)i;
  }
  return -1;
}

long unit_judge(struct model *m, int writer, int unit, const struct sighting *s, size_t floor, bool remember, char *why,
                size_t cap) {
  struct unit *u = &m->units[writer][unit];
  char key[KEY_BYTES];
  uint64_t seq = same_everywhere(m, writer, unit, s, why, cap);
  if (seq == UINT64_MAX) return -1;
  unit_key(writer, unit, 0, key);
  pthread_mutex_lock(&u->mu);
  long index = seq ? (long)find_seq(u, seq) : explain_nothing(u, floor);
  const struct attempt *t = index >= 0 ? &u->tries[index] : NULL, *least = &u->tries[floor];
  if (seq && index == 0) {
    snprintf(why, cap, "key %s shows attempt %llu, which was never made", key, (unsigned long long)seq);
    index = -1;
  } else if (t && (t->outcome == REFUSED || t->outcome == LOST)) {
    snprintf(why, cap, "key %s shows attempt %llu, which was %s", key, (unsigned long long)seq,
             outcome_names[t->outcome]);
    index = -1;
  } else if (index < (long)floor) {
    snprintf(why, cap, "key %s shows attempt %llu, but attempt %llu (%s%s) must be there", key, (unsigned long long)seq,
             (unsigned long long)least->seq, outcome_names[least->outcome], least->deletes ? ", a delete" : "");
    index = -1;
  } else if (remember && (size_t)index > u->must) {
    u->must = (size_t)index;
  }
  pthread_mutex_unlock(&u->mu);
  return index;
}

void unit_settle(struct model *m, int writer, int unit, size_t shown) {
  struct unit *u = &m->units[writer][unit];
  pthread_mutex_lock(&u->mu);
  if (shown > u->must) u->must = shown;
  /* "Nothing there" may be explained by any of several deletes: those stay possible. */
  for (size_t i = shown + 1; i < u->count; i++)
    if (u->tries[i].outcome == IN_DOUBT && !(u->tries[shown].deletes && u->tries[i].deletes))
      u->tries[i].outcome = LOST;
  pthread_mutex_unlock(&u->mu);
}

size_t unit_promised(struct model *m, int writer, int unit, size_t from, int followers, bool applied, bool semi_too) {
  struct unit *u = &m->units[writer][unit];
  size_t found = 0;
  pthread_mutex_lock(&u->mu);
  for (size_t i = u->count; i-- > from && !found;) {
    const struct promise *p = &u->tries[i].promise;
    if (u->tries[i].outcome == ACKED && p->followers >= followers && (p->applied || !applied) && (!p->semi || semi_too))
      found = i;
  }
  pthread_mutex_unlock(&u->mu);
  return found;
}
