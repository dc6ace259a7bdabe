/* Other processes of a bench: followers, writers that get killed. A child is this very program again (exec, so that no
 * thread or lock of RocksDB is inherited), told its role by "--child ROLE args..."; a socket pair is its line to the
 * parent, text lines both ways. It ends when the line does. */
#ifndef BENCH_SUPPORT_CHILD_H
#define BENCH_SUPPORT_CHILD_H

#include <stddef.h>
#include <sys/types.h>

struct child {
  pid_t pid; /* 0: none */
  int fd;
};

struct child_role {
  const char *name; /* NULL ends the table */
  int (*run)(int fd, char **args);
};

/* args: up to 12, NULL-terminated. */
void child_start(struct child *, const char *role, const char *const *args);
void child_tell(struct child *, const char *line); /* sends line and newline */
void child_answer(struct child *, char *line, size_t cap); /* waits for a line; dies if the child did */
void child_get(struct child *, void *data, size_t n); /* exactly n bytes */
void child_stop(struct child *); /* closes the line, waits for its end */
void child_kill(struct child *); /* kill -9, waits */
void children_end(void); /* those that are left; at exit */

/* In the child: a line from the parent, -1 at its end. */
int line_read(int fd, char *line, size_t cap);
void line_write(int fd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void bytes_write(int fd, const void *, size_t n);

/* Runs a role and exits if that is what argv says. */
void child_dispatch(int argc, char **argv, const struct child_role *);

#endif
