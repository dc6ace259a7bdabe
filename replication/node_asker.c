/* See node_asker.h. */
#include "replication/node_asker.h"

#include <string.h>

#include "replication/node.h"

#define OUT_IOVECS 4

static void on_connected(void *owner, const char *why) {
  struct asker *a = owner;
  a->connected = why == NULL;
  if (why)
    fencer_eof(&a->f, why);
  else
    conn_read(a->conn, true);
  transport_pump_again(a->n->t);
}

static void on_input(void *owner, const void *bytes, size_t count) {
  struct asker *a = owner;
  fencer_input(&a->f, bytes, count);
  transport_pump_again(a->n->t);
}

static void on_drained(void *owner, size_t count) {
  struct asker *a = owner;
  outq_drained(&a->f.out, count);
}

static void on_eof(void *owner, const char *why) {
  struct asker *a = owner;
  fencer_eof(&a->f, why);
  transport_pump_again(a->n->t);
}

static const struct conn_events asker_events = {
    .connected = on_connected, .input = on_input, .drained = on_drained, .eof = on_eof};

size_t asker_peers(struct node *n, struct asker *askers, size_t cap) {
  const char *list = n->opt->peers ? n->opt->peers : "";
  size_t count = 0;
  char name[ADDRESS_BYTES];
  while (count < cap && address_next(&list, name)) {
    if (n->opt->listen && strcmp(name, n->opt->listen) == 0) continue;
    struct asker *a = &askers[count++];
    *a = (struct asker){.n = n};
    memcpy(a->address, name, sizeof name);
  }
  return count;
}

void asker_dial(struct asker *a) {
  struct node *n = a->n;
  struct engine_identity id;
  struct engine_positions pos;
  engine_identity(n->e, &id);
  engine_positions(n->e, &pos);
  fencer_init(&a->f, &(struct msg_sender){.epoch = pos.tail.epoch, .node_id = id.node_id}, &id.cluster_id);
  a->dialled = true;
  a->conn = transport_connect(n->t, a->address, &asker_events, a);
  if (!a->conn) fencer_eof(&a->f, "no memory for a connection");
}

static void flush(struct asker *a) {
  struct iovec iov[OUT_IOVECS];
  while (a->connected && a->f.out.bytes && !conn_writing(a->conn)) {
    const char *why = NULL;
    ssize_t sent = conn_send(a->conn, iov, outq_iov(&a->f.out, iov, OUT_IOVECS), &why);
    if (sent < 0) fencer_eof(&a->f, why);
    if (sent <= 0) return;
    outq_drained(&a->f.out, (size_t)sent);
  }
}

void asker_ask(struct asker *a, const struct msg_fence *ask) {
  fencer_ask(&a->f, ask);
  flush(a);
}

enum asker_state asker_pump(struct asker *a) {
  if (!a->dialled) return ASKER_NONE;
  flush(a);
  switch (a->f.state) {
  case FENCER_FAILED: return ASKER_FAILED;
  case FENCER_ANSWERED: return ASKER_ANSWERED;
  case FENCER_IDLE: return a->connected ? ASKER_IDLE : ASKER_BUSY;
  default: return ASKER_BUSY;
  }
}

const struct msg_fenced *asker_take(struct asker *a) {
  return fencer_take(&a->f);
}

const char *asker_why(const struct asker *a) {
  return a->f.text;
}

void asker_drop(struct asker *a) {
  if (!a->dialled) return;
  conn_close(a->conn);
  a->conn = NULL;
  a->dialled = a->connected = false;
  fencer_free(&a->f);
}
