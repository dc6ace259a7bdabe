/* Automatic failover with real processes: etcd, three daemons, eight writers that go to whoever takes writes.
 *
 *   dw_failover [--rounds kill,cut,stop,lose,pause,...] [--acks N] [--keep]
 *
 * Each round hurts the primary - kill -9; cut off from etcd; SIGSTOP until somebody else has taken over - waits for the
 * first write that is acknowledged by another node, heals, and waits until the old primary follows. At the end every
 * acknowledged write is looked for, all nodes are compared, and the audit logs are verified. Exit code 0: nothing was
 * lost.
 *
 * Two rounds are of another kind. lose (with --keep): etcd hangs for longer than a lease; the primary goes on, takes no
 * write that followers do not confirm, and is still primary when etcd is back. pause: failover is paused by the command
 * line tool, a killed primary is not replaced until it is resumed.
 *
 * All on loopback, in a temporary directory; every process is ended by its id.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "dabbawal.h"
#include "replication/cmd/audit.h"
#include "tests/support/check_main.h"
#include "tests/support/daemons.h"
#include "tests/support/etcd_proc.h"
#include "tests/support/ports.h"
#include "tests/support/proxy.h"
#include "wal/base/env.h"

#define NODES 3
#define WRITERS 8
#define KEYS_MAX 200000
#define WAIT_MS 30000u

static char dir[256];
static struct etcd_proc etcd;
static struct proxy *to_etcd[NODES];
static struct daemon_proc node[NODES];

static uint64_t now_us(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}
static uint64_t wall_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- writers -------------------------------------------------------------------------------------------- */

struct writer {
  pthread_t thread;
  int id, at; /* the node that it asks */
  unsigned tried;
  uint8_t acked[KEYS_MAX];
};
static struct writer writers[WRITERS];
static atomic_bool over;
static atomic_uint_fast64_t last_hurt_us; /* the last one at `hurt` */
static atomic_uint_fast64_t first_ack_us; /* elsewhere than at `hurt`, since it was set to 0 */
static atomic_int hurt = -1, hung = -1;   /* hung: its connections get no answer */
static atomic_ulong acks;

static bool keep;

static int connect_quickly(int port) {
  struct timeval tv = {0, 700000};
  int fd = resp_connect(port);
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
  return fd;
}

static void *write_main(void *arg) {
  struct writer *w = arg;
  int fd = -1;
  char reply[300];
  while (!atomic_load(&over) && w->tried < KEYS_MAX) {
    if (fd < 0) fd = connect_quickly(node[w->at].resp_port);
    bool ok = fd >= 0 && resp_ask(fd, reply, sizeof reply, "SET w%d-%u v%u", w->id, w->tried, w->tried);
    if (ok && strcmp(reply, "+OK") == 0) {
      w->acked[w->tried++] = 1;
      atomic_fetch_add(&acks, 1);
      uint64_t none = 0;
      if (w->at == atomic_load(&hurt))
        atomic_store(&last_hurt_us, now_us());
      else
        atomic_compare_exchange_strong(&first_ack_us, &none, now_us());
      continue;
    }
    if (ok && reply[0] == '-' && strncmp(reply, "-READONLY", 9) != 0) w->tried++; /* perhaps done: never asked again */
    if (!ok) w->tried++;
    if (fd >= 0) close(fd);
    fd = -1;
    w->at = (w->at + 1) % NODES;
    poll(NULL, 0, 5);
  }
  if (fd >= 0) close(fd);
  return NULL;
}

/* ---- the cluster ---------------------------------------------------------------------------------------- */

static void status_text(int i, const char *name, char *out, size_t cap) {
  char reply[20000], quoted[80];
  out[0] = 0;
  resp_once(node[i].resp_port, reply, sizeof reply, "DW.STATUS");
  snprintf(quoted, sizeof quoted, "\"%s\":\"", name);
  const char *at = strstr(reply, quoted);
  if (at) snprintf(out, cap, "%.*s", (int)strcspn(at + strlen(quoted), "\""), at + strlen(quoted));
}

static bool is(int i, const char *name, const char *value) {
  char text[80];
  status_text(i, name, text, sizeof text);
  return strcmp(text, value) == 0;
}

static int leader(void) {
  for (int i = 0; i < NODES; i++)
    if (node[i].pid > 0 && i != atomic_load(&hung) && is(i, "coordinator\":{\"state", "leading")) return i;
  return -1;
}

