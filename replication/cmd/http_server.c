/* See http_server.h. Everything is bounded: connections, memory for a request, seconds that a client may dawdle. Pages
 * are made whole in memory and given to libmicrohttpd, which serves them from its one thread; bad requests it answers
 * by itself. */
#include "replication/cmd/http_server.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replication/cmd/failover_status.h"
#include "replication/cmd/net.h"
#include "replication/cmd/status_json.h"
#include "replication/cmd/text.h"
#include "wal/base/status.h"

#define CONNECTIONS_MAX 256u
#define REQUEST_BYTES_MAX 16384u
#define IDLE_SECONDS 15u

struct http_server {
  struct http_options opt;
  struct MHD_Daemon *daemon;
  uint16_t port;
  atomic_uint_fast64_t requests;
};

struct page {
  unsigned status;
  const char *type;
  struct buf body;
};

static int page_text(struct page *p, unsigned status, const char *text) {
  p->status = status;
  int rc = buf_append(&p->body, text, strlen(text));
  return rc ? rc : buf_append(&p->body, "\n", 1);
}

/* What a probe has to say; error texts in it may come from other nodes. */
static int page_why(struct page *p, bool good, const char *why) {
  char clean[512];
  text_clean(clean, sizeof clean, why);
  return page_text(p, good ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, clean);
}

/* ---- pages ------------------------------------------------------------------------------------- */

static int page_metrics(const struct http_server *h, struct node_view *v, struct page *p) {
  (void)h;
  metrics_process(v);
  p->type = "text/plain; version=0.0.4; charset=utf-8";
  return metrics_render(v, &p->body);
}

static int page_health(const struct http_server *h, struct node_view *v, struct page *p) {
  (void)h;
  char why[512];
  bool good = node_healthy(&v->status, why, sizeof why);
  return page_why(p, good, why);
}

static int page_ready(const struct http_server *h, struct node_view *v, struct page *p) {
  char why[512];
  bool good = node_ready(&v->status, h->opt.max_staleness_ms, why, sizeof why);
  return page_why(p, good, why);
}

static int page_status(const struct http_server *h, struct node_view *v, struct page *p) {
  (void)h;
  char *json = status_json(&v->status, &v->epochs, NULL);
  if (json && v->has_failover) json = failover_json_join(json, &v->failover, NULL);
  if (!json) return DW_NO_MEMORY;
  p->type = "application/json";
  int rc = page_text(p, MHD_HTTP_OK, json);
  free(json);
  return rc;
}

/* What load balancers ask: one line, the same for both. */
static int page_role(struct page *p, const struct node_view *v, bool good, const char *not_because) {
  char why[512];
  const dw_status *s = &v->status;
  snprintf(why, sizeof why, "%srole=%s%s epoch=%llu primary=%s%s%.200s", good ? "" : "no: ", status_role(s->role),
           s->fenced ? " fenced" : "", (unsigned long long)(s->fenced ? s->promised_epoch : s->epoch),
           s->primary_client[0] ? s->primary_client : "unknown", *not_because ? " " : "", not_because);
  return page_why(p, good, why);
}

static int page_primary(const struct http_server *h, struct node_view *v, struct page *p) {
  (void)h;
  const dw_status *s = &v->status;
  return page_role(p, v, status_writable(s), s->failed ? "failed" : s->stopping ? "stopping" : "");
}

static int page_replica(const struct http_server *h, struct node_view *v, struct page *p) {
  char why[512] = "";
  bool good = v->status.role == DW_FOLLOWER && node_ready(&v->status, h->opt.max_staleness_ms, why, sizeof why);
  return page_role(p, v, good, good || v->status.role == DW_PRIMARY ? "" : why);
}

static int page_index(const struct http_server *h, struct node_view *v, struct page *p) {
  char text[1024];
  (void)h;
  p->type = "text/html; charset=utf-8";
  snprintf(text, sizeof text,
           "<!DOCTYPE html><html lang=en><title>dabbawal %s</title><h1>dabbawal %s, %s</h1><ul>"
           "<li><a href=/status>/status</a> JSON<li><a href=/metrics>/metrics</a> Prometheus"
           "<li><a href=/healthz>/healthz</a> does it work<li><a href=/readyz>/readyz</a> may it get reads"
           "<li><a href=/primary>/primary</a> does it take writes<li><a href=/replica>/replica</a> is it a follower "
           "that may "
           "get reads</ul></html>",
           dw_version(), dw_version(), status_role(v->status.role));
  return page_text(p, MHD_HTTP_OK, text);
}

static const struct {
  const char *path;
  int (*make)(const struct http_server *, struct node_view *, struct page *);
  bool options; /* answers OPTIONS as GET: what HAProxy's httpchk sends unless told otherwise */
} pages[] = {{"/metrics", page_metrics, false}, {"/healthz", page_health, false}, {"/readyz", page_ready, false},
             {"/status", page_status, false},   {"/primary", page_primary, true}, {"/replica", page_replica, true},
             {"/", page_index, false}};

