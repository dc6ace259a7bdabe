/* Peers that lie, dawdle or babble, against one real machine at a time. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/repl_sim.h"

#define HB 500u
#define LIMIT 5000u

static uint64_t now = 1000 * SIM_MS;
static struct memlog ours; /* the log of the honest side: epoch 3, LSN 1-10 */
static struct buf out;     /* frames of the hostile peer under construction */
static struct msg_sender peer;

static void make_log(void) {
  struct hash128 cluster = sim_id(7);
  memlog_free(&ours);
  memlog_init(&ours, &cluster, NULL);
  memlog_write(&ours, 3, 0, 80, sim_async, 1, 0);
  for (int i = 0; i < 10; i++) memlog_write(&ours, 3, 1, 100, sim_durable, 10 + (uint64_t)i, 0);
}

/* ---- against a shipper ----------------------------------------------------------------------- */

static struct shipper *ship;
static char closed[600];
static int close_code;
static bool did_close;
static struct msg_ack marks;
static unsigned probes_taken, truncates_left, reads;
static size_t max_read = 64;
static bool answer_probes, bootstrap;
static uint64_t heard_epoch, heard_node;
static uint64_t chunks;

static void ship_setup(void) {
  make_log();
  struct shipper_config cfg = {.node_id = 1,
                               .cluster_id = ours.cluster,
                               .incarnation = sim_id(1),
                               .role = DW_PRIMARY,
                               .heartbeat_ms = HB,
                               .peer_timeout_ms = LIMIT,
                               .peer = "1.2.3.4:5"};
  ck_assert_int_eq(shipper_create(&cfg, &ours.end, 10, now, &ship), DW_OK);
  peer = (struct msg_sender){.version = 1, .epoch = 3, .node_id = 2};
  answer_probes = true;
}
static void ship_teardown(void) {
  shipper_destroy(ship);
  memlog_free(&ours);
  buf_free(&out);
}

static void ship_read(void) {
  struct wal_block *blocks[64];
  size_t n = 0, i = 0;
  struct wal_pos sent = shipper_sent(ship);
  ck_assert_int_eq(memlog_index(&ours, &sent, &i), DW_OK);
  while (i < ours.n && n < max_read) blocks[n++] = wal_block_ref(ours.blocks[i++]);
  reads++;
  shipper_blocks(ship, DW_OK, blocks, n, i == ours.n, true, NULL, now);
}

static void ship_locate(void) {
  struct position_decision d = {.kind = POSITION_STREAM, .pos = wal_genesis(&ours.cluster)};
  if (truncates_left) d.kind = POSITION_TRUNCATE, truncates_left--;
  if (bootstrap) d.kind = POSITION_BOOTSTRAP;
  shipper_located(ship, DW_OK, &d, NULL, now);
}

static void ship_checkpoint(void) {
  struct ckpt_manifest m = {.id = sim_id(50), .pos = ours.end};
  ckpt_manifest_add(&m, "f", 100);
  shipper_checkpoint(ship, DW_OK, &m, NULL, now);
}

static void ship_drive(void) {
  struct ship_action a;
  uint8_t zeros[MSG_CHUNK_BYTES] = {0};
  while (shipper_next(ship, &a)) {
    switch (a.type) {
    case SHIP_LOCATE: ship_locate(); break;
    case SHIP_READ_LOG: ship_read(); break;
    case SHIP_MAKE_CHECKPOINT: ship_checkpoint(); break;
    case SHIP_READ_CHUNK: chunks++, shipper_chunk(ship, DW_OK, zeros, NULL, now); break;
    case SHIP_PROBE:
      probes_taken++;
      if (answer_probes) shipper_probe_answer(ship, &a.probe, 10, now);
      break;
    case SHIP_MARKS: marks = a.marks; break;
    case SHIP_FENCE_HEARD: heard_epoch = a.heard.epoch, heard_node = a.heard.node_id; break;
    case SHIP_CLOSE:
      did_close = true;
      close_code = a.close.code;
      snprintf(closed, sizeof closed, "%s", a.close.text);
      break;
    default: break;
    }
  }
}

static void ship_drain(void) {
  size_t n = shipper_output_bytes(ship);
  if (n) shipper_drained(ship, n, now);
  ship_drive();
}

/* Sends what is in `out`. */
static void ship_say(void) {
  shipper_input(ship, out.data, out.len, now);
  out.len = 0;
  ship_drive();
  ship_drain();
}

static void ship_pass(uint64_t ms_) {
  for (uint64_t t = 0; t < ms_; t += 50) {
    now += 50 * SIM_MS;
    shipper_tick(ship, now);
    ship_drive();
    ship_drain();
  }
}

static struct msg_hello good_hello(void) {
  struct wal_pos g = wal_genesis(&ours.cluster);
  return (struct msg_hello){.version_min = 1,
                            .version_max = 1,
                            .role = DW_FOLLOWER,
                            .heartbeat_ms = HB,
                            .cluster_id = ours.cluster,
                            .node_id = 2,
                            .incarnation = sim_id(2),
                            .tail = g,
                            .applied = g,
                            .at = g};
}
static void say_hello(void) {
  struct msg_hello h = good_hello();
  msg_put_hello(&out, &peer, &h);
  ship_say();
}

/* The text of the REFUSE at the end of the shipper's output. */
static struct msg_refuse refusal(void) {
  struct iovec iov[64];
  struct frame_reader r;
  struct frame f;
  struct msg_refuse m = {0};
  frame_reader_init(&r, 0xffffffffu);
  r.version = 1;
  int n = shipper_output(ship, iov, 64);
  for (int i = 0; i < n; i++) frame_reader_feed(&r, iov[i].iov_base, iov[i].iov_len);
  while (frame_reader_next(&r, &f) == DW_OK)
    if (f.h.type == MSG_REFUSE) ck_assert_int_eq(msg_get_refuse(&f, &m), DW_OK);
  frame_reader_free(&r);
  return m;
}

START_TEST(garbage_gets_no_answer_and_a_closed_connection) {
  shipper_input(ship, "*1\r\n$4\r\nPING\r\n                                              ", 60, now);
  ck_assert_uint_eq(shipper_output_bytes(ship), 0);
  ship_drive();
  ck_assert(did_close);
  ck_assert_ptr_nonnull(strstr(closed, "not a dabbawal peer"));
}
END_TEST

START_TEST(a_hello_that_trickles_is_not_waited_for_for_ever) {
  struct msg_hello h = good_hello();
  msg_put_hello(&out, &peer, &h);
  for (size_t i = 0; i < 49; i++) {
    ck_assert(!did_close);
    shipper_input(ship, out.data + i, 1, now);
    ship_pass(100);
  }
  ship_pass(200);
  ck_assert(did_close);
  ck_assert_ptr_nonnull(strstr(closed, "no HELLO within 5000 ms"));
}
END_TEST

