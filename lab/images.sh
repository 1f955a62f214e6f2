#!/usr/bin/env bash
# The images of the lab's machines: roverwatch-lab/<suite>:bare, a Debian with systemd and sshd and no
# container engine, and roverwatch-lab/<suite>:podman, the same with podman, as robot vendors ship it.
# Built once, both suites at the same time; a change of lab/Dockerfile builds them again.
#   lab/images.sh [suite...]
set -euo pipefail
cd "$(dirname "$0")"

# Debian's official image where a registry answers, one made from Debian's mirror where none does.
base() {
  local suite=$1 image=roverwatch-lab/base:$1
  if [ -n "$(docker image ls -q "$image")" ]; then
    return
  fi
  if timeout 60 docker pull -q "debian:$suite-slim" >/dev/null 2>&1; then
    docker tag "debian:$suite-slim" "$image"
    echo "base image from the registry (debian:$suite-slim)"
  else
    if ! command -v mmdebstrap >/dev/null; then
      echo "no registry can be reached, and mmdebstrap is missing: install it (apt-get install mmdebstrap)" >&2
      exit 1
    fi
    echo "no registry can be reached: making the base image from Debian's mirror"
    mmdebstrap --quiet --variant=minbase --include=ca-certificates "$suite" - | docker import - "$image" >/dev/null
    echo "base image made from Debian's mirror"
  fi
}

build() {
  local suite=$1 recipe log
  log=$(mktemp)
  base "$suite"
  recipe=$(cat Dockerfile webhook.py lab-webhook.service | sha256sum | cut -c1-12)
  for target in bare podman; do
    local image=roverwatch-lab/$suite:$target
    if [ "$(docker image inspect -f '{{index .Config.Labels "roverwatch.recipe"}}' "$image" 2>/dev/null)" = "$recipe" ]; then
      echo "$target: cached"
      continue
    fi
    echo "$target: building"
    if ! docker build --target "$target" --build-arg "BASE_IMAGE=roverwatch-lab/base:$suite" \
      --label "roverwatch.recipe=$recipe" -t "$image" . >"$log" 2>&1; then
      cat "$log"
      exit 1
    fi
    echo "$target: built"
  done
  rm -f "$log"
}

suites=("$@")
[ $# -gt 0 ] || suites=(bookworm trixie)
pids=()
for suite in "${suites[@]}"; do
  build "$suite" 2>&1 | while read -r line; do printf 'image %s: %s (%ss)\n' "$suite" "$line" "$SECONDS"; done &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done
