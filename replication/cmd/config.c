/* The table of settings and its readers; see config.h. */
#include "replication/cmd/config.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "replication/address.h"

enum kind { TEXT, ADDRESS, NUMBER, SIZE, DURATION, CHOICE, INTEGER };
enum who { BOTH, PRIMARY, FOLLOWER };

/* Values of choices: "name=number,...". */
static const char modes[] = "async=1,semi-sync=2,sync=3";
static const char acks[] = "received=1,durable=2,applied=3";
static const char durabilities[] = "os=1,disk=2";
static const char levels[] = "debug=0,info=1,warn=2,error=3";

struct setting {
  const char *name;
  enum who who;
  enum kind kind;
  size_t offset;     /* in struct config */
  unsigned width;    /* bytes of the field, for numbers */
  uint64_t min, max; /* numbers */
  const char *choices;
  const char *arg, *help;
};

#define FIELD(f) offsetof(struct config, f), sizeof(((struct config *)0)->f)
static const struct setting settings[] = {
    {"data", BOTH, TEXT, FIELD(data), 0, 0, NULL, "DIR", "data directory, made if missing (required)"},
    {"listen", PRIMARY, ADDRESS, FIELD(engine.listen), 0, 0, NULL, "HOST:PORT", "followers connect here"},
    {"primary", FOLLOWER, ADDRESS, FIELD(engine.primary), 0, 0, NULL, "HOST:PORT", "the primary to follow (required)"},
    {"listen", FOLLOWER, ADDRESS, FIELD(engine.listen), 0, 0, NULL, "HOST:PORT", "serve the log to further followers here"},
    {"resp", BOTH, ADDRESS, FIELD(resp), 0, 0, NULL, "HOST:PORT", "Redis clients connect here"},
    {"http", BOTH, ADDRESS, FIELD(http), 0, 0, NULL, "HOST:PORT", "/metrics /healthz /readyz /status"},
    {"node-id", BOTH, NUMBER, FIELD(engine.node_id), 1, UINT64_MAX, NULL, "N", "unique in the cluster (default: drawn once, kept in DIR)"},
    {"region", BOTH, TEXT, FIELD(engine.region), 0, 0, NULL, "NAME", "shown in status and metrics, at most 31 bytes"},
    {"mode", PRIMARY, CHOICE, FIELD(engine.mode), 0, 0, modes, "MODE", "async, semi-sync or sync (default async)"},
    {"acks", PRIMARY, NUMBER, FIELD(engine.acks), 1, DW_MAX_ACKS, NULL, "N", "followers to wait for (default 1)"},
    {"ack", PRIMARY, CHOICE, FIELD(engine.ack), 0, 0, acks, "LEVEL", "received, durable or applied (default durable)"},
    {"ack-timeout", PRIMARY, DURATION, FIELD(engine.ack_timeout_ms), 1, 86400000, NULL, "MS", "wait for acks (default 10s)"},
    {"durability", PRIMARY, CHOICE, FIELD(engine.durability), 0, 0, durabilities, "LEVEL", "disk or os (default disk)"},
    {"max-staleness", FOLLOWER, DURATION, FIELD(max_staleness_ms), 1, UINT64_MAX / 2000000, NULL, "MS",
     "default bound of reads, and of /readyz (default: none)"},
    {"sync-interval", BOTH, DURATION, FIELD(engine.sync_interval_ms), 1, 3600000, NULL, "MS", "background sync of os-durable writes (default 1s)"},
    {"segment-bytes", BOTH, SIZE, FIELD(engine.segment_bytes), 65536, 4ull << 30, NULL, "SIZE", "size of a log segment (default 64MiB)"},
    {"retain-bytes", BOTH, SIZE, FIELD(engine.retain_bytes), 0, UINT64_MAX, NULL, "SIZE", "log kept for followers that are away (default 1GiB)"},
    {"retain", BOTH, DURATION, FIELD(engine.retain_ms), 0, UINT64_MAX / 2000000, NULL, "MS", "... and for how long (default 24h)"},
    {"block-cache", BOTH, SIZE, FIELD(engine.block_cache_bytes), 0, 1ull << 40, NULL, "SIZE", "RocksDB block cache (default 64MiB)"},
    {"memtable", BOTH, SIZE, FIELD(engine.memtable_bytes), 65536, 16ull << 30, NULL, "SIZE", "RocksDB write buffer (default 64MiB)"},
    {"zstd-level", PRIMARY, INTEGER, FIELD(engine.zstd_level), 0, 0, NULL, "N", "-5 to 19, 0: do not compress (default 1)"},
    {"heartbeat", BOTH, DURATION, FIELD(engine.heartbeat_ms), 10, 60000, NULL, "MS", "heartbeats and staleness probes (default 500)"},
    {"peer-timeout", BOTH, DURATION, FIELD(engine.peer_timeout_ms), 20, 3600000, NULL, "MS", "a silent peer is disconnected (default 5s)"},
    {"max-clients", BOTH, NUMBER, FIELD(max_clients), 1, 1000000, NULL, "N", "Redis clients at once (default 10000)"},
    {"log-level", BOTH, CHOICE, FIELD(log_level), 0, 0, levels, "LEVEL", "debug, info, warn or error (default info)"},
    {"log-file", BOTH, TEXT, FIELD(log_file), 0, 0, NULL, "FILE", "instead of stderr; SIGHUP reopens it"},
    {"config", BOTH, TEXT, FIELD(config_file), 0, 0, NULL, "FILE", "settings as lines `name = value`; flags win"},
};
#define SETTINGS (sizeof settings / sizeof *settings)

