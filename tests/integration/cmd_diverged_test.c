/* The operator's way through a parting, with real daemons: the old primary is told to rejoin, what only it had is
 * looked at and written again at the new one. */
#include <fcntl.h>
#include <stdarg.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "replication/cmd/cli.h"
#include "replication/cmd/config.h"
#include "tests/support/check_main.h"
#include "tests/support/daemons.h"
#include "tests/support/ports.h"
#include "wal/base/env.h"

static char dir[256], out[1 << 16];
static struct daemon_proc a, b;

static void setup(void) {
  snprintf(dir, sizeof dir, "%s/dw-rejoin-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  signal(SIGPIPE, SIG_IGN);
  memset(&a, 0, sizeof a);
  memset(&b, 0, sizeof b);
}

static void teardown(void) {
  daemon_kill9(&a);
  daemon_kill9(&b);
  env_remove_tree(env_posix(), dir);
}

/* A command of the tool in a child; its exit code, its output in `out`. */
static int tool(int (*main_fn)(int, char **), const char *line) {
  char path[300], *words = strdup(line), *argv[20] = {NULL};
  int argc = 0, status = 0;
  snprintf(path, sizeof path, "%s/out", dir);
  for (char *save = NULL, *w = strtok_r(words, " ", &save); w && argc < 19; w = strtok_r(NULL, " ", &save))
    argv[argc++] = w;
  fflush(NULL);
  pid_t pid = fork();
  ck_assert_int_ge(pid, 0);
  if (pid == 0) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    int code = main_fn(argc, argv);
    exit(code); /* not _exit: sanitizers look for leaks then, gcov writes what ran */
  }
  free(words);
  ck_assert_int_eq(waitpid(pid, &status, 0), pid);
  FILE *f = fopen(path, "r");
  size_t n = f ? fread(out, 1, sizeof out - 1, f) : 0;
  out[n] = 0;
  if (f) fclose(f);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void done(int code) {
  ck_assert_msg(code == EXIT_OK, "exit code %d: %s", code, out);
}

static void has(const char *text) {
  ck_assert_msg(strstr(out, text) != NULL, "'%s' is not in: %s", text, out);
}

static const char *fmt(const char *format, ...) __attribute__((format(printf, 1, 2)));
static const char *fmt(const char *format, ...) {
  static char text[800];
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  return text;
}

static void set(const struct daemon_proc *d, const char *key, const char *value) {
  char reply[200];
  resp_once(d->resp_port, reply, sizeof reply, "SET %s %s", key, value);
  ck_assert_msg(strstr(reply, "OK") != NULL, "SET %s: %s", key, reply);
}

static void is(const struct daemon_proc *d, const char *key, const char *want) {
  char reply[200];
  resp_once(d->resp_port, reply, sizeof reply, "GET %s", key);
  ck_assert_msg(strstr(reply, want) != NULL, "%s is '%s', not '%s'", key, reply, want);
}

static void await_number(const struct daemon_proc *d, const char *name, long long want) {
  for (int i = 0; i < 3000; i++) {
    if (status_number(d->resp_port, name) == want) return;
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  }
  ck_abort_msg("%s did not become %lld", name, want);
}

START_TEST(what_only_the_old_primary_had_is_listed_shown_and_written_again) {
  int port_a = test_pick_port(), port_b = test_pick_port();
  a.exe = "dabbawal-primary";
  b.exe = "dabbawal-follower";
  snprintf(a.data, sizeof a.data, "%s/a", dir);
  snprintf(b.data, sizeof b.data, "%s/b", dir);
  daemon_add_flag(&a, "--listen=127.0.0.1:%d", port_a);
  daemon_add_flag(&a, "--peers=127.0.0.1:%d", port_b);
  daemon_add_flag(&b, "--listen=127.0.0.1:%d", port_b);
  daemon_add_flag(&b, "--peers=127.0.0.1:%d", port_a);
  daemon_add_flag(&b, "--primary=127.0.0.1:%d", port_a);
  daemon_start(&a);
  daemon_start(&b);
  set(&a, "common", "1");
  await_number(&b, "applied_lsn", 1);
  daemon_kill9(&b);
  set(&a, "lost", "gone");
  set(&a, "lost", "only-at-a");
  set(&a, "both", "as-a-says");
  set(&a, "same", "equal");
  char reply[200];
  resp_once(a.resp_port, reply, sizeof reply, "DEL common");
  daemon_kill9(&a);
  daemon_start(&b);
  done(tool(cli_promote, fmt("promote 127.0.0.1:%d", b.resp_port)));
  ck_assert_int_eq(daemon_stop(&b), EXIT_OK);
  daemon_start(&b); /* what it is, its history says */
  set(&b, "both", "as-b-says");
  set(&b, "same", "equal");

  daemon_start(&a);
  done(tool(cli_diverged, fmt("diverged list %s", a.data)));
  ck_assert_str_eq(out, "");
  done(tool(cli_rejoin, fmt("rejoin 127.0.0.1:%d --primary 127.0.0.1:%d", a.resp_port, port_b)));
  has("OK streaming");
  has("5 commits in DIR/diverged");
  is(&a, "both", "as-b-says");
  ck_assert_int_eq(status_number(a.resp_port, "diverged_files"), 1);
  done(tool(cli_diverged, fmt("diverged list 127.0.0.1:%d", a.resp_port)));
  has("1-2.blocks commits=5 first_lsn=2 last_lsn=6");
  done(tool(cli_diverged, fmt("diverged list %s", a.data)));
  has("1-2.blocks commits=5 first_lsn=2 last_lsn=6");

  char file[600];
  snprintf(file, sizeof file, "%s/diverged/1-2.blocks", a.data);
  done(tool(cli_diverged, fmt("diverged show %s", file)));
  has("2 put \"lost\" \"gone\"");
  has("6 delete \"common\"");
  done(tool(cli_diverged, fmt("diverged replay %s --to 127.0.0.1:%d --dry-run", file, b.resp_port)));
  has("put \"lost\" 9 bytes: not there, would be written");
  has("put \"both\" 9 bytes: 9 bytes are there, would be replaced");
  has("put \"same\" 5 bytes: the same is there");
  has("delete \"common\": 1 bytes are there, would be replaced");
  has("3 keys would be written, 1 the same already, 0 left as they are");
  is(&b, "both", "as-b-says");
  done(tool(cli_diverged, fmt("diverged replay %s --to 127.0.0.1:%d --only-missing", file, b.resp_port)));
  has("1 keys written, 1 the same already, 2 left as they are");
  is(&b, "lost", "only-at-a");
  is(&b, "both", "as-b-says");
  is(&b, "common", "1");
  done(tool(cli_diverged, fmt("diverged replay %s --to 127.0.0.1:%d", file, b.resp_port)));
  has("2 keys written, 2 the same already, 0 left as they are");
  is(&b, "both", "as-a-says");
  resp_once(b.resp_port, reply, sizeof reply, "EXISTS common");
  ck_assert_str_eq(reply, ":0");
  ck_assert_int_eq(tool(cli_diverged, fmt("diverged replay %s --to 127.0.0.1:%d", file, a.resp_port)),
                   EXIT_OK); /* nothing to write */
  ck_assert_int_eq(tool(cli_rejoin, fmt("rejoin 127.0.0.1:%d", b.resp_port)), EXIT_RUNTIME);
  has("none is followed");
}
END_TEST

START_TEST(wrong_uses_say_what_is_wrong) {
  ck_assert_int_eq(tool(cli_diverged, "diverged list"), EXIT_CONFIG);
  ck_assert_int_eq(tool(cli_diverged, "diverged look x"), EXIT_CONFIG);
  has("list, show or replay");
  ck_assert_int_eq(tool(cli_diverged, "diverged replay x"), EXIT_CONFIG);
  has("--to HOST:PORT is needed");
  ck_assert_int_eq(tool(cli_diverged, "diverged list x --values"), EXIT_CONFIG);
  ck_assert_int_ne(tool(cli_diverged, fmt("diverged show %s/nothing", dir)), EXIT_OK);
  ck_assert_int_eq(tool(cli_rejoin, "rejoin 127.0.0.1:1 --timeout soon"), EXIT_CONFIG);
}
END_TEST

int main(void) {
  Suite *s = suite_create("diverged");
  TCase *t = tcase_create("diverged");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 120);
  tcase_add_test(t, what_only_the_old_primary_had_is_listed_shown_and_written_again);
  tcase_add_test(t, wrong_uses_say_what_is_wrong);
  suite_add_tcase(s, t);
  return check_main(s);
}
