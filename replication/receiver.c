/* The receiver's shell: connections come and go, timers, what to do next. receiver.h has the contract and the diagram.
 *
 * Like the shipper, actions are conditions on the state, looked at in a fixed order. Every end of a connection goes
 * through recv_end: it voids probes, drops gathered blocks (they come again), and decides when to dial next.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "replication/receiver_internal.h"

static uint64_t ms(uint64_t n) {
  return n * 1000000;
}

void recv_log(struct receiver *r, int level, const char *fmt, ...) {
  if (r->line_count == RECV_LINES) r->line_head = (r->line_head + 1) % RECV_LINES, r->line_count--;
  unsigned i = (r->line_head + r->line_count++) % RECV_LINES;
  int n = snprintf(r->lines[i], sizeof r->lines[i], "primary %s: ", r->peer);
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(r->lines[i] + n, sizeof r->lines[i] - (size_t)n, fmt, ap);
  va_end(ap);
  r->levels[i] = level;
}

/* ---- life ---------------------------------------------------------------------------------- */

int receiver_create(const struct receiver_config *cfg, uint64_t now_ns, struct receiver **out) {
  struct receiver *r = calloc(1, sizeof *r);
  if (!r) return dw_fail_nomem(sizeof *r);
  r->cfg = *cfg;
  snprintf(r->peer, sizeof r->peer, "%s", cfg->primary ? cfg->primary : "?");
  r->cfg.primary = r->peer;
  if (!r->cfg.probe_ns) r->cfg.probe_ns = ms(cfg->heartbeat_ms) / 5;
  r->rng = cfg->seed | 1;
  r->now_ns = r->retry_ns = now_ns;
  staleness_init(&r->stale);
  *out = r;
  return DW_OK;
}

void receiver_destroy(struct receiver *r) {
  if (!r) return;
  frame_reader_free(&r->in);
  outq_free(&r->out);
  recv_batch_drop(&r->batch);
  recv_batch_drop(&r->appending);
  free(r->batch.blocks);
  free(r->appending.blocks);
  ckpt_receiver_free(&r->ckpt);
  wal_unpacker_free(r->unpacker);
  free(r->chunk_data);
  free(r);
}

/* ---- ends and new beginnings --------------------------------------------------------------- */

/* xorshift64*: jitter needs no more. */
static uint64_t draw(struct receiver *r, uint64_t below) {
  r->rng ^= r->rng >> 12;
  r->rng ^= r->rng << 25;
  r->rng ^= r->rng >> 27;
  return (r->rng * 2685821657736338717ull >> 11) % below;
}

/* A refusal that time alone does not heal. */
static bool is_refusal(int code) {
  return code == DW_DIVERGED || code == DW_UNSUPPORTED || code == DW_LOCKED || code == DW_INVALID;
}

static void plan_retry(struct receiver *r, bool refused) {
  uint64_t d = RECV_BACKOFF_MIN_NS << (r->failures < 16 ? r->failures : 16);
  if (d > RECV_BACKOFF_MAX_NS) d = RECV_BACKOFF_MAX_NS;
  if (refused) d = RECV_REFUSED_NS;
  r->retry_ns = r->now_ns + d / 2 + draw(r, d / 2 + 1);
  if (refused) r->retry_ns += d / 2; /* never sooner than said */
  r->failures++;
}

static void end_link(struct receiver *r) {
  recv_batch_drop(&r->batch);
  if (r->phase == RP_STREAMING) r->probes_lost = r->fresh_changed = true;
  staleness_disconnected(&r->stale);
  r->done_count = 0;
  if (!r->store_open) { /* not taken yet: nobody will answer it */
    r->store = RS_IDLE;
    recv_batch_drop(&r->appending);
  }
  if (r->phase == RP_STREAMING && r->now_ns - r->stream_ns >= RECV_STEADY_NS) r->failures = 0;
  r->connect_wanted = false;
}

static void begin_closing(struct receiver *r, int code, const char *text) {
  end_link(r);
  if (text != r->end_text) snprintf(r->end_text, sizeof r->end_text, "%s", text);
  r->end_code = code;
  r->refused = is_refusal(code);
  plan_retry(r, r->refused);
  r->phase = RP_CLOSING;
  r->linger_ns = r->now_ns;
}

