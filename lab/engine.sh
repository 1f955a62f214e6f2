#!/usr/bin/env bash
# What the lab needs of the machine that it runs on: a Docker engine, and mmdebstrap for where no registry can be
# reached.
#   lab/engine.sh start   uses the engine that answers; where none does and we are root on a Debian-like
#                         system, installs and starts one; otherwise says what is missing
#   lab/engine.sh stop    stops the engine that `start` started, once no container runs on it
set -euo pipefail
cd "$(dirname "$0")/.."
pid_file=.lab/dockerd.pid

answers() { docker info >/dev/null 2>&1; }

we_are_root() { [ "$(id -u)" = 0 ]; }

start() {
  if we_are_root; then
    local programs=(mmdebstrap)
    answers || programs+=(dockerd=docker.io)
    lab/packages.sh "${programs[@]}"
  fi
  if answers; then
    echo "engine: using the Docker engine that runs here ($(docker info --format '{{.ServerVersion}}, cgroup v{{.CgroupVersion}}'))"
    return
  fi
  if ! we_are_root || ! command -v dockerd >/dev/null; then
    cat >&2 <<TEXT
engine: no Docker engine answers for $(id -un).
  It is installed but stopped:   sudo systemctl start docker
  You may not use it:            sudo usermod -aG docker $(id -un), then log in again
  It is not installed:           https://docs.docker.com/engine/install/ (on Debian: sudo apt-get install docker.io)
TEXT
    exit 1
  fi
  if [ -d /run/systemd/system ]; then
    systemctl start docker
  elif ! answers; then
    mkdir -p .lab
    setsid nohup dockerd --pidfile "$PWD/$pid_file" >.lab/dockerd.log 2>&1 </dev/null &
  fi
  for _ in $(seq 60); do
    if answers; then
      echo "engine: started ($(docker info --format '{{.ServerVersion}}, cgroup v{{.CgroupVersion}}'))"
      return
    fi
    sleep 0.5
  done
  echo "engine: dockerd did not answer within 30 s; its log is .lab/dockerd.log" >&2
  exit 1
}

stop() {
  [ -f "$pid_file" ] || return 0
  if answers && [ -n "$(docker ps -q)" ]; then
    echo "engine: left running, it still has containers"
    return
  fi
  pid=$(cat "$pid_file")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 60); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.5
  done
  rm -f "$pid_file"
  echo "engine: stopped"
}

case "${1:-}" in
  start | stop) "$1" ;;
  *) echo "usage: $0 start|stop" >&2; exit 2 ;;
esac
