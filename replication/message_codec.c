/* Message bodies: encode and decode, side by side so that they can be compared line by line. docs/protocol.md has
 * the same offsets as tables. Decoders trust nothing but the frame's checksum: lengths exact, reserved bytes zero,
 * enums known; what they can't judge (is this LSN plausible?) is the state machines' business.
 */
#include <stdio.h>
#include <stdlib.h>

#include "replication/message.h"

static int bad(const struct frame *f, const char *what) {
  return dw_fail(DW_CORRUPT, "%s: %s", msg_name(f->h.type), what);
}

static bool all_zero(const uint8_t *p, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (p[i]) return false;
  return true;
}

/* 32 bytes: lsn, epoch, chain. */
static void put_pos(uint8_t *p, const struct wal_pos *pos) {
  put_u64(p, pos->lsn);
  put_u64(p + 8, pos->epoch);
  memcpy(p + 16, pos->chain.b, 16);
}
static struct wal_pos get_pos(const uint8_t *p) {
  struct wal_pos pos = {.lsn = get_u64(p), .epoch = get_u64(p + 8)};
  memcpy(pos.chain.b, p + 16, 16);
  return pos;
}
static void put_hash(uint8_t *p, const struct hash128 *h) {
  memcpy(p, h->b, 16);
}
static struct hash128 get_hash(const uint8_t *p) {
  struct hash128 h;
  memcpy(h.b, p, 16);
  return h;
}

