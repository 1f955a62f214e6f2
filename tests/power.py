"""Power cuts: copies of a machine's disk while something is done to it, and the machine started from one of them.

with power.Camera("robot-1", moments=5, seed=1) as camera:
    camera.run("site.yml")
for moment in camera.moments:
    power.start_from("robot-1", moment.copy)
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import fleet
from fleet import ROOT, container, docker

from lab.disks import Disk

DISKS = fleet.STATE / "disks"
MODULES = ROOT / "plugins/module_utils/roverwatch"
EVERY_SECONDS = 1.0
START_SECONDS = 90.0


def disk(host: str) -> Disk:
    return Disk(DISKS, host)


@dataclass
class Moment:
    """What was on a machine's disk at a moment of a run."""

    host: str
    copy: Path
    # Since the run began, and how long it took.
    seconds: float
    of: float = 0.0
    # The tasks that had ended on this machine by then, as Ansible had said: what they made has to be there.
    ended: list[str] = field(default_factory=list)
    last: bool = False

    def __str__(self) -> str:
        return f"{self.host} {self.seconds:.1f} s of {self.of:.1f} s"


class Camera:
    """Takes copies of some machines' disks while a playbook runs, and one of each when it has ended.

    Which of the copies stay is drawn with a seed, each moment of the run as likely as the others (reservoir sampling,
    algorithm R of Vitter 1985).
    """

    def __init__(self, name: str, hosts: Sequence[str], moments: int, seed: int, during: str = "") -> None:
        """`during` is the name of a task: copies are taken while it runs, instead of all the time."""
        self.name, self.hosts, self.count, self.during = name, hosts, moments, during
        # A task may take no longer than a second.
        self.every = EVERY_SECONDS / 5 if during else EVERY_SECONDS
        self.random = random.Random(f"{name} {seed}")
        self.moments: dict[str, list[Moment]] = {host: [] for host in hosts}
        self._task = ""
        self._ended: list[tuple[float, str, str]] = []

    def watch(self, playbook: str, *args: str) -> fleet.Run:
        """Run a playbook; the copies are in `moments` when it has ended, the last of each machine from its end."""
        began = time.monotonic()
        command = ["ansible-playbook", "-i", str(fleet.INVENTORY), f"playbooks/{playbook}", *args]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"}
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            lines: list[str] = []
            reader = threading.Thread(target=self._read, args=(process, began, lines))
            reader.start()
            taken = 0
            while process.poll() is None:
                time.sleep(self.every * (0.5 + self.random.random()))
                if self.during not in self._task:
                    continue
                slot = taken if taken < self.count else self.random.randrange(taken + 1)
                if slot < self.count:
                    for host in self.hosts:
                        self._take(host, slot, began)
                taken += 1
            for host in self.hosts:
                self._take(host, self.count, began)
                self.moments[host][-1].last = True
            reader.join()
        took = time.monotonic() - began
        for moment in (one for of_host in self.moments.values() for one in of_host):
            moment.of = took
            moment.ended = [task for at, host, task in self._ended if host == moment.host and at < moment.seconds]
        assert self._ended, "Ansible says nothing of any task"
        return fleet.Run(process.returncode, "".join(lines), {})

    def _take(self, host: str, slot: int, began: float) -> None:
        at = time.monotonic() - began
        copy = disk(host).copy(f"{self.name}-{host}-{slot}")
        moment = Moment(host, copy, at)
        if slot < len(self.moments[host]):
            self.moments[host][slot] = moment
        else:
            self.moments[host].append(moment)

    def _read(self, process: subprocess.Popen[str], began: float, lines: list[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            named = re.match(r"TASK \[(.*)\] \*", line)
            ended = re.match(r"(?:ok|changed): \[([^\] ]+)", line)
            if named:
                self._task = named[1]
            elif ended:
                self._ended.append((time.monotonic() - began, ended[1], self._task))


def start_from(host: str, copy: Path) -> str:
    """Switch a machine off, and on again with what a copy has on its disk; what the file system's check said."""
    subprocess.run(["docker", "kill", container(host)], capture_output=True, check=False)
    docker("wait", container(host))
    said: str = disk(host).replace(copy)
    docker("start", container(host))
    # Machines as containers have the boot of the one underneath; a machine that starts anew has another.
    boot = f"{random.randbytes(4).hex()}-0000-4000-8000-{random.randbytes(6).hex()}"
    script = f"echo {boot} > /run/boot_id && mount --bind /run/boot_id /proc/sys/kernel/random/boot_id"
    docker("exec", container(host), "sh", "-c", script)
    assert fleet.eventually(lambda: _is_up(host), START_SECONDS), f"{host} does not start"
    return said


def _is_up(host: str) -> bool:
    done = subprocess.run(
        ["docker", "exec", container(host), "systemctl", "is-system-running"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() in ("running", "degraded")


def keep(host: str, name: str) -> Path:
    """A copy of a machine's disk with everything on it: the machine is shut down for it, and started again."""
    docker("stop", "--time", "60", container(host))
    disk(host).unmount()
    kept: Path = disk(host).copy(f"{name}-{host}")
    disk(host).mount()
    docker("start", container(host))
    assert fleet.eventually(lambda: _is_up(host), START_SECONDS), f"{host} does not start"
    return kept


# Runs on a machine, beside the collection's modules: reads whatever is written down as whole.
RECORDS = """
import json, sys
sys.path.insert(0, "/root/check")
from roverwatch.artifact import engine, installed
found = {}
for path in sorted(installed.ROOT.glob("*/*/" + installed.RECORD)):
    try:
        record = json.loads(path.read_text())
        entry = {"name": path.parent.parent.name, "version": path.parent.name, "sha256": record["sha256"]}
        if "engine" in record:
            entry["reference"] = installed.IMAGE_PREFIX + entry["name"] + ":" + entry["version"]
        installed._read({**entry, "kind": "image" if "engine" in record else "binary"}, record.get("engine"))
        found[str(path)] = ""
    except Exception as error:
        found[str(path)] = "{}: {}".format(type(error).__name__, error)
print(json.dumps(found))
"""


def untrue_records(host: str) -> dict[str, str]:
    """What a machine has written down as whole, and is not."""
    docker("exec", container(host), "mkdir", "-p", "/root/check")
    docker("cp", str(MODULES), f"{container(host)}:/root/check/")
    found: dict[str, str] = json.loads(docker("exec", container(host), "python3", "-c", RECORDS))
    return {path: why for path, why in found.items() if why}


# Runs beside a disk that no machine uses: what of a service is not there.
SERVICE = """
import json, sys
from pathlib import Path
disk, missing = Path("/disk"), []
for unit in sys.argv[1:]:
    folder = disk / "etc/systemd/system"
    for path in (folder / f"{unit}.service", disk / f"etc/roverwatch/services.d/{unit}.json",
                 disk / f"etc/roverwatch/scrape.d/{unit}.yml"):
        if not path.is_file() or not path.stat().st_size:
            missing.append(f"{path} is {'empty' if path.is_file() else 'not there'}")
    if not (folder / f"multi-user.target.wants/{unit}.service").is_symlink():
        missing.append(f"{unit} is not enabled")
    if path.is_file() and path.stat().st_size:
        record = json.loads((disk / f"etc/roverwatch/services.d/{unit}.json").read_text())
        if record["kind"] == "container":
            name, _, version = record["image"].rpartition("/")[2].partition(":")
        else:
            name, version = record["exe"].split("/")[3:5]
        whole = disk / "opt/roverwatch" / name / version / "installed.json"
        if not whole.is_file() or not whole.stat().st_size:
            missing.append(f"{whole} is not there")
print(json.dumps(missing))
"""
UNITS = {
    "sensor_service": "roverwatch-sensor",
    "node_exporter": "roverwatch-node-exporter",
    "victoriametrics": "roverwatch-victoriametrics",
    "vmagent": "roverwatch-vmagent",
    "vmauth": "roverwatch-vmauth",
    "vmalert": "roverwatch-vmalert",
    "alertmanager": "roverwatch-alertmanager",
}


def missing(moment: Moment, image: str = "roverwatch-lab/bookworm:bare") -> list[str]:
    """What Ansible had said of services by that moment, and the disk has not. The machine's disk is that copy."""
    roles = {task.split(" : ")[0] for task in moment.ended if " : Run " in task}
    units = [unit for role, unit in UNITS.items() if role in roles]
    bind = f"{disk(moment.host).mount_point}:/disk:ro"
    found: list[str] = json.loads(docker("run", "--rm", "--volume", bind, image, "python3", "-c", SERVICE, *units))
    return found
