/* Flags and file of a daemon.
 *
 *   argv  --\
 *            > values: for each option the text that counts and where it stands --> checked, stored --> struct config
 *   file  --/           (a flag beats the file)                                     cross checks
 *
 * Nothing stops at the first mistake: each one becomes a line of `errors` that names the flag, or the file and line,
 * quotes the text and says what is allowed. A mistake is reported once: an option that was given wrongly is not also
 * "missing".
 */
#include "replication/cmd/config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "replication/cmd/coordinator.h"
#include "replication/cmd/failover_keys.h"
#include "replication/cmd/text.h"
#include "wal/base/status.h"

#define OPTIONS_MAX 72
#define FILE_LINE_MAX 4096
#define FILE_LINES_MAX 10000

struct given {
  unsigned flag, line; /* times given as a flag; line in the file, 0: not there */
  bool bad;
};

struct loading {
  struct config *c;
  enum daemon_kind kind;
  struct buf *errors;
  bool failed, no_memory;
  struct given given[OPTIONS_MAX];
  const char *flag_value[OPTIONS_MAX];
};

/* Where a value stands, as the start of an error line. */
struct place {
  const char *file; /* NULL: a flag */
  unsigned line;
  const char *name;
};

static void complain(struct loading *l, const struct place *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void complain(struct loading *l, const struct place *at, const char *fmt, ...) {
  char head[600] = "", text[900];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  if (at && at->file)
    snprintf(head, sizeof head, "%.400s:%u: %.100s%s", at->file, at->line, at->name ? at->name : "",
             at->name ? ": " : "");
  else if (at)
    snprintf(head, sizeof head, "--%.100s: ", at->name);
  text_printable(text);
  text_printable(head);
  l->failed = true;
  if (buf_append(l->errors, head, strlen(head)) || buf_append(l->errors, text, strlen(text)) ||
      buf_append(l->errors, "\n", 1))
    l->no_memory = true;
}

const char *config_program(enum daemon_kind kind) {
  return kind == DAEMON_PRIMARY ? "dabbawal-primary" : "dabbawal-follower";
}

static size_t find_option(const char *name, size_t n) {
  for (size_t i = 0; i < option_count; i++) {
    const struct option *o = &option_table[i];
    if ((strlen(o->name) == n && memcmp(o->name, name, n) == 0) ||
        (o->alias && strlen(o->alias) == n && memcmp(o->alias, name, n) == 0))
      return i;
  }
  return option_count;
}

/* What to say about a name that is not in the table, or is the other program's. */
static void unknown(struct loading *l, const struct place *at, const char *name, size_t i) {
  const char *dashes = at ? "" : "--";
  if (i < option_count) {
    enum daemon_kind other = l->kind == DAEMON_PRIMARY ? DAEMON_FOLLOWER : DAEMON_PRIMARY;
    complain(l, at, "%s%s is an option of %s, not of %s", dashes, name, config_program(other), config_program(l->kind));
    return;
  }
  const char *meant = NULL;
  for (size_t j = 0; j < option_count && !meant; j++)
    if ((option_table[j].kinds & l->kind) && close_spelling(name, option_table[j].name)) meant = option_table[j].name;
  if (meant)
    complain(l, at, "unknown option %s%.80s: did you mean %s%s?", dashes, name, dashes, meant);
  else
    complain(l, at, "unknown option %s%.80s", dashes, name);
}

/* ---- one value --------------------------------------------------------------------------------- */

static void store_number(struct config *c, const struct option *o, uint64_t v) {
  void *field = (char *)c + o->offset;
  if (o->width == 8) {
    memcpy(field, &v, 8);
  } else {
    uint32_t v32 = (uint32_t)v;
    memcpy(field, &v32, 4);
  }
}

static bool store_string(struct loading *l, const struct option *o, char *s) {
  char **field = (char **)(void *)((char *)l->c + o->offset);
  if (!s) {
    l->no_memory = true;
    return false;
  }
  free(*field);
  *field = s;
  return true;
}

static bool word_value(const struct option *o, const char *text, uint64_t *v, char *all, size_t cap) {
  size_t n = 0;
  all[0] = 0;
  for (const struct option_word *w = o->words; w->word; w++) {
    if (strcmp(w->word, text) == 0) {
      *v = w->value;
      return true;
    }
    n += (size_t)snprintf(all + n, cap - n, "%s%s", n == 0 ? "" : w[1].word ? ", " : " or ", w->word);
  }
  return false;
}

static void show_value(const struct option *o, uint64_t v, char *out, size_t cap) {
  static const struct {
    const char *unit;
    uint64_t factor;
  } sizes[] = {{"GiB", 1u << 30}, {"MiB", 1u << 20}, {"KiB", 1u << 10}},
    times[] = {{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}};
  snprintf(out, cap, "%llu%s", (unsigned long long)v, o->type == OPTION_TIME ? "ms" : "");
  for (size_t i = 0; o->type == OPTION_SIZE && v && i < 3; i++)
    if (v % sizes[i].factor == 0) {
      snprintf(out, cap, "%llu%s", (unsigned long long)(v / sizes[i].factor), sizes[i].unit);
      return;
    }
  for (size_t i = 0; o->type == OPTION_TIME && v && i < 4; i++)
    if (v % times[i].factor == 0) {
      snprintf(out, cap, "%llu%s", (unsigned long long)(v / times[i].factor), times[i].unit);
      return;
    }
}

static bool take_amount(struct loading *l, const struct option *o, const struct place *at, const char *text) {
  bool size = o->type == OPTION_SIZE;
  uint64_t v, min = (uint64_t)o->min;
  if (!(size ? parse_size(text, &v) : parse_duration_ms(text, &v))) {
    complain(l, at, "'%.200s' is not a %s", text,
             size ? "size like 4096, 512KiB, 64MiB or 1GiB" : "time like 500 (milliseconds), 10s, 5m or 24h");
    return false;
  }
  if (v < min || v > o->max) {
    char low[32], high[32];
    show_value(o, min, low, sizeof low);
    show_value(o, o->max, high, sizeof high);
    complain(l, at, "'%.200s' is out of bounds: %s to %s allowed", text, low, high);
    return false;
  }
  store_number(l->c, o, v);
  return true;
}

static bool take_number(struct loading *l, const struct option *o, const struct place *at, const char *text) {
  bool minus = o->min < 0 && *text == '-';
  uint64_t v, low = o->min < 0 ? 0 : (uint64_t)o->min;
  if (!parse_number(text + minus, low, minus ? (uint64_t)-o->min : o->max, &v)) {
    complain(l, at, "'%.200s' is not a number from %lld to %llu", text, (long long)o->min, (unsigned long long)o->max);
    return false;
  }
  store_number(l->c, o, minus ? 0 - v : v);
  return true;
}

static bool take_address(struct loading *l, const struct option *o, const struct place *at, const char *text) {
  char *address = parse_address(text);
  if (!address) {
    complain(l, at, "%s", dw_last_error());
    return false;
  }
  size_t n = strlen(address);
  if (o->min > 0 &&
      (strspn(strrchr(address, ':') + 1, "0") == strlen(strrchr(address, ':') + 1) || address[0] == '*')) {
    complain(l, at, "'%.200s': a host and a port to connect to are needed", text);
    free(address);
    return false;
  }
  if (n >= DW_ADDRESS_BYTES) {
    complain(l, at, "'%.200s' is longer than %d bytes", text, DW_ADDRESS_BYTES - 1);
    free(address);
    return false;
  }
  return store_string(l, o, address);
}

static bool take_addresses(struct loading *l, const struct option *o, const struct place *at, const char *text) {
  char *list = parse_addresses(text);
  if (list) return store_string(l, o, list);
  complain(l, at, "%s", dw_last_error());
  return false;
}

static bool take_coordinator(struct loading *l, const struct option *o, const struct place *at, const char *text) {
  if (coordinator_check(text) == DW_OK) return store_string(l, o, strdup(text));
  complain(l, at, "%s", dw_last_error());
  return false;
}

static bool take_text(struct loading *l, const struct option *o, const struct place *at, const char *text) {
  if (o->type == OPTION_PATH && !*text) {
    complain(l, at, "the name is empty");
    return false;
  }
  if (o->type == OPTION_TEXT && strlen(text) > o->max) {
    complain(l, at, "'%.200s' is longer than %llu bytes", text, (unsigned long long)o->max);
    return false;
  }
  if (o->type == OPTION_TEXT && !text_is_utf8(text, strlen(text))) {
    complain(l, at, "'%.200s' is not UTF-8 text", text);
    return false;
  }
  return store_string(l, o, strdup(text));
}

/* Checks and stores. False: a line was added. */
static bool take(struct loading *l, const struct option *o, const struct place *at, const char *text) {
  uint64_t v;
  char all[200];
  switch (o->type) {
  case OPTION_PATH:
  case OPTION_TEXT: return take_text(l, o, at, text);
  case OPTION_COORDINATOR: return take_coordinator(l, o, at, text);
  case OPTION_ADDRESSES: return take_addresses(l, o, at, text);
  case OPTION_ADDRESS: return take_address(l, o, at, text);
  case OPTION_NUMBER: return take_number(l, o, at, text);
  case OPTION_SIZE:
  case OPTION_TIME: return take_amount(l, o, at, text);
  case OPTION_WORD:
    if (word_value(o, text, &v, all, sizeof all)) {
      store_number(l->c, o, v);
      return true;
    }
    complain(l, at, "'%.200s' is none of %s", text, all);
    return false;
  case OPTION_FLAG:
    if (*text && strcmp(text, "yes") != 0 && strcmp(text, "no") != 0) {
      complain(l, at, "'%.200s' is neither yes nor no", text);
      return false;
    }
    *(bool *)((char *)l->c + o->offset) = strcmp(text, "no") != 0;
    return true;
  }
  return false;
}

/* ---- flags ------------------------------------------------------------------------------------- */

static void take_flags(struct loading *l, int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    const char *arg = argv[i], *name = arg;
    if (strcmp(arg, "-h") != 0 && strncmp(arg, "--", 2) != 0) {
      complain(l, NULL, "unexpected argument '%.200s': options begin with --", arg);
      continue;
    }
    name += arg[1] == '-' ? 2 : 1;
    size_t n = strcspn(name, "=");
    const char *value = name[n] == '=' ? name + n + 1 : NULL;
    size_t k = find_option(name, n);
    char shown[81];
    snprintf(shown, sizeof shown, "%.*s", (int)(n < 80 ? n : 80), name);
    if (k == option_count || !(option_table[k].kinds & l->kind)) {
      unknown(l, NULL, shown, k);
      /* Its value is not one more mistake. */
      if (!value && i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0) i++;
      continue;
    }
    const struct option *o = &option_table[k];
    struct place at = {.name = o->name};
    if (o->type == OPTION_FLAG) {
      if (value)
        complain(l, &at, "takes no value, but got '%.200s'", value);
      else
        take(l, o, &at, "");
      l->given[k].flag++;
      continue;
    }
    if (!value && i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0) value = argv[++i];
    l->given[k].flag++;
    if (!value) complain(l, &at, "needs a value (%s)", o->arg);
    l->given[k].bad |= !value;
    l->flag_value[k] = value;
  }
}

