/* Flags and configuration files: each mistake is one line that names it; everything right arrives where it belongs. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replication/cmd/config.h"
#include "replication/cmd/text.h"
#include "tests/support/check_main.h"
#include "wal/base/status.h"

static struct config config;
static struct buf errors;

static int load(enum daemon_kind kind, ...) {
  char *argv[64] = {"program"};
  int argc = 1;
  va_list ap;
  va_start(ap, kind);
  while (argc < 63 && (argv[argc] = va_arg(ap, char *))) argc++;
  va_end(ap);
  errors.len = 0;
  int rc = config_load(&config, kind, argc, argv, &errors);
  ck_assert_int_eq(buf_append(&errors, "", 1), DW_OK); /* terminated */
  return rc;
}
#define LOAD(...) load(__VA_ARGS__, (char *)NULL)
#define PRIMARY_BASE DAEMON_PRIMARY, "--data", "d", "--listen", "7400"
#define FOLLOWER_BASE DAEMON_FOLLOWER, "--data", "d", "--primary", "db1:7400"

static void done(void) {
  config_free(&config);
  buf_free(&errors);
}

static size_t lines(void) {
  size_t n = 0;
  for (const char *p = (const char *)errors.data; (p = strchr(p, '\n')); p++) n++;
  return n;
}

START_TEST(every_wrong_value_gives_one_line_that_names_the_flag) {
  static const struct {
    const char *flag, *value, *says;
  } wrong[] = {
      {"--acks", "0", "1 to 64"},
      {"--acks", "65", "1 to 64"},
      {"--acks", "-1", "1 to 64"},
      {"--acks", "1x", "1 to 64"},
      {"--acks", "99999999999999999999999", "1 to 64"},
      {"--acks", "", "1 to 64"},
      {"--mode", "synchronous", "async, semi-sync or sync"},
      {"--ack", "DURABLE", "received, durable or applied"},
      {"--durability", "tape", "disk or os"},
      {"--ack-timeout", "0", "1ms to 1d"},
      {"--ack-timeout", "10 s", "not a time"},
      {"--sync-interval", "2h", "1ms to 1h"},
      {"--segment-bytes", "1KiB", "64KiB to 4GiB"},
      {"--segment-bytes", "8GiB", "64KiB to 4GiB"},
      {"--segment-bytes", "64MB!", "not a size"},
      {"--retain-bytes", "-1", "not a size"},
      {"--retain-bytes", "99999999999999999G", "not a size"},
      {"--retain", "soon", "not a time"},
      {"--memtable", "1", "64KiB to 16GiB"},
      {"--zstd-level", "20", "-5 to 19"},
      {"--zstd-level", "-6", "-5 to 19"},
      {"--repair-from", "", "host:port"},
      {"--repair-from", "a:1,,b:2", "host:port"},
      {"--repair-from", "a:1,b", "host:port"},
      {"--repair-from", "a:1,b:0", "a port are needed"},
      {"--repair-from", "*:7400", "a port are needed"},
      {"--scrub-rate", "fast", "not a size"},
      {"--scrub-interval", "0", "1ms to"},
      {"--heartbeat", "1", "10ms to 1m"},
      {"--node-id", "0", "1 to 18446744073709551615"},
      {"--node-id", "18446744073709551616", "1 to"},
      {"--region", "0123456789012345678901234567890123456789", "31 bytes"},
      {"--region", "a\nb", "not UTF-8"},
      {"--region", "\xff", "not UTF-8"},
      {"--resp", "host", "host:port"},
      {"--resp", "1.2.3.4:99999", "port"},
      {"--http", "::1:80", "brackets"},
      {"--log-level", "chatty", "debug, info, warn or error"},
      {"--log-file", "", "empty"},
      {"--max-clients", "0", "1 to 1000000"},
      {"--resp-threads", "65", "0 to 64"},
      {"--config", "/nonexistent/file", "No such file"},
      {"--config", "/", "directory"},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    ck_assert_int_eq(LOAD(PRIMARY_BASE, wrong[i].flag, wrong[i].value), DW_INVALID);
    ck_assert_msg(lines() == 1, "%s %s: %s", wrong[i].flag, wrong[i].value, (char *)errors.data);
    ck_assert_msg(strncmp((char *)errors.data, wrong[i].flag, strlen(wrong[i].flag)) == 0 &&
                      strstr((char *)errors.data, wrong[i].says),
                  "%s %s: %s", wrong[i].flag, wrong[i].value, (char *)errors.data);
    config_free(&config);
    char joined[200]; /* the other spelling */
    snprintf(joined, sizeof joined, "%s=%s", wrong[i].flag, wrong[i].value);
    ck_assert_int_eq(LOAD(PRIMARY_BASE, joined), DW_INVALID);
    ck_assert_uint_eq(lines(), 1);
    config_free(&config);
  }
  done();
}
END_TEST

