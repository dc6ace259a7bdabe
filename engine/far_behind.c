/* See far_behind.h. */
#include "engine/far_behind.h"

bool far_behind(struct far_behind *f, uint64_t unapplied, uint64_t distance, uint64_t now_ns) {
  if (unapplied < (f->behind ? FAR_BEHIND_END_BYTES : FAR_BEHIND_BEGIN_BYTES)) {
    *f = (struct far_behind){0};
    return false;
  }
  if (!f->behind) *f = (struct far_behind){.behind = true, .distance = distance, .since_ns = now_ns};
  if (now_ns - f->since_ns >= FAR_BEHIND_GAIN_NS) {
    if (distance >= f->distance) f->hurries = true;
    f->distance = distance;
    f->since_ns = now_ns;
  }
  return !f->hurries;
}
