#!/usr/bin/env bash
# Every measurement that the documents quote, on the running demo. Results go to bench/results/, and the tables of
# docs/performance.md are written from them.
set -euo pipefail
cd "$(dirname "$0")/.."
python bench/fleet.py