/* The last of several counts, as everywhere. */
static void store_flags(struct loading *l) {
  for (size_t k = 0; k < option_count; k++) {
    struct place at = {.name = option_table[k].name};
    if (l->flag_value[k] && !take(l, &option_table[k], &at, l->flag_value[k])) l->given[k].bad = true;
  }
}

/* ---- the file ---------------------------------------------------------------------------------- */

static char *trim(char *s) {
  s += strspn(s, " \t\r\n");
  size_t n = strlen(s);
  while (n && strchr(" \t\r\n", s[n - 1])) s[--n] = 0;
  return s;
}

/* A # at the beginning or behind a blank begins a comment. */
static void cut_comment(char *s) {
  for (char *p = s; (p = strchr(p, '#')); p++)
    if (p == s || p[-1] == ' ' || p[-1] == '\t') {
      *p = 0;
      return;
    }
}

static void take_line(struct loading *l, struct place *at, char *text) {
  cut_comment(text);
  char *name = trim(text), *value = strchr(name, '=');
  if (!*name) return;
  if (!value) {
    complain(l, at, "'%.200s': expected name = value", name);
    return;
  }
  *value++ = 0;
  name = trim(name);
  value = trim(value);
  size_t k = find_option(name, strlen(name));
  if (k == option_count || !(option_table[k].kinds & l->kind)) {
    unknown(l, at, name, k);
    return;
  }
  const struct option *o = &option_table[k];
  at->name = o->name;
  if ((o->type == OPTION_FLAG && !o->max) || strcmp(o->name, "config") == 0)
    complain(l, at, "is only for the command line");
  else if (l->given[k].line)
    complain(l, at, "set twice, first in line %u", l->given[k].line);
  else if (o->type == OPTION_FLAG && !*value)
    complain(l, at, "is yes or no");
  else if (o->type == OPTION_FLAG && l->given[k].flag) /* the command line has said so */
    ;
  else if (!take(l, o, at, value))
    l->given[k].bad = true;
  if (!l->given[k].line) l->given[k].line = at->line;
}

