/* Seeds of the log's targets: the frames of real segments, and directories damaged as power cuts and bad disks do. */
#include "fuzz/logs.h"
#include "fuzz/seeds.h"

static void segments(void) {
  for (unsigned v = 0; v < LOG_VARIANTS; v++) {
    const struct log_image *image = log_image(v);
    for (size_t i = 0; i < image->count; i++) {
      const uint8_t *p = image->files[i].bytes;
      struct buf b = {0};
      char name[32];
      if (memcmp(p, WAL_SEGMENT_MAGIC, 8) != 0) continue;
      size_t n = image->files[i].n;
      while (n > WAL_SEGMENT_HEADER_BYTES && !p[n - 1]) n--;
      n = align8(n);
      add_u8(&b, 9); /* the header is there, nothing is repaired */
      add(&b, p, 120);
      if (n > WAL_SEGMENT_HEADER_BYTES) add(&b, p + WAL_SEGMENT_HEADER_BYTES, n - WAL_SEGMENT_HEADER_BYTES);
      snprintf(name, sizeof name, "variant%u-%zu", v, i);
      seed("segment", name, &b);
      buf_free(&b);
    }
  }
}

/* Steps as fuzz_recovery.c reads them. */
static const struct {
  const char *name, *steps;
  size_t n;
} directories[] = {
#define STEPS(name, text)                                                                                              \
  { name, text, sizeof text - 1 }
    STEPS("sound", ""),
    STEPS("same-boot", "\013\001"),
    STEPS("torn", "\003\000\x40\x14"),     /* cut short */
    STEPS("hole", "\001\020\000\x00\x14"), /* a zeroed range */
    STEPS("hole-same-boot", "\001\020\000\x00\x14\013\001"),
    STEPS("flip", "\000\000\x80\x14\001\377"),
    STEPS("reach", "\012\003\000"),
    STEPS("store-ahead", "\012\006\001\005"),
    STEPS("store-elsewhere", "\012\003\002"),
    STEPS("missing-first", "\006\000"),
    STEPS("missing-middle", "\006\001"),
    STEPS("twice", "\005\000\000\001\002"),
    STEPS("foreign", "\014\001"),
    STEPS("forged-header", "\007\000\x28\010\007"),
    STEPS("stale", "\002\100\000\x00\x10\000\x00\x18"),
    STEPS("rewritten", "\000\000\x90\x10\004abcd\011\000\x00\x10"),
};

void seeds_log(void) {
  segments();
  for (size_t i = 0; i < sizeof directories / sizeof *directories; i++)
    for (unsigned v = 0; v < LOG_VARIANTS; v++) {
      struct buf b = {0};
      char name[48];
      add_u8(&b, (uint8_t)v);
      add(&b, directories[i].steps, directories[i].n);
      snprintf(name, sizeof name, "%s-%u", directories[i].name, v);
      seed("recovery", name, &b);
      buf_free(&b);
    }
}
