/* ./dw sim: runs seeds, in one process or several, and sums up. The first violation ends its process with status 1. */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct job_args {
  uint64_t from, to; /* [from, to) */
  unsigned jobs;
  bool trace, twice, progress;
};

static void usage(FILE *to) {
  fprintf(to, "usage: dw_sim [--seed N | --seeds A..B | --count N] [--jobs N] [--trace] [--twice] [--label TEXT]\n"
              "  --seed N     one seed\n"
              "  --seeds A..B these, both included\n"
              "  --count N    N seeds from 1 on, or from --seed on\n"
              "  --jobs N     so many processes\n"
              "  --trace      every event in words\n"
              "  --twice      run each seed twice and compare the hash of all that happened\n");
}

static double seconds(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Every jobs-th seed from a->from + part on. */
static int run_part(const struct job_args *a, unsigned part, struct sim_stats *sum) {
  static struct world w;
  for (uint64_t seed = a->from + part; seed < a->to; seed += a->jobs) {
    world_run(&w, seed, a->trace, sum);
    uint64_t hash = w.trace_hash;
    if (a->to - a->from == 1) printf("seed %llu: hash %016llx\n", (unsigned long long)seed, (unsigned long long)hash);
    if (!a->twice) continue;
    struct sim_stats again = {0};
    world_run(&w, seed, false, &again);
    if (w.trace_hash != hash) {
      printf("%sVIOLATION seed %llu: determinism: two runs differ: %016llx, %016llx\n", sim_label,
             (unsigned long long)seed, (unsigned long long)hash, (unsigned long long)w.trace_hash);
      return 1;
    }
  }
  return 0;
}

static int run_jobs(const struct job_args *a, struct sim_stats *sum) {
  int fds[64][2], failed = 0;
  pid_t pids[64];
  for (unsigned i = 0; i < a->jobs; i++) {
    if (pipe(fds[i])) return 2;
    fflush(stdout);
    pids[i] = fork();
    if (pids[i] < 0) return 2;
    if (pids[i] == 0) {
      struct sim_stats mine = {0};
      int rc = run_part(a, i, &mine);
      if (write(fds[i][1], &mine, sizeof mine) != (ssize_t)sizeof mine) rc = 2;
      fflush(stdout);
      _exit(rc);
    }
    close(fds[i][1]);
  }
  for (unsigned i = 0; i < a->jobs; i++) {
    struct sim_stats part = {0};
    int status = 0;
    if (read(fds[i][0], &part, sizeof part) == (ssize_t)sizeof part)
      for (size_t k = 0; k < sizeof part / sizeof(uint64_t); k++) ((uint64_t *)sum)[k] += ((uint64_t *)&part)[k];
    close(fds[i][0]);
    waitpid(pids[i], &status, 0);
    if (status) failed = WIFEXITED(status) && WEXITSTATUS(status) == 1 ? 1 : 2;
  }
  return failed;
}

static void report(const struct sim_stats *s, double took) {
  typedef unsigned long long ull;
  printf("%llu seeds, %.1f virtual hours, %.1f s (%.1f ms a seed), %llu events\n", (ull)s->seeds,
         (double)s->virtual_ns / 3.6e12, took, s->seeds ? took * 1e3 / (double)s->seeds : 0.0, (ull)s->events);
  printf("crashes %llu, power cuts %llu, disks lost %llu, failovers %llu, starts %llu; disk errors %llu, rotten "
         "sectors %llu, "
         "damage reported %llu\n",
         (ull)s->crashes, (ull)s->power_cuts, (ull)s->wipes, (ull)s->failovers, (ull)s->restarts, (ull)s->faults,
         (ull)s->rots, (ull)s->repairs);
  printf("promotions %llu of %llu that were asked for, handovers %llu of %llu, epochs begun %llu (forced %llu); "
         "fencings %llu, "
         "primaries demoted %llu, frozen %llu, pointed elsewhere %llu; sync writes that a promotion had to have %llu, "
         "lost 0\n",
         (ull)s->promotions, (ull)s->promotions_asked, (ull)s->handovers, (ull)s->handovers_asked, (ull)s->begun,
         (ull)s->forced, (ull)s->fencings, (ull)s->demotions, (ull)s->freezes, (ull)s->refollows, (ull)s->guarded);
  printf("leases taken %llu, for a failover %llu; cut off from etcd %llu, promoted by hand since nobody led %llu\n",
         (ull)s->leases_taken, (ull)s->lease_failovers, (ull)s->etcd_cuts, (ull)s->by_hand);
  printf("connections cut %llu, partitions %llu, bytes sent %.1f MB\n", (ull)s->cuts, (ull)s->partitions,
         (double)s->bytes_sent / 1e6);
  printf(
      "histories parted %llu times, %llu commits kept in files (%llu not complete: trimmed); applied commits gave way "
      "%llu times; told to rejoin %llu, troubled %llu\n",
      (ull)s->partings, (ull)s->kept_commits, (ull)s->partial, (ull)s->rejoined, (ull)s->refusals,
      (ull)s->rejoin_trouble);
  printf("writes %llu: OK %llu, in doubt %llu, not done %llu; blocks %llu; reads %llu (stale %llu), iterators %llu\n",
         (ull)s->writes, (ull)s->acked, (ull)s->doubt, (ull)s->not_done, (ull)s->blocks, (ull)s->reads, (ull)s->stale,
         (ull)s->iterators);
}

int main(int argc, char **argv) {
  struct job_args a = {.from = 1, .to = 101, .jobs = 1};
  uint64_t count = 0;
  bool one = false;
  for (int i = 1; i < argc; i++) {
    const char *o = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
    char *dots;
    if (!strcmp(o, "--trace")) {
      a.trace = true;
    } else if (!strcmp(o, "--twice")) {
      a.twice = true;
    } else if (!strcmp(o, "--help")) {
      usage(stdout);
      return 0;
    } else if (!v) {
      usage(stderr);
      return 2;
    } else if (!strcmp(o, "--seed")) {
      a.from = strtoull(v, NULL, 0);
      a.to = a.from + 1;
      one = true;
      i++;
    } else if (!strcmp(o, "--seeds") && (dots = strstr(v, ".."))) {
      a.from = strtoull(v, NULL, 0);
      a.to = strtoull(dots + 2, NULL, 0) + 1;
      i++;
    } else if (!strcmp(o, "--count")) {
      count = strtoull(v, NULL, 0);
      i++;
    } else if (!strcmp(o, "--jobs")) {
      a.jobs = (unsigned)strtoul(v, NULL, 0);
      i++;
    } else if (!strcmp(o, "--label")) {
      sim_label = v;
      i++;
    } else {
      usage(stderr);
      return 2;
    }
  }
  if (count) a.to = a.from + count;
  if (a.jobs < 1 || a.jobs > 64) a.jobs = 1;
  struct sim_stats sum = {0};
  double start = seconds();
  int rc = a.jobs == 1 ? run_part(&a, 0, &sum) : run_jobs(&a, &sum);
  if (!one || count) report(&sum, seconds() - start);
  return rc;
}
