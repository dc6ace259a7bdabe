/* Start order: engine (recovers, binds --listen), RESP, HTTP; stop order: the reverse. Signals are taken by the main thread alone
 * (sigwait), so no handler ever runs. */
#include "replication/cmd/daemon.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "replication/cmd/config.h"
#include "replication/cmd/http_server.h"
#include "replication/cmd/log.h"
#include "replication/cmd/resp_server.h"

struct daemon {
  struct config config;
  dw_engine *engine;
  struct resp_server *resp;
  struct http_server *http;
};

static int exit_code(int rc, bool binding) {
  switch (rc) {
  case DW_OK: return EXIT_OK;
  case DW_INVALID: return EXIT_USAGE;
  case DW_LOCKED: return EXIT_LOCKED;
  case DW_CORRUPT:
  case DW_DIVERGED:
  case DW_UNSUPPORTED: return EXIT_DATA;
  default: return binding || strstr(dw_last_error(), "listen on") ? EXIT_ADDRESS : EXIT_RUNTIME;
  }
}

static int failed(const char *what, int rc, bool binding) {
  int code = exit_code(rc, binding);
  log_printf(DW_LOG_ERROR, "%s: %s: %s", what, dw_rc_name(rc), dw_last_error());
  return code;
}

static void raise_file_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

static int start(struct daemon *d) {
  struct config *c = &d->config;
  c->engine.log = log_line;
  int rc = dw_open(c->data, &c->engine, &d->engine);
  if (rc) return failed(c->data, rc, false);
  if (c->resp) {
    struct resp_options opt = {.listen = c->resp,
                               .max_staleness_ms = c->max_staleness_ms,
                               .max_clients = (uint32_t)c->max_clients,
                               .log = log_line};
    rc = resp_server_start(d->engine, &opt, &d->resp);
    if (rc) return failed("--resp", rc, rc == DW_IO);
  }
  if (c->http) {
    struct http_options opt = {.listen = c->http, .max_staleness_ms = c->max_staleness_ms, .resp = d->resp};
    rc = http_server_start(d->engine, &opt, &d->http);
    if (rc) return failed("--http", rc, rc == DW_IO);
  }
  return EXIT_OK;
}

/* "127.0.0.1:0" and the port that it became. */
static void add_address(char *line, size_t cap, const char *name, const char *asked, unsigned port) {
  if (!asked) return;
  const char *colon = strrchr(asked, ':');
  size_t at = strlen(line);
  snprintf(line + at, cap - at, " %s=%.*s:%u", name, (int)(colon - asked), asked, port);
}

static void say_ready(const struct daemon *d) {
  static const char *const roles[] = {"primary", "follower"};
  dw_status s;
  dw_status_get(d->engine, &s);
  char line[1000] = "";
  add_address(line, sizeof line, "listen", d->config.engine.listen, s.listen_port);
  add_address(line, sizeof line, "resp", d->config.resp, d->resp ? resp_server_port(d->resp) : 0);
  add_address(line, sizeof line, "http", d->config.http, d->http ? http_server_port(d->http) : 0);
  log_printf(DW_LOG_INFO, "ready role=%s node=%llu epoch=%llu lsn=%llu data=%s%s", roles[s.role],
             (unsigned long long)s.node_id, (unsigned long long)s.epoch, (unsigned long long)s.applied_lsn, d->config.data, line);
}

static int stop(struct daemon *d) {
  http_server_stop(d->http);
  resp_server_stop(d->resp);
  int rc = d->engine ? dw_close(d->engine) : DW_OK;
  return rc ? failed("closing", rc, false) : EXIT_OK;
}

/* Waits for SIGTERM or SIGINT. */
static void wait_for_signal(const sigset_t *signals) {
  for (;;) {
    int sig = 0;
    if (sigwait(signals, &sig)) continue;
    if (sig == SIGHUP) {
      log_reopen();
      continue;
    }
    log_printf(DW_LOG_INFO, "%s: stopping", strsignal(sig));
    return;
  }
}

int daemon_main(dw_role role, int argc, char **argv) {
  struct daemon d = {0};
  int wrong = config_read(&d.config, role, argc, argv, stderr);
  int code = EXIT_OK;
  if (wrong) {
    code = EXIT_USAGE;
  } else if (d.config.help) {
    config_help(stdout, role);
  } else if (d.config.version) {
    printf("dabbawal %s\n", dw_version());
  } else if (log_open(d.config.log_file, d.config.log_level)) {
    fprintf(stderr, "%s: --log-file: %s: %s\n", argv[0], d.config.log_file, strerror(errno));
    code = EXIT_USAGE;
  } else {
    sigset_t signals, second;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* threads inherit it */
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    code = start(&d);
    if (code == EXIT_OK) {
      say_ready(&d);
      wait_for_signal(&signals);
    }
    /* A second SIGTERM or SIGINT ends the process at once. */
    sigemptyset(&second);
    sigaddset(&second, SIGTERM);
    sigaddset(&second, SIGINT);
    pthread_sigmask(SIG_UNBLOCK, &second, NULL);
    int closed = stop(&d);
    if (code == EXIT_OK) code = closed;
    if (code == EXIT_OK) log_printf(DW_LOG_INFO, "stopped");
    log_close();
  }
  config_free(&d.config);
  return code;
}
