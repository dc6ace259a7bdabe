/* kill -9 of real daemons under load, again and again: dw_kill9 [--cycles N] [--seed S].
 *
 * A phase is a fresh cluster (a primary, two followers) with settings that the seed draws. In it come cycles:
 *
 *   8 writers write, each by a mode that is drawn for it; readers read at all nodes
 *   after so many answers: kill -9 of a set of nodes, at once                                 up to three times a
 * cycle; was the primary among them: who was answered OK by a mode that names followers?         some are killed once
 * more Those followers must hold it now, in their logs or on show                            while they start restart
 *   writers rest; everything written gets to all nodes; one checksum; every key is judged at every node (model.h)
 *
 * Small phases keep no log for absent followers: there a follower stays down until its place in the log is gone, and
 * what is killed is the bootstrap: the follower in it, the primary that sends it, or both.
 *
 * The seed fixes the plan: settings, modes, victims, numbers of answers. Which instruction a kill hits is the machine's
 * business.
 */
#include "tests/support/check_main.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/crash/cluster.h"
#include "wal/base/env.h"
#include "wal/base/status.h"

#define CYCLES_PER_PHASE 5
#define ALL 7u
#define PRIMARY 1u
#define FOLLOWERS 6u

static int cycles_wanted = 60;
static uint64_t seed;

static struct crash_cluster cluster;
static struct model model;
static struct cluster_plan plan;
static struct {
  unsigned long cycles, kills[NODES], together, while_starting, promises, bootstraps, wiped;
  unsigned long acked, in_doubt, refused, reads;
} total;

/* ---- drawing -------------------------------------------------------------------------------------- */

static void add_word(struct write_mode *m, const char *word) {
  snprintf(m->words[m->count++], sizeof m->words[0], "%s", word);
}

static struct write_mode draw_mode(uint64_t *rnd) {
  static const char *const levels[] = {"RECEIVED", "DURABLE", "APPLIED"};
  struct write_mode m = {0};
  int kind = draw_below(rnd, 8), acks = 1 + draw_below(rnd, 2), lvl = draw_below(rnd, 3);
  if (kind == 0) { /* the engine's settings */
    add_word(&m, "DEFAULT");
    if (strcmp(plan.mode, "async") != 0)
      m.promise = (struct promise){plan.acks, strcmp(plan.ack, "applied") == 0, strcmp(plan.mode, "semi-sync") == 0};
  } else if (kind <= 2) {
    add_word(&m, "ASYNC");
  } else {
    char n[4] = {(char)('0' + acks), 0};
    add_word(&m, kind <= 4 ? "SEMISYNC" : "SYNC");
    add_word(&m, n);
    add_word(&m, levels[lvl]);
    m.promise = (struct promise){acks, lvl == 2, kind <= 4};
  }
  if (kind) add_word(&m, draw_below(rnd, 2) ? "OS" : "DISK");
  add_word(&m, "TIMEOUT");
  add_word(&m, "3000");
  return m;
}

/* All writers alike, or each its own. */
static void draw_modes(uint64_t *rnd) {
  struct write_mode modes[WRITERS];
  bool alike = draw_below(rnd, 3) != 0;
  for (int i = 0; i < WRITERS; i++) modes[i] = i && alike ? modes[0] : draw_mode(rnd);
  load_set_modes(&cluster.load, modes);
}

static void draw_plan(uint64_t *rnd, int phase) {
  static const char *const modes[] = {"async", "semi-sync", "sync"}, *const acks[] = {"received", "durable", "applied"};
  plan = (struct cluster_plan){.mode = modes[draw_below(rnd, 3)],
                               .ack = acks[draw_below(rnd, 3)],
                               .durability = draw_below(rnd, 2) ? "os" : "disk",
                               .acks = 1 + draw_below(rnd, 2),
                               .small = phase % 3 == 2};
}