static bool applies(const struct setting *s, dw_role role) {
  return s->who == BOTH || s->who == (role == DW_PRIMARY ? PRIMARY : FOLLOWER);
}

static const struct setting *find(const struct config *c, const char *name) {
  for (size_t i = 0; i < SETTINGS; i++)
    if (applies(&settings[i], c->role) && strcmp(settings[i].name, name) == 0) return &settings[i];
  return NULL;
}

/* ---- values -------------------------------------------------------------------------------------- */

struct unit {
  const char *name;
  uint64_t factor;
};
static const struct unit sizes[] = {{"", 1},           {"B", 1},           {"K", 1 << 10},   {"KB", 1 << 10},   {"KiB", 1 << 10},
                                    {"M", 1 << 20},    {"MB", 1 << 20},    {"MiB", 1 << 20}, {"G", 1 << 30},    {"GB", 1 << 30},
                                    {"GiB", 1 << 30},  {"T", 1ull << 40},  {"TiB", 1ull << 40}, {NULL, 0}};
static const struct unit durations[] = {{"", 1}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}, {NULL, 0}};
static const struct unit plain[] = {{"", 1}, {NULL, 0}};

static bool parse_number(const char *text, const struct unit *units, uint64_t *out) {
  char *end;
  if (!isdigit((unsigned char)*text)) return false;
  errno = 0;
  uint64_t v = strtoull(text, &end, 10);
  if (errno) return false;
  for (; units->name; units++) {
    if (strcasecmp(end, units->name) != 0) continue;
    if (v > UINT64_MAX / units->factor) return false;
    *out = v * units->factor;
    return true;
  }
  return false;
}

static bool parse_choice(const char *choices, const char *value, uint64_t *out) {
  size_t n = strlen(value);
  for (const char *p = choices; n && *p;) {
    const char *eq = strchr(p, '=');
    if ((size_t)(eq - p) == n && strncmp(p, value, n) == 0) {
      *out = strtoull(eq + 1, NULL, 10);
      return true;
    }
    p = strchr(eq, ',');
    if (!p) break;
    p++;
  }
  return false;
}

static void store_number(struct config *c, const struct setting *s, uint64_t v) {
  void *field = (char *)c + s->offset;
  uint32_t narrow = (uint32_t)v;
  if (s->width == 8)
    memcpy(field, &v, 8);
  else
    memcpy(field, &narrow, 4);
}

static bool store_text(struct config *c, const struct setting *s, const char *text) {
  char *copy = strdup(text);
  if (!copy || c->owned_count == sizeof c->owned / sizeof *c->owned) {
    free(copy);
    return false;
  }
  c->owned[c->owned_count++] = copy;
  memcpy((char *)c + s->offset, &copy, sizeof copy);
  return true;
}

/* "7400" and ":7400" mean this machine only. */
static bool store_address(struct config *c, const struct setting *s, const char *value, char *why, size_t cap) {
  char text[300];
  bool port_only = *value && strspn(value, "0123456789") == strlen(value);
  snprintf(text, sizeof text, "%s%s", port_only ? "127.0.0.1:" : *value == ':' ? "127.0.0.1" : "", value);
  struct address a;
  if (address_parse(text, &a)) {
    snprintf(why, cap, "%s", dw_last_error());
    return false;
  }
  return store_text(c, s, text);
}

