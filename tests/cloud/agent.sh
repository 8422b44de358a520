#!/bin/sh
# Stands for Claude Code. Each run leaves its prompt in $RUNS/<n>, in the order in which they began; one that holds
# "please wait" goes on only when the file $GO exists. The answer names the word behind the last "say:" of the prompt.
case "$1" in --version | --help) echo 2.1.0; exit 0 ;; esac
umask 077
prompt=$(mktemp "$RUNS/.prompt.XXXXXX")
cat >"$prompt"
n=1
until ln "$prompt" "$RUNS/$n" 2>/dev/null; do n=$((n + 1)); done
session=00000000-0000-4000-8000-000000000000
printf '{"type":"system","subtype":"init","session_id":"%s"}\n' $session
if grep -q "please wait" "$prompt"; then
    while [ ! -e "$GO" ]; do sleep 0.05; done
fi
word=$(grep -o 'say:[a-z0-9]*' "$prompt" | tail -n 1 | cut -d: -f2)
printf '{"type":"result","subtype":"success","is_error":false,"result":"answer to %s","session_id":"%s"}\n' "$word" $session
