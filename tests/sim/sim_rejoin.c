/* Rejoining: what a node's log gives up because the history that it joins has not got it, and whether it is kept.
 *
 *   X:  ... a -- b1 -- b2 -- b3          X was a primary, or followed one; whom it follows now has a -- c1 -- c2
 *            \                           DIR/diverged/EPOCH-LSN.blocks has to hold b1 b2 b3, synced with its name,
 *   U:        c1 -- c2                   before the first file of X's log is cut, dropped or left by NODE
 *
 * What must be kept is known from the tree and from the disks, whatever X says: the path of X's tail, as far as it
 * stands in the segments of X's log, without what U's log had when X came to U. What is kept is read from the
 * durable state of X's disk, at the last moment: when the first of the log's names is about to change (rejoin_step).
 * From then on nothing counts any more (`sealed`) until the log was seen to be another one (rejoin_gave_up), be it by
 * the same process or by the next one.
 *
 * A container is judged, too, when it appears: whole, byte for byte what was written, up to the end of X's log, not
 * longer, nothing in it that U has, nothing left out that X's log still had.
 */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/diverged.h"
#include "wal/base/hash.h"

typedef unsigned long long ull;

#define DIVERGED_PATH SIM_DIR "/" DIVERGED_DIR

static bool ends_with(const char *s, const char *end) {
  size_t n = strlen(s), k = strlen(end);
  return n >= k && strcmp(s + n - k, end) == 0;
}

static uint16_t bit(const struct sim_node *n) {
  return (uint16_t)(1u << n->idx);
}

/* ---- whose history ----------------------------------------------------------------------------- */

static struct sim_node *source(struct world *w, const struct sim_node *n) {
  return &w->node[n->dial_to];
}

/* The node that n asked to be let in has r, and had it all the time since. */
static bool has(struct world *w, struct sim_node *n, const struct rec *r) {
  const struct sim_node *u = source(w, n);
  return u != n && u->tail && u->replaced_ns < n->dial_ns && model_before(w, r, u->tail);
}

/* It has r, or may have had it when it was asked. */
static bool may_have(struct world *w, struct sim_node *n, const struct rec *r) {
  const struct sim_node *u = source(w, n);
  if (u == n) return false;
  return (u->tail && model_before(w, r, u->tail)) || (u->replaced_ns >= n->dial_ns && (r->written & bit(u)));
}

/* ---- reading a container ------------------------------------------------------------------------ */

struct container {
  struct diverged_header h;
  struct rec *first, *last;
  uint64_t commits;
};

static bool same_pos(const struct wal_pos *pos, const struct rec *r) {
  return r && pos->lsn == r->last_lsn && hash128_eq(&pos->chain, &r->chain);
}

/* NULL: it is whole, and each block in it is one that was written. Else what is wrong. */
static const char *read_container(const struct world *w, const uint8_t *p, uint64_t size, struct container *c) {
  *c = (struct container){0};
  uint64_t off = DIVERGED_HEADER_BYTES, blocks = 0;
  if (diverged_header_decode(p, size, &c->h)) return "its header is not valid";
  if (size - off != c->h.bytes) return "it is not as long as it says";
  while (off < size) {
    struct block_header b;
    if (size - off < WAL_BLOCK_HEADER_BYTES || block_header_decode(p + off, &b)) return "a block is not valid";
    size_t n = block_total_bytes(&b);
    struct rec *r = model_find(w, &b.chain);
    if (n > size - off) return "a block is cut off";
    if (!r || hash64(p + off, n) != r->bytes_hash) return "a block is not, byte for byte, one that was written";
    if (c->last && r->parent != c->last) return "a block does not follow the one before it";
    if (!c->first) c->first = r;
    c->last = r;
    c->commits += r->commits;
    blocks++;
    off += n;
  }
  if (!c->first) return "it holds nothing";
  if (blocks != c->h.blocks || c->commits != c->h.commits) return "it does not hold as much as it says";
  if (!same_pos(&c->h.from, c->first->parent) || !same_pos(&c->h.end, c->last))
    return "it does not stand where it says";
  return NULL;
}

