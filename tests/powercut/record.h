/* The recording of one node's file system calls: what recorder.c writes and image.c reads.
 *
 * A file of records, in the order in which the calls took effect: each call on a file below $DW_RECORD_ROOT is made and recorded
 * under one lock. Several processes, one after another, may append to the same recording.
 */
#ifndef DW_POWERCUT_RECORD_H
#define DW_POWERCUT_RECORD_H

#include <stdint.h>

enum record_type {
  RECORD_CREATE = 1, /* path; ino of the new file; value 1: a directory */
  RECORD_WRITE,      /* ino, offset, data */
  RECORD_TRUNCATE,   /* ino, offset: the new size */
  RECORD_ALLOCATE,   /* ino, offset: the size grows to this, if it is smaller */
  RECORD_ZERO,       /* ino, offset, value: so many bytes */
  RECORD_RENAME,     /* from, zero byte, to */
  RECORD_LINK,       /* likewise */
  RECORD_UNLINK,     /* path; also of an empty directory */
  RECORD_SYNC_BEGIN, /* ino, value: a number */
  RECORD_SYNC_END,   /* value: that number; only after success */
  RECORD_BEGIN,      /* what was there is told: from here on, what is done */
  RECORD_SENT        /* data about to go out through a socket: what the process vouches for from here on */
};

struct record {
  uint32_t type;
  uint32_t bytes; /* of what follows */
  uint64_t ino, offset, value;
};

#endif
