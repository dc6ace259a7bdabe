/* Power cuts on real files: dw_powercut [--images N] [--seed S] [--recorder LIB] [--replay DIR [--only K]].
 *
 * A primary and a follower run with a recorder in front of libc (recorder.c, scenario.c). From the recordings come
 * images of their directories as a power cut at any moment may leave them (image.c); each is opened by the engine as
 * after a reboot, and must
 *
 *   open                                    a legal image is never refused
 *   hold everything vouched for before      a primary: writes at DISK answered OK; a follower: what it acknowledged as
 * durable show the state at one commit            every key as the true history has it at the applied LSN, no other key
 *   be a log of this history                chain hashes, before and after recovery; `wal verify` finds it sound
 *   go on                                   a new write, a clean end, another start
 *
 * Some images are opened under the recorder in their turn, and the power fails again during recovery.
 *
 * One image in ten is of a process crash instead: nothing unsynced is lost, the boot is the same, and all that was
 * answered OK is there. Recordings differ from run to run: a failing one is kept, and --replay goes through it again.
 */
#include "tests/support/check_main.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "engine/identity.h"
#include "tests/powercut/history.h"
#include "tests/powercut/scenario.h"
#include "wal/base/status.h"

#define WORKERS 2
#define NESTED_EVERY 8 /* of the images, one is recovered under the recorder... */
#define NESTED_CUTS 4  /* and cut so often in that */

/* Images are thrown away: their opening needs no disk. These stand before libc's for RocksDB, too. */
__attribute__((visibility("default"))) int fsync(int fd) {
  (void)fd;
  return 0;
}
__attribute__((visibility("default"))) int fdatasync(int fd) {
  (void)fd;
  return 0;
}
__attribute__((visibility("default"))) int sync_file_range(int fd, off_t at, off_t n, unsigned flags) {
  (void)fd, (void)at, (void)n, (void)flags;
  return 0;
}

static long images_wanted = 500, only = -1;
static uint64_t seed;
static const char *replay;

static struct {
  const char *name;
  bool follower;
  struct recording *recording;
  size_t from, to; /* records of a bootstrap and the switch */
} nodes[2] = {{.name = "primary"}, {.name = "follower", .follower = true}};
static struct history *history;

/* What the workers report. */
static struct report {
  long images, process, fresh, torn, in_switch, nested;
  double bytes;
  char failed[1600];
} * reports;

/* ---- one image ------------------------------------------------------------------------------------- */

/* The boot that an image is opened in, per worker process. 1: after the first power cut; 2: after the second. */
static int boot;

static bool after_reboot(struct env *env, uint8_t id[16]) {
  (void)env;
  memset(id, boot, 16);
  return true;
}

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg, (void)level, (void)line;
}

struct trial {
  struct report *report;
  bool follower;
  struct image_plan plan;
  char dir[512]; /* the node's, in the image */
  struct env_ops ops;
  struct env env;
  dw_lsn must; /* everything up to here was promised */
  bool nested; /* recovery was cut: it may have begun an epoch of its own */
  bool waits;  /* sync writes wait for followers */
  char what[500];
};

#define FAIL(t, ...)                                                                                                   \
  do {                                                                                                                 \
    int n_ = snprintf((t)->report->failed, sizeof(t)->report->failed, "%s: ", (t)->what);                              \
    snprintf((t)->report->failed + n_, sizeof(t)->report->failed - (size_t)n_, __VA_ARGS__);                           \
    return false;                                                                                                      \
  } while (0)

struct log_look {
  bool known, nested;
};

static int check_block(void *arg, const char *path, uint64_t off, const struct wal_block *b) {
  struct wal_pos pos = {block_last_lsn(&b->h), b->h.epoch, b->h.chain};
  struct log_look *look = arg;
  (void)path, (void)off;
  look->known = history_has(history, &pos) || (b->h.kind == BLOCK_EPOCH && look->nested);
  return !look->known;
}

