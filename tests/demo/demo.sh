#!/usr/bin/env bash
# The demo: one primary, two followers, this machine's own Debian package index as data.
#
# Run by `./dw demo [--keep]`. Everything is on loopback, in a fresh temporary directory, on free ports; every process is
# ended by its id. Steps: start, load, read from followers, kill -9, restart, compare.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

keep=0
bin=build/release
while [ $# -gt 0 ]; do
  case $1 in
  --keep) keep=1 ;;
  --bin) bin=$2; shift ;;
  *) printf 'demo: unknown option %s\n' "$1" >&2; exit 2 ;;
  esac
  shift
done
for exe in dabbawal dabbawal-primary dabbawal-follower; do
  [ -x "$bin/$exe" ] || { printf 'demo: %s/%s is missing: ./dw build\n' "$bin" "$exe" >&2; exit 1; }
done

dir=$(mktemp -d "${TMPDIR:-/tmp}/dabbawal-demo.XXXXXX")
declare -A pid port
# Ports below the range of outgoing connections, so that a node that is down for a moment finds its own free again.
free_port() {
  local p
  while :; do
    p=$((12000 + RANDOM % 20000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null; then
      printf '%s' "$p"
      return
    fi
  done
}
for name in primary.listen primary.resp primary.http follower1.resp follower1.http follower2.resp follower2.http; do
  port[$name]=$(free_port)
done
step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() {
  printf '\ndemo failed: %s\n' "$*" >&2
  local f
  for f in "$dir"/*.log; do
    [ -s "$f" ] && { printf -- '--- %s\n' "$f" >&2; tail -n 15 "$f" >&2; }
  done
  exit 1
}
cleanup() {
  local rc=$? name
  if [ $keep = 1 ] && [ $rc = 0 ]; then return; fi
  for name in "${!pid[@]}"; do kill "${pid[$name]}" 2>/dev/null || true; done
  for name in "${!pid[@]}"; do wait "${pid[$name]}" 2>/dev/null || true; done
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# await SECONDS WHAT COMMAND...: until the command succeeds
await() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || fail "waited in vain for: $what"
    sleep 0.05
  done
}
redis() { local name=$1; shift; redis-cli -h 127.0.0.1 -p "${port[$name.resp]}" "$@"; }
# One field of DW.STATUS: numbers and plain strings of its top level.
field() { redis "$1" DW.STATUS | tr -d '\n' | sed -n 's/.*"'"$2"'":[[:space:]]*"\{0,1\}\([^,"}]*\).*/\1/p' | head -n 1; }
lsn() { field "$1" applied_lsn; }

# start NAME ARGS...: waits for its "ready" line and remembers pid and ports
start() {
  local name=$1 exe log
  shift
  case $name in primary) exe=dabbawal-primary ;; *) exe=dabbawal-follower ;; esac
  log=$dir/$name.log
  : >"$log"
  "$bin/$exe" --data "$dir/$name" --resp "127.0.0.1:${port[$name.resp]}" --http "127.0.0.1:${port[$name.http]}" \
    "$@" 2>"$log" &
  pid[$name]=$!
  await 30 "$name to be ready" grep -q 'ready role=' "$log"
  printf '  %-10s pid %-7s resp %-6s http %-6s %s\n' "$name" "${pid[$name]}" "${port[$name.resp]}" "${port[$name.http]}" \
    "${port[$name.listen]:+listen ${port[$name.listen]}}"
}
start_primary() {
  start primary --listen "127.0.0.1:${port[primary.listen]}" --mode semi-sync --acks 1 --node-id 1 --region mumbai
}
start_follower() { start "follower$1" --primary "127.0.0.1:${port[primary.listen]}" --node-id "1$1" --region "suburb-$1"; }
caught_up() { [ "$(lsn "follower$1")" = "$(lsn primary)" ]; }
kill9() {
  kill -9 "${pid[$1]}"
  wait "${pid[$1]}" 2>/dev/null || true
  unset "pid[$1]"
}
checksum() { redis "$1" DW.CHECKSUM | tr '\n' ' '; }
show_checksums() {
  local a b name
  a=$(checksum primary)
  for name in primary follower1 follower2; do
    b=$(checksum "$name")
    printf '  %-10s %s\n' "$name" "$b"
    # records and hash must agree; the applied LSN is shown in between
    [ "$(awk '{print $1, $3}' <<<"$a")" = "$(awk '{print $1, $3}' <<<"$b")" ] || fail "$name differs from the primary"
  done
}

began=$SECONDS
step '1. A primary (semi-sync, one ack) and two followers'
start_primary
start_follower 1
start_follower 2
await 20 'both followers to stream' sh -c "[ \"\$(redis-cli -p ${port[primary.resp]} INFO replication | tr -d '\r' | sed -n 's/^connected_slaves://p')\" = 2 ]"

step '2. The data: this machine'"'"'s package index'
index=$dir/index
apt-cache dumpavail >"$index" 2>/dev/null || true
[ -s "$index" ] || cp /var/lib/dpkg/status "$index"
printf '  %s records, %s bytes\n' "$(grep -c '^Package:' "$index")" "$(stat -c %s "$index")"

step '3. Load it'
"$bin/dabbawal" load "127.0.0.1:${port[primary.resp]}" "$index" --format deb822 &
loader=$!
while kill -0 $loader 2>/dev/null; do
  f1=$(lsn follower1) f2=$(lsn follower2) p=$(lsn primary) # in this order, so that no lag is negative
  printf '  primary LSN %-8s lag of follower1 %-6s follower2 %-6s staleness %s / %s ms\n' "$p" "$((p - f1))" "$((p - f2))" \
    "$(field follower1 staleness_ms)" "$(field follower2 staleness_ms)"
  sleep 0.2
done
wait $loader || fail 'the load'
await 30 'follower1 to catch up' caught_up 1
await 30 'follower2 to catch up' caught_up 2
raw=$(field primary raw_bytes) stored=$(field primary stored_bytes)
printf '  log: %s bytes of commits in %s bytes on disk and wire (%s%%), %s syncs\n' "$raw" "$stored" \
  "$((stored * 100 / (raw > 0 ? raw : 1)))" "$(field primary syncs)"
"$bin/dabbawal" status "127.0.0.1:${port[primary.resp]}"

step '4. Reads with a promise, on the followers'
key=$(redis primary --raw SCAN 0 COUNT 1 | sed -n 2p)
token=$(printf 'SET demo:token written\nDW.LSN\n' | redis primary | tail -n 1 | tr -dc 0-9)
printf '  written at the primary as LSN %s; follower1, SESSION %s: %s\n' "$token" "$token" \
  "$(printf 'DW.READ SESSION %s WAIT 2000\nGET demo:token\n' "$token" | redis follower1 | tail -n 1)"
printf '  follower2, at most 500 ms old: %s -> %s bytes\n' "$key" \
  "$(printf 'DW.READ BOUNDED 500 WAIT 1000\nSTRLEN %s\n' "$key" | redis follower2 | tail -n 1 | tr -dc 0-9)"

step '5. kill -9 follower1, write on, bring it back'
kill9 follower1
redis primary SET demo:while-follower1-was-away yes >/dev/null
start_follower 1
await 30 'follower1 to catch up' caught_up 1
printf '  follower1 has it: %s\n' "$(redis follower1 GET demo:while-follower1-was-away)"

step '6. kill -9 the primary: the followers still serve; bring it back'
kill9 primary
printf '  follower2 without a primary: demo:token = %s\n' "$(redis follower2 GET demo:token)"
start_primary
redis primary SET demo:after-restart yes >/dev/null
await 30 'follower1 to catch up' caught_up 1
await 30 'follower2 to catch up' caught_up 2

step '7. All three hold the same data (records, applied LSN, XXH3-128 over all records)'
show_checksums
"$bin/dabbawal" wal verify "$dir/follower1" | tail -n 1

printf '\ndone in %s s\n' "$((SECONDS - began))"
if [ $keep = 1 ]; then
  cat <<TEXT

Left running in $dir. Try:
  redis-cli -p ${port[primary.resp]} SET greeting hello
  redis-cli -p ${port[follower1.resp]} GET greeting
  redis-cli -p ${port[follower1.resp]} INFO replication
  curl http://127.0.0.1:${port[primary.http]}/metrics
  $bin/dabbawal status 127.0.0.1:${port[primary.resp]} --watch
Stop with:
  kill ${pid[*]}; while kill -0 ${pid[*]} 2>/dev/null; do sleep 0.1; done; rm -rf $dir
TEXT
  trap - EXIT
  disown -a
fi