/* However this program ends. */
static void end_children(void) {
  for (int i = 0; i < NODES; i++) {
    if (node[i].pid > 0) kill(node[i].pid, SIGCONT);
    daemon_kill9(&node[i]);
  }
  etcd_kill9(&etcd);
}

static void on_signal(int sig) {
  for (int i = 0; i < NODES; i++)
    if (node[i].pid > 0) kill(node[i].pid, SIGKILL);
  if (etcd.pid > 0) kill(etcd.pid, SIGKILL);
  _exit(128 + sig);
}

static void give_up(const char *what) {
  fprintf(stderr, "failover: waited in vain: %s; see %s\n", what, dir);
  exit(1);
}

#define AWAIT(what, condition)                                                                                         \
  do {                                                                                                                 \
    uint64_t until_us = now_us() + WAIT_MS * 1000ull;                                                                  \
    while (!(condition)) {                                                                                             \
      if (now_us() > until_us) give_up(what);                                                                          \
      poll(NULL, 0, 10);                                                                                               \
    }                                                                                                                  \
  } while (0)

static bool all_follow(int primary) {
  for (int i = 0; i < NODES; i++)
    if (i != primary && !(is(i, "role", "follower") && is(i, "primary_state", "streaming"))) return false;
  return true;
}

static void start_cluster(int sync_acks) {
  etcd_start(&etcd, dir);
  int listen[NODES];
  for (int i = 0; i < NODES; i++) listen[i] = test_pick_port();
  for (int i = 0; i < NODES; i++) {
    to_etcd[i] = proxy_start((uint16_t)etcd.client_port);
    struct daemon_proc *d = &node[i];
    d->exe = i == 0 ? "dabbawal-primary" : "dabbawal-follower";
    snprintf(d->data, sizeof d->data, "%s/n%d", dir, i + 1);
    d->listen_port = listen[i];
    d->resp_port = test_pick_port();
    d->http_port = test_pick_port();
    if (i) daemon_add_flag(d, "--listen=127.0.0.1:%d", listen[i]);
    daemon_add_flag(d, "--node-id=%d", i + 1);
    daemon_add_flag(d, "--peers=127.0.0.1:%d,127.0.0.1:%d", listen[(i + 1) % NODES], listen[(i + 2) % NODES]);
    daemon_add_flag(d, "--coordinator=etcd://127.0.0.1:%d", proxy_port(to_etcd[i]));
    daemon_add_flag(d, "--cluster-name=demo");
    daemon_add_flag(d, "--mode=sync");
    daemon_add_flag(d, "--acks=%d", sync_acks);
    daemon_add_flag(d, "--ack-timeout=2000");
    if (keep) daemon_add_flag(d, "--on-coordinator-loss=keep");
    daemon_add_flag(d, "--failover-cooldown=0");
    daemon_add_flag(d, "--max-failovers-per-hour=0");
    daemon_start(d);
  }
  AWAIT("a first primary", leader() >= 0);
  AWAIT("followers", all_follow(leader()));
}

/* ---- one round ------------------------------------------------------------------------------------------ */

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

static void hurt_it(const char *kind, int i) {
  if (strcmp(kind, "cut") == 0) {
    proxy_mode(to_etcd[i], PROXY_CUT);
  } else if (strcmp(kind, "stop") == 0) {
    atomic_store(&hung, i);
    kill(node[i].pid, SIGSTOP);
  } else {
    daemon_kill9(&node[i]);
  }
}

static void heal(const char *kind, int i) {
  if (strcmp(kind, "cut") == 0) {
    proxy_mode(to_etcd[i], PROXY_PASS);
  } else if (strcmp(kind, "stop") == 0) {
    kill(node[i].pid, SIGCONT);
    atomic_store(&hung, -1);
  } else {
    daemon_start(&node[i]);
  }
}

