#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/fault_pause.h"
#include "tests/support/repl_sim.h"

const struct block_need sim_async = {.mode = DW_ASYNC, .ack = DW_ACK_DURABLE, .durability = DW_DURABILITY_OS};
const struct block_need sim_durable = {
    .mode = DW_SYNC, .ack = DW_ACK_DURABLE, .durability = DW_DURABILITY_DISK, .acks = 1};
const struct block_need sim_received = {
    .mode = DW_SYNC, .ack = DW_ACK_RECEIVED, .durability = DW_DURABILITY_DISK, .acks = 1};
const struct block_need sim_applied = {
    .mode = DW_SYNC, .ack = DW_ACK_APPLIED, .durability = DW_DURABILITY_DISK, .acks = 1};

/* ---- log ------------------------------------------------------------------------------------- */

void memlog_init(struct memlog *l, const struct hash128 *cluster, const struct wal_pos *base) {
  *l = (struct memlog){.cluster = *cluster};
  l->base = base ? *base : wal_genesis(cluster);
  l->end = l->base;
}

void memlog_free(struct memlog *l) {
  for (size_t i = l->first; i < l->n; i++) wal_block_unref(l->blocks[i]);
  free(l->blocks);
  free(l->bounds);
  *l = (struct memlog){0};
}

void memlog_add(struct memlog *l, struct wal_block *b) {
  if (l->n == l->cap) {
    own_begin();
    l->cap = l->cap ? 2 * l->cap : 64;
    l->blocks = realloc(l->blocks, l->cap * sizeof *l->blocks);
    l->bounds = realloc(l->bounds, l->cap * sizeof *l->bounds);
    own_end();
    assert(l->blocks && l->bounds);
  }
  l->bounds[l->n] = l->end;
  l->blocks[l->n++] = b;
  l->end = (struct wal_pos){block_last_lsn(&b->h), b->h.epoch, b->h.chain};
}

void memlog_write(struct memlog *l, uint64_t epoch, uint32_t commits, size_t bytes, struct block_need need,
                  uint64_t salt, dw_lsn commit_lsn) {
  own_begin();
  uint8_t *raw = malloc(bytes + 16);
  salt *= 0xbf58476d1ce4e5b9ull; /* near salts, far payloads */
  for (size_t i = 0; i < bytes + 16; i++) raw[i] = (uint8_t)((salt += 0x9e3779b97f4a7c15ull) >> 40);
  struct block_header like = {
      .kind = commits ? BLOCK_COMMITS : BLOCK_EPOCH, .need = need, .commit_count = commits, .origin_id = 1};
  struct wal_block *b;
  int rc = wal_block_create(&like, raw, bytes + 16, 0, &b);
  assert(rc == DW_OK);
  (void)rc;
  free(raw);
  b->h.epoch = epoch;
  b->h.first_lsn = l->end.lsn + 1;
  b->h.commit_lsn = commit_lsn;
  block_header_seal(&b->h, &l->end.chain, b->bytes);
  memlog_add(l, b);
  own_end();
}

struct wal_pos memlog_bound(const struct memlog *l, size_t i) {
  return i < l->n ? l->bounds[i] : l->end;
}

int memlog_index(const struct memlog *l, const struct wal_pos *p, size_t *at) {
  for (size_t i = l->first; i <= l->n; i++) {
    struct wal_pos b = memlog_bound(l, i);
    if (b.lsn == p->lsn && hash128_eq(&b.chain, &p->chain)) {
      *at = i;
      return DW_OK;
    }
  }
  struct wal_pos oldest = memlog_bound(l, l->first);
  return wal_pos_before(p, &oldest) ? DW_NOT_FOUND : DW_DIVERGED;
}

int memlog_find(void *ctx, const struct wal_pos *p) {
  size_t i;
  return memlog_index(ctx, p, &i);
}

int memlog_at_most(void *ctx, uint64_t epoch, dw_lsn lsn, struct wal_pos *out) {
  const struct memlog *l = ctx;
  for (size_t i = l->n + 1; i-- > l->first;) {
    *out = memlog_bound(l, i);
    if (out->epoch <= epoch && out->lsn <= lsn) return DW_OK;
  }
  return DW_NOT_FOUND;
}

