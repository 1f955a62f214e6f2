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
stage() { lab/stage.sh "$@" || failed+=("$1"); }
molecule_stage() { stage "molecule $1" molecule test --no-command-borders --scenario-name "$1" --destroy never; }

lab/stage.sh "engine, images, artifacts" make -j2 images artifacts || exit 1
stage lint make lint
stage unit make unit
# In this order on the same machines: bare, provisioned, with another engine, bare again.
for scenario in blank_check robot decommission docker_engine; do molecule_stage "$scenario"; done
stage "removing the machines" ansible-playbook playbooks/lab/destroy.yml
lab/engine.sh stop

echo "== what took the time"
lab/stage.sh summary
if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
