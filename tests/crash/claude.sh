#!/bin/sh
# Stands for Claude Code. The prompt has a line `job <id> <kind>`; the kind says what is done:
#   fast    answers at once
#   slow    says four things first
#   tool    starts a tool in a session of its own and goes on as slow
#   wait    says something, then waits until the file $GO exists
# Any other kind is a file in the directory of this script that is run in place of an answer.
# $LEDGER gets `start <life of the daemon> <turn> <id> <yes if told of an interruption>` and `end <turn>`.
session=00000000-0000-4000-8000-000000000000
id=none kind=fast told=no
while IFS= read -r line || [ -n "$line" ]; do
    case $line in
    "[BotCord Interrupted Turn Notice]") told=yes ;;
    "job "*) rest=${line#job } id=${rest%% *} kind=${rest#* } ;;
    esac
done
# The daemon was killed before it had said anything.
[ $id = none ] && exit 1
echo "start $LIFE $BELLHOP_TURN $id $told" >>"$LEDGER"
says() {
    printf '{"type":"assistant","message":{"content":[{"type":"text","text":"%s"}]},"session_id":"%s"}\n' "$1" $session
}
printf '{"type":"system","subtype":"init","session_id":"%s"}\n' $session
case $kind in
fast) ;;
slow | tool)
    [ $kind = tool ] && setsid sleep 1000 >/dev/null 2>&1 </dev/null &
    for n in 1 2 3 4; do
        says "part $n"
        sleep 0.05
    done
    ;;
wait)
    says waiting
    while [ ! -e "$GO" ]; do sleep 0.05; done
    ;;
*) . "${0%/*}/$kind" ;;
esac
echo "end $BELLHOP_TURN" >>"$LEDGER"
printf '{"type":"result","subtype":"success","is_error":false,"result":"answer to %s","session_id":"%s"}\n' $id $session