static uint64_t run_round(const char *kind, int number) {
  int old = leader();
  AWAIT("a primary", (old = leader()) >= 0);
  poll(NULL, 0, 600); /* some writes, a renewal: the rounds must not depend on each other */
  atomic_store(&hurt, old);
  uint64_t began = now_us(), wall = wall_ms(), took = 0;
  hurt_it(kind, old);
  atomic_store(&first_ack_us, 0);
  AWAIT("a write that another node acknowledges", atomic_load(&first_ack_us));
  uint64_t first = (atomic_load(&first_ack_us) - began) / 1000, noticed, promoted;
  int now = leader();
  AWAIT("the new primary", (now = leader()) >= 0 && now != old);
  noticed = audit_time(now, "lease-taken", &took) - took - wall;
  promoted = audit_time(now, "promoted", &took) - wall;
  if (strcmp(kind, "kill") != 0) { /* it had its whole lease, and none of it when the other one began */
    uint64_t last = atomic_load(&last_hurt_us), elsewhere = atomic_load(&first_ack_us);
    ck_assert_msg(noticed >= 4000, "%s: the lease was taken after %llu ms", kind, (unsigned long long)noticed);
    ck_assert_msg(last < began + 4500000 && last < elsewhere, "%s: the old primary acknowledged for %llu ms", kind,
                  (unsigned long long)((last - began) / 1000));
  }
  uint64_t healing = now_us();
  heal(kind, old);
  AWAIT("the old primary to follow", all_follow(leader()));
  printf("%3d  %-5s node %d -> %d  noticed %5llu ms  promoted %5llu ms  first write %5llu ms  old one follows %5llu ms "
         "after it is back\n",
         number, kind, old + 1, now + 1, (unsigned long long)noticed, (unsigned long long)promoted,
         (unsigned long long)first, (unsigned long long)((now_us() - healing) / 1000));
  fflush(stdout);
  return first;
}

/* ---- rounds without a new primary ------------------------------------------------------------------------ */

static bool state_is(int i, const char *state) {
  return is(i, "coordinator\":{\"state", state);
}

static void lose_coordinator(int number) {
  int l = leader();
  AWAIT("a primary", (l = leader()) >= 0);
  char reply[300];
  etcd_pause(&etcd, 1);
  AWAIT("the primary to go on without etcd", state_is(l, "kept"));
  poll(NULL, 0, 6000); /* longer than any lease */
  unsigned long before = atomic_load(&acks);
  AWAIT("writes while etcd hangs", atomic_load(&acks) > before + 100);
  int fd = resp_connect(node[l].resp_port);
  ck_assert(resp_ask(fd, reply, sizeof reply, "DW.MODE ASYNC"));
  ck_assert(resp_ask(fd, reply, sizeof reply, "SET async 1"));
  ck_assert_msg(strncmp(reply, "-NOREPLICAS the coordinator", 27) == 0, "%s", reply);
  etcd_pause(&etcd, 0);
  AWAIT("the primary to lead again", state_is(l, "leading"));
  AWAIT("all writes to be taken again", resp_ask(fd, reply, sizeof reply, "SET async 1") && strcmp(reply, "+OK") == 0);
  close(fd);
  printf("%3d  lose  node %d went on while etcd hung, refused async writes, and leads on\n", number, l + 1);
}

static void operate(const char *what) {
  char self[512] = "", command[1000];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  for (int up = 0; n > 0 && up < 2; up++) *strrchr(self, '/') = 0;
  snprintf(command, sizeof command, "%s/dabbawal %s --coordinator etcd://127.0.0.1:%d --cluster-name demo >/dev/null",
           self, what, etcd.client_port);
  ck_assert_int_eq(system(command), 0);
}

static void paused(int number) {
  operate("pause");
  int l = leader();
  AWAIT("a primary", (l = leader()) >= 0);
  AWAIT("the pause to be seen", state_is(l, "leading"));
  poll(NULL, 0, 600);
  daemon_kill9(&node[l]);
  for (uint64_t until = now_us() + 8000000; now_us() < until; poll(NULL, 0, 100))
    ck_assert_msg(leader() < 0, "node %d took over while failover was paused", leader() + 1);
  operate("resume");
  AWAIT("a failover after the pause", leader() >= 0);
  daemon_start(&node[l]);
  AWAIT("the old primary to follow", all_follow(leader()));
  printf("%3d  pause node %d was not replaced while failover was paused\n", number, l + 1);
}

static uint64_t any_round(const char *kind, int number) {
  if (strcmp(kind, "lose") == 0) return lose_coordinator(number), 0;
  if (strcmp(kind, "pause") == 0) return paused(number), 0;
  return run_round(kind, number);
}

/* ---- the end -------------------------------------------------------------------------------------------- */

