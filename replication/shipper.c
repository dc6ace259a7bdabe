/* The shipper's shell: events in, timers, what to do next. shipper.h has the contract and the state diagram.
 *
 * Each event ends in advance(), which reads frames as far as allowed, sends what has become due, and leaves the rest to
 * conditions that shipper_next looks at. The order in shipper_next matters where an answer may come at once: log lines
 * first (they explain what follows), CLOSE last.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "replication/shipper_internal.h"

void ship_log(struct shipper *s, int level, const char *fmt, ...) {
  if (s->line_count == SHIP_LINES) s->line_head = (s->line_head + 1) % SHIP_LINES, s->line_count--;
  unsigned i = (s->line_head + s->line_count++) % SHIP_LINES;
  int n = snprintf(s->lines[i], sizeof s->lines[i], "follower %s: ", s->peer);
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(s->lines[i] + n, sizeof s->lines[i] - (size_t)n, fmt, ap);
  va_end(ap);
  s->levels[i] = level;
}

void ship_set_state(struct shipper *s, dw_peer_state state) {
  if (s->state != state) s->state_changed = true;
  s->state = state;
}

bool ship_push(struct shipper *s, struct buf *b) {
  if (s->out.bytes == 0) s->out_ns = s->now_ns;
  if (outq_push_buf(&s->out, b) == DW_OK) return true;
  buf_free(b);
  ship_end(s, DW_NO_MEMORY, 0, false, "no memory for a frame");
  return false;
}

void ship_end(struct shipper *s, int code, dw_lsn lsn, bool tell, const char *fmt, ...) {
  if (!ship_open(s)) return;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(s->close_text, sizeof s->close_text, fmt, ap);
  va_end(ap);
  s->close_code = code;
  s->phase = SHIP_CLOSING;
  s->linger_ns = s->now_ns;
  ship_set_state(s, DW_PEER_DISCONNECTED);
  if (!tell) return;
  struct msg_refuse m = {.code = (uint16_t)code, .lsn = lsn};
  snprintf(m.text, sizeof m.text, "%s", s->close_text);
  struct buf b = {0};
  s->linger_ns += SHIP_LINGER_NS;
  if (s->out.bytes == 0) s->out_ns = s->now_ns;
  if (msg_put_refuse(&b, &s->me, &m) || outq_push_buf(&s->out, &b)) s->linger_ns = s->now_ns; /* then without it */
  buf_free(&b);
}

void ship_end_detail(struct shipper *s, int code) {
  char text[MSG_TEXT_BYTES];
  dw_error_copy(text, sizeof text);
  ship_end(s, code, 0, true, "%s", text);
}

int ship_check_cluster(const struct shipper *s, const struct hash128 *cluster_id, const char *who) {
  if (hash128_zero(&s->cfg.cluster_id)) return dw_fail(DW_STALE, "this follower has no data of its own yet");
  if (hash128_eq(cluster_id, &s->cfg.cluster_id)) return DW_OK;
  char theirs[33], ours[33];
  hash128_hex(cluster_id, theirs);
  hash128_hex(&s->cfg.cluster_id, ours);
  return dw_fail(DW_DIVERGED, "%s of cluster %s, this is cluster %s", who, theirs, ours);
}

void ship_accept(struct shipper *s) {
  static const uint32_t by_phase[] = {
      [SHIP_HANDSHAKE] =
          MSG_BIT(MSG_HELLO) | MSG_BIT(MSG_FETCH) | MSG_BIT(MSG_FENCE) | MSG_BIT(MSG_HEARTBEAT) | MSG_BIT(MSG_REFUSE),
      [SHIP_LOCATING] = MSG_BIT(MSG_HEARTBEAT) | MSG_BIT(MSG_REFUSE),
      [SHIP_STREAMING] = MSG_BIT(MSG_ACK) | MSG_BIT(MSG_PROBE) | MSG_BIT(MSG_HEARTBEAT) | MSG_BIT(MSG_REFUSE),
      [SHIP_BOOTSTRAPPING] = MSG_BIT(MSG_CKPT_WANT) | MSG_BIT(MSG_CKPT_ACK) | MSG_BIT(MSG_CKPT_INSTALLED) |
                             MSG_BIT(MSG_HEARTBEAT) | MSG_BIT(MSG_REFUSE),
      [SHIP_FETCHING] = MSG_BIT(MSG_FETCH) | MSG_BIT(MSG_HEARTBEAT) | MSG_BIT(MSG_REFUSE),
      [SHIP_FENCING] = MSG_BIT(MSG_FENCE) | MSG_BIT(MSG_HEARTBEAT) | MSG_BIT(MSG_REFUSE),
      [SHIP_CLOSING] = 0,
      [SHIP_CLOSED] = 0};
  frame_reader_accept(&s->in, by_phase[s->phase]);
}