void memlog_truncate(struct memlog *l, size_t i) {
  l->end = memlog_bound(l, i);
  while (l->n > i) wal_block_unref(l->blocks[--l->n]);
}

void memlog_trim(struct memlog *l, size_t first) {
  for (; l->first < first; l->first++) wal_block_unref(l->blocks[l->first]);
}

/* ---- making nodes ---------------------------------------------------------------------------- */

struct hash128 sim_id(uint64_t n) {
  struct hash128 h = {{0}};
  put_u64(h.b, n);
  h.b[15] = 0xab;
  return h;
}

void sim_init(struct sim *sim, uint64_t seed) {
  *sim = (struct sim){
      .now = 1000000 * SIM_MS, .rng = seed | 1, .heartbeat_ms = 500, .peer_timeout_ms = 5000, .pack_rate = 1u << 30};
}

uint64_t sim_draw(struct sim *sim, uint64_t below) {
  sim->rng ^= sim->rng << 13;
  sim->rng ^= sim->rng >> 7;
  sim->rng ^= sim->rng << 17;
  return (sim->rng >> 11) % below;
}

static struct sim_node *node(struct sim *sim, const char *name, uint64_t id) {
  own_begin();
  struct sim_node *n = calloc(1, sizeof *n);
  own_end();
  n->sim = sim;
  n->name = name;
  n->id = id;
  n->incarnation = sim_id(1000 + id);
  for (int i = 0; i < SIM_FILES; i++) n->file_bytes[i] = (uint64_t)i * 700001;
  quorum_init(&n->quorum);
  sim->nodes[sim->count++] = n;
  return n;
}

void sim_new_epoch(struct sim_node *n) {
  n->epoch++;
  n->epochs[n->epoch_count++] =
      (struct epoch_record){.epoch = n->epoch, .node_id = n->id, .reason = EPOCH_OPENED, .start = n->log.end};
  memlog_write(&n->log, n->epoch, 0, 80, sim_async, n->id * 1000 + n->epoch, n->commit);
}

struct sim_node *sim_primary(struct sim *sim, const char *name, uint64_t id) {
  struct sim_node *n = node(sim, name, id);
  struct hash128 cluster = sim_id(7);
  n->role = DW_PRIMARY;
  n->has_cluster = true;
  memlog_init(&n->log, &cluster, NULL);
  sim_new_epoch(n);
  return n;
}

static void make_receiver(struct sim_node *n) {
  struct receiver_config cfg = {.node_id = n->id,
                                .incarnation = n->incarnation,
                                .region = "test",
                                .heartbeat_ms = n->sim->heartbeat_ms,
                                .peer_timeout_ms = n->sim->peer_timeout_ms,
                                .seed = sim_draw(n->sim, 1u << 30),
                                .self = {.priority = 100, .client = "0.0.0.0:6379"},
                                .primary = n->upstream->name};
  own_begin();
  int rc = receiver_create(&cfg, n->sim->now, &n->recv);
  own_end();
  assert(rc == DW_OK);
  (void)rc;
}

struct sim_node *sim_follower(struct sim *sim, const char *name, uint64_t id, struct sim_node *upstream) {
  struct sim_node *n = node(sim, name, id);
  n->role = DW_FOLLOWER;
  n->upstream = upstream;
  n->link.f = n;
  make_receiver(n);
  return n;
}

static void link_close(struct sim_link *l) {
  if (l->ship) {
    quorum_gone(&l->s->quorum, l, l->f->sim->now);
    shipper_destroy(l->ship);
  }
  for (unsigned i = 0; l->s && i < l->s->relayed_count; i++)
    if (l->s->relayed[i].link == l) l->s->relayed[i].id = 0;
  l->ship = NULL;
  l->open = l->closed_by_ship = false;
  buf_free(&l->up);
  buf_free(&l->down);
}

void sim_free(struct sim *sim) {
  for (size_t i = 0; i < sim->count; i++) link_close(&sim->nodes[i]->link);
  for (size_t i = 0; i < sim->count; i++) {
    struct sim_node *n = sim->nodes[i];
    receiver_destroy(n->recv);
    quorum_free(&n->quorum);
    memlog_free(&n->log);
    ckpt_manifest_free(&n->incoming);
    for (int f = 0; f < SIM_FILES; f++) buf_free(&n->files[f]);
    free(n);
  }
  sim->count = 0;
}