static unsigned long lost_writes(int at) {
  unsigned long lost = 0;
  char reply[100], want[40];
  int fd = resp_connect(node[at].resp_port);
  for (int i = 0; i < WRITERS; i++)
    for (unsigned k = 0; k < writers[i].tried; k++) {
      if (!writers[i].acked[k]) continue;
      snprintf(want, sizeof want, "v%u", k);
      if (!resp_ask(fd, reply, sizeof reply, "GET w%d-%u", i, k)) give_up("an answer to GET");
      if (strcmp(reply, want) != 0 && lost++ < 5)
        fprintf(stderr, "failover: w%d-%u was acknowledged and is lost\n", i, k);
    }
  close(fd);
  return lost;
}

static bool same_data(void) {
  char all[NODES][300];
  for (int i = 0; i < NODES; i++) resp_once(node[i].resp_port, all[i], sizeof all[i], "DW.CHECKSUM");
  return all[0][0] && strcmp(all[0], all[1]) == 0 && strcmp(all[0], all[2]) == 0;
}

static int audits(void) {
  int bad = 0;
  for (int i = 0; i < NODES; i++) {
    struct audit_summary s;
    char path[600];
    snprintf(path, sizeof path, "%s/audit.log", node[i].data);
    if (audit_verify(path, &s) == 0) {
      printf("node %d's audit log: %llu lines, sound\n", i + 1, (unsigned long long)s.lines);
    } else {
      fprintf(stderr, "failover: %s\n", dw_last_error());
      bad = 1;
    }
  }
  return bad;
}

static int by_size(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

static char rounds[1000] = "kill,cut";
static int sync_acks = 1;

START_TEST(nothing_that_was_acknowledged_is_lost_by_failovers) {
  int n = 0, failovers = 0;
  uint64_t times[200] = {0};
  signal(SIGPIPE, SIG_IGN);
  snprintf(dir, sizeof dir, "%s/dw-failover-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  start_cluster(sync_acks);
  for (int i = 0; i < WRITERS; i++) {
    writers[i].id = i;
    ck_assert_int_eq(pthread_create(&writers[i].thread, NULL, write_main, &writers[i]), 0);
  }
  char *save = NULL;
  for (char *kind = strtok_r(rounds, ",", &save); kind && n < 200; kind = strtok_r(NULL, ",", &save), n++)
    if ((times[n] = any_round(kind, n + 1))) failovers++;
  atomic_store(&over, true);
  for (int i = 0; i < WRITERS; i++) pthread_join(writers[i].thread, NULL);
  AWAIT("a primary in the end", leader() >= 0);
  unsigned long lost = lost_writes(leader());
  AWAIT("all nodes to have the same data", same_data());
  int bad = audits();
  qsort(times, (size_t)n, sizeof *times, by_size);
  printf("%d failovers: first write after %llu ms (median), %llu ms (longest); %lu writes acknowledged, %lu lost\n",
         failovers, (unsigned long long)times[n - failovers + failovers / 2], (unsigned long long)times[n - 1],
         atomic_load(&acks), lost);
  for (int i = 0; i < NODES; i++) bad |= daemon_stop(&node[i]) != 0;
  etcd_kill9(&etcd);
  for (int i = 0; i < NODES; i++) proxy_stop(to_etcd[i]);
  if (!lost && !bad) env_remove_tree(env_posix(), dir);
  ck_assert_uint_eq(lost, 0);
  ck_assert_int_eq(bad, 0);
  ck_assert_uint_gt(atomic_load(&acks), 100ul * (unsigned)n); /* or it tested nothing */
}
END_TEST

int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
      snprintf(rounds, sizeof rounds, "%s", argv[++i]);
    else if (strcmp(argv[i], "--acks") == 0 && i + 1 < argc)
      sync_acks = atoi(argv[++i]);
    else if (strcmp(argv[i], "--keep") == 0)
      keep = true;
    else
      return fprintf(stderr, "usage: dw_failover [--rounds kill|cut|stop|lose|pause,...] [--acks N] [--keep]\n"), 2;
  }
  atexit(end_children);
  signal(SIGTERM, on_signal);
  signal(SIGINT, on_signal);
  setenv("CK_FORK", "no", 1);
  Suite *s = suite_create("failover");
  TCase *t = tcase_create("failover");
  tcase_add_test(t, nothing_that_was_acknowledged_is_lost_by_failovers);
  suite_add_tcase(s, t);
  return check_main(s);
}
