/* The thread-local detail message; see status.h. */
#include "wal/base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MESSAGE_BYTES 512

static _Thread_local char message[MESSAGE_BYTES];

int dw_fail(int rc, const char *fmt, ...) {
  char text[MESSAGE_BYTES]; /* the arguments may point into the present message */
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  memcpy(message, text, sizeof message);
  return rc;
}

int dw_fail_errno(int err, const char *fmt, ...) {
  char text[MESSAGE_BYTES], reason[128];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  const char *why = strerror_r(err, reason, sizeof reason); /* the GNU one */
  int rc = err == ENOSPC || err == EDQUOT ? DW_NO_SPACE : err == ENOMEM ? DW_NO_MEMORY : DW_IO;
  return dw_fail(rc, "%s: %s", text, why);
}

int dw_fail_prefix(int rc, const char *fmt, ...) {
  char text[MESSAGE_BYTES];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  return dw_fail(rc, "%s: %s", text, message);
}

int dw_fail_nomem(size_t bytes) {
  return dw_fail(DW_NO_MEMORY, "out of memory asking for %zu bytes", bytes);
}

void dw_error_copy(char *dst, size_t cap) {
  if (cap) snprintf(dst, cap, "%s", message);
}
