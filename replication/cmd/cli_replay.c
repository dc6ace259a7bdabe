/* `dabbawal diverged replay FILE --to HOST:PORT`: what only one node had, written again as ordinary writes.
 *
 *   pass 1: all keys of the file, and which operation is the last one of each
 *   pass 2: those operations, in groups: GET what is there, say what it would become, then SET or DEL
 *
 * Between the GET and the write somebody else may write the key: these are ordinary writes of an ordinary client, later
 * than all that is there. Whoever wants to be sure looks with --dry-run, and keeps other writers away.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/diverged.h"
#include "replication/cmd/cli_diverged.h"
#include "replication/cmd/cli_wal.h"
#include "replication/cmd/config.h"
#include "replication/cmd/resp_client.h"
#include "wal/base/status.h"

#define TIMEOUT_MS 60000u
#define GROUP_OPS 128u
#define GROUP_BYTES (16u << 20)

typedef unsigned long long ull;

/* ---- walking a file ------------------------------------------------------------------------------ */

typedef int (*op_fn)(void *arg, uint64_t ordinal, const struct wal_op *);

static int walk_block(const struct wal_block *b, struct buf *scratch, uint64_t *ordinal, op_fn fn, void *arg) {
  const uint8_t *raw;
  size_t n, off = 0;
  struct wal_commit c;
  int rc = wal_block_raw(b, scratch, &raw, &n);
  while (rc == DW_OK && (rc = payload_next_commit(raw, n, &off, &c)) == DW_OK) {
    size_t at = 0;
    struct wal_op op;
    while (rc == DW_OK && (rc = body_next_op(c.body, c.body_bytes, &at, &op)) == DW_OK)
      if (op.klen > 1 && op.key[0] == NS_USER) rc = fn(arg, (*ordinal)++, &op);
    if (rc == DW_NOT_FOUND) rc = DW_OK;
  }
  return rc == DW_NOT_FOUND ? DW_OK : rc;
}

static int walk(const char *path, op_fn fn, void *arg) {
  struct diverged_file *f;
  struct diverged_header h;
  struct wal_block *b;
  struct buf scratch = {0};
  uint64_t ordinal = 0;
  int rc = diverged_open(env_posix(), path, &h, &f);
  if (rc) return rc;
  while (rc == DW_OK && (rc = diverged_next(f, &b)) == DW_OK) {
    if (b->h.kind == BLOCK_COMMITS) rc = walk_block(b, &scratch, &ordinal, fn, arg);
    wal_block_unref(b);
  }
  buf_free(&scratch);
  diverged_close(f);
  return rc == DW_NOT_FOUND ? DW_OK : rc;
}

/* ---- pass 1 ------------------------------------------------------------------------------------ */

struct entry {
  size_t key; /* in keys */
  uint32_t klen;
  uint64_t ordinal;
};

struct index {
  struct buf keys;
  struct entry *entry;
  size_t n, cap;
  bool *last; /* per ordinal: the last operation of its key */
};

static int note(void *arg, uint64_t ordinal, const struct wal_op *op) {
  struct index *x = arg;
  if (x->n == x->cap) {
    size_t cap = x->cap ? 2 * x->cap : 1024;
    struct entry *grown = realloc(x->entry, cap * sizeof *grown);
    if (!grown) return dw_fail_nomem(cap * sizeof *grown);
    x->entry = grown;
    x->cap = cap;
  }
  x->entry[x->n++] = (struct entry){x->keys.len, op->klen, ordinal};
  return buf_append(&x->keys, op->key, op->klen);
}

static int by_key(const void *pa, const void *pb, void *keys) {
  const struct entry *a = pa, *b = pb;
  const uint8_t *k = keys;
  int d = memcmp(k + a->key, k + b->key, a->klen < b->klen ? a->klen : b->klen);
  if (d) return d;
  if (a->klen != b->klen) return a->klen < b->klen ? -1 : 1;
  return a->ordinal < b->ordinal ? -1 : 1;
}

static bool same_key(const struct index *x, const struct entry *a, const struct entry *b) {
  return a->klen == b->klen && memcmp(x->keys.data + a->key, x->keys.data + b->key, a->klen) == 0;
}

static int find_last(struct index *x) {
  x->last = calloc(x->n + 1, sizeof *x->last);
  if (!x->last) return dw_fail_nomem(x->n + 1);
  if (x->n) qsort_r(x->entry, x->n, sizeof *x->entry, by_key, x->keys.data);
  for (size_t i = 0; i < x->n; i++)
    if (i + 1 == x->n || !same_key(x, &x->entry[i], &x->entry[i + 1])) x->last[x->entry[i].ordinal] = true;
  return DW_OK;
}

/* ---- pass 2 ------------------------------------------------------------------------------------ */

struct group_op {
  uint8_t type;
  size_t key, val; /* in bytes */
  uint32_t klen, vlen;
  bool write; /* decided by what is there */
};