/* ---- the server's driver --------------------------------------------------------------------- */

static void boil(struct sim_node *s) {
  quorum_boil(&s->quorum, &s->marks);
  if (s->role == DW_PRIMARY && s->sync_commit && s->marks.mark[LEVEL_DURABLE][0] > s->commit)
    s->commit = s->marks.mark[LEVEL_DURABLE][0];
}

static void locate(struct sim_link *l, const struct msg_hello *h) {
  struct sim_node *s = l->s;
  struct position_decision d = {0};
  void *old = NULL;
  int rc = quorum_admit(&s->quorum, l, h, l->f->name, s->sim->now, &old);
  if (rc) {
    d = (struct position_decision){.kind = POSITION_REFUSE, .code = rc};
    dw_error_copy(d.text, sizeof d.text);
    rc = DW_OK;
  } else {
    struct position_log log = {.find = memlog_find,
                               .at_most = memlog_at_most,
                               .ctx = &s->log,
                               .oldest = memlog_bound(&s->log, s->log.first),
                               .tail = s->log.end,
                               .epochs = s->epochs,
                               .epoch_count = s->epoch_count,
                               .cluster_id = s->log.cluster,
                               .relay = s->role == DW_FOLLOWER};
    rc = position_decide(&log, h, &d);
    quorum_located(&s->quorum, l, &d);
    if (rc == DW_OK && d.kind == POSITION_STREAM) rc = memlog_index(&s->log, &d.pos, &l->cursor);
  }
  shipper_located(l->ship, rc, &d, "simulated", s->sim->now);
}

static void read_log(struct sim_link *l, size_t max) {
  struct wal_block *blocks[512];
  size_t n = 0, bytes = 0;
  struct memlog *log = &l->s->log;
  while (l->cursor < log->n && bytes < max && n < 512) {
    bytes += block_total_bytes(&log->blocks[l->cursor]->h);
    blocks[n++] = wal_block_ref(log->blocks[l->cursor++]);
  }
  bool end = l->cursor == log->n;
  shipper_blocks(l->ship, DW_OK, blocks, n, end, end, NULL, l->s->sim->now);
}

static uint8_t file_byte(unsigned file, uint64_t off) {
  return (uint8_t)(off * 31 + (off >> 9) + file * 7);
}

static void make_checkpoint(struct sim_link *l, const struct hash128 *resume) {
  struct sim_node *s = l->s;
  struct ckpt_manifest m = {0};
  if (!s->ckpt_alive || !hash128_eq(resume, &s->ckpt_id)) {
    s->ckpt_id = sim_id(5000 + ++s->checkpoints_made);
    s->ckpt_pos = s->log.end;
    s->ckpt_alive = true;
  }
  m.id = s->ckpt_id;
  m.pos = s->ckpt_pos;
  const char *names[SIM_FILES] = {"CURRENT", "000007.sst", "MANIFEST-000005"};
  own_begin();
  for (int i = 0; i < SIM_FILES; i++) ckpt_manifest_add(&m, names[i], s->file_bytes[i]);
  own_end();
  shipper_checkpoint(l->ship, DW_OK, &m, NULL, s->sim->now);
}

static void read_chunk(struct sim_link *l, const struct ship_action *a) {
  own_begin();
  uint8_t *data = malloc(a->chunk.bytes);
  own_end();
  for (uint32_t i = 0; i < a->chunk.bytes; i++) data[i] = file_byte(a->chunk.file, a->chunk.offset + i);
  shipper_chunk(l->ship, DW_OK, data, NULL, l->s->sim->now);
  free(data);
}

static void probe(struct sim_link *l, const struct msg_probe *p) {
  struct sim_node *s = l->s;
  if (s->role == DW_PRIMARY) {
    shipper_probe_answer(l->ship, p, s->commit, s->sim->now);
    return;
  }
  uint64_t id = receiver_probe(s->recv, (uint8_t)(p->hops + 1), s->sim->now);
  if (!id) return;
  s->relayed[s->relayed_count % 64].id = id;
  s->relayed[s->relayed_count % 64].link = l;
  s->relayed[s->relayed_count % 64].probe = *p;
  if (s->relayed_count < 63) s->relayed_count++;
}

