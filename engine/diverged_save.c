/* Writing into DIR/diverged, see diverged.h.
 *
 *   blocks -> NAME.blocks.new, header, sync -> rename to NAME.blocks -> sync of diverged/ -> NAME.json, likewise
 *
 * The header comes last into a file that has another name until then, so a container is whole or not there. A parting
 * that was kept already is recognised by its boundaries: equal chain hashes are equal contents.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/diverged.h"
#include "engine/identity.h"
#include "wal/base/status.h"

#define NAMES_MAX 1000

typedef unsigned long long ull;

struct save {
  struct env *env;
  char *dir; /* DIR/diverged */
  struct wal *log;
  const char *peer;
  struct diverged_saved *out;
};

static bool same(const struct wal_pos *a, const struct wal_pos *b) {
  return a->lsn == b->lsn && a->epoch == b->epoch && hash128_eq(&a->chain, &b->chain);
}

/* ---- where it begins --------------------------------------------------------------------------- */

static int begin_at(struct save *s, struct diverged_header *h, struct wal_cursor **c) {
  h->from = h->parted;
  h->complete = true;
  int rc = wal_cursor_open(s->log, &h->parted, c);
  /* Not ours: where our history leaves the peer's lies before it, and only the peer can tell. Unless all that it may be
   * was trimmed: then nothing of what is left is common. */
  if (rc == DW_DIVERGED && (rc = wal_boundary_at_most(s->log, h->parted.epoch, h->parted.lsn, &h->from)) == DW_OK)
    return dw_fail(DW_NOT_FOUND, "LSN %llu of epoch %llu is no boundary of this log", (ull)h->parted.lsn,
                   (ull)h->parted.epoch);
  for (int again = 0; rc == DW_NOT_FOUND && again < 4; again++) { /* trimmed: what is left */
    struct wal_stat st;
    wal_stat(s->log, &st);
    h->from = st.oldest;
    h->complete = false;
    rc = wal_cursor_open(s->log, &h->from, c);
  }
  return rc;
}

/* The first commit that is only here: it gives the file its name. DW_NOT_FOUND: none. */
static int first_commit(struct wal *log, const struct wal_pos *from, uint64_t *epoch) {
  struct wal_cursor *c;
  struct wal_block *b;
  bool found = false;
  int rc = wal_cursor_open(log, from, &c);
  if (rc) return rc;
  while (!found && (rc = wal_cursor_next(c, UINT64_MAX, &b)) == DW_OK) {
    found = b->h.commit_count > 0;
    *epoch = b->h.epoch;
    wal_block_unref(b);
  }
  wal_cursor_close(c);
  return rc;
}

/* ---- a name ------------------------------------------------------------------------------------ */

/* What stands under this name: DW_OK: the same as we have. DW_NOT_FOUND: nothing, or what is the beginning of ours: it
 * may be replaced. DW_LOCKED: something else, or damage: it stays. */
static int look_at(struct save *s, const char *name, const struct diverged_header *h, const struct wal_pos *end) {
  struct diverged_header old;
  struct diverged_file *f = NULL;
  struct wal_block *b;
  char *path = path_join(s->dir, name);
  int rc = path ? diverged_open(s->env, path, &old, &f) : DW_NO_MEMORY;
  free(path);
  if (rc == DW_CORRUPT || rc == DW_UNSUPPORTED) return DW_LOCKED;
  if (rc) return rc;
  while ((rc = diverged_next(f, &b)) == DW_OK) wal_block_unref(b);
  diverged_close(f);
  if (rc != DW_NOT_FOUND) return rc == DW_CORRUPT ? DW_LOCKED : rc;
  if (!same(&old.from, &h->from)) return DW_LOCKED;
  if (same(&old.end, end)) {
    s->out->header = old;
    return DW_OK;
  }
  struct wal_cursor *c;
  rc = wal_cursor_open(s->log, &old.end, &c);
  if (rc) return DW_LOCKED;
  wal_cursor_close(c);
  return DW_NOT_FOUND;
}

