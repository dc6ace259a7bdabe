/* flags -> log -> signals -> engine -> front ends -> "ready" -> wait for a signal -> the same backwards.
 *
 * Signals. They are blocked before any thread is made, so only the signal thread ever takes them, by sigwait: there is
 * no handler and nothing async-signal-unsafe. The first SIGTERM or SIGINT asks the main thread to stop (if recovery is
 * still running, as soon as it is done); another one seconds later exits at once, which a log-structured engine
 * survives like any kill. Sooner it is the same wish: timeout(1) and others signal the process and its group.
 *
 * What goes wrong before "ready" is one line on stderr (and in the log file, if there is one) and an exit code.
 */
#include "replication/cmd/daemon.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "engine/identity.h"
#include "replication/cmd/failover_run.h"
#include "replication/cmd/http_server.h"
#include "replication/cmd/log.h"
#include "replication/cmd/net.h"
#include "replication/cmd/resp_server.h"
#include "replication/cmd/status_json.h"
#include "replication/cmd/text.h"
#include "wal/base/status.h"

struct daemon {
  enum daemon_kind kind;
  struct config c;
  struct logger *log;
  dw_engine *engine;
  struct resp_server *resp;
  struct http_server *http;
  struct failover_run *failover; /* NULL: no coordinator */
  char *audit_path, follow[FAILOVER_TEXT];
  int resp_bound; /* a socket that has --resp's port already; 0: none */
  char client_address[DW_ADDRESS_BYTES + 8];
  double started_s;
  bool pid_written;

  sigset_t signals;
  pthread_t signal_thread;
  pthread_mutex_t mu;
  pthread_cond_t wake;
  int signal; /* mu; the one that asked to stop, 0: none yet */
  bool over;  /* mu; the signal thread is to end */
};

int daemon_exit_code(int rc) {
  switch (rc) {
  case DW_OK: return EXIT_OK;
  case DW_INVALID: return EXIT_CONFIG;
  case DW_LOCKED: return EXIT_LOCKED;
  case DW_CORRUPT:
  case DW_DIVERGED:
  case DW_UNSUPPORTED: return EXIT_BAD_DATA;
  default: return EXIT_RUNTIME;
  }
}

/* One line, seen by whoever started us. */
static void say_failure(const struct daemon *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say_failure(const struct daemon *d, const char *fmt, ...) {
  char line[1500];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  text_printable(line);
  if (d->log) logger_line(d->log, DW_LOG_ERROR, "%s", line);
  if (!d->log || logger_to_file(d->log)) fprintf(stderr, "%s: %s\n", config_program(d->kind), line);
}

/* ---- signals ----------------------------------------------------------------------------------- */

#define IMPATIENT_S 1

static void *signal_main(void *arg) {
  struct daemon *d = arg;
  struct timespec first = {0}, now;
  for (int sig; sigwait(&d->signals, &sig) == 0;) {
    pthread_mutex_lock(&d->mu);
    bool again = d->signal != 0, over = d->over;
    if (sig == SIGHUP || over) {
      pthread_mutex_unlock(&d->mu);
      if (over) break;
      logger_reopen(d->log);
      continue;
    }
    d->signal = sig;
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->mu);
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!again) first = now;
    if (again && now.tv_sec - first.tv_sec > IMPATIENT_S) {
      logger_line(d->log, DW_LOG_WARN, "%s again: exit at once", strsignal(sig));
      _exit(EXIT_RUNTIME);
    }
  }
  return NULL;
}

static int start_signals(struct daemon *d) {
  signal(SIGPIPE, SIG_IGN);
  sigemptyset(&d->signals);
  sigaddset(&d->signals, SIGTERM);
  sigaddset(&d->signals, SIGINT);
  sigaddset(&d->signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &d->signals, NULL);
  pthread_mutex_init(&d->mu, NULL);
  pthread_cond_init(&d->wake, NULL);
  int err = pthread_create(&d->signal_thread, NULL, signal_main, d);
  return err ? dw_fail_errno(err, "can't start a thread") : DW_OK;
}

static void stop_signals(struct daemon *d) {
  pthread_mutex_lock(&d->mu);
  d->over = true;
  pthread_mutex_unlock(&d->mu);
  pthread_kill(d->signal_thread, SIGHUP);
  pthread_join(d->signal_thread, NULL);
}

