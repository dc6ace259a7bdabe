#include "replication/cmd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "replication/cmd/text.h"
#include "wal/base/status.h"

struct logger {
  char *path; /* NULL: stderr */
  dw_log_level least;
  pthread_mutex_t mu;
  int fd; /* mu */
};

static int open_file(const char *path) {
  return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
}

int logger_open(const char *path, dw_log_level least, struct logger **out) {
  struct logger *l = calloc(1, sizeof *l);
  if (!l) return dw_fail_nomem(sizeof *l);
  l->least = least;
  l->fd = STDERR_FILENO;
  pthread_mutex_init(&l->mu, NULL);
  if (path) {
    l->path = strdup(path);
    l->fd = l->path ? open_file(path) : -1;
    if (l->fd < 0) {
      int rc = l->path ? dw_fail_errno(errno, "can't open the log file %s", path) : dw_fail_nomem(strlen(path));
      free(l->path);
      free(l);
      return rc;
    }
  }
  *out = l;
  return DW_OK;
}

void logger_close(struct logger *l) {
  if (!l) return;
  if (l->path) close(l->fd);
  pthread_mutex_destroy(&l->mu);
  free(l->path);
  free(l);
}

bool logger_to_file(const struct logger *l) {
  return l->path != NULL;
}

void logger_reopen(struct logger *l) {
  if (!l->path) return;
  int fd = open_file(l->path);
  if (fd < 0) {
    logger_line(l, DW_LOG_ERROR, "can't reopen the log file %s: %s", l->path, strerror(errno));
    return;
  }
  pthread_mutex_lock(&l->mu);
  int old = l->fd;
  l->fd = fd;
  pthread_mutex_unlock(&l->mu);
  close(old);
  logger_line(l, DW_LOG_INFO, "log file reopened");
}

void logger_engine(void *arg, dw_log_level level, const char *line) {
  static const char *const names[] = {"DEBUG", "INFO ", "WARN ", "ERROR"};
  struct logger *l = arg;
  char out[2048];
  struct timespec ts;
  struct tm tm;
  if (level < l->least) return;
  clock_gettime(CLOCK_REALTIME, &ts);
  gmtime_r(&ts.tv_sec, &tm);
  size_t n = strftime(out, sizeof out, "%Y-%m-%dT%H:%M:%S", &tm);
  int text = snprintf(out + n, sizeof out - n - 1, ".%03ldZ %s %s", ts.tv_nsec / 1000000,
                      names[level <= DW_LOG_ERROR ? level : DW_LOG_ERROR], line);
  n += (size_t)text < sizeof out - n - 1 ? (size_t)text : sizeof out - n - 2;
  out[n] = 0;
  text_printable(out);
  out[n++] = '\n';
  pthread_mutex_lock(&l->mu);
  ssize_t put = write(l->fd, out, n); /* a log that can't be written must not stop a database */
  (void)put;
  pthread_mutex_unlock(&l->mu);
}

void logger_line(struct logger *l, dw_log_level level, const char *fmt, ...) {
  char line[1900];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  logger_engine(l, level, line);
}
