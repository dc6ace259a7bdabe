#include "bench/support/bench.h"

#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/support/child.h"

struct bench bench = {.seconds = 2, .rounds = 5, .value_bytes = 100, .segment_mb = 64};
static pid_t owner; /* of the scratch directory: a child must not remove it */
static int printed;

/* ---- time and progress ----------------------------------------------------------------------- */

uint64_t bench_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

double bench_s(void) {
  return (double)bench_ns() / 1e9;
}

void bench_sleep_until(uint64_t ns) {
  struct timespec ts = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR) {
  }
}

void bench_sleep(double seconds) {
  bench_sleep_until(bench_ns() + (uint64_t)(seconds * 1e9));
}

void bench_progress(const char *fmt, ...) {
  char text[160];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  if (isatty(2)) {
    fprintf(stderr, "\r\033[K%s: %s", bench.name, text);
    fflush(stderr);
  } else {
    fprintf(stderr, "%s: %s\n", bench.name, text);
  }
}

static void progress_off(void) {
  if (isatty(2)) fputs("\r\033[K", stderr);
}

/* One thread ends the process; the others, which may fail because of it, wait for that. */
static void end_alone(void) {
  static atomic_flag ending = ATOMIC_FLAG_INIT;
  while (atomic_flag_test_and_set(&ending)) pause();
}

void bench_die(const char *fmt, ...) {
  va_list ap;
  end_alone();
  progress_off();
  fprintf(stderr, "%s: ", bench.name ? bench.name : "bench");
  va_start(ap, fmt);
  vfprintf(stderr, fmt, ap);
  va_end(ap);
  fputc('\n', stderr);
  exit(1);
}

/* ---- scratch --------------------------------------------------------------------------------- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at) {
  (void)st, (void)type, (void)at;
  return remove(path) && errno != ENOENT;
}

void bench_remove(const char *path) {
  if (nftw(path, remove_entry, 32, FTW_DEPTH | FTW_PHYS) && errno != ENOENT)
    fprintf(stderr, "%s: %s was not removed: %s\n", bench.name, path, strerror(errno));
}

void bench_fresh(char path[BENCH_PATH_BYTES], const char *what) {
  static unsigned n;
  snprintf(path, BENCH_PATH_BYTES, "%s/%s%u", bench.dir, what, n++);
}

static uint64_t counted; /* nftw has no argument for its callback */
static const char *counted_suffix;

static int count_entry(const char *path, const struct stat *st, int type, struct FTW *at) {
  (void)at;
  size_t n = strlen(path), s = strlen(counted_suffix);
  if (type == FTW_F && n >= s && strcmp(path + n - s, counted_suffix) == 0) counted += (uint64_t)st->st_size;
  return 0;
}

uint64_t bench_dir_bytes(const char *path, const char *suffix) {
  counted = 0;
  counted_suffix = suffix;
  nftw(path, count_entry, 32, FTW_PHYS);
  return counted;
}

static void at_exit(void) {
  if (owner != getpid()) return;
  children_end();
  for (int i = 0; i < 3 && access(bench.dir, F_OK) == 0; i++) bench_remove(bench.dir); /* others may still write */
}

/* Ctrl-C must not leave gigabytes behind. A thread waits for it, because a handler may do next to nothing. */
static void *await_signal(void *set) {
  int sig;
  sigwait(set, &sig);
  end_alone();
  exit(128 + sig);
}

static void watch_signals(void) {
  static sigset_t set;
  pthread_t thread;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  if (pthread_create(&thread, NULL, await_signal, &set)) bench_die("no thread");
  pthread_detach(thread);
}

/* ---- flags ----------------------------------------------------------------------------------- */

#define COMMON_FLAGS 6
static const struct bench_flag common[COMMON_FLAGS] = {
    {"seconds", BENCH_DOUBLE, &bench.seconds, "how long one side measures"},
    {"rounds", BENCH_INT, &bench.rounds, "pairs; medians of them are shown"},
    {"case", BENCH_TEXT, &bench.only, "only cases with this in their names"},
    {"value-bytes", BENCH_INT, &bench.value_bytes, "bytes of a value"},
    {"segment-mb", BENCH_INT, &bench.segment_mb, "size of a log segment"},
};

static void show_flag(const struct bench_flag *f) {
  char value[64];
  if (f->type == BENCH_INT)
    snprintf(value, sizeof value, "%d", *(int *)f->value);
  else if (f->type == BENCH_DOUBLE)
    snprintf(value, sizeof value, "%g", *(double *)f->value);
  else
    snprintf(value, sizeof value, "%s", *(const char **)f->value ? *(const char **)f->value : "all");
  printf("  --%-14s %s (%s)\n", f->name, f->help, value);
}

