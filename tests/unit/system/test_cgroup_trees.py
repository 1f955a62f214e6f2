"""What the tests of real machines, and the robot's own script, read of cgroups: trees of v1, of v2, and of both."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fleet
import pytest

TOP = Path(__file__).resolve().parents[3]
MIB = 1 << 20
V1_NO_LIMIT = 9223372036854771712
UNIT = "roverwatch-vmagent.service"
# On v1 a machine of the lab sees the host's hierarchy, and on v2 its own.
ABOVE = {"v1": "/docker/4f1c", "hybrid": "/docker/4f1c", "v2": ""}


@dataclass
class Machine:
    """A machine's files below a directory; `host.file(…)` of testinfra reads them."""

    root: Path
    version: str

    def __post_init__(self) -> None:
        above = ABOVE[self.version]
        # As the kernel lists them: v1's by number, memory alone or with another; a hybrid machine's v2 has no memory.
        lines = {
            "v1": ["9:cpuset,memory:{}", "4:cpu,cpuacct:{}", "1:name=systemd:{}"],
            "hybrid": ["9:memory:{}", "4:pids:{}", "1:name=systemd:{}", "0::{}"],
            "v2": ["0::{}"],
        }[self.version]
        own = f"{above}/{fleet.SLICE}/{UNIT}"
        for process in ("7", "self"):
            self.write(f"/proc/{process}/cgroup", "\n".join(lines).format(*[own] * len(lines)))
        if self.version == "hybrid":
            self.write(f"/sys/fs/cgroup/unified{own}/cgroup.procs", "7")
        self.write("/proc/sys/kernel/random/boot_id", "one")

    def write(self, path: str, content: object) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")

    def file(self, path: str) -> Any:
        return SimpleNamespace(content_string=(self.root / path.lstrip("/")).read_text())

    def directory(self, below: str, controller: str = "memory") -> str:
        mount = "/sys/fs/cgroup" if self.version == "v2" else f"/sys/fs/cgroup/{controller}"
        return f"{mount}{ABOVE[self.version]}/{fleet.SLICE}{below}"

    def limit(self, below: str, limit: int | None) -> None:
        name, none = ("memory.max", "max") if self.version == "v2" else ("memory.limit_in_bytes", V1_NO_LIMIT)
        self.write(f"{self.directory(below)}/{name}", none if limit is None else limit)

    def kills(self, count: int) -> None:
        name, text = (
            ("memory.events", f"oom 9\noom_kill {count}\noom_group_kill 0")
            if self.version == "v2"
            else ("memory.oom_control", f"oom_kill_disable 0\nunder_oom 0\noom_kill {count}")
        )
        self.write(f"{self.directory(f'/{UNIT}')}/{name}", text)


@pytest.fixture(params=ABOVE)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return Machine(tmp_path, request.param)


def test_a_process_has_its_own_limit_and_that_of_the_slice(machine: Machine) -> None:
    machine.limit("", 300 * MIB)
    machine.limit(f"/{UNIT}", 48 * MIB)
    assert fleet.cgroups(machine, 7) == [
        (machine.directory(f"/{UNIT}"), 48 * MIB),
        (machine.directory(""), 300 * MIB),
    ]


def test_no_limit_is_none(machine: Machine) -> None:
    machine.limit("", 300 * MIB)
    machine.limit(f"/{UNIT}", None)
    assert [limit for _, limit in fleet.cgroups(machine, 7)] == [None, 300 * MIB]


def test_a_process_outside_of_the_slice_is_told(machine: Machine) -> None:
    text = machine.file("/proc/7/cgroup").content_string.strip()
    machine.write("/proc/7/cgroup", text.replace(fleet.SLICE, "system.slice"))
    with pytest.raises(AssertionError, match=f"outside of {fleet.SLICE}"):
        fleet.cgroups(machine, 7)


