/* dw_options: defaults, checks, and the engine's own copy. */
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "wal/base/status.h"

void dw_options_init(dw_options *o) {
  *o = (dw_options){
      .role = DW_PRIMARY,
      .mode = DW_ASYNC,
      .ack = DW_ACK_DURABLE,
      .acks = 1,
      .ack_timeout_ms = 10000,
      .durability = DW_DURABILITY_DISK,
      .sync_interval_ms = 1000,
      .segment_bytes = 64u << 20,
      .retain_bytes = 1u << 30,
      .retain_ms = 24u * 3600u * 1000u,
      .block_cache_bytes = 64u << 20,
      .memtable_bytes = 64u << 20,
      .zstd_level = 1,
      .heartbeat_ms = 500,
      .peer_timeout_ms = 5000,
      .scrub_bytes_per_s = 4u << 20,
      .scrub_interval_ms = 24u * 3600u * 1000u,
      .priority = 100,
  };
}

static int check_range(const char *name, uint64_t value, uint64_t min, uint64_t max) {
  if (value >= min && value <= max) return DW_OK;
  return dw_fail(DW_INVALID, "option %s is %llu: %llu to %llu allowed", name, (unsigned long long)value,
                 (unsigned long long)min, (unsigned long long)max);
}

static int options_check(const dw_options *o) {
  const struct {
    const char *name;
    uint64_t value, min, max;
  } ranges[] = {
      {"role", (uint64_t)o->role, DW_PRIMARY, DW_FOLLOWER},
      {"mode", (uint64_t)o->mode, DW_ASYNC, DW_SYNC},
      {"ack", (uint64_t)o->ack, DW_ACK_RECEIVED, DW_ACK_APPLIED},
      {"acks", o->acks, 1, DW_MAX_ACKS},
      {"ack_timeout_ms", o->ack_timeout_ms, 1, 86400000},
      {"durability", (uint64_t)o->durability, DW_DURABILITY_OS, DW_DURABILITY_DISK},
      {"sync_interval_ms", o->sync_interval_ms, 1, 3600000},
      {"segment_bytes", o->segment_bytes, WAL_MIN_SEGMENT_BYTES, 4ull << 30},
      {"memtable_bytes", o->memtable_bytes, 65536, 16ull << 30},
      {"heartbeat_ms", o->heartbeat_ms, 10, 60000},
      {"scrub_bytes_per_s", o->scrub_bytes_per_s, 0, 1ull << 40},
      {"scrub_interval_ms", o->scrub_interval_ms, 1, 3650ull * 24 * 3600 * 1000},
      {"peer_timeout_ms", o->peer_timeout_ms, 2ull * o->heartbeat_ms, 3600000},
  };
  for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
    int rc = check_range(ranges[i].name, ranges[i].value, ranges[i].min, ranges[i].max);
    if (rc) return rc;
  }
  if (o->zstd_level < -5 || o->zstd_level > 19)
    return dw_fail(DW_INVALID, "option zstd_level is %d: -5 to 19 allowed", o->zstd_level);
  if (o->region && strlen(o->region) >= DW_REGION_BYTES)
    return dw_fail(DW_INVALID, "option region is longer than %d bytes", DW_REGION_BYTES - 1);
  if (o->client_address && strlen(o->client_address) >= DW_ADDRESS_BYTES)
    return dw_fail(DW_INVALID, "option client_address is longer than %d bytes", DW_ADDRESS_BYTES - 1);
  if (o->primary && o->role == DW_PRIMARY)
    return dw_fail(DW_INVALID, "option primary is set ('%s'), but role is DW_PRIMARY", o->primary);
  return DW_OK;
}

static int copy_string(const char **s) {
  if (!*s) return DW_OK;
  size_t n = strlen(*s) + 1;
  *s = strdup(*s);
  return *s ? DW_OK : dw_fail_nomem(n);
}

int options_copy(dw_options *dst, const dw_options *src) {
  dw_options o;
  dw_options_init(&o);
  if (src) o = *src;
  if (o.mode == DW_MODE_DEFAULT) o.mode = DW_ASYNC;
  if (o.ack == DW_ACK_DEFAULT) o.ack = DW_ACK_DURABLE;
  if (o.durability == DW_DURABILITY_DEFAULT) o.durability = DW_DURABILITY_DISK;
  if (!o.region) o.region = "";
  if (o.retain_ms > UINT64_MAX / 1000000u) o.retain_ms = UINT64_MAX / 1000000u; /* for ever */
  int rc = options_check(&o);
  if (rc) return rc;
  const char **strings[] = {&o.region, &o.listen, &o.primary, &o.repair_from, &o.peers, &o.client_address};
  for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
    rc = copy_string(strings[i]);
    if (rc) {
      while (i-- > 0) free((char *)(uintptr_t)*strings[i]);
      return rc;
    }
  }
  *dst = o;
  return DW_OK;
}

void options_free(dw_options *o) {
  free((char *)(uintptr_t)o->region);
  free((char *)(uintptr_t)o->listen);
  free((char *)(uintptr_t)o->primary);
  free((char *)(uintptr_t)o->repair_from);
  free((char *)(uintptr_t)o->peers);
  free((char *)(uintptr_t)o->client_address);
}
