/* Glob patterns as Redis has them: * ? [a-z] [^a-z] and backslash. */
#ifndef DW_RESP_GLOB_H
#define DW_RESP_GLOB_H

#include <stdbool.h>
#include <stddef.h>

/* Takes at most pattern x text steps, whatever the pattern. */
bool resp_glob(const void *pattern, size_t pattern_n, const void *text, size_t text_n);

#endif
