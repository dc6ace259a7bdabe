/* What every bench has in common: flags, rounds, the printed line, the JSON line, scratch directories.
 *
 * The idea: a bench answers one question by measuring two sides in one run, alternating, on one machine, so that only
 * ratios count and noise hits both. A side is a function that sets up, measures and cleans up; bench_compare() runs
 * it `rounds` times against the other one, first one side first, then the other, and prints medians. The ratio is
 * the median of the pairs' ratios, with the smallest and largest beside it, so that a noisy run shows.
 *
 *   --seconds S   how long one side measures          --case TEXT     only cases with TEXT in their names
 *   --rounds N    pairs (medians of them)             --value-bytes N
 *   --json        one JSON object per case on stdout  --segment-mb N  of the log
 *   --help
 *
 * Progress goes to stderr, results to stdout. Everything on disk lives in one fresh directory under $TMPDIR.
 */
#ifndef BENCH_SUPPORT_BENCH_H
#define BENCH_SUPPORT_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/support/histogram.h"

#define BENCH_MAX_ROUNDS 64
#define BENCH_MAX_EXTRAS 8
#define BENCH_PATH_BYTES 512

struct bench {
  const char *name;
  double seconds;
  int rounds;
  bool json;
  const char *only;
  int value_bytes, segment_mb;
  char dir[BENCH_PATH_BYTES / 2]; /* removed at exit */
};
extern struct bench bench;

enum bench_flag_type { BENCH_INT, BENCH_DOUBLE, BENCH_TEXT };
struct bench_flag {
  const char *name; /* without the dashes; NULL ends the table */
  enum bench_flag_type type;
  void *value; /* int, double or const char *; holds the default */
  const char *help;
};

struct child_role; /* child.h */

/* Parses, makes the scratch directory. Does not return for --help, wrong flags, or in a child process. */
void bench_init(int argc, char **argv, const char *name, const char *question, const struct bench_flag *flags,
                const struct child_role *roles);
int bench_end(void); /* main's result */

bool bench_wants(const char *case_name);
_Noreturn void bench_die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void bench_progress(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A path that is not there yet, and its removal with all that is below. */
void bench_fresh(char path[BENCH_PATH_BYTES], const char *what);
void bench_remove(const char *path);
uint64_t bench_dir_bytes(const char *path, const char *suffix); /* sizes of the files below, by ending ("" for all) */

uint64_t bench_ns(void); /* CLOCK_MONOTONIC: one clock for all processes of the machine */
double bench_s(void);
void bench_sleep(double seconds);
void bench_sleep_until(uint64_t ns);

/* ---- sides and cases ------------------------------------------------------------------------- */

struct measured {
  double value;             /* the figure, in the case's unit */
  struct histogram latency; /* of single operations, if the question is about them */
  struct bench_extra {
    const char *name;
    double value;
  } extra[BENCH_MAX_EXTRAS];
};
/* Adds a figure of second rank; shown beside the value (the median over the rounds). */
void measured_extra(struct measured *, const char *name, double value);

typedef void (*measure_fn)(const void *arg, struct measured *);
struct side {
  const char *name; /* NULL: there is no such side */
  measure_fn run;
  const void *arg;
};
struct bench_case {
  const char *line; /* the row of the table of goals that this answers: "a"; "": none */
  const char *name, *unit;
  struct side ours, theirs;
  void (*both)(const void *arg, struct measured *ours, struct measured *theirs); /* if one set-up measures both; ours.arg */
  double reach;      /* what ours / theirs should be; 0: no goal */
  bool reach_value;  /* the goal is about our value, not about the ratio */
  bool at_most;      /* the goal is an upper bound (lower is better) */
};
/* Runs and prints, if wanted. */
void bench_compare(const struct bench_case *);

double median(double *values, int n); /* sorts */

#endif
