/* Who is in the cluster: the entry in HELLO and the MEMBERS message as bytes and under hostile hands, the table behind
 * them, and how it travels. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/members.h"
#include "tests/support/check_main.h"
#include "tests/support/repl_sim.h"
#include "wal/base/hash.h"

static const struct msg_sender me = {.version = 1, .epoch = 9, .node_id = 77};

static struct msg_member member(uint64_t id, dw_role role, const char *client) {
  struct msg_member m;
  memset(&m, 0, sizeof m);
  m.node_id = id;
  m.role = (uint8_t)role;
  m.priority = 100;
  snprintf(m.client, sizeof m.client, "%s", client);
  snprintf(m.listen, sizeof m.listen, "10.0.0.%u:7400", (unsigned)id % 200);
  snprintf(m.region, sizeof m.region, "eu");
  return m;
}

static struct msg_members three(void) {
  struct msg_members m;
  memset(&m, 0, sizeof m);
  m.count = 3;
  m.member[0] = member(77, DW_PRIMARY, "10.0.0.7:6379");
  m.member[1] = member(78, DW_FOLLOWER, "[fe80::1]:6379");
  m.member[2] = member(79, DW_FOLLOWER, "");
  return m;
}

/* ---- bytes ------------------------------------------------------------------------------------- */

static int decode(struct buf *b, struct msg_members *out) {
  struct frame_reader r;
  struct frame f;
  frame_reader_init(&r, UINT32_MAX);
  r.version = 1;
  ck_assert_int_eq(frame_reader_feed(&r, b->data, b->len), DW_OK);
  int rc = frame_reader_next(&r, &f);
  if (rc == DW_OK) rc = msg_get_members(&f, out);
  frame_reader_free(&r);
  return rc;
}

/* A right frame around any body. */
static int forged(const uint8_t *body, size_t n, struct msg_members *out) {
  struct buf b = {0};
  ck_assert_int_eq(msg_put(&b, &me, MSG_MEMBERS, body, n), DW_OK);
  int rc = decode(&b, out);
  buf_free(&b);
  return rc;
}

/* docs/protocol.md in numbers. */
START_TEST(the_bytes_of_members_are_the_documented_ones) {
  struct buf b = {0};
  struct msg_members m = three(), got;
  ck_assert_int_eq(msg_put_members(&b, &me, &m), DW_OK);
  ck_assert_uint_eq(b.len, MSG_HEADER_BYTES + 8 + 3 * 176);
  ck_assert_mem_eq(b.data, "DWM1\1\0\x16\0\x18\2\0\0\0\0\0\0\x09\0\0\0\0\0\0\0M\0\0\0\0\0\0\0", 32);
  const uint8_t *p = b.data + MSG_HEADER_BYTES;
  ck_assert_uint_eq(get_u32(p), 3);
  p += 8;
  ck_assert_uint_eq(get_u64(p), 77);
  ck_assert_uint_eq(p[8], 0);
  ck_assert_uint_eq(get_u32(p + 12), 100);
  ck_assert_str_eq((const char *)p + 16, "10.0.0.7:6379");
  ck_assert_str_eq((const char *)p + 80, "10.0.0.77:7400");
  ck_assert_str_eq((const char *)p + 144, "eu");
  ck_assert_uint_eq(p[176 + 8], 1);
  ck_assert_int_eq(decode(&b, &got), DW_OK);
  ck_assert_mem_eq(&got, &m, sizeof m);
  buf_free(&b);
}
END_TEST

START_TEST(hello_carries_the_senders_entry_behind_what_older_nodes_read) {
  struct msg_hello h = {.version_min = 1,
                        .version_max = 1,
                        .role = DW_FOLLOWER,
                        .heartbeat_ms = 500,
                        .node_id = 77,
                        .incarnation = sim_id(2)},
                   got;
  struct buf old = {0}, new = {0};
  ck_assert_int_eq(msg_put_hello(&old, &me, &h), DW_OK);
  h.has_member = true;
  h.member = member(77, DW_FOLLOWER, "db1.example:6379");
  ck_assert_int_eq(msg_put_hello(&new, &me, &h), DW_OK);
  ck_assert_uint_eq(old.len, MSG_HEADER_BYTES + 200);
  ck_assert_uint_eq(new.len, MSG_HEADER_BYTES + 376);
  ck_assert_mem_eq(new.data + MSG_HEADER_BYTES, old.data + MSG_HEADER_BYTES, 200);
  struct frame f = {.h = {.type = MSG_HELLO, .body_len = 376, .sender = 77}, .body = new.data + MSG_HEADER_BYTES};
  ck_assert_int_eq(msg_get_hello(&f, &got), DW_OK);
  ck_assert(got.has_member);
  ck_assert_str_eq(got.member.client, "db1.example:6379");
  f.h.body_len = 200; /* an older node's */
  ck_assert_int_eq(msg_get_hello(&f, &got), DW_OK);
  ck_assert(!got.has_member);
  f.h.body_len = 376;
  new.data[MSG_HEADER_BYTES + 200] = 78; /* speaks of somebody else */
  ck_assert_int_eq(msg_get_hello(&f, &got), DW_CORRUPT);
  buf_free(&old);
  buf_free(&new);
}
END_TEST