static bool store(struct config *c, const struct setting *s, const char *value, char *why, size_t cap) {
  uint64_t v;
  snprintf(why, cap, "'%s' is no good", value);
  switch (s->kind) {
  case TEXT:
    snprintf(why, cap, "an empty value");
    return *value && store_text(c, s, value);
  case ADDRESS: return store_address(c, s, value, why, cap);
  case CHOICE:
    if (!parse_choice(s->choices, value, &v)) {
      snprintf(why, cap, "'%s' is none of: %s", value, s->help);
      return false;
    }
    store_number(c, s, v);
    return true;
  case INTEGER: {
    char *end;
    long n = strtol(value, &end, 10);
    if (!*value || *end || n < -5 || n > 19) {
      snprintf(why, cap, "'%s' is not a number from -5 to 19", value);
      return false;
    }
    *(int *)(void *)((char *)c + s->offset) = (int)n;
    return true;
  }
  default: break;
  }
  const struct unit *units = s->kind == SIZE ? sizes : s->kind == DURATION ? durations : plain;
  if (!parse_number(value, units, &v) || v < s->min || v > s->max) {
    snprintf(why, cap, "'%s' is not a %s from %" PRIu64 " to %" PRIu64, value,
             s->kind == SIZE ? "size (such as 64MiB)" : s->kind == DURATION ? "time (ms, or such as 10s)" : "number", s->min, s->max);
    return false;
  }
  store_number(c, s, v);
  return true;
}

bool config_set(struct config *c, const char *name, const char *value, char *why, size_t cap) {
  const struct setting *s = find(c, name);
  if (s) return store(c, s, value, why, cap);
  snprintf(why, cap, "no such setting");
  return false;
}

/* ---- flags and file -------------------------------------------------------------------------------- */

static bool *flag_word(struct config *c, const char *name) {
  return strcmp(name, "help") == 0 ? &c->help : strcmp(name, "version") == 0 ? &c->version : NULL;
}

static void mark_set(struct config *c, const struct setting *s) {
  size_t i = (size_t)(s - settings);
  c->set_by_flag[i / 32] |= 1u << (i % 32);
}
static bool was_set(const struct config *c, const struct setting *s) {
  size_t i = (size_t)(s - settings);
  return c->set_by_flag[i / 32] >> (i % 32) & 1;
}

static int read_flags(struct config *c, int argc, char **argv, FILE *errors) {
  int wrong = 0;
  char why[400];
  for (int i = 1; i < argc; i++) {
    const char *arg = argv[i];
    char name[64];
    if (strcmp(arg, "-h") == 0) arg = "--help";
    if (strcmp(arg, "-V") == 0) arg = "--version";
    if (strncmp(arg, "--", 2) != 0 || !arg[2]) {
      fprintf(errors, "%s: unexpected argument '%s' (see --help)\n", argv[0], arg);
      wrong++;
      continue;
    }
    const char *eq = strchr(arg, '=');
    snprintf(name, sizeof name, "%.*s", (int)(eq ? eq - arg - 2 : (ptrdiff_t)strlen(arg) - 2), arg + 2);
    bool *word = flag_word(c, name);
    const struct setting *s = find(c, name);
    if (word && !eq) {
      *word = true;
    } else if (!s) {
      fprintf(errors, "%s: unknown flag '--%s' (see --help)\n", argv[0], name);
      wrong++;
      if (!eq && i + 1 < argc && argv[i + 1][0] != '-') i++; /* its value, most likely: one line for one mistake */
    } else if (!eq && i + 1 == argc) {
      fprintf(errors, "%s: --%s needs a value: %s\n", argv[0], name, s->arg);
      wrong++;
    } else if (!store(c, s, eq ? eq + 1 : argv[++i], why, sizeof why)) {
      fprintf(errors, "%s: --%s: %s\n", argv[0], name, why);
      wrong++;
    } else {
      mark_set(c, s);
    }
  }
  return wrong;
}

static char *trim(char *s) {
  while (isspace((unsigned char)*s)) s++;
  size_t n = strlen(s);
  while (n && isspace((unsigned char)s[n - 1])) s[--n] = 0;
  return s;
}