/* ---- what a log holds, and what is kept of it ---------------------------------------------------- */

struct look {
  struct sim_node *n;
  const char *dir;
};

static void segment_held(void *arg, const char *name, struct inode *i, const uint8_t *bytes, uint64_t size) {
  const struct look *k = arg;
  (void)bytes, (void)size;
  if (ends_with(name, ".wal")) model_mark_held(i, k->n->held_stamp);
}

static void log_dir_held(void *arg, const char *name) {
  struct look *k = arg;
  char dir[64];
  if (strncmp(name, "wal-", 4) != 0) return;
  snprintf(dir, sizeof dir, SIM_DIR "/%.40s", name);
  disk_each(k->n->disk, dir, false, segment_held, k);
}

static void look_at_log(struct sim_node *n) {
  n->held_stamp = ++n->w->stamp;
  disk_each_dir(n->disk, SIM_DIR, log_dir_held, &(struct look){.n = n});
}

static void container_saved(void *arg, const char *name, struct inode *i, const uint8_t *bytes, uint64_t size) {
  struct sim_node *n = arg;
  struct container c;
  (void)i;
  if (!ends_with(name, ".blocks") || read_container(n->w, bytes, size, &c)) return;
  for (struct rec *r = c.last; r != c.first->parent; r = r->parent) r->saved |= bit(n);
}

/* ---- a container appears ------------------------------------------------------------------------ */

static void judge(struct world *w, struct sim_node *n, const char *name, const struct container *c) {
  char begin[64];
  struct rec *r;
  snprintf(begin, sizeof begin, "%llu-%llu", (ull)0, (ull)c->h.from.lsn + 1);
  for (r = c->last; r != c->first->parent; r = r->parent)
    if (r->commits) snprintf(begin, sizeof begin, "%llu-%llu", (ull)r->epoch, (ull)c->h.from.lsn + 1);
  if (strncmp(name, begin, strlen(begin)) != 0 || (name[strlen(begin)] != '.' && name[strlen(begin)] != '-'))
    world_violation(w, n, "diverged writes", "%s begins with %s", name, begin);
  if (c->last != n->tail)
    world_violation(w, n, "diverged writes", "%s ends at LSN %llu, the log at LSN %llu", name, (ull)c->last->last_lsn,
                    n->tail ? (ull)n->tail->last_lsn : 0ull);
  for (r = c->last; r != c->first->parent; r = r->parent)
    if (has(w, n, r))
      world_violation(w, n, "diverged writes", "%s holds LSN %llu of epoch %llu, which n%d has, too", name,
                      (ull)r->last_lsn, (ull)r->epoch, n->dial_to);
  bool all = true;
  look_at_log(n);
  for (; r && !may_have(w, n, r); r = r->parent) {
    if (!r->commits) continue;
    all = false;
    if (r->held == n->held_stamp)
      world_violation(w, n, "diverged writes", "%s begins behind LSN %llu, the log has LSN %llu, too", name,
                      (ull)c->h.from.lsn, (ull)r->last_lsn);
  }
  if (!all && c->h.complete)
    world_violation(w, n, "diverged writes", "%s says that it is complete, its log had been trimmed", name);
}

struct appeared {
  struct sim_node *n;
  const char *name;
};

static void container_appears(void *arg, const char *name, struct inode *i, const uint8_t *bytes, uint64_t size) {
  const struct appeared *a = arg;
  struct world *w = a->n->w;
  struct container c;
  (void)i;
  if (strcmp(name, a->name) != 0) return;
  const char *wrong = read_container(w, bytes, size, &c);
  if (wrong) world_violation(w, a->n, "diverged writes", "%s: %s", name, wrong);
  judge(w, a->n, name, &c);
  w->st.partings++;
  w->st.partial += !c.h.complete;
  w->st.kept_commits += c.commits;
  world_trace(w, a->n, "keeps LSN %llu to %llu, which n%d has not, in %s", (ull)c.first->first_lsn,
              (ull)c.last->last_lsn, a->n->dial_to, name);
}

/* ---- what goes wrong meanwhile ------------------------------------------------------------------ */