START_TEST(a_refused_follower_is_told_why_before_the_connection_closes) {
  struct msg_hello h = good_hello();
  h.version_min = h.version_max = 9;
  msg_put_hello(&out, &peer, &h);
  shipper_input(ship, out.data, out.len, now);
  ship_drive();
  struct msg_refuse m = refusal();
  ck_assert_int_eq(m.code, DW_UNSUPPORTED);
  ck_assert_str_eq(m.text, "protocol versions 9 to 9 are spoken there, 1 to 2 here");
  ck_assert(!did_close);
  ship_drain();
  ck_assert(did_close);
}
END_TEST

START_TEST(a_refusal_nobody_reads_does_not_hold_the_connection) {
  struct msg_hello h = good_hello();
  h.role = DW_PRIMARY;
  msg_put_hello(&out, &peer, &h);
  shipper_input(ship, out.data, out.len, now);
  ship_drive();
  ck_assert_ptr_nonnull(strstr(refusal().text, "is a primary itself"));
  now += 1100 * SIM_MS;
  shipper_tick(ship, now);
  ship_drive();
  ck_assert(did_close);
}
END_TEST

START_TEST(acks_count_up_to_what_was_sent_and_never_fall) {
  say_hello();
  msg_put_ack(&out, &peer, &(struct msg_ack){UINT64_MAX, 1000, 7, 0});
  ship_say();
  ck_assert_uint_eq(marks.received, 10);
  ck_assert_uint_eq(marks.durable, 10);
  ck_assert_uint_eq(marks.applied, 7);
  msg_put_ack(&out, &peer, &(struct msg_ack){1, 1, 1, 77});
  ship_say();
  ck_assert_uint_eq(marks.received, 10);
  ck_assert_uint_eq(marks.applied, 7);
  ck_assert_uint_eq(marks.staleness_ms, 77);
  ck_assert(!did_close);
}
END_TEST

START_TEST(frames_of_another_node_or_epoch_end_the_connection) {
  say_hello();
  peer.node_id = 3;
  msg_put_heartbeat(&out, &peer, &(struct msg_heartbeat){0});
  ship_say();
  ck_assert(did_close);
  ck_assert_ptr_nonnull(strstr(closed, "a frame of node 3 on the connection of node 2"));
}
END_TEST

START_TEST(a_follower_of_a_newer_epoch_unmasks_an_old_primary) {
  say_hello();
  peer.epoch = 4;
  msg_put_ack(&out, &peer, &(struct msg_ack){0});
  ship_say();
  ck_assert_int_eq(close_code, DW_DIVERGED);
  ck_assert_ptr_nonnull(strstr(closed, "at epoch 4, this log at 3"));
}
END_TEST

/* "I have promised epoch 9 to node 5" */
static void say_fenced(void) {
  struct msg_refuse m = {.code = DW_FENCED, .lsn = 5, .text = "epoch 9 was promised to node 5"};
  peer.epoch = 9;
  msg_put_refuse(&out, &peer, &m);
  ship_say();
}

START_TEST(a_follower_that_has_promised_a_newer_epoch_is_heard) {
  say_hello();
  say_fenced();
  ck_assert(did_close);
  ck_assert_uint_eq(heard_epoch, 9);
  ck_assert_uint_eq(heard_node, 5);
}
END_TEST

START_TEST(a_new_follower_that_came_into_the_cluster_here_is_heard) {
  struct msg_hello h = good_hello();
  struct wal_pos none = {0};
  memset(&h.cluster_id, 0, sizeof h.cluster_id);
  h.tail = h.applied = h.at = none;
  msg_put_hello(&out, &peer, &h);
  ship_say();
  ck_assert(!did_close);
  say_fenced();
  ck_assert_uint_eq(heard_epoch, 9);
}
END_TEST

START_TEST(a_stranger_that_has_not_said_whose_it_is_fences_nobody) {
  say_fenced();
  ck_assert(did_close);
  ck_assert_uint_eq(heard_epoch, 0);
}
END_TEST

START_TEST(messages_out_of_place_end_the_connection) {
  say_hello();
  msg_put_ckpt_ack(&out, &peer, &(struct msg_ckpt_ack){1});
  ship_say();
  ck_assert(did_close);
  ck_assert_ptr_nonnull(strstr(closed, "CKPT_ACK is out of place"));
}
END_TEST

START_TEST(a_flood_of_probes_waits_in_the_socket_not_in_memory) {
  say_hello();
  for (uint64_t i = 0; i < 100000 && shipper_wants_input(ship); i++) {
    msg_put_probe(&out, &peer, &(struct msg_probe){i, i, 0});
    shipper_input(ship, out.data, out.len, now);
    out.len = 0;
    if (i % 50 == 0) ship_drive(); /* answers pile up: nothing is drained */
  }
  ck_assert(!shipper_wants_input(ship));
  ck_assert_uint_le(shipper_output_bytes(ship), 1048576 + 65536 + 64 * 100);
  ship_drain();
  ck_assert(shipper_wants_input(ship));
}
END_TEST

START_TEST(a_probe_that_runs_in_a_circle_is_not_answered) {
  say_hello();
  probes_taken = 0;
  msg_put_probe(&out, &peer, &(struct msg_probe){1, 1, MSG_MAX_HOPS - 1});
  msg_put_probe(&out, &peer, &(struct msg_probe){2, 1, MSG_MAX_HOPS});
  msg_put_probe(&out, &peer, &(struct msg_probe){3, 1, 255});
  ship_say();
  ck_assert_uint_eq(probes_taken, 1);
}
END_TEST

START_TEST(a_follower_that_never_finds_its_place_is_refused_after_bounded_rounds) {
  truncates_left = 1000;
  for (int i = 0; i < 40 && !did_close; i++) say_hello();
  ck_assert(did_close);
  ck_assert_int_eq(close_code, DW_DIVERGED);
  ck_assert_uint_eq(truncates_left, 1000 - 16);
}
END_TEST

START_TEST(another_node_can_not_take_over_a_connection) {
  truncates_left = 1;
  say_hello();
  struct msg_hello h = good_hello();
  h.incarnation = sim_id(3);
  msg_put_hello(&out, &peer, &h);
  ship_say();
  ck_assert(did_close);
  ck_assert_ptr_nonnull(strstr(closed, "another node's HELLO"));
}
END_TEST

START_TEST(a_bootstrap_that_does_not_move_ends_although_its_peer_lives) {
  bootstrap = true;
  say_hello();
  int beats = 0;
  while (!did_close && beats < 1000) {
    msg_put_heartbeat(&out, &peer, &(struct msg_heartbeat){0});
    ship_say();
    ship_pass(HB);
    beats++;
  }
  ck_assert(did_close);
  ck_assert_ptr_nonnull(strstr(closed, "bootstrap has not moved"));
  ck_assert_int_ge(beats, 119);
  ck_assert_int_le(beats, 122);
}
END_TEST

