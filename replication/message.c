/* Frames: one header for all, bounds per type, and the reader that cuts a byte stream into them.
 *
 * The reader's buffer holds at most the frame under way plus what one read brought along. It grows by what arrives
 * (doubling), so a header that announces 128 MiB costs its sender 128 MiB of sending before it costs us the memory.
 */
#include <stdio.h>
#include <stdlib.h>

#include "replication/message.h"

/* The order is that of enum msg_type. Bulk types: `hashed` is the prefix that the body checksum covers; 0: all. */
static const struct {
  const char *name;
  uint32_t min, max, hashed;
} types[MSG_TYPES] = {
    [MSG_HELLO] = {"HELLO", 200, 4096, 0}, /* later versions append */
    [MSG_WELCOME] = {"WELCOME", 104, 104, 0},
    [MSG_REFUSE] = {"REFUSE", 16, 16 + MSG_TEXT_BYTES, 0},
    [MSG_BLOCKS] = {"BLOCKS", MSG_BLOCKS_PREFIX_BYTES + WAL_BLOCK_HEADER_BYTES,
                    MSG_BLOCKS_PREFIX_BYTES + WAL_MAX_BLOCK_BYTES, MSG_BLOCKS_PREFIX_BYTES},
    [MSG_COMMIT] = {"COMMIT", 8, 8, 0},
    [MSG_ACK] = {"ACK", 32, 32, 0},
    [MSG_PROBE] = {"PROBE", 24, 24, 0},
    [MSG_PROBE_ANSWER] = {"PROBE_ANSWER", 24, 24, 0},
    [MSG_HEARTBEAT] = {"HEARTBEAT", 16, 16, 0},
    [MSG_CKPT_MANIFEST] = {"CKPT_MANIFEST", 64, MSG_MANIFEST_BYTES, 0},
    [MSG_CKPT_WANT] = {"CKPT_WANT", 24, 24 + 8 * 65536, 0},
    [MSG_CKPT_CHUNK] = {"CKPT_CHUNK", MSG_CHUNK_PREFIX_BYTES + 1, MSG_CHUNK_PREFIX_BYTES + MSG_CHUNK_BYTES,
                        MSG_CHUNK_PREFIX_BYTES},
    [MSG_CKPT_FILE_END] = {"CKPT_FILE_END", 24, 24, 0},
    [MSG_CKPT_DONE] = {"CKPT_DONE", 16, 16, 0},
    [MSG_CKPT_ACK] = {"CKPT_ACK", 8, 8, 0},
    [MSG_CKPT_INSTALLED] = {"CKPT_INSTALLED", 16, 16, 0},
    [MSG_FETCH] = {"FETCH", 88, 4096, 0}, /* later versions append */
    [MSG_FETCHED] = {"FETCHED", MSG_FETCHED_PREFIX_BYTES, MSG_FETCHED_PREFIX_BYTES + WAL_MAX_BLOCK_BYTES,
                     MSG_FETCHED_PREFIX_BYTES},
    [MSG_PACKED] = {"PACKED", MSG_PACKED_PREFIX_BYTES + 1, MSG_PACKED_PREFIX_BYTES + WAL_PACK_BOUND, 0},
    [MSG_FENCE] = {"FENCE", 160, 4096, 0}, /* later versions append */
    [MSG_MEMBERS] = {"MEMBERS", 8 + MSG_MEMBER_BYTES, 8 + MSG_MEMBERS_MAX *MSG_MEMBER_BYTES, 0},
    [MSG_FENCED] = {"FENCED", 216, 216 + MSG_TEXT_BYTES, 0},
};

const char *msg_name(unsigned type) {
  return type < MSG_TYPES ? types[type].name : NULL;
}

bool msg_bounds(unsigned type, uint32_t *min, uint32_t *max) {
  if (!msg_name(type)) return false;
  *min = types[type].min, *max = types[type].max;
  return true;
}

size_t msg_hashed_bytes(unsigned type, size_t body_len) {
  size_t prefix = type < MSG_TYPES ? types[type].hashed : 0;
  return prefix && prefix < body_len ? prefix : body_len;
}

