#!/usr/bin/env bash
# Runs one stage of a longer work, and says how long it took and how all of them did.
#   lab/stage.sh NAME COMMAND...
#   lab/stage.sh summary
set -euo pipefail
log=.lab/stages
mkdir -p .lab

if [ "$1" = summary ]; then
  awk -F'\t' '{ printf "  %-24s %5d s\n", $1, $2; sum += $2 } END { printf "  %-24s %5d s\n", "in all", sum }' "$log"
  rm -f "$log"
  exit
fi

name=$1
shift
echo "== $name"
start=$SECONDS
status=0
"$@" || status=$?
printf '%s\t%d\n' "$name" $((SECONDS - start)) >>"$log"
echo "== $name: $([ $status = 0 ] && echo done || echo FAILED) in $((SECONDS - start)) s"
exit $status
