/* See fault_calls.h. The wrappers follow one pattern: should this call fail? Then say so as the real one would. */
#include "tests/support/fault_calls.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netdb.h>
#include <pthread.h>
#include <rocksdb/c.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>
#include <xxhash.h>
#include <zstd.h>

#include "engine/dabbawal.h"
#include "wal/base/status.h"

#define FRAMES 10

static atomic_bool armed;
static atomic_uint calls, hits;
static struct fault_walk now;
static _Thread_local unsigned paused;
static atomic_uint_fast64_t advanced_ns;
static const char *hit_name;
static void *hit_frames[FRAMES];
static atomic_int hit_frame_count;
extern char __executable_start;

/* Kept out of line, so that the frames are: this, the wrapper, the caller. */
__attribute__((noinline)) static bool fails(enum fault_group group, const char *name) {
  if (!atomic_load_explicit(&armed, memory_order_relaxed) || paused || !(now.groups & group)) return false;
  unsigned n = atomic_fetch_add(&calls, 1) + 1;
  if (n != now.nth && !(now.span == FAULT_FROM && n > now.nth)) return false;
  if (atomic_fetch_add(&hits, 1) == 0) {
    paused++; /* backtrace may allocate */
    hit_name = name;
    hit_frame_count = backtrace(hit_frames, FRAMES);
    paused--;
  }
  errno = now.err;
  return true;
}

void faults_arm(const struct fault_walk *w) {
  now = *w;
  hit_name = NULL;
  atomic_store(&advanced_ns, 0);
  atomic_store(&calls, 0);
  atomic_store(&hits, 0);
  atomic_store(&armed, true);
}

bool faults_disarm(void) {
  atomic_store(&armed, false);
  return atomic_load(&hits) > 0;
}

bool faults_hit(void) {
  return atomic_load(&hits) > 0;
}

const char *faults_name(void) {
  return faults_hit() ? hit_name : "";
}

void faults_pause(void) {
  paused++;
}

void faults_resume(void) {
  paused--;
}

const char *faults_where(void) {
  static char text[400];
  if (!faults_hit()) {
    snprintf(text, sizeof text, "no call failed");
    return text;
  }
  int n = snprintf(text, sizeof text, "call %u, %s, from", now.nth, hit_name);
  for (int i = 2; i < hit_frame_count && n < (int)sizeof text; i++)
    n +=
        snprintf(text + n, sizeof text - (size_t)n, " %#zx", (size_t)((char *)hit_frames[i] - &__executable_start) - 1);
  return text;
}

unsigned fault_sample(unsigned n, bool one_thread) {
  const char *mode = getenv("DW_FAULTS");
  if (mode && strcmp(mode, "full") == 0) return 1;
#ifdef __SANITIZE_THREAD__
  if (one_thread) n *= 9;
#else
  (void)one_thread;
#endif
  return n;
}

bool fault_walk_next(struct fault_walk *w) {
  bool hit = faults_disarm();
  if (w->nth == 0) {                            /* the first run */
    const char *from = getenv("DW_FAULT_FROM"); /* to repeat one point */
    w->nth = from ? (unsigned)strtoul(from, NULL, 10) : w->first ? w->first : 1;
  } else if (hit) {
    w->points++;
    w->nth += w->step ? w->step : 1;
  } else {
    atomic_store(&advanced_ns, 0); /* Check reads the clock too */
    printf("%s: %u fault points\n", w->title, w->points);
    return false;
  }
  if (getenv("DW_FAULT_TRACE")) fprintf(stderr, "%s: point %u (before: %s)\n", w->title, w->nth, faults_where());
  return true;
}

void fault_check_failed(const char *file, int line, const char *cond, const char *fmt, ...) {
  char text[1000], message[400];
  faults_disarm();
  dw_error_copy(message, sizeof message);
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  ck_abort_msg("%s:%d: %s: %s (%s; errno %d; last message '%s')", file, line, cond, text, faults_where(), now.err,
               message);
  abort(); /* not reached */
}

static const char untouched[] = "(no message was set)";

void fault_dir(char *path, size_t cap) {
  const char *tmp = getenv("TMPDIR");
  const char *roots[] = {"/dev/shm", tmp && *tmp ? tmp : "/tmp"};
  for (size_t i = 0; i < 2; i++) {
    snprintf(path, cap, "%s/dw-faults-XXXXXX", roots[i]);
    if (mkdtemp(path)) return;
  }
  ck_abort_msg("no directory for temporary files: %s", strerror(errno));
}

void fault_forget_message(void) {
  dw_fail(DW_OK, "%s", untouched);
}