void recv_end(struct receiver *r, int code, bool tell, const char *fmt, ...) {
  if (!recv_talking(r) && r->phase != RP_DIALLING) return;
  bool talking = recv_talking(r);
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(r->end_text, sizeof r->end_text, fmt, ap);
  va_end(ap);
  begin_closing(r, code, r->end_text);
  if (!tell || !talking) return;
  struct msg_refuse m = {.code = (uint16_t)code};
  struct msg_sender me = r->me;
  struct buf b = {0};
  if (code == DW_FENCED) { /* the old primary learns from it what has been promised to whom */
    me.epoch = r->cfg.min_epoch;
    m.lsn = r->cfg.min_node;
  }
  snprintf(m.text, sizeof m.text, "%s", r->end_text);
  if (msg_put_refuse(&b, &me, &m) == DW_OK && outq_push_buf(&r->out, &b) == DW_OK) r->linger_ns += RECV_LINGER_NS;
  buf_free(&b);
}

void recv_end_detail(struct receiver *r, int code, bool tell) {
  char text[MSG_TEXT_BYTES];
  dw_error_copy(text, sizeof text);
  recv_end(r, code, tell, "%s", text);
}

void receiver_connect_failed(struct receiver *r, const char *why, uint64_t now_ns) {
  recv_clock(r, now_ns);
  if (r->phase != RP_DIALLING) return;
  recv_end(r, DW_IO, false, "can't connect: %s", why && *why ? why : "unknown reason");
}

void receiver_connected(struct receiver *r, const struct receiver_position *pos, uint64_t now_ns) {
  recv_clock(r, now_ns);
  if (r->phase != RP_DIALLING) return;
  frame_reader_free(&r->in);
  frame_reader_init(&r->in, 0);
  outq_free(&r->out);
  ckpt_receiver_free(&r->ckpt);
  r->me = (struct msg_sender){.node_id = r->cfg.node_id, .epoch = pos->tail.epoch};
  r->pos = *pos;
  r->at = pos->tail;
  if (r->seek.rounds && hash128_eq(&r->seek.tail, &pos->tail.chain))
    r->at = r->seek.at;
  else
    r->seek.rounds = 0;
  r->welcome = (struct msg_welcome){0};
  r->peer_epoch = 0;
  r->rounds = 0;
  r->parted = false;
  r->in_ns = r->out_ns = r->beat_ns = r->now_ns;
  recv_hello(r);
}

void recv_hello(struct receiver *r) {
  if (++r->rounds > RECV_TRUNCATE_ROUNDS) {
    recv_end(r, DW_DIVERGED, true, "no common position found in %d rounds", RECV_TRUNCATE_ROUNDS);
    return;
  }
  struct msg_hello h = {.version_min = MSG_VERSION_MIN,
                        .version_max = MSG_VERSION_MAX,
                        .role = DW_FOLLOWER,
                        .heartbeat_ms = r->cfg.heartbeat_ms,
                        .node_id = r->cfg.node_id,
                        .incarnation = r->cfg.incarnation,
                        .tail = r->pos.tail,
                        .applied = r->pos.applied,
                        .at = r->at,
                        .resume = r->pos.resume,
                        .rejoin = recv_may_rejoin(r),
                        .hashes = r->pos.applied.lsn > 0};
  if (r->pos.has_cluster) h.cluster_id = r->pos.cluster_id;
  memcpy(h.region, r->cfg.region, sizeof h.region);
  h.region[MSG_REGION_BYTES - 1] = 0;
  h.has_member = true;
  h.member = r->cfg.self;
  h.member.node_id = r->cfg.node_id;
  h.member.role = DW_FOLLOWER;
  memcpy(h.member.region, h.region, sizeof h.member.region);
  struct buf b = {0};
  r->phase = RP_HANDSHAKE;
  recv_push(r, msg_put_hello(&b, &r->me, &h), &b);
}

bool recv_push(struct receiver *r, int rc, struct buf *b) {
  if (r->out.bytes == 0) r->out_ns = r->now_ns;
  if (rc == DW_OK) rc = outq_push_buf(&r->out, b);
  if (rc == DW_OK) return true;
  buf_free(b);
  recv_end_detail(r, rc, false);
  return false;
}