static bool drive_shipper(struct sim_link *l) {
  struct ship_action a;
  struct sim_node *s = l->s;
  if (!l->ship || !shipper_next(l->ship, &a)) return false;
  switch (a.type) {
  case SHIP_LOCATE: locate(l, a.hello); break;
  case SHIP_READ_LOG: read_log(l, a.read.max_bytes); break;
  case SHIP_MAKE_CHECKPOINT: make_checkpoint(l, &a.make.resume); break;
  case SHIP_READ_CHUNK: read_chunk(l, &a); break;
  case SHIP_DROP_CHECKPOINT:
    s->ckpt_alive = false;
    s->checkpoints_dropped++;
    break;
  case SHIP_PROBE: probe(l, &a.probe); break;
  case SHIP_MARKS:
    quorum_marks(&s->quorum, l, &a.marks, s->sim->now);
    boil(s);
    break;
  case SHIP_STATE:
    quorum_state(&s->quorum, l, shipper_state(l->ship), s->sim->now);
    boil(s);
    break;
  case SHIP_FETCH:
  case SHIP_FENCE:
  case SHIP_FENCE_HEARD:
  case SHIP_LOG: break;
  case SHIP_CLOSE:
    snprintf(s->last_ship_close, sizeof s->last_ship_close, "%s", a.close.text);
    quorum_gone(&s->quorum, l, s->sim->now);
    boil(s);
    shipper_destroy(l->ship);
    l->ship = NULL;
    l->closed_by_ship = true;
    break;
  }
  return true;
}

/* ---- the follower's driver ------------------------------------------------------------------- */

static struct receiver_position position(const struct sim_node *n) {
  struct receiver_position p = {.has_cluster = n->has_cluster,
                                .cluster_id = n->log.cluster,
                                .tail = n->log.end,
                                .applied = n->applied,
                                .durable_lsn = n->durable,
                                .commit_lsn = n->commit,
                                .resume = n->incoming.id};
  return p;
}

static void apply(struct sim_node *n) {
  if (n->hold_apply) return;
  struct wal_pos to = n->applied;
  for (size_t i = n->log.first; i <= n->log.n; i++) {
    struct wal_pos b = memlog_bound(&n->log, i);
    if (b.lsn <= n->commit) to = b;
  }
  if (to.lsn < n->applied.lsn) return;
  n->applied = to;
  if (n->recv) receiver_applied(n->recv, to.lsn, n->sim->now);
}

static void connect_up(struct sim_node *n) {
  struct sim_link *l = &n->link;
  n->connects++;
  if (n->upstream_down) {
    receiver_connect_failed(n->recv, "connection refused", n->sim->now);
    return;
  }
  link_close(l);
  struct sim_node *s = n->upstream;
  l->s = s;
  l->open = true;
  struct shipper_config cfg = {.node_id = s->id,
                               .incarnation = s->incarnation,
                               .role = s->role,
                               .heartbeat_ms = s->sim->heartbeat_ms,
                               .peer_timeout_ms = s->sim->peer_timeout_ms,
                               .peer = n->name};
  if (s->has_cluster) cfg.cluster_id = s->log.cluster;
  int rc = shipper_create(&cfg, &s->log.end, s->commit, s->sim->now, &l->ship);
  if (rc) { /* as a server without memory: it hangs up */
    l->ship = NULL;
    l->open = false;
    receiver_connect_failed(n->recv, "hung up", n->sim->now);
    return;
  }
  if (s->members.count) shipper_members(l->ship, &s->members, s->sim->now);
  shipper_pack_rate(l->ship, s->sim->pack_rate);
  struct receiver_position p = position(n);
  receiver_connected(n->recv, &p, n->sim->now);
}

static void note_epochs(struct sim_node *n, const struct wal_block *b, const struct wal_pos *before) {
  if (b->h.kind != BLOCK_EPOCH) return;
  while (n->epoch_count && n->epochs[n->epoch_count - 1].epoch >= b->h.epoch) n->epoch_count--;
  n->epochs[n->epoch_count++] = (struct epoch_record){.epoch = b->h.epoch, .start = *before};
}

