/* Error codes and the thread-local detail message.
 *
 * Every layer reports with the same int codes (the public DW_* list, repeated here behind the same guard
 * so that wal/ does not include a header of engine/; a tidy test holds the two lists together). The code
 * says what kind of failure it is, the message names the file, LSN, offset or peer. Whoever detects a
 * failure sets the message with dw_fail(); whoever passes it on may prefix it with dw_fail_prefix().
 */
#ifndef DW_BASE_STATUS_H
#define DW_BASE_STATUS_H

#include <stddef.h>
#include <stdint.h>

#ifndef DW_RC_DEFINED
#define DW_RC_DEFINED
enum {
  DW_OK = 0,
  DW_NOT_FOUND,
  DW_INVALID,
  DW_IO,
  DW_CORRUPT,
  DW_NO_SPACE,
  DW_LOCKED,
  DW_READ_ONLY,
  DW_STALE,
  DW_TIMEOUT,
  DW_NOT_ENOUGH_FOLLOWERS,
  DW_DIVERGED,
  DW_CLOSED,
  DW_NO_MEMORY,
  DW_UNSUPPORTED,
  DW_FENCED
};
#endif

typedef uint64_t dw_lsn;

/* Sets this thread's message (cut at 511 bytes) and returns `rc`, so that `return dw_fail(...)` reads well. */
int dw_fail(int rc, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* As dw_fail, with ": " and strerror(err) appended; ENOSPC and EDQUOT give DW_NO_SPACE, ENOMEM
 * DW_NO_MEMORY, everything else DW_IO. */
int dw_fail_errno(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts text and ": " before the message that is already there; returns `rc`. */
int dw_fail_prefix(int rc, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The common allocation failure. */
int dw_fail_nomem(size_t bytes);

/* Copies this thread's message to another place (e.g. a status field), always terminated. */
void dw_error_copy(char *dst, size_t cap);

#endif
