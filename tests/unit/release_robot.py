"""A robot in a directory for the tests of roverwatch-release: real files, and small programs in systemd's place."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

TOOL = Path(__file__).resolve().parents[2] / "roles" / "release" / "files" / "roverwatch-release"
NFT_TABLE = "table inet roverwatch {\n\tchain input {\n\t}\n}\n"
IMAGE = "localhost/roverwatch/sensor"

# Units are files of properties in $FAKE/units. What starts gets a process in $ROOT/proc, made of its unit file.
SYSTEMCTL = r"""
echo "systemctl $*" >> "$FAKE/calls"
show() {
  for unit; do
    echo "Id=$unit"
    cat "$FAKE/units/${unit%.service}" 2>/dev/null || printf 'ActiveState=inactive\nSubState=dead\nMainPID=0\n'
    echo "NeedDaemonReload=$(cat "$FAKE/stale" 2>/dev/null || echo no)"
    echo
  done
}
end() {
  was=$(sed -n 's/^MainPID=//p' "$FAKE/units/$1" 2>/dev/null)
  [ "${was:-0}" = 0 ] || rm -rf "${ROOT:?}/proc/$was"
  rm -f "$FAKE/units/$1"
}
run() {
  end "$1"
  file=$ROOT/etc/systemd/system/$1.service pid=$(($(cat "$FAKE/pid") + 1))
  echo "$pid" > "$FAKE/pid"
  if [ ! -e "$file" ] || grep -q '^ExecStart=.*/broken' "$file"; then
    printf 'ActiveState=activating\nSubState=auto-restart\nMainPID=0\n' > "$FAKE/units/$1"
    return
  fi
  mkdir -p "$ROOT/proc/$pid"
  { printf 'HOME=/\0'; sed -n 's/^Environment=\(.*\)/\1/p' "$file" | tr '\n' '\0'; } > "$ROOT/proc/$pid/environ"
  ln -s "$(sed -n 's/^ExecStart=\([^ ]*\).*/\1/p' "$file")" "$ROOT/proc/$pid/exe"
  printf 'ActiveState=active\nSubState=running\nMainPID=%s\n' "$pid" > "$FAKE/units/$1"
  if [ "$1" = roverwatch-sensor ]; then
    mkdir -p "$ROOT/run/roverwatch"
    echo cid > "$ROOT/run/roverwatch/roverwatch-sensor.cid"
    image=$(sed 's/.*"image": "\([^"]*\)".*/\1/' "$ROOT/etc/roverwatch/services.d/$1.json")
    echo "cid $pid $(sed -n "s#^$image ##p" "$FAKE/tags")" > "$FAKE/containers"
  fi
}
verb=$1
shift
case "$verb $*" in
"start --no-block roverwatch-release-rollback.service") exit 0 ;;
"start roverwatch-release-rollback.service") [ -e "$FAKE/lost" ] || exec "$FAKE/tool" finish >/dev/null 2>&1 ;;
esac
while case "${1-}" in -*) true ;; *) false ;; esac; do shift; done
case $verb in
show) show "$@" ;;
start | restart) for unit; do run "${unit%.service}"; done ;;
stop | kill)
  for unit; do
    if [ "$verb" = stop ] && grep -qs . "$FAKE/deaf/${unit%.service}"; then
      printf 'ActiveState=deactivating\nSubState=stop-sigterm\nMainPID=1\n' > "$FAKE/units/${unit%.service}"
    else
      end "${unit%.service}"
    fi
  done ;;
esac
exit 0
"""
SYSTEMD_RUN = r"""
echo "systemd-run $*" >> "$FAKE/calls"
[ ! -e "$FAKE/no-timers" ] || { echo "no bus" >&2; exit 1; }
"""
NFT = r"""
echo "nft $*" >> "$FAKE/calls"
case "$*" in
"list tables") echo "table ip nat"; [ ! -e "$FAKE/table" ] || echo "table inet roverwatch" ;;
"-s list table inet roverwatch") cat "$FAKE/table" ;;
"-f -")
  cat > "$FAKE/script"
  tail -n +3 "$FAKE/script" > "$FAKE/table"
  [ -s "$FAKE/table" ] || rm "$FAKE/table" ;;
