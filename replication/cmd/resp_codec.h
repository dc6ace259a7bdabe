/* RESP2: taking commands apart and writing replies. No sockets here.
 *
 * A command comes as a multibulk array (`*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`) or inline (`GET k\r\n`, quotes allowed). The parser
 * works in place on the connection's buffer, keeps its place over fragments, and never allocates by what a length
 * announces, only by what has arrived.
 */
#ifndef DW_RESP_CODEC_H
#define DW_RESP_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wal/base/bytes.h"

#define RESP_MAX_ARGS 1048576u
#define RESP_MAX_BULK (64u << 20)
#define RESP_MAX_INLINE 65536u
#define RESP_MAX_COMMAND (160u << 20) /* all of one command */

struct resp_arg {
  size_t off, n; /* into the command's bytes; see resp_arg_at */
};

struct resp_parser {
  struct resp_arg *args; /* of the last complete command */
  size_t argc, cap;
  uint8_t *unquoted; /* inline commands only: their arguments, without quotes */
  bool is_inline;
  /* progress in an incomplete multibulk command */
  size_t pos;
  int64_t expect;     /* arguments still to come; -1: the header is still to come */
  int64_t bulk;       /* bytes of the argument being read; -1: its header is still to come */
  char error[48];
};

enum resp_result { RESP_MORE, RESP_COMMAND, RESP_ERROR };

void resp_parser_init(struct resp_parser *);
void resp_parser_free(struct resp_parser *);
/* Looks for one command at the beginning of data. RESP_COMMAND: args are set and *used bytes belong to it (argc 0: an empty
 * line, skip it). RESP_MORE: call again with the same bytes and more behind them. RESP_ERROR: *error gets a text that lives
 * as long as the parser; the connection can't go on. */
enum resp_result resp_parse(struct resp_parser *, const uint8_t *data, size_t n, size_t *used, const char **error);
/* The bytes of argument i; `data` as given to resp_parse. */
const uint8_t *resp_arg_at(const struct resp_parser *, const uint8_t *data, size_t i, size_t *n);

/* Replies, appended to out. Out of memory is remembered in the buffer's owner: they return DW_NO_MEMORY. */
int resp_simple(struct buf *out, const char *text);
/* "-" text: the first word is the error's name. Line breaks in it become blanks. */
int resp_error(struct buf *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int resp_int(struct buf *out, long long v);
int resp_bulk(struct buf *out, const void *p, size_t n);
int resp_bulk_str(struct buf *out, const char *s);
int resp_nil(struct buf *out);
int resp_nil_array(struct buf *out);
int resp_array(struct buf *out, size_t n);

#endif