static bool fits(int rc) {
  if (rc == DW_CLOSED) return true; /* the log had stopped */
  switch (now.err) {
  case ENOMEM: return rc == DW_NO_MEMORY;
  case ENOSPC: return rc == DW_NO_SPACE || rc == DW_IO;
  default: return rc == DW_IO;
  }
}

void fault_judge(const char *call, int rc, const char *dir) {
  if (rc == DW_OK) return;
  const char *message = dw_last_error(),
             *names[] = {dir, "out of memory", "LSN", "getrandom", "RocksDB", "thread", "127.0.0.1", "network"};
  FAULT_CHECK(faults_hit(), "%s failed although nothing else had: %s", call, dw_rc_name(rc));
  FAULT_CHECK(fits(rc), "%s returned %s", call, dw_rc_name(rc));
  FAULT_CHECK(strcmp(message, untouched) != 0 && *message, "%s returned %s without a message", call, dw_rc_name(rc));
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strstr(message, names[i])) return;
  FAULT_CHECK(!"names something", "%s returned %s, its message names nothing", call, dw_rc_name(rc));
}

/* The linker redirects what shared libraries ask for too, in its books only: at run time they find the real ones. */
#pragma GCC visibility push(default)

/* ---- Check itself is not under test ---------------------------------------------------------- */

void __real__mark_point(const char *file, int line);
void __wrap__mark_point(const char *file, int line);
void __wrap__mark_point(const char *file, int line) {
  paused++;
  __real__mark_point(file, line);
  paused--;
}

/* ---- wrappers --------------------------------------------------------------------------------- */

/* WRAP(group, type, name, parameters, arguments, what a failed call returns) */
#define WRAP(group, type, name, params, args, failed)                                                                  \
  type __real_##name params;                                                                                           \
  type __wrap_##name params;                                                                                           \
  type __wrap_##name params {                                                                                          \
    if (fails(group, #name)) return failed;                                                                            \
    return __real_##name args;                                                                                         \
  }

WRAP(FAULT_MEMORY, void *, malloc, (size_t n), (n), NULL)
WRAP(FAULT_MEMORY, void *, calloc, (size_t n, size_t m), (n, m), NULL)
WRAP(FAULT_MEMORY, void *, realloc, (void *p, size_t n), (p, n), NULL)
WRAP(FAULT_MEMORY, char *, strdup, (const char *s), (s), NULL)
WRAP(FAULT_MEMORY, ZSTD_CCtx *, ZSTD_createCCtx, (void), (), NULL)
WRAP(FAULT_MEMORY, ZSTD_DCtx *, ZSTD_createDCtx, (void), (), NULL)
WRAP(FAULT_MEMORY, XXH3_state_t *, XXH3_createState, (void), (), NULL)
#define ZSTD_NO_MEMORY ((size_t)-64)
WRAP(FAULT_MEMORY, size_t, ZSTD_compressCCtx,
     (ZSTD_CCtx * c, void *dst, size_t cap, const void *src, size_t n, int level), (c, dst, cap, src, n, level),
     ZSTD_NO_MEMORY)
WRAP(FAULT_MEMORY, size_t, ZSTD_decompressDCtx, (ZSTD_DCtx * c, void *dst, size_t cap, const void *src, size_t n),
     (c, dst, cap, src, n), ZSTD_NO_MEMORY)
WRAP(FAULT_MEMORY, size_t, ZSTD_compressStream2,
     (ZSTD_CCtx * c, ZSTD_outBuffer *out, ZSTD_inBuffer *in, ZSTD_EndDirective end), (c, out, in, end), ZSTD_NO_MEMORY)
WRAP(FAULT_MEMORY, size_t, ZSTD_decompressStream, (ZSTD_DCtx * c, ZSTD_outBuffer *out, ZSTD_inBuffer *in), (c, out, in),
     ZSTD_NO_MEMORY)

WRAP(FAULT_THREADS, int, pthread_create, (pthread_t * t, const pthread_attr_t *a, void *(*run)(void *), void *arg),
     (t, a, run, arg), EAGAIN)

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...) {
  va_list ap;
  va_start(ap, flags);
  mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
  va_end(ap);
  return fails(FAULT_FILES, "open") ? -1 : __real_open(path, flags, mode);
}

WRAP(FAULT_FILES, ssize_t, read, (int fd, void *p, size_t n), (fd, p, n), -1)
WRAP(FAULT_FILES, ssize_t, pread, (int fd, void *p, size_t n, off_t off), (fd, p, n, off), -1)