static int wait_for_signal(struct daemon *d) {
  pthread_mutex_lock(&d->mu);
  while (!d->signal) pthread_cond_wait(&d->wake, &d->mu);
  int sig = d->signal;
  pthread_mutex_unlock(&d->mu);
  return sig;
}

/* ---- starting ---------------------------------------------------------------------------------- */

/* The store's files and all connections share one limit. */
static void raise_file_limit(const struct daemon *d) {
  struct rlimit r;
  if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur == r.rlim_max) return;
  r.rlim_cur = r.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &r) != 0)
    logger_line(d->log, DW_LOG_WARN, "can't raise the limit of open files: %s", strerror(errno));
}

/* Was it this address that the engine could not get? Asked only after it failed, for the exit code. */
static bool cannot_bind(const char *address) {
  struct addrinfo *found = NULL;
  int one = 1;
  if (!address) return false;
  if (net_resolve(address, true, &found) != DW_OK) return true;
  int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  bool failed = fd >= 0 && (bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, 1));
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  return failed;
}

/* What other nodes tell clients: --client-address, else --resp. With port 0 that is known once it is bound, so it is
 * bound here; nobody gets through before the engine is open. A wildcard stays one: others put in the host that they see
 * us from. */
static int find_client_address(struct daemon *d) {
  unsigned port = 0;
  if (d->c.client_address || !d->c.resp) return EXIT_OK;
  const char *colon = strrchr(d->c.resp, ':');
  int n = (int)(colon - d->c.resp);
  if (strspn(colon + 1, "0") != strlen(colon + 1)) {
    d->c.engine.client_address = d->c.resp;
    return EXIT_OK;
  }
  int rc = net_bind(d->c.resp, &d->resp_bound, &port);
  if (rc) {
    say_failure(d, "%s: %s", dw_rc_name(rc), dw_last_error());
    return rc == DW_IO ? EXIT_BIND : daemon_exit_code(rc);
  }
  snprintf(d->client_address, sizeof d->client_address, "%.*s:%u", n, d->c.resp, port);
  d->c.engine.client_address = d->client_address;
  return EXIT_OK;
}

/* ---- automatic failover -------------------------------------------------------------------------- */

static bool asked_to_stop(void *arg) {
  struct daemon *d = arg;
  pthread_mutex_lock(&d->mu);
  bool stop = d->signal != 0;
  pthread_mutex_unlock(&d->mu);
  return stop;
}

static uint32_t count_addresses(const char *list) {
  uint32_t n = 1;
  for (; *list; list++) n += *list == ',';
  return n;
}

static char *in_data(const struct daemon *d, const char *name) {
  size_t n = strlen(d->c.data) + strlen(name) + 2;
  char *path = malloc(n);
  if (path) snprintf(path, n, "%s/%s", d->c.data, name);
  return path;
}

static int start_failover(struct daemon *d) {
  const struct config *c = &d->c;
  const struct config_failover *f = &c->failover;
  struct node_file node = {0};
  int found = node_file_load(env_posix(), c->data, &node); /* what is wrong with it, opening the engine will say */
  d->audit_path = in_data(d, "audit.log");
  struct failover_run_options o = {.url = c->coordinator,
                                   .cluster = c->cluster_name,
                                   .audit_path = d->audit_path,
                                   .has_data = found != DW_NOT_FOUND,
                                   .own_epoch = node.own_epoch,
                                   .max_lag_ms = f->max_lag_ms,
                                   .log = logger_engine,
                                   .log_arg = d->log};
  o.machine = (struct failover_options){.node_id = c->engine.node_id,
                                        .region = c->region ? c->region : "",
                                        .preferred_region = c->preferred_region ? c->preferred_region : "",
                                        .address = c->advertise ? c->advertise : c->listen,
                                        .client_address = c->engine.client_address ? c->engine.client_address : "",
                                        .priority = c->engine.priority,
                                        .nodes = count_addresses(c->peers) + 1,
                                        .acks = c->engine.acks,
                                        .first = d->kind == DAEMON_PRIMARY,
                                        .keep = f->keep != 0,
                                        .early = f->early != 0,
                                        .ttl_ns = f->lease_ttl_ms * 1000000,
                                        .renew_ns = f->renew_ms * 1000000,
                                        .poll_ns = f->poll_ms * 1000000,
                                        .candidate_wait_ns = f->candidate_wait_ms * 1000000,
                                        .cooldown_ns = f->cooldown_ms * 1000000,
                                        .missed_renewals = f->missed_renewals,
                                        .max_per_hour = f->max_per_hour};
  int rc = d->audit_path ? failover_run_start(&o, &d->failover) : dw_fail_nomem(0);
  return rc;
}

