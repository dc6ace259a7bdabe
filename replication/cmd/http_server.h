/* The HTTP front end: /metrics /healthz /readyz /status. libmicrohttpd does the protocol. */
#ifndef DW_CMD_HTTP_H
#define DW_CMD_HTTP_H

#include "replication/cmd/resp_server.h"

struct http_options {
  const char *listen;        /* "host:port" */
  uint64_t max_staleness_ms; /* a follower beyond it is not ready; 0: no bound */
  struct resp_server *resp;  /* for its metrics; may be NULL. Must outlive the HTTP server */
};
struct http_server;
/* DW_OK, DW_INVALID, DW_IO (names the address), DW_NO_MEMORY. */
int http_server_start(dw_engine *, const struct http_options *, struct http_server **);
uint16_t http_server_port(const struct http_server *);
void http_server_stop(struct http_server *);

#endif
