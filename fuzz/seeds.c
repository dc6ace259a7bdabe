/* Writes the seeds of all fuzz targets: what the production encoders make, the same bytes every time.
 * usage: fuzz_seeds DIR        makes DIR/TARGET/NAME
 *
 * They are not kept in git: a change of a format changes them by itself. What coverage found beyond them is in
 * fuzz/corpus/TARGET. */
#include <errno.h>
#include <sys/stat.h>

#include "engine/diverged.h"
#include "engine/identity.h"
#include "engine/store.h"
#include "fuzz/seeds.h"
#include "replication/checkpoint_manifest.h"
#include "wal/pack.h"
#include "replication/message.h"
#include "wal/wal.h"

static const char *dir;

static void make_dir(const char *path) {
  if (mkdir(path, 0777) && errno != EEXIST) {
    perror(path);
    exit(1);
  }
}

void seed_bytes(const char *target, const char *name, const void *p, size_t n) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", dir, target);
  make_dir(path);
  snprintf(path, sizeof path, "%s/%s/%s", dir, target, name);
  FILE *f = fopen(path, "wb");
  if (!f || (n && fwrite(p, 1, n, f) != n) || fclose(f)) {
    perror(path);
    exit(1);
  }
}

/* ---- blocks and payloads -------------------------------------------------------------------------- */

static void block(const char *name, uint8_t kind, uint32_t commits, const struct buf *raw, int level) {
  struct block_header like = {.kind = kind,
                              .need = {.mode = 3, .ack = 2, .durability = 2, .acks = 1},
                              .epoch = 1,
                              .first_lsn = 1,
                              .commit_count = commits,
                              .commit_lsn = 0,
                              .wall_ns = 1700000000000000000ull,
                              .origin_id = 1};
  struct wal_block *b;
  struct hash128 prev = {{0}};
  CHECK(wal_block_create(&like, raw->data, raw->len, level, &b) == DW_OK);
  block_header_seal(&b->h, &prev, b->bytes);
  seed_bytes("block", name, b->bytes, block_total_bytes(&b->h));
  wal_block_unref(b);
}

static void blocks_and_payloads(void) {
  static const uint32_t counts[] = {1, 3, 40};
  for (size_t i = 0; i < 3; i++) {
    struct buf raw = {0}, in = {0};
    char name[32];
    make_payload(&raw, counts[i]);
    snprintf(name, sizeof name, "raw-%u", counts[i]);
    block(name, BLOCK_COMMITS, counts[i], &raw, 0);
    snprintf(name, sizeof name, "zstd-%u", counts[i]);
    block(name, BLOCK_COMMITS, counts[i], &raw, 3);
    add_u8(&in, (uint8_t)counts[i]);
    add(&in, raw.data, raw.len);
    snprintf(name, sizeof name, "commits-%u", counts[i]);
    seed("payload", name, &in);
    buf_free(&raw);
    buf_free(&in);
  }
  struct epoch_record r = {.epoch = 1, .node_id = 1, .wall_ns = 1700000000000000000ull, .reason = EPOCH_CREATED};
  struct buf raw = {0};
  uint8_t bytes[WAL_EPOCH_RECORD_BYTES];
  epoch_record_encode(&r, bytes);
  add(&raw, bytes, sizeof bytes);
  block("epoch", BLOCK_EPOCH, 0, &raw, 0);
  raw.len = 0;
  uint8_t zeros[65536] = {0};
  add(&raw, zeros, sizeof zeros);
  block("bomb", BLOCK_COMMITS, 1, &raw, 3);
  buf_free(&raw);
}