def figures(machine: Machine, below: str, kills: int) -> None:
    """The kernel's files of a cgroup that took 30 MiB for itself and 20 for files, and 1.5 s of a processor."""
    memory = machine.directory(below)
    if machine.version == "v2":
        machine.write(f"{memory}/memory.current", 50 * MIB)
        machine.write(f"{memory}/memory.peak", 70 * MIB)
        machine.write(f"{memory}/memory.stat", f"anon {30 * MIB}\nfile {20 * MIB}\ninactive_file {5 * MIB}")
        machine.write(f"{memory}/memory.events", f"low 0\noom_kill {kills}")
        machine.write(f"{memory}/cpu.stat", "usage_usec 1500000\nuser_usec 1")
        machine.write(f"{memory}/pids.current", 9)
        return
    stat = f"rss 1\ncache 1\ntotal_rss {30 * MIB}\ntotal_cache {20 * MIB}\ntotal_inactive_file {5 * MIB}"
    machine.write(f"{memory}/memory.usage_in_bytes", 50 * MIB)
    machine.write(f"{memory}/memory.max_usage_in_bytes", 70 * MIB)
    machine.write(f"{memory}/memory.stat", stat)
    machine.write(f"{memory}/memory.oom_control", f"oom_kill_disable 0\noom_kill {kills}")
    machine.write(f"{machine.directory(below, 'cpuacct')}/cpuacct.usage", 1_500_000_000)
    machine.write(f"{machine.directory(below, 'pids')}/pids.current", 9)


def test_the_kernels_figures_are_read_alike(machine: Machine) -> None:
    """By what runs on a robot beside the sensor service, to compare; crun kills in a child of the scope."""
    figures(machine, "/libpod-1.scope", kills=0)
    figures(machine, "/libpod-1.scope/container", kills=2)
    functions: dict[str, Any] = {}
    exec(fleet.WATCH.partition("\nstart, readings")[0], functions)
    assert functions["read"](str(machine.root) + machine.directory("/libpod-1.scope")) == {
        "container_memory_usage_bytes": 50 * MIB,
        "container_memory_working_set_bytes": 45 * MIB,
        "container_memory_rss": 30 * MIB,
        "container_memory_cache": 20 * MIB,
        "container_memory_max_usage_bytes": 70 * MIB,
        "container_oom_events_total": 2,
        "container_cpu_usage_seconds_total": 1.5,
        "container_threads": 9,
    }


def stopped(machine: Machine, *arguments: str) -> int | None:
    """The unit has stopped: roverwatch-oom-count runs on this machine's files. Returns the kills that it keeps."""
    script = (TOP / "roles/base/files/oom-count").read_text()
    for path in ("/proc/", "/sys/fs/cgroup", "/var/lib/roverwatch"):
        assert path in script
        script = script.replace(path, f"{machine.root}{path}")
    env = {**os.environ, "PATH": f"{machine.root}/bin:{os.environ['PATH']}"}
    subprocess.run(["sh", "-s", UNIT, *arguments], input=script, env=env, check=True, text=True, timeout=20)
    kept = machine.root / "var/lib/roverwatch/textfile/roverwatch-vmagent.oom.prom"
    if not kept.exists():
        return None
    return int(kept.read_text().splitlines()[-1].removeprefix('container_oom_events_total{name="roverwatch-vmagent"} '))


def test_a_stopped_unit_without_kills_leaves_nothing(machine: Machine) -> None:
    machine.kills(0)
    assert stopped(machine) is None


def test_kills_are_kept_from_one_cgroup_to_the_next(machine: Machine) -> None:
    machine.kills(2)
    assert stopped(machine) == 2
    # systemd kept the cgroup: what it has counted before is not counted again.
    machine.kills(3)
    assert stopped(machine) == 3
    # A new one of the same name counts from the start.
    directory = machine.root / machine.directory(f"/{UNIT}").lstrip("/")
    directory.rename(directory.with_name("old"))
    machine.kills(3)
    assert stopped(machine) == 6
    # After a reboot the same inode says nothing.
    machine.write("/proc/sys/kernel/random/boot_id", "two")
    assert stopped(machine) == 9


def test_kills_of_a_container_are_those_that_the_kernels_log_has(machine: Machine) -> None:
    """Its cgroup is gone by then. On v1 and v2 the log names it alike."""
    for name, text in (
        ("podman", 'case "$*" in *Id*) echo 4f1c77;; *) echo true;; esac'),
        ("dmesg", 'echo "[1] oom-kill:constraint=X,task_memcg=/roverwatch.slice/libpod-4f1c77.scope/container,task=a"'),
    ):
        machine.write(f"/bin/{name}", f"#!/bin/sh\n{text}")
        (machine.root / "bin" / name).chmod(0o755)
    assert stopped(machine, "podman", "roverwatch-sensor") == 1
    assert stopped(machine, "podman", "roverwatch-sensor") == 2
