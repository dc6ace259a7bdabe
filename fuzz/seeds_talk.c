/* Seeds of the conversations: a follower that streams, one that bootstraps, one that is refused, and the same from a
 * primary. Steps as fuzz_shipper.c and fuzz_receiver.c read them. */
#include "fuzz/seeds.h"

struct row {
  const char *name, *steps;
  size_t n;
};
#define STEPS(name, text) {name, text, sizeof text - 1}

/* frames step: 0, how, then per frame: kind, u16, arguments. HELLO (kind 0): tail, applied, at as numbers of boundaries.
 * 3 n n: the socket takes bytes. 4 n n: time passes. */
#define HELLO(tail, applied, at) "\000\000\000\000\000" tail applied at
#define DRAIN "\003\377\377"
static const struct row shipper_rows[] = {
    STEPS("stream", "\000" HELLO("\003", "\002", "\003") DRAIN "\000\000\001\020\000\020\020" DRAIN "\000\000\002\001\000" DRAIN
                    "\005\001\100\000" DRAIN "\006" DRAIN "\004\000\002\000\000\003\000\000" DRAIN),
    STEPS("truncate", "\000" HELLO("\103", "\002", "\103") DRAIN HELLO("\003", "\002", "\003") DRAIN),
    STEPS("refused", "\000" HELLO("\103", "\103", "\103") DRAIN),
    STEPS("bootstrap", "\001" HELLO("\001", "\001", "\001") DRAIN "\000\000\004\000\000" DRAIN "\000\000\005\270\013" DRAIN
                       "\000\000\005\050\043" DRAIN "\000\000\006\000\000" DRAIN HELLO("\014", "\014", "\014") DRAIN),
    STEPS("held", "\002" HELLO("\003", "\002", "\003") DRAIN "\010" DRAIN "\005\001\100\000\011" DRAIN),
    STEPS("silence", "\000" HELLO("\003", "\002", "\003") "\004\377\377\004\377\377"),
    STEPS("raw", "\000\000\000\050\310\000xxxxxxxxxxxxxxxxxxxxxxxx"),
};

static void rows(const char *target, const struct row *r, size_t n) {
  for (size_t i = 0; i < n; i++) seed_bytes(target, r[i].name, r[i].steps, r[i].n);
}

void seeds_talk(void) { rows("shipper", shipper_rows, sizeof shipper_rows / sizeof *shipper_rows); }
