#!/usr/bin/env bash
# The README's embed example compiles and runs against an installed dabbawal: through pkg-config (shared and static) and through
# CMake's find_package.   usage: install_test.sh SOURCE_DIR BUILD_DIR
set -euo pipefail
source=$1
build=$2
dir=$(mktemp -d "${TMPDIR:-/tmp}/dw-install.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cmake --install "$build" --prefix "$dir/prefix" >/dev/null
# The first C block of the README, with its paths and port moved out of others' way.
awk '/^```c$/ {on=1; next} /^```$/ {on=0} on' "$source/README.md" |
  sed "s|/tmp/dabbawal-example|$dir/data|; s|127.0.0.1:7400|127.0.0.1:0|" >"$dir/example.c"
[ -s "$dir/example.c" ] || { echo "no C example in README.md"; exit 1; }
pc=$(dirname "$(find "$dir/prefix" -name dabbawal.pc)")
export PKG_CONFIG_PATH=$pc
libdir=$(pkg-config --variable=libdir dabbawal)

cd "$dir"
# shellcheck disable=SC2046
cc -std=c11 -Wall -Wextra -Werror example.c $(pkg-config --cflags --libs dabbawal) -Wl,-rpath,"$libdir" -o shared
./shared | grep -q 'LSN 1: Mumbai'
rm -rf data
# shellcheck disable=SC2046
cc example.c $(pkg-config --cflags dabbawal) "$libdir/libdabbawal.a" $(pkg-config --static --libs-only-l dabbawal | sed 's/-ldabbawal//') -o static
./static | grep -q 'LSN 1: Mumbai'
rm -rf data
cat >CMakeLists.txt <<'CMAKE'
cmake_minimum_required(VERSION 3.20)
project(example C)
find_package(dabbawal 0.1 REQUIRED)
add_executable(example example.c)
target_link_libraries(example PRIVATE dabbawal::dabbawal)
CMAKE
cmake -S . -B b -DCMAKE_PREFIX_PATH="$dir/prefix" >/dev/null
cmake --build b >/dev/null
./b/example | grep -q 'LSN 1: Mumbai'
# A C++ program can include the header too.
echo '#include <dabbawal.h>
int main() { return dw_rc_name(DW_OK)[0] == 68 ? 0 : 1; }' >header.cc
# shellcheck disable=SC2046
c++ header.cc $(pkg-config --cflags --libs dabbawal) -Wl,-rpath,"$libdir" -o header
./header
# Only dw_ names leave the shared library.
if nm -D --defined-only "$libdir/libdabbawal.so" | awk '{print $3}' | grep -v '^dw_'; then
  echo "names other than dw_* are exported"
  exit 1
fi