static void source_dies(struct world *w, struct sim_node *none, void *arg) {
  (void)none;
  if (!w->healing) roles_kill(w, arg);
}

static void source_cut_off(struct world *w, struct sim_node *n) {
  uint64_t until = w->now + rng_skewed(&w->r_rejoin, 50 * MS, 4 * SEC);
  w->blocked_until[n->idx][n->dial_to] = w->blocked_until[n->dial_to][n->idx] = until;
  w->st.partitions++;
}

/* In the middle of writing a container, between that and the cut, or while a checkpoint comes. */
static void trouble(struct world *w, struct sim_node *n, const char *when) {
  struct rng *r = &w->r_rejoin;
  if (w->healing || !rng_percent(r, w->plan.rejoin_trouble_pct)) return;
  w->st.rejoin_trouble++;
  unsigned kind = (unsigned)rng_below(r, 9);
  world_trace(w, n, "trouble %u %s", kind, when);
  switch (kind) {
  case 0:
  case 1:
    n->cutting = kind == 1;
    disk_kill_after(n->disk, (uint32_t)rng_skewed(r, 1, 30));
    break;
  case 2:
    n->cutting = true;
    disk_kill_after(n->disk, (uint32_t)rng_between(r, 1, 8));
    break;
  case 3:
    *disk_rates(n->disk) = (struct disk_rates){.eio_write = 100000, .eio_sync = 200000, .eio_read = 50000};
    faults_disk_ends(w, n);
    break;
  case 4: faults_disk(w, n, true); break;
  case 5:
    for (int i = 0; w->plan.rot && i < 4; i++) faults_rot(w, n);
    break;
  case 6:
    if (w->plan.promotions && !w->lease) roles_promote_soon(w, 500 * MS);
    break;
  case 7: world_at(w, w->now + rng_skewed(r, 1000, 200 * MS), NULL, source_dies, source(w, n)); break;
  default: source_cut_off(w, n);
  }
}

/* ---- the disk tells ----------------------------------------------------------------------------- */

/* The first of the names by which the log is found is about to go. */
static void seal(struct sim_node *n) {
  if (n->sealed || n->state != NODE_UP) return;
  n->sealed = true;
  disk_each(n->disk, DIVERGED_PATH, true, container_saved, n);
  look_at_log(n);
}

static void in_diverged(struct sim_node *n, enum disk_step step, const char *path) {
  const char *name = strrchr(path, '/') + 1;
  struct world *w = n->w;
  bool container = ends_with(name, ".blocks");
  if (container && step == DISK_REMOVES) world_violation(w, n, "diverged writes", "%s is removed", path);
  if (step == DISK_CREATED) trouble(w, n, "while it keeps what only it has");
  if (!container || step != DISK_RENAMED) return;
  disk_each(n->disk, DIVERGED_PATH, false, container_appears, &(struct appeared){n, name});
  n->keeping = true;
  trouble(w, n, "when it has kept what only it has");
}

void rejoin_step(void *ctx, enum disk_step step, const char *path) {
  struct sim_node *n = ctx;
  if (strncmp(path, DIVERGED_PATH "/", strlen(DIVERGED_PATH) + 1) == 0) {
    in_diverged(n, step, path);
    return;
  }
  if (step == DISK_RENAMED && strncmp(path, SIM_DIR "/store-", 7 + strlen(SIM_DIR)) == 0) n->switching = true;
  bool log_goes = strstr(path, "/wal-") && ends_with(path, ".wal") && (step == DISK_REPLACES || step == DISK_REMOVES);
  if (log_goes || (n->switching && step == DISK_REPLACES && strcmp(path, SIM_DIR "/NODE") == 0)) seal(n);
  if (n->keeping && step == DISK_CREATED && strstr(path, "/incoming/")) trouble(n->w, n, "while a checkpoint comes");
}

void rejoin_dialled(struct sim_node *n, int whom) {
  n->dial_to = whom;
  n->dial_ns = n->w->now;
}

/* ---- sidecars ----------------------------------------------------------------------------------- */

struct sidecar {
  struct sim_node *n;
  const struct rec *last;
  char name[100];
  bool wanted, found;
};

