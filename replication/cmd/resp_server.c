/* The RESP server: start, stop, the listener and who gets a new connection, metrics. resp_internal.h has the rules.
 *
 * The first loop has the listener. A new connection goes to the loop that has fewest, as a socket: libuv's handles
 * belong to their loop.
 */
#include "replication/cmd/resp_internal.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "replication/cmd/net.h"
#include "wal/base/env.h"
#include "wal/base/status.h"

uint64_t server_now_ns(void) {
  return env_posix()->ops->mono_ns(env_posix());
}

void server_log(const struct resp_server *s, dw_log_level level, const char *fmt, ...) {
  if (!s->opt.log) return;
  char line[400];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  s->opt.log(s->opt.log_arg, level, line);
}

/* ---- the listener -------------------------------------------------------------------------------- */

static struct resp_loop *idlest(struct resp_server *s) {
  struct resp_loop *best = s->loops[0];
  for (unsigned i = 1; i < s->loop_count; i++)
    if (atomic_load(&s->loops[i]->load) < atomic_load(&best->load)) best = s->loops[i];
  return best;
}

static void on_passed_on(uv_handle_t *h) {
  free(h);
}

/* libuv lets only a handle of the listener's own loop accept; that one is closed when its socket has a second name. */
static void pass_on(struct resp_server *s, struct resp_loop *to) {
  uv_tcp_t *tcp = malloc(sizeof *tcp);
  if (!tcp) { /* libuv keeps the connection waiting */
    atomic_fetch_sub(&to->load, 1);
    return;
  }
  uv_os_fd_t fd;
  int copy = -1;
  uv_tcp_init(&s->loops[0]->uv, tcp);
  if (uv_accept((uv_stream_t *)&s->listener, (uv_stream_t *)tcp) == 0 && uv_fileno((uv_handle_t *)tcp, &fd) == 0)
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  uv_close((uv_handle_t *)tcp, on_passed_on);
  if (copy < 0)
    atomic_fetch_sub(&to->load, 1);
  else
    loop_hand_over(to, copy);
}

static void on_connection(uv_stream_t *listener, int status) {
  struct resp_server *s = listener->data;
  if (status) return;
  struct resp_loop *to = idlest(s);
  atomic_fetch_add(&to->load, 1);
  if (to == s->loops[0])
    conn_accept(to, listener);
  else
    pass_on(s, to);
}

static int bind_listener(struct resp_server *s, const char *text) {
  struct addrinfo *found = NULL;
  int rc = net_resolve(text, true, &found);
  if (rc) return rc;
  int err = s->opt.bound ? uv_tcp_open(&s->listener, s->opt.bound) : uv_tcp_bind(&s->listener, found->ai_addr, 0);
  s->opt.bound = 0;
  if (!err) err = uv_listen((uv_stream_t *)&s->listener, 511, on_connection);
  freeaddrinfo(found);
  if (err) return dw_fail(DW_IO, "RESP: can't listen on %s: %s", text, uv_strerror(err));
  struct sockaddr_storage bound;
  int len = sizeof bound;
  uv_tcp_getsockname(&s->listener, (struct sockaddr *)&bound, &len);
  s->port = (uint16_t)net_port((struct sockaddr *)&bound);
  return DW_OK;
}

/* ---- start and stop ------------------------------------------------------------------------------ */

/* One for each processor, but of a machine that does other things, too, not many. */
static unsigned default_threads(void) {
  long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n < 1 ? 1 : n > 2 ? 2 : (unsigned)n;
}

static int init_identity(struct resp_server *s) {
  uint8_t noise[20];
  int rc = env_posix()->ops->random(env_posix(), noise, sizeof noise);
  for (size_t i = 0; i < sizeof noise; i++) snprintf(s->run_id + 2 * i, 3, "%02x", noise[i]);
  memcpy(&s->cursors.next, noise, 4); /* cursors of an earlier run are not taken for ours */
  return rc;
}

static struct resp_server *server_create(dw_engine *e, const struct resp_options *opt) {
  struct resp_server *s = calloc(1, sizeof *s);
  if (!s) return NULL;
  s->e = e;
  s->opt = *opt;
  if (!s->opt.max_clients) s->opt.max_clients = 10000;
  if (!s->opt.watch_ms) s->opt.watch_ms = 100;
  if (!s->opt.threads) s->opt.threads = default_threads();
  if (s->opt.threads > RESP_MAX_THREADS) s->opt.threads = RESP_MAX_THREADS;
  if (s->opt.max_staleness_ms == UINT64_MAX) s->opt.max_staleness_ms = 0;
  snprintf(s->cluster_name, sizeof s->cluster_name, "%s", opt->cluster_name ? opt->cluster_name : "dabbawal");
  s->started_ns = server_now_ns();
  turnstile_init(&s->turnstile);
  pthread_mutex_init(&s->clients.mu, NULL);
  pthread_mutex_init(&s->cursors.mu, NULL);
  return s;
}

