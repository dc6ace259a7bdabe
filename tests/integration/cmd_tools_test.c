/* The programs as a whole: exit codes and error lines of the daemons, signals, and each command of the operator's tool
 * against running ones. Programs run in forked children of this one, through their main functions, so that no path to a
 * binary is needed; their output goes to files. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "replication/cmd/cli.h"
#include "replication/cmd/daemon.h"
#include "tests/support/check_main.h"
#include "tests/support/ports.h"
#include "wal/base/env.h"
#include "wal/format.h"

#define AWAIT_S 30

static char dir[300];

static void setup(void) {
  const char *tmp = getenv("TMPDIR");
  snprintf(dir, sizeof dir, "%s/dw-tools-XXXXXX", tmp ? tmp : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  ck_assert_int_eq(chdir(dir), 0);
}
static void teardown(void) {
  ck_assert_int_eq(chdir("/"), 0);
  env_remove_tree(env_posix(), dir);
}

/* ---- programs ----------------------------------------------------------------------------------- */

typedef int (*program)(int argc, char **argv);

static int run_primary(int argc, char **argv) {
  return daemon_main(DAEMON_PRIMARY, argc, argv);
}
static int run_follower(int argc, char **argv) {
  return daemon_main(DAEMON_FOLLOWER, argc, argv);
}

/* `line`: the arguments, parted by blanks (a ~ stands for a blank in one). Output to NAME.out and NAME.err. */
static pid_t start(const char *name, program main_fn, const char *line) {
  char out[100], err[100], *words = strdup(line), *argv[40] = {(char *)(uintptr_t)name};
  int argc = 1;
  snprintf(out, sizeof out, "%s.out", name);
  snprintf(err, sizeof err, "%s.err", name);
  unlink(out);
  unlink(err);
  for (char *save = NULL, *w = strtok_r(words, " ", &save); w && argc < 39; w = strtok_r(NULL, " ", &save)) {
    for (char *p = w; (p = strchr(p, '~'));) *p = ' ';
    argv[argc++] = w;
  }
  fflush(NULL);
  pid_t pid = fork();
  ck_assert_int_ge(pid, 0);
  if (pid == 0) {
    signal(SIGINT, SIG_DFL); /* Check's handlers would end the test */
    signal(SIGTERM, SIG_DFL);
    dup2(open(out, O_WRONLY | O_CREAT | O_APPEND, 0644), STDOUT_FILENO);
    dup2(open(err, O_WRONLY | O_CREAT | O_APPEND, 0644), STDERR_FILENO);
    int code = main_fn(argc, argv);
    exit(code); /* not _exit: sanitizers look for leaks then, gcov writes what ran */
  }
  free(words);
  return pid;
}

static int finish(pid_t pid) {
  int status = 0;
  for (int i = 0; i < AWAIT_S * 100; i++) {
    if (waitpid(pid, &status, WNOHANG) == pid) return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  }
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  ck_abort_msg("process %d has not ended", (int)pid);
}

static int run(const char *name, program main_fn, const char *line) {
  return finish(start(name, main_fn, line));
}

/* A file's text; not to be kept over the next call. */
static const char *slurp(const char *path) {
  static char text[1 << 20];
  FILE *f = fopen(path, "r");
  size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
  if (f) fclose(f);
  text[n] = 0;
  return text;
}

static int line_count(const char *path) {
  int n = 0;
  for (const char *p = slurp(path); (p = strchr(p, '\n')); p++) n++;
  return n;
}

static void await_text(const char *path, const char *want) {
  for (int i = 0; i < AWAIT_S * 100; i++) {
    if (strstr(slurp(path), want)) return;
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  }
  ck_abort_msg("%s never said '%s': %s", path, want, slurp(path));
}