static int choose_name(struct save *s, const struct diverged_header *h, uint64_t epoch, const struct wal_pos *end) {
  char *name = s->out->name;
  int rc = DW_LOCKED;
  for (unsigned i = 1; rc == DW_LOCKED && i < NAMES_MAX; i++) {
    if (i == 1)
      snprintf(name, DIVERGED_NAME_BYTES, "%llu-%llu.blocks", (ull)epoch, (ull)h->from.lsn + 1);
    else
      snprintf(name, DIVERGED_NAME_BYTES, "%llu-%llu-%u.blocks", (ull)epoch, (ull)h->from.lsn + 1, i);
    rc = look_at(s, name, h, end);
  }
  return rc == DW_LOCKED ? dw_fail(DW_IO, "%s: no name is left for %s", s->dir, name) : rc;
}

/* ---- writing ----------------------------------------------------------------------------------- */

static int write_blocks(struct save *s, struct wal_cursor *c, struct env_file *f, struct diverged_header *h) {
  struct wal_block *b;
  uint64_t off = DIVERGED_HEADER_BYTES;
  int rc;
  h->end = h->from;
  while ((rc = wal_cursor_next(c, UINT64_MAX, &b)) == DW_OK) {
    size_t n = block_total_bytes(&b->h);
    rc = env_pwrite(s->env, f, off, b->bytes, n);
    off += n;
    h->blocks++;
    h->commits += b->h.commit_count;
    h->end = (struct wal_pos){block_last_lsn(&b->h), b->h.epoch, b->h.chain};
    wal_block_unref(b);
    if (rc) return rc;
  }
  h->bytes = off - DIVERGED_HEADER_BYTES;
  return rc == DW_NOT_FOUND ? DW_OK : rc;
}

static int write_file(struct save *s, struct wal_cursor *c, struct diverged_header *h) {
  char temporary[DIVERGED_NAME_BYTES + 8];
  uint8_t head[DIVERGED_HEADER_BYTES];
  struct env_file *f = NULL;
  snprintf(temporary, sizeof temporary, "%s.new", s->out->name);
  char *from = path_join(s->dir, temporary), *to = path_join(s->dir, s->out->name);
  int rc = from && to ? s->env->ops->open(s->env, from, ENV_CREATE, &f) : DW_NO_MEMORY;
  if (rc == DW_OK) rc = s->env->ops->truncate(f, 0);
  if (rc == DW_OK) rc = write_blocks(s, c, f, h);
  if (rc == DW_OK) {
    diverged_header_encode(h, head);
    rc = env_pwrite(s->env, f, 0, head, sizeof head);
  }
  if (rc == DW_OK) rc = s->env->ops->fdatasync(f);
  if (f) s->env->ops->close(f);
  if (rc == DW_OK) rc = s->env->ops->rename(s->env, from, to);
  if (rc == DW_OK) {
    rc = s->env->ops->sync_dir(s->env, s->dir);
  } else if (f) { /* its bytes may be what is missing on the disk */
    char why[400];
    dw_error_copy(why, sizeof why);
    (void)s->env->ops->unlink(s->env, from);
    dw_fail(rc, "%s", why);
  }
  free(from);
  free(to);
  return rc;
}