esac
"""
PODMAN = r"""
echo "podman $*" >> "$FAKE/calls"
case "$1 $2" in
"image ls") sed 's/ / sha256:/' "$FAKE/tags"; echo "docker.io/other:1 sha256:0ther" ;;
"image rm")
  if grep -qs "$3" "$FAKE/in-use"; then echo "image is in use" >&2; exit 2; fi
  grep -v "^$3 " "$FAKE/tags" > "$FAKE/tags.new"; mv "$FAKE/tags.new" "$FAKE/tags" ;;
"tag "*)
  { grep -v "^$3 " "$FAKE/tags"; echo "$3 $2"; } > "$FAKE/tags.new"; mv "$FAKE/tags.new" "$FAKE/tags" ;;
"inspect --format") cat "$FAKE/containers"; echo "no such object" >&2; exit 125 ;;
esac
"""


# That of the machine underneath would wait for all that others write to its disk. The state of that moment is kept.
SYNC = r"""
echo "sync $*" >> "$FAKE/calls"
cp "$ROOT/var/lib/roverwatch/release/state.json" "$FAKE/state-at-sync"
"""


def load() -> ModuleType:
    """The tool as a module; it has no suffix, and leaves no bytecode beside it."""
    loader = SourceFileLoader("roverwatch_release", str(TOOL))
    spec = importlib.util.spec_from_loader("roverwatch_release", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["roverwatch_release"] = module
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


class Robot:
    """Two services, vmagent (a binary) and the sensor (a container), and `Release` to do things to them."""

    def __init__(self, folder: Path, module: ModuleType, ready_url: str) -> None:
        self.module, self.ready_url = module, ready_url
        self.root, self.fake = folder / "root", folder / "fake"
        programs = folder / "bin"
        for made in (self.root, programs, self.fake / "units", self.fake / "deaf"):
            made.mkdir(parents=True)
        texts = {"systemctl": SYSTEMCTL, "systemd-run": SYSTEMD_RUN, "nft": NFT, "podman": PODMAN, "sync": SYNC}
        for name, text in texts.items():
            program = programs / name
            program.write_text(f"#!/bin/sh\nFAKE={self.fake} ROOT={self.root}\n{text}")
            program.chmod(0o755)
        self.path = f"{programs}:{os.environ['PATH']}"
        self.programs = programs
        self._make_tool()
        self.machine = module.Machine(self.root, self.path)
        self.release = module.Release(self.machine)
        (self.fake / "calls").write_text("")
        (self.fake / "pid").write_text("4000000")  # above what a kernel gives out
        self.write("proc/sys/kernel/random/boot_id", "boot-1\n")
        self.write("usr/local/sbin/roverwatch-no-thp", "#!/bin/sh\n", 0o755)
        self.write("usr/local/sbin/roverwatch-release", "the tool itself\n", 0o755)
        self.write("etc/systemd/system/roverwatch-release-boot.service", "[Unit]\n")
        self.write("etc/systemd/system/ssh.service", "[Unit]\n")
        self.write("etc/systemd/system/roverwatch.slice", "[Slice]\n")
        self.write("etc/roverwatch/vmagent/secrets/hub_password", "old-secret", 0o400)
        (self.root / "etc/roverwatch/vmagent/secrets").chmod(0o700)
        self.provision("1.0", "aaaa")
        self.systemctl("restart", "roverwatch-vmagent", "roverwatch-sensor")
        self.calls()

    def _make_tool(self) -> None:
        """The command itself, for this root, as the unit of the rollback runs it."""
        tool = self.fake / "tool"
        tool.write_text(
            f"#!{sys.executable} -B\n"
            "import sys\n"
            f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            "from pathlib import Path\n"
            "import release_robot\n"
            "module = release_robot.load()\n"
            "module.STOP_SECONDS, module.HEALTH_SECONDS = 0.3, 0.6\n"
            f"sys.exit(module.main(module.Machine(Path({str(self.root)!r}), {self.path!r})))\n"
        )
        tool.chmod(0o755)

    # what an update does

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def provision(self, version: str, revision: str, exe: str = "vmagent") -> None:
        """What the roles leave behind for a version of both services."""
        exe = f"/opt/roverwatch/vmagent/{version}/{exe}"
        self.write(exe.lstrip("/"), f"vmagent {version}")
        self.write("etc/roverwatch/vmagent/scrape.yml", f"version: {version}\n")
        self.record("roverwatch-vmagent", {"kind": "binary", "version": version, "exe": exe})
        self.unit("roverwatch-vmagent", f"ExecStart={exe} -flag\nEnvironment=ROVERWATCH_REVISION={revision}")
        image = {"engine": "podman", "image": f"{IMAGE}:{version}", "image_id": f"sha256:id-{version}"}
        cid_file = {"cid_file": "/run/roverwatch/roverwatch-sensor.cid"}
        self.record("roverwatch-sensor", {"kind": "container", "version": version, **image, **cid_file})
        self.unit("roverwatch-sensor", f"ExecStart=/usr/bin/conmon\nEnvironment=ROVERWATCH_REVISION={revision}")
        tags = (self.fake / "tags").read_text() if (self.fake / "tags").exists() else ""
        (self.fake / "tags").write_text(f"{IMAGE}:{version} id-{version}\n{tags}")

    def record(self, unit: str, record: dict[str, Any]) -> None:
        text = json.dumps({"unit": unit, "ready_url": self.ready_url, **record})
        self.write(f"etc/roverwatch/services.d/{unit}.json", text)

    def unit(self, name: str, service: str) -> None:
        self.write(f"etc/systemd/system/{name}.service", f"[Service]\n{service}\n")
        link = self.root / f"etc/systemd/system/multi-user.target.wants/{name}.service"
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(f"/etc/systemd/system/{name}.service")

    def update(self, release: str, version: str, revision: str, exe: str = "vmagent", deadline: int = 600) -> None:
        """Begin a release, and put it on; it is to be confirmed."""
        self.release.begin(release, deadline, "alice")
        self.provision(version, revision, exe)
        self.systemctl("restart", "roverwatch-vmagent", "roverwatch-sensor")

    def released(self, release: str, version: str, revision: str) -> None:
        self.update(release, version, revision)
        self.release.confirm(release)

    # what can be seen

    def systemctl(self, *arguments: str) -> None:
        subprocess.run([self.programs / "systemctl", *arguments], check=True)

    def calls(self) -> list[str]:
        """What was called since this was last asked."""
        file = self.fake / "calls"
        found = file.read_text().splitlines()
        file.write_text("")
        return found

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.release.document(False)
        return found

    def tree(self) -> dict[str, tuple[object, ...]]:
        """Every path below /etc and /usr/local with all that a rollback must bring back."""
        found: dict[str, tuple[object, ...]] = {}
        for top in ("etc", "usr/local"):
            for path in sorted((self.root / top).rglob("*")):
                seen = path.lstat()
                if path.is_symlink():
                    data: object = str(path.readlink())
                else:
                    data = path.read_bytes() if path.is_file() else None
                found[str(path.relative_to(self.root))] = (seen.st_mode, seen.st_uid, seen.st_gid, data)
        return found

    def pid(self, unit: str) -> str:
        return (self.fake / "units" / unit).read_text().split("MainPID=")[1].strip()

    def cut_power(self) -> None:
        """Nothing runs any more, and another boot begins."""
        for found in (self.root / "proc").glob("[0-9]*"):
            shutil.rmtree(found)
        for unit in (self.fake / "units").iterdir():
            unit.unlink()
        self.write("proc/sys/kernel/random/boot_id", "boot-2\n")

    def start_up(self) -> None:
        """The boot guard, then what is enabled, then the rollback's unit, as systemd orders them."""
        self.release.boot()
        wants = self.root / "etc/systemd/system/multi-user.target.wants"
        self.systemctl("start", *(link.name for link in wants.iterdir() if link.suffix == ".service"))
        self.release.finish()


@contextmanager
def answering() -> Iterator[tuple[str, dict[str, int]]]:
    """A URL, and the status that it answers with."""
    answer = {"status": 200}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer["status"])
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/ready", answer
    finally:
        server.shutdown()
        server.server_close()
