/* One round each: what is done to the cluster, what must come of it, and how long that took. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/failover/failover.h"

typedef unsigned long long ull;

/* When the last line with this event was written, Unix ms, and how long it says it took; 0: there is none. */
static uint64_t audit_time(int i, const char *event, uint64_t *took_ms) {
  char path[600], line[4096], want[60];
  uint64_t at = 0;
  snprintf(path, sizeof path, "%s/audit.log", node[i].data);
  snprintf(want, sizeof want, "\"event\":\"%s\"", event);
  FILE *f = fopen(path, "r");
  while (f && fgets(line, sizeof line, f)) {
    struct tm tm = {0};
    const char *t = strstr(line, "\"time\":\""), *d = strstr(line, "\"duration_ms\":");
    if (!strstr(line, want) || !t || !d || !strptime(t + 8, "%Y-%m-%dT%H:%M:%S", &tm)) continue;
    at = (uint64_t)timegm(&tm) * 1000 + strtoull(t + 8 + 20, NULL, 10);
    *took_ms = strtoull(d + 14, NULL, 10);
  }
  if (f) fclose(f);
  return at;
}

/* ---- the primary is hurt, somebody else takes over ---------------------------------------------- */

static void hurt_it(const char *kind, int i) {
  if (is_partition(kind)) {
    partition_set(kind, i, true);
  } else if (strcmp(kind, "stop") == 0) {
    node_away(i);
    kill(node[i].pid, SIGSTOP);
  } else {
    node_kill9(i);
  }
}

static void heal(const char *kind, int i) {
  if (is_partition(kind)) {
    partition_set(kind, i, false);
  } else if (strcmp(kind, "stop") == 0) {
    kill(node[i].pid, SIGCONT);
    node_away(-1);
  } else {
    daemon_start(&node[i]);
  }
}

/* It had its whole lease, and none of it when the other one began. It stops after 4/5 of it, but for what the machine
 * takes to run it. */
static void check_lease(const char *kind, uint64_t began, uint64_t noticed_ms) {
  uint64_t last = load_last_there_us(), elsewhere = load_first_elsewhere_us(), ttl = settings.lease_ms;
  ck_assert_msg(noticed_ms + 1000 >= ttl, "%s: the lease was taken after %llu ms", kind, (ull)noticed_ms);
  ck_assert_msg(last < began + ttl * 1000 && load_last_asked_there_us() < elsewhere,
                "%s: the old primary acknowledged for %llu ms, the new one after %llu ms", kind,
                (ull)(last - began) / 1000, (ull)(elsewhere - began) / 1000);
}

static uint64_t failover(const char *kind, int number) {
  int old = leader();
  AWAIT("a primary", (old = leader()) >= 0);
  AWAIT("followers", all_follow(old));
  poll(NULL, 0, 600); /* some writes, a renewal: the rounds must not depend on each other */
  load_watch(old);
  uint64_t began = now_us(), wall = wall_ms(), took = 0;
  hurt_it(kind, old);
  load_forget_first();
  AWAIT("a write that another node acknowledges", load_first_elsewhere_us());
  uint64_t first = (load_first_elsewhere_us() - began) / 1000, noticed, promoted;
  int now = leader();
  AWAIT("the new primary", (now = leader()) >= 0 && now != old);
  noticed = audit_time(now, "lease-taken", &took) - took - wall;
  promoted = audit_time(now, "promoted", &took) - wall;
  if (strcmp(kind, "kill") != 0) check_lease(kind, began, noticed);
  uint64_t healing = now_us();
  heal(kind, old);
  AWAIT("the old primary to follow", all_follow(leader()));
  printf("%3d  %-7s node %d -> %d  noticed %5llu ms  promoted %5llu ms  first write %5llu ms  old one follows %5llu ms "
         "after it is back\n",
         number, kind, old + 1, now + 1, (ull)noticed, (ull)promoted, (ull)first, (ull)(now_us() - healing) / 1000);
  fflush(stdout);
  return first;
}

/* ---- planned ------------------------------------------------------------------------------------- */