START_TEST(a_list_that_is_none_is_refused) {
  struct buf b = {0};
  struct msg_members m = three(), got;
  ck_assert_int_eq(msg_put_members(&b, &me, &m), DW_OK);
  uint8_t *body = b.data + MSG_HEADER_BYTES;
  const size_t n = b.len - MSG_HEADER_BYTES;
  ck_assert_int_eq(forged(body, n, &got), DW_OK);
  static const struct {
    size_t at;
    uint8_t byte;
    const char *what;
  } wrong[] = {{0, 2, "fewer than are there"},
               {0, 4, "more than are there"},
               {1, 1, "far more"},
               {0, 0, "none"},
               {4, 1, "reserved"},
               {8, 0, "node id zero"},
               {8 + 8, 2, "unknown role"},
               {8 + 9, 1, "reserved in an entry"},
               {8 + 176 + 8, 0, "two primaries"},
               {8 + 176, 77, "a node twice"},
               {8 + 16 + 40, 'x', "bytes behind the client address"},
               {8 + 144 + 31, 'x', "bytes behind the region"}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    uint8_t kept = body[wrong[i].at];
    body[wrong[i].at] = wrong[i].byte;
    int rc = forged(body, n, &got);
    body[wrong[i].at] = kept;
    ck_assert_msg(rc == DW_CORRUPT, "%s: %s", wrong[i].what, dw_rc_name(rc));
  }
  memset(body + 8 + 16, 'x', 64); /* not terminated */
  ck_assert_int_eq(forged(body, n, &got), DW_CORRUPT);
  uint32_t min, max;
  ck_assert(msg_bounds(MSG_MEMBERS, &min, &max));
  ck_assert_uint_eq(min, 8 + 176);
  ck_assert_uint_eq(max, 8 + 65 * 176);
  buf_free(&b);
}
END_TEST

/* They go into error replies, messages with blanks between fields, log lines. */
START_TEST(an_address_with_other_characters_is_none_and_a_region_is_made_printable) {
  static const char *const bad[] = {"a b:1",      "a:1\r\n+OK",  "10.0.0.1", "10.0.0.1:0", "10.0.0.1:99999",
                                    "fe80::1:70", "h\xc3\xa9:1", "x:1,y:1",  "$(x):1",     "a:b:1"};
  uint8_t bytes[MSG_MEMBER_BYTES];
  struct msg_member got;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct msg_member m = member(5, DW_FOLLOWER, bad[i]);
    snprintf(m.listen, sizeof m.listen, "%s", bad[i]);
    msg_member_encode(&m, bytes);
    ck_assert_int_eq(msg_member_decode(bytes, &got), DW_OK);
    ck_assert_msg(got.client[0] == 0 && got.listen[0] == 0, "'%s' was taken", bad[i]);
  }
  struct msg_member m = member(5, DW_FOLLOWER, "*:6379");
  snprintf(m.region, sizeof m.region, "eu\n\x1b[31m");
  msg_member_encode(&m, bytes);
  ck_assert_int_eq(msg_member_decode(bytes, &got), DW_OK);
  ck_assert_str_eq(got.client, "*:6379");
  ck_assert_str_eq(got.region, "eu??[31m");
}
END_TEST

/* ---- the table --------------------------------------------------------------------------------- */

static void filled(const char *said, const char *seen, const char *want) {
  char address[MSG_ADDRESS_BYTES] = {0};
  snprintf(address, sizeof address, "%s", said);
  members_fill_host(address, seen);
  ck_assert_str_eq(address, want);
}

START_TEST(a_host_that_is_none_becomes_the_one_it_was_seen_from) {
  filled("0.0.0.0:6379", "10.1.2.3:40000", "10.1.2.3:6379");
  filled("*:6379", "10.1.2.3:40000", "10.1.2.3:6379");
  filled(":6379", "10.1.2.3:40000", "10.1.2.3:6379");
  filled("[::]:6379", "[fe80::1]:40000", "[fe80::1]:6379");
  filled("db1:6379", "10.1.2.3:40000", "db1:6379");
  filled("", "10.1.2.3:40000", "");
  filled("0.0.0.0:6379", "", "0.0.0.0:6379");
}
END_TEST

