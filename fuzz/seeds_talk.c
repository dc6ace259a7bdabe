/* Seeds of the conversations: a follower that streams, one that bootstraps, one that is refused, and the same from a
 * primary. Steps as fuzz_shipper.c and fuzz_receiver.c read them. */
#include "fuzz/seeds.h"
#include "replication/checkpoint_manifest.h"

struct row {
  const char *name, *steps;
  size_t n;
};
#define STEPS(name, text)                                                                                              \
  { name, text, sizeof text - 1 }

/* frames step: 0, how, then per frame: kind, u16, arguments. HELLO (kind 0): tail, applied, at as numbers of
 * boundaries. 3 n n: the socket takes bytes. 4 n n: time passes. */
#define HELLO(tail, applied, at) "\000\000\000\000\000" tail applied at
#define DRAIN "\003\377\377"
static const struct row shipper_rows[] = {
    STEPS("stream", "\000" HELLO("\003", "\002", "\003") DRAIN
          "\000\000\001\020\000\020\020" DRAIN "\000\000\002\001\000" DRAIN "\005\001\100\000" DRAIN "\006" DRAIN
          "\004\000\002\000\000\003\000\000" DRAIN),
    STEPS("truncate", "\000" HELLO("\103", "\002", "\103") DRAIN HELLO("\003", "\002", "\003") DRAIN),
    STEPS("refused", "\000" HELLO("\103", "\103", "\103") DRAIN),
    STEPS("bootstrap", "\001" HELLO("\001", "\001", "\001") DRAIN
          "\000\000\004\000\000" DRAIN "\000\000\005\270\013" DRAIN "\000\000\005\050\043" DRAIN
          "\000\000\006\000\000" DRAIN HELLO("\014", "\014", "\014") DRAIN),
    STEPS("fetch", "\000\000\000\104\000\100\001\010" DRAIN "\004\000\020\000\000\104\001\100\004\010" DRAIN),
    STEPS("held", "\002" HELLO("\003", "\002", "\003") DRAIN "\010" DRAIN "\005\001\100\000\011" DRAIN),
    STEPS("silence", "\000" HELLO("\003", "\002", "\003") "\004\377\377\004\377\377"),
    STEPS("packed", "\000\000\000\050\000\000\003\002\003" DRAIN "\005\001\100\000" DRAIN "\006" DRAIN),
    STEPS("some-packed", "\010\000\000\050\000\000\000\000\000\003\010\000" DRAIN "\004\001\000" DRAIN),
    STEPS("raw", "\000\000\000\050\310\000xxxxxxxxxxxxxxxxxxxxxxxx"),
};

/* frames step: 0, how, then per frame: kind and its arguments. WELCOME (kind 0): follows - 1, commit_lsn, boundary. */
#define WELCOME(follows, pos) "\000\000\000" follows "\003" pos
static const struct row receiver_rows[] = {
    STEPS("adopt", "\000" WELCOME("\000", "\000") "\000\000\001\003\000\010\003\031\000\000\000\001\003\004\010"
                                                  "\003\031\000\000\000\003\011\000\000\004\000\000\005"),
    STEPS("stream", "\001" WELCOME("\000", "\007") "\000\000\001\003\007\020\003\372\000\000\000\005\011\020"),
    STEPS("cut", "\002" WELCOME("\001", "\005") WELCOME("\000", "\005") "\000\000\001\003\005\010"),
    STEPS("no-cut", "\002" WELCOME("\001", "\001")),
    STEPS("bootstrap",
          "\000" WELCOME("\002", "") "\000\000\006\001\014\012\000\000\000\007\000\004\000\000\007\000"
                                     "\377\000\000\010\000\000\000\010\000\000\000\011" WELCOME("\000", "\377")),
    STEPS("held", "\201" WELCOME("\000", "\007") "\000\000\001\000\007\020\005\005\000\000\001\000\010\020\006\003"),
    STEPS("pieces", "\001\002\000\000\000\003\007\005"),
    STEPS("packed", "\001" WELCOME("\000", "\007") "\000\000\013\003\007\020\003\372\000\000\000\005\011\020"),
    STEPS("packed-wrong", "\001" WELCOME("\000", "\007") "\000\000\013\043\007\020\007\000\001"),
    STEPS("refused", "\001\000\000\012\012\003\377\377\003\377\377"),
};