/* `wal verify`, and that all of the log is of the true history (but for what recovery adds). */
static bool check_log(struct trial *t, bool before) {
  const char *when = before ? "before" : "after";
  struct node_file id;
  struct wal_inspect_report rep;
  struct log_look look = {true, t->nested};
  struct wal_inspect how = {.on_block = before ? check_block : NULL, .arg = &look};
  if (node_file_load(&t->env, t->dir, &id) != DW_OK) return true; /* not made yet */
  char *path = path_generation(t->dir, "wal", id.generation);
  int rc = wal_inspect(&t->env, path, &how, &rep);
  free(path);
  if (rc == DW_NOT_FOUND) return true;
  /* Before recovery a hole in what was not synced, or a row of segments that a trim has left half, looks like
   * corruption to whoever can't tell. */
  bool hole = rc == DW_CORRUPT && before && (!t->plan.process || t->nested);
  if (rc != DW_OK && !hole) FAIL(t, "wal verify %s: %s", when, dw_last_error());
  if (!look.known)
    FAIL(t, "%s the log holds a block that nobody wrote, behind LSN %llu", when, (unsigned long long)rep.last.lsn);
  if (before && (hole || rep.torn_bytes)) t->report->torn++;
  return true;
}

/* Every key as it was at that LSN. `extra`: the one that a trial adds. */
static bool check_state(struct trial *t, dw_engine *e, dw_lsn lsn, bool extra) {
  struct value want[KEYS];
  dw_iter *it;
  int seen = 0, there = 0;
  history_state(history, lsn, want);
  for (int i = 0; i < KEYS; i++) there += want[i].bytes != NULL;
  if (dw_iter_create(e, NULL, &it) != DW_OK) FAIL(t, "can't be read: %s", dw_last_error());
  for (dw_iter_seek_first(it); dw_iter_valid(it); dw_iter_next(it)) {
    size_t kn, vn;
    const char *k = dw_iter_key(it, &kn), *v = dw_iter_value(it, &vn);
    char text[8] = "";
    int key = -1;
    memcpy(text, k, kn < 7 ? kn : 7);
    if (extra && strcmp(text, "new") == 0) continue;
    if (sscanf(text, "k%2d", &key) != 1 || key >= KEYS || !want[key].bytes || want[key].n != vn ||
        memcmp(want[key].bytes, v, vn) != 0) {
      dw_iter_destroy(it);
      FAIL(t, "applied LSN %llu: key %s is not as it was then (%.20s, not %.20s)", (unsigned long long)lsn, text, v,
           key >= 0 && key < KEYS && want[key].bytes ? (const char *)want[key].bytes : "nothing");
    }
    seen++;
  }
  int rc = dw_iter_status(it);
  dw_iter_destroy(it);
  if (rc != DW_OK) FAIL(t, "reading all keys: %s", dw_last_error());
  if (seen != there) FAIL(t, "applied LSN %llu: %d keys, there were %d then", (unsigned long long)lsn, seen, there);
  return true;
}

static bool open_image(struct trial *t, dw_engine **e) {
  dw_options o;
  struct engine_config config = {.env = &t->env};
  dw_options_init(&o);
  o.role = t->follower ? DW_FOLLOWER : DW_PRIMARY;
  o.segment_bytes = 65536;
  o.memtable_bytes = 65536;
  o.log = quiet;
  int rc = engine_open(t->dir, &o, &config, e);
  if (rc != DW_OK) FAIL(t, "does not open: %s: %s", dw_rc_name(rc), dw_last_error());
  return true;
}

static bool check_open(struct trial *t, dw_engine *e) {
  struct engine_positions pos;
  engine_positions(e, &pos);
  if (pos.tail.lsn < t->must)
    FAIL(t, "%s LSN %llu, but the log ends at LSN %llu (applied %llu)",
         t->follower ? "acknowledged" : "answered OK for", (unsigned long long)t->must,
         (unsigned long long)pos.tail.lsn, (unsigned long long)pos.applied.lsn);
  /* A follower shows what it knows to be committed; the rest waits for the primary's word. At a primary only sync
   * writes wait, for followers that this image has not. */
  t->waits = !t->follower && pos.applied.lsn < pos.tail.lsn && history_waits_behind(history, pos.applied.lsn);
  if (!t->follower && pos.applied.lsn < pos.tail.lsn && !t->waits)
    FAIL(t, "the log ends at LSN %llu, reads see LSN %llu, and nothing between has to wait",
         (unsigned long long)pos.tail.lsn, (unsigned long long)pos.applied.lsn);
  if (pos.applied.lsn && !history_has(history, &pos.applied) && t->follower && !t->nested)
    FAIL(t, "applied LSN %llu of another history", (unsigned long long)pos.applied.lsn);
  t->report->fresh += pos.tail.lsn == 0;
  return check_state(t, e, pos.applied.lsn, false);
}