struct replay {
  const struct index *index;
  struct resp_client *client;
  bool dry_run, only_missing, writing; /* writing: replies are to SET and DEL, else to GET */
  struct buf bytes;
  struct group_op op[GROUP_OPS];
  size_t n, answered, expected;
  uint64_t written, same, left;
};

static void say(struct replay *r, struct group_op *op, bool there, const struct resp_reader *reply) {
  bool put = op->type == OP_PUT;
  const uint8_t *val = r->bytes.data + op->val;
  bool same =
      put ? there && reply->text.len == op->vlen && !reply->text_cut && memcmp(reply->text.data, val, op->vlen) == 0
          : !there;
  bool leave = !same && r->only_missing && (there || !put);
  op->write = !same && !leave;
  r->same += same;
  r->left += leave;
  r->written += op->write;
  printf("%s ", put ? "put" : "delete");
  cli_print_bytes(r->bytes.data + op->key, op->klen, false);
  if (put) printf(" %u bytes", op->vlen);
  if (same)
    printf(": %s\n", put ? "the same is there" : "not there");
  else if (!there)
    printf(": not there%s\n", r->dry_run ? ", would be written" : "");
  else
    printf(": %zu bytes are there%s\n", reply->text.len,
           leave        ? ", left"
           : r->dry_run ? ", would be replaced"
                        : ", replaced");
}

static int on_reply(void *arg, const struct resp_reader *reply) {
  struct replay *r = arg;
  if (reply->kind == '-')
    return dw_fail(DW_INVALID, "refused: %.*s", (int)reply->text.len, (const char *)reply->text.data);
  if (!r->writing) say(r, &r->op[r->answered], reply->kind == '$', reply);
  r->answered++;
  return DW_OK;
}

static int queue(struct replay *r, const char *name, const struct group_op *op, bool value) {
  struct buf command = {0};
  const void *argv[] = {name, r->bytes.data + op->key, r->bytes.data + op->val};
  const size_t argl[] = {strlen(name), op->klen, op->vlen};
  int rc = resp_command_append(&command, value ? 3 : 2, argv, argl);
  if (rc == DW_OK) rc = resp_client_queue(r->client, command.data, command.len);
  buf_free(&command);
  r->expected++;
  return rc;
}

static int await(struct replay *r) {
  int rc = DW_OK;
  while (rc == DW_OK && r->answered < r->expected) rc = resp_client_pump(r->client);
  r->answered = r->expected = 0;
  return rc;
}

static int flush(struct replay *r) {
  int rc = DW_OK;
  r->writing = false;
  for (size_t i = 0; rc == DW_OK && i < r->n; i++) rc = queue(r, "GET", &r->op[i], false);
  if (rc == DW_OK) rc = await(r);
  r->writing = true;
  for (size_t i = 0; rc == DW_OK && i < r->n; i++)
    if (r->op[i].write && !r->dry_run)
      rc = queue(r, r->op[i].type == OP_PUT ? "SET" : "DEL", &r->op[i], r->op[i].type == OP_PUT);
  if (rc == DW_OK) rc = await(r);
  r->n = 0;
  r->bytes.len = 0;
  return rc;
}

static int replay_op(void *arg, uint64_t ordinal, const struct wal_op *op) {
  struct replay *r = arg;
  if (!r->index->last[ordinal]) return DW_OK;
  struct group_op *g = &r->op[r->n];
  *g = (struct group_op){
      .type = op->type, .key = r->bytes.len, .klen = op->klen - 1, .vlen = op->type == OP_PUT ? op->vlen : 0};
  int rc = buf_append(&r->bytes, op->key + 1, g->klen);
  g->val = r->bytes.len;
  if (rc == DW_OK && g->vlen) rc = buf_append(&r->bytes, op->val, g->vlen);
  if (rc == DW_OK && (++r->n == GROUP_OPS || r->bytes.len >= GROUP_BYTES)) rc = flush(r);
  return rc;
}

int cli_replay(const char *file, const char *to, bool dry_run, bool only_missing) {
  struct index x = {0};
  struct replay *r = calloc(1, sizeof *r);
  char *address = parse_address(to);
  int rc = !address ? DW_INVALID : r ? walk(file, note, &x) : dw_fail_nomem(sizeof *r);
  if (rc == DW_OK) rc = find_last(&x);
  if (rc == DW_OK) {
    *r = (struct replay){.index = &x, .dry_run = dry_run, .only_missing = only_missing};
    rc = resp_client_open(address, TIMEOUT_MS, WAL_MAX_VALUE_BYTES + 1u, on_reply, r, &r->client);
    if (rc == DW_OK) rc = walk(file, replay_op, r);
    if (rc == DW_OK) rc = flush(r);
    resp_client_close(r->client);
    buf_free(&r->bytes);
    printf("%llu keys %s, %llu the same already, %llu left as they are\n", (ull)r->written,
           dry_run ? "would be written" : "written", (ull)r->same, (ull)r->left);
  }
  free(r);
  free(address);
  free(x.entry);
  free(x.last);
  buf_free(&x.keys);
  return rc;
}
