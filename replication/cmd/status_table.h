/* A node's status (the JSON of DW.STATUS) as a table for people. */
#ifndef DW_STATUS_TABLE_H
#define DW_STATUS_TABLE_H

#include <cjson/cJSON.h>
#include <stdio.h>

void status_table(FILE *, const cJSON *status);

#endif
