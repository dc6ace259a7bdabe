#include "bench/support/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/probe.h"

/* ---- the follower's process ------------------------------------------------------------------ */

dw_engine *follower_open(char **args) {
  char address[32];
  snprintf(address, sizeof address, "127.0.0.1:%s", args[1]);
  dw_options o;
  engine_options_init(&o);
  o.role = DW_FOLLOWER;
  o.primary = address;
  uint64_t memtable = strtoull(args[2], NULL, 10);
  if (memtable) o.memtable_bytes = memtable;
  return engine_open_or_die(args[0], &o);
}

static bool get_probe(void *engine, const struct record *key, char value[PROBE_VALUE_BYTES]) {
  dw_value v;
  int rc = dw_get(engine, NULL, key->key, key->klen, &v);
  if (rc == DW_NOT_FOUND) return false;
  if (rc) bench_die("get: %s: %s", dw_rc_name(rc), dw_last_error());
  memcpy(value, v.data, PROBE_VALUE_BYTES);
  dw_value_release(&v);
  return true;
}

/* probe: starts the prober; probed: ends it, answers with the histogram's bytes. Ends with the line. */
int follower_main(int fd, char **args) {
  dw_engine *e = follower_open(args);
  static struct prober prober;
  char line[64];
  while (line_read(fd, line, sizeof line) >= 0) {
    if (strcmp(line, "probe") == 0) {
      prober_start(&prober, get_probe, e);
      line_write(fd, "ok");
    } else if (strcmp(line, "probed") == 0) {
      prober_stop(&prober);
      bytes_write(fd, &prober.lag, sizeof prober.lag);
    }
  }
  engine_close_or_die(e);
  return 0;
}

void cluster_probe_start(struct cluster *c, int i) {
  char line[16];
  child_tell(&c->follower[i], "probe");
  child_answer(&c->follower[i], line, sizeof line);
}

void cluster_probe_end(struct cluster *c, int i, struct histogram *lag) {
  struct histogram got;
  child_tell(&c->follower[i], "probed");
  child_get(&c->follower[i], &got, sizeof got);
  histogram_merge(lag, &got);
}

/* ---- the primary's --------------------------------------------------------------------------- */

void cluster_start_follower(struct cluster *c, int i) {
  char dir[BENCH_PATH_BYTES + 16], port[16], memtable[24];
  snprintf(dir, sizeof dir, "%s-f%d", c->dir, i);
  snprintf(port, sizeof port, "%u", c->port);
  snprintf(memtable, sizeof memtable, "%llu", (unsigned long long)c->follower_memtable);
  child_start(&c->follower[i], "follower", (const char *[]){dir, port, memtable, NULL});
}

void cluster_stop_follower(struct cluster *c, int i) {
  child_stop(&c->follower[i]);
}

void cluster_open(struct cluster *c, int n, const dw_options *options) {
  uint64_t memtable = c->follower_memtable;
  *c = (struct cluster){.n = n, .follower_memtable = memtable};
  bench_fresh(c->dir, "cluster");
  dw_options o;
  if (options)
    o = *options;
  else
    engine_options_init(&o);
  o.listen = "127.0.0.1:0";
  c->primary = engine_open_or_die(c->dir, &o);
  dw_status s;
  dw_status_get(c->primary, &s);
  c->port = s.listen_port;
  for (int i = 0; i < n; i++) cluster_start_follower(c, i);
  cluster_await(c->primary, n, 0, true);
}

void cluster_close(struct cluster *c) {
  for (int i = 0; i < c->n; i++) cluster_stop_follower(c, i);
  engine_close_or_die(c->primary);
  for (int i = 0; i < c->n; i++) {
    char dir[BENCH_PATH_BYTES + 16];
    snprintf(dir, sizeof dir, "%s-f%d", c->dir, i);
    bench_remove(dir);
  }
  bench_remove(c->dir);
}

void cluster_await(dw_engine *e, int n, dw_lsn applied, bool streaming) {
  uint64_t best = 0;
  for (double since = bench_s(); bench_s() - since < 120; bench_sleep(0.001)) {
    dw_status s;
    dw_status_get(e, &s);
    int ok = 0;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < s.follower_count; i++) {
      const dw_follower_status *f = &s.followers[i];
      bool there = f->state == DW_PEER_STREAMING || (!streaming && f->state == DW_PEER_CATCHING_UP);
      ok += there && f->applied_lsn >= applied;
      sum += f->applied_lsn;
    }
    if (ok >= n) return;
    if (sum > best) {
      best = sum;
      since = bench_s();
    }
  }
  bench_die("the followers did not get there within two minutes");
}

dw_lsn cluster_written(dw_engine *e) {
  dw_status s;
  dw_status_get(e, &s);
  return s.written_lsn;
}

uint64_t cluster_sent_bytes(dw_engine *e) {
  dw_status s;
  uint64_t sum = 0;
  dw_status_get(e, &s);
  for (uint32_t i = 0; i < s.follower_count; i++) sum += s.followers[i].sent_bytes;
  return sum;
}