/* Whatever of it there is. Loops are told first, all of them: one may wait for what another one has. */
static void server_end(struct resp_server *s) {
  atomic_store(&s->stop, true);
  for (unsigned i = 0; i < s->loop_count; i++) uv_async_send(&s->loops[i]->wake);
  for (unsigned i = 0; i < s->loop_count; i++) loop_end(s->loops[i]);
  work_pool_stop(s);
  for (unsigned i = 0; i < s->loop_count; i++) loop_free(s->loops[i]);
  scan_cursors_free(&s->cursors);
  pthread_mutex_destroy(&s->cursors.mu);
  pthread_mutex_destroy(&s->clients.mu);
  pthread_mutex_destroy(&s->turnstile.mu);
  if (s->opt.bound) close(s->opt.bound);
  free(s);
}

static int start_all(struct resp_server *s) {
  int rc = init_identity(s);
  if (rc == DW_OK) rc = work_pool_start(s);
  while (rc == DW_OK && s->loop_count < s->opt.threads) {
    rc = loop_create(s, &s->loops[s->loop_count]);
    if (rc == DW_OK) s->loop_count++;
    if (rc == DW_OK && s->loop_count == 1) {
      uv_tcp_init(&s->loops[0]->uv, &s->listener);
      s->listener.data = s;
    }
  }
  if (rc == DW_OK) rc = bind_listener(s, s->opt.listen);
  for (unsigned i = s->loop_count; rc == DW_OK && i-- > 0;) rc = loop_start(s->loops[i]); /* the listener's last */
  return rc;
}

int resp_server_start(dw_engine *e, const struct resp_options *opt, struct resp_server **out) {
  struct resp_server *s = server_create(e, opt);
  if (!s) {
    if (opt->bound) close(opt->bound);
    return dw_fail_nomem(sizeof *s);
  }
  int rc = start_all(s);
  if (rc) {
    char why[400];
    dw_error_copy(why, sizeof why);
    server_end(s);
    return dw_fail(rc, "%s", why);
  }
  *out = s;
  return DW_OK;
}

uint16_t resp_server_port(const struct resp_server *s) {
  return s->port;
}

void resp_server_stop(struct resp_server *s) {
  if (s) server_end(s);
}

void resp_server_restrict(struct resp_server *s, uint32_t acks) {
  atomic_store(&s->restrict_acks, acks);
}

/* ---- metrics ------------------------------------------------------------------------------------- */

static void add_counts(struct resp_metrics *m, const struct resp_loop *l, uint64_t calls[COMMANDS_MAX]) {
  const struct loop_counts *k = &l->counts;
  m->errors_total += atomic_load_explicit(&k->errors, memory_order_relaxed);
  m->reads_total += atomic_load_explicit(&k->reads, memory_order_relaxed);
  m->writes_total += atomic_load_explicit(&k->writes, memory_order_relaxed);
  m->stale_total += atomic_load_explicit(&k->stale, memory_order_relaxed);
  m->indoubt_total += atomic_load_explicit(&k->indoubt, memory_order_relaxed);
  m->commands_total += atomic_load_explicit(&k->unknown, memory_order_relaxed);
  for (size_t i = 0; i < resp_command_count; i++) calls[i] += atomic_load_explicit(&k->calls[i], memory_order_relaxed);
}

void resp_server_metrics(struct resp_server *s, struct resp_metrics *m) {
  uint64_t calls[COMMANDS_MAX] = {0};
  *m = (struct resp_metrics){.threads = s->loop_count};
  pthread_mutex_lock(&s->clients.mu);
  m->connections = s->clients.count;
  m->connections_total = s->clients.total;
  m->rejected_total = s->clients.rejected;
  pthread_mutex_unlock(&s->clients.mu);
  for (unsigned i = 0; i < s->loop_count; i++) {
    m->thread_connections[i] = atomic_load(&s->loops[i]->load);
    add_counts(m, s->loops[i], calls);
  }
  for (size_t i = 0; i < resp_command_count; i++) {
    m->commands_total += calls[i];
    if (!calls[i]) continue;
    m->by_command[m->command_count].name = resp_commands[i].name;
    m->by_command[m->command_count++].calls = calls[i];
  }
}