/* Stops at the first line of a binary file, rather than find fault with each. */
static bool is_text(char *line) {
  for (char *p = line; *p; p++)
    if (*p == '\t') *p = ' ';
  return text_is_utf8(line, strlen(line));
}

static void take_file(struct loading *l, const char *path) {
  FILE *f = fopen(path, "re");
  struct place at = {.file = path};
  char line[FILE_LINE_MAX];
  if (!f) {
    complain(l, &(struct place){.name = "config"}, "can't open '%.300s': %s", path, strerror(errno));
    return;
  }
  while (errno = 0, memset(line, '\n', sizeof line), fgets(line, sizeof line, f)) {
    at = (struct place){.file = path, .line = at.line + 1};
    size_t n = strlen(line) + 1; /* a second zero byte behind it: the first one was in the file */
    bool zero = n < sizeof line && memchr(line + n, 0, sizeof line - n);
    if (strlen(line) == sizeof line - 1 && line[sizeof line - 2] != '\n') {
      complain(l, &at, "the line is longer than %d bytes", FILE_LINE_MAX - 2);
      break;
    }
    line[strcspn(line, "\r\n")] = 0;
    if (at.line > FILE_LINES_MAX || zero || !is_text(line)) {
      complain(l, &at, "this is no configuration file");
      break;
    }
    take_line(l, &at, line);
  }
  if (ferror(f)) complain(l, &(struct place){.name = "config"}, "can't read '%.300s': %s", path, strerror(errno));
  fclose(f);
}

