/* Settings of the daemons: one table drives flags, the config file, --help and the messages about wrong ones. */
#ifndef DW_CMD_CONFIG_H
#define DW_CMD_CONFIG_H

#include <stdbool.h>
#include <stdio.h>

#include "dabbawal.h"

struct config {
  dw_role role;
  dw_options engine; /* strings point into `owned` */
  const char *data, *resp, *http, *log_file, *config_file;
  uint64_t max_staleness_ms, max_clients;
  dw_log_level log_level;
  bool help, version;
  char *owned[64]; /* strings to free */
  unsigned owned_count;
  unsigned set_by_flag[2]; /* bits by setting: flags win over the file */
};

/* Exit codes, as --help lists them. */
enum exit_code {
  EXIT_OK = 0,
  EXIT_RUNTIME = 1,
  EXIT_USAGE = 2,
  EXIT_LOCKED = 3,
  EXIT_DATA = 4, /* corrupt, diverged, foreign or newer data */
  EXIT_ADDRESS = 5
};

/* Fills in defaults, reads flags and the config file they name. One line to `errors` for each wrong thing; returns how many
 * there were. */
int config_read(struct config *, dw_role role, int argc, char **argv, FILE *errors);
void config_free(struct config *);
void config_help(FILE *, dw_role role);

/* For tests and for the file: one setting by name. False with a message in why. */
bool config_set(struct config *, const char *name, const char *value, char *why, size_t cap);

#endif