static struct members table;

static bool renew(dw_role role, const struct msg_member *connected, size_t n) {
  struct msg_members next;
  members_begin(&table, role, &next);
  for (size_t i = 0; i < n; i++) members_add(&table, &next, &connected[i], "10.9.9.9:1");
  return members_end(&table, &next);
}

START_TEST(a_primarys_list_is_itself_and_who_is_connected) {
  struct msg_member self = member(77, DW_PRIMARY, "10.0.0.7:6379"),
                    others[] = {member(78, DW_FOLLOWER, "0.0.0.0:6379"), member(79, DW_PRIMARY, "h:1")};
  members_init(&table, &self);
  ck_assert(renew(DW_PRIMARY, NULL, 0));
  ck_assert(!renew(DW_PRIMARY, NULL, 0)); /* nothing new */
  ck_assert(renew(DW_PRIMARY, others, 2));
  ck_assert_uint_eq(table.list.count, 3);
  ck_assert_uint_eq(members_primary(&table.list)->node_id, 77);
  ck_assert_str_eq(members_find(&table.list, 78)->client, "10.9.9.9:6379");
  ck_assert_uint_eq(members_find(&table.list, 79)->role, DW_FOLLOWER); /* it follows us, whatever it says */
  ck_assert(renew(DW_PRIMARY, others, 1));
  ck_assert_ptr_null(members_find(&table.list, 79));
  ck_assert_ptr_nonnull(members_find(&table.known, 79)); /* a fenced primary names its successor with this */
}
END_TEST

START_TEST(a_follower_passes_on_what_it_was_told_and_adds_who_follows_it) {
  struct msg_member self = member(78, DW_FOLLOWER, "10.0.0.8:6379"), below = member(90, DW_FOLLOWER, "h90:1");
  struct msg_members told = three();
  snprintf(told.member[0].client, sizeof told.member[0].client, "0.0.0.0:6379");
  members_init(&table, &self);
  renew(DW_FOLLOWER, NULL, 0);
  ck_assert_ptr_null(members_primary(&table.list)); /* nobody has told yet */
  ck_assert_uint_eq(table.list.count, 1);
  members_told(&table, &told, "10.0.0.7:7400");
  ck_assert(renew(DW_FOLLOWER, &below, 1));
  ck_assert_uint_eq(table.list.count, 4);
  ck_assert_str_eq(members_primary(&table.list)->client, "10.0.0.7:6379");
  ck_assert_str_eq(members_find(&table.list, 90)->client, "h90:1");
  ck_assert_uint_eq(members_find(&table.list, 78)->role, DW_FOLLOWER);
}
END_TEST

START_TEST(a_promoted_follower_is_the_primary_of_its_list_and_a_demoted_one_none) {
  struct msg_member self = member(78, DW_FOLLOWER, "10.0.0.8:6379");
  struct msg_members told = three();
  members_init(&table, &self);
  members_told(&table, &told, "10.0.0.7:7400");
  renew(DW_FOLLOWER, NULL, 0);
  ck_assert(renew(DW_PRIMARY, NULL, 0));
  ck_assert_uint_eq(table.list.count, 1);
  ck_assert_uint_eq(members_primary(&table.list)->node_id, 78);
  told.member[0].role = DW_FOLLOWER; /* as an old list of its own time would say */
  told.member[1].role = DW_PRIMARY;
  members_told(&table, &told, "10.0.0.7:7400");
  renew(DW_FOLLOWER, NULL, 0);
  ck_assert_uint_eq(members_find(&table.list, 78)->role, DW_FOLLOWER);
  ck_assert_ptr_null(members_primary(&table.list));
}
END_TEST

START_TEST(lists_stay_within_their_bounds) {
  struct msg_member self = member(1, DW_PRIMARY, "h:1"), many[200];
  members_init(&table, &self);
  for (uint32_t round = 0; round < 3; round++) {
    for (uint32_t i = 0; i < 200; i++) many[i] = member(2 + i + 1000 * round, DW_FOLLOWER, "h:1");
    renew(DW_PRIMARY, many, 200);
    ck_assert_uint_eq(table.list.count, MSG_MEMBERS_MAX);
    ck_assert_uint_eq(table.list.member[0].node_id, 1);
    ck_assert_uint_eq(table.known.count, MSG_MEMBERS_MAX);
    ck_assert_ptr_nonnull(members_find(&table.known, 2 + 1000 * round)); /* the newest are known */
  }
}
END_TEST