static int read_line(struct config *c, char *line, unsigned number, FILE *errors) {
  char why[400];
  char *name = trim(line);
  if (!*name || *name == '#') return 0;
  char *eq = strchr(name, '=');
  if (!eq) {
    fprintf(errors, "%s:%u: '%s' is not `name = value`\n", c->config_file, number, name);
    return 1;
  }
  *eq = 0;
  char *value = trim(eq + 1);
  name = trim(name);
  const struct setting *s = find(c, name);
  if (!s || strcmp(name, "config") == 0) {
    fprintf(errors, "%s:%u: no setting '%s'\n", c->config_file, number, name);
    return 1;
  }
  if (was_set(c, s)) return 0;
  if (store(c, s, value, why, sizeof why)) return 0;
  fprintf(errors, "%s:%u: %s: %s\n", c->config_file, number, name, why);
  return 1;
}

static int read_file(struct config *c, FILE *errors) {
  FILE *f = fopen(c->config_file, "r");
  if (!f) {
    fprintf(errors, "%s: %s\n", c->config_file, strerror(errno));
    return 1;
  }
  char line[4096];
  int wrong = 0;
  for (unsigned number = 1; fgets(line, sizeof line, f); number++) {
    if (!strchr(line, '\n') && !feof(f)) {
      fprintf(errors, "%s:%u: line longer than %zu bytes\n", c->config_file, number, sizeof line - 2);
      wrong++;
      break;
    }
    wrong += read_line(c, line, number, errors);
  }
  if (ferror(f)) {
    fprintf(errors, "%s: can't be read\n", c->config_file);
    wrong++;
  }
  fclose(f);
  return wrong;
}

int config_read(struct config *c, dw_role role, int argc, char **argv, FILE *errors) {
  memset(c, 0, sizeof *c);
  c->role = role;
  c->log_level = DW_LOG_INFO;
  dw_options_init(&c->engine);
  c->engine.role = role;
  int wrong = read_flags(c, argc, argv, errors);
  if (c->help || c->version) return wrong;
  if (c->config_file) wrong += read_file(c, errors);
  if (!c->data) {
    fprintf(errors, "%s: --data is required: the data directory\n", argv[0]);
    wrong++;
  }
  if (role == DW_FOLLOWER && !c->engine.primary) {
    fprintf(errors, "%s: --primary is required: HOST:PORT of the primary\n", argv[0]);
    wrong++;
  }
  if (c->engine.region && strlen(c->engine.region) >= DW_REGION_BYTES) {
    fprintf(errors, "%s: --region: '%s' is longer than %d bytes\n", argv[0], c->engine.region, DW_REGION_BYTES - 1);
    wrong++;
  }
  if (c->engine.peer_timeout_ms < 2 * c->engine.heartbeat_ms) {
    fprintf(errors, "%s: --peer-timeout: must be at least twice --heartbeat\n", argv[0]);
    wrong++;
  }
  return wrong;
}

void config_free(struct config *c) {
  while (c->owned_count) free(c->owned[--c->owned_count]);
}

void config_help(FILE *out, dw_role role) {
  const char *name = role == DW_PRIMARY ? "dabbawal-primary" : "dabbawal-follower";
  fprintf(out, "usage: %s --data DIR %s [flags]\n\n%s\n\n", name,
          role == DW_PRIMARY ? "--listen HOST:PORT" : "--primary HOST:PORT",
          role == DW_PRIMARY ? "A primary: takes writes, ships its log to followers."
                             : "A follower: copies a primary's log, applies it and serves reads.");
  for (size_t i = 0; i < SETTINGS; i++) {
    char flag[64];
    if (!applies(&settings[i], role)) continue;
    snprintf(flag, sizeof flag, "--%s %s", settings[i].name, settings[i].arg);
    fprintf(out, "  %-26s %s\n", flag, settings[i].help);
  }
  fprintf(out, "  %-26s %s\n  %-26s %s\n", "--help", "this text", "--version", "the version");
  fprintf(out, "\nA port alone, or :PORT, is on 127.0.0.1. Port 0 is any free one; the log's \"ready\" line says which.\n"
               "Exit codes: 0 stopped as asked, 1 failure while running, 2 wrong flag or config, 3 data directory in use,\n"
               "4 data corrupt, diverged, foreign or of a newer format, 5 an address can't be bound.\n");
}
