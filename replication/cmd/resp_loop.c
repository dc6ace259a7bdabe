/* A loop: its thread, its timers, the connections that are handed to it, its end.
 *
 * Ends in this order: no socket is taken any more and all connections are closed; writes at the engine and work items
 * come back (work is told to hurry); the remaining handles are closed; the loop has nothing left and returns.
 */
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "replication/cmd/resp_internal.h"
#include "wal/base/status.h"

/* ---- connections that the timer looks at ----------------------------------------------------------- */

#define POLL_FEW 64u /* with up to so many, every ms; with more, every 10 */

static void on_timer(uv_timer_t *t);

void poll_begin(struct conn *c, enum block b) {
  struct resp_loop *l = c->l;
  set_block(c, b);
  c->poll_prev = l->polling.tail;
  c->poll_next = NULL;
  *(l->polling.tail ? &l->polling.tail->poll_next : &l->polling.head) = c;
  l->polling.tail = c;
  l->polling_count++;
  if (!uv_is_active((uv_handle_t *)&l->timer)) uv_timer_start(&l->timer, on_timer, 1, 0);
}

void poll_end(struct conn *c) {
  struct resp_loop *l = c->l;
  *(c->poll_prev ? &c->poll_prev->poll_next : &l->polling.head) = c->poll_next;
  *(c->poll_next ? &c->poll_next->poll_prev : &l->polling.tail) = c->poll_prev;
  c->poll_prev = c->poll_next = NULL;
  l->polling_count--;
}

/* Each one that is there now, once: whoever waits on goes to the end. */
static void on_timer(uv_timer_t *t) {
  struct resp_loop *l = t->data;
  uint64_t now = server_now_ns();
  dw_status *status = NULL;
  for (unsigned n = l->polling_count; n && l->polling.head; n--) {
    struct conn *c = l->polling.head;
    if (c->block == BLOCK_READ) {
      conn_resume(c);
      continue;
    }
    if (!status && (status = malloc(sizeof *status))) dw_status_get(l->s->e, status);
    if (!status || !wait_check(c, status, now)) {
      set_block(c, BLOCK_NONE);
      poll_begin(c, BLOCK_WAIT);
    } else {
      conn_resume(c);
    }
  }
  free(status);
  if (l->polling.head) uv_timer_start(&l->timer, on_timer, l->polling_count <= POLL_FEW ? 1 : 10, 0);
}

/* ---- sockets on their way here ----------------------------------------------------------------------- */

void loop_hand_over(struct resp_loop *l, int fd) {
  pthread_mutex_lock(&l->arrivals.mu);
  bool kept = !l->arrivals.shut;
  if (kept && l->arrivals.count == l->arrivals.cap) {
    size_t cap = l->arrivals.cap ? 2 * l->arrivals.cap : 16;
    int *grown = realloc(l->arrivals.fds, cap * sizeof *grown);
    if ((kept = grown != NULL)) l->arrivals.fds = grown, l->arrivals.cap = cap;
  }
  if (kept) {
    l->arrivals.fds[l->arrivals.count++] = fd;
    uv_async_send(&l->wake); /* before the mutex is let go: behind it the loop may end */
  }
  pthread_mutex_unlock(&l->arrivals.mu);
  if (kept) return;
  close(fd);
  atomic_fetch_sub(&l->load, 1);
}

static void take_arrivals(struct resp_loop *l) {
  int fds[16];
  size_t n;
  do {
    pthread_mutex_lock(&l->arrivals.mu);
    n = l->arrivals.count < 16 ? l->arrivals.count : 16;
    l->arrivals.count -= n;
    if (n) memcpy(fds, l->arrivals.fds + l->arrivals.count, n * sizeof *fds);
    pthread_mutex_unlock(&l->arrivals.mu);
    for (size_t i = 0; i < n; i++) conn_adopt(l, fds[i]);
  } while (n);
}

static void shut_the_door(struct resp_loop *l) {
  pthread_mutex_lock(&l->arrivals.mu);
  l->arrivals.shut = true;
  for (size_t i = 0; i < l->arrivals.count; i++) close(l->arrivals.fds[i]);
  l->arrivals.count = 0;
  pthread_mutex_unlock(&l->arrivals.mu);
}

