/* A Redis client for load: commands are queued and sent together, replies are read one by one, and a connection that breaks is a
 * result, not a failed test: whoever kills servers expects it. Blocking; one thread per connection. */
#ifndef DW_TEST_RESP_WIRE_H
#define DW_TEST_RESP_WIRE_H

#include <stdbool.h>
#include <stddef.h>

struct wire {
  int fd; /* -1: not connected */
  char *out;
  size_t out_len, out_cap;
  char in[16384];
  size_t at, end;
  char *text; /* of the last reply */
  size_t text_cap;
};

struct wire_reply {
  char kind;        /* '+' '-' ':' '$' '*'; '_' for nil */
  long long number; /* of ':'; elements of '*', which follow as replies of their own */
  const char *text; /* of '+', '-' and '$', with a zero behind it; valid until the next reply */
  size_t len;
};

enum wire_result {
  WIRE_OK,
  WIRE_BROKEN, /* closed, reset, or not the protocol */
  WIRE_SILENT  /* no answer within the patience */
};

#define WIRE_INIT ((struct wire){.fd = -1})
#define WIRE_PATIENCE_S 60

bool wire_open(struct wire *, int port); /* loopback; drops what was queued */
/* Elsewhere (NULL: loopback), with so much patience for the connection and for each answer. */
bool wire_open_to(struct wire *, const char *host, int port, unsigned patience_ms);
void wire_close(struct wire *);          /* may be opened again */
void wire_free(struct wire *);

/* Queues one command of words, NULL at the end. */
void wire_add(struct wire *, ...) __attribute__((sentinel));
/* Queues a command given as words. */
void wire_add_words(struct wire *, const char *const *words, size_t n);
bool wire_flush(struct wire *); /* false: broken */
enum wire_result wire_read(struct wire *, struct wire_reply *);
/* One command, one reply; an array's elements are left to be read. */
enum wire_result wire_ask(struct wire *, struct wire_reply *, ...) __attribute__((sentinel));

#endif