/* May travel before WELCOME has chosen a version, so they are the same in all of them. */
static bool any_version(unsigned type) {
  return type == MSG_HELLO || type == MSG_WELCOME || type == MSG_REFUSE || type == MSG_HEARTBEAT || type == MSG_FETCH ||
         type == MSG_FETCHED || type == MSG_FENCE || type == MSG_FENCED;
}

/* ---- header -------------------------------------------------------------------------------- */

void frame_header_encode(const struct frame_header *h, uint8_t out[MSG_HEADER_BYTES]) {
  put_u32(out, MSG_MAGIC);
  put_u16(out + 4, h->version);
  put_u16(out + 6, h->type);
  put_u32(out + 8, h->body_len);
  put_u32(out + 12, 0);
  put_u64(out + 16, h->epoch);
  put_u64(out + 24, h->sender);
  put_u64(out + 32, h->body_hash);
  put_u64(out + 40, hash64(out, 40));
}

int frame_header_decode(const uint8_t in[MSG_HEADER_BYTES], struct frame_header *h) {
  if (get_u32(in) != MSG_MAGIC)
    return dw_fail(DW_CORRUPT, "not a dabbawal peer: it sent magic %08x, not %08x", get_u32(in), MSG_MAGIC);
  if (get_u64(in + 40) != hash64(in, 40)) return dw_fail(DW_CORRUPT, "frame header checksum does not match");
  if (get_u32(in + 12) != 0) return dw_fail(DW_UNSUPPORTED, "unknown frame flags %08x", get_u32(in + 12));
  *h = (struct frame_header){.version = get_u16(in + 4),
                             .type = get_u16(in + 6),
                             .body_len = get_u32(in + 8),
                             .epoch = get_u64(in + 16),
                             .sender = get_u64(in + 24),
                             .body_hash = get_u64(in + 32)};
  return DW_OK;
}

/* ---- reader -------------------------------------------------------------------------------- */

void frame_reader_init(struct frame_reader *r, uint32_t accept) {
  *r = (struct frame_reader){.accept = accept};
}

void frame_reader_free(struct frame_reader *r) {
  buf_free(&r->in);
  *r = (struct frame_reader){0};
}

void frame_reader_accept(struct frame_reader *r, uint32_t accept) {
  r->accept = accept;
}

size_t frame_reader_buffered(const struct frame_reader *r) {
  return r->in.len - r->off;
}

int frame_reader_feed(struct frame_reader *r, const void *p, size_t n) {
  if (r->failed) return dw_fail(r->failed, "%s", r->error);
  if (r->off) { /* the frame handed out last is done with now */
    buf_consume(&r->in, r->off);
    r->off = 0;
  }
  return buf_append(&r->in, p, n);
}

static int reader_broken(struct frame_reader *r, int rc) {
  r->failed = rc;
  dw_error_copy(r->error, sizeof r->error);
  return rc;
}

/* Rules 1 to 3. */
static int check_header(const struct frame_reader *r, const uint8_t *in, struct frame_header *h) {
  int rc = frame_header_decode(in, h);
  if (rc) return rc;
  uint32_t min, max;
  if (!msg_bounds(h->type, &min, &max)) return dw_fail(DW_UNSUPPORTED, "unknown message type %u", h->type);
  if (!(r->accept & MSG_BIT(h->type))) return dw_fail(DW_CORRUPT, "%s is out of place here", msg_name(h->type));
  if (h->body_len < min || h->body_len > max)
    return dw_fail(DW_CORRUPT, "%s of %u bytes, %u to %u are allowed", msg_name(h->type), h->body_len, min, max);
  unsigned want = any_version(h->type) ? 0 : r->version;
  if (h->version != want)
    return dw_fail(DW_UNSUPPORTED, "%s in protocol version %u, expected %u", msg_name(h->type), h->version, want);
  return DW_OK;
}

