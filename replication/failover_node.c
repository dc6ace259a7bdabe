#include "replication/failover_node.h"

#include <stdio.h>

void failover_see_closed(bool has_data, uint64_t epoch, struct failover_status *st) {
  *st = (struct failover_status){.healthy = true, .has_data = has_data, .epoch = epoch, .lag_ms = UINT64_MAX};
}

void failover_see(const dw_status *s, struct failover_status *st) {
  *st = (struct failover_status){.open = true,
                                 .primary = s->role == DW_PRIMARY && !s->fenced,
                                 .fenced = s->role == DW_PRIMARY && s->fenced,
                                 .healthy = !s->failed,
                                 .has_data = s->epoch != 0,
                                 /* What was only received is in no promise. */
                                 .all_sync = s->mode == DW_SYNC && s->ack != DW_ACK_RECEIVED,
                                 .epoch = s->epoch,
                                 .durable_lsn = s->durable_lsn,
                                 .lag_ms = s->staleness_ms};
  st->link_up =
      s->role == DW_FOLLOWER && s->primary_state >= DW_PEER_BOOTSTRAPPING && s->primary_state <= DW_PEER_STREAMING;
  for (uint32_t i = 0; i < s->follower_count && i < DW_STATUS_MAX_FOLLOWERS; i++)
    st->sync_followers += s->followers[i].state == DW_PEER_STREAMING;
  snprintf(st->following, sizeof st->following, "%s", s->role == DW_FOLLOWER ? s->primary : "");
}
