/* Flags and configuration file of the two daemons: one table (config_table.c) drives parsing, checking and --help. */
#ifndef DW_CMD_CONFIG_H
#define DW_CMD_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "dabbawal.h"
#include "wal/base/bytes.h"

enum daemon_kind { DAEMON_PRIMARY = 1, DAEMON_FOLLOWER = 2 };

/* What a process returns; --help lists them. */
enum {
  EXIT_OK = 0,
  EXIT_RUNTIME = 1,  /* something failed while running */
  EXIT_CONFIG = 2,   /* a wrong flag, configuration file or directory */
  EXIT_LOCKED = 3,   /* another process has the data directory open */
  EXIT_BAD_DATA = 4, /* corrupt, diverged, foreign, or of a newer format */
  EXIT_BIND = 5      /* an address is in use or not ours */
};

/* Automatic failover; docs/failover.md says what each means. */
struct config_failover {
  uint64_t lease_ttl_ms, renew_ms, poll_ms, candidate_wait_ms, cooldown_ms, max_lag_ms;
  uint32_t missed_renewals, max_per_hour;
  uint32_t keep, early; /* words */
};

/* Strings are the config's own; NULL: not given. `engine` points to them. */
struct config {
  dw_options engine;
  char *data, *listen, *primary, *repair_from, *peers, *region, *resp, *http, *client_address, *cluster_name, *file, *log_file,
      *pid_file;
  char *preferred_region;
  char *coordinator, *advertise; /* coordinator NULL: no automatic failover */
  struct config_failover failover;
  uint64_t max_staleness_ms; /* 0: no bound */
  uint32_t max_clients, resp_threads;
  uint32_t log_level; /* dw_log_level */
  bool help, version, auto_rejoin;
};

/* Takes flags (argv[1] on), then the file that --config names; flags win. Every mistake adds one line to `errors`, without
 * the program's name in front. DW_OK, DW_INVALID (read errors), DW_NO_MEMORY. With --help or --version nothing else is
 * checked. config_free in any case. */
int config_load(struct config *, enum daemon_kind, int argc, char **argv, struct buf *errors);
void config_free(struct config *);

void config_help(FILE *, enum daemon_kind);
const char *config_program(enum daemon_kind); /* "dabbawal-primary" */

/* ---- values, also used by the command line tool ------------------------------------------------- */

bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *out); /* decimal, the whole text */
bool parse_size(const char *text, uint64_t *out);                               /* 4096, 64KiB, 64k, 1GiB, 1G */
bool parse_duration_ms(const char *text, uint64_t *out);                        /* 1500, 1500ms, 10s, 5m, 24h, 7d */
/* "PORT" and ":PORT" become "127.0.0.1:PORT"; "*:PORT" is every interface. malloc'd; NULL with dw_last_error. */
char *parse_address(const char *text);
/* Several of them to connect to, with commas between; likewise. */
char *parse_addresses(const char *text);
/* The candidate closest to the text if it is close enough to be a slip of the pen, else NULL. */
bool close_spelling(const char *text, const char *candidate);

/* ---- the table ---------------------------------------------------------------------------------- */

enum option_type { OPTION_PATH, OPTION_TEXT, OPTION_COORDINATOR, OPTION_ADDRESSES, OPTION_ADDRESS, OPTION_NUMBER, OPTION_SIZE, OPTION_TIME, OPTION_WORD, OPTION_FLAG };

struct option_word {
  const char *word;
  uint32_t value;
};
struct option {
  const char *name, *alias;
  enum option_type type;
  unsigned kinds;    /* DAEMON_*, those that have it */
  unsigned required; /* DAEMON_*, those that must be given it */
  const char *arg;   /* placeholder in --help */
  const char *help;
  const char *group; /* heading in --help; NULL: as the one before */
  size_t offset, width; /* of the field in struct config; width 4 or 8 for numbers */
  int64_t min;
  uint64_t max;
  const struct option_word *words;
};
extern const struct option option_table[];
extern const size_t option_count;

#endif