void recv_commit(struct receiver *r, dw_lsn lsn) {
  if (lsn > r->commit) r->commit = lsn;
  if (lsn > r->upstream_commit) r->upstream_commit = lsn;
}

/* ---- storage questions --------------------------------------------------------------------- */

void recv_ask(struct receiver *r, enum recv_store what) {
  r->store = what;
  r->store_open = false;
}

bool recv_answer(struct receiver *r, enum recv_store which, int rc, const char *text, uint64_t now_ns) {
  recv_clock(r, now_ns);
  if (r->store != which || !r->store_open) return false; /* an answer nobody asked for */
  r->store = RS_IDLE;
  r->store_open = false;
  if (which == RS_APPEND) recv_batch_drop(&r->appending);
  if (!recv_talking(r)) return false; /* the connection that asked is gone */
  if (rc == DW_OK) return true;
  static const char *const what[] = {"",
                                     "adopting the cluster",
                                     "appending",
                                     "syncing",
                                     "cutting the log",
                                     "parting with what only this node has",
                                     "preparing for a checkpoint",
                                     "writing a checkpoint",
                                     "checking a checkpoint file",
                                     "installing a checkpoint"};
  recv_end(r, rc == DW_DIVERGED || rc == DW_UNSUPPORTED ? rc : DW_CLOSED, true, "%s failed: %s", what[which],
           text && *text ? text : dw_rc_name(rc));
  return false;
}

/* ---- timers -------------------------------------------------------------------------------- */

static uint64_t timeout_ns(const struct receiver *r) {
  uint64_t own = ms(r->cfg.peer_timeout_ms), theirs = 3 * ms(r->welcome.heartbeat_ms);
  return own > theirs ? own : theirs;
}

static void check_time(struct receiver *r) {
  uint64_t limit = timeout_ns(r);
  if (r->phase == RP_WAITING && !r->store_open && r->now_ns >= r->retry_ns) {
    r->phase = RP_DIALLING;
    r->connect_wanted = true;
    r->in_ns = r->now_ns;
  } else if (r->phase == RP_DIALLING && r->now_ns - r->in_ns >= limit) {
    recv_end(r, DW_TIMEOUT, false, "no connection within %u ms", r->cfg.peer_timeout_ms);
  }
  if (!recv_talking(r)) return;
  if (!receiver_wants_input(r)) r->in_ns = r->now_ns; /* the silence is ours */
  if (r->now_ns - r->in_ns >= limit)
    recv_end(r, DW_TIMEOUT, false, "silent for %llu ms", (unsigned long long)((r->now_ns - r->in_ns) / 1000000));
  else if (r->out.bytes && r->now_ns - r->out_ns >= limit)
    recv_end(r, DW_TIMEOUT, false, "took none of %zu waiting bytes for %llu ms", r->out.bytes,
             (unsigned long long)((r->now_ns - r->out_ns) / 1000000));
}

static void beat(struct receiver *r) {
  if (!recv_talking(r) || r->now_ns - r->beat_ns < ms(r->cfg.heartbeat_ms)) return;
  r->beat_ns = r->now_ns;
  if (r->out.bytes) return;
  if (r->phase == RP_STREAMING) {
    recv_send_ack(r);
    return;
  }
  struct buf b = {0};
  recv_push(r, msg_put_heartbeat(&b, &r->me, &(struct msg_heartbeat){0}), &b);
}

void recv_advance(struct receiver *r) {
  recv_read_frames(r);
  check_time(r);
  beat(r);
  recv_move_log(r);
}

