/* See image.h.
 *
 * Loading replays the recording's names once, so that every operation is tied to objects instead of paths: a directory
 * that is renamed later stays the same object. An image replays the operations before the cut, leaving out what it
 * loses.
 */
#include "tests/powercut/image.h"

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR 512u
#define NONE SIZE_MAX

struct sync {
  size_t begin, end;
};
struct entry {
  char *name;
  size_t object;
};
struct directory {
  struct entry *entries;
  size_t count, cap;
};

/* A file or directory from its creation on. */
struct object {
  bool is_dir;
  char *path; /* where it was created */
  uint64_t ino;
  size_t *ops; /* records that change its data */
  size_t op_count, op_cap;
  struct sync *syncs;
  size_t sync_count, sync_cap;
  struct directory live; /* while loading */
};

/* An operation on names: object appears as dir[1]/name[1] and disappears as dir[0]/name[0]; NONE: not. */
struct name_op {
  size_t at, object;
  size_t dir[2];
  char *name[2];
};

struct recording {
  uint8_t *bytes;
  char root[1024];
  size_t *at; /* where each record stands */
  size_t count, base;
  struct object *objects; /* 0: the root */
  size_t object_count, object_cap;
  size_t *object_of; /* per record; NONE */
  struct name_op *names;
  size_t name_count, name_cap;
};

#define GROW(array, count, cap)                                                                                        \
  do {                                                                                                                 \
    if ((count) == (cap)) {                                                                                            \
      (cap) = (cap) ? 2 * (cap) : 16;                                                                                  \
      (array) = realloc((array), (cap) * sizeof *(array));                                                             \
      ck_assert_ptr_nonnull(array);                                                                                    \
    }                                                                                                                  \
  } while (0)

/* ---- directories ----------------------------------------------------------------------------------- */

static struct entry *find(const struct directory *d, const char *name) {
  for (size_t i = 0; i < d->count; i++)
    if (strcmp(d->entries[i].name, name) == 0) return &d->entries[i];
  return NULL;
}

static void set(struct directory *d, char *name, size_t object) {
  struct entry *e = find(d, name);
  if (!e) {
    GROW(d->entries, d->count, d->cap);
    e = &d->entries[d->count++];
  }
  *e = (struct entry){name, object};
}

static void unset(struct directory *d, const char *name, size_t object) {
  struct entry *e = find(d, name);
  if (e && e->object == object) *e = d->entries[--d->count];
}

static void apply_name(struct directory *(*of)(void *, size_t), void *ctx, const struct name_op *op) {
  if (op->dir[0] != NONE) unset(of(ctx, op->dir[0]), op->name[0], op->object);
  if (op->dir[1] != NONE) set(of(ctx, op->dir[1]), op->name[1], op->object);
}

/* ---- loading --------------------------------------------------------------------------------------- */

size_t recording_count(const struct recording *r) {
  return r->count;
}

size_t recording_base(const struct recording *r) {
  return r->base;
}

const struct record *recording_at(const struct recording *r, size_t i, const uint8_t **data) {
  const struct record *rec = (const struct record *)(const void *)(r->bytes + r->at[i]);
  if (data) *data = r->bytes + r->at[i] + sizeof *rec;
  return rec;
}

const char *recording_path(const struct recording *r, size_t i) {
  return r->object_of[i] == NONE ? "" : r->objects[r->object_of[i]].path;
}

static struct directory *live_of(void *ctx, size_t object) {
  return &((struct recording *)ctx)->objects[object].live;
}

/* Parent and last name of a path. False: the parent is not known. */
static bool locate(struct recording *r, const char *path, size_t *dir, char **name) {
  char text[1024];
  snprintf(text, sizeof text, "%s", path + strlen(r->root));
  size_t at = 0;
  char *save = NULL, *part = strtok_r(text, "/", &save), *next;
  if (!part) return false;
  for (; (next = strtok_r(NULL, "/", &save)); part = next) {
    const struct entry *e = find(&r->objects[at].live, part);
    if (!e) return false;
    at = e->object;
  }
  *dir = at;
  *name = strdup(part);
  return true;
}

