#!/bin/sh
# Becomes one process of this app: `run 'command line'`, or `run program argument...`.
app=$(cd "$(dirname "$0")/.." && pwd) || exit 1
cd "$app" || exit 1
HOME=$app
export HOME
for profile in .profile.d/*.sh; do
    # shellcheck disable=SC1090
    [ -r "$profile" ] && . "./$profile"
done
[ "$#" -ne 1 ] && exec "$@"
case $1 in
# A line of several commands needs a shell; of a single one the shell becomes the program, so that signals reach it.
*[\;\&\|\<\>\(\)\`]* | *'
'*) exec /bin/sh -c "$1" ;;
esac
case ${1%%[[:space:]]*} in
exec) eval "$1" ;;
*=*) eval "exec env $1" ;;
*) eval "exec $1" ;;
esac
