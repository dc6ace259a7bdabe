/* Threads for what may block: a STRONG read's question to the primary, DW.WAIT, walks over all records.
 *
 * Its own threads rather than libuv's pool: that one is shared by the whole process, replication's transport included,
 * and a few clients in DW.WAIT must not hold up a follower's reconnect. Threads are started as needed, up to
 * WORK_THREADS, and end with the server. A work item that has to wait long runs in slices (`run` returns true) and goes
 * to the end of the queue in between, so that more waiters than threads still let others through.
 *
 * All loops share them.
 *
 *   work_start (loop) -> queue -> run (worker) -> its loop's done list -> uv_async -> work_completed (loop) -> after
 */
#include <stdlib.h>

#include "replication/cmd/resp_internal.h"
#include "wal/base/status.h"

struct work_pool {
  pthread_mutex_t mu; /* guards all below, and each loop's done_work */
  pthread_cond_t cond;
  struct work_list queue;
  pthread_t threads[WORK_THREADS];
  unsigned thread_count, idle;
  bool stop;
};

static void push(struct work_list *l, struct work *w) {
  w->next = NULL;
  *l->tail = w;
  l->tail = &w->next;
  l->count++;
}

static struct work *pop(struct work_list *l) {
  struct work *w = l->head;
  if (!w) return NULL;
  if (!(l->head = w->next)) l->tail = &l->head;
  l->count--;
  return w;
}

static void *worker(void *arg) {
  struct work_pool *p = arg;
  pthread_mutex_lock(&p->mu);
  for (;;) {
    struct work *w;
    while (!(w = pop(&p->queue)) && !p->stop) {
      p->idle++;
      pthread_cond_wait(&p->cond, &p->mu);
      p->idle--;
    }
    if (!w) break;
    pthread_mutex_unlock(&p->mu);
    bool again = w->run(w) && !atomic_load(&w->cancel);
    pthread_mutex_lock(&p->mu);
    push(again ? &p->queue : &w->l->done_work, w);
    if (!again) uv_async_send(&w->l->wake);
  }
  pthread_mutex_unlock(&p->mu);
  return NULL;
}

int work_pool_start(struct resp_server *s) {
  struct work_pool *p = calloc(1, sizeof *p);
  if (!p) return dw_fail_nomem(sizeof *p);
  p->queue.tail = &p->queue.head;
  pthread_mutex_init(&p->mu, NULL);
  pthread_cond_init(&p->cond, NULL);
  s->pool = p;
  return DW_OK;
}

void work_pool_stop(struct resp_server *s) {
  struct work_pool *p = s->pool;
  if (!p) return;
  pthread_mutex_lock(&p->mu);
  p->stop = true;
  pthread_cond_broadcast(&p->cond);
  pthread_mutex_unlock(&p->mu);
  for (unsigned i = 0; i < p->thread_count; i++) pthread_join(p->threads[i], NULL);
  pthread_cond_destroy(&p->cond);
  pthread_mutex_destroy(&p->mu);
  free(p);
  s->pool = NULL;
}

void work_start(struct conn *c, struct work *w) {
  struct work_pool *p = c->s->pool;
  w->c = c;
  w->l = c->l;
  w->e = c->s->e;
  c->refs++;
  c->work = w;
  set_block(c, BLOCK_WORK);
  c->l->work_under_way++;
  pthread_mutex_lock(&p->mu);
  push(&p->queue, w);
  /* A thread that can't be started is no harm while there is another; the first one has to. */
  if (p->queue.count > p->idle && p->thread_count < WORK_THREADS &&
      pthread_create(&p->threads[p->thread_count], NULL, worker, p) == 0)
    p->thread_count++;
  bool stuck = p->thread_count == 0;
  if (stuck) pop(&p->queue);
  pthread_cond_signal(&p->cond);
  pthread_mutex_unlock(&p->mu);
  if (!stuck) return;
  while (w->run(w)) continue; /* no threads at all: here, then */
  pthread_mutex_lock(&p->mu);
  push(&c->l->done_work, w);
  pthread_mutex_unlock(&p->mu);
  uv_async_send(&c->l->wake);
}

void work_completed(struct resp_loop *l) {
  struct work_pool *p = l->s->pool;
  if (!l->work_under_way) return;
  for (;;) {
    pthread_mutex_lock(&p->mu);
    struct work *w = pop(&l->done_work);
    pthread_mutex_unlock(&p->mu);
    if (!w) return;
    struct conn *c = w->c;
    l->work_under_way--;
    c->work = NULL;
    w->after(w);
    conn_dirty(c);
    if (!c->closing) conn_resume(c);
    conn_unref(c);
  }
}