START_TEST(a_checkpoint_is_not_dropped_for_a_lie) {
  bootstrap = true;
  say_hello();
  struct hash128 id = sim_id(50);
  uint64_t offsets[1] = {0};
  msg_put_ckpt_installed(&out, &peer, &id);
  ship_say();
  ck_assert(did_close);
  ck_assert_ptr_nonnull(strstr(closed, "not sent"));
  (void)offsets;
}
END_TEST

START_TEST(a_silent_follower_is_closed_and_a_beating_one_is_not) {
  say_hello();
  for (int i = 0; i < 60; i++) {
    msg_put_heartbeat(&out, &peer, &(struct msg_heartbeat){0});
    ship_say();
    ship_pass(HB);
  }
  ck_assert(!did_close);
  ship_pass(LIMIT + 100);
  ck_assert(did_close);
  ck_assert_ptr_nonnull(strstr(closed, "silent"));
}
END_TEST

START_TEST(a_block_that_takes_long_on_a_slow_link_is_no_silence) {
  memlog_write(&ours, 3, 1, 8000000, sim_durable, 99, 0);
  struct msg_hello h = good_hello();
  msg_put_hello(&out, &peer, &h);
  shipper_input(ship, out.data, out.len, now);
  out.len = 0;
  ship_drive();
  for (int i = 0; i < 200; i++) { /* 20 s at 400 kB/s, acks in time */
    now += 100 * SIM_MS;
    shipper_drained(ship, 40000, now);
    if (i % 5 == 0) {
      msg_put_ack(&out, &peer, &(struct msg_ack){0});
      shipper_input(ship, out.data, out.len, now);
      out.len = 0;
    }
    ship_drive();
  }
  ck_assert(!did_close);
}
END_TEST

START_TEST(blocks_are_batched_into_frames_of_bounded_size_and_carry_commit_lsn) {
  for (int i = 0; i < 20; i++) memlog_write(&ours, 3, 1, i == 10 ? 900000 : 60000, sim_durable, (uint64_t)i, 0);
  max_read = 7; /* several reads, no news of growth in between */
  struct msg_hello h = good_hello();
  msg_put_hello(&out, &peer, &h);
  shipper_input(ship, out.data, out.len, now);
  struct frame_reader r;
  struct frame f;
  unsigned blocks = 0, frames = 0, commits = 0;
  frame_reader_init(&r, 0xffffffffu);
  r.version = 1;
  for (int round = 0; round < 20; round++) {
    struct iovec iov[64];
    ship_drive();
    int n = shipper_output(ship, iov, 64);
    size_t bytes = 0;
    for (int i = 0; i < n; i++) {
      frame_reader_feed(&r, iov[i].iov_base, iov[i].iov_len);
      bytes += iov[i].iov_len;
    }
    shipper_drained(ship, bytes, now);
    while (frame_reader_next(&r, &f) == DW_OK) {
      struct msg_blocks m;
      commits += f.h.type == MSG_COMMIT;
      if (f.h.type != MSG_BLOCKS) continue;
      ck_assert_int_eq(msg_get_blocks(&f, &m), DW_OK);
      ck_assert_uint_eq(m.commit_lsn, 10);
      ck_assert(m.count == 1 || m.bytes <= MSG_BLOCKS_BATCH_BYTES);
      blocks += m.count;
      frames++;
    }
  }
  ck_assert_uint_eq(blocks, 31);
  ck_assert_uint_le(frames, 10);
  ck_assert_uint_eq(commits, 0);
  ck_assert_uint_eq(shipper_sent(ship).lsn, 30);
  shipper_commit(ship, 12, now);
  ck_assert_uint_eq(shipper_output_bytes(ship), MSG_HEADER_BYTES + 8);
  ship_drain();
  memlog_write(&ours, 3, 1, 100, sim_durable, 77, 0);
  shipper_log_grew(ship, &ours.end, now);
  shipper_commit(ship, 13, now); /* the block on its way will carry it */
  ship_drive();
  ck_assert_uint_eq(shipper_output_bytes(ship),
                    MSG_HEADER_BYTES + MSG_BLOCKS_PREFIX_BYTES + block_total_bytes(&ours.blocks[ours.n - 1]->h));
  frame_reader_free(&r);
}
END_TEST

/* What goes out after HELLO: frames of blocks and of packs. */
static void count_frames(uint16_t version, unsigned *blocks, unsigned *packs) {
  struct msg_hello h = good_hello();
  struct frame_reader r;
  struct frame f;
  struct iovec iov[64];
  h.version_max = version;
  msg_put_hello(&out, &peer, &h);
  shipper_input(ship, out.data, out.len, now);
  out.len = 0;
  ship_drive();
  frame_reader_init(&r, 0xffffffffu);
  r.version = version;
  int n = shipper_output(ship, iov, 64);
  for (int i = 0; i < n; i++) frame_reader_feed(&r, iov[i].iov_base, iov[i].iov_len);
  *blocks = *packs = 0;
  while (frame_reader_next(&r, &f) == DW_OK) {
    struct msg_packed m;
    *blocks += f.h.type == MSG_BLOCKS;
    *packs += f.h.type == MSG_PACKED;
    if (f.h.type != MSG_PACKED) continue;
    ck_assert_int_eq(msg_get_packed(&f, &m), DW_OK);
    ck_assert_uint_eq(m.commit_lsn, 10);
  }
  ck_assert_int_eq(r.failed, 0);
  frame_reader_free(&r);
  ck_assert(!did_close);
}

START_TEST(small_blocks_go_out_in_one_pack_and_big_ones_as_they_are) {
  unsigned blocks, packs;
  memlog_write(&ours, 3, 1, WAL_PACK_BLOCK_BYTES, sim_durable, 98, 0);
  memlog_write(&ours, 3, 1, 100, sim_durable, 99, 0);
  shipper_pack_rate(ship, 1u << 30);
  count_frames(2, &blocks, &packs);
  ck_assert_uint_eq(blocks, 1);
  ck_assert_uint_eq(packs, 2);
}
END_TEST

START_TEST(a_pack_is_bounded) {
  unsigned blocks, packs;
  for (unsigned i = 0; i < 45; i++) memlog_write(&ours, 3, 1, 8000, sim_durable, 100 + i, 0);
  shipper_pack_rate(ship, 1u << 30);
  count_frames(2, &blocks, &packs);
  ck_assert_uint_eq(blocks, 0);
  ck_assert_uint_eq(packs, 2);
}
END_TEST