static void append(struct sim_node *n, struct wal_block **blocks, size_t count) {
  int rc = n->fail_append;
  n->fail_append = 0;
  n->appends++;
  for (size_t i = 0; rc == DW_OK && i < count; i++) {
    if (blocks[i]->h.first_lsn != n->log.end.lsn + 1 || !block_chain_ok(blocks[i]->bytes, &n->log.end.chain))
      rc = DW_DIVERGED;
    note_epochs(n, blocks[i], &n->log.end);
    if (rc == DW_OK) memlog_add(&n->log, wal_block_ref(blocks[i]));
  }
  struct wal_pos end = n->log.end;
  receiver_appended(n->recv, rc, &end, "simulated", n->sim->now);
  apply(n);
}

static void truncate_log(struct sim_node *n, const struct wal_pos *pos) {
  size_t i;
  struct wal_pos at, to = *pos;
  int rc = memlog_index(&n->log, &to, &i);
  n->truncates++;
  if (rc == DW_OK) {
    memlog_truncate(&n->log, i);
    if (n->durable > to.lsn) n->durable = to.lsn;
    if (n->commit > to.lsn) n->commit = to.lsn;
    while (n->epoch_count && n->epochs[n->epoch_count - 1].epoch > to.epoch) n->epoch_count--;
  } else {
    rc = DW_NOT_FOUND;
  }
  struct receiver_position p = position(n);
  bool older = rc == DW_NOT_FOUND && to.epoch && memlog_at_most(&n->log, to.epoch - 1, to.lsn, &at) == DW_OK;
  receiver_truncated(n->recv, rc, &p, older ? &at : NULL, NULL, n->sim->now);
}

static void ckpt_begin(struct sim_node *n, const struct ckpt_manifest *m) {
  uint64_t offsets[SIM_FILES];
  bool resumed = hash128_eq(&n->incoming.id, &m->id);
  if (!resumed) ckpt_manifest_free(&n->incoming);
  for (uint32_t i = 0; i < SIM_FILES; i++) {
    if (!resumed) {
      buf_free(&n->files[i]);
      n->held[i] = false;
      own_begin();
      ckpt_manifest_add(&n->incoming, m->files[i].name, m->files[i].bytes);
      own_end();
    }
    offsets[i] = n->held[i] ? CKPT_HELD : n->files[i].len;
  }
  n->incoming.id = m->id;
  n->incoming.pos = m->pos;
  receiver_ckpt_begun(n->recv, DW_OK, offsets, NULL, n->sim->now);
}

static void ckpt_file_end(struct sim_node *n, const struct recv_action *a) {
  struct buf *f = &n->files[a->file_end.file];
  struct hash128 h = hash128(f->data ? (const void *)f->data : "", f->len);
  int rc = hash128_eq(&h, &a->file_end.hash) ? DW_OK : DW_CORRUPT;
  n->held[a->file_end.file] = rc == DW_OK;
  if (rc) f->len = 0;
  receiver_ckpt_file_done(n->recv, rc, "the file differs", n->sim->now);
}

static void install(struct sim_node *n, const struct hash128 *cluster, const struct wal_pos *pos) {
  struct wal_pos to = *pos;
  struct hash128 id = *cluster;
  for (size_t i = 0; i < n->sim->count; i++) /* as the node does: those who read this log come back for the new one */
    if (n->sim->nodes[i]->upstream == n && n->sim->nodes[i]->link.ship)
      shipper_shut(n->sim->nodes[i]->link.ship, DW_STALE, "installing a checkpoint", n->sim->now);
  memlog_free(&n->log);
  memlog_init(&n->log, &id, &to);
  n->has_cluster = true;
  n->installs++;
  n->applied = to;
  n->durable = n->commit = to.lsn;
  n->epoch_count = 0; /* a real store brings its own history along; here the upstream's is copied */
  for (size_t i = 0; i < n->upstream->epoch_count && n->upstream->epochs[i].epoch <= to.epoch; i++)
    n->epochs[n->epoch_count++] = n->upstream->epochs[i];
  ckpt_manifest_free(&n->incoming);
  struct receiver_position p = position(n);
  receiver_installed(n->recv, DW_OK, &p, NULL, n->sim->now);
}

static void probe_done(struct sim_node *n, uint64_t id, dw_lsn lsn) {
  n->last_done_id = id;
  n->last_done_lsn = lsn;
  for (unsigned i = 0; i < n->relayed_count; i++) {
    if (n->relayed[i].id != id) continue;
    n->relayed[i].id = 0;
    if (n->relayed[i].link->ship)
      shipper_probe_answer(n->relayed[i].link->ship, &n->relayed[i].probe, lsn, n->sim->now);
    n->relayed[i] = n->relayed[--n->relayed_count];
    return;
  }
}