/* ---- all of it --------------------------------------------------------------------------------- */

static bool ok(const struct loading *l, const char *name) {
  return !l->given[find_option(name, strlen(name))].bad;
}

static void cross_checks(struct loading *l) {
  const struct config *c = l->c;
  for (size_t k = 0; k < option_count; k++) {
    const struct option *o = &option_table[k];
    bool told = c->coordinator && strcmp(o->name, "primary") == 0; /* by the coordinator */
    if ((o->required & l->kind) && !told && !l->given[k].flag && !l->given[k].line)
      complain(l, NULL, "--%s %s is missing: %s", o->name, o->arg, o->help);
  }
  if (ok(l, "heartbeat") && ok(l, "peer-timeout") && c->engine.peer_timeout_ms < 2 * c->engine.heartbeat_ms)
    complain(l, &(struct place){.name = "peer-timeout"}, "%ums is less than two heartbeats of %ums",
             c->engine.peer_timeout_ms, c->engine.heartbeat_ms);
  const struct { const char *name, *address; } ports[] = {{"listen", c->listen}, {"resp", c->resp}, {"http", c->http}};
  for (size_t i = 0; i < 3; i++)
    for (size_t j = i + 1; j < 3; j++)
      if (ports[i].address && ports[j].address && strcmp(ports[i].address, ports[j].address) == 0 &&
          strcmp(strrchr(ports[i].address, ':'), ":0") != 0)
        complain(l, &(struct place){.name = ports[j].name}, "%s is also the address of --%s", ports[j].address,
                 ports[i].name);
  if (c->cluster_name && ok(l, "cluster-name") &&
      (!c->cluster_name[0] ||
       c->cluster_name[strcspn(c->cluster_name, " \t")])) /* it stands between blanks in +switch-master */
    complain(l, &(struct place){.name = "cluster-name"}, "'%.200s': a name without blanks is needed", c->cluster_name);
}

