/* A progress bar on stderr: redrawn in place on a terminal, a plain line every few seconds elsewhere. */
#ifndef DW_LOAD_PROGRESS_H
#define DW_LOAD_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct load_progress {
  bool terminal, drawn;
  uint64_t started_ns, shown_ns;
};

uint64_t load_progress_now(void); /* monotonic ns */
void load_progress_init(struct load_progress *);
/* total 0: unknown. Cheap if it is not time yet; `last` shows the end state on a terminal and leaves the line. */
void load_progress_show(struct load_progress *, uint64_t records, uint64_t bytes, uint64_t total, bool last);
void load_progress_clear(struct load_progress *); /* before another line is written to stderr */

#endif
