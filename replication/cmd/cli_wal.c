/* `dabbawal wal dump DIR`, and where all of `dabbawal wal ...` begins: which log is meant. Of a running node or of a
 * dead one.
 *
 * DIR is a data directory (then the log of the generation that NODE names, or the newest one if NODE is gone) or a log
 * directory itself. Nothing is written or locked. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/identity.h"
#include "replication/cmd/cli.h"
#include "replication/cmd/cli_wal.h"
#include "replication/cmd/config.h"
#include "replication/cmd/daemon.h"
#include "wal/base/status.h"
#include "wal/wal.h"

#define SHOWN_BYTES 64u

/* ---- which log --------------------------------------------------------------------------------- */

struct listing {
  bool node, segments;
  unsigned newest; /* generation of a wal-%06u directory, 0: none */
};

static int on_entry(void *arg, const char *name, bool is_dir) {
  struct listing *l = arg;
  dw_lsn lsn;
  uint64_t seq;
  uint64_t g;
  if (!is_dir && strcmp(name, "NODE") == 0) l->node = true;
  if (!is_dir && segment_name_parse(name, &lsn, &seq)) l->segments = true;
  if (is_dir && strncmp(name, "wal-", 4) == 0 && parse_number(name + 4, 1, UINT32_MAX, &g) && g > l->newest)
    l->newest = (unsigned)g;
  return 0;
}

static int find_log(const char *dir, char **out) {
  struct env *env = env_posix();
  struct listing l = {0};
  struct node_file node;
  int rc = env->ops->list(env, dir, on_entry, &l);
  if (rc == DW_NOT_FOUND) return dw_fail(rc, "%s: no such directory", dir);
  if (rc) return rc;
  if (l.segments) {
    *out = strdup(dir);
    return *out ? DW_OK : dw_fail_nomem(strlen(dir));
  }
  if (l.node) {
    rc = node_file_load(env, dir, &node);
    if (rc) return rc;
    l.newest = node.generation;
  }
  if (!l.newest) return dw_fail(DW_NOT_FOUND, "%s: neither a dabbawal data directory nor a log", dir);
  *out = path_generation(dir, "wal", l.newest);
  return *out ? DW_OK : DW_NO_MEMORY;
}

/* ---- dump -------------------------------------------------------------------------------------- */

struct dump {
  bool values; /* keys and values whole */
  dw_lsn from;
  struct buf scratch;
  int rc;
};

void cli_print_bytes(const uint8_t *p, size_t n, bool whole) {
  size_t shown = !whole && n > SHOWN_BYTES ? SHOWN_BYTES : n;
  putchar('"');
  for (size_t i = 0; i < shown; i++) {
    switch (p[i]) {
    case '\n': fputs("\\n", stdout); break;
    case '\t': fputs("\\t", stdout); break;
    case '\r': fputs("\\r", stdout); break;
    case '"': fputs("\\\"", stdout); break;
    case '\\': fputs("\\\\", stdout); break;
    default:
      if (p[i] >= 0x20 && p[i] < 0x7f)
        putchar(p[i]);
      else
        printf("\\%03o", p[i]);
    }
  }
  putchar('"');
  if (shown < n) printf("... (%zu bytes)", n);
}

static void print_op(bool whole, dw_lsn lsn, const struct wal_op *op) {
  bool user = op->klen && op->key[0] == NS_USER;
  printf("  %llu %s %s", (unsigned long long)lsn, op->type == OP_PUT ? "put" : "delete", user ? "" : "(system) ");
  cli_print_bytes(op->key + user, op->klen - user, whole);
  if (op->type == OP_PUT) {
    putchar(' ');
    cli_print_bytes(op->val, op->vlen, whole);
  }
  putchar('\n');
}

static int print_commits(dw_lsn from, bool whole, const struct block_header *h, const uint8_t *raw, size_t n) {
  size_t off = 0;
  struct wal_commit c;
  int rc;
  for (dw_lsn lsn = h->first_lsn; (rc = payload_next_commit(raw, n, &off, &c)) == DW_OK; lsn++) {
    size_t at = 0;
    struct wal_op op;
    if (lsn < from) continue;
    while ((rc = body_next_op(c.body, c.body_bytes, &at, &op)) == DW_OK) print_op(whole, lsn, &op);
    if (rc != DW_NOT_FOUND) return rc;
  }
  return rc == DW_NOT_FOUND ? DW_OK : rc;
}

