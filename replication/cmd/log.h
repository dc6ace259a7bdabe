/* Log lines of the daemons: time, level, text; to stderr or a file. */
#ifndef DW_CMD_LOG_H
#define DW_CMD_LOG_H

#include "dabbawal.h"

/* Starts logging; path NULL: stderr. 0, or -1 with errno set. One per process: main's. */
int log_open(const char *path, dw_log_level least);
/* Reopens the file (after it was rotated away). */
void log_reopen(void);
void log_close(void);
/* As a dw_log_fn. Thread-safe; a line is one write. */
void log_line(void *arg, dw_log_level level, const char *line);
void log_printf(dw_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