/* Whether this node is primary is the lease's question, so the engine waits for an answer. */
static int await_role(struct daemon *d) {
  int rc = start_failover(d);
  if (rc) {
    say_failure(d, "coordinator: %s", dw_last_error());
    return daemon_exit_code(rc);
  }
  logger_line(d->log, DW_LOG_INFO, "coordinator %s: waiting for a role in cluster %s", d->c.coordinator,
              d->c.cluster_name);
  if (!failover_run_role(d->failover, asked_to_stop, d, &d->c.engine.role, d->follow))
    return EXIT_RUNTIME; /* not ready yet */
  d->c.engine.stay_follower = 1;
  d->c.engine.primary = d->c.engine.role == DW_FOLLOWER && d->follow[0] ? d->follow : NULL;
  return EXIT_OK;
}

static int open_engine(struct daemon *d) {
  d->c.engine.log = logger_engine;
  d->c.engine.log_arg = d->log;
  if (d->c.coordinator) {
    int code = await_role(d);
    if (code) return code;
  }
  int rc = dw_open(d->c.data, &d->c.engine, &d->engine);
  if (d->failover) failover_run_attach(d->failover, d->engine, rc, rc ? dw_last_error() : "");
  if (rc == DW_OK) return EXIT_OK;
  say_failure(d, "%s: %s", dw_rc_name(rc), dw_last_error());
  return rc == DW_IO && cannot_bind(d->c.listen) ? EXIT_BIND : daemon_exit_code(rc);
}

static int collect(void *arg, struct node_view *v) {
  struct daemon *d = arg;
  v->start_time_s = d->started_s;
  v->has_resp = d->resp != NULL;
  if (d->resp) resp_server_metrics(d->resp, &v->resp);
  int rc = status_epochs_get(d->engine, &v->epochs);
  v->has_failover = d->failover != NULL;
  if (d->failover) failover_run_report(d->failover, &v->failover);
  return rc ? rc : dw_status_get(d->engine, &v->status);
}

static void report_failover(void *arg, struct failover_report *r) {
  failover_run_report(arg, r);
}

static int open_front_ends(struct daemon *d) {
  int rc = DW_OK;
  if (d->c.resp) {
    struct resp_options ro = {.listen = d->c.resp,
                              .bound = d->resp_bound,
                              .cluster_name = d->c.cluster_name,
                              .max_staleness_ms = d->c.max_staleness_ms,
                              .max_clients = d->c.max_clients,
                              .threads = d->c.resp_threads,
                              .log = logger_engine,
                              .log_arg = d->log,
                              .failover = d->failover ? report_failover : NULL,
                              .failover_arg = d->failover};
    rc = resp_server_start(d->engine, &ro, &d->resp);
    if (rc == DW_OK && d->failover) failover_run_front(d->failover, d->resp);
  }
  if (rc == DW_OK && d->c.http) {
    struct http_options ho = {
        .listen = d->c.http, .collect = collect, .arg = d, .max_staleness_ms = d->c.max_staleness_ms};
    rc = http_server_start(&ho, &d->http);
  }
  if (rc == DW_OK) return EXIT_OK;
  say_failure(d, "%s: %s", dw_rc_name(rc), dw_last_error());
  return rc == DW_IO ? EXIT_BIND : daemon_exit_code(rc);
}

static int write_pid(struct daemon *d) {
  if (!d->c.pid_file) return EXIT_OK;
  FILE *f = fopen(d->c.pid_file, "we");
  bool done = f && fprintf(f, "%ld\n", (long)getpid()) > 0;
  if (f && fclose(f) != 0) done = false;
  d->pid_written = f != NULL;
  if (done) return EXIT_OK;
  say_failure(d, "can't write the pid file %s: %s", d->c.pid_file, strerror(errno));
  return EXIT_CONFIG;
}