/* One container of two blocks. */
static void diverged(void) {
  struct buf raw = {0}, file = {0};
  struct diverged_header h = {.cluster_id = {{1}},
                              .incarnation = {{2}},
                              .node_id = 7,
                              .peer_id = 8,
                              .wall_ns = 1700000000000000000ull,
                              .parted = {.lsn = 9, .epoch = 1, .chain = {{4}}},
                              .reason = DIVERGED_REJOIN,
                              .complete = true};
  uint8_t head[DIVERGED_HEADER_BYTES] = {0};
  add(&file, head, sizeof head);
  make_payload(&raw, 3);
  h.from = h.end = h.parted;
  for (int i = 0; i < 2; i++) {
    struct wal_block *b;
    struct block_header like = {.need = {.mode = 1, .ack = 2, .durability = 1, .acks = 1},
                                .epoch = 2,
                                .first_lsn = h.end.lsn + 1,
                                .commit_count = 3};
    CHECK(wal_block_create(&like, raw.data, raw.len, 0, &b) == DW_OK);
    block_header_seal(&b->h, &h.end.chain, b->bytes);
    add(&file, b->bytes, block_total_bytes(&b->h));
    h.end = (struct wal_pos){block_last_lsn(&b->h), 2, b->h.chain};
    h.blocks++;
    h.commits += 3;
    wal_block_unref(b);
  }
  h.bytes = file.len - sizeof head;
  diverged_header_encode(&h, file.data);
  seed("diverged", "two-blocks", &file);
  buf_free(&raw);
  buf_free(&file);
}

/* ---- messages --------------------------------------------------------------------------------------- */

static void manifest(struct ckpt_manifest *m, unsigned files) {
  *m = (struct ckpt_manifest){.id = {{1, 2, 3}}, .pos = {.lsn = 9, .epoch = 2, .chain = {{4}}}};
  for (unsigned i = 0; i < files; i++) {
    char name[32];
    snprintf(name, sizeof name, i ? "%06u.sst" : "CURRENT", i);
    CHECK(ckpt_manifest_add(m, name, (uint64_t)i * 1000) == DW_OK);
  }
}

static void manifests(void) {
  static const unsigned counts[] = {1, 3, 20};
  for (size_t i = 0; i < 3; i++) {
    struct ckpt_manifest m;
    struct buf b = {0};
    char name[32];
    manifest(&m, counts[i]);
    CHECK(ckpt_manifest_encode(&b, &m) == DW_OK);
    snprintf(name, sizeof name, "files-%u", counts[i]);
    seed("manifest", name, &b);
    ckpt_manifest_free(&m);
    buf_free(&b);
  }
}

static void message_blocks(struct buf *b, const struct msg_sender *s) {
  struct buf raw = {0};
  struct wal_block *block;
  struct block_header like = {
      .need = {.mode = 1, .ack = 2, .durability = 1, .acks = 1}, .epoch = 2, .first_lsn = 10, .commit_count = 2};
  uint8_t head[MSG_HEADER_BYTES + MSG_BLOCKS_PREFIX_BYTES];
  struct hash128 prev = {{0}};
  make_payload(&raw, 2);
  CHECK(wal_block_create(&like, raw.data, raw.len, 0, &block) == DW_OK);
  block_header_seal(&block->h, &prev, block->bytes);
  size_t n = block_total_bytes(&block->h);
  msg_blocks_head(s, 9, 2, 2 * n, head);
  add(b, head, sizeof head);
  add(b, block->bytes, n);
  add(b, block->bytes, n);
  wal_block_unref(block);
  buf_free(&raw);
}

/* Three blocks of growing size in a pack; with its number of blocks and of bytes. */
static uint32_t pack_of_three(struct buf *b, struct hash128 *chain) {
  struct wal_pos pos = {.lsn = 9, .epoch = 2, .chain = {{4}}}, before = pos;
  struct wal_block *blocks[3];
  struct wal_packer *p;
  uint32_t plain;
  for (uint32_t i = 0; i < 3; i++) {
    struct buf raw = {0};
    struct block_header like = {
        .need = {.mode = 1, .ack = 2, .durability = 1, .acks = 1}, .commit_count = 1 + 5 * i, .origin_id = 7};
    make_payload(&raw, 1 + 5 * i);
    CHECK(wal_block_create(&like, raw.data, raw.len, i == 2 ? 1 : 0, &blocks[i]) == DW_OK);
    blocks[i]->h.epoch = 2;
    blocks[i]->h.first_lsn = pos.lsn + 1;
    block_header_seal(&blocks[i]->h, &pos.chain, blocks[i]->bytes);
    pos = (struct wal_pos){block_last_lsn(&blocks[i]->h), 2, blocks[i]->h.chain};
    buf_free(&raw);
  }
  CHECK(wal_packer_create(&p) == DW_OK && wal_pack(p, &before, blocks, 3, b, &plain) == DW_OK);
  wal_packer_free(p);
  for (int i = 0; i < 3; i++) wal_block_unref(blocks[i]);
  *chain = pos.chain;
  return plain;
}

