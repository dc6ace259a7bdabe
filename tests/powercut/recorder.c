/* libdwrecorder.so, for LD_PRELOAD: writes down a live daemon's file system calls, RocksDB's included (record.h).
 *
 *   DW_RECORD       the recording, appended to
 *   DW_RECORD_ROOT  only files below this folder count, an absolute path without symbolic links; what is there when a
 * recording begins is recorded first, as written and synced DW_RECORD_FAST  if set, syncs are recorded but not made
 *
 * A call and its record are one step under a lock, so the order of records is the order of effects. Two exceptions. A
 * sync is two records, around the call: only what was written before it began is promised when it has ended. What
 * leaves through a socket is recorded before it is sent, so that a promise is never seen later than it was made.
 *
 * Not seen: mmap writes, stdio, dup'ed descriptors. Whether that matters is checked, not assumed: an image that keeps
 * everything must equal the real folder at the end (powercut.c).
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/powercut/record.h"

#define EXPORT __attribute__((visibility("default")))
#define FDS 4096

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static bool fast;
static char root[1024];
static uint64_t syncs;
static struct {
  uint64_t ino;     /* 0: not ours */
  bool each_synced; /* O_SYNC, O_DSYNC */
} fds[FDS];

/* The next definition of a function; the cast by memcpy is what POSIX leaves us. */
#define REAL(name)                                                                                                     \
  static __typeof__(&name) real_##name;                                                                                \
  if (!real_##name) {                                                                                                  \
    void *found = dlsym(RTLD_NEXT, #name);                                                                             \
    memcpy(&real_##name, &found, sizeof found);                                                                        \
  }

static void put_text(uint32_t type, uint64_t ino, uint64_t value, const char *a, const char *b);
static void put(uint32_t type, uint64_t ino, uint64_t offset, uint64_t value, const struct iovec *data, int n);

static void note_synced(uint64_t ino) {
  put(RECORD_SYNC_BEGIN, ino, 0, ++syncs, NULL, 0);
  put(RECORD_SYNC_END, 0, 0, syncs, NULL, 0);
}

static void note_file(const char *path, const struct stat *st) {
  REAL(open)
  REAL(close)
  struct iovec all = {malloc((size_t)st->st_size + 1), 0};
  int fd = real_open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || !all.iov_base) abort();
  for (ssize_t n;
       (n = pread(fd, (char *)all.iov_base + all.iov_len, (size_t)st->st_size - all.iov_len, (off_t)all.iov_len)) > 0;)
    all.iov_len += (size_t)n;
  real_close(fd);
  put_text(RECORD_CREATE, st->st_ino, 0, path, NULL);
  put(RECORD_WRITE, st->st_ino, 0, 0, &all, 1);
  note_synced(st->st_ino);
  free(all.iov_base);
}

/* What is there. The root's own entries are synced by its number, so it is always noted. */
static void note_tree(const char *path, bool contents) {
  struct stat st;
  DIR *d = opendir(path);
  if (!d || stat(path, &st)) abort();
  put_text(RECORD_CREATE, st.st_ino, 1, path, NULL);
  for (const struct dirent *e; contents && (e = readdir(d));) {
    char child[2048];
    struct stat inner;
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
    snprintf(child, sizeof child, "%s/%s", path, e->d_name);
    if (stat(child, &inner)) abort();
    if (S_ISDIR(inner.st_mode))
      note_tree(child, true);
    else
      note_file(child, &inner);
  }
  closedir(d);
  if (contents) note_synced(st.st_ino);
}

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("DW_RECORD"), *below = getenv("DW_RECORD_ROOT");
  if (!path || !below) return;
  REAL(open)
  fast = getenv("DW_RECORD_FAST") != NULL;
  log_fd = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  /* Sync numbers of different processes must differ. */
  syncs = (uint64_t)getpid() << 32;
  if (log_fd < 0) abort();
  bool fresh = lseek(log_fd, 0, SEEK_END) == 0;
  note_tree(below, fresh);
  if (fresh) put(RECORD_BEGIN, 0, 0, 0, NULL, 0);
  snprintf(root, sizeof root, "%s", below);
}

