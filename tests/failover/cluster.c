/* etcd and three daemons. In namespaces: node i is 10.77.0.i, etcd 10.77.0.100, this program and its clients
 * 10.77.0.254. Without: all on loopback, and each node reaches etcd through a proxy.
 */
#include <check.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/failover/failover.h"
#include "tests/support/etcd_proc.h"
#include "tests/support/netns.h"
#include "tests/support/ports.h"
#include "tests/support/proxy.h"

#define ETCD_HOST 100
#define PATIENCE_MS 700

char dir[256];
struct daemon_proc node[NODES];
static struct etcd_proc etcd;
static struct proxy *to_etcd[NODES];
static atomic_int away = -1;
static atomic_uint life[NODES];

/* ---- asking ----------------------------------------------------------------------------------- */

bool node_ask(int i, char *reply, size_t cap, const char *words) {
  int fd = resp_connect_to(node[i].host, node[i].resp_port, PATIENCE_MS);
  bool ok = fd >= 0 && resp_ask(fd, reply, cap, "%s", words);
  if (!ok) reply[0] = 0;
  if (fd >= 0) close(fd);
  return ok;
}

bool node_is(int i, const char *name, const char *value) {
  char reply[20000], wanted[120];
  node_ask(i, reply, sizeof reply, "DW.STATUS");
  snprintf(wanted, sizeof wanted, "\"%s\":\"%s\"", name, value);
  return strstr(reply, wanted) != NULL;
}

bool node_state_is(int i, const char *state) {
  return node_is(i, "coordinator\":{\"state", state);
}

int leader(void) {
  for (int i = 0; i < NODES; i++)
    if (node[i].pid > 0 && i != atomic_load(&away) && node_state_is(i, "leading")) return i;
  return -1;
}

bool all_follow(int primary) {
  for (int i = 0; i < NODES; i++)
    if (i != primary && !(node_is(i, "role", "follower") && node_is(i, "primary_state", "streaming"))) return false;
  return primary >= 0;
}

void node_away(int i) {
  atomic_store(&away, i);
}

unsigned node_life(int i) {
  return atomic_load(&life[i]);
}

/* ---- doing ------------------------------------------------------------------------------------ */

/* A connection that was made between the two belongs to neither life. */
void node_kill9(int i) {
  atomic_fetch_add(&life[i], 1);
  daemon_kill9(&node[i]);
  atomic_fetch_add(&life[i], 1);
}

void etcd_hang(bool on) {
  etcd_pause(&etcd, on);
}

int tool(const char *words, bool about_cluster) {
  char self[512] = "", command[1200], more[200] = "";
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  for (int up = 0; n > 0 && up < 2; up++) *strrchr(self, '/') = 0;
  if (about_cluster)
    snprintf(more, sizeof more, " --coordinator etcd://%s:%d --cluster-name demo", etcd.host ? etcd.host : "127.0.0.1",
             etcd.client_port);
  snprintf(command, sizeof command, "%s/dabbawal %s%s >>%s/tool.log 2>&1", self, words, more, dir);
  int status = system(command);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static int host_of(int who) {
  return who == CLIENTS ? NET_CLIENTS : who == ETCD ? ETCD_HOST : who + 1;
}

void cluster_pass(int from, int to, bool on) {
  if (settings.namespaces)
    net_pass(host_of(from), host_of(to), on);
  else if (from >= 0 && to == ETCD)
    proxy_mode(to_etcd[from], on ? PROXY_PASS : PROXY_STALL);
}

void cluster_plug(int i, bool on) {
  net_plug(host_of(i), on);
}

/* ---- life --------------------------------------------------------------------------------------- */

static void place(int i) {
  struct daemon_proc *d = &node[i];
  d->exe = i == 0 ? "dabbawal-primary" : "dabbawal-follower";
  snprintf(d->data, sizeof d->data, "%s/n%d", dir, i + 1);
  d->listen_port = test_pick_port();
  d->resp_port = test_pick_port();
  d->http_port = test_pick_port();
  if (settings.namespaces) {
    d->netns = net_add(host_of(i));
    d->host = net_address(host_of(i));
  } else {
    to_etcd[i] = proxy_start((uint16_t)etcd.client_port);
  }
}

static void configure(int i) {
  struct daemon_proc *d = &node[i], *a = &node[(i + 1) % NODES], *b = &node[(i + 2) % NODES];
  const char *none = "127.0.0.1";
  if (i) daemon_add_flag(d, "--listen=%s:%d", d->host ? d->host : none, d->listen_port);
  daemon_add_flag(d, "--node-id=%d", i + 1);
  daemon_add_flag(d, "--peers=%s:%d,%s:%d", a->host ? a->host : none, a->listen_port, b->host ? b->host : none,
                  b->listen_port);
  if (settings.namespaces)
    daemon_add_flag(d, "--coordinator=etcd://%s:%d", etcd.host, etcd.client_port);
  else
    daemon_add_flag(d, "--coordinator=etcd://127.0.0.1:%d", proxy_port(to_etcd[i]));
  daemon_add_flag(d, "--cluster-name=demo");
  daemon_add_flag(d, "--mode=sync");
  daemon_add_flag(d, "--acks=%d", settings.acks);
  daemon_add_flag(d, "--ack-timeout=2000");
  daemon_add_flag(d, "--lease-ttl=%ums", settings.lease_ms);
  if (settings.keep) daemon_add_flag(d, "--on-coordinator-loss=keep");
  daemon_add_flag(d, "--failover-cooldown=0");
  daemon_add_flag(d, "--max-failovers-per-hour=0");
}

void cluster_start(void) {
  if (settings.namespaces) {
    etcd.netns = net_add(ETCD_HOST);
    etcd.host = net_address(ETCD_HOST);
  }
  etcd_start(&etcd, dir);
  for (int i = 0; i < NODES; i++) place(i);
  for (int i = 0; i < NODES; i++) {
    configure(i);
    daemon_start(&node[i]);
  }
  AWAIT("a first primary", leader() >= 0);
  AWAIT("followers", all_follow(leader()));
}

int cluster_stop(void) {
  int bad = 0;
  for (int i = 0; i < NODES; i++) bad |= daemon_stop(&node[i]);
  etcd_kill9(&etcd);
  for (int i = 0; i < NODES; i++) proxy_stop(to_etcd[i]), to_etcd[i] = NULL;
  return bad;
}

void cluster_kill(void) {
  for (int i = 0; i < NODES; i++) daemon_kill9(&node[i]);
  etcd_kill9(&etcd);
}

void cluster_signalled(void) {
  for (int i = 0; i < NODES; i++)
    if (node[i].pid > 0) kill(node[i].pid, SIGKILL);
  if (etcd.pid > 0) kill(etcd.pid, SIGKILL);
}