/* "127.0.0.1:7400", with the port that was really bound; "-" if there is none. */
static void actual(char *dst, size_t cap, const char *address, unsigned port) {
  if (address)
    snprintf(dst, cap, "%.*s:%u", (int)(strrchr(address, ':') - address), address, port);
  else
    snprintf(dst, cap, "-");
}

static void say_ready(struct daemon *d) {
  char listen[DW_ADDRESS_BYTES + 8], resp[DW_ADDRESS_BYTES + 8], http[DW_ADDRESS_BYTES + 8];
  dw_status *s = calloc(1, sizeof *s);
  if (s && dw_status_get(d->engine, s) == DW_OK) {
    actual(listen, sizeof listen, d->c.listen, s->listen_port);
    actual(resp, sizeof resp, d->c.resp, d->resp ? resp_server_port(d->resp) : 0);
    actual(http, sizeof http, d->c.http, d->http ? http_server_port(d->http) : 0);
    logger_line(d->log, DW_LOG_INFO, "ready role=%s listen=%s resp=%s http=%s node_id=%llu data=%s pid=%ld version=%s",
                status_role(s->role), listen, resp, http, (unsigned long long)s->node_id, d->c.data, (long)getpid(),
                dw_version());
  }
  free(s);
}

/* ---- the whole --------------------------------------------------------------------------------- */

static int close_all(struct daemon *d, int code) {
  if (d->failover) failover_run_stop(d->failover); /* first: others may go on at once */
  if (d->failover) failover_run_front(d->failover, NULL);
  http_server_stop(d->http);
  if (d->engine) dw_stop(d->engine); /* nobody's patience with followers holds up the end */
  if (d->resp) resp_server_stop(d->resp);
  int rc = d->engine ? dw_close(d->engine) : DW_OK;
  if (rc) {
    say_failure(d, "while closing: %s: %s", dw_rc_name(rc), dw_last_error());
    if (code == EXIT_OK) code = daemon_exit_code(rc);
  }
  failover_run_free(d->failover);
  free(d->audit_path);
  if (d->pid_written) unlink(d->c.pid_file);
  return code;
}

static int run(struct daemon *d) {
  int code = find_client_address(d);
  if (code == EXIT_OK) code = open_engine(d);
  if (code == EXIT_OK) code = open_front_ends(d);
  if (code == EXIT_OK) code = write_pid(d);
  if (code == EXIT_OK) {
    say_ready(d);
    int sig = wait_for_signal(d);
    logger_line(d->log, DW_LOG_INFO, "stopping: %s", strsignal(sig));
  }
  code = close_all(d, code);
  if (code == EXIT_OK) logger_line(d->log, DW_LOG_INFO, "stopped");
  return code;
}

/* The lines come as "text\n" each; every one gets the program's name. */
static void print_errors(enum daemon_kind kind, const struct buf *errors) {
  for (size_t at = 0; at < errors->len;) {
    const char *line = (const char *)errors->data + at, *end = memchr(line, '\n', errors->len - at);
    size_t n = end ? (size_t)(end - line) : errors->len - at;
    fprintf(stderr, "%s: %.*s\n", config_program(kind), (int)n, line);
    at += n + 1;
  }
}

int daemon_main(enum daemon_kind kind, int argc, char **argv) {
  struct daemon d = {.kind = kind};
  struct buf errors = {0};
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  d.started_s = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
  int rc = config_load(&d.c, kind, argc, argv, &errors), code = EXIT_OK;
  if (rc == DW_INVALID) {
    print_errors(kind, &errors);
    code = EXIT_CONFIG;
  } else if (rc) {
    say_failure(&d, "%s", dw_last_error());
    code = EXIT_RUNTIME;
  } else if (d.c.help) {
    config_help(stdout, kind);
  } else if (d.c.version) {
    printf("%s %s\n", config_program(kind), dw_version());
  } else if (logger_open(d.c.log_file, (dw_log_level)d.c.log_level, &d.log) != DW_OK) {
    say_failure(&d, "%s", dw_last_error());
    code = EXIT_CONFIG;
  } else if (start_signals(&d) != DW_OK) {
    say_failure(&d, "%s", dw_last_error());
    code = EXIT_RUNTIME;
  } else {
    raise_file_limit(&d);
    code = run(&d);
    stop_signals(&d);
  }
  logger_close(d.log);
  buf_free(&errors);
  config_free(&d.c);
  return code;
}
