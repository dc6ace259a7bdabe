/* Answers of etcd, and the keys of a cluster in them. What is accepted as a view of the cluster is, written again, read
 * as the same; no name or address in it is longer than it may be or spoils a line of log. */
#include "fuzz/fuzz.h"
#include "replication/cmd/etcd_json.h"
#include "replication/cmd/failover_keys.h"
#include "replication/cmd/text.h"

static void check_text(const char *s) {
  CHECK(memchr(s, 0, FAILOVER_TEXT) && text_is_utf8(s, strlen(s)));
}

static void check_view(const struct failover_view *v) {
  struct coord_entry e[FAILOVER_MEMBERS + 2];
  struct coord_entries l = {e, 0};
  char keys[FAILOVER_MEMBERS][40];
  struct failover_view *again = malloc(sizeof *again);
  unsigned bad;
  CHECK(again);
  if (v->has_leader) {
    check_text(v->leader.address);
    check_text(v->leader.client);
    e[l.count++] =
        (struct coord_entry){(char *)KEY_LEADER, failover_leader_json(&v->leader), v->leader.revision, v->leader.lease};
  }
  if (v->has_record)
    e[l.count++] = (struct coord_entry){(char *)KEY_RECORD, failover_record_json(&v->record), v->record.revision, 0};
  for (uint32_t i = 0; i < v->member_count; i++) {
    check_text(v->members[i].region);
    check_text(v->members[i].address);
    snprintf(keys[i], sizeof keys[i], KEY_MEMBERS "%llu", (unsigned long long)v->members[i].node_id);
    e[l.count++] = (struct coord_entry){keys[i], failover_member_json(&v->members[i]), v->members[i].revision, 0};
  }
  for (size_t i = 0; i < l.count; i++) CHECK(e[i].value);
  CHECK(failover_view_parse(&l, again, &bad) == DW_OK && bad == 0);
  again->paused = v->paused;
  CHECK(memcmp(again, v, sizeof *v) == 0);
  for (size_t i = 0; i < l.count; i++) free(e[i].value);
  free(again);
}

static void try_view(const uint8_t *p, size_t n) {
  struct coord_entries l = {0};
  struct failover_view *v = malloc(sizeof *v);
  unsigned bad;
  CHECK(v);
  if (etcd_get_range(p, n, strlen("/dabbawal/c/"), &l) == DW_OK && failover_view_parse(&l, v, &bad) == DW_OK)
    check_view(v);
  coord_entries_free(&l);
  free(v);
}

static void try_base64(const uint8_t *p, size_t n) {
  char *text = malloc(n + 1);
  uint8_t *out = malloc(n + 3);
  struct buf again = {0};
  size_t got;
  CHECK(text && out);
  memcpy(text, p, n);
  text[n] = 0;
  if (base64_decode(text, n, out, &got) == DW_OK) {
    CHECK(base64_encode(&again, out, got) == DW_OK);
    CHECK(again.len == strlen(text) && (again.len == 0 || memcmp(again.data, text, again.len) == 0));
  }
  buf_free(&again);
  free(text);
  free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint64_t lease = 0, ttl_ms = 0;
  bool done;
  if (size == 0) return 0;
  const uint8_t *p = data + 1;
  size_t n = size - 1;
  switch (data[0] % 6) {
  case 0: try_view(p, n); break;
  case 1: try_base64(p, n); break;
  case 2:
    if (etcd_get_grant(p, n, &lease, &ttl_ms) == DW_OK) CHECK(lease && ttl_ms && ttl_ms <= 86400000);
    break;
  case 3:
    if (etcd_get_keepalive(p, n, &ttl_ms) == DW_OK) CHECK(ttl_ms && ttl_ms <= 86400000);
    break;
  case 4: etcd_get_txn(p, n, &done); break;
  default: CHECK(etcd_get_error(p, n, 500) != DW_OK); break;
  }
  return 0;
}
