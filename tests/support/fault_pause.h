/* For support code that allocates on its own account: what stands between own_begin and own_end is not made to fail by
 * fault_calls.c. Nothing happens in programs that make no faults. */
#ifndef DW_TEST_FAULT_PAUSE_H
#define DW_TEST_FAULT_PAUSE_H

void faults_pause(void) __attribute__((weak));
void faults_resume(void) __attribute__((weak));

static inline void own_begin(void) {
  if (faults_pause) faults_pause();
}
static inline void own_end(void) {
  if (faults_resume) faults_resume();
}

#endif
