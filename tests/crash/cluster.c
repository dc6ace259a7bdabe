/* See cluster.h. */
#include "tests/crash/cluster.h"

#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/dabbawal.h"
#include "engine/identity.h"
#include "tests/support/resp_wire.h"
#include "wal/wal.h"

double now_s(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

void cluster_check(struct crash_cluster *c) {
  ck_assert_msg(!atomic_load(&c->load.wrong), "%s; see %s", c->load.why, c->dir);
}

static void add_size_flags(struct daemon_proc *d, const struct cluster_plan *plan) {
  daemon_add_flag(d, "--segment-bytes=%d", plan->small ? 65536 : 1 << 20);
  daemon_add_flag(d, "--memtable=%d", plan->small ? 65536 : 512 << 10);
  if (plan->small) daemon_add_flag(d, "--retain-bytes=0");
  daemon_add_flag(d, "--sync-interval=100");
  daemon_add_flag(d, "--heartbeat=100");
  daemon_add_flag(d, "--peer-timeout=2000");
}

void cluster_open(struct crash_cluster *c, const char *dir, const struct cluster_plan *plan) {
  memset(c->node, 0, sizeof c->node);
  snprintf(c->dir, sizeof c->dir, "%s", dir);
  for (int i = 0; i < NODES; i++) {
    struct daemon_proc *d = &c->node[i];
    d->exe = i ? "dabbawal-follower" : "dabbawal-primary";
    snprintf(d->data, sizeof d->data, "%s/node%d", dir, i);
    add_size_flags(d, plan);
    if (i) daemon_add_flag(d, "--primary=127.0.0.1:%d", c->node[0].listen_port);
    if (i == 0) {
      daemon_add_flag(d, "--mode=%s", plan->mode);
      daemon_add_flag(d, "--acks=%d", plan->acks);
      daemon_add_flag(d, "--ack=%s", plan->ack);
      daemon_add_flag(d, "--durability=%s", plan->durability);
      daemon_add_flag(d, "--ack-timeout=3000");
    }
    daemon_start(d);
  }
}

void cluster_kill(struct crash_cluster *c, unsigned set) {
  struct daemon_proc *victims[NODES] = {NULL};
  for (int i = 0; i < NODES; i++) {
    if (!(set >> i & 1)) continue;
    atomic_fetch_add(&c->load.opened[i], 1);
    victims[i] = &c->node[i];
  }
  daemon_kill9_all(victims, NODES);
}

void cluster_start(struct crash_cluster *c, unsigned set) {
  unsigned started = 0;
  for (int i = 0; i < NODES; i++) {
    if (!(set >> i & 1) || c->node[i].pid > 0) continue;
    daemon_spawn(&c->node[i]);
    started |= 1u << i;
  }
  for (int i = 0; i < NODES; i++)
    if (started >> i & 1) daemon_await_ready(&c->node[i]);
}

/* ---- convergence ---------------------------------------------------------------------------------- */

static bool level(struct crash_cluster *c) {
  long long written = status_number(c->node[0].resp_port, "written_lsn");
  if (written < 0 || status_number(c->node[0].resp_port, "commit_lsn") != written) return false;
  for (int i = 0; i < NODES; i++)
    if (status_number(c->node[i].resp_port, "applied_lsn") != written) return false;
  return true;
}

/* Records, LSN and hash as one text. */
static void checksum(struct crash_cluster *c, int node, char *out, size_t cap) {
  struct wire w = WIRE_INIT;
  struct wire_reply r = {.text = ""};
  size_t n = 0;
  out[0] = 0;
  ck_assert_msg(wire_open(&w, c->node[node].resp_port), "node %d does not answer", node);
  ck_assert_msg(wire_ask(&w, &r, "DW.CHECKSUM", (char *)NULL) == WIRE_OK && r.kind == '*', "DW.CHECKSUM at node %d: %s",
                node, r.text);
  for (long long i = r.number; i > 0 && wire_read(&w, &r) == WIRE_OK; i--)
    n += (size_t)snprintf(out + n, cap - n, "%.40s ", r.text);
  wire_free(&w);
}

void cluster_converge(struct crash_cluster *c) {
  char sum[NODES][160];
  AWAIT(c, "all nodes to have everything", level(c));
  for (int i = 0; i < NODES; i++) checksum(c, i, sum[i], sizeof sum[i]);
  for (int i = 1; i < NODES; i++)
    ck_assert_msg(strcmp(sum[0], sum[i]) == 0,
                  "checksums differ (records, LSN, hash): primary %s, follower %d %s; see %s", sum[0], i, sum[i],
                  c->dir);
}

unsigned long cluster_bootstraps(struct crash_cluster *c, unsigned set) {
  unsigned long n = 0;
  for (int i = 1; i < NODES; i++) {
    long long one = set >> i & 1 ? status_number(c->node[i].resp_port, "bootstraps") : 0;
    n += one > 0 ? (unsigned long)one : 0;
  }
  return n;
}

/* ---- what a follower holds ------------------------------------------------------------------------- */

struct log_look {
  struct model *model;
  size_t (*logged)[UNITS];
};

static int note_block(void *arg, const char *path, uint64_t off, const struct wal_block *b) {
  struct log_look *look = arg;
  struct buf scratch = {0};
  const uint8_t *raw;
  size_t n, at = 0;
  struct wal_commit commit;
  (void)path, (void)off;
  ck_assert_int_eq(wal_block_raw(b, &scratch, &raw, &n), DW_OK);
  while (b->h.kind == BLOCK_COMMITS && payload_next_commit(raw, n, &at, &commit) == DW_OK) {
    size_t op_at = 0;
    struct wal_op op;
    while (body_next_op(commit.body, commit.body_bytes, &op_at, &op) == DW_OK) {
      int w, u;
      if (!unit_of_key((const char *)op.key + 1, op.klen - 1, &w, &u)) continue;
      bool deletes = op.type != OP_PUT;
      size_t index = unit_index(look->model, w, u, deletes ? 0 : value_seq((const char *)op.val, op.vlen), deletes);
      if (index > look->logged[w][u]) look->logged[w][u] = index;
    }
  }
  buf_free(&scratch);
  return 0;
}

/* The log first, then what readers see: what is trimmed in between has been applied. */
void cluster_follower_holds(struct crash_cluster *c, int node, size_t logged[WRITERS][UNITS],
                            size_t shown[WRITERS][UNITS]) {
  struct log_look look = {c->load.model, logged};
  struct wal_inspect how = {.arg = &look, .on_block = note_block};
  struct wal_inspect_report rep;
  struct node_file id;
  memset(logged, 0, sizeof(size_t[WRITERS][UNITS]));
  ck_assert_int_eq(node_file_load(env_posix(), c->node[node].data, &id), DW_OK);
  char *path = path_generation(c->node[node].data, "wal", id.generation);
  int rc = wal_inspect(env_posix(), path, &how, &rep);
  /* No log: it has not met its primary yet. */
  ck_assert_msg(rc == DW_OK || rc == DW_NOT_FOUND, "%s: %s", path, rep.problem[0] ? rep.problem : dw_last_error());
  free(path);
  load_judge_node(&c->load, node, false, shown);
  cluster_check(c);
}

/* ---- logs ------------------------------------------------------------------------------------------ */

long cluster_log_size(const struct crash_cluster *c, int node) {
  FILE *f = fopen(c->node[node].log, "r");
  if (!f) return 0;
  fseek(f, 0, SEEK_END);
  long n = ftell(f);
  fclose(f);
  return n;
}

bool cluster_log_says(const struct crash_cluster *c, int node, long from, const char *text) {
  FILE *f = fopen(c->node[node].log, "r");
  char line[2048];
  bool found = false;
  if (!f) return false;
  fseek(f, from, SEEK_SET);
  while (!found && fgets(line, sizeof line, f)) found = strstr(line, text) != NULL;
  fclose(f);
  return found;
}
