/* Automatic failover with real processes: etcd, three daemons, eight writers that go to whoever takes writes, and
 * clients whose history of reads and writes is judged in the end.
 *
 *   dw_failover [--rounds KIND[*N],...] [--acks N] [--keep] [--lease MS] [--limits FIRST50,FIRSTMAX,PAUSE99]
 *               [--loopback] [--leave]
 *
 * Most rounds hurt the primary - kill: kill -9; stop: SIGSTOP until somebody else has taken over; partition.c has a
 * table of who is cut from whom -, wait for the first write that is acknowledged by another node, heal, and wait until
 * the old primary follows. switchover: `dabbawal switchover` under load. lose (with --keep): etcd hangs for longer than
 * a lease; the primary goes on, takes no write that followers do not confirm, and is still primary when etcd is back.
 * pause: failover is paused by the command line tool, a killed primary is not replaced until it is resumed.
 *
 * In the end verdict.c has its say. Exit code 0: nothing was lost, and nothing was seen that may not be seen.
 *
 * --limits: fail if of the kills the median or the longest time to the first write, or of the switchovers the 99th
 * percentile of the pause, is more, in ms. --loopback: no namespaces, though they could be had. --leave: the directory
 * stays also if all is well.
 *
 * All in network namespaces of its own (netns.h), in a temporary directory; every process is ended by its id.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/failover/failover.h"
#include "tests/support/check_main.h"
#include "tests/support/netns.h"
#include "wal/base/env.h"

#define ROUNDS_MAX 1000

struct settings settings = {.acks = 1, .lease_ms = 5000};

static struct round {
  char kind[16];
  uint64_t ms; /* 0: there is no figure */
} rounds[ROUNDS_MAX];
static int round_count;
static unsigned limits[3]; /* 0: none */
static bool leave, loopback;

uint64_t now_us(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}
uint64_t wall_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void give_up(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  fprintf(stderr, "failover: ");
  vfprintf(stderr, fmt, ap);
  fprintf(stderr, "; see %s\n", dir);
  va_end(ap);
  exit(1);
}

static void on_signal(int sig) {
  cluster_signalled();
  _exit(128 + sig);
}

/* ---- figures -------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

struct figures {
  int n;
  uint64_t p50, p99, max;
};

/* Of all rounds of one kind. The smallest value that is not below so many in a hundred of them. */
static struct figures figures_of(const char *kind) {
  uint64_t ms[ROUNDS_MAX];
  struct figures f = {0};
  for (int i = 0; i < round_count; i++)
    if (strcmp(rounds[i].kind, kind) == 0 && rounds[i].ms) ms[f.n++] = rounds[i].ms;
  if (!f.n) return f;
  qsort(ms, (size_t)f.n, sizeof *ms, by_size);
  f.p50 = ms[(f.n * 50 + 99) / 100 - 1];
  f.p99 = ms[(f.n * 99 + 99) / 100 - 1];
  f.max = ms[f.n - 1];
  return f;
}

static void show_figures(void) {
  typedef unsigned long long ull;
  printf("%-10s %6s  %s with a lease of %u ms\n", "", "rounds", "p50, p99, longest in ms", settings.lease_ms);
  for (int i = 0; i < round_count; i++) {
    bool seen = false;
    for (int k = 0; k < i; k++) seen |= strcmp(rounds[k].kind, rounds[i].kind) == 0;
    struct figures f = figures_of(rounds[i].kind);
    if (seen || !f.n) continue;
    printf("%-10s %6d  %6llu %6llu %6llu  %s\n", rounds[i].kind, f.n, (ull)f.p50, (ull)f.p99, (ull)f.max,
           strcmp(rounds[i].kind, "switchover") == 0 ? "longest time without an acknowledged write"
                                                     : "until another node acknowledged a write");
  }
}

