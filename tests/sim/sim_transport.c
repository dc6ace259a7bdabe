/* replication/transport_uv.h over a simulated network: byte streams with delay, fragments, full buffers, cuts at any
 * byte, one-way silence, half-open ends.
 *
 *   conn_send --> [pipe: in flight | arrived] --> input()          one pipe per direction of a link
 *                   each piece has a time of arrival; a blocked direction postpones it (TCP sends again)
 *
 * A node's loop turns when something is ready: pump, what has arrived, pump. Jobs run, and are reported done, at random
 * later times. A process that dies closes its sockets (the peer reads what was sent, then end or reset); a machine that
 * dies says nothing, and its peer finds out when it sends something to the new one, or by its own time-outs.
 */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/transport_uv.h"
#include "wal/base/status.h"

#define REST_BYTES 65536u
#define READ_BYTES 262144u

struct piece {
  uint64_t at;
  size_t n;
};

struct pipe {
  uint8_t *data; /* [0, arrived) is readable, the rest in flight */
  size_t n, cap, arrived, limit;
  struct piece *pieces;
  size_t pieces_n, pieces_cap;
  uint64_t last_at;
  bool ends, hole; /* ends: an end follows the bytes; hole: nothing arrives any more */
  bool planned;
  const char *why; /* static */
};

struct tp_conn {
  struct transport *t; /* NULL: its process is gone */
  struct link *link;
  int side;
  struct tp_conn *next_of_t;
  const struct conn_events *ev;
  void *owner;
  bool attached, closed, reading, dead, writing, dialler, connected, said_connected, ended;
  const char *why; /* static */
  char peer[32];
  uint8_t *rest;
  size_t rest_n;
  size_t drained; /* to be said */
};

struct link {
  struct world *w;
  struct link *next;
  int node[2];
  struct tp_conn end[2];
  struct pipe pipe[2]; /* pipe[s]: from side s */
  bool silent[2];      /* this side's machine died without a word */
};

struct job {
  struct job *next;
  struct transport *t;
  void (*run)(void *);
  void (*done)(void *);
  void *arg;
  bool ran;
};

struct transport {
  struct world *w;
  struct sim_node *n;
  struct node *owner;
  struct transport_events ev;
  bool started, finished, listening, in_turn, again, dying;
  uint64_t turn_ns; /* planned; UINT64_MAX: none */
  uint64_t timer_ns;
  struct tp_conn *conns;
  struct tp_conn *accepts[16];
  unsigned accepts_n;
  struct job *jobs, *done;
};

static void turn_event(struct world *, struct sim_node *, void *);

static void turn_at(struct transport *t, uint64_t at) {
  if (!t || t->finished || !t->started || t->turn_ns <= at) return;
  t->turn_ns = at;
  world_at(t->w, at, t->n, turn_event, t);
}
static void turn_soon(struct transport *t) {
  if (t) turn_at(t, t->w->now + rng_skewed(&t->w->r_net, 500, t->w->plan.step_ns_max / 2));
}

/* ---- pipes ----------------------------------------------------------------------------------- */

static struct tp_conn *other(const struct tp_conn *c) {
  return &c->link->end[!c->side];
}
static struct pipe *out_of(const struct tp_conn *c) {
  return &c->link->pipe[c->side];
}
static struct pipe *in_of(const struct tp_conn *c) {
  return &c->link->pipe[!c->side];
}

static void pipe_event(struct world *w, struct sim_node *n, void *arg);

static void pipe_plan(struct link *l, int side, uint64_t at) {
  if (l->pipe[side].planned) return;
  l->pipe[side].planned = true;
  world_at(l->w, at, NULL, pipe_event, &l->end[side]);
}

static void end_conn(struct tp_conn *c, const char *why) {
  if (c->ended || !c->t) return;
  c->ended = true;
  c->why = why;
  turn_soon(c->t);
}