/* ---- the loop ------------------------------------------------------------------------------------ */

static void begin_stop(struct resp_loop *l) {
  if (l->stopping) return;
  l->stopping = true;
  if (l == l->s->loops[0]) uv_close((uv_handle_t *)&l->s->listener, NULL);
  shut_the_door(l);
  flush_dirty(l);
  for (struct conn *c = l->conns, *next; c; c = next) {
    next = c->next;
    conn_drop(c);
  }
}

static void close_rest(struct resp_loop *l) {
  uv_close((uv_handle_t *)&l->wake, NULL);
  uv_close((uv_handle_t *)&l->timer, NULL);
  uv_close((uv_handle_t *)&l->watch, NULL);
  uv_close((uv_handle_t *)&l->prepare, NULL);
  uv_close((uv_handle_t *)&l->check, NULL);
}

static void on_wake(uv_async_t *a) {
  struct resp_loop *l = a->data;
  take_arrivals(l);
  writes_completed(l);
  work_completed(l);
  turnstile_answer(l);
  if (atomic_load(&l->s->stop)) begin_stop(l);
}

/* Before each poll, for what timers and libuv's late news of writes have left: a write that the kernel took whole after
 * all is reported before the loop polls, and what waited for it would else wait for the next event. */
static void on_prepare(uv_prepare_t *p) {
  flush_dirty(p->data);
}

/* After each poll: one write per connection that has something to say. */
static void on_check(uv_check_t *k) {
  struct resp_loop *l = k->data;
  flush_dirty(l);
  if (!l->stopping || l->conns || l->inflight || l->work_under_way || uv_is_closing((uv_handle_t *)&l->wake)) return;
  while (atomic_load(&l->in_callback)) sched_yield(); /* about to touch `wake` for the last time */
  close_rest(l);
}

static void *loop_thread(void *arg) {
  struct resp_loop *l = arg;
  uv_run(&l->uv, UV_RUN_DEFAULT);
  return NULL;
}

/* ---- begin and end ------------------------------------------------------------------------------- */

int loop_create(struct resp_server *s, struct resp_loop **out) {
  struct resp_loop *l = calloc(1, sizeof *l);
  if (!l) return dw_fail_nomem(sizeof *l);
  l->s = s;
  l->done_work.tail = &l->done_work.head;
  l->view = malloc(sizeof *l->view);
  int err = l->view ? uv_loop_init(&l->uv) : UV_ENOMEM;
  if (err) {
    free(l->view);
    free(l);
    return dw_fail(err == UV_ENOMEM ? DW_NO_MEMORY : DW_IO, "RESP: a loop: %s", uv_strerror(err));
  }
  if ((err = uv_async_init(&l->uv, &l->wake, on_wake))) {
    uv_loop_close(&l->uv);
    free(l->view);
    free(l);
    return dw_fail(DW_IO, "RESP: a loop: %s", uv_strerror(err));
  }
  uv_timer_init(&l->uv, &l->timer);
  uv_timer_init(&l->uv, &l->watch);
  uv_prepare_init(&l->uv, &l->prepare);
  uv_check_init(&l->uv, &l->check);
  l->wake.data = l->watch.data = l->timer.data = l->prepare.data = l->check.data = l;
  uv_prepare_start(&l->prepare, on_prepare);
  uv_check_start(&l->check, on_check);
  pthread_mutex_init(&l->arrivals.mu, NULL);
  *out = l;
  return DW_OK;
}

/* The daemon's main thread takes signals; this one would only be woken by them. */
int loop_start(struct resp_loop *l) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int err = pthread_create(&l->thread, NULL, loop_thread, l);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  l->running = err == 0;
  return err ? dw_fail_errno(err, "starting a RESP thread") : DW_OK;
}

void loop_end(struct resp_loop *l) {
  if (l->running)
    pthread_join(l->thread, NULL);
  else
    loop_thread(l);
}

void loop_free(struct resp_loop *l) {
  uv_loop_close(&l->uv);
  pthread_mutex_destroy(&l->arrivals.mu);
  free(l->arrivals.fds);
  dw_batch_destroy(l->batch);
  buf_free(&l->spare_in);
  free(l->view);
  free(l);
}