/* A port from the ready line: " resp=127.0.0.1:1234". */
static int port_of(const char *log, const char *what) {
  char key[20];
  await_text(log, "ready role=");
  snprintf(key, sizeof key, " %s=", what);
  const char *p = strstr(strstr(slurp(log), "ready role="), key);
  ck_assert_ptr_nonnull(p);
  p += strlen(key);
  return atoi(p + strcspn(p, ": ") + 1);
}

static const char *fmt(const char *format, ...) __attribute__((format(printf, 1, 2)));
static const char *fmt(const char *format, ...) {
  static char text[400];
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  return text;
}

static void stop(pid_t pid) {
  kill(pid, SIGTERM);
  ck_assert_int_eq(finish(pid), EXIT_OK);
}

static void write_text(const char *path, const char *text) {
  FILE *f = fopen(path, "w");
  fputs(text, f);
  fclose(f);
}

/* ---- the daemons --------------------------------------------------------------------------------- */

static void refused(const char *line, int code, const char *says) {
  ck_assert_msg(run("x", run_primary, line) == code, "%s: %s", line, slurp("x.err"));
  ck_assert_msg(strstr(slurp("x.err"), says) != NULL, "%s: %s", line, slurp("x.err"));
  ck_assert_msg(line_count("x.err") == 1, "%s: %s", line, slurp("x.err"));
}

START_TEST(each_start_that_fails_says_why_in_one_line_and_in_its_exit_code) {
  pid_t p = start("p", run_primary, "--data p --listen 0 --resp 0 --http 0 --log-level warn --log-file p.log");
  /* Warnings only: the ready line is not there, so the file tells nothing; the lock does. */
  for (int i = 0; i < 3000 && access("p/NODE", F_OK) != 0; i++)
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  refused("--data p --listen 0", EXIT_LOCKED, "p/LOCK is held by another process");
  stop(p);
  ck_assert_str_eq(slurp("p.err"), "");

  p = start("p", run_primary, "--data p --listen 0 --resp 0 --http 0");
  int listen = port_of("p.err", "listen"), resp = port_of("p.err", "resp"), http = port_of("p.err", "http");
  refused(fmt("--data q --log-level warn --listen %d", listen), EXIT_BIND, "Address already in use");
  refused(fmt("--data q --log-level warn --listen 0 --resp %d", resp), EXIT_BIND, "in use");
  refused(fmt("--data q --log-level warn --listen 0 --http %d", http), EXIT_BIND, "in use");
  stop(p);

  write_text("file", "x");
  refused("--data file --listen 0", EXIT_RUNTIME, "file");
  refused("--data none/q --listen 0", EXIT_RUNTIME, "none/q: No such file");
  mkdir("foreign", 0755);
  write_text("foreign/photo.jpg", "x");
  refused("--data foreign --listen 0", EXIT_CONFIG, "foreign is not a dabbawal directory");
  refused("--data q --listen 0 --acks 0", EXIT_CONFIG, "--acks: '0'");
  refused("--data q --listen 0 --log-file none/log", EXIT_CONFIG, "can't open the log file none/log");
  write_text("p/NODE",
             "this is not a NODE file, but it is long enough to be looked at: 0123456789012345678901234567890123456789"
             "0123456789012345678901234567890123456789");
  refused("--data p --listen 0", EXIT_BAD_DATA, "NODE");
  ck_assert_int_eq(access("q/NODE", F_OK), 0); /* what failed at its ports left a sound directory */
  p = start("q", run_primary, "--data q --listen 0");
  port_of("q.err", "listen");
  stop(p);
}
END_TEST

