#!/bin/sh
# Stands for Claude Code. What it does stands in the prompt: "please draw" streams words and a tool call and leaves a
# picture, "please wait" goes on when the file $GO exists, "please fail" fails. Otherwise it answers with the last word.
# Each run leaves its prompt in $RUNS/<n>, what it is told besides in $RUNS/<n>.context.
umask 077
prompt=$(mktemp "$RUNS/.prompt.XXXXXX")
cat >"$prompt"
n=1
until ln "$prompt" "$RUNS/$n" 2>/dev/null; do n=$((n + 1)); done
while [ $# -gt 0 ]; do
    case $1 in
    --append-system-prompt) printf '%s' "$2" >"$RUNS/$n.context" ;;
    --append-system-prompt-file) cp "$2" "$RUNS/$n.context" ;;
    esac
    shift
done
session=00000000-0000-4000-8000-000000000000
word=$(tail -n 1 "$prompt" | sed 's/.* //; s/[^a-zA-Z0-9]//g')
for known in draw wait fail; do
    if grep -q "please $known" "$prompt"; then word=$known; fi
done
say() { printf '{"type":"assistant","message":{"content":[%s]},"session_id":"%s"}\n' "$1" $session; }
end() { printf '{"type":"result","subtype":"success","is_error":false,"result":"%s","session_id":"%s"}\n' "$1" $session; }
printf '{"type":"system","subtype":"init","session_id":"%s"}\n' $session
case $word in
draw)
    mkdir -p out
    printf 'picture' >out/cover.png
    say '{"type":"text","text":"I draw. "}'
    say '{"type":"tool_use","id":"t1","name":"Bash","input":{"command":"draw","api_key":"sk-1234567890abcdef"}}'
    printf '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"done"}]}}\n'
    say '{"type":"text","text":"Here it is."}'
    end 'Here it is: out/cover.png'
    ;;
wait)
    while [ ! -e "$GO" ]; do sleep 0.05; done
    end "answer to $word"
    ;;
fail)
    echo "it broke" >&2
    exit 3
    ;;
*) end "answer to $word" ;;
esac