static void help(const char *question, const struct bench_flag *flags) {
  printf("%s: %s\n\n", bench.name, question);
  for (const struct bench_flag *f = common; f->name; f++) show_flag(f);
  for (const struct bench_flag *f = flags; f && f->name; f++) show_flag(f);
  printf("  --%-14s %s\n", "json", "one JSON object per case");
}

static const struct bench_flag *find_flag(const struct bench_flag *flags, const char *name) {
  for (; flags && flags->name; flags++)
    if (strcmp(flags->name, name) == 0) return flags;
  return NULL;
}

static bool set_flag(const struct bench_flag *f, const char *text) {
  char *end = NULL;
  if (f->type == BENCH_TEXT)
    *(const char **)f->value = text;
  else if (f->type == BENCH_INT)
    *(int *)f->value = (int)strtol(text, &end, 10);
  else
    *(double *)f->value = strtod(text, &end);
  return !end || (*text && !*end);
}

static void wrong(const char *why, const char *what) {
  fprintf(stderr, "%s: %s%s; --help lists the flags\n", bench.name, why, what);
  exit(2);
}

static void parse(int argc, char **argv, const char *question, const struct bench_flag *flags) {
  for (int i = 1; i < argc; i++) {
    if (strncmp(argv[i], "--", 2)) wrong("not a flag: ", argv[i]);
    const char *name = argv[i] + 2;
    if (strcmp(name, "help") == 0) {
      help(question, flags);
      exit(0);
    }
    if (strcmp(name, "json") == 0) {
      bench.json = true;
      continue;
    }
    const struct bench_flag *f = find_flag(common, name);
    if (!f) f = find_flag(flags, name);
    if (!f) wrong("unknown flag ", argv[i]);
    if (i + 1 == argc) wrong("a value is missing: ", argv[i]);
    if (!set_flag(f, argv[++i])) wrong("not a number: ", argv[i]);
  }
  if (!(bench.seconds > 0 && bench.seconds <= 3600)) wrong("--seconds: more than 0, at most 3600", "");
  if (bench.rounds < 1 || bench.rounds > BENCH_MAX_ROUNDS) wrong("--rounds: 1 to 64", "");
  if (bench.value_bytes < 24 || bench.value_bytes > (1 << 20)) wrong("--value-bytes: 24 to 1048576", "");
  if (bench.segment_mb < 1 || bench.segment_mb > 4096) wrong("--segment-mb: 1 to 4096", "");
}