/* ---- life ---------------------------------------------------------------------------------- */

int shipper_create(const struct shipper_config *cfg, const struct wal_pos *tail, dw_lsn commit, uint64_t now_ns,
                   struct shipper **out) {
  struct shipper *s = calloc(1, sizeof *s);
  if (!s) return dw_fail_nomem(sizeof *s);
  s->cfg = *cfg;
  snprintf(s->peer, sizeof s->peer, "%s", cfg->peer ? cfg->peer : "?");
  s->cfg.peer = s->peer;
  if (!s->cfg.max_output_bytes) s->cfg.max_output_bytes = 1048576;
  s->tail = *tail;
  s->commit = commit;
  s->state = DW_PEER_CONNECTING;
  s->me = (struct msg_sender){.epoch = tail->epoch, .node_id = cfg->node_id};
  s->marks.staleness_ms = UINT64_MAX;
  s->now_ns = s->born_ns = s->in_ns = s->out_ns = s->beat_ns = now_ns;
  frame_reader_init(&s->in, 0);
  ship_accept(s);
  *out = s;
  return DW_OK;
}

void shipper_destroy(struct shipper *s) {
  if (!s) return;
  frame_reader_free(&s->in);
  outq_free(&s->out);
  ckpt_sender_free(&s->ckpt);
  wal_packer_free(s->packer);
  free(s);
}

/* ---- timers -------------------------------------------------------------------------------- */

static uint64_t ms(uint64_t n) {
  return n * 1000000;
}

uint64_t ship_timeout_ns(const struct shipper *s) {
  uint64_t own = ms(s->cfg.peer_timeout_ms), theirs = s->have_hello ? 3 * ms(s->hello.heartbeat_ms) : 0;
  return own > theirs ? own : theirs;
}

static void check_time(struct shipper *s) {
  uint64_t limit = ship_timeout_ns(s);
  if (!ship_open(s)) return;
  /* The silence is ours; the check on the output stands guard. */
  if (!shipper_wants_input(s) || s->fetch != ASK_NO || s->fence != ASK_NO) s->in_ns = s->now_ns;
  if (!s->have_hello && !s->have_fetch && !s->have_fence && s->now_ns - s->born_ns >= limit)
    ship_end(s, DW_TIMEOUT, 0, false, "no HELLO within %u ms", s->cfg.peer_timeout_ms);
  else if (s->now_ns - s->in_ns >= limit)
    ship_end(s, DW_TIMEOUT, 0, false, "silent for %llu ms", (unsigned long long)((s->now_ns - s->in_ns) / 1000000));
  else if (s->out.bytes && s->now_ns - s->out_ns >= limit)
    ship_end(s, DW_TIMEOUT, 0, false, "took none of %zu waiting bytes for %llu ms", s->out.bytes,
             (unsigned long long)((s->now_ns - s->out_ns) / 1000000));
  else if (s->phase == SHIP_BOOTSTRAPPING && s->have_ckpt && s->chunk == ASK_NO &&
           s->now_ns - s->moved_ns >= SHIP_BOOTSTRAP_TIMEOUTS * limit)
    ship_end(s, DW_TIMEOUT, 0, true, "the bootstrap has not moved for %llu ms",
             (unsigned long long)((s->now_ns - s->moved_ns) / 1000000));
}

/* Only when nothing else is under way: bytes of any kind prove life. Its commit_lsn is about the log as far as it was
 * read: while blocks wait to be read our log may not be the one that the follower holds (a relay may just have cut it).
 */
static void beat(struct shipper *s) {
  if (!ship_open(s) || !s->have_hello || s->now_ns - s->beat_ns < ms(s->cfg.heartbeat_ms)) return;
  s->beat_ns = s->now_ns;
  if (s->out.bytes) return;
  bool unread = s->phase == SHIP_STREAMING && (s->want_log || s->read != ASK_NO);
  struct msg_heartbeat m = {.commit_lsn = unread ? s->told_commit : s->commit, .tail_lsn = s->tail.lsn};
  struct buf b = {0};
  if (msg_put_heartbeat(&b, &s->me, &m) == DW_OK) ship_push(s, &b);
}