void sim_end_sync(struct sim_node *n) {
  if (!n->sync_open) return;
  n->sync_open = false;
  n->durable = n->log.end.lsn;
  receiver_synced(n->recv, DW_OK, n->durable, NULL, n->sim->now);
}

static void storage(struct sim_node *n, const struct recv_action *a) {
  struct receiver_position p;
  switch (a->type) {
  case RECV_ADOPT:
    memlog_init(&n->log, &a->adopt, NULL);
    n->has_cluster = true;
    n->applied = n->log.end;
    p = position(n);
    receiver_adopted(n->recv, DW_OK, &p, NULL, n->sim->now);
    break;
  case RECV_APPEND: append(n, a->append.blocks, a->append.n); break;
  case RECV_SYNC:
    n->syncs++;
    n->sync_open = true;
    if (!n->hold_sync) sim_end_sync(n);
    break;
  case RECV_TRUNCATE: truncate_log(n, &a->truncate.pos); break;
  case RECV_PART:
    n->parts++;
    n->part = a->part.pos;
    receiver_parted(n->recv, DW_OK, NULL, NULL, n->sim->now);
    break;
  case RECV_CKPT_BEGIN: ckpt_begin(n, a->begin); break;
  case RECV_CKPT_WRITE:
    assert(n->files[a->write.file].len == a->write.offset);
    own_begin();
    buf_append(&n->files[a->write.file], a->write.data, a->write.bytes);
    own_end();
    n->chunk_bytes_written += a->write.bytes;
    receiver_ckpt_written(n->recv, DW_OK, NULL, n->sim->now);
    break;
  case RECV_CKPT_FILE_END: ckpt_file_end(n, a); break;
  case RECV_CKPT_INSTALL: install(n, &a->install.cluster_id, &a->install.pos); break;
  default: assert(0);
  }
}

static bool drive_receiver(struct sim_node *n) {
  struct recv_action a;
  if (!n->recv || !receiver_next(n->recv, &a)) return false;
  switch (a.type) {
  case RECV_CONNECT: connect_up(n); break;
  case RECV_COMMIT:
    if (a.commit_lsn > n->commit) n->commit = a.commit_lsn;
    apply(n);
    break;
  case RECV_FRESH: break;
  case RECV_PROBE_DONE: probe_done(n, a.probe.id, a.probe.commit_lsn); break;
  case RECV_PROBES_LOST: n->probes_lost++; break;
  case RECV_MEMBERS: n->members = *a.members; break;
  case RECV_LOG: break;
  case RECV_CLOSE:
    n->closes++;
    n->last_close_code = a.close.code;
    n->last_retry_ns = a.close.retry_ns;
    snprintf(n->last_close, sizeof n->last_close, "%s", a.close.text);
    if (n->link.ship && !n->link.hole_up) shipper_eof(n->link.ship, NULL, n->sim->now);
    n->link.open = false;
    break;
  default: storage(n, &a);
  }
  return true;
}

/* ---- the network ----------------------------------------------------------------------------- */

static bool carry(struct buf *wire, struct iovec *iov, int n, size_t *taken) {
  *taken = 0;
  for (int i = 0; i < n; i++) {
    own_begin();
    if (wire) buf_append(wire, iov[i].iov_base, iov[i].iov_len);
    own_end();
    *taken += iov[i].iov_len;
  }
  return *taken > 0;
}

static size_t portion(struct sim *sim, size_t n) {
  return sim->fragment && n > 1 ? 1 + sim_draw(sim, n < sim->fragment ? n : sim->fragment) : n;
}

static bool move_up(struct sim_link *l) {
  struct iovec iov[16];
  size_t n;
  struct sim *sim = l->f->sim;
  bool moved = carry(l->hole_up ? NULL : &l->up, iov, receiver_output(l->f->recv, iov, 16), &n);
  if (n) receiver_drained(l->f->recv, n, sim->now);
  if (l->ship && l->up.len && shipper_wants_input(l->ship)) {
    size_t k = portion(sim, l->up.len);
    own_begin();
    uint8_t *copy = malloc(k);
    own_end();
    memcpy(copy, l->up.data, k);
    buf_consume(&l->up, k);
    shipper_input(l->ship, copy, k, sim->now);
    free(copy);
    moved = true;
  }
  return moved;
}

