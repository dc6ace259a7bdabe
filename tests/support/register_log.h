/* What a node's log says about registers (registers.h) and about epochs, once all is quiet. */
#ifndef DW_TEST_REGISTER_LOG_H
#define DW_TEST_REGISTER_LOG_H

#include "tests/support/registers.h"

/* Gives each write among the events the LSN that the log has it at, also those that nobody was told; keys are "k0",
 * "k1", ..., whatever else is in the log is passed over. False, told in `why`: what was answered OK is not there under
 * its LSN, what was refused is there, or a value is there twice. The log must go back to its beginning. */
bool register_lsns(const char *log_dir, struct register_set *, struct event *, size_t n, char *why, size_t cap);

#endif