static bool is_below(const char *path) {
  size_t n = strlen(root);
  return log_fd >= 0 && n && path && strncmp(path, root, n) == 0 && (path[n] == '/' || !path[n]);
}

/* A recording with a hole is worse than none. */
static void put(uint32_t type, uint64_t ino, uint64_t offset, uint64_t value, const struct iovec *data, int n) {
  struct iovec iov[64];
  struct record r = {.type = type, .ino = ino, .offset = offset, .value = value};
  ssize_t all = sizeof r;
  REAL(writev)
  if (n > 63) abort();
  for (int i = 0; i < n; i++) {
    iov[i + 1] = data[i];
    r.bytes += (uint32_t)data[i].iov_len;
    all += (ssize_t)data[i].iov_len;
  }
  iov[0] = (struct iovec){&r, sizeof r};
  int saved = errno;
  if (real_writev(log_fd, iov, n + 1) != all) abort();
  errno = saved;
}

static void put_text(uint32_t type, uint64_t ino, uint64_t value, const char *a, const char *b) {
  struct iovec iov[2] = {{(void *)(uintptr_t)a, strlen(a) + 1}, {(void *)(uintptr_t)b, b ? strlen(b) + 1 : 0}};
  put(type, ino, 0, value, iov, b ? 2 : 1);
}

static uint64_t ino_of(int fd) {
  return fd >= 0 && fd < FDS ? fds[fd].ino : 0;
}

/* ---- opening --------------------------------------------------------------------------------------- */

static void opened(int fd, const char *path, int flags, bool was_there) {
  struct stat st;
  if (fd < 0) return;
  if (fd >= FDS || fstat(fd, &st)) abort();
  fds[fd].ino = st.st_ino;
  fds[fd].each_synced = (flags & O_DSYNC) != 0;
  if (!was_there) put_text(RECORD_CREATE, st.st_ino, 0, path, NULL);
  if (was_there && flags & O_TRUNC) put(RECORD_TRUNCATE, st.st_ino, 0, 0, NULL, 0);
}

static int do_open(const char *path, int flags, mode_t mode) {
  REAL(open)
  if (!is_below(path)) return real_open(path, flags, mode);
  struct stat st;
  pthread_mutex_lock(&mu);
  bool was_there = lstat(path, &st) == 0;
  int fd = real_open(path, flags, mode);
  opened(fd, path, flags, was_there);
  pthread_mutex_unlock(&mu);
  return fd;
}

static mode_t mode_of(int flags, va_list ap) {
  return flags & O_CREAT ? va_arg(ap, mode_t) : 0;
}

#define OPEN(name)                                                                                                     \
  EXPORT int name(const char *path, int flags, ...) {                                                                  \
    va_list ap;                                                                                                        \
    va_start(ap, flags);                                                                                               \
    mode_t mode = mode_of(flags, ap);                                                                                  \
    va_end(ap);                                                                                                        \
    return do_open(path, flags, mode);                                                                                 \
  }
OPEN(open)
OPEN(open64)

/* Only absolute paths, which ignore dir, are followed. */
#define OPENAT(name)                                                                                                   \
  EXPORT int name(int dir, const char *path, int flags, ...) {                                                         \
    va_list ap;                                                                                                        \
    va_start(ap, flags);                                                                                               \
    mode_t mode = mode_of(flags, ap);                                                                                  \
    va_end(ap);                                                                                                        \
    REAL(name)                                                                                                         \
    return is_below(path) ? do_open(path, flags, mode) : real_##name(dir, path, flags, mode);                          \
  }
OPENAT(openat)
OPENAT(openat64)