static size_t new_object(struct recording *r, const char *path, uint64_t ino, bool is_dir) {
  GROW(r->objects, r->object_count, r->object_cap);
  r->objects[r->object_count] = (struct object){.is_dir = is_dir, .path = strdup(path), .ino = ino};
  return r->object_count++;
}

/* The newest with that number: numbers are given anew after a file is gone. */
static size_t object_by_ino(const struct recording *r, uint64_t ino) {
  for (size_t i = r->object_count; i-- > 0;)
    if (r->objects[i].ino == ino) return i;
  return NONE;
}

static void add_name_op(struct recording *r, const struct name_op *op) {
  GROW(r->names, r->name_count, r->name_cap);
  r->names[r->name_count++] = *op;
  apply_name(live_of, r, op);
}

static size_t load_names(struct recording *r, size_t i, const struct record *rec, const char *path) {
  struct name_op op = {.at = i, .object = NONE, .dir = {NONE, NONE}};
  const char *second = path + strlen(path) + 1;
  if (rec->type == RECORD_CREATE) {
    if (strcmp(path, r->root) == 0) {
      r->objects[0].ino = rec->ino;
      return 0;
    }
    op.object = new_object(r, path, rec->ino, rec->value == 1);
    ck_assert_msg(locate(r, path, &op.dir[1], &op.name[1]), "recording: %s is created nowhere", path);
    add_name_op(r, &op);
    return op.object;
  }
  /* What was made by calls that are not recorded (RocksDB's LOG, by stdio) is not ours to move. */
  if (!locate(r, path, &op.dir[0], &op.name[0])) return NONE;
  const struct entry *e = find(&r->objects[op.dir[0]].live, op.name[0]);
  if (!e) return NONE;
  op.object = e->object;
  if (rec->type != RECORD_UNLINK) ck_assert(locate(r, second, &op.dir[1], &op.name[1]));
  if (rec->type == RECORD_LINK) op.dir[0] = NONE;
  add_name_op(r, &op);
  return op.object;
}

static size_t load_sync(struct recording *r, size_t i, const struct record *rec) {
  if (rec->type == RECORD_SYNC_BEGIN) return object_by_ino(r, rec->ino);
  for (size_t b = i; b-- > 0;) { /* its beginning */
    const struct record *begin = recording_at(r, b, NULL);
    if (begin->type != RECORD_SYNC_BEGIN || begin->value != rec->value) continue;
    size_t o = r->object_of[b];
    if (o == NONE) return NONE;
    GROW(r->objects[o].syncs, r->objects[o].sync_count, r->objects[o].sync_cap);
    r->objects[o].syncs[r->objects[o].sync_count++] = (struct sync){b, i};
    return o;
  }
  return NONE;
}

static size_t load_data(struct recording *r, size_t i, const struct record *rec) {
  size_t o = object_by_ino(r, rec->ino);
  ck_assert_msg(o != NONE, "recording: record %zu is about a file that was never made", i);
  GROW(r->objects[o].ops, r->objects[o].op_count, r->objects[o].op_cap);
  r->objects[o].ops[r->objects[o].op_count++] = i;
  return o;
}

static void load_record(struct recording *r, size_t i) {
  const uint8_t *data;
  const struct record *rec = recording_at(r, i, &data);
  switch (rec->type) {
  case RECORD_CREATE:
  case RECORD_RENAME:
  case RECORD_LINK:
  case RECORD_UNLINK: r->object_of[i] = load_names(r, i, rec, (const char *)data); break;
  case RECORD_SYNC_BEGIN:
  case RECORD_SYNC_END: r->object_of[i] = load_sync(r, i, rec); break;
  case RECORD_BEGIN: r->base = i + 1; /* fall through */
  case RECORD_SENT: r->object_of[i] = NONE; break;
  default: r->object_of[i] = load_data(r, i, rec); break;
  }
}

