/* Text that goes to people, JSON and metrics may come from other nodes: made harmless here. */
#ifndef DW_CMD_TEXT_H
#define DW_CMD_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Well-formed UTF-8 (no surrogates, no overlong forms) without control characters. */
bool text_is_utf8(const char *, size_t n);
/* Copies a string, each byte that spoils it as UTF-8 text replaced with '?'. Always terminated. */
void text_clean(char *dst, size_t cap, const char *src);
/* The same in place; one line stays one line. */
void text_printable(char *);
/* "1.5 MB": decimal units, three digits or so. */
void text_bytes(char *dst, size_t cap, double bytes);

#endif
