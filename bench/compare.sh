#!/usr/bin/env bash
# The same workload on servers from Debian packages: JSON lines in the benches' form on stdout. Called by run.sh.
#
#   redis     redis-benchmark, 50 connections, 16 commands in flight each. SET at the primary: AOF always and one replica,
#             against dabbawal-primary with --durability disk and one asynchronous follower. GET at the replica and the
#             follower, one node idle beside it. The same client, flags and commands on both sides.
#   postgres  one synchronous standby, synchronous_commit = on; pgbench with prepared upserts, against sync mode with one
#             follower. Theirs goes through a socket and SQL, ours is embedded: read it as what a program gets.
#
# Servers run in a fresh directory, on free loopback ports, and are ended by their process ids.
set -euo pipefail
bin=build/release seconds=0.5 rounds=1 servers=""
while [ $# -gt 1 ]; do
  printf -v "${1#--}" '%s' "$2"
  shift 2
done

dir=$(mktemp -d "${TMPDIR:-/tmp}/dabbawal-compare.XXXXXX")
chmod 755 "$dir"
declare -A pid
say() { printf 'compare: %s\n' "$*" >&2; }
fail() {
  say "$*"
  local f
  for f in "$dir"/*.log; do [ ! -s "$f" ] || { say "--- ${f##*/}"; tail -n 8 "$f" >&2; }; done
  exit 1
}
# A process that is told to end may need a moment for its files; after 20 s it gets no more.
end() {
  local p=${pid[$1]:-} i
  [ -n "$p" ] || return 0
  unset "pid[$1]"
  kill "${2:--TERM}" "$p" 2>/dev/null || return 0
  for ((i = 0; i < 200; i++)); do
    kill -0 "$p" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -9 "$p" 2>/dev/null || true
}
cleanup() {
  local rc=$? name
  for name in "${!pid[@]}"; do end "$name" -INT; done
  rm -rf "$dir"
  exit $rc
}
trap cleanup EXIT
trap 'exit 130' INT TERM

free_port() {
  local p
  while :; do
    p=$((12000 + RANDOM % 20000))
    (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null || { printf '%s' "$p"; return; }
  done
}
# await SECONDS WHAT COMMAND...: until the command succeeds
await() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || fail "waited in vain for: $what"
    sleep 0.05
  done
}
# result BENCH LINE CASE UNIT OURS_NAME THEIRS_NAME REACH OURS.jsonl THEIRS.jsonl: files with one {value, p50_us...} a round
result() {
  jq -cn --arg bench "$1" --arg line "$2" --arg case "$3" --arg unit "$4" --arg on "$5" --arg tn "$6" --argjson reach "$7" \
    --slurpfile o "$8" --slurpfile t "$9" '
    def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2] + .[length / 2 - 1]) / 2 end;
    def side($name): {name: $name, median: (map(.value) | median), rounds: map(.value)}
      + ([.[] | del(.value) | to_entries[]] | group_by(.key) | map({key: .[0].key, value: (map(.value) | median)}) | from_entries);
    [range(0; $o | length) as $i | $o[$i].value / $t[$i].value] as $r
    | {bench: $bench, line: $line, case: $case, unit: $unit, ours: ($o | side($on)), theirs: ($t | side($tn)),
       ratio: ($r | median), ratio_min: ($r | min), ratio_max: ($r | max), reach: $reach, reach_of: "ratio", at_most: false}'
}

# ---- redis ------------------------------------------------------------------------------------

keys=200000
value="$(printf 'v%.0s' {1..52})__rand_int____rand_int____rand_int____rand_int__" # 100 bytes, half of them digits
redis_ok() { [ "$(redis-cli -p "$1" PING)" = PONG ]; }
redis_synced() { redis-cli -p "$1" INFO replication | grep -q 'master_link_status:up'; }
# Replication keeps the order: who has the last write has everything. (DBSIZE is an estimate beyond 100,000 keys.)
has_mark() { [ "$(redis-cli -p "$1" GET compare:end)" = "$2" ]; }

# benchmark PORT COUNT COMMAND...: one JSON object from redis-benchmark's CSV
benchmark() {
  local port=$1 count=$2
  shift 2
  redis-benchmark -p "$port" -n "$count" -c 50 -P 16 -r $keys --csv "$@" 2>/dev/null | tr -d '"\r' | tail -n 1 |
    awk -F, '{ if (NF < 8 || $(NF-6) + 0 <= 0) exit 1
      printf "{\"value\":%s,\"p50_us\":%.1f,\"p99_us\":%.1f}\n", $(NF-6), $(NF-3) * 1000, $(NF-1) * 1000 }' ||
    fail "redis-benchmark $*: no figures"
}

