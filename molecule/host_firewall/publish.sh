#!/bin/sh
# What a robot's owner might run there: a container in podman and one in docker, each with a published port.
set -eu
image=$(podman image ls --format '{{.Repository}}:{{.Tag}}' | grep -m1 '^localhost/roverwatch/sensor:')
docker image inspect "$image" >/dev/null 2>&1 || podman save "$image" | docker load
podman network exists owner || podman network create --ipv6 owner
docker network inspect owner >/dev/null 2>&1 || docker network create --ipv6 --subnet fd5a:e2::/64 owner
podman run --replace --detach --name published --restart=always --network owner --publish 8080:8000 \
  --env 'SENSOR_LISTEN=[::]:8000' "$image"
docker rm --force published >/dev/null 2>&1 || true
docker run --detach --name published --restart=always --network owner --publish 8081:8000 \
  --env 'SENSOR_LISTEN=[::]:8000' "$image"
systemctl enable --quiet podman-restart
