/* Each command's replies, byte for byte. What Redis also has is as redis-server 7.0 answers it (compared live when this
 * table was made); rows under "ours" are where the meaning differs, and say how. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replication/cmd/resp_server.h"
#include "tests/support/check_main.h"
#include "tests/support/cluster.h"
#include "tests/support/resp_talk.h"

static struct cluster cluster;
static struct resp_server *server;
static int fd;

static void setup(void) {
  cluster_init(&cluster);
  cluster.node[0].opt.durability = DW_DURABILITY_OS;
  node_open(&cluster.node[0]);
  struct resp_options opt = {.listen = "127.0.0.1:0"};
  ck_assert_int_eq(resp_server_start(cluster.node[0].e, &opt, &server), DW_OK);
  fd = talk_connect(resp_server_port(server));
}

static void teardown(void) {
  close(fd);
  resp_server_stop(server);
  cluster_free(&cluster);
}

#define USAGE_PROMOTE "-ERR usage: DW.PROMOTE [FORCE] [HANDOVER] [MAXLAG ms] [TIMEOUT ms]\r\n"
#define A63 "an-address-of-63-bytes-that-is-the-longest-that-can-be-told:637" /* DW_ADDRESS_BYTES - 1 */
#define A64 A63 "0"

static const struct {
  const char *say, *hear;
} rows[] = {
    /* connection */
    {"PING\r\nPING hello\r\nping a b\r\n",
     "+PONG\r\n$5\r\nhello\r\n-ERR wrong number of arguments for 'ping' command\r\n"},
    {"ECHO hi\r\nECHO\r\n", "$2\r\nhi\r\n-ERR wrong number of arguments for 'echo' command\r\n"},
    {"SELECT 0\r\nSELECT 16\r\nSELECT x\r\n",
     "+OK\r\n-ERR DB index is out of range\r\n-ERR value is not an integer or out of range\r\n"},
    {"RESET\r\n", "+RESET\r\n"},
    {"HELLO 3\r\nHELLO x\r\nHELLO 2 FOO\r\n",
     "-NOPROTO unsupported protocol version\r\n-ERR Protocol version is not an "
     "integer or out of range\r\n-ERR Syntax error in HELLO option 'FOO'\r\n"},
    {"HELLO\r\n",
     "*14\r\n$6\r\nserver\r\n$8\r\ndabbawal\r\n$7\r\nversion\r\n$5\r\n0.1.0\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n"
     ":1\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"},
    {"AUTH x\r\nAUTH default x\r\nAUTH me x\r\nAUTH a b c\r\n",
     "-ERR AUTH <password> called without any password configured for the default user. Are you sure your "
     "configuration "
     "is correct?\r\n+OK\r\n-WRONGPASS invalid username-password pair or user is disabled.\r\n-ERR syntax error\r\n"},
    {"CLIENT GETNAME\r\nCLIENT SETNAME foo\r\nCLIENT GETNAME\r\nCLIENT SETNAME \"a b\"\r\nCLIENT ID\r\n",
     "$-1\r\n+OK\r\n$3\r\nfoo\r\n-ERR Client names cannot contain spaces, newlines or special characters.\r\n:1\r\n"},
    {"CLIENT SETINFO LIB-NAME x\r\nCLIENT NO-EVICT ON\r\nCLIENT FOO\r\nCLIENT SETNAME\r\nCLIENT\r\n",
     "+OK\r\n+OK\r\n-ERR unknown subcommand 'FOO'. Try CLIENT HELP.\r\n-ERR wrong number of arguments for "
     "'client|setname' command\r\n-ERR wrong number of arguments for 'client' command\r\n"},
    {"COMMAND DOCS get\r\nCOMMAND INFO nosuch\r\nCOMMAND GETKEYS MSET a 1 b 2\r\n",
     "*0\r\n*1\r\n$-1\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n"},
    {"COMMAND INFO get\r\n",
     "*1\r\n*10\r\n$3\r\nget\r\n:2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n*0\r\n*0\r\n*0\r\n*0\r\n"},
    {"CONFIG GET save\r\nCONFIG GET maxmem*\r\nCONFIG GET nosuch\r\nCONFIG GET\r\n",
     "*2\r\n$4\r\nsave\r\n$0\r\n\r\n*4\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n$16\r\nmaxmemory-policy\r\n$"
     "10\r\nnoeviction\r\n*0\r\n"
     "-ERR wrong number of arguments for 'config|get' command\r\n"},
    /* keys */
    {"GET a\r\nSET a 1\r\nGET a\r\nGET\r\nGET a b\r\nSET a\r\n",
     "$-1\r\n+OK\r\n$1\r\n1\r\n-ERR wrong number of arguments for 'get' command\r\n-ERR wrong number of arguments for "
     "'get' command\r\n-ERR wrong number of arguments for 'set' command\r\n"},
    {"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\nGET k\r\nSTRLEN k\r\nEXISTS k\r\n", "+OK\r\n$0\r\n\r\n:0\r\n:1\r\n"},
    {"SET a 1 NX\r\nSET a 2 NX\r\nGET a\r\nSET b 1 XX\r\nGET b\r\nSET a 2 XX\r\nGET a\r\n",
     "+OK\r\n$-1\r\n$1\r\n1\r\n$-1\r\n$-1\r\n+OK\r\n$1\r\n2\r\n"},
    {"SET a 1 GET\r\nSET a 2 GET\r\nSET a 3 NX GET\r\nGET a\r\nSET b 1 XX GET\r\nGET b\r\n",
     "$-1\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n2\r\n$-1\r\n$-1\r\n"},
    {"SET a 1 NX XX\r\nSET a 1 FOO\r\nSET a 1 KEEPTTL\r\n", "-ERR syntax error\r\n-ERR syntax error\r\n+OK\r\n"},
    {"SETNX a 1\r\nSETNX a 2\r\nGET a\r\n", ":1\r\n:0\r\n$1\r\n1\r\n"},
    {"MSET a 1 b 2\r\nMGET a b c\r\nMSET a 1 b\r\nMGET\r\n",
     "+OK\r\n*3\r\n$1\r\n1\r\n$1\r\n2\r\n$-1\r\n-ERR wrong number of arguments for 'mset' command\r\n-ERR wrong number "
     "of "
     "arguments for 'mget' command\r\n"},
    {"DEL a b\r\nSET a 1\r\nDEL a a b\r\nDEL a\r\nUNLINK a\r\n", ":0\r\n+OK\r\n:1\r\n:0\r\n:0\r\n"},
    {"EXISTS a\r\nSET a 1\r\nEXISTS a a b\r\n", ":0\r\n+OK\r\n:2\r\n"},
    {"STRLEN a\r\nSET a hello\r\nSTRLEN a\r\nTYPE a\r\nTYPE b\r\nTTL a\r\nPTTL a\r\nTTL b\r\nPTTL b\r\n",
     ":0\r\n+OK\r\n:5\r\n+string\r\n+none\r\n:-1\r\n:-1\r\n:-2\r\n:-2\r\n"},
    {"DBSIZE\r\nMSET a 1 b 2 c 3\r\nDBSIZE\r\n", ":0\r\n+OK\r\n:3\r\n"},
    /* transactions */
    {"MULTI\r\nSET a 1\r\nGET a\r\nDEL a\r\nEXISTS a\r\nEXEC\r\n",
     "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*4\r\n+OK\r\n$1\r\n1\r\n:1\r\n:0\r\n"},
    {"MULTI\r\nMULTI\r\nDISCARD\r\n", "+OK\r\n-ERR MULTI calls can not be nested\r\n+OK\r\n"},
    {"EXEC\r\nDISCARD\r\n", "-ERR EXEC without MULTI\r\n-ERR DISCARD without MULTI\r\n"},
    {"MULTI\r\nGET\r\nSET a 1\r\nEXEC\r\nGET a\r\n",
     "+OK\r\n-ERR wrong number of arguments for 'get' command\r\n+QUEUED\r\n-EXECABORT Transaction discarded because "
     "of "
     "previous errors.\r\n$-1\r\n"},
    {"MULTI\r\nFOO\r\nEXEC\r\n",
     "+OK\r\n-ERR unknown command 'FOO', with args beginning with: \r\n-EXECABORT Transaction "
     "discarded because of previous errors.\r\n"},
    {"MULTI\r\nEXEC\r\n", "+OK\r\n*0\r\n"},
    {"MULTI\r\nSET a 1\r\nDISCARD\r\nGET a\r\n", "+OK\r\n+QUEUED\r\n+OK\r\n$-1\r\n"},
    {"MULTI\r\nPING\r\nECHO y\r\nSELECT 0\r\nEXEC\r\n",
     "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n+PONG\r\n$1\r\ny\r\n+OK\r\n"},
    {"MULTI\r\nSET a 1 NX\r\nSET a 2 NX\r\nSETNX a 3\r\nSET a 4 GET\r\nMGET a b\r\nSTRLEN a\r\nTYPE a\r\nTTL a\r\nTTL "
     "b\r\n"
     "MSET a 9 c 8\r\nGET a\r\nDEL a c c b\r\nEXISTS a\r\nEXEC\r\nGET a\r\n",
     "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+"
     "QUEUED\r\n"
     "+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*13\r\n+OK\r\n$-1\r\n:0\r\n$1\r\n1\r\n*2\r\n$1\r\n4\r\n$-1\r\n:1\r\n+string\r\n:"
     "-1\r\n"
     ":-2\r\n+OK\r\n$1\r\n9\r\n:2\r\n:0\r\n$-1\r\n"},
    {"MULTI\r\nSET a 1 FOO\r\nSET b 2\r\nEXEC\r\nGET b\r\n",
     "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n-ERR syntax error\r\n+OK\r\n$1\r\n2\r\n"},
    {"MULTI\r\nRESET\r\nEXEC\r\n", "+OK\r\n+RESET\r\n-ERR EXEC without MULTI\r\n"},
    {"MULTI\r\nWATCH a\r\nUNWATCH\r\nDISCARD\r\n",
     "+OK\r\n-ERR WATCH inside MULTI is not allowed\r\n+QUEUED\r\n+OK\r\n"},
    /* SCAN's arguments */
    {"SCAN 0\r\nSCAN x\r\nSCAN 0 COUNT\r\nSCAN 0 COUNT 0\r\nSCAN 0 COUNT x\r\nSCAN 0 FOO 1\r\nSCAN\r\n",
     "*2\r\n$1\r\n0\r\n*0\r\n-ERR invalid cursor\r\n-ERR syntax error\r\n-ERR syntax error\r\n-ERR value is not an "
     "integer or "
     "out of range\r\n-ERR syntax error\r\n-ERR wrong number of arguments for 'scan' command\r\n"},
    {"MSET a 1 b 2 ab 3\r\nSCAN 0\r\nSCAN 0 MATCH a*\r\nSCAN 0 TYPE string MATCH b\r\nSCAN 0 TYPE hash\r\n",
     "+OK\r\n*2\r\n$1\r\n0\r\n*3\r\n$1\r\na\r\n$2\r\nab\r\n$1\r\nb\r\n*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$2\r\nab\r\n*"
     "2\r\n$1\r\n0\r\n"
     "*1\r\n$1\r\nb\r\n*2\r\n$1\r\n0\r\n*0\r\n"},
    /* WAIT without followers */
    {"SET a 1\r\nWAIT 0 0\r\nWAIT 1 20\r\nWAIT 0 -1\r\nWAIT x 0\r\nWAIT 0 x\r\n",
     "+OK\r\n:0\r\n:0\r\n-ERR timeout is negative\r\n-ERR value is not an integer or out of range\r\n-ERR timeout is "
     "not an "
     "integer or out of range\r\n"},
    {"ROLE\r\n", "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"},
    /* unknown */
    {"FOO\r\nfoo bar \"x y\" z\r\n",
     "-ERR unknown command 'FOO', with args beginning with: \r\n-ERR unknown command 'foo', "
     "with args beginning with: 'bar' 'x y' 'z' \r\n"},
    /* ours: no expiry, no optimistic locks, no empty keys, no settings by CONFIG */
    {"SET a 1 EX 10\r\nGET a\r\n", "-ERR expiry is not supported\r\n$-1\r\n"},
    {"WATCH a\r\n", "-ERR WATCH is not supported: SET with NX or XX, or MULTI with reads, is one atomic step\r\n"},
    {"SET \"\" x\r\nGET \"\"\r\n",
     "-ERR empty key: keys are 1 to 65536 bytes\r\n-ERR empty key: keys are 1 to 65536 bytes\r\n"},
    {"CONFIG SET save x\r\n", "-ERR CONFIG SET is not supported: use the daemon's flags or its config file\r\n"},
    {"SCAN 12345\r\n", "-ERR invalid cursor: unknown or expired, start again at 0\r\n"},
    /* ours: LSNs, modes, consistency */
    {"DW.LSN\r\nSET a 1\r\nDW.LSN\r\nMSET a 1 b 2\r\nDW.LSN\r\nDEL nosuch\r\nDW.LSN\r\nDEL a b\r\nDW.LSN\r\n",
     ":0\r\n+OK\r\n:1\r\n+OK\r\n:2\r\n:0\r\n:2\r\n:2\r\n:3\r\n"},
    {"MULTI\r\nSET a 1\r\nSET b 2\r\nDEL a\r\nEXEC\r\nDW.LSN\r\n",
     "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n+OK\r\n+OK\r\n:1\r\n:1\r\n"},
    {"DW.READ EVENTUAL\r\nDW.READ BOUNDED 100\r\nDW.READ SESSION 0 WAIT 10\r\nDW.READ STRONG\r\nGET a\r\nDW.READ "
     "DEFAULT\r\n",
     "+OK\r\n+OK\r\n+OK\r\n+OK\r\n$-1\r\n+OK\r\n"},
    {"DW.READ SESSION 7\r\nGET a\r\n", "+OK\r\n-STALE applied_lsn=0 wanted_lsn=7\r\n"},
    {"DW.READ FOO\r\nDW.READ BOUNDED\r\nDW.READ BOUNDED x\r\nDW.READ STRONG WAIT\r\nDW.READ EVENTUAL 5\r\n",
     "-ERR usage: DW.READ <EVENTUAL|BOUNDED ms|SESSION lsn|STRONG|DEFAULT> [WAIT ms] (at most 60000 for STRONG)\r\n"
     "-ERR usage: DW.READ <EVENTUAL|BOUNDED ms|SESSION lsn|STRONG|DEFAULT> [WAIT ms] (at most 60000 for STRONG)\r\n"
     "-ERR usage: DW.READ <EVENTUAL|BOUNDED ms|SESSION lsn|STRONG|DEFAULT> [WAIT ms] (at most 60000 for STRONG)\r\n"
     "-ERR usage: DW.READ <EVENTUAL|BOUNDED ms|SESSION lsn|STRONG|DEFAULT> [WAIT ms] (at most 60000 for STRONG)\r\n"
     "-ERR usage: DW.READ <EVENTUAL|BOUNDED ms|SESSION lsn|STRONG|DEFAULT> [WAIT ms] (at most 60000 for STRONG)\r\n"},
    {"DW.MODE ASYNC\r\nDW.MODE SEMISYNC 1 RECEIVED\r\nDW.MODE SYNC 2 APPLIED TIMEOUT 50\r\nDW.MODE DEFAULT\r\nSET a "
     "1\r\n",
     "+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n"},
    {"DW.MODE SYNC\r\nDW.MODE SYNC 0\r\n",
     "-ERR usage: DW.MODE <ASYNC|SEMISYNC n|SYNC n|DEFAULT> [RECEIVED|DURABLE|APPLIED] [OS|DISK] [TIMEOUT ms]\r\n"
     "-ERR usage: DW.MODE <ASYNC|SEMISYNC n|SYNC n|DEFAULT> [RECEIVED|DURABLE|APPLIED] [OS|DISK] [TIMEOUT ms]\r\n"},
    {"DW.MODE SYNC 1\r\nSET a 1\r\nGET a\r\n",
     "+OK\r\n-NOREPLICAS Not enough good replicas to write. (sync mode asks for 1 "
     "followers, 0 connected: nothing was logged)\r\n$-1\r\n"},
    {"SET a 1\r\nDW.WAIT 1\r\nDW.WAIT 0\r\nDW.WAIT x\r\n",
     "+OK\r\n+OK\r\n-ERR LSN 0 is no commit\r\n-ERR usage: DW.WAIT lsn [ms]\r\n"},
    /* what operators type */
    {"DW.PROMOTE FOO\r\nDW.PROMOTE MAXLAG\r\nDW.PROMOTE MAXLAG 0\r\nDW.PROMOTE FORCE TIMEOUT 86400001\r\n",
     USAGE_PROMOTE USAGE_PROMOTE USAGE_PROMOTE USAGE_PROMOTE},
    {"DW.PROMOTE FORCE HANDOVER MAXLAG 5 TIMEOUT 5\r\n", "-ERR this node is the primary already\r\n"},
    {"DW.FOLLOW\r\nDW.FOLLOW " A64 "\r\n",
     "-ERR wrong number of arguments for 'dw.follow' command\r\n-ERR usage: DW.FOLLOW <host:port|NOBODY>\r\n"},
    {"DW.FOLLOW " A63 "\r\n", "+OK\r\n"},
    {"DW.REJOIN a b\r\nDW.REJOIN " A64 "\r\n",
     "-ERR usage: DW.REJOIN [host:port]\r\n-ERR usage: DW.REJOIN [host:port]\r\n"},
    {"DW.REJOIN\r\n", "-ERR no primary is named, and none is followed\r\n"},
    {"DW.DIVERGED\r\nDW.DIVERGED x\r\n", "*0\r\n-ERR wrong number of arguments for 'dw.diverged' command\r\n"},
    {"DW.CHECKSUM\r\n", "*3\r\n:0\r\n:0\r\n$32\r\n99aa06d3014798d86001c324468d497f\r\n"},
};

