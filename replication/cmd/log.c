/* The daemons' log. The only process-wide state of cmd/: it belongs to main, not to the library. */
#include "replication/cmd/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct {
  pthread_mutex_t mu;
  int fd;
  const char *path;
  dw_log_level least;
} sink = {PTHREAD_MUTEX_INITIALIZER, STDERR_FILENO, NULL, DW_LOG_INFO};

static int open_file(const char *path) { return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644); }

int log_open(const char *path, dw_log_level least) {
  int fd = path ? open_file(path) : STDERR_FILENO;
  if (fd < 0) return -1;
  sink.fd = fd;
  sink.path = path;
  sink.least = least;
  return 0;
}

void log_reopen(void) {
  pthread_mutex_lock(&sink.mu);
  int fd = sink.path ? open_file(sink.path) : -1;
  if (fd >= 0) {
    close(sink.fd);
    sink.fd = fd;
  }
  pthread_mutex_unlock(&sink.mu);
}

void log_close(void) {
  pthread_mutex_lock(&sink.mu);
  if (sink.path) close(sink.fd);
  sink.fd = STDERR_FILENO;
  sink.path = NULL;
  pthread_mutex_unlock(&sink.mu);
}

void log_line(void *arg, dw_log_level level, const char *line) {
  static const char *const names[] = {"DEBUG", "INFO", "WARN", "ERROR"};
  (void)arg;
  if (level < sink.least) return;
  struct timespec ts;
  struct tm tm;
  clock_gettime(CLOCK_REALTIME, &ts);
  gmtime_r(&ts.tv_sec, &tm);
  char text[1300];
  size_t at = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
  int n = snprintf(text + at, sizeof text - at, ".%03ldZ %-5s %s\n", ts.tv_nsec / 1000000, names[level], line);
  at += (size_t)n < sizeof text - at ? (size_t)n : sizeof text - at - 1;
  pthread_mutex_lock(&sink.mu);
  ssize_t written = write(sink.fd, text, at);
  (void)written; /* nowhere to complain */
  pthread_mutex_unlock(&sink.mu);
}

void log_printf(dw_log_level level, const char *fmt, ...) {
  char line[1100];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  log_line(NULL, level, line);
}
