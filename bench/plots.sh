#!/usr/bin/env bash
# How cost grows with followers, value size and backlog: the plots of docs/performance.md, one SVG and its table (TSV)
# each. Called by `./dw bench --plots LIST`; each plot takes one to four minutes.
# usage: plots.sh --bin DIR --out DIR --seconds N --rounds N --plots LIST
set -euo pipefail
bin=build/release out=docs/performance seconds=1 rounds=1 plots=followers,value,backlog
while [ $# -gt 1 ]; do
  printf -v "${1#--}" '%s' "$2"
  shift 2
done
mkdir -p "$out"

errors=$(mktemp "${TMPDIR:-/tmp}/dabbawal-plots.XXXXXX")
trap 'rm -f "$errors"' EXIT

# measure NAME FLAGS...: the result of a bench, one JSON object
measure() {
  local name=$1
  shift
  echo "plots: bench_$name $*" >&2
  "$bin/bench_$name" --json --seconds "$seconds" --rounds "$rounds" "$@" 2>"$errors" || { tail -n 3 "$errors" >&2; return 1; }
}

# draw NAME TITLE GNUPLOT: an SVG of out/NAME.tsv, whose first line is a comment
draw() {
  gnuplot -e "set terminal svg size 720,400 font 'sans,11'; set output '$out/$1.svg'; set datafile separator '\t';
    set title '$2'; set grid; set key left top; set style data linespoints; set pointsize 0.7; t = '$out/$1.tsv'; $3"
}

plot_followers() {
  local n case row
  printf '# followers\tOS, slow links\tDISK, slow links\tOS, fast links\n' >"$out/followers.tsv"
  for n in 2 4 8 16 32 64; do
    row=$n
    for case in "OS, slow links" "DISK, slow links" "OS, fast links"; do
      row+=$'\t'$(measure fanout --followers "$n" --case "$case" | jq .ratio)
    done
    printf '%s\n' "$row" >>"$out/followers.tsv"
  done
  draw followers "Commits/s with n followers over those with one" "set logscale x 2; set xlabel 'followers'; set yrange [0:1.5];
    set key left bottom; plot t using 1:2 title 'OS, links of 1 MB/s', '' using 1:3 title 'DISK, links of 1 MB/s',
    '' using 1:4 title 'OS, as fast as loopback is', 0.5 with lines dt 2 lc rgb '#999999' title 'goal'"
}

plot_value() {
  local v
  printf '# value bytes\tdabbawal commits/s\ttailer commits/s\n' >"$out/value.tsv"
  for v in 24 100 400 1600 6400 25600; do
    measure replicate --value-bytes $v --case "async, OS, 1,000 in flight, until applied" |
      jq -r --argjson v $v '[$v, .ours.median, .theirs.median] | @tsv' >>"$out/value.tsv"
  done
  draw value "Asynchronous replication until applied, by value size" "set logscale xy; set xlabel 'bytes of a value';
    set ylabel 'MB of keys and values a second'; plot t using 1:(\$2*(\$1+16)/1e6) title 'dabbawal, 1,000 in flight',
    '' using 1:(\$3*(\$1+16)/1e6) title 'RocksDB tailer, 4 clients'"
}

plot_backlog() {
  local n
  printf '# records\tcatch-up s\topen s\tRocksDB opens s\n' >"$out/backlog.tsv"
  for n in 250000 500000 1000000 2000000 3000000; do
    { measure catchup --records $n --case "catch-up of"; measure recover --records $n --case "time to open" | head -n 1; } |
      jq -rs --argjson n $n '[$n, .[0].ours.seconds, .[1].ours.median, .[1].theirs.median] | @tsv' >>"$out/backlog.tsv"
  done
  draw backlog "Seconds to work off a backlog" "set xlabel 'millions of records'; set ylabel 's'; set xrange [0:*]; set yrange [0:*];
    plot t using (\$1/1e6):2 title 'a follower catches up, from the start of its process',
    '' using (\$1/1e6):3 title 'open after kill -9', '' using (\$1/1e6):4 title 'RocksDB opens with its own WAL'"
}

IFS=, read -r -a list <<<"$plots"
for plot in "${list[@]}"; do
  case $plot in
  followers | value | backlog) "plot_$plot" ;;
  *) echo "plots: no plot is called '$plot': followers, value, backlog" >&2; exit 2 ;;
  esac
done
