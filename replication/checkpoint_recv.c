/* See checkpoint_recv.h.
 *
 * STATE, little-endian:
 *   0   8  magic "DWINCMG\n"
 *   8   4  version, 1
 *   12  4  n, bytes of the manifest
 *   16  n  manifest (checkpoint_manifest.h: it names the checkpoint and its boundary)
 *   ..  8  XXH3-64 of all that
 *   then one record of 32 bytes for each complete file, in the order of completion:
 *   0   4  file number   4  4  zero   8  16  XXH3-128 of the file   24  8  XXH3-64 of the 24 bytes and the checkpoint
 * id The head is written atomically, records are appended and synced; the first record that is not valid ends the list.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/checkpoint_recv.h"
#include "wal/base/status.h"

#define STATE_MAGIC "DWINCMG\n"
#define STATE_HEAD_BYTES 16u
#define STATE_RECORD_BYTES 32u
#define STATE_MAX_BYTES (STATE_HEAD_BYTES + MSG_MANIFEST_BYTES + 8u + CKPT_MAX_FILES * STATE_RECORD_BYTES)
#define HASH_BYTES 262144u

struct ckpt_in {
  struct env *env;
  char dir[4096], store[4112];
  struct ckpt_manifest m; /* count 0: nothing under way */
  bool *complete;         /* per file, as STATE says */
  struct env_file *state; /* open for appending records */
  uint64_t state_bytes;
  struct env_file *file; /* being written */
  uint32_t file_no;
  uint64_t held;
};

static int file_path(const struct ckpt_in *c, uint32_t file, char *path, size_t cap) {
  int n = snprintf(path, cap, "%s/%s", c->store, c->m.files[file].name);
  return n > 0 && (size_t)n < cap ? DW_OK : dw_fail(DW_INVALID, "path too long: %s", c->store);
}

static void close_files(struct ckpt_in *c) {
  if (c->file) c->env->ops->close(c->file);
  if (c->state) c->env->ops->close(c->state);
  c->file = c->state = NULL;
}

static void forget(struct ckpt_in *c) {
  close_files(c);
  ckpt_manifest_free(&c->m);
  free(c->complete);
  c->complete = NULL;
  c->state_bytes = c->held = 0;
}

/* ---- STATE --------------------------------------------------------------------------------- */

static uint64_t record_hash(const struct ckpt_in *c, const uint8_t record[STATE_RECORD_BYTES]) {
  struct hash128 h = hash128_pair(record, 24, c->m.id.b, sizeof c->m.id.b);
  return get_u64(h.b);
}

/* DW_NOT_FOUND, DW_CORRUPT: nothing to resume. */
static int state_parse(struct ckpt_in *c, const uint8_t *p, size_t n) {
  if (n < STATE_HEAD_BYTES + 8 || memcmp(p, STATE_MAGIC, 8) != 0 || get_u32(p + 8) != 1)
    return dw_fail(DW_CORRUPT, "%s/STATE is not valid", c->dir);
  size_t head = STATE_HEAD_BYTES + get_u32(p + 12);
  if (head > n - 8 || get_u64(p + head) != hash64(p, head)) return dw_fail(DW_CORRUPT, "%s/STATE is not valid", c->dir);
  int rc = ckpt_manifest_decode(p + STATE_HEAD_BYTES, head - STATE_HEAD_BYTES, &c->m);
  if (rc) return rc;
  c->complete = calloc(c->m.count + 1, sizeof *c->complete);
  if (!c->complete) return dw_fail_nomem(c->m.count + 1);
  size_t off = head + 8;
  for (; n - off >= STATE_RECORD_BYTES; off += STATE_RECORD_BYTES) {
    const uint8_t *r = p + off;
    if (get_u64(r + 24) != record_hash(c, r) || get_u32(r) >= c->m.count) break;
    c->complete[get_u32(r)] = true;
  }
  c->state_bytes = off;
  return DW_OK;
}