EXPORT int creat(const char *path, mode_t mode) {
  return do_open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

EXPORT int close(int fd) {
  REAL(close)
  if (!ino_of(fd)) return real_close(fd);
  pthread_mutex_lock(&mu);
  fds[fd].ino = 0;
  int rc = real_close(fd);
  pthread_mutex_unlock(&mu);
  return rc;
}

/* ---- writing --------------------------------------------------------------------------------------- */

/* What a write that took n bytes has changed. mu held. */
static void wrote(int fd, uint64_t offset, const struct iovec *iov, int count, ssize_t n) {
  struct iovec part[62];
  int parts = 0;
  uint64_t left = n > 0 ? (uint64_t)n : 0;
  for (int i = 0; i < count && left; i++) {
    part[parts] = iov[i];
    if (part[parts].iov_len > left) part[parts].iov_len = left;
    left -= part[parts].iov_len;
    if (++parts < 62 && left && i + 1 < count) continue;
    uint64_t bytes = 0;
    for (int k = 0; k < parts; k++) bytes += part[k].iov_len;
    put(RECORD_WRITE, fds[fd].ino, offset, 0, part, parts);
    offset += bytes;
    parts = 0;
  }
  if (n > 0 && fds[fd].each_synced) {
    put(RECORD_SYNC_BEGIN, fds[fd].ino, 0, ++syncs, NULL, 0);
    put(RECORD_SYNC_END, 0, 0, syncs, NULL, 0);
  }
}

static void sending(int fd, const struct iovec *iov, int count) {
  struct stat st;
  if (log_fd < 0 || fstat(fd, &st) || !S_ISSOCK(st.st_mode)) return;
  pthread_mutex_lock(&mu);
  for (int i = 0; i < count; i += 62) put(RECORD_SENT, 0, 0, (uint64_t)fd, iov + i, count - i < 62 ? count - i : 62);
  pthread_mutex_unlock(&mu);
}

EXPORT ssize_t writev(int fd, const struct iovec *iov, int count) {
  REAL(writev)
  if (!ino_of(fd)) {
    sending(fd, iov, count);
    return real_writev(fd, iov, count);
  }
  struct stat st;
  pthread_mutex_lock(&mu);
  off_t at = fcntl(fd, F_GETFL) & O_APPEND && fstat(fd, &st) == 0 ? st.st_size : lseek(fd, 0, SEEK_CUR);
  ssize_t n = real_writev(fd, iov, count);
  wrote(fd, (uint64_t)at, iov, count, n);
  pthread_mutex_unlock(&mu);
  return n;
}

EXPORT ssize_t write(int fd, const void *data, size_t n) {
  struct iovec iov = {(void *)(uintptr_t)data, n};
  REAL(write)
  if (ino_of(fd)) return writev(fd, &iov, 1);
  sending(fd, &iov, 1);
  return real_write(fd, data, n);
}

static ssize_t do_pwritev(int fd, const struct iovec *iov, int count, off_t at) {
  REAL(pwritev)
  if (!ino_of(fd)) return real_pwritev(fd, iov, count, at);
  pthread_mutex_lock(&mu);
  ssize_t n = real_pwritev(fd, iov, count, at);
  wrote(fd, (uint64_t)at, iov, count, n);
  pthread_mutex_unlock(&mu);
  return n;
}

EXPORT ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t at) {
  return do_pwritev(fd, iov, count, at);
}
EXPORT ssize_t pwritev64(int fd, const struct iovec *iov, int count, off_t at) {
  return do_pwritev(fd, iov, count, at);
}
EXPORT ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
  struct iovec iov = {(void *)(uintptr_t)data, n};
  return do_pwritev(fd, &iov, 1, at);
}
EXPORT ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) {
  struct iovec iov = {(void *)(uintptr_t)data, n};
  return do_pwritev(fd, &iov, 1, at);
}

EXPORT ssize_t send(int fd, const void *data, size_t n, int flags) {
  struct iovec iov = {(void *)(uintptr_t)data, n};
  REAL(send)
  sending(fd, &iov, 1);
  return real_send(fd, data, n, flags);
}
EXPORT ssize_t sendmsg(int fd, const struct msghdr *m, int flags) {
  REAL(sendmsg)
  sending(fd, m->msg_iov, (int)m->msg_iovlen);
  return real_sendmsg(fd, m, flags);
}

/* ---- sizes ----------------------------------------------------------------------------------------- */

static int do_ftruncate(int fd, off_t size) {
  REAL(ftruncate)
  if (!ino_of(fd)) return real_ftruncate(fd, size);
  pthread_mutex_lock(&mu);
  int rc = real_ftruncate(fd, size);
  if (rc == 0) put(RECORD_TRUNCATE, fds[fd].ino, (uint64_t)size, 0, NULL, 0);
  pthread_mutex_unlock(&mu);
  return rc;
}
EXPORT int ftruncate(int fd, off_t size) {
  return do_ftruncate(fd, size);
}
EXPORT int ftruncate64(int fd, off_t size) {
  return do_ftruncate(fd, size);
}