START_TEST(signals_stop_cleanly_also_when_they_come_twice_and_reopen_the_log) {
  pid_t p = start("p", run_primary, "--data p --listen 0 --log-file p.log --pid-file p.pid");
  await_text("p.log", "ready role=primary");
  await_text("p.pid", "\n");
  ck_assert_int_eq(atoi(slurp("p.pid")), p);
  ck_assert_int_eq(rename("p.log", "p.old"), 0);
  kill(p, SIGHUP);
  await_text("p.log", "log file reopened");
  kill(p, SIGINT);
  ck_assert_int_eq(finish(p), EXIT_OK);
  ck_assert_ptr_nonnull(strstr(slurp("p.log"), "stopped"));
  ck_assert_int_ne(access("p.pid", F_OK), 0);
  p = start("p", run_primary, "--data p --listen 0");
  await_text("p.err", "ready role=primary");
  kill(p, SIGTERM); /* twice at once, as by timeout(1) */
  kill(p, SIGINT);
  ck_assert_int_eq(finish(p), EXIT_OK);
  ck_assert_ptr_nonnull(strstr(slurp("p.err"), "stopped"));
}
END_TEST

/* A coordinator that takes connections and never answers holds up the end of a daemon that talks to it. */
START_TEST(who_keeps_asking_a_slow_daemon_to_stop_is_obeyed_at_once) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t n = sizeof at;
  int status, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ck_assert_int_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
  ck_assert_int_eq(listen(fd, 16), 0);
  ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&at, &n), 0);
  char line[300];
  snprintf(line, sizeof line,
           "--data p --node-id 1 --listen 127.0.0.1:0 --advertise 127.0.0.1:9 --peers 127.0.0.1:8,127.0.0.1:7 "
           "--lease-ttl 600s --cluster-name c --coordinator etcd://127.0.0.1:%d",
           ntohs(at.sin_port));
  pid_t p = start("p", run_primary, line);
  await_text("p.err", "waiting for a role");
  int asker = accept(fd, NULL, NULL); /* it is asking now, and will wait for two minutes */
  time_t first = time(NULL);
  do { /* again and again */
    ck_assert_msg(time(NULL) - first < AWAIT_S, "it has not ended");
    kill(p, SIGTERM);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
  } while (waitpid(p, &status, WNOHANG) != p);
  close(asker);
  close(fd);
  ck_assert_ptr_nonnull(strstr(slurp("p.err"), "again: exit at once"));
  ck_assert_int_eq(WEXITSTATUS(status), EXIT_RUNTIME);
}
END_TEST

/* ---- the tool ------------------------------------------------------------------------------------ */

static const char index_text[] = "Package: a\nVersion: 1\nArchitecture: all\n\n"
                                 "Package: b\nVersion: 2\nArchitecture: amd64\nDescription: two\n lines\n";

