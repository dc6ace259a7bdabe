/* Time and nodes. Everything that happens is an event; an event runs to its end, except that inside an fdatasync of a
 * log file others may run for a while (as threads would): see in_fdatasync. What belongs to a node runs only if no code
 * of the same thread of that node is further down the stack. */
#include "tests/sim/sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replication/node.h"
#include "wal/base/status.h"

const char *sim_label = "";

/* ---- saying ---------------------------------------------------------------------------------- */

static void fold(struct world *w, uint64_t v) {
  w->trace_hash = mix64(w->trace_hash ^ (v + 0x9e3779b97f4a7c15ull));
}

void world_trace(struct world *w, const struct sim_node *n, const char *fmt, ...) {
  char line[700];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  fold(w, hash64(line, strlen(line)) ^ w->now);
  if (!w->trace) return;
  printf("%10.6f %6llu %s%c  %s\n", (double)w->now / 1e9, (unsigned long long)w->step, n ? "n" : " ",
         n ? (char)('0' + n->idx) : ' ', line);
}

static void print_node(const struct sim_node *n) {
  static const char *const states[] = {"down", "opening", "up", "closing"};
  printf("  n%d %s %s%s", n->idx, n->role == DW_PRIMARY ? "primary" : "follower", states[n->state],
         n->damaged ? " damaged" : "");
  if (n->tail)
    printf(", on its disk: written LSN %llu epoch %llu, durable LSN %llu", (unsigned long long)n->tail->last_lsn,
           (unsigned long long)n->tail->epoch, n->durable ? (unsigned long long)n->durable->last_lsn : 0ull);
  if (n->e) {
    struct engine_positions p;
    dw_status s;
    engine_positions(n->e, &p);
    dw_status_get(n->e, &s);
    printf("; says: written %llu durable %llu commit %llu applied %llu persisted %llu oldest %llu epoch %llu peer "
           "state %d %s",
           (unsigned long long)p.tail.lsn, (unsigned long long)p.durable_lsn, (unsigned long long)p.commit_lsn,
           (unsigned long long)p.applied.lsn, (unsigned long long)p.persisted_lsn, (unsigned long long)p.oldest.lsn + 1,
           (unsigned long long)p.epoch, (int)s.primary_state, s.error);
  }
  lease_print_node(n);
  printf("\n");
}

_Noreturn void world_violation(struct world *w, const struct sim_node *n, const char *invariant, const char *fmt, ...) {
  char line[900];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  printf("%sVIOLATION seed %llu step %llu time %.6f s node %d: %s: %s\n", sim_label, (unsigned long long)w->seed,
         (unsigned long long)w->step, (double)w->now / 1e9, n ? n->idx : -1, invariant, line);
  plan_print(w);
  for (unsigned i = 0; i < w->plan.nodes; i++) print_node(&w->node[i]);
  printf("  replay: ./dw sim --seed %llu --trace\n", (unsigned long long)w->seed);
  fflush(stdout);
  _exit(1);
}

/* ---- events ---------------------------------------------------------------------------------- */

