/* HTTP for operators: /metrics /healthz /readyz /status /primary /replica, and / with a list of them. One libmicrohttpd thread. */
#ifndef DW_HTTP_SERVER_H
#define DW_HTTP_SERVER_H

#include "replication/cmd/metrics.h"

struct http_options {
  const char *listen; /* "host:port", port 0: any */
  /* Fills what is asked for; called in the server's thread. Non-zero: answers 500. */
  int (*collect)(void *arg, struct node_view *);
  void *arg;
  uint64_t max_staleness_ms; /* for /readyz, see node_ready */
};

struct http_server;

/* DW_OK, DW_INVALID (address), DW_IO (can't bind: the message names the address), DW_NO_MEMORY. */
int http_server_start(const struct http_options *, struct http_server **);
uint16_t http_server_port(const struct http_server *);
void http_server_stop(struct http_server *);

#endif