START_TEST(a_follower_of_version_1_gets_no_packs) {
  unsigned blocks, packs;
  shipper_pack_rate(ship, 1u << 30);
  count_frames(1, &blocks, &packs);
  ck_assert_uint_eq(blocks, 1);
  ck_assert_uint_eq(packs, 0);
}
END_TEST

START_TEST(without_a_rate_there_are_no_packs_and_beyond_it_blocks_go_out_as_they_are) {
  unsigned blocks, packs;
  count_frames(2, &blocks, &packs);
  ck_assert_uint_eq(blocks, 1);
  ck_assert_uint_eq(packs, 0);
  ship_drain();
  shipper_pack_rate(ship, 1000); /* the burst: 50 bytes */
  size_t sent[4];
  for (unsigned i = 0; i < 4; i++) {
    memlog_write(&ours, 3, 1, 100, sim_durable, 50 + i, 0);
    shipper_log_grew(ship, &ours.end, now);
    ship_drive();
    sent[i] = shipper_output_bytes(ship);
    ship_drain();
    if (i == 1) now += 100 * SIM_MS; /* too early still */
    if (i == 2) now += 200 * SIM_MS;
  }
  size_t whole = MSG_HEADER_BYTES + MSG_BLOCKS_PREFIX_BYTES + block_total_bytes(&ours.blocks[ours.n - 1]->h);
  ck_assert_uint_lt(sent[0], whole);
  ck_assert_uint_eq(sent[1], whole);
  ck_assert_uint_eq(sent[2], whole);
  ck_assert_uint_lt(sent[3], whole);
}
END_TEST

/* A relay that was told to cut its log knows a commit_lsn of what came in its place before it has looked whether this
 * follower's place in the log is still there. */
START_TEST(a_heartbeat_tells_no_commit_of_a_log_that_was_not_read_yet) {
  struct msg_heartbeat m = {.commit_lsn = UINT64_MAX};
  struct frame_reader r;
  struct frame f;
  say_hello();
  ck_assert_uint_eq(shipper_sent(ship).lsn, 10);
  memlog_write(&ours, 3, 1, 100, sim_durable, 99, 0);
  shipper_log_grew(ship, &ours.end, now);
  shipper_commit(ship, 11, now);
  now += HB * SIM_MS; /* a heartbeat is due, the log not read yet */
  shipper_tick(ship, now);
  frame_reader_init(&r, 0xffffffffu);
  r.version = 1;
  struct iovec iov[4];
  int n = shipper_output(ship, iov, 4);
  for (int i = 0; i < n; i++) frame_reader_feed(&r, iov[i].iov_base, iov[i].iov_len);
  while (frame_reader_next(&r, &f) == DW_OK) {
    ck_assert_int_ne(f.h.type, MSG_COMMIT);
    if (f.h.type == MSG_HEARTBEAT) msg_get_heartbeat(&f, &m);
  }
  frame_reader_free(&r);
  ck_assert_uint_eq(m.commit_lsn, 10);
}
END_TEST

START_TEST(a_peer_we_do_not_listen_to_is_not_called_silent) {
  say_hello();
  for (uint64_t i = 0; i < 100000 && shipper_wants_input(ship); i++) {
    msg_put_probe(&out, &peer, &(struct msg_probe){i, i, 0});
    shipper_input(ship, out.data, out.len, now);
    out.len = 0;
    ship_drive();
  }
  for (int i = 0; i < 7; i++) { /* it takes our answers slowly; until then its words wait */
    now += 1000 * SIM_MS;
    shipper_drained(ship, 10, now);
    ship_drive();
  }
  ck_assert(!shipper_wants_input(ship));
  ck_assert(!did_close);
}
END_TEST

/* ---- against a receiver ---------------------------------------------------------------------- */

static struct receiver *recv_;
static struct wal_packer *packer;
static bool r_connected, r_closed;
static int r_code;
static char r_text[600];
static struct receiver_position r_pos;
static unsigned r_appended, r_truncated;
static int r_truncate_rc;
static bool r_hold_truncate;
static dw_lsn r_commit;

static struct recv_action r_part;
static unsigned r_parts;

static struct wal_pos r_at; /* of the last HELLO */

static void recv_drive(void);

static void note_hello(void) {
  struct iovec iov[8];
  struct frame_reader in = {0};
  struct frame f;
  struct msg_hello h;
  int n = receiver_output(recv_, iov, 8);
  frame_reader_init(&in, 0xffffffffu);
  for (int i = 0; i < n; i++) ck_assert_int_eq(frame_reader_feed(&in, iov[i].iov_base, iov[i].iov_len), DW_OK);
  while (frame_reader_next(&in, &f) == DW_OK)
    if (f.h.type == MSG_HELLO && msg_get_hello(&f, &h) == DW_OK) r_at = h.at;
  frame_reader_free(&in);
}

static void recv_setup(void) {
  make_log();
  struct receiver_config cfg = {.node_id = 2,
                                .incarnation = sim_id(2),
                                .heartbeat_ms = HB,
                                .peer_timeout_ms = LIMIT,
                                .seed = 5,
                                .primary = "1.2.3.4:5"};
  /* holds epoch 3's first five commits, has applied three */
  r_pos = (struct receiver_position){.has_cluster = true,
                                     .cluster_id = ours.cluster,
                                     .tail = memlog_bound(&ours, 6),
                                     .applied = memlog_bound(&ours, 4),
                                     .durable_lsn = 5,
                                     .commit_lsn = 3};
  ck_assert_int_eq(receiver_create(&cfg, now, &recv_), DW_OK);
  peer = (struct msg_sender){.version = 1, .epoch = 3, .node_id = 1};
  receiver_tick(recv_, now);
  recv_drive();
  ck_assert(r_connected);
}
static void recv_teardown(void) {
  wal_packer_free(packer);
  packer = NULL;
  receiver_destroy(recv_);
  memlog_free(&ours);
  buf_free(&out);
}

static void recv_drive(void) {
  struct recv_action a;
  size_t n;
  while ((n = receiver_output_bytes(recv_)) > 0 || receiver_next(recv_, &a)) {
    if (n) {
      note_hello();
      receiver_drained(recv_, n, now);
      continue;
    }
    switch (a.type) {
    case RECV_CONNECT:
      r_connected = true;
      receiver_connected(recv_, &r_pos, now);
      break;
    case RECV_APPEND: {
      struct block_header *h = &a.append.blocks[a.append.n - 1]->h;
      r_pos.tail = (struct wal_pos){block_last_lsn(h), h->epoch, h->chain};
      r_appended += (unsigned)a.append.n;
      receiver_appended(recv_, DW_OK, &r_pos.tail, NULL, now);
      break;
    }
    case RECV_SYNC: receiver_synced(recv_, DW_OK, r_pos.tail.lsn, NULL, now); break;
    case RECV_COMMIT: r_commit = a.commit_lsn; break;
    case RECV_TRUNCATE:
      r_truncated++;
      if (r_hold_truncate) break;
      receiver_truncated(recv_, r_truncate_rc, &r_pos, &r_pos.applied, NULL, now);
      break;
    case RECV_PART:
      r_parts++;
      r_part = a;
      break; /* the test answers */
    case RECV_CLOSE:
      r_closed = true;
      r_code = a.close.code;
      snprintf(r_text, sizeof r_text, "%s", a.close.text);
      break;
    case RECV_CKPT_BEGIN: {
      uint64_t offsets[4] = {0};
      receiver_ckpt_begun(recv_, DW_OK, offsets, NULL, now);
      break;
    }
    case RECV_ADOPT:
    case RECV_CKPT_WRITE:
    case RECV_CKPT_FILE_END:
    case RECV_CKPT_INSTALL: ck_abort_msg("not expected here"); break;
    default: break;
    }
  }
}