/* ---- on its way -------------------------------------------------------------------------------- */

static struct sim sim;

START_TEST(a_follower_hears_the_list_at_once_and_whenever_it_changes) {
  sim_init(&sim, 42);
  struct sim_node *p = sim_primary(&sim, "p", 77);
  p->members = three();
  struct sim_node *f = sim_follower(&sim, "f", 2, p);
  sim_pass(&sim, 100);
  ck_assert_mem_eq(&f->members, &p->members, sizeof p->members);
  ck_assert(shipper_hello(f->link.ship)->has_member);
  ck_assert_uint_eq(shipper_hello(f->link.ship)->member.node_id, 2);
  ck_assert_str_eq(shipper_hello(f->link.ship)->member.region, "test");
  p->members.count = 1;
  memset(&p->members.member[1], 0, 2 * sizeof *p->members.member);
  shipper_members(f->link.ship, &p->members, sim.now);
  sim_pass(&sim, 1);
  ck_assert_mem_eq(&f->members, &p->members, sizeof p->members);
  ck_assert_uint_eq(f->closes, 0);
  sim_free(&sim);
}
END_TEST

/* A peer of before MEMBERS would take it for garbage: who has not said an entry of his own gets none. */
START_TEST(an_older_follower_is_told_nothing) {
  struct wal_pos tail = {.lsn = 0};
  struct shipper *s;
  struct shipper_config cfg = {.node_id = 77,
                               .cluster_id = sim_id(7),
                               .incarnation = sim_id(8),
                               .role = DW_PRIMARY,
                               .heartbeat_ms = 500,
                               .peer_timeout_ms = 5000,
                               .peer = "old"};
  struct msg_members m = three();
  for (int old = 1; old >= 0; old--) {
    ck_assert_int_eq(shipper_create(&cfg, &tail, 0, 1, &s), DW_OK);
    shipper_members(s, &m, 1);
    struct msg_hello h = {.version_min = 1,
                          .version_max = 1,
                          .role = DW_FOLLOWER,
                          .heartbeat_ms = 500,
                          .node_id = 5,
                          .incarnation = sim_id(2),
                          .has_member = !old,
                          .member = member(5, DW_FOLLOWER, "h:1")};
    struct buf b = {0};
    ck_assert_int_eq(msg_put_hello(&b, &(struct msg_sender){.node_id = 5}, &h), DW_OK);
    shipper_input(s, b.data, b.len, 1);
    buf_free(&b);
    struct ship_action a;
    while (shipper_next(s, &a) && a.type != SHIP_LOCATE) continue;
    struct position_decision d = {.kind = POSITION_STREAM};
    shipper_located(s, DW_OK, &d, NULL, 1);
    unsigned members = 0;
    struct iovec iov[16];
    int n = shipper_output(s, iov, 16);
    for (int i = 0; i < n; i++) { /* each small frame is a piece of its own, or several share one */
      const uint8_t *at = iov[i].iov_base;
      for (size_t off = 0; off + MSG_HEADER_BYTES <= iov[i].iov_len;) {
        members += get_u16(at + off + 6) == MSG_MEMBERS;
        off += MSG_HEADER_BYTES + get_u32(at + off + 8);
      }
    }
    ck_assert_uint_eq(members, old ? 0 : 1);
    shipper_destroy(s);
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication.members");
  TCase *t = tcase_create("members");
  tcase_add_test(t, the_bytes_of_members_are_the_documented_ones);
  tcase_add_test(t, hello_carries_the_senders_entry_behind_what_older_nodes_read);
  tcase_add_test(t, a_list_that_is_none_is_refused);
  tcase_add_test(t, an_address_with_other_characters_is_none_and_a_region_is_made_printable);
  tcase_add_test(t, a_host_that_is_none_becomes_the_one_it_was_seen_from);
  tcase_add_test(t, a_primarys_list_is_itself_and_who_is_connected);
  tcase_add_test(t, a_follower_passes_on_what_it_was_told_and_adds_who_follows_it);
  tcase_add_test(t, a_promoted_follower_is_the_primary_of_its_list_and_a_demoted_one_none);
  tcase_add_test(t, lists_stay_within_their_bounds);
  tcase_add_test(t, a_follower_hears_the_list_at_once_and_whenever_it_changes);
  tcase_add_test(t, an_older_follower_is_told_nothing);
  suite_add_tcase(s, t);
  return check_main(s);
}