static unsigned draw_victims(uint64_t *rnd) {
  static const unsigned sets[] = {PRIMARY, PRIMARY, PRIMARY, 2, 4, 2, 4, FOLLOWERS, PRIMARY | 2, PRIMARY | 4, ALL};
  return sets[draw_below(rnd, (int)(sizeof sets / sizeof *sets))];
}

/* ---- the promise of acknowledgements --------------------------------------------------------------- */

static size_t from[WRITERS][UNITS]; /* attempts made before this cycle */
static long log_from;               /* likewise, of the primary's log file */
static bool degraded_before;

static int holders(size_t index, int w, int u, size_t (*held)[WRITERS][UNITS]) {
  int n = 0;
  for (int f = 1; f < NODES; f++) n += held[f][w][u] >= index;
  return n;
}

/* The primary is dead. Every write that was answered OK and named n followers is with n followers now; where it named
 * "applied", followers that were not killed show it. */
static void check_promises(unsigned killed) {
  static size_t logged[NODES][WRITERS][UNITS], shown[NODES][WRITERS][UNITS], held[NODES][WRITERS][UNITS];
  bool semi_too = !degraded_before && !cluster_log_says(&cluster, 0, log_from, "degraded to async");
  cluster_start(&cluster, killed & FOLLOWERS);
  for (int f = 1; f < NODES; f++) cluster_follower_holds(&cluster, f, logged[f], shown[f]);
  for (int f = 1; f < NODES; f++)
    for (int w = 0; w < WRITERS; w++)
      for (int u = 0; u < UNITS; u++)
        held[f][w][u] = logged[f][w][u] > shown[f][w][u] ? logged[f][w][u] : shown[f][w][u];
  int dead = (killed >> 1 & 1) + (killed >> 2 & 1);
  for (int i = 0; i < 2 * WRITERS * UNITS; i++) {
    int w = i / 2 / UNITS, u = i / 2 % UNITS, n = 1 + i % 2;
    size_t index = unit_promised(&model, w, u, from[w][u], n, false, semi_too);
    size_t applied = unit_promised(&model, w, u, from[w][u], n, true, semi_too);
    if (!index) continue;
    total.promises++;
    ck_assert_msg(holders(index, w, u, held) >= n,
                  "writer %d, unit %d: attempt %zu was acknowledged by %d, only %d hold it; see %s", w, u, index, n,
                  holders(index, w, u, held), cluster.dir);
    ck_assert_msg(!applied || holders(applied, w, u, shown) >= n - dead,
                  "writer %d, unit %d: attempt %zu was applied by %d, only %d of the living show it; see %s", w, u,
                  applied, n, holders(applied, w, u, shown), cluster.dir);
  }
}

/* ---- killing -------------------------------------------------------------------------------------- */

static void kill_set(unsigned set) {
  cluster_kill(&cluster, set);
  for (int i = 0; i < NODES; i++) total.kills[i] += set >> i & 1;
  total.together += (set & (set - 1)) != 0;
}

/* Until so many answers more, or for a while where answers do not come. */
static void let_write(int answers, double patience_s) {
  unsigned long goal = atomic_load(&cluster.load.acked) + (unsigned long)answers;
  double until = now_s() + patience_s;
  while (atomic_load(&cluster.load.acked) < goal && now_s() < until) poll(NULL, 0, 1);
  cluster_check(&cluster);
}

/* Restarts what is down; sometimes kills some of it again while it starts. */
static void restart(uint64_t *rnd, unsigned set) {
  if (draw_below(rnd, 4) == 0) {
    for (int i = 0; i < NODES; i++)
      if (set >> i & 1 && cluster.node[i].pid <= 0) daemon_spawn(&cluster.node[i]);
    usleep((useconds_t)draw_below(rnd, 60000));
    kill_set(set);
    total.while_starting++;
  }
  cluster_start(&cluster, set);
}