START_TEST(what_is_loaded_is_on_every_node_and_status_shows_it) {
  char line[400];
  pid_t p =
      start("p", run_primary, "--data p --listen 0 --resp 0 --http 0 --mode semi-sync --node-id 1 --region mumbai");
  int resp = port_of("p.err", "resp"), http = port_of("p.err", "http");
  pid_t f = start("f", run_follower,
                  fmt("--data f --primary %d --resp 0 --node-id 11 --region pune", port_of("p.err", "listen")));
  int follower = port_of("f.err", "resp");
  await_text("f.err", "following node 1");

  write_text("index", index_text);
  ck_assert_int_eq(run("l", cli_load, fmt("%d index --mode sync~1~applied", resp)), EXIT_OK);
  ck_assert_ptr_nonnull(strstr(slurp("l.out"), "loaded 2 records"));
  write_text("more.tsv", "k\tv\nbroken\n");
  ck_assert_int_eq(run("l", cli_load, fmt("%d more.tsv --pipeline 1", resp)), EXIT_RUNTIME);
  ck_assert_ptr_nonnull(strstr(slurp("l.out"), "loaded 1 records"));
  ck_assert_ptr_nonnull(strstr(slurp("l.err"), "more.tsv: line 2: no tab"));
  write_text("more.resp", "SET r 1\r\nNONSENSE\r\n");
  ck_assert_int_eq(run("l", cli_load, fmt("%d more.resp", resp)), EXIT_RUNTIME);
  ck_assert_ptr_nonnull(strstr(slurp("l.err"), "command 2: ERR unknown command"));
  ck_assert_int_eq(run("l", cli_load, fmt("%d index", follower)), EXIT_RUNTIME);
  ck_assert_ptr_nonnull(strstr(slurp("l.err"), "READONLY"));
  ck_assert_ptr_nonnull(strstr(slurp("l.err"), fmt("primary=127.0.0.1:%d", resp))); /* the port that was bound for it */
  ck_assert_int_eq(line_count("l.err"), 1);

  write_text("last.resp", "DW.MODE SYNC 1 APPLIED\r\nSET last 1\r\n"); /* then the follower has everything */
  ck_assert_int_eq(run("l", cli_load, fmt("%d last.resp", resp)), EXIT_OK);
  ck_assert_int_eq(run("c", cli_checksum, fmt("%d", resp)), EXIT_OK);
  snprintf(line, sizeof line, "%.300s", slurp("c.out"));
  ck_assert_msg(strncmp(line, "5 5 ", 4) == 0, "%s", line);
  ck_assert_int_eq(run("c", cli_checksum, fmt("%d", follower)), EXIT_OK);
  ck_assert_str_eq(slurp("c.out"), line);

  for (int i = 0; i < 2; i++) { /* the RESP and the HTTP port give the same */
    ck_assert_int_eq(run("s", cli_status, fmt("%d", i ? http : resp)), EXIT_OK);
    ck_assert_msg(strstr(slurp("s.out"), "primary 1 (mumbai)  epoch 1  mode semi-sync, acks 1, level durable") != NULL,
                  "%s", slurp("s.out"));
    ck_assert_ptr_nonnull(strstr(slurp("s.out"), "written 5  durable 5  commit 5  applied 5"));
    ck_assert_ptr_nonnull(strstr(slurp("s.out"), "11        pune"));
    ck_assert_ptr_nonnull(strstr(slurp("s.out"), fmt("  primary  node 1 at 127.0.0.1:%d; term 0\n", resp)));
  }
  ck_assert_int_eq(run("s", cli_status, fmt("%d --json", follower)), EXIT_OK);
  ck_assert_ptr_nonnull(strstr(slurp("s.out"), "\"role\":\"follower\""));
  pid_t w = start("w", cli_status, fmt("%d --watch", resp));
  await_text("w.out", "primary 1");
  kill(w, SIGINT);
  ck_assert_int_eq(finish(w), -SIGINT);
  stop(f);
  stop(p);
  ck_assert_int_eq(run("s", cli_status, fmt("%d", resp)), EXIT_RUNTIME);
  ck_assert_ptr_nonnull(strstr(slurp("s.err"), "Connection refused"));
}
END_TEST

static const char *segment_path(void) {
  static char path[300];
  FILE *p = popen("ls p/wal-000001/*.wal", "r");
  ck_assert_ptr_nonnull(fgets(path, sizeof path, p));
  pclose(p);
  path[strcspn(path, "\n")] = 0;
  return path;
}