START_TEST(test_replies_are_these_bytes) {
  talk(fd, rows[_i].say, rows[_i].hear);
  talk(fd, "PING end\r\n", "$3\r\nend\r\n"); /* and nothing besides */
}
END_TEST

START_TEST(test_replies_are_the_same_byte_by_byte) {
  for (const char *c = rows[_i].say; *c; c++) {
    talk_send_n(fd, c, 1);
    if (*c == '\n') usleep(100); /* lets the server see pieces; nothing depends on it */
  }
  talk_expect(fd, rows[_i].hear);
}
END_TEST

/* What ends a connection: the answer, the end, and nobody else is disturbed. */
static const struct {
  const char *say, *hear;
} ends[] = {
    {"QUIT\r\nPING\r\n", "+OK\r\n"},
    {"*1\r\n$4\r\nPING\r\n*1\r\n:4\r\n", "+PONG\r\n-ERR Protocol error: expected '$', got ':'\r\n"},
    {"*x\r\n", "-ERR Protocol error: invalid multibulk length\r\n"},
    {"*1048577\r\n", "-ERR Protocol error: invalid multibulk length\r\n"},
    {"*1\r\n$-1\r\n", "-ERR Protocol error: invalid bulk length\r\n"},
    {"*1\r\n$67108865\r\n", "-ERR Protocol error: invalid bulk length\r\n"},
    {"SET a 1\r\nSET \"a\r\n", "+OK\r\n-ERR Protocol error: unbalanced quotes in request\r\n"},
    {"POST / HTTP/1.1\r\nPING\r\n", ""},
    {"GET / HTTP/1.1\r\nHost: x\r\nPING\r\n", ""},
};