static void message_packed(struct buf *b, const struct msg_sender *s) {
  struct buf one = {0};
  uint8_t gap[MSG_HEADER_BYTES + MSG_PACKED_PREFIX_BYTES] = {0};
  struct msg_packed m = {.commit_lsn = 9, .count = 3};
  add(&one, gap, sizeof gap);
  m.plain = pack_of_three(&one, &m.chain);
  msg_packed_head(s, &m, &one);
  add(b, one.data, one.len);
  buf_free(&one);
}

/* As fuzz_pack.c reads them: a choice, then a pack, records, or numbers to make blocks of. */
static void packs(void) {
  static const char records[] = "\1\3\2\0\1\2\1\1\0\3\0\0\0\0\0\0\0\7\0\0\0\0\0\0\0\1\0\4\12hello....."
                                "\0\2\0\4\12hello.....";
  static const char blocks[] = "\2\3\100\1\5\20\7\0\1\2\3\4\5\6\7\10\300\2\3\4\377\377\377\377\10\11";
  struct buf b = {0};
  struct hash128 chain;
  add_u8(&b, 0);
  add_u8(&b, 2);
  (void)pack_of_three(&b, &chain);
  seed("pack", "pack", &b);
  buf_free(&b);
  seed_bytes("pack", "records", records, sizeof records - 1);
  seed_bytes("pack", "blocks", blocks, sizeof blocks - 1);
}

static void one_message(unsigned type, struct buf *b, const struct msg_sender *s) {
  struct wal_pos pos = {.lsn = 9, .epoch = 2, .chain = {{4}}};
  struct hash128 id = {{1, 2, 3}};
  struct msg_hello hello = {.version_min = 1,
                            .version_max = 1,
                            .role = 1,
                            .heartbeat_ms = 500,
                            .cluster_id = id,
                            .node_id = 7,
                            .incarnation = id,
                            .tail = pos,
                            .applied = pos,
                            .at = pos,
                            .region = "eu"};
  struct msg_welcome welcome = {.version = 1,
                                .follows = FOLLOWS_STREAM,
                                .heartbeat_ms = 500,
                                .cluster_id = id,
                                .node_id = 7,
                                .incarnation = id,
                                .epoch = 2,
                                .commit_lsn = 9,
                                .tail_lsn = 9,
                                .pos = pos};
  struct msg_refuse refuse = {.code = DW_DIVERGED, .lsn = 4, .text = "since LSN 4"};
  uint64_t offsets[] = {0, CKPT_HELD, 100};
  struct ckpt_manifest m;
  int rc = DW_OK;
  switch (type) {
  case MSG_HELLO: rc = msg_put_hello(b, s, &hello); break;
  case MSG_WELCOME: rc = msg_put_welcome(b, s, &welcome); break;
  case MSG_REFUSE: rc = msg_put_refuse(b, s, &refuse); break;
  case MSG_BLOCKS: message_blocks(b, s); break;
  case MSG_COMMIT: rc = msg_put_commit(b, s, 9); break;
  case MSG_ACK: rc = msg_put_ack(b, s, &(struct msg_ack){9, 8, 7, UINT64_MAX}); break;
  case MSG_PROBE: rc = msg_put_probe(b, s, &(struct msg_probe){.id = 1, .mono_ns = 2, .hops = 1}); break;
  case MSG_PROBE_ANSWER: rc = msg_put_probe_answer(b, s, &(struct msg_probe_answer){1, 2, 9}); break;
  case MSG_HEARTBEAT: rc = msg_put_heartbeat(b, s, &(struct msg_heartbeat){9, 9}); break;
  case MSG_CKPT_MANIFEST:
    manifest(&m, 3);
    rc = msg_put_ckpt_manifest(b, s, &m);
    ckpt_manifest_free(&m);
    break;
  case MSG_CKPT_WANT: rc = msg_put_ckpt_want(b, s, &id, offsets, 3); break;
  case MSG_CKPT_CHUNK: {
    uint8_t head[MSG_HEADER_BYTES + MSG_CHUNK_PREFIX_BYTES];
    msg_chunk_head(s, 1, 0, "bytes of a file", 15, head);
    add(b, head, sizeof head);
    add(b, "bytes of a file", 15);
    break;
  }
  case MSG_FETCH:
    rc = msg_put_fetch(b, s,
                       &(struct msg_fetch){.version_min = 1,
                                           .version_max = 1,
                                           .max_bytes = 4096,
                                           .cluster_id = id,
                                           .node_id = 7,
                                           .id = 1,
                                           .from = pos,
                                           .upto = 12});
    break;
  case MSG_FENCE:
    rc = msg_put_fence(b, s,
                       &(struct msg_fence){.version_min = 1,
                                           .version_max = 1,
                                           .what = FENCE_PROMISE,
                                           .cluster_id = id,
                                           .node_id = 7,
                                           .id = 3,
                                           .epoch = 5,
                                           .address = "a:1",
                                           .durable = pos});
    break;
  case MSG_FENCED:
    rc = msg_put_fenced(b, s,
                        &(struct msg_fenced){.version = 1,
                                             .verdict = FENCE_REFUSED,
                                             .has_data = true,
                                             .cluster_id = id,
                                             .node_id = 7,
                                             .id = 3,
                                             .promised_epoch = 6,
                                             .promised_node = 8,
                                             .durable = pos,
                                             .primary = "b:2",
                                             .text = "no"});
    break;
  case MSG_FETCHED: {
    uint8_t head[MSG_HEADER_BYTES + MSG_FETCHED_PREFIX_BYTES];
    msg_fetched_head(s, &(struct msg_fetched){.version = 1, .id = 1, .cluster_id = id}, 0, head);
    add(b, head, sizeof head);
    break;
  }
  case MSG_MEMBERS: {
    struct msg_members all = {.count = 2};
    all.member[0] = (struct msg_member){.node_id = 7, .role = DW_PRIMARY, .priority = 100, .client = "10.0.0.7:6379"};
    all.member[1] = (struct msg_member){.node_id = 8, .role = DW_FOLLOWER, .listen = ":7400", .region = "eu"};
    rc = msg_put_members(b, s, &all);
    break;
  }
  case MSG_PACKED: message_packed(b, s); break;
  case MSG_CKPT_FILE_END: rc = msg_put_ckpt_file_end(b, s, &(struct msg_ckpt_file_end){1, id}); break;
  case MSG_CKPT_DONE: rc = msg_put_ckpt_done(b, s, &id); break;
  case MSG_CKPT_ACK: rc = msg_put_ckpt_ack(b, s, &(struct msg_ckpt_ack){4096}); break;
  case MSG_CKPT_INSTALLED: rc = msg_put_ckpt_installed(b, s, &id); break;
  default: break;
  }
  CHECK(rc == DW_OK);
}

