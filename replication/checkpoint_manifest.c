/* Manifest bytes: id 16, pos 32, total_bytes u64, count u32, flags u32 (bit 0: with hashes), then per file: bytes u64,
 * name length u8, name, and the hash 16 if there are hashes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/checkpoint_manifest.h"

#define HEAD_BYTES 64u
#define WITH_HASHES 1u

void ckpt_manifest_free(struct ckpt_manifest *m) {
  free(m->files);
  *m = (struct ckpt_manifest){0};
}

bool ckpt_name_ok(const char *name) {
  size_t n = strnlen(name, CKPT_NAME_BYTES);
  if (n == 0 || n == CKPT_NAME_BYTES || name[0] == '.') return false;
  return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

/* Room is doubled as files come, so a lying count allocates nothing. */
static int add(struct ckpt_manifest *m, const char *name, uint64_t bytes) {
  if (m->count >= CKPT_MAX_FILES) return dw_fail(DW_UNSUPPORTED, "checkpoint of more than %u files", CKPT_MAX_FILES);
  if ((m->count & (m->count - 1)) == 0) { /* 0, 1, 2, 4, 8...: full */
    size_t cap = m->count ? 2 * (size_t)m->count : 1;
    struct ckpt_file *grown = realloc(m->files, cap * sizeof *grown);
    if (!grown) return dw_fail_nomem(cap * sizeof *grown);
    m->files = grown;
  }
  struct ckpt_file *f = &m->files[m->count++];
  memset(f, 0, sizeof *f);
  snprintf(f->name, sizeof f->name, "%s", name);
  f->bytes = bytes;
  m->total_bytes += bytes;
  return DW_OK;
}

int ckpt_manifest_add(struct ckpt_manifest *m, const char *name, uint64_t bytes) {
  if (!ckpt_name_ok(name)) return dw_fail(DW_INVALID, "checkpoint file name '%.80s' can't be sent", name);
  if (bytes > INT64_MAX || m->total_bytes > INT64_MAX - bytes)
    return dw_fail(DW_INVALID, "checkpoint file %s: impossible size", name);
  return add(m, name, bytes);
}

int ckpt_manifest_encode(struct buf *b, const struct ckpt_manifest *m) {
  size_t n = HEAD_BYTES, tail = m->hashes ? sizeof m->files->hash.b : 0;
  for (uint32_t i = 0; i < m->count; i++) n += 9 + strlen(m->files[i].name) + tail;
  if (n > MSG_MANIFEST_BYTES)
    return dw_fail(DW_UNSUPPORTED, "checkpoint manifest of %zu bytes, %u are allowed", n, MSG_MANIFEST_BYTES);
  int rc = buf_reserve(b, n);
  if (rc) return rc;
  uint8_t *p = b->data + b->len;
  memcpy(p, m->id.b, 16);
  put_u64(p + 16, m->pos.lsn);
  put_u64(p + 24, m->pos.epoch);
  memcpy(p + 32, m->pos.chain.b, 16);
  put_u64(p + 48, m->total_bytes);
  put_u32(p + 56, m->count);
  put_u32(p + 60, m->hashes ? WITH_HASHES : 0);
  p += HEAD_BYTES;
  for (uint32_t i = 0; i < m->count; i++) {
    size_t len = strlen(m->files[i].name);
    put_u64(p, m->files[i].bytes);
    p[8] = (uint8_t)len;
    memcpy(p + 9, m->files[i].name, len);
    memcpy(p + 9 + len, m->files[i].hash.b, tail);
    p += 9 + len + tail;
  }
  b->len += n;
  return DW_OK;
}

static int by_name(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_unique(const struct ckpt_manifest *m) {
  const char **names = malloc((m->count + 1) * sizeof *names);
  if (!names) return dw_fail_nomem((m->count + 1) * sizeof *names);
  for (uint32_t i = 0; i < m->count; i++) names[i] = m->files[i].name;
  qsort(names, m->count, sizeof *names, by_name);
  int rc = DW_OK;
  for (uint32_t i = 1; rc == DW_OK && i < m->count; i++)
    if (strcmp(names[i - 1], names[i]) == 0) rc = dw_fail(DW_CORRUPT, "checkpoint manifest names %s twice", names[i]);
  free(names);
  return rc;
}

static int decode_files(const uint8_t *p, const uint8_t *end, uint32_t count, struct ckpt_manifest *m) {
  const size_t tail = m->hashes ? sizeof m->files->hash.b : 0;
  for (uint32_t i = 0; i < count; i++) {
    if (end - p < 9 || (size_t)(end - p) - 9 < p[8] + tail)
      return dw_fail(DW_CORRUPT, "checkpoint manifest: file %u is cut off", i);
    char name[256] = {0};
    memcpy(name, p + 9, p[8]);
    uint64_t bytes = get_u64(p);
    if (strlen(name) != p[8] || !ckpt_name_ok(name))
      return dw_fail(DW_CORRUPT, "checkpoint manifest: file %u has a name that is not allowed", i);
    if (bytes > INT64_MAX || m->total_bytes > INT64_MAX - bytes)
      return dw_fail(DW_CORRUPT, "checkpoint manifest: file %s has an impossible size", name);
    int rc = add(m, name, bytes);
    if (rc) return rc;
    memcpy(m->files[i].hash.b, p + 9 + p[8], tail);
    p += 9 + p[8] + tail;
  }
  return p == end ? DW_OK : dw_fail(DW_CORRUPT, "checkpoint manifest: %zu bytes too many", (size_t)(end - p));
}

int ckpt_manifest_decode(const void *in, size_t n, struct ckpt_manifest *out) {
  const uint8_t *p = in;
  struct ckpt_manifest m = {0};
  if (n < HEAD_BYTES || n > MSG_MANIFEST_BYTES) return dw_fail(DW_CORRUPT, "checkpoint manifest of %zu bytes", n);
  memcpy(m.id.b, p, 16);
  m.pos.lsn = get_u64(p + 16);
  m.pos.epoch = get_u64(p + 24);
  memcpy(m.pos.chain.b, p + 32, 16);
  uint32_t count = get_u32(p + 56);
  if (hash128_zero(&m.id)) return dw_fail(DW_CORRUPT, "checkpoint manifest without an id");
  if (get_u32(p + 60) > WITH_HASHES) return dw_fail(DW_CORRUPT, "checkpoint manifest: unknown flags");
  m.hashes = get_u32(p + 60) == WITH_HASHES;
  if (count == 0 || count > CKPT_MAX_FILES) return dw_fail(DW_CORRUPT, "checkpoint manifest of %u files", count);
  int rc = decode_files(p + HEAD_BYTES, p + n, count, &m);
  if (rc == DW_OK && m.total_bytes != get_u64(p + 48))
    rc = dw_fail(DW_CORRUPT, "checkpoint manifest: sizes do not add up to the total");
  if (rc == DW_OK) rc = check_unique(&m);
  if (rc)
    ckpt_manifest_free(&m);
  else
    *out = m;
  return rc;
}

int msg_put_ckpt_manifest(struct buf *b, const struct msg_sender *s, const struct ckpt_manifest *m) {
  struct buf body = {0};
  int rc = ckpt_manifest_encode(&body, m);
  if (rc == DW_OK) rc = msg_put(b, s, MSG_CKPT_MANIFEST, body.data, body.len);
  buf_free(&body);
  return rc;
}

int msg_get_ckpt_manifest(const struct frame *f, struct ckpt_manifest *out) {
  return ckpt_manifest_decode(f->body, f->h.body_len, out);
}