# measure WHO PRIMARY_PORT REPLICA_PORT: appends to WHO-set and WHO-get
measure() {
  local sets gets
  sets=$(awk -v s="$seconds" 'BEGIN { n = int(100000 * s); print n < 20000 ? 20000 : n }')
  gets=$((3 * sets))
  benchmark "$2" "$sets" SET key:__rand_int__ "$value" >>"$dir/$1-set.jsonl"
  redis-cli -p "$2" SET compare:end "$sets-$2" >/dev/null
  await 60 "$1: the replica has everything" has_mark "$3" "$sets-$2"
  benchmark "$3" "$gets" GET key:__rand_int__ >>"$dir/$1-get.jsonl"
}

redis_round() {
  local p=$1 r=$2
  mkdir "$dir/redis1" "$dir/redis2"
  redis-server --port "$p" --bind 127.0.0.1 --dir "$dir/redis1" --appendonly yes --appendfsync always --save '' \
    --logfile "$dir/redis1.log" --daemonize no >/dev/null & pid[redis1]=$!
  redis-server --port "$r" --bind 127.0.0.1 --dir "$dir/redis2" --appendonly yes --appendfsync always --save '' \
    --replicaof 127.0.0.1 "$p" --logfile "$dir/redis2.log" --daemonize no >/dev/null & pid[redis2]=$!
  await 20 "redis-server" redis_ok "$p"
  await 20 "the redis replica" redis_synced "$r"
  measure redis "$p" "$r"
  end redis2
  end redis1
  rm -rf "$dir"/redis1 "$dir"/redis2
}

dabbawal_round() {
  local p=$1 r=$2 listen
  listen=$(free_port)
  "$bin/dabbawal-primary" --data "$dir/dw1" --listen "127.0.0.1:$listen" --resp "127.0.0.1:$p" --mode async --durability disk \
    2>"$dir/dw1.log" & pid[dw1]=$!
  "$bin/dabbawal-follower" --data "$dir/dw2" --primary "127.0.0.1:$listen" --resp "127.0.0.1:$r" 2>"$dir/dw2.log" & pid[dw2]=$!
  await 20 "dabbawal-primary" redis_ok "$p"
  await 20 "dabbawal-follower" redis_synced "$r"
  measure dabbawal "$p" "$r"
  end dw2
  end dw1
  rm -rf "$dir"/dw1 "$dir"/dw2
}

compare_redis() {
  local i
  for tool in redis-server redis-benchmark redis-cli; do
    command -v $tool >/dev/null || { say "redis: $tool is not installed (apt-get install redis-server redis-tools): left out"; return; }
  done
  for ((i = 1; i <= rounds; i++)); do
    say "redis: round $i of $rounds"
    if ((i % 2)); then
      redis_round "$(free_port)" "$(free_port)"
      dabbawal_round "$(free_port)" "$(free_port)"
    else
      dabbawal_round "$(free_port)" "$(free_port)"
      redis_round "$(free_port)" "$(free_port)"
    fi
  done
  result redis l "SET, -c 50 -P 16, synced, one replica" "commands/s" dabbawal-primary "redis-server, AOF always" 1.0 \
    "$dir/dabbawal-set.jsonl" "$dir/redis-set.jsonl"
  result redis l "GET at the replica, -c 50 -P 16" "commands/s" dabbawal-follower "redis-server, replica" 0.5 \
    "$dir/dabbawal-get.jsonl" "$dir/redis-get.jsonl"
}

# ---- postgres ---------------------------------------------------------------------------------

as_postgres() {
  if [ "$(id -un)" = postgres ]; then "$@"; else runuser -u postgres -- "$@"; fi
}

postgres_up() { as_postgres "$pg/pg_isready" -q -h 127.0.0.1 -p "$1"; }
postgres_synced() {
  [ "$(as_postgres "$pg/psql" -h 127.0.0.1 -p "$1" -Atc "select sync_state from pg_stat_replication" postgres)" = sync ]
}

# The server's own process id: what we started is runuser.
postgres_start() {
  local name=$1
  as_postgres "$pg/postgres" -D "$dir/pg/$name" -p "$2" -k "$dir/pg" -c listen_addresses=127.0.0.1 >"$dir/$name.log" 2>&1 &
  await 60 "postgres $name" postgres_up "$2"
  pid[$name]=$(head -n 1 "$dir/pg/$name/postmaster.pid")
}

