/* Flags and configuration file. What is accepted, printed as flags and parsed again, is the same; every value is within
 * its bounds; every refusal says why in lines of text.
 * Input: bit 0 of the first byte says which daemon; flags up to the first newline, separated by tabs; the file. */
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz/fuzz.h"
#include "replication/cmd/config.h"

#define FLAGS_MAX 24

static char file_name[64];

static void write_file(const uint8_t *p, size_t n) {
  static int fd = -1;
  if (fd < 0) {
    CHECK((fd = memfd_create("config", 0)) >= 0);
    snprintf(file_name, sizeof file_name, "/proc/self/fd/%d", fd);
  }
  CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, p, n, 0) == (ssize_t)n);
}

static uint64_t number(const struct config *c, const struct option *o) {
  uint64_t v = 0;
  uint32_t v32 = 0;
  if (o->width == 8) {
    memcpy(&v, (const char *)c + o->offset, 8);
  } else {
    memcpy(&v32, (const char *)c + o->offset, 4);
    v = v32;
  }
  return v;
}

static const char *string(const struct config *c, const struct option *o) {
  const char *s;
  memcpy(&s, (const char *)c + o->offset, sizeof s);
  return s;
}

/* One value as a flag; NULL: nothing to say. */
static char *print(const struct config *c, const struct option *o) {
  char text[128] = "", *out;
  const char *value = text;
  uint64_t v;
  switch (o->type) {
  case OPTION_PATH:
  case OPTION_TEXT:
  case OPTION_COORDINATOR:
  case OPTION_ADDRESSES:
  case OPTION_ADDRESS: value = string(c, o); break;
  case OPTION_NUMBER:
    v = number(c, o);
    if (o->min < 0) {
      CHECK((int64_t)(int32_t)v >= o->min && (int64_t)(int32_t)v <= (int64_t)o->max);
      snprintf(text, sizeof text, "%d", (int)(int32_t)v);
    } else {
      if (v == 0 && o->min > 0) return NULL; /* node-id: not given */
      CHECK(v >= (uint64_t)o->min && v <= o->max);
      snprintf(text, sizeof text, "%llu", (unsigned long long)v);
    }
    break;
  case OPTION_SIZE:
  case OPTION_TIME:
    v = number(c, o);
    CHECK(v >= (uint64_t)o->min && v <= o->max);
    snprintf(text, sizeof text, "%llu", (unsigned long long)v);
    break;
  case OPTION_WORD:
    for (const struct option_word *w = o->words; w->word; w++)
      if (w->value == number(c, o)) snprintf(text, sizeof text, "%s", w->word);
    CHECK(*text);
    break;
  case OPTION_FLAG: return NULL;
  }
  if (!value || strcmp(o->name, "config") == 0) return NULL;
  size_t n = strlen(o->name) + strlen(value) + 4;
  CHECK((out = malloc(n)));
  snprintf(out, n, "--%s=%s", o->name, value);
  return out;
}

static void same(const struct config *a, const struct config *b) {
  for (size_t i = 0; i < option_count; i++) {
    const struct option *o = &option_table[i];
    if (o->type == OPTION_FLAG || strcmp(o->name, "config") == 0) continue;
    if (o->type <= OPTION_ADDRESS) {
      const char *x = string(a, o), *y = string(b, o);
      CHECK(!x == !y && (!x || strcmp(x, y) == 0));
    } else {
      CHECK(number(a, o) == number(b, o));
    }
  }
}

static void check_again(const struct config *c, enum daemon_kind kind) {
  char *argv[64] = {"program"};
  int argc = 1;
  struct config again;
  struct buf errors = {0};
  for (size_t i = 0; i < option_count; i++)
    if ((option_table[i].kinds & (unsigned)kind) && (argv[argc] = print(c, &option_table[i]))) argc++;
  int rc = config_load(&again, kind, argc, argv, &errors);
  if (rc) fprintf(stderr, "%.*s", (int)errors.len, (char *)errors.data);
  CHECK(rc == DW_OK && errors.len == 0);
  same(c, &again);
  config_free(&again);
  buf_free(&errors);
  while (argc > 1) free(argv[--argc]);
}

/* Lines of text, each ended, no control character among them. */
static void check_errors(const struct buf *e) {
  CHECK(e->len > 0 && e->data[e->len - 1] == '\n');
  for (size_t i = 0; i < e->len; i++) CHECK(e->data[i] == '\n' || (e->data[i] >= 0x20 && e->data[i] != 0x7f));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct feed f = {data, size};
  enum daemon_kind kind = feed_u8(&f) & 1 ? DAEMON_FOLLOWER : DAEMON_PRIMARY;
  const uint8_t *nl = f.n ? memchr(f.p, '\n', f.n) : NULL;
  size_t line = nl ? (size_t)(nl - f.p) : f.n;
  char *argv[FLAGS_MAX + 4] = {"program"};
  char *text = malloc(line + 1), *at = text;
  CHECK(text);
  memcpy(text, f.p ? (const char *)f.p : "", line);
  text[line] = 0;
  int argc = 1;
  for (char *arg; argc < FLAGS_MAX && (arg = strsep(&at, "\t"));)
    if (*arg) argv[argc++] = arg;
  if (nl) {
    write_file(nl + 1, f.n - line - 1);
    argv[argc++] = "--config";
    argv[argc++] = file_name;
  }
  struct config c;
  struct buf errors = {0};
  int rc = config_load(&c, kind, argc, argv, &errors);
  if (rc) check_errors(&errors);
  if (rc == DW_OK && !c.help && !c.version) check_again(&c, kind);
  config_free(&c);
  buf_free(&errors);
  free(text);
  return 0;
}
