/* What a seed draws. Ranges are wide and skewed to what hurts: small segments, short time-outs, small retention. */
#include "tests/sim/sim.h"

#include <stdio.h>

uint64_t plan_pick(struct rng *r, const uint64_t *of, size_t n) {
  return of[rng_below(r, n)];
}

static void draw_options(struct plan *p, struct rng *r) {
  dw_options *o = &p->opt;
  dw_options_init(o);
  o->mode = (dw_mode)PICK(r, DW_ASYNC, DW_SEMI_SYNC, DW_SYNC, DW_SYNC);
  o->ack = (dw_ack)PICK(r, DW_ACK_RECEIVED, DW_ACK_DURABLE, DW_ACK_DURABLE, DW_ACK_APPLIED);
  o->acks = p->nodes > 2 && rng_percent(r, 30) ? 2 : 1;
  o->ack_timeout_ms = (uint32_t)PICK(r, 150, 400, 1000, 3000);
  o->durability = rng_percent(r, 60) ? DW_DURABILITY_DISK : DW_DURABILITY_OS;
  o->sync_interval_ms = (uint32_t)PICK(r, 20, 100, 500, 2000);
  o->segment_bytes = PICK(r, 65536, 65536, 65536, 131072);
  o->retain_bytes = PICK(r, 65536, 131072, 262144, 1u << 30);
  o->retain_ms = PICK(r, 500, 5000, 86400000);
  o->memtable_bytes = PICK(r, 65536, 65536, 262144);
  o->zstd_level = rng_percent(r, 40) ? 0 : 1; /* 0: no packs either */
  o->heartbeat_ms = (uint32_t)PICK(r, 50, 100, 300, 500);
  o->peer_timeout_ms = o->heartbeat_ms * (uint32_t)PICK(r, 3, 5, 10);
}

static void draw_load(struct plan *p, struct rng *r) {
  p->run_ns = rng_skewed(r, 1500, 20000) * MS;
  p->batch_max = (uint32_t)PICK(r, 1, 2, 8);
  p->burst = (uint32_t)PICK(r, 1, 1, 4, 16);
  uint64_t writes = rng_skewed(r, 40, 1500), bytes = PICK(r, 2000, 20000, 200000, 600000); /* all values together */
  p->write_gap_ns = p->run_ns / writes * (p->burst + 1) / 2;
  p->read_gap_ns = p->run_ns / rng_between(r, 20, 200);
  p->value_max = (uint32_t)(bytes * 4 / (writes * (p->batch_max + 1))) + 9;
  p->big_ppm = rng_percent(r, 10) ? 3000 : 0;
  p->default_pct = (uint32_t)PICK(r, 0, 50, 100);
  p->delay_ns_max = (uint32_t)PICK(r, 200000, 2 * MS, 20 * MS, 100 * MS);
  p->job_ns_max = (uint32_t)PICK(r, 1 * MS, 20 * MS, 400 * MS);
  p->step_ns_max = (uint32_t)PICK(r, 50000, 1 * MS, 20 * MS);
  p->pause_pct = (uint32_t)PICK(r, 0, 10, 50);
}

static void draw_faults(struct plan *p, struct rng *r) {
  p->fault_gap_ns = rng_percent(r, 90) ? PICK(r, 200 * MS, 600 * MS, 2 * SEC) : 0;
  p->crashes = rng_percent(r, 70);
  p->power = rng_percent(r, 60);
  p->wipes = rng_percent(r, 25);
  p->partitions = rng_percent(r, 50);
  p->cuts = rng_percent(r, 60);
  p->stalls = rng_percent(r, 40);
  p->wall_jumps = rng_percent(r, 50);
  p->disk_errors = rng_percent(r, 30);
  p->full = rng_percent(r, 25);
  p->rot = rng_percent(r, 25);
  p->failover = p->nodes > 2 && rng_percent(r, 25);
  p->rates = (struct disk_rates){.eio_read = rng_percent(r, 50) ? (uint32_t)PICK(r, 5000, 50000, 300000) : 0,
                                 .eio_write = rng_percent(r, 50) ? (uint32_t)PICK(r, 5000, 50000, 300000) : 0,
                                 .eio_sync = rng_percent(r, 50) ? (uint32_t)PICK(r, 5000, 50000, 300000) : 0,
                                 .no_space = rng_percent(r, 50) ? (uint32_t)PICK(r, 5000, 50000, 300000) : 0,
                                 .writeback = (uint32_t)PICK(r, 0, 20000, 200000),
                                 .tear_in_sector = rng_percent(r, 20) ? 100000 : 0};
}