int frame_reader_next(struct frame_reader *r, struct frame *out) {
  if (r->failed) return dw_fail(r->failed, "%s", r->error);
  size_t have = r->in.len - r->off;
  if (have < MSG_HEADER_BYTES) return DW_NOT_FOUND;
  const uint8_t *at = r->in.data + r->off;
  if (!r->have_header) {
    int rc = check_header(r, at, &r->h);
    if (rc) return reader_broken(r, rc);
    r->have_header = true;
  }
  if (have - MSG_HEADER_BYTES < r->h.body_len) return DW_NOT_FOUND;
  const uint8_t *body = at + MSG_HEADER_BYTES;
  if (hash64(body, msg_hashed_bytes(r->h.type, r->h.body_len)) != r->h.body_hash)
    return reader_broken(r, dw_fail(DW_CORRUPT, "%s body checksum does not match", msg_name(r->h.type)));
  *out = (struct frame){r->h, body};
  r->off += MSG_HEADER_BYTES + r->h.body_len;
  r->have_header = false;
  return DW_OK;
}

/* ---- writing ------------------------------------------------------------------------------- */

static void head(const struct msg_sender *s, unsigned type, size_t body_len, const uint8_t *body,
                 uint8_t out[MSG_HEADER_BYTES]) {
  struct frame_header h = {.version = any_version(type) ? 0 : s->version,
                           .type = (uint16_t)type,
                           .body_len = (uint32_t)body_len,
                           .epoch = s->epoch,
                           .sender = s->node_id,
                           .body_hash = hash64(body, msg_hashed_bytes(type, body_len))};
  frame_header_encode(&h, out);
}

int msg_put(struct buf *b, const struct msg_sender *s, unsigned type, const void *body, size_t n) {
  int rc = buf_reserve(b, MSG_HEADER_BYTES + n);
  if (rc) return rc;
  head(s, type, n, body, b->data + b->len);
  memcpy(b->data + b->len + MSG_HEADER_BYTES, body, n);
  b->len += MSG_HEADER_BYTES + n;
  return DW_OK;
}

void msg_blocks_head(const struct msg_sender *s, dw_lsn commit_lsn, uint32_t count, size_t block_bytes,
                     uint8_t out[MSG_HEADER_BYTES + MSG_BLOCKS_PREFIX_BYTES]) {
  uint8_t *prefix = out + MSG_HEADER_BYTES;
  put_u64(prefix, commit_lsn);
  put_u32(prefix + 8, count);
  put_u32(prefix + 12, 0);
  head(s, MSG_BLOCKS, MSG_BLOCKS_PREFIX_BYTES + block_bytes, prefix, out);
}

void msg_packed_head(const struct msg_sender *s, const struct msg_packed *m, struct buf *b) {
  uint8_t *prefix = b->data + MSG_HEADER_BYTES;
  put_u64(prefix, m->commit_lsn);
  put_u32(prefix + 8, m->count);
  put_u32(prefix + 12, m->plain);
  memcpy(prefix + 16, m->chain.b, 16);
  head(s, MSG_PACKED, b->len - MSG_HEADER_BYTES, prefix, b->data);
}

void msg_chunk_head(const struct msg_sender *s, uint32_t file, uint64_t offset, const void *data, uint32_t bytes,
                    uint8_t out[MSG_HEADER_BYTES + MSG_CHUNK_PREFIX_BYTES]) {
  uint8_t *prefix = out + MSG_HEADER_BYTES;
  struct hash128 hash = hash128(data, bytes);
  put_u32(prefix, file);
  put_u32(prefix + 4, bytes);
  put_u64(prefix + 8, offset);
  memcpy(prefix + 16, hash.b, 16);
  put_u64(prefix + 32, 0);
  head(s, MSG_CKPT_CHUNK, MSG_CHUNK_PREFIX_BYTES + bytes, prefix, out);
}

void msg_fetched_head(const struct msg_sender *s, const struct msg_fetched *m, size_t block_bytes,
                      uint8_t out[MSG_HEADER_BYTES + MSG_FETCHED_PREFIX_BYTES]) {
  uint8_t *prefix = out + MSG_HEADER_BYTES;
  memset(prefix, 0, MSG_FETCHED_PREFIX_BYTES);
  put_u16(prefix, m->version);
  put_u32(prefix + 4, m->count);
  put_u64(prefix + 8, m->id);
  memcpy(prefix + 16, m->cluster_id.b, 16);
  head(s, MSG_FETCHED, MSG_FETCHED_PREFIX_BYTES + block_bytes, prefix, out);
}
