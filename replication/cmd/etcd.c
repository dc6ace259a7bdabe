/* etcd v3 through its JSON gateway (etcd 3.4 and later: POST /v3/...), with libcurl.
 *
 * One endpoint is used until it fails; then the next one, in turn, within the same call as long as its time lasts. So a
 * call may reach etcd twice, and the first time may have been done: callers must bear that (failover.h: an answer that
 * was lost is never guessed at). Nothing is trusted: answers are bounded in size while they come in, redirects are not
 * followed, proxies of the environment are not used.
 */
#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "replication/address.h"
#include "replication/cmd/etcd_json.h"
#include "wal/base/status.h"

#define ENDPOINTS_MAX 16u
#define ANSWER_MAX (4u << 20)
#define SCHEME "etcd://"

struct etcd {
  struct coordinator base;
  char *endpoint[ENDPOINTS_MAX]; /* "host:port" */
  unsigned endpoints, current;
  CURL *curl;
  struct curl_slist *headers;
  struct buf ask, answer;
};

void coord_entries_free(struct coord_entries *l) {
  for (size_t i = 0; i < l->count; i++) {
    free(l->e[i].key);
    free(l->e[i].value);
  }
  free(l->e);
  *l = (struct coord_entries){0};
}

/* ---- one call ------------------------------------------------------------------------------------------- */

static size_t on_bytes(char *p, size_t size, size_t n, void *arg) {
  struct buf *b = arg;
  (void)size;
  if (n > ANSWER_MAX - b->len || buf_append(b, p, n)) return 0; /* ends the transfer */
  return n;
}

static uint64_t now_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static int call_endpoint(struct etcd *c, const char *path, unsigned timeout_ms, long *status) {
  char url[400], why[CURL_ERROR_SIZE] = "";
  snprintf(url, sizeof url, "http://%s%s", c->endpoint[c->current], path);
  c->answer.len = 0;
  curl_easy_setopt(c->curl, CURLOPT_URL, url);
  curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, why);
  curl_easy_setopt(c->curl, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
  curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT_MS, (long)timeout_ms);
  curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, (const char *)c->ask.data);
  curl_easy_setopt(c->curl, CURLOPT_POSTFIELDSIZE, (long)c->ask.len);
  CURLcode rc = curl_easy_perform(c->curl);
  curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, NULL);
  curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, status);
  if (rc == CURLE_OK) return DW_OK;
  return dw_fail(rc == CURLE_OPERATION_TIMEDOUT ? DW_TIMEOUT : DW_IO, "etcd at %s: %s", c->endpoint[c->current],
                 why[0] ? why : curl_easy_strerror(rc));
}

/* c->ask holds the body. An endpoint that gives no answer, or can't reach the others of its cluster, is left for the
 * next one. */
static int call(struct etcd *c, const char *path, unsigned timeout_ms) {
  uint64_t end = now_ms() + timeout_ms;
  int rc = DW_TIMEOUT;
  for (unsigned tries = c->endpoints; tries; tries--) {
    uint64_t now = now_ms();
    if (now >= end) break;
    uint64_t share = (end - now) / tries;
    long status = 0;
    rc = call_endpoint(c, path, share ? (unsigned)share : 1, &status);
    if (rc == DW_OK && status != 200) {
      rc = etcd_get_error(c->answer.data, c->answer.len, status);
      dw_fail_prefix(rc, "etcd at %s", c->endpoint[c->current]);
    }
    if (rc == DW_OK || rc == DW_NOT_FOUND) return rc;
    c->current = (c->current + 1) % c->endpoints;
  }
  return rc;
}

/* ---- the interface -------------------------------------------------------------------------------------- */

static int lease_call(struct etcd *c, const char *path, bool grant, uint64_t id, uint64_t ttl_s, unsigned timeout_ms) {
  c->ask.len = 0;
  int rc = etcd_put_lease(&c->ask, grant, id, ttl_s);
  return rc ? rc : call(c, path, timeout_ms);
}

static int etcd_grant(struct coordinator *base, uint64_t ttl_ms, unsigned timeout_ms, uint64_t *lease,
                      uint64_t *granted_ms) {
  struct etcd *c = (struct etcd *)base;
  int rc = lease_call(c, "/v3/lease/grant", true, 0, (ttl_ms + 999) / 1000, timeout_ms);
  return rc ? rc : etcd_get_grant(c->answer.data, c->answer.len, lease, granted_ms);
}

static int etcd_keepalive(struct coordinator *base, uint64_t lease, unsigned timeout_ms, uint64_t *granted_ms) {
  struct etcd *c = (struct etcd *)base;
  int rc = lease_call(c, "/v3/lease/keepalive", false, lease, 0, timeout_ms);
  return rc ? rc : etcd_get_keepalive(c->answer.data, c->answer.len, granted_ms);
}

