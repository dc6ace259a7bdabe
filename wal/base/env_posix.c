/* The environment of production: Linux system calls behind struct env_ops.
 *
 * Calls restart on EINTR and go on after short counts, so callers see all or an error. Every error names the path.
 * Nothing is ever retried after a failed fdatasync: the caller decides what dies.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "wal/base/env.h"
#include "wal/base/status.h"

struct env_file {
  int fd;
  char path[]; /* for messages */
};

static int file_new(int fd, const char *path, struct env_file **out) {
  size_t n = strlen(path) + 1;
  struct env_file *f = malloc(sizeof *f + n);
  if (!f) {
    close(fd);
    return dw_fail_nomem(sizeof *f + n);
  }
  f->fd = fd;
  memcpy(f->path, path, n);
  *out = f;
  return DW_OK;
}

static int posix_open(struct env *env, const char *path, enum env_open_mode mode, struct env_file **out) {
  (void)env;
  static const int flags[] = {[ENV_READ] = O_RDONLY,
                              [ENV_WRITE] = O_RDWR,
                              [ENV_CREATE] = O_RDWR | O_CREAT,
                              [ENV_CREATE_NEW] = O_RDWR | O_CREAT | O_EXCL};
  int fd;
  do fd = open(path, flags[mode] | O_CLOEXEC, 0644);
  while (fd < 0 && errno == EINTR);
  if (fd < 0 && errno == ENOENT) return dw_fail(DW_NOT_FOUND, "%s: no such file", path);
  if (fd < 0) return dw_fail_errno(errno, "open %s", path);
  return file_new(fd, path, out);
}

static void posix_close(struct env_file *f) {
  if (!f) return;
  close(f->fd);
  free(f);
}

static int posix_pread(struct env_file *f, uint64_t off, void *buf, size_t n, size_t *got) {
  size_t done = 0;
  while (done < n) {
    ssize_t r = pread(f->fd, (char *)buf + done, n - done, (off_t)(off + done));
    if (r < 0 && errno == EINTR) continue;
    if (r < 0) return dw_fail_errno(errno, "read %s at offset %llu", f->path, (unsigned long long)(off + done));
    if (r == 0) break;
    done += (size_t)r;
  }
  *got = done;
  return DW_OK;
}

static int posix_pwritev(struct env_file *f, uint64_t off, const struct iovec *iov, int iovcnt) {
  size_t skip = 0; /* bytes of iov[0] that are written already */
  while (iovcnt > 0) {
    ssize_t w;
    if (skip) {
      w = pwrite(f->fd, (const char *)iov->iov_base + skip, iov->iov_len - skip, (off_t)off);
    } else {
      w = pwritev(f->fd, iov, iovcnt < IOV_MAX ? iovcnt : IOV_MAX, (off_t)off);
    }
    if (w < 0 && errno == EINTR) continue;
    if (w < 0) return dw_fail_errno(errno, "write %s at offset %llu", f->path, (unsigned long long)off);
    off += (uint64_t)w;
    size_t left = (size_t)w + skip;
    while (iovcnt > 0 && left >= iov->iov_len) left -= iov->iov_len, iov++, iovcnt--;
    skip = left;
  }
  return DW_OK;
}

static int posix_fdatasync(struct env_file *f) {
  if (fdatasync(f->fd) == 0) return DW_OK;
  return dw_fail_errno(errno, "fdatasync %s", f->path);
}

static int posix_size(struct env_file *f, uint64_t *bytes) {
  struct stat st;
  if (fstat(f->fd, &st)) return dw_fail_errno(errno, "stat %s", f->path);
  *bytes = (uint64_t)st.st_size;
  return DW_OK;
}

static int posix_truncate(struct env_file *f, uint64_t bytes) {
  int r;
  do r = ftruncate(f->fd, (off_t)bytes);
  while (r && errno == EINTR);
  return r ? dw_fail_errno(errno, "truncate %s", f->path) : DW_OK;
}

static int posix_allocate(struct env_file *f, uint64_t bytes) {
  int r;
  do r = fallocate(f->fd, 0, 0, (off_t)bytes);
  while (r && errno == EINTR);
  if (r == 0) return DW_OK;
  if (errno != EOPNOTSUPP)
    return dw_fail_errno(errno, "allocate %llu bytes for %s", (unsigned long long)bytes, f->path);
  uint64_t size;
  int rc = posix_size(f, &size);
  return rc || size >= bytes ? rc : posix_truncate(f, bytes);
}

static int posix_rename(struct env *env, const char *from, const char *to) {
  (void)env;
  return rename(from, to) ? dw_fail_errno(errno, "rename %s to %s", from, to) : DW_OK;
}

static int posix_link(struct env *env, const char *from, const char *to) {
  (void)env;
  if (link(from, to) == 0) return DW_OK;
  if (errno == ENOENT) return dw_fail(DW_NOT_FOUND, "link %s: No such file or directory", from);
  return dw_fail_errno(errno, "link %s to %s", from, to);
}

