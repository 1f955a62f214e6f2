#!/usr/bin/env bash
# All tests, a stage each, with the time that each took. A stage that fails does not keep the next from running.
#   tests/run.sh         what CI runs
#   tests/run.sh soak    the same with larger numbers
set -uo pipefail
cd "$(dirname "$0")/.."
export ROVERWATCH_LAB=test NO_COLOR=1
[ "${1:-}" = soak ] && export ROVERWATCH_SOAK=1

rm -f .lab/stages
failed=()
stages=0
stage() {
  stages=$((stages + 1))
  lab/stage.sh "$@" || failed+=("$1")
}
molecule_stage() { stage "molecule $1" molecule test --no-command-borders --scenario-name "$1" --destroy never; }

lab/stage.sh "engine, images, artifacts" make -j2 images artifacts || exit 1
stage lint make lint
stage unit make unit
# Bare machines, whatever an interrupted run has left.
stage machines sh -c 'molecule destroy --no-command-borders && molecule create --no-command-borders &&
  molecule destroy --no-command-borders --scenario-name rolling_update'
# In this order on the same machines: bare, provisioned, cut off, with rules, bare again, with another engine.
for scenario in blank_check robot hub dead_zone host_firewall decommission docker_engine; do molecule_stage "$scenario"; done
stage "removing the machines" molecule destroy --no-command-borders
# It makes four robots of its own, and removes them.
stage "molecule rolling_update" molecule test --no-command-borders --scenario-name rolling_update
lab/engine.sh stop

echo "== what took the time"
lab/stage.sh summary
[ ${#failed[@]} -eq 0 ] || printf 'FAILED: %s\n' "${failed[@]}"
echo "stages: $((stages - ${#failed[@]})) passed, ${#failed[@]} failed"
exit $((${#failed[@]} > 0))
