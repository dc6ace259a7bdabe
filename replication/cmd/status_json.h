/* dw_status as JSON: DW.STATUS and HTTP /status. */
#ifndef DW_STATUS_JSON_H
#define DW_STATUS_JSON_H

#include <stddef.h>

#include <stdbool.h>

#include "engine/engine.h"

/* The end of the history of epochs. */
#define STATUS_EPOCHS 32u
struct status_epochs {
  size_t total, count;
  struct epoch_record last[STATUS_EPOCHS]; /* oldest first */
};
int status_epochs_get(dw_engine *, struct status_epochs *); /* DW_NO_MEMORY */

/* malloc'd text, *n its length without the terminator; NULL: no memory. Epochs may be NULL: then they are left out. */
char *status_json(const dw_status *, const struct status_epochs *, size_t *n);
bool status_writable(const dw_status *); /* takes writes now: what /primary says */

/* Names as they stand in JSON, metrics and tables. Static. */
const char *status_role(dw_role);
const char *status_mode(dw_mode);
const char *status_ack(dw_ack);
const char *status_peer_state(dw_peer_state);

#endif
