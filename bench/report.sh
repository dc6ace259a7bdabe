#!/usr/bin/env bash
# Makes a report of the benches' JSON lines: a table, and plots with gnuplot.
# usage: report.sh RESULTS.jsonl PLOT_DIR REPORT.md SECONDS ROUNDS
set -euo pipefail
results=$1 plots=$2 report=$3 seconds=$4 rounds=$5

# Numbers for people: 3 digits that count, thousands separated.
# shellcheck disable=SC2016
format='
def round3: if . == 0 then 0 else (log10 | floor) as $d | if $d >= 3 then round
  else pow(10; 2 - $d) as $f | (. * $f | round) / $f end end;
def commas: tostring | if test("^[0-9]{4,}$") then [while(length > 0; .[:-3])] | reverse
  | [.[0]] + [range(1; length) as $i | .[$i][-3:]] | join(",") else . end;
def num: if . == null then "" else round3 | commas end;
'
goal='def goal: if .reach <= 0 then "" else (if .at_most then "≤ " else "≥ " end) + (.reach | num)
  + (if .reach_of == "value" then "" else "x" end) end;
def measured: if .reach_of == "value" then .ours.median else .ratio end;
def met: if .reach <= 0 or measured == null then "" elif .at_most == (measured <= .reach) or measured == .reach
  then "yes" else "**no**" end;'

rows=$(jq -r "$format $goal"'
  ["", .line, .bench + ": " + .case, (.ours.median | num) + " " + .unit,
   (if .theirs then (.theirs.median | num) + " (" + .theirs.name + ")" else "" end),
   (if .ratio then (.ratio | num) + "x (" + (.ratio_min | num) + " to " + (.ratio_max | num) + ")" else "" end),
   goal, met, ""] | join(" | ") | ltrimstr(" ") | rtrimstr(" ")' "$results")
latencies=$(jq -r "$format"'
  select(.ours.p50_us) | .bench as $b | .case as $c | (.ours, .theirs) | select(. and .p50_us)
  | ["", $b + ": " + $c, .name, (.p50_us | num), (.p99_us | num), (.p999_us | num), ""] | join(" | ") | ltrimstr(" ") | rtrimstr(" ")' "$results")
extras=$(jq -r "$format"'
  .bench as $b | .case as $c | (.ours, .theirs) | select(.) | .name as $n
  | [to_entries[] | select(.key | IN("name", "median", "rounds", "p50_us", "p99_us", "p999_us", "max_us") | not)
     | .key + " " + (.value | num)] | select(length > 0)
  | "| " + $b + ": " + $c + " | " + $n + " | " + join(", ") + " |"' "$results")

# Plots: per bench the ratios with their goals, and the latencies. Names are cut to fit.
jq -r '.bench' "$results" | awk '!seen[$0]++' | while read -r bench; do
  jq -r --arg b "$bench" 'select(.bench == $b and .ratio) | [.case[:38], .ratio, .ratio_min, .ratio_max,
    (if .reach > 0 and .reach_of == "ratio" then .reach else "NaN" end)] | @tsv' "$results" >"$plots/$bench-ratio.tsv"
  jq -r --arg b "$bench" 'select(.bench == $b and .ours.p50_us and .theirs.p50_us) | [.case[:38], .ours.p50_us, .ours.p99_us,
    .theirs.p50_us, .theirs.p99_us] | @tsv' "$results" >"$plots/$bench-latency.tsv"
  common='set terminal svg size 900,420 font "sans,11"; set datafile separator "\t"; set style fill solid 0.6;
    set xtics rotate by -30 font ",9"; set grid y; set key top left; set bmargin 8;'
  [ -s "$plots/$bench-ratio.tsv" ] && gnuplot -e "$common set output '$plots/$bench-ratio.svg'; set boxwidth 0.5;
    set title 'bench_$bench: ratio of medians, smallest and largest pair'; set yrange [0:*]; set xrange [-0.6:*];
    plot '$plots/$bench-ratio.tsv' using 0:2:xtic(1) with boxes lc rgb '#4477aa' title 'ours / theirs',
      '' using 0:2:3:4 with yerrorbars lc rgb '#222222' notitle,
      '' using 0:5 with points pt 9 ps 1.5 lc rgb '#cc3311' title 'goal'"
  [ -s "$plots/$bench-latency.tsv" ] && gnuplot -e "$common set output '$plots/$bench-latency.svg';
    set style data histogram; set style histogram clustered gap 1; set logscale y; set ylabel 'us';
    set title 'bench_$bench: latency';
    plot '$plots/$bench-latency.tsv' using 2:xtic(1) lc rgb '#4477aa' title 'ours p50', '' using 3 lc rgb '#99bbdd' title 'ours p99',
      '' using 4 lc rgb '#aa6644' title 'theirs p50', '' using 5 lc rgb '#ddaa88' title 'theirs p99'"
  true
done

{
  cat <<TEXT
# Benches

$(date -u '+%Y-%m-%d %H:%M UTC'), $(nproc) cores, $(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1), $(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release), load average $(cut -d' ' -f1-3 /proc/loadavg).
$seconds s a side, $rounds pair(s), alternating; medians; in brackets the smallest and the largest pair. Only ratios count: absolute figures are this machine's.

| goal | question | dabbawal | other side | ratio | to reach | reached |
|---|---|---|---|---|---|---|
$rows
TEXT
  if [ -n "$latencies" ]; then
    printf '\n## Latency of single operations, us\n\n| case | side | p50 | p99 | p99.9 |\n|---|---|---|---|---|\n%s\n' "$latencies"
  fi
  if [ -n "$extras" ]; then
    printf '\n## Beside the figures\n\n| case | side | |\n|---|---|---|\n%s\n' "$extras"
  fi
  printf '\n## Plots\n\n'
  for svg in "$plots"/*.svg; do
    [ ! -f "$svg" ] || printf '![%s](%s)\n' "$(basename "$svg" .svg)" "$(basename "$plots")/$(basename "$svg")"
  done
} >"$report"
