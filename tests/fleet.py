"""What the tests ask of real machines: playbooks run against them, units, the kernel's files, the hub."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
INVENTORY = ROOT / "inventory" / "lab.docker.yml"
SLICE = "roverwatch.slice"

# Unit, its cap in bytes, its port.
CAPS = {
    "roverwatch-sensor": 80 << 20,
    "roverwatch-node-exporter": 32 << 20,
    "roverwatch-vmagent": 48 << 20,
    "roverwatch-victoriametrics": 128 << 20,
}
BUDGET = 300 << 20
READY = ("8000/readyz", "8428/health", "8429/health", "9100/metrics")

# `make soak` cuts the power ten times.
POWER_CUTS = 10 if os.environ.get("ROVERWATCH_SOAK") else 1


@dataclass(frozen=True)
class Run:
    """A finished ansible-playbook."""

    rc: int
    output: str
    # By host: ok, changed, failed, unreachable…
    recap: dict[str, dict[str, int]]

    def changed(self) -> dict[str, int]:
        return {host: counts["changed"] for host, counts in self.recap.items() if counts["changed"]}


def playbook(name: str, *args: str, inventory: Path = INVENTORY) -> Run:
    done = subprocess.run(
        ["ansible-playbook", "-i", str(inventory), f"playbooks/{name}", *args],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    recap = {
        host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", counts)}
        for host, counts in re.findall(r"^(\S+) +: (ok=\d+ .*)$", output, re.MULTILINE)
    }
    return Run(done.returncode, output, recap)


def eventually(check: Callable[[], Any], seconds: float, every: float = 0.5) -> Any:
    """Call until the answer is true or the time is up; returns the last answer, which the test asserts."""
    deadline = time.monotonic() + seconds
    while True:
        answer = check()
        if answer or time.monotonic() > deadline:
            return answer
        time.sleep(every)


def show(host: Any, unit: str, *properties: str) -> dict[str, str]:
    out = host.check_output(f"systemctl show {unit} --property={','.join(properties)}")
    return dict(line.split("=", 1) for line in out.splitlines())


def main_pids(host: Any) -> dict[str, int]:
    return {unit: int(show(host, unit, "MainPID")["MainPID"]) for unit in CAPS}


def worker_pid(host: Any, unit: str) -> int:
    """The process that does a service's work: of a container, the one inside."""
    service = json.loads(host.file(f"/etc/roverwatch/services.d/{unit}.json").content_string)
    if service["kind"] == "binary":
        return int(show(host, unit, "MainPID")["MainPID"])
    cid = host.file(service["cid_file"]).content_string.strip()
    return int(host.check_output(f"{service['engine']} inspect --format '{{{{.State.Pid}}}}' {cid}"))


def cgroups(host: Any, pid: int) -> list[tuple[str, int | None]]:
    """A process's memory cgroup and all above it up to the slice, with the limit of each in bytes."""
    lines = host.file(f"/proc/{pid}/cgroup").content_string.splitlines()
    v1 = [line.split(":", 2)[2] for line in lines if "memory" in line.split(":")[1].split(",")]
    mount, limit = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes") if v1 else ("/sys/fs/cgroup", "memory.max")
    path = v1[0] if v1 else next(line.split(":", 2)[2] for line in lines if line.startswith("0::"))
    assert SLICE in path, f"process {pid} is in {path}, outside of {SLICE}"
    found = []
    while path:
        text = host.file(f"{mount}{path}/{limit}").content_string.strip()
        found.append((f"{mount}{path}", None if text == "max" or int(text) > 1 << 60 else int(text)))
        if path.endswith(SLICE):
            break
        path = path.rsplit("/", 1)[0]
    return found


HOG = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
hoard = [bytearray(1 << 20) for _ in range(400)]
print("survived")
"""


def overrun(host: Any, unit: str) -> None:
    """Take more memory in a service's cgroup than its cap: the kernel kills the service's process, and the taker."""
    pid = worker_pid(host, unit)
    (cgroup, _), *_ = cgroups(host, pid)
    # The service's own process first, as if it had leaked.
    host.check_output(f"echo 1000 > /proc/{pid}/oom_score_adj")
    hog = host.run("python3 -c %s %s", HOG, cgroup)
    # Killed by the kernel; or, on cgroup v2, stopped by systemd, which sees the kill and ends the whole unit.
    assert hog.rc in (137, 143), hog
    assert "survived" not in hog.stdout


def python(where: Any, code: str) -> str:
    """Run Python on a machine: a testinfra host, or a container's name where SSH's port has changed meanwhile."""
    if isinstance(where, str):
        return docker("exec", where, "python3", "-c", code)
    output: str = where.check_output("python3 -c %s", code)
    return output


def query(where: Any, promql: str) -> dict[str, float]:
    """An instant query at a machine's own VictoriaMetrics, as a mapping of the label `robot` to the value."""
    url = f"http://127.0.0.1:8428/api/v1/query?query={urllib.parse.quote(promql)}"
    answer = json.loads(
        python(where, f"import urllib.request as u; print(u.urlopen({url!r}, timeout=9).read().decode())")
    )
    return {row["metric"].get("robot", ""): float(row["value"][1]) for row in answer["data"]["result"]}


def answers(where: Any, *addresses: str) -> bool:
    """Whether each of these answers 2xx on the machine's localhost: `8000/readyz`."""
    code = f"import urllib.request as u; [u.urlopen('http://127.0.0.1:' + a, timeout=2) for a in {addresses}]"
    try:
        python(where, code)
    except (AssertionError, subprocess.CalledProcessError):
        return False
    return True


def container_of(host: Any) -> str:
    """The Docker container that a machine of the lab is."""
    lab = os.environ.get("ROVERWATCH_LAB", "demo")
    name = host.backend.get_hostname()
    return f"roverwatch{'' if lab == 'demo' else '-' + lab}-{name}"


def docker(*args: str) -> str:
    return subprocess.run(["docker", *args], check=True, capture_output=True, text=True).stdout.strip()