struct recording *recording_load(const char *path, const char *root) {
  struct recording *r = calloc(1, sizeof *r);
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ck_assert_msg(r && fd >= 0 && fstat(fd, &st) == 0, "no recording at %s", path);
  snprintf(r->root, sizeof r->root, "%s", root);
  r->bytes = malloc((size_t)st.st_size + 1);
  ck_assert_ptr_nonnull(r->bytes);
  size_t size = 0, cap = 0;
  for (ssize_t n; (n = read(fd, r->bytes + size, (size_t)st.st_size - size)) > 0;) size += (size_t)n;
  close(fd);
  for (size_t at = 0; at + sizeof(struct record) <= size;) {
    struct record rec;
    memcpy(&rec, r->bytes + at, sizeof rec);
    if (at + sizeof rec + rec.bytes > size) break; /* killed while it wrote this one */
    GROW(r->at, r->count, cap);
    r->at[r->count++] = at;
    at += sizeof rec + rec.bytes;
  }
  r->object_of = malloc((r->count + 1) * sizeof *r->object_of);
  ck_assert_ptr_nonnull(r->object_of);
  new_object(r, root, 0, true);
  for (size_t i = 0; i < r->count; i++) load_record(r, i);
  return r;
}

void recording_free(struct recording *r) {
  if (!r) return;
  for (size_t i = 0; i < r->object_count; i++) {
    free(r->objects[i].path);
    free(r->objects[i].ops);
    free(r->objects[i].syncs);
    free(r->objects[i].live.entries);
  }
  for (size_t i = 0; i < r->name_count; i++) {
    free(r->names[i].name[0]);
    free(r->names[i].name[1]);
  }
  free(r->objects);
  free(r->names);
  free(r->object_of);
  free(r->at);
  free(r->bytes);
  free(r);
}

/* ---- chance ---------------------------------------------------------------------------------------- */