START_TEST(a_log_is_verified_and_dumped_alive_dead_and_damaged) {
  pid_t p = start("p", run_primary, "--data p --listen 0 --resp 0");
  write_text("index", index_text);
  ck_assert_int_eq(run("l", cli_load, fmt("%d index --pipeline 1", port_of("p.err", "resp"))), EXIT_OK);
  ck_assert_int_eq(run("v", cli_wal, "verify p"), EXIT_OK); /* alive */
  ck_assert_ptr_nonnull(strstr(slurp("v.out"), "commits 2"));
  ck_assert_ptr_nonnull(strstr(slurp("v.out"), "sound: up to LSN 2"));
  kill(p, SIGKILL);
  ck_assert_int_eq(finish(p), -SIGKILL);
  ck_assert_int_eq(run("v", cli_wal, "verify p/wal-000001"), EXIT_OK); /* dead, and the log itself */
  ck_assert_int_eq(run("d", cli_wal, "dump p"), EXIT_OK);
  ck_assert_ptr_nonnull(
      strstr(slurp("d.out"), "  1 put \"a/1/all\" \"Package: a\\nVersion: 1\\nArchitecture: all\\n\"\n"));
  ck_assert_ptr_nonnull(
      strstr(slurp("d.out"), "\"Package: b\\nVersion: 2\\nArchitecture: amd64\\nDescription: two\\n line\"... "));
  ck_assert_int_eq(run("d", cli_wal, "dump p --from 2 --values"), EXIT_OK);
  ck_assert_ptr_null(strstr(slurp("d.out"), "  1 put"));
  ck_assert_ptr_nonnull(strstr(slurp("d.out"), "Description: two\\n lines\\n\"\n"));
  unlink("p/NODE");
  ck_assert_int_eq(run("v", cli_wal, "verify p"), EXIT_OK); /* the newest generation */

  FILE *f = fopen(segment_path(), "r+"); /* a byte of the first block's header, with blocks and marks behind it */
  fseek(f, 4096 + 300, SEEK_SET);
  fputc(0x55, f);
  fclose(f);
  ck_assert_msg(run("v", cli_wal, "verify p") == EXIT_BAD_DATA, "%s%s", slurp("v.err"), slurp("v.out"));
  ck_assert_ptr_nonnull(strstr(slurp("v.err"), segment_path()));
  ck_assert_ptr_nonnull(strstr(slurp("v.err"), "offset"));
  ck_assert_int_eq(line_count("v.err"), 1);
}
END_TEST

START_TEST(dump_from_an_lsn_begins_there_even_inside_a_block) {
  pid_t p = start("p", run_primary, "--data p --listen 0 --resp 0");
  FILE *f = fopen("many.tsv", "w");
  for (int i = 1; i <= 300; i++) fprintf(f, "k%d\tv\n", i);
  fclose(f);
  ck_assert_int_eq(run("l", cli_load, fmt("%d many.tsv --pipeline 300", port_of("p.err", "resp"))), EXIT_OK);
  stop(p);
  for (int from = 145; from <= 155; from++) {
    char before[20], first[20];
    snprintf(before, sizeof before, "\n  %d put", from - 1);
    snprintf(first, sizeof first, "\n  %d put", from);
    ck_assert_int_eq(run("d", cli_wal, fmt("dump p --from=%d", from)), EXIT_OK);
    ck_assert_ptr_nonnull(strstr(slurp("d.out"), first));
    ck_assert_ptr_null(strstr(slurp("d.out"), before));
  }
}
END_TEST

/* A byte of the block that stands at `off` or behind it; marks stand anywhere between, and need no peer. */
static void damage(const char *path, uint64_t off) {
  uint8_t head[WAL_BLOCK_HEADER_BYTES];
  struct block_header h;
  struct mark_frame m;
  uint64_t at = WAL_SEGMENT_HEADER_BYTES;
  int fd = open(path, O_RDWR);
  for (;;) {
    ck_assert_int_eq(pread(fd, head, sizeof head, (off_t)at), sizeof head);
    bool mark = mark_decode(head, &m);
    ck_assert_msg(mark || block_header_decode(head, &h) == DW_OK, "no block at offset %llu", (unsigned long long)at);
    uint64_t end = at + (mark ? WAL_MARK_BYTES : block_total_bytes(&h));
    if (!mark && end > off) break;
    at = end;
  }
  at += WAL_BLOCK_HEADER_BYTES + 2; /* the header stays, so that one can walk over it */
  ck_assert_int_eq(pread(fd, head, 1, (off_t)at), 1);
  head[0] ^= 0x20;
  ck_assert_int_eq(pwrite(fd, head, 1, (off_t)at), 1);
  close(fd);
}