/* What automatic failover can't do without. */
static void failover_checks(struct loading *l) {
  const struct config *c = l->c;
  const struct config_failover *f = &c->failover;
  char prefix[COORD_KEY_BYTES];
  struct place at = {.name = "coordinator"};
  if (!c->coordinator) return;
  if (!c->cluster_name && ok(l, "cluster-name")) complain(l, &at, "needs --cluster-name");
  if (!c->engine.node_id && ok(l, "node-id")) complain(l, &at, "needs --node-id");
  if (!c->peers && ok(l, "peers")) complain(l, &at, "needs --peers");
  if (!c->listen && ok(l, "listen")) complain(l, &at, "needs --listen");
  if (c->listen && !c->advertise && (c->listen[0] == '*' || strcmp(strrchr(c->listen, ':'), ":0") == 0))
    complain(l, &at, "needs --advertise: nobody can connect to %s", c->listen);
  if (c->cluster_name && failover_prefix(c->cluster_name, prefix) != DW_OK)
    complain(l, &(struct place){.name = "cluster-name"}, "%s", dw_last_error());
  if (ok(l, "renew-interval") && ok(l, "lease-ttl") && f->renew_ms * 2 > f->lease_ttl_ms)
    complain(l, &(struct place){.name = "renew-interval"}, "%llums is more than half of the lease's %llums",
             (unsigned long long)f->renew_ms, (unsigned long long)f->lease_ttl_ms);
}

static void config_init(struct config *c, enum daemon_kind kind) {
  *c = (struct config){.log_level = DW_LOG_INFO, .max_clients = 10000};
  c->failover = (struct config_failover){.lease_ttl_ms = 5000,
                                         .renew_ms = 500,
                                         .poll_ms = 250,
                                         .candidate_wait_ms = 1000,
                                         .cooldown_ms = 30000,
                                         .missed_renewals = 3,
                                         .max_per_hour = 10,
                                         .early = 1};
  dw_options_init(&c->engine);
  c->engine.role = kind == DAEMON_PRIMARY ? DW_PRIMARY : DW_FOLLOWER;
}

int config_load(struct config *c, enum daemon_kind kind, int argc, char **argv, struct buf *errors) {
  struct loading l = {.c = c, .kind = kind, .errors = errors};
  config_init(c, kind);
  take_flags(&l, argc, argv);
  if (c->help || c->version) {
    errors->len = 0;
    return DW_OK;
  }
  const char *file = l.flag_value[find_option("config", 6)];
  if (file) take_file(&l, file);
  store_flags(&l);
  cross_checks(&l);
  failover_checks(&l);
  c->engine.listen = c->listen;
  c->engine.primary = c->primary;
  c->engine.repair_from = c->repair_from;
  c->engine.peers = c->peers;
  c->engine.auto_rejoin = c->auto_rejoin;
  c->engine.region = c->region;
  c->engine.client_address = c->client_address;
  if (l.no_memory) return dw_fail_nomem(0);
  return l.failed ? dw_fail(DW_INVALID, "wrong options") : DW_OK;
}