START_TEST(every_option_without_its_value_gives_one_line) {
  for (size_t k = 0; k < option_count; k++) {
    char flag[64];
    if (option_table[k].type == OPTION_FLAG || option_table[k].required) continue;
    enum daemon_kind kind = option_table[k].kinds & DAEMON_PRIMARY ? DAEMON_PRIMARY : DAEMON_FOLLOWER;
    snprintf(flag, sizeof flag, "--%s", option_table[k].name);
    int rc = kind == DAEMON_PRIMARY ? LOAD(PRIMARY_BASE, flag) : LOAD(FOLLOWER_BASE, flag);
    ck_assert_int_eq(rc, DW_INVALID);
    ck_assert_msg(lines() == 1 && strstr((char *)errors.data, "needs a value"), "%s: %s", flag, (char *)errors.data);
    config_free(&config);
  }
  done();
}
END_TEST

START_TEST(all_mistakes_are_reported_not_only_the_first) {
  ck_assert_int_eq(LOAD(DAEMON_PRIMARY, "--acks", "0", "--lisen", "7400", "stray", "--mode=x", "--primary", "a:1"),
                   DW_INVALID);
  const char *e = (const char *)errors.data;
  ck_assert_uint_eq(lines(), 7);
  ck_assert_ptr_nonnull(strstr(e, "--acks: '0'"));
  ck_assert_ptr_nonnull(strstr(e, "unknown option --lisen: did you mean --listen?"));
  ck_assert_ptr_nonnull(strstr(e, "unexpected argument 'stray'"));
  ck_assert_ptr_nonnull(strstr(e, "--mode: 'x'"));
  ck_assert_ptr_nonnull(strstr(e, "--primary is an option of dabbawal-follower"));
  ck_assert_ptr_nonnull(strstr(e, "--data DIR is missing"));
  ck_assert_ptr_nonnull(strstr(e, "--listen HOST:PORT is missing"));
  done();
}
END_TEST

START_TEST(only_options_of_this_program_are_suggested) {
  ck_assert_int_eq(LOAD(PRIMARY_BASE, "--primry", "3"), DW_INVALID);
  ck_assert_str_eq((char *)errors.data, "unknown option --primry\n");
  config_free(&config);
  ck_assert_int_eq(LOAD(FOLLOWER_BASE, "--primry", "3"), DW_INVALID);
  ck_assert_str_eq((char *)errors.data, "unknown option --primry: did you mean --primary?\n");
  done();
}
END_TEST

START_TEST(options_that_exclude_each_other_are_refused) {
  ck_assert_int_eq(LOAD(PRIMARY_BASE, "--resp", "127.0.0.1:7400"), DW_INVALID);
  ck_assert_ptr_nonnull(strstr((char *)errors.data, "--resp: 127.0.0.1:7400 is also the address of --listen"));
  ck_assert_uint_eq(lines(), 1);
  config_free(&config);
  ck_assert_int_eq(LOAD(PRIMARY_BASE, "--heartbeat", "4s"), DW_INVALID);
  ck_assert_ptr_nonnull(strstr((char *)errors.data, "--peer-timeout: 5000ms is less than two heartbeats of 4000ms"));
  config_free(&config);
  ck_assert_int_eq(LOAD(DAEMON_FOLLOWER, "--data", "d", "--primary", "0"), DW_INVALID);
  ck_assert_ptr_nonnull(strstr((char *)errors.data, "--primary: '0': a host and a port"));
  config_free(&config);
  ck_assert_int_eq(LOAD(DAEMON_PRIMARY, "--data", "d", "--listen", "0", "--resp", "0", "--http=:0"), DW_OK);
  done();
}
END_TEST