static int write_sidecar(struct save *s) {
  const struct diverged_header *h = &s->out->header;
  char name[DIVERGED_NAME_BYTES], text[1200], cluster[33], chain[33], peer[100] = "";
  hash128_hex(&h->cluster_id, cluster);
  hash128_hex(&h->parted.chain, chain);
  size_t k = 0;
  for (const char *p = s->peer ? s->peer : ""; *p && k + 1 < sizeof peer; p++)
    if (*p > 0x20 && *p < 0x7f && *p != '"' && *p != '\\') peer[k++] = *p;
  unsigned long long epoch = strtoull(s->out->name, NULL, 10);
  int n = snprintf(
      text, sizeof text,
      "{\n  \"file\": \"%s\",\n  \"epoch\": %llu,\n  \"first_lsn\": %llu,\n  \"last_lsn\": %llu,\n"
      "  \"commits\": %llu,\n  \"blocks\": %llu,\n  \"bytes\": %llu,\n  \"complete\": %s,\n"
      "  \"reason\": \"%s\",\n  \"wall_ns\": %llu,\n  \"cluster\": \"%s\",\n  \"node\": \"%llu\",\n"
      "  \"parted_from_node\": \"%llu\",\n  \"parted_from_address\": \"%s\",\n  \"parted_at\": {\"lsn\": %llu, "
      "\"epoch\": %llu, \"chain\": \"%s\"}\n}\n",
      s->out->name, epoch, (ull)h->from.lsn + 1, (ull)h->end.lsn, (ull)h->commits, (ull)h->blocks, (ull)h->bytes,
      h->complete ? "true" : "false", h->reason == DIVERGED_REJOIN ? "rejoin" : "tail cut", (ull)h->wall_ns, cluster,
      (ull)h->node_id, (ull)h->peer_id, peer, (ull)h->parted.lsn, (ull)h->parted.epoch, chain);
  if (n < 0 || (size_t)n >= sizeof text) return dw_fail(DW_IO, "%s: the sidecar's text is too long", s->out->name);
  snprintf(name, sizeof name, "%.*s.json", (int)(strlen(s->out->name) - strlen(".blocks")), s->out->name);
  if (s->out->was_there) {
    char *path = path_join(s->dir, name);
    bool there = false;
    int rc = path ? s->env->ops->exists(s->env, path, &there) : DW_NO_MEMORY;
    free(path);
    if (rc || there) return rc;
  }
  return env_write_file_atomic(s->env, s->dir, name, text, (size_t)n);
}

static int make_dir(struct save *s, const char *dir) {
  int rc = s->env->ops->mkdir(s->env, s->dir);
  return rc ? rc : s->env->ops->sync_dir(s->env, dir);
}

static int save(struct save *s, const char *dir, struct wal_cursor *c, struct diverged_header *h) {
  struct wal_stat st;
  uint64_t epoch = 0;
  int rc = first_commit(s->log, &h->from, &epoch);
  if (rc == DW_NOT_FOUND) return DW_OK;
  wal_stat(s->log, &st);
  if (rc == DW_OK) rc = make_dir(s, dir);
  if (rc == DW_OK) rc = choose_name(s, h, epoch, &st.end);
  s->out->was_there = rc == DW_OK;
  if (s->out->was_there) rc = s->env->ops->sync_dir(s->env, s->dir); /* perhaps a crash came before this */
  if (rc == DW_NOT_FOUND) {
    rc = write_file(s, c, h);
    s->out->header = *h;
  }
  return rc ? rc : write_sidecar(s);
}

int diverged_save(struct env *env, const char *dir, struct wal *log, const struct diverged_header *about,
                  const char *peer, struct diverged_saved *out) {
  struct save s = {.env = env, .dir = path_join(dir, DIVERGED_DIR), .log = log, .peer = peer, .out = out};
  struct diverged_header h = *about;
  struct wal_cursor *c = NULL;
  *out = (struct diverged_saved){0};
  if (!s.dir) return DW_NO_MEMORY;
  h.blocks = h.commits = h.bytes = 0;
  h.wall_ns = env->ops->wall_ns(env);
  int rc = begin_at(&s, &h, &c);
  if (rc == DW_OK) {
    out->header = h;
    rc = save(&s, dir, c, &h);
    wal_cursor_close(c);
  }
  free(s.dir);
  return rc ? dw_fail_prefix(rc, "keeping what only this node has") : DW_OK;
}