START_TEST(damage_is_named_with_who_could_repair_it_and_then_repaired) {
  pid_t p = start("p", run_primary, "--data p --listen 0 --resp 0 --segment-bytes 64KiB --mode sync");
  int listen = port_of("p.err", "listen"), resp = port_of("p.err", "resp");
  pid_t f = start("f", run_follower, fmt("--data f --primary %d --listen 0 --segment-bytes 64KiB", listen));
  await_text("p.err", "has caught up");
  FILE *many = fopen("many.tsv", "w");
  for (int i = 1; i <= 1500; i++) fprintf(many, "k%d\t%d-%d-%d\n", i, i * 7919, i * 104729, i * 1299709);
  fclose(many);
  ck_assert_int_eq(run("l", cli_load, fmt("%d many.tsv --pipeline 4", resp)), EXIT_OK);
  stop(f);
  ck_assert_int_eq(run("v", cli_wal, "verify f"), EXIT_OK);
  damage("f/wal-000001/00000000000000000001-00000001.wal", 4096 + 2000);
  damage("f/wal-000001/00000000000000000001-00000001.wal", 4096 + 9000);

  ck_assert_int_eq(run("v", cli_wal, "verify f"), EXIT_BAD_DATA);
  ck_assert_ptr_nonnull(strstr(slurp("v.out"), "damage: 00000000000000000001-00000001.wal: offset "));
  ck_assert_ptr_nonnull(strstr(slurp("v.out"), "--repair-from HOST:PORT asks"));
  ck_assert_int_eq(run("v", cli_wal, fmt("verify f --repair-from 127.0.0.1:%d", listen)), EXIT_BAD_DATA);
  ck_assert_msg(strstr(slurp("v.out"), fmt("could be repaired from 127.0.0.1:%d: ", listen)) != NULL, "%s",
                slurp("v.out"));
  ck_assert_int_eq(run("v", cli_wal, "verify f"), EXIT_BAD_DATA); /* nothing was changed */

  /* Nobody there; a node of another cluster; in use; no data directory. */
  ck_assert_int_eq(run("r", cli_wal, "repair f --from 1"), EXIT_BAD_DATA);
  ck_assert_msg(strstr(slurp("r.out"), "can't be repaired: 127.0.0.1:1: can't connect: Connection refused"), "%s",
                slurp("r.out"));
  pid_t other = start("o", run_primary, "--data o --listen 0");
  ck_assert_int_eq(run("r", cli_wal, fmt("repair f --from %d", port_of("o.err", "listen"))), EXIT_BAD_DATA);
  ck_assert_ptr_nonnull(strstr(slurp("r.out"), "this is cluster"));
  ck_assert_int_eq(run("r", cli_wal, fmt("repair o --from %d", listen)), EXIT_LOCKED);
  ck_assert_int_eq(run("r", cli_wal, fmt("repair f/wal-000001 --from %d", listen)), EXIT_CONFIG);
  stop(other);

  ck_assert_int_eq(run("r", cli_wal, fmt("repair f --from 1,%d", listen)), EXIT_OK);
  ck_assert_ptr_nonnull(strstr(slurp("r.out"), "1 damaged segments repaired, 0 left"));
  ck_assert_int_eq(run("v", cli_wal, "verify f"), EXIT_OK);
  ck_assert_int_eq(run("r", cli_wal, fmt("repair f --from %d", listen)), EXIT_OK);
  ck_assert_ptr_nonnull(strstr(slurp("r.out"), "0 damaged segments repaired, 0 left"));
  stop(p);
}
END_TEST

/* What `status --json` of the node at this port says, awaited. */
static void await_status(int resp, const char *want) {
  for (int i = 0; i < AWAIT_S * 20; i++) {
    if (run("s", cli_status, fmt("%d --json", resp)) == EXIT_OK && strstr(slurp("s.out"), want)) return;
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
  }
  ck_abort_msg("the node never said %s: %s%s", want, slurp("s.out"), slurp("s.err"));
}

static void succeeds(program main_fn, const char *line, const char *says) {
  ck_assert_msg(run("x", main_fn, line) == EXIT_OK, "%s: %s", line, slurp("x.err"));
  ck_assert_msg(strstr(slurp("x.out"), says) != NULL, "%s: %s", line, slurp("x.out"));
}