static void recv_say(void) {
  receiver_input(recv_, out.data, out.len, now);
  out.len = 0;
  recv_drive();
}

static struct msg_welcome good_welcome(void) {
  return (struct msg_welcome){.version = 1,
                              .follows = FOLLOWS_STREAM,
                              .role = DW_PRIMARY,
                              .heartbeat_ms = HB,
                              .cluster_id = ours.cluster,
                              .node_id = 1,
                              .incarnation = sim_id(1),
                              .epoch = 3,
                              .commit_lsn = 5,
                              .tail_lsn = 10,
                              .pos = memlog_bound(&ours, 6)};
}
static void say_welcome(const struct msg_welcome *w) {
  struct msg_sender s = peer;
  s.epoch = w->epoch;
  s.node_id = w->node_id;
  msg_put_welcome(&out, &s, w);
  recv_say();
}
static void say_blocks(size_t from, size_t to) {
  uint8_t head[MSG_HEADER_BYTES + MSG_BLOCKS_PREFIX_BYTES];
  size_t bytes = 0;
  for (size_t i = from; i < to; i++) bytes += block_total_bytes(&ours.blocks[i]->h);
  msg_blocks_head(&peer, 10, (uint32_t)(to - from), bytes, head);
  buf_append(&out, head, sizeof head);
  for (size_t i = from; i < to; i++) buf_append(&out, ours.blocks[i]->bytes, block_total_bytes(&ours.blocks[i]->h));
}

static void say_packed(size_t from, size_t to) {
  struct msg_packed m = {.commit_lsn = 10, .count = (uint32_t)(to - from), .chain = memlog_bound(&ours, to).chain};
  struct wal_pos before = memlog_bound(&ours, from);
  struct buf one = {0};
  ck_assert_int_eq(buf_reserve(&one, MSG_HEADER_BYTES + MSG_PACKED_PREFIX_BYTES), DW_OK);
  one.len = MSG_HEADER_BYTES + MSG_PACKED_PREFIX_BYTES;
  ck_assert_int_eq(wal_pack(packer, &before, ours.blocks + from, to - from, &one, &m.plain), DW_OK);
  msg_packed_head(&peer, &m, &one);
  buf_append(&out, one.data, one.len);
  buf_free(&one);
}
static void new_packer(void) {
  wal_packer_free(packer);
  ck_assert_int_eq(wal_packer_create(&packer), DW_OK);
}
/* A welcome in version 2, nothing said yet. */
static struct msg_welcome welcome_to_packs(void) {
  struct msg_welcome w = good_welcome();
  w.version = peer.version = MSG_VERSION_PACKED;
  new_packer();
  return w;
}

#define CLOSED(code, text)                                                                                             \
  do {                                                                                                                 \
    ck_assert(r_closed);                                                                                               \
    ck_assert_int_eq(r_code, code);                                                                                    \
    ck_assert_msg(strstr(r_text, text) != NULL, "%s", r_text);                                                         \
  } while (0)

START_TEST(an_honest_primary_is_followed) {
  struct msg_welcome w = good_welcome();
  say_welcome(&w);
  say_blocks(6, 11);
  recv_say();
  ck_assert(!r_closed);
  ck_assert_uint_eq(r_appended, 5);
  ck_assert_uint_eq(r_commit, 10);
}
END_TEST

START_TEST(packs_and_blocks_follow_each_other) {
  struct msg_welcome w = welcome_to_packs();
  say_welcome(&w);
  say_packed(6, 8);
  say_blocks(8, 9);
  say_packed(9, 11);
  recv_say();
  ck_assert_msg(!r_closed, "%s", r_text);
  ck_assert_uint_eq(r_appended, 5);
  ck_assert_uint_eq(r_commit, 10);
  ck_assert(hash128_eq(&r_pos.tail.chain, &ours.end.chain));
}
END_TEST

START_TEST(packs_were_not_agreed_on_in_version_1) {
  struct msg_welcome w = good_welcome();
  new_packer();
  say_welcome(&w);
  say_packed(6, 8);
  recv_say();
  CLOSED(DW_CORRUPT, "PACKED is out of place here");
  ck_assert_uint_eq(r_appended, 0);
}
END_TEST

START_TEST(a_pack_of_another_place_gives_nothing) {
  struct msg_welcome w = welcome_to_packs();
  say_welcome(&w);
  say_packed(7, 9); /* it would fit behind the next block */
  recv_say();
  CLOSED(DW_CORRUPT, "do not lead to the chain hash");
  ck_assert_uint_eq(r_appended, 0);
}
END_TEST

START_TEST(a_primary_of_an_older_epoch_is_not_followed) {
  struct msg_welcome w = good_welcome();
  w.epoch = 2;
  say_welcome(&w);
  CLOSED(DW_DIVERGED, "not the newest primary");
  ck_assert_int_eq(receiver_state(recv_), DW_PEER_REFUSED);
}
END_TEST

START_TEST(a_primary_whose_epoch_goes_back_is_left) {
  struct msg_welcome w = good_welcome();
  w.epoch = peer.epoch = 5;
  say_welcome(&w);
  peer.epoch = 4;
  msg_put_commit(&out, &peer, 7);
  recv_say();
  CLOSED(DW_DIVERGED, "epoch went back from 5 to 4");
}
END_TEST

START_TEST(blocks_from_another_place_than_our_end_are_not_taken) {
  struct msg_welcome w = good_welcome();
  w.pos = memlog_bound(&ours, 5);
  say_welcome(&w);
  CLOSED(DW_CORRUPT, "offers blocks after LSN 4");
}
END_TEST

START_TEST(an_order_to_cut_what_is_applied_is_refused) {
  struct msg_welcome w = good_welcome();
  w.follows = FOLLOWS_TRUNCATE;
  w.pos = memlog_bound(&ours, 3);
  say_welcome(&w);
  CLOSED(DW_DIVERGED, "LSN 3 is applied here");
  ck_assert_uint_eq(r_truncated, 0);
}
END_TEST

