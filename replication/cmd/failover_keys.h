/* The failover machine's words as keys and values of a coordinator: "/dabbawal/CLUSTER/leader" and so on, values in JSON so
 * that people can read them with etcdctl. Pure. */
#ifndef DW_CMD_FAILOVER_KEYS_H
#define DW_CMD_FAILOVER_KEYS_H

#include "replication/cmd/coordinator.h"
#include "replication/failover.h"

#define KEY_LEADER "leader"
#define KEY_RECORD "epoch"
#define KEY_PAUSE "pause"
#define KEY_MEMBERS "members/"

/* malloc'd; NULL: no memory. */
char *failover_leader_json(const struct failover_leader *);
char *failover_member_json(const struct failover_member *);
char *failover_record_json(const struct failover_record *);

/* Keys of other names are ignored; so is a member's key that can't be read (a newer version's; *bad counts them). DW_CORRUPT: the
 * leader or the epoch can't be read, or comes twice: then nothing can be decided. A member that comes twice counts once. */
int failover_view_parse(const struct coord_entries *, struct failover_view *, unsigned *bad);

/* "/dabbawal/CLUSTER/"; DW_INVALID: letters, digits, - _ . and at most 64 of them. */
int failover_prefix(const char *cluster, char out[COORD_KEY_BYTES]);

#endif