START_TEST(values_arrive_with_their_units) {
  ck_assert_int_eq(LOAD(PRIMARY_BASE, "--resp=:0", "--http", "*:9", "--mode", "semi-sync", "--acks=2", "--ack",
                        "applied", "--ack-timeout", "3s", "--durability", "os", "--sync-interval", "250",
                        "--segment-bytes", "8MiB", "--retain-bytes", "2G", "--retain-ms", "5m", "--block-cache", "0",
                        "--memtable", "512k", "--zstd-level", "-3", "--heartbeat", "100ms", "--peer-timeout=1s",
                        "--node-id", "7", "--region", "mumbai", "--log-level", "debug", "--repair-from",
                        "db2:7400,7401", "--scrub-rate", "2M", "--scrub-interval", "7d"),
                   DW_OK);
  const dw_options *o = &config.engine;
  ck_assert_str_eq(config.data, "d");
  ck_assert_str_eq(o->listen, "127.0.0.1:7400"); /* a bare port is on loopback */
  ck_assert_str_eq(config.resp, "127.0.0.1:0");
  ck_assert_str_eq(config.http, "*:9");
  ck_assert_int_eq(o->role, DW_PRIMARY);
  ck_assert_int_eq(o->mode, DW_SEMI_SYNC);
  ck_assert_uint_eq(o->acks, 2);
  ck_assert_int_eq(o->ack, DW_ACK_APPLIED);
  ck_assert_uint_eq(o->ack_timeout_ms, 3000);
  ck_assert_int_eq(o->durability, DW_DURABILITY_OS);
  ck_assert_uint_eq(o->sync_interval_ms, 250);
  ck_assert_uint_eq(o->segment_bytes, 8u << 20);
  ck_assert_uint_eq(o->retain_bytes, 2ull << 30);
  ck_assert_uint_eq(o->retain_ms, 300000);
  ck_assert_uint_eq(o->block_cache_bytes, 0);
  ck_assert_uint_eq(o->memtable_bytes, 512u << 10);
  ck_assert_int_eq(o->zstd_level, -3);
  ck_assert_uint_eq(o->heartbeat_ms, 100);
  ck_assert_str_eq(o->repair_from, "db2:7400,127.0.0.1:7401");
  ck_assert_uint_eq(o->scrub_bytes_per_s, 2u << 20);
  ck_assert_uint_eq(o->scrub_interval_ms, 7ull * 86400000);
  ck_assert_uint_eq(o->peer_timeout_ms, 1000);
  ck_assert_uint_eq(o->node_id, 7);
  ck_assert_str_eq(o->region, "mumbai");
  ck_assert_uint_eq(config.log_level, DW_LOG_DEBUG);
  config_free(&config);
  ck_assert_int_eq(LOAD(FOLLOWER_BASE, "--max-staleness", "1500"), DW_OK);
  ck_assert_uint_eq(config.max_staleness_ms, 1500);
  ck_assert_int_eq(config.engine.role, DW_FOLLOWER);
  ck_assert_str_eq(config.engine.primary, "db1:7400");
  done();
}
END_TEST

static char file_path[400];

static const char *write_file(const char *text) {
  const char *tmp = getenv("TMPDIR");
  snprintf(file_path, sizeof file_path, "%s/dw-config-XXXXXX", tmp ? tmp : "/tmp");
  int fd = mkstemp(file_path);
  ck_assert_int_ge(fd, 0);
  ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
  close(fd);
  return file_path;
}

START_TEST(a_file_fills_in_and_flags_win) {
  write_file("# a comment\n\n data = /srv/x y \t# with a blank\r\nlisten=7400\nacks = 3\nmode= sync\nregion = a#b\n");
  ck_assert_int_eq(LOAD(DAEMON_PRIMARY, "--acks", "2", "--config", file_path), DW_OK);
  ck_assert_str_eq(config.data, "/srv/x y");
  ck_assert_str_eq(config.engine.region, "a#b");
  ck_assert_int_eq(config.engine.mode, DW_SYNC);
  ck_assert_uint_eq(config.engine.acks, 2);
  unlink(file_path);
  done();
}
END_TEST