static int posix_unlink(struct env *env, const char *path) {
  (void)env;
  if (unlink(path) == 0) return DW_OK;
  return errno == ENOENT ? dw_fail(DW_NOT_FOUND, "%s: no such file", path) : dw_fail_errno(errno, "unlink %s", path);
}

static int posix_mkdir(struct env *env, const char *path) {
  (void)env;
  struct stat st;
  if (mkdir(path, 0755) == 0) return DW_OK;
  if (errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return DW_OK;
  return dw_fail_errno(errno == EEXIST ? ENOTDIR : errno, "make directory %s", path);
}

static int posix_rmdir(struct env *env, const char *path) {
  (void)env;
  return rmdir(path) ? dw_fail_errno(errno, "remove directory %s", path) : DW_OK;
}

static int posix_sync_dir(struct env *env, const char *path) {
  (void)env;
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return dw_fail_errno(errno, "open directory %s", path);
  int rc = fsync(fd) ? dw_fail_errno(errno, "sync directory %s", path) : DW_OK;
  close(fd);
  return rc;
}

static int posix_list(struct env *env, const char *path, int (*fn)(void *, const char *, bool), void *arg) {
  (void)env;
  DIR *d = opendir(path);
  if (!d)
    return errno == ENOENT ? dw_fail(DW_NOT_FOUND, "%s: no such directory", path)
                           : dw_fail_errno(errno, "list %s", path);
  int rc = DW_OK;
  for (;;) {
    errno = 0;
    const struct dirent *e = readdir(d);
    if (!e) {
      if (errno) rc = dw_fail_errno(errno, "list %s", path);
      break;
    }
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
    bool is_dir = e->d_type == DT_DIR;
    if (e->d_type == DT_UNKNOWN) { /* some file systems do not say */
      struct stat st;
      is_dir = fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
    }
    if (fn(arg, e->d_name, is_dir)) break;
  }
  closedir(d);
  return rc;
}

static int posix_exists(struct env *env, const char *path, bool *yes) {
  (void)env;
  struct stat st;
  *yes = lstat(path, &st) == 0;
  if (*yes || errno == ENOENT || errno == ENOTDIR) return DW_OK;
  return dw_fail_errno(errno, "stat %s", path);
}

/* flock belongs to the open file, so a second handle in the same process is refused too. */
static int posix_lock(struct env *env, const char *path, struct env_file **out) {
  (void)env;
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return dw_fail_errno(errno, "open %s", path);
  if (flock(fd, LOCK_EX | LOCK_NB)) {
    int err = errno;
    close(fd);
    return err == EWOULDBLOCK ? dw_fail(DW_LOCKED, "%s is held by another process or handle", path)
                              : dw_fail_errno(err, "lock %s", path);
  }
  return file_new(fd, path, out);
}

static uint64_t clock_ns(clockid_t id) {
  struct timespec ts;
  clock_gettime(id, &ts);
  return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t posix_mono(struct env *env) {
  (void)env;
  return clock_ns(CLOCK_MONOTONIC);
}

static uint64_t posix_wall(struct env *env) {
  (void)env;
  return clock_ns(CLOCK_REALTIME);
}

static int posix_random(struct env *env, void *buf, size_t n) {
  (void)env;
  size_t done = 0;
  while (done < n) {
    ssize_t r = getrandom((char *)buf + done, n - done, 0);
    if (r < 0 && errno == EINTR) continue;
    if (r < 0) return dw_fail_errno(errno, "getrandom");
    done += (size_t)r;
  }
  return DW_OK;
}

static bool posix_boot_id(struct env *env, uint8_t id[16]) {
  (void)env;
  char text[64] = "";
  int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  unsigned digits = 0;
  memset(id, 0, 16);
  for (ssize_t i = 0; i < n && digits < 32; i++) {
    char c = text[i];
    int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (v < 0) continue;
    id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | v);
    digits++;
  }
  return digits == 32;
}

struct env *env_posix(void) {
  static const struct env_ops ops = {
      .open = posix_open,
      .close = posix_close,
      .pread = posix_pread,
      .pwritev = posix_pwritev,
      .fdatasync = posix_fdatasync,
      .size = posix_size,
      .truncate = posix_truncate,
      .allocate = posix_allocate,
      .rename = posix_rename,
      .link = posix_link,
      .unlink = posix_unlink,
      .mkdir = posix_mkdir,
      .rmdir = posix_rmdir,
      .sync_dir = posix_sync_dir,
      .list = posix_list,
      .exists = posix_exists,
      .lock = posix_lock,
      .unlock = posix_close,
      .mono_ns = posix_mono,
      .wall_ns = posix_wall,
      .random = posix_random,
      .boot_id = posix_boot_id,
  };
  static struct env env = {&ops};
  return &env;
}
