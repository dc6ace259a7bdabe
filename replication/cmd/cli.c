#include "replication/cmd/cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "replication/cmd/config.h"
#include "replication/cmd/text.h"

static void say(const char *command, const char *fmt, va_list ap) {
  char line[1500];
  vsnprintf(line, sizeof line, fmt, ap);
  text_printable(line);
  fprintf(stderr, "dabbawal %s: %s\n", command, line);
}

int cli_fail(const char *command, int code, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  say(command, fmt, ap);
  va_end(ap);
  return code;
}

bool cli_wrong(const char *command, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  say(command, fmt, ap);
  va_end(ap);
  return false;
}

static const struct cli_option *find(const struct cli_option *o, size_t n, const char *arg, size_t len) {
  for (size_t i = 0; i < n; i++)
    if (strlen(o[i].name) == len && memcmp(o[i].name, arg, len) == 0) return &o[i];
  return NULL;
}

static bool take_option(const char *command, int argc, char **argv, int *i, const struct cli_option *o, size_t n) {
  char *arg = argv[*i], *eq = strchr(arg, '=');
  const struct cli_option *f = find(o, n, arg, eq ? (size_t)(eq - arg) : strlen(arg));
  if (!f) return cli_wrong(command, "unknown option %.200s", arg);
  if (f->given) *f->given = true;
  if (!f->value) return eq ? cli_wrong(command, "%.200s: takes no value", f->name) : true;
  if (eq)
    *f->value = eq + 1;
  else if (*i + 1 < argc && strncmp(argv[*i + 1], "--", 2) != 0)
    *f->value = argv[++*i];
  else
    return cli_wrong(command, "%.200s: needs a value", f->name);
  return true;
}

bool cli_arguments(const char *command, int argc, char **argv, const struct cli_option *o, size_t options,
                   const char **rest, size_t min, size_t max, size_t *count) {
  bool good = true;
  *count = 0;
  for (int i = 1; i < argc; i++) {
    if (argv[i][0] == '-' && argv[i][1] != 0)
      good &= take_option(command, argc, argv, &i, o, options);
    else if (*count < max)
      rest[(*count)++] = argv[i];
    else
      good = cli_wrong(command, "unexpected argument '%.200s'", argv[i]);
  }
  if (*count < min) good = cli_wrong(command, "too few arguments: see dabbawal --help");
  return good;
}
