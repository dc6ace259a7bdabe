/* The formats of `dabbawal load`, parsed as a stream in bounded memory. No files, no sockets. */
#ifndef DW_LOAD_PARSE_H
#define DW_LOAD_PARSE_H

#include <stdbool.h>

#include "replication/cmd/resp_codec.h"
#include "wal/base/bytes.h"

enum load_format { LOAD_DEB822, LOAD_TSV, LOAD_RESP };

/* What a parser finds. A non-zero return stops it with that code. */
struct load_sink {
  /* deb822 and tsv: a record that begins in this line. */
  int (*record)(void *arg, uint64_t line, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen);
  /* resp: one whole command, as it stands in the input; `line` counts commands. */
  int (*command)(void *arg, uint64_t line, const uint8_t *bytes, size_t n);
  /* A malformed record: skipped. (In a resp stream nothing can follow: load_parser_feed fails.) */
  int (*malformed)(void *arg, uint64_t line, const char *why);
  void *arg;
};

/* Lines put together from chunks. A line beyond the limit is cut there and marked. */
struct line_reader {
  struct buf part;
  uint64_t number; /* of the line that is being read, from 1 */
  bool cut;
};

struct load_parser {
  enum load_format format;
  struct load_sink sink;
  struct line_reader lines;
  /* deb822 */
  struct buf paragraph, field[3]; /* Package, Version, Architecture */
  uint64_t paragraph_line;
  bool inside, bad; /* bad: this paragraph has been reported */
  struct buf key;
  /* tsv */
  struct buf value;
  /* resp */
  struct resp_parser resp;
  struct buf pending;
  uint64_t offset, commands;
};

void load_parser_init(struct load_parser *, enum load_format, const struct load_sink *);
void load_parser_free(struct load_parser *);
/* DW_OK, DW_CORRUPT (a resp stream that can't go on: the message names the byte), DW_NO_MEMORY, or the sink's. */
int load_parser_feed(struct load_parser *, const uint8_t *, size_t);
int load_parser_finish(struct load_parser *); /* the input has ended */

/* load_deb822.c, load_tsv.c: one line, without its \n; `cut` if it was too long. */
int load_deb822_line(struct load_parser *, const uint8_t *, size_t, bool ended_by_newline);
int load_deb822_end(struct load_parser *);
int load_tsv_line(struct load_parser *, const uint8_t *, size_t);

#endif