static void kill_and_restart(uint64_t *rnd) {
  unsigned set = draw_victims(rnd);
  let_write(draw_below(rnd, 150), 1.5);
  usleep((useconds_t)draw_below(rnd, 3000));
  kill_set(set);
  if (set & PRIMARY) {
    load_pause(&cluster.load);
    cluster_check(&cluster);
    check_promises(set);
    load_resume(&cluster.load);
  }
  restart(rnd, set);
}

static bool trimmed_beyond(long long lsn, double patience_s) {
  double until = now_s() + patience_s;
  while (status_number(cluster.node[0].resp_port, "oldest_lsn") <= lsn + 1) {
    if (now_s() > until) return false;
    poll(NULL, 0, 20);
  }
  return true;
}

/* One follower, or both, stay away until the log has gone on without them; then bootstraps are cut. */
static unsigned kill_bootstrap(uint64_t *rnd) {
  unsigned away = draw_below(rnd, 3) ? 2 : FOLLOWERS;
  long long there = status_number(cluster.node[0].resp_port, "written_lsn");
  kill_set(away);
  if (draw_below(rnd, 3) == 0) { /* comes back as a new node; its acks are void, which only async modes tolerate */
    env_remove_tree(env_posix(), cluster.node[1].data);
    total.wiped++;
  }
  /* A bootstrap that was cut before keeps the log for a minute, so that it can be resumed; a new primary knows nothing
   * of it. */
  if (!trimmed_beyond(there, 1.5)) {
    kill_set(PRIMARY);
    cluster_start(&cluster, PRIMARY);
    trimmed_beyond(there, 3);
  }
  for (int round = 1 + draw_below(rnd, 3); round > 0; round--) {
    unsigned victims[] = {away, away, PRIMARY, PRIMARY | away};
    cluster_start(&cluster, PRIMARY);
    for (int i = 1; i < NODES; i++)
      if (away >> i & 1 && cluster.node[i].pid <= 0) daemon_spawn(&cluster.node[i]);
    usleep((useconds_t)draw_below(rnd, 250000));
    kill_set(victims[draw_below(rnd, 4)]);
  }
  cluster_start(&cluster, ALL);
  return away;
}

/* ---- cycles --------------------------------------------------------------------------------------- */

static void judge_all(void) {
  static size_t shown[WRITERS][UNITS];
  for (int i = NODES; i-- > 0;) {
    load_judge_node(&cluster.load, i, true, shown);
    cluster_check(&cluster);
  }
  for (int w = 0; w < WRITERS; w++)
    for (int u = 0; u < UNITS; u++) unit_settle(&model, w, u, shown[w][u]);
}

static void run_cycle(uint64_t *rnd) {
  unsigned away = 0;
  for (int w = 0; w < WRITERS; w++)
    for (int u = 0; u < UNITS; u++) from[w][u] = unit_count(&model, w, u);
  log_from = cluster_log_size(&cluster, 0);
  degraded_before = status_number(cluster.node[0].resp_port, "degraded_commits") > 0;
  draw_modes(rnd);
  load_resume(&cluster.load);
  if (plan.small && draw_below(rnd, 3)) {
    struct write_mode modes[WRITERS];
    for (int i = 0; i < WRITERS; i++) modes[i] = (struct write_mode){.words = {"ASYNC", "OS"}, .count = 2};
    load_set_modes(&cluster.load, modes);
    let_write(50, 2);
    away = kill_bootstrap(rnd);
  } else {
    for (int n = 1 + draw_below(rnd, 3); n > 0; n--) kill_and_restart(rnd);
  }
  let_write(draw_below(rnd, 20), 0.5);
  load_pause(&cluster.load);
  cluster_check(&cluster);
  cluster_converge(&cluster);
  judge_all();
  total.cycles++;
  total.bootstraps += cluster_bootstraps(&cluster, away);
}