# pgbench counts whole seconds.
postgres_round() {
  as_postgres "$pg/pgbench" -n -h 127.0.0.1 -p "$2" -M prepared -c "$1" -j 2 -f "$dir/upsert.sql" \
    -T "$(awk -v s="$seconds" 'BEGIN { print s < 1 ? 1 : int(s + 0.5) }')" postgres >"$dir/pgbench.log" 2>&1 || fail pgbench
  awk '/^latency average/ { avg = $4 * 1000 } /^tps/ { tps = $3 } END { if (tps <= 0) exit 1
    printf "{\"value\":%s,\"average_us\":%s}\n", tps, avg }' "$dir/pgbench.log" >>"$dir/pg-$1.jsonl" || fail pgbench
}

embedded_round() {
  "$bin/bench_replicate" --json --rounds 1 --seconds "$seconds" --case "$2, in figures" 2>"$dir/replicate.log" |
    jq -c '{value: .ours.median, p50_us: .ours.p50_us, p99_us: .ours.p99_us}' >>"$dir/ours-$1.jsonl" || fail bench_replicate
}

compare_postgres() {
  local primary standby clients i name
  pg=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
  if [ ! -x "$pg/postgres" ] || [ ! -x "$pg/pgbench" ]; then
    say "postgres: not installed (apt-get install postgresql): left out"
    return
  fi
  if [ "$(id -un)" != postgres ] && [ "$(id -u)" != 0 ]; then
    say "postgres: has to run as the user postgres; only root can start it so: left out"
    return
  fi
  primary=$(free_port) standby=$(free_port)
  mkdir "$dir/pg"
  chown postgres "$dir/pg"
  cat >"$dir/upsert.sql" <<'SQL'
\set a random(1, 9000000000000000000)
\set b random(1, 9000000000000000000)
\set c random(1, 9000000000000000000)
\set d random(1, 9000000000000000000)
INSERT INTO kv VALUES (int8send(:a) || int8send(:b), int8send(:c) || int8send(:d) || int8send(:a::bigint # :c::bigint) || int8send(:b::bigint # :d::bigint) || int8send(:a::bigint # :d::bigint) || int8send(:b::bigint # :c::bigint) || '\x76767676767676767676767676767676767676767676767676767676767676767676767676767676767676767676767676767676'::bytea) ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v;
SQL
  say "postgres: a primary and a synchronous standby"
  as_postgres "$pg/initdb" -D "$dir/pg/primary" -A trust --no-sync >"$dir/initdb.log" 2>&1 || fail "initdb"
  cat >>"$dir/pg/primary/postgresql.conf" <<'CONF'
synchronous_commit = on
wal_level = replica
max_wal_size = 4GB
shared_buffers = 256MB
CONF
  postgres_start primary "$primary"
  as_postgres "$pg/psql" -q -h 127.0.0.1 -p "$primary" -c 'create table kv (k bytea primary key, v bytea)' postgres
  as_postgres "$pg/pg_basebackup" -D "$dir/pg/standby" -h 127.0.0.1 -p "$primary" -R -c fast >"$dir/basebackup.log" 2>&1 ||
    fail "pg_basebackup"
  postgres_start standby "$standby"
  as_postgres "$pg/psql" -q -h 127.0.0.1 -p "$primary" -c "alter system set synchronous_standby_names = '*'" -c 'select pg_reload_conf()' \
    postgres >/dev/null
  await 30 "the synchronous standby" postgres_synced "$primary"
  for clients in 1 8 32; do
    name="sync, DISK, $clients client$([ $clients = 1 ] || echo s)"
    for ((i = 1; i <= rounds; i++)); do
      say "postgres: $name, round $i of $rounds"
      ((i % 2)) || embedded_round $clients "$name"
      postgres_round $clients "$primary"
      ((i % 2 == 0)) || embedded_round $clients "$name"
    done
    result postgres d "$name" "commits/s" dabbawal "PostgreSQL, sync standby" 0 "$dir/ours-$clients.jsonl" "$dir/pg-$clients.jsonl"
  done
  end standby -INT
  end primary -INT
}

IFS=, read -r -a list <<<"$servers"
for server in "${list[@]}"; do
  case $server in
  redis | postgres) "compare_$server" ;;
  *) say "no comparison with '$server': redis, postgres"; exit 2 ;;
  esac
done
