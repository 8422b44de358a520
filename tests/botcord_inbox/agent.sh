#!/bin/sh
# Stands for Claude Code. Each run leaves its prompt in $RUNS/<n>, in the order in which they began; one that holds
# "please wait" goes on only when the file $GO exists. The answer is the last word of the prompt's last line with a ".".
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
word=$(tail -n 1 "$prompt" | sed 's/.* //; s/[^a-zA-Z0-9]//g')
printf '{"type":"result","subtype":"success","is_error":false,"result":"answer to %s","session_id":"%s"}\n' "$word" $session
