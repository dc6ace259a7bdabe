/* The daemons' log: one line per event, "2026-11-23T14:05:01.123Z INFO  text", to stderr or a file. */
#ifndef DW_CMD_LOG_H
#define DW_CMD_LOG_H

#include <stdbool.h>

#include "dabbawal.h"

struct logger;

/* path NULL: stderr. DW_IO if the file can't be opened, DW_NO_MEMORY. */
int logger_open(const char *path, dw_log_level least, struct logger **);
void logger_close(struct logger *);
/* Opens the file anew (it was renamed away). Keeps the old one and says why if that fails. */
void logger_reopen(struct logger *);
bool logger_to_file(const struct logger *);

/* Any thread. A line is one write, so lines never mix; line breaks in the text become '?'. */
void logger_line(struct logger *, dw_log_level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* As dw_log_fn; arg is the logger. */
void logger_engine(void *arg, dw_log_level, const char *line);

#endif