static void fails(program main_fn, const char *line, const char *says) {
  ck_assert_msg(run("x", main_fn, line) == EXIT_RUNTIME, "%s: %s", line, slurp("x.out"));
  ck_assert_msg(strstr(slurp("x.err"), says) != NULL, "%s: %s", line, slurp("x.err"));
  ck_assert_int_eq(line_count("x.err"), 1);
}

START_TEST(the_tool_hands_over_lets_follow_and_promotes) {
  int at_a = test_pick_port(), at_b = test_pick_port();
  pid_t a = start("a", run_primary,
                  fmt("--data a --listen 127.0.0.1:%d --peers 127.0.0.1:%d --resp 0 --mode sync", at_a, at_b));
  int ra = port_of("a.err", "resp");
  pid_t b = start(
      "b", run_follower,
      fmt("--data b --primary 127.0.0.1:%d --listen 127.0.0.1:%d --peers 127.0.0.1:%d --resp 0", at_a, at_b, at_a));
  int rb = port_of("b.err", "resp");
  await_text("a.err", "has caught up");
  write_text("index", index_text);
  ck_assert_int_eq(run("l", cli_load, fmt("%d index", ra)), EXIT_OK);

  fails(cli_switchover, fmt("%d %d", rb, ra), "is no primary, but a follower");
  fails(cli_switchover, fmt("%d 1", ra), "127.0.0.1:1");
  succeeds(cli_switchover, fmt("%d %d --timeout 20000", ra, rb), "OK epoch=");
  await_status(rb, "\"role\":\"primary\"");
  await_status(ra, "\"primary_state\":\"streaming\"");
  write_text("more.tsv", "k\tv\n");
  ck_assert_int_eq(run("l", cli_load, fmt("%d more.tsv", rb)), EXIT_OK);
  ck_assert_int_eq(run("l", cli_load, fmt("%d more.tsv", ra)), EXIT_RUNTIME);
  ck_assert_ptr_nonnull(strstr(slurp("l.err"), "READONLY"));
  fails(cli_promote, fmt("%d", rb), "primary");

  succeeds(cli_follow, fmt("%d nobody", ra), "OK");
  await_status(ra, "\"primary\":\"\",\"primary_state\":\"disconnected\"");
  succeeds(cli_follow, fmt("%d 127.0.0.1:%d", ra, at_b), "OK");
  await_status(ra, "\"primary_state\":\"streaming\"");

  kill(b, SIGKILL);
  ck_assert_int_eq(finish(b), -SIGKILL);
  fails(cli_promote, fmt("%d --max-lag 1", ra), "old"); /* nobody tells how old its data is */
  succeeds(cli_promote, fmt("%d --max-lag 86400000 --timeout 20000", ra), "OK epoch=");
  await_status(ra, "\"term\":2,");
  await_status(ra, "\"writable\":true");
  stop(a);
}
END_TEST

