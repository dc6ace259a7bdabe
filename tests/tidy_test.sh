#!/usr/bin/env bash
# House rules as a test: which way includes point, the two copies of the result codes, no promises left in code.
# usage: tidy_test.sh SOURCE_DIR
set -uo pipefail
cd "$1" || exit 1
bad=0
complain() {
  echo "tidy: $*"
  bad=1
}

# Includes: layer -> layers it may use. replication/cmd is a layer of its own above replication.
check_includes() {
  local files=$1 forbidden=$2 what=$3 hits
  # shellcheck disable=SC2086
  hits=$(grep -nE "^#include \"($forbidden)" $files 2>/dev/null)
  [ -z "$hits" ] || complain "$what:"$'\n'"$hits"
}
check_includes "wal/base/*.c wal/base/*.h" "engine|replication|tests|wal/[a-z_]*\.h" "wal/base may use nothing above it"
check_includes "wal/*.c wal/*.h" "engine|replication|tests|dabbawal" "wal may not include engine or replication"
check_includes "engine/*.c engine/*.h" "replication|tests" "engine may not include replication"
check_includes "replication/*.c replication/*.h" "replication/cmd|tests" "the library may not include its front ends"
hits=$(grep -lE '#include.*rocksdb/c\.h' engine/*.[ch] wal/*.[ch] replication/*.[ch] replication/cmd/*.[ch] | grep -v '^engine/store_rocksdb.c$')
[ -z "$hits" ] || complain "rocksdb/c.h belongs to engine/store_rocksdb.c alone: $hits"

# The result codes stand twice, so that wal/ needs no header of engine/.
codes() { sed -n '/^#define DW_RC_DEFINED/,/^};/p' "$1" | grep -oE 'DW_[A-Z_]+' | grep -v DW_RC_DEFINED; }
[ "$(codes engine/dabbawal.h)" = "$(codes wal/base/status.h)" ] || complain "result codes differ between engine/dabbawal.h and wal/base/status.h"
[ "$(codes engine/dabbawal.h | wc -l)" -ge 15 ] || complain "the result codes were not found"

# Pure files read no clock, start no thread, touch no file or socket.
pure=(engine/commit_gate.c engine/retention.c engine/scrub.c replication/fetcher.c replication/message.c replication/message_codec.c
  replication/message_members.c replication/members.c replication/shipper*.c
  replication/receiver*.c replication/ack_quorum.c replication/staleness.c replication/failover*.c replication/lookout.c replication/position.c replication/outq.c
  replication/checkpoint_manifest.c replication/checkpoint_transfer.c wal/format.c wal/pack.c wal/payload.c replication/cmd/resp_codec.c)
hits=$(grep -nE '\b(pthread_create|clock_gettime|time\(|usleep|nanosleep|poll|socket|open|fopen|read|write|uv_[a-z_]+)\(' "${pure[@]}" | grep -vE '^\S+:[0-9]+: *(/?\*|//)')
[ -z "$hits" ] || complain "pure files do I/O:"$'\n'"$hits"

hits=$(grep -nE '\b(TODO|FIXME|XXX|not implemented)\b' -r engine wal replication bench tests --include='*.c' --include='*.h' --include='*.sh' | grep -v tidy_test.sh)
[ -z "$hits" ] || complain "promises left in the code:"$'\n'"$hits"
hits=$(grep -nE '\babort\(' engine/*.c wal/*.c wal/base/*.c replication/*.c replication/cmd/*.c)
[ -z "$hits" ] || complain "abort():"$'\n'"$hits"

# One format, by .clang-format.
if command -v clang-format >/dev/null && [ -d .git ] && ! out=$(./dw fmt --check 2>&1); then
  complain "not formatted (./dw fmt):"$'\n'"$(grep -m5 'error:' <<<"$out")"
fi

# Documents that the code refers to exist.
# shellcheck disable=SC2013
for doc in $(grep -ohE 'docs/[a-z0-9-]+\.md' -r README.md docs engine wal replication | sort -u); do
  [ -f "$doc" ] || complain "$doc is mentioned, but is not there"
done
exit $bad