static void note_done(void *arg, int rc, dw_lsn lsn) {
  *(bool *)arg = rc == DW_OK && lsn;
}

static bool put_new(struct trial *t, dw_engine *e) {
  bool done = false;
  dw_batch *b = dw_batch_create();
  int rc = dw_batch_put(b, "new", 3, "x", 1);
  if (rc == DW_OK) rc = dw_write_async(e, NULL, b, note_done, &done);
  dw_batch_destroy(b);
  while (engine_step(e)) continue;
  if (rc != DW_OK) FAIL(t, "takes no write: %s", dw_last_error());
  if (!done && !t->waits) FAIL(t, "a write to it is not answered OK");
  return true;
}

/* Opens, judges, writes, ends, starts again, judges. */
static bool try_image(struct trial *t) {
  dw_engine *e = NULL;
  struct engine_positions pos;
  if (!check_log(t, true) || !open_image(t, &e)) return false;
  bool good = check_open(t, e) && (t->follower || put_new(t, e));
  engine_positions(e, &pos);
  int rc = engine_close(e);
  if (good && rc != DW_OK) FAIL(t, "does not close: %s", dw_last_error());
  if (!good || !check_log(t, false) || !open_image(t, &e)) return false;
  bool added = !t->follower && !t->waits; /* the new write is visible, and of no LSN that the history knows */
  good = check_state(t, e, added ? pos.tail.lsn - 1 : pos.applied.lsn, added);
  rc = engine_close(e);
  if (good && rc != DW_OK) FAIL(t, "does not close again: %s", dw_last_error());
  return good;
}

/* ---- all images ------------------------------------------------------------------------------------ */

/* Cuts: anywhere; half of a follower's while a bootstrap comes in and takes over. */
static size_t draw_cut(uint64_t *rnd, int node) {
  size_t from = recording_base(nodes[node].recording), to = recording_count(nodes[node].recording);
  bool in_switch = nodes[node].follower && nodes[node].to && *rnd % 2;
  if (in_switch) from = nodes[node].from, to = nodes[node].to;
  *rnd = *rnd * 6364136223846793005u + 1442695040888963407u;
  return from + (size_t)(*rnd >> 16) % (to - from + 1);
}

static void trial_init(struct trial *t, int node, const char *path) {
  env_remove_tree(env_posix(), path); /* of a run before, that failed there */
  t->follower = nodes[node].follower;
  t->ops = *env_posix()->ops;
  t->env.ops = &t->ops;
  snprintf(t->dir, sizeof t->dir, "%s/node", path);
}

/* The recorder and the recovering program, as a process of their own. */
static bool record_recovery(struct trial *t, const char *root, const char *record) {
  char env[3][700], exe[600], role[10], number[8];
  char *argv[] = {exe, t->dir, role, number, NULL},
       *envp[] = {env[0], env[1], env[2], (char[]){"DW_RECORD_FAST=1"}, NULL};
  snprintf(env[0], sizeof env[0], "LD_PRELOAD=%s", getenv("DW_RECORDER"));
  snprintf(env[1], sizeof env[1], "DW_RECORD=%s", record);
  snprintf(env[2], sizeof env[2], "DW_RECORD_ROOT=%s", root);
  snprintf(role, sizeof role, "%s", t->follower ? "follower" : "primary");
  snprintf(number, sizeof number, "%d", 1);
  ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 16);
  exe[n > 0 ? n : 0] = 0;
  snprintf(strrchr(exe, '/'), 16, "/dw_recover");
  int status = 0;
  pid_t pid = fork();
  if (pid == 0) {
    execve(exe, argv, envp);
    _exit(127);
  }
  waitpid(pid, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status)) FAIL(t, "recovery under the recorder ends with status %d", status);
  return true;
}

