/* "host:port" as people write it: 127.0.0.1:7000, [::1]:7000, db1.example:7000, :7000 or *:7000 (listening: any). */
#ifndef DW_REPLICATION_ADDRESS_H
#define DW_REPLICATION_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#define ADDRESS_HOST_BYTES 256

struct address {
  char host[ADDRESS_HOST_BYTES]; /* without brackets; "" for any */
  char port[8];                  /* decimal, 0 to 65535 */
};
/* DW_INVALID with a message that quotes the text and says what is wrong with it. */
int address_parse(const char *text, struct address *out);

#define ADDRESS_BYTES 300u
/* The next name of a list separated by commas or spaces, which *list moves behind; false at its end. */
bool address_next(const char **list, char out[ADDRESS_BYTES]);
/* One to connect to: a host and a port are needed. DW_INVALID. */
int address_check_peer(const char *name);

#endif