static int state_load(struct ckpt_in *c) {
  char path[4128];
  uint8_t *bytes = NULL;
  size_t n = 0;
  snprintf(path, sizeof path, "%s/STATE", c->dir);
  int rc = env_read_file(c->env, path, STATE_MAX_BYTES, &bytes, &n);
  if (rc == DW_OK) rc = state_parse(c, bytes, n);
  free(bytes);
  if (rc) forget(c);
  return rc;
}

static int state_open(struct ckpt_in *c) {
  char path[4128];
  snprintf(path, sizeof path, "%s/STATE", c->dir);
  int rc = c->env->ops->open(c->env, path, ENV_WRITE, &c->state);
  if (rc == DW_OK) rc = c->env->ops->truncate(c->state, c->state_bytes); /* half a record, maybe */
  return rc;
}

static int state_new(struct ckpt_in *c) {
  struct buf b = {0};
  uint8_t head[STATE_HEAD_BYTES], sum[8];
  memcpy(head, STATE_MAGIC, 8);
  put_u32(head + 8, 1);
  int rc = buf_append(&b, head, sizeof head);
  if (rc == DW_OK) rc = ckpt_manifest_encode(&b, &c->m);
  if (rc == DW_OK) {
    put_u32(b.data + 12, (uint32_t)(b.len - STATE_HEAD_BYTES));
    put_u64(sum, hash64(b.data, b.len));
    rc = buf_append(&b, sum, sizeof sum);
  }
  if (rc == DW_OK) rc = env_write_file_atomic(c->env, c->dir, "STATE", b.data, b.len);
  c->state_bytes = b.len;
  buf_free(&b);
  return rc;
}

static int state_record(struct ckpt_in *c, uint32_t file, const struct hash128 *hash) {
  uint8_t r[STATE_RECORD_BYTES] = {0};
  put_u32(r, file);
  memcpy(r + 8, hash->b, 16);
  put_u64(r + 24, record_hash(c, r));
  int rc = env_pwrite(c->env, c->state, c->state_bytes, r, sizeof r);
  if (rc == DW_OK) rc = c->env->ops->fdatasync(c->state);
  if (rc) return rc;
  c->state_bytes += sizeof r;
  c->complete[file] = true;
  return DW_OK;
}

/* ---- life ---------------------------------------------------------------------------------- */

int ckpt_in_open(struct env *env, const char *dir, struct ckpt_in **out) {
  struct ckpt_in *c = calloc(1, sizeof *c);
  if (!c) return dw_fail_nomem(sizeof *c);
  c->env = env;
  int n = snprintf(c->dir, sizeof c->dir, "%s", dir);
  if (n < 0 || (size_t)n >= sizeof c->dir - 80) {
    free(c);
    return dw_fail(DW_INVALID, "path too long: %s", dir);
  }
  snprintf(c->store, sizeof c->store, "%s/store", dir);
  int rc = state_load(c);
  if (rc == DW_NO_MEMORY || rc == DW_IO) {
    ckpt_in_close(c);
    return rc;
  }
  *out = c;
  return DW_OK;
}

void ckpt_in_close(struct ckpt_in *c) {
  if (!c) return;
  forget(c);
  free(c);
}

struct hash128 ckpt_in_id(const struct ckpt_in *c) {
  return c->m.id;
}
uint64_t ckpt_in_held(const struct ckpt_in *c) {
  return c->held;
}

int ckpt_in_discard(struct ckpt_in *c) {
  char path[4128];
  forget(c);
  snprintf(path, sizeof path, "%s/STATE", c->dir);
  int rc = c->env->ops->unlink(c->env, path); /* first: files without it are nothing */
  if (rc == DW_NOT_FOUND) rc = DW_OK;
  int rc2 = env_remove_tree(c->env, c->store);
  return rc ? rc : rc2;
}

static int copy_manifest(const struct ckpt_manifest *from, struct ckpt_manifest *to) {
  struct buf b = {0};
  int rc = ckpt_manifest_encode(&b, from);
  if (rc == DW_OK) rc = ckpt_manifest_decode(b.data, b.len, to);
  buf_free(&b);
  return rc;
}

