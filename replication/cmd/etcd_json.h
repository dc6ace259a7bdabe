/* The bodies of etcd's v3 JSON gateway, both ways. Pure: answers are bytes from the network. */
#ifndef DW_CMD_ETCD_JSON_H
#define DW_CMD_ETCD_JSON_H

#include "replication/cmd/coordinator.h"
#include "wal/base/bytes.h"

/* Requests: appended to `out`; DW_OK or DW_NO_MEMORY. */
int etcd_put_lease(struct buf *out, bool grant, uint64_t id, uint64_t ttl_s); /* grant, keepalive and revoke */
int etcd_put_range(struct buf *out, const char *prefix);
int etcd_put_txn(struct buf *out, const struct coord_compare *, size_t, const struct coord_change *, size_t);

/* Answers of HTTP status 200. DW_OK, DW_CORRUPT, DW_NO_MEMORY; keepalive: DW_NOT_FOUND if the lease is gone. */
int etcd_get_grant(const uint8_t *, size_t, uint64_t *lease, uint64_t *ttl_ms);
int etcd_get_keepalive(const uint8_t *, size_t, uint64_t *ttl_ms);
int etcd_get_range(const uint8_t *, size_t, size_t prefix_len, struct coord_entries *); /* keys without the prefix */
int etcd_get_txn(const uint8_t *, size_t, bool *done);
/* Other statuses: DW_NOT_FOUND (a lease), DW_IO, with a message that quotes the answer's. */
int etcd_get_error(const uint8_t *, size_t, long status);

int base64_encode(struct buf *out, const void *, size_t);
/* DW_CORRUPT: not the one way to write it, or longer than max. */
int base64_decode(const char *, size_t max, uint8_t *out, size_t *n);

#endif
