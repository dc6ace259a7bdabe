/* How many commits a second with one follower, by mode and number of clients?
 *
 * The follower is a real second process on loopback. Each client is a thread that puts one record after the other (16-byte random key,
 * 100-byte value, half random), so this is the blocking API; the time counts until the follower has everything.
 *
 *   bench_replicate [--seconds S] [--durability disk|os] [--ack received|durable|applied] [--followers N] [--json]
 */
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/dabbawal.h"

static dw_durability durability = DW_DURABILITY_DISK;
static dw_ack ack = DW_ACK_DURABLE;
static double seconds = 2;
static int json, follower_count = 1;

static double now_s(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void die(const char *what, int rc) {
  fprintf(stderr, "bench_replicate: %s: %s: %s\n", what, dw_rc_name(rc), dw_last_error());
  exit(1);
}

struct client {
  pthread_t thread;
  dw_engine *engine;
  dw_write_options options;
  unsigned seed;
  atomic_bool *stop;
  uint64_t done;
  int rc;
};

static uint64_t rnd(uint64_t *s) {
  *s ^= *s << 13;
  *s ^= *s >> 7;
  *s ^= *s << 17;
  return *s;
}

static void *run_client(void *arg) {
  struct client *c = arg;
  uint64_t s = 88172645463325252ull + c->seed * 7919u;
  char key[16], val[100];
  memset(val, 'v', sizeof val);
  while (!atomic_load_explicit(c->stop, memory_order_relaxed)) {
    for (int i = 0; i < 2; i++) {
      uint64_t x = rnd(&s);
      memcpy(key + 8 * i, &x, 8);
    }
    for (int i = 0; i < 48; i += 8) {
      uint64_t x = rnd(&s);
      memcpy(val + i, &x, 8);
    }
    c->rc = dw_put(c->engine, &c->options, key, 16, val, 100, NULL);
    if (c->rc) break;
    c->done++;
  }
  return NULL;
}

/* The child: follows until its end of the pipe closes. */
static void follower(const char *dir, int port_fd) {
  unsigned short port;
  if (read(port_fd, &port, sizeof port) != sizeof port) _exit(0);
  char address[32];
  snprintf(address, sizeof address, "127.0.0.1:%u", port);
  dw_options o;
  dw_options_init(&o);
  o.role = DW_FOLLOWER;
  o.primary = address;
  dw_engine *e;
  int rc = dw_open(dir, &o, &e);
  if (rc) die("follower", rc);
  char byte;
  while (read(port_fd, &byte, 1) > 0) {}
  dw_close(e);
  _exit(0);
}

static void wait_followers(dw_engine *e, int streaming, dw_lsn applied) {
  for (double start = now_s(); now_s() - start < 120; poll(NULL, 0, 1)) {
    dw_status s;
    dw_status_get(e, &s);
    int ok = 0;
    for (uint32_t i = 0; i < s.follower_count; i++)
      ok += (s.followers[i].state == DW_PEER_STREAMING || s.followers[i].state == DW_PEER_CATCHING_UP) &&
            s.followers[i].applied_lsn >= applied;
    if (ok >= streaming) return;
  }
  fprintf(stderr, "bench_replicate: followers did not come up\n");
  exit(1);
}

static void run(dw_engine *e, const char *name, dw_mode mode, int clients) {
  atomic_bool stop = false;
  struct client *c = calloc((size_t)clients, sizeof *c);
  dw_status before, after;
  dw_status_get(e, &before);
  double start = now_s();
  for (int i = 0; i < clients; i++) {
    c[i] = (struct client){.engine = e,
                           .options = {.mode = mode, .ack = ack, .acks = (uint32_t)follower_count, .durability = durability},
                           .seed = (unsigned)(i + 1 + clients * 100 + (int)mode * 1000),
                           .stop = &stop};
    pthread_create(&c[i].thread, NULL, run_client, &c[i]);
  }
  poll(NULL, 0, (int)(seconds * 1000));
  atomic_store(&stop, true);
  uint64_t done = 0;
  for (int i = 0; i < clients; i++) {
    pthread_join(c[i].thread, NULL);
    if (c[i].rc) die(name, c[i].rc);
    done += c[i].done;
  }
  double took = now_s() - start;
  dw_status_get(e, &after);
  wait_followers(e, follower_count, after.written_lsn);
  double all = now_s() - start;
  double commits_per_sync = (double)done / (double)(after.syncs > before.syncs ? after.syncs - before.syncs : 1);
  if (json)
    printf("{\"mode\":\"%s\",\"clients\":%d,\"commits_per_s\":%.0f,\"replicated_per_s\":%.0f,\"commits_per_sync\":%.1f}\n",
           name, clients, (double)done / took, (double)done / all, commits_per_sync);
  else
    printf("%-10s %3d clients  %8.0f commits/s   %8.0f/s until the followers have all   %6.1f commits a sync\n", name,
           clients, (double)done / took, (double)done / all, commits_per_sync);
  fflush(stdout);
  free(c);
}

static void parse(int argc, char **argv) {
  static const struct option longs[] = {{"seconds", 1, 0, 's'}, {"durability", 1, 0, 'd'}, {"ack", 1, 0, 'a'},
                                        {"followers", 1, 0, 'f'}, {"json", 0, 0, 'j'}, {0, 0, 0, 0}};
  int o;
  while ((o = getopt_long(argc, argv, "", longs, NULL)) != -1) {
    switch (o) {
    case 's': seconds = atof(optarg); break;
    case 'd': durability = strcmp(optarg, "os") ? DW_DURABILITY_DISK : DW_DURABILITY_OS; break;
    case 'a':
      ack = strcmp(optarg, "received") == 0 ? DW_ACK_RECEIVED : strcmp(optarg, "applied") == 0 ? DW_ACK_APPLIED : DW_ACK_DURABLE;
      break;
    case 'f': follower_count = atoi(optarg); break;
    case 'j': json = 1; break;
    default: exit(2);
    }
  }
  if (seconds <= 0 || follower_count < 1 || follower_count > 16) {
    fprintf(stderr, "bench_replicate: --seconds > 0, --followers 1 to 16\n");
    exit(2);
  }
}

int main(int argc, char **argv) {
  parse(argc, argv);
  signal(SIGPIPE, SIG_IGN);
  char dir[256], path[300];
  snprintf(dir, sizeof dir, "%s/dw-bench-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  if (!mkdtemp(dir)) return 1;
  int pipes[16][2];
  pid_t pids[16];
  for (int i = 0; i < follower_count; i++) { /* before this process has threads */
    if (pipe(pipes[i])) return 1;
    if ((pids[i] = fork()) == 0) {
      for (int k = 0; k <= i; k++) close(pipes[k][1]);
      snprintf(path, sizeof path, "%s/follower%d", dir, i);
      follower(path, pipes[i][0]);
    }
    close(pipes[i][0]);
  }
  dw_options opt;
  dw_options_init(&opt);
  opt.listen = "127.0.0.1:0";
  dw_engine *e;
  snprintf(path, sizeof path, "%s/primary", dir);
  int rc = dw_open(path, &opt, &e);
  if (rc) die("primary", rc);
  dw_status s;
  dw_status_get(e, &s);
  for (int i = 0; i < follower_count; i++)
    if (write(pipes[i][1], &s.listen_port, sizeof s.listen_port) < 0) return 1;
  wait_followers(e, follower_count, 0);
  static const struct {
    const char *name;
    dw_mode mode;
  } modes[] = {{"async", DW_ASYNC}, {"semi-sync", DW_SEMI_SYNC}, {"sync", DW_SYNC}};
  static const int clients[] = {1, 8, 32};
  for (size_t m = 0; m < 3; m++)
    for (size_t k = 0; k < 3; k++) run(e, modes[m].name, modes[m].mode, clients[k]);
  for (int i = 0; i < follower_count; i++) {
    close(pipes[i][1]);
    waitpid(pids[i], NULL, 0);
  }
  rc = dw_close(e);
  snprintf(path, sizeof path, "rm -rf %s", dir);
  if (system(path)) fprintf(stderr, "bench_replicate: %s was not removed\n", dir);
  return rc != DW_OK;
}