/* A failing write has written half. */
ssize_t __real_pwrite(int fd, const void *p, size_t n, off_t off);
ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t off);
ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t off) {
  if (!fails(FAULT_FILES, "pwrite")) return __real_pwrite(fd, p, n, off);
  if (__real_pwrite(fd, p, n / 2, off) < 0) abort();
  errno = now.err;
  return -1;
}
ssize_t __real_pwritev(int fd, const struct iovec *iov, int n, off_t off);
ssize_t __wrap_pwritev(int fd, const struct iovec *iov, int n, off_t off);
ssize_t __wrap_pwritev(int fd, const struct iovec *iov, int n, off_t off) {
  if (!fails(FAULT_FILES, "pwritev")) return __real_pwritev(fd, iov, n, off);
  size_t half = 0;
  for (int i = 0; i < n; i++) half += iov[i].iov_len;
  half /= 2;
  for (int i = 0; half && i < n; i++) {
    size_t len = iov[i].iov_len < half ? iov[i].iov_len : half;
    if (__real_pwrite(fd, iov[i].iov_base, len, off) < 0) abort();
    half -= len;
    off += (off_t)len;
  }
  errno = now.err;
  return -1;
}
WRAP(FAULT_FILES, int, fdatasync, (int fd), (fd), -1)
WRAP(FAULT_FILES, int, fsync, (int fd), (fd), -1)
WRAP(FAULT_FILES, int, fstat, (int fd, struct stat *st), (fd, st), -1)
WRAP(FAULT_FILES, int, lstat, (const char *path, struct stat *st), (path, st), -1)
WRAP(FAULT_FILES, int, ftruncate, (int fd, off_t n), (fd, n), -1)
WRAP(FAULT_FILES, int, fallocate, (int fd, int mode, off_t off, off_t n), (fd, mode, off, n), -1)
WRAP(FAULT_FILES, int, rename, (const char *from, const char *to), (from, to), -1)
WRAP(FAULT_FILES, int, unlink, (const char *path), (path), -1)
WRAP(FAULT_FILES, int, mkdir, (const char *path, mode_t mode), (path, mode), -1)
WRAP(FAULT_FILES, int, rmdir, (const char *path), (path), -1)
WRAP(FAULT_FILES, int, flock, (int fd, int how), (fd, how), -1)
WRAP(FAULT_FILES, ssize_t, getrandom, (void *p, size_t n, unsigned flags), (p, n, flags), -1)
WRAP(FAULT_FILES, DIR *, opendir, (const char *path), (path), NULL)
WRAP(FAULT_FILES, struct dirent *, readdir, (DIR * d), (d), NULL)

static int resolver_error(void) {
  return now.err == ENOMEM ? EAI_MEMORY : EAI_FAIL;
}
WRAP(FAULT_NET, int, socket, (int domain, int type, int protocol), (domain, type, protocol), -1)
WRAP(FAULT_NET, int, bind, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n), -1)
WRAP(FAULT_NET, int, listen, (int fd, int n), (fd, n), -1)
WRAP(FAULT_NET, int, getsockname, (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n), -1)
WRAP(FAULT_NET, int, getaddrinfo,
     (const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **out),
     (host, port, hints, out), resolver_error())
WRAP(FAULT_NET, int, accept4, (int fd, struct sockaddr *a, socklen_t *n, int flags), (fd, a, n, flags), -1)
WRAP(FAULT_NET, int, uv_loop_init, (uv_loop_t * l), (l), -now.err)
WRAP(FAULT_NET, int, uv_async_init, (uv_loop_t * l, uv_async_t *a, uv_async_cb cb), (l, a, cb), -now.err)
WRAP(FAULT_NET, int, uv_poll_init, (uv_loop_t * l, uv_poll_t *p, int fd), (l, p, fd), -now.err)
WRAP(FAULT_NET, int, uv_tcp_init, (uv_loop_t * l, uv_tcp_t *t), (l, t), -now.err)
WRAP(FAULT_NET, int, uv_tcp_open, (uv_tcp_t * t, uv_os_sock_t fd), (t, fd), -now.err)
WRAP(FAULT_NET, int, uv_tcp_connect, (uv_connect_t * r, uv_tcp_t *t, const struct sockaddr *a, uv_connect_cb cb),
     (r, t, a, cb), -now.err)
WRAP(FAULT_NET, int, uv_getaddrinfo,
     (uv_loop_t * l, uv_getaddrinfo_t *r, uv_getaddrinfo_cb cb, const char *host, const char *port,
      const struct addrinfo *hints),
     (l, r, cb, host, port, hints), -now.err)
