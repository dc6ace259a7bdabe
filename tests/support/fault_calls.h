/* Makes the n-th fallible call of the code under test fail: allocations, system calls, RocksDB, sockets and threads.
 *
 * The code under test has no hooks: programs in tests/faults/ are linked with --wrap for each function in
 * FAULT_CALLS (tests/CMakeLists.txt), so that a call from our own objects arrives in fault_calls.c, while RocksDB, zstd, libuv and libc keep
 * calling the real ones. Check's own calls are not counted.
 *
 * A walk arms the first call, runs a scenario, then arms the second, and so on until a run in which nothing failed:
 *
 *   FAULT_WALK(walk, FAULT_MEMORY, ENOMEM, FAULT_ONCE) {
 *     scenario(&walk);
 *   }
 */
#ifndef DW_TEST_FAULT_CALLS_H
#define DW_TEST_FAULT_CALLS_H

#include <stdbool.h>
#include <stddef.h>

enum fault_group {
  FAULT_MEMORY = 1,  /* malloc, calloc, realloc, strdup, contexts of zstd and xxHash */
  FAULT_FILES = 2,   /* system calls on files and directories, getrandom */
  FAULT_STORE = 4,   /* calls of RocksDB that report errors */
  FAULT_NET = 8,     /* sockets and libuv */
  FAULT_THREADS = 16 /* pthread_create */
};

enum fault_span {
  FAULT_ONCE, /* this call only */
  FAULT_FROM  /* this one and all that follow: a disk that stays full */
};

struct fault_walk {
  const char *title;
  unsigned groups;
  int err; /* errno of what fails; RocksDB and libuv say it in their own way */
  enum fault_span span;
  unsigned nth;   /* the call that fails in this run, from 1 */
  unsigned step;  /* distance to the next one; 1 (or 0): every call */
  unsigned first; /* the first one; 0: 1 */
  unsigned points; /* calls that were made to fail so far */
};

/* Starts counting at 0. */
void faults_arm(const struct fault_walk *);
/* Ends it. True: at least one call failed. */
bool faults_disarm(void);
bool faults_hit(void); /* so far */
/* What failed and from where, for messages: "malloc, from +0x1234 +0x5678 ..." (addr2line -e PROGRAM). */
const char *faults_where(void);
const char *faults_name(void); /* "malloc"; "" if nothing failed */
/* Calls of this thread are neither counted nor failed in between; nests. */
void faults_pause(void);
void faults_resume(void);

/* Makes a directory; in memory where there is such a file system, since what syncs cost is not the question here. */
void fault_dir(char *path, size_t cap);

/* Moves the monotonic clock that the code under test reads. */
void faults_advance_ms(unsigned ms); /* until the next faults_arm */

/* For a walk's step: `n` in CI, 1 with DW_FAULTS=full in the environment. Walks on one thread say so: ThreadSanitizer has
 * little to say about them, so it gets fewer. */
unsigned fault_sample(unsigned n, bool one_thread);

/* Next run of a walk. False: the last one met no fault, so the walk is complete; it says how many points there were. */
bool fault_walk_next(struct fault_walk *);

#define FAULT_WALK(w, groups_, err_, span_) \
  for (struct fault_walk w = {.title = __func__, .groups = (groups_), .err = (err_), .span = (span_), .step = 1}; \
       fault_walk_next(&w);)

/* Checks of a scenario: a failure names the call that had been made to fail. */
#define FAULT_CHECK(cond, ...) ((cond) ? (void)0 : fault_check_failed(__FILE__, __LINE__, #cond, __VA_ARGS__))
void fault_check_failed(const char *file, int line, const char *cond, const char *fmt, ...)
    __attribute__((format(printf, 4, 5), noreturn));

/* Forgets this thread's message, so that an error which sets none is found out. */
void fault_forget_message(void);
/* Judges what a function of ours returned while the walk is on. An error needs a cause, a code that fits it (never
 * "corrupt" or "diverged": nothing is), and a message of its own that names `dir`, an LSN, the store or the bytes asked for. */
void fault_judge(const char *call, int rc, const char *dir);

#endif
