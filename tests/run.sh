#!/usr/bin/env bash
# All tests, a stage each, with the time that each took. A stage that fails does not keep the next from running.
#   tests/run.sh         what CI runs
#   tests/run.sh soak    the same with larger numbers
# ONLY=hub,robot in the environment runs these alone.
set -uo pipefail
cd "$(dirname "$0")/.."
export ROVERWATCH_LAB=test NO_COLOR=1
[ "${1:-}" = soak ] && export ROVERWATCH_SOAK=1

# In this order on the same machines: bare, provisioned, cut off, with rules, bare again, with another engine.
shared=(blank_check robot hub dead_zone host_firewall decommission docker_engine)
# It makes four robots of its own, and removes them.
own=(rolling_update)
all=(lint unit "${shared[@]}" "${own[@]}")

read -ra only <<<"${ONLY:+${ONLY//,/ }}"
[ ${#only[@]} -gt 0 ] || only=("${all[@]}")
for name in "${only[@]}"; do
  if [[ " ${all[*]} " != *" $name "* ]]; then
    echo "ONLY: there is no stage $name; there are: ${all[*]}" >&2
    exit 2
  fi
done
wanted() { [[ " ${only[*]} " == *" $1 "* ]]; }

rm -f .lab/stages
failed=()
stages=0
stage() {
  stages=$((stages + 1))
  lab/stage.sh "$@" || failed+=("$1")
}
molecule_stage() { stage "molecule $1" molecule test --no-command-borders --scenario-name "$1" --destroy never; }
# Bare machines, whatever an interrupted run has left.
bare_machines() {
  molecule destroy --no-command-borders && molecule create --no-command-borders &&
    molecule destroy --no-command-borders --scenario-name rolling_update
}
export -f bare_machines # for lab/stage.sh, which runs it

[ "${only[*]}" = lint ] || lab/stage.sh "engine, images, artifacts" make -j2 images lab-artifacts || exit 1
wanted lint && stage lint make lint
wanted unit && stage unit make unit
machines=
for scenario in "${shared[@]}"; do
  wanted "$scenario" || continue
  if [ -z "$machines" ]; then
    machines=made
    stage machines bare_machines
  fi
  molecule_stage "$scenario"
done
[ -z "$machines" ] || stage "removing the machines" molecule destroy --no-command-borders
for scenario in "${own[@]}"; do
  wanted "$scenario" && stage "molecule $scenario" molecule test --no-command-borders --scenario-name "$scenario"
done
lab/engine.sh stop

echo "== what took the time"
lab/stage.sh summary
[ ${#failed[@]} -eq 0 ] || printf 'FAILED: %s\n' "${failed[@]}"
echo "stages: $((stages - ${#failed[@]})) passed, ${#failed[@]} failed"
exit $((${#failed[@]} > 0))