static void advance(struct shipper *s) {
  ship_read_frames(s);
  check_time(s);
  beat(s);
  ship_tell_commit(s);
  ship_tell_members(s);
  ship_move_checkpoint(s);
}

uint64_t shipper_next_tick(const struct shipper *s) {
  uint64_t limit = ship_timeout_ns(s), at = s->in_ns + limit;
  if (s->phase == SHIP_CLOSED) return UINT64_MAX;
  if (s->phase == SHIP_CLOSING) return s->linger_ns;
  if (s->have_fetch || s->have_fence) {
    if (s->fetch == ASK_WANTED && s->fetch_ns < at) at = s->fetch_ns;
    return s->out.bytes && s->out_ns + limit < at ? s->out_ns + limit : at;
  }
  if (!s->have_hello) return s->born_ns + limit < at ? s->born_ns + limit : at;
  uint64_t next_beat = s->beat_ns + ms(s->cfg.heartbeat_ms);
  if (next_beat < at) at = next_beat;
  if (s->out.bytes && s->out_ns + limit < at) at = s->out_ns + limit;
  return at;
}

/* ---- events -------------------------------------------------------------------------------- */

void shipper_input(struct shipper *s, const void *p, size_t n, uint64_t now_ns) {
  ship_clock(s, now_ns);
  if (!ship_open(s)) return;
  if (n) s->in_ns = s->now_ns;
  if (frame_reader_feed(&s->in, p, n)) ship_end(s, DW_NO_MEMORY, 0, false, "no memory for what it sends");
  advance(s);
}

void shipper_drained(struct shipper *s, size_t n, uint64_t now_ns) {
  ship_clock(s, now_ns);
  if (n) s->out_ns = s->now_ns;
  outq_drained(&s->out, n);
  advance(s);
}

void shipper_tick(struct shipper *s, uint64_t now_ns) {
  ship_clock(s, now_ns);
  advance(s);
}

void shipper_log_grew(struct shipper *s, const struct wal_pos *tail, uint64_t now_ns) {
  ship_clock(s, now_ns);
  s->tail = *tail;
  s->me.epoch = tail->epoch;
  s->want_log = true;
  advance(s);
}

void shipper_commit(struct shipper *s, dw_lsn commit_lsn, uint64_t now_ns) {
  ship_clock(s, now_ns);
  if (commit_lsn > s->commit) s->commit = commit_lsn;
  advance(s);
}

void shipper_members(struct shipper *s, const struct msg_members *m, uint64_t now_ns) {
  ship_clock(s, now_ns);
  s->members = m;
  s->members_due = true;
  advance(s);
}

void shipper_pack_rate(struct shipper *s, uint64_t bytes_per_s) {
  s->pack_rate = bytes_per_s;
}

bool shipper_packing(const struct shipper *s) {
  return s->packing;
}

void shipper_eof(struct shipper *s, const char *why, uint64_t now_ns) {
  ship_clock(s, now_ns);
  ship_end(s, DW_OK, 0, false, "%s", why && *why ? why : "closed the connection");
  s->linger_ns = s->now_ns; /* nothing more can get out */
}

void shipper_shut(struct shipper *s, int code, const char *why, uint64_t now_ns) {
  ship_clock(s, now_ns);
  ship_end(s, code, 0, true, "%s", why);
}

/* ---- what to do ---------------------------------------------------------------------------- */

static bool next_line(struct shipper *s, struct ship_action *a) {
  if (!s->line_count) return false;
  unsigned i = s->line_head;
  s->line_head = (s->line_head + 1) % SHIP_LINES;
  s->line_count--;
  *a = (struct ship_action){.type = SHIP_LOG, .log = {s->levels[i], s->lines[i]}};
  return true;
}