START_TEST(mistakes_in_a_file_name_file_and_line) {
  char want[600];
  write_file(
      "data = d\nlisten = 0\nbogus = 1\nacks = none\nmode\nconfig = x\nack = durable\nack = applied\nprimary = a:1\n");
  ck_assert_int_eq(LOAD(DAEMON_PRIMARY, "--config", file_path), DW_INVALID);
  static const char *const says[] = {"3: unknown option bogus",
                                     "4: acks: 'none' is not a number",
                                     "5: 'mode': expected",
                                     "6: config: is only for the command line",
                                     "8: ack: set twice, first in line 7",
                                     "9: primary is an option of dabbawal-follower"};
  for (size_t i = 0; i < 6; i++) {
    snprintf(want, sizeof want, "%s:%s", file_path, says[i]);
    ck_assert_msg(strstr((char *)errors.data, want) != NULL, "no '%s' in: %s", want, (char *)errors.data);
  }
  ck_assert_uint_eq(lines(), 6);
  unlink(file_path);
  done();
}
END_TEST

START_TEST(a_binary_file_and_an_endless_line_are_one_mistake) {
  write_file("\x7f"
             "ELF\x02\x01\n\x01\n\x02\n");
  ck_assert_int_eq(LOAD(PRIMARY_BASE, "--config", file_path), DW_INVALID);
  ck_assert_uint_eq(lines(), 1);
  ck_assert_ptr_nonnull(strstr((char *)errors.data, "no configuration file"));
  unlink(file_path);
  config_free(&config);
  FILE *zero = fopen(file_path, "w"); /* what stands behind a zero byte must not be overlooked */
  fwrite("# a\nacks = 2\0garbage\n", 1, 21, zero);
  fclose(zero);
  ck_assert_int_eq(LOAD(PRIMARY_BASE, "--config", file_path), DW_INVALID);
  ck_assert_uint_eq(lines(), 1);
  ck_assert_ptr_nonnull(strstr((char *)errors.data, ":2: this is no configuration file"));
  unlink(file_path);
  config_free(&config);
  char *big = malloc(100001);
  memset(big, 'a', 100000);
  big[100000] = 0;
  write_file(big);
  free(big);
  ck_assert_int_eq(LOAD(PRIMARY_BASE, "--config", file_path), DW_INVALID);
  ck_assert_uint_eq(lines(), 1);
  ck_assert_ptr_nonnull(strstr((char *)errors.data, "longer than"));
  unlink(file_path);
  done();
}
END_TEST

START_TEST(an_error_line_stays_one_line_whatever_was_typed) {
  ck_assert_int_eq(LOAD(PRIMARY_BASE, "--acks", "1\n2\033[2J"), DW_INVALID);
  ck_assert_uint_eq(lines(), 1);
  ck_assert_ptr_null(strchr((char *)errors.data, 033));
  done();
}
END_TEST

START_TEST(help_wins_over_mistakes_and_names_every_option) {
  ck_assert_int_eq(LOAD(DAEMON_PRIMARY, "--acks", "0", "--help"), DW_OK);
  ck_assert(config.help);
  for (unsigned kind = DAEMON_PRIMARY; kind <= DAEMON_FOLLOWER; kind++) {
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    config_help(f, kind);
    fclose(f);
    for (size_t k = 0; k < option_count; k++) {
      char flag[64];
      snprintf(flag, sizeof flag, "\n  --%s ", option_table[k].name);
      bool there = strstr(text, flag) != NULL;
      ck_assert_msg(there == ((option_table[k].kinds & kind) != 0), "%s", flag);
    }
    ck_assert_ptr_nonnull(strstr(text, "Exit codes"));
    free(text);
  }
  done();
}
END_TEST

START_TEST(foreign_text_is_made_harmless) {
  char out[16];
  text_clean(out, sizeof out, "a\xff\xc3\xa9\n\xe0\x80");
  ck_assert_str_eq(out, "a?\xc3\xa9???");
  text_clean(out, 4, "ab\xc3\xa9");
  ck_assert_str_eq(out, "ab"); /* never half a character */
  ck_assert(!text_is_utf8("\xed\xa0\x80", 3));
  ck_assert(!text_is_utf8("\xf4\x90\x80\x80", 4));
  ck_assert(text_is_utf8("\xf0\x9f\x9a\x82", 4));
  ck_assert(!text_is_utf8("\xc2\x9b", 2)); /* CSI: what an escape sequence may begin with, in one character */
  ck_assert(text_is_utf8("\xc2\xa0", 2));
  text_clean(out, sizeof out,
             "a\xc2\x9b"
             "2J");
  ck_assert_str_eq(out, "a??2J");
  char line[] = "\xc3\xa9\x1b[0m\x7f\xc2\x9b"
                "2J\x9b\xe0\x80";
  text_printable(line);
  ck_assert_str_eq(line, "\xc3\xa9?[0m???2J???");
  text_bytes(out, sizeof out, 999.6);
  ck_assert_str_eq(out, "1.0 kB");
}
END_TEST