WRAP(FAULT_NET, int, uv_read_start, (uv_stream_t * s, uv_alloc_cb a, uv_read_cb r), (s, a, r), -now.err)
WRAP(FAULT_NET, int, uv_write, (uv_write_t * r, uv_stream_t *s, const uv_buf_t b[], unsigned n, uv_write_cb cb),
     (r, s, b, n, cb), -now.err)
WRAP(FAULT_NET, int, uv_try_write, (uv_stream_t * s, const uv_buf_t b[], unsigned n), (s, b, n), -now.err)
WRAP(FAULT_NET, int, uv_queue_work, (uv_loop_t * l, uv_work_t *w, uv_work_cb run, uv_after_work_cb done),
     (l, w, run, done), -now.err)

void faults_advance_ms(unsigned ms) {
  atomic_fetch_add(&advanced_ns, ms * 1000000ull);
}
int __real_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts) {
  int rc = __real_clock_gettime(id, ts);
  if (id != CLOCK_MONOTONIC) return rc;
  uint64_t ns = (uint64_t)ts->tv_sec * 1000000000u + (uint64_t)ts->tv_nsec + atomic_load(&advanced_ns);
  *ts = (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
  return rc;
}

/* Deadlines by the moved clock, as the kernel's tells them. */
static struct timespec unmoved(const struct timespec *at) {
  uint64_t ns = (uint64_t)at->tv_sec * 1000000000u + (uint64_t)at->tv_nsec, by = atomic_load(&advanced_ns);
  ns = ns > by ? ns - by : 0;
  return (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
}

int __real_pthread_cond_clockwait(pthread_cond_t *c, pthread_mutex_t *m, clockid_t id, const struct timespec *at);
int __wrap_pthread_cond_clockwait(pthread_cond_t *c, pthread_mutex_t *m, clockid_t id, const struct timespec *at);
int __wrap_pthread_cond_clockwait(pthread_cond_t *c, pthread_mutex_t *m, clockid_t id, const struct timespec *at) {
  struct timespec really = unmoved(at);
  return __real_pthread_cond_clockwait(c, m, id, &really);
}

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...) {
  va_list ap;
  long a[6];
  va_start(ap, number);
  for (int i = 0; i < 6; i++) a[i] = va_arg(ap, long); /* as many as the kernel takes, whatever was passed */
  va_end(ap);
  struct timespec really;
  if (number == SYS_futex && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && a[3]) {
    really = unmoved((const struct timespec *)a[3]);
    a[3] = (long)&really;
  }
  return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* RocksDB's texts begin with the kind and name a file. Freed by rocksdb_free, which is free. */
char *__real_strdup(const char *s);
static char *rocks_error(void) {
  return __real_strdup(now.err == ENOSPC ? "IO error: No space left on device: injected/000012.sst"
                                         : "IO error: injected/000012.sst: Input/output error");
}
#define WRAP_ROCKS(type, name, params, args, failed)                                                                   \
  type __real_##name params;                                                                                           \
  type __wrap_##name params;                                                                                           \
  type __wrap_##name params {                                                                                          \
    if (!fails(FAULT_STORE, #name)) return __real_##name args;                                                         \
    *err = rocks_error();                                                                                              \
    return failed;                                                                                                     \
  }
WRAP_ROCKS(rocksdb_t *, rocksdb_open, (const rocksdb_options_t *o, const char *name, char **err), (o, name, err), NULL)
WRAP_ROCKS(rocksdb_t *, rocksdb_open_for_read_only,
           (const rocksdb_options_t *o, const char *name, unsigned char strict, char **err), (o, name, strict, err),
           NULL)
WRAP_ROCKS(char *, rocksdb_get,
           (rocksdb_t * db, const rocksdb_readoptions_t *o, const char *key, size_t n, size_t *vlen, char **err),
           (db, o, key, n, vlen, err), NULL)
WRAP_ROCKS(void, rocksdb_write, (rocksdb_t * db, const rocksdb_writeoptions_t *o, rocksdb_writebatch_t *b, char **err),
           (db, o, b, err), )
WRAP_ROCKS(void, rocksdb_flush, (rocksdb_t * db, const rocksdb_flushoptions_t *o, char **err), (db, o, err), )
WRAP_ROCKS(rocksdb_checkpoint_t *, rocksdb_checkpoint_object_create, (rocksdb_t * db, char **err), (db, err), NULL)
WRAP_ROCKS(void, rocksdb_checkpoint_create, (rocksdb_checkpoint_t * c, const char *dir, uint64_t log_size, char **err),
           (c, dir, log_size, err), )
WRAP_ROCKS(void, rocksdb_iter_get_error, (const rocksdb_iterator_t *it, char **err), (it, err), )
