#include "tests/support/daemons.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/await.h"
#include "tests/support/ports.h"

void daemon_add_flag(struct daemon_proc *d, const char *fmt, ...) {
  ck_assert_int_lt(d->flag_count, 48);
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(d->flags[d->flag_count++], sizeof d->flags[0], fmt, ap);
  va_end(ap);
}

/* The binaries are in the build folder, the test one below it. */
static void exe_path(const char *exe, char *out, size_t cap) {
  const char *bin = getenv("DW_BIN");
  char self[512] = "";
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  for (int up = 0; n > 0 && up < 2; up++) *strrchr(self, '/') = 0;
  snprintf(out, cap, "%s/%s", bin ? bin : self, exe);
}

/* Is there a "ready" line in the log from `from` on? */
static bool find_ready(const char *log, long from) {
  FILE *f = fopen(log, "r");
  bool found = false;
  char text[2048];
  if (!f) return false;
  fseek(f, from, SEEK_SET);
  while (fgets(text, sizeof text, f)) found |= strstr(text, "ready role=") && strchr(text, '\n');
  fclose(f);
  return found;
}

static long size_of(const char *path) {
  FILE *f = fopen(path, "r");
  if (!f) return 0;
  fseek(f, 0, SEEK_END);
  long n = ftell(f);
  fclose(f);
  return n;
}

static void show_log(const char *path) {
  FILE *f = fopen(path, "r");
  char line[2048];
  if (!f) return;
  fseek(f, size_of(path) > 3000 ? -3000 : 0, size_of(path) > 3000 ? SEEK_END : SEEK_SET);
  while (fgets(line, sizeof line, f)) fprintf(stderr, "  %s: %s", path, line);
  fclose(f);
}

void daemon_add_env(struct daemon_proc *d, const char *fmt, ...) {
  ck_assert_int_lt(d->env_count, 4);
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(d->env[d->env_count++], sizeof d->env[0], fmt, ap);
  va_end(ap);
}

/* The daemon's own with ours behind it: the first of a name counts. Made before fork: the child of a process with
 * threads may not allocate. */
static char **make_environment(struct daemon_proc *d) {
  int n = 0;
  while (environ[n]) n++;
  char **env = calloc((size_t)(n + d->env_count + 1), sizeof *env);
  ck_assert_ptr_nonnull(env);
  for (int i = 0; i < d->env_count; i++) env[i] = d->env[i];
  memcpy(env + d->env_count, environ, (size_t)n * sizeof *env);
  return env;
}

void daemon_spawn(struct daemon_proc *d) {
  char exe[600], resp[64], http[64], listen[64];
  exe_path(d->exe, exe, sizeof exe);
  snprintf(d->log, sizeof d->log, "%s.log", d->data);
  d->log_from = size_of(d->log);
  if (!d->resp_port) {
    d->resp_port = test_pick_port();
    d->http_port = test_pick_port();
    if (strcmp(d->exe, "dabbawal-primary") == 0) d->listen_port = test_pick_port();
  }
  char *argv[64] = {exe, "--data", d->data, "--resp", resp, "--http", http};
  int argc = 7;
  const char *host = d->host ? d->host : "127.0.0.1";
  snprintf(resp, sizeof resp, "%s:%d", host, d->resp_port);
  snprintf(http, sizeof http, "%s:%d", host, d->http_port);
  if (strcmp(d->exe, "dabbawal-primary") == 0) {
    snprintf(listen, sizeof listen, "%s:%d", host, d->listen_port);
    argv[argc++] = "--listen";
    argv[argc++] = listen;
  }
  for (int i = 0; i < d->flag_count; i++) argv[argc++] = d->flags[i];
  char **env = make_environment(d);
  d->pid = fork();
  if (d->pid == 0) {
    int fd = open(d->log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    dup2(fd, 2);
    if (d->netns && (setns(d->netns, CLONE_NEWNET) || prctl(PR_SET_PDEATHSIG, SIGKILL))) {
      dprintf(2, "setns: %s\n", strerror(errno));
      _exit(127);
    }
    execve(exe, argv, env);
    dprintf(2, "exec %s: %s\n", exe, strerror(errno));
    _exit(127);
  }
  free(env);
}

void daemon_await_ready(struct daemon_proc *d) {
  double deadline = mono_s() + 60;
  while (!find_ready(d->log, d->log_from)) {
    int status;
    bool died = waitpid(d->pid, &status, WNOHANG) == d->pid;
    if (died || mono_s() > deadline) {
      if (died) d->pid = 0;
      show_log(d->log);
      ck_abort_msg("%s on %s %s", d->exe, d->data, died ? "ended" : "did not become ready");
    }
    poll(NULL, 0, 5);
  }
}

void daemon_start(struct daemon_proc *d) {
  daemon_spawn(d);
  daemon_await_ready(d);
}

void daemon_kill9(struct daemon_proc *d) {
  daemon_kill9_all(&d, 1);
}

void daemon_kill9_all(struct daemon_proc *const *d, int n) {
  for (int i = 0; i < n; i++)
    if (d[i] && d[i]->pid > 0) kill(d[i]->pid, SIGKILL);
  for (int i = 0; i < n; i++) {
    if (!d[i] || d[i]->pid <= 0) continue;
    waitpid(d[i]->pid, NULL, 0);
    d[i]->pid = 0;
  }
}

int daemon_stop(struct daemon_proc *d) {
  int status = 0;
  if (d->pid <= 0) return -1;
  kill(d->pid, SIGTERM);
  waitpid(d->pid, &status, 0);
  d->pid = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- RESP ---------------------------------------------------------------------------------------- */

int resp_connect(int port) {
  return resp_connect_to(NULL, port, 60000);
}

int resp_connect_to(const char *host, int port, unsigned patience_ms) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  struct timeval tv = {patience_ms / 1000, patience_ms % 1000 * 1000};
  inet_pton(AF_INET, host ? host : "127.0.0.1", &a.sin_addr);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv); /* of connect, too */
  if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0) return fd;
  close(fd);
  return -1;
}