/* Text that will be shown: control characters are a peer's attempt to forge log lines. */
static void printable(char *text) {
  for (; *text; text++)
    if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

/* ---- HELLO --------------------------------------------------------------------------------- */

#define HELLO_FLAGS_AT (MSG_HELLO_BYTES + MSG_MEMBER_BYTES) /* behind the entry, which is zero if there is none */
#define HELLO_LONG_BYTES (HELLO_FLAGS_AT + 8u)
#define HELLO_REJOIN 1u
#define HELLO_HASHES 2u

int msg_put_hello(struct buf *b, const struct msg_sender *s, const struct msg_hello *m) {
  uint8_t p[HELLO_LONG_BYTES] = {0};
  uint32_t flags = (m->rejoin ? HELLO_REJOIN : 0) | (m->hashes ? HELLO_HASHES : 0);
  put_u16(p, m->version_min);
  put_u16(p + 2, m->version_max);
  p[4] = m->role;
  put_hash(p + 8, &m->cluster_id);
  put_u64(p + 24, m->node_id);
  put_hash(p + 32, &m->incarnation);
  put_pos(p + 48, &m->tail);
  put_pos(p + 80, &m->applied);
  put_pos(p + 112, &m->at);
  put_hash(p + 144, &m->resume);
  put_u32(p + 160, m->heartbeat_ms);
  memcpy(p + 168, m->region, strnlen(m->region, MSG_REGION_BYTES - 1));
  if (m->has_member) msg_member_encode(&m->member, p + MSG_HELLO_BYTES);
  put_u32(p + HELLO_FLAGS_AT, flags);
  return msg_put(b, s, MSG_HELLO, p, flags ? HELLO_LONG_BYTES : m->has_member ? HELLO_FLAGS_AT : MSG_HELLO_BYTES);
}

/* HELLO and FETCH begin with what their sender speaks: there in every version, and judged first. */
static int check_versions(const struct frame *f, uint16_t min, uint16_t max) {
  if (min == 0 || min > max) return bad(f, "impossible version range");
  if (max < MSG_VERSION_MIN || min > MSG_VERSION_MAX)
    return dw_fail(DW_UNSUPPORTED, "protocol versions %u to %u are spoken there, %u to %u here", min, max,
                   MSG_VERSION_MIN, MSG_VERSION_MAX);
  return DW_OK;
}

int msg_get_hello(const struct frame *f, struct msg_hello *m) {
  const uint8_t *p = f->body;
  *m = (struct msg_hello){.version_min = get_u16(p), .version_max = get_u16(p + 2)};
  int rc = check_versions(f, m->version_min, m->version_max);
  if (rc) return rc;
  m->role = p[4];
  m->cluster_id = get_hash(p + 8);
  m->node_id = get_u64(p + 24);
  m->incarnation = get_hash(p + 32);
  m->tail = get_pos(p + 48);
  m->applied = get_pos(p + 80);
  m->at = get_pos(p + 112);
  m->resume = get_hash(p + 144);
  m->heartbeat_ms = get_u32(p + 160);
  memcpy(m->region, p + 168, MSG_REGION_BYTES);
  if (f->h.body_len >= HELLO_LONG_BYTES) { /* flags that we do not know are a later version's */
    m->rejoin = get_u32(p + HELLO_FLAGS_AT) & HELLO_REJOIN;
    m->hashes = get_u32(p + HELLO_FLAGS_AT) & HELLO_HASHES;
  }
  if (m->role != DW_PRIMARY && m->role != DW_FOLLOWER) return bad(f, "unknown role");
  if (!all_zero(p + 5, 3) || !all_zero(p + 164, 4)) return bad(f, "reserved bytes are not zero");
  if (m->node_id == 0 || m->node_id != f->h.sender) return bad(f, "node id is zero or not the frame's sender");
  if (hash128_zero(&m->incarnation)) return bad(f, "no incarnation id");
  if (m->heartbeat_ms == 0 || m->heartbeat_ms > MSG_MAX_HEARTBEAT_MS) return bad(f, "heartbeat interval out of bounds");
  size_t region = strnlen(m->region, MSG_REGION_BYTES);
  if (region == MSG_REGION_BYTES) return bad(f, "region is not terminated");
  if (!all_zero(p + 168 + region, MSG_REGION_BYTES - region)) return bad(f, "bytes behind the end of the region");
  if (m->applied.lsn > m->tail.lsn || m->at.lsn > m->tail.lsn) return bad(f, "position beyond the log's own end");
  if (m->applied.epoch > m->tail.epoch || m->at.epoch > m->tail.epoch) return bad(f, "epoch beyond the log's own");
  if (hash128_zero(&m->cluster_id) && m->tail.lsn) return bad(f, "a log without a cluster id");
  printable(m->region);
  m->has_member = f->h.body_len >= HELLO_FLAGS_AT && !all_zero(p + MSG_HELLO_BYTES, MSG_MEMBER_BYTES);
  if (!m->has_member) return DW_OK;
  rc = msg_member_decode(p + MSG_HELLO_BYTES, &m->member);
  if (rc) return dw_fail_prefix(rc, "HELLO");
  return m->member.node_id == m->node_id ? DW_OK : bad(f, "it speaks of another node");
}

/* ---- WELCOME ------------------------------------------------------------------------------- */

#define WELCOME_BYTES 104u

int msg_put_welcome(struct buf *b, const struct msg_sender *s, const struct msg_welcome *m) {
  uint8_t p[WELCOME_BYTES] = {0};
  put_u16(p, m->version);
  p[2] = m->follows;
  p[3] = m->role;
  put_u32(p + 4, m->heartbeat_ms);
  put_hash(p + 8, &m->cluster_id);
  put_u64(p + 24, m->node_id);
  put_hash(p + 32, &m->incarnation);
  put_u64(p + 48, m->epoch);
  put_u64(p + 56, m->commit_lsn);
  put_u64(p + 64, m->tail_lsn);
  put_pos(p + 72, &m->pos);
  return msg_put(b, s, MSG_WELCOME, p, sizeof p);
}

int msg_get_welcome(const struct frame *f, struct msg_welcome *m) {
  const uint8_t *p = f->body;
  *m = (struct msg_welcome){.version = get_u16(p),
                            .follows = p[2],
                            .role = p[3],
                            .heartbeat_ms = get_u32(p + 4),
                            .cluster_id = get_hash(p + 8),
                            .node_id = get_u64(p + 24),
                            .incarnation = get_hash(p + 32),
                            .epoch = get_u64(p + 48),
                            .commit_lsn = get_u64(p + 56),
                            .tail_lsn = get_u64(p + 64),
                            .pos = get_pos(p + 72)};
  if (m->version < MSG_VERSION_MIN || m->version > MSG_VERSION_MAX)
    return dw_fail(DW_UNSUPPORTED, "WELCOME chose protocol version %u, not offered", m->version);
  if (m->follows < FOLLOWS_STREAM || m->follows > FOLLOWS_BOOTSTRAP) return bad(f, "unknown continuation");
  if (m->role != DW_PRIMARY && m->role != DW_FOLLOWER) return bad(f, "unknown role");
  if (m->heartbeat_ms == 0 || m->heartbeat_ms > MSG_MAX_HEARTBEAT_MS) return bad(f, "heartbeat interval out of bounds");
  if (hash128_zero(&m->cluster_id)) return bad(f, "no cluster id");
  if (m->node_id == 0 || m->node_id != f->h.sender) return bad(f, "node id is zero or not the frame's sender");
  if (m->epoch != f->h.epoch) return bad(f, "epoch is not the frame's");
  if (m->pos.lsn > m->tail_lsn) return bad(f, "position beyond the log's own end");
  return DW_OK;
}

/* ---- REFUSE -------------------------------------------------------------------------------- */

int msg_put_refuse(struct buf *b, const struct msg_sender *s, const struct msg_refuse *m) {
  uint8_t p[16 + MSG_TEXT_BYTES] = {0};
  size_t n = strnlen(m->text, MSG_TEXT_BYTES);
  put_u16(p, m->code);
  put_u32(p + 4, (uint32_t)n);
  put_u64(p + 8, m->lsn);
  memcpy(p + 16, m->text, n);
  return msg_put(b, s, MSG_REFUSE, p, 16 + n);
}

int msg_get_refuse(const struct frame *f, struct msg_refuse *m) {
  const uint8_t *p = f->body;
  *m = (struct msg_refuse){.code = get_u16(p), .lsn = get_u64(p + 8)};
  uint32_t n = get_u32(p + 4);
  if (m->code == DW_OK || m->code > DW_FENCED) return bad(f, "unknown code");
  if (!all_zero(p + 2, 2)) return bad(f, "reserved bytes are not zero");
  if (n != f->h.body_len - 16) return bad(f, "text length does not fit");
  memcpy(m->text, p + 16, n);
  m->text[n] = 0;
  if (strlen(m->text) != n) return bad(f, "NUL in the text");
  printable(m->text);
  return DW_OK;
}

/* ---- streaming ----------------------------------------------------------------------------- */

int msg_get_blocks(const struct frame *f, struct msg_blocks *m) {
  const uint8_t *p = f->body;
  *m = (struct msg_blocks){.commit_lsn = get_u64(p),
                           .count = get_u32(p + 8),
                           .blocks = p + MSG_BLOCKS_PREFIX_BYTES,
                           .bytes = f->h.body_len - MSG_BLOCKS_PREFIX_BYTES};
  if (get_u32(p + 12) != 0) return bad(f, "reserved bytes are not zero");
  if (m->count == 0 || m->count > m->bytes / WAL_BLOCK_HEADER_BYTES) return bad(f, "impossible number of blocks");
  return DW_OK;
}

int msg_get_packed(const struct frame *f, struct msg_packed *m) {
  const uint8_t *p = f->body;
  *m = (struct msg_packed){.commit_lsn = get_u64(p),
                           .count = get_u32(p + 8),
                           .plain = get_u32(p + 12),
                           .chain = get_hash(p + 16),
                           .pack = p + MSG_PACKED_PREFIX_BYTES,
                           .bytes = f->h.body_len - MSG_PACKED_PREFIX_BYTES};
  if (m->count == 0 || m->count > WAL_PACK_BLOCKS) return bad(f, "impossible number of blocks");
  if (m->plain > WAL_PACK_BYTES) return bad(f, "impossible number of bytes");
  return DW_OK;
}

int msg_blocks_next(const struct msg_blocks *m, size_t *off, const uint8_t **block, size_t *n) {
  size_t left = m->bytes - *off;
  if (left < WAL_BLOCK_HEADER_BYTES) return dw_fail(DW_CORRUPT, "BLOCKS: a block is cut off");
  struct block_header h;
  int rc = block_header_decode(m->blocks + *off, &h);
  if (rc) return dw_fail_prefix(rc, "BLOCKS");
  size_t bytes = block_total_bytes(&h);
  if (bytes > left)
    return dw_fail(DW_CORRUPT, "BLOCKS: the block of LSN %llu is cut off", (unsigned long long)h.first_lsn);
  *block = m->blocks + *off;
  *n = bytes;
  *off += bytes;
  return DW_OK;
}

int msg_put_commit(struct buf *b, const struct msg_sender *s, dw_lsn commit_lsn) {
  uint8_t p[8];
  put_u64(p, commit_lsn);
  return msg_put(b, s, MSG_COMMIT, p, sizeof p);
}
int msg_get_commit(const struct frame *f, dw_lsn *commit_lsn) {
  *commit_lsn = get_u64(f->body);
  return DW_OK;
}

int msg_put_ack(struct buf *b, const struct msg_sender *s, const struct msg_ack *m) {
  uint8_t p[32];
  put_u64(p, m->received);
  put_u64(p + 8, m->durable);
  put_u64(p + 16, m->applied);
  put_u64(p + 24, m->staleness_ms);
  return msg_put(b, s, MSG_ACK, p, sizeof p);
}
int msg_get_ack(const struct frame *f, struct msg_ack *m) {
  const uint8_t *p = f->body;
  *m = (struct msg_ack){get_u64(p), get_u64(p + 8), get_u64(p + 16), get_u64(p + 24)};
  return DW_OK;
}

int msg_put_probe(struct buf *b, const struct msg_sender *s, const struct msg_probe *m) {
  uint8_t p[24] = {0};
  put_u64(p, m->id);
  put_u64(p + 8, m->mono_ns);
  p[16] = m->hops;
  return msg_put(b, s, MSG_PROBE, p, sizeof p);
}
int msg_get_probe(const struct frame *f, struct msg_probe *m) {
  const uint8_t *p = f->body;
  *m = (struct msg_probe){.id = get_u64(p), .mono_ns = get_u64(p + 8), .hops = p[16]};
  if (!all_zero(p + 17, 7)) return bad(f, "reserved bytes are not zero");
  return DW_OK;
}

int msg_put_probe_answer(struct buf *b, const struct msg_sender *s, const struct msg_probe_answer *m) {
  uint8_t p[24];
  put_u64(p, m->id);
  put_u64(p + 8, m->mono_ns);
  put_u64(p + 16, m->commit_lsn);
  return msg_put(b, s, MSG_PROBE_ANSWER, p, sizeof p);
}
int msg_get_probe_answer(const struct frame *f, struct msg_probe_answer *m) {
  const uint8_t *p = f->body;
  *m = (struct msg_probe_answer){get_u64(p), get_u64(p + 8), get_u64(p + 16)};
  return DW_OK;
}

int msg_put_heartbeat(struct buf *b, const struct msg_sender *s, const struct msg_heartbeat *m) {
  uint8_t p[16];
  put_u64(p, m->commit_lsn);
  put_u64(p + 8, m->tail_lsn);
  return msg_put(b, s, MSG_HEARTBEAT, p, sizeof p);
}
int msg_get_heartbeat(const struct frame *f, struct msg_heartbeat *m) {
  *m = (struct msg_heartbeat){get_u64(f->body), get_u64(f->body + 8)};
  return DW_OK;
}

/* ---- fetching blocks ----------------------------------------------------------------------- */

int msg_put_fetch(struct buf *b, const struct msg_sender *s, const struct msg_fetch *m) {
  uint8_t p[88] = {0};
  put_u16(p, m->version_min);
  put_u16(p + 2, m->version_max);
  put_u32(p + 4, m->max_bytes);
  put_hash(p + 8, &m->cluster_id);
  put_u64(p + 24, m->node_id);
  put_u64(p + 32, m->id);
  put_pos(p + 40, &m->from);
  put_u64(p + 72, m->upto);
  return msg_put(b, s, MSG_FETCH, p, sizeof p);
}

int msg_get_fetch(const struct frame *f, struct msg_fetch *m) {
  const uint8_t *p = f->body;
  *m = (struct msg_fetch){.version_min = get_u16(p), .version_max = get_u16(p + 2)};
  int rc = check_versions(f, m->version_min, m->version_max);
  if (rc) return rc;
  m->max_bytes = get_u32(p + 4);
  m->cluster_id = get_hash(p + 8);
  m->node_id = get_u64(p + 24);
  m->id = get_u64(p + 32);
  m->from = get_pos(p + 40);
  m->upto = get_u64(p + 72);
  if (!all_zero(p + 80, 8)) return bad(f, "reserved bytes are not zero");
  if (hash128_zero(&m->cluster_id)) return bad(f, "no cluster id");
  if (m->node_id == 0 || m->node_id != f->h.sender) return bad(f, "node id is zero or not the frame's sender");
  if (m->id == 0) return bad(f, "id is zero");
  if (m->upto < m->from.lsn) return bad(f, "it ends before it begins");
  return DW_OK;
}

int msg_get_fetched(const struct frame *f, struct msg_fetched *m) {
  const uint8_t *p = f->body;
  *m = (struct msg_fetched){.version = get_u16(p),
                            .count = get_u32(p + 4),
                            .id = get_u64(p + 8),
                            .cluster_id = get_hash(p + 16),
                            .blocks = p + MSG_FETCHED_PREFIX_BYTES,
                            .bytes = f->h.body_len - MSG_FETCHED_PREFIX_BYTES};
  if (m->version < MSG_VERSION_MIN || m->version > MSG_VERSION_MAX)
    return dw_fail(DW_UNSUPPORTED, "FETCHED chose protocol version %u, not offered", m->version);
  if (!all_zero(p + 2, 2) || !all_zero(p + 32, 16)) return bad(f, "reserved bytes are not zero");
  if (m->count > m->bytes / WAL_BLOCK_HEADER_BYTES || (m->count == 0 && m->bytes))
    return bad(f, "impossible number of blocks");
  return DW_OK;
}

/* ---- promises ------------------------------------------------------------------------------ */

static void put_text(uint8_t *p, const char *text, size_t cap) {
  memcpy(p, text, strnlen(text, cap - 1));
}
static bool get_text(const uint8_t *p, char *out, size_t cap) {
  if (p[cap - 1] != 0) return false;
  memcpy(out, p, cap);
  size_t n = strlen(out);
  printable(out);
  return all_zero(p + n, cap - n);
}

int msg_put_fence(struct buf *b, const struct msg_sender *s, const struct msg_fence *m) {
  uint8_t p[160] = {0};
  put_u16(p, m->version_min);
  put_u16(p + 2, m->version_max);
  p[4] = m->what;
  p[5] = m->force;
  put_hash(p + 8, &m->cluster_id);
  put_u64(p + 24, m->node_id);
  put_u64(p + 32, m->id);
  put_u64(p + 40, m->epoch);
  put_text(p + 48, m->address, MSG_ADDRESS_BYTES);
  put_pos(p + 112, &m->durable);
  return msg_put(b, s, MSG_FENCE, p, sizeof p);
}

int msg_get_fence(const struct frame *f, struct msg_fence *m) {
  const uint8_t *p = f->body;
  *m = (struct msg_fence){.version_min = get_u16(p), .version_max = get_u16(p + 2)};
  int rc = check_versions(f, m->version_min, m->version_max);
  if (rc) return rc;
  m->what = p[4];
  m->force = p[5] & 1;
  m->cluster_id = get_hash(p + 8);
  m->node_id = get_u64(p + 24);
  m->id = get_u64(p + 32);
  m->epoch = get_u64(p + 40);
  m->durable = get_pos(p + 112);
  if (p[5] > 1 || !all_zero(p + 6, 2) || !all_zero(p + 144, 16)) return bad(f, "reserved bytes are not zero");
  if (!get_text(p + 48, m->address, MSG_ADDRESS_BYTES)) return bad(f, "the address does not end");
  if (m->what > FENCE_PAUSE) return bad(f, "unknown question");
  if (hash128_zero(&m->cluster_id)) return bad(f, "no cluster id");
  if (m->node_id == 0 || m->node_id != f->h.sender) return bad(f, "node id is zero or not the frame's sender");
  if (m->id == 0) return bad(f, "id is zero");
  if ((m->what == FENCE_ASK || m->what == FENCE_PAUSE) != (m->epoch == 0))
    return bad(f, "an epoch where none belongs, or none");
  return DW_OK;
}

int msg_put_fenced(struct buf *b, const struct msg_sender *s, const struct msg_fenced *m) {
  uint8_t p[216 + MSG_TEXT_BYTES] = {0};
  size_t n = strnlen(m->text, MSG_TEXT_BYTES);
  put_u16(p, m->version);
  p[2] = m->verdict;
  p[3] = m->role;
  p[4] = (uint8_t)((m->fenced ? 1 : 0) | (m->has_data ? 2 : 0) | (m->writing ? 4 : 0));
  put_u32(p + 8, m->priority);
  put_u32(p + 12, (uint32_t)n);
  put_hash(p + 16, &m->cluster_id);
  put_u64(p + 32, m->node_id);
  put_hash(p + 40, &m->incarnation);
  put_u64(p + 56, m->id);
  put_u64(p + 64, m->promised_epoch);
  put_u64(p + 72, m->promised_node);
  put_pos(p + 80, &m->durable);
  put_u64(p + 112, m->commit_lsn);
  put_u64(p + 120, m->applied_lsn);
  put_u64(p + 128, m->staleness_ms);
  put_text(p + 136, m->primary, MSG_ADDRESS_BYTES);
  memcpy(p + 216, m->text, n);
  return msg_put(b, s, MSG_FENCED, p, 216 + n);
}

int msg_get_fenced(const struct frame *f, struct msg_fenced *m) {
  const uint8_t *p = f->body;
  *m = (struct msg_fenced){.version = get_u16(p),
                           .verdict = p[2],
                           .role = p[3],
                           .fenced = p[4] & 1,
                           .has_data = p[4] & 2,
                           .writing = p[4] & 4,
                           .priority = get_u32(p + 8),
                           .cluster_id = get_hash(p + 16),
                           .node_id = get_u64(p + 32),
                           .incarnation = get_hash(p + 40),
                           .id = get_u64(p + 56),
                           .promised_epoch = get_u64(p + 64),
                           .promised_node = get_u64(p + 72),
                           .durable = get_pos(p + 80),
                           .commit_lsn = get_u64(p + 112),
                           .applied_lsn = get_u64(p + 120),
                           .staleness_ms = get_u64(p + 128)};
  size_t n = get_u32(p + 12);
  if (m->version < MSG_VERSION_MIN || m->version > MSG_VERSION_MAX)
    return dw_fail(DW_UNSUPPORTED, "FENCED chose protocol version %u, not offered", m->version);
  if ((p[4] & ~7u) || !all_zero(p + 5, 3) || !all_zero(p + 200, 16)) return bad(f, "reserved bytes are not zero");
  if (n != f->h.body_len - 216u) return bad(f, "length of the text does not fit");
  if (m->verdict > FENCE_REFUSED) return bad(f, "unknown verdict");
  if (m->role != DW_PRIMARY && m->role != DW_FOLLOWER) return bad(f, "unknown role");
  if (m->node_id == 0 || m->node_id != f->h.sender) return bad(f, "node id is zero or not the frame's sender");
  if ((m->promised_epoch == 0) != (m->promised_node == 0)) return bad(f, "half a promise");
  if (!get_text(p + 136, m->primary, MSG_ADDRESS_BYTES)) return bad(f, "the address does not end");
  memcpy(m->text, p + 216, n);
  printable(m->text);
  return DW_OK;
}

/* ---- checkpoint ---------------------------------------------------------------------------- */

int msg_put_ckpt_want(struct buf *b, const struct msg_sender *s, const struct hash128 *id, const uint64_t *offsets,
                      uint32_t count) {
  size_t n = 24 + 8 * (size_t)count;
  uint8_t *p = calloc(1, n);
  if (!p) return dw_fail_nomem(n);
  put_hash(p, id);
  put_u32(p + 16, count);
  for (uint32_t i = 0; i < count; i++) put_u64(p + 24 + 8 * (size_t)i, offsets[i]);
  int rc = msg_put(b, s, MSG_CKPT_WANT, p, n);
  free(p);
  return rc;
}
int msg_get_ckpt_want(const struct frame *f, struct msg_ckpt_want *m) {
  const uint8_t *p = f->body;
  *m = (struct msg_ckpt_want){.id = get_hash(p), .count = get_u32(p + 16), .offsets = p + 24};
  if (get_u32(p + 20) != 0) return bad(f, "reserved bytes are not zero");
  if (f->h.body_len != 24 + 8 * (uint64_t)m->count) return bad(f, "length does not fit the number of files");
  return DW_OK;
}

int msg_get_ckpt_chunk(const struct frame *f, struct msg_ckpt_chunk *m) {
  const uint8_t *p = f->body;
  *m = (struct msg_ckpt_chunk){
      .file = get_u32(p), .bytes = get_u32(p + 4), .offset = get_u64(p + 8), .data = p + MSG_CHUNK_PREFIX_BYTES};
  if (m->bytes != f->h.body_len - MSG_CHUNK_PREFIX_BYTES) return bad(f, "length does not fit");
  if (!all_zero(p + 32, 8)) return bad(f, "reserved bytes are not zero");
  struct hash128 want = get_hash(p + 16), got = hash128(m->data, m->bytes);
  if (!hash128_eq(&want, &got))
    return dw_fail(DW_CORRUPT, "CKPT_CHUNK of file %u at %llu: data does not match its hash", m->file,
                   (unsigned long long)m->offset);
  return DW_OK;
}

int msg_put_ckpt_file_end(struct buf *b, const struct msg_sender *s, const struct msg_ckpt_file_end *m) {
  uint8_t p[24] = {0};
  put_u32(p, m->file);
  put_hash(p + 8, &m->hash);
  return msg_put(b, s, MSG_CKPT_FILE_END, p, sizeof p);
}
int msg_get_ckpt_file_end(const struct frame *f, struct msg_ckpt_file_end *m) {
  *m = (struct msg_ckpt_file_end){.file = get_u32(f->body), .hash = get_hash(f->body + 8)};
  return get_u32(f->body + 4) ? bad(f, "reserved bytes are not zero") : DW_OK;
}

int msg_put_ckpt_ack(struct buf *b, const struct msg_sender *s, const struct msg_ckpt_ack *m) {
  uint8_t p[8];
  put_u64(p, m->bytes);
  return msg_put(b, s, MSG_CKPT_ACK, p, sizeof p);
}
int msg_get_ckpt_ack(const struct frame *f, struct msg_ckpt_ack *m) {
  m->bytes = get_u64(f->body);
  return DW_OK;
}

int msg_put_ckpt_done(struct buf *b, const struct msg_sender *s, const struct hash128 *id) {
  return msg_put(b, s, MSG_CKPT_DONE, id->b, 16);
}
int msg_put_ckpt_installed(struct buf *b, const struct msg_sender *s, const struct hash128 *id) {
  return msg_put(b, s, MSG_CKPT_INSTALLED, id->b, 16);
}
int msg_get_id(const struct frame *f, struct hash128 *id) {
  *id = get_hash(f->body);
  return DW_OK;
}
