/* A small RESP client for the command line: one connection, pipelining, both directions moved at once, so that neither
 * side can wait for the other for ever. Not thread-safe. */
#ifndef DW_RESP_CLIENT_H
#define DW_RESP_CLIENT_H

#include "replication/cmd/resp_reply.h"

struct resp_client;

/* Called for each reply, in the order of the commands. Non-zero stops with that code. */
typedef int (*resp_reply_fn)(void *arg, const struct resp_reader *);

/* timeout_ms: to connect, and without any progress later. text_max: bytes kept of a reply. */
int resp_client_open(const char *address, unsigned timeout_ms, size_t text_max, resp_reply_fn, void *arg,
                     struct resp_client **);
void resp_client_close(struct resp_client *);

/* Queues bytes of one or more commands; does not send. */
int resp_client_queue(struct resp_client *, const void *, size_t);
size_t resp_client_queued(const struct resp_client *);
/* Sends and receives until something has moved. DW_OK, DW_TIMEOUT, DW_IO, DW_CLOSED, DW_CORRUPT, or the callback's. */
int resp_client_pump(struct resp_client *);

/* Appends one command in RESP to a buffer. */
int resp_command_append(struct buf *, size_t argc, const void *const *argv, const size_t *argl);

/* One command of words, one reply, on a connection of its own: for status and checksum. The reply's kind and text;
 * text is the caller's to free. An error reply is DW_INVALID with its text as the message. */
int resp_call(const char *address, unsigned timeout_ms, const char *words, char *kind, struct buf *text);

#endif