static bool read_byte(int fd, char *c) {
  ssize_t n;
  do n = recv(fd, c, 1, 0);
  while (n < 0 && errno == EINTR);
  return n == 1;
}

static bool read_line(int fd, char *out, size_t cap) {
  size_t n = 0;
  char c;
  while (read_byte(fd, &c)) {
    if (c == '\n') {
      out[n && out[n - 1] == '\r' ? n - 1 : n] = 0;
      return true;
    }
    if (n + 1 < cap) out[n++] = c;
  }
  return false;
}

static bool ask(int fd, char *reply, size_t cap, const char *line) {
  if (send(fd, line, strlen(line), MSG_NOSIGNAL) != (ssize_t)strlen(line) || !read_line(fd, reply, cap)) return false;
  if (reply[0] == '*') { /* arrays: the elements' last text counts */
    int left = atoi(reply + 1);
    while (left-- > 0) {
      if (!read_line(fd, reply, cap)) return false;
      if (reply[0] == '$' && atoi(reply + 1) >= 0 && !read_line(fd, reply, cap)) return false;
    }
    return true;
  }
  if (reply[0] != '$') return true;
  long n = atol(reply + 1);
  if (n < 0) {
    snprintf(reply, cap, "(nil)");
    return true;
  }
  size_t at = 0;
  char c;
  for (long i = 0; i < n + 2; i++) {
    if (!read_byte(fd, &c)) return false;
    if (i < n && at + 1 < cap) reply[at++] = c;
  }
  reply[at] = 0;
  return true;
}

bool resp_ask(int fd, char *reply, size_t cap, const char *fmt, ...) {
  char line[1024];
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(line, sizeof line - 2, fmt, ap);
  va_end(ap);
  memcpy(line + n, "\r\n", 3);
  return ask(fd, reply, cap, line);
}

void resp_once(int port, char *reply, size_t cap, const char *fmt, ...) {
  char line[1024];
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(line, sizeof line - 2, fmt, ap);
  va_end(ap);
  memcpy(line + n, "\r\n", 3);
  int fd = resp_connect(port);
  reply[0] = 0;
  if (fd >= 0 && !ask(fd, reply, cap, line)) reply[0] = 0;
  if (fd >= 0) close(fd);
}

long long status_number(int port, const char *name) {
  static char json[65536];
  char key[64];
  resp_once(port, json, sizeof json, "DW.STATUS");
  snprintf(key, sizeof key, "\"%s\":", name);
  const char *p = strstr(json, key);
  if (!p) return -1;
  p += strlen(key);
  while (*p == ' ' || *p == '\t') p++;
  return *p >= '0' && *p <= '9' ? atoll(p) : -1;
}
