#!/usr/bin/env bash
# Proves that the simulator can see: each patch in this folder is a deliberate bug; a simulator built with it must find a
# violation within SEEDS seeds. A patch that does not apply any more, does not compile, or is not caught fails the run.
#
# usage: run.sh BUILD_INFO [NAME...]     BUILD_INFO: written by CMake, says how the simulator was built
# Production files are copied, patched and compiled beside the build; only they are linked anew.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=/dev/null
. "$1" # CC FLAGS OBJECTS LIBS SOURCE
shift
seeds=${SEEDS:-2000}
work=$(mktemp -d "${TMPDIR:-/tmp}/dw-mutants.XXXXXX")
trap 'rm -rf "$work"' EXIT
bad=0 caught=0

mutant() {
  local name=$1 patch=$here/$1.patch dir=$work/$1 file obj objects=() out line o
  mkdir -p "$dir"
  file=$(sed -n 's#^+++ b/##p' "$patch")
  if [ -z "$file" ] || [ "$(wc -l <<<"$file")" != 1 ]; then
    echo "mutant $name: one patched file expected, found: $file"
    return 1
  fi
  mkdir -p "$dir/$(dirname "$file")"
  cp "$SOURCE/$file" "$dir/$file"
  if ! out=$(patch -s -p1 -F1 -d "$dir" <"$patch" 2>&1); then
    echo "mutant $name: the patch does not apply to $file any more: $out"
    return 1
  fi
  # shellcheck disable=SC2086
  if ! out=$($CC $FLAGS -Wno-error -w -std=c17 -I"$SOURCE" -c "$dir/$file" -o "$dir/mutant.o" 2>&1); then
    echo "mutant $name: does not compile: $out"
    return 1
  fi
  for o in $OBJECTS; do
    case $o in
    *"/$file.o") obj=$o ;;
    *) objects+=("$o") ;;
    esac
  done
  if [ -z "${obj:-}" ]; then
    echo "mutant $name: $file is no part of the simulator"
    return 1
  fi
  # shellcheck disable=SC2086
  if ! out=$($CC $FLAGS "${objects[@]}" "$dir/mutant.o" -o "$dir/sim" $LIBS 2>&1); then
    echo "mutant $name: does not link: $out"
    return 1
  fi
  timeout 300 "$dir/sim" --count "$seeds" --label "mutant $name: " >"$dir/out" 2>&1
  local rc=$?
  line=$(grep -m1 VIOLATION "$dir/out")
  rm -f "$dir/sim"
  if [ -n "$line" ]; then
    echo "${line/VIOLATION/caught at} " | cut -c1-200
  elif [ $rc != 0 ]; then
    echo "mutant $name: caught: the program died ($(grep -m1 -E 'ssert|ERROR' "$dir/out" || echo "status $rc"))" | cut -c1-200
  else
    echo "mutant $name: NOT CAUGHT within $seeds seeds"
    return 1
  fi
}

[ $# -gt 0 ] || set -- $(cd "$here" && ls ./*.patch | sed 's#^\./##; s#\.patch$##')
for name in "$@"; do
  if mutant "$name"; then caught=$((caught + 1)); else bad=$((bad + 1)); fi
done
echo "$caught mutants caught, $bad not"
[ $bad = 0 ] && [ $caught -gt 0 ]