static uint64_t switchover(int number) {
  char words[200];
  int from = leader();
  AWAIT("a primary", (from = leader()) >= 0);
  AWAIT("followers", all_follow(from));
  int to = (from + 1 + number / 2 % (NODES - 1)) % NODES; /* everybody gets everybody's place */
  const char *none = "127.0.0.1";
  snprintf(words, sizeof words, "switchover %s:%d %s:%d", node[from].host ? node[from].host : none,
           node[from].resp_port, node[to].host ? node[to].host : none, node[to].resp_port);
  poll(NULL, 0, 300);
  load_watch(from);
  load_gap_begin();
  uint64_t began = now_us();
  int code = tool(words, false);
  uint64_t asked = now_us();
  ck_assert_msg(code == 0, "dabbawal %s: exit code %d, see %s/tool.log", words, code, dir);
  AWAIT("a write that the new primary acknowledges", load_first_elsewhere_us());
  AWAIT("the lease to be its own, and followers", leader() == to && all_follow(to));
  ck_assert_msg(load_last_asked_there_us() < load_first_elsewhere_us(), "both acknowledged");
  uint64_t followed = now_us();
  poll(NULL, 0, 300);
  uint64_t gap = load_gap_us() / 1000;
  printf("%3d  switchover node %d -> %d  tool %4llu ms  writes paused %4llu ms  all follow after %4llu ms\n", number,
         from + 1, to + 1, (ull)(asked - began) / 1000, (ull)gap, (ull)(followed - began) / 1000);
  fflush(stdout);
  return gap ? gap : 1;
}

/* ---- without a new primary ------------------------------------------------------------------------ */

static void lose_coordinator(int number) {
  int l = leader();
  AWAIT("a primary", (l = leader()) >= 0);
  char reply[300];
  etcd_hang(true);
  AWAIT("the primary to go on without etcd", node_state_is(l, "kept"));
  poll(NULL, 0, (int)settings.lease_ms + 1000); /* longer than any lease */
  unsigned long before = load_acks();
  AWAIT("writes while etcd hangs", load_acks() > before + 100);
  int fd = resp_connect_to(node[l].host, node[l].resp_port, 60000);
  ck_assert(resp_ask(fd, reply, sizeof reply, "DW.MODE ASYNC"));
  ck_assert(resp_ask(fd, reply, sizeof reply, "SET async 1"));
  ck_assert_msg(strncmp(reply, "-NOREPLICAS the coordinator", 27) == 0, "%s", reply);
  etcd_hang(false);
  AWAIT("the primary to lead again", node_state_is(l, "leading"));
  AWAIT("all writes to be taken again", resp_ask(fd, reply, sizeof reply, "SET async 1") && strcmp(reply, "+OK") == 0);
  close(fd);
  printf("%3d  lose    node %d went on while etcd hung, refused async writes, and leads on\n", number, l + 1);
}

static void paused(int number) {
  ck_assert_int_eq(tool("pause", true), 0);
  int l = leader();
  AWAIT("a primary", (l = leader()) >= 0);
  AWAIT("the pause to be seen", node_state_is(l, "leading"));
  poll(NULL, 0, 600);
  node_kill9(l);
  for (uint64_t until = now_us() + settings.lease_ms * 1600ull; now_us() < until; poll(NULL, 0, 100))
    ck_assert_msg(leader() < 0, "node %d took over while failover was paused", leader() + 1);
  ck_assert_int_eq(tool("resume", true), 0);
  AWAIT("a failover after the pause", leader() >= 0);
  daemon_start(&node[l]);
  AWAIT("the old primary to follow", all_follow(leader()));
  printf("%3d  pause   node %d was not replaced while failover was paused\n", number, l + 1);
}

bool is_round(const char *kind) {
  static const char *const others[] = {"kill", "stop", "switchover", "lose", "pause"};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    if (strcmp(kind, others[i]) == 0) return true;
  return is_partition(kind);
}

uint64_t play_round(const char *kind, int number) {
  if (is_partition(kind) && !settings.namespaces && strcmp(kind, "cut") != 0) {
    fprintf(stderr, "failover: NO NETWORK NAMESPACES: round %d cuts off etcd alone, by a proxy, in place of %s\n",
            number, kind);
    kind = "cut";
  }
  if (strcmp(kind, "lose") == 0) return lose_coordinator(number), 0;
  if (strcmp(kind, "pause") == 0) return paused(number), 0;
  if (strcmp(kind, "switchover") == 0) return switchover(number);
  if (is_partition(kind) && !partition_fails_over(kind)) return partition_without_failover(kind, number), 0;
  return failover(kind, number);
}
