/* Addresses of the daemons' front ends and of the command line's connections. */
#ifndef DW_CMD_NET_H
#define DW_CMD_NET_H

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/* "host:port" to socket addresses; freeaddrinfo releases them. DW_INVALID with a message that quotes the text. */
int net_resolve(const char *text, bool passive, struct addrinfo **out);
/* "127.0.0.1:1234", "[::1]:1234". */
void net_format(const struct sockaddr *, char *out, size_t cap);
/* Port of a bound socket address. */
unsigned net_port(const struct sockaddr *);
/* A socket that has the address, and nobody yet gets through to. DW_INVALID, DW_IO. */
int net_bind(const char *text, int *fd, unsigned *port);
/* A connected TCP socket with both time-outs set, or an error naming the address. */
int net_connect(const char *text, unsigned timeout_ms, int *fd);

#endif
