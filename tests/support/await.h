/* Waiting for a condition, never for a time. */
#ifndef DW_TEST_AWAIT_H
#define DW_TEST_AWAIT_H

#include <check.h>
#include <poll.h>
#include <time.h>

static inline double mono_s(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Polls until it holds; fails the test after a minute. */
#define AWAIT(what, condition)                                                                                         \
  do {                                                                                                                 \
    double deadline_ = mono_s() + 60;                                                                                  \
    while (!(condition)) {                                                                                             \
      ck_assert_msg(mono_s() < deadline_, "waited in vain for: %s", what);                                             \
      poll(NULL, 0, 5);                                                                                                \
    }                                                                                                                  \
  } while (0)

#endif