#define COORDINATED                                                                                                    \
  "--coordinator", "etcd://a:2379,b:2379", "--cluster-name", "c", "--node-id", "7", "--peers", "h:2,h:3"

START_TEST(a_coordinator_needs_a_name_an_id_peers_and_an_address) {
  ck_assert_int_eq(LOAD(PRIMARY_BASE, COORDINATED), DW_OK);
  ck_assert_str_eq(config.coordinator, "etcd://a:2379,b:2379");
  ck_assert_str_eq(config.engine.peers, "h:2,h:3");
  ck_assert_uint_eq(config.failover.lease_ttl_ms, 5000);
  ck_assert_uint_eq(config.failover.keep, 0);
  done();
  /* Whom to follow is the coordinator's to say. */
  ck_assert_int_eq(LOAD(DAEMON_FOLLOWER, "--data", "d", "--listen", "7401", COORDINATED, "--lease-ttl-ms", "10s",
                        "--on-coordinator-loss", "keep", "--early-takeover", "no"),
                   DW_OK);
  ck_assert_uint_eq(config.failover.lease_ttl_ms, 10000);
  ck_assert_uint_eq(config.failover.keep, 1);
  ck_assert_uint_eq(config.failover.early, 0);
  done();
  ck_assert_int_eq(LOAD(PRIMARY_BASE, "--coordinator", "etcd://a:2379"), DW_INVALID);
  ck_assert(strstr((char *)errors.data, "--coordinator: needs --cluster-name") != NULL);
  ck_assert(strstr((char *)errors.data, "--coordinator: needs --node-id") != NULL);
  ck_assert(strstr((char *)errors.data, "--coordinator: needs --peers") != NULL);
  ck_assert_uint_eq(lines(), 3);
  done();
  ck_assert_int_eq(LOAD(DAEMON_PRIMARY, "--data", "d", "--listen", "*:7400", COORDINATED), DW_INVALID);
  ck_assert(strstr((char *)errors.data, "needs --advertise") != NULL);
  done();
  ck_assert_int_eq(LOAD(DAEMON_PRIMARY, "--data", "d", "--listen", "*:7400", COORDINATED, "--advertise", "h:7400"),
                   DW_OK);
  done();
  ck_assert_int_eq(LOAD(PRIMARY_BASE, COORDINATED, "--coordinator", "zk://a:1"), DW_INVALID);
  ck_assert(strstr((char *)errors.data, "--coordinator: 'zk://a:1' is not etcd://") != NULL);
  done();
  ck_assert_int_eq(LOAD(PRIMARY_BASE, COORDINATED, "--cluster-name", "a/b"), DW_INVALID);
  ck_assert(strstr((char *)errors.data, "no name of a cluster") != NULL);
  done();
  ck_assert_int_eq(LOAD(PRIMARY_BASE, COORDINATED, "--lease-ttl", "2s", "--renew-interval", "1500"), DW_INVALID);
  ck_assert(strstr((char *)errors.data, "more than half of the lease") != NULL);
  done();
}
END_TEST

int main(void) {
  Suite *s = suite_create("config");
  TCase *t = tcase_create("config");
  tcase_add_test(t, every_wrong_value_gives_one_line_that_names_the_flag);
  tcase_add_test(t, every_option_without_its_value_gives_one_line);
  tcase_add_test(t, all_mistakes_are_reported_not_only_the_first);
  tcase_add_test(t, only_options_of_this_program_are_suggested);
  tcase_add_test(t, options_that_exclude_each_other_are_refused);
  tcase_add_test(t, values_arrive_with_their_units);
  tcase_add_test(t, a_file_fills_in_and_flags_win);
  tcase_add_test(t, mistakes_in_a_file_name_file_and_line);
  tcase_add_test(t, a_binary_file_and_an_endless_line_are_one_mistake);
  tcase_add_test(t, an_error_line_stays_one_line_whatever_was_typed);
  tcase_add_test(t, help_wins_over_mistakes_and_names_every_option);
  tcase_add_test(t, foreign_text_is_made_harmless);
  tcase_add_test(t, a_coordinator_needs_a_name_an_id_peers_and_an_address);
  suite_add_tcase(s, t);
  return check_main(s);
}