static void sidecar_found(void *arg, const char *name, struct inode *i, const uint8_t *bytes, uint64_t size) {
  struct sidecar *k = arg;
  (void)i, (void)bytes;
  k->found |= size > 2 && strcmp(name, k->name) == 0;
}

static void container_of(void *arg, const char *name, struct inode *i, const uint8_t *bytes, uint64_t size) {
  struct sidecar *k = arg;
  struct container c;
  (void)i;
  if (!ends_with(name, ".blocks") || read_container(k->n->w, bytes, size, &c) || c.last != k->last) return;
  snprintf(k->name, sizeof k->name, "%.*s.json", (int)(strlen(name) - strlen(".blocks")), name);
  k->wanted = true;
  disk_each(k->n->disk, DIVERGED_PATH, true, sidecar_found, k);
}

/* Of the file with the end of the log that went. One that an attempt before a crash left may have none. */
static void check_sidecar(struct world *w, struct sim_node *n, const struct rec *last) {
  struct sidecar k = {.n = n, .last = last};
  disk_each(n->disk, DIVERGED_PATH, true, container_of, &k);
  if (k.wanted && !k.found && !n->rotted) world_violation(w, n, "diverged writes", "%s is not there", k.name);
}

/* ---- the log has become another one -------------------------------------------------------------- */

struct counted {
  struct world *w;
  uint64_t files, commits;
};

static void count(void *arg, const char *name, struct inode *i, const uint8_t *bytes, uint64_t size) {
  struct counted *k = arg;
  struct container c;
  (void)i;
  if (!ends_with(name, ".blocks")) return;
  k->files++;
  if (!read_container(k->w, bytes, size, &c)) k->commits += c.commits;
}

static void check_counts(struct world *w, struct sim_node *n) {
  struct counted k = {.w = w};
  dw_status s;
  if (n->rotted || n->miscounted) return;
  disk_each(n->disk, DIVERGED_PATH, false, count, &k);
  dw_status_get(n->e, &s);
  if (s.diverged_files != k.files || s.diverged_commits != k.commits)
    world_violation(w, n, "diverged is counted", "%llu commits in %llu files, the status says %llu in %llu",
                    (ull)k.commits, (ull)k.files, (ull)s.diverged_commits, (ull)s.diverged_files);
}

void rejoin_gave_up(struct world *w, struct sim_node *n, struct rec *had, struct rec *to, const struct rec *applied) {
  unsigned lost = 0;
  for (struct rec *r = had; r && !model_before(w, r, to); r = r->parent) {
    if (!r->commits || may_have(w, n, r)) continue;
    lost += r->commits;
    bool kept = (r->saved & bit(n)) || n->rotted; /* what rots in a synced file is the disk's to answer for */
    if (!kept && (!n->sealed || r->held == n->held_stamp))
      world_violation(w, n, "diverged writes", "LSN %llu to %llu of epoch %llu, which n%d has not, went%s",
                      (ull)r->first_lsn, (ull)r->last_lsn, (ull)r->epoch, n->dial_to,
                      n->sealed ? " before they were kept" : " and are not kept");
    if (r->saved & bit(n)) r->given |= bit(n);
  }
  n->sealed = n->switching = n->keeping = false;
  bool gives_way = applied && !model_before(w, applied, to);
  if (gives_way && lost && !n->told_rejoin && !((w->plan.auto_rejoin >> n->idx) & 1))
    world_violation(w, n, "rejoins when told", "LSN %llu was applied and is given up, nobody asked for that",
                    (ull)applied->last_lsn);
  w->st.rejoined += gives_way;
  if (lost) world_trace(w, n, "gives up %u commits behind LSN %llu", lost, to ? (ull)to->last_lsn : 0ull);
  if (n->state == NODE_UP && lost) {
    check_counts(w, n);
    check_sidecar(w, n, had);
  }
}

void rejoin_looked(struct world *w, struct sim_node *n) {
  (void)w;
  n->sealed = n->switching = false;
}

void rejoin_opened(struct world *w, struct sim_node *n) {
  n->sealed = n->switching = n->keeping = n->told_rejoin = false;
  n->rotted = n->damaged;
  check_counts(w, n);
}

