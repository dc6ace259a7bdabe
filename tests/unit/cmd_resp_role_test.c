/* A RESP server whose node changes its role: who is named, what SENTINEL says, what subscribers hear, who is sent away.
 * One engine without a network; what it knows of others is made up by the hook that replication would fill the status
 * with. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/engine.h"
#include "replication/cmd/net.h"
#include "replication/cmd/resp_server.h"
#include "tests/support/check_main.h"
#include "tests/support/resp_talk.h"

static char dir[256];
static dw_engine *e;
static struct resp_server *server;
static int fd;

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg, (void)level, (void)line;
}

/* ---- what the node knows of others ---------------------------------------------------------------- */

static pthread_mutex_t known_mu = PTHREAD_MUTEX_INITIALIZER;
static char primary_client[64];
static uint64_t primary_node;
static dw_peer_state link_state;

static void know(uint64_t node, const char *client, dw_peer_state state) {
  pthread_mutex_lock(&known_mu);
  primary_node = node;
  snprintf(primary_client, sizeof primary_client, "%s", client);
  link_state = state;
  pthread_mutex_unlock(&known_mu);
}

static void nothing(void *ctx) {
  (void)ctx;
}
static void nothing_told(void *ctx, bool awaited) {
  (void)ctx, (void)awaited;
}
static int no_point(void *ctx, uint32_t ms, dw_lsn *lsn) {
  (void)ctx, (void)ms, (void)lsn;
  return DW_STALE;
}
static void fill_status(void *ctx, dw_status *s) {
  (void)ctx;
  pthread_mutex_lock(&known_mu);
  s->primary_node = primary_node;
  s->primary_state = link_state;
  snprintf(s->primary_client, sizeof s->primary_client, "%s", primary_client);
  s->member_count = 3;
  s->members[0] = (dw_member){.node_id = 1, .role = s->role, .priority = 100, .client_address = "*:6379"};
  s->members[1] = (dw_member){.node_id = 2, .role = DW_FOLLOWER, .priority = 50, .client_address = "10.0.0.2:6379"};
  s->members[2] = (dw_member){.node_id = 3, .role = DW_FOLLOWER, .priority = 0};
  s->follower_count = 1;
  s->followers[0] =
      (dw_follower_status){.node_id = 2, .address = "10.0.0.2:40000", .state = DW_PEER_STREAMING, .applied_lsn = 7};
  pthread_mutex_unlock(&known_mu);
}
static const struct replication_ops ops = {.log_grew = nothing_told,
                                           .commit_moved = nothing_told,
                                           .applied_moved = nothing,
                                           .strong_point = no_point,
                                           .status = fill_status};