static int do_fallocate(int fd, int mode, off_t at, off_t n) {
  REAL(fallocate)
  if (!ino_of(fd)) return real_fallocate(fd, mode, at, n);
  pthread_mutex_lock(&mu);
  int rc = real_fallocate(fd, mode, at, n);
  if (rc == 0 && mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
    put(RECORD_ZERO, fds[fd].ino, (uint64_t)at, (uint64_t)n, NULL, 0);
  if (rc == 0 && !(mode & FALLOC_FL_KEEP_SIZE)) put(RECORD_ALLOCATE, fds[fd].ino, (uint64_t)(at + n), 0, NULL, 0);
  pthread_mutex_unlock(&mu);
  return rc;
}
EXPORT int fallocate(int fd, int mode, off_t at, off_t n) {
  return do_fallocate(fd, mode, at, n);
}
EXPORT int fallocate64(int fd, int mode, off_t at, off_t n) {
  return do_fallocate(fd, mode, at, n);
}
EXPORT int posix_fallocate(int fd, off_t at, off_t n) {
  return do_fallocate(fd, 0, at, n) ? errno : 0;
}

/* ---- names ----------------------------------------------------------------------------------------- */

#define TWO_NAMES(name, type)                                                                                          \
  EXPORT int name(const char *from, const char *to) {                                                                  \
    REAL(name)                                                                                                         \
    if (!is_below(from) && !is_below(to)) return real_##name(from, to);                                                \
    pthread_mutex_lock(&mu);                                                                                           \
    int rc = real_##name(from, to);                                                                                    \
    if (rc == 0) put_text(type, 0, 0, from, to);                                                                       \
    pthread_mutex_unlock(&mu);                                                                                         \
    return rc;                                                                                                         \
  }
TWO_NAMES(rename, RECORD_RENAME)
TWO_NAMES(link, RECORD_LINK)

#define ONE_NAME(name)                                                                                                 \
  EXPORT int name(const char *path) {                                                                                  \
    REAL(name)                                                                                                         \
    if (!is_below(path)) return real_##name(path);                                                                     \
    pthread_mutex_lock(&mu);                                                                                           \
    int rc = real_##name(path);                                                                                        \
    if (rc == 0) put_text(RECORD_UNLINK, 0, 0, path, NULL);                                                            \
    pthread_mutex_unlock(&mu);                                                                                         \
    return rc;                                                                                                         \
  }
ONE_NAME(unlink)
ONE_NAME(rmdir)

EXPORT int mkdir(const char *path, mode_t mode) {
  REAL(mkdir)
  struct stat st;
  if (!is_below(path)) return real_mkdir(path, mode);
  pthread_mutex_lock(&mu);
  int rc = real_mkdir(path, mode);
  if (rc == 0 && stat(path, &st)) abort();
  if (rc == 0) put_text(RECORD_CREATE, st.st_ino, 1, path, NULL);
  pthread_mutex_unlock(&mu);
  return rc;
}

/* ---- syncs ----------------------------------------------------------------------------------------- */

static int do_sync(int fd, int (*real)(int)) {
  uint64_t ino = ino_of(fd), number;
  if (!ino) return real(fd);
  pthread_mutex_lock(&mu);
  number = ++syncs;
  put(RECORD_SYNC_BEGIN, ino, 0, number, NULL, 0);
  pthread_mutex_unlock(&mu);
  int rc = fast ? 0 : real(fd);
  pthread_mutex_lock(&mu);
  if (rc == 0) put(RECORD_SYNC_END, 0, 0, number, NULL, 0);
  pthread_mutex_unlock(&mu);
  return rc;
}
EXPORT int fsync(int fd) {
  REAL(fsync)
  return do_sync(fd, real_fsync);
}
EXPORT int fdatasync(int fd) {
  REAL(fdatasync)
  return do_sync(fd, real_fdatasync);
}
