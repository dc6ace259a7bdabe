#include "bench/support/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/support/bench.h"

#define MAX_CHILDREN 80
#define MAX_ARGS 12
#define LINE_FD 3

static pid_t running[MAX_CHILDREN];

static void remember(pid_t pid, pid_t instead_of) {
  for (int i = 0; i < MAX_CHILDREN; i++) {
    if (running[i] != instead_of) continue;
    running[i] = pid;
    return;
  }
}

void child_start(struct child *c, const char *role, const char *const *args) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) bench_die("socketpair: %s", strerror(errno));
  char value[16], segment[16];
  snprintf(value, sizeof value, "%d", bench.value_bytes);
  snprintf(segment, sizeof segment, "%d", bench.segment_mb);
  const char *argv[MAX_ARGS + 7] = {bench.name, "--child", role, bench.dir, value, segment};
  int n = 6;
  for (; args && *args; args++) {
    if (n == MAX_ARGS + 6) bench_die("too many arguments for a child");
    argv[n++] = *args;
  }
  pid_t parent = getpid();
  char self[BENCH_PATH_BYTES]; /* by its own name, for ps */
  ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
  if (len <= 0) bench_die("/proc/self/exe: %s", strerror(errno));
  self[len] = 0;
  c->pid = fork();
  if (c->pid < 0) bench_die("fork: %s", strerror(errno));
  if (c->pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    if (pair[1] == LINE_FD) {
      if (fcntl(LINE_FD, F_SETFD, 0)) _exit(1);
    } else if (dup2(pair[1], LINE_FD) < 0) {
      _exit(1);
    }
    execv(self, (char **)argv);
    _exit(127);
  }
  close(pair[1]);
  c->fd = pair[0];
  remember(c->pid, 0);
}

void bytes_write(int fd, const void *data, size_t n) {
  for (const char *p = data; n;) {
    ssize_t w = send(fd, p, n, MSG_NOSIGNAL);
    if (w < 0 && errno == EINTR) continue;
    if (w <= 0) return; /* the reader's end is noticed by whoever waits for an answer */
    p += w;
    n -= (size_t)w;
  }
}

void line_write(int fd, const char *fmt, ...) {
  char line[256];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line - 1, fmt, ap);
  va_end(ap);
  strcat(line, "\n");
  bytes_write(fd, line, strlen(line));
}

int line_read(int fd, char *line, size_t cap) {
  size_t n = 0;
  while (n + 1 < cap) {
    ssize_t r = read(fd, line + n, 1);
    if (r < 0 && errno == EINTR) continue;
    if (r <= 0) return -1;
    if (line[n] == '\n') break;
    n++;
  }
  line[n] = 0;
  return (int)n;
}

void child_tell(struct child *c, const char *line) {
  line_write(c->fd, "%s", line);
}

void child_answer(struct child *c, char *line, size_t cap) {
  if (line_read(c->fd, line, cap) < 0) bench_die("process %d ended", (int)c->pid);
}

void child_get(struct child *c, void *data, size_t n) {
  for (char *p = data; n;) {
    ssize_t r = read(c->fd, p, n);
    if (r < 0 && errno == EINTR) continue;
    if (r <= 0) bench_die("process %d ended", (int)c->pid);
    p += r;
    n -= (size_t)r;
  }
}

static void reap(struct child *c) {
  while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR) {
  }
  remember(0, c->pid);
  c->pid = 0;
}

void child_stop(struct child *c) {
  if (!c->pid) return;
  close(c->fd);
  reap(c);
}

void child_kill(struct child *c) {
  if (!c->pid) return;
  kill(c->pid, SIGKILL);
  close(c->fd);
  reap(c);
}

void children_end(void) {
  for (int i = 0; i < MAX_CHILDREN; i++) {
    if (!running[i]) continue;
    kill(running[i], SIGKILL);
    while (waitpid(running[i], NULL, 0) < 0 && errno == EINTR) {
    }
    running[i] = 0;
  }
}

void child_dispatch(int argc, char **argv, const struct child_role *roles) {
  if (argc < 6 || strcmp(argv[1], "--child")) return;
  snprintf(bench.dir, sizeof bench.dir, "%s", argv[3]);
  bench.value_bytes = atoi(argv[4]);
  bench.segment_mb = atoi(argv[5]);
  for (; roles && roles->name; roles++)
    if (strcmp(roles->name, argv[2]) == 0) exit(roles->run(LINE_FD, argv + 6));
  bench_die("no role '%s'", argv[2]);
}
