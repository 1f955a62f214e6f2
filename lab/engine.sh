#!/usr/bin/env bash
# What the lab needs of the machine that it runs on: a Docker engine, and mmdebstrap for where no registry can be
# reached.
#   lab/engine.sh start   uses the engine that answers, if lab/engine.py finds that it can carry the lab; where none
#                         answers and we are root on a Debian-like system, installs and starts one
#   lab/engine.sh stop    stops the engine that `start` started, once no container runs on it
set -euo pipefail
cd "$(dirname "$0")/.."
pid_file=.lab/dockerd.pid
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

we_are_root() { [ "$(id -u)" = 0 ]; }

# Leaves in `status` how lab/engine.py ended, and in `verdict` what it said.
judge() { verdict=$(python3 lab/engine.py) && status=0 || status=$?; }

start() {
  judge
  if [ $status = 3 ] && we_are_root; then
    lab/packages.sh dockerd=docker.io
    lab/packages.sh docker=docker-cli # a package of its own from Debian 13 on
    command -v dockerd >/dev/null && launch
    judge
  fi
  if [ $status != 0 ]; then
    echo "engine: $verdict" >&2
    exit 1
  fi
  echo "engine: $verdict"
  # On other Debian-like systems mmdebstrap comes without the key of Debian's archive.
  if we_are_root; then lab/packages.sh mmdebstrap "$keyring=debian-archive-keyring"; fi
}

launch() {
  echo "engine: none answers, starting one"
  if [ -d /run/systemd/system ]; then
    systemctl start docker
  else
    mkdir -p .lab
    setsid nohup dockerd --pidfile "$PWD/$pid_file" >.lab/dockerd.log 2>&1 </dev/null &
  fi
  for _ in $(seq 60); do
    if docker info >/dev/null 2>&1; then return; fi
    sleep 0.5
  done
  echo "engine: dockerd did not answer within 30 s; its log is .lab/dockerd.log" >&2
  exit 1
}

stop() {
  [ -f "$pid_file" ] || return 0
  if [ -n "$(docker ps -q 2>/dev/null)" ]; then
    echo "engine: left running, it still has containers"
    return
  fi
  pid=$(cat "$pid_file")
  # After a reboot the number may be another process's.
  if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then
    kill "$pid"
    for _ in $(seq 60); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.5
    done
  fi
  rm -f "$pid_file"
  echo "engine: stopped"
}

case "${1:-}" in
  start | stop) "$1" ;;
  *) echo "usage: $0 start|stop" >&2; exit 2 ;;
esac