static bool next_news(struct shipper *s, struct ship_action *a) {
  if (s->state_changed) {
    s->state_changed = false;
    *a = (struct ship_action){.type = SHIP_STATE};
    return true;
  }
  if (s->marks_changed) {
    s->marks_changed = false;
    *a = (struct ship_action){.type = SHIP_MARKS, .marks = s->marks};
    return true;
  }
  if (s->drop) {
    s->drop = false;
    *a = (struct ship_action){.type = SHIP_DROP_CHECKPOINT, .dropped = s->drop_id};
    return true;
  }
  if (s->heard_epoch) {
    *a = (struct ship_action){.type = SHIP_FENCE_HEARD, .heard = {s->heard_epoch, s->heard_node}};
    s->heard_epoch = 0;
    return true;
  }
  if (s->probe_count && ship_open(s)) {
    *a = (struct ship_action){.type = SHIP_PROBE, .probe = s->probes[s->probe_head]};
    s->probe_head = (s->probe_head + 1) % SHIP_PROBES;
    s->probe_count--;
    ship_read_frames(s); /* may have waited for this place */
    return true;
  }
  return false;
}

static bool next_question(struct shipper *s, struct ship_action *a) {
  if (s->locate == ASK_WANTED) {
    s->locate = ASK_OPEN;
    *a = (struct ship_action){.type = SHIP_LOCATE, .hello = &s->hello};
    return true;
  }
  if (s->phase == SHIP_STREAMING && s->want_log && s->read == ASK_NO && s->out.bytes < s->cfg.max_output_bytes) {
    size_t room = s->cfg.max_output_bytes - s->out.bytes;
    if (s->packing && room > SHIP_PACK_READ_BYTES) room = SHIP_PACK_READ_BYTES;
    s->read = ASK_OPEN;
    s->want_log = false; /* log_grew during the read sets it again */
    *a = (struct ship_action){.type = SHIP_READ_LOG,
                              .read = {room < MSG_BLOCKS_BATCH_BYTES ? room : MSG_BLOCKS_BATCH_BYTES}};
    return true;
  }
  if (s->fetch == ASK_WANTED && s->now_ns >= s->fetch_ns && s->out.bytes < s->cfg.max_output_bytes) {
    s->fetch = ASK_OPEN;
    *a = (struct ship_action){.type = SHIP_FETCH, .fetch = &s->fetch_msg};
    return true;
  }
  if (s->fence == ASK_WANTED && s->out.bytes < s->cfg.max_output_bytes) {
    s->fence = ASK_OPEN;
    *a = (struct ship_action){.type = SHIP_FENCE, .fence = &s->fence_msg};
    return true;
  }
  if (s->make == ASK_WANTED) {
    s->make = ASK_OPEN;
    *a = (struct ship_action){.type = SHIP_MAKE_CHECKPOINT, .make = {s->hello.resume, s->hello.hashes}};
    return true;
  }
  if (s->chunk == ASK_WANTED) {
    uint32_t file = 0, bytes = 0;
    uint64_t off = 0;
    s->chunk = ASK_OPEN;
    ckpt_sender_next(&s->ckpt, &file, &off, &bytes);
    *a = (struct ship_action){.type = SHIP_READ_CHUNK, .chunk = {file, off, bytes, s->ckpt.manifest.files[file].name}};
    return true;
  }
  return false;
}

bool shipper_next(struct shipper *s, struct ship_action *a) {
  if (next_line(s, a) || next_news(s, a)) return true;
  if (ship_open(s)) return next_question(s, a);
  if (s->phase == SHIP_CLOSED || (s->out.bytes && s->now_ns < s->linger_ns)) return false;
  s->phase = SHIP_CLOSED;
  *a = (struct ship_action){.type = SHIP_CLOSE, .close = {s->close_code, s->close_text}};
  return true;
}

int shipper_output(const struct shipper *s, struct iovec *iov, int cap) {
  return outq_iov(&s->out, iov, cap);
}
size_t shipper_output_bytes(const struct shipper *s) {
  return s->out.bytes;
}

bool shipper_wants_input(const struct shipper *s) {
  return ship_open(s) && s->probe_count < SHIP_PROBES && s->out.heap_bytes < s->cfg.max_output_bytes + SHIP_SMALL_BYTES;
}

dw_peer_state shipper_state(const struct shipper *s) {
  return s->state;
}
const struct msg_hello *shipper_hello(const struct shipper *s) {
  return s->have_hello ? &s->hello : NULL;
}
const struct msg_fetch *shipper_fetch(const struct shipper *s) {
  return s->have_fetch ? &s->fetch_msg : NULL;
}
const struct msg_fence *shipper_fence(const struct shipper *s) {
  return s->have_fence ? &s->fence_msg : NULL;
}
struct wal_pos shipper_sent(const struct shipper *s) {
  return s->sent;
}
uint64_t shipper_sent_bytes(const struct shipper *s) {
  return s->out.total;
}
