/* Each mode's promise, with real daemons, real sockets and kill -9.
 *
 * Writers record which keys were answered OK; then processes die at random moments, and what was promised is looked
 * for: in the followers' logs, in their reads, and at last everywhere.
 */
#include "tests/support/check_main.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/await.h"
#include "tests/support/daemons.h"
#include "wal/wal.h"

#define WRITERS 8
#define KEYS_MAX 20000

static char dir[256];
static struct daemon_proc primary, follower[2];

static void setup(void) {
  snprintf(dir, sizeof dir, "%s/dw-promise-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  signal(SIGPIPE, SIG_IGN);
  memset(&primary, 0, sizeof primary);
  memset(follower, 0, sizeof follower);
}

static void teardown(void) {
  daemon_kill9(&primary);
  for (int i = 0; i < 2; i++) daemon_kill9(&follower[i]);
  env_remove_tree(env_posix(), dir);
}

static void start_cluster(const char *mode, int acks, const char *ack, const char *durability, int followers) {
  primary.exe = "dabbawal-primary";
  snprintf(primary.data, sizeof primary.data, "%s/primary", dir);
  daemon_add_flag(&primary, "--mode=%s", mode);
  daemon_add_flag(&primary, "--acks=%d", acks);
  daemon_add_flag(&primary, "--ack=%s", ack);
  daemon_add_flag(&primary, "--durability=%s", durability);
  daemon_add_flag(&primary, "--ack-timeout=3000");
  daemon_start(&primary);
  for (int i = 0; i < followers; i++) {
    follower[i].exe = "dabbawal-follower";
    snprintf(follower[i].data, sizeof follower[i].data, "%s/follower%d", dir, i);
    daemon_add_flag(&follower[i], "--primary=127.0.0.1:%d", primary.listen_port);
    daemon_start(&follower[i]);
  }
}

static bool streaming(int n) {
  char info[4096], want[64];
  resp_once(primary.resp_port, info, sizeof info, "INFO replication");
  snprintf(want, sizeof want, "connected_slaves:%d", n);
  return strstr(info, want) != NULL;
}

static bool caught_up(const struct daemon_proc *d) {
  long long lsn = status_number(primary.resp_port, "written_lsn");
  return lsn >= 0 && status_number(primary.resp_port, "commit_lsn") == lsn &&
         status_number(d->resp_port, "applied_lsn") == lsn;
}

/* ---- writers ------------------------------------------------------------------------------------- */

static atomic_bool stop_writing;
static atomic_uchar acked[WRITERS][KEYS_MAX]; /* 1: answered OK */
static atomic_int written[WRITERS];           /* keys tried so far */
static atomic_int total_acked;

static void *write_keys(void *arg) {
  int w = (int)(intptr_t)arg, i = 0, fd = -1;
  char reply[512];
  while (!atomic_load(&stop_writing) && i < KEYS_MAX) {
    if (fd < 0 && (fd = resp_connect(primary.resp_port)) < 0) {
      poll(NULL, 0, 2); /* the primary is away: try again */
      continue;
    }
    bool answered = resp_ask(fd, reply, sizeof reply, "SET w%d-%d v%d", w, i, i);
    atomic_store(&written[w], i + 1);
    if (answered && strcmp(reply, "+OK") == 0) {
      atomic_store(&acked[w][i], 1);
      atomic_fetch_add(&total_acked, 1);
    }
    if (!answered) {
      close(fd);
      fd = -1;
    }
    i++; /* never the same key again: each stands for one attempt */
  }
  if (fd >= 0) close(fd);
  return NULL;
}

static pthread_t writers[WRITERS];

static void start_writers(void) {
  atomic_store(&stop_writing, false);
  for (int i = 0; i < WRITERS; i++) pthread_create(&writers[i], NULL, write_keys, (void *)(intptr_t)i);
}

static void stop_writers(void) {
  atomic_store(&stop_writing, true);
  for (int i = 0; i < WRITERS; i++) pthread_join(writers[i], NULL);
}

/* Lets the writers get n more answers. */
static void let_write(int n) {
  int goal = atomic_load(&total_acked) + n;
  AWAIT("writers to get on", atomic_load(&total_acked) >= goal);
}

/* ---- looking ------------------------------------------------------------------------------------- */

static unsigned char found[WRITERS][KEYS_MAX];

static int note_block(void *arg, const char *path, uint64_t off, const struct wal_block *b) {
  struct buf scratch = {0};
  const uint8_t *raw;
  size_t n, at = 0;
  struct wal_commit c;
  (void)arg, (void)path, (void)off;
  ck_assert_int_eq(wal_block_raw(b, &scratch, &raw, &n), DW_OK);
  while (b->h.kind == BLOCK_COMMITS && payload_next_commit(raw, n, &at, &c) == DW_OK) {
    size_t op_at = 0;
    struct wal_op op;
    while (body_next_op(c.body, c.body_bytes, &op_at, &op) == DW_OK) {
      char key[64];
      int w, i;
      snprintf(key, sizeof key, "%.*s", (int)op.klen - 1, (const char *)op.key + 1);
      if (sscanf(key, "w%d-%d", &w, &i) == 2 && w < WRITERS && i < KEYS_MAX) found[w][i] = 1;
    }
  }
  buf_free(&scratch);
  return 0;
}

/* Everything in a node's log is added to `found`. */
static void look_into_log(const struct daemon_proc *d) {
  char path[600];
  struct wal_inspect how = {.on_block = note_block};
  struct wal_inspect_report rep;
  snprintf(path, sizeof path, "%s/wal-000001", d->data);
  int rc = wal_inspect(env_posix(), path, &how, &rep);
  ck_assert_msg(rc == DW_OK, "%s: %s", path, rep.problem);
}

static void expect_acked_found(const char *where) {
  int missing = 0, n = 0;
  for (int w = 0; w < WRITERS; w++) {
    for (int i = 0; i < atomic_load(&written[w]); i++) {
      if (!atomic_load(&acked[w][i])) continue;
      n++;
      missing += !found[w][i];
    }
  }
  ck_assert_int_gt(n, 0);
  ck_assert_msg(missing == 0, "%d of %d acknowledged writes are missing from %s", missing, n, where);
}

/* Every acknowledged key reads back on this node. */
static void expect_acked_readable(const struct daemon_proc *d) {
  int fd = resp_connect(d->resp_port), missing = 0;
  ck_assert_int_ge(fd, 0);
  for (int w = 0; w < WRITERS; w++) {
    for (int i = 0; i < atomic_load(&written[w]); i++) {
      char reply[128], want[16];
      if (!atomic_load(&acked[w][i])) continue;
      ck_assert(resp_ask(fd, reply, sizeof reply, "GET w%d-%d", w, i));
      snprintf(want, sizeof want, "v%d", i);
      missing += strcmp(reply, want) != 0;
    }
  }
  close(fd);
  ck_assert_msg(missing == 0, "%d acknowledged writes can't be read at %s", missing, d->data);
}

static void expect_equal_checksums(int followers) {
  char a[128], b[128];
  for (int i = 0; i < followers; i++) AWAIT("a follower to catch up", caught_up(&follower[i]));
  resp_once(primary.resp_port, a, sizeof a, "DW.CHECKSUM");
  ck_assert_uint_eq(strlen(a), 32);
  for (int i = 0; i < followers; i++) {
    resp_once(follower[i].resp_port, b, sizeof b, "DW.CHECKSUM");
    ck_assert_str_eq(a, b);
  }
}

/* ---- the promises ---------------------------------------------------------------------------------- */

START_TEST(sync_when_the_primary_is_killed_every_acked_write_is_in_a_followers_log) {
  start_cluster("sync", 1, "durable", "disk", 2);
  AWAIT("followers", streaming(2));
  start_writers();
  let_write(500);
  daemon_kill9(&primary);
  stop_writers();
  look_into_log(&follower[0]);
  look_into_log(&follower[1]);
  expect_acked_found("both followers' logs together");
  daemon_start(&primary);
  AWAIT("followers", streaming(2));
  expect_equal_checksums(2);
  expect_acked_readable(&primary);
}
END_TEST

START_TEST(sync_level_applied_every_acked_write_reads_back_on_the_followers_of_a_dead_primary) {
  start_cluster("sync", 2, "applied", "disk", 2);
  AWAIT("followers", streaming(2));
  start_writers();
  let_write(500);
  daemon_kill9(&primary);
  stop_writers();
  expect_acked_readable(&follower[0]);
  expect_acked_readable(&follower[1]);
}
END_TEST

START_TEST(async_and_os_a_killed_primary_loses_nothing_it_acknowledged) {
  start_cluster("async", 1, "durable", "os", 1);
  AWAIT("follower", streaming(1));
  start_writers();
  for (int round = 0; round < 5; round++) {
    let_write(300);
    daemon_kill9(&primary);
    daemon_start(&primary);
  }
  stop_writers();
  expect_acked_readable(&primary);
  AWAIT("follower", streaming(1));
  expect_equal_checksums(1);
}
END_TEST

START_TEST(either_side_killed_again_and_again_under_load_converges_with_nothing_acked_lost) {
  start_cluster("semi-sync", 1, "durable", "disk", 2);
  AWAIT("followers", streaming(2));
  srand(42);
  start_writers();
  for (int round = 0; round < 12; round++) {
    let_write(100 + rand() % 200);
    int who = rand() % 3;
    struct daemon_proc *victim = who == 2 ? &primary : &follower[who];
    daemon_kill9(victim);
    if (who != 2) let_write(50); /* the other follower acknowledges */
    daemon_start(victim);
  }
  stop_writers();
  AWAIT("followers", streaming(2));
  expect_equal_checksums(2);
  expect_acked_readable(&primary);
  expect_acked_readable(&follower[1]);
}
END_TEST

START_TEST(an_unacknowledged_sync_write_is_in_doubt_and_seen_on_no_node_until_it_is_acked) {
  char reply[256];
  start_cluster("sync", 1, "durable", "disk", 1);
  AWAIT("follower", streaming(1));
  kill(follower[0].pid, SIGSTOP);
  int fd = resp_connect(primary.resp_port);
  ck_assert(resp_ask(fd, reply, sizeof reply, "DW.MODE SYNC 1 TIMEOUT 300"));
  ck_assert(resp_ask(fd, reply, sizeof reply, "SET doubtful yes"));
  ck_assert_msg(strncmp(reply, "-INDOUBT lsn=1 ", 15) == 0, "%s", reply);
  ck_assert(resp_ask(fd, reply, sizeof reply, "GET doubtful"));
  ck_assert_str_eq(reply, "(nil)");
  kill(follower[0].pid, SIGCONT);
  ck_assert(resp_ask(fd, reply, sizeof reply, "DW.WAIT 1 20000"));
  ck_assert_str_eq(reply, "+OK");
  ck_assert(resp_ask(fd, reply, sizeof reply, "GET doubtful"));
  ck_assert_str_eq(reply, "yes");
  close(fd);
  AWAIT("follower to show it",
        (resp_once(follower[0].resp_port, reply, sizeof reply, "GET doubtful"), strcmp(reply, "yes") == 0));
}
END_TEST

START_TEST(sync_without_followers_is_refused_and_certainly_not_done) {
  char reply[256];
  start_cluster("sync", 1, "durable", "disk", 0);
  resp_once(primary.resp_port, reply, sizeof reply, "SET k v");
  ck_assert_msg(strncmp(reply, "-NOREPLICAS", 11) == 0, "%s", reply);
  ck_assert_int_eq(status_number(primary.resp_port, "written_lsn"), 0);
}
END_TEST

START_TEST(a_daemon_stops_cleanly_on_sigterm_and_says_so_in_its_exit_code) {
  start_cluster("async", 1, "durable", "disk", 1);
  ck_assert_int_eq(daemon_stop(&follower[0]), 0);
  ck_assert_int_eq(daemon_stop(&primary), 0);
}
END_TEST

int main(void) {
  Suite *s = suite_create("promises");
  TCase *t = tcase_create("promises");
  tcase_set_timeout(t, 180);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, sync_when_the_primary_is_killed_every_acked_write_is_in_a_followers_log);
  tcase_add_test(t, sync_level_applied_every_acked_write_reads_back_on_the_followers_of_a_dead_primary);
  tcase_add_test(t, async_and_os_a_killed_primary_loses_nothing_it_acknowledged);
  tcase_add_test(t, either_side_killed_again_and_again_under_load_converges_with_nothing_acked_lost);
  tcase_add_test(t, an_unacknowledged_sync_write_is_in_doubt_and_seen_on_no_node_until_it_is_acked);
  tcase_add_test(t, sync_without_followers_is_refused_and_certainly_not_done);
  tcase_add_test(t, a_daemon_stops_cleanly_on_sigterm_and_says_so_in_its_exit_code);
  suite_add_tcase(s, t);
  return check_main(s);
}