static bool sooner(const struct event *a, const struct event *b) {
  return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

void world_at(struct world *w, uint64_t at, struct sim_node *node,
              void (*fn)(struct world *, struct sim_node *, void *), void *arg) {
  if (w->heap_n == w->heap_cap) {
    w->heap_cap = w->heap_cap ? 2 * w->heap_cap : 256;
    w->heap = realloc(w->heap, w->heap_cap * sizeof *w->heap);
  }
  struct event ev = {at, w->seq++, fn, node, node ? node->life : 0, arg};
  size_t i = w->heap_n++;
  for (; i && sooner(&ev, &w->heap[(i - 1) / 2]); i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
  w->heap[i] = ev;
}

static struct event pop(struct world *w) {
  struct event top = w->heap[0], last = w->heap[--w->heap_n];
  size_t i = 0;
  for (;;) {
    size_t c = 2 * i + 1;
    if (c >= w->heap_n) break;
    if (c + 1 < w->heap_n && sooner(&w->heap[c + 1], &w->heap[c])) c++;
    if (!sooner(&w->heap[c], &last)) break;
    w->heap[i] = w->heap[c];
    i = c;
  }
  if (w->heap_n) w->heap[i] = last;
  return top;
}

static void run_one(struct world *w) {
  struct event ev = pop(w);
  if (ev.at > w->now) w->now = ev.at;
  if (ev.node && ev.life != ev.node->life) return;
  w->step++;
  w->st.events++;
  fold(w, ev.at * 31 + (ev.node ? (uint64_t)ev.node->idx : 9));
  ev.fn(w, ev.node, ev.arg);
  for (unsigned i = 0; i < w->plan.nodes; i++) node_reap(w, &w->node[i]);
}

/* ---- clocks ---------------------------------------------------------------------------------- */

uint64_t node_mono(void *ctx) {
  const struct sim_node *n = ctx;
  int64_t passed = (int64_t)(n->w->now - n->boot_ns); /* minutes: times 10^4 it fits */
  return n->mono_base + (uint64_t)(passed + passed * n->rate_ppm / 1000000);
}

uint64_t node_true_after(const struct sim_node *n, uint64_t mono_ns) {
  if (mono_ns <= n->mono_base) return n->boot_ns;
  __int128 passed = mono_ns - n->mono_base;
  return n->boot_ns + (uint64_t)(passed * 1000000 / (1000000 + n->rate_ppm)) + 2; /* never too early */
}

uint64_t node_wall(void *ctx) {
  const struct sim_node *n = ctx;
  return (uint64_t)((int64_t)(1700000000ull * SEC + n->w->now) + n->wall_off_ns);
}

/* ---- nodes ----------------------------------------------------------------------------------- */

bool node_up(const struct sim_node *n) {
  return n->state == NODE_UP && disk_alive(n->disk);
}

uint32_t node_life(const struct sim_node *n) {
  return (uint32_t)n->idx * 1000000u + n->life;
}

struct node *node_driver(const struct sim_node *n) {
  return engine_replication(n->e);
}

static void in_fdatasync(void *ctx) {
  struct sim_node *n = ctx;
  struct world *w = n->w;
  if (w->pause_depth || n->state != NODE_UP || !rng_percent(&w->r_sched, w->plan.pause_pct)) return;
  uint64_t end = w->now + rng_skewed(&w->r_sched, 20000, 20 * MS);
  w->pause_depth++;
  n->on_stack++;
  n->in_sync = true;
  while (w->heap_n && w->heap[0].at <= end) run_one(w);
  if (w->now < end) w->now = end;
  n->in_sync = false;
  n->on_stack--;
  w->pause_depth--;
}

static void faulted(void *ctx, const char *what, const char *path) {
  struct sim_node *n = ctx;
  n->w->st.faults++;
  if (strstr(path, "/diverged/") && (strstr(what, "read") || strstr(what, "open")))
    n->miscounted = true; /* it says so */
  world_trace(n->w, n, "disk: %s: %s", path, what);
}

static void log_line(void *arg, dw_log_level level, const char *line) {
  struct sim_node *n = arg;
  if (level >= DW_LOG_INFO) world_trace(n->w, n, "log: %s", line);
  static const char *const damage[] = {"orrupt",         "CORRUPT",        "mismatch", "is due",
                                       "beyond the end", "bytes expected", "not valid"};
  for (size_t i = 0; level >= DW_LOG_INFO && i < sizeof damage / sizeof *damage; i++)
    if (strstr(line, damage[i])) n->w->rot_reported = true;
}

static void engine_event(struct world *w, struct sim_node *n, void *arg);

static void step_at(struct world *w, struct sim_node *n, uint64_t at) {
  if (n->step_due && n->step_at_ns <= at) return;
  n->step_due = true;
  n->step_at_ns = at;
  world_at(w, at, n, engine_event, NULL);
}

void node_kick(struct world *w, struct sim_node *n) {
  if (n->state == NODE_UP) step_at(w, n, w->now + rng_skewed(&w->r_sched, 1000, w->plan.step_ns_max));
}

static void engine_event(struct world *w, struct sim_node *n, void *arg) {
  (void)arg;
  if (!n->step_due || n->step_at_ns > w->now) return; /* a later one is planned */
  n->step_due = false;
  if (n->in_engine || n->in_job || n->in_sync || n->stall_ns > w->now) {
    step_at(w, n, n->stall_ns > w->now ? n->stall_ns : w->now + 30000);
    return;
  }
  n->in_engine = true;
  n->on_stack++;
  bool more = engine_step(n->e);
  n->on_stack--;
  n->in_engine = false;
  if (!node_up(n)) return;
  check_node(w, n);
  workload_poll(w, n);
  step_at(w, n,
          more ? w->now + rng_skewed(&w->r_sched, 1000, w->plan.step_ns_max)
               : w->now + rng_between(&w->r_sched, 15 * MS, 50 * MS));
}

void node_start(struct world *w, struct sim_node *n) {
  dw_options o = w->plan.opt;
  if (n->state != NODE_DOWN) return;
  o.role = roles_configured(w, n);
  if (!lease_may_open(w, n, &o)) return;
  o.node_id = (uint64_t)n->idx + 1;
  o.log = log_line;
  o.log_arg = n;
  snprintf(n->listen, sizeof n->listen, "n%d:7400", n->idx);
  snprintf(n->primary, sizeof n->primary, "n%d:7400", n->upstream);
  n->peers[0] = '\0';
  for (unsigned i = 0; i < w->plan.nodes; i++)
    snprintf(n->peers + strlen(n->peers), sizeof n->peers - strlen(n->peers), "%sn%u:7400", i ? "," : "", i);
  o.peers = n->peers;
  o.listen = n->listen;
  o.auto_rejoin = (w->plan.auto_rejoin >> n->idx) & 1;
  o.primary = o.role == DW_FOLLOWER && n->upstream >= 0 ? n->primary : NULL;
  struct engine_config config = {.env = disk_boot(n->disk), .store = store_mem(), .threads = false};
  n->state = NODE_OPENING;
  n->life++;
  n->step_due = n->miscounted = false;
  if (!w->healing && w->plan.crashes && rng_percent(&w->r_fault, 15))
    disk_kill_after(n->disk, (uint32_t)rng_skewed(&w->r_fault, 1, 400));
  n->on_stack++;
  world_trace(w, n, "starts as %s", o.role == DW_PRIMARY ? "primary" : "follower");
  int rc = node_open_engine(SIM_DIR, &o, &config, &n->e);
  n->on_stack--;
  w->st.restarts++;
  if (rc) {
    char why[400];
    dw_error_copy(why, sizeof why);
    lease_opened(w, n, rc);
    n->e = NULL;
    n->state = NODE_DOWN;
    n->life++;
    n->down_ns = w->now;
    bool alive = disk_alive(n->disk);
    disk_release(n->disk);
    world_trace(w, n, "does not start: %s: %s", dw_rc_name(rc), why);
    if (alive) faults_open_failed(w, n, rc, why);
    return;
  }
  n->state = NODE_UP;
  if (!disk_alive(n->disk)) return; /* reaped soon */
  n->open_failures = 0;
  check_opened(w, n);
  disk_forget_lost(n->disk);
  lease_opened(w, n, DW_OK);
  step_at(w, n, w->now + 1000);
}

static void gone(struct world *w, struct sim_node *n) {
  lease_gone(w, n);
  workload_node_gone(w, n);
  roles_gone(n);
  n->state = NODE_CLOSING;
  n->life++;
}

/* A dead process's objects are freed by closing it: its disk and its sockets are gone already. */
void node_reap(struct world *w, struct sim_node *n) {
  if (n->state != NODE_UP || disk_alive(n->disk) || n->on_stack) return;
  world_trace(w, n, "is dead (%s)", n->cutting ? "power cut" : "crash");
  net_node_died(n, n->cutting);
  gone(w, n);
  uint64_t since = w->now;
  n->on_stack++;
  (void)dw_close(n->e);
  n->on_stack--;
  lease_stood_still(w, since);
  n->e = NULL;
  n->state = NODE_DOWN;
  n->life++; /* what closing planned is void */
  n->down_ns = w->now;
  disk_release(n->disk);
  if (n->cutting) {
    disk_power_cut(n->disk);
    w->st.power_cuts++;
    model_lost_unsynced(n); /* what is left is certain */
    n->boot_ns = w->now;
    n->mono_base = rng_between(&w->r_fault, 5, 100) * SEC;
    n->wall_off_ns += (int64_t)rng_below(&w->r_fault, 2 * SEC) - (int64_t)SEC;
  } else {
    w->st.crashes++;
    if (disk_lost_pages(n->disk)) model_lost_unsynced(n);
  }
  n->cutting = false;
}

void node_kill(struct world *w, struct sim_node *n, bool power) {
  if (!node_up(n)) return;
  n->cutting = power;
  disk_kill(n->disk);
  node_reap(w, n);
}

void node_stop_cleanly(struct world *w, struct sim_node *n) {
  if (!node_up(n) || n->on_stack || lease_stops_first(w, n)) return;
  world_trace(w, n, "stops");
  gone(w, n);
  uint64_t since = w->now;
  n->on_stack++;
  int rc = dw_close(n->e);
  n->on_stack--;
  lease_stood_still(w, since);
  world_trace(w, n, "stopped: %s", dw_rc_name(rc));
  n->e = NULL;
  n->state = NODE_DOWN;
  n->life++;
  n->down_ns = w->now;
  if (disk_lost_pages(n->disk)) model_lost_unsynced(n);
  disk_release(n->disk);
}

/* ---- a run ----------------------------------------------------------------------------------- */

static void world_make(struct world *w, uint64_t seed, bool trace) {
  *w = (struct world){.seed = seed, .trace = trace};
  w->r_plan = rng_make(seed, 10);
  w->r_net = rng_make(seed, 11);
  w->r_sched = rng_make(seed, 12);
  w->r_work = rng_make(seed, 13);
  w->r_fault = rng_make(seed, 14);
  w->r_role = rng_make(seed, 15);
  w->r_lease = rng_make(seed, 16);
  w->r_rejoin = rng_make(seed, 17);
  w->now = 1000 * SEC;
  plan_draw(w);
  model_init(w);
  net_init(w);
  for (unsigned i = 0; i < w->plan.nodes; i++) {
    struct sim_node *n = &w->node[i];
    *n =
        (struct sim_node){.w = w, .idx = (int)i, .role = i ? DW_FOLLOWER : DW_PRIMARY, .upstream = w->plan.upstream[i]};
    n->rate_ppm = (int32_t)rng_between(&w->r_plan, 0, 20000) - 10000;
    n->boot_ns = w->now;
    n->mono_base = rng_between(&w->r_plan, 1, 1000) * SEC;
    n->wall_off_ns = (int64_t)rng_between(&w->r_plan, 0, 20 * SEC) - (int64_t)(10 * SEC);
    struct disk_watch watch = {.ctx = n,
                               .mono_ns = node_mono,
                               .wall_ns = node_wall,
                               .attempt = model_attempt,
                               .wrote = model_wrote,
                               .synced = model_synced,
                               .gone = model_gone,
                               .syncing = in_fdatasync,
                               .fault = faulted,
                               .step = rejoin_step};
    n->disk = disk_create(seed * SIM_NODES + i, &watch);
    disk_rates(n->disk)->writeback = w->plan.rates.writeback;
    disk_rates(n->disk)->tear_in_sector = w->plan.rates.tear_in_sector;
  }
}

static void sum_up(struct world *w, struct sim_stats *sum) {
  uint64_t *to = (uint64_t *)sum;
  const uint64_t *from = (const uint64_t *)&w->st;
  w->st.seeds = 1;
  w->st.virtual_ns = w->now - 1000 * SEC;
  for (size_t i = 0; i < sizeof *sum / sizeof *to; i++) to[i] += from[i];
}

void world_run(struct world *w, uint64_t seed, bool trace, struct sim_stats *sum) {
  world_make(w, seed, trace);
  if (trace) plan_print(w);
  lease_start(w);
  for (unsigned i = 0; i < w->plan.nodes; i++) node_start(w, &w->node[i]);
  workload_start(w);
  faults_start(w);
  roles_start(w);
  lease_faults_start(w);
  rejoin_start(w);
  uint64_t end = w->now + w->plan.run_ns;
  while (w->now < end && w->heap_n) run_one(w);

  w->healing = true;
  w->heal_ns = w->now;
  faults_end(w);
  world_trace(w, NULL, "faults end");
  uint64_t patience = w->now + 180 * SEC, next_look = w->now;
  for (;;) {
    if (w->heap_n)
      run_one(w);
    else
      w->now = next_look; /* every node is down: only the operator is left */
    if (w->now < next_look) continue;
    next_look = w->now + 200 * MS;
    faults_operate(w);
    if (workload_idle(w) && check_converged(w)) break;
    if (w->now > patience)
      world_violation(w, NULL, "liveness",
                      "180 s after the last fault not everybody has caught up, or a write is pending");
  }
  world_trace(w, NULL, "converged");
  for (unsigned i = 0; i < w->plan.nodes; i++) check_files(w, &w->node[i]);
  lease_end(w);
  for (unsigned i = 0; i < w->plan.nodes; i++) node_stop_cleanly(w, &w->node[i]);
  sum_up(w, sum);
  for (unsigned i = 0; i < w->plan.nodes; i++) disk_destroy(w->node[i].disk);
  net_free(w);
  lease_free(w);
  model_free(w);
  free(w->heap);
}