static bool move_down(struct sim_link *l) {
  struct iovec iov[16];
  size_t n = 0;
  struct sim *sim = l->f->sim;
  bool moved = false;
  if (l->ship) {
    size_t unsent = shipper_output_bytes(l->ship);
    if (unsent > l->max_unsent) l->max_unsent = unsent;
    if (!l->stuck_down) moved = carry(l->hole_down ? NULL : &l->down, iov, shipper_output(l->ship, iov, 16), &n);
    if (n) shipper_drained(l->ship, n, sim->now);
  }
  if (l->down.len && receiver_wants_input(l->f->recv)) {
    size_t k = portion(sim, l->down.len);
    own_begin();
    uint8_t *copy = malloc(k);
    own_end();
    memcpy(copy, l->down.data, k);
    buf_consume(&l->down, k);
    receiver_input(l->f->recv, copy, k, sim->now);
    free(copy);
    moved = true;
  }
  if (l->closed_by_ship && l->down.len == 0 && l->open && !l->hole_down) {
    l->open = false;
    receiver_eof(l->f->recv, NULL, sim->now);
    moved = true;
  }
  return moved;
}

static void tell_server(struct sim_link *l) {
  if (!l->ship || !l->s) return;
  if (l->s->role == DW_PRIMARY && !l->s->sync_commit) l->s->commit = l->s->log.end.lsn;
  if (l->cursor < l->s->log.n) shipper_log_grew(l->ship, &l->s->log.end, l->s->sim->now);
  shipper_commit(l->ship, l->s->commit, l->s->sim->now);
}

void sim_run(struct sim *sim) {
  bool moved = true;
  while (moved) {
    moved = false;
    for (size_t i = 0; i < sim->count; i++) {
      struct sim_node *n = sim->nodes[i];
      if (!n->recv) continue;
      struct sim_link *l = &n->link;
      tell_server(l);
      while (drive_shipper(l)) moved = true;
      if (l->open) moved |= move_up(l);
      if (l->open || l->ship) moved |= move_down(l);
      while (drive_receiver(n)) {
        moved = true;
        if (l->open) move_up(l); /* output first */
      }
    }
  }
}

void sim_pass(struct sim *sim, uint64_t ms) {
  sim_run(sim);
  for (uint64_t t = 0; t < ms; t += 5) {
    sim->now += 5 * SIM_MS;
    for (size_t i = 0; i < sim->count; i++) {
      struct sim_node *n = sim->nodes[i];
      if (n->recv) receiver_tick(n->recv, sim->now);
      if (n->link.ship) shipper_tick(n->link.ship, sim->now);
    }
    sim_run(sim);
  }
}

/* ---- what tests do --------------------------------------------------------------------------- */

void sim_write(struct sim_node *n, struct block_need need, size_t bytes) {
  memlog_write(&n->log, n->epoch, 1, bytes, need, sim_draw(n->sim, 1u << 30), n->commit);
}

void sim_disconnect(struct sim_node *n) {
  struct sim_link *l = &n->link;
  l->open = false;
  buf_free(&l->up);
  buf_free(&l->down);
  if (l->ship) shipper_eof(l->ship, "cut", n->sim->now);
  receiver_eof(n->recv, "cut", n->sim->now);
}

void sim_restart(struct sim_node *n) {
  link_close(&n->link);
  receiver_destroy(n->recv);
  n->sync_open = false;
  make_receiver(n);
}

bool sim_is_prefix(const struct sim_node *f, const struct sim_node *p) {
  size_t i;
  return memlog_index(&p->log, &f->log.end, &i) == DW_OK;
}

bool sim_equal(const struct sim_node *a, const struct sim_node *b) {
  return a->log.end.lsn == b->log.end.lsn && hash128_eq(&a->log.end.chain, &b->log.end.chain);
}

struct quorum_follower *sim_known(struct sim_node *p, uint64_t id) {
  for (size_t i = 0; i < p->quorum.count; i++)
    if (p->quorum.followers[i].node_id == id) return &p->quorum.followers[i];
  return NULL;
}
