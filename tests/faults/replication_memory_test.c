/* Shippers, receivers, quorum and positions while one allocation fails: a primary, a follower of it and a follower of
 * that one go through streaming, cut links, a divergent tail, a new epoch and a bootstrap, in memory and on one thread.
 *
 * Whatever fails: an acknowledgement never runs ahead of the disk it speaks for, logs stay prefixes of one history,
 * connections that end say why, and once there is memory again everybody catches up.
 */
#include <errno.h>
#include <string.h>

#include "tests/support/check_main.h"
#include "tests/support/fault_calls.h"
#include "tests/support/repl_sim.h"

static struct sim sim;
static struct sim_node *p, *f, *g, *late;

static void check_acks(const struct sim_node *server) {
  for (size_t i = 0; i < server->quorum.count; i++) {
    const struct quorum_follower *q = &server->quorum.followers[i];
    for (size_t k = 0; k < sim.count; k++) {
      const struct sim_node *n = sim.nodes[k];
      if (n->id != q->node_id) continue;
      FAULT_CHECK(q->durable <= n->durable, "%s has LSN %llu durable, %s counts %llu", n->name,
                  (unsigned long long)n->durable, server->name, (unsigned long long)q->durable);
      FAULT_CHECK(q->applied <= n->applied.lsn, "%s has applied LSN %llu, %s counts %llu", n->name,
                  (unsigned long long)n->applied.lsn, server->name, (unsigned long long)q->applied);
    }
  }
}

static void check_all(void) {
  for (size_t i = 0; i < sim.count; i++) {
    const struct sim_node *n = sim.nodes[i];
    check_acks(n);
    if (n->role == DW_FOLLOWER && n->closes)
      FAULT_CHECK(n->last_close[0], "%s lost its link and does not say why", n->name);
    FAULT_CHECK(n->applied.lsn <= n->log.end.lsn && n->durable <= n->log.end.lsn, "%s has more than its log", n->name);
  }
}

static void pass(uint64_t ms) {
  for (uint64_t t = 0; t < ms; t += 50) {
    sim_pass(&sim, 50);
    check_all();
  }
}

static void write_some(unsigned n) {
  const struct block_need needs[] = {sim_async, sim_durable, sim_received, sim_applied};
  for (unsigned i = 0; i < n; i++) sim_write(p, needs[i % 4], 200 + 1000 * (i % 3));
}

/* A tail that its upstream never had: as if an older primary had shipped it before it went away. */
static void diverge(struct sim_node *n) {
  sim_disconnect(n);
  n->hold_apply = true;
  bool whole = sim_equal(n, p); /* or it would take LSNs that its epoch has used already */
  for (int i = 0; whole && i < 3; i++)
    memlog_write(&n->log, n->epochs[n->epoch_count - 1].epoch, 1, 77, sim_async, 999, 0);
  sim_new_epoch(p);
}

static void life(void) {
  write_some(8);
  pass(200);
  f->link.hole_up = true;
  write_some(4);
  pass(100);
  f->link.hole_up = false;
  sim_disconnect(f);
  write_some(3);
  pass(400);
  diverge(g);
  g->hold_apply = false;
  pass(500);
  memlog_trim(&p->log, p->log.n - 2);
  late = sim_follower(&sim, "late", 4, p);
  for (int i = 0; i < SIM_FILES; i++) p->file_bytes[i] = (uint64_t)i * 50001;
  pass(100);
  write_some(4);
  pass(600);
  sim_restart(f);
  write_some(2);
  pass(300);
}

static void one_life(const struct fault_walk *w) {
  sim_init(&sim, 42);
  p = sim_primary(&sim, "p", 1);
  f = sim_follower(&sim, "f", 2, p);
  g = sim_follower(&sim, "g", 3, f);
  faults_arm(w);
  life();
  if (!faults_disarm()) ck_assert(g->truncates && late->installs && f->closes); /* this is what the life is about */
  for (int i = 0;
       i < 400 && !(sim_equal(f, p) && sim_equal(g, p) && sim_equal(late, p) && f->durable == p->log.end.lsn); i++)
    pass(100);
  FAULT_CHECK(sim_equal(f, p), "f is at LSN %llu of %llu, its link ended: %s", (unsigned long long)f->log.end.lsn,
              (unsigned long long)p->log.end.lsn, f->last_close);
  FAULT_CHECK(sim_equal(g, p), "g is at LSN %llu of %llu, its link ended: %s", (unsigned long long)g->log.end.lsn,
              (unsigned long long)p->log.end.lsn, g->last_close);
  FAULT_CHECK(sim_equal(late, p), "late is at LSN %llu of %llu, its link ended: %s",
              (unsigned long long)late->log.end.lsn, (unsigned long long)p->log.end.lsn, late->last_close);
  pass(1000);
  FAULT_CHECK(sim_known(p, 2) && sim_known(p, 2)->durable == p->log.end.lsn, "the primary does not know what f has");
  sim_free(&sim);
}

START_TEST(every_allocation_of_replication_fails_in_turn) {
  FAULT_WALK(w, FAULT_MEMORY, ENOMEM, FAULT_ONCE) one_life(&w);
}
END_TEST

START_TEST(memory_stays_away_from_any_allocation_on) {
  FAULT_WALK(w, FAULT_MEMORY, ENOMEM, FAULT_FROM) one_life(&w);
}
END_TEST

int main(void) {
  Suite *s = suite_create("replication without memory");
  TCase *t = tcase_create("memory");
  tcase_set_timeout(t, 300);
  tcase_add_test(t, every_allocation_of_replication_fails_in_turn);
  tcase_add_test(t, memory_stays_away_from_any_allocation_on);
  suite_add_tcase(s, t);
  return check_main(s);
}