static void setup(void) {
  snprintf(dir, sizeof dir, "%s/dw-resp-role-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  dw_options o;
  dw_options_init(&o);
  o.node_id = 1;
  o.durability = DW_DURABILITY_OS;
  o.log = quiet;
  struct engine_config config = {.env = env_posix(), .threads = true, .store = store_mem()};
  ck_assert_int_eq(engine_open(dir, &o, &config, &e), DW_OK);
  know(1, "*:6379", DW_PEER_DISCONNECTED);
  engine_attach(e, &ops, NULL);
  engine_fresh_as_of(e, UINT64_MAX - 1); /* never stale */
  struct resp_options ro = {.listen = "127.0.0.1:0", .cluster_name = "shop", .watch_ms = 1};
  ck_assert_int_eq(resp_server_start(e, &ro, &server), DW_OK);
  fd = talk_connect(resp_server_port(server));
}

static void teardown(void) {
  close(fd);
  dw_stop(e);
  resp_server_stop(server);
  engine_attach(e, NULL, NULL);
  ck_assert_int_eq(engine_close(e), DW_OK);
  env_remove_tree(env_posix(), dir);
}

static void reconnect(void) {
  close(fd);
  fd = talk_connect(resp_server_port(server));
}

static void age_the_view(void) { /* who is primary is looked up every 50 ms */
  usleep(60000);
}

static const char *ask(const char *command) {
  static char reply[20000];
  talk_send(fd, command);
  reply[talk_reply(fd, reply, sizeof reply - 1)] = 0;
  return reply;
}

#define EPOCH (1ull << 32)

static void fence(void) {
  know(2, "10.0.0.2:6379", DW_PEER_DISCONNECTED);
  ck_assert_int_eq(engine_promise(e, EPOCH, 2, "10.0.0.2:7400"), DW_OK);
}

/* ---- writes --------------------------------------------------------------------------------------- */

START_TEST(a_follower_names_the_primary_and_sends_those_away_who_knew_it_as_one) {
  talk(fd, "SET a 1\r\n", "+OK\r\n");
  fence();
  ck_assert_int_eq(engine_demote(e), DW_OK);
  know(2, "10.0.0.2:6379", DW_PEER_STREAMING);
  talk(fd, "SET a 2\r\nGET a\r\nMULTI\r\nSET b 1\r\nDISCARD\r\n",
       "-READONLY You can't write against a read only replica. primary=10.0.0.2:6379\r\n$1\r\n1\r\n+OK\r\n"
       "-READONLY You can't write against a read only replica. primary=10.0.0.2:6379\r\n+OK\r\n");
  talk_expect_end(fd); /* all that it had sent is answered */
  reconnect();
  talk(fd, "SET a 2\r\n", "-READONLY You can't write against a read only replica. primary=10.0.0.2:6379\r\n");
  know(0, "", DW_PEER_DISCONNECTED);
  age_the_view();
  talk(fd, "SET a 2\r\n", "-READONLY You can't write against a read only replica. primary=unknown\r\n");
  talk(fd, "GET a\r\nPING\r\n", "$1\r\n1\r\n+PONG\r\n"); /* came to a follower, may stay */
}
END_TEST

START_TEST(a_fenced_primary_names_epoch_and_successor_and_hangs_up) {
  talk(fd, "SET a 1\r\n", "+OK\r\n");
  ask("HELLO 2\r\n"); /* it has looked just now, when it was primary */
  fence();
  talk(fd, "SET a 2\r\nDW.WAIT 1 1000\r\nGET a\r\n", /* the second one takes a thread and a while */
       "-FENCED epoch=4294967296 primary=10.0.0.2:6379 nothing was done\r\n+OK\r\n$1\r\n1\r\n");
  talk_expect_end(fd);
  reconnect();
  talk(fd, "GET a\r\n", "$1\r\n1\r\n"); /* reads as before */
  talk(fd, "MULTI\r\nSET b 1\r\nEXEC\r\n",
       "+OK\r\n+QUEUED\r\n-FENCED epoch=4294967296 primary=10.0.0.2:6379 nothing was done\r\n");
  talk_expect_end(fd);
}
END_TEST

START_TEST(a_write_in_flight_when_its_primary_is_fenced_is_in_doubt) {
  struct ack_marks m = {.connected = 1};
  engine_acks(e, &m);
  talk_send(fd, "DW.MODE SYNC 1 TIMEOUT 60000\r\nSET a 1\r\nSET b 2\r\n");
  talk_expect(fd, "+OK\r\n");
  for (dw_status s = {0}; s.written_lsn < 2; usleep(1000)) dw_status_get(e, &s);
  fence();
  talk_expect(fd, "-FENCED epoch=4294967296 primary=10.0.0.2:6379 INDOUBT lsn=1: logged here, not acknowledged\r\n"
                  "-FENCED epoch=4294967296 primary=10.0.0.2:6379 INDOUBT lsn=2: logged here, not acknowledged\r\n");
  talk_expect_end(fd);
  reconnect();
  talk(fd, "DW.WAIT 2 1000\r\n",
       "-FENCED epoch=4294967296 primary=10.0.0.2:6379 INDOUBT lsn=2: logged here, not acknowledged\r\n");
  struct resp_metrics rm;
  resp_server_metrics(server, &rm);
  ck_assert_uint_eq(rm.indoubt_total, 3);
}
END_TEST

START_TEST(a_node_that_is_promoted_takes_writes_on_connections_it_had) {
  fence();
  ck_assert_int_eq(engine_demote(e), DW_OK);
  engine_fresh_as_of(e, UINT64_MAX - 1);
  reconnect();
  talk(fd, "DW.READ BOUNDED 1000\r\nGET a\r\n", "+OK\r\n$-1\r\n");
  ck_assert_int_eq(engine_promise(e, 2 * EPOCH, 1, ""), DW_OK);
  ck_assert_int_eq(engine_promote(e, 2 * EPOCH), DW_OK);
  know(1, "*:6379", DW_PEER_DISCONNECTED);
  talk(fd, "SET a 1\r\nGET a\r\nDW.READ STRONG\r\nGET a\r\n", "+OK\r\n$1\r\n1\r\n+OK\r\n$1\r\n1\r\n");
  ck_assert_str_eq(ask("ROLE\r\n"),
                   "*3\r\n$6\r\nmaster\r\n:1\r\n*1\r\n*3\r\n$8\r\n10.0.0.2\r\n$4\r\n6379\r\n$1\r\n7\r\n");
}
END_TEST

/* ---- asking --------------------------------------------------------------------------------------- */

START_TEST(role_info_and_hello_follow_the_role) {
  ck_assert_str_eq(ask("ROLE\r\n"),
                   "*3\r\n$6\r\nmaster\r\n:0\r\n*1\r\n*3\r\n$8\r\n10.0.0.2\r\n$4\r\n6379\r\n$1\r\n7\r\n");
  const char *info = ask("INFO replication\r\n");
  ck_assert_ptr_nonnull(strstr(info, "\r\nrole:master\r\n"));
  ck_assert_ptr_nonnull(strstr(info, "slave0:ip=10.0.0.2,port=6379,state=online"));
  ck_assert_ptr_nonnull(strstr(info, "dw_primary:127.0.0.1:6379\r\n")); /* as this client reached it */
  ck_assert_ptr_nonnull(strstr(info, "dw_fenced:0\r\n"));
  ck_assert_ptr_nonnull(strstr(ask("HELLO 2\r\n"), "$6\r\nmaster\r\n"));
  fence();
  age_the_view();
  ck_assert_str_eq(ask("ROLE\r\n"), "*5\r\n$5\r\nslave\r\n$8\r\n10.0.0.2\r\n:6379\r\n$7\r\nconnect\r\n:0\r\n");
  info = ask("INFO replication\r\n");
  ck_assert_ptr_nonnull(strstr(info, "\r\nrole:slave\r\n"));
  ck_assert_ptr_nonnull(strstr(info, "master_host:10.0.0.2\r\nmaster_port:6379\r\nmaster_link_status:down\r\n"));
  ck_assert_ptr_nonnull(strstr(info, "dw_fenced:1\r\n"));
  ck_assert_ptr_nonnull(strstr(info, "dw_promised_epoch:4294967296\r\n"));
  ck_assert_ptr_nonnull(strstr(ask("HELLO 2\r\n"), "$7\r\nreplica\r\n"));
  ck_assert_int_eq(engine_demote(e), DW_OK);
  know(2, "10.0.0.2:6379", DW_PEER_STREAMING);
  ck_assert_str_eq(ask("ROLE\r\n"), "*5\r\n$5\r\nslave\r\n$8\r\n10.0.0.2\r\n:6379\r\n$9\r\nconnected\r\n:0\r\n");
  ck_assert_ptr_nonnull(strstr(ask("INFO replication\r\n"), "master_link_status:up\r\n"));
  const char *status = ask("DW.STATUS\r\n");
  ck_assert_ptr_nonnull(strstr(status, "\"primary_client\":\"10.0.0.2:6379\""));
  ck_assert_ptr_nonnull(strstr(status, "\"promised_epoch\":4294967296"));
  ck_assert_ptr_nonnull(strstr(status, "\"reason\":\"created\""));
  talk(fd, "WAIT 1 1\r\n",
       "-ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is "
       "configured to be writable (which is not the default) writes to replicas are just local and are not "
       "propagated.\r\n");
}
END_TEST

START_TEST(sentinel_names_the_primary_under_the_clusters_name_only) {
  talk(fd, "SENTINEL get-master-addr-by-name shop\r\n", "*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n");
  talk(fd, "SENTINEL get-master-addr-by-name other\r\n", "*-1\r\n");
  talk(fd, "SENTINEL get-master-addr-by-name Shop\r\n", "*-1\r\n");
  know(2, "[fe80::1]:6379", DW_PEER_DISCONNECTED);
  talk(fd, "SENTINEL GET-MASTER-ADDR-BY-NAME shop\r\n", "*2\r\n$7\r\nfe80::1\r\n$4\r\n6379\r\n");
  know(0, "", DW_PEER_DISCONNECTED);
  talk(fd, "SENTINEL get-master-addr-by-name shop\r\n", "*-1\r\n");
  talk(fd, "SENTINEL master other\r\nSENTINEL replicas other\r\nSENTINEL ckquorum other\r\n",
       "-ERR No such master with that name\r\n-ERR No such master with that name\r\n-ERR No such master with that "
       "name\r\n");
  talk(fd, "SENTINEL nonsense\r\n", "-ERR unknown subcommand 'nonsense'. Try SENTINEL HELP.\r\n");
  talk(fd, "SENTINEL master\r\n", "-ERR wrong number of arguments for 'sentinel|master' command\r\n");
  talk(fd, "SENTINEL\r\n", "-ERR wrong number of arguments for 'sentinel' command\r\n");
}
END_TEST

START_TEST(sentinel_lists_what_the_node_knows) {
  const char *m = ask("SENTINEL master shop\r\n");
  ck_assert_ptr_nonnull(
      strstr(m, "$4\r\nname\r\n$4\r\nshop\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$4\r\nport\r\n$4\r\n6379\r\n"));
  ck_assert_ptr_nonnull(strstr(m, "$5\r\nflags\r\n$6\r\nmaster\r\n"));
  ck_assert_ptr_nonnull(strstr(m, "$10\r\nnum-slaves\r\n$1\r\n1\r\n"));
  ck_assert_ptr_nonnull(strstr(m, "$19\r\nnum-other-sentinels\r\n$1\r\n1\r\n")); /* node 3 serves no clients */
  ck_assert_int_eq(strncmp(ask("SENTINEL masters\r\n"), "*1\r\n*", 5), 0);
  const char *r = ask("SENTINEL replicas shop\r\n");
  ck_assert_int_eq(strncmp(r, "*1\r\n*", 5), 0);
  ck_assert_ptr_nonnull(strstr(r, "$4\r\nname\r\n$13\r\n10.0.0.2:6379\r\n"));
  ck_assert_ptr_nonnull(strstr(r, "$5\r\nflags\r\n$5\r\nslave\r\n"));
  ck_assert_ptr_nonnull(strstr(r, "$17\r\nslave-repl-offset\r\n$1\r\n7\r\n"));
  ck_assert_ptr_nonnull(strstr(r, "$14\r\nslave-priority\r\n$2\r\n50\r\n"));
  ck_assert_ptr_nonnull(strstr(ask("SENTINEL sentinels shop\r\n"), "$8\r\nsentinel\r\n"));
  talk(fd, "SENTINEL ckquorum shop\r\n", "+OK 2 usable Sentinels: every node that is connected is one\r\n");
  talk(fd, "SENTINEL myid\r\n", "$40\r\n0000000000000000000000000000000000000001\r\n");
  fence();
  ck_assert_int_eq(engine_demote(e), DW_OK); /* and no link to the new one yet */
  ck_assert_ptr_nonnull(strstr(ask("SENTINEL master shop\r\n"), "$13\r\nmaster,s_down\r\n"));
  talk(fd, "SENTINEL ckquorum shop\r\n", "-NOQUORUM this node is not in touch with the primary\r\n");
  know(2, "10.0.0.2:6379", DW_PEER_STREAMING);
  r = ask("SENTINEL slaves shop\r\n"); /* itself now, not the primary */
  ck_assert_int_eq(strncmp(r, "*1\r\n*", 5), 0);
  ck_assert_ptr_nonnull(strstr(r, "$4\r\nname\r\n$14\r\n127.0.0.1:6379\r\n"));
  ck_assert_ptr_nonnull(strstr(r, "$11\r\nmaster-host\r\n$8\r\n10.0.0.2\r\n"));
}
END_TEST

/* ---- news ----------------------------------------------------------------------------------------- */

START_TEST(subscribers_hear_of_another_primary) {
  int plain = fd, pattern = talk_connect(resp_server_port(server)), deaf = talk_connect(resp_server_port(server));
  talk(plain, "SUBSCRIBE +switch-master\r\n", "*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n");
  talk(pattern, "PSUBSCRIBE +s*\r\n", "*3\r\n$10\r\npsubscribe\r\n$3\r\n+s*\r\n:1\r\n");
  talk(deaf, "SUBSCRIBE other\r\n", "*3\r\n$9\r\nsubscribe\r\n$5\r\nother\r\n:1\r\n");
  know(2, "10.0.0.2:6379", DW_PEER_STREAMING);
  talk_expect(plain, "*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$33\r\nshop 127.0.0.1 6379 10.0.0.2 6379\r\n");
  talk_expect(pattern, "*4\r\n$8\r\npmessage\r\n$3\r\n+s*\r\n$14\r\n+switch-master\r\n$33\r\nshop 127.0.0.1 6379 "
                       "10.0.0.2 6379\r\n");
  know(0, "", DW_PEER_DISCONNECTED); /* not to know is no news */
  usleep(20000);
  know(3, "10.0.0.3:6379", DW_PEER_STREAMING);
  talk_expect(plain, "*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$32\r\nshop 10.0.0.2 6379 10.0.0.3 6379\r\n");
  talk(deaf, "PING\r\n", "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
  close(pattern);
  close(deaf);
}
END_TEST

START_TEST(a_subscribed_connection_is_for_listening) {
  talk(fd, "SUBSCRIBE a b a\r\n",
       "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"
       "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:2\r\n");
  talk(fd, "GET a\r\n",
       "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this "
       "context\r\n");
  talk(fd, "PING hi\r\n", "*2\r\n$4\r\npong\r\n$2\r\nhi\r\n");
  talk(fd, "UNSUBSCRIBE a nosuch\r\n",
       "*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$11\r\nunsubscribe\r\n$6\r\nnosuch\r\n:1\r\n");
  talk(fd, "PUNSUBSCRIBE\r\n", "*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:1\r\n");
  talk(fd, "UNSUBSCRIBE\r\n", "*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n");
  talk(fd, "GET a\r\n", "$-1\r\n");
  talk(fd, "SUBSCRIBE a\r\nRESET\r\nGET a\r\n", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n+RESET\r\n$-1\r\n");
  talk(fd, "MULTI\r\nSUBSCRIBE a\r\nEXEC\r\n",
       "+OK\r\n-ERR Command not allowed inside a transaction\r\n-EXECABORT Transaction discarded because of previous "
       "errors.\r\n");
  char name[200];
  memset(name, 'x', sizeof name);
  talk_send(fd, "SUBSCRIBE ");
  talk_send_n(fd, name, 129);
  talk(fd, "\r\n", "-ERR at most 32 subscriptions of 128 bytes\r\n");
  for (int i = 0; i < 33; i++) {
    char say[40], hear[80];
    snprintf(say, sizeof say, "SUBSCRIBE c%02d\r\n", i);
    snprintf(hear, sizeof hear, "*3\r\n$9\r\nsubscribe\r\n$3\r\nc%02d\r\n:%d\r\n", i, i + 1);
    talk(fd, say, i < 32 ? hear : "-ERR at most 32 subscriptions of 128 bytes\r\n");
  }
}
END_TEST

/* Each change of the primary is some kilobytes to this one, who reads none of it. */
START_TEST(a_subscriber_that_does_not_read_is_disconnected) {
  char address[32], say[80];
  int slow, small = 4096;
  snprintf(address, sizeof address, "127.0.0.1:%u", resp_server_port(server));
  ck_assert_int_eq(net_connect(address, 5000, &slow), DW_OK);
  setsockopt(slow, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  for (int i = 0; i < 32; i++) {
    int n = snprintf(say, sizeof say, "PSUBSCRIBE *%.*s\r\n", i, "********************************");
    ck_assert_int_eq(send(slow, say, (size_t)n, MSG_NOSIGNAL), n);
  }
  talk(fd, "SUBSCRIBE +switch-master\r\n", "*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n");
  struct resp_metrics m;
  char news[300];
  for (int i = 0; i < 20000; i++) { /* the kernel takes a few megabytes */
    char client[32];
    snprintf(client, sizeof client, "10.1.%d.%d:6379", i / 200, i % 200 + 1);
    know(2, client, DW_PEER_STREAMING);
    talk_reply(fd, news, sizeof news); /* the other one hears of each */
    resp_server_metrics(server, &m);
    if (m.connections == 1) break;
  }
  ck_assert_uint_eq(m.connections, 1);
  ck_assert_ptr_nonnull(strstr(news, "+switch-master"));
  close(slow);
}
END_TEST

int main(void) {
  Suite *s = suite_create("resp.role");
  TCase *t = tcase_create("role");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, a_follower_names_the_primary_and_sends_those_away_who_knew_it_as_one);
  tcase_add_test(t, a_fenced_primary_names_epoch_and_successor_and_hangs_up);
  tcase_add_test(t, a_write_in_flight_when_its_primary_is_fenced_is_in_doubt);
  tcase_add_test(t, a_node_that_is_promoted_takes_writes_on_connections_it_had);
  tcase_add_test(t, role_info_and_hello_follow_the_role);
  tcase_add_test(t, sentinel_names_the_primary_under_the_clusters_name_only);
  tcase_add_test(t, sentinel_lists_what_the_node_knows);
  tcase_add_test(t, subscribers_hear_of_another_primary);
  tcase_add_test(t, a_subscribed_connection_is_for_listening);
  tcase_add_test(t, a_subscriber_that_does_not_read_is_disconnected);
  suite_add_tcase(s, t);
  return check_main(s);
}
