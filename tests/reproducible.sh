#!/usr/bin/env bash
# Builds the release file twice, from copies of what git knows in two directories of different depth, and compares the
# bytes. Needs cargo and git; takes as long as two release builds.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for copy in one two/deeper; do
    mkdir -p "$work/$copy"
    git ls-files -z | tar --create --null --files-from=- | tar --extract --directory="$work/$copy"
    cargo build --release --locked --quiet --manifest-path="$work/$copy/Cargo.toml" --target-dir="$work/$copy/target"
done
one=$work/one/target/release/bellhop
two=$work/two/deeper/target/release/bellhop
cmp "$one" "$two" || { echo "reproducible: the two builds differ" >&2; exit 1; }
if grep --quiet --fixed-strings "$work" "$one"; then
    echo "reproducible: the release file names the directory it was built in" >&2
    exit 1
fi
echo "reproducible: $(sha256sum <"$one" | cut -d ' ' -f 1), twice"