static int etcd_revoke(struct coordinator *base, uint64_t lease, unsigned timeout_ms) {
  return lease_call((struct etcd *)base, "/v3/lease/revoke", false, lease, 0, timeout_ms);
}

static int etcd_list(struct coordinator *base, const char *prefix, unsigned timeout_ms, struct coord_entries *out) {
  struct etcd *c = (struct etcd *)base;
  *out = (struct coord_entries){0};
  c->ask.len = 0;
  int rc = etcd_put_range(&c->ask, prefix);
  if (rc == DW_OK) rc = call(c, "/v3/kv/range", timeout_ms);
  return rc ? rc : etcd_get_range(c->answer.data, c->answer.len, strlen(prefix), out);
}

static int etcd_txn(struct coordinator *base, const struct coord_compare *compare, size_t compares,
                    const struct coord_change *change, size_t changes, unsigned timeout_ms, bool *done) {
  struct etcd *c = (struct etcd *)base;
  *done = false;
  c->ask.len = 0;
  int rc = etcd_put_txn(&c->ask, compare, compares, change, changes);
  if (rc == DW_OK) rc = call(c, "/v3/kv/txn", timeout_ms);
  return rc ? rc : etcd_get_txn(c->answer.data, c->answer.len, done);
}

static void etcd_destroy(struct coordinator *base) {
  struct etcd *c = (struct etcd *)base;
  for (unsigned i = 0; i < c->endpoints; i++) free(c->endpoint[i]);
  if (c->curl) curl_easy_cleanup(c->curl);
  curl_slist_free_all(c->headers);
  buf_free(&c->ask);
  buf_free(&c->answer);
  free(c);
}

static const struct coordinator_ops etcd_ops = {.grant = etcd_grant,
                                                .keepalive = etcd_keepalive,
                                                .revoke = etcd_revoke,
                                                .list = etcd_list,
                                                .txn = etcd_txn,
                                                .destroy = etcd_destroy};

/* ---- opening -------------------------------------------------------------------------------------------- */

static int take_endpoint(struct etcd *c, const char *text, size_t n) {
  struct address a;
  if (c->endpoints == ENDPOINTS_MAX) return dw_fail(DW_INVALID, "more than %u endpoints", ENDPOINTS_MAX);
  char *one = strndup(text, n);
  if (!one) return dw_fail_nomem(n);
  int rc = address_parse(one, &a);
  if (rc == DW_OK && (strtoul(a.port, NULL, 10) == 0 || one[0] == '*' || strlen(one) > 300))
    rc = dw_fail(DW_INVALID, "'%.200s': a host and a port are needed", one);
  if (rc)
    free(one);
  else
    c->endpoint[c->endpoints++] = one;
  return rc;
}

static int take_url(struct etcd *c, const char *url) {
  if (strncmp(url, SCHEME, strlen(SCHEME)) != 0)
    return dw_fail(DW_INVALID, "'%.200s' is not etcd://HOST:PORT[,HOST:PORT...]", url);
  int rc = DW_OK;
  for (const char *at = url + strlen(SCHEME); rc == DW_OK; at++) {
    size_t n = strcspn(at, ",");
    rc = take_endpoint(c, at, n);
    at += n;
    if (!*at) break;
  }
  return rc;
}

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static void curl_start(void) {
  curl_global_init(CURL_GLOBAL_DEFAULT);
}

static int start_curl(struct etcd *c) {
  pthread_once(&curl_once, curl_start);
  c->curl = curl_easy_init();
  c->headers = curl_slist_append(NULL, "Content-Type: application/json");
  if (!c->curl || !c->headers) return dw_fail_nomem(0);
  curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, c->headers);
  curl_easy_setopt(c->curl, CURLOPT_POST, 1L);
  curl_easy_setopt(c->curl, CURLOPT_PROXY, "");
  curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "http");
  curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_bytes);
  curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, &c->answer);
  return DW_OK;
}

int coordinator_open(const char *url, struct coordinator **out) {
  struct etcd *c = calloc(1, sizeof *c);
  if (!c) return dw_fail_nomem(sizeof *c);
  c->base.ops = &etcd_ops;
  int rc = take_url(c, url);
  if (rc == DW_OK) rc = start_curl(c);
  if (rc)
    etcd_destroy(&c->base);
  else
    *out = &c->base;
  return rc;
}

int coordinator_check(const char *url) {
  struct etcd c = {0};
  int rc = take_url(&c, url);
  for (unsigned i = 0; i < c.endpoints; i++) free(c.endpoint[i]);
  return rc;
}
