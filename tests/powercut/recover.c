/* dw_recover DIR primary|follower BOOT: opens a directory as after a reboot, does what is due, closes it. A process of
 * its own, so that the recorder can stand before its libc: the power may fail during recovery, too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

static int boot;

static bool boot_id(struct env *env, uint8_t id[16]) {
  (void)env;
  memset(id, boot, 16);
  return true;
}

static void quiet(void *arg, dw_log_level level, const char *line) {
  (void)arg, (void)level, (void)line;
}

int main(int argc, char **argv) {
  struct env_ops ops = *env_posix()->ops;
  struct env env = {&ops};
  struct engine_config config = {.env = &env};
  dw_options o;
  dw_engine *e;
  if (argc != 4) return 2;
  boot = atoi(argv[3]);
  ops.boot_id = boot_id;
  dw_options_init(&o);
  o.role = strcmp(argv[2], "follower") == 0 ? DW_FOLLOWER : DW_PRIMARY;
  o.segment_bytes = 65536;
  o.memtable_bytes = 65536;
  o.log = quiet;
  if (engine_open(argv[1], &o, &config, &e) != DW_OK) {
    fprintf(stderr, "%s does not open: %s\n", argv[1], dw_last_error());
    return 1;
  }
  for (int i = 0; i < 20; i++) (void)engine_step(e);
  return engine_close(e) == DW_OK ? 0 : 1;
}
