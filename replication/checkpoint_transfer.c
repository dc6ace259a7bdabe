/* The two ends of checkpoint_transfer.h. */
#include <stdlib.h>

#include "replication/checkpoint_transfer.h"

typedef unsigned long long ull;

/* ---- sender -------------------------------------------------------------------------------- */

int ckpt_sender_init(struct ckpt_sender *s, struct ckpt_manifest *m) {
  *s = (struct ckpt_sender){0};
  s->hash = hash_stream_create();
  if (!s->hash) return dw_fail_nomem(512);
  s->manifest = *m;
  *m = (struct ckpt_manifest){0};
  return DW_OK;
}

void ckpt_sender_free(struct ckpt_sender *s) {
  ckpt_manifest_free(&s->manifest);
  free(s->want);
  if (s->hash) hash_stream_destroy(s->hash);
  *s = (struct ckpt_sender){0};
}

static void skip_held(struct ckpt_sender *s) {
  while (s->file < s->manifest.count && s->want[s->file] == CKPT_HELD) s->file++;
}

int ckpt_sender_want(struct ckpt_sender *s, const struct msg_ckpt_want *w) {
  if (s->want) return dw_fail(DW_CORRUPT, "CKPT_WANT: a second one");
  if (!hash128_eq(&w->id, &s->manifest.id) || w->count != s->manifest.count)
    return dw_fail(DW_CORRUPT, "CKPT_WANT: it is about another checkpoint");
  for (uint32_t i = 0; i < w->count; i++) {
    uint64_t off = msg_want_offset(w, i);
    if (off != CKPT_HELD && off > s->manifest.files[i].bytes)
      return dw_fail(DW_CORRUPT, "CKPT_WANT: offset %llu of %s, which has %llu bytes", (ull)off,
                     s->manifest.files[i].name, (ull)s->manifest.files[i].bytes);
  }
  s->want = malloc((w->count + 1) * sizeof *s->want);
  if (!s->want) return dw_fail_nomem((w->count + 1) * sizeof *s->want);
  for (uint32_t i = 0; i < w->count; i++) s->want[i] = msg_want_offset(w, i);
  skip_held(s);
  return DW_OK;
}

int ckpt_sender_ack(struct ckpt_sender *s, uint64_t bytes) {
  if (bytes > s->sent) return dw_fail(DW_CORRUPT, "CKPT_ACK of %llu bytes, %llu were sent", (ull)bytes, (ull)s->sent);
  if (bytes > s->acked) s->acked = bytes;
  return DW_OK;
}

enum ckpt_step ckpt_sender_next(const struct ckpt_sender *s, uint32_t *file, uint64_t *off, uint32_t *n) {
  if (!s->want) return CKPT_WAIT;
  if (s->file == s->manifest.count) return CKPT_DONE;
  uint64_t left = s->manifest.files[s->file].bytes - s->offset;
  if (left == 0) return CKPT_FILE_END;
  if (s->sent - s->acked + MSG_CHUNK_BYTES > CKPT_WINDOW_BYTES) return CKPT_WAIT;
  *file = s->file;
  *off = s->offset;
  *n = left < MSG_CHUNK_BYTES ? (uint32_t)left : MSG_CHUNK_BYTES;
  return CKPT_READ;
}

void ckpt_sender_read(struct ckpt_sender *s, const void *data, uint32_t n, uint32_t *skip) {
  uint64_t want = s->want[s->file];
  uint64_t held = want > s->offset ? want - s->offset : 0;
  *skip = held < n ? (uint32_t)held : n;
  hash_stream_update(s->hash, data, n);
  s->offset += n;
  s->sent += n - *skip;
}

int ckpt_sender_file_end(struct ckpt_sender *s, struct hash128 *hash) {
  struct hash_stream *next = hash_stream_create();
  if (!next) return dw_fail_nomem(512);
  *hash = hash_stream_digest(s->hash);
  hash_stream_destroy(s->hash);
  s->hash = next;
  s->file++;
  s->offset = 0;
  skip_held(s);
  return DW_OK;
}

/* ---- receiver ------------------------------------------------------------------------------ */

int ckpt_receiver_init(struct ckpt_receiver *r, struct ckpt_manifest *m) {
  *r = (struct ckpt_receiver){.manifest = *m, .active = true};
  *m = (struct ckpt_manifest){0};
  return DW_OK;
}

void ckpt_receiver_free(struct ckpt_receiver *r) {
  ckpt_manifest_free(&r->manifest);
  free(r->want);
  *r = (struct ckpt_receiver){0};
}

/* To the next file of which something is missing. */
static void settle(struct ckpt_receiver *r) {
  while (r->file < r->manifest.count && r->want[r->file] == CKPT_HELD) r->file++;
  r->offset = r->file < r->manifest.count ? r->want[r->file] : 0;
}

int ckpt_receiver_want(struct ckpt_receiver *r, const uint64_t *offsets) {
  for (uint32_t i = 0; i < r->manifest.count; i++)
    if (offsets[i] != CKPT_HELD && offsets[i] > r->manifest.files[i].bytes)
      return dw_fail(DW_INVALID, "%s: %llu bytes held of %llu", r->manifest.files[i].name, (ull)offsets[i],
                     (ull)r->manifest.files[i].bytes);
  free(r->want);
  r->want = malloc((r->manifest.count + 1) * sizeof *r->want);
  if (!r->want) return dw_fail_nomem((r->manifest.count + 1) * sizeof *r->want);
  memcpy(r->want, offsets, r->manifest.count * sizeof *r->want);
  r->file = 0;
  r->received = 0;
  settle(r);
  return DW_OK;
}

int ckpt_receiver_chunk(struct ckpt_receiver *r, const struct msg_ckpt_chunk *c) {
  if (!r->want || r->file >= r->manifest.count || c->file != r->file || c->offset != r->offset ||
      c->bytes > r->manifest.files[r->file].bytes - r->offset)
    return dw_fail(DW_CORRUPT, "CKPT_CHUNK: file %u at %llu is not what comes next", c->file, (ull)c->offset);
  r->offset += c->bytes;
  r->received += c->bytes;
  return DW_OK;
}

int ckpt_receiver_file_end(struct ckpt_receiver *r, const struct msg_ckpt_file_end *e) {
  if (!r->want || r->file >= r->manifest.count || e->file != r->file || r->offset != r->manifest.files[r->file].bytes)
    return dw_fail(DW_CORRUPT, "CKPT_FILE_END of file %u comes too early", e->file);
  r->file++;
  settle(r);
  return DW_OK;
}

int ckpt_receiver_done(const struct ckpt_receiver *r, const struct hash128 *id) {
  if (!hash128_eq(id, &r->manifest.id)) return dw_fail(DW_CORRUPT, "CKPT_DONE: it is about another checkpoint");
  if (!r->want || r->file < r->manifest.count) return dw_fail(DW_CORRUPT, "CKPT_DONE: files are missing");
  return DW_OK;
}