/* 128: begin with a manifest (files - 1, sizes); 1 how n n: a chunk; 3 how: end of file; 4: reopen; 5: finish. */
static const struct row checkpoint_rows[] = {
    STEPS("one-file", "\000\200\000\012\001\000\011\000\003\000\005"),
    STEPS("three-files", "\000\200\002\012\000\003\001\000\011\000\003\000\003\000\001\000\377\000\003\000\005"),
    STEPS("resumed",
          "\000\200\001\012\014\001\000\011\000\003\000\001\000\004\000\004\000\001\000\377\000\003\000\005"),
    STEPS("wrong-hash", "\000\200\000\012\001\000\011\000\003\002\000\001\000\011\000\003\000\005"),
    STEPS("crashed", "\000\200\000\012\001\000\004\000\006\000\002\000\000\001\000\377\000\003\000\005"),
    STEPS("another", "\000\200\100\012\001\000\004\000\200\000\012\307"),
};

/* 0 boundary n: ask; 1 how n: an answer of n blocks; 3: take. */
static const struct row fetcher_rows[] = {
    STEPS("answered", "\001\000\000\017\001\000\003\003\000\003\005\001\000\000\003"),
    STEPS("elsewhere", "\000\000\002\010\001\020\001\005"),
    STEPS("forged", "\000\000\002\010\001\040\002\220\000\007\003"),
    STEPS("pieces", "\000\000\001\010\001\004\002\005\003\314"),
};

/* 0 question: ask; 1 how: an answer; 203: the end. */
static const struct row fencer_rows[] = {
    STEPS("answered", "\000\000\001\001\000\000\001\001\007\000\000\000\001\004"),
    STEPS("forged", "\000\000\001\001\040\002\220"),
    STEPS("pieces", "\000\002\001\005\000\000\000\001\020\003"),
    STEPS("stale", "\000\000\001\001\100\002\313"),
};

/* With a STATE that an earlier transfer left. */
static void checkpoint_state(void) {
  struct ckpt_manifest m = {.id = {{1, 0}}, .pos = {.lsn = 5}};
  struct buf state = {0}, b = {0};
  uint8_t head[16] = "DWINCMG\n", record[40] = {0};
  CHECK(ckpt_manifest_add(&m, "CURRENT", 10) == DW_OK && ckpt_manifest_add(&m, "000001.sst", 20) == DW_OK);
  CHECK(ckpt_manifest_encode(&state, &m) == DW_OK);
  put_u32(head + 8, 1);
  put_u32(head + 12, (uint32_t)state.len);
  add_u8(&b, 1);
  put_u16(record, (uint16_t)(16 + state.len + 8 + 32));
  add(&b, record, 2);
  add(&b, head, sizeof head);
  add(&b, state.data, state.len);
  put_u16(record, 0);
  add(&b, record, 40); /* checksum, repaired; a record that is not valid */
  add(&b, "\200\001\012\024\001\000\011\000\003\000", 10);
  seed("checkpoint", "state", &b);
  ckpt_manifest_free(&m);
  buf_free(&state);
  buf_free(&b);
}

static void rows(const char *target, const struct row *r, size_t n) {
  for (size_t i = 0; i < n; i++) seed_bytes(target, r[i].name, r[i].steps, r[i].n);
}

void seeds_talk(void) {
  checkpoint_state();
  rows("checkpoint", checkpoint_rows, sizeof checkpoint_rows / sizeof *checkpoint_rows);
  rows("shipper", shipper_rows, sizeof shipper_rows / sizeof *shipper_rows);
  rows("fencer", fencer_rows, sizeof fencer_rows / sizeof *fencer_rows);
  rows("fetcher", fetcher_rows, sizeof fetcher_rows / sizeof *fetcher_rows);
  rows("receiver", receiver_rows, sizeof receiver_rows / sizeof *receiver_rows);
}
