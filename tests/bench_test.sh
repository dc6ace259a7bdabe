#!/usr/bin/env bash
# One bench, shortly: it runs through, its output is valid JSON, and each figure is one that can be true. Nothing is
# said about speed. Without a name: run.sh's report of two benches.
# usage: bench_test.sh SOURCE_DIR BIN_DIR [NAME [FLAGS...]]
set -euo pipefail
source=$1 bin=$2 name=${3:-}
dir=$(mktemp -d "${TMPDIR:-/tmp}/dabbawal-bench-test.XXXXXX")
trap 'rm -rf "$dir"' EXIT
export TMPDIR=$dir
fail() {
  echo "bench_test: $*" >&2
  [ ! -s "$dir/err" ] || tail -n 15 "$dir/err" >&2
  exit 1
}

if [ -z "$name" ]; then
  bash "$source/bench/run.sh" --bin "$bin" --out "$dir" --seconds 0.1 --only lag,recover >"$dir/out" 2>"$dir/err" || fail "run.sh failed"
  for want in '| g | lag: visibility lag, OS' '| j | recover: records replayed' '## Latency of single operations' \
    '![lag-ratio](report/lag-ratio.svg)' '| ≤ 20 |'; do
    grep -qF "$want" "$dir/report.md" || fail "the report lacks: $want"
  done
  grep -q '</svg>' "$dir/report/lag-ratio.svg" || fail "no plot"
  ! bash "$source/bench/run.sh" --bin "$bin" --out "$dir" --only nonsense >/dev/null 2>&1 || fail "a bench called nonsense ran"
  exit 0
fi
shift 3
"$bin/bench_$name" --seconds 0.2 --rounds 1 --segment-mb 4 --json "$@" >"$dir/out" 2>"$dir/err" || fail "bench_$name failed"
[ -s "$dir/out" ] || fail "no results"
grep -q "^bench_$name: .*round 1 of 1" "$dir/err" || fail "no progress was shown"
# Rates, times and sizes are positive and below what any machine does; percentiles are in order; a ratio is that of its sides.
jq -es --arg name "$name" '
  def plausible: type == "number" and . > 0 and . < 1e10;
  def side: (.name | length > 0) and (.median | plausible) and (.rounds | length == 1 and all(plausible))
    and ((has("p50_us") | not) or (.p50_us > 0 and .p50_us <= .p99_us and .p99_us <= .p999_us and .p999_us <= .max_us * 1.01));
  length > 0 and all(.[]; .bench == $name and (.case | length > 0) and (.unit | length > 0) and (.ours | side)
    and (.theirs == null or ((.theirs | side) and (.ratio * .theirs.median / .ours.median | . > 0.99 and . < 1.01))))
' "$dir/out" >/dev/null || { cat "$dir/out" >&2; fail "bench_$name: implausible or invalid JSON"; }
[ -z "$(find "$dir" -mindepth 1 -maxdepth 1 -type d)" ] || fail "a scratch directory is left"