static void messages(void) {
  struct msg_sender s = {.version = 1, .epoch = 2, .node_id = 7};
  struct buf all = {0};
  add_u8(&all, 0);
  for (unsigned type = MSG_HELLO; type < MSG_TYPES; type++) {
    struct buf b = {0};
    if (!msg_name(type)) continue;
    add_u8(&b, 0);
    one_message(type, &b, &s);
    add(&all, b.data + 1, b.len - 1);
    seed("message", msg_name(type), &b);
    buf_free(&b);
  }
  seed("message", "all", &all);
  buf_free(&all);
}

/* ---- text -------------------------------------------------------------------------------------------- */

static void texts(const char *target, const char *const (*rows)[2], size_t n) {
  for (size_t i = 0; i < n; i++) seed_bytes(target, rows[i][0], rows[i][1], strlen(rows[i][1]));
}

static const char *const resp_rows[][2] = {
    {"multibulk", "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"},
    {"inline", "SET k \"a \\x41\\n b\" 'c\\'d'\r\nGET k\n\r\nPING\r\n"},
    {"empty", "*0\r\n*-1\r\n*1\r\n$0\r\n\r\n\r\n"},
    {"lies", "*1048576\r\n$67108864\r\nx"},
    {"too-many", "*1048577\r\n"},
    {"bad-bulk", "*1\r\n$-1\r\n"},
    {"quotes", "GET \"a\"b\r\n"},
};

