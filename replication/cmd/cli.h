/* What the commands of the `dabbawal` tool share: their arguments, and errors on stderr. */
#ifndef DW_CMD_CLI_H
#define DW_CMD_CLI_H

#include <stdbool.h>
#include <stddef.h>

struct cli_option {
  const char *name;   /* "--from" */
  const char **value; /* takes one; NULL: a switch */
  bool *given;        /* may be NULL */
};

/* Takes `--name value`, `--name=value`, switches and up to `max` other arguments ("-" is one). Each mistake is a line on
 * stderr; false if there were any. */
bool cli_arguments(const char *command, int argc, char **argv, const struct cli_option *, size_t options,
                   const char **rest, size_t min, size_t max, size_t *count);

/* "dabbawal COMMAND: text" on stderr, on one line; returns code. */
int cli_fail(const char *command, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Likewise; returns false. */
bool cli_wrong(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Exit codes are those of config.h. argv[0] is the command's name. */
int cli_status(int argc, char **argv);
int cli_load(int argc, char **argv);
int cli_checksum(int argc, char **argv);
int cli_wal(int argc, char **argv);
int cli_diverged(int argc, char **argv);
int cli_rejoin(int argc, char **argv);
int cli_promote(int argc, char **argv);
int cli_switchover(int argc, char **argv);
int cli_follow(int argc, char **argv);
int cli_pause(int argc, char **argv);
int cli_resume(int argc, char **argv);
int cli_audit(int argc, char **argv);

#endif