START_TEST(test_wrong_input_ends_its_connection_only) {
  int other = talk_connect(resp_server_port(server));
  talk(fd, ends[_i].say, ends[_i].hear);
  talk_expect_end(fd);
  talk(other, "PING\r\n", "+PONG\r\n");
  close(other);
}
END_TEST

static bool contains(const char *text, const char *part) {
  bool there = strstr(text, part) != NULL;
  if (!there) fprintf(stderr, "%s is not in:\n%s\n", part, text);
  return there;
}

START_TEST(test_info_speaks_redis_field_names) {
  static char got[16384];
  talk(fd, "SET a 1\r\n", "+OK\r\n");
  talk_send(fd, "INFO\r\n");
  talk_reply(fd, got, sizeof got);
  static const char *const parts[] = {"# Server\r\nredis_version:7.",
                                      "\r\nrun_id:",
                                      "# Clients\r\nconnected_clients:1\r\n",
                                      "# Memory\r\nused_memory:",
                                      "# Stats\r\ntotal_connections_received:1\r\n",
                                      "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n",
                                      "\r\nmaster_repl_offset:1\r\n",
                                      "\r\nmaster_replid:",
                                      "\r\ndw_commit_lsn:1\r\n",
                                      "# Keyspace\r\ndb0:keys="};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) ck_assert(contains(got, parts[i]));
  talk_send(fd, "INFO replication\r\n");
  talk_reply(fd, got, sizeof got);
  ck_assert(strstr(got, "# Server") == NULL);
  ck_assert(contains(got, "role:master"));
  talk_send(fd, "INFO nosuch\r\n");
  talk_reply(fd, got, sizeof got);
  ck_assert_str_eq(got, "$0\r\n\r\n");
}
END_TEST

