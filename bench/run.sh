#!/usr/bin/env bash
# Runs the benches one after the other and writes bench/report.md with plots. Called by `./dw bench`.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

# The order is that of the table of goals.
names=(commit replicate lag catchup read recover wire memory fanout)

usage() {
  cat <<TEXT
usage: ./dw bench [options]

  --only NAME[,NAME]   only these: ${names[*]}
  --seconds N          how long one side measures (0.5; --long: 3)
  --rounds N           pairs of which medians are shown (1; --long: 5)
  --long               the sizes that the goals name: about an hour; wants a quiet machine
  --compare LIST       besides, these servers on the same workload, if installed: redis,postgres
  --plots LIST         none of the above: the plots of docs/performance.md: followers,value,backlog; ten minutes
  --bin DIR            where the programs are (build/release)
  --out DIR            where the report goes (bench)

A short round shows that everything runs; its figures mean little. Results: DIR/report.md, plots and JSON in DIR/report/.
One program by hand: build/release/bench_commit --help
TEXT
}

only="" seconds="" rounds="" long=0 compare="" plots="" bin=build/release out=bench
while [ $# -gt 0 ]; do
  case $1 in
  --only | --seconds | --rounds | --compare | --plots | --bin | --out)
    [ $# -gt 1 ] || { echo "bench: $1 needs a value" >&2; exit 2; }
    printf -v "${1#--}" '%s' "$2"
    shift
    ;;
  --long) long=1 ;;
  --help | -h) usage; exit 0 ;;
  *) echo "bench: unknown option $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
if [ $long = 1 ]; then
  seconds=${seconds:-3} rounds=${rounds:-5}
else
  seconds=${seconds:-0.5} rounds=${rounds:-1}
fi
if [ -n "$only" ]; then
  IFS=, read -r -a wanted <<<"$only"
  for name in "${wanted[@]}"; do
    [[ " ${names[*]} " = *" $name "* ]] || { echo "bench: no bench is called '$name': ${names[*]}" >&2; exit 2; }
  done
  names=("${wanted[@]}")
fi
for tool in jq gnuplot; do
  command -v $tool >/dev/null || { echo "bench: $tool is missing: ./dw setup" >&2; exit 1; }
done

if [ -n "$plots" ]; then
  [ "$out" != bench ] || out=docs/performance
  exec bash bench/plots.sh --bin "$bin" --out "$out" --seconds "${seconds}" --rounds "$rounds" --plots "$plots"
fi

# What --long adds: sizes as in the goals.
long_flags() {
  [ $long = 1 ] || return 0
  case $1 in
  catchup) echo --records 5000000 ;;
  recover) echo --records 14000000 ;;
  read) echo --records 2000000 ;;
  memory) echo --records 5000000 ;;
  esac
}

plots=$out/report
mkdir -p "$plots"
rm -f "$plots"/*.svg "$plots"/*.tsv
results=$plots/results.jsonl
: >"$results"
failed=()
for name in "${names[@]}"; do
  # shellcheck disable=SC2046
  "$bin/bench_$name" --json --seconds "$seconds" --rounds "$rounds" $(long_flags "$name") >>"$results" || failed+=("$name")
done
if [ -n "$compare" ]; then
  bash bench/compare.sh --bin "$bin" --seconds "$seconds" --rounds "$rounds" --servers "$compare" >>"$results" || failed+=("compare")
fi
bash bench/report.sh "$results" "$plots" "$out/report.md" "$seconds" "$rounds"
if [ ${#failed[@]} -gt 0 ]; then
  echo "bench: failed: ${failed[*]}" >&2
  exit 1
fi
echo "$out/report.md"
