/* What the fuzz targets share. docs/fuzzing.md says how they are run and what each one checks.
 *
 * A target is one function of bytes. It must not crash, leak, hang or grow; and it CHECKs what must hold, above all that
 * whatever a reader accepts, the writer reproduces. With libFuzzer (./dw fuzz) it gets bytes that coverage chose; in every
 * other build replay.c feeds it the seeds (seeds.c) and the corpus of the target, as a test.
 *
 * Checksums stop a fuzzer at the door: no mutation ever gets one right. So most targets look at their bytes twice, as they
 * are and with all checksums repaired, and only then does it reach what stands behind the door.
 */
#ifndef DW_FUZZ_H
#define DW_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wal/base/bytes.h"
#include "wal/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As assert, but in every build, and it says what the last failing call said. */
#define CHECK(cond) ((cond) ? (void)0 : fuzz_failed(__FILE__, __LINE__, #cond))
_Noreturn void fuzz_failed(const char *file, int line, const char *what);

/* For what only checks: libFuzzer's counters in it would find paths of the check, and cost more than what is checked. */
#ifdef __clang__
#define UNCOUNTED __attribute__((no_sanitize("coverage"), noinline)) /* inlined it would be counted */
#else
#define UNCOUNTED
#endif

/* The input as a sequence of choices. At its end everything is 0 and feed_left says so. */
struct feed {
  const uint8_t *p;
  size_t n;
};
static inline bool feed_left(const struct feed *f) { return f->n > 0; }
uint64_t feed_uint(struct feed *, size_t bytes); /* little-endian, 1 to 8 bytes */
static inline uint8_t feed_u8(struct feed *f) { return (uint8_t)feed_uint(f, 1); }
static inline uint16_t feed_u16(struct feed *f) { return (uint16_t)feed_uint(f, 2); }
static inline uint32_t feed_u32(struct feed *f) { return (uint32_t)feed_uint(f, 4); }
static inline uint64_t feed_u64(struct feed *f) { return feed_uint(f, 8); }
/* At most `max` bytes; *n gets how many. */
const uint8_t *feed_bytes(struct feed *, size_t max, size_t *n);
/* A copy whose end is the end of its memory, so that ASan sees every byte too far. The caller frees it. */
uint8_t *exact_copy(const void *, size_t n);

/* ---- repairing checksums ---------------------------------------------------------------------- */

/* Payload hash (if the payload is there), chain (if prev is given) and header checksum of a block at p. */
void repair_block(uint8_t *p, size_t n, const struct hash128 *prev);
/* All blocks back to back in p; with a chain that starts at *prev, if given. */
void repair_blocks(uint8_t *p, size_t n, const struct hash128 *prev);
void repair_mark(uint8_t p[WAL_MARK_BYTES]);
void repair_segment_header(uint8_t p[WAL_SEGMENT_HEADER_BYTES]);
/* Frames of the wire back to back, as far as their lengths hold: magic, hashes of chunks, blocks, body and header. */
void repair_frames(uint8_t *p, size_t n);
/* One of them; its length, 0 if it is not all there. */
size_t repair_frame(uint8_t *p, size_t n);

#endif
