/*   primary 1 (mumbai)  epoch 3  semi-sync, 1 ack at durable  degraded
 *   LSN written 64112  durable 64112  commit 64112  applied 64112  persisted 60000  oldest 1
 *   ...
 *   FOLLOWER  REGION  ADDRESS  STATE  RECEIVED  DURABLE  APPLIED  LAG  LAG BYTES  LAG TIME  STALENESS
 *
 * Fields that are missing (another version's node) show as '?'. Columns are as wide as their widest cell. */
#include "replication/cmd/status_table.h"

#include <string.h>

#include "replication/cmd/text.h"

#define COLUMNS 11
#define CELL 72
#define ROWS_MAX 65

static const char *text_of(const cJSON *o, const char *name) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
  if (!cJSON_IsString(v)) return "?";
  text_printable(v->valuestring); /* it goes to a terminal */
  return v->valuestring;
}

static const char *number_of(const cJSON *o, const char *name, char out[32]) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
  snprintf(out, 32, "?");
  if (cJSON_IsNumber(v)) snprintf(out, 32, "%.0f", v->valuedouble);
  return out;
}

static double double_of(const cJSON *o, const char *name) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
  return cJSON_IsNumber(v) ? v->valuedouble : 0;
}

static const char *bytes_of(const cJSON *o, const char *name, char out[32]) {
  text_bytes(out, 32, double_of(o, name));
  return out;
}

static const char *time_of(const cJSON *o, const char *name, char out[32]) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
  double ms = cJSON_IsNumber(v) ? v->valuedouble : -1;
  if (ms < 0)
    snprintf(out, 32, "unknown");
  else if (ms < 10000)
    snprintf(out, 32, "%.0f ms", ms);
  else if (ms < 600000)
    snprintf(out, 32, "%.1f s", ms / 1000);
  else
    snprintf(out, 32, "%.0f min", ms / 60000);
  return out;
}

static bool is_true(const cJSON *o, const char *name) {
  return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, name));
}

/* Of an epoch's number people want the term: how many promotions there were. */
static void role_line(FILE *f, const cJSON *o) {
  char a[32], b[32];
  const char *client = text_of(o, "primary_client"), *node = text_of(o, "primary_node");
  bool known = strcmp(node, "0") != 0 && strcmp(node, "?") != 0;
  fprintf(f, "  primary  %s%s", known ? "node " : "", known ? node : "unknown");
  if (known && *client && strcmp(client, "?") != 0) fprintf(f, " at %s", client);
  fprintf(f, "; term %s", number_of(o, "term", a));
  if (double_of(o, "promised_epoch") > double_of(o, "epoch"))
    fprintf(f, "; epoch %s is promised to node %s", number_of(o, "promised_epoch", b), text_of(o, "promised_node"));
  fputc('\n', f);
}

