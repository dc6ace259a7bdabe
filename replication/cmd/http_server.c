/* HTTP endpoints over libmicrohttpd's own polling thread. Every answer is made from one dw_status. */
#include "replication/cmd/http_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/metrics.h"
#include "replication/cmd/net.h"
#include "replication/cmd/status_json.h"
#include "wal/base/status.h"

struct http_server {
  dw_engine *e;
  struct http_options opt;
  struct MHD_Daemon *daemon;
  uint16_t port;
};

struct answer {
  unsigned code;
  const char *type;
  struct buf body;
};

static void say(struct answer *a, unsigned code, const char *text) {
  a->code = code;
  a->type = "text/plain; charset=utf-8";
  if (buf_append(&a->body, text, strlen(text))) a->code = MHD_HTTP_INTERNAL_SERVER_ERROR;
}

static void health(const dw_status *s, struct answer *a) {
  char text[400];
  snprintf(text, sizeof text, "failed: %s\n", s->error);
  say(a, s->failed ? MHD_HTTP_SERVICE_UNAVAILABLE : MHD_HTTP_OK, s->failed ? text : "ok\n");
}

/* A primary that works is ready; a follower once its data is known to be within its bound. */
static void ready(const struct http_server *h, const dw_status *s, struct answer *a) {
  char text[200];
  bool follower = s->role == DW_FOLLOWER, unknown = s->staleness_ms == UINT64_MAX;
  bool stale = follower && (unknown || (h->opt.max_staleness_ms && s->staleness_ms > h->opt.max_staleness_ms));
  if (s->failed) {
    health(s, a);
    return;
  }
  if (unknown)
    snprintf(text, sizeof text, "not ready: staleness_ms=unknown bound_ms=%llu\n", (unsigned long long)h->opt.max_staleness_ms);
  else
    snprintf(text, sizeof text, "%s: staleness_ms=%llu bound_ms=%llu\n", stale ? "not ready" : "ready",
             (unsigned long long)s->staleness_ms, (unsigned long long)h->opt.max_staleness_ms);
  say(a, stale ? MHD_HTTP_SERVICE_UNAVAILABLE : MHD_HTTP_OK, text);
}

static void json(const dw_status *s, struct answer *a) {
  size_t n;
  char *text = status_json(s, &n);
  a->code = text && buf_append(&a->body, text, n) == DW_OK && buf_append(&a->body, "\n", 1) == DW_OK
                ? MHD_HTTP_OK
                : MHD_HTTP_INTERNAL_SERVER_ERROR;
  a->type = "application/json";
  free(text);
}

static void metrics(const struct http_server *h, const dw_status *s, struct answer *a) {
  struct resp_metrics m;
  if (h->opt.resp) resp_server_metrics(h->opt.resp, &m);
  a->code = metrics_text(s, h->opt.resp ? &m : NULL, &a->body) == DW_OK ? MHD_HTTP_OK : MHD_HTTP_INTERNAL_SERVER_ERROR;
  a->type = "text/plain; version=0.0.4; charset=utf-8";
}

static void route(const struct http_server *h, const char *url, struct answer *a) {
  dw_status *s = malloc(sizeof *s);
  if (!s || dw_status_get(h->e, s)) {
    say(a, MHD_HTTP_INTERNAL_SERVER_ERROR, "no memory\n");
  } else if (strcmp(url, "/metrics") == 0) {
    metrics(h, s, a);
  } else if (strcmp(url, "/healthz") == 0) {
    health(s, a);
  } else if (strcmp(url, "/readyz") == 0) {
    ready(h, s, a);
  } else if (strcmp(url, "/status") == 0) {
    json(s, a);
  } else if (strcmp(url, "/") == 0) {
    say(a, MHD_HTTP_OK, "dabbawal\n/metrics  Prometheus\n/healthz  200 while the node works\n"
                        "/readyz   200 while reads are within the bound\n/status   JSON\n");
  } else {
    say(a, MHD_HTTP_NOT_FOUND, "not found\n");
  }
  free(s);
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
                              const char *version, const char *upload, size_t *upload_size, void **state) {
  static int seen;
  struct http_server *h = cls;
  (void)version, (void)upload;
  if (!*state) { /* headers only so far */
    *state = &seen;
    return MHD_YES;
  }
  if (*upload_size) { /* a body is of no interest */
    *upload_size = 0;
    return MHD_YES;
  }
  struct answer a = {0};
  bool get = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
  if (get)
    route(h, url, &a);
  else
    say(&a, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
  struct MHD_Response *r = MHD_create_response_from_buffer(a.body.len, a.body.data, MHD_RESPMEM_MUST_COPY);
  buf_free(&a.body);
  if (!r) return MHD_NO;
  if (a.type) MHD_add_response_header(r, "Content-Type", a.type);
  if (!get) MHD_add_response_header(r, "Allow", "GET, HEAD");
  MHD_add_response_header(r, "Cache-Control", "no-store");
  enum MHD_Result sent = MHD_queue_response(conn, a.code, r);
  MHD_destroy_response(r);
  return sent;
}

/* libmicrohttpd writes its complaints to stderr by default; a peer's broken request is not worth a line. */
static void quiet(void *cls, const char *fmt, va_list ap) { (void)cls, (void)fmt, (void)ap; }

int http_server_start(dw_engine *e, const struct http_options *opt, struct http_server **out) {
  struct addrinfo *found = NULL;
  int rc = net_resolve(opt->listen, true, &found);
  if (rc) return rc;
  struct http_server *h = calloc(1, sizeof *h);
  if (!h) {
    freeaddrinfo(found);
    return dw_fail_nomem(sizeof *h);
  }
  h->e = e;
  h->opt = *opt;
  unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO | MHD_USE_ERROR_LOG;
  if (found->ai_family == AF_INET6) flags |= MHD_USE_IPv6;
  errno = 0;
  h->daemon = MHD_start_daemon(flags, 0, NULL, NULL, handle, h, MHD_OPTION_EXTERNAL_LOGGER, quiet, NULL, MHD_OPTION_SOCK_ADDR,
                               found->ai_addr, MHD_OPTION_CONNECTION_LIMIT, 256u, MHD_OPTION_CONNECTION_TIMEOUT, 15u,
                               MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)32768, MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u,
                               MHD_OPTION_END);
  int err = errno;
  freeaddrinfo(found);
  if (!h->daemon) {
    free(h);
    return dw_fail(DW_IO, "HTTP: can't listen on %s: %s", opt->listen, strerror(err ? err : EADDRINUSE));
  }
  const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_LISTEN_FD);
  struct sockaddr_storage bound;
  socklen_t len = sizeof bound;
  if (info && getsockname(info->listen_fd, (struct sockaddr *)&bound, &len) == 0)
    h->port = (uint16_t)net_port((struct sockaddr *)&bound);
  *out = h;
  return DW_OK;
}

uint16_t http_server_port(const struct http_server *h) { return h->port; }

void http_server_stop(struct http_server *h) {
  if (!h) return;
  MHD_stop_daemon(h->daemon);
  free(h);
}
