/* All connections of the server, whichever loop they belong to: their ids, how many there may be, CLIENT LIST.
 *
 * What others may see of a connection is copied from it by its own loop (clients_show), at the end of each burst of
 * commands and before its answers leave: so who has got an answer finds what it answers for.
 */
#include <stdio.h>

#include "replication/cmd/resp_internal.h"

bool clients_add(struct conn *c) {
  struct clients *all = &c->s->clients;
  pthread_mutex_lock(&all->mu);
  c->id = ++all->next_id;
  bool welcome = all->count < c->s->opt.max_clients;
  if (welcome) {
    all->total++;
    all->count++;
    c->all_next = all->head;
    if (all->head) all->head->all_prev = c;
    all->head = c;
    c->listed = true;
  } else {
    uint64_t so_far = ++all->rejected; /* 1, 2, 4, 8...: a crowd at the door must not fill the log */
    if (!(so_far & (so_far - 1)))
      server_log(c->s, DW_LOG_WARN, "RESP: %u clients are connected, refused %llu so far", c->s->opt.max_clients,
                 (unsigned long long)so_far);
  }
  pthread_mutex_unlock(&all->mu);
  return welcome;
}

void clients_remove(struct conn *c) {
  if (!c->listed) return;
  struct clients *all = &c->s->clients;
  pthread_mutex_lock(&all->mu);
  *(c->all_prev ? &c->all_prev->all_next : &all->head) = c->all_next;
  if (c->all_next) c->all_next->all_prev = c->all_prev;
  all->count--;
  pthread_mutex_unlock(&all->mu);
  c->listed = false;
}

uint32_t clients_count(struct resp_server *s) {
  pthread_mutex_lock(&s->clients.mu);
  uint32_t n = s->clients.count;
  pthread_mutex_unlock(&s->clients.mu);
  return n;
}

void clients_name(struct conn *c, const void *name, size_t n) {
  pthread_mutex_lock(&c->s->clients.mu);
  memcpy(c->name, name, n);
  c->name[n] = 0;
  pthread_mutex_unlock(&c->s->clients.mu);
}

void clients_show(struct conn *c) {
  atomic_store_explicit(&c->shown.input, c->in.len - c->in_used, memory_order_relaxed);
  atomic_store_explicit(&c->shown.output, c->out.len + c->out_sending, memory_order_relaxed);
  atomic_store_explicit(&c->shown.multi_bytes, c->multi_bytes.len, memory_order_relaxed);
  atomic_store_explicit(&c->shown.multi, c->multi ? (int)c->multi_count : -1, memory_order_relaxed);
}

int client_line(const struct conn *c, char *line, size_t cap) {
  return snprintf(
      line, cap,
      "id=%llu addr=%s name=%s age=%llu db=0 sub=0 psub=0 multi=%d qbuf=%zu multi-mem=%zu obl=%zu user=default "
      "resp=2\n",
      (unsigned long long)c->id, c->peer, c->name, (unsigned long long)((server_now_ns() - c->since_ns) / 1000000000u),
      atomic_load_explicit(&c->shown.multi, memory_order_relaxed),
      atomic_load_explicit(&c->shown.input, memory_order_relaxed),
      atomic_load_explicit(&c->shown.multi_bytes, memory_order_relaxed),
      atomic_load_explicit(&c->shown.output, memory_order_relaxed));
}

int clients_lines(struct resp_server *s, struct buf *out) {
  int rc = DW_OK;
  pthread_mutex_lock(&s->clients.mu);
  for (const struct conn *c = s->clients.head; c && rc == DW_OK; c = c->all_next) {
    char line[400];
    rc = buf_append(out, line, (size_t)client_line(c, line, sizeof line));
  }
  pthread_mutex_unlock(&s->clients.mu);
  return rc;
}
