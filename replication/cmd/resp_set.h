/* SET's options, for SET itself and for SET in a transaction. */
#ifndef DW_RESP_SET_H
#define DW_RESP_SET_H

#include "replication/cmd/resp_internal.h"

struct set_options {
  bool nx, xx, get;
  bool as_int; /* SETNX answers 1 or 0 */
  const char *error;
};

struct set_options set_parse(const struct cmd *);
/* Is nothing written? */
static inline bool set_skips(const struct set_options *o, bool found) { return (o->nx && found) || (o->xx && !found); }
int set_reply(struct buf *out, const struct set_options *, bool found, const uint8_t *old, size_t old_n);

#endif
