#!/usr/bin/env bash
# Every measurement that the documents quote: the sensor service by itself, the rest on the running demo. Results go to
# bench/results/, and the tables of docs/performance.md are written from them.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m bench.sensor
python -m bench.fleet
python -m bench.controller
python -m bench.wire
python -m bench.blocks
python -m bench.hub
PYTHONPATH=tests:collections python -m bench.rollout
PYTHONPATH=collections python -m bench.firewall