START_TEST(test_status_is_json) {
  static char got[16384];
  talk_send(fd, "DW.STATUS\r\n");
  talk_reply(fd, got, sizeof got);
  ck_assert(contains(got, "\r\n{"));
  ck_assert(contains(got, "\"role\""));
}
END_TEST

START_TEST(test_a_checksum_tells_data_apart_and_names_its_lsn) {
  char first[200], second[200], third[200];
  talk(fd, "MSET a 1 b 2\r\n", "+OK\r\n");
  talk_send(fd, "DW.CHECKSUM\r\n");
  talk_reply(fd, first, sizeof first);
  ck_assert(contains(first, "*3\r\n:2\r\n:1\r\n$32\r\n"));
  talk(fd, "MSET a 12 b \"\"\r\n", "+OK\r\n"); /* the same bytes in a row, divided otherwise */
  talk_send(fd, "DW.CHECKSUM\r\n");
  talk_reply(fd, second, sizeof second);
  ck_assert_str_ne(strstr(first, "$32"), strstr(second, "$32"));
  talk(fd, "MSET a 1 b 2\r\n", "+OK\r\n");
  talk_send(fd, "DW.CHECKSUM\r\n");
  talk_reply(fd, third, sizeof third);
  ck_assert_str_eq(strstr(first, "$32"), strstr(third, "$32"));
}
END_TEST

