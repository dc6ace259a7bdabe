#include "tests/support/etcd_proc.h"

#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/daemons.h"
#include "tests/support/ports.h"

static int healthy(const struct etcd_proc *e) {
  static const char ask[] = "GET /health HTTP/1.0\r\n\r\n";
  char answer[2000];
  size_t n = 0;
  int fd = resp_connect_to(e->host, e->client_port, 5000);
  if (fd < 0) return 0;
  if (send(fd, ask, sizeof ask - 1, MSG_NOSIGNAL) == (ssize_t)sizeof ask - 1)
    for (ssize_t got; n < sizeof answer - 1 && (got = recv(fd, answer + n, sizeof answer - 1 - n, 0)) > 0;)
      n += (size_t)got;
  answer[n] = 0;
  close(fd);
  return strstr(answer, "\"health\":\"true\"") != NULL;
}

void etcd_start(struct etcd_proc *e, const char *dir) {
  const char *host = e->host ? e->host : "127.0.0.1";
  char data[600], client[64], peer[64], cluster[80];
  if (!e->client_port) {
    e->client_port = test_pick_port();
    e->peer_port = test_pick_port();
  }
  snprintf(e->dir, sizeof e->dir, "%s", dir);
  snprintf(e->log, sizeof e->log, "%s/etcd.log", dir);
  snprintf(data, sizeof data, "%s/etcd", dir);
  snprintf(client, sizeof client, "http://%s:%d", host, e->client_port);
  snprintf(peer, sizeof peer, "http://%s:%d", host, e->peer_port);
  snprintf(cluster, sizeof cluster, "e=%s", peer);
  /* Without syncs: what is tested is not whether etcd survives a power cut, and a lease must not run out because the
   * disk is busy with the daemons' own syncs. */
  char *argv[] = {"etcd",
                  "--unsafe-no-fsync",
                  "--name",
                  "e",
                  "--data-dir",
                  data,
                  "--listen-client-urls",
                  client,
                  "--advertise-client-urls",
                  client,
                  "--listen-peer-urls",
                  peer,
                  "--initial-advertise-peer-urls",
                  peer,
                  "--initial-cluster",
                  cluster,
                  NULL};
  e->pid = fork();
  if (e->pid == 0) {
    int fd = open(e->log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    dup2(fd, 1);
    dup2(fd, 2);
    if (e->netns && (setns(e->netns, CLONE_NEWNET) || prctl(PR_SET_PDEATHSIG, SIGKILL))) _exit(127);
    execvp("etcd", argv);
    _exit(127);
  }
  for (int i = 0; i < 3000 && !healthy(e); i++) {
    ck_assert_msg(waitpid(e->pid, NULL, WNOHANG) == 0, "etcd ended at once: is etcd-server installed? See %s", e->log);
    poll(NULL, 0, 10);
  }
  ck_assert_msg(healthy(e), "etcd did not become healthy: %s", e->log);
}

void etcd_kill9(struct etcd_proc *e) {
  if (e->pid <= 0) return;
  kill(e->pid, SIGKILL);
  waitpid(e->pid, NULL, 0);
  e->pid = 0;
}

void etcd_pause(struct etcd_proc *e, int on) {
  int status;
  if (e->pid <= 0) return;
  kill(e->pid, on ? SIGSTOP : SIGCONT);
  if (on) waitpid(e->pid, &status, WUNTRACED); /* its threads stop one by one */
}
