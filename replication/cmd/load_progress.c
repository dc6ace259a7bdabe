#include "replication/cmd/load_progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "replication/cmd/text.h"
#include "wal/base/env.h"

#define TERMINAL_NS 100000000ull
#define PLAIN_NS 5000000000ull
#define BAR 28

uint64_t load_progress_now(void) {
  return env_posix()->ops->mono_ns(env_posix());
}

void load_progress_init(struct load_progress *p) {
  *p = (struct load_progress){.terminal = isatty(STDERR_FILENO) == 1, .started_ns = load_progress_now()};
  p->shown_ns = p->started_ns;
}

void load_progress_clear(struct load_progress *p) {
  if (p->drawn) fputs("\r\033[K", stderr);
  p->drawn = false;
}

static void draw(const struct load_progress *p, uint64_t records, uint64_t bytes, uint64_t total, double s) {
  char done[32], all[32], left[40] = "";
  text_bytes(done, sizeof done, (double)bytes);
  text_bytes(all, sizeof all, (double)total);
  double rate = s > 0 ? (double)records / s : 0;
  if (!total) {
    fprintf(stderr, "%s%llu records, %s, %.0f records/s", p->terminal ? "\r\033[K" : "", (unsigned long long)records,
            done, rate);
    return;
  }
  double part = bytes >= total ? 1 : (double)bytes / (double)total;
  if (part > 0.02 && part < 1) snprintf(left, sizeof left, ", %.0f s left", s / part - s);
  if (p->terminal) {
    char bar[BAR + 1];
    for (int i = 0; i < BAR; i++) bar[i] = i < (int)(part * BAR) ? '#' : '.';
    bar[BAR] = 0;
    fprintf(stderr, "\r\033[K[%s] ", bar);
  }
  fprintf(stderr, "%3.0f%%  %s of %s, %llu records, %.0f records/s%s", part * 100, done, all,
          (unsigned long long)records, rate, left);
}

void load_progress_show(struct load_progress *p, uint64_t records, uint64_t bytes, uint64_t total, bool last) {
  uint64_t now = load_progress_now();
  if (last ? !p->terminal : now - p->shown_ns < (p->terminal ? TERMINAL_NS : PLAIN_NS)) return;
  p->shown_ns = now;
  draw(p, records, bytes, total, (double)(now - p->started_ns) / 1e9);
  p->drawn = p->terminal && !last;
  if (last || !p->terminal) fputc('\n', stderr);
}