/* The same image again, opened under the recorder, the power cut at some moments of that. */
static bool cut_recovery(const struct trial *first, int node, const char *path, uint64_t *rnd) {
  struct trial t = *first;
  char again[500], record[520], how[160];
  bool good;
  snprintf(again, sizeof again, "%s-again", path);
  snprintf(record, sizeof record, "%s.record", again);
  trial_init(&t, node, again);
  image_build(nodes[node].recording, &t.plan, again);
  unlink(record);
  if (!record_recovery(&t, again, record)) return false;
  struct recording *r = recording_load(record, again);
  env_remove_tree(env_posix(), again);
  good = true;
  for (int i = 0; good && i < NESTED_CUTS; i++) {
    size_t base = recording_base(r);
    *rnd = *rnd * 6364136223846793005u + 1442695040888963407u;
    t.plan = image_draw(rnd, base + (size_t)(*rnd >> 16) % (recording_count(r) - base + 1));
    image_describe(&t.plan, how, sizeof how);
    snprintf(t.what, sizeof t.what, "%.200s; recovery, %s", first->what, how);
    snprintf(again, sizeof again, "%s-again%d", path, i);
    trial_init(&t, node, again);
    t.ops.boot_id = after_reboot;
    boot = t.plan.process ? 1 : 2;
    t.nested = true;
    image_build(r, &t.plan, again);
    t.report->nested++;
    good = try_image(&t);
    if (good) env_remove_tree(env_posix(), again);
  }
  recording_free(r);
  if (good) unlink(record);
  return good;
}

static bool run_image(long k, const char *dir, struct report *report) {
  uint64_t rnd = (seed + (uint64_t)k) * 0x9e3779b97f4a7c15u;
  char path[400], how[160];
  int node = (int)(k % 2);
  struct trial t = {.report = report};
  rnd ^= rnd >> 29;
  snprintf(path, sizeof path, "%s/image%ld", dir, k);
  trial_init(&t, node, path);
  t.plan = image_draw(&rnd, draw_cut(&rnd, node));
  image_describe(&t.plan, how, sizeof how);
  snprintf(t.what, sizeof t.what, "image %ld of the %s, %s", k, nodes[node].name, how);
  boot = 1;
  if (!t.plan.process) t.ops.boot_id = after_reboot;
  struct vouched vouched = history_vouched(history, nodes[node].recording, t.follower, t.plan.cut);
  t.must = t.plan.process ? vouched.any : vouched.disk;
  report->bytes += (double)image_build(nodes[node].recording, &t.plan, path);
  report->images++;
  report->process += t.plan.process;
  report->in_switch += t.follower && t.plan.cut >= nodes[node].from && t.plan.cut < nodes[node].to;
  if (!try_image(&t)) return false;
  env_remove_tree(env_posix(), path);
  return k / 2 % NESTED_EVERY || t.plan.process || cut_recovery(&t, node, path, &rnd);
}

static void work(int worker, const char *dir) {
  for (long k = worker; k < images_wanted; k += WORKERS) {
    if (only >= 0 && k != only) continue;
    if (!run_image(k, dir, &reports[worker])) _exit(1);
  }
  _exit(0);
}

