/* Partitions. P: the primary, F, G: the followers, E: etcd, C: the clients.
 *
 *   cut      P | E                       no lease any more, all else is well               somebody else
 *   isolate  P, C | F, G, E              only clients reach it: nothing it says may be old  somebody else
 *   unplug   P | F, G, E, C              the cable                                          somebody else
 *   deaf     what F, G, E send to P      its words arrive, their answers do not             somebody else
 *   mute     what P sends to F, G, E     the other way round                                somebody else
 *   nopeers  P | F, G                    it has its lease and nobody to confirm             nobody: no write, until it
 * heals split    P, F | G, E                 who can have the lease has no quorum               nobody: no write, until
 * it heals flank    P | F                       the other follower confirms                        nobody: writes go on
 *
 * Without namespaces only the first can be played.
 */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "tests/failover/failover.h"

enum outcome { FAILOVER, NO_WRITES, WRITES };

static const struct kind {
  const char *name;
  enum outcome outcome;
} kinds[] = {{"cut", FAILOVER},  {"isolate", FAILOVER},  {"unplug", FAILOVER}, {"deaf", FAILOVER},
             {"mute", FAILOVER}, {"nopeers", NO_WRITES}, {"split", NO_WRITES}, {"flank", WRITES}};

static const struct kind *find(const char *name) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(kinds[i].name, name) == 0) return &kinds[i];
  return NULL;
}

bool is_partition(const char *name) {
  return find(name) != NULL;
}

bool partition_fails_over(const char *name) {
  return find(name) && find(name)->outcome == FAILOVER;
}

static void between(int a, int b, bool pass) {
  cluster_pass(a, b, pass);
  cluster_pass(b, a, pass);
}

void partition_set(const char *name, int p, bool cut) {
  const int f = (p + 1) % NODES, g = (p + 2) % NODES, others[] = {ETCD, f, g};
  bool pass = !cut;
  if (strcmp(name, "unplug") == 0) {
    node_away(cut ? p : -1);
    cluster_plug(p, pass);
  } else if (strcmp(name, "cut") == 0) {
    between(p, ETCD, pass);
  } else if (strcmp(name, "flank") == 0) {
    between(p, f, pass);
  } else if (strcmp(name, "split") == 0) {
    between(p, ETCD, pass), between(f, ETCD, pass);
    between(p, g, pass), between(f, g, pass);
  } else {
    for (int i = strcmp(name, "nopeers") == 0; i < 3; i++) {
      if (strcmp(name, "mute") != 0) cluster_pass(others[i], p, pass);
      if (strcmp(name, "deaf") != 0) cluster_pass(p, others[i], pass);
    }
  }
}

/* Nobody acknowledges anything, once the primary knows what has happened to it. */
static void watch_silence(const char *name, int p, unsigned long *before) {
  bool split = strcmp(name, "split") == 0;
  unsigned know_ms = split ? settings.lease_ms : 1000;
  poll(NULL, 0, (int)know_ms);
  *before = load_acks();
  uint64_t until = now_us() + settings.lease_ms * 1500ull;
  while (now_us() < until) {
    int l = leader();
    ck_assert_msg(l < 0 || (!split && l == p), "%s: node %d leads", name, l + 1);
    poll(NULL, 0, 50);
  }
  ck_assert_msg(load_acks() == *before, "%s: %lu writes were acknowledged meanwhile", name, load_acks() - *before);
}

void partition_without_failover(const char *name, int number) {
  enum outcome outcome = find(name)->outcome;
  int p = leader();
  AWAIT("a primary", (p = leader()) >= 0);
  AWAIT("followers", all_follow(p));
  poll(NULL, 0, 600);
  unsigned long before = load_acks();
  load_watch(p);
  partition_set(name, p, true);
  if (outcome == WRITES) {
    for (uint64_t until = now_us() + settings.lease_ms * 1500ull; now_us() < until; poll(NULL, 0, 50))
      ck_assert_msg(leader() == p, "%s: node %d does not lead any more", name, p + 1);
    ck_assert_msg(load_acks() > before + 100, "%s: no writes", name);
  } else {
    watch_silence(name, p, &before);
  }
  uint64_t healing = now_us();
  partition_set(name, p, false);
  before = load_acks();
  AWAIT("writes after a partition", load_acks() > before);
  unsigned long long first = (now_us() - healing) / 1000;
  AWAIT("everybody to follow", all_follow(leader()));
  int now = leader();
  ck_assert_msg(strcmp(name, "split") == 0 || now == p, "%s: node %d has taken over from %d", name, now + 1, p + 1);
  printf("%3d  %-7s node %d: %s, first write %llu ms after it healed, all follow node %d after %llu ms\n", number, name,
         p + 1, outcome == WRITES ? "went on" : "nobody acknowledged anything", first, now + 1,
         (unsigned long long)(now_us() - healing) / 1000);
  fflush(stdout);
}
