/* What is recorded: a short life of a primary and a follower, with everything in it that writes files in an unusual way. */
#ifndef DW_POWERCUT_SCENARIO_H
#define DW_POWERCUT_SCENARIO_H

#include <stdint.h>

/* Runs it below dir: dir/primary/node and dir/follower/node are the data directories, dir/NAME.record the recordings of
 * dir/NAME. Everything is stopped cleanly at the end. */
void scenario_run(const char *dir, uint64_t seed);

#endif