static void print_block(const char *path, uint64_t off, const struct block_header *h) {
  char when[40], chain[33];
  time_t s = (time_t)(h->wall_ns / 1000000000u);
  struct tm tm = {0};
  gmtime_r(&s, &tm);
  strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
  hash128_hex(&h->chain, chain);
  const char *name = path ? strrchr(path, '/') : NULL;
  if (path) printf("%s:%llu ", name ? name + 1 : path, (unsigned long long)off);
  if (h->kind == BLOCK_EPOCH)
    printf("epoch %llu begins after LSN %llu", (unsigned long long)h->epoch, (unsigned long long)h->first_lsn - 1);
  else
    printf("block LSN %llu..%llu epoch %llu commit_lsn %llu", (unsigned long long)h->first_lsn,
           (unsigned long long)block_last_lsn(h), (unsigned long long)h->epoch, (unsigned long long)h->commit_lsn);
  printf(" %s.%03uZ origin %llu %s %u/%u bytes chain %s\n", when, (unsigned)(h->wall_ns / 1000000u % 1000u),
         (unsigned long long)h->origin_id, h->codec == BLOCK_ZSTD ? "zstd" : "raw", h->stored_bytes, h->raw_bytes,
         chain);
}

int cli_dump_block(const char *path, uint64_t off, const struct wal_block *b, dw_lsn from, bool values,
                   struct buf *scratch) {
  const uint8_t *raw;
  size_t n;
  print_block(path, off, &b->h);
  if (b->h.kind != BLOCK_COMMITS) return DW_OK;
  int rc = wal_block_raw(b, scratch, &raw, &n);
  return rc ? rc : print_commits(from, values, &b->h, raw, n);
}

static int on_block(void *arg, const char *path, uint64_t off, const struct wal_block *b) {
  struct dump *d = arg;
  d->rc = cli_dump_block(path, off, b, d->from, d->values, &d->scratch);
  return d->rc || ferror(stdout); /* a closed pipe ends the walk */
}

/* ---- commands ---------------------------------------------------------------------------------- */

static int dump(const char *log, dw_lsn from, bool values) {
  struct dump d = {.values = values, .from = from};
  struct wal_inspect how = {.on_block = on_block, .arg = &d, .from = from};
  struct wal_inspect_report r = {0};
  int rc = wal_inspect(env_posix(), log, &how, &r);
  buf_free(&d.scratch);
  return d.rc ? d.rc : rc;
}

int cli_wal(int argc, char **argv) {
  static const char *const commands[] = {"verify", "dump", "repair"};
  const char *rest[2], *from = NULL, *ask = NULL;
  bool values = false;
  const struct cli_option options[] = {
      {"--from", &from, NULL}, {"--values", NULL, &values}, {"--repair-from", &ask, NULL}};
  size_t n, which = 0;
  uint64_t lsn = 0;
  if (!cli_arguments("wal", argc, argv, options, 3, rest, 2, 2, &n)) return EXIT_CONFIG;
  while (which < 3 && strcmp(rest[0], commands[which]) != 0) which++;
  bool is_verify = which == 0, is_dump = which == 1, is_repair = which == 2;
  if (which == 3) return cli_fail("wal", EXIT_CONFIG, "unknown command '%.100s': verify, dump or repair", rest[0]);
  if ((values && !is_dump) || (from && is_verify) || (ask && !is_verify))
    return cli_fail("wal", EXIT_CONFIG, "%s: an option of another command was given: see dabbawal --help", rest[0]);
  if (is_dump && from && !parse_number(from, 1, UINT64_MAX, &lsn))
    return cli_fail("wal", EXIT_CONFIG, "--from: '%.100s' is not an LSN", from);
  if (is_repair && !from) return cli_fail("wal", EXIT_CONFIG, "repair: --from HOST:PORT is needed");
  char *log = NULL;
  int rc = find_log(rest[1], &log);
  if (rc == DW_OK && is_dump) rc = dump(log, lsn, values);
  if (rc == DW_OK && is_verify) rc = cli_wal_verify(log, ask);
  if (rc == DW_OK && is_repair) rc = cli_wal_repair(rest[1], log, from);
  free(log);
  fflush(stdout);
  if (rc == DW_OK) return EXIT_OK;
  char name[32];
  snprintf(name, sizeof name, "wal %s", commands[which]);
  return cli_fail(name, daemon_exit_code(rc), "%s", dw_last_error());
}