START_TEST(test_metrics_count_by_command) {
  struct resp_metrics m;
  talk(fd, "SET a 1\r\nGET a\r\nGET b\r\nFOO\r\n",
       "+OK\r\n$1\r\n1\r\n$-1\r\n-ERR unknown command 'FOO', with args beginning with: \r\n");
  resp_server_metrics(server, &m);
  ck_assert_uint_eq(m.connections, 1);
  ck_assert_uint_eq(m.commands_total, 4);
  ck_assert_uint_eq(m.errors_total, 1);
  ck_assert_uint_eq(m.reads_total, 2);
  ck_assert_uint_eq(m.writes_total, 1);
  ck_assert_uint_eq(m.command_count, 2);
  ck_assert_str_eq(m.by_command[0].name, "get");
  ck_assert_uint_eq(m.by_command[0].calls, 2);
}
END_TEST

#define REFUSED(n)                                                                                                     \
  "-NOREPLICAS the coordinator is out of reach: only sync writes with " #n " acks are taken; certainly not done\r\n"

START_TEST(test_restricted_it_takes_only_writes_that_followers_confirm) {
  char reply[300];
  resp_server_restrict(server, 1);
  talk(fd, "SET a 1\r\n", REFUSED(1)); /* the engine's default is async */
  talk(fd, "DW.MODE SEMISYNC 1\r\nSET a 1\r\n", "+OK\r\n" REFUSED(1));
  talk(fd, "DW.MODE SYNC 1 RECEIVED\r\nSET a 1\r\n", "+OK\r\n" REFUSED(1));
  talk(fd, "DW.MODE SYNC 1\r\n", "+OK\r\n");
  talk_send(fd, "SET a 1\r\n"); /* goes to the engine, which has no followers */
  talk_reply(fd, reply, sizeof reply);
  ck_assert(strncmp(reply, "-NOREPLICAS Not enough good replicas to write.", 46) == 0);
  resp_server_restrict(server, 2);
  talk(fd, "SET a 1\r\n", REFUSED(2));
  talk(fd, "GET a\r\n", "$-1\r\n");
  resp_server_restrict(server, 0);
  talk(fd, "DW.MODE ASYNC\r\nSET a 1\r\n", "+OK\r\n+OK\r\n");
}
END_TEST

int main(void) {
  Suite *s = suite_create("cmd_resp_commands");
  TCase *t = tcase_create("table");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_loop_test(t, test_replies_are_these_bytes, 0, sizeof rows / sizeof *rows);
  tcase_add_loop_test(t, test_replies_are_the_same_byte_by_byte, 0, sizeof rows / sizeof *rows);
  tcase_add_loop_test(t, test_wrong_input_ends_its_connection_only, 0, sizeof ends / sizeof *ends);
  suite_add_tcase(s, t);
  t = tcase_create("reports");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, test_info_speaks_redis_field_names);
  tcase_add_test(t, test_status_is_json);
  tcase_add_test(t, test_a_checksum_tells_data_apart_and_names_its_lsn);
  tcase_add_test(t, test_metrics_count_by_command);
  tcase_add_test(t, test_restricted_it_takes_only_writes_that_followers_confirm);
  suite_add_tcase(s, t);
  return check_main(s);
}