static size_t find_page(const char *url) {
  size_t i = 0;
  while (i < sizeof pages / sizeof *pages && strcmp(pages[i].path, url) != 0) i++;
  return i;
}

static bool allowed(const char *method, const char *url) {
  if (strcmp(method, MHD_HTTP_METHOD_GET) == 0 || strcmp(method, MHD_HTTP_METHOD_HEAD) == 0) return true;
  size_t i = find_page(url);
  return strcmp(method, MHD_HTTP_METHOD_OPTIONS) == 0 && i < sizeof pages / sizeof *pages && pages[i].options;
}

static void make_page(struct http_server *h, const char *url, struct page *p) {
  *p = (struct page){.status = MHD_HTTP_OK, .type = "text/plain; charset=utf-8"};
  size_t i = find_page(url);
  if (i == sizeof pages / sizeof *pages) {
    page_text(p, MHD_HTTP_NOT_FOUND, "not found: try / /status /metrics /healthz /readyz /primary /replica");
    return;
  }
  struct node_view *v = calloc(1, sizeof *v);
  int rc = v ? h->opt.collect(h->opt.arg, v) : DW_NO_MEMORY;
  if (v) v->http_requests = atomic_load(&h->requests);
  if (rc == DW_OK) rc = pages[i].make(h, v, p);
  free(v);
  if (rc) {
    p->body.len = 0;
    p->type = "text/plain; charset=utf-8";
    page_text(p, MHD_HTTP_INTERNAL_SERVER_ERROR, "the status can't be had just now");
  }
}

/* ---- libmicrohttpd ------------------------------------------------------------------------------ */

static enum MHD_Result answer(struct MHD_Connection *c, struct page *p, const char *allow) {
  /* The response takes the body over and frees it. */
  struct MHD_Response *r = MHD_create_response_from_buffer(
      p->body.len, p->body.data, p->body.data ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
  if (!r) {
    buf_free(&p->body);
    return MHD_NO;
  }
  MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, p->type);
  MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
  if (allow) MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, allow);
  enum MHD_Result rc = MHD_queue_response(c, p->status, r);
  MHD_destroy_response(r);
  return rc;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *upload, size_t *upload_size, void **state) {
  struct http_server *h = arg;
  struct page p = {.type = "text/plain; charset=utf-8"};
  (void)version, (void)upload;
  if (!allowed(method, url)) {
    if (*state) return MHD_NO;
    *state = h;
    atomic_fetch_add(&h->requests, 1);
    page_text(&p, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD");
    return answer(c, &p, "GET, HEAD");
  }
  if (!*state) { /* headers only so far */
    *state = h;
    return MHD_YES;
  }
  if (*upload_size) { /* a body that nobody wants */
    *upload_size = 0;
    return MHD_YES;
  }
  atomic_fetch_add(&h->requests, 1);
  make_page(h, url, &p);
  return answer(c, &p, NULL);
}

static int listen_socket(const char *address, int *out) {
  struct addrinfo *found = NULL;
  int rc = net_resolve(address, true, &found), one = 1;
  if (rc) return rc;
  int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, 128)) {
    rc = dw_fail_errno(errno, "can't listen on %s for HTTP", address);
    if (fd >= 0) close(fd);
  } else {
    *out = fd;
  }
  freeaddrinfo(found);
  return rc;
}

int http_server_start(const struct http_options *opt, struct http_server **out) {
  struct http_server *h = calloc(1, sizeof *h);
  int fd = -1;
  int rc = h ? listen_socket(opt->listen, &fd) : dw_fail_nomem(sizeof *h);
  if (rc) goto fail;
  h->opt = *opt;
  h->opt.listen = NULL; /* borrowed */
  struct sockaddr_storage at = {0};
  socklen_t n = sizeof at;
  if (getsockname(fd, (struct sockaddr *)&at, &n) == 0) h->port = (uint16_t)net_port((struct sockaddr *)&at);
  h->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL, 0, NULL, NULL, on_request, h,
                               MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX,
                               MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)REQUEST_BYTES_MAX,
                               MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS, MHD_OPTION_END);
  if (!h->daemon) {
    rc = dw_fail(DW_IO, "the HTTP server on %s didn't start", opt->listen);
    goto fail;
  }
  *out = h;
  return DW_OK;
fail:
  if (fd >= 0) close(fd);
  free(h);
  return rc;
}

uint16_t http_server_port(const struct http_server *h) {
  return h->port;
}

void http_server_stop(struct http_server *h) {
  if (!h) return;
  MHD_stop_daemon(h->daemon); /* closes the socket too */
  free(h);
}
