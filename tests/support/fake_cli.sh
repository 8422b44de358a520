#!/bin/sh
# Stands for an agent CLI: notes its arguments and does what the script `play` in $FAKE_CLI says.
# Asked about itself outside of a run, it looks like the newer of the CLIs that have changed.
[ -n "$FAKE_CLI" ] || { [ "$1" = --help ] && echo "Options: --prompt <text>"; exit 0; }
dir=$FAKE_CLI
printf '%s\n' "$@" >"$dir/argv"
. "$dir/play"