static const char *const commands_rows[][2] = {
    {"strings", "SET a 1\r\nGET a\r\nSET a 2 NX GET\r\nSETNX b 3\r\nMSET c 4 d 5\r\nMGET a b c d\r\nSTRLEN a\r\n"
                "EXISTS a b\r\nTYPE a\r\nTTL a\r\nPTTL a\r\nDEL a b\r\nUNLINK c\r\nDBSIZE\r\n"},
    {"scan", "MSET k1 1 k2 2 k3 3\r\nSCAN 0 COUNT 1\r\nSCAN 1\r\nSCAN 0 MATCH k[1-2]* TYPE string\r\n"},
    {"multi",
     "MULTI\r\nSET a 1\r\nGET a\r\nDEL a\r\nSETNX a 2\r\nEXEC\r\nMULTI\r\nFOO\r\nEXEC\r\nMULTI\r\nDISCARD\r\n"},
    {"session", "PING hi\r\nECHO x\r\nSELECT 0\r\nHELLO 2 AUTH default x SETNAME me\r\nAUTH x\r\nCLIENT SETNAME n\r\n"
                "CLIENT GETNAME\r\nCLIENT ID\r\nCLIENT INFO\r\nCLIENT LIST\r\nCOMMAND COUNT\r\nCOMMAND DOCS get\r\n"
                "COMMAND INFO get\r\nCOMMAND GETKEYS MSET a 1 b 2\r\nCONFIG GET max*\r\nRESET\r\nQUIT\r\n"},
    {"info", "INFO\r\nINFO replication\r\nROLE\r\nTIME\r\nDW.STATUS\r\nDW.CHECKSUM\r\nDW.LSN\r\n"},
    {"dw", "DW.MODE ASYNC\r\nDW.MODE SYNC 2 RECEIVED\r\nDW.MODE ASYNC DURABLE\r\nDW.READ EVENTUAL\r\nDW.READ BOUNDED "
           "5\r\nDW.READ SESSION 3\r\nDW.READ STRONG WAIT 1\r\nDW.WAIT 1 1\r\nWAIT 0 1\r\nSET a 1\r\nGET a\r\n"},
    {"multibulk",
     "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n"},
    {"odd",
     "CLIENT REPLY ON\r\nCLIENT NO-EVICT ON\r\nCLIENT NO-TOUCH OFF\r\nCLIENT SETINFO LIB-NAME x\r\nCOMMAND\r\nCOMMAND "
     "LIST\r\nCOMMAND DOCS\r\nCONFIG SET save x\r\nCONFIG RESETSTAT\r\nWATCH a\r\nUNWATCH\r\nINFO server\r\n"},
    {"waits",
     "SET a 1\r\nWAIT 1 2\r\nDW.WAIT 1 1\r\nDW.READ SESSION 5 WAIT 2\r\nGET a\r\nDW.READ BOUNDED 1 WAIT 1\r\nGET "
     "a\r\nDW.MODE SYNC 1 APPLIED TIMEOUT 2\r\nSET a 2\r\nMULTI\r\nSET b 1\r\nEXEC\r\nDW.MODE DEFAULT\r\n"},
};

static const char *const config_rows[][2] = {
    {"primary", "0--data=/d\t--listen=:7400\n"},
    {"flags", "0--data\t/d\t--listen\t*:7400\t--mode=semi-sync\t--acks=2\t--ack=applied\t--node-id=7\t--region=eu\n"
              "# comment\nretain = 5m\nretain-bytes = 1GiB # more\nsegment-bytes=64KiB\nzstd-level = -5\n"},
    {"file",
     "0--data=d\nlisten = 127.0.0.1:0\nresp = :6400\nhttp = 8400\nheartbeat = 500\npeer-timeout = 5s\nlog-level "
     "= debug\ndurability = os\nack-timeout=1d\nmemtable=64M\nblock-cache=0\nsync-interval = 10\n"
     "max-clients = 5\nlog-file = l\npid-file=p\nregion = b\xc3\xa4r\n"},
    {"follower", "1--data=d\t--primary=[::1]:7400\nmax-staleness = 10s\n"},
    {"wrong",
     "0--dat=d\t--listen\t--mode=fast\t-x\t--help=1\nfoo = 1\nretain\nretain = 1\nretain = 2\nheartbeat = x\n"},
    {"help", "0--help\n"},
};

