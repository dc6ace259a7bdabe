/* Parsing of address.h. A bare IPv6 address without brackets is refused: where its port begins is a guess. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/address.h"
#include "wal/base/status.h"

static int copy_port(const char *text, const char *port, struct address *out) {
  size_t n = strlen(port);
  bool digits = n > 0 && n <= 5 && strspn(port, "0123456789") == n;
  if (!digits || strtoul(port, NULL, 10) > 65535)
    return dw_fail(DW_INVALID, "'%.300s': the port is not a number from 0 to 65535", text);
  memcpy(out->port, port, n + 1);
  return DW_OK;
}

int address_parse(const char *text, struct address *out) {
  const char *host = text, *host_end, *port;
  if (*text == '[') {
    host = text + 1;
    host_end = strchr(host, ']');
    if (!host_end || host_end[1] != ':') return dw_fail(DW_INVALID, "'%.300s': expected [IPv6-address]:port", text);
    port = host_end + 2;
  } else {
    host_end = strrchr(text, ':');
    if (!host_end) return dw_fail(DW_INVALID, "'%.300s': expected host:port", text);
    if (memchr(text, ':', (size_t)(host_end - text)))
      return dw_fail(DW_INVALID, "'%.300s': write an IPv6 address in brackets, [address]:port", text);
    port = host_end + 1;
  }
  size_t n = (size_t)(host_end - host);
  if (n >= sizeof out->host) return dw_fail(DW_INVALID, "'%.300s': the host name is too long", text);
  memcpy(out->host, host, n);
  out->host[n] = 0;
  if (strcmp(out->host, "*") == 0) out->host[0] = 0;
  return copy_port(text, port, out);
}

bool address_next(const char **list, char out[ADDRESS_BYTES]) {
  *list += strspn(*list, ", ");
  size_t n = strcspn(*list, ", ");
  if (!n) return false;
  snprintf(out, ADDRESS_BYTES, "%.*s", (int)(n < ADDRESS_BYTES ? n : ADDRESS_BYTES - 1), *list);
  *list += n;
  return true;
}

int address_check_peer(const char *name) {
  struct address a;
  int rc = address_parse(name, &a);
  if (rc) return rc;
  if (!a.host[0] || strtoul(a.port, NULL, 10) == 0)
    return dw_fail(DW_INVALID, "'%s': a host and a port are needed to connect to", name);
  return DW_OK;
}