static void node_lines(FILE *f, const cJSON *o) {
  char a[32], b[32], c[32], d[32];
  bool follower = strcmp(text_of(o, "role"), "follower") == 0;
  const char *region = text_of(o, "region"), *mode = text_of(o, "mode");
  fprintf(f, "%s %s%s%s%s  epoch %s", text_of(o, "role"), text_of(o, "node_id"), *region ? " (" : "", region,
          *region ? ")" : "", number_of(o, "epoch", a));
  if (follower)
    fprintf(f, "  of %s: %s  staleness %s", text_of(o, "primary"), text_of(o, "primary_state"),
            time_of(o, "staleness_ms", b));
  else if (strcmp(mode, "async") == 0)
    fprintf(f, "  mode async");
  else
    fprintf(f, "  mode %s, acks %s, level %s", mode, number_of(o, "acks", b), text_of(o, "ack"));
  fprintf(f, "%s%s%s\n", is_true(o, "degraded") ? "  DEGRADED" : "", is_true(o, "failed") ? "  FAILED" : "",
          is_true(o, "fenced") ? "  FENCED" : "");
  role_line(f, o);
  fprintf(f, "  LSN      written %s  durable %s", number_of(o, "written_lsn", a), number_of(o, "durable_lsn", b));
  fprintf(f, "  commit %s  applied %s", number_of(o, "commit_lsn", a), number_of(o, "applied_lsn", b));
  fprintf(f, "  persisted %s  oldest in log %s\n", number_of(o, "persisted_lsn", a), number_of(o, "oldest_lsn", b));
  double raw = double_of(o, "raw_bytes");
  fprintf(f, "  commits  %s, %s in %s of log (%.0f%%), %s syncs; %s keys, log of %s\n", number_of(o, "commits", a),
          bytes_of(o, "raw_bytes", b), bytes_of(o, "stored_bytes", c),
          raw > 0 ? double_of(o, "stored_bytes") / raw * 100 : 100, number_of(o, "syncs", d),
          number_of(o, "approximate_keys", (char[32]){0}), bytes_of(o, "log_bytes", (char[32]){0}));
  if (double_of(o, "degraded_count") > 0)
    fprintf(f, "  degraded %s times, %s commits without their acks\n", number_of(o, "degraded_count", a),
            number_of(o, "degraded_commits", b));
  if (double_of(o, "scrub_total_bytes") > 0 || double_of(o, "damage_found") > 0) {
    fprintf(f, "  scrub    %s of %s, %s passes done", bytes_of(o, "scrub_done_bytes", a),
            bytes_of(o, "scrub_total_bytes", b), number_of(o, "scrub_passes", c));
    fprintf(f, "; damaged segments: %s found, %s repaired, %s now\n", number_of(o, "damage_found", a),
            number_of(o, "damage_repaired", b), number_of(o, "damage_now", c));
    const char *result = text_of(o, "scrub_result");
    if (*result && strcmp(result, "?") != 0) fprintf(f, "           %s\n", result);
  }
  if (double_of(o, "diverged_files") > 0)
    fprintf(f, "  DIVERGED %s commits in %s files are not in the cluster's history: see dabbawal diverged list\n",
            number_of(o, "diverged_commits", a), number_of(o, "diverged_files", b));
  if (is_true(o, "write_stalled")) fprintf(f, "  the store holds writes back\n");
  if (*text_of(o, "error") && strcmp(text_of(o, "error"), "?") != 0) fprintf(f, "  error    %s\n", text_of(o, "error"));
}

static void fill_row(char row[COLUMNS][CELL], const cJSON *f) {
  char n[32];
  text_clean(row[0], CELL, text_of(f, "node_id")); /* which cuts between characters */
  text_clean(row[1], CELL, *text_of(f, "region") ? text_of(f, "region") : "-");
  text_clean(row[2], CELL, *text_of(f, "address") ? text_of(f, "address") : "-");
  text_clean(row[3], CELL, text_of(f, "state"));
  snprintf(row[4], CELL, "%s", number_of(f, "received_lsn", n));
  snprintf(row[5], CELL, "%s", number_of(f, "durable_lsn", n));
  snprintf(row[6], CELL, "%s", number_of(f, "applied_lsn", n));
  snprintf(row[7], CELL, "%s", number_of(f, "lag_lsns", n));
  snprintf(row[8], CELL, "%s", bytes_of(f, "lag_bytes", n));
  snprintf(row[9], CELL, "%s", time_of(f, "lag_ms", n));
  snprintf(row[10], CELL, "%s", time_of(f, "staleness_ms", n));
}

void status_table(FILE *f, const cJSON *o) {
  static const char *const heads[COLUMNS] = {"FOLLOWER", "REGION",   "ADDRESS",   "STATE",    "RECEIVED", "DURABLE",
                                             "APPLIED",  "LAG LSNS", "LAG BYTES", "LAG TIME", "STALENESS"};
  char rows[ROWS_MAX][COLUMNS][CELL];
  size_t n = 1, width[COLUMNS] = {0};
  node_lines(f, o);
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(o, "followers"), *item;
  if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) == 0) {
    if (strcmp(text_of(o, "role"), "primary") == 0) fprintf(f, "  no followers\n");
    return;
  }
  for (size_t c = 0; c < COLUMNS; c++) snprintf(rows[0][c], CELL, "%s", heads[c]);
  cJSON_ArrayForEach(item, list) if (n < ROWS_MAX) fill_row(rows[n++], item);
  for (size_t r = 0; r < n; r++)
    for (size_t c = 0; c < COLUMNS; c++)
      if (strlen(rows[r][c]) > width[c]) width[c] = strlen(rows[r][c]);
  for (size_t r = 0; r < n; r++)
    for (size_t c = 0; c < COLUMNS; c++)
      fprintf(f, c < 4 ? "%s%-*s%s" : "%s%*s%s", c ? "  " : "  ", (int)width[c], rows[r][c],
              c == COLUMNS - 1 ? "\n" : "");
}