START_TEST(an_order_to_cut_an_applied_epoch_record_is_refused) {
  struct msg_welcome w = good_welcome();
  w.follows = FOLLOWS_TRUNCATE;
  w.pos = (struct wal_pos){.lsn = 3, .epoch = 2, .chain = sim_id(77)}; /* the LSN that is applied, an epoch before */
  say_welcome(&w);
  CLOSED(DW_DIVERGED, "LSN 3 of epoch 2, but LSN 3 is applied here (epoch 3)");
  ck_assert_uint_eq(r_truncated, 0);
}
END_TEST

/* A primary that lost its newest blocks with its power may write others under their numbers, and wait for acks. */
START_TEST(a_commit_lsn_beyond_our_log_is_not_passed_on_before_its_blocks_are_here) {
  struct msg_welcome w = good_welcome();
  w.commit_lsn = 10;
  say_welcome(&w);
  ck_assert_uint_eq(r_commit, 5);
  say_blocks(6, 8);
  recv_say();
  ck_assert_uint_eq(r_commit, 7);
  say_blocks(8, 11);
  recv_say();
  ck_assert_uint_eq(r_commit, 10);
}
END_TEST

/* An epoch record uses no LSN: the boundary before it has the same LSN as the one behind it. */
START_TEST(a_cut_just_behind_an_applied_epoch_record_is_carried_out_and_none_before_it) {
  struct msg_welcome w = good_welcome();
  w.follows = FOLLOWS_TRUNCATE;
  w.pos = r_pos.tail = memlog_bound(&ours, 5);
  r_pos.applied = memlog_bound(&ours, 1); /* just behind it */
  say_welcome(&w);
  ck_assert_uint_eq(r_truncated, 1);
  w.pos = memlog_bound(&ours, 0);
  ck_assert_uint_eq(w.pos.lsn, r_pos.applied.lsn);
  say_welcome(&w);
  CLOSED(DW_DIVERGED, "is applied here");
  ck_assert_uint_eq(r_truncated, 1);
}
END_TEST

START_TEST(a_checkpoint_older_than_what_is_applied_is_refused) {
  struct msg_welcome w = good_welcome();
  struct ckpt_manifest m = {.id = sim_id(9), .pos = memlog_bound(&ours, 3)};
  ckpt_manifest_add(&m, "x", 1);
  w.follows = FOLLOWS_BOOTSTRAP;
  w.pos = (struct wal_pos){0};
  say_welcome(&w);
  msg_put_ckpt_manifest(&out, &peer, &m);
  recv_say();
  CLOSED(DW_DIVERGED, "its checkpoint is of LSN 2, but LSN 3 is applied here");
  ckpt_manifest_free(&m);
}
END_TEST

START_TEST(a_parting_before_what_is_applied_is_refused_without_leave) {
  struct msg_welcome w = good_welcome();
  w.follows = FOLLOWS_BOOTSTRAP;
  w.pos = memlog_bound(&ours, 3); /* LSN 2; LSN 3 is applied */
  say_welcome(&w);
  CLOSED(DW_DIVERGED, "histories part after LSN 2, but LSN 3 is applied here");
  ck_assert_uint_eq(r_parts, 0);
}
END_TEST

/* Nothing of the checkpoint is looked at before what it replaces has been kept. */
START_TEST(what_lies_beyond_a_parting_is_kept_before_a_checkpoint_is_taken) {
  struct msg_welcome w = good_welcome();
  struct ckpt_manifest m = {.id = sim_id(9), .pos = memlog_bound(&ours, 8)};
  ckpt_manifest_add(&m, "x", 1);
  w.follows = FOLLOWS_BOOTSTRAP;
  w.pos = memlog_bound(&ours, 5);
  say_welcome(&w);
  ck_assert_uint_eq(r_parts, 1);
  ck_assert_uint_eq(r_part.part.pos.lsn, 4);
  ck_assert_uint_eq(r_part.part.peer_id, 1);
  ck_assert(!r_part.part.rejoin);
  msg_put_ckpt_manifest(&out, &peer, &m);
  recv_say();
  ck_assert_int_ne(receiver_state(recv_), DW_PEER_BOOTSTRAPPING);
  receiver_parted(recv_, DW_NO_SPACE, NULL, "the disk is full", now);
  recv_drive();
  CLOSED(DW_CLOSED, "parting with what only this node has failed: the disk is full");
  ckpt_manifest_free(&m);
}
END_TEST

static void redial(void) {
  r_closed = false;
  receiver_tick(recv_, now += LIMIT * 1000000ull);
  recv_drive();
}

/* Kept from a boundary that is not common, what lies before it would be lost. */
START_TEST(a_parting_that_is_none_of_ours_is_sought_further_back_on_the_next_connection) {
  struct msg_welcome w = good_welcome();
  struct wal_pos older = memlog_bound(&ours, 5), oldest = memlog_bound(&ours, 4);
  w.follows = FOLLOWS_BOOTSTRAP;
  w.pos = (struct wal_pos){5, 2, {{9}}};
  say_welcome(&w);
  ck_assert(hash128_eq(&r_at.chain, &r_pos.tail.chain));
  receiver_parted(recv_, DW_NOT_FOUND, &older, NULL, now);
  recv_drive();
  CLOSED(DW_STALE, "histories part before LSN 5 of epoch 2");
  redial();
  ck_assert(hash128_eq(&r_at.chain, &older.chain));
  say_welcome(&w);
  ck_assert_uint_eq(r_parts, 2);
  receiver_parted(recv_, DW_NOT_FOUND, &oldest, NULL, now);
  recv_drive();
  redial();
  ck_assert(hash128_eq(&r_at.chain, &oldest.chain));
  w.epoch++; /* what was found is not about this one */
  say_welcome(&w);
  CLOSED(DW_STALE, "asks anew");
  redial();
  ck_assert(hash128_eq(&r_at.chain, &r_pos.tail.chain));
}
END_TEST

START_TEST(a_second_manifest_in_one_transfer_is_refused) {
  struct msg_welcome w = good_welcome();
  struct ckpt_manifest m = {.id = sim_id(9), .pos = memlog_bound(&ours, 8)};
  ckpt_manifest_add(&m, "x", 1);
  w.follows = FOLLOWS_BOOTSTRAP;
  w.pos = (struct wal_pos){0};
  say_welcome(&w);
  msg_put_ckpt_manifest(&out, &peer, &m);
  recv_say();
  ck_assert(!r_closed);
  msg_put_ckpt_manifest(&out, &peer, &m);
  recv_say();
  CLOSED(DW_CORRUPT, "a second one");
  ckpt_manifest_free(&m);
}
END_TEST

