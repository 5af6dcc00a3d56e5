#!/bin/sh
# Hands a push to the receiver that runs git, and shows what it says. The receiver decides: a ref changes only when this
# ends with 0. Two named pipes in $FLYNN_PUSH lead there and back.
[ -n "$FLYNN_PUSH" ] || { echo "pushes go through the receiver" >&2; exit 1; }
# Opened first, so that nothing of the answer is missed.
exec 3<"$FLYNN_PUSH/answer" || exit 1
{
    # What was pushed is not part of the repository yet: these say where it is.
    for name in GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES GIT_QUARANTINE_PATH GIT_SHALLOW_FILE; do
        eval "value=\${$name-}"
        [ -z "$value" ] || echo "env $name=$value"
    done
    while read -r line; do echo "update $line"; done
    echo end
} >"$FLYNN_PUSH/request" || exit 1
cat <&3
status=1
[ ! -f "$FLYNN_PUSH/status" ] || read -r status <"$FLYNN_PUSH/status"
exit "$status"