static void pipe_event(struct world *w, struct sim_node *none, void *arg) {
  struct tp_conn *from = arg;
  struct link *l = from->link;
  struct pipe *p = out_of(from);
  struct tp_conn *to = other(from);
  (void)none;
  p->planned = false;
  if (p->hole) return;
  uint64_t blocked = w->blocked_until[l->node[from->side]][l->node[to->side]];
  if (blocked > w->now) {
    pipe_plan(l, from->side, blocked + rng_below(&w->r_net, 50 * MS));
    return;
  }
  size_t done = 0;
  while (done < p->pieces_n && p->pieces[done].at <= w->now) p->arrived += p->pieces[done++].n;
  if (done) memmove(p->pieces, p->pieces + done, (p->pieces_n - done) * sizeof *p->pieces);
  p->pieces_n -= done;
  if (done && to->t && !to->closed) turn_soon(to->t);
  if (p->pieces_n)
    pipe_plan(l, from->side, p->pieces[0].at);
  else if (p->ends)
    end_conn(to, p->why);
  if (l->silent[!from->side] && w->node[l->node[to->side]].state == NODE_UP && done)
    end_conn(from, "connection reset by peer"); /* the new process knows nothing of it */
}

static void pipe_push(struct tp_conn *c, const uint8_t *bytes, size_t n) {
  struct pipe *p = out_of(c);
  struct world *w = c->link->w;
  w->st.bytes_sent += n;
  if (p->n + n > p->cap) {
    p->cap = p->cap ? p->cap : 1024;
    while (p->cap < p->n + n) p->cap *= 2;
    p->data = realloc(p->data, p->cap);
  }
  memcpy(p->data + p->n, bytes, n);
  p->n += n;
  while (n) {
    size_t part = rng_percent(&w->r_net, 15) ? 1 + (size_t)rng_below(&w->r_net, n) : n;
    uint64_t at = w->now + rng_skewed(&w->r_net, 5000, w->plan.delay_ns_max);
    if (at < p->last_at) at = p->last_at;
    p->last_at = at;
    if (p->pieces_n == p->pieces_cap) {
      p->pieces_cap = p->pieces_cap ? 2 * p->pieces_cap : 8;
      p->pieces = realloc(p->pieces, p->pieces_cap * sizeof *p->pieces);
    }
    p->pieces[p->pieces_n++] = (struct piece){at, part};
    n -= part;
  }
  pipe_plan(c->link, c->side, p->pieces[0].at);
}