static void run_phase(const char *dir, uint64_t *rnd, int phase, int cycles) {
  char path[300];
  int ports[NODES];
  double begin = now_s();
  draw_plan(rnd, phase);
  snprintf(path, sizeof path, "%s/phase%d", dir, phase);
  ck_assert_int_eq(env_posix()->ops->mkdir(env_posix(), path), DW_OK);
  model_init(&model, plan.small ? 4000 : 200);
  cluster_open(&cluster, path, &plan);
  for (int i = 0; i < NODES; i++) ports[i] = cluster.node[i].resp_port;
  load_start(&cluster.load, &model, ports, draw(rnd));
  load_pause(&cluster.load);
  for (int i = 0; i < cycles; i++) run_cycle(rnd);
  load_resume(&cluster.load);
  load_stop(&cluster.load);
  cluster_check(&cluster);
  cluster_kill(&cluster, ALL);
  total.acked += atomic_load(&cluster.load.acked);
  total.in_doubt += atomic_load(&cluster.load.in_doubt);
  total.refused += atomic_load(&cluster.load.refused);
  total.reads += atomic_load(&cluster.load.reads);
  model_free(&model);
  env_remove_tree(env_posix(), path);
  printf("  phase %d: %d cycles in %.1f s (%s %s, acks %d %s%s); so far %lu cycles, %lu writes acknowledged\n", phase,
         cycles, now_s() - begin, plan.mode, plan.durability, plan.acks, plan.ack, plan.small ? ", small logs" : "",
         total.cycles, total.acked);
  fflush(stdout);
}

START_TEST(after_any_kill_every_acked_write_is_there_none_is_half_and_all_nodes_are_equal) {
  char dir[256];
  uint64_t rnd = seed;
  signal(SIGPIPE, SIG_IGN);
  snprintf(dir, sizeof dir, "%s/dw-kill9-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  for (int phase = 0, left = cycles_wanted; left > 0; phase++, left -= CYCLES_PER_PHASE)
    run_phase(dir, &rnd, phase, left < CYCLES_PER_PHASE ? left : CYCLES_PER_PHASE);
  printf("%lu cycles, seed %llu: %lu kills of the primary, %lu and %lu of the followers (%lu times several at once, "
         "%lu while "
         "starting), %lu bootstraps, %lu followers wiped; %lu writes acknowledged, %lu in doubt, %lu refused; %lu "
         "promises looked up in "
         "followers, %lu reads judged under load; 0 acknowledged writes lost\n",
         total.cycles, (unsigned long long)seed, total.kills[0], total.kills[1], total.kills[2], total.together,
         total.while_starting, total.bootstraps, total.wiped, total.acked, total.in_doubt, total.refused,
         total.promises, total.reads);
  ck_assert_uint_gt(total.acked, 20 * total.cycles); /* or it tested nothing */
  env_remove_tree(env_posix(), dir);
}
END_TEST

int main(int argc, char **argv) {
  seed = (uint64_t)time(NULL) * 1000003u ^ (uint64_t)getpid();
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--cycles") == 0)
      cycles_wanted = atoi(argv[i + 1]);
    else if (strcmp(argv[i], "--seed") == 0)
      seed = strtoull(argv[i + 1], NULL, 10);
    else
      cycles_wanted = 0;
  }
  if (argc % 2 == 0 || cycles_wanted <= 0) {
    fprintf(stderr, "usage: %s [--cycles N] [--seed S]\n", argv[0]);
    return 2;
  }
  printf("kill -9: %d cycles, --seed %llu\n", cycles_wanted, (unsigned long long)seed);
  fflush(stdout);
  Suite *s = suite_create("kill9");
  TCase *t = tcase_create("kill9");
  tcase_set_timeout(t, 60.0 + 30.0 * cycles_wanted);
  tcase_add_test(t, after_any_kill_every_acked_write_is_there_none_is_half_and_all_nodes_are_equal);
  suite_add_tcase(s, t);
  return check_main(s);
}
