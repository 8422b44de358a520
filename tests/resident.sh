#!/usr/bin/env bash
# Writes src/packaging/resident.ld anew: which functions the daemon runs until it is at rest, and which ones in a turn.
# To be run when the code has changed a lot, on x86_64. Needs cargo, gcc with the static C library, and valgrind; takes as
# long as two release builds and four minutes.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$work/target}
# Not stripped: the functions are told by their names, those of the C library by the members of its archive.
cargo static --quiet --config profile.release.strip=false
cp "$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/release/bellhop" "$work/program"
nm "$work/program" >"$work/symbols"
nm -A --defined-only "$(gcc -print-file-name=libc.a)" 2>/dev/null | sed -nE 's/^.*libc\.a:([^:]+):[0-9a-f]+ [tTWi] /\1 /p' >"$work/members"
export BELLHOP_BENCH_DAEMON=$work/daemon

# Patterns for the names of what runs in a measurement of cargo bench. Functions with the same code have one address, so
# each has the names of all. What numbers the crates and the places within a name differs from compiler to compiler.
ran() {
    cat >"$BELLHOP_BENCH_DAEMON" <<EOF
#!/bin/sh
# The program does not start itself once more; it looks for CLIs, but for a turn, as it does where nothing names one.
export GLIBC_TUNABLES=
[ $1 = hub-turn ] || unset BELLHOP_CLAUDE_BIN
exec valgrind --quiet --tool=callgrind --demangle=no --compress-strings=no \\
    --callgrind-out-file=$work/ran.%p $work/program "\$@"
EOF
    chmod +x "$BELLHOP_BENCH_DAEMON"
    cargo bench --quiet -- "$@" >&2
    sed -nE "s/^c?fn=([A-Za-z0-9_.]+).*/\1/p" "$work"/ran.* | sort -u >"$work/names"
    rm "$work"/ran.*
    awk 'NR == FNR { ran[$1]; next } { at[$3] = $1 } $3 in ran { hot[$1] } END { for (n in at) if (at[n] in hot) print n }' \
        "$work/names" "$work/symbols" | grep '^_R' |
        sed -E 's/Cs[A-Za-z0-9]+_/C*_/g; s/B[A-Za-z0-9]{0,3}_/B*_/g; s/\.[0-9]+$/.*/; s/^/*(.text./; s/$/)/' | sort -u
    awk 'NR == FNR { ran[$1]; next } $2 in ran { print "*libc.a:" $1 "(.text .text.*)" }' "$work/names" "$work/members" | sort -u
}
{ ran idle && ran hub-idle; } | sort -u >"$work/resident"
ran hub-turn --quick | comm -13 "$work/resident" - >"$work/working"

section() {
    echo "  $1 : {"
    sed 's/^/    /' "$2"
    echo "  }"
}
{
    cat <<'EOF'
/* The order of the program's functions: first what a daemon with agents of a hub runs from its start until it is at rest,
   then what a turn takes, then all the rest. The system maps a file's pages 16 at a time around the one that was asked
   for; functions that lie scattered bring nearly all of the program into memory, these 1 MB of it. What is not found has
   no effect. Written by tests/resident.sh, by looking which functions run. */
SECTIONS
{
EOF
    section .text.resident "$work/resident"
    section .text.working "$work/working"
    echo "}"
    echo "INSERT BEFORE .text;"
} >src/packaging/resident.ld
echo "resident: $(wc -l <"$work/resident") functions at rest, $(wc -l <"$work/working") more in a turn"