static bool within_limits(void) {
  struct figures kill = figures_of("kill"), planned = figures_of("switchover");
  uint64_t seen[3] = {kill.p50, kill.max, planned.p99};
  static const char *const names[] = {"median time from a kill to the first write", "longest such time",
                                      "99th percentile of a switchover's pause"};
  bool good = true;
  for (int i = 0; i < 3; i++) {
    if (!limits[i] || seen[i] <= limits[i]) continue;
    fprintf(stderr, "failover: %s: %llu ms, allowed are %u\n", names[i], (unsigned long long)seen[i], limits[i]);
    good = false;
  }
  return good;
}

/* ---- the run ---------------------------------------------------------------------------------------- */

START_TEST(nothing_that_was_acknowledged_is_lost_by_failovers) {
  signal(SIGPIPE, SIG_IGN);
  snprintf(dir, sizeof dir, "%s/dw-failover-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  cluster_start();
  load_start();
  registers_start();
  for (int i = 0; i < round_count; i++) rounds[i].ms = play_round(rounds[i].kind, i + 1);
  load_stop();
  registers_stop();
  bool good = verdict();
  show_figures();
  good &= within_limits();
  good &= load_acks() > 20ul * (unsigned)round_count; /* or it tested nothing */
  good &= cluster_stop() == 0;
  if (good && !leave) env_remove_tree(env_posix(), dir);
  ck_assert_msg(good, "see above, and %s", dir);
}
END_TEST

/* "kill*3,cut" */
static bool take_rounds(char *text) {
  char *save = NULL;
  round_count = 0;
  for (char *item = strtok_r(text, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
    char *star = strchr(item, '*');
    int n = star ? atoi(star + 1) : 1;
    if (star) *star = 0;
    if (!is_round(item) || n < 1 || round_count + n > ROUNDS_MAX) return false;
    while (n-- > 0) snprintf(rounds[round_count++].kind, sizeof rounds[0].kind, "%s", item);
  }
  return true;
}

static bool take_options(int argc, char **argv) {
  char plan[2000] = "kill,cut";
  for (int i = 1; i < argc; i++) {
    const char *value = i + 1 < argc ? argv[i + 1] : "";
    bool *flag = strcmp(argv[i], "--keep") == 0       ? &settings.keep
                 : strcmp(argv[i], "--loopback") == 0 ? &loopback
                 : strcmp(argv[i], "--leave") == 0    ? &leave
                                                      : NULL;
    if (flag) {
      *flag = true;
      continue;
    }
    if (i++ + 1 >= argc) return false;
    if (strcmp(argv[i - 1], "--rounds") == 0)
      snprintf(plan, sizeof plan, "%s", value);
    else if (strcmp(argv[i - 1], "--acks") == 0)
      settings.acks = atoi(value);
    else if (strcmp(argv[i - 1], "--lease") == 0)
      settings.lease_ms = (unsigned)atoi(value);
    else if (strcmp(argv[i - 1], "--limits") != 0 || sscanf(value, "%u,%u,%u", &limits[0], &limits[1], &limits[2]) != 3)
      return false;
  }
  return settings.lease_ms >= 1000 && take_rounds(plan);
}

int main(int argc, char **argv) {
  char why[200];
  if (!take_options(argc, argv)) {
    fprintf(stderr,
            "usage: dw_failover [--rounds KIND[*N],...] [--acks N] [--keep] [--lease MS] [--limits P50,MAX,PAUSE99] "
            "[--loopback] [--leave]\n"
            "KIND: kill, stop, switchover, lose, pause, or a partition: cut, isolate, unplug, deaf, mute, nopeers, "
            "split, flank\n");
    return 2;
  }
  settings.namespaces = !loopback && net_begin(why, sizeof why);
  if (!settings.namespaces)
    fprintf(stderr,
            "failover: NO NETWORK NAMESPACES (%s): all on loopback, and partitions are cuts from etcd by a proxy\n",
            loopback ? "--loopback" : why);
  atexit(cluster_kill);
  signal(SIGTERM, on_signal);
  signal(SIGINT, on_signal);
  setenv("CK_FORK", "no", 1);
  Suite *s = suite_create("failover");
  TCase *t = tcase_create("failover");
  tcase_add_test(t, nothing_that_was_acknowledged_is_lost_by_failovers);
  suite_add_tcase(s, t);
  return check_main(s);
}