static uint64_t sooner(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

uint64_t receiver_next_tick(const struct receiver *r) {
  uint64_t limit = timeout_ns(r);
  if (r->phase == RP_WAITING) return r->store_open ? UINT64_MAX : r->retry_ns;
  if (r->phase == RP_CLOSING) return r->linger_ns;
  uint64_t at = r->in_ns + limit;
  if (r->phase == RP_DIALLING) return at;
  at = sooner(at, r->beat_ns + ms(r->cfg.heartbeat_ms));
  if (r->out.bytes) at = sooner(at, r->out_ns + limit);
  if (r->phase != RP_STREAMING) return at;
  /* What is due but has to wait for an answer or for room must not make the driver spin. */
  if (r->lazy_ns && r->store == RS_IDLE) at = sooner(at, r->lazy_ns + RECV_LAZY_SYNC_NS);
  if (r->ack_ns && r->out.bytes < RECV_ACK_ROOM) at = sooner(at, r->ack_ns);
  return sooner(at, r->probe_ns + r->cfg.probe_ns);
}

/* ---- events -------------------------------------------------------------------------------- */

void receiver_input(struct receiver *r, const void *p, size_t n, uint64_t now_ns) {
  recv_clock(r, now_ns);
  if (!recv_talking(r)) return;
  if (n) r->in_ns = r->now_ns;
  if (frame_reader_feed(&r->in, p, n)) recv_end(r, DW_NO_MEMORY, false, "no memory for what it sends");
  recv_advance(r);
}

void receiver_drained(struct receiver *r, size_t n, uint64_t now_ns) {
  recv_clock(r, now_ns);
  if (n) r->out_ns = r->now_ns;
  outq_drained(&r->out, n);
  recv_advance(r);
}

void receiver_eof(struct receiver *r, const char *why, uint64_t now_ns) {
  recv_clock(r, now_ns);
  recv_end(r, DW_IO, false, "%s", why && *why ? why : "closed the connection");
  r->linger_ns = r->now_ns; /* nothing more can get out */
}

void receiver_fence(struct receiver *r, uint64_t epoch, uint64_t node_id, uint64_t now_ns) {
  recv_clock(r, now_ns);
  r->cfg.min_epoch = epoch;
  r->cfg.min_node = node_id;
  uint64_t theirs = r->peer_epoch > r->welcome.epoch ? r->peer_epoch : r->welcome.epoch;
  if (recv_talking(r) && r->welcome.node_id && theirs < epoch)
    recv_end(r, DW_FENCED, true, "epoch %llu was promised to node %llu, this stream is of epoch %llu",
             (unsigned long long)epoch, (unsigned long long)node_id, (unsigned long long)theirs);
}

void receiver_tick(struct receiver *r, uint64_t now_ns) {
  recv_clock(r, now_ns);
  recv_advance(r);
}

/* ---- what to do ---------------------------------------------------------------------------- */

/* commit_lsn as far as our log goes. What lies beyond is this connection's word about blocks to come: a next one, to a
 * primary that lost them with its power, may bring others under the same numbers, so the engine must not know it yet.
 */
static dw_lsn commit_here(const struct receiver *r) {
  return r->commit < r->received ? r->commit : r->received;
}

static bool next_news(struct receiver *r, struct recv_action *a) {
  if (r->line_count) {
    unsigned i = r->line_head;
    r->line_head = (r->line_head + 1) % RECV_LINES;
    r->line_count--;
    *a = (struct recv_action){.type = RECV_LOG, .log = {r->levels[i], r->lines[i]}};
  } else if (r->probes_lost) {
    r->probes_lost = false;
    *a = (struct recv_action){.type = RECV_PROBES_LOST};
  } else if (commit_here(r) > r->told_commit && r->phase == RP_STREAMING) {
    r->told_commit = commit_here(r);
    *a = (struct recv_action){.type = RECV_COMMIT, .commit_lsn = r->told_commit};
  } else if (r->done_count) {
    *a = (struct recv_action){.type = RECV_PROBE_DONE,
                              .probe = {r->done[r->done_head].id, r->done[r->done_head].commit_lsn}};
    r->done_head = (r->done_head + 1) % STALENESS_PROBES;
    r->done_count--;
  } else if (r->members_changed) {
    r->members_changed = false;
    *a = (struct recv_action){.type = RECV_MEMBERS, .members = &r->members};
  } else if (r->fresh_changed) {
    r->fresh_changed = false;
    *a = (struct recv_action){.type = RECV_FRESH};
  } else {
    return false;
  }
  return true;
}

static bool next_storage(struct receiver *r, struct recv_action *a) {
  if (r->store == RS_IDLE || r->store_open || !recv_talking(r)) return false;
  const struct ckpt_manifest *m = &r->ckpt.manifest;
  r->store_open = true;
  switch (r->store) {
  case RS_IDLE: break;
  case RS_ADOPT: *a = (struct recv_action){.type = RECV_ADOPT, .adopt = r->welcome.cluster_id}; break;
  case RS_APPEND:
    *a = (struct recv_action){.type = RECV_APPEND, .append = {r->appending.blocks, r->appending.n}};
    break;
  case RS_SYNC: *a = (struct recv_action){.type = RECV_SYNC}; break;
  case RS_TRUNCATE: *a = (struct recv_action){.type = RECV_TRUNCATE, .truncate = {r->cut, r->welcome.node_id}}; break;
  case RS_PART:
    *a = (struct recv_action){
        .type = RECV_PART,
        .part = {r->cut, r->welcome.node_id, wal_pos_before(&r->cut, &r->pos.applied), r->cfg.rejoin_once, r->at}};
    break;
  case RS_BEGIN: *a = (struct recv_action){.type = RECV_CKPT_BEGIN, .begin = m}; break;
  case RS_WRITE:
    *a = (struct recv_action){
        .type = RECV_CKPT_WRITE,
        .write = {r->chunk.file, m->files[r->chunk.file].name, r->chunk.offset, r->chunk.data, r->chunk.bytes}};
    break;
  case RS_FILE_END:
    *a = (struct recv_action){.type = RECV_CKPT_FILE_END,
                              .file_end = {r->file_end.file, m->files[r->file_end.file].name, r->file_end.hash}};
    break;
  case RS_INSTALL:
    *a = (struct recv_action){.type = RECV_CKPT_INSTALL, .install = {r->welcome.cluster_id, m->id, m->pos}};
    break;
  }
  return true;
}

bool receiver_next(struct receiver *r, struct recv_action *a) {
  if (next_news(r, a) || next_storage(r, a)) return true;
  if (r->connect_wanted) {
    r->connect_wanted = false;
    *a = (struct recv_action){.type = RECV_CONNECT};
    return true;
  }
  if (r->phase == RP_CLOSING && (r->out.bytes == 0 || r->now_ns >= r->linger_ns)) {
    r->phase = RP_WAITING;
    uint64_t wait = r->retry_ns > r->now_ns ? r->retry_ns - r->now_ns : 0;
    *a = (struct recv_action){.type = RECV_CLOSE, .close = {r->end_code, r->end_text, wait}};
    return true;
  }
  return false;
}

int receiver_output(const struct receiver *r, struct iovec *iov, int cap) {
  return recv_talking(r) || r->phase == RP_CLOSING ? outq_iov(&r->out, iov, cap) : 0;
}
size_t receiver_output_bytes(const struct receiver *r) {
  return recv_talking(r) || r->phase == RP_CLOSING ? r->out.bytes : 0;
}

/* ---- looking ------------------------------------------------------------------------------- */

bool receiver_wants_input(const struct receiver *r) {
  if (!recv_talking(r)) return false;
  bool busy = r->store != RS_IDLE && (r->store != RS_SYNC || r->batch.bytes >= RECV_BATCH_BYTES);
  return !busy || frame_reader_buffered(&r->in) < RECV_BUFFER_BYTES;
}

dw_peer_state receiver_state(const struct receiver *r) {
  switch (r->phase) {
  case RP_DIALLING:
  case RP_HANDSHAKE: return r->refused ? DW_PEER_REFUSED : DW_PEER_CONNECTING;
  case RP_BOOTSTRAPPING: return DW_PEER_BOOTSTRAPPING;
  case RP_STREAMING: return r->received < r->upstream_tail ? DW_PEER_CATCHING_UP : DW_PEER_STREAMING;
  default: return r->refused ? DW_PEER_REFUSED : DW_PEER_DISCONNECTED;
  }
}

const char *receiver_refusal(const struct receiver *r) {
  return r->end_text;
}
uint64_t receiver_staleness_ns(const struct receiver *r, uint64_t now_ns) {
  return staleness_ns(&r->stale, now_ns);
}
uint64_t receiver_fresh_as_of(const struct receiver *r) {
  return r->stale.known ? r->stale.fresh_as_of_ns : UINT64_MAX;
}

void receiver_upstream(const struct receiver *r, struct receiver_upstream *u) {
  *u = (struct receiver_upstream){.node_id = r->welcome.node_id,
                                  .epoch = r->peer_epoch,
                                  .commit_lsn = r->upstream_commit,
                                  .tail_lsn = r->upstream_tail,
                                  .role = r->welcome.role};
}
