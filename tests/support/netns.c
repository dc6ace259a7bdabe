/* See netns.h. */
#include "tests/support/netns.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOSTS 255
#define NOBODY "02:de:ad:00:00:01"

static int ns_of[HOSTS]; /* 0: none, or this process's own */
static char addresses[HOSTS][16];

/* `ip` with these words, in a host's namespace (0: ours). Only what may be called between fork and exec of a process
 * with threads. */
static int run_ip(int host, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int run_ip(int host, const char *fmt, ...) {
  char line[300], *argv[32] = {"ip"}, *save = NULL;
  int argc = 1, status = -1;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  for (char *word = strtok_r(line, " ", &save); word && argc < 31; word = strtok_r(NULL, " ", &save))
    argv[argc++] = word;
  pid_t pid = fork();
  if (pid == 0) {
    int null = open("/dev/null", O_WRONLY);
    if (null >= 0) dup2(null, 1);
    if (ns_of[host] && setns(ns_of[host], CLONE_NEWNET)) _exit(126);
    execvp("ip", argv);
    _exit(127);
  }
  while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool write_file(const char *path, const char *fmt, unsigned id) {
  char text[64];
  int n = snprintf(text, sizeof text, fmt, id), fd = open(path, O_WRONLY | O_CLOEXEC);
  bool ok = fd >= 0 && write(fd, text, (size_t)n) == n;
  if (fd >= 0) close(fd);
  return ok;
}

/* Who is not root becomes it in a user namespace, where nobody else's files are. */
static bool leave(void) {
  unsigned uid = getuid(), gid = getgid();
  if (unshare(CLONE_NEWNET) == 0) return true;
  if (unshare(CLONE_NEWUSER | CLONE_NEWNET)) return false;
  return write_file("/proc/self/setgroups", "deny", 0) && write_file("/proc/self/uid_map", "0 %u 1", uid) &&
         write_file("/proc/self/gid_map", "0 %u 1", gid);
}

bool net_begin(char *why, size_t cap) {
  for (int i = 0; i < HOSTS; i++) snprintf(addresses[i], sizeof addresses[i], "10.77.0.%d", i);
  if (run_ip(0, "link show lo")) return snprintf(why, cap, "there is no `ip`: is iproute2 installed?"), false;
  if (!leave()) return snprintf(why, cap, "unshare: %s", strerror(errno)), false;
  if (run_ip(0, "link set lo up")) return snprintf(why, cap, "the loopback can't be set up"), false;
  if (run_ip(0, "link add br0 type bridge") || run_ip(0, "addr add 10.77.0.%d/24 dev br0", NET_CLIENTS) ||
      run_ip(0, "link set br0 up"))
    return snprintf(why, cap, "no bridge can be made"), false;
  if (run_ip(0, "link add probe0 type veth peer name probe1") || run_ip(0, "link del probe0"))
    return snprintf(why, cap, "no virtual cable can be made"), false;
  return true;
}

const char *net_address(int host) {
  return addresses[host];
}

/* The namespace is made by a child, and lives on by our descriptor. */
int net_add(int host) {
  int ready[2], go[2];
  char path[64], byte = 0;
  ck_assert_msg(host > 0 && host < NET_CLIENTS && !ns_of[host], "host %d", host);
  ck_assert(pipe2(ready, O_CLOEXEC) == 0 && pipe2(go, O_CLOEXEC) == 0);
  pid_t pid = fork();
  if (pid == 0) {
    close(go[1]);
    byte = unshare(CLONE_NEWNET) == 0;
    if (write(ready[1], &byte, 1) == 1 && read(go[0], &byte, 1) >= 0) _exit(0);
    _exit(1);
  }
  ck_assert(pid > 0 && read(ready[0], &byte, 1) == 1 && byte);
  snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ck_assert_int_gt(fd, 0);
  int bad = run_ip(0, "link add n%d type veth peer name eth0 netns %d", host, pid);
  close(go[1]);
  waitpid(pid, NULL, 0);
  close(ready[0]), close(ready[1]), close(go[0]);
  ns_of[host] = fd;
  bad |= run_ip(0, "link set n%d master br0 up", host) | run_ip(host, "link set lo up") |
         run_ip(host, "addr add %s/24 dev eth0", net_address(host)) | run_ip(host, "link set eth0 up");
  ck_assert_msg(!bad, "the network of host %d could not be set up", host);
  return fd;
}

void net_pass(int from, int to, bool on) {
  const char *dev = from == NET_CLIENTS ? "br0" : "eth0", *who = net_address(to);
  int bad = on ? run_ip(from, "neigh del %s dev %s", who, dev)
               : run_ip(from, "neigh replace %s lladdr %s dev %s nud permanent", who, NOBODY, dev);
  ck_assert_msg(!bad, "what host %d sends to %d can't be %s", from, to, on ? "let through" : "cut");
}

void net_plug(int host, bool on) {
  ck_assert_msg(run_ip(0, "link set n%d %s", host, on ? "up" : "down") == 0, "the cable of host %d", host);
}