static bool same_manifest(const struct ckpt_manifest *a, const struct ckpt_manifest *b) {
  if (!hash128_eq(&a->id, &b->id) || a->count != b->count || a->pos.lsn != b->pos.lsn) return false;
  for (uint32_t i = 0; i < a->count; i++)
    if (a->files[i].bytes != b->files[i].bytes || strcmp(a->files[i].name, b->files[i].name) != 0) return false;
  return true;
}

/* How much of a file is here. One that is longer than it should be is not what it seems: it goes. */
static int held_of(struct ckpt_in *c, uint32_t file, uint64_t *offset) {
  char path[4400];
  struct env_file *f;
  uint64_t bytes = 0, want = c->m.files[file].bytes;
  int rc = file_path(c, file, path, sizeof path);
  if (rc) return rc;
  *offset = 0;
  rc = c->env->ops->open(c->env, path, ENV_READ, &f);
  if (rc == DW_NOT_FOUND) return DW_OK;
  if (rc) return rc;
  rc = c->env->ops->size(f, &bytes);
  c->env->ops->close(f);
  if (rc) return rc;
  if (c->complete[file] && bytes == want) {
    *offset = CKPT_HELD;
  } else if (bytes > want || c->complete[file]) {
    return c->env->ops->unlink(c->env, path);
  } else {
    *offset = bytes;
  }
  c->held += bytes;
  return DW_OK;
}

int ckpt_in_begin(struct ckpt_in *c, const struct ckpt_manifest *m, uint64_t *offsets) {
  int rc = DW_OK;
  close_files(c);
  c->held = 0;
  if (!same_manifest(&c->m, m)) {
    rc = ckpt_in_discard(c);
    if (rc == DW_OK) rc = copy_manifest(m, &c->m);
    if (rc == DW_OK && !(c->complete = calloc(m->count + 1, sizeof *c->complete))) rc = dw_fail_nomem(m->count + 1);
    if (rc == DW_OK) rc = state_new(c);
  }
  if (rc == DW_OK) rc = c->env->ops->mkdir(c->env, c->store);
  if (rc == DW_OK) rc = state_open(c);
  for (uint32_t i = 0; rc == DW_OK && i < m->count; i++) rc = held_of(c, i, &offsets[i]);
  if (rc) forget(c);
  return rc;
}

/* ---- files --------------------------------------------------------------------------------- */

static void close_current(struct ckpt_in *c) {
  if (c->file) c->env->ops->close(c->file);
  c->file = NULL;
}

static int open_file(struct ckpt_in *c, uint32_t file) {
  char path[4400];
  if (c->file && c->file_no == file) return DW_OK;
  if (file >= c->m.count) return dw_fail(DW_INVALID, "no checkpoint file %u", file);
  if (c->file) c->env->ops->close(c->file);
  c->file = NULL;
  int rc = file_path(c, file, path, sizeof path);
  if (rc == DW_OK) rc = c->env->ops->open(c->env, path, ENV_CREATE, &c->file);
  c->file_no = file;
  return rc;
}

int ckpt_in_write(struct ckpt_in *c, uint32_t file, uint64_t off, const void *p, uint32_t n) {
  int rc = open_file(c, file);
  return rc ? rc : env_pwrite(c->env, c->file, off, p, n);
}

static int hash_file(struct ckpt_in *c, uint64_t bytes, struct hash128 *out) {
  struct hash_stream *h = hash_stream_create();
  uint8_t *buf = malloc(HASH_BYTES);
  int rc = h && buf ? DW_OK : dw_fail_nomem(HASH_BYTES);
  for (uint64_t off = 0; rc == DW_OK && off < bytes;) {
    size_t got = 0, want = bytes - off < HASH_BYTES ? (size_t)(bytes - off) : HASH_BYTES;
    rc = c->env->ops->pread(c->file, off, buf, want, &got);
    if (rc == DW_OK && got < want)
      rc = dw_fail(DW_CORRUPT, "it is %llu bytes short", (unsigned long long)(bytes - off));
    if (rc == DW_OK) hash_stream_update(h, buf, got);
    off += got;
  }
  if (rc == DW_OK) *out = hash_stream_digest(h);
  if (h) hash_stream_destroy(h);
  free(buf);
  return rc;
}

