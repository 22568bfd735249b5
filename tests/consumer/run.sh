#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Somebody else's project: cotun as a Meson subproject. Only the library may be built, Catch2 not even looked for, and no
# header of liburing reached. The program on the README's first screen is built, too. Usage: run.sh SOURCE_ROOT
set -eu
for program in meson ninja; do
    command -v "$program" >/dev/null || { echo "no $program here"; exit 77; }
done
source=$1
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT INT TERM
mkdir "$here/subprojects"
ln -s "$source" "$here/subprojects/cotun"
cat >"$here/meson.build" <<'END'
project('consumer', 'cpp', default_options: ['cpp_std=c++20', 'werror=true', 'warning_level=3'])
cotun = dependency('cotun', version: '>=0.1', fallback: 'cotun')
executable('consumer', 'consumer.cpp', dependencies: cotun)
executable('readme', 'readme.cpp', dependencies: cotun)
END
cat >"$here/consumer.cpp" <<'END'
#include <cotun/cotun.hpp>
#if defined(LIB_URING_H)
#error "a public header reaches liburing"
#endif
static cotun::task<int> answer() { co_return 42; }
int main() {
    try {
        cotun::reactor io;
        return io.run(answer()) == 42 ? 0 : 1;
    } catch (const std::system_error& refused) { // no io_uring here: built and linked is what counts
        return 0;
    }
}
END
awk '/^```/ { if (inside) exit; } /^```cpp/ { inside = 1; next } inside' "$source/README.md" >"$here/readme.cpp"
meson setup --buildtype=plain "$here/build" "$here" >"$here/log" 2>&1 || { cat "$here/log"; exit 1; }
if grep -i "catch2.*found:" "$here/log"; then echo "the consumer's build looks for Catch2"; exit 1; fi
ninja -C "$here/build" >"$here/log" 2>&1 || { cat "$here/log"; exit 1; }
"$here/build/consumer"
made=$(find "$here/build" -type f -perm -u+x ! -name '*.so*' ! -path '*/meson-private/*' | wc -l)
[ "$made" -eq 2 ] || { echo "other programs than the consumer's own were built:"; find "$here/build" -type f -perm -u+x; exit 1; }