START_TEST(bytes_behind_the_last_block_of_a_frame_are_not_overlooked) {
  struct msg_welcome w = good_welcome();
  say_welcome(&w);
  uint8_t head[MSG_HEADER_BYTES + MSG_BLOCKS_PREFIX_BYTES];
  size_t one = block_total_bytes(&ours.blocks[6]->h), two = block_total_bytes(&ours.blocks[7]->h);
  msg_blocks_head(&peer, 10, 1, one + two, head); /* says one, carries two */
  buf_append(&out, head, sizeof head);
  buf_append(&out, ours.blocks[6]->bytes, one);
  buf_append(&out, ours.blocks[7]->bytes, two);
  recv_say();
  CLOSED(DW_CORRUPT, "bytes too many");
}
END_TEST

START_TEST(orders_to_cut_without_end_are_not_followed_without_end) {
  r_truncate_rc = DW_NOT_FOUND;
  struct msg_welcome w = good_welcome();
  w.follows = FOLLOWS_TRUNCATE;
  w.pos = memlog_bound(&ours, 5);
  for (int i = 0; i < 40 && !r_closed; i++) say_welcome(&w);
  CLOSED(DW_DIVERGED, "no common position");
  ck_assert_uint_le(r_truncated, 16);
}
END_TEST

START_TEST(an_answer_that_comes_after_the_connection_ended_says_no_hello) {
  r_hold_truncate = true;
  struct msg_welcome w = good_welcome();
  w.follows = FOLLOWS_TRUNCATE;
  w.pos = memlog_bound(&ours, 5);
  say_welcome(&w);
  ck_assert_uint_eq(r_truncated, 1);
  receiver_eof(recv_, "gone", now);
  recv_drive();
  ck_assert(r_closed);
  r_connected = false;
  now += 3000 * SIM_MS;
  receiver_tick(recv_, now);
  recv_drive();
  ck_assert(!r_connected);
  receiver_truncated(recv_, DW_OK, &r_pos, NULL, NULL, now);
  ck_assert_int_eq(receiver_state(recv_), DW_PEER_CONNECTING); /* dials; had it said HELLO there would be output */
  ck_assert_uint_eq(receiver_output_bytes(recv_), 0);
  recv_drive();
  ck_assert(r_connected);
}
END_TEST

START_TEST(blocks_that_do_not_continue_the_log_are_not_appended) {
  struct msg_welcome w = good_welcome();
  say_welcome(&w);
  say_blocks(7, 8); /* one was skipped */
  recv_say();
  CLOSED(DW_CORRUPT, "a block of LSN 7 after LSN 5");
  ck_assert_uint_eq(r_appended, 0);
}
END_TEST

START_TEST(a_block_with_the_right_lsn_and_the_wrong_chain_is_not_appended) {
  struct msg_welcome w = good_welcome();
  say_welcome(&w);
  memlog_truncate(&ours, 6);
  ours.end.chain = sim_id(666);
  memlog_write(&ours, 3, 1, 100, sim_durable, 1, 0);
  say_blocks(6, 7);
  recv_say();
  CLOSED(DW_CORRUPT, "does not continue this log (chain hash)");
  ck_assert_uint_eq(r_appended, 0);
}
END_TEST

START_TEST(a_block_of_an_older_epoch_is_not_appended) {
  struct msg_welcome w = good_welcome();
  say_welcome(&w);
  memlog_truncate(&ours, 6);
  memlog_write(&ours, 2, 1, 100, sim_durable, 1, 0);
  say_blocks(6, 7);
  recv_say();
  CLOSED(DW_DIVERGED, "a block of epoch 2 after epoch 3");
}
END_TEST

START_TEST(an_answer_to_no_probe_ends_the_connection) {
  struct msg_welcome w = good_welcome();
  say_welcome(&w);
  msg_put_probe_answer(&out, &peer, &(struct msg_probe_answer){.id = 4711, .commit_lsn = 0});
  recv_say();
  CLOSED(DW_CORRUPT, "probe 4711, which was never sent");
}
END_TEST

START_TEST(a_due_ack_that_can_not_go_out_does_not_ask_for_ticks) {
  struct msg_welcome w = good_welcome();
  struct recv_action a;
  say_welcome(&w);
  while (receiver_output_bytes(recv_) < 5000) ck_assert_uint_ne(receiver_probe(recv_, 0, now), 0);
  receiver_applied(recv_, 4, now);
  for (int i = 0; i < 10; i++) { /* nothing is drained; each tick that it asks for lies ahead */
    uint64_t next = receiver_next_tick(recv_);
    ck_assert_uint_gt(next, now);
    now = next;
    receiver_tick(recv_, now);
    while (receiver_next(recv_, &a)) ck_assert_int_ne(a.type, RECV_CONNECT);
  }
}
END_TEST

START_TEST(blocks_before_welcome_are_out_of_place) {
  say_blocks(6, 7);
  recv_say();
  CLOSED(DW_CORRUPT, "BLOCKS is out of place here");
}
END_TEST

START_TEST(a_primary_with_our_own_node_id_is_refused) {
  struct msg_welcome w = good_welcome();
  w.node_id = 2;
  say_welcome(&w);
  CLOSED(DW_LOCKED, "same node id 2");
}
END_TEST

START_TEST(every_flipped_byte_from_a_primary_ends_the_connection_with_nothing_false_appended) {
  struct buf stream = {0};
  struct msg_welcome w = welcome_to_packs();
  msg_put_welcome(&stream, &peer, &w);
  out.len = 0;
  say_blocks(6, 8);
  say_packed(8, 9);
  buf_append(&stream, out.data, out.len);
  out.len = 0;
  msg_put_commit(&stream, &peer, 8);
  msg_put_probe_answer(&stream, &peer, &(struct msg_probe_answer){.id = 1, .commit_lsn = 8});
  msg_put_heartbeat(&stream, &peer, &(struct msg_heartbeat){8, 8});
  struct receiver_position before = r_pos;
  for (size_t i = 0; i < stream.len; i++) {
    receiver_destroy(recv_);
    memlog_free(&ours);
    r_closed = r_connected = false;
    recv_setup();
    r_pos = before;
    buf_append(&out, stream.data, stream.len);
    out.data[i] ^= 0x40;
    recv_say();
    ck_assert_msg(r_closed, "byte %zu", i);
    size_t at;
    ck_assert_int_eq(memlog_index(&ours, &r_pos.tail, &at), DW_OK); /* a boundary of the true history */
  }
  buf_free(&stream);
}
END_TEST

