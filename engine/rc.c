/* Names of the result codes, this thread's last message, the version. */
#include "engine/dabbawal.h"
#include "wal/base/status.h"

const char *dw_rc_name(int rc) {
  static const char *const names[] = {"DW_OK",
                                      "DW_NOT_FOUND",
                                      "DW_INVALID",
                                      "DW_IO",
                                      "DW_CORRUPT",
                                      "DW_NO_SPACE",
                                      "DW_LOCKED",
                                      "DW_READ_ONLY",
                                      "DW_STALE",
                                      "DW_TIMEOUT",
                                      "DW_NOT_ENOUGH_FOLLOWERS",
                                      "DW_DIVERGED",
                                      "DW_CLOSED",
                                      "DW_NO_MEMORY",
                                      "DW_UNSUPPORTED",
                                      "DW_FENCED"};
  if (rc < 0 || (unsigned)rc >= sizeof names / sizeof *names) return "DW_UNKNOWN";
  return names[rc];
}

const char *dw_last_error(void) {
  static _Thread_local char text[512];
  dw_error_copy(text, sizeof text);
  return text;
}

#define STRING2(x) #x
#define STRING(x) STRING2(x)

const char *dw_version(void) {
  return STRING(DW_VERSION_MAJOR) "." STRING(DW_VERSION_MINOR) "." STRING(DW_VERSION_PATCH);
}