void rejoin_wiped(struct world *w, struct sim_node *n) {
  for (struct rec *r = w->recs; r; r = r->all_next) {
    r->saved = (uint16_t)(r->saved & ~bit(n));
    r->given = (uint16_t)(r->given & ~bit(n));
  }
  n->replaced_ns = w->now;
  n->sealed = n->switching = n->keeping = n->told_rejoin = n->rotted = false;
}

/* ---- the operator ------------------------------------------------------------------------------- */

/* It has been refused for a second: it has applied what the newest primary has not. */
void rejoin_operate(struct world *w, struct sim_node *n, const struct sim_node *primary) {
  uint64_t patience = (w->plan.auto_rejoin >> n->idx) & 1 ? 6 * SEC : 1 * SEC;
  if (w->now - n->refused_ns < patience || (n->told_ns && w->now - n->told_ns < 3 * SEC)) return;
  if (!roles_rejoin(w, n, primary)) return;
  n->told_ns = w->now;
  w->st.refusals++;
}

/* ---- the end ------------------------------------------------------------------------------------ */

void rejoin_check_files(struct world *w, struct sim_node *n) {
  check_counts(w, n);
  if (n->rotted) return;
  for (struct rec *r = w->recs; r; r = r->all_next) r->saved = (uint16_t)(r->saved & ~bit(n));
  disk_each(n->disk, DIVERGED_PATH, true, container_saved, n);
  for (const struct rec *r = w->recs; r; r = r->all_next)
    if (r->given & bit(n) & ~r->saved)
      world_violation(w, n, "diverged writes", "LSN %llu of epoch %llu was kept, and is not any more", (ull)r->last_lsn,
                      (ull)r->epoch);
}

/* ---- what a seed draws, and what it sets going ---------------------------------------------------- */

void rejoin_plan(struct world *w) {
  struct plan *p = &w->plan;
  struct rng *r = &w->r_rejoin;
  unsigned all = (1u << p->nodes) - 1, kind = (unsigned)rng_below(r, 10);
  p->auto_rejoin = kind < 4 ? 0 : kind < 7 ? all : (uint32_t)rng_below(r, all + 1);
  static const uint32_t often[] = {0, 10, 30, 60};
  p->rejoin_trouble_pct = often[rng_below(r, 4)];
  p->rejoins = rng_percent(r, 25) && !w->lease; /* what it sets going is an operator's */
  p->promotions |= p->rejoins;
}

static void hand_over_event(struct world *w, struct sim_node *none, void *arg) {
  (void)none, (void)arg;
  if (!w->healing) roles_hand_over(w);
}

/* The primary lives on, cut off from the others, and some clients with it; another one is promoted meanwhile. It
 * returns by itself, perhaps in the middle of a handover. */
static void outlived_event(struct world *w, struct sim_node *none, void *arg) {
  const struct sim_node *p = &w->node[w->primary];
  struct rng *r = &w->r_rejoin;
  (void)none, (void)arg;
  if (w->healing) return;
  if (node_up(p)) {
    uint64_t until = w->now + rng_skewed(r, 300 * MS, 5 * SEC);
    for (int i = 0; i < (int)w->plan.nodes; i++)
      if (i != p->idx) w->blocked_until[p->idx][i] = w->blocked_until[i][p->idx] = until;
    w->st.partitions++;
    world_trace(w, p, "is cut off and lives on for %.3f s", (double)(until - w->now) / 1e9);
    roles_promote_soon(w, 800 * MS);
    if (rng_percent(r, 40)) world_at(w, until + rng_below(r, 300 * MS), NULL, hand_over_event, NULL);
  }
  world_at(w, w->now + rng_skewed(r, 300 * MS, 8 * SEC), NULL, outlived_event, NULL);
}

void rejoin_start(struct world *w) {
  if (w->plan.rejoins && w->plan.fault_gap_ns)
    world_at(w, w->now + rng_between(&w->r_rejoin, 300 * MS, 1500 * MS), NULL, outlived_event, NULL);
}