static void run_images(const char *dir) {
  pid_t pids[WORKERS];
  fflush(stdout);
  for (int w = 0; w < WORKERS; w++) {
    pids[w] = fork();
    if (pids[w] == 0) work(w, dir);
  }
  for (int w = 0; w < WORKERS; w++) {
    int status = 0;
    waitpid(pids[w], &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    if (!reports[w].failed[0])
      snprintf(reports[w].failed, sizeof reports[w].failed, "worker %d died (status %d) at about image %ld", w, status,
               WORKERS * (reports[w].images - 1) + w);
  }
  for (int w = 0; w < WORKERS; w++)
    ck_assert_msg(!reports[w].failed[0], "%s; see %s: --replay %s --seed %llu", reports[w].failed, dir, dir,
                  (unsigned long long)seed);
}

/* ---- recordings ------------------------------------------------------------------------------------ */

static void find_switch(int node) {
  const struct recording *r = nodes[node].recording;
  for (size_t i = 0; i < recording_count(r); i++) {
    const struct record *rec = recording_at(r, i, NULL);
    const char *path = recording_path(r, i);
    if (!nodes[node].from && strstr(path, "/incoming")) nodes[node].from = i;
    /* The old generation goes when the new one is in force. */
    if (nodes[node].from && rec->type == RECORD_UNLINK &&
        (strstr(path, "/wal-000001") || strstr(path, "/store-000001")))
      nodes[node].to = i + 1;
  }
}

/* Everything kept up to the end must be what is there: or the recorder misses calls. */
static void check_complete(const char *dir, int node) {
  char built[400], command[1200];
  struct image_plan all = {.cut = recording_count(nodes[node].recording), .process = true};
  snprintf(built, sizeof built, "%s/complete-%s", dir, nodes[node].name);
  env_remove_tree(env_posix(), built);
  image_build(nodes[node].recording, &all, built);
  snprintf(command, sizeof command, "diff -r --exclude=LOG --exclude='LOG.old*' --exclude=node.log %s %s/%s", built,
           dir, nodes[node].name);
  ck_assert_msg(system(command) == 0, "the recording of the %s is not complete", nodes[node].name);
  env_remove_tree(env_posix(), built);
}

static void load(const char *dir) {
  for (int i = 0; i < 2; i++) {
    char path[400], root[400];
    snprintf(path, sizeof path, "%s/%s.record", dir, nodes[i].name);
    snprintf(root, sizeof root, "%s/%s", dir, nodes[i].name);
    nodes[i].recording = recording_load(path, root);
    find_switch(i);
    check_complete(dir, i);
  }
  ck_assert_msg(nodes[1].to > nodes[1].from, "no bootstrap was recorded");
  history = history_load(nodes[0].recording);
}

START_TEST(whatever_a_power_cut_leaves_opens_holds_what_was_promised_and_is_one_point_of_history) {
  char dir[256];
  signal(SIGPIPE, SIG_IGN);
  snprintf(dir, sizeof dir, "%s/dw-powercut-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  if (replay) {
    snprintf(dir, sizeof dir, "%s", replay);
  } else {
    ck_assert_ptr_nonnull(mkdtemp(dir));
    scenario_run(dir, seed);
  }
  load(dir);
  printf(
      "recorded: %zu calls of the primary, %zu of the follower, %zu of them in its bootstrap; history up to LSN %llu\n",
      recording_count(nodes[0].recording), recording_count(nodes[1].recording), nodes[1].to - nodes[1].from,
      (unsigned long long)history_end(history));
  run_images(dir);
  struct report sum = {0};
  for (int w = 0; w < WORKERS; w++) {
    sum.images += reports[w].images;
    sum.process += reports[w].process;
    sum.fresh += reports[w].fresh;
    sum.torn += reports[w].torn;
    sum.in_switch += reports[w].in_switch;
    sum.nested += reports[w].nested;
    sum.bytes += reports[w].bytes;
  }
  printf("%ld images, seed %llu: %ld of process crashes, %ld within a bootstrap, %ld with a torn tail or a hole, %ld "
         "with an empty log, "
         "%.1f MB on average; besides %ld images of recoveries cut short; all opened, nothing promised was lost\n",
         sum.images, (unsigned long long)seed, sum.process, sum.in_switch, sum.torn, sum.fresh,
         sum.bytes / 1e6 / (double)sum.images, sum.nested);
  for (int i = 0; i < 2; i++) recording_free(nodes[i].recording);
  history_free(history);
  if (!replay) env_remove_tree(env_posix(), dir);
}
END_TEST

int main(int argc, char **argv) {
  bool bad = argc % 2 == 0;
  seed = (uint64_t)time(NULL) * 1000003u ^ (uint64_t)getpid();
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--images") == 0)
      images_wanted = atol(argv[i + 1]);
    else if (strcmp(argv[i], "--seed") == 0)
      seed = strtoull(argv[i + 1], NULL, 10);
    else if (strcmp(argv[i], "--recorder") == 0)
      setenv("DW_RECORDER", argv[i + 1], 1);
    else if (strcmp(argv[i], "--replay") == 0)
      replay = argv[i + 1];
    else if (strcmp(argv[i], "--only") == 0)
      only = atol(argv[i + 1]);
    else
      bad = true;
  }
  if (bad || images_wanted <= 0 || (!replay && !getenv("DW_RECORDER"))) {
    fprintf(stderr, "usage: %s --recorder LIB [--images N] [--seed S] [--replay DIR [--only K]]\n", argv[0]);
    return 2;
  }
  printf("power cuts: %ld images, --seed %llu\n", images_wanted, (unsigned long long)seed);
  fflush(stdout);
  reports = mmap(NULL, WORKERS * sizeof *reports, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  Suite *s = suite_create("powercut");
  TCase *t = tcase_create("powercut");
  tcase_set_timeout(t, 300.0 + 5.0 * (double)images_wanted);
  tcase_add_test(t, whatever_a_power_cut_leaves_opens_holds_what_was_promised_and_is_one_point_of_history);
  suite_add_tcase(s, t);
  return check_main(s);
}