START_TEST(well_formed_nonsense_breaks_neither_side) {
  uint64_t rng = 88172645463325252ull;
  ship_setup();
  for (int i = 0; i < 30000; i++) {
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    unsigned type = 1 + (unsigned)(rng % (MSG_TYPES - 1));
    uint32_t min, max;
    uint8_t body[4200];
    msg_bounds(type, &min, &max);
    for (size_t k = 0; k < sizeof body; k++) body[k] = (uint8_t)((rng >> (k % 50)) & 1 ? 0 : rng >> (k % 40));
    if (max > sizeof body) max = sizeof body;
    size_t n = min + (size_t)((rng >> 20) % (max - min + 1));
    peer = (struct msg_sender){.version = 1, .epoch = 3, .node_id = rng & 1 ? 1 : 2};
    msg_put(&out, &peer, type, body, n);
    if (i & 1) {
      struct msg_hello h = good_hello();
      struct buf b = {0};
      peer.node_id = 2;
      bootstrap = (rng >> 9) & 1;
      msg_put_hello(&b, &peer, &h);
      shipper_input(ship, b.data, b.len, now);
      buf_free(&b);
      ship_drive();
      ship_say();
      if (did_close) {
        shipper_destroy(ship);
        memlog_free(&ours);
        did_close = false;
        ship_setup();
      }
    } else {
      peer.node_id = 1;
      struct buf b = {0};
      struct msg_welcome w = good_welcome();
      msg_put_welcome(&b, &peer, &w);
      receiver_input(recv_, b.data, b.len, now);
      buf_free(&b);
      recv_drive();
      recv_say();
      now += 20000 * SIM_MS;
      receiver_tick(recv_, now);
      recv_drive();
      receiver_tick(recv_, now);
      recv_drive();
    }
  }
  shipper_destroy(ship);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication_hostile");
  TCase *t = tcase_create("shipper");
  tcase_add_checked_fixture(t, ship_setup, ship_teardown);
  tcase_add_test(t, garbage_gets_no_answer_and_a_closed_connection);
  tcase_add_test(t, a_hello_that_trickles_is_not_waited_for_for_ever);
  tcase_add_test(t, a_refused_follower_is_told_why_before_the_connection_closes);
  tcase_add_test(t, a_refusal_nobody_reads_does_not_hold_the_connection);
  tcase_add_test(t, acks_count_up_to_what_was_sent_and_never_fall);
  tcase_add_test(t, frames_of_another_node_or_epoch_end_the_connection);
  tcase_add_test(t, a_follower_of_a_newer_epoch_unmasks_an_old_primary);
  tcase_add_test(t, a_follower_that_has_promised_a_newer_epoch_is_heard);
  tcase_add_test(t, a_new_follower_that_came_into_the_cluster_here_is_heard);
  tcase_add_test(t, a_stranger_that_has_not_said_whose_it_is_fences_nobody);
  tcase_add_test(t, messages_out_of_place_end_the_connection);
  tcase_add_test(t, a_flood_of_probes_waits_in_the_socket_not_in_memory);
  tcase_add_test(t, a_probe_that_runs_in_a_circle_is_not_answered);
  tcase_add_test(t, a_follower_that_never_finds_its_place_is_refused_after_bounded_rounds);
  tcase_add_test(t, another_node_can_not_take_over_a_connection);
  tcase_add_test(t, a_bootstrap_that_does_not_move_ends_although_its_peer_lives);
  tcase_add_test(t, a_checkpoint_is_not_dropped_for_a_lie);
  tcase_add_test(t, a_silent_follower_is_closed_and_a_beating_one_is_not);
  tcase_add_test(t, a_block_that_takes_long_on_a_slow_link_is_no_silence);
  tcase_add_test(t, blocks_are_batched_into_frames_of_bounded_size_and_carry_commit_lsn);
  tcase_add_test(t, small_blocks_go_out_in_one_pack_and_big_ones_as_they_are);
  tcase_add_test(t, a_pack_is_bounded);
  tcase_add_test(t, a_follower_of_version_1_gets_no_packs);
  tcase_add_test(t, without_a_rate_there_are_no_packs_and_beyond_it_blocks_go_out_as_they_are);
  tcase_add_test(t, a_heartbeat_tells_no_commit_of_a_log_that_was_not_read_yet);
  tcase_add_test(t, a_peer_we_do_not_listen_to_is_not_called_silent);
  suite_add_tcase(s, t);
  t = tcase_create("receiver");
  tcase_set_timeout(t, 60);
  tcase_add_checked_fixture(t, recv_setup, recv_teardown);
  tcase_add_test(t, an_honest_primary_is_followed);
  tcase_add_test(t, packs_and_blocks_follow_each_other);
  tcase_add_test(t, packs_were_not_agreed_on_in_version_1);
  tcase_add_test(t, a_pack_of_another_place_gives_nothing);
  tcase_add_test(t, a_primary_of_an_older_epoch_is_not_followed);
  tcase_add_test(t, a_primary_whose_epoch_goes_back_is_left);
  tcase_add_test(t, blocks_from_another_place_than_our_end_are_not_taken);
  tcase_add_test(t, an_order_to_cut_what_is_applied_is_refused);
  tcase_add_test(t, an_order_to_cut_an_applied_epoch_record_is_refused);
  tcase_add_test(t, a_commit_lsn_beyond_our_log_is_not_passed_on_before_its_blocks_are_here);
  tcase_add_test(t, a_cut_just_behind_an_applied_epoch_record_is_carried_out_and_none_before_it);
  tcase_add_test(t, a_checkpoint_older_than_what_is_applied_is_refused);
  tcase_add_test(t, a_parting_before_what_is_applied_is_refused_without_leave);
  tcase_add_test(t, what_lies_beyond_a_parting_is_kept_before_a_checkpoint_is_taken);
  tcase_add_test(t, a_parting_that_is_none_of_ours_is_sought_further_back_on_the_next_connection);
  tcase_add_test(t, a_second_manifest_in_one_transfer_is_refused);
  tcase_add_test(t, bytes_behind_the_last_block_of_a_frame_are_not_overlooked);
  tcase_add_test(t, orders_to_cut_without_end_are_not_followed_without_end);
  tcase_add_test(t, an_answer_that_comes_after_the_connection_ended_says_no_hello);
  tcase_add_test(t, blocks_that_do_not_continue_the_log_are_not_appended);
  tcase_add_test(t, a_block_with_the_right_lsn_and_the_wrong_chain_is_not_appended);
  tcase_add_test(t, a_block_of_an_older_epoch_is_not_appended);
  tcase_add_test(t, an_answer_to_no_probe_ends_the_connection);
  tcase_add_test(t, a_due_ack_that_can_not_go_out_does_not_ask_for_ticks);
  tcase_add_test(t, blocks_before_welcome_are_out_of_place);
  tcase_add_test(t, a_primary_with_our_own_node_id_is_refused);
  tcase_add_test(t, every_flipped_byte_from_a_primary_ends_the_connection_with_nothing_false_appended);
  tcase_add_test(t, well_formed_nonsense_breaks_neither_side);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