static void pipe_end(struct tp_conn *c, const char *why, bool reset) {
  struct pipe *p = out_of(c);
  struct world *w = c->link->w;
  if (p->ends) return;
  p->ends = true;
  p->why = why;
  if (reset) { /* whatever is under way may be lost, from any byte on */
    size_t flying = p->n - p->arrived;
    size_t keep = flying ? (size_t)rng_below(&w->r_net, flying + 1) : 0;
    p->n = p->arrived + keep;
    p->pieces_n = 0;
    if (keep && p->pieces_cap) p->pieces[p->pieces_n++] = (struct piece){p->last_at, keep};
  }
  p->planned = false; /* an earlier event finds nothing to do */
  pipe_plan(c->link, c->side, w->now + rng_skewed(&w->r_net, 5000, w->plan.delay_ns_max) + (p->pieces_n ? 0 : 1000));
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void say_eof(struct tp_conn *c) {
  if (c->closed || c->dead) return;
  c->dead = true;
  c->reading = false;
  c->ev->eof(c->owner, c->why);
}

static void deliver_input(struct tp_conn *c) {
  struct pipe *p = in_of(c);
  if (!c->reading || c->closed || !p->arrived) return;
  size_t n = p->arrived < READ_BYTES ? p->arrived : READ_BYTES;
  if (rng_percent(&c->link->w->r_net, 5)) n = 1 + (size_t)rng_below(&c->link->w->r_net, n);
  uint8_t *copy = malloc(n); /* exactly so long, so that ASan sees a reader that goes too far */
  memcpy(copy, p->data, n);
  p->n -= n;
  p->arrived -= n;
  memmove(p->data, p->data + n, p->n);
  struct tp_conn *from = other(c);
  c->ev->input(c->owner, copy, n);
  free(copy);
  if (from->t && !from->closed && from->writing) turn_soon(from->t); /* room again */
  if (p->arrived) turn_soon(c->t);
}

static void write_rest(struct tp_conn *c) {
  struct pipe *p = out_of(c);
  if (!c->writing || c->closed || c->dead || (p->n >= p->limit && !p->hole)) return;
  if (p->hole) return; /* nobody takes it away */
  size_t n = c->rest_n;
  pipe_push(c, c->rest, n);
  free(c->rest);
  c->rest = NULL;
  c->writing = false;
  c->rest_n = 0;
  c->ev->drained(c->owner, n);
}

static void deliver(struct transport *t) {
  while (t->accepts_n) {
    struct tp_conn *c = t->accepts[0];
    memmove(t->accepts, t->accepts + 1, --t->accepts_n * sizeof *t->accepts);
    t->ev.accepted(t->ev.ctx, c, c->peer);
  }
  while (t->done) {
    struct job *j = t->done;
    t->done = j->next;
    j->done(j->arg);
    free(j);
  }
  for (struct tp_conn *c = t->conns; c; c = c->next_of_t) {
    if (c->closed || !c->attached) continue;
    if (c->dialler && !c->said_connected) {
      if (!c->connected && !c->ended) continue;
      c->said_connected = true;
      if (!c->connected) c->dead = true;
      c->ev->connected(c->owner, c->connected ? NULL : c->why);
      if (!c->connected) continue;
    }
    write_rest(c);
    deliver_input(c);
    if (c->ended && !in_of(c)->arrived) say_eof(c);
    if (c->ended && in_of(c)->arrived && !c->reading && c->writing) say_eof(c); /* the write fails first */
  }
}

static void free_closed(struct transport *t) {
  for (struct tp_conn **at = &t->conns; *at;) {
    struct tp_conn *c = *at;
    if (!c->closed) {
      at = &c->next_of_t;
      continue;
    }
    *at = c->next_of_t;
    c->t = NULL;
  }
}

static void pump(struct transport *t) {
  if (!t->finished) t->ev.pump(t->ev.ctx);
}

static void turn(struct transport *t) {
  t->in_turn = true;
  t->again = false;
  if (t->timer_ns <= t->w->now) t->timer_ns = UINT64_MAX;
  pump(t);
  deliver(t);
  pump(t);
  free_closed(t);
  t->in_turn = false;
}

static void turn_event(struct world *w, struct sim_node *n, void *arg) {
  struct transport *t = arg;
  if (t->turn_ns > w->now) return;
  t->turn_ns = UINT64_MAX;
  /* A follower's loop syncs itself; the record of an epoch is synced by a job. */
  bool syncs = n->in_sync && n->role == DW_FOLLOWER && !(n->in_job && t->owner->candidate);
  if (t->in_turn || syncs || n->stall_ns > w->now) {
    turn_at(t, n->stall_ns > w->now ? n->stall_ns : w->now + 20000);
    return;
  }
  n->on_stack++;
  turn(t);
  n->on_stack--;
  if (t->again) turn_soon(t);
  if (t->timer_ns != UINT64_MAX) turn_at(t, t->timer_ns > w->now ? t->timer_ns : w->now);
  if (!node_up(n)) return;
  node_kick(w, n);
  check_node(w, n);
  workload_poll(w, n);
  roles_poll(w, n);
}

/* ---- transport_uv.h: life -------------------------------------------------------------------- */

int transport_create(const struct transport_events *ev, struct transport **out) {
  struct node *owner = ev->ctx;
  struct sim_node *n = (struct sim_node *)owner->opt->log_arg; /* whose process this is */
  struct transport *t = calloc(1, sizeof *t);
  *t = (struct transport){.w = n->w, .n = n, .owner = owner, .ev = *ev, .turn_ns = UINT64_MAX, .timer_ns = UINT64_MAX};
  n->t = t;
  *out = t;
  return DW_OK;
}

int transport_listen(struct transport *t, const char *address, uint16_t *port) {
  (void)address;
  t->listening = true;
  *port = 7400;
  return DW_OK;
}

int transport_start(struct transport *t) {
  t->started = true;
  turn_soon(t);
  return DW_OK;
}

void transport_wake(struct transport *t) {
  turn_soon(t);
}

void transport_pump_at(struct transport *t, uint64_t at_ns, uint64_t now_ns) {
  (void)now_ns;
  t->timer_ns = at_ns == UINT64_MAX ? UINT64_MAX : node_true_after(t->n, at_ns);
  if (t->timer_ns != UINT64_MAX && !t->in_turn) turn_at(t, t->timer_ns);
}

void transport_pump_again(struct transport *t) {
  t->again = true;
}

void transport_stop_listening(struct transport *t) {
  t->listening = false;
}

void transport_finish(struct transport *t) {
  t->finished = true;
}

static void run_jobs_now(struct transport *t) {
  while (t->jobs) {
    struct job *j = t->jobs;
    t->jobs = j->next;
    if (!j->ran) j->run(j->arg);
    j->done(j->arg);
    free(j);
  }
}

/* The node's last turns. Time passes for everybody while it says goodbye: nothing else happens meanwhile, as if all
 * other machines were busy. */
void transport_destroy(struct transport *t) {
  if (!t) return;
  struct world *w = t->w;
  while (t->started && !t->finished) {
    run_jobs_now(t);
    turn(t);
    if (!t->finished) w->now += 10 * MS;
  }
  run_jobs_now(t);
  while (t->done) {
    struct job *j = t->done;
    t->done = j->next;
    j->done(j->arg);
    free(j);
  }
  for (struct tp_conn *c = t->conns; c; c = c->next_of_t) {
    conn_close(c);
    c->t = NULL;
  }
  t->n->t = NULL;
  free(t);
}

/* ---- jobs ------------------------------------------------------------------------------------ */

static void job_event(struct world *w, struct sim_node *n, void *arg) {
  struct job *j = arg;
  if (n->in_engine || n->in_job || n->in_sync || n->freeze_ns > w->now) {
    world_at(w, n->freeze_ns > w->now ? n->freeze_ns : w->now + 50000, n, job_event, j);
    return;
  }
  if (!j->ran) {
    n->in_job = true;
    n->on_stack++;
    if (!w->healing && w->plan.crashes && rng_ppm(&w->r_fault, 20000))
      disk_kill_after(n->disk, (uint32_t)rng_between(&w->r_fault, 1, 40));
    j->ran = true;
    j->run(j->arg);
    n->on_stack--;
    n->in_job = false;
    check_node(w, n);
    world_at(w, w->now + rng_skewed(&w->r_sched, 1000, w->plan.job_ns_max), n, job_event, j);
    return;
  }
  for (struct job **at = &j->t->jobs; *at; at = &(*at)->next) {
    if (*at != j) continue;
    *at = j->next;
    break;
  }
  j->next = NULL;
  struct job **end = &j->t->done;
  while (*end) end = &(*end)->next;
  *end = j;
  turn_soon(j->t);
}

int transport_work(struct transport *t, void (*run)(void *), void (*done)(void *), void *arg) {
  struct job *j = calloc(1, sizeof *j);
  *j = (struct job){.next = t->jobs, .t = t, .run = run, .done = done, .arg = arg};
  t->jobs = j;
  world_at(t->w, t->w->now + rng_skewed(&t->w->r_sched, 1000, t->w->plan.job_ns_max), t->n, job_event, j);
  return DW_OK;
}

/* ---- connections ----------------------------------------------------------------------------- */

static void conn_join(struct tp_conn *c, struct transport *t) {
  c->t = t;
  c->next_of_t = t->conns;
  t->conns = c;
}

static void dial_event(struct world *w, struct sim_node *n, void *arg) {
  struct tp_conn *c = arg;
  struct link *l = c->link;
  struct transport *to = w->node[l->node[1]].t;
  (void)n;
  if (c->closed || !c->t) return;
  if (w->blocked_until[l->node[0]][l->node[1]] > w->now || w->blocked_until[l->node[1]][l->node[0]] > w->now)
    end_conn(c, "connection timed out");
  else if (!to || !to->listening || to->finished || !node_up(&w->node[l->node[1]]) || to->accepts_n == 16)
    end_conn(c, "connection refused");
  if (c->ended) return;
  struct tp_conn *peer = &l->end[1];
  snprintf(peer->peer, sizeof peer->peer, "n%d:%u", l->node[0], 20000 + w->next_port++ % 40000);
  conn_join(peer, to);
  to->accepts[to->accepts_n++] = peer;
  turn_soon(to);
  c->connected = true;
  turn_soon(c->t);
}

struct tp_conn *transport_connect(struct transport *t, const char *address, const struct conn_events *ev, void *owner) {
  struct world *w = t->w;
  struct link *l = calloc(1, sizeof *l);
  l->w = w;
  l->node[0] = t->n->idx;
  l->node[1] = address[1] - '0';
  l->next = w->links;
  w->links = l;
  for (int s = 0; s < 2; s++) {
    l->end[s].link = l;
    l->end[s].side = s;
    l->pipe[s].limit = (size_t)rng_skewed(&w->r_net, 4096, 512 << 10);
  }
  struct tp_conn *c = &l->end[0];
  if (owner == t->owner) rejoin_dialled(t->n, l->node[1]); /* to follow it; others ask and go */
  conn_join(c, t);
  conn_attach(c, ev, owner);
  c->dialler = true;
  bool blocked = w->blocked_until[l->node[0]][l->node[1]] > w->now || w->blocked_until[l->node[1]][l->node[0]] > w->now;
  world_at(w, w->now + (blocked ? 1 * SEC : rng_skewed(&w->r_net, 10000, w->plan.delay_ns_max)), t->n, dial_event, c);
  return c;
}

void conn_attach(struct tp_conn *c, const struct conn_events *ev, void *owner) {
  c->ev = ev;
  c->owner = owner;
  c->attached = true;
}

void conn_read(struct tp_conn *c, bool on) {
  if (on && (c->dead || c->closed)) return;
  c->reading = on;
  if (on && (in_of(c)->arrived || c->ended)) turn_soon(c->t);
}

ssize_t conn_send(struct tp_conn *c, const struct iovec *iov, int n, const char **why) {
  if (c->writing || c->dead || c->closed || n <= 0) return 0;
  if (!disk_alive(c->t->n->disk)) { /* a dead process sends nothing */
    *why = "simulated: this process is dead";
    return -1;
  }
  if (c->ended && other(c)->t == NULL) {
    *why = "broken pipe";
    return -1;
  }
  struct pipe *p = out_of(c);
  size_t room = p->n < p->limit ? p->limit - p->n : 0, sent = 0;
  int i = 0;
  for (; i < n && room; i++) {
    size_t len = iov[i].iov_len < room ? iov[i].iov_len : room;
    pipe_push(c, iov[i].iov_base, len);
    sent += len;
    room -= len;
    if (len < iov[i].iov_len) break;
  }
  /* The rest that did not go. */
  size_t skip = sent;
  struct buf rest = {0};
  for (i = 0; i < n && rest.len < REST_BYTES; i++) {
    if (skip >= iov[i].iov_len) {
      skip -= iov[i].iov_len;
      continue;
    }
    size_t len = iov[i].iov_len - skip;
    if (len > REST_BYTES - rest.len) len = REST_BYTES - rest.len;
    (void)buf_append(&rest, (const uint8_t *)iov[i].iov_base + skip, len);
    skip = 0;
  }
  if (rest.len) {
    c->rest = rest.data;
    c->rest_n = rest.len;
    c->writing = true;
  }
  return (ssize_t)sent;
}

bool conn_writing(const struct tp_conn *c) {
  return c->writing;
}

void conn_close(struct tp_conn *c) {
  if (!c || c->closed) return;
  c->closed = true;
  free(c->rest);
  c->rest = NULL;
  c->writing = false;
  if (c->link->silent[c->side]) return;
  if (c->t) pipe_end(c, "closed the connection", in_of(c)->arrived > 0);
}

/* ---- faults ---------------------------------------------------------------------------------- */

void net_init(struct world *w) {
  w->links = NULL;
}

void net_free(struct world *w) {
  while (w->links) {
    struct link *l = w->links;
    w->links = l->next;
    for (int s = 0; s < 2; s++) {
      free(l->pipe[s].data);
      free(l->pipe[s].pieces);
      free(l->end[s].rest);
    }
    free(l);
  }
}

void net_node_died(struct sim_node *n, bool silently) {
  for (struct tp_conn *c = n->t ? n->t->conns : NULL; c; c = c->next_of_t) {
    if (c->closed) continue;
    if (silently) {
      c->link->silent[c->side] = true;
      out_of(c)->hole = true;
    } else {
      pipe_end(c, "connection reset by peer", true);
    }
    c->ended = true;
    c->why = "simulated: this process is dead";
  }
  if (n->t) n->t->listening = false;
}

void net_unblocked(struct world *w) {
  memset(w->blocked_until, 0, sizeof w->blocked_until);
}

bool net_cut_one(struct world *w) {
  struct link *found = NULL;
  uint64_t seen = 0;
  for (struct link *l = w->links; l; l = l->next) {
    bool open =
        l->end[0].t && l->end[1].t && !l->end[0].closed && !l->end[1].closed && !l->end[0].ended && !l->end[1].ended;
    if (open && rng_below(&w->r_fault, ++seen) == 0) found = l;
  }
  if (!found) return false;
  bool half = rng_percent(&w->r_fault, 30);
  int side = (int)rng_below(&w->r_fault, 2);
  for (int s = 0; s < 2; s++) {
    if (half && s == side) {
      found->pipe[s].hole = true; /* its peer hears nothing more, and is not told */
      continue;
    }
    pipe_end(&found->end[s], "connection reset by peer", true);
  }
  world_trace(w, NULL, "the connection n%d-n%d breaks%s", found->node[0], found->node[1],
              half ? ", and one end does not notice" : "");
  w->st.cuts++;
  return true;
}
