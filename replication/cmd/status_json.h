/* dw_status as JSON: DW.STATUS and HTTP /status. */
#ifndef DW_STATUS_JSON_H
#define DW_STATUS_JSON_H

#include <stddef.h>

#include "dabbawal.h"

/* malloc'd text, *n its length without the terminator; NULL: no memory. */
char *status_json(const dw_status *, size_t *n);

/* Names as they stand in JSON, metrics and tables. Static. */
const char *status_role(dw_role);
const char *status_mode(dw_mode);
const char *status_ack(dw_ack);
const char *status_peer_state(dw_peer_state);

#endif