void bench_init(int argc, char **argv, const char *name, const char *question, const struct bench_flag *flags,
                const struct child_role *roles) {
  bench.name = name;
  signal(SIGPIPE, SIG_IGN);
  child_dispatch(argc, argv, roles);
  parse(argc, argv, question, flags);
  const char *tmp = getenv("TMPDIR");
  snprintf(bench.dir, sizeof bench.dir, "%s/dabbawal-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
  if (!mkdtemp(bench.dir)) wrong("no scratch directory: ", bench.dir);
  owner = getpid();
  atexit(at_exit);
  watch_signals();
}

int bench_end(void) {
  progress_off();
  if (printed) return 0;
  fprintf(stderr, "%s: no case is called '%s'\n", bench.name, bench.only ? bench.only : "");
  return 2;
}

bool bench_wants(const char *case_name) {
  return !bench.only || strstr(case_name, bench.only);
}

/* ---- cases ----------------------------------------------------------------------------------- */

void measured_extra(struct measured *m, const char *name, double value) {
  for (int i = 0; i < BENCH_MAX_EXTRAS; i++) {
    if (m->extra[i].name) continue;
    m->extra[i] = (struct bench_extra){name, value};
    return;
  }
  bench_die("more than %d figures beside the value", BENCH_MAX_EXTRAS);
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double median(double *v, int n) {
  qsort(v, (size_t)n, sizeof *v, by_value);
  return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* All rounds of one side. */
struct rounds {
  double value[BENCH_MAX_ROUNDS];
  double extra[BENCH_MAX_EXTRAS][BENCH_MAX_ROUNDS];
  const char *extra_name[BENCH_MAX_EXTRAS];
  struct histogram latency;
  double med;
};

static struct measured *measured_new(void) {
  struct measured *m = calloc(1, sizeof *m);
  if (!m) bench_die("no memory");
  return m;
}

static void keep(struct measured *m, struct rounds *r, int round) {
  r->value[round] = m->value;
  histogram_merge(&r->latency, &m->latency);
  for (int i = 0; i < BENCH_MAX_EXTRAS; i++) {
    r->extra_name[i] = m->extra[i].name;
    r->extra[i][round] = m->extra[i].value;
  }
  free(m);
}

static void run_side(const struct bench_case *c, const struct side *side, struct rounds *r, int round) {
  if (!side->name) return;
  bench_progress("%s: round %d of %d, %s", c->name, round + 1, bench.rounds, side->name);
  struct measured *m = measured_new();
  side->run(side->arg, m);
  keep(m, r, round);
}

static void run_both(const struct bench_case *c, struct rounds *r, int round) {
  bench_progress("%s: round %d of %d", c->name, round + 1, bench.rounds);
  struct measured *ours = measured_new(), *theirs = measured_new();
  c->both(c->ours.arg, ours, theirs);
  keep(ours, &r[0], round);
  keep(theirs, &r[1], round);
}

static void run_pair(const struct bench_case *c, struct rounds *r, int round) {
  bool ours_first = round % 2;
  if (c->both) {
    run_both(c, r, round);
    return;
  }
  if (ours_first) run_side(c, &c->ours, &r[0], round);
  run_side(c, &c->theirs, &r[1], round);
  if (!ours_first) run_side(c, &c->ours, &r[0], round);
}

static void json_side(const char *key, const struct side *side, struct rounds *r) {
  printf(",\"%s\":", key);
  if (!side->name) {
    printf("null");
    return;
  }
  printf("{\"name\":\"%s\",\"median\":%.6g,\"rounds\":[", side->name, r->med);
  for (int i = 0; i < bench.rounds; i++) printf("%s%.6g", i ? "," : "", r->value[i]);
  putchar(']');
  if (r->latency.total) {
    printf(",\"p50_us\":%.4g,\"p99_us\":%.4g,\"p999_us\":%.4g,\"max_us\":%.4g", histogram_us(&r->latency, 0.5),
           histogram_us(&r->latency, 0.99), histogram_us(&r->latency, 0.999), (double)r->latency.max / 1e3);
  }
  for (int i = 0; i < BENCH_MAX_EXTRAS && r->extra_name[i]; i++)
    printf(",\"%s\":%.6g", r->extra_name[i], median(r->extra[i], bench.rounds));
  putchar('}');
}

static void show_side(const struct side *side, struct rounds *r, const char *unit) {
  if (!side->name) return;
  printf("    %-24s %12.*f %s", side->name, r->med < 100 ? 3 : 0, r->med, unit);
  if (r->latency.total)
    printf("   p50 %.0f us, p99 %.0f us, p99.9 %.0f us", histogram_us(&r->latency, 0.5),
           histogram_us(&r->latency, 0.99), histogram_us(&r->latency, 0.999));
  for (int i = 0; i < BENCH_MAX_EXTRAS && r->extra_name[i]; i++)
    printf("   %s %.4g", r->extra_name[i], median(r->extra[i], bench.rounds));
  putchar('\n');
}

static void show(const struct bench_case *c, struct rounds *ours, struct rounds *theirs, const double *ratios) {
  double mid = 0, low = 0, high = 0;
  if (c->theirs.name) {
    double sorted[BENCH_MAX_ROUNDS];
    memcpy(sorted, ratios, sizeof sorted);
    mid = median(sorted, bench.rounds);
    low = sorted[0], high = sorted[bench.rounds - 1];
  }
  if (bench.json) {
    printf("{\"bench\":\"%s\",\"line\":\"%s\",\"case\":\"%s\",\"unit\":\"%s\"", bench.name + strlen("bench_"), c->line,
           c->name, c->unit);
    json_side("ours", &c->ours, ours);
    json_side("theirs", &c->theirs, theirs);
    if (c->theirs.name)
      printf(",\"ratio\":%.4g,\"ratio_min\":%.4g,\"ratio_max\":%.4g", mid, low, high);
    else
      printf(",\"ratio\":null");
    printf(",\"reach\":%.6g,\"reach_of\":\"%s\",\"at_most\":%s}\n", c->reach, c->reach_value ? "value" : "ratio",
           c->at_most ? "true" : "false");
  } else {
    printf("%s", c->name);
    if (c->theirs.name) printf(": %.2f times (%.2f to %.2f)", mid, low, high);
    if (c->reach > 0)
      printf("   [%s: %s %g %s]", c->line, c->at_most ? "at most" : "at least", c->reach,
             c->reach_value ? c->unit : "times");
    putchar('\n');
    show_side(&c->ours, ours, c->unit);
    show_side(&c->theirs, theirs, c->unit);
  }
  fflush(stdout);
}

void bench_compare(const struct bench_case *c) {
  if (!bench_wants(c->name)) return;
  struct rounds *r = calloc(2, sizeof *r);
  if (!r) bench_die("no memory");
  double ratios[BENCH_MAX_ROUNDS] = {0};
  for (int i = 0; i < bench.rounds; i++) {
    run_pair(c, r, i);
    ratios[i] = r[1].value[i] > 0 ? r[0].value[i] / r[1].value[i] : 0;
  }
  double sorted[BENCH_MAX_ROUNDS]; /* median() sorts, the rounds are shown as they came */
  for (int i = 0; i < 2; i++) {
    memcpy(sorted, r[i].value, sizeof sorted);
    r[i].med = median(sorted, bench.rounds);
  }
  progress_off();
  show(c, &r[0], &r[1], ratios);
  printed++;
  free(r);
}