int ckpt_in_file_end(struct ckpt_in *c, uint32_t file, const struct hash128 *want) {
  char path[4400];
  struct hash128 got = {{0}};
  int rc = open_file(c, file); /* also makes an empty one */
  if (rc == DW_OK) rc = file_path(c, file, path, sizeof path);
  if (rc) return rc;
  rc = c->env->ops->fdatasync(c->file);
  bool useless = rc != DW_OK; /* the kernel may have dropped its pages: a sync that succeeds later proves nothing */
  if (rc == DW_OK) rc = hash_file(c, c->m.files[file].bytes, &got);
  if (rc == DW_OK && !hash128_eq(&got, want)) rc = dw_fail(DW_CORRUPT, "its hash is not the one that was announced");
  c->env->ops->close(c->file);
  c->file = NULL;
  if (rc) {
    char why[400];
    dw_error_copy(why, sizeof why);
    dw_fail(rc, "incoming checkpoint file %s: %s", path, why);
    dw_error_copy(why, sizeof why);
    if ((useless || rc == DW_CORRUPT) && c->env->ops->unlink(c->env, path) != DW_OK) forget(c); /* starts over, then */
    return dw_fail(rc, "%s", why);
  }
  return state_record(c, file, want);
}

struct env *ckpt_in_env(const struct ckpt_in *c) {
  return c->env;
}

static int copy_file(struct ckpt_in *c, const char *from, const char *to) {
  struct env_file *in = NULL, *out = NULL;
  uint8_t *buf = malloc(HASH_BYTES);
  int rc = buf ? c->env->ops->open(c->env, from, ENV_READ, &in) : dw_fail_nomem(HASH_BYTES);
  if (rc == DW_OK) rc = c->env->ops->open(c->env, to, ENV_CREATE, &out);
  size_t got = 0;
  for (uint64_t off = 0; rc == DW_OK; off += got) {
    rc = c->env->ops->pread(in, off, buf, HASH_BYTES, &got);
    if (rc || got == 0) break;
    rc = env_pwrite(c->env, out, off, buf, got);
  }
  if (rc == DW_OK) rc = c->env->ops->fdatasync(out);
  if (in) c->env->ops->close(in);
  if (out) c->env->ops->close(out);
  free(buf);
  return rc;
}

/* The store has synced its table files when it made them, so a link is as good as a copy that was synced. */
int ckpt_in_take(struct ckpt_in *c, uint32_t file, const char *from, const struct hash128 *want) {
  char path[4400];
  struct hash128 got;
  if (c->file && c->file_no == file) close_current(c);
  int rc = file_path(c, file, path, sizeof path);
  if (rc == DW_OK) rc = c->env->ops->unlink(c->env, path); /* a part of it, from an earlier transfer */
  if (rc == DW_OK || rc == DW_NOT_FOUND)
    rc = c->env->ops->link ? c->env->ops->link(c->env, from, path) : copy_file(c, from, path);
  if (rc) return rc;
  rc = open_file(c, file);
  if (rc == DW_OK) rc = hash_file(c, c->m.files[file].bytes, &got);
  close_current(c);
  if (rc == DW_OK && hash128_eq(&got, want)) return state_record(c, file, want);
  if (rc && rc != DW_CORRUPT) return rc;
  rc = c->env->ops->unlink(c->env, path);
  return rc ? rc : dw_fail(DW_NOT_FOUND, "%s has changed", from);
}

int ckpt_in_finish(struct ckpt_in *c) {
  for (uint32_t i = 0; i < c->m.count; i++)
    if (!c->complete[i]) return dw_fail(DW_CORRUPT, "checkpoint file %s is not complete", c->m.files[i].name);
  close_files(c);
  int rc = c->env->ops->sync_dir(c->env, c->store);
  return rc ? rc : c->env->ops->sync_dir(c->env, c->dir);
}