START_TEST(wrong_usage_of_the_tool_is_exit_code_2) {
  static const struct {
    program main_fn;
    const char *line, *says;
    int code, lines;
  } wrong[] = {
      {cli_wal, "verify", "too few arguments", EXIT_CONFIG, 1},
      {cli_wal, "repear d", "unknown command 'repear'", EXIT_CONFIG, 1},
      {cli_wal, "repair d", "--from HOST:PORT is needed", EXIT_CONFIG, 1},
      {cli_wal, "repair d --from 1 --values", "an option of another command", EXIT_CONFIG, 1},
      {cli_wal, "verify d --from 1", "an option of another command", EXIT_CONFIG, 1},
      {cli_wal, "dump d --from x", "--from: 'x' is not an LSN", EXIT_CONFIG, 1},
      {cli_wal, "dump d --from", "--from: needs a value", EXIT_CONFIG, 1},
      {cli_wal, "verify nowhere", "nowhere: no such directory", EXIT_RUNTIME, 1},
      {cli_wal, "verify .", "neither a dabbawal data directory nor a log", EXIT_RUNTIME, 1},
      {cli_status, "a:b:c", "brackets", EXIT_CONFIG, 1},
      {cli_status, "1 2 --wath", "unknown option --wath", EXIT_CONFIG, 2},
      {cli_load, "1 nothing", "can't open nothing", EXIT_RUNTIME, 1},
      {cli_load, "1 .", ". is a directory", EXIT_RUNTIME, 1},
      {cli_load, "1 x --format=csv --pipeline=0", "none of deb822, tsv or resp", EXIT_CONFIG, 2},
      {cli_checksum, "nohost", "host:port", EXIT_CONFIG, 1},
      {cli_promote, "", "too few arguments", EXIT_CONFIG, 1},
      {cli_promote, "1 --max-lag 0", "--max-lag: '0' is not a time in ms", EXIT_CONFIG, 1},
      {cli_promote, "1 --timeout=soon", "--timeout: 'soon' is not a time in ms", EXIT_CONFIG, 1},
      {cli_promote, "1 --force=yes", "--force: takes no value", EXIT_CONFIG, 1},
      {cli_promote, "1", "Connection refused", EXIT_RUNTIME, 1},
      {cli_switchover, "1", "too few arguments", EXIT_CONFIG, 1},
      {cli_switchover, "1 2 3", "unexpected argument '3'", EXIT_CONFIG, 1},
      {cli_switchover, "1 2 --timeout 86400001", "--timeout: '86400001'", EXIT_CONFIG, 1},
      {cli_switchover, "1 a:b:c", "brackets", EXIT_CONFIG, 1},
      {cli_switchover, "1 2", "Connection refused", EXIT_RUNTIME, 1},
      {cli_follow, "1", "too few arguments", EXIT_CONFIG, 1},
      {cli_follow, "1 a:b:c", "brackets", EXIT_CONFIG, 1},
      {cli_follow, "1 nobody", "Connection refused", EXIT_RUNTIME, 1},
      {cli_pause, "--cluster-name c", "--coordinator and --cluster-name are needed", EXIT_CONFIG, 1},
      {cli_resume, "--coordinator=etcd://127.0.0.1:1 --cluster-name=c", "onnect", EXIT_RUNTIME, 1},
      {cli_audit, "look f", "unknown command 'look': verify", EXIT_CONFIG, 1},
      {cli_audit, "verify nothing", "nothing", EXIT_RUNTIME, 1},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    ck_assert_msg(run("x", wrong[i].main_fn, wrong[i].line) == wrong[i].code, "%s: %s", wrong[i].line, slurp("x.err"));
    ck_assert_msg(strstr(slurp("x.err"), wrong[i].says) != NULL, "%s: %s", wrong[i].line, slurp("x.err"));
    ck_assert_msg(line_count("x.err") == wrong[i].lines, "%s: %s", wrong[i].line, slurp("x.err"));
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("tools");
  TCase *t = tcase_create("tools");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 120);
  tcase_add_test(t, each_start_that_fails_says_why_in_one_line_and_in_its_exit_code);
  tcase_add_test(t, signals_stop_cleanly_also_when_they_come_twice_and_reopen_the_log);
  tcase_add_test(t, who_keeps_asking_a_slow_daemon_to_stop_is_obeyed_at_once);
  tcase_add_test(t, what_is_loaded_is_on_every_node_and_status_shows_it);
  tcase_add_test(t, a_log_is_verified_and_dumped_alive_dead_and_damaged);
  tcase_add_test(t, dump_from_an_lsn_begins_there_even_inside_a_block);
  tcase_add_test(t, damage_is_named_with_who_could_repair_it_and_then_repaired);
  tcase_add_test(t, the_tool_hands_over_lets_follow_and_promotes);
  tcase_add_test(t, wrong_usage_of_the_tool_is_exit_code_2);
  suite_add_tcase(s, t);
  return check_main(s);
}
