/* Replies of a RESP2 server, taken apart as they arrive: no reply is ever held whole, nested arrays need no recursion, and
 * no length that a peer announces is allocated. */
#ifndef DW_RESP_REPLY_H
#define DW_RESP_REPLY_H

#include <stdbool.h>

#include "wal/base/bytes.h"

struct resp_reader {
  char kind;         /* of the last complete reply: + - : $ * ; '_' for nil */
  struct buf text;   /* its text: the line, the bulk's bytes, or an array's elements, each with a \n behind it */
  size_t text_max;   /* bytes kept of it; the rest is counted only */
  bool text_cut;     /* more came than was kept */
  /* inside a reply */
  bool inside;
  uint64_t pending;  /* elements still to come */
  uint64_t body;     /* bytes of a bulk still to come, its CRLF included; 0: a header is next */
  struct buf line;   /* a header in parts */
};

void resp_reader_free(struct resp_reader *);
/* Takes bytes up to the end of the next reply. *used of them are done with; *complete says that a reply ended (kind and
 * text are valid until the next call). DW_OK, DW_CORRUPT (this is not RESP: the message quotes it), DW_NO_MEMORY. */
int resp_reader_feed(struct resp_reader *, const uint8_t *data, size_t n, size_t *used, bool *complete);

#endif
