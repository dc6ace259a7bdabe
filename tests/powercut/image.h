/* Disk images as a power cut may leave them, made from a recording (record.h).
 *
 * At the cut, everything is kept that was synced: data of a file by fsync or fdatasync of it, entries of a directory by fsync of
 * the directory, each as it was when the sync began, if the sync has returned. Of the rest nothing is certain:
 *
 *   data      each unsynced write is kept, lost, or torn: of its sectors of 512 bytes any subset. Where it is lost stands what stood
 *             there before. The size follows the journal of the file's metadata: some prefix of its truncates, reservations and growth
 *   entries   each unsynced create, rename, link and unlink is kept or lost: by a prefix (a journal) or one by one. A rename is one
 *             step. What is in no directory any more is gone
 *
 * An image of a process crash instead keeps every call that was made.
 */
#ifndef DW_POWERCUT_IMAGE_H
#define DW_POWERCUT_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/powercut/record.h"

struct recording;

enum unsynced_names { NAMES_LOST, NAMES_KEPT, NAMES_PREFIX, NAMES_ANY };

struct image_plan {
  uint64_t seed;
  size_t cut;      /* records before this one have happened */
  bool process;    /* a process crash: everything is kept */
  int keep, torn;  /* of 100 unsynced writes, so many are kept whole, so many torn */
  enum unsynced_names names;
};

/* Fails the test if the recording is not sound. */
struct recording *recording_load(const char *path, const char *root);
void recording_free(struct recording *);
size_t recording_count(const struct recording *);
size_t recording_base(const struct recording *); /* records before this one say what was there at first */
const struct record *recording_at(const struct recording *, size_t i, const uint8_t **data);
/* The path of the file that record i is about, as it was named when it was created; "" if there is none. */
const char *recording_path(const struct recording *, size_t i);

/* Draws a plan for this cut. */
struct image_plan image_draw(uint64_t *rnd, size_t cut);
/* What the plan does, for people. */
void image_describe(const struct image_plan *, char *out, size_t cap);
/* Makes the image of the recording's root as `dir`, which must not exist. Returns the bytes written. */
uint64_t image_build(const struct recording *, const struct image_plan *, const char *dir);

#endif
