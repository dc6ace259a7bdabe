/* A Redis client with Sentinel support follows the primary through a promotion and a failover: redis-py (Debian's
 * python3-redis), in sentinel_client.py, which says what is to happen to the cluster and when. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "replication/cmd/net.h"
#include "replication/cmd/resp_server.h"
#include "tests/support/check_main.h"
#include "tests/support/cluster.h"
#include "tests/support/ports.h"

#define NODES 3
static struct cluster cluster;
static struct resp_server *server[NODES];
static char client_address[NODES][32], peers[256];
static unsigned port[NODES];

static void setup(void) {
  int bound[NODES];
  cluster_init(&cluster);
  for (int i = 0; i < NODES; i++) {
    char list[sizeof cluster.node[0].listen + 1];
    ck_assert_int_eq(net_bind("127.0.0.1:0", &bound[i], &port[i]), DW_OK);
    snprintf(client_address[i], sizeof client_address[i], "127.0.0.1:%u", port[i]);
    snprintf(list, sizeof list, "%s%s", i ? "," : "", cluster.node[i].listen);
    strcat(peers, list);
  }
  for (int i = 0; i < NODES; i++) {
    struct cluster_node *n = &cluster.node[i];
    n->opt.listen = n->listen;
    n->opt.client_address = client_address[i];
    n->opt.peers = peers;
    n->opt.mode = DW_SYNC;
    n->opt.acks = 1;
    n->opt.ack_timeout_ms = 3000;
    node_open(n);
    struct resp_options o = {.listen = "127.0.0.1:0", .bound = bound[i]};
    ck_assert_int_eq(resp_server_start(n->e, &o, &server[i]), DW_OK);
    ck_assert_uint_eq(resp_server_port(server[i]), port[i]);
  }
  await_streaming(&cluster.node[0], 2);
}

static void stop(int i) {
  if (!server[i]) return;
  dw_stop(cluster.node[i].e);
  resp_server_stop(server[i]);
  server[i] = NULL;
  node_close(&cluster.node[i]);
}

static void teardown(void) {
  for (int i = 0; i < NODES; i++) stop(i);
  cluster_free(&cluster);
}

/* ---- the script ------------------------------------------------------------------------------------ */

static FILE *from, *to;
static pid_t pid;

static void begin_script(void) {
  char text[NODES][16];
  int in[2], out[2];
  ck_assert_int_eq(pipe(in), 0);
  ck_assert_int_eq(pipe(out), 0);
  for (int i = 0; i < NODES; i++) snprintf(text[i], sizeof text[i], "%u", port[i]);
  pid = fork();
  ck_assert_int_ge(pid, 0);
  if (pid == 0) {
    dup2(in[0], 0);
    dup2(out[1], 1);
    close(in[1]);
    close(out[0]);
    execl("/usr/bin/python3", "python3", DW_GOLDEN_DIR "/../integration/sentinel_client.py", text[0], text[1], text[2],
          NULL);
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  to = fdopen(in[1], "w");
  from = fdopen(out[0], "r");
}

static void expect(const char *line) {
  char got[200] = "";
  if (!fgets(got, sizeof got, from)) snprintf(got, sizeof got, "nothing: it has ended, see above\n");
  got[strcspn(got, "\n")] = 0;
  ck_assert_str_eq(got, line);
}

static void go_on(void) {
  fputc('\n', to);
  fflush(to);
}

static void promote(int i) {
  int rc = dw_promote(cluster.node[i].e, NULL);
  if (rc) ck_abort_msg("node %d is not promoted: %s: %s", i, dw_rc_name(rc), dw_last_error());
}

START_TEST(a_client_with_sentinel_support_follows_the_primary) {
  begin_script();
  expect("promote the second");
  promote(1);
  go_on(); /* it may still write at the first one, which is fenced by now, or hears of it */
  int rc = dw_follow(cluster.node[0].e, cluster.node[1].listen);
  ck_assert_msg(rc == DW_OK, "%s: %s", dw_rc_name(rc), dw_last_error());
  expect("the second dies");
  await_streaming(&cluster.node[1], 2);
  stop(1);
  promote(2);
  go_on();
  expect("done");
  go_on();
  int status = 0;
  fclose(to);
  ck_assert_int_eq(waitpid(pid, &status, 0), pid);
  fclose(from);
  ck_assert_int_eq(status, 0);
}
END_TEST

int main(void) {
  Suite *s = suite_create("sentinel.client");
  TCase *t = tcase_create("client");
  signal(SIGPIPE, SIG_IGN);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, a_client_with_sentinel_support_follows_the_primary);
  tcase_set_timeout(t, 120);
  suite_add_tcase(s, t);
  return check_main(s);
}
