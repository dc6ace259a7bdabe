/* What failover needs of a coordination service: leases, keys that live with a lease, one listing, one compare-and-swap over a few
 * keys. Small on purpose: etcd has it (etcd.c), ZooKeeper (ephemeral nodes, multi) and Consul (sessions, txn) do too.
 *
 * Calls block, at most for timeout_ms, and are made by one thread at a time. All of them: DW_OK; DW_NOT_FOUND: the lease
 * does not exist (any more); DW_TIMEOUT or DW_IO: no answer, it may have been done or not; DW_CORRUPT: an answer that is none;
 * DW_NO_MEMORY.
 */
#ifndef DW_CMD_COORDINATOR_H
#define DW_CMD_COORDINATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COORD_KEY_BYTES 256u
#define COORD_VALUE_BYTES 8192u
#define COORD_ENTRIES 200u /* under one prefix; more is refused */

/* Revisions grow with every change of the whole service; a key's is that of its last change. */
struct coord_entry {
  char *key, *value; /* terminated; a value with a zero byte inside is refused */
  int64_t revision;
  uint64_t lease; /* 0: none */
};
struct coord_entries {
  struct coord_entry *e;
  size_t count;
};

struct coord_compare {
  const char *key;
  bool by_lease; /* the key exists with this lease; else: it has this revision, 0 meaning that it does not exist */
  int64_t revision;
  uint64_t lease;
};
struct coord_change {
  const char *key, *value; /* value NULL: delete */
  uint64_t lease;          /* 0: the key stays for ever */
};

struct coordinator;
struct coordinator_ops {
  /* ttl_ms is rounded up to what the service knows; *granted_ms is what it really gives. */
  int (*grant)(struct coordinator *, uint64_t ttl_ms, unsigned timeout_ms, uint64_t *lease, uint64_t *granted_ms);
  int (*keepalive)(struct coordinator *, uint64_t lease, unsigned timeout_ms, uint64_t *granted_ms);
  int (*revoke)(struct coordinator *, uint64_t lease, unsigned timeout_ms); /* its keys go */
  /* Everything whose key begins so, at one revision. coord_entries_free in any case. */
  int (*list)(struct coordinator *, const char *prefix, unsigned timeout_ms, struct coord_entries *);
  /* All changes if all comparisons hold, else none; *done tells. */
  int (*txn)(struct coordinator *, const struct coord_compare *, size_t compares, const struct coord_change *,
             size_t changes, unsigned timeout_ms, bool *done);
  void (*destroy)(struct coordinator *);
};
struct coordinator {
  const struct coordinator_ops *ops;
};

void coord_entries_free(struct coord_entries *);

/* "etcd://host:port[,host:port...]". DW_INVALID with a message that quotes the text, DW_NO_MEMORY. */
int coordinator_open(const char *url, struct coordinator **);
int coordinator_check(const char *url);

#endif