/* A request, then the status as fuzz_http.c reads it. */
static void http(void) {
  static const char *const paths[] = {"/",       "/status", "/metrics", "/healthz",
                                      "/readyz", "/nosuch", "/primary", "/replica"};
  static const char status[] = "\x60\x04\x02"
                               "eu\x0b"
                               "127.0.0.1:1\x03"
                               "bad"
                               "\x01\0\0\0\0\0\0\0\x02\0\xff\xff\xff\xff\xff\xff\xff\xff\x09\0\0\0\0\0\0\0\x01"
                               "\x02\"\\\x03"
                               "a:1\x02\0\0\0\0\0\0\0\x04\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0"
                               "\0\x0b\x03"
                               "c:1\x02ok\x09\x01\x03"
                               "d:1\x03"
                               "e:1\x01x\x05\0\x01\x01\x01\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0"
                               "\x2b\x07\0\0\0\0\0\0\0\x03"
                               "f:1\x03g:1\x02no\x02up";
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
    for (unsigned role = 0; role < 2; role++) {
      struct buf b = {0};
      char name[32];
      add_u8(&b, (uint8_t)(2 * role));
      add_text(&b, paths[i]);
      add_u8(&b, '\n');
      add_u8(&b, (uint8_t)(status[0] | (char)role));
      add(&b, status + 1, sizeof status - 2);
      snprintf(name, sizeof name, "%u-%s", role, paths[i][1] ? paths[i] + 1 : "index");
      seed("http", name, &b);
      buf_free(&b);
    }
  static const char json[] =
      "\1{\"role\":\"primary\",\"node_id\":\"1\",\"region\":\"eu\",\"followers\":[{\"node_id\":\"2\","
      "\"state\":\"streaming\",\"lag_ms\":5,\"staleness_ms\":null}],\"mode\":\"sync\",\"error\":\"x\"}";
  seed_bytes("http", "json", json, sizeof json - 1);
}

static const char *const load_rows[][2] = {
    /* first byte: format + 3 * (size of pieces - 1) */
    {"deb822",
     "0Package: a\nVersion: 1\nArchitecture: all\nDescription: x\n y\n\n# c\nPackage: b\nVersion:2\nArchitecture: b\n"},
    {"deb822-bad", "3Package: a\nPackage: b\n\nnonsense\n\nPackage: \n\n \t\r\nVersion: 1\n"},
    {"tsv", "1key\tvalue\na\\tb\tc\\n\\\\\n\nlast\t"},
    {"tsv-bad", "4no tab\n\tno key\nk\tbad \\x\n\\"},
    {"resp", "2*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\nDEL k\r\n\r\n*1\r\n$-1\r\n"},
};

static const char *const reply_rows[][2] = {
    {"kinds", "\1+OK\r\n-ERR no\r\n:42\r\n$5\r\nhello\r\n$-1\r\n$0\r\n\r\n*-1\r\n*0\r\n"},
    {"nested", "\2*2\r\n*2\r\n:1\r\n$1\r\nx\r\n*1\r\n+y\r\n+after\r\n"},
    {"lies", "\3$536870912\r\nx"},
    {"deep", "\4*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n"},
};

static void small_files(void) {
  uint8_t bytes[1 + NODE_FILE_BYTES] = {0};
  struct node_file n = {.cluster_id = {{1}}, .incarnation = {{2}}, .node_id = 3, .generation = 1, .created_wall_ns = 4};
  node_file_encode(&n, bytes + 1);
  seed_bytes("node", "node", bytes, sizeof bytes);
  bytes[0] = 1;
  store_marker_encode(&(struct wal_pos){.lsn = 9, .epoch = 2, .chain = {{3}}}, bytes + 1);
  seed_bytes("node", "marker", bytes, 1 + STORE_MARKER_BYTES);
  bytes[0] = 2;
  segment_name((char *)bytes + 1, 17, 3);
  seed_bytes("node", "name", bytes, 1 + strlen((char *)bytes + 1));
}

static void text(void) {
  texts("resp", resp_rows, sizeof resp_rows / sizeof *resp_rows);
  texts("commands", commands_rows, sizeof commands_rows / sizeof *commands_rows);
  texts("load", load_rows, sizeof load_rows / sizeof *load_rows);
  texts("reply", reply_rows, sizeof reply_rows / sizeof *reply_rows);
  texts("config", config_rows, sizeof config_rows / sizeof *config_rows);
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: fuzz_seeds DIR\n");
    return 2;
  }
  dir = argv[1];
  make_dir(dir);
  blocks_and_payloads();
  diverged();
  manifests();
  messages();
  packs();
  text();
  http();
  small_files();
  seeds_log();
  seeds_talk();
  return 0;
}
