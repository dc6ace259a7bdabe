/* Real daemons for tests: started by fork and exec on ports that are free, killed by their pid, talked to in RESP. */
#ifndef DW_TEST_DAEMONS_H
#define DW_TEST_DAEMONS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct daemon_proc {
  const char *exe;       /* dabbawal-primary or dabbawal-follower; found beside the test's own folder, or in $DW_BIN */
  char data[512], log[540];
  char flags[48][128];   /* kept for a restart, with the ports that were picked */
  int flag_count;
  char env[4][600];      /* NAME=VALUE for the daemon alone */
  int env_count;
  const char *host;      /* that it listens on; NULL: 127.0.0.1 */
  int netns;             /* descriptor of the network namespace that it lives in; 0: this process's own. Then it ends with the thread that
                          * started it, too */
  pid_t pid;
  int resp_port, listen_port, http_port;
  long log_from; /* where this start's lines begin */
};

/* Starts and waits for the "ready" line; later starts use the same ports. Fails the test (ck_abort) with the log's end if the daemon
 * does not come up within 30 s. */
void daemon_start(struct daemon_proc *);
/* daemon_start in two steps, for whoever wants to kill it before it is ready. */
void daemon_spawn(struct daemon_proc *);
void daemon_await_ready(struct daemon_proc *);
void daemon_add_flag(struct daemon_proc *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void daemon_add_env(struct daemon_proc *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void daemon_kill9(struct daemon_proc *);
/* All at once: every signal is sent before the first end is awaited. NULL and dead ones are skipped. */
void daemon_kill9_all(struct daemon_proc *const *, int n);
/* SIGTERM; returns the exit code. */
int daemon_stop(struct daemon_proc *);

/* A blocking RESP connection; -1 if it can't. */
int resp_connect(int port);
/* Elsewhere (NULL: loopback), with so much patience for the connection and for each answer. */
int resp_connect_to(const char *host, int port, unsigned patience_ms);
/* Sends one command line of words (no spaces within words); the reply's first line or bulk text. False: the connection broke. */
bool resp_ask(int fd, char *reply, size_t cap, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* One command on a connection of its own; "" if it failed. */
void resp_once(int port, char *reply, size_t cap, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* A number out of DW.STATUS; -1 if there is none. */
long long status_number(int port, const char *name);

#endif