void config_free(struct config *c) {
  char **failover[] = {&c->preferred_region, &c->coordinator, &c->advertise};
  for (size_t i = 0; i < sizeof failover / sizeof *failover; i++) {
    free(*failover[i]);
    *failover[i] = NULL;
  }
  char **strings[] = {&c->data,   &c->listen,   &c->primary, &c->repair_from,    &c->peers,
                      &c->region, &c->resp,     &c->http,    &c->client_address, &c->cluster_name,
                      &c->file,   &c->log_file, &c->pid_file};
  for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
    free(*strings[i]);
    *strings[i] = NULL;
  }
}

/* ---- --help ------------------------------------------------------------------------------------ */

static void show_default(FILE *f, const struct config *c, const struct option *o) {
  const char *field = (const char *)c + o->offset;
  uint64_t v = 0;
  char text[64] = "";
  if (o->type == OPTION_FLAG || o->width == 0 || o->type <= OPTION_ADDRESS) return;
  memcpy(&v, field, o->width == 8 ? 8 : 4); /* little-endian or 8 bytes: as stored by store_number */
  if (o->type == OPTION_WORD) {
    fputs(" (", f);
    for (const struct option_word *w = o->words; w->word; w++) fprintf(f, "%s%s", w == o->words ? "" : "|", w->word);
    fputs(")", f);
    for (const struct option_word *w = o->words; w->word; w++)
      if (w->value == v) snprintf(text, sizeof text, "%s", w->word);
  } else if (o->type == OPTION_NUMBER) {
    snprintf(text, sizeof text, "%d", (int)v);
  } else {
    show_value(o, v, text, sizeof text);
  }
  if (strcmp(o->name, "node-id") != 0 && strcmp(o->name, "max-staleness") != 0) fprintf(f, " [%s]", text);
}

void config_help(FILE *f, enum daemon_kind kind) {
  struct config c;
  config_init(&c, kind);
  fprintf(f,
          kind == DAEMON_PRIMARY
              ? "usage: %s --data DIR --listen HOST:PORT [options]\n\nA dabbawal primary: takes writes, logs them, "
                "ships the log to followers.\n"
              : "usage: %s --data DIR --primary HOST:PORT [options]\n\nA dabbawal follower: receives the log of its "
                "primary, applies it and serves reads.\n",
          config_program(kind));
  for (size_t k = 0; k < option_count; k++) {
    const struct option *o = &option_table[k];
    char head[64];
    if (o->group) fprintf(f, "\n%s\n", o->group);
    if (!(o->kinds & kind)) continue;
    snprintf(head, sizeof head, "--%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
    fprintf(f, "  %-24s %s", head, o->help);
    show_default(f, &c, o);
    fputs("\n", f);
  }
  fputs("\nAddresses are HOST:PORT, :PORT or PORT; without a host they mean 127.0.0.1, *:PORT means every interface, "
        "port\n"
        "0 any free port. Sizes take KiB, MiB, GiB (or K, M, G), times ms, s, m, h, d; a bare time is milliseconds.\n"
        "SIGTERM and SIGINT stop cleanly, another one some seconds later at once; SIGHUP reopens the log file.\n"
        "\nExit codes\n"
        "  0  stopped as asked\n"
        "  1  something failed while running\n"
        "  2  a wrong option, configuration file or directory\n"
        "  3  another process has the data directory open\n"
        "  4  the data is corrupt, of a foreign or parted history, or of a newer format\n"
        "  5  an address is in use or can't be bound\n",
        f);
}
