#!/usr/bin/env bash
# Checks what is released: the size of the program and its memory at rest, the Debian package, the units, the manual
# pages, the completions. A tool that is missing is named, and its check left out. Writes only below the target directory.
set -euo pipefail
cd "$(dirname "$0")/.."

# Most bytes that the release file may have. The goal is 4500000; until it is met this keeps it from growing further.
limit=6300000
# Most memory, in kB, of a daemon at rest. It has 4600 to 5900 where the linker orders the functions, by
# how much has changed since src/packaging/resident.ld was written, and 7000 where it does not.
memory=6500

fail() { echo "package: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null || { echo "package: no $1 here, its check is left out"; return 1; }; }

cargo build --release --quiet
program=${CARGO_TARGET_DIR:-target}/release/bellhop
size=$(stat -c %s "$program")
[ "$size" -le "$limit" ] || fail "the release file has $size bytes, more than $limit"
echo "package: the release file has $size bytes (at most $limit)"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$program" --home "$work/home" start >"$work/log" 2>&1 &
sleep 3
resident=$(awk '/^VmRSS/ { print $2 }' /proc/$!/status) || { cat "$work/log" >&2; fail "the daemon does not run"; }
kill $!
wait $! || true
[ "$resident" -le "$memory" ] || fail "a daemon at rest has $resident kB of memory, more than $memory"
echo "package: a daemon at rest has $resident kB of memory (at most $memory)"

if have dpkg-shlibdeps; then
    deb=$(src/packaging/deb.sh "$program")
    echo "package: $deb built"
    if have lintian; then
        lintian --fail-on error,warning --tag-display-limit 0 "$deb" 2>"$work/lintian" || { cat "$work/lintian" >&2; fail "lintian"; }
        echo "package: lintian finds no errors and no warnings"
    fi
fi

if have systemd-analyze; then
    # The unit has to name a program that is there.
    for unit in bellhop.service bellhop.user.service; do
        sed "s,@PROGRAM@,$(realpath "$program")," "src/packaging/$unit" >"$work/$unit"
        SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no "$work/$unit" >"$work/verify" 2>&1 || { cat "$work/verify" >&2; fail "$unit"; }
        ! [ -s "$work/verify" ] || { cat "$work/verify" >&2; fail "$unit"; }
    done
    # Thresholds are in tenths.
    while read -r unit most; do
        systemd-analyze security --offline=yes --no-pager --threshold="$most" "$work/$unit" >"$work/security" 2>&1 \
            || { tail -n 1 "$work/security" >&2; fail "$unit is more exposed than $most tenths"; }
        echo "package: $unit: $(tail -n 1 "$work/security" | tr -d '→' | sed 's/^ *//')"
    done <<<'bellhop.service 15
bellhop.user.service 25'
fi

if have mandoc; then
    mandoc -Tlint man/* >"$work/mandoc" || true
    ! [ -s "$work/mandoc" ] || { cat "$work/mandoc" >&2; fail "mandoc -Tlint"; }
    echo "package: mandoc -Tlint is content"
fi
if have man; then
    for page in man/*; do
        LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 "$page" 2>&1 >/dev/null | grep . && fail "man -l $page"
    done
    echo "package: man -l renders the pages without warnings"
fi

"$program" completions bash >"$work/bash"
"$program" completions zsh >"$work/_bellhop"
"$program" completions fish >"$work/fish"
if have bash; then
    bash -euc 'source "$1"; complete -p bellhop >/dev/null; COMP_WORDS=(bellhop sen); COMP_CWORD=1
        _bellhop; [ "${COMPREPLY[*]}" = send ]' - "$work/bash" || fail "the completion for bash"
fi
if have zsh; then
    zsh -fc 'fpath=($1 $fpath); autoload -U compinit; compinit -u -d $1/dump; [[ ${_comps[bellhop]} == _bellhop ]] && autoload +X _bellhop' \
        - "$work" || fail "the completion for zsh"
fi
if have fish; then
    [ "$(HOME=$work fish --no-config -c "source $work/fish; complete -C 'bellhop sen'" | cut -f 1)" = send ] \
        || fail "the completion for fish"
fi
echo "package: completions load"