static uint64_t draw(uint64_t *state) {
  uint64_t x = *state += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

static int percent(uint64_t *state) {
  return (int)(draw(state) % 100);
}

struct image_plan image_draw(uint64_t *rnd, size_t cut) {
  static const int keeps[] = {0, 0, 30, 60, 90, 100}, torn[] = {0, 0, 30, 100};
  struct image_plan p = {.seed = draw(rnd), .cut = cut, .process = draw(rnd) % 10 == 0};
  p.keep = keeps[draw(rnd) % 6];
  p.torn = torn[draw(rnd) % 4] * (100 - p.keep) / 100;
  p.names = (enum unsynced_names)(draw(rnd) % 4);
  return p;
}

void image_describe(const struct image_plan *p, char *out, size_t cap) {
  static const char *const names[] = {"lost", "kept", "kept up to some point", "kept at random"};
  if (p->process)
    snprintf(out, cap, "process crash before record %zu", p->cut);
  else
    snprintf(out, cap, "power cut before record %zu: of 100 unsynced writes %d kept, %d torn; unsynced entries %s",
             p->cut, p->keep, p->torn, names[p->names]);
}

/* ---- building -------------------------------------------------------------------------------------- */

struct build {
  const struct recording *r;
  const struct image_plan *plan;
  struct directory *dirs; /* per object */
  size_t *synced;         /* per object: its operations before this record are durable */
  uint64_t rnd, written;
};

static struct directory *built_of(void *ctx, size_t object) {
  return &((struct build *)ctx)->dirs[object];
}

static size_t synced_before(const struct object *o, const struct image_plan *plan) {
  size_t upto = 0;
  if (plan->process) return plan->cut;
  for (size_t i = 0; i < o->sync_count; i++)
    if (o->syncs[i].end < plan->cut && o->syncs[i].begin > upto) upto = o->syncs[i].begin;
  return upto;
}

/* A rename between two directories is one step of the journal: the sync of either has it. RocksDB lets CURRENT name a
 * new MANIFEST that it has synced before it syncs the folder: it relies on what every journaling file system of Linux
 * does, that fsync of a new file keeps its entry, too. That is RocksDB's to decide, so it is granted, to this file
 * alone. */
static bool name_is_durable(const struct build *b, const struct name_op *op) {
  bool created = op->dir[0] == NONE && strncmp(op->name[1], "MANIFEST-", 9) == 0;
  return (op->dir[0] != NONE && b->synced[op->dir[0]] > op->at) ||
         (op->dir[1] != NONE && b->synced[op->dir[1]] > op->at) || (created && b->synced[op->object] > op->at);
}

static void build_names(struct build *b) {
  const struct recording *r = b->r;
  size_t open = 0, chosen, n = 0;
  for (size_t i = 0; i < r->name_count && r->names[i].at < b->plan->cut; i++) {
    const struct name_op *op = &r->names[i];
    open += !name_is_durable(b, op);
  }
  chosen = open ? draw(&b->rnd) % (open + 1) : 0;
  for (size_t i = 0; i < r->name_count && r->names[i].at < b->plan->cut; i++) {
    const struct name_op *op = &r->names[i];
    bool durable = name_is_durable(b, op), kept = durable;
    if (!durable && b->plan->names == NAMES_KEPT) kept = true;
    if (!durable && b->plan->names == NAMES_PREFIX) kept = n < chosen;
    if (!durable && b->plan->names == NAMES_ANY) kept = draw(&b->rnd) & 1;
    n += !durable;
    if (kept) apply_name(built_of, b, op);
  }
}

struct content {
  uint8_t *bytes;
  size_t size, cap;
};

static void resize(struct content *c, size_t size) {
  if (size > c->cap) {
    size_t cap = 2 * size;
    c->bytes = realloc(c->bytes, cap);
    ck_assert_ptr_nonnull(c->bytes);
    c->cap = cap;
  }
  if (size > c->size) memset(c->bytes + c->size, 0, size - c->size);
  c->size = size;
}

/* Puts [off, off + n) in, as far as the size allows; NULL: zeros. */
static void put_range(struct content *c, uint64_t off, const uint8_t *data, uint64_t n) {
  if (off >= c->size) return;
  if (n > c->size - off) n = c->size - off;
  if (data)
    memcpy(c->bytes + off, data, n);
  else
    memset(c->bytes + off, 0, n);
}

static void put_torn(struct build *b, struct content *c, uint64_t off, const uint8_t *data, uint64_t n) {
  for (uint64_t at = 0; at < n;) {
    uint64_t len = SECTOR - (off + at) % SECTOR;
    if (len > n - at) len = n - at;
    if (draw(&b->rnd) & 1) put_range(c, off + at, data ? data + at : NULL, len);
    at += len;
  }
}

/* What an operation does to the size. */
static uint64_t size_after(const struct record *rec, uint64_t size) {
  uint64_t end = rec->offset + (rec->type == RECORD_WRITE ? rec->bytes : 0);
  if (rec->type == RECORD_TRUNCATE) return rec->offset;
  if (rec->type == RECORD_ZERO) return size;
  return end > size ? end : size;
}

/* One data operation. `grow`: its effect on the size has reached the disk. */
static void apply_data(struct build *b, struct content *c, size_t at, bool durable, bool grow) {
  const uint8_t *data;
  const struct record *rec = recording_at(b->r, at, &data);
  if (grow) resize(c, size_after(rec, c->size));
  if (rec->type != RECORD_WRITE && rec->type != RECORD_ZERO) return;
  uint64_t n = rec->type == RECORD_WRITE ? rec->bytes : rec->value;
  if (rec->type == RECORD_ZERO) data = NULL;
  int luck = durable ? 0 : percent(&b->rnd);
  if (durable || luck < b->plan->keep)
    put_range(c, rec->offset, data, n);
  else if (luck < b->plan->keep + b->plan->torn)
    put_torn(b, c, rec->offset, data, n);
}

/* RocksDB's files grow and are never overwritten; it relies on file systems that let a file grow only by bytes that are
 * on the disk (a record of its MANIFEST whose middle is missing keeps it from opening). So here the end is cut
 * anywhere, no more. */
static void build_appended(struct build *b, size_t object, struct content *c) {
  const struct object *o = &b->r->objects[object];
  size_t synced = b->synced[object], unsynced = 0, n = 0;
  for (size_t i = 0; i < o->op_count && o->ops[i] < b->plan->cut; i++) unsynced += o->ops[i] >= synced;
  size_t kept = b->plan->keep == 100 ? unsynced : b->plan->keep == 0 ? 0 : draw(&b->rnd) % (unsynced + 1);
  for (size_t i = 0; i < o->op_count && o->ops[i] < b->plan->cut; i++) {
    bool durable = o->ops[i] < synced;
    n += !durable;
    if (durable || n <= kept) {
      apply_data(b, c, o->ops[i], true, true);
      continue;
    }
    const uint8_t *data;
    const struct record *rec = recording_at(b->r, o->ops[i], &data);
    size_t part = rec->bytes ? draw(&b->rnd) % rec->bytes : 0;
    if (rec->type == RECORD_WRITE && rec->offset + part > c->size) resize(c, rec->offset + part);
    if (rec->type == RECORD_WRITE) put_range(c, rec->offset, data, part);
    return;
  }
}

static void build_content(struct build *b, size_t object, struct content *c) {
  const struct object *o = &b->r->objects[object];
  size_t synced = b->synced[object], unsynced = 0;
  c->size = 0;
  b->rnd =
      b->plan->seed ^ (object + 1) * 0x5851f42d4c957f2du; /* of its own: the same content under each of its links */
  if (strstr(o->path, "/store-")) {
    build_appended(b, object, c);
    return;
  }
  for (size_t i = 0; i < o->op_count && o->ops[i] < b->plan->cut; i++) unsynced += o->ops[i] >= synced;
  size_t journal = draw(&b->rnd) % (unsynced + 1); /* so many of them have their metadata on disk */
  if (b->plan->keep == 100) journal = unsynced;
  bool shrink_lost = false; /* what was written behind a lost truncate is in blocks that the file does not have */
  for (size_t i = 0, n = 0; i < o->op_count && o->ops[i] < b->plan->cut; i++) {
    bool durable = o->ops[i] < synced, grow = durable || n < journal;
    n += !durable;
    const struct record *rec = recording_at(b->r, o->ops[i], NULL);
    if (!grow && rec->type == RECORD_TRUNCATE && rec->offset < c->size) shrink_lost = true;
    if (!shrink_lost) apply_data(b, c, o->ops[i], durable, grow);
  }
}

static void write_file(struct build *b, size_t object, const char *path) {
  struct content c = {0};
  build_content(b, object, &c);
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  ck_assert_msg(fd >= 0, "can't make %s", path);
  /* Zeros at the end are a hole: most files of a log are mostly that. */
  size_t used = c.size;
  while (used && c.bytes[used - 1] == 0) used--;
  for (size_t at = 0; at < used;) {
    ssize_t n = write(fd, c.bytes + at, used - at);
    ck_assert_msg(n > 0, "can't write %s", path);
    at += (size_t)n;
  }
  ck_assert_int_eq(ftruncate(fd, (off_t)c.size), 0);
  close(fd);
  b->written += used;
  free(c.bytes);
}

static void write_tree(struct build *b, size_t dir, const char *path) {
  const struct directory *d = &b->dirs[dir];
  ck_assert_msg(mkdir(path, 0755) == 0, "can't make %s", path);
  for (size_t i = 0; i < d->count; i++) {
    char child[2048];
    snprintf(child, sizeof child, "%s/%s", path, d->entries[i].name);
    if (b->r->objects[d->entries[i].object].is_dir)
      write_tree(b, d->entries[i].object, child);
    else
      write_file(b, d->entries[i].object, child);
  }
}

uint64_t image_build(const struct recording *r, const struct image_plan *plan, const char *dir) {
  struct build b = {.r = r, .plan = plan, .rnd = plan->seed};
  b.dirs = calloc(r->object_count, sizeof *b.dirs);
  b.synced = calloc(r->object_count, sizeof *b.synced);
  ck_assert(b.dirs && b.synced);
  for (size_t i = 0; i < r->object_count; i++) b.synced[i] = synced_before(&r->objects[i], plan);
  build_names(&b);
  write_tree(&b, 0, dir);
  for (size_t i = 0; i < r->object_count; i++) free(b.dirs[i].entries);
  free(b.dirs);
  free(b.synced);
  return b.written;
}