/* A log that turns over all the time, on nodes that restart all the time: retention, recycling, bootstraps. */
static void draw_churn(struct plan *p, struct rng *r) {
  p->run_ns = rng_between(r, 2000, 8000) * MS;
  p->write_gap_ns = p->run_ns / 250;
  p->burst = p->batch_max = 1;
  p->value_max = (uint32_t)PICK(r, 8000, 16000);
  p->opt.segment_bytes = p->opt.memtable_bytes = 65536;
  p->opt.retain_bytes = 65536;
  p->opt.retain_ms = 500;
  p->fault_gap_ns = PICK(r, 100 * MS, 300 * MS);
  p->crashes = true;
  p->wipes = rng_percent(r, 50);
}

void plan_draw(struct world *w) {
  struct plan *p = &w->plan;
  struct rng *r = &w->r_plan;
  p->nodes = (unsigned)PICK(r, 2, 2, 3, 3, 3, 4, 5);
  for (unsigned i = 0; i < p->nodes; i++) p->upstream[i] = i == 0 ? -1 : 0;
  if (p->nodes > 2 && rng_percent(r, 25)) p->upstream[p->nodes - 1] = 1; /* a cascade */
  draw_options(p, r);
  draw_load(p, r);
  draw_faults(p, r);
  if (rng_percent(r, 15)) draw_churn(p, r);
  p->promotions = p->failover || rng_percent(&w->r_role, 30);
  p->role_gap_ns = PICK(&w->r_role, 300 * MS, 1 * SEC, 3 * SEC);
  lease_draw(w);
  rejoin_plan(w);
}

void plan_print(const struct world *w) {
  const struct plan *p = &w->plan;
  const dw_options *o = &p->opt;
  printf("  plan: %u nodes%s, mode %d ack %d acks %u timeout %u ms durability %d sync every %u ms, segments %llu, "
         "retain %llu B "
         "%llu ms, memtable %llu, heartbeat %u peer timeout %u, zstd %d\n",
         p->nodes, p->upstream[p->nodes - 1] == 1 && p->nodes > 2 ? " (cascade)" : "", (int)o->mode, (int)o->ack,
         o->acks, o->ack_timeout_ms, (int)o->durability, o->sync_interval_ms, (unsigned long long)o->segment_bytes,
         (unsigned long long)o->retain_bytes, (unsigned long long)o->retain_ms, (unsigned long long)o->memtable_bytes,
         o->heartbeat_ms, o->peer_timeout_ms, o->zstd_level);
  printf(
      "  plan: %.0f s, a write every %.0f ms (burst %u, values to %u, batches to %u), delay to %.1f ms, pauses %u%%\n",
      (double)p->run_ns / 1e9, (double)p->write_gap_ns / 1e6, p->burst, p->value_max, p->batch_max,
      (double)p->delay_ns_max / 1e6, p->pause_pct);
  printf("  plan: faults every %.1f s:%s%s%s%s%s%s%s%s%s%s%s%s%s\n", (double)p->fault_gap_ns / 1e9,
         p->crashes ? " crash" : "", p->power ? " power" : "", p->wipes ? " wipe" : "",
         p->partitions ? " partition" : "", p->cuts ? " cut" : "", p->stalls ? " stall" : "",
         p->wall_jumps ? " wall-clock" : "", p->disk_errors ? " disk-errors" : "", p->full ? " full" : "",
         p->rot ? " rot" : "", p->failover ? " failover" : "", p->promotions ? " promotions" : "",
         p->rejoins ? " rejoins" : "");
  printf("  plan: auto_rejoin on nodes %02x, trouble at %u%% of the steps of a rejoin\n", p->auto_rejoin,
         p->rejoin_trouble_pct);
  lease_print(w);
}
